//! One source toward one site: its limits, its connections, and the domains it has claimed. Leases a handful at a time,
//! hands copies to whichever carrier asks, and lets the site rest when it is in trouble. Knows of no other site.
//!
//! Domains whose hosts are the same share a *door*: a connection is made to a door, and carries mail of any domain behind
//! it. Doors that have work and no connection wait in line for one.

mod door;
mod hatch;
mod hearing;
mod meter;
mod orders;
mod serving;
mod standstill;
mod warming;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::{Domain, Timestamp};
use crate::delivery::carrier::{Answer, End, Heard, Job, Word};
use crate::delivery::entry::{RECHECK, Said};
use crate::delivery::kit::{Back, Kit, Post};
use crate::delivery::launches::Way;
use crate::delivery::limits::{Binding, Learned, Limits, NotNow};
use crate::delivery::route::Route;
use crate::delivery::sites::{SiteStatus, in_words};
use crate::delivery::source::Source;
use crate::delivery::steward::door::{Door, door_of};
pub(super) use crate::delivery::steward::hatch::Hatch;
use crate::delivery::steward::meter::Meter;
use crate::delivery::steward::orders::Order;
use crate::mail::{NoticeKind, Reply};
use crate::queue::{Error, Lease, Settlement};
use crate::smtp::Patience;

/// Most copies leased at once from one domain.
pub(super) const HANDFUL: usize = 20;
/// Requests for leases under way at once, per door.
const LEASING_MAX: usize = 8;
/// Copies kept at hand of a launch whose own rate holds it back, while others have copies too.
const KEPT: usize = 4;
/// Words of carriers that may wait.
const WORDS_MAX: usize = 256;
/// How long a steward stays without work, beside the interval of its paces.
const LINGER: Duration = Duration::from_secs(1);
/// How long one whose mail waits is left before it tells again that it has nothing to do.
const SHOWN: Duration = Duration::from_secs(60);
/// A turn of the calendar that is further away than this closes the connections meanwhile.
const COLD_MIN: Duration = Duration::from_secs(30);

/// What the courier hands to a steward.
pub(super) enum Work {
    /// A claimed domain, its route, and the pool whose turn it is.
    Claim(Domain, Arc<Route>, Option<Arc<str>>),
    /// A copy of a domain that another steward has claimed.
    Stray(Box<Job>, Arc<Route>),
    /// How does it stand?
    Show(mpsc::Sender<SiteStatus>),
    /// A person stops the site.
    Suspend(String),
    /// A person lets it go on.
    Resume,
    /// The table of shapes has changed.
    Reshape,
    /// A person holds a domain: what is not on the wire of it goes home.
    SetAside(Domain),
}

/// What happened.
enum Event {
    Work(Option<Work>),
    Word(u32, Word),
    Leased(Leased),
    /// The warm-up's record was written, or could not be.
    Kept(bool),
    /// A day of the warm-up has ended with so many complaints.
    DayEnded(u64),
    /// A carrier's task ended.
    Ended(u32),
    Wake,
    Stop,
}

/// Leases that came, and whether the domain has more.
struct Leased {
    door: Arc<str>,
    domain: Domain,
    most: usize,
    leases: Result<Vec<Lease>, Error>,
}

/// A connection, as the steward sees it.
struct Line {
    door: Arc<str>,
    open: bool,
}

/// A carrier that waits for a copy.
struct Ask {
    line: u32,
    door: Arc<str>,
    patience: Patience,
    answer: oneshot::Sender<Answer>,
}

/// One source toward one site.
pub(super) struct Steward {
    kit: Arc<Kit>,
    post: Post,
    source: Arc<Source>,
    limits: Limits,
    doors: BTreeMap<Arc<str>, Door>,
    /// Doors with a connection, or with leases for one on their way.
    manned: BTreeSet<Arc<str>>,
    /// Doors with work and no connection.
    unmanned: VecDeque<Arc<str>>,
    lines: BTreeMap<u32, Line>,
    next_line: u32,
    asks: VecDeque<Ask>,
    rested: BTreeSet<Domain>,
    /// As on the ledger.
    learned: Option<Learned>,
    /// Something was heard that may be worth learning.
    news: bool,
    last_reply: Option<String>,
    /// What was noticed last, and not been over since.
    told: Option<(NoticeKind, String)>,
    meter: Meter,
    /// To the recipients' own hosts, by the table of shapes.
    is_direct: bool,
    /// Until when it stands still, as the courier was told.
    still: Option<Timestamp>,
    /// Mail waits until it no longer stands still.
    has_waiting: bool,
    /// A day of the warm-up is being ended.
    turning: bool,
    /// The record of the warm-up could not be read, and is asked for again then.
    unread: Option<Instant>,
    stopping: bool,
    /// The courier sends nothing more.
    retired: bool,
    /// Pieces of work the courier has given so far.
    given: u64,
    idle_since: Option<Instant>,
    wake: Option<Instant>,
    orders: Vec<Order>,
}

