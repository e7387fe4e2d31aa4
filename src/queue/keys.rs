//! The layout of keys. Numbers are big-endian, so that the order of keys is the order of what they stand for.
//!
//! | key | value |
//! |---|---|
//! | `d` domain `0` lane due envelope | the envelope |
//! | `h` launch envelope | held: domain and envelope |
//! | `i` number | intent, the final dot of a copy may be out: its id, domain and envelope |
//! | `p` launch bucket | how far the planner has come |
//! | `n` name | the number of the source of this name |
//! | `s` source site | what was learned of a site |
//! | `o` number | outbox: the outcomes of a commit |
//! | `x` number | a record of the outbox that could not be read, kept for a person |
//! | `x` `i` envelope | the same of an intent; behind `i` its number where the envelope is not known |
//! | `m` name | marks: the epoch, and the highest number cleared from the outbox |

use crate::base::{Domain, EnvelopeId, LaunchId, SourceId, Timestamp};
use crate::mail::{Envelope, Lane};

pub(super) const DUE: u8 = b'd';
pub(super) const HELD: u8 = b'h';
pub(super) const INTENT: u8 = b'i';
pub(super) const OUTBOX: u8 = b'o';
pub(super) const DAMAGED: u8 = b'x';
pub(super) const LEARNED: u8 = b's';
pub(super) const SOURCE: u8 = b'n';
pub(super) const EPOCH: &[u8] = b"mepoch";
pub(super) const CLEARED: &[u8] = b"mcleared";

/// Bytes of a due key behind the domain: the zero, lane, due, envelope.
const TAIL: usize = 1 + 1 + 8 + 8;

pub(super) fn due(domain: &Domain, envelope: &Envelope) -> Vec<u8> {
    due_at(domain, envelope.lane, envelope.due, envelope.id)
}

pub(super) fn due_at(domain: &Domain, lane: Lane, due: Timestamp, id: EnvelopeId) -> Vec<u8> {
    let mut key = lane_prefix(domain, lane);
    // due times before 1970 do not occur; a negative one would sort last, and is due all the same
    key.extend_from_slice(&(due.as_ms().max(0) as u64).to_be_bytes());
    key.extend_from_slice(&id.to_u64().to_be_bytes());
    key
}

pub(super) fn domain_prefix(domain: &Domain) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + domain.as_str().len() + TAIL);
    key.push(DUE);
    key.extend_from_slice(domain.as_str().as_bytes());
    key.push(0);
    key
}

pub(super) fn lane_prefix(domain: &Domain, lane: Lane) -> Vec<u8> {
    let mut key = domain_prefix(domain);
    key.push(match lane {
        Lane::Urgent => 0,
        Lane::Bulk => 1,
    });
    key
}

