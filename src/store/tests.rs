//! The record, on both ways of working.

use serde_json::json;

use super::*;
use crate::base::{Address, CampaignName, ContactId, EnvelopeId, LaunchId, ListId, Timestamp};
use crate::mail::{Channel, Class, InDoubt, Outcome, Standing};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn person(address: &str, fields: serde_json::Value) -> NewContact {
    let address = Address::parse(address).unwrap();
    NewContact { address, name: String::new(), fields: fields.as_object().unwrap().clone(), bucket: 7 }
}

async fn import(store: &Store, list: &str, people: Vec<NewContact>, on_conflict: OnConflict) -> ImportCounts {
    let list = store.make_list(list.to_owned(), NOW).await.unwrap();
    let import = store.begin_import("people.csv".into(), list, None, NOW).await.unwrap();
    let counts = store.import_batch(people, list, import, on_conflict, NOW).await.unwrap();
    store.finish_import(import, counts, NOW).await.unwrap();
    counts
}

async fn launch(store: &Store, lists: Vec<ListId>) -> LaunchId {
    let campaign = CampaignName::parse("welcome").unwrap();
    let edition = store.put_edition([1; 32], &campaign, b"{}".to_vec(), NOW).await.unwrap();
    let new = NewLaunch {
        campaign,
        kind: LaunchKind::Campaign,
        edition,
        in_doubt: InDoubt::Resend,
        options: LaunchOptions { limit: Some(10), ..LaunchOptions::default() },
        lists,
    };
    store.create_launch(new, NOW).await.unwrap()
}

fn outcome(envelope: EnvelopeId, state: Standing, class: Class) -> Outcome {
    Outcome {
        envelope,
        state,
        class,
        code: Some(550),
        enhanced: None,
        stage: None,
        text: "no such user".into(),
        host: None,
        site: Some("example.com".into()),
        channel: Some(Channel::Clear),
        tries: 1,
        doubtful: 0,
        at: NOW,
    }
}

/// Bars whoever a copy failed for.
struct BarsFailed;

impl Judge for BarsFailed {
    fn weigh(&self, finding: Finding) -> Weight {
        if finding.standing == Standing::Failed { Weight::Bars(Reason::Hard) } else { Weight::Nothing }
    }

    fn judge(&self, _: &[Mailing]) -> Option<Reason> {
        None
    }
}

/// Runs a test on a store with its own threads and on one without.
async fn on_both<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    let folder = tempfile::tempdir().unwrap();
    test(Store::open("sqlite:state/audience.db", folder.path(), Threads::Own).unwrap()).await;
    test(Store::open("sqlite::memory:", folder.path(), Threads::Inline).unwrap()).await;
}

#[tokio::test]
async fn an_import_run_twice_changes_nothing_and_brings_nobody_back() {
    on_both(|store| async move {
        let people = || vec![person("ann@example.com", json!({"city": "Bonn"})), person("bob@example.com", json!({}))];
        let first = import(&store, "news", people(), OnConflict::Fill).await;
        assert_eq!((first.added, first.joined), (2, 2));
        let ann = store.contact("ANN@example.com").unwrap().unwrap().id;
        let news = store.list("news").unwrap().unwrap();
        assert_eq!(store.leave(EnvelopeId::new(LaunchId(0), ann), vec![news], NOW).await, Ok(1));
        let again = import(&store, "news", people(), OnConflict::Fill).await;
        assert_eq!((again.added, again.unchanged, again.joined, again.left), (0, 2, 0, 1));
        assert_eq!(store.memberships(ann).unwrap()[0].status, MembershipStatus::Unsubscribed);
        assert_eq!(store.lists().unwrap()[0].subscribed, 1);
    })
    .await;
}

