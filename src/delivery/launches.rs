//! What the sending side knows of each launch: which way its mail goes, its rate, its word on doubts. Read once, because
//! none of it changes while the launch lasts; what may change, the last look asks for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::{Domain, LaunchId, Rate};
use crate::compose::Edition;
use crate::delivery::new_domains::{among, names};
use crate::delivery::pace::Pace;
use crate::delivery::route::Route;
use crate::delivery::via::Via;
use crate::mail::InDoubt;
use crate::store::{LaunchRow, Store};

/// Launches remembered; past it the memory starts anew.
const LAUNCHES_MAX: usize = 10_000;

/// Which way a launch's mail goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Way {
    /// To the recipients' own hosts.
    Direct,
    /// Through the relay the launch names.
    Through(Arc<Route>),
}

/// One launch.
pub(super) struct Facts {
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
    pace: Option<Mutex<Pace>>,
    /// The last turn that was given out.
    turns: Mutex<Instant>,
}

/// All launches met so far.
pub(super) struct Launches {
    store: Store,
    /// Domains that providers have not met yet.
    new_domains: BTreeMap<String, u16>,
    known: Mutex<BTreeMap<LaunchId, Arc<Facts>>>,
}

impl Launches {
    pub fn new(store: Store, new_domains: BTreeMap<String, u16>) -> Launches {
        Launches { store, new_domains, known: Mutex::default() }
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
        let pace = rate.map(|rate| Mutex::new(Pace::new(Some(rate), Instant::now())));
        let (pool, turns) = (row.options.pool.map(Into::into), Mutex::new(Instant::now()));
        Ok(Facts { way, in_doubt: row.in_doubt, from, pool, new_domains: Vec::new(), pace, turns })
    }

    /// Whether its own rate lets nothing go now.
    pub fn is_bound(&self, now: Instant) -> bool {
        let pace = self.pace.as_ref().map(|pace| pace.lock().unwrap_or_else(PoisonError::into_inner));
        pace.is_some_and(|mut pace| !pace.wait(now).is_zero())
    }

    /// A time for a copy that its launch's rate holds back, so that it need not stand before those of others: each gets a
    /// later one, as far apart as the rate says. `None`: there is no rate.
    pub fn turn(&self, now: Instant) -> Option<Instant> {
        let pace = self.pace.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = Duration::from_secs_f64(1.0 / pace.per_second()?);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        *turns = (*turns).max(now) + interval;
        Some(*turns)
    }

    /// One copy of this launch may go if its rate allows it now and `then` says yes; only both together are spent. Else
    /// how long until asking again is of use.
    pub fn may_send<N>(&self, now: Instant, then: impl FnOnce() -> Result<(), N>) -> Result<(), Bound<N>> {
        let Some(pace) = &self.pace else { return then().map_err(Bound::Site) };
        let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = pace.wait(now);
        if !wait.is_zero() {
            return Err(Bound::Launch(wait));
        }
        then().map_err(Bound::Site)?;
        pace.ask(now).map_err(Bound::Launch)
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
        assert_eq!(facts.may_send(now, || Err("site")), Err(Bound::Site("site")));
        assert_eq!(facts.may_send(now, || Ok::<(), &str>(())), Ok(()), "the site's no has cost nothing");
        let asked = facts.may_send(now, || -> Result<(), &str> { panic!("the site is not asked in vain") });
        assert_eq!(asked, Err(Bound::Launch(Duration::from_secs(1))));
        assert_eq!(facts.may_send(now + Duration::from_secs(1), || Ok::<(), &str>(())), Ok(()));
    }
}
