//! Every form of a process's end: told to stop, told twice, out of memory, killed again and again; and a second process where
//! there is one already.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{CONNECTIONS, PATIENCE, Scene, wait_until};

/// Takes its time over every message.
pub const SLOW: &str =
    "session = \"slow\"\ndomains = { \"*\" = \"slow\" }\n[personality.slow]\ndelay = { dot = \"20ms\" }\n";
/// Takes every message, and never says so.
const MUTE: &str = "session = \"mute\"\ndomains = { \"*\" = \"mute\" }\n[personality.mute]\n\
    fault = [{ at = \"dot\", then = \"silence\", keeps = true }]\n";

pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name]).arg(child.id().to_string()).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
}

pub fn ended(mut child: Child, log: &Path) -> ExitStatus {
    wait_until("its end", log, || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}

/// Sends to the end; gives how many copies may have come twice.
pub fn finish(scene: &Scene, log: &Path) -> u64 {
    let status = ended(scene.send(&[], log), log);
    assert!(matches!(status.code(), Some(0 | 4)), "{status}: {}", std::fs::read_to_string(log).unwrap());
    let (report, counts) = (scene.report(), scene.receiver.counts());
    let listed = report["possible_doubles"].as_u64().unwrap();
    assert_eq!(
        (report["delivered"].as_u64(), counts.recipients),
        (Some(scene.recipients), scene.recipients),
        "{report}"
    );
    assert!(counts.doubles <= listed, "{} doubles, {listed} listed", counts.doubles);
    listed
}

#[test]
fn a_signal_lets_what_is_on_the_wire_finish_and_the_next_start_sends_the_rest() {
    // whoever is started to outlive its terminal, these tests among them, passes that on
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let outlives_its_terminal = status
        .lines()
        .any(|line| line.starts_with("SigIgn:") && line.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']));
    for name in ["TERM", "INT", "HUP"].iter().take(if outlives_its_terminal { 2 } else { 3 }) {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::with(folder.path(), 300, SLOW);
        let log = folder.path().join("log");
        let child = scene.send(&[], &log);
        wait_until("a first part", &log, || scene.taken() > 50);
        signal(&child, name);
        let status = ended(child, &log);
        assert!(status.code().is_some(), "SIG{name}: {status}");
        let (taken, report) = (scene.taken(), scene.report());
        assert!(taken < scene.recipients, "it stopped");
        assert_eq!(report["delivered"].as_u64(), Some(taken), "SIG{name}: {report}");
        assert_eq!(finish(&scene, &log), 0, "SIG{name}");
        scene.check_all_once();
    }
}

#[test]
fn hosts_that_never_answer_hold_up_the_end_no_longer_than_the_grace_and_a_second_signal_not_at_all() {
    for twice in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::with(folder.path(), 50, MUTE);
        let log = folder.path().join("log");
        let child = scene.send(&[], &log);
        wait_until("a message", &log, || scene.taken() >= 1);
        let since = Instant::now();
        signal(&child, "TERM");
        if twice {
            let said = || std::fs::read_to_string(&log).unwrap();
            wait_until("its word", &log, || said().contains("once more stops at once"));
            signal(&child, "TERM");
        }
        ended(child, &log);
        let most = if twice { 5 } else { 45 };
        assert!(since.elapsed() < Duration::from_secs(most), "{:?}", since.elapsed());
        // what is in doubt is known: still as an intent, or on record as put off (nothing else is here), or as sent again
        let output = scene.ran(&["--json", "queue", "verify"]);
        let whole: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let report = scene.report();
        let open = ["intents", "outbox"].map(|name| whole[name].as_u64().unwrap()).iter().sum::<u64>();
        let listed = ["deferred", "possible_doubles"].map(|name| report[name].as_u64().unwrap()).iter().sum::<u64>();
        let doubtful = open + listed;
        assert!((1..=CONNECTIONS as u64).contains(&doubtful), "{whole} {report}");
        assert!(scene.taken() <= doubtful, "{} taken: {whole} {report}", scene.taken());
    }
}

/// A shell whose terminal is closed passes the hang-up on, and so does the system: nobody was impatient.
#[test]
fn a_terminal_that_closes_is_one_signal_however_often_it_says_so() {
    let under = ["env", "--default-signal=HUP"];
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 50, &SLOW.replace("20ms", "1s"));
    let log = folder.path().join("log");
    let child = scene.send(&under, &log);
    wait_until("a first part", &log, || scene.taken() > 5);
    ["HUP", "HUP", "TERM", "HUP"].iter().for_each(|name| signal(&child, name));
    let status = ended(child, &log);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(status.code() == Some(4) && !said.contains("stopped at once"), "{status}: {said}");
    let (taken, report) = (scene.taken(), scene.report());
    assert_eq!(report["delivered"].as_u64(), Some(taken), "{report}");

    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 50, MUTE);
    let child = scene.send(&under, &log);
    wait_until("a message", &log, || scene.taken() >= 1);
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(1500));
    let since = Instant::now();
    signal(&child, "TERM");
    assert_eq!(ended(child, &log).code(), Some(1), "whoever asks later is impatient");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn a_process_that_is_out_of_memory_leaves_what_any_crash_leaves() {
    // a failed allocation ends in an abort, the system's remedy in SIGKILL
    for name in ["ABRT", "KILL"] {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::with(folder.path(), 300, SLOW);
        let log = folder.path().join("log");
        let child = scene.send(&[], &log);
        wait_until("a first part", &log, || scene.taken() > 50);
        signal(&child, name);
        assert_eq!(ended(child, &log).code(), None);
        let listed = finish(&scene, &log);
        assert!(listed <= CONNECTIONS as u64, "SIG{name}: {listed} in doubt");
    }
}

