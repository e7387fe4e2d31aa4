//! Live figures of what is on the road, in the form that scripts read.

use serde::{Deserialize, Serialize};

use super::Error;
use super::handle::Handle;
use crate::base::Timestamp;

/// Domains shown.
const DOMAINS_MAX: usize = 50;

/// What is on the road.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// The process that holds the queue.
    pub pid: u32,
    /// Copies waiting or being sent.
    pub waiting: u64,
    /// Copies of paused campaigns.
    pub held: u64,
    /// The domains with the most copies, at most 50.
    pub domains: Vec<DomainView>,
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

impl QueueView {
    /// What is on the road now.
    pub async fn of(handle: &Handle) -> Result<QueueView, Error> {
        let depth = handle.depth();
        let domains = handle.queue().domains(DOMAINS_MAX).await?.into_iter().map(|row| DomainView {
            domain: row.domain.to_string(),
            waiting: row.waiting,
            leased: row.leased,
            next: row.next.map(|next: Timestamp| next.max(row.rest).rfc3339()),
        });
        Ok(QueueView { pid: std::process::id(), waiting: depth.waiting, held: depth.held, domains: domains.collect() })
    }
}
