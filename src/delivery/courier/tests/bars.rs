//! Whoever must not be mailed is not, whenever that became known.

use super::*;

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
async fn a_copy_whose_answer_was_lost_ends_in_doubt_however_it_is_taken_back() {
    for way in ["barred", "cancelled before its turn", "cancelled at the last look", "dropped"] {
        let (mut sending, host) = unanswered("30m").await;
        let lost = sending.last().into_values().next().unwrap();
        let launch = lost.envelope.launch();
        let off = Outcome { state: Standing::Cancelled, text: "called off".into(), doubtful: 0, ..lost };
        match way {
            "barred" => {
                let (address, detail) = ("u0@a.google.com".into(), String::new());
                let row = SuppressionRow { address, reason: Reason::Complaint, detail, since: START };
                sending.store.suppress(vec![row]).await.unwrap();
            }
            "cancelled before its turn" => {
                assert_eq!(sending.queue.sweep(launch, Sweep::Cancel(off)).await, Ok(1));
            }
            "dropped" => {
                sending.queue.sweep(launch, Sweep::Hold).await.unwrap();
                assert_eq!(sending.queue.sweep(launch, Sweep::Drop(off)).await, Ok(1));
            }
            _ => {
                let open = &[LaunchState::Running];
                sending.store.move_launch(launch, open, LaunchState::Cancelled, START).await.unwrap();
            }
        }
        sending.pass(secs(7200)).await;
        let last = sending.last().into_values().next().unwrap();
        assert_eq!((last.state, last.doubtful), (Standing::InDoubt, 1), "{way}: {}", last.text);
        assert!(last.text.ends_with("; an answer to it was lost before"), "{way}: {}", last.text);
        assert_eq!((host.taken().len(), sending.queue.depth().waiting), (1, 0), "{way}");
    }
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
