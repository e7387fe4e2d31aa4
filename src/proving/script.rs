//! What the test receiver is told to do: personalities, the faults they commit, and which domains they speak for. Read
//! from TOML; the built-in script behaves like the world's mailbox providers. Decides nothing by itself: the receiver asks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::base::{Rate, Span};
use crate::smtp::server::Extension;

/// The script that is used when none is given, and whose personalities every script may build on.
pub const BUILT_IN: &str = include_str!("personalities.toml");

/// What is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{0}")]
    Text(String),
    /// A personality that nobody defines.
    #[error("{place} names the personality `{name}`, which neither this script nor the built-in one defines")]
    Unknown {
        /// Where it is named.
        place: String,
        /// The name.
        name: String,
    },
    /// Personalities that are like each other in a circle.
    #[error("personality `{0}` is like itself, by way of others")]
    Circle(String),
    /// A fault that cannot be committed.
    #[error("personality `{name}`, fault {number}: {what}")]
    Fault {
        /// The personality.
        name: String,
        /// Which of its faults, from 1.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Where in a dialogue something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The greeting.
    Greet,
    /// EHLO or HELO.
    Hello,
    /// After the 220 to STARTTLS, instead of the handshake.
    Secure,
    /// MAIL FROM.
    From,
    /// RCPT TO.
    To,
    /// DATA.
    Data,
    /// While the content comes; the only thing to do here is to leave or to fall silent.
    Body,
    /// After the final dot.
    Dot,
}

/// What follows a fault's reply, or stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The dialogue goes on.
    #[default]
    GoOn,
    /// The connection is closed.
    Close,
    /// Nothing is ever said again.
    Silence,
}

/// One thing a personality does instead of what is expected, and when. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Where it strikes.
    pub at: Moment,
    /// The reply, its lines separated by line feeds; none only together with `then`.
    pub reply: Option<String>,
    /// What follows.
    #[serde(default)]
    pub then: Then,
    /// At the dot: the message counts as taken all the same, as when only the answer is lost.
    #[serde(default)]
    pub keeps: bool,
    /// Only for recipients that match one of these patterns, `*` standing for anything.
    #[serde(default, deserialize_with = "one_or_many")]
    pub address: Vec<String>,
    /// Only for this share of the recipients, always the same ones.
    #[serde(default = "whole")]
    pub share: f64,
    /// Only with this chance, each time anew.
    #[serde(default = "whole")]
    pub chance: f64,
    /// Only the first so many times for the same client, return path and recipient.
    pub times: Option<u32>,
    /// Only for so long after the first time, for the same client, return path and recipient: greylisting.
    pub within: Option<Span>,
    /// Only when more than so many messages were begun on the connection.
    pub after: Option<u32>,
    /// Only when the client has more than so many connections open.
    pub over_connections: Option<u32>,
    /// Only when more than so many came this far in the time.
    pub over_rate: Option<Rate>,
}

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delays {
    /// Before the greeting.
    pub greet: Option<Span>,
    /// Before the answer to EHLO.
    pub hello: Option<Span>,
    /// Before the answer to MAIL.
    pub from: Option<Span>,
    /// Before the answer to RCPT.
    pub to: Option<Span>,
    /// Before the answer to DATA.
    pub data: Option<Span>,
    /// Before the answer to the final dot.
    pub dot: Option<Span>,
    /// Before each flight of replies, as a long way would have it.
    pub round_trip: Option<Span>,
    /// Between the octets of every reply: a tarpit.
    pub octet: Option<Span>,
}

impl Delays {
    /// The delay before an answer.
    pub fn before(&self, moment: Moment) -> Duration {
        let delay = match moment {
            Moment::Greet => self.greet,
            Moment::Hello => self.hello,
            Moment::From => self.from,
            Moment::To => self.to,
            Moment::Data => self.data,
            Moment::Dot => self.dot,
            Moment::Secure | Moment::Body => None,
        };
        delay.map_or(Duration::ZERO, Span::duration)
    }
}

/// One way to behave.
#[derive(Debug, Clone, PartialEq)]
pub struct Personality {
    /// Its name.
    pub name: String,
    /// The name in greeting and EHLO reply.
    pub host: Option<String>,
    /// The extensions it offers.
    pub extensions: Vec<Extension>,
    /// What it says behind LIMITS.
    pub limits: Option<String>,
    /// Largest message, in octets.
    pub size_max: usize,
    /// Refused commands until it hangs up.
    pub errors_max: u16,
    /// How long things take.
    pub delays: Delays,
    /// What it does instead of what is expected; the first that holds is committed.
    pub faults: Vec<Fault>,
}

