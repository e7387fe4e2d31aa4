//! Writing: one commit for what has piled up, waited for as long as the disk is in trouble.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::queue::keeper::{Batch, Keeper, OUTBOX_CHUNK};
use crate::queue::ledger::Move;
use crate::queue::{Error, Stall, codec, keys, lock};

/// The first wait of a write that failed, and the longest; it doubles in between.
const STALL_MIN: Duration = Duration::from_millis(200);
const STALL_MAX: Duration = Duration::from_secs(10);
/// How often a write is still tried once the queue is to end, and how long it waits each time.
const LAST_TRIES: u32 = 5;
const LAST_WAIT: Duration = Duration::from_secs(1);

impl Keeper {
    pub(super) fn guard(&self) -> Result<(), Error> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Writes what has piled up, and answers. What cannot be written is kept and tried again until it can: meanwhile nobody
    /// is answered, so that nobody goes on. Only when the queue is to end, or its files are damaged, everybody who asks is
    /// told why, and nothing more is written.
    pub(super) async fn commit(&mut self) {
        let Batch { moves, outcomes, answers, .. } = &self.batch;
        if moves.is_empty() && outcomes.is_empty() && answers.is_empty() && self.intents.are_swept() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let over = self.intents.sweep().into_iter();
        batch.moves.extend(over.map(|number| Move::Remove(keys::intent(number))));
        let mut number = self.depth.last_outcome;
        for chunk in batch.outcomes.chunks(OUTBOX_CHUNK) {
            number += 1;
            batch.moves.push(Move::Put(keys::outbox(number), codec::write_outcomes(chunk)));
        }
        let done = self.write_out(&batch.moves).await;
        match &done {
            Ok(()) => {
                self.depth.last_outcome = number;
                self.show();
                self.count_spans(&batch.leased);
            }
            Err(error) => self.give_up(error.clone()),
        }
        for answer in batch.answers {
            let _ = answer.send(done.clone());
        }
    }

    /// From here on everybody who asks is told why.
    pub(super) fn give_up(&mut self, error: Error) {
        if self.broken.is_none() {
            tracing::error!(%error, "the queue has stopped");
        }
        let error = self.broken.get_or_insert(error).clone();
        for claim in self.claims.drain(..) {
            let _ = claim.send(Err(error.clone()));
        }
    }

    /// Commits, again and again while the disk is in trouble.
    async fn write_out(&mut self, moves: &[Move]) -> Result<(), Error> {
        self.guard()?;
        let (mut wait, mut last_tries) = (STALL_MIN, LAST_TRIES);
        loop {
            let error = match self.write(moves) {
                Ok(()) => {
                    self.go_on();
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.may_pass() || last_tries == 0 || self.requests.is_closed() {
                return Err(error);
            }
            self.stand_still(&error);
            tokio::select! {
                biased;
                () = self.face.hurry.cancelled() => {
                    self.ledger.use_reserve();
                    last_tries -= 1;
                    sleep(LAST_WAIT).await;
                }
                () = sleep(wait) => wait = (wait * 2).min(STALL_MAX),
            }
        }
    }

    /// Shows why nothing goes on.
    fn stand_still(&self, error: &Error) {
        let now = self.clock.now();
        self.face.stall.send_if_modified(|shown| match shown {
            Some(known) if known.why == *error => false,
            Some(known) => {
                known.why = error.clone();
                true
            }
            None => {
                tracing::error!(%error, "nothing more is sent until the queue can be written; it goes on by itself then");
                *shown = Some(Stall { why: error.clone(), since: now });
                true
            }
        });
    }

    fn go_on(&self) {
        if self.face.stall.borrow().is_some() {
            tracing::warn!("the queue can be written again, and goes on");
            self.face.stall.send_replace(None);
        }
    }

    /// Commits; a panic inside the ledger counts as a failure of the disk.
    fn write(&mut self, moves: &[Move]) -> Result<(), Error> {
        if moves.is_empty() {
            return Ok(());
        }
        let ledger = &mut self.ledger;
        catch_unwind(AssertUnwindSafe(|| ledger.commit(moves)))
            .unwrap_or_else(|_| Err(Error::Disk { why: "the queue's files failed inside a write".into() }))
    }

    pub(super) fn show(&self) {
        *lock(&self.face.depth) = self.depth.clone();
    }

    fn count_spans(&self, leased: &[Instant]) {
        let now = Instant::now();
        let mut spans = lock(&self.face.spans);
        leased.iter().for_each(|since| spans.count(now.duration_since(*since)));
    }
}
