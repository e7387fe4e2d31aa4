//! The connections: one writer thread that commits what has piled up, a pool of readers, and the words for what
//! SQLite complains about. The only file that opens SQLite.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::sync::{mpsc, oneshot};

use super::migrate::migrate;
use super::{Error, Threads};

/// Pages in the write-ahead log, of 4 KiB each, at which they are copied into the file: often enough that the log stays
/// small, seldom enough that a page changed again and again is copied once.
const CHECKPOINT_PAGES: u32 = 8_000;
/// Memory for the pages of the writer and of each reader, in KiB. What they miss, the system's own cache has: a writer with four
/// times as much reads a page less for every eight copies sent, which is nothing, and imports no faster.
const WRITER_CACHE_KB: i32 = 2_048;
const READER_CACHE_KB: i32 = 1_024;
/// Jobs that may wait for the writer.
const WAITING_MAX: usize = 256;
/// Jobs committed together.
const GROUP_MAX: usize = 128;
/// Idle readers kept open.
const READERS_MAX: usize = 8;
/// How long a lock of another process is waited for.
const BUSY: Duration = Duration::from_secs(10);
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 64;

/// Work inside the writer's transaction, or the reason why there is none; gives what is to be done once the commit has
/// succeeded or failed, and why the work failed.
type Job = Box<dyn FnOnce(Result<Turn, Error>) -> (Answer, Option<Error>) + Send>;
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// A job's turn in the writer's transaction.
#[derive(Clone, Copy)]
struct Turn<'a> {
    db: &'a Connection,
    /// Nothing of others is in the transaction yet.
    is_first: bool,
}

impl Turn<'_> {
    /// Does the work; where it fails nothing of it is left, and all that was before is. Whoever comes first takes the
    /// transaction along, and so is spared a copy of every page it changes.
    fn take<T>(self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let Turn { db, is_first } = self;
        if is_first { work(db).inspect_err(|_| undo(db)) } else { in_savepoint(db, work) }
    }
}

/// What the writer is asked to do.
enum Task {
    /// Committed together with whatever else has piled up.
    Shared(Job),
    /// In a transaction of its own, which it begins and ends itself.
    Alone(Box<dyn FnOnce(&Connection) + Send>),
}

pub(super) struct Backend {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    writer: Writer,
    damage: OnceLock<Error>,
}

enum Writer {
    Thread(mpsc::Sender<Task>),
    Inline(Mutex<Connection>),
}

