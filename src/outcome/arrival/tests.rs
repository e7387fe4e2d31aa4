//! Returned mail read as expected: our own samples always, the corpus where it lies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::base::SealKey;

fn corpus(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MAILSHOT_CORPUS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from);
    let folder = root.join(part);
    if !folder.exists() {
        println!("skipped: no corpus at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// The rows of a table whose first line names its columns.
fn table(file: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let head = lines.next().unwrap();
    lines.map(|row| head.iter().cloned().zip(row).collect()).collect()
}

/// A third of the groups is looked at only to see whether what was learnt on the others holds.
fn is_held_out(group: &str) -> bool {
    let hash = group
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 32).is_multiple_of(3)
}

/// How many files were read as expected, by what was asked of them.
#[derive(Debug, Default)]
struct Score {
    files: u32,
    addressed: u32,
    right_addresses: u32,
    right_verdicts: u32,
    coded: u32,
    right_codes: u32,
    hard: u32,
    right_hard: u32,
    wrong_hard: u32,
    replies_as_bounces: u32,
}

/// One file of the corpus as it was read, beside what is expected.
struct Case {
    row: BTreeMap<String, String>,
    arrival: Arrival,
}

impl Case {
    fn is_scored(&self, what: &str) -> bool {
        self.row["scored"].contains(what)
    }

    /// The only recipient, where there is one.
    fn single(&self) -> Option<&Returned> {
        match self.arrival.recipients.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Recipients found and expected; `None` where none are given to compare with.
    fn addresses(&self) -> Option<(Vec<String>, Vec<String>)> {
        let distinct = |list: Vec<&str>| {
            let list: std::collections::BTreeSet<String> = list.into_iter().map(str::to_lowercase).collect();
            list.into_iter().collect::<Vec<String>>()
        };
        let found = distinct(self.arrival.recipients.iter().map(|returned| returned.address.as_str()).collect());
        let expected = distinct(self.row["recipients"].split(';').filter(|text| !text.is_empty()).collect());
        (self.is_scored("recipients") && !expected.is_empty()).then_some((found, expected))
    }

    /// Permanent, temporary or none, found and expected; the same for several recipients counts as one.
    fn verdicts(&self) -> (Vec<String>, Vec<String>) {
        let found: Vec<&str> = match self.arrival.kind {
            Kind::Bounce | Kind::Delay if self.arrival.recipients.is_empty() => vec!["permanent"],
            Kind::Bounce | Kind::Delay => self.arrival.recipients.iter().map(verdict).collect(),
            Kind::Complaint | Kind::AutoReply | Kind::Unsubscribe | Kind::Report | Kind::Other => vec!["none"],
        };
        let expected = self.row["perm_temp"].split(';');
        let expected = expected.map(|word| if matches!(word, "" | "success") { "none" } else { word }).collect();
        let merged = |mut list: Vec<&str>| {
            list.dedup();
            list.into_iter().map(str::to_owned).collect()
        };
        (merged(found), merged(expected))
    }

    /// Status found and those expected; `None` where the sender's own is not known.
    fn codes(&self) -> Option<(String, Vec<&str>)> {
        let one = self.single().filter(|_| self.is_scored("status") && self.row["status_basis"] != "pseudo")?;
        Some((one.status.map(|status| status.to_string()).unwrap_or_default(), self.row["status"].split('|').collect()))
    }

    /// Whether it suppresses its recipient, and whether it should; `None` where that is not told or may be seen either way.
    fn hardness(&self) -> Option<(bool, bool)> {
        let kind = self.row["kind"].as_str();
        let is_told = self.is_scored("kind") && kind.contains("bounce") && !kind.contains(';');
        let one = self.single().filter(|_| is_told && !self.row["file"].starts_with("flufl"))?;
        let is_hard = kind == "hard bounce";
        let may_be_either = !is_hard && matches!(self.row["reason"].as_str(), "suspend" | "filtered");
        (!may_be_either).then_some((one.suppresses(), is_hard))
    }

    /// Counts; gives what is wrong, in words.
    fn count(&self, score: &mut Score) -> Vec<String> {
        let (row, mut wrong) = (&self.row, Vec::new());
        score.files += 1;
        if let Some((found, expected)) = self.addresses() {
            score.addressed += 1;
            score.right_addresses += u32::from(found == expected);
            wrong.extend((found != expected).then(|| format!("found {found:?}, not {expected:?}")));
        }
        let (found, expected) = self.verdicts();
        let is_lenient = row["notes"].contains("ccept auto-reply too") && self.arrival.kind == Kind::AutoReply;
        let is_right = found == expected || is_lenient;
        score.right_verdicts += u32::from(is_right);
        wrong.extend((!is_right).then(|| format!("{} {found:?}, not {expected:?}", self.arrival.kind)));
        let is_bounce = matches!(self.arrival.kind, Kind::Bounce | Kind::Delay);
        score.replies_as_bounces += u32::from(row["kind"] == "auto-reply" && is_bounce);
        if let Some((found, expected)) = self.codes() {
            let is_right = expected.contains(&found.as_str());
            score.coded += 1;
            score.right_codes += u32::from(is_right);
            wrong.extend((!is_right).then(|| format!("status {found}, not {}", row["status"])));
        }
        if let (Some((found, expected)), Some(one)) = (self.hardness(), self.single()) {
            score.hard += u32::from(expected);
            score.right_hard += u32::from(expected && found);
            score.wrong_hard += u32::from(!expected && found);
            let what = if found { "suppresses" } else { "does not suppress" };
            wrong.extend((found != expected).then(|| format!("{} {what}: {}", one.class, row["reason"])));
        }
        wrong
    }
}

fn verdict(returned: &Returned) -> &'static str {
    match (returned.action, returned.permanent) {
        (Some(Action::Failed), Some(true)) => "permanent",
        (Some(Action::Failed | Action::Delayed), _) => "temporary",
        _ => "none",
    }
}

#[test]
fn the_corpus_keeps_its_score() {
    let Some(folder) = corpus("bounces/open") else { return };
    let show_held = std::env::var_os("SHOW_HELD").is_some();
    let (mut known, mut unseen) = (Score::default(), Score::default());
    for row in table(&folder.join("MANIFEST.tsv")) {
        let arrival = read(&std::fs::read(folder.join(&row["file"])).unwrap());
        let (is_held, case) = (is_held_out(&row["group"]), Case { row, arrival });
        let wrong = case.count(if is_held { &mut unseen } else { &mut known });
        if !wrong.is_empty() && (!is_held || show_held) {
            println!("{}: {}", case.row["file"], wrong.join("; "));
        }
    }
    println!("developed on: {known:?}\nheld out: {unseen:?}");
    assert_eq!(known.replies_as_bounces + unseen.replies_as_bounces, 0);
    assert!(known.right_addresses * 100 >= known.addressed * 99, "{known:?}");
    assert!(known.right_verdicts * 100 >= known.files * 98, "{known:?}");
    assert!(unseen.right_addresses * 100 >= unseen.addressed * 97, "{unseen:?}");
    assert!(unseen.right_verdicts * 100 >= unseen.files * 98, "{unseen:?}");
    assert!(known.wrong_hard + unseen.wrong_hard <= 3, "blocks or faults would suppress living addresses");
}

#[test]
fn feedback_reports_of_the_corpus_are_told_apart() {
    let Some(folder) = corpus("arf/open") else { return };
    for row in table(&folder.join("MANIFEST.tsv")) {
        let arrival = read(&std::fs::read(folder.join(&row["file"])).unwrap());
        let expected = if row["kind"] == "complaint" { Kind::Complaint } else { Kind::Report };
        assert_eq!(arrival.kind, expected, "{}", row["file"]);
        let found: Vec<&str> = arrival.recipients.iter().map(|returned| returned.address.as_str()).collect();
        if row["scored"].contains("original_rcpt") {
            assert_eq!(found.join(";"), row["original_rcpt"], "{}", row["file"]);
        }
        assert!(arrival.recipients.iter().all(|returned| returned.suppresses() == (expected == Kind::Complaint)));
    }
}

#[test]
fn nothing_in_the_unlabelled_corpus_takes_long() {
    let Some(folder) = corpus("bounces/unlabelled") else { return };
    for entry in std::fs::read_dir(folder).unwrap() {
        let raw = std::fs::read(entry.unwrap().path()).unwrap();
        read(&raw);
    }
}

/// Our own samples: names with what they hold.
fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/returns");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ending| ending == "eml")).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn the_worlds_notices_are_read_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/returns");
    let mbox = std::fs::read_to_string(folder.join("world.mbox")).unwrap();
    let names = mbox.lines().filter_map(|line| line.strip_prefix("From ")?.split(' ').next());
    let mails = crate::outcome::mails(&folder.join("world.mbox")).unwrap();
    let found: Vec<String> = names
        .zip(mails)
        .map(|(name, mail)| format!("{name} {}", put(&read(&mail.unwrap().bytes)).trim_end().replace('\n', "\n  ")))
        .collect();
    assert!(found.len() > 100);
    // On purpose not a floor: each of them, in each field.
    assert_eq!(found.join("\n") + "\n", std::fs::read_to_string(folder.join("world.txt")).unwrap());
}

