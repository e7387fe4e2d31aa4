//! Delivery reports as RFC 3464, 6522 and 6533 have them, and the two that wear other clothes: reports whose structure
//! was lost on the way, and the JSON of Amazon SES.

use std::sync::LazyLock;

use regex::Regex;

use crate::mail::{Class, EnhancedCode};
use crate::outcome::arrival::{Action, Kind, RECIPIENTS_MAX, Reading, Returned};
use crate::outcome::letter::{Head, Letter};
use crate::outcome::phrases;
use crate::outcome::prose::Prose;
use crate::outcome::refusal::Refusal;

/// Reads a delivery report; `None` when it is none.
pub(crate) fn read(letter: &Letter, prose: &Prose) -> Reading {
    if letter.report_type == "disposition-notification" {
        return Some((Kind::Other, Vec::new()));
    }
    let named = letter.parts.iter().filter(|part| part.kind.contains("delivery-status")).map(|part| part.text.as_str());
    let mut groups: Vec<Group> = named.flat_map(groups).collect();
    // An answer may quote a report: only what is said in its own name counts.
    if groups.is_empty() && !phrases::is_answer(&letter.head.words("subject")) {
        let others = letter.parts.iter().filter(|part| !part.is_returned() && !part.kind.contains("disposition"));
        groups = others.flat_map(|part| groups_in_text(&part.text)).collect();
    }
    if groups.is_empty() {
        return notification(letter);
    }
    groups.truncate(RECIPIENTS_MAX);
    let is_alone = groups.len() == 1;
    let reporter = reporter(letter);
    let mut recipients: Vec<Returned> = Vec::with_capacity(groups.len());
    for group in groups {
        if let Some(returned) = group.returned(letter, prose, &reporter, is_alone)
            && !recipients.contains(&returned)
        {
            recipients.push(returned);
        }
    }
    (!recipients.is_empty()).then(|| (kind(&recipients), recipients))
}

/// What a report comes to: one failure makes it a bounce, else one delay a delay.
pub(crate) fn kind(recipients: &[Returned]) -> Kind {
    let any = |action| recipients.iter().any(|returned| returned.action == Some(action));
    match (any(Action::Failed), any(Action::Delayed)) {
        (true, _) => Kind::Bounce,
        (false, true) => Kind::Delay,
        (false, false) => Kind::Other,
    }
}

/// The fields about one recipient (RFC 3464 §2.3).
#[derive(Debug, Default)]
struct Group {
    original: Option<String>,
    last: Option<String>,
    action: Option<String>,
    status: Option<String>,
    diagnostic: Option<String>,
    display: Option<String>,
}

impl Group {
    fn is_recipient(&self) -> bool {
        self.original.is_some() || self.last.is_some()
    }

    /// Takes a field; false when it begins the next recipient.
    fn take(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            "original-recipient" => &mut self.original,
            "final-recipient" => &mut self.last,
            "action" => &mut self.action,
            "status" => &mut self.status,
            "diagnostic-code" => &mut self.diagnostic,
            "x-display-name" => &mut self.display,
            _ => return true,
        };
        if place.is_some() {
            return !matches!(name, "original-recipient" | "final-recipient");
        }
        *place = Some(value.to_owned());
        true
    }

    /// The final recipient, or the original one where the final is a name of the reporting host's own.
    fn address(&self, reporter: &str) -> Option<String> {
        let read = |value: &Option<String>| value.as_deref().and_then(address);
        let is_public = |address: &String| {
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            domain.contains('.') && !domain.eq_ignore_ascii_case(reporter)
        };
        let last = read(&self.last);
        last.clone().filter(is_public).or_else(|| read(&self.original)).or_else(|| read(&self.display)).or(last)
    }

    fn returned(&self, letter: &Letter, prose: &Prose, reporter: &str, is_alone: bool) -> Option<Returned> {
        let address = self.address(reporter).or_else(|| prose.addresses(letter).into_iter().next())?;
        let told = self.diagnostic.as_deref().map_or("", untyped);
        let mut refusal = Refusal::in_text(told);
        let own = self.status.as_deref().and_then(status);
        if refusal.is_silent() && (is_alone || prose.mentions(&address)) {
            let retold = prose.refusal(&address);
            // Words for people say why only where the report itself does not.
            if !retold.is_silent() || refusal.text.is_empty() && own.is_none_or(is_vague) {
                refusal = retold;
            }
        }
        let action = self.action.as_deref().and_then(action).or(own.map(|status| match status.0 {
            2 => Action::Delivered,
            4 => Action::Delayed,
            _ => Action::Failed,
        }));
        let action = action.unwrap_or(Action::Failed);
        Some(match action {
            Action::Delivered | Action::Relayed | Action::Expanded => Returned {
                action: Some(action),
                status: own,
                diagnostic: refusal.text,
                ..Returned::bystander(&address, Class::Delivered)
            },
            Action::Failed | Action::Delayed => failure(address, action, own, refusal),
        })
    }
}

