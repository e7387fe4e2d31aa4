//! The sending tasks in a simulated world: scripted hosts over in-memory connections, virtual time, everything on one
//! thread.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use futures_util::future::ready;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::*;
use crate::base::{Address, CampaignName, ContactId, EditionId, EnvelopeId, LaunchId, SealKey, Span};
use crate::compose::{Edition, FromField, Missing};
use crate::delivery::steward::Hatch;
use crate::mail::{Class, Envelope, InDoubt, Lane, Notice, NoticeKind, Outcome, Standing};
use crate::queue::{Admission, MemoryLedger, Opening, Sweep};
use crate::sign::{Algorithm, create_key};
use crate::store::{LaunchKind, LaunchOptions, LaunchState, NewContact, NewLaunch, Reason, SuppressionRow, Threads};
use crate::world::{Http, NetTable, Stream, Zone};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    /// The same, and it offers CHUNKING.
    TakesChunks,
    /// 451 to each recipient's first RCPT.
    Greylists,
    /// 550 5.1.1 to every RCPT.
    KnowsNobody,
    /// 421 to the MAIL after so many messages on a connection.
    Dismisses(u32),
    /// Closes without a word after so many messages on a connection.
    ClosesAfter(u32),
    /// Takes the first so many messages and closes before it answers.
    LosesAnswers(u32),
    /// Greets nobody.
    Silent,
    /// 451 4.7.1 to MAIL, as of trouble with our address.
    Throttles,
    /// 530 to MAIL: it wants a login.
    WantsLogin,
    /// 550 5.7.510 to RCPT: it wants IPv4.
    WantsIpv4,
    /// As Google: throttles by a 421 to the first MAIL after so many messages, once, and takes everything afterwards.
    ThrottlesOnce(u32),
    /// Answers each RCPT after so many seconds.
    Slow(u64),
}

/// One message taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    at: Duration,
    to: String,
    from: String,
    id: String,
    date: String,
    signed: bool,
}

/// A host's book.
#[derive(Debug, Default)]
struct Book {
    taken: Vec<Taken>,
    /// When each MAIL came, since the start.
    mails: Vec<Duration>,
    rcpts: BTreeSet<String>,
    connections: u32,
    open: u32,
    open_most: u32,
    quits: u32,
    lost: u32,
}

#[derive(Clone)]
struct Host {
    manner: Manner,
    start: Instant,
    book: Arc<Mutex<Book>>,
}

impl Host {
    fn new(manner: Manner) -> Host {
        Host { manner, start: Instant::now(), book: Arc::default() }
    }

    fn taken(&self) -> Vec<Taken> {
        self.book.lock().unwrap().taken.clone()
    }

    async fn serve(self, stream: DuplexStream) {
        {
            let mut book = self.book.lock().unwrap();
            book.connections += 1;
            book.open += 1;
            book.open_most = book.open_most.max(book.open);
        }
        let _ = self.talk(stream).await;
        self.book.lock().unwrap().open -= 1;
    }

    async fn talk(&self, stream: DuplexStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        if self.manner == Manner::Silent {
            return std::future::pending().await;
        }
        stream.write_all(b"220 mx.test ESMTP\r\n").await?;
        let (mut from, mut to, mut named, mut done) = (String::new(), String::new(), false, 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let answer = match line.get(..4).unwrap_or_default() {
                "EHLO" if self.manner == Manner::TakesChunks => {
                    "250-mx.test\r\n250-CHUNKING\r\n250 PIPELINING\r\n".to_owned()
                }
                "EHLO" => "250-mx.test\r\n250 PIPELINING\r\n".to_owned(),
                "MAIL" => {
                    self.book.lock().unwrap().mails.push(self.start.elapsed());
                    (from, named) = (line.trim().to_owned(), false);
                    match self.manner {
                        Manner::Dismisses(most) if done >= most => {
                            stream.write_all(b"421 4.3.2 closing the channel\r\n").await?;
                            return Ok(());
                        }
                        Manner::ClosesAfter(most) if done >= most => return Ok(()),
                        Manner::ThrottlesOnce(most) if done >= most && self.first_loss() => {
                            let words = "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP address.\r\n";
                            stream.write_all(words.as_bytes()).await?;
                            return Ok(());
                        }
                        Manner::Throttles => "451 4.7.1 too many messages from your address\r\n".to_owned(),
                        Manner::WantsLogin => "530 5.7.0 Authentication required\r\n".to_owned(),
                        _ => "250 2.1.0 ok\r\n".to_owned(),
                    }
                }
                "RCPT" => {
                    to = line.trim().to_owned();
                    if let Manner::Slow(seconds) = self.manner {
                        tokio::time::sleep(secs(seconds)).await;
                    }
                    let first = self.book.lock().unwrap().rcpts.insert(to.clone());
                    let answer = match self.manner {
                        Manner::Greylists if first => "451 4.7.1 Greylisted, come back later\r\n",
                        Manner::KnowsNobody => "550 5.1.1 no such user\r\n",
                        Manner::Throttles | Manner::WantsLogin => "503 5.5.1 no sender\r\n",
                        Manner::WantsIpv4 => "550 5.7.510 Access denied, a.example does not accept email over IPv6\r\n",
                        _ => "250 2.1.5 ok\r\n",
                    };
                    named = answer.starts_with("250");
                    answer.to_owned()
                }
                "DATA" if !named => "503 5.5.1 no recipient\r\n".to_owned(),
                "DATA" => {
                    stream.write_all(b"354 go\r\n").await?;
                    let text = read_text(&mut stream).await?;
                    self.book.lock().unwrap().taken.push(self.taken_of(&from, &to, &text));
                    done += 1;
                    if let Manner::LosesAnswers(most) = self.manner {
                        let mut book = self.book.lock().unwrap();
                        if book.lost < most {
                            book.lost += 1;
                            return Ok(());
                        }
                    }
                    "250 2.0.0 taken\r\n".to_owned()
                }
                "BDAT" => {
                    let octets = line.split(' ').nth(1).and_then(|octets| octets.parse().ok()).unwrap_or_default();
                    let mut text = vec![0; octets];
                    stream.read_exact(&mut text).await?;
                    let text = String::from_utf8_lossy(&text);
                    self.book.lock().unwrap().taken.push(self.taken_of(&from, &to, &text));
                    "250 2.0.0 taken\r\n".to_owned()
                }
                "QUIT" => {
                    self.book.lock().unwrap().quits += 1;
                    stream.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "250 ok\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await?;
        }
    }

    /// Whether nothing was lost here before; something is now.
    fn first_loss(&self) -> bool {
        let mut book = self.book.lock().unwrap();
        book.lost += 1;
        book.lost == 1
    }

    fn taken_of(&self, from: &str, to: &str, text: &str) -> Taken {
        let header = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().to_owned()
        };
        let between = |text: &str| text.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        Taken {
            at: self.start.elapsed(),
            to: between(to),
            from: between(from),
            id: header("Message-ID"),
            date: header("Date"),
            signed: text.starts_with("DKIM-Signature"),
        }
    }
}

async fn read_text(stream: &mut BufReader<DuplexStream>) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(&line);
    }
}

