//! What is on the road: due times, leases, intents and the outbox, on disk in sled.
