//! When a launch will be done, from the same shapes that will hold it back. Knows no deferrals and no outages: it says how
//! long the limits alone make it last.

use std::time::Duration;

use serde::Serialize;

use crate::base::Timestamp;
use crate::config::shaping::SiteShape;
use crate::delivery::warmup::{self, Calendar, Warmth};

/// What one copy takes on one connection that is kept busy: a round trip, the transfer, and the host's own thinking.
const COPY_TAKES: Duration = Duration::from_millis(250);

/// How many copies go to a site, and how it is treated.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The site.
    pub site: String,
    /// Copies for it.
    pub copies: u64,
    /// Its limits, as they hold for each source.
    pub shape: SiteShape,
    /// The sources that are not known there yet, as far as they have come.
    pub cold: Vec<Warmth>,
    /// The launch's domains that are not known there yet, as far as they have come.
    pub new_domains: Vec<Warmth>,
}

/// What holds a site back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// `max_message_rate`.
    MessageRate,
    /// `max_connection_rate` and `max_deliveries_per_connection` together.
    ConnectionRate,
    /// `connection_limit`.
    Connections,
    /// The rate of the whole launch.
    LaunchRate,
    /// The calendar of sources that are not known there yet.
    Warmup,
}

/// When one site is done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    /// The site.
    pub site: String,
    /// Copies for it.
    pub copies: u64,
    /// Copies a second, all sources together.
    pub rate: f64,
    /// Seconds until the last one.
    pub seconds: f64,
    /// What holds it back.
    pub bound: Bound,
    /// Days of the calendar it takes, when only sources go there that are not known yet.
    pub warmup_days: Option<u32>,
}

/// When all sites are done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Seconds until the last copy.
    pub seconds: f64,
    /// The sites, the one that takes longest first.
    pub sites: Vec<Course>,
}

impl Forecast {
    /// Foresees a launch over `sources` addresses. `rate` is the launch's own limit in copies a second. What sources that
    /// are not known yet cannot take today goes to the others, or waits for tomorrow when there are none.
    pub fn make(loads: Vec<Load>, sources: usize, rate: Option<f64>, calendar: &Calendar, now: Timestamp) -> Forecast {
        let copies: u64 = loads.iter().map(|load| load.copies).sum();
        let mut sites: Vec<Course> =
            loads.into_iter().map(|load| course(load, sources.max(1), rate, calendar, now)).collect();
        sites.sort_by(|one, other| other.seconds.total_cmp(&one.seconds).then_with(|| one.site.cmp(&other.site)));
        let longest = sites.first().map_or(0.0, |site| site.seconds);
        let seconds = rate.map_or(longest, |rate| longest.max(copies as f64 / rate));
        Forecast { seconds, sites }
    }
}

fn course(load: Load, sources: usize, launch: Option<f64>, calendar: &Calendar, now: Timestamp) -> Course {
    let Load { site, copies, shape, cold, new_domains } = load;
    let known = sources.saturating_sub(cold.len());
    let of_sources = if known == 0 { warmup::days(calendar, &site, &cold, copies, now) } else { None };
    let of = |domain: &Warmth| warmup::days(calendar, &site, std::slice::from_ref(domain), copies, now);
    let of_domains = new_domains.iter().filter_map(of);
    let days = of_sources.into_iter().chain(of_domains).max_by(|one, other| one.1.total_cmp(&other.1));
    let sources = if known == 0 { sources } else { known };
    let connections = f64::from(shape.connection_limit) / COPY_TAKES.as_secs_f64();
    let messages = shape.max_message_rate.0.map(|rate| rate.per_second());
    let opened =
        shape.max_connection_rate.0.map(|rate| rate.per_second() * f64::from(shape.max_deliveries_per_connection));
    let all = |rate: f64| rate * sources as f64;
    let bounds = [
        (messages.map(all), Bound::MessageRate),
        (opened.map(all), Bound::ConnectionRate),
        (Some(all(connections)), Bound::Connections),
        (launch, Bound::LaunchRate),
    ];
    let known = bounds.into_iter().filter_map(|(rate, bound)| Some((rate?, bound)));
    let (rate, bound) = known.min_by(|one, other| one.0.total_cmp(&other.0)).expect("connections always bind");
    let seconds = copies as f64 / rate;
    match days {
        Some((days, slow)) if slow > seconds => {
            let rate = copies as f64 / slow;
            Course { site, copies, rate, seconds: slow, bound: Bound::Warmup, warmup_days: Some(days) }
        }
        _ => Course { site, copies, rate, seconds, bound, warmup_days: None },
    }
}

