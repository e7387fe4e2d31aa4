//! What messages look like, whatever stands in the contact's fields.

use mail_parser::{MessageParser, MimeHeaders};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::base::{ContactId, EditionId, LaunchId, SealKey, Timestamp};
use crate::compose::edition::tests::sample;
use crate::compose::{Asset, ConsentRule, Missing, Tracking};
use crate::mail::Consent;

fn seal() -> Seal {
    Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap()
}

fn envelope(contact: u32) -> Envelope {
    let date = Timestamp::from_ms(1_795_465_234_500);
    Envelope {
        date: Some(date),
        ..Envelope::new(EnvelopeId::new(LaunchId(3), ContactId(contact)), EditionId(1), date, date)
    }
}

fn recipient(name: &str, city: &str) -> Recipient {
    let fields = json!({"city": city, "Last Name": "Lovelace", "site": "https://example.org/"});
    Recipient {
        contact: ContactId(5),
        address: Address::parse("ada@example.net").unwrap(),
        name: name.into(),
        fields: fields.as_object().unwrap().clone(),
        consent: Default::default(),
    }
}

fn print(edition: &Edition, recipient: &Recipient) -> Result<Message, PrintError> {
    Template::compile(edition).unwrap().print(&envelope(5), recipient, &seal())
}

/// The names of all header fields, in order; panics when the header block is not well formed.
fn header_names(bytes: &[u8]) -> Vec<String> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut names = Vec::new();
    for line in head.split("\r\n") {
        assert!(line.len() <= 998 && !line.trim().is_empty() && !line.contains(['\r', '\n', '\0']), "{line:?}");
        if !line.starts_with([' ', '\t']) {
            names.push(line.split_once(':').unwrap().0.to_owned());
        }
    }
    names
}

/// No bare CR or LF, no NUL, no line beyond 998 octets, and a last line that is not blank.
fn assert_wire_ready(bytes: &[u8]) {
    let text = bytes.strip_suffix(b"\r\n").expect("ends with a line end");
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0));
    }
    let crlf = memchr::memmem::find_iter(bytes, b"\r\n").count();
    assert_eq!(crlf, bytes.iter().filter(|b| **b == b'\n').count());
    assert!(bytes.ends_with(b"--\r\n"));
}

const ALL_ONCE: &[&str] = &[
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Id",
    "Feedback-ID",
    "Precedence",
    "X-Auto-Response-Suppress",
    "X-Ref",
    "MIME-Version",
    "Content-Type",
];

#[test]
fn a_message_has_every_field_once_and_says_who_it_is_for() {
    let message = print(&sample(), &recipient("Ada", "Köln")).unwrap();
    assert_eq!(header_names(&message.bytes), ALL_ONCE);
    assert_wire_ready(&message.bytes);
    assert_eq!(message.header("To").unwrap(), "\"Ada\" <ada@example.net>");
    assert_eq!(message.header("Date").unwrap(), "Mon, 23 Nov 2026 20:20:34 +0000");
    assert_eq!(message.header("List-Unsubscribe-Post").unwrap(), "List-Unsubscribe=One-Click");
    assert_eq!(message.header("Feedback-ID").unwrap(), "c-welcome:l-news:examplecom");

    let parsed = MessageParser::new().parse(&message.bytes).unwrap();
    assert_eq!(parsed.subject(), Some("Hello Ada"));
    let html = parsed.body_html(0).unwrap();
    assert!(html.contains("<p>Hello Ada, from Köln.</p>") && html.contains("Example Ltd, 1 Sample Street"), "{html}");
    assert!(parsed.body_text(0).unwrap().starts_with("Hello Ada, from Köln.\r\n"));
}

#[test]
fn tokens_in_links_and_return_path_name_the_copy() {
    let message = print(&sample(), &recipient("Ada", "Köln")).unwrap();
    let unsubscribe = message.header("List-Unsubscribe").unwrap();
    let (url, mailto) = unsubscribe.split_once(", ").unwrap();
    let token = url.strip_prefix("<https://mail.example.com/u/").unwrap().trim_end_matches('>');
    let id = envelope(5).id;
    assert_eq!(seal().open(token, Purpose::Unsubscribe), Some((id, 0)));
    assert_eq!(mailto, format!("<mailto:u.{token}@bounce.example.com?subject=unsubscribe>"));
    assert_eq!(seal().open(&message.header("X-Ref").unwrap(), Purpose::Feedback), Some((id, 0)));
    let trace = message.header("Message-ID").unwrap();
    let token = trace.trim_matches(['<', '>']).strip_suffix("@example.com").unwrap();
    assert_eq!(seal().open(token, Purpose::Message), Some((id, 0)));
    let path = Template::compile(&sample()).unwrap().return_path(id, &seal());
    let token = path.strip_prefix("b.").unwrap().strip_suffix("@bounce.example.com").unwrap();
    assert_eq!(seal().open(token, Purpose::Bounce), Some((id, 0)));
}

