//! The session as a pure machine: a host in a few words on one side, what is said in which order on the other.

use super::*;
use crate::smtp::reply::Reader;

/// A session, the copies it may still get, and all that happened, in order.
struct Rehearsal {
    session: Session,
    copies: VecDeque<Copy>,
    /// Ids whose intent is denied.
    denied: Vec<u64>,
    told: Vec<String>,
}

fn host(words: &str) -> Extensions {
    Extensions {
        pipelining: words.contains("PIPELINING"),
        size: words.contains("SIZE").then_some(Some(1000)),
        eight_bit_mime: words.contains("8BITMIME"),
        dsn: words.contains("DSN"),
        chunking: words.contains("CHUNKING"),
        smtputf8: words.contains("SMTPUTF8"),
        mail_max: words.contains("LIMITS").then_some(3),
        ..Extensions::default()
    }
}

fn copy(n: u64, to: &str, text: &str) -> Copy {
    let id = EnvelopeId::from_u64(n);
    let message = Message { id, bytes: text.as_bytes().to_vec() };
    Copy { id, return_path: format!("b{n}@news.example.com"), to: Address::parse(to).unwrap(), message, early: true }
}

impl Rehearsal {
    fn new(words: &str, copies: u64) -> Rehearsal {
        let copies = (1..=copies).map(|n| copy(n, &format!("u{n}@x.org"), &format!("m{n}\r\n"))).collect();
        Rehearsal { session: Session::new(host(words)), copies, denied: Vec::new(), told: Vec::new() }
    }

    /// Runs until the session ends or `replies` are used up; each is a line, `!` a lost connection, `!n` a write that
    /// fails after n octets.
    fn run(mut self, most: u32, replies: &str) -> Rehearsal {
        let mut replies = replies.split_whitespace();
        self.session.run(most);
        let now = Instant::now();
        loop {
            match self.session.step() {
                Step::Ask(_) => match self.copies.pop_front() {
                    Some(copy) => self.session.offer(copy, now),
                    None => self.session.none(),
                },
                Step::Intend(id, begun) => {
                    let word = if begun == Begun::Yes { "intend" } else { "intend early" };
                    self.told.push(format!("{word} {}", id.to_u64()));
                    self.session.intended(!self.denied.contains(&id.to_u64()), now);
                }
                Step::Say => self.say(&mut replies),
                Step::Hear(_) => match replies.next() {
                    Some("!") => self.session.lost(Error::Closed, now),
                    Some(code) => self.hear(code, now),
                    None => return self,
                },
                Step::Done(id, receipt) => {
                    let heard = receipt.heard.map_or_else(|error| format!("{error:?}"), |reply| reply.code.to_string());
                    self.told.push(format!("done {} {:?} {heard}", id.to_u64(), receipt.stage));
                }
                Step::End(ending) => {
                    let ending = format!("{ending:?}");
                    self.told.push(format!("end {}", ending.split(['(', ' ']).next().unwrap_or_default()));
                    return self;
                }
            }
        }
    }

    fn say<'a>(&mut self, replies: &mut (impl Iterator<Item = &'a str> + Clone)) {
        if let Some(octets) = replies.clone().next().and_then(|next| next.strip_prefix('!')?.parse().ok()) {
            replies.next();
            self.session.cut_off(octets);
            self.session.lost(Error::Closed, Instant::now());
            return;
        }
        let bytes = self.session.flight().pieces().collect::<Vec<_>>().concat();
        assert_eq!(bytes.len(), self.session.flight().octets());
        let words = String::from_utf8(bytes).unwrap();
        let words: Vec<&str> = words.lines().map(|line| line.split(" FROM:<b").next().unwrap_or(line)).collect();
        let words = words.iter().map(|line| line.split(" TO:").next().unwrap_or(line)).collect::<Vec<_>>();
        let words = words.iter().map(|line| line.strip_suffix(" LAST").unwrap_or(line)).collect::<Vec<_>>();
        self.told.push(format!("> {}", words.join(" ")));
        self.session.said();
    }

    fn hear(&mut self, code: &str, now: Instant) {
        let line = format!("{code} x\r\n");
        let found = Reader::default().read(line.as_bytes()).unwrap().unwrap();
        self.session.heard(&found.of(line.as_bytes()), now);
    }
}

fn check(words: &str, copies: u64, replies: &str, expected: &[&str]) {
    assert_eq!(Rehearsal::new(words, copies).run(100, replies).told, expected);
}

#[test]
fn with_pipelining_the_next_copy_begins_in_the_flight_of_the_end_before_it() {
    check(
        "PIPELINING",
        3,
        "250 250 354 250 250 250 354 250 250 250 354 250",
        &[
            "> MAIL RCPT DATA",
            "intend 1",
            "> m1 . MAIL RCPT DATA",
            "done 1 Body 250",
            "intend 2",
            "> m2 . MAIL RCPT DATA",
            "done 2 Body 250",
            "intend 3",
            "> m3 .",
            "done 3 Body 250",
            "end Idle",
        ],
    );
}

