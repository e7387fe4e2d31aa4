//! What to refuse before a launch, and what to warn of.

/// The postal address a new workspace comes with. It goes with reserved domains only.
pub const SAMPLE_POSTAL_ADDRESS: &str = "The Windowsill, 1 Sample Street, Sampleton AB1 2CD, Exampleland";
