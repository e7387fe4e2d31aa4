//! What became of a campaign: its figures, in the form that scripts read. `text` tells them to a person at a terminal,
//! `page` draws them for a browser.

mod page;
mod readers;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use crate::audience::chosen_by;
use crate::base::{CampaignName, LaunchId, Timestamp};
use crate::delivery::relays::is_fixed_route;
use crate::delivery::via::Via;
use crate::mail::{Class, Notice, NoticeKind, Standing};
use crate::store::{self, Figure, LaunchKind, LaunchRow, LaunchState, Store};

pub use page::html;
pub use readers::{LinkReport, ReadersReport, Seen};
pub use text::{Ink, plain};

/// Incidents read for a report.
const INCIDENTS_MAX: usize = 10_000;

/// Copies counted by where they stand. `recipients` is always the sum of the eight standings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Everybody planned so far.
    pub recipients: u64,
    /// Never tried.
    pub waiting: u64,
    /// Taken by a host, and not bounced since.
    pub delivered: u64,
    /// Tried, to be tried again.
    pub deferred: u64,
    /// Refused, expired, or bounced later.
    pub failed: u64,
    /// Not sent: suppressed or unsubscribed when their turn came.
    pub barred: u64,
    /// Left out by `missing = "skip"`.
    pub skipped: u64,
    /// Called back.
    pub cancelled: u64,
    /// Held, their answer lost.
    pub in_doubt: u64,
    /// Those of `failed` that bounced after they were taken.
    pub bounced_late: u64,
    /// How often a copy was sent again after a lost answer.
    pub possible_doubles: u64,
    /// Attempts that came to a ruling.
    pub attempts: u64,
}

impl Counts {
    fn add(&mut self, figure: &Figure) {
        self.recipients += figure.copies;
        *self.of_mut(figure.standing) += figure.copies;
        if figure.late && figure.standing == Standing::Failed {
            self.bounced_late += figure.copies;
        }
        self.possible_doubles += figure.again;
        self.attempts += figure.tries;
    }

    fn of_mut(&mut self, standing: Standing) -> &mut u64 {
        match standing {
            Standing::Waiting => &mut self.waiting,
            Standing::Deferred => &mut self.deferred,
            Standing::Delivered => &mut self.delivered,
            Standing::Failed => &mut self.failed,
            Standing::Barred => &mut self.barred,
            Standing::Skipped => &mut self.skipped,
            Standing::Cancelled => &mut self.cancelled,
            Standing::InDoubt => &mut self.in_doubt,
        }
    }

    /// Copies that are not sent and never will be, through no fault of a host.
    fn left_out(&self) -> u64 {
        self.barred + self.skipped + self.cancelled
    }

    /// Copies that something may still become of.
    fn open(&self) -> u64 {
        self.waiting + self.deferred
    }
}

/// The figures of one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteReport {
    /// The site; for what was not routed, and with a relay named by hand, the recipients' domain.
    pub site: String,
    /// Its figures.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Copies with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonReport {
    /// The reason.
    pub class: Class,
    /// How many.
    pub count: u64,
    /// One of the answers.
    pub sample: String,
}

/// What became of a campaign. Serialized, it is the object that `--json` promises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CampaignReport {
    /// The campaign.
    pub campaign: CampaignName,
    /// The SHA-256 of the content that was sent, in hexadecimal.
    pub edition: String,
    /// All figures together.
    #[serde(flatten)]
    pub counts: Counts,
    /// When it was launched.
    pub started: Option<Timestamp>,
    /// When the last copy became final; `None` while one is not.
    pub finished: Option<Timestamp>,
    /// From the launch to its end, or to the last outcome so far.
    pub seconds: f64,
    /// Copies delivered per second.
    pub rate: f64,
    /// The figures of each site, the largest first.
    pub by_site: Vec<SiteReport>,
    /// Why copies failed, the most frequent reason first.
    pub failures: Vec<ReasonReport>,
    /// Why delivered copies bounced later, the most frequent reason first; they are part of `failures`.
    pub bounces: Vec<ReasonReport>,
    /// What readers did.
    #[serde(flatten)]
    pub readers: ReadersReport,
    /// Why copies are deferred, the most frequent reason first.
    #[serde(skip)]
    pub deferrals: Vec<ReasonReport>,
    /// What happened on the road meanwhile, and where the launch was stopped.
    pub incidents: Vec<Incident>,
    /// Where the launch stands.
    #[serde(skip)]
    pub state: LaunchState,
    /// The campaign itself, or test copies of it.
    #[serde(skip)]
    pub kind: LaunchKind,
}

