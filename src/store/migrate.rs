//! Numbered migrations, each run once, in order. The number of the last stands in the file (`PRAGMA user_version`).

use std::path::Path;

use rusqlite::Connection;

use super::Error;
use super::sqlite::told;

const MIGRATIONS: &[&str] =
    &[include_str!("sql/0001_people_and_launches.sql"), include_str!("sql/0002_tls_sessions.sql")];

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