impl Steward {
    pub fn new(kit: Arc<Kit>, post: Post, source: Arc<Source>, route: &Route) -> Steward {
        let road = &kit.road;
        let shaping = road.shaping.now();
        let shape = match (&route.relay, &route.via) {
            (Some(relay), _) => shaping.route_relay(relay.settings()),
            (None, Some(_)) => shaping.relay(&road.settings),
            (None, None) => shaping.shape(&route.site, &source.name),
        };
        let now = Instant::now();
        Steward {
            post,
            source,
            limits: Limits::new(shape, now),
            doors: BTreeMap::new(),
            manned: BTreeSet::new(),
            unmanned: VecDeque::new(),
            lines: BTreeMap::new(),
            next_line: 0,
            asks: VecDeque::new(),
            rested: BTreeSet::new(),
            learned: None,
            news: false,
            last_reply: None,
            told: None,
            meter: Meter::new(now),
            is_direct: route.via.is_none(),
            still: None,
            has_waiting: false,
            turning: false,
            unread: None,
            stopping: false,
            retired: false,
            given: 0,
            idle_since: None,
            wake: None,
            orders: Vec::new(),
            kit,
        }
    }

    /// The life of a steward: until it is told to stop and its carriers have come home, or until the courier lets it go.
    pub async fn run(mut self, work: mpsc::Receiver<Work>, stop: CancellationToken) {
        self.restore().await;
        let (hatch, heard) = Hatch::new(self);
        hatch.live(heard, work, stop).await;
    }

    async fn restore(&mut self) {
        let kept = self.kit.road.queue.learned(self.source.id, &self.post.1).await;
        self.learned = kept.ok().flatten().and_then(|record| Learned::from_bytes(&record));
        if let Some(learned) = &self.learned {
            self.limits.restore(learned, Instant::now(), self.kit.entries.now());
        }
        // what a person holds is held for a source that was not there then
        if let Some(why) = self.kit.held.why(&self.post.1) {
            self.limits.suspend(&why);
        }
        self.take_up_warmup(Instant::now());
    }

    fn is_over(&self, no_chores: bool) -> bool {
        self.lines.is_empty() && no_chores && (self.stopping || self.retired && self.doors.is_empty())
    }

    /// All decisions: takes in what happened, then looks at what the site needs next.
    fn handle(&mut self, event: Event, now: Instant) -> Vec<Order> {
        match event {
            Event::Work(Some(work)) => self.take_on(work, now),
            Event::Work(None) => self.retired = true,
            Event::Word(line, word) => self.hear(line, word, now),
            Event::Leased(leased) => self.leased(leased),
            Event::Kept(written) => {
                if let Some(warming) = self.limits.warming() {
                    warming.reserved(written, now);
                }
            }
            Event::DayEnded(complaints) => self.end_day(complaints, now),
            Event::Ended(line) => self.drop_line(line),
            Event::Stop => self.stopping = true,
            Event::Wake => {}
        }
        self.drain(now);
        std::mem::take(&mut self.orders)
    }

    fn take_on(&mut self, work: Work, now: Instant) {
        self.given += 1;
        match work {
            Work::Claim(domain, route, pool) => {
                let door = self.door(route);
                door.pool = pool;
                door.claims.push_back(domain);
            }
            Work::Stray(job, route) => self.door(route).stock.push_back(*job),
            Work::Show(to) => {
                let status = Box::new(self.status(now));
                self.orders.push(Order::Show(to, status));
            }
            Work::Suspend(why) => self.limits.suspend(&why),
            Work::Reshape => {
                if self.is_direct {
                    let shape = self.kit.road.shaping.now().shape(&self.post.1, &self.source.name);
                    self.limits.reshape(shape, now);
                }
            }
            Work::SetAside(domain) => self.set_aside(&domain),
            Work::Resume => {
                self.limits.resume();
                self.news = true;
                let at = self.kit.entries.now();
                for domain in std::mem::take(&mut self.rested) {
                    self.orders.push(Order::Rest(domain, at.into(), Vec::new()));
                }
            }
        }
    }

