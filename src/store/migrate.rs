//! Numbered migrations, each run once, in order. The number of the last stands in the file (`PRAGMA user_version`).

use std::path::Path;

use rusqlite::Connection;

use super::Error;
use super::sqlite::told;

/// What was released is never edited: a change is another migration.
const MIGRATIONS: &[&str] = &[
    include_str!("sql/0001_people_and_launches.sql"),
    include_str!("sql/0002_tls_sessions.sql"),
    include_str!("sql/0003_forgetting_and_leases.sql"),
    include_str!("sql/0004_sent_again.sql"),
    include_str!("sql/0005_every_lost_answer.sql"),
];

/// Brings the schema up to date; refuses one that a later version made.
pub(super) fn migrate(db: &mut Connection, path: &Path) -> Result<(), Error> {
    let known = MIGRATIONS.len() as u32;
    let told = |error| told(path, &error);
    let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(told)?;
    if found > known {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let step = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(told)?;
        // another process may have migrated while this one waited for the lock
        let now: usize = step.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(told)?;
        if now == number {
            step.execute_batch(migration).map_err(told)?;
            step.pragma_update(None, "user_version", number + 1).map_err(told)?;
        }
        step.commit().map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn a_record_of_the_first_version_is_brought_up_to_date_with_all_that_is_in_it() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(MIGRATIONS[0]).unwrap();
        db.execute_batch("PRAGMA user_version = 1; INSERT INTO lists (name, created) VALUES ('news', 0)").unwrap();
        migrate(&mut db, Path::new("record")).unwrap();
        let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM lists"), 1);
        assert_eq!(count("SELECT count(*) FROM launches WHERE wordless = 0 AND reading IS NULL"), 0);
        assert_eq!(count("SELECT count(*) FROM mailbox_leases") + count("SELECT count(*) FROM tls_sessions"), 0);
        assert_eq!(count("PRAGMA user_version"), MIGRATIONS.len() as u32);
    }

    #[test]
    fn what_was_counted_as_sent_again_is_counted_anew() {
        let mut db = Connection::open_in_memory().unwrap();
        MIGRATIONS[..3].iter().for_each(|migration| db.execute_batch(migration).unwrap());
        db.execute_batch(
            "PRAGMA user_version = 3; INSERT INTO sites VALUES (1, 'a.example');
             INSERT INTO copies (launch, contact, position, site, standing, doubtful, at) VALUES
                 (1, 1, 0, 1, 2, 2, 0), (1, 2, 0, 1, 1, 1, 0), (1, 3, 0, 1, 1, 2, 0), (1, 4, 0, 1, 4, 1, 0), (1, 5, 0, 1, 2, 0, 0)",
        )
        .unwrap();
        migrate(&mut db, Path::new("record")).unwrap();
        let again = |standing: u8| {
            let sql = "SELECT sum(again), sum(copies) FROM tallies WHERE standing = ?1";
            db.query_row(sql, [standing], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))).unwrap()
        };
        assert_eq!([again(2), again(1), again(4)], [(2, 2), (1, 2), (0, 1)]);
        db.execute("UPDATE copies SET standing = 2 WHERE contact = 2", []).unwrap();
        assert_eq!([again(2), again(1)], [(3, 3), (1, 1)]);
    }

    #[test]
    fn the_last_loss_of_what_is_in_doubt_is_counted_and_nothing_more_as_sent_again() {
        let mut db = Connection::open_in_memory().unwrap();
        MIGRATIONS[..4].iter().for_each(|migration| db.execute_batch(migration).unwrap());
        db.execute_batch(
            "PRAGMA user_version = 4; INSERT INTO sites VALUES (1, 'a.example');
             INSERT INTO copies (launch, contact, position, site, standing, doubtful, late, at) VALUES
                 (1, 1, 0, 1, 7, 0, 0, 0), (1, 2, 0, 1, 7, 1, 0, 0), (1, 3, 0, 1, 2, 1, 0, 0), (1, 4, 0, 1, 1, 2, 0, 0),
                 (1, 5, 0, 1, 3, 1, 1, 0), (1, 6, 0, 1, 3, 1, 0, 0)",
        )
        .unwrap();
        let each = |db: &Connection, column: &str| {
            let sql = format!("SELECT {column} FROM copies ORDER BY contact");
            let mut rows = db.prepare(&sql).unwrap();
            rows.query_map([], |row| row.get::<_, u32>(0)).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
        };
        let all = |db: &Connection| {
            let sql = "SELECT standing, sum(copies), sum(again) FROM tallies GROUP BY standing ORDER BY standing";
            let mut rows = db.prepare(sql).unwrap();
            let read = |row: &rusqlite::Row<'_>| Ok([row.get::<_, u32>(0)?, row.get(1)?, row.get(2)?]);
            rows.query_map([], read).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
        };
        let (again, tallies) = (each(&db, "again"), all(&db));
        migrate(&mut db, Path::new("record")).unwrap();
        assert_eq!(each(&db, "doubtful"), [1, 2, 1, 2, 1, 1]);
        assert_eq!((each(&db, "again"), all(&db)), (again, tallies));
        db.execute("UPDATE copies SET standing = 1 WHERE contact = 2", []).unwrap();
        assert_eq!(all(&db)[0], [1, 2, 2], "taken up again, it has not been sent again yet");
        db.execute("UPDATE copies SET standing = 2 WHERE contact = 2", []).unwrap();
        assert_eq!(all(&db)[1], [2, 2, 3]);
    }

    #[test]
    fn what_has_run_somewhere_is_never_edited() {
        let hash = |text: &str| HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
        let hashes: Vec<String> = MIGRATIONS.iter().map(|text| hash(text)).collect();
        let known = [
            "1ced044d02f8591162d0881d8476ff4df97c4755728e4fb2c31ee1aa4282a807",
            "9c004a4536fdf9d872853d706e13d81e4ae8c2a518d7bf077bc94a5c4aba899a",
            "954852375e38b3242de67c3f32bc38f158f597f2334a0c99a7ee070125374708",
            "6ab488921c49efea1cfb54af702c5fabd8a9020fe7c8532e6701e15f36d67b7c",
            "f02d55bfe23a6fd91f0f9af0cf3993e1ab01e80dd162c21b6d5051e06856a2e0",
        ];
        assert_eq!(hashes, known, "write another migration instead");
    }
}