#[test]
fn a_first_copy_by_bdat_is_intended_before_mail_and_alone_in_its_flight() {
    check(
        "PIPELINING CHUNKING",
        3,
        "250 250 250 250 250 354 250 250 250 354 250",
        &[
            "intend early 1",
            "> MAIL RCPT BDAT 4 m1",
            "done 1 Body 250",
            "> MAIL RCPT DATA",
            "intend 2",
            "> m2 . MAIL RCPT DATA",
            "done 2 Body 250",
            "intend 3",
            "> m3 .",
            "done 3 Body 250",
            "end Idle",
        ],
    );
    check(
        "CHUNKING",
        2,
        "250 250 250 250 550 250",
        &[
            "> MAIL",
            "> RCPT",
            "intend 1",
            "> BDAT 4 m1",
            "done 1 Body 250",
            "> MAIL",
            "> RCPT",
            "done 2 To 550",
            "end Idle",
        ],
    );
}

#[test]
fn a_chunk_counts_for_what_the_host_says_of_its_recipient() {
    let first = |replies: &str, rest: &[&str]| {
        let begun = ["intend early 1", "> MAIL RCPT BDAT 4 m1"];
        check("PIPELINING CHUNKING", 2, replies, &[&begun[..], rest].concat());
    };
    first("250 550 554", &["done 1 To 550", "> RSET MAIL RCPT DATA"]);
    first("451 503 503", &["done 1 From 451", "> MAIL RCPT DATA"]);
    first("250 550 250", &["done 1 To 550", "> RSET MAIL RCPT DATA"]);
    // a host that takes the message for the recipient has it, whatever it said of MAIL
    first("451 250 250", &["done 1 Body 250", "> MAIL RCPT DATA"]);
    first("250 250 552", &["done 1 Body 552", "> RSET MAIL RCPT DATA"]);
    first("250 421", &["done 1 To 421", "end Dismissed"]);
}

#[test]
fn an_early_chunk_is_in_doubt_from_its_last_octet_on_until_it_is_refused() {
    // MAIL, RCPT and BDAT have 33 + 20 + 13 octets, the message 4
    for (octets, stage) in [(0, "From"), (69, "From"), (70, "Body")] {
        let told = Rehearsal::new("PIPELINING CHUNKING", 1).run(9, &format!("!{octets}")).told;
        assert_eq!(told[1], format!("done 1 {stage} Closed"), "{octets}");
    }
    for (replies, end) in [("!", "Body Closed"), ("250 250 !", "Body Closed"), ("250 550 !", "To 550")] {
        let told = Rehearsal::new("PIPELINING CHUNKING", 1).run(9, replies).told;
        assert_eq!(told[2], format!("done 1 {end}"), "{replies}");
    }
    let told = Rehearsal::new("PIPELINING CHUNKING", 1).run(9, "354").told;
    assert!(told[2].starts_with("done 1 Body Garbled"), "{told:?}");
}

#[test]
fn an_early_copy_that_is_withheld_was_never_spoken_of_and_costs_nothing() {
    let mut played = Rehearsal::new("PIPELINING CHUNKING LIMITS", 4);
    played.denied.push(1);
    let played = played.run(3, "250 250 250 250 250 354 250 250 250 354 250");
    assert_eq!(played.told[..3], ["intend early 1", "intend early 2", "> MAIL RCPT BDAT 4 m2"]);
    assert_eq!((played.copies.len(), played.told.last().unwrap().as_str()), (0, "end Full"), "{:?}", played.told);
    let mut played = Rehearsal::new("PIPELINING CHUNKING", 1);
    played.denied.push(1);
    let played = played.run(9, "");
    assert_eq!(
        (&played.told[..], played.session.is_good()),
        (&["intend early 1", "end Idle"].map(String::from)[..], true)
    );
}

#[test]
fn a_copy_behind_one_that_does_not_fit_is_still_unheard_of_at_its_intent() {
    let mut played = Rehearsal::new("PIPELINING CHUNKING SIZE", 1);
    played.copies.push_front(copy(7, "a@x.org", &"x\r\n".repeat(400)));
    let told = played.run(9, "250 250 250").told;
    assert_eq!(told[..2], ["done 7 From 552", "intend early 1"]);
    assert!(told[2].starts_with("> MAIL"), "{told:?}");
}

#[test]
fn no_final_dot_goes_out_before_the_one_before_it_is_answered() {
    // The host answers 354 to the second DATA; still the first copy's end must come first, by the order of replies.
    let told = Rehearsal::new("PIPELINING", 3).run(100, "250 250 354").told;
    assert_eq!(told, ["> MAIL RCPT DATA", "intend 1", "> m1 . MAIL RCPT DATA"]);
}