#[test]
fn a_second_process_is_refused_and_learns_the_pid_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    let mut serve = scene.command(&[], &["serve"]);
    let first = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = folder.path().join("log");
    wait_until("the first", &log, || folder.path().join("state/control.sock").exists());
    for arguments in [&["serve"][..], &["queue", "verify"], &["queue", "rebuild"]] {
        let second = scene.command(&[], arguments).output().unwrap();
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(&format!("process {}", first.id())), "{arguments:?}: {said}");
    }
    signal(&first, "TERM");
    assert_eq!(ended(first, &log).code(), Some(0));
}

#[test]
fn whoever_watches_a_sender_that_ends_sends_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 300, SLOW);
    let (log, watched) = (folder.path().join("log"), folder.path().join("watched"));
    let first = scene.send(&[], &log);
    wait_until("a first part", &log, || scene.taken() > 20);
    let second = scene.send(&[], &watched);
    let said = || std::fs::read_to_string(&watched).unwrap();
    wait_until("its watching", &watched, || said().contains("this command watches"));
    signal(&first, "TERM");
    ended(first, &log);
    assert!(scene.taken() < scene.recipients, "it stopped");
    let status = ended(second, &watched);
    assert_eq!(status.code(), Some(0), "{}", said());
    scene.check_all_once();
}

/// What `export outcomes` tells of a copy.
#[derive(serde::Deserialize)]
struct Row {
    address: String,
    attempts: u32,
}

#[test]
fn a_crash_loop_burns_no_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), 200, SLOW);
    let log = folder.path().join("log");
    let mut dice = fastrand::Rng::with_seed(3);
    let mut kills = 0;
    for _ in 0..12 {
        let mut child = scene.send(&[], &log);
        std::thread::sleep(Duration::from_millis(dice.u64(50..500)));
        kills += u64::from(child.try_wait().unwrap().is_none());
        let _ = Command::new("kill").args(["-s", "KILL"]).arg(child.id().to_string()).status();
        ended(child, &log);
    }
    let listed = finish(&scene, &log);
    assert!(listed <= kills * CONNECTIONS as u64, "{listed} in doubt after {kills} kills");
    let output = scene.ran(&["--json", "export", "outcomes", "welcome"]);
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        assert_eq!(row.attempts, 1, "{} after {kills} kills", row.address);
    }
}

