//! What we say: commands whose arguments are typed, so that none can hold a line end, a NUL or a stray angle bracket
//! (C-30), and written straight into the bytes of a flight.

use std::io::Write;

use crate::base::Address;

/// Octets of a path without its angle brackets (RFC 5321 §4.5.3.1.3).
const PATH_MAX: usize = 254;
/// Octets of an envelope id before it is encoded. That of a copy of ours has 35 and needs no encoding; RFC 3461 §4.4
/// allows 100 encoded.
const ENVID_MAX: usize = 35;
/// Octets of a command line, CRLF included (RFC 5321 §4.5.3.1.4).
const LINE_MAX: usize = 512;

/// An address as it may stand between angle brackets; the empty one is `<>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    local: &'a str,
    domain: &'a str,
}

impl<'a> Path<'a> {
    /// No address: where reports about reports would go.
    pub const NONE: Path<'static> = Path { local: "", domain: "" };

    /// A recipient.
    pub fn of(address: &'a Address) -> Option<Path<'a>> {
        Path::new(address.local(), address.domain().as_str())
    }

    /// A return path; empty text is `<>`.
    pub fn parse(text: &'a str) -> Option<Path<'a>> {
        match text {
            "" => Some(Path::NONE),
            _ => text.rsplit_once('@').and_then(|(local, domain)| Path::new(local, domain)),
        }
    }

    fn new(local: &'a str, domain: &'a str) -> Option<Path<'a>> {
        let fits = local.len() + 1 + domain.len() <= PATH_MAX;
        (fits && (is_atoms(local) || is_quoted(local)) && is_domain(domain)).then_some(Path { local, domain })
    }

    /// Whether it takes SMTPUTF8 to name it (RFC 6531 §3.2); the domain is in A-labels.
    pub fn needs_smtputf8(self) -> bool {
        !self.local.is_ascii()
    }

    fn write(self, line: &mut Vec<u8>) {
        line.push(b'<');
        self.write_bare(line);
        line.push(b'>');
    }

    fn write_bare(self, line: &mut Vec<u8>) {
        line.extend_from_slice(self.local.as_bytes());
        if !self.domain.is_empty() {
            line.push(b'@');
            line.extend_from_slice(self.domain.as_bytes());
        }
    }
}

/// Dot-separated atoms (RFC 5321 §4.1.2, RFC 6531 §3.3). Where the dots stand is not looked at: some hosts gave out
/// addresses with two in a row.
fn is_atoms(local: &str) -> bool {
    let allowed =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii() && !c.is_control();
    !local.is_empty() && local.chars().all(allowed)
}

/// A quoted string: anything printable, `"` and `\` behind a `\`.
fn is_quoted(local: &str) -> bool {
    let Some(inside) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        let c = if c == '\\' { chars.next() } else { Some(c).filter(|c| *c != '"') };
        if c.is_none_or(char::is_control) {
            return false;
        }
    }
    true
}

/// A host name, or an address literal. Underscores are let pass: such domains exist and take mail.
fn is_domain(domain: &str) -> bool {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    !domain.is_empty() && literal.unwrap_or(domain).bytes().all(allowed)
}

/// Our name in EHLO: a host name or an address literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// Parses it.
    pub fn parse(text: &'a str) -> Option<Name<'a>> {
        (is_domain(text) && text.len() <= 255).then_some(Name(text))
    }
}

/// What MAIL says beside the return path: only what the host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailOptions {
    /// Octets of the message (RFC 1870).
    pub size: Option<usize>,
    /// BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// Reports carry only the headers, and the local part of the return path as the id (RFC 3461): it names the copy, and
    /// nobody can make one up.
    pub report: bool,
}

