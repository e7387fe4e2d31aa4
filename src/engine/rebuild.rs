//! When the queue's files are in trouble: reading all of them, and making a new queue from the record. Both need the
//! workspace to be held, and nobody at work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Error, Workspace, agreement, opening};
use crate::base::{Address, ContactId, EnvelopeId, Span};
use crate::campaign::{Cursor, new_envelope};
use crate::mail::{Envelope, InDoubt, Standing};
use crate::queue::{Admission, Durability, Inventory, Marks, Queue, SledLedger, carry_learned, tried};
use crate::store::{CopyRow, LaunchRow, Store};
use crate::world::{Clock, World};

/// Copies read from the record, and admitted, at a time.
const PAGE: usize = 1000;
/// What is said of a copy whose queue is gone.
const LOST: &str = "its queue was rebuilt: it may have been sent";

/// What a reading of the queue found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Copies due now or later.
    pub due: u64,
    /// Copies held.
    pub held: u64,
    /// Copies whose final dot may be out: a crash left them; the next start settles them.
    pub intents: u64,
    /// Copies with an outcome that is not on record yet.
    pub outbox: u64,
    /// What is wrong, in words.
    pub complaints: Vec<String>,
}

/// Reads every record of the queue, and compares it with the record of people and outcomes.
pub fn verify(workspace: &Workspace, store: &Store) -> Result<Verified, Error> {
    let ledger = open(workspace, &workspace.queue_folder())?;
    let launches = store.open_launches()?;
    let mut complaints = Vec::new();
    let place = super::place(&workspace.queue_folder());
    if let Err(why) = agreement::agree(Marks::read(&ledger)?, store.marks()?, place, !launches.is_empty()) {
        complaints.push(why.to_string());
    }
    let all = Inventory::take(&ledger)?;
    if !all.damaged.is_empty() {
        let numbers = all.damaged.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let what = "cannot be read: what became of their copies is unknown, and they count as waiting";
        complaints.push(format!("records of outcomes (number {numbers}) {what}"));
    }
    if !all.damaged_intents.is_empty() {
        let copies = all.damaged_intents.iter().map(EnvelopeId::to_string).collect::<Vec<_>>().join(", ");
        complaints
            .push(format!("intents (of copies {copies}) could not be read: those copies were taken for in doubt"));
    }
    let mut complain = |count: u64, words: &str| {
        if count > 0 {
            complaints.push(format!("{count} {words}"));
        }
    };
    complain(all.unreadable, "records cannot be read");
    complain(all.twice, "copies stand in it twice");
    complain(strangers(&all, store)?, "copies in it are final on record, or not on record at all");
    complain(missing(&all, store, &launches)?, "copies on record as waiting are not in it");
    let count = |set: &BTreeSet<EnvelopeId>| set.len() as u64;
    Ok(Verified {
        due: count(&all.due),
        held: count(&all.held),
        intents: count(&all.intents),
        outbox: count(&all.outbox),
        complaints,
    })
}

/// Copies that the record does not expect in the queue.
fn strangers(all: &Inventory, store: &Store) -> Result<u64, Error> {
    let mut count = 0;
    for id in all.due.iter().chain(&all.held).filter(|id| !all.outbox.contains(id)) {
        count += u64::from(!store.copy(*id)?.is_some_and(|row| is_open(&row)));
    }
    Ok(count)
}

/// Copies that the record expects in the queue and that are not there. A launch that is still being planned may have
/// recorded a batch that was not admitted: it is made again.
fn missing(all: &Inventory, store: &Store, launches: &[LaunchRow]) -> Result<u64, Error> {
    let mut count = 0;
    for launch in launches.iter().filter(|launch| launch.planned) {
        each_open(store, launch, |rows| {
            let is_there = |row: &CopyRow| {
                let id = EnvelopeId::new(launch.id, row.contact);
                all.due.contains(&id) || all.held.contains(&id) || all.outbox.contains(&id)
            };
            count += rows.iter().filter(|row| !is_there(row)).count() as u64;
        })?;
    }
    Ok(count)
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Copies that will be sent again.
    pub again: u64,
    /// Copies that are held in doubt.
    pub held: u64,
    /// Whether it knows what the old one knew of sites: which are held, paused or slowed down.
    pub knows_sites: bool,
    /// Where the old queue lies now.
    pub kept: Option<PathBuf>,
}

