//! `suppress`: who must not be mailed, whatever list they are on.

use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::audience::{Mapping, Refusal, RefusedRow, Source, SourceOptions, suppression_rows};
use crate::base::shell_word;
use crate::cli::contacts::canonical;
use crate::cli::export::Output;
use crate::cli::{Desk, Error, Exit};
use crate::store::{Reason, Store, SuppressionRow};

/// Suppressions read at once.
const PAGE: usize = 2000;

/// What to do.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

impl Arguments {
    /// The file it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        match &self.what {
            What::Export { output } => output.file(),
            _ => None,
        }
    }

    /// Whether it takes a file in.
    pub(super) fn is_import(&self) -> bool {
        matches!(self.what, What::Import { .. })
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Suppress addresses: no campaign mails them until a person lifts it.
    Add {
        /// The addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
        /// Why.
        #[arg(long, value_enum, default_value = "manual", value_name = "REASON")]
        reason: Word,
        /// More about why, kept with it.
        #[arg(long, value_name = "TEXT", default_value = "")]
        detail: String,
    },
    /// Lift the suppression of addresses, for a reason that is kept.
    Remove {
        /// The addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
        /// Why they may be mailed again, and who says so.
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Suppress the addresses of a CSV file; a column `reason` is read if there is one.
    Import {
        /// The CSV file.
        file: PathBuf,
        /// Why, where the file does not say.
        #[arg(long, value_enum, default_value = "manual", value_name = "REASON")]
        reason: Word,
        /// The column of addresses, as in COLUMN=email, where it is not found.
        #[arg(long = "map", value_name = "COLUMN=FIELD", value_parser = mapping)]
        maps: Vec<Mapping>,
    },
    /// Write all suppressed addresses to a CSV file.
    Export {
        #[command(flatten)]
        output: Output,
    },
    /// Show suppressed addresses, in order of address.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
        limit: usize,
        /// Those after this address.
        #[arg(long, value_name = "ADDRESS", default_value = "")]
        after: String,
    },
}

/// The reasons by their words.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    /// They left everything.
    Unsubscribe,
    /// They called our mail spam.
    Complaint,
    /// Their mailbox does not exist.
    Hard,
    /// Their mailbox was full or silent too often.
    SoftLimit,
    /// A person decided.
    Manual,
}

impl From<Word> for Reason {
    fn from(word: Word) -> Reason {
        match word {
            Word::Unsubscribe => Reason::Unsubscribe,
            Word::Complaint => Reason::Complaint,
            Word::Hard => Reason::Hard,
            Word::SoftLimit => Reason::SoftLimit,
            Word::Manual => Reason::Manual,
        }
    }
}

/// What `add` and `remove` did, as JSON.
#[derive(Serialize)]
struct Changed {
    addresses: usize,
    changed: usize,
}

/// What `import` did, as JSON.
#[derive(Serialize)]
struct Imported {
    rows: u64,
    added: u64,
    known: u64,
    refused: u64,
    refusals: Vec<Refusal>,
    first_refused: Vec<RefusedRow>,
}

/// What `export` wrote, as JSON.
#[derive(Serialize)]
struct Exported<'a> {
    file: &'a Path,
    addresses: u64,
}

/// A page of suppressions, as JSON.
#[derive(Serialize)]
struct Page {
    suppressions: Vec<SuppressionRow>,
    /// What to give to `--after` for the next page; null at the end.
    next: Option<String>,
}

/// Does what was asked for.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    match arguments.what {
        What::Add { addresses, reason, detail } => add(desk, &addresses, reason.into(), &detail).await,
        What::Remove { addresses, why } => remove(desk, &addresses, &why).await,
        What::Import { file, reason, maps } => import(desk, &file, reason.into(), maps).await,
        What::Export { output } => export(desk, &output),
        What::List { limit, after } => list(desk, limit, &after),
    }
}

fn mapping(text: &str) -> Result<Mapping, String> {
    Mapping::parse(text).ok_or_else(|| "write it as COLUMN=email".to_owned())
}

async fn add(desk: &Desk, addresses: &[String], reason: Reason, detail: &str) -> Result<Exit, Error> {
    let since = desk.now();
    let row = |address| SuppressionRow { address, reason, detail: detail.to_owned(), since };
    let rows = addresses.iter().map(|address| canonical(address).map(row)).collect::<Result<Vec<_>, Error>>()?;
    let changed = desk.store()?.suppress(rows).await?;
    desk.say(format!("{changed} of {} suppressed, the others were already", addresses.len()));
    desk.next("mailshot suppress list");
    desk.give(&Changed { addresses: addresses.len(), changed });
    Ok(Exit::Done)
}

