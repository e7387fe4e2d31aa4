//! The scenes: one campaign, three ways to other people's servers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::mail::{self, Seen};
use crate::peers::{Door, Logins, Mailboxes, NameServer, Postfix, SmtpSink, free_port, listens, wait_for};
use crate::workspace::Workspace;

/// Everybody in the report is delivered, and nobody is anything else.
#[track_caller]
fn assert_all_delivered(report: &Value, people: usize) {
    assert_eq!(report["recipients"], people, "{report}");
    assert_eq!(report["delivered"], people, "{report}");
    assert_eq!(report["possible_doubles"], 0, "{report}");
}

/// One message for each of the people, without defects, signed so that dkimpy agrees, with a return path of its own.
#[track_caller]
fn assert_well_received(seen: &[Seen], people: usize) {
    let distinct = |part: fn(&Seen) -> &String| seen.iter().map(part).collect::<BTreeSet<_>>().len();
    assert_eq!(seen.len(), people);
    assert_eq!(distinct(|m| &m.recipient), people, "each recipient once");
    assert_eq!(distinct(|m| &m.id), people, "each with a Message-ID of its own");
    assert_eq!(distinct(|m| &m.sender), people, "each with a return path of its own");
    for message in seen {
        assert_eq!(message.defects, [""; 0], "{message:?}");
        assert_eq!(message.parts[..3], ["multipart/alternative", "text/plain", "text/html"], "{message:?}");
        assert!(!message.signatures.is_empty() && message.signatures.iter().all(|(_, valid)| *valid), "{message:?}");
    }
}

fn captured(sink: &SmtpSink, people: usize) -> Vec<PathBuf> {
    wait_for("all messages at smtp-sink", || sink.messages().len() >= people);
    sink.messages()
}

pub fn smtp_sink() {
    let workspace = Workspace::new();
    workspace.people(400, &["one.example", "two.example", "three.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", sink.port)]);
    assert_all_delivered(&report, 400);
    let messages = captured(&sink, 400);
    assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &messages), 400);
}

pub fn smarthost() {
    let mut workspace = Workspace::new();
    workspace.people(120, &["one.example", "two.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    let logins = Logins::start(workspace.scratch());
    let postfix = Postfix::start(workspace.scratch(), &Door::Smarthost { logins: logins.port }, sink.port);
    workspace.set("TLS_CA", postfix.authority.display());
    workspace.set("RELAY__USER", "newsletter");
    workspace.set("RELAY__PASSWORD", "secret");
    let report = workspace.send(&["--via", &format!("smtp+starttls://localhost:{}", postfix.port)]);
    assert_all_delivered(&report, 120);
    let messages = captured(&sink, 120);
    assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &messages), 120);
    assert!(mail::mail_dkim_agrees(workspace.scratch(), &messages), "Mail::DKIM refuses a signature");
    let log = postfix.log();
    assert!(log.contains("sasl_username=newsletter") && log.contains("TLS connection established"), "{log}");
}

pub fn mx() {
    let mut workspace = Workspace::new();
    workspace.people(120, &["people.example", "readers.people.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    let domains = ["people.example", "readers.people.example"];
    let postfix = Postfix::start(workspace.scratch(), &Door::Mx(&domains), sink.port);
    let records = "@ IN MX 10 mx\nreaders IN MX 20 mx\nreaders IN MX 10 gone\nmx IN A 127.0.0.1\n";
    let names = NameServer::start(workspace.scratch(), "people.example", records);
    workspace.set("RESOLVER", format!("127.0.0.1:{}", names.port));
    workspace.set("SMTP_PORT", postfix.port);
    workspace.set("ALLOW_PRIVATE", true);
    let report = workspace.send(&["--wait", "all"]);
    assert_all_delivered(&report, 120);
    let messages = captured(&sink, 120);
    assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &messages), 120);
    let log = postfix.log();
    assert!(log.contains("TLS connection established"), "opportunistic TLS was not used: {log}");
}

