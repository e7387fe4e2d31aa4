//! The conversation with a mailbox, line by line, against a scripted server.

use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::io::AsyncReadExt;

use super::*;
use crate::config::MailboxProtocol;
use crate::store;

/// Takes what says "report"; everything else is foreign.
#[derive(Default)]
struct Taker {
    taken: Mutex<Vec<String>>,
    known: Mutex<Vec<String>>,
    broken: bool,
}

impl Intake for Taker {
    fn take<'a>(&'a self, raw: &'a [u8], _: Option<&'a str>) -> BoxFuture<'a, Result<Taken, store::Error>> {
        let text = String::from_utf8_lossy(raw).into_owned();
        let kind = if text.contains("report") { Taken::Ours } else { Taken::Foreign };
        self.taken.lock().unwrap().push(text);
        ready(if self.broken { Err(store::Error::Closed) } else { Ok(kind) }).boxed()
    }

    fn is_known(&self, _: &str, message: &str) -> Result<bool, store::Error> {
        Ok(self.known.lock().unwrap().iter().any(|known| known == message))
    }

    fn know<'a>(&'a self, _: &'a str, message: &'a str) -> BoxFuture<'a, Result<(), store::Error>> {
        self.known.lock().unwrap().push(message.to_owned());
        ready(Ok(())).boxed()
    }
}

/// Talks to a server that says `script`'s answers to its commands in order; gives the round and what was said to it.
async fn round(script: &[(&'static str, &'static str)], intake: &Taker) -> (Result<Round, MailboxError>, Vec<String>) {
    with_proof(script, intake, Proof::Password(Secret::new("s3cret".into()))).await
}

async fn with_proof(
    script: &[(&'static str, &'static str)],
    intake: &Taker,
    proof: Proof,
) -> (Result<Round, MailboxError>, Vec<String>) {
    let mailbox = Mailbox {
        name: "bounces".into(),
        user: "b".into(),
        host: "mail.example".into(),
        protocol: MailboxProtocol::Pop3,
        ..Mailbox::default()
    };
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let script = script.to_vec();
    let server = async move {
        let mut heard = Vec::new();
        for (command, answer) in script {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                match theirs.read_u8().await {
                    Ok(byte) => line.push(byte),
                    Err(_) => return heard,
                }
            }
            heard.push(String::from_utf8(line).unwrap().trim_end().to_owned());
            assert_eq!(heard.last().unwrap(), command);
            theirs.write_all(answer.as_bytes()).await.unwrap();
        }
        heard
    };
    let client = async {
        let mut session = Session { mailbox: &mailbox, stream: BufReader::new(Box::new(ours) as Box<dyn Stream>) };
        session.login(&proof).await?;
        go_through(&mut session, intake).await
    };
    futures_util::join!(client, server)
}

const LOGIN: [(&str, &str); 2] = [("USER b", "+OK\r\n"), ("PASS s3cret", "+OK logged in\r\n")];

fn with_login(rest: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&LOGIN[..], rest].concat()
}

