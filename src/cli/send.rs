//! `send`: shows the plan; with `--yes` launches the campaign, or goes on with it, and reports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::base::{CampaignName, LaunchId, Span, shell_argument};
use crate::cli::dry_run;
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::Owner;
use crate::cli::plan::{Audience, Outlook, options_as_typed};
use crate::cli::{Desk, Error, Exit};
use crate::engine::{QueueView, Ready, Settled, StillView, Wait};
use crate::outcome::{CampaignReport, Counts, plain, report, whole_report};
use crate::store::{LaunchKind, LaunchOptions, Store, Threads};

/// Sites that stand still, named one by one.
const STILL_SHOWN: usize = 5;
/// The least and most time between two figures on a terminal, and between two lines elsewhere.
const SHOW_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What `send` is told.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The campaign: a folder below campaigns/.
    #[arg(value_parser = campaign_name)]
    campaign: CampaignName,
    /// Send. Without it the plan is shown and nothing happens.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// At most this many recipients; recorded with the launch.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only recipients of this domain; recorded with the launch.
    #[arg(long, value_name = "DOMAIN")]
    only_domain: Option<String>,
    /// At most this many messages in a time over all hosts, as in 100/min; recorded with the launch.
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Send everything through this host: smtp://HOST:PORT, smtp+starttls://HOST:PORT or smtps://HOST:PORT; recorded
    /// with the launch.
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// End once nothing is due within this time, as in 10m; `all` stays until every copy is final.
    #[arg(long, value_name = "SPAN|all", default_value = "0s", value_parser = wait)]
    wait: Wait,
    /// Write every message as an .eml file into this folder instead of sending it.
    #[arg(long, value_name = "DIR")]
    dry_run: Option<PathBuf>,
}

impl SendArgs {
    /// The folder it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        self.dry_run.as_deref()
    }
}

/// A campaign's name on the command line.
pub fn campaign_name(text: &str) -> Result<CampaignName, String> {
    let name = text.trim_end_matches('/').rsplit_once("campaigns/").map_or(text, |(_, name)| name);
    CampaignName::parse(name.trim_end_matches('/')).ok_or_else(|| {
        "a campaign is named by its folder below campaigns/: letters, digits, `-`, `_` and `.`, at most 64".to_owned()
    })
}

/// A span, or `all`.
pub fn wait(text: &str) -> Result<Wait, String> {
    match text {
        "all" => Ok(Wait::All),
        "0" => Ok(Wait::UpTo(Duration::ZERO)),
        span => Span::parse(span).map(|span| Wait::UpTo(span.duration())).map_err(|why| format!("{why}, or `all`")),
    }
}

/// Runs the command.
pub async fn run(desk: &Desk, args: SendArgs) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let SendArgs { campaign, yes, limit, only_domain, rate, via, wait, dry_run } = args;
    let options = LaunchOptions { via, limit, only_domain, rate, ..LaunchOptions::default() };
    let ready = Ready::check(desk.workspace(), &store, &campaign, &options)?;
    let running = ready.running.is_some();
    let audience =
        Audience::count(&store, &ready.edition, ready.meant.clone(), &ready.options, running, desk.now()).await?;
    if let Some(folder) = dry_run {
        audience.show(desk);
        return dry_run::write(desk, &store, &ready, &folder);
    }
    if !yes {
        Outlook::foresee(desk, &store, audience, ready.campaign.pool()).await?.show(desk);
        desk.say("\nnothing was sent; --yes sends");
        desk.next(format!("mailshot {}", typed(&ready)));
        return Ok(Exit::Done);
    }
    audience.show(desk);
    if audience.recipients == 0 && !running {
        return Err(Error::refused(format!(
            "nobody would get `{campaign}`: {} on its lists, all of them left out; `mailshot plan {campaign}` says why",
            audience.members
        )));
    }
    send(desk, &store, ready, wait, audience.recipients).await
}

