//! What goes next: copies to the carriers that ask, connections to the doors that have copies, leases before they run out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::LaunchId;
use crate::delivery::carrier::{Answer, Job};
use crate::delivery::kit::Back;
use crate::delivery::launches::{Bound, Facts};
use crate::delivery::limits::{Binding, NotNow};
use crate::delivery::steward::door::Door;
use crate::delivery::steward::orders::Order;
use crate::delivery::steward::{Ask, HANDFUL, LEASING_MAX, Line, Steward};
use crate::smtp::Patience;

/// Copies looked through for one whose launch allows it to go.
const SEARCH_MAX: usize = 64;
/// How long a launch's rate lets a steward sleep: others may have something new.
const NAP: Duration = Duration::from_secs(1);
/// A pace that keeps a copy waiting for longer than this leaves the claims to other sources meanwhile.
const BUSY_MIN: Duration = Duration::from_millis(20);

impl Steward {
    /// Answers the carriers that ask, in their order.
    pub(super) fn serve(&mut self, now: Instant) {
        let mut surplus = self.lines.len().saturating_sub(usize::from(self.limits.window_size(now)));
        for _ in 0..self.asks.len() {
            let Some(ask) = self.asks.pop_front() else { break };
            if ask.answer.is_closed() {
                continue;
            }
            if surplus > 0 {
                surplus -= 1;
                let _ = ask.answer.send(Answer::Close);
                continue;
            }
            match (self.pick(&ask.door, now), ask.patience) {
                (Some(job), _) => self.give(ask, job),
                (None, Patience::None) => drop(ask.answer.send(Answer::Nothing)),
                (None, Patience::Wait) => self.asks.push_back(ask),
            }
        }
    }

    fn give(&mut self, ask: Ask, job: Job) {
        if let Err(Answer::Job(job)) = ask.answer.send(Answer::Job(Box::new(job)))
            && let Some(door) = self.doors.get_mut(&ask.door)
        {
            // the carrier has given up meanwhile; the pace spent is lost, which errs on the slow side
            door.stock.push_front(*job);
        }
    }

    /// The first copy behind a door that may go now; a yes is spent.
    pub(super) fn pick(&mut self, key: &Arc<str>, now: Instant) -> Option<Job> {
        let Steward { kit, post, doors, limits, is_direct, .. } = self;
        let door = doors.get_mut(key)?;
        let place = door.place;
        let mut wait: Option<Duration> = None;
        for at in 0..door.stock.len().min(SEARCH_MAX) {
            let Job { lease, facts, .. } = &door.stock[at];
            let new_domains = if *is_direct { &facts.new_domains[..] } else { &[] };
            let launch = (new_domains, lease.envelope.id.launch());
            let by_launch = || facts.may_send(place, now, || limits.may_send(now));
            match kit.new_domains.may_send(launch, &post.1, now, by_launch) {
                Ok(()) => return door.stock.remove(at),
                Err(Bound::Launch(until)) => {
                    let until = until.min(NAP);
                    wait = Some(wait.map_or(until, |known| known.min(until)));
                }
                Err(Bound::Site(no)) => {
                    wait = no.wait;
                    break;
                }
            }
        }
        self.wake_in(wait, now);
        None
    }

    /// Lets doors in line have a connection, as far as the window goes.
    pub(super) fn man(&mut self, now: Instant) {
        let size = usize::from(self.limits.window_size(now));
        while let Some(key) = self.unmanned.front() {
            let reserved = self.manned.iter().filter(|key| self.doors.get(*key).is_some_and(|door| door.lines == 0));
            if self.lines.len() + reserved.count() < size {
                self.manned.insert(key.clone());
                self.unmanned.pop_front();
            } else {
                self.close_one_idle();
                return;
            }
        }
    }

    /// A connection without work makes room for a door that has some.
    fn close_one_idle(&mut self) {
        let doors = &self.doors;
        let idle = |ask: &Ask| {
            let bare = |door: &Door| door.stock.is_empty() && door.claims.is_empty() && door.leasing == 0;
            ask.patience == Patience::Wait && doors.get(&ask.door).is_some_and(bare)
        };
        if let Some(at) = self.asks.iter().position(idle)
            && let Some(ask) = self.asks.remove(at)
        {
            let _ = ask.answer.send(Answer::Close);
        }
    }

    /// Leases for the doors with connections, so that none of them waits: a handful, and at most a second's worth.
    pub(super) fn stock_up(&mut self, now: Instant) {
        let worth = self.limits.per_second().map_or(HANDFUL, |rate| (rate.ceil() as usize).clamp(1, HANDFUL));
        for key in &self.manned {
            let Some(door) = self.doors.get_mut(key) else { continue };
            let low = (door.lines + 1).min(if worth < HANDFUL { worth } else { usize::MAX });
            let ready = door.ready(&self.kit, now);
            while door.leasing < LEASING_MAX && ready + door.leasing < low {
                let Some(domain) = door.claims.pop_front() else { break };
                door.leasing += 1;
                self.orders.push(Order::Lease(key.clone(), domain, worth));
            }
        }
    }

