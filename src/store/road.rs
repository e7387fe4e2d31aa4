//! What happened on the road beside the copies themselves: warm-up, complaints, where launches were stopped, incidents,
//! and replies that nobody understood.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Error, Store};
use crate::base::{LaunchId, Timestamp};
use crate::mail::{Class, Notice, NoticeKind, Outcome, Stage, impersonal};

/// Incidents kept.
const INCIDENTS_MAX: u64 = 10_000;
/// Unknown replies kept.
const REPLIES_MAX: u64 = 1000;

/// How far a source is known at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupRow {
    /// The source, by its name.
    pub source: String,
    /// The site.
    pub site: String,
    /// The state, as it was given.
    pub state: String,
}

/// How a launch fares at a site, as far as breakers look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strain {
    /// The site.
    pub site: Arc<str>,
    /// Copies taken or refused for good.
    pub answers: u64,
    /// Those of them that hit no mailbox.
    pub bounced: u64,
    /// Copies taken.
    pub taken: u64,
    /// Copies called spam.
    pub complained: u64,
}

/// Where a launch was stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// The launch.
    pub launch: LaunchId,
    /// The site; `None`: all of it.
    pub site: Option<Arc<str>>,
    /// Why, in words.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// When a person resumed it.
    pub lifted: Option<Timestamp>,
    /// What had been counted when it was resumed.
    pub counted: Counted,
}

/// What a breaker had counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Copies taken or refused for good.
    pub answers: u64,
    /// Those of them that hit no mailbox.
    pub bounced: u64,
    /// Copies called spam.
    pub complained: u64,
}

/// A reply that no rule explains.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UnknownReply {
    /// Who said it.
    pub site: String,
    /// How far the attempt had come.
    pub stage: Option<Stage>,
    /// Codes and words, without what differs from copy to copy.
    pub reply: String,
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

const STRAIN: &str = "SELECT s.name, sum(t.copies) AS answers, \
     coalesce(sum(t.copies) FILTER (WHERE t.standing = 3 AND t.class LIKE 'hard.%'), 0), \
     coalesce(sum(t.copies) FILTER (WHERE t.standing = 2 OR t.late = 1), 0), \
     (SELECT count(*) FROM events x JOIN copies p ON p.launch = x.launch AND p.contact = x.contact \
     WHERE x.launch = ?1 AND x.kind = 'complained' AND p.site = t.site) \
     FROM tallies t JOIN sites s ON s.id = t.site \
     WHERE t.launch = ?1 AND t.standing IN (2, 3) AND t.copies > 0 GROUP BY t.site HAVING answers >= ?2 ORDER BY s.name";

