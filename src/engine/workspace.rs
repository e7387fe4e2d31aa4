//! A workspace: the folder with settings, templates, campaigns and state. Makes a new one, opens what lies in it, and
//! knows which process owns the queue. Never overwrites a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::base::{CampaignName, Seal};
use crate::campaign::{self, Campaign};
use crate::compose::SAMPLE_POSTAL_ADDRESS;
use crate::config::shaping::Shaping;
use crate::config::{self, Settings, commented_example};
use crate::delivery::relays::{Relays, RelaysError};
use crate::sign::{self, Algorithm, Keyring, Record, create_key, create_seal, load_seal};
use crate::smtp::classify::Rules;
use crate::store::{self, Store, Threads};

/// The name of the sample campaign, and the list it goes to.
pub const SAMPLE_CAMPAIGN: &str = "welcome";
/// The selector of the key that a new workspace comes with.
const FIRST_SELECTOR: &str = "s1";

/// What the owner of the queue says of itself, after its pid.
const SENDING: &str = "sending";
const KEEPING: &str = "keeping";

/// The sample files, as they stand in the repository.
const SAMPLES: &[(&str, &str)] = &[
    ("templates/newsletter.mjml", include_str!("../../templates/newsletter.mjml")),
    ("templates/newsletter.txt", include_str!("../../templates/newsletter.txt")),
    ("templates/plain.html", include_str!("../../templates/plain.html")),
    ("templates/plain.txt", include_str!("../../templates/plain.txt")),
    ("campaigns/welcome/campaign.toml", include_str!("../../campaigns/welcome/campaign.toml")),
    ("campaigns/welcome/body.md", include_str!("../../campaigns/welcome/body.md")),
    ("campaigns/welcome/contacts.csv", include_str!("../../campaigns/welcome/contacts.csv")),
    ("state/.gitignore", "# people, keys and what is on the road: never in git\n*\n"),
];

/// What stands in the way of making, opening or holding a workspace.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Another process owns the queue.
    #[error("the queue of {} is held by another mailshot{}", folder.display(), pid.map_or(String::new(), |pid| format!(", process {pid}")))]
    #[diagnostic(help(
        "wait until it has ended, or stop it with Ctrl-C (or `kill`): it finishes what is on the wire and keeps the rest"
    ))]
    Held {
        /// The workspace.
        folder: PathBuf,
        /// The process, when it has already said.
        pid: Option<u32>,
        /// Whether it sends; else it only looks at the queue, or moves something, and soon ends.
        sending: bool,
    },
    /// The settings, shaping.toml or rules.toml cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Settings(#[from] config::Error),
    /// The sample campaign of an existing workspace cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Campaign(Box<campaign::Error>),
    /// Keys cannot be read or made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Keys(#[from] sign::Error),
    /// The fixed routes of the settings cannot be used.
    #[error(transparent)]
    Relays(#[from] RelaysError),
}

impl Error {
    /// Whether the machine or another process stood in the way, rather than what was written.
    pub fn is_failure(&self) -> bool {
        match self {
            Error::File { .. } | Error::Held { .. } => true,
            Error::Keys(why) => why.is_failure(),
            Error::Campaign(why) => why.is_failure(),
            Error::Settings(_) | Error::Relays(_) => false,
        }
    }
}

/// What [`Workspace::create`] did.
#[derive(Debug)]
pub struct Created {
    /// The workspace.
    pub workspace: Workspace,
    /// Files it wrote, relative to the folder.
    pub written: Vec<PathBuf>,
    /// Files that were there and stay as they are.
    pub kept: Vec<PathBuf>,
    /// The DNS records to publish for its keys.
    pub records: Vec<Record>,
}

/// A workspace and its settings.
#[derive(Debug, Clone)]
pub struct Workspace {
    folder: PathBuf,
    settings: Settings,
}

