//! `send`: shows the plan; with `--yes` launches the campaign, or goes on with it, and reports.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::base::{CampaignName, Domain, LaunchId, Span};
use crate::campaign::Survey;
use crate::cli::dry_run;
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Crew, Ready, Settled, Wait};
use crate::outcome::{CampaignReport, Counts, plain, report};
use crate::store::{LaunchKind, LaunchOptions, Store, Threads};

/// Domains named in the plan.
const DOMAINS_SHOWN: usize = 8;
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

/// What is shown without `--yes`.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    campaign: &'a CampaignName,
    from: String,
    subject: &'a str,
    lists: &'a [String],
    via: Option<&'a str>,
    limit: Option<u64>,
    /// Whether an earlier `send` has begun it.
    running: bool,
    #[serde(flatten)]
    survey: &'a Survey,
}

/// Runs the command.
pub async fn run(desk: &Desk, args: SendArgs) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let SendArgs { campaign, yes, limit, only_domain, rate, via, wait, dry_run } = args;
    let options = LaunchOptions { via, limit, only_domain, rate, ..LaunchOptions::default() };
    let ready = Ready::check(desk.workspace(), &store, &campaign, &options)?;
    let only = ready.options.only_domain.as_deref().and_then(|domain| Domain::parse(domain).ok());
    let survey = Survey::take(&store, &ready.lists, only.as_ref(), DOMAINS_SHOWN, desk.now())?;
    if !desk.is_json() || !(yes || dry_run.is_some()) {
        show_plan(desk, &ready, &survey);
    }
    if let Some(folder) = dry_run {
        return dry_run::write(desk, &store, &ready, only.as_ref(), &folder);
    }
    if !yes {
        desk.say("\nnothing was sent; --yes sends");
        desk.next(format!("mailshot {}", typed(&ready)));
        return Ok(Exit::Done);
    }
    if survey.recipients == 0 && ready.running.is_none() {
        return Err(Error::refused(format!(
            "nobody would get `{campaign}`: {} on its lists, all of them left out; `mailshot plan {campaign}` says why",
            survey.members
        )));
    }
    let expected = ready.options.limit.map_or(survey.recipients, |most| most.min(survey.recipients));
    send(desk, &store, ready, wait, expected).await
}

async fn send(desk: &Desk, store: &Store, ready: Ready, wait: Wait, expected: u64) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::listen()?;
    // the queue is taken in hand before anything is put on record
    let owner = Owner::reach(desk, store, Crew::Sending).await?;
    let launched = launch(desk, store, ready, &owner).await;
    let ended = match &launched {
        Ok(launch) => follow(desk, store, &owner, *launch, wait, expected, &mut interrupt).await,
        Err(_) => Ok(None),
    };
    interrupt.or_at_once(desk, owner.leave()).await;
    let (launch, ended) = (launched?, ended?);
    finish(desk, store, launch, ended)
}

async fn launch(desk: &Desk, store: &Store, ready: Ready, owner: &Owner) -> Result<LaunchId, Error> {
    let world = desk.world()?;
    ready.examine(desk.workspace(), &world).await?;
    let launch = ready.launch(store, world.clock.now()).await?.id;
    owner.take_up(launch).await?;
    Ok(launch)
}

