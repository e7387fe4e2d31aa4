//! The single writer: takes what has piled up, commits once, answers all. Owns the ledger and the agenda; nobody else
//! touches either.

mod idleness;
mod leases;
mod outbox;
mod recovery;
mod sources;
mod sweeps;
mod writing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::recovery::recover;
use super::agenda::{Agenda, Claim, Standing as DomainStanding};
use super::intents::Intents;
use super::lease::{Action, Homes, Lease, Settlement, Until};
use super::ledger::{Ledger, Move, walk};
use super::{Admission, BUCKETS, Claimed, Depth, DomainDepth, Error, Place, Spans, Stall, Sweep, Whose, codec, keys};
use crate::base::{Domain, EnvelopeId, LaunchId, SourceId, Timestamp};
use crate::mail::{Envelope, InDoubt, Outcome};
use crate::world::Clock;

/// Requests that may wait for the keeper.
pub(super) const REQUESTS_MAX: usize = 1024;
/// Moves in one commit, but for those of a single request.
pub(super) const MOVES_MAX: usize = 1000;
/// Pairs read at a time in a walk over the whole ledger.
const PAGE: usize = 1000;
/// Outcomes in one record of the outbox, so that no value becomes large.
const OUTBOX_CHUNK: usize = 64;
/// Whoever settled copies within this time is sending.
const SENDING_SINCE: Duration = Duration::from_millis(100);
/// How long settlements gather for a commit: a sync costs the same for one as for many.
const GATHER: Duration = Duration::from_millis(1);
/// They gather until one connection in so many is heard of.
const GATHERED: usize = 4;
/// The longest wait for a due time at once; wall time may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);
type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the keeper is asked.
pub(super) enum Request {
    Admit(Vec<Admission>, Reply<()>),
    Claim(Reply<Claimed>),
    Lease(Domain, usize, Reply<Vec<Lease>>),
    Rest(Domain, Until, Reply<()>),
    Wake(Reply<()>),
    Settle(Vec<Settlement>, Reply<()>),
    Sweep(Whose, Sweep, Reply<u64>),
    Value(Vec<u8>, Reply<Option<Vec<u8>>>),
    Learn(Vec<u8>, Vec<u8>, Reply<()>),
    Outbox(usize, Reply<(u64, Vec<Outcome>)>),
    Clear(u64, Reply<()>),
    Find(Domain, EnvelopeId, Reply<Option<Place>>),
    Domain(Domain, Reply<Option<DomainDepth>>),
    Domains(usize, Reply<Vec<DomainDepth>>),
    AllLearned(Reply<Vec<(SourceId, String, Vec<u8>)>>),
    NumberSources(Vec<String>, Reply<Vec<SourceId>>),
    Idle(Timestamp, Reply<bool>),
    Close(Reply<()>),
}

/// Where the keeper shows how things stand, and how it is told to end.
pub(super) struct Face {
    pub depth: Arc<Mutex<Depth>>,
    pub spans: Arc<Mutex<Spans>>,
    pub stall: watch::Sender<Option<Stall>>,
    /// From now on a stall is not waited out for long.
    pub hurry: CancellationToken,
}

/// What a queue needs to know when it opens.
pub struct Opening {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The number of the last batch of outcomes that the store has; new ones are numbered above it.
    pub last_outcome: u64,
    /// What becomes of a launch's copies in doubt.
    pub in_doubt: Box<dyn Fn(LaunchId) -> InDoubt + Send>,
    /// The bucket of a domain, below [`BUCKETS`].
    pub bucket: fn(&Domain) -> u8,
    /// The launches that are held.
    pub held: BTreeSet<LaunchId>,
}

/// The queue's single writer. [`Keeper::run`] is its life.
pub struct Keeper {
    ledger: Box<dyn Ledger>,
    clock: Arc<dyn Clock>,
    bucket: fn(&Domain) -> u8,
    requests: mpsc::Receiver<Request>,
    homes: Arc<Homes>,
    agenda: Agenda,
    intents: Intents,
    depth: Depth,
    face: Face,
    held: BTreeSet<LaunchId>,
    in_doubt: Box<dyn Fn(LaunchId) -> InDoubt + Send>,
    drops: BTreeMap<EnvelopeId, u8>,
    /// Each with who is to be told once it is written.
    admissions: VecDeque<(Admission, Option<Reply<()>>)>,
    /// When copies were last settled.
    settled: Option<Instant>,
    claims: VecDeque<Reply<Claimed>>,
    leases: Vec<LeaseCall>,
    clerk: Option<ClerkCall>,
    batch: Batch,
    /// Why the ledger can no longer be written; everybody who asks is told.
    broken: Option<Error>,
}

/// The clerk, waiting for outcomes.
struct ClerkCall {
    most: usize,
    answer: Reply<(u64, Vec<Outcome>)>,
}

