//! A returned message opened with care: header fields unfolded, parts decoded and listed flat, everything within limits
//! (STANDARDS 5.2 step 1). What a returned message encloses is kept apart and never opened: a report about a report is
//! no report.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{ContentType, HeaderName, HeaderValue, MessageParser};
use memchr::memmem;

/// Octets looked at; reports come first in their messages, so what is cut is the returned letter.
pub(crate) const SIZE_MAX: usize = 4 << 20;
/// Octets of one header block.
const HEAD_MAX: usize = 256 << 10;
/// Multiparts inside each other.
const DEPTH_MAX: usize = 20;
/// Parts of one message.
const PARTS_MAX: usize = 100;

/// A header block.
#[derive(Debug, Default, Clone)]
pub(crate) struct Head {
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads fields up to the first line that is none; gives back how many octets they took with the empty line.
    pub(crate) fn read(bytes: &[u8]) -> (Head, usize) {
        let mut head = Head::default();
        let mut at = 0;
        while at < bytes.len().min(HEAD_MAX) {
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1);
            let line = String::from_utf8_lossy(bytes[at..end].trim_ascii_end());
            let is_first = at == 0;
            if line.is_empty() {
                return (head, end);
            }
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = head.fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_name(name)) {
                head.fields.push((name.trim_end().to_ascii_lowercase(), value.trim().to_owned()));
            } else if !(is_first && (line.starts_with("From ") || line.starts_with(">From "))) {
                return (head, at);
            }
            at = end;
        }
        (head, at)
    }

    /// The first field of this lower-case name.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All fields of this lower-case name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All fields, one in a line.
    fn lines(&self) -> String {
        self.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
    }

    /// A field of words for people, its encoded words (RFC 2047) decoded; empty when absent.
    pub(crate) fn words(&self, name: &str) -> String {
        let Some(value) = self.first(name) else { return String::new() };
        let field = format!("Subject: {value}\r\n\r\n");
        let decoded = MessageParser::new().parse_headers(field.as_bytes());
        decoded.and_then(|message| message.subject().map(str::to_owned)).unwrap_or_else(|| value.to_owned())
    }

    fn content_type(&self) -> Option<ContentType<'static>> {
        let field = format!("Content-Type: {}\r\n\r\n", self.first("content-type")?);
        let message = MessageParser::new().parse_headers(field.as_bytes())?;
        match message.header(HeaderName::ContentType)?.clone().into_owned() {
            HeaderValue::ContentType(content_type) => Some(content_type),
            _ => None,
        }
    }
}

/// Whether a text can be the name of a header field (RFC 5322 §2.2).
fn is_name(text: &str) -> bool {
    let text = text.trim_end();
    !text.is_empty() && text.len() <= 76 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A part that holds no parts, decoded.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its media type in lower case, as in `text/plain`.
    pub(crate) kind: String,
    /// Its contents as text; HTML as it came.
    pub(crate) text: String,
}

impl Part {
    /// Whether it is what came back: the returned message, whole or its header.
    pub(crate) fn is_returned(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "message/rfc822" | "message/global" | "text/rfc822-headers" | "message/global-headers" | "text/rfc822"
        )
    }
}

/// A message opened.
#[derive(Debug, Default)]
pub(crate) struct Letter {
    /// Its own header.
    pub(crate) head: Head,
    /// Its media type in lower case.
    pub(crate) kind: String,
    /// `report-type` of a `multipart/report` in lower case (RFC 6522 §3), empty otherwise.
    pub(crate) report_type: String,
    /// Its parts in order.
    pub(crate) parts: Vec<Part>,
}

impl Letter {
    /// Opens a message; whatever the bytes are, something is given back.
    pub(crate) fn open(raw: &[u8]) -> Letter {
        let raw = &raw[..raw.len().min(SIZE_MAX)];
        let (head, body) = Head::read(raw);
        let content_type = head.content_type();
        let mut letter = Letter {
            kind: kind(content_type.as_ref()),
            report_type: attribute(content_type.as_ref(), "report-type").to_ascii_lowercase(),
            ..Letter::default()
        };
        letter.unpack(&head, &raw[body..], 0);
        letter.head = head;
        letter
    }

    /// The delivery report inside, when a filter on the way has put it whole into a message of its own; else the letter.
    pub(crate) fn unwrapped(self) -> Letter {
        let inside = self.parts.first().filter(|part| part.is_returned() && self.kind == "multipart/mixed");
        let inside = inside.map(|part| Letter::open(part.text.trim_start().as_bytes()));
        let is_report = |inside: &Letter| inside.kind == "multipart/report" && inside.report_type == "delivery-status";
        match inside.filter(is_report) {
            Some(inside) => Letter { head: self.head, ..inside },
            None => self,
        }
    }

    fn unpack(&mut self, head: &Head, body: &[u8], depth: usize) {
        if self.parts.len() >= PARTS_MAX {
            return;
        }
        let content_type = head.content_type();
        let kind = kind(content_type.as_ref());
        let boundary = attribute(content_type.as_ref(), "boundary");
        if kind.starts_with("multipart/") && depth < DEPTH_MAX {
            let sections = sections(body, boundary.as_bytes());
            for section in &sections {
                let (head, body) = Head::read(section);
                self.unpack(&head, &section[body..], depth + 1);
            }
            if !sections.is_empty() {
                return;
            }
        }
        let bytes = decode(head.first("content-transfer-encoding").unwrap_or_default(), body);
        let charset = attribute(content_type.as_ref(), "charset");
        let mut text = text(&bytes, charset);
        if kind.contains("delivery-status") && head.first("final-recipient").is_some() {
            // The empty line between the header of the part and its fields was forgotten.
            text.insert_str(0, &head.lines());
        }
        self.parts.push(Part { kind, text });
    }