#[test]
fn the_same_copy_prints_the_same_bytes_and_another_copy_has_another_id() {
    let (edition, ada) = (sample(), recipient("Ada", "Köln"));
    let first = print(&edition, &ada).unwrap();
    assert_eq!(first, print(&edition, &ada).unwrap());
    let other = Template::compile(&edition).unwrap().print(&envelope(6), &ada, &seal()).unwrap();
    assert_ne!(first.header("Message-ID"), other.header("Message-ID"));
}

#[test]
fn a_missing_field_is_ruled_on_as_the_campaign_says() {
    let mut edition = sample();
    let nobody = recipient("", " ");
    let missing = PrintError::MissingField { part: Part::Html, field: "city".into() };
    let told = print(&edition, &nobody).unwrap_err();
    assert!(matches!(&told, PrintError::MissingField { field, .. } if *field == "city"), "{told}");
    edition.html = "{{#if city}}x{{/if}}{{upper city}}".into();
    edition.text = "-".into();
    assert_eq!(print(&edition, &nobody).unwrap_err(), missing);
    edition.html = "{{#if city}}x{{/if}}{{city}}".into();
    assert_eq!(print(&edition, &nobody).unwrap_err(), missing);
    edition.missing = Missing::Default;
    let parsed = print(&edition, &nobody).unwrap();
    assert_eq!(MessageParser::new().parse(&parsed.bytes).unwrap().subject(), Some("Hello friend"));
}

/// The HTML part of the sample with this template.
fn html(template: &str, recipient: &Recipient) -> Result<String, PrintError> {
    let edition = Edition { html: template.into(), text: "-".into(), ..sample() };
    let message = print(&edition, recipient)?;
    Ok(MessageParser::new().parse(&message.bytes).unwrap().body_html(0).unwrap().into_owned())
}

#[test]
fn pieces_and_handlebars_print_alike() {
    let ada = recipient("Ada & <b>", "Köln");
    for template in [
        "{{name}} {{[Last Name]}} {{default city \"x\"}} {{default none \"y & z\"}}",
        "<a href=\"{{site}}\">{{url city}}</a> {{postal_address}} {{list}} {{campaign}} {{email}}",
        "a\n{{!-- gone --}}\nb {{unsubscribe_url}}",
    ] {
        let slow = format!("{template}{{{{#if name}}}}{{{{/if}}}}");
        assert_eq!(html(template, &ada), html(&slow, &ada), "{template}");
        let compiled = |source: &str| Slots::compile(Part::Html, source, Missing::Error, &[]).unwrap().needs_object();
        assert!(!compiled(template) && compiled(&slow));
    }
}

#[test]
fn blocks_and_expressions_that_lie_too_deep_are_refused_before_they_are_parsed() {
    for template in [
        format!("{}x{}", "{{#if name}}".repeat(20_000), "{{/if}}".repeat(20_000)),
        format!("{{{{upper {}name{}}}}}", "(upper ".repeat(20_000), ")".repeat(20_000)),
        format!("{{{{default name {}{}}}}}", "[".repeat(20_000), "]".repeat(20_000)),
        format!("{}x{}", "{{#if name}}".repeat(90), "{{/if}}".repeat(90)),
        format!("{{{{upper {}name{}}}}}", "(upper ".repeat(90), ")".repeat(90)),
    ] {
        let refused = Template::compile(&Edition { html: template, ..sample() }).err().unwrap().to_string();
        assert!(refused.contains("deep in each other"), "{refused}");
    }
}

