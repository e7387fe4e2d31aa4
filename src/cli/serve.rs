//! `serve`: everything at once, until it is stopped: sending, the listener for returned mail, the mailboxes, the pages.
//! With `--only web` the pages alone, on the store: they stay up while the sender is down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::base::Address;
use crate::cli::interrupt::Interrupt;
use crate::cli::owner::{GRACE, Owner};
use crate::cli::{Desk, Error, Exit};
use crate::delivery::source::host_name;
use crate::delivery::via::Via;
use crate::engine::{Client, Handle};
use crate::outcome::{Fetcher, Listener, MailboxError, Policy, Retention, ReturnDesk, Round};
use crate::smtp::TlsClient;
use crate::smtp::server::Protocol;
use crate::store::{LaunchKind, Store, Threads};
use crate::web::{self, Door, Editions, Looks, Pages, Ring, Signups, Tracker};

/// The longest rest of a mailbox whose login is refused.
const REFUSED_MAX: Duration = Duration::from_secs(3600);

/// What is served.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Serve only this part, and leave the queue to another process.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// A part that can be served alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The public pages.
    Web,
}

/// Runs until a signal, or until the queue or the record fails.
pub async fn run(desk: &Desk, arguments: &Arguments) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let mut interrupt = Interrupt::listen()?;
    let mut doors = Doors::default();
    if arguments.only == Some(Part::Web) {
        if !doors.open_pages(desk, &store, ring_elsewhere(desk)).await? {
            return Err(Error::usage(
                "web.listen is not set: name the address of the pages in mailshot.toml, below [web]",
            ));
        }
        interrupt.heard().await;
        doors.close().await;
        return Ok(Exit::Done);
    }
    let Some(here) = Owner::become_owner(desk, &store, &mut interrupt).await? else { return Ok(Exit::Done) };
    let handle = here.handle();
    let ring: Ring = Arc::new({
        let handle = handle.clone();
        move |launch| handle.take_up(launch)
    });
    let opened = match doors.open_pages(desk, &store, ring).await {
        Ok(_) => doors.open_returns(desk, &store, &handle).await,
        Err(error) => Err(error),
    };
    if let Err(error) = opened {
        interrupt.or_at_once(desk, here.stop()).await;
        doors.close().await;
        return Err(error);
    }
    let open = store.open_launches()?;
    let campaigns = open.iter().filter(|launch| launch.kind == LaunchKind::Campaign);
    let under_way: Vec<String> = campaigns.map(|launch| launch.campaign.to_string()).collect();
    match under_way.as_slice() {
        [] => desk.note("sending; no campaign is under way: `mailshot send CAMPAIGN --yes` begins one"),
        some => desk.note(format!("sending; under way: {}", some.join(", "))),
    }
    let failed = tokio::select! {
        biased;
        () = interrupt.heard() => None,
        error = handle.failed() => Some(error),
    };
    desk.note("finishing what is on the wire; once more stops at once");
    interrupt.or_at_once(desk, here.stop()).await;
    doors.close().await;
    match failed.or_else(|| handle.failed().now_or_never()) {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Done),
    }
}

/// Tells whoever owns the queue of a launch; when nobody does, it is seen to once somebody does.
fn ring_elsewhere(desk: &Desk) -> Ring {
    let socket = desk.workspace().control_socket();
    Arc::new(move |launch| {
        let client = Client::new(socket.clone());
        tokio::spawn(async move {
            if let Err(why) = client.take_up(launch).await {
                tracing::debug!(%launch, %why, "a launch waits until somebody sends");
            }
        });
    })
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{why}")]
#[diagnostic(help(
    "stop whoever listens there, or name another address with {key} in mailshot.toml; a port below 1024 needs a right: `setcap cap_net_bind_service=+ep` on the binary, or the unit in the README"
))]
struct Taken {
    why: String,
    key: &'static str,
}

fn taken(why: &impl std::fmt::Display, key: &'static str) -> Error {
    Error::either(true, Taken { why: why.to_string(), key })
}

/// Whatever others knock at or answer to, beside the queue.
#[derive(Default)]
struct Doors {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Doors {
    /// The public pages, when the settings give them an address; tells whether they do.
    async fn open_pages(&mut self, desk: &Desk, store: &Store, ring: Ring) -> Result<bool, Error> {
        let settings = desk.settings();
        let Some(address) = &settings.web.listen else { return Ok(false) };
        let address: SocketAddr = address.parse().expect("checked with the settings");
        let wrong = |why: &dyn std::fmt::Display| Error::usage(why.to_string());
        let looks = Looks::load(&desk.workspace().folder().join("public")).map_err(|why| wrong(&why))?;
        let door = Door::new(&settings.web, desk.workspace().folder()).map_err(|why| wrong(&why))?;
        let clock = desk.world()?.clock;
        let signups = self.open_signups(desk, store, &looks, ring).await?;
        let (tracker, recording) = Tracker::start(store.clone());
        let pages = Pages {
            store: store.clone(),
            seal: desk.workspace().seal()?,
            clock,
            looks: Arc::new(looks),
            tracker,
            editions: Editions::default(),
            consent_rule: settings.links.tracking_consent.into(),
            signups,
        };
        let listener = web::bind(address).await.map_err(|why| taken(&why, "web.listen"))?;
        let (stop, is_secure) = (self.stop.clone(), door.is_secure());
        self.tasks.spawn(async move {
            if let Err(why) = door.serve(listener, web::router(pages), stop).await {
                tracing::error!(%why, "the pages have stopped");
            }
            let _ = recording.await; // visits that were taken are put on record
        });
        desk.note(format!("pages at {}://{address}", if is_secure { "https" } else { "http" }));
        Ok(true)
    }

