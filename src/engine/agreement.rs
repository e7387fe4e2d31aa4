//! Whether a queue and a store belong together. Either may have been restored from a backup, copied or deleted: then
//! nothing may be sent before a person decides, because the other one knows better.

use crate::queue::Marks;
use crate::store::StoreMarks;

/// What is wrong between a queue and a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Launches are under way, and the queue is new.
    #[error("campaigns are under way, but their queue is gone")]
    NoQueue,
    /// They were not opened together last time.
    #[error("the queue and the record were not last used together: one of them was restored or copied")]
    Strangers,
    /// The queue has forgotten outcomes that the record does not have.
    #[error("the record is older than the queue: it was restored from a backup")]
    OldRecord,
    /// The record has outcomes that the queue does not know of.
    #[error("the queue is older than the record: it was restored from a copy")]
    OldQueue,
    /// The folder is a copy of another one, which may be at work.
    #[error("this folder is a copy of another workspace, which may have sent what is waiting here")]
    Copied,
}

/// Compares the marks. `place` is where the queue lies now, 0 where that means nothing; `is_busy` whether the store has
/// launches that are neither done nor cancelled.
pub(super) fn agree(queue: Marks, store: StoreMarks, place: u64, is_busy: bool) -> Result<(), Disagreement> {
    let is_new = queue == Marks { epoch: 0, cleared: 0, last: 0 };
    if is_new && (!is_busy || store.epoch == 0) {
        return Ok(());
    }
    if is_new {
        return Err(Disagreement::NoQueue);
    }
    if queue.epoch != store.epoch && queue.epoch != store.next_epoch {
        return Err(Disagreement::Strangers);
    }
    if store.last_outcome < queue.cleared {
        return Err(Disagreement::OldRecord);
    }
    if queue.last < store.last_outcome {
        return Err(Disagreement::OldQueue);
    }
    if place != 0 && store.place != 0 && place != store.place {
        return Err(Disagreement::Copied);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_being_set_back_is_noticed() {
        let queue = Marks { epoch: 7, cleared: 40, last: 42 };
        let store = StoreMarks { epoch: 7, next_epoch: 7, place: 5, last_outcome: 41 };
        let new = Marks { epoch: 0, cleared: 0, last: 0 };
        let nothing = StoreMarks::default();
        for (queue, store, place, is_busy, expected) in [
            (queue, store, 5, true, Ok(())),
            (queue, store, 0, true, Ok(())),
            (new, nothing, 5, true, Ok(())),
            // the first opening ended between announcement and queue, or between queue and record
            (new, StoreMarks { next_epoch: 1, ..nothing }, 5, true, Ok(())),
            (queue, StoreMarks { epoch: 6, ..store }, 5, true, Ok(())),
            (Marks { epoch: 6, ..queue }, StoreMarks { epoch: 6, ..store }, 5, true, Ok(())),
            (new, store, 5, false, Ok(())),
            (new, store, 5, true, Err(Disagreement::NoQueue)),
            (queue, nothing, 5, false, Err(Disagreement::Strangers)),
            (Marks { epoch: 6, ..queue }, store, 5, true, Err(Disagreement::Strangers)),
            (Marks { epoch: 8, ..queue }, store, 5, true, Err(Disagreement::Strangers)),
            (queue, StoreMarks { last_outcome: 39, ..store }, 5, true, Err(Disagreement::OldRecord)),
            (queue, StoreMarks { last_outcome: 43, ..store }, 5, true, Err(Disagreement::OldQueue)),
            (queue, store, 6, true, Err(Disagreement::Copied)),
        ] {
            assert_eq!(agree(queue, store, place, is_busy), expected, "{queue:?} {store:?} {place} {is_busy}");
        }
    }
}