#[tokio::test(start_paused = true)]
async fn reports_are_deleted_and_ordinary_mail_is_left_and_not_fetched_again() {
    let intake = Taker { known: Mutex::new(vec!["old".into()]), ..Taker::default() };
    let script = with_login(&[
        ("LIST", "+OK\r\n1 10\r\n2 20\r\n3 30\r\n.\r\n"),
        ("UIDL", "+OK\r\n1 old\r\n2 aa\r\n3 bb\r\n.\r\n"),
        ("RETR 2", "+OK\r\na report\r\n..dotted\r\n.\r\n"),
        ("DELE 2", "+OK\r\n"),
        ("RETR 3", "+OK\r\nhello\r\n.\r\n"),
        ("QUIT", "+OK bye\r\n"),
    ]);
    let (round, _) = round(&script, &intake).await;
    assert_eq!(round.unwrap(), Round { taken: 1, foreign: 1 });
    assert_eq!(*intake.taken.lock().unwrap(), ["a report\r\n.dotted\r\n", "hello\r\n"]);
    assert_eq!(*intake.known.lock().unwrap(), ["old", "bb"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_that_is_not_on_record() {
    let intake = Taker { broken: true, ..Taker::default() };
    let script = with_login(&[
        ("LIST", "+OK\r\n1 10\r\n.\r\n"),
        ("UIDL", "+OK\r\n1 aa\r\n.\r\n"),
        ("RETR 1", "+OK\r\na report\r\n.\r\n"),
    ]);
    let (round, heard) = round(&script, &intake).await;
    assert!(matches!(round, Err(MailboxError::Store(_))));
    assert_eq!(heard.last().unwrap(), "RETR 1");
}

#[tokio::test(start_paused = true)]
async fn of_a_message_that_is_too_long_the_start_is_read() {
    let intake = Taker::default();
    let script = with_login(&[
        ("LIST", "+OK\r\n1 4294967296\r\n.\r\n"),
        ("UIDL", "+OK\r\n1 aa\r\n.\r\n"),
        ("TOP 1 500", "+OK\r\nSubject: report\r\n\r\n.\r\n"),
        ("DELE 1", "+OK\r\n"),
        ("QUIT", "+OK\r\n"),
    ]);
    assert_eq!(round(&script, &intake).await.0.unwrap(), Round { taken: 1, foreign: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_says_whose() {
    let script = [("USER b", "+OK\r\n"), ("PASS s3cret", "-ERR [AUTH] no\r\n")];
    let (round, _) = round(&script, &Taker::default()).await;
    let words = round.unwrap_err().to_string();
    assert!(words.contains("bounces") && words.contains("[AUTH] no") && !words.contains("s3cret"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_up_is_told_apart_from_an_end() {
    let script = with_login(&[("LIST", "+OK\r\n1 10\r\n")]);
    let (round, _) = round(&script, &Taker::default()).await;
    assert!(matches!(round, Err(MailboxError::Unreachable { .. })));
}

#[tokio::test(start_paused = true)]
async fn without_unique_ids_the_content_tells_old_mail_from_new() {
    let intake = Taker::default();
    let script = with_login(&[
        ("LIST", "+OK\r\n1 7\r\n2 20\r\n.\r\n"),
        ("UIDL", "-ERR unknown command\r\n"),
        ("RETR 1", "+OK\r\nhello\r\n.\r\n"),
        ("RETR 2", "+OK\r\na report\r\n.\r\n"),
        ("DELE 2", "+OK\r\n"),
        ("QUIT", "+OK\r\n"),
    ]);
    assert_eq!(round(&script, &intake).await.0.unwrap(), Round { taken: 1, foreign: 1 });
    let again = with_login(&[
        ("LIST", "+OK\r\n1 7\r\n.\r\n"),
        ("UIDL", "-ERR unknown command\r\n"),
        ("RETR 1", "+OK\r\nhello\r\n.\r\n"),
        ("QUIT", "+OK\r\n"),
    ]);
    assert_eq!(round(&again, &intake).await.0.unwrap(), Round::default());
}

#[tokio::test(start_paused = true)]
async fn deletions_that_were_never_confirmed_bring_the_message_again_and_once() {
    let intake = Taker::default();
    let cut = with_login(&[
        ("LIST", "+OK\r\n1 10\r\n.\r\n"),
        ("UIDL", "+OK\r\n1 aa\r\n.\r\n"),
        ("RETR 1", "+OK\r\na report\r\n.\r\n"),
        ("DELE 1", "+OK\r\n"),
    ]);
    // The server goes away before QUIT: nothing was deleted.
    assert!(matches!(round(&cut, &intake).await.0, Err(MailboxError::Unreachable { .. })));
    let script = with_login(&[
        ("LIST", "+OK\r\n1 10\r\n.\r\n"),
        ("UIDL", "+OK\r\n1 aa\r\n.\r\n"),
        ("RETR 1", "+OK\r\na report\r\n.\r\n"),
        ("DELE 1", "+OK\r\n"),
        ("QUIT", "+OK\r\n"),
    ]);
    assert_eq!(round(&script, &intake).await.0.unwrap(), Round { taken: 1, foreign: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_in_use_is_no_wrong_password() {
    let script = [("USER b", "+OK\r\n"), ("PASS s3cret", "-ERR [IN-USE] locked by another session\r\n")];
    let (round, _) = round(&script, &Taker::default()).await;
    assert!(matches!(round, Err(MailboxError::Unreachable { .. })), "{round:?}");
}

fn token() -> Proof {
    Proof::Token(Secret::new("t0ken".into()))
}

/// `n,a=b,^Ahost=mail.example^Aport=995^Aauth=Bearer t0ken^A^A`.
const BEARER: &str = "bixhPWIsAWhvc3Q9bWFpbC5leGFtcGxlAXBvcnQ9OTk1AWF1dGg9QmVhcmVyIHQwa2VuAQE=";
/// `user=b^Aauth=Bearer t0ken^A^A`.
const XOAUTH2: &str = "dXNlcj1iAWF1dGg9QmVhcmVyIHQwa2VuAQE=";

#[tokio::test(start_paused = true)]
async fn a_token_is_shown_by_the_better_way_that_is_offered() {
    for (offered, command, words) in [
        ("+OK\r\nUIDL\r\nSASL PLAIN XOAUTH2 OAUTHBEARER\r\n.\r\n", "AUTH OAUTHBEARER", BEARER),
        ("+OK\r\nSASL XOAUTH2\r\n.\r\n", "AUTH XOAUTH2", XOAUTH2),
    ] {
        let script = [
            ("CAPA", offered),
            (command, "+ \r\n"),
            (words, "+OK\r\n"),
            ("LIST", "+OK\r\n.\r\n"),
            ("UIDL", "+OK\r\n.\r\n"),
            ("QUIT", "+OK\r\n"),
        ];
        assert_eq!(with_proof(&script, &Taker::default(), token()).await.0.unwrap(), Round::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_said_so_and_not_shown_again() {
    let challenge = "+ eyJzdGF0dXMiOiI0MDAifQ==\r\n";
    for (offered, command, words, last) in [
        ("+OK\r\nSASL OAUTHBEARER\r\n.\r\n", "AUTH OAUTHBEARER", BEARER, "AQ=="),
        ("+OK\r\nSASL XOAUTH2\r\n.\r\n", "AUTH XOAUTH2", XOAUTH2, ""),
    ] {
        let script = [("CAPA", offered), (command, "+\r\n"), (words, challenge), (last, "-ERR invalid token\r\n")];
        let (round, _) = with_proof(&script, &Taker::default(), token()).await;
        assert!(matches!(round, Err(MailboxError::Login { .. })), "{round:?}");
    }
    let none = [("CAPA", "-ERR unknown\r\n")];
    let (round, heard) = with_proof(&none, &Taker::default(), token()).await;
    assert!(matches!(round, Err(MailboxError::Login { .. })) && heard == ["CAPA"], "{round:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_words_is_told_in_words_and_a_long_one_in_short() {
    let told = |answer: &'static str| async move {
        let script = with_login(&[("LIST", answer)]);
        round(&script, &Taker::default()).await.0.unwrap_err().to_string()
    };
    assert_eq!(told("-ERR\r\n").await, "bounces: the server refuses, and does not say why");
    let long: &'static str = format!("-ERR \u{1b}[2J{}\r\n", "x".repeat(5000)).leak();
    let told = told(long).await;
    assert!(told.chars().count() < 220 && !told.contains(char::is_control), "{told}");
}
