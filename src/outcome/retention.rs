//! Forgetting: what tells about single people goes when its time has come, as `[retention]` says; figures stay (U-13).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::base::{Span, Timestamp};
use crate::config;
use crate::store::{self, Faded, Store};
use crate::world::Clock;

/// How often it is looked whether something is old enough.
const LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Forgets what is old. [`Retention::run`] is its life.
pub struct Retention {
    /// The record.
    pub store: Store,
    /// How long things are kept.
    pub ages: config::Retention,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The folder with mail to the postmaster.
    pub postmaster: PathBuf,
}

impl Retention {
    /// Looks at once and a few times a day, until stopped. What cannot be forgotten now is the next time.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            if let Err(why) = looked {
                tracing::warn!(%why, "what is old enough to be forgotten is still on record");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Forgets everything that is old enough now.
    pub async fn look(&self) -> Result<(), store::Error> {
        let ages = &self.ages;
        for launch in self.store.ended_before(self.before(ages.words), Faded::Words)? {
            self.store.forget_words(launch).await?;
            tracing::info!(%launch, "what hosts said about each copy is forgotten");
        }
        for launch in self.store.ended_before(self.before(ages.visits), Faded::Visits)? {
            self.store.forget_visits(launch).await?;
            tracing::info!(%launch, "who opened it and followed links is forgotten; the figures stay");
        }
        let clients = self.store.blur_clients(self.before(ages.clients)).await?;
        let events = self.store.forget_events(self.before(ages.history)).await?;
        let letters = clear(&self.postmaster, self.before(ages.postmaster)).unwrap_or_else(|why| {
            tracing::warn!(folder = %self.postmaster.display(), %why, "old mail to the postmaster cannot be removed");
            0
        });
        if clients + events + letters > 0 {
            tracing::info!(clients, events, letters, "old entries are forgotten");
        }
        Ok(())
    }

    /// What was before this is old enough.
    fn before(&self, age: Span) -> Timestamp {
        self.clock.now() - age.duration()
    }
}

/// Removes the files of a folder that were last changed before a time; gives how many.
fn clear(folder: &Path, before: Timestamp) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let before = UNIX_EPOCH + Duration::from_millis(before.as_ms().max(0).unsigned_abs());
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let file = entry.metadata()?;
        if file.is_file() && file.modified()? < before {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Standing;
    use crate::outcome::effect::tests::{START, delivered};
    use crate::outcome::{Policy, read};
    use crate::store::{LaunchState, Visit, Visitor};
    use crate::world::SimulatedClock;

    const DAY: Duration = Duration::from_secs(86_400);

    fn retention(store: &Store, folder: &Path) -> Retention {
        Retention {
            store: store.clone(),
            ages: config::Retention::default(),
            clock: Arc::new(SimulatedClock::starting(START)),
            postmaster: folder.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_tells_about_one_person_goes_and_the_figures_stay() {
        let (store, copy) = delivered().await;
        let folder = tempfile::tempdir().unwrap();
        let retention = retention(&store, folder.path());
        let click = |at| Visit { copy, link: Some(0), visitor: Visitor::Person, at };
        store.record_visits(vec![click(START + DAY)]).await.unwrap();
        let raw = include_bytes!("../../tests/fixtures/returns/standard-unknown-user.eml");
        read(raw).record(copy, &store, Arc::new(Policy::default()), START + DAY).await.unwrap();
        store.move_launch(copy.launch(), &[LaunchState::Running], LaunchState::Done, START + DAY).await.unwrap();
        let reading = store.reading(copy.launch()).unwrap();
        let figures = store.figures(copy.launch()).unwrap();
        assert_eq!(reading.links[0].times, 1);
        let state = || {
            let text = store.copy(copy).unwrap().unwrap().text;
            let has_bounced = store.events(copy.contact()).unwrap().iter().any(|event| event.kind == "bounced");
            (!text.is_empty(), store.visits(copy.contact()).unwrap().len(), has_bounced)
        };

        retention.look().await.unwrap();
        assert_eq!(state(), (true, 1, true), "nothing is old");
        sleep(DAY * 182).await;
        retention.look().await.unwrap();
        assert_eq!(state(), (false, 1, true), "words go first");
        sleep(DAY * 1000).await;
        retention.look().await.unwrap();
        assert_eq!(state(), (false, 0, false));

        let late = START + DAY * 1200;
        store.record_visits(vec![click(late)]).await.unwrap();
        assert_eq!(store.visits(copy.contact()).unwrap(), [], "nobody is noted again");
        assert_eq!(store.reading(copy.launch()).unwrap(), reading);
        assert_eq!(store.figures(copy.launch()).unwrap(), figures);
        let row = store.copy(copy).unwrap().unwrap();
        assert_eq!((row.standing, row.code), (Standing::Failed, Some(550)));
        let kept: Vec<String> = store.events(copy.contact()).unwrap().into_iter().map(|event| event.kind).collect();
        assert!(kept.iter().any(|kind| kind == "suppressed"), "what bars an address stays: {kept:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn old_mail_to_the_postmaster_is_removed() {
        let (store, _) = delivered().await;
        let folder = tempfile::tempdir().unwrap();
        for (name, age) in [("old.eml", 91), ("new.eml", 89)] {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            let at = UNIX_EPOCH + Duration::from_millis(START.as_ms().unsigned_abs()) - DAY * age;
            file.set_modified(at).unwrap();
        }
        retention(&store, folder.path()).look().await.unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["new.eml"]);
        assert!(retention(&store, &folder.path().join("none")).look().await.is_ok());
    }
}
