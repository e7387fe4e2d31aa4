//! The ledger on disk. The only file that knows sled.
//!
//! Facts of sled 0.34 shape it. Its `flush` is `sync_file_range` on Linux, which a power cut may undo: so a second handle
//! on its file is synced after each flush. One large batch leaves thousands of deferred frees to crossbeam-epoch, which
//! frees a few bags per 128 pins: without help memory and file grow for ever, so every commit turns the collector by hand.
//! After one failed write it refuses everything: so its files are closed and opened again before the next try. And it
//! reads a snapshot that was cut off while it was written as damage: so such a file is removed before it is opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::Error;
use super::ledger::{Ledger, Move, Pair};
use super::lookout::Watch;

/// Turns of the collector after a commit; enough for a batch of [`super::keeper::MOVES_MAX`] moves.
const COLLECTOR_TURNS: usize = 16;
/// The least memory sled works with, in bytes.
const CACHE_MIN: u64 = 1 << 20;
/// Bytes written again at a time.
const PIECE: usize = 1 << 20;

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
    /// `None`: they could not be opened again so far.
    files: Option<Files>,
    folder: PathBuf,
    cache: u64,
    durability: Durability,
    /// Bytes that must be free on the disk before anything is written.
    reserve: u64,
    /// A write has failed: what sled holds in memory may not be what is on disk.
    is_unsound: bool,
    watch: Watch<sled::Db>,
}

struct Files {
    db: sled::Db,
    file: File,
}

impl SledLedger {
    /// Opens `folder`, or makes it. `cache_mb` is the memory for its pages.
    pub fn open(folder: &Path, cache_mb: u16, durability: Durability) -> Result<SledLedger, Error> {
        let failed = |why: String| Error::Open { folder: folder.to_owned(), why };
        let cache = CACHE_MIN.max(u64::from(cache_mb) << 20);
        let files = open_files(folder, cache).map_err(|error| match error {
            Error::Disk { why } | Error::Corrupt { why, .. } | Error::Spent { why } => failed(why),
            error @ (Error::Open { .. } | Error::Closed) => error,
        })?;
        // an error sled has kept to itself is heard by whoever flushes next, and wakes those who wait
        let watch = Watch::start(|db: sled::Db| drop(db.flush())).map_err(|why| failed(why.to_string()))?;
        let (files, folder) = (Some(files), folder.to_owned());
        Ok(SledLedger { files, folder, cache, durability, reserve: 0, is_unsound: false, watch })
    }

    /// The file in a queue's folder that everything is in; what lies beside it is made from it.
    pub fn file_in(folder: &Path) -> PathBuf {
        folder.join("db")
    }

    /// Writes nothing while less than `mb` MiB are free on its disk: sled is never left without room in the middle of a
    /// write, and others who write to the same disk get no further than the queue can wait for.
    pub fn with_reserve(mut self, mb: u32) -> SledLedger {
        self.reserve = u64::from(mb) << 20;
        self
    }

    fn look_for_room(&self) -> Result<(), Error> {
        let place = self.folder.display();
        let found = statvfs(&self.folder).map_err(|why| Error::Disk { why: format!("{place}: {why}") })?;
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Error::Disk { why: format!("the disk of {place} is mounted read-only") });
        }
        if found.f_bavail.saturating_mul(found.f_frsize) < self.reserve {
            let mb = self.reserve >> 20;
            return Err(Error::Disk { why: format!("less than {mb} MiB are free on the disk of {place}") });
        }
        Ok(())
    }

    /// Closes the files and opens them again, on what is on disk.
    fn mend(&mut self) -> Result<(), Error> {
        self.files = None;
        let again =
            |why: &dyn std::fmt::Display| Error::Disk { why: format!("its files cannot be opened again: {why}") };
        write_again(&SledLedger::file_in(&self.folder)).map_err(|why| again(&why))?;
        self.files = Some(open_files(&self.folder, self.cache).map_err(|error| match error {
            Error::Disk { why } => again(&why),
            other => other,
        })?);
        Ok(())
    }

    fn apply(&mut self, moves: &[Move]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for change in moves {
            match change {
                Move::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                Move::Remove(key) => batch.remove(key.as_slice()),
            }
        }
        let Files { db, file } = self.files()?;
        let _watched = self.watch.begin(db.clone());
        db.apply_batch(batch).map_err(|why| told(&self.folder, &why))?;
        if self.durability == Durability::Synced {
            db.flush().map_err(|why| told(&self.folder, &why))?;
            file.sync_data().map_err(|why| Error::Disk { why: why.to_string() })?;
        }
        Ok(())
    }

    fn files(&self) -> Result<&Files, Error> {
        self.files.as_ref().ok_or_else(|| Error::Disk { why: "its files are not open".to_owned() })
    }
}

fn open_files(folder: &Path, cache: u64) -> Result<Files, Error> {
    let failed = |why: io::Error| Error::Disk { why: why.to_string() };
    remove_cut_off(folder).map_err(failed)?;
    let config =
        sled::Config::new().path(folder).cache_capacity(cache).flush_every_ms(None).mode(sled::Mode::HighThroughput);
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    // not to be tried again and again: it would break down over the same each time
    let opened = opened.map_err(|_| Error::Corrupt { folder: folder.to_owned(), why: "its log is damaged".into() })?;
    let db = opened.map_err(|why| told(folder, &why))?;
    let file = File::open(SledLedger::file_in(folder)).map_err(failed)?;
    Ok(Files { db, file })
}

/// Removes snapshots that were cut off, by a full disk or a kill, before they were moved to their place.
fn remove_cut_off(folder: &Path) -> io::Result<()> {
    let entries = match folder.read_dir() {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "generating") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes every page again: one that the system failed to write counts as written from then on, and would never be.
fn write_again(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // sled's own threads may still be at it
    file.try_lock().map_err(|why| match why {
        TryLockError::WouldBlock => io::Error::other("a write of before is still under way"),
        TryLockError::Error(why) => why,
    })?;
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all_at(&piece[..read], at)?;
        at += read as u64;
    }
}

fn told(folder: &Path, why: &sled::Error) -> Error {
    match why {
        sled::Error::Io(why) => Error::Disk { why: plain(why.to_string()) },
        sled::Error::Corruption { .. } => Error::Corrupt { folder: folder.to_owned(), why: why.to_string() },
        sled::Error::ReportableBug(_) | sled::Error::Unsupported(_) | sled::Error::CollectionNotFound(_) => {
            Error::Spent { why: why.to_string() }
        }
    }
}

/// What the system said; sled hands an error of its own threads on as debug output.
fn plain(told: String) -> String {
    let message = told.split_once("message: \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()));
    message.unwrap_or(told)
}

impl Ledger for SledLedger {
    fn use_reserve(&mut self) {
        self.reserve = 0;
    }

    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        self.look_for_room()?;
        if self.is_unsound {
            self.mend()?;
        }
        // until the opposite is known, whatever way it ends
        self.is_unsound = true;
        self.apply(moves)?;
        self.is_unsound = false;
        for _ in 0..COLLECTOR_TURNS {
            crossbeam_epoch::pin().flush();
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        for pair in self.files()?.db.range(from.max(prefix)..).take(most) {
            let (key, value) = pair.map_err(|why| told(&self.folder, &why))?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        let last = self.files()?.db.scan_prefix(prefix).next_back().transpose();
        let last = last.map_err(|why| told(&self.folder, &why))?;
        Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.files()?.db.get(key).map_err(|why| told(&self.folder, &why))?.map(|value| value.to_vec()))
    }
}
