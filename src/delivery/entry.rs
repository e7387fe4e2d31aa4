//! The entries in the book that follow from attempts and decisions: a ruled copy in, a settlement out. Counts tries, sets
//! the next due time, gives up what has expired. Judges nothing itself.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Domain, Timestamp};
use crate::config::Retry;
use crate::delivery::stops::Stop;
use crate::mail::{Channel, Class, InDoubt, Outcome, Reply, Stage, Standing};
use crate::queue::{Lease, Next, Settlement, Until};
use crate::world::{Clock, Dice, World};

/// What waits for a person is looked at again after this time: for expired copies, and for what belongs elsewhere.
pub(super) const RECHECK: Duration = Duration::from_secs(5 * 60);
/// The same where the person's word itself ends the wait: nothing is found meanwhile.
const UNTIL_RESUMED: Duration = Duration::from_secs(3600);
/// The same where nobody says that something is mended.
const MENDING: Duration = Duration::from_secs(15 * 60);

/// What was said of a copy, by whom, and when in the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// How far it came; `None` when the entry is not of an attempt.
    pub stage: Option<Stage>,
    /// The answer, or what stands for one.
    pub reply: Option<Reply>,
    /// The host.
    pub host: Option<Domain>,
    /// The site it is counted under.
    pub site: Arc<str>,
    /// How the connection was secured.
    pub channel: Option<Channel>,
}

/// Writes entries.
pub(super) struct Entries {
    clock: Arc<dyn Clock>,
    dice: Arc<dyn Dice>,
    retry: Retry,
}

