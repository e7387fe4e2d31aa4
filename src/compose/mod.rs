//! Letters: a campaign's content frozen as an [`Edition`], compiled as a [`Template`], printed as one message per
//! recipient. Pure: the same edition, envelope and recipient give the same bytes. Nothing here reads files, clocks or
//! names.

mod depth;
mod edition;
mod guard;
mod headers;
mod helpers;
mod layout;
mod links;
mod markdown;
mod mime;
mod page;
mod proof;
mod sample;
mod scope;
mod shield;
mod slots;
mod template;

use crate::base::{Address, Domain, Timestamp};
use headers::Field;

#[cfg(test)]
pub(crate) use edition::tests::sample as sample_edition;
pub use edition::{Asset, Edition, FromField, Missing};
pub use layout::{Draft, Expanded, LayoutError, Markup, Source, UnknownTag, part_names, unknown_tag, unpaired_tag};
pub use links::{ConsentRule, Targets, Tracking, trackable};
pub use proof::{Grade, Proof, Remark, SAMPLE_POSTAL_ADDRESS, proof};
pub use sample::sample;
pub use scope::Urls;
pub use template::{Part, Template, Words};

/// Why an edition cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A template that handlebars cannot read, or that uses what is not there.
    #[error("{part}{}: {message}", place(*.line))]
    Template {
        /// The part of the message it stands for.
        part: Part,
        /// The line in the expanded template, from 1, when known.
        line: Option<usize>,
        /// What is wrong, and what to do.
        message: String,
    },
    /// An address of ours that is none.
    #[error("{field}: {message}")]
    Address {
        /// `from`, `reply_to`, or the setting.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A header that must not be set by a campaign, or whose name cannot stand in a message.
    #[error("header `{name}`: {message}")]
    Header {
        /// Its name as given.
        name: String,
        /// What is wrong.
        message: &'static str,
    },
    /// Bytes that are not a frozen edition of this version.
    #[error("not a frozen edition: {0}")]
    Frozen(String),
}

/// Refuses a file of a template that could not be compiled once everything is in its place: broken handlebars, unknown
/// helpers, unescaped values. Parts (`{{> name}}`) and `{{{content}}}` may still stand in it.
pub fn inspect(part: Part, source: &str) -> Result<(), Error> {
    slots::inspect(part, source)
}

/// Refuses a header that is ours to set, or whose name cannot stand in a message.
pub fn check_header(name: &str) -> Result<(), Error> {
    headers::check_name(name)
}

/// A message of our own to the people who run this workspace: plain text, and never answered by a machine (RFC 3834).
pub fn memo(from: &Address, to: &Address, subject: &str, text: &str, date: Timestamp, unique: &str) -> Vec<u8> {
    let mailbox = |name: &str, address: &Address| Field::mailbox(name.to_owned(), address.to_string());
    let id = format!("<{unique}.{}@{}>", date.as_ms(), from.domain());
    let fields = vec![
        ("From", mailbox("mailshot", from)),
        ("To", mailbox("", to)),
        ("Subject", Field::text(subject.to_owned(), headers::SUBJECT_MAX)),
        ("Date", Field::Exact(date.rfc5322())),
        ("Message-ID", Field::Exact(id)),
        ("Auto-Submitted", Field::Exact("auto-generated".to_owned())),
    ];
    mime::plain(fields, &scope::Context::Text.escape(text))
}

/// A report on TLS, and the letter around it.
#[derive(Debug, Clone, Copy)]
pub struct TlsReportLetter<'a> {
    /// Whose sessions it is about; its domain is the submitter.
    pub from: &'a Address,
    /// Who wanted it.
    pub to: &'a Address,
    /// The domain that it is about.
    pub domain: &'a Domain,
    /// Its id.
    pub id: &'a str,
    /// The name of the file.
    pub file: &'a str,
    /// The file: JSON in gzip.
    pub gzip: &'a [u8],
    /// When it is sent.
    pub date: Timestamp,
}

/// A report on TLS as mail (RFC 8460 §5.3). It asks hosts on its way not to insist on TLS (RFC 8689 §5).
pub fn tls_report(letter: &TlsReportLetter<'_>) -> Vec<u8> {
    let TlsReportLetter { from, to, domain, id, file, gzip, date } = letter;
    let submitter = from.domain();
    let mailbox = |address: &Address| Field::mailbox(String::new(), address.to_string());
    let subject = format!("Report Domain: {domain} Submitter: {submitter} Report-ID: <{id}>");
    let fields = vec![
        ("From", mailbox(from)),
        ("To", mailbox(to)),
        ("Subject", Field::text(subject, headers::VALUE_MAX)),
        ("Date", Field::Exact(date.rfc5322())),
        ("Message-ID", Field::Exact(format!("<{id}>"))),
        ("TLS-Report-Domain", Field::Exact(domain.to_string())),
        ("TLS-Report-Submitter", Field::Exact(submitter.to_string())),
        ("TLS-Required", Field::Exact("No".to_owned())),
        ("Auto-Submitted", Field::Exact("auto-generated".to_owned())),
    ];
    let words = format!("How sessions of {submitter} with the mail hosts of {domain} fared as to TLS: see the file.\n");
    mime::tls_report(fields, id, &words, file, gzip)
}

fn place(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

/// Why one copy cannot be printed. A fact about the recipient or the template, not about the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrintError {
    /// The recipient has no value for a field that the template needs, and the edition does not fill in for it.
    #[error("{part}: the contact has no `{field}`")]
    MissingField {
        /// The part of the message.
        part: Part,
        /// The field's name.
        field: String,
    },
    /// A value that a helper cannot work with.
    #[error("{part}: {message}")]
    Render {
        /// The part of the message.
        part: Part,
        /// What handlebars or the helper said.
        message: String,
    },
    /// More output than any letter needs (H-04).
    #[error("{part}: more than {} bytes", template::OUTPUT_MAX)]
    TooLong {
        /// The part of the message.
        part: Part,
    },
}

#[cfg(test)]
mod tests;
