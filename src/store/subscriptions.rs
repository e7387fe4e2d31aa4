//! What a recipient does about their own subscriptions: leave, leave all, think better of it.

use rusqlite::params;

use super::people::note;
use super::{Error, MembershipStatus, Store};
use crate::base::{ContactId, EnvelopeId, ListId, Timestamp};

/// A contact's place on a list, as the contact's own page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The list.
    pub list: ListId,
    /// Its name.
    pub name: String,
    /// Whether it gets mail.
    pub status: MembershipStatus,
    /// Since when.
    pub since: Timestamp,
    /// Whether the copy that led here was sent to this list.
    pub of_copy: bool,
}

impl Store {
    /// The subscriptions of the contact a copy was for, by name of list; empty when the contact is no longer known.
    pub fn subscriptions(&self, copy: EnvelopeId) -> Result<Vec<SubscriptionRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT m.list, l.name, m.status, m.since, ll.list IS NOT NULL FROM memberships m \
                 JOIN lists l ON l.id = m.list \
                 LEFT JOIN launch_lists ll ON ll.launch = ?1 AND ll.list = m.list \
                 WHERE m.contact = ?2 ORDER BY l.name",
            )?;
            let found = rows.query_map(params![copy.launch().0, copy.contact().0], |row| {
                Ok(SubscriptionRow {
                    list: ListId(row.get(0)?),
                    name: row.get(1)?,
                    status: MembershipStatus::of(row.get(2)?),
                    since: Timestamp::from_ms(row.get(3)?),
                    of_copy: row.get(4)?,
                })
            })?;
            found.collect()
        })
    }

    /// Takes a contact off these lists, each with an event of its own; durable when it returns. Gives how many it was
    /// still on: leaving twice is no error.
    pub async fn leave(&self, contact: ContactId, lists: Vec<ListId>, now: Timestamp) -> Result<usize, Error> {
        self.backend
            .write(move |db| {
                let mut left = 0;
                for list in lists {
                    let row = params![contact.0, list.0, now.as_ms()];
                    let changed = db
                        .prepare_cached(
                            "UPDATE memberships SET status = 1, since = ?3 \
                             WHERE contact = ?1 AND list = ?2 AND status <> 1",
                        )?
                        .execute(row)?;
                    if changed > 0 {
                        note_list(db, contact, "unsubscribed", list, now)?;
                    }
                    left += changed;
                }
                Ok(left)
            })
            .await
    }

    /// Puts a contact back on the list it left at or after `earliest`: the undo of a slip, and nothing else (U-07). Gives
    /// whether it was.
    pub async fn rejoin(
        &self,
        contact: ContactId,
        list: ListId,
        earliest: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let changed = db.execute(
                    "UPDATE memberships SET status = 0, since = ?4 \
                     WHERE contact = ?1 AND list = ?2 AND status = 1 AND since >= ?3",
                    params![contact.0, list.0, earliest.as_ms(), now.as_ms()],
                )?;
                if changed > 0 {
                    note_list(db, contact, "resubscribed", list, now)?;
                }
                Ok(changed > 0)
            })
            .await
    }
}

fn note_list(
    db: &rusqlite::Connection,
    contact: ContactId,
    kind: &str,
    list: ListId,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let name: String =
        db.prepare_cached("SELECT name FROM lists WHERE id = ?1")?.query_row([list.0], |row| row.get(0))?;
    note(db, contact, kind, &name, now)
}
