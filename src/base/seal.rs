//! Sealed tokens: what stands in return paths, links and trace headers. A token names one planned copy and cannot be
//! guessed or altered. Nothing here reads or writes files.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use data_encoding::{BASE32_NOPAD, HEXLOWER};

use crate::base::EnvelopeId;

/// What a token is good for. A token minted for one purpose never opens for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The return path of a copy.
    Bounce,
    /// The unsubscribe link and address.
    Unsubscribe,
    /// A tracked link.
    Click,
    /// The open pixel.
    Open,
    /// The trace header that complaints carry back.
    Feedback,
    /// The copy shown in a browser.
    View,
    /// The confirmation of a subscription.
    Confirm,
    /// The Message-ID.
    Message,
}

impl Purpose {
    fn label(self) -> u8 {
        match self {
            Purpose::Bounce => b'b',
            Purpose::Unsubscribe => b'u',
            Purpose::Click => b'c',
            Purpose::Open => b'o',
            Purpose::Feedback => b'f',
            Purpose::View => b'v',
            Purpose::Confirm => b's',
            Purpose::Message => b'm',
        }
    }
}

/// Why a text is not a set of seal keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A line that is not a key.
    #[error("line {0} is not a seal key: it needs a name of one letter, a blank and 64 hexadecimal digits")]
    Line(usize),
    /// Two keys of one name.
    #[error("line {0} names a seal key that a line above already names")]
    Twice(usize),
    /// No key at all.
    #[error("there is no seal key")]
    Empty,
}

/// One secret of 256 bits and the letter that names it inside tokens.
#[derive(Clone)]
pub struct SealKey {
    name: u8,
    secret: hmac::Key,
}

impl SealKey {
    /// A key named by a letter `a` to `z`; `None` for any other name.
    pub fn new(name: char, secret: &[u8; 32]) -> Option<SealKey> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        name.is_ascii_lowercase().then(|| SealKey { name: name as u8, secret })
    }

    fn trace(&self, address: &str) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.secret);
        mac.update(b"mailshot erased 1");
        mac.update(address.to_lowercase().as_bytes());
        *mac.sign().as_ref().first_chunk().expect("SHA-256 yields 32 bytes")
    }

    fn tag(&self, purpose: Purpose, body: &[u8]) -> [u8; TAG] {
        let mut mac = hmac::Context::with_key(&self.secret);
        mac.update(b"mailshot seal 1");
        mac.update(&[purpose.label(), self.name]);
        mac.update(body);
        *mac.sign().as_ref().first_chunk().expect("SHA-256 yields 32 bytes")
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", char::from(self.name))
    }
}

/// Bytes of a token that name the copy: envelope id and extra.
const BODY: usize = 10;
/// Bytes of a token that prove it: 80 bits (H-11).
const TAG: usize = 10;
/// Characters of a token: the key's name and 20 bytes in base32.
const LENGTH: usize = 1 + (BODY + TAG) * 8 / 5;

/// A sealed token: 33 characters `a`–`z` and `2`–`7`, fit for a local part, a URL and a header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; LENGTH]);

impl Token {
    /// The token as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base32 is ASCII")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Mints and opens tokens. The first key mints, all keys open, so that a new key can be put before an old one.
#[derive(Debug, Clone)]
pub struct Seal {
    keys: Vec<SealKey>,
}

impl Seal {
    /// A seal with these keys, the one that mints first; `None` without any.
    pub fn new(keys: Vec<SealKey>) -> Option<Seal> {
        (!keys.is_empty()).then_some(Seal { keys })
    }

    /// Reads keys as [`SealKey`] lines: a name, a blank, 64 hexadecimal digits. Empty lines and lines starting with `#`
    /// are skipped.
    pub fn parse(text: &str) -> Result<Seal, SealError> {
        let mut keys: Vec<SealKey> = Vec::new();
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let key = parse_key(line).ok_or(SealError::Line(number))?;
            if keys.iter().any(|known| known.name == key.name) {
                return Err(SealError::Twice(number));
            }
            keys.push(key);
        }
        Seal::new(keys).ok_or(SealError::Empty)
    }

