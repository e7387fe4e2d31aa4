//! Disks and files in trouble under the real process: it waits, says why, and goes on by itself. Small file systems of their
//! own and immutable files need root; where that is missing it is said, and the test skipped.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mailshot::queue::{Durability, Ledger, Move, SledLedger};
use rusqlite::Connection;

use crate::scene::{CONNECTIONS, Scene, wait_until};

const RECIPIENTS: u64 = 600;
/// A host that takes its time, so that something is left to be sent when the trouble comes.
const LEISURELY: &str =
    "session = \"slow\"\ndomains = { \"*\" = \"slow\" }\n[personality.slow]\ndelay = { dot = \"20ms\" }\n";
/// How long it is looked whether anything is still sent.
const STILL: Duration = Duration::from_millis(1500);

fn ran(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// A file system of its own, of so many MiB.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mb: u32) -> Option<Disk> {
        let size = format!("size={mb}m");
        let mounted = ran("mount", &["-t", "tmpfs", "-o", &size, "none", at.to_str().unwrap()]);
        if !mounted {
            println!("skipped: a small disk cannot be mounted here; it needs root");
        }
        mounted.then(|| Disk(at.to_owned()))
    }

    /// Takes all room but so many MiB.
    fn fill(&self, leave_mb: u64) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        let free = |at: &Path| {
            let found = rustix::fs::statvfs(at).unwrap();
            found.f_bavail * found.f_frsize
        };
        // the last piece may find no room
        while free(&self.0) > leave_mb << 20 && ballast.write_all(&[7; 1 << 18]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        ran("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A file that takes no write, whoever has it open.
struct Stuck(PathBuf);

impl Stuck {
    fn hold(file: PathBuf) -> Option<Stuck> {
        let held = ran("chattr", &["+i", file.to_str().unwrap()]);
        if !held {
            println!("skipped: {} cannot be made immutable; it needs root and ext4", file.display());
        }
        held.then_some(Stuck(file))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        ran("chattr", &["-i", self.0.to_str().unwrap()]);
    }
}

fn set(scene: &Scene, line: &str) {
    let file = scene.folder.join("mailshot.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text.replace("[queue]\n", &format!("[queue]\n{line}\n"))).unwrap();
}

/// What `status` says that everybody waits for.
fn stalled(scene: &Scene) -> Vec<String> {
    let output = scene.command(&[], &["--json", "status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let status: serde_json::Value =
        text.lines().next().map(|line| serde_json::from_str(line).unwrap()).unwrap_or_default();
    let rows = status["stalled"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| row["why"].as_str().unwrap().to_owned()).collect()
}

fn ended(mut child: Child, log: &Path) -> ExitStatus {
    wait_until("the end", log, || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}

/// Sends; in the middle of it `trouble` comes, has to be shown with `words`, and goes. Whether anything may be sent
/// meanwhile depends on whose trouble it is. Then everybody has it once.
fn goes_on_after<T>(scene: &Scene, words: &str, is_still: bool, trouble: impl FnOnce() -> Option<T>) {
    let log = scene.folder.join("log");
    let child = scene.send(&[], &log);
    wait_until("the first hundred", &log, || scene.taken() >= 100);
    let Some(trouble) = trouble() else {
        assert!(ended(child, &log).success());
        return;
    };
    wait_until(words, &log, || stalled(scene).iter().any(|why| why.contains(words)));
    if is_still {
        let before = scene.taken();
        assert!(before < RECIPIENTS, "all were sent before the trouble came");
        sleep(STILL);
        let after = scene.taken();
        assert!(after <= before + CONNECTIONS as u64, "{} were sent that could not be recorded", after - before);
    }
    drop(trouble);
    let status = ended(child, &log);
    assert!(status.success(), "{status}: {}", fs::read_to_string(&log).unwrap());
    scene.check_all_once();
}

#[test]
fn a_full_disk_is_waited_for_and_nobody_gets_it_twice_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), 96) else { return };
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    set(&scene, "reserve_mb = 32");
    struct Full<'a>(&'a Disk);
    impl Drop for Full<'_> {
        fn drop(&mut self) {
            self.0.empty();
        }
    }
    goes_on_after(&scene, "less than 32 MiB are free", true, || {
        disk.fill(16);
        Some(Full(&disk))
    });
    drop(scene);
}

#[test]
fn a_stop_below_the_reserve_still_records_what_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), 96) else { return };
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    set(&scene, "reserve_mb = 32");
    let log = scene.folder.join("log");
    let child = scene.send(&[], &log);
    wait_until("the first hundred", &log, || scene.taken() >= 100);
    disk.fill(16);
    wait_until("the stall", &log, || !stalled(&scene).is_empty());
    assert!(ran("kill", &["-TERM", &child.id().to_string()]));
    ended(child, &log);
    disk.empty();
    assert!(ended(scene.send(&[], &log), &log).success());
    scene.check_all_once();
    drop(scene);
}

