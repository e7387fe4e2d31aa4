//! What is on the road: due times, leases, intents and the outbox, on disk in sled. Knows nothing of messages, hosts or
//! people; never waits for any of them.
//!
//! # The states of a copy
//! | state | on the ledger | in memory |
//! |---|---|---|
//! | waiting | `d` | counted by domain, bucket and launch |
//! | leased | `d` | in the domain's set of leases: nothing is written for a lease |
//! | intended | `d`, `i` | leased; its final dot may be out |
//! | held | `h` | – : its launch is paused |
//! | gone | – ; its outcome in `o` until the store has it | – |
//!
//! # The moves, and what a crash makes of them
//! | move | one atomic batch | crash before it | crash after it |
//! |---|---|---|---|
//! | admit | put `d`s and `p`; before it the store records the batch | planned again, same ids | nothing to do |
//! | go on | settle the previous copy of this connection **and** put `i` for the next; awaited before the next final dot | nothing of the next was accepted | the next is in doubt if its answer is lost |
//! | deliver, fail, bar | remove `d`; remove `i`, or write the next intent over it; put `o` | in doubt | done |
//! | defer | move `d`; remove `i`, or write the next intent over it; put `o` | in doubt | due at its time |
//! | drop | a task that ended over a lease: with an `i` as recover, without one nothing | recovered | listed in `o` |
//! | hold, release | `d` to `h`; `h` back to `d` | as before | held; due |
//! | recover | at open, before anything else, each `i`: to `d` marked `doubtful` (resend), or gone with an outcome in doubt (hold) | recovered again | listed in `o` |
//! | cancel, retry | as fail, as defer | as before | done |
//! | clear | remove `o`s, once the store has them | copied again, same number, ignored | done |
//!
//! An intent is written for one copy per open connection at a time, and the next only in the batch that settles it: so at
//! any instant at most one copy per open connection is in doubt, and after any crash each is known.
//!
//! # A disk that takes nothing
//! A batch that cannot be written is kept and tried again until it can; every move is a put or a removal, so that doing it
//! twice does no harm. Meanwhile nobody is answered: connections wait before their next final dot, the planner stands
//! still, and all goes on by itself once there is room or the disk is mended. [`Queue::stall`] tells why and since when.
//! Only a queue that is to end gives up, after some seconds, and tells everybody why.

mod agenda;
mod codec;
mod intents;
mod inventory;
mod keeper;
mod keys;
mod lease;
mod ledger;
mod lookout;
mod memory;
mod retry;
mod sled;
mod spans;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::base::{Domain, EnvelopeId, LaunchId, SourceId, Timestamp};
use crate::mail::{Envelope, Outcome};

pub use inventory::{Inventory, carry_learned, tried};
pub use keeper::{Keeper, Opening};
pub use lease::{Lease, Next, Settlement, Until};
pub use ledger::{Ledger, Move, Pair};
pub use memory::MemoryLedger;
pub use sled::{Durability, SledLedger};
pub use spans::Spans;

use keeper::{Face, Request};

/// Buckets the planner reads by; each has its share of the queue.
pub const BUCKETS: usize = crate::base::BUCKETS as usize;

/// No bucket the planner reads: its cursor means nothing.
const BESIDE: u8 = u8::MAX;

/// What the queue could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The folder cannot be opened.
    #[error("cannot open the queue in {}: {why}. If another mailshot uses it, stop that one; if its files are damaged, run `mailshot queue rebuild`", folder.display())]
    Open {
        /// The queue's folder.
        folder: PathBuf,
        /// What sled or the system said.
        why: String,
    },
    /// A record cannot be read.
    #[error("the queue in {} is damaged ({why}): run `mailshot queue rebuild`", folder.display())]
    Corrupt {
        /// The queue's folder.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A write or sync failed: nothing of it counts.
    #[error(
        "the queue cannot be written: {why}. Nothing is sent that could not be recorded; make room or mend the disk"
    )]
    Disk {
        /// What the system said.
        why: String,
    },
    /// The files cannot be worked on by this process any more.
    #[error(
        "the queue can no longer be written by this process ({why}); everything admitted is on disk: start it again"
    )]
    Spent {
        /// What sled said.
        why: String,
    },
    /// The keeper has stopped.
    #[error("the queue is closed")]
    Closed,
}

