//! The sending side against raw bytes: loopback sockets and real TLS, hosts written out line by line. Numbers such as
//! s_022 name the points of the acceptance list. Only what needs ten minutes runs on paused time, over a pipe.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mailshot::base::{Address, ContactId, EnvelopeId, LaunchId};
use mailshot::config::Secret;
use mailshot::mail::{Message, Reply, Stage, TlsFlaw, TlsVersion};
use mailshot::smtp::{
    Associations, Begun, Connection, Copy, CopySource, Ending, Error, Hello, Login, Patience, Receipt, Refused,
    Security, Timeouts, TlsClient, Verified,
};
use mailshot::world::{Stream, Tlsa};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[path = "wire/door.rs"]
mod door;

// ---- the host, line by line ------------------------------------------------------------------------------------------

/// The far end of one connection. What it does not expect, it fails on.
struct Host {
    stream: Box<dyn Stream>,
    inbox: Vec<u8>,
}

impl Host {
    fn new(stream: impl Stream + 'static) -> Host {
        Host { stream: Box::new(stream), inbox: Vec::new() }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads up to and including `end`.
    async fn hear_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = find(&self.inbox, end.as_bytes()) {
                let rest = self.inbox.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.inbox, rest)).unwrap();
            }
            assert!(self.read().await > 0, "closed before {end:?}; heard {:?}", String::from_utf8_lossy(&self.inbox));
        }
    }

    async fn read(&mut self) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let n = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.inbox.extend_from_slice(&buffer[..n]);
        n
    }

    async fn expect(&mut self, line: &str) {
        assert_eq!(self.hear_until("\r\n").await, format!("{line}\r\n"));
    }

    /// Expects these lines and nothing behind them, all in one segment.
    async fn expect_flight(&mut self, lines: &[&str]) {
        if self.inbox.is_empty() {
            self.read().await;
        }
        let heard = String::from_utf8(std::mem::take(&mut self.inbox)).unwrap();
        assert_eq!(heard.lines().collect::<Vec<_>>(), lines);
    }

    /// Whether nothing comes for a moment.
    async fn is_silent(&mut self) -> bool {
        self.inbox.is_empty() && tokio::time::timeout(Duration::from_millis(60), self.read()).await.is_err()
    }

    /// Whether the other side has closed without another word.
    async fn is_closed(&mut self) -> bool {
        self.inbox.is_empty() && self.read().await == 0
    }

    async fn greet(&mut self, offers: &str) {
        self.say("220 mx.example.org ESMTP\r\n").await;
        self.ehlo(offers).await;
    }

    async fn ehlo(&mut self, offers: &str) {
        self.expect("EHLO mta1.example.com").await;
        let mut lines = vec!["mx.example.org"];
        lines.extend(offers.split(',').filter(|offer| !offer.is_empty()));
        let last = lines.pop().unwrap();
        let first: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
        self.say(&format!("{first}250 {last}\r\n")).await;
    }

    async fn tls(self, acceptor: &TlsAcceptor) -> io::Result<Host> {
        Ok(Host::new(acceptor.accept(self.stream).await?))
    }

    async fn starttls(mut self, acceptor: &TlsAcceptor, offers: &str) -> Host {
        self.greet(&format!("{offers},STARTTLS")).await;
        self.expect("STARTTLS").await;
        self.say("220 go ahead\r\n").await;
        self.tls(acceptor).await.unwrap()
    }

    /// Answers QUIT and sees the connection close.
    async fn goodbye(&mut self) {
        self.expect("QUIT").await;
        self.say("221 bye\r\n").await;
        assert!(self.is_closed().await);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A connection over loopback: our end, and the host's.
async fn sockets() -> (Box<dyn Stream>, Host) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(to), listener.accept());
    let (ours, (theirs, _)) = (ours.unwrap(), theirs.unwrap());
    ours.set_nodelay(true).unwrap();
    theirs.set_nodelay(true).unwrap();
    (Box::new(ours), Host::new(theirs))
}

// ---- our side --------------------------------------------------------------------------------------------------------

/// Copies in order, and what became of them.
#[derive(Default)]
struct Shelf {
    copies: VecDeque<Copy>,
    /// With no copy left, wait for ever instead of saying so.
    open_ended: bool,
    intents: Vec<u64>,
    receipts: Vec<(u64, Stage, Result<Reply, Error>)>,
}

impl Shelf {
    fn of(copies: impl IntoIterator<Item = Copy>) -> Shelf {
        Shelf { copies: copies.into_iter().collect(), ..Shelf::default() }
    }

    /// `n` copies, for u1@example.org and so on, with a text of a line each.
    fn numbered(n: u32) -> Shelf {
        Shelf::of((1..=n).map(|n| copy(n, &format!("u{n}@example.org"), &format!("Subject: {n}\r\n\r\nhello {n}\r\n"))))
    }

    /// Each copy's number, stage, and code or error.
    fn told(&self) -> Vec<String> {
        let heard = |heard: &Result<Reply, Error>| match heard {
            Ok(reply) => reply.code.to_string(),
            Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
        };
        self.receipts.iter().map(|(id, stage, reply)| format!("{id} {stage:?} {}", heard(reply))).collect()
    }
}

impl CopySource for Shelf {
    async fn next(&mut self, patience: Patience) -> Option<Copy> {
        if self.copies.is_empty() && self.open_ended && patience == Patience::Wait {
            std::future::pending::<()>().await;
        }
        self.copies.pop_front()
    }

    async fn intend(&mut self, id: EnvelopeId, _: Begun) -> bool {
        self.intents.push(u64::from(id.contact().0));
        true
    }

    fn done(&mut self, id: EnvelopeId, receipt: Receipt) {
        self.receipts.push((u64::from(id.contact().0), receipt.stage, receipt.heard));
    }
}

fn copy(n: u32, to: &str, text: &str) -> Copy {
    let id = EnvelopeId::new(LaunchId(9), ContactId(n));
    let message = Message { id, bytes: text.as_bytes().to_vec() };
    Copy { id, return_path: format!("b-{n}@news.example.com"), to: Address::parse(to).unwrap(), message, early: true }
}

