//! A provider with a token endpoint and a POP3 server, both over TLS in a simulated world, and a mailbox read there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex as Lock;

use data_encoding::BASE64;
use futures_util::FutureExt;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::base::Domain;
use crate::config::{MailboxProtocol, MailboxTls};
use crate::outcome::fetch::place;
use crate::outcome::{Fetcher, Policy, ReturnDesk, Round};
use crate::smtp::TlsClient;
use crate::store::{Store, Threads};
use crate::world::{NetTable, Stream, World, Zone};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const ENDPOINT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const MAIL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// The provider, as it stands.
#[derive(Default)]
struct Provider {
    /// The refresh token that is good; any when empty.
    refresh: String,
    /// The one given out with the next token.
    next_refresh: Option<String>,
    /// Seconds a token lives.
    life: u64,
    /// What the endpoint answers instead of a token.
    answer: Option<(u16, &'static str)>,
    /// Whether the mail server takes no token whatever.
    is_deaf: bool,
    /// What the endpoint was asked.
    asked: Vec<String>,
    /// Tokens shown to the mail server.
    shown: Vec<String>,
}

type Shared = Arc<Lock<Provider>>;

impl Provider {
    /// The answer to a request for a token.
    fn give(&mut self, form: &str) -> (u16, String) {
        self.asked.push(form.to_owned());
        if let Some((status, body)) = self.answer {
            return (status, body.to_owned());
        }
        if !self.refresh.is_empty() && !form.contains(&format!("refresh_token={}", self.refresh)) {
            return (
                400,
                r#"{"error":"invalid_grant","error_description":"Token of b@mail.example revoked"}"#.to_owned(),
            );
        }
        let (number, life) = (self.asked.len(), self.life);
        let renewed = self.next_refresh.take().inspect(|new| self.refresh.clone_from(new));
        let refresh = renewed.map_or(String::new(), |new| format!(r#","refresh_token":"{new}""#));
        (200, format!(r#"{{"access_token":"t{number}","token_type":"Bearer","expires_in":{life}{refresh}}}"#))
    }
}

async fn serve_endpoint(mut stream: impl Stream, provider: Shared) {
    let mut heard = Vec::new();
    let mut form = String::new();
    while stream.read_buf(&mut heard).await.is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&heard).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.lines().next()?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            form = body.to_owned();
            break;
        }
    }
    let (status, body) = provider.lock().unwrap().give(&form);
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// An empty POP3 mailbox behind XOAUTH2.
async fn serve_mail(stream: impl Stream, provider: Shared) {
    let mut stream = BufReader::new(stream);
    let _ = stream.get_mut().write_all(b"+OK ready\r\n").await;
    let mut line = String::new();
    while {
        line.clear();
        stream.read_line(&mut line).await.is_ok_and(|read| read > 0)
    } {
        let answer = match line.trim_end() {
            "CAPA" => "+OK\r\nSASL XOAUTH2\r\n.\r\n",
            "AUTH XOAUTH2" => "+ \r\n",
            "LIST" | "UIDL" => "+OK\r\n.\r\n",
            "QUIT" => "+OK\r\n",
            words => {
                let words = String::from_utf8(BASE64.decode(words.as_bytes()).unwrap()).unwrap();
                let token = words.split("Bearer ").nth(1).unwrap().trim_end_matches('\x01').to_owned();
                let mut provider = provider.lock().unwrap();
                provider.shown.push(token);
                if provider.is_deaf { "-ERR [AUTH] no\r\n" } else { "+OK\r\n" }
            }
        };
        let _ = stream.get_mut().write_all(answer.as_bytes()).await;
    }
}

/// A mailbox at the provider.
struct Scene {
    provider: Shared,
    fetcher: Fetcher,
    desk: ReturnDesk,
    folder: tempfile::TempDir,
}

impl Scene {
    /// With the refresh token `r1` in a file.
    fn set(provider: Provider) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("refresh"), "r1\n").unwrap();
        std::fs::write(folder.path().join("secret"), "hush & more\n").unwrap();
        let oauth = MailboxOauth {
            token_url: "https://login.example/token".into(),
            client_id: "mailshot".into(),
            client_secret_file: Some(folder.path().join("secret")),
            refresh_token_file: Some(folder.path().join("refresh")),
            scope: Some("https://mail.example/ offline_access".into()),
            ..MailboxOauth::default()
        };
        Scene::with(folder, provider, oauth)
    }

