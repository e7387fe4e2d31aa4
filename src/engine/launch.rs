//! From a campaign's files to a launch on record: read, frozen, checked, and only then written. The one way a launch comes
//! about, for campaigns and test copies alike; it needs the workspace and the store, never the queue.

use std::collections::BTreeMap;

use miette::Diagnostic;

use crate::base::{Address, CampaignName, ContactId, Domain, ListId, Rate, Timestamp, bucket};
use crate::campaign::{self, Campaign, ListsError};
use crate::compose::{self, Edition, Grade, Missing, Remark, Template, Urls, proof};
use crate::config::Settings;
use crate::delivery::doctor::{self, Patient, Way};
use crate::delivery::knock;
use crate::delivery::new_domains::{among, names};
use crate::delivery::source::{Sources, host_name};
use crate::delivery::via::{Via, ViaError, ViaTls};
use crate::engine::Workspace;
use crate::mail::Standing;
use crate::sign;
use crate::store::{self, LaunchKind, LaunchOptions, LaunchRow, LaunchState, NewContact, NewLaunch, PlannedRow, Store};
use crate::world::World;

/// Most addresses of one round of test copies.
const TESTS_MAX: usize = 100;

/// Why there is no launch.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum LaunchError {
    /// The campaign's files cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Campaign(#[from] campaign::Error),
    /// The content cannot be compiled.
    #[error(transparent)]
    Template(compose::Error),
    /// A list is not there.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lists(Box<campaign::Error>),
    /// The fixed routes of the settings cannot be used.
    #[error("{0}")]
    Relays(String),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The keys cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Keys(#[from] sign::Error),
    /// `--via` names no host.
    #[error("--via: {0}")]
    Via(ViaError),
    /// `sender.bounce_domain` is no domain.
    #[error("sender.bounce_domain = \"{0}\": that is no domain; write it as in \"bounce.example.com\"")]
    Bounce(String),
    /// The login of `[relay]` cannot be sent on this way.
    #[error("{}; {}", .0.found, .0.remedy)]
    Login(Remark),
    /// `--only-domain` names no domain.
    #[error("--only-domain {0}: that is no domain; write it as in \"example.com\"")]
    OnlyDomain(String),
    /// `--rate` is no rate.
    #[error("--rate: {0}")]
    Rate(String),
    /// The campaign's pool is not in the settings.
    #[error("pool = \"{0}\" in campaign.toml: there is no [[pool]] of this name in mailshot.toml")]
    Pool(String),
    /// `--limit 0`.
    #[error("--limit 0 would send to nobody: write 1 or more")]
    LimitZero,
    /// More test copies than anybody looks at, or none.
    #[error("{0} addresses: a test goes to 1 to {TESTS_MAX} of them")]
    Tests(usize),
    /// A proof of the edition says no.
    #[error("campaign `{campaign}` cannot be sent like this:\n{}", words(remarks))]
    #[diagnostic(help("`mailshot check {campaign}` shows all that was looked at"))]
    Proof {
        /// The campaign.
        campaign: CampaignName,
        /// What must not be sent.
        remarks: Vec<Remark>,
    },
    /// Receivers would refuse what comes from here.
    #[error("this host or domain is not fit to send to the recipients' own hosts:\n{}", words(remarks))]
    #[diagnostic(help(
        "`mailshot check {campaign}` shows all that was looked at; --via sends through a relay instead"
    ))]
    Unfit {
        /// The campaign.
        campaign: CampaignName,
        /// What receivers would hold against it.
        remarks: Vec<Remark>,
    },
    /// Nobody could verify the sender.
    #[error("there is no DKIM key for {0}")]
    #[diagnostic(help(
        "make one with `mailshot dkim new {0}` and publish its record, or set dkim.unsigned = true to send without"
    ))]
    NoKey(Domain),
    /// The campaign was sent, or called back.
    #[error("campaign `{campaign}` {}", match state { LaunchState::Cancelled => "was cancelled", _ => "has been sent" })]
    #[diagnostic(help(
        "a campaign folder is sent once; to send it again copy the folder: cp -r campaigns/{campaign} campaigns/NEWNAME"
    ))]
    Finished {
        /// The campaign.
        campaign: CampaignName,
        /// `Done` or `Cancelled`.
        state: LaunchState,
    },
    /// The campaign is paused.
    #[error("campaign `{0}` is paused")]
    #[diagnostic(help("`mailshot resume {0}` puts it back to work"))]
    Paused(CampaignName),
    /// The files are no longer those of the running launch.
    #[error(
        "campaign `{0}` is running, and its files, a template or the sender's settings were changed since it began"
    )]
    #[diagnostic(help(
        "those who got it have the first version: put it back as it was, or cancel with `mailshot cancel {0}` and send a copy of the folder"
    ))]
    Edited(CampaignName),
    /// A resume asks for something else than the launch.
    #[error("campaign `{campaign}` was launched {recorded}; it cannot go on {asked}")]
    #[diagnostic(help(
        "what was recorded with the launch holds until its end: leave {option} out, or let it and campaign.toml say what is recorded"
    ))]
    Differs {
        /// The campaign.
        campaign: CampaignName,
        /// The option.
        option: &'static str,
        /// As recorded, in words.
        recorded: String,
        /// As asked now, in words.
        asked: String,
    },
}

