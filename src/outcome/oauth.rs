//! Access tokens for a mailbox: got from the provider's token endpoint (RFC 6749), kept in memory, renewed before they run
//! out. A refused renewal is not asked again until there is another refresh token or secret to ask with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;

use super::fetch::{MailboxError, secret};
use crate::base::Timestamp;
use crate::config::{Mailbox, MailboxOauth, Secret};
use crate::mail::impersonal;
use crate::world::{Clock, Http, HttpReply};

/// How long before its end a token is renewed; one of a short life after half of it.
const MARGIN: Duration = Duration::from_secs(300);
/// Longest life that is believed, in seconds.
const LIFE_MAX: u64 = 30 * 86_400;
/// Refusals that another try will not change (RFC 6749 §5.2); other 4xx may be of something that stands before the endpoint.
const FINAL: &[&str] = &[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];
/// Longest answer of a token endpoint, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest wait for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The access tokens of one mailbox. Whoever asks while one is being renewed waits for that one.
pub(super) struct Tokens {
    oauth: MailboxOauth,
    http: Http,
    clock: Arc<dyn Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// The token, and until when it serves.
    access: Option<(Secret, Timestamp)>,
    /// A refresh token that came in the place of one that the settings lead to.
    replaced: Option<(Secret, Secret)>,
    /// With what the endpoint refused a token, and its words.
    refused: Option<(Grant, String)>,
}

/// What a token is asked with.
#[derive(Clone, PartialEq, Eq)]
struct Grant {
    client_secret: Option<Secret>,
    refresh: Option<Secret>,
}

/// What the endpoint answers (RFC 6749 §5.1).
#[derive(Deserialize)]
struct Given {
    access_token: Secret,
    /// Seconds: a number, or with some providers the text of one.
    #[serde(default)]
    expires_in: serde_json::Value,
    refresh_token: Option<Secret>,
}

impl Given {
    /// How long the token serves; nothing when that is not said.
    fn life(&self) -> Duration {
        let seconds = self.expires_in.as_u64().or_else(|| self.expires_in.as_str()?.parse().ok());
        Duration::from_secs(seconds.unwrap_or(0).min(LIFE_MAX))
    }
}

/// What it answers otherwise (§5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Denial {
    error: String,
    error_description: String,
}

impl Tokens {
    pub(super) fn new(oauth: MailboxOauth, http: Http, clock: Arc<dyn Clock>) -> Tokens {
        Tokens { oauth, http, clock, held: Mutex::default() }
    }

    /// Whether what is got here serves a mailbox with these settings too: it is got with the same.
    pub(super) fn serves(&self, oauth: &MailboxOauth) -> bool {
        self.oauth == *oauth
    }

    /// A token that serves now.
    pub(super) async fn token(&self, mailbox: &Mailbox) -> Result<Secret, MailboxError> {
        let mut held = self.held.lock().await;
        if let Some((token, _)) = held.access.as_ref().filter(|(_, until)| self.clock.now() < *until) {
            return Ok(token.clone());
        }
        let found = self.grant(mailbox)?;
        let grant = held.grant(&found);
        if let Some((_, why)) = held.refused.as_ref().filter(|(with, _)| *with == grant) {
            return Err(self.refused(mailbox, why.clone()));
        }
        held.access = None;
        match self.ask(mailbox, &grant).await? {
            Ok(given) => {
                held.refused = None;
                let life = given.life();
                held.access = Some((given.access_token.clone(), self.clock.now() + (life - MARGIN.min(life / 2))));
                let is_new =
                    |new: &Secret| !new.expose().is_empty() && grant.refresh.as_ref().is_some_and(|old| old != new);
                if let Some(new) = given.refresh_token.filter(is_new) {
                    held.replaced = self.keep(mailbox, found.refresh, new);
                }
                Ok(given.access_token)
            }
            Err(why) => {
                held.refused = Some((grant, why.clone()));
                Err(self.refused(mailbox, why))
            }
        }
    }

    /// The server refused a token before its time: the next one is got anew.
    pub(super) async fn forget(&self) {
        self.held.lock().await.access = None;
    }

