//! `init`: a workspace to begin with.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::shell_word;
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Created, SAMPLE_CAMPAIGN, Workspace};
use crate::sign::Record;

/// What was made, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    workspace: PathBuf,
    written: Vec<PathBuf>,
    kept: Vec<PathBuf>,
    records: Vec<Record>,
}

/// Makes a workspace in the desk's folder, and says what it wrote and what comes next.
pub fn run(desk: &Desk) -> Result<Exit, Error> {
    let folder = desk.workspace().folder();
    let Created { written, kept, records, .. } = Workspace::create(folder)?;
    desk.say(format!("workspace {}", folder.display()));
    for file in &written {
        desk.say(format!("  wrote {}", file.display()));
    }
    for file in &kept {
        desk.say(format!("  kept  {} as it was", file.display()));
    }
    desk.say("  keys  in state/keys: keep a copy of them in a safe place\n");
    desk.say("DNS records to publish once the domain is your own (`mailshot dkim records` shows them again):");
    for record in &records {
        desk.say(format!("  {record}"));
    }
    let contacts = folder.join("campaigns").join(SAMPLE_CAMPAIGN).join("contacts.csv");
    desk.next(format!("mailshot import {} --list news", shell_word(&contacts.display().to_string())));
    desk.give(&Answer { workspace: folder.to_owned(), written, kept, records });
    Ok(Exit::Done)
}
