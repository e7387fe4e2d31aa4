//! `queue`: what is on the road, and what to do when its files are in trouble.

use clap::Subcommand;

use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Client, Crew, Rebuilt, SiteView, WorkspaceError, rebuild, verify};
use crate::store::Threads;

/// The commands on the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Show what is on the road: the sites being served, and the domains with the most copies.
    Top,
    /// Show what holds the mail to a site back now.
    Explain {
        /// The site, as `queue top` names it.
        site: String,
    },
    /// Send nothing more to a site until it is resumed. Needs `serve` or `send` at work; holds over restarts.
    Suspend {
        /// The site, as `queue top` names it.
        site: String,
    },
    /// Let a site go on, whatever held it up: a person, a pause, a block.
    Resume {
        /// The site, as `queue top` names it.
        site: String,
    },
    /// List the replies that no rule explains, for review: who said what at which point, how often, and since when.
    ///
    /// Addresses are left out. What is understood becomes a [[rule]] in rules.toml, with the reply as its sample.
    Replies {
        /// Forget them once they are shown.
        #[arg(long)]
        forget: bool,
    },
    /// Read every record of the queue, and compare it with the record of people and outcomes.
    Verify,
    /// Make a new queue from the record, when the old one is damaged, lost, restored or copied.
    ///
    /// Every planned copy without a final outcome is then in doubt: it may have been sent. It is sent again, or held for
    /// a person to decide, as its campaign says. The old queue is kept beside the new one.
    Rebuild {
        /// Do it. Without it the concerned campaigns are listed and nothing happens.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of them.
pub async fn run(desk: &Desk, command: QueueCommand) -> Result<Exit, Error> {
    match command {
        QueueCommand::Top => top(desk).await,
        QueueCommand::Explain { site } => explain(desk, &site).await,
        QueueCommand::Suspend { site } => {
            at_work(desk)?.suspend(&site).await?;
            desk.say(format!("nothing more goes to {site} until `mailshot queue resume {site}`"));
            desk.give(&serde_json::json!({"site": site, "held": true}));
            Ok(Exit::Done)
        }
        QueueCommand::Resume { site } => {
            at_work(desk)?.resume_site(&site).await?;
            desk.say(format!("{site} goes on"));
            desk.give(&serde_json::json!({"site": site, "held": false}));
            Ok(Exit::Done)
        }
        QueueCommand::Replies { forget } => replies(desk, forget).await,
        QueueCommand::Verify => check(desk),
        QueueCommand::Rebuild { yes } => renew(desk, yes).await,
    }
}

async fn top(desk: &Desk) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let view = owner.queue().await;
    let is_here = matches!(owner, Owner::Here(_));
    owner.leave().await;
    let view = view?;
    desk.give(&view);
    let who = if is_here { "nobody is sending".to_owned() } else { format!("process {} is sending", view.pid) };
    desk.say(format!("{} copies waiting, {} held; {who}", view.waiting, view.held));
    for row in &view.sites {
        let binds = row.binds.as_deref().unwrap_or("the hosts' own speed");
        desk.say(format!(
            "  {} from {}: {:.1}/s over {} connections; held back by {binds}",
            row.site, row.source, row.rate_now, row.connections
        ));
        if let Some(day) = row.warmup.as_ref().filter(|day| **day != binds) {
            desk.say(format!("    {day}"));
        }
    }
    if !view.domains.is_empty() {
        desk.say(format!("{:>9} {:>7}  {:<26} domain", "waiting", "leased", "next"));
    }
    for row in &view.domains {
        let next = row.next.as_deref().unwrap_or("now");
        desk.say(format!("{:>9} {:>7}  {next:<26} {}", row.waiting, row.leased, row.domain));
    }
    Ok(Exit::Done)
}

/// Whoever is sending now.
fn at_work(desk: &Desk) -> Result<Client, Error> {
    match desk.workspace().hold() {
        Ok(_) => {
            Err(Error::usage("nobody is sending: sites are held up and let go while `serve` or `send` is at work"))
        }
        Err(WorkspaceError::Held { .. }) => Ok(Client::new(desk.workspace().control_socket())),
        Err(other) => Err(other.into()),
    }
}

