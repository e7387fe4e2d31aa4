//! `status`, `pause`, `resume`, `cancel`, `retry`: looking at a launch, and moving it.

use serde::Serialize;

use crate::base::{CampaignName, LaunchId, Timestamp};
use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Client, Crew, StallView, WorkspaceError};
use crate::outcome::{Counts, whole_report};
use crate::store::{LaunchKind, LaunchRow, LaunchState, Store, Threads};

/// A move on a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Hold it.
    Pause,
    /// Put it back to work.
    Resume,
    /// Call it back.
    Cancel,
    /// Make what is deferred due now.
    Retry,
    /// Send again what is held in doubt.
    RetryDoubts,
}

/// What `--json` shows of a launch.
#[derive(Debug, Serialize)]
struct Status<'a> {
    campaign: &'a CampaignName,
    launch: LaunchId,
    /// The campaign itself, or test copies of it.
    kind: LaunchKind,
    state: LaunchState,
    /// Whether every recipient has been planned; until then `recipients` follows the lists.
    planned: bool,
    /// The process that sends it now.
    pid: Option<u32>,
    /// Where it was stopped by itself, and why.
    stopped: Vec<Stopped>,
    /// What everybody waits for: a disk, or the record; all goes on by itself once it is mended.
    stalled: &'a [StallView],
    #[serde(flatten)]
    counts: Counts,
}

/// A place where a launch was stopped by itself.
#[derive(Debug, Serialize)]
struct Stopped {
    /// The site; null: all of it.
    site: Option<String>,
    why: String,
    since: Timestamp,
}

/// What `--json` shows of a move.
#[derive(Debug, Serialize)]
struct Moved<'a> {
    campaign: &'a CampaignName,
    state: LaunchState,
    copies: u64,
}

/// Shows where one campaign stands, or all that are under way.
pub async fn status(desk: &Desk, campaign: Option<CampaignName>) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let launches = match &campaign {
        Some(name) => vec![launch_of(&store, name)?],
        None => store.open_launches()?,
    };
    let (pid, stalled) = match sender(desk).await? {
        Some((pid, stalled)) => (pid, stalled),
        None => (None, Vec::new()),
    };
    for stall in &stalled {
        desk.say(stall.in_words());
    }
    if launches.is_empty() {
        desk.say("no campaign is under way");
        desk.next("mailshot send CAMPAIGN");
    }
    for launch in &launches {
        show(desk, &store, launch, pid, &stalled)?;
    }
    Ok(Exit::Done)
}

/// The process that sends, and what it waits for; its number when it has told it.
async fn sender(desk: &Desk) -> Result<Option<(Option<u32>, Vec<StallView>)>, Error> {
    match desk.workspace().hold() {
        Ok(_) | Err(WorkspaceError::Held { sending: false, .. }) => Ok(None),
        Err(WorkspaceError::Held { pid, sending: true, .. }) => {
            let answer = Client::new(desk.workspace().control_socket()).queue().await;
            Ok(Some(match answer {
                Ok(view) => (Some(view.pid), view.stalled),
                Err(_) => (pid, Vec::new()),
            }))
        }
        Err(other) => Err(other.into()),
    }
}