    /// What people are told: the texts before what came back, HTML as plain lines where it has no plain twin.
    pub(crate) fn prose(&self) -> String {
        let told = |kind: &str| kind == "text/plain" || kind == "text/html" || kind.starts_with("multipart/");
        let texts: Vec<&Part> = self.parts.iter().take_while(|part| !part.is_returned()).collect();
        let has_plain = texts.iter().any(|part| part.kind == "text/plain" && !part.text.trim().is_empty());
        let mut prose = String::new();
        for part in texts.into_iter().filter(|part| told(&part.kind)) {
            match part.kind == "text/html" {
                true if has_plain => continue,
                true => prose.push_str(&html_lines(&part.text)),
                false => prose.push_str(&part.text),
            }
            prose.push('\n');
        }
        prose
    }
}

fn kind(content_type: Option<&ContentType<'_>>) -> String {
    let Some(content_type) = content_type else { return "text/plain".to_owned() };
    let subtype = content_type.subtype().unwrap_or("plain");
    format!("{}/{subtype}", content_type.ctype()).to_ascii_lowercase()
}

fn attribute<'a>(content_type: Option<&'a ContentType<'_>>, name: &str) -> &'a str {
    content_type.and_then(|content_type| content_type.attribute(name)).unwrap_or_default()
}

/// The parts between the lines of a boundary (RFC 2046 §5.1.1); a missing last line is forgiven.
fn sections<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let mut found = Vec::new();
    if boundary.is_empty() {
        return found;
    }
    let mut start = None;
    for at in memmem::find_iter(body, boundary) {
        let is_line = body[..at].ends_with(b"--") && (at == 2 || body[..at - 2].ends_with(b"\n"));
        let after = &body[at + boundary.len()..];
        let is_last = after.starts_with(b"--");
        let is_exact = is_last || after.first().is_none_or(|byte| byte.is_ascii_whitespace());
        if !is_line || !is_exact {
            continue;
        }
        if let Some(start) = start.take() {
            found.push(&body[start..(at - 2).max(start)]);
        }
        if is_last || found.len() >= PARTS_MAX {
            return found;
        }
        start = Some(at + boundary.len() + memchr::memchr(b'\n', after).map_or(after.len(), |end| end + 1));
    }
    if let Some(start) = start {
        found.push(&body[start..]);
    }
    found
}

fn decode<'a>(encoding: &str, body: &'a [u8]) -> Cow<'a, [u8]> {
    let decoded = match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => base64_decode(body),
        "quoted-printable" => quoted_printable_decode(body),
        _ => None,
    };
    decoded.map_or(Cow::Borrowed(body), Cow::Owned)
}

fn text(bytes: &[u8], charset: &str) -> String {
    let is_utf8 =
        charset.is_empty() || charset.eq_ignore_ascii_case("us-ascii") || charset.eq_ignore_ascii_case("utf-8");
    let decoder = if is_utf8 { None } else { charset_decoder(charset.as_bytes()) };
    let text = decoder.map_or_else(|| String::from_utf8_lossy(bytes).into_owned(), |decode| decode(bytes));
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    }
}

/// HTML as lines: tags that end a line end one here, all others are dropped; an address in angle brackets stays.
pub(crate) fn html_lines(html: &str) -> String {
    let mut lines = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        lines.push_str(&rest[..open]);
        rest = &rest[open..];
        let Some(close) = rest.find('>') else { break };
        let tag = &rest[1..close];
        let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
        match name.to_ascii_lowercase().as_str() {
            _ if tag.contains('@') && !tag.contains(['=', ' ']) => lines.push_str(&rest[..=close]),
            "br" | "p" | "div" | "tr" | "li" | "td" | "h1" | "h2" | "h3" | "pre" | "hr" | "table" => lines.push('\n'),
            "a" if !tag.starts_with('/') => {
                lines.push_str(&linked(tag, &rest[close + 1..], lines.trim_end_matches(' ')))
            }
            "style" | "script" => rest = skip_element(rest, &name),
            _ => {}
        }
        rest = rest.get(close + 1..).unwrap_or_default();
    }
    lines.push_str(rest);
    for (entity, plain) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&nbsp;", " "),
        ("&#64;", "@"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ] {
        lines = lines.replace(entity, plain);
    }
    lines
}

/// The address behind a link that shows a name in its place; at the start of a line it heads the line.
fn linked(tag: &str, shown: &str, before: &str) -> String {
    let address = tag.split_once("mailto:").map_or("", |(_, address)| address);
    let address = address.split(['"', '\'', '?', ' ', '>']).next().unwrap_or_default();
    let shown = shown.split('<').next().unwrap_or_default();
    match address.contains('@') && !shown.contains('@') && !shown.trim().is_empty() {
        true if before.is_empty() || before.ends_with('\n') => format!("<{address}>: "),
        true => format!("<{address}> "),
        false => String::new(),
    }
}

/// The text from the end tag of an element on, so long that the caller's cut behind the start tag meets that end tag.
fn skip_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let end = format!("</{name}");
    memmem::find(rest.as_bytes(), end.as_bytes()).map_or("", |at| &rest[at..])
}
