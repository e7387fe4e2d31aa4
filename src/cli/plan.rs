//! `plan`: who would get a copy, who would not and why, where they are, and when the last one would be delivered.

mod loads;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::base::{Domain, Rate, Timestamp, shell_word};
use crate::campaign::{Left, Survey};
use crate::cli::{Desk, Error, Exit};
use crate::compose::Edition;
use crate::config::Source;
use crate::delivery::forecast::{Bound, Course, Forecast, Load, in_words};
use crate::delivery::new_domains::{among, names};
use crate::delivery::via::Via;
use crate::delivery::warmup::Calendar;
use crate::store::{LaunchOptions, Meant, Store, Threads};

/// Sites that are shown one by one.
const SHOWN: usize = 15;

/// The campaign, and how it would be sent.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The campaign: a folder below campaigns/.
    campaign: String,
    /// As if everything went through this host: smtp://HOST:PORT, smtp+starttls://… or smtps://…
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// At most this many recipients.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only recipients of this domain.
    #[arg(long, value_name = "DOMAIN")]
    only_domain: Option<String>,
    /// At most this rate over all, as in 100/min.
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
}

/// What is to come, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    #[serde(flatten)]
    audience: Audience,
    #[serde(flatten)]
    delivery: Delivery,
}

/// Who gets a copy of what, and who does not.
#[derive(Debug, Serialize)]
pub(super) struct Audience {
    campaign: String,
    from: String,
    subject: String,
    lists: Vec<String>,
    /// The relay everything goes through; null: the recipients' own hosts.
    via: Option<String>,
    rate: Option<String>,
    limit: Option<u64>,
    only_domain: Option<String>,
    /// Whom of the lists it is for, and whom not; null: all of them.
    segment: Option<String>,
    exclude: Option<String>,
    /// Nothing goes out before this time.
    start_at: Option<Timestamp>,
    /// What has not gone out by this time is cancelled.
    deadline: Option<Timestamp>,
    /// Whether an earlier `send` has begun it.
    running: bool,
    /// Subscribed members of the lists, each once.
    pub(super) members: u64,
    /// Those of them whom the segment leaves out.
    outside_segment: u64,
    /// Those who get a copy.
    pub(super) recipients: u64,
    /// Those who get none, by reason.
    left_out: Vec<Left>,
    /// Members beyond `--limit`.
    beyond_limit: u64,
    #[serde(skip)]
    survey: Survey,
    /// The domains that its mail shows.
    #[serde(skip)]
    names: Vec<Domain>,
}

/// Where they are, and how long it takes.
#[derive(Debug, Serialize)]
struct Delivery {
    /// The recipients by site, the one that takes longest first.
    by_site: Vec<Course>,
    /// Seconds until the last copy, by the limits alone.
    seconds: f64,
    /// When that would be, if it began now.
    ends: String,
    /// Whether that is after the deadline.
    #[serde(rename = "past_deadline")]
    is_late: bool,
}

/// Shows the plan; nothing is written.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let campaign = desk.campaign(&arguments.campaign)?;
    let edition = campaign.freeze(desk.workspace().folder(), desk.settings())?;
    let store = desk.workspace().store(Threads::Own)?;
    let Arguments { via, limit, only_domain, rate, .. } = arguments;
    let rate = rate.or_else(|| campaign.rate().map(str::to_owned));
    let options = LaunchOptions { via, limit, only_domain, rate, ..LaunchOptions::default() };
    let (segment, exclude) = (campaign.segment().map(str::to_owned), campaign.exclude().map(str::to_owned));
    let (start_at, deadline) = (campaign.start_at(), campaign.deadline());
    let options = LaunchOptions { segment, exclude, start_at, deadline, ..options };
    let meant = campaign.meant(&store)?;
    let audience = Audience::count(&store, &edition, meant, &options, false, desk.now()).await?;
    Outlook::foresee(desk, &store, audience, campaign.pool()).await?.show(desk);
    let (name, words) = (campaign.name(), options_as_typed(&options, campaign.rate()));
    let via = options.via.as_ref().map(|via| format!(" --via {}", shell_word(via))).unwrap_or_default();
    desk.next(format!("mailshot check {name}{via}, then mailshot send {name}{words} --yes"));
    Ok(Exit::Done)
}

