//! The planner: reads who gets a copy, puts the batch on record, and admits it to the queue. Keeps one plan per running
//! launch, with a cursor per bucket; a bucket whose share of the queue is full waits alone, so that a giant that is down
//! never starves those behind it. Half of the queue is shared out evenly; of the other half each bucket may have as much as
//! it leaves free, so that one that defers everything has room for what waits, and the next has some as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::bell::Bell;
use super::handle::called_off;
use super::stalls::Stalls;
use crate::base::{Address, ContactId, LaunchId, Span, Timestamp};
use crate::campaign::{BUCKETS, Cursor, Plan, Step, new_envelope};
use crate::mail::Standing;
use crate::queue::{Admission, Queue, Sweep};
use crate::store::{self, LaunchKind, LaunchRow, LaunchState, Store};
use crate::world::Clock;

/// Most people in one batch: its rows are one transaction, and its copies go to the queue in slices.
const BATCH_MAX: u32 = 1000;
/// Copies admitted in one commit, each time with the cursor behind the last of them; settlements that wait go between.
const SLICE: usize = 100;
/// How long full buckets are left alone.
const PAUSE: Duration = Duration::from_millis(20);

/// Plans every running launch.
pub(super) struct Planner {
    pub store: Store,
    pub queue: Queue,
    pub clock: Arc<dyn Clock>,
    pub bell: Arc<Bell>,
    /// The life of a copy from its planning.
    pub expires: Span,
    /// Copies that may wait at once.
    pub most: u32,
    pub plans: Plans,
    pub stalls: Stalls,
}

/// The plans being worked on, and whose turn it is.
#[derive(Default)]
pub(super) struct Plans {
    by_launch: BTreeMap<LaunchId, Plan>,
    last: Option<LaunchId>,
    bucket: u8,
}

/// Batches between the lists and the queue.
#[derive(Default)]
struct UnderWay {
    /// On record, to be admitted.
    recorded: Vec<Admission>,
    /// Read, to be recorded.
    read: Option<(LaunchId, Step)>,
}

/// How many copies are on their way to which buckets.
struct Coming([(u8, u32); 2]);

impl UnderWay {
    fn is_empty(&self) -> bool {
        self.recorded.is_empty() && self.read.is_none()
    }

    fn copies(&self) -> Coming {
        let recorded = self.recorded.iter().map(|slice| slice.copies.len() as u32).sum();
        let read = self.read.as_ref().map_or((0, 0), |(_, step)| (step.bucket, step.envelopes.len() as u32));
        Coming([(self.recorded.first().map_or(0, |slice| slice.bucket), recorded), read])
    }
}

impl Coming {
    fn of(&self, bucket: u8) -> u32 {
        self.0.iter().filter(|(to, _)| *to == bucket).map(|(_, copies)| copies).sum()
    }
}