impl Error {
    /// Whether the same may succeed later, once there is room or the disk is mended.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Disk { .. } => true,
            Error::Open { .. } | Error::Corrupt { .. } | Error::Spent { .. } | Error::Closed => false,
        }
    }
}

/// Why nothing in the queue moves: a write is tried again until it succeeds, and everybody waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// What failed last.
    pub why: Error,
    /// Since when.
    pub since: Timestamp,
}

/// Copies to be admitted, with how far the planner has come: one commit. A hundred or so at a time, so that settlements do
/// not wait long behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The launch.
    pub launch: LaunchId,
    /// The bucket the planner read.
    pub bucket: u8,
    /// How far it has read: bytes of the planner's own.
    pub cursor: Vec<u8>,
    /// The copies with their domains; may be none.
    pub copies: Vec<(Domain, Envelope)>,
}

/// What is to happen to all copies of a launch or a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sweep {
    /// Put aside until released.
    Hold,
    /// Put back.
    Release,
    /// Settled as cancelled; the outcome given, with each copy's id and tries in it; in doubt where an answer was lost. Their
    /// launch is held no longer.
    Cancel(Outcome),
    /// The same, and a launch that is held stays so.
    Drop(Outcome),
    /// Due now, and their domains rest no longer.
    Retry,
    /// Nothing: they are counted.
    Count,
}

/// Whose copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A launch's.
    Launch(LaunchId),
    /// A domain's, whatever launch they are of. Copies of a domain are never held or released by themselves.
    Domain(Domain),
}

impl From<LaunchId> for Whose {
    fn from(launch: LaunchId) -> Whose {
        Whose::Launch(launch)
    }
}

impl From<Domain> for Whose {
    fn from(domain: Domain) -> Whose {
        Whose::Domain(domain)
    }
}

/// How much is on the road.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Depth {
    /// Copies waiting or leased.
    pub waiting: u64,
    /// The same by bucket.
    pub by_bucket: Vec<u32>,
    /// The same by launch; launches without copies are absent.
    pub by_launch: BTreeMap<LaunchId, u64>,
    /// Copies held.
    pub held: u64,
    /// The same by launch; launches without any are absent.
    pub held_by_launch: BTreeMap<LaunchId, u64>,
    /// The highest number in the outbox; outcomes up to it may not be in the store yet.
    pub last_outcome: u64,
}

/// By what a queue and a store prove that they belong together; read before the queue is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The number set with [`Queue::set_epoch`]; 0 in a new queue.
    pub epoch: u64,
    /// The highest number cleared from the outbox: the store has every outcome up to it.
    pub cleared: u64,
    /// The highest number ever used in the outbox.
    pub last: u64,
}

impl Marks {
    /// The marks on a ledger that nobody writes.
    pub fn read(ledger: &impl Ledger) -> Result<Marks, Error> {
        let number = |key: &[u8]| Ok(keys::number(ledger.value(key)?));
        let cleared = number(keys::CLEARED)?;
        let last = ledger.last(&[keys::OUTBOX])?.and_then(|(key, _)| keys::parse_outbox(&key)).unwrap_or(0);
        Ok(Marks { epoch: number(keys::EPOCH)?, cleared, last: last.max(cleared) })
    }
}

/// A domain with work due, claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The domain.
    pub domain: Domain,
    /// The launch of the copy that comes first: it tells whether mail goes to the domain's own hosts or through a relay.
    pub launch: LaunchId,
}

/// How much waits for one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDepth {
    /// The domain.
    pub domain: Domain,
    /// Copies waiting or leased.
    pub waiting: u32,
    /// Copies out on lease.
    pub leased: u32,
    /// When the next is due; `None` while claimed.
    pub next: Option<Timestamp>,
    /// Not claimed before this time.
    pub rest: Timestamp,
}

/// Where a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The copy.
    pub envelope: Envelope,
    /// Whether it is out on lease.
    pub leased: bool,
    /// Whether it is held with its launch.
    pub held: bool,
}

/// A handle on the queue. Cheap to clone; all work is done by the [`Keeper`].
#[derive(Clone)]
pub struct Queue {
    keeper: mpsc::Sender<Request>,
    depth: Arc<Mutex<Depth>>,
    spans: Arc<Mutex<Spans>>,
    stall: watch::Receiver<Option<Stall>>,
    hurry: CancellationToken,
}

