//! From the queue to the mail hosts: routes, sites, limits, connections, and the judgement on every attempt.