/// Makes a new queue from the record. Until its last step the new queue belongs to nothing, so that a rebuild that was
/// cut off sends nothing and is simply done again.
pub async fn rebuild(workspace: &Workspace, store: &Store, world: &World) -> Result<Rebuilt, Error> {
    let clock = world.clock.clone();
    let folder = workspace.queue_folder();
    let kept = set_aside(&folder, clock.now().as_secs())?;
    let mut ledger = open(workspace, &folder)?;
    let known = kept.as_ref().and_then(|old| carry_over(workspace, old, &mut ledger));
    let (knows_sites, known) = (known.is_some(), known.unwrap_or_default());
    // the record may have been set back
    store.pass_over_ids(world.dice.roll()).await?;
    let launches = store.open_launches()?;
    let (queue, keeper) = Queue::open(ledger, opening(clock.clone(), store, &launches)?)?;
    // a person waits for it
    queue.hurry();
    let keeper = super::start_keeper(keeper, crate::store::Threads::Own)?;
    let (mut again, mut held) = (0, 0);
    for launch in &launches {
        match launch.in_doubt {
            InDoubt::Resend => {
                let expires = workspace.settings().retry.expires;
                again += admit_again(&queue, store, launch, &known, expires, &*clock).await?
            }
            InDoubt::Hold => held += store.hold_unsettled(launch.id, LOST, clock.now()).await?,
        }
        set_cursors(&queue, store, launch).await?;
    }
    let marks = store.marks()?;
    queue.clear_outbox(marks.last_outcome).await?;
    let epoch = marks.next_epoch + 1;
    store.announce_epoch(epoch, super::place(&folder)).await?;
    queue.set_epoch(epoch).await?;
    store.set_epoch(epoch).await?;
    queue.close().await?;
    keeper.join().await;
    Ok(Rebuilt { again, held, knows_sites, kept })
}

/// Takes over what the old queue knew of sites, unless it cannot be read; gives what it knew of copies that were tried.
fn carry_over(workspace: &Workspace, old: &Path, new: &mut SledLedger) -> Option<BTreeMap<EnvelopeId, Envelope>> {
    // damaged files may break down in the reading as well as in the opening
    let carried = catch_unwind(AssertUnwindSafe(|| {
        let old = open(workspace, old)?;
        carry_learned(&old, new)?;
        Ok::<_, Error>(tried(&old)?)
    }));
    match carried {
        Ok(Ok(known)) => Some(known),
        Ok(Err(error)) => {
            tracing::warn!(%error, "what the old queue knew of sites is lost");
            None
        }
        Err(_) => None,
    }
}

/// Admits every copy of a launch that is not final, marked as one that may have been sent. `known` is what the old queue
/// knew of those that were tried.
async fn admit_again(
    queue: &Queue,
    store: &Store,
    launch: &LaunchRow,
    known: &BTreeMap<EnvelopeId, Envelope>,
    expires: Span,
    clock: &dyn Clock,
) -> Result<u64, Error> {
    let (mut pages, mut admitted) = (Vec::new(), 0);
    each_open(store, launch, |rows| pages.push(rows))?;
    for rows in pages {
        let now = clock.now();
        let copies = rows.into_iter().filter_map(|row| {
            let address = Address::parse(&row.address).ok()?;
            let mut envelope = new_envelope(launch, row.contact, expires, now);
            envelope.tries = row.tries;
            envelope.doubtful = row.doubtful.saturating_add(1);
            let known = known.get(&envelope.id);
            keep_first_attempt(&mut envelope, &row, known, expires);
            Some((address.domain().clone(), envelope))
        });
        let copies: Vec<_> = copies.collect();
        admitted += copies.len() as u64;
        queue.admit(Admission { launch: launch.id, bucket: 0, cursor: Vec::new(), copies }).await?;
    }
    Ok(admitted)
}

/// One that was tried keeps the date of its first attempt, and when it is given up: from the old queue, or else from the
/// record, which tells the time of its last answer alone.
fn keep_first_attempt(envelope: &mut Envelope, row: &CopyRow, known: Option<&Envelope>, expires: Span) {
    match known {
        Some(known) => {
            (envelope.date, envelope.expires, envelope.source) = (known.date, known.expires, known.source);
        }
        None if row.tries > 0 => {
            (envelope.date, envelope.expires) = (Some(row.at), row.at + expires.duration());
        }
        None => {}
    }
}

/// The planner goes on behind what is on record.
async fn set_cursors(queue: &Queue, store: &Store, launch: &LaunchRow) -> Result<(), Error> {
    for (bucket, position, contact) in store.recorded_to(launch.id)? {
        let cursor = Cursor::new(position, contact).to_bytes();
        queue.admit(Admission { launch: launch.id, bucket, cursor, copies: Vec::new() }).await?;
    }
    Ok(())
}

/// Shows all copies of a launch that are not final, a page at a time.
fn each_open(store: &Store, launch: &LaunchRow, mut see: impl FnMut(Vec<CopyRow>)) -> Result<(), Error> {
    let mut after = ContactId(0);
    loop {
        let page = store.copies(launch.id, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.contact;
        see(page.into_iter().filter(is_open).collect());
    }
}

fn is_open(row: &CopyRow) -> bool {
    matches!(row.standing, Standing::Waiting | Standing::Deferred)
}

fn open(workspace: &Workspace, folder: &Path) -> Result<SledLedger, Error> {
    Ok(SledLedger::open(folder, workspace.settings().queue.cache_mb, Durability::Synced)?)
}

/// Moves the old queue out of the way; gives where it lies now.
fn set_aside(folder: &Path, seconds: i64) -> Result<Option<PathBuf>, Error> {
    if !folder.exists() {
        return Ok(None);
    }
    let kept = folder.with_extension(format!("old-{seconds}"));
    let failed = |why: std::io::Error| Error::Files { path: folder.to_owned(), why: why.to_string() };
    fs::rename(folder, &kept).map_err(failed)?;
    Ok(Some(kept))
}
