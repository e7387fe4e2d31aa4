//! Where the intents stand. A record of the ledger is given to each copy whose final dot may be out, and to another copy as
//! soon as the first is settled: so there are as many records as copies were ever on the wire at once, written over and over
//! in one place, and going on from one copy to the next is a single write.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::EnvelopeId;

/// The records of intents by number.
#[derive(Debug, Default)]
pub(super) struct Intents {
    held: BTreeMap<EnvelopeId, u32>,
    /// Of copies that are settled; still on the ledger.
    stale: Vec<u32>,
    /// Not on the ledger.
    spare: BTreeSet<u32>,
}

impl Intents {
    /// Copies whose final dot may be out.
    pub fn open(&self) -> usize {
        self.held.len()
    }

    /// The record for a copy's intent: the one it has, else one that may be written over in this commit.
    pub fn take(&mut self, id: EnvelopeId) -> u32 {
        let Intents { held, stale, spare } = self;
        let fresh = held.len() as u32;
        *held.entry(id).or_insert_with(|| stale.pop().or_else(|| spare.pop_first()).unwrap_or(fresh))
    }

    /// The record of a copy's intent, when it has one.
    pub fn of(&self, id: EnvelopeId) -> Option<u32> {
        self.held.get(&id).copied()
    }

    /// The copy is settled, with an intent or without.
    pub fn settle(&mut self, id: EnvelopeId) {
        self.stale.extend(self.held.remove(&id));
    }

    /// Whether no record is to be removed.
    pub fn are_swept(&self) -> bool {
        self.stale.is_empty()
    }

    /// The records that nothing was written over: to be removed in the same commit.
    pub fn sweep(&mut self) -> Vec<u32> {
        self.spare.extend(&self.stale);
        std::mem::take(&mut self.stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_over_by_the_next_copy_and_removed_when_there_is_none() {
        let id = EnvelopeId::from_u64;
        let mut intents = Intents::default();
        assert_eq!([1, 2, 1].map(|copy| intents.take(id(copy))), [0, 1, 0]);
        intents.settle(id(1));
        intents.settle(id(9));
        assert_eq!((intents.take(id(3)), intents.sweep()), (0, vec![]), "the place of the first");
        intents.settle(id(2));
        intents.settle(id(3));
        assert_eq!(intents.sweep(), [1, 0]);
        assert_eq!([4, 5, 6].map(|copy| intents.take(id(copy))), [0, 1, 2]);
    }
}