impl Store {
    /// The state of a source's warm-up at a site.
    pub fn warmup(&self, source: &str, site: &str) -> Result<Option<String>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT state FROM warmups WHERE source = ?1 AND site = ?2")?
                .query_row([source, site], |row| row.get(0))
                .optional()
        })
    }

    /// The states of all sources at all sites.
    pub fn warmups(&self) -> Result<Vec<WarmupRow>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached("SELECT source, site, state FROM warmups ORDER BY site, source")?;
            let found =
                rows.query_map([], |row| Ok(WarmupRow { source: row.get(0)?, site: row.get(1)?, state: row.get(2)? }))?;
            found.collect()
        })
    }

    /// Keeps the state of a warm-up; durable when it returns.
    pub async fn put_warmup(&self, row: WarmupRow, now: Timestamp) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached(
                    "INSERT INTO warmups (source, site, state, at) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (source, site) DO UPDATE SET state = ?3, at = ?4",
                )?
                .execute(params![row.source, row.site, row.state, now.as_ms()])
                .map(drop)
            })
            .await
    }

    /// How many copies at a site were called spam since a time: those of one launch, or of all.
    pub fn complaints_since(&self, site: &str, launch: Option<LaunchId>, since: Timestamp) -> Result<u64, Error> {
        self.backend.read(|db| {
            db.prepare_cached(
                "SELECT count(*) FROM events x JOIN copies p ON p.launch = x.launch AND p.contact = x.contact \
                 JOIN sites s ON s.id = p.site WHERE x.launch IS NOT NULL AND x.kind = 'complained' AND x.at >= ?2 \
                 AND s.name = ?1 AND (?3 IS NULL OR x.launch = ?3)",
            )?
            .query_row(params![site, since.as_ms(), launch.map(|launch| launch.0)], |row| row.get(0))
        })
    }

    /// How a launch fares at its sites with at least `least` answers, by name.
    pub fn strains(&self, launch: LaunchId, least: u64) -> Result<Vec<Strain>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(STRAIN)?;
            let found = rows.query_map(params![launch.0, least], |row| {
                Ok(Strain {
                    site: row.get_ref(0)?.as_str()?.into(),
                    answers: row.get(1)?,
                    bounced: row.get(2)?,
                    taken: row.get(3)?,
                    complained: row.get(4)?,
                })
            })?;
            found.collect()
        })
    }

    /// Records that a launch was stopped: at a site, or as a whole.
    pub async fn stop_launch(
        &self,
        launch: LaunchId,
        site: Option<Arc<str>>,
        why: String,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached(
                    "INSERT INTO breaks (launch, site, why, since) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT (launch, site) DO UPDATE SET why = ?3, since = ?4, lifted = NULL",
                )?
                .execute(params![launch.0, site.as_deref().unwrap_or(""), why, now.as_ms()])
                .map(drop)
            })
            .await
    }

    /// Where launches were stopped, lifted ones included; of all that are not finished, or of one.
    pub fn breaks(&self, launch: Option<LaunchId>) -> Result<Vec<Break>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT b.launch, b.site, b.why, b.since, b.lifted, b.answers, b.bounced, b.complained FROM breaks b \
                 JOIN launches l ON l.id = b.launch WHERE b.launch = ?1 OR ?1 IS NULL AND l.state IN (0, 1) \
                 ORDER BY b.launch, b.site",
            )?;
            let found = rows.query_map([launch.map(|launch| launch.0)], |row| {
                let site: String = row.get(1)?;
                Ok(Break {
                    launch: LaunchId(row.get(0)?),
                    site: (!site.is_empty()).then(|| site.into()),
                    why: row.get(2)?,
                    since: Timestamp::from_ms(row.get(3)?),
                    lifted: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_ms),
                    counted: Counted { answers: row.get(5)?, bounced: row.get(6)?, complained: row.get(7)? },
                })
            })?;
            found.collect()
        })
    }

    /// Records that a person resumed a launch: what was counted so far, at each site it was stopped at and as a whole,
    /// counts no more.
    pub async fn lift_breaks(
        &self,
        launch: LaunchId,
        counted: Vec<(Option<Arc<str>>, Counted)>,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                for (site, Counted { answers, bounced, complained }) in counted {
                    db.prepare_cached(
                        "UPDATE breaks SET lifted = coalesce(lifted, ?3), answers = ?4, bounced = ?5, complained = ?6 \
                         WHERE launch = ?1 AND site = ?2",
                    )?
                    .execute(params![
                        launch.0,
                        site.as_deref().unwrap_or(""),
                        now.as_ms(),
                        answers,
                        bounced,
                        complained
                    ])?;
                }
                Ok(())
            })
            .await
    }

    /// Records what happened on the road.
    pub async fn note_incident(&self, notice: Notice) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached(
                    "INSERT INTO incidents (kind, site, source, launch, text, until, at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    notice.kind.word(),
                    notice.site.as_deref(),
                    notice.source.as_deref(),
                    notice.launch.map(|launch| launch.0),
                    notice.text,
                    notice.until.map(Timestamp::as_ms),
                    notice.at.as_ms()
                ])?;
                db.prepare_cached("DELETE FROM incidents WHERE id <= (SELECT max(id) FROM incidents) - ?1")?
                    .execute([INCIDENTS_MAX])
                    .map(drop)
            })
            .await
    }

    /// What happened on the road between two times, oldest first, at most `most`.
    pub fn incidents(&self, from: Timestamp, to: Timestamp, most: usize) -> Result<Vec<Notice>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT kind, site, source, launch, text, until, at FROM incidents WHERE at BETWEEN ?1 AND ?2 \
                 ORDER BY at, id LIMIT ?3",
            )?;
            let found = rows.query_map(params![from.as_ms(), to.as_ms(), most], |row| {
                let kind: String = row.get(0)?;
                Ok(Notice {
                    kind: NoticeKind::parse(&kind).ok_or(rusqlite::Error::InvalidQuery)?,
                    site: row.get::<_, Option<String>>(1)?.map(Into::into),
                    source: row.get::<_, Option<String>>(2)?.map(Into::into),
                    launch: row.get::<_, Option<u32>>(3)?.map(LaunchId),
                    text: row.get(4)?,
                    until: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_ms),
                    at: Timestamp::from_ms(row.get(6)?),
                })
            })?;
            found.collect()
        })
    }

    /// Replies that no rule explains, the most frequent first.
    pub fn unknown_replies(&self) -> Result<Vec<UnknownReply>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT site, stage, reply, count, first, last FROM unknown_replies ORDER BY count DESC, site, reply",
            )?;
            let found = rows.query_map([], |row| {
                Ok(UnknownReply {
                    site: row.get(0)?,
                    stage: Stage::from_number(row.get(1)?),
                    reply: row.get(2)?,
                    count: row.get(3)?,
                    first: Timestamp::from_ms(row.get(4)?),
                    last: Timestamp::from_ms(row.get(5)?),
                })
            })?;
            found.collect()
        })
    }

    /// Forgets the replies that were reviewed; gives how many.
    pub async fn forget_replies(&self) -> Result<usize, Error> {
        self.backend.write(|db| db.execute("DELETE FROM unknown_replies", [])).await
    }
}

