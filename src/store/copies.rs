//! Copies: one row per (launch, contact), as planned, looked at before MAIL, and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::people::recipient_of;
use super::{Error, Reason, Store};
use crate::base::{ContactId, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Channel, Class, Recipient, Stage, Standing};

/// Planned copies recorded by one statement.
const ROWS: usize = 50;

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

/// What the last look needs, as the record has it now. By default there is no such launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookRow {
    /// Where the launch stands; `None` when there is no such launch.
    pub launch: Option<super::LaunchState>,
    /// Whether the contact is still on record.
    pub known: bool,
    /// Why its address is suppressed, if it is.
    pub suppressed: Option<Reason>,
    /// Whether it is subscribed to one of the launch's lists; true for launches without lists.
    pub subscribed: bool,
    /// Until when it rests, by its own wish; `None` for what is no campaign.
    pub paused: Option<Timestamp>,
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
    pub again: u64,
    /// When the last of them came to stand here.
    pub last: Timestamp,
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
    /// How the connection to it was secured.
    pub channel: Option<Channel>,
    /// Attempts.
    pub tries: u16,
    /// How often an answer to it was lost after its final dot, and did not come after all, as a bounce.
    pub doubtful: u8,
    /// How often it was sent again after that: as often, but for the last time where it was not taken since.
    pub again: u8,
    /// Whether it bounced after it was delivered.
    pub late: bool,
    /// When it last changed.
    pub at: Timestamp,
}

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
        self.backend.write_alone(move |db| insert_batch(db, launch, position, &batch, now)).await
    }

    /// How many copies of a launch are on record, and how many of those stand as `Waiting` or later on the road.
    pub fn planned(&self, launch: LaunchId) -> Result<(u64, u64), Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT coalesce(sum(copies), 0), coalesce(sum(copies) FILTER (WHERE standing NOT IN (4, 5)), 0) \
                 FROM tallies WHERE launch = ?1",
            )?
            .query_row([launch.0], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }

    /// How many copies of a launch are not final.
    pub fn unsettled(&self, launch: LaunchId) -> Result<u64, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT coalesce(sum(copies), 0) FROM tallies WHERE launch = ?1 AND standing IN (0, 1)")?
                .query_row([launch.0], |row| row.get(0))
        })
    }

    /// The last look at a copy, right before MAIL: one indexed read.
    pub fn look(&self, copy: EnvelopeId) -> Result<LookRow, Error> {
        self.look_with(copy, |_| Ok(())).map(|(look, ())| look)
    }

    /// The same, with whom it goes to, both of one instant; `None` when the contact or the launch is no longer on record.
    pub fn look_at_recipient(&self, copy: EnvelopeId) -> Result<(LookRow, Option<Recipient>), Error> {
        self.look_with(copy, |row| {
            let is_known: bool = row.get(1)?;
            is_known.then(|| recipient_of(row, 5, copy.contact())).transpose()
        })
    }

    /// One look; `more` is read from the same row, where there is one.
    fn look_with<T: Default>(
        &self,
        copy: EnvelopeId,
        more: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<(LookRow, T), Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT l.state, c.id IS NOT NULL, s.reason, iif(l.kind = 0, c.paused, NULL), \
                 NOT EXISTS (SELECT 1 FROM launch_lists ll WHERE ll.launch = l.id) \
                 OR EXISTS (SELECT 1 FROM launch_lists ll JOIN memberships m ON m.contact = ?2 AND m.list = ll.list \
                 WHERE ll.launch = l.id AND m.status = 0), c.address, c.name, c.fields, c.consent \
                 FROM launches l LEFT JOIN contacts c ON c.id = ?2 LEFT JOIN suppressions s ON s.address = c.address \
                 WHERE l.id = ?1",
            )?
            .query_row(params![copy.launch().0, copy.contact().0], |row| {
                let look = LookRow {
                    launch: Some(super::LaunchState::of(row.get(0)?)?),
                    known: row.get(1)?,
                    suppressed: row.get::<_, Option<String>>(2)?.map(|word| Reason::of(&word)),
                    paused: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_ms),
                    subscribed: row.get(4)?,
                };
                Ok((look, more(row)?))
            })
            .optional()
            .map(Option::unwrap_or_default)
        })
    }

    /// The figures of a launch by site, standing and class, in that order.
    pub fn figures(&self, launch: LaunchId) -> Result<Vec<Figure>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT s.name, t.standing, nullif(t.class, ''), t.late, t.copies, t.tries, t.again, t.last \
                 FROM tallies t JOIN sites s ON s.id = t.site WHERE t.launch = ?1 AND t.copies > 0 \
                 ORDER BY s.name, t.standing, t.class",
            )?;
            let figures = rows.query_map([launch.0], |row| {
                Ok(Figure {
                    site: row.get_ref(0)?.as_str()?.into(),
                    standing: standing(row, 1)?,
                    class: class(row, 2)?,
                    late: row.get(3)?,
                    copies: row.get(4)?,
                    tries: row.get(5)?,
                    again: row.get(6)?,
                    last: Timestamp::from_ms(row.get(7)?),
                })
            })?;
            figures.collect()
        })
    }

    /// One answer that copies were deferred or failed with for this reason, codes first; empty when there is none.
    pub fn sample(&self, launch: LaunchId, standing: Standing, class: Class) -> Result<String, Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT code, enhanced, text FROM copies INDEXED BY copies_in_trouble \
                 WHERE launch = ?1 AND standing IN (1, 3) AND standing = ?2 AND class = ?3 LIMIT 1",
            )?
            .query_row(params![launch.0, standing.number(), class.word()], |row| answer(row, 0))
            .optional()
            .map(Option::unwrap_or_default)
        })
    }

    /// How many copies of a launch were delivered in each span of `width` since `from`; spans without any are absent.
    pub fn deliveries(&self, launch: LaunchId, from: Timestamp, width: Duration) -> Result<Vec<(u32, u64)>, Error> {
        let width = i64::try_from(width.as_millis()).unwrap_or(i64::MAX).max(1);
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT max(at - ?2, 0) / ?3 AS span, count(*) FROM copies WHERE launch = ?1 AND standing = 2 \
                 GROUP BY span ORDER BY span",
            )?;
            let spans = rows.query_map(params![launch.0, from.as_ms(), width], |row| Ok((row.get(0)?, row.get(1)?)))?;
            spans.collect()
        })
    }

    /// At most `most` copies of a launch after `after`, in order of contact.
    pub fn copies(&self, launch: LaunchId, after: ContactId, most: usize) -> Result<Vec<CopyRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT p.contact, coalesce(c.address, ''), s.name, p.standing, p.class, p.code, p.enhanced, p.stage, \
                 p.text, p.host, p.tries, p.doubtful, p.late, p.at, p.channel, p.again FROM copies p JOIN sites s ON s.id = p.site \
                 LEFT JOIN contacts c ON c.id = p.contact WHERE p.launch = ?1 AND p.contact > ?2 \
                 ORDER BY p.contact LIMIT ?3",
            )?;
            let copies = rows.query_map(params![launch.0, after.0, most], copy_row)?;
            copies.collect()
        })
    }

    /// The domains of copies that are neither final nor in doubt and are counted under a site.
    pub fn domains_at(&self, site: &str) -> Result<Vec<String>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT DISTINCT substr(c.address, instr(c.address, '@') + 1) FROM sites s \
                 JOIN copies p ON p.site = s.id AND p.standing IN (0, 1) JOIN contacts c ON c.id = p.contact \
                 WHERE s.name = ?1 ORDER BY 1",
            )?;
            rows.query_map([site], |row| row.get(0))?.collect()
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
pub(super) struct Sites(BTreeMap<Arc<str>, i64>);

