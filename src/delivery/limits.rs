//! All limits of one site from one source together: window, paces, pauses and what was learned. Whoever wants to open
//! or to send asks, and is told yes, or what binds and until when. The steward's answers and `queue explain` come from
//! the same functions, so that what is shown is what holds.

mod streak;

use std::time::Duration;

use tokio::time::Instant;

use crate::base::{CampaignName, Rate, Timestamp};
use crate::config::shaping::SiteShape;
pub use crate::delivery::limits::streak::Streak;
use crate::delivery::pace::Pace;
use crate::delivery::trouble::Judgement;
use crate::delivery::warmup::{Cold, Warming};
use crate::delivery::window::Window;
use crate::mail::{Blame, Class, Verdict};
use crate::smtp::classify::Reaction;

/// The first rest of a dead site; doubled with each death without a success between.
const REST_FIRST: Duration = Duration::from_secs(5 * 60);
/// The longest rest of a dead site.
const REST_MAX: Duration = Duration::from_secs(3600);
/// Answers of a minute until their share of refusals means something.
const SHARE_LEAST: u32 = 20;
/// The share of refusals is counted over this time.
const SHARE_SPAN: Duration = Duration::from_secs(60);
/// How long one connection must do after a minute that was refused in large part.
const SHARE_REST: Duration = Duration::from_secs(60);
/// How long a number of messages after which the host closed is kept to.
const SESSION_TTL: Duration = Duration::from_secs(3600);
/// How long a site that wants IPv4 is left alone by an address of the other kind (C-12).
const OVER_IPV4: Duration = Duration::from_secs(24 * 3600);
/// Longest note of why a site stands still, in octets: the learned state has to fit a queue record of 100.
const WHY_MAX: usize = 56;

/// What binds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// A person has to resume the site; the text says why.
    Held(String),
    /// Nothing is opened before the wait is over; the text says why.
    Paused(String),
    /// As many connections are open as the window allows now.
    Connections(u16),
    /// The rate of new connections.
    ConnectionRate,
    /// The rate of messages.
    MessageRate,
    /// The rate of the campaign whose copies wait.
    LaunchRate(CampaignName, Rate),
    /// The calendar by which the source is made known; the text says how far it is.
    Warmup(String),
}

/// A no, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotNow {
    /// What binds.
    pub binds: Binding,
    /// How long until asking again is of use; `None`: until something else happens.
    pub wait: Option<Duration>,
}

/// The limits toward one site from one source.
pub struct Limits {
    shape: SiteShape,
    window: Window,
    messages: Pace,
    connections: Pace,
    /// By the site's words or the warm-up, until a person lets it go on.
    held: Option<String>,
    /// By a person, for every source: that is on record elsewhere, and nothing this one has learned.
    suspended: Option<String>,
    pause: Option<(Instant, String)>,
    /// Since its last success every attempt has failed, and somebody went on trying.
    streak: Option<Streak>,
    one_connection: Option<Instant>,
    session: Option<(u32, Instant)>,
    share: Share,
    deaths: u32,
    /// Mean time one message takes on a connection, in seconds; `None` before the first.
    message_time: Option<f64>,
    /// The last rate that said no, and until when, for show.
    last_no: Option<(Binding, Instant)>,
    /// Where the source is not known yet.
    warming: Option<Warming>,
}

/// Refusals among the answers of the present minute (C-50).
#[derive(Debug, Clone, Copy)]
struct Share {
    since: Instant,
    answers: u32,
    refusals: u32,
}

/// What is kept over a restart. Fits a queue record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Learned {
    /// A person has to resume.
    pub held: bool,
    /// No connection before this time.
    pub pause_until: Option<Timestamp>,
    /// Messages a second, when slowed down below the shape's rate.
    pub per_second: Option<f32>,
    /// Messages on each connection, when the host was found to allow fewer than the shape.
    pub session_max: Option<u32>,
    /// How often it was found dead without a success between; the next rest is as long as that makes it.
    pub deaths: u8,
    /// Rounds of trouble without a success between, short of its death.
    pub failed: u8,
    /// Since when every attempt has failed, without a success and without a time in which nobody tried.
    pub since: Option<Timestamp>,
    /// When an attempt failed last.
    pub heard: Option<Timestamp>,
    /// Why it stands still, or else how an attempt failed last, in the host's words, cut.
    pub why: String,
}