fn hello(security: Security) -> Hello {
    let timeouts = Timeouts { quit: Duration::from_secs(1), ..Timeouts::default() };
    Hello {
        ehlo_name: "mta1.example.com".into(),
        host: "mx.example.org".into(),
        security,
        trial: false,
        chunking: true,
        login: None,
        timeouts,
        tap: None,
    }
}

fn with_login(security: Security, login: Login) -> Hello {
    Hello { login: Some(login), ..hello(security) }
}

fn password() -> Login {
    Login::Password { user: "user".into(), password: Secret::new("pencil".into()) }
}

fn web() -> TlsClient {
    TlsClient::new(None).unwrap()
}

async fn open(stream: Box<dyn Stream>, hello: &Hello, tls: &TlsClient) -> Result<Connection, Refused> {
    Connection::open(stream, hello, tls).await
}

/// Opens in clear, drives once, says goodbye; the host's part runs beside it.
async fn deliver<F: Future<Output = ()>>(shelf: &mut Shelf, host: impl FnOnce(Host) -> F) -> Ending {
    let (stream, far) = sockets().await;
    let near = async {
        let mut connection = open(stream, &hello(Security::Clear), &web()).await.unwrap();
        let ending = connection.drive(shelf, 100).await;
        connection.quit().await;
        ending
    };
    tokio::join!(near, host(far)).0
}

/// Why no session comes about; the host's part runs beside it.
async fn refusal<F: Future<Output = ()>>(hello: Hello, tls: TlsClient, host: impl FnOnce(Host) -> F) -> Refused {
    let (stream, far) = sockets().await;
    let (opened, ()) = tokio::join!(open(stream, &hello, &tls), host(far));
    opened.err().expect("no session")
}

/// A certificate for mx.example.org by an authority of our own: the server's side, and the authority's file.
struct Authority {
    acceptor: TlsAcceptor,
    leaf: CertificateDer<'static>,
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["mx.example.org".to_owned()]).unwrap();
        let leaf = names.signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        Authority { acceptor: acceptor(leaf.der().clone(), &key), leaf: leaf.der().clone(), _folder: folder, file }
    }

    fn trusted(&self) -> TlsClient {
        TlsClient::new(Some(&self.file)).unwrap()
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

const MAIL_1: &str = "MAIL FROM:<b-1@news.example.com>";
const MAIL_2: &str = "MAIL FROM:<b-2@news.example.com>";
const RCPT_1: &str = "RCPT TO:<u1@example.org>";
const RCPT_2: &str = "RCPT TO:<u2@example.org>";

// ---- session ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn s_010_nothing_is_written_before_the_last_line_of_the_greeting() {
    let mut shelf = Shelf::default();
    let ending = deliver(&mut shelf, async |mut host| {
        host.say("220-mx.example.org\r\n220-no spam\r\n22").await;
        assert!(host.is_silent().await);
        host.say("0 ready\r\n").await;
        host.ehlo("").await;
        host.goodbye().await;
    });
    assert_eq!(ending.await, Ending::Idle);
}

#[tokio::test]
async fn s_010_a_554_greeting_refuses_the_session_and_gets_a_quit() {
    let refused = refusal(hello(Security::Clear), web(), async |mut host| {
        host.say("554 IP=192.0.2.1 None/bad reputation\r\n").await;
        host.goodbye().await;
    });
    let refused = refused.await;
    assert_eq!((refused.stage, refused.heard.unwrap().code), (Stage::Greet, 554));
}

#[tokio::test]
async fn s_011_helo_comes_only_after_500_or_502() {
    let mut shelf = Shelf::numbered(1);
    let host = async |mut host: Host| {
        host.say("220 x\r\n").await;
        host.expect("EHLO mta1.example.com").await;
        host.say("502 what?\r\n").await;
        host.expect("HELO mta1.example.com").await;
        host.say("250 x\r\n").await;
        host.expect(MAIL_1).await;
        host.say("550 no\r\n").await;
        host.goodbye().await;
    };
    assert_eq!(deliver(&mut shelf, host).await, Ending::Idle);
    let refused = refusal(hello(Security::Clear), web(), async |mut host| {
        host.say("220 x\r\n").await;
        host.expect("EHLO mta1.example.com").await;
        host.say("550 5.7.1 not you\r\n").await;
        host.goodbye().await;
    });
    assert_eq!(refused.await.heard.unwrap().to_string(), "550 5.7.1 not you");
}

#[tokio::test]
async fn s_011_a_name_that_is_none_is_never_said() {
    for name in ["", "a b", "mta\r\nMAIL FROM:<x@y>"] {
        let hello = Hello { ehlo_name: name.into(), ..hello(Security::Clear) };
        let refused = refusal(hello, web(), async |mut host| {
            host.say("220 x\r\n").await;
            assert!(host.is_closed().await);
        });
        assert!(matches!(refused.await.heard, Err(Error::Credentials(_))), "{name:?}");
    }
}

#[tokio::test]
async fn s_012_what_is_no_reply_ends_the_session() {
    let endless = format!("220 {}", "x".repeat(65 * 1024));
    for greeting in ["HTTP/1.1 400 Bad Request\r\n", "220-a\r\n221 b\r\n", endless.as_str()] {
        let refused = refusal(hello(Security::Clear), web(), async |mut host| {
            host.say(greeting).await;
        });
        assert!(matches!(refused.await.heard, Err(Error::Garbled(_))), "{}", &greeting[..9]);
    }
}

#[tokio::test]
async fn s_015_a_421_after_any_command_ends_the_session_there() {
    let replies = [
        ("421 bye\r\n", "1 From 421"),
        ("250 a\r\n421 bye\r\n", "1 To 421"),
        ("250 a\r\n250 b\r\n421 bye\r\n", "1 Data 421"),
    ];
    for (replies, told) in replies {
        let mut shelf = Shelf::numbered(3);
        let ending = deliver(&mut shelf, async |mut host| {
            host.greet("PIPELINING").await;
            host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
            host.say(replies).await;
            assert!(host.is_closed().await, "a host that says 421 has closed: no QUIT");
        });
        assert!(matches!(ending.await, Ending::Dismissed(_)));
        assert_eq!((shelf.told(), shelf.copies.len()), (vec![told.to_owned()], 2));
    }
}