/// A failure or delay, from the report's own status and the refusal it quotes. A status whose details are 0.0 says less
/// than any code the host sent (RFC 3463 §3.1).
fn failure(address: String, action: Action, own: Option<EnhancedCode>, refusal: Refusal) -> Returned {
    let own = own.filter(|status| status.0 != 2);
    let is_vague = own.is_none_or(is_vague);
    let status = if is_vague { refusal.status().or(own) } else { own };
    let status = match (own, refusal.enhanced) {
        // The host's own code right behind its reply beats a summary made later.
        (Some(own), Some(theirs)) if refusal.code.is_some() && theirs.0 == own.0 && (theirs.1, theirs.2) != (0, 0) => {
            Some(theirs)
        }
        _ => status,
    };
    let class = refusal.class(status);
    let by_code = match refusal.code {
        // Reporter or host, whoever speaks of a passing trouble is believed.
        Some(code) if is_vague => Some(code / 100 == 5 && own.is_none_or(|own| own.0 == 5)),
        _ => status.map(|status| status.0 == 5),
    };
    let is_exhausted = is_vague && refusal.code.is_none() && class == Class::SoftExpired;
    let permanent = action == Action::Failed && by_code.unwrap_or(true) && !is_exhausted;
    Returned {
        address,
        action: Some(action),
        code: refusal.code,
        status,
        permanent: Some(permanent),
        class,
        diagnostic: refusal.text,
    }
}

/// A diagnostic without its type (RFC 3464 §2.3.6); some write none, and a semicolon in their text.
fn untyped(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, text)) if !kind.trim().contains(char::is_whitespace) => text,
        _ => value,
    }
}

/// Whether a status says no more than that it failed (RFC 3463 §3.1).
pub(crate) fn is_vague(status: EnhancedCode) -> bool {
    (status.1, status.2) == (0, 0)
}

