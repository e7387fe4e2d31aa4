//! What everybody waits for: a disk that takes nothing, a record that another process has locked. Whoever cannot go on says
//! so here and tries again; nothing that was done is lost by it, and nothing is sent that could not be recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::base::Timestamp;
use crate::queue::Queue;
use crate::store;
use crate::world::Clock;

/// How long the record is left alone after it has failed.
const WAIT: Duration = Duration::from_secs(2);

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stalled {
    pub why: Error,
    pub since: Timestamp,
}

/// All that is waited for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stalls {
    queue: Queue,
    clock: Arc<dyn Clock>,
    /// What the record could not do, by whoever asked it.
    record: Arc<Mutex<BTreeMap<&'static str, Stalled>>>,
}

impl Stalls {
    pub fn new(queue: Queue, clock: Arc<dyn Clock>) -> Stalls {
        Stalls { queue, clock, record: Arc::default() }
    }

    /// The queue's stall first, then what the record could not do, each cause once.
    pub fn all(&self) -> Vec<Stalled> {
        let queue = self.queue.stall().map(|stall| Stalled { why: stall.why.into(), since: stall.since });
        let mut all: Vec<Stalled> = queue.into_iter().collect();
        for found in self.lock().values() {
            if !all.iter().any(|known| known.why == found.why) {
                all.push(found.clone());
            }
        }
        all
    }

    /// What came of a round of somebody's work: trouble of the record that may pass is shown and waited for, so that the
    /// round can be done again; it ends at once with `stop`.
    pub async fn pass(
        &self,
        who: &'static str,
        done: Result<(), Error>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        match &done {
            Err(Error::Store(error)) if error.may_pass() => self.show(who, Some(error)),
            // the queue shows itself what it waits for
            Err(Error::Waits(_)) => {}
            Ok(()) | Err(_) => {
                self.show(who, None);
                return done;
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sleep(WAIT) => {}
        }
        Ok(())
    }

    /// Shows what the record could not do for somebody; `None`: it can.
    pub fn show(&self, who: &'static str, error: Option<&store::Error>) {
        let mut record = self.lock();
        match error {
            None => drop(record.remove(who)),
            Some(error) => {
                let why = Error::Store(error.clone());
                record.entry(who).and_modify(|known| known.why = why.clone()).or_insert_with(|| {
                    tracing::error!(%error, "the {who} waits until the record can be written; it goes on by itself then");
                    Stalled { why, since: self.clock.now() }
                });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Stalled>> {
        // an entry is changed as a whole
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
