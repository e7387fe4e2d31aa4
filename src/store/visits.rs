//! What readers did with their copies: opened, clicked. One row per copy and link, however often it happens; nothing is kept
//! of where from.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::people::consent_of;
use super::{Error, Store};
use crate::base::{ContactId, EnvelopeId, LaunchId, Timestamp};
use crate::mail::Consent;

/// Whoever comes sooner than this after the delivery is a scanner (U-21).
const TOO_SOON: Duration = Duration::from_secs(5);
/// Three links of a copy within this time are followed by a scanner (U-21).
const BURST: Duration = Duration::from_secs(2);
/// How many links that is.
const BURST_LINKS: u32 = 3;

/// Who seems to have opened a copy or followed a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visitor {
    /// A person.
    Person,
    /// The image proxy of a mail program, most likely because a person opened the message there.
    Proxy,
    /// A scanner, or a program that fetches everything in advance.
    Machine,
}

/// An opened copy or a followed link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// The copy.
    pub copy: EnvelopeId,
    /// The link's number in the edition; `None` for the pixel.
    pub link: Option<u16>,
    /// Who it seems to have been, as far as the request shows.
    pub visitor: Visitor,
    /// When.
    pub at: Timestamp,
}

/// How many copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Readers {
    /// By people, each copy once.
    pub people: u64,
    /// Those of them that were only seen through the image proxy of a mail program.
    pub by_proxy: u64,
    /// By machines alone.
    pub machines: u64,
}

/// One link's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkFigure {
    /// Its number in the edition.
    pub number: u16,
    /// Who followed it, by copies.
    pub readers: Readers,
    /// How often people did.
    pub times: u64,
}

/// What readers did with the copies of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reading {
    /// Copies opened.
    pub opened: Readers,
    /// Copies of which at least one link was followed.
    pub clicked: Readers,
    /// Each link that was followed, by number.
    pub links: Vec<LinkFigure>,
}

/// What a contact did with a copy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VisitRow {
    /// The campaign.
    pub campaign: String,
    /// The link's number in the edition; none for the pixel.
    pub link: Option<u16>,
    /// How often, as people do.
    pub times: u32,
    /// How often, as machines do.
    pub by_machine: u32,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// What one copy's reader did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deeds {
    /// When a person first opened it.
    pub opened: Option<Timestamp>,
    /// When a person first followed a link.
    pub clicked: Option<Timestamp>,
    /// How often people followed links.
    pub clicks: u32,
}

impl Store {
    /// Records visits in one transaction, and marks those that machines made: those that come before or right after the
    /// delivery, and several links in a moment. Nothing is recorded of contacts who were erased, or who said no to it, even
    /// in copies that were sent before (U-19).
    pub async fn record_visits(&self, visits: Vec<Visit>) -> Result<(), Error> {
        self.backend.write(move |db| visits.iter().try_for_each(|visit| record(db, visit))).await
    }

    /// What readers did with the copies of a launch. Reads every visit once, as long as they are on record one by one.
    pub fn reading(&self, launch: LaunchId) -> Result<Reading, Error> {
        self.backend.read(|db| {
            let kept: Option<Option<String>> = db
                .prepare_cached("SELECT reading FROM launches WHERE id = ?1")?
                .query_row([launch.0], |row| row.get(0))
                .optional()?;
            match kept.flatten().and_then(|kept| serde_json::from_str(&kept).ok()) {
                Some(reading) => Ok(reading),
                None => reading_of(db, launch),
            }
        })
    }

    /// How many of a launch's delivered copies went to contacts whose opens, and whose clicks, may be noted now. `silent`:
    /// whether that is so for those who said nothing.
    pub fn consenting(&self, launch: LaunchId, silent: bool) -> Result<(u64, u64), Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT count(*) FILTER (WHERE c.consent & 2 = 0 AND (?2 OR c.consent & 1)), \
                 count(*) FILTER (WHERE c.consent & 8 = 0 AND (?2 OR c.consent & 4)) \
                 FROM copies p JOIN contacts c ON c.id = p.contact WHERE p.launch = ?1 AND p.standing = 2",
            )?
            .query_row(params![launch.0, silent], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }

    /// What the reader of one copy did.
    pub fn deeds(&self, copy: EnvelopeId) -> Result<Deeds, Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT min(first) FILTER (WHERE link = 0), min(first) FILTER (WHERE link > 0), \
                 coalesce(sum(person + proxy) FILTER (WHERE link > 0), 0) FROM visits \
                 WHERE launch = ?1 AND contact = ?2 AND person + proxy > 0",
            )?
            .query_row(params![copy.launch().0, copy.contact().0], |row| {
                let at = |at: Option<i64>| at.map(Timestamp::from_ms);
                Ok(Deeds { opened: at(row.get(0)?), clicked: at(row.get(1)?), clicks: row.get(2)? })
            })
        })
    }

    /// All that is on record of how a contact read, oldest first.
    pub fn visits(&self, contact: ContactId) -> Result<Vec<VisitRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT l.campaign, v.link, v.person + v.proxy, v.machine, v.first, v.last FROM visits v \
                 JOIN launches l ON l.id = v.launch WHERE v.contact = ?1 ORDER BY v.first, v.link",
            )?;
            let visits = rows.query_map([contact.0], |row| {
                Ok(VisitRow {
                    campaign: row.get(0)?,
                    link: row.get::<_, u16>(1)?.checked_sub(1),
                    times: row.get(2)?,
                    by_machine: row.get(3)?,
                    first: Timestamp::from_ms(row.get(4)?),
                    last: Timestamp::from_ms(row.get(5)?),
                })
            })?;
            visits.collect()
        })
    }
}

