//! `export`: tables for spreadsheets and programs.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::draft::{Cells, Sheet};
use super::report::launched;
use crate::base::{ContactId, LaunchId, Timestamp};
use crate::cli::{Desk, Error, Exit};
use crate::mail::{Class, Stage, Standing};
use crate::store::{CopyRow, Store, Threads};

/// Copies read at a time.
const PAGE: usize = 5000;

/// What to export.
#[derive(Debug, Subcommand)]
pub enum Export {
    /// What became of each copy of a campaign: one row per recipient, with reason and answer.
    Outcomes(Outcomes),
}

/// Arguments of `export outcomes`.
#[derive(Debug, Args)]
pub struct Outcomes {
    /// The campaign.
    campaign: String,
    /// The file to write; standard output when not given.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Only copies that stand so; may be given more than once.
    #[arg(long, value_name = "STANDING", value_parser = Standing::ALL.map(Standing::word))]
    only: Vec<String>,
    /// Cells as they are, for programs. Otherwise cells that a spreadsheet would take for a formula get an apostrophe.
    #[arg(long)]
    raw: bool,
}

/// What was written to a file, as `--json` tells it.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    rows: u64,
}

/// One copy, as a row and as JSON.
#[derive(Serialize)]
struct Row<'a> {
    address: &'a str,
    outcome: &'static str,
    class: Option<Class>,
    meaning: &'static str,
    code: Option<u16>,
    status: Option<&'a str>,
    stage: Option<Stage>,
    answer: &'a str,
    host: Option<&'a str>,
    site: &'a str,
    attempts: u16,
    sent_again: u8,
    bounced_late: bool,
    at: Timestamp,
}

const HEADING: [&str; 14] = [
    "address",
    "outcome",
    "class",
    "meaning",
    "code",
    "status",
    "stage",
    "answer",
    "host",
    "site",
    "attempts",
    "sent_again",
    "bounced_late",
    "at",
];

/// Exports.
pub fn run(desk: &Desk, what: &Export) -> Result<Exit, Error> {
    match what {
        Export::Outcomes(outcomes) => export_outcomes(desk, outcomes),
    }
}

fn export_outcomes(desk: &Desk, args: &Outcomes) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let launch = launched(desk, &store, &args.campaign)?.id;
    let chosen = |row: &CopyRow| args.only.is_empty() || args.only.iter().any(|word| word == row.standing.word());
    if desk.is_json() && args.to.is_none() {
        each_copy(&store, launch, |row| {
            if chosen(row) {
                desk.give(&Row::of(row));
            }
            Ok(())
        })?;
        return Ok(Exit::Done);
    }
    let cells = if args.raw { Cells::Raw } else { Cells::Guarded };
    let rows = write_outcomes(&store, launch, args.to.as_deref(), cells, chosen)?;
    if let Some(file) = &args.to {
        desk.say(format!("{rows} rows written to {}", file.display()));
        desk.give(&Written { file, rows });
    }
    Ok(Exit::Done)
}

/// Writes the copies that are chosen as a table; gives how many there were.
pub(super) fn write_outcomes(
    store: &Store,
    launch: LaunchId,
    to: Option<&Path>,
    cells: Cells,
    chosen: impl Fn(&CopyRow) -> bool,
) -> Result<u64, Error> {
    let mut sheet = Sheet::begin(to, cells, &HEADING)?;
    let mut rows = 0;
    each_copy(store, launch, |row| {
        if chosen(row) {
            sheet.row(&Row::of(row).cells())?;
            rows += 1;
        }
        Ok(())
    })?;
    sheet.finish()?;
    Ok(rows)
}

/// Shows every copy of a launch once, in order of contact, a page in memory at a time.
fn each_copy(
    store: &Store,
    launch: LaunchId,
    mut show: impl FnMut(&CopyRow) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after = ContactId(0);
    loop {
        let page = store.copies(launch, after, PAGE)?;
        page.iter().try_for_each(&mut show)?;
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.contact,
            _ => return Ok(()),
        }
    }
}

impl Row<'_> {
    fn of(copy: &CopyRow) -> Row<'_> {
        Row {
            address: &copy.address,
            outcome: copy.standing.word(),
            class: copy.class,
            meaning: copy.class.map_or("", Class::about),
            code: copy.code,
            status: copy.enhanced.as_deref(),
            stage: copy.stage,
            answer: &copy.text,
            host: copy.host.as_deref(),
            site: &copy.site,
            attempts: copy.tries,
            sent_again: copy.doubtful,
            bounced_late: copy.late,
            at: copy.at,
        }
    }

    /// The row's cells, in the order of the heading.
    fn cells(&self) -> [String; 14] {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        [
            self.address.to_owned(),
            self.outcome.to_owned(),
            text(self.class.map(Class::word)),
            self.meaning.to_owned(),
            self.code.map_or_else(String::new, |code| code.to_string()),
            text(self.status),
            text(self.stage.map(Stage::word)),
            self.answer.to_owned(),
            text(self.host),
            self.site.to_owned(),
            self.attempts.to_string(),
            self.sent_again.to_string(),
            if self.bounced_late { "yes" } else { "no" }.to_owned(),
            self.at.rfc3339(),
        ]
    }
}
