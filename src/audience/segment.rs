//! Segments: a small language for a part of the audience, as in `country = 'DE' and not opened('welcome')`. Text becomes a
//! [`Condition`]; what it asks for is never part of a statement.

use std::ops::Range;

use crate::base::{CampaignName, Domain};
use crate::store::{self, Comparison, Condition, Fate, LaunchOptions, Position, Store, Trait};

/// Longest segment, in octets.
const LENGTH_MAX: usize = 4096;
/// How deep parentheses and `not` may lie in each other.
const DEPTH_MAX: usize = 32;
/// Most comparisons and questions.
const LEAVES_MAX: usize = 200;

/// The language in a few lines, for whoever has never seen it.
pub const LANGUAGE: &str = "\
A segment is what must hold for a contact:
  country = 'DE'                 also != < <= > >=; text in quotes, without regard to case
  age >= 18                      numbers without quotes; who has no number there is left out
  plan in ('pro', 'team')        also not in
  city contains 'berg'           also starts with, ends with
  birthday is empty              also is not empty
  domain = 'example.com'         email, domain and name of the contact
  [First Name] = 'Ada'           a column with blanks or signs in its name
  on_list('vip')                 subscribed to that list
  sent('welcome')                meant to get that campaign; delivered, failed, opened, clicked
and, or, not and parentheses put them together: country = 'DE' and not opened('welcome')";

/// Why a text is no segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at `{}`)", .found)]
pub struct SegmentError {
    /// What is wrong.
    pub message: String,
    /// Where in the text, in octets.
    pub place: Range<usize>,
    /// What stands there.
    found: String,
}

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSegment {
    /// It is none.
    #[error(transparent)]
    Wrong(#[from] SegmentError),
    /// It asks about a list that is not there.
    #[error("there is no list `{name}`{}", known_ones(.known))]
    NoList {
        /// The list.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// It asks about a campaign that was never sent.
    #[error("campaign `{0}` was never sent, so that nobody can be told apart by it")]
    NotSent(CampaignName),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

fn known_ones(lists: &[String]) -> String {
    if lists.is_empty() { String::new() } else { format!("; there are {}", lists.join(", ")) }
}

/// What a segment says.
pub fn segment(text: &str) -> Result<Condition, SegmentError> {
    let whole = |message: String| SegmentError { message, place: 0..text.len(), found: start_of(text) };
    if text.len() > LENGTH_MAX {
        return Err(whole(format!("a segment has at most {LENGTH_MAX} octets")));
    }
    let words = words(text)?;
    let mut reader = Reader { text, words: &words, at: 0, depth: 0, leaves: 0 };
    let condition = reader.any()?;
    match reader.word() {
        None => Ok(condition),
        Some(_) => Err(reader.wrong("`and`, `or` or the end is expected here")),
    }
}

/// What holds for those whom a campaign is meant for, beside that they are on its lists.
pub fn chosen(within: Option<Condition>, without: Option<Condition>) -> Option<Condition> {
    let without = without.map(|condition| Condition::Not(Box::new(condition)));
    match (within, without) {
        (Some(within), Some(without)) => Some(Condition::All(vec![within, without])),
        (within, without) => within.or(without),
    }
}

/// The same for a launch, from what is on record of it.
pub fn chosen_by(options: &LaunchOptions) -> Result<Option<Condition>, SegmentError> {
    let [within, without] = [&options.segment, &options.exclude].map(|text| text.as_deref().map(segment).transpose());
    Ok(chosen(within?, without?))
}

/// Refuses a segment that is none, or that asks about a list or a campaign nobody knows: a slip of the pen would choose
/// nobody, or everybody.
pub fn check_segment(store: &Store, text: &str) -> Result<Condition, UnusableSegment> {
    let condition = segment(text)?;
    look_up(store, &condition)?;
    Ok(condition)
}

fn look_up(store: &Store, condition: &Condition) -> Result<(), UnusableSegment> {
    match condition {
        Condition::All(parts) | Condition::Any(parts) => parts.iter().try_for_each(|part| look_up(store, part)),
        Condition::Not(part) => look_up(store, part),
        Condition::OnList(name) if store.list(name)?.is_none() => {
            let known = store.lists()?.into_iter().map(|list| list.name).collect();
            Err(UnusableSegment::NoList { name: name.clone(), known })
        }
        Condition::Copy { campaign, .. } if store.launch_of(campaign)?.is_none() => {
            Err(UnusableSegment::NotSent(campaign.clone()))
        }
        Condition::OnList(_)
        | Condition::Copy { .. }
        | Condition::Text { .. }
        | Condition::Part { .. }
        | Condition::Number { .. } => Ok(()),
    }
}

/// A word of the text, and where it stands.
#[derive(Debug, Clone, PartialEq)]
struct Word {
    kind: Kind,
    place: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// A bare word: a column, a function or one of our own words.
    Bare(String),
    /// `[a column]`
    Column(String),
    Literal(Literal),
    /// One of `( ) , = != < <= > >=`.
    Sign(&'static str),
}

/// A value as it is written.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    /// `'text'`
    Text(String),
    Number(f64),
}

/// Signs, longer ones first.
const SIGNS: [&str; 10] = ["!=", "<=", ">=", "<>", "=", "<", ">", "(", ")", ","];

/// Cuts a text into its words.
fn words(text: &str) -> Result<Vec<Word>, SegmentError> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => quoted(text, at, first)?,
            '[' => {
                let Some(end) = rest.find(']') else { return Err(unended(text, at, "a column's name", ']')) };
                (Kind::Column(rest[1..end].trim().to_owned()), end + 1)
            }
            c if c.is_ascii_digit() || c == '-' || c == '.' => number(text, at)?,
            c if c.is_alphanumeric() || c == '_' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')));
                let length = length.unwrap_or(rest.len());
                (Kind::Bare(rest[..length].to_owned()), length)
            }
            _ => match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                Some(sign) => (Kind::Sign(if sign == "<>" { "!=" } else { sign }), sign.len()),
                None => {
                    let message = format!("`{}` means nothing here", first.escape_default());
                    return Err(error(text, at..at + first.len_utf8(), message));
                }
            },
        };
        found.push(Word { kind, place: at..at + length });
        at += length;
    }
    Ok(found)
}

