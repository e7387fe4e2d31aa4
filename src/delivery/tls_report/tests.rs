//! Reports as their readers get them: read back by a library that is not ours.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use mail_auth::report::tlsrpt::{PolicyType, ResultType, TlsReport};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;
use crate::base::{Domain, Span};
use crate::delivery::sites::{resume_on_record, suspend_on_record};
use crate::mail::InDoubt;
use crate::queue::{MemoryLedger, Opening};
use crate::sign::{Algorithm, create_key};
use crate::store::{Reason, SuppressionRow, Threads};
use crate::world::{NetTable, SeededDice, SimulatedClock, Stream, Zone};

const DAY: i64 = 20_775;

fn named(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn row(domain: &str, result: &str, sessions: u64) -> TlsSessionRow {
    TlsSessionRow {
        day: DAY,
        domain: domain.to_owned(),
        policy: json!({"policy-type": "no-policy-found", "policy-domain": domain}).to_string().into(),
        host: "mx.example.org".to_owned(),
        source: "192.0.2.1".to_owned(),
        result: result.to_owned(),
        sessions,
    }
}

/// A mail host that takes everything, or nobody; keeps what it was sent.
fn host(kept: &Arc<Mutex<Vec<u8>>>, takes: bool) -> NetTable {
    let kept = kept.clone();
    let at = "198.51.100.7:25".parse().unwrap();
    NetTable::default().host(at, move |_| {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let kept = kept.clone();
        tokio::spawn(async move {
            let mut far = BufReader::new(far);
            let _ = far.write_all(b"220 mx\r\n").await;
            let (mut in_message, mut line) = (false, Vec::new());
            while far.read_until(b'\n', &mut line).await.is_ok_and(|octets| octets > 0) {
                let said = std::mem::take(&mut line);
                let answer: &[u8] = match &said[..] {
                    b".\r\n" if in_message => {
                        in_message = false;
                        b"250 ok\r\n"
                    }
                    _ if in_message => {
                        kept.lock().unwrap().extend_from_slice(said.strip_prefix(b".").unwrap_or(&said));
                        continue;
                    }
                    b"DATA\r\n" => {
                        in_message = true;
                        b"354 go\r\n"
                    }
                    said if said.starts_with(b"RCPT") && !takes => b"450 4.2.1 not now\r\n",
                    _ => b"250 ok\r\n",
                };
                let _ = far.write_all(answer).await;
            }
        });
        async move { Ok(Box::new(near) as Box<dyn Stream>) }.boxed()
    })
}

/// Reports at ten o'clock of the day after, with a key for the domain they come from.
fn reports(zone: Zone, net: NetTable, after: Duration, keys: &Path) -> TlsReports {
    create_key(keys, &named("example.com"), "e1", Algorithm::Ed25519).unwrap();
    let mut settings = Settings::default();
    settings.tls_reports.from = Some("tls-reports@example.com".to_owned());
    let world = World {
        clock: Arc::new(SimulatedClock::starting(begin_of(DAY + 1) + after)),
        dns: Arc::new(zone),
        net: Arc::new(net),
        dice: Arc::new(SeededDice::new(1)),
    };
    let store = Store::open("sqlite::memory:", keys, Threads::Inline).unwrap();
    let opening = Opening {
        clock: world.clock.clone(),
        last_outcome: 0,
        in_doubt: Box::new(|_| InDoubt::Resend),
        bucket: |_| 0,
        held: BTreeSet::new(),
    };
    let (queue, keeper) = Queue::open(MemoryLedger::default(), opening).unwrap();
    tokio::spawn(keeper.run());
    TlsReports::new(&settings, &world, Keyring::open(keys, Span::secs(3600)).unwrap(), store, queue).unwrap()
}

fn asking() -> Zone {
    let reader: IpAddr = "198.51.100.7".parse().unwrap();
    Zone::default()
        .text("_smtp._tls.asks.example", "v=TLSRPTv1; rua=mailto:reports@reader.example")
        .mx(&named("reader.example"), 10, Some(&named("mx.reader.example")))
        .address(&named("mx.reader.example"), reader)
}

#[tokio::test(start_paused = true)]
async fn who_asks_gets_a_signed_report_that_others_can_read_and_who_does_not_is_forgotten() {
    let (keys, kept) = (tempfile::tempdir().unwrap(), Arc::default());
    let reports = reports(asking(), host(&kept, true), Duration::from_secs(3600), keys.path());
    let rows = vec![
        row("asks.example", "", 12),
        row("asks.example", "starttls-not-supported", 3),
        row("asks.example", "certificate-expired", 2),
        row("silent.example", "", 9),
    ];
    reports.store.add_tls_sessions(rows).await.unwrap();
    let round = reports.send_all(DAY + 1).await.unwrap();
    assert_eq!(round, Round { sent: 1, unwanted: 1, failed: 0, dropped: 0 });
    assert_eq!(reports.store.tls_days(DAY + 1, None, 9).unwrap(), [], "nothing is sent twice");
    let letter = kept.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&letter).into_owned();
    for words in [
        "DKIM-Signature: ",
        "TLS-Report-Domain: asks.example\r\n",
        "TLS-Report-Submitter: example.com\r\n",
        "Report Domain: asks.example Submitter: example.com",
        "report-type=\"tlsrpt\"",
        "example.com!asks.example!1794960000!1795046399.json.gz",
    ] {
        assert!(text.contains(words), "`{words}` is missing: {text}");
    }
    let read = TlsReport::parse_rfc5322(&letter, 1 << 20).unwrap();
    assert_eq!(read.organization_name.as_deref(), Some("example.com"));
    assert_eq!(read.contact_info.as_deref(), Some("tls-reports@example.com"));
    let [policy] = &read.policies[..] else { panic!("{read:?}") };
    assert_eq!(policy.policy.policy_type, PolicyType::NoPolicyFound);
    assert_eq!((policy.summary.total_success, policy.summary.total_failure), (12, 5));
    let failed: Vec<_> = policy.failure_details.iter().map(|d| (d.result_type, d.failed_session_count)).collect();
    assert_eq!(failed, [(ResultType::CertificateExpired, 2), (ResultType::StartTlsNotSupported, 3)]);
    assert_eq!(policy.failure_details[0].sending_mta_ip, Some("192.0.2.1".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_delivered_is_tried_again_for_a_day() {
    for (hours, expected) in
        [(5, Round { failed: 1, ..Round::default() }), (29, Round { dropped: 1, ..Round::default() })]
    {
        let (keys, kept) = (tempfile::tempdir().unwrap(), Arc::default());
        let reports = reports(asking(), host(&kept, false), Duration::from_secs(hours * 3600), keys.path());
        reports.store.add_tls_sessions(vec![row("asks.example", "", 1)]).await.unwrap();
        assert_eq!(reports.send_all(DAY + 1).await.unwrap(), expected);
        assert_eq!(reports.store.tls_days(DAY + 1, None, 9).unwrap().len(), expected.failed as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_barred_gets_none_and_what_stands_still_is_waited_for() {
    let (keys, kept) = (tempfile::tempdir().unwrap(), Arc::default());
    let reports = reports(asking(), host(&kept, true), Duration::from_secs(3600), keys.path());
    let clock = reports.world.clock.clone();
    reports.store.add_tls_sessions(vec![row("asks.example", "", 1)]).await.unwrap();
    suspend_on_record(&reports.queue, "reader.example", "by hand", clock.now()).await.unwrap();
    assert_eq!(reports.send_all(DAY + 1).await.unwrap(), Round { failed: 1, ..Round::default() });
    resume_on_record(&reports.queue, "reader.example").await.unwrap();
    let (address, reason) = ("Reports@reader.example".to_owned(), Reason::Complaint);
    let bar = SuppressionRow { address, reason, detail: String::new(), since: clock.now() };
    reports.store.suppress(vec![bar]).await.unwrap();
    assert_eq!(reports.send_all(DAY + 1).await.unwrap(), Round { unwanted: 1, ..Round::default() });
    assert_eq!(*kept.lock().unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn many_are_seen_to_at_once_and_no_domain_gets_more_than_some() {
    let (keys, kept) = (tempfile::tempdir().unwrap(), Arc::default());
    let (all, mut zone) = (LETTERS_MAX + 20, asking());
    let name = |number: u32| format!("d{number}.example");
    for number in 0..all {
        let record = "v=TLSRPTv1; rua=mailto:reports@reader.example";
        zone = zone.text(&format!("_smtp._tls.{}", name(number)), record);
    }
    let reports = reports(zone, host(&kept, true), Duration::from_secs(3600), keys.path());
    reports.store.add_tls_sessions((0..all).map(|number| row(&name(number), "", 1)).collect()).await.unwrap();
    let expected = Round { sent: LETTERS_MAX, failed: 20, ..Round::default() };
    assert_eq!(reports.send_all(DAY + 1).await.unwrap(), expected);
    assert_eq!(reports.send_all(DAY + 1).await.unwrap(), Round { sent: 20, ..Round::default() });
}

#[test]
fn places_are_those_of_the_one_record() {
    let check = |records: &[&str], expected: &[Place]| {
        let records: Vec<String> = records.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(places(&records), expected, "{records:?}");
    };
    let mail = |text: &str| Place::Mail(Address::parse(text).unwrap());
    let web = Place::Web("https://r.example/tls?x=1".to_owned());
    check(&["v=TLSRPTv1; rua=mailto:a@b.example,https://r.example/tls?x=1;"], &[mail("a@b.example"), web]);
    check(&["v=TLSRPTv1;rua=MAILTO:a%40b.example?subject=x , ftp://x.example"], &[mail("a@b.example")]);
    check(&["v=TLSRPTv1; rua=http://r.example/,file:///etc/passwd,mailto:a@b.example\r\nBcc: c@d.example"], &[]);
    check(&["v=spf1 -all", "v=TLSRPTv1; rua=mailto:a@b.example"], &[mail("a@b.example")]);
    check(&["v=TLSRPTv1; rua=mailto:a@b.example", "v=TLSRPTv1; rua=mailto:c@d.example"], &[]);
    check(&["v=TLSRPTv1", "v=TLSRPTv2; rua=mailto:a@b.example"], &[]);
    check(&[], &[]);
}
