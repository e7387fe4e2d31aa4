//! Copies whose final dot may be out, over crashes and tasks that end.

use super::*;

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
        assert_eq!(listed, (1, state, 1), "{mode:?}");
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
async fn an_intent_of_the_first_form_is_in_doubt_as_well() {
    let (mut ledger, clock) = (MemoryLedger::default(), clock());
    let queue = start(ledger.clone(), &clock, InDoubt::Resend);
    admit(&queue, (1..=3).map(|number| (domain("a.example"), copy(number, Lane::Bulk, START))).collect()).await;
    let was = copy(2, Lane::Bulk, START);
    let key = [&b"i"[..], &was.id.to_u64().to_be_bytes()].concat();
    ledger.commit(&[Move::Put(key, codec::write_parked(&domain("a.example"), &was))]).unwrap();
    assert_eq!(Inventory::take(&ledger).unwrap().intents, [was.id].into());
    let after = ledger.fork();
    let again = start(after.clone(), &clock, InDoubt::Resend);
    let (_, outcomes) = again.outbox(9).await.unwrap();
    assert_eq!(outcomes.iter().map(|one| (one.envelope, one.doubtful)).collect::<Vec<_>>(), [(was.id, 1)]);
    let kept = Inventory::take(&after).unwrap();
    assert_eq!((kept.intents.len(), kept.damaged_intents.len(), again.depth().waiting), (0, 0, 3));
}
