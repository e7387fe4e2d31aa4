//! Where tasks meet channels: starting, handling and stopping the whole.

mod agreement;
mod bell;
mod control;
mod handle;
mod herald;
mod launch;
mod planner;
mod rebuild;
mod registrar;
mod reporter;
mod reload;
mod stalls;
mod status;
mod stop;
mod warden;
mod workspace;

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use miette::Diagnostic as _;
use tokio::sync::mpsc;

use crate::base::{CampaignName, LaunchId, Live, Timestamp, bucket};
use crate::config::{self, Breaker};
use crate::delivery::alert::Alerts;
use crate::delivery::courier::Courier;
use crate::delivery::kit::Road;
use crate::delivery::notices::Notices;
use crate::delivery::sites::Sites;
use crate::delivery::source::{Sources, host_name};
use crate::delivery::stops::Stops;
use crate::delivery::sts::Policies;
use crate::delivery::tls_report::TlsReports;
use crate::delivery::tls_tally::Tally;
use crate::mail::{InDoubt, Notice};
use crate::outcome::{Clerk, Policy};
use crate::queue::{self, Keeper, Ledger, Marks, Opening, Queue, SledLedger};
use crate::sign::{self, Keyring};
use crate::smtp::TlsClient;
use crate::store::{self, LaunchRow, LaunchState, QueuePlace, Store, Threads};
use crate::world::{Clock, Http, World};

pub use agreement::Disagreement;
pub use control::{AskError, Client, Control};
pub use handle::{Handle, Settled, Wait};
pub use launch::{LaunchError, Ready, Remedy, examine, examine_relays, lacking, login};
pub use rebuild::{Rebuilt, Verified, rebuild, verify};
use reload::Watchman;
pub use status::{CopyView, DomainView, QueueView, SiteView, StallView, StillView};
pub use workspace::{Created, Error as WorkspaceError, Hold, SAMPLE_CAMPAIGN, Workspace};

use bell::Bell;
use herald::Herald;
use planner::{Planner, Plans};
use registrar::Registrar;
use reporter::Reporter;
use stalls::Stalls;
use stop::{Alarm, KeeperWork, Staff, Task};
use warden::Warden;

/// Why the engine cannot start, or has stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The queue waits for its disk.
    #[error("{0}. What was asked is done once the queue goes on")]
    Waits(queue::Error),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Queue and record do not belong together.
    #[error("{why}. Nothing was sent{}", match *unsettled { 0 => String::new(), copies => format!("; {copies} copies are concerned, of {campaigns}") })]
    #[diagnostic(help(
        "put back what belongs together; or, if it is certain that nobody else works on these campaigns, `mailshot queue rebuild` makes a new queue from the record: every planned copy without an outcome is then in doubt, and sent again or held as its campaign says"
    ))]
    Disagree {
        /// What is wrong.
        why: Disagreement,
        /// Copies without a final outcome.
        unsettled: u64,
        /// Their campaigns.
        campaigns: String,
    },
    /// No such launch.
    #[error("there is no launch {0}")]
    NoLaunch(LaunchId),
    /// The launch is not in a state for that.
    #[error("campaign `{campaign}` is {} and cannot be {verb}", word(*state))]
    State {
        /// The campaign.
        campaign: CampaignName,
        /// Where it stands.
        state: LaunchState,
        /// What was asked.
        verb: &'static str,
    },
    /// What is written in the workspace cannot be used: keys, tables, routes.
    #[error("{why}")]
    Unusable {
        /// The file, and what is wrong with it.
        why: String,
        /// What to do about it.
        #[help]
        help: Option<String>,
    },
    /// A thread cannot be started.
    #[error("cannot start the {what}: {why}")]
    Start {
        /// Whose.
        what: &'static str,
        /// What the system said.
        why: String,
    },
    /// A file or folder of the queue cannot be moved.
    #[error("{}: {why}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A task ended that should not have.
    #[error(
        "the {0} has ended, which is a bug of mailshot; everything admitted is on disk, and the next `send` goes on"
    )]
    Ended(&'static str),
}

impl From<WorkspaceError> for Error {
    fn from(why: WorkspaceError) -> Error {
        if why.is_failure() {
            return Error::Start { what: "engine", why: why.to_string() };
        }
        Error::Unusable { help: why.help().map(|help| help.to_string()), why: why.to_string() }
    }
}

