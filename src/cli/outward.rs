//! Files that a person names to be written must be no workspace's own, and no database: a table written over a record would
//! end it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::desk::is_workspace;
use crate::cli::Error;
use crate::config::Settings;

/// What lies in the folder of a workspace and is nobody's to write but its own, whether it is there yet or not.
const OWN: [&str; 4] = ["state", "mailshot.toml", "shaping.toml", "rules.toml"];
/// What people keep there themselves: new files may come to it, and none may be overwritten.
const KEPT: [&str; 3] = ["templates", "campaigns", "public"];
/// Links that are followed to where nothing is yet.
pub const LINKS_MAX: usize = 40;
/// What a database of SQLite begins with.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// What SQLite puts beside a database, behind its name.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// What lies in the folder of every queue.
const QUEUE: [&str; 3] = ["blobs", "conf", "db"];

/// Refuses `file`, which is to be written, where it is one of the workspace in `folder` or of another, or a database, or leads
/// to such a one.
pub fn refuse_own(folder: &Path, file: &Path) -> Result<(), Error> {
    let places = [stands_at(file), leads_to(file, LINKS_MAX)];
    let what = if is_workspace(folder) && places.iter().any(|place| is_own(folder, place)) {
        "a file of the workspace itself"
    } else if places.iter().any(|place| is_anothers(place)) {
        "a file of another workspace"
    } else if places.iter().any(|place| is_database(place)) {
        "a database"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("{} is {what}: name another to be written", file.display())))
}

/// Whether one of the folders it lies in is a workspace whose own it is.
fn is_anothers(place: &Path) -> bool {
    place.ancestors().skip(1).any(|folder| folder.join("mailshot.toml").is_file() && is_own(folder, place))
}

/// Whether it is a database, a record's or a queue's, wherever it lies, or belongs to one.
fn is_database(place: &Path) -> bool {
    let name = place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mains = BESIDE.iter().filter_map(|ending| Some(place.with_file_name(name.strip_suffix(ending)?)));
    let is_queue = || place.is_file() && QUEUE.iter().all(|part| place.with_file_name(part).exists());
    is_sqlite(place) || mains.into_iter().any(|main| is_sqlite(&main)) || is_queue()
}

fn is_sqlite(file: &Path) -> bool {
    let mut begin = [0; SQLITE.len()];
    // to open a pipe would wait for whoever writes it
    file.is_file() && File::open(file).and_then(|mut open| open.read_exact(&mut begin)).is_ok() && begin == SQLITE
}

fn is_own(folder: &Path, place: &Path) -> bool {
    let at = |name: &str| leads_to(&folder.join(name), LINKS_MAX);
    OWN.iter().any(|own| place.starts_with(at(own)))
        || KEPT.iter().any(|kept| place.is_file() && place.starts_with(at(kept)))
        || record(folder).is_some_and(|record| belongs_to(place, &leads_to(&record, LINKS_MAX)))
}

/// The file of the record, where the settings say.
fn record(folder: &Path) -> Option<PathBuf> {
    let settings = Settings::load(&folder.join("mailshot.toml"), std::env::vars()).ok()?;
    settings.store.url.strip_prefix("sqlite:").map(|place| folder.join(place))
}

/// Whether it is the record, or what SQLite keeps beside it.
fn belongs_to(place: &Path, record: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(place_name), Some(record_name)) = (name(place), name(record)) else { return false };
    let rest = place_name.strip_prefix(&record_name);
    place.parent() == record.parent() && rest.is_some_and(|rest| rest.is_empty() || BESIDE.contains(&rest))
}

/// Where the name itself stands, were it a link or not.
fn stands_at(file: &Path) -> PathBuf {
    match file.file_name() {
        Some(name) => leads_to(&parent(file), LINKS_MAX).join(name),
        None => leads_to(file, LINKS_MAX),
    }
}

/// Where a write to `file` ends, through all links, also where nothing is yet.
pub fn leads_to(file: &Path, links: usize) -> PathBuf {
    if let Ok(place) = file.canonicalize() {
        return place;
    }
    if let Ok(next) = file.read_link()
        && links > 0
    {
        return leads_to(&parent(file).join(next), links - 1);
    }
    match file.file_name() {
        Some(name) => leads_to(&parent(file), links).join(name),
        None => file.to_owned(),
    }
}

/// Whether a name leads by way of what some process holds open, as /dev/stdout and /proc/self/fd/1 do: such a one is not
/// replaced, since whoever holds it would see nothing of what is written.
pub fn is_held_open(file: &Path, links: usize) -> bool {
    parent(file).canonicalize().is_ok_and(|folder| folder.starts_with("/proc"))
        || file.read_link().is_ok_and(|next| links > 0 && is_held_open(&parent(file).join(next), links - 1))
}

