//! Signing: the keys of a workspace, DKIM signatures, and the records that prove them. Private keys never leave this
//! folder and are never printed.

mod dkim;
mod files;
mod keyring;
mod records;

use std::path::PathBuf;

use crate::base::{Domain, SealError};

pub use files::{create_seal, load_seal};
pub use keyring::{Keyring, create_key};
pub use records::{Finding, Record, check};

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// rsa-sha256 (RFC 8301 §3): what every receiver checks.
    Rsa,
    /// ed25519-sha256 (RFC 8463): only ever a second signature (K-02).
    Ed25519,
}

/// Why keys cannot be read, made or used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Others on this machine can read a private key.
    #[error("{}: others can read this private key", path.display())]
    #[diagnostic(help("take their right away with `chmod 600 {}`, and make a new key if you do not trust them", path.display()))]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Not a private key of the kind its name says, or one too short to sign with.
    #[error("{}: {why}", path.display())]
    #[diagnostic(help(
        "bring it from the backup, or move it away and make another key with `mailshot dkim new DOMAIN`: while it lies there, no mail is sent"
    ))]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name below `state/keys` that is neither a domain nor `seal.keys`, or a selector that is none.
    #[error("`{0}` is not a selector: letters, digits and hyphens, at most 63")]
    Selector(String),
    /// Two keys of one kind for one domain: which one signs would be a guess.
    #[error("{domain} has two {algorithm:?} keys: {} and {}", one.display(), other.display())]
    #[diagnostic(help("keep the one whose record is published, and rename the other to end in `.waiting`"))]
    Twice {
        /// The domain.
        domain: Domain,
        /// The kind of both.
        algorithm: Algorithm,
        /// One file.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A file that would be overwritten.
    #[error("{} exists", path.display())]
    #[diagnostic(help("a selector is never used twice (its old record may still be cached): choose another one"))]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The seal keys cannot be used.
    #[error("{}: {why}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        why: SealError,
    },
    /// There are no seal keys in the workspace.
    #[error("{} is not there: without it no return path can be sealed", path.display())]
    #[diagnostic(help(
        "`mailshot init` makes it; on a copied workspace, bring it from the backup: with new keys, links and return paths already sent stop working"
    ))]
    NoSeal {
        /// Where it should be.
        path: PathBuf,
    },
    /// No key to sign for this domain.
    #[error("there is no DKIM key for {0}")]
    #[diagnostic(help("make one with `mailshot dkim new {0}` and publish its record, or set dkim.unsigned = true"))]
    NoKey(Domain),
    /// The library could not sign, or make a key.
    #[error("signing: {0}")]
    Library(String),
}

impl Error {
    /// Whether the machine stood in the way, rather than a key or a name.
    pub fn is_failure(&self) -> bool {
        match self {
            Error::File { .. } | Error::Library(_) => true,
            Error::Exposed { .. }
            | Error::Key { .. }
            | Error::Selector(_)
            | Error::Twice { .. }
            | Error::Exists { .. }
            | Error::Seal { .. }
            | Error::NoSeal { .. }
            | Error::NoKey(_) => false,
        }
    }
}
