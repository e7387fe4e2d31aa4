//! One raw message that came back, however it came: what it is, whose it is, what follows. Pure: reads bytes, writes
//! nothing, and has an answer for every input within bounded time; what it does not understand is [`Kind::Other`].
//!
//! The order of attempts: feedback report, delivery report (RFC 3464), mail to an unsubscribe address, automatic reply,
//! and last the texts that hosts without delivery reports write.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

use crate::base::{EnvelopeId, Purpose, Seal};
use crate::mail::{Class, EnhancedCode};
use crate::outcome::letter::{Head, Letter};
use crate::outcome::{bounce, complaint, prose, replies};

/// Tokens kept of one message.
const TRACES_MAX: usize = 24;
/// Characters kept of a diagnostic.
const DIAGNOSTIC_MAX: usize = 1000;
/// Recipients kept of one message: ours have one, other people's lists may have many.
pub(crate) const RECIPIENTS_MAX: usize = 200;

/// What a returned message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody was not reached, and nobody tries again.
    Bounce,
    /// Somebody was not reached yet; the host goes on trying.
    Delay,
    /// A recipient called the message spam.
    Complaint,
    /// An automatic answer: vacation, out of office, "we got your message".
    AutoReply,
    /// A wish to leave, by mail.
    Unsubscribe,
    /// A report for our eyes only: authentication failures, DMARC and TLS aggregates, "this is not spam".
    Report,
    /// Anything else: success reports, read receipts, challenges, ordinary mail.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bounce => "bounce",
            Kind::Delay => "delay",
            Kind::Complaint => "complaint",
            Kind::AutoReply => "auto_reply",
            Kind::Unsubscribe => "unsubscribe",
            Kind::Report => "report",
            Kind::Other => "other",
        })
    }
}

/// What a host did with the message for one recipient (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Given up.
    Failed,
    /// Not delivered yet; tried again.
    Delayed,
    /// In the mailbox.
    Delivered,
    /// Handed to a host that sends no reports.
    Relayed,
    /// Delivered and sent on to several.
    Expanded,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        })
    }
}

/// What is said about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// The address as the report names it. Never trusted: the copy, and so the contact, is found by its token (B-07).
    pub address: String,
    /// What was done; `None` when the message is no delivery report.
    pub action: Option<Action>,
    /// The basic code of the host that refused, where it is quoted.
    pub code: Option<u16>,
    /// The enhanced status code that says most.
    pub status: Option<EnhancedCode>,
    /// Whether the failure is a permanent one (RFC 3463 §2, class 5) rather than trouble that lasted too long (class 4);
    /// without any code, a host that gave up means it for good. `None` when there is no failure.
    pub permanent: Option<bool>,
    /// Why.
    pub class: Class,
    /// The words of the host that refused, cut to 1000 characters; empty when there are none.
    pub diagnostic: String,
}

impl Returned {
    /// Somebody the message is about who was not failed by a host: a complainer, an absent reader.
    pub(crate) fn bystander(address: &str, class: Class) -> Returned {
        Returned {
            address: address.to_owned(),
            action: None,
            code: None,
            status: None,
            permanent: None,
            class,
            diagnostic: String::new(),
        }
    }

    /// Whether one such result is enough to suppress the address, once its copy is proven by a token (B-25): a dead
    /// address or a complaint.
    pub fn suppresses(&self) -> bool {
        match self.class {
            Class::HardUnknownUser | Class::HardBadDomain | Class::HardSyntax | Class::HardInactive => {
                self.action == Some(Action::Failed)
            }
            Class::Complaint | Class::Unsubscribe => true,
            Class::Delivered
            | Class::SoftQuota
            | Class::SoftGreylist
            | Class::SoftRateRecipient
            | Class::SoftSystem
            | Class::SoftExpired
            | Class::BlockIp
            | Class::BlockDomain
            | Class::BlockUrl
            | Class::BlockRate
            | Class::PolicyAuth
            | Class::PolicyContent
            | Class::PolicyRecipient
            | Class::Size
            | Class::Relay
            | Class::Protocol
            | Class::AutoReply
            | Class::Challenge
            | Class::Undetermined => false,
        }
    }
}

/// A token that stands in the message, not yet opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What it must have been minted for, by the place it stands in.
    pub purpose: Purpose,
    /// Its 33 characters.
    pub token: String,
}

/// A returned message, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// What it is.
    pub kind: Kind,
    /// The tokens in it, the most trustworthy first (B-07): the address it came to, the envelope id, then what came back.
    pub traces: Vec<Trace>,
    /// Whom it is about.
    pub recipients: Vec<Returned>,
}

impl Arrival {
    /// The copy this is about, proven by the first token that opens; with the purpose of that token and the token.
    pub fn copy(&self, seal: &Seal) -> Option<(EnvelopeId, &Trace)> {
        self.traces.iter().find_map(|trace| Some((seal.open(&trace.token, trace.purpose)?.0, trace)))
    }

    /// Puts the tokens of the SMTP envelope's recipient first, for those who know it.
    pub fn addressed_to(mut self, recipient: &str) -> Arrival {
        let mut traces = Traces::default();
        traces.local_parts(recipient);
        self.traces.splice(0..0, traces.found);
        self
    }
}

