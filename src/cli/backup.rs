//! `backup`: the record and the keys, never the queue: a restored queue would send again.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::ending::Unfinished;
use crate::cli::{Desk, Error, Exit};
use crate::store::{Store, Threads};

/// What a backup holds: the record, first under another name, and the folder of keys.
const RECORD: &str = "audience.db";
const PART: &str = "audience.db.part";
const KEYS: &str = "keys";

/// Writes a backup into a folder that is new or empty.
pub fn run(desk: &Desk, folder: &Path) -> Result<Exit, Error> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::usage(format!("{} is not empty: a backup is never mixed with another", folder.display())));
    }
    let store = desk.workspace().store(Threads::Own)?;
    let is_new = !folder.exists();
    let undone = folder.to_owned();
    let begun = Unfinished::begin(|| make_private(folder), move || clear(&undone, is_new));
    let ((), unfinished) = begun.map_err(|why| failed(folder, why))?;
    let keys = copy(&store, &desk.workspace().keys_folder(), folder)?;
    // the record gets its name last: who sees it sees a whole backup
    let record = folder.join(RECORD);
    let named = unfinished.finish(|| fs::rename(folder.join(PART), &record).and_then(|()| sync(folder)));
    named.map_err(|why| failed(&record, why))?;
    desk.give(&serde_json::json!({"folder": folder, "store": "audience.db", "keys": keys}));
    desk.say(format!("the record and {keys} key files are in {}", folder.display()));
    desk.say("the queue is not: restored, it would send again what has been sent since");
    desk.say("to restore: put both back into state/, then `mailshot queue rebuild`");
    Ok(Exit::Done)
}

/// Copies the record, under its first name, and the folder of keys; gives how many key files.
fn copy(store: &Store, keys: &Path, folder: &Path) -> Result<u64, Error> {
    store.backup(&folder.join(PART))?;
    copy_private(keys, &folder.join(KEYS))
}

/// Takes away what a backup left that failed. The folder was empty before it. What cannot be removed stays: the failure itself
/// is what is told.
fn clear(folder: &Path, is_new: bool) {
    for file in [RECORD, PART, &format!("{PART}-journal")] {
        let _ = fs::remove_file(folder.join(file));
    }
    let _ = fs::remove_dir_all(folder.join(KEYS));
    if is_new {
        let _ = fs::remove_dir(folder);
    }
}

/// Copies a folder of private files; gives how many. A folder that is not there has none.
fn copy_private(from: &Path, to: &Path) -> Result<u64, Error> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(0) };
    make_private(to).map_err(|why| failed(to, why))?;
    let mut copied = 0;
    for entry in entries {
        let from = entry.map_err(Error::failed)?.path();
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            copied += copy_private(&from, &to)?;
        } else {
            let bytes = fs::read(&from).map_err(|why| failed(&from, why))?;
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&to);
            file.and_then(|mut file| {
                std::io::Write::write_all(&mut file, &bytes)?;
                file.sync_all()
            })
            .map_err(|why| failed(&to, why))?;
            copied += 1;
        }
    }
    sync(to).map_err(|why| failed(to, why))?;
    Ok(copied)
}

/// Puts on disk which files a folder has.
fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)
}

/// A file or folder the system would not give.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
struct FileError {
    path: PathBuf,
    why: io::Error,
}

fn failed(path: &Path, why: io::Error) -> Error {
    Error::failed(FileError { path: path.to_owned(), why })
}
