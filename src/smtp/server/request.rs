//! One command line of a client, parsed strictly (RFC 5321 §4.1.1). Knows the grammar, not the order of commands.

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// HELO, EHLO or LHLO, and the name the client gives itself.
    Hello { verb: Verb, name: String },
    /// MAIL FROM: the return path (empty for `<>`) and its parameters.
    From { path: String, parameters: Vec<Parameter> },
    /// RCPT TO: the recipient and its parameters.
    To { path: String, parameters: Vec<Parameter> },
    /// DATA.
    Data,
    /// BDAT: so many octets follow (RFC 3030 §2).
    Chunk { size: usize, last: bool },
    /// RSET.
    Reset,
    /// NOOP.
    Nothing,
    /// VRFY and EXPN, which are never answered with a yes or no (RFC 5321 §7.3).
    Verify,
    /// HELP.
    Help,
    /// STARTTLS.
    StartTls,
    /// QUIT.
    Quit,
}

/// How a client greets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Helo,
    Ehlo,
    Lhlo,
}

/// An ESMTP parameter (RFC 5321 §4.1.2): its keyword in upper case, its value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub keyword: String,
    pub value: Option<String>,
}

/// What is wrong with a line: the reply to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong(pub u16, pub &'static str, pub &'static str);

const UNKNOWN: Wrong = Wrong(500, "5.5.1", "no such command");
const ARGUMENTS: Wrong = Wrong(501, "5.5.4", "these arguments do not fit the command");
const SENDER: Wrong = Wrong(501, "5.1.7", "write it as MAIL FROM:<local@domain>");
const RECIPIENT: Wrong = Wrong(501, "5.1.3", "write it as RCPT TO:<local@domain>");
const ROUTE: Wrong = Wrong(553, "5.1.3", "source routes are not followed");

/// Longest path, brackets included (RFC 5321 §4.5.3.1.3).
const PATH_MAX: usize = 256;
/// Longest local part (RFC 5321 §4.5.3.1.1).
const LOCAL_MAX: usize = 64;

impl Request {
    /// Parses a line without its CR LF.
    pub(super) fn parse(line: &[u8]) -> Result<Request, Wrong> {
        let line = std::str::from_utf8(line).map_err(|_| Wrong(500, "5.5.2", "this is neither ASCII nor UTF-8"))?;
        if line.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(Wrong(500, "5.5.2", "a command holds no control characters"));
        }
        let line = line.trim_end_matches([' ', '\t']);
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let bare = |request: Request| if rest.is_empty() { Ok(request) } else { Err(ARGUMENTS) };
        match verb.to_ascii_uppercase().as_str() {
            "MAIL" => mail(rest),
            "RCPT" => recipient(rest),
            "DATA" => bare(Request::Data),
            "BDAT" => chunk(rest),
            "RSET" => bare(Request::Reset),
            "QUIT" => bare(Request::Quit),
            "STARTTLS" => bare(Request::StartTls),
            "EHLO" => hello(Verb::Ehlo, rest),
            "HELO" => hello(Verb::Helo, rest),
            "LHLO" => hello(Verb::Lhlo, rest),
            "NOOP" => Ok(Request::Nothing),
            "HELP" => Ok(Request::Help),
            "VRFY" | "EXPN" if !rest.is_empty() => Ok(Request::Verify),
            "VRFY" | "EXPN" => Err(ARGUMENTS),
            _ => Err(UNKNOWN),
        }
    }
}

fn hello(verb: Verb, name: &str) -> Result<Request, Wrong> {
    let fits = !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b > b' ');
    fits.then(|| Request::Hello { verb, name: name.to_owned() }).ok_or(ARGUMENTS)
}

fn mail(rest: &str) -> Result<Request, Wrong> {
    let (path, rest) = path(rest, "FROM:", SENDER)?;
    if !path.is_empty() {
        check_mailbox(path, SENDER)?;
    }
    Ok(Request::From { path: path.to_owned(), parameters: parameters(rest)? })
}

