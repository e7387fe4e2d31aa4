//! Who owns the queue: this process, or another one that is asked over its control socket.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout_at};

use crate::base::{Address, Domain, EnvelopeId, LaunchId};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Desk, Error};
use crate::engine::{
    AskError, Client, Control, CopyView, Crew, DomainView, Engine, Handle, Hold, Parts, QueueView, Settled, Wait,
    WorkspaceError, place,
};
use crate::queue::{Durability, SledLedger, Whose};
use crate::smtp::TlsClient;
use crate::store::{Store, Threads};

/// How often another process is asked whether a launch has settled.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How long somebody who holds the queue without sending is waited for: they only look at it, or move something, or end,
/// which takes no longer than [`GRACE`] and what comes after it.
const SOON: Duration = GRACE.saturating_add(Duration::from_secs(10));
/// After this time it is told who is waited for.
const TOLD: Duration = Duration::from_secs(2);
/// How often it is looked whether they have ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long what is on the wire may take to end.
pub const GRACE: Duration = Duration::from_secs(30);
/// Open files below which a large campaign will not have the connections it could.
const FILES_LOW: u64 = 4096;

/// The owner of the queue.
pub enum Owner {
    /// This process.
    Here(Box<Here>),
    /// Another one.
    There(Client),
}

/// The queue in this process's hands.
pub struct Here {
    engine: Engine,
    /// Others are answered as long as this lives.
    control: Control,
    /// Given back last.
    _hold: Hold,
}

/// Who holds the queue.
enum Holder {
    /// This process.
    Us(Hold),
    /// One that sends and answers; with the words of a refusal.
    Sender(Client, WorkspaceError),
}

