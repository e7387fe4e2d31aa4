//! `queue explain`: what holds the mail of an address, a campaign, a domain or a site back now. The limits are read from
//! the tables that enforce them, the present state from whoever sends.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use crate::base::{Address, CampaignName, Domain, EnvelopeId, Live, shell_argument};
use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::config::shaping::SiteShape;
use crate::delivery::route::Router;
use crate::delivery::sites::as_domain;
use crate::delivery::source::{Sources, host_name};
use crate::delivery::via::Via;
use crate::engine::{CopyView, Crew, DomainView, QueueView, SiteView, StallView, StillView};
use crate::mail::{Class, Standing};
use crate::store::{LaunchRow, LaunchState, MembershipStatus, Store, Threads};

/// How long the way of a domain is looked for.
const LOOKUP_TAKES: Duration = Duration::from_secs(5);
/// Sites of a campaign that are explained one by one.
const SITES_MAX: usize = 10;
/// Why somebody is not planned yet.
const UNPLANNED: &str = "those at full buckets wait until copies before them are settled (queue.max_waiting)";
/// Limits shown to a person; `--json` has all.
const SHOWN: [&str; 6] = [
    "connection_limit",
    "connection_start",
    "max_deliveries_per_connection",
    "max_message_rate",
    "max_connection_rate",
    "tls",
];

/// The answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Explained {
    name: String,
    kind: Kind,
    /// What holds its mail back now; none: only the hosts' own speed.
    holds: Vec<Hold>,
    /// An address's copies of campaigns under way.
    copies: Vec<Copy>,
    /// Why copies of campaigns under way wait for another attempt there, by class.
    deferred: Vec<Deferred>,
    /// What is on the road to its domain.
    domain: Option<DomainView>,
    sites: Vec<Site>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Address,
    Campaign,
    Domain,
    Site,
}

/// One thing that holds mail back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Hold {
    /// What.
    what: String,
    /// Since when; null: not known.
    since: Option<String>,
    /// Until when; null: until a person or something else changes it.
    until: Option<String>,
    /// Why, and what lets it go.
    why: String,
}

/// A copy of a campaign under way.
#[derive(Debug, Serialize)]
struct Copy {
    campaign: CampaignName,
    standing: Standing,
    /// Since when it stands so.
    since: String,
    /// What was said last.
    text: String,
    /// As the queue has it; null: it is not planned into it yet.
    queue: Option<CopyView>,
}

/// Copies of a campaign that wait for another attempt at a site, for one reason.
#[derive(Debug, Serialize)]
struct Deferred {
    campaign: CampaignName,
    site: String,
    copies: u64,
    class: Class,
    /// When the last of them was put off.
    last: String,
}

/// A site from one source: how it stands, and its limits with where each comes from.
#[derive(Debug, Serialize)]
struct Site {
    site: String,
    source: String,
    /// Null while nothing is sent there.
    now: Option<SiteView>,
    /// Copies a second that the limits allow at most, whatever the hosts' speed; null: nothing bounds it.
    ceiling: Option<f64>,
    limits: Vec<Limit>,
}

#[derive(Debug, Serialize)]
struct Limit {
    key: &'static str,
    value: String,
    from: String,
}

/// Explains whatever the name stands for.
pub async fn run(desk: &Desk, name: &str) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let owner = Owner::reach(desk, &store, Crew::Keeping).await?;
    let found = explain(desk, &store, &owner, name).await;
    let left = owner.leave().await;
    let found = found?;
    left?;
    desk.give(&found);
    show(desk, &found);
    Ok(Exit::Done)
}

async fn explain(desk: &Desk, store: &Store, owner: &Owner, name: &str) -> Result<Explained, Error> {
    let sources = Sources::unnumbered(desk.settings(), &host_name());
    let case = Case { desk, store, owner, view: owner.queue().await?, sources };
    if name.contains('@') && Via::parse(name).is_err() {
        let address = Address::parse(name).map_err(|why| Error::usage(why.to_string()))?;
        return case.address(&address).await;
    }
    if let Some(campaign) = CampaignName::parse(name)
        && let Some(launch) = store.launch_of(&campaign)?
    {
        return case.campaign(&launch).await;
    }
    match as_domain(name) {
        Some(domain) if !case.is_site(name)? => case.domain(&domain, Kind::Domain).await,
        _ => case.site(name),
    }
}

