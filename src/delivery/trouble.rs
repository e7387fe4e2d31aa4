//! What now: the judgement on every reply and every failure. All policy about what an attempt means stands here; the
//! meaning of words is `smtp::classify`'s, carrying it out is the steward's and the queue's.
//!
//! - The basic code decides whether to try again; text and stage decide the class.
//! - Before RCPT nothing was said of the recipient, so nothing is held against one: a session that is refused is about
//!   us or the host (C-14).
//! - A block, a throttle or a fault of ours never fails a copy for good unless the host said 5xx to that very copy, and
//!   never suppresses anybody (B-22).

use std::io;
use std::time::Duration;

use crate::mail::{Blame, Class, EnhancedCode, NoticeKind, Reply, Ruling, Stage, Verdict};
use crate::smtp;
use crate::smtp::classify::{Reaction, Rules};

/// How long a source whose address is gone rests before it is looked for again.
const PROBE_SOURCE: Duration = Duration::from_secs(60);

/// What was heard instead of a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No host of the site has an address.
    #[error("no mail host of the domain has an address")]
    NoAddress,
    /// All addresses are loopback, private or otherwise not to be dialled (C-07).
    #[error("the domain's mail hosts have only addresses that must not be dialled, such as {0}")]
    Forbidden(std::net::IpAddr),
    /// Nobody listens, or there is no way there.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The host closed the connection.
    #[error("the host closed the connection")]
    Closed,
    /// What the host sent is no SMTP.
    #[error("the host broke the protocol: {0}")]
    Garbled(String),
    /// The handshake failed, or TLS is demanded and not offered.
    #[error("TLS: {0}")]
    Tls(String),
    /// The source address is no longer ours.
    #[error("the source address cannot be used: {0}")]
    SourceGone(String),
    /// The machine ran out of something: files, ports, memory.
    #[error("this machine cannot open a connection: {0}")]
    Exhausted(String),
    /// Our own credentials are missing or unfit for this host.
    #[error("{0}")]
    Credentials(String),
}

impl Fault {
    /// What a failed system call means.
    pub fn of_io(error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::AddrNotAvailable => Fault::SourceGone(error.to_string()),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Fault::Closed,
            io::ErrorKind::OutOfMemory | io::ErrorKind::AddrInUse => Fault::Exhausted(error.to_string()),
            // EMFILE and ENFILE have no stable kind.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Fault::Exhausted(error.to_string()),
            _ => Fault::Unreachable(error.to_string()),
        }
    }

    /// The reply a host would have given, for the record.
    pub fn as_reply(&self) -> Reply {
        let (code, enhanced) = match self {
            Fault::NoAddress => (451, EnhancedCode(4, 4, 4)),
            Fault::Forbidden(_) => (550, EnhancedCode(5, 4, 4)),
            Fault::Unreachable(_) | Fault::TimedOut(_) => (451, EnhancedCode(4, 4, 1)),
            Fault::Closed => (451, EnhancedCode(4, 4, 2)),
            Fault::Garbled(_) => (451, EnhancedCode(4, 5, 0)),
            Fault::Tls(_) => (451, EnhancedCode(4, 7, 5)),
            Fault::SourceGone(_) | Fault::Exhausted(_) | Fault::Credentials(_) => (451, EnhancedCode(4, 3, 5)),
        };
        Reply { code, enhanced: Some(enhanced), text: self.to_string() }
    }
}

impl From<smtp::Error> for Fault {
    fn from(error: smtp::Error) -> Fault {
        match error {
            smtp::Error::TimedOut(limit) => Fault::TimedOut(limit),
            smtp::Error::Closed => Fault::Closed,
            smtp::Error::Io(text, kind) => match Fault::of_io(&kind.into()) {
                Fault::Unreachable(_) => Fault::Unreachable(text),
                known => known,
            },
            smtp::Error::Garbled(what) => Fault::Garbled(what),
            smtp::Error::Tls(_, why) => Fault::Tls(why),
            smtp::Error::Credentials(why) => Fault::Credentials(why),
        }
    }
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of the copy, whose trouble it is, and why.
    pub ruling: Ruling,
    /// What the site or the source does about it.
    pub reaction: Reaction,
    /// This copy not before so long; zero: at once.
    pub after: Option<Duration>,
    /// The rule that decided; `None` when codes or the kind of failure did.
    pub rule: Option<&'static str>,
}

