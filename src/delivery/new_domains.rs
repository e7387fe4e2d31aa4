//! Domains that providers have not met yet, as From, return path or link, made known like a new address (W-05): each site
//! by itself, by the same calendar, over all sources together. Shared by the stewards, who ask before they give out a copy;
//! keeps its record in the store. Decides nothing about addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::base::{Domain, LaunchId, Timestamp};
use crate::config;
use crate::delivery::launches::Bound;
use crate::delivery::notices::{About, Notices};
use crate::delivery::trouble::Judgement;
use crate::delivery::warmup::{Calendar, Cold, Gate, LEFT_ALONE, Warming, Warmth};
use crate::mail::NoticeKind;
use crate::store::{self, Store, WarmupRow};
use crate::world::Clock;

/// A copy that its domain keeps waiting for longer than this is put aside meanwhile.
const ASIDE_MIN: Duration = Duration::from_secs(30);
/// How long a copy waits that needs a person, or a record that is being written, at a time.
const STOPPED: Duration = Duration::from_secs(3600);
const RECORDING: Duration = Duration::from_secs(1);
/// How long until a record that could not be read is asked for again.
const UNREAD: Duration = Duration::from_secs(2);
/// Launches of a domain whose complaints are counted; the oldest are forgotten.
const LAUNCHES_MAX: usize = 64;

/// One domain at one site.
struct Novice {
    warming: Warming,
    /// The record is to be written, or a day to be ended, before more may go.
    wanted: bool,
    /// That is under way.
    busy: bool,
    /// The last turn given out.
    turn: Instant,
    launches: BTreeSet<LaunchId>,
}

/// The new domains at one site.
#[derive(Default)]
struct AtSite {
    novices: BTreeMap<Domain, Novice>,
    /// How many work there: while there are none, what is on record is enough.
    stewards: usize,
    /// A record could not be read, and none is asked for again until then.
    unread: Option<Instant>,
}

type BySite = BTreeMap<Arc<str>, AtSite>;

/// What is to be done in the store.
pub(super) enum Chore {
    /// Put this on record, so that more may go.
    Keep(Domain, String),
    /// A day is over: the complaints about these launches since then are asked for.
    EndDay(Domain, Timestamp, Vec<LaunchId>),
}

/// All new domains.
pub(super) struct NewDomains {
    calendar: Calendar,
    first: BTreeMap<String, u16>,
    store: Store,
    clock: Arc<dyn Clock>,
    notices: Notices,
    sites: Mutex<BySite>,
}

/// The name under which the record of a domain stands beside those of sources.
pub fn record_name(domain: &str) -> String {
    format!("domain {domain}")
}

/// The domains that mail of these shows: the one it is from, that of its return path, and that of its links.
pub fn names(from: Option<&Domain>, bounce: &str, base_url: &str) -> Vec<Domain> {
    let host = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    let others = [bounce, host].into_iter().filter_map(|name| Domain::parse(name).ok());
    from.cloned().into_iter().chain(others).collect()
}

