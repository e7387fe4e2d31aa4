//! Making an address known, one provider at a time: a calendar of how much it may send, and for each (source, site) how
//! far it has come (W-01…W-06). Pure decisions; the steward keeps the record in the store.
//!
//! - In no 24 hours more than the calendar's day allows, wherever they begin: counts are kept by hour.
//! - Within a day no faster than a twelfth of it an hour, evenly.
//! - What may be sent is reserved on record before it goes out, so that no crash makes room for more.
//! - A day leads on only when half of it was used and it went well; a bad one leads back.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::Timestamp;
use crate::config;
use crate::delivery::trouble::Judgement;
use crate::mail::{Class, Verdict};
use crate::smtp::classify::Reaction;

/// A day of the calendar, from its first message.
const DAY: Duration = Duration::from_secs(86_400);
const HOUR_MS: i64 = 3_600_000;
/// Hours that together hold any 24 hours ending now.
const HOURS: i64 = 25;
/// Days gone back after a long silence (W-05).
const IDLE_BACK: u16 = 14;
/// Days gone back after a bad one (W-02).
const BAD_BACK: u16 = 2;
/// Answers until their shares mean something.
const SAMPLE: u32 = 20;
/// Days looked ahead in a forecast.
const DAYS_MAX: u32 = 1000;
/// Most copies reserved at once.
const RESERVE_MAX: u32 = 200;
/// How long a record that refused to be written is left alone: one that refuses at once would be asked again at once.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(2);

/// How much a new address may send on each day.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    settings: config::Warmup,
}

impl Calendar {
    /// The calendar of the settings.
    pub fn new(settings: &config::Warmup) -> Calendar {
        Calendar { settings: settings.clone() }
    }

    /// Most messages to a site in 24 hours on the `day`-th day, from 1; `None`: the address is known by then.
    pub fn most(&self, site: &str, day: u16) -> Option<u32> {
        let config::Warmup { start, start_at, growth, slow_from, slow_growth, target, .. } = &self.settings;
        let mut most = f64::from(*start_at.get(site).unwrap_or(start));
        for _ in 1..day {
            if most >= f64::from(*target) {
                return None;
            }
            most *= if most < f64::from(*slow_from) { growth } else { slow_growth };
        }
        (most < f64::from(*target)).then_some(most as u32)
    }

    /// The first day on which an address is known; `None` when the calendar never gets there.
    pub fn ends(&self, site: &str) -> Option<u16> {
        (1..=1000).find(|day| self.most(site, *day).is_none())
    }
}

/// How far an address has come at a site, as it is kept on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmth {
    /// The day of the calendar, from 1.
    pub day: u16,
    /// When this day's first message went out, in milliseconds; `None` before it.
    begun: Option<i64>,
    /// When the last message went out.
    last: Option<i64>,
    /// Messages by hour since the epoch, oldest first.
    hours: VecDeque<(i64, u32)>,
    /// What was heard on this day.
    tally: Tally,
    /// Bad days in a row.
    bad: u8,
    /// Stopped, until a person resumes.
    pub stopped: bool,
}

/// The answers of one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    sent: u32,
    answers: u32,
    deferred: u32,
    bounced: u32,
    blocked: bool,
    paused: bool,
}

/// How a day went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// On to the next.
    Good,
    /// Not enough was sent to tell.
    Unused,
    /// The same again.
    Repeat,
    /// Two days back.
    Bad,
    /// Bad, as the one before: stop.
    Stop,
}

impl Warmth {
    /// An address that begins on a day of the calendar.
    pub fn beginning(day: u16) -> Warmth {
        let tally = Tally::default();
        Warmth { day: day.max(1), begun: None, last: None, hours: VecDeque::new(), tally, bad: 0, stopped: false }
    }

