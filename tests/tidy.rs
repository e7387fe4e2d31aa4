//! What is deliberately absent from the sources, and the shape every file has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text that must not stand in code, the places where it may, and what to use instead.
struct Ban {
    text: &'static str,
    allowed: &'static [&'static str],
    instead: &'static str,
}

const BANS: &[Ban] = &[
    Ban { text: "SystemTime::now", allowed: &["src/world/"], instead: "world::Clock" },
    Ban {
        text: "std::time::Instant",
        allowed: &["src/proving/verifier"],
        instead: "tokio::time::Instant, which tests can pause",
    },
    Ban { text: "Zoned::now", allowed: &["src/world/"], instead: "world::Clock" },
    Ban { text: "jiff::Timestamp::now", allowed: &["src/world/"], instead: "world::Clock" },
    Ban { text: "thread::sleep", allowed: &[], instead: "tokio::time" },
    Ban { text: "TcpStream", allowed: &["src/world/", "src/proving/", "src/outcome/listener"], instead: "world::Net" },
    Ban { text: "getrandom", allowed: &["src/world/"], instead: "world::Dice" },
    Ban { text: "rand::", allowed: &["src/world/", "aws_lc_rs"], instead: "world::Dice" },
    Ban { text: "unbounded", allowed: &[], instead: "a channel with a limit" },
    Ban { text: "static mut", allowed: &[], instead: "state owned by a task" },
    Ban { text: "todo!", allowed: &[], instead: "the thing itself, or nothing" },
    Ban { text: "unimplemented!", allowed: &[], instead: "the thing itself, or nothing" },
    Ban { text: "dbg!", allowed: &[], instead: "tracing" },
    Ban { text: "#[ignore]", allowed: &[], instead: "a test that runs, or says why it is skipped" },
    Ban { text: "allow(dead_code)", allowed: &[], instead: "no dead code" },
];

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                walk(&path, into);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                into.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"].map(Path::new).iter().filter(|folder| folder.exists()) {
        walk(folder, &mut files);
    }
    files.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).expect("a readable source"));
    files.into_iter().map(read).collect()
}

/// The line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn what_is_banned_is_absent() {
    let mut found = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("src/")) {
        for (number, line) in text.lines().enumerate() {
            for ban in BANS.iter().filter(|ban| code(line).contains(ban.text)) {
                let allowed = ban.allowed.iter().any(|place| file.starts_with(place) || line.contains(place));
                if !allowed {
                    found.push(format!("{file}:{}: `{}`; use {}", number + 1, ban.text, ban.instead));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_select_has_an_order() {
    let opening = concat!("select!", " {");
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (at, _) in text.match_indices(opening) {
            if !text[at + opening.len()..].trim_start().starts_with("biased;") {
                found.push(format!("{file}:{}", text[..at].lines().count()));
            }
        }
    }
    assert!(found.is_empty(), "a select! without `biased;` makes runs differ:\n{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "these files do not open with `//!`:\n{}", silent.join("\n"));
}

/// What may lie at the root: the sources, what tools require, and what a run of this workspace makes (git ignores it).
const AT_THE_ROOT: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "campaigns",
    "mailshot.toml",
    "rustfmt.toml",
    "src",
    "state",
    "target",
    "templates",
    "tests",
];

#[test]
fn nothing_strays_at_the_root() {
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the root");
    let stray: Vec<_> = entries
        .map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !AT_THE_ROOT.contains(&name.as_str()))
        .collect();
    assert!(stray.is_empty(), "these do not belong at the root: {stray:?}");
}

#[test]
fn the_sources_are_formatted() {
    let formatted = Command::new(env!("CARGO")).args(["fmt", "--check", "--", "-l"]).output();
    match formatted {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("is not installed") => {
            println!("skipped: rustfmt is not installed");
        }
        Ok(output) => {
            assert!(output.status.success(), "run cargo fmt:\n{}", String::from_utf8_lossy(&output.stdout));
        }
        Err(why) => panic!("cargo does not run: {why}"),
    }
}
