//! The resolver against a name server of ours on loopback, written in bytes and sharing no code with hickory.

use tokio::net::UdpSocket;

use super::*;

fn plain(servers: &[String]) -> NameService<'_> {
    NameService { servers, dnssec: Dnssec::Off, anchor: None }
}

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// A name in wire form, from text without a final dot.
fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn mx(preference: u16, host: &str) -> Vec<u8> {
    [preference.to_be_bytes().to_vec(), wire(host)].concat()
}

/// A record: owner, type, TTL, data.
type Record<'a> = (&'a str, u16, u32, Vec<u8>);

/// The reply code and the answers to a question.
fn answers(name: &str, kind: u16) -> (u8, Vec<Record<'_>>) {
    let found = match (name, kind) {
        ("example.com", MX) => vec![
            ("example.com", MX, 7200, mx(10, "mx1.example.net")),
            ("example.com", MX, 5, mx(20, "mx2.example.net")),
        ],
        ("null.example", MX) => vec![("null.example", MX, 300, mx(0, ""))],
        ("unfit.example", MX) => vec![("unfit.example", MX, 300, mx(5, "under_score.example"))],
        ("alias.example", MX) => vec![
            ("alias.example", CNAME, 300, wire("example.com")),
            ("example.com", MX, 300, mx(10, "mx1.example.net")),
        ],
        ("mx1.example.net", A) => vec![("mx1.example.net", A, 9_999_999, vec![192, 0, 2, 1])],
        ("mx1.example.net", AAAA) => {
            vec![("mx1.example.net", AAAA, 60, [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat())]
        }
        ("_dmarc.example.com", TXT) => {
            vec![("_dmarc.example.com", TXT, 60, [&b"\x09v=DMARC1;"[..], b"\x07p=none;"].concat())]
        }
        ("1.2.0.192.in-addr.arpa", PTR) => vec![(name_ptr(), PTR, 60, wire("mx1.example.net"))],
        _ => vec![],
    };
    let code = match name {
        "broken.example" => 2,
        "gone.example" => 3,
        _ => 0,
    };
    (code, found)
}

fn name_ptr() -> &'static str {
    "1.2.0.192.in-addr.arpa"
}

/// Answers one question; the question section is copied back as it came.
fn respond(query: &[u8]) -> Vec<u8> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let name = labels.join(".");
    let (code, found) = answers(&name, kind);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
    reply.extend(question);
    for (owner, kind, ttl, data) in found {
        reply.extend(wire(owner));
        reply.extend(kind.to_be_bytes());
        reply.extend(1u16.to_be_bytes());
        reply.extend(ttl.to_be_bytes());
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    reply
}

async fn resolver() -> Resolver {
    resolver_with(Dnssec::Off).await
}

async fn resolver_with(dnssec: Dnssec) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&respond(&buffer[..length]), from).await;
        }
    });
    Resolver::new(NameService { dnssec, ..plain(&[at]) }).unwrap()
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

#[tokio::test]
async fn records_come_with_their_bounded_time() {
    let resolver = resolver().await;
    let found = resolver.mx(&name("example.com")).await.unwrap();
    let hosts: Vec<_> = found.records.iter().map(|mx| (mx.preference, mx.target.clone().unwrap())).collect();
    assert_eq!(hosts, [(10, name("mx1.example.net")), (20, name("mx2.example.net"))]);
    assert_eq!((found.ttl, found.secure), (TTL_FLOOR, false));

    let found = resolver.addresses(&name("mx1.example.net"), false).await.unwrap();
    assert_eq!((found.records, found.ttl), (vec!["192.0.2.1".parse().unwrap()], TTL_CEILING));
    let both = resolver.addresses(&name("mx1.example.net"), true).await.unwrap().records;
    assert_eq!(both, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);

    assert_eq!(resolver.text("_dmarc.example.com").await.unwrap().records, ["v=DMARC1;p=none;"]);
    let pointer = resolver.pointer("192.0.2.1".parse().unwrap()).await.unwrap();
    assert_eq!(pointer.records, [name("mx1.example.net")]);
}

#[tokio::test]
async fn null_mx_aliases_and_unfit_targets_are_told_apart() {
    let resolver = resolver().await;
    let null = resolver.mx(&name("null.example")).await.unwrap().records;
    assert_eq!(null, [Mx { preference: 0, target: None }]);
    let alias = resolver.mx(&name("alias.example")).await.unwrap().records;
    assert_eq!(alias, [Mx { preference: 10, target: Some(name("mx1.example.net")) }]);
    let unfit = resolver.mx(&name("unfit.example")).await.unwrap_err();
    assert!(matches!(unfit, DnsError::Unavailable { .. }), "no fall back to its own address: {unfit}");
}

#[tokio::test]
async fn where_no_proofs_come_through_names_are_taken_unproved_unless_proof_is_demanded() {
    let auto = resolver_with(Dnssec::Auto).await;
    for _ in 0..2 * UNPROVED_MAX {
        let found = auto.mx(&name("example.com")).await.unwrap();
        assert_eq!((found.records.len(), found.secure), (2, false));
    }
    let prover = auto.asker.prover.as_ref().unwrap();
    assert!(!prover.is_of_use(), "it is not asked in vain for ever");
    let strict = resolver_with(Dnssec::On).await;
    let refused = strict.mx(&name("example.com")).await.unwrap_err();
    assert!(matches!(refused, DnsError::Unavailable { .. }), "{refused}");
    let plain = resolver().await;
    let none = plain.tlsa(&name("mx1.example.net"), 25).await.unwrap_err();
    assert!(matches!(none, DnsError::NoRecords { .. }), "without proofs nobody's certificate is announced: {none}");
}

#[tokio::test]
async fn no_name_no_records_and_no_answer_are_three_things() {
    let resolver = resolver().await;
    let ttl = NEGATIVE_TTL;
    let gone = resolver.mx(&name("gone.example")).await.unwrap_err();
    assert_eq!(gone, DnsError::NoSuchName { name: name("gone.example"), ttl });
    let bare = resolver.mx(&name("mx1.example.net")).await.unwrap_err();
    assert_eq!(bare, DnsError::NoRecords { name: name("mx1.example.net"), ttl });
    let broken = resolver.mx(&name("broken.example")).await.unwrap_err();
    assert!(matches!(broken, DnsError::Unavailable { .. }), "{broken}");
}

#[tokio::test]
async fn a_wrong_name_server_is_refused_by_name() {
    for bad in ["dns.example.com", "127.0.0.1:99999", ""] {
        assert!(matches!(Resolver::new(plain(&[bad.to_owned()])), Err(Error::NameServer(text)) if text == bad));
    }
}

#[test]
fn names_with_underscores_belong_to_the_domain_behind_them() {
    for (name, domain) in [
        ("example.com", Some("example.com")),
        ("_dmarc.example.com", Some("example.com")),
        ("s1._domainkey.example.com", Some("example.com")),
        ("a_b._domainkey.mail.example.com.", Some("mail.example.com")),
        ("_dmarc", None),
        ("", None),
    ] {
        assert_eq!(domain_behind(name).map(|domain| domain.to_string()).as_deref(), domain, "{name}");
    }
}
