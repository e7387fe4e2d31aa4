//! The host that `--via` names: parsed once, with errors that say what to write.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::base::Domain;

/// Why a `--via` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViaError {
    /// No known scheme.
    #[error("`{0}`: write smtp://HOST:PORT, smtp+starttls://HOST:PORT or smtps://HOST:PORT")]
    Scheme(String),
    /// A user or password in the address, where every process list shows it.
    #[error("`--via` takes no user or password: set [relay] user and password_file, or MAILSHOT_RELAY__PASSWORD")]
    Credentials,
    /// Neither a host name nor an address.
    #[error("`{0}` is neither a host name nor an IP address (IPv6 in brackets)")]
    Host(String),
    /// Not a port.
    #[error("`{0}` is not a port: write a number from 1 to 65535")]
    Port(String),
    /// Something after the port.
    #[error("`{0}` after the host means nothing here: write only scheme, host and port")]
    Rest(String),
}

/// How the connection to a relay is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViaTls {
    /// `smtp://`: STARTTLS when offered, unverified.
    Opportunistic,
    /// `smtp+starttls://`: STARTTLS always, the certificate verified.
    StartTls,
    /// `smtps://`: TLS from the first byte, the certificate verified.
    Implicit,
}

/// A relay named by hand. May be private: who names it means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// How it is secured.
    pub tls: ViaTls,
    /// A host name, or an address as text without brackets.
    pub host: String,
    /// The address, when the host was given as one.
    pub address: Option<IpAddr>,
    /// The port; without one in the text 25, 587 or 465, by the scheme.
    pub port: u16,
}

impl Via {
    /// Parses `SCHEME://HOST[:PORT]`.
    pub fn parse(text: &str) -> Result<Via, ViaError> {
        let (tls, rest) = match text.split_once("://") {
            Some(("smtp", rest)) => (ViaTls::Opportunistic, rest),
            Some(("smtp+starttls", rest)) => (ViaTls::StartTls, rest),
            Some(("smtps", rest)) => (ViaTls::Implicit, rest),
            _ => return Err(ViaError::Scheme(text.to_owned())),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(ViaError::Credentials);
        }
        if let Some(at) = rest.find(['/', '?', '#']) {
            return Err(ViaError::Rest(rest[at..].to_owned()));
        }
        let (host, port) = split_port(rest)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(ViaError::Port(port.to_owned()))?,
            None => tls.port(),
        };
        let (host, address) = parse_host(host)?;
        Ok(Via { tls, host, address, port })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.tls {
            ViaTls::Opportunistic => "smtp",
            ViaTls::StartTls => "smtp+starttls",
            ViaTls::Implicit => "smtps",
        };
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "{scheme}://[{address}]:{}", self.port),
            _ => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl ViaTls {
    fn port(self) -> u16 {
        match self {
            ViaTls::Opportunistic => 25,
            ViaTls::StartTls => 587,
            ViaTls::Implicit => 465,
        }
    }
}

/// `host:port`, `[v6]:port`, or either without a port.
fn split_port(text: &str) -> Result<(&str, Option<&str>), ViaError> {
    match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => Ok((host, None)),
            Some((host, port)) => {
                port.strip_prefix(':').map(|port| (host, Some(port))).ok_or_else(|| ViaError::Rest(port.to_owned()))
            }
            None => Err(ViaError::Host(text.to_owned())),
        },
        // More than one colon outside brackets is an IPv6 address without them.
        None if text.matches(':').count() > 1 => Err(ViaError::Host(text.to_owned())),
        None => Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))),
    }
}

fn parse_host(text: &str) -> Result<(String, Option<IpAddr>), ViaError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address.to_string(), Some(address)));
    }
    let wrong = || ViaError::Host(text.to_owned());
    if text.is_empty() || text.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong());
    }
    Domain::parse(text).map(|domain| (domain.as_str().to_owned(), None)).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_read_as_written() {
        for (text, printed, tls) in [
            ("smtp://127.0.0.1:2525", "smtp://127.0.0.1:2525", ViaTls::Opportunistic),
            ("smtp://localhost", "smtp://localhost:25", ViaTls::Opportunistic),
            ("smtp+starttls://Mail.Example.com/", "smtp+starttls://mail.example.com:587", ViaTls::StartTls),
            ("smtps://[2001:db8::1]:4650", "smtps://[2001:db8::1]:4650", ViaTls::Implicit),
            ("smtps://[::1]", "smtps://[::1]:465", ViaTls::Implicit),
        ] {
            let via = Via::parse(text).unwrap();
            assert_eq!((via.to_string().as_str(), via.tls), (printed, tls));
            assert_eq!(Via::parse(&via.to_string()), Ok(via));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = |text: &str| text.to_owned();
        for (input, error) in [
            ("mail.example.com:25", ViaError::Scheme(text("mail.example.com:25"))),
            ("http://mail.example.com", ViaError::Scheme(text("http://mail.example.com"))),
            ("smtp://", ViaError::Host(text(""))),
            ("smtp://:25", ViaError::Host(text(""))),
            ("smtp://user:secret@mail.example.com:25", ViaError::Credentials),
            ("smtp://mail.example.com:0", ViaError::Port(text("0"))),
            ("smtp://mail.example.com:70000", ViaError::Port(text("70000"))),
            ("smtp://mail.example.com:", ViaError::Port(text(""))),
            ("smtp://::1:25", ViaError::Host(text("::1:25"))),
            ("smtp://[::1", ViaError::Host(text("[::1"))),
            ("smtp://mail.example.com/inbox", ViaError::Rest(text("/inbox"))),
            ("smtp://two words:25", ViaError::Host(text("two words"))),
        ] {
            assert_eq!(Via::parse(input), Err(error), "{input}");
        }
    }
}
