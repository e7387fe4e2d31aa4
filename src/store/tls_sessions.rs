//! Sessions to be reported to the domains they were with.

use std::sync::Arc;

use rusqlite::params;

use super::{Error, Store};

/// So many sessions alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSessionRow {
    /// The day, in days since 1970, UTC.
    pub day: i64,
    /// The recipients' domain.
    pub domain: String,
    /// The policy that held, in JSON; many rows share one.
    pub policy: Arc<str>,
    /// The mail host; empty where none was reached for.
    pub host: String,
    /// Our address; empty where the system chose it.
    pub source: String,
    /// What failed, in the word of RFC 8460 §4.3; empty: nothing.
    pub result: String,
    /// How many.
    pub sessions: u64,
}

impl Store {
    /// Adds to what was counted before; durable when it returns.
    pub async fn add_tls_sessions(&self, rows: Vec<TlsSessionRow>) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                let mut add = db.prepare_cached(
                    "INSERT INTO tls_sessions (day, domain, policy, host, source, result, sessions) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                     ON CONFLICT (day, domain, policy, host, source, result) DO UPDATE SET sessions = sessions + ?7",
                )?;
                for row in rows {
                    let TlsSessionRow { day, domain, policy, host, source, result, sessions } = row;
                    add.execute(params![day, domain, policy, host, source, result, sessions])?;
                }
                Ok(())
            })
            .await
    }

    /// The days before `day` that are still to be reported, with their domains, behind `after`; at most `most` pairs, the
    /// oldest first.
    pub fn tls_days(&self, day: i64, after: Option<&(i64, String)>, most: usize) -> Result<Vec<(i64, String)>, Error> {
        let (after_day, after_domain) = after.map_or((i64::MIN, ""), |(day, domain)| (*day, domain));
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT DISTINCT day, domain FROM tls_sessions WHERE day < ?1 AND (day, domain) > (?2, ?3) \
                 ORDER BY day, domain LIMIT ?4",
            )?;
            let asked = params![day, after_day, after_domain, most as u64];
            let found = rows.query_map(asked, |row| Ok((row.get(0)?, row.get(1)?)))?;
            found.collect()
        })
    }

    /// The sessions of one day with one domain.
    pub fn tls_sessions(&self, day: i64, domain: &str) -> Result<Vec<TlsSessionRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT policy, host, source, result, sessions FROM tls_sessions WHERE day = ?1 AND domain = ?2 \
                 ORDER BY policy, host, source, result",
            )?;
            let found = rows.query_map(params![day, domain], |row| {
                Ok(TlsSessionRow {
                    day,
                    domain: domain.to_owned(),
                    policy: row.get::<_, String>(0)?.into(),
                    host: row.get(1)?,
                    source: row.get(2)?,
                    result: row.get(3)?,
                    sessions: row.get(4)?,
                })
            })?;
            found.collect()
        })
    }

    /// Forgets the sessions of one day with one domain: they are reported, or nobody wants them.
    pub async fn forget_tls_sessions(&self, day: i64, domain: String) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached("DELETE FROM tls_sessions WHERE day = ?1 AND domain = ?2")?
                    .execute(params![day, domain])
                    .map(drop)
            })
            .await
    }

    /// Forgets every day before `day`; gives how many kinds of sessions that were.
    pub async fn forget_tls_days(&self, day: i64) -> Result<usize, Error> {
        self.backend.write(move |db| db.execute("DELETE FROM tls_sessions WHERE day < ?1", [day])).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::Threads;

    #[tokio::test]
    async fn sessions_add_up_and_are_forgotten_by_day_and_domain() {
        let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap();
        let row = |day, domain: &str, result: &str, sessions| TlsSessionRow {
            day,
            domain: domain.to_owned(),
            policy: "{}".into(),
            host: "mx.example.org".to_owned(),
            source: String::new(),
            result: result.to_owned(),
            sessions,
        };
        let batch = vec![row(7, "b.example", "", 2), row(7, "a.example", "", 1), row(8, "a.example", "", 1)];
        store.add_tls_sessions(batch).await.unwrap();
        store
            .add_tls_sessions(vec![row(7, "b.example", "", 3), row(7, "b.example", "certificate-expired", 1)])
            .await
            .unwrap();
        let days = [(7, "a.example".to_owned()), (7, "b.example".to_owned())];
        assert_eq!(store.tls_days(8, None, 10).unwrap(), days, "not the day that is not over");
        assert_eq!(store.tls_days(8, None, 1).unwrap(), days[..1]);
        assert_eq!(store.tls_days(8, Some(&days[0]), 10).unwrap(), days[1..]);
        let expected = [row(7, "b.example", "", 5), row(7, "b.example", "certificate-expired", 1)];
        assert_eq!(store.tls_sessions(7, "b.example").unwrap(), expected);
        store.forget_tls_sessions(7, "b.example".to_owned()).await.unwrap();
        assert_eq!(store.tls_days(9, None, 10).unwrap(), [(7, "a.example".to_owned()), (8, "a.example".to_owned())]);
        assert_eq!(store.forget_tls_days(8).await.unwrap(), 1);
        assert_eq!(store.tls_days(9, None, 10).unwrap(), [(8, "a.example".to_owned())]);
    }
}
