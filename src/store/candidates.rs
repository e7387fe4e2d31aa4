//! Who is meant: the members of a launch's lists as the planner meets them, and as a survey counts them.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params_from_iter};

use super::condition::{Condition, Words};
use super::{Error, Reason, Store};
use crate::base::{ContactId, LaunchId, ListId, Timestamp};

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

/// Why nothing goes to a contact `c` at the time `?2`: it is suppressed, or rests.
const BARRED: &str = "coalesce((SELECT s.reason FROM suppressions s WHERE s.address = c.address), \
     iif(c.paused > ?2, 'paused', NULL))";
/// Whether a contact `c` is subscribed to one of the lists in the JSON `?1`.
const SUBSCRIBED: &str = "EXISTS (SELECT 1 FROM memberships m WHERE m.contact = c.id AND m.status = 0 \
     AND m.list IN (SELECT value FROM json_each(?1)))";

/// Whom a letter is meant for: whoever is subscribed to one of the lists, where the condition holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meant {
    /// The lists.
    pub lists: Vec<ListId>,
    /// What must hold beside; everything does without one.
    pub condition: Option<Condition>,
}

/// A member as a survey meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// The condition does not hold.
    Outside,
    /// Meant, and barred now.
    Barred(Reason),
    /// Meant, and would get a copy.
    Recipient,
}

/// A field that contacts have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldRow {
    /// Its name: that of the imported column.
    pub field: String,
    /// How many of the contacts looked at have it.
    pub contacts: u64,
    /// One of its values.
    pub sample: String,
}

/// Which members are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Page<'a> {
    /// For whom.
    pub launch: LaunchId,
    /// The place of the list among those of the launch.
    pub position: u8,
    /// Those of one bucket.
    pub bucket: u8,
    /// Those behind this one.
    pub after: ContactId,
    /// At most so many.
    pub most: usize,
    /// Only those of a tier as of a time. [`Tier::Everybody`] leaves nobody out, so that who moves from one tier to another
    /// meanwhile is planned all the same.
    pub tier: Option<(Tier, Timestamp)>,
    /// Only those for whom this holds. Whoever is planned already is read all the same: they may be on record and not yet
    /// in the queue.
    pub condition: Option<&'a Condition>,
}

