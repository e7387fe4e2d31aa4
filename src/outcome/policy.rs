//! When an outcome bars an address. Pure decisions; the store asks them inside the transaction that records the outcome.
//!
//! - What a host said of the mailbox itself bars at once, but only where it spoke of the mailbox: from RCPT on, or in a
//!   delivery report.
//! - What may pass is counted: so many campaigns in a row, over so long, without a delivery between them (B-25).
//! - Blocks, throttles and policy never count against a recipient, whatever the digits (B-22).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config;
use crate::mail::{Class, Stage, Standing};
use crate::store::{Finding, Judge, Mailing, Reason, Weight};

/// Two refusals that no rule explains count as a dead mailbox when they come within this time (B-25).
const CONFIRMED_WITHIN: Duration = Duration::from_secs(7 * 86_400);
/// Campaigns refused by the recipient or for want of a relay until that counts (the class table).
const TWICE: usize = 2;

/// When an outcome bars an address.
#[derive(Debug, Clone)]
pub struct Policy {
    soft_limit: usize,
    soft_span: Duration,
}

/// What speaks against an address: the first at once, the others when they repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// There is no such mailbox, or no such domain.
    Dead,
    /// The mailbox is full, or time ran out on it.
    Soft,
    /// This recipient refuses this sender; also soft.
    Unwanted,
    /// The host does not take mail for the domain; not the mailbox's fault, but no way in either.
    NoRelay,
    /// Refused for good, and no rule knows why; also soft.
    Unexplained,
}

impl Policy {
    /// The policy of these settings.
    pub fn new(settings: &config::Bounce) -> Policy {
        Policy { soft_limit: settings.soft_limit.max(1) as usize, soft_span: settings.soft_span.duration() }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new(&config::Bounce::default())
    }
}

impl Judge for Policy {
    fn weigh(&self, finding: Finding) -> Weight {
        match sign(finding) {
            None => Weight::Nothing,
            Some(Sign::Dead) => Weight::Bars(Reason::Hard),
            Some(Sign::Soft | Sign::Unwanted | Sign::NoRelay | Sign::Unexplained) => Weight::Counts,
        }
    }

    fn judge(&self, history: &[Mailing]) -> Option<Reason> {
        let since_delivery = history.iter().take_while(|mailing| mailing.standing != Standing::Delivered);
        let signs: Vec<(&Mailing, Sign)> =
            since_delivery.filter_map(|mailing| Some((mailing, sign(mailing.finding()?)?))).collect();
        let newest = signs.first()?.0.at;
        let age = |mailing: &Mailing| newest.since(mailing.at);
        let unexplained =
            campaigns(&signs, |mailing, sign| sign == Sign::Unexplained && age(mailing) <= CONFIRMED_WITHIN);
        let no_relay = campaigns(&signs, |_, sign| sign == Sign::NoRelay);
        if unexplained >= TWICE || no_relay >= TWICE {
            return Some(Reason::Hard);
        }
        let unwanted = campaigns(&signs, |_, sign| sign == Sign::Unwanted);
        let soft = campaigns(&signs, |_, sign| is_soft(sign));
        let span = signs.iter().filter(|(_, sign)| is_soft(*sign)).map(|(mailing, _)| age(mailing)).max();
        let enough = soft >= self.soft_limit && span.is_some_and(|span| span >= self.soft_span);
        (unwanted >= TWICE || enough).then_some(Reason::SoftLimit)
    }
}

/// How many separate campaigns gave such a sign.
fn campaigns(signs: &[(&Mailing, Sign)], which: impl Fn(&Mailing, Sign) -> bool) -> usize {
    let such = signs.iter().filter(|(mailing, sign)| which(mailing, *sign));
    such.map(|(mailing, _)| mailing.campaign.as_str()).collect::<BTreeSet<_>>().len()
}

/// Whether it is one of the soft results that add up.
fn is_soft(sign: Sign) -> bool {
    match sign {
        Sign::Soft | Sign::Unwanted | Sign::Unexplained => true,
        Sign::Dead | Sign::NoRelay => false,
    }
}

