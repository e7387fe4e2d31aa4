//! Campaigns: folders below `campaigns/`, read, checked and frozen; and the plan of who gets a copy.

mod definition;
mod files;
mod freeze;
mod plan;

use std::path::PathBuf;

use miette::{Diagnostic, NamedSource, SourceSpan};

use crate::compose::LayoutError;

pub use crate::base::BUCKETS;
pub use definition::Campaign;
pub use plan::{Cursor, Left, MeantError, Plan, Share, Step, Survey, new_envelope};

/// Why a campaign cannot be used.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// There is no such folder.
    #[error("there is no campaign `{name}`: {} is not there", path.display())]
    None {
        /// The name asked for.
        name: String,
        /// Where it would be.
        path: PathBuf,
        /// The campaigns there are.
        #[help]
        help: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Something is wrong in a file.
    #[error("{message}")]
    Place {
        /// What is wrong.
        message: String,
        /// The whole file, to show the line.
        #[source_code]
        file: NamedSource<String>,
        /// Where in the file.
        #[label("here")]
        place: Option<SourceSpan>,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// A folder lacks a file, or has one too many.
    #[error("{}: {message}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do.
        #[help]
        help: String,
    },
    /// The files do not fit together.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A setting that every message needs cannot be used.
    #[error("setting {key}: {message}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong, and what to do.
        message: String,
    },
}

impl Error {
    /// Whether the machine stood in the way, rather than what was written.
    pub fn is_failure(&self) -> bool {
        matches!(self, Error::Read { .. })
    }
}