impl Backend {
    pub(super) fn open(path: PathBuf, threads: Threads) -> Result<Backend, Error> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let failed = |why: std::io::Error| Error::Open { path: path.clone(), why: why.to_string() };
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        if path.as_os_str() != ":memory:" {
            make_private(&path).map_err(|why| Error::Open { path: path.clone(), why: why.to_string() })?;
        }
        let mut connection = connect(&path)?;
        let told = |error| told(&path, &error);
        connection.pragma_update(None, "journal_mode", "wal").map_err(told)?;
        connection.pragma_update(None, "synchronous", "full").map_err(told)?;
        connection.pragma_update(None, "secure_delete", "on").map_err(told)?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KB).map_err(told)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(told)?;
        migrate(&mut connection, &path)?;
        let writer = match threads {
            Threads::Inline => Writer::Inline(Mutex::new(connection)),
            Threads::Own => Writer::Thread(start_writer(connection, path.clone())?),
        };
        Ok(Backend { path, readers: Mutex::default(), writer, damage: OnceLock::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn damage(&self) -> Option<Error> {
        self.damage.get().cloned()
    }

    /// Remembers damage, whoever met it.
    fn noted<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Corrupt { .. }) = &done {
            self.damage.get_or_init(|| error.clone());
        }
        done
    }

    /// Runs `work` on a reader, on the caller's thread.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        self.noted(self.read_by(work))
    }

    fn read_by<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        if let Writer::Inline(connection) = &self.writer {
            return work(&lock(connection)).map_err(|error| told(&self.path, &error));
        }
        let idle = lock(&self.readers).pop();
        let reader = idle.map_or_else(|| connect(&self.path), Ok)?;
        let done = work(&reader).map_err(|error| told(&self.path, &error));
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_MAX {
            readers.push(reader);
        }
        done
    }

    /// Runs `work` in a transaction; when this returns `Ok`, what it wrote is on disk. A failing `work` leaves nothing
    /// behind and does not hurt the other jobs of its commit.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let jobs = match &self.writer {
            Writer::Thread(jobs) => jobs,
            Writer::Inline(connection) => return self.noted(self.write_inline(&lock(connection), work)),
        };
        let (answer, answered) = oneshot::channel();
        let path = self.path.clone();
        let job: Job = Box::new(move |turn| {
            let done = turn.and_then(|turn| turn.take(work).map_err(|error| told(&path, &error)));
            let failed = done.as_ref().err().cloned();
            let answer: Answer =
                Box::new(move |committed| drop(answer.send(done.and_then(|value| committed.map(|()| value)))));
            (answer, failed)
        });
        jobs.send(Task::Shared(job)).await.map_err(|_| Error::Closed)?;
        self.noted(answered.await.map_err(|_| Error::Closed)?)
    }

    /// As [`Backend::write`], for work that changes many pages: in a transaction of its own, which needs no copy of every
    /// page to be able to go back to where it began.
    pub(super) async fn write_alone<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let jobs = match &self.writer {
            Writer::Thread(jobs) => jobs,
            Writer::Inline(connection) => {
                return self.noted(in_transaction(&lock(connection), work).map_err(|error| told(&self.path, &error)));
            }
        };
        let (answer, answered) = oneshot::channel();
        let task = Task::Alone(Box::new(move |db| drop(answer.send(in_transaction(db, work)))));
        jobs.send(task).await.map_err(|_| Error::Closed)?;
        let done = answered.await.map_err(|_| Error::Closed)?;
        self.noted(done.map_err(|error| told(&self.path, &error)))
    }

    fn write_inline<T>(
        &self,
        db: &Connection,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        in_savepoint(db, work).map_err(|error| told(&self.path, &error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside a statement rolls back with its savepoint; the connection itself stays sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the file before SQLite does, for its owner alone: it holds people. What SQLite lays beside it has the same mode.
pub(super) fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => Err(why),
        _ => Ok(()),
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let told = |error| told(path, &error);
    let connection = Connection::open_with_flags(path, flags).map_err(told)?;
    connection.busy_timeout(BUSY).map_err(told)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // else a plan may depend on what is bound, and every new value compiles its statement anew
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(told)?;
    connection.pragma_update(None, "foreign_keys", "on").map_err(told)?;
    connection.pragma_update(None, "temp_store", "memory").map_err(told)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KB).map_err(told)?;
    Ok(connection)
}

fn start_writer(connection: Connection, path: PathBuf) -> Result<mpsc::Sender<Task>, Error> {
    let (jobs, waiting) = mpsc::channel(WAITING_MAX);
    let failed = |why: std::io::Error| Error::Open { path: path.clone(), why: why.to_string() };
    let name = "store-writer".to_owned();
    std::thread::Builder::new()
        .name(name)
        .spawn({
            let path = path.clone();
            move || write_all(&connection, waiting, &path)
        })
        .map_err(failed)?;
    Ok(jobs)
}

/// The writer's life.
fn write_all(db: &Connection, mut waiting: mpsc::Receiver<Task>, path: &Path) {
    let mut next = None;
    while let Some(task) = next.take().or_else(|| waiting.blocking_recv()) {
        match task {
            Task::Alone(work) => work(db),
            Task::Shared(first) => next = write_group(db, first, &mut waiting, path),
        }
    }
    let _ = db.execute_batch("PRAGMA optimize");
}

/// Takes what has piled up, commits it once, answers all. Gives the task that it met and that has to wait.
fn write_group(db: &Connection, first: Job, waiting: &mut mpsc::Receiver<Task>, path: &Path) -> Option<Task> {
    let begun = db.execute_batch("BEGIN IMMEDIATE").map_err(|error| told(path, &error));
    let (mut answers, mut alone, mut next) = (Vec::new(), None, Some(first));
    let mut undone = None;
    while let Some(job) = next.take() {
        let (answer, failed) = job(begun.clone().map(|()| Turn { db, is_first: answers.is_empty() }));
        answers.push(answer);
        if begun.is_ok() && db.is_autocommit() {
            // the first one failed; or a disk that is full or failing undid the whole, not only what it was met by
            undone = failed.or(Some(Error::Statement { path: path.to_owned(), why: "undone by its disk".to_owned() }));
            break;
        }
        match waiting.try_recv() {
            Ok(Task::Shared(job)) if answers.len() < GROUP_MAX => next = Some(job),
            Ok(task) => alone = Some(task),
            Err(_) => {}
        }
    }
    let committed = match undone {
        Some(error) => Err(error),
        None => begun.and_then(|()| db.execute_batch("COMMIT").map_err(|error| told(path, &error))),
    };
    if committed.is_err() {
        undo(db);
    }
    for answer in answers {
        answer(committed.clone());
    }
    alone
}

fn in_transaction<T>(db: &Connection, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let done = work(db).and_then(|value| db.execute_batch("COMMIT").map(|()| value));
    if done.is_err() {
        undo(db);
    }
    done
}

/// Undoes the transaction, unless that is done already.
fn undo(db: &Connection) {
    if !db.is_autocommit() {
        let _ = db.execute_batch("ROLLBACK");
    }
}

fn in_savepoint<T>(db: &Connection, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    db.execute_batch("SAVEPOINT job")?;
    match work(db) {
        Ok(value) => db.execute_batch("RELEASE job").map(|()| value),
        Err(error) => {
            let _ = db.execute_batch("ROLLBACK TO job; RELEASE job");
            Err(error)
        }
    }
}

/// SQLite's complaint in words that say what to do.
pub(super) fn told(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.to_owned();
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked(path),
        Some(ErrorCode::ReadOnly) => Error::ReadOnly(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt { path, why },
        Some(ErrorCode::SystemIoFailure) => Error::Disk { path, why },
        Some(ErrorCode::CannotOpen) if is_on_read_only_disk(&path) => Error::ReadOnly(path),
        Some(ErrorCode::CannotOpen) => Error::Open { path, why },
        _ => Error::Statement { path, why },
    }
}

/// The files that SQLite lays beside the record cannot be made on such a disk; it says no more than that.
fn is_on_read_only_disk(path: &Path) -> bool {
    let disk = path.parent().and_then(|folder| statvfs(folder).ok());
    disk.is_some_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY))
}

