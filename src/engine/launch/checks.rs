//! What must hold before a launch: of the options, the content, the login, and of what receivers look up.

use std::collections::BTreeMap;

use super::LaunchError;
use crate::base::{ContactId, Domain, Timestamp};
use crate::campaign::Campaign;
use crate::compose::{Edition, Grade, Missing, Remark, Template, Urls, proof};
use crate::config::Settings;
use crate::delivery::doctor::{self, Patient, Way};
use crate::delivery::knock;
use crate::delivery::new_domains::{among, names};
use crate::delivery::source::{Sources, host_name};
use crate::delivery::via::{Via, ViaTls};
use crate::engine::{Workspace, WorkspaceError};
use crate::sign;
use crate::store::{self, LaunchOptions, LaunchRow, LaunchState, Meant, Store};
use crate::world::World;

/// Whether a launch on record may go on as asked. An option that is not named stays as recorded.
pub(super) fn may_go_on(launch: &LaunchRow, asked: &LaunchOptions) -> Result<(), LaunchError> {
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
    let [starts, deadlines] = [|options: &LaunchOptions| options.start_at, |options: &LaunchOptions| options.deadline]
        .map(|time| (time(recorded).map(Timestamp::rfc3339), time(asked).map(Timestamp::rfc3339)));
    for (option, recorded, asked) in [
        ("--via", &recorded.via, &asked.via),
        ("--limit", &limits.0, &limits.1),
        ("--only-domain", &recorded.only_domain, &asked.only_domain),
        ("--rate", &recorded.rate, &asked.rate),
        ("pool", &recorded.pool, &asked.pool),
        ("segment", &recorded.segment, &asked.segment),
        ("exclude", &recorded.exclude, &asked.exclude),
        ("start_at", &starts.0, &starts.1),
        ("deadline", &deadlines.0, &deadlines.1),
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

/// Recipients whose fields are looked at before a launch.
const LOOKED_AT: usize = 500;

/// Whether those who are meant have the fields that the template needs, by printing for the first `most` of them;
/// `None` when all have. Fails when nobody could get a copy.
pub fn lacking(
    store: &Store,
    meant: &Meant,
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
    for list in &meant.lists {
        let mut after = ContactId(0);
        while seen < most as u64 {
            let page = store.members(*list, meant.condition.as_ref(), after, most.min(1000))?;
            let Some(last) = page.last() else { break };
            after = *last;
            for contact in page.into_iter().take(most - seen as usize) {
                let Some(recipient) = store.recipient(contact)? else { continue };
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
pub(super) fn may_be_sent(workspace: &Workspace, campaign: &Campaign, edition: &Edition) -> Result<(), LaunchError> {
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
pub(super) fn may_use_pool(workspace: &Workspace, pool: Option<&str>) -> Result<(), LaunchError> {
    match pool.filter(|name| !workspace.settings().pool.iter().any(|pool| pool.name == *name)) {
        Some(unknown) => Err(LaunchError::Pool(unknown.to_owned())),
        None => Ok(()),
    }
}

/// A letter that nobody could get is not launched.
pub(super) fn may_be_printed(
    store: &Store,
    campaign: &Campaign,
    meant: &Meant,
    edition: &Edition,
) -> Result<(), LaunchError> {
    let template = Template::compile(edition).map_err(LaunchError::Template)?;
    let remark = lacking(store, meant, edition, &template, LOOKED_AT)?;
    match remark.filter(|remark| remark.grade == Grade::Fail) {
        Some(remark) => Err(LaunchError::Proof { campaign: campaign.name().clone(), remarks: vec![remark] }),
        None => Ok(()),
    }
}

/// Whether a source that this goes out from is not known everywhere yet.
pub(super) fn is_warming(workspace: &Workspace, pool: Option<&str>) -> bool {
    let settings = workspace.settings();
    let shares = pool.and_then(|name| settings.pool.iter().find(|pool| pool.name == name)).map(|pool| &pool.sources);
    let is_in = |name: &str| shares.is_none_or(|shares| shares.iter().any(|share| share.name == name));
    settings.source.iter().any(|source| source.warmup.is_some() && is_in(&source.name))
}

/// Whether a domain that the campaign shows is one that providers have not met yet.
pub(super) fn shows_new_domains(workspace: &Workspace, campaign: &Campaign) -> bool {
    let (settings, from) = (workspace.settings(), campaign.from_domain());
    let bounce = settings.sender.bounce_domain.clone().unwrap_or_else(|| format!("bounce.{from}"));
    !among(&settings.warmup.domains, &names(Some(from), &bounce, &settings.links.base_url)).is_empty()
}

/// A login that would never be sent must not be waited for.
pub(super) fn may_log_in(workspace: &Workspace, options: &LaunchOptions) -> Result<(), LaunchError> {
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
pub(super) async fn may_go_direct(
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
pub async fn examine_relays(workspace: &Workspace, world: &World) -> Result<Vec<Remark>, WorkspaceError> {
    let (settings, relays, shaping) = (workspace.settings(), workspace.relays()?, workspace.shaping()?);
    let sources = Sources::unnumbered(settings, &host_name());
    let Some(source) = sources.iter().next() else { return Ok(Vec::new()) };
    Ok(knock::examine_relays(world, settings, &relays, &shaping, source).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::engine::Remedy;

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
