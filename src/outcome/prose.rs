//! Failure notices that have no structure: the texts of hosts, old and new, in many languages. They are understood by
//! what they have in common (who writes, what the subject and text speak of, where an address stands alone, what a host
//! replied), not by a list of programs.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::mail::Class;
use crate::outcome::arrival::{Action, Kind, RECIPIENTS_MAX, Reading, Returned};
use crate::outcome::bounce;
use crate::outcome::letter::{Head, Letter};
use crate::outcome::phrases;
use crate::outcome::refusal::{LINE_MAX, Refusal, is_refusal, prefix};

/// Octets of text looked at: what matters stands at the start.
const TEXT_MAX: usize = 256 << 10;
/// Lines looked at.
const LINES_MAX: usize = 4000;
/// Addresses weighed.
const CANDIDATES_MAX: usize = 1000;

/// An address as it stands in a text.
const ADDRESS: &str =
    r#"[^\s<>()\[\]:;,"'|\\@«»“”„、。，：；「」『』【】《》（）]+@[\p{L}\p{N}](?:[\p{L}\p{N}.-]*[\p{L}\p{N}])?"#;

/// A text for people, parted into what is told and the message quoted below it.
#[derive(Debug, Default)]
pub(crate) struct Prose {
    told: String,
    quoted: String,
}

impl Prose {
    /// The text of a letter.
    pub(crate) fn new(letter: &Letter) -> Prose {
        let mut told = letter.prose();
        truncate(&mut told, TEXT_MAX);
        let cut = quoted_from(&told);
        Prose { quoted: told.split_off(cut), told }
    }

    /// What is told.
    pub(crate) fn told(&self) -> &str {
        &self.told
    }

    /// The message quoted below, from its first header line; empty when there is none.
    pub(crate) fn quoted(&self) -> &str {
        self.quoted.trim_start()
    }

    /// Whether the text names an address.
    pub(crate) fn mentions(&self, address: &str) -> bool {
        self.told.to_lowercase().contains(&address.to_lowercase())
    }

    /// Whether subject or text speak of a message that did not arrive.
    pub(crate) fn is_about_failure(&self, subject: &str) -> bool {
        phrases::is_failure_subject(subject) || phrases::is_failure(&self.told) || phrases::is_delay(&self.told)
    }

    /// The addresses that failed, as the text and then the header tell it.
    pub(crate) fn addresses(&self, letter: &Letter) -> Vec<String> {
        let found = candidates(&self.told, letter);
        let best = found.iter().map(|candidate| candidate.weight).max().unwrap_or(Weight::Mentioned);
        let listed = listed(letter);
        let is_listed = |address: &str| listed.iter().any(|other| other.eq_ignore_ascii_case(address));
        let mut addresses: Vec<String> = Vec::new();
        if best >= Weight::Named {
            let named: Vec<&Candidate> = found.iter().filter(|candidate| candidate.weight == best).collect();
            let any_listed = found.iter().any(|candidate| is_listed(&candidate.address));
            for candidate in named.into_iter().filter(|candidate| !any_listed || is_listed(&candidate.address)) {
                push_new(&mut addresses, candidate.address.clone());
            }
            if any_listed && addresses.is_empty() {
                addresses = listed.clone();
            }
        }
        if addresses.is_empty() {
            addresses = listed;
        }
        if addresses.is_empty() {
            for candidate in found.into_iter().filter(|candidate| candidate.weight == best) {
                push_new(&mut addresses, candidate.address);
            }
        }
        addresses
    }

    /// Why one of the addresses failed: the words behind it, before the next one; else whatever the text quotes.
    pub(crate) fn refusal(&self, address: &str) -> Refusal {
        let lines: Vec<&str> = self.told.lines().take(LINES_MAX).collect();
        let is_here = |line: &&str| line.to_lowercase().contains(&address.to_lowercase());
        let own = lines.iter().position(is_here);
        let next = own.and_then(|own| {
            let after = lines[own + 1..].iter().position(|line| !is_here(line) && stands_alone(line).is_some());
            after.map(|after| own + 1 + after)
        });
        let before = own.is_some_and(|own| lines[..own].iter().any(|line| stands_alone(line).is_some()));
        let region = own.map_or(&lines[..], |own| &lines[own..next.unwrap_or(lines.len())]);
        let near = Refusal::in_lines(region.iter().copied(), Some(address));
        if !near.is_silent() {
            return near;
        }
        let all = Refusal::in_lines(lines.iter().copied(), Some(address));
        // The reason may stand above the address as well, or in a transcript below; but not behind another's address.
        let is_said = near.class(None) != Class::Undetermined;
        match is_said && (all.is_silent() || next.is_some() || before) {
            true => near,
            false => all,
        }
    }
}