#[test]
fn a_signal_before_the_launch_leaves_nothing_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    // a name server that never answers, while it is asked whether this domain is fit to send
    let names = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    names.set_read_timeout(Some(PATIENCE)).unwrap();
    let (log, answer) = (folder.path().join("log"), folder.path().join("answer"));
    let out = |path: &Path| std::fs::File::create(path).unwrap();
    for arguments in [["send", "welcome", "--yes"].as_slice(), &["test", "welcome", "--to", "me@d1.example"]] {
        let mut command = scene.command(&[], &["--json"]);
        command.env("MAILSHOT_RESOLVER", names.local_addr().unwrap().to_string());
        let child = command.args(arguments).stdout(out(&answer)).stderr(out(&log)).spawn().unwrap();
        names.recv(&mut [0; 512]).unwrap();
        signal(&child, "INT");
        let since = Instant::now();
        assert_eq!(ended(child, &log).code(), Some(4), "{}", std::fs::read_to_string(&log).unwrap());
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert!(std::fs::read_to_string(&answer).unwrap().contains("\"launched\":false"));
        let status = scene.ran(&["status"]);
        assert!(String::from_utf8_lossy(&status.stdout).contains("no campaign is under way"));
        // what was asked before the end
        names.set_nonblocking(true).unwrap();
        while names.recv(&mut [0; 512]).is_ok() {}
        names.set_nonblocking(false).unwrap();
    }
}

