//! The parameters of MAIL and RCPT: which are known with what is offered, and whether their values can be meant.

use super::TOO_LARGE;
use super::offer::{Extension, Offer};
use super::request::{Parameter, Wrong, is_xtext};

impl Offer {
    /// Checks the parameters of MAIL; gives whether addresses may go beyond ASCII.
    pub(super) fn check_mail(&self, parameters: &[Parameter]) -> Result<bool, Wrong> {
        let mut is_utf8 = false;
        for Parameter { keyword, value } in parameters {
            let value = value.as_deref();
            match (keyword.as_str(), value) {
                ("SIZE", Some(size)) if self.has(Extension::Size) => self.check_size(size)?,
                ("BODY", Some(body)) if self.has(Extension::EightBitMime) => check_word(body, &["7BIT", "8BITMIME"])?,
                ("SMTPUTF8", None) if self.has(Extension::SmtpUtf8) => is_utf8 = true,
                ("RET", Some(ret)) if self.has(Extension::Dsn) => check_word(ret, &["FULL", "HDRS"])?,
                ("ENVID", Some(id)) if self.has(Extension::Dsn) => check_xtext(id, 100)?,
                _ => return Err(Wrong(555, "5.5.4", "this parameter is not known here")),
            }
        }
        Ok(is_utf8)
    }

    fn check_size(&self, size: &str) -> Result<(), Wrong> {
        let fits = size.len() <= 20 && size.bytes().all(|b| b.is_ascii_digit());
        match size.parse::<u128>() {
            Ok(octets) if fits && octets <= self.size_max as u128 => Ok(()),
            Ok(_) if fits => Err(TOO_LARGE),
            _ => Err(Wrong(501, "5.5.4", "SIZE is a number of octets")),
        }
    }

    /// Checks the parameters of RCPT.
    pub(super) fn check_rcpt(&self, parameters: &[Parameter]) -> Result<(), Wrong> {
        for Parameter { keyword, value } in parameters {
            match (keyword.as_str(), value.as_deref()) {
                ("NOTIFY", Some(when)) if self.has(Extension::Dsn) => check_notify(when)?,
                ("ORCPT", Some(original)) if self.has(Extension::Dsn) => {
                    let address = original.split_once(';').map(|(_, address)| address);
                    check_xtext(address.ok_or(Wrong(501, "5.5.4", "ORCPT is TYPE;ADDRESS"))?, 500)?;
                }
                _ => return Err(Wrong(555, "5.5.4", "this parameter is not known here")),
            }
        }
        Ok(())
    }
}

fn check_word(value: &str, words: &[&str]) -> Result<(), Wrong> {
    let known = words.iter().any(|word| value.eq_ignore_ascii_case(word));
    known.then_some(()).ok_or(Wrong(501, "5.5.4", "this parameter cannot have that value"))
}

fn check_xtext(value: &str, longest: usize) -> Result<(), Wrong> {
    let fits = value.len() <= longest && is_xtext(value);
    fits.then_some(()).ok_or(Wrong(501, "5.5.4", "this is no xtext, or too long"))
}

fn check_notify(when: &str) -> Result<(), Wrong> {
    match when.eq_ignore_ascii_case("NEVER") {
        true => Ok(()),
        false => when.split(',').try_for_each(|word| check_word(word, &["SUCCESS", "FAILURE", "DELAY"])),
    }
}

/// Whether an address may be beyond ASCII where it is.
pub(super) fn check_utf8(path: &str, allowed: bool) -> Result<(), Wrong> {
    match path.is_ascii() || allowed {
        true => Ok(()),
        false => Err(Wrong(553, "5.6.7", "an address beyond ASCII needs SMTPUTF8")),
    }
}