/// Who a letter claims to be from.
pub(crate) struct Sender<'a> {
    from: Cow<'a, str>,
    return_path: Option<&'a str>,
}

impl<'a> Sender<'a> {
    pub(crate) fn of(letter: &'a Letter) -> Sender<'a> {
        Sender { from: Cow::Owned(letter.head.words("from")), return_path: letter.head.first("return-path") }
    }

    /// Whether it is the mail system of a host rather than a person.
    pub(crate) fn is_mail_system(&self) -> bool {
        static SYSTEM: LazyLock<Regex> = LazyLock::new(|| {
            let names = [
                r"mailer[-_. ]?daemon",
                r"postmaster",
                r"poostmaster",
                r"mail[-_. ]?(delivery|daemon|system|administrator|router|gateway)",
                r"mdaemon",
                r"system administrator",
                r"delivery[-_ ](sub)?system",
                r"\bmta\b",
                r"mail\.delivery\.system",
                r"message[-_ ]?(router|transfer)",
                r"bounces?@",
                r"nondelivery|non-delivery",
            ];
            Regex::new(&format!("(?i)(?:{})", names.join("|"))).expect("a fixed expression")
        });
        let from = self.from.trim();
        from.is_empty() || from == "<>" || SYSTEM.is_match(from)
    }

    /// Whether the return path is the empty one, as a report's is (RFC 5321 §4.5.5).
    pub(crate) fn is_null(&self) -> bool {
        let path = self.return_path.map(str::trim);
        path.is_some_and(|path| path.is_empty() || path == "<>" || path.to_ascii_lowercase().contains("mailer-daemon"))
    }

    /// Whether a person answers: from an address of their own, under a subject that says so (B-08).
    fn is_person(&self, subject: &str) -> bool {
        self.return_path.is_some() && !self.is_null() && phrases::is_answer(subject)
    }

    /// Its address.
    pub(crate) fn address(&self) -> Option<&str> {
        address_in(&self.from)
    }
}

/// Reads a notice without structure; `None` when nothing says that it is one.
pub(crate) fn read(letter: &Letter, prose: &Prose, returned: &Head) -> Reading {
    let sender = Sender::of(letter);
    let subject = letter.head.words("subject");
    let told = prose.told();
    let is_delay = phrases::is_delay(told) || phrases::is_delay_subject(&subject);
    let is_given_up = phrases::is_given_up(told);
    let speaks = phrases::is_failure(told) || is_delay || told.lines().take(LINES_MAX).any(is_refusal);
    let is_titled = phrases::is_failure_subject(&subject) || phrases::is_delay_subject(&subject);
    let is_listed = letter.head.first("x-failed-recipients").is_some();
    let is_report = letter.kind == "multipart/report";
    let is_system = sender.is_mail_system();
    let is_notice = is_listed
        || is_system && (speaks || is_titled)
        || is_titled && speaks && !sender.is_person(&subject)
        || sender.is_null() && speaks && !phrases::is_answer(&subject)
        || is_report && speaks;
    let is_success = phrases::is_success(&subject) || phrases::is_success(told);
    if !is_notice || is_success && !is_listed && !told.lines().take(LINES_MAX).any(is_refusal) {
        return None;
    }
    let mut addresses = prose.addresses(letter);
    if addresses.is_empty() {
        addresses.extend(returned.first("to").and_then(address_in).map(str::to_owned));
    }
    addresses.truncate(RECIPIENTS_MAX);
    let action = if is_delay && !is_given_up { Action::Delayed } else { Action::Failed };
    let recipients: Vec<Returned> =
        addresses.into_iter().map(|address| judged(prose.refusal(&address), address, action)).collect();
    let kind = match recipients.is_empty() {
        true if action == Action::Delayed => Kind::Delay,
        true => Kind::Bounce,
        false => bounce::kind(&recipients),
    };
    Some((kind, recipients))
}

fn judged(refusal: Refusal, address: String, action: Action) -> Returned {
    let status = refusal.status();
    let by_code = match (refusal.code, status) {
        (Some(code), _) => Some(code / 100 == 5),
        (None, status) => status.map(|status| status.0 == 5),
    };
    let class = refusal.class(status);
    let permanent = action == Action::Failed && by_code.unwrap_or(true);
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

/// How sure it is that an address in a text is one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// It stands somewhere in a sentence.
    Mentioned,
    /// It stands in a host's refusal, or in a sentence about the failure.
    Quoted,
    /// It is called a recipient, or stands in RCPT TO.
    Named,
    /// It has a line of its own, or heads one.
    Listed,
}

#[derive(Debug)]
struct Candidate {
    address: String,
    weight: Weight,
}

fn candidates(told: &str, letter: &Letter) -> Vec<Candidate> {
    let ours: Vec<String> = ["to", "delivered-to", "x-original-to", "from", "return-path"]
        .into_iter()
        .filter_map(|name| letter.head.first(name).and_then(address_in).map(str::to_lowercase))
        .collect();
    let mut found: Vec<Candidate> = Vec::new();
    let mut before = "";
    for line in told.lines().take(LINES_MAX).map(|line| prefix(line, LINE_MAX)) {
        for (address, weight) in weigh(line) {
            let is_own = ours.contains(&address.to_lowercase());
            let weight = if is_role(&address) { Weight::Mentioned } else { weight };
            let is_senders = phrases::introduces_sender(before) && weight == Weight::Listed;
            if is_own && weight < Weight::Named || is_senders || found.len() >= CANDIDATES_MAX {
                continue;
            }
            found.push(Candidate { address, weight });
        }
        if !line.trim().is_empty() {
            before = line;
        }
    }
    found
}

/// The addresses of a line, weighed.
fn weigh(line: &str) -> Vec<(String, Weight)> {
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        let words = [
            r"rcpt to",
            r"(?:failed |final |original |intended )?recipients?(?: address)?",
            r"delivering your (?:mail|message) to",
            r"deliver (?:your |the |this )?(?:mail |message |e-?mail )?to",
            r"delivery (?:to|for)",
            r"(?:mail|message) (?:to|for)",
            r"original address",
            r"addressed to",
            r"permanent errors",
            r"destinat(?:ion|ario|aire)s?(?: address)?",
            r"(?:empf(?:ä|ae)nger|an|aan)",
            r"delivered to|entregad[oa] a|remis à|consegnat[oa] a|bezorgd bij|dostarczon[ay] do|levereras till|leveres til",
            r"получател\p{L}*|адресат\p{L}*|одержувач\p{L}*|adresat\p{L}*|odbiorc\p{L}*|p(?:ř|r)(?:í|i)jemc\p{L}*|c(?:í|i)mzett\p{L}*",
            r"al(?:ı|i)c(?:ı|i)\p{L}*|mottagare|modtager|mottaker|vastaanottaja|geadresseerde|παραλήπτη\p{L}*",
            r"宛先|受信者|收件人|收件者|수신자|수신인|받는 ?사람",
            r"not reach",
            r"mailbox(?: for)?",
            r"sent to",
        ];
        Regex::new(&format!(r#"(?i)(?:^|\W)(?:{})\W{{0,6}}({ADDRESS})"#, words.join("|"))).expect("a fixed expression")
    });
    static SENDER: LazyLock<Regex> = LazyLock::new(|| {
        let words = [
            r"from|sender|originator|absender|von|exp(?:é|e)diteur|remitente|remetente|mittente|afzender|nadawca|od",
            r"odes(?:í|i)latel|felad(?:ó|o)|g(?:ö|o)nderen|avs(?:ä|a)ndare|afsender|avsender|l(?:ä|a)hett(?:ä|a)j(?:ä|a)",
            r"отправител\p{L}*|відправник\p{L}*|αποστολέα\p{L}*|差出人|送信者|发件人|寄件人|寄件者|보낸 ?사람|발신자",
        ];
        let words = words.join("|");
        Regex::new(&format!(r#"(?i)(?:^|\W)(expanded |generated )?(?:{words})\W{{0,6}}({ADDRESS})"#))
            .expect("a fixed expression")
    });
    static ANY: LazyLock<Regex> = LazyLock::new(|| Regex::new(ADDRESS).expect("a fixed expression"));
    if !line.contains('@') {
        return Vec::new();
    }
    if let Some(address) = stands_alone(line).or_else(|| is_blamed(line)) {
        return vec![(address.to_owned(), Weight::Listed)];
    }
    let senders: Vec<&str> = {
        // An alias that was expanded is whom the message was for.
        let found = SENDER.captures_iter(line).take(20).filter(|found| found.get(1).is_none());
        found.filter_map(|found| Some(found.get(2)?.as_str())).collect()
    };
    let named =
        NAMED.captures(line).map(|found| found[1].to_owned()).filter(|named| !senders.contains(&named.as_str()));
    let rest = match is_refusal(line) || phrases::is_failure(line) {
        true => Weight::Quoted,
        false => Weight::Mentioned,
    };
    let others = ANY.find_iter(line).take(20).map(|found| found.as_str().to_owned());
    let others = others.filter(|address| named.as_ref() != Some(address) && !senders.contains(&address.as_str()));
    let others = others.map(|address| (address, rest));
    named.iter().map(|address| (address.clone(), Weight::Named)).chain(others.collect::<Vec<_>>()).collect()
}

/// The address that ends a line which says no more than what is wrong with it: `unknown user: a@b.example`.
fn is_blamed(line: &str) -> Option<&str> {
    static LAST: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!(r#"^\W*([^@:]{{4,60}}):\s*<?({ADDRESS})>?\W*$"#)).expect("a fixed expression")
    });
    let found = LAST.captures(prefix(line, LINE_MAX))?;
    let (what, address) = (found.get(1)?.as_str(), found.get(2)?.as_str());
    phrases::is_failure(what).then_some(address)
}

/// Whether an address is that of somebody to ask, wherever it stands.
fn is_role(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default();
    ["postmaster", "mailer-daemon", "abuse", "hostmaster"].iter().any(|role| local.eq_ignore_ascii_case(role))
}

/// The address a line consists of, or begins with before the reason.
fn stands_alone(line: &str) -> Option<&str> {
    static ALONE: LazyLock<Regex> = LazyLock::new(|| {
        let open = r#"[\s>*•·"'“«<\-–]*"#;
        let close = r#"[>"'”»]*"#;
        let reason = r"(?:\s*[:,;.]?\s*$|\s*(?:\.\.\.|:|,|;|\(|\s-|–|\son\s|\s{2}|\t).+$)";
        Regex::new(&format!(r"^{open}({ADDRESS}){close}{reason}")).expect("a fixed expression")
    });
    static WITH_NAME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!(r"^[^<:]{{0,120}}<({ADDRESS})>\s*(?::.*)?$")).expect("a fixed expression")
    });
    let line = prefix(line, LINE_MAX);
    let found = ALONE.captures(line).or_else(|| {
        let is_listed = line.starts_with([' ', '\t', '>', '*', '-', '"']) || line.contains(">:");
        is_listed.then(|| WITH_NAME.captures(line)).flatten()
    })?;
    found.get(1).map(|address| address.as_str())
}