impl Workspace {
    /// Makes a workspace in `folder`, or completes one: commented settings, the sample campaign with its templates, seal
    /// keys, and a DKIM key of 2048 bits for the sample's From domain. What is there stays as it is.
    pub fn create(folder: &Path) -> Result<Created, Error> {
        let mut written = Vec::new();
        let mut kept = Vec::new();
        let settings = ("mailshot.toml", settings_file());
        let samples = SAMPLES.iter().map(|(name, text)| (*name, (*text).to_owned()));
        for (name, text) in std::iter::once(settings).chain(samples) {
            match write_new(&folder.join(name), &text)? {
                true => written.push(PathBuf::from(name)),
                false => kept.push(PathBuf::from(name)),
            }
        }
        let workspace = Workspace::open(folder)?;
        create_seal(&workspace.keys_folder())?;
        workspace.create_first_key()?;
        let records = workspace.keyring()?.records();
        Ok(Created { workspace, written, kept, records })
    }

    /// Opens the workspace in `folder` with its settings file and the environment's settings over it.
    pub fn open(folder: &Path) -> Result<Workspace, Error> {
        let settings = Settings::load(&folder.join("mailshot.toml"), std::env::vars())?;
        Ok(Workspace::with(folder, settings))
    }

    /// A workspace with settings of the caller's own, whatever its settings file says.
    pub fn with(folder: &Path, settings: Settings) -> Workspace {
        Workspace { folder: folder.to_owned(), settings }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens the record of people and outcomes, and makes it when there is none.
    pub fn store(&self, threads: Threads) -> Result<Store, store::Error> {
        Store::open(&self.settings.store.url, &self.folder, threads)
    }

    /// Reads the signing keys.
    pub fn keyring(&self) -> Result<Keyring, sign::Error> {
        Keyring::open(&self.keys_folder(), self.settings.dkim.expires)
    }

    /// Reads the keys that seal return paths and links.
    pub fn seal(&self) -> Result<Seal, sign::Error> {
        load_seal(&self.keys_folder())
    }

    /// The fixed routes of the settings.
    pub fn relays(&self) -> Result<Relays, Error> {
        Ok(Relays::read(&self.settings.route)?)
    }

    /// The workspace's own table of shapes; it need not be there.
    pub fn shaping_file(&self) -> PathBuf {
        self.folder.join("shaping.toml")
    }

    /// The workspace's own reply rules; they need not be there.
    pub fn rules_file(&self) -> PathBuf {
        self.folder.join("rules.toml")
    }

    /// The provider table with the settings and the workspace's `shaping.toml` over it.
    pub fn shaping(&self) -> Result<Shaping, Error> {
        let file = self.shaping_file();
        let overlay = read_optional(&file)?;
        Shaping::new(&self.settings, overlay.as_deref()).map_err(|why| {
            let text = overlay.as_deref().unwrap_or_default();
            Error::Settings(config::Error::in_file(&file, text, why.place(text), why.to_string(), why.hint()))
        })
    }

    /// The reply rules with the workspace's `rules.toml` before them.
    pub fn rules(&self) -> Result<Rules, Error> {
        let file = self.rules_file();
        let text = read_optional(&file)?.unwrap_or_default();
        Rules::overlaid(&text).map_err(|why| {
            let hint = config::nearest(&why.to_string()).map(|known| format!("did you mean `{known}`?"));
            Error::Settings(config::Error::in_file(&file, &text, why.place(&text), why.to_string(), hint))
        })
    }

    /// Reads a campaign.
    pub fn campaign(&self, name: &CampaignName) -> Result<Campaign, campaign::Error> {
        Campaign::load(&self.folder, name)
    }

    /// Where signing and seal keys lie.
    pub fn keys_folder(&self) -> PathBuf {
        self.folder.join("state/keys")
    }

    /// Where the queue lies.
    pub fn queue_folder(&self) -> PathBuf {
        self.folder.join("state/queue")
    }

    /// The socket on which the owner of the queue answers.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join("state/control.sock")
    }

    /// Becomes the owner of the queue for as long as the hold lives, to look at it or to move something; refused, with its
    /// pid, while another process is.
    pub fn hold(&self) -> Result<Hold, Error> {
        self.hold_for(KEEPING)
    }

