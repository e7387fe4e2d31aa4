//! Who is meant: the members of a launch's lists as the planner meets them, and as a survey counts them.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

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

/// Which members are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
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
}

impl Store {
    /// The subscribed members of a launch's list, in order of number.
    pub fn candidates(&self, page: Page) -> Result<Vec<Candidate>, Error> {
        let Page { launch, position, bucket, after, most, tier } = page;
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
                 AND {which} ORDER BY m.contact LIMIT ?5"
            ))?;
            let from = params![launch.0, position, bucket, after.0, most, since.map(Timestamp::as_ms)];
            let found = rows.query_map(from, |row| {
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

    /// Shows every subscribed member of `lists` to `see`, once each, with the reason why it is barred now if it is: for the
    /// forecast before a launch.
    pub fn survey(
        &self,
        lists: &[ListId],
        now: Timestamp,
        mut see: impl FnMut(&str, Option<Reason>),
    ) -> Result<(), Error> {
        let lists = serde_json::to_string(lists).expect("numbers are plain JSON");
        self.backend.read(|db| {
            let survey = format!("SELECT c.address, {BARRED} FROM contacts c WHERE {SUBSCRIBED}");
            let mut rows = db.prepare_cached(&survey)?;
            let mut found = rows.query(params![lists, now.as_ms()])?;
            while let Some(row) = found.next()? {
                let reason: Option<String> = row.get(1)?;
                see(row.get_ref(0)?.as_str()?, reason.map(|word| Reason::of(&word)));
            }
            Ok(())
        })
    }

    /// How many members of a launch's lists are not planned yet and would get a copy now; `only` those of one domain.
    pub fn unplanned(&self, launch: LaunchId, only: Option<&str>, now: Timestamp) -> Result<u64, Error> {
        self.backend.read(|db| {
            db.prepare_cached(&format!(
                "SELECT count(DISTINCT c.id) FROM launch_lists ll JOIN memberships m ON m.list = ll.list \
                 JOIN contacts c ON c.id = m.contact WHERE ll.launch = ?1 AND m.status = 0 AND {BARRED} IS NULL \
                 AND NOT EXISTS (SELECT 1 FROM copies p WHERE p.launch = ?1 AND p.contact = c.id) \
                 AND (?3 IS NULL OR substr(c.address, -1 - length(?3)) = '@' || ?3 COLLATE NOCASE)"
            ))?
            .query_row(params![launch.0, now.as_ms(), only], |row| row.get(0))
        })
    }

    /// Whether a contact would get a copy of what goes to these lists now: subscribed to one of them, and neither suppressed
    /// nor resting.
    pub fn is_recipient(&self, contact: ContactId, lists: &[ListId], now: Timestamp) -> Result<bool, Error> {
        let lists = serde_json::to_string(lists).expect("numbers are plain JSON");
        self.backend.read(|db| {
            db.prepare_cached(&format!("SELECT {SUBSCRIBED} AND {BARRED} IS NULL FROM contacts c WHERE c.id = ?3"))?
                .query_row(params![lists, now.as_ms(), contact.0], |row| row.get(0))
                .optional()
                .map(|found| found.unwrap_or(false))
        })
    }
}
