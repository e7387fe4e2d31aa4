//! What a reader sees of an HTML text: its visible words, its links, its pictures, and which elements it is made of. Reads
//! tags as mail programs do, forgivingly; never changes anything.

use std::collections::BTreeSet;

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Where it leads, as the attribute says.
    pub(crate) target: String,
    /// The visible words on it, or the description of the picture on it.
    pub(crate) words: String,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Where it comes from.
    pub(crate) source: String,
    /// The words for those who do not see it; `None` when the attribute is missing.
    pub(crate) words: Option<String>,
}

/// An HTML text as seen.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// All visible words.
    pub(crate) words: String,
    /// All visible links.
    pub(crate) links: Vec<Link>,
    /// All pictures.
    pub(crate) pictures: Vec<Picture>,
    /// The names of all elements.
    pub(crate) elements: BTreeSet<String>,
    /// Attributes that hold a script, as in `onclick`.
    pub(crate) handlers: BTreeSet<String>,
}

/// An element that is open, and what it does to the words inside.
struct Open {
    name: String,
    is_hidden: bool,
    is_tiny: bool,
    /// The link it is, by number.
    link: Option<usize>,
}

/// One tag.
struct Tag<'a> {
    name: String,
    closes: bool,
    attributes: Vec<(String, String)>,
    rest: &'a str,
}

/// Elements that never have anything inside.
const VOID: &[&str] = &["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"];
/// Elements whose inside is no HTML.
const RAW: &[&str] = &["script", "style", "title", "textarea"];
/// Elements that end a line.
const BLOCKS: &[&str] =
    &["p", "div", "td", "th", "tr", "table", "li", "br", "hr", "h1", "h2", "h3", "h4", "blockquote"];

impl Page {
    /// Reads an HTML text.
    pub(crate) fn read(html: &str) -> Page {
        let mut page = Page::default();
        let mut open: Vec<Open> = Vec::new();
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            page.see(&rest[..at], &open);
            rest = &rest[at..];
            rest = if let Some(comment) = rest.strip_prefix("<!--") {
                after(comment, "-->")
            } else if rest.starts_with("<!") || rest.starts_with("<?") {
                after(rest, ">")
            } else if let Some(tag) = tag(rest) {
                let rest = tag.rest;
                let is_raw = !tag.closes && RAW.contains(&tag.name.as_str());
                let end = format!("</{}", tag.name);
                page.step(tag, &mut open);
                if is_raw { from(rest, &end) } else { rest }
            } else {
                page.see("<", &open);
                &rest[1..]
            };
        }
        page.see(rest, &open);
        page
    }

    fn step(&mut self, tag: Tag<'_>, open: &mut Vec<Open>) {
        if BLOCKS.contains(&tag.name.as_str()) {
            self.words.push(' ');
        }
        if tag.closes {
            if let Some(at) = open.iter().rposition(|element| element.name == tag.name) {
                open.truncate(at);
            }
            return;
        }
        self.handlers.extend(tag.attributes.iter().map(|(name, _)| name).filter(|n| n.starts_with("on")).cloned());
        self.elements.insert(tag.name.clone());
        let element = open_element(&tag, open.last());
        let mut link = open.last().and_then(|parent| parent.link);
        match tag.name.as_str() {
            "a" if !element.is_hidden => {
                if let Some(target) = tag.attribute("href") {
                    link = Some(self.links.len());
                    self.links.push(Link { target: target.trim().to_owned(), words: String::new() });
                }
            }
            "img" => {
                let words = tag.attribute("alt").map(str::to_owned);
                if let (Some(link), Some(words)) = (link, &words) {
                    self.links[link].words.push_str(words);
                }
                let source = tag.attribute("src").unwrap_or_default().trim().to_owned();
                self.pictures.push(Picture { source, words });
            }
            _ => {}
        }
        if !VOID.contains(&tag.name.as_str()) {
            open.push(Open { link, ..element });
        }
    }

    /// Words between two tags.
    fn see(&mut self, text: &str, open: &[Open]) {
        let inner = open.last();
        if inner.is_some_and(|element| element.is_hidden || element.is_tiny) {
            return;
        }
        let words = decode(text);
        if let Some(link) = inner.and_then(|element| element.link) {
            self.links[link].words.push_str(&words);
        }
        self.words.push_str(&words);
    }
}

impl Tag<'_> {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the element does to its inside, given what its parent does.
fn open_element(tag: &Tag<'_>, parent: Option<&Open>) -> Open {
    let style: String = tag
        .attribute("style")
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect::<String>()
        .to_lowercase();
    let says = |property: &str| {
        let mut rules = style.split(';').filter_map(|rule| rule.split_once(':'));
        rules.find(|(name, _)| *name == property).map(|(_, value)| value.trim_end_matches("!important").to_owned())
    };
    let is_none =
        |value: &str| value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%').parse() == Ok(0.0);
    let hides = matches!(tag.name.as_str(), "head" | "title" | "style" | "script" | "noscript" | "template")
        || tag.attribute("hidden").is_some()
        || says("display").is_some_and(|value| value == "none")
        || says("visibility").is_some_and(|value| value == "hidden")
        || says("opacity").is_some_and(|value| is_none(&value));
    Open {
        name: tag.name.clone(),
        is_hidden: hides || parent.is_some_and(|parent| parent.is_hidden),
        is_tiny: match says("font-size") {
            Some(size) => is_none(&size),
            None => parent.is_some_and(|parent| parent.is_tiny),
        },
        link: None,
    }
}