/// The report of a launch as the record has it now; `None` when there is no such launch. Its cost grows with the number
/// of sites, not of copies.
pub fn report(store: &Store, launch: LaunchId) -> Result<Option<CampaignReport>, store::Error> {
    let Some(row) = store.launch(launch)? else { return Ok(None) };
    let edition = store.edition(row.edition)?;
    let figures = store.figures(launch)?;
    let mut counts = Counts::default();
    figures.iter().for_each(|figure| counts.add(figure));
    let last = figures.iter().filter(|figure| figure.standing != Standing::Waiting).map(|figure| figure.last).max();
    let end = row.finished.or(last).unwrap_or(row.started);
    let seconds = end.since(row.started).as_secs_f64();
    let rate = if seconds > 0.0 { counts.delivered as f64 / seconds } else { 0.0 };
    Ok(Some(CampaignReport {
        campaign: row.campaign.clone(),
        edition: edition.as_ref().map_or_else(String::new, |row| data_encoding::HEXLOWER.encode(&row.hash)),
        counts,
        started: Some(row.started),
        finished: row.finished,
        seconds,
        rate: (rate * 100.0).round() / 100.0,
        by_site: by_site(&figures),
        failures: reasons(store, launch, &figures, |figure| figure.standing == Standing::Failed)?,
        bounces: reasons(store, launch, &figures, |figure| figure.standing == Standing::Failed && figure.late)?,
        readers: readers::readers(store, launch, edition.as_ref().map_or(&[], |row| &row.frozen))?,
        deferrals: reasons(store, launch, &figures, |figure| figure.standing == Standing::Deferred)?,
        incidents: incidents(store, &row, &figures)?,
        state: row.state,
        kind: row.kind,
    }))
}

/// What stands in the report for the site of those that are not planned yet.
const UNPLANNED: &str = "(not planned yet)";

/// As [`report`]; those whom a launch under way has not planned yet count as waiting. Reads every member of its lists when
/// there are such.
pub fn whole_report(store: &Store, launch: LaunchId, now: Timestamp) -> Result<Option<CampaignReport>, store::Error> {
    let Some(row) = store.launch(launch)? else { return Ok(None) };
    let Some(mut found) = report(store, launch)? else { return Ok(None) };
    let is_open = matches!(row.state, LaunchState::Running | LaunchState::Paused);
    if row.planned || !is_open || row.kind != LaunchKind::Campaign {
        return Ok(Some(found));
    }
    // a segment that this version cannot read plans nobody
    let Ok(condition) = chosen_by(&row.options) else { return Ok(Some(found)) };
    let unplanned = store.unplanned(launch, row.options.only_domain.as_deref(), condition.as_ref(), now)?;
    let (_, planned) = store.planned(launch)?;
    let copies = row.options.limit.map_or(unplanned, |most| unplanned.min(most.saturating_sub(planned)));
    if copies > 0 {
        let counts = Counts { recipients: copies, waiting: copies, ..Counts::default() };
        found.counts.recipients += copies;
        found.counts.waiting += copies;
        found.by_site.push(SiteReport { site: UNPLANNED.to_owned(), counts });
        found.by_site.sort_by_key(|row| std::cmp::Reverse(row.counts.recipients));
    }
    Ok(Some(found))
}

/// The same thing that happened, once or several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// What.
    pub kind: NoticeKind,
    /// At which site.
    pub site: Option<String>,
    /// To which source.
    pub source: Option<String>,
    /// In the host's words, or ours.
    pub text: String,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// How often.
    pub count: u32,
}

