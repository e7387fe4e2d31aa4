//! What the sending side knows of each launch: which way its mail goes, its rate, its word on doubts. Read once, because
//! none of it changes while the launch lasts; what may change, the last look asks for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::{CampaignName, Domain, LaunchId, Rate};
use crate::compose::Edition;
use crate::delivery::new_domains::{among, names};
use crate::delivery::pace::Pace;
use crate::delivery::route::Route;
use crate::delivery::via::Via;
use crate::mail::InDoubt;
use crate::store::{LaunchRow, Store};

/// Launches remembered; past it the memory starts anew.
const LAUNCHES_MAX: usize = 10_000;
/// At a rate with turns this far apart, one that is promised is kept for whom it is promised to; at others there is soon
/// another for everybody.
const SCARCE: Duration = Duration::from_millis(500);

/// Which way a launch's mail goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Way {
    /// To the recipients' own hosts.
    Direct,
    /// Through the relay the launch names.
    Through(Arc<Route>),
}

/// A door of a steward, as turns by a launch's rate are promised to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// One launch.
pub(super) struct Facts {
    /// The campaign it is of.
    pub campaign: CampaignName,
    /// Which way its mail goes.
    pub way: Way,
    /// What becomes of its copies in doubt.
    pub in_doubt: InDoubt,
    /// The domain it is from; `None` when its content cannot be read, which the press will say.
    pub from: Option<Domain>,
    /// The sources it leaves from, by the name of their pool; `None`: any.
    pub pool: Option<Arc<str>>,
    /// Its domains that providers have not met yet.
    pub new_domains: Vec<Domain>,
    /// Its rate over all sites, shared by all who send for it.
    own: Option<Mutex<Own>>,
    /// The last turn that was given out.
    turns: Mutex<Instant>,
}

/// A launch's own rate at work.
struct Own {
    rate: Rate,
    pace: Pace,
    /// Who opens a connection for one of the next turns, and until when it is waited for: as many are opened as there are
    /// turns, whatever number of sites it goes to.
    promised: BTreeMap<Place, Instant>,
}

/// All launches met so far.
pub(super) struct Launches {
    store: Store,
    /// Domains that providers have not met yet.
    new_domains: BTreeMap<String, u16>,
    known: Mutex<BTreeMap<LaunchId, Arc<Facts>>>,
    places: AtomicU64,
}

impl Launches {
    pub fn new(store: Store, new_domains: BTreeMap<String, u16>) -> Launches {
        Launches { store, new_domains, known: Mutex::default(), places: AtomicU64::default() }
    }

    /// A place for a new door.
    pub fn place(&self) -> Place {
        Place(self.places.fetch_add(1, Ordering::Relaxed))
    }

    /// The facts of a launch, or in words why nothing of it can be sent.
    pub fn facts(&self, launch: LaunchId) -> Result<Arc<Facts>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = known.get(&launch) {
            return Ok(facts.clone());
        }
        let row = self.store.launch(launch).map_err(|why| why.to_string())?;
        let row = row.ok_or_else(|| format!("launch {launch} is not on record"))?;
        let (from, new_domains) = self.domains(&row).unwrap_or_default();
        let facts = Arc::new(Facts { new_domains, ..Facts::of(row, from)? });
        if known.len() >= LAUNCHES_MAX {
            known.clear();
        }
        known.insert(launch, facts.clone());
        Ok(facts)
    }
}

impl Launches {
    /// The domain it is from, and those of its domains that are new.
    fn domains(&self, row: &LaunchRow) -> Option<(Option<Domain>, Vec<Domain>)> {
        let edition = self.store.edition(row.edition).ok().flatten()?;
        let edition = Edition::from_bytes(&edition.frozen).ok()?;
        let from = edition.from.address.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
        let names = names(from.as_ref(), &edition.bounce_domain, &edition.base_url);
        Some((from, among(&self.new_domains, &names)))
    }
}