    /// The text of a new key file, its one key fresh from the system's random source.
    pub fn fresh_key_file() -> Result<String, aws_lc_rs::error::Unspecified> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret)?;
        Ok(format!(
            "# The keys that seal return paths and unsubscribe links. Whoever has them can unsubscribe anybody.\n\
             # The first one mints, all of them open: put a new one (another letter) on top, keep the old ones.\n\
             a {}\n",
            HEXLOWER.encode(&secret)
        ))
    }

    /// What is left of an erased address: a hash under the key that mints, from which nobody without the key can tell the
    /// address. Case does not matter.
    pub fn trace(&self, address: &str) -> [u8; 32] {
        self.keys[0].trace(address)
    }

    /// The hashes that an address may have left, under every key there is.
    pub fn traces(&self, address: &str) -> impl Iterator<Item = [u8; 32]> {
        self.keys.iter().map(move |key| key.trace(address))
    }

    /// A token for one copy. `extra` is for the caller: the number of a link, or 0.
    pub fn mint(&self, id: EnvelopeId, purpose: Purpose, extra: u16) -> Token {
        let key = &self.keys[0];
        let mut bytes = [0; BODY + TAG];
        bytes[..8].copy_from_slice(&id.to_u64().to_be_bytes());
        bytes[8..BODY].copy_from_slice(&extra.to_be_bytes());
        let tag = key.tag(purpose, &bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&tag);
        let mut text = [key.name; LENGTH];
        BASE32_NOPAD.encode_mut(&bytes, &mut text[1..]);
        text.make_ascii_lowercase();
        Token(text)
    }

    /// The copy and the extra number a token was minted for, when it is ours and of this purpose. Case is folded, because
    /// relays change it.
    pub fn open(&self, text: &str, purpose: Purpose) -> Option<(EnvelopeId, u16)> {
        let mut text: [u8; LENGTH] = text.as_bytes().try_into().ok()?;
        text.make_ascii_uppercase();
        let key = self.keys.iter().find(|key| key.name.to_ascii_uppercase() == text[0])?;
        let mut bytes = [0; BODY + TAG];
        BASE32_NOPAD.decode_mut(&text[1..], &mut bytes).ok()?;
        let (body, tag) = bytes.split_at(BODY);
        constant_time::verify_slices_are_equal(&key.tag(purpose, body), tag).ok()?;
        let (id, extra) = body.split_at(8);
        let id = u64::from_be_bytes(id.try_into().expect("split at 8"));
        Some((EnvelopeId::from_u64(id), u16::from_be_bytes(extra.try_into().expect("two are left"))))
    }
}