/// A command with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Greets, and asks what the host offers.
    Ehlo(Name<'a>),
    /// Greets a host that knows no EHLO.
    Helo(Name<'a>),
    /// Asks for TLS.
    StartTls,
    /// Begins a transaction.
    Mail(Path<'a>, MailOptions),
    /// Names its recipient; with `report`, wants failures reported and the address given back (RFC 3461).
    Rcpt {
        /// The recipient.
        to: Path<'a>,
        /// Whether the host offers DSN.
        report: bool,
    },
    /// Asks to send the message.
    Data,
    /// Brings the message: so many octets follow, and they are all of it (RFC 3030 §2).
    Bdat(usize),
    /// Forgets an open transaction.
    Rset,
    /// Says goodbye.
    Quit,
}

impl Command<'_> {
    /// Writes the command line. At most 512 octets, CRLF included: ORCPT is left out where it would not fit.
    pub fn write(self, line: &mut Vec<u8>) {
        match self {
            Command::Ehlo(name) => put(line, format_args!("EHLO {}", name.0)),
            Command::Helo(name) => put(line, format_args!("HELO {}", name.0)),
            Command::StartTls => line.extend_from_slice(b"STARTTLS"),
            Command::Mail(from, options) => write_mail(from, options, line),
            Command::Rcpt { to, report } => write_rcpt(to, report, line),
            Command::Data => line.extend_from_slice(b"DATA"),
            Command::Bdat(octets) => put(line, format_args!("BDAT {octets} LAST")),
            Command::Rset => line.extend_from_slice(b"RSET"),
            Command::Quit => line.extend_from_slice(b"QUIT"),
        }
        line.extend_from_slice(b"\r\n");
    }
}

fn put(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a Vec takes all that is written to it");
}

fn write_mail(from: Path<'_>, options: MailOptions, line: &mut Vec<u8>) {
    line.extend_from_slice(b"MAIL FROM:");
    from.write(line);
    if let Some(octets) = options.size {
        put(line, format_args!(" SIZE={octets}"));
    }
    if options.eight_bit {
        line.extend_from_slice(b" BODY=8BITMIME");
    }
    if options.utf8 {
        line.extend_from_slice(b" SMTPUTF8");
    }
    if options.report {
        line.extend_from_slice(b" RET=HDRS");
        if !from.local.is_empty() && from.local.len() <= ENVID_MAX && from.local.bytes().all(|b| b.is_ascii_graphic()) {
            line.extend_from_slice(b" ENVID=");
            write_xtext(from.local.as_bytes(), line);
        }
    }
}

/// NOTIFY=FAILURE stops reports of mere delay; ORCPT comes back in those of failure.
fn write_rcpt(to: Path<'_>, report: bool, line: &mut Vec<u8>) {
    let start = line.len();
    line.extend_from_slice(b"RCPT TO:");
    to.write(line);
    if !report {
        return;
    }
    line.extend_from_slice(b" NOTIFY=FAILURE");
    let short = line.len();
    match to.needs_smtputf8() {
        false => {
            line.extend_from_slice(b" ORCPT=rfc822;");
            let mut bare = Vec::with_capacity(PATH_MAX);
            to.write_bare(&mut bare);
            write_xtext(&bare, line);
        }
        true => {
            line.extend_from_slice(b" ORCPT=utf-8;");
            write_utf8_xtext(to, line);
        }
    }
    if line.len() - start + 2 > LINE_MAX {
        line.truncate(short);
    }
}

/// RFC 3461 §4: `+`, `=` and what is not printable ASCII become `+XX`.
fn write_xtext(text: &[u8], line: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'+' | b'=' => put(line, format_args!("+{byte:02X}")),
            b'!'..=b'~' => line.push(*byte),
            _ => put(line, format_args!("+{byte:02X}")),
        }
    }
}

