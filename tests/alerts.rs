//! The ways of an alert over real sockets and to a real process: what arrives, what cannot happen, and what is said when a
//! way fails.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mailshot::base::{Domain, Span, Timestamp};
use mailshot::config::Settings;
use mailshot::delivery::alert::{Alert, Alerts};
use mailshot::sign::{Algorithm, Keyring, create_key};
use mailshot::world::{World, Zone};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

fn alert() -> Alert {
    Alert {
        kind: "held".into(),
        text: "550 5.7.1 blocked; $(touch owned) `touch owned` \"; touch owned #".into(),
        site: Some("outlook".into()),
        source: Some("east".into()),
        campaign: Some("tuesday".into()),
        until: None,
        at: Timestamp::from_ms(1_795_000_000_000),
        host: "mx.example.com".into(),
        remedy: "mailshot queue resume outlook".into(),
        held_back: 3,
    }
}

/// The machine's own network, with names of ours.
fn world(zone: Zone) -> World {
    let machine = World::real(Settings::default().name_service()).unwrap();
    World { dns: Arc::new(zone), ..machine }
}

async fn tell(settings: &Settings, zone: Zone, keys: &Path) -> Vec<(String, Result<(), String>)> {
    let keyring = Keyring::open(keys, Span::secs(3600)).unwrap();
    Alerts::new(settings, &world(zone), keyring).tell(&alert()).await
}

/// An https server for `hook.example` that answers one request; gives its address, and what it was sent.
async fn hook(folder: &Path) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["hook.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"}") {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&some[..count]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(heard).unwrap()
    });
    (address, heard)
}

fn named(address: SocketAddr) -> Zone {
    Zone::default().address(&Domain::parse("hook.example").unwrap(), address.ip())
}

#[tokio::test]
async fn a_webhook_gets_the_alert_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let (address, heard) = hook(folder.path()).await;
    let mut settings = Settings { tls_ca: Some(folder.path().join("ca.pem")), ..Settings::default() };
    settings.alert.webhook = Some(format!("https://hook.example:{}/alerts?x=1", address.port()));
    settings.alert.webhook_private = true;
    let told = tell(&settings, named(address), folder.path()).await;
    assert_eq!(told[0].1, Ok(()), "{told:?}");
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("POST /alerts?x=1 HTTP/1.1\r\n"), "{heard}");
    let body: serde_json::Value = serde_json::from_str(heard.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((body["kind"].as_str(), body["site"].as_str()), (Some("held"), Some("outlook")));
    assert_eq!((body["held_back"].as_u64(), body["at"].as_str()), (Some(3), Some("2026-11-18T11:06:40.000Z")));
}

#[tokio::test]
async fn a_webhook_does_not_lead_inward_unless_that_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let (address, heard) = hook(folder.path()).await;
    let mut settings = Settings { tls_ca: Some(folder.path().join("ca.pem")), ..Settings::default() };
    settings.alert.webhook = Some(format!("https://hook.example:{}/", address.port()));
    let told = tell(&settings, named(address), folder.path()).await;
    assert!(told[0].1.as_ref().is_err_and(|why| why.contains("no address that may be dialled")), "{told:?}");
    assert!(!heard.is_finished());
    heard.abort();
}

/// A program that keeps what it was given in `folder`.
fn program(folder: &Path, script: &str) -> Vec<String> {
    let path = folder.join("tell.sh");
    fs::write(&path, format!("cd '{}'\n{script}\n", folder.display())).unwrap();
    ["/bin/sh".to_owned(), path.display().to_string(), "one argument; touch owned".to_owned()].into()
}

#[tokio::test]
async fn a_command_reads_the_alert_and_nothing_in_it_becomes_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.alert.command = program(folder.path(), "cat > heard; echo \"$1\" > argument; env > environment");
    let told = tell(&settings, Zone::default(), folder.path()).await;
    assert_eq!(told[0].1, Ok(()), "{told:?}");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let heard: serde_json::Value = serde_json::from_str(&read("heard")).unwrap();
    assert_eq!(heard["text"].as_str(), Some(&*alert().text));
    assert_eq!(read("argument"), "one argument; touch owned\n");
    assert!(!folder.path().join("owned").exists());
    let known = ["PATH", "HOME", "LANG", "TZ", "PWD", "OLDPWD", "SHLVL", "_"];
    let leaked: Vec<String> = read("environment").lines().map(str::to_owned).collect();
    assert!(leaked.iter().all(|line| known.contains(&line.split('=').next().unwrap())), "{leaked:?}");
}

#[tokio::test]
async fn a_command_that_fails_hangs_or_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    for (script, limit, words) in [
        (Some("exit 3"), Span::secs(60), "exit status: 3"),
        (Some("sleep 600"), Span::from(Duration::from_millis(300)), "still ran after 300ms"),
        (None, Span::secs(60), "No such file"),
    ] {
        settings.alert.command_timeout = limit;
        settings.alert.command =
            script.map_or_else(|| vec!["/nowhere/tell".to_owned()], |script| program(folder.path(), script));
        let told = tell(&settings, Zone::default(), folder.path()).await;
        assert!(told[0].1.as_ref().is_err_and(|why| why.contains(words)), "{words}: {told:?}");
    }
}

/// A mail host that takes one message; gives its address, and the dialogue as it heard it.
async fn mail_host() -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 mx ESMTP\r\n").await.unwrap();
        let (mut heard, mut in_message) = (String::new(), false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                return heard;
            }
            heard.push_str(&line);
            let answer = match line.get(..4).unwrap_or_default() {
                _ if in_message && line != ".\r\n" => continue,
                _ if in_message => {
                    in_message = false;
                    "250 taken\r\n"
                }
                "DATA" => {
                    in_message = true;
                    "354 go\r\n"
                }
                "QUIT" => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, heard)
}

#[tokio::test]
async fn alert_mail_is_signed_comes_from_nobody_and_is_answered_by_no_machine() {
    let folder = tempfile::tempdir().unwrap();
    create_key(folder.path(), &Domain::parse("example.com").unwrap(), "e1", Algorithm::Ed25519).unwrap();
    let (address, heard) = mail_host().await;
    let mut settings = Settings::default();
    settings.alert.mail = vec!["ops@example.org".into()];
    settings.alert.mail_from = Some("alerts@example.com".into());
    settings.alert.mail_via = Some(format!("smtp://{address}"));
    let told = tell(&settings, Zone::default(), folder.path()).await;
    assert_eq!(told, [("ops@example.org".to_owned(), Ok(()))]);
    let heard = heard.await.unwrap();
    assert!(heard.contains("MAIL FROM:<>") && heard.contains("RCPT TO:<ops@example.org>"), "{heard}");
    for words in [
        "DKIM-Signature: ",
        "Subject: [mailshot] held: tuesday, east, outlook\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "mailshot queue resume outlook",
        "3 more alerts were held back",
    ] {
        assert!(heard.contains(words), "`{words}` is missing: {heard}");
    }
}