impl Limits {
    /// Fresh limits of a shape.
    pub fn new(shape: SiteShape, now: Instant) -> Limits {
        Limits {
            window: Window::new(shape.connection_start, shape.connection_limit),
            messages: Pace::new(shape.max_message_rate.0, now),
            connections: Pace::new(shape.max_connection_rate.0, now),
            held: None,
            suspended: None,
            pause: None,
            streak: None,
            one_connection: None,
            session: None,
            share: Share { since: now, answers: 0, refusals: 0 },
            deaths: 0,
            message_time: None,
            last_no: None,
            warming: None,
            shape,
        }
    }

    /// From now on the calendar holds as well.
    pub fn warm_up(&mut self, warming: Warming) {
        self.warming = Some(warming);
    }

    /// The warm-up at work, where there is one.
    pub fn warming(&mut self) -> Option<&mut Warming> {
        self.warming.as_mut()
    }

    /// May one more connection be opened, beside the `open` ones? A yes is spent.
    pub fn may_open(&mut self, open: u16, now: Instant) -> Result<(), NotNow> {
        self.standing(now)?;
        let size = self.window_size(now);
        if open >= size {
            return Err(NotNow { binds: Binding::Connections(size), wait: None });
        }
        let asked = self.connections.ask(now);
        asked.map_err(|wait| self.refuse(Binding::ConnectionRate, wait, now))
    }

    /// May one more message be sent? A yes is spent.
    pub fn may_send(&mut self, now: Instant) -> Result<(), NotNow> {
        self.standing(now)?;
        if let Some(no) = self.cold(now) {
            return Err(no);
        }
        let asked = self.messages.ask(now);
        asked.map_err(|wait| self.refuse(Binding::MessageRate, wait, now))?;
        if let Some(warming) = &mut self.warming {
            warming.spend(now);
        }
        Ok(())
    }

    /// How long until a message may go, as far as paces and calendar say; nothing is spent.
    pub fn next_send(&mut self, now: Instant) -> Duration {
        let cold = self.cold(now).and_then(|no| no.wait).unwrap_or_default();
        self.messages.wait(now).max(cold)
    }

    /// How many messages may go within `lead` from now, as far as paces and calendar say; else how long until asking again is
    /// of use. `None`: until something else happens.
    pub fn soon(&mut self, lead: Duration, now: Instant) -> Result<usize, Option<Duration>> {
        let cold = self.cold(now).map(|no| no.wait);
        let wait = self.messages.wait(now).max(cold.map_or(Some(Duration::ZERO), |wait| wait).ok_or(None)?);
        let rest = lead.checked_sub(wait).ok_or_else(|| Some(wait.saturating_sub(lead)))?;
        let interval = self.warming.as_ref().and_then(Warming::interval);
        let by_calendar =
            interval.map_or(usize::MAX, |interval| 1 + (rest.as_nanos() / interval.as_nanos().max(1)) as usize);
        Ok(self.messages.within(lead, now).min(by_calendar))
    }

    /// What the calendar has against a message now.
    fn cold(&self, now: Instant) -> Option<NotNow> {
        let warming = self.warming.as_ref()?;
        let wait = match warming.look(now).err()? {
            Cold::Until(wait) => Some(wait),
            // passes as soon as the record is written
            Cold::Turn | Cold::Reserving | Cold::Stopped => None,
        };
        Some(NotNow { binds: Binding::Warmup(warming.in_words(now).unwrap_or_default()), wait })
    }

