//! When to try again (RFC 5321 §4.5.4.1): doubling delays with jitter, so that what was refused together does not come
//! back together.

use std::time::Duration;

use crate::base::Timestamp;
use crate::config::Retry;
use crate::mail::Class;

/// The least share of the delay, and how much more chance adds at most.
const JITTER: (f64, f64) = (0.5, 1.0);

impl Retry {
    /// When a copy is due again after its `tries`-th counted attempt: min(first · 2^(tries−1), longest) × 0.5 to 1.5, the
    /// first after greylisting sooner. `chance` is in `0.0..1.0`.
    pub fn due(&self, now: Timestamp, tries: u16, class: Class, chance: f64) -> Timestamp {
        let first = self.first.duration();
        let base = match (tries, class) {
            (0 | 1, Class::SoftGreylist) => self.greylist.duration().min(first),
            _ => first.saturating_mul(1 << u32::from(tries.saturating_sub(1)).min(16)),
        };
        let delay = base.min(self.longest.duration()).mul_f64(JITTER.0 + JITTER.1 * chance);
        now + delay.max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_scatter_by_half() {
        let retry = Retry::default();
        let minutes = |tries, class, chance| {
            let due = retry.due(Timestamp::from_ms(0), tries, class, chance);
            due.as_ms() as f64 / 60_000.0
        };
        assert_eq!(minutes(1, Class::SoftSystem, 0.0), 15.0);
        assert_eq!(minutes(1, Class::SoftSystem, 0.5), 30.0);
        assert_eq!(minutes(2, Class::SoftSystem, 0.5), 60.0);
        assert_eq!(minutes(9, Class::SoftSystem, 0.5), 240.0);
        assert_eq!(minutes(u16::MAX, Class::SoftSystem, 0.999).floor(), 359.0);
        assert_eq!(minutes(1, Class::SoftGreylist, 0.5), 7.0);
        assert_eq!(minutes(2, Class::SoftGreylist, 0.5), 60.0);
    }
}
