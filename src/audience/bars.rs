//! Addresses to be suppressed, from a CSV file: one column of addresses, perhaps one of reasons.

use super::Error;
use super::cell::{self, Allowed, Standing};
use super::reject::{Refusal, RefusedRow, Rejects, Why};
use super::source::Source;
use super::table::{Cells, Table};
use crate::store::{Reason, SuppressionRow};

/// Headers of a column of reasons, as [`cell::key`] has them.
const REASONS: &[&str] = &["reason", "status", "type", "suppressionreason", "grund", "motif"];

/// The rows of a file of suppressed addresses.
pub struct BarRows<'a> {
    source: &'a Source,
    rows: Table,
    reason: Option<usize>,
    rejects: Rejects,
}

/// Opens a file of suppressed addresses.
pub fn suppression_rows(source: &Source) -> Result<BarRows<'_>, Error> {
    let rows = source.rows().map_err(|why| Error::Read { path: source.path.clone(), why })?;
    let reason = source.columns.names().position(|name| REASONS.contains(&cell::key(name).as_str()));
    Ok(BarRows { source, rows, reason, rejects: Rejects::default() })
}

impl BarRows<'_> {
    /// At most `most` further rows, made of an address and of the reason where the file gives one; none at the end.
    pub fn page(
        &mut self,
        most: usize,
        make: impl Fn(String, Option<Reason>) -> SuppressionRow,
    ) -> Result<Vec<SuppressionRow>, Error> {
        let failed = |why| Error::Read { path: self.source.path.clone(), why };
        let mut page = Vec::new();
        while page.len() < most {
            let Some(row) = self.rows.next().map_err(failed)? else { break };
            let refused = match row.cells {
                Ok(cells) if cells.is_blank() => continue,
                Err(flaw) => Why::Flaw(flaw),
                Ok(cells) => match address(self.source, &cells) {
                    Ok(address) => {
                        page.push(make(address, self.reason.and_then(|column| reason(cells.get(column)))));
                        continue;
                    }
                    Err(why) => why,
                },
            };
            self.rejects.add(&refused, &RefusedRow::new(row.line, &refused, None, 0));
        }
        Ok(page)
    }

    /// Rows that were refused: by kind, and the first ones.
    pub fn refused(self) -> (Vec<Refusal>, Vec<RefusedRow>) {
        self.rejects.into_parts()
    }
}

/// Whatever is an address may be barred.
fn address(source: &Source, cells: &Cells<'_>) -> Result<String, Why> {
    let allowed = Allowed { quoted: true, literal: true };
    cell::address(source.columns.address(cells), allowed).map(|(address, _)| address.to_string()).map_err(Why::Address)
}

/// A reason by our own word for it, or by that of another service.
fn reason(cell: &str) -> Option<Reason> {
    let own = Reason::ALL.iter().copied().find(|reason| reason.word() == cell.trim());
    let own = own.filter(|reason| *reason != Reason::Paused);
    own.or_else(|| match cell::Sign::Word.read(cell)? {
        Standing::Barred(reason) => Some(reason),
        Standing::Unsubscribed => Some(Reason::Unsubscribe),
        Standing::Subscribed | Standing::Pending => None,
    })
}