/// A text in quotes; a quote inside is written twice.
fn quoted(text: &str, start: usize, quote: char) -> Result<(Kind, usize), SegmentError> {
    let mut value = String::new();
    let mut rest = text[start + 1..].char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c == quote {
            false => value.push(c),
            true if rest.peek().is_some_and(|(_, next)| *next == quote) => {
                value.push(c);
                rest.next();
            }
            true => return Ok((Kind::Literal(Literal::Text(value)), at + 2)),
        }
    }
    Err(unended(text, start, "a text", quote))
}

fn number(text: &str, start: usize) -> Result<(Kind, usize), SegmentError> {
    let rest = &text[start..];
    let length = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '.' | '_'))).unwrap_or(rest.len());
    match rest[..length].parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((Kind::Literal(Literal::Number(number)), length)),
        _ => Err(error(text, start..start + length, "that is no number; a text or a date stands in quotes".into())),
    }
}

fn unended(text: &str, start: usize, what: &str, end: char) -> SegmentError {
    error(text, start..text.len(), format!("{what} begins here and has no end: `{end}` is missing"))
}

fn error(text: &str, place: Range<usize>, message: String) -> SegmentError {
    let found = start_of(&text[place.clone()]);
    SegmentError { message, place, found }
}

/// The first characters of a text, for a message.
fn start_of(text: &str) -> String {
    let mut start: String = text.chars().take(30).flat_map(char::escape_debug).collect();
    if text.chars().nth(30).is_some() {
        start.push('…');
    }
    start
}

/// Reads words from left to right: `or` binds least, then `and`, then `not`.
struct Reader<'a> {
    text: &'a str,
    words: &'a [Word],
    at: usize,
    depth: usize,
    leaves: usize,
}

