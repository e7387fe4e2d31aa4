//! What is planned: one recipient, one copy. An envelope holds no personal data; the recipient is read from the
//! store when the copy is leased.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Address, ContactId, EditionId, EnvelopeId, LaunchId, SourceId, Timestamp};

/// Which queue a copy stands in. Within a domain a lower lane is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Test copies and single messages a person waits for.
    Urgent,
    /// Campaigns.
    Bulk,
}

/// One planned delivery to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Launch and contact, packed.
    pub id: EnvelopeId,
    /// The frozen content to print.
    pub edition: EditionId,
    /// The queue it stands in.
    pub lane: Lane,
    /// Attempts that reached a ruling about this copy; drives the retry schedule.
    pub tries: u16,
    /// The source address of its first MAIL, kept over retries for greylisting (C-51).
    pub source: Option<SourceId>,
    /// The Date header: when it was first tried, kept over retries (M-05). `None`: it never was.
    pub date: Option<Timestamp>,
    /// How often an answer to it was lost after its final dot.
    pub doubtful: u8,
    /// Not before this time.
    pub due: Timestamp,
    /// Given up after this time, which counts from the first attempt.
    pub expires: Timestamp,
}

impl Envelope {
    /// A copy that nobody tried yet, in the lane of campaigns, due at once.
    pub fn new(id: EnvelopeId, edition: EditionId, now: Timestamp, expires: Timestamp) -> Envelope {
        let lane = Lane::Bulk;
        Envelope { id, edition, lane, tries: 0, source: None, date: None, doubtful: 0, due: now, expires }
    }

    /// A copy to be looked at and never sent: of no launch, dated now.
    pub fn sketch(contact: ContactId, now: Timestamp) -> Envelope {
        let id = EnvelopeId::new(LaunchId(0), contact);
        Envelope { date: Some(now), ..Envelope::new(id, EditionId(0), now, now) }
    }
}

/// A contact as chosen for a copy: read with the lease, dropped with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    /// The contact's row.
    pub contact: ContactId,
    /// Where the copy goes.
    pub address: Address,
    /// The contact's name, empty when unknown.
    pub name: String,
    /// Every imported column by its own name.
    pub fields: Map<String, Value>,
    /// What may be noted of how the contact reads.
    pub consent: Consent,
}

/// What a contact said about being tracked, apart from getting mail; `None` when nothing was said (U-19).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Consent {
    /// Whether opens may be noted.
    pub opens: Option<bool>,
    /// Whether clicks may be noted.
    pub clicks: Option<bool>,
}

/// What becomes of copies whose answer was lost after the final dot: the campaign's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InDoubt {
    /// Sent again, with the same Message-ID, Date, return path and source.
    #[default]
    Resend,
    /// Never sent twice: held for a person, or a later bounce, to decide.
    Hold,
}
