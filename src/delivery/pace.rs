//! How fast a site is served: the only file that knows governor. A pace is asked, never left to wait, and its limit is
//! never passed in any window of time: no burst is saved up but what a timer that rings late has cost, and the interval is
//! longer by as much.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::base::Rate;

/// The slowest a throttled pace becomes.
const SLOWEST: Duration = Duration::from_secs(60);
/// A clean time of this length gives back one step of speed.
const RECOVERY: Duration = Duration::from_secs(60);
/// Recovery adds this share of the full rate at each step.
const STEP: f64 = 1.0 / 16.0;
/// Halvings closer than this are one event heard on several connections.
const ONE_EVENT: Duration = Duration::from_secs(5);
/// How late a timer may ring without costing speed: it counts whole milliseconds, and tasks have their turn. What would have
/// passed meanwhile passes at once; rates with less than one pass in this time have no burst.
const LATE: Duration = Duration::from_millis(10);
/// The largest share of a window's count that may pass at once.
const BURST_SHARE: u32 = 20;
/// The speed a pace without a limit is taken to have when it is first told to slow down, per second.
const UNLIMITED: f64 = 64.0;

/// The rate of messages, or of new connections, toward one site from one source address.
pub struct Pace {
    full: Option<Rate>,
    /// Passes per second now, when it was slowed down below the full rate.
    slowed: Option<f64>,
    limiter: Option<Limiter>,
    clock: Hand,
    last_slow: Option<Instant>,
    /// Since when no trouble came, for recovery.
    clean_since: Option<Instant>,
    /// When the next one may pass, as the limiter has it.
    next: Instant,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Hand, NoOpMiddleware<Duration>>;

/// A clock that shows what it was last set to: the time since the pace was made, in nanoseconds.
#[derive(Clone)]
struct Hand {
    start: Instant,
    shown: Arc<AtomicU64>,
}

impl Hand {
    fn set(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_nanos();
        self.shown.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for Hand {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.shown.load(Ordering::Relaxed))
    }
}

impl Pace {
    /// A pace of at most `rate`; without one it always says yes, until it is told to slow down.
    pub fn new(rate: Option<Rate>, now: Instant) -> Pace {
        let clock = Hand { start: now, shown: Arc::new(AtomicU64::new(0)) };
        let mut pace =
            Pace { full: rate, slowed: None, limiter: None, clock, last_slow: None, clean_since: None, next: now };
        pace.rebuild(now, Duration::ZERO);
        pace
    }

    /// May one pass now? If not, how long until asking again is of use. A yes is spent.
    pub fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        self.recover(now);
        self.clock.set(now);
        let Some(limiter) = &self.limiter else { return Ok(()) };
        match limiter.check() {
            Ok(()) => {
                let interval = self.interval().unwrap_or_default();
                let earliest = now.checked_sub(interval * (self.burst() - 1)).unwrap_or(now);
                self.next = self.next.max(earliest) + interval;
                Ok(())
            }
            Err(not_until) => Err(whole_ms(not_until.wait_time_from(self.clock.now()))),
        }
    }

    /// How long until one may pass; zero: now. Nothing is spent.
    pub fn wait(&mut self, now: Instant) -> Duration {
        self.recover(now);
        whole_ms(self.next.saturating_duration_since(now))
    }

    /// How many may pass within `span` from now, when none passed before; without a limit as many as there are.
    pub fn within(&mut self, span: Duration, now: Instant) -> usize {
        let wait = self.wait(now);
        match (self.per_second(), span.checked_sub(wait)) {
            (None, _) => usize::MAX,
            (Some(_), None) => 0,
            (Some(per_second), Some(rest)) => ((rest.as_secs_f64() * per_second) as usize).saturating_add(1),
        }
    }

    /// A throttling reply came: half the speed at once, given back step by step while it stays clean.
    pub fn slow(&mut self, now: Instant) {
        self.clean_since = Some(now);
        if self.last_slow.is_some_and(|last| now.saturating_duration_since(last) < ONE_EVENT) {
            return;
        }
        self.last_slow = Some(now);
        let half = (self.per_second().unwrap_or(UNLIMITED) / 2.0).max(1.0 / SLOWEST.as_secs_f64());
        self.slow_to(half, now);
    }

