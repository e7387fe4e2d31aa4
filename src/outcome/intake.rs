//! Where returned mail is handed in, whichever way it came: by SMTP, from a mailbox, from a file. It is understood, its
//! copy is proven by a token, and what follows is on disk before the hand-in is confirmed.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::base::Seal;
use crate::outcome::arrival::read;
use crate::outcome::policy::Policy;
use crate::store::{self, Store};
use crate::world::Clock;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// About a copy of ours, proven by a token: what follows is on record, and the message may be put away.
    Ours,
    /// Anything else: left where it is, and not fetched again.
    Foreign,
}

/// Who takes returned mail in. The same message taken twice counts once.
pub trait Intake: Send + Sync {
    /// Understands and records a message; answers when that is on disk. `recipient` is the address of the envelope, for
    /// those who know it.
    fn take<'a>(&'a self, raw: &'a [u8], recipient: Option<&'a str>) -> BoxFuture<'a, Result<Taken, store::Error>>;
    /// Whether a message of a mailbox was left as foreign before.
    fn is_known(&self, mailbox: &str, message: &str) -> Result<bool, store::Error>;
    /// Remembers a message of a mailbox as foreign.
    fn know<'a>(&'a self, mailbox: &'a str, message: &'a str) -> BoxFuture<'a, Result<(), store::Error>>;
}

/// The intake of a workspace.
#[derive(Clone)]
pub struct ReturnDesk {
    /// The record.
    pub store: Store,
    /// Opens tokens.
    pub seal: Seal,
    /// When a bounce bars an address.
    pub policy: Arc<Policy>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

impl ReturnDesk {
    async fn record(&self, raw: &[u8], recipient: Option<&str>) -> Result<Taken, store::Error> {
        // A message that breaks the reader is no reason to read no other: it is left where it is.
        let understood = std::panic::catch_unwind(|| read(raw));
        let Ok(mut arrival) = understood else {
            tracing::error!(octets = raw.len(), "a message cannot be understood; it is left alone");
            return Ok(Taken::Foreign);
        };
        if let Some(recipient) = recipient {
            arrival = arrival.addressed_to(recipient);
        }
        if let Some(copy) = arrival.affected(&self.seal) {
            let effect = arrival.record(copy, &self.store, self.policy.clone(), self.clock.now()).await?;
            tracing::info!(%copy, kind = %arrival.kind, ?effect, "returned mail");
        }
        Ok(match arrival.copy(&self.seal) {
            Some(_) => Taken::Ours,
            None => Taken::Foreign,
        })
    }
}

impl Intake for ReturnDesk {
    fn take<'a>(&'a self, raw: &'a [u8], recipient: Option<&'a str>) -> BoxFuture<'a, Result<Taken, store::Error>> {
        self.record(raw, recipient).boxed()
    }

    fn is_known(&self, mailbox: &str, message: &str) -> Result<bool, store::Error> {
        self.store.is_known_mail(mailbox, message)
    }

    fn know<'a>(&'a self, mailbox: &'a str, message: &'a str) -> BoxFuture<'a, Result<(), store::Error>> {
        self.store.know_mail(mailbox.to_owned(), message.to_owned(), self.clock.now()).boxed()
    }
}

#[cfg(test)]
mod tests;
