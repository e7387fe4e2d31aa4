//! A workspace whose first campaign is sent and whose second is under way, served by the real binary; the receiver lives in
//! the process of the test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mailshot::base::{ContactId, EnvelopeId, LaunchId, Purpose, Seal};
use mailshot::config::Settings;
use mailshot::engine::Workspace;
use mailshot::proving::receiver::{Receiver, Setup};
use mailshot::proving::script::Script;
use mailshot::store::{Store, Threads};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::{CONNECTIONS, Kind};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// The campaign that people leave and click in, and the one that is sent meanwhile; each to a list of its own.
const BEFORE: &str = "before";
const BESIDE: &str = "beside";
/// Ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

/// What is on record at the end.
pub struct Books {
    /// Who has left.
    pub left: u64,
    /// How often links were followed.
    pub clicks: u64,
}

pub struct Scene {
    pub address: String,
    folder: tempfile::TempDir,
    receiver: Receiver,
    server: Running,
    sending: Running,
    seal: Seal,
    people: u32,
    /// How many were given to clients that leave.
    given: AtomicU32,
    _runtime: tokio::runtime::Runtime,
}

impl Scene {
    /// A scene of so many people, with the second campaign under way at so many messages a second.
    pub fn set(people: u32, beside: u32) -> Scene {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Script::parse("session = \"plain\"\ndomains = { \"*\" = \"plain\" }").unwrap();
        let receiver = Receiver::new(Setup { script, verifier: None, shelf: None }).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let via = format!("smtp://{}", listener.local_addr().unwrap());
        runtime.spawn(receiver.clone().listen(listener, receiver.script().session, CancellationToken::new()));
        let folder = tempfile::tempdir().unwrap();
        let address = free_address().to_string();
        write_workspace(folder.path(), &address, people);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = Running::start(command(folder.path(), &["serve"]).stdout(Stdio::null()).stderr(log));
        wait_until("the pages are there", || std::net::TcpStream::connect(&address).is_ok());
        ran(folder.path(), &["send", BEFORE, "--yes", "--wait", "all", "--via", &via]);
        let rate = format!("{beside}/s");
        let mut sending = command(folder.path(), &["send", BESIDE, "--yes", "--rate", &rate, "--via", &via]);
        let sending = Running::start(sending.stdout(Stdio::null()).stderr(Stdio::null()));
        let sent = receiver.glance().0;
        wait_until("the second campaign is under way", || receiver.glance().0 > sent + u64::from(beside));
        let seal = Workspace::with(folder.path(), Settings::default()).seal().unwrap();
        let given = AtomicU32::new(0);
        Scene { address, folder, receiver, server, sending, seal, people, given, _runtime: runtime }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Messages taken so far.
    pub fn taken(&self) -> u64 {
        self.receiver.glance().0
    }

    /// Links out of so many copies of the first campaign: each is left by somebody else, and clicked by anybody.
    pub fn paths(&self, kind: Kind, count: u32) -> Vec<String> {
        let first = match kind {
            Kind::OneClick => self.given.fetch_add(count, Ordering::Relaxed),
            Kind::Click => 0,
        };
        assert!(kind == Kind::Click || first + count <= self.people, "there are not so many people");
        let copy = |number: u32| EnvelopeId::new(LaunchId(1), ContactId(1 + number));
        let path = |number: u32| match kind {
            Kind::OneClick => format!("/u/{}", self.seal.mint(copy(number), Purpose::Unsubscribe, 0)),
            Kind::Click => format!("/c/{}", self.seal.mint(copy(number % self.people), Purpose::Click, 0)),
        };
        (first..first + count).map(path).collect()
    }

    /// Processor time and memory of the server so far.
    pub fn used(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.0.id())).unwrap_or_default();
        let fields: Vec<f64> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        let at = |field: usize| fields.get(field).copied().unwrap_or(0.0);
        format!("{:.1} s of processor, {:.0} MB", (at(11) + at(12)) / TICKS, at(21) * 4096.0 / 1e6)
    }

    /// Stops the server in order, as `kill -TERM` does.
    pub fn stop(mut self) -> Books {
        let stopped = Command::new("kill").args(["-TERM", &self.server.0.id().to_string()]).status().unwrap();
        assert!(stopped.success() && self.server.0.wait().unwrap().success());
        self.close()
    }

    /// Kills the server without a word.
    pub fn kill(mut self) -> Books {
        self.server.end();
        self.close()
    }

    fn close(mut self) -> Books {
        self.sending.end();
        let store = Store::open("sqlite:state/audience.db", self.folder.path(), Threads::Own).unwrap();
        let list = store.lists().unwrap().into_iter().find(|list| list.name == BEFORE).unwrap();
        let visits = (1..=self.people).flat_map(|number| store.visits(ContactId(number)).unwrap());
        let clicks = visits.map(|visit| u64::from(visit.times + visit.by_machine)).sum();
        Books { left: list.unsubscribed, clicks }
    }
}

/// A process that does not outlive the test, however that ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.spawn().expect("it runs"))
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address nobody listens on.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn write_workspace(folder: &Path, address: &str, people: u32) {
    ran(folder, &["init"]);
    let per_client = 3 * CONNECTIONS;
    let settings = format!(
        "[sender]\npostal_address = \"Example Ltd, 1 High Street, Exampleton\"\n[links]\ntracking_consent = \"opt_out\"\n\
         [web]\nlisten = \"{address}\"\nconnections_per_client = {per_client}\n"
    );
    std::fs::write(folder.join("mailshot.toml"), settings).unwrap();
    let rows = (0..people).map(|number| format!("p{number}@d{}.example,Person {number}\n", number % 50));
    let file = folder.join("people.csv");
    std::fs::write(&file, format!("email,name\n{}", rows.collect::<String>())).unwrap();
    for name in [BEFORE, BESIDE] {
        let campaign = folder.join("campaigns").join(name);
        std::fs::create_dir_all(&campaign).unwrap();
        let text = format!(
            "subject = \"Hello\"\nfrom = \"News <news@example.com>\"\nlists = [\"{name}\"]\ntemplate = \"plain\"\n\
             tracking = {{ opens = false, clicks = true }}\n"
        );
        std::fs::write(campaign.join("campaign.toml"), text).unwrap();
        std::fs::write(campaign.join("body.md"), "Hello {{name}}, [look](https://shop.example/).\n").unwrap();
        ran(folder, &["import", file.to_str().unwrap(), "--list", name]);
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(folder).args(arguments).env_clear().stdin(Stdio::null());
    command
}

fn ran(folder: &Path, arguments: &[&str]) {
    let output = command(folder, arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        sleep(Duration::from_millis(20));
    }
}