/// Keeps a reply that no rule explains, in the transaction that records the outcome.
pub(super) fn review(db: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let (Class::Undetermined, Some(code), Some(stage)) = (outcome.class, outcome.code, outcome.stage) else {
        return Ok(());
    };
    let enhanced = outcome.enhanced.map(|code| format!(" {code}")).unwrap_or_default();
    let reply = format!("{code}{enhanced} {}", pattern(&outcome.text));
    let site = outcome.site.as_deref().unwrap_or("");
    let known = db
        .prepare_cached(
            "UPDATE unknown_replies SET count = count + 1, last = ?4 WHERE site = ?1 AND stage = ?2 AND reply = ?3",
        )?
        .execute(params![site, stage.number(), reply, outcome.at.as_ms()])?;
    if known > 0 {
        return Ok(());
    }
    db.prepare_cached("INSERT INTO unknown_replies VALUES (?1, ?2, ?3, 1, ?4, ?4)")?.execute(params![
        site,
        stage.number(),
        reply,
        outcome.at.as_ms()
    ])?;
    let count: u64 = db.prepare_cached("SELECT count(*) FROM unknown_replies")?.query_row([], |row| row.get(0))?;
    if count > REPLIES_MAX {
        db.execute(
            "DELETE FROM unknown_replies WHERE (site, stage, reply) IN (SELECT site, stage, reply FROM unknown_replies \
             ORDER BY count, last LIMIT ?1)",
            [REPLIES_MAX / 10],
        )?;
    }
    Ok(())
}

/// Words without addresses, and with `…` for what looks like a number of one message.
fn pattern(text: &str) -> String {
    let is_token = |word: &str| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        word.len() >= 8 && digits >= 3 && !word.contains("://")
    };
    let words = impersonal(text);
    words.split(' ').map(|word| if is_token(word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ContactId, EnvelopeId};
    use crate::mail::{EnhancedCode, Standing};
    use crate::store::Threads;

    const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

    fn store() -> Store {
        Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap()
    }

    fn outcome(contact: u32, text: &str) -> Outcome {
        Outcome {
            envelope: EnvelopeId::new(LaunchId(1), ContactId(contact)),
            state: Standing::Deferred,
            class: Class::Undetermined,
            code: Some(451),
            enhanced: Some(EnhancedCode(4, 0, 0)),
            stage: Some(Stage::To),
            text: text.to_owned(),
            host: None,
            site: Some("odd.example".into()),
            channel: None,
            tries: 1,
            doubtful: 0,
            at: START,
        }
    }

    #[tokio::test]
    async fn unknown_replies_are_counted_together_without_naming_anybody() {
        let store = store();
        let texts = [
            "<ann@odd.example> the moon is wrong (id 4R2hX77q1z)",
            "<bob@odd.example> the moon is wrong (id 99ZZ1234aa)",
        ];
        let seen = move |n: u32| outcome(n, texts[n as usize % 2]);
        store.backend.write(move |db| (0..6).try_for_each(|n| review(db, &seen(n)))).await.unwrap();
        let known = outcome(9, "x");
        let ruled = Outcome { class: Class::SoftSystem, ..known };
        store.backend.write(move |db| review(db, &ruled)).await.unwrap();
        let found = store.unknown_replies().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].count, &*found[0].reply), (6, "451 4.0.0 <address> the moon is wrong (id …"));
        assert_eq!(store.forget_replies().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn no_more_replies_are_kept_than_anybody_reviews() {
        let store = store();
        let many = |n: u32| {
            outcome(
                n,
                &format!(
                    "strange answer {}",
                    data_encoding::BASE32
                        .encode(&n.to_be_bytes())
                        .to_lowercase()
                        .replace(|c: char| c.is_ascii_digit(), "x")
                ),
            )
        };
        store.backend.write(move |db| (0..3000).try_for_each(|n| review(db, &many(n)))).await.unwrap();
        assert!(store.unknown_replies().unwrap().len() <= REPLIES_MAX as usize);
    }

    #[tokio::test]
    async fn warmups_incidents_and_breaks_come_back_as_they_were_kept() {
        let store = store();
        let row = |state: &str| WarmupRow { source: "new".into(), site: "google".into(), state: state.into() };
        store.put_warmup(row("one"), START).await.unwrap();
        store.put_warmup(row("two"), START).await.unwrap();
        assert_eq!(store.warmup("new", "google").unwrap().as_deref(), Some("two"));
        assert_eq!(store.warmups().unwrap(), [row("two")]);
        let notice = Notice {
            kind: NoticeKind::Held,
            site: Some("google".into()),
            source: Some("new".into()),
            launch: Some(LaunchId(3)),
            text: "blocked".into(),
            until: None,
            at: START,
        };
        store.note_incident(notice.clone()).await.unwrap();
        let later = START + std::time::Duration::from_secs(1);
        assert_eq!(store.incidents(START, later, 10).unwrap(), [notice]);
        assert_eq!(store.incidents(later, later, 10).unwrap(), []);
    }
}
