//! One suite for both ledgers, and crash cuts on the one in memory.

use std::collections::BTreeSet;
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
async fn the_next_intent_is_written_over_that_of_the_copy_settled_with_it() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, (1..=5).map(|n| (domain("a.example"), copy(n, Lane::Bulk, clock.now()))).collect()).await;
    let claimed = queue.claim().await.unwrap().domain;
    let mut leases = queue.lease(&claimed, 5).await.unwrap().into_iter();
    let mut previous = leases.next().unwrap();
    queue.settle(vec![previous.intend()]).await.unwrap();
    for next in leases {
        let gone = outcome(&previous, Standing::Delivered);
        queue.settle(vec![previous.settle(gone, Next::Gone), next.intend()]).await.unwrap();
        let pairs = ledger.scan(&[keys::INTENT], &[], 9).unwrap();
        assert_eq!((pairs.len(), &pairs[0].0), (1, &keys::intent(0)));
        assert_eq!(Inventory::take(&ledger).unwrap().intents, [next.envelope.id].into());
        previous = next;
    }
    let gone = outcome(&previous, Standing::Delivered);
    queue.settle(vec![previous.settle(gone, Next::Gone)]).await.unwrap();
    assert_eq!(Inventory::take(&ledger).unwrap().intents, BTreeSet::new());
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
        queue.settle(vec![urgent.settle(later, Next::Again(due))]).await.unwrap();
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

