//! Rows that were refused: counted by reason, the first ones kept to be shown.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cell::NoAddress;
use super::columns::Unsaid;
use super::table::{Cells, Flaw};
use crate::base::shell_word;

/// How many refused rows are kept to be shown.
const SHOWN: usize = 10;

/// Why a row was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    Flaw(Flaw),
    Address(NoAddress),
    Unsaid(Unsaid),
    Forgotten,
}

impl Why {
    /// A word for the kind of reason; stable.
    fn word(&self) -> &'static str {
        match self {
            Why::Flaw(Flaw::OpenQuote | Flaw::OpenQuotes) => "open_quote",
            Why::Flaw(Flaw::TextAfterQuote) => "text_after_quote",
            Why::Flaw(Flaw::LongRow | Flaw::LongCell(_) | Flaw::ManyCells) => "too_large",
            Why::Flaw(Flaw::Encoding(_)) => "encoding",
            Why::Flaw(Flaw::Nul(_)) => "nul",
            Why::Address(NoAddress::Empty) => "no_address",
            Why::Address(NoAddress::Several(_)) => "several_addresses",
            Why::Address(NoAddress::Wrong(_)) => "bad_address",
            Why::Address(NoAddress::Quoted(_)) => "quoted_address",
            Why::Address(NoAddress::Literal(_)) => "address_literal",
            Why::Unsaid(Unsaid::Standing(..)) => "unknown_status",
            Why::Unsaid(Unsaid::Keys(_)) => "bad_json",
            Why::Unsaid(Unsaid::Cells(..)) => "extra_cells",
            Why::Forgotten => "erased",
        }
    }

    fn sentence(&self) -> String {
        match self {
            Why::Flaw(flaw) => flaw.to_string(),
            Why::Address(why) => why.to_string(),
            Why::Unsaid(Unsaid::Standing(column, word)) => format!(
                "`{word}` in `{column}` does not say whether the contact gets mail; if the column is about something else, give --map={}",
                shell_word(&format!("{column}={column}"))
            ),
            Why::Unsaid(Unsaid::Keys(column)) => format!("`{column}` holds no JSON object"),
            Why::Unsaid(Unsaid::Cells(cells, columns)) => {
                format!("the row has {cells} cells for {columns} columns: a cell with the delimiter in it needs quotes")
            }
            Why::Forgotten => "whoever has this address asked to be forgotten".to_owned(),
        }
    }
}

/// Refused rows of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The kind of reason, in a word.
    pub reason: &'static str,
    /// How many rows.
    pub count: u64,
    /// The line of the first one; 0 where it is not known.
    pub first_line: u64,
    /// What was wrong with it.
    pub sample: String,
}

/// A refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedRow {
    /// The line it begins in.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
    /// Its cells, one for each column, where it has any; what is too much stands in the last.
    #[serde(skip)]
    pub cells: Vec<String>,
}

impl RefusedRow {
    pub(super) fn new(line: u64, why: &Why, cells: Option<Cells<'_>>, columns: usize) -> RefusedRow {
        let mut cells: Vec<String> = cells.iter().flat_map(|cells| cells.iter()).map(str::to_owned).collect();
        if let Some(last) = columns.checked_sub(1)
            && cells.len() > columns
        {
            cells[last] = cells[last..].join(",");
        }
        cells.resize(columns, String::new());
        RefusedRow { line, why: why.sentence(), cells }
    }

    /// Bytes it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.why.len() + self.cells.iter().map(|cell| size_of::<String>() + cell.len()).sum::<usize>()
    }
}

/// All rows that were refused: by kind, and the first of them.
#[derive(Debug, Default)]
pub(super) struct Rejects {
    kinds: BTreeMap<&'static str, Refusal>,
    first: Vec<RefusedRow>,
}

impl Rejects {
    /// Counts a row.
    pub(super) fn add(&mut self, why: &Why, row: &RefusedRow) {
        if self.first.len() < SHOWN {
            self.first.push(row.clone());
        }
        let reason = why.word();
        let kind = self.kinds.entry(reason).or_insert_with(|| Refusal {
            reason,
            count: 0,
            first_line: row.line,
            sample: row.why.clone(),
        });
        kind.count += 1;
    }

    /// Counts rows that were read before their address was erased; their lines are not known any more.
    pub(super) fn add_erased(&mut self, rows: u64) {
        let why = Why::Forgotten;
        let none = |reason| Refusal { reason, count: 0, first_line: 0, sample: why.sentence() };
        if rows > 0 {
            self.kinds.entry(why.word()).or_insert_with_key(|reason| none(reason)).count += rows;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.kinds.values().map(|kind| kind.count).sum()
    }

    /// The kinds with the most rows first, and the first rows.
    pub(super) fn into_parts(self) -> (Vec<Refusal>, Vec<RefusedRow>) {
        let mut kinds: Vec<Refusal> = self.kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        (kinds, self.first)
    }
}
