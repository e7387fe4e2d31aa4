//! The report as one self-contained page: charts are SVG drawn here, nothing is loaded and nothing runs. Every chart
//! stands beside its numbers. Whatever hosts and people wrote is escaped by the template.

use std::time::Duration;

use handlebars::Handlebars;
use serde::Serialize;

use super::{
    CampaignReport, Counts, Incident, LinkReport, ReadersReport, ReasonReport, Seen, SiteReport, grouped, lasted,
    moment, percent, printable,
};
use crate::base::{LaunchId, Timestamp};
use crate::store::{self, Store};

const PAGE: &str = include_str!("page.hbs");
/// Sites listed one by one.
const SITES_MAX: usize = 100;
/// Incidents listed.
const INCIDENTS_MAX: usize = 100;
/// The width of every drawing in its own units.
const WIDTH: f64 = 1000.0;
/// The height of the curve in its own units.
const HEIGHT: f64 = 220.0;
/// The least width of a part that is not nothing.
const PART_MIN: f64 = 6.0;
/// Columns of the curve at most.
const COLUMNS_MAX: u128 = 96;
/// Spans a column of the curve may stand for, in milliseconds: those that people count in.
const SPANS_MS: [u64; 21] = [
    100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000,
    3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000, 86_400_000,
];

#[derive(Serialize)]
struct Page<'a> {
    campaign: &'a str,
    edition: &'a str,
    standing: &'a str,
    facts: Vec<(&'static str, String)>,
    share: String,
    summary: String,
    bar: Vec<Part>,
    cards: Vec<Card>,
    curve: Option<Curve>,
    sites: Vec<SiteLine>,
    more_sites: Option<String>,
    reasons: Vec<ReasonTable>,
    readers: Option<ReadersPart>,
    incidents: Vec<IncidentLine>,
}

/// What readers did.
#[derive(Serialize)]
struct ReadersPart {
    note: &'static str,
    deeds: Vec<Deed>,
    links: Vec<LinkLine>,
}

/// One thing that readers did, with a bar of people and machines.
#[derive(Serialize)]
struct Deed {
    name: &'static str,
    count: String,
    share: String,
    about: String,
    bar: Vec<Part>,
}

/// One link of the campaign.
#[derive(Serialize)]
struct LinkLine {
    url: String,
    people: String,
    times: String,
    machines: String,
    bar: Vec<Part>,
}

/// One part of a bar.
#[derive(Serialize)]
struct Part {
    x: String,
    width: String,
    tone: &'static str,
    title: String,
}

