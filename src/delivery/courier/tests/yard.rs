//! A small world with its hosts, and the sending side at work in it.

use super::*;

/// A small world with its hosts, and everything that sends.
pub(super) struct Yard {
    pub(super) zone: Zone,
    pub(super) net: NetTable,
    pub(super) settings: Settings,
    pub(super) overlay: String,
    pub(super) next_ip: u8,
    /// What the queue lies on: another's, to go on where that one was left.
    pub(super) ledger: MemoryLedger,
}

impl Yard {
    pub(super) fn new() -> Yard {
        let settings = toml::from_str("[retry]\nfirst = \"30m\"\n").unwrap();
        let (zone, net, ledger) = (Zone::default(), NetTable::default(), MemoryLedger::default());
        Yard { zone, net, settings, overlay: String::new(), next_ip: 1, ledger }
    }

    /// A domain whose only host behaves like this.
    pub(super) fn domain(self, name: &str, manner: Manner) -> (Yard, Host) {
        let host = Host::new(manner);
        (self.at_host(name, &host), host)
    }

    pub(super) fn at_host(mut self, name: &str, host: &Host) -> Yard {
        let mx = domain(&format!("mx.{name}"));
        let ip = IpAddr::from([198, 51, 100, self.next_ip]);
        self.next_ip += 1;
        self.zone = self.zone.mx(&domain(name), 10, Some(&mx)).address(&mx, ip);
        self.door(SocketAddr::new(ip, 25), host)
    }

    pub(super) fn door(mut self, at: SocketAddr, host: &Host) -> Yard {
        let host = host.clone();
        self.net = self.net.host(at, move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(host.clone().serve(theirs));
            ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
        });
        self
    }

    pub(super) async fn open(self) -> Sending {
        let folder = tempfile::tempdir().unwrap();
        create_key(folder.path(), &domain("example.com"), "e1", Algorithm::Ed25519).unwrap();
        let keyring = Arc::new(Keyring::open(folder.path(), Span::secs(3600)).unwrap());
        let world = World::simulated(START, self.zone, self.net, 7);
        let store = Store::open("sqlite::memory:", folder.path(), Threads::Inline).unwrap();
        let edition = edition();
        let name = CampaignName::parse("welcome").unwrap();
        let edition = store.put_edition(edition.hash(), &name, edition.to_bytes(), START).await.unwrap();
        let opening = Opening {
            clock: world.clock.clone(),
            last_outcome: 0,
            in_doubt: Box::new(|_| InDoubt::Resend),
            bucket: |_| 0,
            held: BTreeSet::new(),
        };
        let (ledger, life) = (self.ledger, self.settings.retry.expires.duration());
        let (queue, keeper) = Queue::open(ledger.clone(), opening).unwrap();
        tokio::spawn(keeper.run());
        let shaping = Live::new(Shaping::new(&self.settings, Some(&self.overlay)).unwrap());
        let (notices, noticed) = Notices::new(world.clock.clone());
        let stops = Stops::default();
        let tls = Arc::new(TlsClient::new(None).unwrap());
        let http = Http::new(&world, tls.verified(), false);
        let tally = Tally::new(Policies::new(world.dns.clone(), http), world.clock.clone());
        let tally = self.settings.tls_reports.from.is_some().then_some(tally);
        let road = Road {
            queue: queue.clone(),
            store: store.clone(),
            world: world.clone(),
            shaping: shaping.clone(),
            rules: Live::new(Rules::overlaid("").unwrap()),
            relays: Relays::read(&self.settings.route).unwrap(),
            sources: Arc::new(Sources::numbered(&self.settings, "mx.example.com", &queue).await.unwrap()),
            settings: Arc::new(self.settings),
            keyring,
            seal: Arc::new(Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap()),
            tls,
            policies: None,
            tally: tally.clone(),
            notices,
            stops: stops.clone(),
        };
        let courier = Courier::new(road.clone());
        Sending {
            sites: courier.sites(),
            road,
            courier: Some(courier),
            ledger,
            queue,
            store,
            world,
            shaping,
            edition,
            life,
            launches: 0,
            stop: CancellationToken::new(),
            task: None,
            outcomes: Vec::new(),
            cleared: 0,
            noticed,
            stops,
            tally,
            _folder: folder,
        }
    }
}