/// Options as they are typed; a rate that the campaign's own file gives need not be.
pub(super) fn options_as_typed(options: &LaunchOptions, own_rate: Option<&str>) -> String {
    let LaunchOptions { via, limit, only_domain, rate, .. } = options;
    let limit = limit.map(|most| most.to_string());
    let rate = rate.clone().filter(|rate| own_rate != Some(rate.as_str()));
    let options = [("via", via), ("limit", &limit), ("only-domain", only_domain), ("rate", &rate)];
    options.into_iter().filter_map(|(name, value)| Some(format!(" --{name} {}", shell_word(value.as_ref()?)))).collect()
}

/// The domains that copies of an edition show.
fn names_of(edition: &Edition) -> Vec<Domain> {
    let from = edition.from.address.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
    names(from.as_ref(), &edition.bounce_domain, &edition.base_url)
}

impl Audience {
    /// Counts the recipients.
    pub(super) async fn count(
        store: &Store,
        edition: &Edition,
        meant: Meant,
        options: &LaunchOptions,
        running: bool,
        now: Timestamp,
    ) -> Result<Audience, Error> {
        let only = options.only_domain.as_deref().map(Domain::parse).transpose();
        let only = only.map_err(|why| Error::usage(format!("--only-domain: {why}")))?;
        let survey = survey(store.clone(), meant, only, now).await?;
        let recipients = options.limit.map_or(survey.recipients, |most| most.min(survey.recipients));
        let from = match edition.from.name.as_str() {
            "" => edition.from.address.clone(),
            name => format!("{name} <{}>", edition.from.address),
        };
        Ok(Audience {
            campaign: edition.campaign.clone(),
            from,
            subject: edition.subject.clone(),
            lists: edition.lists.clone(),
            via: options.via.clone(),
            rate: options.rate.clone(),
            limit: options.limit,
            only_domain: options.only_domain.clone(),
            segment: options.segment.clone(),
            exclude: options.exclude.clone(),
            start_at: options.start_at,
            deadline: options.deadline,
            running,
            members: survey.members,
            outside_segment: survey.outside,
            recipients,
            left_out: survey.barred.clone(),
            beyond_limit: survey.recipients - recipients,
            survey,
            names: names_of(edition),
        })
    }

    /// Prints it.
    pub(super) fn show(&self, desk: &Desk) {
        let Audience { campaign, from, subject, members, beyond_limit, recipients, .. } = self;
        desk.say(format!("{campaign}: {subject}"));
        desk.say(format!("  from        {from}"));
        desk.say(format!("  lists       {}", self.lists.join(", ")));
        desk.say(format!("  via         {}", self.via.as_deref().unwrap_or("the recipients' own mail hosts")));
        if let Some(rate) = &self.rate {
            desk.say(format!("  rate        at most {rate}"));
        }
        if let Some(only) = &self.only_domain {
            desk.say(format!("  only        recipients at {only}"));
        }
        if let Some(segment) = &self.segment {
            desk.say(format!("  segment     {segment}"));
        }
        if let Some(exclude) = &self.exclude {
            desk.say(format!("  exclude     {exclude}"));
        }
        if let Some(start) = self.start_at {
            desk.say(format!("  start       not before {start}"));
        }
        if let Some(deadline) = self.deadline {
            desk.say(format!("  deadline    {deadline}: what is not out by then is cancelled"));
        }
        desk.say(format!("  {members:>10}  subscribed members"));
        if self.outside_segment > 0 {
            desk.say(format!("  {:>10}  outside the segment", self.outside_segment));
        }
        for left in &self.left_out {
            desk.say(format!("  {:>10}  left out: {}", left.count, left.reason.word()));
        }
        if *beyond_limit > 0 {
            desk.say(format!("  {beyond_limit:>10}  beyond the limit"));
        }
        desk.say(format!("  {recipients:>10}  recipients"));
        if self.running {
            desk.say("  under way   an earlier send has begun it; this one goes on with what is left");
        }
    }
}