/// A small world with its hosts, and everything that sends.
struct Yard {
    zone: Zone,
    net: NetTable,
    settings: Settings,
    overlay: String,
    next_ip: u8,
}

impl Yard {
    fn new() -> Yard {
        let settings = toml::from_str("[retry]\nfirst = \"30m\"\n").unwrap();
        Yard { zone: Zone::default(), net: NetTable::default(), settings, overlay: String::new(), next_ip: 1 }
    }

    /// A domain whose only host behaves like this.
    fn domain(self, name: &str, manner: Manner) -> (Yard, Host) {
        let host = Host::new(manner);
        (self.at_host(name, &host), host)
    }

    fn at_host(mut self, name: &str, host: &Host) -> Yard {
        let mx = domain(&format!("mx.{name}"));
        let ip = IpAddr::from([198, 51, 100, self.next_ip]);
        self.next_ip += 1;
        self.zone = self.zone.mx(&domain(name), 10, Some(&mx)).address(&mx, ip);
        self.door(SocketAddr::new(ip, 25), host)
    }

    fn door(mut self, at: SocketAddr, host: &Host) -> Yard {
        let host = host.clone();
        self.net = self.net.host(at, move |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(host.clone().serve(theirs));
            ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
        });
        self
    }

    async fn open(self) -> Sending {
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
        let ledger = MemoryLedger::default();
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
            sources: Arc::new(Sources::new(&self.settings, "mx.example.com")),
            settings: Arc::new(self.settings),
            keyring,
            seal: Arc::new(Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap()),
            tls,
            policies: None,
            tally: tally.clone(),
            notices,
            stops: stops.clone(),
        };
        let courier = Courier::new(road);
        Sending {
            sites: courier.sites(),
            courier: Some(courier),
            ledger,
            queue,
            store,
            world,
            shaping,
            edition,
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

fn edition() -> Edition {
    Edition {
        format: Edition::FORMAT,
        campaign: "welcome".into(),
        subject: "Hello".into(),
        from: FromField { name: "News".into(), address: "news@example.com".into() },
        reply_to: None,
        headers: Vec::new(),
        html: "<p>Hello</p>".into(),
        text: "Hello\n".into(),
        inline: Vec::new(),
        attachments: Vec::new(),
        lists: vec!["news".into()],
        postal_address: "Example Ltd".into(),
        base_url: "https://mail.example.com".into(),
        mailto_domain: "bounce.example.com".into(),
        bounce_domain: "bounce.example.com".into(),
        sender_id: "examplecom".into(),
        missing: Missing::Error,
        in_doubt: InDoubt::Resend,
        tracking: Default::default(),
        links: Vec::new(),
    }
}

/// The sending side at work.
struct Sending {
    sites: Sites,
    courier: Option<Courier>,
    ledger: MemoryLedger,
    queue: Queue,
    store: Store,
    world: World,
    shaping: Live<Shaping>,
    edition: EditionId,
    launches: u32,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), Error>>>,
    outcomes: Vec<Outcome>,
    cleared: u64,
    noticed: mpsc::Receiver<Notice>,
    stops: Stops,
    tally: Option<Tally>,
    _folder: tempfile::TempDir,
}

impl Sending {
    async fn launch(&mut self, options: LaunchOptions, in_doubt: InDoubt) -> LaunchId {
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
    async fn admit(&self, launch: LaunchId, at: &str, count: u32) -> Vec<ContactId> {
        let people: Vec<String> = (0..count).map(|number| format!("u{number}@{at}")).collect();
        self.admit_for(launch, &people).await
    }

    /// Plans a copy of a launch for each address.
    async fn admit_for(&self, launch: LaunchId, people: &[String]) -> Vec<ContactId> {
        let mut copies = Vec::new();
        for address in people {
            let address = Address::parse(address).unwrap();
            let at = address.domain().clone();
            let person = NewContact { address, name: String::new(), fields: Default::default(), bucket: 0 };
            let contact = self.store.make_contact(person, START).await.unwrap();
            let now = self.world.clock.now();
            let envelope = Envelope {
                id: EnvelopeId::new(launch, contact),
                edition: self.edition,
                lane: Lane::Bulk,
                tries: 0,
                source: None,
                date: None,
                doubtful: 0,
                due: now,
                expires: now + secs(72 * 3600),
            };
            copies.push((at, envelope));
        }
        let contacts = copies.iter().map(|(_, envelope)| envelope.id.contact()).collect();
        self.queue.admit(Admission { launch, bucket: 0, cursor: vec![], copies }).await.unwrap();
        contacts
    }

    fn start(&mut self) {
        let courier = self.courier.take().expect("started once");
        self.task = Some(tokio::spawn(courier.run(self.stop.clone())));
    }

    /// Lets time pass, and takes in what came of it, as the clerk would.
    async fn pass(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
        while self.queue.depth().last_outcome > self.cleared {
            let (number, outcomes) = self.queue.outbox(10_000).await.unwrap();
            self.outcomes.extend(outcomes);
            self.queue.clear_outbox(number).await.unwrap();
            self.cleared = number;
        }
    }

    async fn end(mut self) -> Vec<Outcome> {
        self.stop.cancel();
        self.task.take().expect("started").await.unwrap().unwrap();
        self.pass(Duration::ZERO).await;
        std::mem::take(&mut self.outcomes)
    }

    /// The last outcome of each copy.
    fn last(&self) -> BTreeMap<EnvelopeId, Outcome> {
        self.outcomes.iter().map(|outcome| (outcome.envelope, outcome.clone())).collect()
    }

    /// What was told since it was asked for last.
    fn noticed(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.noticed.try_recv().ok()).collect()
    }

