//! What the fuzzer found and what it was given, replayed: every file under `tests/fuzz/corpus/TARGET` through the body of
//! its target. How to fuzz: tests/README.md.

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[test]
fn whatever_bytes_come_from_outside_the_promises_hold() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let (mut replayed, mut failed) = (0, Vec::new());
    for (name, body) in targets::TARGETS {
        let listing = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|why| panic!("corpus/{name}: {why}"));
        let mut files: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "corpus/{name} is empty");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            replayed += 1;
            if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
                failed.push(file);
            }
        }
    }
    println!("{replayed} inputs replayed");
    assert!(failed.is_empty(), "{failed:#?}");
}
