//! `test`: real copies to addresses named by hand, as a launch of their own.

use crate::base::{Address, CampaignName};
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::Owner;
use crate::cli::send::{finish, follow, left_behind};
use crate::cli::{Desk, Error, Exit};
use crate::engine::{Crew, Wait, launch_test};
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
    let world = desk.world()?;
    let mut interrupt = Interrupt::listen()?;
    let owner = interrupt.or_later(desk, Owner::reach(desk, &store, Crew::Sending)).await?;
    let launched = launch_test(desk.workspace(), &store, &campaign, &to, via, &world).await;
    let ended = match &launched {
        Ok(launch) => {
            owner.take_up(launch.id).await?;
            follow(desk, &store, &owner, launch.id, wait, to.len() as u64, &mut interrupt).await
        }
        Err(_) => Ok(None),
    };
    let left = left_behind(&owner, &ended).await;
    let is_here = matches!(owner, Owner::Here(_));
    let gone = interrupt.or_at_once(desk, owner.leave()).await;
    let (launch, ended) = (launched?, ended?);
    gone?;
    finish(desk, &store, launch.id, ended, is_here, left)
}
