//! Claims domains that have copies due, finds their way, and hands them to the stewards of their sites. Keeps the stewards;
//! waits for none of them, so that a slow or broken site delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::base::{Domain, Timestamp};
use crate::delivery::carrier::Job;
use crate::delivery::entry::{Entries, Said};
use crate::delivery::kit::{Back, Kit, Post, Road};
use crate::delivery::launches::{Facts, Way};
use crate::delivery::relays::by_weight;
use crate::delivery::route::{NoRoute, Route, Router};
use crate::delivery::sites::{Command, Sites, as_domain, forget, forget_old, suspend_on_record};
use crate::delivery::source::Source;
use crate::delivery::steward::{HANDFUL, Steward, Work};
use crate::delivery::taps::Taps;
use crate::mail::{Stage, Verdict};
use crate::queue::{Claimed, Error, Lease, Settlement, Until};

/// Claims asked for at once: the keeper answers all of them after one commit.
const CLAIMING_MAX: usize = 16;
/// Domains whose way is being found at once.
const ROUTING_MAX: usize = 256;
/// Stewards at once; past it nothing is claimed until one has ended.
const STEWARDS_MAX: usize = 8000;
/// Below so many, one that has nothing to do stays as long as it tells people why mail waits.
const ROOMY: usize = STEWARDS_MAX / 2;
/// Pieces of work that may wait for a steward.
const WORK_MAX: usize = 256;
/// Words of stewards that may wait for the courier.
const BACKS_MAX: usize = 4096;
/// A copy whose steward stands still, and which has no end to wait for, is looked at again after this time.
const ASIDE: Duration = Duration::from_secs(5 * 60);

/// How often what was learned long ago is forgotten.
const FORGETTING: Duration = Duration::from_secs(86_400);

/// A steward at work.
struct Seat {
    /// Which of all stewards has it: one that is let go may still be ending when another has its post.
    number: u64,
    work: mpsc::Sender<Work>,
    given: u64,
    still: Option<Until>,
    busy: Option<Instant>,
}

/// What a way was looked for, and what was found.
enum Found {
    Claim(Domain, Option<Arc<str>>, Result<Arc<Route>, NoRoute>),
    Stray(Box<Lease>, Arc<Facts>, Result<Arc<Route>, NoRoute>),
    /// Copies of a domain without a way that have another one, by a relay.
    Refused(Vec<Lease>),
}

enum Event {
    Stop,
    Command(Command),
    Back(Back),
    Ended(Post, u64),
    Found(Found),
    Claimed(Result<Claimed, Error>),
    /// It is time to forget.
    Day,
}

/// The courier.
pub struct Courier {
    kit: Arc<Kit>,
    router: Router,
    sites: Sites,
    commands: mpsc::Receiver<Command>,
    backs: mpsc::Receiver<Back>,
    seats: BTreeMap<Post, Seat>,
    stewards: JoinSet<(Post, u64)>,
    /// Stewards that ever were.
    hired: u64,
    finding: FuturesUnordered<BoxFuture<'static, Found>>,
    claiming: FuturesUnordered<BoxFuture<'static, Result<Claimed, Error>>>,
    /// The source whose turn it is, by site.
    turns: BTreeMap<Arc<str>, usize>,
}

impl Courier {
    /// A courier on this road.
    pub fn new(road: Road) -> Courier {
        let router = Router::new(&road.world, road.shaping.clone(), road.settings.smtp_port);
        let router = router.with_relays(road.relays.clone());
        let router = match &road.policies {
            Some(policies) => router.with_policies(policies.clone()).trying(road.tally.is_some()),
            None => router,
        };
        let taps = Taps::new(road.world.clock.clone());
        let (sites, commands) = Sites::new(taps.clone());
        let (back, backs) = mpsc::channel(BACKS_MAX);
        Courier {
            kit: Arc::new(Kit::new(road, taps, back)),
            router,
            sites,
            commands,
            backs,
            seats: BTreeMap::new(),
            stewards: JoinSet::new(),
            hired: 0,
            finding: FuturesUnordered::new(),
            claiming: FuturesUnordered::new(),
            turns: BTreeMap::new(),
        }
    }

