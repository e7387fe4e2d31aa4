//! The names of sources. What was learned of a site and the source that a copy keeps stand under a number; it is the name's
//! for good, whatever else is written into the settings or taken out of them.

use std::collections::BTreeMap;

use crate::base::SourceId;
use crate::queue::keeper::Keeper;
use crate::queue::ledger::{Move, walk};
use crate::queue::{Error, keys};

/// The last number of a source; should there ever be more names than that, the others share it.
const LAST: u16 = u16::MAX - 1;

impl Keeper {
    /// The numbers of these names, on record; new names get those behind the last that was given.
    pub(super) async fn number_sources(&mut self, names: &[String]) -> Result<Vec<SourceId>, Error> {
        let mut known = self.source_numbers()?;
        let mut next = known.values().max().map_or(0, |last| last.saturating_add(1).min(LAST));
        for name in names {
            if known.contains_key(name) {
                continue;
            }
            known.insert(name.clone(), next);
            self.batch.moves.push(Move::Put(keys::source(name), next.to_be_bytes().to_vec()));
            next = next.saturating_add(1).min(LAST);
        }
        self.commit().await;
        self.guard()?;
        Ok(names.iter().map(|name| SourceId(known[name])).collect())
    }

    fn source_numbers(&self) -> Result<BTreeMap<String, u16>, Error> {
        let mut known = BTreeMap::new();
        walk(&*self.ledger, keys::SOURCE, |key, value| known.extend(keys::parse_source(key, value)))?;
        Ok(known)
    }
}
