//! The conversation with an IMAP server, line by line, against a scripted one; `tests/servers` has it with Dovecot.

use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::*;
use crate::config::Secret;
use crate::store;

#[test]
fn literals_are_followed_and_too_long_ones_refused_before_they_come() {
    let mut watch = Watch::default();
    watch.see(b"* 1 FETCH (UID 7 BODY[] {12}\r\n{99999999999}").unwrap();
    assert_eq!(watch.literal, 0, "what stands in a literal announces nothing");
    watch.see(b")\r\n* 2 FETCH (BODY[] {4294").unwrap();
    assert!(watch.see(b"967296}\r\n").is_err());
    let mut watch = Watch::default();
    watch.see(format!("x {{{LITERAL_MAX}}}\r\n").as_bytes()).unwrap();
    assert_eq!(watch.literal, LITERAL_MAX);
}

/// Takes what says "report"; everything else is foreign.
#[derive(Default)]
struct Taker {
    taken: Mutex<Vec<String>>,
    known: Mutex<Vec<String>>,
}

impl Intake for Taker {
    fn take<'a>(&'a self, raw: &'a [u8], _: Option<&'a str>) -> BoxFuture<'a, Result<Taken, store::Error>> {
        let text = String::from_utf8_lossy(raw).into_owned();
        let kind = if text.contains("report") { Taken::Ours } else { Taken::Foreign };
        self.taken.lock().unwrap().push(text);
        ready(Ok(kind)).boxed()
    }

    fn is_known(&self, _: &str, message: &str) -> Result<bool, store::Error> {
        Ok(self.known.lock().unwrap().iter().any(|known| known == message))
    }

    fn know<'a>(&'a self, _: &'a str, message: &'a str) -> BoxFuture<'a, Result<(), store::Error>> {
        self.known.lock().unwrap().push(message.to_owned());
        ready(Ok(())).boxed()
    }
}

impl Taker {
    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

/// One exchange: what the client says behind its tag, and what is answered; `TAG` stands for the tag.
type Line = (&'static str, &'static str);

const HELLO: &str = "* OK ready\r\n";
const PLAIN: Line = ("CAPABILITY", "* CAPABILITY IMAP4rev1 LOGIN-REFERRALS\r\nTAG OK\r\n");
const LOGIN: Line = ("LOGIN \"b\" \"s3cret\"", "TAG OK\r\n");
const SELECT: Line = ("SELECT \"INBOX\"", SELECTED);
const SELECTED: &str =
    "* 2 EXISTS\r\n* OK [PERMANENTFLAGS (\\Seen \\Deleted \\*)] x\r\n* OK [UIDVALIDITY 9] x\r\nTAG OK [READ-WRITE]\r\n";
const SEARCH: &str = "UID SEARCH NOT KEYWORD $MailshotRead";
const LOGOUT: Line = ("LOGOUT", "* BYE\r\nTAG OK\r\n");

/// What the server is able to do, asked after the login.
fn able(words: &'static str) -> Line {
    ("CAPABILITY", words)
}

fn mailbox(processed: Option<&str>) -> Mailbox {
    let processed = processed.map(str::to_owned);
    Mailbox { name: "m".into(), user: "b".into(), host: "mail.example".into(), processed, ..Mailbox::default() }
}

/// A server that greets, answers each line as scripted, and hangs up at the end; gives what it heard.
async fn server(mut wire: tokio::io::DuplexStream, hello: &str, script: &[Line]) -> Vec<String> {
    wire.write_all(hello.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    for (command, answer) in script {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            match wire.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => return heard,
            }
        }
        let line = String::from_utf8(line).unwrap().trim_end().to_owned();
        let (tag, said) = line.split_once(' ').unwrap_or(("", &line));
        let said = if line.starts_with(['A', 'c']) && !said.is_empty() { said } else { &line };
        heard.push(said.to_owned());
        assert_eq!(said, *command, "heard {heard:?}");
        wire.write_all(answer.replace("TAG", tag).as_bytes()).await.unwrap();
    }
    heard
}