/// Reads one raw message: header, empty line, body; a leading `From ` line of a mailbox is skipped.
pub fn read(raw: &[u8]) -> Arrival {
    let letter = Letter::open(raw).unwrapped();
    let prose = prose::Prose::new(&letter);
    let returned = returned_head(&letter, &prose);
    let traces = traces(&letter, &returned, raw);
    let to_unsubscribe = traces.first().is_some_and(|trace| trace.purpose == Purpose::Unsubscribe);
    let (kind, recipients) = complaint::read(&letter, &returned)
        .or_else(|| bounce::read(&letter, &prose))
        .or_else(|| replies::unsubscribe(&letter, to_unsubscribe))
        .or_else(|| replies::read(&letter, &prose))
        .or_else(|| prose::read(&letter, &prose, &returned))
        .unwrap_or((Kind::Other, Vec::new()));
    Arrival { kind, traces, recipients }
}

/// What an attempt comes to: nothing of its own, or a full result.
pub(crate) type Reading = Option<(Kind, Vec<Returned>)>;

/// A diagnostic in one line, cut.
pub(crate) fn tidy(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() >= DIAGNOSTIC_MAX {
            break;
        }
    }
    line.chars().take(DIAGNOSTIC_MAX).collect()
}

/// The header of the message that came back, wherever it stands: in a part of its own or quoted under the text.
fn returned_head(letter: &Letter, prose: &prose::Prose) -> Head {
    let part = letter.parts.iter().find(|part| part.is_returned());
    let text = part.map_or(prose.quoted(), |part| part.text.trim_start());
    Head::read(text.as_bytes()).0
}

#[derive(Default)]
struct Traces {
    found: Vec<Trace>,
}

impl Traces {
    fn add(&mut self, purpose: Purpose, token: &str) {
        let trace = Trace { purpose, token: token.to_ascii_lowercase() };
        if self.found.len() < TRACES_MAX && !self.found.contains(&trace) {
            self.found.push(trace);
        }
    }

    /// `b.TOKEN@` and `u.TOKEN@`.
    fn local_parts(&mut self, text: &str) {
        static LOCAL: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"(?i)(?:^|[^A-Za-z0-9.])([bu])\.([a-z][a-z2-7]{32})(?:@|=)").expect("a fixed expression")
        });
        for found in LOCAL.captures_iter(text).take(TRACES_MAX) {
            let purpose = if found[1].eq_ignore_ascii_case("b") { Purpose::Bounce } else { Purpose::Unsubscribe };
            self.add(purpose, &found[2]);
        }
    }

    /// `<TOKEN@`, the form of our message ids.
    fn message_ids(&mut self, text: &str) {
        static ID: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?i)<([a-z][a-z2-7]{32})@").expect("a fixed expression"));
        for found in ID.captures_iter(text).take(TRACES_MAX) {
            self.add(Purpose::Message, &found[1]);
        }
    }

    /// A token that stands alone, or behind the `b.` of a return path: the envelope id of RFC 3461 is its local part.
    fn alone(&mut self, purpose: Purpose, text: &str) {
        let text = text.trim();
        let text = text.strip_prefix("b.").or(text.strip_prefix("B.")).unwrap_or(text);
        let is_token = text.len() == 33 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_token {
            self.add(purpose, text);
        }
    }
}

/// Fields that hold, or once held, the recipient of the envelope.
const ADDRESSED: [&str; 8] =
    ["to", "delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "apparently-to", "x-delivered-to", "cc"];

fn traces(letter: &Letter, returned: &Head, raw: &[u8]) -> Vec<Trace> {
    let mut traces = Traces::default();
    for value in ADDRESSED.into_iter().flat_map(|name| letter.head.all(name)).take(TRACES_MAX) {
        traces.local_parts(value);
    }
    for value in letter.head.all("received").take(TRACES_MAX) {
        traces.local_parts(value);
    }
    for part in
        letter.parts.iter().filter(|part| part.kind.contains("delivery-status") || part.kind.contains("feedback"))
    {
        let fields = Head::read(part.text.trim_start().as_bytes()).0;
        for id in fields.first("original-envelope-id").into_iter().chain(fields.first("x-original-message-id")) {
            traces.alone(Purpose::Bounce, id);
            traces.local_parts(id);
            traces.message_ids(id);
        }
    }
    for name in ["in-reply-to", "references"] {
        traces.message_ids(letter.head.first(name).unwrap_or_default());
    }
    traces.alone(Purpose::Feedback, returned.first("x-ref").unwrap_or_default());
    traces.message_ids(returned.first("message-id").unwrap_or_default());
    for name in ["return-path", "x-original-from", "list-unsubscribe"] {
        traces.local_parts(returned.first(name).unwrap_or_default());
    }
    // Last: wherever a report without structure has put our addresses.
    let raw = &raw[..raw.len().min(256 << 10)];
    let text = String::from_utf8_lossy(raw);
    traces.local_parts(&text);
    traces.message_ids(&text);
    traces.found
}

#[cfg(test)]
mod tests;
