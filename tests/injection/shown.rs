//! What people and programs are shown of it: terminals, tables, pages, JSON, and commands to be pasted.

use std::process::Output;

use crate::host::{Host, Way};
use crate::people;
use crate::scene::Scene;

/// Imported, sent, refused in hostile words, and partly suppressed: everything there is to show.
fn scene() -> Scene {
    let scene = Scene::set();
    scene.import();
    let host = Host::open(Way::Data);
    scene.ran(&["send", "hostile", "--yes", "--via", &host.via()]);
    scene.ran(&["suppress", "add", people::ADDRESSES[0], "--detail", people::VALUES[37]]);
    // what a host says later comes home by the return path
    let returned = |to: &str| RETURNED.replace("TO", to);
    for taken in host.books().taken.iter().filter(|taken| taken.to.starts_with("value-")).take(3) {
        scene.write("returned.eml", &returned(&taken.from));
        scene.ran(&["bounces", "read", "--record", &scene.at("returned.eml")]);
    }
    scene
}

/// A report as hostile as a host can make it.
const RETURNED: &str = "From: MAILER-DAEMON@h.example\r\nTo: TO\r\nSubject: =?utf-8?Q?=1B[2Jfailed?=\r\n\
    MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\n\
    \u{1b}[2Jnobody\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; \u{1b}[2J\r\n\r\n\
    Final-Recipient: rfc822; \u{1b}[2J\u{9b}31m@h.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\
    Diagnostic-Code: smtp; 550 =1+1 \u{1b}]0;owned\u{7}\r\n--x--\r\n";

/// Commands that show what strangers wrote.
fn commands() -> Vec<Vec<&'static str>> {
    let mut commands = vec![
        vec!["contacts", "--limit", "1000"],
        vec!["suppress", "list"],
        vec!["lists"],
        vec!["status"],
        vec!["status", "hostile"],
        vec!["report", "hostile"],
        vec!["plan", "chunks"],
        vec!["queue", "top"],
        vec!["queue", "replies"],
        vec!["export", "contacts"],
        vec!["export", "outcomes", "hostile"],
        vec!["suppress", "export"],
        vec!["check", "chunks", "--via", "smtp://127.0.0.1:1"],
    ];
    for address in people::ADDRESSES.iter().copied().chain([people::REFUSED]) {
        commands.push(vec!["contacts", "show", "--", address]);
        commands.push(vec!["contacts", "export", "--", address]);
        commands.push(vec!["queue", "explain", "--", address]);
    }
    for number in 0..people::VALUES.len() {
        let address: &'static str = people::with_value(number).leak();
        commands.push(vec!["contacts", "show", address]);
        commands.push(vec!["contacts", "export", address]);
    }
    commands
}

/// Neither orders to a terminal nor letters that turn a line around.
fn check_words(arguments: &[&str], bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|why| panic!("{arguments:?}: {why}"));
    let is_odd = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(line) = text.lines().find(|line| line.contains(is_odd)) {
        panic!("{arguments:?} shows {line:?}");
    }
}

#[test]
fn nothing_that_is_shown_steers_a_terminal_or_forges_a_line_and_json_stays_json() {
    let scene = scene();
    let returned = scene.at("returned.eml");
    let mut commands = commands();
    commands.push(vec!["bounces", "read", &returned]);
    for arguments in &commands {
        let Output { stdout, stderr, .. } = scene.output(arguments);
        check_words(arguments, &stderr);
        let text = String::from_utf8(stdout).unwrap();
        match arguments[..] {
            ["export", ..] | ["suppress", "export"] => check_table(arguments[0], &text),
            _ => {
                check_words(arguments, text.as_bytes());
                assert!(text.lines().all(|line| line != "next: touch owned"), "{arguments:?}: {text}");
            }
        }

        let in_json = [&["--json"], &arguments[..]].concat();
        let Output { stdout, stderr, .. } = scene.output(&in_json);
        check_words(&in_json, &stderr);
        let is_json = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        let text = String::from_utf8(stdout).unwrap();
        check_words(&in_json, text.as_bytes());
        assert!(text.lines().all(is_json), "{in_json:?}: {text}");
    }
    // what a person is shown of a contact is JSON as well
    for number in 0..people::VALUES.len() {
        let shown = scene.ran(&["contacts", "export", &people::with_value(number)]).stdout;
        let dossier: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(dossier["contact"]["fields"]["note"], people::VALUES[number]);
    }
}

#[test]
fn messages_in_files_have_names_that_lead_nowhere() {
    let scene = Scene::set();
    scene.import();
    let folder = scene.at("out");
    let Output { stdout, stderr, .. } =
        scene.ran(&["send", "hostile", "--dry-run", &folder, "--via", "smtp://127.0.0.1:1"]);
    check_words(&["send", "--dry-run"], &stdout);
    check_words(&["send", "--dry-run"], &stderr);
    let name = regex::Regex::new(r"^\d{6}-[A-Za-z0-9@._+-]+\.eml$").unwrap();
    let names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|file| name.is_match(file)), "{names:?}");
    assert_eq!(names.len(), people::mailed().len() + 1);
}

