//! The queue on disk over a long time: however many copies go through it, its folder and the process stay as small as after
//! the first ten thousand. `MAILSHOT_SOAK_COPIES=10000000 cargo test --release --test soak -- --nocapture` for longer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mailshot::base::{ContactId, Domain, EditionId, EnvelopeId, LaunchId, Timestamp, bucket};
use mailshot::mail::{Class, Envelope, InDoubt, Outcome, Standing};
use mailshot::queue::{Admission, Durability, Lease, Next, Opening, Queue, SledLedger};
use mailshot::world::machine_clock;

/// Copies of a plain `cargo test`; unoptimised, fewer.
const COPIES: u64 = if cfg!(debug_assertions) { 60_000 } else { 500_000 };
/// Copies that may wait at once.
const WAITING_MAX: u64 = 20_000;
/// After so many the sizes are taken to compare with.
const EARLY: u64 = 10_000;
/// Connections that settle at the same time.
const CARRIERS: usize = 64;
/// What an early end may differ from a late one: the log's segments that are not reused yet, and what allocators keep.
const SLACK_MB: u64 = 24;

fn domain(number: u64) -> Domain {
    Domain::parse(&format!("d{}.example", number % 2000)).unwrap()
}

fn envelope(number: u64, now: Timestamp) -> Envelope {
    Envelope::new(
        EnvelopeId::new(LaunchId(1), ContactId(number as u32)),
        EditionId(1),
        now,
        now + Duration::from_secs(3600),
    )
}

fn delivered(lease: &Lease, now: Timestamp) -> Outcome {
    Outcome {
        envelope: lease.envelope.id,
        state: Standing::Delivered,
        class: Class::Delivered,
        code: Some(250),
        enhanced: None,
        stage: None,
        text: String::new(),
        host: Some(domain(0)),
        channel: None,
        site: Some("example".into()),
        tries: 1,
        doubtful: 0,
        at: now,
    }
}

/// Admits all, a hundred at a time, never more than may wait.
async fn plan(queue: Queue, all: u64) {
    let clock = machine_clock();
    for first in (0..all).step_by(100) {
        while queue.depth().waiting + 100 > WAITING_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let copies = (first..all.min(first + 100)).map(|number| (domain(number), envelope(number, clock.now())));
        let admission = Admission { launch: LaunchId(1), bucket: 0, cursor: vec![1], copies: copies.collect() };
        queue.admit(admission).await.unwrap();
    }
}

/// Delivers whatever is due; every tenth copy at its second attempt.
async fn carry(queue: Queue, done: Arc<AtomicU64>) {
    let clock = machine_clock();
    while let Ok(claimed) = queue.claim().await {
        let Ok(leases) = queue.lease(&claimed.domain, 20).await else { return };
        let full = leases.len() == 20;
        let mut before = Vec::new();
        for pair in split(leases, 5) {
            before.extend(pair.iter().map(Lease::intend));
            queue.settle(std::mem::take(&mut before)).await.unwrap();
            for lease in pair {
                let outcome = delivered(&lease, clock.now());
                let again = lease.envelope.id.contact().0 % 10 == 0 && lease.envelope.due.as_ms() % 2 == 0;
                before.push(match again {
                    // at an odd time, by which it is known when it comes up
                    true => lease.settle(
                        Outcome { state: Standing::Deferred, ..outcome },
                        Next::Again(Timestamp::from_ms(clock.now().as_ms() / 2 * 2 + 1).into()),
                    ),
                    false => {
                        done.fetch_add(1, Ordering::Relaxed);
                        lease.settle(outcome, Next::Gone)
                    }
                });
            }
        }
        queue.settle(before).await.unwrap();
        if full {
            queue.rest(&claimed.domain, clock.now()).await.unwrap();
        }
    }
}

fn split(leases: Vec<Lease>, most: usize) -> Vec<Vec<Lease>> {
    let mut parts: Vec<Vec<Lease>> = Vec::new();
    for lease in leases {
        match parts.last_mut().filter(|part| part.len() < most) {
            Some(part) => part.push(lease),
            None => parts.push(vec![lease]),
        }
    }
    parts
}

/// Takes outcomes out, as the clerk does.
async fn clerk(queue: Queue) {
    while let Ok((number, _)) = queue.outbox(2000).await {
        if queue.clear_outbox(number).await.is_err() {
            return;
        }
    }
}

fn folder_mb(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let bytes: u64 = files
        .map(|file| match file.metadata() {
            Ok(facts) if facts.is_dir() => folder_mb(&file.path()) << 20,
            Ok(facts) => facts.len(),
            Err(_) => 0,
        })
        .sum();
    bytes >> 20
}

/// What of the process is in memory.
fn rss_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    (pages * 4096) >> 20
}

#[test]
fn after_many_copies_folder_and_process_are_as_small_as_after_ten_thousand() {
    let all = std::env::var("MAILSHOT_SOAK_COPIES").map_or(COPIES, |text| text.parse().expect("a number of copies"));
    let folder = tempfile::tempdir().unwrap();
    let ledger = SledLedger::open(folder.path(), 16, Durability::Synced).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let opening = Opening {
        clock: machine_clock(),
        last_outcome: 0,
        in_doubt: Box::new(|_| InDoubt::Resend),
        bucket,
        held: BTreeSet::new(),
    };
    let (queue, keeper) = Queue::open(ledger, opening).unwrap();
    let keeper = keeper.spawn().unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    runtime.spawn(plan(queue.clone(), all));
    runtime.spawn(clerk(queue.clone()));
    for _ in 0..CARRIERS {
        runtime.spawn(carry(queue.clone(), done.clone()));
    }
    let (mut early, mut most, mut said) = (None, (0, 0), 0);
    while done.load(Ordering::Relaxed) < all {
        std::thread::sleep(Duration::from_millis(50));
        let (count, sizes) = (done.load(Ordering::Relaxed), (folder_mb(folder.path()), rss_mb()));
        if count >= EARLY {
            early.get_or_insert(sizes);
        }
        most = (most.0.max(sizes.0), most.1.max(sizes.1));
        if count >= said + all / 10 {
            said = count;
            println!("{count} copies, {:?}: folder {} MB, process {} MB", start.elapsed(), sizes.0, sizes.1);
        }
    }
    runtime.block_on(async {
        while queue.depth().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        queue.close().await.unwrap();
    });
    keeper.join().unwrap();
    let early = early.expect("more than the early ones");
    println!(
        "{all} copies in {:?}: folder {} to {} MB, process {} to {} MB",
        start.elapsed(),
        early.0,
        most.0,
        early.1,
        most.1
    );
    assert!(most.0 <= early.0 + SLACK_MB, "the folder grew from {} to {} MB", early.0, most.0);
    assert!(most.1 <= early.1 + SLACK_MB, "the process grew from {} to {} MB", early.1, most.1);
}