impl Holder {
    /// Takes the queue in hand, or finds who sends from it. Whoever holds it without sending, or is just beginning or
    /// ending, is waited for.
    async fn await_queue(desk: &Desk, crew: Crew) -> Result<Holder, Error> {
        let start = Instant::now();
        let (until, mut is_told) = (start + SOON, false);
        let (workspace, client) = (desk.workspace(), Client::new(desk.workspace().control_socket()));
        loop {
            let taken = if crew == Crew::Sending { workspace.hold_to_send() } else { workspace.hold() };
            let (held, sending) = match taken {
                Ok(hold) => return Ok(Holder::Us(hold)),
                Err(held @ WorkspaceError::Held { sending, .. }) => (held, sending),
                Err(other) => return Err(other.into()),
            };
            // who is just beginning or ending has no socket; who does not answer must not be waited for beyond that time
            if sending && timeout_at(until, client.queue()).await.is_ok_and(|view| view.is_ok()) {
                return Ok(Holder::Sender(client, held));
            }
            if Instant::now() >= until {
                return Err(held.into());
            }
            if !is_told && start.elapsed() >= TOLD {
                desk.note(format!("{held}; waiting for it to end"));
                is_told = true;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Owner {
    /// Takes the queue in hand, or finds who holds it. `crew` is who is to be at work when it is this process.
    pub async fn reach(desk: &Desk, store: &Store, crew: Crew) -> Result<Owner, Error> {
        Owner::of(desk, store, crew, Holder::await_queue(desk, crew).await?).await
    }

    /// As [`Owner::reach`], to send. `None` when a signal came while others were waited for; what has begun to start is not
    /// broken off.
    pub async fn reach_or_never(desk: &Desk, store: &Store, interrupt: &mut Interrupt) -> Result<Option<Owner>, Error> {
        let Some(holder) = interrupt.or_never(Holder::await_queue(desk, Crew::Sending)).await else { return Ok(None) };
        let reached = Owner::of(desk, store, Crew::Sending, holder?);
        Ok(Some(interrupt.or_later(desk, reached).await?))
    }

    async fn of(desk: &Desk, store: &Store, crew: Crew, holder: Holder) -> Result<Owner, Error> {
        Ok(match holder {
            Holder::Us(hold) => Owner::Here(Box::new(Here::start(desk, store, crew, hold).await?)),
            Holder::Sender(client, _) => Owner::There(client),
        })
    }

    /// As [`Owner::reach_or_never`], and refused when another process holds the queue.
    pub async fn become_owner(desk: &Desk, store: &Store, interrupt: &mut Interrupt) -> Result<Option<Here>, Error> {
        match interrupt.or_never(Holder::await_queue(desk, Crew::Sending)).await.transpose()? {
            None => Ok(None),
            Some(Holder::Us(hold)) => {
                Ok(Some(interrupt.or_later(desk, Here::start(desk, store, Crew::Sending, hold)).await?))
            }
            Some(Holder::Sender(_, held)) => Err(held.into()),
        }
    }

    /// Whether it is another process that does not answer any more.
    pub async fn is_gone(&self) -> bool {
        match self {
            Owner::Here(_) => false,
            Owner::There(client) => matches!(client.queue().await, Err(AskError::Silent { .. })),
        }
    }

    /// Has a launch on record seen to.
    pub async fn take_up(&self, launch: LaunchId) -> Result<(), Error> {
        match self {
            Owner::Here(here) => here.handle().take_up(launch),
            Owner::There(client) => client.take_up(launch).await?,
        }
        Ok(())
    }

    /// Holds a launch; gives how many copies were put aside.
    pub async fn pause(&self, launch: LaunchId) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().pause(launch).await?,
            Owner::There(client) => client.pause(launch).await?,
        })
    }

    /// Puts a paused launch back to work; gives how many copies were put back.
    pub async fn resume(&self, launch: LaunchId) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().resume(launch).await?,
            Owner::There(client) => client.resume(launch).await?,
        })
    }

    /// Calls a launch back; gives how many copies were cancelled.
    pub async fn cancel(&self, launch: LaunchId) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().cancel(launch).await?,
            Owner::There(client) => client.cancel(launch).await?,
        })
    }

    /// Makes what is deferred due now; gives how many copies that are.
    pub async fn retry(&self, launch: LaunchId) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().retry(launch).await?,
            Owner::There(client) => client.retry(launch).await?,
        })
    }

    /// Sends the copies again that are held in doubt; gives how many they are.
    pub async fn retry_doubts(&self, launch: LaunchId) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().retry_doubts(launch).await?,
            Owner::There(client) => client.retry_doubts(launch).await?,
        })
    }

    /// As [`Owner::retry`], for a domain.
    pub async fn retry_domain(&self, domain: &Domain) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().retry_domain(domain.clone()).await?,
            Owner::There(client) => client.retry_domain(domain).await?,
        })
    }

    /// How many copies are in the queue and not on the wire.
    pub async fn count(&self, whose: &Whose) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().count(whose.clone()).await?,
            Owner::There(client) => client.count(whose).await?,
        })
    }

    /// Takes copies out of the queue; gives how many they were.
    pub async fn drop_copies(&self, whose: &Whose) -> Result<u64, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().drop_copies(whose.clone()).await?,
            Owner::There(client) => client.drop_copies(whose).await?,
        })
    }

    /// Sends nothing more to a site, nor to the domain of that name.
    pub async fn suspend_site(&self, name: &str) -> Result<(), Error> {
        match self {
            Owner::Here(here) => here.handle().suspend_site(name).await?,
            Owner::There(client) => client.suspend_site(name).await?,
        }
        Ok(())
    }

    /// Lets a site, and the domain of that name, go on.
    pub async fn resume_site(&self, name: &str) -> Result<(), Error> {
        match self {
            Owner::Here(here) => here.handle().resume_site(name).await?,
            Owner::There(client) => client.resume_site(name).await?,
        }
        Ok(())
    }

    /// What is on the road to one domain.
    pub async fn domain(&self, domain: &Domain) -> Result<Option<DomainView>, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().domain(domain).await?,
            Owner::There(client) => client.domain(domain).await?,
        })
    }

    /// One copy as it is in the queue.
    pub async fn copy(&self, copy: EnvelopeId) -> Result<Option<CopyView>, Error> {
        Ok(match self {
            Owner::Here(here) => here.handle().copy(copy).await?,
            Owner::There(client) => client.copy(copy).await?,
        })
    }

    /// What is on the road.
    pub async fn queue(&self) -> Result<QueueView, Error> {
        Ok(match self {
            Owner::Here(here) => QueueView::of(&here.handle()).await?,
            Owner::There(client) => client.queue().await?,
        })
    }

    /// Waits until a launch has settled.
    pub async fn settled(&self, launch: LaunchId, wait: Wait) -> Result<Settled, Error> {
        match self {
            Owner::Here(here) => Ok(here.handle().settled(launch, wait).await?),
            Owner::There(client) => loop {
                if let Some(settled) = client.glance(launch, wait).await? {
                    return Ok(settled);
                }
                sleep(ASK_EVERY).await;
            },
        }
    }

    /// Ends what this process has begun; another owner goes on. Fails when what was done could not be recorded.
    pub async fn leave(self) -> Result<(), Error> {
        match self {
            Owner::Here(here) => {
                let handle = here.handle();
                here.stop().await;
                handle.failed().now_or_never().map_or(Ok(()), |why| Err(why.into()))
            }
            Owner::There(_) => Ok(()),
        }
    }
}

