//! Live figures of what is on the road, in the form that scripts read.

use serde::{Deserialize, Serialize};

use super::Error;
use super::handle::Handle;
use super::stalls::Stalled;
use crate::base::{Domain, Timestamp};
use crate::delivery::sites::{SiteStatus, as_domain, standing_still};
use crate::queue::DomainDepth;

/// Domains shown.
const DOMAINS_MAX: usize = 50;

/// What is on the road.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueView {
    /// The process that holds the queue.
    pub pid: u32,
    /// Whether it sends; else it only looks at the queue, or moves something, and soon ends.
    #[serde(default = "is_sending")]
    pub sending: bool,
    /// Copies waiting or being sent.
    pub waiting: u64,
    /// Copies of paused campaigns.
    pub held: u64,
    /// When the next copy may go that is not being sent (RFC 3339); null: none waits.
    pub next: Option<String>,
    /// The sites that are being served, by site and source; none while nothing is sent.
    pub sites: Vec<SiteView>,
    /// What stands still: rests, is blocked, or is held by a person.
    pub still: Vec<StillView>,
    /// The domains with the most copies, at most 50.
    pub domains: Vec<DomainView>,
    /// What everybody waits for; while the queue itself is waited for, `next`, `sites`, `still` and `domains` are empty.
    #[serde(default)]
    pub stalled: Vec<StallView>,
}

/// Of a process that does not say it is the one that sends.
fn is_sending() -> bool {
    true
}

/// A disk or a record that takes nothing: all goes on by itself once it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallView {
    /// Since when (RFC 3339).
    pub since: String,
    /// Why, and what to do.
    pub why: String,
}

/// A site or a domain to which nothing goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillView {
    /// The site; for a relay named by hand its address as given; or the domain.
    pub name: String,
    /// The source's name; null: a person holds the site for every source, and the domain of that name whatever way its
    /// mail goes.
    pub source: Option<String>,
    /// Whether a person has to resume it.
    pub held: bool,
    /// Since when (RFC 3339); null: not known.
    pub since: Option<String>,
    /// When it moves again (RFC 3339); null while it is held.
    pub until: Option<String>,
    /// Why.
    pub why: String,
}

/// How things stand between one source and one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    /// The site; for a relay named by hand its address as given.
    pub site: String,
    /// The source's name.
    pub source: String,
    /// Copies in its hands.
    pub leased: u64,
    /// Connections open or being opened.
    pub connections: u64,
    /// Connections of use now.
    pub window: u16,
    /// Copies a second over the last seconds.
    pub rate_now: f64,
    /// Copies a second allowed; null: no limit.
    pub rate_allowed: Option<f64>,
    /// What the site said last when it refused something.
    pub last_reply: Option<String>,
    /// What holds its mail back now; null: only the hosts' own speed.
    pub binds: Option<String>,
    /// Whether a person has to resume it.
    pub held: bool,
    /// How far the source is known there, in words; null: it is.
    pub warmup: Option<String>,
}

impl StillView {
    /// The domain that a person holds with it, whatever way its mail goes.
    pub fn domain(&self) -> Option<Domain> {
        as_domain(&self.name).filter(|_| self.source.is_none())
    }
}

impl StallView {
    /// A line for a person.
    pub fn in_words(&self) -> String {
        format!("nothing goes on since {}: {}. It goes on by itself once that is mended", self.since, self.why)
    }
}

impl From<SiteStatus> for SiteView {
    fn from(status: SiteStatus) -> SiteView {
        SiteView {
            site: status.site.to_string(),
            source: status.source.to_string(),
            leased: status.leased,
            connections: status.connections,
            window: status.window,
            rate_now: status.rate_now,
            rate_allowed: status.rate_allowed,
            last_reply: status.last_reply,
            binds: status.binds,
            held: status.held,
            warmup: status.warmup,
        }
    }
}

/// What is on the road to one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainView {
    /// The domain.
    pub domain: String,
    /// Copies waiting or being sent.
    pub waiting: u32,
    /// Copies in the hands of a connection.
    pub leased: u32,
    /// When the next may go (RFC 3339); null while some are being sent.
    pub next: Option<String>,
}

/// One copy in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyView {
    /// When it is due (RFC 3339).
    pub due: String,
    /// When it is given up (RFC 3339); null before its first attempt, from which that counts.
    pub expires: Option<String>,
    /// Attempts so far.
    pub tries: u16,
    /// Whether it is in the hands of a connection.
    pub leased: bool,
    /// Whether it is put aside, its campaign being paused.
    pub held: bool,
}

impl DomainView {
    /// A domain as the queue has it.
    pub(super) fn of(row: &DomainDepth) -> DomainView {
        DomainView {
            domain: row.domain.to_string(),
            waiting: row.waiting,
            leased: row.leased,
            next: row.next.map(|next: Timestamp| next.max(row.rest).rfc3339()),
        }
    }
}

impl QueueView {
    /// What is on the road now. While the queue waits for its disk it answers nobody, and only that is shown.
    pub async fn of(handle: &Handle) -> Result<QueueView, Error> {
        tokio::select! {
            biased;
            _ = handle.queue().stalled() => Ok(QueueView::bare(handle)),
            view = QueueView::whole(handle) => view,
        }
    }

    /// What is known without asking anybody.
    fn bare(handle: &Handle) -> QueueView {
        let depth = handle.depth();
        let stall = |found: Stalled| StallView { since: found.since.rfc3339(), why: found.why.to_string() };
        QueueView {
            pid: std::process::id(),
            sending: handle.sites().is_some(),
            waiting: depth.waiting,
            held: depth.held,
            next: None,
            sites: Vec::new(),
            still: Vec::new(),
            domains: Vec::new(),
            stalled: handle.stalls.all().into_iter().map(stall).collect(),
        }
    }

    async fn whole(handle: &Handle) -> Result<QueueView, Error> {
        let all = handle.queue().domains(usize::MAX).await?;
        let next = all.iter().filter_map(|row| Some(row.next?.max(row.rest))).min();
        let domains = all.iter().take(DOMAINS_MAX).map(DomainView::of);
        let still = standing_still(handle.queue(), handle.now()).await?.into_iter().map(|row| StillView {
            source: row.source.map(|id| handle.source_name(id)),
            name: row.name,
            held: row.held,
            since: row.since.map(Timestamp::rfc3339),
            until: row.until.map(Timestamp::rfc3339),
            why: row.why,
        });
        let sites = match handle.sites() {
            Some(sites) => sites.snapshot().await.into_iter().map(SiteView::from).collect(),
            None => Vec::new(),
        };
        Ok(QueueView {
            next: next.map(Timestamp::rfc3339),
            sites,
            still: still.collect(),
            domains: domains.collect(),
            ..QueueView::bare(handle)
        })
    }
}
