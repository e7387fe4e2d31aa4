//! One seed, one run: domains, hosts, people and campaigns; the whole engine on one thread in virtual time, killed, stopped
//! or left without a disk at random instants and started again on what had been flushed. Disks also fail for a while and come
//! back: then the same life goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mailshot::base::{Address, CampaignName, Domain, LaunchId, Timestamp, bucket};
use mailshot::config::Settings;
use mailshot::engine::{Crew, Engine, Error as EngineError, Handle, Parts, Ready, Workspace};
use mailshot::queue::{Error, Ledger, MemoryLedger, Move, Pair};
use mailshot::sign::{Algorithm, create_key};
use mailshot::store::{LaunchOptions, NewContact, OnConflict, QueuePlace, Reason, Store, SuppressionRow, Threads};
use mailshot::world::{Answer, Clock, Dns, DnsError, Mx, SeededDice, SimulatedClock, Tlsa, World, Zone};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::checkers;
use crate::hosts::{Book, Hosts, Manner, Partition, TlsFault, addresses};

pub const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
/// Everything is final long before: copies expire after eight minutes, the longest rest of a site is an hour.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// How often it is looked whether all is final.
const LOOK: Duration = Duration::from_secs(1);
/// How long after a start that was refused for its disk the next one comes.
const AFTER_FAULT: Duration = Duration::from_secs(10);
/// The seed of a small run, and how many people it has.
const SMALL: u64 = 5;
const SMALL_PEOPLE: usize = 6;
/// Hosts at most; each is a site of its own, with limits of its own.
const HOSTS: usize = 9;
/// The campaigns: one sends again what is in doubt, the other holds it.
pub const CAMPAIGNS: [&str; 2] = ["again", "hold"];

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// As by SIGKILL: nothing more reaches disk or wire; the write that was under way may be lost with it.
    Kill { loses_last: bool },
    /// As by SIGTERM, with this much grace.
    Stop(Duration),
    /// The disk takes nothing more.
    DiskFull,
}

/// When a life ends, counted in writes of the ledger and of the wire.
#[derive(Default)]
pub struct Fate {
    left: AtomicU64,
    over: AtomicBool,
    ending: Mutex<Option<Ending>>,
    told: Notify,
}

impl Fate {
    fn set(&self, ticks: u64, ending: Option<Ending>) {
        self.left.store(ticks, Ordering::SeqCst);
        self.over.store(false, Ordering::SeqCst);
        *self.ending.lock().unwrap() = ending;
    }

    /// One more write.
    pub fn tick(&self) {
        match self.left.load(Ordering::SeqCst) {
            0 => {}
            1 => {
                self.left.store(0, Ordering::SeqCst);
                self.over.store(true, Ordering::SeqCst);
                self.told.notify_one();
            }
            left => self.left.store(left - 1, Ordering::SeqCst),
        }
    }

    fn ending(&self) -> Option<Ending> {
        let ending = *self.ending.lock().unwrap();
        ending.filter(|_| self.over.load(Ordering::SeqCst))
    }

    pub fn is_dead(&self) -> bool {
        matches!(self.ending(), Some(Ending::Kill { .. }))
    }

    async fn over(&self) {
        while self.ending().is_none() {
            self.told.notified().await;
        }
    }

    async fn killed(&self) {
        while !self.is_dead() {
            self.told.notified().await;
        }
    }
}

/// A time in which a disk takes nothing.
#[derive(Debug, Clone, Copy)]
struct Fault {
    from: Timestamp,
    until: Timestamp,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The queue's; what is written all the same is lost to nobody, as when only the sync fails.
    Queue { writes: bool },
    /// The record's.
    Record,
}