/// What is known when something is to be explained.
struct Case<'a> {
    desk: &'a Desk,
    store: &'a Store,
    owner: &'a Owner,
    view: QueueView,
    sources: Sources,
}

impl Case<'_> {
    /// Whether a name with a dot is known as a site's, served or standing still or taking the mail of other domains.
    fn is_site(&self, name: &str) -> Result<bool, Error> {
        Ok(self.view.sites.iter().any(|row| row.site == name)
            || self.view.still.iter().any(|row| row.name == name && row.source.is_some())
            || self.store.domains_at(name)?.iter().any(|domain| domain != name)
            || Via::parse(name).is_ok())
    }

    async fn address(&self, address: &Address) -> Result<Explained, Error> {
        let text = address.to_string();
        let Some(contact) = self.store.contact(&text)? else {
            return Err(Error::usage(format!("{text} is no contact; `mailshot contacts` lists those there are")));
        };
        let mut holds = Vec::new();
        if let Some(bar) = self.store.suppression(&text)? {
            holds.push(Hold {
                what: "the address is suppressed".to_owned(),
                since: Some(bar.since.rfc3339()),
                until: None,
                why: format!(
                    "{} {}; `mailshot suppress remove --why TEXT {}` lifts it",
                    bar.reason.word(),
                    bar.detail,
                    shell_argument(&text)
                ),
            });
        }
        for row in self.store.memberships(contact.id)? {
            if row.status != MembershipStatus::Subscribed {
                holds.push(Hold {
                    what: format!("not subscribed to `{}`", row.list),
                    since: Some(row.since.rfc3339()),
                    until: None,
                    why: "whoever left a list gets nothing of it".to_owned(),
                });
            }
        }
        let mut copies = Vec::new();
        for launch in self.store.open_launches()? {
            let id = EnvelopeId::new(launch.id, contact.id);
            let Some(row) = self.store.copy(id)? else {
                if !launch.planned && launch.state == LaunchState::Running {
                    holds.push(standing(
                        format!("its copy of `{}` is not planned yet", launch.campaign),
                        UNPLANNED.to_owned(),
                    ));
                }
                continue;
            };
            let is_final = !matches!(row.standing, Standing::Waiting | Standing::Deferred | Standing::InDoubt);
            let queue = if is_final || self.is_stalled() { None } else { self.owner.copy(id).await? };
            if let Some(place) = queue.as_ref().filter(|place| place.due > self.desk.now().rfc3339()) {
                holds.push(Hold {
                    what: format!("its copy of `{}` is due later", launch.campaign),
                    since: Some(row.at.rfc3339()),
                    until: Some(place.due.clone()),
                    why: row.text.clone(),
                });
            }
            holds.extend(state(&launch).filter(|_| !is_final));
            let (campaign, since) = (launch.campaign.clone(), row.at.rfc3339());
            copies.push(Copy { campaign, standing: row.standing, since, text: row.text, queue });
        }
        let mut found = self.domain(address.domain(), Kind::Address).await?;
        holds.append(&mut found.holds);
        Ok(Explained { name: text, holds, copies, ..found })
    }

    async fn campaign(&self, launch: &LaunchRow) -> Result<Explained, Error> {
        let mut holds: Vec<Hold> = state(launch).into_iter().collect();
        holds.extend(self.idle());
        if let Some(rate) = &launch.options.rate {
            holds.push(standing(format!("the campaign's own rate, {rate}"), "recorded with the launch".to_owned()));
        }
        if !launch.planned && launch.state == LaunchState::Running {
            holds.push(standing("not everybody is planned yet".to_owned(), UNPLANNED.to_owned()));
        }
        let mut names: BTreeSet<String> = BTreeSet::new();
        match &launch.options.via {
            Some(via) => names.extend([via.clone()]),
            None => {
                let open = |standing| matches!(standing, Standing::Waiting | Standing::Deferred);
                let mut figures = self.store.figures(launch.id)?;
                figures.retain(|figure| open(figure.standing));
                figures.sort_by_key(|figure| std::cmp::Reverse(figure.copies));
                for figure in figures.iter().take(SITES_MAX) {
                    names.insert(self.site_now(figure.standing, &figure.site).await?);
                }
            }
        }
        let domains = self.held_domains().await?;
        holds.extend(self.still(|row| names.contains(&row.name) || domains.contains(&row.name)));
        let mut sites = Vec::new();
        for name in &names {
            sites.extend(self.sites(name)?);
        }
        let (name, copies) = (launch.campaign.to_string(), Vec::new());
        let deferred = self.deferred(std::slice::from_ref(launch), |_| true)?;
        Ok(Explained { name, kind: Kind::Campaign, holds, copies, deferred, domain: None, sites })
    }

    /// The domains that a person holds, and that have copies on the road.
    async fn held_domains(&self) -> Result<BTreeSet<String>, Error> {
        let mut found = BTreeSet::new();
        for domain in self.view.still.iter().filter_map(StillView::domain) {
            if self.owner.domain(&domain).await?.is_some() {
                found.insert(domain.as_str().to_owned());
            }
        }
        Ok(found)
    }

    /// The site that copies are counted under: those never tried stand under their domain until their way is found.
    async fn site_now(&self, standing: Standing, site: &str) -> Result<String, Error> {
        let domain = Domain::parse(site).ok().filter(|_| standing == Standing::Waiting);
        let found = match domain {
            Some(domain) if !self.view.sites.iter().any(|row| row.site == site) => self.site_of(&domain).await?,
            Some(_) | None => None,
        };
        Ok(found.unwrap_or_else(|| site.to_owned()))
    }

    async fn domain(&self, domain: &Domain, kind: Kind) -> Result<Explained, Error> {
        let view = if self.is_stalled() { None } else { self.owner.domain(domain).await? };
        let mut holds = self.idle();
        let now = self.desk.now().rfc3339();
        if let Some(next) = view.as_ref().and_then(|view| view.next.clone()).filter(|next| *next > now) {
            let why = "its copies wait for another attempt, or for its site".to_owned();
            holds.push(Hold { what: format!("nothing for {domain} is due"), since: None, until: Some(next), why });
        }
        if view.is_none() && kind == Kind::Domain && !self.is_stalled() {
            let why = "no copy for it waits in the queue".to_owned();
            holds.push(standing(format!("nothing for {domain} is on the road"), why));
        }
        let mut names: BTreeSet<String> =
            self.store.open_launches()?.into_iter().filter_map(|launch| launch.options.via).collect();
        names.extend(self.site_of(domain).await?);
        holds.extend(self.still(|row| row.domain().as_ref() == Some(domain) || names.contains(&row.name)));
        let mut sites = Vec::new();
        for name in &names {
            sites.extend(self.sites(name)?);
        }
        let is_meant = |site: &str| site == domain.as_str() || names.contains(site);
        let (name, copies) = (domain.to_string(), Vec::new());
        let deferred = self.deferred(&self.store.open_launches()?, is_meant)?;
        Ok(Explained { name, kind, holds, copies, deferred, domain: view, sites })
    }

    fn site(&self, name: &str) -> Result<Explained, Error> {
        let name = Via::parse(name).map_or_else(|_| name.to_owned(), |via| via.to_string());
        let mut holds = self.idle();
        holds.extend(self.still(|row| row.name == name));
        let sites = self.sites(&name)?;
        let deferred = self.deferred(&self.store.open_launches()?, |site| site == name)?;
        Ok(Explained { name, kind: Kind::Site, holds, copies: Vec::new(), deferred, domain: None, sites })
    }

    /// Why copies of these launches wait for another attempt at the sites meant, the most frequent reason first.
    fn deferred(&self, launches: &[LaunchRow], is_meant: impl Fn(&str) -> bool) -> Result<Vec<Deferred>, Error> {
        let mut found = Vec::new();
        for launch in launches {
            for figure in self.store.figures(launch.id)? {
                let Some(class) = figure.class.filter(|_| figure.standing == Standing::Deferred) else { continue };
                if figure.copies > 0 && is_meant(&figure.site) {
                    let (campaign, site) = (launch.campaign.clone(), figure.site.to_string());
                    found.push(Deferred { campaign, site, copies: figure.copies, class, last: figure.last.rfc3339() });
                }
            }
        }
        found.sort_by_key(|row| std::cmp::Reverse(row.copies));
        Ok(found)
    }

    /// The site of a domain, when its way is found in time.
    async fn site_of(&self, domain: &Domain) -> Result<Option<String>, Error> {
        let workspace = self.desk.workspace();
        let (shaping, port) = (Live::new(workspace.shaping()?), self.desk.settings().smtp_port);
        let router = Router::new(&self.desk.world()?, shaping, port).with_relays(workspace.relays()?);
        let found = tokio::time::timeout(LOOKUP_TAKES, router.route(domain)).await;
        Ok(found.ok().and_then(Result::ok).map(|route| route.site.to_string()))
    }

    /// A site from each source: a relay from the first one only, as it is sent to.
    fn sites(&self, name: &str) -> Result<Vec<Site>, Error> {
        let shaping = self.desk.workspace().shaping()?;
        let is_relay = Via::parse(name).is_ok();
        let row = |source: &str| {
            let shape = match is_relay {
                true => shaping.relay(self.desk.settings()),
                false => shaping.shape(name, source),
            };
            let now = self.view.sites.iter().find(|row| row.site == name && row.source == source).cloned();
            Site {
                site: name.to_owned(),
                source: source.to_owned(),
                now,
                ceiling: shape.ceiling(),
                limits: limits(&shape),
            }
        };
        let most = if is_relay { 1 } else { usize::MAX };
        Ok(self.sources.iter().take(most).map(|source| row(&source.name)).collect())
    }

    fn still(&self, is_meant: impl Fn(&StillView) -> bool) -> Vec<Hold> {
        let hold = |row: &StillView| {
            let from = row.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
            let why = match row.held {
                true => format!("{}; `mailshot queue resume {}` lets it go", row.why, shell_argument(&row.name)),
                false => row.why.clone(),
            };
            let what = format!("{} {}{from}", row.name, if row.held { "is held" } else { "rests" });
            Hold { what, since: row.since.clone(), until: row.until.clone(), why }
        };
        self.view.still.iter().filter(|row| is_meant(row)).map(hold).collect()
    }

    /// What holds up everything: nobody sends, or whoever does waits for a disk.
    fn idle(&self) -> Vec<Hold> {
        let stall = |found: &StallView| {
            let (what, since) = ("nothing goes on".to_owned(), Some(found.since.clone()));
            Hold { what, since, until: None, why: format!("{}. It goes on by itself once that is mended", found.why) }
        };
        let mut holds: Vec<Hold> = self.view.stalled.iter().map(stall).collect();
        if let Owner::Here(_) = self.owner {
            let why = "`mailshot serve`, or `mailshot send CAMPAIGN --yes`, goes on".to_owned();
            holds.push(standing("nobody is sending".to_owned(), why));
        }
        holds
    }

    /// A queue that waits for its disk answers nobody.
    fn is_stalled(&self) -> bool {
        !self.view.stalled.is_empty()
    }
}

