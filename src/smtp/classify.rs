//! What a refusal means: reply → class, blame and reaction, by rules that are data (`rules.toml`). Decides neither
//! whether to try again nor what happens to an address: that is `delivery::trouble` and `outcome`.
//!
//! Precedence: provider rule, text pattern, enhanced code, basic code with stage. The same text means different things
//! at different stages: a 550 to the greeting is about us, to RCPT about the recipient, to DATA about the message.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::Deserialize;

use crate::base::Span;
use crate::mail::{Blame, Class, EnhancedCode, Reply, Stage};

/// The built-in rules.
const BUILT_IN: &str = include_str!("rules.toml");
/// Text looked at, in octets: what matters stands at the start, and hostile text must not cost.
const TEXT_MAX: usize = 2048;

/// What a site or source does about a reply, beside what becomes of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    None,
    /// Half the pace and one connection, for so long; then back step by step.
    Slow(Duration),
    /// No connection for so long; then one as a probe, and back one by one.
    Pause(Duration),
    /// No connection until a person resumes.
    Hold,
    /// One connection at a time, for so long.
    OneConnection(Duration),
    /// Fewer messages on each connection, for so long; the next connection may be opened at once.
    ShortSession(Duration),
    /// The host wants IPv4.
    OverIpv4,
    /// Our configuration is at fault: whatever the blame names stops until a person has mended it.
    Halt,
}

/// What a reply was found to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Why.
    pub class: Class,
    /// Who backs off.
    pub blame: Blame,
    /// What is done about it.
    pub reaction: Reaction,
    /// Whether a 5xx is to be tried again all the same: the receiver throttles by 5xx (C-52).
    pub again: bool,
    /// This copy not before so long.
    pub after: Option<Duration>,
    /// The rule that decided; `None` when the codes did.
    pub rule: Option<&'static str>,
}

/// What is wrong with a file of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("rules.toml: {what}")]
    Text {
        /// What the parser said.
        what: String,
        /// Where, in octets.
        at: Option<Range<usize>>,
    },
    /// A rule that contradicts itself, or whose pattern is no regular expression.
    #[error("rules.toml: rule `{rule}`: {what}")]
    Rule {
        /// Its name.
        rule: String,
        /// What is wrong.
        what: String,
    },
    /// A rule that its own sample does not reach: it would never do what it was written for.
    #[error("rules.toml: rule `{rule}` does not fire on its own sample `{sample}`: {other} does")]
    Silent {
        /// Its name.
        rule: String,
        /// The sample.
        sample: String,
        /// What fires instead.
        other: String,
    },
}

impl RulesError {
    /// Where it stands in the text of the file, in octets.
    pub fn place(&self, text: &str) -> Option<Range<usize>> {
        match self {
            RulesError::Text { at, .. } => at.clone(),
            RulesError::Rule { rule, .. } | RulesError::Silent { rule, .. } => {
                let name = format!("\"{rule}\"");
                text.find(&name).map(|at| at..at + name.len())
            }
        }
    }
}

/// What a reply means at a site, at a stage, by the built-in rules.
pub fn reply(reply: &Reply, stage: Stage, site: Option<&str>) -> Finding {
    Rules::built_in().reply(reply, stage, site)
}

/// The class of a refusal as a delivery report tells it: any of the codes may be missing, and so may stage and site.
pub fn text(
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: &str,
    stage: Option<Stage>,
    site: Option<&str>,
) -> Class {
    let basic = code.or(enhanced.map(|code| u16::from(code.0) * 100 + 50)).unwrap_or(0);
    let rule = Rules::built_in().first(code.unwrap_or(0), enhanced, text, stage, site);
    rule.map_or_else(|| by_codes(basic, enhanced, stage), |rule| rule.finding).class
}

/// Where in the conversation a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// Up to and including MAIL: nothing of the recipient was said yet.
    Session,
    /// RCPT.
    Recipient,
    /// DATA and after.
    Content,
}

impl Part {
    fn of(stage: Stage) -> Part {
        match stage {
            Stage::Route | Stage::Print | Stage::Connect | Stage::Greet | Stage::Secure | Stage::From => Part::Session,
            Stage::To => Part::Recipient,
            Stage::Data | Stage::Body => Part::Content,
        }
    }

    /// The stage most typical of it.
    fn stage(self) -> Stage {
        match self {
            Part::Session => Stage::Greet,
            Part::Recipient => Stage::To,
            Part::Content => Stage::Body,
        }
    }
}

