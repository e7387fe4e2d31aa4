//! What strangers ask of our pages, and what servers we ask answer.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mailshot::base::{Address, CampaignName, ContactId, Domain, EnvelopeId, Purpose, Seal, Timestamp};
use mailshot::compose::ConsentRule;
use mailshot::config::{Mailbox, MailboxProtocol};
use mailshot::delivery::spf::evaluate;
use mailshot::mail::InDoubt;
use mailshot::outcome::{Fetcher, Policy, ReturnDesk};
use mailshot::smtp::TlsClient;
use mailshot::store::{LaunchKind, LaunchOptions, MembershipStatus, NewContact, NewLaunch, OnConflict, Store, Threads};
use mailshot::web::{Editions, Looks, Pages, Tracker, router};
use mailshot::world::{Http, Net, SeededDice, SimulatedClock, Stream, World, Zone};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{folder, in_time, pieces, seal};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

/// A token nobody minted opens nothing; one that opens says again what it was minted from.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Seal::parse(&text);
    let purposes = [Purpose::Bounce, Purpose::Unsubscribe, Purpose::Message, Purpose::Feedback];
    for purpose in purposes {
        if let Some((id, extra)) = seal().open(&text, purpose) {
            let minted = seal().mint(id, purpose, extra);
            assert!(minted.as_str().eq_ignore_ascii_case(&text), "{text} opens like {}", minted.as_str());
            assert!(
                purposes.iter().filter(|other| **other != purpose).all(|other| seal().open(&text, *other).is_none())
            );
        }
    }
}

/// A reader on one list, and a launch to it.
fn house() -> (Store, EnvelopeId) {
    let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).expect("a record");
    let copy = in_time(async {
        let list = store.make_list("news".to_owned(), NOW).await?;
        let import = store.begin_import("people.csv".to_owned(), list, None, NOW).await?;
        let ada = NewContact {
            address: Address::parse("ada@example.org").expect("an address"),
            name: "Ada".to_owned(),
            fields: serde_json::Map::new(),
            bucket: 0,
        };
        store.import_batch(vec![ada], list, import, OnConflict::Fill, NOW).await?;
        let campaign = CampaignName::parse("welcome").expect("a name");
        let edition = store.put_edition([1; 32], &campaign, b"{}".to_vec(), NOW).await?;
        let launch = NewLaunch {
            campaign,
            kind: LaunchKind::Campaign,
            edition,
            in_doubt: InDoubt::Resend,
            options: LaunchOptions::default(),
            lists: vec![list],
        };
        Ok::<_, mailshot::store::Error>(EnvelopeId::new(store.create_launch(launch, NOW).await?, ContactId(1)))
    });
    (store, copy.expect("a record in memory"))
}

/// Requests of any kind: never an error of ours, and only POST with a token changes anything. `{t}` in the path stands for a
/// good token.
pub fn http(data: &[u8]) {
    let (store, copy) = house();
    let minted = seal().mint(copy, Purpose::Unsubscribe, 0);
    let [method, data @ ..] = data else { return };
    let (path, rest) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let path = String::from_utf8_lossy(path).replace("{t}", minted.as_str());
    let method =
        [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::OPTIONS][usize::from(*method) % 5].clone();
    let mut request = Request::builder().method(method.clone()).uri(path.as_str());
    let (heads, body) = rest.split_at(rest.iter().skip(1).position(|byte| *byte == 0).map_or(0, |at| at + 1));
    for line in heads.split(|byte| *byte == b'\n').take(20) {
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            request = request.header(&line[..colon], &line[colon + 1..]);
        }
    }
    let Ok(request) = request.body(Body::from(body.to_vec())) else { return };
    let response = in_time(async {
        let pages = Pages {
            store: store.clone(),
            seal: seal().clone(),
            clock: Arc::new(SimulatedClock::starting(NOW)),
            looks: Arc::new(Looks::load(Path::new("/nowhere")).expect("the built-in looks")),
            tracker: Tracker::start(store.clone()).0,
            editions: Editions::default(),
            consent_rule: ConsentRule::OptOut,
            signups: None,
        };
        router(pages).oneshot(request).await.expect("an answer")
    });
    assert!(!response.status().is_server_error(), "{method} {path}: {}", response.status());
    let row = &store.subscriptions(copy).expect("a record")[0];
    let may_leave = method == Method::POST && path.contains(minted.as_str());
    assert!(row.status == MembershipStatus::Subscribed || may_leave, "{method} {path} changed the record");
}

