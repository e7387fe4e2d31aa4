//! Words on their way to a terminal, a log or a program: what strangers wrote (names in a CSV, replies of hosts, records of
//! the name service) moves no cursor, hides nothing, turns no line around and begins none of its own.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::base::turns_text;

/// The colours of our own reports, by their numbers (ECMA-48, SGR).
const COLOURS: [&str; 6] = ["0", "1", "2", "31", "32", "33"];

/// Whether a character does more than stand there: control characters, line ends of any kind, and what turns the direction of
/// text.
fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}') || turns_text(c)
}

/// One line, perhaps with empty lines before and behind it: everything that is no plain character is written out.
pub fn in_line(text: &str) -> Cow<'_, str> {
    let begin = text.len() - text.trim_start_matches('\n').len();
    let end = begin + text[begin..].trim_end_matches('\n').len();
    match text[begin..end].contains(is_harmful) {
        true => Cow::Owned([&text[..begin], &written_out(&text[begin..end], |_| false), &text[end..]].concat()),
        false => Cow::Borrowed(text),
    }
}

/// Several lines, in the colours of our reports.
pub fn harmless(text: &str) -> Cow<'_, str> {
    match text.contains(|c| is_harmful(c) && c != '\n') {
        true => Cow::Owned(written_out(text, |rest| {
            rest.starts_with('\n') || is_colour(rest, |code| COLOURS.contains(&code))
        })),
        false => Cow::Borrowed(text),
    }
}

/// As [`harmless`], in whatever colours errors are drawn; nothing is hidden by them.
pub fn harmless_drawing(text: &str) -> String {
    let hides = |code: &str| matches!(code, "5" | "6" | "7" | "8");
    written_out(text, |rest| rest.starts_with('\n') || is_colour(rest, |code| !hides(code)))
}

/// A line of JSON in which no character can steer a terminal; to programs it says the same.
pub fn json_line(json: &str) -> Cow<'_, str> {
    if !json.contains(|c| is_harmful(c) && c != '\n') {
        return Cow::Borrowed(json);
    }
    // they stand in strings alone, and there they may be written so (RFC 8259 §7)
    let mut line = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match is_harmful(c) && c != '\n' {
            true => drop(write!(line, "\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    Cow::Owned(line)
}

/// Harmful characters written out, but for those where `may_stand` says that the rest of the text begins with what may.
fn written_out(text: &str, may_stand: impl Fn(&str) -> bool) -> String {
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match is_harmful(c) && !may_stand(&text[at..]) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// Whether a text begins with a colour whose numbers all may be: `ESC [`, digits and semicolons, `m`.
fn is_colour(text: &str, may_be: impl Fn(&str) -> bool) -> bool {
    let rest = text.strip_prefix("\x1b[").unwrap_or_default();
    let codes = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    codes.starts_with('m') && rest[..rest.len() - codes.len()].split(';').all(may_be)
}

/// A log in which each write is one entry and stays one line, in whatever colours the log has.
pub struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(entry);
        let line = written_out(text.trim_end_matches('\n'), |rest| is_colour(rest, |_| true));
        self.0.write_all(format!("{line}\n").as_bytes())?;
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_does_nothing_to_a_terminal() {
        for (text, shown) in [
            ("a\n\tb", "a\n\tb"),
            ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
            ("\x1b[2J\x07x\r", "\\u{1b}[2J\\u{7}x\\r"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("\x1b[8mhidden\x1b[0m \x1b[30;40mblack", "\\u{1b}[8mhidden\x1b[0m \\u{1b}[30;40mblack"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("\u{61c}a\u{200e}b\u{200f}", "\\u{61c}a\\u{200e}b\\u{200f}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
        assert_eq!(harmless_drawing("\x1b[38;2;1;2;3mx\x1b[8m\x1b[2J\n"), "\x1b[38;2;1;2;3mx\\u{1b}[8m\\u{1b}[2J\n");
    }

    #[test]
    fn a_line_stays_one_line() {
        for (text, shown) in [
            ("\nnext: x\n", "\nnext: x\n"),
            ("a\nnext: touch owned", "a\\nnext: touch owned"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            ("\n\n", "\n\n"),
            ("\n\u{2028}\n", "\n\\u{2028}\n"),
            ("plain\t", "plain\t"),
        ] {
            assert_eq!(in_line(text), shown);
        }
    }

    #[test]
    fn json_says_the_same_to_programs_and_nothing_to_terminals() {
        for text in ["\u{9b}31m\u{7f}\u{85}", "\u{202e}x\u{2028}\u{61c}", "\x1b[2J\n", "plain ü"] {
            for json in [serde_json::to_string(text).unwrap(), serde_json::to_string_pretty(&[text]).unwrap()] {
                let line = json_line(&json);
                assert!(!line.contains(|c| is_harmful(c) && c != '\n'), "{line}");
                let back = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
                assert_eq!(back(&line), back(&json));
            }
        }
    }

    #[test]
    fn an_entry_of_the_log_is_one_line() {
        let mut log = Vec::new();
        let entry = "\x1b[2m2026\x1b[0m WARN a\n2026-01-01 ERROR forged\r\x1b[2K\n";
        OneLine(&mut log).write_all(entry.as_bytes()).unwrap();
        let line = "\x1b[2m2026\x1b[0m WARN a\\n2026-01-01 ERROR forged\\r\\u{1b}[2K\n";
        assert_eq!(String::from_utf8(log).unwrap(), line);
    }
}
