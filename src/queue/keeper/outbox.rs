//! Outcomes on their way to the record: given to the clerk, and cleared once it has them.

use crate::mail::Outcome;
use crate::queue::keeper::{ClerkCall, Keeper, OUTBOX_CHUNK};
use crate::queue::ledger::Move;
use crate::queue::{Error, codec, keys};

/// Records of the outbox read at a time: they are large, and where the clerk is behind there are many.
const OUTBOX_PAGE: usize = 32;

impl Keeper {
    pub(super) fn serve_clerk(&mut self) {
        let Some(ClerkCall { most, answer }) = self.clerk.take() else { return };
        if let Err(error) = self.guard() {
            drop(answer.send(Err(error)));
            return;
        }
        match self.read_outbox(most) {
            // records are numbered from 1
            Ok((0, _)) => self.clerk = Some(ClerkCall { most, answer }),
            found => drop(answer.send(found)),
        }
    }

    /// Outcomes from the front of the outbox, about `most` of them however few each commit had, and the number of their last
    /// record.
    fn read_outbox(&mut self, most: usize) -> Result<(u64, Vec<Outcome>), Error> {
        let (mut last, mut outcomes, mut from) = (0, Vec::new(), Vec::new());
        while outcomes.len() < most {
            let page = self.ledger.scan(&[keys::OUTBOX], &from, OUTBOX_PAGE)?;
            let (is_last, after) = (page.len() < OUTBOX_PAGE, page.last().map(|(key, _)| keys::after(key)));
            for (key, value) in page {
                if outcomes.len() >= most {
                    break;
                }
                last = keys::parse_outbox(&key).unwrap_or_default();
                match codec::read_outcomes(&value) {
                    Some(read) => outcomes.extend(read),
                    None => self.keep_damaged(last, value),
                }
            }
            match after {
                Some(after) if !is_last => from = after,
                _ => break,
            }
        }
        Ok((last, outcomes))
    }

    /// A record that cannot be read must not hold up those behind it, nor vanish: it is put where `queue verify` finds it.
    fn keep_damaged(&mut self, number: u64, value: Vec<u8>) {
        tracing::error!(
            number,
            "a record of outcomes in the queue cannot be read: what became of up to {OUTBOX_CHUNK} copies is unknown; `mailshot queue verify` names it"
        );
        self.batch.moves.push(Move::Put(keys::damaged(number), value));
    }

    pub(super) fn clear(&mut self, up_to: u64) {
        self.batch.moves.push(Move::Put(keys::CLEARED.to_vec(), up_to.to_be_bytes().to_vec()));
        let mut from = Vec::new();
        loop {
            let page = match self.ledger.scan(&[keys::OUTBOX], &from, OUTBOX_PAGE) {
                Ok(page) => page,
                Err(error) => {
                    self.give_up(error);
                    return;
                }
            };
            let cleared = page.iter().filter(|(key, _)| keys::parse_outbox(key).is_some_and(|number| number <= up_to));
            self.batch.moves.extend(cleared.map(|(key, _)| Move::Remove(key.clone())));
            match page.last() {
                Some((key, _)) if page.len() == OUTBOX_PAGE && keys::parse_outbox(key) <= Some(up_to) => {
                    from = keys::after(key)
                }
                _ => return,
            }
        }
    }
}
