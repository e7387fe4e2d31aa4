//! `test`: real copies to addresses named by hand, as a launch of their own.

use crate::base::{Address, CampaignName};
use crate::cli::{Desk, Error, Exit, send};
use crate::engine::{Ready, Wait};
use crate::store::Threads;

/// Sends the copies and reports.
pub async fn run(
    desk: &Desk,
    campaign: CampaignName,
    to: Vec<String>,
    via: Option<String>,
    wait: Wait,
) -> Result<Exit, Error> {
    let to: Vec<Address> = to
        .iter()
        .map(|text| Address::parse(text).map_err(|why| Error::usage(format!("--to {text}: {why}"))))
        .collect::<Result<_, _>>()?;
    let store = desk.workspace().store(Threads::Own)?;
    let (copies, ready) = (to.len() as u64, Ready::check_test(desk.workspace(), &campaign, to, via)?);
    send::send(desk, &store, ready, wait, copies).await
}
