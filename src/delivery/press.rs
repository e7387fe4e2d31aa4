//! Prints and signs: the only work of the sending path that takes long, a quarter of a millisecond for an RSA signature.
//! Done in place, on the thread of whoever wants the copy: to hand it to another thread and back would cost two switches a
//! copy. Where signing takes long there is one slot per core, and whoever has it lets everybody else on its thread go first:
//! so no more than one signature stands before whatever else a thread has to do.
//! Keeps compiled editions; decides nothing about hosts or time.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::yield_now;

use crate::base::{EditionId, Seal};
use crate::compose::{Edition, Missing, PrintError, Template};
use crate::mail::{Class, Envelope, Message, Recipient};
use crate::sign::{self, Keyring};
use crate::store::Store;

/// Compiled editions kept; past it the memory starts anew.
const EDITIONS_MAX: usize = 16;

/// A finished copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// Signed, ready for the wire.
    pub message: Message,
    /// Its MAIL FROM.
    pub return_path: String,
}

/// Why a copy was not printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoilt {
    /// It cannot be printed for this recipient, and never will be.
    Failed {
        /// Why.
        class: Class,
        /// The same in words, the field's name among them.
        text: String,
    },
    /// A field is missing, and the campaign leaves such recipients out.
    Skipped(String),
    /// Nobody's copy can be printed until a person has mended something.
    Ourselves {
        /// Why.
        class: Class,
        /// What to mend.
        text: String,
    },
    /// A bug of ours: the printing itself broke down.
    Broken,
}

/// Prints and signs.
pub struct Press {
    store: Store,
    keyring: Arc<Keyring>,
    seal: Arc<Seal>,
    unsigned: bool,
    editions: Mutex<BTreeMap<EditionId, Arc<Form>>>,
    /// Where signing takes long.
    slots: Option<Semaphore>,
}

/// The right to print one copy now.
pub struct Slot<'a> {
    press: &'a Press,
    _permit: Option<SemaphorePermit<'a>>,
}

/// An edition, compiled.
struct Form {
    template: Template,
    missing: Missing,
}

impl Slot<'_> {
    /// Prints and signs one copy. The envelope's date must be set: it is set at the first MAIL and kept (M-05).
    pub fn print(&self, envelope: &Envelope, recipient: &Recipient) -> Result<Printed, Spoilt> {
        let printed = catch_unwind(AssertUnwindSafe(|| self.press.print(envelope, recipient)));
        printed.unwrap_or(Err(Spoilt::Broken))
    }
}

impl Press {
    /// A press over the editions of `store`. `unsigned`: a From domain without a key is no fault.
    pub fn new(store: Store, keyring: Arc<Keyring>, seal: Arc<Seal>, unsigned: bool) -> Press {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let slots = keyring.takes_long().then(|| Semaphore::new(cores()));
        Press { store, keyring, seal, unsigned, editions: Mutex::default(), slots }
    }

    /// Waits for a slot; whoever came first has it first. Cancel-safe.
    pub async fn slot(&self) -> Slot<'_> {
        let Some(slots) = &self.slots else { return Slot { press: self, _permit: None } };
        let permit = slots.acquire().await.expect("the press is never closed");
        yield_now().await;
        Slot { press: self, _permit: Some(permit) }
    }

    fn print(&self, envelope: &Envelope, recipient: &Recipient) -> Result<Printed, Spoilt> {
        let form = self.form(envelope.edition)?;
        let message = form.template.print(envelope, recipient, &self.seal).map_err(|why| form.spoilt(&why))?;
        let domain = form.template.from_domain();
        let message = match self.unsigned && !self.keyring.has_key(domain) {
            true => message,
            false => self.keyring.sign(domain, message).map_err(|why| unsigned(&why))?,
        };
        let return_path = form.template.return_path(envelope.id, &self.seal);
        Ok(Printed { message, return_path })
    }

    /// The compiled edition; two slots that want a new one at once may both compile it.
    fn form(&self, id: EditionId) -> Result<Arc<Form>, Spoilt> {
        let known = self.editions.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(form) = known {
            return Ok(form);
        }
        let form = Arc::new(self.compile(id).map_err(|text| Spoilt::Ourselves { class: Class::SoftSystem, text })?);
        let mut editions = self.editions.lock().unwrap_or_else(PoisonError::into_inner);
        if editions.len() >= EDITIONS_MAX {
            editions.clear();
        }
        editions.insert(id, form.clone());
        Ok(form)
    }

    fn compile(&self, id: EditionId) -> Result<Form, String> {
        let row = self.store.edition(id).map_err(|why| why.to_string())?;
        let row = row.ok_or_else(|| format!("edition {id} is not on record"))?;
        let edition = Edition::from_bytes(&row.frozen).map_err(|why| format!("edition {id}: {why}"))?;
        let template = Template::compile(&edition)
            .map_err(|why| format!("this version cannot print what was frozen as edition {id}: {why}"))?;
        Ok(Form { template, missing: edition.missing })
    }
}

impl Form {
    fn spoilt(&self, why: &PrintError) -> Spoilt {
        let class = match why {
            PrintError::MissingField { .. } if self.missing == Missing::Skip => {
                return Spoilt::Skipped(why.to_string());
            }
            PrintError::MissingField { .. } | PrintError::Render { .. } => Class::PolicyContent,
            PrintError::TooLong { .. } => Class::Size,
        };
        Spoilt::Failed { class, text: why.to_string() }
    }
}

