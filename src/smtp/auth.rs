//! Login (RFC 4954): SCRAM-SHA-256 (RFC 5802, 7677), PLAIN (RFC 4616), LOGIN and XOAUTH2, as dialogues without I/O.
//! That they run only inside verified TLS is the connection's care (C-46, C-47). What is said here is never traced.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use data_encoding::BASE64;

use super::Error;
use crate::config::Secret;

/// Rounds of hashing a host may ask of us; more would stop this thread for seconds.
const ROUNDS_MAX: u32 = 500_000;

/// What we log in with. Its `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq)]
pub enum Login {
    /// A user name and a password: SCRAM-SHA-256, else PLAIN, else LOGIN, whichever the host offers first in this order.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A user name and a fresh access token of OAuth: XOAUTH2.
    Token {
        /// The user name.
        user: String,
        /// The token.
        token: Secret,
    },
}

/// A login under way.
pub(super) struct Dialogue {
    next: Next,
}

/// What the host's next challenge is answered with.
enum Next {
    /// LOGIN: the user, then the password, whatever the prompts say.
    Texts(std::vec::IntoIter<Vec<u8>>),
    /// SCRAM: the proof.
    Proof { password: Secret, first: String, nonce: String },
    /// SCRAM: nothing more, once the host has proved that it knows the password too.
    Check { signature: Vec<u8> },
    /// Nothing: an empty line asks for the reply that tells what is wrong (XOAUTH2's error challenge).
    Empty,
}

impl Dialogue {
    /// The first line to say (without CRLF), for the mechanisms the host offers.
    pub(super) fn begin(login: &Login, offered: &[String]) -> Result<(Dialogue, String), Error> {
        let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        match login {
            Login::Password { user, password } if offers("SCRAM-SHA-256") => Ok(scram(user, password, &nonce()?)),
            Login::Password { user, password } if offers("PLAIN") => {
                Ok(single("PLAIN", format!("\0{user}\0{}", password.expose())))
            }
            Login::Password { user, password } if offers("LOGIN") => {
                let texts = vec![user.clone().into_bytes(), password.expose().as_bytes().to_vec()];
                Ok((Dialogue { next: Next::Texts(texts.into_iter()) }, "AUTH LOGIN".into()))
            }
            Login::Token { user, token } if offers("XOAUTH2") => {
                Ok(single("XOAUTH2", format!("user={user}\x01auth=Bearer {}\x01\x01", token.expose())))
            }
            Login::Password { .. } => Err(unmet("SCRAM-SHA-256, PLAIN or LOGIN", offered)),
            Login::Token { .. } => Err(unmet("XOAUTH2", offered)),
        }
    }

    /// The answer to a challenge: the text behind `334 `.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Result<String, Error> {
        match std::mem::replace(&mut self.next, Next::Empty) {
            Next::Texts(mut texts) => {
                let text = texts.next().map(|text| BASE64.encode(&text)).unwrap_or_default();
                self.next = Next::Texts(texts);
                Ok(text)
            }
            Next::Proof { password, first, nonce } => {
                let (answer, signature) = proof(&decode(challenge)?, &password, &first, &nonce)?;
                self.next = Next::Check { signature };
                Ok(BASE64.encode(answer.as_bytes()))
            }
            Next::Check { signature } => {
                check(&decode(challenge)?, &signature)?;
                Ok(String::new())
            }
            Next::Empty => Ok(String::new()),
        }
    }

    /// Whether the host may say yes now: with SCRAM only after it has proved itself.
    pub(super) fn may_end(&self) -> bool {
        match self.next {
            Next::Proof { .. } | Next::Check { .. } => false,
            Next::Texts(_) | Next::Empty => true,
        }
    }
}

/// A mechanism that says all at once.
fn single(mechanism: &str, text: String) -> (Dialogue, String) {
    (Dialogue { next: Next::Empty }, format!("AUTH {mechanism} {}", BASE64.encode(text.as_bytes())))
}

fn unmet(known: &str, offered: &[String]) -> Error {
    let offered = if offered.is_empty() { "no login".to_owned() } else { offered.join(", ") };
    Error::Credentials(format!("the host offers {offered}; this login needs {known}"))
}

fn scram(user: &str, password: &Secret, nonce: &str) -> (Dialogue, String) {
    let user = user.replace('=', "=3D").replace(',', "=2C");
    let first = format!("n={user},r={nonce}");
    let line = format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(format!("n,,{first}").as_bytes()));
    (Dialogue { next: Next::Proof { password: password.clone(), first, nonce: nonce.to_owned() } }, line)
}

fn nonce() -> Result<String, Error> {
    let mut bytes = [0; 18];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Credentials("this machine gives no random bytes".into()))?;
    Ok(BASE64.encode(&bytes))
}

/// The client's final message, and the signature that the host must show (RFC 5802 §3).
fn proof(challenge: &str, password: &Secret, first: &str, nonce: &str) -> Result<(String, Vec<u8>), Error> {
    let part = |key: &str| challenge.split(',').find_map(|part| part.strip_prefix(key));
    let wrong = || Error::Garbled("a SCRAM challenge that makes no sense".into());
    let joint = part("r=").filter(|joint| joint.starts_with(nonce) && joint.len() > nonce.len()).ok_or_else(wrong)?;
    let salt = part("s=").and_then(|salt| BASE64.decode(salt.as_bytes()).ok()).ok_or_else(wrong)?;
    let rounds = part("i=").and_then(|rounds| rounds.parse().ok()).filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
    let rounds = rounds.and_then(std::num::NonZeroU32::new).ok_or_else(wrong)?;
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.expose().as_bytes(), &mut salted);
    let bare = format!("c=biws,r={joint}");
    let all = format!("{first},{challenge},{bare}");
    let client = mac(&salted, b"Client Key");
    let signature = mac(digest::digest(&digest::SHA256, &client).as_ref(), all.as_bytes());
    let proof: Vec<u8> = client.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
    let expected = mac(&mac(&salted, b"Server Key"), all.as_bytes());
    Ok((format!("{bare},p={}", BASE64.encode(&proof)), expected))
}