/// The data of a TLSA record: SHA-256 of a certificate in a PEM file, counted from 0.
fn fingerprint(file: &Path, which: usize) -> String {
    let certificates = CertificateDer::pem_file_iter(file).expect("a PEM file");
    let certificate = certificates.skip(which).map(|one| one.expect("a certificate")).next().expect("a certificate");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

pub fn dane() {
    let mut workspace = Workspace::new();
    let kinds = ["right", "below", "plain", "odd", "wrong", "stranger", "forged"];
    let domains = kinds.map(|kind| format!("{kind}.people.example"));
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    workspace.addresses(domains.iter().map(|domain| format!("reader@{domain}")));
    let sink = SmtpSink::start(workspace.scratch());
    let postfix = Postfix::start(workspace.scratch(), &Door::Mx(&domains), sink.port);
    let mut records: String =
        kinds.iter().map(|kind| format!("{kind} IN MX 10 mx-{kind}\nmx-{kind} IN A 127.0.0.1\n")).collect();
    let (own, above) = (fingerprint(&postfix.certificate, 0), fingerprint(&postfix.certificate, 1));
    let nobody = "00".repeat(32);
    for (kind, usage, data) in [
        ("right", "3 0 1", &own),
        ("below", "2 0 1", &above),
        // usages for the Web are none for mail: TLS, whoever it is
        ("odd", "1 0 1", &own),
        ("wrong", "3 0 1", &nobody),
        // its authority is announced, but the certificate is for another name
        ("stranger", "2 0 1", &above),
        ("forged", "3 0 1", &nobody),
    ] {
        records.push_str(&format!("_{}._tcp.mx-{kind} IN TLSA {usage} {data}\n", postfix.port));
    }
    // Somebody on the way puts in the certificate of the host, but cannot sign it.
    let forge = |zone: String| {
        let lines = zone.lines().map(|line| match line.contains("_tcp.mx-forged") && line.contains("\tTLSA\t") {
            true => line.replace(&nobody, &own),
            false => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    };
    let (names, anchor) = NameServer::signed(workspace.scratch(), "people.example", &records, forge);
    workspace.set("RESOLVER", format!("127.0.0.1:{}", names.port));
    workspace.set("DNSSEC_ANCHOR", anchor.display());
    workspace.set("SMTP_PORT", postfix.port);
    workspace.set("ALLOW_PRIVATE", true);
    let report = workspace.send(&[]);
    assert_eq!((&report["delivered"], &report["deferred"]), (&Value::from(4), &Value::from(3)), "{report}");
    let outcomes = String::from_utf8(workspace.run(&["export", "outcomes"]).stdout).expect("text");
    let line = |kind: &str| outcomes.lines().find(|line| line.contains(&format!("@{kind}."))).expect("its line");
    for kind in ["right", "below", "plain", "odd"] {
        assert!(line(kind).contains("delivered"), "{outcomes}");
    }
    for (kind, why) in [("wrong", "DANE"), ("stranger", "not valid for name"), ("forged", "TLSA")] {
        assert!(line(kind).contains("deferred") && line(kind).contains(why), "{outcomes}");
    }
    println!("{outcomes}");
}

/// A host that knows nobody whose name starts with `unknown`.
const FUSSY: &str = "session = \"plain\"\n[personality.fussy]\n\
    fault = [{ at = \"to\", address = [\"unknown*\"], reply = \"550 5.1.1 <{recipient}>: user unknown\" }]\n\
    [domains]\n\"*\" = \"fussy\"\n";

pub fn late_bounces() {
    let mut workspace = Workspace::new();
    let (far, returns) = (free_port(), free_port());
    workspace.set("LISTENER__SMTP", format!("127.0.0.1:{returns}"));
    workspace.set("LISTENER__HOST_NAME", "bounce.example.com");
    let known = (0..190).map(|n| format!("reader{n}@people.example"));
    workspace.addresses(known.chain((0..10).map(|n| format!("unknown{n}@people.example"))));
    let script = workspace.scratch().join("fussy.toml");
    std::fs::write(&script, FUSSY).expect("the script");
    let listen = format!("127.0.0.1:{far}");
    let _host = workspace.stay(&["sink", "--listen", &listen, "--script", &script.display().to_string()]);
    let door = Door::Hasty { domain: "people.example", returns: ("bounce.example.com", returns) };
    let postfix = Postfix::start(workspace.scratch(), &door, far);
    let _serve = workspace.stay(&["serve"]);
    wait_for("the host and the listener", || listens(far) && listens(returns));
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", postfix.port)]);
    // The first reports may be home before this one is written.
    let count = |key: &str| report[key].as_u64().expect("a number");
    assert_eq!((count("delivered") + count("bounced_late"), count("attempts")), (200, 200), "{report}");
    wait_for("all reports", || workspace.ask(&["report", "welcome"])["bounced_late"] == 10);
    let report = workspace.ask(&["report", "welcome"]);
    assert_eq!((&report["delivered"], &report["failed"]), (&Value::from(190), &Value::from(10)), "{report}");
    assert_eq!(report["failures"][0]["class"], "hard.unknown_user", "{report}");
    let output = workspace.run(&["suppress", "list"]);
    let suppressed = String::from_utf8(output.stdout).expect("text");
    assert_eq!(suppressed.matches("@people.example  hard").count(), 10, "{suppressed}");
    assert_eq!(suppressed.matches("reader").count(), 0, "{suppressed}");
}

/// A delivery report to a return path.
fn delivery_report(to: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example\nTo: {to}\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"x\"\n\n--x\nContent-Type: text/plain\n\n\
         nobody here\n--x\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n\
         Final-Recipient: rfc822; nobody@people.example\nAction: failed\nStatus: 5.1.1\n\
         Diagnostic-Code: smtp; 550 5.1.1 user unknown\n\n--x--\n"
    )
}

pub fn mailboxes() {
    let mut workspace = Workspace::new();
    workspace.people(9, &["people.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", sink.port)]);
    let messages = captured(&sink, 9);
    let sent = mail::read(workspace.scratch(), &workspace.keys(), &messages);
    let mailboxes = Mailboxes::start(workspace.scratch());
    workspace.set("TLS_CA", mailboxes.authority.display());
    let password = workspace.scratch().join("password");
    std::fs::write(&password, "secret\n").expect("the password");
    let ordinary = "From: friend@example.org\nTo: me@example.com\nSubject: lunch?\n\nat noon\n".to_owned();
    for (at, (user, protocol, port, tls, more)) in [
        ("anna", "imap", mailboxes.imaps, "implicit", "processed = \"Done\"\n"),
        ("bert", "imap", mailboxes.imap, "starttls", ""),
        ("carl", "pop3", mailboxes.pop3s, "implicit", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut inbox: Vec<String> =
            sent[at * 3..at * 3 + 3].iter().map(|seen| delivery_report(&seen.sender)).collect();
        // The same report twice is one bounce.
        inbox.extend([inbox[0].clone(), ordinary.clone(), ordinary.clone()]);
        mailboxes.fill(user, &inbox);
        workspace.configure(&format!(
            "\n[[mailbox]]\nname = \"{user}\"\nprotocol = \"{protocol}\"\nhost = \"localhost\"\nport = {port}\n\
             tls = \"{tls}\"\nuser = \"{user}\"\npassword_file = \"{}\"\n{more}",
            password.display()
        ));
    }
    let poll = || String::from_utf8(workspace.run(&["bounces", "poll", "--json"]).stdout).expect("JSON");
    let first = poll();
    assert_eq!(first.matches("\"taken\":4,\"foreign\":2").count(), 3, "{first}");
    let second = poll();
    assert_eq!(second.matches("\"taken\":0,\"foreign\":0").count(), 3, "{second}");
    let report = workspace.ask(&["report", "welcome"]);
    assert_eq!((&report["bounced_late"], &report["failed"]), (&Value::from(9), &Value::from(9)), "{report}");
    assert_eq!((mailboxes.names("anna", "").len(), mailboxes.names("anna", ".Done").len()), (2, 4));
    assert_eq!(mailboxes.names("carl", "").len(), 2, "POP3 deletes what is on record and nothing else");
    let unread = |names: &[String]| names.iter().filter(|name| !name.ends_with('S')).count();
    assert_eq!(unread(&mailboxes.names("bert", "")), 6, "IMAP marks nothing as seen");
}