fn recipient(rest: &str) -> Result<Request, Wrong> {
    let (path, rest) = path(rest, "TO:", RECIPIENT)?;
    // The one name that needs no domain (RFC 5321 §4.5.1).
    if !path.eq_ignore_ascii_case("postmaster") {
        check_mailbox(path, RECIPIENT)?;
    }
    Ok(Request::To { path: path.to_owned(), parameters: parameters(rest)? })
}

/// Takes `FROM:<path>` apart: the path without its brackets, and what follows it.
fn path<'a>(text: &'a str, keyword: &str, wrong: Wrong) -> Result<(&'a str, &'a str), Wrong> {
    let head = text.get(..keyword.len()).ok_or(wrong)?;
    let rest = text[head.len()..].strip_prefix('<').filter(|_| head.eq_ignore_ascii_case(keyword)).ok_or(wrong)?;
    let (mut quoted, mut escaped) = (false, false);
    let ends = |(_, b): &(usize, u8)| {
        let end = *b == b'>' && !quoted;
        quoted ^= *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped && quoted;
        end
    };
    let (end, _) = rest.bytes().enumerate().find(ends).ok_or(wrong)?;
    if end + 2 > PATH_MAX {
        return Err(wrong);
    }
    match &rest[end + 1..] {
        "" => Ok((&rest[..end], "")),
        more if more.starts_with(' ') => Ok((&rest[..end], more)),
        _ => Err(wrong),
    }
}

/// A mailbox (RFC 5321 §4.1.2): local part, `@`, and a domain or an address literal.
fn check_mailbox(path: &str, wrong: Wrong) -> Result<(), Wrong> {
    if path.starts_with('@') {
        return Err(ROUTE);
    }
    let (local, domain) = path.rsplit_once('@').ok_or(wrong)?;
    let local_fits = local.len() <= LOCAL_MAX && (is_dot_string(local) || is_quoted(local));
    (local_fits && is_domain(domain)).then_some(()).ok_or(wrong)
}

fn is_dot_string(local: &str) -> bool {
    let atom = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    local.split('.').all(|part| !part.is_empty() && part.bytes().all(atom))
}

fn is_quoted(local: &str) -> bool {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    let fits = inner.bytes().all(|b| {
        let fits = escaped || b != b'"';
        escaped = b == b'\\' && !escaped;
        fits && b != b'\t'
    });
    fits && !escaped
}

fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let v6 = literal.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        return match v6 {
            true => literal[5..].parse::<std::net::Ipv6Addr>().is_ok(),
            false => literal.parse::<std::net::Ipv4Addr>().is_ok(),
        };
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b == b'-';
    let hyphens_fit = |part: &str| !part.starts_with('-') && !part.ends_with('-');
    let label = |part: &str| (1..=63).contains(&part.len()) && part.bytes().all(inner) && hyphens_fit(part);
    domain.len() <= 255 && domain.split('.').all(label)
}

fn parameters(rest: &str) -> Result<Vec<Parameter>, Wrong> {
    let mut found: Vec<Parameter> = Vec::new();
    for word in rest.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = word.split_once('=').map_or((word, None), |(keyword, value)| (keyword, Some(value)));
        let named = keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !keyword.is_empty();
        let valued = value.is_none_or(|value| !value.is_empty() && value.bytes().all(|b| b > b' ' && b != b'='));
        let keyword = keyword.to_ascii_uppercase();
        if !named || !valued || found.iter().any(|known| known.keyword == keyword) {
            return Err(ARGUMENTS);
        }
        found.push(Parameter { keyword, value: value.map(str::to_owned) });
    }
    Ok(found)
}

fn chunk(rest: &str) -> Result<Request, Wrong> {
    let mut words = rest.split(' ');
    let digits = words.next().filter(|size| (1..=12).contains(&size.len()) && size.bytes().all(|b| b.is_ascii_digit()));
    let size = digits.and_then(|digits| digits.parse().ok()).ok_or(ARGUMENTS)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(ARGUMENTS),
    };
    words.next().is_none().then_some(Request::Chunk { size, last }).ok_or(ARGUMENTS)
}

