//! What is shown of the sites, and what a person may do to them: the handle behind `queue top`, `explain`, `suspend` and
//! `resume`. The figures come from the stewards themselves when they are asked for; nothing is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot};

use crate::base::{Domain, SourceId, Timestamp};
use crate::delivery::limits::{Binding, Learned, NotNow};
use crate::delivery::taps::{Heard, Taps};
use crate::queue::{self, Queue};

/// Orders that may wait for the courier.
pub(super) const COMMANDS_MAX: usize = 16;

/// How long what was learned of a site tells something, when nothing new is learned.
const TELLS: Duration = Duration::from_secs(14 * 86_400);
/// Records forgotten at once.
const FORGOTTEN_AT_ONCE: usize = 500;

/// How things stand between one source and one site.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SiteStatus {
    /// The site; for a relay named by hand its address as given.
    pub site: String,
    /// The source's name.
    pub source: String,
    /// Domains of this site that have copies due.
    pub domains: u64,
    /// Copies on lease: ready to go, or on a connection.
    pub leased: u64,
    /// Connections open or being opened.
    pub connections: u64,
    /// Connections of use now.
    pub window: u16,
    /// Copies a second over the last seconds.
    pub rate_now: f64,
    /// Copies a second allowed; none: no limit.
    pub rate_allowed: Option<f64>,
    /// What the site said last when it refused something.
    pub last_reply: Option<String>,
    /// What binds now, in words; none: only the hosts' own speed.
    pub binds: Option<String>,
    /// Whether a person has to resume it.
    pub held: bool,
    /// How far the source is known there, in words; none: it is.
    pub warmup: Option<String>,
}

/// A site, or a domain, that stands still: nothing goes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Still {
    /// The site; for a relay named by hand its address as given; or the domain.
    pub name: String,
    /// The source it stands still for; `None`: a person holds the site for every source, and the domain of that name
    /// whatever way its mail goes.
    pub source: Option<SourceId>,
    /// Whether a person has to resume it.
    pub held: bool,
    /// Since when; `None`: not known.
    pub since: Option<Timestamp>,
    /// When it moves again; `None` while it is held.
    pub until: Option<Timestamp>,
    /// Why, in the host's words or ours.
    pub why: String,
}

/// Under this source stands what a person holds: a site for every source there is or will be, and the domain of that name,
/// whatever site its mail goes through.
pub(super) const ANY_SOURCE: SourceId = SourceId(u16::MAX);

/// All that stands still by what was learned, as the next steward of each site will take it up.
pub async fn standing_still(queue: &Queue, now: Timestamp) -> Result<Vec<Still>, queue::Error> {
    let learned = queue.all_learned().await?;
    let still = |(source, name, record): (SourceId, String, Vec<u8>)| {
        let learned = Learned::from_bytes(&record)?;
        let binds = learned.binds(now);
        let Learned { held, pause_until, since, why, .. } = learned;
        let until = pause_until.filter(|_| !held);
        let source = Some(source).filter(|source| *source != ANY_SOURCE);
        binds.then_some(Still { name, source, held, since, until, why })
    };
    Ok(learned.into_iter().filter_map(still).collect())
}

/// Forgets what was learned so long ago that it tells nothing any more; what holds a site up stays. `is_meant` tells whose
/// records may go: a steward at work knows by itself what it has learned.
pub(super) async fn forget_old(
    queue: &Queue,
    now: Timestamp,
    is_meant: impl Fn(SourceId, &str) -> bool,
) -> Result<(), queue::Error> {
    let anew = |record: &[u8]| match (Learned::from_bytes(record), Learned::written(record)) {
        (Some(learned), _) if learned.binds(now) => None,
        // its time begins now
        (Some(learned), None) => Some(learned.to_bytes(now)),
        (Some(_), Some(written)) if now.since(written) < TELLS => None,
        (Some(_), Some(_)) | (None, _) => Some(Vec::new()),
    };
    let all = queue.all_learned().await?.into_iter().filter(|(source, site, _)| is_meant(*source, site));
    let mut changed = all.filter_map(|(source, site, record)| Some((source, site, anew(&record)?))).peekable();
    while changed.peek().is_some() {
        // asked together, so that they share a commit
        let some: Vec<_> = changed.by_ref().take(FORGOTTEN_AT_ONCE).collect();
        try_join_all(some.iter().map(|(source, site, record)| queue.learn(*source, site, record.clone()))).await?;
    }
    Ok(())
}

/// The domain a name may also stand for: one with a dot in it.
pub fn as_domain(name: &str) -> Option<Domain> {
    Domain::parse(name).ok().filter(|domain| domain.as_str().contains('.'))
}

/// Holds a site and the domain of that name on record: stewards that are not there read it when they start.
pub async fn suspend_on_record(queue: &Queue, name: &str, why: &str, now: Timestamp) -> Result<(), queue::Error> {
    let held = Learned { held: true, why: why.to_owned(), since: Some(now), ..Learned::default() };
    queue.learn(ANY_SOURCE, name, held.to_bytes(now)).await
}

/// Lets a site and the domain of that name go on record, whatever held them up, while nobody sends.
pub async fn resume_on_record(queue: &Queue, name: &str) -> Result<(), queue::Error> {
    forget(queue, name, |_| true).await
}

/// Forgets what was learned of a site by those sources that are meant, also by such as are gone from the settings.
pub(super) async fn forget(queue: &Queue, name: &str, is_meant: impl Fn(SourceId) -> bool) -> Result<(), queue::Error> {
    let all = queue.all_learned().await?;
    for (source, _, _) in all.iter().filter(|(source, site, _)| site == name && is_meant(*source)) {
        queue.learn(*source, name, Vec::new()).await?;
    }
    Ok(())
}

