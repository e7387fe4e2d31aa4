//! `queue`: what is on the road, and what to do when its files are in trouble.

use clap::Subcommand;

use crate::base::{CampaignName, Domain, shell_argument};
use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit, explain, trace};
use crate::delivery::via::Via;
use crate::engine::{Crew, Rebuilt, rebuild, verify};
use crate::queue::Whose;
use crate::store::{LaunchRow, LaunchState, Store, Threads};

/// The commands on the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Show what is on the road: the sites being served, and the domains with the most copies.
    Top,
    /// Show what holds mail back now: since when, until when, and by which limits from which table.
    Explain {
        /// An address, a campaign, a domain, or a site as `queue top` names it.
        what: String,
    },
    /// Send nothing more to a site or a domain until it is resumed; holds over restarts.
    ///
    /// A name with a dot in it stands for both: the site of that name, and the domain, whatever way its mail goes.
    Suspend {
        /// The site or domain, as `queue top` names it.
        site: String,
    },
    /// Let a site or a domain go on, whatever held it up: a person, a pause, a block.
    Resume {
        /// The site or domain, as `queue top` names it.
        site: String,
    },
    /// Make what waits for a later attempt due now.
    ///
    /// A site that rests goes on resting: its host asked for that. `queue resume` lets it go.
    Retry {
        /// A campaign, a domain, or a site as `queue top` names it.
        what: String,
    },
    /// Take copies out of the queue for good: each ends as cancelled on record, or in doubt where an answer was lost.
    ///
    /// What is on the wire is finished, and what a campaign has not planned yet will be: `cancel` calls a whole campaign
    /// back.
    Drop {
        /// A campaign or a domain.
        what: String,
        /// Do it. Without it they are counted and nothing happens.
        #[arg(long)]
        yes: bool,
    },
    /// Show the SMTP dialogues with a site as they go on, until Ctrl-C.
    ///
    /// Passwords and messages are not shown. Needs `serve` or `send` at work.
    Trace {
        /// The site, as `queue top` names it; with --via the address of the relay.
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
    /// a person to decide, as its campaign says. The old queue is kept beside the new one. One that was tried keeps its
    /// Message-ID, its Date and the time at which it is given up, as far as the old queue can be read; without it these
    /// count from the last answer on record.
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
        QueueCommand::Explain { what } => explain::run(desk, &what).await,
        QueueCommand::Suspend { site } => hold(desk, &site, true).await,
        QueueCommand::Resume { site } => hold(desk, &site, false).await,
        QueueCommand::Retry { what } => retry(desk, &what).await,
        QueueCommand::Drop { what, yes } => drop_copies(desk, &what, yes).await,
        QueueCommand::Trace { site } => trace::run(desk, &site).await,
        QueueCommand::Replies { forget } => replies(desk, forget).await,
        QueueCommand::Verify => check(desk),
        QueueCommand::Rebuild { yes } => renew(desk, yes).await,
    }
}

