//! What is thrown at everything that reads bytes from outside, and what must hold whatever they are. Each body is run by the
//! fuzzer on what it makes up, and by `cargo test --test corpora` on what it found.

mod doors;
mod files;
mod letters;
mod wire;

use std::future::Future;
use std::path::PathBuf;
use std::sync::LazyLock;

use mailshot::base::{Seal, SealKey};

/// A target: its name, which is also that of its folder in `corpus`, and its body.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 19] = [
    ("smtp_reply", wire::reply),
    ("smtp_session", wire::session),
    ("smtp_server", wire::server),
    ("csv", files::csv),
    ("suppressions", files::suppressions),
    ("campaign", files::campaign),
    ("segment", files::segment),
    ("settings", files::settings),
    ("queue", files::queue),
    ("template", letters::template),
    ("data", letters::data),
    ("returned", letters::returned),
    ("mbox", letters::mbox),
    ("token", doors::token),
    ("http", doors::http),
    ("http_reply", doors::http_reply),
    ("imap", doors::imap),
    ("pop3", doors::pop3),
    ("spf", doors::spf),
];

/// Does something in virtual time, on this thread.
fn in_time<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime").block_on(work)
}

fn seal() -> &'static Seal {
    static SEAL: LazyLock<Seal> =
        LazyLock::new(|| Seal::new(vec![SealKey::new('a', &[7; 32]).expect("a name")]).expect("a key"));
    &SEAL
}

/// A folder of this process, for as long as it lives.
fn folder() -> PathBuf {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));
    FOLDER.path().to_owned()
}

/// The pieces between NULs, as text; `most` at most, the last one with all that is left.
fn pieces(data: &[u8], most: usize) -> Vec<String> {
    data.splitn(most, |byte| *byte == 0).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}