/// The figures of a launch out of its visits.
pub(super) fn reading_of(db: &Connection, launch: LaunchId) -> rusqlite::Result<Reading> {
    let readers = |sql: &str| {
        db.prepare_cached(sql)?.query_row([launch.0], |row| {
            Ok(Readers { people: row.get(0)?, by_proxy: row.get(1)?, machines: row.get(2)? })
        })
    };
    let opened = readers(
        "SELECT count(*) FILTER (WHERE person + proxy > 0), count(*) FILTER (WHERE person = 0 AND proxy > 0), \
         count(*) FILTER (WHERE person + proxy = 0) FROM visits WHERE launch = ?1 AND link = 0",
    )?;
    let clicked = readers(
        "SELECT count(*) FILTER (WHERE person + proxy > 0), count(*) FILTER (WHERE person = 0 AND proxy > 0), \
         count(*) FILTER (WHERE person + proxy = 0) FROM (SELECT sum(person) AS person, sum(proxy) AS proxy \
         FROM visits WHERE launch = ?1 AND link > 0 GROUP BY contact)",
    )?;
    let mut rows = db.prepare_cached(
        "SELECT link, count(*) FILTER (WHERE person + proxy > 0), \
         count(*) FILTER (WHERE person = 0 AND proxy > 0), count(*) FILTER (WHERE person + proxy = 0), \
         sum(person + proxy) FROM visits WHERE launch = ?1 AND link > 0 GROUP BY link ORDER BY link",
    )?;
    let links = rows.query_map([launch.0], |row| {
        let readers = Readers { people: row.get(1)?, by_proxy: row.get(2)?, machines: row.get(3)? };
        Ok(LinkFigure { number: row.get::<_, u16>(0)? - 1, readers, times: row.get(4)? })
    })?;
    Ok(Reading { opened, clicked, links: links.collect::<rusqlite::Result<_>>()? })
}

fn record(db: &Connection, visit: &Visit) -> rusqlite::Result<()> {
    let (launch, contact) = (visit.copy.launch().0, visit.copy.contact().0);
    let found = db
        .prepare_cached(
            "SELECT c.consent, p.standing, p.at FROM contacts c JOIN copies p ON p.launch = ?1 AND p.contact = c.id \
             JOIN launches l ON l.id = p.launch AND l.reading IS NULL WHERE c.id = ?2",
        )?
        .query_row(params![launch, contact], |row| {
            Ok((consent_of(row.get(0)?), row.get::<_, u8>(1)?, Timestamp::from_ms(row.get(2)?)))
        })
        .optional()?;
    let Some((consent, standing, settled)) = found else { return Ok(()) };
    if !may_be_noted(consent, visit.link) {
        return Ok(());
    }
    // a bounce or a lost answer does not mean that nobody read it
    let on_its_way = !matches!(standing, 2 | 3 | 7);
    let too_soon = standing == 2 && visit.at < settled + TOO_SOON;
    let is_machine = on_its_way || too_soon || visit.link.is_some() && is_burst(db, visit)?;
    let visitor = if is_machine { Visitor::Machine } else { visit.visitor };
    let times = |who| u8::from(visitor == who);
    db.prepare_cached(
        "INSERT INTO visits (launch, contact, link, person, proxy, machine, first, last) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT (launch, contact, link) DO UPDATE SET \
         person = person + excluded.person, proxy = proxy + excluded.proxy, machine = machine + excluded.machine, \
         first = min(first, excluded.first), last = max(last, excluded.last)",
    )?
    .execute(params![
        launch,
        contact,
        visit.link.map_or(0, |number| number + 1),
        times(Visitor::Person),
        times(Visitor::Proxy),
        times(Visitor::Machine),
        visit.at.as_ms()
    ])
    .map(drop)
}

fn may_be_noted(consent: Consent, link: Option<u16>) -> bool {
    let said = if link.is_some() { consent.clicks } else { consent.opens };
    said != Some(false)
}

/// Whether this is one of several links followed in a moment; the others are marked as well.
fn is_burst(db: &Connection, visit: &Visit) -> rusqlite::Result<bool> {
    let (launch, contact) = (visit.copy.launch().0, visit.copy.contact().0);
    let link = visit.link.map_or(0, |number| number + 1);
    let since = visit.at.as_ms() - BURST.as_millis() as i64;
    let others: u32 = db
        .prepare_cached(
            "SELECT count(*) FROM visits WHERE launch = ?1 AND contact = ?2 AND link > 0 AND link <> ?3 AND last >= ?4",
        )?
        .query_row(params![launch, contact, link, since], |row| row.get(0))?;
    if others + 1 < BURST_LINKS {
        return Ok(false);
    }
    db.prepare_cached(
        "UPDATE visits SET machine = machine + person + proxy, person = 0, proxy = 0 \
         WHERE launch = ?1 AND contact = ?2 AND link > 0 AND last >= ?3 AND first >= ?3",
    )?
    .execute(params![launch, contact, since])?;
    Ok(true)
}
