//! One message, three ways in: whichever it takes, how often it comes and wherever the process dies meanwhile, the record
//! is the same in the end.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::task::Poll;

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::*;
use crate::base::{EnvelopeId, Purpose, SealKey, Timestamp};
use crate::config::{self, Mailbox, MailboxProtocol, Secret};
use crate::outcome::effect::tests::{ADDRESS, START, delivered};
use crate::outcome::fetch::Proof;
use crate::outcome::listener::Listener;
use crate::outcome::{imap, pop3};
use crate::smtp::server::Protocol;

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        START
    }
}

/// A way a message takes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Smtp,
    Lmtp,
    Imap,
    Pop3,
}

/// A mailbox server that holds one message until it is put away; deletions count when the session ends in order.
#[derive(Default)]
struct Shelf {
    gone: Mutex<BTreeSet<&'static str>>,
}

struct World {
    desk: ReturnDesk,
    listener: Listener,
    copy: EnvelopeId,
    shelf: Shelf,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let (store, copy) = delivered().await;
    let seal = Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap();
    let desk = ReturnDesk { store, seal: seal.clone(), policy: Arc::new(Policy::default()), clock: Arc::new(Still) };
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::new(
        &config::Listener::default(),
        "mx.example.com",
        folder.path().join("postmaster"),
        seal,
        Arc::new(desk.clone()),
    );
    World { desk, listener: listener.unwrap(), copy, shelf: Shelf::default(), _folder: folder }
}

/// The messages that may come back about a copy: their kinds in the record differ.
fn messages(seal: &Seal, copy: EnvelopeId) -> Vec<(String, String)> {
    let token = |purpose| seal.mint(copy, purpose, 0);
    let back = format!("b.{}@bounce.example.com", token(Purpose::Bounce));
    let leave = format!("u.{}@bounce.example.com", token(Purpose::Unsubscribe));
    let report = |action: &str, status: &str, text: &str| {
        format!(
            "From: MAILER-DAEMON@mx.example\r\nTo: <{back}>\r\nSubject: report\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
             Final-Recipient: rfc822; ann@reader.example\r\nAction: {action}\r\nStatus: {status}\r\n\
             Diagnostic-Code: smtp; {text}\r\n\r\n--x--\r\n"
        )
    };
    vec![
        (back.clone(), report("failed", "5.1.1", "550 5.1.1 no such user")),
        (back.clone(), report("failed", "5.2.2", "552 5.2.2 mailbox full")),
        (back.clone(), report("failed", "5.7.1", "554 5.7.1 blocked, see https://www.spamhaus.org")),
        (back.clone(), report("delayed", "4.4.1", "connection timed out")),
        (
            back.clone(),
            format!(
                "From: ann@reader.example\r\nTo: <{back}>\r\nAuto-Submitted: auto-replied\r\nSubject: away\r\n\r\naway\r\n"
            ),
        ),
        (leave.clone(), format!("From: ann@reader.example\r\nTo: <{leave}>\r\nSubject: unsubscribe\r\n\r\n.\r\n")),
        (
            back.clone(),
            format!(
                "From: fbl@provider.example\r\nTo: <{back}>\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
                 Content-Type: multipart/report; report-type=feedback-report; boundary=x\r\n\r\n--x\r\n\
                 Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\n\r\n--x--\r\n"
            ),
        ),
    ]
}

/// Everything the record says about the copy and its contact.
fn record(world: &World) -> String {
    let store = &world.desk.store;
    let contact = store.contact(ADDRESS).unwrap().unwrap().id;
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
        store.copy(world.copy).unwrap(),
        store.suppression(ADDRESS).unwrap(),
        store.memberships(contact).unwrap(),
        store.events(contact).unwrap(),
        store.figures(world.copy.launch()).unwrap(),
    )
}

/// Goes on for so many steps, then is no more, as a process that is killed.
async fn killed_after<T>(steps: usize, what: impl Future<Output = T>) -> Option<T> {
    let (mut what, mut left) = (pin!(what), steps);
    poll_fn(|cx| match left.checked_sub(1) {
        None => Poll::Ready(None),
        Some(fewer) => {
            left = fewer;
            what.as_mut().poll(cx).map(Some)
        }
    })
    .await
}

async fn line(from: &mut BufReader<DuplexStream>) -> Option<String> {
    let mut line = String::new();
    (from.read_line(&mut line).await.ok()? > 0).then(|| line.trim_end().to_owned())
}

