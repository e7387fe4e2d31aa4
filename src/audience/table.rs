//! Rows of a CSV file: read one after the other in bounded memory, each with the line it begins in. Strict where csv
//! readers are lenient, because leniency loses people: a quote that never closes would swallow all rows after it.

use std::fmt;
use std::io::{self, Read};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

/// Longest cell, in bytes of UTF-8.
pub const CELL_MAX: usize = 64 * 1024;
/// Longest row, in bytes of UTF-8.
pub const ROW_MAX: usize = 256 * 1024;
/// Most cells of a row.
pub const CELLS_MAX: usize = 500;
/// How often the rest of a file is read again after a quote that never closes; what follows the last one is refused whole.
const RETURNS_MAX: u32 = 16;
/// Read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// What is wrong with a row as such, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The file ends inside a quoted cell.
    OpenQuote,
    /// As `OpenQuote`, once too often: the rest of the file was not read.
    OpenQuotes,
    /// Text after the quote that closes a cell.
    TextAfterQuote,
    /// More than `ROW_MAX` bytes.
    LongRow,
    /// More than `CELL_MAX` bytes in the cell of this number.
    LongCell(usize),
    /// More than `CELLS_MAX` cells.
    ManyCells,
    /// The cell of this number is not in the file's encoding.
    Encoding(usize),
    /// The cell of this number holds a NUL.
    Nul(usize),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::OpenQuote => f.write_str("a quote is opened in this row and never closed"),
            Flaw::OpenQuotes => f.write_str(
                "a quote is opened in this row and never closed, as in many before it: the rest of the file was not read",
            ),
            Flaw::TextAfterQuote => f.write_str("text follows a closing quote: a quote inside a quoted cell is written twice"),
            Flaw::LongRow => write!(f, "the row is longer than {} KiB", ROW_MAX / 1024),
            Flaw::LongCell(cell) => write!(f, "cell {cell} is longer than {} KiB", CELL_MAX / 1024),
            Flaw::ManyCells => write!(f, "the row has more than {CELLS_MAX} cells"),
            Flaw::Encoding(cell) => write!(f, "cell {cell} is not in the encoding of the file"),
            Flaw::Nul(cell) => write!(f, "cell {cell} holds a NUL character"),
        }
    }
}

/// The cells of one row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cells<'a> {
    text: &'a str,
    ends: &'a [usize],
}

impl<'a> Cells<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether every cell is empty or blank.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// The cell at `index`, from 0; empty where the row is too short.
    pub fn get(&self, index: usize) -> &'a str {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let end = self.ends.get(index).copied();
        start.zip(end).map_or("", |(start, end)| &self.text[start..end])
    }

    /// All cells in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        (0..self.len()).map(move |index| self.get(index))
    }
}

/// A row with the line it begins in, from 1.
#[derive(Debug)]
pub struct Row<'a> {
    /// The line.
    pub line: u64,
    /// Its cells, or what is wrong with it.
    pub cells: Result<Cells<'a>, Flaw>,
}

/// Opens the text again from its beginning.
pub type Reopen = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send>;

/// The rows of one text.
pub struct Table {
    reopen: Reopen,
    text: Box<dyn Read + Send>,
    delimiter: u8,
    parser: Reader,
    buffer: Vec<u8>,
    /// The part of `buffer` that is read and not yet parsed.
    unparsed: std::ops::Range<usize>,
    /// Bytes of the text before `unparsed.start`.
    offset: u64,
    /// Line of `offset`.
    line: u64,
    /// The byte before `offset`.
    last: u8,
    returns: u32,
    ended: bool,
    out: Vec<u8>,
    ends: Vec<usize>,
}

/// What is known of a row while it is read.
#[derive(Default)]
struct Reading {
    /// The line of its first byte.
    line: Option<u64>,
    /// Offset and line after its first line end.
    second: Option<(u64, u64)>,
    quoting: Quoting,
    written: usize,
    cells: usize,
    flaw: Option<Flaw>,
}

