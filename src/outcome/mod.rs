//! What became of it: outcomes copied to the store, reports, and what comes back.

mod clerk;
mod policy;

pub use clerk::Clerk;
pub use policy::Policy;