/// One figure of the summary.
#[derive(Serialize)]
struct Card {
    name: &'static str,
    value: String,
    share: String,
    tone: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
struct SiteLine {
    site: String,
    recipients: String,
    delivered: String,
    deferred: String,
    failed: String,
    other: String,
    share: String,
    bar: Vec<Part>,
}

#[derive(Serialize)]
struct IncidentLine {
    kind: String,
    whose: String,
    times: String,
    text: String,
}

#[derive(Serialize)]
struct ReasonTable {
    title: &'static str,
    tone: &'static str,
    lines: Vec<ReasonLine>,
}

#[derive(Serialize)]
struct ReasonLine {
    class: &'static str,
    about: &'static str,
    count: String,
    share: String,
    width: String,
    sample: String,
}

/// Deliveries over time.
#[derive(Serialize)]
struct Curve {
    per: String,
    top: String,
    half: String,
    peak: String,
    columns: Vec<Column>,
    times: Vec<String>,
}

#[derive(Serialize)]
struct Column {
    x: String,
    y: String,
    width: String,
    height: String,
    time: String,
    count: String,
}

/// The page of a report. Reads the launch's copies once for the curve of deliveries.
pub fn html(store: &Store, launch: LaunchId, report: &CampaignReport) -> Result<String, store::Error> {
    let curve = curve(store, launch, report)?;
    let counts = &report.counts;
    let page = Page {
        campaign: report.campaign.as_str(),
        edition: report.edition.get(..12).unwrap_or(&report.edition),
        standing: report.standing(),
        facts: facts(report),
        share: percent(counts.delivered, counts.recipients),
        summary: summary(counts),
        bar: bar(counts),
        cards: cards(counts),
        curve,
        sites: report.by_site.iter().take(SITES_MAX).map(site_line).collect(),
        more_sites: more_sites(&report.by_site),
        reasons: [
            reason_table("Why copies failed", "failed", &report.failures),
            reason_table("Bounced after they were delivered", "failed", &report.bounces),
            reason_table("Why copies wait for another attempt", "deferred", &report.deferrals),
        ]
        .into_iter()
        .filter(|table| !table.lines.is_empty())
        .collect(),
        readers: readers(report),
        incidents: report.incidents.iter().take(INCIDENTS_MAX).map(incident_line).collect(),
    };
    let mut printer = Handlebars::new();
    printer.set_strict_mode(true);
    let printed = printer.render_template(PAGE, &page);
    Ok(printed.expect("the page's template names only what the page has"))
}

fn incident_line(incident: &Incident) -> IncidentLine {
    IncidentLine {
        kind: incident.kind.word().replace('_', " "),
        whose: incident.whose(),
        times: incident.times(),
        text: printable(&incident.text),
    }
}

fn facts(report: &CampaignReport) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    facts.extend(report.started.map(|at| ("Launched", moment(at))));
    facts.extend(report.finished.map(|at| ("Finished", moment(at))));
    if report.seconds > 0.0 {
        facts.push((if report.finished.is_some() { "Took" } else { "So far" }, lasted(report.seconds)));
    }
    if report.rate > 0.0 {
        facts.push(("Pace", format!("{:.1} delivered a second", report.rate)));
    }
    facts.push(("Attempts", grouped(report.counts.attempts)));
    facts
}

