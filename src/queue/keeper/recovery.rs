//! Recovery: what a crash left in doubt is settled before anything else.

use crate::base::{Domain, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Class, Envelope, InDoubt, Outcome, Standing};
use crate::queue::codec::Intent;
use crate::queue::keeper::{OUTBOX_CHUNK, PAGE};
use crate::queue::ledger::{Ledger, Move};
use crate::queue::{Error, codec, keys};

/// Why a copy is in doubt.
const PROCESS_ENDED: &str = "the process ended between the final dot and the record of the answer";

/// Settles every intent that a crash left behind; gives the last number used in the outbox.
pub(super) fn recover(
    ledger: &mut dyn Ledger,
    mut number: u64,
    now: Timestamp,
    mode: &dyn Fn(LaunchId) -> InDoubt,
) -> Result<u64, Error> {
    loop {
        let page = ledger.scan(&[keys::INTENT], &[], OUTBOX_CHUNK)?;
        if page.is_empty() {
            return Ok(number);
        }
        let (mut moves, mut outcomes) = (Vec::new(), Vec::new());
        for (key, value) in page {
            let Intent { id, copy } = codec::read_intent(&key, &value);
            let copy = match copy {
                Some(copy) => Some(copy),
                None => {
                    tracing::error!(
                        "the record of an intent cannot be read; it is kept, and `mailshot queue verify` names it"
                    );
                    moves.push(Move::Put(keys::damaged_intent(&key, id), value));
                    id.map(|id| find_anywhere(ledger, id)).transpose()?.flatten()
                }
            };
            if let Some((domain, mut envelope)) = copy {
                moves.push(Move::Remove(keys::due(&domain, &envelope)));
                let mode = mode(envelope.id.launch());
                outcomes.push(doubt(&mut envelope, mode, PROCESS_ENDED, now));
                if mode == InDoubt::Resend {
                    moves.push(Move::Put(keys::due(&domain, &envelope), codec::write_envelope(&envelope)));
                }
            }
            moves.push(Move::Remove(key));
        }
        number += 1;
        moves.push(Move::Put(keys::outbox(number), codec::write_outcomes(&outcomes)));
        ledger.commit(&moves)?;
    }
}

/// The due copy of an id whose domain nothing tells: everything is read for it.
fn find_anywhere(ledger: &dyn Ledger, id: EnvelopeId) -> Result<Option<(Domain, Envelope)>, Error> {
    let mut from = Vec::new();
    loop {
        let page = ledger.scan(&[keys::DUE], &from, PAGE)?;
        let found = page.iter().find_map(|(key, value)| {
            let (domain, _, _) = keys::parse_due(key).filter(|(_, _, found)| *found == id)?;
            Some((Domain::parse(domain).ok()?, codec::read_envelope(id, value)?))
        });
        match page.last() {
            Some((key, _)) if page.len() == PAGE && found.is_none() => from = keys::after(key),
            _ => return Ok(found),
        }
    }
}

/// What becomes of a copy whose answer was lost; one to be sent again is due now.
pub(super) fn doubt(envelope: &mut Envelope, mode: InDoubt, why: &str, now: Timestamp) -> Outcome {
    envelope.doubtful = envelope.doubtful.saturating_add(1);
    let state = match mode {
        InDoubt::Resend => {
            envelope.due = now;
            Standing::Deferred
        }
        InDoubt::Hold => Standing::InDoubt,
    };
    decided(envelope, state, Class::SoftSystem, why.to_owned(), now)
}

/// An outcome that no host gave.
pub(super) fn decided(envelope: &Envelope, state: Standing, class: Class, text: String, at: Timestamp) -> Outcome {
    Outcome {
        envelope: envelope.id,
        state,
        class,
        code: None,
        enhanced: None,
        stage: None,
        text,
        host: None,
        site: None,
        channel: None,
        tries: envelope.tries,
        doubtful: envelope.doubtful,
        at,
    }
}
