//! Sweeps: something happens to all copies of a launch or a domain.

use std::collections::BTreeMap;

use crate::base::{Domain, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Envelope, Outcome};
use crate::queue::agenda::Standing;
use crate::queue::keeper::{Keeper, PAGE};
use crate::queue::ledger::Move;
use crate::queue::{Error, Sweep, Whose, codec, keys};

impl Keeper {
    pub(super) fn hold(&mut self, domain: &Domain, envelope: &Envelope) {
        self.batch.moves.push(Move::Remove(keys::due(domain, envelope)));
        self.batch.moves.push(Move::Put(keys::held(envelope.id), codec::write_parked(domain, envelope)));
        self.left(domain, envelope.id);
        self.put_aside(envelope.id.launch());
    }

    /// Counts a copy of a launch as held.
    pub(super) fn put_aside(&mut self, launch: LaunchId) {
        self.depth.held += 1;
        *self.depth.held_by_launch.entry(launch).or_default() += 1;
    }

    /// Counts a copy as held no longer.
    fn took_back(&mut self, launch: LaunchId) {
        self.depth.held = self.depth.held.saturating_sub(1);
        if let Some(count) = self.depth.held_by_launch.get_mut(&launch) {
            *count -= 1;
            if *count == 0 {
                self.depth.held_by_launch.remove(&launch);
            }
        }
    }

    pub(super) async fn sweep(&mut self, whose: &Whose, sweep: &Sweep) -> Result<u64, Error> {
        if let Whose::Launch(launch) = whose {
            match sweep {
                Sweep::Hold => drop(self.held.insert(*launch)),
                Sweep::Release | Sweep::Cancel(_) => drop(self.held.remove(launch)),
                Sweep::Retry | Sweep::Drop(_) | Sweep::Count => {}
            }
        }
        match sweep {
            Sweep::Release => self.sweep_held(whose, sweep).await,
            Sweep::Cancel(_) | Sweep::Drop(_) | Sweep::Count => {
                Ok(self.sweep_held(whose, sweep).await? + self.sweep_due(whose, sweep).await?)
            }
            Sweep::Hold | Sweep::Retry => self.sweep_due(whose, sweep).await,
        }
    }

    /// Puts held copies back, or ends them.
    async fn sweep_held(&mut self, whose: &Whose, sweep: &Sweep) -> Result<u64, Error> {
        let (mut next, mut swept) = (Some(Vec::new()), 0);
        while let Some(from) = next {
            next = self.sweep_held_page(whose, sweep, &from, &mut swept)?;
            self.commit().await;
            self.guard()?;
        }
        Ok(swept)
    }

    /// The same for a page, not committed yet; gives where to go on, if there may be more.
    pub(super) fn sweep_held_page(
        &mut self,
        whose: &Whose,
        sweep: &Sweep,
        from: &[u8],
        swept: &mut u64,
    ) -> Result<Option<Vec<u8>>, Error> {
        let prefix = match whose {
            Whose::Launch(launch) => keys::held_prefix(*launch),
            Whose::Domain(_) => vec![keys::HELD],
        };
        let page = self.ledger.scan(&prefix, from, PAGE)?;
        for (key, value) in &page {
            *swept += u64::from(self.sweep_one_held(key, value, whose, sweep));
        }
        Ok(page.last().filter(|_| page.len() == PAGE).map(|(key, _)| keys::after(key)))
    }

    fn sweep_one_held(&mut self, key: &[u8], value: &[u8], whose: &Whose, sweep: &Sweep) -> bool {
        let id = key.last_chunk().map(|id| EnvelopeId::from_u64(u64::from_be_bytes(*id)));
        let Some((id, (domain, envelope))) = id.and_then(|id| Some((id, codec::read_parked(id, value)?))) else {
            return false;
        };
        if matches!(whose, Whose::Domain(only) if *only != domain) {
            return false;
        }
        let leave = |keeper: &mut Keeper| {
            keeper.batch.moves.push(Move::Remove(key.to_vec()));
            keeper.took_back(id.launch());
        };
        match sweep {
            Sweep::Count => {}
            Sweep::Hold | Sweep::Retry | Sweep::Release => {
                leave(self);
                self.put_due(&domain, &envelope);
            }
            Sweep::Cancel(outcome) | Sweep::Drop(outcome) => {
                leave(self);
                self.batch.outcomes.push(addressed(outcome, id, &envelope));
            }
        }
        true
    }

