//! What this machine sends, measured on the whole path: invented people imported into a workspace of its own, planned,
//! printed, signed, queued with every commit on disk, and sent over real sockets to a receiver in another process, whose
//! time is not counted.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::base::{Address, CampaignName, ContactId, EditionId, EnvelopeId, LaunchId};
use crate::campaign;
use crate::compose::{self, SAMPLE_POSTAL_ADDRESS, Template, sample};
use crate::engine::{self, Crew, Engine, Handle, LaunchError, Parts, Ready, Workspace, place};
use crate::mail::Envelope;
use crate::outcome::report;
use crate::proving::people::Crowd;
use crate::queue::{self, Durability, Ledger, Move, Pair, SledLedger};
use crate::sign::{self, Algorithm, create_key};
use crate::store::{self, LaunchOptions, Store, Threads};
use crate::world::{Dice, SeededDice, World, machine_clock};

/// The file of the people who get the letter.
pub const PEOPLE: &str = "people.csv";
/// The list they are to be on.
pub const LIST: &str = "bench";
/// The seed of the crowd.
const SEED: u64 = 20_261_124;
/// How often it is looked whether all is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a run may take beside a millisecond per message and a hundredfold round trip.
const PATIENCE: Duration = Duration::from_secs(300);
/// What connections on the wire get to end.
const GRACE: Duration = Duration::from_secs(5);
/// Signatures made by each thread to find out what one costs.
const SIGNATURES: usize = 400;
/// Ticks of `/proc/self/stat` in a second: fixed by Linux for programs, whatever the kernel's own.
const TICKS: f64 = 100.0;
/// Characters of filling from which the size of a message is reckoned.
const TRIAL: usize = 2000;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file of this machine.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The workspace.
    #[error(transparent)]
    Workspace(#[from] engine::WorkspaceError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] sign::Error),
    /// The record.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The campaign.
    #[error(transparent)]
    Campaign(#[from] campaign::Error),
    /// Its content.
    #[error(transparent)]
    Content(#[from] compose::Error),
    /// A copy of it.
    #[error("the measured message cannot be printed: {0}")]
    Print(String),
    /// The launch.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The outside.
    #[error(transparent)]
    World(#[from] crate::world::Error),
    /// The cryptography.
    #[error("no key to measure a signature with could be made")]
    Signature,
    /// It did not come to an end.
    #[error("not every copy was final after {} s: does {via} take mail?", after.as_secs())]
    Unfinished {
        /// The receiver.
        via: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Some copies were not delivered.
    #[error("{settled} of {messages} copies were delivered or refused as told; what the receiver defers is no measure")]
    Refused {
        /// How many were to be.
        messages: u64,
        /// How many were.
        settled: u64,
    },
}

/// With what the messages are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SigningKey {
    /// RSA with 2048 bits, as everybody checks it.
    Rsa,
    /// Ed25519.
    Ed25519,
    /// Not at all.
    None,
}

/// What is to be measured.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    /// Recipients of each run.
    pub messages: u64,
    /// Their domains.
    pub domains: u32,
    /// Whether the domains are as unequal as in the world; else each has as many.
    pub skewed: bool,
    /// Whether the receiver refuses some of them.
    pub refused: bool,
    /// Connections at most.
    pub connections: u16,
    /// Octets of a finished message, as far as the letter can be filled up to it.
    pub size: usize,
    /// The signature.
    pub key: SigningKey,
    /// Whether each commit is on disk before it counts.
    pub durable: bool,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Messages delivered.
    pub messages: u64,
    /// From the first claim to the last durable outcome.
    pub seconds: f64,
    /// Processor time of this process in programs, in seconds.
    pub user: f64,
    /// The same in the kernel.
    pub sys: f64,
    /// The most memory in use at once, in MB.
    pub rss_peak_mb: f64,
    /// From lease to durable settlement, in ms: the median.
    pub p50_ms: f64,
    /// The same, which one copy in a hundred exceeds.
    pub p99_ms: f64,
    /// Commits of the queue, each synced to the disk.
    pub commits: u64,
    /// How long one of them took, in ms: the median.
    pub commit_ms: f64,
    /// Octets this process gave to the disk, in MB.
    pub written_mb: f64,
    /// Microseconds of one bare signature with all signing threads busy: the median. 0 without signatures.
    pub sign_us: f64,
}

impl Run {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// Microseconds of processor time per message.
    pub fn cpu_us(&self) -> f64 {
        (self.user + self.sys) * 1e6 / self.messages as f64
    }

    /// The share of processor time against that of a bare signature; 0 without signatures.
    pub fn over_sign(&self) -> f64 {
        if self.sign_us > 0.0 { self.cpu_us() / self.sign_us } else { 0.0 }
    }
}

/// A workspace with everybody in it.
pub struct Bench {
    workspace: Workspace,
    store: Store,
    load: Load,
    /// The receiver, as `--via` names it.
    via: String,
    body: String,
    size: usize,
    signing: Signing,
}

impl Bench {
    /// Makes the workspace in `folder`, which is there and empty, with the file of [`PEOPLE`]. They are to be imported by
    /// another process: the memory of that is no part of what is measured.
    pub fn set_up(folder: &Path, load: Load, via: String) -> Result<Bench, BenchError> {
        write(&folder.join("mailshot.toml"), &settings_file(&load))?;
        let workspace = Workspace::create(folder)?.workspace;
        replace_key(&workspace, load.key)?;
        let store = workspace.store(Threads::Own)?;
        let signing = Signing::new(load.key)?;
        let mut bench = Bench { workspace, store, load, via, body: String::new(), size: 0, signing };
        bench.fill_up()?;
        let people = folder.join(PEOPLE);
        write_people(&people, &bench.load).map_err(|why| BenchError::File { path: people, why })?;
        Ok(bench)
    }

    /// Octets of a finished message to an invented person.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sends one letter to `messages` people, and measures. `number` is one that no other run has.
    pub async fn run(&self, number: u32, messages: u64) -> Result<Run, BenchError> {
        let name = self.campaign(number)?;
        let options = LaunchOptions { via: Some(self.via.clone()), limit: Some(messages), ..LaunchOptions::default() };
        let ready = Ready::check(&self.workspace, &self.store, &name, &options)?;
        let before = self.signing.measure()?;
        let _hold = self.workspace.hold_to_send()?;
        let (engine, commits) = self.start().await?;
        let handle = engine.handle();
        let launch = ready.launch(&self.store, machine_clock().now()).await?.id;
        forget_peak();
        commits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (began, used, written) = (Instant::now(), Used::now()?, written_mb()?);
        handle.take_up(launch);
        let finished = self.finished(&handle, launch, messages).await;
        let (took, used) = (began.elapsed(), Used::now()?.since(used));
        let (spans, rss_peak_mb, written_mb) = (handle.queue().spans(), peak_mb()?, written_mb()? - written);
        let mut commits = commits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        engine.stop(GRACE).await;
        finished?;
        let after = self.signing.measure()?;
        let counts = report(&self.store, launch)?.map(|report| report.counts).unwrap_or_default();
        let settled = counts.delivered + if self.load.refused { counts.failed } else { 0 };
        if settled != messages {
            return Err(BenchError::Refused { messages, settled });
        }
        let ms = |share| spans.quantile(share).map_or(0.0, |span| span.as_secs_f64() * 1e3);
        Ok(Run {
            messages,
            seconds: took.as_secs_f64(),
            user: used.user,
            sys: used.sys,
            rss_peak_mb,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            commits: commits.len() as u64,
            commit_ms: median(&mut commits),
            written_mb,
            sign_us: (before + after) / 2.0,
        })
    }

    /// Waits until the record has the last outcome. In this order: a launch that is planned has all its copies in the
    /// depth read after it.
    async fn finished(&self, handle: &Handle, launch: LaunchId, messages: u64) -> Result<(), BenchError> {
        let patience = PATIENCE + Duration::from_millis(messages);
        let began = Instant::now();
        while began.elapsed() < patience {
            sleep(LOOK_EVERY).await;
            let planned = self.store.launch(launch)?.is_none_or(|row| row.planned);
            let depth = handle.depth();
            let is_left = depth.by_launch.contains_key(&launch);
            if planned && !is_left && self.store.last_outcome()? >= depth.last_outcome {
                return Ok(());
            }
        }
        Err(BenchError::Unfinished { via: self.via.clone(), after: patience })
    }

    async fn start(&self) -> Result<(Engine, Times), BenchError> {
        let folder = self.workspace.queue_folder();
        let durability = if self.load.durable { Durability::Synced } else { Durability::Unsynced };
        let commits = Times::default();
        let ledger = SledLedger::open(&folder, self.workspace.settings().queue.cache_mb, durability)?;
        let parts = Parts {
            workspace: self.workspace.clone(),
            world: World::real(self.workspace.settings().name_service())?,
            store: self.store.clone(),
            threads: Threads::Own,
            place: place(&folder),
            crew: Crew::Sending,
        };
        Ok((Engine::start(parts, Counted { ledger, commits: commits.clone() }).await?, commits))
    }

    /// Writes the campaign of a run.
    fn campaign(&self, number: u32) -> Result<CampaignName, BenchError> {
        let name = CampaignName::parse(&format!("bench-{number}")).expect("a fixed form");
        let folder = self.workspace.folder().join("campaigns").join(name.as_str());
        fs::create_dir_all(&folder).map_err(|why| BenchError::File { path: folder.clone(), why })?;
        write(&folder.join("campaign.toml"), CAMPAIGN)?;
        write(&folder.join("body.md"), &self.body)?;
        Ok(name)
    }

    /// Fills the letter up to the size that is wanted: the filling stands in both parts, so two trials tell how much.
    fn fill_up(&mut self) -> Result<(), BenchError> {
        let (bare, filled) = (self.trial(0)?, self.trial(TRIAL)?);
        let per_character = (filled.saturating_sub(bare)).max(1) as f64 / TRIAL as f64;
        let wanted = self.load.size.saturating_sub(bare) as f64 / per_character;
        self.size = self.trial(wanted as usize)?;
        Ok(())
    }

    /// The size of a message with so many characters of filling.
    fn trial(&mut self, filling: usize) -> Result<usize, BenchError> {
        self.body = body(filling);
        let campaign = self.workspace.campaign(&self.campaign(0)?)?;
        let edition = campaign.freeze(self.workspace.folder(), self.workspace.settings())?;
        let template = Template::compile(&edition)?;
        let to = Address::parse("somebody.invented@d7.bench.test").expect("a fixed address");
        let recipient = sample(&template, to);
        let now = machine_clock().now();
        let envelope = Envelope {
            date: Some(now),
            ..Envelope::new(EnvelopeId::new(LaunchId(1), ContactId(1)), EditionId(0), now, now)
        };
        let printed = template.print(&envelope, &recipient, &self.workspace.seal()?);
        let message = printed.map_err(|why| BenchError::Print(why.to_string()))?;
        Ok(match self.load.key {
            SigningKey::None => message.bytes.len(),
            SigningKey::Rsa | SigningKey::Ed25519 => {
                self.workspace.keyring()?.sign(template.from_domain(), message)?.bytes.len()
            }
        })
    }
}

/// How long each commit took, in ms.
type Times = Arc<Mutex<Vec<f64>>>;

/// A ledger whose commits are timed.
struct Counted {
    ledger: SledLedger,
    commits: Times,
}

impl Ledger for Counted {
    fn commit(&mut self, moves: &[Move]) -> Result<(), queue::Error> {
        let began = Instant::now();
        let done = self.ledger.commit(moves);
        let took = began.elapsed().as_secs_f64() * 1e3;
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        done
    }

    fn scan(&self, prefix: &[u8], from: &[u8], most: usize) -> Result<Vec<Pair>, queue::Error> {
        self.ledger.scan(prefix, from, most)
    }

    fn last(&self, prefix: &[u8]) -> Result<Option<Pair>, queue::Error> {
        self.ledger.last(prefix)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, queue::Error> {
        self.ledger.value(key)
    }
}

/// Processor time of this process, in seconds.
#[derive(Clone, Copy)]
struct Used {
    user: f64,
    sys: f64,
}

impl Used {
    fn now() -> Result<Used, BenchError> {
        let stat = read("/proc/self/stat")?;
        // the name in parentheses may hold anything; `utime` and `stime` are fields 14 and 15 (proc_pid_stat(5))
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let [user, sys] = [10, 11].map(|at| fields.get(at).copied().unwrap_or_default() / TICKS);
        Ok(Used { user, sys })
    }

    fn since(self, before: Used) -> Used {
        Used { user: self.user - before.user, sys: self.sys - before.sys }
    }
}

/// Lets the system measure the most memory in use anew; where it does not, the most is that of the import too.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn peak_mb() -> Result<f64, BenchError> {
    let status = read("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or_default();
    Ok(kib * 1024.0 / 1e6)
}

/// Octets given to the disk so far, in MB, as the system counts them for this process.
fn written_mb() -> Result<f64, BenchError> {
    let io = read("/proc/self/io")?;
    let octets = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    Ok(octets.and_then(|octets| octets.trim().parse::<f64>().ok()).unwrap_or_default() / 1e6)
}

fn read(path: &str) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(|why| BenchError::File { path: path.into(), why })
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|why| BenchError::File { path: path.to_owned(), why })
}

/// A key, to find out what one signature costs.
enum Signing {
    Rsa(RsaKey),
    Ed25519(Ed25519KeyPair),
    None,
}

impl Signing {
    fn new(key: SigningKey) -> Result<Signing, BenchError> {
        let no_key = |_| BenchError::Signature;
        Ok(match key {
            SigningKey::Rsa => Signing::Rsa(RsaKey::generate(KeySize::Rsa2048).map_err(no_key)?),
            SigningKey::Ed25519 => Signing::Ed25519(Ed25519KeyPair::generate().map_err(no_key)?),
            SigningKey::None => Signing::None,
        })
    }

    fn sign(&self, text: &[u8]) -> Option<()> {
        match self {
            Signing::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).ok()
            }
            Signing::Ed25519(key) => (!key.sign(text).as_ref().is_empty()).then_some(()),
            Signing::None => None,
        }
    }

    /// Microseconds of one signature over a short text with a thread on every core busy: the median. 0 without a key.
    fn measure(&self) -> Result<f64, BenchError> {
        if let Signing::None = self {
            return Ok(0.0);
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let timed = || -> Option<Vec<f64>> {
            let time = |number: usize| {
                let began = Instant::now();
                self.sign(&number.to_be_bytes()).map(|()| began.elapsed().as_secs_f64() * 1e6)
            };
            (0..SIGNATURES).map(time).collect()
        };
        let times = thread::scope(|scope| {
            let working: Vec<_> = (0..threads).map(|_| scope.spawn(timed)).collect();
            let done = working.into_iter().map(|thread| thread.join().ok().flatten());
            done.collect::<Option<Vec<_>>>()
        });
        Ok(median(&mut times.ok_or(BenchError::Signature)?.concat()))
    }
}

