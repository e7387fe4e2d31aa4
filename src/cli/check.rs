//! `check`: is this host, this domain and this campaign fit to send?

use clap::Args;
use serde::Serialize;

use crate::base::{Address, Domain, shell_word};
use crate::campaign::Campaign;
use crate::cli::owner::unsigned_reports;
use crate::cli::{Desk, Error, Exit};
use crate::compose::{Edition, Grade, Remark, Template, proof};
use crate::delivery::alert::{Alert, Alerts};
use crate::delivery::doctor::Way;
use crate::delivery::via::Via;
use crate::engine::{examine, examine_relays, lacking, login};
use crate::store::Threads;

/// Members whose fields are looked at.
const LOOKED_AT: usize = 20_000;

/// What to check.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The campaign: a folder below campaigns/. Without one, only the workspace and every domain it has a key for.
    campaign: Option<String>,
    /// As if everything went through this host: then what receivers look up is only warned of.
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// Also tell a trial alert by every way in [alert], and say how each went.
    #[arg(long)]
    alert: bool,
}

/// The answer, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    campaign: Option<String>,
    /// The worst grade of all checks.
    grade: Grade,
    checks: Vec<Remark>,
}

/// Checks, says what to do, and refuses when something must not be sent like this.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let Arguments { campaign: name, via, alert } = arguments;
    let via = via.as_deref().map(Via::parse).transpose().map_err(|why| Error::usage(format!("--via: {why}")))?;
    let relayed = via.is_some() || desk.settings().relays_everything();
    let way = if relayed { Way::Relay } else { Way::Direct };
    let mut checks = workspace(desk);
    checks.extend(reports(desk)?);
    if alert {
        checks.extend(alerts(desk).await?);
    }
    checks.extend(via.as_ref().and_then(|via| login(desk.settings(), via)));
    match &name {
        Some(name) => {
            let campaign = desk.campaign(name)?;
            let edition = campaign.freeze(desk.workspace().folder(), desk.settings())?;
            let template = Template::compile(&edition).map_err(|why| Error::usage(why.to_string()))?;
            checks.push(lists(desk, &campaign)?);
            checks.push(fields(desk, &campaign, &edition, &template)?);
            checks.extend(proof(&edition, &template).remarks);
            checks.extend(domain(desk, &edition, way).await?);
        }
        None => checks.extend(domains(desk, way).await?),
    }
    if via.is_none() && !desk.settings().route.is_empty() {
        checks.extend(examine_relays(desk.workspace(), &desk.world()?).await?);
    }
    let grade = checks.iter().map(|remark| remark.grade).max().unwrap_or(Grade::Ok);
    for remark in &checks {
        show(desk, remark);
    }
    if grade != Grade::Fail {
        desk.next(match &name {
            Some(name) => format!("mailshot render {name} --to you@example.com, then mailshot plan {name}"),
            None => "mailshot check CAMPAIGN".to_owned(),
        });
    }
    desk.give(&Answer { campaign: name, grade, checks });
    Ok(if grade == Grade::Fail { Exit::Refused } else { Exit::Done })
}

fn show(desk: &Desk, remark: &Remark) {
    let word = match remark.grade {
        Grade::Ok => "ok  ",
        Grade::Warn => "warn",
        Grade::Fail => "FAIL",
    };
    desk.say(format!("{word}  {:<15} {}", remark.subject, remark.found));
    if !remark.remedy.is_empty() {
        desk.say(format!("{:<22}→ {}", "", remark.remedy));
    }
}

/// The files of the workspace beside the settings, which have been read by now.
fn workspace(desk: &Desk) -> Vec<Remark> {
    let workspace = desk.workspace();
    let file = |subject, read: Result<(), String>| match read {
        Ok(()) => Remark::ok(subject, "can be used"),
        Err(why) => Remark::fail(subject, why, "mend it: nothing can be sent before"),
    };
    vec![
        file("seal_keys", workspace.seal().map(drop).map_err(|why| why.to_string())),
        file("shaping", workspace.shaping().map(drop).map_err(|why| why.to_string())),
        file("rules", workspace.rules().map(drop).map_err(|why| why.to_string())),
    ]
}