impl Planner {
    /// Plans until it is stopped. Trouble of the record is waited out; then it goes on as after a crash, from what is on disk.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            let done = self.work(&stop).await;
            let is_over = done.is_ok();
            self.stalls.pass("planner", done, &stop).await?;
            if is_over || stop.is_cancelled() {
                return Ok(());
            }
            self.plans = Plans::default();
        }
    }

    /// While one batch is admitted the next is recorded, and the one after it read.
    async fn work(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let mut seen = 0;
        let mut under_way = UnderWay::default();
        self.look_around().await?;
        while !stop.is_cancelled() {
            let rings = self.bell.rings();
            if rings != seen {
                // a plan that is resumed goes on behind what was admitted
                self.finish(std::mem::take(&mut under_way)).await?;
                self.look_around().await?;
                seen = rings;
            }
            under_way = self.advance(under_way).await?;
            self.stalls.show("planner", None);
            if under_way.is_empty() {
                self.close_planned().await?;
                self.bell.rest(seen);
                self.wait(stop).await;
            }
        }
        self.finish(under_way).await
    }

    /// Waits for the bell; while buckets are full, not for long.
    async fn wait(&self, stop: &CancellationToken) {
        let is_waiting = !self.plans.by_launch.is_empty();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.bell.heard() => {}
            () = sleep(PAUSE), if is_waiting => {}
        }
    }

    /// Finds out which launches are to be planned: those that run and are not planned yet.
    async fn look_around(&mut self) -> Result<(), Error> {
        let is_due = |launch: &LaunchRow| launch.state == LaunchState::Running && !launch.planned;
        let due: Vec<LaunchRow> = self.store.open_launches()?.into_iter().filter(is_due).collect();
        let is_over = |id: &LaunchId, _: &mut Plan| due.iter().all(|launch| launch.id != *id);
        let over: Vec<LaunchId> = self.plans.by_launch.extract_if(.., is_over).map(|(id, _)| id).collect();
        for launch in over {
            self.take_back(launch).await?;
        }
        for launch in due {
            match launch.kind {
                LaunchKind::Test | LaunchKind::Confirmation => {
                    self.admit_tests(&launch).await?;
                    self.take_back(launch.id).await?;
                }
                LaunchKind::Campaign if self.plans.by_launch.contains_key(&launch.id) => {}
                LaunchKind::Campaign => {
                    let plan = self.resume(&launch).await?;
                    self.plans.by_launch.insert(launch.id, plan);
                }
            }
        }
        Ok(())
    }

    /// Calls back what was admitted of a launch behind the sweep of whoever cancelled it meanwhile.
    async fn take_back(&self, launch: LaunchId) -> Result<(), Error> {
        if self.store.launch(launch)?.is_some_and(|row| row.state == LaunchState::Cancelled) {
            self.queue.sweep(launch, Sweep::Cancel(called_off("cancelled", self.clock.now()))).await?;
        }
        Ok(())
    }

    /// Goes on where the queue's cursors stand.
    async fn resume(&self, launch: &LaunchRow) -> Result<Plan, Error> {
        let mut cursors = Vec::new();
        for bucket in 0..BUCKETS {
            let kept = self.queue.cursor(launch.id, bucket).await?;
            cursors.push(kept.and_then(|bytes| Cursor::from_bytes(&bytes)));
        }
        let (_, on_road) = self.store.planned(launch.id)?;
        let plan = Plan::resume(launch.clone(), on_road, self.expires, |bucket| cursors[usize::from(bucket)]);
        plan.map_err(|why| Error::Unusable {
            why: format!(
                "campaign `{}` was launched with a segment that this version cannot read: {why}",
                launch.campaign
            ),
            help: Some("go on with the version that launched it, or cancel it".into()),
        })
    }

    /// Admits a round of test copies, or a request to confirm: whoever launched it has recorded them. A cursor tells that they were admitted before.
    async fn admit_tests(&self, launch: &LaunchRow) -> Result<(), Error> {
        if self.queue.cursor(launch.id, 0).await?.is_some() {
            return Ok(self.store.set_planned(launch.id).await?);
        }
        let rows = self.store.copies(launch.id, ContactId(0), BATCH_MAX as usize)?;
        let now = self.clock.now();
        let waiting = rows.into_iter().filter(|row| row.standing == Standing::Waiting);
        let copies = waiting.filter_map(|row| {
            let address = Address::parse(&row.address).ok()?;
            Some((address.domain().clone(), new_envelope(launch, row.contact, self.expires, now)))
        });
        let admission = Admission { launch: launch.id, bucket: 0, cursor: Vec::new(), copies: copies.collect() };
        self.queue.admit(admission).await?;
        Ok(self.store.set_planned(launch.id).await?)
    }

    /// Admits what is recorded, records what is read, and reads the next batch; nothing is under way any more when no bucket
    /// has room.
    async fn advance(&mut self, under_way: UnderWay) -> Result<UnderWay, Error> {
        let (store, queue, now) = (self.store.clone(), self.queue.clone(), self.clock.now());
        let coming = under_way.copies();
        let reading = under_way.read.as_ref().map(|(_, step)| step.bucket);
        let waiting = |bucket| queue.waiting_in(bucket) + coming.of(bucket);
        let share = share(self.most, (0..BUCKETS).map(waiting));
        let room = |bucket| {
            // whoever is read but not recorded could be met again on the next list of the launch
            if reading == Some(bucket) { 0 } else { room(share, waiting(bucket)) }
        };
        let UnderWay { recorded, read } = under_way;
        let plans = &mut self.plans;
        let next = async { plans.next(room, |plan, bucket, most| plan.next(&store, bucket, most, now)) };
        let (admitted, recorded, read) = tokio::join!(queue.admit_all(recorded), record(&store, read, now), next);
        admitted?;
        Ok(UnderWay { recorded: recorded?, read: read? })
    }

    /// Records and admits what is under way.
    async fn finish(&self, under_way: UnderWay) -> Result<(), Error> {
        self.queue.admit_all(under_way.recorded).await?;
        let recorded = record(&self.store, under_way.read, self.clock.now()).await?;
        Ok(self.queue.admit_all(recorded).await?)
    }

    /// Records which launches are planned to the end; all their batches are admitted by now.
    async fn close_planned(&mut self) -> Result<(), Error> {
        let done: Vec<LaunchId> =
            self.plans.by_launch.iter().filter(|(_, plan)| plan.is_done()).map(|(id, _)| *id).collect();
        for launch in done {
            self.store.set_planned(launch).await?;
            self.plans.by_launch.remove(&launch);
        }
        Ok(())
    }
}

