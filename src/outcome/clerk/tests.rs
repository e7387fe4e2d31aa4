//! The clerk between a queue in memory and a store in memory: every outcome exactly once, whatever happens between.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::base::{CampaignName, ContactId, Domain, EditionId, LaunchId, Timestamp};
use crate::mail::{Class, Envelope, InDoubt, Stage, Standing};
use crate::queue::{Admission, MemoryLedger, Next, Opening};
use crate::store::{Figure, LaunchKind, LaunchOptions, NewContact, NewLaunch, OnConflict, PlannedRow, Threads};
use crate::world::{Clock, SimulatedClock};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

/// A queue, a store, and one launch to a number of people.
struct Office {
    clock: Arc<SimulatedClock>,
    ledger: MemoryLedger,
    store: Store,
    launch: LaunchId,
    people: u32,
}

/// What becomes of a copy at one attempt.
#[derive(Debug, Clone, Copy)]
struct Fate {
    state: Standing,
    class: Class,
    stage: Stage,
}

const DELIVERED: Fate = Fate { state: Standing::Delivered, class: Class::Delivered, stage: Stage::Body };
const GREYLISTED: Fate = Fate { state: Standing::Deferred, class: Class::SoftGreylist, stage: Stage::To };
const UNKNOWN: Fate = Fate { state: Standing::Failed, class: Class::HardUnknownUser, stage: Stage::To };
const IN_DOUBT: Fate = Fate { state: Standing::InDoubt, class: Class::SoftSystem, stage: Stage::Body };
const BLOCKED: Fate = Fate { state: Standing::Failed, class: Class::BlockIp, stage: Stage::To };

impl Office {
    /// A bounce for a copy comes in.
    async fn bounce(&self, copy: EnvelopeId) {
        let bounce = store::LateBounce {
            copy,
            class: Class::HardUnknownUser,
            code: Some(550),
            enhanced: None,
            text: "gone".into(),
            at: self.clock.now(),
        };
        self.store.bounced_late(bounce, Arc::new(Policy::default())).await.unwrap();
    }

    /// Plans and admits one copy for each of `people`.
    async fn open(people: u32) -> Office {
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let list = store.make_list("news".into(), START).await.unwrap();
        let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
        let contact = |number: u32| NewContact {
            address: crate::base::Address::parse(&format!("p{number}@{}", domain_of(number))).unwrap(),
            name: String::new(),
            fields: serde_json::Map::new(),
            bucket: 0,
        };
        let contacts = (1..=people).map(contact).collect();
        store.import_batch(contacts, list, import, OnConflict::Fill, START).await.unwrap();
        let mut office = Office {
            clock: Arc::new(SimulatedClock::starting(START)),
            ledger: MemoryLedger::default(),
            store,
            launch: LaunchId(0),
            people,
        };
        office.launch = office.launch("welcome").await;
        office
    }

    /// Plans and admits one copy for everybody, under a launch of its own.
    async fn launch(&self, campaign: &str) -> LaunchId {
        let campaign = CampaignName::parse(campaign).unwrap();
        let edition = self.store.put_edition([1; 32], &campaign, b"{}".to_vec(), START).await.unwrap();
        let new = NewLaunch {
            campaign,
            kind: LaunchKind::Campaign,
            edition,
            in_doubt: InDoubt::Resend,
            options: LaunchOptions::default(),
            lists: vec![],
        };
        let launch = self.store.create_launch(new, START).await.unwrap();
        let row = |number| PlannedRow {
            contact: ContactId(number),
            standing: Standing::Waiting,
            barred: None,
            site: domain_of(number).as_str().into(),
        };
        self.store.record_batch(launch, 0, (1..=self.people).map(row).collect(), START).await.unwrap();
        launch
    }

    /// A queue on what the ledger holds, as after a restart; its keeper works on this runtime.
    fn queue(&self) -> Queue {
        let opening = Opening {
            clock: self.clock.clone(),
            last_outcome: self.store.last_outcome().unwrap(),
            in_doubt: Box::new(|_| InDoubt::Resend),
            bucket: |_| 0,
            held: BTreeSet::new(),
        };
        let (queue, keeper) = Queue::open(self.ledger.clone(), opening).unwrap();
        tokio::spawn(keeper.run());
        queue
    }

    async fn admit(&self, queue: &Queue, launch: LaunchId) {
        let copies = (1..=self.people).map(|number| {
            let due = self.clock.now();
            let envelope = Envelope::new(
                EnvelopeId::new(launch, ContactId(number)),
                EditionId(1),
                due,
                due + Duration::from_secs(86_400),
            );
            (domain_of(number), envelope)
        });
        let admission = Admission { launch, bucket: 0, cursor: vec![], copies: copies.collect() };
        queue.admit(admission).await.unwrap();
    }