/// Shows how it goes until the launch has settled; `None` when a signal ended that.
pub async fn follow(
    desk: &Desk,
    store: &Store,
    owner: &Owner,
    launch: LaunchId,
    wait: Wait,
    expected: u64,
    interrupt: &mut Interrupt,
) -> Result<Option<Settled>, Error> {
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
        let style = "{bar:30.green/dim} {pos}/{len}  {msg}  {elapsed} (about {eta} left)";
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

/// The report, and what it means for the exit code. `ended` is how the launch settled, `None` after a signal.
pub fn finish(desk: &Desk, store: &Store, launch: LaunchId, ended: Option<Settled>) -> Result<Exit, Error> {
    let Some(found) = report(store, launch)? else {
        return Err(Error::usage(format!("launch {launch} is no longer on record")));
    };
    desk.say(plain(&found, desk.ink()));
    desk.give(&found);
    if let Some(line) = rest(&found, ended) {
        desk.say(desk.addressed(format!("\n{line}")));
    }
    desk.next(found.next());
    Ok(exit(&found.counts, ended))
}

/// What a person must know beside the figures.
fn rest(found: &CampaignReport, ended: Option<Settled>) -> Option<String> {
    let (campaign, counts) = (&found.campaign, &found.counts);
    let open = counts.waiting + counts.deferred;
    match ended {
        Some(Settled::Final) => None,
        // `send` would begin the campaign itself
        Some(Settled::Deferred) | None if found.kind == LaunchKind::Test => {
            Some(format!("{open} test copies are left; `mailshot serve` stays until all are final"))
        }
        Some(Settled::Deferred) => Some(format!(
            "{open} copies wait for another attempt; `mailshot send {campaign} --yes` goes on with them when they are due, `--wait all` or `mailshot serve` stays until all are final"
        )),
        Some(Settled::Paused) => Some(format!("paused; `mailshot resume {campaign}` puts it back to work")),
        Some(Settled::Cancelled) => Some("cancelled: what was not sent never will be".to_owned()),
        None => Some(format!("stopped before the end; `mailshot send {campaign} --yes` goes on where it stopped")),
    }
}

fn exit(counts: &Counts, ended: Option<Settled>) -> Exit {
    let to_look_at = counts.failed + counts.in_doubt + counts.possible_doubles;
    match ended {
        None | Some(Settled::Paused) => Exit::Unsettled,
        Some(Settled::Final | Settled::Deferred | Settled::Cancelled) if to_look_at > 0 => Exit::Unsettled,
        Some(Settled::Final | Settled::Deferred | Settled::Cancelled) => Exit::Done,
    }
}

/// The `send` that would go out as shown: with the options of a new launch; those of one under way are on record.
pub fn typed(ready: &Ready) -> String {
    let LaunchOptions { via, limit, only_domain, rate, .. } = &ready.options;
    let limit = limit.map(|most| most.to_string());
    let options = [("via", via), ("limit", &limit), ("only-domain", only_domain), ("rate", rate)];
    let new = options.into_iter().filter(|_| ready.running.is_none());
    let words: String = new.filter_map(|(name, value)| Some(format!(" --{name} {}", value.as_ref()?))).collect();
    format!("send {}{words} --yes", ready.campaign.name())
}

fn show_plan(desk: &Desk, ready: &Ready, survey: &Survey) {
    let edition = &ready.edition;
    let from = match edition.from.name.as_str() {
        "" => edition.from.address.clone(),
        name => format!("{name} <{}>", edition.from.address),
    };
    desk.give(&Plan {
        campaign: ready.campaign.name(),
        from: from.clone(),
        subject: &edition.subject,
        lists: &edition.lists,
        via: ready.options.via.as_deref(),
        limit: ready.options.limit,
        running: ready.running.is_some(),
        survey,
    });
    desk.say(format!("{}: {}", ready.campaign.name(), edition.subject));
    desk.say(format!("  from        {from}"));
    desk.say(format!("  lists       {}", edition.lists.join(", ")));
    if let Some(rate) = &ready.options.rate {
        desk.say(format!("  rate        at most {rate}"));
    }
    match &ready.options.via {
        Some(via) => desk.say(format!("  via         {via}")),
        None => desk.say("  via         the recipients' own mail hosts"),
    }
    let limit = ready.options.limit.map_or(String::new(), |most| format!(", at most {most} of them"));
    desk.say(format!("  recipients  {} of {} subscribed{limit}", survey.recipients, survey.members));
    for left in &survey.barred {
        desk.say(format!("  left out    {} ({})", left.count, left.reason.word()));
    }
    let named: Vec<String> = survey.domains.iter().map(|share| format!("{} {}", share.domain, share.count)).collect();
    if !named.is_empty() {
        let others = if survey.elsewhere > 0 { format!(", others {}", survey.elsewhere) } else { String::new() };
        desk.say(format!("  domains     {}{others}", named.join(", ")));
    }
    if ready.running.is_some() {
        desk.say("  under way   an earlier send has begun it; this one goes on with what is left");
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
    fn waits_read_as_written() {
        assert_eq!(wait("all"), Ok(Wait::All));
        assert_eq!(wait("0"), Ok(Wait::UpTo(Duration::ZERO)));
        assert_eq!(wait("10m"), Ok(Wait::UpTo(Duration::from_secs(600))));
        assert!(wait("soon").unwrap_err().contains("or `all`"));
    }

    #[test]
    fn failures_doubts_and_an_early_end_are_to_be_looked_at() {
        let clean = Counts { recipients: 3, delivered: 2, deferred: 1, ..Counts::default() };
        assert_eq!(exit(&clean, Some(Settled::Deferred)), Exit::Done);
        assert_eq!(exit(&clean, None), Exit::Unsettled);
        assert_eq!(exit(&Counts { failed: 1, ..clean }, Some(Settled::Final)), Exit::Unsettled);
        assert_eq!(exit(&Counts { possible_doubles: 1, ..clean }, Some(Settled::Final)), Exit::Unsettled);
    }
}
