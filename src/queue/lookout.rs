//! Sees to it that a write comes back. What a write waits for may never happen: an error that its library keeps to itself,
//! a disk that answers no more. Then it is prodded, and in the end the process ended, so that whoever watches over it
//! starts it again; what was not answered with yes is written anew, or in doubt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How often it is looked. Looks are counted, not time: a process that was frozen has not waited.
const LOOK: Duration = Duration::from_secs(1);
/// Looks until the first time to prod; with each one the next is twice as late.
const PROD: u32 = 1;
/// No disk takes so many looks.
const LOOKS_MAX: u32 = 300;

/// Watches one write at a time.
pub(super) struct Watch<T> {
    under_way: Shared<T>,
}

type Shared<T> = Arc<Mutex<Option<Write<T>>>>;

/// A write under way.
struct Write<T> {
    looks: u32,
    /// At which look it is prodded next.
    prod: u32,
    what: T,
}

/// A write that is watched, until this is dropped.
pub(super) struct Watched<'a, T>(&'a Watch<T>);

impl<T: Clone + Send + 'static> Watch<T> {
    /// Watches from a thread of its own, which ends with this. `prod` runs on yet another one: it may wait as long as what
    /// it prods.
    pub fn start(prod: fn(T)) -> std::io::Result<Watch<T>> {
        let under_way: Shared<T> = Arc::default();
        let seen = Arc::downgrade(&under_way);
        let look = move || {
            while let Some(under_way) = seen.upgrade() {
                look(&under_way, prod);
                drop(under_way);
                thread::park_timeout(LOOK);
            }
        };
        thread::Builder::new().name("queue-watch".into()).spawn(look)?;
        Ok(Watch { under_way })
    }

    /// A write begins.
    pub fn begin(&self, what: T) -> Watched<'_, T> {
        *lock(&self.under_way) = Some(Write { looks: 0, prod: PROD, what });
        Watched(self)
    }
}

impl<T> Drop for Watched<'_, T> {
    fn drop(&mut self) {
        *lock(&self.0.under_way) = None;
    }
}

fn look<T: Clone + Send + 'static>(under_way: &Mutex<Option<Write<T>>>, prod: fn(T)) {
    let mut under_way = lock(under_way);
    let Some(write) = under_way.as_mut() else { return };
    write.looks += 1;
    if write.looks > LOOKS_MAX {
        tracing::error!("a write of the queue does not come back: the process ends; what it had answered is on disk");
        std::process::exit(1);
    }
    if write.looks > write.prod {
        write.prod *= 2;
        let what = write.what.clone();
        // without a thread left it is prodded next time
        let _ = thread::Builder::new().name("queue-prod".into()).spawn(move || prod(what));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_write_that_waits_for_something_is_prodded_and_one_that_is_done_is_not() {
        let watch = Watch::start(|prodded: mpsc::Sender<&str>| prodded.send("wake").unwrap()).unwrap();
        let (prod, prodded) = mpsc::channel();
        drop(watch.begin(prod.clone()));
        let waiting = watch.begin(prod);
        assert_eq!(prodded.recv(), Ok("wake"));
        drop(waiting);
        // its sender went with the write: nobody is left who could prod
        assert_eq!(prodded.recv(), Err(mpsc::RecvError));
    }
}
