//! The sending tasks in a simulated world: scripted hosts over in-memory connections, virtual time, everything on one
//! thread.

mod bars;
mod calendars;
mod host;
mod rates;
mod relays;
mod stops;
mod yard;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use futures_util::future::ready;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

use self::host::{Host, Manner, Taken};
use self::yard::{Sending, Yard, edition};
use super::*;
use crate::base::{
    Address, CampaignName, ContactId, EditionId, EnvelopeId, LaunchId, Live, Seal, SealKey, SourceId, Span,
};
use crate::compose::{Edition, FromField, sample_edition};
use crate::config::Settings;
use crate::config::shaping::Shaping;
use crate::delivery::notices::Notices;
use crate::delivery::relays::Relays;
use crate::delivery::source::Sources;
use crate::delivery::steward::Hatch;
use crate::delivery::stops::Stops;
use crate::delivery::sts::Policies;
use crate::delivery::tls_tally::Tally;
use crate::mail::{Class, Envelope, InDoubt, Notice, NoticeKind, Outcome, Standing};
use crate::queue::{Admission, MemoryLedger, Opening, Queue, Sweep};
use crate::sign::{Algorithm, Keyring, create_key};
use crate::smtp::TlsClient;
use crate::smtp::classify::Rules;
use crate::store::{
    LaunchKind, LaunchOptions, LaunchState, NewContact, NewLaunch, Reason, Store, SuppressionRow, Threads,
};
use crate::world::{Http, NetTable, Stream, World, Zone};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world with one domain and its host, and so many copies for it, under way.
async fn one(manner: Manner, count: u32, in_doubt: InDoubt) -> (Sending, Host) {
    let (yard, host) = Yard::new().domain("a.example", manner);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), in_doubt).await;
    sending.admit(launch, "a.example", count).await;
    sending.start();
    (sending, host)
}

#[tokio::test(start_paused = true)]
async fn copies_are_delivered_signed_once_each_and_connections_end_politely() {
    let (mut sending, host) = one(Manner::Takes, 100, InDoubt::Resend).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100);
    let taken = host.taken();
    let people: BTreeSet<&String> = taken.iter().map(|taken| &taken.to).collect();
    assert_eq!((taken.len(), people.len()), (100, 100));
    assert!(taken.iter().all(|taken| taken.signed && taken.from.ends_with("@bounce.example.com")));
    assert!(sending.queue.is_idle(sending.world.clock.now()).await.unwrap(), "nothing is claimed or leased any more");
    let outcome = sending.last().into_values().next().unwrap();
    assert_eq!((outcome.code, outcome.tries, outcome.site.as_deref()), (Some(250), 1, Some("a.example")));
    assert_eq!(outcome.host, Some(domain("mx.a.example")));
    let book = host.book.lock().unwrap();
    assert_eq!((book.open, book.quits), (0, book.connections), "idle connections are closed by QUIT");
    assert!(book.open_most <= 10);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_counted_for_each_domain_where_they_are_to_be_reported() {
    let mut yard = Yard::new();
    yard.settings.tls_reports.from = Some("tls-reports@example.com".to_owned());
    yard.overlay = "[[site]]\nsite = \"c.example\"\nshape.tls = \"required\"\n".into();
    let host = Host::new(Manner::Takes);
    let (mx, at) = (domain("mx.shared.example"), IpAddr::from([198, 51, 100, 90]));
    for name in ["a.example", "b.example"] {
        yard.zone = yard.zone.mx(&domain(name), 10, Some(&mx));
    }
    yard.zone = yard.zone.address(&mx, at);
    let yard = yard.door(SocketAddr::new(at, 25), &host).at_host("c.example", &Host::new(Manner::Takes));
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for (name, count) in [("a.example", 4), ("b.example", 1), ("c.example", 2)] {
        sending.admit(launch, name, count).await;
    }
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((sending.standing(Standing::Delivered), sending.standing(Standing::Deferred)), (5, 1));
    let rows = sending.tally.clone().unwrap().take();
    assert!(rows.iter().all(|row| row.result == "starttls-not-supported"), "{rows:?}");
    let hosts: BTreeMap<&str, &str> = rows.iter().map(|row| (row.domain.as_str(), row.host.as_str())).collect();
    let expected =
        [("a.example", "mx.shared.example"), ("b.example", "mx.shared.example"), ("c.example", "mx.c.example")];
    assert_eq!(hosts, BTreeMap::from(expected));
    let of = |name: &str| rows.iter().filter(|row| row.domain == name).map(|row| row.sessions).sum::<u64>();
    let connections = u64::from(host.book.lock().unwrap().connections);
    assert!((1..=connections).contains(&of("a.example")) && of("b.example") == 1, "{connections}: {rows:?}");
    assert_eq!(sending.tally.unwrap().take(), []);
}