    /// Walks due copies and does something to those that are meant and not leased.
    async fn sweep_due(&mut self, whose: &Whose, sweep: &Sweep) -> Result<u64, Error> {
        let now = self.clock.now();
        let prefix = match whose {
            Whose::Launch(_) => vec![keys::DUE],
            Whose::Domain(domain) => keys::domain_prefix(domain),
        };
        let (mut from, mut swept) = (Vec::new(), 0);
        let mut resting: BTreeMap<Domain, bool> = BTreeMap::new();
        loop {
            let page = self.ledger.scan(&prefix, &from, PAGE)?;
            for (key, value) in &page {
                let Some((domain, _, id)) = keys::parse_due(key) else { continue };
                if matches!(whose, Whose::Launch(launch) if id.launch() != *launch) {
                    continue;
                }
                let Ok(domain) = Domain::parse(domain) else { continue };
                let leased = self.is_leased(&domain, id);
                let Some(envelope) = codec::read_envelope(id, value).filter(|_| !leased) else { continue };
                let rests = match sweep {
                    Sweep::Retry => *resting.entry(domain.clone()).or_insert_with(|| self.wake(&domain, now)),
                    Sweep::Hold | Sweep::Release | Sweep::Cancel(_) | Sweep::Drop(_) | Sweep::Count => false,
                };
                swept += u64::from(self.sweep_one(&domain, envelope, sweep, now, rests));
            }
            self.commit().await;
            self.guard()?;
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => return Ok(swept),
            }
        }
    }

    /// Ends the rest of every domain, and nothing waits for a person any more.
    pub(super) fn wake_all(&mut self) {
        let now = self.clock.now();
        let waits = |standing: &Standing| standing.rest > now || !standing.for_person.is_empty();
        let waiting = self.agenda.domains().filter(|(_, standing)| waits(standing));
        for domain in waiting.map(|(domain, _)| domain.clone()).collect::<Vec<_>>() {
            self.agenda.change(&domain, |standing| standing.for_person.clear());
            self.wake(&domain, now);
        }
    }

    /// Ends a domain's rest; gives whether it had one.
    pub(super) fn wake(&mut self, domain: &Domain, now: Timestamp) -> bool {
        let rests = self.agenda.look(domain).is_some_and(|standing| standing.rest > now);
        if rests {
            self.agenda.change(domain, |standing| (standing.rest, standing.is_for_person) = (now, false));
        }
        rests
    }

    /// Gives whether anything was done to the copy; `rests`: its domain's rest was ended for it.
    fn sweep_one(
        &mut self,
        domain: &Domain,
        mut envelope: Envelope,
        sweep: &Sweep,
        now: Timestamp,
        rests: bool,
    ) -> bool {
        let (key, id) = (keys::due(domain, &envelope), envelope.id);
        let forget = |keeper: &mut Keeper| {
            keeper.agenda.change(domain, |standing| {
                if let Some(claim) = standing.claim.as_mut() {
                    claim.ready.retain(|ready| ready.id != id);
                }
            });
        };
        match sweep {
            Sweep::Count => {}
            Sweep::Retry if envelope.due <= now => return rests,
            Sweep::Retry => {
                self.batch.moves.push(Move::Remove(key));
                self.left(domain, id);
                envelope.due = now;
                self.put_due(domain, &envelope);
            }
            Sweep::Hold | Sweep::Release => {
                forget(self);
                self.hold(domain, &envelope);
            }
            Sweep::Cancel(outcome) | Sweep::Drop(outcome) => {
                forget(self);
                self.batch.moves.push(Move::Remove(key));
                self.batch.outcomes.push(addressed(outcome, id, &envelope));
                self.left(domain, id);
            }
        }
        true
    }
}

/// A general outcome made that of one copy, which leaves with it.
fn addressed(outcome: &Outcome, id: EnvelopeId, envelope: &Envelope) -> Outcome {
    Outcome { envelope: id, tries: envelope.tries, doubtful: envelope.doubtful, ..outcome.clone() }.unanswered()
}