/// The least key above `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// The number a mark holds; 0 when it was never set.
pub(super) fn number(mark: Option<Vec<u8>>) -> u64 {
    mark.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The domain's text, due time and envelope of a due key.
pub(super) fn parse_due(key: &[u8]) -> Option<(&str, Timestamp, EnvelopeId)> {
    let (domain, tail) = key.strip_prefix(&[DUE])?.split_at_checked(key.len().checked_sub(1 + TAIL)?)?;
    let number = |at: usize| Some(u64::from_be_bytes(tail.get(at..at + 8)?.try_into().ok()?));
    let due = Timestamp::from_ms(number(2)? as i64);
    Some((std::str::from_utf8(domain).ok()?, due, EnvelopeId::from_u64(number(10)?)))
}

pub(super) fn held(id: EnvelopeId) -> Vec<u8> {
    let mut key = held_prefix(id.launch());
    key.extend_from_slice(&id.to_u64().to_be_bytes());
    key
}

pub(super) fn held_prefix(launch: LaunchId) -> Vec<u8> {
    let mut key = vec![HELD];
    key.extend_from_slice(&launch.0.to_be_bytes());
    key
}

/// The launch of a held key.
pub(super) fn parse_held(key: &[u8]) -> Option<LaunchId> {
    let launch = key.strip_prefix(&[HELD])?.first_chunk()?;
    Some(LaunchId(u32::from_be_bytes(*launch)))
}

pub(super) fn intent(number: u32) -> Vec<u8> {
    let mut key = vec![INTENT];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The copy that an intent's key names, in a queue of the first form.
pub(super) fn parse_first_intent(key: &[u8]) -> Option<EnvelopeId> {
    let id = key.strip_prefix(&[INTENT])?.try_into().ok()?;
    Some(EnvelopeId::from_u64(u64::from_be_bytes(id)))
}

pub(super) fn cursor(launch: LaunchId, bucket: u8) -> Vec<u8> {
    let mut key = vec![b'p'];
    key.extend_from_slice(&launch.0.to_be_bytes());
    key.push(bucket);
    key
}

/// The source and the site of what was learned.
pub(super) fn parse_learned(key: &[u8]) -> Option<(SourceId, &str)> {
    let (source, site) = key.strip_prefix(&[LEARNED])?.split_first_chunk()?;
    Some((SourceId(u16::from_be_bytes(*source)), std::str::from_utf8(site).ok()?))
}

pub(super) fn learned(source: SourceId, site: &str) -> Vec<u8> {
    let mut key = vec![LEARNED];
    key.extend_from_slice(&source.0.to_be_bytes());
    key.extend_from_slice(site.as_bytes());
    key
}

pub(super) fn source(name: &str) -> Vec<u8> {
    let mut key = vec![SOURCE];
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name of a source and its number.
pub(super) fn parse_source(key: &[u8], number: &[u8]) -> Option<(String, u16)> {
    let name = std::str::from_utf8(key.strip_prefix(&[SOURCE])?).ok()?;
    Some((name.to_owned(), u16::from_be_bytes(number.try_into().ok()?)))
}

/// Where a record of the outbox is kept that could not be read.
pub(super) fn damaged(number: u64) -> Vec<u8> {
    let mut key = vec![DAMAGED];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Where an intent is kept that could not be read: under its copy, or where not even that is known, under its number.
pub(super) fn damaged_intent(intent: &[u8], copy: Option<EnvelopeId>) -> Vec<u8> {
    match copy {
        Some(id) => [&[DAMAGED, INTENT], &id.to_u64().to_be_bytes()[..]].concat(),
        None => [&[DAMAGED], intent].concat(),
    }
}

/// The envelope of an intent that could not be read.
pub(super) fn parse_damaged_intent(key: &[u8]) -> Option<EnvelopeId> {
    parse_first_intent(key.strip_prefix(&[DAMAGED])?)
}

/// The number of a record of the outbox, or of one that could not be read.
pub(super) fn parse_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

pub(super) fn outbox(number: u64) -> Vec<u8> {
    let mut key = vec![OUTBOX];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The number of an outbox key.
pub(super) fn parse_outbox(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(&[OUTBOX])?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ContactId;

    #[test]
    fn due_keys_sort_by_domain_lane_and_time_and_read_back() {
        let id = |n| EnvelopeId::new(LaunchId(1), ContactId(n));
        let domain = |text| Domain::parse(text).unwrap();
        let at = Timestamp::from_ms;
        let keys = [
            due_at(&domain("a.example"), Lane::Urgent, at(900), id(9)),
            due_at(&domain("a.example"), Lane::Bulk, at(5), id(2)),
            due_at(&domain("a.example"), Lane::Bulk, at(300), id(1)),
            due_at(&domain("aa.example"), Lane::Urgent, at(1), id(1)),
        ];
        assert!(keys.is_sorted());
        assert_eq!(parse_due(&keys[2]), Some(("a.example", at(300), id(1))));
        assert_eq!(parse_due(b"d"), None);
        assert_eq!(parse_outbox(&outbox(7)), Some(7));
    }
}
