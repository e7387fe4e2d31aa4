//! A table that may be exchanged while others read it.

use std::sync::{Arc, PoisonError, RwLock};

/// What holds now. Readers take it as it is and keep that for as long as they need it.
#[derive(Debug)]
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl<T> Live<T> {
    /// Holds `value` until another is set.
    pub fn new(value: T) -> Live<T> {
        Live(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// What holds now.
    pub fn now(&self) -> Arc<T> {
        // The one change is an assignment, so a panic elsewhere leaves it whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets another value hold from now on, for every clone.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_the_new_value_and_readers_keep_theirs() {
        let live = Live::new(1);
        let (clone, reader) = (live.clone(), live.now());
        live.set(2);
        assert_eq!((*reader, *clone.now()), (1, 2));
    }
}