/// Sends two copies over one connection on a ledger that fails after `commits`; gives what the world saw accepted.
async fn send_two(ledger: MemoryLedger, clock: &Arc<SimulatedClock>) -> Vec<EnvelopeId> {
    let queue = start(ledger, clock, InDoubt::Resend);
    queue.hurry();
    let mut accepted = Vec::new();
    let a = domain("a.example");
    let copies = [1, 2].map(|contact| (a.clone(), copy(contact, Lane::Bulk, START))).to_vec();
    let admission = Admission { launch: LAUNCH, bucket: 3, cursor: vec![7], copies };
    if queue.admit(admission).await.is_err() {
        return accepted;
    }
    let Ok(Claimed { domain: claimed, .. }) = queue.claim().await else { return accepted };
    let Ok(leases) = queue.lease(&claimed, 2).await else { return accepted };
    let mut before = Vec::new();
    for lease in leases {
        before.push(lease.intend());
        if queue.settle(std::mem::take(&mut before)).await.is_err() {
            return accepted;
        }
        accepted.push(lease.envelope.id);
        let gone = outcome(&lease, Standing::Delivered);
        before.push(lease.settle(gone, Next::Gone));
    }
    let _ = queue.settle(before).await;
    accepted
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_commit_loses_nothing_and_names_every_doubt() {
    let clock = clock();
    for cut in 0..5 {
        let ledger = MemoryLedger::default();
        ledger.fail_after(Some(cut));
        let accepted = send_two(ledger.clone(), &clock).await;
        ledger.fail_after(None);
        let queue = start(ledger, &clock, InDoubt::Resend);
        let admitted = queue.cursor(LAUNCH, 3).await.unwrap().is_some();
        assert_eq!(admitted, cut > 0, "cut {cut}");
        if !admitted {
            continue;
        }
        let outcomes = if queue.depth().last_outcome > 0 { queue.outbox(99).await.unwrap().1 } else { Vec::new() };
        let delivered = outcomes.iter().filter(|outcome| outcome.state == Standing::Delivered).count() as u64;
        let doubtful: Vec<_> = outcomes.iter().filter(|outcome| outcome.doubtful > 0).collect();
        assert_eq!(delivered + queue.depth().waiting, 2, "cut {cut}");
        assert!(doubtful.len() <= 1, "cut {cut}: more than one copy of a connection in doubt");
        for id in &accepted {
            let settled = outcomes.iter().any(|outcome| outcome.envelope == *id);
            assert!(settled, "cut {cut}: {id} was accepted and is neither settled nor listed as doubtful");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_doubt_is_held_where_the_campaign_says_so() {
    let clock = clock();
    let ledger = MemoryLedger::default();
    ledger.fail_after(Some(2));
    assert_eq!(send_two(ledger.clone(), &clock).await.len(), 1);
    ledger.fail_after(None);
    let queue = start(ledger, &clock, InDoubt::Hold);
    let (_, outcomes) = queue.outbox(9).await.unwrap();
    assert_eq!((outcomes.len(), outcomes[0].state, queue.depth().waiting), (1, Standing::InDoubt, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_dropped_after_its_intent_is_in_doubt_and_listed() {
    for (mode, state, waiting) in [(InDoubt::Resend, Standing::Deferred, 1), (InDoubt::Hold, Standing::InDoubt, 0)] {
        let (ledger, clock) = (MemoryLedger::default(), clock());
        let queue = start(ledger.clone(), &clock, mode);
        let a = domain("a.example");
        admit(&queue, vec![(a.clone(), copy(1, Lane::Bulk, START))]).await;
        let claimed = queue.claim().await.unwrap().domain;
        let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
        queue.settle(vec![lease.intend()]).await.unwrap();
        drop(lease);
        let (_, outcomes) = queue.outbox(9).await.unwrap();
        let listed = (outcomes.len(), outcomes[0].state, outcomes[0].doubtful);
        assert_eq!(listed, (1, state, waiting as u8), "{mode:?}");
        let intent = keys::intent(0);
        assert_eq!((queue.depth().waiting, ledger.value(&intent)), (waiting, Ok(None)), "{mode:?}");
        let again = queue.lease(&claimed, 9).await.unwrap();
        assert_eq!(again.iter().map(|lease| u64::from(lease.envelope.doubtful)).sum::<u64>(), waiting, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_intent_that_comes_after_its_lease_went_home_leaves_no_record() {
    for drop_it in [false, true] {
        let (ledger, clock) = (MemoryLedger::default(), clock());
        let queue = start(ledger.clone(), &clock, InDoubt::Resend);
        admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, START))]).await;
        let claimed = queue.claim().await.unwrap().domain;
        let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
        let intent = lease.intend();
        if drop_it {
            drop(lease);
        } else {
            lease.home();
        }
        queue.settle(vec![intent]).await.unwrap();
        assert_eq!(Inventory::take(&ledger).unwrap().intents, BTreeSet::new(), "{drop_it}");
        let again = queue.lease(&claimed, 9).await.unwrap();
        assert_eq!(again.iter().map(|lease| lease.envelope.doubtful).collect::<Vec<_>>(), [0], "{drop_it}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_intent_goes_with_the_lease_that_is_given_back_untried() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, START))]).await;
    let claimed = queue.claim().await.unwrap().domain;
    let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
    queue.settle(vec![lease.intend()]).await.unwrap();
    lease.home();
    assert_eq!(queue.lease(&claimed, 9).await.unwrap().len(), 1);
    assert_eq!(Inventory::take(&ledger).unwrap().intents, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_never_reaches_the_keeper_takes_its_lease_home() {
    let clock = clock();
    let queue = start(MemoryLedger::default(), &clock, InDoubt::Resend);
    admit(&queue, (1..=2).map(|number| (domain("a.example"), copy(number, Lane::Bulk, START))).collect()).await;
    let claimed = queue.claim().await.unwrap().domain;
    let mut leases = queue.lease(&claimed, 2).await.unwrap();
    queue.settle(vec![leases[0].intend()]).await.unwrap();
    for lease in leases.drain(..) {
        let gone = outcome(&lease, Standing::Delivered);
        drop(lease.settle(gone, Next::Gone));
    }
    let again = queue.lease(&claimed, 9).await.unwrap();
    let mut doubtful: Vec<u8> = again.iter().map(|lease| lease.envelope.doubtful).collect();
    doubtful.sort_unstable();
    assert_eq!(doubtful, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_intent_that_cannot_be_read_is_kept_and_its_copy_is_in_doubt() {
    let (mut ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, (1..=3).map(|number| (domain("a.example"), copy(number, Lane::Bulk, START))).collect()).await;
    let id = copy(2, Lane::Bulk, START).id;
    let torn = [&id.to_u64().to_be_bytes()[..], b"?"].concat();
    ledger.commit(&[Move::Put(keys::intent(0), torn), Move::Put(b"ix".to_vec(), Vec::new())]).unwrap();
    let again = start(ledger.fork(), &clock, InDoubt::Hold);
    let (_, outcomes) = again.outbox(9).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.envelope).collect::<Vec<_>>(), [id]);
    assert_eq!((outcomes[0].state, again.depth().waiting), (Standing::InDoubt, 2));
    let after = ledger.fork();
    start(after.clone(), &clock, InDoubt::Hold);
    assert_eq!(Inventory::take(&after).unwrap().damaged_intents, [id].into());
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
async fn a_full_disk_lets_everybody_wait_and_all_goes_on_when_there_is_room() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    let a = domain("a.example");
    admit(&queue, (1..=3).map(|number| (a.clone(), copy(number, Lane::Bulk, START))).collect()).await;
    let claimed = queue.claim().await.unwrap().domain;
    let mut leases = queue.lease(&claimed, 2).await.unwrap();
    ledger.fail_after(Some(0));
    let (first, second) = (leases.remove(0), leases.remove(0));
    let gone = outcome(&first, Standing::Delivered);
    let (intend, leave) = (second.intend(), first.settle(gone.clone(), Next::Gone));
    let room_is_made = async {
        let stall = queue.stalled().await;
        assert_eq!((stall.since, stall.why.may_pass()), (START, true));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(queue.stall(), Some(stall));
        ledger.fail_after(None);
    };
    let (settled, intended, leased, epoch, ()) = tokio::join!(
        queue.settle(vec![leave]),
        queue.settle(vec![intend]),
        queue.lease(&claimed, 1),
        queue.epoch(),
        room_is_made
    );
    assert_eq!((settled, intended, leased.unwrap().len(), epoch), (Ok(()), Ok(()), 1, Ok(0)));
    assert!(clock.now() >= START + Duration::from_secs(3600) && queue.stall().is_none());
    assert_eq!((queue.outbox(9).await.unwrap().1, queue.depth().waiting), (vec![gone], 2));
    assert_eq!(Inventory::take(&ledger).unwrap().intents, [second.envelope.id].into());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_to_end_gives_a_full_disk_up_and_tells_everybody_why() {
    let (ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, clock.now()))]).await;
    let claimed = queue.claim().await.unwrap().domain;
    let lease = queue.lease(&claimed, 1).await.unwrap().pop().unwrap();
    ledger.fail_after(Some(0));
    let hurried = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        queue.hurry();
    };
    let (settled, claimed_next, ()) = tokio::join!(queue.settle(vec![lease.intend()]), queue.claim(), hurried);
    assert!(matches!(settled, Err(Error::Disk { .. })), "{settled:?}");
    assert!(matches!(claimed_next, Err(Error::Disk { .. })), "{claimed_next:?}");
    assert!(clock.now() < START + Duration::from_secs(70), "not waited out for long");
    assert!(matches!(queue.lease(&claimed, 1).await, Err(Error::Disk { .. })));
    assert!(matches!(queue.close().await, Err(Error::Disk { .. })));
}

#[tokio::test]
async fn a_queue_on_disk_opens_with_what_it_held() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    {
        let ledger = SledLedger::open(folder.path(), 1, Durability::Synced).unwrap();
        let queue = start(ledger, &clock, InDoubt::Resend);
        let copies = (0..500).map(|n| (domain(&format!("d{}.example", n % 50)), copy(n, Lane::Bulk, START)));
        admit(&queue, copies.collect()).await;
        queue.learn(SourceId(1), "google", vec![1, 2]).await.unwrap();
        queue.set_epoch(9).await.unwrap();
    }
    // the keeper ends once its handles are gone
    tokio::task::yield_now().await;
    let ledger = loop {
        match SledLedger::open(folder.path(), 1, Durability::Synced) {
            Ok(ledger) => break ledger,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let queue = start(ledger, &clock, InDoubt::Resend);
    assert_eq!((queue.depth().waiting, queue.epoch().await), (500, Ok(9)));
    assert_eq!(queue.learned(SourceId(1), "google").await, Ok(Some(vec![1, 2])));
    assert_eq!(queue.domains(100).await.unwrap().len(), 50);
}

/// Puts of a round, with values that no other round writes.
fn round(number: u8) -> Vec<Move> {
    (0..20u8).map(|key| Move::Put(vec![b't', number, key], vec![number; 50])).collect()
}

#[test]
fn a_log_torn_within_a_write_opens_with_all_that_was_committed_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = SledLedger::open(folder.path(), 1, Durability::Synced).unwrap();
    (0..30).for_each(|number| ledger.commit(&round(number)).unwrap());
    let log = || std::fs::read(folder.path().join("db")).unwrap();
    let before = log();
    ledger.commit(&round(30)).unwrap();
    let after = log();
    let written: Vec<usize> = (0..after.len()).filter(|at| before.get(*at) != after.get(*at)).collect();
    let (mut with, mut without) = (0, 0);
    for cut in (0..=20).map(|part| written.len() * part / 20) {
        let torn = tempfile::tempdir().unwrap();
        for entry in folder.path().read_dir().unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), torn.path().join(entry.file_name())).unwrap();
        }
        let mut bytes = before.clone();
        bytes.resize(after.len(), 0);
        written[..cut].iter().for_each(|at| bytes[*at] = after[*at]);
        std::fs::write(torn.path().join("db"), bytes).unwrap();
        let ledger = SledLedger::open(torn.path(), 1, Durability::Synced).unwrap();
        let pairs = ledger.scan(b"t", &[], 9999).unwrap();
        let of =
            |number: u8| pairs.iter().filter(|(key, value)| key[1] == number && *value == vec![number; 50]).count();
        assert!((0..30).all(|number| of(number) == 20), "cut at {cut} of {}", written.len());
        match of(30) {
            20 => with += 1,
            0 => without += 1,
            some => panic!("cut at {cut} of {}: {some} of a batch", written.len()),
        }
    }
    assert!(with > 0 && without > 0, "with the last batch {with}, without it {without}");
}

#[test]
fn a_snapshot_that_was_cut_off_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SledLedger::open(folder.path(), 1, Durability::Synced);
    let mut ledger = open().unwrap();
    ledger.commit(&round(1)).unwrap();
    drop(ledger);
    std::fs::write(folder.path().join("snap.00000000000000FF.generating"), b"half a sna").unwrap();
    let ledger = open().unwrap();
    assert_eq!(ledger.scan(b"t", &[], 99).unwrap().len(), 20);
}

#[test]
fn a_ledger_without_its_reserve_writes_nothing_and_is_none_the_worse_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = SledLedger::open(folder.path(), 1, Durability::Synced).unwrap().with_reserve(u32::MAX);
    let refused = ledger.commit(&round(1)).unwrap_err();
    assert!(refused.may_pass() && refused.to_string().contains("MiB are free"), "{refused}");
    assert_eq!(ledger.scan(b"t", &[], 99), Ok(vec![]));
    let mut ledger = ledger.with_reserve(0);
    ledger.commit(&round(1)).unwrap();
    assert_eq!(ledger.scan(b"t", &[], 99).unwrap().len(), 20);
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
