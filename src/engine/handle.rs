//! What may be asked of a running engine: take up a launch, pause, resume, cancel or retry it, and whether it has
//! settled. Every move of a launch is on record before the queue follows.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::Error;
use super::bell::Bell;
use super::stalls::Stalls;
use super::status::{CopyView, DomainView};
use super::stop::Alarm;
use crate::base::{Address, Domain, EnvelopeId, LaunchId, SourceId, Span, Timestamp};
use crate::campaign::new_envelope;
use crate::delivery::notices::{About, Notices};
use crate::delivery::sites::{Sites, resume_on_record, suspend_on_record};
use crate::delivery::source::Sources;
use crate::delivery::stops::Stops;
use crate::mail::{Class, Envelope, NoticeKind, Outcome, Standing};
use crate::queue::{self, Depth, Queue, Sweep, Whose};
use crate::store::{Counted, LaunchRow, LaunchState, Store, Strain};
use crate::world::Clock;

/// The first and the longest wait between two looks at whether a launch has settled.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LONGEST: Duration = Duration::from_millis(500);

/// How long a launch is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until nothing is due within this time.
    UpTo(Duration),
    /// Until every copy is final.
    All,
}

/// Why a launch is waited for no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// Every copy is final.
    Final,
    /// What is left is due later.
    Deferred,
    /// It is held.
    Paused,
    /// It was called back.
    Cancelled,
}

/// Copies admitted in one commit.
const SLICE: usize = 100;
/// A launch that may still be paused and resumed.
const OPEN: [LaunchState; 2] = [LaunchState::Running, LaunchState::Paused];

/// The outcome of copies that are called off; id and tries are those of each.
pub(super) fn called_off(why: &str, now: Timestamp) -> Outcome {
    Outcome {
        envelope: EnvelopeId::from_u64(0),
        state: Standing::Cancelled,
        class: Class::Undetermined,
        code: None,
        enhanced: None,
        stage: None,
        text: why.to_owned(),
        host: None,
        site: None,
        channel: None,
        tries: 0,
        doubtful: 0,
        at: now,
    }
}

/// A handle on the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) store: Store,
    pub(super) queue: Queue,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bell: Arc<Bell>,
    pub(super) alarm: Alarm,
    pub(super) sites: Option<Sites>,
    pub(super) stops: Stops,
    pub(super) notices: Notices,
    pub(super) sources: Arc<Sources>,
    /// The life of a copy from its planning.
    pub(super) expires: Span,
    pub(super) stalls: Stalls,
    /// Held by whoever closes launches, and by whoever has copies between the record and the queue.
    pub(super) in_between: Arc<Mutex<()>>,
}

impl Handle {
    /// Sees to a launch that was put on record: its planning begins, or goes on.
    pub fn take_up(&self, launch: LaunchId) {
        tracing::debug!(%launch, "taken up");
        self.bell.ring();
    }

    /// Tells people that a mailbox cannot be read before they do something about it.
    pub fn mailbox_refused(&self, mailbox: &str, why: &str) {
        let about = About { source: Some(mailbox.into()), ..About::default() };
        self.notices.raise(NoticeKind::MailboxRefused, about, why, None);
    }

    /// Holds a launch: nothing of it is planned or sent until it is resumed. Gives how many copies were put aside; those
    /// on the wire are finished.
    pub async fn pause(&self, launch: LaunchId) -> Result<u64, Error> {
        self.shift(launch, "paused", &OPEN, LaunchState::Paused).await?;
        self.follow(launch, None).await
    }

    /// Puts a paused launch back to work. Gives how many copies were put back.
    pub async fn resume(&self, launch: LaunchId) -> Result<u64, Error> {
        self.may(launch, "resumed", &OPEN)?;
        let was_stopped = self.lift_stops(launch).await?;
        // on record before the queue is asked, which sends what its sweeps put back
        self.shift(launch, "resumed", &OPEN, LaunchState::Running).await?;
        self.follow(launch, was_stopped.then_some(Sweep::Retry)).await
    }