impl Entries {
    pub fn new(world: &World, retry: Retry) -> Entries {
        Entries { clock: world.clock.clone(), dice: world.dice.clone(), retry }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A time between `span` and half as much again from now, so that what rested together does not come back together.
    pub fn in_about(&self, span: Duration) -> Timestamp {
        self.now() + span.mul_f64(1.0 + 0.5 * self.dice.fraction())
    }

    /// Until a person lets it go, of what stands still till then.
    pub fn for_person(&self) -> Until {
        Until::Person(self.in_about(RECHECK))
    }

    /// Until a person resumes it, and whatever waits is swept or woken then.
    pub fn until_resumed(&self) -> Until {
        Until::Person(self.in_about(UNTIL_RESUMED))
    }

    /// Until a person has mended what is wrong with it.
    pub fn until_mended(&self) -> Until {
        Until::Person(self.in_about(MENDING))
    }

    /// It is tried: its date is that of its first attempt, and from there counts the time after which it is given up. What
    /// kept it waiting before, a rate, a pause or a process that was stopped, is no fault of its host.
    pub fn begin(&self, lease: &mut Lease) {
        let (now, envelope) = (self.now(), &mut lease.envelope);
        if envelope.date.is_none() {
            envelope.date = Some(now);
            envelope.expires = now + self.retry.expires.duration();
        }
    }

    /// Taken by its host.
    pub fn delivered(&self, mut lease: Lease, said: Said) -> Settlement {
        count(&mut lease);
        let outcome = self.outcome(&lease, Standing::Delivered, Class::Delivered, said);
        lease.settle(outcome, Next::Gone)
    }

    /// Refused for good, or without a way to a host.
    pub fn failed(&self, mut lease: Lease, class: Class, said: Said) -> Settlement {
        count(&mut lease);
        let is_answer = said.stage != Some(Stage::Route);
        let outcome = self.outcome(&lease, Standing::Failed, class, said);
        lease.settle(if is_answer { outcome } else { outcome.unanswered() }, Next::Gone)
    }

    /// To be tried again, not before `after` where that is given; a try that counts. Given up when it would come too late.
    pub fn deferred(&self, mut lease: Lease, class: Class, after: Option<Duration>, said: Said) -> Settlement {
        self.begin(&mut lease);
        count(&mut lease);
        let (now, tries) = (self.now(), lease.envelope.tries);
        let due = self.retry.due(now, tries, class, self.dice.fraction());
        let due = after.map_or(due, |after| due.max(now + after));
        if due > lease.envelope.expires {
            return self.expired(lease, said);
        }
        let outcome = self.outcome(&lease, Standing::Deferred, class, said);
        lease.settle(outcome, Next::Again(due.into()))
    }

    /// To be tried again at a time, without counting a try: the trouble was not its own.
    pub fn again(&self, mut lease: Lease, class: Class, until: impl Into<Until>, said: Said) -> Settlement {
        self.begin(&mut lease);
        let until = until.into();
        if until.at() > lease.envelope.expires {
            return self.expired(lease, said);
        }
        let outcome = self.outcome(&lease, Standing::Deferred, class, said);
        lease.settle(outcome, Next::Again(until))
    }

    /// Put off to a time without having been tried: its turn cannot come before.
    pub fn aside(&self, lease: Lease, until: impl Into<Until>, text: String, site: Arc<str>) -> Settlement {
        let standing = if lease.envelope.tries == 0 { Standing::Waiting } else { Standing::Deferred };
        let said = Said { stage: None, reply: None, host: None, site, channel: None };
        let outcome = Outcome { text, ..self.outcome(&lease, standing, Class::SoftSystem, said) };
        lease.settle(outcome, Next::Again(until.into()))
    }

    /// Put off because it is stopped at its site. What stood still together does not come back together.
    pub fn stopped(&self, lease: Lease, stop: Stop, site: Arc<str>) -> Settlement {
        let Stop { why, until } = stop;
        let until = match until {
            Some(until) => Until::Time(self.in_about(until.since(self.now()))),
            None => self.until_resumed(),
        };
        self.aside(lease, until, why.to_string(), site)
    }

    /// Given up: its time is over. The last answer stands in the entry, that to another copy where it was never tried itself.
    /// One whose answer was lost may have been taken, and nobody knows: it ends in doubt, and is not sent again for that loss.
    pub fn expired(&self, lease: Lease, said: Said) -> Settlement {
        let mut outcome = self.outcome(&lease, Standing::Failed, Class::SoftExpired, said);
        let last = match (&*outcome.text, outcome.code) {
            ("", Some(code)) => code.to_string(),
            ("", None) => "none".to_owned(),
            (text, _) => text.to_owned(),
        };
        outcome.text = match (lease.envelope.date, lease.envelope.tries) {
            (None, 0) => format!("given up before its turn came; the last answer of its site: {last}"),
            (_, tries) => format!("given up after {tries} tries; the last answer: {last}"),
        };
        lease.settle(outcome.unanswered(), Next::Gone)
    }

    /// Decided without an attempt: barred, skipped, cancelled, or not to be printed; in doubt where an answer was lost before.
    pub fn decided(
        &self,
        lease: Lease,
        standing: Standing,
        class: Class,
        stage: Option<Stage>,
        text: String,
        site: Arc<str>,
    ) -> Settlement {
        let said = Said { stage, reply: None, host: None, site, channel: None };
        let outcome = Outcome { text, ..self.outcome(&lease, standing, class, said) };
        lease.settle(outcome.unanswered(), Next::Gone)
    }

    /// Its final dot was out when the answer was lost (C-22): sent again, or held, as its launch says.
    pub fn doubtful(&self, mut lease: Lease, mode: InDoubt, said: Said) -> Settlement {
        count(&mut lease);
        lease.envelope.doubtful = lease.envelope.doubtful.saturating_add(1);
        match mode {
            InDoubt::Resend => {
                let due = self.retry.due(self.now(), lease.envelope.tries, Class::SoftSystem, self.dice.fraction());
                if due > lease.envelope.expires {
                    return self.expired(lease, said);
                }
                let outcome = self.outcome(&lease, Standing::Deferred, Class::SoftSystem, said);
                lease.settle(outcome, Next::Again(due.into()))
            }
            InDoubt::Hold => {
                let outcome = self.outcome(&lease, Standing::InDoubt, Class::SoftSystem, said);
                lease.settle(outcome, Next::Gone)
            }
        }
    }

    fn outcome(&self, lease: &Lease, state: Standing, class: Class, said: Said) -> Outcome {
        let Said { stage, reply, host, site, channel } = said;
        let (code, enhanced, text) =
            reply.map_or((None, None, String::new()), |reply| (Some(reply.code), reply.enhanced, reply.text));
        Outcome {
            envelope: lease.envelope.id,
            state,
            class,
            code,
            enhanced,
            stage,
            text,
            host,
            site: Some(site),
            channel,
            tries: lease.envelope.tries,
            doubtful: lease.envelope.doubtful,
            at: self.now(),
        }
    }
}

fn count(lease: &mut Lease) {
    lease.envelope.tries = lease.envelope.tries.saturating_add(1);
}