#[tokio::test]
async fn s_015_a_421_to_the_dot_leaves_the_copy_behind_it_untouched() {
    let mut shelf = Shelf::numbered(2);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.hear_until("DATA\r\n").await;
        host.say("421 4.3.2 shutting down\r\n").await;
    });
    assert!(matches!(ending.await, Ending::Dismissed(_)));
    assert_eq!(shelf.told(), ["1 Body 421", "2 From Closed"]);
}

#[tokio::test]
async fn s_015_a_421_nobody_asked_for_is_heard_while_the_connection_waits() {
    let mut shelf = Shelf { open_ended: true, ..Shelf::default() };
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.say("421 4.4.2 idle for too long\r\n").await;
        assert!(host.is_closed().await);
    });
    let Ending::Dismissed(reply) = ending.await else { panic!("the host has said 421") };
    assert_eq!(reply.to_string(), "421 4.4.2 idle for too long");
}

#[tokio::test]
async fn a_reply_too_many_is_never_taken_for_the_answer_to_the_dot() {
    let mut shelf = Shelf::numbered(1);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n250 queued, as it were\r\n").await;
        assert!(host.is_closed().await, "the message must not go out");
    });
    assert!(matches!(ending.await, Ending::Broken(Error::Garbled(_))));
    assert_eq!(shelf.told(), ["1 Data Garbled"]);
}

/// As `smtp-sink -A 0` does it.
#[tokio::test]
async fn a_refusal_before_the_message_is_sent_is_heard_and_nothing_is_sent() {
    let mut shelf = Shelf::numbered(1);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n550 This violates SMTP\r\n").await;
        assert!(host.is_closed().await);
    });
    assert!(matches!(ending.await, Ending::Broken(Error::Garbled(_))));
    assert_eq!(shelf.told(), ["1 Data 550"]);
}

/// A dialogue on paused time, over a pipe: the host answers the dot after `wait`, if at all.
async fn slow_dot(wait: Option<Duration>) -> (Ending, Vec<String>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut host = Host::new(far);
    let mut shelf = Shelf::numbered(1);
    let host = async move {
        host.greet("PIPELINING").await;
        host.hear_until("DATA\r\n").await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.hear_until("\r\n.\r\n").await;
        match wait {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                host.say("250 at last\r\n").await;
                host.goodbye().await;
            }
            None => assert!(host.is_closed().await),
        }
    };
    let near = async {
        let mut connection = open(Box::new(near), &hello(Security::Clear), &web()).await.unwrap();
        let ending = connection.drive(&mut shelf, 9).await;
        connection.quit().await;
        ending
    };
    let (ending, ()) = tokio::join!(near, host);
    (ending, shelf.told())
}

#[tokio::test(start_paused = true)]
async fn s_016_the_answer_to_the_dot_is_waited_for_ten_minutes() {
    let nearly = slow_dot(Some(Duration::from_secs(590))).await;
    assert_eq!(nearly, (Ending::Idle, vec!["1 Body 250".to_owned()]));
    let never = slow_dot(None).await;
    let limit = Duration::from_secs(600);
    assert_eq!(never, (Ending::Broken(Error::TimedOut(limit)), vec!["1 Body TimedOut".to_owned()]));
}

#[tokio::test]
async fn s_017_a_connection_dropped_after_the_dot_leaves_one_copy_in_doubt() {
    let mut shelf = Shelf::numbered(3);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.hear_until("DATA\r\n").await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.hear_until("\r\n.\r\n").await;
    });
    assert_eq!(ending.await, Ending::Broken(Error::Closed));
    assert_eq!((shelf.told(), shelf.intents), (vec!["1 Body Closed".to_owned(), "2 From Closed".to_owned()], vec![1]));
}

#[tokio::test]
async fn s_018_a_silent_close_between_copies_harms_none() {
    let mut shelf = Shelf { open_ended: true, ..Shelf::numbered(1) };
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.hear_until("DATA\r\n").await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.hear_until("\r\n.\r\n").await;
        host.say("250 queued\r\n").await;
    });
    assert_eq!(ending.await, Ending::Broken(Error::Closed));
    assert_eq!(shelf.told(), ["1 Body 250"]);
}

#[tokio::test]
async fn s_019_copies_share_a_connection_and_each_others_flights() {
    let mut shelf = Shelf::numbered(3);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["Subject: 1", "", "hello 1", ".", MAIL_2, RCPT_2, "DATA"]).await;
        host.say("250 queued\r\n").await;
        assert!(host.is_silent().await, "the second dot waits for its own 354");
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        let (mail, rcpt) = (MAIL_2.replace("-2", "-3"), RCPT_2.replace('2', "3"));
        host.expect_flight(&["Subject: 2", "", "hello 2", ".", &mail, &rcpt, "DATA"]).await;
        host.say("250 queued\r\n250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["Subject: 3", "", "hello 3", "."]).await;
        host.say("250 queued\r\n").await;
        host.goodbye().await;
    });
    assert_eq!(ending.await, Ending::Idle);
    assert_eq!(shelf.told(), ["1 Body 250", "2 Body 250", "3 Body 250"]);
    assert_eq!(shelf.intents, [1, 2, 3]);
}

#[tokio::test]
async fn s_019_rset_is_said_only_after_an_aborted_transaction() {
    let mut shelf = Shelf::numbered(2);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n550 5.1.1 unknown\r\n503 no recipient\r\n").await;
        host.expect_flight(&["RSET", MAIL_2, RCPT_2, "DATA"]).await;
        host.say("250 reset\r\n451 4.7.1 later\r\n503 a\r\n503 b\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 To 550", "2 From 451"]);
}

