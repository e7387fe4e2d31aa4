//! The report for a person at a terminal.

use std::fmt::Write;

use super::{
    CampaignReport, Counts, Incident, ReadersReport, ReasonReport, Seen, SiteReport, grouped, lasted, moment, percent,
};
use crate::store::{LaunchKind, LaunchState};

/// Sites listed one by one.
const SITES_MAX: usize = 15;
/// Links listed one by one.
const LINKS_MAX: usize = 20;
/// The longest bar.
const BAR: usize = 30;
/// Incidents listed one by one.
const INCIDENTS_MAX: usize = 20;
/// Characters shown of what was said in one.
const WORDS_MAX: usize = 200;
/// Characters shown of a sample answer.
const SAMPLE_MAX: usize = 70;

/// Whether words may be coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// For terminals.
    Colour,
    /// For everything else.
    Black,
}

/// One figure of a row.
type Figure = fn(&Counts) -> u64;

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Slow,
    Bad,
    Dim,
    Strong,
}

impl Ink {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Slow => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Strong => "1",
        };
        match self {
            Ink::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Ink::Black => text.to_owned(),
        }
    }
}

/// The report in lines of text, without a final line break.
pub fn plain(report: &CampaignReport, ink: Ink) -> String {
    let mut text = String::new();
    write_head(&mut text, report, ink);
    write_counts(&mut text, &report.counts, ink);
    write_readers(&mut text, report, ink);
    write_sites(&mut text, &report.by_site, ink);
    write_reasons(&mut text, "why copies failed", &report.failures, ink);
    write_reasons(&mut text, "of those, bounced after delivery", &report.bounces, ink);
    write_reasons(&mut text, "why copies wait for another attempt", &report.deferrals, ink);
    write_incidents(&mut text, &report.incidents, ink);
    text.truncate(text.trim_end().len());
    text
}

/// What happened on the road, in the order in which it began.
fn write_incidents(text: &mut String, incidents: &[Incident], ink: Ink) {
    if incidents.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}", ink.paint(Tone::Strong, "what happened on the road"));
    for incident in incidents.iter().take(INCIDENTS_MAX) {
        let (whose, times) = (incident.whose(), incident.times());
        let word = incident.kind.word().replace('_', " ");
        let _ = writeln!(text, "  {word:<14} {whose} · {}", ink.paint(Tone::Dim, &times));
        let sample: String = incident.text.chars().take(WORDS_MAX).collect();
        let _ = writeln!(text, "  {:<14} {sample}", "");
    }
    let _ = writeln!(text);
}

impl CampaignReport {
    /// The next sensible command.
    pub fn next(&self) -> String {
        let campaign = &self.campaign;
        match self.state {
            // `send` would begin the campaign itself
            _ if self.kind == LaunchKind::Test && self.counts.open() > 0 => "mailshot serve".to_owned(),
            _ if self.kind == LaunchKind::Test && self.counts.failed == 0 => format!("mailshot plan {campaign}"),
            _ if self.kind == LaunchKind::Test => format!("mailshot check {campaign}"),
            LaunchState::Paused => format!("mailshot resume {campaign}"),
            _ if self.counts.open() > 0 => format!("mailshot send {campaign} --yes (goes on with what is left)"),
            // it may be sent no more
            LaunchState::Cancelled if self.counts.in_doubt > 0 => {
                format!("mailshot export outcomes {campaign} --only in_doubt")
            }
            _ if self.counts.in_doubt > 0 => {
                format!(
                    "mailshot export outcomes {campaign} --only in_doubt; mailshot retry {campaign} --in-doubt sends them again"
                )
            }
            _ if self.counts.failed > 0 => format!("mailshot export outcomes {campaign} --only failed"),
            LaunchState::Running | LaunchState::Done | LaunchState::Cancelled => {
                format!("mailshot report {campaign} --html report.html")
            }
        }
    }

    /// Where it stands, in a word or two.
    pub(super) fn standing(&self) -> &'static str {
        match self.state {
            LaunchState::Running if self.counts.open() > 0 => "under way",
            LaunchState::Paused => "paused",
            LaunchState::Cancelled => "cancelled",
            LaunchState::Running | LaunchState::Done => "finished",
        }
    }
}

fn write_head(text: &mut String, report: &CampaignReport, ink: Ink) {
    let edition = report.edition.get(..8).unwrap_or_default();
    let name = ink.paint(Tone::Strong, report.campaign.as_str());
    let _ = writeln!(text, "{name} · {} · edition {edition}", report.standing());
    let mut facts = Vec::new();
    facts.extend(report.started.map(|at| format!("launched {}", moment(at))));
    if report.seconds > 0.0 {
        facts.push(format!("{} to the last outcome", lasted(report.seconds)));
    }
    if report.rate > 0.0 {
        facts.push(format!("{:.1} delivered a second", report.rate));
    }
    let _ = writeln!(text, "{}\n", ink.paint(Tone::Dim, &facts.join(" · ")));
}