impl Queue {
    /// Opens a queue on a ledger: settles what a crash left in doubt, and counts what is there. Nothing happens until the
    /// keeper runs.
    pub fn open(ledger: impl Ledger + 'static, opening: Opening) -> Result<(Queue, Keeper), Error> {
        let (keeper, requests) = mpsc::channel(keeper::REQUESTS_MAX);
        let depth = Arc::new(Mutex::new(Depth::default()));
        let spans = Arc::<Mutex<Spans>>::default();
        let (shows, stall) = watch::channel(None);
        let hurry = CancellationToken::new();
        let face = Face { depth: depth.clone(), spans: spans.clone(), stall: shows, hurry: hurry.clone() };
        let working = Keeper::open(Box::new(ledger), opening, requests, face)?;
        Ok((Queue { keeper, depth, spans, stall, hurry }, working))
    }

    /// Takes copies in, and how far the planner has come: one commit, durable when this returns. Waits while settlements
    /// are waiting.
    pub async fn admit(&self, admission: Admission) -> Result<(), Error> {
        self.admit_all(vec![admission]).await
    }

    /// As [`Queue::admit`] for one admission after the other, in this order; durable when this returns. While copies are
    /// sent each is a commit of its own, else as many as fit make one.
    pub async fn admit_all(&self, admissions: Vec<Admission>) -> Result<(), Error> {
        self.ask(|answer| Request::Admit(admissions, answer)).await
    }

    /// Takes more copies of a launch in, beside what the planner does: its cursors stay.
    pub async fn admit_more(&self, launch: LaunchId, copies: Vec<(Domain, Envelope)>) -> Result<(), Error> {
        self.admit(Admission { launch, bucket: BESIDE, cursor: Vec::new(), copies }).await
    }

    /// Waits until some domain has a copy due, and claims it: nobody else gets it until it is given back.
    pub async fn claim(&self) -> Result<Claimed, Error> {
        self.ask(Request::Claim).await
    }

    /// At most `most` due copies of a claimed domain, urgent ones first, then by due time. Fewer than asked for: no more
    /// are due, the claim is given back, and the domain waits for its next due time.
    pub async fn lease(&self, domain: &Domain, most: usize) -> Result<Vec<Lease>, Error> {
        self.ask(|answer| Request::Lease(domain.clone(), most, answer)).await
    }

    /// Gives a claim back; the domain may not be claimed again before `until`.
    pub async fn rest(&self, domain: &Domain, until: impl Into<Until>) -> Result<(), Error> {
        let until = until.into();
        self.ask(|answer| Request::Rest(domain.clone(), until, answer)).await
    }

    /// Ends the rest of every domain, and nothing counts as waiting for a person any more: whoever had a reason gives it again
    /// when it is claimed or leased.
    pub async fn wake(&self) -> Result<(), Error> {
        self.ask(Request::Wake).await
    }

    /// Commits settlements in one batch with whatever else has piled up; durable when this returns.
    pub async fn settle(&self, batch: Vec<Settlement>) -> Result<(), Error> {
        self.ask(|answer| Request::Settle(batch, answer)).await
    }

    /// Does something to all copies of a launch or a domain that are not leased; those of a launch that are follow when
    /// they come home or are leased again. Gives how many it was done to.
    pub async fn sweep(&self, whose: impl Into<Whose>, sweep: Sweep) -> Result<u64, Error> {
        let whose = whose.into();
        self.ask(|answer| Request::Sweep(whose, sweep, answer)).await
    }

    /// How far the planner has come in a bucket of a launch.
    pub async fn cursor(&self, launch: LaunchId, bucket: u8) -> Result<Option<Vec<u8>>, Error> {
        self.ask(|answer| Request::Value(keys::cursor(launch, bucket), answer)).await
    }

    /// What was learned of a site, as written by [`Queue::learn`].
    pub async fn learned(&self, source: SourceId, site: &str) -> Result<Option<Vec<u8>>, Error> {
        self.ask(|answer| Request::Value(keys::learned(source, site), answer)).await
    }

    /// All that was learned, by source and site.
    pub async fn all_learned(&self) -> Result<Vec<(SourceId, String, Vec<u8>)>, Error> {
        self.ask(Request::AllLearned).await
    }

