//! A condition on people, as a part of the statements that ask who is meant. Its words are fixed, whatever it asks for:
//! every name and value is bound to a place of its own.

use std::fmt::Write;

use rusqlite::types::Value;

use crate::base::CampaignName;

/// Which people are meant: what holds for a contact, or not. There is no third: what a contact does not have is the empty
/// text, so that `Not` is always the rest.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// All of these hold; of none, everybody is meant.
    All(Vec<Condition>),
    /// One of these holds; of none, nobody is meant.
    Any(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// A text compares like this, ASCII letters without regard to case.
    Text {
        /// What is compared.
        of: Trait,
        /// How.
        is: Comparison,
        /// With what.
        value: String,
    },
    /// A text has this in it, ASCII letters without regard to case.
    Part {
        /// Where it is looked for.
        of: Trait,
        /// At which place.
        at: Position,
        /// What; not empty.
        value: String,
    },
    /// A text that is a number compares like this; one that is none does not.
    Number {
        /// What is compared.
        of: Trait,
        /// How.
        is: Comparison,
        /// With what.
        value: f64,
    },
    /// Subscribed to the list of this name.
    OnList(String),
    /// A campaign's copy came to this.
    Copy {
        /// The campaign.
        campaign: CampaignName,
        /// What it came to.
        fate: Fate,
    },
}

/// What of a contact is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trait {
    /// The address.
    Email,
    /// The part of the address behind the last `@`, in A-label form.
    Domain,
    /// The name.
    Name,
    /// An imported column, by its own name.
    Field(String),
}

/// How two values stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

/// Where a part lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Anywhere.
    Anywhere,
    /// At the start.
    Start,
    /// At the end.
    End,
}

/// What a copy of a campaign came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was meant to be sent: neither barred, nor skipped, nor cancelled.
    Sent,
    /// It was taken, and did not bounce later.
    Delivered,
    /// It failed, at once or later.
    Failed,
    /// Its reader opened it or followed a link, as far as that was asked for and seen.
    Opened,
    /// Its reader followed a link.
    Clicked,
}

impl Trait {
    fn write(&self, words: &mut Words) {
        match self {
            Trait::Email => words.sql.push_str("c.address"),
            // what is left when everything up to the last @ is taken away: a quoted name may have one in it
            Trait::Domain => {
                words.sql.push_str("substr(c.address, length(rtrim(c.address, replace(c.address, '@', ''))) + 1)");
            }
            Trait::Name => words.sql.push_str("c.name"),
            Trait::Field(name) => {
                // the operators of JSON would take some names for paths
                words.sql.push_str("CAST(coalesce((SELECT f.value FROM json_each(c.fields) f WHERE f.key = ");
                words.place(name.clone());
                words.sql.push_str("), '') AS TEXT)");
            }
        }
    }
}

impl Comparison {
    fn sign(self) -> &'static str {
        match self {
            Comparison::Equal => " = ",
            Comparison::Below => " < ",
            Comparison::AtMost => " <= ",
            Comparison::Above => " > ",
            Comparison::AtLeast => " >= ",
        }
    }
}

/// What stands in a statement about a contact `c`, and the values of its places.
pub(super) struct Words {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
    next: usize,
}

impl Words {
    /// The words of a condition, with places numbered from `first`; those of none hold for everybody.
    pub(super) fn of(condition: Option<&Condition>, first: usize) -> Words {
        let mut words = Words { sql: String::new(), values: Vec::new(), next: first };
        match condition {
            Some(condition) => condition.write(&mut words),
            None => words.sql.push_str("TRUE"),
        }
        words
    }

    fn place(&mut self, value: impl Into<Value>) {
        let _ = write!(self.sql, "?{}", self.next);
        self.next += 1;
        self.values.push(value.into());
    }
}

impl Condition {
    fn write(&self, words: &mut Words) {
        match self {
            Condition::All(parts) => join(parts, " AND ", "TRUE", words),
            Condition::Any(parts) => join(parts, " OR ", "FALSE", words),
            Condition::Not(condition) => {
                words.sql.push_str("NOT ");
                condition.write(words);
            }
            Condition::Text { of, is, value } => {
                words.sql.push('(');
                of.write(words);
                words.sql.push_str(is.sign());
                words.place(value.clone());
                words.sql.push_str(" COLLATE NOCASE)");
            }
            Condition::Part { of, at, value } => at.write(of, value, words),
            Condition::Number { of, is, value } => {
                // a text becomes a number only when it is one, and any other is more than every number
                words.sql.push('(');
                of.write(words);
                words.sql.push_str(is.sign());
                words.sql.push_str("CAST(");
                words.place(*value);
                words.sql.push_str(" AS REAL) AND ");
                of.write(words);
                words.sql.push_str(" <= CAST(9e999 AS REAL))");
            }
            Condition::OnList(name) => {
                words.sql.push_str(
                    "EXISTS (SELECT 1 FROM memberships g JOIN lists l ON l.id = g.list \
                     WHERE g.contact = c.id AND g.status = 0 AND l.name = ",
                );
                words.place(name.clone());
                words.sql.push(')');
            }
            Condition::Copy { campaign, fate } => {
                words.sql.push_str("EXISTS (SELECT 1 FROM ");
                words.sql.push_str(match fate {
                    Fate::Sent | Fate::Delivered | Fate::Failed => "copies y",
                    Fate::Opened | Fate::Clicked => "visits y",
                });
                words.sql.push_str(" JOIN launches w ON w.id = y.launch WHERE y.contact = c.id AND w.kind = 0 AND ");
                words.sql.push_str(match fate {
                    Fate::Sent => "y.standing NOT IN (4, 5, 6)",
                    Fate::Delivered => "y.standing = 2",
                    Fate::Failed => "y.standing = 3",
                    Fate::Opened => "y.person + y.proxy > 0",
                    Fate::Clicked => "y.person + y.proxy > 0 AND y.link > 0",
                });
                words.sql.push_str(" AND w.campaign = ");
                words.place(campaign.as_str().to_owned());
                words.sql.push(')');
            }
        }
    }
}

impl Position {
    fn write(self, of: &Trait, value: &str, words: &mut Words) {
        let value = value.to_ascii_lowercase();
        match self {
            Position::Anywhere | Position::Start => {
                words.sql.push_str("(instr(lower(");
                of.write(words);
                words.sql.push_str("), ");
                words.place(value);
                words.sql.push_str(if self == Position::Start { ") = 1)" } else { ") > 0)" });
            }
            Position::End => {
                let length = i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
                words.sql.push_str("(substr(lower(");
                of.write(words);
                words.sql.push_str("), -");
                words.place(length);
                words.sql.push_str(") = ");
                words.place(value);
                words.sql.push(')');
            }
        }
    }
}

fn join(parts: &[Condition], between: &str, none: &str, words: &mut Words) {
    if parts.is_empty() {
        return words.sql.push_str(none);
    }
    words.sql.push('(');
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            words.sql.push_str(between);
        }
        part.write(words);
    }
    words.sql.push(')');
}