    /// Stops a launch by itself, and says why: at one site, or as a whole. On record before it holds. Gives whether there
    /// was anything to stop: it may have ended meanwhile.
    pub(super) async fn stop(&self, launch: LaunchId, site: Option<Arc<str>>, why: &str) -> Result<bool, Error> {
        self.store.stop_launch(launch, site.clone(), why.to_owned(), self.clock.now()).await?;
        let Some(site) = site else {
            return match self.pause(launch).await {
                // it holds once the queue goes on, and till then nothing is sent
                Ok(_) | Err(Error::Waits(_)) => Ok(true),
                Err(Error::State { .. }) => Ok(false),
                Err(error) => Err(error),
            };
        };
        self.stops.put(launch, site, why.into());
        Ok(true)
    }

    /// A person resumes a launch: what stopped it counts no more. Gives whether anything did: where it was stopped it is
    /// to be tried at once.
    async fn lift_stops(&self, launch: LaunchId) -> Result<bool, Error> {
        let strains = self.store.strains(launch, 0)?;
        let counted = |strain: &Strain| Counted {
            answers: strain.answers,
            bounced: strain.bounced,
            complained: strain.complained,
        };
        let whole = strains.iter().map(counted).fold(Counted::default(), |sum, one| Counted {
            answers: sum.answers + one.answers,
            bounced: sum.bounced + one.bounced,
            complained: sum.complained + one.complained,
        });
        let mut all: Vec<_> = strains.iter().map(|strain| (Some(strain.site.clone()), counted(strain))).collect();
        all.push((None, whole));
        let was_stopped = self.store.breaks(Some(launch))?.iter().any(|found| found.lifted.is_none());
        self.store.lift_breaks(launch, all, self.clock.now()).await?;
        self.stops.lift(launch);
        Ok(was_stopped)
    }

    /// Calls a launch back: what was not sent never will be. Gives how many copies were cancelled at once; those on the
    /// wire are finished.
    pub async fn cancel(&self, launch: LaunchId) -> Result<u64, Error> {
        const FROM: [LaunchState; 3] = [LaunchState::Running, LaunchState::Paused, LaunchState::Cancelled];
        self.shift(launch, "cancelled", &FROM, LaunchState::Cancelled).await?;
        self.follow(launch, None).await
    }

    /// Makes everything of a launch that waits for its time due now. Gives how many copies that are. Sites that rest go
    /// on resting: hosts are not pressed.
    pub async fn retry(&self, launch: LaunchId) -> Result<u64, Error> {
        self.may(launch, "retried", &[LaunchState::Running])?;
        self.sweep(launch, Sweep::Retry).await
    }

    /// As [`Handle::retry`], for a domain, whatever launch its copies are of.
    pub async fn retry_domain(&self, domain: Domain) -> Result<u64, Error> {
        self.sweep(domain, Sweep::Retry).await
    }

    /// Sends the copies of a launch again that are held in doubt: a person has decided. Each may arrive twice, and is
    /// counted as such. Gives how many they are.
    pub async fn retry_doubts(&self, launch: LaunchId) -> Result<u64, Error> {
        let row = self.launch(launch)?;
        let now = self.clock.now();
        let _in_between = self.in_between.lock().await;
        let doubts = self.store.take_up_doubts(launch, "sent again at a person's word", now).await?;
        if doubts.is_empty() {
            self.may(launch, "retried", &[LaunchState::Running, LaunchState::Done])?;
        }
        let copies = doubts.iter().filter_map(|doubt| {
            let domain = Address::parse(&doubt.address).ok()?.domain().clone();
            let fresh = new_envelope(&row, doubt.contact, self.expires, now);
            Some((domain, Envelope { tries: doubt.tries, doubtful: doubt.doubtful, ..fresh }))
        });
        let copies: Vec<(Domain, Envelope)> = copies.collect();
        for slice in copies.chunks(SLICE) {
            self.queue.admit_more(launch, slice.to_vec()).await?;
        }
        // those admitted behind the sweep of a pause or a cancel
        self.follow(launch, None).await?;
        Ok(copies.len() as u64)
    }

