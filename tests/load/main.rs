//! The pages under load while a campaign runs: one-click POSTs, each on disk before it is answered, and clicks, from a client
//! in a process of its own that sends at a fixed rate whatever the answers do, so that a late answer delays nobody else's.
//!
//! `cargo test` sends a little, kills the server and checks that every yes is on record. `MAILSHOT_LOAD_SECONDS=15 cargo test --release --test
//! load` measures: one-click alone, clicks alone, both at once, each so long, and holds them to the bar.

mod client;
mod scene;

use std::time::Duration;

use client::{Kind, Told};
use scene::Scene;

/// What the pages have to bear, per second, and how long one answer in a hundred may take.
const ONE_CLICK: u32 = 2000;
const CLICKS: u32 = 5000;
const P99: Duration = Duration::from_millis(50);
/// The campaign beside it, per second.
const BESIDE: u32 = 1000;

/// One stage: what is asked, and what came of it.
struct Stage {
    name: &'static str,
    told: Vec<(Kind, Told)>,
    /// Messages per second that the campaign sent meanwhile.
    beside: f64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == client::WORD) {
        return client::run(&words[1..]);
    }
    let seconds = std::env::var("MAILSHOT_LOAD_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("MAILSHOT_LOAD_SECONDS is a number of seconds"));
    match seconds {
        Some(seconds) => measure(seconds),
        None => check(),
    }
}

/// A little of everything, then kill -9: whoever was told yes has left, and of the clicks nothing is missing but the last.
fn check() {
    let scene = Scene::set(400, 100);
    let stage = stage(&scene, "a little of both", 2, &[(Kind::OneClick, 100), (Kind::Click, 100)]);
    let books = scene.kill();
    for (kind, told) in &stage.told {
        assert_eq!((told.answered, told.failed), (200, 0), "{kind:?}");
    }
    println!("killed: {} of 200 left, {} of 200 clicks are on record", books.left, books.clicks);
    assert_eq!(books.left, 200, "a yes is on disk before it is said");
    // a hundredth of it where the machine has nothing else to do
    assert!((100..=200).contains(&books.clicks), "more than a second of clicks is lost: {}", books.clicks);
}

fn measure(seconds: u32) {
    // both stages that ask for it take people who have not left yet
    let scene = Scene::set(ONE_CLICK * seconds * 2, BESIDE);
    let stages = [
        stage(&scene, "one-click alone", seconds, &[(Kind::OneClick, ONE_CLICK)]),
        stage(&scene, "clicks alone", seconds, &[(Kind::Click, CLICKS)]),
        stage(&scene, "both at once", seconds, &[(Kind::OneClick, ONE_CLICK), (Kind::Click, CLICKS)]),
    ];
    let (books, answered) = (scene.stop(), |kind| answered(&stages, kind));
    assert_eq!(books.left, answered(Kind::OneClick), "whoever was told yes has left");
    assert_eq!(books.clicks, answered(Kind::Click), "a click that was answered is counted");
    for stage in &stages {
        for (kind, told) in &stage.told {
            let p99 = Duration::from_micros(told.p99_us);
            assert!(told.failed == 0 && p99 < P99, "{}: {kind:?} {told:?}", stage.name);
        }
        assert!(stage.beside >= f64::from(BESIDE) * 0.97, "{}: the campaign ran at {:.0}/s", stage.name, stage.beside);
    }
}

/// Sends at these rates for so long, all kinds at once.
fn stage(scene: &Scene, name: &'static str, seconds: u32, asked: &[(Kind, u32)]) -> Stage {
    let (before, began) = (scene.taken(), std::time::Instant::now());
    let clients: Vec<_> =
        asked.iter().map(|(kind, rate)| (*kind, client::start(scene, *kind, *rate, rate * seconds))).collect();
    let told: Vec<_> = clients.into_iter().map(|(kind, client)| (kind, client::finish(client))).collect();
    let beside = (scene.taken() - before) as f64 / began.elapsed().as_secs_f64();
    for (kind, told) in &told {
        println!(
            "{name}: {kind:?} {:.0}/s, {} answered, {} failed; ms: median {:.1}, p99 {:.1}, most {:.1}",
            told.rate,
            told.answered,
            told.failed,
            told.p50_us as f64 / 1e3,
            told.p99_us as f64 / 1e3,
            told.most_us as f64 / 1e3
        );
    }
    println!("{name}: the campaign beside it sent {beside:.0}/s; the server used {}", scene.used());
    Stage { name, told, beside }
}

/// How many requests of a kind got the right answer, over all stages.
fn answered(stages: &[Stage], kind: Kind) -> u64 {
    let of_kind = stages.iter().flat_map(|stage| &stage.told).filter(|(of, _)| *of == kind);
    of_kind.map(|(_, told)| told.answered).sum()
}