/// An arrival as the expected files put it.
fn put(arrival: &Arrival) -> String {
    let mut lines = vec![arrival.kind.to_string()];
    for returned in &arrival.recipients {
        let lasting = match returned.permanent {
            Some(true) => "permanent",
            Some(false) => "temporary",
            None => "-",
        };
        let suppress = if returned.suppresses() { "suppress" } else { "keep" };
        let action = returned.action.map_or("-".to_owned(), |action| action.to_string());
        let status = returned.status.map_or("-".to_owned(), |status| status.to_string());
        lines.push(format!("{} {action} {status} {lasting} {} {suppress}", returned.address, returned.class));
    }
    lines.join("\n") + "\n"
}

#[test]
fn our_samples_are_read_as_expected_whatever_their_line_ends() {
    let samples = samples();
    assert!(samples.len() >= 20);
    let mut wrong = Vec::new();
    for (file, raw) in samples {
        let expected = std::fs::read_to_string(file.replace(".eml", ".txt")).unwrap();
        let wire = String::from_utf8(raw.clone()).unwrap().replace('\n', "\r\n");
        for raw in [raw, wire.into_bytes()] {
            let found = put(&read(&raw));
            if found != expected {
                wrong.push(format!("{file}:\n{found}not\n{expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_copy_is_proven_by_whatever_token_came_back() {
    let seal = Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap();
    let copy = EnvelopeId::from_u64(7 << 32 | 42);
    let token = |purpose| seal.mint(copy, purpose, 0).to_string();
    let bounce = token(Purpose::Bounce);
    let report =
        "Content-Type: text/plain\n\nUndeliverable\n\n--- Original message ---\nReceived: x\nMIME-Version: 1.0\n";
    for (raw, purpose) in [
        (format!("To: <b.{}@bounce.example>\n\n", bounce.to_uppercase()), Purpose::Bounce),
        (format!("Received: from x by y for <b.{bounce}@bounce.example>; now\n\n"), Purpose::Bounce),
        (format!("{report}X-Ref: {}\n\n", token(Purpose::Feedback)), Purpose::Feedback),
        (format!("{report}Message-ID: <{}@sender.example>\n\n", token(Purpose::Message)), Purpose::Message),
        (format!("In-Reply-To: <{}@sender.example>\n\n", token(Purpose::Message)), Purpose::Message),
        (format!("To: u.{}@sender.example\n\n", token(Purpose::Unsubscribe)), Purpose::Unsubscribe),
        (
            format!(
                "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\
                 Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\
                 Original-Envelope-Id: b.{bounce}\n\nFinal-Recipient: rfc822; x@y.example\nAction: failed\n\
                 Status: 5.1.1\n\n--b--\n"
            ),
            Purpose::Bounce,
        ),
        (format!("Subject: x\n\nwe tried b.{bounce}@bounce.example in vain\n"), Purpose::Bounce),
    ] {
        let arrival = read(raw.as_bytes());
        let found = arrival.copy(&seal).map(|(copy, trace)| (copy, trace.purpose));
        assert_eq!(found, Some((copy, purpose)), "{raw}");
    }
    let other = read(format!("To: b.{}@bounce.example\n\n", token(Purpose::Unsubscribe)).as_bytes());
    assert_eq!(other.copy(&seal), None);
    let enveloped = read(b"Subject: x\n\n").addressed_to(&format!("b.{bounce}@bounce.example"));
    assert_eq!(enveloped.copy(&seal).map(|(copy, _)| copy), Some(copy));
}

#[test]
fn a_link_to_leave_that_was_forwarded_bounces_nobody() {
    let seal = Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap();
    let token = seal.mint(EnvelopeId::from_u64(42), Purpose::Unsubscribe, 0);
    let forged = format!(
        "From: MAILER-DAEMON@x.example\nSubject: failure notice\n\n<a@b.example>:\n550 5.1.1 no such user\n\nu.{token}@sender.example\n"
    );
    let arrival = read(forged.as_bytes());
    assert_eq!((arrival.kind, arrival.affected(&seal)), (Kind::Bounce, None));
}

#[test]
fn hostile_shapes_cost_nothing() {
    let nested = "Content-Type: message/rfc822\n\n".repeat(50_000);
    let deep: String =
        (0..20_000).map(|at| format!("Content-Type: multipart/mixed; boundary=b{at}\n\n--b{at}\n")).collect();
    let wide = format!("Content-Type: multipart/report; boundary=b\n\n{}", "--b\n\nx\n".repeat(200_000));
    let header = format!("Subject: {}\n\n", "a ".repeat(1_000_000));
    let addresses = format!("From: MAILER-DAEMON@x\nSubject: failure notice\n\n{}", "<a@b.example>:\n".repeat(200_000));
    let one_line = format!("From: MAILER-DAEMON@x\nSubject: failure notice\n\n{}", "a@b.example ".repeat(300_000));
    let groups = format!(
        "Content-Type: message/delivery-status\n\n{}",
        (0..50_000)
            .map(|at| format!("Final-Recipient: rfc822; {at}@b.example\nAction: failed\n\n"))
            .collect::<String>()
    );
    let tags = format!("Content-Type: text/html\n\n{}", "<style".repeat(300_000));
    for raw in [nested, deep, wide, header, addresses, one_line, groups, tags] {
        let arrival = read(raw.as_bytes());
        assert!(arrival.recipients.len() <= RECIPIENTS_MAX && arrival.traces.len() <= TRACES_MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_octets_are_read_without_panic(raw in prop::collection::vec(any::<u8>(), 0..2000)) {
        read(&raw);
    }

    #[test]
    fn damaged_samples_are_read_without_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let mut raw = which.get(&samples).1.clone();
        for (at, octet) in damage {
            let at = at.index(raw.len());
            raw[at] = octet;
        }
        read(&raw);
        read(&raw[..cut.index(raw.len())]);
    }
}