pub(super) fn edition() -> Edition {
    Edition { html: "<p>Hello</p>".into(), text: "Hello\n".into(), ..sample_edition() }
}

/// The sending side at work.
pub(super) struct Sending {
    pub(super) sites: Sites,
    pub(super) road: Road,
    pub(super) courier: Option<Courier>,
    pub(super) ledger: MemoryLedger,
    pub(super) queue: Queue,
    pub(super) store: Store,
    pub(super) world: World,
    pub(super) shaping: Live<Shaping>,
    pub(super) edition: EditionId,
    /// The time a copy has.
    pub(super) life: Duration,
    pub(super) launches: u32,
    pub(super) stop: CancellationToken,
    pub(super) task: Option<tokio::task::JoinHandle<Result<(), Error>>>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) cleared: u64,
    pub(super) noticed: mpsc::Receiver<Notice>,
    pub(super) stops: Stops,
    pub(super) tally: Option<Tally>,
    pub(super) _folder: tempfile::TempDir,
}

impl Sending {
    pub(super) async fn launch(&mut self, options: LaunchOptions, in_doubt: InDoubt) -> LaunchId {
        self.launches += 1;
        let new = NewLaunch {
            campaign: CampaignName::parse(&format!("welcome{}", self.launches)).unwrap(),
            kind: LaunchKind::Campaign,
            edition: self.edition,
            in_doubt,
            options,
            lists: Vec::new(),
        };
        self.store.create_launch(new, START).await.unwrap()
    }

    /// Plans `count` copies of a launch for people at a domain.
    pub(super) async fn admit(&self, launch: LaunchId, at: &str, count: u32) -> Vec<ContactId> {
        let people: Vec<String> = (0..count).map(|number| format!("u{number}@{at}")).collect();
        self.admit_for(launch, &people).await
    }

    /// Plans a copy of a launch for each address.
    pub(super) async fn admit_for(&self, launch: LaunchId, people: &[String]) -> Vec<ContactId> {
        let mut copies = Vec::new();
        for address in people {
            let address = Address::parse(address).unwrap();
            let at = address.domain().clone();
            let person = NewContact { address, name: String::new(), fields: Default::default(), bucket: 0 };
            let contact = self.store.make_contact(person, START).await.unwrap();
            let now = self.world.clock.now();
            let envelope = Envelope::new(EnvelopeId::new(launch, contact), self.edition, now, now + self.life);
            copies.push((at, envelope));
        }
        let contacts = copies.iter().map(|(_, envelope)| envelope.id.contact()).collect();
        self.queue.admit(Admission { launch, bucket: 0, cursor: vec![], copies }).await.unwrap();
        contacts
    }

    pub(super) fn start(&mut self) {
        let courier = self.courier.take().expect("started once");
        self.task = Some(tokio::spawn(courier.run(self.stop.clone())));
    }

    /// Ends the sending tasks, and lays ready those that go on where they left off.
    pub(super) async fn leave(&mut self) {
        std::mem::take(&mut self.stop).cancel();
        self.task.take().expect("started").await.unwrap().unwrap();
        let courier = Courier::new(self.road.clone());
        (self.sites, self.courier) = (courier.sites(), Some(courier));
    }

    /// Lets time pass, and takes in what came of it, as the clerk would.
    pub(super) async fn pass(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
        while self.queue.depth().last_outcome > self.cleared {
            let (number, outcomes) = self.queue.outbox(10_000).await.unwrap();
            self.outcomes.extend(outcomes);
            self.queue.clear_outbox(number).await.unwrap();
            self.cleared = number;
        }
    }

    pub(super) async fn end(mut self) -> Vec<Outcome> {
        self.stop.cancel();
        self.task.take().expect("started").await.unwrap().unwrap();
        self.pass(Duration::ZERO).await;
        std::mem::take(&mut self.outcomes)
    }

    /// The last outcome of each copy.
    pub(super) fn last(&self) -> BTreeMap<EnvelopeId, Outcome> {
        self.outcomes.iter().map(|outcome| (outcome.envelope, outcome.clone())).collect()
    }

    /// What was told since it was asked for last.
    pub(super) fn noticed(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.noticed.try_recv().ok()).collect()
    }

    pub(super) fn standing(&self, standing: Standing) -> usize {
        self.last().values().filter(|outcome| outcome.state == standing).count()
    }
}
