//! What a queue must be able to write: ordered keys, atomic batches, and a word when they are on disk.

use super::{Error, keys};

/// Pairs read at a time in a walk.
pub(super) const PAGE: usize = 1000;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Writes a value, whatever was there.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; one that is not there is no error.
    Remove(Vec<u8>),
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The queue's ground: an ordered table of small values. One suite of tests holds for every implementation.
pub trait Ledger: Send {
    /// Applies all moves or none, in order. When this returns `Ok`, they survive a power cut.
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error>;

    /// The queue is to end: room that was kept free may be used from now on, so that what was done can be recorded.
    fn use_reserve(&mut self) {}

    /// At most `most` pairs whose key starts with `prefix` and is not below `from`, in order of key.
    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error>;

    /// The last pair whose key starts with `prefix`.
    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error>;

    /// The value of a key.
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
}

/// Shows every pair under a prefix, in order of key.
pub(super) fn walk(ledger: &dyn Ledger, prefix: u8, mut see: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
    let mut from = Vec::new();
    loop {
        let page = ledger.scan(&[prefix], &from, PAGE)?;
        page.iter().for_each(|(key, value)| see(key, value));
        match page.last() {
            Some((key, _)) if page.len() == PAGE => from = keys::after(key),
            _ => return Ok(()),
        }
    }
}