    /// Gives a domain back, with its copies that lie ready.
    fn set_aside(&mut self, domain: &Domain) {
        let mut home = Vec::new();
        let mut claimed = false;
        for door in self.doors.values_mut() {
            claimed |= door.claims.contains(domain);
            door.claims.retain(|claim| claim != domain);
            let (theirs, others) =
                std::mem::take(&mut door.stock).into_iter().partition(|job| job.lease.domain() == domain);
            door.stock = others;
            home.extend::<VecDeque<Job>>(theirs);
        }
        if claimed || !home.is_empty() {
            self.orders.push(Order::Rest(domain.clone(), self.kit.entries.for_person(), home));
        }
    }

    /// The door of a route; a new one stands in line for a connection.
    fn door(&mut self, route: Arc<Route>) -> &mut Door {
        let key = door_of(&route);
        if !self.doors.contains_key(&key) {
            self.unmanned.push_back(key.clone());
        }
        let place = self.kit.launches.place();
        self.doors.entry(key).or_insert_with(|| Door::new(route, place))
    }

    fn hear(&mut self, number: u32, word: Word, now: Instant) {
        match word {
            Word::Open => {
                if let Some(line) = self.lines.get_mut(&number) {
                    line.open = true;
                }
            }
            Word::Shut(trouble) => {
                let door = self.lines.get(&number).map(|line| line.door.clone());
                self.drop_line(number);
                if let Some(door) = door {
                    self.shut(&door, *trouble, now);
                }
            }
            Word::Ask(patience, heard, answer) => {
                heard.into_iter().for_each(|heard| self.note(heard, now));
                if let Some(line) = self.lines.get(&number) {
                    self.asks.push_back(Ask { line: number, door: line.door.clone(), patience, answer });
                }
            }
            Word::End(End { heard, back, closed_after }) => {
                // a session that ended by a throttle says nothing of how long sessions may be (C-21)
                let closed_after = closed_after.filter(|_| !heard.iter().any(Heard::is_throttle));
                heard.into_iter().for_each(|heard| self.note(heard, now));
                if let Some(most) = closed_after {
                    self.limits.closed_after(most, now);
                    self.news = true;
                }
                let door = self.lines.get(&number).map(|line| line.door.clone());
                self.drop_line(number);
                match door.and_then(|door| self.doors.get_mut(&door)) {
                    Some(door) => back.into_iter().rev().for_each(|job| door.stock.push_front(job)),
                    None => back.into_iter().for_each(|job| job.lease.home()),
                }
            }
        }
    }

    fn leased(&mut self, leased: Leased) {
        let Leased { door: key, domain, most, leases } = leased;
        let leases = leases.unwrap_or_default();
        let full = leases.len() == most;
        if self.kit.held.holds(&domain) {
            leases.into_iter().for_each(Lease::home);
            if let Some(door) = self.doors.get_mut(&key) {
                door.leasing -= 1;
            }
            return self.orders.push(Order::Rest(domain, self.kit.entries.for_person(), Vec::new()));
        }
        let mut batch = Vec::new();
        for lease in leases {
            self.take_in(&key, lease, &mut batch);
        }
        if !batch.is_empty() {
            self.orders.push(Order::Settle(batch));
        }
        let Some(door) = self.doors.get_mut(&key) else { return };
        door.leasing -= 1;
        match (full, self.kit.takes_turns(&door.route)) {
            (true, true) => self.orders.push(Order::Tell(Back::Claim(domain, door.pool.clone()))),
            (true, false) => door.claims.push_back(domain),
            (false, _) => {}
        }
    }