impl From<sign::Error> for Error {
    fn from(why: sign::Error) -> Error {
        WorkspaceError::from(why).into()
    }
}

/// The word for where a launch stands.
fn word(state: LaunchState) -> &'static str {
    match state {
        LaunchState::Running => "running",
        LaunchState::Paused => "paused",
        LaunchState::Cancelled => "cancelled",
        LaunchState::Done => "done",
    }
}

/// Who is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crew {
    /// Everybody: launches are planned and sent.
    Sending,
    /// Launches are planned and the books kept, but nothing is sent: to measure planning, and to play the courier.
    Planning,
    /// Only those who keep the books: for moves on launches while nothing is sent.
    Keeping,
}

/// What an engine is started with.
pub struct Parts {
    /// The workspace.
    pub workspace: Workspace,
    /// The outside.
    pub world: World,
    /// The record.
    pub store: Store,
    /// Threads of their own, or everything on the caller's: for simulations.
    pub threads: Threads,
    /// Where the queue lies; nowhere known for queues in memory.
    pub place: QueuePlace,
    /// Who is to be at work.
    pub crew: Crew,
}

/// The whole, at work.
pub struct Engine {
    handle: Handle,
    staff: Staff,
}

impl Engine {
    /// Opens the queue on a ledger, makes sure that it and the record belong together, settles what a crash left in doubt,
    /// and starts everybody. The caller holds the workspace.
    pub async fn start(parts: Parts, ledger: impl Ledger + 'static) -> Result<Engine, Error> {
        let Parts { workspace, world, store, threads, place, crew } = parts;
        let launches = store.open_launches()?;
        let marks = Marks::read(&ledger)?;
        let epoch = check_agreement(marks, &store, place, &launches)?;
        if agreement::is_new(marks) && store.epoch()? != 0 {
            // the queue is gone: was the record laid back from a backup?
            store.pass_over_ids(world.dice.roll()).await?;
        }
        if marks.epoch != 0 {
            // a start that was cut off between queue and record left this to the next one
            store.set_epoch(marks.epoch).await?;
        }
        let (queue, keeper) = Queue::open(ledger, opening(world.clock.clone(), &store, &launches)?)?;
        let keeper = start_keeper(keeper, threads)?;
        store.announce_epoch(epoch, place).await?;
        at_once(&queue, queue.set_epoch(epoch)).await?;
        store.set_epoch(epoch).await?;
        let host_name = host_name();
        let numbered = at_once(&queue, Sources::numbered(workspace.settings(), &host_name, &queue)).await?;
        let sources = Arc::new(numbered);
        let (bell, alarm) = (Arc::new(Bell::default()), Alarm::new());
        let clock = world.clock.clone();
        let (notices, noticed) = Notices::new(clock.clone());
        let stops = recall_stops(&store)?;
        let alerts = Alerts::new(workspace.settings(), &world, keys_to_tell_with(&workspace, crew)?);
        let breaker = workspace.settings().breaker.clone();
        let alert = workspace.settings().alert.clone();
        let (watchman, courier, sites, reporter) = match crew {
            Crew::Planning | Crew::Keeping => (None, None, None, None),
            Crew::Sending => {
                let policies = policies(&workspace, &world)?;
                let (reporter, tally) = start_reporter(&queue, &store, &alarm, &workspace, &world, &policies)?.unzip();
                let listeners = (&notices, &stops, &sources, policies, tally);
                let (watchman, task, sites) =
                    start_courier(&queue, &store, &alarm, &workspace, world, threads, listeners)?;
                (watchman, Some(task), Some(sites), reporter)
            }
        };
        let expires = workspace.settings().retry.expires;
        let stalls = Stalls::new(queue.clone(), clock.clone());
        let in_between = Arc::default();
        let handle =
            Handle { store, queue, clock, bell, alarm, sites, stops, notices, sources, expires, stalls, in_between };
        let warden = (crew == Crew::Sending).then(|| start_warden(&handle, breaker));
        let herald = start_herald(&handle, noticed, alerts, &alert);
        let planner = (crew != Crew::Keeping).then(|| start_planner(&handle, &workspace));
        let registrar = start_registrar(&handle);
        let clerk = start_clerk(&handle, &workspace);
        let staff = Staff { planner, watchman, courier, reporter, warden, clerk, registrar, herald, keeper };
        Ok(Engine { handle, staff })
    }

