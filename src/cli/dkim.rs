//! `dkim new`, `dkim records`, `dkim check`: the keys that sign, and the records that prove them.

use clap::Subcommand;
use serde::Serialize;

use crate::base::Domain;
use crate::cli::{Desk, Error, Exit};
use crate::sign::{self, Algorithm, Finding, Record, create_key};

/// Most selectors `s1`, `s2`, … that are tried for a free one.
const SELECTORS_MAX: u32 = 1000;

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub enum Deed {
    /// Make a key, and print the record to publish.
    ///
    /// RSA of 2048 bits unless told otherwise. The first key of its kind signs at once. A further one waits, so that its
    /// record can be published first: rename its file to put it to use.
    New {
        /// The domain of the From addresses it signs for, and of all below it.
        domain: String,
        /// The name of the key within the domain; never one that was used before. Default: the next of s1, s2, s3 …
        #[arg(long)]
        selector: Option<String>,
        /// Make an Ed25519 key: a second signature beside RSA, which few receivers check yet.
        #[arg(long)]
        ed25519: bool,
    },
    /// Print the records of all keys, as lines of a zone file.
    Records,
    /// Ask the name service whether the records are published and fit the keys.
    Check,
}

/// What the name service says about a key, as `--json` prints it.
#[derive(Serialize)]
struct Checked {
    name: String,
    /// Whether the key signs; one that waits may still be unpublished.
    signs: bool,
    finding: Finding,
}

/// Does it.
pub async fn run(desk: &Desk, deed: Deed) -> Result<Exit, Error> {
    match deed {
        Deed::New { domain, selector, ed25519 } => {
            let algorithm = if ed25519 { Algorithm::Ed25519 } else { Algorithm::Rsa };
            new(desk, &domain, selector.as_deref(), algorithm)
        }
        Deed::Records => records(desk),
        Deed::Check => check(desk).await,
    }
}

fn new(desk: &Desk, domain: &str, selector: Option<&str>, algorithm: Algorithm) -> Result<Exit, Error> {
    let domain = Domain::parse(domain).map_err(|why| Error::usage(why.to_string()))?;
    if !domain.as_str().contains('.') {
        return Err(Error::usage(format!("`{domain}` is no domain that mail can be from: write it as example.com")));
    }
    let keys = desk.workspace().keys_folder();
    let record = match selector {
        Some(selector) => create_key(&keys, &domain, selector, algorithm)?,
        None => {
            let mut names = (1..=SELECTORS_MAX).map(|number| format!("s{number}"));
            names
                .find_map(|name| match create_key(&keys, &domain, &name, algorithm) {
                    Err(sign::Error::Exists { .. }) => None,
                    made => Some(made),
                })
                .unwrap_or_else(|| {
                    Err(sign::Error::Selector(format!("s1 to s{SELECTORS_MAX} are all taken; --selector")))
                })?
        }
    };
    desk.say(format!("{record}\n"));
    desk.say(match record.waits {
        false => "It signs from now on: publish the record first, then send.".to_owned(),
        true => format!(
            "It waits below {}: when the record has been published for a day, take `.waiting` off its name, and put it on \
             the old one's.",
            keys.join(domain.as_str()).display()
        ),
    });
    desk.next("mailshot dkim check");
    desk.give(&record);
    Ok(Exit::Done)
}

fn records(desk: &Desk) -> Result<Exit, Error> {
    let records = desk.workspace().keyring()?.records();
    for record in &records {
        desk.say(record.to_string());
    }
    if records.is_empty() {
        desk.say("there are no keys");
        desk.next("mailshot dkim new DOMAIN");
    }
    desk.give(&records);
    Ok(Exit::Done)
}

async fn check(desk: &Desk) -> Result<Exit, Error> {
    let records = desk.workspace().keyring()?.records();
    if records.is_empty() {
        return Err(Error::refused("there are no keys: make one with `mailshot dkim new DOMAIN`"));
    }
    let world = desk.world()?;
    let mut checked = Vec::with_capacity(records.len());
    for record in &records {
        let finding = sign::check(&*world.dns, record).await;
        desk.say(in_words(record, &finding));
        if matches!(finding, Finding::Absent | Finding::Different(_)) {
            desk.say(format!("      {record}"));
        }
        checked.push(Checked { name: record.name.clone(), signs: !record.waits, finding });
    }
    desk.give(&checked);
    let is_bad = checked.iter().any(|key| key.signs && key.finding != Finding::Published);
    Ok(if is_bad { Exit::Refused } else { Exit::Done })
}

fn in_words(record: &Record, finding: &Finding) -> String {
    let name = &record.name;
    match (finding, record.waits) {
        (Finding::Published, false) => format!("ok    {name}: published, and the key is ours"),
        (Finding::Published, true) => format!("ok    {name}: published; the key waits to be put to use"),
        (Finding::Absent, true) => {
            format!("note  {name}: not published yet; its key does not sign. Publish")
        }
        (Finding::Absent, false) => format!("fail  {name}: not published. Publish"),
        (Finding::Different(text), _) => {
            format!("fail  {name}: another key is published ({text}). Publish instead")
        }
        (Finding::Unknown(why), _) => format!("fail  {name}: the name service does not say ({why}); try again"),
    }
}
