//! What segments say, whom they choose, and what is refused where.

use super::*;
use crate::base::{Address, ContactId, EnvelopeId, Timestamp, bucket};
use crate::mail::{Class, Outcome, Standing};
use crate::store::{
    BarsNobody, LaunchKind, Meant, Member, NewContact, NewLaunch, OnConflict, PlannedRow, Reason, Threads, Visit,
    Visitor,
};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// Five people on `news`, three of them on `vip` as well; `welcome` went to four: to ada, who followed a link, to bob, who
/// opened it, to cyd, whose copy failed, and to dan, who was barred.
async fn house() -> Store {
    let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
    for (name, fields) in [
        ("ada", r#"{"country":"DE","age":"36","plan":"pro","First Name":"Ada","since":"2024-05-01"}"#),
        ("bob", r#"{"country":"de","age":"9","plan":"","since":"2026-01-31"}"#),
        ("cyd", r#"{"country":"AT","age":"unknown","plan":"team","city":"Salzburg"}"#),
        ("dan", r#"{"country":"","age":"18.5","plan":"free","city":"100% here"}"#),
        ("eve", r#"{"age":40,"city":"Bergen"}"#),
    ] {
        let host = if name == "eve" { "xn--bcher-kva.example" } else { "one.example" };
        let address = Address::parse(&format!("{name}@{host}")).unwrap();
        let contact = NewContact {
            bucket: bucket(address.domain()),
            address,
            name: name.to_owned(),
            fields: serde_json::from_str(fields).unwrap(),
        };
        let lists: &[&str] = if ["ada", "cyd", "eve"].contains(&name) { &["news", "vip"] } else { &["news"] };
        for list in lists {
            let id = store.make_list((*list).to_owned(), NOW).await.unwrap();
            let import = store.begin_import("people.csv".into(), id, None, NOW).await.unwrap();
            store.import_batch(vec![contact.clone()], id, import, OnConflict::Fill, NOW).await.unwrap();
        }
    }
    let edition = store.put_edition([1; 32], &CampaignName::parse("welcome").unwrap(), vec![], NOW).await.unwrap();
    let new = NewLaunch {
        campaign: CampaignName::parse("welcome").unwrap(),
        kind: LaunchKind::Campaign,
        edition,
        in_doubt: Default::default(),
        options: LaunchOptions::default(),
        lists: vec![store.list("news").unwrap().unwrap()],
    };
    let launch = store.create_launch(new, NOW).await.unwrap();
    let row = |contact: usize, standing| PlannedRow {
        contact: ids(&store)[contact - 1],
        standing,
        barred: (standing == Standing::Barred).then_some(Reason::Complaint),
        site: "one.example".into(),
    };
    let waiting = (1..=3).map(|contact| row(contact, Standing::Waiting));
    let rows = waiting.chain([row(4, Standing::Barred)]).collect();
    store.record_batch(launch, 0, rows, NOW).await.unwrap();
    let copy = |contact: usize| EnvelopeId::new(launch, ids(&store)[contact - 1]);
    let outcome = |contact, state, class| Outcome {
        envelope: copy(contact),
        state,
        class,
        code: None,
        enhanced: None,
        stage: None,
        text: String::new(),
        host: None,
        site: None,
        channel: None,
        tries: 1,
        doubtful: 0,
        at: NOW,
    };
    let outcomes = vec![
        outcome(1, Standing::Delivered, Class::Delivered),
        outcome(2, Standing::Delivered, Class::Delivered),
        outcome(3, Standing::Failed, Class::HardUnknownUser),
    ];
    store.settle(1, outcomes, std::sync::Arc::new(BarsNobody)).await.unwrap();
    let visit = |contact, link| Visit { copy: copy(contact), link, visitor: Visitor::Person, at: NOW + HOUR };
    store.record_visits(vec![visit(1, Some(1)), visit(2, None)]).await.unwrap();
    store
}

/// The contacts in the order of their names.
fn ids(store: &Store) -> Vec<ContactId> {
    store.contacts(None, ContactId(0), 9).unwrap().into_iter().map(|row| row.id).collect()
}

/// The names of the members of `news` that a segment chooses.
fn chosen_of(store: &Store, text: &str) -> String {
    let condition = Some(check_segment(store, text).unwrap_or_else(|why| panic!("{text}: {why}")));
    let meant = Meant { lists: vec![store.list("news").unwrap().unwrap()], condition };
    let mut names = Vec::new();
    let see = |address: &str, member| {
        if member != Member::Outside {
            names.push(address.split('@').next().unwrap().to_owned());
        }
    };
    store.survey(&meant, NOW, see).unwrap();
    let asked = ids(store).into_iter().filter(|contact| store.is_recipient(*contact, &meant, NOW).unwrap()).count();
    assert_eq!(asked, names.len(), "{text}: one by one and all at once");
    let members = store.members(meant.lists[0], meant.condition.as_ref(), ContactId(0), 9).unwrap();
    assert_eq!(members.len(), names.len(), "{text}: by pages");
    names.sort();
    names.join(" ")
}

#[tokio::test]
async fn a_segment_chooses_whom_it_says_and_not_is_always_the_rest() {
    let store = house().await;
    for (text, expected) in [
        ("country = 'DE'", "ada bob"),
        ("country != \"DE\"", "cyd dan eve"),
        ("country is empty", "dan eve"),
        ("country is not empty", "ada bob cyd"),
        ("age >= 18", "ada dan eve"),
        ("age < 18", "bob"),
        ("not age < 18", "ada cyd dan eve"),
        ("age = 40 or age = 9", "bob eve"),
        ("age > -1", "ada bob dan eve"),
        ("since >= '2025-01-01'", "bob"),
        ("plan in ('pro', 'team')", "ada cyd"),
        ("plan not in ('pro', 'team')", "bob dan eve"),
        ("city contains 'BERG' or city contains 'zburg'", "cyd eve"),
        ("city starts with 'Berg'", "eve"),
        ("city ends 'burg'", "cyd"),
        ("city not contains 'e'", "ada bob cyd"),
        ("city contains '%'", "dan"),
        ("[First Name] = 'ada'", "ada"),
        ("email = 'ADA@one.example' or name = 'bob'", "ada bob"),
        ("domain = 'bücher.example'", "eve"),
        ("domain ends with '.example' and not domain = 'one.example'", "eve"),
        ("on_list('vip')", "ada cyd eve"),
        ("sent('welcome')", "ada bob cyd"),
        ("delivered('welcome')", "ada bob"),
        ("failed('welcome')", "cyd"),
        ("opened('welcome')", "ada bob"),
        ("clicked('welcome')", "ada"),
        ("delivered('welcome') and not clicked('welcome')", "bob"),
        ("country = 'DE' and age > 30 or country = 'AT'", "ada cyd"),
        ("country = 'DE' and (age > 30 or country = 'AT')", "ada"),
        ("NOT (country = 'DE' OR country = 'AT')", "dan eve"),
        ("name = 'o''hara'", ""),
        ("nothing = ''", "ada bob cyd dan eve"),
    ] {
        assert_eq!(chosen_of(&store, text), expected, "{text}");
        let rest = chosen_of(&store, &format!("not ({text})"));
        assert_eq!(expected.split_whitespace().count() + rest.split_whitespace().count(), 5, "{text}: {rest}");
    }
}

#[tokio::test]
async fn values_stay_values_whatever_is_in_them() {
    let store = house().await;
    for text in [
        "name = ''') OR 1=1 --'",
        "name = \"' OR '1'='1\"",
        "[a') OR 1=1 --] = 'x'",
        "name contains '?1'",
        "on_list('news') and name = '\u{0}; DROP TABLE contacts'",
        "[$.country] = 'DE'",
        "[\"] = 'DE'",
    ] {
        assert_eq!(chosen_of(&store, text), "", "{text}");
    }
    assert_eq!(chosen_of(&store, "country = 'DE'"), "ada bob");
}

#[test]
fn what_is_no_segment_is_refused_where_it_goes_wrong() {
    for (text, message, at) in [
        ("", "a column", ""),
        ("country", "is expected here", ""),
        ("country =", "a text in quotes or a number", ""),
        ("country = DE", "a text in quotes or a number", "DE"),
        ("country == 'DE'", "a text in quotes or a number", "="),
        ("country = 'DE", "has no end", "'DE"),
        ("[country = 'DE'", "has no end", "[country = 'DE'"),
        ("country = 'DE' age > 3", "`and`, `or` or the end", "age"),
        ("(country = 'DE'", "`)` is expected", ""),
        ("country = 'DE')", "`and`, `or` or the end", ")"),
        ("age > 18years", "no number", "18years"),
        ("since > 2024-05-01", "in quotes", "2024-05-01"),
        ("read('welcome')", "can be asked for", "read"),
        ("opened(welcome)", "in quotes", "welcome"),
        ("opened('../x')", "no name of a campaign", "'../x'"),
        ("name is nothing", "`empty` is expected", "nothing"),
        ("name contains ''", "not an empty one", "''"),
        ("name not = 'x'", "in, contains", "="),
        ("name in ()", "a text in quotes", ")"),
        ("name; DROP", "means nothing", ";"),
    ] {
        let why = segment(text).expect_err(text);
        assert!(why.message.contains(message), "{text}: {why}");
        assert_eq!(&text[why.place.clone()], at, "{text}: {why}");
    }
    let deep = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(segment(&deep(DEPTH_MAX - 1)).is_ok());
    assert!(segment(&deep(DEPTH_MAX)).unwrap_err().message.contains("deep"));
    assert!(segment(&"not ".repeat(1000)).unwrap_err().message.contains("deep"));
    let many = |count: usize| vec!["a = 1"; count].join(" or ");
    assert!(segment(&many(LEAVES_MAX)).is_ok());
    assert!(segment(&many(LEAVES_MAX + 1)).unwrap_err().message.contains("at most"));
    assert!(segment(&"a".repeat(LENGTH_MAX + 1)).unwrap_err().message.contains("octets"));
}

#[tokio::test]
async fn a_list_or_campaign_that_nobody_knows_is_refused() {
    let store = house().await;
    let refused = |text: &str| check_segment(&store, text).unwrap_err().to_string();
    assert_eq!(refused("name = 'x' and not on_list('nwes')"), "there is no list `nwes`; there are news, vip");
    assert!(refused("opened('wellcome')").contains("was never sent"));
}

#[tokio::test]
async fn the_longest_segment_can_be_asked() {
    let store = house().await;
    let text = vec!["not age > 1"; LEAVES_MAX].join(" and ");
    assert_eq!(chosen_of(&store, &text), "cyd");
}