#[test]
fn without_pipelining_the_host_sees_one_command_at_a_time() {
    check(
        "",
        2,
        "250 250 354 250 250 550 250 250",
        &[
            "> MAIL",
            "> RCPT",
            "> DATA",
            "intend 1",
            "> m1 .",
            "done 1 Body 250",
            "> MAIL",
            "> RCPT",
            "done 2 To 550",
            "end Idle",
        ],
    );
}

#[test]
fn a_recipient_refused_though_data_is_let_pass_gets_a_lone_dot() {
    check(
        "PIPELINING",
        2,
        "250 550 354 554 250 250 354 250",
        &[
            "> MAIL RCPT DATA",
            "> . MAIL RCPT DATA",
            "done 1 To 550",
            "intend 2",
            "> m2 .",
            "done 2 Body 250",
            "end Idle",
        ],
    );
}

#[test]
fn rset_comes_only_after_an_aborted_transaction() {
    check(
        "PIPELINING",
        4,
        "250 550 503  250 451 503 503  250 250 354  250 250 250 554",
        &[
            "> MAIL RCPT DATA",
            "done 1 To 550",
            "> RSET MAIL RCPT DATA",
            "done 2 From 451",
            "> MAIL RCPT DATA",
            "intend 3",
            "> m3 . MAIL RCPT DATA",
            "done 3 Body 250",
            "done 4 Data 554",
            "end Idle",
        ],
    );
    check(
        "",
        2,
        "250 550 250 250 250 354 250",
        &[
            "> MAIL",
            "> RCPT",
            "done 1 To 550",
            "> RSET",
            "> MAIL",
            "> RCPT",
            "> DATA",
            "intend 2",
            "> m2 .",
            "done 2 Body 250",
            "end Idle",
        ],
    );
}

#[test]
fn an_empty_message_is_never_sent_to_a_recipient_that_was_taken() {
    check("PIPELINING", 2, "451 250 354", &["> MAIL RCPT DATA", "done 1 From 451", "end Broken"]);
}

#[test]
fn a_421_ends_the_session_wherever_it_comes_and_blames_no_copy_behind_it() {
    let front = ["> MAIL RCPT DATA"];
    check("PIPELINING", 1, "421", &[&front[..], &["done 1 From 421", "end Dismissed"]].concat());
    check("PIPELINING", 1, "250 421", &[&front[..], &["done 1 To 421", "end Dismissed"]].concat());
    check("PIPELINING", 1, "250 250 421", &[&front[..], &["done 1 Data 421", "end Dismissed"]].concat());
    check("PIPELINING", 1, "250 550 421", &[&front[..], &["done 1 To 550", "end Dismissed"]].concat());
    check(
        "PIPELINING",
        2,
        "250 250 354 421",
        &[
            "> MAIL RCPT DATA",
            "intend 1",
            "> m1 . MAIL RCPT DATA",
            "done 1 Body 421",
            "done 2 From Closed",
            "end Dismissed",
        ],
    );
}

#[test]
fn a_connection_lost_says_how_far_each_copy_came() {
    let begun = ["> MAIL RCPT DATA", "intend 1", "> m1 . MAIL RCPT DATA"];
    let lost = |replies: &str, rest: &[&str]| check("PIPELINING", 2, replies, &[&begun[..], rest].concat());
    lost("250 250 354 !", &["done 1 Body Closed", "done 2 From Closed", "end Broken"]);
    lost("250 250 354 250 !", &["done 1 Body 250", "done 2 From Closed", "end Broken"]);
    lost("250 250 354 250 250 !", &["done 1 Body 250", "done 2 To Closed", "end Broken"]);
    lost("250 250 354 250 250 250 !", &["done 1 Body 250", "done 2 Data Closed", "end Broken"]);
    lost("250 250 354 250 250 550 !", &["done 1 Body 250", "done 2 To 550", "end Broken"]);
}

#[test]
fn a_copy_is_in_doubt_only_when_its_whole_end_went_out() {
    // "m1\r\n.\r\n": seven octets; with six the host cannot have taken it.
    for (octets, stage) in [(0, "Data"), (6, "Data"), (7, "Body"), (30, "Body")] {
        let told = Rehearsal::new("", 1).run(9, &format!("250 250 354 !{octets}")).told;
        assert_eq!(told[4], format!("done 1 {stage} Closed"), "{octets}");
    }
}

