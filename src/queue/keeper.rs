//! The single writer: takes what has piled up, commits once, answers all. Owns the ledger and the agenda; nobody else
//! touches either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::agenda::{Agenda, Claim, Standing as DomainStanding};
use super::intents::Intents;
use super::lease::{Action, Homes, Lease, Manner, Settlement};
use super::ledger::{Ledger, Move};
use super::{
    Admission, BUCKETS, Claimed, Depth, DomainDepth, Error, Place, Spans, Stall, Sweep, Whose, codec, keys, lock,
};
use crate::base::{Domain, EnvelopeId, LaunchId, SourceId, Timestamp};
use crate::mail::{Class, Envelope, InDoubt, Lane, Outcome, Standing};
use crate::world::Clock;

/// Requests that may wait for the keeper.
pub(super) const REQUESTS_MAX: usize = 1024;
/// Moves in one commit, but for those of a single request.
pub(super) const MOVES_MAX: usize = 1000;
/// Copies read ahead for a claimed domain.
const AHEAD: usize = 64;
/// Pairs read at a time in a walk over the whole ledger.
const PAGE: usize = 1000;
/// Outcomes in one record of the outbox, so that no value becomes large.
const OUTBOX_CHUNK: usize = 64;
/// Records of the outbox read at a time.
const OUTBOX_PAGE: usize = 32;
/// A lease dropped this often without an attempt is a bug of ours: its copy is given up.
const DROPS_MAX: u8 = 3;
/// Whoever settled copies within this time is sending.
const SENDING_SINCE: Duration = Duration::from_millis(100);
/// How long settlements gather for a commit: a sync costs the same for one as for many.
const GATHER: Duration = Duration::from_millis(1);
/// They gather until one connection in so many is heard of.
const GATHERED: usize = 4;
/// The longest wait for a due time at once; wall time may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);
/// The first wait of a write that failed, and the longest; it doubles in between.
const STALL_MIN: Duration = Duration::from_millis(200);
const STALL_MAX: Duration = Duration::from_secs(10);
/// How often a write is still tried once the queue is to end, and how long it waits each time.
const LAST_TRIES: u32 = 5;
const LAST_WAIT: Duration = Duration::from_secs(1);
/// Why a copy is in doubt.
const PROCESS_ENDED: &str = "the process ended between the final dot and the record of the answer";
const TASK_ENDED: &str = "its task ended between the final dot and the record of the answer";

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the keeper is asked.
pub(super) enum Request {
    Admit(Vec<Admission>, Reply<()>),
    Claim(Reply<Claimed>),
    Lease(Domain, usize, Reply<Vec<Lease>>),
    Rest(Domain, Timestamp, Reply<()>),
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
            self.depth.held += page.len() as u64;
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
            from = keys::held_prefix(LaunchId(launch.0.saturating_add(1)));
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
                let now = self.clock.now();
                let resting = self.agenda.domains().filter(|(_, standing)| standing.rest > now);
                for domain in resting.map(|(domain, _)| domain.clone()).collect::<Vec<_>>() {
                    self.wake(&domain, now);
                }
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
                self.batch.moves.push(Move::Put(key, value));
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
            Request::Domains(most, answer) => drop(answer.send(Ok(self.domains(most)))),
            Request::Idle(until, answer) => {
                let idle = self.guard().map(|()| self.admissions.is_empty() && self.agenda.is_idle(until));
                let _ = answer.send(idle);
            }
            Request::Close(answer) => {
                // nobody can ask any more; the run ends once the last request is taken
                self.requests.close();
                self.batch.answers.push(answer);
            }
        }
    }

    fn guard(&self) -> Result<(), Error> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Writes what has piled up, and answers. What cannot be written is kept and tried again until it can: meanwhile nobody
    /// is answered, so that nobody goes on. Only when the queue is to end, or its files are damaged, everybody who asks is
    /// told why, and nothing more is written.
    async fn commit(&mut self) {
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
    fn give_up(&mut self, error: Error) {
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

    fn show(&self) {
        *lock(&self.face.depth) = self.depth.clone();
    }

    fn count_spans(&self, leased: &[Instant]) {
        let now = Instant::now();
        let mut spans = lock(&self.face.spans);
        leased.iter().for_each(|since| spans.count(now.duration_since(*since)));
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
            Action::Again(at, outcome) => {
                self.batch.moves.push(Move::Remove(was));
                self.batch.outcomes.push(outcome);
                self.batch.leased.push(since);
                self.left(&domain, id);
                envelope.due = at;
                self.put_due(&domain, &envelope);
            }
        }
    }

    /// A lease reads the ledger: what the round has changed is on it by now.
    async fn serve_leases(&mut self) {
        for LeaseCall { domain, most, answer } in std::mem::take(&mut self.leases) {
            let leases = match self.guard() {
                Ok(()) => self.lease(&domain, most).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &leases {
                self.give_up(error.clone());
            }
            // leases that nobody waits for any more go home
            if let Err(Ok(leases)) = answer.send(leases) {
                leases.into_iter().for_each(Lease::home);
            }
        }
    }

    async fn lease(&mut self, domain: &Domain, most: usize) -> Result<Vec<Lease>, Error> {
        let now = self.clock.now();
        let mut leases = Vec::new();
        while leases.len() < most {
            let ready = self.agenda.change(domain, |standing| standing.claim.as_mut()?.ready.pop_front());
            match ready {
                Some(envelope) if self.held.contains(&envelope.id.launch()) => self.hold(domain, &envelope),
                Some(envelope) => {
                    self.agenda.change(domain, |standing| standing.leased.insert(envelope.id));
                    leases.push(Lease::new(domain.clone(), envelope, self.homes.clone()));
                }
                None => {
                    // the ledger is read next: what was put aside just now must be gone from it
                    self.commit().await;
                    self.guard()?;
                    if !self.read_ahead(domain, now)? {
                        break;
                    }
                }
            }
        }
        if leases.len() < most {
            self.agenda.change(domain, |standing| standing.claim = None);
        }
        Ok(leases)
    }

    /// Fills a claim with due copies; gives whether there were any. When there are none, it notes when the next is due.
    fn read_ahead(&mut self, domain: &Domain, now: Timestamp) -> Result<bool, Error> {
        let Some(claim) = self.agenda.look(domain).and_then(|standing| standing.claim.as_ref()) else {
            return Ok(false);
        };
        let mut found = self.read(domain, claim.read_to.clone(), now)?;
        if found.ready.is_empty() && !found.read_to.is_empty() {
            // what was passed over may have become due, or be due later: only a reading from the start knows
            found = self.read(domain, Vec::new(), now)?;
        }
        Ok(self.agenda.change(domain, |standing| {
            let any = !found.ready.is_empty();
            if !any {
                standing.next = found.next;
            }
            if let Some(claim) = standing.claim.as_mut() {
                *claim = Claim { ready: found.ready, read_to: found.read_to };
            }
            any
        }))
    }

    /// Reads both lanes of a domain above `read_to`, until some copies are found.
    fn read(&self, domain: &Domain, read_to: Vec<u8>, now: Timestamp) -> Result<Found, Error> {
        let mut found = Found { read_to, ..Found::default() };
        for lane in [Lane::Urgent, Lane::Bulk] {
            let prefix = keys::lane_prefix(domain, lane);
            if found.ready.is_empty() && (found.read_to < prefix || found.read_to.starts_with(&prefix)) {
                self.read_lane(domain, &prefix, now, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Reads due copies of one lane that are not leased, from where `found` has come.
    fn read_lane(&self, domain: &Domain, prefix: &[u8], now: Timestamp, found: &mut Found) -> Result<(), Error> {
        let empty = BTreeSet::new();
        let leased = self.agenda.look(domain).map_or(&empty, |standing| &standing.leased);
        loop {
            let from = if found.read_to.starts_with(prefix) { keys::after(&found.read_to) } else { prefix.to_vec() };
            let page = self.ledger.scan(prefix, &from, AHEAD)?;
            for (key, value) in &page {
                let Some((_, due, id)) = keys::parse_due(key) else { continue };
                if due > now {
                    found.next = Some(found.next.map_or(due, |next| next.min(due)));
                    return Ok(());
                }
                found.read_to = key.clone();
                if !leased.contains(&id)
                    && let Some(envelope) = codec::read_envelope(id, value)
                {
                    found.ready.push_back(envelope);
                }
            }
            if !found.ready.is_empty() || page.len() < AHEAD {
                return Ok(());
            }
        }
    }

    fn rest(&mut self, domain: &Domain, until: Timestamp) {
        let now = self.clock.now();
        self.agenda.change(domain, |standing| {
            standing.rest = until;
            if standing.claim.take().is_some() {
                // what was read ahead is due; the next claim finds out what is left
                standing.expect(now);
            }
        });
    }

    fn welcome_home(&mut self) {
        let now = self.clock.now();
        for back in self.homes.take() {
            let known = self.agenda.change(&back.domain, |standing| {
                let known = standing.leased.remove(&back.id);
                standing.expect(now);
                if let Some(claim) = standing.claim.as_mut() {
                    *claim = Claim::default();
                }
                known
            });
            match back.manner {
                Manner::Dropped if known => self.take_dropped(&back.domain, back.id, now),
                Manner::Dropped => {}
                // untried, so that its intent came to nothing
                Manner::Sent => self.intents.settle(back.id),
            }
        }
    }

    /// A copy whose task ended over it. With an intent on the ledger its final dot may be out: it is in doubt, as after a
    /// crash.
    fn take_dropped(&mut self, domain: &Domain, id: EnvelopeId, now: Timestamp) {
        let Some(key) = self.intents.of(id).map(keys::intent) else { return self.count_drop(domain, id, now) };
        let record = match self.ledger.value(&key) {
            Ok(record) => record.unwrap_or_default(),
            Err(error) => return self.give_up(error),
        };
        match codec::read_intent(&record) {
            Some((_, envelope)) => self.doubt(domain, envelope, now),
            None => {
                self.batch.moves.push(Move::Put(keys::damaged_intent(&key, Some(id)), record));
                match self.find(domain, id) {
                    Ok(Some((_, envelope))) => self.doubt(domain, envelope, now),
                    Ok(None) => {}
                    Err(error) => self.give_up(error),
                }
            }
        }
    }

    /// Lists a copy as one that may have been sent; it leaves the queue, or is due again.
    fn doubt(&mut self, domain: &Domain, mut envelope: Envelope, now: Timestamp) {
        tracing::warn!(copy = %envelope.id, "in doubt: {TASK_ENDED}");
        self.batch.moves.push(Move::Remove(keys::due(domain, &envelope)));
        self.left(domain, envelope.id);
        let mode = (self.in_doubt)(envelope.id.launch());
        let outcome = doubt(&mut envelope, mode, TASK_ENDED, now);
        self.batch.outcomes.push(outcome);
        if mode == InDoubt::Resend {
            self.put_due(domain, &envelope);
        }
    }

    /// Gives a copy up whose lease was dropped too often: some code of ours cannot handle it.
    fn count_drop(&mut self, domain: &Domain, id: EnvelopeId, now: Timestamp) {
        let drops = self.drops.entry(id).or_default();
        *drops += 1;
        if *drops < DROPS_MAX {
            return;
        }
        tracing::error!(copy = %id, "given up: its task ended {DROPS_MAX} times without an attempt; this is a bug");
        match self.find(domain, id) {
            Ok(Some((key, envelope))) => {
                self.batch.moves.push(Move::Remove(key));
                let text = "given up after its task ended without an attempt: a bug of mailshot".to_owned();
                self.batch.outcomes.push(decided(&envelope, Standing::Failed, Class::Undetermined, text, now));
                self.left(domain, id);
            }
            Ok(None) => {}
            Err(error) => self.give_up(error),
        }
    }

    /// The due key and record of one copy of a domain.
    fn find(&self, domain: &Domain, id: EnvelopeId) -> Result<Option<(Vec<u8>, Envelope)>, Error> {
        let prefix = keys::domain_prefix(domain);
        let mut from = prefix.clone();
        loop {
            let page = self.ledger.scan(&prefix, &from, PAGE)?;
            for (key, value) in &page {
                if keys::parse_due(key).is_some_and(|(_, _, found)| found == id) {
                    return Ok(codec::read_envelope(id, value).map(|envelope| (key.clone(), envelope)));
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => return Ok(None),
            }
        }
    }

    fn place(&self, domain: &Domain, id: EnvelopeId) -> Result<Option<Place>, Error> {
        if let Some((_, envelope)) = self.find(domain, id)? {
            let leased = self.is_leased(domain, id);
            return Ok(Some(Place { envelope, leased, held: false }));
        }
        let held = self.ledger.value(&keys::held(id))?.and_then(|record| codec::read_parked(id, &record));
        Ok(held.map(|(_, envelope)| Place { envelope, leased: false, held: true }))
    }

    fn hold(&mut self, domain: &Domain, envelope: &Envelope) {
        self.batch.moves.push(Move::Remove(keys::due(domain, envelope)));
        self.batch.moves.push(Move::Put(keys::held(envelope.id), codec::write_parked(domain, envelope)));
        self.left(domain, envelope.id);
        self.depth.held += 1;
    }

    async fn sweep(&mut self, whose: &Whose, sweep: &Sweep) -> Result<u64, Error> {
        if let Whose::Launch(launch) = whose {
            match sweep {
                Sweep::Hold => drop(self.held.insert(*launch)),
                Sweep::Release | Sweep::Cancel(_) | Sweep::Retry => drop(self.held.remove(launch)),
                Sweep::Drop(_) | Sweep::Count => {}
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
    fn sweep_held_page(
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
            keeper.depth.held = keeper.depth.held.saturating_sub(1);
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

    /// Ends a domain's rest; gives whether it had one.
    fn wake(&mut self, domain: &Domain, now: Timestamp) -> bool {
        let rests = self.agenda.look(domain).is_some_and(|standing| standing.rest > now);
        if rests {
            self.agenda.change(domain, |standing| standing.rest = now);
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

    fn serve_claims(&mut self) {
        let now = self.clock.now();
        while !self.claims.is_empty() {
            let Some((_, domain)) = self.agenda.first().filter(|(at, _)| *at <= now) else { return };
            let domain = domain.clone();
            // whoever gave up waiting does not get the claim
            let Some(answer) = self.claims.pop_front() else { return };
            if answer.is_closed() {
                continue;
            }
            self.agenda.change(&domain, |standing| standing.claim = Some(Claim::default()));
            match self.first_launch(&domain, now) {
                Ok(Some(launch)) => {
                    if answer.send(Ok(Claimed { domain: domain.clone(), launch })).is_err() {
                        self.rest(&domain, now);
                    }
                }
                Ok(None) => {
                    self.agenda.change(&domain, |standing| standing.claim = None);
                    self.claims.push_front(answer);
                }
                Err(error) => {
                    self.give_up(error.clone());
                    let _ = answer.send(Err(error));
                }
            }
        }
    }

    /// The launch of a claimed domain's first due copy; `None` when all are out on lease or none is due.
    fn first_launch(&mut self, domain: &Domain, now: Timestamp) -> Result<Option<LaunchId>, Error> {
        self.read_ahead(domain, now)?;
        let claim = self.agenda.look(domain).and_then(|standing| standing.claim.as_ref());
        Ok(claim.and_then(|claim| claim.ready.front()).map(|envelope| envelope.id.launch()))
    }

    fn serve_clerk(&mut self) {
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

    fn clear(&mut self, up_to: u64) {
        self.batch.moves.push(Move::Put(keys::CLEARED.to_vec(), up_to.to_be_bytes().to_vec()));
        let mut from = Vec::new();
        loop {
            let page = match self.ledger.scan(&[keys::OUTBOX], &from, PAGE) {
                Ok(page) => page,
                Err(error) => {
                    self.give_up(error);
                    return;
                }
            };
            let cleared = page.iter().filter(|(key, _)| keys::parse_outbox(key).is_some_and(|number| number <= up_to));
            self.batch.moves.extend(cleared.map(|(key, _)| Move::Remove(key.clone())));
            match page.last() {
                Some((key, _)) if page.len() == PAGE && keys::parse_outbox(key) <= Some(up_to) => {
                    from = keys::after(key)
                }
                _ => return,
            }
        }
    }

    fn all_learned(&self) -> Result<Vec<(SourceId, String, Vec<u8>)>, Error> {
        let mut all = Vec::new();
        let mut from = Vec::new();
        loop {
            let page = self.ledger.scan(&[keys::LEARNED], &from, PAGE)?;
            let read = |(key, value): &(Vec<u8>, Vec<u8>)| {
                let (source, site) = keys::parse_learned(key)?;
                Some((source, site.to_owned(), value.clone()))
            };
            all.extend(page.iter().filter_map(read));
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = keys::after(key),
                _ => return Ok(all),
            }
        }
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

/// What a reading of the ledger found for a claim.
#[derive(Default)]
struct Found {
    ready: VecDeque<Envelope>,
    read_to: Vec<u8>,
    next: Option<Timestamp>,
}

/// Settles every intent that a crash left behind; gives the last number used in the outbox.
fn recover(
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
            let id = codec::intent_of(&value);
            let copy = match codec::read_intent(&value) {
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
fn doubt(envelope: &mut Envelope, mode: InDoubt, why: &str, now: Timestamp) -> Outcome {
    let state = match mode {
        InDoubt::Resend => {
            envelope.doubtful = envelope.doubtful.saturating_add(1);
            envelope.due = now;
            Standing::Deferred
        }
        InDoubt::Hold => Standing::InDoubt,
    };
    decided(envelope, state, Class::SoftSystem, why.to_owned(), now)
}

/// An outcome that no host gave.
fn decided(envelope: &Envelope, state: Standing, class: Class, text: String, at: Timestamp) -> Outcome {
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

/// A general outcome made that of one copy.
fn addressed(outcome: &Outcome, id: EnvelopeId, envelope: &Envelope) -> Outcome {
    Outcome { envelope: id, tries: envelope.tries, doubtful: envelope.doubtful, ..outcome.clone() }
}