    /// What binds now, with `open` connections; asked for show, nothing is spent. `None`: only the hosts' own speed.
    pub fn binds(&self, open: u16, now: Instant) -> Option<NotNow> {
        if let Some(no) = self.waits_for_person() {
            return Some(no);
        }
        if let Some((until, why)) = self.pause.as_ref().filter(|(until, _)| *until > now) {
            let wait = Some(until.saturating_duration_since(now));
            return Some(NotNow { binds: Binding::Paused(why.clone()), wait });
        }
        if let Some(no) = self.cold(now).filter(|no| no.wait.is_some()) {
            return Some(no);
        }
        if let Some((binds, until)) = self.last_no.as_ref().filter(|(_, until)| *until > now) {
            return Some(NotNow { binds: binds.clone(), wait: Some(until.saturating_duration_since(now)) });
        }
        let size = self.window_size(now);
        (open >= size).then_some(NotNow { binds: Binding::Connections(size), wait: None })
    }

    fn waits_for_person(&self) -> Option<NotNow> {
        let why = self.suspended.as_ref().or(self.held.as_ref())?;
        Some(NotNow { binds: Binding::Held(why.clone()), wait: None })
    }

    /// How long nothing is opened any more, if that is so.
    pub fn is_paused(&self, now: Instant) -> Option<Duration> {
        let (until, _) = self.pause.as_ref().filter(|(until, _)| *until > now)?;
        Some(until.saturating_duration_since(now))
    }

    /// Ends a pause that is over: the site begins again with one connection.
    pub fn refresh(&mut self, now: Instant) {
        // what binds is asked for elsewhere
        let _ = self.standing(now);
    }

    /// How long the paces remember: limits made anew after this time without a message allow no more than these. The
    /// calendar of a warm-up needs no memory: it goes on from its record.
    pub fn memory(&self) -> Duration {
        let interval =
            |pace: &Pace| pace.per_second().map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        interval(&self.messages).max(interval(&self.connections))
    }

    /// Connections of use now; those above it are to be closed after their present message.
    pub fn window_size(&self, now: Instant) -> u16 {
        let size = match self.one_connection {
            Some(until) if until > now => self.window.size().min(1),
            _ => self.window.size(),
        };
        size.min(self.useful())
    }

    /// One message took so long on its connection, from MAIL to the last answer.
    pub fn took(&mut self, time: Duration) {
        let (new, old) = (time.as_secs_f64(), self.message_time);
        self.message_time = Some(old.map_or(new, |old| old + (new - old) / 8.0));
    }

    /// Most messages on one connection.
    pub fn session_max(&self, now: Instant) -> u32 {
        let most = self.shape.max_deliveries_per_connection;
        self.session.filter(|(_, until)| *until > now).map_or(most, |(learned, _)| learned.min(most))
    }

    /// Messages a second allowed now; `None`: no limit.
    pub fn per_second(&self) -> Option<f64> {
        self.messages.per_second()
    }

    /// The shape these limits are made of.
    pub fn shape(&self) -> &SiteShape {
        &self.shape
    }

    /// How long before a message may go its connection is opened: it would idle out when that took twice as long.
    pub fn lead(&self) -> Duration {
        self.shape.idle_timeout.duration() / 2
    }

