//! A message made fit for DATA or BDAT: checked, and for DATA dot-stuffed (RFC 5321 §4.5.2) without copying it. Refuses what lax hosts
//! could take for the end of a message (SMTP smuggling, CVE-2023-51764 and its kin; C-27, C-29).

/// Longest line without its CRLF (RFC 5321 §4.5.3.1.6).
const LINE_MAX: usize = 998;

/// Why a message must not go out. Offsets count octets from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A CR without LF.
    #[error("a bare CR at octet {0}")]
    BareCr(usize),
    /// A LF without CR.
    #[error("a bare LF at octet {0}")]
    BareLf(usize),
    /// A NUL.
    #[error("a NUL at octet {0}")]
    Nul(usize),
    /// A line longer than any host must take.
    #[error("a line of more than 998 octets at octet {0}")]
    LongLine(usize),
}

/// A message that may go out, and where its lines begin with a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    bytes: Vec<u8>,
    dots: Vec<usize>,
}

/// Whether lines that begin with a dot get another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuffing {
    /// They do: the message ends with a lone dot.
    Dots,
    /// They do not: its octets are counted (RFC 3030 §2).
    None,
}

impl Body {
    /// Checks a message.
    pub fn new(bytes: Vec<u8>) -> Result<Body, Unfit> {
        if let Some(at) = memchr::memchr(0, &bytes) {
            return Err(Unfit::Nul(at));
        }
        let (line_ends, dots) = line_dots(&bytes)?;
        // each LF has a CR before it by now, so that no CR is left over where they are as many; counting is fast
        if memchr::memchr_iter(b'\r', &bytes).count() > line_ends
            && let Some(at) = bare_cr(&bytes)
        {
            return Err(Unfit::BareCr(at));
        }
        Ok(Body { bytes, dots })
    }

    /// Octets as SIZE counts them: line ends included, without stuffing and terminator (RFC 1870 §3).
    pub fn octets(&self) -> usize {
        self.bytes.len() + if self.is_whole() { 0 } else { 2 }
    }

    /// Whether there are octets above 127: it needs 8BITMIME.
    pub fn is_eight_bit(&self) -> bool {
        !self.bytes.is_ascii()
    }

    /// Whether the header block holds such octets: it needs SMTPUTF8 (RFC 6531 §3.2).
    pub fn has_utf8_header(&self) -> bool {
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n").unwrap_or(self.bytes.len());
        !self.bytes[..end].is_ascii()
    }

    /// The message as it goes out, without terminator. With dots each piece ends with a dot that begins a line and the next
    /// begins with the same dot again, so nothing is copied.
    pub fn pieces(&self, stuffing: Stuffing) -> impl Iterator<Item = &[u8]> {
        let dots = self.dots(stuffing);
        let starts = std::iter::once(0).chain(dots.iter().copied());
        let ends = dots.iter().map(|dot| dot + 1).chain(std::iter::once(self.bytes.len()));
        starts.zip(ends).map(|(start, end)| &self.bytes[start..end])
    }

    /// Octets of all pieces.
    pub fn length(&self, stuffing: Stuffing) -> usize {
        self.bytes.len() + self.dots(stuffing).len()
    }

    fn dots(&self, stuffing: Stuffing) -> &[usize] {
        match stuffing {
            Stuffing::Dots => &self.dots,
            Stuffing::None => &[],
        }
    }

    /// What goes behind it: the lone dot, and the last line's end where it has none.
    pub fn terminator(&self) -> &'static [u8] {
        if self.is_whole() { b".\r\n" } else { b"\r\n.\r\n" }
    }

    /// What goes behind it in a chunk: the last line's end where it has none.
    pub fn line_end(&self) -> &'static [u8] {
        if self.is_whole() { b"" } else { b"\r\n" }
    }

    /// Whether its last line is ended; an empty message has none that would need it.
    fn is_whole(&self) -> bool {
        self.bytes.is_empty() || self.bytes.ends_with(b"\r\n")
    }
}

/// How many lines end, and where lines begin with a dot; fails on a bare LF and on a line that is too long.
fn line_dots(bytes: &[u8]) -> Result<(usize, Vec<usize>), Unfit> {
    let (mut line_ends, mut dots) = (0, Vec::new());
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', bytes) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Unfit::BareLf(at));
        }
        note_line(bytes, start, at - 1, &mut dots)?;
        start = at + 1;
        line_ends += 1;
    }
    note_line(bytes, start, bytes.len(), &mut dots)?;
    Ok((line_ends, dots))
}

