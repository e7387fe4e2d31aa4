//! `queue`: what is on the road, and what to do when its files are in trouble.

use clap::Subcommand;

use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Crew, Rebuilt, rebuild, verify};
use crate::store::Threads;

/// The commands on the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Show what is on the road: the domains with the most copies, and when the next may go.
    Top,
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
    if !view.domains.is_empty() {
        desk.say(format!("{:>9} {:>7}  {:<26} domain", "waiting", "leased", "next"));
    }
    for row in &view.domains {
        let next = row.next.as_deref().unwrap_or("now");
        desk.say(format!("{:>9} {:>7}  {next:<26} {}", row.waiting, row.leased, row.domain));
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
