//! Claims and leases: domains to whoever asks, due copies read ahead for them, and what comes home untried.

use std::collections::{BTreeSet, VecDeque};

use crate::base::{Domain, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Class, Envelope, InDoubt, Lane, Standing};
use crate::queue::agenda::Claim;
use crate::queue::keeper::recovery::{decided, doubt};
use crate::queue::keeper::{Keeper, LeaseCall, PAGE};
use crate::queue::lease::{Lease, Manner, Until};
use crate::queue::ledger::Move;
use crate::queue::{Claimed, Error, Place, codec, keys};

/// Copies read ahead for a claimed domain.
const AHEAD: usize = 64;
/// A lease dropped this often without an attempt is a bug of ours: its copy is given up.
const DROPS_MAX: u8 = 3;
/// Why a copy is in doubt.
const TASK_ENDED: &str = "its task ended between the final dot and the record of the answer";

impl Keeper {
    pub(super) fn serve_claims(&mut self) {
        let now = self.clock.now();
        while !self.claims.is_empty() {
            let Some((_, domain)) = self.agenda.first().filter(|(at, _)| *at <= now) else { return };
            let domain = domain.clone();
            // whoever gave up waiting does not get the claim
            let Some(answer) = self.claims.pop_front() else { return };
            if answer.is_closed() {
                continue;
            }
            self.agenda.change(&domain, |standing| {
                (standing.claim, standing.is_for_person) = (Some(Claim::default()), false);
            });
            match self.first_launch(&domain, now) {
                Ok(Some(launch)) => {
                    if answer.send(Ok(Claimed { domain: domain.clone(), launch })).is_err() {
                        self.rest(&domain, now.into());
                    }
                }
                Ok(None) => {
                    self.agenda.change(&domain, |standing| standing.claim = None);
                    self.claims.push_front(answer);
                }
                Err(error) => {
                    self.give_up(error.clone());
                    let _ = answer.send(Err(error));
                }
            }
        }
    }

    /// The launch of a claimed domain's first due copy; `None` when all are out on lease or none is due.
    fn first_launch(&mut self, domain: &Domain, now: Timestamp) -> Result<Option<LaunchId>, Error> {
        self.read_ahead(domain, now)?;
        let claim = self.agenda.look(domain).and_then(|standing| standing.claim.as_ref());
        Ok(claim.and_then(|claim| claim.ready.front()).map(|envelope| envelope.id.launch()))
    }

