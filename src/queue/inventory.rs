//! Everything on a ledger, read once: for `queue verify`. Nobody may be writing.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Ledger, Move, PAGE, walk};
use super::{Error, codec, keys};
use crate::base::EnvelopeId;
use crate::mail::Envelope;

/// What a ledger holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Copies due now or later.
    pub due: BTreeSet<EnvelopeId>,
    /// Copies held.
    pub held: BTreeSet<EnvelopeId>,
    /// Copies whose final dot may be out.
    pub intents: BTreeSet<EnvelopeId>,
    /// Copies with an outcome that may not be on record yet.
    pub outbox: BTreeSet<EnvelopeId>,
    /// Copies that are due twice, or due and held.
    pub twice: u64,
    /// Records that cannot be read, but for those of the outbox.
    pub unreadable: u64,
    /// The numbers of records of the outbox that cannot be read: what they said became of their copies is lost.
    pub damaged: BTreeSet<u64>,
    /// Copies whose intent could not be read when it was recovered: each is in doubt.
    pub damaged_intents: BTreeSet<EnvelopeId>,
}

impl Inventory {
    /// Reads everything.
    pub fn take(ledger: &impl Ledger) -> Result<Inventory, Error> {
        let mut all = Inventory::default();
        walk(ledger, keys::DUE, |key, value| {
            match keys::parse_due(key).and_then(|(_, _, id)| codec::read_envelope(id, value)) {
                Some(envelope) => all.twice += u64::from(!all.due.insert(envelope.id)),
                None => all.unreadable += 1,
            }
        })?;
        walk(ledger, keys::HELD, |key, value| match parked(key, value) {
            Some(Envelope { id, .. }) => all.twice += u64::from(all.due.contains(&id) || !all.held.insert(id)),
            None => all.unreadable += 1,
        })?;
        walk(ledger, keys::INTENT, |key, value| match codec::read_intent(key, value).copy {
            Some((_, envelope)) => drop(all.intents.insert(envelope.id)),
            None => all.unreadable += 1,
        })?;
        walk(ledger, keys::OUTBOX, |key, value| match codec::read_outcomes(value) {
            Some(outcomes) => all.outbox.extend(outcomes.iter().map(|outcome| outcome.envelope)),
            None => all.damaged.extend(keys::parse_number(key)),
        })?;
        walk(ledger, keys::DAMAGED, |key, _| match keys::parse_damaged_intent(key) {
            Some(id) => drop(all.damaged_intents.insert(id)),
            None => all.damaged.extend(keys::parse_number(key)),
        })?;
        Ok(all)
    }
}

/// Copies all that was learned of sites from one ledger to another, with the numbers of the sources that learned it.
pub fn carry_learned(from: &impl Ledger, to: &mut impl Ledger) -> Result<(), Error> {
    let mut learned = Vec::new();
    for prefix in [keys::SOURCE, keys::LEARNED] {
        walk(from, prefix, |key, value| learned.push(Move::Put(key.to_vec(), value.to_vec())))?;
    }
    learned.chunks(PAGE).try_for_each(|moves| to.commit(moves))
}

/// All copies on a ledger that were tried, as far as they can be read.
pub fn tried(ledger: &impl Ledger) -> Result<BTreeMap<EnvelopeId, Envelope>, Error> {
    let mut all = BTreeMap::new();
    let mut see = |envelope: Option<Envelope>| {
        let tried = envelope.filter(|envelope| envelope.date.is_some());
        all.extend(tried.map(|envelope| (envelope.id, envelope)));
    };
    walk(ledger, keys::DUE, |key, value| {
        see(keys::parse_due(key).and_then(|(_, _, id)| codec::read_envelope(id, value)));
    })?;
    walk(ledger, keys::HELD, |key, value| see(parked(key, value)))?;
    walk(ledger, keys::INTENT, |key, value| see(codec::read_intent(key, value).copy.map(|(_, envelope)| envelope)))?;
    Ok(all)
}

/// A copy with its id at the end of its key, when its record can be read.
fn parked(key: &[u8], value: &[u8]) -> Option<Envelope> {
    let id = EnvelopeId::from_u64(u64::from_be_bytes(*key.last_chunk()?));
    codec::read_parked(id, value).map(|(_, envelope)| envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::MemoryLedger;

    #[test]
    fn what_was_learned_is_carried_with_the_numbers_of_its_sources() {
        let (mut from, mut to) = (MemoryLedger::default(), MemoryLedger::default());
        let put = |key: &[u8]| Move::Put(key.to_vec(), b"value".to_vec());
        from.commit(&[put(b"nnorth"), put(b"s12google"), put(b"p1")]).unwrap();
        carry_learned(&from, &mut to).unwrap();
        let keys: Vec<Vec<u8>> = to.scan(&[], &[], 9).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"nnorth".to_vec(), b"s12google".to_vec()]);
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let mut ledger = MemoryLedger::default();
        let bad = [&b"d"[..], b"hx", b"i12345678", b"o12345678"];
        let moves: Vec<Move> = bad.iter().map(|key| Move::Put(key.to_vec(), b"?".to_vec())).collect();
        ledger.commit(&moves).unwrap();
        let found =
            Inventory { unreadable: 3, damaged: [u64::from_be_bytes(*b"12345678")].into(), ..Inventory::default() };
        assert_eq!(Inventory::take(&ledger), Ok(found));
    }
}
