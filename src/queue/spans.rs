//! How long copies were out on lease until their settlement was durable: a histogram of fixed size.

use std::time::Duration;

/// Steps per doubling: a quantile is right to an eighth.
const STEPS: u32 = 8;
/// Bins: up to the doubling that holds 19 hours.
const BINS: usize = 36 * STEPS as usize;

/// Spans of time, counted by their length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spans {
    counts: Vec<u64>,
}

impl Default for Spans {
    fn default() -> Spans {
        Spans { counts: vec![0; BINS] }
    }
}

impl Spans {
    /// Counts one; longer ones than the last bin holds are counted there.
    pub fn count(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.counts[bin(micros).min(BINS - 1)] += 1;
    }

    /// The span that `share` of all, from 0 to 1, do not exceed; `None` when there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all: u64 = self.counts.iter().sum();
        let rank = (all as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bin| Duration::from_micros(end(bin)))
    }
}

/// The bin of a span: below [`STEPS`] one for each microsecond, above it so many for each doubling.
fn bin(micros: u64) -> usize {
    let doublings = micros.max(1).ilog2().saturating_sub(STEPS.ilog2());
    (doublings * STEPS) as usize + (micros >> doublings) as usize
}

/// The longest span of a bin.
fn end(bin: usize) -> u64 {
    let doublings = (bin / STEPS as usize).saturating_sub(1);
    ((bin - doublings * STEPS as usize + 1) as u64 * (1 << doublings)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_lies_in_the_bin_whose_end_is_next_to_it() {
        for micros in (0..5000).chain([1 << 20, (1 << 30) + 12_345, (1 << 33) - 1]) {
            let found = end(bin(micros));
            assert!(found >= micros && found <= micros + micros / 8, "{micros}: {found}");
            assert_eq!(bin(found), bin(micros));
        }
    }

    #[test]
    fn quantiles_are_right_to_an_eighth_and_nothing_has_none() {
        let mut spans = Spans::default();
        assert_eq!(spans.quantile(0.5), None);
        (1..=1000).for_each(|ms| spans.count(Duration::from_millis(ms)));
        for share in [0.0, 0.5, 0.99, 1.0] {
            let (found, exact) = (spans.quantile(share).unwrap().as_secs_f64(), share.max(0.001));
            assert!(found >= exact && found <= exact * 1.126, "{share}: {found}");
        }
        spans.count(Duration::MAX);
        assert!(spans.quantile(1.0).unwrap() > Duration::from_secs(3600));
    }
}