/// What became of it, in a sentence.
fn summary(counts: &Counts) -> String {
    let mut parts = vec![format!("{} of {} copies delivered", grouped(counts.delivered), grouped(counts.recipients))];
    let told = [
        (counts.deferred, "will be tried again"),
        (counts.waiting, "not tried yet"),
        (counts.failed, "failed"),
        (counts.in_doubt, "in doubt"),
        (counts.left_out(), "not sent on purpose"),
    ];
    parts
        .extend(told.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", grouped(*count))));
    parts.join(", ") + "."
}

/// The figures in the order in which bars show them, with their tones.
fn shares(counts: &Counts) -> [(&'static str, u64, &'static str); 6] {
    [
        ("delivered", counts.delivered, "delivered"),
        ("deferred", counts.deferred, "deferred"),
        ("failed", counts.failed, "failed"),
        ("in doubt", counts.in_doubt, "doubt"),
        ("waiting", counts.waiting, "waiting"),
        ("not sent", counts.left_out(), "out"),
    ]
}

fn cards(counts: &Counts) -> Vec<Card> {
    let rows = [
        ("Delivered", counts.delivered, "delivered", "taken by the recipient’s mail host", true),
        ("Deferred", counts.deferred, "deferred", "to be tried again", true),
        ("Failed", counts.failed, "failed", "refused, expired or bounced", true),
        ("Bounced later", counts.bounced_late, "failed", "of the failed: came back after delivery", false),
        ("In doubt", counts.in_doubt, "doubt", "their answer was lost; held", false),
        ("Waiting", counts.waiting, "waiting", "not tried yet", false),
        ("Barred", counts.barred, "out", "suppressed or unsubscribed", false),
        ("Skipped", counts.skipped, "out", "a field was missing", false),
        ("Cancelled", counts.cancelled, "out", "called back", false),
        ("Possible doubles", counts.possible_doubles, "doubt", "sent again after a lost answer", false),
    ];
    let shown = rows.into_iter().filter(|(_, count, _, _, always)| *always || *count > 0);
    shown
        .map(|(name, count, tone, about, _)| Card {
            name,
            value: grouped(count),
            share: percent(count, counts.recipients),
            tone,
            about,
        })
        .collect()
}

/// A bar of the shares, as wide as the drawing; what is not nothing is wide enough to be seen.
fn bar(counts: &Counts) -> Vec<Part> {
    let shown: Vec<_> = shares(counts).into_iter().filter(|(_, count, _)| *count > 0).collect();
    let raw = |count: u64| (count as f64 / counts.recipients as f64 * WIDTH).max(PART_MIN);
    let scale = WIDTH / shown.iter().map(|(_, count, _)| raw(*count)).sum::<f64>();
    let mut x = 0.0;
    let mut parts = Vec::new();
    for (name, count, tone) in shown {
        let width = raw(count) * scale;
        let title = format!("{name}: {} ({})", grouped(count), percent(count, counts.recipients));
        parts.push(Part { x: units(x), width: units(width), tone, title });
        x += width;
    }
    parts
}

fn site_line(row: &SiteReport) -> SiteLine {
    let counts = &row.counts;
    SiteLine {
        site: row.site.clone(),
        recipients: grouped(counts.recipients),
        delivered: grouped(counts.delivered),
        deferred: grouped(counts.deferred),
        failed: grouped(counts.failed),
        other: grouped(counts.waiting + counts.in_doubt + counts.left_out()),
        share: percent(counts.delivered, counts.recipients),
        bar: bar(counts),
    }
}

fn readers(report: &CampaignReport) -> Option<ReadersPart> {
    let ReadersReport { unsubscribed, complained, opened, clicked, links } = &report.readers;
    let delivered = report.counts.delivered + report.counts.bounced_late;
    let mut deeds = Vec::new();
    deeds.extend(opened.map(|seen| seen_deed("Opened", seen)));
    deeds.extend(clicked.map(|seen| seen_deed("Clicked", seen)));
    for (name, count, about) in [
        ("Unsubscribed", *unsubscribed, "left a list by their copy"),
        ("Complained", *complained, "called their copy spam"),
    ] {
        if count > 0 || !deeds.is_empty() {
            let bar = parts(&[("", count, "failed")], delivered);
            let share = percent(count, delivered);
            deeds.push(Deed { name, count: grouped(count), share, about: about.to_owned(), bar });
        }
    }
    let most = links.iter().map(|link| link.readers.people + link.readers.machines).max().unwrap_or(0);
    let line = |link: &LinkReport| LinkLine {
        url: link.url.clone(),
        people: grouped(link.readers.people),
        times: grouped(link.times),
        machines: grouped(link.readers.machines),
        bar: parts(
            &[("people", link.readers.people, "delivered"), ("machines alone", link.readers.machines, "waiting")],
            most,
        ),
    };
    let is_partial = [opened, clicked].iter().any(|seen| seen.is_some_and(|seen| seen.of < report.counts.delivered));
    (!deeds.is_empty()).then(|| ReadersPart {
        note: match is_partial {
            true => "Only copies whose recipients agreed to be tracked are counted.",
            false => "",
        },
        deeds,
        links: links.iter().take(SITES_MAX).map(line).collect(),
    })
}

fn seen_deed(name: &'static str, Seen { readers, of }: Seen) -> Deed {
    let seen = readers.people - readers.by_proxy;
    let machines = readers.machines.min(of.saturating_sub(readers.people));
    Deed {
        name,
        count: grouped(readers.people),
        share: percent(readers.people, of),
        about: match readers.by_proxy {
            0 => format!("of {} by people; {} by machines alone", grouped(of), grouped(readers.machines)),
            some => format!(
                "of {} by people, {} of them seen through an image proxy; {} by machines alone",
                grouped(of),
                grouped(some),
                grouped(readers.machines)
            ),
        },
        bar: parts(
            &[
                ("people", seen, "delivered"),
                ("image proxies", readers.by_proxy, "proxy"),
                ("machines alone", machines, "waiting"),
            ],
            of,
        ),
    }
}

/// Parts of a bar that may stay shorter than the whole; what is not nothing is wide enough to be seen.
fn parts(counts: &[(&'static str, u64, &'static str)], whole: u64) -> Vec<Part> {
    let mut x = 0.0;
    let mut parts = Vec::new();
    for (name, count, tone) in counts.iter().filter(|(_, count, _)| *count > 0 && whole > 0) {
        let width = (*count as f64 / whole as f64 * WIDTH).max(PART_MIN).min(WIDTH - x);
        let title = format!("{name}: {} ({})", grouped(*count), percent(*count, whole));
        parts.push(Part { x: units(x), width: units(width), tone, title });
        x += width;
    }
    parts
}

fn more_sites(sites: &[SiteReport]) -> Option<String> {
    let more = sites.get(SITES_MAX..).filter(|more| !more.is_empty())?;
    let recipients: u64 = more.iter().map(|row| row.counts.recipients).sum();
    Some(format!("and {} more with {} recipients", grouped(more.len() as u64), grouped(recipients)))
}

fn reason_table(title: &'static str, tone: &'static str, rows: &[ReasonReport]) -> ReasonTable {
    let most = rows.iter().map(|row| row.count).max().unwrap_or(1).max(1);
    let whole = rows.iter().map(|row| row.count).sum();
    let line = |row: &ReasonReport| ReasonLine {
        class: row.class.word(),
        about: row.class.about(),
        count: grouped(row.count),
        share: percent(row.count, whole),
        width: units((row.count as f64 / most as f64 * WIDTH).max(PART_MIN)),
        sample: row.sample.clone(),
    };
    ReasonTable { title, tone, lines: rows.iter().map(line).collect() }
}

fn curve(store: &Store, launch: LaunchId, report: &CampaignReport) -> Result<Option<Curve>, store::Error> {
    let Some(started) = report.started.filter(|_| report.counts.delivered > 0) else { return Ok(None) };
    let length = Duration::from_secs_f64(report.seconds).as_millis();
    let fits = |span: &&u64| length / u128::from(**span) < COLUMNS_MAX;
    let span_ms =
        SPANS_MS.iter().find(fits).copied().unwrap_or(86_400_000 * (length / 86_400_000 / COLUMNS_MAX + 1) as u64);
    let span = Duration::from_millis(span_ms);
    let counted = store.deliveries(launch, started, span)?;
    Ok(draw(started, span, &counted))
}

/// Draws deliveries per span, as columns on a round scale.
fn draw(started: Timestamp, span: Duration, counted: &[(u32, u64)]) -> Option<Curve> {
    let columns = counted.last()?.0 + 1;
    let peak = counted.iter().max_by_key(|(_, count)| *count)?;
    let top = round_up(peak.1);
    let step = WIDTH / f64::from(columns);
    let time = |column: u32| started + span * column;
    let column = |(at, count): &(u32, u64)| {
        let height = (*count as f64 / top as f64 * HEIGHT).max(1.0);
        Column {
            x: units(f64::from(*at) * step + step * 0.08),
            y: units(HEIGHT - height),
            width: units(step * 0.84),
            height: units(height),
            time: clock(time(*at), span),
            count: grouped(*count),
        }
    };
    Some(Curve {
        per: lasted_exactly(span),
        top: grouped(top),
        half: if top.is_multiple_of(2) { grouped(top / 2) } else { String::new() },
        peak: format!("{} at {}", grouped(peak.1), clock(time(peak.0), span)),
        columns: counted.iter().map(column).collect(),
        times: [0, columns / 2, columns].iter().map(|at| clock(time(*at), span)).collect(),
    })
}

/// The next of 1, 2, 5, 10, 20 … that is not below.
fn round_up(count: u64) -> u64 {
    let mut unit = 1;
    loop {
        for step in [1, 2, 5] {
            if step * unit >= count {
                return step * unit;
            }
        }
        unit *= 10;
    }
}

/// The time of day, as finely as the spans need it; with the date when they are longer than an hour.
fn clock(at: Timestamp, span: Duration) -> String {
    let text = at.rfc3339();
    let (date, time) = (&text[5..10], &text[11..]);
    match span.as_secs() {
        0 => time[..10].to_owned(),
        1..60 => time[..8].to_owned(),
        60..3600 => time[..5].to_owned(),
        _ => format!("{date} {}", &time[..5]),
    }
}

/// A span in its one unit.
fn lasted_exactly(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..1000 => format!("{} s", ms as f64 / 1000.0),
        1000..60_000 => format!("{} s", ms / 1000),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// A length in the drawing's units, to a tenth.
fn units(length: f64) -> String {
    format!("{length:.1}")
}