/// A carrier's desk, waiting for leases: served together after the round's commit.
struct LeaseCall {
    domain: Domain,
    most: usize,
    answer: Reply<Vec<Lease>>,
}

/// What the next commit will do, and who waits for it.
#[derive(Default)]
struct Batch {
    moves: Vec<Move>,
    outcomes: Vec<Outcome>,
    /// When the copies of the outcomes were leased.
    leased: Vec<Instant>,
    answers: Vec<Reply<()>>,
}

/// What woke the keeper.
enum Event {
    Asked(Option<Request>),
    Home,
    Due,
}

impl Keeper {
    pub(super) fn open(
        mut ledger: Box<dyn Ledger>,
        opening: Opening,
        requests: mpsc::Receiver<Request>,
        face: Face,
    ) -> Result<Keeper, Error> {
        let outbox = ledger.last(&[keys::OUTBOX])?.and_then(|(key, _)| keys::parse_outbox(&key)).unwrap_or(0);
        let cleared = keys::number(ledger.value(keys::CLEARED)?);
        let now = opening.clock.now();
        let last_outcome =
            recover(&mut *ledger, outbox.max(cleared).max(opening.last_outcome), now, &*opening.in_doubt)?;
        let depth = Depth { by_bucket: vec![0; BUCKETS], last_outcome, ..Depth::default() };
        let mut keeper = Keeper {
            ledger,
            clock: opening.clock,
            bucket: opening.bucket,
            requests,
            homes: Arc::default(),
            agenda: Agenda::default(),
            intents: Intents::default(),
            depth,
            face,
            held: opening.held,
            in_doubt: opening.in_doubt,
            drops: BTreeMap::new(),
            admissions: VecDeque::new(),
            settled: None,
            claims: VecDeque::new(),
            leases: Vec::new(),
            clerk: None,
            batch: Batch::default(),
            broken: None,
        };
        keeper.count()?;
        keeper.release_forgotten()?;
        keeper.show();
        Ok(keeper)
    }

    /// Counts what is on the ledger, domain by domain, once.
    fn count(&mut self) -> Result<(), Error> {
        let mut from = Vec::new();
        loop {
            let page = self.ledger.scan(&[keys::DUE], &from, PAGE)?;
            for (key, _) in &page {
                let Some((domain, due, id)) = keys::parse_due(key) else { continue };
                let Ok(domain) = Domain::parse(domain) else { continue };
                self.arrived(&domain, due, id);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => break,
            }
        }
        let mut from = Vec::new();
        loop {
            let page = self.ledger.scan(&[keys::HELD], &from, PAGE)?;
            for launch in page.iter().filter_map(|(key, _)| keys::parse_held(key)) {
                self.put_aside(launch);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => return Ok(()),
            }
        }
    }

    /// Puts back what is held for launches that are not: a crash came between the word that they go on, or are cancelled, and
    /// the sweep.
    fn release_forgotten(&mut self) -> Result<(), Error> {
        let mut from = vec![keys::HELD];
        while let Some((key, _)) = self.ledger.scan(&[keys::HELD], &from, 1)?.pop() {
            let Some(launch) = keys::parse_held(&key) else { return Ok(()) };
            let mut next = Some(keys::held_prefix(launch)).filter(|_| !self.held.contains(&launch));
            while let Some(from) = next {
                next = self.sweep_held_page(&Whose::Launch(launch), &Sweep::Release, &from, &mut 0)?;
                let moves = std::mem::take(&mut self.batch.moves);
                self.ledger.commit(&moves)?;
            }
            // behind the last number there is nothing, also where a damaged record bears it
            let Some(next) = launch.0.checked_add(1) else { return Ok(()) };
            from = keys::held_prefix(LaunchId(next));
        }
        Ok(())
    }

    /// Runs on a thread of its own until every handle is gone: commits block it, and nobody else.
    pub fn spawn(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("keeper".into()).spawn(move || runtime.block_on(self.run()))
    }

    /// Takes what has piled up, commits once, answers all; until every handle is gone.
    pub async fn run(mut self) {
        loop {
            let nap = self.nap();
            let has_work = !self.admissions.is_empty();
            let event = tokio::select! {
                biased;
                request = self.requests.recv() => Event::Asked(request),
                () = self.homes.arrival() => Event::Home,
                () = std::future::ready(()), if has_work => Event::Due,
                () = sleep(nap.unwrap_or(NAP_MAX)), if nap.is_some() => Event::Due,
            };
            // what came home before a request was made must be there for it
            self.welcome_home();
            match event {
                Event::Asked(None) => break,
                Event::Asked(Some(request)) => self.take_all(request).await,
                Event::Home | Event::Due => {}
            }
            self.gather().await;
            if self.batch.moves.is_empty() && self.batch.outcomes.is_empty() {
                self.admit_waiting();
            }
            self.commit().await;
            self.serve_leases().await;
            // copies of held launches that came up were put aside
            self.commit().await;
            self.serve_claims();
            self.serve_clerk();
        }
        self.commit().await;
    }