    /// A reply that names the speed it wants, or a speed remembered from before a restart; never above the full rate.
    pub fn slow_to(&mut self, per_second: f64, now: Instant) {
        let bound = self.full.map_or(per_second, |full| full.per_second().min(per_second));
        self.slowed = Some(bound.max(1.0 / SLOWEST.as_secs_f64()));
        self.clean_since = Some(now);
        // The next pass waits a whole new interval: the old limiter's state does not carry over.
        self.rebuild(now, self.interval().unwrap_or_default());
    }

    /// Passes per second allowed now; `None` when nothing limits it.
    pub fn per_second(&self) -> Option<f64> {
        self.slowed.or_else(|| self.full.map(Rate::per_second))
    }

    /// Whether trouble holds it below its full rate.
    pub fn is_slowed(&self) -> bool {
        self.slowed.is_some()
    }

    /// The distance between two passes. With a burst of b in a window of c passes, c − b + 1 intervals fill the window, so
    /// that no more than c fall into any.
    fn interval(&self) -> Option<Duration> {
        let least = self.full.map(|full| full.window().div_ceil(full.count() - (burst(full.per_second(), full) - 1)));
        let slowed = self.slowed.map(|per_second| Duration::from_secs_f64(1.0 / per_second));
        slowed.into_iter().chain(least).max()
    }

    /// Passes that may come at once when they are late.
    fn burst(&self) -> u32 {
        match (self.per_second(), self.full) {
            (Some(per_second), Some(full)) => burst(per_second, full),
            (Some(_), None) | (None, _) => 1,
        }
    }

    /// A limiter of the present interval that lets the first one pass after `delay`.
    fn rebuild(&mut self, now: Instant, delay: Duration) {
        self.clock.set(now);
        let burst = NonZeroU32::new(self.burst()).unwrap_or(NonZeroU32::MIN);
        self.next = now + delay;
        self.limiter = self.interval().and_then(Quota::with_period).map(|quota| {
            let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), self.clock.clone());
            // A fresh limiter owes nothing. A whole burst taken now makes the next wait its interval; all but one of it lets
            // one pass, and no more: nothing was late yet.
            let taken = if delay.is_zero() { burst.get() - 1 } else { burst.get() };
            let _ = NonZeroU32::new(taken).map(|taken| limiter.check_n(taken));
            limiter
        });
    }

    /// Adds the steps that clean time has earned.
    fn recover(&mut self, now: Instant) {
        let (Some(slowed), Some(since)) = (self.slowed, self.clean_since) else { return };
        let clean = now.saturating_duration_since(since);
        let steps = (clean.as_secs_f64() / RECOVERY.as_secs_f64()).floor();
        if steps < 1.0 {
            return;
        }
        let full = self.full.map_or(UNLIMITED, Rate::per_second);
        let faster = slowed + steps * STEP * full;
        self.clean_since = Some(since + RECOVERY.mul_f64(steps));
        self.slowed = (faster < full).then_some(faster);
        self.rebuild(now, self.interval().unwrap_or_default());
    }
}

/// What passes in [`LATE`] at this speed, and the one that is due.
fn burst(per_second: f64, full: Rate) -> u32 {
    let late = (per_second * LATE.as_secs_f64()) as u32;
    1 + late.min(full.count() / BURST_SHARE)
}

