//! What one row costs: an address parsed, and a file taken into a record in memory. Run with `cargo bench --bench import`.

use std::fmt::Write;
use std::path::Path;

use mailshot::audience::{Allowed, Error, Forgotten, ImportOptions, Source, SourceOptions, import};
use mailshot::base::{Address, Timestamp};
use mailshot::store::{OnConflict, Store, Threads};

/// Rows of the file.
const ROWS: usize = 20_000;

fn main() {
    divan::main();
}

#[divan::bench(args = ["ada.lovelace@example.org", "ada@bücher.example", "\"ada l\"@example.org"])]
fn address(text: &str) -> Address {
    Address::parse(divan::black_box(text)).expect("a sound address")
}

#[divan::bench(sample_count = 10)]
fn rows(bencher: divan::Bencher) {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join("people.csv");
    std::fs::write(&path, people()).expect("the file is written");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    bencher.counter(divan::counter::ItemsCount::new(ROWS)).bench_local(|| runtime.block_on(take_in(&path)));
}

async fn take_in(path: &Path) -> u64 {
    let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).expect("a record in memory");
    let source = Source::open(path, &SourceOptions::default()).expect("a sound file");
    let options = ImportOptions {
        list: "news".to_owned(),
        consent: None,
        on_conflict: OnConflict::Fill,
        dry_run: false,
        allowed: Allowed::default(),
        forgotten: Forgotten::default(),
    };
    let report = import::<Error>(&store, source, options, Timestamp::from_ms(0), |_| Ok(())).await;
    report.expect("every row is taken").rows
}

/// A file of eight columns, its addresses in no order.
fn people() -> String {
    let mut text = String::from("email,first_name,last_name,city,country,plan,signup,score\n");
    for number in 0..ROWS {
        let scattered = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let row =
            format_args!("u{scattered:011x}@firm{}.example,Zoë,Müller,Köln,DE,pro,2024-05-06,{number}\n", number % 400);
        text.write_fmt(row).expect("a String takes everything");
    }
    text
}
