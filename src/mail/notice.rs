//! What happened on the road that a person may want to know: pauses, blocks, what stands still and why. Names hosts,
//! sources and campaigns, never recipients.

use std::sync::Arc;

use crate::base::{LaunchId, Timestamp};

/// Longest text, in octets.
const TEXT_MAX: usize = 300;

/// Declares the kinds with their words.
macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $name:ident = $word:literal,)*) => {
        /// What kind of thing happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum NoticeKind {
            $($(#[doc = $about])+ $name,)*
        }

        impl NoticeKind {
            /// Its word, as in `source_gone`.
            pub fn word(self) -> &'static str {
                match self {
                    $(NoticeKind::$name => $word,)*
                }
            }

            /// The kind a word stands for.
            pub fn parse(word: &str) -> Option<NoticeKind> {
                [$(NoticeKind::$name),*].into_iter().find(|kind| kind.word() == word)
            }
        }

        impl serde::Serialize for NoticeKind {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.word())
            }
        }
    };
}

kinds! {
    /// A site rests for a while, and goes on by itself.
    Paused = "paused",
    /// A site asked for less: the pace was halved.
    Slowed = "slowed",
    /// We are blocked, or a route is misconfigured: it stands still until a person resumes it.
    Held = "held",
    /// A source address is no longer this machine's; looked for again every minute.
    SourceGone = "source_gone",
    /// A campaign cannot go on like this (signature, authentication): it was paused, nobody bounced.
    Misconfigured = "misconfigured",
    /// A campaign bounced or was complained about too much: it was stopped at a site, or paused.
    Breaker = "breaker",
    /// A campaign was not out by its deadline: what was left is cancelled.
    Deadline = "deadline",
    /// Complaints come near the limit.
    Complaints = "complaints",
    /// A new source had two bad days at a site.
    WarmupStopped = "warmup_stopped",
    /// A mailbox refuses the login, or its provider the token; it is looked into less and less often.
    MailboxRefused = "mailbox_refused",
    /// Nothing goes on until a disk or the record can be written; then it does by itself.
    Stalled = "stalled",
    /// Sending has stopped: a disk, the record, a bug.
    Stopped = "stopped",
    /// A person tries out the alerts.
    Trial = "trial",
}

impl NoticeKind {
    /// Whether somebody has to be told, beside the record.
    pub fn alerts(self) -> bool {
        match self {
            NoticeKind::Paused | NoticeKind::Slowed => false,
            NoticeKind::Held
            | NoticeKind::SourceGone
            | NoticeKind::Misconfigured
            | NoticeKind::Breaker
            | NoticeKind::Deadline
            | NoticeKind::Complaints
            | NoticeKind::WarmupStopped
            | NoticeKind::MailboxRefused
            | NoticeKind::Stalled
            | NoticeKind::Stopped
            | NoticeKind::Trial => true,
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What kind of thing.
    pub kind: NoticeKind,
    /// The site concerned.
    pub site: Option<Arc<str>>,
    /// The source or mailbox, by its name.
    pub source: Option<Arc<str>>,
    /// The launch; with [`NoticeKind::Misconfigured`] it is to be paused.
    pub launch: Option<LaunchId>,
    /// What happened, in words; without addresses of people.
    pub text: String,
    /// Until when it holds, where that is known.
    pub until: Option<Timestamp>,
    /// When.
    pub at: Timestamp,
}

/// A host's words without what names people or steers terminals, cut to what a person needs.
pub fn impersonal(words: &str) -> String {
    let mut clean = String::with_capacity(words.len().min(TEXT_MAX));
    for word in words.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if clean.len() + word.len() >= TEXT_MAX {
            break;
        }
        if !clean.is_empty() {
            clean.push(' ');
        }
        match word.contains('@') {
            true => clean.push_str("<address>"),
            false => clean.push_str(word),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_nobody() {
        for (words, clean) in [
            ("550 5.1.1 <ann@reader.example>: no such user", "550 5.1.1 <address> no such user"),
            ("a\r\nb\u{1b}[2J  c", "a b [2J c"),
            ("mailto:x@y.example?subject=a", "<address>"),
        ] {
            assert_eq!(impersonal(words), clean);
        }
        assert!(impersonal(&"word ".repeat(200)).len() <= TEXT_MAX);
    }

    #[test]
    fn kinds_are_found_by_their_words() {
        for kind in [NoticeKind::Paused, NoticeKind::SourceGone, NoticeKind::Trial] {
            assert_eq!(NoticeKind::parse(kind.word()), Some(kind));
        }
    }
}
