//! Contacts, lists, memberships and imports.

use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use super::suppressions::suppress;
use super::{Error, Reason, Store, SuppressionRow};
use crate::base::{Address, ContactId, LaunchId, ListId, Timestamp};
use crate::mail::{Consent, Recipient};

/// A contact on record.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ContactRow {
    /// Its number.
    pub id: ContactId,
    /// Its address as imported, the domain in A-label form.
    pub address: String,
    /// Its name; empty when unknown.
    pub name: String,
    /// Every imported column by its own name.
    pub fields: Map<String, Value>,
    /// When it was first imported.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
}

/// A contact to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NewContact {
    /// Its address.
    pub address: Address,
    /// Its name; empty when unknown.
    pub name: String,
    /// Its columns.
    pub fields: Map<String, Value>,
    /// The bucket of its domain.
    pub bucket: u8,
}

/// A contact as an import found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportRow<'a> {
    /// Its address, in the form that [`Address`] prints.
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

/// A list with its members counted by status.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ListRow {
    /// Its number.
    pub id: ListId,
    /// Its name.
    pub name: String,
    /// Members who get mail.
    pub subscribed: u64,
    /// Members who left.
    pub unsubscribed: u64,
    /// Members who have not confirmed.
    pub pending: u64,
}

/// Whether a member of a list gets its mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipStatus {
    /// Gets mail.
    Subscribed = 0,
    /// Left.
    Unsubscribed = 1,
    /// Has not confirmed yet.
    Pending = 2,
}

impl MembershipStatus {
    /// Its word, as JSON has it.
    pub fn word(self) -> &'static str {
        match self {
            MembershipStatus::Subscribed => "subscribed",
            MembershipStatus::Unsubscribed => "unsubscribed",
            MembershipStatus::Pending => "pending",
        }
    }

    pub(super) fn of(number: i64) -> MembershipStatus {
        match number {
            0 => MembershipStatus::Subscribed,
            1 => MembershipStatus::Unsubscribed,
            _ => MembershipStatus::Pending,
        }
    }
}

/// A contact's place on a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MembershipRow {
    /// The list's name.
    pub list: String,
    /// Whether it gets mail.
    pub status: MembershipStatus,
    /// Since when.
    pub since: Timestamp,
    /// The file it was imported from.
    pub source: Option<String>,
    /// The consent stated with that import.
    pub consent: Option<String>,
}

/// Something that happened to a contact.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EventRow {
    /// What, in a word.
    pub kind: String,
    /// More about it.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// A subscribed member as the planner meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The contact.
    pub contact: ContactId,
    /// Its address.
    pub address: String,
    /// Why it is barred, if it is.
    pub suppressed: Option<Reason>,
    /// Until when it rests, by its own wish.
    pub paused: Option<Timestamp>,
    /// The position of the launch's list from which it was planned already, if it was.
    pub planned_from: Option<u8>,
}

/// Who joins: the list, where it came from, and since when.
#[derive(Debug, Clone, Copy)]
struct Joining {
    list: ListId,
    source: i64,
    now: Timestamp,
}

/// How engaged people are, as far as the record knows: they opened or followed a link, or mail for them was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Read something within 30 days.
    Engaged30,
    /// Within 60.
    Engaged60,
    /// Within 90.
    Engaged90,
    /// Was delivered something within 90 days that did not bounce.
    Reached,
    /// Everybody.
    Everybody,
}

impl Tier {
    /// The most engaged first.
    pub const ALL: [Tier; 5] = [Tier::Engaged30, Tier::Engaged60, Tier::Engaged90, Tier::Reached, Tier::Everybody];
}

const VISITED: &str = "EXISTS (SELECT 1 FROM visits v WHERE v.contact = c.id AND v.person > 0 AND v.last >= ?6)";
const REACHED: &str = "EXISTS (SELECT 1 FROM copies d WHERE d.contact = c.id AND d.launch <> ll.launch \
     AND d.standing = 2 AND d.late = 0 AND d.at >= ?6)";

