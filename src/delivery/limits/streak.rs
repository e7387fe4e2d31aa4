//! How long a site has failed: counted from one failed attempt to the next, never over a time in which nobody tried.

use std::time::Duration;

use tokio::time::Instant;

/// An attempt that comes so long after a rest is over still follows on it, however short that was.
const LATE_LEAST: Duration = Duration::from_secs(15 * 60);
/// The same of a long rest: one that comes later shows that nobody was sending, and what failed before tells nothing.
const LATE_MOST: Duration = Duration::from_secs(3600);

/// Attempts that failed one after the other, each soon after the rest that followed on the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streak {
    /// When the first of them failed.
    pub since: Instant,
    /// When the last of them failed.
    pub heard: Instant,
    /// How long the site was left alone after that.
    pub rest: Duration,
    /// What was said then, cut.
    pub words: String,
}

impl Streak {
    /// How long the site is known to have failed: up to its last attempt, and not up to now.
    pub fn span(&self) -> Duration {
        self.heard.saturating_duration_since(self.since)
    }

    /// Whether one that fails now is one more of them.
    pub fn goes_on(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.heard);
        idle <= self.rest + self.rest.clamp(LATE_LEAST, LATE_MOST)
    }
}
