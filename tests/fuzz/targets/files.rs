//! What people and disks hand us as files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use mailshot::audience::{
    Allowed, Counted, Forgotten, ImportOptions, News, Source, SourceOptions, import, suppression_rows,
};
use mailshot::base::{Address, CampaignName, ContactId, ListId, Timestamp, bucket};
use mailshot::campaign::Campaign;
use mailshot::compose::{Template, proof};
use mailshot::config::Settings;
use mailshot::config::shaping::Shaping;
use mailshot::mail::InDoubt;
use mailshot::proving::script::Script;
use mailshot::queue::{Ledger, MemoryLedger, Move, Opening, Queue};
use mailshot::smtp::classify::Rules;
use mailshot::store::{Condition, NewContact, OnConflict, Reason, Store, SuppressionRow, Threads};
use mailshot::world::SimulatedClock;

use super::{folder, in_time, pieces};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

fn written(name: &str, data: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, data).expect("a file");
    path
}

/// Each row of a table is taken or refused, and neither kind is made up.
pub fn csv(data: &[u8]) {
    static STORE: LazyLock<Store> =
        LazyLock::new(|| Store::open("sqlite::memory:", Path::new("."), Threads::Inline).expect("a record"));
    let Ok(source) = Source::open(&written("people.csv", data), &SourceOptions::default()) else { return };
    let options = ImportOptions {
        list: "news".into(),
        consent: None,
        on_conflict: OnConflict::Fill,
        dry_run: true,
        allowed: Allowed::default(),
        forgotten: Forgotten::default(),
    };
    let mut refused = 0;
    let told = |news: News<'_>| {
        refused += u64::from(matches!(news, News::Refused(_)));
        Ok(())
    };
    let report = in_time(import::<mailshot::audience::Error>(&STORE, source, options, NOW, told));
    let Ok(report) = report else { return };
    let Counted::Tried { would_add, known } = report.counted else { panic!("a trial writes nothing") };
    assert_eq!((report.refused, report.rows), (refused, refused + would_add + known));
    assert!(report.rows as usize <= data.len(), "{} rows of {} bytes", report.rows, data.len());
}

/// A segment is refused at a place in its text, or chooses a part of the people, and its opposite the rest.
pub fn segment(data: &[u8]) {
    static STORE: LazyLock<(Store, ListId)> = LazyLock::new(|| in_time(people()));
    let (store, list) = &*STORE;
    let text = String::from_utf8_lossy(data);
    let condition = match mailshot::audience::segment(&text) {
        Ok(condition) => condition,
        Err(why) => return assert!(text.get(why.place.clone()).is_some(), "{why:?}"),
    };
    let chosen = |condition| store.members(*list, Some(&condition), ContactId(0), 9).expect("a statement").len();
    let rest = Condition::Not(Box::new(condition.clone()));
    assert_eq!(chosen(condition) + chosen(rest), 2, "{text:?}");
}

