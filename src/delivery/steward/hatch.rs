//! Where carriers are served. A steward lies here behind a lock, so that a copy with nothing in its way is handed out on
//! the carrier's own thread: a message to the steward's task and its answer would cost more than the decision. Whatever
//! else is to be decided goes to the task as a [`Word`].

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::base::Domain;
use crate::delivery::carrier::{Heard, Job, Word};
use crate::delivery::steward::door::Door;
use crate::delivery::steward::orders::Chores;
use crate::delivery::steward::{Event, RECHECK, Steward, WORDS_MAX, Work};

/// A steward, for its carriers and its task.
pub(in crate::delivery) struct Hatch {
    steward: Mutex<Steward>,
    /// Rung when its task has something to do.
    bell: Notify,
    words: mpsc::Sender<(u32, Word)>,
}

/// What the steward's task waits for next.
struct Watch {
    wake: Option<Instant>,
    is_stopping: bool,
    is_retired: bool,
}

impl Hatch {
    /// A hatch, and what is said through it.
    pub(in crate::delivery) fn new(steward: Steward) -> (Arc<Hatch>, mpsc::Receiver<(u32, Word)>) {
        let (words, heard) = mpsc::channel(WORDS_MAX);
        (Arc::new(Hatch { steward: Mutex::new(steward), bell: Notify::new(), words }), heard)
    }

    /// The next copy for a carrier, when nothing but a yes can be said; `heard` is taken in then. `None`: to be asked for
    /// by a word.
    pub(in crate::delivery) fn serve(&self, line: u32, heard: &mut Vec<Heard>) -> Option<Job> {
        // a steward that broke down serves nobody
        let mut steward = self.steward.lock().ok()?;
        let (job, is_wanted) = steward.serve_at_once(line, heard, Instant::now())?;
        drop(steward);
        if is_wanted {
            self.bell.notify_one();
        }
        Some(job)
    }

    /// Whether a copy is known to come until then for a carrier that waits; a steward that broke down knows of none.
    pub(in crate::delivery) fn expects_for(&self, line: u32, until: Instant) -> bool {
        self.steward.lock().is_ok_and(|mut steward| steward.expects_for(line, until, Instant::now()))
    }

    /// Room for a word to the steward's task; `None` when there is none any more.
    pub(in crate::delivery) async fn room(&self) -> Option<mpsc::Permit<'_, (u32, Word)>> {
        self.words.reserve().await.ok()
    }

    /// The steward, for a moment; also one that broke down.
    pub(in crate::delivery) fn steward(&self) -> MutexGuard<'_, Steward> {
        self.steward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The steward's task, and what is left to do after it: where it broke down, its domains are given back.
    pub(in crate::delivery) async fn live(
        self: Arc<Hatch>,
        heard: mpsc::Receiver<(u32, Word)>,
        work: mpsc::Receiver<Work>,
        stop: CancellationToken,
    ) {
        let (kit, source, post) = {
            let steward = self.steward();
            (steward.kit.clone(), steward.source.id, steward.post.clone())
        };
        kit.new_domains.enter(&post.1);
        let ended = AssertUnwindSafe(self.run(heard, work, &stop)).catch_unwind().await;
        if ended.is_err() {
            tracing::error!(site = %post.1, "a steward broke down; its domains are given back; this is a bug");
            let domains: Vec<Domain> =
                self.steward().doors.values().flat_map(|door| door.claims.iter().cloned()).collect();
            for domain in domains {
                let _ = kit.road.queue.rest(&domain, kit.entries.in_about(RECHECK)).await;
            }
        }
        let learned = self.steward().learning(Instant::now());
        if let Some(record) = learned {
            let _ = kit.road.queue.learn(source, &post.1, record).await;
        }
        let warmup = self.steward().last_of_warmup();
        if let Some(written) = warmup {
            written.await;
        }
        kit.new_domains.leave(&post.1, Instant::now()).await;
    }

    /// The steward, for its task. A carrier that broke down over it has left it half changed: its task breaks down as well,
    /// and ends by the way that gives its domains back.
    fn intact(&self) -> MutexGuard<'_, Steward> {
        self.steward.lock().expect("a carrier broke down while it was served: what its steward knows may be half done")
    }

    /// Until it is told to stop and its carriers have come home, or until the courier lets it go.
    async fn run(
        self: &Arc<Hatch>,
        mut heard: mpsc::Receiver<(u32, Word)>,
        mut work: mpsc::Receiver<Work>,
        stop: &CancellationToken,
    ) {
        let mut carriers = JoinSet::new();
        let mut chores = Chores::new();
        loop {
            let watch = self.intact().watch(chores.is_empty());
            let Some(Watch { wake, is_stopping, is_retired }) = watch else { return };
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if !is_stopping => Event::Stop,
                Some((line, word)) = heard.recv() => Event::Word(line, word),
                Some(done) = chores.next(), if !chores.is_empty() => done,
                Some(ended) = carriers.join_next(), if !carriers.is_empty() => match ended {
                    Ok(line) => Event::Ended(line),
                    // carriers catch their panics, and nobody aborts them
                    Err(_) => Event::Wake,
                },
                given = work.recv(), if !is_retired => Event::Work(given),
                () = self.bell.notified() => Event::Wake,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Event::Wake,
            };
            let mut steward = self.intact();
            for order in steward.handle(event, Instant::now()) {
                steward.carry_out(order, self, &mut carriers, &chores, stop);
            }
        }
    }
}

impl Steward {
    /// What to wait for; `None` when all is over.
    fn watch(&self, no_chores: bool) -> Option<Watch> {
        let watch = Watch { wake: self.wake, is_stopping: self.stopping, is_retired: self.retired };
        (!self.is_over(no_chores)).then_some(watch)
    }

    /// A copy for a carrier where there is nothing to decide, and whether there is something for the task behind it.
    fn serve_at_once(&mut self, line: u32, heard: &mut Vec<Heard>, now: Instant) -> Option<(Job, bool)> {
        let key = &self.lines.get(&line)?.door;
        let waits = self.asks.iter().any(|ask| ask.door == *key);
        let size = usize::from(self.limits.window_size(now));
        if waits || self.stopping || self.lines.len() > size || self.limits.warming().is_some() {
            return None;
        }
        if !heard.iter().all(Heard::is_plain) {
            return None;
        }
        let key = key.clone();
        heard.drain(..).for_each(|heard| self.note(heard, now));
        let job = self.pick(&key, now)?;
        let may_grow = self.lines.len() < size || !self.unmanned.is_empty();
        let is_wanted = self.news
            || self.kit.new_domains.are_wanting(&self.post.1)
            || self.doors.get(&key).is_some_and(|door| door.runs_low() || may_grow);
        Some((job, is_wanted))
    }
}

impl Door {
    /// Whether less lies ready than is gone before more can be here.
    fn runs_low(&self) -> bool {
        self.leasing == 0 && !self.claims.is_empty() && self.stock.len() <= self.lines
    }
}
