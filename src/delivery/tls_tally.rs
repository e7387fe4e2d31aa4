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
/// Bytes of names and policies between two visits, counted like kinds: their length is in other people's hands.
const BYTES_MAX: usize = 16 << 20;
/// Longest policy that is told whole, in bytes; of a longer one its type and domain.
const POLICY_MAX: usize = 4096;
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
    policy: Arc<str>,
    host: String,
    source: Option<IpAddr>,
    flaw: Option<TlsFlaw>,
}

/// All that was counted.
#[derive(Default)]
struct Counts {
    sessions: BTreeMap<Kind, u64>,
    /// The policies in `sessions`, each once.
    policies: BTreeSet<Arc<str>>,
    bytes: usize,
}

impl Counts {
    /// One session more, where there is room for it.
    fn add(&mut self, mut kind: Kind) {
        let known = self.policies.get(&kind.policy).cloned();
        let new_policy = if known.is_none() { kind.policy.len() } else { 0 };
        kind.policy = known.unwrap_or(kind.policy);
        if let Some(count) = self.sessions.get_mut(&kind) {
            *count += 1;
            return;
        }
        let bytes = self.bytes + kind.domain.as_str().len() + kind.host.len() + new_policy;
        if self.sessions.len() >= KINDS_MAX || bytes > BYTES_MAX {
            return;
        }
        self.bytes = bytes;
        self.policies.insert(kind.policy.clone());
        self.sessions.insert(kind, 1);
    }
}

/// Counts sessions. Cheap to clone.
#[derive(Clone)]
pub struct Tally {
    policies: Policies,
    clock: Arc<dyn Clock>,
    counts: Arc<Mutex<Counts>>,
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
        self.count(domain, host.as_ref(), *source, policy_text(domain, secrecy, &standing), flaw);
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
            self.count(domain, trouble.host.as_ref(), source, policy, Some(flaw));
        }
    }

    fn count(
        &self,
        domain: &Domain,
        host: Option<&Domain>,
        source: Option<IpAddr>,
        policy: String,
        flaw: Option<TlsFlaw>,
    ) {
        let host = host.map(Domain::to_string).unwrap_or_default();
        let day = day_of(self.clock.now());
        self.table().add(Kind { day, domain: domain.clone(), policy: policy.into(), host, source, flaw });
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
        counts.sessions.into_iter().map(row).collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Counts> {
        // a panic elsewhere while it was held leaves at worst one session uncounted
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
    let (kind, lines, hosts) = match (&secrecy.announced, &standing.policy) {
        (Some(announced), _) => ("tlsa", announced.lines(), None),
        (None, _) if secrecy.flaw == Some(TlsFlaw::Unproved) => ("tlsa", Vec::new(), None),
        (None, Some(policy)) => ("sts", policy.lines(), Some(policy.hosts())),
        (None, None) => ("no-policy-found", Vec::new(), None),
    };
    let brief = json!({"policy-type": kind, "policy-domain": domain.as_str()});
    let mut whole = brief.clone();
    if !lines.is_empty() {
        whole["policy-string"] = lines.into();
    }
    if let Some(hosts) = hosts {
        whole["mx-host"] = hosts.into();
    }
    let text = whole.to_string();
    if text.len() <= POLICY_MAX { text } else { brief.to_string() }
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

    #[test]
    fn long_policies_are_told_by_their_type_and_the_tally_keeps_its_size() {
        let domain = |number: usize| Domain::parse(&format!("d{number}.example")).unwrap();
        let hosts: String = (0..100).map(|at| format!("mx: {at}.{}.example\n", "a".repeat(60))).collect();
        let policy = Policy::parse("1", &format!("version: STSv1\nmode: testing\n{hosts}max_age: 86400\n")).unwrap();
        let standing = Standing { policy: Some(Arc::new(policy)), flaw: None };
        let text = policy_text(&domain(0), &Secrecy::default(), &standing);
        assert_eq!(text, r#"{"policy-domain":"d0.example","policy-type":"sts"}"#);
        let mut counts = Counts::default();
        let long: Arc<str> = "x".repeat(POLICY_MAX).into();
        for number in 0..10_000 {
            let policy = if number % 2 == 0 { long.clone() } else { format!("{number}{long}").into() };
            counts.add(Kind { day: 1, domain: domain(number), policy, host: String::new(), source: None, flaw: None });
        }
        assert!(counts.bytes <= BYTES_MAX && counts.bytes > BYTES_MAX - 2 * POLICY_MAX, "{}", counts.bytes);
        assert!(counts.sessions.len() > counts.policies.len() + 4000, "one that is shared counts once");
    }
}
