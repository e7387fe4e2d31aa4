//! Imports into a record in memory: of own files, and of the corpus where it lies beside the project.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::audience::encoding::Script;
use crate::audience::layout::Layout;
use crate::audience::source::SourceOptions;
use crate::base::{Seal, Timestamp};
use crate::store::{Reason, Threads};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn store() -> Store {
    Store::open("sqlite::memory:", Path::new("."), Threads::Inline).unwrap()
}

fn options() -> ImportOptions {
    ImportOptions {
        list: "news".into(),
        consent: None,
        on_conflict: OnConflict::Fill,
        dry_run: false,
        allowed: Allowed::default(),
        forgotten: Forgotten::default(),
    }
}

async fn import_file(store: &Store, path: &Path, options: ImportOptions) -> Result<ImportReport, Error> {
    let source = Source::open(path, &SourceOptions::default())?;
    import::<Error>(store, source, options, NOW, |_| Ok(())).await
}

async fn import_text(store: &Store, text: impl AsRef<[u8]>, options: ImportOptions) -> Result<ImportReport, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv");
    std::fs::write(&path, text).unwrap();
    import_file(store, &path, options).await
}

fn counts(report: &ImportReport) -> ImportCounts {
    match report.counted {
        Counted::Written(counts) => counts,
        Counted::Tried { .. } => panic!("a trial"),
    }
}

/// Every contact with its name, fields and place on the list.
fn people(store: &Store) -> Vec<String> {
    let contacts = store.contacts(None, crate::base::ContactId(0), 1000).unwrap();
    let shown = contacts.into_iter().map(|contact| {
        let status = store.memberships(contact.id).unwrap()[0].status.word();
        let fields = Value::Object(contact.fields);
        let bar = store.suppression(&contact.address).unwrap().map_or("", |row| row.reason.word());
        format!("{} ({}) {fields} {status} {bar}", contact.address, contact.name).trim_end().to_owned()
    });
    shown.collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/csv").join(name)
}

#[tokio::test]
async fn spreadsheets_arrive_with_every_letter() {
    let store = store();
    let report = import_file(&store, &fixture("excel-windows-1252.csv"), options()).await.unwrap();
    assert_eq!((report.found.encoding, report.found.delimiter, report.rows), ("windows-1252", "semicolon", 2));
    let report = import_file(&store, &fixture("excel-unicode-text.csv"), options()).await.unwrap();
    assert_eq!((report.found.encoding, report.found.delimiter, report.rows), ("UTF-16LE", "tab", 2));
    assert_eq!(
        people(&store),
        [
            r#"juergen@example.org (Jürgen Größe) {"Nachname":"Größe","Ort":"Köln","Vorname":"Jürgen"} subscribed"#,
            r#"zoe@example.org (Zoë O’Neill) {"Nachname":"O’Neill","Ort":"Straße 5; 2. Stock","Vorname":"Zoë"} subscribed"#,
            r#"ada@example.org (Ada Lovelace) {"Note":"two\r\nlines"} subscribed"#,
            r#"yuki@example.org (雪) {"Note":"日本"} subscribed"#,
        ]
    );
}

#[tokio::test]
async fn who_left_or_bounced_at_another_service_gets_no_mail_here() {
    let store = store();
    let report = import_file(&store, &fixture("service-export.csv"), options()).await.unwrap();
    let refused: Vec<(u64, &str)> = report.first_refused.iter().map(|row| (row.line, row.why.as_str())).collect();
    assert_eq!(refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [5, 6]);
    assert!(refused[0].1.contains("`Status`") && refused[1].1.contains("`attributes`"), "{refused:?}");
    assert_eq!(
        people(&store),
        [
            r#"ada@example.org (Ada) {"First Name":"Ada","Status":"subscribed","age":36,"city":"London"} subscribed"#,
            r#"bob@example.org (Bob) {"First Name":"Bob","Status":"unsubscribed","UNSUB_TIME":"2024-05-05 05:05:05"} unsubscribed"#,
            r#"carl@example.org (Carl) {"First Name":"Carl","Status":"cleaned"} unsubscribed hard"#,
            r#"fred@example.org (Fred) {"First Name":"Fred","Status":"pending"} pending"#,
        ]
    );
}