#[test]
fn an_import_tells_of_hostile_rows_without_harm() {
    let scene = Scene::set();
    let shown = scene.import();
    check_words(&["import"], &shown.stdout);
    check_words(&["import"], &shown.stderr);
    let people = scene.at("people.csv");
    let again = ["--json", "import", &people, "--list", "news", "--allow-quoted", "--allow-literal"];
    let told: serde_json::Value = serde_json::from_slice(&scene.ran(&again).stdout).unwrap();
    assert_eq!(told["refused"], people::NO_ADDRESSES.len() as u64, "{told}");
    check_table("rejects.csv", &scene.read("rejects.csv"));
}

#[test]
fn errors_show_what_they_complain_of_without_harm() {
    let scene = Scene::set();
    let worst = "x\u{1b}[2J\u{9b}31m\u{202e}\u{1b}[8m";
    scene.write("nobody.csv", &format!("\"{worst}\",b\r\n1,2\r\n"));
    scene.write(
        "campaigns/worst/campaign.toml",
        &format!("subject = \"a\"\nfrom = \"{}\"\nlists = []\n", "\\u001b[2J x"),
    );
    scene.write("campaigns/key/campaign.toml", &format!("subject = \"a\"\n\"{worst}\" = 1\n"));
    let nobody = scene.at("nobody.csv");
    for arguments in [
        &["contacts", "show", worst][..],
        &["import", &nobody, "--list", "news"],
        &["import", worst, "--list", "news"],
        &["import", &nobody, "--list", worst],
        &["plan", "worst"],
        &["plan", "key"],
        &["render", "hostile", "--to", worst],
        &["queue", "explain", worst],
        &["queue", "retry", worst],
        &["suppress", "add", worst],
        &["plan", "hostile", "--via", worst],
        &["lists", worst],
        &["render", "hostile", "--to", &people::with_link(0)],
    ] {
        for json in [&[][..], &["--json"]] {
            let arguments = [json, arguments].concat();
            let output = scene.output(&arguments);
            check_words(&arguments, &output.stdout);
            check_words(&arguments, &output.stderr);
        }
    }
}

/// No cell that a spreadsheet computes, whichever of comma, semicolon and tab it takes for the end of one.
fn check_table(name: &str, table: &str) {
    let is_formula = |cell: &str| {
        let cell = cell.trim_start_matches([' ', '"']);
        cell.starts_with(['=', '+', '-', '@', '\t', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'])
    };
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(table.as_bytes());
    for row in reader.records() {
        let row = row.unwrap();
        assert!(!row.iter().any(is_formula), "{name}: {row:?}");
    }
    for cell in table.split([';', '\t', '\n']) {
        assert!(!is_formula(cell), "{name}: {cell:?}");
    }
    // a table for spreadsheets may turn a line around: some names are written so
    let odd = table.replace("\r\n", "\n").chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(odd, None, "{name}");
}

#[test]
fn no_table_computes() {
    let scene = scene();
    let at = |name: &str| scene.at(name);
    scene.ran(&["export", "contacts", "--to", &at("contacts.csv")]);
    scene.ran(&["export", "outcomes", "hostile", "--to", &at("outcomes.csv")]);
    scene.ran(&["suppress", "export", "--to", &at("suppressed.csv")]);
    scene.ran(&["report", "hostile", "--csv", &at("report.csv"), "--html", &at("report.html")]);
    for number in 0..people::VALUES.len() {
        scene.ran(&["contacts", "export", &people::with_value(number), "--to", &at("dossier.csv")]);
        check_table("dossier.csv", &scene.read("dossier.csv"));
    }
    for name in ["contacts.csv", "outcomes.csv", "suppressed.csv", "report.csv", "rejects.csv"] {
        check_table(name, &scene.read(name));
    }
    let page = scene.read("report.html");
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script"), "the page shows what the host said");
}

/// Runs what the last line of an answer suggests, as a person who pastes it.
fn paste(scene: &Scene, arguments: &[&str]) {
    let shown = String::from_utf8(scene.output(arguments).stdout).unwrap();
    let next = shown.lines().rev().find_map(|line| line.strip_prefix("next: ")).unwrap_or_else(|| panic!("{shown}"));
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_mailshot")).parent().unwrap();
    let mut shell = std::process::Command::new("/bin/sh");
    let pasted = shell.args(["-c", next]).current_dir(scene.path()).env_clear();
    let pasted = pasted.env("PATH", format!("{}:/usr/bin:/bin", binary.display())).output().unwrap();
    let files = std::fs::read_dir(scene.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let owned = files.into_iter().find(|name| name.to_string_lossy().contains("owned"));
    assert_eq!(owned, None, "`{next}` is more than one command");
    assert!(pasted.status.success(), "`{next}`: {}", String::from_utf8_lossy(&pasted.stderr));
}

#[test]
fn what_is_suggested_can_be_pasted() {
    let scene = scene();
    for address in people::ADDRESSES {
        paste(&scene, &["contacts", "show", "--", address]);
        scene.ran(&["suppress", "add", "--", address]);
    }
    for limit in 1..people::ADDRESSES.len() {
        paste(&scene, &["suppress", "list", "--limit", &limit.to_string()]);
    }
    paste(&scene, &["contacts", "--limit", "1000"]);
    let explained = scene.ran(&["queue", "explain", "--", people::ADDRESSES[0]]).stdout;
    let explained = String::from_utf8(explained).unwrap();
    assert!(explained.contains("suppress remove --why TEXT 'a|touch${IFS}owned@h.example'"), "{explained}");
}