    /// A handle to ask with.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops everybody in order: nothing more is planned or begun, what is on the wire has `grace` to finish, and
    /// everything that was done is on disk when this returns; if it could not be, [`Handle::failed`] says why.
    pub async fn stop(self, grace: Duration) {
        let Handle { queue, alarm, .. } = self.handle;
        self.staff.end(&queue, &alarm, grace).await;
    }
}

/// At the start a person is there to see a disk that takes nothing: it is not waited for.
async fn at_once<T>(queue: &Queue, asked: impl Future<Output = Result<T, queue::Error>>) -> Result<T, queue::Error> {
    tokio::select! {
        biased;
        stall = queue.stalled() => {
            queue.hurry();
            Err(stall.why)
        }
        done = asked => done,
    }
}

/// The epoch to open with, if queue and store belong together.
fn check_agreement(queue: Marks, store: &Store, place: QueuePlace, launches: &[LaunchRow]) -> Result<u64, Error> {
    let marks = store.marks()?;
    let Err(why) = agreement::agree(queue, marks, place, !launches.is_empty()) else {
        return Ok(marks.next_epoch.max(queue.epoch) + 1);
    };
    let mut unsettled = 0;
    for launch in launches {
        unsettled += store.unsettled(launch.id)?;
    }
    let campaigns: BTreeSet<&str> = launches.iter().map(|launch| launch.campaign.as_str()).collect();
    let campaigns = campaigns.into_iter().collect::<Vec<_>>().join(", ");
    Err(Error::Disagree { why, unsettled, campaigns })
}

/// Where the queue of a folder lies.
pub fn place(queue: &Path) -> QueuePlace {
    let number = |found: &std::io::Result<Metadata>| found.as_ref().map_or(0, MetadataExt::ino);
    let (folder, file) = (std::fs::metadata(queue), std::fs::metadata(SledLedger::file_in(queue)));
    let made = file.as_ref().ok().and_then(|file| file.created().ok()?.duration_since(UNIX_EPOCH).ok());
    QueuePlace { folder: number(&folder), file: number(&file), made: made.map_or(0, |since| since.as_secs()) }
}

fn opening(clock: Arc<dyn Clock>, store: &Store, launches: &[LaunchRow]) -> Result<Opening, Error> {
    let modes = store.clone();
    // a launch that cannot be read is one whose copies must not be sent twice
    let in_doubt = move |launch| modes.launch(launch).ok().flatten().map_or(InDoubt::Hold, |row| row.in_doubt);
    let held = launches.iter().filter(|launch| launch.state == LaunchState::Paused).map(|launch| launch.id);
    Ok(Opening {
        clock,
        last_outcome: store.last_outcome()?,
        in_doubt: Box::new(in_doubt),
        bucket,
        held: held.collect(),
    })
}

fn start_keeper(keeper: Keeper, threads: Threads) -> Result<KeeperWork, Error> {
    match threads {
        Threads::Inline => Ok(KeeperWork::Task(tokio::spawn(keeper.run()))),
        Threads::Own => {
            let started = keeper.spawn();
            started.map(KeeperWork::Thread).map_err(|why| Error::Start { what: "keeper", why: why.to_string() })
        }
    }
}

fn start_planner(handle: &Handle, workspace: &Workspace) -> Task {
    let Handle { store, queue, clock, bell, alarm, stalls, .. } = handle.clone();
    let settings = workspace.settings();
    let most = settings.queue.max_waiting;
    let expires = settings.retry.expires;
    let planner = Planner { store, queue, clock, bell, expires, most, plans: Plans::default(), stalls };
    Task::start("planner", &alarm, |stop| planner.run(stop))
}

