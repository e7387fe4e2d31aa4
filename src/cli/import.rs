//! `import`: contacts from a CSV file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use crate::audience::{
    self, Allowed, Counted, Forgotten, ImportOptions, ImportReport, Mapping, News, Progress, Script, Source,
    SourceOptions,
};
use crate::cli::draft::{Cells, Sheet};
use crate::cli::{Desk, Error, Exit};
use crate::store::OnConflict;

/// How often a line says how far it is where nobody watches a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What to take in, and how.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The CSV file.
    file: PathBuf,
    /// The list to join; made when it is not there.
    #[arg(long, value_name = "LIST")]
    list: String,
    /// What a column is: COLUMN is its header or number, FIELD is email, name, @first or @last (parts of the name),
    /// @status (subscribed or not), @json (its keys become fields), - (left out), or the name of a field.
    #[arg(long = "map", value_name = "COLUMN=FIELD", value_parser = mapping)]
    maps: Vec<Mapping>,
    /// On what ground these people get mail, as in "double opt-in on example.com since 2024"; kept with the import.
    #[arg(long, value_name = "TEXT")]
    consent: Option<String>,
    /// What becomes of contacts that are known: fill what is empty, overwrite what the file has, or keep them as they are.
    #[arg(long, value_enum, default_value = "fill", value_name = "HOW")]
    on_conflict: Conflict,
    /// Read and check everything, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write refused rows to a CSV file, each with its line and the reason.
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// The file's encoding, as in utf-8, windows-1252, utf-16le, shift_jis; found when not given.
    #[arg(long, value_name = "NAME", value_parser = script)]
    encoding: Option<Script>,
    /// What divides the cells: comma, semicolon, tab, bar, or a character; found when not given.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Take addresses with a quoted local part, as in "ada lovelace"@example.org.
    #[arg(long)]
    allow_quoted: bool,
    /// Take addresses that name a host by its IP address, as in ada@[192.0.2.1].
    #[arg(long)]
    allow_literal: bool,
}

impl Arguments {
    /// The file it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        self.rejects.as_deref()
    }
}

/// What becomes of contacts that are known.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Conflict {
    /// Fill what is empty, leave the rest.
    Fill,
    /// Take what the file has, keep what it lacks.
    Overwrite,
    /// Leave them as they are.
    Keep,
}

impl From<Conflict> for OnConflict {
    fn from(conflict: Conflict) -> OnConflict {
        match conflict {
            Conflict::Fill => OnConflict::Fill,
            Conflict::Overwrite => OnConflict::Overwrite,
            Conflict::Keep => OnConflict::Keep,
        }
    }
}

/// What came of it, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    report: ImportReport,
    rejects: Option<PathBuf>,
    seconds: f64,
    rate: f64,
}

/// Takes a file in: shows what was found in it, how far it is, and what came of it.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let Arguments { file, list, maps, consent, on_conflict, dry_run, rejects, encoding, delimiter, .. } = arguments;
    let source = Source::open(&file, &SourceOptions { encoding, delimiter, mappings: maps })?;
    show_found(desk, &source);
    let store = desk.store()?;
    let allowed = Allowed { quoted: arguments.allow_quoted, literal: arguments.allow_literal };
    let forgotten = Forgotten::load(&store, || Ok::<_, Error>(desk.workspace().seal()?))?;
    let on_conflict = on_conflict.into();
    let options = ImportOptions { list, consent, on_conflict, dry_run, allowed, forgotten };
    let mut refused = rejects.as_deref().map(|path| rejects_sheet(path, &file, &source)).transpose()?;
    let started = Instant::now();
    let mut bar = Bar::new(desk, started);
    let told = |news: News<'_>| match news {
        News::Progress(progress) => {
            bar.show(desk, progress);
            Ok(())
        }
        News::Refused(row) => refused.as_mut().map_or(Ok(()), |sheet| {
            let line = row.line.to_string();
            let cells: Vec<&str> = [&line, &row.why].into_iter().chain(&row.cells).map(String::as_str).collect();
            sheet.row(&cells)
        }),
    };
    let report = audience::import::<Error>(&store, source, options, desk.now(), told).await;
    bar.clear();
    let report = report?;
    refused.map_or(Ok(()), Sheet::finish)?;
    let seconds = started.elapsed().as_secs_f64();
    say(desk, &report, rejects.as_deref(), seconds);
    let refused_all = report.rows > 0 && report.refused == report.rows;
    let exit = match report.refused {
        0 => Exit::Done,
        _ if refused_all => Exit::Usage,
        _ => Exit::Unsettled,
    };
    let rate = (report.rows as f64 / seconds.max(1e-3)).round();
    desk.give(&Answer { report, rejects, seconds: (seconds * 1000.0).round() / 1000.0, rate });
    Ok(exit)
}

/// The file for refused rows: line, reason, and the cells under the names of their columns.
fn rejects_sheet(path: &Path, imported: &Path, source: &Source) -> Result<Sheet, Error> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(path).is_some_and(|path| Some(path) == real(imported)) {
        return Err(Error::usage(format!("{} is the file that is imported: --rejects needs another", path.display())));
    }
    let columns = source.found().columns;
    let names = columns.iter().map(|column| column.column.as_str());
    let heading: Vec<&str> = ["line", "reason"].into_iter().chain(names).collect();
    Sheet::begin(Some(path), Cells::Guarded, &heading)
}

fn mapping(text: &str) -> Result<Mapping, String> {
    Mapping::parse(text).ok_or_else(|| "write it as COLUMN=FIELD, as in \"E-Mail privat=email\"".to_owned())
}