    /// What [`Warmth::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Warmth> {
        serde_json::from_str(text).ok()
    }

    /// For the record.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers are plain JSON")
    }

    /// Messages within the last 24 hours, counted by whole hours: never fewer than there were.
    pub fn in_24_hours(&self, now: Timestamp) -> u32 {
        let oldest = hour(now) - HOURS + 1;
        self.hours.iter().filter(|(at, _)| *at >= oldest).map(|(_, count)| count).sum()
    }

    /// When the first of the hours that count no longer does.
    fn eases(&self, now: Timestamp) -> Timestamp {
        let oldest = hour(now) - HOURS + 1;
        let first = self.hours.iter().find(|(at, count)| *at >= oldest && *count > 0);
        first.map_or(now, |(at, _)| Timestamp::from_ms((at + HOURS) * HOUR_MS))
    }

    /// Whether the day is over; the next message begins another.
    fn is_over(&self, now: Timestamp) -> bool {
        self.begun.is_some_and(|begun| now >= Timestamp::from_ms(begun) + DAY)
    }

    /// One message more.
    fn count(&mut self, now: Timestamp, messages: u32) {
        let this = hour(now);
        match self.hours.back_mut() {
            Some((at, count)) if *at >= this => *count += messages,
            Some(_) | None => self.hours.push_back((this, messages)),
        }
        while self.hours.front().is_some_and(|(at, _)| *at <= this - HOURS) {
            self.hours.pop_front();
        }
        self.begun.get_or_insert(now.as_ms());
        self.last = Some(now.as_ms());
        self.tally.sent += messages;
    }

    fn hear(&mut self, judgement: &Judgement) {
        let class = judgement.ruling.class;
        self.tally.answers += 1;
        match judgement.ruling.verdict {
            Verdict::Delivered => {}
            Verdict::Failed => self.tally.bounced += u32::from(class.word().starts_with("hard.")),
            Verdict::Deferred => {
                let of_mailbox = matches!(class, Class::SoftGreylist | Class::SoftQuota | Class::SoftRateRecipient);
                self.tally.deferred += u32::from(!of_mailbox);
            }
        }
        self.tally.blocked |= matches!(class, Class::BlockIp | Class::BlockDomain | Class::BlockUrl);
        self.tally.paused |= matches!(judgement.reaction, Reaction::Pause(_) | Reaction::Hold | Reaction::Halt);
    }

    /// Ends the day that is over, and begins the next. `complaints`: those about this site since it began.
    pub fn turn(&mut self, calendar: &Calendar, site: &str, complaints: u64, now: Timestamp) -> Gate {
        let gate = self.gate(calendar, site, complaints);
        match gate {
            Gate::Good => (self.day, self.bad) = (self.day.saturating_add(1), 0),
            Gate::Unused => {}
            Gate::Repeat => self.bad = 0,
            Gate::Bad => (self.day, self.bad) = (self.day.saturating_sub(BAD_BACK).max(1), self.bad + 1),
            Gate::Stop => {
                (self.day, self.bad) = (self.day.saturating_sub(BAD_BACK).max(1), 0);
                self.stopped = true;
            }
        }
        let idle = self.last.map_or(Duration::ZERO, |last| now.since(Timestamp::from_ms(last)));
        if idle > calendar.settings.idle.duration() {
            self.day = self.day.saturating_sub(IDLE_BACK).max(1);
        }
        (self.begun, self.tally) = (None, Tally::default());
        gate
    }

    fn gate(&self, calendar: &Calendar, site: &str, complaints: u64) -> Gate {
        let Tally { sent, answers, deferred, bounced, blocked, paused } = self.tally;
        let config::Warmup { deferred: deferred_most, bounced: bounced_most, complained, .. } = &calendar.settings;
        let share = |count: f64| if answers >= SAMPLE { count * 100.0 / f64::from(answers) } else { 0.0 };
        let shares = [
            (share(f64::from(deferred)), *deferred_most, 2.0),
            (share(f64::from(bounced)), *bounced_most, 2.0),
            (share(complaints as f64), *complained, 3.0),
        ];
        let most = calendar.most(site, self.day).unwrap_or(u32::MAX);
        if blocked || shares.iter().any(|(share, most, times)| *share + 1e-9 >= most * times) {
            if self.bad > 0 { Gate::Stop } else { Gate::Bad }
        } else if paused || shares.iter().any(|(share, most, _)| share + 1e-9 >= *most) {
            Gate::Repeat
        } else if sent < most.div_ceil(2) {
            Gate::Unused
        } else {
            Gate::Good
        }
    }
}