/// The folder a file stands in.
fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Exit, dispatch};
    use crate::engine::Workspace;

    /// Every command that writes a file that is named for it.
    const COMMANDS: [&str; 11] = [
        "import people.csv --list news --rejects",
        "report welcome --csv",
        "report welcome --html",
        "export contacts --to",
        "export outcomes welcome --to",
        "suppress export --to",
        "contacts export ada@example.net --to",
        "bench --messages 1 --html",
        "sink --listen 192.0.2.1:1 --certificate",
        "sink --listen 192.0.2.1:1 --save",
        "send welcome --dry-run",
    ];

    fn workspace() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        Workspace::create(folder.path()).unwrap();
        fs::write(folder.path().join("state/audience.db"), "the record").unwrap();
        folder
    }

    #[tokio::test]
    async fn no_command_writes_over_a_file_of_the_workspace() {
        let folder = workspace();
        let own = folder.path().join("state/audience.db");
        for command in COMMANDS {
            let start = ["mailshot", "-C", folder.path().to_str().unwrap()];
            let words = start.into_iter().chain(command.split(' ')).chain([own.to_str().unwrap()]);
            let refused = dispatch(Cli::try_parse_from(words).unwrap()).await.unwrap_err();
            assert_eq!(refused.exit(), Exit::Usage, "{command}");
            let words = format!("{refused:?}");
            assert!(words.contains("a file of the workspace itself"), "{command}: {words}");
        }
        assert_eq!(fs::read_to_string(&own).unwrap(), "the record");
    }

    #[test]
    fn own_files_are_known_by_whatever_way_a_name_leads_to_them() {
        let folder = workspace();
        let elsewhere = tempfile::tempdir().unwrap();
        let (inside, outside) = (|name: &str| folder.path().join(name), |name: &str| elsewhere.path().join(name));
        symlink(inside("state/audience.db"), outside("link")).unwrap();
        symlink(inside("state/none.db"), outside("dangling")).unwrap();
        symlink(inside("state"), outside("folder")).unwrap();
        symlink(outside("table.csv"), inside("state/out")).unwrap();
        fs::create_dir(inside("public")).unwrap();
        fs::write(inside("public/left.hbs"), "a page").unwrap();
        fs::write(inside("mailshot.toml"), format!("[store]\nurl = \"sqlite:{}\"\n", outside("people.db").display()))
            .unwrap();
        for own in [
            inside("mailshot.toml"),
            inside("rules.toml"),
            inside("state/keys/seal.keys"),
            inside("state/new.csv"),
            inside("state/out"),
            inside("campaigns/../state/audience.db"),
            inside("campaigns/welcome/body.md"),
            inside("templates/plain.html"),
            outside("link"),
            outside("dangling"),
            outside("folder/new.csv"),
            outside("people.db"),
            outside("people.db-wal"),
            inside("public/left.hbs"),
        ] {
            assert!(refuse_own(folder.path(), &own).is_err(), "{own:?}");
        }
        fs::write(outside("table.csv"), "old").unwrap();
        for free in [inside("table.csv"), inside("campaigns/welcome/rejects.csv"), outside("table.csv"), outside("x/y")]
        {
            assert!(refuse_own(folder.path(), &free).is_ok(), "{free:?}");
        }
    }

    #[test]
    fn no_record_queue_or_key_is_written_over_whosever_it_is() {
        let (one, other) = (workspace(), workspace());
        let at = |name: &str| other.path().join(name);
        fs::create_dir_all(at("kept/queue/blobs")).unwrap();
        for part in ["db", "conf", "snap.0000000000000001"] {
            fs::write(at("kept/queue").join(part), "a queue").unwrap();
        }
        fs::write(at("kept/copy.db"), "SQLite format 3\0 and more").unwrap();
        symlink(at("kept/copy.db"), at("link.csv")).unwrap();
        for theirs in [
            "state/audience.db",
            "state/new.csv",
            "state/keys/seal.keys",
            "mailshot.toml",
            "campaigns/welcome/body.md",
            "kept/copy.db",
            "kept/copy.db-wal",
            "link.csv",
            "kept/queue/db",
            "kept/queue/snap.0000000000000001",
        ] {
            for folder in [one.path(), at("kept").as_path()] {
                assert!(refuse_own(folder, &at(theirs)).is_err(), "{theirs} from {folder:?}");
            }
        }
        for free in ["table.csv", "kept/table.csv", "kept/table.csv-wal"] {
            assert!(refuse_own(one.path(), &at(free)).is_ok(), "{free}");
        }
    }
}
