//! What stops mail, and lets it go on: persons, breakers, changed tables, the end.

use super::*;

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
    assert!(sending.queue.is_idle(clock.now() + secs(36_000)).await.unwrap(), "what a person holds is not waited for");
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
    sending.store.move_launch(launch, &[LaunchState::Running], LaunchState::Paused, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Hold).await.unwrap();
    sending.pass(secs(600)).await;
    let paused = host.taken().len();
    assert!((9..=12).contains(&paused), "{paused}");
    assert_eq!(sending.queue.depth().held as usize, 60 - paused);
    sending.store.move_launch(launch, &[LaunchState::Paused], LaunchState::Running, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Release).await.unwrap();
    sending.pass(secs(5)).await;
    sending.store.move_launch(launch, &[LaunchState::Running], LaunchState::Cancelled, START).await.unwrap();
    let text = Outcome { state: Standing::Cancelled, ..sending.outcomes[0].clone() };
    sending.queue.sweep(launch, Sweep::Cancel(text)).await.unwrap();
    sending.pass(secs(600)).await;
    let taken = host.taken().len();
    assert!(taken < 20 && sending.standing(Standing::Cancelled) == 60 - taken, "{taken}");
    assert_eq!(sending.queue.depth().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_frozen_and_can_no_longer_be_printed_waits_for_a_person_and_no_copy_fails() {
    let (yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let mut sending = yard.open().await;
    let unfit = Edition { html: "<p style=\"color:{{name}}\">Hello</p>".into(), ..edition() };
    let name = CampaignName::parse("welcome").unwrap();
    sending.edition = sending.store.put_edition(unfit.hash(), &name, unfit.to_bytes(), START).await.unwrap();
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 20).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((host.taken().len(), sending.standing(Standing::Deferred), sending.queue.depth().waiting), (0, 20, 20));
    let told = sending.noticed();
    assert!(told.iter().all(|one| (one.kind, one.launch) == (NoticeKind::Misconfigured, Some(launch))), "{told:?}");
    assert!(
        told[0].text.contains("this version cannot print what was frozen as edition 2: HTML part, line 1"),
        "{told:?}"
    );

    // once it is paused nothing more is tried or told
    sending.store.move_launch(launch, &[LaunchState::Running], LaunchState::Paused, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Hold).await.unwrap();
    sending.pass(secs(1800)).await;
    assert_eq!((sending.noticed(), sending.queue.depth().held), (Vec::new(), 20));

    // whoever leaves meanwhile, and whoever is called back, has an end of that name
    sending.store.move_launch(launch, &[LaunchState::Paused], LaunchState::Running, START).await.unwrap();
    sending.queue.sweep(launch, Sweep::Release).await.unwrap();
    let (address, detail) = ("u0@a.example".into(), String::new());
    let bar = SuppressionRow { address, reason: Reason::Complaint, detail, since: START };
    sending.store.suppress(vec![bar]).await.unwrap();
    sending.pass(secs(1800)).await;
    assert_eq!((sending.standing(Standing::Barred), sending.standing(Standing::Deferred)), (1, 19));
    sending.store.move_launch(launch, &[LaunchState::Running], LaunchState::Cancelled, START).await.unwrap();
    sending.pass(secs(1800)).await;
    assert_eq!((sending.standing(Standing::Cancelled), sending.queue.depth().waiting), (19, 0));
    assert!(host.taken().is_empty());
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
    let later = sending.world.clock.now() + secs(36_000);
    assert!(sending.queue.is_idle(later).await.unwrap(), "what a person has to resume is not waited for");
    sending.pass(secs(3000)).await;
    assert_eq!(sending.outcomes.len(), 60, "what stands still costs no writes");
    sending.stops.lift(launch);
    sending.queue.sweep(launch, Sweep::Retry).await.unwrap();
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

/// Hosts of google that count the MAILs of each source, by its address.
fn google() -> (Yard, Arc<Mutex<Vec<IpAddr>>>) {
    let (mut yard, host) = Yard::new().domain("a.google.com", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"google\"\nshape.tls = \"opportunistic\"\n".into();
    let dialled: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let seen = dialled.clone();
    yard.net = yard.net.host("198.51.100.1:25".parse().unwrap(), move |source| {
        seen.lock().unwrap().extend(source);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(host.clone().serve(theirs));
        ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    (yard, dialled)
}

fn with_sources(names: &[(&str, &str)]) -> Settings {
    let table = |(name, address): &(&str, &str)| format!("[[source]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    toml::from_str(&names.iter().map(table).collect::<String>()).unwrap()
}

const A: (&str, &str) = ("a", "192.0.2.1");
const B: (&str, &str) = ("b", "192.0.2.2");
const NEW: (&str, &str) = ("new", "192.0.2.9");

#[tokio::test(start_paused = true)]
async fn a_hold_stays_with_its_source_when_another_is_written_before_it() {
    let (mut yard, _) = google();
    yard.settings = with_sources(&[A, B]);
    let sending = yard.open().await;
    let held = crate::delivery::limits::Learned { held: true, why: "blocked".into(), ..Default::default() };
    sending.queue.learn(SourceId(0), "google", held.to_bytes(START)).await.unwrap();
    let (mut yard, dialled) = google();
    (yard.settings, yard.ledger) = (with_sources(&[NEW, A, B]), sending.ledger.clone());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.google.com", 60).await;
    sending.start();
    sending.pass(secs(600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 60);
    let dialled: BTreeSet<String> = dialled.lock().unwrap().iter().map(IpAddr::to_string).collect();
    assert_eq!(dialled, BTreeSet::from([B.1.to_owned(), NEW.1.to_owned()]), "a was held there, and no other");
}

#[tokio::test(start_paused = true)]
async fn a_site_that_a_person_holds_is_held_for_a_source_that_comes_later_until_it_is_resumed() {
    for nobody_sends in [false, true] {
        let (mut yard, _) = google();
        yard.settings = with_sources(&[A]);
        let mut sending = yard.open().await;
        let (queue, now) = (sending.queue.clone(), sending.world.clock.now());
        match nobody_sends {
            true => crate::delivery::sites::suspend_on_record(&queue, "google", "by hand", now).await.unwrap(),
            false => {
                sending.start();
                sending.sites.suspend("google", "by hand").await;
            }
        }
        let ledger = sending.ledger.clone();
        let (mut yard, dialled) = google();
        (yard.settings, yard.ledger) = (with_sources(&[A, NEW]), ledger);
        let mut sending = yard.open().await;
        let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
        sending.admit(launch, "a.google.com", 60).await;
        sending.start();
        sending.pass(secs(600)).await;
        assert!(dialled.lock().unwrap().is_empty(), "{:?}", dialled.lock().unwrap());
        let later = sending.world.clock.now() + secs(36_000);
        assert!(sending.queue.is_idle(later).await.unwrap(), "what a person holds is not waited for");
        sending.sites.resume("google").await;
        sending.pass(secs(600)).await;
        assert_eq!(sending.standing(Standing::Delivered), 60);
        let still = crate::delivery::sites::standing_still(&sending.queue, sending.world.clock.now()).await.unwrap();
        assert_eq!(still, []);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_person_holds_is_nothing_that_a_source_has_learned() {
    for nobody_sends in [false, true] {
        let (mut yard, _) = google();
        yard.settings = with_sources(&[A]);
        let mut sending = yard.open().await;
        let (queue, now) = (sending.queue.clone(), sending.world.clock.now());
        let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
        if nobody_sends {
            crate::delivery::sites::suspend_on_record(&queue, "google", "by hand", now).await.unwrap();
        }
        sending.start();
        sending.sites.snapshot().await;
        sending.admit(launch, "a.google.com", 60).await;
        sending.pass(Duration::from_millis(100)).await;
        if !nobody_sends {
            sending.sites.suspend("google", "by hand").await;
        }
        sending.pass(secs(1)).await;
        assert!(sending.sites.snapshot().await.iter().all(|row| row.held), "the steward is there, and holds");
        sending.pass(secs(60)).await;
        assert_eq!(sending.sites.snapshot().await, [], "it has ended");
        let known = sending.queue.all_learned().await.unwrap();
        let sources: Vec<SourceId> = known.into_iter().map(|(source, _, _)| source).collect();
        assert_eq!(sources, [crate::delivery::sites::ANY_SOURCE], "a steward that ends late undoes no `resume`");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_long_ago_is_forgotten_and_what_holds_a_site_up_stays() {
    use crate::delivery::limits::Learned;
    let day = secs(86_400);
    let slow = Learned { per_second: Some(0.5), ..Learned::default() };
    let held = Learned { held: true, why: "blocked".into(), ..Learned::default() };
    let paused = Learned { pause_until: Some(START + day * 20), ..Learned::default() };
    let of_the_version_before = |learned: &Learned| [&[2], &learned.to_bytes(START)[9..]].concat();
    let mut sending = Yard::new().open().await;
    for (site, record) in [
        ("slow", slow.to_bytes(START)),
        ("slow long ago", slow.to_bytes(START - day * 15)),
        ("slow before", of_the_version_before(&slow)),
        ("held", held.to_bytes(START - day * 400)),
        ("held before", of_the_version_before(&held)),
        ("paused", paused.to_bytes(START)),
        ("damaged", vec![9; 40]),
    ] {
        sending.queue.learn(SourceId(0), site, record).await.unwrap();
    }
    sending.queue.learn(SourceId(0), "slow no more", slow.to_bytes(START)).await.unwrap();
    sending.queue.learn(SourceId(0), "slow no more", Vec::new()).await.unwrap();
    let known = async |sending: &Sending| -> Vec<String> {
        sending.queue.all_learned().await.unwrap().into_iter().map(|(_, site, _)| site).collect()
    };
    sending.start();
    sending.pass(day / 2).await;
    assert_eq!(known(&sending).await, ["held", "held before", "paused", "slow", "slow before"]);
    sending.pass(day * 15).await;
    assert_eq!(known(&sending).await, ["held", "held before", "paused"]);
    sending.pass(day * 15).await;
    assert_eq!(known(&sending).await, ["held", "held before"]);
}