async fn remove(desk: &Desk, addresses: &[String], why: &str) -> Result<Exit, Error> {
    if why.trim().is_empty() {
        return Err(Error::usage("say why they may be mailed again: --why TEXT must not be empty"));
    }
    let addresses = addresses.iter().map(|address| canonical(address)).collect::<Result<Vec<_>, Error>>()?;
    let store = desk.store()?;
    let why = match person() {
        Some(name) => format!("{} (by {name})", why.trim()),
        None => why.trim().to_owned(),
    };
    let mut changed = 0;
    for address in &addresses {
        let lifted = store.release(address.clone(), why.clone(), desk.now()).await?;
        changed += usize::from(lifted);
        if !lifted {
            desk.note(format!("{address} is not suppressed"));
        }
    }
    desk.say(format!("{changed} of {} may be mailed again", addresses.len()));
    desk.next("mailshot suppress list");
    desk.give(&Changed { addresses: addresses.len(), changed });
    Ok(Exit::Done)
}

/// Who sits at the keyboard, as far as the environment tells.
fn person() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
}

async fn import(desk: &Desk, file: &Path, reason: Reason, mappings: Vec<Mapping>) -> Result<Exit, Error> {
    let source = Source::open(file, &SourceOptions { mappings, ..SourceOptions::default() })?;
    let detail = format!("from {}", file.display());
    let store = desk.store()?;
    let since = desk.now();
    let mut rows = suppression_rows(&source)?;
    let (mut count, mut added) = (0, 0);
    loop {
        let page = rows.page(PAGE, |address, said| SuppressionRow {
            address,
            reason: said.unwrap_or(reason),
            detail: detail.clone(),
            since,
        })?;
        if page.is_empty() {
            break;
        }
        count += page.len() as u64;
        added += store.suppress(page).await? as u64;
    }
    let (refusals, first_refused) = rows.refused();
    let refused = refusals.iter().map(|kind| kind.count).sum();
    desk.say(format!("{added} addresses suppressed, {} were already, {refused} rows refused", count - added));
    for row in &first_refused {
        desk.say(format!("  line {}: {}", row.line, row.why));
    }
    desk.next("mailshot suppress list");
    let known = count - added;
    desk.give(&Imported { rows: count + refused, added, known, refused, refusals, first_refused });
    Ok(if refused == 0 { Exit::Done } else { Exit::Unsettled })
}

fn export(desk: &Desk, output: &Output) -> Result<Exit, Error> {
    let store = desk.store()?;
    if desk.is_json() && output.file().is_none() {
        each(&store, |row| {
            desk.give_one(row);
            Ok(())
        })?;
        return Ok(Exit::Done);
    }
    let mut sheet = output.begin(&["email", "reason", "detail", "since"])?;
    let mut addresses = 0;
    each(&store, |row| {
        addresses += 1;
        sheet.row(&[row.address.as_str(), row.reason.word(), &row.detail, &row.since.rfc3339()])
    })?;
    sheet.finish()?;
    if let Some(file) = output.file() {
        desk.say(format!("{addresses} suppressed addresses in {}", file.display()));
        desk.next("mailshot suppress list");
        desk.give(&Exported { file, addresses });
    }
    Ok(Exit::Done)
}

fn each(store: &Store, mut see: impl FnMut(&SuppressionRow) -> Result<(), Error>) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let page = store.suppressions(&after, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.address);
        page.iter().try_for_each(&mut see)?;
    }
}

fn list(desk: &Desk, limit: usize, after: &str) -> Result<Exit, Error> {
    let limit = limit.min(100_000);
    let mut rows = desk.store()?.suppressions(after, limit + 1)?;
    let next = (rows.len() > limit).then(|| rows[limit - 1].address.clone());
    rows.truncate(limit);
    let width = rows.iter().map(|row| row.address.chars().count()).max().unwrap_or_default().min(50);
    for row in &rows {
        desk.say(format!("{:width$}  {:11}  {}  {}", row.address, row.reason.word(), row.since, row.detail));
    }
    match &next {
        Some(next) => desk.next(format!("mailshot suppress list --after={}", shell_word(next))),
        None if rows.is_empty() => {
            desk.say("nobody is suppressed");
            desk.next("mailshot suppress add ADDRESS");
        }
        None => desk.next("mailshot suppress remove ADDRESS --why TEXT"),
    }
    desk.give(&Page { suppressions: rows, next });
    Ok(Exit::Done)
}
