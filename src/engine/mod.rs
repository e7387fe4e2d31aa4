//! Where tasks meet channels: starting, handling and stopping the whole.
