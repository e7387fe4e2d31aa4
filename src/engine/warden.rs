//! The warden: stops launches that do harm (B-23, P-03). Looks at what is on record of each running launch and holds its
//! bounces and complaints against the limits; stops it at a site or as a whole, and has it told. A person resumes it; what
//! was counted until then counts no more. A launch that is not out by its deadline is cancelled. A record that is found
//! damaged stops everything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::handle::Handle;
use crate::base::{Domain, LaunchId, Timestamp};
use crate::compose::Edition;
use crate::config;
use crate::delivery::notices::About;
use crate::mail::NoticeKind;
use crate::store::{Break, Counted, LaunchRow, LaunchState, Strain};

/// How often it looks.
const TICK: Duration = Duration::from_secs(1);
/// Steps in which a sample moves on.
const STEPS: u64 = 10;

/// Stops launches that do harm.
pub(super) struct Warden {
    handle: Handle,
    settings: config::Breaker,
    watched: BTreeMap<LaunchId, Watch>,
}

/// What is known of one launch; the key without a site is the launch as a whole.
#[derive(Default)]
struct Watch {
    samples: BTreeMap<Option<Arc<str>>, Sample>,
    warned: BTreeMap<Arc<str>, u64>,
    /// When a person resumed it, where it was stopped.
    lifted: BTreeMap<Option<Arc<str>>, Timestamp>,
}

/// The last answers of a launch, at a site or over all.
#[derive(Debug, Default)]
struct Sample {
    /// Answers and hard bounces at some instants, oldest first; the front is where the sample begins.
    marks: VecDeque<(u64, u64)>,
}

impl Sample {
    /// A sample that begins where something was counted before.
    fn beginning(counted: Counted) -> Sample {
        Sample { marks: [(counted.answers, counted.bounced)].into() }
    }

    /// Takes in the counts as they are now; gives the share of hard bounces in per cent among the last `size` answers or a
    /// little more, once there are so many.
    fn share(&mut self, answers: u64, bounced: u64, size: u64) -> Option<f64> {
        if self.marks.is_empty() {
            self.marks.push_back((0, 0));
        }
        while self.marks.get(1).is_some_and(|(then, _)| answers.saturating_sub(*then) >= size) {
            self.marks.pop_front();
        }
        let (then, bounced_then) = *self.marks.front()?;
        if self.marks.back().is_none_or(|(last, _)| answers.saturating_sub(*last) >= (size / STEPS).max(1)) {
            self.marks.push_back((answers, bounced));
        }
        let seen = answers.saturating_sub(then);
        (seen >= size).then(|| bounced.saturating_sub(bounced_then) as f64 * 100.0 / seen as f64)
    }
}

/// What the counts call for.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The launch stops at a site.
    StopAt(Arc<str>, String),
    /// It pauses.
    Pause(String),
    /// Every launch of its From domain pauses.
    PauseAll(String),
    /// A person should know.
    Warn(Arc<str>, String),
}

impl Warden {
    pub fn new(handle: Handle, settings: config::Breaker) -> Warden {
        Warden { handle, settings, watched: BTreeMap::new() }
    }

