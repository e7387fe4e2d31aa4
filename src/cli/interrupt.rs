//! Ctrl-C, SIGTERM and a terminal that is gone (SIGHUP): the first ends in order, the second at once. Everything admitted is
//! on disk either way.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::cli::{Desk, Error, ending};

/// What comes so soon after a hang-up belongs to the same closing of the terminal. The shell and the system each send a
/// hang-up then, and a supervisor may add its own signal: none of it says that anybody is impatient.
const CLOSING: Duration = Duration::from_secs(1);

/// The process's ears for these signals.
pub struct Interrupt {
    /// `None`, of each: whoever started the process wants it to outlive such a signal, as `nohup` does.
    ctrl_c: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
    /// A signal came that nobody has heard of yet.
    is_pending: bool,
    /// When the terminal last hung up.
    hung_up: Option<Instant>,
}

impl Interrupt {
    /// From here on the signals are this command's own matter, and end nothing by themselves. Ctrl-C and SIGTERM are heard
    /// even where they were to be outlived: a command that runs until it is told to stop has no other end.
    pub fn listen() -> Result<Interrupt, Error> {
        let open = |kind| signal(kind).map(Some).map_err(Error::failed);
        let (ctrl_c, terminate) = (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
        let interrupt = Interrupt { ctrl_c, terminate, ..Interrupt::open()? };
        ending::mind_signals();
        Ok(interrupt)
    }

    /// Opens ears for those that the process was not started to outlive.
    pub(super) fn open() -> Result<Interrupt, Error> {
        let open = |kind| (!is_ignored(kind)).then(|| signal(kind)).transpose().map_err(Error::failed);
        let (ctrl_c, terminate) = (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
        let hang_up = open(SignalKind::hangup())?;
        Ok(Interrupt { ctrl_c, terminate, hang_up, is_pending: false, hung_up: None })
    }

    /// Waits for one of them.
    pub async fn heard(&mut self) {
        if !std::mem::take(&mut self.is_pending) {
            self.next().await;
        }
    }

    /// Waits, after one of them was heard, until somebody is impatient: a hang-up never is.
    async fn heard_again(&mut self) {
        loop {
            self.next().await;
            if self.hung_up.is_none_or(|at| at.elapsed() >= CLOSING) {
                return;
            }
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = or_for_ever(&mut self.hang_up) => self.hung_up = Some(Instant::now()),
            _ = or_for_ever(&mut self.ctrl_c) => {}
            _ = or_for_ever(&mut self.terminate) => {}
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

    /// Runs what is not to be broken off: a signal meanwhile is heard by whoever asks next, an impatient one after it ends
    /// the process at once.
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

    /// Runs the orderly end; an impatient signal ends the process at once.
    pub async fn or_at_once<T>(&mut self, desk: &Desk, end: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            ended = end => ended,
            () = self.heard_again() => {
                let words = "stopped at once; what was on the wire is in doubt, and listed at the next start";
                Error::failed(std::io::Error::other(words)).show(desk.workspace().folder(), desk.is_json());
                std::process::exit(1);
            }
        }
    }
}

/// Waits for a signal that may not be listened for.
async fn or_for_ever(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the process was started with this signal ignored. Where that cannot be found out it was not.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}
