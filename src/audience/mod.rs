//! The audience: people brought in from any CSV, and taken out again. What is not clear is shown, what cannot be taken is
//! reported with its line; nobody who left is ever brought back.

mod bars;
mod cell;
mod columns;
mod encoding;
mod forgotten;
mod import;
mod layout;
mod reject;
mod segment;
mod source;
mod table;

use std::io;
use std::path::PathBuf;

use miette::Diagnostic;

pub use bars::{BarRows, suppression_rows};
pub use cell::Allowed;
pub use columns::{Mapping, Shown};
pub use encoding::Script;
pub use forgotten::Forgotten;
pub use import::{Counted, ImportOptions, ImportReport, News, Progress, import, list_name};
pub use reject::{Refusal, RefusedRow};
pub use segment::{LANGUAGE, SegmentError, UnusableSegment, check_segment, chosen, chosen_by, segment};
pub use source::{Found, Source, SourceOptions};
pub use table::Flaw;

use columns::Unmapped;

use crate::store;

/// Why a file cannot be taken in.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// It is a folder, a pipe or a device.
    #[error("{} is not a file", .0.display())]
    #[diagnostic(help("an import reads its file twice: write what comes out of a pipe to a file first"))]
    NoFile(PathBuf),
    /// There is no row in it.
    #[error("{} is empty: there is no row in it", .0.display())]
    Empty(PathBuf),
    /// Nothing can be made of the first row, so the columns are unknown.
    #[error("{}:{line}: {flaw}", path.display())]
    #[diagnostic(help("this is the first row, which says what the columns are: mend it, then run the import again"))]
    FirstRow {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u64,
        /// What is wrong.
        flaw: Flaw,
    },
    /// No column holds addresses.
    #[error("no column of {} holds mail addresses; it has {}", path.display(), quoted(columns))]
    #[diagnostic(help(
        "name the column with --map COLUMN=email; if the columns look wrong, name what divides them with --delimiter"
    ))]
    NoEmail {
        /// The file.
        path: PathBuf,
        /// Its columns.
        columns: Vec<String>,
    },
    /// A mapping names a column that is not there.
    #[error("{} has no column `{column}`; it has {}", path.display(), quoted(columns))]
    #[diagnostic(help("write --map COLUMN=FIELD with a header of the file, or with a column's number from 1"))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// Its columns.
        columns: Vec<String>,
    },
    /// A mapping gives a column a part that does not exist.
    #[error("a column cannot be mapped to `{0}`")]
    #[diagnostic(help("use email, name, @first, @last, @status, @json, - for nothing, or the name of a field"))]
    NoPart(String),
    /// Two columns are to be the same thing.
    #[error("the columns {0} are mapped to the same thing")]
    #[diagnostic(help("map one of them to another name, or leave it out with --map COLUMN=-"))]
    Twice(String),
    /// The name cannot be that of a list.
    #[error("`{0}` cannot be the name of a list: it needs 1 to 64 characters without control characters")]
    ListName(String),
    /// The record could not take it.
    #[error("{why}")]
    #[diagnostic(help("{}", on_record(*written)))]
    Store {
        /// What the record said.
        why: store::Error,
        /// Rows on record.
        written: u64,
    },
}

impl Error {
    /// Whether the machine or another process stood in the way, rather than what was given.
    pub fn is_failure(&self) -> bool {
        match self {
            Error::Store { .. } => true,
            Error::Read { why, .. } => !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput),
            Error::NoFile(_)
            | Error::Empty(_)
            | Error::FirstRow { .. }
            | Error::NoEmail { .. }
            | Error::NoColumn { .. }
            | Error::NoPart(_)
            | Error::Twice(_)
            | Error::ListName(_) => false,
        }
    }

    fn unmapped(path: PathBuf, why: Unmapped) -> Error {
        match why {
            Unmapped::NoEmail(columns) => Error::NoEmail { path, columns },
            Unmapped::NoColumn(column, columns) => Error::NoColumn { path, column, columns },
            Unmapped::NoPart(part) => Error::NoPart(part),
            Unmapped::Twice(columns) => Error::Twice(columns),
        }
    }
}

/// How far an import came that the record ended.
fn on_record(written: u64) -> String {
    match written {
        0 => "nothing of this file is on record yet".to_owned(),
        rows => format!(
            "{rows} rows of this file are on record, each of them whole; the same import again goes over them, and nobody is taken in twice"
        ),
    }
}

/// At most twelve names, each in quotes.
fn quoted(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
    let more = names.len() - shown.len();
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_cut_short_says_once_how_far_it_came() {
        let told = |written| {
            let error = Error::Store { why: store::Error::Full("audience.db".into()), written };
            format!("{error}. {}", error.help().expect("there is a remedy"))
        };
        assert!(told(0).contains("nothing of this file") && !told(7).contains("nothing"), "{}", told(7));
        assert!(told(7).contains("7 rows of this file"), "{}", told(7));
    }
}
