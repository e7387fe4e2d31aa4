//! Policies as they are written, and what becomes of them when names and hosts go away.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::base::Timestamp;
use crate::world::{Answer, DnsError, Mx, NetTable, Stream, Tlsa, World, Zone};

const POLICY: &str = "version: STSv1\nmode: enforce\nmx: mx.example.org\nmx: *.backup.example.org\nmax_age: 86400\n";

fn domain() -> Domain {
    Domain::parse("example.org").unwrap()
}

/// Names that can be taken away.
struct Names {
    zone: Zone,
    asked: AtomicUsize,
    record: Mutex<Option<&'static str>>,
}

impl Dns for Names {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        Dns::mx(&self.zone, domain)
    }

    fn addresses(&self, host: &Domain, v6: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>> {
        Dns::addresses(&self.zone, host, v6)
    }

    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        assert_eq!(name, "_mta-sts.example.org");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let record = *self.record.lock().unwrap();
        let answer = record.map(|text| Answer {
            records: text.split('|').map(str::to_owned).collect(),
            ttl: Duration::from_secs(300),
            secure: false,
        });
        let gone = DnsError::Unavailable { name: domain(), why: "SERVFAIL".into() };
        futures_util::future::ready(answer.ok_or(gone)).boxed()
    }

    fn tlsa(&self, host: &Domain, port: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        Dns::tlsa(&self.zone, host, port)
    }

    fn pointer(&self, address: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        Dns::pointer(&self.zone, address)
    }
}

/// A world where the policy host answers with what `answer` holds, and counts how often it was asked.
struct House {
    policies: Policies,
    names: Arc<Names>,
    answer: Arc<Mutex<String>>,
    fetched: Arc<AtomicUsize>,
}

fn house(record: &'static str, policy: &str) -> House {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["mta-sts.example.org".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let server = server.unwrap().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let answer = Arc::new(Mutex::new(ok(policy)));
    let fetched = Arc::new(AtomicUsize::new(0));
    let address: IpAddr = "192.0.2.80".parse().unwrap();
    let (said, count) = (answer.clone(), fetched.clone());
    let net = NetTable::default().host(SocketAddr::new(address, 443), move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 17);
        let (acceptor, said, count) = (acceptor.clone(), said.lock().unwrap().clone(), count.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(theirs).await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut vec![0; 4096]).await;
            let _ = stream.write_all(said.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
        std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    let zone = Zone::default().address(&Domain::parse("mta-sts.example.org").unwrap(), address);
    let world = World::simulated(Timestamp::default(), zone.clone(), net, 1);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_root_certificates(roots).with_no_client_auth());
    let names = Arc::new(Names { zone, asked: AtomicUsize::new(0), record: Mutex::new(Some(record)) });
    let policies = Policies::new(names.clone(), Http::new(&world, tls, false));
    House { policies, names, answer, fetched }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn hosts_are_named_whole_or_by_all_but_their_first_label() {
    let policy = Policy::parse("1", POLICY).unwrap();
    for good in ["mx.example.org", "MX.Example.Org", "a.backup.example.org"] {
        assert!(policy.names(good), "{good}");
    }
    for bad in ["example.org", "backup.example.org", "a.b.backup.example.org", "mx.example.org.evil.example", "org"] {
        assert!(!policy.names(bad), "{bad}");
    }
}

#[test]
fn what_no_host_is_called_is_passed_over() {
    let long = format!("{}.example", "a".repeat(1000));
    let controls = "\u{1}".repeat(600);
    let text = format!(
        "{POLICY}mx: {long}\nmx: {controls}\nmx: *\nmx: a b.example\nmx: [192.0.2.1]\nmx:\nmx: MX2.Example.Org.\n"
    );
    let policy = Policy::parse("1", &text).unwrap();
    assert_eq!(policy.hosts(), ["mx.example.org", "*.backup.example.org", "mx2.example.org"]);
    assert_eq!(Policy::parse("1", &format!("version: STSv1\nmode: enforce\nmx: {long}\nmax_age: 1\n")), None);
}

#[test]
fn what_is_no_policy_is_none() {
    assert_eq!(Policy::parse("1", &POLICY.replace('\n', "\r\n")), Policy::parse("1", POLICY));
    for bad in [
        "",
        "<html>not found</html>",
        "version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmax_age: 1\n",
        "version: STSv1\nmode: strict\nmx: a.example\nmax_age: 1\n",
        "version: STSv1\nmode: enforce\nmx: a.example\n",
        "version: STSv1\nmode: enforce\nmx: a.example\nmax_age: -1\n",
    ] {
        assert_eq!(Policy::parse("1", bad), None, "{bad}");
    }
    let ages = Policy::parse("1", &POLICY.replace("86400", "99999999999")).unwrap().max_age;
    assert_eq!(ages, Duration::from_secs(AGE_MAX));
}

#[tokio::test(start_paused = true)]
async fn an_enforced_policy_is_found_once_and_kept() {
    let house = house("v=STSv1; id=20260101;", POLICY);
    for _ in 0..3 {
        assert!(house.policies.find(&domain()).await.unwrap().names("mx.example.org"));
    }
    assert_eq!((house.names.asked.load(Ordering::Relaxed), house.fetched.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_known_policy_outlives_names_and_host_until_its_age() {
    let house = house("v=STSv1; id=1", POLICY);
    assert!(house.policies.find(&domain()).await.is_some());
    *house.names.record.lock().unwrap() = None;
    *house.answer.lock().unwrap() = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into();
    tokio::time::advance(Duration::from_secs(80_000)).await;
    assert!(house.policies.find(&domain()).await.is_some());
    tokio::time::advance(Duration::from_secs(7_000)).await;
    assert!(house.policies.find(&domain()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn another_id_fetches_another_policy_and_a_failed_fetch_keeps_the_old() {
    let house = house("v=STSv1; id=1", POLICY);
    house.policies.find(&domain()).await.unwrap();
    *house.names.record.lock().unwrap() = Some("v=STSv1; id=2");
    *house.answer.lock().unwrap() =
        "HTTP/1.1 302 Found\r\nLocation: https://x.example/\r\nContent-Length: 0\r\n\r\n".into();
    tokio::time::advance(RECHECK).await;
    assert!(house.policies.find(&domain()).await.unwrap().names("mx.example.org"), "a redirect is not followed");
    *house.answer.lock().unwrap() = ok(&POLICY.replace("mx.example.org", "new.example.org"));
    tokio::time::advance(RECHECK).await;
    let policy = house.policies.find(&domain()).await.unwrap();
    assert!(policy.names("new.example.org") && !policy.names("mx.example.org"));
}

#[tokio::test(start_paused = true)]
async fn where_there_is_nothing_to_follow_there_is_none() {
    for (record, policy) in [
        ("v=STSv1; id=1", POLICY.replace("enforce", "testing")),
        ("v=STSv1; id=1", POLICY.replace("enforce", "none")),
        ("v=STSv1; id=1|v=STSv1; id=2", POLICY.to_owned()),
        ("v=spf1 -all", POLICY.to_owned()),
        ("v=STSv1;", POLICY.to_owned()),
        ("v=STSv1; id=1", format!("{POLICY}{}", "x".repeat(POLICY_MAX))),
    ] {
        assert_eq!(house(record, &policy).policies.find(&domain()).await, None, "{record}");
    }
}