impl Incident {
    /// The site, and from which source.
    fn whose(&self) -> String {
        let whose = [&self.site, &self.source].into_iter().flatten();
        whose.map(|name| printable(name)).collect::<Vec<_>>().join(" from ")
    }

    /// When, and how often.
    fn times(&self) -> String {
        match self.count {
            1 => moment(self.first),
            count => format!("{count} times from {} to {}", moment(self.first), moment(self.last)),
        }
    }
}

/// What happened between begin and end that concerns a launch: its own trouble, and that of the sites and relays it went
/// to.
fn incidents(store: &Store, launch: &LaunchRow, figures: &[Figure]) -> Result<Vec<Incident>, store::Error> {
    let sites: BTreeSet<&Arc<str>> = figures.iter().map(|figure| &figure.site).collect();
    let via = launch.options.via.as_deref().and_then(|via| Via::parse(via).ok()).map(|via| via.to_string());
    let concerns_site = |site: &Arc<str>| match &via {
        Some(via) => **site == **via,
        None => sites.contains(site) || is_fixed_route(site),
    };
    let to = launch.finished.unwrap_or(Timestamp::from_ms(i64::MAX));
    let mut found: Vec<Incident> = Vec::new();
    for notice in store.incidents(launch.started, to, INCIDENTS_MAX)? {
        let concerns = match (notice.launch, &notice.site) {
            (Some(of), _) => of == launch.id,
            (None, Some(site)) => concerns_site(site),
            (None, None) => notice.kind != NoticeKind::MailboxRefused,
        };
        let Notice { kind, site, source, text, at, .. } = notice;
        if !concerns {
            continue;
        }
        let (site, source) = (site.map(|name| name.to_string()), source.map(|name| name.to_string()));
        let same = |known: &&mut Incident| known.kind == kind && known.site == site && known.source == source;
        match found.iter_mut().find(same) {
            Some(known) => (known.last, known.count) = (at, known.count + 1),
            None => found.push(Incident { kind, site, source, text, first: at, last: at, count: 1 }),
        }
    }
    Ok(found)
}

fn by_site(figures: &[Figure]) -> Vec<SiteReport> {
    let mut sites: BTreeMap<&Arc<str>, Counts> = BTreeMap::new();
    for figure in figures {
        sites.entry(&figure.site).or_default().add(figure);
    }
    let mut rows: Vec<_> =
        sites.into_iter().map(|(site, counts)| SiteReport { site: site.to_string(), counts }).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.counts.recipients));
    rows
}

fn reasons(
    store: &Store,
    launch: LaunchId,
    figures: &[Figure],
    chosen: impl Fn(&Figure) -> bool,
) -> Result<Vec<ReasonReport>, store::Error> {
    let mut counted: BTreeMap<&str, (Class, Standing, u64)> = BTreeMap::new();
    for figure in figures.iter().filter(|figure| chosen(figure)) {
        let class = figure.class.unwrap_or(Class::Undetermined);
        counted.entry(class.word()).or_insert((class, figure.standing, 0)).2 += figure.copies;
    }
    let mut rows = Vec::new();
    for (class, standing, count) in counted.into_values() {
        rows.push(ReasonReport { class, count, sample: printable(&store.sample(launch, standing, class)?) });
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    Ok(rows)
}

/// A host's words without what could steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in per cent with one digit; what is not all never reads as 100 %, what is not nothing never as 0 %.
fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    if part == whole {
        return "100 %".to_owned();
    }
    match part as f64 / whole as f64 * 100.0 {
        ..0.05 => "<0.1 %".to_owned(),
        99.95.. => ">99.9 %".to_owned(),
        share => format!("{share:.1} %"),
    }
}

/// A length of time in its two largest units.
fn lasted(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A point in time for people: UTC, to the second.
fn moment(at: Timestamp) -> String {
    let text = at.rfc3339();
    format!("{} {} UTC", &text[..10], &text[11..19])
}

#[cfg(test)]
mod tests;