/// Reads what the sending tasks need from the workspace, and starts them.
fn start_courier(
    queue: &Queue,
    store: &Store,
    alarm: &Alarm,
    workspace: &Workspace,
    world: World,
    threads: Threads,
    (notices, stops, sources, policies, tally): (&Notices, &Stops, &Arc<Sources>, Policies, Option<Tally>),
) -> Result<(Option<Task>, Task, Sites), Error> {
    let settings = workspace.settings();
    let tls = TlsClient::new(settings.tls_ca.as_deref());
    let tls = tls.map_err(|why| Error::Start { what: "courier", why: why.to_string() })?;
    let (shaping, rules) = (Live::new(workspace.shaping()?), Live::new(workspace.rules()?));
    let road = Road {
        queue: queue.clone(),
        store: store.clone(),
        world,
        settings: Arc::new(settings.clone()),
        shaping: shaping.clone(),
        rules: rules.clone(),
        relays: workspace.relays()?,
        sources: sources.clone(),
        keyring: Arc::new(workspace.keyring()?),
        seal: Arc::new(workspace.seal()?),
        policies: Some(policies),
        tally,
        tls: Arc::new(tls),
        notices: notices.clone(),
        stops: stops.clone(),
    };
    let courier = Courier::new(road);
    let sites = courier.sites();
    // a simulated world has no files that change
    let watchman = (threads == Threads::Own).then(|| Watchman::new(workspace, shaping, rules, sites.clone()));
    let watchman = watchman.map(|watchman| Task::start("watchman", alarm, |stop| watchman.run(stop)));
    Ok((watchman, Task::start("courier", alarm, |stop| async move { Ok(courier.run(stop).await?) }), sites))
}

/// The policies of recipients' domains, none of them fetched yet.
fn policies(workspace: &Workspace, world: &World) -> Result<Policies, Error> {
    let settings = workspace.settings();
    let tls = TlsClient::new(settings.tls_ca.as_deref());
    let tls = tls.map_err(|why| Error::Start { what: "courier", why: why.to_string() })?;
    Ok(Policies::new(world.dns.clone(), Http::new(world, tls.verified(), settings.allow_private)))
}

/// Starts counting sessions and reporting them, where the settings want that.
fn start_reporter(
    queue: &Queue,
    store: &Store,
    alarm: &Alarm,
    workspace: &Workspace,
    world: &World,
    policies: &Policies,
) -> Result<Option<(Task, Tally)>, Error> {
    let reports = TlsReports::new(workspace.settings(), world, workspace.keyring()?, store.clone(), queue.clone());
    let Some(reports) = reports else { return Ok(None) };
    let tally = Tally::new(policies.clone(), world.clock.clone());
    let reporter = Reporter::new(tally.clone(), reports, store.clone(), world.clock.clone(), &*world.dice);
    Ok(Some((Task::start("reporter", alarm, |stop| reporter.run(stop)), tally)))
}

fn start_clerk(handle: &Handle, workspace: &Workspace) -> Task {
    let Handle { store, queue, alarm, stalls, .. } = handle.clone();
    let clerk = Clerk::new(queue.clone(), store, Policy::new(&workspace.settings().bounce));
    let clerk = clerk.telling(move |trouble| stalls.show("clerk", trouble));
    Task::start("clerk", &alarm, |stop| async move {
        clerk.run(stop).await;
        // one that ended by itself ended with the queue, which knows why
        Ok(queue.is_idle(Timestamp::from_ms(0)).await.map(drop)?)
    })
}

/// The keys that alerts are signed with. A key that cannot be used keeps nobody from stopping what is under way: whoever
/// does not send goes without.
fn keys_to_tell_with(workspace: &Workspace, crew: Crew) -> Result<Keyring, Error> {
    match workspace.keyring() {
        Err(why) if crew != Crew::Sending => {
            tracing::warn!(%why, "alerts are not signed");
            Ok(Keyring::default())
        }
        opened => Ok(opened?),
    }
}

/// Where launches were stopped before this start.
fn recall_stops(store: &Store) -> Result<Stops, Error> {
    let stops = Stops::default();
    for found in store.breaks(None)?.into_iter().filter(|found| found.lifted.is_none()) {
        if let Some(site) = found.site {
            stops.put(found.launch, site, found.why.into());
        }
    }
    Ok(stops)
}

fn start_warden(handle: &Handle, settings: Breaker) -> Task {
    let handle = handle.clone();
    Task::start("warden", &handle.alarm.clone(), |stop| Warden::new(handle, settings).run(stop))
}

fn start_herald(handle: &Handle, noticed: mpsc::Receiver<Notice>, alerts: Alerts, settings: &config::Alert) -> Task {
    let herald = Herald::new(handle.clone(), noticed, alerts, settings);
    Task::start("herald", &handle.alarm, |stop| herald.run(stop))
}

fn start_registrar(handle: &Handle) -> Task {
    let Handle { store, queue, clock, alarm, stalls, in_between, .. } = handle.clone();
    Task::start("registrar", &alarm, |stop| Registrar { store, queue, clock, stalls, in_between }.run(stop))
}

#[cfg(test)]
mod tests;
