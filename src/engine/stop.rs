//! The order of stopping, and what stops the engine by itself. Each step ends by joining; every ten seconds the log names
//! who is still busy.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::queue::Queue;

/// How often the log names who is still busy.
const NAME_EVERY: Duration = Duration::from_secs(10);
/// How long the record may take for the last outcomes; they are in the queue's outbox and come again.
const CLERK_MAX: Duration = Duration::from_secs(10);
/// How long the last alerts may take.
const HERALD_MAX: Duration = Duration::from_secs(15);

/// Rung by the first task that cannot go on; heard by everybody who waits.
#[derive(Clone)]
pub(super) struct Alarm(Arc<watch::Sender<Option<Error>>>);

impl Alarm {
    pub fn new() -> Alarm {
        Alarm(Arc::new(watch::Sender::new(None)))
    }

    /// The first cause stays.
    pub fn ring(&self, error: Error) {
        tracing::error!(%error, "sending has stopped");
        self.0.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(error);
            is_first
        });
    }

    /// Waits until something stops the engine.
    pub async fn rung(&self) -> Error {
        let mut seen = self.0.subscribe();
        let found = seen.wait_for(Option::is_some).await.expect("this handle keeps the sender");
        found.clone().expect("was waited for")
    }
}

/// A task at work.
pub(super) struct Task {
    name: &'static str,
    stop: CancellationToken,
    work: JoinHandle<()>,
}

impl Task {
    /// Starts a task. One that ends by an error or a panic, or before it was told to, rings the alarm.
    pub fn start<F>(name: &'static str, alarm: &Alarm, work: impl FnOnce(CancellationToken) -> F) -> Task
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let (work, told, alarm) = (work(stop.clone()), stop.clone(), alarm.clone());
        let work = tokio::spawn(async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(())) if told.is_cancelled() => {}
                Ok(Ok(())) => alarm.ring(Error::Ended(name)),
                Ok(Err(error)) => alarm.ring(error),
                Err(_) => alarm.ring(Error::Ended(name)),
            }
        });
        Task { name, stop, work }
    }

    /// Tells the task to end and waits for it, no longer than until `deadline`; what it still does is then cut off.
    async fn end(mut self, deadline: Instant) {
        self.stop.cancel();
        loop {
            let patience = deadline.saturating_duration_since(Instant::now()).min(NAME_EVERY);
            match timeout(patience, &mut self.work).await {
                Ok(_) => return,
                Err(_) if Instant::now() < deadline => tracing::warn!("still busy: {}", self.name),
                Err(_) => {
                    tracing::warn!("{} did not end in time and is cut off", self.name);
                    self.work.abort();
                    let _ = (&mut self.work).await;
                    return;
                }
            }
        }
    }
}

/// Where the keeper works.
pub(super) enum KeeperWork {
    Thread(std::thread::JoinHandle<()>),
    Task(JoinHandle<()>),
}

impl KeeperWork {
    /// Waits for the end of a keeper whose queue was closed.
    pub async fn join(self) {
        let ended = match self {
            KeeperWork::Thread(thread) => tokio::task::spawn_blocking(move || thread.join().is_ok()).await,
            KeeperWork::Task(task) => task.await.map(|()| true),
        };
        if !ended.unwrap_or(false) {
            tracing::error!("the keeper ended in a panic; what it had answered is on disk");
        }
    }
}

/// Everybody at work, in the order in which they end.
pub(super) struct Staff {
    /// Ends first: nothing more is planned.
    pub planner: Option<Task>,
    /// Nobody looks at the tables any more.
    pub watchman: Option<Task>,
    /// Then nothing more is sent, and what is on the wire is finished.
    pub courier: Option<Task>,
    /// Puts the last sessions on record.
    pub reporter: Option<Task>,
    /// Stops launches that do harm.
    pub warden: Option<Task>,
    pub clerk: Task,
    pub registrar: Task,
    /// Tells people what happened, up to the end.
    pub herald: Task,
    pub keeper: KeeperWork,
}

impl Staff {
    /// Ends everybody. What is on the wire has `grace` to finish; a disk that takes nothing has some seconds.
    pub async fn end(self, queue: &Queue, alarm: &Alarm, grace: Duration) {
        queue.hurry();
        let deadline = Instant::now() + grace;
        for task in [self.planner, self.watchman, self.courier, self.reporter, self.warden].into_iter().flatten() {
            task.end(deadline).await;
        }
        let deadline = Instant::now() + CLERK_MAX;
        // the clerk ends once the record has every outcome
        self.clerk.end(deadline).await;
        self.registrar.end(deadline).await;
        self.herald.end(Instant::now() + HERALD_MAX).await;
        // a keeper whose disk has failed says so; it ends all the same
        if let Err(error) = queue.close().await {
            alarm.ring(error.into());
        }
        self.keeper.join().await;
    }
}