    /// Looks every so often, until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        loop {
            if let Some(damage) = self.handle.store.damage() {
                return Err(damage.into());
            }
            let looked = self.look().await;
            self.handle.stalls.pass("warden", looked, &stop).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(TICK) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        self.end_late().await?;
        let launches = self.handle.store.open_launches()?;
        let breaks = self.handle.store.breaks(None)?;
        self.watched
            .retain(|id, _| launches.iter().any(|launch| launch.id == *id && launch.state == LaunchState::Running));
        for launch in launches.iter().filter(|launch| launch.state == LaunchState::Running) {
            let own: Vec<&Break> = breaks.iter().filter(|found| found.launch == launch.id).collect();
            let strains = self.handle.store.strains(launch.id, 1)?;
            let watch = self.watched.entry(launch.id).or_default();
            for verdict in watch.judge(&strains, &own, &self.settings) {
                self.carry_out(launch, &launches, verdict).await?;
            }
        }
        Ok(())
    }

    /// Cancels what is not out by its deadline, paused or not.
    async fn end_late(&self) -> Result<(), Error> {
        let now = self.handle.clock.now();
        for launch in self.handle.store.open_launches()? {
            let is_open = matches!(launch.state, LaunchState::Running | LaunchState::Paused);
            let Some(deadline) = launch.options.deadline.filter(|deadline| is_open && *deadline <= now) else {
                continue;
            };
            self.handle.cancel(launch.id).await?;
            let words = format!("its deadline of {deadline} has passed; what was not out by then is cancelled");
            let about = About { launch: Some(launch.id), ..About::default() };
            self.handle.notices.raise(NoticeKind::Deadline, about, &words, None);
        }
        Ok(())
    }

    async fn carry_out(&self, launch: &LaunchRow, all: &[LaunchRow], verdict: Verdict) -> Result<(), Error> {
        let tell = |kind, launch: LaunchId, site: Option<Arc<str>>, words: &str| {
            let about = About { site, source: None, launch: Some(launch) };
            self.handle.notices.raise(kind, about, words, None);
        };
        match verdict {
            Verdict::Warn(site, words) => tell(NoticeKind::Complaints, launch.id, Some(site), &words),
            Verdict::StopAt(site, words) => {
                if self.handle.stop(launch.id, Some(site.clone()), &words).await? {
                    tell(NoticeKind::Breaker, launch.id, Some(site), &words);
                }
            }
            Verdict::Pause(words) => {
                if self.handle.stop(launch.id, None, &words).await? {
                    tell(NoticeKind::Breaker, launch.id, None, &words);
                }
            }
            Verdict::PauseAll(words) => {
                let from = self.sender(launch);
                for other in all.iter().filter(|other| other.state == LaunchState::Running) {
                    let is_theirs = other.id == launch.id || from.is_some() && self.sender(other) == from;
                    if is_theirs && self.handle.stop(other.id, None, &words).await? {
                        tell(NoticeKind::Breaker, other.id, None, &words);
                    }
                }
            }
        }
        Ok(())
    }

    fn sender(&self, launch: &LaunchRow) -> Option<Domain> {
        let row = self.handle.store.edition(launch.edition).ok().flatten()?;
        let edition = Edition::from_bytes(&row.frozen).ok()?;
        Domain::parse(edition.from.address.rsplit_once('@')?.1).ok()
    }
}

impl Watch {
    /// Begins anew where a person has resumed the launch.
    fn begin_anew(&mut self, breaks: &[&Break]) {
        for found in breaks {
            let Some(at) = found.lifted else { continue };
            if self.lifted.insert(found.site.clone(), at) != Some(at) {
                self.samples.insert(found.site.clone(), Sample::beginning(found.counted));
            }
        }
    }

    fn judge(&mut self, strains: &[Strain], breaks: &[&Break], settings: &config::Breaker) -> Vec<Verdict> {
        let size = u64::from(settings.sample.max(1));
        self.begin_anew(breaks);
        let stopped =
            |site: &Arc<str>| breaks.iter().any(|found| found.lifted.is_none() && found.site.as_ref() == Some(site));
        let mut verdicts = Vec::new();
        for strain in strains.iter().filter(|strain| !stopped(&strain.site)) {
            let sample = self.samples.entry(Some(strain.site.clone())).or_default();
            if let Some(share) = sample.share(strain.answers, strain.bounced, size)
                && share > settings.bounced_at_site
            {
                let words = format!("{share:.1} % hard bounces at {} among the last {size} answers", strain.site);
                verdicts.push(Verdict::StopAt(strain.site.clone(), words));
            }
            verdicts.extend(self.complaints(strain, breaks, settings));
        }
        let (answers, bounced) =
            strains.iter().fold((0, 0), |(answers, bounced), one| (answers + one.answers, bounced + one.bounced));
        let whole = self.samples.entry(None).or_default();
        if let Some(share) = whole.share(answers, bounced, size)
            && share > settings.bounced
        {
            verdicts.push(Verdict::Pause(format!("{share:.1} % hard bounces among the last {size} answers")));
        }
        verdicts
    }