impl Judgement {
    fn plain(ruling: Ruling) -> Judgement {
        Judgement { ruling, reaction: Reaction::None, after: None, rule: None }
    }

    /// The same as heard over an address of ours: who speaks IPv4 already cannot be asked to.
    pub fn over(self, is_v6: bool) -> Judgement {
        match self.reaction {
            Reaction::OverIpv4 if !is_v6 => Judgement { reaction: Reaction::None, ..self },
            _ => self,
        }
    }

    /// Whether a person should hear of it: something stands still until somebody acts, or we are blocked.
    pub fn alerts(&self) -> bool {
        self.notice().is_some_and(NoticeKind::alerts)
    }

    /// What of it is worth a notice.
    pub fn notice(&self) -> Option<NoticeKind> {
        let blocked = matches!(self.ruling.class, Class::BlockIp | Class::BlockDomain | Class::BlockUrl);
        match (self.reaction, self.ruling.blame) {
            (Reaction::Halt, Blame::Stream | Blame::Campaign) => Some(NoticeKind::Misconfigured),
            // one copy's own trouble
            (Reaction::Halt, Blame::Recipient | Blame::Message) => None,
            (Reaction::Halt, Blame::Host | Blame::Site | Blame::Source | Blame::Ourselves) | (Reaction::Hold, _) => {
                Some(NoticeKind::Held)
            }
            _ if blocked => Some(NoticeKind::Held),
            (Reaction::Pause(_), _) => Some(NoticeKind::Paused),
            (Reaction::Slow(_), _) => Some(NoticeKind::Slowed),
            (Reaction::None | Reaction::OneConnection(_) | Reaction::ShortSession(_) | Reaction::OverIpv4, _) => None,
        }
    }
}

/// Judges what was heard at a stage of an attempt toward a site, by the built-in rules.
pub fn judge(site: Option<&str>, stage: Stage, heard: Result<&Reply, &Fault>) -> Judgement {
    judge_by(Rules::built_in(), site, stage, heard)
}

/// Judges by other rules, such as those with a workspace's own before the built-in ones.
pub fn judge_by(rules: &Rules, site: Option<&str>, stage: Stage, heard: Result<&Reply, &Fault>) -> Judgement {
    match heard {
        Ok(reply) => of_reply(rules, site, stage, reply),
        Err(fault) => of_fault(stage, fault),
    }
}

fn of_reply(rules: &Rules, site: Option<&str>, stage: Stage, reply: &Reply) -> Judgement {
    match reply.code {
        200..=299 if stage == Stage::Body => return Judgement::plain(Ruling::DELIVERED),
        // A yes where only a no ends an attempt: the host has lost the thread.
        0..=399 => return Judgement::plain(Ruling::deferred(Blame::Host, Class::Protocol)),
        _ => {}
    }
    let found = rules.reply(reply, stage, site);
    let verdict = verdict(stage, reply, found.again);
    let blame = blame(stage, reply, found.blame, found.class);
    let ruling = Ruling { verdict, blame, class: found.class };
    Judgement { ruling, reaction: found.reaction, after: found.after, rule: found.rule }
}

/// Whether the copy is tried again. 5xx is final for this copy and recipient (RFC 5321 §4.2.1), except where it was not
/// said to this copy, where our credentials are at fault (C-47), or where a rule knows the host to throttle by 5xx.
fn verdict(stage: Stage, reply: &Reply, again: bool) -> Verdict {
    let about_us = matches!(reply.code, 530 | 534 | 535 | 538);
    match stage {
        Stage::Route | Stage::Print | Stage::Connect | Stage::Greet | Stage::Secure => Verdict::Deferred,
        Stage::From | Stage::To | Stage::Data | Stage::Body => match reply.is_permanent() && !again && !about_us {
            true => Verdict::Failed,
            false => Verdict::Deferred,
        },
    }
}

