//! MTA-STS (RFC 8461): whether a domain says which hosts take its mail, and that they must be met over verified TLS.
//! Policies are kept for as long as they say, also while the name service or the policy host is away: that is what
//! protects against whoever takes these away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Domain;
use crate::mail::TlsFlaw;
use crate::world::{Dns, Http, HttpError};

/// Largest policy read, in bytes (RFC 8461 §3.3).
const POLICY_MAX: usize = 64 * 1024;
/// Longest time a policy may take to fetch (RFC 8461 §3.3).
const FETCH_MAX: Duration = Duration::from_secs(60);
/// Longest time a policy is kept, whatever it says (RFC 8461 §3.2).
const AGE_MAX: u64 = 31_557_600;
/// How long a domain's record is believed before it is asked for again, and how long a failed fetch is remembered.
const RECHECK: Duration = Duration::from_secs(3600);
/// Domains remembered; past it those without a policy are forgotten.
const DOMAINS_MAX: usize = 100_000;
/// Host patterns of one policy that are looked at.
const HOSTS_MAX: usize = 100;

/// What a policy wants of those who send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No mail to hosts that are not named or not verified.
    Enforce,
    /// Deliver as if there were no policy.
    Testing,
    /// There is no policy any more.
    None,
}

/// A policy that must be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    id: String,
    mode: Mode,
    hosts: Vec<String>,
    max_age: Duration,
}

impl Policy {
    /// Reads a policy file; line ends may be LF (erratum 6253). `None` when it is not one.
    pub(super) fn parse(id: &str, text: &str) -> Option<Policy> {
        let mut fields =
            text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()));
        let (mut version, mut mode, mut max_age, mut hosts) = (None, None, None, Vec::new());
        for (key, value) in &mut fields {
            match key {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(value.parse::<u64>().ok()),
                "mx" if hosts.len() < HOSTS_MAX => hosts.extend(pattern(value)),
                _ => {}
            }
        }
        let mode = match mode? {
            "enforce" => Mode::Enforce,
            "testing" => Mode::Testing,
            "none" => Mode::None,
            _ => return None,
        };
        let is_whole = version == Some("STSv1") && (mode == Mode::None || !hosts.is_empty());
        let max_age = Duration::from_secs(max_age?.min(AGE_MAX));
        is_whole.then(|| Policy { id: id.to_owned(), mode, hosts, max_age })
    }

    /// Whether it only tests: mail is delivered as if there were none, and what would have failed is reported.
    pub fn is_testing(&self) -> bool {
        self.mode == Mode::Testing
    }

    /// The host patterns.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The lines of its file, for reports.
    pub fn lines(&self) -> Vec<String> {
        let mode = match self.mode {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        };
        let hosts = self.hosts.iter().map(|host| format!("mx: {host}"));
        let first = ["version: STSv1".to_owned(), format!("mode: {mode}")];
        let last = format!("max_age: {}", self.max_age.as_secs());
        first.into_iter().chain(hosts).chain([last]).collect()
    }

    /// Whether a host is named: by its name, or by `*.` and all but its first label (RFC 8461 §4.1).
    pub fn names(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| above);
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(domain) => above.is_some_and(|above| above.eq_ignore_ascii_case(domain)),
            None => host.eq_ignore_ascii_case(pattern),
        })
    }
}

/// A host, or `*.` and the domain of hosts, in A-labels (RFC 8461 §3.2); `None`: no host is called so.
fn pattern(text: &str) -> Option<String> {
    let (wild, name) = text.strip_prefix("*.").map_or(("", text), |rest| ("*.", rest));
    let name = Domain::parse(name).ok().filter(|name| name.literal().is_none())?;
    Some(format!("{wild}{name}"))
}

/// What is known of a domain.
#[derive(Debug, Clone, Default)]
struct Known {
    policy: Option<(Arc<Policy>, Instant)>,
    /// Why the policy that the record names is not had.
    flaw: Option<TlsFlaw>,
    /// Asked for again from this time on.
    recheck: Option<Instant>,
}

/// How a domain stands with its policy, followed or not: for reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The policy in force, whether it is enforced or only tests.
    pub policy: Option<Arc<Policy>>,
    /// Why the one that is announced is not had.
    pub flaw: Option<TlsFlaw>,
}

