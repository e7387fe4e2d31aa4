//! `config`: the reference of all settings.

use crate::cli::{Desk, Error, Exit};
use crate::config::{Settings, commented_example};

/// Prints every setting with its meaning and default: as a commented `mailshot.toml`, or as JSON.
pub fn run(desk: &Desk) -> Result<Exit, Error> {
    desk.say_lines(commented_example().trim_end());
    desk.give(&Settings::default());
    Ok(Exit::Done)
}
