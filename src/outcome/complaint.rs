//! Feedback reports (RFC 5965) and Microsoft's own form of them: a recipient pressed "this is spam", or a receiver tells
//! of something else. Only abuse, fraud and their like are complaints.

use crate::mail::Class;
use crate::outcome::arrival::{Kind, RECIPIENTS_MAX, Reading, Returned};
use crate::outcome::letter::{Head, Letter, Part};

/// Fields of a returned message in which feedback loops leave the recipient when the report does not name it.
const HIDDEN: [&str; 4] = ["x-hmxmroriginalrecipient", "x-original-to", "x-rcpt-to", "delivered-to"];

/// Reads a feedback report; `None` when it is none.
pub(crate) fn read(letter: &Letter, returned: &Head) -> Reading {
    let is_marked = |part: &&Part| part.kind == "message/feedback-report";
    // Providers have sent them as plain text before (B-18): the first field tells.
    let looks_so = |part: &&Part| {
        let starts = part.text.trim_start().get(..14).is_some_and(|start| start.eq_ignore_ascii_case("feedback-type:"));
        starts && !part.is_returned()
    };
    let report = letter.parts.iter().find(is_marked).or_else(|| letter.parts.iter().find(looks_so));
    match report {
        Some(report) => Some(feedback(&Head::read(report.text.trim_start().as_bytes()).0, returned)),
        None => junk_mail_report(letter, returned).or_else(|| aggregate(letter)),
    }
}

/// A report as RFC 5965 §3 has it. An unknown type counts as a complaint, for its sender thought of one (§3.1 says
/// `other`); what is known to be none never does (RFC 6430, RFC 6591).
fn feedback(report: &Head, returned: &Head) -> (Kind, Vec<Returned>) {
    let kind = report.first("feedback-type").unwrap_or_default().to_ascii_lowercase();
    let kind = match kind.trim() {
        "not-spam" | "auth-failure" | "dmarc" | "opt-out-list" => Kind::Report,
        "opt-out" => Kind::Unsubscribe,
        _ => Kind::Complaint,
    };
    let class = match kind {
        Kind::Complaint => Class::Complaint,
        Kind::Unsubscribe => Class::Unsubscribe,
        Kind::Bounce | Kind::Delay | Kind::AutoReply | Kind::Report | Kind::Other => Class::Delivered,
    };
    let named = ["original-rcpt-to", "removal-recipient"];
    let named = named.into_iter().map(|name| report.all(name).filter_map(address).collect::<Vec<_>>());
    let mut addresses = named.into_iter().find(|addresses| !addresses.is_empty()).unwrap_or_default();
    if addresses.is_empty() {
        addresses.extend(hidden(returned).or_else(|| returned.first("to").and_then(address)));
    }
    addresses.dedup();
    let recipients = addresses.iter().take(RECIPIENTS_MAX).map(|address| Returned::bystander(address, class));
    (kind, recipients.collect())
}

/// Microsoft's Junk Mail Reporting Program before it spoke RFC 5965: the message as an attachment, the recipient in a
/// header of its own (B-18).
fn junk_mail_report(letter: &Letter, returned: &Head) -> Reading {
    let from = letter.head.first("from").unwrap_or_default().to_ascii_lowercase();
    let subject = letter.head.words("subject").to_ascii_lowercase();
    let is_theirs = from.contains("staff@hotmail.com") || from.contains("@jmrp.") || from.contains("junkmail@");
    let says_so = subject.starts_with("complaint about message from");
    let hidden = hidden(returned).or_else(|| letter.head.first(HIDDEN[0]).and_then(address));
    let is_marked = returned.first(HIDDEN[0]).is_some();
    if !(says_so && (is_theirs || is_marked) || is_theirs && is_marked) {
        return None;
    }
    let recipients = hidden.iter().map(|address| Returned::bystander(address, Class::Complaint)).collect();
    Some((Kind::Complaint, recipients))
}

/// DMARC (RFC 7489 §7.2.1.1) and TLS (RFC 8460 §5.3) aggregate reports.
fn aggregate(letter: &Letter) -> Reading {
    let subject = letter.head.words("subject").to_ascii_lowercase();
    let is_named = subject.contains("report domain:") && subject.contains("submitter:");
    let is_tls =
        letter.report_type == "tlsrpt" || letter.parts.iter().any(|part| part.kind.starts_with("application/tlsrpt"));
    (is_named || is_tls).then_some((Kind::Report, Vec::new()))
}

fn hidden(returned: &Head) -> Option<String> {
    HIDDEN.into_iter().find_map(|name| returned.first(name).and_then(address))
}

/// The address in a field's value; `None` when it was taken out.
fn address(value: &str) -> Option<String> {
    let value = value.trim().trim_start_matches("rfc822;").trim();
    let value = value.rsplit_once('<').map_or(value, |(_, value)| value.split('>').next().unwrap_or_default());
    let (local, domain) = value.trim_matches(['<', '>']).rsplit_once('@')?;
    let is_whole = !local.is_empty() && domain.contains('.') && !value.contains(char::is_whitespace);
    is_whole.then(|| format!("{local}@{domain}"))
}
