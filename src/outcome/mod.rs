//! What became of it: outcomes copied to the store, reports, and what comes back.
