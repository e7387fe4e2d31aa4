//! What was received, as others read it: Python's `email`, dkimpy and Mail::DKIM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Reads messages with Python's parser and verifies their signatures with dkimpy; one JSON object a line.
const READER: &str = include_str!("read.py");
/// Verifies signatures with Mail::DKIM; one line a signature.
const PERL_VERIFIER: &str = include_str!("verify.pl");

/// One received message, as Python's `email` and dkimpy see it.
#[derive(Debug)]
pub struct Seen {
    /// RCPT TO, in lower case.
    pub recipient: String,
    /// MAIL FROM.
    pub sender: String,
    /// Everything the parser found wrong.
    pub defects: Vec<String>,
    /// Domain and verdict of each signature.
    pub signatures: Vec<(String, bool)>,
    /// Message-ID.
    pub id: String,
    /// The types of all parts.
    pub parts: Vec<String>,
}

/// Reads captured messages; `keys` are lines `NAME<TAB>TXT`.
pub fn read(scratch: &Path, keys: &str, messages: &[PathBuf]) -> Vec<Seen> {
    let (script, key_file) = (scratch.join("read.py"), scratch.join("keys.tsv"));
    fs::write(&script, READER).expect("the reader");
    fs::write(&key_file, keys).expect("the keys");
    let output = Command::new("/usr/bin/python3").arg(&script).arg(&key_file).args(messages).output();
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("JSON");
    lines.lines().map(|line| seen(&serde_json::from_str(line).expect("JSON"))).collect()
}

fn seen(line: &Value) -> Seen {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let texts = |key: &str| line[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let signatures = line["signatures"].as_array().into_iter().flatten();
    let verdict = |s: &Value| (s["domain"].as_str().unwrap_or_default().to_owned(), s["valid"] == true);
    Seen {
        recipient: text("recipient").to_lowercase(),
        sender: text("sender"),
        defects: texts("defects").collect(),
        signatures: signatures.map(verdict).collect(),
        id: text("message_id"),
        parts: texts("parts").collect(),
    }
}

/// Whether Mail::DKIM finds every signature of every message valid, and at least one in each.
pub fn mail_dkim_agrees(scratch: &Path, messages: &[PathBuf]) -> bool {
    let script = scratch.join("verify.pl");
    fs::write(&script, PERL_VERIFIER).expect("the verifier");
    let output = Command::new("perl").arg(&script).arg(scratch.join("keys.tsv")).args(messages).output();
    let output = output.expect("perl runs");
    if !output.status.success() {
        println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}
