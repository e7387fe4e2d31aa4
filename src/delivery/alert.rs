//! The ways an alert takes to people: mail, a webhook, a command. Each is tried by itself and says how it went; when to
//! tell what is decided elsewhere. Beside the queue, because what is told may be the queue's own trouble.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::base::{Address, EnvelopeId, Timestamp};
use crate::compose;
use crate::config::{self, Settings};
use crate::delivery::beside::{Beside, Insists};
use crate::delivery::source::host_name;
use crate::mail::{Message, NoticeKind};
use crate::sign::Keyring;
use crate::smtp::{Copy, TlsClient};
use crate::world::{Http, World};

/// How long a webhook may take.
const WEBHOOK_WITHIN: Duration = Duration::from_secs(10);
/// How long a mail may take.
const MAIL_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of a webhook's answer that are read; nothing in it matters.
const ANSWER_MAX: usize = 4096;
/// Variables that a command gets; the others may hold secrets.
const ENVIRONMENT: &[&str] = &["PATH", "HOME", "LANG", "TZ"];

/// What people are told: names of hosts, sources and campaigns, never of recipients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// What kind of thing happened, as in `held` or `breaker`.
    pub kind: String,
    /// What happened.
    pub text: String,
    /// The site concerned.
    pub site: Option<String>,
    /// The source, by its name.
    pub source: Option<String>,
    /// The campaign.
    pub campaign: Option<String>,
    /// Until when it holds, where that is known.
    pub until: Option<Timestamp>,
    /// When it happened.
    pub at: Timestamp,
    /// This machine.
    pub host: String,
    /// What to do.
    pub remedy: String,
    /// Alerts held back since the last one: too many at once, or the same again.
    pub held_back: u32,
}

impl Alert {
    /// One by which a person tries out the ways.
    pub fn trial(at: Timestamp) -> Alert {
        Alert {
            kind: NoticeKind::Trial.word().to_owned(),
            text: "a trial: alerts of this workspace arrive here".to_owned(),
            site: None,
            source: None,
            campaign: None,
            until: None,
            at,
            host: host_name(),
            remedy: String::new(),
            held_back: 0,
        }
    }
}

/// The ways of the settings. Cheap to clone.
#[derive(Clone)]
pub struct Alerts {
    ways: Arc<Ways>,
}

struct Ways {
    settings: Settings,
    world: World,
    keyring: Keyring,
}

impl Alerts {
    /// The ways of `[alert]`.
    pub fn new(settings: &Settings, world: &World, keyring: Keyring) -> Alerts {
        Alerts { ways: Arc::new(Ways { settings: settings.clone(), world: world.clone(), keyring }) }
    }

    /// Whether anybody is told of anything.
    pub fn are_any(&self) -> bool {
        let config::Alert { mail, webhook, command, .. } = &self.ways.settings.alert;
        !mail.is_empty() || webhook.is_some() || !command.is_empty()
    }

    /// Tells by every way there is; gives each with how it went.
    pub async fn tell(&self, alert: &Alert) -> Vec<(String, Result<(), String>)> {
        let (ways, mut told) = (&*self.ways, Vec::new());
        let settings = &ways.settings.alert;
        if let Some(webhook) = &settings.webhook {
            told.push((webhook.clone(), ways.post(webhook, alert).await));
        }
        if let [program, arguments @ ..] = settings.command.as_slice() {
            told.push((program.clone(), ways.run(program, arguments, alert).await));
        }
        for to in &settings.mail {
            let sent = tokio::time::timeout(MAIL_WITHIN, ways.mail(to, alert)).await;
            told.push((to.clone(), sent.unwrap_or_else(|_| Err(format!("not sent within {MAIL_WITHIN:?}")))));
        }
        for (way, why) in told.iter().filter_map(|(way, done)| Some((way, done.as_ref().err()?))) {
            tracing::error!(way, "an alert was not told: {why}");
        }
        told
    }
}

