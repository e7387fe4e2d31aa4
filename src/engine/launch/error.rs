//! Why there is no launch, and whose turn it is then.

use miette::Diagnostic;

use super::TESTS_MAX;
use crate::audience::SegmentError;
use crate::base::{CampaignName, Domain, Timestamp};
use crate::campaign::{self, MeantError};
use crate::compose::{self, Remark};
use crate::delivery::via::ViaError;
use crate::sign;
use crate::store::{self, LaunchState};

/// Why there is no launch.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum LaunchError {
    /// The campaign's files cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Campaign(#[from] campaign::Error),
    /// The content cannot be compiled.
    #[error(transparent)]
    Template(compose::Error),
    /// A list is not there.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lists(Box<campaign::Error>),
    /// The fixed routes of the settings cannot be used.
    #[error("{0}")]
    Relays(String),
    /// This version cannot read the segment that a launch was made with.
    #[error("campaign `{0}` was launched with a segment that this version cannot read: {1}")]
    Segment(CampaignName, SegmentError),
    /// Its deadline has passed.
    #[error("campaign `{campaign}` was to be out by {deadline}, and that is over")]
    #[diagnostic(help("set deadline in campaign.toml to a later time, or take it out"))]
    TooLate {
        /// The campaign.
        campaign: CampaignName,
        /// Its deadline.
        deadline: Timestamp,
    },
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The keys cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Keys(#[from] sign::Error),
    /// `--via` names no host.
    #[error("--via: {0}")]
    Via(ViaError),
    /// `sender.bounce_domain` is no domain.
    #[error("sender.bounce_domain = \"{0}\": that is no domain; write it as in \"bounce.example.com\"")]
    Bounce(String),
    /// The login of `[relay]` cannot be sent on this way.
    #[error("{}; {}", .0.found, .0.remedy)]
    Login(Remark),
    /// `--only-domain` names no domain.
    #[error("--only-domain {0}: that is no domain; write it as in \"example.com\"")]
    OnlyDomain(String),
    /// `--rate` is no rate.
    #[error("--rate: {0}")]
    Rate(String),
    /// The campaign's pool is not in the settings.
    #[error("pool = \"{0}\" in campaign.toml: there is no [[pool]] of this name in mailshot.toml")]
    Pool(String),
    /// `--limit 0`.
    #[error("--limit 0 would send to nobody: write 1 or more")]
    LimitZero,
    /// More test copies than anybody looks at, or none.
    #[error("{0} addresses: a test goes to 1 to {TESTS_MAX} of them")]
    Tests(usize),
    /// A proof of the edition says no.
    #[error("campaign `{campaign}` cannot be sent like this:\n{}", words(remarks))]
    #[diagnostic(help("`mailshot check {campaign}` shows all that was looked at"))]
    Proof {
        /// The campaign.
        campaign: CampaignName,
        /// What must not be sent.
        remarks: Vec<Remark>,
    },
    /// Receivers would refuse what comes from here.
    #[error("this host or domain is not fit to send to the recipients' own hosts:\n{}", words(remarks))]
    #[diagnostic(help(
        "`mailshot check {campaign}` shows all that was looked at; --via sends through a relay instead"
    ))]
    Unfit {
        /// The campaign.
        campaign: CampaignName,
        /// What receivers would hold against it.
        remarks: Vec<Remark>,
    },
    /// Nobody could verify the sender.
    #[error("there is no DKIM key for {0}")]
    #[diagnostic(help(
        "make one with `mailshot dkim new {0}` and publish its record, or set dkim.unsigned = true to send without"
    ))]
    NoKey(Domain),
    /// The campaign was sent, or called back.
    #[error("campaign `{campaign}` {}", match state { LaunchState::Cancelled => "was cancelled", _ => "has been sent" })]
    #[diagnostic(help(
        "a campaign folder is sent once; to send it again copy the folder: cp -r campaigns/{campaign} campaigns/NEWNAME"
    ))]
    Finished {
        /// The campaign.
        campaign: CampaignName,
        /// `Done` or `Cancelled`.
        state: LaunchState,
    },
    /// The campaign is paused.
    #[error("campaign `{0}` is paused")]
    #[diagnostic(help("`mailshot resume {0}` puts it back to work"))]
    Paused(CampaignName),
    /// The files are no longer those of the running launch.
    #[error(
        "campaign `{0}` is running, and its files, a template or the sender's settings were changed since it began"
    )]
    #[diagnostic(help(
        "those who got it have the first version: put it back as it was, or cancel with `mailshot cancel {0}` and send a copy of the folder"
    ))]
    Edited(CampaignName),
    /// A resume asks for something else than the launch.
    #[error("campaign `{campaign}` was launched {recorded}; it cannot go on {asked}")]
    #[diagnostic(help(
        "what was recorded with the launch holds until its end: leave {option} out, or let it and campaign.toml say what is recorded"
    ))]
    Differs {
        /// The campaign.
        campaign: CampaignName,
        /// The option.
        option: &'static str,
        /// As recorded, in words.
        recorded: String,
        /// As asked now, in words.
        asked: String,
    },
}

impl From<MeantError> for LaunchError {
    fn from(error: MeantError) -> LaunchError {
        match error {
            MeantError::Unknown(place) => LaunchError::Lists(place),
            MeantError::Store(why) => LaunchError::Store(why),
        }
    }
}

/// Whose turn it is to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The machine's: disk, files, another process.
    Machine,
    /// The writer's: what was given cannot be read.
    Input,
    /// The sender's: what was given is understood, and refused.
    Refusal,
}

impl LaunchError {
    /// Whose turn it is to act.
    pub fn remedy(&self) -> Remedy {
        let machine_or = |is_failure, other| if is_failure { Remedy::Machine } else { other };
        match self {
            LaunchError::Store(_) => Remedy::Machine,
            LaunchError::Campaign(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Lists(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Keys(why) => machine_or(why.is_failure(), Remedy::Input),
            LaunchError::Template(_)
            | LaunchError::Via(_)
            | LaunchError::Bounce(_)
            | LaunchError::Login(_)
            | LaunchError::OnlyDomain(_)
            | LaunchError::Rate(_)
            | LaunchError::Relays(_)
            | LaunchError::Pool(_)
            | LaunchError::Segment(..)
            | LaunchError::LimitZero
            | LaunchError::Tests(_) => Remedy::Input,
            LaunchError::Proof { .. }
            | LaunchError::Unfit { .. }
            | LaunchError::NoKey(_)
            | LaunchError::Finished { .. }
            | LaunchError::Paused(_)
            | LaunchError::TooLate { .. }
            | LaunchError::Edited(_)
            | LaunchError::Differs { .. } => Remedy::Refusal,
        }
    }
}

/// What was found, and what to do, a line each.
fn words(remarks: &[Remark]) -> String {
    let line = |remark: &Remark| format!("  {}: {}; {}", remark.subject, remark.found, remark.remedy);
    remarks.iter().map(line).collect::<Vec<_>>().join("\n")
}
