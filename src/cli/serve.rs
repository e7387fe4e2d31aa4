//! `serve`: sends whatever is under way, until it is stopped.

use crate::cli::interrupt::Interrupt;
use crate::cli::owner::Owner;
use crate::cli::{Desk, Error, Exit};
use crate::store::Threads;

/// Runs until a signal, or until the queue or the record fails.
pub async fn run(desk: &Desk) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    let mut interrupt = Interrupt::listen()?;
    let here = Owner::become_owner(desk, &store).await?;
    let under_way: Vec<String> = store.open_launches()?.iter().map(|launch| launch.campaign.to_string()).collect();
    match under_way.as_slice() {
        [] => desk.note("sending; no campaign is under way: `mailshot send CAMPAIGN --yes` begins one"),
        some => desk.note(format!("sending; under way: {}", some.join(", "))),
    }
    let handle = here.handle();
    let failed = tokio::select! {
        biased;
        () = interrupt.heard() => None,
        error = handle.failed() => Some(error),
    };
    desk.note("finishing what is on the wire; once more stops at once");
    interrupt.or_at_once(desk, here.stop()).await;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Done),
    }
}