impl Here {
    async fn start(desk: &Desk, store: &Store, crew: Crew, hold: Hold) -> Result<Here, Error> {
        let (workspace, world) = (desk.workspace(), desk.world()?);
        let settings = workspace.settings();
        if crew == Crew::Sending {
            raise_file_limit(desk);
            refuse_unreadable(desk)?;
        }
        let durability = if settings.queue.durable { Durability::Synced } else { Durability::Unsynced };
        let folder = workspace.queue_folder();
        let ledger =
            SledLedger::open(&folder, settings.queue.cache_mb, durability)?.with_reserve(settings.queue.reserve_mb);
        let place = place(&folder);
        let parts =
            Parts { workspace: workspace.clone(), world, store: store.clone(), threads: Threads::Own, place, crew };
        let engine = Engine::start(parts, ledger).await?;
        if crew == Crew::Keeping {
            // a person waits for it
            engine.handle().queue().hurry();
        }
        let control = match Control::open(&workspace.control_socket(), engine.handle()) {
            Ok(control) => control,
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                return Err(error.into());
            }
        };
        Ok(Here { engine, control, _hold: hold })
    }

    /// A handle on the engine.
    pub fn handle(&self) -> Handle {
        self.engine.handle()
    }

    /// Stops in order; everything done is on disk when this returns.
    pub async fn stop(self) {
        let Here { engine, control, _hold } = self;
        // whoever begins now waits for the queue: what it asked of an engine that ends would be seen to by nobody
        drop(control);
        engine.stop(GRACE).await;
    }
}

/// The domain that reports on TLS come from, if it has no key to sign them with; reads the keys.
pub(super) fn unsigned_reports(desk: &Desk) -> Result<Option<Domain>, Error> {
    let keyring = desk.workspace().keyring()?;
    let from = desk.settings().tls_reports.from.as_deref();
    let from = from.map(|from| Address::parse(from).expect("checked with the settings"));
    Ok(from.map(|from| from.domain().clone()).filter(|domain| !keyring.has_key(domain)))
}

/// What the sending tasks read from the workspace is read before anybody starts: what is wrong is shown at its place.
fn refuse_unreadable(desk: &Desk) -> Result<(), Error> {
    let workspace = desk.workspace();
    workspace.shaping()?;
    workspace.rules()?;
    workspace.relays()?;
    if let Some(domain) = unsigned_reports(desk)? {
        return Err(Error::usage(format!(
            "tls_reports.from: reports are always signed, and there is no DKIM key for {domain}; make one with \
             `mailshot dkim new {domain}`"
        )));
    }
    workspace.seal()?;
    TlsClient::new(desk.settings().tls_ca.as_deref()).map_err(|why| Error::usage(format!("tls_ca: {why}")))?;
    Ok(())
}

/// Raises the number of files this process may have open as far as the system allows: every connection is one.
pub(super) fn raise_file_limit(desk: &Desk) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // a refusal leaves the limit as it was, which is looked at below
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    if let Some(most) = getrlimit(Resource::Nofile).current.filter(|most| *most < FILES_LOW) {
        desk.note(format!(
            "note: only {most} files may be open at once, and every connection is one; raise the limit with `ulimit -n 65536`"
        ));
    }
}
