//! One mail session: copies in, receipts out.

use std::time::Duration;

use super::Error;
use crate::base::{Address, EnvelopeId};
use crate::mail::{Message, Reply, Stage};

/// One copy, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which.
    pub id: EnvelopeId,
    /// The address reports about it go to; empty for none (`<>`).
    pub return_path: String,
    /// Its recipient.
    pub to: Address,
    /// What is sent, signed.
    pub message: Message,
}

/// The end of one copy on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// How far it came. [`Stage::Body`]: its final dot may be out, so that without a reply it is in doubt. At
    /// [`Stage::From`] with [`Error::Closed`] the host has said nothing of it.
    pub stage: Stage,
    /// The host's word on it; 2xx at [`Stage::Body`]: taken. Refusals we made ourselves because of what the host offers
    /// (5.3.4 too large, 5.6.7 needs SMTPUTF8, …) stand at [`Stage::From`] and say so in their text.
    pub heard: Result<Reply, Error>,
    /// From its MAIL to its end.
    pub took: Duration,
}