fn write_counts(text: &mut String, counts: &Counts, ink: Ink) {
    let rows = [
        ("delivered", counts.delivered, Tone::Good, true),
        ("deferred", counts.deferred, Tone::Slow, false),
        ("failed", counts.failed, Tone::Bad, true),
        ("waiting", counts.waiting, Tone::Dim, false),
        ("in doubt", counts.in_doubt, Tone::Bad, false),
        ("barred", counts.barred, Tone::Dim, false),
        ("skipped", counts.skipped, Tone::Dim, false),
        ("cancelled", counts.cancelled, Tone::Dim, false),
    ];
    let width = grouped(counts.recipients).len();
    let _ = writeln!(text, "  {:<10}  {:>width$}", "recipients", grouped(counts.recipients));
    for (name, count, tone, always) in rows {
        if count == 0 && !always {
            continue;
        }
        let share = percent(count, counts.recipients);
        let bar = ink.paint(tone, &bar(count, counts.recipients));
        let _ = writeln!(text, "  {name:<10}  {:>width$}  {share:>7}  {bar}", grouped(count));
    }
    let asides = [
        (counts.bounced_late, "of the failed bounced after they were taken"),
        (counts.possible_doubles, "sent again after a lost answer: possible doubles"),
    ];
    for (count, what) in asides.iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "  {:<10}  {:>width$}  {what}", "", grouped(*count));
    }
    text.push('\n');
}

fn write_readers(text: &mut String, report: &CampaignReport, ink: Ink) {
    let ReadersReport { unsubscribed, complained, opened, clicked, links } = &report.readers;
    let delivered = report.counts.delivered + report.counts.bounced_late;
    let mut lines = Vec::new();
    for (name, seen) in [("opened", opened), ("clicked", clicked)] {
        let Some(Seen { readers, of }) = seen else { continue };
        let by_proxy = match readers.by_proxy {
            0 => String::new(),
            some => format!(", {} of them seen through an image proxy", grouped(some)),
        };
        lines.push(format!(
            "  {name:<12}  {} of {} ({}){by_proxy}; by machines alone: {}",
            grouped(readers.people),
            grouped(*of),
            percent(readers.people, *of),
            grouped(readers.machines)
        ));
    }
    for (name, count) in [("unsubscribed", *unsubscribed), ("complained", *complained)] {
        if count > 0 || !lines.is_empty() {
            lines.push(format!("  {name:<12}  {} ({})", grouped(count), percent(count, delivered)));
        }
    }
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}\n{}", ink.paint(Tone::Strong, "what readers did"), lines.join("\n"));
    let followed = links.iter().filter(|link| link.times > 0 || link.readers.machines > 0);
    for link in followed.take(LINKS_MAX) {
        let url: String = link.url.chars().take(SAMPLE_MAX).collect();
        let _ = writeln!(text, "  {:>12}  {url}", grouped(link.readers.people));
    }
    if [opened, clicked].iter().any(|seen| seen.is_some_and(|seen| seen.of < report.counts.delivered)) {
        let note = "  only copies whose recipients agreed to be tracked are counted (links.tracking_consent)";
        let _ = writeln!(text, "{}", ink.paint(Tone::Dim, note));
    }
    text.push('\n');
}

/// A bar whose length is the share; what is not nothing shows.
fn bar(count: u64, whole: u64) -> String {
    if count == 0 || whole == 0 {
        return String::new();
    }
    let length = (count as f64 / whole as f64 * BAR as f64).round() as usize;
    "█".repeat(length.clamp(1, BAR))
}

fn write_sites(text: &mut String, sites: &[SiteReport], ink: Ink) {
    if sites.is_empty() {
        return;
    }
    let shown = &sites[..sites.len().min(SITES_MAX)];
    let name_width = shown.iter().map(|row| row.site.chars().count()).max().unwrap_or(0).clamp(4, 40);
    let width = |of: Figure| shown.iter().map(|row| grouped(of(&row.counts)).len()).max().unwrap_or(0);
    let columns: [(&str, Figure); 5] = [
        ("recipients", |c| c.recipients),
        ("delivered", |c| c.delivered),
        ("deferred", |c| c.deferred),
        ("failed", |c| c.failed),
        ("other", |c| c.waiting + c.in_doubt + c.left_out()),
    ];
    let mut head = format!("  {:<name_width$}", "site");
    for (name, of) in columns {
        let _ = write!(head, "  {name:>0$}", name.len().max(width(of)));
    }
    let _ = writeln!(text, "{}", ink.paint(Tone::Dim, &head));
    for row in shown {
        let site: String = super::printable(&row.site).chars().take(name_width).collect();
        let _ = write!(text, "  {site:<name_width$}");
        for (name, of) in columns {
            let _ = write!(text, "  {:>1$}", grouped(of(&row.counts)), name.len().max(width(of)));
        }
        text.push('\n');
    }
    if let Some(more) = sites.len().checked_sub(SITES_MAX).filter(|more| *more > 0) {
        let rest: u64 = sites[SITES_MAX..].iter().map(|row| row.counts.recipients).sum();
        let line = format!("  and {} more sites with {} recipients", grouped(more as u64), grouped(rest));
        let _ = writeln!(text, "{}", ink.paint(Tone::Dim, &line));
    }
    text.push('\n');
}

fn write_reasons(text: &mut String, title: &str, reasons: &[ReasonReport], ink: Ink) {
    if reasons.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}", ink.paint(Tone::Strong, title));
    let count_width = reasons.iter().map(|row| grouped(row.count).len()).max().unwrap_or(0);
    let class_width = reasons.iter().map(|row| row.class.word().len()).max().unwrap_or(0);
    for row in reasons {
        let about = row.class.about();
        let _ = writeln!(text, "  {:>count_width$}  {:<class_width$}  {about}", grouped(row.count), row.class.word());
        if !row.sample.is_empty() {
            let mut sample: String = row.sample.chars().take(SAMPLE_MAX).collect();
            if sample.len() < row.sample.len() {
                sample.push('…');
            }
            let line = format!("  {:>count_width$}  {:<class_width$}  “{sample}”", "", "");
            let _ = writeln!(text, "{}", ink.paint(Tone::Dim, &line));
        }
    }
    text.push('\n');
}