impl From<ListsError> for LaunchError {
    fn from(error: ListsError) -> LaunchError {
        match error {
            ListsError::Unknown(place) => LaunchError::Lists(place),
            ListsError::Store(why) => LaunchError::Store(why),
        }
    }
}

/// Whose turn it is to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The machine's: disk, files, another process.
    Machine,
    /// The writer's: what was given cannot be read.
    Input,
    /// The sender's: what was given is understood, and refused.
    Refusal,
}

impl LaunchError {
    /// Whose turn it is to act.
    pub fn remedy(&self) -> Remedy {
        let machine_or = |is_failure, other| if is_failure { Remedy::Machine } else { other };
        match self {
            LaunchError::Store(_) => Remedy::Machine,
            LaunchError::Campaign(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Lists(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Keys(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Template(_)
            | LaunchError::Via(_)
            | LaunchError::Bounce(_)
            | LaunchError::Login(_)
            | LaunchError::OnlyDomain(_)
            | LaunchError::Rate(_)
            | LaunchError::Relays(_)
            | LaunchError::Pool(_)
            | LaunchError::LimitZero
            | LaunchError::Tests(_) => Remedy::Input,
            LaunchError::Proof { .. }
            | LaunchError::Unfit { .. }
            | LaunchError::NoKey(_)
            | LaunchError::Finished { .. }
            | LaunchError::Paused(_)
            | LaunchError::Edited(_)
            | LaunchError::Differs { .. } => Remedy::Refusal,
        }
    }
}

/// A campaign that passed every check and may be launched, or go on. Nothing has been written yet.
#[derive(Debug)]
pub struct Ready {
    /// The campaign as its folder has it.
    pub campaign: Campaign,
    /// Its content, frozen.
    pub edition: Edition,
    /// The numbers of its lists.
    pub lists: Vec<ListId>,
    /// How it is sent; for a launch that goes on, as recorded.
    pub options: LaunchOptions,
    /// The launch that goes on.
    pub running: Option<LaunchRow>,
    /// Whom test copies go to, named by hand: a launch of its own. Empty: to the lists.
    pub to: Vec<Address>,
}

impl Ready {
    /// Reads, freezes and checks a campaign.
    pub fn check(
        workspace: &Workspace,
        store: &Store,
        name: &CampaignName,
        options: &LaunchOptions,
    ) -> Result<Ready, LaunchError> {
        let options = plain(options)?;
        let before = store.launch_of(name)?;
        if let Some(launch) = &before {
            may_go_on(launch, &options)?;
        }
        let campaign = workspace.campaign(name)?;
        let own = campaign.rate().map(str::to_owned);
        let (rate, own_rate) = match &options.rate {
            Some(typed) => (Some(typed.clone()), own),
            None => (own, None),
        };
        let pool = campaign.pool().map(str::to_owned);
        may_use_pool(workspace, pool.as_deref())?;
        let is_warming = is_warming(workspace, pool.as_deref()) || shows_new_domains(workspace, &campaign);
        let engaged_first = options.via.is_none() && is_warming;
        let is_typed = options.rate.is_some();
        let options = plain(&LaunchOptions { rate, own_rate, pool, engaged_first, ..options })?;
        if let Some(launch) = &before {
            // a rate that was typed at the launch goes on holding over what the campaign says
            let is_overruled = !is_typed && options.rate == launch.options.own_rate;
            let rate = options.rate.clone().filter(|_| !is_overruled);
            may_go_on(launch, &LaunchOptions { rate, ..options.clone() })?;
        }
        let lists = campaign.list_ids(store)?;
        let edition = campaign.freeze(workspace.folder(), workspace.settings())?;
        may_be_sent(workspace, &campaign, &edition)?;
        if before.is_none() {
            may_be_printed(store, &campaign, &lists, &edition)?;
        }
        may_log_in(workspace, before.as_ref().map_or(&options, |launch| &launch.options))?;
        match before {
            Some(launch) => {
                let frozen = store.edition(launch.edition)?;
                if frozen.is_none_or(|frozen| frozen.hash != edition.hash()) {
                    return Err(LaunchError::Edited(name.clone()));
                }
                let options = launch.options.clone();
                Ok(Ready { campaign, edition, lists, options, running: Some(launch), to: Vec::new() })
            }
            None => Ok(Ready { campaign, edition, lists, options, running: None, to: Vec::new() }),
        }
    }

    /// Reads, freezes and checks a campaign for a round of test copies.
    pub fn check_test(
        workspace: &Workspace,
        name: &CampaignName,
        to: Vec<Address>,
        via: Option<String>,
    ) -> Result<Ready, LaunchError> {
        if to.is_empty() || to.len() > TESTS_MAX {
            return Err(LaunchError::Tests(to.len()));
        }
        let options = plain(&LaunchOptions { via, ..LaunchOptions::default() })?;
        let campaign = workspace.campaign(name)?;
        let edition = campaign.freeze(workspace.folder(), workspace.settings())?;
        may_be_sent(workspace, &campaign, &edition)?;
        may_log_in(workspace, &options)?;
        Ok(Ready { campaign, edition, lists: Vec::new(), options, running: None, to })
    }

    /// Refuses a new launch that goes to the recipients' own hosts while the name service says that they would not take
    /// it. What goes through a relay, or within a private network, is not looked up.
    pub async fn examine(&self, workspace: &Workspace, world: &World) -> Result<(), LaunchError> {
        match (&self.running, &self.options.via) {
            (None, None) => may_go_direct(workspace, world, &self.campaign, &self.edition).await,
            (Some(_), _) | (_, Some(_)) => Ok(()),
        }
    }

    /// Puts the launch on record, or finds the one that goes on.
    pub async fn launch(self, store: &Store, now: Timestamp) -> Result<LaunchRow, LaunchError> {
        let Ready { campaign, edition, lists, options, running, to } = self;
        if let Some(running) = running {
            return Ok(running);
        }
        let rows = planned(to, store, now).await?;
        let kind = if rows.is_empty() { LaunchKind::Campaign } else { LaunchKind::Test };
        let edition = store.put_edition(edition.hash(), campaign.name(), edition.to_bytes(), now).await?;
        let (campaign, in_doubt) = (campaign.name().clone(), campaign.in_doubt());
        let new = NewLaunch { campaign, kind, edition, in_doubt, options, lists };
        let id = match rows.is_empty() {
            true => store.create_launch(new, now).await?,
            // at once: a planner that finds the launch admits what is on record of it
            false => store.create_launch_to(new, rows, now).await?,
        };
        Ok(store.launch(id)?.expect("a launch just recorded is there"))
    }
}

/// The contacts that these addresses are. Those that are none yet become contacts of no list.
async fn planned(to: Vec<Address>, store: &Store, now: Timestamp) -> Result<Vec<PlannedRow>, store::Error> {
    let mut rows = Vec::new();
    for address in to {
        let domain = address.domain().clone();
        let (name, fields) = (String::new(), serde_json::Map::new());
        let contact = NewContact { bucket: bucket(&domain), address, name, fields };
        let contact = store.make_contact(contact, now).await?;
        rows.push(PlannedRow { contact, standing: Standing::Waiting, barred: None, site: domain.as_str().into() });
    }
    Ok(rows)
}

/// Recipients whose fields are looked at before a launch.
const LOOKED_AT: usize = 500;

/// Whether the members of these lists have the fields that the template needs, by printing for the first `most` of them;
/// `None` when all have. Fails when nobody could get a copy.
pub fn lacking(
    store: &Store,
    lists: &[ListId],
    edition: &Edition,
    template: &Template,
    most: usize,
) -> Result<Option<Remark>, store::Error> {
    let mut lacks: BTreeMap<String, u64> = BTreeMap::new();
    let (mut seen, mut unprinted) = (0_u64, 0_u64);
    let page = || "https://example.com/x".to_owned();
    let urls = Urls {
        unsubscribe: page(),
        preferences: page(),
        view: page(),
        confirm: page(),
        pixel: page(),
        clicks: Vec::new(),
    };
    for list in lists {
        let mut after = ContactId(0);
        while seen < most as u64 {
            let page = store.contacts(Some(*list), after, most.min(1000))?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for row in page.iter().take(most - seen as usize) {
                let Some(recipient) = store.recipient(row.id)? else { continue };
                seen += 1;
                if let Err(why) = template.words(&recipient, &urls) {
                    unprinted += 1;
                    *lacks.entry(why.to_string()).or_default() += 1;
                }
            }
        }
    }
    let Some((why, _)) = lacks.iter().max_by_key(|(_, count)| **count) else { return Ok(None) };
    let found = format!("{unprinted} of {seen} members looked at cannot get a copy; most often: {why}");
    let remedy = "import it, write {{default FIELD \"…\"}}, or say what is done with missing = in campaign.toml";
    let grade = match edition.missing {
        Missing::Error | Missing::Skip if unprinted == seen => Grade::Fail,
        Missing::Error | Missing::Skip | Missing::Default => Grade::Warn,
    };
    Ok(Some(Remark { grade, ..Remark::warn("fields", found, remedy) }))
}

/// What no message may lack: everything a proof refuses, a signature, and a sealed return path.
fn may_be_sent(workspace: &Workspace, campaign: &Campaign, edition: &Edition) -> Result<(), LaunchError> {
    let template = Template::compile(edition).map_err(LaunchError::Template)?;
    let remarks: Vec<Remark> = proof(edition, &template).of(Grade::Fail).cloned().collect();
    if !remarks.is_empty() {
        return Err(LaunchError::Proof { campaign: campaign.name().clone(), remarks });
    }
    let domain = campaign.from_domain();
    if !workspace.settings().dkim.unsigned && !workspace.keyring()?.has_key(domain) {
        return Err(LaunchError::NoKey(domain.clone()));
    }
    workspace.seal()?;
    workspace.relays().map_err(|why| LaunchError::Relays(why.to_string()))?;
    Ok(())
}

/// A pool is one of the settings.
fn may_use_pool(workspace: &Workspace, pool: Option<&str>) -> Result<(), LaunchError> {
    match pool.filter(|name| !workspace.settings().pool.iter().any(|pool| pool.name == *name)) {
        Some(unknown) => Err(LaunchError::Pool(unknown.to_owned())),
        None => Ok(()),
    }
}

/// A letter that nobody could get is not launched.
fn may_be_printed(store: &Store, campaign: &Campaign, lists: &[ListId], edition: &Edition) -> Result<(), LaunchError> {
    let template = Template::compile(edition).map_err(LaunchError::Template)?;
    let remark = lacking(store, lists, edition, &template, LOOKED_AT)?;
    match remark.filter(|remark| remark.grade == Grade::Fail) {
        Some(remark) => Err(LaunchError::Proof { campaign: campaign.name().clone(), remarks: vec![remark] }),
        None => Ok(()),
    }
}

/// Whether a source that this goes out from is not known everywhere yet.
fn is_warming(workspace: &Workspace, pool: Option<&str>) -> bool {
    let settings = workspace.settings();
    let shares = pool.and_then(|name| settings.pool.iter().find(|pool| pool.name == name)).map(|pool| &pool.sources);
    let is_in = |name: &str| shares.is_none_or(|shares| shares.iter().any(|share| share.name == name));
    settings.source.iter().any(|source| source.warmup.is_some() && is_in(&source.name))
}

/// Whether a domain that the campaign shows is one that providers have not met yet.
fn shows_new_domains(workspace: &Workspace, campaign: &Campaign) -> bool {
    let (settings, from) = (workspace.settings(), campaign.from_domain());
    let bounce = settings.sender.bounce_domain.clone().unwrap_or_else(|| format!("bounce.{from}"));
    !among(&settings.warmup.domains, &names(Some(from), &bounce, &settings.links.base_url)).is_empty()
}

/// A login that would never be sent must not be waited for.
fn may_log_in(workspace: &Workspace, options: &LaunchOptions) -> Result<(), LaunchError> {
    let via = options.via.as_deref().map(Via::parse).transpose().map_err(LaunchError::Via)?;
    let remark = via.and_then(|via| login(workspace.settings(), &via));
    remark.filter(|remark| remark.grade == Grade::Fail).map_or(Ok(()), |remark| Err(LaunchError::Login(remark)))
}

/// Whether the login that the settings have can be sent to a relay; `None` when there is none.
pub fn login(settings: &Settings, via: &Via) -> Option<Remark> {
    let user = settings.relay.user.as_deref()?;
    let subject = "relay_login";
    let has_secret = settings.relay.password.is_some() || settings.relay.token_file.is_some();
    Some(match (has_secret, via.tls) {
        (false, _) => Remark::fail(
            subject,
            format!("[relay] user = \"{user}\" has neither a password nor a token"),
            "name a file that holds it with password_file or token_file, or set MAILSHOT_RELAY__PASSWORD in the environment",
        ),
        (true, ViaTls::Opportunistic) => Remark::fail(
            subject,
            format!("[relay] user = \"{user}\" is never sent to {via}: whoever answers there proves no name"),
            "write smtp+starttls://HOST:PORT or smtps://HOST:PORT, or take user out of [relay]",
        ),
        (true, ViaTls::StartTls | ViaTls::Implicit) => Remark::ok(subject, format!("as {user}, inside verified TLS")),
    })
}

/// What receivers look up must be there before mail goes to their hosts directly.
async fn may_go_direct(
    workspace: &Workspace,
    world: &World,
    campaign: &Campaign,
    edition: &Edition,
) -> Result<(), LaunchError> {
    if workspace.settings().allow_private || workspace.settings().relays_everything() {
        return Ok(());
    }
    let bounce =
        Domain::parse(&edition.bounce_domain).map_err(|_| LaunchError::Bounce(edition.bounce_domain.clone()))?;
    let mut remarks = examine(workspace, world, campaign.from_domain(), &bounce, Way::Direct).await?;
    remarks.retain(|remark| remark.grade == Grade::Fail);
    match remarks.is_empty() {
        true => Ok(()),
        false => Err(LaunchError::Unfit { campaign: campaign.name().clone(), remarks }),
    }
}

/// Examines this host and a From domain of the workspace.
pub async fn examine(
    workspace: &Workspace,
    world: &World,
    from: &Domain,
    bounce: &Domain,
    way: Way,
) -> Result<Vec<Remark>, sign::Error> {
    let settings = workspace.settings();
    let sources = Sources::unnumbered(settings, &host_name());
    let keyring = workspace.keyring()?;
    let (unsigned, private) = (settings.dkim.unsigned, settings.allow_private);
    let has_own_resolver = !settings.resolver.is_empty();
    let patient =
        Patient { from, bounce, sources: &sources, keyring: &keyring, unsigned, private, way, has_own_resolver };
    Ok(doctor::examine(world, &patient).await)
}

/// Whether the relays of the fixed routes let us in.
pub async fn examine_relays(workspace: &Workspace, world: &World) -> Result<Vec<Remark>, super::workspace::Error> {
    let (settings, relays, shaping) = (workspace.settings(), workspace.relays()?, workspace.shaping()?);
    let sources = Sources::unnumbered(settings, &host_name());
    let Some(source) = sources.iter().next() else { return Ok(Vec::new()) };
    Ok(knock::examine_relays(world, settings, &relays, &shaping, source).await)
}

/// What was found, and what to do, a line each.
fn words(remarks: &[Remark]) -> String {
    let line = |remark: &Remark| format!("  {}: {}; {}", remark.subject, remark.found, remark.remedy);
    remarks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The options in the one form in which they are recorded and compared.
fn plain(options: &LaunchOptions) -> Result<LaunchOptions, LaunchError> {
    let via = options.via.as_deref().map(|via| Via::parse(via).map(|via| via.to_string()));
    let only_domain = options.only_domain.as_deref().map(|text| {
        let wrong = |_| LaunchError::OnlyDomain(text.to_owned());
        Domain::parse(text).map(|domain| domain.as_str().to_owned()).map_err(wrong)
    });
    let rate = |text: &Option<String>| {
        let rate = text.as_deref().map(Rate::parse).transpose();
        rate.map(|rate| rate.map(|rate| rate.to_string())).map_err(|why| LaunchError::Rate(why.to_string()))
    };
    if options.limit == Some(0) {
        return Err(LaunchError::LimitZero);
    }
    Ok(LaunchOptions {
        via: via.transpose().map_err(LaunchError::Via)?,
        limit: options.limit,
        only_domain: only_domain.transpose()?,
        rate: rate(&options.rate)?,
        own_rate: rate(&options.own_rate)?,
        pool: options.pool.clone(),
        engaged_first: options.engaged_first,
    })
}

/// Whether a launch on record may go on as asked. An option that is not named stays as recorded.
fn may_go_on(launch: &LaunchRow, asked: &LaunchOptions) -> Result<(), LaunchError> {
    let campaign = || launch.campaign.clone();
    match launch.state {
        LaunchState::Running => {}
        LaunchState::Paused => return Err(LaunchError::Paused(campaign())),
        state @ (LaunchState::Done | LaunchState::Cancelled) => {
            return Err(LaunchError::Finished { campaign: campaign(), state });
        }
    }
    let recorded = &launch.options;
    let limits = (recorded.limit.map(|most| most.to_string()), asked.limit.map(|most| most.to_string()));
    for (option, recorded, asked) in [
        ("--via", &recorded.via, &asked.via),
        ("--limit", &limits.0, &limits.1),
        ("--only-domain", &recorded.only_domain, &asked.only_domain),
        ("--rate", &recorded.rate, &asked.rate),
        ("pool", &recorded.pool, &asked.pool),
    ] {
        if asked.is_some() && asked != recorded {
            let words = |value: &Option<String>| match value {
                Some(value) => format!("with {option} {value}"),
                None => format!("without {option}"),
            };
            let (recorded, asked) = (words(recorded), words(asked));
            return Err(LaunchError::Differs { campaign: campaign(), option, recorded, asked });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_login_that_would_never_be_sent_is_refused_before_the_launch() {
        let mut settings = Settings::default();
        let grade =
            |settings: &Settings, via: &str| login(settings, &Via::parse(via).unwrap()).map(|remark| remark.grade);
        assert_eq!(grade(&settings, "smtp://127.0.0.1:25"), None);
        settings.relay.user = Some("ada".into());
        assert_eq!(grade(&settings, "smtps://mail.example.com"), Some(Grade::Fail), "no password");
        settings.relay.password = Some(Secret::new("x".into()));
        assert_eq!(grade(&settings, "smtps://mail.example.com"), Some(Grade::Ok));
        assert_eq!(grade(&settings, "smtp+starttls://mail.example.com"), Some(Grade::Ok));
        assert_eq!(grade(&settings, "smtp://127.0.0.1:25"), Some(Grade::Fail), "in clear");
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::with(folder.path(), settings);
        let options = LaunchOptions { via: Some("smtp://127.0.0.1:25".into()), ..LaunchOptions::default() };
        let refused = may_log_in(&workspace, &options).unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Input);
        assert!(refused.to_string().contains("smtp+starttls://"), "{refused}");
    }
}