/// The middle one of an odd number, the upper middle one of an even number; 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Puts the key that is wanted in the place of the one a new workspace has.
fn replace_key(workspace: &Workspace, key: SigningKey) -> Result<(), BenchError> {
    if key == SigningKey::Rsa {
        return Ok(());
    }
    let domain = workspace.campaign(&CampaignName::parse(engine::SAMPLE_CAMPAIGN).expect("a fixed name"))?;
    let domain = domain.from_domain().clone();
    let folder = workspace.keys_folder().join(domain.as_str());
    fs::remove_dir_all(&folder).map_err(|why| BenchError::File { path: folder.clone(), why })?;
    if key == SigningKey::Ed25519 {
        create_key(&workspace.keys_folder(), &domain, "e1", Algorithm::Ed25519)?;
    }
    Ok(())
}

/// People as many as are wanted, at domains as many as are wanted.
fn write_people(path: &Path, load: &Load) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    writeln!(file, "email,name,city,joined")?;
    let dice = SeededDice::new(SEED);
    for (number, person) in (0..load.messages).zip(Crowd::new(SEED)) {
        let local = person.email.split('@').next().unwrap_or_default();
        let domains = load.domains.max(1);
        let domain = match load.skewed {
            // the n-th largest has about 1/n of the largest
            true => (f64::from(domains).powf(dice.fraction()) as u32 - 1).into(),
            false => number % u64::from(domains),
        };
        writeln!(file, "{local}.{number}@d{domain}.bench.test,{},{},{}", person.name, person.city, person.joined)?;
    }
    file.flush()
}