impl Sites {
    pub(super) fn number(&mut self, db: &Connection, name: &Arc<str>) -> rusqlite::Result<i64> {
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

pub(super) fn insert_batch(
    db: &Connection,
    launch: LaunchId,
    position: u8,
    batch: &[PlannedRow],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut sites = Sites::default();
    let (many, rest) = batch.as_chunks::<ROWS>();
    for rows in many {
        insert_planned(db, &mut sites, launch, position, rows, now)?;
    }
    rest.iter().try_for_each(|row| insert_planned(db, &mut sites, launch, position, std::slice::from_ref(row), now))
}

/// Records planned copies with one statement: for each statement, not for each row, SQLite keeps what it needs to take it
/// back.
fn insert_planned(
    db: &Connection,
    sites: &mut Sites,
    launch: LaunchId,
    position: u8,
    rows: &[PlannedRow],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let places = (0..rows.len()).map(|row| {
        let first = 4 + row * 4;
        format!("(?1, ?{first}, ?2, ?{}, ?{}, ?{}, ?3)", first + 1, first + 2, first + 3)
    });
    let places = places.collect::<Vec<_>>().join(", ");
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO copies (launch, contact, position, site, standing, text, at) VALUES {places} \
         ON CONFLICT (launch, contact) DO NOTHING"
    ))?;
    insert.raw_bind_parameter(1, launch.0)?;
    insert.raw_bind_parameter(2, position)?;
    insert.raw_bind_parameter(3, now.as_ms())?;
    for (row, first) in rows.iter().zip((4..).step_by(4)) {
        insert.raw_bind_parameter(first, row.contact.0)?;
        insert.raw_bind_parameter(first + 1, sites.number(db, &row.site)?)?;
        insert.raw_bind_parameter(first + 2, row.standing.number())?;
        insert.raw_bind_parameter(first + 3, row.barred.map_or("", Reason::word))?;
    }
    insert.raw_execute().map(drop)
}

/// Code, enhanced code and text in three columns from `first`, as one line.
pub(super) fn answer(row: &Row<'_>, first: usize) -> rusqlite::Result<String> {
    let code: Option<u16> = row.get(first)?;
    let enhanced: Option<String> = row.get(first + 1)?;
    let text: String = row.get(first + 2)?;
    let parts = [code.map(|code| code.to_string()), enhanced, Some(text)];
    let said: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    Ok(said.join(" "))
}

pub(super) fn standing(row: &Row<'_>, column: usize) -> rusqlite::Result<Standing> {
    let number: u8 = row.get(column)?;
    Standing::from_number(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, i64::from(number)))
}

pub(super) fn class(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Class>> {
    let word: Option<String> = row.get(column)?;
    Ok(word.map(|word| Class::parse(&word).unwrap_or(Class::Undetermined)))
}

pub(super) fn stage(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Stage>> {
    let number: Option<u8> = row.get(column)?;
    Ok(number.and_then(Stage::from_number))
}

fn copy_row(row: &Row<'_>) -> rusqlite::Result<CopyRow> {
    Ok(CopyRow {
        contact: ContactId(row.get(0)?),
        address: row.get(1)?,
        site: row.get(2)?,
        standing: standing(row, 3)?,
        class: class(row, 4)?,
        code: row.get(5)?,
        enhanced: row.get(6)?,
        stage: stage(row, 7)?,
        text: row.get(8)?,
        host: row.get(9)?,
        tries: row.get(10)?,
        doubtful: row.get(11)?,
        late: row.get(12)?,
        at: Timestamp::from_ms(row.get(13)?),
        channel: Channel::from_number(row.get(14)?),
        again: row.get(15)?,
    })
}