/// One round against the script, its login and its logout included.
async fn round(mailbox: &Mailbox, script: &[Line], intake: &Taker) -> (Result<Round, MailboxError>, Vec<String>) {
    with_proof(mailbox, HELLO, script, intake, &Proof::Password(Secret::new("s3cret".into()))).await
}

async fn with_proof(
    mailbox: &Mailbox,
    hello: &str,
    script: &[Line],
    intake: &Taker,
    proof: &Proof,
) -> (Result<Round, MailboxError>, Vec<String>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let client = async {
        let mut visit = Visit::secured(mailbox, Box::new(ours), proof).await?;
        let round = visit.round(intake).await;
        visit.end().await;
        round
    };
    futures_util::join!(client, server(theirs, hello, script))
}

#[tokio::test(start_paused = true)]
async fn a_report_is_fetched_unmarked_then_moved_and_ordinary_mail_is_left() {
    let script = [
        PLAIN,
        LOGIN,
        able("* CAPABILITY IMAP4rev1 MOVE UIDPLUS\r\nTAG OK\r\n"),
        ("CREATE \"Done\"", "TAG NO exists\r\n"),
        SELECT,
        (SEARCH, "* SEARCH 3 7\r\nTAG OK\r\n"),
        // A server may echo what was not asked for, and say other things in between.
        (
            "UID FETCH 3,7 (UID RFC822.SIZE)",
            "* 9 EXISTS\r\n* 1 FETCH (UID 3 RFC822.SIZE 9)\r\n* 2 FETCH (UID 7 RFC822.SIZE 6)\r\n* 3 FETCH (UID 99 RFC822.SIZE 5)\r\nTAG OK\r\n",
        ),
        (
            "UID FETCH 3 (UID BODY.PEEK[])",
            "* 5 EXPUNGE\r\n* 1 FETCH (FLAGS (\\Seen) UID 3 BODY[] {9}\r\na report))\r\nTAG OK\r\n",
        ),
        ("UID MOVE 3 \"Done\"", "* OK [COPYUID 1 3 1] x\r\n* 1 EXPUNGE\r\nTAG OK\r\n"),
        ("UID FETCH 7 (UID BODY.PEEK[])", "* 1 FETCH (UID 7 BODY[] {5}\r\nhello)\r\nTAG OK\r\n"),
        LOGOUT,
    ];
    let intake = Taker::default();
    let (round, _) = round(&mailbox(Some("Done")), &script, &intake).await;
    assert_eq!(round.unwrap(), Round { taken: 1, foreign: 1 });
    assert_eq!(intake.taken(), ["a report)", "hello"]);
    assert_eq!(*intake.known.lock().unwrap(), ["9:7"]);
}

/// A folder with one report, and what is done with it.
async fn put_away_by(processed: Option<&str>, can: &'static str, how: &[Line]) -> Vec<String> {
    let make: &[Line] = if processed.is_some() { &[("CREATE \"Done\"", "TAG OK\r\n")] } else { &[] };
    let found = [
        SELECT,
        (SEARCH, "* SEARCH 3\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 8)\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID BODY.PEEK[])", "* 1 FETCH (UID 3 BODY[] {8}\r\na report)\r\nTAG OK\r\n"),
    ];
    let script = [&[PLAIN, LOGIN, able(can)], make, &found, how, &[LOGOUT]].concat();
    let (round, heard) = round(&mailbox(processed), &script, &Taker::default()).await;
    assert_eq!(round.unwrap(), Round { taken: 1, foreign: 0 });
    heard
}

