//! From the queue to the mail hosts: routes, sites, limits, connections, and the judgement on every attempt.

pub mod pace;
pub mod route;
pub mod via;
pub mod window;
