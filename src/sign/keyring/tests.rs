//! Keys made, kept, refused; signatures that hold and break where they must.

use super::*;
use crate::base::EnvelopeId;

const WEEK: Span = Span::secs(7 * 86_400);
const MESSAGE: &str = "From: News <news@example.com>\r\nTo: <ada@example.net>\r\nSubject: Hello\r\n\
    Date: Mon, 23 Nov 2026 20:20:34 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n\
    List-Unsubscribe: <https://mail.example.com/u/x>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
    Content-Type: text/plain\r\n\r\nHello\r\n";

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn message() -> Message {
    Message { id: EnvelopeId::from_u64(1), bytes: MESSAGE.as_bytes().to_vec() }
}

/// The tags of the signatures on top of a message, without blanks.
fn signatures(signed: &Message) -> Vec<String> {
    let text = String::from_utf8_lossy(&signed.bytes).replace("\r\n\t", "");
    let fields = text.split("\r\n").filter_map(|line| line.strip_prefix("DKIM-Signature:"));
    fields.map(|value| value.split_whitespace().collect()).collect()
}

fn tag<'a>(signature: &'a str, name: &str) -> &'a str {
    signature.split(';').find_map(|tag| tag.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
}

#[test]
fn a_new_key_signs_and_its_signature_says_what_the_rules_want() {
    let keys = tempfile::tempdir().unwrap();
    let record = create_key(keys.path(), &domain("example.com"), "m1", Algorithm::Rsa).unwrap();
    assert!(record.name == "m1._domainkey.example.com" && record.value.starts_with("v=DKIM1; k=rsa; p=MIIBIjAN"));
    let ring = Keyring::open(keys.path(), WEEK).unwrap();
    assert_eq!(ring.records(), [record]);

    let signed = ring.sign(&domain("example.com"), message()).unwrap();
    assert!(signed.bytes.ends_with(MESSAGE.as_bytes()));
    let signature = &signatures(&signed)[0];
    assert_eq!((tag(signature, "a"), tag(signature, "c")), ("rsa-sha256", "relaxed/relaxed"));
    assert_eq!((tag(signature, "d"), tag(signature, "s"), tag(signature, "l")), ("example.com", "m1", ""));
    let time = |name| tag(signature, name).parse::<u64>().unwrap();
    assert_eq!(time("x") - time("t"), 7 * 86_400);
    let signed: Vec<&str> = tag(signature, "h").split(':').collect();
    let times = |name: &str| signed.iter().filter(|field| field.eq_ignore_ascii_case(name)).count();
    for twice in ["From", "To", "Subject", "Date", "Reply-To", "Message-ID", "MIME-Version", "Content-Type"] {
        assert_eq!(times(twice), 2, "{twice}");
    }
    assert_eq!((times("List-Unsubscribe"), times("List-Unsubscribe-Post"), times("Cc"), times("X-Ref")), (2, 2, 1, 0));
}

#[test]
fn ed25519_is_a_second_signature() {
    let keys = tempfile::tempdir().unwrap();
    create_key(keys.path(), &domain("example.com"), "e1", Algorithm::Ed25519).unwrap();
    create_key(keys.path(), &domain("example.com"), "m1", Algorithm::Rsa).unwrap();
    let signed = Keyring::open(keys.path(), WEEK).unwrap().sign(&domain("example.com"), message()).unwrap();
    let algorithms: Vec<String> = signatures(&signed).iter().map(|each| tag(each, "a").to_owned()).collect();
    assert_eq!(algorithms, ["rsa-sha256", "ed25519-sha256"]);
}

#[test]
fn a_second_key_waits_until_it_is_put_to_use() {
    let keys = tempfile::tempdir().unwrap();
    let example = domain("example.com");
    create_key(keys.path(), &example, "m1", Algorithm::Rsa).unwrap();
    let second = create_key(keys.path(), &example, "m2", Algorithm::Rsa).unwrap();
    assert!(second.waits);
    assert!(matches!(create_key(keys.path(), &example, "M1", Algorithm::Ed25519), Err(Error::Exists { .. })));
    let ring = Keyring::open(keys.path(), WEEK).unwrap();
    assert_eq!(ring.records().len(), 2);
    assert_eq!(tag(&signatures(&ring.sign(&example, message()).unwrap())[0], "s"), "m1");

    let folder = keys.path().join("example.com");
    std::fs::rename(folder.join("m2.rsa.pem.waiting"), folder.join("m2.rsa.pem")).unwrap();
    assert!(matches!(Keyring::open(keys.path(), WEEK), Err(Error::Twice { .. })));
    std::fs::rename(folder.join("m1.rsa.pem"), folder.join("m1.rsa.pem.waiting")).unwrap();
    let ring = Keyring::open(keys.path(), WEEK).unwrap();
    assert_eq!(tag(&signatures(&ring.sign(&example, message()).unwrap())[0], "s"), "m2");
}

#[test]
fn a_domain_below_is_signed_by_the_key_above_and_no_other() {
    let keys = tempfile::tempdir().unwrap();
    create_key(keys.path(), &domain("example.com"), "m1", Algorithm::Ed25519).unwrap();
    create_key(keys.path(), &domain("co.uk"), "m1", Algorithm::Ed25519).unwrap();
    let ring = Keyring::open(keys.path(), WEEK).unwrap();
    assert!(ring.has_key(&domain("example.com")) && ring.has_key(&domain("a.news.example.com")));
    for other in ["com", "notexample.com", "example.net", "example.co.uk"] {
        assert!(!ring.has_key(&domain(other)), "{other}");
    }
    assert!(matches!(ring.sign(&domain("example.net"), message()), Err(Error::NoKey(_))));
}

#[test]
fn what_is_no_usable_key_is_refused_by_name() {
    let refused = |name: &str, text: &str, part: &str| {
        let keys = tempfile::tempdir().unwrap();
        write_private(&keys.path().join("example.com").join(name), text.as_bytes()).unwrap();
        let told = Keyring::open(keys.path(), WEEK).err().expect(name).to_string();
        let selector = name.split(".rsa").next().unwrap_or_default();
        assert!(told.contains(selector) && told.contains(part), "{told}");
    };
    refused("m1.rsa.pem", "", "no private key");
    refused("m1.rsa.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no RSA key");
    refused("m1.rsa.pem", include_str!("../../../tests/fixtures/dkim/rsa1024.pem"), "shorter than 2048");
    refused("m1.rsa.pem", &pem(&generate(Algorithm::Ed25519).unwrap()), "no RSA key");
    refused("e1.ed25519.pem", include_str!("../../../tests/fixtures/dkim/rsa1024.pem"), "no Ed25519 key");
    refused("m1;d=evil.rsa.pem", "", "is not a selector");
    refused("m1\r\nBcc: x.rsa.pem", "", "is not a selector");
    for selector in ["", "a b", "a/b", "-a", "..", &"x".repeat(64)] {
        let keys = tempfile::tempdir().unwrap();
        assert!(matches!(
            create_key(keys.path(), &domain("example.com"), selector, Algorithm::Rsa),
            Err(Error::Selector(_))
        ));
    }
}
