//! Contacts, lists, memberships, and what happened to a contact.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use super::{Error, Store};
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
                .query_row([contact.0], |row| recipient_of(row, 0, contact))
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

    /// The hashes of those who asked to be forgotten.
    pub fn erased(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.backend.read(|db| db.prepare_cached("SELECT hash FROM erased")?.query_map([], |row| row.get(0))?.collect())
    }

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
pub(super) type Known = (u32, String, String);

pub(super) fn find_contact(db: &Connection, address: &str) -> rusqlite::Result<Option<Known>> {
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

/// Whom a copy goes to, from the address, the name, the fields and the consent in four columns from `first` on.
pub(super) fn recipient_of(row: &Row<'_>, first: usize, contact: ContactId) -> rusqlite::Result<Recipient> {
    let address = row.get_ref(first)?.as_str()?;
    Ok(Recipient {
        contact,
        address: Address::parse(address).map_err(|why| unreadable(first, why))?,
        name: row.get(first + 1)?,
        fields: fields(row, first + 2)?,
        consent: consent_of(row.get(first + 3)?),
    })
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