#[test]
fn a_queue_whose_writes_fail_is_opened_again_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    goes_on_after(&scene, "the queue cannot be written", true, || Stuck::hold(folder.path().join("state/queue/db")));
}

#[test]
fn a_record_whose_writes_fail_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    goes_on_after(&scene, "audience.db", false, || Stuck::hold(folder.path().join("state/audience.db-wal")));
}

#[test]
fn a_record_locked_for_longer_than_is_waited_for_it_holds_nobody_back_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    goes_on_after(&scene, "is locked by another process", false, || {
        let other = Connection::open(folder.path().join("state/audience.db")).unwrap();
        other.busy_timeout(Duration::from_secs(10)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        Some(other)
    });
}

#[test]
fn a_stop_does_not_wait_for_a_full_disk_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(folder.path(), RECIPIENTS, LEISURELY);
    let log = folder.path().join("log");
    let child = scene.send(&[], &log);
    wait_until("the first hundred", &log, || scene.taken() >= 100);
    let Some(stuck) = Stuck::hold(folder.path().join("state/queue/db")) else {
        assert!(ended(child, &log).success());
        return;
    };
    wait_until("the stall", &log, || !stalled(&scene).is_empty());
    let began = Instant::now();
    assert!(ran("kill", &["-TERM", &child.id().to_string()]));
    let status = ended(child, &log);
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("the queue cannot be written") && began.elapsed() < Duration::from_secs(40), "{told}");
    drop(stuck);
    // what was on the wire is in doubt, and listed
    assert!(matches!(ended(scene.send(&[], &log), &log).code(), Some(0 | 4)));
    let (report, counts) = (scene.report(), scene.receiver.counts());
    assert_eq!((&report["delivered"], counts.recipients), (&RECIPIENTS.into(), RECIPIENTS), "{report}");
    assert!(counts.doubles <= report["possible_doubles"].as_u64().unwrap(), "{report}");
    assert!(report["possible_doubles"].as_u64().unwrap() <= CONNECTIONS as u64, "{report}");
}

/// Fills a disk but for so many bytes.
fn leave(disk: &Disk, bytes: u64) {
    disk.fill(0);
    let ballast = File::options().write(true).open(disk.0.join("ballast")).unwrap();
    ballast.set_len(ballast.metadata().unwrap().len() - bytes).unwrap();
}

#[test]
fn what_does_not_fit_on_a_full_disk_is_named_and_nothing_cut_is_left_there() {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(disk) = Disk::mount(place.path(), 4) else { return };
    let scene = Scene::set(folder.path(), 100);
    let at = |name: &str| place.path().join(name).display().to_string();
    leave(&disk, 1 << 16);
    let refused = |arguments: &[&str], words: &str| {
        let output = scene.command(&[], &["--json"]).args(arguments).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(words), "{told}");
    };
    refused(&["backup", &at("copy")], &format!("the disk is full: {} could not grow", at("copy/audience.db.part")));
    assert!(!place.path().join("copy").exists());
    refused(&["send", "welcome", "--dry-run", &at("dry")], &format!("cannot write {}", at("dry/0000")));
    let written: Vec<String> =
        fs::read_dir(at("dry")).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert!((1..100).contains(&written.len()), "{} messages", written.len());
    assert!(written.iter().all(|message| message.trim_end().ends_with("--")), "one was cut");
}