#[tokio::test]
async fn s_021_a_message_larger_than_size_is_never_offered() {
    let big = "x".repeat(98) + "\r\n";
    for (offers, told) in [("SIZE 1000", "1 From 552"), ("SIZE 0", "1 Body 250"), ("SIZE", "1 Body 250")] {
        let mut shelf = Shelf::of([copy(1, "u1@example.org", &big.repeat(20))]);
        deliver(&mut shelf, async |mut host| {
            host.greet(offers).await;
            if told.ends_with("250") {
                host.expect(&format!("{MAIL_1} SIZE=2000")).await;
                host.say("250 a\r\n").await;
                host.expect(RCPT_1).await;
                host.say("250 b\r\n").await;
                host.expect("DATA").await;
                host.say("354 c\r\n").await;
                host.hear_until("\r\n.\r\n").await;
                host.say("250 d\r\n").await;
            }
            host.goodbye().await;
        })
        .await;
        assert_eq!(shelf.told(), [told], "{offers}");
    }
}

#[tokio::test]
async fn s_022_a_refused_recipient_and_a_354_get_a_lone_dot() {
    let mut shelf = Shelf::numbered(2);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n550 5.1.1 b\r\n354 c\r\n").await;
        host.expect_flight(&[".", MAIL_2, RCPT_2, "DATA"]).await;
        host.say("554 5.5.1 no recipient\r\n250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["Subject: 2", "", "hello 2", "."]).await;
        host.say("250 queued\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!((shelf.told(), shelf.intents), (vec!["1 To 550".to_owned(), "2 Body 250".to_owned()], vec![2]));
}

#[tokio::test]
async fn s_022_without_pipelining_the_host_sees_one_command_at_a_time() {
    let mut shelf = Shelf::numbered(2);
    deliver(&mut shelf, async |mut host| {
        host.greet("8BITMIME").await;
        for (command, reply) in [(MAIL_1, "250"), (RCPT_1, "250"), ("DATA", "354")] {
            host.expect_flight(&[command]).await;
            assert!(host.is_silent().await);
            host.say(&format!("{reply} x\r\n")).await;
        }
        host.expect_flight(&["Subject: 1", "", "hello 1", "."]).await;
        host.say("250 queued\r\n").await;
        host.expect_flight(&[MAIL_2]).await;
        host.say("451 later\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 Body 250", "2 From 451"]);
}

#[tokio::test]
async fn s_023_mailmax_of_the_answer_inside_tls_is_kept_and_that_in_clear_is_not() {
    let authority = Authority::new();
    let (stream, host) = sockets().await;
    let mut shelf = Shelf::numbered(5);
    let near = async {
        let mut connection = open(stream, &hello(Security::Opportunistic), &web()).await.unwrap();
        let ending = connection.drive(&mut shelf, 100).await;
        connection.quit().await;
        ending
    };
    let far = async {
        let mut host = host.starttls(&authority.acceptor, "PIPELINING,LIMITS MAILMAX=1").await;
        host.ehlo("PIPELINING,LIMITS RCPTMAX=oops MAILMAX=3").await;
        for _ in 0..3 {
            host.hear_until("DATA\r\n").await;
            host.say("250 a\r\n250 b\r\n354 c\r\n").await;
            host.hear_until("\r\n.\r\n").await;
            host.say("250 queued\r\n").await;
        }
        host.expect("QUIT").await;
        host.say("221 bye\r\n").await;
    };
    let (ending, ()) = tokio::join!(near, far);
    assert_eq!((ending, shelf.copies.len()), (Ending::Full, 2));
    assert_eq!(shelf.told(), ["1 Body 250", "2 Body 250", "3 Body 250"]);
}

#[tokio::test]
async fn s_024_delivery_reports_are_asked_for_where_that_is_offered() {
    let mut shelf = Shelf::of([copy(1, "a+b=c@example.org", "m\r\n"), copy(2, "ü@example.org", "m\r\n")]);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING,DSN,SMTPUTF8,8BITMIME").await;
        host.expect(&format!("{MAIL_1} RET=HDRS ENVID=b-1")).await;
        host.expect("RCPT TO:<a+b=c@example.org> NOTIFY=FAILURE ORCPT=rfc822;a+2Bb+3Dc@example.org").await;
        host.expect("DATA").await;
        host.say("250 a\r\n550 b\r\n503 c\r\n").await;
        host.expect("RSET").await;
        host.expect(&format!("{MAIL_2} SMTPUTF8 RET=HDRS ENVID=b-2")).await;
        host.expect("RCPT TO:<ü@example.org> NOTIFY=FAILURE ORCPT=utf-8;\\x{FC}@example.org").await;
        host.expect("DATA").await;
        host.say("250 a\r\n250 a\r\n550 b\r\n503 c\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 To 550", "2 To 550"]);
}

#[tokio::test]
async fn s_025_smtputf8_is_asked_for_only_when_it_is_needed() {
    let utf8_subject = "Subject: =?utf-8?q?=C3=BC?=\r\n\r\nm\r\n";
    let mut shelf = Shelf::of([copy(1, "ü@example.org", "m\r\n"), copy(2, "u2@exämple.org", utf8_subject)]);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING,8BITMIME").await;
        host.expect_flight(&[MAIL_2, "RCPT TO:<u2@xn--exmple-cua.org>", "DATA"]).await;
        host.say("250 a\r\n550 b\r\n503 c\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 From 553", "2 To 550"]);
    assert!(shelf.receipts[0].2.as_ref().unwrap().to_string().starts_with("553 5.6.7 not sent"));
}

// ---- content ---------------------------------------------------------------------------------------------------------

/// The octets of the chunk, counted by what stands in BDAT.
async fn chunk(host: &mut Host) -> String {
    let line = host.hear_until("\r\n").await;
    let octets: usize = line.strip_prefix("BDAT ").unwrap().strip_suffix(" LAST\r\n").unwrap().parse().unwrap();
    while host.inbox.len() < octets {
        assert!(host.read().await > 0, "closed in the middle of a chunk");
    }
    let rest = host.inbox.split_off(octets);
    String::from_utf8(std::mem::replace(&mut host.inbox, rest)).unwrap()
}

#[tokio::test]
async fn s_026_a_first_copy_goes_out_in_one_flight_counted_and_not_stuffed() {
    let text = "Subject: 1\r\n\r\n.\r\n..x\r\nno end";
    let mut shelf = Shelf::of([copy(1, "u1@example.org", text), copy(2, "u2@example.org", "m\r\n")]);
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING,CHUNKING").await;
        host.expect(MAIL_1).await;
        host.expect(RCPT_1).await;
        assert_eq!(chunk(&mut host).await, format!("{text}\r\n"));
        assert!(host.is_silent().await, "nothing shares its flight");
        host.say("250 a\r\n250 b\r\n250 c\r\n").await;
        // from then on DATA is as quick
        host.expect_flight(&[MAIL_2, RCPT_2, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["m", "."]).await;
        host.say("250 d\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!((ending, shelf.told()), (Ending::Idle, vec!["1 Body 250".to_owned(), "2 Body 250".to_owned()]));
}

#[tokio::test]
async fn s_026_without_groups_a_chunk_follows_the_answer_to_rcpt() {
    let mut shelf = Shelf::numbered(2);
    deliver(&mut shelf, async |mut host| {
        host.greet("CHUNKING").await;
        for (mail, rcpt) in [(MAIL_1, RCPT_1), (MAIL_2, RCPT_2)] {
            host.expect(mail).await;
            assert!(host.is_silent().await);
            host.say("250 a\r\n").await;
            host.expect(rcpt).await;
            assert!(host.is_silent().await);
            host.say("250 b\r\n").await;
            assert!(chunk(&mut host).await.starts_with("Subject:"));
            host.say("250 c\r\n").await;
        }
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 Body 250", "2 Body 250"]);
}

#[tokio::test]
async fn s_026_after_a_refused_chunk_comes_rset() {
    for (answers, told) in [
        ("250 a\r\n550 b\r\n503 no recipient\r\n", "1 To 550"),
        ("250 a\r\n250 b\r\n554 no\r\n", "1 Body 554"),
        ("250 a\r\n250 b\r\n452 full\r\n", "1 Body 452"),
    ] {
        let mut shelf = Shelf::numbered(2);
        deliver(&mut shelf, async |mut host| {
            host.greet("PIPELINING,CHUNKING").await;
            host.expect(MAIL_1).await;
            host.expect(RCPT_1).await;
            chunk(&mut host).await;
            host.say(answers).await;
            host.expect_flight(&["RSET", MAIL_2, RCPT_2, "DATA"]).await;
            host.say("250 r\r\n250 a\r\n550 b\r\n503 c\r\n").await;
            host.goodbye().await;
        })
        .await;
        assert_eq!(shelf.told(), [told, "2 To 550"]);
    }
}

#[tokio::test]
async fn s_026_a_host_that_hangs_up_or_refuses_in_the_middle_of_a_chunk_is_heard() {
    // larger than what the network holds for a host that does not read
    let text = format!("Subject: 1\r\n\r\n{}", format!("{}\r\n", "x".repeat(70)).repeat(500_000));
    for (last_words, told) in [(Some("451 4.3.1 the disk is full\r\n"), "1 Body 451"), (None, "1 Data Closed")] {
        let mut shelf = Shelf::of([copy(1, "u1@example.org", &text)]);
        let ending = deliver(&mut shelf, async |mut host| {
            host.greet("CHUNKING").await;
            host.expect(MAIL_1).await;
            host.say("250 a\r\n").await;
            host.expect(RCPT_1).await;
            host.say("250 b\r\n").await;
            host.hear_until("LAST\r\n").await;
            if let Some(words) = last_words {
                host.say(words).await;
            }
        })
        .await;
        assert!(matches!(ending, Ending::Broken(_)), "{ending:?}");
        assert_eq!(shelf.told(), [told]);
    }
}

#[tokio::test]
async fn s_026_a_connection_lost_behind_an_early_chunk_leaves_the_copy_in_doubt_unless_it_was_refused() {
    for (answers, told) in [
        ("", "1 Body Closed"),
        ("250 a\r\n", "1 Body Closed"),
        ("250 a\r\n250 b\r\n", "1 Body Closed"),
        ("250 a\r\n550 b\r\n", "1 To 550"),
        ("421 not now\r\n", "1 From 421"),
    ] {
        let mut shelf = Shelf::numbered(1);
        deliver(&mut shelf, async |mut host| {
            host.greet("PIPELINING,CHUNKING").await;
            host.hear_until("LAST\r\n").await;
            host.hear_until("hello 1\r\n").await;
            host.say(answers).await;
        })
        .await;
        assert_eq!(shelf.told(), [told], "{answers:?}");
    }
}

#[tokio::test]
async fn s_026_data_it_is_where_bdat_is_turned_off_the_copy_may_not_be_early_or_is_large() {
    let large = format!("Subject: 1\r\n\r\n{}", "x\r\n".repeat(30_000));
    let patient = Copy { early: false, ..copy(1, "u1@example.org", "m\r\n") };
    let cases =
        [(false, copy(1, "u1@example.org", "m\r\n")), (true, patient), (true, copy(1, "u1@example.org", &large))];
    for (chunking, copy) in cases {
        let (stream, mut host) = sockets().await;
        let near = async {
            let hello = Hello { chunking, ..hello(Security::Clear) };
            let mut connection = open(stream, &hello, &web()).await.unwrap();
            connection.drive(&mut Shelf::of([copy]), 100).await
        };
        let far = async {
            host.greet("PIPELINING,CHUNKING").await;
            host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
            host.say("250 a\r\n550 b\r\n503 c\r\n").await;
        };
        tokio::join!(near, far);
    }
}

#[tokio::test]
async fn s_027_messages_arrive_byte_for_byte() {
    for text in
        [".\r\n", "..\r\n", ".x\r\n", "a\r\n.\r\nb\r\n..\r\n", "a\r\n.", "a", "", "\r\n\r\n", ".\r\n.\r\n.\r\n."]
    {
        let mut shelf = Shelf::of([copy(1, "u1@example.org", text)]);
        deliver(&mut shelf, async |mut host| {
            host.greet("").await;
            for (command, reply) in [(MAIL_1, "250 a\r\n"), (RCPT_1, "250 b\r\n"), ("DATA", "354 c\r\n")] {
                host.expect(command).await;
                host.say(reply).await;
            }
            let mut received = String::new();
            loop {
                match host.hear_until("\r\n").await {
                    end if end == ".\r\n" => break,
                    line => received.push_str(line.strip_prefix('.').unwrap_or(&line)),
                }
            }
            assert!(host.is_silent().await, "one terminator");
            let ended = if text.is_empty() || text.ends_with("\r\n") { "" } else { "\r\n" };
            assert_eq!(received, format!("{text}{ended}"));
            host.say("250 queued\r\n").await;
            host.goodbye().await;
        })
        .await;
        assert_eq!(shelf.told(), ["1 Body 250"]);
    }
}

#[tokio::test]
async fn s_028_no_smuggling_vector_reaches_the_wire() {
    let ends = ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r\n\0.\r\n", "\r.\r\n", "\n.\r"];
    let smuggled = |end: &str| format!("Subject: a\r\n\r\nb{end}MAIL FROM:<evil@example.net>\r\n");
    let mut shelf = Shelf::of(ends.iter().map(|end| copy(1, "u1@example.org", &smuggled(end))));
    let ending = deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.goodbye().await;
    });
    assert_eq!(ending.await, Ending::Idle);
    assert_eq!(shelf.told(), ["1 From 554"; 8]);
}

#[tokio::test]
async fn s_030_the_longest_addresses_make_lines_a_host_must_take() {
    let domain = format!("{}.{}.{}.org", "a".repeat(60), "b".repeat(60), "c".repeat(60));
    let long = Copy {
        return_path: format!("{}@{domain}", "+".repeat(64)),
        ..copy(1, &format!("{}@{domain}", "=".repeat(64)), "m\r\n")
    };
    let mut shelf = Shelf::of([long]);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING,DSN,SIZE,8BITMIME,SMTPUTF8").await;
        for line in host.hear_until("DATA\r\n").await.split_inclusive("\r\n") {
            assert!(line.len() <= 512, "{} octets", line.len());
        }
        host.say("250 a\r\n550 b\r\n503 c\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 To 550"]);
}

#[tokio::test]
async fn a_large_message_is_written_at_the_pace_the_host_reads() {
    let line = "x".repeat(70) + "\r\n";
    let text = line.repeat(100_000);
    let mut shelf = Shelf::of([copy(1, "u1@example.org", &text)]);
    deliver(&mut shelf, async |mut host| {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        let mut octets = 0;
        while !host.inbox.ends_with(b"\r\n.\r\n") {
            let keep = host.inbox.len().saturating_sub(5);
            octets += keep;
            host.inbox.drain(..keep);
            assert!(host.read().await > 0);
        }
        assert_eq!(octets + host.inbox.len() - 3, text.len());
        host.inbox.clear();
        host.say("250 queued\r\n").await;
        host.goodbye().await;
    })
    .await;
    assert_eq!(shelf.told(), ["1 Body 250"]);
}

/// A message larger than all buffers, at a host that stops reading: for ever, or to say something and close.
async fn interrupted(last_words: Option<&str>) -> (Ending, Vec<String>) {
    let (stream, mut host) = sockets().await;
    let mut shelf = Shelf::of([copy(1, "u1@example.org", &("x".repeat(70) + "\r\n").repeat(400_000))]);
    let mut hello = hello(Security::Clear);
    hello.timeouts.block = Duration::from_millis(300);
    let near = async {
        let mut connection = open(stream, &hello, &web()).await.unwrap();
        connection.drive(&mut shelf, 9).await
    };
    let far = async move {
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        let Some(words) = last_words else { return Some(host) };
        host.read().await;
        host.say(words).await;
        None
    };
    let (ending, _kept_open) = tokio::join!(near, far);
    (ending, shelf.told())
}

#[tokio::test]
async fn s_016_a_host_that_stops_reading_is_left_and_nothing_is_in_doubt() {
    let limit = Duration::from_millis(300);
    let expected = (Ending::Broken(Error::TimedOut(limit)), vec!["1 Data TimedOut".to_owned()]);
    assert_eq!(interrupted(None).await, expected);
}

#[tokio::test]
async fn what_a_host_says_before_it_closes_on_a_message_is_heard() {
    let expected = (Ending::Broken(Error::Closed), vec!["1 Body 552".to_owned()]);
    assert_eq!(interrupted(Some("552 5.3.4 that is too much\r\n")).await, expected);
}

// ---- TLS and login ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn s_032_clear_text_behind_the_starttls_answer_is_never_read_as_secret() {
    let refused = refusal(hello(Security::Opportunistic), web(), async |mut host| {
        host.greet("STARTTLS").await;
        host.expect("STARTTLS").await;
        host.say("220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n").await;
        assert!(host.is_closed().await);
    });
    let refused = refused.await;
    assert_eq!(refused.stage, Stage::Secure);
    assert!(matches!(refused.heard, Err(Error::Garbled(_))), "not Error::Tls, after which clear text may follow");
}

#[tokio::test]
async fn s_032_what_was_offered_in_clear_is_forgotten_inside_tls() {
    let authority = Authority::new();
    let (stream, host) = sockets().await;
    let far = async {
        let mut host = host.starttls(&authority.acceptor, "PIPELINING,SIZE 5,AUTH PLAIN").await;
        host.ehlo("DSN").await;
        host
    };
    let (hello, tls) = (hello(Security::Required), web());
    let (connection, _host) = tokio::join!(open(stream, &hello, &tls), far);
    let connection = connection.unwrap();
    let offered = connection.extensions();
    assert!(
        offered.dsn && !offered.pipelining && offered.size.is_none() && offered.auth.is_empty() && !offered.starttls
    );
    let facts = connection.tls().unwrap();
    assert_eq!((facts.version, facts.verified, facts.resumed), (TlsVersion::V1_3, Verified::No, false));
    assert_eq!(facts.cipher >> 8, 0x13, "{facts:?}");
}

#[tokio::test]
async fn s_033_a_failed_handshake_is_told_as_such() {
    for security in [Security::Opportunistic, Security::Required, Security::Verified] {
        let refused = refusal(hello(security), web(), async |mut host| {
            host.greet("STARTTLS").await;
            host.expect("STARTTLS").await;
            host.say("220 go\r\n").await;
            host.read().await;
            host.say("this is no handshake").await;
        });
        let refused = refused.await;
        assert!(matches!(refused, Refused { stage: Stage::Secure, heard: Err(Error::Tls(..)) }), "{refused:?}");
    }
}

#[tokio::test]
async fn s_033_demanded_tls_that_is_not_offered_or_refused_never_becomes_clear_text() {
    for security in [Security::Required, Security::Verified] {
        let refused = refusal(hello(security.clone()), web(), async |mut host| {
            host.greet("PIPELINING").await;
            host.goodbye().await;
        });
        assert!(matches!(refused.await.heard, Err(Error::Tls(..))));
        let refused = refusal(hello(security.clone()), web(), async |mut host| {
            host.greet("STARTTLS").await;
            host.expect("STARTTLS").await;
            host.say("454 4.7.0 not now\r\n").await;
            host.goodbye().await;
        });
        assert_eq!(refused.await.heard.unwrap().code, 454);
    }
}

#[tokio::test]
async fn opportunistic_tls_goes_on_in_clear_where_the_host_cannot() {
    for (offers, refusal) in [("", None), ("STARTTLS", Some("454 4.7.0 not now\r\n"))] {
        let (stream, mut host) = sockets().await;
        let far = async {
            host.greet(offers).await;
            if let Some(refusal) = refusal {
                host.expect("STARTTLS").await;
                host.say(refusal).await;
            }
            host.goodbye().await;
        };
        let near = async {
            let connection = open(stream, &hello(Security::Opportunistic), &web()).await.unwrap();
            assert_eq!(connection.tls(), None);
            connection.quit().await;
        };
        tokio::join!(near, far);
    }
}

#[tokio::test]
async fn a_certificate_is_checked_where_that_is_demanded() {
    let authority = Authority::new();
    let trusted = authority.trusted();
    let (stream, host) = sockets().await;
    let far = async {
        let mut host = host.starttls(&authority.acceptor, "").await;
        host.ehlo("").await;
    };
    let verified = hello(Security::Verified);
    let (connection, ()) = tokio::join!(open(stream, &verified, &trusted), far);
    assert_eq!(connection.unwrap().tls().unwrap().verified, Verified::Authority);
    let wrong_name = Hello { host: "mx.example.net".into(), ..hello(Security::Verified) };
    for (hello, tls) in [(wrong_name, trusted), (verified, web())] {
        let refused = refusal(hello, tls, async |mut host| {
            host.greet("STARTTLS").await;
            host.expect("STARTTLS").await;
            host.say("220 go\r\n").await;
            assert!(host.tls(&authority.acceptor).await.is_err());
        });
        let Err(Error::Tls(_, why)) = refused.await.heard else { panic!("an invalid certificate") };
        assert!(why.contains("certificate"), "{why}");
    }
}

#[tokio::test]
async fn s_034_a_certificate_is_compared_with_what_the_zone_announces() {
    let authority = Authority::new();
    let digest = |data: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref().to_vec();
    let right = Tlsa { usage: 3, selector: 0, matching: 1, data: digest(&authority.leaf) };
    let wrong = Tlsa { data: vec![7; 32], ..right.clone() };
    for (record, verified) in [(right, Some(Verified::Zone)), (wrong, None)] {
        let announced = Security::Announced(Arc::new(Associations::usable(&[record]).unwrap()));
        let (stream, mut host) = sockets().await;
        let far = async {
            host.greet("STARTTLS").await;
            host.expect("STARTTLS").await;
            host.say("220 go\r\n").await;
            if let Ok(mut host) = host.tls(&authority.acceptor).await
                && verified.is_some()
            {
                host.ehlo("").await;
            }
        };
        // Nobody knows the authority, and the name is another one: neither counts.
        let hello = Hello { host: "mx.example.net".into(), ..hello(announced) };
        let tls = web();
        let (connection, ()) = tokio::join!(open(stream, &hello, &tls), far);
        match (connection, verified) {
            (Ok(connection), Some(_)) => assert_eq!(connection.tls().map(|facts| facts.verified), verified),
            (Err(Refused { stage: Stage::Secure, heard: Err(Error::Tls(_, why)) }), None) => {
                assert!(why.contains("DANE"), "{why}");
            }
            (other, _) => panic!("{:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn a_certificate_on_trial_is_taken_and_what_is_wrong_with_it_is_told() {
    let authority = Authority::new();
    for (tls, name, flaw) in [
        (authority.trusted(), "mx.example.org", None),
        (authority.trusted(), "mx.example.net", Some(TlsFlaw::OtherName)),
        (web(), "mx.example.org", Some(TlsFlaw::NotTrusted)),
    ] {
        let (stream, far) = sockets().await;
        let hello = Hello { host: name.into(), trial: true, ..hello(Security::Opportunistic) };
        let near = async {
            let connection = open(stream, &hello, &tls).await.unwrap();
            let facts = connection.tls().unwrap();
            connection.quit().await;
            facts
        };
        let far = async {
            let mut host = far.starttls(&authority.acceptor, "").await;
            host.ehlo("").await;
            host.goodbye().await;
        };
        let (facts, ()) = tokio::join!(near, far);
        assert_eq!((facts.verified, facts.flaw), (Verified::No, flaw), "{name}");
    }
}

#[tokio::test]
async fn a_second_handshake_with_a_host_takes_up_the_first() {
    let authority = Authority::new();
    let tls = web();
    let mut resumed = Vec::new();
    for _ in 0..2 {
        let (stream, host) = sockets().await;
        let far = async {
            let mut host = host.starttls(&authority.acceptor, "").await;
            host.ehlo("").await;
            host.expect("QUIT").await;
            host.say("221 bye\r\n").await;
        };
        let near = async {
            let connection = open(stream, &hello(Security::Opportunistic), &tls).await.unwrap();
            resumed.push(connection.tls().unwrap().resumed);
            connection.quit().await;
        };
        tokio::join!(near, far);
    }
    assert_eq!(resumed, [false, true]);
}

#[tokio::test]
async fn copies_go_through_tls_in_flights_as_in_clear() {
    let authority = Authority::new();
    let (stream, host) = sockets().await;
    let mut shelf = Shelf::numbered(2);
    let near = async {
        let mut connection = open(stream, &hello(Security::Implicit), &authority.trusted()).await.unwrap();
        let ending = connection.drive(&mut shelf, 9).await;
        connection.quit().await;
        ending
    };
    let far = async {
        let mut host = host.tls(&authority.acceptor).await.unwrap();
        host.greet("PIPELINING").await;
        host.expect_flight(&[MAIL_1, RCPT_1, "DATA"]).await;
        host.say("250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["Subject: 1", "", "hello 1", ".", MAIL_2, RCPT_2, "DATA"]).await;
        host.say("250 queued\r\n250 a\r\n250 b\r\n354 c\r\n").await;
        host.expect_flight(&["Subject: 2", "", "hello 2", "."]).await;
        host.say("250 queued\r\n").await;
        host.goodbye().await;
    };
    let (ending, ()) = tokio::join!(near, far);
    assert_eq!((ending, shelf.told()), (Ending::Idle, vec!["1 Body 250".to_owned(), "2 Body 250".to_owned()]));
}

#[tokio::test]
async fn s_036_no_password_goes_to_a_host_that_has_not_proved_its_name() {
    let authority = Authority::new();
    let refused = refusal(with_login(Security::Implicit, password()), web(), async |host| {
        assert!(host.tls(&authority.acceptor).await.is_err());
    });
    assert!(matches!(refused.await.heard, Err(Error::Tls(..))));
    let refused = refusal(with_login(Security::Opportunistic, password()), web(), async |host| {
        let mut host = host.starttls(&authority.acceptor, "").await;
        host.ehlo("AUTH PLAIN LOGIN").await;
        assert!(host.is_closed().await);
    });
    assert!(matches!(refused.await.heard, Err(Error::Credentials(_))));
    let refused = refusal(with_login(Security::Clear, password()), web(), async |mut host| {
        host.greet("AUTH PLAIN LOGIN").await;
        assert!(host.is_closed().await);
    });
    assert!(matches!(refused.await.heard, Err(Error::Credentials(_))));
}

/// A login inside verified TLS; the host's part begins behind EHLO.
async fn log_in<F: Future<Output = Host>>(
    login: Login,
    offers: &str,
    host: impl FnOnce(Host) -> F,
) -> Result<(), Refused> {
    let authority = Authority::new();
    let (stream, far) = sockets().await;
    let far = async {
        let mut far = far.tls(&authority.acceptor).await.unwrap();
        far.greet(offers).await;
        host(far).await
    };
    let (hello, tls) = (with_login(Security::Implicit, login), authority.trusted());
    let (opened, _host) = tokio::join!(open(stream, &hello, &tls), far);
    opened.map(drop)
}

#[tokio::test]
async fn a_login_is_spoken_as_the_host_offers_it() {
    let plain = log_in(password(), "AUTH LOGIN PLAIN", async |mut host| {
        host.expect("AUTH PLAIN AHVzZXIAcGVuY2ls").await;
        host.say("235 2.7.0 welcome\r\n").await;
        host
    });
    assert_eq!(plain.await, Ok(()));
    let login = log_in(password(), "AUTH LOGIN", async |mut host| {
        host.expect("AUTH LOGIN").await;
        host.say("334 VXNlcm5hbWU6\r\n").await;
        host.expect("dXNlcg==").await;
        host.say("334 UGFzc3dvcmQ6\r\n").await;
        host.expect("cGVuY2ls").await;
        host.say("235 2.7.0 welcome\r\n").await;
        host
    });
    assert_eq!(login.await, Ok(()));
    let scram = log_in(password(), "AUTH SCRAM-SHA-256 PLAIN", async |mut host| {
        host.hear_until("\r\n").await;
        host.say("235 2.7.0 whoever you are\r\n").await;
        host
    });
    let why = "a host that skips its own proof is not the one that knows the password";
    assert!(matches!(scram.await, Err(Refused { heard: Err(Error::Garbled(_)), .. })), "{why}");
}

#[tokio::test]
async fn s_037_a_refused_login_is_the_sessions_end() {
    for code in [535, 534, 530, 538, 454] {
        let refused = log_in(password(), "AUTH PLAIN", async |mut host| {
            host.hear_until("\r\n").await;
            host.say(&format!("{code} 5.7.8 no\r\n")).await;
            host.expect("QUIT").await;
            host.say("221 bye\r\n").await;
            host
        });
        let refused = refused.await.unwrap_err();
        assert_eq!((refused.stage, refused.heard.unwrap().code), (Stage::Secure, code));
    }
}

#[tokio::test]
async fn s_037_the_error_challenge_of_xoauth2_is_answered_by_an_empty_line() {
    let token = Login::Token { user: "a@example.com".into(), token: Secret::new("ya29".into()) };
    let refused = log_in(token, "AUTH XOAUTH2", async |mut host| {
        assert!(host.hear_until("\r\n").await.starts_with("AUTH XOAUTH2 "));
        host.say("334 eyJzdGF0dXMiOiI0MDEifQ==\r\n").await;
        host.expect("").await;
        host.say("535 5.7.3 Authentication unsuccessful\r\n").await;
        host.expect("QUIT").await;
        host.say("221 bye\r\n").await;
        host
    });
    assert_eq!(refused.await.unwrap_err().heard.unwrap().code, 535);
}
