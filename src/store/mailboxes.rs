//! The mailboxes that are looked through: who does it at present, and which messages are known as ordinary mail, so that
//! they are not fetched again.

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

    /// Takes a mailbox in hand until a time, for the first time or longer; `false` when somebody else has it in hand.
    pub async fn lease_mailbox(
        &self,
        mailbox: String,
        holder: String,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.backend
            .write(move |db| {
                let changed = db
                    .prepare_cached(
                        "INSERT INTO mailbox_leases (mailbox, holder, until) VALUES (?1, ?2, ?3) \
                         ON CONFLICT (mailbox) DO UPDATE SET holder = ?2, until = ?3 WHERE holder = ?2 OR until <= ?4",
                    )?
                    .execute(params![mailbox, holder, until.as_ms(), now.as_ms()])?;
                Ok(changed > 0)
            })
            .await
    }

    /// Who has a mailbox in hand, or had it last.
    pub fn mailbox_holder(&self, mailbox: &str) -> Result<Option<String>, Error> {
        self.backend.read(|db| {
            db.prepare_cached("SELECT holder FROM mailbox_leases WHERE mailbox = ?1")?
                .query_row([mailbox], |row| row.get(0))
                .optional()
        })
    }

    /// Gives a mailbox out of hand, if it was in hand.
    pub async fn release_mailbox(&self, mailbox: String, holder: String) -> Result<(), Error> {
        self.backend
            .write(move |db| {
                db.prepare_cached("DELETE FROM mailbox_leases WHERE mailbox = ?1 AND holder = ?2")?
                    .execute(params![mailbox, holder])
                    .map(drop)
            })
            .await
    }
}