/// The recipients a host lists in the header.
fn listed(letter: &Letter) -> Vec<String> {
    let mut listed = Vec::new();
    for value in letter.head.all("x-failed-recipients") {
        for address in value.split(',').map(str::trim).filter(|address| address.contains('@')) {
            push_new(&mut listed, octets(address.trim_matches(['<', '>'])));
        }
    }
    listed
}

/// Undoes the `\347\224` by which Exim shows octets that are not ASCII.
fn octets(text: &str) -> String {
    static OCTETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?:\\[0-3][0-7]{2})+").expect("a fixed expression"));
    let decode = |found: &regex::Captures<'_>| {
        let bytes = found[0].split('\\').skip(1).filter_map(|octet| u8::from_str_radix(octet, 8).ok());
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    };
    OCTETS.replace_all(text, decode).into_owned()
}

/// The first address in a text.
pub(crate) fn address_in(text: &str) -> Option<&str> {
    static ANY: LazyLock<Regex> = LazyLock::new(|| Regex::new(ADDRESS).expect("a fixed expression"));
    ANY.find(prefix(text, LINE_MAX)).map(|found| found.as_str())
}

/// Where the quoted message begins: at a line that announces it, or where header fields begin.
fn quoted_from(told: &str) -> usize {
    let lines: Vec<&str> = told.split_inclusive('\n').take(LINES_MAX).collect();
    let mut at = 0;
    let mut is_named = false;
    let mut is_passed_over = false;
    for (number, line) in lines.iter().enumerate() {
        is_passed_over &= !line.trim().is_empty();
        if !is_passed_over && begins_head(&lines[number..]) {
            is_passed_over = !is_named && tells_behind_head(&lines[number..]);
            if !is_passed_over {
                return at;
            }
        }
        is_named |= !is_passed_over && line.contains('@');
        at += line.len();
        let after = &lines[number + 1..];
        if phrases::announces_copy(line.trim_end()) && announces_for_good(after) && (is_named || has_head_near(after)) {
            return at;
        }
    }
    told.len()
}