impl Outlook {
    /// Foresees the delivery from the limits that will enforce it.
    pub(super) async fn foresee(
        desk: &Desk,
        store: &Store,
        audience: Audience,
        pool: Option<&str>,
    ) -> Result<Outlook, Error> {
        let via = audience.via.as_deref().map(Via::parse).transpose();
        let via = via.map_err(|why| Error::usage(format!("--via: {why}")))?;
        let rate = audience.rate.as_deref().map(Rate::parse).transpose();
        let rate = rate.map_err(|why| Error::usage(format!("--rate: {why}")))?;
        let sources = sources_of(desk, pool, via.is_some());
        let loads = match &via {
            Some(via) => vec![Load {
                site: via.to_string(),
                copies: audience.recipients,
                shape: desk.workspace().shaping()?.relay(desk.settings()),
                cold: Vec::new(),
                new_domains: Vec::new(),
            }],
            None => {
                let new_domains = among(&desk.settings().warmup.domains, &audience.names);
                loads::loads(desk, store, &audience.survey, audience.recipients, (&sources, &new_domains)).await?
            }
        };
        let calendar = Calendar::new(&desk.settings().warmup);
        let forecast = Forecast::make(loads, sources.len().max(1), rate.map(Rate::per_second), &calendar, desk.now());
        let begins = audience.start_at.map_or(desk.now(), |start| start.max(desk.now()));
        let ends = begins + Duration::from_secs_f64(forecast.seconds);
        let is_late = audience.deadline.is_some_and(|deadline| deadline < ends);
        let delivery = Delivery { by_site: forecast.sites, seconds: forecast.seconds, ends: ends.rfc3339(), is_late };
        Ok(Outlook { audience, delivery })
    }
}

/// The addresses a campaign leaves from; a relay is spoken to from one of them, and knows it.
fn sources_of<'a>(desk: &'a Desk, pool: Option<&str>, is_relay: bool) -> Vec<&'a Source> {
    let settings = desk.settings();
    let pool = settings.pool.iter().find(|known| Some(known.name.as_str()) == pool);
    let is_in = |source: &&Source| pool.is_none_or(|pool| pool.sources.iter().any(|share| share.name == source.name));
    settings.source.iter().filter(is_in).take(if is_relay { 1 } else { usize::MAX }).collect()
}

/// The survey reads every member: not on a thread that others wait for.
async fn survey(store: Store, meant: Meant, only: Option<Domain>, now: Timestamp) -> Result<Survey, Error> {
    let work = tokio::task::spawn_blocking(move || Survey::take(&store, &meant, only.as_ref(), usize::MAX, now));
    Ok(work.await.expect("a survey does not panic")?)
}

impl Outlook {
    /// Prints the plan.
    pub(super) fn show(&self, desk: &Desk) {
        desk.give(self);
        self.audience.show(desk);
        if self.audience.recipients > 0 {
            self.delivery.show(desk);
        }
    }
}

impl Delivery {
    fn show(&self, desk: &Desk) {
        desk.say(format!("\n  {:<40} {:>10} {:>10}  {:<12} held back by", "site", "copies", "per second", "takes"));
        for course in self.by_site.iter().take(SHOWN) {
            let Course { site, copies, rate, seconds, bound, .. } = course;
            let takes = in_words(*seconds);
            desk.say(format!("  {site:<40} {copies:>10} {rate:>10.1}  {takes:<12} {}", in_short(*bound)));
        }
        if let Some(rest) = self.by_site.get(SHOWN..).filter(|rest| !rest.is_empty()) {
            let copies: u64 = rest.iter().map(|course| course.copies).sum();
            let takes = in_words(rest[0].seconds);
            desk.say(format!("  {:<40} {copies:>10} {:>10}  {takes}", format!("{} others", rest.len()), ""));
        }
        if let Some(course) = self.by_site.iter().find(|course| course.warmup_days.is_some()) {
            desk.say(format!(
                "\nWhat goes to {} and others is held back by the warm-up of its sources or domains: {} days.",
                course.site,
                course.warmup_days.unwrap_or_default()
            ));
        }
        desk.say(format!(
            "\nBy these limits alone the last copy is delivered {} after the first, at {}. Deferrals come on top.",
            in_words(self.seconds),
            self.ends
        ));
        if self.is_late {
            desk.say("That is after the deadline: whoever's turn has not come by then gets nothing.");
        }
    }
}

fn in_short(bound: Bound) -> &'static str {
    match bound {
        Bound::MessageRate => "max_message_rate",
        Bound::ConnectionRate => "max_connection_rate",
        Bound::Connections => "connection_limit",
        Bound::LaunchRate => "--rate",
        Bound::Warmup => "warm-up",
    }
}
