//! A workspace, the real binary, and a receiver in the process of the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mailshot::proving::receiver::{Receiver, Setup};
use mailshot::proving::script::Script;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Connections at once.
pub const CONNECTIONS: usize = 3;

/// A workspace whose campaign goes to some people, and who receives it.
pub struct Scene {
    pub folder: PathBuf,
    pub receiver: Receiver,
    via: String,
    pub recipients: u64,
    _runtime: tokio::runtime::Runtime,
}

impl Scene {
    /// A host that takes everything.
    pub fn set(folder: &Path, recipients: u64) -> Scene {
        Scene::with(folder, recipients, "session = \"plain\"\ndomains = { \"*\" = \"plain\" }")
    }

    /// A host with a script.
    pub fn with(folder: &Path, recipients: u64, script: &str) -> Scene {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Script::parse(script).unwrap();
        let receiver = Receiver::new(Setup { script, verifier: None, shelf: None }).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let via = format!("smtp://{}", listener.local_addr().unwrap());
        runtime.spawn(receiver.clone().listen(listener, receiver.script().session, CancellationToken::new()));
        let scene = Scene { folder: folder.to_owned(), receiver, via, recipients, _runtime: runtime };
        scene.ran(&["init"]);
        let settings = folder.join("mailshot.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        let few = text.replace("# connection_limit = 50", &format!("connection_limit = {CONNECTIONS}"));
        assert_ne!(text, few);
        std::fs::write(&settings, few).unwrap();
        let people = (0..recipients).map(|number| format!("p{number}@d{}.example,Person {number}\n", number % 7));
        let file = folder.join("people.csv");
        std::fs::write(&file, format!("email,name\n{}", people.collect::<String>())).unwrap();
        scene.ran(&["import", file.to_str().unwrap(), "--list", "news"]);
        scene
    }

    pub fn command(&self, under: &[&str], arguments: &[&str]) -> Command {
        let words: Vec<&str> = under.iter().copied().chain([env!("CARGO_BIN_EXE_mailshot")]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("-C").arg(&self.folder).args(arguments).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    pub fn ran(&self, arguments: &[&str]) -> Output {
        let output = self.command(&[], arguments).output().expect("the binary runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Starts sending, with the log in a file beside the test's own.
    pub fn send(&self, under: &[&str], log: &Path) -> Child {
        let log = std::fs::File::create(log).unwrap();
        let mut send = self.command(under, &["--json", "send", "welcome", "--yes", "--via", &self.via]);
        send.stdout(Stdio::null()).stderr(log).spawn().expect("it runs")
    }

    pub fn report(&self) -> serde_json::Value {
        serde_json::from_slice(&self.ran(&["--json", "report", "welcome"]).stdout).unwrap()
    }

    pub fn taken(&self) -> u64 {
        self.receiver.glance().0
    }

    /// Everybody got it once, and the report says so.
    pub fn check_all_once(&self) {
        let report = self.report();
        let counts = self.receiver.counts();
        assert_eq!((counts.messages, counts.recipients), (self.recipients, self.recipients), "{report}");
        assert_eq!(
            (&report["delivered"], &report["possible_doubles"]),
            (&self.recipients.into(), &0.into()),
            "{report}"
        );
        let output = self.ran(&["--json", "queue", "verify"]);
        let whole: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(["due", "held", "intents"].map(|name| whole[name].as_u64()), [Some(0); 3], "{whole}");
    }
}

/// Waits, no longer than is patient; `log` is shown when it does not come.
pub fn wait_until(what: &str, log: &Path, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        let text = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "{what} does not come: {}", text());
        sleep(Duration::from_millis(5));
    }
}
