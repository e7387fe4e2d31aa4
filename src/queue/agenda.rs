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
    /// The copies that wait for a person, as far as that was said since the start.
    pub for_person: BTreeSet<EnvelopeId>,
    /// When the next copy is due that is not leased; `None` when there is none, or when it is not known while claimed.
    pub next: Option<Timestamp>,
    /// Nobody may claim it before this time.
    pub rest: Timestamp,
    /// Whether it rests until a person lets it go.
    pub is_for_person: bool,
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

    /// Whether nobody holds a claim or a lease.
    pub fn is_quiet(&self) -> bool {
        self.domains.values().all(|standing| standing.claim.is_none() && standing.leased.is_empty())
    }

    /// The domains that may be claimed by `until`, but for those that rest until a person lets them go.
    pub fn due_by(&self, until: Timestamp) -> impl Iterator<Item = (&Domain, &Standing)> {
        let by_then = self.due.iter().take_while(move |(at, _)| *at <= until);
        by_then.map(|(_, domain)| (domain, &self.domains[domain])).filter(|(_, standing)| !standing.is_for_person)
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
        assert!(!agenda.is_quiet());
        agenda.change(&domain("c.example"), |standing| standing.claim = None);
        let due_by = |agenda: &Agenda, at| {
            agenda.due_by(Timestamp::from_ms(at)).map(|(domain, _)| domain.clone()).collect::<Vec<_>>()
        };
        assert!(agenda.is_quiet() && due_by(&agenda, 9).is_empty());
        assert_eq!(due_by(&agenda, 30), [domain("c.example"), domain("a.example")]);
        agenda.change(&domain("c.example"), |standing| standing.is_for_person = true);
        assert_eq!(due_by(&agenda, 30), [domain("a.example")]);
        agenda.change(&domain("c.example"), |standing| standing.waiting = 0);
        agenda.change(&domain("a.example"), |standing| standing.waiting = 0);
        assert_eq!(agenda.first().unwrap(), &(Timestamp::from_ms(99), domain("b.example")));
        assert_eq!(agenda.domains().count(), 1);
    }
}
