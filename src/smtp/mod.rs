//! The protocol, both sides. Knows nothing of campaigns or queues.

pub mod classify;
