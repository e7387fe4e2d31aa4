//! `bounces read` and `bounces poll`: what came back, understood and recorded.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;

use crate::base::Seal;
use crate::cli::error::failure;
use crate::cli::{Desk, Error, Exit};
use crate::outcome::{
    self, Action, Arrival, Effect, Fetcher, Kind, Mail, MailboxError, Policy, ReturnDesk, Returned, Round,
};
use crate::sign;
use crate::smtp::TlsClient;
use crate::store::{Late, Store, Threads};
use crate::world::{Clock, World};

/// What can be done with returned mail.
#[derive(Debug, Subcommand)]
pub enum Bounces {
    /// Tell what returned messages are: bounces, delays, complaints, automatic replies, wishes to leave.
    ///
    /// Reads single messages (.eml), mbox files and Maildir folders. Inside a workspace the copy each message is about is
    /// found by its sealed token, and its campaign named; without one the addresses are as the messages tell them.
    Read {
        /// Files and folders.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Record what follows: bounces move their copies and suppress dead addresses, complaints suppress, wishes to leave
        /// are fulfilled. Only for copies proven by a token; the same message counts once, however often it is read.
        #[arg(long)]
        record: bool,
    },
    /// Fetch from the mailboxes of the settings once, and record what is about our mail.
    ///
    /// Messages about copies of ours are moved, marked or deleted once they are on record; everything else is left where
    /// it is, unread.
    Poll,
}

/// One message, as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    file: String,
    index: u64,
    kind: Kind,
    token: Option<&'a str>,
    campaign: Option<String>,
    recipients: Vec<Person<'a>>,
}

#[derive(Serialize)]
struct Person<'a> {
    address: &'a str,
    action: Option<Action>,
    status: Option<String>,
    permanent: Option<bool>,
    class: &'static str,
    suppress: bool,
}

impl<'a> Person<'a> {
    fn new(returned: &'a Returned) -> Person<'a> {
        Person {
            address: &returned.address,
            action: returned.action,
            status: returned.status.map(|status| status.to_string()),
            permanent: returned.permanent,
            class: returned.class.word(),
            suppress: returned.suppresses(),
        }
    }
}

/// What a workspace adds to reading.
struct Books {
    seal: Option<Seal>,
    store: Option<Store>,
}

impl Books {
    /// Opens what there is: a folder that is no workspace, or a young one, has neither keys nor record.
    fn open(desk: &Desk) -> Result<Books, Error> {
        let workspace = desk.workspace();
        let seal = match workspace.seal() {
            Ok(seal) => seal,
            Err(sign::Error::NoSeal { .. }) => return Ok(Books { seal: None, store: None }),
            Err(why) => return Err(why.into()),
        };
        let (seal, store) = (Some(seal), Some(workspace.store(Threads::Own)?));
        Ok(Books { seal, store })
    }

    /// The token that opens, and the campaign of its copy.
    fn look_up<'a>(&self, arrival: &'a Arrival) -> Result<(Option<&'a str>, Option<String>), Error> {
        let Some((copy, trace)) = self.seal.as_ref().and_then(|seal| arrival.copy(seal)) else {
            return Ok((None, None));
        };
        let launch = match &self.store {
            Some(store) => store.launch(copy.launch())?,
            None => None,
        };
        Ok((Some(&trace.token), launch.map(|launch| launch.campaign.to_string())))
    }
}

/// What was read, counted.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    kinds: [u64; 7],
    recorded: u64,
    unread: u64,
}

/// Reads files, or fetches from mailboxes.
pub async fn run(desk: &Desk, command: Bounces) -> Result<Exit, Error> {
    match command {
        Bounces::Read { files, record } => read(desk, &files, record).await,
        Bounces::Poll => poll(desk).await,
    }
}

/// What one round through a mailbox came to, as `--json` prints it.
#[derive(Serialize)]
struct Polled<'a> {
    mailbox: &'a str,
    taken: u64,
    foreign: u64,
    /// Whether another process is looking through it.
    in_use: bool,
}