fn settings_file(load: &Load) -> String {
    format!(
        "# The workspace of `mailshot bench`: everything goes to one test receiver.
[sender]
postal_address = \"{SAMPLE_POSTAL_ADDRESS}\"

[dkim]
unsigned = {}

[relay]
connection_limit = {}

[queue]
durable = {}
",
        load.key == SigningKey::None,
        load.connections,
        load.durable
    )
}

const CAMPAIGN: &str = "\
subject = \"What is new in {{default city \\\"your town\\\"}}, {{default name \\\"friend\\\"}}\"
preheader = \"Since {{default joined \\\"long ago\\\"}} much has changed.\"
from = \"Bench <bench@example.com>\"
lists = [\"bench\"]
template = \"plain\"
";

/// A personal letter with so many characters of filling.
fn body(filling: usize) -> String {
    let mut text = String::from(
        "Dear {{default name \"friend\"}},\n\nthis letter goes to {{email}}, who has read us since {{default joined \"long \
         ago\"}} in {{default city \"a town unknown to us\"}}.\n\n",
    );
    let begun = text.len();
    let mut number = 0;
    while text.len() - begun + 80 < filling {
        number += 1;
        let _ = writeln!(text, "Line {number} fills the letter up to its size and says nothing of any use.\n");
    }
    let rest = filling.saturating_sub(text.len() - begun);
    text.extend("word ".chars().cycle().take(rest));
    text.push_str("\n\nYours, the bench\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(size: usize, key: SigningKey) -> Load {
        Load { messages: 10, domains: 3, skewed: false, refused: false, connections: 2, size, key, durable: true }
    }

    #[test]
    fn the_letter_is_filled_up_to_its_size_whatever_the_key() {
        for key in [SigningKey::Ed25519, SigningKey::None] {
            let folder = tempfile::tempdir().unwrap();
            let bench = Bench::set_up(folder.path(), load(6000, key), "smtp://127.0.0.1:1".to_owned()).unwrap();
            assert!(bench.size().abs_diff(6000) < 200, "{key:?}: {}", bench.size());
            let domain = crate::base::Domain::parse("example.com").unwrap();
            assert_eq!(bench.workspace.keyring().unwrap().has_key(&domain), key != SigningKey::None);
            let people = fs::read_to_string(folder.path().join(PEOPLE)).unwrap();
            assert_eq!(people.lines().filter(|line| line.contains(".bench.test,")).count(), 10);
        }
    }

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn what_this_process_uses_is_told_by_the_system() {
        let before = Used::now().unwrap();
        assert!(Signing::new(SigningKey::Ed25519).unwrap().measure().unwrap() > 0.0);
        let used = Used::now().unwrap().since(before);
        assert!(used.user >= 0.0 && used.sys >= 0.0 && peak_mb().unwrap() > 1.0);
    }
}
