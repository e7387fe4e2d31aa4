//! What keeps the record and the queue together, and brings one back without the other: marks, a new queue from the
//! record, strays, backup.

use std::fs::File;
use std::path::Path;

use rusqlite::{OptionalExtension, params};

use super::launches::state_of;
use super::sqlite::{make_private, mark, set_mark};
use super::{Error, LaunchState, Store};
use crate::base::{ContactId, LaunchId, Timestamp};
use crate::mail::Standing;

/// Numbers that are passed over where a record may have been set back: more than anybody gives out between two backups.
const PASSED_OVER: u32 = 1 << 24;
/// Numbers that may be used or passed over; the others are kept for those who come.
const NUMBERS: u32 = u32::MAX / 2;

/// Where a queue lies, as numbers by which a copy of its files is told from them; 0 where one is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuePlace {
    /// The number that the file system has for its folder.
    pub folder: u64,
    /// The same for its file.
    pub file: u64,
    /// When its file was made, in seconds since 1970.
    pub made: u64,
}

/// By what a store and a queue prove that they belong together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreMarks {
    /// The number both were opened with last; 0 in a new store.
    pub epoch: u64,
    /// The number they were about to take when the process ended; else the same.
    pub next_epoch: u64,
    /// Where the queue lay.
    pub place: QueuePlace,
    /// The number of the last batch of outcomes on record; 0 when there is none.
    pub last_outcome: u64,
}

/// A copy that was held in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoubtRow {
    /// Whose.
    pub contact: ContactId,
    /// The contact's address.
    pub address: String,
    /// Attempts so far.
    pub tries: u16,
    /// How often an answer to it was lost.
    pub doubtful: u8,
}

impl Store {
    /// The marks, as of one instant.
    pub fn marks(&self) -> Result<StoreMarks, Error> {
        self.backend.read(|db| {
            let (epoch, next) = (mark(db, "epoch")?, mark(db, "next_epoch")?);
            Ok(StoreMarks {
                epoch,
                next_epoch: next.max(epoch),
                place: QueuePlace {
                    folder: mark(db, "place")?,
                    file: mark(db, "place_file")?,
                    made: mark(db, "place_made")?,
                },
                last_outcome: mark(db, "outcome")?,
            })
        })
    }

