//! A CSV file that was looked at: its encoding, layout and columns are known, and its rows can be read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::Error;
use super::columns::{Columns, Mapping, Shown};
use super::encoding::Script;
use super::layout::{Layout, Unreadable};
use super::table::Table;

/// What a person says about a file.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Its encoding; found when not given.
    pub encoding: Option<Script>,
    /// What divides its cells; found when not given.
    pub delimiter: Option<u8>,
    /// What its columns are, where that is not what would be found.
    pub mappings: Vec<Mapping>,
}

/// A file that was looked at.
pub struct Source {
    pub(super) path: PathBuf,
    script: Script,
    layout: Layout,
    pub(super) columns: Columns,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Bytes of it that are read.
    pub(super) read: Arc<AtomicU64>,
}

/// What was found out about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The file.
    pub file: String,
    /// Its encoding.
    pub encoding: &'static str,
    /// What divides its cells, in a word.
    pub delimiter: &'static str,
    /// Whether its first row names the columns.
    pub header: bool,
    /// Its columns and what becomes of them.
    pub columns: Vec<Shown>,
}

impl Source {
    /// Looks at a file: at all of it for the encoding, at its beginning for the rest.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Source, Error> {
        let failed = |why| Error::Read { path: path.to_owned(), why };
        let facts = std::fs::metadata(path).map_err(failed)?;
        if !facts.is_file() {
            return Err(Error::NoFile(path.to_owned()));
        }
        let mut file = File::open(path).map_err(failed)?;
        let script = match options.encoding {
            Some(script) => script.with_mark_of(&mut file),
            None => Script::find(&mut file),
        };
        let script = script.map_err(failed)?;
        let read = Arc::<AtomicU64>::default();
        let text = script.read(file, read.clone()).map_err(failed)?;
        let layout = Layout::find(text, options.delimiter).map_err(|why| match why {
            Unreadable::Empty => Error::Empty(path.to_owned()),
            Unreadable::FirstRow(line, flaw) => Error::FirstRow { path: path.to_owned(), line, flaw },
            Unreadable::Io(why) => failed(why),
        })?;
        let columns = Columns::find(&layout, &options.mappings).map_err(|why| Error::unmapped(path.to_owned(), why))?;
        Ok(Source { path: path.to_owned(), script, layout, columns, size: facts.len(), read })
    }

    /// What was found out.
    pub fn found(&self) -> Found {
        Found {
            file: self.path.display().to_string(),
            encoding: self.script.name(),
            delimiter: self.layout.delimiter_name(),
            header: self.layout.header.is_some(),
            columns: self.columns.shown(),
        }
    }

    /// The rows below the header.
    pub(super) fn rows(&self) -> io::Result<Table> {
        let (path, script, read) = (self.path.clone(), self.script, self.read.clone());
        self.layout.rows(Box::new(move || {
            let text = script.read(File::open(&path)?, read.clone())?;
            Ok(Box::new(text) as Box<dyn Read + Send>)
        }))
    }
}
