//! What was tried: how far it came, what the host said, how it was judged.

use std::fmt;
use std::time::Duration;

use crate::base::{Domain, EnvelopeId};
use crate::mail::Ruling;

/// How far an attempt came when it ended. In order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Finding the hosts.
    Route,
    /// Printing and signing.
    Print,
    /// Opening the TCP connection.
    Connect,
    /// Greeting and EHLO.
    Greet,
    /// STARTTLS, certificates and AUTH.
    Secure,
    /// MAIL FROM.
    From,
    /// RCPT TO.
    To,
    /// DATA, or the first BDAT.
    Data,
    /// The final dot is out: from here on a lost answer leaves the copy in doubt.
    Body,
}

impl Stage {
    /// Every stage, in the order in which they come and are numbered.
    pub const ALL: [Stage; 9] = [
        Stage::Route,
        Stage::Print,
        Stage::Connect,
        Stage::Greet,
        Stage::Secure,
        Stage::From,
        Stage::To,
        Stage::Data,
        Stage::Body,
    ];

    /// The number it is kept under, on the record and in the queue.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The stage kept under a number.
    pub fn from_number(number: u8) -> Option<Stage> {
        Stage::ALL.get(usize::from(number)).copied()
    }

    /// The stage's word.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Route => "route",
            Stage::Print => "print",
            Stage::Connect => "connect",
            Stage::Greet => "greet",
            Stage::Secure => "secure",
            Stage::From => "from",
            Stage::To => "to",
            Stage::Data => "data",
            Stage::Body => "body",
        }
    }
}

/// An enhanced status code (RFC 3463): class, subject, detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Parses `5.1.1`; the class must be 2, 4 or 5, the others at most three digits (RFC 3463 §2).
    pub fn parse(text: &str) -> Option<EnhancedCode> {
        let number = |part: &str| (1..=3).contains(&part.len()).then(|| part.parse::<u16>().ok())?;
        let mut parts = text.split('.');
        let class = parts.next().filter(|class| matches!(*class, "2" | "4" | "5"))?.parse().ok()?;
        let code = EnhancedCode(class, number(parts.next()?)?, number(parts.next()?)?);
        parts.next().is_none().then_some(code)
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A whole SMTP reply (RFC 5321 §4.2), its lines joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The enhanced code right behind the digits, when there is one (RFC 2034 §4).
    pub enhanced: Option<EnhancedCode>,
    /// The text of all lines joined by one space, code and enhanced code removed; bytes that are not UTF-8 read as Latin-1.
    pub text: String,
}

impl Reply {
    /// Codes 200 to 299.
    pub fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    /// Back from the words it is shown in; words without a code are ours, and stand for a 451.
    pub fn of_words(words: &str) -> Reply {
        let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
        let code = Some(first).filter(|first| first.len() == 3).and_then(|first| first.parse().ok());
        let Some(code) = code else { return Reply { code: 451, enhanced: None, text: words.to_owned() } };
        let (second, after) = rest.split_once(' ').unwrap_or((rest, ""));
        match EnhancedCode::parse(second) {
            Some(enhanced) => Reply { code, enhanced: Some(enhanced), text: after.to_owned() },
            None => Reply { code, enhanced: None, text: rest.to_owned() },
        }
    }

    /// Codes 500 to 599.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

/// One try at one copy, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The copy.
    pub envelope: EnvelopeId,
    /// The host that answered, when one was reached.
    pub host: Option<Domain>,
    /// How far it came.
    pub stage: Stage,
    /// What the host said last.
    pub reply: Option<Reply>,
    /// From lease to ruling.
    pub took: Duration,
    /// What follows from it.
    pub ruling: Ruling,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_comes_back_from_its_words() {
        for (code, enhanced, text) in [
            (421, Some(EnhancedCode(4, 7, 0)), "busy, later"),
            (451, None, ""),
            (554, None, "5 is no code"),
            (450, None, "no"),
        ] {
            let reply = Reply { code, enhanced, text: text.to_owned() };
            assert_eq!(Reply::of_words(&reply.to_string()), reply);
        }
        for ours in ["two bad days in a row", "1000 reasons", ""] {
            assert_eq!(Reply::of_words(ours), Reply { code: 451, enhanced: None, text: ours.to_owned() });
        }
    }
}