fn script(text: &str) -> Result<Script, String> {
    Script::named(text)
        .ok_or_else(|| "unknown; try utf-8, windows-1252, utf-16le, macintosh, shift_jis or gb18030".to_owned())
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "comma" => Ok(b','),
        "semicolon" => Ok(b';'),
        "tab" | "\\t" => Ok(b'\t'),
        "bar" | "pipe" => Ok(b'|'),
        _ => match text.as_bytes() {
            [b'"' | b'\r' | b'\n'] => Err("a quote or a line end cannot divide cells".to_owned()),
            [single] if single.is_ascii() => Ok(*single),
            _ => Err("write comma, semicolon, tab, bar, or one ASCII character".to_owned()),
        },
    }
}

/// Columns that are told one by one; of wider files only those that are not plain fields.
const COLUMNS_SHOWN: usize = 30;

fn show_found(desk: &Desk, source: &Source) {
    let found = source.found();
    let header = if found.header { "header found" } else { "no header" };
    desk.say(format!(
        "{}: {}, divided by {}, {header}, {} columns",
        found.file,
        found.encoding,
        found.delimiter,
        found.columns.len()
    ));
    let is_wide = found.columns.len() > COLUMNS_SHOWN;
    let is_plain =
        |column: &&audience::Shown| column.becomes == format!("field `{}`", column.column) && column.note.is_none();
    let shown: Vec<_> =
        found.columns.iter().filter(|column| !is_wide || !is_plain(column)).take(COLUMNS_SHOWN).collect();
    let width = shown.iter().map(|column| column.column.chars().count()).max().unwrap_or_default().min(40);
    for column in &shown {
        let note = column.note.as_ref().map_or(String::new(), |note| format!("  ({note})"));
        desk.say(format!("  {:width$}  → {}{note}", column.column, column.becomes));
    }
    if shown.len() < found.columns.len() {
        desk.say(format!("  … and {} more columns, each a field of its own name", found.columns.len() - shown.len()));
    }
}

fn say(desk: &Desk, report: &ImportReport, rejects: Option<&Path>, seconds: f64) {
    let rate = report.rows as f64 / seconds.max(1e-3);
    desk.say(format!(
        "\n{} rows in {seconds:.1} s ({rate:.0} a second), list `{}`{}",
        report.rows,
        report.list,
        if report.list_made { ", new" } else { "" }
    ));
    match report.counted {
        Counted::Tried { would_add, known } => {
            desk.say(format!("  {would_add:>9}  would be new"));
            desk.say(format!("  {known:>9}  are known already"));
        }
        Counted::Written(counts) => {
            let lines = [
                (counts.added, "new contacts"),
                (counts.updated, "known contacts changed"),
                (counts.unchanged, "known contacts left as they were"),
                (counts.joined, "joined the list"),
                (counts.pending, "joined the list unconfirmed: they get no mail"),
                (counts.unsubscribed, "unsubscribed, because the file says so"),
                (counts.left, "had left the list and stay off it"),
                (counts.suppressed, "are suppressed and stay so"),
                (counts.barred, "suppressed, because the file says they bounced, complained or were blocked"),
                (counts.doubled, "rows repeat an address of the file"),
            ];
            for (count, what) in lines.iter().filter(|(count, _)| *count > 0) {
                desk.say(format!("  {count:>9}  {what}"));
            }
        }
    }
    say_refused(desk, report, rejects);
    if report.dry_run {
        desk.say("nothing was written (--dry-run)");
        desk.next("the same command without --dry-run");
    } else {
        desk.next("mailshot lists");
    }
}

fn say_refused(desk: &Desk, report: &ImportReport, rejects: Option<&Path>) {
    if report.refused == 0 {
        return;
    }
    desk.say(format!("  {:>9}  rows refused:", report.refused));
    for kind in &report.refusals {
        desk.say(format!("  {:>9}    {}", kind.count, kind.reason.replace('_', " ")));
    }
    for row in &report.first_refused {
        desk.say(format!("    line {}: {}", row.line, row.why));
    }
    if report.erased_since > 0 {
        desk.say(format!(
            "    {} of them left out: their address was erased meanwhile, and is in no file",
            report.erased_since
        ));
    }
    let told = report.refused - report.erased_since;
    let more = told - report.first_refused.len() as u64;
    match rejects {
        Some(_) if told == 0 => {}
        Some(path) if report.erased_since > 0 => desk.say(format!("  the others are in {}", path.display())),
        Some(path) => desk.say(format!("  all of them are in {}", path.display())),
        None if more > 0 => desk.say(format!("    … and {more} more; --rejects FILE writes them all to a file")),
        None => {}
    }
}

/// How far it is: a bar for who watches, a line now and then for a log.
struct Bar {
    bar: Option<ProgressBar>,
    started: Instant,
    last: Instant,
}

impl Bar {
    fn new(desk: &Desk, started: Instant) -> Bar {
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}  {eta} left").expect("a sound template");
        let bar = desk.is_watched().then(|| ProgressBar::new(0).with_style(style));
        Bar { bar, started, last: started }
    }

    fn show(&mut self, desk: &Desk, progress: Progress) {
        let rate = progress.rows as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let refused = if progress.refused > 0 { format!(", {} refused", progress.refused) } else { String::new() };
        let words = format!("{} rows{refused}, {rate:.0} a second", progress.rows);
        if let Some(bar) = &self.bar {
            bar.set_length(progress.size);
            bar.set_position(progress.bytes);
            bar.set_message(words);
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            desk.note(format!("{:.0}%: {words}", progress.bytes as f64 / progress.size.max(1) as f64 * 100.0));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
