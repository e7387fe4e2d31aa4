//! Reports on a record in memory.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::base::{Address, ContactId, EnvelopeId, ListId};
use crate::mail::{EnhancedCode, InDoubt, Outcome, Stage};
use crate::outcome::Policy;
use crate::store::{
    LateBounce, LaunchKind, LaunchOptions, NewContact, NewLaunch, OnConflict, PlannedRow, Reason, SuppressionRow,
    Threads,
};

const START: Timestamp = Timestamp::from_ms(1_795_000_000_000);

/// A launch to lists, not on record yet.
async fn new_launch(store: &Store, limit: Option<u64>, lists: Vec<ListId>) -> NewLaunch {
    let campaign = CampaignName::parse("welcome").unwrap();
    let edition = store.put_edition([0xab; 32], &campaign, b"{}".to_vec(), START).await.unwrap();
    NewLaunch {
        campaign,
        kind: LaunchKind::Campaign,
        edition,
        in_doubt: InDoubt::Resend,
        options: LaunchOptions { limit, ..LaunchOptions::default() },
        lists,
    }
}

/// A copy that was just planned.
fn waiting(contact: u32) -> PlannedRow {
    PlannedRow { contact: ContactId(contact), standing: Standing::Waiting, barred: None, site: "example.com".into() }
}

/// A launch to `people`, all planned under one site.
async fn launched(people: u32) -> (Store, LaunchId) {
    let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
    let new = new_launch(&store, None, vec![]).await;
    let launch = store.create_launch_to(new, (1..=people).map(waiting).collect(), START).await.unwrap();
    (store, launch)
}

fn outcome(launch: LaunchId, contact: u32, state: Standing, class: Class, text: &str) -> Outcome {
    Outcome {
        envelope: EnvelopeId::new(launch, ContactId(contact)),
        state,
        class,
        code: (state == Standing::Failed).then_some(550),
        enhanced: (state == Standing::Failed).then_some(EnhancedCode(5, 1, 1)),
        stage: Some(Stage::To),
        text: text.into(),
        host: None,
        site: Some(if contact.is_multiple_of(2) { "gmail" } else { "example.org" }.into()),
        channel: None,
        tries: 2,
        doubtful: u8::from(contact == 1),
        at: START + Duration::from_secs(u64::from(contact)),
    }
}

async fn settled(outcomes: impl FnOnce(LaunchId) -> Vec<Outcome>) -> (Store, LaunchId) {
    let (store, launch) = launched(10).await;
    store.settle(1, outcomes(launch), Arc::new(Policy::default())).await.unwrap();
    (store, launch)
}

/// Six delivered, one of which bounced later; one each deferred, failed and barred; one waiting.
async fn mixed() -> (Store, LaunchId) {
    let (store, launch) = settled(|launch| {
        let mut outcomes: Vec<_> =
            (1..=6).map(|n| outcome(launch, n, Standing::Delivered, Class::Delivered, "ok")).collect();
        outcomes.push(outcome(launch, 7, Standing::Deferred, Class::SoftGreylist, "later"));
        outcomes.push(outcome(launch, 8, Standing::Failed, Class::HardUnknownUser, "<b>nobody</b> \"here\" \x1b[31m"));
        outcomes.push(outcome(launch, 9, Standing::Barred, Class::Unsubscribe, "unsubscribed"));
        outcomes
    })
    .await;
    let bounce = LateBounce {
        copy: EnvelopeId::new(launch, ContactId(6)),
        class: Class::SoftQuota,
        code: None,
        enhanced: None,
        text: "full".into(),
        at: START + Duration::from_secs(86_400),
    };
    store.bounced_late(bounce, Arc::new(Policy::default())).await.unwrap();
    (store, launch)
}

#[tokio::test]
async fn who_is_not_planned_yet_is_counted_whoever_is_suppressed_after_being_planned() {
    for (limit, recipients) in [(None, 10), (Some(5), 5)] {
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let list = store.make_list("news".to_owned(), START).await.unwrap();
        let import = store.begin_import("people.csv".into(), list, None, START).await.unwrap();
        let person = |number| NewContact {
            address: Address::parse(&format!("p{number}@example.com")).unwrap(),
            name: String::new(),
            fields: serde_json::Map::new(),
            bucket: 0,
        };
        let people = (1..=10).map(person).collect();
        store.import_batch(people, list, import, OnConflict::Fill, START).await.unwrap();
        let (new, rows) = (new_launch(&store, limit, vec![list]).await, (1..=4).map(waiting).collect());
        let launch = store.create_launch_to(new, rows, START).await.unwrap();
        let complaint = SuppressionRow {
            address: "p1@example.com".into(),
            reason: Reason::Complaint,
            detail: String::new(),
            since: START,
        };
        store.suppress(vec![complaint]).await.unwrap();
        let counts = whole_report(&store, launch, START).unwrap().unwrap().counts;
        assert_eq!((counts.recipients, counts.waiting), (recipients, recipients));
    }
}

