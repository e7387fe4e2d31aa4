//! What every command works on: the workspace, its settings, and where words go. Standard output carries the answer
//! (plain text or JSON), standard error everything said on the way.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

use crate::base::{CampaignName, Timestamp};
use crate::campaign::Campaign;
use crate::cli::Error;
use crate::config::Settings;
use crate::engine::Workspace;
use crate::outcome::Ink;
use crate::store::{Store, Threads};
use crate::world::{World, machine_clock};

/// A command's place of work.
#[derive(Debug)]
pub struct Desk {
    workspace: Workspace,
    json: bool,
}

impl Desk {
    /// Opens the workspace: loads its settings, and refuses a folder that is none.
    pub fn open(folder: &Path, json: bool) -> Result<Desk, Error> {
        if !is_workspace(folder) {
            return Err(Error::usage(format!(
                "{} is no workspace: it has neither mailshot.toml nor campaigns/. Make one with `mailshot init {}`, or name one with -C DIR",
                folder.display(),
                folder.display()
            )));
        }
        Ok(Desk { workspace: Workspace::open(folder)?, json })
    }

    /// Opens the workspace where there is one, and is bare elsewhere: for commands that can do with less.
    pub fn at_hand(folder: &Path, json: bool) -> Result<Desk, Error> {
        if is_workspace(folder) { Desk::open(folder, json) } else { Ok(Desk::bare(folder, json)) }
    }

    /// A desk with default settings, for commands that need no workspace.
    pub fn bare(folder: &Path, json: bool) -> Desk {
        Desk { workspace: Workspace::with(folder, Settings::default()), json }
    }

    /// The workspace.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The workspace's settings.
    pub fn settings(&self) -> &Settings {
        self.workspace.settings()
    }

    /// A campaign of the workspace by its name.
    pub fn campaign(&self, name: &str) -> Result<Campaign, Error> {
        let parsed = CampaignName::parse(name).ok_or_else(|| {
            Error::usage(format!("`{name}` is not the name of a campaign: name its folder below campaigns/"))
        })?;
        Ok(self.workspace.campaign(&parsed)?)
    }

    /// The outside world, its name service as the settings say.
    pub fn world(&self) -> Result<World, Error> {
        Ok(World::real(&self.settings().resolver)?)
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        machine_clock().now()
    }

    /// The record of people and outcomes.
    pub fn store(&self) -> Result<Store, Error> {
        Ok(self.workspace.store(Threads::Own)?)
    }

    /// A command of ours, as it is typed for this workspace.
    pub fn command(&self, command: impl AsRef<str>) -> String {
        let folder = self.workspace.folder();
        let here = if folder.as_os_str() == "." { String::new() } else { format!(" -C {}", folder.display()) };
        format!("mailshot{here} {}", command.as_ref())
    }

    /// Whether the answer is to be JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches: progress bars and colours are for them alone.
    pub fn is_watched(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// Whether the answer may be coloured: on a terminal that has colours, unless `NO_COLOR` is set (no-color.org).
    pub fn ink(&self) -> Ink {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let plain = set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !plain { Ink::Colour } else { Ink::Black }
    }

    /// A line of the plain answer; nothing when JSON is wanted.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.json {
            print(line.as_ref());
        }
    }

    /// A line of the JSON answer; nothing when plain text is wanted.
    pub fn give(&self, answer: &impl Serialize) {
        if self.json {
            print(&serde_json::to_string(answer).expect("answers have text keys and finite numbers"));
        }
    }

    /// Something said on the way: standard error, whatever the answer's form.
    pub fn note(&self, line: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", line.as_ref());
    }

    /// The next sensible command, at the end of a plain answer.
    pub fn next(&self, command: impl AsRef<str>) {
        self.say(format!("\nnext: {}", command.as_ref()));
    }
}

fn is_workspace(folder: &Path) -> bool {
    ["mailshot.toml", "campaigns", "state"].iter().any(|part| folder.join(part).exists())
}

/// Prints a line; a reader that has gone away (as `head` does) ends the process quietly, a full disk does not.
fn print(line: &str) {
    let Err(why) = writeln!(std::io::stdout(), "{line}") else { return };
    if why.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let _ = writeln!(std::io::stderr(), "cannot write the answer: {why}");
    std::process::exit(1);
}
