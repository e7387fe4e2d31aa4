//! The content of a message on its way in: where it ends, and what in it is not allowed. Only CR LF `.` CR LF ends it
//! (RFC 5321 §4.1.1.4); a lone CR or LF is never a line end, so that no two hosts can disagree about where a message
//! stops (C-29).

use memchr::{memchr_iter, memchr2_iter, memmem};

/// The end of the content.
const END: &[u8] = b"\r\n.\r\n";

/// What is wrong with a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A CR or LF that is not part of a CR LF.
    BareLineEnd,
    /// A line longer than allowed.
    LongLine,
}

/// Finds the end in what stands in `input`, which starts right behind the CR LF of the DATA command. `seen` octets were
/// searched before. Gives the length of the content, its last CR LF included, and of all that belongs to it.
pub(super) fn find_end(input: &[u8], seen: usize) -> Option<(usize, usize)> {
    if input.starts_with(&END[2..]) {
        return Some((0, END.len() - 2));
    }
    let from = seen.saturating_sub(END.len() - 1);
    let at = from + memmem::find(&input[from..], END)?;
    Some((at + 2, at + END.len()))
}

/// The first flaw of a content whose lines may have at most `line_max` octets, CR LF included.
pub(super) fn flaw(content: &[u8], line_max: usize) -> Option<Flaw> {
    let (mut line, mut bare) = (0, false);
    let mut long = false;
    for at in memchr2_iter(b'\r', b'\n', content) {
        if content[at] == b'\r' {
            bare |= content.get(at + 1) != Some(&b'\n');
        } else {
            bare |= at == 0 || content[at - 1] != b'\r';
            long |= at + 1 - line > line_max;
            line = at + 1;
        }
    }
    long |= content.len() - line > line_max;
    match (bare, long) {
        (true, _) => Some(Flaw::BareLineEnd),
        (false, true) => Some(Flaw::LongLine),
        (false, false) => None,
    }
}

/// The content with the dots removed that stand before lines which start with one (RFC 5321 §4.5.2).
pub(super) fn without_dots(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(content.len());
    let mut rest = 0;
    let starts = memchr_iter(b'.', content).filter(|at| content[..*at].ends_with(b"\r\n") || *at == 0);
    for at in starts {
        plain.extend_from_slice(&content[rest..at]);
        rest = at + 1;
    }
    plain.extend_from_slice(&content[rest..]);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_sequence_ends_a_message() {
        for (input, expected) in [
            (&b".\r\n"[..], Some((0, 3))),
            (b"a\r\n.\r\n", Some((3, 6))),
            (b"a\r\n.\r\nMAIL", Some((3, 6))),
            (b"..\r\n.\r\n", Some((4, 7))),
            (b"a\n.\n", None),
            (b"a\n.\r\n", None),
            (b"a\r\n.\n", None),
            (b"a\r.\r", None),
            (b"a\r\n.\r", None),
            (b"a\r\n\0.\r\n", None),
            (b"a\r\n.\r\r\n", None),
        ] {
            assert_eq!(find_end(input, 0), expected, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn an_end_cut_by_reads_is_found() {
        let input = b"abc\r\n.\r\n";
        for seen in 0..input.len() {
            assert_eq!(find_end(&input[..seen], 0), None, "{seen}");
            assert_eq!(find_end(input, seen), Some((5, 8)), "{seen}");
        }
    }

    #[test]
    fn flaws() {
        for (content, expected) in [
            (&b""[..], None),
            (b"abcd\r\nef\r\n", None),
            (b"a\nb\r\n", Some(Flaw::BareLineEnd)),
            (b"a\rb\r\n", Some(Flaw::BareLineEnd)),
            (b"\na\r\n", Some(Flaw::BareLineEnd)),
            (b"a\r\r\n", Some(Flaw::BareLineEnd)),
            (b"abcde\r\n", Some(Flaw::LongLine)),
            (b"ab\r\nabcdefg", Some(Flaw::LongLine)),
        ] {
            assert_eq!(flaw(content, 6), expected, "{:?}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn dots_at_line_starts_are_removed_once() {
        for (content, expected) in [
            (&b"..\r\n...a\r\nb.\r\n"[..], &b".\r\n..a\r\nb.\r\n"[..]),
            (b"a\r\n.b\r\n", b"a\r\nb\r\n"),
            (b"a\n.b\r\n", b"a\n.b\r\n"),
            (b"", b""),
        ] {
            assert_eq!(without_dots(content), expected, "{:?}", String::from_utf8_lossy(content));
        }
    }
}
