//! What a template sees of one copy: the contact's fields and our own few words. Values are cleaned here, once, for the
//! place they go to.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::base::turns_text;
use crate::compose::links::CLICK_WORD;
use crate::mail::Recipient;

/// Where a value is printed: decides what is cleaned and escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Context {
    /// Inside HTML text or a quoted attribute.
    Html,
    /// Inside plain text.
    Text,
    /// Inside a header value: one line, nothing that could end it (H-02, M-11).
    Header,
}

impl Context {
    /// Appends `value`, cleaned and escaped for this place.
    pub(crate) fn push(self, value: &str, to: &mut String) {
        let (mut written, mut at) = (0, 0);
        while let Some(plain) = value.as_bytes()[at..].iter().position(|byte| !IS_PLAIN[usize::from(*byte)]) {
            at += plain;
            let Some(c) = value[at..].chars().next() else { break };
            if let Some(instead) = self.instead_of(c) {
                to.push_str(&value[written..at]);
                to.push_str(instead);
                written = at + c.len_utf8();
            }
            at += c.len_utf8();
        }
        to.push_str(&value[written..]);
    }

    /// What is written in place of a character; `None`: the character itself. In text and HTML control characters vanish,
    /// but for line feed and tab. In headers they and line separators become blanks; byte order marks, and characters that
    /// turn the direction of text, vanish.
    fn instead_of(self, c: char) -> Option<&'static str> {
        match (self, c) {
            (Context::Html, '&') => Some("&amp;"),
            (Context::Html, '<') => Some("&lt;"),
            (Context::Html, '>') => Some("&gt;"),
            (Context::Html, '"') => Some("&quot;"),
            (Context::Html, '\'') => Some("&#39;"),
            (Context::Html | Context::Text, '\n' | '\t') => None,
            (Context::Html | Context::Text, c) => c.is_control().then_some(""),
            (Context::Header, '\u{2028}' | '\u{2029}') => Some(" "),
            (Context::Header, c) if turns_text(c) || c == '\u{feff}' => Some(""),
            (Context::Header, c) => c.is_control().then_some(" "),
        }
    }

    /// `value` as [`Context::push`] would write it.
    pub(crate) fn escape(self, value: &str) -> String {
        let mut text = String::with_capacity(value.len() + 16);
        self.push(value, &mut text);
        text
    }
}

/// The octets that stand as they are wherever they come: most of all values, passed over without a look at each character.
const IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut octet = b' ';
    while octet < 0x7f {
        is_plain[octet as usize] = !matches!(octet, b'&' | b'<' | b'>' | b'"' | b'\'');
        octet += 1;
    }
    is_plain
};

/// Where the links of one copy lead that are ours: sealed, and so different in every copy. Empty ones do not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Urls {
    /// The page to leave the list on.
    pub unsubscribe: String,
    /// The page to choose lists, pauses and tracking on.
    pub preferences: String,
    /// The copy itself, in a browser.
    pub view: String,
    /// The page to confirm a subscription on.
    pub confirm: String,
    /// The open pixel.
    pub pixel: String,
    /// The tracked links, by number.
    pub clicks: Vec<String>,
}

impl Urls {
    /// Our words for them, beside the tracked links.
    pub(crate) const WORDS: [&'static str; 5] =
        ["unsubscribe_url", "preferences_url", "view_url", "confirm_url", "pixel_url"];

    /// The link that a word stands for; `None` for words that are not ours.
    fn of(&self, word: &str) -> Option<&str> {
        match word {
            "unsubscribe_url" => Some(&self.unsubscribe),
            "preferences_url" => Some(&self.preferences),
            "view_url" => Some(&self.view),
            "confirm_url" => Some(&self.confirm),
            "pixel_url" => Some(&self.pixel),
            other => {
                let number: usize = other.strip_prefix(CLICK_WORD)?.parse().ok()?;
                self.clicks.get(number).map(String::as_str)
            }
        }
    }
}

/// One copy's values.
pub(crate) struct Scope<'a> {
    /// Whose copy it is; nobody, when they are no longer known.
    pub(crate) recipient: Option<&'a Recipient>,
    pub(crate) address: &'a str,
    pub(crate) urls: &'a Urls,
}

impl Scope<'_> {
    /// The value of a field as text; `None` when there is none. Empty text is none.
    pub(crate) fn text(&self, field: &str) -> Option<Cow<'_, str>> {
        let text = match field {
            "email" => Cow::Borrowed(self.address),
            "name" => Cow::Borrowed(self.recipient?.name.as_str()),
            word => match self.urls.of(word) {
                Some(url) => Cow::Borrowed(url),
                None => as_text(self.recipient?.fields.get(word)?)?,
            },
        };
        (!text.trim().is_empty()).then_some(text)
    }

    /// All values as one object for handlebars; `constants` are the words that are the same in every copy. What has no
    /// value is left out, so that strict mode sees it as missing.
    pub(crate) fn object(&self, constants: &[(&'static str, String)]) -> Value {
        let fields = self.recipient.iter().flat_map(|recipient| &recipient.fields);
        let kept = fields.filter(|(_, value)| !is_empty(value));
        let mut object: Map<String, Value> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        for (number, url) in self.urls.clicks.iter().enumerate() {
            object.insert(format!("{CLICK_WORD}{number}"), Value::from(url.as_str()));
        }
        for word in ["email", "name"].into_iter().chain(Urls::WORDS) {
            object.remove(word);
            if let Some(text) = self.text(word) {
                object.insert(word.to_owned(), Value::from(text.into_owned()));
            }
        }
        for (word, text) in constants {
            object.insert((*word).to_owned(), Value::from(text.as_str()));
        }
        Value::Object(object)
    }
}

/// A single value as text; lists and objects have none.
pub(crate) fn as_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null) || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// `value` when it is a web or mail address that a link may lead to; nothing else may stand at the start of a link (H-03).
pub(crate) fn as_link(value: &str) -> Option<&str> {
    let link = value.trim();
    let scheme = link.split(':').next().unwrap_or_default();
    let known = ["http", "https", "mailto", "tel"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let clean = !link.chars().any(|c| c.is_whitespace() || c.is_control());
    (known && clean && link.len() > scheme.len()).then_some(link)
}

/// `value` percent-encoded as one component of a URL (RFC 3986 §2.3).
pub(crate) fn percent_encoded(value: &str) -> String {
    let mut url = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(byte as char),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_own_cleaning() {
        let value = "\"><img src=x>\r\nBcc: v@e\0\u{2028}\u{202e}ü&'";
        assert_eq!(Context::Html.escape(value), "&quot;&gt;&lt;img src=x&gt;\nBcc: v@e\u{2028}\u{202e}ü&amp;&#39;");
        assert_eq!(Context::Text.escape(value), "\"><img src=x>\nBcc: v@e\u{2028}\u{202e}ü&'");
        assert_eq!(Context::Header.escape(value), "\"><img src=x>  Bcc: v@e  ü&'");
    }

    #[test]
    fn links_lead_only_where_links_may() {
        for good in ["https://example.com/a?b=c&d", "HTTP://example.com", "mailto:a@example.com"] {
            assert_eq!(as_link(good), Some(good));
        }
        for bad in
            ["javascript:alert(1)", " data:text/html,x", "//example.com", "example.com", "", "https", "https://a b"]
        {
            assert_eq!(as_link(bad), None, "{bad}");
        }
        assert_eq!(percent_encoded("a&b=c d/ü~"), "a%26b%3Dc%20d%2F%C3%BC~");
    }
}