    /// The handle by which people see and stop sites.
    pub fn sites(&self) -> Sites {
        self.sites.clone()
    }

    /// Delivers what is due until `stop`: then nothing more is claimed or leased, copies on the wire are finished, and it
    /// returns when the last connection is closed. Dropping it instead cuts every connection at once. Ends by itself only
    /// when the queue has failed, with the reason.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let stop = stop.child_token();
        self.kit.held.restore(&self.kit.road.queue).await?;
        let mut forgetting = interval(FORGETTING);
        let mut failed = None;
        loop {
            self.claim_ahead(stop.is_cancelled());
            let stopping = stop.is_cancelled();
            if stopping && self.stewards.is_empty() {
                break;
            }
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => Event::Stop,
                Some(command) = self.commands.recv() => Event::Command(command),
                Some(back) = self.backs.recv() => Event::Back(back),
                Some(ended) = self.stewards.join_next(), if !self.stewards.is_empty() => match ended {
                    Ok((post, number)) => Event::Ended(post, number),
                    // stewards catch their panics, and nobody aborts them
                    Err(_) => continue,
                },
                Some(found) = self.finding.next(), if !self.finding.is_empty() => Event::Found(found),
                Some(claimed) = self.claiming.next(), if !stopping && !self.claiming.is_empty() => {
                    Event::Claimed(claimed)
                }
                _ = forgetting.tick() => Event::Day,
            };
            if let Event::Claimed(Err(error)) = &event {
                failed.get_or_insert(error.clone());
                stop.cancel();
            }
            self.handle(event, &stop).await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Keeps as many claims asked for as there is room for.
    fn claim_ahead(&mut self, stopping: bool) {
        let room = self.finding.len() < ROUTING_MAX && self.seats.len() < STEWARDS_MAX;
        while room && !stopping && self.claiming.len() < CLAIMING_MAX {
            let queue = self.kit.road.queue.clone();
            self.claiming.push(async move { queue.claim().await }.boxed());
        }
    }

    /// Waits for nobody but the stewards' inboxes, which they empty at once.
    async fn handle(&mut self, event: Event, stop: &CancellationToken) {
        match event {
            Event::Stop => {
                self.claiming.clear();
                self.finding.clear();
            }
            Event::Command(command) => self.obey(command).await,
            Event::Back(back) => self.take_back(back),
            Event::Ended(post, number) => {
                if self.seats.get(&post).is_some_and(|seat| seat.number == number) {
                    self.seats.remove(&post);
                }
            }
            Event::Found(found) => self.found(found, stop).await,
            Event::Claimed(Ok(Claimed { domain, .. })) if self.kit.held.holds(&domain) => {
                self.rest(domain, self.kit.entries.until_resumed());
            }
            Event::Claimed(Ok(Claimed { domain, launch })) => match self.kit.launches.facts(launch) {
                Ok(facts) => self.find(&facts, domain, stop).await,
                Err(_) => self.refuse(domain, None),
            },
            Event::Claimed(Err(_)) => {}
            Event::Day => {
                let is_absent = |source, site: &str| !self.seats.contains_key(&(source, site.into()));
                // a queue that cannot be written has stopped the sending by itself
                let _ = forget_old(&self.kit.road.queue, self.kit.entries.now(), is_absent).await;
            }
        }
    }

    fn take_back(&mut self, back: Back) {
        match back {
            Back::Stray(lease) => self.find_stray(*lease),
            // only domains with a way of their own take turns
            Back::Claim(domain, pool) => self.look_for(domain, pool),
            Back::Refused(domain, why) => self.refuse(domain, Some(why)),
            Back::Still(post, until) => {
                if let Some(seat) = self.seats.get_mut(&post) {
                    seat.still = until;
                }
            }
            Back::Busy(post, until) => {
                if let Some(seat) = self.seats.get_mut(&post) {
                    seat.busy = Some(until);
                }
            }
            Back::Idle(post, given, tells) => {
                let may_stay = tells && self.seats.len() < ROOMY;
                // unless something is on its way to it, its inbox closes and it ends
                if !may_stay && self.seats.get(&post).is_some_and(|seat| seat.given == given) {
                    self.seats.remove(&post);
                    self.turns.remove(&post.1);
                }
            }
        }
    }