    /// Complaints come over days, so all of a launch at a site count.
    fn complaints(&mut self, strain: &Strain, breaks: &[&Break], settings: &config::Breaker) -> Option<Verdict> {
        let Strain { site, taken, complained, .. } = strain;
        if *taken < u64::from(settings.complained_sample.max(1)) {
            return None;
        }
        let share = *complained as f64 * 100.0 / *taken as f64;
        let words = format!("{share:.2} % of {taken} copies at {site} were called spam");
        // what a person has seen and resumed is no news
        let seen = breaks.iter().filter(|found| found.site.is_none()).map(|found| found.counted.complained).max();
        let more = seen.is_none_or(|seen| *complained > seen);
        if share >= settings.complained_all && more {
            return Some(Verdict::PauseAll(words));
        }
        if share >= settings.complained && more {
            return Some(Verdict::Pause(words));
        }
        let warned = self.warned.entry(site.clone()).or_default();
        (share >= settings.complained_warn && *warned == 0).then(|| {
            *warned = *complained;
            Verdict::Warn(site.clone(), words)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strain(site: &str, answers: u64, bounced: u64, complained: u64) -> Strain {
        Strain { site: site.into(), answers, bounced, taken: answers - bounced, complained }
    }

    /// What is decided as these counts come in, one after the other.
    fn judge(steps: &[Vec<Strain>]) -> Vec<Vec<Verdict>> {
        let mut watch = Watch::default();
        steps.iter().map(|strains| watch.judge(strains, &[], &config::Breaker::default())).collect()
    }

    #[test]
    fn five_per_cent_at_a_site_stop_it_there_and_ten_over_all_pause_the_launch() {
        let all = judge(&[vec![strain("a", 499, 400, 0)], vec![strain("a", 501, 20, 0), strain("b", 9000, 10, 0)]]);
        assert_eq!(all, [vec![], vec![]], "too few to tell; then a small share");
        let all = judge(&[vec![strain("a", 500, 26, 0), strain("b", 9000, 10, 0)]]);
        assert!(
            matches!(&all[0][..], [Verdict::StopAt(site, words)] if &**site == "a" && words.contains("5.2 %")),
            "{all:?}"
        );
        let all = judge(&[vec![strain("a", 500, 60, 0)]]);
        assert!(
            matches!(&all[0][..], [Verdict::StopAt(..), Verdict::Pause(words)] if words.contains("12.0 %")),
            "{all:?}"
        );
    }

    #[test]
    fn only_the_last_answers_count() {
        let mut sample = Sample::default();
        let mut shares = Vec::new();
        for step in 1..=100u64 {
            // a list whose dead addresses all come at the end
            let bounced = step.saturating_sub(90) * 20;
            shares.push(sample.share(step * 100, bounced, 500).unwrap_or(0.0));
        }
        assert_eq!(shares[..90].iter().copied().fold(0.0, f64::max), 0.0);
        assert!(shares[95] > 15.0, "{:?}", &shares[88..]);
    }

    #[test]
    fn what_was_resumed_counts_no_more() {
        let counted = Counted { answers: 500, bounced: 100, complained: 5 };
        let lifted = Break {
            launch: LaunchId(1),
            site: Some("a".into()),
            why: String::new(),
            since: Timestamp::from_ms(0),
            lifted: Some(Timestamp::from_ms(1)),
            counted,
        };
        let whole = Break { site: None, ..lifted.clone() };
        let breaks = [&lifted, &whole];
        let mut watch = Watch::default();
        watch.judge(&[strain("a", 500, 100, 0)], &[], &config::Breaker::default());
        let mut judge = |strain| watch.judge(&[strain], &breaks, &config::Breaker::default());
        assert_eq!(judge(strain("a", 600, 110, 0)), []);
        assert_eq!(judge(strain("a", 1010, 115, 0)), []);
        assert!(!judge(strain("a", 1600, 200, 0)).is_empty(), "it bounces again");
    }

    #[test]
    fn complaints_warn_then_pause_then_pause_all() {
        let all = judge(&[
            vec![strain("yahoo", 900, 0, 9)],
            vec![strain("yahoo", 10_000, 0, 7)],
            vec![strain("yahoo", 10_000, 0, 8)],
            vec![strain("yahoo", 10_000, 0, 9)],
            vec![strain("yahoo", 10_000, 0, 20)],
            vec![strain("yahoo", 10_000, 0, 30)],
        ]);
        let words: Vec<&str> = all
            .iter()
            .map(|verdicts| match &verdicts[..] {
                [] => "",
                [Verdict::Warn(..)] => "warn",
                [Verdict::Pause(_)] => "pause",
                [Verdict::PauseAll(_)] => "all",
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(words, ["", "", "warn", "", "pause", "all"]);
    }
}
