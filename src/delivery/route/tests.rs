//! Every way a domain can be spelt out in the name service, and the one route or ruling that follows.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::base::Timestamp;
use crate::config::Settings;
use crate::mail::Verdict;
use crate::world::{Answer, NetTable, SeededDice, Tlsa, Zone};

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn router(zone: Zone) -> Router {
    let world = World::simulated(Timestamp::default(), zone, NetTable::default(), 1);
    let shaping = Shaping::new(&Settings::default(), None).unwrap();
    Router::new(&world, Live::new(shaping), 25)
}

/// A zone in which `example.com` has these MX records (`.` for the root).
fn zone(records: &[(u16, &str)]) -> Zone {
    records.iter().fold(Zone::default(), |zone, (preference, target)| {
        let target = (*target != ".").then(|| name(target));
        zone.mx(&name("example.com"), *preference, target.as_ref())
    })
}

async fn route(zone: Zone) -> Result<Arc<Route>, NoRoute> {
    router(zone).route(&name("example.com")).await
}

fn names(route: &Route) -> Vec<&str> {
    route.hosts.iter().map(|host| &*host.name).collect()
}

async fn check_site(records: &[(u16, &str)], site: &str) {
    assert_eq!(&*route(zone(records)).await.unwrap().site, site, "{records:?}");
}

async fn check_none(zone: Zone, verdict: Verdict, class: Class, reply: &str) {
    let none = route(zone).await.unwrap_err();
    assert_eq!((none.ruling.verdict, none.ruling.class), (verdict, class), "{}", none.reply);
    assert!(none.reply.to_string().starts_with(reply), "{}", none.reply);
}

#[tokio::test(start_paused = true)]
async fn mx_hosts_come_by_preference_without_doubles_literals_or_the_root() {
    let records = [(20, "b.example.net"), (10, "a.example.net"), (30, "192.0.2.1"), (5, "."), (40, "a.example.net")];
    let route = route(zone(&records)).await.unwrap();
    assert_eq!(names(&route), ["a.example.net", "b.example.net"]);
}

#[tokio::test(start_paused = true)]
async fn without_mx_the_domain_is_its_own_host() {
    let zone = Zone::default().address(&name("example.com"), [192, 0, 2, 7].into());
    let route = route(zone).await.unwrap();
    assert_eq!((names(&route), &*route.site, route.port), (vec!["example.com"], "example.com", 25));
}