fn parse_key(line: &str) -> Option<SealKey> {
    let (name, secret) = line.split_once(' ')?;
    let secret: [u8; 32] = HEXLOWER.decode(secret.trim().as_bytes()).ok()?.try_into().ok()?;
    let mut name = name.chars();
    let key = SealKey::new(name.next()?, &secret)?;
    name.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(names: &str) -> Seal {
        let key = |name: char| SealKey::new(name, &[name as u8; 32]).unwrap();
        Seal::new(names.chars().map(key).collect()).unwrap()
    }

    #[test]
    fn a_token_opens_to_what_was_sealed_whatever_its_case() {
        let seal = seal("a");
        for id in [0, 1, u64::MAX, 7 << 32 | 42].map(EnvelopeId::from_u64) {
            let token = seal.mint(id, Purpose::Bounce, 513);
            assert!(token.as_str().len() == 33 && token.as_str().bytes().all(|b| b.is_ascii_alphanumeric()));
            assert_eq!(seal.open(token.as_str(), Purpose::Bounce), Some((id, 513)));
            assert_eq!(seal.open(&token.as_str().to_uppercase(), Purpose::Bounce), Some((id, 513)));
        }
    }

    #[test]
    fn an_erased_address_is_recognised_whatever_its_case_and_after_a_change_of_keys() {
        let trace = seal("a").trace("Ada@example.org");
        assert!(seal("ba").traces("ADA@example.org").any(|other| other == trace));
        assert!(seal("ba").traces("bob@example.org").all(|other| other != trace));
        assert_ne!(seal("ba").trace("ada@example.org"), trace);
    }

    #[test]
    fn no_other_purpose_key_or_letter_opens_it() {
        let ours = seal("a");
        let token = ours.mint(EnvelopeId::from_u64(42), Purpose::Unsubscribe, 0);
        assert_eq!(ours.open(token.as_str(), Purpose::Bounce), None);
        assert_eq!(seal("b").open(token.as_str(), Purpose::Unsubscribe), None);
        for at in 0..LENGTH {
            let mut forged = token.0;
            forged[at] = if forged[at] == b'c' { b'd' } else { b'c' };
            assert_eq!(ours.open(std::str::from_utf8(&forged).unwrap(), Purpose::Unsubscribe), None, "letter {at}");
        }
        for text in ["", "a", "ä", &"a".repeat(33), &"é".repeat(17), &"a".repeat(9999)] {
            assert_eq!(ours.open(text, Purpose::Unsubscribe), None);
        }
    }

    #[test]
    fn of_a_million_forged_tokens_none_is_taken() {
        const PURPOSES: [Purpose; 8] = [
            Purpose::Bounce,
            Purpose::Unsubscribe,
            Purpose::Click,
            Purpose::Open,
            Purpose::Feedback,
            Purpose::View,
            Purpose::Confirm,
            Purpose::Message,
        ];
        let seal = seal("ab");
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = || {
            // xorshift64: all it has to do is to wander
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..500_000_u64 {
            let purpose = PURPOSES[(round % 8) as usize];
            let mut made = [b'a'; LENGTH];
            made[1..]
                .iter_mut()
                .for_each(|letter| *letter = b"abcdefghijklmnopqrstuvwxyz234567"[(random() % 32) as usize]);
            assert_eq!(seal.open(std::str::from_utf8(&made).unwrap(), purpose), None);

            let token = seal.mint(EnvelopeId::from_u64(random()), purpose, round as u16);
            let mut bytes = BASE32_NOPAD.decode(token.as_str()[1..].to_uppercase().as_bytes()).unwrap();
            let bit = (random() % 160) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = format!("a{}", BASE32_NOPAD.encode(&bytes));
            assert_eq!(seal.open(&flipped, purpose), None, "bit {bit}");
        }
    }

    #[test]
    fn an_old_key_still_opens_what_it_minted() {
        let old = seal("a").mint(EnvelopeId::from_u64(9), Purpose::Bounce, 0);
        assert!(seal("ba").open(old.as_str(), Purpose::Bounce).is_some());
        assert!(seal("ba").mint(EnvelopeId::from_u64(9), Purpose::Bounce, 0).as_str().starts_with('b'));
    }

    #[test]
    fn key_files_are_read_as_written_and_refused_when_broken() {
        let fresh = Seal::fresh_key_file().unwrap();
        assert!(Seal::parse(&fresh).is_ok());
        assert_ne!(fresh, Seal::fresh_key_file().unwrap());
        let line = fresh.lines().last().unwrap();
        assert_eq!(Seal::parse(&format!("{line}\n{line}")).unwrap_err(), SealError::Twice(2));
        assert_eq!(Seal::parse("# nothing\n").unwrap_err(), SealError::Empty);
        for bad in ["a", "a 00", "ab 00", "1 00", &line.replace("a ", "A ")] {
            assert_eq!(Seal::parse(bad).unwrap_err(), SealError::Line(1), "{bad}");
        }
    }
}