/// Whether a host spoke of the mailbox: before RCPT it does not know which one is meant.
fn of_mailbox(finding: Finding) -> bool {
    finding.late || matches!(finding.stage, Some(Stage::To | Stage::Data | Stage::Body))
}

/// Whether somebody spoke of the address: a host, the name service, or we who could not write it.
fn of_address(finding: Finding) -> bool {
    of_mailbox(finding) || matches!(finding.stage, Some(Stage::Route | Stage::Print))
}

/// What a copy's end says against its address; `None` when it says nothing.
fn sign(finding: Finding) -> Option<Sign> {
    if finding.standing != Standing::Failed {
        return None;
    }
    match finding.class {
        Class::HardUnknownUser | Class::HardInactive => of_mailbox(finding).then_some(Sign::Dead),
        Class::HardBadDomain | Class::HardSyntax => of_address(finding).then_some(Sign::Dead),
        Class::SoftQuota => of_mailbox(finding).then_some(Sign::Soft),
        Class::SoftExpired => finding.cause.is_some_and(lies_with_recipient).then_some(Sign::Soft),
        Class::PolicyRecipient => of_mailbox(finding).then_some(Sign::Unwanted),
        Class::Relay => of_mailbox(finding).then_some(Sign::NoRelay),
        // after the final dot it was more likely the content
        Class::Undetermined => (finding.late || finding.stage == Some(Stage::To)).then_some(Sign::Unexplained),
        Class::Delivered
        | Class::SoftGreylist
        | Class::SoftRateRecipient
        | Class::SoftSystem
        | Class::BlockIp
        | Class::BlockDomain
        | Class::BlockUrl
        | Class::BlockRate
        | Class::PolicyAuth
        | Class::PolicyContent
        | Class::Size
        | Class::Protocol
        | Class::AutoReply
        | Class::Challenge
        | Class::Complaint
        | Class::Unsubscribe => None,
    }
}