/// What is wrong with reports on TLS, if anything is: they are always signed.
fn reports(desk: &Desk) -> Result<Option<Remark>, Error> {
    let remark = |domain: Domain| {
        let found = format!("reports come from {domain}, and there is no key for it: nothing is sent before");
        Remark::fail("tls_reports", found, format!("`mailshot dkim new {domain}`"))
    };
    Ok(unsigned_reports(desk)?.map(remark))
}

/// Tries every way an alert takes.
async fn alerts(desk: &Desk) -> Result<Vec<Remark>, Error> {
    let alerts = Alerts::new(desk.settings(), &desk.world()?, desk.workspace().keyring()?);
    if !alerts.are_any() {
        let remedy = "set mail, webhook or command in [alert]: a block or a full disk waits for somebody to look";
        return Ok(vec![Remark::warn("alert", "nobody is told of anything", remedy)]);
    }
    let told = alerts.tell(&Alert::trial(desk.now())).await;
    let remark = |(way, done): (String, Result<(), String>)| match done {
        Ok(()) => Remark::ok("alert", format!("{way} was told")),
        Err(why) => Remark::fail("alert", format!("{way}: {why}"), "mend it in [alert]: nobody would be told"),
    };
    Ok(told.into_iter().map(remark).collect())
}

/// Whether there is anybody to send to.
fn lists(desk: &Desk, campaign: &Campaign) -> Result<Remark, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let known = store.lists()?;
    for name in campaign.lists() {
        let word = shell_word(name);
        match known.iter().find(|list| list.name == name) {
            None => {
                let remedy = format!("`mailshot import FILE.csv --list {word}` makes it");
                return Ok(Remark::fail("lists", format!("there is no list `{name}`"), remedy));
            }
            Some(list) if list.subscribed == 0 => {
                let found = format!("nobody is subscribed to `{name}`");
                return Ok(Remark::warn("lists", found, format!("`mailshot import FILE.csv --list {word}`")));
            }
            Some(_) => {}
        }
    }
    if let Err(why) = campaign.meant(&store) {
        let remedy = "`mailshot segment` shows what can be said, and `mailshot lists` the lists";
        return Ok(Remark::fail("segment", why.to_string(), remedy));
    }
    Ok(Remark::ok("lists", campaign.lists().collect::<Vec<_>>().join(", ")))
}

/// Whether the members have the fields that the texts name.
fn fields(desk: &Desk, campaign: &Campaign, edition: &Edition, template: &Template) -> Result<Remark, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let Ok(meant) = campaign.meant(&store) else {
        let remedy = "mend its lists or segment first, which have a line of their own";
        return Ok(Remark::warn("fields", "nobody could be looked at", remedy));
    };
    let found = lacking(&store, &meant, edition, template, LOOKED_AT)?;
    Ok(found.unwrap_or_else(|| Remark::ok("fields", "every member looked at has those that the texts need")))
}

/// The domains of one campaign, and this host.
async fn domain(desk: &Desk, edition: &Edition, way: Way) -> Result<Vec<Remark>, Error> {
    let wrong = |why: crate::base::AddressError| Error::usage(why.to_string());
    let from = Address::parse(&edition.from.address).map_err(wrong)?.domain().clone();
    let bounce = Domain::parse(&edition.bounce_domain).map_err(wrong)?;
    examined(desk, &from, &bounce, way).await
}

/// Every domain with a key.
async fn domains(desk: &Desk, way: Way) -> Result<Vec<Remark>, Error> {
    let records = desk.workspace().keyring()?.records();
    let mut names: Vec<&str> =
        records.iter().filter_map(|record| Some(record.name.split_once("._domainkey.")?.1)).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(vec![Remark::fail("dkim", "there are no keys", "`mailshot dkim new DOMAIN` makes one")]);
    }
    let mut remarks = Vec::new();
    for name in names {
        let from = Domain::parse(name).map_err(|why| Error::usage(why.to_string()))?;
        let bounce = desk.settings().sender.bounce_domain.clone().unwrap_or_else(|| format!("bounce.{from}"));
        let bounce = Domain::parse(&bounce).map_err(|why| Error::usage(format!("sender.bounce_domain: {why}")))?;
        remarks.extend(examined(desk, &from, &bounce, way).await?);
    }
    Ok(remarks)
}

async fn examined(desk: &Desk, from: &Domain, bounce: &Domain, way: Way) -> Result<Vec<Remark>, Error> {
    Ok(examine(desk.workspace(), &desk.world()?, from, bounce, way).await?)
}