/// A personality as written: what it does not say comes from the one it is like.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    like: Option<String>,
    host: Option<String>,
    extensions: Option<Vec<Extension>>,
    hide: Vec<Extension>,
    limits: Option<String>,
    size_max: Option<usize>,
    errors_max: Option<u16>,
    delay: Option<Delays>,
    fault: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    personality: BTreeMap<String, Written>,
    domains: BTreeMap<String, String>,
    listen: BTreeMap<String, String>,
    session: String,
    seed: u64,
    verify: f64,
}

impl Default for File {
    fn default() -> File {
        let none = BTreeMap::new;
        File {
            personality: none(),
            domains: BTreeMap::new(),
            listen: BTreeMap::new(),
            session: "plain".into(),
            seed: 1,
            verify: 1.0,
        }
    }
}

/// A whole script, checked.
#[derive(Debug, Clone)]
pub struct Script {
    personalities: Vec<Personality>,
    /// Pattern and personality, the most specific pattern first.
    domains: Vec<(String, usize)>,
    /// Addresses to listen on, beside those of the command line, with the personality of their sessions.
    pub listen: Vec<(String, usize)>,
    /// The personality of a session before a recipient is known, and of recipients that no pattern names.
    pub session: usize,
    /// Where chance starts.
    pub seed: u64,
    /// The share of messages whose signatures are checked.
    pub verify: f64,
}

/// What becomes of a recipient in the end, as far as the script decides it for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The message is taken, sooner or later.
    Taken,
    /// It is refused for good.
    Refused,
}

impl Script {
    /// The built-in script.
    pub fn built_in() -> Script {
        Script::parse("").expect("the built-in script is tested")
    }

    /// Reads a script. Its personalities and domains are laid over the built-in ones.
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let read = |text: &str| toml::from_str::<File>(text).map_err(|why| ScriptError::Text(why.to_string()));
        let base = read(BUILT_IN)?;
        let own = read(text)?;
        let mut written = base.personality;
        written.extend(own.personality);
        let mut personalities = Vec::with_capacity(written.len());
        for name in written.keys() {
            personalities.push(resolve(name, &written, 0)?);
        }
        let find = |place: String, name: &str| {
            let at = personalities.iter().position(|known| known.name == name);
            at.ok_or_else(|| ScriptError::Unknown { place, name: name.to_owned() })
        };
        // A script that names domains of its own stands alone: the world's providers would only surprise.
        let named = if own.domains.is_empty() { base.domains } else { own.domains };
        let mut domains = Vec::with_capacity(named.len());
        for (pattern, name) in &named {
            domains.push((pattern.to_ascii_lowercase(), find(format!("domain `{pattern}`"), name)?));
        }
        let wildness = |pattern: &str| (pattern.contains('*'), std::cmp::Reverse(pattern.len()));
        domains.sort_by_key(|(pattern, _)| wildness(pattern));
        let mut listen = Vec::with_capacity(own.listen.len());
        for (address, name) in &own.listen {
            listen.push((address.clone(), find(format!("listen `{address}`"), name)?));
        }
        let session = find("`session`".to_owned(), &own.session)?;
        Ok(Script { personalities, domains, listen, session, seed: own.seed, verify: own.verify })
    }

    /// A personality by its number.
    pub fn personality(&self, number: usize) -> &Personality {
        &self.personalities[number]
    }

    /// The number of a personality by its name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.personalities.iter().position(|known| known.name == name)
    }

    /// The names of all personalities.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.personalities.iter().map(|known| known.name.as_str())
    }

    /// Which personality a recipient meets in a session of `session`.
    pub fn meets(&self, recipient: &str, session: usize) -> usize {
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
        let found = self.domains.iter().find(|(pattern, _)| matches(pattern, &domain));
        found.map_or(session, |(_, number)| *number)
    }

    /// Whether a recipient belongs to those a fault is for: by address and share, the conditions that never change.
    pub fn concerns(&self, fault: &Fault, personality: &Personality, number: usize, recipient: &str) -> bool {
        if fault.address.is_empty() && fault.share >= 1.0 {
            return true;
        }
        let recipient = recipient.to_ascii_lowercase();
        let named = fault.address.is_empty() || fault.address.iter().any(|pattern| matches(pattern, &recipient));
        named && (fault.share >= 1.0 || drawn(&(self.seed, &personality.name, number, recipient)) < fault.share)
    }

    /// What becomes of a recipient in the end. Of the faults that depend on chance or load nothing is said: a script
    /// whose outcome is to be known has none that refuse for good.
    pub fn fate(&self, recipient: &str) -> Fate {
        let personality = self.personality(self.meets(recipient, self.session));
        let for_good = |fault: &Fault| {
            let conditional = fault.chance < 1.0
                || fault.times.is_some()
                || fault.within.is_some()
                || fault.after.is_some()
                || fault.over_connections.is_some()
                || fault.over_rate.is_some();
            !conditional && fault.reply.as_deref().is_some_and(|reply| reply.starts_with('5'))
        };
        let mut faults = personality.faults.iter().enumerate().filter(|(_, fault)| for_good(fault));
        match faults.any(|(number, fault)| self.concerns(fault, personality, number, recipient)) {
            true => Fate::Refused,
            false => Fate::Taken,
        }
    }
}

