//! `test`: real copies to addresses named by hand, as a launch of their own.

use crate::base::{Address, CampaignName, LaunchId};
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::Owner;
use crate::cli::send::{finish, follow, left_behind, unlaunched};
use crate::cli::{Desk, Error, Exit};
use crate::engine::{ReadyTest, Wait};
use crate::store::{Store, Threads};

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
    let mut interrupt = Interrupt::listen()?;
    let (copies, ready) = (to.len() as u64, ReadyTest::check(desk.workspace(), &campaign, to, via)?);
    let next = format!("mailshot test {campaign} --to ADDRESS");
    let Some(owner) = Owner::reach_or_never(desk, &store, &mut interrupt).await? else {
        return Ok(unlaunched(desk, &campaign, next));
    };
    let launched = launch(desk, &store, ready, &owner, &mut interrupt).await;
    let ended = match &launched {
        Ok(Some(launch)) => follow(desk, &store, &owner, *launch, wait, copies, &mut interrupt).await,
        Ok(None) | Err(_) => Ok(None),
    };
    let left = left_behind(&owner, &ended).await;
    let is_here = matches!(owner, Owner::Here(_));
    let gone = interrupt.or_at_once(desk, owner.leave()).await;
    let (launched, ended) = (launched?, ended?);
    gone?;
    match launched {
        Some(launch) => finish(desk, &store, launch, ended, is_here, left),
        None => Ok(unlaunched(desk, &campaign, next)),
    }
}

/// Puts the copies on record and has them seen to; `None` when a signal came before.
async fn launch(
    desk: &Desk,
    store: &Store,
    ready: ReadyTest,
    owner: &Owner,
    interrupt: &mut Interrupt,
) -> Result<Option<LaunchId>, Error> {
    let world = desk.world()?;
    match interrupt.or_never(ready.examine(desk.workspace(), &world)).await {
        Some(fit) => fit?,
        None => return Ok(None),
    }
    let launch = ready.launch(store, world.clock.now()).await?.id;
    owner.take_up(launch).await?;
    Ok(Some(launch))
}