/// A host that does not know the password is somebody else.
fn check(last: &str, expected: &[u8]) -> Result<(), Error> {
    let shown = last.split(',').find_map(|part| part.strip_prefix("v=")).and_then(|v| BASE64.decode(v.as_bytes()).ok());
    match shown.is_some_and(|shown| constant_time::verify_slices_are_equal(&shown, expected).is_ok()) {
        true => Ok(()),
        false => Err(Error::Credentials("the host could not prove that it knows the password".into())),
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn decode(challenge: &[u8]) -> Result<String, Error> {
    let bytes = BASE64.decode(challenge.trim_ascii()).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Error::Garbled("a challenge that is no base64".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password() -> Login {
        Login::Password { user: "user".into(), password: Secret::new("pencil".into()) }
    }

    fn offered(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_example_of_rfc_7677_is_spoken_to_the_letter() {
        let Login::Password { user, password } = password() else { unreachable!("it is one") };
        let (mut dialogue, line) = scram(&user, &password, "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(line, format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")));
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = dialogue.answer(BASE64.encode(challenge.as_bytes()).as_bytes()).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(BASE64.decode(answer.as_bytes()).unwrap(), expected.as_bytes());
        assert!(!dialogue.may_end());
        let last = BASE64.encode(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(dialogue.answer(last.as_bytes()).unwrap(), "");
        assert!(dialogue.may_end());
    }

    #[test]
    fn a_user_name_adds_nothing_to_what_is_said() {
        let line = scram("u,r=evil=", &Secret::new("pencil".into()), "abc").1;
        let said = BASE64.decode(line.strip_prefix("AUTH SCRAM-SHA-256 ").unwrap().as_bytes()).unwrap();
        assert_eq!(said, b"n,,n=u=2Cr=3Devil=3D,r=abc");
        let login = Login::Password { user: "a\r\nQUIT".into(), password: Secret::new("b\r\nQUIT".into()) };
        let (mut dialogue, line) = Dialogue::begin(&login, &offered("LOGIN")).unwrap();
        for said in [line, dialogue.answer(b"").unwrap(), dialogue.answer(b"").unwrap()] {
            assert!(!said.contains(['\r', '\n']), "{said:?}");
        }
    }

    #[test]
    fn a_host_that_does_not_know_the_password_is_left() {
        let Login::Password { user, password } = password() else { unreachable!("it is one") };
        let challenge = |text: &str| BASE64.encode(text.as_bytes()).into_bytes();
        let answer = |text: &str| scram(&user, &password, "abc").0.answer(&challenge(text));
        for bad in
            ["", "r=abc,s=AAAA,i=4096", "r=xyzdef,s=AAAA,i=4096", "r=abcdef,s=AAAA,i=0", "r=abcdef,s=AAAA,i=99999999"]
        {
            assert!(answer(bad).is_err(), "{bad}");
        }
        let mut dialogue = scram(&user, &password, "abc").0;
        dialogue.answer(&challenge("r=abcdef,s=AAAA,i=4096")).unwrap();
        assert!(matches!(dialogue.answer(&challenge("v=AAAA")), Err(Error::Credentials(_))));
    }

    #[test]
    fn the_best_mechanism_offered_is_taken() {
        let line = |names: &str| Dialogue::begin(&password(), &offered(names)).map(|(_, line)| line);
        assert!(line("LOGIN PLAIN SCRAM-SHA-256").unwrap().starts_with("AUTH SCRAM-SHA-256 "));
        assert_eq!(line("LOGIN PLAIN").unwrap(), "AUTH PLAIN AHVzZXIAcGVuY2ls");
        assert_eq!(line("CRAM-MD5 LOGIN").unwrap(), "AUTH LOGIN");
        assert!(
            line("CRAM-MD5 XOAUTH2").unwrap_err().to_string().contains("offers CRAM-MD5, XOAUTH2; this login needs")
        );
        assert!(line("").unwrap_err().to_string().contains("no login"));
    }

    #[test]
    fn login_tells_user_and_password_when_asked() {
        let (mut dialogue, _) = Dialogue::begin(&password(), &offered("LOGIN")).unwrap();
        assert_eq!(dialogue.answer(b"VXNlcm5hbWU6").unwrap(), "dXNlcg==");
        assert_eq!(dialogue.answer(b"UGFzc3dvcmQ6").unwrap(), "cGVuY2ls");
        assert_eq!(dialogue.answer(b"more?").unwrap(), "");
    }

    #[test]
    fn a_token_is_refused_with_a_challenge_that_gets_an_empty_line() {
        let login = Login::Token { user: "a@x".into(), token: Secret::new("ya29".into()) };
        let (mut dialogue, line) = Dialogue::begin(&login, &offered("XOAUTH2")).unwrap();
        let text = BASE64.decode(line.strip_prefix("AUTH XOAUTH2 ").unwrap().as_bytes()).unwrap();
        assert_eq!(text, b"user=a@x\x01auth=Bearer ya29\x01\x01");
        assert_eq!(dialogue.answer(b"eyJzdGF0dXMiOiI0MDEifQ==").unwrap(), "");
        assert!(!format!("{login:?}").contains("ya29"));
    }
}
