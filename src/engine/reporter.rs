//! The reporter: puts on record how sessions fared as to TLS, and once a day has the reports on it sent. What nobody asked
//! for is forgotten.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::delivery::tls_report::{self, Round, TlsReports};
use crate::delivery::tls_tally::{Tally, begin_of, day_of};
use crate::store::Store;
use crate::world::{Clock, Dice};

/// How often what was counted goes on record; a crash loses so much of it.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// How often what could not be delivered is tried again.
const ROUND_EVERY: Duration = Duration::from_secs(3600);
/// Reports of a day leave at a time of our own within this span after it, so that not everybody's arrive at midnight
/// (RFC 8460 §4.1).
const SPREAD: Duration = Duration::from_secs(4 * 3600);

/// Writes down, and reports.
pub(super) struct Reporter {
    tally: Tally,
    reports: TlsReports,
    store: Store,
    clock: Arc<dyn Clock>,
    /// After the end of a day.
    delay: Duration,
}

enum Event {
    Write,
    Round,
    Rounded(Result<Round, tls_report::Error>),
}

impl Reporter {
    pub fn new(tally: Tally, reports: TlsReports, store: Store, clock: Arc<dyn Clock>, dice: &dyn Dice) -> Reporter {
        let delay = Duration::from_secs(dice.roll() % SPREAD.as_secs());
        Reporter { tally, reports, store, clock, delay }
    }

    /// Until it is stopped; what was counted is on record then.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut write_at = Instant::now() + WRITE_EVERY;
        let mut round_at = Instant::now() + WRITE_EVERY;
        let mut round: Option<BoxFuture<'static, Result<Round, tls_report::Error>>> = None;
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                done = running(&mut round), if round.is_some() => Event::Rounded(done),
                () = sleep_until(write_at) => Event::Write,
                () = sleep_until(round_at), if round.is_none() => Event::Round,
            };
            match event {
                Event::Write => {
                    self.write().await;
                    write_at = Instant::now() + WRITE_EVERY;
                }
                Event::Round => {
                    round_at = Instant::now() + ROUND_EVERY;
                    let (reports, before) = (self.reports.clone(), self.over());
                    round = Some(async move { reports.send_all(before).await }.boxed());
                }
                Event::Rounded(done) => {
                    round = None;
                    match done {
                        Ok(Round { sent, unwanted, failed, dropped }) => {
                            tracing::info!(sent, unwanted, failed, dropped, "reports on TLS");
                        }
                        Err(error) => tracing::warn!(%error, "reports on TLS wait for the next round"),
                    }
                }
            }
        }
        self.write().await;
        Ok(())
    }

    /// The first day that is not to be reported yet.
    fn over(&self) -> i64 {
        let now = self.clock.now();
        let today = day_of(now);
        if now >= begin_of(today) + self.delay { today } else { today - 1 }
    }

    /// Reports are no reason to stop sending: what the record does not take is counted no more.
    async fn write(&self) {
        let rows = self.tally.take();
        if !rows.is_empty()
            && let Err(error) = self.store.add_tls_sessions(rows).await
        {
            tracing::warn!(%error, "sessions for reports on TLS could not be recorded");
        }
    }
}

/// The round under way; to be asked only when there is one.
async fn running(
    round: &mut Option<BoxFuture<'static, Result<Round, tls_report::Error>>>,
) -> Result<Round, tls_report::Error> {
    match round {
        Some(round) => round.as_mut().await,
        None => std::future::pending().await,
    }
}