async fn top(desk: &Desk) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let view = owner.queue().await;
    let left = owner.leave().await;
    let view = view?;
    left?;
    let is_open = |launch: &LaunchRow| launch.state == LaunchState::Running && !launch.planned;
    let unplanned = store.open_launches()?.into_iter().filter(is_open).map(|launch| launch.campaign);
    desk.give(&view);
    let who = match view.sending {
        true => format!("process {} is sending", view.pid),
        false => "nobody is sending".to_owned(),
    };
    desk.say(format!("{} copies waiting, {} held; {who}", view.waiting, view.held));
    for stall in &view.stalled {
        desk.say(stall.in_words());
    }
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
    for row in &view.still {
        let from = row.source.as_deref().map(|source| format!(" from {source}")).unwrap_or_default();
        let until =
            row.until.as_deref().map_or_else(|| "until it is resumed".to_owned(), |until| format!("until {until}"));
        desk.say(format!("  {}{from}: still {until}: {}", row.name, row.why));
    }
    for launch in unplanned {
        desk.say(format!("  {launch}: not everybody is in the queue yet; `mailshot report {launch}` counts them all"));
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

/// Holds a site and the domain of that name, or lets them go.
async fn hold(desk: &Desk, name: &str, held: bool) -> Result<Exit, Error> {
    if name.trim().is_empty() {
        return Err(Error::usage("which site or domain? `mailshot queue top` names them".to_owned()));
    }
    let store = desk.workspace().store(Threads::Own)?;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let before = owner.queue().await;
    let done = match held {
        true => owner.suspend_site(name).await,
        false => owner.resume_site(name).await,
    };
    let left = owner.leave().await;
    done?;
    left?;
    let before = before?;
    let stood_still = before.still.iter().any(|row| row.name == name);
    let is_domain = Domain::parse(name).is_ok_and(|domain| domain.as_str().contains('.'));
    desk.give(&serde_json::json!({
        "site": name, "domain": is_domain.then_some(name), "held": held, "stood_still": stood_still
    }));
    if !held && !stood_still {
        desk.say(format!("nothing held {name} up"));
        desk.next("mailshot queue top");
        return Ok(Exit::Done);
    }
    desk.say(match (held, is_domain) {
        (true, true) => {
            format!("held: addresses at {name}, whatever way their mail goes, and all that goes to the site {name}")
        }
        (true, false) => format!("held: all that goes to the site {name}"),
        (false, true) => format!("the domain {name} and the site {name} go on"),
        (false, false) => format!("the site {name} goes on"),
    });
    let has_mail = before.sites.iter().any(|row| row.site == name)
        || before.domains.iter().any(|row| row.domain == name)
        || !store.domains_at(name)?.is_empty();
    if held && !has_mail && !stood_still {
        desk.say("no mail is on its way there now: is that the name, as `queue top` has it?");
    }
    desk.next(match held {
        true => format!("mailshot queue resume {}", shell_argument(name)),
        false => "mailshot queue top".to_owned(),
    });
    Ok(Exit::Done)
}

/// What a name given to `retry` or `drop` stands for.
enum Named {
    Campaign(Box<LaunchRow>),
    Domain(Domain),
    /// A site by the domains that have copies there, or by the launches that go through it.
    Site(Vec<Domain>, Vec<LaunchRow>),
}

/// A campaign that was sent, else a site that open copies are counted under, else a domain.
fn named(store: &Store, name: &str) -> Result<Named, Error> {
    if let Some(campaign) = CampaignName::parse(name)
        && let Some(launch) = store.launch_of(&campaign)?
    {
        return Ok(Named::Campaign(Box::new(launch)));
    }
    let via = Via::parse(name).map(|via| via.to_string()).ok();
    let through: Vec<LaunchRow> =
        store.open_launches()?.into_iter().filter(|launch| via.is_some() && launch.options.via == via).collect();
    let domains: Vec<Domain> = store.domains_at(name)?.iter().filter_map(|name| Domain::parse(name).ok()).collect();
    match Domain::parse(name) {
        Ok(domain) if through.is_empty() && domains.iter().all(|one| *one == domain) => Ok(Named::Domain(domain)),
        _ if !through.is_empty() || !domains.is_empty() => Ok(Named::Site(domains, through)),
        _ => Err(Error::usage(format!(
            "`{name}` is no campaign that was sent, no domain, and no site with copies that wait; `mailshot queue top` shows what there is"
        ))),
    }
}

async fn retry(desk: &Desk, name: &str) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let named = named(&store, name)?;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let done = retry_by(&owner, &named).await;
    let still = owner.queue().await.map(|view| view.still);
    let is_here = matches!(owner, Owner::Here(_));
    let left = owner.leave().await;
    let (copies, still) = (done?, still?);
    left?;
    desk.give(&serde_json::json!({"name": name, "copies": copies}));
    match copies {
        0 => desk.say(format!("{name}: nothing waits for a later attempt")),
        copies => desk.say(format!("{name}: {copies} copies are due now")),
    }
    for row in still.iter().filter(|row| row.name == name) {
        let until = row.until.as_deref().map_or_else(|| "it is resumed".to_owned(), str::to_owned);
        desk.say(desk.addressed(format!(
            "{name} stands still until {until} ({}); `mailshot queue resume {}` lets it go",
            row.why,
            shell_argument(name)
        )));
    }
    desk.next(if is_here { "mailshot serve, or mailshot send CAMPAIGN --yes" } else { "mailshot queue top" });
    Ok(Exit::Done)
}

async fn retry_by(owner: &Owner, named: &Named) -> Result<u64, Error> {
    match named {
        Named::Campaign(launch) => owner.retry(launch.id).await,
        Named::Domain(domain) => owner.retry_domain(domain).await,
        Named::Site(domains, launches) => {
            let mut copies = 0;
            for domain in domains {
                copies += owner.retry_domain(domain).await?;
            }
            // what is paused is not due before it is resumed
            for launch in launches.iter().filter(|launch| launch.state == LaunchState::Running) {
                copies += owner.retry(launch.id).await?;
            }
            Ok(copies)
        }
    }
}

async fn drop_copies(desk: &Desk, name: &str, yes: bool) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let whose = match named(&store, name)? {
        Named::Campaign(launch) => Whose::from(launch.id),
        Named::Domain(domain) => domain.into(),
        Named::Site(domains, _) => {
            let named = match domains.iter().take(5).map(Domain::as_str).collect::<Vec<_>>() {
                none if none.is_empty() => String::new(),
                some => format!(" ({})", some.join(", ")),
            };
            return Err(Error::usage(format!("`{name}` is a site: name a campaign or a domain{named}")));
        }
    };
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let done = if yes { owner.drop_copies(&whose).await } else { owner.count(&whose).await };
    let left = owner.leave().await;
    let copies = done?;
    left?;
    desk.give(&serde_json::json!({"name": name, "copies": copies, "dropped": yes}));
    if yes {
        desk.say(format!("{name}: {copies} copies are out of the queue; each is on record as cancelled, or in doubt where an answer was lost"));
        desk.next("mailshot status");
    } else {
        desk.say(format!("{name}: {copies} copies would be taken out of the queue, and end as cancelled, or in doubt where an answer was lost"));
        desk.next(format!("mailshot queue drop --yes {}", shell_argument(name)));
    }
    Ok(Exit::Done)
}

async fn replies(desk: &Desk, forget: bool) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let found = store.unknown_replies()?;
    for row in &found {
        desk.give_one(row);
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
    let Rebuilt { again, held, knows_sites, kept } = rebuild(desk.workspace(), &store, &world).await?;
    desk.give(&serde_json::json!({
        "again": again, "held": held, "rebuilt": true, "knows_sites": knows_sites, "kept": kept
    }));
    desk.say(format!("a new queue: {again} copies will be sent again, {held} are held in doubt"));
    if !knows_sites {
        desk.say("which sites were held, paused or slowed down is not known any more: `mailshot queue suspend SITE` holds one");
    }
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