impl Table {
    /// Rows of cells divided by `delimiter`.
    pub fn open(delimiter: u8, reopen: Reopen) -> io::Result<Table> {
        let text = reopen()?;
        Ok(Table {
            reopen,
            text,
            delimiter,
            parser: parser(delimiter),
            buffer: vec![0; CHUNK],
            unparsed: 0..0,
            offset: 0,
            line: 1,
            last: 0,
            returns: 0,
            ended: false,
            out: vec![0; 4096],
            ends: vec![0; 64],
        })
    }

    /// Passes over the first line, whatever stands in it.
    pub fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let unparsed = &self.buffer[self.unparsed.clone()];
            if let Some(at) = memchr::memchr2(b'\n', b'\r', unparsed) {
                let is_pair = unparsed[at] == b'\r' && unparsed.get(at + 1) == Some(&b'\n');
                self.pass(at + 1 + usize::from(is_pair));
                self.line = 2;
                return Ok(());
            }
            let length = unparsed.len();
            self.pass(length);
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    /// The next row; `None` at the end. Empty lines are none.
    pub fn next(&mut self) -> io::Result<Option<Row<'_>>> {
        let Some(reading) = self.read_row()? else { return Ok(None) };
        let line = reading.line.unwrap_or(self.line);
        let cells = reading.flaw.map_or_else(|| self.cells(&reading), Err);
        Ok(Some(Row { line, cells }))
    }

    /// Reads one row into `out` and `ends`; `None` at the end.
    fn read_row(&mut self) -> io::Result<Option<Reading>> {
        if self.ended {
            return Ok(None);
        }
        let mut row = Reading { quoting: Quoting::new(self.delimiter), ..Reading::default() };
        loop {
            if self.unparsed.is_empty() {
                self.fill()?;
            }
            let input = &self.buffer[self.unparsed.clone()];
            let (result, read, written, cells) =
                self.parser.read_record(input, &mut self.out[row.written..], &mut self.ends[row.cells..]);
            self.follow(&mut row, read);
            row.written += written;
            row.cells += cells;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.out.len() < ROW_MAX => self.out.resize(self.out.len() * 2, 0),
                ReadRecordResult::OutputFull => (row.written, row.flaw) = (0, Some(Flaw::LongRow)),
                ReadRecordResult::OutputEndsFull if self.ends.len() < CELLS_MAX => {
                    self.ends.resize((self.ends.len() * 2).min(CELLS_MAX), 0);
                }
                ReadRecordResult::OutputEndsFull => (row.cells, row.flaw) = (0, Some(Flaw::ManyCells)),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        if row.quoting.is_open() {
            self.go_back(&mut row)?;
        } else if row.quoting.is_broken {
            row.flaw = row.flaw.or(Some(Flaw::TextAfterQuote));
        }
        Ok(Some(row))
    }

    /// Takes note of lines and quotes in the next `read` bytes, and passes them.
    fn follow(&mut self, row: &mut Reading, read: usize) {
        let mut raw = &self.buffer[self.unparsed.start..self.unparsed.start + read];
        if row.line.is_none() {
            let blank = raw.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            self.line += line_ends(self.last, &raw[..blank]);
            self.last = raw[..blank].last().copied().unwrap_or(self.last);
            raw = &raw[blank..];
            row.line = (!raw.is_empty()).then_some(self.line);
        }
        row.quoting.follow(raw);
        if row.second.is_none()
            && let Some(at) = memchr::memchr2(b'\n', b'\r', raw)
        {
            row.second = Some((self.offset + (read - raw.len() + at) as u64, self.line));
        }
        self.line += line_ends(self.last, raw);
        self.last = raw.last().copied().unwrap_or(self.last);
        self.pass(read);
    }

    /// After a quote that never closes: only the line it stands in is lost, reading goes on with the next.
    fn go_back(&mut self, row: &mut Reading) -> io::Result<()> {
        row.flaw = Some(Flaw::OpenQuote);
        let Some((offset, line)) = row.second else { return Ok(()) };
        if self.returns == RETURNS_MAX {
            row.flaw = Some(Flaw::OpenQuotes);
            self.ended = true;
            return Ok(());
        }
        self.returns += 1;
        self.text = (self.reopen)()?;
        io::copy(&mut (&mut self.text).take(offset), &mut io::sink())?;
        (self.offset, self.line, self.last, self.unparsed) = (offset, line, 0, 0..0);
        self.parser = parser(self.delimiter);
        Ok(())
    }

    /// Reads more text when there is none left; `false` at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let read = loop {
            match self.text.read(&mut self.buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.unparsed = 0..read;
        Ok(read > 0)
    }

    fn pass(&mut self, bytes: usize) {
        self.unparsed.start += bytes;
        self.offset += bytes as u64;
    }

    /// The cells just read, when they are sound text.
    fn cells(&self, row: &Reading) -> Result<Cells<'_>, Flaw> {
        let (bytes, ends) = (&self.out[..row.written], &self.ends[..row.cells]);
        let cell_at = |at: usize| ends.partition_point(|end| *end <= at) + 1;
        if let Some(at) = memchr::memchr(0, bytes) {
            return Err(Flaw::Nul(cell_at(at)));
        }
        let text = std::str::from_utf8(bytes).map_err(|fault| Flaw::Encoding(cell_at(fault.valid_up_to())))?;
        if let Some(at) = text.find('\u{fffd}') {
            return Err(Flaw::Encoding(cell_at(at)));
        }
        // a letter that would be cut in two by the end of a cell: two broken halves that happen to fit
        if let Some(cell) = ends.iter().position(|end| !text.is_char_boundary(*end)) {
            return Err(Flaw::Encoding(cell + 1));
        }
        if bytes.len() > CELL_MAX {
            let starts = std::iter::once(&0).chain(ends);
            if let Some(cell) = ends.iter().zip(starts).position(|(end, start)| end - start > CELL_MAX) {
                return Err(Flaw::LongCell(cell + 1));
            }
        }
        Ok(Cells { text, ends })
    }
}