#[tokio::test(start_paused = true)]
async fn an_address_literal_is_its_own_host_and_nothing_is_looked_up() {
    for (literal, address) in [("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")] {
        let route = router(Zone::default()).route(&name(literal)).await.unwrap();
        assert_eq!((names(&route), &*route.site), (vec![address], address));
        assert_eq!(route.hosts[0].address, Some(address.parse().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_leads_nowhere_is_ruled_by_why() {
    let bad = (Verdict::Failed, Class::HardBadDomain);
    let soft = (Verdict::Deferred, Class::SoftSystem);
    check_none(zone(&[(0, ".")]), bad.0, bad.1, "556 5.1.10").await;
    check_none(Zone::default(), bad.0, bad.1, "550 5.1.2").await;
    check_none(Zone::default().down(&name("example.com"), "SERVFAIL"), soft.0, soft.1, "451 4.4.3").await;
    // Known, with neither MX nor address.
    let empty = Zone::default().address(&name("example.com"), "2001:db8::1".parse().unwrap());
    assert!(route(empty).await.is_ok(), "an IPv6 address is an address");
    // MX records, none usable, and a live address that must not be used (C-02).
    let only_literal = zone(&[(10, "192.0.2.1")]).address(&name("example.com"), [192, 0, 2, 7].into());
    check_none(only_literal, soft.0, soft.1, "451 4.4.4").await;
}

#[tokio::test(start_paused = true)]
async fn the_site_is_the_provider_else_the_shared_domain_else_the_host_set() {
    check_site(&[(1, "aspmx.l.google.com"), (5, "alt1.aspmx.l.google.com")], "google").await;
    check_site(&[(1, "mx1.mail.example.co.uk"), (1, "mx2.example.co.uk")], "example.co.uk").await;
    check_site(&[(1, "mx1.example.net"), (9, "backup.example.org")], "example.net").await;
    check_site(&[(1, "mx.example.org"), (1, "mx.example.net")], "mx.example.net,mx.example.org").await;
    check_site(&[(1, "aspmx.l.google.com"), (1, "mx.example.net")], "aspmx.l.google.com,mx.example.net").await;
    let long: Vec<String> = (0..15).map(|n| format!("a-rather-long-host-name-{n}.example{n}.net")).collect();
    let records: Vec<(u16, &str)> = long.iter().map(|host| (1, host.as_str())).collect();
    let site = route(zone(&records)).await.unwrap().site.clone();
    assert!(site.len() <= SITE_MAX, "{site}");
    check_site(&records, &site).await;
}

#[tokio::test(start_paused = true)]
async fn equal_hosts_are_shuffled_for_each_attempt_and_better_ones_always_first() {
    let records = [(10, "a.example.net"), (10, "b.example.net"), (10, "c.example.net"), (20, "d.example.net")];
    let route = route(zone(&records)).await.unwrap();
    let dice = SeededDice::new(42);
    let mut first = HashMap::new();
    for _ in 0..3000 {
        let order = route.order(&dice);
        *first.entry(order[0].name.clone()).or_insert(0) += 1;
        assert_eq!(&*order[3].name, "d.example.net");
    }
    assert_eq!(first.len(), 3);
    assert!(first.values().all(|count| (840..=1140).contains(count)), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_hosts_than_the_bound() {
    let hosts: Vec<String> = (0..60).map(|n| format!("mx{n}.example.net")).collect();
    let records: Vec<(u16, &str)> = hosts.iter().map(|host| (1, host.as_str())).collect();
    assert_eq!(route(zone(&records)).await.unwrap().hosts.len(), HOSTS_MAX);
}

/// A name service that counts its questions, takes a second for each, and never answers for `silent.example`.
struct Counting(AtomicUsize);

impl Dns for Counting {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let silent = domain.as_str() == "silent.example";
        async move {
            tokio::time::sleep(Duration::from_secs(if silent { 3600 } else { 1 })).await;
            let mx = Mx { preference: 1, target: Some(name("mx.example.net")) };
            Ok(Answer { records: vec![mx], ttl: Duration::from_secs(60), secure: false })
        }
        .boxed()
    }

    fn addresses(&self, host: &Domain, _: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>> {
        futures_util::future::ready(Err(DnsError::NoRecords { name: host.clone(), ttl: TROUBLE_TTL })).boxed()
    }

    fn text(&self, _: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        unreachable!("routes need no TXT")
    }

    fn tlsa(&self, _: &Domain, _: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        unreachable!("routes need no TLSA")
    }

    fn pointer(&self, _: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        unreachable!("routes need no PTR")
    }
}

#[tokio::test(start_paused = true)]
async fn one_question_serves_all_who_ask_until_its_time_is_over() {
    let dns = Arc::new(Counting(AtomicUsize::new(0)));
    let mut router = router(Zone::default());
    router.finder.dns = dns.clone();
    let domain = name("example.com");
    let all = futures_util::future::join_all((0..50).map(|_| router.route(&domain))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(dns.0.load(Ordering::Relaxed), 1);

    tokio::time::advance(Duration::from_secs(59)).await;
    router.route(&domain).await.unwrap();
    assert_eq!(dns.0.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    router.route(&domain).await.unwrap();
    assert_eq!(dns.0.load(Ordering::Relaxed), 2);
    router.forget(&domain);
    router.route(&domain).await.unwrap();
    assert_eq!(dns.0.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_name_service_costs_half_a_minute_and_defers() {
    let mut router = router(Zone::default());
    router.finder.dns = Arc::new(Counting(AtomicUsize::new(0)));
    let began = Instant::now();
    let none = router.route(&name("silent.example")).await.unwrap_err();
    assert_eq!(began.elapsed(), LOOKUP_MAX);
    assert_eq!(none.ruling, Ruling::deferred(Blame::Site, Class::SoftSystem));
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_the_soonest_to_end_go_first() {
    let mut known = HashMap::new();
    let now = Instant::now();
    let none = NoRoute::deferred(EnhancedCode(4, 4, 3), String::new());
    for n in 0..ROUTES_MAX {
        let until = now + Duration::from_secs(1 + n as u64);
        known.insert(name(&format!("d{n}.example")), Known::Found(Err(none.clone()), until));
    }
    make_room(&mut known, now);
    assert_eq!(known.len(), ROUTES_MAX - ROUTES_MAX / 8);
    assert!(!known.contains_key(&name("d0.example")) && known.contains_key(&name("d49999.example")));
    make_room(&mut known, now + Duration::from_secs(60_000));
    assert!(known.is_empty());
}
