//! From the queue to the mail hosts: routes, sites, limits, connections, and the judgement on every attempt.

pub mod alert;
mod carrier;
pub mod courier;
pub mod dial;
pub mod doctor;
mod entry;
pub mod forecast;
pub mod knock;
mod launches;
pub mod limits;
pub mod look;
pub mod notices;
pub mod pace;
pub mod press;
pub mod relays;
pub mod route;
pub mod sites;
pub mod source;
pub mod spf;
mod steward;
pub mod stops;
pub mod sts;
pub mod tls_policy;
pub mod trouble;
pub mod via;
pub mod warmup;
pub mod window;