async fn explain(desk: &Desk, site: &str) -> Result<Exit, Error> {
    let view = at_work(desk)?.queue().await?;
    let found: Vec<&SiteView> = view.sites.iter().filter(|row| row.site == site).collect();
    if found.is_empty() {
        let known: Vec<&str> = view.sites.iter().map(|row| row.site.as_str()).collect();
        return Err(Error::usage(format!("`{site}` is not being served now; there are: {}", known.join(", "))));
    }
    for row in found {
        desk.give(row);
        desk.say(format!("{} from {}", row.site, row.source));
        desk.say(format!("  {} of {} useful connections, {} copies in hand", row.connections, row.window, row.leased));
        let allowed = row.rate_allowed.map_or("no limit".to_owned(), |most| format!("{most:.1} allowed"));
        desk.say(format!("  {:.1} copies a second, {allowed}", row.rate_now));
        desk.say(format!("  held back by: {}", row.binds.as_deref().unwrap_or("nothing but the hosts' own speed")));
        if let Some(day) = &row.warmup {
            desk.say(format!("  {}: {day}", row.source));
        }
        if let Some(reply) = &row.last_reply {
            desk.say(format!("  it said: {reply}"));
        }
    }
    Ok(Exit::Done)
}

async fn replies(desk: &Desk, forget: bool) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let found = store.unknown_replies()?;
    for row in &found {
        desk.give(row);
        let stage = row.stage.map_or("", crate::mail::Stage::word);
        desk.say(format!("{:>8}  {} at {stage}, last {}", row.count, row.site, row.last.rfc3339()));
        desk.say(format!("          {}", row.reply));
    }
    if found.is_empty() {
        desk.say("every reply so far was explained by a rule or by its code");
        return Ok(Exit::Done);
    }
    if forget {
        store.forget_replies().await?;
        desk.say("forgotten; what comes again is listed again");
    } else {
        desk.next("write a [[rule]] for those that matter in rules.toml, then mailshot queue replies --forget");
    }
    Ok(Exit::Done)
}

fn check(desk: &Desk) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let _hold = desk.workspace().hold()?;
    let found = verify(desk.workspace(), &store)?;
    desk.give(&found);
    desk.say(format!(
        "{} copies due, {} held, {} with a final dot that may be out, {} outcomes not yet on record",
        found.due, found.held, found.intents, found.outbox
    ));
    for complaint in &found.complaints {
        desk.say(format!("  {complaint}"));
    }
    if found.complaints.is_empty() {
        desk.say("the queue is whole");
        return Ok(Exit::Done);
    }
    desk.next("mailshot queue rebuild");
    Ok(Exit::Refused)
}

async fn renew(desk: &Desk, yes: bool) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let _hold = desk.workspace().hold()?;
    if !yes {
        let mut copies = 0;
        for launch in store.open_launches()? {
            let unsettled = store.unsettled(launch.id)?;
            desk.say(format!(
                "{}: {unsettled} copies would be in doubt, and {}",
                launch.campaign,
                fate(launch.in_doubt)
            ));
            copies += unsettled;
        }
        desk.give(&serde_json::json!({"unsettled": copies, "rebuilt": false}));
        desk.say(format!("{copies} copies in all"));
        desk.next("mailshot queue rebuild --yes does it; first make sure that no copy of this folder is sending");
        return Ok(Exit::Done);
    }
    let world = desk.world()?;
    let Rebuilt { again, held, kept } = rebuild(desk.workspace(), &store, world.clock).await?;
    desk.give(&serde_json::json!({"again": again, "held": held, "rebuilt": true, "kept": kept}));
    desk.say(format!("a new queue: {again} copies will be sent again, {held} are held in doubt"));
    if let Some(kept) = kept {
        desk.say(format!("the old one lies in {}", kept.display()));
    }
    desk.next("mailshot status");
    Ok(Exit::Done)
}

fn fate(mode: crate::mail::InDoubt) -> &'static str {
    match mode {
        crate::mail::InDoubt::Resend => "sent again",
        crate::mail::InDoubt::Hold => "held",
    }
}
