//! Which domain is due when: claimed, resting or waiting. Owns no copies, only the times and counts of each domain; its
//! memory grows with the number of domains, not with that of copies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::{Domain, EnvelopeId, Timestamp};
use crate::mail::Envelope;

/// What is known of one domain's copies.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Copies on the ledger, leased ones included.
    pub waiting: u32,
    /// The copies out on lease.
    pub leased: BTreeSet<EnvelopeId>,
    /// When the next copy is due that is not leased; `None` when there is none, or when it is not known while claimed.
    pub next: Option<Timestamp>,
    /// Nobody may claim it before this time.
    pub rest: Timestamp,
    /// Present while somebody holds the claim.
    pub claim: Option<Claim>,
}

/// A claimed domain: copies read ahead from the ledger, and where to read on.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// Due copies, in the order of their keys, none of them leased.
    pub ready: VecDeque<Envelope>,
    /// Keys above this one have not been read; empty: from the start.
    pub read_to: Vec<u8>,
}

/// All domains with copies.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    domains: BTreeMap<Domain, Standing>,
    due: BTreeSet<(Timestamp, Domain)>,
}

impl Agenda {
    /// The domain's standing, if it has copies or a rest.
    pub fn look(&self, domain: &Domain) -> Option<&Standing> {
        self.domains.get(domain)
    }

    /// Changes a domain's standing and puts it in its place among those due. A domain without copies is forgotten.
    pub fn change<T>(&mut self, domain: &Domain, change: impl FnOnce(&mut Standing) -> T) -> T {
        let standing = match self.domains.get_mut(domain) {
            Some(standing) => standing,
            None => self.domains.entry(domain.clone()).or_default(),
        };
        let before = standing.place();
        let done = change(standing);
        let after = standing.place();
        let forgotten = standing.waiting == 0 && standing.claim.is_none() && standing.leased.is_empty();
        // most changes move nothing, and copy no name
        if before != after {
            if let Some(at) = before {
                self.due.remove(&(at, domain.clone()));
            }
            if let Some(at) = after {
                self.due.insert((at, domain.clone()));
            }
        }
        if forgotten {
            self.domains.remove(domain);
        }
        done
    }

    /// The unclaimed domain that is due first, and since or from when.
    pub fn first(&self) -> Option<&(Timestamp, Domain)> {
        self.due.first()
    }

    /// Whether nobody holds a claim or a lease, and nobody may claim before `until`.
    pub fn is_idle(&self, until: Timestamp) -> bool {
        let rests = |standing: &Standing| standing.claim.is_none() && standing.leased.is_empty();
        self.first().is_none_or(|(at, _)| *at > until) && self.domains.values().all(rests)
    }

    /// All domains, in order of name.
    pub fn domains(&self) -> impl Iterator<Item = (&Domain, &Standing)> {
        self.domains.iter()
    }
}

impl Standing {
    /// When this domain may be claimed; `None` while it is, or when nothing waits.
    fn place(&self) -> Option<Timestamp> {
        let next = self.next.filter(|_| self.claim.is_none() && self.waiting > self.leased.len() as u32)?;
        Some(next.max(self.rest))
    }

    /// A copy is due at `at`: remembers the earliest.
    pub fn expect(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn the_earliest_unclaimed_domain_comes_first() {
        let mut agenda = Agenda::default();
        for (name, at) in [("b.example", 20), ("a.example", 30), ("c.example", 10)] {
            agenda.change(&domain(name), |standing| {
                standing.waiting += 1;
                standing.expect(Timestamp::from_ms(at));
            });
        }
        assert_eq!(agenda.first().unwrap().1, domain("c.example"));
        agenda.change(&domain("c.example"), |standing| standing.claim = Some(Claim::default()));
        assert_eq!(agenda.first().unwrap().1, domain("b.example"));
        agenda.change(&domain("b.example"), |standing| standing.rest = Timestamp::from_ms(99));
        assert_eq!(agenda.first().unwrap().1, domain("a.example"));
        assert!(!agenda.is_idle(Timestamp::from_ms(20)));
        agenda.change(&domain("c.example"), |standing| standing.claim = None);
        assert!(agenda.is_idle(Timestamp::from_ms(9)) && !agenda.is_idle(Timestamp::from_ms(10)));
        agenda.change(&domain("c.example"), |standing| standing.waiting = 0);
        agenda.change(&domain("a.example"), |standing| standing.waiting = 0);
        assert_eq!(agenda.first().unwrap(), &(Timestamp::from_ms(99), domain("b.example")));
        assert_eq!(agenda.domains().count(), 1);
    }
}
