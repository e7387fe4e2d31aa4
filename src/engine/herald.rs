//! The herald: puts what happens on the road on record, pauses what cannot go on like this, and tells people what needs
//! them: not the same thing twice in a while, and never more than they can read.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::handle::Handle;
use crate::base::{LaunchId, Timestamp, shell_argument};
use crate::compose::{Edition, Template};
use crate::config;
use crate::delivery::alert::{Alert, Alerts};
use crate::delivery::source::host_name;
use crate::mail::{Notice, NoticeKind};
use crate::store::{LaunchKind, LaunchRow};

/// Alerts on their way at once.
const TELLING_MAX: usize = 4;
/// Things told that are remembered.
const TOLD_MAX: usize = 1000;
const HOUR: Duration = Duration::from_secs(3600);
/// How often it is looked what everybody waits for.
const LOOK: Duration = Duration::from_secs(5);
/// A stall as short as this passes before anybody has read of it.
const PASSING: Duration = Duration::from_secs(10);

/// Records, pauses, tells.
pub(super) struct Herald {
    handle: Handle,
    noticed: mpsc::Receiver<Notice>,
    alerts: Alerts,
    hush: Hush,
    /// Since when the stall lasts that was told last.
    stall_told: Option<Timestamp>,
}

impl Herald {
    pub fn new(handle: Handle, noticed: mpsc::Receiver<Notice>, alerts: Alerts, settings: &config::Alert) -> Herald {
        let hush = Hush::new(settings.repeat.duration(), settings.most_per_hour);
        Herald { handle, noticed, alerts, hush, stall_told: None }
    }

    /// Until it is stopped; what was noticed by then is told before it ends.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut telling: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let (alarm, mut failed) = (self.handle.alarm.clone(), false);
        let mut look = Instant::now() + LOOK;
        loop {
            let room = telling.len() < TELLING_MAX;
            let notice = tokio::select! {
                biased;
                Some(()) = telling.next(), if !telling.is_empty() => continue,
                error = alarm.rung(), if !failed => {
                    failed = true;
                    self.stopped(&error)
                }
                Some(notice) = self.noticed.recv(), if room => notice,
                () = stop.cancelled() => break,
                () = sleep_until(look) => {
                    look += LOOK;
                    match self.stalled() {
                        Some(notice) => notice,
                        None => continue,
                    }
                }
            };
            telling.extend(self.take(notice).await);
        }
        while let Ok(notice) = self.noticed.try_recv() {
            telling.extend(self.take(notice).await);
        }
        while telling.next().await.is_some() {}
        Ok(())
    }

    /// One notice: on record, obeyed, and told if it is news.
    async fn take(&mut self, notice: Notice) -> Option<BoxFuture<'static, ()>> {
        if let Err(error) = self.handle.store.note_incident(notice.clone()).await {
            tracing::error!(%error, "an incident could not be recorded");
        }
        let paused = match (notice.kind, notice.launch) {
            (NoticeKind::Misconfigured, Some(launch)) if self.is_campaign(launch) => {
                self.handle.stop(launch, None, &notice.text).await
            }
            (_, Some(_) | None) => Ok(false),
        };
        if let Err(error) = paused {
            tracing::error!(%error, "a launch was not paused");
        }
        if !notice.kind.alerts() || !self.alerts.are_any() {
            return None;
        }
        let held_back = self.hush.may_tell(&notice, Instant::now())?;
        let (alert, alerts) = (self.alert(&notice, held_back), self.alerts.clone());
        Some(async move { drop(alerts.tell(&alert).await) }.boxed())
    }

    fn alert(&self, notice: &Notice, held_back: u32) -> Alert {
        let launch = notice.launch.and_then(|launch| self.handle.store.launch(launch).ok().flatten());
        let is_printable = launch.as_ref().is_none_or(|row| self.is_printable(row));
        let campaign = launch.map(|row| row.campaign.to_string());
        let owned = |name: &Option<std::sync::Arc<str>>| name.as_deref().map(str::to_owned);
        Alert {
            kind: notice.kind.word().to_owned(),
            text: notice.text.clone(),
            site: owned(&notice.site),
            source: owned(&notice.source),
            remedy: remedy(notice, campaign.as_deref(), is_printable),
            campaign,
            until: notice.until,
            at: notice.at,
            host: host_name(),
            held_back,
        }
    }

    /// Test copies are looked at by whoever sent them, and cannot be resumed.
    fn is_campaign(&self, launch: LaunchId) -> bool {
        let row = self.handle.store.launch(launch).ok().flatten();
        row.is_some_and(|row| row.kind == LaunchKind::Campaign)
    }

    /// Whether this version prints what was frozen with a launch: an earlier one may have let through what it does not.
    fn is_printable(&self, launch: &LaunchRow) -> bool {
        let frozen = self.handle.store.edition(launch.edition).ok().flatten();
        let edition = frozen.and_then(|row| Edition::from_bytes(&row.frozen).ok());
        edition.is_some_and(|edition| Template::compile(&edition).is_ok())
    }

    fn stopped(&self, error: &Error) -> Notice {
        self.of_engine(NoticeKind::Stopped, error)
    }

    /// What everybody has been waiting for, for some time; each stall is told once.
    fn stalled(&mut self) -> Option<Notice> {
        let now = self.handle.clock.now();
        let lasting = self.handle.stalls.all().into_iter().find(|stall| now.since(stall.since) >= PASSING)?;
        if self.stall_told.replace(lasting.since) == Some(lasting.since) {
            return None;
        }
        Some(self.of_engine(NoticeKind::Stalled, &lasting.why))
    }

    fn of_engine(&self, kind: NoticeKind, error: &Error) -> Notice {
        let (text, at) = (error.to_string(), self.handle.clock.now());
        Notice { kind, site: None, source: None, launch: None, text, until: None, at }
    }
}

