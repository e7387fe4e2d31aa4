//! One suite for both ledgers, and crash cuts on the one in memory.

mod disk;
mod doubt;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::base::{ContactId, EditionId, EnvelopeId};
use crate::mail::{Class, InDoubt, Lane, Standing};

use crate::world::{Clock, SimulatedClock};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const LAUNCH: LaunchId = LaunchId(1);

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn copy(contact: u32, lane: Lane, due: Timestamp) -> Envelope {
    Envelope {
        id: EnvelopeId::new(LAUNCH, ContactId(contact)),
        edition: EditionId(1),
        lane,
        tries: 0,
        source: None,
        date: None,
        doubtful: 0,
        due,
        expires: due + Duration::from_secs(3600),
    }
}

fn outcome(lease: &Lease, state: Standing) -> Outcome {
    Outcome {
        envelope: lease.envelope.id,
        state,
        class: Class::Delivered,
        code: Some(250),
        enhanced: None,
        stage: None,
        text: "ok".into(),
        host: None,
        site: Some("example".into()),
        channel: None,
        tries: lease.envelope.tries + 1,
        doubtful: lease.envelope.doubtful,
        at: START,
    }
}

/// A queue with its keeper at work on this runtime.
fn start(ledger: impl Ledger + 'static, clock: &Arc<SimulatedClock>, mode: InDoubt) -> Queue {
    let opening = Opening {
        clock: clock.clone(),
        last_outcome: 0,
        in_doubt: Box::new(move |_| mode),
        bucket: |domain| domain.as_str().len() as u8,
        held: BTreeSet::new(),
    };
    let (queue, keeper) = Queue::open(ledger, opening).unwrap();
    tokio::spawn(keeper.run());
    queue
}

fn clock() -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::starting(START))
}

async fn admit(queue: &Queue, copies: Vec<(Domain, Envelope)>) {
    let admission = Admission { launch: LAUNCH, bucket: 3, cursor: vec![7], copies };
    queue.admit(admission).await.unwrap();
}

