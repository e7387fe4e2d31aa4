//! An import: rows read and sorted on a thread of their own, written in batches by the record. In bounded memory, whatever
//! the length of the file; run again, it changes nothing.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::sync::mpsc;

use super::Error;
use super::cell::{self, Allowed};
use super::columns::Said;
use super::forgotten::Forgotten;
use super::reject::{Refusal, RefusedRow, Rejects, Why};
use super::source::{Found, Source};
use super::table::Cells;
use crate::base::{ListId, Timestamp, bucket};
use crate::store::{self, ImportBatch, ImportCounts, ImportRow, OnConflict, Store};

/// A run of rows is sorted and written in one transaction when it has grown to this, in bytes. Sorted rows meet
/// neighbouring pages of the record's index: the longer the run, the fewer pages are written twice; the shorter, the sooner
/// others get at the record.
const RUN_BYTES: usize = 16 * 1024 * 1024;
/// Runs in memory: one that is read, one that is written.
const RUNS: usize = 2;
/// Longest name of a list, in characters.
const LIST_MAX: usize = 64;

/// How an import is to be done.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The list that contacts join; made when it is not there.
    pub list: String,
    /// On what ground these people get mail, in the importer's words.
    pub consent: Option<String>,
    /// What becomes of contacts that are known.
    pub on_conflict: OnConflict,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// Unusual addresses to be taken.
    pub allowed: Allowed,
    /// Who must not be brought back.
    pub forgotten: Forgotten,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that are read.
    pub bytes: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Rows on record, refused ones included.
    pub rows: u64,
    /// Rows refused.
    pub refused: u64,
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Counted {
    /// They were written.
    Written(ImportCounts),
    /// They were not: it was a trial.
    Tried {
        /// Contacts that would be new; those that the file has twice are counted twice.
        would_add: u64,
        /// Contacts that are known.
        known: u64,
    },
}

/// What came of an import. `rows` is added + updated + unchanged + refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportReport {
    /// What was found out about the file.
    #[serde(flatten)]
    pub found: Found,
    /// The list.
    pub list: String,
    /// Whether the list was made for this import.
    pub list_made: bool,
    /// On what ground these people get mail.
    pub consent: Option<String>,
    /// Whether it was a trial.
    pub dry_run: bool,
    /// Rows of the file below the header, empty ones left out.
    pub rows: u64,
    /// What became of those that were not refused.
    #[serde(flatten)]
    pub counted: Counted,
    /// Rows that were refused.
    pub refused: u64,
    /// Refused rows by kind, the most frequent first.
    pub refusals: Vec<Refusal>,
    /// The first refused rows.
    pub first_refused: Vec<RefusedRow>,
    /// Those of the refused that were read before their address was erased: no line of theirs is told any more.
    #[serde(skip)]
    pub erased_since: u64,
}

/// What is told while an import runs.
#[derive(Debug)]
pub enum News<'a> {
    /// How far it is.
    Progress(Progress),
    /// A row that is refused, in the order of the file.
    Refused(&'a RefusedRow),
}