/// What to do about it. `is_printable`: this version prints what was frozen with the launch.
fn remedy(notice: &Notice, campaign: Option<&str>, is_printable: bool) -> String {
    let site = shell_argument(notice.site.as_deref().unwrap_or("SITE"));
    let campaign = campaign.unwrap_or("CAMPAIGN");
    match notice.kind {
        NoticeKind::Held | NoticeKind::WarmupStopped => {
            format!("mend what the host complains of, then: mailshot queue resume {site}")
        }
        NoticeKind::Misconfigured if !is_printable => format!(
            "no copy is lost, and none goes out with this version: let the one that began it end it; or call the rest back with \
             mailshot cancel {campaign}, and send a mended copy of its folder, which goes to all of its list again"
        ),
        NoticeKind::Misconfigured => {
            format!("mailshot check {campaign} shows what is wrong; then: mailshot resume {campaign}")
        }
        NoticeKind::Breaker => format!("look at mailshot report {campaign}; then: mailshot resume {campaign}"),
        NoticeKind::Deadline => {
            format!("mailshot report {campaign} shows who got it; to go on, send a copy of its folder to the rest")
        }
        NoticeKind::Complaints => {
            format!("mailshot report {campaign} shows who complained where; it is paused when more do")
        }
        NoticeKind::SourceGone => "give the address back to this machine; it is looked for every minute".to_owned(),
        NoticeKind::MailboxRefused => {
            "put a valid password or token where [[mailbox]] says; `mailshot bounces poll` tries it".to_owned()
        }
        NoticeKind::Stalled => "mend what it says: sending goes on by itself; mailshot queue top shows it".to_owned(),
        NoticeKind::Stopped => "mend what it says; then: mailshot serve, or the same mailshot send again".to_owned(),
        NoticeKind::Paused | NoticeKind::Slowed | NoticeKind::Trial => String::new(),
    }
}

/// Keeps alerts readable.
struct Hush {
    repeat: Duration,
    most_per_hour: usize,
    told: BTreeMap<String, Instant>,
    hour: VecDeque<Instant>,
    held_back: u32,
}

impl Hush {
    fn new(repeat: Duration, most_per_hour: u32) -> Hush {
        let most_per_hour = most_per_hour.max(1) as usize;
        Hush { repeat, most_per_hour, told: BTreeMap::new(), hour: VecDeque::new(), held_back: 0 }
    }

    /// Whether this is told now; with how many were held back since the last one.
    fn may_tell(&mut self, notice: &Notice, now: Instant) -> Option<u32> {
        let Notice { kind, site, source, launch, .. } = notice;
        // the same block heard at every site is not the same thing; the same one with another text is
        let key = format!("{} {site:?} {source:?} {launch:?}", kind.word());
        self.told.retain(|_, at| now.saturating_duration_since(*at) < self.repeat);
        while self.hour.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
            self.hour.pop_front();
        }
        let news = !self.told.contains_key(&key);
        if !news || self.hour.len() >= self.most_per_hour || self.told.len() >= TOLD_MAX {
            self.held_back += 1;
            return None;
        }
        self.told.insert(key, now);
        self.hour.push_back(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(site: &str) -> Notice {
        Notice {
            kind: NoticeKind::Held,
            site: Some(site.into()),
            source: None,
            launch: None,
            text: "blocked".into(),
            until: None,
            at: Timestamp::from_ms(0),
        }
    }

    #[test]
    fn what_is_advised_can_be_pasted() {
        for (site, command) in [
            ("outlook", "then: mailshot queue resume outlook"),
            ("a; touch owned", "then: mailshot queue resume 'a; touch owned'"),
            ("--yes", "then: mailshot queue resume -- --yes"),
        ] {
            assert!(remedy(&held(site), None, true).ends_with(command), "{site}");
        }
    }

    #[test]
    fn nobody_is_told_to_resume_what_this_version_cannot_print() {
        let notice = Notice { kind: NoticeKind::Misconfigured, launch: Some(LaunchId(1)), ..held("a") };
        assert!(remedy(&notice, Some("may"), true).ends_with("then: mailshot resume may"));
        let told = remedy(&notice, Some("may"), false);
        assert!(
            told.contains("no copy is lost") && told.contains("mailshot cancel may") && !told.contains("resume"),
            "{told}"
        );
    }

    #[test]
    fn the_same_is_told_once_in_a_while_and_all_together_no_more_than_so_many_an_hour() {
        let start = Instant::now();
        let mut hush = Hush::new(HOUR, 3);
        assert_eq!(hush.may_tell(&held("a"), start), Some(0));
        assert_eq!(hush.may_tell(&held("a"), start + Duration::from_secs(60)), None, "the same");
        assert_eq!(hush.may_tell(&held("b"), start), Some(1), "and says how many were held back");
        assert_eq!(hush.may_tell(&held("c"), start), Some(0));
        assert_eq!(hush.may_tell(&held("d"), start), None, "three an hour");
        assert_eq!(hush.may_tell(&held("d"), start + HOUR), Some(1));
        assert_eq!(hush.may_tell(&held("a"), start + HOUR * 2), Some(0), "again after a while");
    }
}