/// Those of the names that are new, each once.
pub fn among(new: &BTreeMap<String, u16>, names: &[Domain]) -> Vec<Domain> {
    let is_new = |name: &&Domain| new.contains_key(name.as_str());
    names.iter().filter(is_new).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

impl NewDomains {
    pub fn new(settings: &config::Warmup, store: Store, clock: Arc<dyn Clock>, notices: Notices) -> NewDomains {
        let (calendar, first) = (Calendar::new(settings), settings.domains.clone());
        NewDomains { calendar, first, store, clock, notices, sites: Mutex::default() }
    }

    /// Whether there are any.
    pub fn are_any(&self) -> bool {
        !self.first.is_empty()
    }

    /// A steward begins at a site.
    pub fn enter(&self, site: &Arc<str>) {
        if self.are_any() {
            self.table().entry(site.clone()).or_default().stewards += 1;
        }
    }

    /// A steward leaves a site. After the last one nothing is kept of it but the record, and the few of which more is to be
    /// known.
    pub async fn leave(&self, site: &Arc<str>, now: Instant) {
        let mut records = Vec::new();
        if let Some(at_site) = self.table().get_mut(site) {
            at_site.stewards -= 1;
            if at_site.stewards == 0 {
                let close = |(domain, novice): (&Domain, &mut Novice)| (domain.clone(), novice.warming.close());
                records.extend(at_site.novices.iter_mut().map(close));
            }
        }
        for (domain, record) in records {
            self.put(&domain, site, record).await;
        }
        let mut sites = self.table();
        let Some(at_site) = sites.get_mut(site).filter(|at_site| at_site.stewards == 0) else { return };
        at_site.novices.retain(|_, novice| novice.is_kept(now));
        if at_site.novices.is_empty() {
            sites.remove(site);
        }
    }

    /// One copy for a site may go if all these domains allow it and `then` says yes; only all together are spent.
    pub fn may_send<N>(
        &self,
        (domains, launch): (&[Domain], LaunchId),
        site: &Arc<str>,
        now: Instant,
        then: impl FnOnce() -> Result<(), Bound<N>>,
    ) -> Result<(), Bound<N>> {
        if domains.is_empty() {
            return then();
        }
        let mut sites = self.met(domains, site, now);
        let novices = at(&mut sites, site);
        let waits = |domain: &Domain| novices.get_mut(domain).map_or(Some(UNREAD), |novice| novice.waits(now));
        if let Some(wait) = domains.iter().filter_map(waits).max() {
            return Err(Bound::Launch(wait));
        }
        then()?;
        for domain in domains {
            if let Some(novice) = novices.get_mut(domain) {
                novice.spend(launch, now);
            }
        }
        Ok(())
    }

    /// Whether a copy may go within `lead`, as far as these domains say; else how long until asking again is of use.
    pub fn soon(&self, domains: &[Domain], site: &Arc<str>, lead: Duration, now: Instant) -> Result<(), Duration> {
        if domains.is_empty() {
            return Ok(());
        }
        let mut sites = self.met(domains, site, now);
        let novices = at(&mut sites, site);
        let waits = |domain: &Domain| match novices.get_mut(domain) {
            Some(novice) => novice.waits(now).filter(|wait| *wait > lead || novice.wanted),
            None => Some(UNREAD),
        };
        domains.iter().filter_map(waits).max().map_or(Ok(()), |wait| Err(wait.saturating_sub(lead).max(RECORDING)))
    }

    /// When a copy has its turn that these domains keep waiting for long, and why; each gets a later one.
    pub fn turn(&self, domains: &[Domain], site: &Arc<str>, now: Instant) -> Option<(Instant, String)> {
        if domains.is_empty() {
            return None;
        }
        let mut sites = self.met(domains, site, now);
        let novices = at(&mut sites, site);
        let turn = |domain: &Domain| {
            let novice = novices.get_mut(domain)?;
            let wait = novice.waits(now).filter(|wait| *wait >= ASIDE_MIN)?;
            let interval = novice.warming.interval().unwrap_or_default();
            novice.turn = (novice.turn + interval).max(now + wait);
            let day = novice.warming.in_words(now).unwrap_or_default();
            Some((novice.turn, format!("{domain} is new to {site}: {day}")))
        };
        domains.iter().filter_map(turn).max()
    }

    /// Whether one of these domains is still being made known at a site, or may be.
    pub fn keep_waiting(&self, domains: &[Domain], site: &Arc<str>, now: Instant) -> bool {
        if domains.is_empty() {
            return false;
        }
        let mut sites = self.met(domains, site, now);
        let novices = at(&mut sites, site);
        domains.iter().any(|domain| novices.get(domain).is_none_or(|novice| novice.warming.most().is_some()))
    }

    /// Takes in how a copy was answered.
    pub fn heard(&self, domains: &[Domain], site: &Arc<str>, judgement: &Judgement) {
        if domains.is_empty() {
            return;
        }
        let mut sites = self.table();
        let Some(at_site) = sites.get_mut(site) else { return };
        for domain in domains {
            if let Some(novice) = at_site.novices.get_mut(domain) {
                novice.warming.heard(judgement);
            }
        }
    }

    /// A person lets all of them go on at a site.
    pub fn resume(&self, site: &str) {
        let mut sites = self.table();
        let novices = sites.get_mut(site).into_iter().flat_map(|at_site| at_site.novices.values_mut());
        novices.for_each(|novice| novice.warming.resume());
    }

    /// Whether there is something to be done before more may go to a site.
    pub fn are_wanting(&self, site: &str) -> bool {
        let is_wanting = |at_site: &AtSite| at_site.novices.values().any(Novice::is_wanting);
        self.are_any() && self.table().get(site).is_some_and(is_wanting)
    }

    /// What is to be done before more may go to a site; each piece is given out once.
    pub fn chores(&self, site: &str, now: Instant) -> Vec<Chore> {
        let mut sites = self.table();
        let Some(at_site) = sites.get_mut(site) else { return Vec::new() };
        let wanting = at_site.novices.iter_mut().filter(|(_, novice)| novice.is_wanting());
        let chores = wanting.filter_map(|(domain, novice)| {
            let chore = match novice.warming.ends_day(now) {
                Some(since) => Chore::EndDay(domain.clone(), since, novice.launches.iter().copied().collect()),
                None => Chore::Keep(domain.clone(), novice.warming.reserve(now)?),
            };
            novice.busy = true;
            Some(chore)
        });
        chores.collect()
    }

    /// Does it. A record that cannot be written keeps everything waiting.
    pub async fn carry_out(&self, chore: Chore, site: Arc<str>) {
        match chore {
            Chore::Keep(domain, record) => {
                let written = self.put(&domain, &site, record).await;
                if !written {
                    sleep(LEFT_ALONE).await;
                }
                let mut sites = self.table();
                if let Some(novice) = at(&mut sites, &site).get_mut(&domain) {
                    novice.warming.reserved(written, Instant::now());
                    (novice.wanted, novice.busy) = (!written, false);
                }
            }
            Chore::EndDay(domain, since, launches) => {
                let about = |launch: &LaunchId| self.store.complaints_since(&site, Some(*launch), since).unwrap_or(0);
                let complaints = launches.iter().map(about).sum();
                let Some((gate, record)) = self.end_day(&domain, &site, complaints) else { return };
                self.put(&domain, &site, record).await;
                if gate == Gate::Stop {
                    let words = format!(
                        "two bad days in a row of the warm-up of {domain}: too many deferrals, bounces or complaints"
                    );
                    let about = About { site: Some(site), ..About::default() };
                    self.notices.raise(NoticeKind::WarmupStopped, about, &words, None);
                }
            }
        }
    }

    fn end_day(&self, domain: &Domain, site: &Arc<str>, complaints: u64) -> Option<(Gate, String)> {
        let now = Instant::now();
        let mut sites = self.table();
        let novice = at(&mut sites, site).get_mut(domain)?;
        let gate = novice.warming.turn(complaints, now);
        // the record is renewed with what may go on the new day
        (novice.wanted, novice.busy, novice.turn) = (true, false, now);
        novice.launches.clear();
        let day = novice.warming.in_words(now).unwrap_or_else(|| "known by now".to_owned());
        tracing::info!(%domain, %site, ?gate, "{day}");
        Some((gate, novice.warming.record()))
    }

    async fn put(&self, domain: &Domain, site: &Arc<str>, state: String) -> bool {
        let row = WarmupRow { source: record_name(domain.as_str()), site: site.to_string(), state };
        self.store.put_warmup(row, self.clock.now()).await.is_ok()
    }

    /// The table, with all of these domains in it whose record can be read; nobody waits for that with the table in hand.
    fn met(&self, domains: &[Domain], site: &Arc<str>, now: Instant) -> MutexGuard<'_, BySite> {
        let mut sites = self.table();
        let at_site = sites.entry(site.clone()).or_default();
        let unmet: Vec<&Domain> = domains.iter().filter(|domain| !at_site.novices.contains_key(*domain)).collect();
        if unmet.is_empty() || at_site.unread.is_some_and(|again| again > now) {
            return sites;
        }
        drop(sites);
        let read = unmet.into_iter().map(|domain| Ok((domain.clone(), self.novice(domain, site, now)?)));
        let read: Result<Vec<(Domain, Novice)>, store::Error> = read.collect();
        let mut sites = self.table();
        let at_site = sites.entry(site.clone()).or_default();
        match read {
            Ok(read) => read.into_iter().for_each(|(domain, novice)| {
                at_site.novices.entry(domain).or_insert(novice);
            }),
            Err(error) => {
                tracing::warn!(%error, %site, "the record of new domains cannot be read");
                at_site.unread = Some(now + UNREAD);
            }
        }
        sites
    }

    /// A domain at a site, where its record stands. One that cannot be read is no beginning.
    fn novice(&self, domain: &Domain, site: &Arc<str>, now: Instant) -> Result<Novice, store::Error> {
        let kept = self.store.warmup(&record_name(domain.as_str()), site)?;
        let first = self.first.get(domain.as_str()).copied().unwrap_or(1);
        let warmth = kept.and_then(|text| Warmth::from_text(&text)).unwrap_or_else(|| Warmth::beginning(first));
        let warming = Warming::new(self.calendar.clone(), site, warmth, now, self.clock.now());
        Ok(Novice { warming, wanted: false, busy: false, turn: now, launches: BTreeSet::new() })
    }

    fn table(&self) -> MutexGuard<'_, BySite> {
        // a panic elsewhere while it was held leaves at worst one copy counted that did not go
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those at a site.
fn at<'t>(sites: &'t mut BySite, site: &Arc<str>) -> &'t mut BTreeMap<Domain, Novice> {
    &mut sites.entry(site.clone()).or_default().novices
}

