//! What became of it: outcomes copied to the store, reports, and what comes back.

mod arrival;
mod bounce;
mod clerk;
mod complaint;
mod effect;
mod letter;
mod mailbox;
mod phrases;
mod policy;
mod report;
mod prose;
mod replies;

pub use arrival::{Action, Arrival, Kind, Returned, Trace, read};
pub use clerk::Clerk;
pub use effect::Effect;
pub use mailbox::{Mail, mails};
pub use policy::Policy;
pub use report::{CampaignReport, Counts, Ink, ReasonReport, SiteReport, html, plain, report};