fn show(desk: &Desk, store: &Store, launch: &LaunchRow, pid: Option<u32>, stalled: &[StallView]) -> Result<(), Error> {
    let Some(found) = whole_report(store, launch.id, desk.now())? else { return Ok(()) };
    let (campaign, counts) = (&launch.campaign, found.counts);
    let &LaunchRow { id, kind, state, planned, .. } = launch;
    let stopped: Vec<Stopped> = store
        .breaks(Some(id))?
        .into_iter()
        .filter(|found| found.lifted.is_none() && matches!(state, LaunchState::Running | LaunchState::Paused))
        .map(|found| Stopped { site: found.site.map(|site| site.to_string()), why: found.why, since: found.since })
        .collect();
    let why: Vec<String> = stopped.iter().map(Stopped::in_words).collect();
    desk.give_one(&Status { campaign, launch: id, kind, state, planned, pid, stopped, stalled, counts });
    let state = match (launch.state, pid) {
        (LaunchState::Running, Some(pid)) => format!("being sent by process {pid}"),
        (LaunchState::Running, None) => "begun; nobody is sending it now".to_owned(),
        (LaunchState::Paused, _) => "paused".to_owned(),
        (LaunchState::Cancelled, _) => "cancelled".to_owned(),
        (LaunchState::Done, _) => "finished".to_owned(),
    };
    let planning = if launch.planned || launch.state == LaunchState::Cancelled { "" } else { ", not all planned yet" };
    let what = match launch.kind {
        LaunchKind::Campaign => "",
        LaunchKind::Test => " (test copies)",
        LaunchKind::Confirmation => " (of a subscription)",
    };
    desk.say(format!("{campaign}{what}: {state}"));
    desk.say(format!(
        "  {} recipients{planning}: {} delivered, {} deferred, {} failed, {} waiting",
        counts.recipients, counts.delivered, counts.deferred, counts.failed, counts.waiting
    ));
    if counts.barred + counts.skipped + counts.cancelled + counts.in_doubt > 0 {
        desk.say(format!(
            "  {} barred, {} skipped, {} cancelled, {} in doubt",
            counts.barred, counts.skipped, counts.cancelled, counts.in_doubt
        ));
    }
    for line in &why {
        desk.say(format!("  {line}"));
    }
    desk.next(match (launch.state, pid) {
        (LaunchState::Running, _) if !why.is_empty() => {
            format!("mailshot report {campaign}, then mailshot resume {campaign}")
        }
        (_, None) if launch.kind != LaunchKind::Campaign => "mailshot serve".to_owned(),
        (_, Some(_)) if launch.kind != LaunchKind::Campaign => "mailshot status".to_owned(),
        (LaunchState::Running, None) => format!("mailshot send {campaign} --yes"),
        (LaunchState::Running, Some(_)) => format!("mailshot pause {campaign}"),
        (LaunchState::Paused, _) => format!("mailshot resume {campaign}"),
        (LaunchState::Cancelled | LaunchState::Done, _) => format!("mailshot report {campaign}"),
    });
    Ok(())
}

impl Stopped {
    fn in_words(&self) -> String {
        let where_ = self.site.as_ref().map_or_else(String::new, |site| format!(" at {site}"));
        format!("stopped{where_} since {}: {}", self.since.rfc3339(), self.why)
    }
}

/// Moves a launch.
pub async fn shift(desk: &Desk, campaign: CampaignName, wanted: Move) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let launch = launch_of(&store, &campaign)?.id;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let done = match wanted {
        Move::Pause => owner.pause(launch).await,
        Move::Resume => owner.resume(launch).await,
        Move::Cancel => owner.cancel(launch).await,
        Move::Retry => owner.retry(launch).await,
        Move::RetryDoubts => owner.retry_doubts(launch).await,
    };
    let is_here = matches!(owner, Owner::Here(_));
    let left = owner.leave().await;
    let copies = done?;
    left?;
    let state = launch_of(&store, &campaign)?.state;
    desk.give(&Moved { campaign: &campaign, state, copies });
    let send = format!("mailshot send {campaign} --yes");
    let watch = format!("mailshot status {campaign}");
    let (words, next) = match wanted {
        Move::Pause => (format!("paused; {copies} copies are put aside"), format!("mailshot resume {campaign}")),
        Move::Resume if is_here => {
            (format!("resumed; {copies} copies are waiting again, and nobody sends them yet"), send)
        }
        Move::Resume => (format!("resumed; {copies} copies are waiting again"), watch),
        Move::Cancel => (format!("cancelled; {copies} copies will not be sent"), format!("mailshot report {campaign}")),
        Move::RetryDoubts if copies == 0 => ("no copy is held in doubt".to_owned(), watch),
        Move::RetryDoubts if is_here => {
            (format!("{copies} copies in doubt are due again, and nobody sends them yet"), send)
        }
        Move::RetryDoubts => (format!("{copies} copies in doubt are due again; each may arrive twice"), watch),
        Move::Retry if copies == 0 => ("nothing is waiting for a later attempt".to_owned(), watch),
        Move::Retry if is_here => (format!("{copies} copies are due now, and nobody sends them yet"), send),
        Move::Retry => (format!("{copies} copies are due now"), watch),
    };
    desk.say(format!("{campaign}: {words}"));
    desk.next(next);
    Ok(Exit::Done)
}

pub(super) fn launch_of(store: &Store, campaign: &CampaignName) -> Result<LaunchRow, Error> {
    store.launch_of(campaign)?.ok_or_else(|| {
        Error::usage(format!("`{campaign}` was never sent; `mailshot send {campaign}` shows what would be"))
    })
}
