//! How a process ends before its work does: at a signal that no command minds itself, with one answer and nothing half done
//! left behind.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::interrupt::Interrupt;
use crate::cli::{Error, Exit};

/// How long is waited for whoever reads the answer, and for a process that has given its own to close what it has open.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of this process's work. Whoever holds it keeps everybody else from beginning, finishing and answering.
struct Work {
    next: u64,
    /// What is half done, and how it is undone.
    unfinished: BTreeMap<u64, Undo>,
    /// Whether the answer is given, or being given.
    is_answered: bool,
    /// Whether a command listens for signals itself.
    is_minded: bool,
}

type Undo = Box<dyn FnOnce() + Send>;

static WORK: Mutex<Work> =
    Mutex::new(Work { next: 0, unfinished: BTreeMap::new(), is_answered: false, is_minded: false });

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something half done. Dropped, or when the process is ended, it is undone.
pub struct Unfinished(u64);

impl Unfinished {
    /// Begins it by `make`.
    pub fn begin<T>(
        make: impl FnOnce() -> io::Result<T>,
        undo: impl FnOnce() + Send + 'static,
    ) -> io::Result<(T, Unfinished)> {
        let mut work = work();
        let made = make()?;
        let number = work.next;
        work.next += 1;
        work.unfinished.insert(number, Box::new(undo));
        Ok((made, Unfinished(number)))
    }

    /// Finishes it by its last step; when that fails, it is undone.
    pub fn finish(self, last: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut work = work();
        last().inspect(|()| drop(work.unfinished.remove(&self.0)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let undo = work().unfinished.remove(&self.0);
        undo.into_iter().for_each(|undo| undo());
    }
}

/// The answer is about to be given: from here on the process ends by itself. Never returns when it is being ended.
pub fn answer() {
    work().is_answered = true;
}

/// A command listens for signals itself from here on.
pub fn mind_signals() {
    work().is_minded = true;
}

/// Ends the process at the first signal, unless a command minds them. `told` is what may be said of what is done so far.
pub fn watch(folder: &Path, json: bool, told: Option<&'static str>) -> Result<(), Error> {
    let (folder, mut interrupt) = (folder.to_owned(), Interrupt::open()?);
    tokio::spawn(async move {
        interrupt.heard().await;
        let is_left = tokio::task::spawn_blocking(move || end(&folder, json, told)).await;
        if is_left.is_ok_and(|left| left == Left::Closing) {
            sleep(PATIENCE).await;
            std::process::exit(Exit::Failed.code().into());
        }
    });
    Ok(())
}

/// Why a process was left to itself.
#[derive(PartialEq, Eq)]
enum Left {
    /// A command minds signals.
    Minded,
    /// All it has to do is to close what it has open.
    Closing,
}

/// Undoes what is half done, says so, and ends the process.
fn end(folder: &Path, json: bool, told: Option<&'static str>) -> Left {
    let mut work = work();
    if work.is_minded {
        return Left::Minded;
    }
    if work.is_answered {
        return Left::Closing;
    }
    say(folder.to_owned(), json, Stopped { told });
    std::mem::take(&mut work.unfinished).into_values().for_each(|undo| undo());
    std::process::exit(Exit::Failed.code().into())
}

/// Says that the process was stopped, as its last word; not for ever to whoever does not read.
fn say(folder: PathBuf, json: bool, stopped: Stopped) {
    let (said, is_said) = sync_channel(1);
    std::thread::spawn(move || {
        if json {
            // never let go of
            std::mem::forget(io::stdout().lock());
        }
        Error::either(true, stopped).show(&folder, json);
        // nobody waits for it any more
        let _ = said.send(());
    });
    // it was said, or nobody reads
    let _ = is_said.recv_timeout(PATIENCE);
}

/// A signal came before the work was done.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("stopped by a signal before the end")]
struct Stopped {
    #[help]
    told: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let begin = || {
            let undone = path.clone();
            Unfinished::begin(|| std::fs::write(&path, "a"), move || std::fs::remove_file(undone).unwrap()).unwrap().1
        };
        drop(begin());
        assert!(!path.exists());
        assert!(begin().finish(|| Err(io::Error::other("no"))).is_err());
        assert!(!path.exists());
        begin().finish(|| Ok(())).unwrap();
        assert!(path.exists());
    }
}
