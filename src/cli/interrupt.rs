//! Ctrl-C and SIGTERM: the first ends in order, the second at once. Everything admitted is on disk either way.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Desk, Error};

/// The process's ears for both signals.
pub struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From here on the signals no longer end the process by themselves.
    pub fn listen() -> Result<Interrupt, Error> {
        let open = |kind| signal(kind).map_err(Error::failed);
        Ok(Interrupt { ctrl_c: open(SignalKind::interrupt())?, terminate: open(SignalKind::terminate())? })
    }

    /// Waits for either.
    pub async fn heard(&mut self) {
        tokio::select! {
            biased;
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs the orderly end; another signal ends the process at once.
    pub async fn or_at_once<T>(mut self, desk: &Desk, end: impl Future<Output = T>) -> T {
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
