//! The real process, killed without a word at seeded instants and started again until all is sent: nothing is lost, what
//! may have come twice is bounded and listed, and with `in_doubt = "hold"` nothing comes twice.
//!
//! The receiver lives in the process of the test and outlives every kill. `MAILSHOT_SOAK_RECIPIENTS`, `MAILSHOT_SOAK_KILLS`
//! and `MAILSHOT_SOAK_SEED` make it longer, crueller or another one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mailshot::proving::receiver::{Receiver, Setup};
use mailshot::proving::script::Script;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Connections at once: so few that the bound on doubles means something.
const CONNECTIONS: u64 = 4;
/// No single run may take longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// An early kill comes within this time after the start: while the queue is opened, recovered and planned.
const EARLY: Duration = Duration::from_millis(700);

/// The receiver takes 4 ms over each message, so that even a test that is kept waiting for its turn kills in time.
const SCRIPT: &str = r#"
session = "unhurried"
domains = { "*" = "unhurried" }
[personality.unhurried]
like = "plain"
delay = { dot = "4ms" }
"#;

/// How a copy stands at the end, as `export outcomes` tells it.
#[derive(serde::Deserialize)]
struct Row {
    address: String,
    outcome: String,
    sent_again: u32,
}

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(format!("MAILSHOT_SOAK_{name}"));
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("MAILSHOT_SOAK_{name} is no number: {text}")))
}

/// A workspace whose campaign goes to `count` people.
fn workspace(folder: &Path, count: u64, in_doubt: &str) {
    assert!(run(folder, &["init"]).success());
    edit(&folder.join("mailshot.toml"), "# connection_limit = 50", &format!("connection_limit = {CONNECTIONS}"));
    edit(
        &folder.join("campaigns/welcome/campaign.toml"),
        "in_doubt = \"resend\"",
        &format!("in_doubt = \"{in_doubt}\""),
    );
    let people = (0..count).map(|number| format!("{},Person {number}\n", address(number)));
    let file = folder.join("people.csv");
    std::fs::write(&file, format!("email,name\n{}", people.collect::<String>())).unwrap();
    assert!(run(folder, &["import", file.to_str().unwrap(), "--list", "news"]).success());
}

