//! A new queue from the record, in real files.

use super::*;
use crate::mail::Envelope;
use crate::queue::{Durability, SledLedger};

fn open(workspace: &Workspace) -> SledLedger {
    SledLedger::open(&workspace.queue_folder(), 1, Durability::Synced).unwrap()
}

#[tokio::test]
async fn a_rebuilt_queue_knows_what_the_old_one_knew_of_sites_and_says_when_it_cannot() {
    let desk = Desk::with(3).await;
    let learned = crate::queue::Move::Put(b"s0outlook".to_vec(), b"held".to_vec());
    open(&desk.workspace).commit(std::slice::from_ref(&learned)).unwrap();
    let rebuilt = rebuild(&desk.workspace, &desk.store, &desk.world).await.unwrap();
    assert!(rebuilt.knows_sites && rebuilt.kept.is_some());
    assert_eq!(open(&desk.workspace).value(b"s0outlook"), Ok(Some(b"held".to_vec())));
    std::fs::remove_dir_all(desk.workspace.queue_folder()).unwrap();
    assert!(!rebuild(&desk.workspace, &desk.store, &desk.world).await.unwrap().knows_sites, "there was none");
}

#[tokio::test]
async fn a_copy_that_was_tried_keeps_its_date_and_the_time_at_which_it_is_given_up() {
    let desk = Desk::with(20).await;
    let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    engine.handle().take_up(launch);
    engine.handle().bell.ring_and_wait().await;
    // of three domains the first copy alone is tried
    let queue = engine.handle().queue().clone();
    let mut tried = Vec::new();
    for _ in 0..3 {
        let Claimed { domain, .. } = queue.claim().await.unwrap();
        let lease = queue.lease(&domain, 1).await.unwrap().remove(0);
        tried.push((domain, lease.envelope.clone()));
        queue.settle(vec![settle(lease, Standing::Deferred)]).await.unwrap();
    }
    engine.stop(Duration::from_secs(1)).await;

    // the old queue has the first of them, and knows more than the record
    let (domain, mut known) = tried[0].clone();
    let (first, over) = (Timestamp::from_ms(START.as_ms() - 3_600_000), START + 40 * HOUR);
    (known.date, known.expires, known.source) = (Some(first), over, Some(SourceId(3)));
    let launches = desk.store.open_launches().unwrap();
    let opening = opening(desk.world.clock.clone(), &desk.store, &launches).unwrap();
    let (old, keeper) = Queue::open(open(&desk.workspace), opening).unwrap();
    let keeper = tokio::spawn(keeper.run());
    let copies = vec![(domain, known.clone())];
    old.admit(Admission { launch, bucket: 0, cursor: Vec::new(), copies }).await.unwrap();
    old.close().await.unwrap();
    keeper.await.unwrap();

    let rebuilt = rebuild(&desk.workspace, &desk.store, &desk.world).await.unwrap();
    assert_eq!(rebuilt.again, 20);
    let found = crate::queue::tried(&open(&desk.workspace)).unwrap();
    let face = |envelope: &Envelope| (envelope.date, envelope.expires, envelope.source);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(face(&found[&known.id]), (Some(first), over, Some(SourceId(3))));
    let life = desk.workspace.settings().retry.expires.duration();
    for (_, envelope) in &tried[1..] {
        assert_eq!(face(&found[&envelope.id]), (Some(START), START + life, None));
    }
}

#[tokio::test]
async fn numbers_given_out_since_a_backup_are_not_given_out_again() {
    let mut desk = Desk::with(3).await;
    let first = desk.launch(&LaunchOptions::default()).await.id;
    let backup = desk.workspace.folder().join("backup.db");
    desk.store.backup(&backup).unwrap();
    let newcomer = |name: &str| person(&format!("{name}@d1.example"));
    let lost = desk.store.make_contact(newcomer("lost"), START).await.unwrap();
    desk.store = Store::open("sqlite:backup.db", desk.workspace.folder(), Threads::Inline).unwrap();
    rebuild(&desk.workspace, &desk.store, &desk.world).await.unwrap();
    let next = desk.store.make_contact(newcomer("next"), START).await.unwrap();
    assert!(next.0 > lost.0 + 1000, "{next:?} {lost:?}");
    let to = [Address::parse("me@example.com").unwrap()];
    let test = desk.launch_test(&to).await.unwrap();
    assert!(test.id.0 > first.0 + 1000);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_its_queue_gives_out_no_number_again() {
    let desk = Desk::with(3).await;
    let start = || desk.start(MemoryLedger::default(), 7);
    start().await.unwrap().stop(Duration::ZERO).await;
    assert_eq!(desk.store.make_contact(person("a@d1.example"), START).await.unwrap().0, 4, "the first queue is new");
    start().await.unwrap().stop(Duration::ZERO).await;
    assert!(desk.store.make_contact(person("b@d1.example"), START).await.unwrap().0 > 1000);
}
