//! Mail addresses and domains: parsed once, valid ever after.

use std::fmt;
use std::sync::Arc;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`, or nothing before it.
    #[error("`{0}` is not a mail address: it needs a name, an @ and a domain")]
    Shape(String),
    /// The domain part cannot be a host name.
    #[error("`{0}` is not a domain name")]
    Domain(String),
}

/// A domain name in its A-label form: lower case, no final dot, at most 253 octets (RFC 5890 §2.3.2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a host name; U-labels become A-labels.
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        let wrong = || AddressError::Domain(text.to_owned());
        let ascii = idna::domain_to_ascii_strict(text.trim_end_matches('.')).map_err(|_| wrong())?;
        if ascii.is_empty() || ascii.len() > 253 {
            return Err(wrong());
        }
        Ok(Domain(ascii.into()))
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
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail address that may stand in RCPT TO (RFC 5321 §4.1.2), its domain in A-label form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    local: Box<str>,
    domain: Domain,
}

impl Address {
    /// Parses an address without display name or angle brackets.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or_else(|| AddressError::Shape(text.to_owned()))?;
        if local.is_empty() || local.len() > 64 || local.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(AddressError::Shape(text.to_owned()));
        }
        Ok(Address { local: local.into(), domain: Domain::parse(domain)? })
    }

    /// The part before the `@`, case kept.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether sending to it needs SMTPUTF8 (RFC 6531 §3.2): its local part is not ASCII.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}
