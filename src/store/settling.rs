//! What becomes of copies: outcomes and late bounces over what is on record, and what they mean for the address, in one
//! transaction.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::copies::{Sites, answer, class, stage, standing};
use super::people::note_of;
use super::road::review;
use super::sqlite::{mark, set_mark};
use super::suppressions::suppress;
use super::{Error, Reason, Store, SuppressionRow};
use crate::base::{ContactId, EnvelopeId, Timestamp};
use crate::mail::{Channel, Class, EnhancedCode, Outcome, Stage, Standing};

/// A delivery report that comes later than this after the delivery no longer changes what is on record (B-12).
const LATE_MAX: Duration = Duration::from_secs(30 * 86_400);
/// How far back a contact's history is read to judge it, in copies.
const HISTORY_MAX: usize = 50;

/// Who decides what an outcome means for the address. It is asked inside the transaction that records the outcome, so
/// that both count or neither; `outcome` answers.
pub trait Judge: Send + Sync + 'static {
    /// What this outcome says about the address, by itself.
    fn weigh(&self, finding: Finding) -> Weight;

    /// Whether an address with this history is barred: what its copies came to, newest first, this one included.
    fn judge(&self, history: &[Mailing]) -> Option<Reason>;
}

/// Bars nobody: for tests of other things.
#[cfg(test)]
pub struct BarsNobody;

#[cfg(test)]
impl Judge for BarsNobody {
    fn weigh(&self, _: Finding) -> Weight {
        Weight::Nothing
    }

    fn judge(&self, _: &[Mailing]) -> Option<Reason> {
        None
    }
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

impl Store {
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

    /// What a contact's copies came to, newest first, at most `most`.
    pub fn history(&self, contact: ContactId, most: usize) -> Result<Vec<Mailing>, Error> {
        self.backend.read(|db| history(db, contact, most))
    }
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
