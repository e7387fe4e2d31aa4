//! The simulated world: the whole engine in virtual time against hosts that fail at every stage, ended at random instants.
//! One seed is one run: `SIM_SEED=42 cargo test --test sim`; `SIM_SEEDS=10000` soaks.

mod checkers;
mod hosts;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::Run;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn run(seed: u64) -> Run {
    let mut run = Run::new(seed);
    run.run();
    checkers::check(&run);
    run
}

#[test]
fn every_run_keeps_every_promise() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (next, failed) = (AtomicU64::new(*seeds.start()), Mutex::new(Vec::new()));
    let totals = Mutex::new((0, 0, 0, 0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if !seeds.contains(&seed) {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                Ok(run) => {
                    let mut totals = totals.lock().unwrap();
                    totals.0 += run.people.len() * 2;
                    totals.1 += run.kills;
                    totals.3 += run.stalls.len();
                    totals.2 += run.book.lock().unwrap().taken.values().map(|taken| taken.len() - 1).sum::<usize>();
                }
                Err(_) => {
                    eprintln!("SIM_SEED={seed} fails");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (copies, ends, doubles, stalls) = *totals.lock().unwrap();
    println!("{copies} copies, {ends} lives cut short, {stalls} waits for a disk, {doubles} doubles, all listed");
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    assert!(failed.is_empty(), "SIM_SEED={} cargo test --test sim replays the first of {failed:?}", failed[0]);
}

#[test]
fn a_kill_at_any_write_of_a_small_run_breaks_no_promise() {
    for loses_last in [false, true] {
        let mut writes = 0;
        loop {
            writes += 1;
            let mut run = Run::small();
            if !run.run_killed_at(writes, loses_last) {
                break;
            }
            checkers::check(&run);
        }
        println!("killed at each of {writes} writes, the last one lost: {loses_last}");
        assert!(writes > 50, "the whole run had {writes} writes");
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in [3, 4] {
        let logs = [run(seed), run(seed)].map(|run| std::mem::take(&mut run.book.lock().unwrap().log));
        assert!(logs[0].len() > 10 && logs[0] == logs[1], "seed {seed} went another way the second time");
    }
}