    /// The numbers of sources by their names, in the same order: what was learned and what copies keep stands under these.
    /// A name keeps its number for good, and a new one gets one that no other ever had. A queue that knows no names yet
    /// counts them in the order given, as queues did that kept none.
    pub async fn number_sources(&self, names: Vec<String>) -> Result<Vec<SourceId>, Error> {
        self.ask(|answer| Request::NumberSources(names, answer)).await
    }

    /// Keeps what was learned of a site over restarts: bytes of the caller's own, at most 100; none: it is forgotten.
    pub async fn learn(&self, source: SourceId, site: &str, what: Vec<u8>) -> Result<(), Error> {
        self.ask(|answer| Request::Learn(keys::learned(source, site), what, answer)).await
    }

    /// Waits until there are outcomes, then gives at most about `most` of them, and the number of the last batch they
    /// are from. The same ones come again until they are cleared.
    pub async fn outbox(&self, most: usize) -> Result<(u64, Vec<Outcome>), Error> {
        self.ask(|answer| Request::Outbox(most, answer)).await
    }

    /// Forgets outcomes up to a number: the store has them.
    pub async fn clear_outbox(&self, up_to: u64) -> Result<(), Error> {
        self.ask(|answer| Request::Clear(up_to, answer)).await
    }

    /// The number by which queue and store prove that they belong together; 0 in a new queue.
    pub async fn epoch(&self) -> Result<u64, Error> {
        Ok(keys::number(self.ask(|answer| Request::Value(keys::EPOCH.to_vec(), answer)).await?))
    }

    /// Sets the epoch.
    pub async fn set_epoch(&self, epoch: u64) -> Result<(), Error> {
        self.ask(|answer| Request::Learn(keys::EPOCH.to_vec(), epoch.to_be_bytes().to_vec(), answer)).await
    }

    /// One copy of a domain; `None`: it is not in the queue. Reads the domain's copies until it is found.
    pub async fn find(&self, domain: &Domain, copy: EnvelopeId) -> Result<Option<Place>, Error> {
        self.ask(|answer| Request::Find(domain.clone(), copy, answer)).await
    }

    /// How much waits for one domain; `None`: nothing.
    pub async fn domain(&self, domain: &Domain) -> Result<Option<DomainDepth>, Error> {
        self.ask(|answer| Request::Domain(domain.clone(), answer)).await
    }

    /// At most `most` domains with copies, those with the most first.
    pub async fn domains(&self, most: usize) -> Result<Vec<DomainDepth>, Error> {
        self.ask(|answer| Request::Domains(most, answer)).await
    }

    /// Whether nothing is claimed or leased, and nothing is due before `until` but what waits for a person.
    pub async fn is_idle(&self, until: Timestamp) -> Result<bool, Error> {
        self.ask(|answer| Request::Idle(until, answer)).await
    }

    /// From now on a disk in trouble is waited for no longer than some seconds; then everybody who asks is told why.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Ends the keeper, whoever still holds a handle: what was asked before is committed, what is asked after is refused.
    pub async fn close(&self) -> Result<(), Error> {
        self.hurry();
        self.ask(Request::Close).await
    }

    /// Why nothing moves, while nothing does.
    pub fn stall(&self) -> Option<Stall> {
        self.stall.borrow().clone()
    }

    /// Waits until nothing moves; gives why. Never, when the keeper has ended.
    pub async fn stalled(&self) -> Stall {
        let mut stall = self.stall.clone();
        match stall.wait_for(Option::is_some).await.map(|stall| stall.clone()) {
            Ok(Some(stall)) => stall,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How much is on the road, as of the last commit.
    pub fn depth(&self) -> Depth {
        lock(&self.depth).clone()
    }

    /// How long copies were out on lease until their settlement was durable, since the queue was opened.
    pub fn spans(&self) -> Spans {
        lock(&self.spans).clone()
    }

    /// How many launches have copies waiting or leased, as of the last commit.
    pub fn launches(&self) -> usize {
        lock(&self.depth).by_launch.len()
    }

    /// Copies waiting or leased in one bucket, as of the last commit.
    pub fn waiting_in(&self, bucket: u8) -> u32 {
        lock(&self.depth).by_bucket.get(usize::from(bucket)).copied().unwrap_or(0)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.keeper.send(request(answer)).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

/// What is shown is changed as a whole, so that a panic elsewhere cannot spoil it.
fn lock<T>(shown: &Mutex<T>) -> MutexGuard<'_, T> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
