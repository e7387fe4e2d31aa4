//! Plans over a real record in memory.

use serde_json::Map;

use super::*;
use crate::audience::chosen_by;
use crate::base::{CampaignName, LaunchId};
use crate::mail::{Class, Outcome};
use crate::store::{
    BarsNobody, LaunchOptions, NewContact, NewLaunch, OnConflict, SuppressionRow, Threads, Visit, Visitor,
};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);
const DAY: Span = Span::secs(86_400);

async fn store(lists: &[(&str, &[(&str, u8)])]) -> (Store, Vec<ListId>) {
    let store = Store::open("sqlite::memory:", std::path::Path::new("."), Threads::Inline).unwrap();
    let mut ids = Vec::new();
    for (list, people) in lists {
        let id = store.make_list((*list).to_owned(), NOW).await.unwrap();
        let contact = |(address, bucket): &(&str, u8)| NewContact {
            address: Address::parse(address).unwrap(),
            name: String::new(),
            fields: Map::new(),
            bucket: *bucket,
        };
        let import = store.begin_import("people.csv".into(), id, None, NOW).await.unwrap();
        store.import_batch(people.iter().map(contact).collect(), id, import, OnConflict::Fill, NOW).await.unwrap();
        ids.push(id);
    }
    (store, ids)
}

async fn launch(store: &Store, lists: Vec<ListId>, options: LaunchOptions) -> LaunchRow {
    let campaign = CampaignName::parse("welcome").unwrap();
    let edition = store.put_edition([1; 32], &campaign, b"{}".to_vec(), NOW).await.unwrap();
    let (kind, in_doubt) = (LaunchKind::Campaign, Default::default());
    let new = NewLaunch { campaign, kind, edition, in_doubt, options, lists };
    let id: LaunchId = store.create_launch(new, NOW).await.unwrap();
    store.launch(id).unwrap().unwrap()
}

async fn suppress(store: &Store, address: &str) {
    let row = SuppressionRow { address: address.into(), reason: Reason::Complaint, since: NOW, detail: String::new() };
    store.suppress(vec![row]).await.unwrap();
}

/// Plans and records everything, two people at a time; gives the domains of the envelopes in order.
async fn run(store: &Store, plan: &mut Plan) -> Vec<String> {
    let mut planned = Vec::new();
    for bucket in 0..BUCKETS {
        while let Some(step) = plan.next(store, bucket, 2, NOW).unwrap() {
            store.record_batch(plan.launch.id, step.position, step.rows, NOW).await.unwrap();
            planned.extend(step.envelopes.iter().map(|(domain, _)| domain.to_string()));
        }
    }
    assert!(plan.is_done());
    planned
}

#[tokio::test]
async fn everybody_is_planned_once_whatever_lists_they_are_on() {
    let news: &[_] = &[("a@one.example", 0), ("b@two.example", 1), ("c@one.example", 0), ("d@one.example", 0)];
    let staff: &[_] = &[("c@one.example", 0), ("e@three.example", 63), ("f@one.example", 0)];
    let (store, lists) = store(&[("news", news), ("staff", staff)]).await;
    suppress(&store, "d@one.example").await;
    let launch = launch(&store, lists, LaunchOptions::default()).await;
    let mut plan = Plan::resume(launch.clone(), 0, DAY, |_| None).unwrap();
    let planned = run(&store, &mut plan).await;
    assert_eq!(planned, ["one.example", "one.example", "one.example", "two.example", "three.example"]);
    assert_eq!(store.planned(launch.id).unwrap(), (6, 5));
}