/// Who backs off, narrowed by how far the attempt came: before MAIL nobody but hosts and ourselves can be at fault.
fn blame(stage: Stage, reply: &Reply, named: Blame, class: Class) -> Blame {
    let before_mail = stage < Stage::From;
    match named {
        Blame::Recipient | Blame::Message | Blame::Campaign if before_mail => Blame::Host,
        // A host that is busy or closing says nothing about the others of its site (C-04, C-21).
        Blame::Site if before_mail || reply.code == 421 => Blame::Host,
        Blame::Stream if before_mail && class != Class::PolicyAuth => Blame::Source,
        Blame::Recipient
        | Blame::Message
        | Blame::Host
        | Blame::Site
        | Blame::Source
        | Blame::Stream
        | Blame::Campaign
        | Blame::Ourselves => named,
    }
}

fn of_fault(stage: Stage, fault: &Fault) -> Judgement {
    let host = Judgement::plain(Ruling::deferred(Blame::Host, Class::SoftSystem));
    let ours = Judgement {
        reaction: Reaction::Halt,
        ..Judgement::plain(Ruling::deferred(Blame::Ourselves, Class::SoftSystem))
    };
    match fault {
        Fault::NoAddress => Judgement::plain(Ruling::deferred(Blame::Site, Class::SoftSystem)),
        Fault::Forbidden(_) => Judgement::plain(Ruling::failed(Blame::Recipient, Class::HardBadDomain)),
        // Between two copies a host may close without a word; the next connection may be opened at once (C-23).
        Fault::Closed if stage == Stage::From => Judgement { after: Some(Duration::ZERO), ..host },
        Fault::Unreachable(_) | Fault::TimedOut(_) | Fault::Closed | Fault::Tls(_) => host,
        Fault::Garbled(_) => Judgement::plain(Ruling::deferred(Blame::Host, Class::Protocol)),
        // Looked for again with each probe, by nobody's hand: an address may come back by itself.
        Fault::SourceGone(_) => Judgement {
            reaction: Reaction::Pause(PROBE_SOURCE),
            ..Judgement::plain(Ruling::deferred(Blame::Source, Class::SoftSystem))
        },
        // It passes by itself when connections close: no alarm, but nobody else is to blame either.
        Fault::Exhausted(_) => Judgement { reaction: Reaction::None, ..ours },
        Fault::Credentials(_) => ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(site: &str, stage: Stage, code: u16, enhanced: &str, text: &str) -> Judgement {
        let reply = Reply { code, enhanced: EnhancedCode::parse(enhanced), text: text.into() };
        judge(Some(site), stage, Ok(&reply))
    }

    #[track_caller]
    fn check(judgement: Judgement, verdict: Verdict, blame: Blame, class: Class) {
        assert_eq!(judgement.ruling, Ruling { verdict, blame, class }, "{judgement:?}");
    }

    #[test]
    fn the_basic_code_decides_whether_to_try_again() {
        use Verdict::{Deferred, Failed};
        check(heard("x", Stage::Body, 250, "2.0.0", "ok"), Verdict::Delivered, Blame::Recipient, Class::Delivered);
        check(heard("x", Stage::To, 550, "5.1.1", "User unknown"), Failed, Blame::Recipient, Class::HardUnknownUser);
        check(heard("x", Stage::To, 450, "4.1.1", "User unknown"), Deferred, Blame::Recipient, Class::HardUnknownUser);
        // The detail contradicts the basic code: the basic code wins (C-19).
        let mixed = heard("google", Stage::Body, 421, "5.7.32", "isn't aligned");
        check(mixed, Deferred, Blame::Stream, Class::PolicyAuth);
        check(heard("x", Stage::To, 550, "", "zzz"), Failed, Blame::Recipient, Class::Undetermined);
        check(heard("x", Stage::To, 354, "", "go on"), Deferred, Blame::Host, Class::Protocol);
    }

    #[test]
    fn a_refused_session_is_never_held_against_a_recipient() {
        for (code, text) in [(554, "no"), (521, "go away"), (550, "User unknown"), (421, "busy"), (450, "mailbox full")]
        {
            for stage in [Stage::Greet, Stage::Secure] {
                let judgement = heard("x", stage, code, "", text);
                assert_eq!(judgement.ruling.verdict, Verdict::Deferred, "{code} {text}");
                let blame = judgement.ruling.blame;
                assert!(matches!(blame, Blame::Host | Blame::Source | Blame::Ourselves), "{code} {text}: {blame:?}");
            }
        }
        let nowl = heard("t-online", Stage::Greet, 554, "", "IP=203.0.113.7 - None/bad reputation. (NOWL)");
        check(nowl, Verdict::Deferred, Blame::Source, Class::BlockIp);
        assert_eq!((nowl.reaction, nowl.alerts()), (Reaction::Hold, true));
    }

    #[test]
    fn throttles_by_5xx_are_tried_again_only_where_a_rule_knows_them() {
        let qq = heard("qq", Stage::Body, 550, "", "Ip frequency limited [Blocked IP 203.0.113.7]");
        check(qq, Verdict::Deferred, Blame::Source, Class::BlockRate);
        assert_eq!(qq.reaction, Reaction::Pause(Duration::from_secs(600)));
        let plain = heard("x", Stage::Body, 550, "", "rate limit reached");
        check(plain, Verdict::Failed, Blame::Source, Class::BlockRate);
    }

    #[test]
    fn one_mailbox_in_trouble_slows_nobody_else() {
        let judgement = heard("google", Stage::To, 450, "4.2.1", "The user is receiving mail too quickly");
        assert_eq!(judgement.ruling.blame, Blame::Recipient);
        assert_eq!(judgement.reaction, Reaction::None);
        let grey = heard("x", Stage::To, 451, "4.7.1", "Greylisted");
        check(grey, Verdict::Deferred, Blame::Recipient, Class::SoftGreylist);
    }

    #[test]
    fn s_008_a_host_that_wants_ipv4_is_believed_where_we_have_spoken_the_other() {
        let judgement = heard("x", Stage::To, 550, "5.4.8", "no IPv6 here");
        check(judgement, Verdict::Deferred, Blame::Source, Class::PolicyAuth);
        assert_eq!(judgement.over(true).reaction, Reaction::OverIpv4);
        assert_eq!(judgement.over(false).reaction, Reaction::None);
    }

    #[test]
    fn bad_credentials_bounce_nobody() {
        for code in [530, 534, 535, 538] {
            for stage in [Stage::Secure, Stage::From, Stage::To] {
                let judgement = heard("relay", stage, code, "5.7.8", "Authentication failed");
                check(judgement, Verdict::Deferred, Blame::Ourselves, Class::PolicyAuth);
                assert_eq!(judgement.reaction, Reaction::Halt);
            }
        }
    }

    #[test]
    fn a_block_fails_the_copy_that_heard_it_and_stops_the_site_for_the_source() {
        let text = "Unfortunately, messages from [203.0.113.7] weren't sent. part of their network is on our block list (S3150)";
        let judgement = heard("outlook", Stage::From, 550, "5.7.1", text);
        check(judgement, Verdict::Failed, Blame::Source, Class::BlockIp);
        assert_eq!((judgement.reaction, judgement.alerts()), (Reaction::Hold, true));
    }

    #[test]
    fn failures_without_a_reply_are_the_hosts_or_ours() {
        let timed_out = Fault::TimedOut(Duration::from_secs(60));
        check(judge(None, Stage::Connect, Err(&timed_out)), Verdict::Deferred, Blame::Host, Class::SoftSystem);
        let closed = judge(None, Stage::From, Err(&Fault::Closed));
        assert_eq!(closed.after, Some(Duration::ZERO), "a silent close between copies costs no time");
        assert_eq!(judge(None, Stage::To, Err(&Fault::Closed)).after, None);
        let gone = Fault::of_io(&io::ErrorKind::AddrNotAvailable.into());
        assert_eq!(judge(None, Stage::Connect, Err(&gone)).ruling.blame, Blame::Source);
        let files = Fault::of_io(&io::Error::from_raw_os_error(24));
        check(judge(None, Stage::Connect, Err(&files)), Verdict::Deferred, Blame::Ourselves, Class::SoftSystem);
        let loopback = Fault::Forbidden([127, 0, 0, 1].into());
        check(judge(None, Stage::Connect, Err(&loopback)), Verdict::Failed, Blame::Recipient, Class::HardBadDomain);
        assert_eq!(loopback.as_reply().to_string()[..9], *"550 5.4.4");
    }
}
