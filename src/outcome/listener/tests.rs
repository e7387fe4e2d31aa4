//! The listener as hosts, forgers and bores meet it, over a stream in memory.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::base::{EnvelopeId, SealKey};
use crate::outcome::intake::Taken;
use crate::store;
use crate::world::{Dice, SeededDice};

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
        futures_util::join!(speak, self.listener.receive(Box::new(theirs), protocol), hear).2
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
async fn whoever_tries_tokens_is_sent_away() {
    let house = house(false);
    let tries = "RCPT TO:<b.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@bounce.example.com>\r\n".repeat(100);
    let said = format!("EHLO a\r\nMAIL FROM:<>\r\n{tries}RCPT TO:<{}>\r\nDATA\r\nx\r\n.\r\n", bounce());
    let answer = house.hear(Protocol::Smtp, &said).await;
    let refused = codes(&answer).iter().filter(|code| **code == "550").count();
    assert_eq!((refused, codes(&answer).last()), (usize::from(UNKNOWN_MAX) - 1, Some(&"421")), "{answer}");
    assert!(house.shelf.taken.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_connections_do_not_make_more_guesses() {
    let house = house(false);
    let guesses = "RCPT TO:<b.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@bounce.example.com>\r\n".repeat(15);
    let said = format!("EHLO a\r\nMAIL FROM:<>\r\n{guesses}");
    let refused = async |protocol| {
        let hello = if protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let (began, said) = (Instant::now(), said.replace("EHLO", hello));
        let answer = house.hear(protocol, &said).await;
        let codes = codes(&answer);
        let count = |code| codes.iter().filter(|found| **found == code).count();
        (count("550"), count("421"), began.elapsed() >= TARPIT)
    };
    let mut all = 0;
    for _ in 0..6 {
        all += refused(Protocol::Smtp).await.0;
    }
    assert_eq!(all, 90);
    let more = refused(Protocol::Smtp).await;
    assert!((10..13).contains(&more.0) && (more.1, more.2) == (1, true), "then slowly, and away: {more:?}");
    assert_eq!(refused(Protocol::Lmtp).await, (15, 0, false), "behind a mail server all have its address");
    let answer = house.hear(Protocol::Smtp, &session(&bounce())).await;
    assert_eq!(codes(&answer), ["220", "250", "250", "250", "354", "250", "221"], "reports are taken all the same");
    sleep(GUESS_EVERY * 10).await;
    assert!((10..13).contains(&refused(Protocol::Smtp).await.0), "guesses are forgiven one by one");
}

#[test]
fn guessers_of_many_networks_fill_no_memory_and_neighbours_count_as_one() {
    let (mut guesses, now) = (Guesses::default(), Instant::now());
    for number in 0..GUESSERS_MAX as u32 * 3 {
        assert!(!guesses.add(IpAddr::from(number.to_be_bytes()), now));
    }
    assert!(guesses.0.len() <= GUESSERS_MAX);
    let neighbour = |number: u32| format!("2001:db8:1:2::{number:x}").parse::<IpAddr>().unwrap();
    assert_eq!((0..200).filter(|number| guesses.add(neighbour(*number), now)).count(), 100);
    assert!(!guesses.add("2001:db8:1:3::1".parse().unwrap(), now));
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
    let (_, served) = futures_util::join!(bore, house.listener.receive(Box::new(theirs), Protocol::Smtp));
    let _ = served;
    assert!(began.elapsed() <= SESSION + Duration::from_secs(120), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_client_cannot_take_every_place() {
    let house = house(false);
    let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let mut seats: Vec<Seat> = (0..100).filter_map(|_| house.listener.0.seat(one)).collect();
    assert_eq!(seats.len(), 20);
    assert!(house.listener.0.seat(other).is_some());
    seats.pop();
    assert!(house.listener.0.seat(one).is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_dials_again_before_its_goodbye_was_read_waits_for_the_place_and_not_for_ever() {
    let house = house(false);
    let shared = &house.listener.0;
    let client: IpAddr = "192.0.2.1".parse().unwrap();
    let mut seats: Vec<Seat> = (0..20).filter_map(|_| shared.seat(client)).collect();
    let began = Instant::now();
    let (place, ()) = futures_util::join!(shared.place(client), async {
        sleep(Duration::from_millis(30)).await;
        seats.pop();
    });
    assert!(place.is_some() && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    let waiting: Vec<_> = (0..100).map(|_| shared.wait(client).expect("room to wait")).collect();
    assert!(
        shared.place(client).await.is_none() && began.elapsed() < Duration::from_secs(1),
        "as many wait as may come"
    );
    drop(waiting);
    assert!(shared.place(client).await.is_none(), "nobody left");
    assert_eq!(began.elapsed().as_secs(), LOBBY.as_secs());
    assert!(shared.seats().waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn when_all_places_are_taken_the_oldest_bore_goes_and_nobody_who_named_a_recipient() {
    let house = house(false);
    let mut seats = Vec::new();
    for client in 0..10u8 {
        let client = IpAddr::from([192, 0, 2, client]);
        seats.extend((0..20).map_while(|_| house.listener.0.seat(client)));
    }
    assert_eq!(seats.len(), 200);
    let late = IpAddr::from([198, 51, 100, 1]);
    assert!(house.listener.0.seat(late).is_none(), "all have just come");
    seats[0].is_known();
    sleep(STRANGER).await;
    assert!(house.listener.0.seat(late).is_some());
    assert!(!seats[0].leave.is_cancelled() && seats[1].leave.is_cancelled() && !seats[2].leave.is_cancelled());
}

/// The listener on a real socket.
struct Door {
    house: House,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Door {
    async fn open() -> Door {
        let house = house(false);
        let socket = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(house.listener.clone().run(socket, Protocol::Smtp, stop.clone()));
        Door { house, address, stop }
    }

    /// Connects from 127.0.0.`from`.
    async fn connect(&self, from: u8) -> io::Result<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0)))?;
        socket.connect(self.address).await
    }

    /// All that is answered to these flights; after each, one reply is waited for.
    async fn hear(&self, flights: &[&[u8]]) -> String {
        let mut stream = self.connect(2).await.unwrap();
        let mut answer = reply(&mut stream).await;
        for flight in flights {
            if stream.write_all(flight).await.is_err() {
                break;
            }
            answer.push_str(&reply(&mut stream).await);
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    fn taken(&self) -> usize {
        self.house.shelf.taken.lock().unwrap().len()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One reply, all its lines; what there is of it when the host hangs up.
async fn reply(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    loop {
        let line = text.rsplit(|b: &u8| *b == b'\n').nth(1).unwrap_or_default();
        if text.ends_with(b"\n") && line.get(3) == Some(&b' ') {
            break;
        }
        match stream.read_u8().await {
            Ok(octet) => text.push(octet),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_clients_do_not_keep_an_honest_one_out() {
    let door = Door::open().await;
    let mut held = Vec::new();
    for number in 0..1000u16 {
        // Fifty hosts, as many connections of each as are let in.
        if let Ok(mut stream) = door.connect((number / 20 + 10) as u8).await {
            let _ = stream.write_all(b"E").await;
            held.push(stream);
        }
    }
    assert!(held.len() >= 900, "{}", held.len());
    let began = Instant::now();
    let recipient = bounce();
    let hello = [
        &b"EHLO a.example\r\n"[..],
        b"MAIL FROM:<>\r\n",
        &format!("RCPT TO:<{recipient}>\r\n").into_bytes(),
        b"DATA\r\n",
        b"no such user\r\n.\r\n",
        b"QUIT\r\n",
    ]
    .map(<[u8]>::to_vec);
    let flights: Vec<&[u8]> = hello.iter().map(Vec::as_slice).collect();
    // An honest host that is told to come back does so.
    while door.taken() == 0 && began.elapsed() < Duration::from_secs(20) {
        let answer = door.hear(&flights).await;
        assert!(answer.starts_with("220") || answer.starts_with("421"), "{answer}");
    }
    assert_eq!(door.taken(), 1);
    assert!(began.elapsed() < STRANGER + Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(door.house.listener.0.seats().taken.len() <= 200);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_announced_or_not_and_never_kept_whole() {
    let door = Door::open().await;
    let announced = door.hear(&[b"EHLO a\r\n", b"MAIL FROM:<> SIZE=99999999\r\n", b"QUIT\r\n"]).await;
    assert_eq!(codes(&announced), ["220", "250", "552", "221"], "{announced}");
    let recipient = format!("RCPT TO:<{}>\r\n", bounce()).into_bytes();
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    let mut flood = line.repeat((11 << 20) / line.len());
    flood.extend_from_slice(b".\r\n");
    let flights: [&[u8]; 6] = [b"EHLO a\r\n", b"MAIL FROM:<>\r\n", &recipient, b"DATA\r\n", &flood, b"QUIT\r\n"];
    let streamed = door.hear(&flights).await;
    assert_eq!(codes(&streamed), ["220", "250", "250", "250", "354", "552", "221"], "{streamed}");
    assert_eq!(door.taken(), 0);
}

#[tokio::test]
async fn relay_attempts_get_nowhere() {
    let door = Door::open().await;
    for recipient in [
        "victim@elsewhere.example",
        "victim%elsewhere.example@bounce.example.com",
        "victim@elsewhere.example@bounce.example.com",
        "@bounce.example.com:victim@elsewhere.example",
        "@a.example,@b.example:victim@elsewhere.example",
        "elsewhere.example!victim@bounce.example.com",
        "\"victim@elsewhere.example\"",
        "\"victim@elsewhere.example\"@bounce.example.com",
        "victim@[127.0.0.1]",
        "victim",
        "",
    ] {
        let attempt = format!("RCPT TO:<{recipient}>\r\n");
        let answer =
            door.hear(&[b"EHLO a\r\n", b"MAIL FROM:<>\r\n", attempt.as_bytes(), b"DATA\r\n", b"QUIT\r\n"]).await;
        let codes = codes(&answer);
        assert!(codes[3].starts_with('5') && codes[4].starts_with('5'), "{recipient}: {answer}");
    }
    let early =
        door.hear(&[b"RCPT TO:<a@b.example>\r\n", b"DATA\r\n", b"VRFY root\r\n", b"EXPN all\r\n", b"QUIT\r\n"]).await;
    assert!(codes(&early)[1..3].iter().all(|code| code.starts_with('5')), "{early}");
    assert_eq!(door.taken(), 0);
}

#[tokio::test]
async fn no_second_message_hides_behind_another_end_of_the_first() {
    let door = Door::open().await;
    let recipient = format!("RCPT TO:<{}>\r\n", bounce()).into_bytes();
    for end in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n\0.\r\n", "\n.\r"] {
        let smuggled =
            format!("Subject: x\r\n\r\none{end}MAIL FROM:<>\r\nRCPT TO:<{}>\r\nDATA\r\nsecond\r\n.\r\n", bounce());
        let flights: [&[u8]; 6] =
            [b"EHLO a\r\n", b"MAIL FROM:<>\r\n", &recipient, b"DATA\r\n", smuggled.as_bytes(), b"QUIT\r\n"];
        let before = door.taken();
        let answer = door.hear(&flights).await;
        let data = codes(&answer).iter().filter(|code| **code == "354").count();
        assert_eq!(data, 1, "{end:?}: {answer}");
        assert!(door.taken() <= before + 1, "{end:?}: {answer}");
    }
}

#[tokio::test]
async fn what_was_pipelined_behind_starttls_is_never_obeyed() {
    let door = Door::open().await;
    let mut stream = door.connect(2).await.unwrap();
    reply(&mut stream).await;
    stream.write_all(b"EHLO a\r\n").await.unwrap();
    reply(&mut stream).await;
    let junk = format!("STARTTLS\r\nEHLO b\r\nMAIL FROM:<>\r\nRCPT TO:<{}>\r\nDATA\r\nx\r\n.\r\n", bounce());
    stream.write_all(junk.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.expect("it ends");
    assert!(codes(&answer).len() <= 1, "{answer}");
    assert_eq!(door.taken(), 0);
}

#[tokio::test]
async fn endless_lines_and_endless_nonsense_end_the_session() {
    let door = Door::open().await;
    let endless = vec![b'A'; 1 << 20];
    let answer = door.hear(&[&endless]).await;
    assert!(codes(&answer)[1..].iter().all(|code| code.starts_with('5') || *code == "421"), "{answer}");
    let nonsense: Vec<&[u8]> = vec![b"WHAT\r\n"; 40];
    let answer = door.hear(&nonsense).await;
    assert!(codes(&answer).len() <= 23 && answer.contains("421"), "{answer}");
}

#[test]
fn a_million_tokens_by_chance_or_with_a_flipped_bit_are_all_refused() {
    let seal = seal();
    let dice = SeededDice::new(20);
    let throw = |below: usize| (dice.roll() % below as u64) as usize;
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    let minted: Vec<(u64, String)> = (0..64)
        .map(|_| dice.roll())
        .map(|id| (id, seal.mint(EnvelopeId::from_u64(id), Purpose::Bounce, 0).to_string()))
        .collect();
    let mut accepted = 0;
    for number in 0..1_000_000usize {
        let (_, token) = &minted[number % minted.len()];
        let mut forged = token.clone().into_bytes();
        match number % 3 {
            // The key's letter stays, so that it is not what is refused.
            0 => forged[1..].fill_with(|| alphabet[throw(32)]),
            1 => {
                let (at, bit) = (1 + throw(forged.len() - 1), throw(5));
                let value = alphabet.iter().position(|letter| *letter == forged[at]).unwrap();
                forged[at] = alphabet[value ^ (1 << bit)];
            }
            _ => {
                let at = 1 + throw(forged.len() - 1);
                forged[at] ^= 1 << throw(8);
            }
        }
        let is_same = forged.eq_ignore_ascii_case(token.as_bytes());
        let opened = std::str::from_utf8(&forged).is_ok_and(|forged| seal.open(forged, Purpose::Bounce).is_some());
        accepted += usize::from(opened && !is_same);
    }
    assert_eq!(accepted, 0);
    // And the genuine ones are none but where they belong (B-03).
    for (id, token) in &minted {
        assert_eq!(
            seal.open(&token.to_uppercase(), Purpose::Bounce).map(|(id, _)| id),
            Some(EnvelopeId::from_u64(*id))
        );
        for other in [Purpose::Unsubscribe, Purpose::Feedback, Purpose::Message] {
            assert_eq!(seal.open(token, other), None);
        }
    }
}
