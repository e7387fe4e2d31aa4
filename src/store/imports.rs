//! Imports: contacts written and put on a list by the batch, without bringing back anybody who left.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, params};
use serde_json::{Map, Value};

use super::people::{Known, MembershipStatus, NewContact, consent_bits, find_contact, note, unreadable};
use super::suppressions::suppress;
use super::{Error, Reason, Store, SuppressionRow};
use crate::base::{ContactId, ListId, Timestamp};
use crate::mail::Consent;

/// A contact as an import found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportRow<'a> {
    /// Its address, in the form that [`Address`](crate::base::Address) prints.
    pub address: &'a str,
    /// Its name; empty when unknown.
    pub name: &'a str,
    /// Its columns: the text of a JSON object.
    pub fields: &'a str,
    /// The bucket of its domain.
    pub bucket: u8,
    /// Its place on the list. Whoever is on the list already can only leave it by this, never come back.
    pub status: MembershipStatus,
    /// Why it is to be suppressed, if it is.
    pub bar: Option<Reason>,
}

/// Contacts to be written in one transaction, their texts one behind the other in one place.
#[derive(Debug, Clone, Default)]
pub struct ImportBatch {
    text: String,
    rows: Vec<Place>,
}

/// Where the texts of a row lie, and the rest of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    address: u32,
    name: u32,
    fields: u32,
    bucket: u8,
    status: MembershipStatus,
    bar: Option<Reason>,
}

impl ImportBatch {
    /// An empty batch with room for so many bytes of text.
    pub fn with_capacity(bytes: usize) -> ImportBatch {
        ImportBatch { text: String::with_capacity(bytes), rows: Vec::new() }
    }

    /// Adds a row. The texts of a batch may take 4 GiB in all.
    pub fn push(&mut self, row: ImportRow<'_>) {
        let length = |text: &str| u32::try_from(text.len()).expect("a batch is far smaller than 4 GiB");
        let start = length(&self.text);
        let ImportRow { address, name, fields, bucket, status, bar } = row;
        let (address_length, name_length, fields_length) = (length(address), length(name), length(fields));
        self.rows.push(Place {
            start,
            address: address_length,
            name: name_length,
            fields: fields_length,
            bucket,
            status,
            bar,
        });
        for text in [address, name, fields] {
            self.text.push_str(text);
        }
    }

    /// The same room without the rows.
    pub fn emptied(mut self) -> ImportBatch {
        self.text.clear();
        self.rows.clear();
        self
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.rows.len() * size_of::<Place>()
    }

    /// Sorts it by address, as near as writing needs it: neighbours in the record's index become neighbours here. Rows of
    /// one address keep their order.
    pub fn sort(&mut self) {
        let text = &self.text;
        self.rows.sort_by_cached_key(|row| {
            let address = text[row.start as usize..][..row.address as usize].bytes();
            let mut key = [0; 24];
            key.iter_mut().zip(address).for_each(|(place, byte)| *place = byte.to_ascii_lowercase());
            key
        });
    }

    /// Its rows in order.
    pub fn iter(&self) -> impl Iterator<Item = ImportRow<'_>> {
        self.rows.iter().map(|row| {
            let (address, rest) = self.text[row.start as usize..].split_at(row.address as usize);
            let (name, rest) = rest.split_at(row.name as usize);
            let fields = &rest[..row.fields as usize];
            ImportRow { address, name, fields, bucket: row.bucket, status: row.status, bar: row.bar }
        })
    }
}

impl From<Vec<NewContact>> for ImportBatch {
    fn from(contacts: Vec<NewContact>) -> ImportBatch {
        let mut batch = ImportBatch::default();
        for contact in contacts {
            let fields = Value::Object(contact.fields).to_string();
            let (status, bar) = (MembershipStatus::Subscribed, None);
            let address = contact.address.to_string();
            let row = ImportRow {
                address: &address,
                name: &contact.name,
                fields: &fields,
                bucket: contact.bucket,
                status,
                bar,
            };
            batch.push(row);
        }
        batch
    }
}

/// What an import does to a contact that is known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Fills what is empty, leaves the rest.
    Fill,
    /// Takes the new values, keeps columns that the import lacks.
    Overwrite,
    /// Leaves the contact as it is.
    Keep,
}

