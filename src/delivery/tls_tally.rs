//! How sessions with mail hosts fared as to TLS, counted for the domains that want it reported (RFC 8460): one session for
//! each domain that a connection carried mail of, and one for each domain that waited behind a connection that TLS let
//! fail. Counts only; who is told what, `tls_report` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::base::{Domain, Timestamp};
use crate::delivery::dial::{Secrecy, Trouble};
use crate::delivery::sts::{Policies, Policy, Standing};
use crate::mail::TlsFlaw;
use crate::smtp::TlsFacts;
use crate::store::TlsSessionRow;
use crate::world::Clock;

/// Kinds of sessions between two visits of whoever writes them down; what is beyond is not counted.
const KINDS_MAX: usize = 50_000;
const DAY_MS: i64 = 86_400_000;

/// The day a time falls into, in days since 1970, UTC.
pub fn day_of(at: Timestamp) -> i64 {
    at.as_ms().div_euclid(DAY_MS)
}

/// When a day begins.
pub fn begin_of(day: i64) -> Timestamp {
    Timestamp::from_ms(day * DAY_MS)
}

/// An open connection, as far as reports go.
pub(super) struct Session {
    pub host: Option<Domain>,
    pub source: Option<IpAddr>,
    pub tls: Option<TlsFacts>,
    pub secrecy: Secrecy,
    /// The domains it was counted for.
    told: BTreeSet<Domain>,
}

impl Session {
    pub fn new(host: Option<Domain>, source: Option<IpAddr>, tls: Option<TlsFacts>, secrecy: Secrecy) -> Session {
        Session { host, source, tls, secrecy, told: BTreeSet::new() }
    }
}

/// One kind of session; the order is that of the record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    day: i64,
    domain: Domain,
    policy: String,
    host: String,
    source: Option<IpAddr>,
    flaw: Option<TlsFlaw>,
}

/// Counts sessions. Cheap to clone.
#[derive(Clone)]
pub struct Tally {
    policies: Policies,
    clock: Arc<dyn Clock>,
    counts: Arc<Mutex<BTreeMap<Kind, u64>>>,
}

impl Tally {
    /// A tally of sessions under these policies.
    pub fn new(policies: Policies, clock: Arc<dyn Clock>) -> Tally {
        Tally { policies, clock, counts: Arc::default() }
    }

    /// A copy for somebody at this domain went over a connection.
    pub(super) fn carried(&self, session: &mut Session, domain: &Domain) {
        if !session.told.insert(domain.clone()) {
            return;
        }
        let Session { host, source, tls, secrecy, .. } = session;
        let standing = self.policies.standing(domain);
        let flaw = flaw_of(host.as_ref(), tls.as_ref(), secrecy, &standing);
        self.count(domain, host.as_ref(), *source, &policy_text(domain, secrecy, &standing), flaw);
    }