    /// Takes the copies of a launch or a domain out of the queue: each ends as cancelled, or in doubt where an
    /// answer was lost. What is on the wire is finished, what is not planned yet will be. Gives how many they were.
    pub async fn drop_copies(&self, whose: Whose) -> Result<u64, Error> {
        let outcome = called_off("dropped from the queue by hand", self.clock.now());
        self.sweep(whose, Sweep::Drop(outcome)).await
    }

    /// How many copies of a launch or a domain are in the queue and not on the wire.
    pub async fn count(&self, whose: Whose) -> Result<u64, Error> {
        self.sweep(whose, Sweep::Count).await
    }

    /// Sends nothing more to a site, nor to the domain of that name, until it is resumed; holds over restarts.
    pub async fn suspend_site(&self, name: &str) -> Result<(), Error> {
        const WHY: &str = "suspended by hand";
        match &self.sites {
            Some(sites) if sites.suspend(name, WHY).await => Ok(()),
            // nobody sends, or nobody does any more: whoever will finds it on record
            Some(_) | None => Ok(suspend_on_record(&self.queue, name, WHY, self.now()).await?),
        }
    }

    /// Lets a site, and the domain of that name, go on, whatever held it up.
    pub async fn resume_site(&self, name: &str) -> Result<(), Error> {
        match &self.sites {
            Some(sites) if sites.resume(name).await => Ok(()),
            Some(_) | None => Ok(resume_on_record(&self.queue, name).await?),
        }
    }

    /// Moves a launch on record; refused where it does not stand in one of `from`, whoever moved it meanwhile.
    async fn shift(
        &self,
        launch: LaunchId,
        verb: &'static str,
        from: &'static [LaunchState],
        to: LaunchState,
    ) -> Result<(), Error> {
        let stood = self.store.move_launch(launch, from, to, self.clock.now()).await?;
        self.bell.ring();
        match stood {
            Some(state) if from.contains(&state) => Ok(()),
            Some(state) => Err(Error::State { campaign: self.launch(launch)?.campaign, state, verb }),
            None => Err(Error::NoLaunch(launch)),
        }
    }

    /// Has the queue do what the record says of a launch; gives how many copies that came to. Another move may come on
    /// record before the queue has done it: the queue follows the last.
    async fn follow(&self, launch: LaunchId, first: Option<Sweep>) -> Result<u64, Error> {
        let (store, queue, clock) = (self.store.clone(), self.queue.clone(), self.clock.clone());
        self.ask(async move {
            if let Some(first) = first {
                queue.sweep(launch, first).await?;
            }
            let (mut followed, mut swept) = (None, 0);
            loop {
                let state = store.launch(launch)?.map(|row| row.state);
                if state == followed {
                    return Ok(swept);
                }
                let sweep = match state {
                    Some(LaunchState::Running) => Sweep::Release,
                    Some(LaunchState::Paused) => Sweep::Hold,
                    Some(LaunchState::Cancelled) => Sweep::Cancel(called_off("cancelled", clock.now())),
                    Some(LaunchState::Done) | None => return Ok(swept),
                };
                swept = queue.sweep(launch, sweep).await?;
                followed = state;
            }
        })
        .await
    }

    async fn sweep(&self, whose: impl Into<Whose>, sweep: Sweep) -> Result<u64, Error> {
        let (queue, whose) = (self.queue.clone(), whose.into());
        self.ask(async move { Ok(queue.sweep(whose, sweep).await?) }).await
    }

    /// Waits for what the queue is asked. A queue that waits for its disk is not waited for: it does what was asked once it
    /// goes on.
    async fn ask(&self, asked: impl Future<Output = Result<u64, Error>> + Send + 'static) -> Result<u64, Error> {
        // a task of its own: what was asked outlives whoever waits for it no longer
        let asked = tokio::spawn(asked);
        tokio::select! {
            biased;
            done = asked => done.unwrap_or(Err(queue::Error::Closed.into())),
            stall = self.queue.stalled() => Err(Error::Waits(stall.why)),
        }
    }

    /// What is on the road to one domain; `None`: nothing.
    pub async fn domain(&self, domain: &Domain) -> Result<Option<DomainView>, Error> {
        Ok(self.queue.domain(domain).await?.as_ref().map(DomainView::of))
    }