/// What became of a batch of contacts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ImportCounts {
    /// New contacts.
    pub added: u64,
    /// Known contacts whose name or columns changed.
    pub updated: u64,
    /// Known contacts left as they were.
    pub unchanged: u64,
    /// Rows whose address an earlier row of the same import had; also counted as updated or unchanged.
    pub doubled: u64,
    /// Contacts that joined the list and get its mail.
    pub joined: u64,
    /// Contacts that joined the list and have not confirmed.
    pub pending: u64,
    /// Contacts that were put or taken off the list because the import says that they left.
    pub unsubscribed: u64,
    /// Contacts that had left the list, and stay off it.
    pub left: u64,
    /// Addresses that were suppressed before, and stay so.
    pub suppressed: u64,
    /// Addresses suppressed because the import says that they bounced, complained or were blocked.
    pub barred: u64,
}

impl std::ops::AddAssign for ImportCounts {
    fn add_assign(&mut self, more: ImportCounts) {
        self.added += more.added;
        self.updated += more.updated;
        self.unchanged += more.unchanged;
        self.doubled += more.doubled;
        self.joined += more.joined;
        self.pending += more.pending;
        self.unsubscribed += more.unsubscribed;
        self.left += more.left;
        self.suppressed += more.suppressed;
        self.barred += more.barred;
    }
}

/// The hashes that an address may leave when it is erased.
pub type Traces = Arc<dyn Fn(&str) -> Vec<Vec<u8>> + Send + Sync>;

/// How those are recognised who are erased while an import reads its file.
#[derive(Clone)]
pub struct Erasures {
    /// Hashes of those who were erased before: the import knows of them by itself.
    pub known: Arc<BTreeSet<Vec<u8>>>,
    /// What would be left of an address.
    pub traces: Traces,
}

impl Erasures {
    /// Whether an address is among those erased since. What is on record by now tells: an erasure may have waited for the
    /// record, and clocks may have been set meanwhile.
    fn among(self, db: &Connection) -> rusqlite::Result<impl Fn(&str) -> bool + use<>> {
        let Erasures { known, traces } = self;
        let mut rows = db.prepare_cached("SELECT hash FROM erased")?;
        let all = rows.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        let is_news = |hash: &rusqlite::Result<Vec<u8>>| hash.as_ref().map_or(true, |hash| !known.contains(hash));
        let erased: BTreeSet<Vec<u8>> = all.filter(is_news).collect::<rusqlite::Result<_>>()?;
        Ok(move |address: &str| !erased.is_empty() && traces(address).iter().any(|trace| erased.contains(trace)))
    }
}

/// Who joins: the list, where it came from, and since when.
#[derive(Debug, Clone, Copy)]
struct Joining {
    list: ListId,
    source: i64,
    now: Timestamp,
}

impl Store {
    /// Opens the record of an import; gives its number.
    pub async fn begin_import(
        &self,
        file: String,
        list: ListId,
        consent: Option<String>,
        now: Timestamp,
    ) -> Result<i64, Error> {
        self.backend
            .write(move |db| {
                let row = params![file, list.0, consent, now.as_ms()];
                db.execute("INSERT INTO imports (file, list, consent, started) VALUES (?1, ?2, ?3, ?4)", row)?;
                Ok(db.last_insert_rowid())
            })
            .await
    }

    /// Closes the record of an import.
    pub async fn finish_import(&self, import: i64, counts: ImportCounts, now: Timestamp) -> Result<(), Error> {
        let counts = serde_json::to_string(&counts).expect("counts are plain numbers");
        self.backend
            .write(move |db| {
                let row = params![import, now.as_ms(), counts];
                db.execute("UPDATE imports SET finished = ?2, counts = ?3 WHERE id = ?1", row).map(drop)
            })
            .await
    }

    /// Writes a batch of contacts and puts them on a list, in one transaction. Best given in order of address. Nobody
    /// who left the list is put back, and no suppression is lifted.
    pub async fn import_batch(
        &self,
        batch: Vec<NewContact>,
        list: ListId,
        import: i64,
        on_conflict: OnConflict,
        now: Timestamp,
    ) -> Result<ImportCounts, Error> {
        self.import_run(batch.into(), list, import, on_conflict, now, None).await.map(|(counts, _)| counts)
    }

