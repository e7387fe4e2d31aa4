//! What is shown of the sites, and what a person may do to them: the handle behind `queue top`, `explain`, `suspend` and
//! `resume`. The figures come from the stewards themselves when they are asked for; nothing is kept here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::limits::{Binding, NotNow};

/// Orders that may wait for the courier.
pub(super) const COMMANDS_MAX: usize = 16;

/// How things stand between one source and one site.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct SiteStatus {
    /// The site; for a relay named by hand its address as given.
    pub site: String,
    /// The source's name.
    pub source: String,
    /// Domains of this site that have copies due.
    pub domains: u64,
    /// Copies on lease: ready to go, or on a connection.
    pub leased: u64,
    /// Connections open or being opened.
    pub connections: u64,
    /// Connections of use now.
    pub window: u16,
    /// Copies a second over the last seconds.
    pub rate_now: f64,
    /// Copies a second allowed; none: no limit.
    pub rate_allowed: Option<f64>,
    /// What the site said last when it refused something.
    pub last_reply: Option<String>,
    /// What binds now, in words; none: only the hosts' own speed.
    pub binds: Option<String>,
    /// Whether a person has to resume it.
    pub held: bool,
    /// How far the source is known there, in words; none: it is.
    pub warmup: Option<String>,
}

/// What a person asks of the courier.
pub(super) enum Command {
    /// Every steward is to say how it stands.
    Show(mpsc::Sender<SiteStatus>),
    /// Nothing more to this site.
    Suspend(Arc<str>, String, oneshot::Sender<()>),
    /// Let it go on.
    Resume(Arc<str>, oneshot::Sender<()>),
    /// The table of shapes has changed.
    Reshape,
}

/// The sites as a person sees them. Cheap to clone.
#[derive(Clone)]
pub struct Sites {
    courier: mpsc::Sender<Command>,
}

impl Sites {
    pub(super) fn new() -> (Sites, mpsc::Receiver<Command>) {
        let (courier, commands) = mpsc::channel(COMMANDS_MAX);
        (Sites { courier }, commands)
    }

    /// Every site that is being served now, by site and source. Empty once the courier has stopped.
    pub async fn snapshot(&self) -> Vec<SiteStatus> {
        let (show, mut shown) = mpsc::channel(64);
        let mut all = Vec::new();
        if self.courier.send(Command::Show(show)).await.is_ok() {
            while let Some(status) = shown.recv().await {
                all.push(status);
            }
        }
        all.sort_by(|a, b| (&a.site, &a.source).cmp(&(&b.site, &b.source)));
        all
    }

    /// Sends nothing more to a site, from any source, until it is resumed; holds over restarts. Copies on the wire are
    /// finished.
    pub async fn suspend(&self, site: &str, why: &str) {
        let (done, told) = oneshot::channel();
        if self.courier.send(Command::Suspend(site.into(), why.to_owned(), done)).await.is_ok() {
            let _ = told.await;
        }
    }

    /// Lets the table of shapes hold as it is now, for every site.
    pub async fn reshape(&self) {
        // a courier that has stopped has no sites
        let _ = self.courier.send(Command::Reshape).await;
    }

    /// The sites of a courier that is not there.
    #[cfg(test)]
    pub(crate) fn nobody() -> Sites {
        Sites::new().0
    }

    /// Lets a site go on, whatever held it up: a person, a pause, a block.
    pub async fn resume(&self, site: &str) {
        let (done, told) = oneshot::channel();
        if self.courier.send(Command::Resume(site.into(), done)).await.is_ok() {
            let _ = told.await;
        }
    }
}

/// What binds, in words.
pub(super) fn in_words(no: &NotNow) -> String {
    let what = match &no.binds {
        Binding::Held(why) => format!("held until resumed: {why}"),
        Binding::Paused(why) => format!("paused: {why}"),
        Binding::Connections(most) => format!("{most} connections, as many as the window allows"),
        Binding::ConnectionRate => "the rate of new connections".to_owned(),
        Binding::MessageRate => "the rate of messages".to_owned(),
        Binding::Warmup(day) => day.clone(),
    };
    match no.wait.filter(|wait| *wait >= Duration::from_secs(1)) {
        Some(wait) => format!("{what} (for {} s)", wait.as_secs()),
        None => what,
    }
}