    /// Attempts every copy that is due once, with the fate of its contact.
    async fn attempt_all(&self, queue: &Queue, fate: impl Fn(ContactId) -> Fate) {
        for _ in 0..DOMAINS {
            let claim = tokio::time::timeout(Duration::from_millis(1), queue.claim()).await;
            let Ok(Ok(queue::Claimed { domain, .. })) = claim else { return };
            loop {
                let leases = queue.lease(&domain, 20).await.unwrap();
                if leases.is_empty() {
                    break;
                }
                let settle = |mut lease: queue::Lease| {
                    let fate = fate(lease.envelope.id.contact());
                    lease.envelope.tries += 1;
                    let outcome = self.outcome(&lease, fate);
                    let next = match fate.state {
                        Standing::Deferred => Next::Again((self.clock.now() + Duration::from_secs(900)).into()),
                        _ => Next::Gone,
                    };
                    lease.settle(outcome, next)
                };
                queue.settle(leases.into_iter().map(settle).collect()).await.unwrap();
            }
        }
    }

    fn outcome(&self, lease: &queue::Lease, fate: Fate) -> Outcome {
        Outcome {
            envelope: lease.envelope.id,
            state: fate.state,
            class: fate.class,
            code: Some(550),
            enhanced: None,
            stage: Some(fate.stage),
            text: "so it is".into(),
            host: None,
            site: Some("example".into()),
            channel: None,
            tries: lease.envelope.tries,
            doubtful: lease.envelope.doubtful,
            at: self.clock.now(),
        }
    }

    fn clerk(&self, queue: &Queue) -> Clerk {
        Clerk::new(queue.clone(), self.store.clone(), Policy::default())
    }

    /// Lets a clerk work until all is copied.
    async fn copy_all(&self, queue: &Queue) {
        let stop = CancellationToken::new();
        stop.cancel();
        self.clerk(queue).run(stop).await;
    }

    fn count(&self, standing: Standing) -> u64 {
        let of = |figure: &&Figure| figure.standing == standing;
        self.store.figures(self.launch).unwrap().iter().filter(of).map(|figure| figure.copies).sum()
    }

    /// Asserts that the figures are what counting the copies gives, and that nobody is missing.
    fn check_figures(&self) {
        let rows = self.store.copies(self.launch, ContactId(0), 10_000).unwrap();
        assert_eq!(rows.len() as u64, u64::from(self.people));
        let figures = self.store.figures(self.launch).unwrap();
        for figure in &figures {
            let of = |row: &&store::CopyRow| {
                (&*row.site, row.standing, row.class, row.late)
                    == (&*figure.site, figure.standing, figure.class, figure.late)
            };
            let copies: Vec<_> = rows.iter().filter(of).collect();
            assert_eq!(figure.copies, copies.len() as u64, "{figure:?}");
            assert_eq!(figure.tries, copies.iter().map(|row| u64::from(row.tries)).sum::<u64>(), "{figure:?}");
            assert_eq!(figure.again, copies.iter().map(|row| u64::from(row.again)).sum::<u64>());
        }
        assert_eq!(figures.iter().map(|figure| figure.copies).sum::<u64>(), u64::from(self.people));
    }

    fn suppressed(&self) -> usize {
        self.store.suppressions("", 10_000).unwrap().len()
    }
}

const DOMAINS: u32 = 7;