/// A rule as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    site: Vec<String>,
    stage: Option<Part>,
    #[serde(rename = "match")]
    pattern: String,
    class: String,
    blame: BlameWord,
    reaction: Option<ReactionWord>,
    #[serde(rename = "for")]
    span: Option<Span>,
    #[serde(default)]
    again: bool,
    after: Option<Span>,
    sample: Vec<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BlameWord {
    Recipient,
    Message,
    Host,
    Site,
    Source,
    Stream,
    Campaign,
    Ourselves,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReactionWord {
    Slow,
    Pause,
    Hold,
    OneConnection,
    ShortSession,
    OverIpv4,
    Halt,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Entry>,
}

/// A rule ready for use; its pattern stands in the set at the same place.
#[derive(Debug)]
struct Rule {
    site: Vec<String>,
    part: Option<Part>,
    finding: Finding,
}

/// All rules, their patterns compiled into one automaton.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    patterns: RegexSet,
}

static BUILT: LazyLock<Rules> = LazyLock::new(|| {
    let built_in = entries(BUILT_IN).and_then(Rules::make);
    built_in.expect("a test reads the built-in rules and tries every sample")
});

impl Rules {
    /// The rules the program comes with.
    pub fn built_in() -> &'static Rules {
        &BUILT
    }

    /// The text of a workspace's `rules.toml` before the built-in rules. Each of its samples must fire its own rule,
    /// at its first site and stage.
    pub fn overlaid(text: &str) -> Result<Rules, RulesError> {
        let own = entries(text)?;
        let proofs: Vec<_> = own
            .iter()
            .map(|entry| (entry.name.clone(), entry.sample.clone(), entry.site.first().cloned(), entry.stage))
            .collect();
        let rules = Rules::make(own.into_iter().chain(entries(BUILT_IN)?).collect())?;
        for (rule, samples, site, part) in proofs {
            for sample in samples {
                let stage = part.map_or(Stage::To, Part::stage);
                let fired = rules.reply(&read_reply(&sample), stage, site.as_deref()).rule;
                if fired != Some(&rule) {
                    let other = fired.map_or("none".to_owned(), |name| format!("`{name}`"));
                    return Err(RulesError::Silent { rule, sample, other });
                }
            }
        }
        Ok(rules)
    }

    /// What a reply means at a site, at a stage.
    pub fn reply(&self, reply: &Reply, stage: Stage, site: Option<&str>) -> Finding {
        let rule = self.first(reply.code, reply.enhanced, &reply.text, Some(stage), site);
        rule.map_or_else(|| by_codes(reply.code, reply.enhanced, Some(stage)), |rule| rule.finding)
    }

    fn make(entries: Vec<Entry>) -> Result<Rules, RulesError> {
        let patterns = RegexSetBuilder::new(entries.iter().map(|entry| &entry.pattern))
            .case_insensitive(true)
            .unicode(false)
            .size_limit(64 << 20)
            .dfa_size_limit(16 << 20)
            .build()
            .map_err(|error| unfit(&entries, &error))?;
        let rules = entries.into_iter().map(Rule::make).collect::<Result<_, _>>()?;
        Ok(Rules { rules, patterns })
    }

    /// The first rule that matches.
    fn first(
        &self,
        code: u16,
        enhanced: Option<EnhancedCode>,
        text: &str,
        stage: Option<Stage>,
        site: Option<&str>,
    ) -> Option<&Rule> {
        let line = line(code, enhanced, text);
        let part = stage.map(Part::of);
        self.patterns.matches(&line).into_iter().map(|at| &self.rules[at]).find(|rule| {
            let here = rule.site.is_empty() || site.is_some_and(|site| rule.site.iter().any(|one| one == site));
            here && (rule.part.is_none() || part.is_none() || rule.part == part)
        })
    }
}