/// What a person holds: sites for every source, and the domains of their names. Shared by the courier, which changes it, and
/// the stewards.
#[derive(Debug, Default)]
pub(super) struct HeldNames {
    any_domain: AtomicBool,
    all: Mutex<Held>,
}

/// Why names are held, and those of them that are domains as well.
#[derive(Debug, Default)]
struct Held {
    whys: BTreeMap<String, String>,
    domains: BTreeSet<Domain>,
}

impl HeldNames {
    /// Whether nothing may go to this domain. Asked with every lease: it costs nothing while none is held.
    pub fn holds(&self, domain: &Domain) -> bool {
        self.any_domain.load(Ordering::Relaxed) && self.lock().domains.contains(domain)
    }

    /// Why nothing may go to a site, when a person holds it.
    pub fn why(&self, site: &str) -> Option<String> {
        self.lock().whys.get(site).cloned()
    }

    /// Holds a name.
    pub fn suspend(&self, name: &str, why: &str) {
        self.change(|whys| drop(whys.insert(name.to_owned(), why.to_owned())));
    }

    /// Lets a name go.
    pub fn resume(&self, name: &str) {
        self.change(|whys| drop(whys.remove(name)));
    }

    /// Takes up what is on the ledger.
    pub async fn restore(&self, queue: &Queue) -> Result<(), queue::Error> {
        let on_record = queue.all_learned().await?.into_iter().filter(|(source, _, _)| *source == ANY_SOURCE);
        let learned = on_record.filter_map(|(_, name, record)| Some((name, Learned::from_bytes(&record)?)));
        let held = learned.filter(|(_, learned)| learned.held).map(|(name, learned)| (name, learned.why));
        self.change(|whys| whys.extend(held));
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut all = self.lock();
        change(&mut all.whys);
        all.domains = all.whys.keys().filter_map(|name| as_domain(name)).collect();
        self.any_domain.store(!all.domains.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a person asks of the courier.
pub(super) enum Command {
    /// Every steward is to say how it stands.
    Show(mpsc::Sender<SiteStatus>),
    /// Nothing more to this site.
    Suspend(Arc<str>, String, oneshot::Sender<()>),
    /// Let it go on.
    Resume(Arc<str>, oneshot::Sender<()>),
    /// The table of shapes has changed.
    Reshape,
}

/// The sites as a person sees them. Cheap to clone.
#[derive(Clone)]
pub struct Sites {
    courier: mpsc::Sender<Command>,
    taps: Taps,
}

impl Sites {
    pub(super) fn new(taps: Taps) -> (Sites, mpsc::Receiver<Command>) {
        let (courier, commands) = mpsc::channel(COMMANDS_MAX);
        (Sites { courier, taps }, commands)
    }

    /// What is said with a site from now on, until the receiver is dropped.
    pub fn listen(&self, site: &str) -> mpsc::Receiver<Heard> {
        self.taps.listen(site)
    }

    /// Every site that is being served now, by site and source. Empty once the courier has stopped.
    pub async fn snapshot(&self) -> Vec<SiteStatus> {
        let (show, mut shown) = mpsc::channel(64);
        let mut all = Vec::new();
        if self.courier.send(Command::Show(show)).await.is_ok() {
            while let Some(status) = shown.recv().await {
                all.push(status);
            }
        }
        all.sort_by(|a, b| (&a.site, &a.source).cmp(&(&b.site, &b.source)));
        all
    }

    /// Sends nothing more to a site, from any source, nor to the domain of that name by any way, until it is resumed; holds
    /// over restarts. Copies on the wire are finished. Gives whether the courier was there to do it.
    pub async fn suspend(&self, site: &str, why: &str) -> bool {
        self.command(|done| Command::Suspend(site.into(), why.to_owned(), done)).await
    }

    /// Lets the table of shapes hold as it is now, for every site.
    pub async fn reshape(&self) {
        // a courier that has stopped has no sites
        let _ = self.courier.send(Command::Reshape).await;
    }

    /// The sites of a courier that is not there.
    #[cfg(test)]
    pub(crate) fn nobody() -> Sites {
        Sites::new(Taps::new(std::sync::Arc::new(crate::world::SimulatedClock::starting(Timestamp::default())))).0
    }

    /// Lets a site, and the domain of that name, go on, whatever held it up: a person, a pause, a block. Gives whether the
    /// courier was there to do it.
    pub async fn resume(&self, site: &str) -> bool {
        self.command(|done| Command::Resume(site.into(), done)).await
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> bool {
        let (done, told) = oneshot::channel();
        self.courier.send(command(done)).await.is_ok() && told.await.is_ok()
    }
}

/// What binds, in words.
pub(super) fn in_words(no: &NotNow) -> String {
    let what = match &no.binds {
        Binding::Held(why) => format!("held until resumed: {why}"),
        Binding::Paused(why) => format!("paused: {why}"),
        Binding::Connections(most) => format!("{most} connections, as many as the window allows"),
        Binding::ConnectionRate => "the rate of new connections".to_owned(),
        Binding::MessageRate => "the rate of messages".to_owned(),
        Binding::LaunchRate(campaign, rate) => format!("the rate of campaign {campaign}, {rate}"),
        Binding::Warmup(day) => day.clone(),
    };
    match no.wait.filter(|wait| *wait >= Duration::from_secs(1)) {
        Some(wait) => format!("{what} (for {} s)", wait.as_secs()),
        None => what,
    }
}