fn note_line(bytes: &[u8], start: usize, end: usize, dots: &mut Vec<usize>) -> Result<(), Unfit> {
    if end.saturating_sub(start) > LINE_MAX {
        return Err(Unfit::LongLine(start));
    }
    if bytes.get(start) == Some(&b'.') {
        dots.push(start);
    }
    Ok(())
}

fn bare_cr(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\r', bytes).find(|at| bytes.get(at + 1) != Some(&b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(text: &[u8]) -> Vec<u8> {
        let body = Body::new(text.to_vec()).unwrap();
        let stuffed = body.pieces(Stuffing::Dots).collect::<Vec<_>>().concat();
        assert_eq!(stuffed.len(), body.length(Stuffing::Dots));
        [&stuffed, body.terminator()].concat()
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(String::from_utf8(wire(text.as_bytes())).unwrap(), expected, "{text:?}");
    }

    #[test]
    fn a_dot_at_the_start_of_a_line_is_doubled_and_no_other() {
        check("", ".\r\n");
        check("a\r\n", "a\r\n.\r\n");
        check("a", "a\r\n.\r\n");
        check(".", "..\r\n.\r\n");
        check(".\r\n..\r\n.x\r\na.b\r\n", "..\r\n...\r\n..x\r\na.b\r\n.\r\n");
        check("a\r\n\r\n.", "a\r\n\r\n..\r\n.\r\n");
    }

    #[test]
    fn what_could_end_a_message_early_is_refused() {
        let vectors: [(&[u8], Unfit); 9] = [
            (b"a\n.\nMAIL", Unfit::BareLf(1)),
            (b"a\n.\r\nMAIL", Unfit::BareLf(1)),
            (b"a\r\n.\nMAIL", Unfit::BareLf(4)),
            (b"a\r.\rMAIL", Unfit::BareCr(1)),
            (b"a\r\n.\rMAIL", Unfit::BareCr(4)),
            (b"a\r\n\0.\r\nMAIL", Unfit::Nul(3)),
            (b"\na", Unfit::BareLf(0)),
            (b"a\r", Unfit::BareCr(1)),
            (b"a\r\r\n", Unfit::BareCr(1)),
        ];
        for (text, expected) in vectors {
            assert_eq!(Body::new(text.to_vec()), Err(expected), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_line_longer_than_hosts_must_take_is_refused() {
        let line = |n: usize| [b"a\r\n".to_vec(), b"x".repeat(n), b"\r\n".to_vec()].concat();
        assert!(Body::new(line(998)).is_ok());
        assert_eq!(Body::new(line(999)), Err(Unfit::LongLine(3)));
        assert_eq!(Body::new(b"x".repeat(999)), Err(Unfit::LongLine(0)));
    }

    #[test]
    fn octets_are_counted_as_size_wants_them() {
        for (text, octets) in [("", 0), ("a", 3), ("a\r\n", 3), (".\r\n", 3)] {
            assert_eq!(Body::new(text.as_bytes().to_vec()).unwrap().octets(), octets, "{text:?}");
        }
    }

    #[test]
    fn header_and_body_are_told_apart_for_smtputf8() {
        let body = Body::new("A: b\r\n\r\nü".as_bytes().to_vec()).unwrap();
        assert!(body.is_eight_bit() && !body.has_utf8_header());
        assert!(Body::new("A: ü\r\n\r\n".as_bytes().to_vec()).unwrap().has_utf8_header());
    }

    proptest! {
        #[test]
        fn a_host_that_unstuffs_gets_what_was_sent(lines in proptest::collection::vec("[.a ]{0,5}", 0..12)) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let wire = String::from_utf8(wire(text.as_bytes())).unwrap();
            let end = format!("\r\n{wire}").find("\r\n.\r\n").unwrap();
            prop_assert_eq!(end + 3, wire.len());
            let received: String = wire[..end].split_inclusive("\r\n").map(|l| l.strip_prefix('.').unwrap_or(l)).collect();
            prop_assert_eq!(received, text);
        }
    }
}