    /// A lease reads the ledger: what the round has changed is on it by now.
    pub(super) async fn serve_leases(&mut self) {
        for LeaseCall { domain, most, answer } in std::mem::take(&mut self.leases) {
            let leases = match self.guard() {
                Ok(()) => self.lease(&domain, most).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &leases {
                self.give_up(error.clone());
            }
            // leases that nobody waits for any more go home
            if let Err(Ok(leases)) = answer.send(leases) {
                leases.into_iter().for_each(Lease::home);
            }
        }
    }

    async fn lease(&mut self, domain: &Domain, most: usize) -> Result<Vec<Lease>, Error> {
        let now = self.clock.now();
        let mut leases = Vec::new();
        while leases.len() < most {
            let ready = self.agenda.change(domain, |standing| standing.claim.as_mut()?.ready.pop_front());
            match ready {
                Some(envelope) if self.held.contains(&envelope.id.launch()) => self.hold(domain, &envelope),
                Some(envelope) => {
                    self.agenda.change(domain, |standing| {
                        standing.for_person.remove(&envelope.id);
                        standing.leased.insert(envelope.id)
                    });
                    leases.push(Lease::new(domain.clone(), envelope, self.homes.clone()));
                }
                None => {
                    // the ledger is read next: what was put aside just now must be gone from it
                    self.commit().await;
                    self.guard()?;
                    if !self.read_ahead(domain, now)? {
                        break;
                    }
                }
            }
        }
        if leases.len() < most {
            self.agenda.change(domain, |standing| standing.claim = None);
        }
        Ok(leases)
    }

    /// Fills a claim with due copies; gives whether there were any. When there are none, it notes when the next is due.
    fn read_ahead(&mut self, domain: &Domain, now: Timestamp) -> Result<bool, Error> {
        let Some(claim) = self.agenda.look(domain).and_then(|standing| standing.claim.as_ref()) else {
            return Ok(false);
        };
        let mut found = self.read(domain, claim.read_to.clone(), now)?;
        if found.ready.is_empty() && !found.read_to.is_empty() {
            // what was passed over may have become due, or be due later: only a reading from the start knows
            found = self.read(domain, Vec::new(), now)?;
        }
        Ok(self.agenda.change(domain, |standing| {
            let any = !found.ready.is_empty();
            if !any {
                standing.next = found.next;
            }
            if let Some(claim) = standing.claim.as_mut() {
                *claim = Claim { ready: found.ready, read_to: found.read_to };
            }
            any
        }))
    }

    /// Reads both lanes of a domain above `read_to`, until some copies are found.
    fn read(&self, domain: &Domain, read_to: Vec<u8>, now: Timestamp) -> Result<Found, Error> {
        let mut found = Found { read_to, ..Found::default() };
        for lane in [Lane::Urgent, Lane::Bulk] {
            let prefix = keys::lane_prefix(domain, lane);
            if found.ready.is_empty() && (found.read_to < prefix || found.read_to.starts_with(&prefix)) {
                self.read_lane(domain, &prefix, now, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Reads due copies of one lane that are not leased, from where `found` has come.
    fn read_lane(&self, domain: &Domain, prefix: &[u8], now: Timestamp, found: &mut Found) -> Result<(), Error> {
        let empty = BTreeSet::new();
        let leased = self.agenda.look(domain).map_or(&empty, |standing| &standing.leased);
        loop {
            let from = if found.read_to.starts_with(prefix) { keys::after(&found.read_to) } else { prefix.to_vec() };
            let page = self.ledger.scan(prefix, &from, AHEAD)?;
            for (key, value) in &page {
                let Some((_, due, id)) = keys::parse_due(key) else { continue };
                if due > now {
                    found.next = Some(found.next.map_or(due, |next| next.min(due)));
                    return Ok(());
                }
                found.read_to = key.clone();
                if !leased.contains(&id)
                    && let Some(envelope) = codec::read_envelope(id, value)
                {
                    found.ready.push_back(envelope);
                }
            }
            if !found.ready.is_empty() || page.len() < AHEAD {
                return Ok(());
            }
        }
    }

    pub(super) fn rest(&mut self, domain: &Domain, until: Until) {
        let now = self.clock.now();
        self.agenda.change(domain, |standing| {
            (standing.rest, standing.is_for_person) = (until.at(), until.is_for_person());
            if standing.claim.take().is_some() {
                // what was read ahead is due; the next claim finds out what is left
                standing.expect(now);
            }
        });
    }

    pub(super) fn welcome_home(&mut self) {
        let now = self.clock.now();
        for back in self.homes.take() {
            let known = self.agenda.change(&back.domain, |standing| {
                let known = standing.leased.remove(&back.id);
                standing.expect(now);
                if let Some(claim) = standing.claim.as_mut() {
                    *claim = Claim::default();
                }
                known
            });
            match back.manner {
                Manner::Dropped if known => self.take_dropped(&back.domain, back.id, now),
                Manner::Dropped => {}
                // untried, so that its intent came to nothing
                Manner::GivenBack => self.intents.settle(back.id),
            }
        }
    }

    /// A copy whose task ended over it. With an intent on the ledger its final dot may be out: it is in doubt, as after a
    /// crash.
    fn take_dropped(&mut self, domain: &Domain, id: EnvelopeId, now: Timestamp) {
        let Some(key) = self.intents.of(id).map(keys::intent) else { return self.count_drop(domain, id, now) };
        let record = match self.ledger.value(&key) {
            Ok(record) => record.unwrap_or_default(),
            Err(error) => return self.give_up(error),
        };
        match codec::read_intent(&key, &record).copy {
            Some((_, envelope)) => self.leave_in_doubt(domain, envelope, now),
            None => {
                self.batch.moves.push(Move::Put(keys::damaged_intent(&key, Some(id)), record));
                match self.find(domain, id) {
                    Ok(Some((_, envelope))) => self.leave_in_doubt(domain, envelope, now),
                    Ok(None) => {}
                    Err(error) => self.give_up(error),
                }
            }
        }
    }

    /// Lists a copy as one that may have been sent; it leaves the queue, or is due again.
    fn leave_in_doubt(&mut self, domain: &Domain, mut envelope: Envelope, now: Timestamp) {
        tracing::warn!(copy = %envelope.id, "in doubt: {TASK_ENDED}");
        self.batch.moves.push(Move::Remove(keys::due(domain, &envelope)));
        self.left(domain, envelope.id);
        let mode = (self.in_doubt)(envelope.id.launch());
        let outcome = doubt(&mut envelope, mode, TASK_ENDED, now);
        self.batch.outcomes.push(outcome);
        if mode == InDoubt::Resend {
            self.put_due(domain, &envelope);
        }
    }

    /// Gives a copy up whose lease was dropped too often: some code of ours cannot handle it.
    fn count_drop(&mut self, domain: &Domain, id: EnvelopeId, now: Timestamp) {
        let drops = self.drops.entry(id).or_default();
        *drops += 1;
        if *drops < DROPS_MAX {
            return;
        }
        tracing::error!(copy = %id, "given up: its task ended {DROPS_MAX} times without an attempt; this is a bug");
        match self.find(domain, id) {
            Ok(Some((key, envelope))) => {
                self.batch.moves.push(Move::Remove(key));
                let text = "given up after its task ended without an attempt: a bug of mailshot".to_owned();
                let outcome = decided(&envelope, Standing::Failed, Class::Undetermined, text, now);
                self.batch.outcomes.push(outcome.unanswered());
                self.left(domain, id);
            }
            Ok(None) => {}
            Err(error) => self.give_up(error),
        }
    }

    /// The due key and record of one copy of a domain.
    fn find(&self, domain: &Domain, id: EnvelopeId) -> Result<Option<(Vec<u8>, Envelope)>, Error> {
        let prefix = keys::domain_prefix(domain);
        let mut from = prefix.clone();
        loop {
            let page = self.ledger.scan(&prefix, &from, PAGE)?;
            for (key, value) in &page {
                if keys::parse_due(key).is_some_and(|(_, _, found)| found == id) {
                    return Ok(codec::read_envelope(id, value).map(|envelope| (key.clone(), envelope)));
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => return Ok(None),
            }
        }
    }

    pub(super) fn place(&self, domain: &Domain, id: EnvelopeId) -> Result<Option<Place>, Error> {
        if let Some((_, envelope)) = self.find(domain, id)? {
            let leased = self.is_leased(domain, id);
            return Ok(Some(Place { envelope, leased, held: false }));
        }
        let held = self.ledger.value(&keys::held(id))?.and_then(|record| codec::read_parked(id, &record));
        Ok(held.map(|(_, envelope)| Place { envelope, leased: false, held: true }))
    }
}

/// What a reading of the ledger found for a claim.
#[derive(Default)]
struct Found {
    ready: VecDeque<Envelope>,
    read_to: Vec<u8>,
    next: Option<Timestamp>,
}
