//! The receiver over an in-memory stream, in octets and virtual time.

use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream};

use super::*;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn receiver(script: &str) -> Receiver {
    let script = Script::parse(script).unwrap();
    Receiver::new(Setup { script, verifier: None, shelf: None }).unwrap()
}

struct Client(BufReader<DuplexStream>);

impl Client {
    /// Connects and hears the greeting.
    async fn connect(receiver: &Receiver) -> (Client, String) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let receiver = receiver.clone();
        let session = receiver.script().session;
        tokio::spawn(async move { receiver.serve(Box::new(theirs), CLIENT, session).await });
        let mut client = Client(BufReader::new(ours));
        let greeting = client.hear().await;
        (client, greeting)
    }

    /// The codes of one reply; `-` when the connection is closed.
    async fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line).await {
                Ok(0) | Err(_) => return "-".into(),
                Ok(_) if line.as_bytes().get(3) == Some(&b'-') => continue,
                Ok(_) => return line.trim_end().chars().take(3).collect(),
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        // A host that has left hears nothing; that shows in the reply.
        let _ = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).await;
        self.hear().await
    }

    /// Sends one message; the replies up to the first refusal.
    async fn send(&mut self, to: &str, id: &str) -> String {
        let mut heard = Vec::new();
        for line in
            ["MAIL FROM:<a@a.test>", &format!("RCPT TO:<{to}>"), "DATA", &format!("Message-ID: <{id}>\r\n\r\nhi\r\n.")]
        {
            heard.push(self.say(line).await);
            if !heard.last().expect("just pushed").starts_with(['2', '3']) {
                break;
            }
        }
        heard.join(" ")
    }
}

/// Sends to `to` on a fresh connection.
async fn send(receiver: &Receiver, to: &str, id: &str) -> String {
    let (mut client, greeting) = Client::connect(receiver).await;
    if greeting != "220" {
        return greeting;
    }
    match client.say("EHLO me.test").await {
        refused if refused != "250" => refused,
        _ => client.send(to, id).await,
    }
}

fn with(fault: &str) -> Receiver {
    receiver(&format!("session = \"x\"\n[domains]\n[personality.x]\nfault = [{{ {fault} }}]"))
}

