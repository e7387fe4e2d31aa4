//! Copies: one row per (launch, contact), from the plan to the last outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::people::{note_of, recipient_of};
use super::road::review;
use super::sqlite::{mark, set_mark};
use super::suppressions::suppress;
use super::{Error, Reason, Store, SuppressionRow};
use crate::base::{ContactId, EnvelopeId, LaunchId, Timestamp};
use crate::mail::{Channel, Class, EnhancedCode, Outcome, Recipient, Stage, Standing};

/// A delivery report that comes later than this after the delivery no longer changes what is on record (B-12).
const LATE_MAX: Duration = Duration::from_secs(30 * 86_400);
/// How far back a contact's history is read to judge it, in copies.
const HISTORY_MAX: usize = 50;
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

/// Who decides what an outcome means for the address. It is asked inside the transaction that records the outcome, so
/// that both count or neither; `outcome` answers.
pub trait Judge: Send + Sync + 'static {
    /// What this outcome says about the address, by itself.
    fn weigh(&self, finding: Finding) -> Weight;

    /// Whether an address with this history is barred: what its copies came to, newest first, this one included.
    fn judge(&self, history: &[Mailing]) -> Option<Reason>;
}

/// What is to be weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Where the copy stands now.
    pub standing: Standing,
    /// Why.
    pub class: Class,
    /// What it was deferred for, when it expired.
    pub cause: Option<Class>,
    /// How far the attempt came; `None` when there was none.
    pub stage: Option<Stage>,
    /// Whether a delivery report said so, after the copy was taken.
    pub late: bool,
}

/// What an outcome says about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Nothing against it.
    Nothing,
    /// It is barred at once.
    Bars(Reason),
    /// It depends on what came before.
    Counts,
}

/// A report that a copy, taken before, could not be delivered after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateBounce {
    /// The copy.
    pub copy: EnvelopeId,
    /// Why.
    pub class: Class,
    /// The basic code in the report.
    pub code: Option<u16>,
    /// The status in the report.
    pub enhanced: Option<EnhancedCode>,
    /// The report's words, for a person.
    pub text: String,
    /// When it came in.
    pub at: Timestamp,
}

/// What a late bounce changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The copy was delivered, or in doubt, and now counts as failed.
    Moved,
    /// The copy is not yet on record as delivered; it will count as failed once it is.
    Ahead,
    /// Nothing: it had bounced or failed before, or was never sent.
    Known,
    /// Nothing: it was delivered more than 30 days before.
    TooLate,
    /// Nothing: no such copy was planned.
    Unknown,
}

/// What one copy came to, as part of a contact's history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mailing {
    /// The campaign it was a copy of.
    pub campaign: String,
    /// Where it stands.
    pub standing: Standing,
    /// Why.
    pub class: Option<Class>,
    /// What it was deferred for, when it expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Class>,
    /// How far the last attempt came.
    pub stage: Option<Stage>,
    /// The last answer, codes first.
    pub answer: String,
    /// Whether it bounced after it was delivered.
    pub late: bool,
    /// When it last changed.
    pub at: Timestamp,
}

impl Mailing {
    /// The same, to be weighed; `None` when there was no outcome yet.
    pub fn finding(&self) -> Option<Finding> {
        let Mailing { standing, class, cause, stage, late, .. } = *self;
        Some(Finding { standing, class: class?, cause, stage, late })
    }
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

    /// Copies a batch of outcomes to the record and bars whom the judge says, in one transaction. A batch whose number is
    /// on record already is not counted twice. Gives the outcomes that belong to no planned copy.
    pub async fn settle(
        &self,
        batch: u64,
        mut outcomes: Vec<Outcome>,
        judge: Arc<dyn Judge>,
    ) -> Result<Vec<EnvelopeId>, Error> {
        // in the order of the table, which spares half the work; those of one copy keep theirs
        outcomes.sort_by_key(|outcome| outcome.envelope);
        self.backend
            .write(move |db| {
                if mark(db, "outcome")? >= batch {
                    return Ok(Vec::new());
                }
                let mut sites = Sites::default();
                let mut unplanned = Vec::new();
                for outcome in &outcomes {
                    review(db, outcome)?;
                    match settle_one(db, &mut sites, outcome)? {
                        Some(finding) => weigh(db, &*judge, outcome.envelope, finding, outcome.at)?,
                        None => unplanned.push(outcome.envelope),
                    }
                }
                set_mark(db, "outcome", batch)?;
                Ok(unplanned)
            })
            .await
    }

