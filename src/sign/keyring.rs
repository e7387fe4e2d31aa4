//! The keys of a workspace by domain: `state/keys/DOMAIN/SELECTOR.rsa.pem` and `SELECTOR.ed25519.pem`. A name that ends
//! in `.waiting` is a key whose record is being published: it does not sign yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::{Domain, Span};
use crate::mail::Message;
use crate::sign::dkim::{Signer, generate};
use crate::sign::files::{entries, pem, read_private, write_private};
use crate::sign::{Algorithm, Error, Record};

/// What the names of keys end in.
const ENDINGS: [(Algorithm, &str); 2] = [(Algorithm::Rsa, ".rsa.pem"), (Algorithm::Ed25519, ".ed25519.pem")];
/// What a key's name ends in while its record is being published.
const WAITING: &str = ".waiting";

/// All keys of a workspace, parsed once. By default none.
#[derive(Default)]
pub struct Keyring {
    /// Keys that sign, RSA before Ed25519.
    signing: BTreeMap<Domain, Vec<Signer>>,
    waiting: Vec<Signer>,
}

/// A key file by its name.
struct KeyFile {
    path: PathBuf,
    algorithm: Algorithm,
    selector: String,
    waits: bool,
}

impl Keyring {
    /// Reads every key below `keys`, the folder `state/keys` of a workspace. Signatures hold for `expires`. A folder
    /// that is not there holds no keys.
    pub fn open(keys: &Path, expires: Span) -> Result<Keyring, Error> {
        let mut ring = Keyring::default();
        for folder in entries(keys)?.into_iter().filter(|path| path.is_dir()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(domain) = Domain::parse(&name) else { continue };
            let files: Vec<KeyFile> = entries(&folder)?.into_iter().filter_map(key_file).collect();
            refuse_two(&domain, &files)?;
            for file in files {
                if !is_selector(&file.selector) {
                    return Err(Error::Selector(file.selector));
                }
                let pem = read_private(&file.path)?;
                let signer = Signer::read(&pem, &file.path, file.algorithm, &domain, &file.selector, expires)?;
                match file.waits {
                    true => ring.waiting.push(signer),
                    false => ring.signing.entry(domain.clone()).or_default().push(signer),
                }
            }
        }
        for signers in ring.signing.values_mut() {
            signers.sort_by_key(|signer| signer.algorithm);
        }
        Ok(ring)
    }

    /// Whether messages from `domain` can be signed: by a key of its own, or of a domain above it (K-09).
    pub fn has_key(&self, domain: &Domain) -> bool {
        self.signers(domain).is_some()
    }

    /// Whether some signatures take long: a quarter of a millisecond with RSA, a fiftieth of that with Ed25519.
    pub fn takes_long(&self) -> bool {
        self.signing.values().flatten().any(|signer| signer.algorithm == Algorithm::Rsa)
    }

    /// Signs with every key of the domain; the signatures stand above the message, RSA first (K-08).
    pub fn sign(&self, domain: &Domain, message: Message) -> Result<Message, Error> {
        let signers = self.signers(domain).ok_or_else(|| Error::NoKey(domain.clone()))?;
        let fields: Vec<String> = signers.iter().map(|key| key.sign(&message.bytes)).collect::<Result<_, _>>()?;
        let mut bytes = Vec::with_capacity(message.bytes.len() + fields.iter().map(String::len).sum::<usize>());
        for field in &fields {
            bytes.extend_from_slice(field.as_bytes());
        }
        bytes.extend_from_slice(&message.bytes);
        Ok(Message { id: message.id, bytes })
    }

    /// The records of all keys, those that wait included, in order of their names.
    pub fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = self.signing.values().flatten().map(Record::of).collect();
        records.extend(self.waiting.iter().map(|signer| Record { waits: true, ..Record::of(signer) }));
        records.sort_by(|one, other| one.name.cmp(&other.name));
        records
    }

    /// The records of the keys that sign for a domain.
    pub fn records_for(&self, domain: &Domain) -> Vec<Record> {
        self.signers(domain).unwrap_or_default().iter().map(Record::of).collect()
    }

    /// The keys of the domain or of the nearest domain above it, as far as the registrable one.
    fn signers(&self, domain: &Domain) -> Option<&[Signer]> {
        let top = domain.registrable().map_or(0, str::len);
        let mut name = domain.as_str();
        loop {
            let found = self.signing.iter().find(|(known, _)| known.as_str() == name);
            match (found, name.split_once('.')) {
                (Some((_, signers)), _) => return Some(signers),
                (None, Some((_, above))) if above.len() >= top && top > 0 => name = above,
                (None, _) => return None,
            }
        }
    }
}

/// Makes a key, writes it below `keys` for its owner alone, and gives the record to publish. It signs at once unless the
/// domain already has a key of this kind: then it waits, and is put to use by renaming both.
pub fn create_key(keys: &Path, domain: &Domain, selector: &str, algorithm: Algorithm) -> Result<Record, Error> {
    let fits = (1..=63).contains(&selector.len()) && selector.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !fits || selector.starts_with('-') || selector.ends_with('-') {
        return Err(Error::Selector(selector.to_owned()));
    }
    let folder = keys.join(domain.as_str());
    let present: Vec<KeyFile> = entries(&folder)?.into_iter().filter_map(key_file).collect();
    if let Some(same) = present.iter().find(|file| file.selector.eq_ignore_ascii_case(selector)) {
        return Err(Error::Exists { path: same.path.clone() });
    }
    let waits = present.iter().any(|file| file.algorithm == algorithm && !file.waits);
    let (_, ending) = ENDINGS.iter().find(|(of, _)| *of == algorithm).expect("every algorithm has an ending");
    let path = folder.join(format!("{selector}{ending}{}", if waits { WAITING } else { "" }));
    let text = pem(&generate(algorithm)?);
    write_private(&path, text.as_bytes())?;
    let signer = Signer::read(&text, &path, algorithm, domain, selector, Span::default())?;
    Ok(Record { waits, ..Record::of(&signer) })
}

/// Names of the name service, perhaps several (RFC 6376 §3.1): nothing else may stand in a signature.
fn is_selector(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn key_file(path: PathBuf) -> Option<KeyFile> {
    let name = path.file_name()?.to_str()?;
    let (name, waits) = match name.strip_suffix(WAITING) {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let of = |(algorithm, ending): &(Algorithm, &str)| Some((*algorithm, name.strip_suffix(ending)?.to_owned()));
    let (algorithm, selector) = ENDINGS.iter().find_map(of)?;
    Some(KeyFile { path, algorithm, selector, waits })
}

/// Refuses two keys of one kind that would both sign.
fn refuse_two(domain: &Domain, files: &[KeyFile]) -> Result<(), Error> {
    for (at, one) in files.iter().enumerate().filter(|(_, file)| !file.waits) {
        let same = |other: &&KeyFile| !other.waits && other.algorithm == one.algorithm;
        if let Some(other) = files[at + 1..].iter().find(same) {
            let (one, other, algorithm) = (one.path.clone(), other.path.clone(), one.algorithm);
            return Err(Error::Twice { domain: domain.clone(), algorithm, one, other });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
