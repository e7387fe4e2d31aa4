//! The ledger in memory: the twin for simulations. It can forget what was not yet durable, and fail on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use super::ledger::{Ledger, Move, Pair};

/// A table that lives as long as any of its clones: reopening a queue on a clone is a restart after a crash.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    commits: u64,
    fails_after: Option<u64>,
}

impl MemoryLedger {
    /// Commits done so far.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// Lets every commit after the first `commits` fail, as a full disk does; `None` heals it.
    pub fn fail_after(&self, commits: Option<u64>) {
        self.lock().fails_after = commits;
    }

    /// A ledger with the same pairs that goes its own way from here: what a copy of the folder would be.
    pub fn fork(&self) -> MemoryLedger {
        let pairs = self.lock().pairs.clone();
        MemoryLedger { table: Arc::new(Mutex::new(Table { pairs, ..Table::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // a commit changes the table only once all its moves are known to be possible
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for MemoryLedger {
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        let mut table = self.lock();
        if table.fails_after.is_some_and(|most| table.commits >= most) {
            return Err(Error::Disk { why: "the simulated disk is full".into() });
        }
        table.commits += 1;
        for change in moves {
            match change {
                Move::Put(key, value) => drop(table.pairs.insert(key.clone(), value.clone())),
                Move::Remove(key) => drop(table.pairs.remove(key)),
            }
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        let table = self.lock();
        let start = from.max(prefix).to_vec();
        let pairs = table.pairs.range(start..).take_while(|(key, _)| key.starts_with(prefix)).take(most);
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        let table = self.lock();
        let below = table.pairs.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(below.last().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.lock().pairs.get(key).cloned())
    }
}
