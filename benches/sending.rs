//! What a copy costs on its way, piece by piece, and the whole engine in memory. Run with `cargo bench --bench sending`.

mod scene;

use divan::Bencher;
use divan::counter::ItemsCount;
use mailshot::sign::Algorithm;
use mailshot::smtp::TlsClient;
use scene::{Letter, Road, Whole, runtime, talk};
use tempfile::TempDir;

/// Copies of one sample.
const COPIES: u32 = 2000;

fn main() {
    divan::main();
}

/// The texts of a letter, filled in.
#[divan::bench]
fn render(bencher: Bencher) {
    let letter = Letter::new(Algorithm::Ed25519);
    bencher.bench_local(|| letter.words(divan::black_box(7)));
}

/// The same, with its headers and parts as a message.
#[divan::bench]
fn print(bencher: Bencher) {
    let letter = Letter::new(Algorithm::Ed25519);
    bencher.bench_local(|| letter.print(divan::black_box(7)));
}

/// One signature over a message of 4 KiB.
#[divan::bench(args = [Algorithm::Rsa, Algorithm::Ed25519])]
fn sign(bencher: Bencher, algorithm: Algorithm) {
    let letter = Letter::new(algorithm);
    bencher.with_inputs(|| letter.print(7)).bench_local_values(|message| letter.sign(message));
}

/// Copies over one connection, both ends counted.
#[divan::bench(sample_count = 10)]
fn dialogue(bencher: Bencher) {
    let tls = TlsClient::new(None).expect("trusted roots");
    let message = Letter::new(Algorithm::Ed25519).print(7);
    let runtime = runtime();
    bencher.counter(ItemsCount::new(COPIES)).bench_local(|| runtime.block_on(talk(&tls, &message, COPIES)));
}

/// Copies leased, intended and settled, on disk.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn ledger(bencher: Bencher) {
    let runtime = runtime();
    let road = || runtime.block_on(Road::on_disk(COPIES));
    let deliver = |(road, folder): (Road, TempDir)| {
        runtime.block_on(road.deliver());
        folder
    };
    bencher.counter(ItemsCount::new(COPIES)).with_inputs(road).bench_local_values(deliver);
}

/// The same in memory: what the keeper costs.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn keeper(bencher: Bencher) {
    let runtime = runtime();
    let road = || runtime.block_on(Road::in_memory(COPIES));
    bencher
        .counter(ItemsCount::new(COPIES))
        .with_inputs(road)
        .bench_local_values(|road| runtime.block_on(road.deliver()));
}

/// Everything from the plan to the last outcome on record, both ends counted.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn engine(bencher: Bencher) {
    let runtime = runtime();
    let whole = || runtime.block_on(Whole::with(COPIES));
    bencher
        .counter(ItemsCount::new(COPIES))
        .with_inputs(whole)
        .bench_local_values(|whole| runtime.block_on(whole.send()));
}