    /// As [`Store::import_batch`], without those who were erased meanwhile; gives the batch back, emptied, to be filled again.
    pub async fn import_run(
        &self,
        batch: ImportBatch,
        list: ListId,
        import: i64,
        on_conflict: OnConflict,
        now: Timestamp,
        erasures: Option<Erasures>,
    ) -> Result<(ImportCounts, ImportBatch), Error> {
        let joining = Joining { list, source: import, now };
        self.backend
            .write_alone(move |db| {
                let mut importing = Importing::new(db, joining, on_conflict)?;
                let erased = erasures.map(|erasures| erasures.among(db)).transpose()?;
                for row in batch.iter() {
                    if erased.as_ref().is_none_or(|was_erased| !was_erased(row.address)) {
                        importing.take(&row)?;
                    }
                }
                let counts = importing.counts;
                drop(importing);
                Ok((counts, batch.emptied()))
            })
            .await
    }
}

/// One batch of an import inside its transaction, with its statements at hand.
struct Importing<'a> {
    db: &'a Connection,
    joining: Joining,
    on_conflict: OnConflict,
    counts: ImportCounts,
    insert: CachedStatement<'a>,
    join: CachedStatement<'a>,
    suppressed: Option<CachedStatement<'a>>,
}

impl<'a> Importing<'a> {
    fn new(db: &'a Connection, joining: Joining, on_conflict: OnConflict) -> rusqlite::Result<Importing<'a>> {
        let suppresses = db.prepare_cached("SELECT 1 FROM suppressions LIMIT 1")?.exists([])?;
        let suppressed = || db.prepare_cached("SELECT 1 FROM suppressions WHERE address = ?1");
        Ok(Importing {
            db,
            joining,
            on_conflict,
            counts: ImportCounts::default(),
            insert: db.prepare_cached(
                "INSERT INTO contacts (address, name, fields, bucket, created, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?5) \
                 ON CONFLICT (address) DO NOTHING",
            )?,
            join: db.prepare_cached(
                "INSERT INTO memberships (contact, list, bucket, status, source, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (contact, list) DO NOTHING",
            )?,
            suppressed: suppresses.then(suppressed).transpose()?,
        })
    }

    fn take(&mut self, row: &ImportRow<'_>) -> rusqlite::Result<()> {
        let now = self.joining.now.as_ms();
        let is_new = self.insert.execute(params![row.address, row.name, row.fields, row.bucket, now])? == 1;
        let id = if is_new {
            self.counts.added += 1;
            self.db.last_insert_rowid() as u32
        } else {
            let known = find_contact(self.db, row.address)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            self.update(&known, row)?;
            known.0
        };
        if row.fields.contains(CONSENT_COLUMNS) {
            consent_from_columns(self.db, id, row.fields)?;
        }
        self.join(id, row, is_new)?;
        self.bar(row)
    }

    fn update(&mut self, (id, name, fields): &Known, new: &ImportRow<'_>) -> rusqlite::Result<()> {
        // the same file again: nothing to take apart
        if name == new.name && fields == new.fields {
            self.counts.unchanged += 1;
            return Ok(());
        }
        let parse = |text: &str| serde_json::from_str(text).map_err(|why| unreadable(2, why));
        let (old, new_fields): (Map<String, Value>, Map<String, Value>) = (parse(fields)?, parse(new.fields)?);
        let (merged_name, merged) = merge((name, &old), (new.name, &new_fields), self.on_conflict);
        if merged_name == name && merged == old {
            self.counts.unchanged += 1;
            return Ok(());
        }
        self.counts.updated += 1;
        self.db
            .prepare_cached("UPDATE contacts SET name = ?2, fields = ?3, changed = ?4 WHERE id = ?1")?
            .execute(params![id, merged_name, Value::Object(merged).to_string(), self.joining.now.as_ms()])
            .map(drop)
    }

    /// Puts a contact on the list unless it is or was on it.
    fn join(&mut self, contact: u32, row: &ImportRow<'_>, is_new: bool) -> rusqlite::Result<()> {
        let Joining { list, source, now } = self.joining;
        let status = row.status as i64;
        if self.join.execute(params![contact, list.0, row.bucket, status, source, now.as_ms()])? == 1 {
            match row.status {
                MembershipStatus::Subscribed => self.counts.joined += 1,
                MembershipStatus::Unsubscribed => self.counts.unsubscribed += 1,
                MembershipStatus::Pending => self.counts.pending += 1,
            }
            return Ok(());
        }
        assert!(!is_new, "a contact that was just made is on no list");
        let (was, from): (i64, Option<i64>) = self
            .db
            .prepare_cached("SELECT status, source FROM memberships WHERE contact = ?1 AND list = ?2")?
            .query_row(params![contact, list.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.counts.doubled += u64::from(from == Some(source));
        match (MembershipStatus::of(was), row.status) {
            (MembershipStatus::Unsubscribed, _) => self.counts.left += 1,
            (_, MembershipStatus::Unsubscribed) => {
                self.counts.unsubscribed += 1;
                self.db
                    .prepare_cached("UPDATE memberships SET status = 1, since = ?3 WHERE contact = ?1 AND list = ?2")?
                    .execute(params![contact, list.0, now.as_ms()])?;
                note(self.db, ContactId(contact), "unsubscribed", "stated by an import", now)?;
            }
            (MembershipStatus::Subscribed | MembershipStatus::Pending, _) => {}
        }
        Ok(())
    }

    fn bar(&mut self, row: &ImportRow<'_>) -> rusqlite::Result<()> {
        let is_suppressed = match &mut self.suppressed {
            Some(suppressed) => suppressed.exists([row.address])?,
            None => false,
        };
        self.counts.suppressed += u64::from(is_suppressed);
        if let Some(reason) = row.bar.filter(|_| !is_suppressed) {
            let detail = "stated by an import".to_owned();
            let new = SuppressionRow { address: row.address.to_owned(), reason, detail, since: self.joining.now };
            self.counts.barred += u64::from(suppress(self.db, &new)?);
        }
        Ok(())
    }
}

/// What the names of the columns that state consent begin with.
const CONSENT_COLUMNS: &str = "\"consent_";
/// Takes the consent to tracking that an import states. What the contact said before stands: a no is never turned into a yes,
/// a yes is withdrawn by a no.
fn consent_from_columns(db: &Connection, contact: u32, fields: &str) -> rusqlite::Result<()> {
    let fields: Map<String, Value> = serde_json::from_str(fields).map_err(|why| unreadable(2, why))?;
    let said = |column: &str| yes_or_no(fields.get(column)?);
    let stated = Consent { opens: said("consent_opens"), clicks: said("consent_clicks") };
    // with both bits set the no counts, so that a later yes changes nothing
    db.prepare_cached("UPDATE contacts SET consent = consent | ?2 WHERE id = ?1")?
        .execute(params![contact, consent_bits(stated)])
        .map(drop)
}

/// What a cell of a consent column says; `None` when it says nothing.
fn yes_or_no(cell: &Value) -> Option<bool> {
    match cell {
        Value::Bool(said) => Some(*said),
        Value::Number(number) => Some(number.as_f64() != Some(0.0)),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "yes" | "y" | "true" | "1" | "ja" | "oui" | "si" | "sí" | "x" => Some(true),
            "no" | "n" | "false" | "0" | "nein" | "non" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Name and columns of a known contact after an import. An empty new value never replaces a known one.
fn merge<'a>(
    (name, old): (&'a str, &Map<String, Value>),
    (new_name, new): (&'a str, &Map<String, Value>),
    on_conflict: OnConflict,
) -> (&'a str, Map<String, Value>) {
    let is_empty = |value: &Value| matches!(value, Value::Null) || value.as_str() == Some("");
    let takes = |known_is_empty: bool, new_is_empty: bool| match on_conflict {
        OnConflict::Keep => false,
        OnConflict::Fill => known_is_empty && !new_is_empty,
        OnConflict::Overwrite => !new_is_empty,
    };
    let mut merged = old.clone();
    for (column, value) in new {
        if takes(merged.get(column).is_none_or(is_empty), is_empty(value)) {
            merged.insert(column.clone(), value.clone());
        }
    }
    (if takes(name.is_empty(), new_name.is_empty()) { new_name } else { name }, merged)
}
