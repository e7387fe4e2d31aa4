//! The whole path on this machine: the sample contacts imported into a workspace of its own, planned, printed, signed and
//! sent over real sockets with STARTTLS to a test receiver, whose books are then held against the report.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::audience::{self, Forgotten, ImportOptions, Source, SourceOptions};
use crate::base::{CampaignName, Domain, LaunchId};
use crate::compose::SAMPLE_POSTAL_ADDRESS;
use crate::engine::{self, Crew, Engine, Handle, LaunchError, Parts, Ready, SAMPLE_CAMPAIGN, Wait, Workspace, place};
use crate::outcome::{CampaignReport, html, report};
use crate::proving::counts::{Counts, Tally};
use crate::proving::receiver::{Receiver, Setup};
use crate::proving::script::{Fate, Moment, Script};
use crate::proving::verifier::Verifier;
use crate::queue::{Durability, SledLedger};
use crate::store::{self, LaunchOptions, OnConflict, Store, Threads};
use crate::world::{Dnssec, NameService, World, Zone};

/// What the receiver is told.
const SCRIPT: &str = include_str!("demo.toml");
/// The list of the sample campaign.
const LIST: &str = "news";
/// How long the whole may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often figures are shown.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// What connections on the wire get to end.
const GRACE: Duration = Duration::from_secs(5);