fn resolve(name: &str, written: &BTreeMap<String, Written>, depth: usize) -> Result<Personality, ScriptError> {
    let own = &written[name];
    let base = match &own.like {
        None => Personality {
            name: name.to_owned(),
            host: None,
            extensions: Extension::ALL.to_vec(),
            limits: None,
            size_max: 50 << 20,
            errors_max: 20,
            delays: Delays::default(),
            faults: Vec::new(),
        },
        Some(_) if depth > written.len() => return Err(ScriptError::Circle(name.to_owned())),
        Some(like) if !written.contains_key(like) => {
            return Err(ScriptError::Unknown { place: format!("personality `{name}`"), name: like.clone() });
        }
        Some(like) => resolve(like, written, depth + 1)?,
    };
    for (at, fault) in own.fault.iter().enumerate() {
        check(fault).map_err(|what| ScriptError::Fault { name: name.to_owned(), number: at + 1, what })?;
    }
    let mut extensions = own.extensions.clone().unwrap_or(base.extensions);
    extensions.retain(|extension| !own.hide.contains(extension));
    Ok(Personality {
        name: name.to_owned(),
        host: own.host.clone().or(base.host),
        extensions,
        limits: own.limits.clone().or(base.limits),
        size_max: own.size_max.unwrap_or(base.size_max),
        errors_max: own.errors_max.unwrap_or(base.errors_max),
        delays: own.delay.unwrap_or(base.delays),
        faults: own.fault.iter().cloned().chain(base.faults).collect(),
    })
}

fn check(fault: &Fault) -> Result<(), &'static str> {
    let about_recipient =
        !fault.address.is_empty() || fault.share < 1.0 || fault.times.is_some() || fault.within.is_some();
    let known = matches!(fault.at, Moment::To | Moment::Data | Moment::Body | Moment::Dot);
    let reply_fits = |reply: &str| {
        let lines = reply.trim_end().lines();
        lines.clone().count() > 0 && lines.clone().all(|line| line.is_ascii() && is_reply_line(line))
    };
    if fault.reply.as_deref().is_some_and(|reply| !reply_fits(reply)) {
        return Err("`reply` is lines of three digits, a blank or hyphen, and text");
    }
    if fault.reply.is_none() && fault.then == Then::GoOn {
        return Err("it needs a `reply`, or `then` = \"close\" or \"silence\"");
    }
    if matches!(fault.at, Moment::Body | Moment::Secure) && (fault.reply.is_some() || fault.then == Then::GoOn) {
        return Err("here nothing can be said: `then` = \"close\" or \"silence\", without a `reply`");
    }
    if about_recipient && !known {
        return Err("`address`, `share`, `times` and `within` are about a recipient, who is not known at this moment");
    }
    if fault.keeps && fault.at != Moment::Dot {
        return Err("`keeps` is for the dot alone");
    }
    if ![fault.share, fault.chance].iter().all(|part| (0.0..=1.0).contains(part)) {
        return Err("`share` and `chance` are between 0 and 1");
    }
    Ok(())
}

fn is_reply_line(line: &str) -> bool {
    let bytes = line.as_bytes();
    let digits = bytes.len() >= 3 && bytes[..3].iter().all(u8::is_ascii_digit);
    digits && (b'2'..=b'5').contains(&bytes[0]) && matches!(bytes.get(3), None | Some(b' ' | b'-')) && line.len() <= 510
}