impl Facts {
    /// What cannot be read is refused: guessing would send a test run to the world, or faster than allowed.
    fn of(row: LaunchRow, from: Option<Domain>) -> Result<Facts, String> {
        let way = match &row.options.via {
            None => Way::Direct,
            Some(text) => Way::Through(Arc::new(Route::through(Via::parse(text).map_err(|why| why.to_string())?))),
        };
        let rate = row.options.rate.as_deref().map(Rate::parse).transpose().map_err(|why| why.to_string())?;
        let own = |rate| Own { rate, pace: Pace::new(Some(rate), Instant::now()), promised: BTreeMap::new() };
        let own = rate.map(|rate| Mutex::new(own(rate)));
        let (pool, turns) = (row.options.pool.map(Into::into), Mutex::new(Instant::now()));
        let (campaign, new_domains) = (row.campaign, Vec::new());
        Ok(Facts { campaign, way, in_doubt: row.in_doubt, from, pool, new_domains, own, turns })
    }

    fn own(&self) -> Option<MutexGuard<'_, Own>> {
        // a panic elsewhere while it was held leaves at worst a turn that nobody takes
        self.own.as_ref().map(|own| own.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether neither a rate of its own nor a new domain may hold its copies back.
    pub fn is_free(&self) -> bool {
        self.own.is_none() && self.new_domains.is_empty()
    }

    /// Its own rate, where it has one.
    pub fn rate(&self) -> Option<Rate> {
        self.own().map(|own| own.rate)
    }

    /// How long its own rate lets nothing go; `None`: one may go now.
    pub fn bound_for(&self, now: Instant) -> Option<Duration> {
        self.own().map(|mut own| own.pace.wait(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether its own rate lets nothing go now.
    pub fn is_bound(&self, now: Instant) -> bool {
        self.bound_for(now).is_some()
    }

    /// How many may go from a place within `lead` by its own rate, beside what is promised to others; else how long until
    /// asking again is of use.
    pub fn soon(&self, place: Place, lead: Duration, now: Instant) -> Result<usize, Duration> {
        let Some(mut own) = self.own() else { return Ok(usize::MAX) };
        let turns = own.pace.within(lead, now);
        if turns == 0 {
            return Err(own.pace.wait(now).saturating_sub(lead));
        }
        own.promised.retain(|_, until| *until > now);
        let others = || own.promised.iter().filter(|(to, _)| **to != place).map(|(_, until)| *until);
        match (turns.saturating_sub(others().count()), others().min()) {
            (0, Some(first)) => Err(first.saturating_duration_since(now)),
            (free, _) => Ok(free),
        }
    }

    /// Promises one of its next turns to a place that opens a connection for it, until some time after that turn.
    pub fn promise(&self, place: Place, lead: Duration, now: Instant) {
        if let Some(mut own) = self.own() {
            let until = now + own.pace.wait(now) + lead;
            own.promised.insert(place, until);
        }
    }

    /// The place has no connection any more.
    pub fn forgo(&self, place: Place) {
        if let Some(mut own) = self.own() {
            own.promised.remove(&place);
        }
    }

    /// A time for a copy that its launch's rate holds back, so that it need not stand before those of others: each gets a
    /// later one, as far apart as the rate says. `None`: there is no rate.
    pub fn turn(&self, now: Instant) -> Option<Instant> {
        let interval = Duration::from_secs_f64(1.0 / self.own()?.pace.per_second()?);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        *turns = (*turns).max(now) + interval;
        Some(*turns)
    }

    /// One copy of this launch may go if its rate allows it now and `then` says yes; only both together are spent. Else
    /// how long until asking again is of use.
    pub fn may_send<N>(
        &self,
        place: Place,
        now: Instant,
        then: impl FnOnce() -> Result<(), N>,
    ) -> Result<(), Bound<N>> {
        let Some(mut own) = self.own() else { return then().map_err(Bound::Site) };
        let wait = own.pace.wait(now);
        if !wait.is_zero() {
            return Err(Bound::Launch(wait));
        }
        if let Some(wait) = own.kept_for_others(place, now) {
            return Err(Bound::Launch(wait));
        }
        then().map_err(Bound::Site)?;
        own.promised.remove(&place);
        own.pace.ask(now).map_err(Bound::Launch)
    }
}

impl Own {
    /// How long the turn at hand is kept for whom it is promised to, if that is somebody else.
    fn kept_for_others(&self, place: Place, now: Instant) -> Option<Duration> {
        if self.promised.is_empty() || self.rate.interval() < SCARCE || self.promised.contains_key(&place) {
            return None;
        }
        let last = self.promised.values().max()?;
        Some(last.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }
}

/// What holds a copy back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound<N> {
    /// Its launch's rate, for so long.
    Launch(Duration),
    /// The site.
    Site(N),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{CampaignName, EditionId, Timestamp};
    use crate::store::{LaunchKind, LaunchOptions, LaunchState};

    fn row(via: Option<&str>, rate: Option<&str>) -> LaunchRow {
        LaunchRow {
            id: LaunchId(1),
            campaign: CampaignName::parse("welcome").unwrap(),
            kind: LaunchKind::Campaign,
            edition: EditionId(1),
            state: LaunchState::Running,
            in_doubt: InDoubt::Resend,
            options: LaunchOptions {
                via: via.map(str::to_owned),
                rate: rate.map(str::to_owned),
                ..LaunchOptions::default()
            },
            lists: Vec::new(),
            started: Timestamp::from_ms(0),
            finished: None,
            planned: false,
        }
    }

    #[test]
    fn options_that_cannot_be_read_stop_the_launch_instead_of_widening_it() {
        assert_eq!(Facts::of(row(None, None), None).unwrap().way, Way::Direct);
        let through = Facts::of(row(Some("smtp://127.0.0.1:2525"), None), None).unwrap();
        assert!(matches!(through.way, Way::Through(route) if &*route.site == "smtp://127.0.0.1:2525"));
        assert!(Facts::of(row(Some("ftp://127.0.0.1"), None), None).is_err());
        assert!(Facts::of(row(None, Some("fast")), None).is_err());
    }

    #[test]
    fn a_launchs_rate_and_the_sites_are_spent_together_or_not_at_all() {
        let facts = Facts::of(row(None, Some("1/s")), None).unwrap();
        let now = Instant::now();
        let here = Place(0);
        assert_eq!(facts.may_send(here, now, || Err("site")), Err(Bound::Site("site")));
        assert_eq!(facts.may_send(here, now, || Ok::<(), &str>(())), Ok(()), "the site's no has cost nothing");
        let asked = facts.may_send(here, now, || -> Result<(), &str> { panic!("the site is not asked in vain") });
        assert_eq!(asked, Err(Bound::Launch(Duration::from_secs(1))));
        assert_eq!(facts.may_send(here, now + Duration::from_secs(1), || Ok::<(), &str>(())), Ok(()));
    }

    #[test]
    fn a_turn_that_is_promised_is_nobody_elses_until_it_is_taken_forgone_or_long_past() {
        let facts = Facts::of(row(None, Some("10/min")), None).unwrap();
        let (here, there, lead) = (Place(0), Place(1), Duration::from_secs(2));
        let now = Instant::now();
        let sent = |place, at| facts.may_send(place, at, || Ok::<(), ()>(()));
        assert_eq!((facts.soon(here, lead, now), facts.soon(there, lead, now)), (Ok(1), Ok(1)));
        facts.promise(here, lead, now);
        assert_eq!((facts.soon(here, lead, now), facts.soon(there, lead, now)), (Ok(1), Err(lead)));
        assert_eq!((sent(there, now), sent(here, now)), (Err(Bound::Launch(lead)), Ok(())));
        assert_eq!(facts.soon(there, lead, now), Err(Duration::from_secs(4)), "the next but two seconds");
        let next = now + Duration::from_secs(6);
        facts.promise(here, lead, next);
        facts.forgo(here);
        assert_eq!(sent(there, next), Ok(()));
        facts.promise(here, lead, next);
        assert_eq!(sent(there, next + Duration::from_secs(8)), Ok(()), "it was waited for long enough");
    }
}
