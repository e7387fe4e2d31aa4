//! `export`: tables for spreadsheets and programs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::draft::{Cells, Sheet};
use super::report::launched;
use crate::base::{ContactId, EnvelopeId, LaunchId, ListId, Timestamp, shell_word};
use crate::cli::{Desk, Error, Exit};
use crate::mail::{Channel, Class, Stage, Standing};
use crate::store::{ContactRow, CopyRow, Store, Threads};

/// Copies read at a time.
const PAGE: usize = 5000;

/// What to export.
#[derive(Debug, Subcommand)]
pub enum Export {
    /// Contacts: address, name, lists, suppression, and a column for every field.
    Contacts(Contacts),
    /// What became of each copy of a campaign: one row per recipient, with reason and answer.
    Outcomes(Outcomes),
}

/// Arguments of `export contacts`.
#[derive(Debug, Args)]
pub struct Contacts {
    /// Only members of this list.
    #[arg(long, value_name = "LIST")]
    list: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Export {
    /// The file it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        match self {
            Export::Contacts(contacts) => contacts.output.file(),
            Export::Outcomes(outcomes) => outcomes.to.as_deref(),
        }
    }
}

/// Where a table goes, and how.
#[derive(Debug, Args)]
pub struct Output {
    /// The file to write; standard output when not given.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Cells as they are, for programs. Otherwise cells that a spreadsheet would take for a formula get an apostrophe.
    #[arg(long)]
    raw: bool,
}

impl Output {
    /// The file, when one is named.
    pub fn file(&self) -> Option<&Path> {
        self.to.as_deref()
    }

    /// Begins the table.
    pub fn begin(&self, heading: &[&str]) -> Result<Sheet, Error> {
        Sheet::begin(self.file(), if self.raw { Cells::Raw } else { Cells::Guarded }, heading)
    }
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
    tls: Option<&'static str>,
    cipher: Option<String>,
    verified: Option<&'static str>,
    attempts: u16,
    sent_again: u8,
    bounced_late: bool,
    at: Timestamp,
    opened: Option<Timestamp>,
    clicked: Option<Timestamp>,
    clicks: u32,
    unsubscribed: bool,
    complained: bool,
}

const HEADING: [&str; 22] = [
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
    "tls",
    "cipher",
    "verified",
    "attempts",
    "sent_again",
    "bounced_late",
    "at",
    "opened",
    "clicked",
    "clicks",
    "unsubscribed",
    "complained",
];

/// Exports.
pub fn run(desk: &Desk, what: &Export) -> Result<Exit, Error> {
    match what {
        Export::Contacts(contacts) => export_contacts(desk, contacts),
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
                desk.give_one(&Row::of(&store, launch, row)?);
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
            sheet.row(&Row::of(store, launch, row)?.cells())?;
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
    fn of<'a>(store: &Store, launch: LaunchId, copy: &'a CopyRow) -> Result<Row<'a>, Error> {
        let id = EnvelopeId::new(launch, copy.contact);
        let deeds = store.deeds(id)?;
        let (unsubscribed, complained) = store.answered(id)?;
        Ok(Row {
            address: &copy.address,
            outcome: copy.standing.word(),
            class: copy.class,
            meaning: match copy.standing {
                Standing::Deferred | Standing::Failed | Standing::InDoubt | Standing::Delivered => {
                    copy.class.map_or("", Class::about)
                }
                // decided by us: the answer says why
                Standing::Waiting | Standing::Barred | Standing::Skipped | Standing::Cancelled => "",
            },
            code: copy.code,
            status: copy.enhanced.as_deref(),
            stage: copy.stage,
            answer: &copy.text,
            host: copy.host.as_deref(),
            site: &copy.site,
            tls: copy.channel.map(Channel::protocol),
            cipher: copy.channel.and_then(Channel::cipher),
            verified: copy.channel.map(|channel| channel.verified().word()),
            attempts: copy.tries,
            sent_again: copy.again,
            bounced_late: copy.late,
            at: copy.at,
            opened: deeds.opened,
            clicked: deeds.clicked,
            clicks: deeds.clicks,
            unsubscribed,
            complained,
        })
    }

    /// The row's cells, in the order of the heading.
    fn cells(&self) -> [String; 22] {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let time = |at: Option<Timestamp>| at.map_or_else(String::new, |at| at.rfc3339());
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
            text(self.tls),
            text(self.cipher.as_deref()),
            text(self.verified),
            self.attempts.to_string(),
            self.sent_again.to_string(),
            yes(self.bounced_late),
            self.at.rfc3339(),
            time(self.opened),
            time(self.clicked),
            self.clicks.to_string(),
            yes(self.unsubscribed),
            yes(self.complained),
        ]
    }
}