#[tokio::test(start_paused = true)]
async fn a_greylisted_copy_comes_back_the_same_and_is_taken() {
    let (mut sending, host) = one(Manner::Greylists, 5, InDoubt::Resend).await;
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Deferred), 5);
    assert!(sending.last().values().all(|o| (o.class, o.tries) == (Class::SoftGreylist, 1)), "{:?}", sending.last());
    sending.pass(secs(1200)).await;
    assert_eq!(sending.standing(Standing::Delivered), 5);
    let taken = host.taken();
    assert!(taken.iter().all(|taken| taken.date == START.rfc5322()), "the date is that of the first MAIL");
    assert!(taken.iter().all(|taken| (200..700).contains(&taken.at.as_secs())), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_fails_and_holds_up_nobody() {
    let (mut sending, host) = one(Manner::KnowsNobody, 50, InDoubt::Resend).await;
    sending.pass(secs(30)).await;
    assert_eq!(sending.standing(Standing::Failed), 50);
    assert!(sending.last().values().all(|outcome| outcome.class == Class::HardUnknownUser && outcome.tries == 1));
    assert!(host.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dismisses_after_n_is_spoken_to_in_sessions_of_n() {
    for manner in [Manner::Dismisses(5), Manner::ClosesAfter(5)] {
        let (mut sending, host) = one(manner, 60, InDoubt::Resend).await;
        sending.pass(secs(900)).await;
        assert_eq!(sending.standing(Standing::Delivered), 60, "{manner:?}");
        assert_eq!(host.taken().len(), 60, "{manner:?}: no copy twice");
        assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 1), "{manner:?}: no try is counted for it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_by_421_teaches_no_shorter_session() {
    let (mut yard, host) = Yard::new().domain("a.google.com", Manner::ThrottlesOnce(2));
    yard.overlay = "[[site]]\nsite = \"google\"\nshape.tls = \"opportunistic\"\nshape.connection_start = 1\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.google.com", 100).await;
    sending.start();
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100, "{:?}", sending.outcomes.last());
    let connections = host.book.lock().unwrap().connections;
    assert!(connections < 12, "{connections} connections for a hundred copies");
    let learned = sending.queue.all_learned().await.unwrap();
    let fails = |record: &[u8]| crate::delivery::limits::Learned::from_bytes(record).unwrap().since.is_some();
    assert!(!learned.iter().any(|(_, _, record)| fails(record)), "what it took since is a success on record as well");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_one_double_with_the_same_face_or_none() {
    let (mut sending, host) = one(Manner::LosesAnswers(1), 3, InDoubt::Resend).await;
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 3);
    let taken = host.taken();
    assert_eq!(taken.len(), 4);
    let first = &taken[0];
    let again: Vec<&Taken> = taken.iter().filter(|taken| taken.to == first.to).collect();
    assert_eq!(again.len(), 2, "exactly the one whose answer was lost");
    let face = |taken: &Taken| (taken.id.clone(), taken.date.clone(), taken.from.clone());
    assert_eq!(face(again[0]), face(again[1]));
    let doubtful: Vec<u8> = sending.last().values().map(|outcome| outcome.doubtful).filter(|d| *d > 0).collect();
    assert_eq!(doubtful, [1]);

    let (mut sending, host) = one(Manner::LosesAnswers(1), 3, InDoubt::Hold).await;
    sending.pass(secs(3 * 3600)).await;
    assert_eq!((sending.standing(Standing::Delivered), sending.standing(Standing::InDoubt)), (2, 1));
    assert_eq!(host.taken().len(), 3, "never twice");
    let doubtful: Vec<u8> = sending.last().values().map(|outcome| outcome.doubtful).filter(|d| *d > 0).collect();
    assert_eq!(doubtful, [1], "the loss is counted where it happens");
    assert_eq!(sending.queue.depth().waiting, 0);
}

/// A copy whose answer was lost, to be tried again after `first`, a minute later.
async fn unanswered(first: &str) -> (Sending, Host) {
    let (mut yard, host) = Yard::new().domain("a.google.com", Manner::LosesAnswers(1));
    yard.overlay = "[[site]]\nsite = \"google\"\nshape.tls = \"opportunistic\"\n".into();
    yard.settings = toml::from_str(&format!("[retry]\nfirst = \"{first}\"\nlongest = \"160h\"\n")).unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.google.com", 1).await;
    sending.start();
    sending.pass(secs(60)).await;
    (sending, host)
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_answer_was_lost_and_that_is_not_sent_again_in_time_ends_in_doubt() {
    let (mut sending, host) = unanswered("160h").await;
    sending.pass(secs(74 * 3600)).await;
    let last = sending.last().into_values().next().unwrap();
    assert_eq!((last.state, last.doubtful), (Standing::InDoubt, 1), "{}", last.text);
    assert_eq!((host.taken().len(), sending.queue.depth().waiting), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_person_holds_beyond_its_time_has_an_attempt_left() {
    let (mut sending, host) = unanswered("30m").await;
    sending.sites.suspend("google", "by hand").await;
    sending.pass(secs(100 * 3600)).await;
    assert_eq!((sending.standing(Standing::Deferred), host.taken().len()), (1, 1));
    sending.sites.resume("google").await;
    sending.pass(secs(3600)).await;
    assert_eq!((sending.standing(Standing::Delivered), host.taken().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_a_silent_and_a_slow_site_hold_up_nobody_else() {
    let (yard, good) = Yard::new().domain("good.example", Manner::Takes);
    let (yard, _) = yard.domain("silent.example", Manner::Silent);
    let (mut yard, slow) = yard.domain("slow.example", Manner::Slow(20));
    let gone = domain("mx.gone.example");
    yard.zone = yard.zone.mx(&domain("gone.example"), 1, Some(&gone)).address(&gone, [203, 0, 113, 9].into());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["gone.example", "silent.example", "slow.example", "good.example"] {
        sending.admit(launch, at, 200).await;
    }
    sending.start();
    sending.pass(secs(10)).await;
    assert_eq!(good.taken().len(), 200, "at full speed beside the others");
    assert!(slow.taken().is_empty());
    sending.pass(secs(3600)).await;
    assert_eq!(slow.taken().len(), 200);
    assert_eq!(sending.standing(Standing::Delivered), 400);
    assert_eq!(sending.standing(Standing::Failed), 0);
    let told = sending.outcomes.iter().filter(|outcome| outcome.state == Standing::Deferred);
    assert!(told.clone().count() > 1 && told.clone().all(|outcome| outcome.tries == 0), "no try counts against them");
    assert_eq!(sending.queue.depth().waiting, 400);
}

#[tokio::test(start_paused = true)]
async fn rates_are_kept_exactly_that_of_a_site_and_that_of_a_launch() {
    let (yard, a) = Yard::new().domain("a.example", Manner::Takes);
    let (mut yard, b) = yard.domain("b.example", Manner::Takes);
    yard.overlay = "[[site]]\nsite = \"a.example\"\nshape.max_message_rate = \"30/min\"\n".into();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let slow = LaunchOptions { rate: Some("10/s".into()), ..LaunchOptions::default() };
    let slow = sending.launch(slow, InDoubt::Resend).await;
    sending.admit(launch, "a.example", 90).await;
    sending.admit(slow, "b.example", 300).await;
    sending.start();
    sending.pass(secs(200)).await;
    assert_eq!(sending.standing(Standing::Delivered), 390);
    let most = |host: &Host, window: Duration| {
        let mails = host.book.lock().unwrap().mails.clone();
        let within = |at: usize| mails[at..].iter().take_while(|mail| **mail < mails[at] + window).count();
        ((0..mails.len()).map(within).max().unwrap(), *mails.last().unwrap())
    };
    let (in_a_minute, last) = most(&a, secs(60));
    assert!(in_a_minute <= 30 && last < secs(182), "{in_a_minute}, {last:?}");
    let (in_a_second, last) = most(&b, secs(1));
    assert!(in_a_second <= 10 && last < secs(32), "{in_a_second}, {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_launch_slower_than_the_time_a_copy_has_gives_nobody_up() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Greylists);
    yard.settings = toml::from_str("[retry]\nexpires = \"2h\"\n").unwrap();
    let mut sending = yard.open().await;
    let slow = LaunchOptions { rate: Some("30/h".into()), ..LaunchOptions::default() };
    let slow = sending.launch(slow, InDoubt::Resend).await;
    sending.admit(slow, "a.example", 90).await;
    sending.start();
    sending.pass(secs(9 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 90, "{:?}", sending.last());
    assert!(host.taken().last().unwrap().at > secs(4 * 3600));
}

#[tokio::test(start_paused = true)]
async fn the_time_a_copy_has_counts_from_its_first_attempt_and_that_of_a_dead_site_from_its_death() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Greylists);
    let gone = domain("mx.gone.example");
    yard.zone = yard.zone.mx(&domain("gone.example"), 1, Some(&gone)).address(&gone, [203, 0, 113, 9].into());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["a.example", "gone.example"] {
        sending.admit(launch, at, 20).await;
    }
    // nobody sends for longer than a copy has
    sending.pass(secs(5 * 86_400)).await;
    sending.start();
    sending.pass(secs(86_400)).await;
    assert_eq!((sending.standing(Standing::Delivered), host.taken().len()), (20, 20));
    assert_eq!(sending.standing(Standing::Failed), 0, "{:?}", sending.outcomes.last());
    sending.pass(secs(4 * 86_400)).await;
    assert_eq!(sending.standing(Standing::Failed), 20);
    let expired = |outcome: &&Outcome| outcome.class == Class::SoftExpired;
    assert_eq!(sending.last().values().filter(expired).count(), 20);
}

/// The site throttles everybody until the sender is stopped, and copies have waited beyond their time when it comes back.
async fn stopped_while_throttled() -> Sending {
    let (mut sending, _host) = one(Manner::Throttles, 60, InDoubt::Resend).await;
    sending.pass(secs(20 * 60)).await;
    sending.leave().await;
    sending.pass(secs(4 * 86_400)).await;
    sending
}

#[tokio::test(start_paused = true)]
async fn nobody_is_given_up_for_a_time_in_which_nobody_was_sending() {
    let mut sending = stopped_while_throttled().await;
    sending.start();
    // more than one answer of the site later, and long before it has failed for as long as a copy has
    sending.pass(secs(2 * 86_400)).await;
    assert_eq!((sending.standing(Standing::Failed), sending.queue.depth().waiting), (0, 60), "{:?}", sending.last());
    sending.pass(secs(86_400 + 2 * 3600)).await;
    assert_eq!((sending.standing(Standing::Failed), sending.queue.depth().waiting), (60, 0));
    for outcome in sending.last().values() {
        let said = (outcome.class, outcome.code, outcome.text.contains("too many messages from your address"));
        assert_eq!(said, (Class::SoftExpired, Some(451), true), "{}", outcome.text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_site_that_is_back_takes_what_waited_beyond_its_time() {
    let mut sending = stopped_while_throttled().await;
    let (taking, host) = Yard::new().domain("a.example", Manner::Takes);
    sending.road.world.net = Arc::new(taking.net);
    let courier = Courier::new(sending.road.clone());
    (sending.sites, sending.courier) = (courier.sites(), Some(courier));
    sending.start();
    sending.pass(secs(3600)).await;
    assert_eq!((sending.standing(Standing::Delivered), host.taken().len()), (60, 60), "{:?}", sending.last());
}

#[tokio::test(start_paused = true)]
async fn a_launch_with_a_relay_never_goes_to_the_domains_own_hosts_nor_the_other_way_round() {
    let (yard, own) = Yard::new().domain("a.example", Manner::Takes);
    let relay = Host::new(Manner::Takes);
    let yard = yard.door("127.0.0.1:2525".parse().unwrap(), &relay);
    let mut sending = yard.open().await;
    let direct = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let via = LaunchOptions { via: Some("smtp://127.0.0.1:2525".into()), ..LaunchOptions::default() };
    let via = sending.launch(via, InDoubt::Resend).await;
    for _ in 0..3 {
        sending.admit(via, "a.example", 30).await;
        sending.admit(direct, "a.example", 30).await;
    }
    sending.admit(via, "nowhere.example", 10).await;
    sending.start();
    sending.pass(secs(300)).await;
    let last = sending.last();
    assert!(last.values().all(|outcome| outcome.state == Standing::Delivered), "{last:?}");
    let hosts = |launch: LaunchId| -> BTreeSet<String> {
        let of = last.values().filter(|outcome| outcome.envelope.launch() == launch);
        of.map(|outcome| outcome.host.as_ref().unwrap().to_string()).collect()
    };
    assert_eq!(hosts(direct), BTreeSet::from(["mx.a.example".to_owned()]));
    assert_eq!(hosts(via), BTreeSet::from(["127.0.0.1".to_owned()]));
    let sites: BTreeSet<&str> = last.values().filter_map(|outcome| outcome.site.as_deref()).collect();
    assert_eq!(sites, BTreeSet::from(["a.example", "nowhere.example"]), "through a relay the domain is the site");
    assert!(relay.taken().len() >= 40 && !own.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn domains_without_a_way_fail_or_wait_and_no_socket_is_opened() {
    let mut yard = Yard::new();
    yard.zone = yard.zone.mx(&domain("null.example"), 0, None).down(&domain("down.example"), "SERVFAIL");
    let local = domain("mx.poison.example");
    yard.zone = yard.zone.mx(&domain("poison.example"), 0, Some(&local)).address(&local, [127, 0, 0, 1].into());
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    for at in ["null.example", "absent.example", "poison.example", "down.example"] {
        sending.admit(launch, at, 45).await;
    }
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!((sending.standing(Standing::Failed), sending.standing(Standing::Deferred)), (135, 45));
    let codes: BTreeSet<(Standing, &str, Option<u16>)> =
        sending.last().values().map(|outcome| (outcome.state, outcome.class.word(), outcome.code)).collect();
    let expected = [
        (Standing::Deferred, "soft.system", Some(451)),
        (Standing::Failed, "hard.bad_domain", Some(550)),
        (Standing::Failed, "hard.bad_domain", Some(556)),
    ];
    assert_eq!(codes, BTreeSet::from(expected));
    sending.pass(secs(80 * 3600)).await;
    assert_eq!(sending.standing(Standing::Failed), 180);
    assert!(sending.last().values().any(|outcome| outcome.class == Class::SoftExpired));
}

#[tokio::test(start_paused = true)]
async fn a_site_that_throttles_rests_and_nobodys_tries_are_counted() {
    let (mut sending, host) = one(Manner::Throttles, 100, InDoubt::Resend).await;
    sending.pass(secs(3600)).await;
    let mails = host.book.lock().unwrap().mails.len();
    assert!((3..60).contains(&mails), "{mails} MAILs in an hour of refusals");
    assert!(sending.outcomes.iter().all(|outcome| outcome.tries == 0), "{:?}", sending.outcomes);
    assert_eq!(sending.queue.depth().waiting, 100);
}

#[tokio::test(start_paused = true)]
async fn a_steward_over_which_a_carrier_broke_down_ends_and_gives_its_domains_back() {
    let (yard, _host) = Yard::new().domain("a.example", Manner::Silent);
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    let courier = sending.courier.take().expect("not started");
    let claimed = sending.queue.claim().await.unwrap().domain;
    let Ok(route) = courier.router.route(&claimed).await else { panic!("it has a host") };
    let source = courier.kit.road.sources.iter().next().expect("one at least").clone();
    let post = (source.id, route.site.clone());
    let (hatch, heard) = Hatch::new(Steward::new(courier.kit.clone(), post, source, &route));
    let (work, given) = mpsc::channel(9);
    let life = tokio::spawn(hatch.clone().live(heard, given, CancellationToken::new()));
    work.send(Work::Claim(claimed.clone(), route, None)).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _half_changed = hatch.steward();
        panic!("a carrier breaks down while it is served");
    }));
    assert!(broken.is_err());
    // whatever comes next is not decided by what is half changed
    let _ = work.send(Work::Reshape).await;
    tokio::time::timeout(secs(60), life).await.expect("it ends").unwrap();
    let standing = sending.queue.domain(&claimed).await.unwrap().unwrap();
    assert!(standing.rest > sending.world.clock.now(), "{standing:?}");
}

#[tokio::test(start_paused = true)]
async fn copies_spread_over_the_sources_and_a_retry_leaves_from_its_own() {
    let (mut yard, host) = Yard::new().domain("a.example", Manner::Greylists);
    let two = "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"b\"\naddress = \"192.0.2.2\"\n";
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
    sending.admit(launch, "a.example", 200).await;
    sending.start();
    sending.pass(secs(3 * 3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 200, "{:?}", sending.last().values().next());
    let from: BTreeSet<IpAddr> = from.lock().unwrap().iter().copied().collect();
    assert_eq!(from.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_world_runs_the_same_way_twice() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (mut sending, host) = one(Manner::Greylists, 40, InDoubt::Resend).await;
        sending.pass(secs(7200)).await;
        runs.push((host.taken(), sending.outcomes.clone()));
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test(start_paused = true)]
async fn a_door_that_turns_out_to_be_empty_makes_room_for_the_next() {
    let host = Host::new(Manner::Takes);
    let mut yard = Yard::new().at_host("a.prov.example", &host).at_host("b.prov.example", &host);
    yard.overlay = "[[site]]\nsite = \"prov.example\"\nshape.connection_limit = 1\n".into();
    let mut sending = yard.open().await;
    let held = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    let other = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.queue.sweep(held, Sweep::Hold).await.unwrap();
    // claimed first, and put aside when it is leased
    sending.admit(held, "a.prov.example", 1).await;
    sending.admit(other, "b.prov.example", 1).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!(host.taken().len(), 1);
    sending.end().await;
}

#[tokio::test(start_paused = true)]
async fn s_008_a_host_that_wants_ipv4_gets_it_at_once() {
    let (mut yard, four) = Yard::new().domain("a.example", Manner::Takes);
    let six = Host::new(Manner::WantsIpv4);
    let address: IpAddr = "2001:db8::25".parse().unwrap();
    yard.zone = yard.zone.address(&domain("mx.a.example"), address);
    yard = yard.door(SocketAddr::new(address, 25), &six);
    let two =
        "[[source]]\nname = \"four\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"six\"\naddress = \"2001:db8::1\"\n";
    yard.settings = toml::from_str(two).unwrap();
    let mut sending = yard.open().await;
    let launch = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(launch, "a.example", 100).await;
    sending.start();
    sending.pass(secs(60)).await;
    assert_eq!(sending.standing(Standing::Delivered), 100, "{:?}", sending.outcomes.last());
    assert!(!six.book.lock().unwrap().mails.is_empty(), "it was tried");
    assert_eq!((six.taken().len(), four.taken().len()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_throttles_is_told_once_and_not_from_every_connection() {
    let (mut sending, _) = one(Manner::Throttles, 100, InDoubt::Resend).await;
    sending.pass(secs(300)).await;
    let told = sending.noticed();
    assert!((1..=3).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|notice| notice.site.as_deref() == Some("a.example")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn copies_deferred_together_do_not_come_back_as_one_wave() {
    let (mut sending, host) = one(Manner::Greylists, 500, InDoubt::Resend).await;
    sending.pass(secs(3600)).await;
    assert_eq!(sending.standing(Standing::Delivered), 500);
    let back: Vec<Duration> = host.taken().iter().map(|taken| taken.at).collect();
    let within = |at: &Duration| back.iter().filter(|other| **other >= *at && **other < *at + secs(20)).count();
    let most = back.iter().map(within).max().unwrap();
    assert!(most < 80, "{most} of 500 within 20 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_slow_launch_holds_up_no_other_in_its_domain_and_keeps_its_own_rate() {
    let (yard, host) = Yard::new().domain("a.example", Manner::Takes);
    let mut sending = yard.open().await;
    let slow = LaunchOptions { rate: Some("1/min".into()), ..LaunchOptions::default() };
    let slow = sending.launch(slow, InDoubt::Resend).await;
    let other = sending.launch(LaunchOptions::default(), InDoubt::Resend).await;
    sending.admit(slow, "a.example", 200).await;
    sending.start();
    sending.pass(secs(30)).await;
    sending.admit(other, "a.example", 50).await;
    sending.pass(secs(30)).await;
    let delivered = |sending: &Sending, launch: LaunchId| {
        let of = |outcome: &&Outcome| outcome.envelope.launch() == launch && outcome.state == Standing::Delivered;
        sending.last().values().filter(of).count()
    };
    assert_eq!(delivered(&sending, other), 50, "nobody waits behind a launch's own rate");
    // between two of its minutes: none is on the road
    sending.pass(secs(99 * 60 - 30)).await;
    let slowly = delivered(&sending, slow);
    assert!((90..=101).contains(&slowly), "{slowly} in a hundred minutes");
    assert_eq!(host.taken().len(), 50 + slowly);
}
