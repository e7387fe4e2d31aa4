//! `campaigns/NAME/campaign.toml`: read, typed, and refused with the place of what is wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{NamedSource, SourceSpan};
use serde::Deserialize;
use toml::Spanned;

use crate::audience::segment;
use crate::base::{Address, CampaignName, Domain, Rate, TimeError, Timestamp, shell_word};
use crate::campaign::Error;
use crate::campaign::files::{Roots, read_text};
use crate::compose::{self, Missing, Part};
use crate::mail::InDoubt;

/// The file's name in the campaign's folder.
pub(super) const FILE: &str = "campaign.toml";

/// Keys that are planned, and refused until they work.
const NOT_YET: &[&str] = &["windows"];

/// What stands in campaign.toml.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    pub(super) subject: Spanned<String>,
    pub(super) from: Spanned<String>,
    pub(super) reply_to: Option<Spanned<String>>,
    pub(super) lists: Spanned<Vec<Spanned<String>>>,
    pub(super) segment: Option<Spanned<String>>,
    pub(super) exclude: Option<Spanned<String>>,
    pub(super) template: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) preheader: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub(super) inline_css: bool,
    #[serde(default)]
    pub(super) attachments: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) inline: Vec<Spanned<String>>,
    start_at: Option<Spanned<toml::Value>>,
    deadline: Option<Spanned<toml::Value>>,
    pub(super) rate: Option<Spanned<String>>,
    pub(super) pool: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) in_doubt: InDoubt,
    #[serde(default)]
    pub(super) missing: Missing,
    #[serde(default)]
    pub(super) tracking: Tracking,
}

/// What the campaign wants to know of its readers; nothing, unless it says so.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tracking {
    pub(super) opens: bool,
    pub(super) clicks: bool,
}

/// A campaign as its folder has it now.
#[derive(Debug, Clone)]
pub struct Campaign {
    name: CampaignName,
    pub(super) folder: PathBuf,
    pub(super) roots: Roots,
    pub(super) text: String,
    pub(super) definition: Definition,
    pub(super) from: Mailbox,
}

/// A display name, a template, and an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub(super) name: String,
    pub(super) address: Address,
}

impl Campaign {
    /// Reads `campaigns/NAME/campaign.toml` of a workspace. The body and the templates are read by [`Campaign::freeze`].
    pub fn load(workspace: &Path, name: &CampaignName) -> Result<Campaign, Error> {
        let folder = workspace.join("campaigns").join(name.as_str());
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(none(workspace, name.as_str(), folder));
        }
        let roots = Roots::of(workspace, &folder);
        let text = read_text(&path, &roots)?;
        let definition: Definition = toml::from_str(&text).map_err(|why| Error::Place {
            message: message(why.message()),
            file: named(&path, &text),
            place: why.span().map(SourceSpan::from),
            help: help(why.message()),
        })?;
        let from = mailbox(definition.from.get_ref());
        let from = from.map_err(|why| place(&path, &text, definition.from.span(), why, FROM_HELP))?;
        let campaign = Campaign { name: name.clone(), folder, roots, text, definition, from };
        campaign.check()?;
        Ok(campaign)
    }

    /// Its name: that of its folder.
    pub fn name(&self) -> &CampaignName {
        &self.name
    }

    /// The names of the lists it goes to, in order.
    pub fn lists(&self) -> impl Iterator<Item = &str> {
        self.definition.lists.get_ref().iter().map(|list| list.get_ref().as_str())
    }

    /// Which members of the lists it is for, as a segment; for all of them without one.
    pub fn segment(&self) -> Option<&str> {
        self.definition.segment.as_ref().map(|segment| segment.get_ref().as_str())
    }

    /// Which members of the lists it is not for, as a segment.
    pub fn exclude(&self) -> Option<&str> {
        self.definition.exclude.as_ref().map(|segment| segment.get_ref().as_str())
    }

    /// The domain it is from: the one that signs.
    pub fn from_domain(&self) -> &Domain {
        self.from.address.domain()
    }

    /// The most messages in a time over all hosts, unless `--rate` says otherwise.
    pub fn rate(&self) -> Option<&str> {
        self.definition.rate.as_ref().map(|rate| rate.get_ref().as_str())
    }

    /// Nothing goes out before this time; at once without one.
    pub fn start_at(&self) -> Option<Timestamp> {
        self.definition.start_at.as_ref().and_then(|time| moment(time.get_ref()).ok())
    }

    /// What has not gone out by this time is cancelled.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.definition.deadline.as_ref().and_then(|time| moment(time.get_ref()).ok())
    }

    /// The pool of source addresses it is sent from; all alike without one.
    pub fn pool(&self) -> Option<&str> {
        self.definition.pool.as_ref().map(|pool| pool.get_ref().as_str())
    }

    /// What becomes of copies whose answer was lost.
    pub fn in_doubt(&self) -> InDoubt {
        self.definition.in_doubt
    }

    /// An error that shows where a list is named.
    pub fn no_such_list(&self, list: &str, known: &[String]) -> Error {
        let named = self.definition.lists.get_ref().iter().find(|name| name.get_ref() == list);
        let span = named.map_or(0..0, Spanned::span);
        let word = shell_word(list);
        let help = match known {
            [] => format!("there are no lists yet; `mailshot import FILE.csv --list {word}` makes one"),
            some => format!("there are {}; `mailshot import FILE.csv --list {word}` makes it", some.join(", ")),
        };
        self.place(span, format!("there is no list `{list}`"), &help)
    }

    /// An error at a place in campaign.toml.
    pub(super) fn place(&self, span: Range<usize>, message: String, help: &str) -> Error {
        place(&self.folder.join(FILE), &self.text, span, message, help)
    }

    /// Refuses values that their types allow but that cannot be meant.
    fn check(&self) -> Result<(), Error> {
        let definition = &self.definition;
        if definition.lists.get_ref().is_empty() {
            return Err(self.place(definition.lists.span(), "no list is named".into(), "write lists = [\"news\"]"));
        }
        for text in definition.segment.iter().chain(&definition.exclude) {
            segment(text.get_ref()).map_err(|why| self.place(text.span(), why.to_string(), SEGMENT_HELP))?;
        }
        for time in definition.start_at.iter().chain(&definition.deadline) {
            moment(time.get_ref()).map_err(|why| self.place(time.span(), why.to_string(), MOMENT_HELP))?;
        }
        if let (Some(start), Some(deadline), Some(time)) = (self.start_at(), self.deadline(), &definition.deadline)
            && deadline <= start
        {
            let message = "the deadline lies before the start".to_owned();
            return Err(self.place(time.span(), message, "nothing could go out between them"));
        }
        if let Some(rate) = &definition.rate {
            Rate::parse(rate.get_ref())
                .map_err(|why| self.place(rate.span(), why.to_string(), "write rate = \"100/min\""))?;
        }
        if let Some(reply_to) = &definition.reply_to {
            Address::parse(reply_to.get_ref()).map_err(|why| {
                self.place(reply_to.span(), why.to_string(), "write reply_to = \"answers@example.com\"")
            })?;
        }
        let headers = definition.headers.iter().map(|(name, value)| (value, Part::Header, Some(name)));
        let texts = [(&definition.subject, Part::Subject, None), (&definition.from, Part::FromName, None)];
        let preheader = definition.preheader.iter().map(|text| (text, Part::Html, None));
        for (text, part, name) in texts.into_iter().chain(preheader).chain(headers) {
            if let Some(name) = name {
                self.check_once(name)?;
                compose::check_header(name.get_ref()).map_err(|why| {
                    self.place(name.span(), why.to_string(), "choose another name, as in \"X-Campaign\"")
                })?;
            }
            compose::inspect(part, text.get_ref()).map_err(|why| {
                self.place(text.span(), why.to_string(), "subject, from, preheader and headers are templates")
            })?;
        }
        Ok(())
    }

    /// Refuses a header whose name another one has in other letters: many may stand in a message once (M-01).
    fn check_once(&self, name: &Spanned<String>) -> Result<(), Error> {
        let same = |other: &&Spanned<String>| other.get_ref().eq_ignore_ascii_case(name.get_ref());
        match self.definition.headers.keys().filter(same).count() {
            0 | 1 => Ok(()),
            _ => {
                Err(self.place(name.span(), format!("header `{}` is named twice", name.get_ref()), "keep one of them"))
            }
        }
    }
}

