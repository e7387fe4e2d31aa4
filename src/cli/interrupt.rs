//! Ctrl-C and SIGTERM: the first ends in order, the second at once. Everything admitted is on disk either way.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Desk, Error};

/// The process's ears for both signals.
pub struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
    /// A signal came that nobody has heard of yet.
    is_pending: bool,
}

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub fn listen() -> Result<Interrupt, Error> {
        let open = |kind| signal(kind).map_err(Error::failed);
        let (ctrl_c, terminate) = (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
        Ok(Interrupt { ctrl_c, terminate, is_pending: false })
    }

    /// Waits for either.
    pub async fn heard(&mut self) {
        if std::mem::take(&mut self.is_pending) {
            return;
        }
        tokio::select! {
            biased;
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs what may be broken off; `None` when a signal came before it was done.
    pub async fn or_never<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.heard() => None,
            done = work => Some(done),
        }
    }

    /// Runs what is not to be broken off: a signal meanwhile is heard by whoever asks next, another ends the process at
    /// once.
    pub async fn or_later<T>(&mut self, desk: &Desk, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.heard() => {}
        }
        desk.note("stopping; once more stops at once");
        let done = self.or_at_once(desk, work).await;
        self.is_pending = true;
        done
    }

    /// Runs the orderly end; another signal ends the process at once.
    pub async fn or_at_once<T>(&mut self, desk: &Desk, end: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            ended = end => ended,
            () = self.heard() => {
                desk.note("stopped at once; what was on the wire is in doubt, and listed at the next start");
                std::process::exit(1);
            }
        }
    }
}