#[tokio::test]
async fn a_batch_that_was_recorded_but_not_admitted_is_made_again_and_counted_once() {
    let news: &[_] = &[("a@one.example", 0), ("b@one.example", 0), ("c@one.example", 0), ("d@one.example", 0)];
    let (store, lists) = store(&[("news", news)]).await;
    let launch = launch(&store, lists, LaunchOptions { limit: Some(3), ..LaunchOptions::default() }).await;
    let mut plan = Plan::resume(launch.clone(), 0, DAY, |_| None).unwrap();
    let lost = plan.next(&store, 0, 2, NOW).unwrap().unwrap();
    store.record_batch(launch.id, lost.position, lost.rows.clone(), NOW).await.unwrap();

    let on_road = store.planned(launch.id).unwrap().1;
    let mut again = Plan::resume(launch.clone(), on_road, DAY, |_| None).unwrap();
    assert_eq!(again.next(&store, 0, 2, NOW).unwrap().unwrap(), lost);
    let rest = again.next(&store, 0, 2, NOW).unwrap().unwrap();
    assert_eq!(rest.envelopes.len(), 1, "the limit of three holds over the restart");
    store.record_batch(launch.id, rest.position, rest.rows.clone(), NOW).await.unwrap();
    let mut later = Plan::resume(launch, 3, DAY, |bucket| (bucket == 0).then_some(rest.cursor)).unwrap();
    assert_eq!(run(&store, &mut later).await, Vec::<String>::new());
}

#[tokio::test]
async fn only_one_domain_is_planned_when_the_launch_says_so() {
    let news: &[_] = &[("a@one.example", 0), ("b@two.example", 0)];
    let (store, lists) = store(&[("news", news)]).await;
    let options = LaunchOptions { only_domain: Some("Two.example".into()), ..LaunchOptions::default() };
    let launch = launch(&store, lists, options).await;
    let mut plan = Plan::resume(launch.clone(), 0, DAY, |_| None).unwrap();
    assert_eq!(run(&store, &mut plan).await, ["two.example"]);
    assert_eq!(store.planned(launch.id).unwrap(), (1, 1));
}

#[tokio::test]
async fn envelopes_are_due_at_once_and_expire() {
    let (store, lists) = store(&[("news", &[("a@one.example", 5)])]).await;
    let launch = launch(&store, lists, LaunchOptions::default()).await;
    let step = Plan::resume(launch.clone(), 0, DAY, |_| None).unwrap().next(&store, 5, 9, NOW).unwrap().unwrap();
    let (_, envelope) = &step.envelopes[0];
    assert_eq!((envelope.id.launch(), envelope.edition, envelope.lane), (launch.id, launch.edition, Lane::Bulk));
    assert_eq!((envelope.due, envelope.expires, envelope.date), (NOW, NOW + DAY.duration(), None));
    assert_eq!(Cursor::from_bytes(&step.cursor.to_bytes()), Some(step.cursor));
}

#[tokio::test]
async fn a_survey_counts_what_a_plan_would_do() {
    let news: &[_] = &[("a@one.example", 0), ("b@two.example", 1), ("c@one.example", 0), ("d@three.example", 0)];
    let (store, lists) = store(&[("news", news), ("staff", &[("a@one.example", 0)])]).await;
    suppress(&store, "b@two.example").await;
    let meant = Meant { lists, condition: None };
    let survey = Survey::take(&store, &meant, None, 1, NOW).unwrap();
    assert_eq!((survey.members, survey.recipients, survey.elsewhere), (4, 3, 1));
    assert_eq!(survey.barred, [Left { reason: Reason::Complaint, count: 1 }]);
    assert_eq!(survey.domains, [Share { domain: "one.example".into(), count: 2 }]);
    let only = Domain::parse("three.example").unwrap();
    assert_eq!(Survey::take(&store, &meant, Some(&only), 9, NOW).unwrap().recipients, 1);
}

