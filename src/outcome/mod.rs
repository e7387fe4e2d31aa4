//! What became of it: outcomes copied to the store, reports, and what comes back.

mod clerk;
mod policy;
mod report;

pub use clerk::Clerk;
pub use policy::Policy;
pub use report::{CampaignReport, Counts, Ink, ReasonReport, SiteReport, html, plain, report};