#[test]
fn a_column_with_the_name_of_a_helper_is_a_column() {
    for name in crate::compose::helpers::KNOWN.iter().copied().chain(["raw", "log", "Last Name"]) {
        let mut ada = recipient("Ada", "Köln");
        ada.fields.insert(name.into(), json!("its value"));
        ada.fields.insert("empty".into(), json!(false));
        let field = if name.contains(' ') { format!("[{name}]") } else { name.to_owned() };
        for (template, printed) in [
            (format!("{{{{{field}}}}} {{{{upper name}}}}"), "its value ADA"),
            (format!("{{{{~{field}~}}}}{{{{#if {field}}}}}, {{{{{field}}}}}{{{{/if}}}}"), "its value, its value"),
            (format!("{{{{#unless empty}}}}{{{{{field}}}}}{{{{/unless}}}}"), "its value"),
            (format!("{{{{#if empty}}}}x{{{{else if {field}}}}}{{{{{field}}}}}{{{{/if}}}}"), "its value"),
            (format!("{{{{upper (lower {field})}}}}"), "ITS VALUE"),
        ] {
            assert_eq!(html(&template, &ada).as_deref(), Ok(printed), "{template}");
        }
        let template = format!("{{{{{field}}}}} {{{{upper name}}}}");
        let missing = PrintError::MissingField { part: Part::Html, field: name.into() };
        assert_eq!(html(&template, &Recipient { fields: Default::default(), ..ada.clone() }), Err(missing));
    }
    let mut ada = recipient("Ada", "Köln");
    ada.fields.insert("url".into(), json!("https://w.example/"));
    assert_eq!(html("<a href={{url}}>{{upper name}}", &ada).as_deref(), Ok("<a href=\"https://w.example/\">ADA"));
}

#[test]
fn a_contact_cannot_put_markup_or_scripts_into_html() {
    let mut evil = recipient("\"><img src=x onerror=alert(1)>", "a&b=c d");
    assert_eq!(html("{{name}}", &evil).unwrap(), "&quot;&gt;&lt;img src=x onerror=alert(1)&gt;");
    assert_eq!(
        html("<a href=\"https://e.org/?q={{url city}}\">", &evil).unwrap(),
        "<a href=\"https://e.org/?q=a%26b%3Dc%20d\">"
    );
    evil.fields.insert("site".into(), json!("javascript:alert(1)"));
    for template in ["<a href=\"{{site}}\">", "<A HREF='{{site}}'>{{#if name}}{{/if}}", "<img src={{ site }}>"] {
        assert!(matches!(html(template, &evil), Err(PrintError::Render { .. })), "{template}");
    }
}

#[test]
fn templates_that_reach_beyond_are_refused_with_their_line() {
    let refused = |source: &str, part: &str| {
        let edition = Edition { html: source.into(), ..sample() };
        match Template::compile(&edition) {
            Err(Error::Template { message, line, .. }) => {
                assert!(message.contains(part), "{source}: {message}");
                line
            }
            other => panic!("{source}: {:?}", other.err()),
        }
    };
    assert_eq!(refused("a\n\n{{{name}}}", "unescaped"), Some(3));
    refused("{{&name}}", "unescaped");
    refused("{{> footer}}", "parts");
    refused("{{> @partial-block}}", "parts");
    refused("{{#*inline \"x\"}}{{/inline}}", "parts");
    assert_eq!(refused("x\n{{shout name}}", "no helper `shout`"), Some(2));
    refused("{{log name}}", "no helper `log`");
    refused("{{#if name}}", "");
    refused(&format!("{}{}", "{{#if a}}".repeat(12), "{{/if}}".repeat(12)), "deep");
}

#[test]
fn a_loop_cannot_print_without_end() {
    let mut many = recipient("Ada", "Köln");
    many.fields.insert("items".into(), json!(vec!["x".repeat(100); 400]));
    let nested = "{{#each items}}{{#each ../items}}{{this}}{{/each}}{{/each}}";
    assert_eq!(html(nested, &many), Err(PrintError::TooLong { part: Part::Html }));
}