/// Spoils all pages of the record but the first, which names the tables.
fn damage(scene: &Scene) {
    let mut file = File::options().write(true).open(scene.folder.join("state/audience.db")).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for page in 1..pages {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xa5; 64]).unwrap();
    }
}

#[test]
fn a_damaged_record_stops_everything_with_words_for_what_to_do() {
    for at in [0, 100] {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::with(folder.path(), 3000, LEISURELY);
        let log = folder.path().join("log");
        // so that the pages are in the file itself
        let record = Connection::open(folder.path().join("state/audience.db")).unwrap();
        record.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(record);
        if at == 0 {
            damage(&scene);
        }
        let child = scene.send(&[], &log);
        if at > 0 {
            wait_until("the first hundred", &log, || scene.taken() >= at);
            damage(&scene);
        }
        let status = ended(child, &log);
        let told = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(1), "{told}");
        assert!(told.contains("is damaged") && told.contains("restore the last backup"), "{told}");
        assert!(scene.taken() < 3000, "sending went on over a damaged record");
        assert_eq!(scene.receiver.counts().doubles, 0);
    }
}

#[test]
fn a_read_only_disk_is_refused_at_the_start_and_all_goes_out_when_it_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), 128) else { return };
    let scene = Scene::set(folder.path(), 50);
    let beside = tempfile::tempdir().unwrap();
    let log = beside.path().join("log");
    let remount = |how: &str| assert!(ran("mount", &["-o", &format!("remount,{how}"), disk.0.to_str().unwrap()]));
    remount("ro");
    let status = ended(scene.send(&[], &log), &log);
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!((status.code(), scene.taken()), (Some(1), 0), "{told}");
    assert!(told.to_lowercase().contains("read-only"), "{told}");
    remount("rw");
    assert!(ended(scene.send(&[], &log), &log).success());
    scene.check_all_once();
    drop(scene);
}

#[test]
fn a_queue_that_cannot_be_opened_sends_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::set(folder.path(), 5);
    fs::create_dir_all(folder.path().join("state/queue/db")).unwrap();
    let log = folder.path().join("log");
    let status = ended(scene.send(&[], &log), &log);
    let told = fs::read_to_string(&log).unwrap();
    assert_eq!((status.code(), scene.taken()), (Some(1), 0), "{told}");
    assert!(told.contains("cannot open the queue in"), "{told}");
}

fn put(number: u64) -> Move {
    Move::Put(number.to_be_bytes().to_vec(), vec![number as u8; 60])
}

#[test]
fn a_ledger_that_ran_out_of_room_within_a_write_comes_back_and_has_all_it_said_yes_to() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), 24) else { return };
    let mut ledger = SledLedger::open(&folder.path().join("queue"), 1, Durability::Synced).unwrap();
    let (mut next, mut kept, mut failures) = (0, 0, 0);
    for round in 0..6 {
        disk.fill(0);
        loop {
            let batch: Vec<Move> = (next..next + 500).map(put).collect();
            let began = Instant::now();
            let done = ledger.commit(&batch);
            assert!(began.elapsed() < Duration::from_secs(60), "round {round}: {:?}", began.elapsed());
            match done {
                Ok(()) => (next, kept) = (next + 500, next + 500),
                Err(error) => {
                    assert!(error.to_string().contains("No space left on device"), "round {round}: {error}");
                    failures += 1;
                    break;
                }
            }
        }
        disk.empty();
        let batch: Vec<Move> = (next..next + 500).map(put).collect();
        let began = Instant::now();
        while let Err(error) = ledger.commit(&batch) {
            assert!(error.may_pass() && began.elapsed() < Duration::from_secs(60), "round {round}: {error}");
            sleep(Duration::from_millis(50));
        }
        (next, kept) = (next + 500, kept.max(next + 500));
        // room for the next round
        ledger
            .commit(&(0..next.saturating_sub(1000)).map(|n| Move::Remove(n.to_be_bytes().to_vec())).collect::<Vec<_>>())
            .unwrap();
        for number in next.saturating_sub(1000)..kept {
            assert!(ledger.value(&number.to_be_bytes()).unwrap().is_some(), "round {round}: {number} is lost");
        }
    }
    assert_eq!(failures, 6);
    drop(ledger);
}