/// The tag that `text` begins with; `None` when it is no tag.
fn tag(text: &str) -> Option<Tag<'_>> {
    let inside = text.strip_prefix('<')?;
    let (closes, inside) = match inside.strip_prefix('/') {
        Some(inside) => (true, inside),
        None => (false, inside),
    };
    if !inside.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let end = inside.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap_or(inside.len());
    let name = inside[..end].to_ascii_lowercase();
    let (attributes, rest) = attributes(&inside[end..]);
    Some(Tag { name, closes, attributes, rest })
}

/// The attributes up to the tag's end, and what follows it.
fn attributes(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if text.is_empty() {
            return (found, "");
        }
        if let Some(rest) = text.strip_prefix('>') {
            return (found, rest);
        }
        let end = text.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/')).unwrap_or(text.len()).max(1);
        let end = if text.is_char_boundary(end) { end } else { text.chars().next().map_or(1, char::len_utf8) };
        let name = text[..end].to_ascii_lowercase();
        let behind = text[end..].trim_start();
        let (value, rest) = match behind.strip_prefix('=') {
            Some(value) => attribute_value(value.trim_start()),
            None => ("", &text[end..]),
        };
        found.push((name, decode(value)));
        text = rest;
    }
}

/// A value with or without quotes, and what follows it.
fn attribute_value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote) {
            return inside.split_once(quote).unwrap_or((inside, ""));
        }
    }
    let end = text.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(text.len());
    text.split_at(end)
}

/// What follows `mark`; nothing when it does not come.
fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or("", |(_, rest)| rest)
}

/// The text from `mark` on, whatever its case; nothing when it does not come.
fn from<'a>(text: &'a str, mark: &str) -> &'a str {
    let found = text.as_bytes().windows(mark.len()).position(|window| window.eq_ignore_ascii_case(mark.as_bytes()));
    found.map_or("", |at| &text[at..])
}

/// The character references of HTML that our own escaping and ordinary templates use.
pub(crate) fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest[1..].split_once(';').filter(|(name, _)| name.len() <= 10);
        match reference.and_then(|(name, behind)| Some((character(name)?, behind))) {
            Some((character, behind)) => {
                decoded.push(character);
                rest = behind;
            }
            None => {
                decoded.push('&');
                rest = &rest[1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_a_reader_sees_counts() {
        for (html, words) in [
            ("<p>Hi &amp; <b>bye</b></p>", "Hi & bye"),
            ("<head><title>no</title></head><body>yes</body>", "yes"),
            ("a<!-- no <b>no</b> -->b<!doctype html>c", "abc"),
            ("<style>p > b { color: red }</style>a<SCRIPT>if (a<b) {}</script >b", "ab"),
            ("<div style=\"DISPLAY : none !important\">no <p>no</p></div>yes", "yes"),
            ("<div hidden>no</div><i style='visibility:hidden'>no</i><u style='opacity:0'>no</u>yes", "yes"),
            ("<td style='font-size:0px'>no<div style='font-size:16px'>yes</div>no</td>", "yes"),
            ("<p style='font-size:0.9em'>yes</p>", "yes"),
            ("1 < 2 &unknown; &#246;&#x2014;", "1 < 2 &unknown; ö—"),
        ] {
            let seen = Page::read(html).words;
            assert_eq!(seen.split_whitespace().collect::<Vec<_>>().join(" "), words, "{html}");
        }
    }

    #[test]
    fn links_pictures_and_elements_are_found() {
        let page = Page::read(
            "<a href=https://a.example/?x=1&amp;y=2>One <b>two</b></a><A HREF='b'><img src=\"cid:x\" alt=\"Three\"></A>\
             <a name=top></a><img src=y><p onClick=go()><form><a style=display:none href=c>no</a></form>",
        );
        let links: Vec<_> = page.links.iter().map(|link| (link.target.as_str(), link.words.as_str())).collect();
        assert_eq!(links, [("https://a.example/?x=1&y=2", "One two"), ("b", "Three")]);
        assert_eq!(page.pictures[0], Picture { source: "cid:x".into(), words: Some("Three".into()) });
        assert_eq!(page.pictures[1].words, None);
        assert!(page.elements.contains("form") && page.handlers.contains("onclick"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "(<[a/!-]?|>|=|\"|'|&#?|;|ü|-->| |style|href|\\PC){0,60}") {
            Page::read(&text);
        }
    }
}