/// A command that looks at the queue and does not end: stopped in its tracks while it holds it.
fn held_up(scene: &Scene, log: &Path) -> Child {
    let top = scene.command(&[], &["queue", "top"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let lock = scene.folder.join("state/owner.lock");
    let pid = top.id().to_string();
    wait_until("its hold", log, || {
        std::fs::read_to_string(&lock).is_ok_and(|said| said.split_whitespace().next() == Some(&pid))
    });
    signal(&top, "STOP");
    top
}

#[test]
fn whoever_only_looks_at_the_queue_is_waited_for_by_whoever_sends() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    let log = folder.path().join("log");
    let mut top = held_up(&scene, &log);
    let child = scene.send(&[], &log);
    std::thread::sleep(Duration::from_secs(1));
    signal(&top, "CONT");
    assert!(top.wait().unwrap().success());
    assert_eq!(ended(child, &log).code(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
    scene.check_all_once();
}

#[test]
fn whoever_only_looks_at_the_queue_is_asked_nothing_and_taken_for_no_sender() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    let log = folder.path().join("log");
    let nobody = scene.command(&[], &["send", "welcome", "--yes", "--via", "smtp://127.0.0.1:1"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(4), "all of it waits");
    let mut lock = std::fs::File::create(folder.path().join("state/owner.lock")).unwrap();
    lock.lock().unwrap();
    lock.write_all(b"12 keeping\n").unwrap();
    let told = String::from_utf8(scene.ran(&["status"]).stdout).unwrap();
    assert!(told.contains("nobody is sending it now"), "{told}");
    let socket = std::os::unix::net::UnixListener::bind(folder.path().join("state/control.sock")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let child = scene.command(&[], &["pause", "welcome"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(socket.accept().is_err(), "it was asked");
    drop(lock);
    assert_eq!(ended(child, &log).code(), Some(0));
}

/// What is made to measure or to show goes with whoever is told to stop: the folder, and the receiver in its own process.
#[test]
fn a_signal_leaves_nothing_of_bench_and_demo_behind() {
    for (name, command) in [("TERM", "bench"), ("INT", "bench"), ("TERM", "demo")] {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_mailshot"));
        process.arg(command).env_clear().env("TMPDIR", place.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = process.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let made =
            || std::fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.path()).find(|it| it.is_dir());
        wait_until("its folder", &log, || {
            made().is_some_and(|folder| folder.join("sink.toml").exists() || command == "demo")
        });
        let folder = made().expect("seen just now");
        signal(&child, name);
        assert_eq!(ended(child, &log).code(), Some(1), "{command}");
        assert!(!folder.exists(), "{} is left", folder.display());
        let is_left = || {
            let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
            let mark = folder.to_str().expect("a name of ours");
            processes.any(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(mark)
            })
        };
        wait_until("the end of its receiver", &log, || !is_left());
    }
}

/// Whether a process minds SIGTERM by now, as the system tells (bit 14).
fn minds_signals(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap() >> 14 & 1 == 1
}

#[test]
fn whatever_a_signal_ends_says_so_once_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    let at = |name: &str| folder.path().join(name).display().to_string();
    let people = (0..40_000).map(|number| format!("i{number}@i{}.example,Person\nnobody,x\n", number % 900));
    std::fs::write(at("many.csv"), format!("email,name\n{}", people.collect::<String>())).unwrap();
    let (log, answer) = (folder.path().join("log"), folder.path().join("answer"));
    let count = || std::fs::read_dir(folder.path()).unwrap().count();
    let (import, rejects) = (["import", &at("many.csv"), "--list", "news"], at("rejects.csv"));
    let mut stopped = 0;
    let mut is_stopped = |arguments: &[&str], name: &str, after: u64| {
        let out = |path: &Path| std::fs::File::create(path).unwrap();
        let mut command = scene.command(&["env", "--default-signal=HUP,INT"], &["--json"]);
        command.args(arguments).stdout(out(&answer)).stderr(out(&log));
        let _ = (std::fs::remove_file(at("table.csv")), std::fs::remove_dir_all(at("copy")));
        let before = count();
        let mut child = command.spawn().unwrap();
        wait_until("its ears", &log, || minds_signals(&child) || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(after));
        if child.try_wait().unwrap().is_none() {
            signal(&child, name);
        }
        let code = ended(child, &log).code();
        let told = std::fs::read_to_string(&answer).unwrap();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_else(|why| panic!("{why}: {told}"));
        if told.get("error").is_some() {
            assert_eq!((code, &told["error"]["exit"]), (Some(1), &1.into()), "{arguments:?}: {told}");
            assert!(told["error"]["message"].as_str().unwrap().contains("stopped by a signal"), "{told}");
            assert_eq!(count(), before, "{arguments:?}");
            stopped += 1;
        }
    };
    for (name, after) in [("TERM", 0), ("INT", 100), ("HUP", 300)] {
        is_stopped(&[&import[..], &["--rejects", &rejects]].concat(), name, after);
    }
    // what was taken in stays, and the rest comes with the next
    assert_eq!(scene.command(&[], &import).output().unwrap().status.code(), Some(4));
    for (name, after) in [("TERM", 0), ("INT", 200)] {
        is_stopped(&["export", "contacts", "--to", &at("table.csv")], name, after);
        is_stopped(&["backup", &at("copy")], name, after / 8);
        is_stopped(&["plan", "welcome"], name, after / 2);
    }
    assert!(stopped >= 6, "{stopped} of 9 were ended before they were done");
    let output = scene.ran(&["--json", "lists"]);
    let lists: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lists["lists"][0]["subscribed"], 40_003, "{lists}");
}

/// A script gives its background such an ear: Ctrl-C is meant for what stands in front.
#[test]
fn what_was_started_to_outlive_a_signal_does() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 1000);
    let log = folder.path().join("log");
    let mut command = scene.command(&["env", "--ignore-signal=INT,HUP"], &["export", "contacts"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    wait_until("its ears", &log, || minds_signals(&child) || child.try_wait().unwrap().is_some());
    ["INT", "HUP"].iter().for_each(|name| signal(&child, name));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1001);
}

#[test]
fn a_signal_ends_the_wait_for_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 3);
    let (log, answer) = (folder.path().join("log"), folder.path().join("answer"));
    let out = |path: &Path| std::fs::File::create(path).unwrap();
    let (mut top, relay) = (held_up(&scene, &log), "smtp://127.0.0.1:1");
    let said = |path: &Path| std::fs::read_to_string(path).unwrap();
    for (arguments, code, told) in [
        (["send", "welcome", "--yes", "--via", relay].as_slice(), 4, "send welcome --via smtp://127.0.0.1:1 --yes"),
        (
            &["test", "welcome", "--to", "me@d1.example", "--via", relay],
            4,
            "test welcome --to ADDRESS --via smtp://127.0.0.1:1",
        ),
        (&["serve"], 0, ""),
    ] {
        let child = scene.command(&[], arguments).stdout(out(&answer)).stderr(out(&log)).spawn().unwrap();
        wait_until("its word", &log, || said(&log).contains("waiting for it to end"));
        signal(&child, "INT");
        let since = Instant::now();
        assert_eq!(ended(child, &log).code(), Some(code), "{arguments:?}: {}", said(&log));
        assert!(since.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", since.elapsed());
        assert!(said(&answer).contains(told), "{arguments:?}: {}", said(&answer));
    }
    signal(&top, "CONT");
    assert!(top.wait().unwrap().success());
}