/// A length of time in words, as in `2 h 10 min`.
pub fn in_words(seconds: f64) -> String {
    let whole = seconds.ceil() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole.div_ceil(60) % 60);
    match whole {
        0..=59 => format!("{whole} s"),
        60..=3540 => format!("{} min", whole.div_ceil(60)),
        3541..=86_340 => format!("{} h {} min", whole.div_ceil(60) / 60, minutes),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::config::shaping::Shaping;

    const NOW: Timestamp = Timestamp::from_ms(0);

    fn calendar() -> Calendar {
        Calendar::new(&Settings::default().warmup)
    }

    fn load(site: &str, copies: u64) -> Load {
        let overlay = "[[site]]\nsite = \"slow\"\nshape = { max_message_rate = \"60/min\" }\n\
                       [[site]]\nsite = \"shy\"\nshape = { max_connection_rate = \"6/min\", \
                       max_deliveries_per_connection = 20, max_message_rate = \"none\" }\n\
                       [[site]]\nsite = \"narrow\"\nshape = { connection_limit = 2, max_connection_rate = \"none\", \
                       max_message_rate = \"none\" }\n";
        let shape = Shaping::new(&Settings::default(), Some(overlay)).unwrap().shape(site, "default");
        Load { site: site.into(), copies, shape, cold: Vec::new(), new_domains: Vec::new() }
    }

    #[test]
    fn the_tightest_limit_of_each_site_says_when_it_is_done() {
        let forecast =
            Forecast::make(vec![load("narrow", 80), load("slow", 600), load("shy", 100)], 1, None, &calendar(), NOW);
        let seen: Vec<_> = forecast.sites.iter().map(|s| (s.site.as_str(), s.rate, s.seconds, s.bound)).collect();
        assert_eq!(
            seen,
            [
                ("slow", 1.0, 600.0, Bound::MessageRate),
                ("shy", 2.0, 50.0, Bound::ConnectionRate),
                ("narrow", 8.0, 10.0, Bound::Connections),
            ]
        );
        assert_eq!(forecast.seconds, 600.0);
    }

    #[test]
    fn more_sources_share_the_work_and_the_launch_has_a_limit_of_its_own() {
        assert_eq!(Forecast::make(vec![load("slow", 600)], 3, None, &calendar(), NOW).seconds, 200.0);
        let limited = Forecast::make(vec![load("slow", 600), load("narrow", 600)], 1, Some(2.0), &calendar(), NOW);
        assert_eq!((limited.seconds, limited.sites[1].bound), (600.0, Bound::LaunchRate));
        assert_eq!(Forecast::make(Vec::new(), 0, None, &calendar(), NOW).seconds, 0.0);
    }

    #[test]
    fn new_sources_take_the_days_of_their_calendar_unless_a_known_one_helps_out() {
        let calendar = calendar();
        let new = |copies| Load { new_domains: vec![Warmth::beginning(1)], ..load("google", copies) };
        let of_domain = Forecast::make(vec![new(1_000)], 3, None, &calendar, NOW);
        assert_eq!((of_domain.sites[0].bound, of_domain.sites[0].warmup_days), (Bound::Warmup, Some(7)));
        let cold = |copies| Load { cold: vec![Warmth::beginning(1)], ..load("google", copies) };
        let alone = Forecast::make(vec![cold(1000)], 1, None, &calendar, NOW);
        assert_eq!((alone.sites[0].bound, alone.sites[0].warmup_days), (Bound::Warmup, Some(7)));
        assert!((6.0 * 86_400.0..6.5 * 86_400.0).contains(&alone.seconds), "{}", alone.seconds);
        let helped = Forecast::make(vec![cold(1000)], 2, None, &calendar, NOW);
        assert_eq!((helped.sites[0].bound, helped.seconds), (Bound::Connections, 12.5));
    }

    #[test]
    fn times_are_said_in_words() {
        for (seconds, words) in [
            (0.2, "1 s"),
            (59.0, "59 s"),
            (61.0, "2 min"),
            (3540.0, "59 min"),
            (3599.0, "1 h 0 min"),
            (7800.0, "2 h 10 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(in_words(seconds), words);
        }
    }
}
