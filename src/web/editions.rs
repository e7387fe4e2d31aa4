//! What was sent, at hand for the pages: the links and the text of each launch, compiled once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::LaunchId;
use crate::compose::{self, Edition, Targets, Template};
use crate::store::{self, Store};

/// Launches kept at hand; past it the memory starts anew.
const LAUNCHES_MAX: usize = 64;

/// The content of one launch.
pub(super) struct Content {
    /// As it was frozen.
    pub edition: Edition,
    /// Where its links lead.
    pub targets: Targets,
    /// What prints it; `None` when an earlier version froze what this one does not print. Its links lead on all the same.
    pub template: Option<Template>,
}

/// The contents that were asked for lately, and those that cannot be read. Cheap to clone.
#[derive(Clone, Default)]
pub struct Editions {
    known: Arc<Mutex<BTreeMap<LaunchId, Option<Arc<Content>>>>>,
}

impl Editions {
    /// The content of a launch; `None` when there is no such launch, or when it cannot be read.
    pub(super) fn of(&self, store: &Store, launch: LaunchId) -> Result<Option<Arc<Content>>, store::Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&launch).cloned();
        if let Some(content) = known {
            return Ok(content);
        }
        let Some(row) = store.launch(launch)? else { return Ok(None) };
        let Some(frozen) = store.edition(row.edition)? else { return Ok(None) };
        let content = match read(&frozen.frozen, launch) {
            Ok(content) => Some(Arc::new(content)),
            Err(why) => {
                tracing::error!(%launch, %why, "the content of a launch cannot be read");
                None
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= LAUNCHES_MAX {
            known.clear();
        }
        known.insert(launch, content.clone());
        Ok(content)
    }
}

fn read(frozen: &[u8], launch: LaunchId) -> Result<Content, compose::Error> {
    let edition = Edition::from_bytes(frozen)?;
    let targets = Targets::compile(&edition)?;
    let template = Template::compile(&edition);
    if let Err(why) = &template {
        tracing::warn!(%launch, %why, "the letters of a launch cannot be shown in a browser; their links lead on");
    }
    Ok(Content { edition, targets, template: template.ok() })
}