/// A record of two people.
async fn people() -> (Store, ListId) {
    let store = Store::open("sqlite::memory:", Path::new("."), Threads::Inline).expect("a record");
    let list = store.make_list("news".into(), NOW).await.expect("a list");
    let import = store.begin_import("people.csv".into(), list, None, NOW).await.expect("an import");
    let person = |(address, fields): (&str, &str)| NewContact {
        address: Address::parse(address).expect("an address"),
        name: "Ada".into(),
        fields: serde_json::from_str(fields).expect("fields"),
        bucket: 0,
    };
    let all =
        [("ada@one.example", r#"{"country":"DE","age":"36"}"#), ("bob@two.example", r#"{"city":"Bergen","age":9}"#)];
    let rows = all.map(person).to_vec();
    store.import_batch(rows, list, import, OnConflict::Fill, NOW).await.expect("two people");
    (store, list)
}

/// The same for tables of addresses to be barred.
pub fn suppressions(data: &[u8]) {
    let Ok(source) = Source::open(&written("bars.csv", data), &SourceOptions::default()) else { return };
    let Ok(mut rows) = suppression_rows(&source) else { return };
    let make = |address, reason: Option<Reason>| SuppressionRow {
        address,
        reason: reason.unwrap_or(Reason::Complaint),
        detail: String::new(),
        since: NOW,
    };
    let mut count = 0;
    while let Ok(page) = rows.page(10, make)
        && !page.is_empty()
    {
        count += page.len();
        assert!(count <= data.len());
        assert!(page.iter().all(|row| row.address.contains('@') && !row.address.contains(['\r', '\n', '\0'])));
    }
}

/// A campaign's definition, its body and a part: refused, or frozen into what can be compiled and looked through; and never
/// with a file from outside its folder.
pub fn campaign(data: &[u8]) {
    let workspace = folder().join("w");
    let at = workspace.join("campaigns/c");
    static MADE: LazyLock<()> = LazyLock::new(|| {
        let workspace = folder().join("w");
        std::fs::create_dir_all(workspace.join("campaigns/c")).expect("a folder");
        std::fs::create_dir_all(workspace.join("templates")).expect("a folder");
        std::fs::write(workspace.join("campaigns/c/inside.png"), b"inside").expect("a file");
        std::fs::write(workspace.join("campaigns/outside.png"), b"outside").expect("a file");
        let layout = "<html><body>{{{content}}} {{postal_address}} {{unsubscribe_url}}</body></html>";
        std::fs::write(workspace.join("templates/plain.html"), layout).expect("a file");
    });
    LazyLock::force(&MADE);
    let parts = pieces(data, 4);
    let text = |which: usize| parts.get(which).cloned().unwrap_or_default();
    let body = ["body.md", "body.mjml", "body.html"][usize::from(text(3).bytes().next().unwrap_or(0)) % 3];
    for name in ["body.md", "body.mjml", "body.html"] {
        let _ = std::fs::remove_file(at.join(name));
    }
    std::fs::write(at.join("campaign.toml"), text(0)).expect("a file");
    std::fs::write(at.join(body), text(1)).expect("a file");
    std::fs::write(workspace.join("templates/part.html"), text(2)).expect("a file");
    let Ok(campaign) = Campaign::load(&workspace, &CampaignName::parse("c").expect("a name")) else { return };
    let mut settings = Settings::default();
    settings.sender.postal_address = "Example Ltd, 1 Sample Street".into();
    let Ok(edition) = campaign.freeze(&workspace, &settings) else { return };
    assert!(edition.inline.iter().chain(&edition.attachments).all(|asset| asset.bytes != b"outside"));
    let template = Template::compile(&edition).expect("what was frozen can be compiled");
    let _ = proof(&edition, &template);
}

/// Settings, traffic shaping, reply rules and scripts of the test receiver: taken or refused in words.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let loaded = Settings::load(&written("mailshot.toml", data), std::iter::empty());
    let _ = loaded.map_err(|why| assert!(!why.to_string().is_empty()));
    let _ = Shaping::new(&Settings::default(), Some(&text)).map_err(|why| assert!(!why.to_string().is_empty()));
    let _ = Rules::overlaid(&text).map_err(|why| assert!(!why.to_string().is_empty()));
    let _ = Script::parse(&text).map_err(|why| assert!(!why.to_string().is_empty()));
    let (name, value) = text.split_once('\0').unwrap_or((&text, ""));
    let variable = (format!("MAILSHOT_{name}"), value.to_owned());
    let _ = Settings::load(Path::new("/nowhere"), std::iter::once(variable));
}

/// A queue whose disk has gone bad: opened or refused, and what it counts is there.
pub fn queue(data: &[u8]) {
    let mut ledger = MemoryLedger::default();
    let (mut rest, mut moves) = (data, Vec::new());
    while let [key, value, more @ ..] = rest {
        let (key, more) = more.split_at(more.len().min(usize::from(*key)));
        let (value, more) = more.split_at(more.len().min(usize::from(*value)));
        moves.push(Move::Put(key.to_vec(), value.to_vec()));
        rest = more;
    }
    ledger.commit(&moves).expect("memory");
    let opening = Opening {
        clock: Arc::new(SimulatedClock::starting(NOW)),
        last_outcome: 0,
        in_doubt: Box::new(|launch| if launch.0 % 2 == 0 { InDoubt::Resend } else { InDoubt::Hold }),
        bucket,
        held: BTreeSet::new(),
    };
    in_time(async {
        let Ok((queue, keeper)) = Queue::open(ledger, opening) else { return };
        tokio::spawn(keeper.run());
        let domains = queue.domains(10).await.expect("a queue at work");
        for found in domains {
            assert!(found.waiting > 0);
            let _ = queue.lease(&found.domain, 10).await;
        }
        let limit = std::time::Duration::from_secs(1);
        let _ = tokio::time::timeout(limit, queue.outbox(100)).await;
        if let Ok(Ok(claimed)) = tokio::time::timeout(limit, queue.claim()).await {
            let _ = queue.lease(&claimed.domain, 10).await;
        }
        queue.close().await.expect("it closes");
    });
}
