//! The sending commands as a user runs them: the real binary, its words and its exit codes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs mailshot in a workspace, without any setting of the machine's own.
fn mailshot(workspace: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(workspace).args(arguments).env_clear().env("NO_COLOR", "1");
    command.output().expect("the binary runs")
}

/// Runs it, and gives exit code and both outputs together, in one line for comparing words across line breaks.
fn said(workspace: &Path, arguments: &[&str]) -> (i32, String) {
    let output = mailshot(workspace, arguments);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    (output.status.code().expect("an exit code"), text)
}

/// A new workspace.
fn workspace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert!(mailshot(folder.path(), &["init"]).status.success());
    folder
}

/// Runs it and demands an exit code and words.
fn check(workspace: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let (found, text) = said(workspace, arguments);
    assert_eq!(found, code, "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
    }
}

#[test]
fn what_cannot_be_read_ends_with_2_and_says_where() {
    let folder = workspace();
    let at = folder.path();
    check(at, &["send", "nope"], 2, &["there is no campaign `nope`", "welcome"]);
    check(at, &["send", "../x"], 2, &["named by its folder"]);
    check(at, &["send", "welcome"], 2, &["no list `news`", "campaign.toml"]);
    check(at, &["send", "welcome", "--via", "mail.example.com"], 2, &["--via", "smtp://HOST:PORT"]);
    check(at, &["send", "welcome", "--rate", "fast"], 2, &["--rate"]);
    check(at, &["send", "welcome", "--limit", "0"], 2, &["--limit 0"]);
    check(at, &["send", "welcome", "--wait", "soon"], 2, &["or `all`"]);
    check(at, &["send", "welcome", "--only-domain", "a b"], 2, &["--only-domain"]);
    check(at, &["test", "welcome", "--to", "nobody"], 2, &["--to nobody"]);
    check(at, &["pause", "welcome"], 2, &["was never sent"]);
}

