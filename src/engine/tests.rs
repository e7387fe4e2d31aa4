//! The engine over a simulated world, on a real record in memory and the queue's twin in memory.

mod moves;
mod rebuilds;

use std::path::Path;

use serde_json::Map;

use super::*;
use crate::base::{Address, SourceId, Timestamp};
use crate::config::Settings;
use crate::mail::{Class, NoticeKind, Outcome, Standing};
use crate::queue::{Admission, Claimed, Lease, MemoryLedger, Next, Settlement};
use crate::store::{LaunchOptions, NewContact, OnConflict};
use crate::world::{NetTable, Zone};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// A workspace with the sample campaign and its list.
struct Desk {
    _folder: tempfile::TempDir,
    workspace: Workspace,
    store: Store,
    ledger: MemoryLedger,
    world: World,
}

impl Desk {
    /// With `people` subscribers over ten domains.
    async fn with(people: u32) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let made = Workspace::create(folder.path()).unwrap();
        let mut settings: Settings = made.workspace.settings().clone();
        settings.queue.max_waiting = 6400;
        settings.allow_private = true;
        let workspace = Workspace::with(folder.path(), settings);
        let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap();
        let list = store.make_list("news".to_owned(), START).await.unwrap();
        let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
        let batch = (0..people).map(|number| person(&format!("p{number}@d{}.example", number % 10))).collect();
        store.import_batch(batch, list, import, OnConflict::Fill, START).await.unwrap();
        let world = World::simulated(START, Zone::default(), NetTable::default(), 1);
        Desk { _folder: folder, workspace, store, ledger: MemoryLedger::default(), world }
    }

    async fn start(&self, ledger: MemoryLedger, place: u64) -> Result<Engine, Error> {
        self.start_as(Crew::Planning, ledger, place).await
    }

    async fn start_as(&self, crew: Crew, ledger: MemoryLedger, place: u64) -> Result<Engine, Error> {
        let parts = Parts {
            workspace: self.workspace.clone(),
            world: self.world.clone(),
            store: self.store.clone(),
            threads: Threads::Inline,
            place: QueuePlace { folder: place, ..QueuePlace::default() },
            crew,
        };
        Engine::start(parts, ledger).await
    }

    fn ready(&self, options: &LaunchOptions) -> Result<Ready, LaunchError> {
        Ready::check(&self.workspace, &self.store, &campaign(), options)
    }

    async fn launch(&self, options: &LaunchOptions) -> LaunchRow {
        self.ready(options).unwrap().launch(&self.store, START).await.unwrap()
    }

    /// Test copies to these.
    async fn launch_test(&self, to: &[Address]) -> Result<LaunchRow, LaunchError> {
        let ready = Ready::check_test(&self.workspace, &campaign(), to.to_vec(), None)?;
        ready.examine(&self.workspace, &self.world).await?;
        ready.launch(&self.store, START).await
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_launches_what_somebody_has_just_launched_goes_on_with_that_or_is_told_why_not() {
    let desk = Desk::with(3).await;
    let options = |limit| LaunchOptions { limit, ..LaunchOptions::default() };
    let [first, same, other] = [None, None, Some(1)].map(|limit| desk.ready(&options(limit)).unwrap());
    let launch = first.launch(&desk.store, START).await.unwrap();
    assert_eq!(same.launch(&desk.store, START).await.unwrap(), launch);
    let told = other.launch(&desk.store, START).await.unwrap_err();
    assert!(matches!(told, LaunchError::Differs { option: "--limit", .. }), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_launch_waits_for_its_start_and_is_cancelled_at_its_deadline() {
    let desk = Desk::with(30).await;
    let seconds = |count| START + Duration::from_secs(count);
    let file = desk.workspace.folder().join("campaigns").join(SAMPLE_CAMPAIGN).join("campaign.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (start, deadline) = (seconds(60), seconds(90));
    let lists = "lists = [\"news\"]\n";
    let text = text.replace(lists, &format!("{lists}start_at = {start}\ndeadline = {deadline}\n"));
    std::fs::write(&file, text).unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await;
    assert_eq!((launch.options.start_at, launch.options.deadline), (Some(start), Some(deadline)));

    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let handle = engine.handle();
    let _warden = start_warden(&handle, Default::default());
    handle.take_up(launch.id);
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(handle.depth().waiting, 30);
    assert!(send(handle.queue(), |_| Standing::Delivered).await.is_empty(), "a second too soon");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = |contact| if contact % 3 == 0 { Standing::Deferred } else { Standing::Delivered };
    assert_eq!(send(handle.queue(), answer).await.len(), 30);
    assert_eq!(handle.settled(launch.id, Wait::All).await, Ok(Settled::Cancelled));
    let now = desk.world.clock.now();
    assert!(deadline <= now && now < deadline + Duration::from_secs(10), "{now}");
    let counts = crate::outcome::report(&desk.store, launch.id).unwrap().unwrap().counts;
    assert_eq!((counts.recipients, counts.delivered, counts.cancelled), (30, 20, 10));
    engine.stop(Duration::ZERO).await;

    let copy = CampaignName::parse("later").unwrap();
    let folder = desk.workspace.folder().join("campaigns");
    std::fs::create_dir(folder.join("later")).unwrap();
    for name in ["campaign.toml", "body.md"] {
        std::fs::copy(folder.join(SAMPLE_CAMPAIGN).join(name), folder.join("later").join(name)).unwrap();
    }
    let late = Ready::check(&desk.workspace, &desk.store, &copy, &LaunchOptions::default()).unwrap();
    let told = late.launch(&desk.store, now).await.unwrap_err();
    assert!(matches!(told, LaunchError::TooLate { .. }) && told.remedy() == Remedy::Refusal, "{told}");
}

/// Sends what is due as a courier would, and says what becomes of each copy; until nothing is due for a second.
async fn send(queue: &Queue, next: impl Fn(u32) -> Standing) -> Vec<u32> {
    let mut sent = Vec::new();
    while let Ok(Ok(Claimed { domain: claimed, .. })) =
        tokio::time::timeout(Duration::from_secs(1), queue.claim()).await
    {
        loop {
            let leases = queue.lease(&claimed, 20).await.unwrap();
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                let state = next(lease.envelope.id.contact().0);
                queue.settle(vec![lease.intend()]).await.unwrap();
                sent.push(lease.envelope.id.contact().0);
                let settlement = settle(lease, state);
                queue.settle(vec![settlement]).await.unwrap();
            }
        }
    }
    sent.sort();
    sent
}

fn settle(mut lease: Lease, state: Standing) -> Settlement {
    lease.envelope.tries += 1;
    let outcome = Outcome {
        envelope: lease.envelope.id,
        state,
        class: Class::Delivered,
        code: Some(250),
        enhanced: None,
        stage: None,
        text: String::new(),
        host: None,
        site: None,
        channel: None,
        tries: lease.envelope.tries,
        doubtful: lease.envelope.doubtful,
        at: START,
    };
    let next = if state == Standing::Deferred { Next::Again((START + HOUR).into()) } else { Next::Gone };
    lease.settle(outcome, next)
}

fn campaign() -> CampaignName {
    CampaignName::parse(SAMPLE_CAMPAIGN).unwrap()
}

fn person(address: &str) -> NewContact {
    let address = Address::parse(address).unwrap();
    let bucket = bucket(address.domain());
    NewContact { address, name: "Pat".into(), fields: Map::new(), bucket }
}

#[tokio::test(start_paused = true)]
async fn a_launch_is_planned_once_sent_and_closed() {
    let desk = Desk::with(500).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await;
    engine.handle().take_up(launch.id);
    engine.handle().bell.ring_and_wait().await;
    assert_eq!((engine.handle().depth().waiting, desk.store.planned(launch.id)), (500, Ok((500, 500))));
    assert_eq!(send(engine.handle().queue(), |_| Standing::Delivered).await.len(), 500);
    assert_eq!(engine.handle().settled(launch.id, Wait::All).await, Ok(Settled::Final));
    engine.stop(Duration::ZERO).await;
    assert!(matches!(desk.ready(&LaunchOptions::default()), Err(LaunchError::Finished { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_is_deferred_ends_a_wait_that_is_shorter_and_not_one_that_is_longer() {
    let desk = Desk::with(50).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    let handle = engine.handle();
    handle.take_up(launch);
    handle.bell.ring_and_wait().await;
    assert_eq!(handle.glance(launch, Wait::UpTo(Duration::ZERO)).await, Ok(None));
    let deferred = |contact| if contact % 2 == 0 { Standing::Deferred } else { Standing::Delivered };
    send(handle.queue(), deferred).await;
    assert_eq!(handle.settled(launch, Wait::UpTo(Duration::ZERO)).await, Ok(Settled::Deferred));
    assert_eq!(handle.glance(launch, Wait::UpTo(HOUR)).await, Ok(None));
    assert_eq!(handle.retry(launch).await, Ok(25));
    assert_eq!(handle.glance(launch, Wait::UpTo(Duration::ZERO)).await, Ok(None));
    assert_eq!(send(handle.queue(), |_| Standing::Delivered).await.len(), 25);
    assert_eq!(handle.settled(launch, Wait::UpTo(Duration::ZERO)).await, Ok(Settled::Final));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_up_while_it_is_planned_ends_the_wait_of_an_engine_that_is_to_end() {
    let desk = Desk::with(20).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    engine.handle().bell.ring_and_wait().await;
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    desk.ledger.fail_after(Some(0));
    engine.handle().take_up(launch);
    let handle = engine.handle();
    handle.queue().hurry();
    let wait = handle.settled(launch, Wait::UpTo(Duration::ZERO));
    let ended = tokio::time::timeout(Duration::from_secs(60), wait).await.expect("nobody waits for ever");
    assert!(matches!(ended, Err(Error::Queue(_))), "{ended:?}");
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_is_paused_resumed_and_cancelled() {
    let desk = Desk::with(100).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    let handle = engine.handle();
    handle.bell.ring_and_wait().await;
    assert_eq!(handle.pause(launch).await, Ok(100));
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Paused));
    assert!(send(handle.queue(), |_| Standing::Delivered).await.is_empty());
    assert!(matches!(desk.ready(&LaunchOptions::default()), Err(LaunchError::Paused(_))));
    engine.stop(Duration::ZERO).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let handle = engine.handle();
    assert!(send(handle.queue(), |_| Standing::Delivered).await.is_empty());
    assert_eq!(handle.resume(launch).await, Ok(100));
    let claimed = handle.queue().claim().await.unwrap().domain;
    let lease = handle.queue().lease(&claimed, 1).await.unwrap().pop().unwrap();
    handle.queue().settle(vec![settle(lease, Standing::Delivered)]).await.unwrap();
    handle.queue().rest(&claimed, START).await.unwrap();
    assert_eq!(handle.cancel(launch).await, Ok(99));
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Cancelled));
    let figures = desk.store.figures(launch).unwrap();
    let count = |standing| figures.iter().filter(|row| row.standing == standing).map(|row| row.copies).sum::<u64>();
    assert_eq!((count(Standing::Cancelled), count(Standing::Delivered)), (99, 1));
    assert!(matches!(handle.resume(launch).await, Err(Error::State { .. })));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_dropped_midway_goes_on_and_sends_each_once() {
    let desk = Desk::with(300).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    engine.handle().bell.ring_and_wait().await;
    let queue = engine.handle().queue().clone();
    let mut sent = Vec::new();
    for _ in 0..4 {
        let claimed = queue.claim().await.unwrap().domain;
        for lease in queue.lease(&claimed, 7).await.unwrap() {
            sent.push(lease.envelope.id.contact().0);
            queue.settle(vec![settle(lease, Standing::Delivered)]).await.unwrap();
        }
    }
    // as a power cut would: what is on the ledger stays, whoever was at work does not
    let ledger = desk.ledger.fork();
    let again = desk.start(ledger, 0).await.unwrap();
    sent.extend(send(again.handle().queue(), |_| Standing::Delivered).await);
    assert_eq!(again.handle().settled(launch, Wait::All).await, Ok(Settled::Final));
    sent.sort();
    assert_eq!((sent.len(), sent.windows(2).all(|pair| pair[0] < pair[1])), (300, true));
    again.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_cut_off_between_any_two_commits_names_each_copy_once() {
    // three slices for each of ten domains; every life ends after six commits, one of them the epoch's
    let desk = Desk::with(2500).await;
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    let mut sent = Vec::new();
    loop {
        desk.ledger.fail_after(Some(desk.ledger.commits() + 6));
        let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
        let handle = engine.handle();
        handle.queue().hurry();
        tokio::select! {
            biased;
            _ = handle.failed() => {}
            () = handle.bell.ring_and_wait() => break,
        }
        engine.stop(Duration::ZERO).await;
        // what was admitted is gone before its bucket is planned further
        desk.ledger.fail_after(None);
        let engine = desk.start_as(Crew::Keeping, desk.ledger.clone(), 0).await.unwrap();
        sent.extend(send(engine.handle().queue(), |_| Standing::Delivered).await);
        engine.stop(Duration::ZERO).await;
    }
    desk.ledger.fail_after(None);
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    sent.extend(send(engine.handle().queue(), |_| Standing::Delivered).await);
    assert_eq!(engine.handle().settled(launch, Wait::All).await, Ok(Settled::Final));
    sent.sort();
    assert_eq!((sent.len(), sent.windows(2).all(|pair| pair[0] < pair[1])), (2500, true));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn test_copies_admitted_before_a_crash_are_not_admitted_again() {
    let desk = Desk::with(1).await;
    let to = [Address::parse("p0@d0.example").unwrap()];
    let test = desk.launch_test(&to).await.unwrap();
    // the admission's cursor is there, the record's note that all is planned is not
    let engine = desk.start_as(Crew::Keeping, desk.ledger.clone(), 0).await.unwrap();
    let cursor = Admission { launch: test.id, bucket: 0, cursor: Vec::new(), copies: Vec::new() };
    engine.handle().queue().admit(cursor).await.unwrap();
    engine.stop(Duration::ZERO).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    engine.handle().bell.ring_and_wait().await;
    assert_eq!((engine.handle().depth().waiting, desk.store.launch(test.id).unwrap().unwrap().planned), (0, true));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_was_set_back_sends_nothing() {
    let desk = Desk::with(20).await;
    let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
    desk.launch(&LaunchOptions::default()).await;
    engine.handle().bell.ring_and_wait().await;
    let backup = desk.ledger.fork();
    send(engine.handle().queue(), |contact| if contact == 1 { Standing::Deferred } else { Standing::Delivered }).await;
    engine.stop(Duration::ZERO).await;
    for (ledger, place, expected) in [
        (backup, 7, Disagreement::OldQueue),
        (MemoryLedger::default(), 7, Disagreement::NoQueue),
        (desk.ledger.fork(), 8, Disagreement::Copied),
    ] {
        match desk.start(ledger, place).await.err() {
            Some(Error::Disagree { why, unsettled, campaigns }) => {
                assert_eq!((why, unsettled, campaigns.as_str()), (expected, 1, "welcome"));
            }
            other => panic!("{other:?}"),
        }
    }
    desk.start(desk.ledger.clone(), 7).await.unwrap().stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn starts_cut_off_between_queue_and_record_leave_both_in_agreement() {
    let desk = Desk::with(20).await;
    desk.start(desk.ledger.clone(), 7).await.unwrap().stop(Duration::ZERO).await;
    desk.launch(&LaunchOptions::default()).await;
    // the first ended with its number announced and in the queue, the second before it was in the queue
    let announced = desk.store.marks().unwrap().next_epoch + 1;
    desk.store.announce_epoch(announced, QueuePlace { folder: 7, ..QueuePlace::default() }).await.unwrap();
    let mark = [crate::queue::Move::Put(b"mepoch".to_vec(), announced.to_be_bytes().to_vec())];
    desk.ledger.clone().commit(&mark).unwrap();
    desk.ledger.fail_after(Some(0));
    let refused = desk.start(desk.ledger.clone(), 7).await.err();
    assert!(matches!(refused, Some(Error::Queue(queue::Error::Disk { .. }))), "{refused:?}");
    desk.ledger.fail_after(None);
    desk.start(desk.ledger.clone(), 7).await.unwrap().stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_room_is_shown_to_whoever_asks_and_moves_are_carried_out_later() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    desk.ledger.fail_after(Some(0));
    assert!(matches!(handle.pause(launch).await, Err(Error::Waits(_))));
    let view = QueueView::of(&handle).await.unwrap();
    assert_eq!((view.stalled.len(), view.waiting + view.held, view.domains), (1, 20, vec![]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = desk.store.incidents(START, handle.now(), 9).unwrap();
    let told: Vec<_> =
        told.iter().map(|notice| (notice.kind, notice.text.contains("the queue cannot be written"))).collect();
    assert_eq!(told, [(NoticeKind::Stalled, true)], "once, however long it lasts");
    mended(&desk).await;
    let view = QueueView::of(&handle).await.unwrap();
    assert_eq!((view.stalled, view.waiting, view.held), (vec![], 0, 20));
    engine.stop(Duration::ZERO).await;
}

/// A desk whose engine has planned a launch to all.
async fn planned(people: u32) -> (Desk, Engine, LaunchId) {
    let desk = Desk::with(people).await;
    let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    engine.handle().bell.ring_and_wait().await;
    (desk, engine, launch)
}

/// From now on the queue's disk takes nothing, and a write has shown it.
async fn stalled(desk: &Desk, handle: &Handle) {
    desk.ledger.fail_after(Some(0));
    let queue = handle.queue().clone();
    tokio::spawn(async move { queue.learn(SourceId(1), "a.example", vec![1]).await });
    handle.queue().stalled().await;
}

/// The disk takes everything again, and what waited for it has been done.
async fn mended(desk: &Desk) {
    desk.ledger.fail_after(None);
    tokio::time::sleep(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_a_breaker_stopped_and_a_person_resumed_during_a_stall_goes_on_after_it() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    handle.stop(launch, None, "too many bounces").await.unwrap();
    assert_eq!(handle.depth().held, 20);
    stalled(&desk, &handle).await;
    assert!(matches!(handle.resume(launch).await, Err(Error::Waits(_))));
    assert_eq!(desk.store.launch(launch).unwrap().unwrap().state, LaunchState::Running);
    mended(&desk).await;
    assert_eq!((handle.depth().waiting, handle.depth().held), (20, 0));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_not_lost_where_many_wait_for_the_queue_and_whoever_asked_goes() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    stalled(&desk, &handle).await;
    for _ in 0..2000 {
        let queue = handle.queue().clone();
        tokio::spawn(async move { queue.epoch().await });
    }
    tokio::task::yield_now().await;
    assert!(matches!(handle.pause(launch).await, Err(Error::Waits(_))));
    mended(&desk).await;
    assert_eq!((handle.depth().waiting, handle.depth().held), (0, 20));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_stall_keeps_no_launch_of_a_sender_from_being_stopped_with_the_others() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    stalled(&desk, &handle).await;
    // the warden goes on to the next launch only after a yes
    assert_eq!(handle.stop(launch, None, "too many complaints").await, Ok(true));
    assert_eq!(desk.store.launch(launch).unwrap().unwrap().state, LaunchState::Paused);
    mended(&desk).await;
    assert_eq!((handle.depth().waiting, handle.depth().held), (0, 20));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_written_is_waited_for_and_nobody_is_left_out() {
    let desk = Desk::with(2500).await;
    let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    desk.store.refuse_writes(true).unwrap();
    let handle = engine.handle();
    handle.take_up(launch);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((handle.depth().waiting, QueueView::of(&handle).await.unwrap().stalled.len()), (0, 1));
    desk.store.refuse_writes(false).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let sent = send(handle.queue(), |_| Standing::Delivered).await;
    assert_eq!((sent.len(), handle.settled(launch, Wait::All).await), (2500, Ok(Settled::Final)));
    assert_eq!(QueueView::of(&handle).await.unwrap().stalled, []);
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_may_leave_options_out_and_not_change_them() {
    let desk = Desk::with(20).await;
    let options = LaunchOptions { via: Some("smtp://localhost".into()), limit: Some(5), ..LaunchOptions::default() };
    let launch = desk.launch(&options).await;
    assert_eq!(desk.ready(&LaunchOptions::default()).unwrap().options, launch.options);
    let same = LaunchOptions { via: Some("smtp://LOCALHOST:25/".into()), ..LaunchOptions::default() };
    assert_eq!(desk.launch(&same).await.id, launch.id);
    for (asked, option) in [
        (LaunchOptions { via: Some("smtp://other".into()), ..LaunchOptions::default() }, "--via"),
        (LaunchOptions { limit: Some(6), ..LaunchOptions::default() }, "--limit"),
        (LaunchOptions { only_domain: Some("d1.example".into()), ..LaunchOptions::default() }, "--only-domain"),
        (LaunchOptions { rate: Some("10/min".into()), ..LaunchOptions::default() }, "--rate"),
    ] {
        match desk.ready(&asked) {
            Err(LaunchError::Differs { option: found, .. }) => assert_eq!(found, option),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_rate_of_a_campaign_is_recorded_and_a_later_different_one_refused() {
    let desk = Desk::with(20).await;
    let file = desk.workspace.folder().join("campaigns/welcome/campaign.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("rate = \"60/min\"\n{text}")).unwrap();
    let by_hand = LaunchOptions { rate: Some("5/s".into()), ..LaunchOptions::default() };
    assert_eq!(desk.ready(&by_hand).unwrap().options.rate.as_deref(), Some("5/s"), "the command line comes first");
    let launch = desk.launch(&LaunchOptions::default()).await;
    assert_eq!(launch.options.rate.as_deref(), Some("60/min"));
    assert_eq!(desk.ready(&LaunchOptions::default()).unwrap().options, launch.options);
    std::fs::write(&file, format!("rate = \"600/min\"\n{text}")).unwrap();
    let refused = desk.ready(&LaunchOptions::default()).unwrap_err();
    assert!(matches!(refused, LaunchError::Differs { option: "--rate", .. }), "{refused:?}");
}

#[tokio::test]
async fn a_rate_that_was_typed_at_the_launch_holds_over_the_campaigns_own() {
    let desk = Desk::with(20).await;
    let file = desk.workspace.folder().join("campaigns/welcome/campaign.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let own = |rate: &str| std::fs::write(&file, format!("rate = \"{rate}\"\n{text}")).unwrap();
    own("500/min");
    let typed = |rate: &str| LaunchOptions { rate: Some(rate.into()), ..LaunchOptions::default() };
    let launch = desk.launch(&typed("100/min")).await;
    let resumed = desk.ready(&LaunchOptions::default()).unwrap();
    assert_eq!((resumed.options.rate.as_deref(), resumed.options == launch.options), (Some("100/min"), true));
    desk.ready(&typed("100/min")).unwrap();
    let differs = |asked: &LaunchOptions| matches!(desk.ready(asked), Err(LaunchError::Differs { .. }));
    assert!(differs(&typed("500/min")), "nor may it be typed now");
    own("600/min");
    assert!(differs(&LaunchOptions::default()), "changed since");
}

#[tokio::test]
async fn direct_delivery_is_refused_while_the_name_service_speaks_against_it() {
    let mut desk = Desk::with(1).await;
    let direct = desk.ready(&LaunchOptions::default()).unwrap();
    direct.examine(&desk.workspace, &desk.world).await.unwrap();
    let mut settings = desk.workspace.settings().clone();
    settings.allow_private = false;
    desk.workspace = Workspace::with(desk.workspace.folder(), settings);
    match direct.examine(&desk.workspace, &desk.world).await {
        Err(why @ LaunchError::Unfit { .. }) => assert_eq!(why.remedy(), Remedy::Refusal),
        other => panic!("{other:?}"),
    }
    let to = [Address::parse("p1@d1.example").unwrap()];
    let test = desk.launch_test(&to).await;
    assert!(matches!(test, Err(LaunchError::Unfit { .. })), "{test:?}");
    let relay = LaunchOptions { via: Some("smtp://localhost".into()), ..LaunchOptions::default() };
    desk.ready(&relay).unwrap().examine(&desk.workspace, &desk.world).await.unwrap();
}

#[tokio::test]
async fn what_must_not_be_launched_is_refused() {
    let desk = Desk::with(1).await;
    let file = desk.workspace.folder().join("campaigns/welcome/campaign.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let from = |address: &str| text.replace("@example.com", address);
    std::fs::write(&file, from("@somebody.org")).unwrap();
    match desk.ready(&LaunchOptions::default()) {
        Err(LaunchError::Proof { remarks, .. }) => {
            assert!(remarks.iter().any(|remark| remark.subject == "postal_address"), "{remarks:?}");
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(&file, from("@other.example")).unwrap();
    assert!(matches!(desk.ready(&LaunchOptions::default()), Err(LaunchError::NoKey(_))));
    std::fs::write(&file, &text).unwrap();
    let seal = desk.workspace.keys_folder().join("seal.keys");
    std::fs::rename(&seal, seal.with_extension("away")).unwrap();
    let refused = desk.ready(&LaunchOptions::default()).unwrap_err();
    assert_eq!((refused.remedy(), matches!(refused, LaunchError::Keys(_))), (Remedy::Input, true), "{refused:?}");
    std::fs::rename(seal.with_extension("away"), &seal).unwrap();
    std::fs::write(&file, text.replace("\"news\"", "\"nws\"")).unwrap();
    let refused = desk.ready(&LaunchOptions::default()).unwrap_err();
    assert_eq!((refused.remedy(), matches!(refused, LaunchError::Lists(_))), (Remedy::Input, true));
    std::fs::write(&file, &text).unwrap();
    desk.launch(&LaunchOptions::default()).await;
    let body = desk.workspace.folder().join("campaigns/welcome/body.md");
    let changed = format!("{}\nOne more line.\n", std::fs::read_to_string(&body).unwrap());
    std::fs::write(&body, changed).unwrap();
    assert!(matches!(desk.ready(&LaunchOptions::default()), Err(LaunchError::Edited(_))));
}

#[tokio::test(start_paused = true)]
async fn test_copies_are_a_launch_of_their_own() {
    let desk = Desk::with(3).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let to = ["p1@d1.example", "me@example.com"].map(|text| Address::parse(text).unwrap());
    let test = desk.launch_test(&to).await.unwrap();
    engine.handle().bell.ring_and_wait().await;
    assert_eq!(send(engine.handle().queue(), |_| Standing::Delivered).await, [2, 4]);
    assert_eq!(engine.handle().settled(test.id, Wait::All).await, Ok(Settled::Final));
    assert!(desk.ready(&LaunchOptions::default()).unwrap().running.is_none());
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn sources_keep_their_numbers_when_another_is_written_before_them() {
    let mut desk = Desk::with(1).await;
    let sources = |names: &[&str]| {
        let table: String = names.iter().map(|name| format!("[[source]]\nname = \"{name}\"\n")).collect();
        toml::from_str::<Settings>(&table).unwrap().source
    };
    for (names, second) in [(["a", "b"].as_slice(), "b"), (&["new", "a", "b"], "b"), (&["b", "new"], "b")] {
        let mut settings = desk.workspace.settings().clone();
        settings.source = sources(names);
        desk.workspace = Workspace::with(desk._folder.path(), settings);
        let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
        assert_eq!(engine.handle().source_name(SourceId(1)), second);
        engine.stop(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_site_held_while_the_courier_is_leaving_is_held_on_record_or_the_answer_says_that_it_is_not() {
    let desk = Desk::with(1).await;
    let engine = desk.start(desk.ledger.clone(), 7).await.unwrap();
    let handle = Handle { sites: Some(Sites::nobody()), ..engine.handle() };
    let still = async || -> Vec<String> {
        QueueView::of(&handle).await.unwrap().still.into_iter().map(|row| row.name).collect()
    };
    handle.suspend_site("google").await.unwrap();
    assert_eq!(still().await, ["google"]);
    handle.resume_site("google").await.unwrap();
    assert!(still().await.is_empty());
    engine.stop(Duration::ZERO).await;
    assert!(handle.suspend_site("google").await.is_err() && handle.resume_site("google").await.is_err());
}