    /// Waits a moment for settlements that can share the commit. Nobody who has a handful of connections waits, nor who
    /// wants leases.
    async fn gather(&mut self) {
        let until = Instant::now() + GATHER;
        let is_worth_it = |keeper: &Keeper| {
            let (waiting, most) = (keeper.batch.answers.len(), keeper.intents.open() / GATHERED);
            (1..most).contains(&waiting) && keeper.leases.is_empty()
        };
        while is_worth_it(self) {
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    Some(request) => self.take_all(request).await,
                    None => return,
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// How long until the next domain is due; `None` when nobody waits for one.
    fn nap(&self) -> Option<Duration> {
        if self.claims.is_empty() {
            return None;
        }
        let (at, _) = self.agenda.first()?;
        Some(at.since(self.clock.now()).min(NAP_MAX))
    }

    async fn take_all(&mut self, first: Request) {
        self.take(first).await;
        while self.batch.moves.len() < MOVES_MAX {
            match self.requests.try_recv() {
                Ok(request) => self.take(request).await,
                Err(_) => break,
            }
        }
    }

    async fn take(&mut self, request: Request) {
        match request {
            Request::Admit(slices, answer) => self.line_up(slices, answer),
            Request::Claim(answer) => match self.guard() {
                Ok(()) => self.claims.push_back(answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            Request::Lease(domain, most, answer) => self.leases.push(LeaseCall { domain, most, answer }),
            Request::Rest(domain, until, answer) => {
                self.rest(&domain, until);
                let _ = answer.send(Ok(()));
            }
            Request::Wake(answer) => {
                self.wake_all();
                let _ = answer.send(Ok(()));
            }
            Request::Settle(settlements, answer) => {
                self.settled = Some(Instant::now());
                for settlement in settlements {
                    self.settle(settlement);
                }
                self.batch.answers.push(answer);
            }
            Request::Sweep(whose, sweep, answer) => {
                // what is settled already must not be swept from under its commit
                self.commit().await;
                let swept = match self.guard() {
                    Ok(()) => self.sweep(&whose, &sweep).await,
                    Err(error) => Err(error),
                };
                let _ = answer.send(swept);
            }
            Request::Value(key, answer) => drop(answer.send(self.ledger.value(&key))),
            Request::Learn(key, value, answer) => {
                self.batch.moves.push(if value.is_empty() { Move::Remove(key) } else { Move::Put(key, value) });
                self.batch.answers.push(answer);
            }
            Request::Outbox(most, answer) => self.clerk = Some(ClerkCall { most, answer }),
            Request::Clear(up_to, answer) => {
                self.clear(up_to);
                self.batch.answers.push(answer);
            }
            Request::Find(domain, copy, answer) => drop(answer.send(self.place(&domain, copy))),
            Request::Domain(domain, answer) => {
                let found = self.agenda.look(&domain).map(|standing| depth(&domain, standing));
                let _ = answer.send(Ok(found));
            }
            Request::AllLearned(answer) => drop(answer.send(self.all_learned())),
            Request::NumberSources(names, answer) => drop(answer.send(self.number_sources(&names).await)),
            Request::Domains(most, answer) => drop(answer.send(Ok(self.domains(most)))),
            Request::Idle(until, answer) => {
                let idle = self.guard().and_then(|()| self.is_idle(until));
                let _ = answer.send(idle);
            }
            Request::Close(answer) => {
                // nobody can ask any more; the run ends once the last request is taken
                self.requests.close();
                self.batch.answers.push(answer);
            }
        }
    }

    /// Puts admissions in line; who asked is told once the last of them is written.
    fn line_up(&mut self, slices: Vec<Admission>, answer: Reply<()>) {
        let mut answer = Some(answer);
        let last = slices.len().saturating_sub(1);
        for (at, slice) in slices.into_iter().enumerate() {
            self.admissions.push_back((slice, if at == last { answer.take() } else { None }));
        }
        // there was nothing to admit
        self.batch.answers.extend(answer);
    }

    /// Takes in what makes a commit worth its sync; while copies are settled only one admission, so that they do not wait
    /// long behind it.
    fn admit_waiting(&mut self) {
        let is_sending = self.settled.is_some_and(|at| at.elapsed() < SENDING_SINCE);
        while self.admit_next() && !is_sending && self.batch.moves.len() < MOVES_MAX {}
    }

    /// Takes in one admission, whole: copies without the cursor behind them would be planned again after a crash, and sent
    /// again if they were gone by then. Gives whether there was one.
    fn admit_next(&mut self) -> bool {
        let Some((admission, answer)) = self.admissions.pop_front() else { return false };
        let Admission { launch, bucket, cursor, copies } = admission;
        for (domain, envelope) in &copies {
            self.put_due(domain, envelope);
        }
        self.batch.moves.push(Move::Put(keys::cursor(launch, bucket), cursor));
        self.batch.answers.extend(answer);
        true
    }

    /// Writes a copy as due and counts it.
    fn put_due(&mut self, domain: &Domain, envelope: &Envelope) {
        let key = keys::due(domain, envelope);
        self.arrived(domain, envelope.due, envelope.id);
        self.unread(domain, &key);
        self.batch.moves.push(Move::Put(key, codec::write_envelope(envelope)));
    }

    fn arrived(&mut self, domain: &Domain, due: Timestamp, id: EnvelopeId) {
        self.agenda.change(domain, |standing| {
            standing.waiting += 1;
            standing.expect(due);
        });
        self.depth.waiting += 1;
        self.depth.by_bucket[usize::from((self.bucket)(domain)) % BUCKETS] += 1;
        *self.depth.by_launch.entry(id.launch()).or_default() += 1;
    }

    fn left(&mut self, domain: &Domain, id: EnvelopeId) {
        self.drops.remove(&id);
        self.intents.settle(id);
        self.agenda.change(domain, |standing| {
            standing.leased.remove(&id);
            standing.for_person.remove(&id);
            standing.waiting = standing.waiting.saturating_sub(1);
        });
        self.depth.waiting = self.depth.waiting.saturating_sub(1);
        let bucket = &mut self.depth.by_bucket[usize::from((self.bucket)(domain)) % BUCKETS];
        *bucket = bucket.saturating_sub(1);
        if let Some(count) = self.depth.by_launch.get_mut(&id.launch()) {
            *count -= 1;
            if *count == 0 {
                self.depth.by_launch.remove(&id.launch());
            }
        }
    }

    fn is_leased(&self, domain: &Domain, id: EnvelopeId) -> bool {
        self.agenda.look(domain).is_some_and(|standing| standing.leased.contains(&id))
    }

    /// A copy was written below what a claim has read: the claim reads again from the start.
    fn unread(&mut self, domain: &Domain, key: &[u8]) {
        let claim = self.agenda.look(domain).and_then(|standing| standing.claim.as_ref());
        if claim.is_some_and(|claim| key <= claim.read_to.as_slice()) {
            self.agenda.change(domain, |standing| standing.claim = Some(Claim::default()));
        }
    }

    fn settle(&mut self, settlement: Settlement) {
        let Settlement { lease, action } = settlement;
        let (domain, mut envelope, leased_due, since) = lease.into_parts();
        let id = envelope.id;
        let was = keys::due_at(&domain, envelope.lane, leased_due, id);
        match action {
            // its lease went home before this was read: whoever would have sent it is gone
            Action::Intend if !self.is_leased(&domain, id) => {}
            Action::Intend => {
                envelope.due = leased_due;
                let key = keys::intent(self.intents.take(id));
                self.batch.moves.push(Move::Put(key, codec::write_intent(&domain, &envelope)));
            }
            Action::Gone(outcome) => {
                self.batch.moves.push(Move::Remove(was));
                self.batch.outcomes.push(outcome);
                self.batch.leased.push(since);
                self.left(&domain, id);
            }
            Action::Again(until, outcome) => {
                self.batch.moves.push(Move::Remove(was));
                self.batch.outcomes.push(outcome);
                self.batch.leased.push(since);
                self.left(&domain, id);
                envelope.due = until.at();
                self.put_due(&domain, &envelope);
                if until.is_for_person() {
                    self.agenda.change(&domain, |standing| standing.for_person.insert(id));
                }
            }
        }
    }

    fn all_learned(&self) -> Result<Vec<(SourceId, String, Vec<u8>)>, Error> {
        let mut all = Vec::new();
        walk(&*self.ledger, keys::LEARNED, |key, value| {
            all.extend(keys::parse_learned(key).map(|(source, site)| (source, site.to_owned(), value.to_owned())));
        })?;
        Ok(all)
    }

    fn domains(&self, most: usize) -> Vec<DomainDepth> {
        let mut all: Vec<DomainDepth> =
            self.agenda.domains().map(|(domain, standing)| depth(domain, standing)).collect();
        all.sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.domain.cmp(&b.domain)));
        all.truncate(most);
        all
    }
}

fn depth(domain: &Domain, standing: &DomainStanding) -> DomainDepth {
    DomainDepth {
        domain: domain.clone(),
        waiting: standing.waiting,
        leased: standing.leased.len() as u32,
        next: standing.next.filter(|_| standing.claim.is_none()),
        rest: standing.rest,
    }
}
