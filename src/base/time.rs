//! Points in time, spans and rates, with the texts users write for them.

use std::fmt;
use std::time::Duration;

/// What is wrong with a time text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not a number followed by a unit.
    #[error("`{0}` is not a span: write a number and a unit, as in \"90s\", \"15m\", \"4h\", \"3d\"")]
    Span(String),
    /// Not a count per unit of time.
    #[error("`{0}` is not a rate: write a count and a unit, as in \"100/min\", \"5/s\", \"2000/h\", \"50000/d\"")]
    Rate(String),
    /// Not a point in time.
    #[error(
        "`{0}` is not a time: write date, time and zone, as in \"2026-12-01 09:00+01:00\" or \"2026-12-01 09:00[Europe/Berlin]\""
    )]
    Moment(String),
}

/// A point in time: milliseconds since 1970-01-01 UTC, leap seconds not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The point `ms` milliseconds after 1970-01-01 UTC.
    pub const fn from_ms(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    /// The point that a text names: RFC 3339, or with the name of a zone as RFC 9557 has it. A time without a zone is refused,
    /// and one that a zone does not have, or has twice, is taken as its rules say.
    pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
        let text = text.trim();
        let zoned = || text.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
        let moment = text.parse::<jiff::Timestamp>().or_else(|_| zoned());
        moment.map(|moment| Timestamp(moment.as_millisecond())).map_err(|_| TimeError::Moment(text.to_owned()))
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01 UTC, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0) as u64)
    }

    /// RFC 3339 in UTC to the millisecond, as in `2026-11-23T20:15:00.000Z`.
    pub fn rfc3339(self) -> String {
        format!("{:.3}", self.to_jiff())
    }

    /// RFC 5322 §3.3 date-time with a numeric zone, as in `Mon, 23 Nov 2026 20:15:00 +0000`.
    pub fn rfc5322(self) -> String {
        self.to_jiff().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.rfc3339())
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// A length of time as users write it: `"500ms"`, `"90s"`, `"15m"`, `"4h"`, `"3d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn secs(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    /// The same length as a [`Duration`].
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Parses a number and a unit.
    pub fn parse(text: &str) -> Result<Span, TimeError> {
        let wrong = || TimeError::Span(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(wrong)?;
        let ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(ms).map(|ms| Span(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl From<Duration> for Span {
    fn from(length: Duration) -> Span {
        Span(length)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        match units.iter().find(|(size, _)| ms >= *size && ms.is_multiple_of(*size)) {
            Some((size, unit)) => write!(f, "{}{unit}", ms / size),
            None => write!(f, "{ms}ms"),
        }
    }
}

/// A count per unit of time as users write it: `"100/min"`. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per: RateUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RateUnit {
    Second,
    Minute,
    Hour,
    Day,
}

impl Rate {
    /// Parses a count and a unit; zero is refused: what must not move is suspended, not slowed.
    pub fn parse(text: &str) -> Result<Rate, TimeError> {
        let wrong = || TimeError::Rate(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = match unit.trim() {
            "s" | "sec" | "second" => RateUnit::Second,
            "m" | "min" | "minute" => RateUnit::Minute,
            "h" | "hour" => RateUnit::Hour,
            "d" | "day" => RateUnit::Day,
            _ => return Err(wrong()),
        };
        match count.trim().parse() {
            Ok(count) if count > 0 => Ok(Rate { count, per }),
            _ => Err(wrong()),
        }
    }

    /// How many may pass in one [`Rate::window`].
    pub fn count(self) -> u32 {
        self.count
    }

    /// The window the count holds for.
    pub fn window(self) -> Duration {
        Duration::from_secs(match self.per {
            RateUnit::Second => 1,
            RateUnit::Minute => 60,
            RateUnit::Hour => 3600,
            RateUnit::Day => 86_400,
        })
    }

    /// The mean distance between two passes.
    pub fn interval(self) -> Duration {
        self.window() / self.count
    }

    /// Passes per second.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.window().as_secs_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            RateUnit::Second => "s",
            RateUnit::Minute => "min",
            RateUnit::Hour => "h",
            RateUnit::Day => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// `"15m"` as `(15, "m")`.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// Implements serde by way of `parse` and `Display`, so that a wrong text is refused with its own hint.
macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                $name::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

serde_as_text!(Span, Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_needs_its_zone() {
        let at = |text: &str| Timestamp::parse(text).map(Timestamp::rfc3339);
        let expected = Ok("2026-12-01T08:00:00.000Z".to_owned());
        for text in [
            "2026-12-01T08:00:00Z",
            " 2026-12-01 09:00+01:00 ",
            "2026-12-01 09:00[Europe/Berlin]",
            "2026-12-01T09:00:00+01:00[Europe/Berlin]",
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        for bad in [
            "",
            "2026-12-01",
            "2026-12-01 09:00",
            "tomorrow",
            "2026-12-01 09:00[Europe/Nowhere]",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_read_as_written() {
        for (text, ms) in [("500ms", 500), ("90s", 90_000), ("15m", 900_000), ("4h", 14_400_000), ("3d", 259_200_000)] {
            let span = Span::parse(text).unwrap();
            assert_eq!(span.duration().as_millis(), ms, "{text}");
            assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }
        for bad in ["", "15", "m", "-3d", "3w", "99999999999999999999d", "1.5h"] {
            assert!(Span::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_read_as_written() {
        let rate = Rate::parse("100/min").unwrap();
        assert_eq!((rate.count(), rate.window().as_secs(), rate.interval().as_millis()), (100, 60, 600));
        assert_eq!(rate.to_string(), "100/min");
        for bad in ["", "0/min", "100", "100/", "/min", "100/week", "-1/s"] {
            assert!(Rate::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_print_as_the_standards_want() {
        let t = Timestamp::from_ms(1_795_465_234_500);
        assert_eq!(t.rfc3339(), "2026-11-23T20:20:34.500Z");
        assert_eq!(t.rfc5322(), "Mon, 23 Nov 2026 20:20:34 +0000");
    }
}
