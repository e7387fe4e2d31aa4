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
use crate::store::{Store, WarmupRow};
use crate::world::Clock;

/// A copy that its domain keeps waiting for longer than this is put aside meanwhile.
const ASIDE_MIN: Duration = Duration::from_secs(30);
/// How long a copy waits that needs a person, or a record that is being written, at a time.
const STOPPED: Duration = Duration::from_secs(3600);
const RECORDING: Duration = Duration::from_secs(1);
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
    novices: Mutex<BTreeMap<(Domain, Arc<str>), Novice>>,
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
        NewDomains { calendar, first, store, clock, notices, novices: Mutex::default() }
    }

    /// Whether there are any.
    pub fn are_any(&self) -> bool {
        !self.first.is_empty()
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
        let mut novices = self.table();
        let waits = domains.iter().filter_map(|domain| self.novice(&mut novices, domain, site, now).waits(now));
        if let Some(wait) = waits.max() {
            return Err(Bound::Launch(wait));
        }
        then()?;
        for domain in domains {
            self.novice(&mut novices, domain, site, now).spend(launch, now);
        }
        Ok(())
    }

    /// When a copy has its turn that these domains keep waiting for long, and why; each gets a later one.
    pub fn turn(&self, domains: &[Domain], site: &Arc<str>, now: Instant) -> Option<(Instant, String)> {
        if domains.is_empty() {
            return None;
        }
        let mut novices = self.table();
        let turn = |domain: &Domain| {
            let novice = self.novice(&mut novices, domain, site, now);
            let wait = novice.waits(now).filter(|wait| *wait >= ASIDE_MIN)?;
            let interval = novice.warming.interval().unwrap_or_default();
            novice.turn = (novice.turn + interval).max(now + wait);
            let day = novice.warming.in_words(now).unwrap_or_default();
            Some((novice.turn, format!("{domain} is new to {site}: {day}")))
        };
        domains.iter().filter_map(turn).max()
    }

    /// Whether one of these domains is still being made known at a site.
    pub fn keep_waiting(&self, domains: &[Domain], site: &Arc<str>, now: Instant) -> bool {
        let mut novices = self.table();
        domains.iter().any(|domain| self.novice(&mut novices, domain, site, now).warming.most().is_some())
    }

    /// Takes in how a copy was answered.
    pub fn heard(&self, domains: &[Domain], site: &Arc<str>, judgement: &Judgement) {
        let mut novices = self.table();
        for domain in domains {
            if let Some(novice) = novices.get_mut(&(domain.clone(), site.clone())) {
                novice.warming.heard(judgement);
            }
        }
    }

    /// A person lets all of them go on at a site.
    pub fn resume(&self, site: &Arc<str>) {
        self.table().iter_mut().filter(|((_, at), _)| at == site).for_each(|(_, novice)| novice.warming.resume());
    }

    /// What is to be done before more may go to a site; each piece is given out once.
    pub fn chores(&self, site: &Arc<str>, now: Instant) -> Vec<Chore> {
        if self.first.is_empty() {
            return Vec::new();
        }
        let mut novices = self.table();
        let at_site = novices.iter_mut().filter(|((_, at), novice)| at == site && novice.wanted && !novice.busy);
        let chores = at_site.filter_map(|((domain, _), novice)| {
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
                let mut novices = self.table();
                let novice = self.novice(&mut novices, &domain, &site, Instant::now());
                novice.warming.reserved(written, Instant::now());
                (novice.wanted, novice.busy) = (!written, false);
            }
            Chore::EndDay(domain, since, launches) => {
                let about = |launch: &LaunchId| self.store.complaints_since(&site, Some(*launch), since).unwrap_or(0);
                let complaints = launches.iter().map(about).sum();
                let (gate, record) = self.end_day(&domain, &site, complaints);
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

    fn end_day(&self, domain: &Domain, site: &Arc<str>, complaints: u64) -> (Gate, String) {
        let now = Instant::now();
        let mut novices = self.table();
        let novice = self.novice(&mut novices, domain, site, now);
        let gate = novice.warming.turn(complaints, now);
        // the record is renewed with what may go on the new day
        (novice.wanted, novice.busy, novice.turn) = (true, false, now);
        novice.launches.clear();
        let day = novice.warming.in_words(now).unwrap_or_else(|| "known by now".to_owned());
        tracing::info!(%domain, %site, ?gate, "{day}");
        (gate, novice.warming.record())
    }

    async fn put(&self, domain: &Domain, site: &Arc<str>, state: String) -> bool {
        let row = WarmupRow { source: record_name(domain.as_str()), site: site.to_string(), state };
        let written = self.store.put_warmup(row, self.clock.now()).await.is_ok();
        if !written {
            sleep(LEFT_ALONE).await;
        }
        written
    }

    /// The domain at the site; one not met since the start goes on where its record stands.
    fn novice<'n>(
        &self,
        novices: &'n mut BTreeMap<(Domain, Arc<str>), Novice>,
        domain: &Domain,
        site: &Arc<str>,
        now: Instant,
    ) -> &'n mut Novice {
        novices.entry((domain.clone(), site.clone())).or_insert_with(|| {
            let kept = self.store.warmup(&record_name(domain.as_str()), site).ok().flatten();
            let first = self.first.get(domain.as_str()).copied().unwrap_or(1);
            let warmth = kept.and_then(|text| Warmth::from_text(&text)).unwrap_or_else(|| Warmth::beginning(first));
            let warming = Warming::new(self.calendar.clone(), site, warmth, now, self.clock.now());
            Novice { warming, wanted: false, busy: false, turn: now, launches: BTreeSet::new() }
        })
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<(Domain, Arc<str>), Novice>> {
        // a panic elsewhere while it was held leaves at worst one copy counted that did not go
        self.novices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Novice {
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
