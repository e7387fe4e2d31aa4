//! Reading replies (RFC 5321 §4.2): from bytes as they come to whole replies, without copying any. Bounded in size,
//! strict about what a reply is, indifferent to its alphabet.

use std::fmt;

use crate::mail::{EnhancedCode, Reply};
use crate::smtp::Error;

/// Octets of one reply, line ends included (C-18).
const OCTETS_MAX: usize = 64 * 1024;
/// Lines of one reply (C-18).
const LINES_MAX: usize = 100;

/// Finds the end of a reply in bytes that come piece by piece; looks at each byte once.
#[derive(Debug, Default)]
pub struct Reader {
    /// The start of the line that is not whole yet.
    line: usize,
    /// How far the search for its end has come.
    searched: usize,
    lines: usize,
    code: Option<u16>,
}

impl Reader {
    /// The first whole reply in `bytes`, or `None` when more must come. Until then each call must be given the same bytes
    /// with more behind them; the one after a reply, what stands behind it.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Found>, Error> {
        while let Some(at) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + at + 1;
            let line = Line::parse(&bytes[self.line..end])?;
            self.lines += 1;
            if self.code.is_some_and(|code| code != line.code) {
                return Err(Error::Garbled(format!(
                    "one reply with two codes, {} and {}",
                    self.code.unwrap_or(0),
                    line.code
                )));
            }
            if end > OCTETS_MAX || self.lines > LINES_MAX {
                return Err(too_long());
            }
            if !line.more {
                *self = Reader::default();
                return Ok(Some(Found { code: line.code, octets: end }));
            }
            self.code = Some(line.code);
            self.line = end;
            self.searched = end;
        }
        self.searched = bytes.len();
        if bytes.len() > OCTETS_MAX { Err(too_long()) } else { Ok(None) }
    }
}

fn too_long() -> Error {
    Error::Garbled(format!("a reply of more than {OCTETS_MAX} octets or {LINES_MAX} lines"))
}

/// Where a whole reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    code: u16,
    /// Its octets, line ends included.
    pub octets: usize,
}

impl Found {
    /// The reply at the front of `bytes`: those it was found in.
    pub fn of(self, bytes: &[u8]) -> Heard<'_> {
        Heard { code: self.code, bytes: &bytes[..self.octets] }
    }
}

/// A whole reply where it came in, not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<'b> {
    code: u16,
    bytes: &'b [u8],
}

impl<'b> Heard<'b> {
    /// The three digits, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether it refuses: 4xx or 5xx.
    pub fn refuses(&self) -> bool {
        self.code >= 400
    }

    /// The text of each line, without code and line end.
    pub fn lines(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let whole = self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes);
        whole.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).get(4..).unwrap_or(b""))
    }

    /// The reply for the record: lines joined, the enhanced code taken out (RFC 2034 §4: only directly behind the basic
    /// code), control characters read as spaces, so that no host writes to our terminals.
    pub fn to_reply(&self) -> Reply {
        let enhanced = self.lines().find_map(|line| split_enhanced(line).0);
        let mut text = Vec::with_capacity(self.bytes.len());
        for line in self.lines() {
            let rest = match split_enhanced(line) {
                (Some(code), rest) if Some(code) == enhanced => rest,
                _ => line,
            };
            if !text.is_empty() && !rest.is_empty() {
                text.push(b' ');
            }
            text.extend_from_slice(rest);
        }
        Reply { code: self.code, enhanced, text: decode(&text) }
    }
}

/// The first line, for a trace.
impl fmt::Display for Heard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&excerpt(self.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()))
    }
}

/// One line of a reply, understood as far as its separator.
struct Line {
    code: u16,
    more: bool,
}

impl Line {
    /// `3DIGIT ('-' | ' ' | end)`, the first digit 2 to 5. The line's end may be a bare LF: nothing rides on it here.
    fn parse(line: &[u8]) -> Result<Line, Error> {
        let no_reply = || Error::Garbled(format!("`{}` is no reply", excerpt(line)));
        let (digits, rest) = line.split_at_checked(3).ok_or_else(no_reply)?;
        let known = matches!(digits[0], b'2'..=b'5') && digits.iter().all(u8::is_ascii_digit);
        let more = match rest.first() {
            Some(b'-') => true,
            Some(b' ' | b'\r' | b'\n') => false,
            _ => return Err(no_reply()),
        };
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit.wrapping_sub(b'0')));
        if known { Ok(Line { code, more }) } else { Err(no_reply()) }
    }
}

/// The start of what came, fit to be shown.
pub fn excerpt(bytes: &[u8]) -> String {
    decode(&bytes[..bytes.len().min(200)]).trim().to_owned()
}

/// The enhanced code at the start of a line, and what stands behind it.
fn split_enhanced(line: &[u8]) -> (Option<EnhancedCode>, &[u8]) {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let code = std::str::from_utf8(&line[..end]).ok().and_then(EnhancedCode::parse);
    match code {
        Some(code) => (Some(code), line[end..].strip_prefix(b" ").unwrap_or(b"")),
        None => (None, line),
    }
}

