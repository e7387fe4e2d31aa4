//! The scenes: one campaign, three ways to other people's servers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::mail::{self, Seen};
use crate::peers::{
    Aiosmtpd, Door, Exim, Logins, Mailboxes, NameServer, PolicyHost, Postfix, SmtpSink, Speech, UTF, free_port,
    hand_in, listens, wait_for, wait_long, wait_or_tell,
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

pub fn fixed_route() {
    let mut workspace = Workspace::new();
    workspace.people(60, &["one.example", "two.example", "three.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    let logins = Logins::start(workspace.scratch());
    let postfix = Postfix::start(workspace.scratch(), &Door::Smarthost { logins: logins.port }, sink.port);
    workspace.set("TLS_CA", postfix.authority.file.display());
    let password = workspace.scratch().join("password");
    std::fs::write(&password, "secret\n").expect("the password");
    let away = free_port();
    workspace.configure(&format!(
        "\n[[route]]\ndomains = \"*\"\nrelays = [\n  {{ url = \"smtp://127.0.0.1:{away}\", weight = 3 }},\n  \
         {{ url = \"smtp+starttls://localhost:{}\", user = \"newsletter\", password_file = \"{}\" }},\n]\n",
        postfix.port,
        password.display()
    ));
    let check = String::from_utf8(workspace.run(&["check", "welcome"]).stdout).expect("text");
    assert!(check.contains("lets us in over TLS, logged in as newsletter"), "{check}");
    assert!(check.contains(&format!("smtp://127.0.0.1:{away}: cannot connect")), "{check}");
    let report = workspace.send(&["--wait", "all"]);
    assert_all_delivered(&report, 60);
    let messages = captured(&sink, 60);
    assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &messages), 60);
    assert!(postfix.log().contains("sasl_username=newsletter"), "{}", postfix.log());
}

pub fn mx() {
    let mut workspace = Workspace::new();
    workspace.people(120, &["people.example", "readers.people.example"]);
    workspace.addresses(std::iter::once(format!("jürgen@{UTF}")));
    let sink = SmtpSink::start(workspace.scratch());
    let domains = ["people.example", "readers.people.example"];
    let postfix = Postfix::start(workspace.scratch(), &Door::Mx(&domains), sink.port);
    let records = "@ IN MX 10 mx\nreaders IN MX 20 mx\nreaders IN MX 10 gone\nmx IN A 127.0.0.1\n";
    let names = NameServer::with(workspace.scratch(), "people.example", records, Some((UTF, "@ IN A 127.0.0.1\n")));
    workspace.set("RESOLVER", format!("127.0.0.1:{}", names.port));
    workspace.set("SMTP_PORT", postfix.port);
    workspace.set("ALLOW_PRIVATE", true);
    let report = workspace.send(&["--wait", "all"]);
    assert_all_delivered(&report, 121);
    let messages = captured(&sink, 120);
    assert_well_received(&mail::read(workspace.scratch(), &workspace.keys(), &messages), 120);
    let log = postfix.log();
    assert!(log.contains("TLS connection established"), "opportunistic TLS was not used: {log}");
    assert!(log.contains(" bdat="), "the first copy of a connection goes by BDAT: {log}");
    let end = Instant::now() + Duration::from_secs(20);
    while postfix.mailbox().is_empty() {
        assert!(Instant::now() < end, "nothing in a mailbox whose name is no ASCII: {}", postfix.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let letter = postfix.mailbox().remove(0);
    assert!(letter.contains(&format!("X-Original-To: jürgen@{UTF}")), "{letter}");
}

/// A campaign to a Postfix that wants a login spoken like this; gives the report and what Postfix wrote down.
fn logged_in(speech: Speech, set: &[(&str, &str)]) -> (Value, String, Workspace) {
    let mut workspace = Workspace::new();
    workspace.people(20, &["one.example", "two.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    let logins = Logins::spoken(workspace.scratch(), speech);
    let postfix = Postfix::start(workspace.scratch(), &Door::Smarthost { logins: logins.port }, sink.port);
    workspace.set("TLS_CA", postfix.authority.file.display());
    workspace.set("RELAY__USER", "newsletter");
    let token = workspace.scratch().join("token");
    std::fs::write(&token, "good\n").expect("the token");
    workspace.set("RELAY__CONNECTION_LIMIT", 3);
    for (key, value) in set {
        workspace.set(key, value.replace("TOKEN", &token.display().to_string()));
    }
    let report = workspace.send(&["--via", &format!("smtp+starttls://localhost:{}", postfix.port)]);
    (report, postfix.log(), workspace)
}

pub fn logins() {
    for (speech, set, method) in [
        (Speech::Scram, ("RELAY__PASSWORD", "secret"), "SCRAM-SHA-256"),
        (Speech::Token, ("RELAY__TOKEN_FILE", "TOKEN"), "XOAUTH2"),
    ] {
        let (report, log, _) = logged_in(speech, &[set]);
        assert_all_delivered(&report, 20);
        assert!(log.contains(&format!("sasl_method={method}, sasl_username=newsletter")), "{log}");
    }
}

pub fn refused_logins() {
    for (speech, set) in [
        (Speech::Password, ("RELAY__PASSWORD", "wrong")),
        (Speech::Scram, ("RELAY__PASSWORD", "wrong")),
        (Speech::Token, ("RELAY__TOKEN_FILE", "/dev/null")),
    ] {
        let (report, log, workspace) = logged_in(speech, &[set]);
        let count = |key: &str| report[key].as_u64().expect("a number");
        assert_eq!((count("delivered"), count("failed"), count("barred")), (0, 0, 0), "{speech:?}: {report}");
        assert_eq!(count("waiting") + count("deferred"), 20, "{speech:?}: {report}");
        let held = report["incidents"].as_array().expect("a list").iter().any(|incident| incident["kind"] == "held");
        assert!(held, "{speech:?}: {report}");
        assert!(!log.contains("sasl_method="), "{log}");
        let suppressed = workspace.run(&["suppress", "list", "--json"]);
        assert_eq!(String::from_utf8_lossy(&suppressed.stdout).matches('@').count(), 0, "nobody is suppressed");
    }
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
    for (kind, verified) in [("right", "dane"), ("below", "dane"), ("plain", "none"), ("odd", "none")] {
        let (line, over) = (line(kind), format!("\"TLS_AES_256_GCM_SHA384\",\"{verified}\""));
        assert!(line.contains("delivered") && line.contains("\"TLSv1.3\"") && line.contains(&over), "{outcomes}");
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
    for (kind, verified) in [("good", "mta-sts"), ("testing", "none"), ("redirect", "none"), ("oldhost", "none")] {
        assert!(line(kind).contains("delivered") && line(kind).contains(&format!("\"{verified}\"")), "{outcomes}");
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
    // Exim keeps the word for the rest of a connection, so it may stand at more than the one that needs it.
    let (plain, utf8) = (log.matches(" P=esmtps ").count(), log.matches(" P=utf8esmtps ").count());
    assert!(plain + utf8 == 62 && utf8 >= 1, "{plain} and {utf8}: {log}");
    assert!(log.contains("X=TLS1.3:"), "{log}");
    assert!(log.lines().any(|line| line.contains(" <= ") && line.contains(" K ")), "none came by BDAT: {log}");
    assert!(exim.mailbox().contains("To: <jürgen@utf.example>"), "{}", exim.mailbox());
    let texts = messages.iter().map(|file| std::fs::read_to_string(file).expect("a message"));
    let report = texts.into_iter().find(|text| text.contains("Action: failed")).expect("Exim's report");
    let returned_to = report.lines().find_map(|line| line.strip_prefix("X-Rcpt-Args: <")?.split('@').next());
    let returned_to = returned_to.expect("where the report went");
    assert!(report.contains(&format!("Original-Envelope-ID: {returned_to}\n")), "{report}");
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
        // what it refused at the dot it has written down all the same
        let written = if options[1] == "." { 4 } else { 0 };
        assert!(sink.messages().len() <= written, "{options:?}");
    }
}

/// A host that knows nobody whose name starts with `unknown`.
const FUSSY: &str = "session = \"plain\"\n[personality.fussy]\n\
    fault = [{ at = \"to\", address = [\"unknown*\"], reply = \"550 5.1.1 <{recipient}>: user unknown\" }]\n\
    [domains]\n\"*\" = \"fussy\"\n";

/// So many know nobody, of so many.
const UNKNOWN: usize = 100;
const PEOPLE: usize = 2000;

pub fn late_bounces() {
    let mut workspace = Workspace::new();
    let (far, returns) = (free_port(), free_port());
    workspace.set("LISTENER__SMTP", format!("127.0.0.1:{returns}"));
    workspace.set("LISTENER__HOST_NAME", "bounce.example.com");
    // far fewer than the 20 that Postfix opens: the others wait for their turn, instead of coming again in five minutes
    workspace.set("LISTENER__CONNECTIONS_PER_CLIENT", 5);
    let known = (0..PEOPLE - UNKNOWN).map(|n| format!("reader{n}@people.example"));
    workspace.addresses(known.chain((0..UNKNOWN).map(|n| format!("unknown{n}@people.example"))));
    let (script, taken) = (workspace.scratch().join("fussy.toml"), workspace.scratch().join("taken"));
    std::fs::write(&script, FUSSY).expect("the script");
    let (script, save) = (script.display().to_string(), taken.display().to_string());
    let listen = format!("127.0.0.1:{far}");
    let _host = workspace.stay(&["sink", "--listen", &listen, "--script", &script, "--save", &save]);
    let door = Door::Hasty { domain: "people.example", returns: ("bounce.example.com", returns) };
    let postfix = Postfix::start(workspace.scratch(), &door, far);
    let _serve = workspace.stay(&["serve"]);
    wait_for("the host and the listener", || listens(far) && listens(returns));
    let report = workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", postfix.port)]);
    // The first reports may be home before this one is written.
    let count = |key: &str| report[key].as_u64().expect("a number") as usize;
    assert_eq!((count("delivered") + count("bounced_late"), count("attempts")), (PEOPLE, PEOPLE), "{report}");
    let late = || workspace.ask(&["report", "welcome"])["bounced_late"] == UNKNOWN;
    let unfinished = || {
        let log = postfix.log();
        let odd = |line: &&str| line.contains("status=deferred") || line.contains("warning") || line.contains("fatal");
        let lines: Vec<&str> = log.lines().filter(odd).collect();
        format!("{}\n{}", workspace.ask(&["report", "welcome"]), lines.join("\n"))
    };
    wait_or_tell("all reports", Duration::from_secs(120), late, unfinished);
    let kept = || std::fs::read_dir(&taken).into_iter().flatten().flatten().map(|entry| entry.path());
    wait_long("all messages", Duration::from_secs(120), || kept().count() == PEOPLE - UNKNOWN);

    let mut leavers = Vec::new();
    for file in kept().take(10) {
        let text = std::fs::read_to_string(file).expect("a message").replace("\r\n", "\n").replace("\n ", " ");
        let between = |open: &str, close: &str| {
            let rest = text.split_once(open).unwrap_or_else(|| panic!("no {open} in {text}")).1;
            rest.split_once(close).expect("an end").0.to_owned()
        };
        let (reader, address) = (between("\nTo: ", "\n"), between("<mailto:", "?"));
        let reader = reader.rsplit('<').next().expect("an address").trim_end_matches('>').to_owned();
        let wish = format!("From: {reader}\nTo: {address}\nSubject: unsubscribe\n\nplease");
        hand_in(postfix.port, &reader, &address, &wish);
        leavers.push(reader);
    }
    let status = |reader: &str| workspace.ask(&["contacts", "show", reader])["lists"][0]["status"].clone();
    wait_for("all wishes to leave", || leavers.iter().all(|reader| status(reader) == "unsubscribed"));

    let report = workspace.ask(&["report", "welcome"]);
    let figures = (&report["delivered"], &report["failed"], &report["bounced_late"]);
    let expected = [PEOPLE - UNKNOWN, UNKNOWN, UNKNOWN].map(Value::from);
    assert_eq!(figures, (&expected[0], &expected[1], &expected[2]), "{report}");
    assert_eq!(report["failures"][0]["class"], "hard.unknown_user", "{report}");
    assert_eq!(report["failures"][0]["count"], UNKNOWN, "{report}");
    let output = workspace.run(&["suppress", "list", "--limit", "5000"]);
    let suppressed = String::from_utf8(output.stdout).expect("text");
    let hard = suppressed.lines().filter(|line| line.split_whitespace().nth(1) == Some("hard")).count();
    assert_eq!(hard, UNKNOWN, "{suppressed}");
    assert_eq!((0..UNKNOWN).filter(|n| suppressed.contains(&format!("unknown{n}@people.example"))).count(), UNKNOWN);
    assert_eq!(suppressed.matches("reader").count(), 0, "{suppressed}");
    let stay = (0..PEOPLE - UNKNOWN).map(|n| format!("reader{n}@people.example"));
    let stayers: Vec<String> = stay.filter(|reader| !leavers.contains(reader)).take(20).collect();
    assert!(stayers.iter().all(|reader| status(reader) == "subscribed"), "the rest is untouched");
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

/// The lines of `mailshot.toml` for a mailbox of a user at Dovecot.
fn table(user: &str, protocol: &str, port: u16, password: &Path, more: &str) -> String {
    format!(
        "\n[[mailbox]]\nname = \"{user}\"\nprotocol = \"{protocol}\"\nhost = \"localhost\"\nport = {port}\n\
         user = \"{user}\"\npassword_file = \"{}\"\n{more}",
        password.display()
    )
}

/// What a mailbox holds beside reports about our mail: letters, and other people's reports. From the corpus where it is.
fn foreign(count: usize) -> Vec<String> {
    let corpus = std::env::var_os("MAILSHOT_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from);
    let files =
        std::fs::read_dir(corpus.join("bounces/open")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ending| ending == "eml")).collect();
    files.sort();
    println!("  {} of {count} foreign messages are from the corpus", files.len().min(count / 2));
    let texts = files.iter().take(count / 2).map(|file| {
        let raw = std::fs::read(file).expect("a message");
        String::from_utf8_lossy(&raw).into_owned()
    });
    let letter = |n| format!("From: friend{n}@example.org\nTo: me@example.com\nSubject: lunch {n}?\n\nat noon\n");
    let mut foreign: Vec<String> = texts.collect();
    foreign.extend((foreign.len()..count).map(letter));
    foreign
}

/// A report about a copy as one of several programs writes it.
fn report_of(kind: usize, back: &str) -> String {
    match kind % 4 {
        0 => delivery_report(back),
        1 => format!(
            "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: {back}\nSubject: failure notice\n\n\
             Hi. This is the qmail-send program at mx.example.\nI'm afraid I wasn't able to deliver your message.\n\n\
             <nobody@people.example>:\nSorry, no mailbox here by that name. (#5.1.1)\n"
        ),
        2 => format!(
            "Return-Path: <>\nX-Failed-Recipients: nobody@people.example\nFrom: Mail Delivery System <Mailer-Daemon@mx.example>\n\
             To: {back}\nSubject: Mail delivery failed: returning message to sender\n\n\
             This message was created automatically by mail delivery software.\n\nA message that you sent could not be \
             delivered to one or more of its\nrecipients. The following address(es) failed:\n\n  nobody@people.example\n    \
             550 5.1.1 unknown user\n"
        ),
        _ => format!(
            "Return-Path: <>\nFrom: postmaster@mx.example\nTo: {back}\nSubject: Unzustellbar: Neuigkeiten\n\n\
             Ihre Nachricht konnte nicht zugestellt werden:\n\nnobody@people.example\n\
             550 5.1.1 Empfaenger unbekannt\n"
        ),
    }
}

pub fn killed() {
    const COPIES: usize = 400;
    let mut workspace = Workspace::new();
    workspace.people(COPIES, &["people.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", sink.port)]);
    let sent = mail::read(workspace.scratch(), &workspace.keys(), &captured(&sink, COPIES));
    let mailboxes = Mailboxes::start(workspace.scratch());
    workspace.set("TLS_CA", mailboxes.authority.file.display());
    let password = workspace.scratch().join("password");
    std::fs::write(&password, "secret\n").expect("the password");
    let others = foreign(500);
    for (at, (user, protocol, port, more)) in
        [("anna", "imap", mailboxes.imaps, "processed = \"Done\"\n"), ("carl", "pop3", mailboxes.pop3s, "")]
            .into_iter()
            .enumerate()
    {
        // 200 reports, 50 of them twice, and 250 messages that are none of our business, mixed.
        let reports = sent[at * 200..at * 200 + 200].iter().enumerate();
        let mut inbox: Vec<String> = reports.map(|(kind, seen)| report_of(kind, &seen.sender)).collect();
        inbox.extend_from_within(..50);
        let letters = &others[at * 250..at * 250 + 250];
        let mixed = inbox.iter().zip(letters).flat_map(|(report, letter)| [report.clone(), letter.clone()]);
        mailboxes.fill(user, &mixed.collect::<Vec<_>>());
        workspace.configure(&table(user, protocol, port, &password, more));
    }
    let mut dice = fastrand::Rng::with_seed(5);
    let mut kills = 0;
    loop {
        let mut poll = workspace.begin(&["bounces", "poll"]);
        let end = Instant::now() + Duration::from_millis(dice.u64(100..500) + kills * 30);
        let ended = loop {
            match poll.try_wait().expect("its state") {
                Some(status) => break Some(status),
                None if Instant::now() >= end => break None,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        if ended.is_none() {
            poll.kill().expect("killed");
            poll.wait().expect("its end");
            kills += 1;
        }
        assert!(kills < 200, "it never comes to an end");
    }
    println!("  killed {kills} times");
    assert!(kills >= 3, "killed {kills} times: too fast to prove anything");
    let report = workspace.ask(&["report", "welcome"]);
    assert_eq!((&report["bounced_late"], &report["failed"]), (&Value::from(COPIES), &Value::from(COPIES)), "{report}");
    for reader in sent.iter().step_by(40).map(|seen| seen.recipient.as_str()) {
        let dossier = workspace.ask(&["contacts", "show", reader]);
        let events = dossier["events"].as_array().expect("events");
        let bounced = events.iter().filter(|event| event["kind"] == "bounced").count();
        assert_eq!((bounced, &dossier["suppression"]["reason"]), (1, &Value::from("hard")), "{dossier}");
    }
    let left = [mailboxes.names("anna", ""), mailboxes.names("carl", "")];
    assert_eq!(left.each_ref().map(Vec::len), [250, 250], "ordinary mail stays, reports go");
    assert_eq!(mailboxes.names("anna", ".Done").len(), 250, "moved, each once");
    assert!(left[0].iter().all(|name| !name.ends_with('S')), "IMAP marks nothing as seen");
}

pub fn imap() {
    let mut workspace = Workspace::new();
    workspace.people(6, &["people.example"]);
    let sink = SmtpSink::start(workspace.scratch());
    workspace.send(&["--via", &format!("smtp://127.0.0.1:{}", sink.port)]);
    let sent = mail::read(workspace.scratch(), &workspace.keys(), &captured(&sink, 6));
    let report = |at: usize| report_of(at, &sent[at].sender);
    let mailboxes = Mailboxes::able(workspace.scratch(), Some("IMAP4rev1 UIDPLUS IDLE"));
    workspace.set("TLS_CA", mailboxes.authority.file.display());
    let password = workspace.scratch().join("password");
    std::fs::write(&password, "secret\n").expect("the password");
    let letter = "From: friend@example.org\nTo: me@example.com\nSubject: lunch?\n\nat noon\n".to_owned();
    // Somebody else has marked a letter as deleted, and one of our reports as seen.
    mailboxes.drop_in("dora", "cur/1699.M1.host:2,T", &letter);
    mailboxes.drop_in("dora", "cur/1699.M2.host:2,S", &report(0));
    mailboxes.fill("dora", &[report(1), letter.clone(), report(2)]);
    workspace.configure(&table("dora", "imap", mailboxes.imaps, &password, "processed = \"Done\"\nevery = \"1h\"\n"));
    let poll = || String::from_utf8(workspace.run(&["bounces", "poll", "--json"]).stdout).expect("JSON");
    let late = || workspace.ask(&["report", "welcome"])["bounced_late"].clone();
    let first = poll();
    assert!(first.contains("\"taken\":3,\"foreign\":2"), "{first}");
    let inbox = mailboxes.names("dora", "");
    assert_eq!(inbox.len(), 2, "copied and expunged by UID alone: {inbox:?}");
    assert!(inbox.iter().any(|name| name.ends_with('T')), "what others deleted is theirs to expunge: {inbox:?}");
    assert_eq!((mailboxes.names("dora", ".Done").len(), late()), (3, Value::from(3)));
    // New numbers: all is looked at again, and nothing counts twice.
    mailboxes.renumber("dora");
    mailboxes.drop_in("dora", "new/1701.M1.host", &report(0));
    let again = poll();
    assert!(again.contains("\"taken\":1,\"foreign\":2"), "{again}");
    assert_eq!(late(), Value::from(3));
    // `serve` is told of what comes, though the mailbox is due in an hour only.
    let _serve = workspace.stay(&["serve"]);
    std::thread::sleep(Duration::from_secs(2));
    for at in [3, 4] {
        mailboxes.drop_in("dora", &format!("new/170{at}.M{at}.host"), &report(at));
        wait_for("news of a report", || late() == (at + 1));
    }
}