    fn standing(&self, standing: Standing) -> usize {
        self.last().values().filter(|outcome| outcome.state == standing).count()
    }
}

/// A world with one domain and its host, and so many copies for it, under way.
async fn one(manner: Manner, count: u32, in_doubt: InDoubt) -> (Sending, Host) {
    let (yard, host) = Yard::new().domain("a.example", manner);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), in_doubt).await;
    sending.admit(launch, "a.example", count).await;
    sending.start();
    (sending, host)
}

#[tokio::test(start_paused = true)]
async fn copies_are_delivered_signed_once_each_and_connections_end_politely() {
    let (mut sending, host) = one(Manner::Takes, 100, InDoubt::Resend).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100);
    let taken = host.taken();
    let people: BTreeSet<&String> = taken.iter().map(|taken| &taken.to).collect();
    assert_eq!((taken.len(), people.len()), (100, 100));
    assert!(taken.iter().all(|taken| taken.signed && taken.from.ends_with("@bounce.example.com")));
    assert!(sending.queue.is_idle(sending.world.clock.now()).await.unwrap(), "nothing is claimed or leased any more");
    let outcome = sending.last().into_values().next().unwrap();
    assert_eq!((outcome.code, outcome.tries, outcome.site.as_deref()), (Some(250), 1, Some("a.example")));
    assert_eq!(outcome.host, Some(domain("mx.a.example")));
    let book = host.book.lock().unwrap();
    assert_eq!((book.open, book.quits), (0, book.connections), "idle connections are closed by QUIT");
    assert!(book.open_most <= 10);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_counted_for_each_domain_where_they_are_to_be_reported() {
    let mut yard = Yard::new();
    yard.settings.tls_reports.from = Some("tls-reports@example.com".to_owned());
    yard.overlay = "[[site]]\nsite = \"c.example\"\nshape.tls = \"required\"\n".into();
    let host = Host::new(Manner::Takes);
    let (mx, at) = (domain("mx.shared.example"), IpAddr::from([198, 51, 100, 90]));
    for name in ["a.example", "b.example"] {
        yard.zone = yard.zone.mx(&domain(name), 10, Some(&mx));
    }
    yard.zone = yard.zone.address(&mx, at);
    let yard = yard.door(SocketAddr::new(at, 25), &host).at_host("c.example", &Host::new(Manner::Takes));
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for (name, count) in [("a.example", 4), ("b.example", 1), ("c.example", 2)] {
        sending.admit(launch, name, count).await;
    }
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((sending.standing(Standing::Delivered), sending.standing(Standing::Deferred)), (5, 1));
    let rows = sending.tally.clone().unwrap().take();
    assert!(rows.iter().all(|row| row.result == "starttls-not-supported"), "{rows:?}");
    let hosts: BTreeMap<&str, &str> = rows.iter().map(|row| (row.domain.as_str(), row.host.as_str())).collect();
    let expected =
        [("a.example", "mx.shared.example"), ("b.example", "mx.shared.example"), ("c.example", "mx.c.example")];
    assert_eq!(hosts, BTreeMap::from(expected));
    let of = |name: &str| rows.iter().filter(|row| row.domain == name).map(|row| row.sessions).sum::<u64>();
    let connections = u64::from(host.book.lock().unwrap().connections);
    assert!((1..=connections).contains(&of("a.example")) && of("b.example") == 1, "{connections}: {rows:?}");
    assert_eq!(sending.tally.unwrap().take(), []);
}

