//! Hosts that fail in every way before MAIL, and where the dialler goes next.

use std::io;

use futures_util::FutureExt;
use futures_util::future::ready;

use super::*;
use crate::base::{SourceId, Timestamp};
use crate::config::Settings;
use crate::config::shaping::{Shaping, Tls};
use crate::delivery::sts::Policy;
use crate::delivery::via::Via;
use crate::mail::EnhancedCode;
use crate::world::{NetTable, Tlsa, Zone};

const A: &str = "a.example.net";
const B: &str = "b.example.net";

/// What dialling an address comes to.
#[derive(Clone, Copy)]
enum Tcp {
    Up,
    Refused,
    Silent,
    NoSource,
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A dialler in a world of these hosts: name, address, what dialling comes to.
fn dialler(hosts: &[(&str, &str, Tcp)]) -> Dialler {
    let zone = hosts.iter().fold(Zone::default(), |zone, (host, address, _)| zone.address(&name(host), ip(address)));
    let net = hosts.iter().fold(NetTable::default(), |net, (_, address, tcp)| {
        let tcp = *tcp;
        net.host(SocketAddr::new(ip(address), 25), move |_| match tcp {
            Tcp::Up => ready(Ok(Box::new(tokio::io::duplex(64).0) as Box<dyn Stream>)).boxed(),
            Tcp::Refused => ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
            Tcp::NoSource => ready(Err(io::ErrorKind::AddrNotAvailable.into())).boxed(),
            Tcp::Silent => futures_util::future::pending().boxed(),
        })
    });
    Dialler::new(World::simulated(Timestamp::default(), zone, net, 1), false)
}

fn route(hosts: &[(u16, &str)]) -> Route {
    let hosts =
        hosts.iter().map(|(preference, host)| Host { name: (*host).into(), preference: *preference, address: None });
    Route {
        site: "example.net".into(),
        hosts: hosts.collect(),
        port: 25,
        via: None,
        relay: None,
        choices: None,
        proved: false,
        policy: None,
        trial: false,
    }
}

fn source(address: Option<&str>) -> Source {
    Source {
        id: SourceId(0),
        name: "a".into(),
        address: address.map(ip),
        ehlo_name: "mx.example.com".into(),
        warmup: None,
    }
}

fn shape(tls: Tls) -> SiteShape {
    SiteShape { tls, ..Shaping::new(&Settings::default(), None).unwrap().shape("example.net", "a") }
}

fn reply(code: u16) -> Result<Reply, Fault> {
    Ok(Reply { code, enhanced: EnhancedCode::parse("4.3.2"), text: "no".into() })
}

/// Two hosts that are there, and what the zone of the first says of its certificate.
fn announcing(zone: impl FnOnce(Zone) -> Zone) -> Dialler {
    let up = [(A, "198.51.100.1", Tcp::Up), (B, "198.51.100.2", Tcp::Up)];
    let names = Zone::default().address(&name(A), ip("198.51.100.1")).address(&name(B), ip("198.51.100.2"));
    let mut dialler = dialler(&up);
    dialler.world.dns = Arc::new(zone(names));
    dialler
}

/// Dials with doors that answer by host name, and returns the outcome with the doors knocked at.
async fn dial(
    dialler: &Dialler,
    route: &Route,
    tls: Tls,
    door: impl Fn(&str, Demand) -> Result<(), Shut>,
) -> (Result<Dialled<()>, Trouble>, Vec<(Arc<str>, Demand)>) {
    let mut knocked = Vec::new();
    let found = dialler
        .dial(route, &source(None), &shape(tls), |_, host, demand| {
            let answer = door(&host, demand.clone());
            knocked.push((host, demand));
            ready(answer)
        })
        .await;
    (found, knocked)
}

fn shut(stage: Stage, heard: Result<Reply, Fault>) -> Result<(), Shut> {
    Err(Shut { stage, heard, flaw: None })
}

#[tokio::test(start_paused = true)]
async fn the_next_host_follows_where_the_first_cannot_be_reached_or_is_busy() {
    for first in [Tcp::Refused, Tcp::Silent, Tcp::Up] {
        let dialler = dialler(&[(A, "198.51.100.1", first), (B, "198.51.100.2", Tcp::Up)]);
        let busy_at_a = |host: &str, _| if host == A { shut(Stage::Greet, reply(421)) } else { Ok(()) };
        let (found, _) = dial(&dialler, &route(&[(10, A), (20, B)]), Tls::Opportunistic, busy_at_a).await;
        let found = found.unwrap();
        assert_eq!((found.host, found.address), (Some(name(B)), ip("198.51.100.2")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_5xx_greeting_is_the_sites_word() {
    let dialler = dialler(&[(A, "198.51.100.1", Tcp::Up), (B, "198.51.100.2", Tcp::Up)]);
    let no = |_: &str, _| shut(Stage::Greet, reply(554));
    let (found, knocked) = dial(&dialler, &route(&[(10, A), (20, B)]), Tls::Opportunistic, no).await;
    let Trouble { stage, host, heard, .. } = found.unwrap_err();
    assert_eq!((stage, host, heard), (Stage::Greet, Some(name(A)), reply(554)));
    assert_eq!(knocked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn all_addresses_of_a_host_are_tried_within_the_bound() {
    let hosts: Vec<(&str, String, Tcp)> = (1..=8).map(|n| (A, format!("198.51.100.{n}"), Tcp::Refused)).collect();
    let hosts: Vec<(&str, &str, Tcp)> =
        hosts.iter().map(|(host, address, tcp)| (*host, address.as_str(), *tcp)).collect();
    let mut two = hosts[..2].to_vec();
    two[1].2 = Tcp::Up;
    let (found, _) = dial(&dialler(&two), &route(&[(1, A)]), Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap().address, ip("198.51.100.2"));

    let began = Instant::now();
    let silent: Vec<_> = hosts.iter().map(|(host, address, _)| (*host, *address, Tcp::Silent)).collect();
    let (found, _) = dial(&dialler(&silent), &route(&[(1, A)]), Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap_err().heard, Err(Fault::TimedOut(Duration::from_secs(60))));
    assert_eq!(began.elapsed(), Duration::from_secs(60) * TRIES_MAX as u32);
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_falls_back_to_clear_text_once_and_is_remembered() {
    let dialler = dialler(&[(A, "198.51.100.1", Tcp::Up)]);
    let broken = |_: &str, demand| match demand {
        Demand::Clear => Ok(()),
        _ => shut(Stage::Secure, Err(Fault::Tls("handshake failure".into()))),
    };
    let route = route(&[(1, A)]);
    let (found, knocked) = dial(&dialler, &route, Tls::Opportunistic, broken).await;
    assert!(found.is_ok());
    assert_eq!(knocked, [(A.into(), Demand::Opportunistic), (A.into(), Demand::Clear)]);
    let (_, knocked) = dial(&dialler, &route, Tls::Opportunistic, broken).await;
    assert_eq!(knocked, [(A.into(), Demand::Clear)], "remembered");
    let (found, knocked) = dial(&dialler, &route, Tls::Required, broken).await;
    assert!(matches!(found.unwrap_err().heard, Err(Fault::Tls(_))));
    assert_eq!(knocked, [(A.into(), Demand::Required)], "never in clear where TLS is demanded");
}

#[tokio::test(start_paused = true)]
async fn poison_targets_are_refused_without_a_socket_unless_allowed() {
    let hosts = [("localhost.example.net", "127.0.0.1", Tcp::Up)];
    let route = route(&[(0, "localhost.example.net")]);
    let mut dialler = dialler(&hosts);
    let (found, knocked) = dial(&dialler, &route, Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap_err().heard, Err(Fault::Forbidden(ip("127.0.0.1"))));
    assert!(knocked.is_empty());
    dialler.allow_private = true;
    assert!(dial(&dialler, &route, Tls::Opportunistic, |_, _| Ok(())).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_relay_may_be_private_and_its_scheme_decides_on_tls() {
    let dialler = dialler(&[(A, "127.0.0.1", Tcp::Up)]);
    for (via, demand) in [
        ("smtp://127.0.0.1:25", Demand::Opportunistic),
        ("smtp+starttls://a.example.net:25", Demand::Verified),
        ("smtps://a.example.net:25", Demand::Implicit),
    ] {
        let route = Route::through(Via::parse(via).unwrap());
        let (found, knocked) = dial(&dialler, &route, Tls::Disabled, |_, _| Ok(())).await;
        assert!(found.is_ok(), "{via}");
        assert_eq!(knocked[0].1, demand);
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_without_addresses_defer_and_a_lost_source_ends_at_once() {
    let route = route(&[(1, A), (2, B)]);
    let nothing = dialler(&[]);
    let (found, _) = dial(&nothing, &route, Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap_err().heard, Err(Fault::NoAddress));
    let lost = dialler(&[(A, "198.51.100.1", Tcp::NoSource), (B, "198.51.100.2", Tcp::Up)]);
    let (found, _) = dial(&lost, &route, Tls::Opportunistic, |_, _| Ok(())).await;
    assert!(matches!(found.unwrap_err().heard, Err(Fault::SourceGone(_))));
}

#[tokio::test(start_paused = true)]
async fn a_family_that_failed_comes_last_for_ten_minutes() {
    let dialler = dialler(&[(A, "2001:db8::1", Tcp::Up), (A, "198.51.100.1", Tcp::Refused)]);
    let via = Route { port: 25, ..Route::through(Via::parse("smtp://a.example.net").unwrap()) };
    let order = async || dialler.addresses(&via.hosts[0], &via, &source(None)).await.unwrap().0;
    assert_eq!(order().await, [ip("2001:db8::1"), ip("198.51.100.1")]);
    dialler.remember_dead(&via.hosts[0], ip("2001:db8::9"));
    assert_eq!(order().await, [ip("198.51.100.1"), ip("2001:db8::1")]);
    tokio::time::advance(FAMILY_TTL).await;
    assert_eq!(order().await, [ip("2001:db8::1"), ip("198.51.100.1")]);
}

#[test]
fn poison_is_known_in_every_disguise() {
    for bad in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ] {
        assert!(is_inward(ip(bad)), "{bad}");
    }
    for good in ["198.51.100.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "64:ff9b::c633:6401"] {
        assert!(!is_inward(ip(good)), "{good}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_leaves_only_the_hosts_it_names_and_never_clear_text() {
    let policy = Policy::parse("1", "version: STSv1\nmode: enforce\nmx: b.example.net\nmax_age: 60\n").unwrap();
    let dialler = dialler(&[(A, "198.51.100.1", Tcp::Up), (B, "198.51.100.2", Tcp::Up)]);
    let route = Route { policy: Some(policy.into()), ..route(&[(10, A), (20, B)]) };
    let (found, knocked) = dial(&dialler, &route, Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap().host, Some(name(B)));
    assert_eq!(knocked, [(Arc::from(B), Demand::Verified)]);

    let broken = |_: &str, _| shut(Stage::Secure, Err(Fault::Tls("expired".into())));
    let (found, knocked) = dial(&dialler, &route, Tls::Opportunistic, broken).await;
    assert_eq!(found.unwrap_err().heard, Err(Fault::Tls("expired".into())));
    assert_eq!(knocked.len(), 1, "no second knock in clear");
    assert!(!route.admits(A, true) && !route.admits(B, false) && route.admits(B, true));
}

#[tokio::test(start_paused = true)]
async fn s_034_what_a_proved_zone_announces_is_demanded() {
    let announced = Tlsa { usage: 3, selector: 1, matching: 1, data: vec![7; 32] };
    let unusable = Tlsa { usage: 1, ..announced.clone() };
    let demand = Demand::Announced(Arc::new(Associations::usable(std::slice::from_ref(&announced)).unwrap()));
    let proved = Route { proved: true, ..route(&[(10, A), (20, B)]) };
    let signed = |record: &Tlsa| announcing(|zone| zone.secure(&name(A)).tlsa(&name(A), 25, record.clone()));
    let knocks = async |dialler: &Dialler, route: &Route, broken: bool| {
        let door = |host: &str, _| match broken && host == A {
            true => shut(Stage::Secure, Err(Fault::Tls("another certificate".into()))),
            false => Ok(()),
        };
        dial(dialler, route, Tls::Opportunistic, door).await
    };

    let (found, knocked) = knocks(&signed(&announced), &proved, false).await;
    assert_eq!((found.unwrap().host, &knocked[0].1), (Some(name(A)), &demand), "a match");

    let (found, knocked) = knocks(&signed(&announced), &proved, true).await;
    assert_eq!(found.unwrap().host, Some(name(B)), "a mismatch leads to the next host");
    assert_eq!(knocked, [(Arc::from(A), demand), (Arc::from(B), Demand::Opportunistic)], "and never to clear text");

    let (_, knocked) = knocks(&signed(&unusable), &proved, false).await;
    assert_eq!(knocked[0].1, Demand::Required, "TLS at least");

    let bogus = announcing(|zone| zone.secure(&name(A)).tlsa_down(&name(A), "DNSSEC validation failed"));
    let (found, knocked) = knocks(&bogus, &proved, false).await;
    assert_eq!(
        (found.unwrap().host, knocked.len()),
        (Some(name(B)), 1),
        "a host whose zone is tampered with is left out"
    );
    let only = Route { proved: true, ..route(&[(10, A)]) };
    let trouble = knocks(&bogus, &only, false).await.0.unwrap_err();
    assert!(matches!(&trouble.heard, Err(Fault::Unreachable(why)) if why.contains("TLSA")), "{trouble:?}");

    let (_, knocked) = knocks(&signed(&announced), &route(&[(10, A)]), false).await;
    assert_eq!(knocked[0].1, Demand::Opportunistic, "MX records that nobody signed lead anywhere");
    let unsigned = announcing(|zone| zone.tlsa(&name(A), 25, announced.clone()));
    assert_eq!(knocks(&unsigned, &proved, false).await.1[0].1, Demand::Opportunistic, "and so do addresses");
}

#[tokio::test(start_paused = true)]
async fn what_a_zone_announces_replaces_the_domains_policy() {
    let policy = Policy::parse("1", "version: STSv1\nmode: enforce\nmx: b.example.net\nmax_age: 60\n").unwrap();
    let route = Route { proved: true, policy: Some(policy.into()), ..route(&[(10, A), (20, B)]) };
    let announced = Tlsa { usage: 3, selector: 1, matching: 1, data: vec![7; 32] };
    let dialler = announcing(|zone| zone.secure(&name(A)).tlsa(&name(A), 25, announced));
    let (found, knocked) = dial(&dialler, &route, Tls::Opportunistic, |_, _| Ok(())).await;
    assert_eq!(found.unwrap().host, Some(name(A)));
    assert!(matches!(knocked[0].1, Demand::Announced(_)), "{knocked:?}");
    let failing = |_: &str, _| shut(Stage::Secure, Err(Fault::Tls("another certificate".into())));
    let (_, knocked) = dial(&dialler, &route, Tls::Opportunistic, failing).await;
    assert_eq!(knocked[1], (Arc::from(B), Demand::Verified), "the next host announces nothing: the policy holds there");
}
