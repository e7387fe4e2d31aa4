//! mailshot takes a newsletter from a CSV of contacts to the recipients' mail hosts, and tells the truth about what
//! became of every copy.
//!
//! Promises, in this order: nobody barred is mailed; nothing admitted is lost; doubles are bounded and named; no host
//! is pressed; then speed.
//!
//! # The life of one message
//! ```text
//!  contacts ─segment─▶ recipients ─plan─▶ envelopes ═══▶ queue (disk)          audience, campaign, queue
//!    queue ─claim domain─▶ route to site ─lease─▶ carrier                      delivery
//!      carrier: press prints and signs the message (memory only)               compose, sign
//!        MAIL RCPT DATA · ─reply─▶ attempt ─judge─▶ ruling                     smtp, delivery
//!          delivered → gone    deferred → again at t    failed → gone          queue (one write)
//!            outcome ─▶ report, suppression ◀─ bounce, complaint, unsubscribe  outcome
//! ```
//! Every arrow hands over an owned value. One envelope has one recipient and one message. The queue holds envelopes of
//! at most 100 bytes, never message bytes and never personal fields: the content is frozen once as an edition in the
//! store, and each message is printed at the moment of sending.
//!
//! # Floors
//! The modules below are listed from the ground up. A module may use only modules listed above it; `tests/floors.rs`
//! reads this list and every `crate::` path and fails on one that points to a higher floor.

pub mod base;
pub mod mail;
pub mod world;
pub mod config;
pub mod store;
pub mod audience;
pub mod compose;
pub mod campaign;
pub mod sign;
pub mod queue;
pub mod smtp;
pub mod delivery;
pub mod outcome;
pub mod engine;
pub mod web;
pub mod proving;
pub mod cli;