#[tokio::test]
async fn of_a_hostile_file_every_row_is_taken_or_told() {
    let store = store();
    let report = import_file(&store, &fixture("hostile.csv"), options()).await.unwrap();
    let lines: Vec<u64> = report.first_refused.iter().map(|row| row.line).collect();
    assert_eq!((lines, report.rows), (vec![3, 4, 6, 8, 10, 11, 12, 13, 14], 13), "{:#?}", report.first_refused);
    let counts = counts(&report);
    assert_eq!(report.rows, counts.added + counts.updated + counts.unchanged + report.refused);
    assert_eq!(
        people(&store),
        [
            r#"ada@example.org (Ada) {"note":"fine"} subscribed"#,
            r#"grace@example.org (Grace Hopper) {} subscribed"#,
            r#"last@example.org (Last) {"note":"=1+1"} subscribed"#,
            r#"utf8@example.org (Jürgen) {} subscribed"#,
        ]
    );
}

#[tokio::test]
async fn again_is_harmless_and_nobody_who_left_comes_back() {
    let store = store();
    let text = "email,name\nada@example.org,Ada\nbob@example.org,Bob\n";
    let first = import_text(&store, text, options()).await.unwrap();
    assert_eq!((first.list_made, counts(&first).added, counts(&first).joined), (true, 2, 2));
    let ada = store.contact("ada@example.org").unwrap().unwrap().id;
    store
        .leave(
            crate::base::EnvelopeId::new(crate::base::LaunchId(0), ada),
            vec![store.list("news").unwrap().unwrap()],
            NOW,
        )
        .await
        .unwrap();
    let bar = crate::store::SuppressionRow {
        address: "bob@example.org".into(),
        reason: Reason::Complaint,
        detail: String::new(),
        since: NOW,
    };
    store.suppress(vec![bar]).await.unwrap();
    for on_conflict in [OnConflict::Fill, OnConflict::Overwrite, OnConflict::Keep] {
        let again = import_text(&store, text, ImportOptions { on_conflict, ..options() }).await.unwrap();
        let counts = counts(&again);
        assert_eq!((counts.unchanged, counts.joined, counts.left, counts.suppressed), (2, 0, 1, 1), "{on_conflict:?}");
    }
    assert_eq!(
        people(&store),
        ["ada@example.org (Ada) {} unsubscribed", "bob@example.org (Bob) {} subscribed complaint"]
    );
}

#[tokio::test]
async fn of_one_address_twice_the_order_of_the_file_decides() {
    let text = "email,name,city\nJoe@example.org,Joe,\nann@example.org,Ann,\nJOE@EXAMPLE.ORG,Joseph,Ulm\n";
    for (on_conflict, expected) in [
        (OnConflict::Fill, "Joe@example.org (Joe) {\"city\":\"Ulm\"} subscribed"),
        (OnConflict::Overwrite, "Joe@example.org (Joseph) {\"city\":\"Ulm\"} subscribed"),
        (OnConflict::Keep, "Joe@example.org (Joe) {} subscribed"),
    ] {
        let store = store();
        let report = import_text(&store, text, ImportOptions { on_conflict, ..options() }).await.unwrap();
        assert_eq!((counts(&report).added, counts(&report).doubled), (2, 1));
        assert!(people(&store).contains(&expected.to_owned()), "{on_conflict:?}: {:?}", people(&store));
    }
}

#[tokio::test]
async fn who_was_forgotten_stays_forgotten() {
    let store = store();
    let seal = Seal::parse(&format!("a {}", "0f".repeat(32))).unwrap();
    store.erase("ada@example.org".into(), seal.trace("ada@example.org").to_vec(), NOW).await.unwrap();
    let forgotten = Forgotten::load(&store, || Ok::<_, store::Error>(seal)).unwrap();
    let text = "email\nADA@example.org\nbob@example.org\n";
    let report = import_text(&store, text, ImportOptions { forgotten, ..options() }).await.unwrap();
    assert_eq!((counts(&report).added, report.refusals[0].reason), (1, "erased"));
    assert_eq!(store.contact("ada@example.org").unwrap(), None);
}