/// Rounded up to tokio's millisecond: a wait that ends early would only ask again.
fn whole_ms(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// Division that rounds up, so that `count` intervals never fall short of their window.
trait DivCeil {
    fn div_ceil(self, by: u32) -> Duration;
}

impl DivCeil for Duration {
    fn div_ceil(self, by: u32) -> Duration {
        Duration::from_nanos(u64::try_from(self.as_nanos().div_ceil(u128::from(by))).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(rate: &str, now: Instant) -> Pace {
        Pace::new(Some(Rate::parse(rate).unwrap()), now)
    }

    /// Asks as eagerly as allowed for `span`, and returns the times of the passes.
    fn passes(pace: &mut Pace, mut now: Instant, span: Duration) -> Vec<Instant> {
        let (end, mut times) = (now + span, Vec::new());
        while now < end {
            match pace.ask(now) {
                Ok(()) => times.push(now),
                Err(wait) => {
                    assert!(wait >= Duration::from_millis(1), "no busy waiting");
                    now += wait;
                }
            }
        }
        times
    }

    #[test]
    fn the_rate_is_met_and_never_passed_in_any_window() {
        let start = Instant::now();
        for (rate, span, most, least) in [
            ("100/min", 60, 100, 99),
            ("100/s", 10, 1000, 980),
            ("3/s", 60, 180, 178),
            ("1000/s", 10, 10_000, 9_880),
            ("7000/s", 3, 21_000, 20_700),
            ("600000/h", 60, 10_010, 9_980),
        ] {
            let mut pace = pace(rate, start);
            let times = passes(&mut pace, start, Duration::from_secs(span));
            assert!((least..=most).contains(&times.len()), "{rate}: {}", times.len());
            let rate = Rate::parse(rate).unwrap();
            for (at, first) in times.iter().enumerate() {
                let within = times[at..].iter().take_while(|t| **t < *first + rate.window()).count();
                assert!(within <= rate.count() as usize, "{within} in one window of {rate}");
            }
        }
    }

    #[test]
    fn a_wait_foretells_what_asking_says_and_spends_nothing() {
        for (rate, step) in [("7/min", Duration::from_millis(331)), ("1000/s", Duration::from_micros(700))] {
            let mut now = Instant::now();
            let mut pace = pace(rate, now);
            assert_eq!((pace.ask(now), pace.ask(now).is_err()), (Ok(()), true), "nothing is saved up at the start");
            for count in 0..400 {
                now += step;
                if count == 90 {
                    pace.slow(now);
                }
                let wait = pace.wait(now);
                assert_eq!(pace.ask(now), if wait.is_zero() { Ok(()) } else { Err(wait) }, "{rate}, step {count}");
            }
        }
    }

    #[test]
    fn after_slowing_down_a_whole_interval_passes_whatever_the_burst() {
        let now = Instant::now();
        let mut pace = pace("1000/s", now);
        pace.slow(now);
        assert!(pace.ask(now).is_err());
        let soon = now + Duration::from_millis(3);
        assert_eq!((pace.ask(soon), pace.ask(soon).is_err()), (Ok(()), true));
    }

    #[test]
    fn without_a_rate_it_says_yes_until_told_to_slow_down() {
        let now = Instant::now();
        let mut pace = Pace::new(None, now);
        assert!((0..1000).all(|_| pace.ask(now).is_ok()));
        pace.slow(now);
        assert_eq!(pace.per_second(), Some(UNLIMITED / 2.0));
        assert!(pace.ask(now).is_err());
    }

    #[test]
    fn throttling_halves_once_per_event_and_comes_back_in_steps() {
        let start = Instant::now();
        let mut pace = pace("16/s", start);
        pace.slow(start);
        pace.slow(start + Duration::from_secs(1));
        assert_eq!(pace.per_second(), Some(8.0), "the second reply tells of the same event");
        pace.slow(start + Duration::from_secs(10));
        assert_eq!(pace.per_second(), Some(4.0));
        let later = start + Duration::from_secs(10) + RECOVERY * 3;
        let _ = pace.ask(later);
        assert_eq!(pace.per_second(), Some(7.0));
        let _ = pace.ask(later + RECOVERY * 20);
        assert_eq!((pace.per_second(), pace.is_slowed()), (Some(16.0), false));
    }

    #[test]
    fn it_never_falls_below_one_a_minute_nor_rises_above_its_rate() {
        let mut now = Instant::now();
        let mut pace = pace("1/s", now);
        for _ in 0..40 {
            now += ONE_EVENT;
            pace.slow(now);
        }
        assert_eq!(pace.per_second(), Some(1.0 / 60.0));
        pace.slow_to(50.0, now);
        assert_eq!(pace.per_second(), Some(1.0));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_full_rate_is_never_passed(
            events in prop::collection::vec((0u64..3000, 0u8..8), 1..300),
        ) {
            let start = Instant::now();
            let (mut now, mut times) = (start, Vec::new());
            let mut pace = pace("10/s", start);
            for (ms, event) in events {
                now += Duration::from_millis(ms);
                match event {
                    0 => pace.slow(now),
                    _ => while pace.ask(now).is_ok() {
                        times.push(now);
                        prop_assert!(times.len() < 100_000);
                    },
                }
            }
            for (at, first) in times.iter().enumerate() {
                let within = times[at..].iter().take_while(|t| **t < *first + Duration::from_secs(1)).count();
                prop_assert!(within <= 10, "{within}");
            }
        }
    }
}
