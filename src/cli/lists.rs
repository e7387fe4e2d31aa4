//! `lists`: who could be mailed.

use serde::Serialize;

use crate::cli::{Desk, Error, Exit};
use crate::store::ListRow;

/// The lists, as `--json` prints them.
#[derive(Serialize)]
struct Answer {
    lists: Vec<ListRow>,
}

/// Shows the lists with their members counted.
pub fn run(desk: &Desk) -> Result<Exit, Error> {
    let lists = desk.store()?.lists()?;
    if lists.is_empty() {
        desk.say("there is no list yet");
        desk.next("mailshot import FILE.csv --list NAME");
    } else {
        let width = lists.iter().map(|list| list.name.chars().count()).max().unwrap_or_default().max(4);
        desk.say(format!("{:width$}  {:>10}  {:>12}  {:>11}", "list", "subscribed", "unsubscribed", "unconfirmed"));
        for list in &lists {
            desk.say(format!(
                "{:width$}  {:>10}  {:>12}  {:>11}",
                list.name, list.subscribed, list.unsubscribed, list.pending
            ));
        }
        desk.next("mailshot plan CAMPAIGN");
    }
    desk.give(&Answer { lists });
    Ok(Exit::Done)
}