fn unsigned(why: &sign::Error) -> Spoilt {
    Spoilt::Ourselves { class: Class::PolicyAuth, text: why.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::base::{CampaignName, ContactId, EnvelopeId, LaunchId, SealKey, Span, Timestamp};
    use crate::compose::sample_edition;
    use crate::mail::Lane;
    use crate::sign::{Algorithm, create_key};
    use crate::store::Threads;

    const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);

    fn edition(missing: Missing) -> Edition {
        Edition { html: "<p>From {{city}}</p>".into(), text: "From {{city}}\n".into(), missing, ..sample_edition() }
    }

    fn envelope(edition: EditionId) -> Envelope {
        Envelope {
            id: EnvelopeId::new(LaunchId(1), ContactId(1)),
            edition,
            lane: Lane::Bulk,
            tries: 0,
            source: None,
            date: Some(NOW),
            doubtful: 0,
            due: NOW,
            expires: NOW,
        }
    }

    fn recipient(city: Option<&str>) -> Recipient {
        let address = crate::base::Address::parse("ada@example.net").unwrap();
        let fields = city.map(|city| ("city".to_owned(), city.into())).into_iter().collect();
        Recipient { contact: ContactId(1), address, name: "Ada".into(), fields, consent: Default::default() }
    }

    /// Prints one copy with a new press; with a key for example.com or without.
    async fn print(missing: Missing, key: bool, unsigned: bool, city: Option<&str>) -> Result<Printed, Spoilt> {
        let keys = tempfile::tempdir().unwrap();
        if key {
            create_key(keys.path(), &crate::base::Domain::parse("example.com").unwrap(), "e1", Algorithm::Ed25519)
                .unwrap();
        }
        let keyring = Arc::new(Keyring::open(keys.path(), Span::secs(3600)).unwrap());
        let seal = Arc::new(Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap());
        let store = Store::open("sqlite::memory:", keys.path(), Threads::Inline).unwrap();
        let edition = edition(missing);
        let name = CampaignName::parse("welcome").unwrap();
        let id = store.put_edition(edition.hash(), &name, edition.to_bytes(), NOW).await.unwrap();
        let press = Press::new(store, keyring, seal, unsigned);
        let slot = press.slot().await;
        slot.print(&envelope(id), &recipient(city))
    }

    #[tokio::test]
    async fn a_copy_is_printed_signed_and_has_a_return_path() {
        let printed = print(Missing::Error, true, false, Some("Ulm")).await.unwrap();
        assert!(printed.message.bytes.starts_with(b"DKIM-Signature:"));
        assert!(printed.return_path.starts_with("b.") && printed.return_path.ends_with("@bounce.example.com"));
    }

    /// A press with a key of this kind.
    fn press(algorithm: Algorithm) -> Press {
        let folder = tempfile::tempdir().unwrap();
        create_key(folder.path(), &crate::base::Domain::parse("example.com").unwrap(), "s1", algorithm).unwrap();
        let keyring = Arc::new(Keyring::open(folder.path(), Span::secs(3600)).unwrap());
        let seal = Arc::new(Seal::new(vec![SealKey::new('a', &[7; 32]).unwrap()]).unwrap());
        let store = Store::open("sqlite::memory:", folder.path(), Threads::Inline).unwrap();
        Press::new(store, keyring, seal, false)
    }

    #[tokio::test]
    async fn one_long_signature_per_core_is_made_at_a_time_and_others_go_first() {
        let press = press(Algorithm::Rsa);
        let done = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let done = done.clone();
            async move { done.store(true, Ordering::SeqCst) }
        });
        let mut taken = vec![press.slot().await];
        assert!(done.load(Ordering::SeqCst), "whoever was ready has had its turn");
        task.await.unwrap();
        while taken.len() < thread::available_parallelism().unwrap().get() {
            taken.push(press.slot().await);
        }
        assert!(tokio::time::timeout(Duration::ZERO, press.slot()).await.is_err());
        drop(taken.pop());
        assert!(tokio::time::timeout(Duration::from_secs(9), press.slot()).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_short_signature() {
        let press = press(Algorithm::Ed25519);
        let slots: Vec<Slot<'_>> = (0..99).filter_map(|_| press.slot().now_or_never()).collect();
        assert_eq!(slots.len(), 99);
    }

    #[tokio::test]
    async fn a_missing_field_fails_is_left_out_or_stays_empty_as_the_edition_says() {
        let failed = print(Missing::Error, true, false, None).await.unwrap_err();
        assert!(matches!(&failed, Spoilt::Failed { class: Class::PolicyContent, text } if text.contains("`city`")));
        let skipped = print(Missing::Skip, true, false, None).await.unwrap_err();
        assert!(matches!(&skipped, Spoilt::Skipped(text) if text.contains("`city`")), "{skipped:?}");
        assert!(print(Missing::Default, true, false, None).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_key_nothing_leaves_unsigned_unless_it_may() {
        let held = print(Missing::Error, false, false, Some("Ulm")).await.unwrap_err();
        assert!(matches!(&held, Spoilt::Ourselves { class: Class::PolicyAuth, text } if text.contains("example.com")));
        let printed = print(Missing::Error, false, true, Some("Ulm")).await.unwrap();
        assert!(printed.message.bytes.starts_with(b"From:"));
    }
}
