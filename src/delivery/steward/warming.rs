//! The steward's part in the warm-up of its source: days are ended, and what may be sent is on record before it is.

use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::steward::Steward;
use crate::delivery::steward::orders::Order;
use crate::delivery::warmup::{Calendar, Gate, Warming, Warmth};
use crate::mail::NoticeKind;
use crate::queue::Lease;
use crate::store::WarmupRow;

/// A copy that was tried so often has had its chance, warm-up or not.
const TRIED: u16 = 5;
/// How long until a record that could not be read is asked for again.
const UNREAD: Duration = Duration::from_secs(2);

impl Steward {
    /// Goes on with the warm-up where the record stands; a relay knows us. A record that cannot be read is no beginning:
    /// nothing is sent until it can be.
    pub(super) fn take_up_warmup(&mut self, now: Instant) {
        self.unread = None;
        let Some(day) = self.source.warmup.filter(|_| self.is_direct) else { return };
        let road = &self.kit.road;
        let Ok(kept) = road.store.warmup(&self.source.name, &self.post.1) else {
            tracing::warn!(site = %self.post.1, source = %self.source.name, "the record of the warm-up cannot be read");
            self.unread = Some(now + UNREAD);
            return;
        };
        let warmth = kept.and_then(|text| Warmth::from_text(&text)).unwrap_or_else(|| Warmth::beginning(day));
        let calendar = Calendar::new(&road.settings.warmup);
        self.limits.warm_up(Warming::new(calendar, &self.post.1, warmth, now, self.kit.entries.now()));
    }

    /// How long nothing is sent because the record of the warm-up could not be read; it is read again when it is time.
    pub(super) fn awaits_record(&mut self, now: Instant) -> Option<Duration> {
        if self.unread? <= now {
            self.take_up_warmup(now);
        }
        self.unread.map(|again| again.saturating_duration_since(now))
    }

    pub(super) fn put_warmup(&self, state: String) -> impl Future<Output = bool> + Send + 'static {
        let (store, now) = (self.kit.road.store.clone(), self.kit.entries.now());
        let row = WarmupRow { source: self.source.name.to_string(), site: self.post.1.to_string(), state };
        async move { store.put_warmup(row, now).await.is_ok() }
    }

    /// Puts the warm-up on record as it is when the steward goes.
    pub(super) fn last_of_warmup(&mut self) -> Option<impl Future<Output = bool> + Send + 'static> {
        let record = self.limits.warming()?.record();
        Some(self.put_warmup(record))
    }

    /// Ends a day of the warm-up that is over, and puts on record what may be sent next.
    pub(super) fn keep_warm(&mut self, now: Instant) {
        if self.is_direct && self.kit.new_domains.are_any() {
            self.orders.extend(self.kit.new_domains.chores(&self.post.1, now).into_iter().map(Order::Introduce));
            self.put_new_aside(now);
        }
        if self.turning {
            return;
        }
        let is_idle = self.doors.is_empty();
        let Some(warming) = self.limits.warming() else { return };
        if let Some(since) = warming.ends_day(now) {
            self.turning = true;
            self.orders.push(Order::EndDay(since));
        } else if !is_idle && let Some(record) = warming.reserve(now) {
            self.orders.push(Order::KeepWarm(record));
        }
    }

    /// Copies whose new domains keep them waiting for long make room for others.
    fn put_new_aside(&mut self, now: Instant) {
        let entries = &self.kit.entries;
        let mut batch = Vec::new();
        for door in self.doors.values_mut() {
            for job in std::mem::take(&mut door.stock) {
                match self.kit.new_domains.turn(&job.facts.new_domains, &self.post.1, now) {
                    Some((turn, why)) => {
                        let site = self.kit.counted_under(&door.route, job.lease.domain());
                        let at = entries.now() + turn.saturating_duration_since(now);
                        batch.push(entries.aside(job.lease, at, why, site));
                    }
                    None => door.stock.push_back(job),
                }
            }
        }
        if !batch.is_empty() {
            self.orders.push(Order::Settle(batch));
        }
    }

    /// Whether a copy has hardly been tried because its source, or a domain of its launch, is still being made known.
    pub(super) fn waited_for_warmup(&mut self, lease: &Lease) -> bool {
        if lease.envelope.tries >= TRIED || !self.is_direct {
            return false;
        }
        if self.unread.is_some() || self.limits.warming().is_some_and(|warming| warming.most().is_some()) {
            return true;
        }
        let facts = self.kit.launches.facts(lease.envelope.id.launch());
        let new_domains = facts.map(|facts| facts.new_domains.clone()).unwrap_or_default();
        self.kit.new_domains.keep_waiting(&new_domains, &self.post.1, Instant::now())
    }

    /// A day of the warm-up is over.
    pub(super) fn end_day(&mut self, complaints: u64, now: Instant) {
        self.turning = false;
        let Some(warming) = self.limits.warming() else { return };
        let gate = warming.turn(complaints, now);
        let (record, day) = (warming.record(), warming.in_words(now).unwrap_or_else(|| "known by now".to_owned()));
        tracing::info!(site = %self.post.1, source = %self.source.name, ?gate, "{day}");
        if gate == Gate::Stop {
            let words = "two bad days of its warm-up in a row: too many deferrals, bounces or complaints";
            self.limits.hold(words, now);
            self.news = true;
            self.kit.road.notices.raise(NoticeKind::WarmupStopped, self.about(), words, None);
        }
        self.orders.push(Order::Record(record));
    }
}
