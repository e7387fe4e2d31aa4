//! `render`: one finished message, to look at.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use clap::Args;
use serde::Serialize;

use crate::base::Address;
use crate::cli::{Desk, Error, Exit};
use crate::compose::{Edition, Template, Urls, sample};
use crate::mail::{Envelope, Message, Recipient};
use crate::store::Threads;

/// What to render, for whom.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The campaign: a folder below campaigns/.
    campaign: String,
    /// Whose copy. Somebody who is no contact gets invented fields, as in `[city]`.
    #[arg(long, value_name = "EMAIL")]
    to: String,
    /// Write the HTML part to a file and show it in the browser, instead of printing the message.
    #[arg(long)]
    open: bool,
}

/// The message, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    campaign: String,
    to: String,
    /// Whether the fields are those of a contact.
    contact: bool,
    signed: bool,
    bytes: usize,
    message: String,
}

/// Prints one message as it would go out now, signed; or shows its HTML part.
pub async fn run(desk: &Desk, arguments: Arguments) -> Result<Exit, Error> {
    let campaign = desk.campaign(&arguments.campaign)?;
    let edition = campaign.freeze(desk.workspace().folder(), desk.settings())?;
    let template = Template::compile(&edition).map_err(|why| Error::usage(why.to_string()))?;
    let to = Address::parse(&arguments.to).map_err(|why| Error::usage(why.to_string()))?;
    let contact = contact(desk, &to)?;
    let is_contact = contact.is_some();
    if !is_contact {
        desk.note(format!("{to} is no contact: its fields are invented"));
    }
    let recipient = contact.unwrap_or_else(|| sample(&template, to.clone()));
    if arguments.open {
        return show(desk, &edition, &template, &recipient).await;
    }

    let (message, signed) = message(desk, &edition, &template, &recipient)?;
    if desk.is_json() {
        let bytes = message.bytes.len();
        let message = String::from_utf8_lossy(&message.bytes).into_owned();
        desk.give(&Answer {
            campaign: edition.campaign,
            to: to.to_string(),
            contact: is_contact,
            signed,
            bytes,
            message,
        });
    } else {
        // A reader that has gone away, as `head` does, is no failure.
        let _ = std::io::stdout().write_all(&message.bytes);
    }
    Ok(Exit::Done)
}

fn contact(desk: &Desk, to: &Address) -> Result<Option<Recipient>, Error> {
    let store = desk.workspace().store(Threads::Own)?;
    Ok(match store.contact(&to.to_string())? {
        Some(row) => store.recipient(row.id)?,
        None => None,
    })
}

/// The copy as it would go out now, and whether it is signed. It belongs to no launch: its links and its return path lead
/// to nobody's subscription.
fn message(
    desk: &Desk,
    edition: &Edition,
    template: &Template,
    recipient: &Recipient,
) -> Result<(Message, bool), Error> {
    let now = desk.world()?.clock.now();
    let envelope = Envelope::sketch(recipient.contact, now);
    let seal = desk.workspace().seal()?;
    let printed = template.print(&envelope, recipient, &seal);
    let message =
        printed.map_err(|why| Error::usage(format!("{} for {}: {why}", edition.campaign, recipient.address)))?;
    let keyring = desk.workspace().keyring()?;
    let domain = template.from_domain();
    if keyring.has_key(domain) {
        return Ok((keyring.sign(domain, message)?, true));
    }
    desk.note(format!("not signed: there is no DKIM key for {domain}; `mailshot dkim new {domain}` makes one"));
    Ok((message, false))
}

/// Writes the HTML part to `state/preview/` and asks the system to show it.
async fn show(desk: &Desk, edition: &Edition, template: &Template, recipient: &Recipient) -> Result<Exit, Error> {
    let at = |path| format!("{}/{path}/preview", edition.base_url);
    let urls =
        Urls { unsubscribe: at("u"), preferences: at("p"), view: at("v"), confirm: at("confirm"), ..Urls::default() };
    let words = template.words(recipient, &urls);
    let words = words.map_err(|why| Error::usage(format!("{} for {}: {why}", edition.campaign, recipient.address)))?;
    let folder = desk.workspace().folder().join("state/preview");
    let file = folder.join(format!("{}.html", edition.campaign));
    let written =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, edition.with_pictures(words.html)));
    written.map_err(Error::failed)?;
    let file = file.canonicalize().map_err(Error::failed)?;
    if !is_opened(&file).await {
        desk.note("no browser could be started: open the file yourself");
    }
    desk.say(format!("subject: {}", words.subject));
    desk.say(file.display().to_string());
    desk.give(&serde_json::json!({ "campaign": edition.campaign, "subject": words.subject, "file": file }));
    Ok(Exit::Done)
}

/// Whether the system has a program for it.
async fn is_opened(file: &Path) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = tokio::process::Command::new(program);
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}