    /// Records that a copy bounced after it was taken, with its statistics, and bars the address when the judge says so;
    /// durable when it returns. The same report twice counts once.
    pub async fn bounced_late(&self, bounce: LateBounce, judge: Arc<dyn Judge>) -> Result<Late, Error> {
        self.backend
            .write(move |db| {
                let late = record_bounce(db, &bounce)?;
                if matches!(late, Late::Moved | Late::Ahead) {
                    let (contact, launch) = (bounce.copy.contact(), bounce.copy.launch());
                    let detail = format!("{}: {}", bounce.class, bounce.text);
                    note_of(db, contact, Some(launch), "bounced", &detail, bounce.at)?;
                    let finding = Finding {
                        standing: Standing::Failed,
                        class: bounce.class,
                        cause: None,
                        stage: None,
                        late: true,
                    };
                    weigh(db, &*judge, bounce.copy, finding, bounce.at)?;
                }
                Ok(late)
            })
            .await
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

    /// What a contact's copies came to, newest first, at most `most`.
    pub fn history(&self, contact: ContactId, most: usize) -> Result<Vec<Mailing>, Error> {
        self.backend.read(|db| history(db, contact, most))
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

/// Writes one outcome over what is on record of its copy; gives what to weigh, or `None` when it was never planned. A
/// copy whose bounce came in before it was on record that it was, or may have been, taken counts as failed.
fn settle_one(db: &Connection, sites: &mut Sites, outcome: &Outcome) -> rusqlite::Result<Option<Finding>> {
    let site = outcome.site.as_ref().map(|name| sites.number(db, name)).transpose()?;
    let Outcome { state, class: why, stage, .. } = *outcome;
    let copy = outcome.envelope;
    let moved = db
        .prepare_cached(
            "UPDATE copies SET site = coalesce(?3, site), standing = ?4, class = ?5, code = ?6, enhanced = ?7, \
             stage = ?8, text = ?9, host = ?10, tries = ?11, doubtful = ?12, at = ?13, channel = ?14, \
             cause = iif(?5 = 'soft.expired', class, NULL) \
             WHERE launch = ?1 AND contact = ?2 AND NOT (late = 1 AND ?4 IN (2, 7))",
        )?
        .execute(params![
            copy.launch().0,
            copy.contact().0,
            site,
            outcome.state.number(),
            outcome.class.word(),
            outcome.code,
            outcome.enhanced.map(|code| code.to_string()),
            outcome.stage.map(Stage::number),
            outcome.text,
            outcome.host.as_ref().map(|host| host.as_str()),
            outcome.tries,
            // one that the version before left in the outbox does not count the loss that put it in doubt
            outcome.doubtful.max(u8::from(state == Standing::InDoubt)),
            outcome.at.as_ms(),
            outcome.channel.map_or(0, Channel::to_number),
        ])?;
    let found = |cause, late| Some(Finding { standing: state, class: why, cause, stage, late });
    // asked by itself where there is one: RETURNING would open a table of its own for every copy
    let cause = || match why {
        Class::SoftExpired => db
            .prepare_cached("SELECT cause FROM copies WHERE launch = ?1 AND contact = ?2")?
            .query_row(params![copy.launch().0, copy.contact().0], |row| class(row, 0)),
        _ => Ok(None),
    };
    match (moved, state) {
        (1.., _) => Ok(found(cause()?, false)),
        (0, Standing::Delivered | Standing::InDoubt) if settle_bounced(db, site, outcome)? => Ok(found(None, true)),
        (0, _) => Ok(None),
    }
}

/// Settles a copy that was or may have been taken as failed when its bounce was there first; gives whether it was. Of one
/// in doubt the bounce is the answer that was missed.
fn settle_bounced(db: &Connection, site: Option<i64>, outcome: &Outcome) -> rusqlite::Result<bool> {
    let (copy, answered) = (outcome.envelope, u8::from(outcome.state == Standing::InDoubt));
    db.prepare_cached(
        "UPDATE copies SET site = coalesce(?3, site), standing = 3, host = ?4, tries = ?5, doubtful = ?6, at = ?7, channel = ?8 \
         WHERE launch = ?1 AND contact = ?2 AND late = 1",
    )?
    .execute(params![
        copy.launch().0,
        copy.contact().0,
        site,
        outcome.host.as_ref().map(|host| host.as_str()),
        outcome.tries,
        outcome.doubtful.saturating_sub(answered),
        outcome.at.as_ms(),
        outcome.channel.map_or(0, Channel::to_number),
    ])
    .map(|changed| changed > 0)
}

/// Moves a copy that bounced late; gives what that changed. Of one in doubt the bounce is the answer that was missed.
fn record_bounce(db: &Connection, bounce: &LateBounce) -> rusqlite::Result<Late> {
    let copy = bounce.copy;
    let found = db
        .prepare_cached("SELECT standing, late, at FROM copies WHERE launch = ?1 AND contact = ?2")?
        .query_row(params![copy.launch().0, copy.contact().0], |row| {
            Ok((standing(row, 0)?, row.get::<_, bool>(1)?, Timestamp::from_ms(row.get(2)?)))
        })
        .optional()?;
    let answered = u8::from(matches!(found, Some((Standing::InDoubt, _, _))));
    let (now, late) = match found {
        None => return Ok(Late::Unknown),
        Some((_, true, _)) => return Ok(Late::Known),
        Some((Standing::Delivered | Standing::InDoubt, false, at)) if bounce.at.since(at) > LATE_MAX => {
            return Ok(Late::TooLate);
        }
        Some((Standing::Delivered | Standing::InDoubt, false, _)) => (Standing::Failed, Late::Moved),
        Some((Standing::Waiting, false, _)) => (Standing::Waiting, Late::Ahead),
        Some((Standing::Deferred, false, _)) => (Standing::Deferred, Late::Ahead),
        Some((Standing::Failed | Standing::Barred | Standing::Skipped | Standing::Cancelled, false, _)) => {
            return Ok(Late::Known);
        }
    };
    db.prepare_cached(
        "UPDATE copies SET standing = ?3, late = 1, class = ?4, code = ?5, enhanced = ?6, text = ?7, stage = NULL, \
         cause = NULL, doubtful = doubtful - ?8 WHERE launch = ?1 AND contact = ?2",
    )?
    .execute(params![
        copy.launch().0,
        copy.contact().0,
        now.number(),
        bounce.class.word(),
        bounce.code,
        bounce.enhanced.map(|code| code.to_string()),
        bounce.text,
        answered,
    ])?;
    Ok(late)
}

/// Suppresses the address of a copy when the judge says so, and the contact is still there.
fn weigh(
    db: &Connection,
    judge: &dyn Judge,
    copy: EnvelopeId,
    finding: Finding,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let reason = match judge.weigh(finding) {
        Weight::Nothing => None,
        Weight::Bars(reason) => Some(reason),
        Weight::Counts => judge.judge(&history(db, copy.contact(), HISTORY_MAX)?),
    };
    let Some(reason) = reason else { return Ok(()) };
    let bar = db
        .prepare_cached(
            "SELECT c.address, l.campaign, p.code, p.enhanced, p.text FROM copies p JOIN launches l ON l.id = p.launch \
             JOIN contacts c ON c.id = p.contact WHERE p.launch = ?1 AND p.contact = ?2",
        )?
        .query_row(params![copy.launch().0, copy.contact().0], |row| {
            let campaign: String = row.get(1)?;
            let detail = format!("{} in {campaign}: {}", finding.class, answer(row, 2)?);
            Ok(SuppressionRow { address: row.get(0)?, reason, detail, since: at })
        })
        .optional()?;
    bar.map_or(Ok(()), |bar| suppress(db, &bar).map(drop))
}

fn history(db: &Connection, contact: ContactId, most: usize) -> rusqlite::Result<Vec<Mailing>> {
    let mut rows = db.prepare_cached(
        "SELECT l.campaign, p.standing, p.class, p.cause, p.stage, p.code, p.enhanced, p.text, p.late, p.at \
         FROM copies p JOIN launches l ON l.id = p.launch WHERE p.contact = ?1 ORDER BY p.at DESC, p.launch DESC LIMIT ?2",
    )?;
    let mailings = rows.query_map(params![contact.0, most], |row| {
        Ok(Mailing {
            campaign: row.get(0)?,
            standing: standing(row, 1)?,
            class: class(row, 2)?,
            cause: class(row, 3)?,
            stage: stage(row, 4)?,
            answer: answer(row, 5)?,
            late: row.get(8)?,
            at: Timestamp::from_ms(row.get(9)?),
        })
    })?;
    mailings.collect()
}

/// Code, enhanced code and text in three columns from `first`, as one line.
fn answer(row: &Row<'_>, first: usize) -> rusqlite::Result<String> {
    let code: Option<u16> = row.get(first)?;
    let enhanced: Option<String> = row.get(first + 1)?;
    let text: String = row.get(first + 2)?;
    let parts = [code.map(|code| code.to_string()), enhanced, Some(text)];
    let said: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    Ok(said.join(" "))
}

fn standing(row: &Row<'_>, column: usize) -> rusqlite::Result<Standing> {
    let number: u8 = row.get(column)?;
    Standing::from_number(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, i64::from(number)))
}

fn class(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Class>> {
    let word: Option<String> = row.get(column)?;
    Ok(word.map(|word| Class::parse(&word).unwrap_or(Class::Undetermined)))
}

fn stage(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Stage>> {
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