impl Store {
    /// The list called `name`, if there is one; case does not matter.
    pub fn list(&self, name: &str) -> Result<Option<ListId>, Error> {
        self.backend.read(|db| find_list(db, name))
    }

    /// The list called `name`, made when there is none.
    pub async fn make_list(&self, name: String, now: Timestamp) -> Result<ListId, Error> {
        self.backend
            .write(move |db| match find_list(db, &name)? {
                Some(list) => Ok(list),
                None => {
                    db.execute("INSERT INTO lists (name, created) VALUES (?1, ?2)", params![name, now.as_ms()])?;
                    Ok(ListId(db.last_insert_rowid() as u32))
                }
            })
            .await
    }

    /// All lists by name, with their members counted.
    pub fn lists(&self) -> Result<Vec<ListRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT l.id, l.name, count(m.contact) FILTER (WHERE m.status = 0), \
                 count(m.contact) FILTER (WHERE m.status = 1), count(m.contact) FILTER (WHERE m.status = 2) \
                 FROM lists l LEFT JOIN memberships m INDEXED BY memberships_by_list ON m.list = l.id \
                 GROUP BY l.id ORDER BY l.name",
            )?;
            let lists = rows.query_map([], |row| {
                Ok(ListRow {
                    id: ListId(row.get(0)?),
                    name: row.get(1)?,
                    subscribed: row.get(2)?,
                    unsubscribed: row.get(3)?,
                    pending: row.get(4)?,
                })
            })?;
            lists.collect()
        })
    }

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
        self.import_run(batch.into(), list, import, on_conflict, now).await.map(|(counts, _)| counts)
    }

    /// As [`Store::import_batch`]; gives the batch back, emptied, to be filled again.
    pub async fn import_run(
        &self,
        batch: ImportBatch,
        list: ListId,
        import: i64,
        on_conflict: OnConflict,
        now: Timestamp,
    ) -> Result<(ImportCounts, ImportBatch), Error> {
        let joining = Joining { list, source: import, now };
        self.backend
            .write_alone(move |db| {
                let mut importing = Importing::new(db, joining, on_conflict)?;
                for row in batch.iter() {
                    importing.take(&row)?;
                }
                let counts = importing.counts;
                drop(importing);
                Ok((counts, batch.emptied()))
            })
            .await
    }

    /// How many of these addresses are contacts.
    pub fn known<'a>(&self, addresses: impl Iterator<Item = &'a str>) -> Result<u64, Error> {
        self.backend.read(|db| {
            let mut known = db.prepare_cached("SELECT 1 FROM contacts WHERE address = ?1")?;
            let mut count = 0;
            for address in addresses {
                count += u64::from(known.exists([address])?);
            }
            Ok(count)
        })
    }

    /// The contact with this address, made without any list when there is none: for test copies.
    pub async fn make_contact(&self, contact: NewContact, now: Timestamp) -> Result<ContactId, Error> {
        self.backend
            .write(move |db| match find_contact(db, &contact.address.to_string())? {
                Some((id, ..)) => Ok(ContactId(id)),
                None => insert_contact(db, &contact, now).map(|id| ContactId(id.unwrap_or_default())),
            })
            .await
    }

    /// The contact with this address; case does not matter.
    pub fn contact(&self, address: &str) -> Result<Option<ContactRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT id, address, name, fields, created, changed FROM contacts WHERE address = ?1")?
                .query_row([address], contact_row)
                .optional()
        })
    }

    /// At most `most` contacts after `after`, in order of number; only those on `list` when one is given.
    pub fn contacts(&self, list: Option<ListId>, after: ContactId, most: usize) -> Result<Vec<ContactRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT id, address, name, fields, created, changed FROM contacts c WHERE id > ?1 AND (?2 IS NULL OR \
                 EXISTS (SELECT 1 FROM memberships m WHERE m.contact = c.id AND m.list = ?2)) ORDER BY id LIMIT ?3",
            )?;
            let contacts = rows.query_map(params![after.0, list.map(|l| l.0), most], contact_row)?;
            contacts.collect()
        })
    }

    /// What a copy for this contact is printed from; `None` when the contact is gone.
    pub fn recipient(&self, contact: ContactId) -> Result<Option<Recipient>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT address, name, fields, consent FROM contacts WHERE id = ?1")?
                .query_row([contact.0], |row| {
                    let address: String = row.get(0)?;
                    Ok(Recipient {
                        contact,
                        address: Address::parse(&address).map_err(|why| unreadable(0, why))?,
                        name: row.get(1)?,
                        fields: fields(row, 2)?,
                        consent: consent_of(row.get(3)?),
                    })
                })
                .optional()
        })
    }

    /// The lists a contact is or was on.
    pub fn memberships(&self, contact: ContactId) -> Result<Vec<MembershipRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT l.name, m.status, m.since, i.file, i.consent FROM memberships m JOIN lists l ON l.id = m.list \
                 LEFT JOIN imports i ON i.id = m.source WHERE m.contact = ?1 ORDER BY l.name",
            )?;
            let memberships = rows.query_map([contact.0], |row| {
                Ok(MembershipRow {
                    list: row.get(0)?,
                    status: MembershipStatus::of(row.get(1)?),
                    since: Timestamp::from_ms(row.get(2)?),
                    source: row.get(3)?,
                    consent: row.get(4)?,
                })
            })?;
            memberships.collect()
        })
    }

    /// What happened to a contact, oldest first.
    pub fn events(&self, contact: ContactId) -> Result<Vec<EventRow>, Error> {
        self.backend.read(|db| {
            let mut rows =
                db.prepare_cached("SELECT kind, detail, at FROM events WHERE contact = ?1 ORDER BY at, id")?;
            let events = rows.query_map([contact.0], |row| {
                Ok(EventRow { kind: row.get(0)?, detail: row.get(1)?, at: Timestamp::from_ms(row.get(2)?) })
            })?;
            events.collect()
        })
    }

    /// Forgets a contact: profile, memberships and events go; of its copies only the figures stay. `hash` keeps an import
    /// from bringing it back. Gives whether there was such a contact. What was erased is gone from the files as well.
    pub async fn erase(&self, address: String, hash: Vec<u8>, now: Timestamp) -> Result<bool, Error> {
        let erased = self
            .backend
            .write(move |db| {
                db.execute("INSERT OR IGNORE INTO erased (hash, since) VALUES (?1, ?2)", params![hash, now.as_ms()])?;
                db.execute("DELETE FROM suppressions WHERE address = ?1", [&address])?;
                db.execute("DELETE FROM signups WHERE address = ?1", [&address])?;
                let contact = find_contact(db, &address)?;
                if let Some((id, ..)) = &contact {
                    db.execute("UPDATE copies SET text = '' WHERE contact = ?1", [id])?;
                    db.execute("DELETE FROM contacts WHERE id = ?1", [id])?;
                }
                Ok(contact.is_some())
            })
            .await?;
        self.backend.read(|db| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))?;
        Ok(erased)
    }

    /// Whether a contact would get a copy of what goes to these lists now: subscribed to one of them, and neither suppressed
    /// nor resting.
    pub fn is_recipient(&self, contact: ContactId, lists: &[ListId], now: Timestamp) -> Result<bool, Error> {
        let lists = serde_json::to_string(lists).expect("numbers are plain JSON");
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM memberships m WHERE m.contact = c.id AND m.status = 0 \
                 AND m.list IN (SELECT value FROM json_each(?2))) \
                 AND NOT EXISTS (SELECT 1 FROM suppressions s WHERE s.address = c.address) \
                 AND coalesce(c.paused, 0) <= ?3 FROM contacts c WHERE c.id = ?1",
            )?
            .query_row(params![contact.0, lists, now.as_ms()], |row| row.get(0))
            .optional()
            .map(|found| found.unwrap_or(false))
        })
    }

    /// The hashes of those who asked to be forgotten.
    pub fn erased(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.backend.read(|db| db.prepare_cached("SELECT hash FROM erased")?.query_map([], |row| row.get(0))?.collect())
    }

    /// The subscribed members of the launch's list at `position` in one bucket, after `after`, in order of number.
    pub fn candidates(
        &self,
        launch: LaunchId,
        position: u8,
        bucket: u8,
        after: ContactId,
        most: usize,
    ) -> Result<Vec<Candidate>, Error> {
        self.candidates_of(launch, position, bucket, after, most, (None, "?6 IS NULL"))
    }

    /// As [`Store::candidates`], but only those of a tier as of a time. [`Tier::Everybody`] leaves nobody out, so that who
    /// moves from one tier to another meanwhile is planned all the same.
    pub fn engaged_candidates(
        &self,
        launch: LaunchId,
        position: u8,
        bucket: u8,
        after: ContactId,
        most: usize,
        (tier, now): (Tier, Timestamp),
    ) -> Result<Vec<Candidate>, Error> {
        let day = Duration::from_secs(86_400);
        let (since, which) = match tier {
            Tier::Engaged30 => (now - day * 30, VISITED),
            Tier::Engaged60 => (now - day * 60, VISITED),
            Tier::Engaged90 => (now - day * 90, VISITED),
            Tier::Reached => (now - day * 90, REACHED),
            Tier::Everybody => (now, "?6 IS NOT NULL"),
        };
        self.candidates_of(launch, position, bucket, after, most, (Some(since), which))
    }

    fn candidates_of(
        &self,
        launch: LaunchId,
        position: u8,
        bucket: u8,
        after: ContactId,
        most: usize,
        (since, which): (Option<Timestamp>, &str),
    ) -> Result<Vec<Candidate>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(&format!(
                "SELECT c.id, c.address, s.reason, p.position, c.paused FROM launch_lists ll \
                 JOIN memberships m ON m.list = ll.list JOIN contacts c ON c.id = m.contact \
                 LEFT JOIN suppressions s ON s.address = c.address \
                 LEFT JOIN copies p ON p.launch = ll.launch AND p.contact = c.id \
                 WHERE ll.launch = ?1 AND ll.position = ?2 AND m.bucket = ?3 AND m.contact > ?4 AND m.status = 0 \
                 AND {which} ORDER BY m.contact LIMIT ?5"
            ))?;
            let from = params![launch.0, position, bucket, after.0, most, since.map(Timestamp::as_ms)];
            let found = rows.query_map(from, |row| {
                Ok(Candidate {
                    contact: ContactId(row.get(0)?),
                    address: row.get(1)?,
                    suppressed: row.get::<_, Option<String>>(2)?.map(|word| Reason::of(&word)),
                    planned_from: row.get(3)?,
                    paused: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_ms),
                })
            })?;
            found.collect()
        })
    }

    /// Shows every subscribed member of `lists` to `see`, once each, with the reason why it is barred now if it is: for the
    /// forecast before a launch.
    pub fn survey(
        &self,
        lists: &[ListId],
        now: Timestamp,
        mut see: impl FnMut(&str, Option<Reason>),
    ) -> Result<(), Error> {
        let lists = serde_json::to_string(lists).expect("numbers are plain JSON");
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT c.address, coalesce(s.reason, iif(c.paused > ?2, 'paused', NULL)) \
                 FROM contacts c LEFT JOIN suppressions s ON s.address = c.address \
                 WHERE EXISTS (SELECT 1 FROM memberships m WHERE m.contact = c.id AND m.status = 0 \
                 AND m.list IN (SELECT value FROM json_each(?1)))",
            )?;
            let mut found = rows.query(params![lists, now.as_ms()])?;
            while let Some(row) = found.next()? {
                let reason: Option<String> = row.get(1)?;
                see(row.get_ref(0)?.as_str()?, reason.map(|word| Reason::of(&word)));
            }
            Ok(())
        })
    }
}

