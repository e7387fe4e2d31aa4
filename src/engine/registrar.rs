//! The registrar: closes a launch once every copy of it is final, and the copies of a cancelled one that never got as far as
//! the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::stalls::Stalls;
use crate::base::LaunchId;
use crate::queue::{Depth, Queue};
use crate::store::{LaunchRow, LaunchState, Store};
use crate::world::Clock;

/// How often it looks.
const TICK: Duration = Duration::from_millis(200);
/// What is said of copies that were planned and never reached the queue.
const STRAY: &str = "left the list between the plan and the queue";

/// What is said of copies in doubt that were to be sent again and are nowhere on the road.
const DOUBTED: &str = "the process ended before it was on the road again; it may have been sent before";

/// Closes launches.
pub(super) struct Registrar {
    pub store: Store,
    pub queue: Queue,
    pub clock: Arc<dyn Clock>,
    pub stalls: Stalls,
    /// Held by whoever has copies between the record and the queue: meanwhile nothing is closed.
    pub in_between: Arc<Mutex<()>>,
}

impl Registrar {
    /// Looks every so often, until it is stopped.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(TICK) => {}
            }
            let looked = self.look().await;
            self.stalls.pass("registrar", looked, &stop).await?;
        }
    }

    /// In this order: a launch that is planned has all its copies in the depth read after it, and what is in no depth has
    /// its outcome in the outbox or on record.
    async fn look(&self) -> Result<(), Error> {
        let Ok(_closing) = self.in_between.try_lock() else { return Ok(()) };
        let (launches, cancelled) = (self.store.open_launches()?, self.store.cancelled_with_strays()?);
        let depth = self.queue.depth();
        if self.store.last_outcome()? < depth.last_outcome {
            return Ok(());
        }
        for launch in launches {
            if may_be_done(&launch, &depth) {
                self.close(launch.id, &depth).await?;
            }
        }
        for launch in cancelled.into_iter().filter(|id| !depth.by_launch.contains_key(id)) {
            // one that is admitted after all finds its launch cancelled at the last look
            let now = self.clock.now();
            self.store.doubt_strays(launch, DOUBTED, now).await?;
            self.store.cancel_strays(launch, "cancelled", now).await?;
        }
        Ok(())
    }

    async fn close(&self, launch: LaunchId, depth: &Depth) -> Result<(), Error> {
        let now = self.clock.now();
        let unsettled = self.store.unsettled(launch)?;
        if unsettled > 0 && depth.held_by_launch.contains_key(&launch) {
            return Ok(());
        }
        let doubted = if unsettled > 0 { self.store.doubt_strays(launch, DOUBTED, now).await? } else { 0 };
        if unsettled > doubted {
            tracing::warn!(%launch, unsettled, "copies on record that are not on the road are barred: {STRAY}");
            self.store.bar_strays(launch, STRAY, now).await?;
        }
        // unless a person has paused or cancelled it meanwhile
        self.store.move_launch(launch, &[LaunchState::Running], LaunchState::Done, now).await?;
        Ok(())
    }
}

/// Whether nothing of a launch can be on the road any more.
fn may_be_done(launch: &LaunchRow, depth: &Depth) -> bool {
    launch.state == LaunchState::Running && launch.planned && !depth.by_launch.contains_key(&launch.id)
}
