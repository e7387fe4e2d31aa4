//! Whether a queue and a store belong together. Either may have been restored from a backup, copied or deleted: then
//! nothing may be sent before a person decides, because the other one knows better.
//!
//! Both may have been set back together. Then their numbers agree, and only the queue's file tells: whoever lays it back makes
//! a new one. What tells nothing is an old content written into the same file, as by `cp` over it, and a file system or a
//! virtual machine set back as a whole.

use crate::queue::Marks;
use crate::store::{QueuePlace, StoreMarks};

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
    /// The folder is the same, and its file is another one.
    #[error("the queue was restored from a copy: what is waiting in it may have been sent since")]
    Restored,
}

/// Whether nothing was ever done with a queue.
pub(super) fn is_new(queue: Marks) -> bool {
    queue == Marks { epoch: 0, cleared: 0, last: 0 }
}

/// Compares the marks. `place` is where the queue lies now; `is_busy` whether the store has launches that are neither done
/// nor cancelled.
pub(super) fn agree(queue: Marks, store: StoreMarks, place: QueuePlace, is_busy: bool) -> Result<(), Disagreement> {
    let is_new = is_new(queue);
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
    // what is not known now, or was not written down then, tells nothing
    let differ = |now: u64, then: u64| now != 0 && then != 0 && now != then;
    if differ(place.folder, store.place.folder) {
        return Err(Disagreement::Copied);
    }
    // whoever lays all of state/ back puts another file in the place of the one that was written last
    if differ(place.file, store.place.file) || differ(place.made, store.place.made) {
        return Err(Disagreement::Restored);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_being_set_back_is_noticed() {
        let queue = Marks { epoch: 7, cleared: 40, last: 42 };
        let lies = |folder| QueuePlace { folder, file: 30, made: 900 };
        let store = StoreMarks { epoch: 7, next_epoch: 7, place: lies(5), last_outcome: 41 };
        // as it was written down before files were looked at
        let folder_only = StoreMarks { place: QueuePlace { folder: 5, ..QueuePlace::default() }, ..store };
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
            (queue, folder_only, 5, true, Ok(())),
            (queue, folder_only, 6, true, Err(Disagreement::Copied)),
        ] {
            let place = if place == 0 { QueuePlace::default() } else { lies(place) };
            assert_eq!(agree(queue, store, place, is_busy), expected, "{queue:?} {store:?} {place:?} {is_busy}");
        }
        for (place, expected) in [
            (QueuePlace { made: 0, ..lies(5) }, Ok(())),
            (QueuePlace { made: 950, ..lies(5) }, Err(Disagreement::Restored)),
            (QueuePlace { file: 31, ..lies(5) }, Err(Disagreement::Restored)),
        ] {
            assert_eq!(agree(queue, store, place, true), expected, "{place:?}");
        }
    }
}
