//! The records to publish, and whether they are.

use std::fmt;

use serde::Serialize;

use crate::sign::Algorithm;
use crate::sign::dkim::Signer;
use crate::world::{Dns, DnsError};

/// Longest string inside a TXT record, in octets (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// A DNS record to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The full name, without a final dot.
    pub name: String,
    /// The type, as in `TXT`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The value in one piece; a TXT value longer than 255 octets is published as several strings.
    pub value: String,
    /// What the key behind it signs with.
    #[serde(skip)]
    pub algorithm: Algorithm,
    /// Whether its key does not sign yet.
    #[serde(skip)]
    pub waits: bool,
}

impl Record {
    pub(super) fn of(signer: &Signer) -> Record {
        Record {
            name: format!("{}._domainkey.{}", signer.selector, signer.domain),
            kind: "TXT",
            value: signer.record.clone(),
            algorithm: signer.algorithm,
            waits: false,
        }
    }
}

/// The record as a line of a zone file, its value cut into strings of at most 255 octets.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN {}", self.name, self.kind)?;
        for string in self.value.as_bytes().chunks(STRING_MAX) {
            write!(f, " \"{}\"", String::from_utf8_lossy(string))?;
        }
        Ok(())
    }
}

/// What the name service says about a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Published, and the key behind it is ours.
    Published,
    /// Published, with another key or a broken one.
    Different(String),
    /// Not published.
    Absent,
    /// The name service did not say.
    Unknown(String),
}

/// Asks the name service for a key's record and compares the keys (K-11). Tags in another order, blanks and further tags
/// do not matter; the key and its kind do.
pub async fn check(dns: &dyn Dns, record: &Record) -> Finding {
    match dns.text(&record.name).await {
        Ok(answer) => {
            let texts = answer.records;
            match texts.iter().any(|text| is_same_key(text, &record.value)) {
                true => Finding::Published,
                false => texts.into_iter().next().map_or(Finding::Absent, Finding::Different),
            }
        }
        Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => Finding::Absent,
        Err(DnsError::Unavailable { why, .. }) => Finding::Unknown(why),
    }
}

fn is_same_key(published: &str, ours: &str) -> bool {
    let key = |text: &str| {
        let tag = |name: &str| tag(text, name);
        let version = tag("v").is_none_or(|v| v == "DKIM1");
        version.then(|| (tag("k").unwrap_or_else(|| "rsa".to_owned()), tag("p").unwrap_or_default()))
    };
    key(published).is_some_and(|published| Some(published) == key(ours))
}

/// The value of a tag (RFC 6376 §3.2), blanks inside it removed.
fn tag(text: &str, name: &str) -> Option<String> {
    let mut tags = text.split(';').filter_map(|tag| tag.split_once('='));
    let (_, value) = tags.find(|(known, _)| known.trim() == name)?;
    Some(value.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Zone;

    fn record(value: &str) -> Record {
        let name = "s1._domainkey.example.com".to_owned();
        Record { name, kind: "TXT", value: value.to_owned(), algorithm: Algorithm::Rsa, waits: false }
    }

    #[test]
    fn long_values_are_cut_into_strings() {
        let line = record(&"x".repeat(400)).to_string();
        let strings: Vec<usize> = line.split('"').skip(1).step_by(2).map(str::len).collect();
        assert_eq!(strings, [255, 145]);
        assert!(line.starts_with("s1._domainkey.example.com. IN TXT \"xxx"));
    }

    #[tokio::test]
    async fn a_record_is_found_by_its_key_however_it_is_written() {
        let ours = record("v=DKIM1; k=rsa; p=AAAA");
        for (published, expected) in [
            (vec!["v=DKIM1; k=rsa; p=AAAA"], Finding::Published),
            (vec!["p=AA AA;s=email"], Finding::Published),
            (vec!["v=spf1 -all", "k=rsa; p=AAAA"], Finding::Published),
            (vec!["v=DKIM1; p="], Finding::Different("v=DKIM1; p=".into())),
            (vec!["v=DKIM1; k=ed25519; p=AAAA"], Finding::Different("v=DKIM1; k=ed25519; p=AAAA".into())),
            (vec![], Finding::Absent),
        ] {
            let zone = published.iter().fold(Zone::default(), |zone, text| zone.text(&ours.name, text));
            assert_eq!(check(&zone, &ours).await, expected, "{published:?}");
        }
    }
}