fn export_contacts(desk: &Desk, args: &Contacts) -> Result<Exit, Error> {
    let store = desk.store()?;
    let list = args.list.as_deref().map(|name| find_list(&store, name)).transpose()?;
    if desk.is_json() && args.output.to.is_none() {
        each_contact(&store, list, |contact| {
            desk.give_one(&contact);
            Ok(())
        })?;
        return Ok(Exit::Done);
    }
    let fields = fields(&store, list)?;
    let fixed = ["email", "name", "lists", "suppressed", "created", "changed"];
    let heading: Vec<&str> = fixed.into_iter().chain(fields.iter().map(String::as_str)).collect();
    let mut sheet = args.output.begin(&heading)?;
    let mut rows = 0;
    each_contact(&store, list, |contact| {
        rows += 1;
        sheet.row(&contact_cells(&store, &contact, &fields)?)
    })?;
    sheet.finish()?;
    if let Some(file) = args.output.file() {
        desk.say(format!("{rows} contacts written to {}", file.display()));
        desk.next("mailshot lists");
        desk.give(&Written { file, rows });
    }
    Ok(Exit::Done)
}

/// The list of that name, or an error that names those there are.
pub fn find_list(store: &Store, name: &str) -> Result<ListId, Error> {
    if let Some(list) = store.list(name)? {
        return Ok(list);
    }
    let names: Vec<String> = store.lists()?.into_iter().map(|list| list.name).collect();
    Err(Error::usage(match names.is_empty() {
        true => format!(
            "there is no list `{name}`, nor any other yet: make one with `mailshot import FILE.csv --list {}`",
            shell_word(name)
        ),
        false => format!("there is no list `{name}`; there are: {}", names.join(", ")),
    }))
}

/// Every contact in order of its number, a page in memory at a time.
fn each_contact(
    store: &Store,
    list: Option<ListId>,
    mut show: impl FnMut(ContactRow) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut after = ContactId(0);
    loop {
        let page = store.contacts(list, after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        page.into_iter().try_for_each(&mut show)?;
    }
}

/// The names of all fields that any of the contacts has.
fn fields(store: &Store, list: Option<ListId>) -> Result<Vec<String>, Error> {
    let mut names = BTreeSet::new();
    each_contact(store, list, |contact| {
        for name in contact.fields.keys().filter(|name| !name.is_empty()) {
            if !names.contains(name) {
                names.insert(name.clone());
            }
        }
        Ok(())
    })?;
    Ok(names.into_iter().collect())
}

fn contact_cells(store: &Store, contact: &ContactRow, fields: &[String]) -> Result<Vec<String>, Error> {
    let lists = store.memberships(contact.id)?;
    let lists = lists.iter().map(|membership| format!("{} ({})", membership.list, membership.status.word()));
    let suppressed = store.suppression(&contact.address)?;
    let mut cells = vec![
        contact.address.clone(),
        contact.name.clone(),
        lists.collect::<Vec<_>>().join("; "),
        suppressed.map_or(String::new(), |row| row.reason.word().to_owned()),
        contact.created.rfc3339(),
        contact.changed.rfc3339(),
    ];
    cells.extend(fields.iter().map(|name| as_text(contact.fields.get(name))));
    Ok(cells)
}

/// A field as a cell.
pub fn as_text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
