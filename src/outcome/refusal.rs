//! What a host said when it refused, found in words: the basic and the enhanced code, the stage, the reason.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use crate::mail::{Class, EnhancedCode, Stage};
use crate::outcome::arrival::tidy;
use crate::outcome::bounce;
use crate::outcome::phrases;
use crate::smtp::classify;

/// Octets of one line looked at.
pub(crate) const LINE_MAX: usize = 2000;

/// What a host said, found in a text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal {
    /// The basic code.
    pub(crate) code: Option<u16>,
    /// The enhanced code, or one that stands alone in the text.
    pub(crate) enhanced: Option<EnhancedCode>,
    /// The words, in one line.
    pub(crate) text: String,
    stage: Option<Stage>,
}

impl Refusal {
    /// In a text that is nothing but a diagnostic.
    pub(crate) fn in_text(text: &str) -> Refusal {
        let mut refusal = Refusal::in_lines(text.lines(), None);
        refusal.text = tidy(text);
        refusal
    }

    /// Whether no code was found.
    pub(crate) fn is_silent(&self) -> bool {
        self.code.is_none() && self.enhanced.is_none()
    }

    /// The status it stands for.
    pub(crate) fn status(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// Why, in one of our words; `status` is what the report made of it.
    pub(crate) fn class(&self, status: Option<EnhancedCode>) -> Class {
        let enhanced = status.filter(|status| !bounce::is_vague(*status)).or(self.enhanced).or(status);
        let code = self.code.or(enhanced.map(|status| u16::from(status.0) * 100 + 50));
        if self.code.is_none()
            && phrases::is_unreached(&self.text)
            && phrases::class(&self.text) != Some(Class::SoftExpired)
        {
            return Class::SoftSystem;
        }
        let by_words = if code.is_none() { phrases::class(&self.text) } else { None };
        let class = by_words.unwrap_or_else(|| classify::text(code, enhanced, &self.text, self.stage, None));
        match class {
            Class::Undetermined | Class::SoftSystem | Class::Protocol => phrases::class(&self.text).unwrap_or(class),
            _ => class,
        }
    }

    /// Of several replies the first that names the address, else the first.
    pub(crate) fn in_lines<'a>(lines: impl Iterator<Item = &'a str> + Clone, address: Option<&str>) -> Refusal {
        let address = address.map(str::to_lowercase);
        let replies: Vec<(usize, Spoken)> =
            lines.clone().enumerate().filter_map(|(at, line)| Some((at, spoken(line)?))).take(200).collect();
        let names = |at: usize| {
            let mut block = lines.clone().skip(at).take(2).map(str::to_lowercase);
            address.as_ref().is_some_and(|address| block.any(|line| line.contains(address.as_str())))
        };
        let refuses = |found: &&(usize, Spoken)| found.1.code.is_some();
        let named = replies.iter().filter(refuses).find(|(at, _)| names(*at));
        let chosen = named.or(replies.iter().find(refuses)).or(replies.first());
        let stage = stage(&join(lines.clone()));
        let Some((at, spoken)) = chosen else {
            return Refusal { text: tidy(&join(lines)), stage, ..Refusal::default() };
        };
        let block: Vec<&str> = lines.skip(*at).take_while(|line| !line.trim().is_empty()).take(20).collect();
        let enhanced = spoken.enhanced.or_else(|| {
            // Further lines of the same reply carry the code as well.
            block.iter().skip(1).take(3).find_map(|line| self::spoken(line).and_then(|more| more.enhanced))
        });
        let enhanced = enhanced.filter(|found| spoken.code.is_none_or(|code| u16::from(found.0) == code / 100));
        Refusal { code: spoken.code, enhanced, text: tidy(&join(block.into_iter())), stage }
    }
}

/// A reply inside a line.
#[derive(Debug, Clone, Copy)]
struct Spoken {
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
}

/// The reply a line holds: `550 5.1.1 …`, `550-5.1.1`, `(#5.1.1)`, `said: 550 …`.
fn spoken(line: &str) -> Option<Spoken> {
    static BASIC: LazyLock<Regex> = LazyLock::new(|| {
        let behind = r"(?:[ -]+|: ?)[#'\x22(]{0,2}([245]\.\d{1,3}\.\d{1,3})\b|[ :;,#'\x22-]|$";
        Regex::new(&format!(r#"(?:^|[\s"'(\[<>=:#;-])([45][0-7]\d)(?:{behind})"#)).expect("a fixed expression")
    });
    static ENHANCED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?:^|[^\d.\w])([45]\.\d{1,3}\.\d{1,3})(?:[^\d.\w]|\.(?:\D|$)|$)").expect("a fixed expression")
    });
    static COUNTED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^\W{0,2}(?:seconds?|minutes?|hours?|days?|bytes?|k?b|mb|octets)\b")
            .expect("a fixed expression")
    });
    let line = prefix(line, LINE_MAX);
    let alone = || ENHANCED.captures(line).and_then(|found| EnhancedCode::parse(&found[1]));
    let basic = BASIC.captures_iter(line).find(|found| {
        let end = found.get(1).map_or(0, |code| code.end());
        !COUNTED.is_match(&line[end..])
    });
    match basic {
        Some(found) => {
            let behind = found.get(2).and_then(|enhanced| EnhancedCode::parse(enhanced.as_str()));
            Some(Spoken { code: found[1].parse().ok(), enhanced: behind.or_else(alone) })
        }
        None => alone().map(|enhanced| Spoken { code: None, enhanced: Some(enhanced) }),
    }
}

/// The stage a text speaks of, when it does.
fn stage(text: &str) -> Option<Stage> {
    static STAGES: LazyLock<RegexSet> = LazyLock::new(|| {
        let stages = [
            r"end of (the )?(data|message)|final data|after (pipelined )?sending (data|the message)|after i sent the message|\[data\]|\(data\)|reply to end of data|end-of-data|dot command",
            r"rcpt (to|command)|\[rcpt_to\]|smtp:rcpt|does not like recipient|reply to rcpt",
            r"initial connection|connection greeting|refused to talk to me|mail from|after (helo|ehlo)|does not like sender",
        ];
        regex::RegexSetBuilder::new(stages).case_insensitive(true).build().expect("fixed expressions")
    });
    let found = STAGES.matches(prefix(text, 4000));
    let stages = [(0, Stage::Body), (1, Stage::To), (2, Stage::Greet)];
    stages.into_iter().find(|(at, _)| found.matched(*at)).map(|(_, stage)| stage)
}

/// Whether a line is a host's refusal: a reply at its start or behind words that introduce one.
pub(crate) fn is_refusal(line: &str) -> bool {
    static REFUSAL: LazyLock<Regex> = LazyLock::new(|| {
        let lead = r"(?:^\W{0,6}|said:?\s*|error:?\s*|response:?\s*|returned:?\s*|<<<\s*|: )";
        Regex::new(&format!(r"(?i){lead}[45][0-5]\d[ :-](?:#?[45]\.\d{{1,3}}\.\d{{1,3}}|.*(?:@|user|mailbox|recipient|unknown|reject|denied|refuse|blocked|not ))")).expect("a fixed expression")
    });
    REFUSAL.is_match(prefix(line, 400))
}

fn join<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for line in lines {
        joined.push_str(line);
        joined.push(' ');
        if joined.len() > 4000 {
            break;
        }
    }
    joined
}

/// The first `most` octets, cut between characters.
pub(crate) fn prefix(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
