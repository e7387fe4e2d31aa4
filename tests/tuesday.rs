//! A bad Tuesday: a newsletter to the world's large providers and forty smaller sites, in simulated time, on a day on which
//! Google throttles, Yahoo greylists everything, Outlook blocks one of our two addresses and iCloud is down for two hours.
//! Everybody else keeps the full rate, nobody is suppressed wrongly, every limit holds at every instant, and the report
//! tells the story. `TUESDAY=20000 cargo test --test tuesday` makes it larger.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mailshot::base::{Address, CampaignName, ContactId, Domain, LaunchId, Timestamp, bucket};
use mailshot::config::{Secret, Settings};
use mailshot::engine::{Crew, Engine, Parts, Ready, Workspace};
use mailshot::mail::{Notice, NoticeKind, Standing};
use mailshot::outcome::{Ink, plain, report};
use mailshot::queue::MemoryLedger;
use mailshot::sign::{Algorithm, create_key};
use mailshot::store::{LaunchOptions, LaunchState, NewContact, OnConflict, QueuePlace, Store, Threads};
use mailshot::world::{Clock, Net, SeededDice, SimulatedClock, Stream, World, Zone};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
/// People of a plain `cargo test`.
const PEOPLE: usize = 6000;
/// Sites beside the large ones.
const OTHERS: usize = 40;
/// At full rate from both addresses every site is done in this time.
const AT_FULL_RATE: Duration = Duration::from_secs(600);
const LATENCY: Duration = Duration::from_millis(40);
const CONNECTIONS: usize = 5;
const PER_CONNECTION: u32 = 25;
/// How late a MAIL may come after its turn: the answer to another command on its connection is waited for first.
const DELAY_MAX: f64 = 1.5;
const SOURCES: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];

/// The large ones: site, domain, mail host, share of the people in per cent.
const LARGE: [(&str, &str, &str, usize); 4] = [
    ("google", "gmail.com", "gmail-smtp-in.l.google.com", 40),
    ("outlook", "hotmail.com", "hotmail-com.olc.protection.outlook.com", 15),
    ("yahoo", "yahoo.com", "mta5.am0.yahoodns.net", 12),
    ("icloud", "icloud.com", "mx01.mail.icloud.com", 8),
];

/// What goes wrong, and when.
const THROTTLES: (Duration, Duration) = (Duration::from_secs(180), Duration::from_secs(33 * 60));
const BLOCKS_FROM: Duration = Duration::from_secs(120);
const IS_DOWN: (Duration, Duration) = (MINUTE, Duration::from_secs(121 * 60));
const GREYLISTED_FOR: Duration = MINUTE;

fn sites() -> Vec<String> {
    LARGE.iter().map(|(site, ..)| (*site).to_owned()).chain((0..OTHERS).map(|n| format!("s{n}.test"))).collect()
}

fn domain_of(site: usize) -> String {
    LARGE.get(site).map_or_else(|| format!("s{}.test", site - LARGE.len()), |(_, domain, ..)| (*domain).to_owned())
}

fn copies_at(site: usize, people: usize) -> usize {
    let large: usize = LARGE.iter().map(|(.., share)| people * share / 100).sum();
    LARGE.get(site).map_or((people - large) / OTHERS, |(.., share)| people * share / 100)
}

/// Messages a minute that each address may send to a site.
fn per_minute(site: usize, people: usize) -> u64 {
    let minutes = AT_FULL_RATE.as_secs() as usize / 60;
    copies_at(site, people).div_ceil(2 * minutes).max(2) as u64
}

/// Whether nobody has this address: one in a hundred at the smaller sites.
fn is_unknown(address: &str) -> bool {
    address.contains("-gone@")
}

