//! Copies: one row per (launch, contact), from the plan to the last outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::sqlite::{mark, set_mark};
use super::suppressions::suppress;
use super::{Error, Reason, Store, SuppressionRow};
use crate::base::{ContactId, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Class, Outcome, Stage, Standing};

/// A copy to be recorded before it is admitted to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRow {
    /// For whom.
    pub contact: ContactId,
    /// `Waiting`, or `Barred` or `Skipped` for good.
    pub standing: Standing,
    /// Why it is barred.
    pub barred: Option<Reason>,
    /// The site it is counted under until it is routed: the recipient's domain.
    pub site: Arc<str>,
}

/// What the last look needs, as the record has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookRow {
    /// Where the launch stands; `None` when there is no such launch.
    pub launch: Option<super::LaunchState>,
    /// Whether the contact is still on record.
    pub known: bool,
    /// Why its address is suppressed, if it is.
    pub suppressed: Option<Reason>,
    /// Whether it is subscribed to one of the launch's lists; true for launches without lists.
    pub subscribed: bool,
}

/// An address to be barred together with an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBar {
    /// The contact whose address it is.
    pub contact: ContactId,
    /// Why.
    pub reason: Reason,
    /// The reply, for a person.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
}

/// Copies counted by site, standing and class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The site.
    pub site: Arc<str>,
    /// Where these copies stand.
    pub standing: Standing,
    /// Why, where there is a reason.
    pub class: Option<Class>,
    /// Whether they bounced after they were delivered.
    pub late: bool,
    /// How many.
    pub copies: u64,
    /// Their attempts together.
    pub tries: u64,
    /// How often they were sent again after a lost answer, together.
    pub doubtful: u64,
    /// One of their answers.
    pub sample: String,
}

/// One copy on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRow {
    /// For whom.
    pub contact: ContactId,
    /// The address; empty once the contact was erased.
    pub address: String,
    /// The site.
    pub site: String,
    /// Where it stands.
    pub standing: Standing,
    /// Why.
    pub class: Option<Class>,
    /// The reply code of the last attempt.
    pub code: Option<u16>,
    /// The enhanced code of the last attempt.
    pub enhanced: Option<String>,
    /// How far the last attempt came.
    pub stage: Option<Stage>,
    /// The last answer.
    pub text: String,
    /// The host that gave it.
    pub host: Option<String>,
    /// Attempts.
    pub tries: u16,
    /// How often it was sent again after a lost answer.
    pub doubtful: u8,
    /// Whether it bounced after it was delivered.
    pub late: bool,
    /// When it last changed.
    pub at: Timestamp,
}

/// The numbers under which standings are kept.
const STANDINGS: [Standing; 8] = [
    Standing::Waiting,
    Standing::Deferred,
    Standing::Delivered,
    Standing::Failed,
    Standing::Barred,
    Standing::Skipped,
    Standing::Cancelled,
    Standing::InDoubt,
];

/// The numbers under which stages are kept.
const STAGES: [Stage; 9] = [
    Stage::Route,
    Stage::Print,
    Stage::Connect,
    Stage::Greet,
    Stage::Secure,
    Stage::From,
    Stage::To,
    Stage::Data,
    Stage::Body,
];

