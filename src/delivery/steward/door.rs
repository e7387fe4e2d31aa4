//! Domains that share their hosts, and what lies ready for them.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::base::Domain;
use crate::delivery::carrier::Job;
use crate::delivery::kit::Kit;
use crate::delivery::launches::Place;
use crate::delivery::route::Route;

/// Domains behind the same hosts.
pub(super) struct Door {
    pub(super) route: Arc<Route>,
    /// Of the last claim.
    pub(super) pool: Option<Arc<str>>,
    pub(super) claims: VecDeque<Domain>,
    pub(super) stock: VecDeque<Job>,
    pub(super) leasing: usize,
    pub(super) lines: usize,
    /// Turns by a launch's rate are promised to it under this.
    pub(super) place: Place,
}

impl Door {
    /// Nothing lies behind it yet.
    pub(super) fn new(route: Arc<Route>, place: Place) -> Door {
        let (claims, stock) = (VecDeque::new(), VecDeque::new());
        Door { route, pool: None, claims, stock, leasing: 0, lines: 0, place }
    }

    /// Whether nothing is left to do behind it.
    pub(super) fn is_done(&self) -> bool {
        self.lines == 0 && self.leasing == 0 && self.claims.is_empty() && self.stock.is_empty()
    }

    /// Copies that lie ready. Beside other launches those that their own launch's rate holds back do not count: more is
    /// leased, so that nobody waits behind them.
    pub(super) fn ready(&self, kit: &Kit, now: Instant) -> usize {
        let bound = self.stock.iter().filter(|job| job.facts.is_bound(now)).count();
        let is_shared = bound > 0 && kit.road.queue.launches() > 1;
        self.stock.len() - if is_shared { bound } else { 0 }
    }
}

/// Which of a door's domains are put to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claims {
    All,
    /// Those whose first copies were looked at.
    Looked,
}

/// What tells doors apart: the hosts in their order, whether they are proved, and the policy that binds them.
pub(super) fn door_of(route: &Route) -> Arc<str> {
    let hosts = route.hosts.iter().map(|host| format!("{}:{}", host.preference, host.name));
    let mut key: Vec<String> = hosts.collect();
    if route.proved {
        key.push("proved".to_owned());
    }
    if route.trial {
        key.push("trial".to_owned());
    }
    if let Some(policy) = &route.policy {
        key.push(format!("{policy:?}"));
    }
    key.join(" ").into()
}