impl Novice {
    fn is_wanting(&self) -> bool {
        self.wanted && !self.busy
    }

    /// Whether more is to be known of it than its record says: a person holds it back, or the complaints about its launches
    /// count when the day ends.
    fn is_kept(&self, now: Instant) -> bool {
        self.warming.look(now) == Err(Cold::Stopped) || self.warming.is_judged()
    }

    /// How long until one more may go; `None`: it may now.
    fn waits(&mut self, now: Instant) -> Option<Duration> {
        match self.warming.look(now).err()? {
            Cold::Until(wait) => Some(wait),
            Cold::Turn | Cold::Reserving => {
                self.wanted = true;
                Some(RECORDING)
            }
            Cold::Stopped => Some(STOPPED),
        }
    }

    fn spend(&mut self, launch: LaunchId, now: Instant) {
        self.warming.spend(now);
        self.launches.insert(launch);
        if self.launches.len() > LAUNCHES_MAX {
            self.launches.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::Threads;
    use crate::world::SimulatedClock;

    const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

    #[tokio::test(start_paused = true)]
    async fn a_site_is_forgotten_with_its_last_steward_and_goes_on_where_it_stood() {
        let settings: config::Warmup = toml::from_str("start = 200\ndomains = { \"example.com\" = 1 }").unwrap();
        let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting(START));
        let (notices, _noticed) = Notices::new(clock.clone());
        let new = NewDomains::new(&settings, store.clone(), clock, notices);
        let (site, domain) = (Arc::<str>::from("a.example"), Domain::parse("example.com").unwrap());
        let send = || {
            let launch = (std::slice::from_ref(&domain), LaunchId(1));
            new.may_send(launch, &site, Instant::now(), || Ok::<(), Bound<()>>(())).is_ok()
        };
        new.enter(&site);
        new.enter(&site);
        assert!(!send() && new.are_wanting(&site) && !new.are_wanting("b.example"));
        let mut chores = new.chores(&site, Instant::now());
        new.carry_out(chores.pop().unwrap(), site.clone()).await;
        assert!(chores.is_empty() && !new.are_wanting(&site) && send());
        new.leave(&site, Instant::now()).await;
        assert_eq!(new.table().len(), 1, "another is still there");
        new.leave(&site, Instant::now()).await;
        assert!(new.table().is_empty());
        let kept = store.warmup(&record_name("example.com"), &site).unwrap().unwrap();
        assert_eq!(
            Warmth::from_text(&kept).unwrap().in_24_hours(START),
            1,
            "what was reserved and not sent is given back"
        );
        new.enter(&site);
        tokio::time::advance(Duration::from_secs(215)).await;
        assert!(!send() && !new.are_wanting(&site), "a two-hundredth of half a day from the last one on");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!send() && new.are_wanting(&site), "what goes is put on record first");
    }
}
