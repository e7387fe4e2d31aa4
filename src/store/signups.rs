//! Subscriptions that somebody asked for on a page, and that count once whoever has the mailbox confirms them (U-08, U-09).
//! What is kept of it is the proof of consent.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::launches::insert_launch;
use super::people::{insert_contact, note_of};
use super::{Error, LaunchKind, LaunchOptions, NewContact, NewLaunch, Store};
use crate::base::{Address, CampaignName, ContactId, EditionId, EnvelopeId, LaunchId, ListId, Timestamp, bucket};
use crate::mail::InDoubt;

/// Requests that one address may cause within a day, whatever it is asked to join.
const PER_ADDRESS: u32 = 3;
/// Requests that one client may cause within an hour.
const PER_CLIENT: u32 = 20;
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// Somebody who wants to join a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSignup {
    /// The address they gave.
    pub address: Address,
    /// The list.
    pub list: ListId,
    /// The request to confirm.
    pub edition: EditionId,
    /// Its campaign's name.
    pub campaign: CampaignName,
    /// The host it is sent through, if it is not sent to the recipient's own.
    pub via: Option<String>,
    /// What the page said they agree to.
    pub consent: String,
    /// The page.
    pub form: String,
    /// The client's address on the network.
    pub client: String,
    /// What the browser calls itself.
    pub agent: String,
}

/// A subscription that was asked for, and the proof of it once it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SignupRow {
    /// The launch of the request to confirm.
    pub launch: LaunchId,
    /// The address given.
    pub address: String,
    /// The list's name.
    pub list: String,
    /// What the page said they agree to.
    pub consent: String,
    /// The page.
    pub form: String,
    /// The client's address on the network.
    pub client: String,
    /// What the browser called itself.
    pub agent: String,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it was confirmed.
    pub confirmed: Option<Timestamp>,
    /// From where.
    pub confirmed_client: Option<String>,
    /// By which browser.
    pub confirmed_agent: Option<String>,
}

/// What became of a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The contact is on the list.
    Joined,
    /// It was confirmed before; nothing changed.
    Known,
    /// It was asked for too long ago, or never.
    Gone,
}

const SIGNUP: &str = "SELECT s.launch, s.address, l.name, s.consent, s.form, s.client, s.agent, s.asked, s.confirmed, \
     s.confirmed_client, s.confirmed_agent FROM signups s JOIN lists l ON l.id = s.list";

impl Store {
    /// Records that somebody wants to join a list, with the request to confirm as a launch of its own. `None`: nothing is to
    /// be sent, because the address is on the list or suppressed, or because it or the client asked too often.
    pub async fn sign_up(&self, new: NewSignup, now: Timestamp) -> Result<Option<EnvelopeId>, Error> {
        self.backend
            .write(move |db| match is_welcome(db, &new, now)? {
                true => ask_to_confirm(db, &new, now).map(Some),
                false => Ok(None),
            })
            .await
    }