#[tokio::test(start_paused = true)]
async fn without_move_one_message_is_copied_and_expunged_by_its_uid_alone() {
    let how = [
        ("UID COPY 3 \"Done\"", "TAG OK [COPYUID 1 3 1]\r\n"),
        ("UID STORE 3 +FLAGS ($MailshotRead \\Deleted)", "* 1 FETCH (UID 3 FLAGS (\\Deleted))\r\nTAG OK\r\n"),
        ("UID EXPUNGE 3", "* 1 EXPUNGE\r\nTAG OK\r\n"),
    ];
    let heard = put_away_by(Some("Done"), "* CAPABILITY IMAP4rev1 UIDPLUS\r\nTAG OK\r\n", &how).await;
    assert!(!heard.iter().any(|said| said == "EXPUNGE" || said == "CLOSE"), "takes along what others deleted");
}

#[tokio::test(start_paused = true)]
async fn without_uidplus_nothing_is_expunged_and_a_keyword_says_it_is_done() {
    let mark = ("UID STORE 3 +FLAGS ($MailshotRead)", "TAG OK\r\n");
    let copy = ("UID COPY 3 \"Done\"", "TAG OK\r\n");
    put_away_by(Some("Done"), "* CAPABILITY IMAP4rev1\r\nTAG OK\r\n", &[copy, mark]).await;
    put_away_by(None, "* CAPABILITY IMAP4rev1 MOVE UIDPLUS\r\nTAG OK\r\n", &[mark]).await;
}