impl Rule {
    fn make(entry: Entry) -> Result<Rule, RulesError> {
        let wrong = |what: &str| RulesError::Rule { rule: entry.name.clone(), what: what.to_owned() };
        let class = Class::parse(&entry.class).ok_or_else(|| wrong("no such class"))?;
        if entry.sample.is_empty() {
            return Err(wrong("a rule without a sample proves nothing"));
        }
        let span = || entry.span.map(Span::duration).ok_or_else(|| wrong("this reaction needs `for`"));
        let reaction = match entry.reaction {
            None => Reaction::None,
            Some(ReactionWord::Slow) => Reaction::Slow(span()?),
            Some(ReactionWord::Pause) => Reaction::Pause(span()?),
            Some(ReactionWord::Hold) => Reaction::Hold,
            Some(ReactionWord::OneConnection) => Reaction::OneConnection(span()?),
            Some(ReactionWord::ShortSession) => Reaction::ShortSession(span()?),
            Some(ReactionWord::OverIpv4) => Reaction::OverIpv4,
            Some(ReactionWord::Halt) => Reaction::Halt,
        };
        let blame = match entry.blame {
            BlameWord::Recipient => Blame::Recipient,
            BlameWord::Message => Blame::Message,
            BlameWord::Host => Blame::Host,
            BlameWord::Site => Blame::Site,
            BlameWord::Source => Blame::Source,
            BlameWord::Stream => Blame::Stream,
            BlameWord::Campaign => Blame::Campaign,
            BlameWord::Ourselves => Blame::Ourselves,
        };
        let after = entry.after.map(Span::duration);
        // Names are handed out without copying. Rules live as long as the process, but for a reload by hand.
        let rule = Some(&*entry.name.leak());
        let finding = Finding { class, blame, reaction, again: entry.again, after, rule };
        Ok(Rule { site: entry.site, part: entry.stage, finding })
    }
}

fn entries(text: &str) -> Result<Vec<Entry>, RulesError> {
    let wrong = |error: toml::de::Error| RulesError::Text { what: error.message().to_owned(), at: error.span() };
    toml::from_str(text).map(|file: File| file.rule).map_err(wrong)
}

/// The rule whose pattern cannot be compiled; all together they may also be too large.
fn unfit(entries: &[Entry], error: &regex::Error) -> RulesError {
    let is_unfit = |entry: &&Entry| regex::bytes::RegexBuilder::new(&entry.pattern).unicode(false).build().is_err();
    match entries.iter().find(is_unfit) {
        Some(entry) => {
            RulesError::Rule { rule: entry.name.clone(), what: format!("its pattern cannot be used: {error}") }
        }
        None => RulesError::Text { what: error.to_string(), at: None },
    }
}

/// A reply from one line of text: `550 5.1.1 TEXT`, `550-5.1.1 TEXT`, or text alone (code 0).
fn read_reply(text: &str) -> Reply {
    let code = text.get(..3).and_then(|digits| digits.parse().ok()).filter(|code| (200..600).contains(code));
    let mut rest = if code.is_some() { text[3..].trim_start_matches(['-', ' ']) } else { text };
    let mut enhanced = None;
    if let Some((first, after)) = rest.split_once(' ')
        && let Some(found) = EnhancedCode::parse(first)
    {
        (enhanced, rest) = (Some(found), after);
    }
    Reply { code: code.unwrap_or(0), enhanced, text: rest.to_owned() }
}