#[tokio::test]
async fn a_segment_leaves_out_whom_it_does_not_choose_but_nobody_who_is_on_record() {
    let news: &[_] = &[("a@one.example", 5), ("b@two.example", 5), ("c@three.example", 5), ("d@two.example", 5)];
    let (store, lists) = store(&[("news", news), ("vip", &[("c@three.example", 5)])]).await;
    let options = LaunchOptions {
        segment: Some("domain = 'two.example' or on_list('vip')".into()),
        exclude: Some("email starts with 'd'".into()),
        ..LaunchOptions::default()
    };
    let meant = Meant { lists: lists.clone(), condition: chosen_by(&options).unwrap() };
    let survey = Survey::take(&store, &meant, None, 9, NOW).unwrap();
    assert_eq!((survey.members, survey.outside, survey.recipients), (4, 2, 2));
    let launch = launch(&store, lists, options).await;
    assert_eq!(store.unplanned(launch.id, None, meant.condition.as_ref(), NOW).unwrap(), 2);

    // recorded, and stopped before it was admitted; meanwhile c has left the list by which it was chosen
    let mut plan = Plan::resume(launch.clone(), 0, DAY, |_| None).unwrap();
    let step = plan.next(&store, 5, 9, NOW).unwrap().unwrap();
    store.record_batch(launch.id, step.position, step.rows, NOW).await.unwrap();
    let c = store.contacts(None, ContactId(0), 9).unwrap()[2].id;
    let vip = launch.lists.last().copied().unwrap();
    store.leave(EnvelopeId::new(launch.id, c), vec![vip], NOW).await.unwrap();
    let mut again = Plan::resume(launch, 2, DAY, |_| None).unwrap();
    assert_eq!(run(&store, &mut again).await, ["two.example", "three.example"]);
}

#[tokio::test]
async fn a_launch_whose_segment_cannot_be_read_plans_nobody() {
    let (store, lists) = store(&[("news", &[("a@one.example", 5)])]).await;
    let options = LaunchOptions { segment: Some("born after 1990".into()), ..LaunchOptions::default() };
    let launch = launch(&store, lists, options).await;
    assert!(Plan::resume(launch, 0, DAY, |_| None).is_err());
}

#[tokio::test]
async fn the_most_engaged_are_planned_first_and_nobody_twice_or_never() {
    let news: &[_] = &[("cold@a.example", 0), ("old@b.example", 0), ("reader@c.example", 0), ("got@d.example", 0)];
    let staff: &[_] = &[("reader@c.example", 0), ("fan@e.example", 0)];
    let (store, lists) = store(&[("news", news), ("staff", staff)]).await;
    let before = launch(&store, lists.clone(), LaunchOptions::default()).await;
    let mut plan = Plan::resume(before.clone(), 0, DAY, |_| None).unwrap();
    run(&store, &mut plan).await;
    let rows = store.copies(before.id, ContactId(0), 10).unwrap();
    let contact = |name: &str| rows.iter().find(|row| row.address.starts_with(name)).unwrap().contact;
    let copy = |name| EnvelopeId::new(before.id, contact(name));
    let day = DAY.duration();
    let delivered = |(name, ago)| Outcome {
        envelope: copy(name),
        state: Standing::Delivered,
        class: Class::Delivered,
        code: Some(250),
        enhanced: None,
        stage: None,
        text: String::new(),
        host: None,
        site: None,
        channel: None,
        tries: 1,
        doubtful: 0,
        at: NOW - day * ago,
    };
    let all = [("old", 100), ("reader", 100), ("got", 10), ("fan", 100)].map(delivered).to_vec();
    store.settle(1, all, std::sync::Arc::new(BarsNobody)).await.unwrap();
    for (name, ago) in [("old", 80), ("reader", 40), ("fan", 3)] {
        let visit = Visit { copy: copy(name), link: Some(1), visitor: Visitor::Person, at: NOW - day * ago };
        store.record_visits(vec![visit]).await.unwrap();
    }

    let options = LaunchOptions { engaged_first: true, ..LaunchOptions::default() };
    let campaign = CampaignName::parse("next").unwrap();
    let new = NewLaunch {
        campaign,
        kind: LaunchKind::Campaign,
        edition: before.edition,
        in_doubt: Default::default(),
        options,
        lists,
    };
    let id = store.create_launch(new, NOW).await.unwrap();
    let row = store.launch(id).unwrap().unwrap();
    let mut plan = Plan::resume(row, 0, DAY, |_| None).unwrap();
    let planned = run(&store, &mut plan).await;
    assert_eq!(planned, ["e.example", "c.example", "b.example", "d.example", "a.example"]);
}
