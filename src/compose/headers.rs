//! Header fields: which ones a message carries, and what may stand in them. Values come here cleaned; how they are
//! folded and encoded is `mime`'s affair.

use crate::base::{Address, Domain, Token};
use crate::compose::scope::Context;
use crate::compose::{Edition, Error};

/// Longest subject, in characters: Gmail takes 998 octets (M-08).
pub(crate) const SUBJECT_MAX: usize = 240;
/// Longest value of a campaign's own header, in characters.
pub(crate) const VALUE_MAX: usize = 2000;
/// Longest display name, in characters.
const NAME_MAX: usize = 120;

/// Fields that are ours, or that must not be in a message a host is handed (M-12).
const RESERVED: &[&str] = &[
    "from",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "sender",
    "mime-version",
    "received",
    "return-path",
    "delivered-to",
    "dkim-signature",
    "authentication-results",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
    "precedence",
    "x-auto-response-suppress",
    "x-ref",
];

/// A header's value, ready to be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    /// A display name, perhaps empty, and an address.
    Mailbox { name: String, address: String },
    /// Words for people, encoded where they are not ASCII.
    Text(String),
    /// ASCII that stands as it is.
    Exact(String),
}

impl Field {
    /// A mailbox; the name is cleaned again, because it may come from a contact without passing a template.
    pub(crate) fn mailbox(name: String, address: String) -> Field {
        Field::Mailbox { name: tidy(&name, NAME_MAX), address }
    }

    /// Unstructured text, at most `most` characters.
    pub(crate) fn text(value: String, most: usize) -> Field {
        Field::Text(tidy(&value, most))
    }
}

/// One line, no control characters, no blanks in a row or at the ends: such a value cannot end its field, nor fold into
/// a line of blanks (M-07, M-11).
fn tidy(value: &str, most: usize) -> String {
    let line = Context::Header.escape(value);
    let mut tidy = String::with_capacity(line.len());
    for word in line.split_whitespace() {
        if !tidy.is_empty() {
            tidy.push(' ');
        }
        tidy.push_str(word);
    }
    if let Some((end, _)) = tidy.char_indices().nth(most) {
        tidy.truncate(end);
    }
    tidy
}

/// Refuses header names that are ours to set or that cannot stand in a message (M-01, M-12).
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let wrong = |message| Err(Error::Header { name: name.to_owned(), message });
    if name.is_empty() || name.len() > 76 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return wrong("a header's name is made of letters, digits and hyphens");
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("content-") || lower.starts_with("resent-") {
        return wrong("is set by mailshot and cannot be set by a campaign");
    }
    Ok(())
}

/// The fields that are the same in every copy, and what it takes to make the sealed ones.
pub(crate) struct Head {
    reply_to: Option<Address>,
    base_url: String,
    mailto_domain: Domain,
    list_id: String,
    feedback_id: String,
}

impl Head {
    /// Prepares what an edition's messages have in common.
    pub(crate) fn new(edition: &Edition) -> Result<Head, Error> {
        let wrong = |field| move |why: crate::base::AddressError| Error::Address { field, message: why.to_string() };
        let from = Address::parse(&edition.from.address).map_err(wrong("from"))?;
        let list = edition.lists.first().map_or("", String::as_str);
        Ok(Head {
            reply_to: edition.reply_to.as_deref().map(Address::parse).transpose().map_err(wrong("reply_to"))?,
            base_url: edition.base_url.clone(),
            mailto_domain: Domain::parse(&edition.mailto_domain).map_err(wrong("links.mailto_domain"))?,
            list_id: format!("<{}.{}>", label(list), from.domain()),
            feedback_id: feedback_id(edition, list),
        })
    }

    /// Where the unsubscribe link of one copy leads.
    pub(crate) fn unsubscribe_url(&self, token: &Token) -> String {
        format!("{}/u/{token}", self.base_url)
    }

    /// Appends the fields behind From, To, Subject, Date and Message-ID. List-Unsubscribe names one https address first
    /// (RFC 8058 §3.1), a mail address second (RFC 2369 §3.2).
    pub(crate) fn push(&self, fields: &mut Vec<(&str, Field)>, unsubscribe: &Token, trace: &Token) {
        if let Some(reply_to) = &self.reply_to {
            fields.push(("Reply-To", Field::mailbox(String::new(), reply_to.to_string())));
        }
        let url = self.unsubscribe_url(unsubscribe);
        let mailto = format!("<mailto:u.{unsubscribe}@{}?subject=unsubscribe>", self.mailto_domain);
        fields.push(("List-Unsubscribe", Field::Exact(format!("<{url}>, {mailto}"))));
        if url.starts_with("https://") {
            fields.push(("List-Unsubscribe-Post", Field::Exact("List-Unsubscribe=One-Click".to_owned())));
        }
        fields.push(("List-Id", Field::Exact(self.list_id.clone())));
        fields.push(("Feedback-ID", Field::Exact(self.feedback_id.clone())));
        fields.push(("Precedence", Field::Exact("bulk".to_owned())));
        fields.push(("X-Auto-Response-Suppress", Field::Exact("OOF, AutoReply".to_owned())));
        fields.push(("X-Ref", Field::Exact(trace.to_string())));
        fields.push(("MIME-Version", Field::Exact("1.0".to_owned())));
    }
}

/// A list's name as a label of List-Id (RFC 2919 §3): what is not a letter or digit becomes a hyphen.
fn label(list: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = list.chars().map(plain).take(63).collect();
    match label.trim_matches('-') {
        "" => "list".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// `campaign:list:SenderId`, no identifier twice, none per recipient (M-25).
fn feedback_id(edition: &Edition, list: &str) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }).collect()
    };
    format!("c-{}:l-{}:{}", plain(&edition.campaign), plain(list), edition.sender_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::edition::tests::sample;

    #[test]
    fn values_become_one_tidy_line() {
        for (value, expected) in [
            ("a\r\nBcc: v@e", "a Bcc: v@e"),
            ("  a \t b\u{2028}c\0 ", "a b c"),
            ("\u{202e}gnp.exe", "gnp.exe"),
            ("日本語日本語", "日本語日本"),
        ] {
            assert_eq!(
                Field::text(value.into(), if value.starts_with('日') { 5 } else { 99 }),
                Field::Text(expected.into())
            );
        }
    }

    #[test]
    fn a_campaign_cannot_set_what_is_ours() {
        for name in ["X-Campaign", "List-Help", "Organization"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in
            ["", "From", "BCC", "Content-Type", "DKIM-Signature", "Resent-To", "X A", "X:A", "X-A\r\nBcc", "X-ü"]
        {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn list_and_feedback_ids_keep_their_form() {
        let mut edition = sample();
        let head = Head::new(&edition).unwrap();
        assert_eq!(
            (head.list_id.as_str(), head.feedback_id.as_str()),
            ("<news.example.com>", "c-welcome:l-news:examplecom")
        );
        edition.lists = vec!["Große Liste: A".into()];
        let head = Head::new(&edition).unwrap();
        assert_eq!(head.list_id, "<gro-e-liste--a.example.com>");
        assert_eq!(head.feedback_id, "c-welcome:l-Gro-e-Liste--A:examplecom");
    }
}