#[tokio::test(start_paused = true)]
async fn a_greylisted_copy_comes_back_the_same_and_is_taken() {
    let (mut sending, host) = one(Manner::Greylists, 5, InDoubt::Resend).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Deferred), 5);
    assert!(sending.last().values().all(|o| (o.class, o.tries) == (Class::SoftGreylist, 1)), "{:?}", sending.last());
    sending.pass(secs(1200)).await;
    assert_eq!(sending.standing(Standing::Delivered), 5);
    let taken = host.taken();
    assert!(taken.iter().all(|taken| taken.date == START.rfc5322()), "the date is that of the first MAIL");
    assert!(taken.iter().all(|taken| (200..700).contains(&taken.at.as_secs())), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_fails_and_holds_up_nobody() {
    let (mut sending, host) = one(Manner::KnowsNobody, 50, InDoubt::Resend).await;
    sending.pass(secs(30)).await;
    assert_eq!(sending.standing(Standing::Failed), 50);
    assert!(sending.last().values().all(|outcome| outcome.class == Class::HardUnknownUser && outcome.tries == 1));
    assert!(host.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dismisses_after_n_is_spoken_to_in_sessions_of_n() {
    for manner in [Manner::Dismisses(5), Manner::ClosesAfter(5)] {
        let (mut sending, host) = one(manner, 60, InDoubt::Resend).await;
        sending.pass(secs(900)).await;
        assert_eq!(sending.standing(Standing::Delivered), 60, "{manner:?}");
        assert_eq!(host.taken().len(), 60, "{manner:?}: no copy twice");
        assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 1), "{manner:?}: no try is counted for it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_by_421_teaches_no_shorter_session() {
    let (mut yard, host) = Yard::new().domain("a.google.com", Manner::ThrottlesOnce(2));
    yard.overlay = "[[site]]\nsite = \"google\"\nshape.tls = \"opportunistic\"\nshape.connection_start = 1\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.google.com", 100).await;
    sending.start();
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100, "{:?}", sending.outcomes.last());
    let connections = host.book.lock().unwrap().connections;
    assert!(connections < 12, "{connections} connections for a hundred copies");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_one_double_with_the_same_face_or_none() {
    let (mut sending, host) = one(Manner::LosesAnswers(1), 3, InDoubt::Resend).await;
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 3);
    let taken = host.taken();
    assert_eq!(taken.len(), 4);
    let first = &taken[0];
    let again: Vec<&Taken> = taken.iter().filter(|taken| taken.to == first.to).collect();
    assert_eq!(again.len(), 2, "exactly the one whose answer was lost");
    let face = |taken: &Taken| (taken.id.clone(), taken.date.clone(), taken.from.clone());
    assert_eq!(face(again[0]), face(again[1]));
    let doubtful: Vec<u8> = sending.last().values().map(|outcome| outcome.doubtful).filter(|d| *d > 0).collect();
    assert_eq!(doubtful, [1]);

    let (mut sending, host) = one(Manner::LosesAnswers(1), 3, InDoubt::Hold).await;
    sending.pass(secs(3 * 3600)).await;
    assert_eq!((sending.standing(Standing::Delivered), sending.standing(Standing::InDoubt)), (2, 1));
    assert_eq!(host.taken().len(), 3, "never twice");
    assert_eq!(sending.queue.depth().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_barred_after_planning_never_gets_mail() {
    let (yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 6).await;
    let bar = |address: &str| SuppressionRow {
        address: address.into(),
        reason: Reason::Complaint,
        detail: String::new(),
        since: START,
    };
    sending.store.suppress(vec![bar("u1@a.example"), bar("u4@a.example")]).await.unwrap();
    sending.store.erase("u2@a.example".into(), vec![1], START).await.unwrap();
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((sending.standing(Standing::Barred), sending.standing(Standing::Delivered)), (3, 3));
    assert_eq!(host.book.lock().unwrap().rcpts.len(), 3);
    assert_eq!(host.book.lock().unwrap().mails.len(), 3);
    assert!(sending.outcomes.iter().any(|outcome| outcome.text == "suppressed: complaint"));
}

#[tokio::test(start_paused = true)]
async fn a_bar_that_comes_while_the_copy_waits_its_turn_counts() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"6/min\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 12).await;
    sending.start();
    sending.pass(secs(35)).await;
    let before = host.taken().len();
    assert!((3..=5).contains(&before), "{before}");
    let rows = (0..12).map(|n| SuppressionRow {
        address: format!("u{n}@a.example"),
        reason: Reason::Manual,
        detail: String::new(),
        since: START,
    });
    sending.store.suppress(rows.collect()).await.unwrap();
    sending.pass(secs(600)).await;
    assert_eq!(host.taken().len(), before, "not one more");
    assert_eq!(sending.standing(Standing::Barred), 12 - before);
}

#[tokio::test(start_paused = true)]
async fn a_bar_that_comes_while_the_disk_stalls_counts_where_the_host_has_heard_of_nothing() {
    // with and without a copy before it that the host cannot take
    for people in [&["u0@a.example", "u1@a.example"][..], &["ü@a.example", "u0@a.example", "u1@a.example"]] {
        let (mut yard, host) = Yard::new().domain("a.example", Manner::TakesChunks);
        yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.connection_limit = 1\n".into();
        let mut sending = yard.open().await;
        let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
        let people: Vec<String> = people.iter().map(|address| (*address).to_owned()).collect();
        let contacts = sending.admit_for(launch, &people).await;
        let barred = EnvelopeId::new(launch, contacts[people.len() - 2]);
        sending.ledger.fail_after(Some(0));
        sending.start();
        sending.queue.stalled().await;
        let row = SuppressionRow {
            address: "u0@a.example".into(),
            reason: Reason::Complaint,
            detail: String::new(),
            since: START,
        };
        sending.store.suppress(vec![row]).await.unwrap();
        sending.ledger.fail_after(None);
        sending.pass(secs(60)).await;
        let outcome = &sending.last()[&barred];
        let ended = (outcome.state, outcome.tries, outcome.text.as_str());
        assert_eq!(ended, (Standing::Barred, 0, "suppressed: complaint"), "{people:?}");
        let to: Vec<String> = host.taken().into_iter().map(|taken| taken.to).collect();
        assert_eq!(to, ["u1@a.example"], "{people:?}");
        let book = host.book.lock().unwrap();
        assert_eq!((book.mails.len(), book.connections), (1, 1), "on the same connection: {people:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_a_silent_and_a_slow_site_hold_up_nobody_else() {
    let (yard, good) = Yard::new().domain("good.example", Manner::Takes);
    let (yard, _) = yard.domain("silent.example", Manner::Silent);
    let (mut yard, slow) = yard.domain("slow.example", Manner::Slow(20));
    let gone = domain("mx.gone.example");
    yard.zone = yard.zone.mx(&domain("gone.example"), 1, Some(&gone)).address(&gone, [203, 0, 113, 9].into());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["gone.example", "silent.example", "slow.example", "good.example"] {
        sending.admit(launch, at, 200).await;
    }
    sending.start();
    sending.pass(secs(10)).await;
    assert_eq!(good.taken().len(), 200, "at full speed beside the others");
    assert!(slow.taken().is_empty());
    sending.pass(secs(3600)).await;
    assert_eq!(slow.taken().len(), 200);
    assert_eq!(sending.standing(Standing::Delivered), 400);
    assert_eq!(sending.standing(Standing::Failed), 0);
    let told = sending.outcomes.iter().filter(|outcome| outcome.state == Standing::Deferred);
    assert!(told.clone().count() > 1 && told.clone().all(|outcome| outcome.tries == 0), "no try counts against them");
    assert_eq!(sending.queue.depth().waiting, 400);
}

#[tokio::test(start_paused = true)]
async fn rates_are_kept_exactly_that_of_a_site_and_that_of_a_launch() {
    let (yard, a) = Yard::new().domain("a.example", Manner::Takes);
    let (mut yard, b) = yard.domain("b.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"30/min\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let slow = LaunchOptions { rate: Some("10/s".into()), ..LaunchOptions::default() };
    let slow = sending.launch(slow, InDoubt::Resend).await;
    sending.admit(launch, "a.example", 90).await;
    sending.admit(slow, "b.example", 300).await;
    sending.start();
    sending.pass(secs(200)).await;
    assert_eq!(sending.standing(Standing::Delivered), 390);
    let most = |host: &Host, window: Duration| {
        let mails = host.book.lock().unwrap().mails.clone();
        let within = |at: usize| mails[at..].iter().take_while(|mail| **mail < mails[at] + window).count();
        ((0..mails.len()).map(within).max().unwrap(), *mails.last().unwrap())
    };
    let (in_a_minute, last) = most(&a, secs(60));
    assert!(in_a_minute <= 30 && last < secs(182), "{in_a_minute}, {last:?}");
    let (in_a_second, last) = most(&b, secs(1));
    assert!(in_a_second <= 10 && last < secs(32), "{in_a_second}, {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_launch_with_a_relay_never_goes_to_the_domains_own_hosts_nor_the_other_way_round() {
    let (yard, own) = Yard::new().domain("a.example", Manner::Takes);
    let relay = Host::new(Manner::Takes);
    let yard = yard.door("127.0.0.1:2525".parse().unwrap(), &relay);
    let mut sending = yard.open().await;
    let direct = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let via = LaunchOptions { via: Some("smtp://127.0.0.1:2525".into()), ..LaunchOptions::default() };
    let via = sending.launch(via, InDoubt::Resend).await;
    for _ in 0..3 {
        sending.admit(via, "a.example", 30).await;
        sending.admit(direct, "a.example", 30).await;
    }
    sending.admit(via, "nowhere.example", 10).await;
    sending.start();
    sending.pass(secs(300)).await;
    let last = sending.last();
    assert!(last.values().all(|outcome| outcome.state == Standing::Delivered), "{last:?}");
    let hosts = |launch: LaunchId| -> BTreeSet<String> {
        let of = last.values().filter(|outcome| outcome.envelope.launch() == launch);
        of.map(|outcome| outcome.host.as_ref().unwrap().to_string()).collect()
    };
    assert_eq!(hosts(direct), BTreeSet::from(["mx.a.example".to_owned()]));
    assert_eq!(hosts(via), BTreeSet::from(["127.0.0.1".to_owned()]));
    let sites: BTreeSet<&str> = last.values().filter_map(|outcome| outcome.site.as_deref()).collect();
    assert_eq!(sites, BTreeSet::from(["a.example", "nowhere.example"]), "through a relay the domain is the site");
    assert!(relay.taken().len() >= 40 && !own.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn domains_without_a_way_fail_or_wait_and_no_socket_is_opened() {
    let mut yard = Yard::new();
    yard.zone = yard.zone.mx(&domain("null.example"), 0, None).down(&domain("down.example"), "SERVFAIL");
    let local = domain("mx.poison.example");
    yard.zone = yard.zone.mx(&domain("poison.example"), 0, Some(&local)).address(&local, [127, 0, 0, 1].into());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["null.example", "absent.example", "poison.example", "down.example"] {
        sending.admit(launch, at, 45).await;
    }
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((sending.standing(Standing::Failed), sending.standing(Standing::Deferred)), (135, 45));
    let codes: BTreeSet<(Standing, &str, Option<u16>)> =
        sending.last().values().map(|outcome| (outcome.state, outcome.class.word(), outcome.code)).collect();
    let expected = [
        (Standing::Deferred, "soft.system", Some(451)),
        (Standing::Failed, "hard.bad_domain", Some(550)),
        (Standing::Failed, "hard.bad_domain", Some(556)),
    ];
    assert_eq!(codes, BTreeSet::from(expected));
    sending.pass(secs(80 * 3600)).await;
    assert_eq!(sending.standing(Standing::Failed), 180);
    assert!(sending.last().values().any(|outcome| outcome.class == Class::SoftExpired));
}

#[tokio::test(start_paused = true)]
async fn a_site_that_throttles_rests_and_nobodys_tries_are_counted() {
    let (mut sending, host) = one(Manner::Throttles, 100, InDoubt::Resend).await;
    sending.pass(secs(3600)).await;
    let mails = host.book.lock().unwrap().mails.len();
    assert!((3..60).contains(&mails), "{mails} MAILs in an hour of refusals");
    assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 0), "{:?}", sending.outcomes);
    assert_eq!(sending.queue.depth().waiting, 100);
}

#[tokio::test(start_paused = true)]
async fn a_steward_over_which_a_carrier_broke_down_ends_and_gives_its_domains_back() {
    let (yard, _host) = Yard::new().domain("a.example", Manner::Silent);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    let courier = sending.courier.take().expect("not started");
    let claimed = sending.queue.claim().await.unwrap().domain;
    let Ok(route) = courier.router.route(&claimed).await else { panic!("it has a host") };
    let source = courier.kit.road.sources.iter().next().expect("one at least").clone();
    let post = (source.id, route.site.clone());
    let (hatch, heard) = Hatch::new(Steward::new(courier.kit.clone(), post, source, &route));
    let (work, given) = mpsc::channel(9);
    let life = tokio::spawn(hatch.clone().live(heard, given, CancellationToken::new()));
    work.send(Work::Claim(claimed.clone(), route, None)).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _half_changed = hatch.steward();
        panic!("a carrier breaks down while it is served");
    }));
    assert!(broken.is_err());
    // whatever comes next is not decided by what is half changed
    let _ = work.send(Work::Reshape).await;
    tokio::time::timeout(secs(60), life).await.expect("it ends").unwrap();
    let standing = sending.queue.domain(&claimed).await.unwrap().unwrap();
    assert!(standing.rest > sending.world.clock.now(), "{standing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_person_suspends_a_site_and_lets_it_go_on() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"1/s\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 60).await;
    sending.start();
    sending.pass(secs(10)).await;
    let shown = sending.sites.snapshot().await;
    assert_eq!((shown.len(), &*shown[0].site, shown[0].rate_allowed), (1, "a.example", Some(1.0)));
    assert!(shown[0].rate_now > 0.5 && shown[0].connections >= 1, "{shown:?}");
    sending.sites.suspend("a.example", "complaints").await;
    sending.pass(secs(3500)).await;
    let before = host.taken().len();
    assert!((9..=12).contains(&before), "{before}");
    let clock = sending.world.clock.clone();
    assert!(sending.queue.is_idle(clock.now()).await.unwrap(), "what rests is no work");
    sending.sites.resume("a.example").await;
    sending.pass(secs(400)).await;
    assert_eq!(host.taken().len(), 60);
}

#[tokio::test(start_paused = true)]
async fn pause_and_cancel_reach_copies_on_lease() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"1/s\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 60).await;
    sending.start();
    sending.pass(secs(10)).await;
    sending.store.set_launch_state(launch, LaunchState::Paused, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Hold).await.unwrap();
    sending.pass(secs(600)).await;
    let paused = host.taken().len();
    assert!((9..=12).contains(&paused), "{paused}");
    assert_eq!(sending.queue.depth().held as usize, 60 - paused);
    sending.store.set_launch_state(launch, LaunchState::Running, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Release).await.unwrap();
    sending.pass(secs(5)).await;
    sending.store.set_launch_state(launch, LaunchState::Cancelled, START).await.unwrap();
    let text = Outcome { state: Standing::Cancelled, ..sending.outcomes[0].clone() };
    sending.queue.sweep(launch, Sweep::Cancel(text)).await.unwrap();
    sending.pass(secs(600)).await;
    let taken = host.taken().len();
    assert!(taken < 20 && sending.standing(Standing::Cancelled) == 60 - taken, "{taken}");
    assert_eq!(sending.queue.depth().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_what_is_on_the_wire_and_loses_nothing() {
    let (mut sending, host) = one(Manner::Slow(3), 40, InDoubt::Resend).await;
    sending.pass(secs(10)).await;
    let queue = sending.queue.clone();
    let before = Instant::now();
    let outcomes = sending.end().await;
    assert!(before.elapsed() < secs(10), "{:?}", before.elapsed());
    let taken = host.taken().len();
    assert_eq!(outcomes.len(), taken, "each copy taken is settled");
    assert_eq!(queue.depth().waiting as usize, 40 - taken);
    let book = host.book.lock().unwrap();
    assert_eq!((book.open, book.quits), (0, book.connections));
}

#[tokio::test(start_paused = true)]
async fn copies_spread_over_the_sources_and_a_retry_leaves_from_its_own() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Greylists);
    let two = "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"b\"\naddress = \"192.0.2.2\"\n";
    yard.settings = toml::from_str(two).unwrap();
    let from: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let (seen, door) = (from.clone(), host.clone());
    yard.net = yard.net.host("198.51.100.1:25".parse().unwrap(), move |source| {
        seen.lock().unwrap().push(source.unwrap());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(door.clone().serve(theirs));
        ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 200).await;
    sending.start();
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 200, "{:?}", sending.last().values().next());
    let from: BTreeSet<IpAddr> = from.lock().unwrap().iter().copied().collect();
    assert_eq!(from.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_world_runs_the_same_way_twice() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (mut sending, host) = one(Manner::Greylists, 40, InDoubt::Resend).await;
        sending.pass(secs(7200)).await;
        runs.push((host.taken(), sending.outcomes.clone()));
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test(start_paused = true)]
async fn a_door_that_turns_out_to_be_empty_makes_room_for_the_next() {
    let host = Host::new(Manner::Takes);
    let mut yard = Yard::new().at_host("a.prov.example", &host).at_host("b.prov.example", &host);
    yard.overlay = "[[site]]\nsite = \"prov.example\"\nshape.connection_limit = 1\n".into();
    let mut sending = yard.open().await;
    let held = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let other = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.queue.sweep(held, Sweep::Hold).await.unwrap();
    // claimed first, and put aside when it is leased
    sending.admit(held, "a.prov.example", 1).await;
    sending.admit(other, "b.prov.example", 1).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!(host.taken().len(), 1);
    sending.end().await;
}

/// A world where everything goes through relays: their addresses end in 101, 102 …, and so do their names' lines here.
fn relayed(weights: &[u16], hosts: &[Option<&Host>]) -> Yard {
    let relay =
        |(at, weight): (usize, &u16)| format!("{{ url = \"smtp://192.0.2.{}:25\", weight = {weight} }}", 101 + at);
    let relays: Vec<String> = weights.iter().enumerate().map(relay).collect();
    let mut yard = Yard::new();
    yard.settings = toml::from_str(&format!(
        "[retry]\nfirst = \"30m\"\n[[route]]\ndomains = \".example\"\nrelays = [{}]\n",
        relays.join(", ")
    ))
    .unwrap();
    for (at, host) in hosts.iter().enumerate() {
        if let Some(host) = host {
            yard = yard.door(SocketAddr::new(IpAddr::from([192, 0, 2, 101 + at as u8]), 25), host);
        }
    }
    yard
}

async fn sent(yard: Yard, count: u32) -> Sending {
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["a.example", "b.example"] {
        sending.admit(launch, at, count / 2).await;
    }
    sending.start();
    sending
}

#[tokio::test(start_paused = true)]
async fn relays_of_a_fixed_route_share_by_weight() {
    let (one, two) = (Host::new(Manner::Takes), Host::new(Manner::Takes));
    let mut sending = sent(relayed(&[3, 1], &[Some(&one), Some(&two)]), 2000).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 2000, "{:?}", sending.last().values().next());
    let share = one.taken().len();
    assert!((1200..=1800).contains(&share), "{share} of 2000 through the one of three quarters");
    assert_eq!(sending.last().values().next().unwrap().site.as_deref(), Some("a.example"), "counted by domain");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_away_or_wants_a_login_is_stood_in_for_and_nobody_bounces() {
    for first in [None, Some(Host::new(Manner::WantsLogin))] {
        let second = Host::new(Manner::Takes);
        let mut sending = sent(relayed(&[1, 1], &[first.as_ref(), Some(&second)]), 200).await;
        sending.pass(secs(300)).await;
        assert_eq!(sending.standing(Standing::Delivered), 200, "{:?}", sending.last().values().next());
        assert_eq!(second.taken().len(), 200);
        assert!(sending.outcomes.iter().all(|outcome| outcome.state != Standing::Failed));
    }
}

#[tokio::test(start_paused = true)]
async fn s_037_a_route_whose_only_relay_refuses_our_login_waits_for_a_person() {
    let relay = Host::new(Manner::WantsLogin);
    let mut sending = sent(relayed(&[1], &[Some(&relay)]), 100).await;
    sending.pass(secs(6 * 3600)).await;
    assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 0), "{:?}", sending.outcomes.first());
    assert_eq!((sending.standing(Standing::Failed), sending.queue.depth().waiting), (0, 100));
    let mails = relay.book.lock().unwrap().mails.len();
    assert!(mails <= 50, "{mails} MAILs to a relay that wants a login: at most one on each connection");
    let shown = sending.sites.snapshot().await;
    assert!(shown.is_empty() || shown[0].held, "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_table_of_shapes_that_changed_holds_at_once() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"1/min\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 60).await;
    sending.start();
    sending.pass(secs(120)).await;
    assert!(host.taken().len() <= 3, "{}", host.taken().len());
    let faster = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"10/s\"\n";
    sending.shaping.set(Shaping::new(&Settings::default(), Some(faster)).unwrap());
    sending.sites.reshape().await;
    sending.pass(secs(120)).await;
    assert_eq!(host.taken().len(), 60);
}

#[tokio::test(start_paused = true)]
async fn s_008_a_host_that_wants_ipv4_gets_it_at_once() {
    let (mut yard, four) = Yard::new().domain("a.example", Manner::Takes);
    let six = Host::new(Manner::WantsIpv4);
    let address: IpAddr = "2001:db8::25".parse().unwrap();
    yard.zone = yard.zone.address(&domain("mx.a.example"), address);
    yard = yard.door(SocketAddr::new(address, 25), &six);
    let two =
        "[[source]]\nname = \"four\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"six\"\naddress = \"2001:db8::1\"\n";
    yard.settings = toml::from_str(two).unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100, "{:?}", sending.outcomes.last());
    assert!(!six.book.lock().unwrap().mails.is_empty(), "it was tried");
    assert_eq!((six.taken().len(), four.taken().len()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_new_source_keeps_to_its_calendar_over_restarts_and_the_known_one_takes_what_is_beyond() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let two = "[[source]]\nname = \"new\"\naddress = \"192.0.2.1\"\nwarmup = 1\n\
               [[source]]\nname = \"known\"\naddress = \"192.0.2.2\"\n";
    yard.settings = toml::from_str(two).unwrap();
    let from: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let (seen, door) = (from.clone(), host.clone());
    yard.net = yard.net.host("198.51.100.1:25".parse().unwrap(), move |source| {
        seen.lock().unwrap().push(source.unwrap());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(door.clone().serve(theirs));
        ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 2000).await;
    sending.start();
    sending.pass(secs(600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 2000, "the known source is not held up by the new one");
    let new = from.lock().unwrap().iter().filter(|source| **source == IpAddr::from([192, 0, 2, 1])).count();
    assert!((1..=2).contains(&new), "{new} connections of the new one within ten minutes");
}

#[tokio::test(start_paused = true)]
async fn what_only_the_warm_up_keeps_waiting_is_not_given_up() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Greylists);
    let text = "[[source]]\nname = \"new\"\nwarmup = 1\n[warmup]\nstart = 10\n";
    yard.settings = toml::from_str(text).unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 80).await;
    sending.start();
    // 10, 14, 19, 27 …, each greylisted first: the last ones begin after the three days that a try has
    sending.pass(secs(12 * 86_400)).await;
    assert_eq!(sending.standing(Standing::Delivered), 80, "{:?}", sending.outcomes.last());
    let last = host.taken().last().unwrap().at;
    assert!(last > secs(4 * 86_400), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_from_domain_keeps_to_its_calendar_over_all_sources_and_holds_up_no_other_launch() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let text = "[[source]]\nname = \"one\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"two\"\naddress = \"192.0.2.2\"\n\
                [warmup]\nstart = 20\ndomains = { \"example.com\" = 1 }\n[dkim]\nunsigned = true\n";
    yard.settings = toml::from_str(text).unwrap();
    let mut sending = yard.open().await;
    let new = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(new, "a.example", 60).await;
    let known = Edition { from: FromField { name: String::new(), address: "x@known.example".into() }, ..edition() };
    let known = Edition { bounce_domain: "b.known.example".into(), base_url: "https://known.example".into(), ..known };
    let name = CampaignName::parse("known").unwrap();
    let first = sending.edition;
    sending.edition = sending.store.put_edition(known.hash(), &name, known.to_bytes(), START).await.unwrap();
    let other = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(other, "a.example", 200).await;
    sending.start();
    sending.pass(secs(3600)).await;
    let of = |sending: &Sending, launch: LaunchId| {
        let last = sending.last();
        last.values().filter(|o| o.envelope.launch() == launch && o.state == Standing::Delivered).count()
    };
    assert_ne!(first, sending.edition);
    assert_eq!((of(&sending, new), of(&sending, other)), (2, 200), "evenly over half a day, and only the new one");
    let waits = sending.outcomes.iter().find(|o| o.text.contains("example.com is new to a.example")).unwrap();
    assert_eq!((waits.state, waits.tries), (Standing::Waiting, 0));
    sending.pass(secs(22 * 3600)).await;
    assert_eq!(of(&sending, new), 20, "both sources together");
    let kept = sending.store.warmup("domain example.com", "a.example").unwrap();
    assert!(kept.is_some_and(|record| record.contains("\"day\":1")), "on record, so that a restart goes on with it");
    sending.pass(secs(5 * 86_400)).await;
    assert_eq!((of(&sending, new), host.taken().len()), (60, 260));
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_that_cannot_be_recorded_sends_nothing_and_goes_on_when_it_can() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let text = "[[source]]\nname = \"new\"\nwarmup = 1\n[warmup]\nstart = 20\ndomains = { \"example.com\" = 1 }\n\
                [dkim]\nunsigned = true\n";
    yard.settings = toml::from_str(text).unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    sending.store.refuse_writes(true).unwrap();
    sending.start();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.taken().len(), 0);
    sending.store.refuse_writes(false).unwrap();
    sending.pass(secs(6 * 3600)).await;
    assert!((1..=20).contains(&host.taken().len()), "{}", host.taken().len());
}

#[tokio::test(start_paused = true)]
async fn a_new_source_alone_sends_what_the_day_allows_and_goes_on_tomorrow() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.settings = toml::from_str("[[source]]\nname = \"new\"\nwarmup = 1\n[warmup]\nstart = 20\n").unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    sending.start();
    sending.pass(secs(3600)).await;
    assert_eq!(host.taken().len(), 2, "evenly over half a day");
    let shown = sending.sites.snapshot().await;
    assert_eq!(shown[0].warmup.as_deref(), Some("day 1 of its warm-up: 2 of 20 in 24 hours"), "{shown:?}");
    sending.pass(secs(22 * 3600)).await;
    assert_eq!(host.taken().len(), 20);
    sending.pass(secs(40 * 3600)).await;
    let taken = host.taken().len();
    // 20, 28, 39; each day begins with its first message, a little after a day has passed
    assert!((20 + 28 + 10..=100).contains(&taken), "{taken}");
    let mails = host.book.lock().unwrap().mails.clone();
    for (at, mail) in mails.iter().enumerate() {
        let within = mails[at..].iter().take_while(|later| **later < *mail + secs(86_400)).count();
        let day = mail.as_secs() / 86_400;
        let most = (20.0 * 1.4f64.powi(day as i32 + 1)) as usize;
        assert!(within <= most, "{within} messages in the 24 hours after {mail:?}");
    }
    assert_eq!(sending.standing(Standing::Failed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_launch_stopped_at_a_site_goes_on_everywhere_else_until_a_person_resumes_it() {
    let (yard, a) = Yard::new().domain("a.example", Manner::Takes);
    let (yard, b) = yard.domain("b.example", Manner::Takes);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.stops.put(launch, "a.example".into(), "6.0 % hard bounces".into());
    sending.admit(launch, "a.example", 30).await;
    sending.admit(launch, "b.example", 30).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((a.taken().len(), b.taken().len()), (0, 30));
    let last = sending.last();
    let waiting = last.values().find(|outcome| outcome.state == Standing::Waiting).unwrap();
    assert_eq!((&*waiting.text, waiting.tries), ("6.0 % hard bounces", 0));
    sending.stops.lift(launch);
    sending.pass(secs(600)).await;
    assert_eq!(a.taken().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_address_is_gone_is_told_probed_and_costs_nobody_a_try() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let two =
        "[[source]]\nname = \"east\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"west\"\naddress = \"192.0.2.2\"\n";
    yard.settings = toml::from_str(two).unwrap();
    let probes: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (seen, door) = (probes.clone(), host.clone());
    let start = Instant::now();
    yard.net = yard.net.host("198.51.100.1:25".parse().unwrap(), move |source| {
        let is_west = source == Some(IpAddr::from([192, 0, 2, 2]));
        if is_west {
            seen.lock().unwrap().push(Instant::now());
        }
        if is_west && start.elapsed() < secs(600) {
            return ready(Err(io::ErrorKind::AddrNotAvailable.into())).boxed();
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(door.clone().serve(theirs));
        ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"1/s\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 1000).await;
    sending.start();
    sending.pass(secs(1200)).await;
    assert_eq!(sending.standing(Standing::Delivered), 1000, "the other one does the work meanwhile");
    assert!(sending.last().values().all(|outcome| outcome.tries == 1), "a try that could not be made is none");
    let gone = sending.noticed().into_iter().filter(|notice| notice.kind == NoticeKind::SourceGone);
    assert!(gone.clone().count() >= 1 && gone.clone().all(|notice| notice.source.as_deref() == Some("west")));
    let probes = probes.lock().unwrap();
    let early: Vec<_> = probes.iter().filter(|at| at.saturating_duration_since(start) < secs(600)).collect();
    assert!((3..=12).contains(&early.len()), "{} probes in ten minutes", early.len());
    assert!(probes.len() > early.len(), "found again");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_throttles_is_told_once_and_not_from_every_connection() {
    let (mut sending, _) = one(Manner::Throttles, 100, InDoubt::Resend).await;
    sending.pass(secs(300)).await;
    let told = sending.noticed();
    assert!((1..=3).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|notice| notice.site.as_deref() == Some("a.example")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn copies_deferred_together_do_not_come_back_as_one_wave() {
    let (mut sending, host) = one(Manner::Greylists, 500, InDoubt::Resend).await;
    sending.pass(secs(3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 500);
    let back: Vec<Duration> = host.taken().iter().map(|taken| taken.at).collect();
    let within = |at: &Duration| back.iter().filter(|other| **other >= *at && **other < *at + secs(20)).count();
    let most = back.iter().map(within).max().unwrap();
    assert!(most < 80, "{most} of 500 within 20 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_slow_launch_holds_up_no_other_in_its_domain_and_keeps_its_own_rate() {
    let (yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let mut sending = yard.open().await;
    let slow = LaunchOptions { rate: Some("1/min".into()), ..LaunchOptions::default() };
    let slow = sending.launch(slow, InDoubt::Resend).await;
    let other = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(slow, "a.example", 200).await;
    sending.start();
    sending.pass(secs(30)).await;
    sending.admit(other, "a.example", 50).await;
    sending.pass(secs(30)).await;
    let delivered = |sending: &Sending, launch: LaunchId| {
        let of = |outcome: &&Outcome| outcome.envelope.launch() == launch && outcome.state == Standing::Delivered;
        sending.last().values().filter(of).count()
    };
    assert_eq!(delivered(&sending, other), 50, "nobody waits behind a launch's own rate");
    // between two of its minutes: none is on the road
    sending.pass(secs(99 * 60 - 30)).await;
    let slowly = delivered(&sending, slow);
    assert!((90..=101).contains(&slowly), "{slowly} in a hundred minutes");
    assert_eq!(host.taken().len(), 50 + slowly);
}

#[tokio::test(start_paused = true)]
async fn a_person_holds_a_domain_whatever_way_its_mail_goes() {
    let relay = Host::new(Manner::Takes);
    let yard = Yard::new().door("127.0.0.1:2525".parse().unwrap(), &relay);
    let mut sending = yard.open().await;
    let via =
        LaunchOptions { via: Some("smtp://127.0.0.1:2525".into()), rate: Some("2/s".into()), ..Default::default() };
    let launch = sending.launch(via, InDoubt::Resend).await;
    sending.admit(launch, "a.example", 20).await;
    sending.admit(launch, "b.example", 20).await;
    sending.start();
    sending.sites.suspend("a.example", "complaints").await;
    sending.pass(secs(60)).await;
    let to = |at: &str| relay.taken().iter().filter(|taken| taken.to.ends_with(at)).count();
    assert_eq!((to("a.example"), to("b.example")), (0, 20));
    let still = crate::delivery::sites::standing_still(&sending.queue, sending.world.clock.now()).await.unwrap();
    assert!(still.iter().any(|row| row.name == "a.example" && row.source.is_none() && row.held), "{still:?}");
    sending.sites.resume("a.example").await;
    sending.pass(secs(60)).await;
    assert_eq!(to("a.example"), 20);
}
