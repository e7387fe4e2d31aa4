//! The workspace under test: the real binary, run as a user would.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A scratch folder with a workspace in it, as `mailshot init` makes it.
pub struct Workspace {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Workspace {
    /// A fresh workspace.
    pub fn new() -> Workspace {
        // Servers that change their user must get at it.
        let folder = tempfile::Builder::new().prefix("mailshot-servers-").tempdir_in("/tmp").expect("a scratch folder");
        open(folder.path());
        let workspace = Workspace { folder, environment: Vec::new() };
        let init = workspace.command(&["init", &workspace.root().display().to_string()]);
        assert_eq!(init.status.code(), Some(0), "init: {}", text(&init));
        workspace
    }

    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("w")
    }

    /// Sets a setting by the environment, as in `("SMTP_PORT", "2525")`.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.environment.push((format!("MAILSHOT_{key}"), value.to_string()));
    }

    /// Imports `count` people at `domains`, in turn, into the list of the sample campaign.
    pub fn people(&self, count: usize, domains: &[&str]) {
        let mut table = String::from("E-Mail;Vorname;Stadt\n");
        let names = ["Jürgen", "Zoë", "O'Neil", "=cmd|' /C calc'!A0", "Łukasz \"Luk\" B.", "李小龙", "<b>Bob</b>", ""];
        for number in 0..count {
            let (domain, name) = (domains[number % domains.len()], names[number % names.len()].replace('"', "\"\""));
            let _ = writeln!(table, "person{number}@{domain};\"{name}\";Köln");
        }
        let file = self.folder.path().join("people.csv");
        fs::write(&file, table).expect("people.csv");
        let import = self.run(&["import", &file.display().to_string(), "--list", "news", "--json"]);
        assert_eq!(import.status.code(), Some(0), "import: {}", text(&import));
    }

    /// Runs a command on the workspace.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let workspace = self.root().display().to_string();
        self.command(&[&["-C", &workspace], arguments].concat())
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        command.output().expect("mailshot runs")
    }

    /// Imports these addresses into the list of the sample campaign.
    pub fn addresses(&self, addresses: impl Iterator<Item = String>) {
        let table = addresses.fold("email\n".to_owned(), |table, address| table + &address + "\n");
        let file = self.folder.path().join("addresses.csv");
        fs::write(&file, table).expect("addresses.csv");
        let import = self.run(&["import", &file.display().to_string(), "--list", "news", "--json"]);
        assert_eq!(import.status.code(), Some(0), "import: {}", text(&import));
    }

    /// Appends to `mailshot.toml`.
    pub fn configure(&self, lines: &str) {
        let file = self.root().join("mailshot.toml");
        let written = fs::read_to_string(&file).expect("mailshot.toml");
        fs::write(file, written + lines).expect("mailshot.toml");
    }

    /// Starts a command that stays; it ends when the value is dropped.
    pub fn stay(&self, arguments: &[&str]) -> Stayer {
        Stayer(self.begin(arguments))
    }

    /// Starts a command, for whoever means to wait for it or to kill it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
        command.arg("-C").arg(self.root()).args(arguments).env_clear().envs(self.environment.iter().cloned());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("mailshot runs")
    }

    /// The answer of a command, one JSON object.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {}", text(&output)))
    }

    /// Sends the sample campaign; gives the report.
    pub fn send(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["send", "welcome", "--yes", "--json"], arguments].concat());
        assert!(matches!(output.status.code(), Some(0 | 4)), "send: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {}", text(&output)))
    }

    /// What became of each copy of the sample campaign, as a table.
    pub fn outcomes(&self) -> String {
        let output = self.run(&["export", "outcomes", "welcome"]);
        assert_eq!(output.status.code(), Some(0), "export: {}", text(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The public keys, as lines `NAME<TAB>TXT`.
    pub fn keys(&self) -> String {
        let output = self.run(&["dkim", "records", "--json"]);
        let records: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list of records");
        let line =
            |r: &Value| format!("{}\t{}\n", r["name"].as_str().expect("a name"), r["value"].as_str().expect("a value"));
        records.iter().map(line).collect()
    }
}

/// A command that runs until it is told to stop.
pub struct Stayer(Child);

impl Drop for Stayer {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Both streams, for a failure's message.
fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("the folder's permissions");
}