impl Ways {
    async fn post(&self, webhook: &str, alert: &Alert) -> Result<(), String> {
        let tls = self.tls()?;
        let http = Http::new(&self.world, tls.verified(), self.settings.alert.webhook_private);
        let headers = [("content-type", "application/json"), ("user-agent", "mailshot")];
        let answer = http.post(webhook, &headers, json(alert), ANSWER_MAX, WEBHOOK_WITHIN).await;
        match answer.map_err(|why| why.to_string())?.status {
            200..=299 => Ok(()),
            status => Err(format!("answered with {status}")),
        }
    }

    /// Runs a program without a shell: what is in the alert cannot become a command.
    async fn run(&self, program: &str, arguments: &[String], alert: &Alert) -> Result<(), String> {
        let limit = self.settings.alert.command_timeout.duration();
        let mut command = Command::new(program);
        command.args(arguments).env_clear().kill_on_drop(true);
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|why| why.to_string())?;
        let mut stdin = child.stdin.take();
        let work = async {
            if let Some(stdin) = &mut stdin {
                // a program that reads nothing is told all the same
                let _ = stdin.write_all(&json(alert)).await;
            }
            drop(stdin.take());
            child.wait().await
        };
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("ended with {status}")),
            Ok(Err(why)) => Err(why.to_string()),
            Err(_) => Err(format!("still ran after {limit:?} and was ended")),
        }
    }

    /// One message at once, from `<>` so that nothing comes back (C-54).
    async fn mail(&self, to: &str, alert: &Alert) -> Result<(), String> {
        let words = |why: &dyn std::fmt::Display| why.to_string();
        let to = Address::parse(to).map_err(|why| words(&why))?;
        let from = self.settings.alert.mail_from.as_deref().unwrap_or_default();
        let from = Address::parse(from).map_err(|why| words(&why))?;
        let id = EnvelopeId::from_u64(self.world.dice.roll());
        let subject = format!("[mailshot] {}", headline(alert));
        let bytes = compose::memo(&from, &to, &subject, &letter(alert), alert.at, &format!("alert-{id}"));
        let message = Message { id, bytes };
        let message = match self.keyring.has_key(from.domain()) {
            true => self.keyring.sign(from.domain(), message).map_err(|why| words(&why))?,
            false => message,
        };
        let beside = Beside::new(&self.world, &self.settings)?;
        let route = beside.way(to.domain(), self.settings.alert.mail_via.as_deref()).await?;
        let copy = Copy { id, return_path: String::new(), to, message, early: false };
        beside.deliver(route, Insists::OnAll, copy).await
    }

    fn tls(&self) -> Result<TlsClient, String> {
        TlsClient::new(self.settings.tls_ca.as_deref()).map_err(|why| why.to_string())
    }
}

fn json(alert: &Alert) -> Vec<u8> {
    serde_json::to_vec(alert).expect("an alert has text keys only")
}

/// What happened, in a line.
fn headline(alert: &Alert) -> String {
    let whose = [&alert.campaign, &alert.source, &alert.site].into_iter().flatten();
    let whose = whose.map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{}{}{whose}", alert.kind.replace('_', " "), if whose.is_empty() { "" } else { ": " })
}

/// The whole alert as a letter.
fn letter(alert: &Alert) -> String {
    let mut text = format!("{}\n\n{}\n", headline(alert), alert.text);
    let lines = [("campaign", &alert.campaign), ("source", &alert.source), ("site", &alert.site)];
    for (name, value) in lines {
        if let Some(value) = value {
            text += &format!("\n{name}: {value}");
        }
    }
    text += &format!("\nat: {}\non: {}\n", alert.at.rfc3339(), alert.host);
    if let Some(until) = alert.until {
        text += &format!("until: {}\n", until.rfc3339());
    }
    if alert.held_back > 0 {
        text += &format!("\n{} more alerts were held back since the last one.\n", alert.held_back);
    }
    if !alert.remedy.is_empty() {
        text += &format!("\n{}\n", alert.remedy);
    }
    text
}