/// Launches what is ready, or goes on with it, and reports. `expected` is how many copies that are.
pub async fn send(desk: &Desk, store: &Store, ready: Ready, wait: Wait, expected: u64) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::listen()?;
    let (running, campaign) = (ready.running.as_ref().map(|launch| launch.id), ready.campaign.name().clone());
    let typed = typed(&ready);
    // the queue is taken in hand before anything is put on record
    let Some(mut owner) = Owner::reach_or_never(desk, store, &mut interrupt).await? else {
        return match running {
            Some(launch) => finish(desk, store, launch, None, true, None),
            None => Ok(unlaunched(desk, &campaign, format!("mailshot {typed}"))),
        };
    };
    let launched = launch(desk, store, ready, &mut interrupt).await;
    let ended = match &launched {
        Ok(Some(launch)) => see_to(desk, store, &mut owner, *launch, wait, expected, &mut interrupt).await,
        Ok(None) | Err(_) => Ok(None),
    };
    let left = left_behind(&owner, &ended).await;
    let is_here = matches!(owner, Owner::Here(_)) || owner.is_gone().await;
    let gone = interrupt.or_at_once(desk, owner.leave()).await;
    let (launched, ended) = (launched?, ended?);
    gone?;
    match launched.or(running) {
        Some(launch) => finish(desk, store, launch, ended, is_here, left),
        None => Ok(unlaunched(desk, &campaign, format!("mailshot {typed}"))),
    }
}

/// What is said when a signal came before there was a launch.
fn unlaunched(desk: &Desk, campaign: &CampaignName, next: impl AsRef<str>) -> Exit {
    desk.give(&serde_json::json!({"campaign": campaign, "launched": false}));
    desk.say("stopped before the launch: nothing was sent");
    desk.next(next);
    Exit::Unsettled
}

/// What is on the road when a launch is waited for no longer although copies of it are left.
async fn left_behind(owner: &Owner, ended: &Result<Option<Settled>, Error>) -> Option<QueueView> {
    match ended {
        Ok(Some(Settled::Deferred)) => owner.queue().await.ok(),
        Ok(Some(Settled::Final | Settled::Paused | Settled::Cancelled) | None) | Err(_) => None,
    }
}

/// Puts the launch on record; `None` when a signal came before.
async fn launch(
    desk: &Desk,
    store: &Store,
    ready: Ready,
    interrupt: &mut Interrupt,
) -> Result<Option<LaunchId>, Error> {
    let world = desk.world()?;
    match interrupt.or_never(ready.examine(desk.workspace(), &world)).await {
        Some(fit) => fit?,
        None => return Ok(None),
    }
    Ok(Some(ready.launch(store, world.clock.now()).await?.id))
}

/// Has a launch seen to until it has settled; `None` when a signal ended that. Where another process sent and has ended
/// meanwhile, this one goes on.
async fn see_to(
    desk: &Desk,
    store: &Store,
    owner: &mut Owner,
    launch: LaunchId,
    wait: Wait,
    expected: u64,
    interrupt: &mut Interrupt,
) -> Result<Option<Settled>, Error> {
    loop {
        let ended = follow(desk, store, owner, launch, wait, expected, interrupt).await;
        if ended.is_ok() || !owner.is_gone().await {
            return ended;
        }
        desk.note("the mailshot that held the queue has ended: this one goes on");
        match Owner::reach_or_never(desk, store, interrupt).await? {
            Some(next) => *owner = next,
            None => return Ok(None),
        }
    }
}

/// Has a launch seen to by whoever holds the queue, and shows how it goes until it has settled; `None` when a signal ended
/// that.
async fn follow(
    desk: &Desk,
    store: &Store,
    owner: &Owner,
    launch: LaunchId,
    wait: Wait,
    expected: u64,
    interrupt: &mut Interrupt,
) -> Result<Option<Settled>, Error> {
    owner.take_up(launch).await?;
    if let Owner::There(_) = owner {
        desk.note("the queue is held by another mailshot: it sends, and this command watches");
    }
    let mut show = Show::new(desk, expected);
    let settled = owner.settled(launch, wait);
    tokio::pin!(settled);
    loop {
        let done = tokio::select! {
            biased;
            () = interrupt.heard() => {
                show.end();
                if let Owner::Here(_) = owner {
                    desk.note("finishing what is on the wire; once more stops at once");
                }
                return Ok(None);
            }
            settled = &mut settled => Some(settled?),
            () = sleep(show.pause) => None,
        };
        if let Some(found) = report(store, launch)? {
            show.figures(desk, &found.counts);
        }
        if done.is_some() {
            show.end();
            return Ok(done);
        }
    }
}

/// Live figures: a bar for a person, lines for a log.
struct Show {
    bar: Option<ProgressBar>,
    pause: Duration,
    expected: u64,
    last: Option<Counts>,
    began: Instant,
}

