//! Signed messages as they were rendered once, in `tests/fixtures/dkim`: they still verify, and what alters them shows.
//! The same files verify with dkimpy, Mail::DKIM and OpenDKIM; `verify.py` beside them repeats the first of these.

use std::fs;
use std::path::Path;

use mailshot::proving::counts::Signed;
use mailshot::proving::verifier::Verifier;
use mailshot::sign::{Algorithm, Record};

const FOLDER: &str = "tests/fixtures/dkim";

fn verifier() -> Verifier {
    let keys = fs::read_to_string(Path::new(FOLDER).join("keys.tsv")).unwrap();
    let record = |line: &str| {
        let (name, value) = line.split_once('\t').unwrap();
        let algorithm = if value.contains("k=ed25519") { Algorithm::Ed25519 } else { Algorithm::Rsa };
        Record { name: name.into(), kind: "TXT", value: value.into(), algorithm, waits: false }
    };
    let records: Vec<Record> = keys.lines().map(record).collect();
    assert_eq!(records.len(), 2);
    Verifier::new(&records)
}

fn message(name: &str) -> Vec<u8> {
    fs::read(Path::new(FOLDER).join(name)).unwrap()
}

#[test]
fn rendered_messages_verify() {
    for name in ["welcome.eml", "files.eml", "cjk.eml"] {
        assert_eq!(verifier().check(&message(name)), Signed::Passed, "{name}");
    }
}

/// K-04.
#[test]
fn nothing_that_is_signed_can_be_changed_or_added() {
    let signed = String::from_utf8(message("welcome.eml")).unwrap();
    let (head, body) = signed.split_once("\r\n\r\n").unwrap();
    for added in [
        "From: Eve <eve@example.org>",
        "Subject: Something else",
        "To: eve@example.org",
        "Reply-To: eve@example.org",
        "Content-Type: text/html",
        "List-Unsubscribe: <https://eve.example.org/>",
    ] {
        for altered in [format!("{added}\r\n{signed}"), format!("{head}\r\n{added}\r\n\r\n{body}")] {
            assert_eq!(verifier().check(altered.as_bytes()), Signed::Failed, "{added}");
        }
    }
    for altered in [signed.replace("Three herbs", "Four herbs"), format!("{signed}more\r\n")] {
        assert_eq!(verifier().check(altered.as_bytes()), Signed::Failed);
    }
    let traced = format!("Received: from a by b; Tue, 24 Nov 2026 22:00:00 +0000\r\n{signed}");
    assert_eq!(verifier().check(traced.as_bytes()), Signed::Passed, "hosts on the way add their traces");
}