/// Whether header fields begin here, as a message has them.
fn begins_head(lines: &[&str]) -> bool {
    lines.first().is_some_and(|line| is_any_field(line)) && {
        let near = lines.iter().take(12).take_while(|line| !line.trim().is_empty());
        let fields: Vec<&&str> = near.filter(|line| is_any_field(line)).collect();
        fields.len() >= 2 && fields.iter().any(|line| is_trace_field(line))
    }
}

/// Whether the notice goes on behind the header fields it quotes: the next lines speak of the failure and name a
/// recipient.
fn tells_behind_head(lines: &[&str]) -> bool {
    let behind = lines.iter().skip_while(|line| !line.trim().is_empty()).filter(|line| !line.trim().is_empty());
    let behind: Vec<&str> = behind.take(6).copied().collect();
    let names = |line: &&str| weigh(line).iter().any(|(_, weight)| *weight >= Weight::Named);
    behind.iter().any(names) && phrases::is_failure(&behind.concat())
}

/// Whether the copy that an announcement speaks of stands below it.
fn has_head_near(after: &[&str]) -> bool {
    (0..after.len().min(8)).any(|number| begins_head(&after[number..]))
}

/// Whether nothing that matters follows an announcement: no address with a line of its own before the copy.
fn announces_for_good(after: &[&str]) -> bool {
    let mut texts = after.iter().filter(|line| !line.trim().is_empty()).take(3);
    !texts.any(|line| stands_alone(line).is_some() && !line.trim_start().starts_with('<'))
}

/// A line that only a message's header has.
fn is_trace_field(line: &str) -> bool {
    static TRACE: LazyLock<Regex> = LazyLock::new(|| {
        let names = "received|return-path|message-id|mime-version|dkim-signature|domainkey-signature|x-[a-z-]+|\
                     arc-[a-z-]+|content-(?:type|transfer-encoding)|delivered-to|authentication-results|envelope-to";
        Regex::new(&format!(r"(?i)^(?:>\s?|\s{{0,3}})(?:{names}):\s")).expect("a fixed expression")
    });
    TRACE.is_match(prefix(line, 200))
}

/// A line that a message's header has, and perhaps a text about one.
fn is_any_field(line: &str) -> bool {
    static COMMON: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^(?:>\s?|\s{0,3})(?:from|to|cc|date|subject|reply-to|sender|[a-z]+-[a-z-]+):\s")
            .expect("a fixed expression")
    });
    is_trace_field(line) || COMMON.is_match(prefix(line, 200))
}

fn push_new(addresses: &mut Vec<String>, address: String) {
    let is_known = addresses.iter().any(|other| other.eq_ignore_ascii_case(&address));
    if !is_known && addresses.len() < RECIPIENTS_MAX {
        addresses.push(address);
    }
}

fn truncate(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}
