//! From a campaign's files to a launch on record: read, frozen, checked, and only then written. The one way a launch comes
//! about, for campaigns and test copies alike; it needs the workspace and the store, never the queue.

mod checks;
mod error;

use crate::audience::chosen_by;
use crate::base::{Address, CampaignName, Domain, Rate, Timestamp, bucket};
use crate::campaign::Campaign;
use crate::compose::Edition;
use crate::delivery::via::Via;
use crate::engine::Workspace;
use crate::mail::Standing;
use crate::store::{self, LaunchKind, LaunchOptions, LaunchRow, Meant, NewContact, NewLaunch, PlannedRow, Store};
use crate::world::World;

pub use checks::{examine, examine_relays, lacking, login};
use checks::{
    is_warming, may_be_printed, may_be_sent, may_go_direct, may_go_on, may_log_in, may_use_pool, shows_new_domains,
};
pub use error::{LaunchError, Remedy};

/// Most addresses of one round of test copies.
const TESTS_MAX: usize = 100;

/// A campaign that passed every check and may be launched, or go on. Nothing has been written yet.
#[derive(Debug)]
pub struct Ready {
    /// The campaign as its folder has it.
    pub campaign: Campaign,
    /// Its content, frozen.
    pub edition: Edition,
    /// Whom it is meant for.
    pub meant: Meant,
    /// How it is sent; for a launch that goes on, as recorded.
    pub options: LaunchOptions,
    /// The launch that goes on.
    pub running: Option<LaunchRow>,
    /// Whom test copies go to, named by hand: a launch of its own. Empty: to the lists.
    pub to: Vec<Address>,
}

impl Ready {
    /// Reads, freezes and checks a campaign.
    pub fn check(
        workspace: &Workspace,
        store: &Store,
        name: &CampaignName,
        options: &LaunchOptions,
    ) -> Result<Ready, LaunchError> {
        let options = plain(options)?;
        let before = store.launch_of(name)?;
        if let Some(launch) = &before {
            may_go_on(launch, &options)?;
        }
        let campaign = workspace.campaign(name)?;
        let own = campaign.rate().map(str::to_owned);
        let (rate, own_rate) = match &options.rate {
            Some(typed) => (Some(typed.clone()), own),
            None => (own, None),
        };
        let pool = campaign.pool().map(str::to_owned);
        may_use_pool(workspace, pool.as_deref())?;
        let is_warming = is_warming(workspace, pool.as_deref()) || shows_new_domains(workspace, &campaign);
        let engaged_first = options.via.is_none() && is_warming;
        let is_typed = options.rate.is_some();
        let (segment, exclude) = (campaign.segment().map(str::to_owned), campaign.exclude().map(str::to_owned));
        let (start_at, deadline) = (campaign.start_at(), campaign.deadline());
        let written =
            LaunchOptions { rate, own_rate, pool, engaged_first, segment, exclude, start_at, deadline, ..options };
        let options = plain(&written)?;
        if let Some(launch) = &before {
            // a rate that was typed at the launch goes on holding over what the campaign says
            let is_overruled = !is_typed && options.rate == launch.options.own_rate;
            let rate = options.rate.clone().filter(|_| !is_overruled);
            may_go_on(launch, &LaunchOptions { rate, ..options.clone() })?;
        }
        let meant = campaign.meant(store)?;
        let edition = campaign.freeze(workspace.folder(), workspace.settings())?;
        may_be_sent(workspace, &campaign, &edition)?;
        if before.is_none() {
            may_be_printed(store, &campaign, &meant, &edition)?;
        }
        may_log_in(workspace, before.as_ref().map_or(&options, |launch| &launch.options))?;
        match before {
            Some(launch) => {
                let frozen = store.edition(launch.edition)?;
                if frozen.is_none_or(|frozen| frozen.hash != edition.hash()) {
                    return Err(LaunchError::Edited(name.clone()));
                }
                let options = launch.options.clone();
                // what was recorded holds, also where campaign.toml no longer says it
                let condition = chosen_by(&options).map_err(|why| LaunchError::Segment(name.clone(), why))?;
                let meant = Meant { condition, ..meant };
                Ok(Ready { campaign, edition, meant, options, running: Some(launch), to: Vec::new() })
            }
            None => Ok(Ready { campaign, edition, meant, options, running: None, to: Vec::new() }),
        }
    }

