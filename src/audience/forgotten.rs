//! Those who asked to be forgotten: known only by a hash, so that no import brings them back.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::Seal;
use crate::store::{self, Erasures, Store};

/// Who was erased, as far as an address can still be recognised.
#[derive(Debug, Clone, Default)]
pub struct Forgotten {
    seal: Option<Arc<Seal>>,
    traces: Arc<BTreeSet<Vec<u8>>>,
}

impl Forgotten {
    /// Reads the record as it is now; a missing `seal` matters only where somebody was erased.
    pub fn load<E: From<store::Error>>(store: &Store, seal: impl FnOnce() -> Result<Seal, E>) -> Result<Forgotten, E> {
        let traces: Arc<BTreeSet<Vec<u8>>> = Arc::new(store.erased()?.into_iter().collect());
        let seal = match seal() {
            Ok(seal) => Some(Arc::new(seal)),
            Err(_) if traces.is_empty() => None,
            Err(why) => return Err(why),
        };
        Ok(Forgotten { seal, traces })
    }

    /// Whether this address was erased.
    pub fn holds(&self, address: &str) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.traces(address).any(|trace| self.traces.contains(trace.as_slice())))
    }

    /// How whoever is erased from then on is recognised.
    pub(super) fn later(&self) -> Option<Erasures> {
        let seal = self.seal.clone()?;
        let traces = move |address: &str| seal.traces(address).map(|trace| trace.to_vec()).collect();
        Some(Erasures { known: self.traces.clone(), traces: Arc::new(traces) })
    }
}