impl Reader<'_> {
    fn word(&self) -> Option<&Kind> {
        self.words.get(self.at).map(|word| &word.kind)
    }

    fn take(&mut self) -> Option<Kind> {
        let word = self.words.get(self.at)?.kind.clone();
        self.at += 1;
        Some(word)
    }

    /// Takes one of our own words, when it is next.
    fn is_next(&mut self, own: &str) -> bool {
        let is_it = match self.word() {
            Some(Kind::Bare(word)) => word.eq_ignore_ascii_case(own),
            Some(Kind::Sign(sign)) => *sign == own,
            _ => false,
        };
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, own: &str) -> Result<(), SegmentError> {
        if self.is_next(own) { Ok(()) } else { Err(self.wrong(&format!("`{own}` is expected here"))) }
    }

    /// An error at the next word, or at the end.
    fn wrong(&self, message: &str) -> SegmentError {
        match self.words.get(self.at) {
            Some(word) => error(self.text, word.place.clone(), message.to_owned()),
            None => SegmentError {
                message: message.to_owned(),
                place: self.text.len()..self.text.len(),
                found: "the end".into(),
            },
        }
    }

    fn any(&mut self) -> Result<Condition, SegmentError> {
        let mut parts = vec![self.all()?];
        while self.is_next("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self) -> Result<Condition, SegmentError> {
        let mut parts = vec![self.one()?];
        while self.is_next("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn one(&mut self) -> Result<Condition, SegmentError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(&format!("this lies more than {DEPTH_MAX} deep")));
        }
        let condition = if self.is_next("not") {
            Condition::Not(Box::new(self.one()?))
        } else if self.is_next("(") {
            let condition = self.any()?;
            self.expect(")")?;
            condition
        } else {
            self.leaves += 1;
            if self.leaves > LEAVES_MAX {
                return Err(self.wrong(&format!("a segment compares at most {LEAVES_MAX} times")));
            }
            self.leaf()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn leaf(&mut self) -> Result<Condition, SegmentError> {
        let of = match self.word() {
            Some(Kind::Bare(word)) => {
                let word = word.clone();
                if matches!(self.words.get(self.at + 1).map(|word| &word.kind), Some(Kind::Sign("("))) {
                    return self.question(&word);
                }
                trait_of(word)
            }
            Some(Kind::Column(name)) if !name.is_empty() => Trait::Field(name.clone()),
            _ => return Err(self.wrong("a column, as in country = 'DE', is expected here")),
        };
        self.at += 1;
        self.comparison(of)
    }

    /// `on_list('vip')`, `opened('welcome')` and the like.
    fn question(&mut self, word: &str) -> Result<Condition, SegmentError> {
        let fate = match word.to_ascii_lowercase().as_str() {
            "on_list" => None,
            "sent" => Some(Fate::Sent),
            "delivered" => Some(Fate::Delivered),
            "failed" => Some(Fate::Failed),
            "opened" => Some(Fate::Opened),
            "clicked" => Some(Fate::Clicked),
            _ => return Err(self.wrong("only on_list, sent, delivered, failed, opened and clicked can be asked for")),
        };
        self.at += 2;
        let name_at = self.at;
        let Some(Kind::Literal(Literal::Text(name))) = self.take() else {
            self.at = name_at;
            return Err(self.wrong("the name of a list or a campaign in quotes is expected here"));
        };
        let condition = match fate {
            None => Condition::OnList(name),
            Some(fate) => match CampaignName::parse(&name) {
                Some(campaign) => Condition::Copy { campaign, fate },
                None => {
                    self.at = name_at;
                    return Err(self.wrong("that is no name of a campaign"));
                }
            },
        };
        self.expect(")")?;
        Ok(condition)
    }

    /// What stands behind a column.
    fn comparison(&mut self, of: Trait) -> Result<Condition, SegmentError> {
        if self.is_next("is") {
            let is_not = self.is_next("not");
            self.expect("empty")?;
            let empty = Condition::Text { of, is: Comparison::Equal, value: String::new() };
            return Ok(negated(empty, is_not));
        }
        let is_not = self.is_next("not");
        if self.is_next("in") {
            return Ok(negated(self.one_of(of)?, is_not));
        }
        for (word, at) in [("contains", Position::Anywhere), ("starts", Position::Start), ("ends", Position::End)] {
            if self.is_next(word) {
                let _ = at != Position::Anywhere && self.is_next("with");
                return match self.value()? {
                    Literal::Text(value) if !value.is_empty() => Ok(negated(Condition::Part { of, at, value }, is_not)),
                    _ => {
                        self.at -= 1;
                        Err(self.wrong("a text in quotes, not an empty one, is expected here"))
                    }
                };
            }
        }
        let comparison = match self.word() {
            Some(Kind::Sign(sign)) if !is_not => Some(*sign),
            _ => None,
        };
        let (is, is_not) = match comparison {
            Some("=") => (Comparison::Equal, false),
            Some("!=") => (Comparison::Equal, true),
            Some("<") => (Comparison::Below, false),
            Some("<=") => (Comparison::AtMost, false),
            Some(">") => (Comparison::Above, false),
            Some(">=") => (Comparison::AtLeast, false),
            _ => {
                let all = "=, !=, <, <=, >, >=, in, contains, starts with, ends with or is empty is expected here";
                return Err(self.wrong(if is_not { "in, contains, starts or ends is expected here" } else { all }));
            }
        };
        self.at += 1;
        let value = self.value()?;
        Ok(negated(compared(of, is, value), is_not))
    }

    /// `('a', 'b')`
    fn one_of(&mut self, of: Trait) -> Result<Condition, SegmentError> {
        self.expect("(")?;
        let mut values = Vec::new();
        loop {
            self.leaves += 1;
            if self.leaves > LEAVES_MAX {
                return Err(self.wrong(&format!("a segment compares at most {LEAVES_MAX} times")));
            }
            let value = self.value()?;
            values.push(compared(of.clone(), Comparison::Equal, value));
            if !self.is_next(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(Condition::Any(values))
    }

    fn value(&mut self) -> Result<Literal, SegmentError> {
        match self.word().cloned() {
            Some(Kind::Literal(value)) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.wrong("a text in quotes or a number is expected here")),
        }
    }
}

/// The column of a bare word.
fn trait_of(word: String) -> Trait {
    match word.as_str() {
        "email" => Trait::Email,
        "domain" => Trait::Domain,
        "name" => Trait::Name,
        _ => Trait::Field(word),
    }
}

fn compared(of: Trait, is: Comparison, value: Literal) -> Condition {
    match value {
        Literal::Number(value) => Condition::Number { of, is, value },
        Literal::Text(value) => {
            // a domain is kept as DNS knows it
            let value = match &of {
                Trait::Domain => Domain::parse(&value).map_or(value, |domain| domain.as_str().to_owned()),
                Trait::Email | Trait::Name | Trait::Field(_) => value,
            };
            Condition::Text { of, is, value }
        }
    }
}

fn negated(condition: Condition, is_not: bool) -> Condition {
    if is_not { Condition::Not(Box::new(condition)) } else { condition }
}

#[cfg(test)]
mod tests;