impl Fault {
    fn holds(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}

/// The ledger, until the end of a life.
struct Mortal {
    ledger: MemoryLedger,
    fate: Arc<Fate>,
    faults: Vec<Fault>,
    clock: Arc<SimulatedClock>,
}

impl Mortal {
    /// Whether the disk fails now, having written all the same.
    fn fails(&self) -> Option<bool> {
        let now = self.clock.now();
        self.faults.iter().filter(|fault| fault.holds(now)).find_map(|fault| match fault.whose {
            Whose::Queue { writes } => Some(writes),
            Whose::Record => None,
        })
    }
}

impl Ledger for Mortal {
    fn commit(&mut self, moves: &[Move]) -> Result<(), Error> {
        let was_dead = self.fate.is_dead();
        self.fate.tick();
        match self.fate.ending() {
            Some(Ending::Kill { loses_last }) if was_dead || loses_last => {
                Err(Error::Disk { why: "the process is gone".into() })
            }
            Some(Ending::DiskFull) => Err(Error::Disk { why: "the disk is full".into() }),
            _ if self.fails().is_some() => {
                if self.fails() == Some(true) {
                    self.ledger.commit(moves)?;
                }
                Err(Error::Disk { why: "an input/output error".into() })
            }
            Some(Ending::Kill { .. } | Ending::Stop(_)) | None => self.ledger.commit(moves),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, Error> {
        self.ledger.scan(prefix, from, most)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, Error> {
        self.ledger.last(prefix)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.ledger.value(key)
    }
}

/// The clock of the machine: somebody sets it now and then.
struct Set {
    clock: Arc<SimulatedClock>,
    /// From when on it is so many milliseconds further ahead than before, or behind.
    jumps: Vec<(Timestamp, i64)>,
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        let now = self.clock.now();
        let ahead: i64 = self.jumps.iter().filter(|(from, _)| *from <= now).map(|(_, by)| by).sum();
        Timestamp::from_ms(now.as_ms() + ahead)
    }
}

/// Names of which some are in trouble for a while, and some lead elsewhere from some time on.
struct Names {
    zone: Zone,
    moved: Option<(Timestamp, Zone)>,
    down: Vec<(Domain, Timestamp)>,
    clock: Arc<SimulatedClock>,
}

impl Names {
    fn zone(&self) -> &Zone {
        let now = self.clock.now();
        self.moved.as_ref().filter(|(from, _)| *from <= now).map_or(&self.zone, |(_, zone)| zone)
    }

    fn trouble(&self, name: &Domain) -> Option<DnsError> {
        let now = self.clock.now();
        let is_down = self.down.iter().any(|(domain, until)| domain == name && now < *until);
        is_down.then(|| DnsError::Unavailable { name: name.clone(), why: "SERVFAIL".into() })
    }
}

impl Dns for Names {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        match self.trouble(domain) {
            Some(error) => async { Err(error) }.boxed(),
            None => Dns::mx(self.zone(), domain),
        }
    }

    fn addresses(&self, host: &Domain, v6: bool) -> BoxFuture<'static, Result<Answer<std::net::IpAddr>, DnsError>> {
        self.zone.addresses(host, v6)
    }

    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        Dns::text(&self.zone, name)
    }

    fn tlsa(&self, host: &Domain, port: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        Dns::tlsa(&self.zone, host, port)
    }

    fn pointer(&self, address: std::net::IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        Dns::pointer(&self.zone, address)
    }
}

/// What a person does meanwhile.
#[derive(Debug, Clone)]
enum Deed {
    Suppress(String),
    Pause(usize),
    Resume(usize),
    Cancel(usize),
    Retry(usize),
}

/// A bar, and when it was durable.
pub struct Bar {
    pub address: String,
    pub at: Timestamp,
}

/// One run.
pub struct Run {
    pub store: Store,
    pub book: Arc<Mutex<Book>>,
    pub manners: Arc<Vec<Manner>>,
    pub bars: Vec<Bar>,
    pub launches: [Option<LaunchId>; 2],
    pub people: Vec<String>,
    /// Connections that were open when a life ended, summed up.
    pub orphans: usize,
    pub kills: u32,
    pub now: Timestamp,
    dice: fastrand::Rng,
    host_dice: Arc<Mutex<fastrand::Rng>>,
    fate: Arc<Fate>,
    ledger: MemoryLedger,
    zone: Zone,
    moved: Option<(Timestamp, Zone)>,
    down: Vec<(Domain, Timestamp)>,
    jumps: Vec<(Timestamp, i64)>,
    partitions: Arc<Vec<Partition>>,
    deeds: Vec<(Timestamp, Deed)>,
    faults: Vec<Fault>,
    /// When the queue began to wait for its disk.
    pub stalls: BTreeSet<Timestamp>,
}

/// The workspace of all runs: nobody writes into it.
fn workspace() -> &'static Workspace {
    static MADE: OnceLock<(tempfile::TempDir, Workspace)> = OnceLock::new();
    &MADE.get_or_init(make_workspace).1
}

