//! What holds in every run, whatever hosts and fate did.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use mailshot::base::{ContactId, LaunchId, Timestamp};
use mailshot::engine::Handle;
use mailshot::mail::Standing;
use mailshot::outcome::report;
use mailshot::store::{CopyRow, LaunchState};

use crate::world::{CAMPAIGNS, Run};

/// How late a MAIL may come after its turn by the pace: the reply to another command on its connection is waited for first.
const DELAY_MAX: f64 = 1.5;

/// Whether every copy is final. A launch that says so has nothing in the queue.
pub fn is_over(run: &Run, handle: &Handle) -> bool {
    let depth = handle.depth();
    run.launches.iter().flatten().all(|id| {
        let row = run.store.launch(*id).unwrap().expect("it was launched");
        let is_on_road = depth.by_launch.contains_key(id);
        match row.state {
            LaunchState::Done => {
                assert!(!is_on_road, "launch {id} is done, with copies in the queue");
                true
            }
            LaunchState::Cancelled => !is_on_road && run.store.unsettled(*id).unwrap() == 0,
            LaunchState::Running | LaunchState::Paused => false,
        }
    })
}

/// What stands still, in words.
pub async fn stuck(run: &Run, handle: &Handle) -> String {
    let domains = handle.queue().domains(20).await;
    let (depth, recorded) = (handle.depth(), run.store.last_outcome());
    let mut words = format!("not final after hours; in the queue: {domains:?}\n{depth:?}, on record {recorded:?}\n");
    words += &format!("stalled: {:?}, refused: {:?}\n", handle.queue().stall(), handle.failed().now_or_never());
    if let Some(sites) = handle.sites() {
        words += &format!("sites: {:?}\n", sites.snapshot().await);
    }
    for id in run.launches.iter().flatten() {
        let open = rows(run, *id).into_iter().filter(|row| is_open(row.standing));
        let open: Vec<_> = open.map(|row| (row.address, row.standing, row.tries, row.text)).collect();
        words += &format!("launch {id}: {:?}, {open:?}\n", run.store.launch(*id).unwrap().map(|row| row.state));
    }
    words
}

fn is_open(standing: Standing) -> bool {
    matches!(standing, Standing::Waiting | Standing::Deferred)
}

fn rows(run: &Run, launch: LaunchId) -> Vec<CopyRow> {
    run.store.copies(launch, ContactId(0), 10_000).unwrap()
}

/// After the end of a run.
pub fn check(run: &Run) {
    for (which, launch) in run.launches.iter().enumerate() {
        check_copies(run, launch.expect("both were launched"), CAMPAIGNS[which]);
    }
    check_doubts(run);
    check_bars(run);
    check_limits(run);
}

/// Each recipient has exactly one final outcome, and it agrees with the hosts' books.
fn check_copies(run: &Run, launch: LaunchId, name: &str) {
    let (rows, book) = (rows(run, launch), run.book.lock().unwrap());
    let mut counted: BTreeMap<Standing, u64> = BTreeMap::new();
    for row in &rows {
        *counted.entry(row.standing).or_default() += 1;
        let taken = book.taken.get(&(row.address.clone(), name.to_owned())).map_or(&[][..], Vec::as_slice);
        let whose = format!("{name} to {}: {:?}, {} answers lost", row.address, row.standing, row.doubtful);
        let (least, most) = match row.standing {
            Standing::Waiting | Standing::Deferred => panic!("{whose}: not final"),
            Standing::Delivered if name == "hold" => (1, 1),
            Standing::Delivered => (1, 1 + usize::from(row.doubtful)),
            Standing::InDoubt => (0, 1 + usize::from(row.again)),
            Standing::Failed => (0, row.doubtful.into()),
            // what may have been taken is in doubt
            Standing::Barred | Standing::Skipped | Standing::Cancelled => {
                assert_eq!(row.doubtful, 0, "{whose}");
                (0, 0)
            }
        };
        assert!((least..=most).contains(&taken.len()), "{whose}: taken {} times", taken.len());
        assert!(taken.windows(2).all(|pair| pair[0] == pair[1]), "{whose}: not the same message: {taken:?}");
    }
    let cancelled = run.store.launch(launch).unwrap().unwrap().state == LaunchState::Cancelled;
    let planned: Vec<&str> = rows.iter().map(|row| row.address.as_str()).collect();
    for who in run.people.iter().filter(|_| !cancelled) {
        let is_barred = run.bars.iter().any(|bar| bar.address == **who);
        assert!(is_barred || planned.contains(&who.as_str()), "{name} to {who}: never planned");
    }
    let counts = report(&run.store, launch).unwrap().unwrap().counts;
    let of = |standing| counted.get(&standing).copied().unwrap_or(0);
    assert_eq!(
        [counts.recipients, counts.delivered, counts.failed, counts.barred, counts.cancelled, counts.in_doubt],
        [
            rows.len() as u64,
            of(Standing::Delivered),
            of(Standing::Failed),
            of(Standing::Barred),
            of(Standing::Cancelled),
            of(Standing::InDoubt)
        ],
        "the report of {name}"
    );
    let again: u64 = rows.iter().map(|row| u64::from(row.again)).sum();
    assert_eq!(counts.possible_doubles, if name == "hold" { 0 } else { again }, "the report of {name}");
}

/// Doubt comes only from connections that ended with a message on them, one copy for each.
fn check_doubts(run: &Run) {
    let all = run.launches.iter().flatten().flat_map(|launch| rows(run, *launch));
    let doubts: usize = all.map(|row| usize::from(row.doubtful)).sum();
    let most = run.book.lock().unwrap().cut_short + run.orphans;
    assert!(doubts <= most, "{doubts} copies in doubt, {most} connections that could have left one");
}

/// Nobody is mailed after a bar was durable.
fn check_bars(run: &Run) {
    let book = run.book.lock().unwrap();
    for bar in &run.bars {
        let late: Vec<&Timestamp> =
            book.mails.iter().filter(|(at, to)| *to == bar.address && *at > bar.at).map(|(at, _)| at).collect();
        assert!(late.is_empty(), "{} was barred at {} and mailed at {late:?}", bar.address, bar.at);
    }
}

/// No site has more connections, or more messages in a time, than it allows.
fn check_limits(run: &Run) {
    let book = run.book.lock().unwrap();
    assert!(book.pressed.is_empty(), "too many connections: {:?}", book.pressed);
    for (host, mails) in &book.paced {
        let Some(rate) = run.manners[*host].per_second else { continue };
        for (first, (life, from)) in mails.iter().enumerate() {
            for (count, (_, to)) in mails[first..].iter().take_while(|(later, _)| later == life).enumerate() {
                let allowed = rate * (to.since(*from).as_secs_f64() + DELAY_MAX) + 1.0;
                assert!(count as f64 <= allowed, "host {host}: {count} messages within {:?}", to.since(*from));
            }
        }
    }
}
