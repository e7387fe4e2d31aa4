//! What tells about single people is forgotten with time (U-13); figures stay. Every step is small, so that nobody who wants
//! something of the record waits long.

use std::net::IpAddr;

use rusqlite::params;

use super::visits::reading_of;
use super::{Error, Store};
use crate::base::{LaunchId, Network, Timestamp};

/// Contacts whose copies are gone through in one step.
const STEP: u32 = 10_000;
/// Rows changed in one step.
const ROWS: usize = 2_000;
/// Kinds of events that prove neither a consent nor its end.
const PASSING: &str = "('auto_reply', 'bounced', 'paused', 'resumed')";

/// What of a launch is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faded {
    /// What hosts said about each copy.
    Words,
    /// Who opened it and followed links, one by one.
    Visits,
}

impl Faded {
    /// What is true of a launch of which it is not forgotten yet.
    fn is_left(self) -> &'static str {
        match self {
            Faded::Words => "wordless = 0",
            Faded::Visits => "visitless = 0",
        }
    }
}

impl Store {
    /// Launches that ended before a time and of which this is not forgotten yet.
    pub fn ended_before(&self, before: Timestamp, what: Faded) -> Result<Vec<LaunchId>, Error> {
        self.backend.read(|db| {
            let sql = format!("SELECT id FROM launches WHERE state IN (2, 3) AND finished < ?1 AND {}", what.is_left());
            db.prepare_cached(&sql)?.query_map([before.as_ms()], |row| row.get(0).map(LaunchId))?.collect()
        })
    }

    /// Forgets what hosts said about each copy of a launch, also in the histories of its recipients; codes and classes stay.
    pub async fn forget_words(&self, launch: LaunchId) -> Result<(), Error> {
        let cut = "UPDATE events SET detail = substr(detail, 1, instr(detail, ':') - 1) \
                   WHERE launch = ?1 AND kind = 'bounced' AND contact BETWEEN ?2 AND ?3 AND instr(detail, ':') > 0";
        self.in_steps(launch, cut).await?;
        self.in_steps(launch, "UPDATE copies SET text = '' WHERE launch = ?1 AND contact BETWEEN ?2 AND ?3 AND standing IN (2, 3) AND text <> ''")
            .await?;
        self.backend
            .write(move |db| db.execute("UPDATE launches SET wordless = 1 WHERE id = ?1", [launch.0]).map(drop))
            .await
    }

    /// Forgets who opened a launch and followed its links. Its figures are put on record before, and count no further visits.
    pub async fn forget_visits(&self, launch: LaunchId) -> Result<(), Error> {
        let reader = self.clone();
        let read = move || reader.backend.read(|db| reading_of(db, launch));
        let reading = tokio::task::spawn_blocking(read).await.map_err(|_| Error::Closed)??;
        let reading = serde_json::to_string(&reading).expect("figures are plain JSON");
        self.backend
            .write(move |db| {
                let row = params![launch.0, reading];
                db.execute("UPDATE launches SET reading = ?2 WHERE id = ?1 AND reading IS NULL", row).map(drop)
            })
            .await?;
        self.in_steps(launch, "DELETE FROM visits WHERE launch = ?1 AND contact BETWEEN ?2 AND ?3").await?;
        self.backend
            .write(move |db| db.execute("UPDATE launches SET visitless = 1 WHERE id = ?1", [launch.0]).map(drop))
            .await
    }

    /// Cuts the addresses from which lists were joined before a time to their networks, and forgets the browsers. Gives how
    /// many.
    pub async fn blur_clients(&self, before: Timestamp) -> Result<usize, Error> {
        let rows: Vec<(u32, String, Option<String>)> = self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT launch, client, confirmed_client FROM signups \
                 WHERE coalesce(confirmed, asked) < ?1 AND client NOT LIKE '%/%' AND client <> 'unknown'",
            )?;
            rows.query_map([before.as_ms()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })?;
        for rows in rows.chunks(ROWS) {
            let rows = rows.to_vec();
            self.backend
                .write(move |db| {
                    let mut blur = db.prepare_cached(
                        "UPDATE signups SET client = ?2, confirmed_client = ?3, agent = '', \
                         confirmed_agent = iif(confirmed_agent IS NULL, NULL, '') WHERE launch = ?1",
                    )?;
                    rows.iter().try_for_each(|(launch, client, confirmed)| {
                        blur.execute(params![launch, network(client), confirmed.as_deref().map(network)]).map(drop)
                    })
                })
                .await?;
        }
        Ok(rows.len())
    }

    /// Forgets the events before a time that prove nothing about consent. Gives how many.
    pub async fn forget_events(&self, before: Timestamp) -> Result<usize, Error> {
        let mut forgotten = 0;
        loop {
            let step = self
                .backend
                .write(move |db| {
                    db.prepare_cached(&format!(
                        "DELETE FROM events WHERE id IN \
                         (SELECT id FROM events WHERE at < ?1 AND kind IN {PASSING} LIMIT {ROWS})"
                    ))?
                    .execute([before.as_ms()])
                })
                .await?;
            forgotten += step;
            if step < ROWS {
                return Ok(forgotten);
            }
        }
    }

    /// Runs a statement on a launch for one range of contacts (`?2` to `?3`) after the other; where the launch has nobody,
    /// numbers are passed over.
    async fn in_steps(&self, launch: LaunchId, sql: &'static str) -> Result<(), Error> {
        let mut next = Some(0);
        while let Some(from) = next {
            let first: Option<u32> = self.backend.read(|db| {
                db.prepare_cached("SELECT min(contact) FROM copies WHERE launch = ?1 AND contact >= ?2")?
                    .query_row((launch.0, from), |row| row.get(0))
            })?;
            let Some(first) = first else { return Ok(()) };
            let last = first.saturating_add(STEP - 1);
            let row = (launch.0, first, last);
            self.backend.write(move |db| db.prepare_cached(sql)?.execute(row).map(drop)).await?;
            next = last.checked_add(1);
        }
        Ok(())
    }
}

/// The network of an address; something else as it is, marked as looked at.
fn network(client: &str) -> String {
    match client.parse::<IpAddr>() {
        Ok(address) => Network::around(address, 24, 48).to_string(),
        Err(_) => "unknown".to_owned(),
    }
}
