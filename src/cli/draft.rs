//! Files that appear whole or not at all, and tables in them that no spreadsheet takes for formulas.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ending::Unfinished;
use super::outward::{LINKS_MAX, is_held_open, leads_to};
use crate::cli::Error;

/// What stands in the way of writing a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {place}: {why}; nothing of it was kept")]
struct WriteError {
    place: String,
    why: io::Error,
}

/// A file being written. It takes its name when it is finished; dropped before, it leaves nothing behind.
pub struct Draft {
    to: Option<PathBuf>,
    part: Option<Part>,
    out: BufWriter<Box<dyn Write>>,
}

impl Draft {
    /// Begins a file; without a name, or with one that leads there, standard output. What a link leads to is replaced, not
    /// the link. A device, a pipe or what another program holds open is written as it goes.
    pub fn begin(to: Option<&Path>) -> Result<Draft, Error> {
        let Some(path) = to.filter(|path| !is_standard_output(path)) else {
            return Ok(Draft { to: None, part: None, out: BufWriter::new(Box::new(io::stdout())) });
        };
        let is_replaced = path.metadata().map_or(true, |found| found.is_file()) && !is_held_open(path, LINKS_MAX);
        let begun = match is_replaced {
            true => Part::begin(leads_to(path, LINKS_MAX)).map(|(part, file)| (Some(part), file)),
            false => File::options().append(true).open(path).map(|file| (None, file)),
        };
        let (part, file) = begun.map_err(|why| failed(to, why))?;
        Ok(Draft { to: Some(path.to_owned()), part, out: BufWriter::new(Box::new(file)) })
    }

    /// Writes all that is to be in it and gives the file its name.
    pub fn fill(mut self, content: impl AsRef<[u8]>) -> Result<(), Error> {
        self.out.write_all(content.as_ref()).map_err(|why| failed(self.to.as_deref(), why))?;
        self.finish()
    }

    fn finish(mut self) -> Result<(), Error> {
        let flushed = self.out.flush();
        let named = flushed.and_then(|()| self.part.take().map_or(Ok(()), Part::finish));
        named.map_err(|why| failed(self.to.as_deref(), why))
    }
}

/// Names that are tried for a file that is not finished.
const PARTS_MAX: u32 = 1000;

/// A file that is not finished: beside the one it is to become, under a name that was nobody's.
struct Part {
    name: PathBuf,
    becomes: PathBuf,
    unfinished: Unfinished,
}

impl Part {
    fn begin(becomes: PathBuf) -> io::Result<(Part, File)> {
        let last = becomes.file_name().unwrap_or_default().to_owned();
        let names = (0..PARTS_MAX).map(|number| {
            let mut name = last.clone();
            name.push(if number == 0 { ".part".to_owned() } else { format!(".{number}.part") });
            becomes.with_file_name(name)
        });
        for name in names {
            let undone = name.clone();
            let undo = move || drop(std::fs::remove_file(undone));
            match Unfinished::begin(|| File::create_new(&name), undo) {
                Ok((file, unfinished)) => return Ok((Part { name, becomes, unfinished }, file)),
                Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
                Err(why) => return Err(why),
            }
        }
        Err(io::Error::new(ErrorKind::AlreadyExists, "too many unfinished files (.part) lie beside it"))
    }

    /// Gives it its name.
    fn finish(self) -> io::Result<()> {
        self.unfinished.finish(|| std::fs::rename(&self.name, &self.becomes))
    }
}

/// Whether a name leads to whatever standard output is now.
fn is_standard_output(path: &Path) -> bool {
    let out = io::stdout().as_fd().try_clone_to_owned().and_then(|out| File::from(out).metadata());
    let (Ok(place), Ok(out)) = (path.metadata(), out) else { return false };
    (place.dev(), place.ino()) == (out.dev(), out.ino())
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The error of a write. A reader of standard output that has gone away (as `head` does) ends the process quietly.
fn failed(to: Option<&Path>, why: io::Error) -> Error {
    if to.is_none() && why.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let place = to.map_or("standard output".to_owned(), |path| path.display().to_string());
    Error::failed(WriteError { place, why })
}

/// What becomes of cells that a spreadsheet would take for a formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// An apostrophe before them, and quotes around all: for people (H-05).
    Guarded,
    /// As they are: for programs.
    Raw,
}

/// A table in CSV (RFC 4180), written row by row.
pub struct Sheet {
    to: Option<PathBuf>,
    writer: csv::Writer<Draft>,
    cells: Cells,
}

impl Sheet {
    /// Begins a table with its heading.
    pub fn begin(to: Option<&Path>, cells: Cells, heading: &[&str]) -> Result<Sheet, Error> {
        let quotes = match cells {
            Cells::Guarded => csv::QuoteStyle::Always,
            Cells::Raw => csv::QuoteStyle::Necessary,
        };
        let mut builder = csv::WriterBuilder::new();
        let draft = Draft::begin(to)?;
        let to = draft.to.clone();
        let writer = builder.quote_style(quotes).terminator(csv::Terminator::CRLF).from_writer(draft);
        let mut sheet = Sheet { to, writer, cells };
        sheet.row(heading)?;
        Ok(sheet)
    }