#[tokio::test]
async fn who_is_forgotten_while_an_import_reads_its_file_is_left_out_of_it() {
    let store = store();
    let seal = || Seal::parse(&format!("a {}", "0f".repeat(32))).unwrap();
    let forgotten = Forgotten::load(&store, || Ok::<_, store::Error>(seal())).unwrap();
    // who asked for it before the import began, and waited for the record, or whose clock goes after another, is no less so
    let asked = Timestamp::from_ms(NOW.as_ms() - 3_600_000);
    store.erase("ada@example.org".into(), seal().trace("ada@example.org").to_vec(), asked).await.unwrap();
    let text = "email\nADA@example.org\nbob@example.org\n";
    let report = import_text(&store, text, ImportOptions { forgotten, ..options() }).await.unwrap();
    assert_eq!((report.rows, report.refused, counts(&report).added), (2, 1, 1));
    assert_eq!((report.refusals[0].reason, report.refusals[0].count), ("erased", 1));
    assert_eq!((report.erased_since, report.first_refused), (1, Vec::new()), "which line it was is told nobody");
    assert_eq!(store.contact("ada@example.org").unwrap(), None);
}

#[tokio::test]
async fn a_trial_writes_nothing() {
    let store = store();
    let trial = ImportOptions { dry_run: true, ..options() };
    let report = import_text(&store, "email\nada@example.org\nbad\n", trial).await.unwrap();
    assert_eq!(report.counted, Counted::Tried { would_add: 1, known: 0 });
    assert_eq!((report.rows, report.refused, report.list_made, store.lists().unwrap().len()), (2, 1, false, 0));
}

#[tokio::test]
async fn unusual_addresses_come_only_when_allowed() {
    let text = "email\n\"\"\"a b\"\"@example.org\"\na@[192.0.2.1]\n";
    let refused = import_text(&store(), text, options()).await.unwrap();
    assert_eq!(
        refused.refusals.iter().map(|kind| kind.reason).collect::<Vec<_>>(),
        ["address_literal", "quoted_address"]
    );
    let allowed = Allowed { quoted: true, literal: true };
    let taken = import_text(&store(), text, ImportOptions { allowed, ..options() }).await.unwrap();
    assert_eq!((counts(&taken).added, taken.refused), (2, 0));
}

#[tokio::test]
async fn what_is_no_table_of_people_is_refused_whole() {
    let store = store();
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(import_file(&store, folder.path(), options()).await, Err(Error::NoFile(_))));
    assert!(matches!(import_file(&store, &folder.path().join("x"), options()).await, Err(Error::Read { .. })));
    assert!(matches!(import_text(&store, "", options()).await, Err(Error::Empty(_))));
    assert!(matches!(import_text(&store, "\u{feff}", options()).await, Err(Error::Empty(_))));
    assert!(matches!(import_text(&store, "name,city\nAda,Bonn\n", options()).await, Err(Error::NoEmail { .. })));
    assert!(matches!(import_text(&store, "\"email\na@example.org\n", options()).await, Err(Error::FirstRow { .. })));
    let unnamed = ImportOptions { list: "\n".into(), ..options() };
    assert!(matches!(import_text(&store, "email\na@example.org\n", unnamed).await, Err(Error::ListName(_))));
    assert!(store.lists().unwrap().is_empty());
}

#[tokio::test]
async fn whoever_is_told_can_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.csv");
    std::fs::write(&path, "email\nbad\nada@example.org\n").unwrap();
    let source = Source::open(&path, &SourceOptions::default()).unwrap();
    let store = store();
    let ended = import::<Error>(&store, source, options(), NOW, |news| match news {
        News::Refused(row) => Err(Error::ListName(row.line.to_string())),
        News::Progress(_) => Ok(()),
    });
    assert!(matches!(ended.await, Err(Error::ListName(line)) if line == "2"));
    assert!(store.lists().unwrap().is_empty());
}

/// The corpus lies beside the project where it is developed; elsewhere this says that its test is skipped.
fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("MAILSHOT_CORPUS").map_or_else(|| PathBuf::from("../shared/corpus"), PathBuf::from);
    let csv = folder.join("csv");
    let is_there = csv.join("MANIFEST.tsv").exists();
    if !is_there {
        println!("skipped: there is no {}", csv.display());
    }
    is_there.then_some(csv)
}

/// A file's rows as its header names their cells, in JSON.
fn cells(path: &Path) -> Value {
    let mut file = std::fs::File::open(path).unwrap();
    let script = Script::find(&mut file).unwrap();
    let mut text = Vec::new();
    script.read(file, Default::default()).unwrap().read_to_end(&mut text).unwrap();
    let layout = Layout::find(text.as_slice(), None).unwrap();
    let header = layout.header.clone().unwrap_or_default();
    let mut rows = layout.rows(Box::new(move || Ok(Box::new(std::io::Cursor::new(text.clone()))))).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let cells = row.cells.unwrap();
        let named = header.iter().enumerate().map(|(at, name)| (name.clone(), Value::from(cells.get(at))));
        all.push(Value::Object(named.collect()));
    }
    Value::Array(all)
}