/// A redirected standard output has a name, and keeps the file that it leads to.
#[test]
fn standard_output_may_be_named_and_is_never_replaced() {
    let folder = workspace();
    let (at, file) = (folder.path(), folder.path().join("redirected"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(at).args(["import", "campaigns/welcome/contacts.csv", "--list", "news"]).current_dir(at);
    assert!(command.output().unwrap().status.success());
    std::fs::write(&file, "before\n").unwrap();
    let kept = std::fs::File::options().append(true).open(&file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(at).args(["export", "contacts", "--to", "/proc/self/fd/1"]).stdout(kept);
    let output = command.output().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (table, words) = (text.find("\"email\"").expect("a table"), text.find("contacts written").expect("words"));
    assert!(text.starts_with("before\n") && table < words, "{text}");
}

#[test]
fn nobody_who_reads_changes_how_it_ends() {
    let folder = workspace();
    let gone = || std::io::pipe().unwrap().1;
    for (arguments, code) in [
        (&["report", "nonsuch"][..], 2),
        (&["nonsense"], 2),
        (&["--json", "report", "nonsuch"], 2),
        (&["--json", "nonsense"], 2),
        (&["import", "campaigns/welcome/contacts.csv", "--list", "news"], 0),
    ] {
        for log in ["warn", "trace"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
            command.args(arguments).current_dir(folder.path()).env("MAILSHOT_LOG", log);
            let status = command.stdout(gone()).stderr(gone()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}, {log}");
        }
    }
}

#[test]
fn a_segment_is_tried_planned_and_kept_with_the_launch() {
    let folder = workspace();
    let at = folder.path();
    let people = at.join("people.csv");
    std::fs::write(&people, "email,city\nada@a.example,Bern\nbob@a.example,Wien\ncyd@a.example,\n").unwrap();
    check(at, &["import", &people.display().to_string(), "--list", "news"], 0, &["3 new contacts"]);
    check(at, &["segment"], 0, &["2 city", "opened('welcome')"]);
    check(at, &["segment", "test", "city is not empty"], 0, &["2 of 3 subscribed members", "ada@a.example"]);
    check(at, &["segment", "test", "city = Bern"], 2, &["a text in quotes", "shows all that can be said"]);
    check(at, &["segment", "test", "opened('wellcome')"], 2, &["was never sent"]);
    check(at, &["segment", "test", "city = 'Bern'", "--list", "nwes"], 2, &["no list `nwes`"]);

    let file = at.join("campaigns/welcome/campaign.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let with = |segment: &str| {
        let lists = "lists = [\"news\"]\n";
        std::fs::write(&file, text.replace(lists, &format!("{lists}segment = \"{segment}\"\n"))).unwrap();
    };
    with("on_list('vip')");
    check(at, &["plan", "welcome"], 2, &["no list `vip`", "campaign.toml"]);
    with("city != 'Wien'");
    check(at, &["plan", "welcome"], 0, &["3 subscribed members", "1 outside the segment", "2 recipients"]);
    let relay = ["--via", "smtp://127.0.0.1:9", "--yes"];
    let send = [&["send", "welcome"][..], &relay].concat();
    check(at, &send, 4, &["recipients 2"]);
    with("city = 'Wien'");
    check(at, &send, 3, &["segment city = 'Wien'", "segment city != 'Wien'"]);
    std::fs::write(&file, &text).unwrap();
    check(at, &send, 4, &["recipients 2"]);
}

#[test]
fn a_folder_that_is_no_workspace_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    check(folder.path(), &["status"], 2, &["is no workspace", "mailshot init"]);
}

#[test]
fn a_queue_is_looked_at_while_nobody_sends() {
    let folder = workspace();
    let at = folder.path();
    check(at, &["status"], 0, &["no campaign is under way"]);
    check(at, &["queue", "top"], 0, &["0 copies waiting", "nobody is sending"]);
    check(at, &["queue", "verify"], 0, &["the queue is whole"]);
    check(at, &["queue", "rebuild"], 0, &["0 copies in all"]);
    check(at, &["--json", "queue", "rebuild", "--yes"], 0, &["\"again\":0", "\"rebuilt\":true"]);
    check(at, &["queue", "verify"], 0, &["the queue is whole"]);
}

#[test]
fn a_name_that_nothing_is_known_of_is_said_to_be_so() {
    let folder = workspace();
    let at = folder.path();
    check(at, &["queue", "resume", "nowhere"], 0, &["nothing held nowhere up"]);
    let held = ["held: all that goes to the site nowhere", "no mail is on its way there now"];
    check(at, &["queue", "suspend", "nowhere"], 0, &held);
    check(at, &["queue", "suspend", ""], 2, &["which site or domain?"]);
    check(at, &["queue", "resume", "nowhere"], 0, &["the site nowhere goes on"]);
    check(at, &["queue", "explain", "nobody@nowhere.example"], 2, &["is no contact"]);
}

#[test]
fn a_backup_holds_the_record_and_the_keys_and_never_the_queue() {
    let folder = workspace();
    let at = folder.path();
    let to = at.join("saved");
    let to_text = to.to_str().unwrap();
    // a folder that is there is left as it is, for whomever it is open
    std::fs::create_dir(&to).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
    check(at, &["backup", to_text], 0, &["the queue is not"]);
    assert!(to.join("audience.db").exists() && to.join("keys/seal.keys").exists() && !to.join("queue").exists());
    for file in ["audience.db", "keys/seal.keys"] {
        let mode = std::fs::metadata(to.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    check(at, &["backup", to_text], 2, &["is not empty"]);
}

/// Runs it where no file may grow beyond so many KiB, as on a disk that is full.
fn cramped(kib: u32, workspace: &Path, arguments: &[&str]) -> Output {
    let limited = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &limited, "bash", env!("CARGO_BIN_EXE_mailshot"), "-C"]).arg(workspace).args(arguments);
    command.env("NO_COLOR", "1").output().expect("the binary runs")
}

/// Every file below a folder, in order.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        found.extend(if path.is_dir() { files(&path) } else { vec![path] });
    }
    found.sort();
    found
}