    /// Writes one row, as wide as the heading.
    pub fn row(&mut self, cells: &[impl AsRef<str>]) -> Result<(), Error> {
        let shown = cells.iter().map(|cell| match self.cells {
            Cells::Guarded => guarded(cell.as_ref()),
            Cells::Raw => Cow::Borrowed(cell.as_ref()),
        });
        let written = self.writer.write_record(shown.map(|cell| cell.into_owned()));
        written.map_err(|why| failed(self.to.as_deref(), as_io(why)))
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<(), Error> {
        let draft = self.writer.into_inner().map_err(|why| failed(self.to.as_deref(), why.into_error()))?;
        draft.finish()
    }
}

/// What the system said; the csv library's own conversion forgets its kind.
fn as_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(why) => why,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// A cell that no spreadsheet computes (H-05), whichever of comma, semicolon and tab it takes for the end of a cell: one that
/// divides by another than ours does not see our quotes, and begins cells inside of them. What steers a terminal becomes
/// blanks.
fn guarded(cell: &str) -> Cow<'_, str> {
    let begins_formula = |c: char| "=+-@\t\r\0＝＋－＠".contains(c);
    let may_begin_cell = |c: char| matches!(c, ';' | '\t' | '\n' | '\r') || c.is_control() || c == '"';
    if !cell.starts_with(begins_formula) && !cell.contains(may_begin_cell) {
        return Cow::Borrowed(cell);
    }
    let mut safe = String::with_capacity(cell.len() + 8);
    let mut is_begin = true;
    for c in cell.replace("\r\n", "\n").chars() {
        if is_begin && begins_formula(c) {
            safe.push('\'');
            is_begin = false;
        }
        match c {
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
        is_begin = matches!(c, ';' | '\t' | '\n' | '\r') || is_begin && matches!(c, ' ' | '"');
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_cell_is_taken_for_a_formula() {
        for cell in ["=1+1", "+49 30", "-1", "@SUM(A1)", "＝1", "＠x"] {
            assert_eq!(guarded(cell), format!("'{cell}"));
        }
        for (cell, shown) in [
            ("\t=1", "'\t'=1"),
            ("\r=1", "' '=1"),
            ("\0-1", "' -1"),
            // where the semicolon, the tab or a line ends a cell
            ("x;=1+1", "x;'=1+1"),
            ("x; \"=1+1", "x; \"'=1+1"),
            ("x\t+1", "x\t'+1"),
            ("x\r\n-1\n@x", "x\n'-1\n'@x"),
            ("\x1b[2J\u{9b}x\x7f", " [2J x "),
        ] {
            assert_eq!(guarded(cell), shown, "{cell:?}");
        }
        for cell in ["", "ann@example.com", "a=b", "'=1", "a, -1; b - 1", "two\nlines; \"three\""] {
            assert_eq!(guarded(cell), cell);
        }
    }

    #[test]
    fn tables_for_people_are_guarded_and_those_for_programs_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let write = |cells| {
            let mut sheet = Sheet::begin(Some(&path), cells, &["a", "b"]).unwrap();
            sheet.row(&["=1", "say \"no\", twice"]).unwrap();
            sheet.finish().unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        assert_eq!(write(Cells::Guarded), "\"a\",\"b\"\r\n\"'=1\",\"say \"\"no\"\", twice\"\r\n");
        assert_eq!(write(Cells::Raw), "a,b\r\n=1,\"say \"\"no\"\", twice\"\r\n");
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        drop(Sheet::begin(Some(&path), Cells::Raw, &["a"]).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        Sheet::begin(Some(&path), Cells::Raw, &["a", "b"]).unwrap().finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a,b\r\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_written_at_its_end_and_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("tables")).unwrap();
        std::fs::write(at("tables/old.csv"), "old").unwrap();
        for (link, end) in [("a.csv", "tables/old.csv"), ("b.csv", "tables/new.csv")] {
            symlink(end, at(link)).unwrap();
            Draft::begin(Some(&at(link))).unwrap().fill("a table").unwrap();
            assert!(at(link).is_symlink(), "{link}");
            assert_eq!(std::fs::read_to_string(at(end)).unwrap(), "a table", "{link}");
        }
        assert_eq!(std::fs::read_dir(at("tables")).unwrap().count(), 2, "nothing lies beside them");
    }

    #[test]
    fn what_is_no_file_of_a_name_is_written_as_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, log) = (folder.path().join("pipe"), folder.path().join("log"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        Draft::begin(Some(&pipe)).unwrap().fill("a table").unwrap();
        assert_eq!(reader.join().unwrap(), "a table");

        std::fs::write(&log, "a line\n").unwrap();
        let open = File::options().append(true).open(&log).unwrap();
        let place = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let link = folder.path().join("link");
        symlink(&place, &link).unwrap();
        for path in [&place, &link] {
            Draft::begin(Some(path)).unwrap().fill("a table\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a line\na table\na table\n");
        assert_eq!(open.metadata().unwrap().ino(), log.metadata().unwrap().ino(), "it was replaced");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn no_file_is_lost_to_one_that_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.csv.part"), "mine").unwrap();
        std::fs::write(at("record"), "the record").unwrap();
        symlink("record", at("a.csv.1.part")).unwrap();
        symlink("nothing", at("a.csv.2.part")).unwrap();
        drop(Sheet::begin(Some(&at("a.csv")), Cells::Raw, &["a"]).unwrap());
        Draft::begin(Some(&at("a.csv"))).unwrap().fill("a table").unwrap();
        for (name, text) in [("a.csv", "a table"), ("a.csv.part", "mine"), ("record", "the record")] {
            assert_eq!(std::fs::read_to_string(at(name)).unwrap(), text, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }
}