    /// The way of a claimed domain: its launch's relay, or its own hosts.
    async fn find(&mut self, facts: &Facts, domain: Domain, stop: &CancellationToken) {
        match &facts.way {
            Way::Through(route) => self.hand_over(domain, None, route.clone(), stop).await,
            Way::Direct => self.look_for(domain, facts.pool.clone()),
        }
    }

    fn look_for(&mut self, domain: Domain, pool: Option<Arc<str>>) {
        let router = self.router.clone();
        self.finding.push(
            async move {
                let route = router.route(&domain).await;
                Found::Claim(domain, pool, route)
            }
            .boxed(),
        );
    }

    fn find_stray(&mut self, lease: Lease) {
        // the steward that gave it back has read the facts
        let Ok(facts) = self.kit.launches.facts(lease.envelope.id.launch()) else { return lease.home() };
        let (router, way) = (self.router.clone(), facts.way.clone());
        self.finding.push(
            async move {
                let route = match way {
                    Way::Through(route) => Ok(route),
                    Way::Direct => router.route(lease.domain()).await,
                };
                Found::Stray(Box::new(lease), facts, route)
            }
            .boxed(),
        );
    }

    async fn found(&mut self, found: Found, stop: &CancellationToken) {
        match found {
            Found::Claim(domain, pool, Ok(route)) => self.hand_over(domain, pool, route, stop).await,
            Found::Claim(domain, _, Err(why)) => self.refuse(domain, Some(why)),
            Found::Stray(lease, facts, Ok(route)) => self.hand_stray(*lease, facts, route, stop).await,
            Found::Stray(lease, _, Err(why)) => {
                let settled = without_way(&self.kit.entries, *lease, &why);
                self.settle(settled);
            }
            Found::Refused(strays) => strays.into_iter().for_each(|lease| self.find_stray(lease)),
        }
    }

    /// Hands a domain to the steward whose turn it is within its pool; when all of them have nothing to give at its site, it
    /// rests until the first has.
    async fn hand_over(&mut self, domain: Domain, pool: Option<Arc<str>>, route: Arc<Route>, stop: &CancellationToken) {
        let all = self.kit.road.sources.clone();
        if let Some(relays) = &route.choices {
            let Some(source) = all.iter().next() else { return };
            return match self.choose(relays, source) {
                Ok(relay) => self.give(source, &relay.clone(), Work::Claim(domain, relay, pool), stop).await,
                Err(until) => self.rest(domain, until),
            };
        }
        if !self.kit.takes_turns(&route) {
            // a single steward sees for itself what to do with a domain while it stands still
            let Some(source) = all.iter().next() else { return };
            return self.give(source, &route, Work::Claim(domain, route.clone(), pool), stop).await;
        }
        let now = Instant::now();
        let members = all.pool(pool.as_deref());
        let turn = self.turns.entry(route.site.clone()).or_default();
        let in_turn = members.in_turn(*turn, &route.site);
        *turn = turn.wrapping_add(1);
        let waits: Vec<Option<Until>> = in_turn.iter().map(|source| self.occupied(source, &route.site, now)).collect();
        match waits.iter().position(Option::is_none) {
            Some(at) => self.give(in_turn[at], &route, Work::Claim(domain, route.clone(), pool), stop).await,
            None => self.rest(domain, self.first_of(waits.into_iter().flatten())),
        }
    }

