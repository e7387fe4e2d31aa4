//! The nouns on the road: what is planned, what was tried, what became of it. Plain data with public fields.

mod attempt;
mod channel;
mod envelope;
mod message;
mod notice;
mod outcome;
mod tls_flaw;
mod verdict;

pub use attempt::{Attempt, EnhancedCode, Reply, Stage};
pub use channel::{Channel, HostProof, TlsVersion};
pub use envelope::{Consent, Envelope, InDoubt, Lane, Recipient};
pub use message::Message;
pub use notice::{Notice, NoticeKind, impersonal};
pub use outcome::{Outcome, Standing};
pub use tls_flaw::TlsFlaw;
pub use verdict::{Blame, Class, Ruling, Verdict};