/// A server behind TLS that says a piece of its script after each thing it hears.
#[derive(Clone)]
struct Scripted {
    script: Vec<Vec<u8>>,
    tls: TlsAcceptor,
}

impl Net for Scripted {
    fn dial(&self, _: Option<IpAddr>, _: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut script: VecDeque<Vec<u8>> = self.script.clone().into();
        let tls = self.tls.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(theirs).await else { return };
            let mut heard = [0; 4096];
            while let Some(piece) = script.pop_front() {
                let said = stream.write_all(&piece).await.is_ok() && stream.flush().await.is_ok();
                if !said || !matches!(stream.read(&mut heard).await, Ok(1..)) {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        });
        std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    }
}

/// A certificate for the server's name, and a client that trusts it.
fn trust() -> &'static (TlsAcceptor, TlsClient) {
    static MADE: LazyLock<(TlsAcceptor, TlsClient)> = LazyLock::new(|| {
        let names = ["mail.example".to_owned(), "mta-sts.example.org".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let file = folder().join("ca.pem");
        std::fs::write(&file, made.cert.pem()).expect("a file");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let server = server.expect("versions").with_no_client_auth();
        let server = server.with_single_cert(vec![made.cert.der().clone()], key.into()).expect("a server");
        (TlsAcceptor::from(Arc::new(server)), TlsClient::new(Some(&file)).expect("a client"))
    });
    &MADE
}

fn world(script: Vec<Vec<u8>>) -> World {
    let domain = |name| Domain::parse(name).expect("a domain");
    let zone = Zone::default()
        .address(&domain("mail.example"), Ipv4Addr::new(192, 0, 2, 1).into())
        .address(&domain("mta-sts.example.org"), Ipv4Addr::new(192, 0, 2, 2).into())
        .text("_mta-sts.example.org", "v=STSv1; id=1");
    World {
        clock: Arc::new(SimulatedClock::starting(NOW)),
        dns: Arc::new(zone),
        net: Arc::new(Scripted { script, tls: trust().0.clone() }),
        dice: Arc::new(SeededDice::new(1)),
    }
}

fn script(data: &[u8]) -> Vec<Vec<u8>> {
    data.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn mailbox(data: &[u8], protocol: MailboxProtocol) {
    static DESK: LazyLock<ReturnDesk> = LazyLock::new(|| ReturnDesk {
        store: Store::open("sqlite::memory:", Path::new("."), Threads::Inline).expect("a record"),
        seal: seal().clone(),
        policy: Arc::new(Policy::new(&mailshot::config::Settings::default().bounce)),
        clock: Arc::new(SimulatedClock::starting(NOW)),
    });
    let password = folder().join("password");
    std::fs::write(&password, "secret\n").expect("a file");
    let mailbox = Mailbox {
        name: "bounces".into(),
        protocol,
        host: "mail.example".into(),
        user: "b".into(),
        password_file: Some(password),
        ..Mailbox::default()
    };
    let fetcher = Fetcher::all(&[mailbox], &world(script(data)), &trust().1, &DESK.store, false).remove(0);
    let _ = in_time(async { fetcher.collect(&*DESK).await });
}

/// An IMAP server that says anything.
pub fn imap(data: &[u8]) {
    mailbox(data, MailboxProtocol::Imap);
}

/// A POP3 server that says anything.
pub fn pop3(data: &[u8]) {
    mailbox(data, MailboxProtocol::Pop3);
}

/// A web server that answers anything, to our client as it fetches a policy.
pub fn http_reply(data: &[u8]) {
    in_time(async {
        let mut pieces = vec![Vec::new()];
        pieces.extend(script(data));
        let http = Http::new(&world(pieces), trust().1.verified(), true);
        let reply = http.get("https://mta-sts.example.org/.well-known/mta-sts.txt", 1000, Duration::from_secs(5)).await;
        assert!(reply.map_or(0, |reply| reply.body.len()) <= 1000);
    });
}

/// SPF records that say anything: an end within the limits of RFC 7208.
pub fn spf(data: &[u8]) {
    let records = pieces(data, 8);
    let names =
        ["example.com", "a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example"];
    let zone = names.iter().zip(&records).fold(Zone::default(), |zone, (name, record)| zone.text(name, record));
    let domain = Domain::parse("example.com").expect("a domain");
    let address = Some(IpAddr::from([192, 0, 2, 1]));
    let _ = in_time(async { (evaluate(&zone, &domain, address).await, evaluate(&zone, &domain, None).await) });
}
