//! Files that a person names to be written must not be the workspace's own: a table written over its record would end it.

use std::path::{Path, PathBuf};

use super::desk::is_workspace;
use crate::cli::Error;
use crate::config::Settings;

/// What lies in the folder of a workspace and is nobody's to write but its own, whether it is there yet or not.
const OWN: [&str; 4] = ["state", "mailshot.toml", "shaping.toml", "rules.toml"];
/// What people keep there themselves: new files may come to it, and none may be overwritten.
const KEPT: [&str; 2] = ["templates", "campaigns"];
/// Links that are followed to where nothing is yet.
const LINKS_MAX: usize = 40;

/// Refuses `file`, which is to be written, where it is one of the workspace in `folder`, or leads to one.
pub fn refuse_own(folder: &Path, file: &Path) -> Result<(), Error> {
    if is_workspace(folder) && [stands_at(file), leads_to(file, LINKS_MAX)].iter().any(|place| is_own(folder, place)) {
        let file = file.display();
        return Err(Error::usage(format!("{file} is a file of the workspace itself: name another to be written")));
    }
    Ok(())
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
    place.parent() == record.parent() && rest.is_some_and(|rest| ["", "-wal", "-shm", "-journal"].contains(&rest))
}

/// Where the name itself stands, were it a link or not.
fn stands_at(file: &Path) -> PathBuf {
    match file.file_name() {
        Some(name) => leads_to(&parent(file), LINKS_MAX).join(name),
        None => leads_to(file, LINKS_MAX),
    }
}

/// Where a write to `file` ends, through all links, also where nothing is yet.
fn leads_to(file: &Path, links: usize) -> PathBuf {
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
        ] {
            assert!(refuse_own(folder.path(), &own).is_err(), "{own:?}");
        }
        fs::write(outside("table.csv"), "old").unwrap();
        for free in [inside("table.csv"), inside("campaigns/welcome/rejects.csv"), outside("table.csv"), outside("x/y")]
        {
            assert!(refuse_own(folder.path(), &free).is_ok(), "{free:?}");
        }
        assert!(refuse_own(elsewhere.path(), &outside("folder/audience.db")).is_ok(), "that is no workspace");
    }
}