    fn with(folder: tempfile::TempDir, provider: Provider, oauth: MailboxOauth) -> Scene {
        let provider = Arc::new(Lock::new(Provider { life: 3600, ..provider }));
        let made = rcgen::generate_simple_self_signed(vec!["login.example".into(), "mail.example".into()]).unwrap();
        let authority = folder.path().join("ca.pem");
        std::fs::write(&authority, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let door = |at: SocketAddr| {
            let (acceptor, provider) = (acceptor.clone(), provider.clone());
            move |_| {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                let (acceptor, provider) = (acceptor.clone(), provider.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(theirs).await else { return };
                    match at.port() {
                        443 => serve_endpoint(stream, provider).await,
                        _ => serve_mail(stream, provider).await,
                    }
                });
                std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
            }
        };
        let (endpoint, mail) = (SocketAddr::new(ENDPOINT, 443), SocketAddr::new(MAIL, 995));
        let net = NetTable::default().host(endpoint, door(endpoint)).host(mail, door(mail));
        let domain = |name| Domain::parse(name).unwrap();
        let zone = Zone::default().address(&domain("login.example"), ENDPOINT).address(&domain("mail.example"), MAIL);
        let world = World::simulated(START, zone, net, 1);
        let mailbox = Mailbox {
            name: "returns".into(),
            protocol: MailboxProtocol::Pop3,
            tls: MailboxTls::Implicit,
            host: "mail.example".into(),
            user: "b@mail.example".into(),
            oauth: Some(oauth),
            ..Mailbox::default()
        };
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let seal = crate::base::Seal::new(vec![crate::base::SealKey::new('a', &[7; 32]).unwrap()]).unwrap();
        let desk =
            ReturnDesk { store: store.clone(), seal, policy: Arc::new(Policy::default()), clock: world.clock.clone() };
        let tls = TlsClient::new(Some(&authority)).unwrap();
        let fetcher = Fetcher::all(&[mailbox], &world, &tls, &store, false).remove(0);
        Scene { provider, fetcher, desk, folder }
    }

    async fn round(&self) -> Result<Round, MailboxError> {
        self.fetcher.collect(&self.desk).await
    }

    fn asked(&self) -> usize {
        self.provider.lock().unwrap().asked.len()
    }

    fn shown(&self) -> Vec<String> {
        self.provider.lock().unwrap().shown.clone()
    }

