//! The files, and disks that take nothing.

use super::*;

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

#[tokio::test(start_paused = true)]
async fn a_source_keeps_its_number_whatever_comes_before_it_and_a_number_is_never_given_twice() {
    on_both(|queue, _| async move {
        let number = async |names: &[&str]| -> Vec<u16> {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            queue.number_sources(names).await.unwrap().iter().map(|number| number.0).collect()
        };
        assert_eq!(number(&["a", "b"]).await, [0, 1], "as queues counted them that kept no names");
        assert_eq!(number(&["new", "b", "a"]).await, [2, 1, 0]);
        assert_eq!(number(&["b"]).await, [1]);
        assert_eq!(number(&["newer", "a", "new"]).await, [3, 0, 2]);
    })
    .await;
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

/// A disk with nothing free but what is kept for the end.
struct Reserved {
    pairs: MemoryLedger,
    is_kept: bool,
}

impl Ledger for Reserved {
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        match self.is_kept {
            true => Err(Error::Disk { why: "less than is kept free".into() }),
            false => self.pairs.commit(moves),
        }
    }

    fn use_reserve(&mut self) {
        self.is_kept = false;
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        self.pairs.scan(prefix, from, most)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        self.pairs.last(prefix)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.pairs.value(key)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_free_is_for_the_end() {
    let (pairs, clock) = (MemoryLedger::default(), clock());
    let queue = start(Reserved { pairs: pairs.clone(), is_kept: true }, &clock, InDoubt::Resend);
    let admitting = tokio::spawn({
        let queue = queue.clone();
        async move { admit(&queue, vec![(domain("a.example"), copy(1, Lane::Bulk, START))]).await }
    });
    queue.stalled().await;
    queue.close().await.unwrap();
    admitting.await.unwrap();
    assert_eq!((queue.stall(), Inventory::take(&pairs).unwrap().due.len()), (None, 1));
}
