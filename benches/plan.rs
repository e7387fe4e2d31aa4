//! What a launch costs until its last copy waits in the queue: people read and recorded in the store, admitted to the ledger
//! on disk, nothing sent. Run with `cargo bench --bench plan`.

use std::time::Duration;

use divan::counter::ItemsCount;
use mailshot::base::{Address, CampaignName, LaunchId, Timestamp, bucket};
use mailshot::engine::{Crew, Engine, Parts, Ready, SAMPLE_CAMPAIGN, Workspace, place};
use mailshot::queue::{Durability, SledLedger};
use mailshot::store::{LaunchOptions, NewContact, OnConflict, Store, Threads};
use mailshot::world::{World, machine_clock};

/// People imported in one batch.
const BATCH: u32 = 50_000;

fn main() {
    divan::main();
}

/// A workspace with a launch on record that nobody has planned yet.
struct Desk {
    _folder: tempfile::TempDir,
    workspace: Workspace,
    store: Store,
    launch: LaunchId,
}

#[divan::bench(args = [100_000, 1_000_000], sample_count = 3, sample_size = 1)]
fn plan(bencher: divan::Bencher, people: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    bencher
        .counter(ItemsCount::new(people))
        .with_inputs(|| runtime.block_on(Desk::with(people)))
        .bench_local_values(|desk| runtime.block_on(desk.plan(people)));
}

impl Desk {
    async fn with(people: u32) -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Workspace::create(folder.path()).expect("a workspace").workspace.settings().clone();
        // room for everybody: here nothing leaves the queue
        settings.queue.max_waiting = people * 64;
        settings.allow_private = true;
        let workspace = Workspace::with(folder.path(), settings);
        let store = workspace.store(Threads::Own).expect("a record");
        let now = Timestamp::from_ms(0);
        let list = store.make_list("news".to_owned(), now).await.expect("a list");
        let import = store.begin_import("people.csv".into(), list, None, now).await.expect("an import");
        for first in (0..people).step_by(BATCH as usize) {
            let batch = (first..people.min(first + BATCH)).map(person).collect();
            store.import_batch(batch, list, import, OnConflict::Fill, now).await.expect("people on record");
        }
        let campaign = CampaignName::parse(SAMPLE_CAMPAIGN).expect("a name");
        let ready = Ready::check(&workspace, &store, &campaign, &LaunchOptions::default()).expect("a sound campaign");
        let launch = ready.launch(&store, machine_clock().now()).await.expect("a launch on record").id;
        Desk { _folder: folder, workspace, store, launch }
    }

    /// Plans everybody; gives the workspace back, so that removing it is not measured.
    async fn plan(self, people: u32) -> Desk {
        let folder = self.workspace.queue_folder();
        let cache_mb = self.workspace.settings().queue.cache_mb;
        let ledger = SledLedger::open(&folder, cache_mb, Durability::Synced).expect("a ledger");
        let parts = Parts {
            workspace: self.workspace.clone(),
            world: World::real(self.workspace.settings().name_service()).expect("the world"),
            store: self.store.clone(),
            threads: Threads::Own,
            place: place(&folder),
            crew: Crew::Planning,
        };
        let engine = Engine::start(parts, ledger).await.expect("an engine");
        while !self.store.launch(self.launch).expect("the record").is_some_and(|launch| launch.planned) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(engine.handle().depth().waiting, u64::from(people));
        engine.stop(Duration::ZERO).await;
        self
    }
}

/// Half of them at a handful of providers, the others over 5 000 domains.
fn person(number: u32) -> NewContact {
    let text = match number % 10 {
        0..=2 => format!("p{number}@gmail.com"),
        3 => format!("p{number}@outlook.com"),
        4 => format!("p{number}@gmx.de"),
        _ => format!("p{number}@firm{}.example", number.wrapping_mul(2_654_435_761) % 5000),
    };
    let address = Address::parse(&text).expect("a sound address");
    let bucket = bucket(address.domain());
    NewContact { address, name: "Pat".into(), fields: serde_json::Map::new(), bucket }
}