    /// The subscription that a request to confirm is about; `None` when it is not known any more.
    pub fn signup(&self, copy: EnvelopeId) -> Result<Option<SignupRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached(&format!("{SIGNUP} WHERE s.launch = ?1 AND s.contact = ?2"))?
                .query_row(params![copy.launch().0, copy.contact().0], signup_row)
                .optional()
        })
    }

    /// All subscriptions that a contact asked for, oldest first.
    pub fn signups(&self, contact: ContactId) -> Result<Vec<SignupRow>, Error> {
        self.backend.read(|db| {
            db.prepare_cached(&format!("{SIGNUP} WHERE s.contact = ?1 ORDER BY s.asked"))?
                .query_map([contact.0], signup_row)?
                .collect()
        })
    }

    /// Puts whoever confirms on the list, when it was asked for at or after `earliest`; durable when it returns. `traces` are
    /// the hashes that the address may have left when it was erased: a new consent brings it back.
    pub async fn confirm(
        &self,
        copy: EnvelopeId,
        earliest: Timestamp,
        (client, agent): (String, String),
        traces: Vec<[u8; 32]>,
        now: Timestamp,
    ) -> Result<Confirmation, Error> {
        self.backend
            .write(move |db| {
                let found = db
                    .prepare_cached("SELECT list, asked, confirmed FROM signups WHERE launch = ?1 AND contact = ?2")?
                    .query_row(params![copy.launch().0, copy.contact().0], |row| {
                        Ok((ListId(row.get(0)?), row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
                    })
                    .optional()?;
                let list = match found {
                    Some((_, _, Some(_))) => return Ok(Confirmation::Known),
                    Some((list, asked, None)) if asked >= earliest.as_ms() => list,
                    Some(_) | None => return Ok(Confirmation::Gone),
                };
                db.execute(
                    "UPDATE signups SET confirmed = ?2, confirmed_client = ?3, confirmed_agent = ?4 WHERE launch = ?1",
                    params![copy.launch().0, now.as_ms(), client, agent],
                )?;
                for trace in &traces {
                    db.execute("DELETE FROM erased WHERE hash = ?1", [trace])?;
                }
                join(db, copy.contact(), list, 0, now)?;
                let name: String = db.query_row("SELECT name FROM lists WHERE id = ?1", [list.0], |row| row.get(0))?;
                note_of(db, copy.contact(), Some(copy.launch()), "confirmed", &name, now)?;
                Ok(Confirmation::Joined)
            })
            .await
    }

    /// Forgets subscriptions that were asked for before `before` and never confirmed, and whoever is known by nothing else.
    /// Gives how many.
    pub async fn forget_signups(&self, before: Timestamp) -> Result<usize, Error> {
        self.backend
            .write(move |db| {
                let before = before.as_ms();
                db.execute(
                    "DELETE FROM memberships WHERE status = 2 AND source IS NULL AND (contact, list) IN \
                     (SELECT contact, list FROM signups GROUP BY contact, list \
                     HAVING max(asked) < ?1 AND max(confirmed) IS NULL)",
                    [before],
                )?;
                db.execute(
                    "DELETE FROM contacts WHERE id IN (SELECT contact FROM signups WHERE confirmed IS NULL AND asked < ?1) \
                     AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.contact = contacts.id) \
                     AND NOT EXISTS (SELECT 1 FROM signups s WHERE s.contact = contacts.id AND s.asked >= ?1) \
                     AND NOT EXISTS (SELECT 1 FROM copies p JOIN launches l ON l.id = p.launch \
                     WHERE p.contact = contacts.id AND l.kind <> 2)",
                    [before],
                )?;
                // those of a contact that is gone went with it
                let left = db.execute("DELETE FROM signups WHERE confirmed IS NULL AND asked < ?1", [before])?;
                Ok(left)
            })
            .await
    }
}

/// Whether a request may be sent: not to whoever is there or barred, and not too often.
fn is_welcome(db: &Connection, new: &NewSignup, now: Timestamp) -> rusqlite::Result<bool> {
    let address = new.address.to_string();
    let asked_by = |column: &str, value: &str, since: Duration| {
        db.prepare_cached(&format!("SELECT count(*) FROM signups WHERE {column} = ?1 AND asked > ?2"))?
            .query_row(params![value, (now - since).as_ms()], |row| row.get::<_, u32>(0))
    };
    if asked_by("address", &address, DAY)? >= PER_ADDRESS || asked_by("client", &new.client, HOUR)? >= PER_CLIENT {
        return Ok(false);
    }
    db.prepare_cached(
        "SELECT NOT EXISTS (SELECT 1 FROM suppressions WHERE address = ?1) AND NOT EXISTS (SELECT 1 FROM memberships m \
         JOIN contacts c ON c.id = m.contact WHERE c.address = ?1 AND m.list = ?2 AND m.status = 0)",
    )?
    .query_row(params![address, new.list.0], |row| row.get(0))
}

fn ask_to_confirm(db: &Connection, new: &NewSignup, now: Timestamp) -> rusqlite::Result<EnvelopeId> {
    let address = new.address.to_string();
    let domain = new.address.domain();
    let contact = NewContact {
        address: new.address.clone(),
        name: String::new(),
        fields: serde_json::Map::new(),
        bucket: bucket(domain),
    };
    let contact = match insert_contact(db, &contact, now)? {
        Some(made) => made,
        None => db.query_row("SELECT id FROM contacts WHERE address = ?1", [&address], |row| row.get(0))?,
    };
    join(db, ContactId(contact), new.list, 2, now)?;
    let launch = NewLaunch {
        campaign: new.campaign.clone(),
        kind: LaunchKind::Confirmation,
        edition: new.edition,
        in_doubt: InDoubt::Resend,
        options: LaunchOptions { via: new.via.clone(), ..LaunchOptions::default() },
        lists: Vec::new(),
    };
    let launch = insert_launch(db, &launch, now)?;
    db.execute("INSERT OR IGNORE INTO sites (name) VALUES (?1)", [domain.as_str()])?;
    db.execute(
        "INSERT INTO copies (launch, contact, position, site, standing, at) \
         SELECT ?1, ?2, 0, id, 0, ?4 FROM sites WHERE name = ?3",
        params![launch.0, contact, domain.as_str(), now.as_ms()],
    )?;
    db.execute(
        "INSERT INTO signups (launch, contact, address, list, consent, form, client, agent, asked) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![launch.0, contact, address, new.list.0, new.consent, new.form, new.client, new.agent, now.as_ms()],
    )?;
    let copy = EnvelopeId::new(launch, ContactId(contact));
    note_of(db, copy.contact(), Some(launch), "asked to join", &new.form, now)?;
    Ok(copy)
}

/// Puts a contact on a list with this status. Pending is only for those who are in no way on it.
fn join(db: &Connection, contact: ContactId, list: ListId, status: u8, now: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO memberships (contact, list, bucket, status, since) SELECT id, ?2, bucket, ?3, ?4 FROM contacts \
         WHERE id = ?1 ON CONFLICT (contact, list) DO UPDATE SET status = 0, since = excluded.since \
         WHERE excluded.status = 0 AND status <> 0",
    )?
    .execute(params![contact.0, list.0, status, now.as_ms()])
    .map(drop)
}

fn signup_row(row: &Row<'_>) -> rusqlite::Result<SignupRow> {
    Ok(SignupRow {
        launch: LaunchId(row.get(0)?),
        address: row.get(1)?,
        list: row.get(2)?,
        consent: row.get(3)?,
        form: row.get(4)?,
        client: row.get(5)?,
        agent: row.get(6)?,
        asked: Timestamp::from_ms(row.get(7)?),
        confirmed: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_ms),
        confirmed_client: row.get(9)?,
        confirmed_agent: row.get(10)?,
    })
}
