//! Letters of our own, and files that travel with others', whatever stands in what they are made of.

use mail_parser::{MessageParser, MimeHeaders};

use super::*;
use crate::base::Domain;

const DATE: Timestamp = Timestamp::from_ms(1_795_465_234_500);

/// Words that try to be more than words.
const WORDS: &[&str] = &[
    "x\r\nBcc: eve@evil.example",
    "x\nBcc: eve@evil.example\n.\nMAIL FROM:<eve@evil.example>",
    "x\r.\r\nMAIL FROM:<eve@evil.example>\r\n.\r\n",
    "x\0y\u{1b}[2J\u{7}\u{7f}\u{9b}31m",
    "x\u{2028}Bcc: eve@evil.example\u{85}",
    "\u{202e}gnp.exe\u{61c}",
    "=?utf-8?Q?x=0D=0ABcc:_eve@evil.example?=",
    "\"; filename=\"owned.exe\"; x=\"",
    "../../etc/passwd",
    ".",
    "From eve",
];

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// Every header once, and nothing on the wire but printable ASCII in lines that end in CR LF.
fn check(words: &str, bytes: &[u8], names: &[&str]) {
    let odd = bytes.iter().find(|octet| !matches!(octet, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    assert_eq!(odd, None, "{words:?}");
    let ends = memchr::memmem::find_iter(bytes, b"\r\n").count();
    assert_eq!(bytes.iter().filter(|octet| matches!(octet, b'\r' | b'\n')).count(), 2 * ends, "{words:?}");
    assert!(bytes.split(|octet| *octet == b'\n').all(|line| line.len() <= 999), "{words:?}");
    let parsed = MessageParser::new().parse(bytes).unwrap();
    let found: Vec<&str> = parsed.headers().iter().map(|field| field.name()).collect();
    assert_eq!(found, names, "{words:?}");
}

#[test]
fn an_alert_is_one_letter_whatever_it_tells() {
    let names = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    for words in WORDS {
        let bytes =
            memo(&address("a@example.com"), &address("\"b\\\"> c\"@example.org"), words, words, DATE, "alert-1");
        check(words, &bytes, &names);
    }
}

#[test]
fn a_report_on_tls_names_a_domain_and_nothing_else() {
    for name in WORDS.iter().chain(&["a b", "a>b", "a;b", "a,b"]) {
        assert!(Domain::parse(name).is_err(), "{name:?} would stand in its header");
    }
    let (from, to, domain) =
        (address("a@example.com"), address("b@example.org"), Domain::parse("example.org").unwrap());
    let file = "example.com!example.org!1!2.json.gz";
    let letter = TlsReportLetter {
        from: &from,
        to: &to,
        domain: &domain,
        id: "1.2@example.com",
        file,
        gzip: &[0, 255],
        date: DATE,
    };
    let bytes = tls_report(&letter);
    let parsed = MessageParser::new().parse(&bytes).unwrap();
    assert_eq!(parsed.header("TLS-Report-Domain").and_then(|value| value.as_text()), Some("example.org"));
    assert_eq!(parsed.attachment(0).unwrap().attachment_name(), Some(file));
}

#[test]
fn a_files_name_is_a_name_and_its_bytes_are_bytes() {
    for words in WORDS {
        let mut edition = sample_edition();
        let asset = |content_id: Option<&str>| Asset {
            name: (*words).to_owned(),
            media_type: "text/csv".into(),
            content_id: content_id.map(str::to_owned),
            bytes: format!("{words}\r\n.\r\n\n.\n\r.\r--=_m").into_bytes(),
        };
        edition.attachments.push(asset(None));
        edition.inline.push(asset(Some("logo@example.com")));
        let template = Template::compile(&edition).unwrap();
        let recipient = sample(&template, address("a@example.org"));
        let mut envelope = crate::mail::Envelope::sketch(recipient.contact, DATE);
        envelope.date = Some(DATE);
        let seal = crate::base::Seal::new(vec![crate::base::SealKey::new('a', &[7; 32]).unwrap()]).unwrap();
        let message = template.print(&envelope, &recipient, &seal).unwrap();
        let parsed = MessageParser::new().parse(&message.bytes).unwrap();
        let names: Vec<&str> = parsed.headers().iter().map(|field| field.name()).collect();
        check(words, &message.bytes, &names);
        assert!(!names.contains(&"Bcc"), "{words:?}");
        let files: Vec<_> = parsed.attachments().collect();
        assert_eq!(files.len(), 2, "{words:?}");
        assert!(files.iter().all(|file| file.contents() == asset(None).bytes), "{words:?}");
    }
}
