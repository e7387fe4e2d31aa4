//! What was sent, at hand for the pages: the links and the text of each launch, compiled once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::LaunchId;
use crate::compose::{Edition, Targets, Template};
use crate::store::{self, Store};

/// Launches kept at hand; past it the memory starts anew.
const LAUNCHES_MAX: usize = 64;

/// The content of one launch.
pub(super) struct Content {
    /// As it was frozen.
    pub edition: Edition,
    /// Where its links lead.
    pub targets: Targets,
    /// What prints it.
    pub template: Template,
}

/// The contents that were asked for lately. Cheap to clone.
#[derive(Clone, Default)]
pub struct Editions {
    known: Arc<Mutex<BTreeMap<LaunchId, Arc<Content>>>>,
}

impl Editions {
    /// The content of a launch; `None` when there is no such launch, or when it cannot be read.
    pub(super) fn of(&self, store: &Store, launch: LaunchId) -> Result<Option<Arc<Content>>, store::Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&launch).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let Some(row) = store.launch(launch)? else { return Ok(None) };
        let Some(frozen) = store.edition(row.edition)? else { return Ok(None) };
        let content = match compile(&frozen.frozen) {
            Ok(content) => Arc::new(content),
            Err(why) => {
                tracing::error!(%launch, %why, "the content of a launch cannot be read");
                return Ok(None);
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= LAUNCHES_MAX {
            known.clear();
        }
        known.insert(launch, content.clone());
        Ok(Some(content))
    }
}

fn compile(frozen: &[u8]) -> Result<Content, crate::compose::Error> {
    let edition = Edition::from_bytes(frozen)?;
    let (targets, template) = (Targets::compile(&edition)?, Template::compile(&edition)?);
    Ok(Content { edition, targets, template })
}
