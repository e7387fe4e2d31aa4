//! Mail addresses and domains: parsed once, valid ever after.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::base::is_unseen;

/// Longest local part, in octets (RFC 5321 §4.5.3.1.1).
const LOCAL_MAX: usize = 64;
/// Longest address, in octets: a path of 256 without its angle brackets (RFC 5321 §4.5.3.1.3).
const ADDRESS_MAX: usize = 254;
/// Longest domain name that DNS can ask for, in octets (RFC 1035 §2.3.4).
const DOMAIN_MAX: usize = 253;
/// Longest label, in octets (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// A text longer than this is no address and no domain; what is said about it is cut there. In octets.
const TEXT_MAX: usize = 1000;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`, or nothing before or after it.
    #[error("`{0}` is not a mail address: it needs a name, an @ and a domain")]
    Shape(String),
    /// The part before the `@` holds what may not stand there, or stands in the wrong place.
    #[error("`{0}` cannot stand before the @ of a mail address")]
    Local(String),
    /// The domain part cannot be a host name.
    #[error("`{0}` is not a domain name")]
    Domain(String),
    /// The brackets hold no IP address.
    #[error("`{0}` is not an IP address in brackets")]
    Literal(String),
    /// Longer than any mail host must accept.
    #[error("`{0}` is too long: a mail address has at most 64 octets before the @ and 254 in all")]
    Length(String),
}

/// A domain name in its A-label form: lower case, no final dot, at most 253 octets (RFC 5890 §2.3.2.1). As part of an
/// [`Address`] it may be an address literal (RFC 5321 §4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a host name, or an address literal as the queue keeps it; U-labels become A-labels, and one final dot is
    /// dropped.
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        if let Some(rest) = text.strip_prefix('[') {
            return literal(rest).map(Domain::of).ok_or_else(|| AddressError::Literal(text.to_owned()));
        }
        domain_name(text.strip_suffix('.').unwrap_or(text)).map(Domain::of)
    }

    fn of(name: Cow<'_, str>) -> Domain {
        Domain(name.into())
    }

    /// The name as it goes into DNS queries and SMTP commands.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nobody can own it: names set aside for tests and documentation (RFC 2606 §2 and §3, RFC 6761 §6).
    pub fn is_reserved(&self) -> bool {
        let tail = |count: usize| {
            let start = self.0.rmatch_indices('.').nth(count - 1).map_or(0, |(at, _)| at + 1);
            &self.0[start..]
        };
        matches!(tail(1), "test" | "example" | "invalid" | "localhost")
            || matches!(tail(2), "example.com" | "example.net" | "example.org")
    }

    /// The part that somebody registered, as the public suffix list tells; `None` for a public suffix. The list is code, 600 KB
    /// of it: whoever asked the library itself would get a copy of its own.
    #[inline(never)]
    pub fn registrable(&self) -> Option<&str> {
        psl::domain_str(&self.0)
    }

    /// The host itself where an address names it by its IP address in brackets: there is nothing to look up.
    pub fn literal(&self) -> Option<IpAddr> {
        literal_ip(self.0.strip_prefix('[')?.strip_suffix(']')?)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail address that may stand in RCPT TO (RFC 5321 §4.1.2), its domain in A-label form. The local part keeps its case,
/// is in Unicode's composed form (RFC 6532 §3.1), and is quoted only where it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    local: Box<str>,
    domain: Domain,
}

impl Address {
    /// Parses an address without display name, comments or angle brackets.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        if text.len() > TEXT_MAX {
            return Err(AddressError::Length(shown(text)));
        }
        let at = text.rfind('@').ok_or_else(|| AddressError::Shape(text.to_owned()))?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Shape(text.to_owned()));
        }
        let local = local_part(local)?;
        let domain = match domain.strip_prefix('[') {
            Some(rest) => literal(rest).ok_or_else(|| AddressError::Literal(domain.to_owned()))?,
            None => mail_domain(domain)?,
        };
        // what was written counts as well: some hosts see the U-labels
        let octets = at.max(local.len()) + 1 + domain.len().max(text.len() - at - 1);
        if at > LOCAL_MAX || local.len() > LOCAL_MAX || octets > ADDRESS_MAX {
            return Err(AddressError::Length(text.to_owned()));
        }
        Ok(Address { local: local.into(), domain: Domain::of(domain) })
    }

    /// The part before the `@`, case kept.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Appends it to `text`.
    pub fn write_to(&self, text: &mut String) {
        text.push_str(&self.local);
        text.push('@');
        text.push_str(self.domain.as_str());
    }

    /// Whether the local part can only be written in quotes (RFC 5321 §4.1.2): rare, and more often a slip than meant.
    pub fn is_quoted(&self) -> bool {
        self.local.starts_with('"')
    }

    /// Whether it names a host by its IP address (RFC 5321 §4.1.3).
    pub fn is_literal(&self) -> bool {
        self.domain.0.starts_with('[')
    }

    /// Whether sending to it needs SMTPUTF8 (RFC 6531 §3.2): its local part is not ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.local)?;
        f.write_str("@")?;
        f.write_str(self.domain.as_str())
    }
}

/// The beginning of a text that is too long to be shown whole.
fn shown(text: &str) -> String {
    let end = (0..=64).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// The local part in its canonical form: composed, and quoted only where it must be.
fn local_part(text: &str) -> Result<Cow<'_, str>, AddressError> {
    if is_dot_atom(text) && text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = || AddressError::Local(text.to_owned());
    let composed = composed(text);
    // composing makes new characters of some: both forms must be fit
    if is_dot_atom(text) && is_dot_atom(&composed) {
        return Ok(composed);
    }
    let inside = unquoted(text).and_then(|_| unquoted(&composed)).ok_or_else(wrong)?;
    Ok(Cow::Owned(if is_dot_atom(&inside) { inside } else { quoted(&inside) }))
}

/// Unicode's composed form (NFC): two spellings of one letter are one letter.
fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    icu_normalizer::ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

/// Dot-string of RFC 5321 §4.1.2 with the UTF-8 of RFC 6531 §3.3.
fn is_dot_atom(text: &str) -> bool {
    let mut after_dot = true;
    for byte in text.bytes() {
        match byte {
            b'.' if after_dot => return false,
            b'.' => after_dot = true,
            byte if ATEXT[usize::from(byte)] => after_dot = false,
            _ => return false,
        }
    }
    !after_dot && (text.is_ascii() || text.chars().all(is_safe) && !text.starts_with(is_combining))
}

/// Marks that change the letter before them: at the beginning they would change the quote or bracket around the address.
fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}'
        | '\u{fe20}'..='\u{fe2f}')
}

/// What may stand in an atom, by octet: atext of RFC 5322 §3.2.3, and every octet of UTF-8 beyond ASCII.
const ATEXT: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = byte >= 0x80 || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-/=?^_`{|}~";
    let mut at = 0;
    while at < marks.len() {
        allowed[marks[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Beyond ASCII: no control characters, no blanks or line ends, nothing that is invisible or turns the text around, and
/// nothing that Unicode keeps for private use, for lost characters or for no use.
fn is_safe(c: char) -> bool {
    // what joins and parts letters is of the spelling of some scripts; with the Arabic letter mark there may be addresses on
    // record, and what was an address stays one
    let is_let_be = matches!(c, '\u{200c}' | '\u{200d}' | '\u{61c}');
    let is_no_letter = matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fffc}' | '\u{fffd}' | '\u{e0000}'..)
        || u32::from(c) & 0xfffe == 0xfffe;
    !(c.is_control() || c.is_whitespace() || is_unseen(c) && !is_let_be || is_no_letter)
}

/// What a quoted string stands for (RFC 5321 §4.1.2, Quoted-string); `None` when it is none.
fn unquoted(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"').filter(|_| text.len() > 1)?;
    let mut plain = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '"' => return None,
            '\\' => chars.next().filter(|c| (' '..='~').contains(c))?,
            c => c,
        };
        let is_fit = if c.is_ascii() { !c.is_ascii_control() } else { is_safe(c) };
        if !is_fit {
            return None;
        }
        plain.push(c);
    }
    Some(plain)
}