/// A number in `0.0..1.0` that is always the same for the same thing.
fn drawn(thing: &impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether a pattern in which `*` stands for anything, in lower case, covers a text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

fn whole() -> f64 {
    1.0
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a pattern or a list of patterns")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let patterns = match OneOrMany::deserialize(from)? {
        OneOrMany::One(pattern) => vec![pattern],
        OneOrMany::Many(patterns) => patterns,
    };
    Ok(patterns.iter().map(|pattern| pattern.to_lowercase()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let why = Script::parse(text).expect_err(text).to_string();
        assert!(why.contains(expected), "{text}\n{why}");
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("gmail.com", "gmail.com", true),
            ("gmail.com", "xgmail.com", false),
            ("*.example", "a.b.example", true),
            ("*.example", "example", false),
            ("gone*@*", "gone.away@x.test", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        let script = Script::parse(
            "domains = { \"*\" = \"plain\", \"*.test\" = \"strict\", \"*.very.test\" = \"flaky\", \"mail.test\" = \"gmail\" }",
        )
        .unwrap();
        let meets = |recipient: &str| script.personality(script.meets(recipient, script.session)).name.as_str();
        assert_eq!(
            ["a@x.org", "a@x.test", "a@x.very.test", "a@Mail.Test", "postmaster"].map(meets),
            ["plain", "strict", "flaky", "gmail", "plain"]
        );
    }

    #[test]
    fn a_personality_is_like_another_and_its_own_faults_come_first() {
        let text = "
            [personality.a]
            size_max = 5
            fault = [{ at = \"to\", reply = \"550 a\" }]
            [personality.b]
            like = \"a\"
            hide = [\"CHUNKING\"]
            errors_max = 3
            fault = [{ at = \"to\", reply = \"550 b\" }]";
        let script = Script::parse(text).unwrap();
        let b = script.personality(script.find("b").unwrap());
        assert_eq!((b.size_max, b.errors_max, b.extensions.len()), (5, 3, 7));
        let replies: Vec<_> = b.faults.iter().filter_map(|fault| fault.reply.as_deref()).collect();
        assert_eq!(replies, ["550 b", "550 a"]);
    }

    #[test]
    fn shares_name_the_same_people_every_time() {
        let script = Script::parse(
            "domains = { \"*\" = \"p\" }
             [personality.p]
             fault = [{ at = \"to\", share = 0.1, reply = \"550 5.1.1 no\" }, { at = \"to\", share = 0.3, within = \"1s\", reply = \"450 later\" }]",
        )
        .unwrap();
        let refused = || (0..2000).filter(|n| script.fate(&format!("p{n}@x.test")) == Fate::Refused).count();
        assert!((150..250).contains(&refused()), "{}", refused());
        assert_eq!(refused(), refused());
        let upper = (0..2000).filter(|n| script.fate(&format!("P{n}@X.test")) == Fate::Refused).count();
        assert_eq!(upper, refused());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        check("personality = 1", "invalid type");
        check("[personality.x]\nfoo = 1", "unknown field");
        check("session = \"nobody\"", "`session` names the personality `nobody`");
        check("[domains]\n\"a.test\" = \"nobody\"", "domain `a.test` names");
        check("[personality.x]\nlike = \"y\"", "personality `x` names the personality `y`");
        check("[personality.x]\nlike = \"y\"\n[personality.y]\nlike = \"x\"", "like itself");
        let fault = |fault: &str, expected: &str| check(&format!("[personality.x]\nfault = [{{ {fault} }}]"), expected);
        fault("at = \"to\"", "fault 1: it needs a `reply`");
        fault("at = \"to\", reply = \"no\"", "three digits");
        fault("at = \"to\", reply = \"150 x\"", "three digits");
        fault("at = \"greet\", reply = \"421 x\", share = 0.5", "about a recipient");
        fault("at = \"body\", reply = \"421 x\"", "nothing can be said");
        fault("at = \"to\", reply = \"550 x\", share = 2.0", "between 0 and 1");
        fault("at = \"to\", then = \"close\", keeps = true", "dot alone");
    }

    #[test]
    fn the_built_in_script_is_sound() {
        let script = Script::built_in();
        for name in ["plain", "gmail", "outlook", "yahoo", "icloud", "strict", "flaky"] {
            assert!(script.find(name).is_some(), "{name}");
        }
        let meets = |recipient: &str| script.personality(script.meets(recipient, script.session)).name.as_str();
        assert_eq!(
            ["a@gmail.com", "a@hotmail.com", "a@me.com", "a@aol.com"].map(meets),
            ["gmail", "outlook", "icloud", "yahoo"]
        );
    }
}
