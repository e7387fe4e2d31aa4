//! An import: rows read and sorted on a thread of their own, written in batches by the record. In bounded memory, whatever
//! the length of the file; run again, it changes nothing.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::sync::mpsc;

use super::Error;
use super::cell::{self, Allowed};
use super::forgotten::Forgotten;
use super::reject::{Refusal, RefusedRow, Rejects, Why};
use super::source::{Found, Source};
use super::table::Cells;
use crate::base::{ListId, Timestamp, bucket};
use crate::store::{self, ImportCounts, ImportRow, OnConflict, Store};

/// A run of rows is sorted and handed on when it has grown to this, in bytes: two runs are in memory at any time. Sorted
/// rows meet neighbouring pages of the record's index; the longer the run, the fewer pages are written twice.
const RUN_BYTES: usize = 24 * 1024 * 1024;
/// Rows written in one transaction: others wait for the record no longer than it takes.
const BATCH: usize = 10_000;
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
    let (reader, mut runs) = Reader::start(source, &options)?;
    let file = found.file.clone();
    let counts = ImportCounts::default();
    let mut writing = Writing { store, file, list: list.clone(), options: &options, now, begun: None, counts, done: 0 };
    let mut known = 0;
    while let Some(Run { rows, refused, mut progress }) = runs.recv().await {
        refused.iter().try_for_each(|row| told(News::Refused(row)))?;
        let refused = progress.refused;
        if options.dry_run {
            known += writing.try_out(&rows)?;
            progress.rows = writing.done + refused;
            told(News::Progress(progress))?;
            continue;
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(BATCH));
            writing.write(std::mem::replace(&mut rest, later)).await?;
            progress.rows = writing.done + refused;
            told(News::Progress(progress))?;
        }
    }
    let rejects = reader.join().expect("the reader does not panic")?;
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
}

impl Writing<'_> {
    async fn write(&mut self, batch: Vec<ImportRow>) -> Result<(), Error> {
        let written = self.done;
        let failed = |why| Error::Store { why, written };
        let (list, import) = match self.begun {
            Some(begun) => begun,
            None => self.begin().await.map_err(failed)?,
        };
        let rows = batch.len() as u64;
        let counts = self.store.import_batch(batch, list, import, self.options.on_conflict, self.now).await;
        self.counts += counts.map_err(failed)?;
        self.done += rows;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(ListId, i64), store::Error> {
        let list = self.store.make_list(self.list.clone(), self.now).await?;
        let consent = self.options.consent.clone();
        let import = self.store.begin_import(self.file.clone(), list, consent, self.now).await?;
        self.begun = Some((list, import));
        Ok((list, import))
    }

    /// How many of these contacts are known; for a trial.
    fn try_out(&mut self, rows: &[ImportRow]) -> Result<u64, Error> {
        let known = self.store.known(rows.iter().map(|row| row.address.as_str()));
        self.done += rows.len() as u64;
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
    rows: Vec<ImportRow>,
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
    rows: Vec<ImportRow>,
    refused: Vec<RefusedRow>,
    /// Bytes of both.
    bytes: usize,
}

type Reading = std::thread::JoinHandle<Result<Rejects, Error>>;

impl Reader {
    fn start(source: Source, options: &ImportOptions) -> Result<(Reading, mpsc::Receiver<Run>), Error> {
        let (runs, received) = mpsc::channel(1);
        let path = source.path.clone();
        let reader = Reader {
            source,
            allowed: options.allowed,
            forgotten: options.forgotten.clone(),
            rejects: Rejects::default(),
            runs,
            rows: Vec::new(),
            refused: Vec::new(),
            bytes: 0,
        };
        let thread = std::thread::Builder::new().name("import-reader".into());
        let handle = thread.spawn(move || reader.read()).map_err(|why| Error::Read { path, why })?;
        Ok((handle, received))
    }

    fn read(mut self) -> Result<Rejects, Error> {
        let path = self.source.path.clone();
        let failed = |why| Error::Read { path: path.clone(), why };
        let mut rows = self.source.rows().map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            match row.cells {
                Ok(cells) if cells.is_blank() => {}
                Ok(cells) => match self.contact(&cells) {
                    Ok(contact) => self.add(contact),
                    Err(why) => self.refuse(row.line, &why, Some(cells)),
                },
                Err(flaw) => self.refuse(row.line, &Why::Flaw(flaw), None),
            }
            if self.bytes >= RUN_BYTES && !self.hand_on() {
                break;
            }
        }
        self.hand_on();
        Ok(self.rejects)
    }

    fn contact(&self, cells: &Cells<'_>) -> Result<ImportRow, Why> {
        let (address, name) = cell::address(self.source.columns.address(cells), self.allowed).map_err(Why::Address)?;
        let said = self.source.columns.read(cells, name).map_err(Why::Unsaid)?;
        let (status, bar) = said.standing.parts();
        let bucket = bucket(address.domain());
        let address = address.to_string();
        if self.forgotten.holds(&address) {
            return Err(Why::Forgotten);
        }
        Ok(ImportRow { address, name: said.name, fields: said.fields, bucket, status, bar })
    }

    fn add(&mut self, contact: ImportRow) {
        let text = contact.address.capacity() + contact.name.capacity() + contact.fields.capacity();
        self.bytes += size_of::<ImportRow>() + text;
        self.rows.push(contact);
    }

    fn refuse(&mut self, line: u64, why: &Why, cells: Option<Cells<'_>>) {
        let row = RefusedRow::new(line, why, cells, self.source.columns.names().count());
        self.rejects.add(why, &row);
        self.bytes += size_of::<RefusedRow>() + row.bytes();
        self.refused.push(row);
    }

    /// Sorts the run and gives it to the writing side; `false` when that has given up. Rows of one address stay in the
    /// order of the file.
    fn hand_on(&mut self) -> bool {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_by_cached_key(|row| sort_key(&row.address));
        self.bytes = 0;
        let bytes = self.source.read.load(Ordering::Relaxed);
        let progress = Progress { bytes, size: self.source.size, rows: 0, refused: self.rejects.count() };
        self.runs.blocking_send(Run { rows, refused: std::mem::take(&mut self.refused), progress }).is_ok()
    }
}

/// The beginning of an address without regard to case: as near to the order of the record's index as sorting needs to be.
fn sort_key(address: &str) -> [u8; 24] {
    let mut key = [0; 24];
    for (place, byte) in key.iter_mut().zip(address.bytes()) {
        *place = byte.to_ascii_lowercase();
    }
    key
}

#[cfg(test)]
mod tests;