#[tokio::test]
async fn the_json_is_the_promised_object_and_its_sums_hold() {
    let (store, launch) = mixed().await;
    let report = report(&store, launch).unwrap().unwrap();
    let json = serde_json::to_value(&report).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let promised = "attempts barred bounced_late bounces by_site campaign cancelled clicked complained deferred delivered \
                    edition failed failures finished in_doubt incidents links opened possible_doubles rate recipients seconds \
                    skipped started unsubscribed waiting";
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, promised.split_whitespace().collect::<Vec<_>>());
    assert_eq!(json["started"], "2026-11-18T11:06:40.000Z");
    assert_eq!(json["finished"], serde_json::Value::Null);
    assert_eq!((json["seconds"].as_f64(), json["rate"].as_f64()), (Some(9.0), Some(0.56)));
    let counts = report.counts;
    assert_eq!((counts.delivered, counts.deferred, counts.failed, counts.bounced_late), (5, 1, 2, 1));
    assert_eq!((counts.possible_doubles, counts.attempts), (1, 18));
    let sum =
        |c: &Counts| c.waiting + c.delivered + c.deferred + c.failed + c.barred + c.skipped + c.cancelled + c.in_doubt;
    assert_eq!((sum(&counts), counts.recipients), (10, 10));
    assert_eq!(report.by_site.iter().map(|row| row.counts.recipients).sum::<u64>(), 10);
    assert!(report.by_site.iter().all(|row| sum(&row.counts) == row.counts.recipients));
    assert_eq!(json["by_site"][0]["site"], "example.org");
    let failures: Vec<_> = report.failures.iter().map(|row| (row.class.word(), row.count, &*row.sample)).collect();
    assert_eq!(failures[0], ("hard.unknown_user", 1, "550 5.1.1 <b>nobody</b> \"here\"  [31m"));
    assert_eq!(failures[1], ("soft.quota", 1, "full"));
    assert_eq!((report.bounces.len(), report.bounces[0].class.word(), report.bounces[0].count), (1, "soft.quota", 1));
}