pub(super) fn mark(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value: Option<i64> =
        db.prepare_cached("SELECT value FROM marks WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()?;
    Ok(value.unwrap_or(0) as u64)
}

pub(super) fn set_mark(db: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO marks (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")?
        .execute((name, value as i64))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[tokio::test]
    async fn what_a_full_disk_undoes_is_told_to_everybody_it_concerns() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::open(folder.path().join("store.db"), Threads::Own).unwrap();
        let limit = |db: &Connection| {
            db.execute_batch("CREATE TABLE notes (number INTEGER PRIMARY KEY, text BLOB)")?;
            let pages: u32 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            db.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), [], |_| Ok(()))
        };
        backend.write(limit).await.unwrap();
        let note = |number: u32| {
            let insert = "INSERT INTO notes VALUES (?1, zeroblob(700))";
            backend.write(move |db| db.execute(insert, [number]).map(drop))
        };
        let told = futures_util::future::join_all((0..300).map(note)).await;
        let kept: Vec<u32> = backend
            .read(|db| {
                db.prepare("SELECT number FROM notes ORDER BY number")?.query_map([], |row| row.get(0))?.collect()
            })
            .unwrap();
        let yes: Vec<u32> = (0..300).filter(|number| told[*number as usize].is_ok()).collect();
        assert_eq!(yes, kept);
        for error in told.iter().filter_map(|told| told.as_ref().err()) {
            assert!(matches!(error, Error::Full(_)), "{error:?}");
        }
        assert!(!kept.is_empty() && kept.len() < 300, "{}", kept.len());
    }

    #[tokio::test]
    async fn work_that_fails_leaves_nothing_behind_and_takes_nobody_along() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::open(folder.path().join("store.db"), Threads::Own).unwrap();
        backend.write(|db| db.execute_batch("CREATE TABLE notes (number INTEGER PRIMARY KEY)")).await.unwrap();
        let put = |db: &Connection, number: u32| db.execute("INSERT INTO notes VALUES (?1)", [number]).map(drop);
        // every second one fails over its second note, the first among them
        let note = |number: u32| {
            backend.write(move |db| {
                put(db, number)?;
                if number.is_multiple_of(2) { put(db, number) } else { Ok(()) }
            })
        };
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = backend.write_alone(move |_| {
            let _ = wait.recv();
            Ok(())
        });
        let notes = futures_util::future::join_all((0..9).map(note));
        // all wait for the writer by the time it is free
        let go = async move { drop(go) };
        let (busy, told, ()) = tokio::join!(biased; busy, notes, go);
        busy.unwrap();
        let kept: Vec<u32> = backend
            .read(|db| db.prepare("SELECT number FROM notes ORDER BY 1")?.query_map([], |row| row.get(0))?.collect())
            .unwrap();
        assert_eq!(kept, [1, 3, 5, 7]);
        assert!(told.iter().enumerate().all(|(number, told)| told.is_ok() == (number % 2 == 1)), "{told:?}");
    }

    #[test]
    fn a_statement_is_compiled_once_whatever_is_bound() {
        let folder = tempfile::tempdir().unwrap();
        let backend = Backend::open(folder.path().join("store.db"), Threads::Inline).unwrap();
        let compiled_anew = backend.read(|db| {
            // a partial index, and one with samples of its values: both tempt the planner to look at what is bound
            db.execute_batch(
                "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                 INSERT INTO contacts (address, bucket, created, changed) SELECT i || '@example.com', i % 7, 0, 0 FROM n; \
                 CREATE INDEX by_bucket ON contacts (bucket); ANALYZE",
            )?;
            let mut again = 0;
            for sql in [
                "UPDATE copies SET standing = ?3 WHERE launch = ?1 AND contact = ?2 AND standing <> ?3",
                "SELECT text FROM copies WHERE launch = ?1 AND standing IN (1, 3) AND standing = ?2 AND contact > ?3",
                "SELECT id FROM contacts WHERE bucket = ?1 AND id > ?2 AND changed < ?3",
            ] {
                let mut statement = db.prepare(sql)?;
                for value in 1..5 {
                    let mut rows = statement.query([value, value + 1, value + 2])?;
                    while rows.next()?.is_some() {}
                }
                again += statement.get_status(StatementStatus::RePrepare);
            }
            Ok(again)
        });
        assert_eq!(compiled_anew.unwrap(), 0);
    }
}