#[tokio::test(start_paused = true)]
async fn where_keywords_do_not_last_the_message_is_remembered() {
    let selected = "* 1 EXISTS\r\n* OK [PERMANENTFLAGS (\\Seen)] x\r\n* OK [UIDVALIDITY 9] x\r\nTAG OK\r\n";
    let script = [
        PLAIN,
        LOGIN,
        able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
        ("SELECT \"INBOX\"", selected),
        (SEARCH, "* SEARCH 3\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 8)\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID BODY.PEEK[])", "* 1 FETCH (UID 3 BODY[] {8}\r\na report)\r\nTAG OK\r\n"),
        ("UID STORE 3 +FLAGS ($MailshotRead)", "TAG OK\r\n"),
        LOGOUT,
    ];
    let intake = Taker::default();
    assert_eq!(round(&mailbox(None), &script, &intake).await.0.unwrap().taken, 1);
    assert_eq!(*intake.known.lock().unwrap(), ["9:3"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_uidvalidity_all_is_looked_at_again() {
    let select = |validity: &'static str| ("SELECT \"INBOX\"", validity);
    let visit = |validity| {
        [
            PLAIN,
            LOGIN,
            able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
            select(validity),
            (SEARCH, "* SEARCH 7\r\nTAG OK\r\n"),
            ("UID FETCH 7 (UID RFC822.SIZE)", "* 1 FETCH (UID 7 RFC822.SIZE 5)\r\nTAG OK\r\n"),
            ("UID FETCH 7 (UID BODY.PEEK[])", "* 1 FETCH (UID 7 BODY[] {5}\r\nhello)\r\nTAG OK\r\n"),
            LOGOUT,
        ]
    };
    let intake = Taker::default();
    for validity in ["* OK [UIDVALIDITY 9] x\r\nTAG OK\r\n", "* OK [UIDVALIDITY 10] x\r\nTAG OK\r\n"] {
        assert_eq!(round(&mailbox(None), &visit(validity), &intake).await.0.unwrap().foreign, 1);
    }
    assert_eq!(*intake.known.lock().unwrap(), ["9:7", "10:7"]);
    let none = [PLAIN, LOGIN, able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"), select("* 1 EXISTS\r\nTAG OK\r\n"), LOGOUT];
    assert!(matches!(round(&mailbox(None), &none, &intake).await.0, Err(MailboxError::Protocol { .. })));
}

#[tokio::test(start_paused = true)]
async fn of_a_message_that_is_too_long_the_start_is_asked_for() {
    let script = [
        PLAIN,
        LOGIN,
        able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
        SELECT,
        (SEARCH, "* SEARCH 3\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 4294967295)\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID BODY.PEEK[]<0.10485760>)", "* 1 FETCH (UID 3 BODY[]<0> {5}\r\nhello)\r\nTAG OK\r\n"),
        LOGOUT,
    ];
    assert_eq!(round(&mailbox(None), &script, &Taker::default()).await.0.unwrap().foreign, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_gone_meanwhile_is_passed_over() {
    let script = [
        PLAIN,
        LOGIN,
        able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
        SELECT,
        (SEARCH, "* SEARCH 3 4\r\nTAG OK\r\n"),
        ("UID FETCH 3,4 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 8)\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID BODY.PEEK[])", "TAG OK\r\n"),
        LOGOUT,
    ];
    assert_eq!(round(&mailbox(None), &script, &Taker::default()).await.0.unwrap(), Round::default());
}

#[tokio::test(start_paused = true)]
async fn a_huge_literal_ends_the_connection_before_room_is_made() {
    let script = [
        PLAIN,
        LOGIN,
        able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
        SELECT,
        (SEARCH, "* SEARCH 3\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID RFC822.SIZE)", "* 1 FETCH (UID 3 RFC822.SIZE 8)\r\nTAG OK\r\n"),
        ("UID FETCH 3 (UID BODY.PEEK[])", "* 1 FETCH (UID 3 BODY[] {4294967296}\r\n"),
    ];
    let (round, _) = round(&mailbox(None), &script, &Taker::default()).await;
    assert!(matches!(round, Err(MailboxError::Unreachable { .. })), "{round:?}");
}

#[tokio::test(start_paused = true)]
async fn a_greeting_that_logs_us_in_is_not_believed() {
    for hello in ["* PREAUTH welcome\r\n", "* BYE go away\r\n"] {
        let proof = Proof::Password(Secret::new("s3cret".into()));
        let (round, heard) = with_proof(&mailbox(None), hello, &[], &Taker::default(), &proof).await;
        assert!(round.is_err() && heard.is_empty(), "{hello}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_put_behind_the_yes_to_starttls_ends_the_connection() {
    let settings = Mailbox { tls: MailboxTls::Starttls, ..mailbox(None) };
    for answer in ["TAG OK go\r\n* CAPABILITY IMAP4rev1\r\n", "TAG OK go\r\nA0002 OK\r\n* PREAUTH"] {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let tls = TlsClient::new(None).unwrap();
        let client = starttls(&settings, Box::new(ours), &tls);
        let script = [("STARTTLS", answer)];
        let (secured, _) = futures_util::join!(client, server(theirs, HELLO, &script));
        assert!(matches!(secured, Err(MailboxError::Protocol { .. })), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_login_is_disabled_the_password_goes_by_plain_or_not_at_all() {
    let start = ("CAPABILITY", "* CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=PLAIN\r\nTAG OK\r\n");
    let script = [
        start,
        ("AUTHENTICATE PLAIN", "+ \r\n"),
        ("AGIAczNjcmV0", "A0001 OK\r\n"),
        able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
        SELECT,
        (SEARCH, "* SEARCH\r\nTAG OK\r\n"),
        LOGOUT,
    ];
    assert_eq!(round(&mailbox(None), &script, &Taker::default()).await.0.unwrap(), Round::default());
    let script = [("CAPABILITY", "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK\r\n")];
    let (round, heard) = round(&mailbox(None), &script, &Taker::default()).await;
    assert!(matches!(round, Err(MailboxError::Login { .. })) && heard == ["CAPABILITY"], "{heard:?}");
}

/// `n,a=b,^Ahost=mail.example^Aport=993^Aauth=Bearer t0ken^A^A`.
const BEARER: &str = "bixhPWIsAWhvc3Q9bWFpbC5leGFtcGxlAXBvcnQ9OTkzAWF1dGg9QmVhcmVyIHQwa2VuAQE=";
/// `user=b^Aauth=Bearer t0ken^A^A`.
const XOAUTH2: &str = "dXNlcj1iAWF1dGg9QmVhcmVyIHQwa2VuAQE=";

#[tokio::test(start_paused = true)]
async fn a_token_is_shown_by_the_better_way_that_is_offered() {
    let proof = Proof::Token(Secret::new("t0ken".into()));
    for (offered, command, words) in [
        ("* CAPABILITY IMAP4rev1 AUTH=XOAUTH2 AUTH=OAUTHBEARER\r\nTAG OK\r\n", "AUTHENTICATE OAUTHBEARER", BEARER),
        ("* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\nTAG OK\r\n", "AUTHENTICATE XOAUTH2", XOAUTH2),
    ] {
        let script = [
            ("CAPABILITY", offered),
            (command, "+ \r\n"),
            (words, "A0001 OK\r\n"),
            able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
            SELECT,
            (SEARCH, "* SEARCH\r\nTAG OK\r\n"),
            LOGOUT,
        ];
        let (round, _) = with_proof(&mailbox(None), HELLO, &script, &Taker::default(), &proof).await;
        assert_eq!(round.unwrap(), Round::default());
    }
    let (round, heard) = with_proof(&mailbox(None), HELLO, &[PLAIN], &Taker::default(), &proof).await;
    assert!(matches!(round, Err(MailboxError::Login { .. })) && heard == ["CAPABILITY"], "{round:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_said_so_and_not_shown_again() {
    let proof = Proof::Token(Secret::new("t0ken".into()));
    for (offered, command, words, last) in [
        ("* CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER\r\nTAG OK\r\n", "AUTHENTICATE OAUTHBEARER", BEARER, "AQ=="),
        ("* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\nTAG OK\r\n", "AUTHENTICATE XOAUTH2", XOAUTH2, ""),
    ] {
        let script = [
            ("CAPABILITY", offered),
            (command, "+ \r\n"),
            (words, "+ eyJzdGF0dXMiOiI0MDAifQ==\r\n"),
            (last, "A0001 NO [AUTHENTICATIONFAILED] expired\r\n"),
        ];
        let (round, _) = with_proof(&mailbox(None), HELLO, &script, &Taker::default(), &proof).await;
        let words = round.unwrap_err().to_string();
        assert!(words.contains("refused") && !words.contains("t0ken"), "{words}");
    }
}

const IDLES: Line = ("CAPABILITY", "* CAPABILITY IMAP4rev1 IDLE\r\nTAG OK\r\n");
const EMPTY: Line = (SEARCH, "* SEARCH\r\nTAG OK\r\n");

/// Visits a server until it hangs up; how many rounds there were, and how long it took.
async fn stay(script: &[Line], pause: Duration) -> (usize, Duration, Vec<String>) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let script = script.to_vec();
    let settings = mailbox(None);
    let proof = Proof::Password(Secret::new("s3cret".into()));
    let began = Instant::now();
    let client = async {
        let mut rounds = 0;
        let mut visit = Visit::secured(&settings, Box::new(ours), &proof).await.unwrap();
        loop {
            visit.round(&Taker::default()).await.unwrap();
            rounds += 1;
            match visit.news().await {
                Ok(Some(next)) => visit = next,
                Ok(None) | Err(_) => return rounds,
            }
        }
    };
    let server = async move {
        theirs.write_all(HELLO.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        for (command, answer) in script {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.push(theirs.read_u8().await.unwrap());
            }
            let line = String::from_utf8(line).unwrap().trim_end().to_owned();
            let (tag, said) = line.split_once(' ').unwrap_or(("", &line));
            assert_eq!(said, command, "{heard:?}");
            heard.push(said.to_owned());
            // What stands behind a bar comes later.
            for (at, part) in answer.split('|').enumerate() {
                if at > 0 {
                    tokio::time::sleep(pause).await;
                }
                theirs.write_all(part.replace("TAG", tag).as_bytes()).await.unwrap();
            }
        }
        heard
    };
    let (rounds, heard) = futures_util::join!(client, server);
    (rounds, began.elapsed(), heard)
}

#[tokio::test(start_paused = true)]
async fn idle_tells_of_new_mail_at_once_and_is_ended_before_anything_else_is_said() {
    let script = [
        PLAIN,
        LOGIN,
        IDLES,
        SELECT,
        EMPTY,
        ("IDLE", "+ idling\r\n|* OK still here\r\n|* 3 EXISTS\r\n"),
        ("DONE", "A0005 OK\r\n"),
        SELECT,
        EMPTY,
        ("IDLE", "+ idling\r\n* BYE\r\n"),
    ];
    let (rounds, took, _) = stay(&script, Duration::from_secs(20)).await;
    assert_eq!(rounds, 2);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn idle_without_news_is_begun_anew_in_time_whatever_signs_of_life_there_are() {
    let alive = "+ idling\r\n|* OK alive\r\n|* OK alive\r\n|* OK alive\r\n";
    let script =
        [PLAIN, LOGIN, IDLES, SELECT, EMPTY, ("IDLE", alive), ("DONE", "A0005 OK\r\n"), SELECT, EMPTY, ("IDLE", "")];
    let (rounds, took, _) = stay(&script, Duration::from_secs(110)).await;
    assert_eq!(rounds, 2);
    assert!(took >= Duration::from_secs(300) && took < IDLE_MAX, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn mail_that_came_during_the_round_is_not_slept_over() {
    let search = (SEARCH, "* 3 EXISTS\r\n* SEARCH\r\nTAG OK\r\n");
    let script = [PLAIN, LOGIN, IDLES, SELECT, search, SELECT, EMPTY, ("IDLE", "+ idling\r\n* BYE\r\n")];
    assert_eq!(stay(&script, Duration::ZERO).await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_idle_is_left_after_one_round() {
    let script = [PLAIN, LOGIN, able("* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"), SELECT, EMPTY, LOGOUT];
    assert_eq!(stay(&script, Duration::ZERO).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_imap_is_told_in_one_short_line() {
    let octets: String = "\u{15}\u{3}«garbage»\r\n{\u{1b}[2J".repeat(400);
    let proof = Proof::Password(Secret::new("s3cret".into()));
    for hello in [&octets, "* 99999999999999999999 EXISTS\r\n", "* SEARCH -1\r\n", "* 1 FETCH (BODY[] {-5}\r\n"] {
        let (round, _) = with_proof(&mailbox(None), hello, &[], &Taker::default(), &proof).await;
        let told = round.unwrap_err().to_string();
        assert!(told.chars().count() < 200 && !told.contains(char::is_control), "{told}");
        assert!(!told.contains("Error") && told.starts_with("m: "), "{told}");
    }
    let script = [PLAIN, ("LOGIN \"b\" \"s3cret\"", "TAG NO \r\n")];
    let told = round(&mailbox(None), &script, &Taker::default()).await.0.unwrap_err().to_string();
    assert!(told.starts_with("m: the login of b was refused: "), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_without_end_is_left() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let speaks = async {
        theirs.write_all(HELLO.as_bytes()).await.unwrap();
        for _ in 0..3 * LINES_MAX {
            if theirs.write_all(b"* OK still here\r\n").await.is_err() {
                break;
            }
        }
        drop(theirs);
    };
    let proof = Proof::Password(Secret::new("s3cret".into()));
    let mailbox = mailbox(None);
    let visit = async { Visit::secured(&mailbox, Box::new(ours), &proof).await.map(drop) };
    let told = futures_util::join!(visit, speaks).0.unwrap_err().to_string();
    assert_eq!(told, "m: mail.example cannot be reached: the server speaks without end");
}
