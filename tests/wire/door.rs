//! The door of the public pages: what is slow, large or too much, in raw bytes; and https.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use mailshot::config;
use mailshot::web::{Client, Door, bind};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A door to a house with one page, which says who is there.
async fn open(settings: config::Web, folder: &std::path::Path) -> (SocketAddr, CancellationToken) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        Router::new().fallback(|Extension(Client(who)): Extension<Client>| async move { format!("{who} is here") });
    let stop = CancellationToken::new();
    let door = Door::new(&settings, folder).unwrap();
    tokio::spawn(door.serve(listener, router, stop.clone()));
    (address, stop)
}

async fn knock(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // whoever is turned away may find the door shut while still talking
    let _ = stream.write_all(request).await;
    all(&mut stream).await
}

async fn all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("the door shuts");
    String::from_utf8_lossy(&answer).into_owned()
}

const REQUEST: &str =
    "GET /x HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn heads_that_are_too_large_are_refused_and_a_strangers_word_on_himself_is_not_believed() {
    let (address, _) = open(config::Web::default(), ".".as_ref()).await;
    let answer = knock(address, REQUEST.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1 is here"), "{answer}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(64 * 1024));
    let wide = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(64 * 1024));
    for request in [many, long, wide, "\x16\x03\x01 no HTTP at all\r\n\r\n".into()] {
        let answer = knock(address, request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("is here"));
    }
    let trusting = config::Web { trusted_proxies: vec!["127.0.0.0/8".into()], ..config::Web::default() };
    let (address, _) = open(trusting, ".".as_ref()).await;
    assert!(knock(address, REQUEST.as_bytes()).await.ends_with("203.0.113.9 is here"));
}

#[tokio::test]
async fn whoever_dawdles_is_shown_out_and_takes_no_more_places_than_his_own() {
    let (wide, _) = open(config::Web::default(), ".".as_ref()).await;
    let narrow = config::Web { connections_per_client: 20, ..config::Web::default() };
    let (narrow, _) = open(narrow, ".".as_ref()).await;
    let begun = Instant::now();
    let mut dawdlers = Vec::new();
    for address in [wide, narrow].repeat(20) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        dawdlers.push(stream);
    }
    assert!(knock(wide, REQUEST.as_bytes()).await.contains("is here"), "there is room for others");
    assert_eq!(knock(narrow, REQUEST.as_bytes()).await, "", "one client has no more places than it may have");
    assert!(begun.elapsed() < Duration::from_secs(8), "nobody waited");
    for mut stream in dawdlers {
        assert!(!all(&mut stream).await.contains("is here"));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "each had ten seconds for its head, all at once");
    assert!(knock(narrow, REQUEST.as_bytes()).await.contains("is here"));
}

#[tokio::test]
async fn https_is_spoken_with_the_certificate_of_the_settings_and_nothing_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["pages.example.com".into()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let settings =
        config::Web { tls_cert: Some("cert.pem".into()), tls_key: Some("key.pem".into()), ..config::Web::default() };
    let (address, stop) = open(settings.clone(), folder.path()).await;
    assert!(!knock(address, REQUEST.as_bytes()).await.contains("is here"));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("pages.example.com").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    say(&mut stream).await;
    assert!(all(&mut stream).await.ends_with("127.0.0.1 is here"));
    stop.cancel();
    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    assert!(Door::new(&settings, folder.path()).is_err());
}

async fn say(stream: &mut (impl AsyncWrite + Unpin)) {
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}
