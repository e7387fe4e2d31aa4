//! The scenes: one campaign, three ways to other people's servers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::mail::{self, Seen};
use crate::peers::{Door, Logins, NameServer, Postfix, SmtpSink, wait_for};
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