#[tokio::test]
async fn known_contacts_are_filled_overwritten_or_kept() {
    on_both(|store| async move {
        let give = |fields| vec![person("ann@example.com", fields)];
        import(&store, "news", give(json!({"city": "Bonn", "zip": ""})), OnConflict::Fill).await;
        let cases = [
            (OnConflict::Keep, json!({"city": "Ulm", "zip": "1"}), json!({"city": "Bonn", "zip": ""})),
            (OnConflict::Fill, json!({"city": "Ulm", "zip": "1"}), json!({"city": "Bonn", "zip": "1"})),
            (OnConflict::Overwrite, json!({"city": "Ulm", "zip": ""}), json!({"city": "Ulm", "zip": "1"})),
        ];
        for (on_conflict, new, expected) in cases {
            import(&store, "news", give(new), on_conflict).await;
            let fields = store.contact("ann@example.com").unwrap().unwrap().fields;
            assert_eq!(serde_json::Value::Object(fields), expected, "{on_conflict:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_look_sees_suppression_departure_and_pause_at_once() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let ann = store.contact("ann@example.com").unwrap().unwrap().id;
        let launch = launch(&store, vec![store.list("news").unwrap().unwrap()]).await;
        let copy = EnvelopeId::new(launch, ann);
        let look = store.look(copy).unwrap();
        assert_eq!((look.launch, look.suppressed, look.subscribed), (Some(LaunchState::Running), None, true));

        let complaint = SuppressionRow {
            address: "ann@example.com".into(),
            reason: Reason::Complaint,
            detail: String::new(),
            since: NOW,
        };
        store.suppress(vec![complaint]).await.unwrap();
        assert_eq!(store.look(copy).unwrap().suppressed, Some(Reason::Complaint));
        store.leave(copy, vec![store.list("news").unwrap().unwrap()], NOW).await.unwrap();
        assert!(!store.look(copy).unwrap().subscribed);
        store.move_launch(launch, &[LaunchState::Running], LaunchState::Paused, NOW).await.unwrap();
        assert_eq!(store.look(copy).unwrap().launch, Some(LaunchState::Paused));
    })
    .await;
}

#[tokio::test]
async fn a_contact_on_two_lists_is_planned_from_the_first() {
    on_both(|store| async move {
        import(&store, "a", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        import(&store, "b", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let lists = ["a", "b"].map(|name| store.list(name).unwrap().unwrap()).to_vec();
        let launch = launch(&store, lists).await;
        let after = ContactId(0);
        let page = |position| Page { launch, position, bucket: 7, after, most: 10, tier: None, condition: None };
        let first = store.candidates(page(0)).unwrap();
        assert_eq!(first[0].planned_from, None);
        let row = PlannedRow {
            contact: first[0].contact,
            standing: Standing::Waiting,
            barred: None,
            site: "example.com".into(),
        };
        store.record_batch(launch, 0, vec![row], NOW).await.unwrap();
        assert_eq!(store.candidates(page(1)).unwrap()[0].planned_from, Some(0));
        assert_eq!(store.planned(launch).unwrap(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_batch_of_outcomes_counts_once() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let launch = launch(&store, vec![]).await;
        let ann = store.contact("ann@example.com").unwrap().unwrap().id;
        let copy = EnvelopeId::new(launch, ann);
        let row = PlannedRow { contact: ann, standing: Standing::Waiting, barred: None, site: "example.com".into() };
        store.record_batch(launch, 0, vec![row], NOW).await.unwrap();
        let failed = outcome(copy, Standing::Failed, Class::HardUnknownUser);
        assert_eq!(store.settle(5, vec![failed], Arc::new(BarsFailed)).await.unwrap(), []);
        let again = outcome(copy, Standing::Waiting, Class::SoftQuota);
        assert_eq!(store.settle(5, vec![again], Arc::new(BarsFailed)).await.unwrap(), []);
        let figures = store.figures(launch).unwrap();
        assert_eq!((figures.len(), figures[0].standing, figures[0].copies), (1, Standing::Failed, 1));
        assert_eq!(store.last_outcome().unwrap(), 5);
        assert_eq!(store.unsettled(launch).unwrap(), 0);
        assert_eq!(store.copy(copy).unwrap().unwrap().class, Some(Class::HardUnknownUser));
        assert_eq!(store.copy(copy).unwrap().unwrap().channel, Some(Channel::Clear));
        let bar = store.suppression("ann@example.com").unwrap().unwrap();
        assert_eq!((bar.reason, &*bar.detail), (Reason::Hard, "hard.unknown_user in welcome: 550 no such user"));
    })
    .await;
}

#[tokio::test]
async fn a_campaign_is_launched_once() {
    on_both(|store| async move {
        let first = launch(&store, vec![]).await;
        let row = store.launch(first).unwrap().unwrap();
        assert_eq!((row.options.limit, row.state, row.planned), (Some(10), LaunchState::Running, false));
        let again = NewLaunch {
            campaign: row.campaign,
            kind: LaunchKind::Campaign,
            edition: row.edition,
            in_doubt: InDoubt::Hold,
            options: LaunchOptions::default(),
            lists: vec![],
        };
        assert_eq!(store.create_launch(again, NOW).await.unwrap(), first);
    })
    .await;
}

#[tokio::test]
async fn a_launch_with_its_copies_is_on_record_whole_or_not_at_all() {
    on_both(|store| async move {
        let edition = EditionRow { hash: [3; 32], frozen: Vec::new() };
        let campaign = CampaignName::parse("welcome").unwrap();
        let edition = store.put_edition(edition.hash, &campaign, edition.frozen, NOW).await.unwrap();
        let new = NewLaunch {
            campaign,
            kind: LaunchKind::Campaign,
            edition,
            in_doubt: InDoubt::Hold,
            options: LaunchOptions::default(),
            lists: vec![],
        };
        let site = Arc::<str>::from("example.com");
        let rows: Vec<PlannedRow> = (1..=70)
            .map(|contact| PlannedRow {
                contact: ContactId(contact),
                standing: Standing::Waiting,
                barred: None,
                site: site.clone(),
            })
            .collect();
        let launch = store.create_launch_to(new.clone(), rows.clone(), NOW).await.unwrap();
        assert_eq!(store.planned(launch), Ok((70, 70)));
        assert!(store.create_launch_to(new, rows, NOW).await.is_err(), "a campaign is launched once");
        assert_eq!(store.planned(LaunchId(launch.0 + 1)), Ok((0, 0)));
    })
    .await;
}

#[tokio::test]
async fn a_launch_moves_only_from_where_it_may() {
    on_both(|store| async move {
        use LaunchState::{Cancelled, Done, Paused, Running};
        let launch = launch(&store, vec![]).await;
        let state = |store: &Store| store.launch(launch).unwrap().unwrap().state;
        assert_eq!(store.move_launch(launch, &[Running, Paused], Cancelled, NOW).await, Ok(Some(Running)));
        for to in [Running, Paused, Done] {
            assert_eq!(store.move_launch(launch, &[Running, Paused], to, NOW).await, Ok(Some(Cancelled)));
            assert_eq!(state(&store), Cancelled);
        }
        assert_eq!(store.move_launch(LaunchId(99), &[Running], Done, NOW).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn who_is_erased_leaves_no_trace_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open("sqlite:a.db", folder.path(), Threads::Own).unwrap();
    import(&store, "news", vec![person("forgetme@example.com", json!({"city": "Oblivia"}))], OnConflict::Fill).await;
    assert!(store.erase("FORGETME@example.com".into(), vec![1, 2, 3], NOW).await.unwrap());
    assert_eq!(store.erased().unwrap(), [vec![1, 2, 3]]);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for word in ["forgetme", "Oblivia"] {
            assert_eq!(memchr::memmem::find(&bytes, word.as_bytes()), None);
        }
    }
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open("sqlite:a.db", folder.path(), Threads::Inline).unwrap());
    let db = rusqlite::Connection::open(folder.path().join("a.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    let refused = Store::open("sqlite:a.db", folder.path(), Threads::Own).err();
    assert!(matches!(refused, Some(Error::Newer { found: 99, .. })), "{refused:?}");
}

#[test]
fn a_file_that_is_no_database_is_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.db"), "x".repeat(5000)).unwrap();
    let refused = Store::open("sqlite:a.db", folder.path(), Threads::Own).err();
    assert!(matches!(refused, Some(Error::Corrupt { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_bounce_after_delivery_moves_the_copy_once_and_not_after_a_month() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let launch = launch(&store, vec![]).await;
        let ann = store.contact("ann@example.com").unwrap().unwrap().id;
        let copy = EnvelopeId::new(launch, ann);
        let bounce = |copy, days: u64| LateBounce {
            copy,
            class: Class::HardUnknownUser,
            code: None,
            enhanced: None,
            text: "gone".into(),
            at: NOW + std::time::Duration::from_secs(86_400 * days),
        };
        let tell = |copy, days| store.bounced_late(bounce(copy, days), Arc::new(BarsFailed));
        assert_eq!(tell(copy, 1).await, Ok(Late::Unknown), "never planned");
        let row = PlannedRow { contact: ann, standing: Standing::Waiting, barred: None, site: "example.com".into() };
        store.record_batch(launch, 0, vec![row], NOW).await.unwrap();
        let taken = outcome(copy, Standing::Delivered, Class::Delivered);
        store.settle(1, vec![taken], Arc::new(BarsFailed)).await.unwrap();
        assert_eq!(tell(copy, 31).await, Ok(Late::TooLate));
        assert_eq!(tell(copy, 7).await, Ok(Late::Moved));
        assert_eq!(tell(copy, 7).await, Ok(Late::Known), "the same report twice");
        let figures = store.figures(launch).unwrap();
        assert_eq!((figures.len(), figures[0].standing, figures[0].late), (1, Standing::Failed, true));
        assert_eq!(store.suppression("ann@example.com").unwrap().unwrap().reason, Reason::Hard);
        let kinds: Vec<String> = store.events(ann).unwrap().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, ["bounced", "suppressed"]);
        assert_eq!(store.history(ann, 5).unwrap()[0].answer, "gone");
    })
    .await;
}

#[tokio::test]
async fn a_complaint_takes_the_place_of_a_lesser_reason_and_nothing_that_of_a_complaint() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let bar =
            |reason| SuppressionRow { address: "Ann@example.com".into(), reason, detail: String::new(), since: NOW };
        let reason = |store: &Store| store.suppression("ann@example.com").unwrap().unwrap().reason;
        assert_eq!(store.suppress(vec![bar(Reason::Hard)]).await, Ok(1));
        assert_eq!(store.suppress(vec![bar(Reason::Manual)]).await, Ok(0));
        assert_eq!(store.suppress(vec![bar(Reason::Complaint)]).await, Ok(1));
        assert_eq!(store.suppress(vec![bar(Reason::Complaint), bar(Reason::Hard)]).await, Ok(0));
        assert_eq!(reason(&store), Reason::Complaint);
        // No import lifts it, whatever it overwrites.
        import(&store, "more", vec![person("ann@example.com", json!({"city": "Köln"}))], OnConflict::Overwrite).await;
        assert_eq!(reason(&store), Reason::Complaint);
        assert_eq!(store.release("ann@example.com".into(), "asked by phone".into(), NOW).await, Ok(true));
        let ann = store.contact("ann@example.com").unwrap().unwrap().id;
        let told = store.events(ann).unwrap().into_iter().filter(|event| event.kind != "imported");
        let told: Vec<String> = told.map(|event| format!("{}: {}", event.kind, event.detail)).collect();
        let released = "released: asked by phone";
        assert!(
            told.iter().any(|told| told == released) && told.iter().filter(|t| t.contains("complaint")).count() == 1,
            "{told:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_bounce_for_somebody_erased_is_counted_without_them() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let launch = launch(&store, vec![]).await;
        let ann = store.contact("ann@example.com").unwrap().unwrap().id;
        let copy = EnvelopeId::new(launch, ann);
        let row = PlannedRow { contact: ann, standing: Standing::Waiting, barred: None, site: "example.com".into() };
        store.record_batch(launch, 0, vec![row], NOW).await.unwrap();
        store.erase("ann@example.com".into(), vec![1], NOW).await.unwrap();
        let failed = outcome(copy, Standing::Failed, Class::HardUnknownUser);
        store.settle(1, vec![failed], Arc::new(BarsFailed)).await.unwrap();
        assert_eq!(store.figures(launch).unwrap()[0].standing, Standing::Failed);
        assert_eq!(store.suppressions("", 9).unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn an_import_states_consent_to_tracking_and_never_overrules_a_no() {
    let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
    let consent = |opens, clicks| crate::mail::Consent { opens, clicks };
    for (opens, expected) in [
        ("maybe", consent(None, Some(false))),
        ("yes", consent(Some(true), Some(false))),
        ("Nein", consent(Some(false), Some(false))),
        ("yes", consent(Some(false), Some(false))),
    ] {
        let ada = person("ada@example.com", json!({"consent_opens": opens, "consent_clicks": false}));
        import(&store, "news", vec![ada], OnConflict::Overwrite).await;
        assert_eq!(store.consent(ContactId(1)).unwrap(), expected);
        assert_eq!(store.recipient(ContactId(1)).unwrap().unwrap().consent, expected);
    }
    let copy = EnvelopeId::new(launch(&store, vec![]).await, ContactId(1));
    store.set_consent(copy, consent(Some(true), None), NOW).await.unwrap();
    assert_eq!(store.consent(ContactId(1)).unwrap(), consent(Some(true), Some(false)));
    let last = store.events(ContactId(1)).unwrap().pop().unwrap();
    assert_eq!((last.kind.as_str(), last.detail.as_str()), ("consent", "opens: yes, clicks: no"));
}

#[tokio::test]
async fn forgetting_who_read_goes_on_where_it_was_cut_off() {
    on_both(|store| async move {
        import(&store, "news", vec![person("ann@example.com", json!({}))], OnConflict::Fill).await;
        let list = store.list("news").unwrap().unwrap();
        let launch = launch(&store, vec![list]).await;
        let contact = store.contact("ann@example.com").unwrap().unwrap().id;
        let row = PlannedRow { contact, standing: Standing::Delivered, barred: None, site: "example.com".into() };
        store.record_batch(launch, 0, vec![row], NOW).await.unwrap();
        let copy = EnvelopeId::new(launch, contact);
        let visit = Visit { copy, link: Some(0), visitor: Visitor::Person, at: NOW };
        store.record_visits(vec![visit]).await.unwrap();
        store.move_launch(launch, &[LaunchState::Running], LaunchState::Done, NOW).await.unwrap();
        // the figures were kept, and then the process ended
        let figures = serde_json::to_string(&store.reading(launch).unwrap()).unwrap();
        let keep = move |db: &rusqlite::Connection| db.execute("UPDATE launches SET reading = ?1", [figures]).map(drop);
        store.backend.write(keep).await.unwrap();
        let later = NOW + std::time::Duration::from_secs(1);
        assert_eq!(store.ended_before(later, Faded::Visits), Ok(vec![launch]));
        store.forget_visits(launch).await.unwrap();
        assert_eq!(store.visits(contact).unwrap(), []);
        assert_eq!(store.ended_before(later, Faded::Visits), Ok(Vec::new()));
    })
    .await;
}
