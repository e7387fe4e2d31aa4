//! What a recipient does about their own subscriptions: leave, leave all, think better of it.

use rusqlite::{Connection, OptionalExtension, params};

use super::people::{consent_bits, consent_of, note_of};
use super::suppressions::suppress;
use super::{Error, MembershipStatus, Reason, Store, SuppressionRow};
use crate::base::{ContactId, EnvelopeId, LaunchId, ListId, Timestamp};
use crate::mail::Consent;

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
                "SELECT m.list, l.name, m.status, m.since, coalesce(ll.list, s.list) IS NOT NULL FROM memberships m \
                 JOIN lists l ON l.id = m.list \
                 LEFT JOIN launch_lists ll ON ll.launch = ?1 AND ll.list = m.list \
                 LEFT JOIN signups s ON s.launch = ?1 AND s.list = m.list \
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

    /// Takes the contact of a copy off these lists, each with an event of its own; durable when it returns. Gives how many
    /// it was still on: leaving twice is no error.
    pub async fn leave(&self, copy: EnvelopeId, lists: Vec<ListId>, now: Timestamp) -> Result<usize, Error> {
        self.backend
            .write(move |db| {
                let mut left = 0;
                for list in lists {
                    let row = params![copy.contact().0, list.0, now.as_ms()];
                    let changed = db
                        .prepare_cached(
                            "UPDATE memberships SET status = 1, since = ?3 \
                             WHERE contact = ?1 AND list = ?2 AND status <> 1",
                        )?
                        .execute(row)?;
                    if changed > 0 {
                        note_list(db, copy, "unsubscribed", list, now)?;
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
        copy: EnvelopeId,
        list: ListId,
        earliest: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let changed = db.execute(
                    "UPDATE memberships SET status = 0, since = ?4 \
                     WHERE contact = ?1 AND list = ?2 AND status = 1 AND since >= ?3",
                    params![copy.contact().0, list.0, earliest.as_ms(), now.as_ms()],
                )?;
                if changed > 0 {
                    note_list(db, copy, "resubscribed", list, now)?;
                }
                Ok(changed > 0)
            })
            .await
    }

    /// Bars the address of a copy whose recipient called it spam; durable when it returns. Gives whether it was not barred
    /// before; nothing happens once the contact was erased.
    pub async fn complained(&self, copy: EnvelopeId, now: Timestamp) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let found = db
                    .prepare_cached(
                        "SELECT c.address, l.campaign FROM contacts c JOIN launches l ON l.id = ?1 WHERE c.id = ?2",
                    )?
                    .query_row(params![copy.launch().0, copy.contact().0], |row| {
                        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                    })
                    .optional()?;
                let Some((address, campaign)) = found else { return Ok(false) };
                if !has_event(db, copy, "complained")? {
                    note_of(db, copy.contact(), Some(copy.launch()), "complained", &campaign, now)?;
                }
                suppress(db, &SuppressionRow { address, reason: Reason::Complaint, detail: campaign, since: now })
            })
            .await
    }

    /// Until when a contact gets no campaign, by its own wish.
    pub fn paused(&self, contact: ContactId) -> Result<Option<Timestamp>, Error> {
        self.backend.read(|db| {
            let paused = db
                .prepare_cached("SELECT paused FROM contacts WHERE id = ?1")?
                .query_row([contact.0], |row| row.get::<_, Option<i64>>(0))
                .optional()?;
            Ok(paused.flatten().map(Timestamp::from_ms))
        })
    }

    /// Lets the contact of a copy rest until a time, or no longer, with an event; durable when it returns.
    pub async fn pause(&self, copy: EnvelopeId, until: Option<Timestamp>, now: Timestamp) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                let row = params![copy.contact().0, until.map(Timestamp::as_ms)];
                db.execute("UPDATE contacts SET paused = ?2 WHERE id = ?1", row)?;
                let detail = until.map_or_else(String::new, |until| format!("until {until}"));
                let kind = if until.is_some() { "paused" } else { "resumed" };
                note_of(db, copy.contact(), Some(copy.launch()), kind, &detail, now)
            })
            .await
    }

    /// What a contact said about being tracked; nothing when the contact is no longer known.
    pub fn consent(&self, contact: ContactId) -> Result<Consent, Error> {
        self.backend.read(|db| {
            let said = db
                .prepare_cached("SELECT consent FROM contacts WHERE id = ?1")?
                .query_row([contact.0], |row| row.get(0))
                .optional()?;
            Ok(said.map(consent_of).unwrap_or_default())
        })
    }

    /// Records what the recipient of a copy says about being tracked, with an event when it is something else than before;
    /// durable when it returns. What is not said stays as it was.
    pub async fn set_consent(&self, copy: EnvelopeId, consent: Consent, now: Timestamp) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                let contact = copy.contact();
                let Some(known) = db
                    .prepare_cached("SELECT consent FROM contacts WHERE id = ?1")?
                    .query_row([contact.0], |row| row.get(0).map(consent_of))
                    .optional()?
                else {
                    return Ok(());
                };
                let new = Consent { opens: consent.opens.or(known.opens), clicks: consent.clicks.or(known.clicks) };
                if new == known {
                    return Ok(());
                }
                db.execute("UPDATE contacts SET consent = ?2 WHERE id = ?1", params![contact.0, consent_bits(new)])?;
                let word = |said: Option<bool>| said.map_or("nothing", |said| if said { "yes" } else { "no" });
                let detail = format!("opens: {}, clicks: {}", word(new.opens), word(new.clicks));
                note_of(db, contact, Some(copy.launch()), "consent", &detail, now)
            })
            .await
    }

    /// How many recipients of a launch answered it by leaving a list, and how many by calling it spam.
    pub fn answers(&self, launch: LaunchId) -> Result<(u64, u64), Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT count(DISTINCT contact) FILTER (WHERE kind = 'unsubscribed'), \
                 count(DISTINCT contact) FILTER (WHERE kind = 'complained') FROM events \
                 WHERE launch = ?1 AND kind IN ('unsubscribed', 'complained')",
            )?
            .query_row([launch.0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }

    /// Whether the recipient of a copy left a list by it, and whether they called it spam.
    pub fn answered(&self, copy: EnvelopeId) -> Result<(bool, bool), Error> {
        self.backend.read(|db| Ok((has_event(db, copy, "unsubscribed")?, has_event(db, copy, "complained")?)))
    }
}

fn has_event(db: &Connection, copy: EnvelopeId, kind: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM events WHERE launch = ?1 AND kind = ?2 AND contact = ?3")?.exists(params![
        copy.launch().0,
        kind,
        copy.contact().0
    ])
}

fn note_list(db: &Connection, copy: EnvelopeId, kind: &str, list: ListId, now: Timestamp) -> rusqlite::Result<()> {
    let name: String =
        db.prepare_cached("SELECT name FROM lists WHERE id = ?1")?.query_row([list.0], |row| row.get(0))?;
    note_of(db, copy.contact(), Some(copy.launch()), kind, &name, now)
}
