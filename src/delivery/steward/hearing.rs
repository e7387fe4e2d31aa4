//! What a site says, taken in: into its limits, to whoever is to be told, and as a pause exactly as wide as the trouble.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::LaunchId;
use crate::delivery::carrier::Heard;
use crate::delivery::dial::Trouble;
use crate::delivery::entry::Said;
use crate::delivery::kit::Back;
use crate::delivery::limits::{Binding, NotNow};
use crate::delivery::notices::About;
use crate::delivery::route::NoRoute;
use crate::delivery::steward::Steward;
use crate::delivery::steward::door::Claims;
use crate::delivery::steward::orders::Order;
use crate::delivery::stops::Scope;
use crate::delivery::trouble::{Fault, Judgement, judge_by};
use crate::mail::{Blame, NoticeKind, Verdict, impersonal};
use crate::queue::Until;
use crate::smtp::classify::Reaction;

/// How long a relay that could not be reached is passed over for the others.
const RELAY_REST: Duration = Duration::from_secs(60);
/// The longest rest of domains whose hosts cannot be reached while the site as a whole is in order.
const DOOR_REST_MAX: Duration = Duration::from_secs(5 * 60);

impl Steward {
    /// Takes in how one copy ended.
    pub(super) fn note(&mut self, heard: Heard, now: Instant) {
        let Heard { launch, judgement, words, took } = heard;
        self.limits.took(took);
        match judgement.ruling.verdict {
            Verdict::Delivered => self.meter.count(now),
            Verdict::Deferred | Verdict::Failed => self.note_trouble(&judgement, &words, Some(launch)),
        }
        if let Reaction::Pause(span) = judgement.reaction {
            self.pause_narrow(launch, judgement.ruling.blame, span, &words);
        }
        if self.kit.new_domains.are_any()
            && self.is_direct
            && let Ok(facts) = self.kit.launches.facts(launch)
        {
            self.kit.new_domains.heard(&facts.new_domains, &self.post.1, &judgement);
        }
        self.hear_out(&judgement, &words, now);
    }

    /// A pause that names a launch's links or a From domain holds for these at this site, from every source, and for nobody
    /// else (C-49).
    pub(super) fn pause_narrow(&mut self, launch: LaunchId, blame: Blame, span: Duration, words: &str) {
        let road = &self.kit.road;
        let scope = match blame {
            Blame::Campaign => Some(Scope::Launch(launch)),
            Blame::Stream => {
                let from = self.kit.launches.facts(launch).ok().and_then(|facts| facts.from.clone());
                Some(from.map_or(Scope::Launch(launch), Scope::Stream))
            }
            Blame::Recipient | Blame::Message | Blame::Host | Blame::Site | Blame::Source | Blame::Ourselves => None,
        };
        let Some(scope) = scope else { return };
        road.stops.pause(scope, self.post.1.clone(), impersonal(words).into(), self.kit.entries.now() + span);
        let mut batch = Vec::new();
        for key in self.doors.keys().cloned().collect::<Vec<_>>() {
            let stock = self.doors.get_mut(&key).map(|door| std::mem::take(&mut door.stock)).unwrap_or_default();
            for job in stock {
                let from = job.facts.from.as_ref();
                let now = self.kit.entries.now();
                match self.kit.road.stops.why(job.lease.envelope.id.launch(), from, &self.post.1, now) {
                    Some(stop) => {
                        let site = self.counted_under(&key, &job);
                        batch.push(self.kit.entries.stopped(job.lease, stop, site));
                    }
                    None => {
                        if let Some(door) = self.doors.get_mut(&key) {
                            door.stock.push_back(job);
                        }
                    }
                }
            }
        }
        if !batch.is_empty() {
            self.orders.push(Order::Settle(batch));
        }
    }

    pub(super) fn note_trouble(&mut self, judgement: &Judgement, words: &str, launch: Option<LaunchId>) {
        self.news |= judgement.ruling.blame != Blame::Recipient || judgement.reaction != Reaction::None;
        self.last_reply = Some(words.to_owned());
        let Some(kind) = judgement.notice() else { return };
        let lasts = match judgement.reaction {
            Reaction::Pause(span) | Reaction::Slow(span) => Some(span),
            Reaction::None
            | Reaction::Hold
            | Reaction::Halt
            | Reaction::OneConnection(_)
            | Reaction::ShortSession(_)
            | Reaction::OverIpv4 => None,
        };
        let about = About { launch: launch.filter(|_| kind == NoticeKind::Misconfigured), ..self.about() };
        // an event is heard on all connections, and told once
        if self.told.replace((kind, words.to_owned())).is_none_or(|told| told != (kind, words.to_owned())) {
            self.kit.road.notices.raise(kind, about, words, lasts);
        }
    }