impl Store {
    /// Adds an event to a contact's history, durable when it returns, unless the same stands there already: false then, and
    /// for a contact that is erased.
    pub async fn note_once(
        &self,
        contact: ContactId,
        kind: &'static str,
        detail: String,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let added = db
                    .prepare_cached(
                        "INSERT INTO events (contact, kind, detail, at) SELECT id, ?2, ?3, ?4 FROM contacts WHERE id = ?1 \
                         AND NOT EXISTS (SELECT 1 FROM events WHERE contact = ?1 AND kind = ?2 AND detail = ?3)",
                    )?
                    .execute(params![contact.0, kind, detail, now.as_ms()])?;
                Ok(added > 0)
            })
            .await
    }
}

/// Adds an event to a contact's history; nothing once the contact is erased.
pub(super) fn note(
    db: &Connection,
    contact: ContactId,
    kind: &str,
    detail: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    note_of(db, contact, None, kind, detail, at)
}

/// As [`note`], for what came of a copy of this launch.
pub(super) fn note_of(
    db: &Connection,
    contact: ContactId,
    launch: Option<LaunchId>,
    kind: &str,
    detail: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO events (contact, kind, detail, at, launch) SELECT id, ?2, ?3, ?4, ?5 FROM contacts WHERE id = ?1",
    )?
    .execute(params![contact.0, kind, detail, at.as_ms(), launch.map(|launch| launch.0)])
    .map(drop)
}