    /// Claims that wait behind a pace of ours go back: another source may have room for them now.
    pub(super) fn share_out(&mut self, now: Instant) {
        let wait = self.limits.next_send(now);
        if wait < BUSY_MIN
            || self.doors.values().all(|door| door.claims.is_empty() || !self.kit.takes_turns(&door.route))
        {
            return;
        }
        self.orders.push(Order::Tell(Back::Busy(self.post.clone(), now + wait)));
        for door in self.doors.values_mut().filter(|door| self.kit.takes_turns(&door.route)) {
            let pool = door.pool.clone();
            self.orders.extend(door.claims.drain(..).map(|domain| Order::Tell(Back::Claim(domain, pool.clone()))));
        }
    }

    /// Opens connections where more copies lie than carriers come for them; none for copies that may not go before it would
    /// idle out again.
    pub(super) fn open_more(&mut self, now: Instant) {
        let lead = self.limits.lead();
        for key in self.manned.clone() {
            let Some(door) = self.doors.get(&key) else { continue };
            let coming = self.coming(|at| *at == key);
            let most = |copies: usize| if door.lines == 0 { 1 } else { copies / 2 };
            if door.stock.is_empty() || coming >= most(door.stock.len()) {
                continue;
            }
            match self.soon(door, lead, now) {
                Ok(soon) if coming < most(soon) => {}
                Ok(_) => continue,
                Err(wait) => {
                    self.wake_in(Some(wait), now);
                    continue;
                }
            }
            let open = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
            let may_open =
                self.may_use_one_more(lead, now).and_then(|()| self.limits.may_open(open, now).map_err(|no| no.wait));
            match may_open {
                Ok(()) => self.open(&key, now),
                Err(wait) => {
                    self.wake_in(wait, now);
                    return;
                }
            }
        }
    }

    /// Carriers on their way to doors, or waiting there.
    fn coming(&self, to: impl Fn(&Arc<str>) -> bool) -> usize {
        self.lines.values().filter(|line| !line.open && to(&line.door)).count()
            + self.asks.iter().filter(|ask| to(&ask.door)).count()
    }

    /// Whether the site takes more messages within `lead` than carriers come for them; else how long until asking again is of
    /// use.
    fn may_use_one_more(&mut self, lead: Duration, now: Instant) -> Result<(), Option<Duration>> {
        let soon = self.limits.soon(lead, now)?;
        let has_stock = |key: &Arc<str>| self.doors.get(key).is_some_and(|door| !door.stock.is_empty());
        if soon > self.coming(has_stock) { Ok(()) } else { Err(None) }
    }

    /// Copies behind a door that may go within `lead`, as far as their launches' rates and domains say; else how long until
    /// asking again is of use.
    fn soon(&self, door: &Door, lead: Duration, now: Instant) -> Result<usize, Duration> {
        let (mut free, mut bound) = (0, BTreeMap::<LaunchId, (usize, &Facts)>::new());
        for job in door.stock.iter().take(SEARCH_MAX) {
            match job.facts.is_free() {
                true => free += 1,
                false => bound.entry(job.lease.envelope.id.launch()).or_insert((0, &job.facts)).0 += 1,
            }
        }
        if bound.is_empty() {
            return Ok(door.stock.len());
        }
        let mut wait = Duration::MAX;
        for (copies, facts) in bound.into_values() {
            let new_domains = if self.is_direct { &facts.new_domains[..] } else { &[] };
            let by_domains = self.kit.new_domains.soon(new_domains, &self.post.1, lead, now);
            match by_domains.and_then(|()| facts.soon(door.place, lead, now)) {
                Ok(turns) => free += turns.min(copies),
                Err(until) => wait = wait.min(until),
            }
        }
        if free > 0 { Ok(free) } else { Err(wait) }
    }

    /// Whether a copy is known to come for a carrier that waits: its connection is kept until then.
    pub(super) fn expects_for(&mut self, line: u32, until: Instant, now: Instant) -> bool {
        let Some(key) = self.lines.get(&line).map(|line| line.door.clone()) else { return false };
        let within = until.saturating_duration_since(now);
        let Ok(by_site) = self.limits.soon(within, now) else { return false };
        let Some(Ok(soon)) = self.doors.get(&key).map(|door| self.soon(door, within, now)) else { return false };
        let before = self.asks.iter().filter(|ask| ask.door == key).take_while(|ask| ask.line != line).count();
        before < soon.min(by_site)
    }

    /// The campaign whose own rate is what holds all copies at hand, and until when.
    pub(super) fn bound_by_launch(&self, now: Instant) -> Option<NotNow> {
        let stock = || self.doors.values().flat_map(|door| &door.stock);
        let bound: Option<Vec<_>> = stock().map(|job| Some((job.facts.bound_for(now)?, &job.facts))).collect();
        let (wait, facts) = bound?.into_iter().min_by_key(|(wait, _)| *wait)?;
        let binds = Binding::LaunchRate(facts.campaign.clone(), facts.rate()?);
        Some(NotNow { binds, wait: Some(wait) })
    }

    fn open(&mut self, key: &Arc<str>, now: Instant) {
        let lead = self.limits.lead();
        let Some(door) = self.doors.get_mut(key) else { return };
        let is_for = |job: &&Job| job.facts.soon(door.place, lead, now).is_ok();
        if let Some(job) = door.stock.iter().take(SEARCH_MAX).find(is_for) {
            job.facts.promise(door.place, lead, now);
        }
        door.lines += 1;
        let number = self.next_line;
        self.next_line += 1;
        self.lines.insert(number, Line { door: key.clone(), open: false });
        self.orders.push(Order::Open(number, door.route.clone()));
        // one at a time; the next round sees whether another is needed
        self.wake = Some(Instant::now());
    }
}