    /// A lease that came: into the stock, on to its own way, or given up because its time is over and its site has failed
    /// for as long. One whose turn came too late for other reasons has an attempt left.
    fn take_in(&mut self, key: &Arc<str>, mut lease: Lease, batch: &mut Vec<Settlement>) {
        let (now, life) = (self.kit.entries.now(), self.kit.road.settings.retry.expires.duration());
        if lease.envelope.expires <= now && self.waited_for_warmup(&lease) {
            lease.envelope.expires = now + life;
        }
        let last_word = self.last_word_on(&lease);
        let Some(door) = self.doors.get_mut(key) else { return lease.home() };
        let entries = &self.kit.entries;
        let site = self.kit.counted_under(&door.route, lease.domain());
        if let Some(reply) = last_word {
            let said = Said { stage: None, reply: Some(reply), host: None, site, channel: None };
            return batch.push(entries.expired(lease, said));
        }
        let facts = match self.kit.launches.facts(lease.envelope.id.launch()) {
            Ok(facts) => facts,
            Err(why) => return batch.push(entries.aside(lease, entries.in_about(RECHECK), why, site)),
        };
        let (launch, now) = (lease.envelope.id.launch(), entries.now());
        if let Some(stop) = self.kit.road.stops.why(launch, facts.from.as_ref(), &self.post.1, now) {
            return batch.push(entries.stopped(lease, stop, site));
        }
        let new_domains = if self.is_direct { &facts.new_domains[..] } else { &[] };
        if let Some((turn, why)) = self.kit.new_domains.turn(new_domains, &self.post.1, Instant::now()) {
            let at = now + turn.saturating_duration_since(Instant::now());
            return batch.push(entries.aside(lease, at, why, site));
        }
        let same_way = match (&facts.way, &door.route.via) {
            (Way::Direct, None) => true,
            (Way::Direct, Some(_)) => door.route.relay.is_some(),
            (Way::Through(route), Some(_)) => route.site == door.route.site,
            (Way::Through(_), None) => false,
        };
        door.pool.clone_from(&facts.pool);
        if same_way && self.kit.leaves_from(&lease, &facts, &self.source, &door.route) {
            let (now, launch) = (Instant::now(), lease.envelope.id.launch());
            if facts.is_bound(now) && self.kit.road.queue.launches() > 1 {
                let kept = door.stock.iter().filter(|job| job.lease.envelope.id.launch() == launch).count();
                if let Some(turn) = facts.turn(now).filter(|_| kept >= KEPT) {
                    let at = entries.now() + turn.saturating_duration_since(now);
                    return batch.push(entries.aside(lease, at, "its launch's rate".to_owned(), site));
                }
            }
            door.stock.push_back(Job { lease, facts, stray: false, setbacks: 0, intended: false });
        } else {
            self.orders.push(Order::Tell(Back::Stray(Box::new(lease))));
        }
    }

    /// What its site said last when it failed, if that gives this copy up: the site has failed for as long as a copy has,
    /// and was tried again after the time of this one was over.
    fn last_word_on(&self, lease: &Lease) -> Option<Reply> {
        let streak = self.limits.streak()?;
        let heard = Timestamp::from_ms(self.kit.entries.now().as_ms() - streak.heard.elapsed().as_millis() as i64);
        let has_failed = streak.span() >= self.kit.road.settings.retry.expires.duration();
        (has_failed && lease.envelope.expires <= heard).then(|| Reply::of_words(&streak.words))
    }

    fn drop_line(&mut self, number: u32) {
        let Some(line) = self.lines.remove(&number) else { return };
        self.asks.retain(|ask| ask.line != number);
        if let Some(door) = self.doors.get_mut(&line.door) {
            door.lines -= 1;
            door.stock.iter().for_each(|job| job.facts.forgo(door.place));
        }
    }

