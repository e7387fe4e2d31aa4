//! The planner's bell: rung when there may be something new to plan, and by whoever has to know that there is not.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts its rings, and up to which of them the planner found nothing to admit.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rings: AtomicU64,
    rested: AtomicU64,
    to_planner: Notify,
    to_others: Notify,
}

impl Bell {
    /// Makes the planner look around.
    pub fn ring(&self) -> u64 {
        let ring = self.rings.fetch_add(1, Ordering::SeqCst) + 1;
        self.to_planner.notify_one();
        ring
    }

    /// Rings, and waits until the planner has looked around and found nothing that could be admitted now.
    pub async fn ring_and_wait(&self) {
        let ring = self.ring();
        loop {
            let rested = self.to_others.notified();
            tokio::pin!(rested);
            // registered before the look, so that no rest is missed
            rested.as_mut().enable();
            if self.rested.load(Ordering::SeqCst) >= ring {
                return;
            }
            rested.await;
        }
    }

    /// How often it was rung.
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::SeqCst)
    }

    /// Waits for a ring.
    pub async fn heard(&self) {
        self.to_planner.notified().await;
    }

    /// The planner has looked around after this many rings, and has nothing to admit.
    pub fn rest(&self, rings: u64) {
        self.rested.store(rings, Ordering::SeqCst);
        self.to_others.notify_waiters();
    }
}
