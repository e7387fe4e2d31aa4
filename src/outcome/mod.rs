//! What became of it: outcomes copied to the store, reports, and what comes back.

mod arrival;
mod bounce;
mod clerk;
mod complaint;
mod letter;
mod phrases;
mod policy;
mod report;
mod prose;
mod replies;

pub use arrival::{Action, Arrival, Kind, Returned, Trace, read};
pub use clerk::Clerk;
pub use policy::Policy;
pub use report::{CampaignReport, Counts, Ink, ReasonReport, SiteReport, html, plain, report};
