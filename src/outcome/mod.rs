//! What became of it: outcomes copied to the store, reports, and what comes back.

mod arrival;
mod bounce;
mod clerk;
mod complaint;
mod effect;
mod fetch;
mod imap;
mod intake;
mod letter;
mod listener;
mod mailbox;
mod oauth;
mod phrases;
mod policy;
mod pop3;
mod prose;
mod refusal;
mod replies;
mod report;
mod retention;

pub use arrival::{Action, Arrival, Kind, Returned, Trace, read};
pub use clerk::Clerk;
pub use effect::Effect;
pub use fetch::{Fetcher, MailboxError, Round};
pub use intake::{Intake, ReturnDesk, Taken};
pub use listener::{Listener, ListenerError};
pub use mailbox::{Mail, mails};
pub use policy::Policy;
pub use report::{
    CampaignReport, Counts, Ink, LinkReport, ReadersReport, ReasonReport, Seen, SiteReport, html, plain, report,
    whole_report,
};
pub use retention::Retention;