fn domain_of(number: u32) -> Domain {
    Domain::parse(&format!("d{}.example", number % DOMAINS)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn outcomes_come_to_the_store_and_leave_the_queue() {
    let office = Office::open(500).await;
    let queue = office.queue();
    office.admit(&queue, office.launch).await;
    let fate = |contact: ContactId| if contact.0.is_multiple_of(10) { UNKNOWN } else { DELIVERED };
    office.attempt_all(&queue, fate).await;
    let stop = CancellationToken::new();
    let working = tokio::spawn(office.clerk(&queue).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((office.count(Standing::Delivered), office.count(Standing::Failed)), (450, 50));
    assert_eq!(office.suppressed(), 50);
    assert_eq!(office.store.last_outcome(), Ok(queue.depth().last_outcome));
    stop.cancel();
    working.await.unwrap();
    office.check_figures();
}

#[tokio::test(start_paused = true)]
async fn a_clerk_that_dies_before_it_clears_counts_nothing_twice() {
    let office = Office::open(100).await;
    let queue = office.queue();
    office.admit(&queue, office.launch).await;
    office.attempt_all(&queue, |_| GREYLISTED).await;
    // what a clerk does before it dies: the store has it, the outbox still holds it
    let (number, outcomes) = queue.outbox(BATCH).await.unwrap();
    office.store.settle(number, outcomes, Arc::new(Policy::default())).await.unwrap();
    drop(queue);
    // a bounce comes in for one of them meanwhile: the old outcome must not undo it
    office.bounce(EnvelopeId::new(office.launch, ContactId(1))).await;
    let queue = office.queue();
    office.copy_all(&queue).await;
    let row = office.store.copy(EnvelopeId::new(office.launch, ContactId(1))).unwrap().unwrap();
    assert_eq!((row.class, row.late), (Some(Class::HardUnknownUser), true));
    assert!(tokio::time::timeout(Duration::from_secs(9), queue.outbox(1)).await.is_err(), "the outbox is empty");
    tokio::time::sleep(Duration::from_secs(900)).await;
    office.attempt_all(&queue, |_| DELIVERED).await;
    office.copy_all(&queue).await;
    assert_eq!((office.count(Standing::Delivered), office.count(Standing::Failed)), (99, 1));
    office.check_figures();
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_bounced_while_it_was_to_be_sent_again_ends_as_bounced_not_in_doubt() {
    let office = Office::open(1).await;
    let queue = office.queue();
    office.admit(&queue, office.launch).await;
    office.attempt_all(&queue, |_| Fate { state: Standing::Deferred, ..IN_DOUBT }).await;
    office.copy_all(&queue).await;
    let copy = EnvelopeId::new(office.launch, ContactId(1));
    office.bounce(copy).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    office.attempt_all(&queue, |_| IN_DOUBT).await;
    office.copy_all(&queue).await;
    let row = office.store.copy(copy).unwrap().unwrap();
    assert_eq!((row.standing, row.late, row.class), (Standing::Failed, true, Some(Class::HardUnknownUser)));
    office.check_figures();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_blocked_recipients_are_a_thousand_recipients_kept() {
    let office = Office::open(1000).await;
    let queue = office.queue();
    office.admit(&queue, office.launch).await;
    office.attempt_all(&queue, |_| BLOCKED).await;
    office.copy_all(&queue).await;
    assert_eq!((office.count(Standing::Failed), office.suppressed()), (1000, 0));
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_store_is_waited_out_with_growing_pauses() {
    let locked = || store::Error::Locked("a.db".into());
    let mut progress = Progress::default();
    let pauses: Vec<Order> = (0..9)
        .map(|_| {
            let pause = progress.handle(Event::Recorded(1, Err(locked())), 1);
            assert_eq!(progress.handle(Event::Rested, 1), Order::Compare, "the store knows best what it has");
            pause
        })
        .collect();
    assert_eq!(pauses[0], Order::Pause(PAUSE_MIN));
    assert_eq!(pauses[3], Order::Pause(PAUSE_MIN * 8));
    assert_eq!(pauses[8], Order::Pause(PAUSE_MAX));
    assert_eq!(progress.handle(Event::Stop, 1), Order::Compare);
    assert_eq!(progress.handle(Event::Compared(Err(locked())), 1), Order::End, "what is left is safe in the queue");
    assert_eq!(progress.handle(Event::Compared(Ok(1)), 1), Order::Clear(1));
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_recorded_once_the_record_can_be_written_again() {
    let office = Office::open(3).await;
    let queue = office.queue();
    office.admit(&queue, office.launch).await;
    office.attempt_all(&queue, |_| DELIVERED).await;
    office.store.refuse_writes(true).unwrap();
    let stop = CancellationToken::new();
    let working = tokio::spawn(office.clerk(&queue).run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(office.count(Standing::Delivered), 0);
    office.store.refuse_writes(false).unwrap();
    tokio::time::sleep(PAUSE_MAX).await;
    assert_eq!(office.count(Standing::Delivered), 3);
    stop.cancel();
    working.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clerk_ends_with_its_queue() {
    let office = Office::open(1).await;
    let queue = office.queue();
    office.ledger.fail_after(Some(0));
    queue.hurry();
    let learned = queue.learn(crate::base::SourceId(0), "x", vec![]).await;
    assert!(learned.is_err());
    office.clerk(&queue).run(CancellationToken::new()).await;
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        Just(DELIVERED),
        Just(GREYLISTED),
        Just(UNKNOWN),
        Just(BLOCKED),
        Just(Fate { state: Standing::Barred, class: Class::Unsubscribe, stage: Stage::From }),
        Just(Fate { state: Standing::Cancelled, class: Class::Undetermined, stage: Stage::Route }),
        Just(Fate { state: Standing::InDoubt, class: Class::SoftSystem, stage: Stage::Body }),
    ];
    prop::collection::vec(fate, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_figures_add_up_after_any_course_of_events(
        rounds in prop::collection::vec(fates(), 1..4),
        bounced in prop::collection::vec(1u32..30, 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let office = Office::open(30).await;
            let queue = office.queue();
            office.admit(&queue, office.launch).await;
            for fates in rounds {
                office.attempt_all(&queue, |contact| fates[contact.0 as usize % fates.len()]).await;
                office.copy_all(&queue).await;
                for contact in &bounced {
                    let bounce = store::LateBounce {
                        copy: EnvelopeId::new(office.launch, ContactId(*contact)),
                        class: Class::SoftQuota,
                        code: None,
                        enhanced: None,
                        text: "full".into(),
                        at: office.clock.now(),
                    };
                    office.store.bounced_late(bounce, Arc::new(Policy::default())).await.unwrap();
                }
                office.check_figures();
                tokio::time::sleep(Duration::from_secs(900)).await;
            }
        });
    }
}