#[test]
fn a_workspace_begun_on_a_full_disk_is_completed_when_there_is_room() {
    let whole = workspace();
    for kib in [0, 1, 8] {
        let folder = tempfile::tempdir().unwrap();
        let output = cramped(kib, folder.path(), &["init"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(files(folder.path()).iter().all(|file| std::fs::metadata(file).unwrap().len() > 0));
        check(folder.path(), &["init"], 0, &["wrote mailshot.toml"]);
        let named =
            |at: &Path| files(at).iter().map(|file| file.strip_prefix(at).unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(named(folder.path()), named(whole.path()));
        for name in named(whole.path()).iter().filter(|name| !name.starts_with("state/keys")) {
            let read = |at: &Path| std::fs::read(at.join(name)).unwrap();
            assert!(read(folder.path()) == read(whole.path()), "{}", name.display());
        }
    }
}

#[test]
fn a_backup_that_fails_leaves_nothing_behind() {
    let folder = workspace();
    let at = folder.path();
    check(at, &["suppress", "add", "ann@example.com"], 0, &[]);
    let there = at.join("there");
    std::fs::create_dir(&there).unwrap();
    for to in [&there, &at.join("new/er")] {
        let arguments = ["backup", to.to_str().unwrap()];
        let output = cramped(64, at, &arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(files(to).len(), 0, "{:?}", files(to));
        check(at, &arguments, 0, &["the queue is not"]);
        assert!(files(to).iter().all(|file| file.extension().is_none_or(|ending| ending != "part")));
    }
}

#[test]
fn a_relay_is_tried_again_for_whatever_is_not_paused() {
    let folder = workspace();
    let at = folder.path();
    let contacts = at.join("campaigns/welcome/contacts.csv");
    check(at, &["import", contacts.to_str().unwrap(), "--list", "news"], 0, &[]);
    // nobody listens there
    let relay = "smtp://127.0.0.1:1";
    check(at, &["send", "welcome", "--limit", "1", "--via", relay, "--yes"], 4, &["1 deferred"]);
    check(at, &["queue", "retry", relay], 0, &["1 copies are due now"]);
    check(at, &["pause", "welcome"], 0, &["paused"]);
    check(at, &["queue", "retry", relay], 0, &["nothing waits for a later attempt"]);
}

/// What `queue explain` names as holding something back.
fn holds(workspace: &Path, name: &str) -> Vec<String> {
    let output = mailshot(workspace, &["--json", "queue", "explain", name]);
    let found: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"));
    let what = |hold: &serde_json::Value| hold["what"].as_str().unwrap().to_owned();
    found["holds"].as_array().unwrap().iter().map(what).collect()
}

/// A workspace whose campaign has one copy, deferred at a relay where nobody listens.
fn deferred_at(relay: &str) -> tempfile::TempDir {
    let folder = workspace();
    let people = folder.path().join("people.csv");
    std::fs::write(&people, "email\nann@a.example\n").unwrap();
    check(folder.path(), &["import", people.to_str().unwrap(), "--list", "news"], 0, &[]);
    check(folder.path(), &["send", "welcome", "--via", relay, "--yes"], 4, &["1 deferred"]);
    folder
}

#[test]
fn a_key_that_cannot_be_used_stops_sending_and_nothing_else() {
    let folder = deferred_at("smtp://127.0.0.1:1");
    let at = folder.path();
    let key = at.join("state/keys/example.com/s1.rsa.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    check(at, &["send", "welcome", "--yes"], 2, &["s1.rsa.pem: others can read this", "chmod 600"]);
    check(at, &["serve"], 2, &["others can read this", "chmod 600"]);
    check(at, &["queue", "explain", "welcome"], 0, &[]);
    check(at, &["pause", "welcome"], 0, &["paused"]);
    std::fs::write(&key, [0xff, 0, 0xfe]).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    check(at, &["dkim", "records"], 2, &["s1.rsa.pem: this is no text"]);
    check(at, &["cancel", "welcome"], 0, &["cancelled"]);
}

#[test]
fn a_campaign_is_held_back_by_what_is_held_where_it_goes_and_by_nothing_else() {
    let relay = "smtp://127.0.0.1:1";
    let folder = deferred_at(relay);
    let at = folder.path();
    for name in ["google", "mx.b.example", "b.example", "smtp://127.0.0.1:9"] {
        check(at, &["queue", "suspend", name], 0, &["held"]);
    }
    assert_eq!(holds(at, "welcome"), ["nobody is sending"]);
    for name in [relay, "a.example"] {
        check(at, &["queue", "suspend", name], 0, &["held"]);
    }
    let mut found = holds(at, "welcome");
    found.sort();
    assert_eq!(found, ["a.example is held", "nobody is sending", "smtp://127.0.0.1:1 is held"]);
}

#[test]
fn a_site_with_a_dot_in_its_name_is_explained_as_a_site() {
    let folder = deferred_at("smtp://127.0.0.1:1");
    let at = folder.path();
    // as if its domain's mail were taken by a host that is named otherwise
    let record = rusqlite::Connection::open(at.join("state/audience.db")).unwrap();
    record.execute("UPDATE sites SET name = 'mx.b.example' WHERE name = 'a.example'", ()).unwrap();
    drop(record);
    for again in [false, true] {
        check(at, &["queue", "explain", "mx.b.example"], 0, &["put off at mx.b.example", "mx.b.example from default"]);
        check(at, &["--json", "queue", "explain", "mx.b.example"], 0, &["\"kind\":\"site\""]);
        check(at, &["--json", "queue", "explain", "a.example"], 0, &["\"kind\":\"domain\""]);
        if !again {
            check(at, &["queue", "suspend", "mx.b.example"], 0, &["held"]);
        }
    }
    assert_eq!(holds(at, "mx.b.example"), ["nobody is sending", "mx.b.example is held"]);
}

#[test]
fn what_is_written_for_programs_is_json() {
    let folder = workspace();
    let at = folder.path();
    check(at, &["suppress", "add", "ann@example.com"], 0, &[]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = mailshot(at, &[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {output:?}"))
    };
    assert_eq!(json(&["suppress", "export"])["address"], "ann@example.com");
    assert!(json(&["sink", "--print-script"])["script"].as_str().unwrap().contains("personality"));
}

#[test]
fn a_mailbox_that_cannot_be_read_is_told_as_an_error_also_for_programs() {
    let folder = workspace();
    let at = folder.path();
    std::fs::write(at.join("password"), "s3cret").unwrap();
    std::fs::set_permissions(at.join("password"), PermissionsExt::from_mode(0o600)).unwrap();
    let settings = std::fs::read_to_string(at.join("mailshot.toml")).unwrap();
    // nobody listens there
    let mailbox = "\n[[mailbox]]\nname = \"m\"\nprotocol = \"imap\"\nhost = \"localhost\"\nport = 1\nuser = \"m\"\n";
    let mailbox = format!("{mailbox}password_file = \"{}\"\n", at.join("password").display());
    std::fs::write(at.join("mailshot.toml"), settings + &mailbox).unwrap();
    let output = mailshot(at, &["bounces", "poll", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["mailbox"], &told["error"]["exit"]), (&"m".into(), &1.into()), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().starts_with("m: "), "{told}");
}

#[test]
fn a_log_in_a_pipe_has_no_colours() {
    let workspace = workspace();
    let contacts = workspace.path().join("campaigns/welcome/contacts.csv");
    assert!(
        mailshot(workspace.path(), &["import", &contacts.display().to_string(), "--list", "news"]).status.success()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailshot"));
    command.arg("-C").arg(workspace.path()).env_clear().env("MAILSHOT_LOG", "trace").env("TERM", "xterm");
    // nobody listens there
    command.args(["send", "welcome", "--limit", "1", "--via", "smtp://127.0.0.1:1", "--yes"]);
    let log = String::from_utf8_lossy(&command.output().expect("the binary runs").stderr).into_owned();
    assert!(log.contains("TRACE") && !log.contains('\u{1b}'), "{log}");
}