impl Show {
    fn new(desk: &Desk, expected: u64) -> Show {
        let style = "{bar:20.green/dim} {pos}/{len}  {elapsed}, about {eta} left  {wide_msg}";
        let bar = desk.is_watched().then(|| {
            let bar = ProgressBar::new(expected);
            bar.set_style(ProgressStyle::with_template(style).expect("a fixed template"));
            bar
        });
        let pause = if bar.is_some() { SHOW_EVERY } else { LINE_EVERY };
        Show { bar, pause, expected, last: None, began: Instant::now() }
    }

    fn figures(&mut self, desk: &Desk, counts: &Counts) {
        let settled = counts.recipients - counts.waiting - counts.deferred;
        let words = format!("{} delivered, {} deferred, {} failed", counts.delivered, counts.deferred, counts.failed);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.expected.max(counts.recipients));
                bar.set_position(settled);
                bar.set_message(words);
            }
            None if self.last.as_ref() == Some(counts) => {}
            None => desk.note(format!(
                "{:>5} s: {settled} of {} settled: {words}",
                self.began.elapsed().as_secs(),
                self.expected.max(counts.recipients)
            )),
        }
        self.last = Some(*counts);
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The report, and what it means for the exit code. `ended` is how the launch settled, `None` after a signal; `left` what
/// was on the road when it was deferred; `is_here` whether this process sent.
fn finish(
    desk: &Desk,
    store: &Store,
    launch: LaunchId,
    ended: Option<Settled>,
    is_here: bool,
    left: Option<QueueView>,
) -> Result<Exit, Error> {
    let Some(found) = whole_report(store, launch, desk.now())? else {
        return Err(Error::usage(format!("launch {launch} is no longer on record")));
    };
    desk.say_lines(plain(&found, desk.ink()));
    desk.give(&found);
    let mut rest: Vec<String> = left.iter().flat_map(holding).collect();
    rest.extend(go_on(&found, ended, is_here));
    for (at, line) in rest.iter().enumerate() {
        let gap = if at == 0 { "\n" } else { "" };
        desk.add(desk.addressed(format!("{gap}{line}")));
    }
    desk.next(found.next());
    Ok(exit(&found.counts, ended))
}

/// What holds copies back, and until when.
fn holding(view: &QueueView) -> Vec<String> {
    let still = |row: &StillView| {
        let StillView { name, source, until, why, .. } = row;
        let from = source.as_deref().filter(|name| *name != "default").map(|name| format!(" from {name}"));
        let from = from.unwrap_or_default();
        match until {
            Some(until) => format!("{name} rests{from} until {until}: {why}"),
            None => format!("{name} is held{from} until `mailshot queue resume {}`: {why}", shell_argument(name)),
        }
    };
    let mut lines: Vec<String> = view.still.iter().take(STILL_SHOWN).map(still).collect();
    if view.still.len() > STILL_SHOWN {
        lines.push(format!("and {} more stand still; `mailshot queue top` shows them", view.still.len() - STILL_SHOWN));
    }
    lines.extend(view.next.as_ref().map(|next| format!("the next copy is due at {next}")));
    lines
}

/// What a person must know beside the figures.
fn go_on(found: &CampaignReport, ended: Option<Settled>, is_here: bool) -> Option<String> {
    let (campaign, counts) = (&found.campaign, &found.counts);
    let Counts { waiting, deferred, .. } = counts;
    let open = match (waiting, deferred) {
        (0, deferred) => format!("{deferred} copies wait for another attempt"),
        (waiting, 0) => format!("{waiting} copies wait for their first attempt"),
        (waiting, deferred) => format!("{deferred} copies wait for another attempt, {waiting} for their first"),
    };
    match ended {
        Some(Settled::Final) => None,
        None if !is_here => {
            Some("watched no longer; it is sent all the same, and `mailshot status` shows how it goes on".to_owned())
        }
        // `send` would begin the campaign itself
        Some(Settled::Deferred) | None if found.kind == LaunchKind::Test => {
            Some(format!("{open}; `mailshot serve` stays until all are final"))
        }
        Some(Settled::Deferred) => Some(format!(
            "{open}; `mailshot send {campaign} --yes` goes on with them when they are due, with `--wait all` until all are final, as `mailshot serve` does"
        )),
        Some(Settled::Paused) => Some(format!("paused; `mailshot resume {campaign}` puts it back to work")),
        Some(Settled::Cancelled) => Some("cancelled: what was not sent never will be".to_owned()),
        None => Some(format!("stopped before the end; `mailshot send {campaign} --yes` goes on where it stopped")),
    }
}