impl Store {
    /// Records copies before they are admitted to the queue; those that are on record stay as they are. `position` is the
    /// launch's list they were read from.
    pub async fn record_batch(
        &self,
        launch: LaunchId,
        position: u8,
        batch: Vec<PlannedRow>,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                let mut sites = Sites::default();
                let mut insert = db.prepare_cached(
                    "INSERT INTO copies (launch, contact, position, site, standing, text, at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (launch, contact) DO NOTHING",
                )?;
                for row in &batch {
                    let site = sites.number(db, &row.site)?;
                    let why = row.barred.map_or("", Reason::word);
                    let standing = number(&STANDINGS, row.standing);
                    insert.execute(params![launch.0, row.contact.0, position, site, standing, why, now.as_ms()])?;
                }
                Ok(())
            })
            .await
    }

    /// How many copies of a launch are on record, and how many of those stand as `Waiting` or later on the road.
    pub fn planned(&self, launch: LaunchId) -> Result<(u64, u64), Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT count(*), count(*) FILTER (WHERE standing NOT IN (4, 5)) FROM copies WHERE launch = ?1",
            )?
            .query_row([launch.0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }

    /// How many copies of a launch are not final.
    pub fn unsettled(&self, launch: LaunchId) -> Result<u64, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT count(*) FROM copies WHERE launch = ?1 AND standing IN (0, 1)")?
                .query_row([launch.0], |row| row.get(0))
        })
    }

    /// The last look at a copy, right before MAIL: one indexed read.
    pub fn look(&self, copy: EnvelopeId) -> Result<LookRow, Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT l.state, c.id IS NOT NULL, s.reason, \
                 NOT EXISTS (SELECT 1 FROM launch_lists ll WHERE ll.launch = l.id) \
                 OR EXISTS (SELECT 1 FROM launch_lists ll JOIN memberships m ON m.contact = ?2 AND m.list = ll.list \
                 WHERE ll.launch = l.id AND m.status = 0) \
                 FROM launches l LEFT JOIN contacts c ON c.id = ?2 LEFT JOIN suppressions s ON s.address = c.address \
                 WHERE l.id = ?1",
            )?
            .query_row(params![copy.launch().0, copy.contact().0], |row| {
                Ok(LookRow {
                    launch: Some(super::LaunchState::of(row.get(0)?)?),
                    known: row.get(1)?,
                    suppressed: row.get::<_, Option<String>>(2)?.map(|word| Reason::of(&word)),
                    subscribed: row.get(3)?,
                })
            })
            .optional()
            .map(|found| found.unwrap_or(LookRow { launch: None, known: false, suppressed: None, subscribed: false }))
        })
    }

    /// Copies a batch of outcomes to the record, with the bars that follow from them, in one transaction. A batch whose
    /// number is on record already is not counted twice.
    pub async fn settle(&self, batch: u64, outcomes: Vec<Outcome>, bars: Vec<NewBar>) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                if mark(db, "outcome")? >= batch {
                    return Ok(());
                }
                let mut sites = Sites::default();
                for outcome in &outcomes {
                    settle_one(db, &mut sites, outcome)?;
                }
                for bar in &bars {
                    bar_contact(db, bar)?;
                }
                set_mark(db, "outcome", batch)
            })
            .await
    }

    /// The figures of a launch by site, standing and class, in that order.
    pub fn figures(&self, launch: LaunchId) -> Result<Vec<Figure>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT s.name, p.standing, p.class, p.late, count(*), sum(p.tries), sum(p.doubtful), max(p.text) \
                 FROM copies p JOIN sites s ON s.id = p.site WHERE p.launch = ?1 \
                 GROUP BY s.name, p.standing, p.class, p.late ORDER BY s.name, p.standing, p.class",
            )?;
            let figures = rows.query_map([launch.0], |row| {
                Ok(Figure {
                    site: row.get_ref(0)?.as_str()?.into(),
                    standing: standing(row, 1)?,
                    class: class(row, 2)?,
                    late: row.get(3)?,
                    copies: row.get(4)?,
                    tries: row.get(5)?,
                    doubtful: row.get(6)?,
                    sample: row.get(7)?,
                })
            })?;
            figures.collect()
        })
    }

    /// At most `most` copies of a launch after `after`, in order of contact.
    pub fn copies(&self, launch: LaunchId, after: ContactId, most: usize) -> Result<Vec<CopyRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT p.contact, coalesce(c.address, ''), s.name, p.standing, p.class, p.code, p.enhanced, p.stage, \
                 p.text, p.host, p.tries, p.doubtful, p.late, p.at FROM copies p JOIN sites s ON s.id = p.site \
                 LEFT JOIN contacts c ON c.id = p.contact WHERE p.launch = ?1 AND p.contact > ?2 \
                 ORDER BY p.contact LIMIT ?3",
            )?;
            let copies = rows.query_map(params![launch.0, after.0, most], copy_row)?;
            copies.collect()
        })
    }

    /// One copy, if it was planned.
    pub fn copy(&self, copy: EnvelopeId) -> Result<Option<CopyRow>, Error> {
        let before = ContactId(copy.contact().0.wrapping_sub(1));
        let found = self.copies(copy.launch(), before, 1)?.pop();
        Ok(found.filter(|row| row.contact == copy.contact()))
    }
}

