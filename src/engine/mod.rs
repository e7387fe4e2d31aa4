//! Where tasks meet channels: starting, handling and stopping the whole.

mod workspace;

pub use workspace::{Created, Error as WorkspaceError, Hold, SAMPLE_CAMPAIGN, Workspace};