    /// Hands a copy to the steward of its own way and source, or puts it off while that one stands still.
    async fn hand_stray(&mut self, lease: Lease, facts: Arc<Facts>, route: Arc<Route>, stop: &CancellationToken) {
        let all = self.kit.road.sources.clone();
        let source = match route.via {
            Some(_) => all.iter().next(),
            None => Some(all.choose(lease.envelope.id, lease.envelope.source, facts.pool.as_deref())),
        };
        let Some(source) = source else { return lease.home() };
        let route = match route.choices.as_ref().map(|relays| self.choose(relays, source)) {
            None | Some(Err(_)) => route,
            Some(Ok(relay)) => relay,
        };
        if let Some(until) = self.still(source, &route.site) {
            let site = self.kit.counted_under(&route, lease.domain());
            let settled = self.kit.entries.aside(lease, until, "its site stands still".to_owned(), site);
            return self.settle(settled);
        }
        let job = Job { lease, facts, stray: true, setbacks: 0, intended: false };
        self.give(source, &route, Work::Stray(Box::new(job), route.clone()), stop).await;
    }

    /// The relay whose turn it is, by weight, among those that have something to give; or when the first of them has.
    fn choose(&self, relays: &[Arc<Route>], source: &Source) -> Result<Arc<Route>, Until> {
        let now = Instant::now();
        let mut waits = Vec::new();
        for relay in by_weight(relays, &*self.kit.road.world.dice) {
            match self.occupied(source, &relay.site, now) {
                None => return Ok(relay.clone()),
                Some(until) => waits.push(until),
            }
        }
        Err(self.first_of(waits.into_iter()))
    }

    /// When the first of these is over; for a person only when all of them are.
    fn first_of(&self, waits: impl Iterator<Item = Until> + Clone) -> Until {
        let first = waits.clone().map(Until::at).min().unwrap_or_else(|| self.kit.entries.now());
        if waits.clone().all(Until::is_for_person) { Until::Person(first) } else { Until::Time(first) }
    }

    /// Until when a source has nothing to give at a site: it stands still, or its pace does.
    fn occupied(&self, source: &Source, site: &Arc<str>, now: Instant) -> Option<Until> {
        let busy = self.seats.get(&(source.id, site.clone()))?.busy.filter(|until| *until > now);
        self.still(source, site).or_else(|| busy.map(|until| self.at(until, now).into()))
    }

    /// Until when a source stands still at a site.
    fn still(&self, source: &Source, site: &Arc<str>) -> Option<Until> {
        self.seats.get(&(source.id, site.clone()))?.still.filter(|until| until.at() > self.kit.entries.now())
    }

    /// Gives work to a steward, which starts if it is not there.
    async fn give(&mut self, source: &Arc<Source>, route: &Route, work: Work, stop: &CancellationToken) {
        let post = (source.id, route.site.clone());
        let seat = self.seats.entry(post.clone()).or_insert_with(|| {
            let (work, given) = mpsc::channel(WORK_MAX);
            let steward = Steward::new(self.kit.clone(), post.clone(), source.clone(), route);
            let run = steward.run(given, stop.clone());
            self.hired += 1;
            let number = self.hired;
            self.stewards.spawn(async move {
                run.await;
                (post, number)
            });
            Seat { number, work, given: 0, still: None, busy: None }
        });
        seat.given += 1;
        // one that has broken down drops the work: its leases go home, and so does the domain when it is named again
        let _ = seat.work.send(work).await;
    }

    /// Settles every copy that is due for a domain without a way; or, when its launch cannot be read, puts them off.
    fn refuse(&mut self, domain: Domain, why: Option<NoRoute>) {
        self.finding.push(refuse(self.kit.clone(), domain, why).boxed());
    }

    fn rest(&self, domain: Domain, until: Until) {
        let queue = self.kit.road.queue.clone();
        self.finding.push(
            async move {
                let _ = queue.rest(&domain, until).await;
                Found::Refused(Vec::new())
            }
            .boxed(),
        );
    }

    fn settle(&self, settlement: Settlement) {
        let queue = self.kit.road.queue.clone();
        self.finding.push(
            async move {
                let _ = queue.settle(vec![settlement]).await;
                Found::Refused(Vec::new())
            }
            .boxed(),
        );
    }

