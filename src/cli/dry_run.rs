//! `send --dry-run`: every message as a file, as it would go out, and nothing sent or put on record.

use std::fs;
use std::path::Path;

use crate::base::{ContactId, Domain};
use crate::cli::draft::Draft;
use crate::cli::send::typed;
use crate::cli::{Desk, Error, Exit};
use crate::compose::Template;
use crate::engine::Ready;
use crate::mail::{Envelope, Message, Recipient};
use crate::sign::Keyring;
use crate::store::Store;

/// Files that could not be printed, named one by one.
const NAMED_MAX: u64 = 10;

/// Writes the messages into `folder`, named by number and address.
pub fn write(desk: &Desk, store: &Store, ready: &Ready, folder: &Path) -> Result<Exit, Error> {
    let only = ready.options.only_domain.as_deref().and_then(|domain| Domain::parse(domain).ok());
    fs::create_dir_all(folder).map_err(|why| Error::usage(format!("--dry-run {}: {why}", folder.display())))?;
    let world = desk.world()?;
    let template = Template::compile(&ready.edition).map_err(|why| Error::usage(why.to_string()))?;
    let (seal, keyring) = (desk.workspace().seal()?, desk.workspace().keyring()?);
    let most = ready.options.limit.unwrap_or(u64::MAX);
    let (mut written, mut spoilt, mut after) = (0, 0, ContactId(0));
    let now = world.clock.now();
    'pages: loop {
        let page = store.contacts(None, after, 1000)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for row in page {
            if written == most {
                break 'pages;
            }
            let Some(recipient) = store.recipient(row.id)?.filter(|one| is_meant(one, only.as_ref())) else { continue };
            if !store.is_recipient(row.id, &ready.meant, now)? {
                continue;
            }
            let envelope = Envelope::sketch(row.id, now);
            match template.print(&envelope, &recipient, &seal) {
                Ok(message) => {
                    let signed = sign(&keyring, template.from_domain(), message)?;
                    let file = folder.join(format!("{:06}-{}.eml", written + 1, file_name(&recipient)));
                    Draft::begin(Some(&file))?.fill(signed.bytes)?;
                    written += 1;
                }
                Err(why) => {
                    spoilt += 1;
                    if spoilt <= NAMED_MAX {
                        desk.note(format!("{}: {why}", recipient.address));
                    }
                }
            }
        }
    }
    desk.say(format!("\n{written} messages written to {}; nothing was sent", folder.display()));
    desk.give(&serde_json::json!({"written": written, "failed": spoilt, "folder": folder}));
    if spoilt > 0 {
        desk.say(format!("{spoilt} could not be printed"));
        return Ok(Exit::Unsettled);
    }
    desk.next(format!("mailshot {}", typed(ready)));
    Ok(Exit::Done)
}

fn is_meant(recipient: &Recipient, only: Option<&Domain>) -> bool {
    only.is_none_or(|only| recipient.address.domain() == only)
}

/// Signs where there is a key; the launch check has refused what must have one.
fn sign(keyring: &Keyring, domain: &Domain, message: Message) -> Result<Message, Error> {
    match keyring.has_key(domain) {
        true => Ok(keyring.sign(domain, message)?),
        false => Ok(message),
    }
}

/// The address, with what could be a path in it replaced.
fn file_name(recipient: &Recipient) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_' | '+') { c } else { '_' };
    recipient.address.to_string().chars().map(safe).take(100).collect()
}