    /// What the settings lead to, read anew each time: a person may have put something else there.
    fn grant(&self, mailbox: &Mailbox) -> Result<Grant, MailboxError> {
        let MailboxOauth { client_secret_file, client_secret_env, refresh_token_file, refresh_token_env, .. } =
            &self.oauth;
        Ok(Grant {
            client_secret: secret(mailbox, (client_secret_file, client_secret_env))?,
            refresh: secret(mailbox, (refresh_token_file, refresh_token_env))?,
        })
    }

    /// What is asked (RFC 6749 §4.4.2, §6).
    fn form(&self, grant: &Grant) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", &self.oauth.client_id);
        match &grant.refresh {
            Some(refresh) => {
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh.expose())
            }
            None => form.append_pair("grant_type", "client_credentials"),
        };
        let secret = grant.client_secret.as_ref().map(|secret| ("client_secret", secret.expose()));
        form.extend_pairs(secret.into_iter().chain(self.oauth.scope.as_deref().map(|scope| ("scope", scope))));
        form.finish()
    }

    /// Asks the endpoint: a token, or its words of refusal. An endpoint that cannot be reached, or has trouble of its own, is
    /// an error that passes.
    async fn ask(&self, mailbox: &Mailbox, grant: &Grant) -> Result<Result<Given, String>, MailboxError> {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        let body = self.form(grant).into_bytes();
        let reply = self.http.post(&self.oauth.token_url, &headers, body, ANSWER_MAX, PATIENCE).await;
        judge(&reply.map_err(|why| self.unreachable(mailbox, why.to_string()))?)
            .map_err(|why| self.unreachable(mailbox, why))
    }

    /// Keeps a new refresh token where the old one was; in memory when there is no file, or it cannot be written.
    fn keep(&self, mailbox: &Mailbox, old: Option<Secret>, new: Secret) -> Option<(Secret, Secret)> {
        let why = match &self.oauth.refresh_token_file {
            None => "it came from the environment".to_owned(),
            Some(file) => match rewrite(file, new.expose()) {
                Ok(()) => return None,
                Err(why) => format!("{}: {why}", file.display()),
            },
        };
        tracing::warn!(
            mailbox = mailbox.name,
            why,
            "the new refresh token is kept in memory only, and lost at the end"
        );
        old.map(|old| (old, new))
    }

    fn unreachable(&self, mailbox: &Mailbox, why: String) -> MailboxError {
        MailboxError::Unreachable { mailbox: mailbox.name.clone(), host: self.oauth.token_url.clone(), why }
    }

    fn refused(&self, mailbox: &Mailbox, why: String) -> MailboxError {
        MailboxError::Token { mailbox: mailbox.name.clone(), endpoint: self.oauth.token_url.clone(), why }
    }
}

impl Held {
    /// What to ask with: a refresh token that was replaced is not shown again.
    fn grant(&self, found: &Grant) -> Grant {
        let replaced = self.replaced.as_ref().filter(|(old, _)| found.refresh.as_ref() == Some(old));
        let refresh = replaced.map(|(_, new)| new.clone()).or_else(|| found.refresh.clone());
        Grant { client_secret: found.client_secret.clone(), refresh }
    }
}

/// A token, a refusal that another try will not change, or trouble that passes.
fn judge(reply: &HttpReply) -> Result<Result<Given, String>, String> {
    match reply.status {
        200 => serde_json::from_slice(&reply.body).map(Ok).map_err(|_| "its answer holds no access token".to_owned()),
        400..=499 => {
            let denial: Denial = serde_json::from_slice(&reply.body).unwrap_or_default();
            let words = format!("{} {} {}", reply.status, denial.error, denial.error_description);
            let words = impersonal(words.trim_end());
            if FINAL.contains(&denial.error.as_str()) { Ok(Err(words)) } else { Err(words) }
        }
        other => Err(format!("status {other}")),
    }
}

/// Puts a secret in the place of another, whole or not at all, for its owner alone.
fn rewrite(file: &Path, secret: &str) -> std::io::Result<()> {
    // what the name leads to is replaced, not the name
    let file = file.canonicalize()?;
    let draft = PathBuf::from(format!("{}.{}.part", file.display(), std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut new = options.open(&draft)?;
    writeln!(new, "{secret}")?;
    new.sync_all()?;
    std::fs::rename(&draft, &file)?;
    std::fs::File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests;