async fn imap_server(wire: DuplexStream, shelf: &Shelf, raw: &str) {
    let mut wire = BufReader::new(wire);
    let _ = wire.get_mut().write_all(b"* OK\r\n").await;
    while let Some(said) = line(&mut wire).await {
        let Some((tag, said)) = said.split_once(' ') else { return };
        let is_here = !shelf.gone.lock().unwrap().contains("imap");
        let first = match said {
            "CAPABILITY" => "* CAPABILITY IMAP4rev1\r\n".to_owned(),
            said if said.starts_with("SELECT") => {
                "* 1 EXISTS\r\n* OK [PERMANENTFLAGS (\\*)] x\r\n* OK [UIDVALIDITY 1] x\r\n".to_owned()
            }
            said if said.starts_with("UID SEARCH") && is_here => "* SEARCH 5\r\n".to_owned(),
            "UID FETCH 5 (UID RFC822.SIZE)" => format!("* 1 FETCH (UID 5 RFC822.SIZE {})\r\n", raw.len()),
            "UID FETCH 5 (UID BODY.PEEK[])" => format!("* 1 FETCH (UID 5 BODY[] {{{}}}\r\n{raw})\r\n", raw.len()),
            said if said.starts_with("UID STORE 5") => {
                shelf.gone.lock().unwrap().insert("imap");
                String::new()
            }
            _ => String::new(),
        };
        if wire.get_mut().write_all(format!("{first}{tag} OK\r\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn pop3_server(wire: DuplexStream, shelf: &Shelf, raw: &str) {
    let mut wire = BufReader::new(wire);
    let _ = wire.get_mut().write_all(b"+OK\r\n").await;
    let mut is_deleted = false;
    while let Some(said) = line(&mut wire).await {
        let is_here = !shelf.gone.lock().unwrap().contains("pop3");
        let list = |value: &str| if is_here { format!("+OK\r\n1 {value}\r\n.\r\n") } else { "+OK\r\n.\r\n".to_owned() };
        let answer = match said.as_str() {
            "LIST" => list(&raw.len().to_string()),
            "UIDL" => list("unique"),
            "RETR 1" => format!("+OK\r\n{}.\r\n", raw.replace("\r\n.", "\r\n..")),
            "DELE 1" => {
                is_deleted = true;
                "+OK\r\n".to_owned()
            }
            "QUIT" if is_deleted => {
                shelf.gone.lock().unwrap().insert("pop3");
                "+OK\r\n".to_owned()
            }
            _ => "+OK\r\n".to_owned(),
        };
        if wire.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The message comes by a way, whose own side is killed after so many steps.
async fn comes(world: &World, way: Way, (recipient, raw): &(String, String), steps: usize) {
    let (ours, theirs) = tokio::io::duplex(512);
    let protocol = if matches!(way, Way::Pop3) { MailboxProtocol::Pop3 } else { MailboxProtocol::Imap };
    let mailbox =
        Mailbox { name: "m".into(), user: "u".into(), host: "h.example".into(), protocol, ..Mailbox::default() };
    let proof = Proof::Password(Secret::new("p".into()));
    match way {
        Way::Smtp | Way::Lmtp => {
            let (verb, protocol) = match way {
                Way::Lmtp => ("LHLO", Protocol::Lmtp),
                Way::Smtp | Way::Imap | Way::Pop3 => ("EHLO", Protocol::Smtp),
            };
            let client = async {
                let mut wire = BufReader::new(theirs);
                let stuffed = raw.replace("\r\n.", "\r\n..");
                let said = [
                    String::new(),
                    format!("{verb} a\r\n"),
                    "MAIL FROM:<>\r\n".into(),
                    format!("RCPT TO:<{recipient}>\r\n"),
                    "DATA\r\n".into(),
                    format!("{stuffed}.\r\n"),
                    "QUIT\r\n".into(),
                ];
                for said in said {
                    if wire.get_mut().write_all(said.as_bytes()).await.is_err() {
                        return;
                    }
                    while line(&mut wire).await.is_some_and(|line| line.as_bytes().get(3) == Some(&b'-')) {}
                }
                let _ = wire.read_to_end(&mut Vec::new()).await;
            };
            futures_util::join!(killed_after(steps, world.listener.receive(Box::new(ours), protocol)), client);
        }
        Way::Imap => {
            let visit = async {
                let mut visit = imap::Visit::secured(&mailbox, Box::new(ours), &proof).await?;
                visit.round(&world.desk).await
            };
            futures_util::join!(killed_after(steps, visit), imap_server(theirs, &world.shelf, raw));
        }
        Way::Pop3 => {
            let visit = pop3::secured(&mailbox, Box::new(ours), &proof, &world.desk);
            futures_util::join!(killed_after(steps, visit), pop3_server(theirs, &world.shelf, raw));
        }
    }
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Smtp), Just(Way::Lmtp), Just(Way::Imap), Just(Way::Pop3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_message_counts_once_whichever_way_it_comes_and_wherever_we_die(
        which in any::<prop::sample::Index>(),
        comings in prop::collection::vec((way(), 1usize..60), 0..5),
        last in way(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let plain = world().await;
            let message = which.get(&messages(&plain.desk.seal, plain.copy)).clone();
            plain.desk.take(message.1.as_bytes(), Some(&message.0)).await.unwrap();
            let tried = world().await;
            for (way, steps) in comings {
                comes(&tried, way, &message, steps).await;
            }
            comes(&tried, last, &message, usize::MAX).await;
            assert_eq!(record(&tried), record(&plain));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn each_way_alone_brings_every_message_home() {
    let count = messages(&world().await.desk.seal, world().await.copy).len();
    for number in 0..count {
        for way in [Way::Smtp, Way::Lmtp, Way::Imap, Way::Pop3] {
            let (plain, tried) = (world().await, world().await);
            let before = record(&plain);
            let message = messages(&plain.desk.seal, plain.copy)[number].clone();
            plain.desk.take(message.1.as_bytes(), Some(&message.0)).await.unwrap();
            comes(&tried, way, &message, usize::MAX).await;
            assert_eq!(record(&tried), record(&plain), "{way:?}: {}", message.1);
            // A delay is of no consequence; all else changes the record.
            assert!(number == 3 || record(&plain) != before, "{}", message.1);
        }
    }
}