    fn at(&self, until: Instant, now: Instant) -> Timestamp {
        self.kit.entries.now() + until.saturating_duration_since(now)
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Show(to) => {
                for seat in self.seats.values_mut() {
                    seat.given += 1;
                    let _ = seat.work.send(Work::Show(to.clone())).await;
                }
            }
            Command::Reshape => {
                self.router.forget_all();
                for seat in self.seats.values_mut() {
                    seat.given += 1;
                    let _ = seat.work.send(Work::Reshape).await;
                }
            }
            Command::Suspend(site, why, done) => {
                self.kit.held.suspend(&site, &why);
                self.tell_site(&site, || Work::Suspend(why.clone())).await;
                let recorded = suspend_on_record(&self.kit.road.queue, &site, &why, self.kit.entries.now()).await;
                if let Some(domain) = as_domain(&site) {
                    self.tell_all(|| Work::SetAside(domain.clone())).await;
                }
                // what is not on record is not done
                let _ = recorded.map(|()| done.send(()));
            }
            Command::Resume(site, done) => {
                self.kit.held.resume(&site);
                self.kit.new_domains.resume(&site);
                self.tell_site(&site, || Work::Resume).await;
                let is_absent = |source| !self.seats.contains_key(&(source, site.clone()));
                let recorded = forget(&self.kit.road.queue, &site, is_absent).await;
                // its domains rest on the word of a steward that may be gone by now
                let _ = self.kit.road.queue.wake().await;
                let _ = recorded.map(|()| done.send(()));
            }
        }
    }

    async fn tell_site(&mut self, site: &str, work: impl Fn() -> Work) {
        for (_, seat) in self.seats.iter_mut().filter(|((_, of), _)| &**of == site) {
            (seat.given, seat.still, seat.busy) = (seat.given + 1, None, None);
            let _ = seat.work.send(work()).await;
        }
    }

    async fn tell_all(&mut self, work: impl Fn() -> Work) {
        for seat in self.seats.values_mut() {
            seat.given += 1;
            let _ = seat.work.send(work()).await;
        }
    }
}

/// Leases what is due for a domain without a way of its own and settles it, a handful at a time.
async fn refuse(kit: Arc<Kit>, domain: Domain, why: Option<NoRoute>) -> Found {
    let mut strays = Vec::new();
    loop {
        let leases = kit.road.queue.lease(&domain, HANDFUL).await.unwrap_or_default();
        let last = leases.len() < HANDFUL;
        let mut batch = Vec::new();
        for lease in leases {
            let way = kit.launches.facts(lease.envelope.id.launch()).map(|facts| facts.way.clone());
            match (way, &why) {
                (Err(text), _) => {
                    let site = domain.as_str().into();
                    batch.push(kit.entries.aside(lease, kit.entries.in_about(ASIDE), text, site));
                }
                (Ok(Way::Direct), Some(why)) => batch.push(without_way(&kit.entries, lease, why)),
                (Ok(Way::Direct | Way::Through(_)), _) => strays.push(lease),
            }
        }
        let settled = if batch.is_empty() { Ok(()) } else { kit.road.queue.settle(batch).await };
        if last || settled.is_err() || strays.len() >= HANDFUL {
            if !last {
                // the rest is claimed again
                let _ = kit.road.queue.rest(&domain, kit.entries.now()).await;
            }
            return Found::Refused(strays);
        }
    }
}

/// The settlement of a copy whose domain has no way.
fn without_way(entries: &Entries, lease: Lease, why: &NoRoute) -> Settlement {
    let site = lease.domain().as_str().into();
    let said = Said { stage: Some(Stage::Route), reply: Some(why.reply.clone()), host: None, site, channel: None };
    let class = why.ruling.class;
    match why.ruling.verdict {
        Verdict::Failed => entries.failed(lease, class, said),
        Verdict::Deferred | Verdict::Delivered => entries.deferred(lease, class, None, said),
    }
}

#[cfg(test)]
mod tests;
