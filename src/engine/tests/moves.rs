//! Moves that cross: one is asked for while another is under way, or while the launch ends by itself.

use tokio::task::JoinHandle;

use super::*;
use crate::base::ContactId;
use crate::store::PlannedRow;

/// A launch whose copies are all held in doubt.
async fn in_doubt(people: u32) -> (Desk, Engine, LaunchId) {
    let (desk, engine, launch) = planned(people).await;
    send(engine.handle().queue(), |_| Standing::InDoubt).await;
    assert_eq!(engine.handle().settled(launch, Wait::All).await, Ok(Settled::Final));
    (desk, engine, launch)
}

fn state(desk: &Desk, launch: LaunchId) -> LaunchState {
    desk.store.launch(launch).unwrap().unwrap().state
}

#[tokio::test(start_paused = true)]
async fn a_breaker_on_a_launch_that_has_just_ended_stops_nothing_else() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    send(handle.queue(), |_| Standing::Delivered).await;
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Final));
    // the warden has read that it runs, and judges by that
    assert_eq!(handle.stop(launch, None, "too many bounces").await, Ok(false));
    assert_eq!(state(&desk, launch), LaunchState::Done);
    engine.stop(Duration::ZERO).await;
}

/// Has doubts taken up while the queue's disk takes nothing: they are on record, and not on the road.
async fn retry_until_stalled(desk: &Desk, handle: &Handle, launch: LaunchId) -> JoinHandle<Result<u64, Error>> {
    desk.ledger.fail_after(Some(0));
    let retry = tokio::spawn({
        let handle = handle.clone();
        async move { handle.retry_doubts(launch).await }
    });
    handle.queue().stalled().await;
    retry
}

#[tokio::test(start_paused = true)]
async fn a_cancel_while_doubts_are_taken_up_is_the_last_word() {
    let (desk, engine, launch) = in_doubt(250).await;
    let handle = engine.handle();
    let retry = retry_until_stalled(&desk, &handle, launch).await;
    assert!(matches!(handle.cancel(launch).await, Err(Error::Waits(_))));
    desk.ledger.fail_after(None);
    assert_eq!(retry.await.unwrap(), Ok(250));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((state(&desk, launch), handle.depth().waiting), (LaunchState::Cancelled, 0));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn doubts_that_a_crash_kept_off_the_road_stay_in_doubt_when_their_launch_is_cancelled() {
    let (desk, engine, launch) = in_doubt(20).await;
    assert_eq!(desk.store.take_up_doubts(launch, "sent again", START).await.unwrap().len(), 20);
    assert_eq!(engine.handle().cancel(launch).await, Ok(0));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let rows = desk.store.copies(launch, ContactId(0), 100).unwrap();
    assert!(rows.iter().all(|row| row.standing == Standing::InDoubt), "{rows:?}");
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_while_a_launch_is_planned_leaves_nothing_on_the_road() {
    let desk = Desk::with(2500).await;
    let engine = desk.start(desk.ledger.clone(), 0).await.unwrap();
    let handle = engine.handle();
    handle.bell.ring_and_wait().await;
    let launch = desk.launch(&LaunchOptions::default()).await.id;
    desk.ledger.fail_after(Some(0));
    handle.take_up(launch);
    handle.queue().stalled().await;
    assert!(matches!(handle.cancel(launch).await, Err(Error::Waits(_))));
    desk.ledger.fail_after(None);
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Cancelled));
    assert_eq!((handle.depth().waiting, desk.store.unsettled(launch).unwrap()), (0, 0));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_while_doubts_are_taken_up_holds_all_of_them() {
    let (desk, engine, launch) = in_doubt(250).await;
    let handle = engine.handle();
    let retry = retry_until_stalled(&desk, &handle, launch).await;
    assert!(matches!(handle.pause(launch).await, Err(Error::Waits(_))));
    desk.ledger.fail_after(None);
    assert_eq!(retry.await.unwrap(), Ok(250));
    assert_eq!((state(&desk, launch), handle.depth().held), (LaunchState::Paused, 250));
    assert!(send(handle.queue(), |_| Standing::Delivered).await.is_empty());
    assert_eq!(handle.resume(launch).await, Ok(250));
    assert_eq!(send(handle.queue(), |_| Standing::Delivered).await.len(), 250);
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Final));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn doubts_of_a_launch_that_is_done_are_taken_up_and_it_ends_once_more() {
    let (desk, engine, launch) = in_doubt(250).await;
    let handle = engine.handle();
    assert_eq!(handle.retry_doubts(launch).await, Ok(250));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(state(&desk, launch), LaunchState::Running);
    assert_eq!(send(handle.queue(), |_| Standing::Delivered).await.len(), 250);
    assert_eq!(handle.settled(launch, Wait::All).await, Ok(Settled::Final));
    assert_eq!(handle.retry_doubts(launch).await, Ok(0));
    assert_eq!(state(&desk, launch), LaunchState::Done);
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn the_queue_follows_the_last_of_two_moves_whichever_reaches_it_first() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    stalled(&desk, &handle).await;
    assert!(matches!(handle.pause(launch).await, Err(Error::Waits(_))));
    // resumed by somebody whose word has reached the queue already
    desk.store.move_launch(launch, &[LaunchState::Paused], LaunchState::Running, START).await.unwrap();
    mended(&desk).await;
    assert_eq!((handle.depth().waiting, handle.depth().held), (20, 0));
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_launch_with_a_stray_ends_although_another_one_is_paused() {
    let (desk, engine, launch) = planned(20).await;
    let handle = engine.handle();
    let to = ["p1@d1.example", "me@example.com"].map(|text| Address::parse(text).unwrap());
    let test = desk.launch_test(&to).await.unwrap();
    handle.take_up(test.id);
    handle.bell.ring_and_wait().await;
    assert_eq!(handle.pause(test.id).await, Ok(2));
    // on record, and never admitted: the process ended in between, and then they left the list
    let contact = desk.store.make_contact(person("gone@d1.example"), START).await.unwrap();
    let stray = PlannedRow { contact, standing: Standing::Waiting, barred: None, site: "d1.example".into() };
    desk.store.record_batch(launch, 0, vec![stray], START).await.unwrap();
    send(handle.queue(), |_| Standing::Delivered).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), handle.settled(launch, Wait::All)).await;
    assert_eq!(ended, Ok(Ok(Settled::Final)));
    assert_eq!((state(&desk, test.id), handle.depth().held), (LaunchState::Paused, 2));
    engine.stop(Duration::ZERO).await;
}