fn address(number: u64) -> String {
    format!("p{number}@d{}.example", number % 7)
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "`{from}` is not in {}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

fn mailshot(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(folder).args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> ExitStatus {
    mailshot(folder, arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("the binary runs")
}

/// What a command prints in JSON, a line each.
fn told<T: serde::de::DeserializeOwned>(folder: &Path, arguments: &[&str]) -> Vec<T> {
    let output = mailshot(folder, arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

/// When a run is killed: as soon as either has come.
#[derive(Debug)]
struct Moment {
    /// The receiver has taken so many messages in all.
    taken: u64,
    /// So long after the start.
    after: Option<Duration>,
}

/// Waits for the moment, and kills; `false` when the run had ended by itself before.
fn kill_at(child: &mut Child, receiver: &Receiver, moment: &Moment) -> bool {
    let start = Instant::now();
    loop {
        let late = moment.after.is_some_and(|span| start.elapsed() >= span);
        let reached = late || receiver.glance().0 >= moment.taken;
        if reached {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < PATIENCE, "{moment:?} did not come within {PATIENCE:?}");
        sleep(Duration::from_micros(300));
    }
}

/// What is left after everything.
struct End {
    folder: tempfile::TempDir,
    receiver: Receiver,
    recipients: u64,
    kills: u64,
    rows: BTreeMap<String, Row>,
    report: serde_json::Value,
    /// The receiver's task goes with it.
    _runtime: tokio::runtime::Runtime,
}

impl End {
    fn count(&self, name: &str) -> u64 {
        self.report[name].as_u64().unwrap_or_else(|| panic!("no `{name}` in {}", self.report))
    }

    fn taken(&self, row: &Row) -> u32 {
        self.receiver.of(&row.address).taken
    }
}

/// Sends to everybody, killing the process at random until enough kills are done; then lets it finish.
fn send_and_kill(in_doubt: &str, lane: u64) -> End {
    let (recipients, kills) = (setting("RECIPIENTS", 2000), setting("KILLS", 16));
    let seed = setting("SEED", 1);
    println!("{in_doubt}: {recipients} recipients, {kills} kills, MAILSHOT_SOAK_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed * 2 + lane);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let script = Script::parse(SCRIPT).unwrap();
    let receiver = Receiver::new(Setup { script, verifier: None, shelf: None }).unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let via = format!("smtp://{}", listener.local_addr().unwrap());
    runtime.spawn(receiver.clone().listen(listener, receiver.script().session, CancellationToken::new()));
    let folder = tempfile::tempdir().unwrap();
    workspace(folder.path(), recipients, in_doubt);
    let send = ["--json", "send", "welcome", "--yes", "--via", &via];
    let mut done = 0;
    while done < kills {
        // every third comes early; all are spread over what is left, so that none comes too late
        let (taken, left) = (receiver.glance().0, kills - done);
        let share = recipients.saturating_sub(taken) / (left + 1);
        let moment = match dice.u64(0..3) {
            0 => Moment { taken: taken + share, after: Some(EARLY.mul_f64(dice.f64())) },
            _ => Moment { taken: taken + dice.u64(0..=share), after: None },
        };
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = mailshot(folder.path(), &send).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        if !kill_at(&mut child, &receiver, &moment) {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            panic!("ended by itself after {done} kills, before {moment:?}; {taken} were taken before: {log}");
        }
        done += 1;
    }
    // the last kill may have come behind the last outcome: then there is nothing left to send
    let before = told::<serde_json::Value>(folder.path(), &["--json", "report", "welcome"]).pop().expect("a report");
    if before["finished"].is_null() {
        // copies in doubt make it 4
        let ended = run(folder.path(), &send);
        assert!(matches!(ended.code(), Some(0 | 4)), "{ended}");
    }
    let rows = told::<Row>(folder.path(), &["--json", "export", "outcomes", "welcome"]);
    let rows = rows.into_iter().map(|row| (row.address.clone(), row)).collect();
    let report = told(folder.path(), &["--json", "report", "welcome"]).pop().expect("a report");
    End { folder, receiver, recipients, kills, rows, report, _runtime: runtime }
}

/// What holds in either mode: everybody has one final outcome, and the queue is empty and whole.
fn check_all_final(end: &End) {
    assert_eq!(end.rows.len() as u64, end.recipients, "{}", end.report);
    for number in 0..end.recipients {
        assert!(end.rows.contains_key(&address(number)), "{} is lost", address(number));
    }
    assert_eq!((end.count("waiting"), end.count("deferred"), end.count("failed")), (0, 0, 0));
    let whole = told::<serde_json::Value>(end.folder.path(), &["--json", "queue", "verify"]).pop().unwrap();
    let counted = ["due", "held", "intents"].map(|name| whole[name].as_u64());
    assert_eq!((counted, whole["complaints"].as_array().map(Vec::len)), ([Some(0); 3], Some(0)), "{whole}");
}

#[test]
fn nobody_is_lost_and_what_may_have_come_twice_is_bounded_and_listed() {
    let end = send_and_kill("resend", 0);
    check_all_final(&end);
    let counts = end.receiver.counts();
    let listed = end.count("possible_doubles");
    println!("{} kills: {} doubles, {listed} listed as possible", end.kills, counts.doubles);
    for row in end.rows.values() {
        let taken = end.taken(row);
        assert!(taken >= 1, "{} got nothing", row.address);
        assert!(taken <= 1 + row.sent_again, "{} got {taken}, {} listed", row.address, row.sent_again);
        assert_eq!(row.outcome, "delivered", "{}", row.address);
    }
    assert!(counts.doubles <= listed);
    assert!(listed <= CONNECTIONS * end.kills, "{listed} in doubt after {} kills", end.kills);
    // the report agrees with the receiver: everybody, and nobody but for the doubles twice
    assert_eq!((end.count("delivered"), counts.recipients), (end.recipients, end.recipients));
    assert_eq!(counts.messages, end.recipients + counts.doubles);
}

#[test]
fn where_doubt_is_held_nothing_comes_twice() {
    let end = send_and_kill("hold", 1);
    check_all_final(&end);
    let counts = end.receiver.counts();
    let doubtful = end.count("in_doubt");
    println!("{} kills: {} doubles, {doubtful} held in doubt", end.kills, counts.doubles);
    for row in end.rows.values() {
        let taken = end.taken(row);
        match row.outcome.as_str() {
            "delivered" => assert_eq!(taken, 1, "{}", row.address),
            "in_doubt" => assert!(taken <= 1, "{} got {taken}", row.address),
            other => panic!("{} is {other}", row.address),
        }
    }
    assert_eq!((counts.doubles, end.count("possible_doubles")), (0, 0));
    assert!(doubtful <= CONNECTIONS * end.kills, "{doubtful} in doubt after {} kills", end.kills);
    assert_eq!(end.count("delivered") + doubtful, end.recipients);
    assert!((end.count("delivered")..=end.recipients).contains(&counts.messages));
}
