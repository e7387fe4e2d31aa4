//! What kept a connection from being secure, in the words of the reports that domains ask for (RFC 8460 §4.3).

/// A flaw of a session, as its domain's owners are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsFlaw {
    /// The host does not offer STARTTLS.
    NotOffered,
    /// The certificate is for another name.
    OtherName,
    /// The certificate has expired, or is not valid yet.
    Expired,
    /// The certificate is signed by no known authority.
    NotTrusted,
    /// The certificate is not one that the zone announces (DANE).
    NotAnnounced,
    /// What the zone announces could not be had, or not be proved.
    Unproved,
    /// The policy could not be fetched (MTA-STS).
    PolicyGone,
    /// The policy is none.
    PolicyBroken,
    /// The host of the policy has not proved its name.
    PolicyUntrusted,
    /// Anything else: no handshake, a host that the policy does not name.
    Other,
}

impl TlsFlaw {
    /// All of them.
    pub const ALL: [TlsFlaw; 10] = [
        TlsFlaw::NotOffered,
        TlsFlaw::OtherName,
        TlsFlaw::Expired,
        TlsFlaw::NotTrusted,
        TlsFlaw::NotAnnounced,
        TlsFlaw::Unproved,
        TlsFlaw::PolicyGone,
        TlsFlaw::PolicyBroken,
        TlsFlaw::PolicyUntrusted,
        TlsFlaw::Other,
    ];

    /// The result type of RFC 8460.
    pub fn word(self) -> &'static str {
        match self {
            TlsFlaw::NotOffered => "starttls-not-supported",
            TlsFlaw::OtherName => "certificate-host-mismatch",
            TlsFlaw::Expired => "certificate-expired",
            TlsFlaw::NotTrusted => "certificate-not-trusted",
            TlsFlaw::NotAnnounced => "tlsa-invalid",
            TlsFlaw::Unproved => "dnssec-invalid",
            TlsFlaw::PolicyGone => "sts-policy-fetch-error",
            TlsFlaw::PolicyBroken => "sts-policy-invalid",
            TlsFlaw::PolicyUntrusted => "sts-webpki-invalid",
            TlsFlaw::Other => "validation-failure",
        }
    }
}