fn hour(at: Timestamp) -> i64 {
    at.as_ms().div_euclid(HOUR_MS)
}

/// Why nothing may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cold {
    /// As much as the day allows went out in the last 24 hours; or its turn within the day has not come.
    Until(Duration),
    /// The day is over: it is to be ended first.
    Turn,
    /// What may be sent is being put on record.
    Reserving,
    /// Two bad days in a row: a person has to resume.
    Stopped,
}

/// The warm-up of one source at one site, at work.
#[derive(Debug)]
pub struct Warming {
    calendar: Calendar,
    site: String,
    warmth: Warmth,
    /// Copies that are on record as sent and are not.
    reserve: u32,
    /// The hour they are on record for.
    reserved_in: i64,
    /// Copies of the record that is being written.
    pending: Option<(u32, i64)>,
    /// When the next one may go.
    next: Instant,
    /// Times are counted from here.
    anchor: (Instant, Timestamp),
}

impl Warming {
    /// Goes on from a record: the next message waits its time from the last one on.
    pub fn new(calendar: Calendar, site: &str, warmth: Warmth, now: Instant, wall: Timestamp) -> Warming {
        let last = warmth.last.map(Timestamp::from_ms);
        let mut warming = Warming {
            calendar,
            site: site.to_owned(),
            warmth,
            reserve: 0,
            reserved_in: 0,
            pending: None,
            next: now,
            anchor: (now, wall),
        };
        if let (Some(last), Some(interval)) = (last, warming.interval()) {
            // a clock that was set back makes nobody wait longer than that
            warming.next = now + interval.saturating_sub(wall.since(last));
        }
        warming
    }

    fn wall(&self, now: Instant) -> Timestamp {
        self.anchor.1 + now.saturating_duration_since(self.anchor.0)
    }

    /// The most that may go in 24 hours now; `None`: the address is known.
    pub fn most(&self) -> Option<u32> {
        self.calendar.most(&self.site, self.warmth.day)
    }

    /// The least time between two messages; `None`: the address is known.
    pub fn interval(&self) -> Option<Duration> {
        self.most().map(|most| DAY / 2 / most.max(1))
    }

    /// May one more message go? Nothing is spent.
    pub fn look(&self, now: Instant) -> Result<(), Cold> {
        let wall = self.wall(now);
        if self.warmth.stopped {
            return Err(Cold::Stopped);
        }
        let Some(most) = self.most() else { return Ok(()) };
        if self.warmth.is_over(wall) {
            return Err(Cold::Turn);
        }
        if self.warmth.in_24_hours(wall) >= most {
            return Err(Cold::Until(self.warmth.eases(wall).since(wall).max(Duration::from_millis(1))));
        }
        if self.next > now {
            return Err(Cold::Until(self.next.saturating_duration_since(now)));
        }
        if self.reserve == 0 || self.reserved_in != hour(wall) {
            return Err(Cold::Reserving);
        }
        Ok(())
    }

    /// One message goes; after a yes of [`Warming::look`].
    pub fn spend(&mut self, now: Instant) {
        let wall = self.wall(now);
        let Some(interval) = self.interval() else { return };
        self.reserve = self.reserve.saturating_sub(1);
        self.warmth.count(wall, 1);
        self.next = now + interval;
    }

    /// Takes in how a message was answered.
    pub fn heard(&mut self, judgement: &Judgement) {
        self.warmth.hear(judgement);
    }