    /// As [`Workspace::hold`], to send.
    pub fn hold_to_send(&self) -> Result<Hold, Error> {
        self.hold_for(SENDING)
    }

    fn hold_for(&self, purpose: &str) -> Result<Hold, Error> {
        let path = self.folder.join("state/owner.lock");
        let failed = |why| Error::File { path: path.clone(), why };
        fs::create_dir_all(self.folder.join("state")).map_err(failed)?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (pid, sending) = read_owner(&mut file);
                return Err(Error::Held { folder: self.folder.clone(), pid, sending });
            }
            Err(TryLockError::Error(why)) => return Err(failed(why)),
        }
        let owner = format!("{} {purpose}\n", std::process::id());
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(owner.as_bytes())).map_err(failed)?;
        Ok(Hold { _file: file })
    }

    /// A key for the From domain of the sample campaign, unless that domain can sign already or the sample is gone.
    fn create_first_key(&self) -> Result<(), Error> {
        let sample = CampaignName::parse(SAMPLE_CAMPAIGN).expect("a fixed name");
        let campaign = self.campaign(&sample).map_err(|why| Error::Campaign(Box::new(why)))?;
        if !self.keyring()?.has_key(campaign.from_domain()) {
            create_key(&self.keys_folder(), campaign.from_domain(), FIRST_SELECTOR, Algorithm::Rsa)?;
        }
        Ok(())
    }
}

/// The ownership of a queue. Given back when dropped, and by the system when the process dies.
#[derive(Debug)]
pub struct Hold {
    /// The lock lives as long as this is open. The file stays: removing it would let two processes lock two files.
    _file: File,
}

/// The commented reference of all settings, with the sample postal address filled in.
fn settings_file() -> String {
    let empty = "# postal_address = \"\"\n";
    let example = commented_example();
    assert!(example.contains(empty), "the reference names sender.postal_address");
    let sample = format!(
        "# This sample goes with example.com only: put your own here before you send from a domain of yours.\n\
         postal_address = \"{SAMPLE_POSTAL_ADDRESS}\"\n"
    );
    example.replace(empty, &sample)
}

/// Writes a file and the folders above it; `false` when it is there already. It is written beside its name, which it takes
/// once it is whole: half a file would be kept for a whole one the next time.
fn write_new(path: &Path, text: &str) -> Result<bool, Error> {
    let failed = |why| Error::File { path: path.to_owned(), why };
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&part, path)).map(|()| true).map_err(|why| {
        // what cannot be removed is begun anew the next time
        let _ = fs::remove_file(&part);
        failed(why)
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Error::File { path: path.to_owned(), why }),
    }
}

