//! Values without I/O: nothing here can wait or know the time.

mod address;
mod bucket;
mod id;
mod letters;
mod live;
mod network;
mod seal;
mod shell;
mod time;

pub use address::{Address, AddressError, Domain};
pub use bucket::{BUCKETS, bucket};
pub use id::{CampaignName, ContactId, EditionId, EnvelopeId, LaunchId, ListId, SourceId};
pub use letters::{is_unseen, turns_text};
pub use live::Live;
pub use network::Network;
pub use seal::{Purpose, Seal, SealError, SealKey, Token};
pub use shell::{shell_argument, shell_word};
pub use time::{Rate, Span, TimeError, Timestamp};
