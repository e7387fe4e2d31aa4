//! What the test receiver saw: connections, replies, and how often each recipient got each message.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

/// Doubles named at most.
const NAMED_MAX: usize = 100;

/// What came of checking a message's signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signed {
    /// Every signature is good.
    Passed,
    /// One is not: the message was changed, or signed with another key.
    Failed,
    /// There is none.
    Absent,
    /// The key of one is not known here.
    UnknownKey,
}

/// The books of a receiver.
#[derive(Debug, Default)]
pub struct Books {
    connections: u64,
    open: u64,
    secured: u64,
    bytes: u64,
    broken: u64,
    closed: u64,
    signed: HashMap<Signed, u64>,
    replies: BTreeMap<u16, u64>,
    domains: BTreeMap<Box<str>, Tally>,
    recipients: HashMap<Box<str>, Tally>,
    /// Copies by recipient and Message-ID, as a hash of both.
    copies: HashMap<u64, u32>,
    doubles: BTreeMap<Box<str>, u32>,
    double_count: u64,
}

/// What one recipient or domain saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Messages taken.
    pub taken: u32,
    /// Temporary refusals at RCPT and after.
    pub deferred: u32,
    /// Permanent refusals at RCPT and after.
    pub refused: u32,
}

/// The books as they stand, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counts {
    /// Connections that came.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that were put under TLS.
    pub tls: u64,
    /// Messages taken, once for each recipient.
    pub messages: u64,
    /// Octets of their content.
    pub bytes: u64,
    /// Recipients that got at least one message.
    pub recipients: u64,
    /// Temporary refusals at RCPT and after.
    pub deferred: u64,
    /// Permanent refusals at RCPT and after.
    pub refused: u64,
    /// Commands refused because the client broke the protocol.
    pub broken: u64,
    /// Connections the script closed.
    pub closed: u64,
    /// Copies taken more than once: same recipient, same Message-ID.
    pub doubles: u64,
    /// Who got them, and how many too many; the first hundred.
    pub doubled: BTreeMap<Box<str>, u32>,
    /// Signatures.
    pub dkim: SignedCounts,
    /// Replies that a script put in place of the usual ones, by code.
    pub faults: BTreeMap<u16, u64>,
    /// By the recipient's domain.
    pub by_domain: BTreeMap<Box<str>, Tally>,
}

/// Messages by what came of checking their signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SignedCounts {
    /// Every signature is good.
    pub passed: u64,
    /// One is not.
    pub failed: u64,
    /// There is none.
    pub absent: u64,
    /// The key of one is not known here.
    pub unknown_key: u64,
}

impl Books {
    pub(super) fn opened(&mut self) {
        self.connections += 1;
        self.open += 1;
    }

    pub(super) fn ended(&mut self, broken: u16) {
        self.open -= 1;
        self.broken += u64::from(broken);
    }

    pub(super) fn secured(&mut self) {
        self.secured += 1;
    }

    pub(super) fn closed(&mut self) {
        self.closed += 1;
    }

    pub(super) fn signed(&mut self, signed: Signed) {
        *self.signed.entry(signed).or_default() += 1;
    }

    /// A reply of the script; `recipient` when it was about one.
    pub(super) fn replied(&mut self, reply: &str, recipient: Option<&str>) {
        let code = reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        *self.replies.entry(code).or_default() += 1;
        let count = |tally: &mut Tally| match code / 100 {
            4 => tally.deferred += 1,
            5 => tally.refused += 1,
            _ => (),
        };
        if let Some(recipient) = recipient {
            count(tally(&mut self.recipients, recipient));
            count(self.domains.entry(domain(recipient)).or_default());
        }
    }

    /// A message was taken for a recipient.
    pub(super) fn taken(&mut self, recipient: &str, message_id: &[u8], size: usize) {
        self.bytes += size as u64;
        tally(&mut self.recipients, recipient).taken += 1;
        match self.domains.get_mut(domain_of(recipient)) {
            Some(tally) => tally.taken += 1,
            None => self.domains.entry(domain(recipient)).or_default().taken += 1,
        }
        let mut hasher = DefaultHasher::new();
        (recipient, message_id).hash(&mut hasher);
        let copies = self.copies.entry(hasher.finish()).or_default();
        *copies += 1;
        if *copies > 1 {
            self.double_count += 1;
            if self.doubles.len() < NAMED_MAX || self.doubles.contains_key(recipient) {
                *self.doubles.entry(recipient.into()).or_default() += 1;
            }
        }
    }

    /// What a recipient saw.
    pub fn of(&self, recipient: &str) -> Tally {
        self.recipients.get(recipient).copied().unwrap_or_default()
    }

    /// The books as they stand.
    pub fn counts(&self) -> Counts {
        let sum = |of: fn(&Tally) -> u32| self.domains.values().map(|tally| u64::from(of(tally))).sum();
        let signed = |kind| self.signed.get(&kind).copied().unwrap_or_default();
        Counts {
            connections: self.connections,
            open: self.open,
            tls: self.secured,
            messages: sum(|tally| tally.taken),
            bytes: self.bytes,
            recipients: self.recipients.values().filter(|tally| tally.taken > 0).count() as u64,
            deferred: sum(|tally| tally.deferred),
            refused: sum(|tally| tally.refused),
            broken: self.broken,
            closed: self.closed,
            doubles: self.double_count,
            doubled: self.doubles.clone(),
            dkim: SignedCounts {
                passed: signed(Signed::Passed),
                failed: signed(Signed::Failed),
                absent: signed(Signed::Absent),
                unknown_key: signed(Signed::UnknownKey),
            },
            faults: self.replies.clone(),
            by_domain: self.domains.clone(),
        }
    }

    /// Messages taken and connections open, cheaply: for a display that is renewed often.
    pub fn glance(&self) -> (u64, u64) {
        (self.domains.values().map(|tally| u64::from(tally.taken)).sum(), self.open)
    }
}

fn tally<'a>(tallies: &'a mut HashMap<Box<str>, Tally>, recipient: &str) -> &'a mut Tally {
    if !tallies.contains_key(recipient) {
        tallies.insert(recipient.into(), Tally::default());
    }
    tallies.get_mut(recipient).expect("was just put there")
}

fn domain_of(recipient: &str) -> &str {
    recipient.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn domain(recipient: &str) -> Box<str> {
    domain_of(recipient).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_message_twice_is_a_double_and_another_is_not() {
        let mut books = Books::default();
        for id in ["<1@x>", "<2@x>", "<1@x>", "<1@x>"] {
            books.taken("a@b.test", id.as_bytes(), 10);
        }
        books.taken("c@b.test", b"<1@x>", 10);
        books.replied("450 4.2.0 later", Some("a@b.test"));
        books.replied("550-5.1.1 no\n550 5.1.1 one", Some("d@b.test"));
        books.replied("421 4.7.0 bye", None);
        let counts = books.counts();
        assert_eq!((counts.messages, counts.recipients, counts.bytes, counts.doubles), (5, 2, 50, 2));
        assert_eq!(counts.doubled, BTreeMap::from([("a@b.test".into(), 2)]));
        assert_eq!(counts.by_domain["b.test"], Tally { taken: 5, deferred: 1, refused: 1 });
        assert_eq!(counts.faults, BTreeMap::from([(421, 1), (450, 1), (550, 1)]));
        assert_eq!(books.of("a@b.test"), Tally { taken: 4, deferred: 1, refused: 0 });
    }
}