    fn set_refresh(&self, token: &str) {
        std::fs::write(self.folder.path().join("refresh"), format!("{token}\n")).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_once_and_renewed_before_it_runs_out() {
    let scene = Scene::set(Provider { refresh: "r1".into(), ..Provider::default() });
    scene.round().await.unwrap();
    scene.round().await.unwrap();
    assert_eq!(
        scene.provider.lock().unwrap().asked,
        ["client_id=mailshot&grant_type=refresh_token&refresh_token=r1&client_secret=hush+%26+more\
          &scope=https%3A%2F%2Fmail.example%2F+offline_access"]
    );
    sleep(Duration::from_secs(3600 - 301)).await;
    scene.round().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    scene.round().await.unwrap();
    assert_eq!(scene.shown(), ["t1", "t1", "t1", "t2"]);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_on_tokens_of_a_minute() {
    let scene = Scene::set(Provider::default());
    scene.provider.lock().unwrap().life = 60;
    for _ in 0..600 {
        scene.round().await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    assert!((20..=21).contains(&scene.asked()), "asked {} times", scene.asked());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_was_replaced_is_kept_in_its_file_and_the_old_one_not_shown_again() {
    let scene = Scene::set(Provider { refresh: "r1".into(), next_refresh: Some("r2".into()), ..Provider::default() });
    scene.round().await.unwrap();
    let file = scene.folder.path().join("refresh");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "r2\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    sleep(Duration::from_secs(3600)).await;
    scene.round().await.unwrap();
    assert!(scene.provider.lock().unwrap().asked[1].contains("refresh_token=r2"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_is_not_asked_again_until_there_is_another_token() {
    let scene = Scene::set(Provider { refresh: "r9".into(), ..Provider::default() });
    for _ in 0..5 {
        let refused = scene.round().await.unwrap_err();
        assert!(matches!(refused, MailboxError::Token { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("invalid_grant") && !text.contains("r1") && !text.contains("b@mail"), "{text}");
        sleep(Duration::from_secs(300)).await;
    }
    assert_eq!((scene.asked(), scene.shown().len()), (1, 0));
    scene.set_refresh("r9");
    scene.round().await.unwrap();
    assert_eq!((scene.asked(), scene.shown().len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn trouble_at_the_endpoint_passes() {
    let scene = Scene::set(Provider::default());
    for answer in [(503, ""), (429, ""), (200, "{}"), (400, r#"{"error":"temporarily_unavailable"}"#)] {
        scene.provider.lock().unwrap().answer = Some(answer);
        let error = scene.round().await.unwrap_err();
        assert!(matches!(error, MailboxError::Unreachable { .. }), "{error}");
    }
    scene.provider.lock().unwrap().answer = None;
    scene.round().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_server_refuses_is_not_shown_twice() {
    let scene = Scene::set(Provider { is_deaf: true, ..Provider::default() });
    for _ in 0..2 {
        assert!(matches!(scene.round().await.unwrap_err(), MailboxError::Login { .. }));
    }
    assert_eq!(scene.shown(), ["t1", "t2"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_the_clients_own_credentials_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "hush\n").unwrap();
    let oauth = MailboxOauth {
        token_url: "https://login.example/token".into(),
        client_id: "mailshot".into(),
        client_secret_file: Some(folder.path().join("secret")),
        ..MailboxOauth::default()
    };
    let scene = Scene::with(folder, Provider::default(), oauth);
    scene.round().await.unwrap();
    let asked = scene.provider.lock().unwrap().asked.clone();
    assert_eq!(asked, ["client_id=mailshot&grant_type=client_credentials&client_secret=hush"]);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_looked_through_by_one_at_a_time() {
    let scene = Scene::set(Provider::default());
    let mailbox = place(scene.fetcher.mailbox());
    let (store, now) = (scene.desk.store.clone(), || scene.desk.clock.now());
    let lease = async |holder: &str| {
        store.lease_mailbox(mailbox.clone(), holder.into(), now() + Duration::from_secs(120), now()).await.unwrap()
    };
    assert!(lease("another process").await);
    let taken = scene.round().await.unwrap_err();
    assert!(matches!(taken, MailboxError::Taken { .. }), "{taken}");
    assert_eq!((scene.asked(), scene.shown().len()), (0, 0), "nothing was said to anybody");
    // it is heard of no more, and its lease ends
    sleep(Duration::from_secs(121)).await;
    scene.round().await.unwrap();
    assert!(lease("another process").await, "whoever is done lets go");
    assert!(lease("another process").await, "and whoever has it may keep it");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_in_the_hands_of_the_dead_is_taken_at_once() {
    let scene = Scene::set(Provider::default());
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    let (mailbox, now) = (place(scene.fetcher.mailbox()), scene.desk.clock.now());
    dead.wait().unwrap();
    for (process, is_free) in [(dead.id(), true), (std::process::id(), false)] {
        let holder = format!("{}/{process}/0", crate::delivery::source::host_name());
        let until = now + Duration::from_secs(3600);
        assert!(scene.desk.store.lease_mailbox(mailbox.clone(), holder, until, now).await.unwrap());
        assert_eq!(scene.round().await.is_ok(), is_free);
    }
}

#[test]
fn only_a_refusal_of_the_protocol_is_final_and_what_stands_before_the_endpoint_passes() {
    let judged = |status, body: &str| {
        let reply = HttpReply { status, media_type: String::new(), body: body.as_bytes().to_vec() };
        judge(&reply).map(|answer| answer.map(|given| given.life()))
    };
    let hour = Duration::from_secs(3600);
    for life in ["3600", "\"3600\""] {
        let body = format!(r#"{{"access_token":"t","expires_in":{life}}}"#);
        assert_eq!(judged(200, &body), Ok(Ok(hour)), "{life}");
    }
    assert_eq!(judged(200, r#"{"access_token":"t","expires_in":null}"#), Ok(Ok(Duration::ZERO)));
    assert_eq!(judged(400, r#"{"error":"invalid_grant"}"#), Ok(Err("400 invalid_grant".to_owned())));
    for (status, body) in [(403, "<html>blocked</html>"), (404, ""), (407, "{}"), (429, ""), (503, "")] {
        assert!(judged(status, body).is_err(), "{status} {body}");
    }
    assert!(judged(400, r#"{"error":"temporarily_unavailable"}"#).is_err());
}
