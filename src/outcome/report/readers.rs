//! What readers did with their copies: opened, clicked, left, complained. People and machines apart; whoever may not be
//! tracked is not counted, and the figures say of how many they speak.

use serde::Serialize;

use super::printable;
use crate::base::LaunchId;
use crate::compose::{ConsentRule, Edition, Tracking};
use crate::store::{self, Readers, Reading, Store};

/// What readers did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadersReport {
    /// Recipients who left a list by their copy.
    pub unsubscribed: u64,
    /// Recipients who called their copy spam.
    pub complained: u64,
    /// Copies opened; `None` when the campaign did not ask.
    pub opened: Option<Seen>,
    /// Copies of which at least one link was followed; `None` when the campaign did not ask.
    pub clicked: Option<Seen>,
    /// The campaign's links, those followed most first.
    pub links: Vec<LinkReport>,
}

/// How many copies were seen to be opened, or clicked in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// By whom.
    #[serde(flatten)]
    pub readers: Readers,
    /// Of how many delivered copies: those whose recipients may be tracked.
    pub of: u64,
}

/// One link of the campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// Where it leads, fields of contacts unfilled.
    pub url: String,
    /// Who followed it, each copy once.
    #[serde(flatten)]
    pub readers: Readers,
    /// How often people did.
    pub times: u64,
}

/// What the record has of a launch's readers.
pub(super) fn readers(store: &Store, launch: LaunchId, frozen: &[u8]) -> Result<ReadersReport, store::Error> {
    let (unsubscribed, complained) = store.answers(launch)?;
    let report = ReadersReport { unsubscribed, complained, ..ReadersReport::default() };
    let Some(edition) = Edition::from_bytes(frozen).ok().filter(|edition| is_tracked(edition.tracking)) else {
        return Ok(report);
    };
    let tracking = edition.tracking;
    let reading = store.reading(launch)?;
    let (opens, clicks) = store.consenting(launch, tracking.consent == ConsentRule::OptOut)?;
    Ok(ReadersReport {
        opened: tracking.opens.then_some(Seen { readers: reading.opened, of: opens }),
        clicked: tracking.clicks.then_some(Seen { readers: reading.clicked, of: clicks }),
        links: links(&edition, &reading),
        ..report
    })
}

fn is_tracked(tracking: Tracking) -> bool {
    tracking.opens || tracking.clicks
}

fn links(edition: &Edition, reading: &Reading) -> Vec<LinkReport> {
    let report = |(number, url): (usize, &String)| {
        let figure = reading.links.iter().find(|figure| usize::from(figure.number) == number);
        let readers = figure.map(|figure| figure.readers).unwrap_or_default();
        LinkReport { url: printable(url), readers, times: figure.map_or(0, |figure| figure.times) }
    };
    let mut links: Vec<LinkReport> = edition.links.iter().enumerate().map(report).collect();
    links.sort_by_key(|link| std::cmp::Reverse((link.readers.people, link.readers.machines)));
    links
}