/// UTF-8, or else Latin-1; control characters as spaces.
fn decode(bytes: &[u8]) -> String {
    let safe = |c: char| if c.is_control() { ' ' } else { c };
    match std::str::from_utf8(bytes) {
        Ok(text) => text.chars().map(safe).collect(),
        Err(_) => bytes.iter().map(|byte| safe(char::from(*byte))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, Error> {
        Ok(Reader::default().read(bytes)?.map(|found| found.of(bytes).to_reply()))
    }

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(read(bytes).unwrap().unwrap().to_string(), expected);
    }

    #[test]
    fn replies_in_all_their_shapes() {
        check(b"250 OK\r\n", "250 OK");
        check(b"250\r\n", "250");
        check(b"250 \r\n", "250");
        check(b"250-\r\n250\r\n", "250");
        check(b"550-5.1.1 no such\r\n550 5.1.1 user\r\n", "550 5.1.1 no such user");
        check(b"550-no such\r\n550 5.1.1 user\r\n", "550 5.1.1 no such user");
        check(b"554 Refused, see 5.7.1 there\r\n", "554 Refused, see 5.7.1 there");
        check(b"421 5.7.32 not aligned\r\n", "421 5.7.32 not aligned");
        check(b"550 5.1.1\r\n", "550 5.1.1");
        check(b"550 5.1.1-x\r\n", "550 5.1.1-x");
        check(b"250 bare line end\n", "250 bare line end");
        check(b"550 Empf\xe4nger unbekannt\r\n", "550 Empfänger unbekannt");
        check("550 Empfänger unbekannt\r\n".as_bytes(), "550 Empfänger unbekannt");
        check(b"550 \x1b[2Jred\0\r\n", "550  [2Jred ");
        for code in [200, 299, 345, 421, 499, 599] {
            check(format!("{code} x\r\n").as_bytes(), &format!("{code} x"));
        }
    }

    #[test]
    fn what_is_no_reply() {
        let no_reply: [&[u8]; 8] = [
            b"\r\n",
            b"25\r\n",
            b"2x0 a\r\n",
            b"150 a\r\n",
            b"650 a\r\n",
            b"250x\r\n",
            b"HTTP/1.1 400\r\n",
            b"2500 a\r\n",
        ];
        for bytes in no_reply {
            assert!(matches!(read(bytes), Err(Error::Garbled(_))), "{}", excerpt(bytes));
        }
        assert!(read(b"250-a\r\n251 b\r\n").unwrap_err().to_string().contains("two codes, 250 and 251"));
    }

    #[test]
    fn a_hundred_lines_are_a_reply_and_one_more_is_not() {
        let lines = |n: usize| [b"250-x\r\n".repeat(n - 1), b"250 x\r\n".to_vec()].concat();
        assert_eq!(read(&lines(100)).unwrap().unwrap().text.len(), 199);
        assert!(read(&lines(101)).is_err());
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let long = [b"250 ".to_vec(), b"x".repeat(65 * 1024)].concat();
        assert!(read(&long).is_err());
        assert_eq!(read(&long[..60_000]), Ok(None));
    }

    #[test]
    fn replies_that_come_together_are_read_one_by_one() {
        let bytes = b"250 one\r\n354-two\r\n354 more\r\n550 three\r\n25";
        let (mut reader, mut from, mut texts) = (Reader::default(), 0, Vec::new());
        while let Some(found) = reader.read(&bytes[from..]).unwrap() {
            texts.push(found.of(&bytes[from..]).to_reply().text);
            from += found.octets;
        }
        assert_eq!(texts, ["one", "two more", "three"]);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = read(&[b"250-".as_slice(), &bytes, b"\r\n250 ", &bytes, b"\r\n"].concat());
        }

        #[test]
        fn pieces_make_the_same_reply_as_the_whole(
            lines in proptest::collection::vec("[ -~]{0,40}", 1..8),
            cuts in proptest::collection::vec(1usize..20, 1..60),
        ) {
            let (last, first) = lines.split_last().unwrap();
            let mut bytes: Vec<u8> = first.iter().flat_map(|line| format!("550-{line}\r\n").into_bytes()).collect();
            bytes.extend(format!("550 {last}\r\n").into_bytes());
            let (mut reader, mut seen) = (Reader::default(), 0);
            for cut in cuts.iter().cycle() {
                seen = (seen + cut).min(bytes.len());
                if let Some(found) = reader.read(&bytes[..seen]).unwrap() {
                    prop_assert_eq!(seen, bytes.len());
                    prop_assert_eq!(Some(found.of(&bytes).to_reply()), read(&bytes).unwrap());
                    break;
                }
                prop_assert!(seen < bytes.len());
            }
        }
    }
}
