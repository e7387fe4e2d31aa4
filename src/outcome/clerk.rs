//! The clerk: copies outcomes from the queue's outbox to the store, then clears them. Owns nothing but its place in the
//! outbox: whatever goes wrong, it begins again by asking the store how far it has come, so that no outcome is lost or
//! counted twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::policy::Policy;
use crate::base::EnvelopeId;
use crate::mail::Outcome;
use crate::queue::{self, Queue};
use crate::store::{self, Judge, Store};

/// Outcomes copied in one transaction.
const BATCH: usize = 2000;
/// How long outcomes may gather after a batch that was not full: one sync of the store then serves many.
const GATHER: Duration = Duration::from_millis(200);
/// The first pause after the store failed; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Failures in a row after which a clerk that is to stop gives up: what is left is in the queue, and safe.
const FAILURES_MAX: u32 = 5;

/// Copies outcomes from the queue to the store. [`Clerk::run`] is its life.
pub struct Clerk {
    queue: Queue,
    store: Store,
    judge: Arc<dyn Judge>,
    tell: Box<Tell>,
    progress: Progress,
}

/// Hears what the store cannot do now; nothing: it can again.
type Tell = dyn Fn(Option<&store::Error>) + Send + Sync;

/// Where the clerk is; all its decisions are made here.
#[derive(Debug, Default)]
struct Progress {
    /// The last batch that store and queue agree on.
    cleared: u64,
    /// Whether the last batch was as large as may be: there is probably more.
    full: bool,
    /// Failures of the store in a row.
    failures: u32,
    /// The store has failed and was not asked since how far it has come.
    astray: bool,
    /// Whether to end once the outbox is empty.
    stopping: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
enum Order {
    /// Ask the store how far it has come.
    Compare,
    /// Let the queue forget what the store has.
    Clear(u64),
    /// Wait for outcomes.
    Wait,
    /// Write them.
    Record(u64, Vec<Outcome>),
    /// Do nothing for a while.
    Pause(Duration),
    /// Go home.
    End,
}

/// What came of it.
#[derive(Debug)]
enum Event {
    Compared(Result<u64, store::Error>),
    Cleared(u64, Result<(), queue::Error>),
    Found(Result<(u64, Vec<Outcome>), queue::Error>),
    Recorded(u64, Result<Vec<EnvelopeId>, store::Error>),
    Rested,
    Stop,
}

impl Clerk {
    /// A clerk between this queue and this store.
    pub fn new(queue: Queue, store: Store, policy: Policy) -> Clerk {
        Clerk { queue, store, judge: Arc::new(policy), tell: Box::new(|_| {}), progress: Progress::default() }
    }

    /// Lets somebody know of every failure of the store, and when it is over.
    pub fn telling(mut self, tell: impl Fn(Option<&store::Error>) + Send + Sync + 'static) -> Clerk {
        self.tell = Box::new(tell);
        self
    }

    /// Copies until stopped, and then until the outbox is empty; ends early when the queue does. Store trouble is waited
    /// out, however long: outcomes stay in the queue meanwhile.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut order = Order::Compare;
        loop {
            let event = match order {
                Order::Compare => Event::Compared(self.store.last_outcome()),
                Order::Clear(number) => Event::Cleared(number, self.queue.clear_outbox(number).await),
                Order::Record(number, outcomes) => {
                    let recorded = self.store.settle(number, outcomes, self.judge.clone()).await;
                    Event::Recorded(number, recorded)
                }
                Order::Wait => tokio::select! {
                    biased;
                    () = stop.cancelled(), if !self.progress.stopping => Event::Stop,
                    found = self.queue.outbox(BATCH) => Event::Found(found),
                },
                Order::Pause(span) => tokio::select! {
                    biased;
                    () = stop.cancelled(), if !self.progress.stopping => Event::Stop,
                    () = sleep(span) => Event::Rested,
                },
                Order::End => return,
            };
            match &event {
                Event::Compared(Err(error)) | Event::Recorded(_, Err(error)) => (self.tell)(Some(error)),
                Event::Recorded(_, Ok(_)) => (self.tell)(None),
                Event::Compared(Ok(_)) | Event::Cleared(..) | Event::Found(_) | Event::Rested | Event::Stop => {}
            }
            order = self.progress.handle(event, self.queue.depth().last_outcome);
        }
    }
}

impl Progress {
    /// Decides what follows; `newest` is the highest number in the outbox.
    fn handle(&mut self, event: Event, newest: u64) -> Order {
        match event {
            Event::Compared(Ok(number)) => {
                self.astray = false;
                Order::Clear(number)
            }
            Event::Recorded(number, Ok(unplanned)) => {
                self.recovered();
                if let Some(copy) = unplanned.first() {
                    tracing::error!(%copy, count = unplanned.len(), "outcomes of copies that were never planned; is this the store of this queue?");
                }
                Order::Clear(number)
            }
            Event::Compared(Err(error)) | Event::Recorded(_, Err(error)) => self.fail(&error),
            Event::Cleared(number, Ok(())) => {
                self.cleared = number;
                match self.stopping || self.full {
                    true => self.go_on(newest),
                    false => Order::Pause(GATHER),
                }
            }
            Event::Found(Ok((number, outcomes))) => {
                self.full = outcomes.len() >= BATCH;
                Order::Record(number, outcomes)
            }
            Event::Cleared(_, Err(error)) | Event::Found(Err(error)) => {
                tracing::debug!(%error, "the clerk ends with the queue");
                Order::End
            }
            Event::Rested if self.astray => Order::Compare,
            Event::Rested => self.go_on(newest),
            Event::Stop => {
                self.stopping = true;
                if self.astray { Order::Compare } else { self.go_on(newest) }
            }
        }
    }

    /// Waits for more, unless it is to stop and there is none.
    fn go_on(&self, newest: u64) -> Order {
        if self.stopping && self.cleared >= newest { Order::End } else { Order::Wait }
    }

    /// The store has failed: says so once, and waits ever longer.
    fn fail(&mut self, error: &store::Error) -> Order {
        self.failures += 1;
        self.astray = true;
        if self.failures == 1 {
            tracing::error!(%error, "outcomes cannot be recorded; they are safe in the queue, and tried again until they can");
        }
        let for_good = matches!(error, store::Error::Closed);
        if for_good || (self.stopping && self.failures >= FAILURES_MAX) {
            tracing::error!(%error, "outcomes are left in the queue; the next start records them");
            return Order::End;
        }
        Order::Pause(PAUSE_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX))
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!("outcomes are recorded again");
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests;
