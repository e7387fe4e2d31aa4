//! Letters: those we print from other people's data, and those that come back.

use std::time::Duration;

use mailshot::base::{Address, ContactId, EditionId, EnvelopeId, LaunchId, Timestamp};
use mailshot::compose::{Edition, FromField, Missing, Template, Tracking};
use mailshot::mail::{Consent, Envelope, InDoubt, Message, Recipient};
use mailshot::outcome::{mails, read};
use mailshot::smtp::dots::Body;

use super::{folder, pieces, seal};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn edition() -> Edition {
    Edition {
        format: Edition::FORMAT,
        campaign: "welcome".into(),
        subject: "Hello {{default name \"friend\"}}".into(),
        from: FromField { name: "{{field}} News".into(), address: "news@example.com".into() },
        reply_to: None,
        headers: vec![("X-Field".into(), "{{field}} of {{name}}".into())],
        html: "<p title=\"{{field}}\">{{name}} {{field}} <a href=\"{{field}}\">x</a> <a href=\"{{unsubscribe_url}}\">\
               Unsubscribe</a></p>\n"
            .into(),
        text: "{{name}} {{field}}\n{{unsubscribe_url}}\n".into(),
        inline: Vec::new(),
        attachments: Vec::new(),
        lists: vec!["news".into()],
        postal_address: "Example Ltd, 1 Sample Street".into(),
        base_url: "https://mail.example.com".into(),
        mailto_domain: "bounce.example.com".into(),
        bounce_domain: "bounce.example.com".into(),
        sender_id: "examplecom".into(),
        missing: Missing::Default,
        in_doubt: InDoubt::Resend,
        tracking: Tracking::default(),
        links: Vec::new(),
    }
}

fn print(edition: &Edition, name: String, field: String) -> Option<Message> {
    let template = Template::compile(edition).ok()?;
    let envelope = Envelope {
        date: Some(NOW),
        ..Envelope::new(EnvelopeId::new(LaunchId(1), ContactId(7)), EditionId(1), NOW, NOW + Duration::from_secs(3600))
    };
    let fields = [("field".to_owned(), serde_json::Value::String(field))].into_iter().collect();
    let address = Address::parse("ada@example.org").expect("an address");
    let recipient = Recipient { contact: ContactId(7), address, name, fields, consent: Consent::default() };
    let message = template.print(&envelope, &recipient, seal()).ok()?;
    assert_eq!(message, template.print(&envelope, &recipient, seal()).expect("it was printed before"));
    Some(message)
}

/// The names of a message's header fields, in order; panics on what is no header.
fn names(message: &Message) -> Vec<String> {
    let text = String::from_utf8(message.bytes.clone()).expect("text");
    let head = text.split_once("\r\n\r\n").expect("a header and a body").0;
    let fields = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    fields.map(|line| line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}")).0.to_owned()).collect()
}

/// Lines as RFC 5321 and 5322 have them, and a header of the fields that were meant.
fn check(message: &Message, own: &[&str]) {
    let text = String::from_utf8(message.bytes.clone()).expect("text");
    assert!(text.ends_with("\r\n"));
    let lines = || text.split("\r\n");
    assert!(lines().all(|line| !line.contains(['\r', '\n', '\0'])), "a bare line end");
    assert!(lines().all(|line| line.len() <= 998), "a line too long");
    Body::new(message.bytes.clone()).expect("fit for the wire");
    let found = names(message);
    let known = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "List-Unsubscribe"];
    for name in known {
        assert_eq!(found.iter().filter(|field| field.eq_ignore_ascii_case(name)).count(), 1, "{name} in {found:?}");
    }
    let rest = [
        "Reply-To",
        "List-Unsubscribe-Post",
        "List-Id",
        "Feedback-ID",
        "Precedence",
        "Auto-Submitted",
        "X-Auto-Response-Suppress",
        "X-Ref",
        "X-Field",
    ];
    let strange = |name: &&String| !known.iter().chain(&rest).chain(own).any(|known| known.eq_ignore_ascii_case(name));
    assert_eq!(found.iter().find(strange), None, "in {found:?}");
}

/// Texts of a campaign, whatever somebody wrote into them: refused, or printed as one well-formed message.
pub fn template(data: &[u8]) {
    let mut texts = pieces(data, 7).into_iter();
    let mut next = || texts.next().unwrap_or_default();
    let mut edition = edition();
    (edition.subject, edition.from.name, edition.headers[0].1) = (next(), next(), next());
    (edition.html, edition.text) = (next(), next());
    if let Some(message) = print(&edition, next(), next()) {
        check(&message, &[]);
    }
}

/// What stands in a contact's cells changes no header, no structure and no link's kind.
pub fn data(data: &[u8]) {
    let mut texts = pieces(data, 2).into_iter();
    let mut next = || texts.next().unwrap_or_default();
    let edition = edition();
    let plain = print(&edition, "Ada".into(), "https://example.org/".into()).expect("printable");
    let (name, field) = (next(), next());
    // what is no link makes the copy fail, and no other
    let Some(message) = print(&edition, name, field) else { return };
    check(&message, &[]);
    assert_eq!(names(&message), names(&plain));
    let boundaries = |message: &Message| {
        let text = String::from_utf8_lossy(&message.bytes).into_owned();
        // not the one that somebody's name speaks of
        let (_, structure) = text.split_once("\r\nContent-Type: multipart/").expect("parts");
        let (_, boundary) = structure.split_once("boundary=\"").expect("a boundary");
        let boundary = boundary.split('"').next().expect("an end").to_owned();
        text.matches(&format!("\r\n--{boundary}")).count()
    };
    assert_eq!(boundaries(&message), boundaries(&plain));
}

/// Returned mail of any make: understood as something, within limits.
pub fn returned(data: &[u8]) {
    let arrival = read(data);
    let _ = arrival.copy(seal());
    let _ = arrival.affected(seal());
    let of_another = arrival.addressed_to(&String::from_utf8_lossy(&data[..data.len().min(60)]));
    let _ = of_another.copy(seal());
}

/// An mbox: its messages are in it.
pub fn mbox(data: &[u8]) {
    let path = folder().join("box");
    std::fs::write(&path, data).expect("a file");
    let Ok(found) = mails(&path) else { return };
    let mut octets = 0;
    for (at, mail) in found.enumerate() {
        let mail = mail.expect("a file that can be read");
        assert_eq!(mail.index, at as u64);
        octets += mail.bytes.len();
        let _ = read(&mail.bytes);
    }
    assert!(octets <= data.len(), "{octets} of {}", data.len());
}