/// The owner's pid, when it has already said, and whether it sends. One of an older version says its pid alone, and is taken
/// for one that sends.
fn read_owner(file: &mut File) -> (Option<u32>, bool) {
    let mut text = String::new();
    // what cannot be read has not been said
    let _ = file.take(32).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|pid| pid.parse().ok());
    (pid, pid.is_some() && words.next() != Some(KEEPING))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Domain;
    use crate::compose::{self, Grade, Template};

    #[test]
    fn a_new_workspace_has_all_a_campaign_needs() {
        let folder = tempfile::tempdir().unwrap();
        let Created { workspace, written, kept, records } = Workspace::create(folder.path()).unwrap();
        assert_eq!((written.len(), kept.len()), (SAMPLES.len() + 1, 0));
        assert_eq!(records[0].name, "s1._domainkey.example.com");
        let campaign = workspace.campaign(&CampaignName::parse(SAMPLE_CAMPAIGN).unwrap()).unwrap();
        campaign.freeze(workspace.folder(), workspace.settings()).unwrap();
        assert_eq!(workspace.settings().sender.postal_address, SAMPLE_POSTAL_ADDRESS);
        assert!(workspace.keyring().unwrap().has_key(&Domain::parse("example.com").unwrap()));
        workspace.seal().unwrap();
        workspace.shaping().unwrap();
        workspace.rules().unwrap();
        workspace.store(Threads::Inline).unwrap();
    }

    #[test]
    fn the_sample_passes_its_own_proof_in_either_layout() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::create(folder.path()).unwrap().workspace;
        let definition = folder.path().join("campaigns/welcome/campaign.toml");
        let text = fs::read_to_string(&definition).unwrap();
        for layout in ["newsletter", "plain"] {
            fs::write(&definition, text.replace("template = \"newsletter\"", &format!("template = \"{layout}\"")))
                .unwrap();
            let campaign = workspace.campaign(&CampaignName::parse(SAMPLE_CAMPAIGN).unwrap()).unwrap();
            let edition = campaign.freeze(workspace.folder(), workspace.settings()).unwrap();
            let proof = compose::proof(&edition, &Template::compile(&edition).unwrap());
            assert!(proof.remarks.iter().all(|remark| remark.grade == Grade::Ok), "{layout}: {proof:#?}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_table_beside_the_settings_is_shown_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::with(folder.path(), Settings::default());
        let refused = |file: &str, text: &str| {
            fs::write(folder.path().join(file), text).unwrap();
            let error = match file {
                "shaping.toml" => workspace.shaping().unwrap_err(),
                _ => workspace.rules().map(drop).unwrap_err(),
            };
            assert!(!error.is_failure(), "{error}");
            match error {
                Error::Settings(config::Error::File { message, place, help, .. }) => {
                    (message, place.map(|place| place.offset()), help.unwrap_or_default())
                }
                other => panic!("{other:?}"),
            }
        };
        for (file, text, at, word, hint) in [
            (
                "shaping.toml",
                "[[site]]\nsite = \"x\"\nshape.conection_limit = 1\n",
                "conec",
                "conec",
                "connection_limit",
            ),
            (
                "shaping.toml",
                "[[site]]\nsite = \"x\"\nshape.connection_limit = 0\n",
                "connection_limit",
                "more than zero",
                "",
            ),
            ("shaping.toml", "[[provider]]\nname = \"x\"\n", "\"x\"", "mx_suffix", "mx_suffix"),
            ("rules.toml", "[[rule]]\nnmae = \"x\"\n", "nmae", "nmae", "`name`"),
            (
                "rules.toml",
                "[[rule]]\nname = \"x\"\nmatch = \"(\"\nclass = \"block_ip\"\nblame = \"site\"\nsample = [\"x\"]\n",
                "\"x\"",
                "pattern",
                "",
            ),
        ] {
            let (message, place, help) = refused(file, text);
            assert_eq!(place, text.find(at), "{text}");
            assert!(message.contains(word) && help.contains(hint), "{message} / {help}");
        }
    }

    #[test]
    fn making_it_again_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mailshot.toml"), "smtp_port = 26\n").unwrap();
        let first = Workspace::create(folder.path()).unwrap();
        assert_eq!(first.kept, [PathBuf::from("mailshot.toml")]);
        assert_eq!(first.workspace.settings().smtp_port, 26);
        let seal = fs::read(first.workspace.keys_folder().join("seal.keys")).unwrap();
        let second = Workspace::create(folder.path()).unwrap();
        assert_eq!((second.written.len(), second.records), (0, first.records));
        assert_eq!(fs::read(second.workspace.keys_folder().join("seal.keys")).unwrap(), seal);
    }

    #[test]
    fn a_queue_has_one_owner_and_the_refused_learns_who_and_whether_it_sends() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::with(folder.path(), Settings::default());
        let refused = || match workspace.hold() {
            Err(Error::Held { pid, sending, .. }) => (pid, sending),
            other => panic!("{other:?}"),
        };
        let me = Some(std::process::id());
        let hold = workspace.hold_to_send().unwrap();
        assert_eq!(refused(), (me, true));
        drop(hold);
        let _hold = workspace.hold().unwrap();
        assert_eq!(refused(), (me, false));
        for (said, heard) in [("", (None, false)), ("12\n", (Some(12), true))] {
            fs::write(folder.path().join("state/owner.lock"), said).unwrap();
            assert_eq!(refused(), heard, "{said:?}");
        }
    }
}