/// The numbers of site names, looked up once per batch.
#[derive(Default)]
struct Sites(BTreeMap<Arc<str>, i64>);

impl Sites {
    fn number(&mut self, db: &Connection, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(number) = self.0.get(name) {
            return Ok(*number);
        }
        let known = db
            .prepare_cached("SELECT id FROM sites WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let number = match known {
            Some(number) => number,
            None => {
                db.prepare_cached("INSERT INTO sites (name) VALUES (?1)")?.execute([name])?;
                db.last_insert_rowid()
            }
        };
        self.0.insert(name.clone(), number);
        Ok(number)
    }
}

fn settle_one(db: &Connection, sites: &mut Sites, outcome: &Outcome) -> rusqlite::Result<()> {
    let site = outcome.site.as_ref().map(|name| sites.number(db, name)).transpose()?;
    db.prepare_cached(
        "UPDATE copies SET site = coalesce(?3, site), standing = ?4, class = ?5, code = ?6, enhanced = ?7, \
         stage = ?8, text = ?9, host = ?10, tries = ?11, doubtful = ?12, at = ?13 WHERE launch = ?1 AND contact = ?2",
    )?
    .execute(params![
        outcome.envelope.launch().0,
        outcome.envelope.contact().0,
        site,
        number(&STANDINGS, outcome.state),
        outcome.class.word(),
        outcome.code,
        outcome.enhanced.map(|code| code.to_string()),
        outcome.stage.map(|stage| number(&STAGES, stage)),
        outcome.text,
        outcome.host.as_ref().map(|host| host.as_str()),
        outcome.tries,
        outcome.doubtful,
        outcome.at.as_ms(),
    ])
    .map(drop)
}

/// Suppresses a contact's address, if the contact is still there.
fn bar_contact(db: &Connection, bar: &NewBar) -> rusqlite::Result<()> {
    let address: Option<String> = db
        .prepare_cached("SELECT address FROM contacts WHERE id = ?1")?
        .query_row([bar.contact.0], |row| row.get(0))
        .optional()?;
    let Some(address) = address else { return Ok(()) };
    let row = SuppressionRow { address, reason: bar.reason, detail: bar.detail.clone(), since: bar.since };
    suppress(db, &row).map(drop)
}

fn number<T: PartialEq>(table: &[T], value: T) -> i64 {
    table.iter().position(|known| *known == value).expect("the table lists every value") as i64
}

fn standing(row: &Row<'_>, column: usize) -> rusqlite::Result<Standing> {
    let number: usize = row.get(column)?;
    STANDINGS.get(number).copied().ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number as i64))
}

fn class(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Class>> {
    let word: Option<String> = row.get(column)?;
    Ok(word.map(|word| Class::parse(&word).unwrap_or(Class::Undetermined)))
}

fn copy_row(row: &Row<'_>) -> rusqlite::Result<CopyRow> {
    let stage: Option<usize> = row.get(7)?;
    Ok(CopyRow {
        contact: ContactId(row.get(0)?),
        address: row.get(1)?,
        site: row.get(2)?,
        standing: standing(row, 3)?,
        class: class(row, 4)?,
        code: row.get(5)?,
        enhanced: row.get(6)?,
        stage: stage.and_then(|number| STAGES.get(number).copied()),
        text: row.get(8)?,
        host: row.get(9)?,
        tries: row.get(10)?,
        doubtful: row.get(11)?,
        late: row.get(12)?,
        at: Timestamp::from_ms(row.get(13)?),
    })
}