    /// One copy as it is in the queue; `None` when it is not.
    pub async fn copy(&self, copy: EnvelopeId) -> Result<Option<CopyView>, Error> {
        let Some(row) = self.store.copy(copy)? else { return Ok(None) };
        let Ok(address) = Address::parse(&row.address) else { return Ok(None) };
        let found = self.queue.find(address.domain(), copy).await?;
        Ok(found.map(|found| CopyView {
            due: found.envelope.due.rfc3339(),
            expires: found.envelope.date.map(|_| found.envelope.expires.rfc3339()),
            tries: found.envelope.tries,
            leased: found.leased,
            held: found.held,
        }))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The name of a source.
    pub fn source_name(&self, id: SourceId) -> String {
        self.sources.by_id(id).map_or_else(|| id.0.to_string(), |source| source.name.to_string())
    }

    /// Waits until something stops the engine: a full disk, a bug.
    pub async fn failed(&self) -> Error {
        self.alarm.rung().await
    }

    /// Waits until a launch has settled, by its own way or by what stops the engine.
    pub async fn settled(&self, launch: LaunchId, wait: Wait) -> Result<Settled, Error> {
        let mut pause = LOOK_FIRST;
        loop {
            if let Some(settled) = self.glance(launch, wait).await? {
                return Ok(settled);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_LONGEST);
        }
    }

    /// Whether a launch has settled by now; what stops the engine ends the look, for a planner that is gone answers nobody.
    pub async fn glance(&self, launch: LaunchId, wait: Wait) -> Result<Option<Settled>, Error> {
        tokio::select! {
            biased;
            why = self.alarm.rung() => Err(why),
            settled = self.look(launch, wait) => settled,
        }
    }

    async fn look(&self, launch: LaunchId, wait: Wait) -> Result<Option<Settled>, Error> {
        let row = self.launch(launch)?;
        match row.state {
            LaunchState::Done => Ok(Some(Settled::Final)),
            LaunchState::Paused => Ok(Some(Settled::Paused)),
            LaunchState::Cancelled => {
                // what is being planned of it is admitted first, and called back then
                self.bell.ring_and_wait().await;
                Ok(self.is_drained()?.then_some(Settled::Cancelled))
            }
            LaunchState::Running => match wait {
                Wait::All => Ok(None),
                Wait::UpTo(span) => Ok(self.is_at_rest(&row, span).await?.then_some(Settled::Deferred)),
            },
        }
    }

    /// Whether a launch has copies left, nothing is due within `span`, and nothing more can be planned before something
    /// is. The queue must be idle before and after the planner has looked, with nothing done in between: then no room
    /// came about unseen.
    async fn is_at_rest(&self, launch: &LaunchRow, span: Duration) -> Result<bool, Error> {
        let before = self.queue.depth();
        let is_idle = async || self.queue.is_idle(self.clock.now() + span).await;
        if !self.is_drained()? || !is_idle().await? {
            return Ok(false);
        }
        self.bell.ring_and_wait().await;
        let is_left = before.by_launch.contains_key(&launch.id) || !launch.planned;
        Ok(is_left && is_idle().await? && self.queue.depth() == before)
    }

    /// Whether the record has every outcome.
    fn is_drained(&self) -> Result<bool, Error> {
        let last = self.queue.depth().last_outcome;
        Ok(self.store.last_outcome()? >= last)
    }

    /// The sites as they stand; none while nothing is sent.
    pub fn sites(&self) -> Option<&Sites> {
        self.sites.as_ref()
    }

    /// How much is on the road.
    pub fn depth(&self) -> Depth {
        self.queue.depth()
    }

    /// The queue itself, for whoever shows it.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    fn launch(&self, launch: LaunchId) -> Result<LaunchRow, Error> {
        self.store.launch(launch)?.ok_or(Error::NoLaunch(launch))
    }

    fn may(&self, launch: LaunchId, verb: &'static str, from: &[LaunchState]) -> Result<(), Error> {
        let LaunchRow { campaign, state, .. } = self.launch(launch)?;
        match from.contains(&state) {
            true => Ok(()),
            false => Err(Error::State { campaign, state, verb }),
        }
    }
}