#[test]
fn files_hang_in_the_tree_where_the_standards_want_them() {
    let mut edition = sample();
    let asset = |name: &str, content_id: Option<&str>| Asset {
        name: name.into(),
        media_type: "image/png".into(),
        content_id: content_id.map(str::to_owned),
        bytes: (0..=255).collect(),
    };
    edition.inline.push(asset("logo.png", Some("1.logo@example.com")));
    edition.attachments.push(asset("Übersicht März.png", None));
    let message = print(&edition, &recipient("Ada", "Köln")).unwrap();
    assert_wire_ready(&message.bytes);
    let text = String::from_utf8(message.bytes.clone()).unwrap();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in\n{text}"));
    let order = [
        "multipart/mixed",
        "multipart/related",
        "multipart/alternative",
        "text/plain",
        "text/html",
        "<1.logo@example.com>",
    ];
    assert!(order.map(place).is_sorted(), "{text}");
    let parsed = MessageParser::new().parse(&message.bytes).unwrap();
    let names: Vec<_> = parsed.attachments().map(|part| part.attachment_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["logo.png", "Übersicht März.png"]);
    assert!(parsed.attachments().all(|part| part.contents() == (0..=255).collect::<Vec<u8>>()));
}

const PAYLOADS: &[&str] = &[
    "x\r\nBcc: v@example.org",
    "x\nBcc: v@example.org",
    "x\rBcc: v@example.org",
    "x\r\n\r\n<script>",
    "x%0d%0aBcc: v@example.org",
    "x\u{2028}Bcc: v@example.org",
    "x\u{85}Bcc: v@example.org",
    "x\0y",
    "=?utf-8?B?eA0KQmNjOiB2QGU=?=",
    "=?utf-8?Q?x=0D=0ABcc:_v@e?= ü",
    "\u{202e}\u{feff}x",
    "\"quoted\\\" <evil@example.org>, \"",
    "Müller, Hans (Dr.)",
    "日本語の件名です、とても長い件名。日本語の件名です、とても長い件名。",
    "👩‍👩‍👧‍👦🎉 Feier!",
];

#[test]
fn no_value_adds_a_header_whatever_field_it_stands_in() {
    let mut edition = sample();
    edition.from.name = "{{name}} {{city}}".into();
    edition.headers.push(("X-Note".into(), "{{name}} {{city}}".into()));
    edition.headers.push(("X-Shout".into(), "{{#if name}}{{upper name}}{{/if}}".into()));
    let mut names: Vec<&str> = ALL_ONCE.to_vec();
    names.splice(13..13, ["X-Note", "X-Shout"]);
    for payload in PAYLOADS {
        for (name, city) in [(*payload, "Rome"), ("Ada", *payload), (*payload, *payload)] {
            let message = print(&edition, &recipient(name, city)).unwrap();
            assert_eq!(header_names(&message.bytes), names, "{payload:?}");
            assert_wire_ready(&message.bytes);
            let parsed = MessageParser::new().parse(&message.bytes).unwrap();
            assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("ada@example.net"), "{payload:?}");
            assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("news@example.com"), "{payload:?}");
            assert_eq!(parsed.bcc(), None);
        }
    }
}

