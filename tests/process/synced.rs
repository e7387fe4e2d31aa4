//! What "on disk" means, seen from the system calls: no final dot leaves before a sync of the queue's file that covers it.
//!
//! Needs strace; where it is missing that is said, and the test skipped.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::scene::{Scene, wait_until};

/// A host whose connections can be read along.
const CLEAR: &str =
    "session = \"clear\"\ndomains = { \"*\" = \"clear\" }\n[personality.clear]\nhide = [\"STARTTLS\"]\n";

/// How the end of a message is written: as a lone dot, in a piece with others or by itself, or as a last chunk.
const ENDS: [&str; 3] = [r"\r\n.\r\n", "\".\\r\\n", r" LAST\r\n"];

fn has_strace() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        println!("skipped: strace is not here, or may not trace");
    }
    works
}

/// What the tracer saw of one call, in the order it saw it.
enum Seen {
    Begins,
    Ends,
}

/// A call on a file or socket: its thread, name, object, and text.
struct Call<'a> {
    thread: &'a str,
    name: &'a str,
    text: &'a str,
}

/// Reads a line of strace's: a whole call, the beginning of one, or the end of one begun before.
fn read_line(line: &str) -> Option<(Call<'_>, Vec<Seen>)> {
    let (thread, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    if let Some(resumed) = rest.strip_prefix("<... ") {
        let (name, text) = resumed.split_once(" resumed>")?;
        return Some((Call { thread, name, text }, vec![Seen::Ends]));
    }
    let (name, text) = rest.split_once('(')?;
    let seen = if text.ends_with("<unfinished ...>") { vec![Seen::Begins] } else { vec![Seen::Begins, Seen::Ends] };
    Some((Call { thread, name, text }, seen))
}

/// How far a connection's next final dot is covered.
#[derive(Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Covered {
    /// The answer to the last one is not read.
    #[default]
    Not,
    /// It is read; what follows it is not written.
    Answered,
    /// The queue's file was written since.
    Written,
    /// A sync of it began after that.
    Syncing,
    /// And has ended.
    Synced,
}

/// The descriptor and what it stands for, as in `12</tmp/x/state/queue/db>`.
fn object(text: &str) -> &str {
    text.split(['>', ',']).next().unwrap_or_default()
}

#[test]
fn no_final_dot_leaves_before_the_sync_that_covers_it() {
    if !has_strace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 60, CLEAR);
    let (log, trace) = (folder.path().join("log"), folder.path().join("trace"));
    let calls = "trace=sendto,sendmsg,write,writev,recvfrom,recvmsg,read,readv,pwrite64,fdatasync,fsync";
    let strace = ["strace", "-f", "-qq", "-y", "-s", "300000", "-o", trace.to_str().unwrap(), "-e", calls];
    let mut child = scene.send(&strace, &log);
    wait_until("the end", &log, || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success(), "{}", std::fs::read_to_string(&log).unwrap());
    let trace = String::from_utf8_lossy(&std::fs::read(&trace).unwrap()).into_owned();
    let mut connections: BTreeMap<String, Covered> = BTreeMap::new();
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    let mut dots = 0;
    for (call, seen) in trace.lines().filter_map(read_line) {
        for seen in seen {
            let object = match seen {
                Seen::Begins => {
                    let object = object(call.text).to_owned();
                    begun.insert(call.thread, object.clone());
                    object
                }
                Seen::Ends => begun.remove(call.thread).unwrap_or_default(),
            };
            let is_queue = object.ends_with("/state/queue/db");
            let step = |from: Covered, to: Covered, all: &mut BTreeMap<String, Covered>| {
                all.values_mut().filter(|covered| **covered == from).for_each(|covered| *covered = to);
            };
            match (call.name, seen) {
                ("recvfrom" | "recvmsg" | "read" | "readv", Seen::Ends) if object.contains("<socket:") => {
                    let covered = connections.entry(object).or_default();
                    *covered = (*covered).max(Covered::Answered);
                }
                ("pwrite64", Seen::Ends) if is_queue => step(Covered::Answered, Covered::Written, &mut connections),
                ("fdatasync" | "fsync", Seen::Begins) if is_queue => {
                    step(Covered::Written, Covered::Syncing, &mut connections);
                }
                ("fdatasync" | "fsync", Seen::Ends) if is_queue => {
                    assert!(call.text.trim_end().ends_with("= 0"), "{}", call.text);
                    step(Covered::Syncing, Covered::Synced, &mut connections);
                }
                ("sendto" | "sendmsg" | "write" | "writev", Seen::Begins)
                    if object.contains("<socket:") && ENDS.iter().any(|end| call.text.contains(end)) =>
                {
                    dots += 1;
                    let covered = connections.insert(object.clone(), Covered::Not);
                    assert_eq!(covered, Some(Covered::Synced), "final dot {dots}, on {object}");
                }
                _ => {}
            }
        }
    }
    assert_eq!(dots, 60, "every final dot was seen");
    scene.check_all_once();
}