/// Runs a test on a new ledger of each kind.
async fn on_both<F: Future<Output = ()>>(test: impl Fn(Queue, Arc<SimulatedClock>) -> F) {
    let clock = clock();
    test(start(MemoryLedger::default(), &clock, InDoubt::Resend), clock.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let ledger = SledLedger::open(folder.path(), 1, Durability::Synced).unwrap();
    test(start(ledger, &clock, InDoubt::Resend), clock).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_from_admission_to_its_outcome() {
    on_both(|queue, clock| async move {
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now()))]).await;
        assert_eq!((queue.depth().waiting, queue.cursor(LAUNCH, 3).await), (1, Ok(Some(vec![7]))));
        assert_eq!(queue.waiting_in(9), 1);
        let claimed = queue.claim().await.unwrap().domain;
        let lease = queue.lease(&claimed, 5).await.unwrap().pop().unwrap();
        queue.settle(vec![lease.intend()]).await.unwrap();
        let gone = outcome(&lease, Standing::Delivered);
        queue.settle(vec![lease.settle(gone.clone(), Next::Gone)]).await.unwrap();
        assert!(queue.lease(&claimed, 5).await.unwrap().is_empty());
        let (number, outcomes) = queue.outbox(100).await.unwrap();
        assert_eq!(outcomes, [gone]);
        queue.clear_outbox(number).await.unwrap();
        assert_eq!((queue.depth().waiting, queue.depth().by_launch.len()), (0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_admission_and_its_cursor_are_one_commit() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    let copies = (1..=250).map(|number| (domain("a.example"), copy(number, Lane::Bulk, clock.now())));
    admit(&queue, copies.collect()).await;
    assert_eq!((ledger.commits(), queue.depth().waiting), (1, 250));
}

#[tokio::test(start_paused = true)]
async fn settlements_of_many_connections_gather_for_one_commit_and_nobody_waits_for_a_few() {
    for (connections, commits) in [(40, 1), (4, 2)] {
        let (ledger, clock) = (MemoryLedger::default(), clock());
        let queue = start(ledger.clone(), &clock, InDoubt::Resend);
        admit(&queue, (1..=connections).map(|n| (domain("a.example"), copy(n, Lane::Bulk, clock.now()))).collect())
            .await;
        let claimed = queue.claim().await.unwrap().domain;
        let mut leases = queue.lease(&claimed, connections as usize).await.unwrap();
        queue.settle(leases.iter().map(Lease::intend).collect()).await.unwrap();
        let (before, began) = (ledger.commits(), tokio::time::Instant::now());
        let settle = |lease: Lease| {
            let gone = outcome(&lease, Standing::Delivered);
            queue.settle(vec![lease.settle(gone, Next::Gone)])
        };
        let (one, other) = (settle(leases.pop().unwrap()), settle(leases.pop().unwrap()));
        let other = async {
            for _ in 0..9 {
                tokio::task::yield_now().await;
            }
            other.await
        };
        assert_eq!(tokio::join!(one, other), (Ok(()), Ok(())));
        assert_eq!(ledger.commits() - before, commits, "{connections} connections");
        assert!(began.elapsed() <= Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn urgent_copies_come_first_then_the_earliest_due() {
    on_both(|queue, clock| async move {
        let before = |seconds| clock.now() - Duration::from_secs(seconds);
        let a = domain("a.example");
        let copies = vec![
            (a.clone(), copy(1, Lane::Bulk, before(10))),
            (a.clone(), copy(2, Lane::Bulk, before(20))),
            (a.clone(), copy(3, Lane::Urgent, before(1))),
        ];
        admit(&queue, copies).await;
        let claimed = queue.claim().await.unwrap().domain;
        let first = queue.lease(&claimed, 2).await.unwrap();
        admit(&queue, vec![(a.clone(), copy(4, Lane::Urgent, clock.now()))]).await;
        let then = queue.lease(&claimed, 2).await.unwrap();
        let contacts: Vec<u32> = first.iter().chain(&then).map(|lease| lease.envelope.id.contact().0).collect();
        assert_eq!(contacts, [3, 2, 4, 1]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deferred_copy_waits_for_its_time_even_behind_other_lanes() {
    on_both(|queue, clock| async move {
        let a = domain("a.example");
        let copies =
            vec![(a.clone(), copy(1, Lane::Urgent, clock.now())), (a.clone(), copy(2, Lane::Bulk, clock.now()))];
        admit(&queue, copies).await;
        let claimed = queue.claim().await.unwrap().domain;
        let urgent = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
        let later = outcome(&urgent, Standing::Deferred);
        let due = clock.now() + Duration::from_secs(600);
        queue.settle(vec![urgent.settle(later, Next::Again(due.into()))]).await.unwrap();
        let bulk = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
        let gone = outcome(&bulk, Standing::Delivered);
        queue.settle(vec![bulk.settle(gone, Next::Gone)]).await.unwrap();
        assert!(queue.lease(&claimed, 1).await.unwrap().is_empty());
        let waited = clock.now();
        let again = queue.claim().await.unwrap().domain;
        assert_eq!(clock.now().since(waited).as_secs(), 600);
        assert_eq!(queue.lease(&again, 1).await.unwrap()[0].envelope.id.contact().0, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_home_by_itself_and_three_drops_are_a_bug() {
    on_both(|queue, clock| async move {
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now()))]).await;
        let claimed = queue.claim().await.unwrap().domain;
        for _ in 0..5 {
            queue.lease(&claimed, 1).await.unwrap().pop().unwrap().home();
        }
        for _ in 0..3 {
            assert_eq!(queue.depth().last_outcome, 0);
            drop(queue.lease(&claimed, 1).await.unwrap().pop().unwrap());
            tokio::task::yield_now().await;
        }
        let (_, outcomes) = queue.outbox(10).await.unwrap();
        assert_eq!((outcomes[0].state, queue.depth().waiting), (Standing::Failed, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_belongs_to_one_and_a_rest_is_kept() {
    on_both(|queue, clock| async move {
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now()))]).await;
        let claimed = queue.claim().await.unwrap().domain;
        let second = tokio::time::timeout(Duration::from_secs(9), queue.claim()).await;
        assert!(second.is_err());
        let began = clock.now();
        queue.rest(&claimed, began + Duration::from_secs(60)).await.unwrap();
        queue.claim().await.unwrap();
        assert_eq!(clock.now().since(began).as_secs(), 60);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn launches_are_held_released_retried_and_cancelled() {
    on_both(|queue, clock| async move {
        let a = domain("a.example");
        let later = clock.now() + Duration::from_secs(900);
        let copies = vec![(a.clone(), copy(1, Lane::Bulk, clock.now())), (a.clone(), copy(2, Lane::Bulk, later))];
        admit(&queue, copies).await;
        assert_eq!(queue.sweep(LAUNCH, Sweep::Hold).await, Ok(2));
        assert_eq!((queue.depth().waiting, queue.depth().held), (0, 2));
        assert_eq!(queue.sweep(LAUNCH, Sweep::Release).await, Ok(2));
        assert_eq!(queue.sweep(LAUNCH, Sweep::Retry).await, Ok(1));
        let claimed = queue.claim().await.unwrap().domain;
        let leases = queue.lease(&claimed, 9).await.unwrap();
        assert_eq!(leases.len(), 2);
        let cancelled = outcome(&leases[0], Standing::Cancelled);
        drop(leases);
        tokio::task::yield_now().await;
        assert_eq!(queue.sweep(LAUNCH, Sweep::Cancel(cancelled)).await, Ok(2));
        let (_, outcomes) = queue.outbox(10).await.unwrap();
        let ids: BTreeSet<u32> = outcomes.iter().map(|outcome| outcome.envelope.contact().0).collect();
        assert_eq!((ids, queue.depth().waiting), (BTreeSet::from([1, 2]), 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn copies_held_for_a_launch_that_goes_on_are_put_back_at_the_next_start() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, (1..=3).map(|number| (domain("a.example"), copy(number, Lane::Bulk, START))).collect()).await;
    assert_eq!(queue.sweep(LAUNCH, Sweep::Hold).await, Ok(3));
    // a crash between the record's word that the launch goes on and the release
    let again = start(ledger.fork(), &clock, InDoubt::Resend);
    assert_eq!((again.depth().waiting, again.depth().held), (3, 0));
    let claimed = again.claim().await.unwrap().domain;
    assert_eq!(again.lease(&claimed, 9).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_queue_does_not_wait_for_what_waits_for_a_person() {
    on_both(|queue, clock| async move {
        let (soon, later) = (clock.now() + Duration::from_secs(300), clock.now() + Duration::from_secs(600));
        let copies = [("a.example", 1), ("b.example", 2), ("b.example", 3)];
        admit(&queue, copies.map(|(at, n)| (domain(at), copy(n, Lane::Bulk, clock.now()))).to_vec()).await;
        let held = queue.claim().await.unwrap().domain;
        queue.rest(&held, Until::Person(soon)).await.unwrap();
        let claimed = queue.claim().await.unwrap().domain;
        let mut leases = queue.lease(&claimed, 5).await.unwrap();
        let put_off = async |lease: Lease, until: Until| {
            let later = outcome(&lease, Standing::Deferred);
            queue.settle(vec![lease.settle(later, Next::Again(until))]).await.unwrap();
        };
        put_off(leases.pop().unwrap(), soon.into()).await;
        put_off(leases.pop().unwrap(), Until::Person(clock.now())).await;
        assert_eq!((queue.is_idle(clock.now()).await, queue.is_idle(later).await), (Ok(true), Ok(false)));
        queue.sweep(LAUNCH, Sweep::Retry).await.unwrap();
        assert_eq!(queue.is_idle(clock.now()).await, Ok(false), "all is due now");
        let claimed = queue.claim().await.unwrap().domain;
        for lease in queue.lease(&claimed, 5).await.unwrap() {
            put_off(lease, Until::Person(soon)).await;
        }
        let claimed = queue.claim().await.unwrap().domain;
        queue.rest(&claimed, Until::Person(soon)).await.unwrap();
        assert_eq!(queue.is_idle(later).await, Ok(true));
        queue.wake().await.unwrap();
        assert_eq!(queue.is_idle(later).await, Ok(false), "a person may have let them go");
    })
    .await;
}

/// A ledger that counts its scans.
struct Counting(MemoryLedger, Arc<AtomicUsize>);

impl Ledger for Counting {
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        self.0.commit(moves)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.scan(prefix, from, most)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        self.0.last(prefix)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.value(key)
    }
}

#[tokio::test(start_paused = true)]
async fn domains_whose_copies_all_wait_for_a_person_are_not_read_to_see_whether_a_queue_is_idle() {
    let (scans, clock) = (Arc::<AtomicUsize>::default(), clock());
    let queue = start(Counting(MemoryLedger::default(), scans.clone()), &clock, InDoubt::Resend);
    let (soon, later) = (clock.now() + Duration::from_secs(300), clock.now() + Duration::from_secs(600));
    let copies = (1..=9).map(|number| (domain("a.example"), copy(number, Lane::Bulk, clock.now())));
    admit(&queue, copies.collect()).await;
    let claimed = queue.claim().await.unwrap().domain;
    let put_off = |lease: Lease| {
        let waits = outcome(&lease, Standing::Waiting);
        lease.settle(waits, Next::Again(Until::Person(soon)))
    };
    let leases = queue.lease(&claimed, 20).await.unwrap();
    queue.settle(leases.into_iter().map(put_off).collect()).await.unwrap();
    let before = scans.load(Ordering::Relaxed);
    assert_eq!((queue.is_idle(later).await, scans.load(Ordering::Relaxed)), (Ok(true), before));
    queue.wake().await.unwrap();
    assert_eq!(queue.is_idle(later).await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_idle_when_nothing_is_out_and_nothing_due() {
    on_both(|queue, clock| async move {
        let later = clock.now() + Duration::from_secs(60);
        let before = |seconds| later - Duration::from_secs(seconds);
        assert_eq!(queue.is_idle(later).await, Ok(true));
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, later))]).await;
        assert_eq!((queue.is_idle(before(1)).await, queue.is_idle(later).await), (Ok(true), Ok(false)));
        let claimed = queue.claim().await.unwrap().domain;
        let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
        assert_eq!(queue.is_idle(before(1)).await, Ok(false));
        let gone = outcome(&lease, Standing::Delivered);
        queue.settle(vec![lease.settle(gone, Next::Gone)]).await.unwrap();
        assert_eq!(queue.is_idle(later).await, Ok(false));
        assert!(queue.lease(&claimed, 1).await.unwrap().is_empty());
        assert_eq!(queue.is_idle(later).await, Ok(true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_kept_what_it_said_and_refuses_the_rest() {
    let (clock, ledger) = (clock(), MemoryLedger::default());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    queue.set_epoch(4).await.unwrap();
    admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now()))]).await;
    let claimed = queue.claim().await.unwrap().domain;
    let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
    let gone = outcome(&lease, Standing::Delivered);
    queue.settle(vec![lease.settle(gone, Next::Gone)]).await.unwrap();
    let (number, _) = queue.outbox(9).await.unwrap();
    queue.clear_outbox(number).await.unwrap();
    queue.close().await.unwrap();
    assert_eq!(queue.epoch().await, Err(Error::Closed));
    assert_eq!(Marks::read(&ledger), Ok(Marks { epoch: 4, cleared: number, last: number }));
    let again = start(ledger, &clock, InDoubt::Resend);
    assert_eq!(again.depth().last_outcome, number);
}

#[tokio::test(start_paused = true)]
async fn copies_on_lease_during_a_hold_are_held_once_when_they_come_up_again() {
    on_both(|queue, clock| async move {
        let a = domain("a.example");
        admit(&queue, (0..100).map(|contact| (a.clone(), copy(contact, Lane::Bulk, clock.now()))).collect()).await;
        let claimed = queue.claim().await.unwrap().domain;
        let leases = queue.lease(&claimed, 90).await.unwrap();
        assert_eq!(queue.sweep(LAUNCH, Sweep::Hold).await, Ok(10));
        leases.into_iter().for_each(Lease::home);
        tokio::task::yield_now().await;
        assert!(queue.lease(&claimed, 20).await.unwrap().is_empty());
        assert_eq!((queue.depth().waiting, queue.depth().held), (0, 100));
        assert_eq!(queue.sweep(LAUNCH, Sweep::Release).await, Ok(100));
        let claimed = queue.claim().await.unwrap().domain;
        assert_eq!(queue.lease(&claimed, 200).await.unwrap().len(), 100);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_clerk_gets_as_many_outcomes_as_it_asks_for_however_few_each_commit_had() {
    on_both(|queue, clock| async move {
        let copies = (0..100).map(|n| (domain("a.example"), copy(n, Lane::Bulk, clock.now())));
        admit(&queue, copies.collect()).await;
        let claimed = queue.claim().await.unwrap().domain;
        for lease in queue.lease(&claimed, 100).await.unwrap() {
            let outcome = outcome(&lease, Standing::Delivered);
            queue.settle(vec![lease.settle(outcome, Next::Gone)]).await.unwrap();
        }
        let (last, outcomes) = queue.outbox(70).await.unwrap();
        assert_eq!(outcomes.len(), 70);
        queue.clear_outbox(last).await.unwrap();
        assert_eq!(queue.outbox(2000).await.unwrap().1.len(), 30);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn copies_that_come_up_while_their_launch_is_held_are_put_aside_once() {
    on_both(|queue, clock| async move {
        queue.sweep(LAUNCH, Sweep::Hold).await.unwrap();
        let copies = (0..100).map(|n| (domain("a.example"), copy(n, Lane::Bulk, clock.now())));
        admit(&queue, copies.collect()).await;
        let claimed = queue.claim().await.unwrap().domain;
        assert!(queue.lease(&claimed, 20).await.unwrap().is_empty());
        assert!(queue.is_idle(clock.now()).await.unwrap());
        assert_eq!((queue.depth().held, queue.depth().waiting), (100, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_is_held_stays_so_when_it_is_retried() {
    on_both(|queue, clock| async move {
        queue.sweep(LAUNCH, Sweep::Hold).await.unwrap();
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now() + Duration::from_secs(60)))]).await;
        assert_eq!(queue.sweep(LAUNCH, Sweep::Retry).await, Ok(1));
        let claimed = queue.claim().await.unwrap().domain;
        assert!(queue.lease(&claimed, 20).await.unwrap().is_empty());
        assert_eq!(queue.depth().held, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_record_of_outcomes_that_cannot_be_read_is_kept_and_named_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SledLedger::open(folder.path(), 1, Durability::Synced).unwrap();
    let mut ledger = open();
    ledger.commit(&[Move::Put(keys::outbox(4), b"?".to_vec())]).unwrap();
    let queue = start(ledger, &clock(), InDoubt::Resend);
    assert_eq!(queue.outbox(9).await, Ok((4, Vec::new())), "those behind it are not held up");
    queue.clear_outbox(4).await.unwrap();
    queue.close().await.unwrap();
    drop(queue);
    tokio::task::yield_now().await;
    let found = Inventory::take(&open()).unwrap();
    assert_eq!(found.damaged, [4].into());
}

#[tokio::test]
async fn a_retry_ends_the_rest_of_a_domain_and_counts_what_waited_for_it() {
    on_both(|queue, _| async move {
        let rested = domain("a.example");
        admit(&queue, vec![(rested.clone(), copy(1, Lane::Bulk, START))]).await;
        queue.claim().await.unwrap();
        queue.rest(&rested, START + Duration::from_secs(600)).await.unwrap();
        assert!(queue.is_idle(START).await.unwrap());
        assert_eq!(queue.sweep(LAUNCH, Sweep::Retry).await, Ok(1));
        assert_eq!(queue.claim().await.unwrap().domain, rested);
    })
    .await;
}

#[tokio::test]
async fn what_is_dropped_by_domain_or_launch_ends_as_cancelled_held_or_not() {
    on_both(|queue, _| async move {
        let (a, b) = (domain("a.example"), domain("b.example"));
        let copies = [(&a, 1), (&b, 2), (&a, 3)].map(|(at, n)| (at.clone(), copy(n, Lane::Bulk, START)));
        admit(&queue, copies.into()).await;
        queue.sweep(LAUNCH, Sweep::Hold).await.unwrap();
        admit(&queue, vec![(a.clone(), copy(4, Lane::Bulk, START))]).await;
        let called_off = || {
            let envelope = EnvelopeId::from_u64(0);
            let lease = Lease::new(a.clone(), copy(0, Lane::Bulk, START), Arc::default());
            Outcome { envelope, ..outcome(&lease, Standing::Cancelled) }
        };
        assert_eq!(queue.sweep(a.clone(), Sweep::Count).await, Ok(3));
        assert_eq!(queue.sweep(a.clone(), Sweep::Drop(called_off())).await, Ok(3));
        assert_eq!((queue.depth().waiting, queue.depth().held), (0, 1));
        assert_eq!(queue.sweep(LAUNCH, Sweep::Drop(called_off())).await, Ok(1));
        let mut ended: Vec<u32> = queue.outbox(999).await.unwrap().1.iter().map(|o| o.envelope.contact().0).collect();
        ended.sort_unstable();
        assert_eq!(ended, [1, 2, 3, 4]);
        admit(&queue, vec![(b.clone(), copy(5, Lane::Bulk, START))]).await;
        queue.claim().await.unwrap();
        assert!(queue.lease(&b, 9).await.unwrap().is_empty(), "the launch is still held");
    })
    .await;
}

#[tokio::test]
async fn whoever_rests_is_woken_together() {
    on_both(|queue, _| async move {
        let copies =
            ["a.example", "b.example"].into_iter().zip(1..).map(|(at, n)| (domain(at), copy(n, Lane::Bulk, START)));
        admit(&queue, copies.collect()).await;
        for _ in 0..2 {
            let claimed = queue.claim().await.unwrap();
            queue.rest(&claimed.domain, START + Duration::from_secs(600)).await.unwrap();
        }
        assert!(queue.is_idle(START).await.unwrap());
        queue.wake().await.unwrap();
        let (one, other) = (queue.claim().await.unwrap(), queue.claim().await.unwrap());
        assert_ne!(one.domain, other.domain);
    })
    .await;
}