    /// Takes in the judgement on one attempt. `words` are the host's, for the record of a pause.
    ///
    /// A pause that names a domain or a link is not the site's: it holds for these alone (C-49), which is not seen to here.
    pub fn heard(&mut self, judgement: &Judgement, words: &str, now: Instant) {
        let trouble = trouble(judgement);
        if let Some(warming) = &mut self.warming {
            warming.heard(judgement);
        }
        self.count(judgement, now);
        self.window.heard(trouble);
        if trouble.is_none() && judgement.ruling.verdict == Verdict::Delivered {
            (self.deaths, self.streak) = (0, None);
        }
        match judgement.reaction {
            Reaction::None => {}
            Reaction::OverIpv4 => self.pause(OVER_IPV4, words, now),
            Reaction::Slow(span) => {
                self.messages.slow(now);
                self.one_connection = Some(now + span);
            }
            Reaction::Pause(span) => match judgement.ruling.blame {
                // these stand still by themselves, whoever sends for them
                Blame::Stream | Blame::Campaign => {}
                Blame::Recipient | Blame::Message | Blame::Host | Blame::Site | Blame::Source | Blame::Ourselves => {
                    self.pause(span, words, now)
                }
            },
            Reaction::Hold => self.hold(words, now),
            Reaction::OneConnection(span) => self.one_connection = Some(now + span),
            Reaction::ShortSession(span) => {
                self.session = Some(((self.session_max(now) / 2).max(1), now + span));
            }
            Reaction::Halt => match judgement.ruling.blame {
                // What names a domain or a campaign is stopped there, by whoever owns them; the site is in order.
                Blame::Stream | Blame::Campaign | Blame::Recipient | Blame::Message => {}
                Blame::Host | Blame::Site | Blame::Source | Blame::Ourselves => self.hold(words, now),
            },
        }
        if self.window.is_dead() && self.pause.is_none() {
            let rest = REST_MAX.min(REST_FIRST * 2u32.saturating_pow(self.deaths.min(8)));
            self.deaths += 1;
            self.pause(rest, words, now);
        }
        if matches!(trouble, Some(Blame::Host | Blame::Site | Blame::Source)) {
            self.failed(words, now);
        }
    }

    /// The attempts that failed one after the other up to now, since the last success.
    pub fn streak(&self) -> Option<&Streak> {
        self.streak.as_ref()
    }

    /// The host closed, in words or silently, after so many messages: the next connections stop short of that (C-21).
    pub fn closed_after(&mut self, messages: u32, now: Instant) {
        if messages > 0 && messages < self.session_max(now) {
            self.session = Some((messages, now + SESSION_TTL));
        }
    }

    /// Another shape, from a table that changed: holds from the next question on. What was learned stays.
    pub fn reshape(&mut self, shape: SiteShape, now: Instant) {
        self.window.limit(shape.connection_limit);
        if shape.max_message_rate != self.shape.max_message_rate {
            let slowed = self.messages.is_slowed().then(|| self.messages.per_second()).flatten();
            self.messages = Pace::new(shape.max_message_rate.0, now);
            if let Some(slowed) = slowed {
                self.messages.slow_to(slowed, now);
            }
        }
        if shape.max_connection_rate != self.shape.max_connection_rate {
            self.connections = Pace::new(shape.max_connection_rate.0, now);
        }
        self.shape = shape;
    }

    /// What was heard stops the site until a person lets it go on.
    pub fn hold(&mut self, why: &str, now: Instant) {
        self.held = Some(cut(why));
        self.failed(why, now);
    }

    /// A person stops the site, for every source.
    pub fn suspend(&mut self, why: &str) {
        self.suspended = Some(cut(why));
    }

    /// A person lets it go on, whatever stopped it, with one connection first.
    pub fn resume(&mut self) {
        (self.held, self.suspended, self.pause, self.one_connection, self.streak) = (None, None, None, None, None);
        if let Some(warming) = &mut self.warming {
            warming.resume();
        }
        self.window.probe();
    }

    /// What is worth keeping over a restart; `None` when nothing is.
    pub fn learned(&self, now: Instant, wall: Timestamp) -> Option<Learned> {
        let pause = self.pause.as_ref().filter(|(until, _)| *until > now);
        let at =
            |past: Instant| Timestamp::from_ms(wall.as_ms() - now.saturating_duration_since(past).as_millis() as i64);
        let streak = self.streak.as_ref();
        let why = self.held.as_ref().or(pause.map(|(_, why)| why)).or(streak.map(|streak| &streak.words));
        let learned = Learned {
            held: self.held.is_some(),
            pause_until: pause.map(|(until, _)| wall + until.saturating_duration_since(now)),
            per_second: self.messages.is_slowed().then(|| self.messages.per_second().map(|rate| rate as f32)).flatten(),
            session_max: self.session.filter(|(_, until)| *until > now).map(|(most, _)| most),
            deaths: self.deaths.min(u8::MAX.into()) as u8,
            failed: self.window.failed().min(u8::MAX.into()) as u8,
            since: streak.map(|streak| at(streak.since)),
            heard: streak.map(|streak| at(streak.heard)),
            why: why.cloned().unwrap_or_default(),
        };
        (learned != Learned::default()).then_some(learned)
    }