    /// Takes a judgement into the limits, and tells when the site is given up for a while.
    pub(super) fn hear_out(&mut self, judgement: &Judgement, words: &str, now: Instant) {
        let was_paused = self.limits.is_paused(now);
        self.limits.heard(judgement, words, now);
        if judgement.ruling.verdict == Verdict::Delivered {
            self.told = None;
            // that it failed before is to be forgotten on record as well
            self.news |= self.learned.as_ref().is_some_and(|learned| learned.since.is_some());
        }
        let pauses = matches!(judgement.reaction, Reaction::Pause(_));
        if let Some(rest) = self.limits.is_paused(now).filter(|_| was_paused.is_none() && !pauses) {
            let words = format!("no success on any connection; the last answer: {words}");
            self.kit.road.notices.raise(NoticeKind::Paused, self.about(), &words, Some(rest));
        }
    }

    pub(super) fn about(&self) -> About {
        About { site: Some(self.post.1.clone()), source: Some(self.source.name.clone()), launch: None }
    }

    /// No connection came about.
    pub(super) fn shut(&mut self, key: &Arc<str>, trouble: Trouble, now: Instant) {
        let Some(door) = self.doors.get_mut(key) else { return };
        if let Some(tally) = self.kit.road.tally.as_ref().filter(|_| door.route.via.is_none()) {
            let waiting = door.stock.iter().map(|job| job.lease.domain());
            tally.failed(door.claims.iter().chain(waiting), self.source.address, &trouble);
        }
        let Trouble { stage, host, heard, .. } = trouble;
        let site = door.route.via.is_none().then_some(&*self.post.1);
        let judgement = judge_by(&self.kit.road.rules.now(), site, stage, heard.as_ref()).over(self.source.is_v6());
        let reply_of = heard.clone();
        let reply = heard.unwrap_or_else(|fault| fault.as_reply());
        let words = reply.to_string();
        if judgement.ruling.verdict == Verdict::Failed {
            return self.refuse(key, NoRoute { ruling: judgement.ruling, reply });
        }
        let gone = matches!(&reply_of, Err(Fault::SourceGone(_)));
        self.note_trouble(&judgement, &words, None);
        if gone {
            self.kit.road.notices.raise(NoticeKind::SourceGone, About { site: None, ..self.about() }, &words, None);
        }
        self.hear_out(&judgement, &words, now);
        if self.doors.get(key).is_some_and(|door| door.route.relay.as_ref().is_some_and(|relay| relay.has_others)) {
            return self.stand_in(key);
        }
        let rest = DOOR_REST_MAX.min(self.kit.road.settings.retry.first.duration());
        let until = match self.limits.binds(0, now) {
            Some(NotNow { binds: Binding::Held(_), .. }) => self.kit.entries.for_person(),
            Some(NotNow { binds: Binding::Paused(_), wait: Some(wait) }) => (self.kit.entries.now() + wait).into(),
            _ => self.kit.entries.in_about(rest).into(),
        };
        // the copy whose turn it was tells in the book why it waits
        if let Some(job) = self.doors.get_mut(key).and_then(|door| door.stock.pop_front()) {
            let site = self.counted_under(key, &job);
            let said = Said { stage: Some(stage), reply: Some(reply), host, site, channel: None };
            let again = self.kit.entries.again(job.lease, judgement.ruling.class, until, said);
            self.orders.push(Order::Settle(vec![again]));
        }
        if self.doors.get(key).is_some_and(|door| door.lines == 0) {
            self.rest_door(key, until, Claims::All);
        }
    }

    /// The other relays take over for a while; what may be tried here meanwhile tells whether it is back.
    pub(super) fn stand_in(&mut self, key: &Arc<str>) {
        let soon = Until::Time(self.kit.entries.now() + RELAY_REST);
        self.orders.push(Order::Tell(Back::Still(self.post.clone(), Some(soon))));
        self.pass_on(key);
        self.rest_door(key, soon, Claims::All);
    }

    /// Nobody behind this door can be reached, ever: the courier settles every copy of its domains.
    pub(super) fn refuse(&mut self, key: &Arc<str>, why: NoRoute) {
        let Some(door) = self.doors.get_mut(key) else { return };
        let (claims, stock) = (std::mem::take(&mut door.claims), std::mem::take(&mut door.stock));
        let mut batch = Vec::new();
        for job in stock {
            let site = self.counted_under(key, &job);
            let stage = Some(crate::mail::Stage::Route);
            let said = Said { stage, reply: Some(why.reply.clone()), host: None, site, channel: None };
            batch.push(self.kit.entries.failed(job.lease, why.ruling.class, said));
        }
        if !batch.is_empty() {
            self.orders.push(Order::Settle(batch));
        }
        self.orders.extend(claims.into_iter().map(|domain| Order::Tell(Back::Refused(domain, why.clone()))));
    }
}