#[test]
fn subjects_come_back_as_they_were_written() {
    let long = "word ".repeat(40);
    let unbroken = "a".repeat(230);
    for subject in PAYLOADS[10..].iter().copied().chain([long.trim(), &unbroken, "=?utf-8?Q?x?= y"]) {
        let edition = Edition { subject: "{{name}}".into(), ..sample() };
        let message = print(&edition, &recipient(subject, "Rome")).unwrap();
        let parsed = MessageParser::new().parse(&message.bytes).unwrap();
        let expected = subject.replace(['\u{202e}', '\u{feff}'], "");
        assert_eq!(parsed.subject(), Some(expected.as_str()));
        let head = String::from_utf8_lossy(&message.bytes).into_owned();
        for line in head.split("\r\n\r\n").next().unwrap().split("\r\n").filter(|line| line.contains("=?")) {
            assert!(line.len() <= 78, "{line}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_survives_the_journey(name in "\\PC{1,300}", city in "[ -~\u{a0}-\u{2fff}\r\n\t]{1,2000}") {
        let edition = Edition { html: "<p>{{city}}</p>".into(), text: "{{city}}|\n".into(), ..sample() };
        let given = recipient(&name, &city);
        prop_assume!(!name.trim().is_empty() && !city.trim().is_empty());
        let message = print(&edition, &given).unwrap();
        assert_eq!(header_names(&message.bytes), ALL_ONCE);
        assert_wire_ready(&message.bytes);
        let parsed = MessageParser::new().parse(&message.bytes).unwrap();
        let text = parsed.body_text(0).unwrap().replace("\r\n", "\n");
        let expected: String = city.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect();
        prop_assert_eq!(text.trim_end_matches('\n'), format!("{expected}|"));
    }
}

#[test]
fn a_bare_link_is_tracked_with_whatever_it_ends_in() {
    for link in ["<a href=https://a.example/{{city}}>x</a>", "<a href=https://a.example/{{city}}/>x</a>"] {
        let mut edition = Edition { html: link.into(), text: "-".into(), ..sample() };
        edition.tracking = Tracking { opens: false, clicks: true, consent: ConsentRule::OptOut };
        edition.links = crate::compose::trackable(&edition.html, &edition.text, &edition.base_url);
        let message = print(&edition, &recipient("Ada", "Ulm")).unwrap();
        let html = MessageParser::new().parse(&message.bytes).unwrap().body_html(0).unwrap().into_owned();
        assert!(html.contains("/c/") && !html.contains("a.example"), "{link}: {html}");
    }
}

#[test]
fn tracked_copies_carry_sealed_links_and_the_pixel_and_others_carry_nothing() {
    let mut edition = sample();
    edition.html =
        "<body><a href=\"https://a.example/?x={{city}}\">x</a> <a href=\"{{unsubscribe_url}}\">u</a></body>".into();
    edition.text = "https://a.example/?x={{city}} {{unsubscribe_url}}\n".into();
    edition.tracking = Tracking { opens: true, clicks: true, consent: ConsentRule::OptIn };
    edition.links = crate::compose::trackable(&edition.html, &edition.text, &edition.base_url);
    let mut ada = recipient("Ada", "Ulm");
    let decoded = |message: &Message| {
        let parsed = MessageParser::new().parse(&message.bytes).unwrap();
        (parsed.body_html(0).unwrap().into_owned(), parsed.body_text(0).unwrap().into_owned())
    };
    let (html, text) = decoded(&print(&edition, &ada).unwrap());
    assert!(html.contains("https://a.example/?x=Ulm") && !html.contains("/c/") && !html.contains("/o/"), "{html}");
    assert!(text.contains("https://a.example/?x=Ulm"));

    ada.consent = Consent { opens: Some(true), clicks: Some(true) };
    let (html, text) = decoded(&print(&edition, &ada).unwrap());
    let click = html.split("/c/").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(seal().open(click, Purpose::Click), Some((envelope(5).id, 0)));
    let pixel = html.split("/o/").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(seal().open(pixel, Purpose::Open), Some((envelope(5).id, 0)));
    assert!(text.contains(&format!("/c/{click} ")) && !html.contains("a.example") && html.contains("/u/"), "{text}");

    ada.consent.opens = Some(false);
    let (html, _) = decoded(&print(&edition, &ada).unwrap());
    assert!(html.contains("/c/") && !html.contains("/o/"));
    // what a template asks of its links it still asks of them
    edition.html = format!("{{{{#if name}}}}{}{{{{/if}}}}", edition.html);
    ada.consent.opens = Some(true);
    let (html, _) = decoded(&print(&edition, &ada).unwrap());
    assert!(html.contains(&format!("/c/{click}")) && html.contains("/o/"));
}

#[test]
fn s_031_messages_are_seven_bit_clean_whatever_words_and_files_they_carry() {
    let mut edition = sample();
    let every_byte: Vec<u8> = (0..=255).cycle().take(9_000).collect();
    edition.attachments.push(Asset {
        name: "表 Übersicht.bin".into(),
        media_type: "application/octet-stream".into(),
        content_id: None,
        bytes: every_byte.clone(),
    });
    for (name, city) in [
        ("Ada", "Ulm"),
        ("Zoë Müller", "Besançon"),
        ("山田太郎", "東京都千代田区"),
        ("Ада Лавлейс", "Санкт-Петербург"),
        ("😀 👩\u{200d}👩\u{200d}👧", "🏙"),
        ("x\u{202e}y\u{85}z", "ﷺ".repeat(400).as_str()),
    ] {
        let message = print(&edition, &recipient(name, city)).unwrap();
        let beyond = message.bytes.iter().find(|byte| !byte.is_ascii() || **byte < 0x20 && !b"\t\r\n".contains(byte));
        assert_eq!(beyond, None, "{name}, {city}");
        assert_wire_ready(&message.bytes);
        let parsed = MessageParser::new().parse(&message.bytes).unwrap();
        assert!(parsed.body_text(0).unwrap().contains(city), "{city} arrives as it was");
        assert_eq!(parsed.attachment(0).unwrap().contents(), every_byte);
    }
}
