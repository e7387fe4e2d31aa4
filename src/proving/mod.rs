//! What users and we test and measure with; nothing below knows it.

pub mod bench;
pub mod counts;
pub mod demo;
pub mod peers;
pub mod people;
pub mod receiver;
pub mod script;
pub mod verifier;

/// Why a test receiver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate could be made.
    #[error("no certificate could be made: {0}")]
    Certificate(String),
    /// The script cannot be followed.
    #[error(transparent)]
    Script(#[from] script::ScriptError),
}