    /// No connection came about, and these domains waited for it. Counted only where TLS is the reason.
    pub(super) fn failed<'d>(
        &self,
        domains: impl Iterator<Item = &'d Domain>,
        source: Option<IpAddr>,
        trouble: &Trouble,
    ) {
        let Some(flaw) = trouble.secrecy.flaw else { return };
        let domains: BTreeSet<&Domain> = domains.collect();
        for domain in domains {
            let policy = policy_text(domain, &trouble.secrecy, &self.policies.standing(domain));
            self.count(domain, trouble.host.as_ref(), source, &policy, Some(flaw));
        }
    }

    fn count(
        &self,
        domain: &Domain,
        host: Option<&Domain>,
        source: Option<IpAddr>,
        policy: &str,
        flaw: Option<TlsFlaw>,
    ) {
        let host = host.map(Domain::to_string).unwrap_or_default();
        let day = day_of(self.clock.now());
        let kind = Kind { day, domain: domain.clone(), policy: policy.to_owned(), host, source, flaw };
        let mut counts = self.table();
        if counts.len() < KINDS_MAX || counts.contains_key(&kind) {
            *counts.entry(kind).or_default() += 1;
        }
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Vec<TlsSessionRow> {
        let counts = std::mem::take(&mut *self.table());
        let row = |(kind, sessions): (Kind, u64)| TlsSessionRow {
            day: kind.day,
            domain: kind.domain.to_string(),
            policy: kind.policy,
            host: kind.host,
            source: kind.source.map(|address| address.to_string()).unwrap_or_default(),
            result: kind.flaw.map(|flaw| flaw.word().to_owned()).unwrap_or_default(),
            sessions,
        };
        counts.into_iter().map(row).collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<Kind, u64>> {
        // each change is one call, so a panic elsewhere leaves the table whole
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was wrong with a session that carried mail.
fn flaw_of(host: Option<&Domain>, tls: Option<&TlsFacts>, secrecy: &Secrecy, standing: &Standing) -> Option<TlsFlaw> {
    let clear = || secrecy.flaw.unwrap_or(TlsFlaw::NotOffered);
    let Some(facts) = tls else { return Some(clear()) };
    if secrecy.announced.is_some() {
        return None;
    }
    let named = |policy: &Arc<Policy>| host.is_some_and(|host| policy.names(host.as_str()));
    match &standing.policy {
        Some(policy) if !named(policy) => Some(TlsFlaw::Other),
        Some(_) => facts.flaw,
        None => standing.flaw,
    }
}

/// The policy that held, as it stands in a report (RFC 8460 §4.4). What the zone announces goes before the domain's policy.
fn policy_text(domain: &Domain, secrecy: &Secrecy, standing: &Standing) -> String {
    let domain = domain.as_str();
    let policy = match (&secrecy.announced, &standing.policy) {
        (Some(announced), _) => {
            json!({"policy-type": "tlsa", "policy-string": announced.lines(), "policy-domain": domain})
        }
        (None, _) if secrecy.flaw == Some(TlsFlaw::Unproved) => {
            json!({"policy-type": "tlsa", "policy-domain": domain})
        }
        (None, Some(policy)) => json!({
            "policy-type": "sts",
            "policy-string": policy.lines(),
            "policy-domain": domain,
            "mx-host": policy.hosts(),
        }),
        (None, None) => json!({"policy-type": "no-policy-found", "policy-domain": domain}),
    };
    policy.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::TlsVersion;
    use crate::smtp::{Associations, Verified};
    use crate::world::Tlsa;

    fn facts(flaw: Option<TlsFlaw>) -> TlsFacts {
        TlsFacts { version: TlsVersion::V1_3, cipher: 0x1301, verified: Verified::No, resumed: false, flaw }
    }

    fn standing(policy: Option<&str>, flaw: Option<TlsFlaw>) -> Standing {
        let policy = policy.map(|mode| {
            let text = format!("version: STSv1\nmode: {mode}\nmx: *.example.org\nmax_age: 86400\n");
            Arc::new(Policy::parse("1", &text).unwrap())
        });
        Standing { policy, flaw }
    }

    #[test]
    fn a_session_fares_as_its_policy_measures_it() {
        let check = |tls: Option<TlsFacts>, host: &str, broken, standing: &Standing, expected| {
            let (host, secrecy) = (Domain::parse(host).unwrap(), Secrecy { announced: None, flaw: broken });
            assert_eq!(flaw_of(Some(&host), tls.as_ref(), &secrecy, standing), expected, "{host} {standing:?}");
        };
        let (none, testing) = (standing(None, None), standing(Some("testing"), None));
        check(Some(facts(None)), "mx.example.net", None, &none, None);
        check(None, "mx.example.net", None, &none, Some(TlsFlaw::NotOffered));
        check(None, "mx.example.net", Some(TlsFlaw::Other), &none, Some(TlsFlaw::Other));
        check(Some(facts(None)), "mx.example.org", None, &testing, None);
        check(Some(facts(Some(TlsFlaw::Expired))), "mx.example.org", None, &testing, Some(TlsFlaw::Expired));
        check(Some(facts(None)), "mx.example.net", None, &testing, Some(TlsFlaw::Other));
        let gone = standing(None, Some(TlsFlaw::PolicyGone));
        check(Some(facts(None)), "mx.example.net", None, &gone, Some(TlsFlaw::PolicyGone));
    }

    #[test]
    fn the_policy_is_told_as_it_was_applied() {
        let domain = Domain::parse("example.org").unwrap();
        let sts = policy_text(&domain, &Secrecy::default(), &standing(Some("enforce"), None));
        let expected = json!({
            "policy-type": "sts",
            "policy-string": ["version: STSv1", "mode: enforce", "mx: *.example.org", "max_age: 86400"],
            "policy-domain": "example.org",
            "mx-host": ["*.example.org"],
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&sts).unwrap(), expected);
        let record = Tlsa { usage: 3, selector: 1, matching: 1, data: vec![0xab; 32] };
        let announced = Associations::usable(&[record]).map(Arc::new);
        let zone = policy_text(&domain, &Secrecy { announced, flaw: None }, &standing(Some("enforce"), None));
        assert!(zone.contains("\"tlsa\"") && zone.contains(&format!("3 1 1 {}", "AB".repeat(32))), "{zone}");
    }
}