/// RFC 6533 §3, utf-8-addr-xtext: `+`, `=`, `\` and what is not printable ASCII become `\x{…}`.
fn write_utf8_xtext(path: Path<'_>, line: &mut Vec<u8>) {
    for c in path.local.chars().chain(std::iter::once('@')).chain(path.domain.chars()) {
        match c {
            '+' | '=' | '\\' => put(line, format_args!("\\x{{{:02X}}}", u32::from(c))),
            '!'..='~' => line.push(c as u8),
            _ => put(line, format_args!("\\x{{{:02X}}}", u32::from(c))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(command: Command<'_>) -> String {
        let mut line = Vec::new();
        command.write(&mut line);
        String::from_utf8(line).unwrap()
    }

    fn path(text: &str) -> Path<'_> {
        Path::parse(text).unwrap()
    }

    #[test]
    fn commands_are_written_as_the_standard_has_them() {
        let options = MailOptions { size: Some(4096), eight_bit: true, utf8: true, report: true };
        let written = line(Command::Mail(path("b+t@n.example.com"), options));
        let expected = "MAIL FROM:<b+t@n.example.com> SIZE=4096 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=b+2Bt\r\n";
        assert_eq!(written, expected);
        assert_eq!(line(Command::Mail(Path::NONE, MailOptions::default())), "MAIL FROM:<>\r\n");
        let nameless = MailOptions { report: true, ..MailOptions::default() };
        assert_eq!(line(Command::Mail(Path::NONE, nameless)), "MAIL FROM:<> RET=HDRS\r\n");
        assert_eq!(line(Command::Rcpt { to: path("a@x"), report: false }), "RCPT TO:<a@x>\r\n");
        assert_eq!(line(Command::Ehlo(Name::parse("[192.0.2.1]").unwrap())), "EHLO [192.0.2.1]\r\n");
    }

    #[test]
    fn the_original_recipient_is_in_xtext() {
        let check = |to: &str, expected: &str| {
            let written = line(Command::Rcpt { to: path(to), report: true });
            assert_eq!(written, format!("RCPT TO:<{to}> NOTIFY=FAILURE ORCPT={expected}\r\n"));
        };
        check("a+b=c@x.org", "rfc822;a+2Bb+3Dc@x.org");
        check("\"a b\"@x.org", "rfc822;\"a+20b\"@x.org");
        check("jürgen+x@x.org", "utf-8;j\\x{FC}rgen\\x{2B}x@x.org");
    }

    #[test]
    fn a_line_is_never_longer_than_a_host_must_take() {
        let long = format!("{}@{}.org", "+".repeat(60), "x".repeat(60));
        let written = line(Command::Rcpt { to: path(&long), report: true });
        assert!(written.len() <= 512 && written.contains("NOTIFY") && written.contains("ORCPT"), "{}", written.len());
        let longer = format!("{}@{}.org", "=".repeat(150), "x".repeat(90));
        let written = line(Command::Rcpt { to: path(&longer), report: true });
        assert!(written.len() <= 512 && written.ends_with(" NOTIFY=FAILURE\r\n"));
    }

    #[test]
    fn arguments_that_could_end_a_line_or_a_path_are_none() {
        for bad in [
            "a",
            "@x",
            "a@",
            "a b@x",
            "a>@x",
            "a@x>",
            "a@x\r\nRSET",
            "a\n@x",
            "a\0@x",
            "<a@x>",
            "\"a\"b\"@x",
            "\"a\\\"@x",
            "\"a\r\nRCPT\"@x",
            "\"a\\\r\"@x",
            "\"a\u{9b}b\"@x",
            "a\u{85}b@x",
            "a@x\u{85}",
            "a@ü",
        ] {
            assert_eq!(Path::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Path::parse(&format!("a@{}", "x".repeat(253))), None);
        assert!(Path::parse("\"a\\\" >b\"@x").is_some());
        for bad in ["", "a b", "a\r\nMAIL", "ä.example.com", "a>"] {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_argument_leaves_its_place(local in "\\PC{1,20}|[ -~]{1,20}|\"[ -~]{0,20}\"", domain in "[ -~]{1,20}|\\PC{1,9}") {
            let text = format!("{local}@{domain}");
            let Some(path) = Path::parse(&text) else { return Ok(()) };
            let written = line(Command::Rcpt { to: path, report: true });
            prop_assert!(written.strip_suffix("\r\n").unwrap().bytes().all(|b| b >= 0x20 && b != 0x7f));
            let unquoted = if local.starts_with('"') { domain.clone() } else { text.clone() };
            prop_assert!(!unquoted.contains(['<', '>']));
        }

        #[test]
        fn no_text_whatever_makes_a_second_line(text in any::<String>()) {
            let mail = Path::parse(&text).map(|path| Command::Mail(path, MailOptions::default()));
            for command in [mail, Name::parse(&text).map(Command::Ehlo)].into_iter().flatten() {
                let written = line(command);
                prop_assert!(written.bytes().filter(|b| *b < 0x20).eq(*b"\r\n"));
            }
        }
    }
}