fn standing(what: String, why: String) -> Hold {
    Hold { what, since: None, until: None, why }
}

/// What the state of a launch holds back.
fn state(launch: &LaunchRow) -> Option<Hold> {
    let LaunchRow { campaign, state, .. } = launch;
    let hold = |what: &str, why: String| Some(standing(format!("the campaign `{campaign}` {what}"), why));
    match state {
        LaunchState::Running => None,
        LaunchState::Paused => hold("is paused", format!("`mailshot resume {campaign}` puts it back to work")),
        LaunchState::Cancelled => hold("was cancelled", "what was not sent never will be".to_owned()),
        LaunchState::Done => hold("is finished", "every copy is final".to_owned()),
    }
}

fn limits(shape: &SiteShape) -> Vec<Limit> {
    let uncapped = u32::MAX.to_string();
    let limit = |(key, value, from): (&'static str, String, &str)| {
        let value = if value == uncapped { "none".to_owned() } else { value };
        Limit { key, value, from: from.to_owned() }
    };
    shape.explain().into_iter().map(limit).collect()
}

fn show(desk: &Desk, found: &Explained) {
    desk.say(&found.name);
    let is_final = |copy: &Copy| copy.queue.is_none() && copy.standing != Standing::Waiting;
    let is_over = found.kind == Kind::Address && found.copies.iter().all(is_final);
    if found.holds.is_empty() && !is_over {
        desk.say("  nothing holds it back but the hosts' own speed, and the limits below");
    }
    for Hold { what, since, until, why } in &found.holds {
        let since = since.as_ref().map(|since| format!(", since {since}")).unwrap_or_default();
        let until = until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
        desk.say(desk.addressed(format!("  {what}{since}{until}: {why}")));
    }
    for Copy { campaign, standing, since, text, queue } in &found.copies {
        let due = match queue {
            None if matches!(standing, Standing::Waiting | Standing::Deferred) => "; not in the queue".to_owned(),
            None => String::new(),
            Some(place) if place.leased => "; in the hands of a connection".to_owned(),
            Some(CopyView { due, expires: None, .. }) => format!("; due {due}, not tried yet"),
            Some(CopyView { due, tries, expires: Some(expires), .. }) => {
                format!("; due {due}, {tries} tries, given up {expires}")
            }
        };
        desk.say(format!("  copy of {campaign}: {} since {since}{due}{}", standing.word(), said(text)));
    }
    for Deferred { campaign, site, copies, class, last } in found.deferred.iter().take(SITES_MAX) {
        let (word, about) = (class.word(), class.about());
        desk.say(format!("  {copies} of {campaign} put off at {site}, last {last}: {word}, {about}"));
    }
    if let Some(DomainView { domain, waiting, leased, next }) = &found.domain {
        let next = next.as_deref().unwrap_or("now");
        desk.say(format!("  {domain}: {waiting} copies waiting, {leased} in the hands of connections, next {next}"));
    }
    for site in &found.sites {
        show_site(desk, site);
    }
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; it said: {text}") }
}