/// Copies that are left are to be looked at as well: whatever started this has not done all it was asked for.
fn exit(counts: &Counts, ended: Option<Settled>) -> Exit {
    let to_look_at = counts.failed + counts.in_doubt + counts.possible_doubles + counts.waiting + counts.deferred;
    match ended {
        None | Some(Settled::Paused) => Exit::Unsettled,
        Some(Settled::Final | Settled::Deferred | Settled::Cancelled) if to_look_at > 0 => Exit::Unsettled,
        Some(Settled::Final | Settled::Deferred | Settled::Cancelled) => Exit::Done,
    }
}

/// The command that would send what is ready: with the options of a new launch; those of one under way are on record.
pub fn typed(ready: &Ready) -> String {
    let (name, words) = (ready.campaign.name(), options_as_typed(&ready.options, None));
    match (&ready.running, ready.to.as_slice()) {
        (Some(_), _) => format!("send {name} --yes"),
        (None, []) => format!("send {name}{words} --yes"),
        (None, _) => format!("test {name} --to ADDRESS{words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_may_be_named_by_its_folder() {
        for (text, name) in [("welcome", Some("welcome")), ("campaigns/welcome/", Some("welcome")), ("../x", None)] {
            assert_eq!(campaign_name(text).ok().as_ref().map(CampaignName::as_str), name);
        }
    }

    #[test]
    fn what_holds_copies_back_is_named_with_its_end() {
        let row = |name: &str, source: Option<&str>, until: Option<&str>| StillView {
            name: name.to_owned(),
            source: source.map(str::to_owned),
            held: until.is_none(),
            since: None,
            until: until.map(str::to_owned),
            why: "421 4.7.0 [TSS04]".to_owned(),
        };
        let view = QueueView {
            pid: 1,
            sending: true,
            waiting: 2,
            held: 0,
            next: Some("2026-11-25T02:00:00.000Z".to_owned()),
            sites: Vec::new(),
            still: vec![
                row("smtp://127.0.0.1:2525", Some("default"), Some("2026-11-25T02:00:00.000Z")),
                row("yahoo", Some("b"), Some("2026-11-25T03:00:00.000Z")),
                row("example.com", None, None),
            ],
            domains: Vec::new(),
            stalled: Vec::new(),
        };
        assert_eq!(
            holding(&view),
            [
                "smtp://127.0.0.1:2525 rests until 2026-11-25T02:00:00.000Z: 421 4.7.0 [TSS04]",
                "yahoo rests from b until 2026-11-25T03:00:00.000Z: 421 4.7.0 [TSS04]",
                "example.com is held until `mailshot queue resume example.com`: 421 4.7.0 [TSS04]",
                "the next copy is due at 2026-11-25T02:00:00.000Z",
            ]
        );
    }

    #[test]
    fn waits_read_as_written() {
        assert_eq!(wait("all"), Ok(Wait::All));
        assert_eq!(wait("0"), Ok(Wait::UpTo(Duration::ZERO)));
        assert_eq!(wait("10m"), Ok(Wait::UpTo(Duration::from_secs(600))));
        assert!(wait("soon").unwrap_err().contains("or `all`"));
    }

    #[test]
    fn failures_doubts_what_is_left_and_an_early_end_are_to_be_looked_at() {
        let clean = Counts { recipients: 3, delivered: 3, ..Counts::default() };
        assert_eq!(exit(&clean, Some(Settled::Final)), Exit::Done);
        assert_eq!(exit(&Counts { deferred: 1, ..clean }, Some(Settled::Deferred)), Exit::Unsettled);
        assert_eq!(exit(&Counts { waiting: 1, ..clean }, Some(Settled::Deferred)), Exit::Unsettled);
        assert_eq!(exit(&clean, None), Exit::Unsettled);
        assert_eq!(exit(&Counts { failed: 1, ..clean }, Some(Settled::Final)), Exit::Unsettled);
        assert_eq!(exit(&Counts { possible_doubles: 1, ..clean }, Some(Settled::Final)), Exit::Unsettled);
    }
}