    /// When the day is over, since when its complaints count.
    pub fn ends_day(&self, now: Instant) -> Option<Timestamp> {
        let over = self.most().is_some() && self.warmth.is_over(self.wall(now));
        self.warmth.begun.filter(|_| over).map(Timestamp::from_ms)
    }

    /// Ends the day that is over.
    pub fn turn(&mut self, complaints: u64, now: Instant) -> Gate {
        let wall = self.wall(now);
        (self.reserve, self.pending) = (0, None);
        self.warmth.turn(&self.calendar, &self.site, complaints, wall)
    }

    /// The record to be written so that more may go, when what is reserved runs out.
    pub fn reserve(&mut self, now: Instant) -> Option<String> {
        let wall = self.wall(now);
        let most = self.most()?;
        let this = hour(wall);
        let left = if self.reserved_in == this { self.reserve } else { 0 };
        let block = (most / 20).clamp(1, RESERVE_MAX);
        if self.pending.is_some() || left > block / 4 || self.warmth.stopped || self.warmth.is_over(wall) {
            return None;
        }
        let room = most.saturating_sub(self.warmth.in_24_hours(wall)).saturating_sub(left);
        let more = block.min(room);
        if more == 0 {
            return None;
        }
        self.pending = Some((more, this));
        let mut record = self.warmth.clone();
        record.count(wall, left + more);
        Some(record.to_text())
    }

    /// The record is written, or could not be.
    pub fn reserved(&mut self, written: bool, now: Instant) {
        let this = hour(self.wall(now));
        let Some((more, of)) = self.pending.take().filter(|_| written) else { return };
        if of != this {
            return;
        }
        if self.reserved_in != this {
            (self.reserve, self.reserved_in) = (0, this);
        }
        self.reserve += more;
    }

    /// Whether so much was answered on this day that shares of it mean something: complaints count then.
    pub fn is_judged(&self) -> bool {
        self.warmth.tally.answers >= SAMPLE
    }

    /// Gives back what is reserved: the record as it is in truth, for the end.
    pub fn close(&mut self) -> String {
        (self.reserve, self.pending) = (0, None);
        self.record()
    }

    /// The record as it is in truth.
    pub fn record(&self) -> String {
        self.warmth.to_text()
    }

    /// A person lets it go on.
    pub fn resume(&mut self) {
        (self.warmth.stopped, self.warmth.bad) = (false, 0);
    }

    /// In words: the day, and how much of it is used.
    pub fn in_words(&self, now: Instant) -> Option<String> {
        let most = self.most()?;
        let sent = self.warmth.in_24_hours(self.wall(now));
        Some(format!("day {} of its warm-up: {sent} of {most} in 24 hours", self.warmth.day))
    }
}

/// How long a number of copies takes from addresses on these days of the calendar, each used to the full: how many days
/// that touches, and seconds until the last copy. `None` when the calendar ends first: then the addresses are known.
pub fn days(calendar: &Calendar, site: &str, warmths: &[Warmth], copies: u64, now: Timestamp) -> Option<(u32, f64)> {
    let mut left = copies;
    let mut states: Vec<(u16, u32)> = warmths.iter().map(|warmth| (warmth.day, warmth.in_24_hours(now))).collect();
    // a day's share goes out within half of it
    let half = DAY.as_secs_f64() / 2.0;
    for day in 0..DAYS_MAX {
        let (mut most_today, mut room_today) = (0, 0);
        for (at, used) in &mut states {
            let most = calendar.most(site, *at)?;
            most_today += u64::from(most);
            room_today += u64::from(most.saturating_sub(*used));
            (*at, *used) = (*at + 1, 0);
        }
        if left <= room_today {
            let share = left as f64 / most_today.max(1) as f64;
            return Some((day + 1, f64::from(day) * DAY.as_secs_f64() + share * half));
        }
        left -= room_today;
    }
    Some((DAYS_MAX, f64::from(DAYS_MAX) * DAY.as_secs_f64()))
}

#[cfg(test)]
mod tests;
