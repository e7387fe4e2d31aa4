//! What became of a copy: the fact on record.

use std::sync::Arc;

use crate::base::{Domain, EnvelopeId, Timestamp};
use crate::mail::{Channel, Class, EnhancedCode, Stage};

/// Where a copy stands on record. All but `Waiting`, `Deferred` and `InDoubt` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Planned, never tried.
    Waiting,
    /// Tried, to be tried again.
    Deferred,
    /// Taken by a host.
    Delivered,
    /// Refused, expired, or bounced later.
    Failed,
    /// Not sent: suppressed, unsubscribed or paused when its turn came.
    Barred,
    /// Left out by `missing = "skip"`.
    Skipped,
    /// Called back before it was sent.
    Cancelled,
    /// Its answer was lost, and it is not sent again: its campaign holds such copies for a person to decide, or it was taken
    /// back meanwhile.
    InDoubt,
}

impl Standing {
    /// Every standing, in the order in which they are counted and numbered.
    pub const ALL: [Standing; 8] = [
        Standing::Waiting,
        Standing::Deferred,
        Standing::Delivered,
        Standing::Failed,
        Standing::Barred,
        Standing::Skipped,
        Standing::Cancelled,
        Standing::InDoubt,
    ];

    /// The number it is kept under, on the record and in the queue.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The standing kept under a number.
    pub fn from_number(number: u8) -> Option<Standing> {
        Standing::ALL.get(usize::from(number)).copied()
    }

    /// The standing's word.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Waiting => "waiting",
            Standing::Deferred => "deferred",
            Standing::Delivered => "delivered",
            Standing::Failed => "failed",
            Standing::Barred => "barred",
            Standing::Skipped => "skipped",
            Standing::Cancelled => "cancelled",
            Standing::InDoubt => "in_doubt",
        }
    }
}

/// One line of the book: what one attempt, or one decision about a copy, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The copy.
    pub envelope: EnvelopeId,
    /// Where it stands now.
    pub state: Standing,
    /// Why.
    pub class: Class,
    /// The basic reply code, when a host answered.
    pub code: Option<u16>,
    /// The enhanced code, when the answer carried one.
    pub enhanced: Option<EnhancedCode>,
    /// How far the last attempt came; `None` when the outcome is not of an attempt.
    pub stage: Option<Stage>,
    /// The answer's text, or ours, cut to what a person needs.
    pub text: String,
    /// The host that answered.
    pub host: Option<Domain>,
    /// The site it was sent to, by its name: a provider, a registrable domain or a host set; with a relay named by hand
    /// the recipient's domain.
    pub site: Option<Arc<str>>,
    /// How the connection was secured, when a host answered over one.
    pub channel: Option<Channel>,
    /// Attempts counted so far.
    pub tries: u16,
    /// How often an answer to it was lost after its final dot.
    pub doubtful: u8,
    /// When.
    pub at: Timestamp,
}

impl Outcome {
    /// What becomes of a copy that leaves without an answer to itself. One whose answer was lost before may have been taken,
    /// whatever was decided about it since: it ends in doubt.
    pub fn unanswered(self) -> Outcome {
        match self.doubtful {
            0 => self,
            _ => {
                let text = format!("{}; an answer to it was lost before", self.text);
                Outcome { state: Standing::InDoubt, class: Class::SoftSystem, text, ..self }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_on_disk_means_the_same_standing_for_ever() {
        let words = Standing::ALL.map(|standing| (standing.number(), standing.word()));
        let kept = ["waiting", "deferred", "delivered", "failed", "barred", "skipped", "cancelled", "in_doubt"];
        assert!(words.iter().copied().eq((0..).zip(kept)));
        assert!(Standing::ALL.iter().all(|one| Standing::from_number(one.number()) == Some(*one)));
        assert_eq!(Standing::from_number(8), None);
    }
}
