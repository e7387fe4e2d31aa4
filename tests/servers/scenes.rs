//! The scenes: one campaign, three ways to other people's servers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::mail::{self, Seen};
use crate::peers::{
    Aiosmtpd, Door, Exim, Logins, Mailboxes, NameServer, PolicyHost, Postfix, SmtpSink, free_port, listens, wait_for,
};
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
    workspace.set("TLS_CA", postfix.authority.file.display());
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
    let outcomes = workspace.outcomes();
    let line = |kind: &str| outcomes.lines().find(|line| line.contains(&format!("@{kind}."))).expect("its line");
    for kind in ["right", "below", "plain", "odd"] {
        assert!(line(kind).contains("delivered"), "{outcomes}");
    }
    for (kind, why) in [("wrong", "DANE"), ("stranger", "not valid for name"), ("forged", "TLSA")] {
        assert!(line(kind).contains("deferred") && line(kind).contains(why), "{outcomes}");
    }
}

pub fn mta_sts() {
    let mut workspace = Workspace::new();
    let kinds = ["good", "elsewhere", "testing", "expired", "stranger", "redirect", "oldhost"];
    let domains = kinds.map(|kind| format!("{kind}.people.example"));
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    workspace.addresses(domains.iter().map(|domain| format!("reader@{domain}")));
    let sink = SmtpSink::start(workspace.scratch());
    let postfix = Postfix::start(workspace.scratch(), &Door::Mx(&domains), sink.port);
    let policy =
        |mode: &str, mx: &str| format!("version: STSv1\nmode: {mode}\nmx: {mx}.people.example\nmax_age: 86400\n");
    let policies = serde_json::json!({
        "mta-sts.good.people.example": policy("enforce", "mx-good"),
        "mta-sts.elsewhere.people.example": policy("enforce", "other"),
        "mta-sts.testing.people.example": policy("testing", "other"),
        "mta-sts.expired.people.example": policy("enforce", "mx-expired"),
        "mta-sts.stranger.people.example": policy("enforce", "*"),
        "mta-sts.redirect.people.example": "https://mta-sts.elsewhere.people.example/.well-known/mta-sts.txt",
        "mta-sts.oldhost.people.example": policy("enforce", "other"),
    });
    let hosts: Vec<String> = domains.iter().map(|domain| format!("mta-sts.{domain}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let certify =
        |which: &str, names: &[&str], until| postfix.authority.certify(workspace.scratch(), which, names, until);
    let _policies = PolicyHost::start(workspace.scratch(), "127.0.0.2", &certify("policies-", &hosts, 2100), &policies);
    let _old = PolicyHost::start(workspace.scratch(), "127.0.0.4", &certify("old-", &hosts, 2021), &policies);
    let expired = certify("expired-", &["mx-expired.people.example"], 2021).map(|file| file.display().to_string());
    let [certificate, key] = &expired;
    let gone = Aiosmtpd::start(workspace.scratch(), "127.0.0.3", postfix.port, &["--tls", certificate, key]);
    let records: String = kinds
        .iter()
        .map(|kind| {
            let mx = if *kind == "expired" { "127.0.0.3" } else { "127.0.0.1" };
            let host = if *kind == "oldhost" { "127.0.0.4" } else { "127.0.0.2" };
            format!(
                "{kind} IN MX 10 mx-{kind}\nmx-{kind} IN A {mx}\nmta-sts.{kind} IN A {host}\n\
                 _mta-sts.{kind} IN TXT \"v=STSv1; id=20261125;\"\n"
            )
        })
        .collect();
    let names = NameServer::start(workspace.scratch(), "people.example", &records);
    workspace.set("RESOLVER", format!("127.0.0.1:{}", names.port));
    workspace.set("TLS_CA", postfix.authority.file.display());
    workspace.set("SMTP_PORT", postfix.port);
    workspace.set("ALLOW_PRIVATE", true);
    let report = workspace.send(&[]);
    assert_eq!((&report["delivered"], &report["deferred"]), (&Value::from(4), &Value::from(3)), "{report}");
    let outcomes = workspace.outcomes();
    let line = |kind: &str| outcomes.lines().find(|line| line.contains(&format!("@{kind}."))).expect("its line");
    for kind in ["good", "testing", "redirect", "oldhost"] {
        assert!(line(kind).contains("delivered"), "{outcomes}");
    }
    for (kind, why) in [("elsewhere", "does not name"), ("expired", "expired"), ("stranger", "not valid for name")] {
        assert!(line(kind).contains("deferred") && line(kind).contains(why), "{outcomes}");
    }
    assert_eq!(gone.lines(), [Value::Null; 0], "nothing reaches a host whose certificate has expired");
}

pub fn limits() {
    let mut workspace = Workspace::new();
    workspace.people(10, &["people.example"]);
    let receiver = Aiosmtpd::start(workspace.scratch(), "127.0.0.1", free_port(), &["--mailmax", "3"]);
    workspace.set("RELAY__CONNECTION_LIMIT", 1);
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", receiver.port)]);
    assert_all_delivered(&report, 10);
    let lines = receiver.lines();
    assert_eq!(lines.len(), 10, "never a MAIL above the limit");
    let connections: BTreeSet<String> = lines.iter().map(|line| line["peer"].to_string()).collect();
    assert_eq!(connections.len(), 4, "{connections:?}");
}

pub fn exim() {
    let workspace = Workspace::new();
    let people = (0..60).map(|n| format!("person{n}@people.example"));
    let odd = ["jürgen@utf.example", "unknown@people.example"].map(str::to_owned);
    workspace.addresses(people.chain(odd));
    let sink = SmtpSink::start(workspace.scratch());
    let exim = Exim::start(workspace.scratch(), sink.port);
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", exim.port)]);
    assert_all_delivered(&report, 62);
    // 60 messages, and the report that nobody is called `unknown`, to the return path of that copy.
    let messages = captured(&sink, 61);
    let seen = mail::read(workspace.scratch(), &workspace.keys(), &messages);
    let letters: Vec<Seen> = seen.into_iter().filter(|message| message.recipient.starts_with("person")).collect();
    assert_well_received(&letters, 60);
    let log = exim.log();
    assert_eq!(log.matches(" P=esmtps ").count(), 61, "{log}");
    assert_eq!(log.matches(" P=utf8esmtps ").count(), 1, "only the one that needs it: {log}");
    assert!(log.contains("X=TLS1.3:"), "{log}");
    let texts = messages.iter().map(|file| std::fs::read_to_string(file).expect("a message"));
    let report = texts.into_iter().find(|text| text.contains("Action: failed")).expect("Exim's report");
    assert!(report.contains("Original-Envelope-ID: 1-62\n"), "{report}");
}

/// Sends to smtp-sink with these options until all is delivered or nothing comes of it; gives the last report.
fn through_faults(people: usize, options: &[&str]) -> (Workspace, SmtpSink, Value) {
    let mut workspace = Workspace::new();
    workspace.people(people, &["one.example", "two.example"]);
    let sink = SmtpSink::with(workspace.scratch(), options);
    for (key, value) in [("RETRY__FIRST", "1s"), ("RETRY__LONGEST", "1s"), ("RETRY__EXPIRES", "1h")] {
        workspace.set(key, value);
    }
    workspace.set("RELAY__CONNECTION_LIMIT", 4);
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", sink.port)]);
    (workspace, sink, report)
}

pub fn sink_faults() {
    let count = |report: &Value, key: &str| report[key].as_u64().expect("a number");
    // Without any extension, or with slow answers, everything arrives once.
    for options in [&["-e", "-p", "-8"][..], &["-w", "1"], &["-p"], &["-m", "2"]] {
        let (workspace, sink, report) = through_faults(8, options);
        assert_all_delivered(&report, 8);
        assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &captured(&sink, 8)), 8);
    }
    // Refused for good at each stage: failed, nothing sent. Refused for now, dropped or dismissed: deferred, nothing lost.
    for (options, standing) in [
        (["-f", "rcpt"], "failed"),
        (["-f", "data"], "failed"),
        (["-f", "."], "failed"),
        (["-r", "mail"], "deferred"),
        (["-r", "rcpt"], "deferred"),
        (["-r", "."], "deferred"),
        (["-q", "ehlo"], "deferred"),
        (["-q", "rcpt"], "deferred"),
        (["-q", "data"], "deferred"),
        (["-Q", "mail"], "deferred"),
    ] {
        let (_workspace, sink, report) = through_faults(4, &options);
        assert_eq!(count(&report, standing) + count(&report, "waiting"), 4, "{options:?}: {report}");
        assert_eq!(sink.messages().len(), 0, "{options:?}");
    }
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
    workspace.set("TLS_CA", mailboxes.authority.file.display());
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