#[tokio::test]
async fn what_a_host_wrote_cannot_steer_page_or_terminal() {
    let (store, launch) = mixed().await;
    let report = report(&store, launch).unwrap().unwrap();
    let page = html(&store, launch, &report).unwrap();
    assert!(page.contains("&lt;b&gt;nobody&lt;/b&gt;") && !page.contains("<b>nobody"));
    for forbidden in ["<script", "http://", "https://", "url(", "\x1b"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(!plain(&report, Ink::Black).contains('\x1b'));
}

#[tokio::test]
async fn what_happened_on_the_road_stands_in_every_form_of_the_report() {
    let (store, launch) = mixed().await;
    let stop = |kind, site: Option<&str>, launch, text: &str| Notice {
        kind,
        site: site.map(Into::into),
        source: Some("east".into()),
        launch,
        text: text.into(),
        until: None,
        at: START,
    };
    for notice in [
        stop(NoticeKind::Breaker, Some("gmail"), Some(launch), "6 % hard bounces <at> gmail"),
        stop(NoticeKind::Paused, Some("gmail"), None, "421 slow down"),
        stop(NoticeKind::Paused, Some("gmail"), None, "421 slow down"),
        stop(NoticeKind::Paused, Some("nowhere"), None, "not this launch's"),
        stop(NoticeKind::Stopped, None, None, "the disk is full"),
    ] {
        store.note_incident(notice).await.unwrap();
    }
    let report = report(&store, launch).unwrap().unwrap();
    let json = serde_json::to_value(&report).unwrap();
    let kinds: Vec<_> = json["incidents"].as_array().unwrap().iter().map(|i| (&i["kind"], &i["count"])).collect();
    assert_eq!(json!(kinds), json!([["breaker", 1], ["paused", 2], ["stopped", 1]]));
    assert_eq!(json["incidents"][0]["site"], "gmail");
    let page = html(&store, launch, &report).unwrap();
    for words in
        ["What happened on the road", "<b>breaker</b> gmail from east", "6 % hard bounces &lt;at&gt;", "2 times from"]
    {
        assert!(page.contains(words), "`{words}` is missing: {page}");
    }
    assert!(!page.contains("not this launch"));
    let via = LaunchOptions { via: Some("smtp://relay.example".into()), ..LaunchOptions::default() };
    let new = NewLaunch {
        campaign: CampaignName::parse("by-relay").unwrap(),
        kind: LaunchKind::Campaign,
        edition: store.launch(launch).unwrap().unwrap().edition,
        in_doubt: InDoubt::Resend,
        options: via,
        lists: vec![],
    };
    let relayed = store.create_launch(new, START).await.unwrap();
    store.note_incident(stop(NoticeKind::Held, Some("smtp://relay.example:25"), None, "535 no")).await.unwrap();
    let told = super::report(&store, relayed).unwrap().unwrap().incidents;
    let kinds: Vec<NoticeKind> = told.iter().map(|incident| incident.kind).collect();
    assert_eq!(kinds, [NoticeKind::Stopped, NoticeKind::Held], "the relay's, and what concerns everybody");
    assert!(plain(&report, Ink::Black).contains("stopped"));
}

#[tokio::test]
async fn a_launch_without_an_outcome_has_a_report_too() {
    let (store, launch) = launched(3).await;
    let report = report(&store, launch).unwrap().unwrap();
    assert_eq!((report.counts.waiting, report.seconds, report.rate), (3, 0.0, 0.0));
    assert!(html(&store, launch, &report).unwrap().contains("3 not tried yet"));
    assert!(plain(&report, Ink::Black).contains("waiting"));
    assert!(super::report(&store, LaunchId(99)).unwrap().is_none());
}

#[tokio::test]
async fn people_read_aligned_figures_and_why() {
    let (store, launch) = mixed().await;
    let text = plain(&report(&store, launch).unwrap().unwrap(), Ink::Black);
    for line in [
        "welcome · under way · edition abababab",
        "  recipients  10",
        "  delivered    5   50.0 %  ███████████████",
        "  gmail                 4          2         0       2      0",
        "  1  soft.quota         The mailbox is full.",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in:\n{text}");
    }
}

#[test]
fn shares_never_round_to_all_or_nothing() {
    let cases = [
        (0, 0, "0 %"),
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (999_999, 1_000_000, ">99.9 %"),
        (1, 1_000_000, "<0.1 %"),
        (1, 3, "33.3 %"),
    ];
    for (part, whole, expected) in cases {
        assert_eq!(percent(part, whole), expected);
    }
}

#[test]
fn numbers_and_times_are_written_for_people() {
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    let spans = [0.25, 42.0, 75.0, 3725.0, 90_000.0].map(lasted);
    assert_eq!(spans, ["0.2 s", "42 s", "1 min 15 s", "1 h 2 min", "1 d 1 h"]);
}

#[tokio::test]
async fn only_what_was_sent_again_counts_as_a_possible_double() {
    let lost_once = |launch, contact, state, class| {
        let (text, doubtful) = ("the answer was lost", 1);
        Outcome { doubtful, ..outcome(launch, contact, state, class, text) }
    };
    for (state, class, again) in [
        (Standing::Delivered, Class::Delivered, 1),
        (Standing::InDoubt, Class::SoftSystem, 0),
        (Standing::Deferred, Class::SoftSystem, 0),
        (Standing::Barred, Class::Unsubscribe, 0),
        (Standing::Cancelled, Class::Undetermined, 0),
        (Standing::Failed, Class::HardUnknownUser, 0),
    ] {
        let (store, launch) = settled(|launch| vec![lost_once(launch, 2, state, class)]).await;
        let counts = report(&store, launch).unwrap().unwrap().counts;
        assert_eq!(counts.possible_doubles, again, "{state:?}");
        let row = store.copy(EnvelopeId::new(launch, ContactId(2))).unwrap().unwrap();
        assert_eq!((row.doubtful, u64::from(row.again)), (1, again), "{state:?}");
    }
    let bounce = |launch| LateBounce {
        copy: EnvelopeId::new(launch, ContactId(2)),
        class: Class::HardUnknownUser,
        code: None,
        enhanced: None,
        text: "gone".into(),
        at: START + Duration::from_secs(86_400),
    };
    let (store, launch) = settled(|launch| vec![lost_once(launch, 2, Standing::Deferred, Class::SoftSystem)]).await;
    let sent = lost_once(launch, 2, Standing::Delivered, Class::Delivered);
    store.settle(2, vec![sent], Arc::new(Policy::default())).await.unwrap();
    store.bounced_late(bounce(launch), Arc::new(Policy::default())).await.unwrap();
    let counts = report(&store, launch).unwrap().unwrap().counts;
    assert_eq!((counts.bounced_late, counts.possible_doubles), (1, 1), "taken twice, for all we know, and bounced");
    // of one in doubt the bounce is the answer that was missed, whichever is on record first
    for bounce_first in [false, true] {
        let (store, launch) = settled(|_| Vec::new()).await;
        let held = vec![lost_once(launch, 2, Standing::InDoubt, Class::SoftSystem)];
        if bounce_first {
            store.bounced_late(bounce(launch), Arc::new(Policy::default())).await.unwrap();
            store.settle(2, held, Arc::new(Policy::default())).await.unwrap();
        } else {
            store.settle(2, held, Arc::new(Policy::default())).await.unwrap();
            store.bounced_late(bounce(launch), Arc::new(Policy::default())).await.unwrap();
        }
        let counts = report(&store, launch).unwrap().unwrap().counts;
        assert_eq!((counts.bounced_late, counts.possible_doubles), (1, 0), "{bounce_first}: sent once");
    }
    // a bounce that comes before the second sending is none
    let (store, launch) = settled(|launch| vec![lost_once(launch, 2, Standing::Deferred, Class::SoftSystem)]).await;
    store.bounced_late(bounce(launch), Arc::new(Policy::default())).await.unwrap();
    let barred = lost_once(launch, 2, Standing::Barred, Class::HardUnknownUser);
    for outcome in [None, Some(barred)] {
        store.settle(2, outcome.into_iter().collect(), Arc::new(Policy::default())).await.unwrap();
        assert_eq!(report(&store, launch).unwrap().unwrap().counts.possible_doubles, 0);
    }
}
