//! What becomes of a site's copies while it stands still: they go home, and their domains rest or pass to other sources.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::base::Domain;
use crate::delivery::carrier::Job;
use crate::delivery::kit::Back;
use crate::delivery::steward::door::{Claims, Door};
use crate::delivery::steward::orders::Order;
use crate::delivery::steward::{HANDFUL, LEASING_MAX, Steward};
use crate::queue::Until;

/// Domains put to rest that are remembered, so that a person's `resume` reaches them at once.
const RESTED_MAX: usize = 1000;

impl Steward {
    /// Nothing moves for a while: connections close, domains rest, copies go home.
    pub(super) fn stand_still(&mut self, until: Until, now: Instant) {
        if self.still.is_none_or(|told| told <= self.kit.entries.now()) {
            self.still = Some(until.at());
            self.orders.push(Order::Tell(Back::Still(self.post.clone(), Some(until))));
        }
        self.close_asks();
        let keys: Vec<Arc<str>> = self.doors.keys().cloned().collect();
        for key in keys {
            if self.doors.get(&key).is_some_and(|door| self.kit.takes_turns(&door.route)) {
                self.pass_on(&key);
            } else {
                self.look_over(&key);
            }
            self.rest_door(&key, until, Claims::Looked);
        }
        self.wake = Some(now + until.at().since(self.kit.entries.now()));
    }

    /// Other sources may be in order: the domains are theirs meanwhile. The courier knows that this one stands still.
    pub(super) fn pass_on(&mut self, key: &Arc<str>) {
        let Some(door) = self.doors.get_mut(key) else { return };
        let (strays, own): (VecDeque<Job>, VecDeque<Job>) = door.stock.drain(..).partition(|job| job.stray);
        door.stock = strays;
        own.into_iter().for_each(|job| job.lease.home());
        let pool = door.pool.clone();
        self.has_waiting |= !door.claims.is_empty();
        self.orders.extend(door.claims.drain(..).map(|domain| Order::Tell(Back::Claim(domain, pool.clone()))));
    }

    /// Before its domains rest, their first copies are looked at: those that have expired end here, those of another way
    /// go on.
    pub(super) fn look_over(&mut self, key: &Arc<str>) {
        let Some(door) = self.doors.get_mut(key) else { return };
        let looked: BTreeSet<&Domain> = door.stock.iter().map(|job| job.lease.domain()).collect();
        let new: Vec<Domain> = door.claims.iter().filter(|domain| !looked.contains(domain)).cloned().collect();
        let room = LEASING_MAX.saturating_sub(door.leasing);
        for domain in new.into_iter().take(room) {
            door.claims.retain(|claimed| *claimed != domain);
            door.leasing += 1;
            self.orders.push(Order::Lease(key.clone(), domain, HANDFUL));
        }
    }

    /// The domains behind a door rest, and what was leased of them goes home; strays, whose domains are not ours, are put
    /// off one by one.
    pub(super) fn rest_door(&mut self, key: &Arc<str>, until: Until, claims: Claims) {
        let Some(door) = self.doors.get_mut(key) else { return };
        let route = door.route.clone();
        let mut resting: BTreeMap<Domain, Vec<Job>> = BTreeMap::new();
        let mut batch = Vec::new();
        for job in std::mem::take(&mut door.stock) {
            if job.stray {
                let site = self.kit.counted_under(&route, job.lease.domain());
                let text = self.last_reply.clone().unwrap_or_else(|| "its site stands still".to_owned());
                batch.push(self.kit.entries.aside(job.lease, until, text, site));
            } else {
                resting.entry(job.lease.domain().clone()).or_default().push(job);
            }
        }
        match claims {
            Claims::All => {
                for domain in door.claims.drain(..) {
                    resting.entry(domain).or_default();
                }
            }
            Claims::Looked => door.claims.retain(|domain| !resting.contains_key(domain)),
        }
        if !batch.is_empty() {
            self.orders.push(Order::Settle(batch));
        }
        self.has_waiting |= !resting.is_empty();
        for (domain, home) in resting {
            if self.rested.len() < RESTED_MAX {
                self.rested.insert(domain.clone());
            }
            self.orders.push(Order::Rest(domain, until, home));
        }
        if self.doors.get(key).is_some_and(Door::is_done) {
            self.doors.remove(key);
            self.manned.remove(key);
            self.unmanned.retain(|waiting| waiting != key);
        }
    }
}