#[test]
fn the_corpus_reads_to_the_cells_beside_it() {
    let Some(folder) = corpus() else { return };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for line in std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap().lines().skip(1) {
        let row: Vec<&str> = line.split('\t').collect();
        // the expectation of this one contradicts its own file, as the manifest notes
        if row[6].is_empty() || row[0].ends_with("location_coordinates.csv") {
            continue;
        }
        compared += 1;
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join(row[6])).unwrap()).unwrap();
        let read = cells(&folder.join(row[0]));
        if read != expected {
            wrong.push(format!("{}:\n  {read}\n  {expected}", row[0]));
        }
    }
    println!("{} of {compared} agree", compared - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_corpus_is_taken_in_row_by_row_or_refused_with_a_reason() {
    let Some(folder) = corpus() else { return };
    // rows taken, rows refused; None: the file is refused whole
    let expected: BTreeMap<&str, Option<(u64, u64)>> = BTreeMap::from([
        ("keila/import_rfc_4180.csv", Some((201, 0))),
        ("keila/import_excel.csv", Some((201, 0))),
        ("keila/import_with_data.csv", Some((2, 0))),
        ("keila/import_rfc_4180_with_status.csv", Some((3, 1))),
        ("listmonk/subs.csv", Some((100, 0))),
        ("formats/outlook-contacts.csv", Some((1, 0))),
        ("formats/google-contacts.csv", Some((1, 0))),
        ("torture/header-only.csv", Some((0, 0))),
        ("torture/empty-file.csv", None),
        ("torture/only-bom.csv", None),
        ("torture/no-header.csv", Some((2, 0))),
        ("torture/one-column-no-header.csv", Some((2, 0))),
        ("torture/no-final-newline.csv", Some((2, 0))),
        ("torture/blank-lines.csv", Some((2, 0))),
        ("torture/trailing-commas.csv", Some((2, 0))),
        ("torture/ragged-short.csv", Some((3, 0))),
        ("torture/ragged-long.csv", Some((1, 1))),
        ("torture/duplicate-headers.csv", Some((1, 0))),
        ("torture/header-case-space.csv", Some((1, 0))),
        ("torture/sep-line.csv", Some((1, 0))),
        ("torture/quoted-newlines-crlf.csv", Some((2, 0))),
        ("torture/escaped-quotes.csv", Some((1, 0))),
        ("torture/backslash-quotes.csv", Some((1, 1))),
        ("torture/stray-quote.csv", Some((2, 0))),
        ("torture/unbalanced-quote.csv", Some((2, 1))),
        ("torture/mixed-newlines.csv", Some((3, 0))),
        ("torture/nul-byte.csv", Some((1, 1))),
        ("torture/mixed-encodings.csv", Some((1, 1))),
        ("torture/whitespace-email.csv", Some((4, 0))),
        ("torture/name-addr.csv", Some((3, 0))),
        ("torture/several-in-cell.csv", Some((0, 2))),
        ("torture/dup-case.csv", Some((3, 0))),
        ("torture/formula-injection.csv", Some((4, 0))),
        ("torture/html-in-name.csv", Some((3, 0))),
        ("torture/header-injection.csv", Some((1, 1))),
        ("torture/long-cell.csv", Some((1, 1))),
        ("torture/json-attribs.csv", Some((1, 1))),
        ("torture/idn.csv", Some((5, 0))),
    ]);
    for line in std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap().lines().skip(1) {
        let file = line.split('\t').next().unwrap();
        let store = store();
        let found = import_file(&store, &folder.join(file), options()).await.ok();
        for contact in store.contacts(None, crate::base::ContactId(0), 1000).unwrap() {
            assert!(crate::base::Address::parse(&contact.address).is_ok(), "{file}: {}", contact.address);
        }
        if let Some(expected) = expected.get(file) {
            let taken = found.as_ref().map(|report| (report.rows - report.refused, report.refused));
            assert_eq!(taken, *expected, "{file}: {found:#?}");
        }
    }
}
