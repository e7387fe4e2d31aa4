//! How the connection that carried a copy was secured: for the record.

use std::fmt;

/// The cipher suites we offer, by their numbers and names at IANA.
const CIPHERS: [(u16, &str); 9] = [
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// A connection, as far as others could read or forge what went over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// In clear.
    Clear,
    /// Over TLS.
    Tls {
        /// The version.
        version: TlsVersion,
        /// The cipher suite, by its number at IANA.
        cipher: u16,
        /// How the host has proved that it is the one.
        verified: HostProof,
    },
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2 (RFC 5246).
    V1_2,
    /// 1.3 (RFC 8446).
    V1_3,
}

/// How a host has proved that it is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostProof {
    /// Not at all.
    None,
    /// By a certificate for its name that a known authority has signed.
    Pki,
    /// The same, and the recipient's domain names it in its policy (RFC 8461).
    MtaSts,
    /// By a certificate that its zone announces (RFC 7672).
    Dane,
}

impl HostProof {
    /// The proof's word.
    pub fn word(self) -> &'static str {
        match self {
            HostProof::None => "none",
            HostProof::Pki => "pki",
            HostProof::MtaSts => "mta-sts",
            HostProof::Dane => "dane",
        }
    }
}

impl Channel {
    /// As a number for the record, never 0.
    pub fn to_number(self) -> u32 {
        match self {
            Channel::Clear => 1,
            Channel::Tls { version, cipher, verified } => {
                let version = match version {
                    TlsVersion::V1_2 => 2,
                    TlsVersion::V1_3 => 3,
                };
                let verified = match verified {
                    HostProof::None => 0,
                    HostProof::Pki => 1,
                    HostProof::MtaSts => 2,
                    HostProof::Dane => 3,
                };
                version << 24 | verified << 16 | u32::from(cipher)
            }
        }
    }

    /// Back from its number; `None` for 0 and for what no version of ours has written.
    pub fn from_number(number: u32) -> Option<Channel> {
        if number == 1 {
            return Some(Channel::Clear);
        }
        let version = match number >> 24 {
            2 => TlsVersion::V1_2,
            3 => TlsVersion::V1_3,
            _ => return None,
        };
        let verified = match number >> 16 & 0xff {
            0 => HostProof::None,
            1 => HostProof::Pki,
            2 => HostProof::MtaSts,
            3 => HostProof::Dane,
            _ => return None,
        };
        Some(Channel::Tls { version, cipher: (number & 0xffff) as u16, verified })
    }

    /// `clear`, `TLSv1.2` or `TLSv1.3`.
    pub fn protocol(self) -> &'static str {
        match self {
            Channel::Clear => "clear",
            Channel::Tls { version: TlsVersion::V1_2, .. } => "TLSv1.2",
            Channel::Tls { version: TlsVersion::V1_3, .. } => "TLSv1.3",
        }
    }

    /// The cipher suite's name at IANA.
    pub fn cipher(self) -> Option<String> {
        let Channel::Tls { cipher, .. } = self else { return None };
        let known = CIPHERS.iter().find(|(number, _)| *number == cipher);
        Some(known.map_or_else(|| format!("0x{cipher:04x}"), |(_, name)| (*name).to_owned()))
    }

    /// How the host has proved itself; in clear it cannot.
    pub fn verified(self) -> HostProof {
        match self {
            Channel::Clear => HostProof::None,
            Channel::Tls { verified, .. } => verified,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol())?;
        match self.cipher() {
            Some(cipher) => write!(f, " {cipher}, verified: {}", self.verified().word()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_reads_back_from_its_number() {
        assert_eq!(Channel::from_number(0), None);
        assert_eq!(Channel::from_number(Channel::Clear.to_number()), Some(Channel::Clear));
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            for verified in [HostProof::None, HostProof::Pki, HostProof::MtaSts, HostProof::Dane] {
                let channel = Channel::Tls { version, cipher: 0x1302, verified };
                assert_eq!(Channel::from_number(channel.to_number()), Some(channel));
            }
        }
        assert_eq!(Channel::from_number(0x0400_1302), None);
        let channel = Channel::Tls { version: TlsVersion::V1_3, cipher: 0x1302, verified: HostProof::Dane };
        assert_eq!(channel.to_string(), "TLSv1.3 TLS_AES_256_GCM_SHA384, verified: dane");
        let odd = Channel::Tls { version: TlsVersion::V1_2, cipher: 0x009c, verified: HostProof::None };
        assert_eq!(odd.cipher().as_deref(), Some("0x009c"));
    }

    #[test]
    fn every_cipher_we_offer_has_its_name() {
        for suite in rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES {
            let number = u16::from(suite.suite());
            assert!(CIPHERS.iter().any(|(known, _)| *known == number), "{:?}", suite.suite());
        }
    }
}