pub(super) const SEGMENT_HELP: &str =
    "write segment = \"country = 'DE' and not opened('welcome')\"; `mailshot segment` shows all that can be said";
const FROM_HELP: &str = "write from = \"Example News <news@example.com>\"";

const MOMENT_HELP: &str =
    "write start_at = \"2026-12-01 09:00[Europe/Berlin]\", or with the offset: 2026-12-01T09:00:00+01:00";

/// A time as text or as TOML's own.
fn moment(value: &toml::Value) -> Result<Timestamp, TimeError> {
    match value {
        toml::Value::String(text) => Timestamp::parse(text),
        other => Timestamp::parse(&other.to_string()),
    }
}

/// `Name <address>`, `"Name" <address>` or a bare address.
fn mailbox(text: &str) -> Result<Mailbox, String> {
    let (name, address) = match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => (name.trim(), address.trim()),
        None => ("", text.trim()),
    };
    let name = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
    let address = Address::parse(address).map_err(|why| why.to_string())?;
    if !address.local().is_ascii() {
        return Err(format!("`{address}` cannot be a sender: its name is not ASCII, and many hosts refuse that"));
    }
    Ok(Mailbox { name: name.to_owned(), address })
}

pub(super) fn named(path: &Path, text: &str) -> NamedSource<String> {
    NamedSource::new(path.display().to_string(), text.to_owned())
}

pub(super) fn place(path: &Path, text: &str, span: Range<usize>, message: String, help: &str) -> Error {
    let help = (!help.is_empty()).then(|| help.to_owned());
    Error::Place { message, file: named(path, text), place: Some(span.into()), help }
}

fn none(workspace: &Path, name: &str, path: PathBuf) -> Error {
    let folder = std::fs::read_dir(workspace.join("campaigns")).into_iter().flatten().flatten();
    let with_file = folder.filter(|entry| entry.path().join(FILE).is_file());
    let mut known: Vec<String> = with_file.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    known.sort();
    let help = match known.as_slice() {
        [] => "a campaign is a folder campaigns/NAME with campaign.toml and body.md, body.mjml or body.html".to_owned(),
        some => format!("there are: {}", some.join(", ")),
    };
    Error::None { name: name.to_owned(), path, help }
}

/// The parser's message; for keys that are to come, that they are not there yet.
fn message(parser: &str) -> String {
    match not_yet(parser) {
        Some(key) => format!("`{key}` is not available in this version"),
        None => parser.to_owned(),
    }
}

fn help(parser: &str) -> Option<String> {
    match not_yet(parser) {
        Some(_) => {
            Some("take the key out: a campaign without it goes to all subscribed members of its lists, at once".into())
        }
        None if parser.starts_with("missing field") => Some("subject, from and lists must be there".into()),
        None => None,
    }
}

fn not_yet(parser: &str) -> Option<&'static str> {
    let key = parser.strip_prefix("unknown field `")?.split('`').next()?;
    NOT_YET.iter().copied().find(|known| *known == key)
}

#[cfg(test)]
mod tests;