    /// What the site needs next.
    fn drain(&mut self, now: Instant) {
        self.wake = None;
        self.limits.refresh(now);
        if self.stopping {
            self.close_asks();
            self.send_all_home();
            return;
        }
        if let Some(wait) = self.awaits_record(now) {
            self.stand_still((self.kit.entries.now() + wait).into(), now);
            return self.idle(now);
        }
        let wall = self.kit.entries.now();
        match self.limits.binds(0, now) {
            Some(NotNow { binds: Binding::Held(_), .. }) => self.stand_still(self.kit.entries.for_person(), now),
            Some(NotNow { binds: Binding::Paused(_), wait }) => {
                self.stand_still((wall + wait.unwrap_or(RECHECK)).into(), now);
            }
            // the next one goes in a while: connections are not kept open for it, and other sources may send meanwhile
            Some(NotNow { binds: Binding::Warmup(_), wait: Some(wait) }) if wait >= COLD_MIN => {
                self.stand_still((wall + wait).into(), now);
            }
            Some(NotNow {
                binds:
                    Binding::Connections(_)
                    | Binding::ConnectionRate
                    | Binding::MessageRate
                    | Binding::LaunchRate(..)
                    | Binding::Warmup(_),
                ..
            })
            | None => {
                self.has_waiting = false;
                if self.still.take().is_some() {
                    self.orders.push(Order::Tell(Back::Still(self.post.clone(), None)));
                }
                self.serve(now);
                // a door that is done must not keep another from its place: nothing may happen here again
                self.tidy();
                self.man(now);
                self.stock_up(now);
                self.share_out(now);
                self.open_more(now);
            }
        }
        self.keep_warm(now);
        if std::mem::take(&mut self.news)
            && let Some(record) = self.learning(now)
        {
            self.orders.push(Order::Learn(record));
        }
        self.idle(now);
    }

    /// Forgets doors without work and connections.
    fn tidy(&mut self) {
        let doors = &mut self.doors;
        self.manned.retain(|key| {
            let over = doors.get(key).is_none_or(Door::is_done);
            if over {
                doors.remove(key);
            }
            !over
        });
    }

    fn close_asks(&mut self) {
        for ask in self.asks.drain(..) {
            let _ = ask.answer.send(Answer::Close);
        }
    }

    fn send_all_home(&mut self) {
        for door in self.doors.values_mut() {
            door.claims.clear();
            door.stock.drain(..).for_each(|job| job.lease.home());
        }
    }

    /// Tells the courier when there has been nothing to do for as long as the paces have a memory.
    fn idle(&mut self, now: Instant) {
        if !self.doors.is_empty() || !self.lines.is_empty() {
            self.idle_since = None;
            return;
        }
        let linger = LINGER + self.limits.memory();
        let mut over = *self.idle_since.get_or_insert(now) + linger;
        if now >= over {
            let tells = self.has_waiting && self.limits.warming().is_some();
            let again = if tells { now + SHOWN } else { now };
            (self.idle_since, over) = (Some(again), again + linger);
            self.orders.push(Order::Tell(Back::Idle(self.post.clone(), self.given, tells)));
        }
        self.wake_in(Some(over.saturating_duration_since(now)), now);
    }

    fn wake_in(&mut self, wait: Option<Duration>, now: Instant) {
        if let Some(wait) = wait {
            let at = now + wait;
            self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
        }
    }

    /// The record of what was learned, when it differs from the one on the ledger.
    fn learning(&mut self, now: Instant) -> Option<Vec<u8>> {
        let wall = self.kit.entries.now();
        let learned = self.limits.learned(now, wall);
        if learned == self.learned {
            return None;
        }
        self.learned = learned;
        Some(self.learned.as_ref().map(|learned| learned.to_bytes(wall)).unwrap_or_default())
    }

    fn counted_under(&self, key: &Arc<str>, job: &Job) -> Arc<str> {
        match self.doors.get(key) {
            Some(door) => self.kit.counted_under(&door.route, job.lease.domain()),
            None => self.post.1.clone(),
        }
    }

    fn status(&mut self, now: Instant) -> SiteStatus {
        let open = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
        let by_launch = self.bound_by_launch(now);
        let by_site = self.limits.binds(open, now);
        let binds = by_launch.filter(|no| by_site.as_ref().is_none_or(|site| site.wait < no.wait)).or(by_site);
        let busy = self.lines.len().saturating_sub(self.asks.len());
        SiteStatus {
            site: self.post.1.to_string(),
            source: self.source.name.to_string(),
            domains: self.doors.values().map(|door| (door.claims.len() + door.leasing) as u64).sum(),
            leased: self.doors.values().map(|door| door.stock.len() as u64).sum::<u64>() + busy as u64,
            connections: self.lines.len() as u64,
            window: self.limits.window_size(now),
            rate_now: self.meter.rate(now),
            rate_allowed: self.limits.per_second(),
            last_reply: self.last_reply.clone(),
            held: matches!(&binds, Some(NotNow { binds: Binding::Held(_), .. })),
            binds: binds.as_ref().map(in_words),
            warmup: self.limits.warming().and_then(|warming| warming.in_words(now)),
        }
    }
}