fn make_workspace() -> (tempfile::TempDir, Workspace) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, mode) in CAMPAIGNS.iter().zip(["resend", "hold"]) {
        let campaign = at.join("campaigns").join(name);
        std::fs::create_dir_all(&campaign).unwrap();
        let text = format!(
            "subject = \"{name}\"\nfrom = \"News <news@example.com>\"\nlists = [\"news\"]\ntemplate = \"plain\"\n\
             missing = \"error\"\nin_doubt = \"{mode}\"\n"
        );
        std::fs::write(campaign.join("campaign.toml"), text).unwrap();
        std::fs::write(campaign.join("body.md"), "Hello {{email}}\n").unwrap();
    }
    std::fs::create_dir_all(at.join("templates")).unwrap();
    for name in ["plain.html", "plain.txt"] {
        std::fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name),
            at.join("templates").join(name),
        )
        .unwrap();
    }
    let site = |host: usize| {
        let (connections, rate) = limits(host);
        let rate = rate.map_or(String::new(), |rate| format!("shape.max_message_rate = \"{rate}/s\"\n"));
        format!(
            "[[site]]\nsite = \"h{host}.test\"\nshape.connection_limit = {connections}\n\
             shape.max_deliveries_per_connection = 8\nshape.connect_timeout = \"20s\"\nshape.banner_timeout = \"20s\"\n\
             shape.ehlo_timeout = \"20s\"\nshape.mail_from_timeout = \"20s\"\nshape.rcpt_to_timeout = \"20s\"\n\
             shape.data_timeout = \"20s\"\nshape.data_dot_timeout = \"30s\"\n{rate}"
        )
    };
    std::fs::write(at.join("shaping.toml"), (0..HOSTS).map(site).collect::<String>()).unwrap();
    let settings = "[sender]\npostal_address = \"Example Ltd, 1 High Street, Exampletown\"\n\
        [retry]\nfirst = \"20s\"\nlongest = \"60s\"\ngreylist = \"10s\"\nexpires = \"8m\"\n";
    std::fs::write(at.join("mailshot.toml"), settings).unwrap();
    let settings = Settings::load(&at.join("mailshot.toml"), std::iter::empty()).unwrap();
    let workspace = Workspace::with(at, settings);
    mailshot::sign::create_seal(&workspace.keys_folder()).unwrap();
    let domain = Domain::parse("example.com").unwrap();
    create_key(&workspace.keys_folder(), &domain, "e1", Algorithm::Ed25519).unwrap();
    (folder, workspace)
}

/// Connections and messages a second that a host's site allows.
fn limits(host: usize) -> (usize, Option<f64>) {
    (1 + host % 4, (host % 3 == 2).then_some(4.0))
}

/// What a host is like.
fn manner(host: usize, dice: &mut fastrand::Rng) -> Manner {
    let (connections_max, per_second) = limits(host);
    let mut some = |most: f64| if dice.u8(0..3) == 0 { dice.f64() * most } else { 0.0 };
    let mut manner = Manner {
        refuses: some(0.5),
        silent: some(0.2),
        overloaded: some(0.4),
        defers: some(0.5),
        knows_not: some(0.3),
        defers_dot: some(0.4),
        refuses_dot: some(0.3),
        dismisses: some(0.3),
        drops_before: some(0.4),
        drops_after: some(0.4),
        mute_after: some(0.3),
        slow: some(0.5),
        connections_max,
        per_second,
        ..Manner::default()
    };
    manner.pipelining = dice.bool();
    manner.chunking = dice.bool();
    manner.latency = Duration::from_millis(dice.u64(1..300));
    manner.greylists = dice.u8(0..4) == 0;
    manner.tls = match dice.u8(0..12) {
        0 => Some(TlsFault::Refuses),
        1 => Some(TlsFault::Leaves),
        2 => Some(TlsFault::Garbles),
        3 => Some(TlsFault::Silent),
        _ => None,
    };
    manner.most = (dice.u8(0..3) == 0).then(|| dice.u32(1..6));
    manner.leaves_silently = dice.bool();
    manner.slow_for = Duration::from_secs(dice.u64(2..60));
    manner.calm = dice.bool().then(|| START + Duration::from_secs(dice.u64(30..400)));
    manner
}

