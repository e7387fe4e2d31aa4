//! Ids: small integers that name rows, and the one packed id that names a planned copy.

use std::fmt;

/// Declares a newtype over an unsigned integer that prints as its number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A contact's row in the store. Never reused, not even after an erasure.
    ContactId(u32)
}
number! {
    /// A list's row in the store.
    ListId(u32)
}
number! {
    /// One launch: a campaign sent once, a round of test copies, or a single system message.
    LaunchId(u32)
}
number! {
    /// A frozen edition of a campaign's content, as numbered by the store.
    EditionId(u32)
}
number! {
    /// A source address of ours, as numbered by the order of the settings.
    SourceId(u16)
}

/// One planned copy: launch and contact packed into one number, so that planning the same recipient twice
/// names the same copy and cannot queue it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct EnvelopeId(u64);

impl EnvelopeId {
    /// The copy of `launch` for `contact`.
    pub fn new(launch: LaunchId, contact: ContactId) -> EnvelopeId {
        EnvelopeId(u64::from(launch.0) << 32 | u64::from(contact.0))
    }

    /// The launch this copy belongs to.
    pub fn launch(self) -> LaunchId {
        LaunchId((self.0 >> 32) as u32)
    }

    /// The contact this copy is for.
    pub fn contact(self) -> ContactId {
        ContactId(self.0 as u32)
    }

    /// The packed number, as keys and tokens carry it.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The id a packed number stands for; every number is one.
    pub fn from_u64(packed: u64) -> EnvelopeId {
        EnvelopeId(packed)
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.launch(), self.contact())
    }
}

/// The name of a campaign: its folder below `campaigns/`. ASCII letters, digits, `-`, `_` and `.`, at most 64, not
/// starting with a dot, so that it can stand in a path, a URL and a header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct CampaignName(String);

impl CampaignName {
    /// Longest name accepted, in bytes.
    pub const MAX: usize = 64;

    /// Parses a name; `None` when it could not be a folder name everywhere.
    pub fn parse(text: &str) -> Option<CampaignName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=Self::MAX).contains(&text.len()) && !text.starts_with('.');
        (fits && text.bytes().all(allowed)).then(|| CampaignName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CampaignName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_gives_back_what_was_packed() {
        let id = EnvelopeId::new(LaunchId(7), ContactId(u32::MAX));
        assert_eq!((id.launch(), id.contact()), (LaunchId(7), ContactId(u32::MAX)));
        assert_eq!(EnvelopeId::from_u64(id.to_u64()), id);
    }

    #[test]
    fn campaign_names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "ü", "a b", &"x".repeat(65)] {
            assert_eq!(CampaignName::parse(bad), None, "{bad:?}");
        }
        assert!(CampaignName::parse("2026-11_news.b").is_some());
    }
}
