//! Files that appear whole or not at all, and tables in them that no spreadsheet takes for formulas.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

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
    part: Option<PathBuf>,
    out: BufWriter<Box<dyn Write>>,
}

impl Draft {
    /// Begins a file; without a name, standard output. A device or pipe is written as it goes.
    pub fn begin(to: Option<&Path>) -> Result<Draft, Error> {
        let Some(path) = to else {
            return Ok(Draft { to: None, part: None, out: BufWriter::new(Box::new(io::stdout())) });
        };
        let replaces = path.metadata().map_or(true, |found| found.is_file());
        let part = replaces.then(|| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".part");
            path.with_file_name(name)
        });
        let file = File::create(part.as_deref().unwrap_or(path)).map_err(|why| failed(to, why))?;
        Ok(Draft { to: Some(path.to_owned()), part, out: BufWriter::new(Box::new(file)) })
    }

    /// Writes a text and gives the file its name.
    pub fn fill(mut self, text: &str) -> Result<(), Error> {
        self.out.write_all(text.as_bytes()).map_err(|why| failed(self.to.as_deref(), why))?;
        self.finish()
    }

    fn finish(mut self) -> Result<(), Error> {
        let flushed = self.out.flush();
        let named = flushed.and_then(|()| match (&self.part, &self.to) {
            (Some(part), Some(to)) => std::fs::rename(part, to),
            (None, _) | (_, None) => Ok(()),
        });
        named.map_err(|why| failed(self.to.as_deref(), why))?;
        self.part = None;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = std::fs::remove_file(part);
        }
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
        let writer = builder.quote_style(quotes).terminator(csv::Terminator::CRLF).from_writer(Draft::begin(to)?);
        let mut sheet = Sheet { to: to.map(Path::to_owned), writer, cells };
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
}
