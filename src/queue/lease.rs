//! The right to try one copy. A lease that is dropped goes home by itself: no try is counted and nothing is written.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::base::{Domain, EnvelopeId, Timestamp};
use crate::mail::{Envelope, Outcome};

/// Where leases go when they come home. Holds at most as many as are out.
#[derive(Debug, Default)]
pub(super) struct Homes {
    back: Mutex<Vec<Return>>,
    bell: Notify,
}

/// A lease that came home.
#[derive(Debug)]
pub(super) struct Return {
    pub domain: Domain,
    pub id: EnvelopeId,
    pub manner: Manner,
}

/// How a lease came home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Given back because its turn did not come.
    GivenBack,
    /// Dropped, as by a task that ended in a panic.
    Dropped,
}

impl Homes {
    fn send(&self, back: Return) {
        self.back.lock().unwrap_or_else(PoisonError::into_inner).push(back);
        self.bell.notify_one();
    }

    /// Waits until a lease has come home.
    pub async fn arrival(&self) {
        self.bell.notified().await;
    }

    /// All that came home since the last call.
    pub fn take(&self) -> Vec<Return> {
        std::mem::take(&mut self.back.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right to try one copy, and the copy.
#[derive(Debug)]
pub struct Lease {
    /// The planned copy. Source and date may be set here at its first MAIL: they are kept from the next intent or
    /// settlement on.
    pub envelope: Envelope,
    domain: Domain,
    leased_due: Timestamp,
    since: Instant,
    home: Option<Arc<Homes>>,
}

impl Lease {
    pub(super) fn new(domain: Domain, envelope: Envelope, home: Arc<Homes>) -> Lease {
        Lease { leased_due: envelope.due, since: Instant::now(), domain, envelope, home: Some(home) }
    }

    /// The recipient's domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Records that the copy's final dot may go out. Only once this settlement is durable may it be written.
    pub fn intend(&self) -> Settlement {
        let Lease { envelope, domain, leased_due, since, home: _ } = self;
        let (envelope, domain, leased_due, since) = (envelope.clone(), domain.clone(), *leased_due, *since);
        Settlement { lease: Lease { envelope, domain, leased_due, since, home: None }, action: Action::Intend }
    }

    /// Ends the lease with an outcome.
    pub fn settle(self, outcome: Outcome, next: Next) -> Settlement {
        let action = match next {
            Next::Gone => Action::Gone(outcome),
            Next::Again(until) => Action::Again(until, outcome),
        };
        Settlement { lease: self, action }
    }

    /// Gives the copy back untried: its turn did not come.
    pub fn home(mut self) {
        self.go(Manner::GivenBack);
    }

    /// The domain, the copy, the due time in the key it was leased under, and when it was leased; it goes home no more.
    pub(super) fn into_parts(mut self) -> (Domain, Envelope, Timestamp, Instant) {
        self.home = None;
        let Lease { envelope, domain, leased_due, since, .. } = &self;
        (domain.clone(), envelope.clone(), *leased_due, *since)
    }

    fn go(&mut self, manner: Manner) {
        if let Some(home) = self.home.take() {
            home.send(Return { domain: self.domain.clone(), id: self.envelope.id, manner });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.go(Manner::Dropped);
    }
}

/// Until when a copy or a domain waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It goes by itself at this time.
    Time(Timestamp),
    /// It goes when a person lets it; at this time it is looked at again. Whoever waits for what is due does not wait for it.
    Person(Timestamp),
}

impl Until {
    /// When it is claimed again.
    pub fn at(self) -> Timestamp {
        match self {
            Until::Time(at) | Until::Person(at) => at,
        }
    }

    /// Whether it waits for a person.
    pub fn is_for_person(self) -> bool {
        matches!(self, Until::Person(_))
    }
}

impl From<Timestamp> for Until {
    fn from(at: Timestamp) -> Until {
        Until::Time(at)
    }
}

/// What becomes of a leased copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It leaves the queue.
    Gone,
    /// It is due again then, as its envelope stands.
    Again(Until),
}

/// A change to one copy, to be committed. One that never reaches the keeper takes its lease home.
#[derive(Debug)]
pub struct Settlement {
    pub(super) lease: Lease,
    pub(super) action: Action,
}

#[derive(Debug)]
pub(super) enum Action {
    Intend,
    Gone(Outcome),
    Again(Until, Outcome),
}