/// Goes through every mailbox once. A mailbox that cannot be read does not keep the others waiting; exit code 1 then.
async fn poll(desk: &Desk) -> Result<Exit, Error> {
    let settings = desk.settings();
    if settings.mailbox.is_empty() {
        return Err(Error::usage("there is no mailbox to look into: add a [[mailbox]] to mailshot.toml"));
    }
    let world = desk.world()?;
    let tls = TlsClient::new(settings.tls_ca.as_deref()).map_err(|why| Error::usage(why.to_string()))?;
    let intake = ReturnDesk {
        store: desk.store()?,
        seal: desk.workspace().seal()?,
        policy: Arc::new(Policy::new(&settings.bounce)),
        clock: world.clock.clone(),
    };
    let mut exit = Exit::Done;
    for fetcher in Fetcher::all(&settings.mailbox, &world, &tls, &intake.store, settings.allow_private) {
        let mailbox = fetcher.mailbox();
        match fetcher.collect(&intake).await {
            Ok(Round { taken, foreign }) => {
                desk.say(format!("{}: {taken} on record, {foreign} left alone", mailbox.name));
                desk.give_one(&Polled { mailbox: &mailbox.name, taken, foreign, in_use: false });
            }
            // what it holds comes home all the same
            Err(why @ MailboxError::Taken { .. }) => {
                desk.note(why.to_string());
                desk.give_one(&Polled { mailbox: &mailbox.name, taken: 0, foreign: 0, in_use: true });
            }
            Err(why) => {
                let why = why.to_string();
                desk.note(&why);
                desk.give_one(&serde_json::json!({ "mailbox": mailbox.name, "error": failure(&why) }));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// Reads the files one message at a time. Exit code 4 when a message could not be read.
async fn read(desk: &Desk, files: &[PathBuf], record: bool) -> Result<Exit, Error> {
    let books = Books::open(desk)?;
    if record && (books.seal.is_none() || books.store.is_none()) {
        return Err(Error::usage(format!(
            "--record needs the workspace that sent the mail, and {} holds no seal keys or no record of contacts; name it with -C DIR",
            desk.workspace().folder().display()
        )));
    }
    let clock = match record {
        true => Some(World::real(desk.settings().name_service()).map_err(Error::failed)?.clock),
        false => None,
    };
    let mut tally = Tally::default();
    for path in files {
        let open = outcome::mails(path).map_err(|why| Error::usage(format!("{}: {why}", path.display())))?;
        for mail in open {
            match mail {
                Ok(mail) => one(desk, &books, &mail, clock.as_deref(), &mut tally).await?,
                Err(why) => {
                    tally.unread += 1;
                    desk.note(format!("{}: {why}", path.display()));
                }
            }
        }
    }
    close(desk, &tally, record);
    Ok(if tally.unread > 0 { Exit::Unsettled } else { Exit::Done })
}

async fn one(
    desk: &Desk,
    books: &Books,
    mail: &Mail,
    clock: Option<&dyn Clock>,
    tally: &mut Tally,
) -> Result<(), Error> {
    let arrival = outcome::read(&mail.bytes);
    let (token, campaign) = books.look_up(&arrival)?;
    tally.messages += 1;
    tally.kinds[arrival.kind as usize] += 1;
    if let (Some(clock), Some(seal), Some(store)) = (clock, &books.seal, &books.store)
        && let Some(copy) = arrival.affected(seal)
    {
        let judge = Arc::new(Policy::new(&desk.settings().bounce));
        let effect = arrival.record(copy, store, judge, clock.now()).await?;
        tally.recorded += u64::from(is_new(effect));
    }
    let file = mail.file.display().to_string();
    show(desk, &file, mail.index, &arrival, campaign.as_deref());
    let recipients = arrival.recipients.iter().map(Person::new).collect();
    desk.give_one(&Line { file, index: mail.index, kind: arrival.kind, token, campaign, recipients });
    Ok(())
}

/// Whether an effect changed anything.
fn is_new(effect: Effect) -> bool {
    match effect {
        Effect::Nothing => false,
        Effect::Bounced(late) => match late {
            Late::Moved | Late::Ahead => true,
            Late::Known | Late::TooLate | Late::Unknown => false,
        },
        Effect::Complained(new) => new,
        Effect::Left(lists) => lists > 0,
        Effect::Noted(new) => new,
    }
}

/// A message in plain words: one line, and one more for each recipient.
fn show(desk: &Desk, file: &str, index: u64, arrival: &Arrival, campaign: Option<&str>) {
    let place = if index > 0 { format!("{file} #{index}") } else { file.to_owned() };
    let campaign = campaign.map(|name| format!("  campaign {name}")).unwrap_or_default();
    desk.say(format!("{:<12}{place}{campaign}", arrival.kind.to_string()));
    for returned in &arrival.recipients {
        let action = returned.action.map_or("-".to_owned(), |action| action.to_string());
        let status = returned.status.map_or("-".to_owned(), |status| status.to_string());
        let lasting = match returned.permanent {
            Some(true) => "permanent",
            Some(false) => "temporary",
            None => "-",
        };
        let suppress = if returned.suppresses() { "  suppress" } else { "" };
        let class = returned.class.word();
        desk.say(format!("  {:<40} {action:<10}{status:<9}{lasting:<11}{class}{suppress}", returned.address));
    }
}

fn close(desk: &Desk, tally: &Tally, record: bool) {
    let kinds =
        [Kind::Bounce, Kind::Delay, Kind::Complaint, Kind::AutoReply, Kind::Unsubscribe, Kind::Report, Kind::Other];
    let counts = kinds.iter().map(|kind| (kind, tally.kinds[*kind as usize])).filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts.map(|(kind, count)| format!("{count} {kind}")).collect();
    desk.say(format!("\n{} messages: {}", tally.messages, counts.join(", ")));
    if record {
        desk.say(format!("{} recorded; what was on record already stays as it was", tally.recorded));
        desk.next("mailshot report CAMPAIGN");
    } else if tally.kinds[Kind::Bounce as usize] + tally.kinds[Kind::Complaint as usize] > 0 {
        desk.next("the same with --record, in the workspace that sent the mail");
    }
}