/// What the patterns see: `CODE X.Y.Z TEXT`, cut; codes that are missing are left out.
fn line(code: u16, enhanced: Option<EnhancedCode>, text: &str) -> Vec<u8> {
    let mut line = String::with_capacity(16 + text.len().min(TEXT_MAX));
    if code != 0 {
        line = format!("{code} ");
    }
    if let Some(enhanced) = enhanced {
        line.push_str(&format!("{enhanced} "));
    }
    let mut bytes = line.into_bytes();
    bytes.extend(text.bytes().take(TEXT_MAX).map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    bytes
}

/// What the codes alone say. An enhanced code speaks first; a 5xx that says nothing stays undetermined, so that nobody
/// is suppressed for it at first sight.
fn by_codes(code: u16, enhanced: Option<EnhancedCode>, stage: Option<Stage>) -> Finding {
    let part = stage.map_or(Part::Recipient, Part::of);
    let class = enhanced.and_then(|enhanced| by_enhanced(code, enhanced, part)).unwrap_or_else(|| by_basic(code, part));
    let blame = if code == 421 { Blame::Host } else { usual_blame(class, part) };
    let reaction = match (class, code) {
        (Class::BlockRate, _) => Reaction::Slow(Duration::from_secs(30 * 60)),
        (Class::BlockIp, _) if part == Part::Session => Reaction::Pause(Duration::from_secs(4 * 3600)),
        _ => Reaction::None,
    };
    // "use IPv4" (a draft that some hosts follow, C-12)
    if enhanced.is_some_and(|enhanced| (enhanced.1, enhanced.2) == (4, 8)) {
        let (class, blame, reaction) = (Class::PolicyAuth, Blame::Source, Reaction::OverIpv4);
        return Finding { class, blame, reaction, again: true, after: None, rule: None };
    }
    Finding { class, blame, reaction, again: false, after: None, rule: None }
}

/// RFC 3463 and the IANA registry of enhanced codes; `None` for details that say nothing of their own.
fn by_enhanced(code: u16, enhanced: EnhancedCode, part: Part) -> Option<Class> {
    let permanent = code / 100 == 5;
    Some(match (enhanced.1, enhanced.2) {
        (1, 1 | 4 | 6) if permanent => Class::HardUnknownUser,
        (1, 2 | 10) | (4, 4) if permanent => Class::HardBadDomain,
        (1, 3) if permanent => Class::HardSyntax,
        (1, 1..=6) => Class::SoftSystem,
        (1, 7 | 8) => Class::PolicyAuth,
        (2, 1) if permanent => Class::HardInactive,
        (2, 1) => Class::SoftRateRecipient,
        (2, 2) => Class::SoftQuota,
        (2, 3) | (3, 4) => Class::Size,
        (2, 4) => Class::PolicyRecipient,
        (3, _) => Class::SoftSystem,
        (4, 1) if permanent => Class::Relay,
        (4, 7) => Class::SoftExpired,
        (4, _) => Class::SoftSystem,
        (5, 3) => Class::Protocol,
        (5, 1..=6) => Class::Protocol,
        (6, 7 | 9) => Class::Protocol,
        (6, _) => Class::PolicyContent,
        (7, 13 | 17 | 18) if permanent => Class::HardInactive,
        (7, 8 | 9 | 20..=27 | 29 | 30) => Class::PolicyAuth,
        (7, 28) => Class::BlockRate,
        (7, 2 | 124 | 133..=136) => Class::PolicyRecipient,
        (7, _) if !permanent && part == Part::Recipient => Class::SoftGreylist,
        (7, _) => match part {
            Part::Session => Class::BlockIp,
            Part::Recipient => Class::PolicyRecipient,
            Part::Content => Class::PolicyContent,
        },
        _ => return None,
    })
}

/// RFC 5321 §4.2.3 and RFC 7504.
fn by_basic(code: u16, part: Part) -> Class {
    match (code, part) {
        (421 | 432 | 441 | 442 | 450 | 451 | 454 | 458, _) => Class::SoftSystem,
        (452, Part::Recipient) => Class::SoftQuota,
        (400..=499, _) => Class::SoftSystem,
        (530 | 534 | 535 | 538, _) => Class::PolicyAuth,
        (500..=504 | 555, _) => Class::Protocol,
        (521 | 554, Part::Session) => Class::BlockIp,
        (521 | 556, _) => Class::HardBadDomain,
        (551, Part::Recipient) => Class::HardUnknownUser,
        (552, Part::Recipient) => Class::SoftQuota,
        (552, Part::Content) => Class::Size,
        (553, Part::Recipient) => Class::HardSyntax,
        (550 | 554, Part::Content) => Class::PolicyContent,
        _ => Class::Undetermined,
    }
}

/// Who backs off when no rule names anybody: exactly as wide as the class (C-49).
fn usual_blame(class: Class, part: Part) -> Blame {
    match class {
        Class::HardUnknownUser
        | Class::HardBadDomain
        | Class::HardSyntax
        | Class::HardInactive
        | Class::SoftQuota
        | Class::SoftGreylist
        | Class::SoftRateRecipient
        | Class::SoftExpired
        | Class::PolicyRecipient
        | Class::Relay
        | Class::AutoReply
        | Class::Challenge
        | Class::Complaint
        | Class::Unsubscribe
        | Class::Delivered => Blame::Recipient,
        Class::SoftSystem | Class::Undetermined => match part {
            Part::Session => Blame::Site,
            Part::Recipient => Blame::Recipient,
            Part::Content => Blame::Message,
        },
        Class::BlockIp | Class::BlockRate => Blame::Source,
        Class::BlockDomain | Class::PolicyAuth => Blame::Stream,
        Class::BlockUrl | Class::PolicyContent => Blame::Campaign,
        Class::Size => Blame::Message,
        Class::Protocol => Blame::Ourselves,
    }
}

#[cfg(test)]
mod tests;
