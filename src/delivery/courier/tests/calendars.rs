//! New addresses and domains, made known by their calendars.

use super::*;

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
async fn a_site_that_got_its_copy_of_a_new_source_keeps_nobody_busy_and_the_next_waits_its_time() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Takes);
    yard.settings = toml::from_str("[[source]]\nname = \"new\"\nwarmup = 1\n[warmup]\nstart = 50\n").unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 1).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((host.taken().len(), sending.sites.snapshot().await), (1, vec![]));
    sending.admit_for(launch, &["another@a.example".to_owned()]).await;
    sending.pass(secs(780)).await;
    assert_eq!(host.taken().len(), 1, "fifty in half a day: one in 864 s");
    sending.pass(secs(60)).await;
    assert_eq!(host.taken().len(), 2);
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