    /// Says which epoch the queue is about to get, and where it lies. [`Store::set_epoch`] follows once the queue has it:
    /// so a crash between the two is told from a queue that was set back.
    pub async fn announce_epoch(&self, epoch: u64, place: QueuePlace) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                set_mark(db, "next_epoch", epoch)?;
                set_mark(db, "place", place.folder)?;
                set_mark(db, "place_file", place.file)?;
                set_mark(db, "place_made", place.made)
            })
            .await
    }

    /// Gives out no number of a contact or a launch for a while that may have been given out before: a record that was set
    /// back does not know, and whatever comes back to one of its letters must not count for somebody else. A whole number of
    /// ranges is passed over, which `roll` chooses, at most a quarter of those that are left: so where the same record is set
    /// back twice, both hardly go on in the same range. Once half of all numbers are used or passed over, no more are; that
    /// is said in the log.
    pub async fn pass_over_ids(&self, roll: u64) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                for table in ["contacts", "launches"] {
                    let find = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
                    let found: Option<u32> = db.query_row(find, [table], |row| row.get(0)).optional()?;
                    let used = found.unwrap_or(0);
                    let left = NUMBERS.saturating_sub(used) / PASSED_OVER;
                    if left == 0 {
                        tracing::warn!("the numbers of {table} are half used: none are passed over any more");
                        continue;
                    }
                    let ranges = 1 + (roll % u64::from((left / 4).max(1))) as u32;
                    let go_on = match found {
                        Some(_) => "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1",
                        // a table that never had a row
                        None => "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)",
                    };
                    db.execute(go_on, params![table, used + ranges * PASSED_OVER])?;
                }
                Ok(())
            })
            .await
    }

    /// How far each bucket of a launch is on record: bucket, position of the list, contact.
    pub fn recorded_to(&self, launch: LaunchId) -> Result<Vec<(u8, u8, ContactId)>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT c.bucket, max(p.position * 4294967296 + p.contact) FROM copies p \
                 JOIN contacts c ON c.id = p.contact WHERE p.launch = ?1 GROUP BY c.bucket",
            )?;
            let found = rows.query_map([launch.0], |row| {
                let furthest: u64 = row.get(1)?;
                Ok((row.get(0)?, (furthest >> 32) as u8, ContactId(furthest as u32)))
            })?;
            found.collect()
        })
    }

    /// Makes every copy of a launch that is not final one in doubt, for a person to decide; gives how many there were.
    pub async fn hold_unsettled(&self, launch: LaunchId, why: &'static str, now: Timestamp) -> Result<u64, Error> {
        self.close_unsettled(launch, Standing::InDoubt, why, now).await
    }

    /// Takes every copy of a launch that is held in doubt up again, as deferred and sent once more; a launch that was done
    /// runs again. Gives them; those whose contact was erased stay as they are, and all do in a launch that is paused or
    /// cancelled.
    pub async fn take_up_doubts(
        &self,
        launch: LaunchId,
        why: &'static str,
        now: Timestamp,
    ) -> Result<Vec<DoubtRow>, Error> {
        self.backend
            .write(move |db| {
                if !matches!(state_of(db, launch)?, Some(LaunchState::Running | LaunchState::Done)) {
                    return Ok(Vec::new());
                }
                let mut rows = db.prepare(
                    "SELECT p.contact, c.address, p.tries, p.doubtful FROM copies p JOIN contacts c ON c.id = p.contact \
                     WHERE p.launch = ?1 AND p.standing = 7",
                )?;
                let doubts = rows.query_map([launch.0], |row| {
                    let (tries, doubtful) = (row.get(2)?, row.get(3)?);
                    Ok(DoubtRow { contact: ContactId(row.get(0)?), address: row.get(1)?, tries, doubtful })
                })?;
                let doubts: Vec<DoubtRow> = doubts.collect::<Result<_, _>>()?;
                let mut take_up = db.prepare(
                    "UPDATE copies SET standing = 1, class = 'soft.system', text = ?3, at = ?4 \
                     WHERE launch = ?1 AND contact = ?2",
                )?;
                for doubt in &doubts {
                    take_up.execute(params![launch.0, doubt.contact.0, why, now.as_ms()])?;
                }
                if !doubts.is_empty() {
                    db.execute("UPDATE launches SET state = 0, finished = NULL WHERE id = ?1", [launch.0])?;
                }
                Ok(doubts)
            })
            .await
    }

    /// Puts copies back in doubt that were taken up and are nowhere on the road: a crash came between.
    pub async fn doubt_strays(&self, launch: LaunchId, why: &'static str, now: Timestamp) -> Result<u64, Error> {
        self.backend
            .write(move |db| {
                let changed = db.execute(
                    "UPDATE copies SET standing = 7, text = ?2, at = ?3 \
                     WHERE launch = ?1 AND standing = 1 AND doubtful > 0",
                    params![launch.0, why, now.as_ms()],
                )?;
                Ok(changed as u64)
            })
            .await
    }

    /// Bars every copy of a launch that is not final: only for those that are known to be nowhere on the road, because
    /// their contact left between the plan and the queue. Gives how many there were.
    pub async fn bar_strays(&self, launch: LaunchId, why: &'static str, now: Timestamp) -> Result<u64, Error> {
        self.close_unsettled(launch, Standing::Barred, why, now).await
    }

    /// Cancels every copy of a cancelled launch that is not final: only for those that are known to be nowhere on the road,
    /// because they were recorded and never admitted. Gives how many there were.
    pub async fn cancel_strays(&self, launch: LaunchId, why: &'static str, now: Timestamp) -> Result<u64, Error> {
        self.close_unsettled(launch, Standing::Cancelled, why, now).await
    }

    /// Cancelled launches with copies that are not final.
    pub fn cancelled_with_strays(&self) -> Result<Vec<LaunchId>, Error> {
        self.backend.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT id FROM launches l WHERE state = 2 AND EXISTS \
                 (SELECT 1 FROM tallies t WHERE t.launch = l.id AND t.standing IN (0, 1) AND t.copies > 0)",
            )?;
            rows.query_map([], |row| row.get(0).map(LaunchId))?.collect()
        })
    }

    /// What is to be in doubt may have been sent, and its answer lost.
    async fn close_unsettled(
        &self,
        launch: LaunchId,
        standing: Standing,
        why: &'static str,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.backend
            .write(move |db| {
                let lost = u8::from(standing == Standing::InDoubt);
                let changed = db.execute(
                    "UPDATE copies SET standing = ?2, text = ?3, doubtful = min(doubtful + ?4, 255), at = ?5 \
                     WHERE launch = ?1 AND standing IN (0, 1)",
                    params![launch.0, standing.number(), why, lost, now.as_ms()],
                )?;
                Ok(changed as u64)
            })
            .await
    }

    /// Writes a whole, consistent copy of the record to a file that is not there yet, for its owner alone, while others go
    /// on reading and writing. On disk when this returns.
    pub fn backup(&self, to: &Path) -> Result<(), Error> {
        let failed = |why: std::io::Error| Error::Open { path: to.to_owned(), why: why.to_string() };
        make_private(to).map_err(failed)?;
        let name = to.to_string_lossy().into_owned();
        let copied = self.backend.read(|db| db.execute("VACUUM INTO ?1", [name]).map(drop));
        copied.map_err(|why| match why {
            // the disk of the copy: the record itself does not grow by it
            Error::Full(_) => Error::Full(to.to_owned()),
            other => other,
        })?;
        File::open(to).and_then(|file| file.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Threads;

    #[tokio::test]
    async fn a_backup_is_a_whole_record_and_never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open("sqlite:audience.db", folder.path(), Threads::Inline).unwrap();
        let place = QueuePlace { folder: 77, file: 78, made: 79 };
        store.announce_epoch(5, place).await.unwrap();
        let marks = StoreMarks { epoch: 0, next_epoch: 5, place, last_outcome: 0 };
        assert_eq!(store.marks(), Ok(marks));
        store.backup(&folder.path().join("copy.db")).unwrap();
        let copy = Store::open("sqlite:copy.db", folder.path(), Threads::Inline).unwrap();
        assert_eq!(copy.marks(), Ok(marks));
        assert!(store.backup(&folder.path().join("copy.db")).is_err());
    }

    #[tokio::test]
    async fn numbers_that_may_have_been_given_out_are_passed_over_by_ranges_apart() {
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let next = |store: &Store| {
            let sum = "SELECT min(seq), max(seq), count(*) FROM sqlite_sequence WHERE name IN ('contacts', 'launches')";
            store.backend.read(|db| db.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))).unwrap()
        };
        store.pass_over_ids(7).await.unwrap();
        let first: (u32, u32, u32) = (8 * PASSED_OVER, 8 * PASSED_OVER, 2);
        assert_eq!(next(&store), first, "tables that never had a row as well");
        store.pass_over_ids(9).await.unwrap();
        assert_eq!(next(&store).0, first.0 + 10 * PASSED_OVER, "the same record set back twice: two ranges apart");
        for roll in 0..300 {
            let before = next(&store);
            store.pass_over_ids(u64::MAX - roll).await.unwrap();
            assert!(next(&store).0 > before.0 || before.0 > NUMBERS - PASSED_OVER, "{before:?}");
        }
        assert!(next(&store).1 <= NUMBERS, "half of them are left to be given out");
    }
}
