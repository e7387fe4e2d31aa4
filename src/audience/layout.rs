//! How a file is laid out: what divides its cells, and whether its first row names them. Found from its beginning alone.

use std::io::{self, Read};

use super::cell;
use super::table::{Cells, Flaw, Reopen, Table};

/// What may divide cells.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// The beginning that is looked at, in bytes of UTF-8.
const SAMPLE: u64 = 256 * 1024;
/// Rows that are looked at.
const SAMPLE_ROWS: usize = 200;

/// A file's layout, and its first rows.
#[derive(Debug)]
pub struct Layout {
    /// What divides its cells.
    pub delimiter: u8,
    /// Whether the first line only says what divides cells (`sep=;`, as Excel writes it).
    pub has_hint: bool,
    /// The first row, when it names the columns.
    pub header: Option<Vec<String>>,
    /// First rows below the header, unsound ones left out.
    pub sample: Vec<Vec<String>>,
    /// How many columns there are: those of the header, or more where most rows have more.
    pub width: usize,
}

/// Why no layout can be found.
#[derive(Debug)]
pub enum Unreadable {
    /// There is no row.
    Empty,
    /// The first row, in this line, is unsound.
    FirstRow(u64, Flaw),
    /// The file cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(why: io::Error) -> Unreadable {
        Unreadable::Io(why)
    }
}

impl Layout {
    /// Looks at the beginning of a text; `delimiter` is taken as given when it is.
    pub fn find(text: impl Read, delimiter: Option<u8>) -> Result<Layout, Unreadable> {
        let mut start = Vec::new();
        text.take(SAMPLE).read_to_end(&mut start)?;
        let is_cut = start.len() as u64 == SAMPLE;
        let hint = hint(&start);
        let candidates = match delimiter.or(hint) {
            Some(delimiter) => vec![delimiter],
            None => DELIMITERS.to_vec(),
        };
        let mut best: Option<(f64, u8, Sample)> = None;
        for delimiter in candidates {
            let sample = Sample::read(&start, delimiter, hint.is_some(), is_cut)?;
            let score = sample.score();
            if best.as_ref().is_none_or(|(high, ..)| score > *high) {
                best = Some((score, delimiter, sample));
            }
        }
        let (_, delimiter, sample) = best.expect("there is at least one candidate");
        sample.into_layout(delimiter, hint.is_some())
    }

    /// The rows below the header.
    pub fn rows(&self, text: Reopen) -> io::Result<Table> {
        let mut table = Table::open(self.delimiter, text)?;
        if self.has_hint {
            table.skip_line()?;
        }
        if self.header.is_some() {
            while table.next()?.is_some_and(|row| row.cells.is_ok_and(|cells| cells.is_blank())) {}
        }
        Ok(table)
    }

    /// The delimiter's name.
    pub fn delimiter_name(&self) -> &'static str {
        match self.delimiter {
            b',' => "comma",
            b';' => "semicolon",
            b'\t' => "tab",
            b'|' => "bar",
            _ => "character of its own",
        }
    }
}

/// The delimiter that a first line `sep=X` names.
fn hint(start: &[u8]) -> Option<u8> {
    match start {
        [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', delimiter, b'\r' | b'\n', ..] if delimiter.is_ascii() => {
            Some(*delimiter)
        }
        _ => None,
    }
}

/// First rows, as one delimiter would have them.
struct Sample {
    rows: Vec<Vec<String>>,
    first: Option<(u64, Flaw)>,
}

impl Sample {
    fn read(start: &[u8], delimiter: u8, has_hint: bool, is_cut: bool) -> io::Result<Sample> {
        let copy = start.to_vec();
        let mut table = Table::open(delimiter, Box::new(move || Ok(Box::new(io::Cursor::new(copy.clone())))))?;
        if has_hint {
            table.skip_line()?;
        }
        let mut sample = Sample { rows: Vec::new(), first: None };
        let owned = |cells: Cells<'_>| cells.iter().map(str::to_owned).collect::<Vec<_>>();
        let mut is_whole = false;
        while sample.rows.len() < SAMPLE_ROWS {
            let Some(row) = table.next()? else {
                is_whole = true;
                break;
            };
            match row.cells {
                Ok(cells) if cells.is_blank() => {}
                Ok(cells) => sample.rows.push(owned(cells)),
                Err(flaw) if sample.rows.is_empty() && sample.first.is_none() => sample.first = Some((row.line, flaw)),
                Err(_) => {}
            }
        }
        if is_whole && is_cut && sample.rows.len() > 1 {
            sample.rows.pop();
        }
        Ok(sample)
    }

