//! `queue trace`: the SMTP dialogues with a site, as they go on.

use crate::cli::interrupt::Interrupt;
use crate::cli::{Desk, Error, Exit};
use crate::delivery::taps::Heard;
use crate::delivery::via::Via;
use crate::engine::{Client, WorkspaceError};
use crate::smtp::Speaker;

/// Shows them until a signal, or until whoever sends has ended.
pub async fn run(desk: &Desk, site: &str) -> Result<Exit, Error> {
    // a relay may be named shorter than it is written
    let site = Via::parse(site).map_or_else(|_| site.to_owned(), |via| via.to_string());
    match desk.workspace().hold() {
        Ok(_) | Err(WorkspaceError::Held { sending: false, .. }) => {
            return Err(Error::usage(
                "nobody is sending: a dialogue is heard while `mailshot serve` or `mailshot send` is at work",
            ));
        }
        Err(WorkspaceError::Held { sending: true, .. }) => {}
        Err(other) => return Err(other.into()),
    }
    let mut interrupt = Interrupt::listen()?;
    desk.note(format!("listening to {site}; Ctrl-C ends it"));
    let client = Client::new(desk.workspace().control_socket());
    tokio::select! {
        biased;
        () = interrupt.heard() => {}
        ended = client.trace(&site, |heard| show(desk, &heard)) => {
            ended?;
            desk.note("whoever sent has ended");
        }
    }
    Ok(Exit::Done)
}

fn show(desk: &Desk, heard: &Heard) {
    let Heard { at, source, connection, host, who, line } = heard;
    desk.give_one(heard);
    let time = at.get(11..23).unwrap_or(at);
    let mark = match who {
        Speaker::Us => '>',
        Speaker::Host => '<',
        Speaker::Nobody => ' ',
    };
    desk.say(format!("{time} {source}#{connection} {host} {mark} {line}"));
}
