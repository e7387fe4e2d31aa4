//! `demo`: the whole path on this machine, and whether its outcome is what it had to be.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::interrupt::Interrupt;
use crate::cli::{Desk, Error, Exit};
use crate::outcome::{CampaignReport, plain};
use crate::proving::counts::Counts;
use crate::proving::demo::{Demo, Ending, Told};

/// Differences named at most.
const NAMED_MAX: usize = 20;

/// The arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave the workspace where it is, to look around in it.
    #[arg(long)]
    keep: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    exact: bool,
    differences: &'a [String],
    told: Told,
    report: &'a CampaignReport,
    receiver: &'a Counts,
    html: &'a Path,
    workspace: Option<&'a Path>,
}

/// Runs the demo. Exit code 0 exactly when the outcome is what the receiver was told to do.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::listen()?;
    let folder = new_folder()?;
    let workspace = folder.join("workspace");
    let done = interrupt.or_never(perform(desk, &folder, &workspace, arguments.keep)).await;
    let ended = done.unwrap_or_else(|| Err(Error::failed(std::io::Error::other("stopped before the end"))));
    if !arguments.keep {
        // What cannot be removed lies among the system's temporary files, and is cleared away with them.
        let _ = fs::remove_dir_all(if ended.is_ok() { &workspace } else { &folder });
    }
    ended
}

async fn perform(desk: &Desk, folder: &Path, workspace: &Path, keep: bool) -> Result<Exit, Error> {
    fs::create_dir(workspace).map_err(Error::failed)?;
    let demo = Demo::set_up(workspace).await.map_err(Error::failed)?;
    let told = demo.told();
    desk.say(format!("workspace  {}{}", workspace.display(), if keep { "" } else { " (removed at the end)" }));
    desk.say(format!("contacts   {} invented people at {} domains, list `news`", told.people, told.domains));
    desk.say(format!(
        "receiver   {} speaks for all their mail hosts; it is told to refuse {} and to greylist {}\n",
        demo.address(),
        told.refused,
        told.greylisted
    ));
    let bar = bar(desk, told.people);
    let ending = demo.send(|report| show(&bar, report)).await;
    bar.finish_and_clear();
    let ending = ending.map_err(Error::failed)?;
    let page = folder.join("report.html");
    fs::write(&page, &ending.page).map_err(Error::failed)?;
    let Ending { report, counts, differences, .. } = &ending;
    desk.say_lines(plain(report, desk.ink()));
    desk.say(format!(
        "\nreceiver   {} messages over {} connections, {} of them with TLS; {} signatures good; {} greylisted, {} refused, {} doubles",
        counts.messages, counts.connections, counts.tls, counts.dkim.passed, counts.deferred, counts.refused, counts.doubles
    ));
    desk.say(format!("report     {}", page.display()));
    desk.give(&Answer {
        exact: differences.is_empty(),
        differences,
        told,
        report,
        receiver: counts,
        html: &page,
        workspace: keep.then_some(workspace),
    });
    if differences.is_empty() {
        desk.say("\nThe outcome is exactly what the receiver was told to do.");
        match keep {
            true => Desk::bare(workspace, desk.is_json()).next("mailshot report welcome"),
            false => desk.next("mailshot init DIR, for a workspace of your own"),
        }
        return Ok(Exit::Done);
    }
    desk.note("the outcome is not what the receiver was told to do:");
    for difference in differences.iter().take(NAMED_MAX) {
        desk.note(format!("  {difference}"));
    }
    if differences.len() > NAMED_MAX {
        desk.note(format!("  and {} more", differences.len() - NAMED_MAX));
    }
    Ok(Exit::Failed)
}

/// A folder of our own below the system's place for such, open to nobody else.
fn new_folder() -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = std::env::temp_dir().join(format!("mailshot-demo-{}", std::process::id()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|why| Error::failed(std::io::Error::new(why.kind(), format!("{}: {why}", folder.display()))))?;
    Ok(folder)
}

fn bar(desk: &Desk, people: u64) -> ProgressBar {
    if !desk.is_watched() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30.green/dim} {pos}/{len}  {msg}  {elapsed}");
    ProgressBar::new(people).with_style(style.expect("a fixed template"))
}

fn show(bar: &ProgressBar, report: &CampaignReport) {
    let counts = &report.counts;
    bar.set_position(counts.delivered + counts.failed);
    bar.set_message(format!("{} delivered, {} deferred, {} failed", counts.delivered, counts.deferred, counts.failed));
}