    /// The lists that people may join, when the settings name any.
    async fn open_signups(
        &mut self,
        desk: &Desk,
        store: &Store,
        looks: &Looks,
        ring: Ring,
    ) -> Result<Option<Arc<Signups>>, Error> {
        let settings = desk.settings();
        if settings.signup.lists.is_empty() {
            return Ok(None);
        }
        let from = Address::parse(&settings.signup.from).expect("checked with the settings");
        if !settings.dkim.unsigned && !desk.workspace().keyring()?.has_key(from.domain()) {
            let domain = from.domain();
            return Err(Error::usage(format!(
                "signup.from: there is no DKIM key for {domain}; make one with `mailshot dkim new {domain}`"
            )));
        }
        if let Some(via) = &settings.signup.via {
            Via::parse(via).map_err(|why| Error::usage(format!("signup.via = \"{via}\": {why}")))?;
        }
        let clock = desk.world()?.clock;
        let signups = Signups::open(settings, looks, store, &*clock, ring).await;
        let signups = signups.map_err(|why| Error::usage(why.to_string()))?;
        self.tasks.spawn(signups.clone().sweep(store.clone(), clock, self.stop.clone()));
        for list in &settings.signup.lists {
            desk.note(format!("{}/s/{list} lets people join {list}", settings.links.base_url));
        }
        Ok(Some(Arc::new(signups)))
    }

    /// The listener and the mailboxes, as the settings have them.
    async fn open_returns(&mut self, desk: &Desk, store: &Store, handle: &Handle) -> Result<(), Error> {
        let settings = desk.settings();
        let (world, seal) = (desk.world()?, desk.workspace().seal()?);
        let policy = Arc::new(Policy::new(&settings.bounce));
        let intake =
            Arc::new(ReturnDesk { store: store.clone(), seal: seal.clone(), policy, clock: world.clock.clone() });
        let postmaster = desk.workspace().folder().join("state/postmaster");
        let retention = Retention {
            store: store.clone(),
            ages: settings.retention.clone(),
            clock: world.clock.clone(),
            postmaster: postmaster.clone(),
        };
        self.tasks.spawn(retention.run(self.stop.clone()));
        let listens = [(&settings.listener.smtp, Protocol::Smtp), (&settings.listener.lmtp, Protocol::Lmtp)];
        if listens.iter().any(|(addresses, _)| !addresses.is_empty()) {
            let listener = Listener::new(&settings.listener, &host_name(), postmaster, seal, intake.clone());
            let listener = listener.map_err(Error::failed)?;
            for (addresses, protocol) in listens {
                for address in addresses {
                    let socket = Listener::bind(address.parse().expect("checked with the settings")).await;
                    self.tasks.spawn(listener.clone().run(
                        socket.map_err(|why| taken(&why, "listener.smtp or listener.lmtp"))?,
                        protocol,
                        self.stop.clone(),
                    ));
                    desk.note(format!("returned mail at {address}"));
                }
            }
        }
        let tls = TlsClient::new(settings.tls_ca.as_deref()).map_err(|why| Error::usage(why.to_string()))?;
        for fetcher in Fetcher::all(&settings.mailbox, &world, &tls, store, settings.allow_private) {
            let mailbox = fetcher.mailbox();
            desk.note(format!("looking into mailbox {}, every {} at the least", mailbox.name, mailbox.every));
            let poller = Poller { fetcher, intake: intake.clone(), handle: handle.clone() };
            self.tasks.spawn(poller.run(self.stop.clone()));
        }
        Ok(())
    }

    /// Closes all; what is being answered has its time.
    async fn close(mut self) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, ended).await;
    }
}

/// Looks into one mailbox now and then, or stays with it where the server tells of new mail.
struct Poller {
    fetcher: Fetcher,
    intake: Arc<ReturnDesk>,
    handle: Handle,
}

impl Poller {
    /// A visit, a rest, until stopped. A mailbox that cannot be read is said so and tried again next time; when it is the
    /// login or the token that is refused, somebody is told, and the rests grow: providers lock who insists.
    async fn run(self, stop: CancellationToken) {
        let mailbox = self.fetcher.mailbox();
        let told = |round: Round| match round {
            Round { taken: 0, foreign: 0 } => tracing::debug!(mailbox = mailbox.name, "nothing new"),
            Round { taken, foreign } => tracing::info!(mailbox = mailbox.name, taken, foreign, "mailbox read"),
        };
        let mut refusals = 0;
        loop {
            let visit = tokio::select! {
                biased;
                () = stop.cancelled() => return self.fetcher.let_go().await,
                visit = self.fetcher.attend(&*self.intake, told) => visit,
            };
            match &visit {
                Err(why @ (MailboxError::Login { .. } | MailboxError::Token { .. })) => {
                    refusals += 1;
                    self.handle.mailbox_refused(&mailbox.name, &why.to_string());
                }
                Err(why) => tracing::warn!(%why, "a mailbox cannot be read"),
                Ok(()) => refusals = 0,
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(rest(mailbox.every.duration(), refusals)) => {}
            }
        }
    }
}

/// The rest after so many refusals in a row: twice as long each time, up to an hour, and never shorter than without any.
fn rest(every: Duration, refusals: u32) -> Duration {
    let longer = every.saturating_mul(1 << refusals.min(12));
    longer.min(REFUSED_MAX).max(every)
}