    /// Takes up what was learned before a restart; to be done before the first dial.
    pub fn restore(&mut self, learned: &Learned, now: Instant, wall: Timestamp) {
        if learned.held {
            self.held = Some(learned.why.clone());
        }
        let at = |past: Timestamp| now.checked_sub(wall.since(past));
        if let Some((began, last)) = learned.since.map(|since| (since, learned.heard.unwrap_or(since)))
            && let (Some(since), Some(heard)) = (at(began), at(last))
        {
            let rest = learned.pause_until.map_or(Duration::ZERO, |until| until.since(last));
            self.streak = Some(Streak { since, heard, rest, words: learned.why.clone() });
        }
        match learned.pause_until {
            Some(until) if until > wall => self.pause(until.since(wall), &learned.why, now),
            Some(_) => self.window.probe(),
            None => {}
        }
        self.deaths = learned.deaths.into();
        self.window.had_failed(learned.failed.into());
        if let Some(per_second) = learned.per_second {
            self.messages.slow_to(f64::from(per_second), now);
        }
        if let Some(most) = learned.session_max {
            self.session = Some((most.max(1), now + SESSION_TTL));
        }
    }

    /// Whether anything may move at all; ends a pause that is over.
    fn standing(&mut self, now: Instant) -> Result<(), NotNow> {
        if let Some(no) = self.waits_for_person() {
            return Err(no);
        }
        if let Some((until, why)) = &self.pause {
            if *until > now {
                let wait = Some(until.saturating_duration_since(now));
                return Err(NotNow { binds: Binding::Paused(why.clone()), wait });
            }
            self.pause = None;
            self.window.probe();
        }
        Ok(())
    }

    /// As many connections as the allowed pace can keep busy, and one more: others would stand idle and be counted
    /// against us all the same (Little's law).
    fn useful(&self) -> u16 {
        match (self.messages.per_second(), self.message_time) {
            (Some(rate), Some(time)) => ((rate * time).ceil().min(f64::from(u16::MAX - 1)) as u16).saturating_add(1),
            _ => u16::MAX,
        }
    }

    fn refuse(&mut self, binds: Binding, wait: Duration, now: Instant) -> NotNow {
        self.last_no = Some((binds.clone(), now + wait));
        NotNow { binds, wait: Some(wait) }
    }

    fn pause(&mut self, span: Duration, words: &str, now: Instant) {
        let until = now + span;
        if self.pause.as_ref().is_none_or(|(present, _)| *present < until) {
            self.pause = Some((until, cut(words)));
        }
    }

    /// One more attempt failed.
    fn failed(&mut self, words: &str, now: Instant) {
        let rest = self.pause.as_ref().map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(now));
        let before = self.streak.take().filter(|streak| streak.goes_on(now));
        let since = before.map_or(now, |before| before.since);
        self.streak = Some(Streak { since, heard: now, rest, words: cut(words) });
    }

    /// Counts refusals that tell of pressure, and slows down when they are many (C-50).
    fn count(&mut self, judgement: &Judgement, now: Instant) {
        if now.saturating_duration_since(self.share.since) >= SHARE_SPAN {
            self.share = Share { since: now, answers: 0, refusals: 0 };
        }
        self.share.answers += 1;
        let mailbox = matches!(
            judgement.ruling.class,
            Class::SoftGreylist | Class::SoftQuota | Class::SoftRateRecipient | Class::SoftExpired
        );
        if judgement.ruling.verdict != Verdict::Deferred || mailbox {
            return;
        }
        self.share.refusals += 1;
        let Share { answers, refusals, .. } = self.share;
        if answers < SHARE_LEAST {
            return;
        }
        if refusals * 100 > answers * 30 {
            self.one_connection = self.one_connection.max(Some(now + SHARE_REST));
        }
        if refusals * 100 > answers * 5 {
            self.messages.slow(now);
            // Counting starts anew: one bad minute halves once.
            self.share = Share { since: now, answers: 0, refusals: 0 };
        }
    }
}

