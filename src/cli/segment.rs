//! `segment`: what can be said of the audience, and whom a segment chooses.

use clap::{Args, Subcommand};
use miette::{Diagnostic, LabeledSpan, SourceCode};
use serde::Serialize;

use crate::audience::{LANGUAGE, UnusableSegment, check_segment};
use crate::base::{ListId, shell_word};
use crate::cli::{Desk, Error, Exit};
use crate::store::{FieldRow, Meant, Member, Store, Threads};

/// Contacts whose fields are counted.
const LOOKED_AT: usize = 10_000;
/// Members that are shown.
const SHOWN: usize = 10;

/// What is asked.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    deed: Option<Deed>,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Show how many a segment chooses, and the first of them. Nothing is written.
    Test {
        /// The segment, as in "country = 'DE' and not opened('welcome')".
        expression: String,
        /// Only members of this list; several may be named. Default: of all lists.
        #[arg(long, value_name = "LIST")]
        list: Vec<String>,
    },
}

/// What segments can ask about, as `--json` prints it.
#[derive(Serialize)]
struct Words {
    language: &'static str,
    /// The fields of the newest contacts, the most frequent first.
    fields: Vec<FieldRow>,
}

/// Whom a segment chooses, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Choice {
    segment: String,
    lists: Vec<String>,
    /// Subscribed members of the lists, each once.
    members: u64,
    /// Those of them in the segment.
    chosen: u64,
    /// Those in the segment who would get a copy now: neither suppressed nor resting.
    recipients: u64,
    /// The addresses of the first of them.
    sample: Vec<String>,
}

/// An expression that cannot be used, shown with the place.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Unusable {
    expression: String,
    why: UnusableSegment,
}

impl Diagnostic for Unusable {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.expression)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let UnusableSegment::Wrong(why) = &self.why else { return None };
        Some(Box::new(std::iter::once(LabeledSpan::underline(why.place.clone()))))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new("`mailshot segment` shows all that can be said, and the fields there are"))
    }
}

/// Runs the command.
pub fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    match arguments.deed {
        None => explain(desk, &store),
        Some(Deed::Test { expression, list }) => test(desk, &store, expression, list),
    }
}

fn explain(desk: &Desk, store: &Store) -> Result<Exit, Error> {
    let fields = store.fields(LOOKED_AT)?;
    LANGUAGE.lines().for_each(|line| desk.say(line));
    if fields.is_empty() {
        desk.say("\nNo contact has a field beside email and name yet.");
    } else {
        desk.say(format!("\nFields of the newest contacts, at most {LOOKED_AT} of them:"));
        for FieldRow { field, contacts, sample } in &fields {
            desk.say(format!("  {contacts:>8}  {field:<24}  {sample}"));
        }
    }
    desk.next("mailshot segment test \"EXPRESSION\", then segment = \"EXPRESSION\" in campaign.toml");
    desk.give(&Words { language: LANGUAGE, fields });
    Ok(Exit::Done)
}

fn test(desk: &Desk, store: &Store, expression: String, lists: Vec<String>) -> Result<Exit, Error> {
    let condition = match check_segment(store, &expression) {
        Ok(condition) => condition,
        Err(UnusableSegment::Store(why)) => return Err(why.into()),
        Err(why) => return Err(Error::input(Unusable { expression, why })),
    };
    let lists = named(store, lists)?;
    let meant = Meant { lists: lists.iter().map(|(id, _)| *id).collect(), condition: Some(condition) };
    let names = lists.into_iter().map(|(_, name)| name).collect();
    let mut choice = Choice { segment: expression, lists: names, ..Choice::default() };
    store.survey(&meant, desk.now(), |address, member| {
        choice.members += 1;
        choice.chosen += u64::from(member != Member::Outside);
        if member == Member::Recipient {
            choice.recipients += 1;
            if choice.sample.len() < SHOWN {
                choice.sample.push(address.to_owned());
            }
        }
    })?;
    let Choice { members, chosen, recipients, sample, .. } = &choice;
    desk.say(format!("{chosen} of {members} subscribed members are in the segment; {recipients} would get a copy now"));
    for address in sample {
        desk.say(format!("  {address}"));
    }
    if *recipients > sample.len() as u64 {
        desk.say(format!("  and {} more", recipients - sample.len() as u64));
    }
    desk.next(format!(
        "segment = {} in campaign.toml, then mailshot plan CAMPAIGN",
        toml::Value::from(&*choice.segment)
    ));
    desk.give(&choice);
    Ok(Exit::Done)
}

/// The lists of these names; all there are when none is named.
fn named(store: &Store, names: Vec<String>) -> Result<Vec<(ListId, String)>, Error> {
    let names = match names.is_empty() {
        true => store.lists()?.into_iter().map(|list| list.name).collect(),
        false => names,
    };
    let found = |name: String| match store.list(&name)? {
        Some(id) => Ok((id, name)),
        None => {
            let word = shell_word(&name);
            Err(Error::usage(format!("there is no list `{name}`; `mailshot import FILE.csv --list {word}` makes it")))
        }
    };
    names.into_iter().map(found).collect()
}
