//! `report`: what became of a campaign.

use std::path::{Path, PathBuf};

use clap::Args;

use super::draft::{Cells, Draft};
use super::export::write_outcomes;
use crate::base::CampaignName;
use crate::cli::{Desk, Error, Exit};
use crate::outcome;
use crate::store::{LaunchRow, Store, Threads};

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The campaign.
    campaign: String,
    /// Also write a table with one row per recipient: where the copy stands, why, and what the host said.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write a page with charts: one file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Report {
    /// The files it is to write.
    pub(super) fn written(&self) -> [Option<&Path>; 2] {
        [self.csv.as_deref(), self.html.as_deref()]
    }
}

/// Prints the report of a campaign, and writes it as table and page where asked.
pub fn run(desk: &Desk, args: &Report) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let launch = launched(desk, &store, &args.campaign)?;
    let found = outcome::whole_report(&store, launch.id, desk.now())?;
    let report = found.ok_or_else(|| Error::usage(format!("the launch of {} has just been removed", args.campaign)))?;
    desk.say_lines(outcome::plain(&report, desk.ink()));
    if let Some(file) = &args.csv {
        let rows = write_outcomes(&store, launch.id, Some(file), Cells::Guarded, |_| true)?;
        desk.note(format!("{rows} rows written to {}", file.display()));
    }
    if let Some(file) = &args.html {
        Draft::begin(Some(file))?.fill(outcome::html(&store, launch.id, &report)?)?;
        desk.note(format!("page written to {}", file.display()));
    }
    desk.give(&report);
    desk.next(report.next());
    Ok(Exit::Done)
}

/// The launch of a campaign that was sent; its name may be given as its folder.
pub(super) fn launched(desk: &Desk, store: &Store, campaign: &str) -> Result<LaunchRow, Error> {
    let bare = campaign.trim_end_matches('/').trim_start_matches("./").trim_start_matches("campaigns/");
    let name = CampaignName::parse(bare)
        .ok_or_else(|| Error::usage(format!("`{campaign}` is no campaign: give the name of a folder in campaigns/")))?;
    if let Some(launch) = store.launch_of(&name)? {
        return Ok(launch);
    }
    // a campaign that does not exist is told as such, with the nearest names
    desk.workspace().campaign(&name)?;
    Err(Error::usage(format!(
        "campaign `{name}` has not been sent, so there is nothing to report; `mailshot plan {name}` shows who would get it"
    )))
}
