//! Ordinary messages in the mailboxes that are looked through: known by name, so that they are not fetched again.

use rusqlite::{OptionalExtension, params};

use super::{Error, Store};
use crate::base::Timestamp;

impl Store {
    /// Whether a message of a mailbox is known as ordinary mail.
    pub fn is_known_mail(&self, mailbox: &str, message: &str) -> Result<bool, Error> {
        self.backend.read(|db| {
            let found = db
                .prepare_cached("SELECT 1 FROM known_mail WHERE mailbox = ?1 AND message = ?2")?
                .query_row([mailbox, message], |_| Ok(()))
                .optional()?;
            Ok(found.is_some())
        })
    }

    /// Remembers a message of a mailbox as ordinary mail.
    pub async fn know_mail(&self, mailbox: String, message: String, now: Timestamp) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached("INSERT OR IGNORE INTO known_mail (mailbox, message, since) VALUES (?1, ?2, ?3)")?
                    .execute(params![mailbox, message, now.as_ms()])
                    .map(drop)
            })
            .await
    }
}