fn show_site(desk: &Desk, site: &Site) {
    desk.say(format!("\n{} from {}", site.site, site.source));
    match &site.now {
        None => desk.say("  nothing is sent there now"),
        Some(now) => {
            let allowed = now.rate_allowed.map_or("no limit".to_owned(), |most| format!("{most:.1} allowed"));
            desk.say(format!(
                "  {} of {} useful connections, {} copies in hand",
                now.connections, now.window, now.leased
            ));
            desk.say(format!("  {:.1} copies a second, {allowed}", now.rate_now));
            let binds = now.binds.as_deref().unwrap_or("nothing but the hosts' own speed");
            desk.say(format!("  held back by: {binds}"));
            if let Some(day) = now.warmup.as_ref().filter(|day| day.as_str() != binds) {
                desk.say(format!("  {day}"));
            }
            if let Some(reply) = &now.last_reply {
                desk.say(format!("  it said last: {reply}"));
            }
        }
    }
    let ceiling = site.ceiling.map_or("no ceiling".to_owned(), |most| format!("at most {most:.1} copies a second"));
    desk.say(format!("  by its limits {ceiling}:"));
    for Limit { key, value, from } in site.limits.iter().filter(|limit| SHOWN.contains(&limit.key)) {
        desk.say(format!("    {key:<30} {value:<12} {from}"));
    }
}