impl Plans {
    /// The next batch of whichever launch and bucket comes next in turn and has room.
    fn next<E>(
        &mut self,
        room: impl Fn(u8) -> usize,
        mut read: impl FnMut(&mut Plan, u8, usize) -> Result<Option<Step>, E>,
    ) -> Result<Option<(LaunchId, Step)>, E> {
        for launch in self.in_turn() {
            let plan = self.by_launch.get_mut(&launch).expect("its key was just read");
            for turn in 0..BUCKETS {
                let bucket = (self.bucket + turn) % BUCKETS;
                let most = room(bucket);
                if most == 0 || plan.is_bucket_done(bucket) {
                    continue;
                }
                if let Some(step) = read(plan, bucket, most)? {
                    self.bucket = (bucket + 1) % BUCKETS;
                    self.last = Some(launch);
                    return Ok(Some((launch, step)));
                }
            }
        }
        Ok(None)
    }

    /// All launches, beginning behind the last one that was served.
    fn in_turn(&self) -> Vec<LaunchId> {
        let (mut before, after): (Vec<LaunchId>, Vec<LaunchId>) =
            self.by_launch.keys().partition(|id| self.last.is_some_and(|last| **id <= last));
        before.splice(0..0, after);
        before
    }
}

/// How many copies a bucket may have waiting, where `most` may wait in all and the buckets have so many: its part of the
/// half that is shared out evenly, and half of what is free of the other. So n buckets that take all they are given have
/// n / (n + 2) of that other half, and never all of it.
fn share(most: u32, waiting: impl Iterator<Item = u32>) -> u32 {
    let own = (most / 2 / u32::from(BUCKETS)).max(1);
    let taken: u32 = waiting.map(|copies| copies.saturating_sub(own)).sum();
    own + (most / 2).saturating_sub(taken) / 2
}

/// How many people may be read for a bucket with `waiting` copies. A bucket is filled up once there is room for a whole
/// batch, or it is half empty, so that batches are worth their commit.
fn room(share: u32, waiting: u32) -> usize {
    let free = share.saturating_sub(waiting);
    if free < BATCH_MAX.min(share.div_ceil(2)) { 0 } else { free.min(BATCH_MAX) as usize }
}

/// A step as admissions, each with the cursor behind its last copy: whatever comes between two of them, nobody is planned
/// twice.
fn slices(launch: LaunchId, step: Step) -> Vec<Admission> {
    let Step { bucket, position, envelopes: mut left, cursor, .. } = step;
    let mut slices = Vec::with_capacity(left.len() / SLICE + 1);
    while left.len() > SLICE {
        let rest = left.split_off(SLICE);
        let last = left[SLICE - 1].1.id.contact();
        let copies = std::mem::replace(&mut left, rest);
        slices.push(Admission { launch, bucket, cursor: Cursor::new(position, last).to_bytes(), copies });
    }
    slices.push(Admission { launch, bucket, cursor: cursor.to_bytes(), copies: left });
    slices
}

/// Puts a batch on record.
async fn record(store: &Store, read: Option<(LaunchId, Step)>, now: Timestamp) -> Result<Vec<Admission>, store::Error> {
    let Some((launch, mut step)) = read else { return Ok(Vec::new()) };
    store.record_batch(launch, step.position, std::mem::take(&mut step.rows), now).await?;
    Ok(slices(launch, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_filled_up_once_it_is_half_empty_or_a_batch_finds_room() {
        assert_eq!(room(1562, 0), 1000);
        assert_eq!(room(1562, 781), 781);
        assert_eq!(room(1562, 782), 0);
        assert_eq!((room(9000, 8000), room(9000, 8001), room(9000, 9999)), (1000, 0, 0));
        assert_eq!((room(1, 0), room(1, 1)), (1, 0));
    }

    /// What buckets that take all they are given end up with.
    fn greedy(most: u32, buckets: usize) -> Vec<u32> {
        let mut waiting = vec![0; usize::from(BUCKETS)];
        for turn in 0..100_000 {
            let bucket = turn % buckets;
            let room = room(share(most, waiting.iter().copied()), waiting[bucket]) as u32;
            waiting[bucket] += room;
        }
        waiting
    }

    #[test]
    fn one_bucket_has_room_for_what_it_defers_and_all_together_never_more_than_may_wait() {
        assert_eq!(share(100_000, std::iter::empty()), 781 + 25_000);
        let alone = greedy(100_000, 1)[0];
        assert!((16_000..18_000).contains(&alone), "{alone}");
        for buckets in [2, 4, 16, 64] {
            let waiting = greedy(100_000, buckets);
            let all: u32 = waiting.iter().sum();
            let left = share(100_000, waiting.iter().copied());
            assert!(all <= 100_000 && left >= 781, "{buckets} buckets: {all}, {left} for the next");
        }
        assert!(greedy(64, 64).iter().all(|copies| *copies >= 1), "nobody is left without");
    }
}