    /// How well the delimiter fits: rows of equal width, more than one cell, and an address that stands alone.
    fn score(&self) -> f64 {
        let Some(first) = self.rows.first() else { return 0.0 };
        let alike = self.rows.iter().filter(|row| row.len() == first.len()).count() as f64 / self.rows.len() as f64;
        let width = 1.0 - 1.0 / first.len() as f64;
        let mut cells = self.rows.iter().take(20).flatten();
        let has_address = cells.any(|cell| cell::is_address(cell));
        (0.2 + 0.8 * alike) * width + if has_address { 0.5 } else { 0.0 }
    }

    fn into_layout(self, delimiter: u8, has_hint: bool) -> Result<Layout, Unreadable> {
        if let Some((line, flaw)) = self.first {
            return Err(Unreadable::FirstRow(line, flaw));
        }
        let mut rows = self.rows;
        let first = rows.first().ok_or(Unreadable::Empty)?;
        let has_header = !first.iter().any(|cell| cell::is_address(cell));
        let header = has_header.then(|| rows.remove(0));
        let width = width(header.as_deref(), &rows);
        Ok(Layout { delimiter, has_hint, header, sample: rows, width })
    }
}

fn width(header: Option<&[String]>, rows: &[Vec<String>]) -> usize {
    let named = header.map_or(0, <[String]>::len);
    let wider = rows.iter().filter(|row| row.len() > named).count();
    let widest = rows.iter().map(Vec::len).max().unwrap_or_default();
    if wider * 2 > rows.len() { widest } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, delimiter: u8, header: Option<&[&str]>, rows: usize) {
        let layout = Layout::find(text.as_bytes(), None).unwrap();
        let found = layout.header.as_ref().map(|cells| cells.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((char::from(layout.delimiter), found.as_deref()), (char::from(delimiter), header), "{text:?}");
        assert_eq!(layout.sample.len(), rows, "{text:?}");
        let copy = text.to_owned();
        let mut table =
            layout.rows(Box::new(move || Ok(Box::new(io::Cursor::new(copy.clone().into_bytes()))))).unwrap();
        let mut count = 0;
        while table.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, rows, "{text:?}");
    }

    #[test]
    fn delimiter_and_header_are_found() {
        check("email,name\na@example.org,A\n", b',', Some(&["email", "name"]), 1);
        check("email;note\na@example.org;\"x, y\"\nb@example.org;1,5\n", b';', Some(&["email", "note"]), 2);
        check("email\tname\na@example.org\tA, B; C\n", b'\t', Some(&["email", "name"]), 1);
        check("email|name\na@example.org|A\n", b'|', Some(&["email", "name"]), 1);
        check("sep=;\r\nemail;name\r\na@example.org;A\r\n", b';', Some(&["email", "name"]), 1);
        check("a@example.org\nb@example.org\n", b',', None, 2);
        check("a@example.org;Ann\nb@example.org;Bob\n", b';', None, 2);
        check("email,name,city\na@example.org,A\nb@example.org\n", b',', Some(&["email", "name", "city"]), 2);
        check("\n\nemail\n", b',', Some(&["email"]), 0);
    }

    #[test]
    fn nothing_is_no_layout() {
        for text in ["", "\n\n", "sep=;\n"] {
            assert!(matches!(Layout::find(text.as_bytes(), None), Err(Unreadable::Empty)), "{text:?}");
        }
        let open = Layout::find("\"email,name\na@example.org,A\n".as_bytes(), None);
        assert!(matches!(open, Err(Unreadable::FirstRow(1, Flaw::OpenQuote))), "{open:?}");
    }
}
