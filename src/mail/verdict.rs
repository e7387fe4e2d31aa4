//! How an attempt is judged: what becomes of the copy, who is to blame, and the class reports are made of.

use std::fmt;

/// What becomes of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A host took it.
    Delivered,
    /// To be tried again.
    Deferred,
    /// Never to be tried again.
    Failed,
}

/// Who is to blame; exactly as wide as the back-off that follows (C-49).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// This mailbox.
    Recipient,
    /// This copy's bytes.
    Message,
    /// One host of the site: the next one may do.
    Host,
    /// All hosts of the site.
    Site,
    /// Our source address, as this site sees it.
    Source,
    /// Our sending domain or its authentication.
    Stream,
    /// The campaign's content.
    Campaign,
    /// A fault of ours: configuration or a bug.
    Ourselves,
}

/// Declares the classes with their words in one place, so that a word is parsed back to what printed it.
macro_rules! classes {
    ($(#[doc = $about:literal] $name:ident = $word:literal,)*) => {
        /// Why: the closed list of reasons that reports, rules and statistics use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Class {
            $(#[doc = $about] $name,)*
        }

        impl Class {
            /// Every class, in the order of the table.
            pub const ALL: &'static [Class] = &[$(Class::$name),*];

            /// The class's word, as in `hard.unknown_user`.
            pub fn word(self) -> &'static str {
                match self {
                    $(Class::$name => $word,)*
                }
            }

            /// What it means, in a sentence for people.
            pub fn about(self) -> &'static str {
                match self {
                    $(Class::$name => $about.trim_ascii(),)*
                }
            }

            /// The class a word stands for.
            pub fn parse(word: &str) -> Option<Class> {
                Class::ALL.iter().copied().find(|class| class.word() == word)
            }
        }
    };
}

classes! {
    /// Taken by the host.
    Delivered = "delivered",
    /// No such mailbox.
    HardUnknownUser = "hard.unknown_user",
    /// No such domain, or one that takes no mail (null MX).
    HardBadDomain = "hard.bad_domain",
    /// The address cannot be right.
    HardSyntax = "hard.syntax",
    /// The mailbox is closed.
    HardInactive = "hard.inactive",
    /// The mailbox is full.
    SoftQuota = "soft.quota",
    /// First contact: come back later.
    SoftGreylist = "soft.greylist",
    /// This mailbox gets too much mail at the moment.
    SoftRateRecipient = "soft.rate_recipient",
    /// The host, the network or the name service is in trouble.
    SoftSystem = "soft.system",
    /// Given up: the queue lifetime is over.
    SoftExpired = "soft.expired",
    /// Our source address is blocked.
    BlockIp = "block.ip",
    /// Our domain is blocked.
    BlockDomain = "block.domain",
    /// A link of ours is blocked.
    BlockUrl = "block.url",
    /// Too much or too fast for this host.
    BlockRate = "block.rate",
    /// SPF, DKIM, DMARC, PTR or TLS is not as the host wants it.
    PolicyAuth = "policy.auth",
    /// The content is refused.
    PolicyContent = "policy.content",
    /// This recipient refuses this sender.
    PolicyRecipient = "policy.recipient",
    /// Too large.
    Size = "size",
    /// The host does not take mail for this domain.
    Relay = "relay",
    /// The conversation broke a rule: our fault.
    Protocol = "protocol",
    /// An automatic answer; never counted against anybody.
    AutoReply = "auto_reply",
    /// A challenge to prove a person sent it.
    Challenge = "challenge",
    /// The recipient called it spam.
    Complaint = "complaint",
    /// The recipient left the list.
    Unsubscribe = "unsubscribe",
    /// No rule matched: kept for review, never suppressed at first sight.
    Undetermined = "undetermined",
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl serde::Serialize for Class {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

/// The judgement on one attempt. A refusal is a value, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// What becomes of the copy.
    pub verdict: Verdict,
    /// Whose trouble it is; for a delivered copy `Recipient`, and without meaning.
    pub blame: Blame,
    /// Why.
    pub class: Class,
}

impl Ruling {
    /// The ruling on a copy that was taken.
    pub const DELIVERED: Ruling =
        Ruling { verdict: Verdict::Delivered, blame: Blame::Recipient, class: Class::Delivered };

    /// To be tried again.
    pub const fn deferred(blame: Blame, class: Class) -> Ruling {
        Ruling { verdict: Verdict::Deferred, blame, class }
    }

    /// Never to be tried again.
    pub const fn failed(blame: Blame, class: Class) -> Ruling {
        Ruling { verdict: Verdict::Failed, blame, class }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_word() {
        for class in Class::ALL {
            assert_eq!(Class::parse(class.word()), Some(*class));
        }
        assert_eq!(Class::parse("hard"), None);
    }
}
