//! Bounded memory where nothing moves: a campaign to many domains whose hosts all keep silent, for six
//! hours of simulated time. Every other one takes a connection and never says a word, the rest never answer a dial. The
//! process is no larger at the end than after the first hour. `cargo test --release --test bounded -- --nocapture` asks
//! 1 000 000 people at 50 000 domains, `MAILSHOT_SOAK_SILENT=n` any number.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use mailshot::base::{Address, CampaignName, Domain, LaunchId, Timestamp, bucket};
use mailshot::engine::{Crew, Engine, Parts, Ready, SAMPLE_CAMPAIGN, Workspace};
use mailshot::mail::Standing;
use mailshot::queue::{Durability, SledLedger};
use mailshot::store::{LaunchOptions, NewContact, OnConflict, QueuePlace, Store, Threads};
use mailshot::world::{Answer, Dns, DnsError, Mx, Net, SeededDice, SimulatedClock, Stream, Tlsa, World};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// People of a plain `cargo test`; unoptimised, fewer.
const PEOPLE: u64 = if cfg!(debug_assertions) { 2_000 } else { 1_000_000 };
/// People at each domain.
const PER_DOMAIN: u64 = 20;
/// People imported in one batch.
const BATCH: u64 = 10_000;
const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
/// When the size is taken to compare with: every site has been tried by then.
const EARLY: Duration = HOUR;
const END: Duration = Duration::from_secs(6 * 3600);
/// What the process may have grown since: what allocators keep, and sites that were not yet reached in the first hour.
const SLACK_MB: u64 = 16;

/// Names and hosts that are computed, so that the world itself takes no memory.
#[derive(Default)]
struct Silence {
    dialled: AtomicU64,
    open: Arc<AtomicU64>,
    most: AtomicU64,
}

fn domain(number: u64) -> Domain {
    Domain::parse(&format!("d{number}.example")).unwrap()
}

fn answer<T: Send + 'static>(records: Vec<T>) -> BoxFuture<'static, Result<Answer<T>, DnsError>> {
    future::ready(Ok(Answer { records, ttl: HOUR, secure: false })).boxed()
}

fn nothing<T: Send + 'static>(name: &str) -> BoxFuture<'static, Result<Answer<T>, DnsError>> {
    let name = Domain::parse(name).unwrap_or_else(|_| domain(0));
    future::ready(Err(DnsError::NoRecords { name, ttl: HOUR })).boxed()
}

impl Dns for Silence {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        answer(vec![Mx { preference: 10, target: Some(domain.clone()) }])
    }

    fn addresses(&self, host: &Domain, _: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>> {
        let number: u32 = host.as_str().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        answer(vec![IpAddr::from(Ipv4Addr::from_bits(u32::from_be_bytes([5, 0, 0, 0]) + number))])
    }

    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        nothing(name)
    }

    fn pointer(&self, _: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        nothing("arpa")
    }

    fn tlsa(&self, host: &Domain, _: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        nothing(host.as_str())
    }
}

impl Net for Silence {
    fn dial(&self, _: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        let IpAddr::V4(address) = to.ip() else { unreachable!("only IPv4 is known here") };
        if address.to_bits() % 2 == 0 {
            return future::pending().boxed();
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(open, Ordering::Relaxed);
        future::ready(Ok(Box::new(Mute(self.open.clone())) as Box<dyn Stream>)).boxed()
    }
}

/// A connection on which nothing is ever said.
struct Mute(Arc<AtomicU64>);

impl AsyncRead for Mute {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Mute {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What of the process is in memory.
fn rss_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    (pages * 4096) >> 20
}

async fn import(store: &Store, people: u64) {
    let list = store.make_list("news".to_owned(), START).await.unwrap();
    let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
    for first in (0..people).step_by(BATCH as usize) {
        let person = |number: u64| {
            let address = format!("p{number}@{}", domain(number % people.div_ceil(PER_DOMAIN)));
            let address = Address::parse(&address).unwrap();
            let bucket = bucket(address.domain());
            NewContact { address, name: String::new(), fields: Default::default(), bucket }
        };
        let batch = (first..people.min(first + BATCH)).map(person).collect();
        store.import_batch(batch, list, import, OnConflict::Fill, START).await.unwrap();
    }
}

async fn launch(workspace: &Workspace, store: &Store) -> LaunchId {
    let name = CampaignName::parse(SAMPLE_CAMPAIGN).unwrap();
    let ready = Ready::check(workspace, store, &name, &LaunchOptions::default()).unwrap();
    ready.launch(store, START).await.unwrap().id
}

#[test]
fn hours_of_silence_everywhere_take_no_more_memory_than_the_first() {
    let people = std::env::var("MAILSHOT_SOAK_SILENT").map_or(PEOPLE, |text| text.parse().expect("a number of people"));
    let folder = tempfile::tempdir().unwrap();
    let workspace = Workspace::create(folder.path()).unwrap().workspace;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store = workspace.store(Threads::Inline).unwrap();
        import(&store, people).await;
        let launch = launch(&workspace, &store).await;
        let net = Arc::new(Silence::default());
        let world = World {
            clock: Arc::new(SimulatedClock::starting(START)),
            dns: net.clone(),
            net: net.clone(),
            dice: Arc::new(SeededDice::new(1)),
        };
        let ledger = SledLedger::open(&workspace.queue_folder(), 16, Durability::Unsynced).unwrap();
        let (crew, place) = (Crew::Sending, QueuePlace::default());
        let parts =
            Parts { workspace: workspace.clone(), world, store: store.clone(), threads: Threads::Inline, place, crew };
        let engine = Engine::start(parts, ledger).await.unwrap();
        engine.handle().take_up(launch);
        let (mut early, mut most) = (0, 0);
        for hour in 1..=END.as_secs() / HOUR.as_secs() {
            sleep(HOUR).await;
            let size = rss_mb();
            if HOUR * hour as u32 <= EARLY {
                early = size;
            }
            most = most.max(size);
            println!(
                "hour {hour}: {size} MB, {} waiting, {} dialled so far, at most {} connections at once",
                engine.handle().depth().waiting,
                net.dialled.load(Ordering::Relaxed),
                net.most.load(Ordering::Relaxed)
            );
        }
        let figures = store.figures(launch).unwrap();
        let delivered = figures.iter().filter(|figure| figure.standing == Standing::Delivered).count();
        assert_eq!(delivered, 0, "nobody said yes");
        assert!(net.dialled.load(Ordering::Relaxed) > 0 && engine.handle().depth().waiting > 0);
        assert!(most <= early + SLACK_MB, "the process grew from {early} to {most} MB");
        engine.stop(Duration::ZERO).await;
    });
}
