//! The record of people, plans and outcomes: SQLite behind the words of its callers. Owns the schema and every SQL
//! statement; decides nothing.
//!
//! Writes are durable when they return: one writer thread commits what has piled up in one transaction, with
//! `synchronous = FULL`. Look-ups run on the caller's thread over a pool of readers; those on the sending path are
//! single statements of a few microseconds.

mod candidates;
mod condition;
mod copies;
mod imports;
mod launches;
mod mailboxes;
mod migrate;
mod people;
mod retention;
mod road;
mod settling;
mod signups;
mod sqlite;
mod subscriptions;
mod suppressions;
mod tls_sessions;
mod upkeep;
mod visits;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use candidates::{Candidate, FieldRow, Meant, Member, Page, Tier};
pub use condition::{Comparison, Condition, Fate, Position, Trait};
pub use copies::{CopyRow, Figure, LookRow, PlannedRow};
pub use imports::{Erasures, ImportBatch, ImportCounts, ImportRow, OnConflict, Traces};
pub use launches::{EditionRow, LaunchKind, LaunchOptions, LaunchRow, LaunchState, NewLaunch};
pub use people::{ContactRow, EventRow, ListRow, MembershipRow, MembershipStatus, NewContact};
pub use retention::Faded;
pub use road::{Break, Counted, Strain, UnknownReply, WarmupRow};
#[cfg(test)]
pub(crate) use settling::BarsNobody;
pub use settling::{Finding, Judge, Late, LateBounce, Mailing, Weight};
pub use signups::{Confirmation, NewSignup, SignupRow};
pub use subscriptions::SubscriptionRow;
pub use suppressions::{Reason, SuppressionRow};
pub use tls_sessions::TlsSessionRow;
pub use upkeep::{QueuePlace, StoreMarks};
pub use visits::{Deeds, LinkFigure, Readers, Reading, Visit, VisitRow, Visitor};

use sqlite::Backend;

/// What the record could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `store.url` names nothing this version can open.
    #[error("store.url = \"{0}\": write \"sqlite:PATH\"")]
    Url(String),
    /// The file was written by a later version of mailshot.
    #[error("{} was written by a newer mailshot (schema {found}, this one knows {known}): use that version, or restore a backup", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema this version knows.
        known: u32,
    },
    /// The disk is full.
    #[error("the disk is full: {} could not grow. Once there is room, it can be done again", .0.display())]
    Full(PathBuf),
    /// Another process holds the file for longer than we wait.
    #[error("{} is locked by another process (a backup?). Once that has ended, it can be done again", .0.display())]
    Locked(PathBuf),
    /// The file may not be written.
    #[error("{} cannot be written: check its owner, its permissions and whether the disk is mounted read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The file is damaged.
    #[error("{} is damaged ({why}): stop, keep a copy of it, and restore the last backup", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// The folder or file cannot be opened.
    #[error("cannot open {}: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The disk failed.
    #[error("{} cannot be read or written ({why}): look at the disk it lies on", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// A statement failed for another reason.
    #[error("the record in {} failed: {why}", path.display())]
    Statement {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// The writer has stopped.
    #[error("the record is closed")]
    Closed,
}

impl Error {
    /// Whether the same may succeed later: once there is room, a lock is released, the disk is mended.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Full(_) | Error::Locked(_) | Error::ReadOnly(_) | Error::Open { .. } | Error::Disk { .. } => true,
            Error::Url(_) | Error::Newer { .. } | Error::Corrupt { .. } | Error::Statement { .. } | Error::Closed => {
                false
            }
        }
    }
}

/// Where the store's work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Writes on a thread of their own, reads over a pool: for use.
    Own,
    /// Everything on the caller's thread, over one connection: for simulations.
    Inline,
}

/// The record. Cheap to clone; all clones share one writer.
#[derive(Clone)]
pub struct Store {
    backend: Arc<Backend>,
}

impl Store {
    /// Opens the record that `url` names (`sqlite:PATH`, relative to `workspace`; `sqlite::memory:` with
    /// [`Threads::Inline`]), makes it when it is missing, and brings its schema up to date.
    pub fn open(url: &str, workspace: &Path, threads: Threads) -> Result<Store, Error> {
        let place = url.strip_prefix("sqlite:").filter(|p| !p.is_empty()).ok_or_else(|| Error::Url(url.to_owned()))?;
        let path = if place == ":memory:" { PathBuf::from(place) } else { workspace.join(place) };
        Ok(Store { backend: Arc::new(Backend::open(path, threads)?) })
    }

    /// The file the record lies in.
    pub fn path(&self) -> &Path {
        self.backend.path()
    }

    /// What of the file was found damaged since it was opened: nothing that builds on it may go on.
    pub fn damage(&self) -> Option<Error> {
        self.backend.damage()
    }

    /// Refuses every write, as on a disk that turned read-only, or no more. For simulations: needs [`Threads::Inline`].
    pub fn refuse_writes(&self, refuse: bool) -> Result<(), Error> {
        self.backend.read(|db| db.pragma_update(None, "query_only", refuse))
    }

    /// The number by which queue and store prove that they belong together; 0 in a new store.
    pub fn epoch(&self) -> Result<u64, Error> {
        self.mark("epoch")
    }

    /// Sets the epoch.
    pub async fn set_epoch(&self, epoch: u64) -> Result<(), Error> {
        self.backend.write(move |db| sqlite::set_mark(db, "epoch", epoch)).await
    }

    /// The number of the last batch of outcomes on record; 0 when there is none.
    pub fn last_outcome(&self) -> Result<u64, Error> {
        self.mark("outcome")
    }

    fn mark(&self, name: &'static str) -> Result<u64, Error> {
        self.backend.read(|db| sqlite::mark(db, name))
    }
}

#[cfg(test)]
mod tests;