impl Run {
    pub fn new(seed: u64) -> Run {
        let mut dice = fastrand::Rng::with_seed(seed);
        let manners: Vec<Manner> = (0..dice.usize(2..=HOSTS)).map(|host| manner(host, &mut dice)).collect();
        let (mut zone, mut down) = (Zone::default(), Vec::new());
        let named = |text: String| Domain::parse(&text).unwrap();
        for host in 0..manners.len() {
            for (way, at) in ["mx1", "mx2"].iter().zip(addresses(host)) {
                zone = zone.address(&named(format!("{way}.h{host}.test")), at);
            }
        }
        let mut moved = (dice.u8(0..3) == 0).then(|| (START + Duration::from_secs(dice.u64(1..120)), zone.clone()));
        let domains = dice.usize(2..10);
        for number in 0..domains {
            let domain = named(format!("d{number}.test"));
            match dice.u8(0..20) {
                0 => zone = zone.mx(&domain, 0, None),
                1 => continue,
                2 => down.push((domain.clone(), START + Duration::from_secs(dice.u64(10..900)))),
                _ => {}
            }
            let host = dice.usize(0..manners.len());
            for way in 1..=dice.u16(1..=2) {
                zone = zone.mx(&domain, way * 10, Some(&named(format!("mx{way}.h{host}.test"))));
            }
            moved = moved.map(|(from, zone)| {
                let host = dice.usize(0..manners.len());
                (from, zone.mx(&domain, 10, Some(&named(format!("mx1.h{host}.test")))))
            });
        }
        let people: Vec<String> =
            (0..dice.usize(5..60)).map(|number| format!("p{number}@d{}.test", dice.usize(0..domains))).collect();
        let mut deeds = Vec::new();
        let at = |dice: &mut fastrand::Rng, most| START + Duration::from_millis(dice.u64(0..most));
        for _ in 0..dice.usize(0..6) {
            let who = dice.choice(&people).unwrap().clone();
            deeds.push((at(&mut dice, 120_000), Deed::Suppress(who)));
        }
        for _ in 0..dice.usize(0..3) {
            let (which, from) = (dice.usize(0..2), at(&mut dice, 60_000));
            deeds.push((from, Deed::Pause(which)));
            deeds.push((from + Duration::from_secs(dice.u64(1..100)), Deed::Resume(which)));
        }
        if dice.u8(0..6) == 0 {
            deeds.push((at(&mut dice, 60_000), Deed::Cancel(dice.usize(0..2))));
        }
        if dice.u8(0..3) == 0 {
            deeds.push((at(&mut dice, 120_000), Deed::Retry(dice.usize(0..2))));
        }
        let mut faults = Vec::new();
        for _ in 0..dice.usize(0..4).saturating_sub(1) {
            let from = at(&mut dice, 90_000) + Duration::from_secs(1);
            let until = from + Duration::from_millis(dice.u64(1..90_000));
            let whose = if dice.bool() { Whose::Queue { writes: dice.bool() } } else { Whose::Record };
            faults.push(Fault { from, until, whose });
        }
        let mut partitions = Vec::new();
        for _ in 0..dice.usize(0..4).saturating_sub(1) {
            let (from, some) = (at(&mut dice, 90_000), dice.u8(1..4));
            let until = from + Duration::from_millis(dice.u64(1..120_000));
            let hosts = (0..manners.len()).filter(|_| dice.u8(0..4) < some).collect();
            partitions.push(Partition { hosts, from, until });
        }
        let mut jumps = Vec::new();
        for _ in 0..dice.usize(0..5).saturating_sub(2) {
            jumps.push((at(&mut dice, 120_000), dice.i64(-900_000..240_000)));
        }
        deeds.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Run {
            store: Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap(),
            book: Arc::default(),
            manners: Arc::new(manners),
            bars: Vec::new(),
            launches: [None; 2],
            people,
            orphans: 0,
            kills: 0,
            now: START,
            host_dice: Arc::new(Mutex::new(dice.fork())),
            dice,
            fate: Arc::default(),
            ledger: MemoryLedger::default(),
            zone,
            moved,
            down,
            jumps,
            partitions: Arc::new(partitions),
            deeds,
            faults,
            stalls: BTreeSet::new(),
        }
    }

    /// A run of few people to hosts that lose answers, and nothing else.
    pub fn small() -> Run {
        let mut run = Run::new(SMALL);
        let calm = Manner { drops_after: 0.3, defers: 0.2, connections_max: 2, pipelining: true, ..Manner::default() };
        run.manners = Arc::new(vec![Manner { latency: Duration::from_millis(20), ..calm }; run.manners.len()]);
        run.people.truncate(SMALL_PEOPLE);
        (run.down, run.jumps, run.deeds, run.faults) = Default::default();
        (run.moved, run.partitions) = Default::default();
        run
    }

    /// Lives to the end, with a kill at one write; whether the kill came before the end.
    pub fn run_killed_at(&mut self, write: u64, loses_last: bool) -> bool {
        self.in_time(async |run, _| run.import().await);
        if self.live(write, Some(Ending::Kill { loses_last })) {
            return false;
        }
        self.kills += 1;
        assert!(self.live(0, None), "without an end it goes on until all is final");
        true
    }

