//! Those who asked to be forgotten: known only by a hash, so that no import brings them back.

use std::collections::BTreeSet;

use crate::base::Seal;
use crate::store::{self, Store};

/// Who was erased, as far as an address can still be recognised.
#[derive(Debug, Clone, Default)]
pub struct Forgotten {
    seal: Option<Seal>,
    traces: BTreeSet<Vec<u8>>,
}

impl Forgotten {
    /// Reads the record; `seal` is asked for only when somebody was erased.
    pub fn load<E: From<store::Error>>(store: &Store, seal: impl FnOnce() -> Result<Seal, E>) -> Result<Forgotten, E> {
        let traces: BTreeSet<Vec<u8>> = store.erased()?.into_iter().collect();
        let seal = (!traces.is_empty()).then(seal).transpose()?;
        Ok(Forgotten { seal, traces })
    }

    /// Whether this address was erased.
    pub fn holds(&self, address: &str) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.traces(address).any(|trace| self.traces.contains(trace.as_slice())))
    }
}