/// The recipients in a part of delivery status: groups of fields between empty lines.
fn groups(text: &str) -> Vec<Group> {
    let mut found = Vec::new();
    let mut group = Group::default();
    let mut field: Option<(String, String)> = None;
    let settle = |field: &mut Option<(String, String)>, group: &mut Group, found: &mut Vec<Group>| {
        let Some((name, value)) = field.take() else { return };
        if !group.take(&name, &value) {
            found.push(std::mem::take(group));
            group.take(&name, &value);
        }
    };
    for line in text.lines().chain([""]) {
        if line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            if let Some((_, value)) = &mut field {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        settle(&mut field, &mut group, &mut found);
        if line.trim().is_empty() {
            if group.is_recipient() {
                found.push(std::mem::take(&mut group));
            }
            group = Group::default();
        } else if let Some((name, value)) = line.split_once(':') {
            field = Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found.truncate(RECIPIENTS_MAX);
    found
}

/// As [`groups`], in a text that was not marked as delivery status: only groups that also say what was done count.
fn groups_in_text(text: &str) -> Vec<Group> {
    let is_likely = {
        static LIKELY: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"(?im)^(?:final|original)-recipient:\s*\S").expect("a fixed expression"));
        LIKELY.is_match(text)
    };
    let mut found = if is_likely { groups(text) } else { Vec::new() };
    found.retain(|group| group.action.is_some() && (group.status.is_some() || group.diagnostic.is_some()));
    found
}

/// The address in a recipient field: type, comments, brackets and encodings taken off (RFC 3464 §2.3.1, RFC 6533 §3).
fn address(value: &str) -> Option<String> {
    let (kind, text) = value.split_once(';').unwrap_or(("", value));
    let text = text.trim();
    let text = match (text.rfind('<'), text.ends_with('>')) {
        (Some(open), true) => &text[open + 1..text.len() - 1],
        _ => text.split_once(" (").map_or(text, |(text, _)| text),
    };
    let text = text.trim().trim_matches(['"', '\'', '<', '>']);
    let text = match kind.trim().eq_ignore_ascii_case("utf-8") {
        true => unicode(text),
        false => xtext(text),
    };
    let is_address =
        text.find('@').is_some_and(|at| at > 0) && !text.contains(char::is_whitespace) && text.len() <= 320;
    is_address.then(|| text.strip_prefix("smtp:").or(text.strip_prefix("SMTP:")).unwrap_or(&text).to_owned())
}

/// Undoes xtext (RFC 3461 §4) where a host forgot to: `+2B` and `+3D` never stand in an address by chance, and an address
/// has an `@`.
fn xtext(text: &str) -> String {
    let is_encoded = text.contains("+2B") || text.contains("+3D") || !text.contains('@') && text.contains("+40");
    if !is_encoded {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = (*first == b'+').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Undoes `\x{HEX}` of utf-8-addr-xtext (RFC 6533 §3).
fn unicode(text: &str) -> String {
    static POINT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\\x\{([0-9A-Fa-f]{1,6})\}").expect("a fixed expression"));
    let point = |found: &regex::Captures<'_>| {
        let point = u32::from_str_radix(&found[1], 16).ok().and_then(char::from_u32);
        point.map_or_else(|| found[0].to_owned(), String::from)
    };
    POINT.replace_all(text, point).into_owned()
}

/// The host that reports, empty when it does not say.
fn reporter(letter: &Letter) -> String {
    let part = letter.parts.iter().find(|part| part.kind.contains("delivery-status"));
    let fields = part.map(|part| Head::read(part.text.trim_start().as_bytes()).0).unwrap_or_default();
    let value = fields.first("reporting-mta").unwrap_or_default();
    let name = value.split_once(';').map_or(value, |(_, name)| name).trim();
    name.split(char::is_whitespace).next().unwrap_or_default().to_owned()
}

fn action(value: &str) -> Option<Action> {
    let word: String = value.trim().chars().take_while(char::is_ascii_alphabetic).collect();
    Some(match word.to_ascii_lowercase().as_str() {
        "failed" | "failure" | "fail" => Action::Failed,
        "delayed" | "deferred" => Action::Delayed,
        "delivered" => Action::Delivered,
        "relayed" => Action::Relayed,
        "expanded" => Action::Expanded,
        _ => return None,
    })
}

fn status(value: &str) -> Option<EnhancedCode> {
    let code: String = value.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    EnhancedCode::parse(code.trim_end_matches('.'))
}

/// The notification of Amazon SES, alone or wrapped by SNS, as people have it sent to a mailbox.
fn notification(letter: &Letter) -> Reading {
    let text = letter.parts.first().map(|part| part.text.trim()).filter(|text| text.starts_with('{'))?;
    let text = &text[..=text.rfind('}')?];
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    // Mail software folds long lines, which JSON does not allow inside strings.
    let mut event = parse(text).or_else(|| parse(&text.replace("\n ", "").replace('\n', "")))?;
    if let Some(inner) = event.get("Message").and_then(serde_json::Value::as_str) {
        event = parse(inner)?;
    }
    let word =
        |value: &serde_json::Value, name: &str| value.get(name).and_then(|word| word.as_str()).map(str::to_owned);
    let kind = word(&event, "notificationType").or(word(&event, "eventType"))?;
    let list = |part: &str, list: &str| {
        let people = event.get(part).and_then(|part| part.get(list)).and_then(|list| list.as_array());
        people.cloned().unwrap_or_default().into_iter().take(RECIPIENTS_MAX)
    };
    match kind.as_str() {
        "Bounce" => {
            let bounce = event.get("bounce")?;
            let is_permanent = word(bounce, "bounceType").as_deref() == Some("Permanent");
            let one = |person: serde_json::Value| {
                let own = word(&person, "status").as_deref().and_then(status);
                let told = word(&person, "diagnosticCode").unwrap_or_default();
                let refusal = Refusal::in_text(untyped(&told));
                let fallback = EnhancedCode(if is_permanent { 5 } else { 4 }, 0, 0);
                Some(failure(word(&person, "emailAddress")?, Action::Failed, own.or(Some(fallback)), refusal))
            };
            let recipients: Vec<Returned> = list("bounce", "bouncedRecipients").filter_map(one).collect();
            Some((Kind::Bounce, recipients))
        }
        "DeliveryDelay" => {
            let one = |person: serde_json::Value| {
                let told = word(&person, "diagnosticCode").unwrap_or_default();
                let refusal = Refusal::in_text(untyped(&told));
                let own = word(&person, "status").as_deref().and_then(status);
                Some(failure(word(&person, "emailAddress")?, Action::Delayed, own, refusal))
            };
            Some((Kind::Delay, list("deliveryDelay", "delayedRecipients").filter_map(one).collect()))
        }
        "Complaint" => {
            let one = |person: serde_json::Value| {
                Some(Returned::bystander(&word(&person, "emailAddress")?, Class::Complaint))
            };
            Some((Kind::Complaint, list("complaint", "complainedRecipients").filter_map(one).collect()))
        }
        _ => Some((Kind::Other, Vec::new())),
    }
}