impl Learned {
    /// As bytes, at most 100, with the time at which they are written.
    pub fn to_bytes(&self, now: Timestamp) -> Vec<u8> {
        let mut bytes = vec![4];
        bytes.extend(now.as_ms().to_be_bytes());
        bytes.push(u8::from(self.held));
        bytes.extend(self.pause_until.map_or(0, Timestamp::as_ms).to_be_bytes());
        bytes.extend(self.per_second.unwrap_or(0.0).to_be_bytes());
        bytes.extend(self.session_max.unwrap_or(0).to_be_bytes());
        bytes.extend([self.deaths, self.failed]);
        for at in [self.since, self.heard] {
            bytes.extend(at.map_or(0, Timestamp::as_ms).to_be_bytes());
        }
        bytes.extend(cut(&self.why).as_bytes());
        bytes
    }

    /// When bytes were written; `None`: not known, as of those of the version before.
    pub fn written(bytes: &[u8]) -> Option<Timestamp> {
        unstamped(bytes)?.0
    }

    /// Whether it holds the site up at a time, by a person's word or a pause.
    pub fn binds(&self, now: Timestamp) -> bool {
        self.held || self.pause_until.is_some_and(|until| until > now)
    }

    /// Back from bytes; `None` for another version or a damaged record, which costs only what was learned.
    pub fn from_bytes(bytes: &[u8]) -> Option<Learned> {
        let (head, rest) = unstamped(bytes)?.1.split_at_checked(27)?;
        let (heard, why) = match bytes.first()? {
            // those of the versions before do not tell when an attempt failed last
            2 | 3 => (0, rest),
            _ => {
                let (heard, why) = rest.split_first_chunk()?;
                (i64::from_be_bytes(*heard), why)
            }
        };
        let [held, rest @ ..] = head else { return None };
        let at = |ms: i64| (ms != 0).then(|| Timestamp::from_ms(ms));
        let per_second = f32::from_be_bytes(rest[8..12].try_into().ok()?);
        let session = u32::from_be_bytes(rest[12..16].try_into().ok()?);
        Some(Learned {
            held: *held == 1,
            pause_until: at(i64::from_be_bytes(rest[..8].try_into().ok()?)),
            per_second: (per_second.is_finite() && per_second > 0.0).then_some(per_second),
            session_max: (session != 0).then_some(session),
            deaths: rest[16],
            failed: rest[17],
            since: at(i64::from_be_bytes(rest[18..26].try_into().ok()?)),
            heard: at(heard),
            why: std::str::from_utf8(why).ok()?.to_owned(),
        })
    }
}

/// What was learned, and when it was written, where that is told.
fn unstamped(bytes: &[u8]) -> Option<(Option<Timestamp>, &[u8])> {
    match bytes.split_first()? {
        (2, learned) => Some((None, learned)),
        (3 | 4, stamped) => {
            let (at, learned) = stamped.split_first_chunk()?;
            Some((Some(Timestamp::from_ms(i64::from_be_bytes(*at))), learned))
        }
        _ => None,
    }
}

/// Whose trouble an attempt tells of, as the window counts it: a silent close between two copies is none (C-23).
fn trouble(judgement: &Judgement) -> Option<Blame> {
    let delivered = judgement.ruling.verdict == Verdict::Delivered;
    (!delivered && judgement.after != Some(Duration::ZERO)).then_some(judgement.ruling.blame)
}

fn cut(words: &str) -> String {
    match words.len() {
        ..=WHY_MAX => words.to_owned(),
        _ => format!("{}…", &words[..words.floor_char_boundary(WHY_MAX - '…'.len_utf8())]),
    }
}

#[cfg(test)]
mod tests;
