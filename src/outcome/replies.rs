//! What machines and people answer: vacations, receipts, challenges, wishes to leave. None of it says that an address is
//! dead, whatever its words (B-14, B-15).

use std::sync::LazyLock;

use regex::Regex;

use crate::mail::Class;
use crate::outcome::arrival::{Kind, Reading, Returned};
use crate::outcome::letter::Letter;
use crate::outcome::phrases;
use crate::outcome::prose::{Prose, Sender};

/// A wish to leave: addressed to an unsubscribe address of ours, or in so many words (B-16). Automatic answers to such an
/// address are none.
pub(crate) fn unsubscribe(letter: &Letter, is_addressed: bool) -> Reading {
    if is_automatic(letter) || Sender::of(letter).is_mail_system() {
        return None;
    }
    let subject = letter.head.words("subject");
    let is_asked = subject.trim().eq_ignore_ascii_case("unsubscribe") && !subject.contains(':');
    let is_apple = letter.head.first("x-apple-unsubscribe").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    (is_addressed || is_apple || is_asked).then(|| (Kind::Unsubscribe, from(letter, Class::Unsubscribe)))
}

/// Automatic answers and challenges. A host's own failure notice often calls itself automatic too: that is left to the
/// texts.
pub(crate) fn read(letter: &Letter, prose: &Prose) -> Reading {
    let subject = letter.head.words("subject");
    if !phrases::is_failure_subject(&subject) && is_challenge(&subject, prose.told()) {
        return Some((Kind::Other, Vec::new()));
    }
    let sender = Sender::of(letter);
    let is_away = is_away(&subject) && !phrases::is_failure_subject(&subject);
    let is_notice = letter.head.first("x-failed-recipients").is_some()
        || sender.is_mail_system() && !is_away && prose.is_about_failure(&subject);
    // A person's answer from the empty return path was written by their machine (RFC 3834 §3.3).
    let is_machines = sender.is_null()
        && !sender.is_mail_system()
        && letter.kind != "multipart/report"
        && !phrases::is_failure_subject(&subject)
        && (phrases::is_answer(&subject) || phrases::is_away(prose.told()));
    let is_reply = !is_notice && (is_automatic(letter) || is_away || is_machines);
    is_reply.then(|| (Kind::AutoReply, from(letter, Class::AutoReply)))
}

/// Whether the header says that a machine wrote it (RFC 3834 §5, and the fields that came before it).
fn is_automatic(letter: &Letter) -> bool {
    let head = &letter.head;
    let says = |name: &str, words: &[&str]| {
        head.first(name).is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            words.iter().any(|word| value.starts_with(word))
        })
    };
    let has = |name: &str| head.first(name).is_some();
    head.first("auto-submitted").is_some_and(|value| !value.trim().to_ascii_lowercase().starts_with("no"))
        || says("precedence", &["auto_reply", "auto-reply"])
        || says("x-precedence", &["auto_reply", "auto-reply"])
        || says("x-apple-action", &["vacation"])
        || says("x-auto-response-suppress", &["all", "oof", "autoreply", "dr, oof", "rn, oof"])
        || says("delivered-to", &["autoresponder"])
        || ["x-autoreply", "x-autorespond", "x-autoresponder", "x-auto-reply", "x-autoreply-from", "x-mail-autoreply"]
            .into_iter()
            .any(has)
        || has("x-ms-exchange-inbox-rules-loop")
        || has("x-vacation")
}

/// Subjects by which readers' mail programs say that nobody is there.
fn is_away(subject: &str) -> bool {
    static AWAY: LazyLock<Regex> = LazyLock::new(|| {
        let starts = [
            r"out[ -]of[ -](the[ -])?office",
            r"auto(matic)?[ -]?(reply|response|answer|responder)\b",
            r"auto:",
            r"\[auto[ -]?reply\]",
            r"(i am|i'm) (currently )?(away|on (vacation|holiday|leave)|out of)",
            r"(away|on vacation|on holiday|on leave|annual leave)\b",
            r"vacation( reply| response| message)?\b",
            r"abwesen(d|heit)",
            r"(automatische|autom\.) (antwort|abwesenheit)",
            r"nicht im (b(ü|ue)ro|haus)",
            r"urlaub",
            r"r(é|e)ponse automatique",
            r"absen(ce|t)\b",
            r"respuesta autom(á|a)tica",
            r"fuera de (la )?oficina",
            r"risposta automatica",
            r"fuori (sede|ufficio)",
            r"resposta autom(á|a)tica",
            r"(fora do|ausência|ausente)",
            r"automatisch antwoord",
            r"afwezig",
            r"autosvar",
            r"(fr(å|a)nvaro|fraværs|frånvarande)",
            r"automaattinen vastaus",
            r"(poissa|lomalla)",
            r"(odpowiedź automatyczna|autoodpowied(ź|z)|automatyczna odpowied(ź|z))",
            r"(automatická odpověď|mimo kancelář)",
            r"automatikus válasz",
            r"(otomatik yan(ı|i)t|ofis dışında)",
            r"(автоответ|автоматический ответ|отсутствие на рабочем|вне офиса|отпуск)",
            r"(автоматична відповідь)",
            r"(自動返信|自動応答|不在|自动回复|自動回覆|자동 ?회신|부재중)",
            r"(تلقائي|الرد التلقائي|תשובה אוטומטית|מענה אוטומטי)",
        ];
        let prefix = r"^\s*((re|aw|fwd?|sv|antw?|wg|tr|odp|ynt)\s*:\s*)*";
        Regex::new(&format!("(?i){prefix}\\W{{0,3}}(?:{})", starts.join("|"))).expect("a fixed expression")
    });
    AWAY.is_match(subject)
}

/// Requests to prove that a person wrote, and lists that hold a message for their moderator.
fn is_challenge(subject: &str, told: &str) -> bool {
    static CHALLENGE: LazyLock<Regex> = LazyLock::new(|| {
        let words = [
            r"(please )?confirm (your|this) (message|e-?mail|delivery)",
            r"requires? (your )?confirmation",
            r"sender (address )?verification",
            r"verify (that )?you(r message| are (a )?human| sent)",
            r"challenge[ -/]response",
            r"awaits moderator approval",
            r"waiting for (moderator )?approval",
            r"is being held (until|for|because)",
            r"spam ?(arrest|cop|fence)? verification",
            r"boxbe (waiting list|verification)",
            r"click (on )?(the |this )?link (below )?to (have|get) your (message|e-?mail) delivered",
        ];
        Regex::new(&format!("(?i)(?:{})", words.join("|"))).expect("a fixed expression")
    });
    let start: String = told.chars().take(2000).collect();
    let asks = CHALLENGE.is_match(subject) || CHALLENGE.is_match(&start);
    asks && !start.to_ascii_lowercase().contains("could not be delivered")
}

/// Who wrote it.
fn from(letter: &Letter, class: Class) -> Vec<Returned> {
    let sender = Sender::of(letter);
    sender.address().map(|address| Returned::bystander(address, class)).into_iter().collect()
}