    /// Lives until everything is final.
    pub fn run(&mut self) {
        self.in_time(async |run, _| run.import().await);
        for _ in 0..self.dice.u32(0..9) {
            let ending = match self.dice.u8(0..10) {
                0..7 => Ending::Kill { loses_last: self.dice.bool() },
                7..9 => Ending::Stop(Duration::from_secs(self.dice.u64(0..40))),
                _ => Ending::DiskFull,
            };
            let most = if self.dice.bool() { 40 } else { 400 };
            let ticks = self.dice.u64(1..most);
            if self.live(ticks, Some(ending)) {
                break;
            }
            self.kills += 1;
            self.now = self.now + Duration::from_millis(self.dice.u64(0..20_000));
        }
        while !self.live(0, None) {
            assert!(self.faults_hold(self.now), "without an end it goes on until all is final");
            self.now = self.now + AFTER_FAULT;
        }
    }

    /// Whether a disk is in trouble; a start is refused then.
    fn faults_hold(&self, now: Timestamp) -> bool {
        self.faults.iter().any(|fault| fault.holds(now))
    }

    /// The record's disk as it is now.
    fn set_record(&self, now: Timestamp) {
        let fails = self.faults.iter().any(|fault| fault.whose == Whose::Record && fault.holds(now));
        self.store.refuse_writes(fails).unwrap();
    }

    /// One life; whether everything is final.
    fn live(&mut self, ticks: u64, ending: Option<Ending>) -> bool {
        self.fate.set(ticks, ending);
        self.book.lock().unwrap().life += 1;
        self.in_time(async |run, clock| run.work(clock).await)
    }

