//! The listener as hosts, forgers and bores meet it, over a stream in memory.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::base::{EnvelopeId, SealKey};
use crate::outcome::intake::Taken;
use crate::store;

/// Keeps what it is given, unless its disk is full.
#[derive(Default)]
struct Shelf {
    taken: Mutex<Vec<(String, String)>>,
    full: bool,
}

impl Intake for Shelf {
    fn take<'a>(&'a self, raw: &'a [u8], recipient: Option<&'a str>) -> BoxFuture<'a, Result<Taken, store::Error>> {
        let message = (recipient.unwrap_or_default().to_owned(), String::from_utf8_lossy(raw).into_owned());
        let done = match self.full {
            true => Err(store::Error::Full("audience.db".into())),
            false => Ok(Taken::Ours),
        };
        self.taken.lock().unwrap().push(message);
        std::future::ready(done).boxed()
    }

    fn is_known(&self, _: &str, _: &str) -> Result<bool, store::Error> {
        Ok(false)
    }

    fn know<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), store::Error>> {
        std::future::ready(Ok(())).boxed()
    }
}

struct House {
    listener: Listener,
    shelf: Arc<Shelf>,
    folder: tempfile::TempDir,
}

fn seal() -> Seal {
    Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap()
}

fn house(full: bool) -> House {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Arc::new(Shelf { full, ..Shelf::default() });
    let settings = config::Listener { domains: vec!["Bounce.Example.com".into()], ..config::Listener::default() };
    let postmaster = folder.path().join("postmaster");
    let listener = Listener::new(&settings, "mx.example.com", postmaster, seal(), shelf.clone()).unwrap();
    House { listener, shelf, folder }
}

fn bounce() -> String {
    format!("b.{}@bounce.example.com", seal().mint(EnvelopeId::from_u64(42), Purpose::Bounce, 0))
}

impl House {
    /// Says all, waiting where a reply must be waited for, hangs up, and gives all that was answered.
    async fn hear(&self, protocol: Protocol, said: &str) -> String {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (mut from, mut to) = tokio::io::split(ours);
        let speak = async {
            for line in said.split_inclusive("\r\n") {
                let _ = to.write_all(line.as_bytes()).await;
                if ["EHLO", "LHLO", "DATA"].iter().any(|verb| line.starts_with(verb)) || line == ".\r\n" {
                    sleep(Duration::from_secs(1)).await;
                }
            }
            let _ = to.shutdown().await;
        };
        let hear = async {
            let mut answer = String::new();
            from.read_to_string(&mut answer).await.unwrap();
            answer
        };
        futures_util::join!(speak, self.listener.serve(Box::new(theirs), protocol), hear).2
    }
}

/// The codes of the replies, EHLO's lines as one.
fn codes(answer: &str) -> Vec<&str> {
    answer.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect()
}

fn session(recipient: &str) -> String {
    format!(
        "EHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<{recipient}>\r\nDATA\r\nSubject: x\r\n\r\nno such user\r\n.\r\nQUIT\r\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_report_to_a_token_of_ours_is_recorded_before_it_is_answered() {
    let house = house(false);
    for recipient in [bounce(), bounce().to_uppercase()] {
        let answer = house.hear(Protocol::Smtp, &session(&recipient)).await;
        assert_eq!(codes(&answer), ["220", "250", "250", "250", "354", "250", "221"], "{answer}");
    }
    let taken = house.shelf.taken.lock().unwrap();
    assert_eq!(taken.len(), 2);
    assert!(taken[0].1.ends_with("no such user\r\n"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_is_not_answered_with_yes() {
    let house = house(true);
    let answer = house.hear(Protocol::Smtp, &session(&bounce())).await;
    assert_eq!(codes(&answer), ["220", "250", "250", "250", "354", "451", "221"], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn there_is_no_relay_and_no_forgery() {
    let house = house(false);
    let token = bounce();
    let (local, _) = token.split_once('@').unwrap();
    let mut flipped = local.to_owned();
    flipped.pop();
    flipped.push(if local.ends_with('c') { 'd' } else { 'c' });
    for recipient in [
        "ann@elsewhere.example".to_owned(),
        "user%elsewhere.example@bounce.example.com".to_owned(),
        "\"user@elsewhere.example\"@bounce.example.com".to_owned(),
        format!("{flipped}@bounce.example.com"),
        format!("u.{}@bounce.example.com", &local[2..]),
        "postmaster@elsewhere.example".to_owned(),
        "b.@bounce.example.com".to_owned(),
        "ü@bounce.example.com".to_owned(),
    ] {
        let answer = house.hear(Protocol::Smtp, &session(&recipient)).await;
        let refused = codes(&answer)[3];
        assert!(refused.starts_with('5'), "{recipient}: {answer}");
    }
    assert!(house.shelf.taken.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_postmaster_is_there_and_keeps_the_same_message_once() {
    let house = house(false);
    for recipient in ["postmaster", "Postmaster@BOUNCE.example.com", "abuse@bounce.example.com"] {
        let answer = house.hear(Protocol::Smtp, &session(recipient)).await;
        assert_eq!(codes(&answer)[5], "250", "{recipient}: {answer}");
    }
    assert_eq!(std::fs::read_dir(house.folder.path().join("postmaster")).unwrap().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn lmtp_answers_for_each_recipient() {
    let house = house(false);
    let (one, two) = (bounce(), "postmaster@bounce.example.com");
    let said = format!(
        "LHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<{one}>\r\nRCPT TO:<x@y.example>\r\nRCPT TO:<{two}>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    );
    let answer = house.hear(Protocol::Lmtp, &said).await;
    assert_eq!(codes(&answer), ["220", "250", "250", "250", "550", "250", "354", "250", "250", "221"], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_goes_round_in_circles_is_refused() {
    let house = house(false);
    let circles = "Received: from a by b\r\n".repeat(HOPS_MAX);
    let answer = house.hear(Protocol::Smtp, &session(&bounce()).replace("Subject: x\r\n", &circles)).await;
    assert_eq!(codes(&answer)[5], "554", "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_octet_a_minute_does_not_hold_a_connection_for_ever() {
    let house = house(false);
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let began = Instant::now();
    let bore = async {
        while ours.write_all(b"N").await.is_ok() {
            sleep(Duration::from_secs(60)).await;
        }
    };
    let (_, served) = futures_util::join!(bore, house.listener.serve(Box::new(theirs), Protocol::Smtp));
    let _ = served;
    assert!(began.elapsed() <= SESSION + Duration::from_secs(120), "{:?}", began.elapsed());
}

#[test]
fn one_client_cannot_take_every_place() {
    let house = house(false);
    let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let entered = (0..100).filter(|_| house.listener.0.enter(one)).count();
    assert_eq!(entered, 20);
    assert!(house.listener.0.enter(other));
    house.listener.0.leave(one);
    assert!(house.listener.0.enter(one) && !house.listener.0.enter(one));
}