/// The name of a list without blanks around it; `None` when it cannot be one.
pub fn list_name(text: &str) -> Option<String> {
    let name = text.trim();
    let fits = (1..=LIST_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

/// Takes the contacts of a file in, and tells how it goes; `told` may end it by an error. Batches that were written stay
/// when a later one fails; the list and the record of the import are made with the first of them.
pub async fn import<E: From<Error>>(
    store: &Store,
    source: Source,
    options: ImportOptions,
    now: Timestamp,
    mut told: impl FnMut(News<'_>) -> Result<(), E>,
) -> Result<ImportReport, E> {
    let list = list_name(&options.list).ok_or_else(|| Error::ListName(options.list.clone()))?;
    let list_is_new = store.list(&list).map_err(|why| Error::Store { why, written: 0 })?.is_none();
    let found = source.found();
    let (reader, mut runs, empties) = Reader::start(source, &options)?;
    let file = found.file.clone();
    let counts = ImportCounts::default();
    let mut writing =
        Writing { store, file, list: list.clone(), options: &options, now, begun: None, counts, done: 0, erased: 0 };
    let mut known = 0;
    while let Some(Run { batch, refused, mut progress }) = runs.recv().await {
        refused.iter().try_for_each(|row| told(News::Refused(row)))?;
        let empty = if options.dry_run {
            known += writing.try_out(&batch)?;
            batch.emptied()
        } else {
            writing.write(batch).await?
        };
        // the reader may have ended already
        let _ = empties.try_send(empty);
        progress.rows = writing.done + writing.erased + progress.refused;
        told(News::Progress(progress))?;
    }
    let mut rejects = reader.join().expect("the reader does not panic")?;
    let erased_since = writing.erased;
    rejects.add_erased(erased_since);
    writing.finish().await?;
    let refused = rejects.count();
    let (refusals, first_refused) = rejects.into_parts();
    Ok(ImportReport {
        found,
        list,
        list_made: list_is_new && writing.begun.is_some(),
        consent: options.consent.clone(),
        dry_run: options.dry_run,
        rows: writing.done + refused,
        counted: match options.dry_run {
            true => Counted::Tried { would_add: writing.done - known, known },
            false => Counted::Written(writing.counts),
        },
        refused,
        refusals,
        first_refused,
        erased_since,
    })
}

/// The writing side: the list and the record of the import are opened with the first batch.
struct Writing<'a> {
    store: &'a Store,
    file: String,
    list: String,
    options: &'a ImportOptions,
    now: Timestamp,
    begun: Option<(ListId, i64)>,
    counts: ImportCounts,
    /// Rows written, or tried.
    done: u64,
    /// Rows left out because their address was erased while the file was read.
    erased: u64,
}

impl Writing<'_> {
    async fn write(&mut self, batch: ImportBatch) -> Result<ImportBatch, Error> {
        if batch.is_empty() {
            return Ok(batch);
        }
        let written = self.done;
        let failed = |why| Error::Store { why, written };
        let (list, import) = match self.begun {
            Some(begun) => begun,
            None => self.begin().await.map_err(failed)?,
        };
        let rows = batch.len() as u64;
        let (on_conflict, erasures) = (self.options.on_conflict, self.options.forgotten.later());
        let run = self.store.import_run(batch, list, import, on_conflict, self.now, erasures).await;
        let (counts, empty) = run.map_err(failed)?;
        let taken = counts.added + counts.updated + counts.unchanged;
        self.counts += counts;
        self.done += taken;
        self.erased += rows - taken;
        Ok(empty)
    }

    async fn begin(&mut self) -> Result<(ListId, i64), store::Error> {
        let list = self.store.make_list(self.list.clone(), self.now).await?;
        let consent = self.options.consent.clone();
        let import = self.store.begin_import(self.file.clone(), list, consent, self.now).await?;
        self.begun = Some((list, import));
        Ok((list, import))
    }

    /// How many of these contacts are known; for a trial.
    fn try_out(&mut self, batch: &ImportBatch) -> Result<u64, Error> {
        let known = self.store.known(batch.iter().map(|row| row.address));
        self.done += batch.len() as u64;
        known.map_err(|why| Error::Store { why, written: 0 })
    }

    async fn finish(&self) -> Result<(), Error> {
        let Some((_, import)) = self.begun else { return Ok(()) };
        let finished = self.store.finish_import(import, self.counts, self.now).await;
        finished.map_err(|why| Error::Store { why, written: self.done })
    }
}

/// A sorted run, the rows refused meanwhile, and how far the file was read when it was full.
struct Run {
    batch: ImportBatch,
    refused: Vec<RefusedRow>,
    progress: Progress,
}

/// The reading side: rows to contacts, contacts to sorted runs.
struct Reader {
    source: Source,
    allowed: Allowed,
    forgotten: Forgotten,
    rejects: Rejects,
    runs: mpsc::Sender<Run>,
    empties: mpsc::Receiver<ImportBatch>,
    batch: ImportBatch,
    refused: Vec<RefusedRow>,
    /// Bytes of the refused rows.
    refused_bytes: usize,
    /// The row that is read.
    said: Said,
    address: String,
}

type Reading = std::thread::JoinHandle<Result<Rejects, Error>>;
/// The reader's thread, the runs it gives, and where empty batches go back to.
type Started = (Reading, mpsc::Receiver<Run>, mpsc::Sender<ImportBatch>);

impl Reader {
    fn start(source: Source, options: &ImportOptions) -> Result<Started, Error> {
        let (runs, received) = mpsc::channel(RUNS);
        let (given_back, empties) = mpsc::channel(RUNS);
        for _ in 1..RUNS {
            given_back.try_send(ImportBatch::with_capacity(RUN_BYTES)).expect("there is room for all");
        }
        let path = source.path.clone();
        let reader = Reader {
            source,
            allowed: options.allowed,
            forgotten: options.forgotten.clone(),
            rejects: Rejects::default(),
            runs,
            empties,
            batch: ImportBatch::with_capacity(RUN_BYTES),
            refused: Vec::new(),
            refused_bytes: 0,
            said: Said::default(),
            address: String::new(),
        };
        let thread = std::thread::Builder::new().name("import-reader".into());
        let handle = thread.spawn(move || reader.read()).map_err(|why| Error::Read { path, why })?;
        Ok((handle, received, given_back))
    }

    fn read(mut self) -> Result<Rejects, Error> {
        let path = self.source.path.clone();
        let failed = |why| Error::Read { path: path.clone(), why };
        let mut rows = self.source.rows().map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            match row.cells {
                Ok(cells) if cells.is_blank() => {}
                Ok(cells) => {
                    if let Err(why) = self.take(&cells) {
                        self.refuse(row.line, &why, Some(cells));
                    }
                }
                Err(flaw) => self.refuse(row.line, &Why::Flaw(flaw), None),
            }
            if self.batch.bytes() + self.refused_bytes >= RUN_BYTES {
                self.hand_on();
                // none comes back when the writing side has given up
                let Some(empty) = self.empties.blocking_recv() else { return Ok(self.rejects) };
                self.batch = empty;
            }
        }
        self.hand_on();
        Ok(self.rejects)
    }

    fn take(&mut self, cells: &Cells<'_>) -> Result<(), Why> {
        let (address, name) = cell::address(self.source.columns.address(cells), self.allowed).map_err(Why::Address)?;
        self.source.columns.read(cells, name, &mut self.said).map_err(Why::Unsaid)?;
        self.address.clear();
        address.write_to(&mut self.address);
        if self.forgotten.holds(&self.address) {
            return Err(Why::Forgotten);
        }
        let (status, bar) = self.said.standing.parts();
        let (name, fields) = (&self.said.name, &self.said.fields);
        let bucket = bucket(address.domain());
        self.batch.push(ImportRow { address: &self.address, name, fields, bucket, status, bar });
        Ok(())
    }

    fn refuse(&mut self, line: u64, why: &Why, cells: Option<Cells<'_>>) {
        let row = RefusedRow::new(line, why, cells, self.source.columns.names().count());
        self.rejects.add(why, &row);
        self.refused_bytes += size_of::<RefusedRow>() + row.bytes();
        self.refused.push(row);
    }

    /// Sorts the run and gives it to the writing side.
    fn hand_on(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort();
        self.refused_bytes = 0;
        let bytes = self.source.read.load(Ordering::Relaxed);
        let progress = Progress { bytes, size: self.source.size, rows: 0, refused: self.rejects.count() };
        let run = Run { batch, refused: std::mem::take(&mut self.refused), progress };
        // nobody takes it when the writing side has given up; then no empty batch comes back either
        let _ = self.runs.blocking_send(run);
    }
}

#[cfg(test)]
mod tests;