    /// Reads, freezes and checks a campaign for a round of test copies.
    pub fn check_test(
        workspace: &Workspace,
        name: &CampaignName,
        to: Vec<Address>,
        via: Option<String>,
    ) -> Result<Ready, LaunchError> {
        if to.is_empty() || to.len() > TESTS_MAX {
            return Err(LaunchError::Tests(to.len()));
        }
        let options = plain(&LaunchOptions { via, ..LaunchOptions::default() })?;
        let campaign = workspace.campaign(name)?;
        let edition = campaign.freeze(workspace.folder(), workspace.settings())?;
        may_be_sent(workspace, &campaign, &edition)?;
        may_log_in(workspace, &options)?;
        Ok(Ready { campaign, edition, meant: Meant::default(), options, running: None, to })
    }

    /// Refuses a new launch that goes to the recipients' own hosts while the name service says that they would not take
    /// it. What goes through a relay, or within a private network, is not looked up.
    pub async fn examine(&self, workspace: &Workspace, world: &World) -> Result<(), LaunchError> {
        match (&self.running, &self.options.via) {
            (None, None) => may_go_direct(workspace, world, &self.campaign, &self.edition).await,
            (Some(_), _) | (_, Some(_)) => Ok(()),
        }
    }

    /// Puts the launch on record, or finds the one that goes on. Refuses one that somebody else has put on record since it
    /// was looked at, if that would not go on as asked.
    pub async fn launch(self, store: &Store, now: Timestamp) -> Result<LaunchRow, LaunchError> {
        let Ready { campaign, edition, meant, options, running, to } = self;
        if let Some(running) = running {
            return Ok(running);
        }
        if let Some(deadline) = options.deadline.filter(|deadline| *deadline <= now) {
            return Err(LaunchError::TooLate { campaign: campaign.name().clone(), deadline });
        }
        let rows = planned(to, store, now).await?;
        let kind = if rows.is_empty() { LaunchKind::Campaign } else { LaunchKind::Test };
        let edition = store.put_edition(edition.hash(), campaign.name(), edition.to_bytes(), now).await?;
        let (campaign, in_doubt) = (campaign.name().clone(), campaign.in_doubt());
        let new = NewLaunch { campaign, kind, edition, in_doubt, options: options.clone(), lists: meant.lists };
        let id = match rows.is_empty() {
            true => store.create_launch(new, now).await?,
            // at once: a planner that finds the launch admits what is on record of it
            false => store.create_launch_to(new, rows, now).await?,
        };
        let launch = store.launch(id)?.expect("a launch just recorded is there");
        if launch.edition != edition {
            return Err(LaunchError::Edited(launch.campaign));
        }
        may_go_on(&launch, &options)?;
        Ok(launch)
    }
}

/// The contacts that these addresses are. Those that are none yet become contacts of no list.
async fn planned(to: Vec<Address>, store: &Store, now: Timestamp) -> Result<Vec<PlannedRow>, store::Error> {
    let mut rows = Vec::new();
    for address in to {
        let domain = address.domain().clone();
        let (name, fields) = (String::new(), serde_json::Map::new());
        let contact = NewContact { bucket: bucket(&domain), address, name, fields };
        let contact = store.make_contact(contact, now).await?;
        rows.push(PlannedRow { contact, standing: Standing::Waiting, barred: None, site: domain.as_str().into() });
    }
    Ok(rows)
}

/// The options in the one form in which they are recorded and compared.
fn plain(options: &LaunchOptions) -> Result<LaunchOptions, LaunchError> {
    let via = options.via.as_deref().map(|via| Via::parse(via).map(|via| via.to_string()));
    let only_domain = options.only_domain.as_deref().map(|text| {
        let wrong = |_| LaunchError::OnlyDomain(text.to_owned());
        Domain::parse(text).map(|domain| domain.as_str().to_owned()).map_err(wrong)
    });
    let rate = |text: &Option<String>| {
        let rate = text.as_deref().map(Rate::parse).transpose();
        rate.map(|rate| rate.map(|rate| rate.to_string())).map_err(|why| LaunchError::Rate(why.to_string()))
    };
    if options.limit == Some(0) {
        return Err(LaunchError::LimitZero);
    }
    Ok(LaunchOptions {
        via: via.transpose().map_err(LaunchError::Via)?,
        limit: options.limit,
        only_domain: only_domain.transpose()?,
        rate: rate(&options.rate)?,
        own_rate: rate(&options.own_rate)?,
        pool: options.pool.clone(),
        engaged_first: options.engaged_first,
        segment: options.segment.clone(),
        exclude: options.exclude.clone(),
        start_at: options.start_at,
        deadline: options.deadline,
    })
}