    /// Does something in a runtime of its own, whose time goes on where the last one ended. All that is at work in it ends
    /// with it, at once.
    fn in_time<T>(&mut self, work: impl AsyncFnOnce(&mut Run, Arc<SimulatedClock>) -> T) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // the kill comes right after the write it was set for
        let runtime = runtime.enable_time().start_paused(true).event_interval(1).build().unwrap();
        let done = runtime.block_on(async {
            let clock = Arc::new(SimulatedClock::starting(self.now));
            let done = work(self, clock.clone()).await;
            self.now = clock.now();
            done
        });
        self.orphans += self.book.lock().unwrap().connections();
        drop(runtime);
        assert_eq!(self.book.lock().unwrap().connections(), 0);
        done
    }

    async fn import(&mut self) {
        let list = self.store.make_list("news".to_owned(), START).await.unwrap();
        let import = self.store.begin_import("people.csv".into(), list, None, START).await.unwrap();
        let person = |address: &String| {
            let address = Address::parse(address).unwrap();
            let bucket = bucket(address.domain());
            NewContact { address, name: String::new(), fields: Default::default(), bucket }
        };
        let batch: Vec<NewContact> = self.people.iter().map(person).collect();
        self.store.import_batch(batch, list, import, OnConflict::Fill, START).await.unwrap();
    }

    fn world(&mut self, clock: &Arc<SimulatedClock>) -> World {
        let hosts = Hosts {
            manners: self.manners.clone(),
            book: self.book.clone(),
            dice: self.host_dice.clone(),
            clock: clock.clone(),
            fate: self.fate.clone(),
            partitions: self.partitions.clone(),
        };
        let (zone, moved, down) = (self.zone.clone(), self.moved.clone(), self.down.clone());
        let names = Names { zone, moved, down, clock: clock.clone() };
        World {
            clock: Arc::new(Set { clock: clock.clone(), jumps: self.jumps.clone() }),
            dns: Arc::new(names),
            net: Arc::new(hosts),
            dice: Arc::new(SeededDice::new(self.dice.u64(..))),
        }
    }

    /// One life; whether everything is final.
    async fn work(&mut self, clock: Arc<SimulatedClock>) -> bool {
        let fate = self.fate.clone();
        let parts = Parts {
            workspace: workspace().clone(),
            world: self.world(&clock),
            store: self.store.clone(),
            threads: Threads::Inline,
            place: QueuePlace::default(),
            crew: Crew::Sending,
        };
        let (faults, clocked) = (self.faults.clone(), clock.clone());
        let ledger = Mortal { ledger: self.ledger.clone(), fate: fate.clone(), faults, clock: clocked };
        self.set_record(clock.now());
        let started = tokio::select! {
            biased;
            () = fate.killed() => return false,
            started = Engine::start(parts, ledger) => started,
        };
        let engine = match started {
            Ok(engine) => engine,
            Err(error) => {
                assert!(fate.ending().is_some() || self.faults_hold(clock.now()), "{error}");
                return false;
            }
        };
        let done = tokio::select! {
            biased;
            () = fate.killed() => return false,
            done = self.direct(engine.handle(), &clock) => done,
        };
        match fate.ending() {
            Some(Ending::Stop(grace)) if !done => {
                self.orphans += self.book.lock().unwrap().connections();
                engine.stop(grace).await;
            }
            Some(_) if !done => {}
            Some(_) | None => engine.stop(Duration::from_secs(60)).await,
        }
        done
    }

    /// Launches both campaigns, does what is to be done meanwhile, and watches until all is final or the life is to end.
    async fn direct(&mut self, handle: Handle, clock: &SimulatedClock) -> bool {
        for (which, name) in CAMPAIGNS.iter().enumerate() {
            let id = self.launch(name, clock.now()).await;
            self.launches[which] = Some(id);
            handle.take_up(id);
        }
        let fate = self.fate.clone();
        loop {
            match fate.ending() {
                Some(Ending::Stop(_)) => return false,
                Some(Ending::DiskFull) => {
                    sleep(Duration::from_secs(30)).await;
                    return false;
                }
                Some(Ending::Kill { .. }) | None => {}
            }
            let now = clock.now();
            self.set_record(now);
            if let Some(stall) = handle.queue().stall() {
                self.stalls.insert(stall.since);
            }
            while self.deeds.last().is_some_and(|(at, _)| *at <= now) {
                let (_, deed) = self.deeds.pop().expect("was just looked at");
                self.carry_out(deed, &handle, clock).await;
            }
            if checkers::is_over(self, &handle) {
                return true;
            }
            if now.since(START) > PATIENCE {
                panic!("{}", checkers::stuck(self, &handle).await);
            }
            let next = self.deeds.last().map_or(LOOK, |(at, _)| at.since(now).min(LOOK));
            let turns = self.faults.iter().flat_map(|fault| [fault.from, fault.until]).filter(|turn| *turn > now);
            let next = turns.map(|turn| turn.since(now)).fold(next, Duration::min);
            tokio::select! {
                biased;
                () = fate.over() => {}
                error = handle.failed(), if fate.ending().is_none() => {
                    assert!(fate.ending().is_some(), "the engine stopped by itself: {error}");
                }
                () = sleep(next) => {}
            }
        }
    }

    async fn launch(&self, name: &str, now: Timestamp) -> LaunchId {
        let name = CampaignName::parse(name).unwrap();
        if let Some(launch) = self.store.launch_of(&name).unwrap() {
            return launch.id;
        }
        let ready = Ready::check(workspace(), &self.store, &name, &LaunchOptions::default()).unwrap();
        ready.launch(&self.store, now).await.unwrap().id
    }

    /// Does it; a disk in trouble is told to whoever asked, and they ask again later.
    async fn carry_out(&mut self, deed: Deed, handle: &Handle, clock: &SimulatedClock) {
        let launch = |which: usize| self.launches[which].expect("both are launched");
        let done = match &deed {
            Deed::Pause(which) => handle.pause(launch(*which)).await,
            Deed::Resume(which) => handle.resume(launch(*which)).await,
            Deed::Cancel(which) => handle.cancel(launch(*which)).await,
            Deed::Retry(which) => handle.retry(launch(*which)).await,
            Deed::Suppress(address) => {
                let (reason, since) = (Reason::Complaint, clock.now());
                let row = SuppressionRow { address: address.clone(), reason, detail: String::new(), since };
                let done = self.store.suppress(vec![row]).await;
                if done.is_ok() {
                    self.bars.push(Bar { address: address.clone(), at: clock.now() });
                }
                done.map(|rows| rows as u64).map_err(EngineError::from)
            }
        };
        match done {
            // a campaign that is done or cancelled refuses
            Ok(_) | Err(EngineError::State { .. }) => {}
            Err(EngineError::Store(_) | EngineError::Waits(_) | EngineError::Queue(_)) => {
                // what was to be done after it still is
                let later = clock.now() + AFTER_FAULT;
                self.deeds.iter_mut().for_each(|(at, _)| *at = later.max(*at));
                self.deeds.push((later, deed));
            }
            Err(other) => panic!("{other}"),
        }
    }
}
