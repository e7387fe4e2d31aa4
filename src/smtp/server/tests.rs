//! Dialogues with the receiving side, in octets.

use super::*;

/// A host that takes everything, and what it saw.
struct Host {
    server: Server,
    heard: String,
    events: Vec<Event>,
    /// Replies to give instead of a yes, by the start of the question's debug form.
    says: Vec<(&'static str, &'static str)>,
}

impl Host {
    fn new(offer: Offer) -> Host {
        let mut host =
            Host { server: Server::new(Arc::new(offer)), heard: String::new(), events: vec![], says: vec![] };
        host.run();
        host.heard.clear();
        host.events.clear();
        host
    }

    fn says(mut self, question: &'static str, reply: &'static str) -> Host {
        self.says.push((question, reply));
        self
    }

    fn run(&mut self) {
        while let Some(event) = self.server.event() {
            let name = format!("{event:?}");
            self.events.push(event.clone());
            match event {
                Event::StartTls => self.server.secured(),
                Event::Closed => break,
                Event::Message(_) if self.server.offer.protocol == Protocol::Lmtp => {
                    for _ in 0..self.server.recipients().len() {
                        self.server.answer(Answer::Take);
                    }
                }
                _ => match self.says.iter().find(|(question, _)| name.starts_with(question)) {
                    Some((_, "")) => self.server.answer(Answer::Drop),
                    Some((_, reply)) => self.server.answer(Answer::Say(reply)),
                    None => self.server.answer(Answer::Take),
                },
            }
        }
        self.heard.push_str(&String::from_utf8(std::mem::take(self.server.output())).unwrap());
    }

    /// Sends octets and gives the codes of the replies, separated by blanks; `-` stands for a closed connection.
    fn hear(&mut self, octets: impl AsRef<[u8]>) -> String {
        self.heard.clear();
        self.server.room().extend_from_slice(octets.as_ref());
        self.run();
        let last = self.heard.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        let mut codes: Vec<&str> = last.map(|line| &line[..3]).collect();
        if self.events.last() == Some(&Event::Closed) {
            codes.push("-");
        }
        codes.join(" ")
    }