#[tokio::test]
async fn faults_at_every_moment() {
    for (fault, expected) in [
        ("at = \"greet\", reply = \"421 4.3.2 busy\", then = \"close\"", "421"),
        ("at = \"hello\", reply = \"504 5.5.2 no\"", "504"),
        ("at = \"from\", reply = \"451 4.3.0 no\"", "451"),
        ("at = \"from\", after = 1, then = \"close\"", "250 250 354 250"),
        ("at = \"from\", then = \"close\"", "-"),
        ("at = \"to\", reply = \"550 5.1.1 <{recipient}> {client}\"", "250 550"),
        ("at = \"to\", address = \"other@*\", reply = \"550 5.1.1 no\"", "250 250 354 250"),
        ("at = \"to\", chance = 0.0, reply = \"550 5.1.1 no\"", "250 250 354 250"),
        ("at = \"data\", reply = \"452 4.3.1 full\"", "250 250 452"),
        ("at = \"body\", then = \"close\"", "250 250 354 -"),
        ("at = \"dot\", reply = \"554 5.7.1 spam\"", "250 250 354 554"),
        ("at = \"dot\", then = \"close\"", "250 250 354 -"),
        ("at = \"dot\", then = \"close\", keeps = true", "250 250 354 -"),
        ("at = \"dot\", reply = \"421 4.7.0 slow\", then = \"close\"", "250 250 354 421"),
    ] {
        let receiver = with(fault);
        assert_eq!(send(&receiver, "b@b.test", "1").await, expected, "{fault}");
        let kept = fault.contains("keeps") || expected.ends_with("354 250");
        assert_eq!(receiver.counts().messages, u64::from(kept), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn greylisting_is_for_a_while_and_for_each_three() {
    let receiver = with("at = \"to\", within = \"10s\", reply = \"450 4.2.0 greylisted\"");
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 450");
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 450");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 250 354 250");
    assert_eq!(send(&receiver, "c@b.test", "2").await, "250 450");
    let tally = receiver.of("b@b.test");
    assert_eq!((tally.taken, tally.deferred), (1, 2));
}

#[tokio::test]
async fn some_faults_come_so_often_and_no_more() {
    let receiver = with("at = \"dot\", times = 2, reply = \"451 4.3.0 later\"");
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(send(&receiver, "b@b.test", "1").await);
    }
    assert_eq!(heard.iter().filter(|replies| replies.ends_with("451")).count(), 2);
    assert!(heard[3].ends_with("250"), "{heard:?}");
    let counts = receiver.counts();
    assert_eq!((counts.messages, counts.doubles, counts.deferred), (2, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_held() {
    let receiver = with("at = \"to\", over_rate = \"2/min\", reply = \"452 4.7.1 slow down\"");
    let mut heard = String::new();
    for _ in 0..3 {
        heard += &send(&receiver, "b@b.test", "1").await[4..7];
    }
    assert_eq!(heard, "250250452");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 250 354 250");
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let receiver = with("at = \"greet\", over_connections = 1, reply = \"421 4.7.0 too many\", then = \"close\"");
    let (first, greeting) = Client::connect(&receiver).await;
    assert_eq!(greeting, "220");
    assert_eq!(send(&receiver, "b@b.test", "1").await, "421");
    drop(first);
    while receiver.glance().1 > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 250 354 250");
    assert_eq!(receiver.counts().connections, 3);
}

#[tokio::test]
async fn a_session_is_that_of_its_first_recipient() {
    let script = "[domains]\n\"b.test\" = \"short\"\n[personality.short]\nfault = [{ at = \"from\", after = 2, then = \"close\" }]";
    let receiver = receiver(script);
    let (mut client, _) = Client::connect(&receiver).await;
    client.say("EHLO me.test").await;
    assert_eq!(client.send("b@b.test", "1").await, "250 250 354 250");
    assert_eq!(client.send("c@c.test", "2").await, "250 250 354 250");
    assert_eq!(client.send("b@b.test", "3").await, "-");
}

#[tokio::test(start_paused = true)]
async fn delays_are_kept() {
    let receiver = receiver(
        "session = \"x\"\n[domains]\n[personality.x]\ndelay = { greet = \"1s\", to = \"2s\", dot = \"4s\", round_trip = \"100ms\" }",
    );
    let start = Instant::now();
    assert_eq!(send(&receiver, "b@b.test", "1").await, "250 250 354 250");
    // Seven seconds of thought, and six flights: greeting, EHLO, MAIL, RCPT, DATA, dot.
    assert_eq!(start.elapsed(), Duration::from_millis(7600));
}

#[tokio::test(start_paused = true)]
async fn silence_and_tarpits() {
    let silent = with("at = \"hello\", then = \"silence\"");
    let (mut client, _) = Client::connect(&silent).await;
    assert!(timeout(Duration::from_secs(3600), client.say("EHLO me.test")).await.is_err());
    let tarpit = receiver("session = \"x\"\n[domains]\n[personality.x]\nhost = \"x\"\ndelay = { octet = \"1s\" }");
    let start = Instant::now();
    Client::connect(&tarpit).await;
    assert!(start.elapsed() >= Duration::from_secs("220 x ESMTP\r\n".len() as u64 - 1));
    let idle = with("at = \"from\", chance = 0.0, reply = \"421 x\"");
    let (mut client, _) = Client::connect(&idle).await;
    assert_eq!(client.hear().await, "421");
}

#[test]
fn message_ids() {
    for (content, expected) in [
        (&b"From: a\r\nMESSAGE-ID:  <1@x> \r\n\r\n"[..], "<1@x>"),
        (b"From: a\r\n\r\nMessage-ID: <1@x>\r\n", ""),
        (b"", ""),
    ] {
        assert_eq!(message_id(content), expected.as_bytes());
    }
}