/// Why the demo cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file or socket of this machine.
    #[error("{what}: {why}")]
    Machine {
        /// What was tried.
        what: String,
        /// What the system said.
        why: io::Error,
    },
    /// The workspace.
    #[error(transparent)]
    Workspace(#[from] engine::WorkspaceError),
    /// The receiver.
    #[error(transparent)]
    Receiver(#[from] super::Error),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] crate::sign::Error),
    /// The record.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The import.
    #[error(transparent)]
    Import(#[from] audience::Error),
    /// The launch.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] crate::queue::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The outside.
    #[error(transparent)]
    World(#[from] crate::world::Error),
    /// It did not come to an end.
    #[error("not every copy was final after {} s; `mailshot demo --keep` leaves the workspace to look into", PATIENCE.as_secs())]
    Unfinished,
}

/// Workspace, receiver and people: all is ready, and nothing is sent yet.
pub struct Demo {
    workspace: Workspace,
    receiver: Receiver,
    address: SocketAddr,
    people: Vec<String>,
    stop: CancellationToken,
}

/// What the receiver was told to do with the sample contacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Told {
    /// Contacts.
    pub people: u64,
    /// Their domains.
    pub domains: u64,
    /// Who is refused for good.
    pub refused: u64,
    /// Who is sent away the first time.
    pub greylisted: u64,
}

/// What came of it.
pub struct Ending {
    /// The report.
    pub report: CampaignReport,
    /// The report as a page.
    pub page: String,
    /// The receiver's books.
    pub counts: Counts,
    /// Where report, receiver and script disagree; empty when the outcome is exactly what the receiver was told to do.
    pub differences: Vec<String>,
}

impl Demo {
    /// Makes a workspace in `folder`, which is there and empty, and a receiver that listens on a free port.
    pub async fn set_up(folder: &Path) -> Result<Demo, DemoError> {
        let machine = |what: &str| {
            let what = what.to_owned();
            move |why| DemoError::Machine { what, why }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(machine("listening on 127.0.0.1"))?;
        let address = listener.local_addr().map_err(machine("listening on 127.0.0.1"))?;
        let settings = folder.join("mailshot.toml");
        fs::write(&settings, settings_file(address.port())).map_err(machine(&settings.display().to_string()))?;
        let workspace = Workspace::create(folder)?.workspace;
        let contacts = contacts(&workspace);
        let people = addresses(&contacts).map_err(machine(&contacts.display().to_string()))?;
        let verifier = Some(Verifier::new(&workspace.keyring()?.records()));
        let script = Script::parse(SCRIPT).map_err(super::Error::from)?;
        let receiver = Receiver::new(Setup { script, verifier, shelf: None })?;
        let stop = CancellationToken::new();
        tokio::spawn(receiver.clone().listen(listener, receiver.script().session, stop.clone()));
        Ok(Demo { workspace, receiver, address, people, stop })
    }

    /// Where the receiver listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the receiver was told.
    pub fn told(&self) -> Told {
        let count = |is: &dyn Fn(&str) -> bool| self.people.iter().filter(|one| is(one)).count() as u64;
        let domains: BTreeSet<&str> = self.people.iter().filter_map(|one| one.split('@').nth(1)).collect();
        Told {
            people: self.people.len() as u64,
            domains: domains.len() as u64,
            refused: count(&|one| self.receiver.script().fate(one) == Fate::Refused),
            greylisted: count(&|one| self.is_greylisted(one)),
        }
    }

    /// Sends the sample campaign and waits until every copy is final. `show` gets the report as it grows.
    pub async fn send(&self, show: impl FnMut(&CampaignReport)) -> Result<Ending, DemoError> {
        let store = self.workspace.store(Threads::Own)?;
        let nobody = NameService { servers: &["127.0.0.1".to_owned()], dnssec: Dnssec::Off, anchor: None };
        let world = World { dns: Arc::new(self.zone()), ..World::real(nobody)? };
        self.import(&store, &world).await?;
        let name = CampaignName::parse(SAMPLE_CAMPAIGN).expect("the sample has a name");
        let ready = Ready::check(&self.workspace, &store, &name, &LaunchOptions::default())?;
        let _hold = self.workspace.hold_to_send()?;
        let launch = ready.launch(&store, world.clock.now()).await?.id;
        let engine = self.start(&store, world).await?;
        let settled = self.follow(&store, engine.handle(), launch, show).await;
        engine.stop(GRACE).await;
        self.stop.cancel();
        settled?;
        let report = report(&store, launch)?.expect("a launch just sent is on record");
        let page = html(&store, launch, &report)?;
        let counts = self.receiver.counts();
        let differences = self.differences(&report, &counts);
        Ok(Ending { report, page, counts, differences })
    }

    async fn import(&self, store: &Store, world: &World) -> Result<(), DemoError> {
        let source = Source::open(&contacts(&self.workspace), &SourceOptions::default())?;
        let options = ImportOptions {
            list: LIST.to_owned(),
            consent: Some("invented for the demo".to_owned()),
            on_conflict: OnConflict::Fill,
            dry_run: false,
            allowed: Default::default(),
            forgotten: Forgotten::default(),
        };
        audience::import(store, source, options, world.clock.now(), |_| Ok::<(), DemoError>(())).await?;
        Ok(())
    }

    async fn start(&self, store: &Store, world: World) -> Result<Engine, DemoError> {
        let folder = self.workspace.queue_folder();
        let ledger = SledLedger::open(&folder, self.workspace.settings().queue.cache_mb, Durability::Synced)?;
        let parts = Parts {
            workspace: self.workspace.clone(),
            world,
            store: store.clone(),
            threads: Threads::Own,
            place: place(&folder),
            crew: Crew::Sending,
        };
        Ok(Engine::start(parts, ledger).await?)
    }

    async fn follow(
        &self,
        store: &Store,
        handle: Handle,
        launch: LaunchId,
        mut show: impl FnMut(&CampaignReport),
    ) -> Result<(), DemoError> {
        handle.take_up(launch);
        let settled = handle.settled(launch, Wait::All);
        let patience = sleep(PATIENCE);
        tokio::pin!(settled, patience);
        loop {
            tokio::select! {
                biased;
                settled = &mut settled => return Ok(settled.map(|_| ())?),
                () = &mut patience => return Err(DemoError::Unfinished),
                () = sleep(SHOW_EVERY) => {
                    if let Some(report) = report(store, launch)? {
                        show(&report);
                    }
                }
            }
        }
    }

    /// Every domain has a mail host of its own, and all of them are the receiver.
    fn zone(&self) -> Zone {
        let names: BTreeSet<&str> = self.people.iter().filter_map(|one| one.split('@').nth(1)).collect();
        let domains = names.into_iter().filter_map(|name| Domain::parse(name).ok());
        domains.fold(Zone::default(), |zone, domain| {
            let host = Domain::parse(&format!("mx.{domain}")).expect("a domain with a label before it is one");
            zone.mx(&domain, 10, Some(&host)).address(&host, IpAddr::V4(Ipv4Addr::LOCALHOST))
        })
    }

    fn is_greylisted(&self, recipient: &str) -> bool {
        let script = self.receiver.script();
        let personality = script.personality(script.meets(recipient, script.session));
        let mut faults = personality.faults.iter().enumerate();
        // The first refusal of RCPT that concerns somebody is the one he meets.
        let met = faults
            .find(|(number, fault)| fault.at == Moment::To && script.concerns(fault, personality, *number, recipient));
        met.is_some_and(|(_, fault)| fault.times.is_some())
    }

    /// Holds report, receiver and script against each other.
    fn differences(&self, report: &CampaignReport, counts: &Counts) -> Vec<String> {
        let told = self.told();
        let taken = told.people - told.refused;
        let sums = [
            ("recipients on the report", report.counts.recipients, told.people),
            ("delivered on the report", report.counts.delivered, taken),
            ("failed on the report", report.counts.failed, told.refused),
            ("possible doubles on the report", report.counts.possible_doubles, 0),
            ("messages at the receiver", counts.messages, taken),
            ("doubles at the receiver", counts.doubles, 0),
            ("greylisted at the receiver", counts.deferred, told.greylisted),
            ("refused at the receiver", counts.refused, told.refused),
            ("commands against the protocol", counts.broken, 0),
            ("messages with good signatures", counts.dkim.passed, taken),
            ("connections with TLS", counts.tls, counts.connections),
        ];
        let wrong = sums.into_iter().filter(|(_, found, expected)| found != expected);
        let mut differences: Vec<String> =
            wrong.map(|(what, found, expected)| format!("{what}: {found} instead of {expected}")).collect();
        for recipient in &self.people {
            let refused = self.receiver.script().fate(recipient) == Fate::Refused;
            let deferred = u32::from(self.is_greylisted(recipient));
            let expected = Tally { taken: u32::from(!refused), deferred, refused: u32::from(refused) };
            let found = self.receiver.of(recipient);
            if found != expected {
                differences.push(format!("{recipient}: {found:?} instead of {expected:?}"));
            }
        }
        differences
    }
}

fn contacts(workspace: &Workspace) -> PathBuf {
    workspace.folder().join("campaigns").join(SAMPLE_CAMPAIGN).join("contacts.csv")
}

/// The addresses of the sample contacts, read without the importer: it is among what is tested.
fn addresses(file: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let cell = |line: &str| line.split(',').next().unwrap_or_default().to_ascii_lowercase();
    Ok(text.lines().skip(1).map(cell).filter(|address| !address.is_empty()).collect())
}

/// Settings for hosts on this machine, which may be spoken to faster than the world's.
fn settings_file(port: u16) -> String {
    format!(
        "# The workspace of `mailshot demo`: every mail host is a test receiver on this machine.
smtp_port = {port}
allow_private = true

[sender]
postal_address = \"{SAMPLE_POSTAL_ADDRESS}\"

[retry]
first = \"1s\"

[shape]
max_message_rate = \"1000/s\"
max_connection_rate = \"100/s\"
max_deliveries_per_connection = 100
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_decides_beforehand_who_gets_the_letter() {
        let script = Script::parse(SCRIPT).unwrap();
        for name in ["neighbour", "giant", "taciturn", "suspicious"] {
            let personality = script.personality(script.find(name).unwrap());
            for fault in &personality.faults {
                let by_chance = fault.chance < 1.0 || fault.within.is_some() || fault.over_rate.is_some();
                assert!(!by_chance && fault.over_connections.is_none(), "{name}: {fault:?}");
            }
        }
    }

    #[test]
    fn the_settings_are_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mailshot.toml");
        fs::write(&file, settings_file(2525)).unwrap();
        let settings = crate::config::Settings::load(&file, std::iter::empty()).unwrap();
        assert!(settings.allow_private && settings.smtp_port == 2525);
        assert_eq!(settings.retry.first.duration(), Duration::from_secs(1));
    }
}