fn find_list(db: &Connection, name: &str) -> rusqlite::Result<Option<ListId>> {
    db.prepare_cached("SELECT id FROM lists WHERE name = ?1")?
        .query_row([name], |row| row.get(0).map(ListId))
        .optional()
}

/// A contact's number, name and columns as they stand.
type Known = (u32, String, String);

fn find_contact(db: &Connection, address: &str) -> rusqlite::Result<Option<Known>> {
    db.prepare_cached("SELECT id, name, fields FROM contacts WHERE address = ?1")?
        .query_row([address], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
}

/// Writes a new contact; `None` when the address is known.
pub(super) fn insert_contact(db: &Connection, contact: &NewContact, now: Timestamp) -> rusqlite::Result<Option<u32>> {
    let fields = Value::Object(contact.fields.clone()).to_string();
    db.prepare_cached(
        "INSERT INTO contacts (address, name, fields, bucket, created, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?5) \
         ON CONFLICT (address) DO NOTHING RETURNING id",
    )?
    .query_row(params![contact.address.to_string(), contact.name, fields, contact.bucket, now.as_ms()], |row| {
        row.get(0)
    })
    .optional()
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
/// Bits of `contacts.consent`: said yes, said no.
const OPENS: (u8, u8) = (1, 2);
const CLICKS: (u8, u8) = (4, 8);

pub(super) fn consent_of(bits: u8) -> Consent {
    let said = |(yes, no): (u8, u8)| match (bits & yes > 0, bits & no > 0) {
        (_, true) => Some(false),
        (true, false) => Some(true),
        (false, false) => None,
    };
    Consent { opens: said(OPENS), clicks: said(CLICKS) }
}

pub(super) fn consent_bits(consent: Consent) -> u8 {
    let bit = |said: Option<bool>, (yes, no)| said.map_or(0, |said| if said { yes } else { no });
    bit(consent.opens, OPENS) | bit(consent.clicks, CLICKS)
}

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

fn contact_row(row: &Row<'_>) -> rusqlite::Result<ContactRow> {
    Ok(ContactRow {
        id: ContactId(row.get(0)?),
        address: row.get(1)?,
        name: row.get(2)?,
        fields: fields(row, 3)?,
        created: Timestamp::from_ms(row.get(4)?),
        changed: Timestamp::from_ms(row.get(5)?),
    })
}

fn fields(row: &Row<'_>, column: usize) -> rusqlite::Result<Map<String, Value>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|why| unreadable(column, why))
}

/// A value that we wrote and cannot read back: the file is damaged.
pub(super) fn unreadable(column: usize, why: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(why))
}
