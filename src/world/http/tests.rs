//! The client against hosts that serve, redirect, flood and stay silent, over real TLS in a simulated world.

use std::net::IpAddr;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::base::Timestamp;
use crate::world::{NetTable, Zone};

/// A client in a world where `policy.example` has `address` and answers every request with `answer`.
pub(crate) fn client(address: &str, answer: &'static str, allow_inward: bool) -> Http {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["policy.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let address: IpAddr = address.parse().unwrap();
    let net = NetTable::default().host(SocketAddr::new(address, 443), move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(theirs).await else { return };
            let mut heard = vec![0; 4096];
            let _ = stream.read(&mut heard).await;
            match answer {
                "" => std::future::pending().await,
                some => drop(stream.write_all(some.as_bytes()).await),
            }
            let _ = stream.shutdown().await;
        });
        std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
    });
    let zone = Zone::default().address(&Domain::parse("policy.example").unwrap(), address);
    let world = World::simulated(Timestamp::default(), zone, net, 1);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Http::new(&world, Arc::new(tls), allow_inward)
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn an_answer_comes_with_status_type_and_body() {
    let client = client(
        "192.0.2.80",
        "HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello",
        false,
    );
    let reply = client.get("https://policy.example/.well-known/x.txt", 100, LIMIT).await.unwrap();
    assert_eq!(reply, HttpReply { status: 200, media_type: "text/plain".into(), body: b"hello".to_vec() });
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_an_answer_and_not_followed() {
    let client =
        client("192.0.2.80", "HTTP/1.1 302 Found\r\nLocation: https://10.0.0.1/\r\nContent-Length: 0\r\n\r\n", false);
    assert_eq!(client.get("https://policy.example/", 100, LIMIT).await.unwrap().status, 302);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_or_too_slow_is_given_up() {
    let flood = client("192.0.2.80", "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", false);
    let host = Domain::parse("policy.example").unwrap();
    let reply = flood.get("https://policy.example/", 10, LIMIT).await;
    assert_eq!(reply, Err(HttpError::TooLong { host: host.clone(), most: 10 }));
    let silent = client("192.0.2.80", "", false);
    let reply = silent.get("https://policy.example/", 10, LIMIT).await;
    assert_eq!(reply, Err(HttpError::TimedOut { host, limit: LIMIT }));
}

#[tokio::test(start_paused = true)]
async fn nothing_leads_inward() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for inward in
        ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::ffff:127.0.0.1", "fd00::1", "64:ff9b::7f00:1"]
    {
        let reply = client(inward, answer, false).get("https://policy.example/", 10, LIMIT).await;
        assert_eq!(reply, Err(HttpError::NoAddress(Domain::parse("policy.example").unwrap())), "{inward}");
    }
    assert!(client("127.0.0.1", answer, true).get("https://policy.example/", 10, LIMIT).await.is_ok());
    let client = client("192.0.2.80", answer, false);
    for address in [
        "http://policy.example/",
        "https://192.0.2.80/",
        "https://3221226064/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://policy.example@127.0.0.1/",
        "https://user:secret@policy.example/",
        "https://policy.example/\r\nX-Evil: 1",
        "policy.example",
    ] {
        let reply = client.get(address, 10, LIMIT).await;
        assert_eq!(reply, Err(HttpError::Address(address.to_owned())), "{address}");
    }
}
