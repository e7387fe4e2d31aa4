//! The way from whoever notices something to whoever records it and tells people. Never waits: what is in trouble must not
//! stand still because nobody listens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::{LaunchId, Timestamp};
use crate::mail::{Notice, NoticeKind, impersonal};
use crate::world::Clock;

/// Notices that may wait; more at once tell of the same trouble.
const WAITING_MAX: usize = 256;

/// Takes notices. Cheap to clone.
#[derive(Clone)]
pub struct Notices {
    clock: Arc<dyn Clock>,
    to: mpsc::Sender<Notice>,
}

/// Whom a notice is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The site.
    pub site: Option<Arc<str>>,
    /// The source or mailbox, by its name.
    pub source: Option<Arc<str>>,
    /// The launch.
    pub launch: Option<LaunchId>,
}

impl Notices {
    /// A way for notices, and its end.
    pub fn new(clock: Arc<dyn Clock>) -> (Notices, mpsc::Receiver<Notice>) {
        let (to, from) = mpsc::channel(WAITING_MAX);
        (Notices { clock, to }, from)
    }

    /// Something happened. `lasts`: how long it holds, where that is known.
    pub fn raise(&self, kind: NoticeKind, about: About, words: &str, lasts: Option<Duration>) {
        let at: Timestamp = self.clock.now();
        let About { site, source, launch } = about;
        let text = impersonal(words);
        if kind.alerts() {
            tracing::warn!(site = site.as_deref(), source = source.as_deref(), "{}: {text}", kind.word());
        }
        let until = lasts.map(|span| at + span);
        // a full way means that the same is being told already, a closed one that everything ends
        let _ = self.to.try_send(Notice { kind, site, source, launch, text, until, at });
    }
}