fn quoted(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len() + 2);
    text.push('"');
    for c in plain.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

/// The domain of a mailbox: a name without a final dot, and none that only ever means this very host.
fn mail_domain(text: &str) -> Result<Cow<'_, str>, AddressError> {
    let name = domain_name(text)?;
    let top = name.rsplit('.').next().unwrap_or_default();
    // no top-level domain is made so (ICANN takes letters and A-labels alone): it is a machine's name, as in `node-1`
    let is_machine = top.contains('-') && !top.starts_with("xn--") && top.ends_with(|c: char| c.is_ascii_digit());
    if name == "localhost" || is_machine {
        return Err(AddressError::Domain(text.to_owned()));
    }
    Ok(name)
}

/// A domain name as A-labels in lower case; plain ASCII without A-labels is checked in one pass.
fn domain_name(text: &str) -> Result<Cow<'_, str>, AddressError> {
    let wrong = || AddressError::Domain(text.to_owned());
    if text.len() > TEXT_MAX {
        return Err(AddressError::Domain(shown(text)));
    }
    let is_plain = text.is_ascii() && !text.split('.').any(is_a_label);
    let name = match is_plain {
        true if text.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Owned(text.to_ascii_lowercase()),
        true => Cow::Borrowed(text),
        false => Cow::Owned(idna::domain_to_ascii_strict(text).map_err(|_| wrong())?),
    };
    let is_name = name.len() <= DOMAIN_MAX && name.split('.').all(is_label);
    if is_name { Ok(name) } else { Err(wrong()) }
}

fn is_a_label(label: &str) -> bool {
    label.as_bytes().first_chunk().is_some_and(|start: &[u8; 4]| start.eq_ignore_ascii_case(b"xn--"))
}

/// Letters, digits and inner hyphens; two hyphens in third place only where they announce an A-label (RFC 5890 §2.3.1).
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let is_ldh = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let reserved = bytes.get(2..4) == Some(b"--") && !is_a_label(label);
    (1..=LABEL_MAX).contains(&bytes.len()) && is_ldh && bytes[0] != b'-' && !label.ends_with('-') && !reserved
}

/// An address literal without its opening bracket, in one spelling.
fn literal(rest: &str) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(match literal_ip(rest.strip_suffix(']')?)? {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }))
}

/// What stands in the brackets of an address literal (RFC 5321 §4.1.3).
fn literal_ip(inside: &str) -> Option<IpAddr> {
    let tag: Option<&[u8; 5]> = inside.as_bytes().first_chunk();
    if !tag.is_some_and(|tag| tag.eq_ignore_ascii_case(b"IPv6:")) {
        return inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let text = &inside[5..];
    // `::` stands for two groups or more: at most six are written beside it
    let groups: usize =
        text.split(':').filter(|group| !group.is_empty()).map(|group| 1 + usize::from(group.contains('.'))).sum();
    if text.contains("::") && groups > 6 {
        return None;
    }
    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests;