fn parser(delimiter: u8) -> Reader {
    ReaderBuilder::new().delimiter(delimiter).build()
}

/// Line ends of any kind in `raw`, which follows the byte `last`: a line feed after a carriage return belongs to it.
fn line_ends(last: u8, raw: &[u8]) -> u64 {
    let returns = memchr::memchr_iter(b'\r', raw).count();
    let feeds = memchr::memchr_iter(b'\n', raw).count();
    let pairs = if returns == 0 { 0 } else { memchr::memmem::find_iter(raw, b"\r\n").count() };
    let is_pair = last == b'\r' && raw.first() == Some(&b'\n');
    (returns + feeds - pairs - usize::from(is_pair)) as u64
}

/// Follows the quotes of one row (RFC 4180 §2): is a cell still open, and did text follow a closing quote?
#[derive(Default)]
struct Quoting {
    delimiter: u8,
    place: Place,
    is_broken: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first character of a cell.
    #[default]
    Start,
    /// In a cell without quotes.
    Bare,
    /// In a cell with quotes.
    Inside,
    /// After a quote inside a quoted cell: the end, or the first of two.
    Closing,
}

impl Quoting {
    fn new(delimiter: u8) -> Quoting {
        Quoting { delimiter, ..Quoting::default() }
    }

    fn is_open(&self) -> bool {
        self.place == Place::Inside
    }

    fn follow(&mut self, raw: &[u8]) {
        let is_quiet = matches!(self.place, Place::Start | Place::Bare) && memchr::memchr(b'"', raw).is_none();
        if is_quiet {
            if let Some(last) = raw.last() {
                self.place = if self.ends_cell(*last) { Place::Start } else { Place::Bare };
            }
            return;
        }
        for byte in raw {
            self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) {
        let after = if self.ends_cell(byte) { Place::Start } else { Place::Bare };
        self.place = match (self.place, byte) {
            (Place::Start | Place::Closing, b'"') => Place::Inside,
            (Place::Inside, b'"') => Place::Closing,
            (Place::Inside, _) => Place::Inside,
            (Place::Start | Place::Bare, _) => after,
            (Place::Closing, _) => {
                self.is_broken |= after == Place::Bare;
                after
            }
        }
    }

    fn ends_cell(&self, byte: u8) -> bool {
        byte == self.delimiter || matches!(byte, b'\n' | b'\r')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: impl AsRef<[u8]>) -> Table {
        let text = text.as_ref().to_vec();
        Table::open(b',', Box::new(move || Ok(Box::new(io::Cursor::new(text.clone()))))).unwrap()
    }

    /// Every row as `line: cell|cell`, or `line! flaw`.
    fn rows(mut table: Table) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some(row) = table.next().unwrap() {
            shown.push(match row.cells {
                Ok(cells) => format!("{}: {}", row.line, cells.iter().collect::<Vec<_>>().join("|")),
                Err(flaw) => format!("{}! {flaw:?}", row.line),
            });
        }
        shown
    }