impl Store {
    /// The subscribed members of a launch's list, in order of number.
    pub fn candidates(&self, page: Page<'_>) -> Result<Vec<Candidate>, Error> {
        let Page { launch, position, bucket, after, most, tier, condition } = page;
        let condition = Words::of(condition, 7);
        let day = Duration::from_secs(86_400);
        let (since, which) = match tier {
            None => (None, "?6 IS NULL"),
            Some((Tier::Engaged30, now)) => (Some(now - day * 30), VISITED),
            Some((Tier::Engaged60, now)) => (Some(now - day * 60), VISITED),
            Some((Tier::Engaged90, now)) => (Some(now - day * 90), VISITED),
            Some((Tier::Reached, now)) => (Some(now - day * 90), REACHED),
            Some((Tier::Everybody, now)) => (Some(now), "?6 IS NOT NULL"),
        };
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(&format!(
                "SELECT c.id, c.address, s.reason, p.position, c.paused FROM launch_lists ll \
                 JOIN memberships m ON m.list = ll.list JOIN contacts c ON c.id = m.contact \
                 LEFT JOIN suppressions s ON s.address = c.address \
                 LEFT JOIN copies p ON p.launch = ll.launch AND p.contact = c.id \
                 WHERE ll.launch = ?1 AND ll.position = ?2 AND m.bucket = ?3 AND m.contact > ?4 AND m.status = 0 \
                 AND {which} AND (p.contact IS NOT NULL OR {}) ORDER BY m.contact LIMIT ?5",
                condition.sql
            ))?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let page = [i64::from(launch.0), position.into(), bucket.into(), after.0.into(), most].map(Value::from);
            let since = since.map_or(Value::Null, |since| since.as_ms().into());
            let places = params_from_iter(page.into_iter().chain([since]).chain(condition.values));
            let found = rows.query_map(places, |row| {
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

    /// Shows every subscribed member of the lists to `see`, once each, as they stand now: for the forecast before a launch.
    pub fn survey(&self, meant: &Meant, now: Timestamp, mut see: impl FnMut(&str, Member)) -> Result<(), Error> {
        let condition = Words::of(meant.condition.as_ref(), 3);
        self.backend.read(|db| {
            let survey = format!("SELECT c.address, {BARRED}, {} FROM contacts c WHERE {SUBSCRIBED}", condition.sql);
            let mut rows = db.prepare_cached(&survey)?;
            let mut found = rows.query(params_from_iter(places(&meant.lists, now).chain(condition.values)))?;
            while let Some(row) = found.next()? {
                let (reason, is_meant): (Option<String>, bool) = (row.get(1)?, row.get(2)?);
                let member = match reason {
                    _ if !is_meant => Member::Outside,
                    Some(word) => Member::Barred(Reason::of(&word)),
                    None => Member::Recipient,
                };
                see(row.get_ref(0)?.as_str()?, member);
            }
            Ok(())
        })
    }

    /// The subscribed members of a list behind `after` for whom the condition holds, in order of number.
    pub fn members(
        &self,
        list: ListId,
        condition: Option<&Condition>,
        after: ContactId,
        most: usize,
    ) -> Result<Vec<ContactId>, Error> {
        let condition = Words::of(condition, 4);
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(&format!(
                "SELECT c.id FROM contacts c JOIN memberships m ON m.contact = c.id AND m.list = ?1 AND m.status = 0 \
                 WHERE c.id > ?2 AND {} ORDER BY c.id LIMIT ?3",
                condition.sql
            ))?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let page = [i64::from(list.0), after.0.into(), most].map(Value::from);
            let found = rows.query_map(params_from_iter(page.into_iter().chain(condition.values)), |row| {
                row.get(0).map(ContactId)
            })?;
            found.collect()
        })
    }

    /// What the newest contacts have beside address and name, the most frequent first; at most `most` contacts are looked at.
    pub fn fields(&self, most: usize) -> Result<Vec<FieldRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT f.key, count(*), CAST(max(f.value) AS TEXT) FROM (SELECT fields FROM contacts ORDER BY id DESC LIMIT ?1) c, \
                 json_each(c.fields) f GROUP BY f.key ORDER BY count(*) DESC, f.key LIMIT 100",
            )?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let found = rows.query_map([most], |row| {
                let sample: Option<String> = row.get(2)?;
                Ok(FieldRow { field: row.get(0)?, contacts: row.get(1)?, sample: sample.unwrap_or_default() })
            })?;
            found.collect()
        })
    }

    /// How many members of a launch's lists are not planned yet and would get a copy now; `only` those of one domain, and
    /// those for whom the condition holds.
    pub fn unplanned(
        &self,
        launch: LaunchId,
        only: Option<&str>,
        condition: Option<&Condition>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let condition = Words::of(condition, 4);
        let only = only.map_or(Value::Null, |only| only.to_owned().into());
        self.backend.read(|db| {
            db.prepare_cached(&format!(
                "SELECT count(DISTINCT c.id) FROM launch_lists ll JOIN memberships m ON m.list = ll.list \
                 JOIN contacts c ON c.id = m.contact WHERE ll.launch = ?1 AND m.status = 0 AND {BARRED} IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM copies p WHERE p.launch = ?1 AND p.contact = c.id) \
                 AND (?3 IS NULL OR substr(c.address, -1 - length(?3)) = '@' || ?3 COLLATE NOCASE) AND {}",
                condition.sql
            ))?
            .query_row(
                params_from_iter([launch.0.into(), now.as_ms().into(), only].into_iter().chain(condition.values)),
                |row| row.get(0),
            )
        })
    }

    /// Whether a contact would get a copy of what is meant for these people now: neither suppressed nor resting.
    pub fn is_recipient(&self, contact: ContactId, meant: &Meant, now: Timestamp) -> Result<bool, Error> {
        let condition = Words::of(meant.condition.as_ref(), 4);
        let places = places(&meant.lists, now).chain([contact.0.into()]).chain(condition.values);
        self.backend.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {SUBSCRIBED} AND {BARRED} IS NULL AND {} FROM contacts c WHERE c.id = ?3",
                condition.sql
            ))?
            .query_row(params_from_iter(places), |row| row.get(0))
            .optional()
            .map(|found| found.unwrap_or(false))
        })
    }
}

/// The values of the first two places of [`SUBSCRIBED`] and [`BARRED`].
fn places(lists: &[ListId], now: Timestamp) -> impl Iterator<Item = Value> {
    let lists = serde_json::to_string(lists).expect("numbers are plain JSON");
    [Value::from(lists), now.as_ms().into()].into_iter()
}
