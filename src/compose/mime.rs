//! Parts to bytes. The only file that knows mail-builder. Date, Message-ID and boundaries are always given, never
//! invented here.

use std::borrow::Cow;

use data_encoding::{BASE64, BASE64_MIME};
use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use mail_builder::mime::MimePart;

use crate::compose::headers::Field;
use crate::compose::{Asset, Edition};

/// The longest ASCII word that is left as it is; longer ones are encoded, so that every line can be folded (M-07).
const WORD_MAX: usize = 60;
/// Bytes of text in one encoded word: with its frame and the field's name it stays within a line of 76 (RFC 2047 §2).
const ENCODED_MAX: usize = 30;

/// The parts that are the same in every copy, encoded once, and the shape of the tree:
/// mixed(related(alternative(text, html), inline…), attachment…), levels with one child left out (M-13).
pub(crate) struct Parts {
    inline: Vec<Vec<u8>>,
    attachments: Vec<Vec<u8>>,
}

impl Parts {
    /// Encodes the edition's files.
    pub(crate) fn new(edition: &Edition) -> Parts {
        Parts {
            inline: edition.inline.iter().map(encode).collect(),
            attachments: edition.attachments.iter().map(encode).collect(),
        }
    }

    /// The finished message. `unique` is a token of this copy that no part contains: boundaries are made of it.
    pub(crate) fn write(&self, fields: Vec<(&str, Field)>, unique: &str, text: String, html: String) -> Vec<u8> {
        let alternatives = vec![MimePart::new("text/plain", text), MimePart::new("text/html", html)];
        let mut body = multipart("alternative", "a", unique, alternatives);
        if !self.inline.is_empty() {
            body = multipart("related", "r", unique, with(body, &self.inline));
        }
        if !self.attachments.is_empty() {
            body = multipart("mixed", "m", unique, with(body, &self.attachments));
        }
        let mut builder = MessageBuilder::new();
        for (name, field) in fields {
            builder = builder.header(name, value(field));
        }
        let mut bytes = Vec::new();
        builder.body(body).serialize(&mut bytes);
        bytes
    }
}

/// A message of a single text part.
pub(crate) fn plain(fields: Vec<(&str, Field)>, text: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new();
    for (name, field) in fields {
        builder = builder.header(name, value(field));
    }
    let mut bytes = Vec::new();
    builder.body(MimePart::new("text/plain", text)).serialize(&mut bytes);
    bytes
}

/// Words and a report in gzip (RFC 8460 §5.3). `unique` stands in neither.
pub(crate) fn tls_report(fields: Vec<(&str, Field)>, unique: &str, words: &str, file: &str, gzip: &[u8]) -> Vec<u8> {
    let report = MimePart::new("application/tlsrpt+gzip", gzip).attachment(file);
    let content_type = ContentType::new("multipart/report").attribute("report-type", "tlsrpt");
    let content_type = content_type.attribute("boundary", format!("=_t{unique}"));
    let body = MimePart::new(content_type, vec![MimePart::new("text/plain", words), report]);
    let mut builder = MessageBuilder::new();
    for (name, field) in fields {
        builder = builder.header(name, value(field));
    }
    let mut bytes = Vec::new();
    builder.body(body).serialize(&mut bytes);
    bytes
}

fn with<'x>(first: MimePart<'x>, encoded: &'x [Vec<u8>]) -> Vec<MimePart<'x>> {
    let further = encoded.iter().map(|part| MimePart::raw(part.as_slice()));
    std::iter::once(first).chain(further).collect()
}

/// `=_` never stands in quoted-printable or base64, and the token is in no other place of a copy (M-14).
fn multipart<'x>(kind: &'static str, level: &str, unique: &str, parts: Vec<MimePart<'x>>) -> MimePart<'x> {
    let mut content_type = ContentType::new(format!("multipart/{kind}"));
    if kind == "related" {
        content_type = content_type.attribute("type", "multipart/alternative");
    }
    MimePart::new(content_type.attribute("boundary", format!("=_{level}{unique}")), parts)
}

/// One file with its part headers, in base64 even where it is text: its bytes arrive as they are, and a CR or LF that stands
/// alone in it is no line's end on the wire.
fn encode(asset: &Asset) -> Vec<u8> {
    let encoded = BASE64_MIME.encode(&asset.bytes);
    let mut part = MimePart::new(asset.media_type.as_str(), encoded.trim_end().as_bytes()).transfer_encoding("base64");
    part = match &asset.content_id {
        Some(id) => part
            .header("Content-Disposition", ContentType::new("inline").attribute("filename", asset.name.as_str()))
            .cid(id.as_str()),
        None => part.attachment(asset.name.as_str()),
    };
    let mut bytes = Vec::new();
    part.write_part(&mut bytes);
    bytes
}

fn value(field: Field) -> HeaderType<'static> {
    match field {
        Field::Exact(text) => Raw::new(text).into(),
        Field::Text(text) if is_plain(&text) => Raw::new(text).into(),
        Field::Text(text) if text.is_ascii() => Raw::new(encoded_words(&text)).into(),
        Field::Text(text) => Text::new(text).into(),
        Field::Mailbox { name, address } if name.is_empty() => Address::new_address(None::<Cow<str>>, address).into(),
        Field::Mailbox { name, address } if name.is_ascii() && !is_plain(&name) => {
            Raw::new(format!("{} <{address}>", encoded_words(&name))).into()
        }
        Field::Mailbox { name, address } => Address::new_address(Some(name), address).into(),
    }
}

/// ASCII without a word too long to fold and without anything a reader would take for an encoded word.
fn is_plain(text: &str) -> bool {
    text.is_ascii() && !text.contains("=?") && text.split(' ').all(|word| word.len() <= WORD_MAX)
}

/// Text as encoded words (RFC 2047 §4.1), none of them cut inside a character.
fn encoded_words(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (1..=rest.len().min(ENCODED_MAX)).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (word, further) = rest.split_at(end);
        words.push(format!("=?utf-8?B?{}?=", BASE64.encode(word.as_bytes())));
        rest = further;
    }
    words.join(" ")
}