#[test]
fn a_withheld_copy_ends_the_connection_since_the_host_waits_for_it() {
    let mut played = Rehearsal::new("PIPELINING", 2);
    played.denied.push(2);
    let played = played.run(100, "250 250 354 250 250 250 354");
    let expected = [
        "> MAIL RCPT DATA",
        "intend 1",
        "> m1 . MAIL RCPT DATA",
        "done 1 Body 250",
        "intend 2",
        "done 2 Data Closed",
        "end Withheld",
    ];
    assert_eq!(played.told, expected);
    assert!(!played.session.is_good());
}

#[test]
fn a_run_ends_after_as_many_as_were_asked_for_and_may_go_on() {
    let yes = "250 250 354 250 250 250 354 250";
    let played = Rehearsal::new("PIPELINING", 5).run(2, yes);
    assert_eq!(played.told.last().unwrap(), "end Enough");
    assert_eq!((played.copies.len(), played.session.is_good()), (3, true));
    let played = played.run(2, yes);
    assert_eq!((played.copies.len(), played.told.last().unwrap().as_str()), (1, "end Enough"));
}

#[test]
fn limits_mailmax_is_kept_over_all_runs() {
    let played = Rehearsal::new("PIPELINING LIMITS", 5).run(2, "250 250 354 250 250 250 354 250");
    let played = played.run(9, "250 250 354 250");
    assert_eq!((played.copies.len(), played.told.last().unwrap().as_str()), (2, "end Full"));
    assert!(played.session.is_good());
}

#[test]
fn replies_that_fit_no_command_end_the_session() {
    for replies in ["354", "250 354", "250 250 250", "250 250 354 354"] {
        let told = Rehearsal::new("PIPELINING", 1).run(9, replies).told;
        assert_eq!(told.last().unwrap(), "end Broken", "{replies}");
        assert!(told[told.len() - 2].contains("Garbled"), "{told:?}");
    }
}

/// What becomes of one copy at a host that would take it.
fn one(words: &str, copy: Copy) -> (Vec<String>, String) {
    let mut played = Rehearsal::new(words, 0);
    played.session.run(1);
    played.session.offer(copy, Instant::now());
    let line = String::from_utf8(played.session.flight().lines().to_vec()).unwrap();
    let told = match played.session.step() {
        Step::Done(_, receipt) => receipt.heard.unwrap().to_string(),
        _ => String::new(),
    };
    (line.lines().map(str::to_owned).collect(), told)
}

#[test]
fn what_the_host_cannot_take_is_refused_without_a_word() {
    let refused = |words: &str, copy: Copy, expected: &str| {
        let (said, told) = one(words, copy);
        assert_eq!(said, [""; 0]);
        assert!(told.starts_with(expected), "{told}");
    };
    let big = "x\r\n".repeat(400);
    refused(
        "SIZE",
        copy(1, "a@x.org", &big),
        "552 5.3.4 not sent: the message has 1200 octets, the host takes at most 1000",
    );
    refused("8BITMIME", copy(1, "ü@x.org", "m"), "553 5.6.7 not sent");
    refused("8BITMIME", copy(1, "a@x.org", "Subject: ü\r\n\r\n"), "553 5.6.7 not sent");
    refused("SMTPUTF8", copy(1, "a@x.org", "S: x\r\n\r\nü"), "554 5.6.3 not sent");
    refused(
        "",
        copy(1, "a@x.org", "a\n.\nMAIL FROM:<b@x.org>\n"),
        "554 5.6.0 not sent: the message holds a bare LF at octet 1",
    );
    refused("", Copy { return_path: "b>\r\nRSET".into(), ..copy(1, "a@x.org", "m") }, "553 5.1.7 not sent");
    assert_eq!(one("", copy(1, "a@x.org", &big)).0, ["MAIL FROM:<b1@news.example.com>"]);
}

#[test]
fn parameters_are_those_the_host_offers_and_the_copy_needs() {
    let all = "PIPELINING SIZE 8BITMIME DSN SMTPUTF8";
    assert_eq!(
        one(all, copy(1 << 32 | 7, "a+b@x.org", "m\r\n")).0,
        [
            "MAIL FROM:<b4294967303@news.example.com> SIZE=3 RET=HDRS ENVID=b4294967303",
            "RCPT TO:<a+b@x.org> NOTIFY=FAILURE ORCPT=rfc822;a+2Bb@x.org",
            "DATA",
        ]
    );
    assert_eq!(
        one(all, copy(1, "ü@x.org", "m")).0[0],
        "MAIL FROM:<b1@news.example.com> SIZE=3 SMTPUTF8 RET=HDRS ENVID=b1"
    );
    let eight_bit = one("PIPELINING 8BITMIME", copy(1, "a@exämple.com", "S: x\r\n\r\nü\r\n")).0;
    assert_eq!(eight_bit, ["MAIL FROM:<b1@news.example.com> BODY=8BITMIME", "RCPT TO:<a@xn--exmple-cua.com>", "DATA"]);
}
