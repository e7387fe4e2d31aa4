//! The ledger on disk. The only file that knows sled.
//!
//! Two facts of sled 0.34 shape it. Its `flush` is `sync_file_range` on Linux, which a power cut may undo: so a second
//! handle on its file is synced after each flush. And one large batch leaves thousands of deferred frees to
//! crossbeam-epoch, which frees a few bags per 128 pins: without help memory and file grow for ever, so every commit
//! turns the collector by hand.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Error;
use super::ledger::{Ledger, Move, Pair};

/// Turns of the collector after a commit; enough for a batch of [`super::keeper::MOVES_MAX`] moves.
const COLLECTOR_TURNS: usize = 16;
/// The least memory sled works with, in bytes.
const CACHE_MIN: u64 = 1 << 20;

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit is on disk when it returns.
    Synced,
    /// A commit is with the operating system: lost by a power cut. Only to measure what syncing costs.
    Unsynced,
}

/// The queue's folder.
pub struct SledLedger {
    db: sled::Db,
    file: File,
    folder: PathBuf,
    durability: Durability,
}

impl SledLedger {
    /// Opens `folder`, or makes it. `cache_mb` is the memory for its pages.
    pub fn open(folder: &Path, cache_mb: u16, durability: Durability) -> Result<SledLedger, Error> {
        let failed = |why: String| Error::Open { folder: folder.to_owned(), why };
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_MIN.max(u64::from(cache_mb) << 20))
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("its log is damaged".to_owned())),
        };
        let file = File::open(folder.join("db")).map_err(|why| failed(why.to_string()))?;
        Ok(SledLedger { db, file, folder: folder.to_owned(), durability })
    }

    fn sync(&self) -> Result<(), Error> {
        if self.durability == Durability::Unsynced {
            return Ok(());
        }
        self.db.flush().map_err(|why| self.told(&why))?;
        self.file.sync_data().map_err(|why| Error::Disk { why: why.to_string() })
    }

    fn told(&self, why: &sled::Error) -> Error {
        match why {
            sled::Error::Corruption { .. } => Error::Corrupt { folder: self.folder.clone(), why: why.to_string() },
            other => Error::Disk { why: other.to_string() },
        }
    }
}

impl Ledger for SledLedger {
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for change in moves {
            match change {
                Move::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                Move::Remove(key) => batch.remove(key.as_slice()),
            }
        }
        self.db.apply_batch(batch).map_err(|why| self.told(&why))?;
        self.sync()?;
        for _ in 0..COLLECTOR_TURNS {
            crossbeam_epoch::pin().flush();
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        for pair in self.db.range(from.max(prefix)..).take(most) {
            let (key, value) = pair.map_err(|why| self.told(&why))?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        let last = self.db.scan_prefix(prefix).next_back().transpose().map_err(|why| self.told(&why))?;
        Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.db.get(key).map_err(|why| self.told(&why))?.map(|value| value.to_vec()))
    }
}