    fn messages(&self) -> Vec<String> {
        let text = |event: &Event| match event {
            Event::Message(content) => Some(String::from_utf8(content.clone()).unwrap()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }
}

fn greeted(offer: Offer) -> Host {
    let mut host = Host::new(offer);
    host.hear("EHLO client.example\r\n");
    host
}

fn plain() -> Host {
    greeted(Offer::new("mx.example"))
}

const ENVELOPE: &str = "MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n";

#[test]
fn a_message_in_two_flights_and_the_next_one() {
    let mut host = plain();
    assert!(host.heard.contains("250-SIZE 10485760\r\n") && host.heard.ends_with("250 STARTTLS\r\n"), "{}", host.heard);
    assert_eq!(host.hear(ENVELOPE), "250 250 354");
    assert_eq!(host.hear(format!("a\r\n..b\r\n.\r\n{ENVELOPE}")), "250 250 250 354");
    assert_eq!(host.hear(".\r\nQUIT\r\n"), "250 221 -");
    assert_eq!(host.messages(), ["a\r\n.b\r\n", ""]);
    assert!(host.events.contains(&Event::From("a@a.example".into())));
    assert!(host.events.contains(&Event::To("b@b.example".into())));
}

#[test]
fn octets_may_come_one_by_one() {
    let mut host = plain();
    for octet in format!("{ENVELOPE}x\r\n.\r\nQUIT\r\n").as_bytes() {
        host.hear([*octet]);
    }
    assert_eq!(host.messages(), ["x\r\n"]);
    assert_eq!(host.events.last(), Some(&Event::Closed));
}

#[test]
fn order_is_kept() {
    let mut host = Host::new(Offer::new("mx.example"));
    assert_eq!(host.hear("MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nDATA\r\nLHLO x\r\n"), "503 503 503 500");
    assert_eq!(host.hear("HELO x\r\n"), "250");
    assert_eq!(host.hear("RCPT TO:<b@b.example>\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n"), "503 250 503");
    assert_eq!(host.hear("DATA\r\nRSET\r\nDATA\r\nVRFY b\r\nHELP\r\nNOOP\r\n"), "554 250 503 252 214 250");
    assert_eq!(host.server.errors(), 8);
}

#[test]
fn a_refused_recipient_is_none() {
    let mut host = plain().says("To(\"no", "550-5.1.1 no such\n550 5.1.1 user");
    assert_eq!(host.hear("MAIL FROM:<>\r\nRCPT TO:<no@b.example>\r\nDATA\r\n"), "250 550 554");
    assert!(host.heard.contains("550-5.1.1 no such\r\n550 5.1.1 user\r\n"), "{}", host.heard);
    assert_eq!(host.hear("RCPT TO:<yes@b.example>\r\n"), "250");
    assert_eq!(host.server.recipients(), ["yes@b.example"]);
}

/// A sender of groups whose recipients are refused again and again breaks no rule, and is not sent away.
#[test]
fn the_rest_of_a_refused_group_is_no_error() {
    let mut host = plain().says("To(\"no", "550 5.1.1 no").says("From(\"no", "550 5.7.1 no");
    for _ in 0..30 {
        let refused = "MAIL FROM:<>\r\nRCPT TO:<no@b.example>\r\nDATA\r\n";
        assert_eq!(host.hear(refused), "250 550 554");
        let sender = "RSET\r\nMAIL FROM:<no@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n";
        assert_eq!(host.hear(sender), "250 550 503 503");
        let chunk = "RSET\r\nMAIL FROM:<>\r\nRCPT TO:<no@b.example>\r\nBDAT 2 LAST\r\nxyRSET\r\n";
        assert_eq!(host.hear(chunk), "250 250 550 554 250");
    }
    assert_eq!(host.server.errors(), 0);
    assert_eq!(host.hear("RSET\r\nDATA\r\n"), "250 503");
    assert_eq!(host.server.errors(), 1);
}

#[test]
fn refusals_at_each_stage() {
    for (question, reply, expected) in [
        ("From", "451 4.3.0 later", "451 503 503"),
        ("Data", "452 4.3.1 full", "250 250 452"),
        ("From", "421 4.7.0 enough", "421 -"),
        ("To", "", "250 -"),
    ] {
        assert_eq!(plain().says(question, reply).hear(ENVELOPE), expected, "{question} {reply}");
    }
    let mut host = plain().says("Message", "554 5.7.1 spam");
    host.hear(ENVELOPE);
    assert_eq!(host.hear(".\r\nMAIL FROM:<>\r\n"), "554 250");
}

#[test]
fn a_dismissed_client_may_only_leave() {
    let mut host =
        Host { server: Server::new(Arc::new(Offer::new("mx"))), heard: String::new(), events: vec![], says: vec![] };
    host = host.says("Opened", "554 5.7.1 no");
    host.run();
    assert_eq!(host.hear("EHLO x\r\nQUIT\r\n"), "503 221 -");
}

/// C-29: whatever a sender writes instead of CR LF `.` CR LF, no second message comes of it.
#[test]
fn nothing_but_crlf_dot_crlf_ends_a_message() {
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r\n\0.\r\n", "\r.\r\n", "\r\n.\r\r\n"] {
        let mut host = plain();
        host.hear(ENVELOPE);
        let replies =
            host.hear(format!("a{end}MAIL FROM:<evil@a.example>\r\nRCPT TO:<c@b.example>\r\nDATA\r\nb\r\n.\r\n"));
        let froms = host.events.iter().filter(|event| matches!(event, Event::From(_))).count();
        assert_eq!(froms, 1, "{end:?}");
        let expected = if end == "\r\n\0.\r\n" { "250" } else { "550" };
        assert_eq!(replies, expected, "{end:?}");
    }
}

#[test]
fn command_lines_end_in_crlf() {
    for line in ["NOOP\n", "NOOP\r\r\n", "NO\rOP\r\n"] {
        assert_eq!(plain().hear(line), "521 -", "{line:?}");
    }
    assert_eq!(plain().hear(vec![b'x'; COMMAND_MAX]), "521 -");
    assert_eq!(plain().hear(format!("NOOP {}\r\n", "x".repeat(COMMAND_MAX))), "521 -");
}

#[test]
fn nothing_said_in_clear_survives_starttls() {
    assert_eq!(plain().hear("STARTTLS\r\nMAIL FROM:<>\r\n"), "521 -");
    let mut host = plain();
    host.hear("MAIL FROM:<>\r\n");
    assert_eq!(host.hear("STARTTLS\r\n"), "220");
    assert_eq!(host.hear("MAIL FROM:<>\r\n"), "503");
    assert_eq!(host.hear("EHLO x\r\n"), "250");
    assert!(!host.heard.contains("STARTTLS"));
    assert_eq!(host.hear("STARTTLS\r\n"), "503");
    assert!(host.server.is_secure());
}

#[test]
fn nobody_writes_the_content_before_he_is_asked() {
    assert_eq!(plain().hear(format!("{ENVELOPE}content\r\n.\r\n")), "250 250 521 -");
    assert_eq!(plain().hear("EHLO x\r\nMAIL FROM:<>\r\n"), "521 -");
}

#[test]
fn sizes_and_lines_are_limited() {
    let offer = || Offer { size_max: 100, line_max: 20, ..Offer::new("mx.example") };
    let mut host = greeted(offer());
    assert_eq!(host.hear("MAIL FROM:<> SIZE=101\r\nMAIL FROM:<> SIZE=x\r\nMAIL FROM:<> SIZE=100\r\n"), "552 501 250");
    host.hear("RCPT TO:<b@b.example>\r\nDATA\r\n");
    assert_eq!(host.hear(format!("{}\r\n.\r\n", "x".repeat(19))), "550");
    host.hear(ENVELOPE);
    let before = host.messages().len();
    for _ in 0..100 {
        assert_eq!(host.hear("0123456\r\n"), "");
        assert!(host.server.input.len() < 200, "what is too large is not kept");
    }
    assert_eq!(host.hear(".\r\nNOOP\r\n"), "552 250");
    assert_eq!(host.messages().len(), before);
}

#[test]
fn parameters_need_their_extension() {
    let bare = || greeted(Offer { extensions: vec![], ..Offer::new("mx.example") });
    for parameter in ["SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=x", "AUTH=<>", "X=y"] {
        assert_eq!(bare().hear(format!("MAIL FROM:<> {parameter}\r\n")), "555", "{parameter}");
    }
    let all = "MAIL FROM:<> SIZE=1 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb\r\n";
    assert_eq!(plain().hear(all), "250");
    let recipients = "MAIL FROM:<>\r\nRCPT TO:<b@b.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;b@b.example\r\n";
    assert_eq!(plain().hear(recipients), "250 250");
    for bad in ["NOTIFY=NEVER,FAILURE", "ORCPT=b@b.example", "ORCPT=rfc822;a=b", "RET=HDRS"] {
        let heard = plain().hear(format!("MAIL FROM:<>\r\nRCPT TO:<b@b.example> {bad}\r\n"));
        assert!(heard.starts_with("250 5"), "{bad}: {heard}");
    }
    assert_eq!(bare().hear("STARTTLS\r\nBDAT 3 LAST\r\n"), "502 502");
    assert!(!bare().hear("NOOP\r\n").contains("2.0.0"));
}

#[test]
fn addresses_beyond_ascii_need_smtputf8() {
    let mut host = plain();
    assert_eq!(
        host.hear("MAIL FROM:<é@a.example>\r\nMAIL FROM:<>\r\nRCPT TO:<é@b.example>\r\nRSET\r\n"),
        "553 250 553 250"
    );
    assert_eq!(host.hear("MAIL FROM:<é@a.example> SMTPUTF8\r\nRCPT TO:<é@b.example>\r\n"), "250 250");
}

#[test]
fn chunks_make_a_message() {
    let mut host = plain();
    let envelope = "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\n";
    assert_eq!(host.hear(format!("{envelope}BDAT 3\r\na\r\nBDAT 6 LAST\r\n.\r\n.\r\n")), "250 250 250 250");
    assert_eq!(host.hear("BDAT 2\r\nxyRSET\r\n"), "503 250");
    assert_eq!(host.hear("MAIL FROM:<>\r\nBDAT 2 LAST\r\nxyRSET\r\n"), "250 554 250");
    assert_eq!(
        host.hear(format!("{envelope}BDAT 1\r\nxDATA\r\nRCPT TO:<c@b.example>\r\nBDAT 0 LAST\r\n")),
        "250 250 250 503 503 250"
    );
    assert_eq!(host.messages(), ["a\r\n.\r\n.\r\n", "x"]);
}

#[test]
fn chunks_are_limited_in_size() {
    let mut host = greeted(Offer { size_max: 4, ..Offer::new("mx.example") });
    let chunks = "MAIL FROM:<>\r\nRCPT TO:<b@b.example>\r\nBDAT 3\r\nabcBDAT 3\r\ndefBDAT 1 LAST\r\ng";
    assert_eq!(host.hear(chunks), "250 250 250 552 552");
    assert_eq!(host.hear("RSET\r\n"), "250");
    assert!(host.messages().is_empty());
}

#[test]
fn recipients_and_errors_are_limited() {
    let mut host = greeted(Offer { recipients_max: 1, errors_max: 3, ..Offer::new("mx.example") });
    let twice = "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<b@b.example>\r\n";
    assert_eq!(host.hear(twice), "250 250 452");
    assert_eq!(host.hear("WHAT\r\nIS\r\nTHIS\r\n"), "500 500 421 -");
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let mut host = Host::new(Offer { protocol: Protocol::Lmtp, ..Offer::new("mx.example") });
    assert_eq!(host.hear("EHLO x\r\nLHLO x\r\n"), "500 250");
    host.hear("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n");
    assert_eq!(host.hear("x\r\n.\r\n"), "250 250");
    host.hear("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n");
    assert_eq!(host.hear("x\ny\r\n.\r\n"), "550 550");
}