/// What the hosts saw.
#[derive(Default)]
struct Book {
    /// Addresses whose message was taken, and how often.
    taken: HashMap<String, u32>,
    /// MAILs by site and source.
    mails: BTreeMap<(usize, usize), Vec<Timestamp>>,
    /// When a site took its last message.
    last: BTreeMap<usize, Timestamp>,
    open: BTreeMap<(usize, usize), usize>,
    pressed: Vec<(usize, usize)>,
    longest: u32,
    /// By source, return path and recipient: when it was first seen.
    greylist: HashMap<(usize, String, String), Timestamp>,
    /// Copies that were answered with the block.
    blocked: BTreeSet<String>,
}

#[derive(Clone)]
struct Hosts {
    by_address: Arc<HashMap<IpAddr, usize>>,
    book: Arc<Mutex<Book>>,
    clock: Arc<SimulatedClock>,
}

impl Hosts {
    fn day(&self) -> Duration {
        self.clock.now().since(START)
    }

    fn within(&self, (from, to): (Duration, Duration)) -> bool {
        (from..to).contains(&self.day())
    }
}

impl Net for Hosts {
    fn dial(&self, from: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let hosts = self.clone();
        let source = SOURCES.iter().position(|address| from == Some(IpAddr::from(*address))).expect("a source of ours");
        let site = self.by_address[&to.ip()];
        async move {
            sleep(LATENCY).await;
            if LARGE.get(site).is_some_and(|(name, ..)| *name == "icloud") && hosts.within(IS_DOWN) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(Talk::begin(hosts, site, source)) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// One connection, at the host's end.
struct Talk {
    hosts: Hosts,
    site: usize,
    source: usize,
    inbox: Vec<u8>,
    out: VecDeque<(Instant, Option<Vec<u8>>)>,
    nap: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
    in_message: bool,
    from: String,
    to: Option<String>,
    done: u32,
}

impl Talk {
    fn begin(hosts: Hosts, site: usize, source: usize) -> Talk {
        {
            let mut book = hosts.book.lock().unwrap();
            let open = book.open.entry((site, source)).or_default();
            *open += 1;
            let open = *open;
            if open > CONNECTIONS {
                book.pressed.push((site, open));
            }
        }
        let mut talk = Talk {
            hosts,
            site,
            source,
            inbox: Vec::new(),
            out: VecDeque::new(),
            nap: None,
            waker: None,
            in_message: false,
            from: String::new(),
            to: None,
            done: 0,
        };
        talk.say("220 mx ESMTP");
        talk
    }

    fn is(&self, name: &str) -> bool {
        LARGE.get(self.site).is_some_and(|(site, ..)| *site == name)
    }

    fn say(&mut self, line: &str) {
        self.out.push_back((Instant::now() + LATENCY, Some(format!("{line}\r\n").into_bytes())));
    }

    fn read(&mut self) {
        loop {
            let ending: &[u8] = if self.in_message { b"\r\n.\r\n" } else { b"\r\n" };
            let Some(end) = self.inbox.windows(ending.len()).position(|window| window == ending) else { return };
            let line: Vec<u8> = self.inbox.drain(..end + ending.len()).collect();
            if std::mem::take(&mut self.in_message) {
                self.take();
            } else {
                self.command(&String::from_utf8_lossy(&line));
            }
        }
    }

    fn take(&mut self) {
        let to = self.to.take().expect("the message was asked for");
        self.done += 1;
        let now = self.hosts.clock.now();
        {
            let mut book = self.hosts.book.lock().unwrap();
            *book.taken.entry(to).or_default() += 1;
            book.last.insert(self.site, now);
            book.longest = book.longest.max(self.done);
        }
        self.say("250 2.0.0 taken");
    }

    fn command(&mut self, line: &str) {
        let between = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        match line.get(..4).unwrap_or_default() {
            "EHLO" => self.say("250-mx\r\n250 PIPELINING"),
            "MAIL" => self.mail(between()),
            "RCPT" => self.rcpt(between()),
            "DATA" if self.to.is_none() => self.say("503 5.5.1 no recipient"),
            "DATA" => {
                self.in_message = true;
                self.say("354 go");
            }
            "QUIT" => {
                self.say("221 bye");
                self.out.push_back((Instant::now() + LATENCY, None));
            }
            _ => self.say("250 ok"),
        }
    }

    fn mail(&mut self, from: String) {
        let now = self.hosts.clock.now();
        self.hosts.book.lock().unwrap().mails.entry((self.site, self.source)).or_default().push(now);
        (self.from, self.to) = (from, None);
        if self.is("google") && self.hosts.within(THROTTLES) {
            return self.say(
                "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP address. To protect \
                 our users from spam, mail sent from your IP address has been temporarily rate limited.",
            );
        }
        if self.is("outlook") && self.source == 1 && self.hosts.day() >= BLOCKS_FROM {
            return self.say(
                "550 5.7.1 Unfortunately, messages from [192.0.2.2] weren't sent. Please contact your Internet service \
                 provider since part of their network is on our block list (S3150).",
            );
        }
        self.say("250 2.1.0 ok");
    }

    fn rcpt(&mut self, to: String) {
        let now = self.hosts.clock.now();
        if self.is("outlook") && self.source == 1 && self.hosts.day() >= BLOCKS_FROM {
            self.hosts.book.lock().unwrap().blocked.insert(to);
            return self.say("503 5.5.1 MAIL first");
        }
        if self.is("google") && self.hosts.within(THROTTLES) {
            return self.say("503 5.5.1 MAIL first");
        }
        if is_unknown(&to) {
            return self.say("550 5.1.1 no such user");
        }
        if self.is("yahoo") {
            let triple = (self.source, self.from.clone(), to.clone());
            let first = *self.hosts.book.lock().unwrap().greylist.entry(triple).or_insert(now);
            if now.since(first) < GREYLISTED_FOR {
                return self.say("451 4.7.1 Greylisted, please try again later");
            }
        }
        self.to = Some(to);
        self.say("250 2.1.5 ok");
    }
}

impl AsyncRead for Talk {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.waker = Some(cx.waker().clone());
        let Some((at, _)) = self.out.front() else { return Poll::Pending };
        if *at > Instant::now() {
            let mut nap = Box::pin(sleep_until(*at));
            let ready = nap.as_mut().poll(cx).is_ready();
            self.nap = Some(nap);
            if !ready {
                return Poll::Pending;
            }
        }
        // all that is due comes in one segment
        while self.out.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            match self.out.pop_front() {
                Some((at, Some(mut bytes))) => {
                    let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                    buf.put_slice(&bytes);
                    if !rest.is_empty() {
                        self.out.push_front((at, Some(rest)));
                        break;
                    }
                }
                Some((at, None)) => {
                    self.out.push_front((at, None));
                    break;
                }
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Talk {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inbox.extend_from_slice(bytes);
        self.read();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let key = (self.site, self.source);
        if let Some(open) = self.hosts.book.lock().unwrap().open.get_mut(&key) {
            *open -= 1;
        }
    }
}

fn workspace(people: usize) -> (tempfile::TempDir, Workspace) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let campaign = at.join("campaigns/tuesday");
    std::fs::create_dir_all(&campaign).unwrap();
    let text = "subject = \"Tuesday\"\nfrom = \"News <news@example.com>\"\nlists = [\"news\"]\ntemplate = \"plain\"\n";
    std::fs::write(campaign.join("campaign.toml"), text).unwrap();
    std::fs::write(campaign.join("body.md"), "Hello {{email}}\n").unwrap();
    std::fs::create_dir_all(at.join("templates")).unwrap();
    for name in ["plain.html", "plain.txt"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name);
        std::fs::copy(from, at.join("templates").join(name)).unwrap();
    }
    let shape = |(at, site): (usize, String)| {
        format!(
            "[[site]]\nsite = \"{site}\"\nshape = {{ connection_limit = {CONNECTIONS}, tls = \"opportunistic\", \
             max_deliveries_per_connection = {PER_CONNECTION}, max_message_rate = \"{}/min\" }}\n",
            per_minute(at, people)
        )
    };
    std::fs::write(at.join("shaping.toml"), sites().into_iter().enumerate().map(shape).collect::<String>()).unwrap();
    let source = |(at, [a, b, c, d]): (usize, [u8; 4])| {
        format!("[[source]]\nname = \"{}\"\naddress = \"{a}.{b}.{c}.{d}\"\n", ["east", "west"][at])
    };
    let settings = format!(
        "[sender]\npostal_address = \"Example Ltd, 1 High Street, Exampletown\"\n{}",
        SOURCES.into_iter().enumerate().map(source).collect::<String>()
    );
    std::fs::write(at.join("mailshot.toml"), settings).unwrap();
    let settings = Settings::load(&at.join("mailshot.toml"), std::iter::empty()).unwrap();
    let workspace = Workspace::with(at, settings);
    mailshot::sign::create_seal(&workspace.keys_folder()).unwrap();
    let domain = Domain::parse("example.com").unwrap();
    create_key(&workspace.keys_folder(), &domain, "e1", Algorithm::Ed25519).unwrap();
    (folder, workspace)
}

/// All addresses, site by site.
fn people(count: usize) -> Vec<(usize, String)> {
    let mut people = Vec::new();
    for site in 0..LARGE.len() + OTHERS {
        for number in 0..copies_at(site, count) {
            let gone = if site >= LARGE.len() && number % 100 == 7 { "-gone" } else { "" };
            people.push((site, format!("p{number}{gone}@{}", domain_of(site))));
        }
    }
    people
}

async fn import(store: &Store, people: &[(usize, String)]) {
    let list = store.make_list("news".to_owned(), START).await.unwrap();
    let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
    for batch in people.chunks(5000) {
        let person = |(_, address): &(usize, String)| {
            let address = Address::parse(address).unwrap();
            let bucket = bucket(address.domain());
            NewContact { address, name: String::new(), fields: Default::default(), bucket }
        };
        let batch = batch.iter().map(person).collect();
        store.import_batch(batch, list, import, OnConflict::Fill, START).await.unwrap();
    }
}

fn world() -> (World, Hosts) {
    let clock = Arc::new(SimulatedClock::starting(START));
    let (mut zone, mut by_address) = (Zone::default(), HashMap::new());
    for site in 0..LARGE.len() + OTHERS {
        let name = |text: &str| Domain::parse(text).unwrap();
        let host = LARGE.get(site).map_or_else(|| format!("mx.{}", domain_of(site)), |(_, _, host, _)| (*host).into());
        let address = IpAddr::from([198, 51, 100, site as u8 + 1]);
        zone = zone.mx(&name(&domain_of(site)), 10, Some(&name(&host))).address(&name(&host), address);
        by_address.insert(address, site);
    }
    let hosts = Hosts { by_address: Arc::new(by_address), book: Arc::default(), clock: clock.clone() };
    let world = World { clock, dns: Arc::new(zone), net: Arc::new(hosts.clone()), dice: Arc::new(SeededDice::new(2)) };
    (world, hosts)
}

/// A day: the engine at work on a campaign to these people.
struct Day {
    workspace: Workspace,
    store: Store,
    hosts: Hosts,
    engine: Engine,
    launch: LaunchId,
    _folder: tempfile::TempDir,
}

impl Day {
    /// Begins a day with a workspace for `count` people; `before` is done to it once the campaign is launched.
    async fn begin(
        people: &[(usize, String)],
        count: usize,
        options: LaunchOptions,
        before: impl FnOnce(Workspace) -> Workspace,
    ) -> Day {
        let (folder, workspace) = workspace(count);
        let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap();
        let (world, hosts) = world();
        import(&store, people).await;
        let name = CampaignName::parse("tuesday").unwrap();
        let ready = Ready::check(&workspace, &store, &name, &options).unwrap();
        let launch = ready.launch(&store, START).await.unwrap().id;
        let workspace = before(workspace);
        let parts = Parts {
            workspace: workspace.clone(),
            world,
            store: store.clone(),
            threads: Threads::Inline,
            place: QueuePlace::default(),
            crew: Crew::Sending,
        };
        let engine = Engine::start(parts, MemoryLedger::default()).await.unwrap();
        engine.handle().take_up(launch);
        Day { workspace, store, hosts, engine, launch, _folder: folder }
    }

    fn state(&self) -> LaunchState {
        self.store.launch(self.launch).unwrap().unwrap().state
    }

    /// Lets time pass until the campaign stands like this.
    async fn until(&self, state: LaunchState, most: Duration) {
        let begun = Instant::now();
        while self.state() != state {
            let story = plain(&report(&self.store, self.launch).unwrap().unwrap(), Ink::Black);
            assert!(begun.elapsed() < most, "not {state:?} after {most:?}: {story}");
            sleep(Duration::from_secs(5)).await;
        }
    }

    fn copies(&self, standing: Standing) -> u64 {
        let figures = self.store.figures(self.launch).unwrap();
        figures.iter().filter(|figure| figure.standing == standing).map(|figure| figure.copies).sum()
    }

    fn incident(&self, kind: NoticeKind) -> Option<Notice> {
        let all = self.store.incidents(START, Timestamp::from_ms(i64::MAX), 1000).unwrap();
        all.into_iter().find(|incident| incident.kind == kind)
    }
}

/// Runs a day in virtual time.
fn in_time<T>(day: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(day)
}

#[test]
fn a_bad_tuesday_slows_exactly_what_is_in_trouble() {
    let count = std::env::var("TUESDAY").map_or(PEOPLE, |text| text.parse().expect("TUESDAY is a number of people"));
    let people = people(count);
    in_time(async {
        let day = Day::begin(&people, count, LaunchOptions::default(), |workspace| workspace).await;
        day.until(LaunchState::Done, Duration::from_secs(6 * 3600)).await;
        check(&people, &day.store, day.launch, &day.hosts, count);
        day.engine.stop(MINUTE).await;
    });
}

#[test]
fn a_list_full_of_dead_addresses_stops_where_they_are_until_a_person_resumes_it() {
    let mut people: Vec<(usize, String)> = (0..1000).map(|number| (0, format!("p{number}@gmail.com"))).collect();
    let gone = |number: usize| if number % 12 == 7 { "-gone" } else { "" };
    people.extend((0..800).map(|number| (LARGE.len(), format!("q{number}{}@s0.test", gone(number)))));
    in_time(async {
        let day = Day::begin(&people, 60_000, LaunchOptions::default(), |workspace| workspace).await;
        while day.store.breaks(Some(day.launch)).unwrap().is_empty() {
            sleep(MINUTE).await;
        }
        sleep(MINUTE * 40).await;
        let stopped = day.store.breaks(Some(day.launch)).unwrap().remove(0);
        assert_eq!(stopped.site.as_deref(), Some("s0.test"), "{stopped:?}");
        assert!(stopped.why.contains("% hard bounces at s0.test"), "{stopped:?}");
        assert_eq!(day.state(), LaunchState::Running, "it goes on everywhere else");
        let (answered, google) = {
            let book = day.hosts.book.lock().unwrap();
            let google = book.taken.keys().filter(|address| address.ends_with("@gmail.com")).count();
            (book.mails[&(LARGE.len(), 0)].len() + book.mails[&(LARGE.len(), 1)].len(), google)
        };
        // what was on connections or leased when it stopped is finished
        assert!((500..560).contains(&answered), "{answered} messages to s0.test");
        assert_eq!(google, 1000);
        let notice = day.incident(NoticeKind::Breaker).unwrap();
        assert_eq!((notice.site.as_deref(), notice.launch), (Some("s0.test"), Some(day.launch)));
        day.engine.handle().resume(day.launch).await.unwrap();
        day.until(LaunchState::Done, Duration::from_secs(6 * 3600)).await;
        let dead = people.iter().filter(|(_, address)| is_unknown(address)).count() as u64;
        assert_eq!((day.copies(Standing::Failed), day.copies(Standing::Delivered)), (dead, 1800 - dead));
        day.engine.stop(MINUTE).await;
    });
}

#[test]
fn a_missing_key_pauses_the_campaign_and_bounces_nobody() {
    let people: Vec<(usize, String)> = (0..200).map(|number| (4, format!("p{number}@s0.test"))).collect();
    in_time(async {
        let lose_key = |workspace: Workspace| {
            std::fs::remove_dir_all(workspace.keys_folder().join("example.com")).unwrap();
            workspace
        };
        let day = Day::begin(&people, PEOPLE, LaunchOptions::default(), lose_key).await;
        day.until(LaunchState::Paused, MINUTE).await;
        sleep(MINUTE * 60).await;
        assert!(day.hosts.book.lock().unwrap().taken.is_empty());
        assert_eq!((day.copies(Standing::Failed), day.copies(Standing::Barred)), (0, 0));
        let stopped = day.store.breaks(Some(day.launch)).unwrap().remove(0);
        assert!(stopped.site.is_none() && stopped.why.contains("DKIM key"), "{stopped:?}");
        let notice = day.incident(NoticeKind::Misconfigured).unwrap();
        assert_eq!(notice.launch, Some(day.launch));
        assert!(NoticeKind::Misconfigured.alerts());
        // the key comes back, and a person resumes
        let domain = Domain::parse("example.com").unwrap();
        create_key(&day.workspace.keys_folder(), &domain, "e2", Algorithm::Ed25519).unwrap();
        day.engine.stop(MINUTE).await;
    });
}

#[test]
fn credentials_that_cannot_be_used_hold_the_route_and_bounce_nobody() {
    let people: Vec<(usize, String)> = (0..200).map(|number| (4, format!("p{number}@s0.test"))).collect();
    let via = LaunchOptions { via: Some("smtp://198.51.100.5:25".into()), ..LaunchOptions::default() };
    in_time(async {
        let log_in = |workspace: Workspace| {
            // a password is never said in clear, and this host offers no TLS
            let mut settings = workspace.settings().clone();
            settings.relay.user = Some("news".into());
            settings.relay.password = Some(Secret::new("s3cret".into()));
            Workspace::with(workspace.folder(), settings)
        };
        let day = Day::begin(&people, PEOPLE, via, log_in).await;
        sleep(MINUTE * 60).await;
        assert_eq!(day.copies(Standing::Failed), 0);
        assert!(day.hosts.book.lock().unwrap().taken.is_empty());
        let notice = day.incident(NoticeKind::Held).unwrap();
        assert_eq!(notice.site.as_deref(), Some("smtp://198.51.100.5:25"));
        let tries: u64 = day.store.figures(day.launch).unwrap().iter().map(|figure| figure.tries).sum();
        assert_eq!(tries, 0);
        day.engine.stop(MINUTE).await;
    });
}

fn check(people: &[(usize, String)], store: &Store, launch: LaunchId, hosts: &Hosts, count: usize) {
    let book = hosts.book.lock().unwrap();
    check_copies(people, store, launch, &book);
    check_limits(&book, count);
    check_times(&book);
    check_pauses(&book);
    let found = report(store, launch).unwrap().unwrap();
    let story = plain(&found, Ink::Black);
    println!("{story}");
    let told = |kind: NoticeKind, site: &str, source: Option<&str>| {
        let same = found.incidents.iter().find(|incident| {
            incident.kind == kind
                && incident.site.as_deref() == Some(site)
                && source.is_none_or(|source| incident.source.as_deref() == Some(source))
        });
        assert!(same.is_some(), "the report does not tell that {site} is {}: {story}", kind.word());
    };
    told(NoticeKind::Held, "outlook", Some("west"));
    told(NoticeKind::Paused, "google", Some("east"));
    told(NoticeKind::Paused, "google", Some("west"));
    told(NoticeKind::Paused, "icloud", None);
    for words in ["S3150", "unusual rate", "what happened on the road"] {
        assert!(story.contains(words), "`{words}` is missing: {story}");
    }
}

/// Every copy is delivered once, but for those that nobody has and those that heard the block; only the former are barred.
fn check_copies(people: &[(usize, String)], store: &Store, launch: LaunchId, book: &Book) {
    let (mut after, mut rows) = (ContactId(0), HashMap::new());
    loop {
        let page = store.copies(launch, after, 10_000).unwrap();
        let Some(last) = page.last() else { break };
        after = last.contact;
        rows.extend(page.into_iter().map(|row| (row.address.clone(), row)));
    }
    assert_eq!(rows.len(), people.len());
    for (_, address) in people {
        let row = &rows[address];
        let taken = book.taken.get(address).copied().unwrap_or(0);
        let class = row.class.map(|class| class.word());
        let expected = match () {
            () if is_unknown(address) => (Standing::Failed, Some("hard.unknown_user"), 0),
            () if book.blocked.contains(address) && row.standing == Standing::Failed => {
                (Standing::Failed, Some("block.ip"), 0)
            }
            () => (Standing::Delivered, Some("delivered"), 1),
        };
        assert_eq!((row.standing, class, taken), expected, "{address}: {}", row.text);
    }
    // the connections of the blocked address had a copy each in the air, and one behind it
    assert!((1..=2 * CONNECTIONS).contains(&book.blocked.len()), "{} heard the block", book.blocked.len());
    let mut suppressed = 0;
    for (_, address) in people {
        if store.suppression(address).unwrap().is_some() {
            suppressed += 1;
            assert!(is_unknown(address), "{address} is suppressed");
        }
    }
    assert_eq!(suppressed, people.iter().filter(|(_, address)| is_unknown(address)).count());
}

/// At no instant more connections, nor in any time more messages, than a site allows each address.
fn check_limits(book: &Book, count: usize) {
    assert!(book.pressed.is_empty(), "too many connections: {:?}", &book.pressed[..1]);
    assert!(book.longest <= PER_CONNECTION);
    for ((site, source), mails) in &book.mails {
        let rate = per_minute(*site, count) as f64 / 60.0;
        // the most over what an even pace allows, from any message to any later one
        let mut least = f64::INFINITY;
        for (number, at) in mails.iter().enumerate() {
            let owed = number as f64 - rate * at.since(START).as_secs_f64();
            least = least.min(owed);
            assert!(owed - least <= rate * DELAY_MAX + 1.0, "site {site} from {source}: too many messages before {at}");
        }
    }
}

/// Whoever is not in trouble is done as if there were none; the others soon after their trouble.
fn check_times(book: &Book) {
    let done = |site: usize| book.last[&site].since(START);
    let slack = MINUTE * 2;
    for site in LARGE.len()..LARGE.len() + OTHERS {
        assert!(done(site) <= AT_FULL_RATE.mul_f64(1.1) + slack, "site {site} took {:?}", done(site));
    }
    // google: three pauses of ten minutes, the last of which ends in good weather; outlook: one address does the work of
    // two; yahoo: everything twice; icloud: found again within the longest rest
    for (site, most) in [(0, 60), (1, 24), (2, 40), (3, 121 + 60 + 14)] {
        assert!(done(site) <= MINUTE * most, "{} took {:?}", LARGE[site].0, done(site));
    }
}

/// Google's own procedure: ten minutes of silence after each complaint, from the address complained of.
fn check_pauses(book: &Book) {
    for source in 0..SOURCES.len() {
        let mails = &book.mails[&(0, source)];
        let bad = |at: &Timestamp| (THROTTLES.0..THROTTLES.1).contains(&at.since(START));
        let within: Vec<&Timestamp> = mails.iter().filter(|at| bad(at)).collect();
        let rounds = within.windows(2).filter(|pair| pair[1].since(*pair[0]) >= MINUTE * 9).count() + 1;
        assert!((2..=4).contains(&rounds), "{rounds} probes from {source}");
        // after the first round, which was under way on all connections, one probe at a time
        assert!(within.len() <= 2 * CONNECTIONS + 2 * rounds, "{} messages into the throttle", within.len());
    }
}
