//! How fast a site takes mail, as measured.

use std::time::Duration;

use tokio::time::Instant;

/// The rate is shown as measured over one to two times this span.
const METER: Duration = Duration::from_secs(5);

/// Counts over a span and the one before it.
pub(super) struct Meter {
    since: Instant,
    count: u32,
    before: u32,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Meter {
        Meter { since: now, count: 0, before: 0 }
    }

    fn turn(&mut self, now: Instant) {
        let spans = now.saturating_duration_since(self.since).as_secs_f64() / METER.as_secs_f64();
        if spans >= 1.0 {
            self.before = if spans < 2.0 { self.count } else { 0 };
            (self.count, self.since) = (0, self.since + METER.mul_f64(spans.floor()));
        }
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.turn(now);
        self.count += 1;
    }

    /// Per second.
    pub(super) fn rate(&mut self, now: Instant) -> f64 {
        self.turn(now);
        let span = METER + now.saturating_duration_since(self.since);
        f64::from(self.before + self.count) / span.as_secs_f64()
    }
}
