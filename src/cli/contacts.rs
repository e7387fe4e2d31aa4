//! `contacts`: look at contacts; show, export or erase one.

use std::path::Path;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::base::{Address, ContactId, EnvelopeId, Purpose, Timestamp, shell_argument};
use crate::cli::export::{Output, as_text, find_list};
use crate::cli::shown::json_line;
use crate::cli::{Desk, Error, Exit};
use crate::compose::Edition;
use crate::mail::{Consent, Standing};
use crate::sign::create_seal;
use crate::store::{ContactRow, EventRow, Mailing, MembershipRow, SignupRow, Store, SuppressionRow, VisitRow};

/// Most copies that are told of one contact.
const HISTORY: usize = 100_000;
/// Copies and events shown on a screen.
const SHOWN: usize = 10;

/// Which contacts, and what to do with them.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Only members of this list.
    #[arg(long, value_name = "LIST")]
    list: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// Those after this number, as shown.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u32,
}

impl Arguments {
    /// The file it is to write.
    pub(super) fn written(&self) -> Option<&Path> {
        match &self.what {
            Some(What::Export { output, .. }) => output.file(),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show everything on record about an address.
    Show {
        /// The address.
        address: String,
    },
    /// Write everything on record about an address: JSON on standard output, and CSV to a file when one is named.
    Export {
        /// The address.
        address: String,
        #[command(flatten)]
        output: Output,
    },
    /// Forget an address for good: profile, lists and history go, and no import brings it back.
    Erase {
        /// The address.
        address: String,
        /// Do it; without this nothing is changed.
        #[arg(long)]
        yes: bool,
    },
}

/// Everything on record about an address.
#[derive(Serialize)]
struct Dossier {
    address: String,
    /// Whether this address was erased.
    erased: bool,
    contact: Option<ContactRow>,
    lists: Vec<MembershipRow>,
    suppression: Option<SuppressionRow>,
    events: Vec<EventRow>,
    copies: Vec<Copy>,
    /// What the contact did with them, as far as it may be noted.
    visits: Vec<VisitRow>,
    /// The proof of lists that were joined on a page.
    signups: Vec<Proof>,
    /// What was said about being tracked.
    consent: Consent,
    /// Until when the contact rests.
    paused: Option<Timestamp>,
}

/// A list that was joined on a page.
#[derive(Serialize)]
struct Proof {
    #[serde(flatten)]
    row: SignupRow,
    /// The Message-ID of the request to confirm.
    message: String,
}

/// The proofs of a contact's consent.
fn proofs(desk: &Desk, store: &Store, contact: ContactId) -> Result<Vec<Proof>, Error> {
    let rows = store.signups(contact)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let seal = desk.workspace().seal()?;
    let proof = |row: SignupRow| {
        let frozen = match store.launch(row.launch)? {
            Some(launch) => store.edition(launch.edition)?,
            None => None,
        };
        let edition = frozen.and_then(|frozen| Edition::from_bytes(&frozen.frozen).ok());
        let message = edition.map_or_else(String::new, |edition| {
            let domain = edition.from.address.rsplit_once('@').map_or("", |(_, domain)| domain);
            format!("<{}@{domain}>", seal.mint(EnvelopeId::new(row.launch, contact), Purpose::Message, 0))
        });
        Ok(Proof { row, message })
    };
    rows.into_iter().map(proof).collect()
}

/// A copy that was planned for the contact.
#[derive(Serialize)]
struct Copy {
    campaign: String,
    outcome: Standing,
    class: Option<&'static str>,
    answer: String,
    at: Timestamp,
}

/// What a page of contacts is as JSON.
#[derive(Serialize)]
struct Page {
    contacts: Vec<ContactRow>,
    /// What to give to `--after` for the next page; null at the end.
    next: Option<ContactId>,
}

/// What became of an erasure, as JSON.
#[derive(Serialize)]
struct Erasure {
    address: String,
    known: bool,
    erased: bool,
}

/// Does what was asked for.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let Arguments { what, list, limit, after } = arguments;
    match what {
        None => page(desk, list.as_deref(), limit, ContactId(after)),
        Some(What::Show { address }) => show(desk, &address),
        Some(What::Export { address, output }) => export(desk, &address, &output),
        Some(What::Erase { address, yes }) => erase(desk, &address, yes).await,
    }
}

fn page(desk: &Desk, list: Option<&str>, limit: usize, after: ContactId) -> Result<Exit, Error> {
    let store = desk.store()?;
    let list = list.map(|name| find_list(&store, name)).transpose()?;
    let limit = limit.min(100_000);
    let mut contacts = store.contacts(list, after, limit + 1)?;
    let next = (contacts.len() > limit).then(|| contacts[limit - 1].id);
    contacts.truncate(limit);
    let width = contacts.iter().map(|contact| contact.address.chars().count()).max().unwrap_or_default().min(50);
    for contact in &contacts {
        desk.say(format!("{:>9}  {:width$}  {}", contact.id.0, contact.address, contact.name));
    }
    match (next, contacts.first()) {
        (Some(next), _) => desk.next(format!("mailshot contacts --after {next}")),
        (None, Some(first)) => desk.next(format!("mailshot contacts show {}", shell_argument(&first.address))),
        (None, None) => {
            desk.say("there is nobody here");
            desk.next("mailshot import FILE.csv --list NAME");
        }
    }
    desk.give(&Page { contacts, next });
    Ok(Exit::Done)
}

/// The address in the form that the record has it in.
pub fn canonical(address: &str) -> Result<String, Error> {
    Address::parse(address.trim()).map(|address| address.to_string()).map_err(|why| Error::usage(why.to_string()))
}

fn dossier(desk: &Desk, store: &Store, address: String) -> Result<Dossier, Error> {
    let contact = store.contact(&address)?;
    let id = contact.as_ref().map(|contact| contact.id);
    let traces = store.erased()?;
    let erased = !traces.is_empty() && {
        let seal = desk.workspace().seal()?;
        seal.traces(&address).any(|trace| traces.iter().any(|known| known == &trace))
    };
    let copies = id.map(|id| store.history(id, HISTORY)).transpose()?.unwrap_or_default();
    Ok(Dossier {
        lists: id.map(|id| store.memberships(id)).transpose()?.unwrap_or_default(),
        suppression: store.suppression(&address)?,
        events: id.map(|id| store.events(id)).transpose()?.unwrap_or_default(),
        copies: copies.into_iter().map(copy).collect(),
        visits: id.map(|id| store.visits(id)).transpose()?.unwrap_or_default(),
        signups: id.map(|id| proofs(desk, store, id)).transpose()?.unwrap_or_default(),
        consent: id.map(|id| store.consent(id)).transpose()?.unwrap_or_default(),
        paused: id.map(|id| store.paused(id)).transpose()?.flatten(),
        address,
        erased,
        contact,
    })
}

fn copy(mailing: Mailing) -> Copy {
    let class = mailing.cause.or(mailing.class).map(|class| class.word());
    Copy { campaign: mailing.campaign, outcome: mailing.standing, class, answer: mailing.answer, at: mailing.at }
}

impl Dossier {
    fn is_empty(&self) -> bool {
        self.contact.is_none() && self.suppression.is_none() && !self.erased
    }
}

fn show(desk: &Desk, address: &str) -> Result<Exit, Error> {
    let dossier = dossier(desk, &desk.store()?, canonical(address)?)?;
    if dossier.is_empty() {
        return Err(Error::usage(format!("nothing is on record about {}", dossier.address)));
    }
    desk.say(match &dossier.contact {
        Some(contact) => {
            format!("{} {}, contact {}, since {}", dossier.address, contact.name, contact.id, contact.created)
        }
        None if dossier.erased => format!("{} was erased: nothing else is known", dossier.address),
        None => format!("{} is no contact", dossier.address),
    });
    if let Some(row) = &dossier.suppression {
        desk.say(format!("  suppressed: {} since {} ({})", row.reason.word(), row.since, row.detail));
    }
    for list in &dossier.lists {
        let consent = list.consent.as_ref().map_or(String::new(), |consent| format!(", consent: {consent}"));
        let source = list.source.as_ref().map_or(String::new(), |source| format!(", from {source}"));
        desk.say(format!("  list {}: {} since {}{source}{consent}", list.list, list.status.word(), list.since));
    }
    for (field, value) in dossier.contact.iter().flat_map(|contact| &contact.fields) {
        desk.say(format!("  {field}: {}", as_text(Some(value))));
    }
    for event in dossier.events.iter().rev().take(SHOWN) {
        desk.say(format!("  {} {} {}", event.at, event.kind, event.detail));
    }
    for copy in dossier.copies.iter().take(SHOWN) {
        let class = copy.class.map_or(String::new(), |class| format!(" ({class})"));
        desk.say(format!("  {} campaign {}: {}{class} {}", copy.at, copy.campaign, copy.outcome.word(), copy.answer));
    }
    desk.next(format!("mailshot contacts export {}", shell_argument(&dossier.address)));
    desk.give(&dossier);
    Ok(Exit::Done)
}

fn export(desk: &Desk, address: &str, output: &Output) -> Result<Exit, Error> {
    let dossier = dossier(desk, &desk.store()?, canonical(address)?)?;
    if dossier.is_empty() {
        return Err(Error::usage(format!("nothing is on record about {}", dossier.address)));
    }
    if let Some(file) = output.file() {
        let mut sheet = output.begin(&["kind", "name", "value", "at"])?;
        dossier.rows().iter().try_for_each(|row| sheet.row(row))?;
        sheet.finish()?;
        desk.note(format!("as CSV in {}", file.display()));
    }
    match desk.is_json() {
        true => desk.give(&dossier),
        false => {
            let pretty = serde_json::to_string_pretty(&dossier).expect("a dossier is plain data");
            desk.say_lines(json_line(&pretty));
        }
    }
    Ok(Exit::Done)
}

impl Dossier {
    /// Everything in rows of kind, name, value and time.
    fn rows(&self) -> Vec<[String; 4]> {
        let row = |kind: &str, name: &str, value: &str, at: &str| [kind, name, value, at].map(str::to_owned);
        let mut rows = vec![row("address", "email", &self.address, "")];
        if let Some(contact) = &self.contact {
            rows.push(row("profile", "name", &contact.name, &contact.changed.to_string()));
            let fields = contact.fields.iter();
            rows.extend(fields.map(|(name, value)| row("field", name, &as_text(Some(value)), "")));
        }
        for list in &self.lists {
            rows.push(row("list", &list.list, list.status.word(), &list.since.to_string()));
            for consent in list.consent.iter().chain(&list.source) {
                rows.push(row("consent", &list.list, consent, &list.since.to_string()));
            }
        }
        if let Some(bar) = &self.suppression {
            rows.push(row("suppression", bar.reason.word(), &bar.detail, &bar.since.to_string()));
        }
        for event in &self.events {
            rows.push(row("event", &event.kind, &event.detail, &event.at.to_string()));
        }
        for copy in &self.copies {
            let value = format!("{} {}", copy.outcome.word(), copy.answer);
            rows.push(row("copy", &copy.campaign, value.trim(), &copy.at.to_string()));
        }
        for (name, said) in [("opens", self.consent.opens), ("clicks", self.consent.clicks)] {
            let said = said.map(|said| if said { "yes" } else { "no" });
            rows.extend(said.map(|said| row("tracking", name, said, "")));
        }
        rows.extend(self.paused.map(|until| row("paused", "until", &until.to_string(), "")));
        for Proof { row: proof, message } in &self.signups {
            let asked =
                format!("asked on {} from {} with {}: {}", proof.form, proof.client, proof.agent, proof.consent);
            rows.push(row("signup", &proof.list, &asked, &proof.asked.to_string()));
            if let (Some(at), Some(client)) = (proof.confirmed, &proof.confirmed_client) {
                let agent = proof.confirmed_agent.as_deref().unwrap_or_default();
                let confirmed = format!("confirmed from {client} with {agent}, as {message} asked");
                rows.push(row("signup", &proof.list, &confirmed, &at.to_string()));
            }
        }
        for visit in &self.visits {
            let what = visit.link.map_or("opened".to_owned(), |number| format!("followed link {number}"));
            let value = format!("{what}: {} times, {} more by machines", visit.times, visit.by_machine);
            rows.push(row("visit", &visit.campaign, &value, &visit.first.to_string()));
        }
        rows
    }
}

async fn erase(desk: &Desk, address: &str, yes: bool) -> Result<Exit, Error> {
    let address = canonical(address)?;
    let store = desk.store()?;
    let known = store.contact(&address)?.is_some();
    if !yes {
        return Err(Error::refused(format!(
            "erasing {address} cannot be undone: {}. Give --yes to do it",
            if known {
                "profile, lists and history go for good"
            } else {
                "it is no contact now, and no import would bring it in"
            }
        )));
    }
    let trace = create_seal(&desk.workspace().keys_folder())?.trace(&address);
    store.erase(address.clone(), trace.to_vec(), desk.now()).await?;
    desk.say(match known {
        true => format!("{address} is forgotten: profile, lists and history are gone from the record"),
        false => format!("{address} was no contact; no import will bring it in"),
    });
    desk.say(
        "what is left is a keyed hash that keeps imports from bringing it back; older backups still hold the address",
    );
    desk.next(format!("mailshot contacts show {}", shell_argument(&address)));
    desk.give(&Erasure { address, known, erased: true });
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    #[test]
    fn a_page_shows_at_least_one() {
        for words in ["contacts", "suppress list"] {
            let limited = |limit: &str| {
                let words = ["mailshot"].into_iter().chain(words.split(' ')).chain(["--limit", limit]);
                Cli::try_parse_from(words).is_ok()
            };
            assert!(limited("1") && !limited("0"), "{words}");
        }
    }
}