/// Whether what a copy was deferred for lies with the recipient: then it counts that time ran out (the class table).
fn lies_with_recipient(cause: Class) -> bool {
    match cause {
        Class::HardUnknownUser
        | Class::HardSyntax
        | Class::HardInactive
        | Class::SoftQuota
        | Class::SoftRateRecipient
        | Class::PolicyRecipient => true,
        Class::HardBadDomain
        | Class::Delivered
        | Class::SoftGreylist
        | Class::SoftSystem
        | Class::SoftExpired
        | Class::BlockIp
        | Class::BlockDomain
        | Class::BlockUrl
        | Class::BlockRate
        | Class::PolicyAuth
        | Class::PolicyContent
        | Class::Size
        | Class::Relay
        | Class::Protocol
        | Class::AutoReply
        | Class::Challenge
        | Class::Complaint
        | Class::Unsubscribe
        | Class::Undetermined => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    const DAY: Duration = Duration::from_secs(86_400);

    fn finding(class: Class, stage: Stage) -> Finding {
        Finding { standing: Standing::Failed, class, cause: None, stage: Some(stage), late: false }
    }

    /// A mailing of a campaign that failed at RCPT (or was delivered, for that class), on a day.
    fn mailing(campaign: &str, class: Class, day: u32) -> Mailing {
        Mailing {
            campaign: campaign.into(),
            standing: if class == Class::Delivered { Standing::Delivered } else { Standing::Failed },
            class: Some(class),
            cause: (class == Class::SoftExpired).then_some(Class::SoftQuota),
            stage: Some(Stage::To),
            answer: String::new(),
            late: false,
            at: Timestamp::from_ms(1_795_000_000_000) + DAY * day,
        }
    }

    /// Judges what happened on these days, oldest first, each in a campaign of its own.
    #[track_caller]
    fn check(days: &[(u32, Class)], expected: Option<Reason>) {
        let mut history: Vec<_> =
            days.iter().map(|(day, class)| mailing(&format!("campaign-{day}"), *class, *day)).collect();
        history.reverse();
        assert_eq!(Policy::default().judge(&history), expected, "{days:?}");
    }

    #[test]
    fn the_table_of_classes_says_what_one_refusal_means() {
        for class in Class::ALL.iter().copied() {
            let expected = match class.word() {
                word if word.starts_with("hard.") => Weight::Bars(Reason::Hard),
                "soft.quota" | "policy.recipient" | "relay" | "undetermined" => Weight::Counts,
                _ => Weight::Nothing,
            };
            assert_eq!(Policy::default().weigh(finding(class, Stage::To)), expected, "{class}");
            for stage in [Stage::Connect, Stage::Greet, Stage::Secure, Stage::From] {
                assert_eq!(Policy::default().weigh(finding(class, stage)), Weight::Nothing, "{class} at {stage:?}");
            }
            let deferred = Finding { standing: Standing::Deferred, ..finding(class, Stage::To) };
            assert_eq!(Policy::default().weigh(deferred), Weight::Nothing, "{class} deferred");
        }
        let no_domain = finding(Class::HardBadDomain, Stage::Route);
        assert_eq!(Policy::default().weigh(no_domain), Weight::Bars(Reason::Hard));
    }

    #[test]
    fn soft_bounces_count_over_campaigns_and_days_and_a_delivery_wipes_them_out() {
        use Class::{Delivered, SoftExpired, SoftQuota};
        check(
            &[(0, SoftQuota), (4, SoftQuota), (8, SoftExpired), (12, SoftQuota), (16, SoftQuota)],
            Some(Reason::SoftLimit),
        );
        check(&[(0, SoftQuota), (4, SoftQuota), (8, SoftQuota), (16, SoftQuota)], None);
        check(&[(0, SoftQuota), (1, SoftQuota), (2, SoftQuota), (3, SoftQuota), (4, SoftQuota)], None);
        check(
            &[(0, SoftQuota), (4, SoftQuota), (6, Delivered), (8, SoftQuota), (12, SoftQuota), (16, SoftQuota)],
            None,
        );
        // what says nothing of the mailbox neither counts nor resets
        let blocked =
            [(0, SoftQuota), (3, Class::BlockIp), (4, SoftQuota), (8, SoftQuota), (12, SoftQuota), (16, SoftQuota)];
        check(&blocked, Some(Reason::SoftLimit));
        check(&blocked.map(|(day, _)| (day * 3, Class::BlockIp)), None);
    }

    #[test]
    fn five_copies_of_one_campaign_are_one_result() {
        let history: Vec<_> = (0..6).rev().map(|n| mailing("news", Class::SoftQuota, n * 4)).collect();
        assert_eq!(Policy::default().judge(&history), None);
    }

    #[test]
    fn what_no_rule_explains_bars_when_confirmed_within_a_week() {
        check(&[(0, Class::Undetermined)], None);
        check(&[(0, Class::Undetermined), (7, Class::Undetermined)], Some(Reason::Hard));
        check(&[(0, Class::Undetermined), (8, Class::Undetermined)], None);
        check(&[(0, Class::Undetermined), (1, Class::Delivered), (2, Class::Undetermined)], None);
        let after_the_dot = finding(Class::Undetermined, Stage::Body);
        assert_eq!(Policy::default().weigh(after_the_dot), Weight::Nothing);
    }

    #[test]
    fn two_refusals_by_the_recipient_or_for_want_of_a_relay_bar() {
        check(&[(0, Class::PolicyRecipient)], None);
        check(&[(0, Class::PolicyRecipient), (90, Class::PolicyRecipient)], Some(Reason::SoftLimit));
        check(&[(0, Class::Relay), (30, Class::Relay)], Some(Reason::Hard));
        check(&[(0, Class::Relay), (30, Class::PolicyRecipient)], None);
    }

    #[test]
    fn what_expired_counts_only_when_the_mailbox_was_the_cause() {
        let expired = |cause| Finding { cause, ..finding(Class::SoftExpired, Stage::To) };
        assert_eq!(Policy::default().weigh(expired(Some(Class::SoftQuota))), Weight::Counts);
        for cause in [None, Some(Class::SoftSystem), Some(Class::BlockIp), Some(Class::SoftGreylist)] {
            assert_eq!(Policy::default().weigh(expired(cause)), Weight::Nothing, "{cause:?}");
        }
    }
}
