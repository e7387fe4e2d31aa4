//! What the receiving side offers, and the limits it holds.

/// An extension the host can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub enum Extension {
    /// Commands in groups (RFC 2920).
    #[serde(rename = "PIPELINING")]
    Pipelining,
    /// The size limit, and the size announced (RFC 1870).
    #[serde(rename = "SIZE")]
    Size,
    /// Content of eight bits (RFC 6152).
    #[serde(rename = "8BITMIME")]
    EightBitMime,
    /// Addresses beyond ASCII (RFC 6531).
    #[serde(rename = "SMTPUTF8")]
    SmtpUtf8,
    /// Delivery reports on demand (RFC 3461).
    #[serde(rename = "DSN")]
    Dsn,
    /// Content by BDAT (RFC 3030).
    #[serde(rename = "CHUNKING")]
    Chunking,
    /// Enhanced codes in replies (RFC 2034).
    #[serde(rename = "ENHANCEDSTATUSCODES")]
    EnhancedStatusCodes,
    /// TLS on demand (RFC 3207).
    #[serde(rename = "STARTTLS")]
    StartTls,
}

impl Extension {
    /// All of them.
    pub const ALL: [Extension; 8] = [
        Extension::Pipelining,
        Extension::Size,
        Extension::EightBitMime,
        Extension::SmtpUtf8,
        Extension::Dsn,
        Extension::Chunking,
        Extension::EnhancedStatusCodes,
        Extension::StartTls,
    ];
}

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP: one reply for the message.
    Smtp,
    /// LMTP (RFC 2033): one reply for each recipient.
    Lmtp,
}

/// What the host says about itself, and the limits it holds.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The name in greeting and EHLO reply.
    pub host: String,
    /// Which protocol is spoken.
    pub protocol: Protocol,
    /// The extensions offered; the others are refused.
    pub extensions: Vec<Extension>,
    /// What stands behind LIMITS in the EHLO reply (RFC 9422), as in `MAILMAX=20`; only told, not held.
    pub limits: Option<String>,
    /// Largest message, in octets.
    pub size_max: usize,
    /// Longest line of a message, CR LF included, in octets.
    pub line_max: usize,
    /// Most recipients of one message.
    pub recipients_max: usize,
    /// Refused commands until the connection is closed.
    pub errors_max: u16,
}

impl Offer {
    /// A host that offers everything, with the limits of RFC 5321 §4.5.3 and messages of 10 MiB.
    pub fn new(host: impl Into<String>) -> Offer {
        Offer {
            host: host.into(),
            protocol: Protocol::Smtp,
            extensions: Extension::ALL.to_vec(),
            limits: None,
            size_max: 10 << 20,
            line_max: 1000,
            recipients_max: 100,
            errors_max: 20,
        }
    }

    /// Whether an extension is offered.
    pub(super) fn has(&self, extension: Extension) -> bool {
        self.extensions.contains(&extension)
    }
}