/// Finds policies and keeps them. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    dns: Arc<dyn Dns>,
    http: Http,
    known: Arc<Mutex<HashMap<Domain, Known>>>,
}

impl Policies {
    /// Policies fetched with `http`, whose trust is the public one.
    pub fn new(dns: Arc<dyn Dns>, http: Http) -> Policies {
        Policies { dns, http, known: Arc::default() }
    }

    /// The policy to follow on the way to a domain; `None` when there is none, or one that only tests.
    pub async fn find(&self, domain: &Domain) -> Option<Arc<Policy>> {
        let now = Instant::now();
        let mut known = self.table().get(domain).cloned().unwrap_or_default();
        known.policy = known.policy.filter(|(_, until)| *until > now);
        if known.recheck.is_none_or(|at| at <= now) {
            known = self.refresh(domain, known).await;
            self.remember(domain, known.clone());
        }
        known.policy.map(|(policy, _)| policy).filter(|policy| policy.mode == Mode::Enforce)
    }

    /// What is known of a domain since it was last asked for.
    pub fn standing(&self, domain: &Domain) -> Standing {
        let known = self.table().get(domain).cloned().unwrap_or_default();
        let in_force = known.policy.filter(|(policy, until)| *until > Instant::now() && policy.mode != Mode::None);
        Standing { policy: in_force.map(|(policy, _)| policy), flaw: known.flaw }
    }

    /// Asks for the record and, where it names another policy than the known one, fetches that. Whatever fails leaves the
    /// known one in force.
    async fn refresh(&self, domain: &Domain, mut known: Known) -> Known {
        known.flaw = None;
        if let Some(id) = self.record(domain).await
            && known.policy.as_ref().is_none_or(|(policy, _)| policy.id != id)
        {
            match self.fetch(domain, &id).await {
                Ok(policy) => {
                    let until = Instant::now() + policy.max_age;
                    known.policy = Some((Arc::new(policy), until));
                }
                Err(flaw) => known.flaw = Some(flaw),
            }
        }
        known.recheck = Some(Instant::now() + RECHECK);
        known
    }

    /// The id in the domain's one `v=STSv1` record (RFC 8461 §3.1).
    async fn record(&self, domain: &Domain) -> Option<String> {
        let answer = self.dns.text(&format!("_mta-sts.{domain}")).await.ok()?;
        let mut ids = answer.records.iter().filter_map(|text| {
            let mut fields = text.split(';').map(str::trim);
            (fields.next() == Some("v=STSv1")).then(|| fields.find_map(|field| field.strip_prefix("id=")).unwrap_or(""))
        });
        let id = ids.next().filter(|id| (1..=32).contains(&id.len()))?;
        ids.next().is_none().then(|| id.to_owned())
    }

    async fn fetch(&self, domain: &Domain, id: &str) -> Result<Policy, TlsFlaw> {
        let address = format!("https://mta-sts.{domain}/.well-known/mta-sts.txt");
        match self.http.get(&address, POLICY_MAX, FETCH_MAX).await {
            Ok(reply) if reply.status == 200 => {
                Policy::parse(id, &String::from_utf8_lossy(&reply.body)).ok_or(TlsFlaw::PolicyBroken)
            }
            Ok(reply) => {
                tracing::debug!(%domain, status = reply.status, "no MTA-STS policy where one is announced");
                Err(TlsFlaw::PolicyGone)
            }
            Err(why) => {
                tracing::debug!(%domain, %why, "the MTA-STS policy cannot be fetched");
                Err(match why {
                    HttpError::Untrusted { .. } => TlsFlaw::PolicyUntrusted,
                    HttpError::TooLong { .. } => TlsFlaw::PolicyBroken,
                    HttpError::Address(_)
                    | HttpError::NoAddress(_)
                    | HttpError::Failed { .. }
                    | HttpError::TimedOut { .. } => TlsFlaw::PolicyGone,
                })
            }
        }
    }

    fn remember(&self, domain: &Domain, known: Known) {
        let mut table = self.table();
        if table.len() >= DOMAINS_MAX && !table.contains_key(domain) {
            table.retain(|_, known| known.policy.is_some());
        }
        if table.len() < DOMAINS_MAX {
            table.insert(domain.clone(), known);
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Domain, Known>> {
        // Each change is one call, so a panic elsewhere leaves the table whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
