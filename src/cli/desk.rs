//! What every command works on: the workspace, its settings, and where words go. Standard output carries the answer
//! (plain text or JSON), standard error everything said on the way.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

use crate::base::{CampaignName, Timestamp, shell_word};
use crate::campaign::Campaign;
use crate::cli::shown::{harmless, in_line, json_line};
use crate::cli::{Error, ending};
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
                shell_word(&folder.display().to_string())
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
        Ok(World::real(self.settings().name_service())?)
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        machine_clock().now()
    }

    /// The record of people and outcomes.
    pub fn store(&self) -> Result<Store, Error> {
        Ok(self.workspace.store(Threads::Own)?)
    }

    /// Words that name commands as `mailshot VERB …`, with the commands as they are typed for this workspace.
    pub fn addressed(&self, words: impl AsRef<str>) -> String {
        addressed(self.workspace.folder(), words.as_ref(), "mailshot ")
    }

    /// Whether the answer is to be JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches: progress bars and colours are for them alone.
    pub fn is_watched(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// Whether the answer may be coloured.
    pub fn ink(&self) -> Ink {
        if may_be_coloured(&std::io::stdout()) { Ink::Colour } else { Ink::Black }
    }

    /// A line of the plain answer, perhaps with empty lines around it; nothing when JSON is wanted. Whatever strangers wrote
    /// in it, it stays one line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.json {
            print(&in_line(line.as_ref()));
        }
    }

    /// Lines of our own, perhaps coloured; what strangers wrote in them is in lines already.
    pub fn say_lines(&self, lines: impl AsRef<str>) {
        if !self.json {
            print(&harmless(lines.as_ref()));
        }
    }

    /// The JSON answer; nothing when plain text is wanted.
    pub fn give(&self, answer: &impl Serialize) {
        ending::answer();
        self.give_one(answer);
    }

    /// One of the lines of a JSON answer of many; nothing when plain text is wanted.
    pub fn give_one(&self, answer: &impl Serialize) {
        if self.json {
            print(&json_line(&serde_json::to_string(answer).expect("answers have text keys and finite numbers")));
        }
    }

    /// Something said on the way: standard error, whatever the answer's form.
    pub fn note(&self, line: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", in_line(line.as_ref()));
    }

    /// Something a person must know beside the answer: below it, or on standard error when the answer is JSON.
    pub fn add(&self, words: impl AsRef<str>) {
        match self.json {
            true => self.note(words.as_ref().trim_start()),
            false => self.say(words),
        }
    }

    /// The next sensible command, at the end of a plain answer, as it is typed for this workspace.
    pub fn next(&self, command: impl AsRef<str>) {
        self.say(format!("\nnext: {}", self.addressed(command)));
    }
}

/// Commands that need no workspace, or name theirs themselves.
const PLACELESS: [&str; 5] = ["init", "config", "demo", "bench", "sink"];

/// Words in which commands stand behind `mark` ("mailshot "), with the commands as they are typed for the workspace in
/// `folder`.
pub(super) fn addressed(folder: &Path, words: &str, mark: &str) -> String {
    if folder.as_os_str() == "." {
        return words.to_owned();
    }
    let mut parts = words.split(mark);
    let mut typed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        typed.push_str(mark);
        let verb = part.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        if !PLACELESS.contains(&verb) {
            typed.push_str(&format!("-C {} ", shell_word(&folder.display().to_string())));
        }
        typed.push_str(part);
    }
    typed
}

pub(super) fn is_workspace(folder: &Path) -> bool {
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

/// Whether what goes there may be coloured: to a terminal that has colours, unless `NO_COLOR` is set (no-color.org).
pub(super) fn may_be_coloured(output: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_plain = is_set("NO_COLOR") || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    output.is_terminal() && !is_plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_as_it_must_be_typed() {
        for (folder, typed) in [
            (".", "mailshot plan a, then mailshot send a"),
            ("w", "mailshot -C w plan a, then mailshot -C w send a"),
            ("my news", "mailshot -C 'my news' plan a, then mailshot -C 'my news' send a"),
            ("it's", "mailshot -C 'it'\\''s' plan a, then mailshot -C 'it'\\''s' send a"),
        ] {
            let desk = Desk::bare(Path::new(folder), false);
            assert_eq!(desk.addressed("mailshot plan a, then mailshot send a"), typed);
        }
    }
}
