//! Who must not be mailed, whatever list they are on.

use rusqlite::{Connection, OptionalExtension, params};

use super::people::note;
use super::{Error, Store};
use crate::base::{ContactId, Timestamp};

/// Declares the reasons with their words in one place.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why an address is suppressed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The reason's word.
            pub fn word(self) -> &'static str {
                match self {
                    $(Reason::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// The recipient left everything.
    Unsubscribe = "unsubscribe",
    /// The recipient called our mail spam: for ever.
    Complaint = "complaint",
    /// The mailbox or domain does not exist.
    Hard = "hard",
    /// Too many soft bounces in a row.
    SoftLimit = "soft-limit",
    /// A person put it there.
    Manual = "manual",
    /// The contact rests until a day of their choice. Never kept as a suppression: it ends by itself.
    Paused = "paused",
}

impl Reason {
    /// The reason a word stands for; an unknown word, from a later version, bars all the same.
    pub fn of(word: &str) -> Reason {
        Reason::ALL.iter().copied().find(|reason| reason.word() == word).unwrap_or(Reason::Manual)
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

/// A suppressed address.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SuppressionRow {
    /// The address.
    pub address: String,
    /// Why.
    pub reason: Reason,
    /// More about why: the reply, the campaign, who did it.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
}

impl Store {
    /// Suppresses addresses, durable when it returns; those that are suppressed stay as they are, but that a complaint
    /// takes the place of any other reason: it is for ever, and must not be lifted with a lesser one. Gives how many are
    /// new.
    pub async fn suppress(&self, rows: Vec<SuppressionRow>) -> Result<usize, Error> {
        self.backend
            .write(move |db| {
                let mut new = 0;
                for row in &rows {
                    new += usize::from(suppress(db, row)?);
                }
                Ok(new)
            })
            .await
    }

    /// Lifts a suppression: only ever for a person who says why. Gives whether there was one.
    pub async fn release(&self, address: String, why: String, now: Timestamp) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let released = db.execute("DELETE FROM suppressions WHERE address = ?1", [&address])? > 0;
                if released && let Some(contact) = contact_of(db, &address)? {
                    note(db, contact, "released", &why, now)?;
                }
                Ok(released)
            })
            .await
    }

    /// Why this address is suppressed, if it is; case does not matter.
    pub fn suppression(&self, address: &str) -> Result<Option<SuppressionRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT address, reason, detail, since FROM suppressions WHERE address = ?1")?
                .query_row([address], suppression_row)
                .optional()
        })
    }

    /// At most `most` suppressed addresses after `after`, in order of address.
    pub fn suppressions(&self, after: &str, most: usize) -> Result<Vec<SuppressionRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT address, reason, detail, since FROM suppressions WHERE address > ?1 ORDER BY address LIMIT ?2",
            )?;
            let found = rows.query_map(params![after, most], suppression_row)?;
            found.collect()
        })
    }
}

/// Writes one suppression and its event; gives whether it is new.
pub(super) fn suppress(db: &Connection, row: &SuppressionRow) -> rusqlite::Result<bool> {
    let new = db
        .prepare_cached(
            "INSERT INTO suppressions (address, reason, detail, since) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (address) DO UPDATE SET reason = excluded.reason, detail = excluded.detail, since = excluded.since \
             WHERE excluded.reason = 'complaint' AND suppressions.reason <> 'complaint'",
        )?
        .execute(params![row.address, row.reason.word(), row.detail, row.since.as_ms()])?
        > 0;
    if new && let Some(contact) = contact_of(db, &row.address)? {
        note(db, contact, "suppressed", &format!("{}: {}", row.reason.word(), row.detail), row.since)?;
    }
    Ok(new)
}

fn contact_of(db: &Connection, address: &str) -> rusqlite::Result<Option<ContactId>> {
    db.prepare_cached("SELECT id FROM contacts WHERE address = ?1")?
        .query_row([address], |row| row.get(0).map(ContactId))
        .optional()
}

fn suppression_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<SuppressionRow> {
    Ok(SuppressionRow {
        address: row.get(0)?,
        reason: Reason::of(row.get_ref(1)?.as_str()?),
        detail: row.get(2)?,
        since: Timestamp::from_ms(row.get(3)?),
    })
}