/// Whether a text is xtext (RFC 3461 §4): printable ASCII but `=` and `+`, which stands for `+XX`.
pub(super) fn is_xtext(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
        rest = match first {
            b'+' if after.len() >= 2 && after[..2].iter().all(hex) => &after[2..],
            b'+' | b'=' => return false,
            b'!'..=b'~' => after,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let from = |line: &str| match Request::parse(line.as_bytes()) {
            Ok(Request::From { path, .. } | Request::To { path, .. }) => Some(path),
            _ => None,
        };
        for (line, expected) in [
            ("MAIL FROM:<>", Some("")),
            ("mail from:<a@b.example>", Some("a@b.example")),
            ("MAIL FROM:<a@b.example> SIZE=5", Some("a@b.example")),
            ("MAIL FROM:<\"a >\\\" b\"@b.example>", Some("\"a >\\\" b\"@b.example")),
            ("RCPT TO:<a@[192.0.2.1]>", Some("a@[192.0.2.1]")),
            ("RCPT TO:<a@[IPv6:2001:db8::1]>", Some("a@[IPv6:2001:db8::1]")),
            ("RCPT TO:<Postmaster>", Some("Postmaster")),
            ("RCPT TO:<jürgen@müller.example>", Some("jürgen@müller.example")),
            ("MAIL FROM: <a@b.example>", None),
            ("MAIL FROM:a@b.example", None),
            ("MAIL FROM:<a@b.example", None),
            ("MAIL FROM:<a@b.example>SIZE=5", None),
            ("MAIL FROM:<a..b@c.example>", None),
            ("MAIL FROM:<a b@c.example>", None),
            ("MAIL FROM:<a@b@c.example>", None),
            ("MAIL FROM:<a@-b.example>", None),
            ("RCPT TO:<>", None),
            ("RCPT TO:<a@>", None),
            ("RCPT TO:<a@[300.1.1.1]>", None),
            ("RCPT TO:<@x.example,@y.example:a@b.example>", None),
        ] {
            assert_eq!(from(line).as_deref(), expected, "{line}");
        }
        let long = format!("RCPT TO:<{}@b.example>", "x".repeat(65));
        assert_eq!(from(&long), None);
    }

    #[test]
    fn parameters_are_words_that_come_once() {
        let parse = |line: &str| Request::parse(line.as_bytes());
        let Ok(Request::From { parameters, .. }) = parse("MAIL FROM:<> size=10 SMTPUTF8") else { panic!("is a MAIL") };
        let expected = [("SIZE", Some("10")), ("SMTPUTF8", None)]
            .map(|(keyword, value)| Parameter { keyword: keyword.into(), value: value.map(str::to_owned) });
        assert_eq!(parameters, expected);
        for line in ["MAIL FROM:<> SIZE=1 size=2", "MAIL FROM:<> SIZE=", "MAIL FROM:<> A=b=c", "MAIL FROM:<> =x"] {
            assert_eq!(parse(line), Err(ARGUMENTS), "{line}");
        }
    }

    #[test]
    fn chunks_and_bare_commands() {
        let parse = |line: &str| Request::parse(line.as_bytes());
        assert_eq!(parse("BDAT 0 last"), Ok(Request::Chunk { size: 0, last: true }));
        assert_eq!(parse("BDAT 86"), Ok(Request::Chunk { size: 86, last: false }));
        for line in ["BDAT", "BDAT x", "BDAT 1 FIRST", "BDAT 1 LAST x", "BDAT -1", "DATA now", "EHLO", "EHLO a b"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(parse("noop whatever"), Ok(Request::Nothing));
        assert_eq!(parse("QUIT "), Ok(Request::Quit));
        assert_eq!(Request::parse(b"NOOP \x00").unwrap_err().1, "5.5.2");
        assert_eq!(Request::parse(b"DATA\xff").unwrap_err().0, 500);
    }

    #[test]
    fn xtext() {
        for (text, expected) in
            [("a+2Bb", true), ("", true), ("a+b", false), ("a+2b", false), ("a=b", false), ("é", false)]
        {
            assert_eq!(is_xtext(text), expected, "{text}");
        }
    }
}