    fn check(text: impl AsRef<[u8]>, expected: &[&str]) {
        assert_eq!(rows(table(text.as_ref())), expected, "{:?}", String::from_utf8_lossy(text.as_ref()));
    }

    #[test]
    fn rows_know_their_line_whatever_ends_it() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "", "\"x\ny\",z", "1,2,3", "", ",", "4"].join(end);
            assert_eq!(rows(table(&text)), ["1: a|b", "3: x\ny|z", "5: 1|2|3", "7: |", "8: 4"], "{end:?}");
        }
    }

    #[test]
    fn quotes_are_taken_at_their_word() {
        check("a,\"b \"\"c\"\", d\"\n", &["1: a|b \"c\", d"]);
        check("a,5\" disk\nb,c\n", &["1: a|5\" disk", "2: b|c"]);
        check("a,\"x \\\"y\\\" z\"\nb,c\n", &["1! TextAfterQuote", "2: b|c"]);
        check("a,\"\"\nb,\"c\"", &["1: a|", "2: b|c"]);
    }

    #[test]
    fn a_quote_that_never_closes_costs_its_own_line_only() {
        check("a,b\n1,\"open\n2,x\n3,y\n", &["1: a|b", "2! OpenQuote", "3: 2|x", "4: 3|y"]);
        check("a,b\n1,\"open", &["1: a|b", "2! OpenQuote"]);
        let long = format!("a,b\n1,\"open\n{}", "2,x\n".repeat(200_000));
        let read = rows(table(&long));
        assert_eq!((read.len(), read[1].as_str(), read[2].as_str()), (200_002, "2! OpenQuote", "3: 2|x"));
        assert_eq!(read[200_001], "200002: 2|x");
    }

    #[test]
    fn going_back_has_an_end_and_says_so() {
        // every line closes the quote of the one before and opens another
        let read = rows(table("5\",\"x\n".repeat(60)));
        assert_eq!((read.len(), read[15].as_str(), read[16].as_str()), (17, "16! OpenQuote", "17! OpenQuotes"));
    }

    #[test]
    fn what_is_too_large_is_refused_and_the_next_row_is_sound() {
        let cell = "x".repeat(CELL_MAX + 1);
        check(format!("a,{cell}\nb,c\n"), &["1! LongCell(2)", "2: b|c"]);
        check(format!("a,\"{}\"\nb,c\n", cell.repeat(80)), &["1! LongRow", "2: b|c"]);
        check(format!("{}\nb,c\n", ",".repeat(600)), &["1! ManyCells", "2: b|c"]);
        check(format!("a{}\nb,c\n", ",x".repeat(600)), &["1! ManyCells", "2: b|c"]);
    }

    #[test]
    fn what_is_no_text_is_refused_by_cell() {
        check(b"a,b\0c\nd,e\n", &["1! Nul(2)", "2: d|e"]);
        check(b"a,J\xfcrgen\nd,e\n", &["1! Encoding(2)", "2: d|e"]);
        check(b"a\xc3,\xa9b\nd,e\n", &["1! Encoding(1)", "2: d|e"]);
        check(b"\xc3\xbc,e\n", &["1: ü|e"]);
    }

    #[test]
    fn the_first_line_can_be_passed_over() {
        let mut table = table("sep=,\r\na,b\r\n");
        table.skip_line().unwrap();
        assert_eq!(rows(table), ["2: a|b"]);
    }
}
