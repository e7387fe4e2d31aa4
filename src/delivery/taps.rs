//! Listening in on the dialogues with a site: behind `queue trace`. Whoever listens hears what is said from then on; a
//! listener that does not keep up loses lines, never the connection its time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::base::Timestamp;
use crate::smtp::{Speaker, Tap};
use crate::world::Clock;

/// Lines that may wait for a listener.
const LINES_MAX: usize = 4096;

/// One line of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When (RFC 3339).
    pub at: String,
    /// The source's name.
    pub source: String,
    /// The connection: a number that tells those of one source and site apart.
    pub connection: u32,
    /// The host.
    pub host: String,
    /// Who spoke.
    pub who: Speaker,
    /// What: commands and replies; messages and logins are only mentioned.
    pub line: String,
}

/// All who listen. Cheap to clone.
#[derive(Clone)]
pub struct Taps {
    listeners: Arc<Listeners>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Listeners {
    any: AtomicBool,
    all: Mutex<Vec<(Arc<str>, mpsc::Sender<Heard>)>>,
}

impl Taps {
    /// Nobody listens yet.
    pub fn new(clock: Arc<dyn Clock>) -> Taps {
        Taps { listeners: Arc::default(), clock }
    }

    /// What is said with a site from now on, until the receiver is dropped.
    pub fn listen(&self, site: &str) -> mpsc::Receiver<Heard> {
        let (to, from) = mpsc::channel(LINES_MAX);
        self.lock().push((site.into(), to));
        self.listeners.any.store(true, Ordering::Relaxed);
        from
    }

    /// The tap of one connection.
    pub(super) fn on(&self, site: Arc<str>, source: Arc<str>, connection: u32, host: Arc<str>) -> Arc<dyn Tap> {
        Arc::new(Line { taps: self.clone(), site, source, connection, host })
    }

    fn spread(&self, site: &str, heard: &Heard) {
        let mut all = self.lock();
        // a full listener loses the line, one that is gone its place
        all.retain(|(wanted, to)| {
            **wanted != *site || !matches!(to.try_send(heard.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
        self.listeners.any.store(!all.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<str>, mpsc::Sender<Heard>)>> {
        self.listeners.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, as it is listened to.
struct Line {
    taps: Taps,
    site: Arc<str>,
    source: Arc<str>,
    connection: u32,
    host: Arc<str>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} {})", self.site, self.connection)
    }
}

impl Tap for Line {
    fn is_open(&self) -> bool {
        self.taps.listeners.any.load(Ordering::Relaxed)
    }

    fn line(&self, who: Speaker, line: &str) {
        let at: Timestamp = self.taps.clock.now();
        let heard = Heard {
            at: at.rfc3339(),
            source: self.source.to_string(),
            connection: self.connection,
            host: self.host.to_string(),
            who,
            line: line.to_owned(),
        };
        self.taps.spread(&self.site, &heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SimulatedClock;

    #[tokio::test]
    async fn a_listener_hears_its_site_alone_and_leaves_no_trace() {
        let taps = Taps::new(Arc::new(SimulatedClock::starting(Timestamp::from_ms(0))));
        let line = |site: &str| taps.on(site.into(), "default".into(), 3, "mx.example".into());
        let (here, there) = (line("here"), line("there"));
        assert!(!here.is_open());
        let mut heard = taps.listen("here");
        assert!(here.is_open());
        here.line(Speaker::Us, "EHLO us");
        there.line(Speaker::Host, "250 hello");
        let one = heard.recv().await.unwrap();
        assert_eq!((one.who, one.line.as_str(), one.connection), (Speaker::Us, "EHLO us", 3));
        assert!(heard.try_recv().is_err());
        drop(heard);
        here.line(Speaker::Us, "QUIT");
        assert!(!here.is_open());
    }
}
