//! The sending path in pieces, each as small as it can be had: letters printed and signed, a dialogue with a host that
//! takes everything, copies settled on a ledger, and the whole engine. All on one thread and in memory.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use mailshot::base::{
    Address, CampaignName, ContactId, Domain, EditionId, EnvelopeId, LaunchId, Seal, SealKey, Span, Timestamp, bucket,
};
use mailshot::compose::{Edition, FromField, Missing, Template, Words};
use mailshot::config::Settings;
use mailshot::engine::{Crew, Engine, Parts, Ready, Workspace};
use mailshot::mail::{Class, Envelope, InDoubt, Message, Outcome, Recipient, Stage, Standing};
use mailshot::queue::{
    Admission, Durability, Lease, Ledger, MemoryLedger, Next, Opening, Queue, Settlement, SledLedger,
};
use mailshot::sign::{Algorithm, Keyring, create_key};
use mailshot::smtp::{Begun, Connection, Copy, CopySource, Hello, Patience, Receipt, Security, Timeouts, TlsClient};
use mailshot::store::{LaunchOptions, NewContact, OnConflict, QueuePlace, Store, Threads};
use mailshot::world::{NetTable, SimulatedClock, Stream, World, Zone};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::runtime::{Builder, Runtime};

const NOW: Timestamp = Timestamp::from_ms(1_795_000_000_000);
/// Domains of the recipients.
const DOMAINS: u32 = 50;
/// Connections at once.
const CONNECTIONS: usize = 50;
/// Where everything goes.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What letters are filled with.
const FILLING: &str = "A line of words that fills the letter up to its size, and says nothing of any use.";

/// A runtime whose clock jumps whenever nobody has anything to do.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

fn envelope(number: u32) -> Envelope {
    Envelope {
        date: Some(NOW),
        ..Envelope::new(
            EnvelopeId::new(LaunchId(1), ContactId(number)),
            EditionId(1),
            NOW,
            NOW + Duration::from_secs(3600),
        )
    }
}

fn address(number: u32) -> Address {
    Address::parse(&format!("p{number}@d{}.test", number % DOMAINS)).expect("a sound address")
}

/// A letter of about 4 KiB with a handful of fields, and the key it is signed with.
pub struct Letter {
    template: Template,
    seal: Seal,
    keyring: Keyring,
    _keys: TempDir,
}

impl Letter {
    pub fn new(algorithm: Algorithm) -> Letter {
        let keys = tempfile::tempdir().expect("a folder");
        let domain = Domain::parse("example.com").expect("a domain");
        create_key(keys.path(), &domain, "s1", algorithm).expect("a key");
        Letter {
            template: Template::compile(&edition()).expect("a sound letter"),
            seal: Seal::new(vec![SealKey::new('a', &[7; 32]).expect("a name")]).expect("a key"),
            keyring: Keyring::open(keys.path(), Span::secs(3600)).expect("a ring of one key"),
            _keys: keys,
        }
    }

    fn recipient(number: u32) -> Recipient {
        let fields = [("city", "Köln"), ("joined", "2024-05-06")].map(|(name, value)| (name.to_owned(), value.into()));
        let (address, name) = (address(number), "Ada Lovelace".to_owned());
        let fields = fields.into_iter().collect();
        Recipient { contact: ContactId(number), address, name, fields, consent: Default::default() }
    }

    /// The texts of one copy.
    pub fn words(&self, number: u32) -> Words {
        let urls = self.template.plain_urls(envelope(number).id, &self.seal);
        self.template.words(&Letter::recipient(number), &urls).expect("every field is there")
    }

    /// One copy, unsigned.
    pub fn print(&self, number: u32) -> Message {
        self.template.print(&envelope(number), &Letter::recipient(number), &self.seal).expect("every field is there")
    }

    /// The same, signed.
    pub fn sign(&self, message: Message) -> Message {
        self.keyring.sign(self.template.from_domain(), message).expect("there is a key")
    }
}

fn edition() -> Edition {
    let (html, text) = (format!("<p>{FILLING}</p>\n").repeat(19), format!("{FILLING}\n").repeat(17));
    Edition {
        format: Edition::FORMAT,
        campaign: "welcome".into(),
        subject: "What is new in {{city}}, {{default name \"friend\"}}".into(),
        from: FromField { name: "News".into(), address: "news@example.com".into() },
        reply_to: None,
        headers: Vec::new(),
        html: format!(
            "<h1>Dear {{{{name}}}}</h1>\n{html}<p>{{{{email}}}}, with us since {{{{joined}}}}: <a href=\"{{{{unsubscribe_url}}}}\">leave</a></p>\n"
        ),
        text: format!(
            "Dear {{{{name}}}}\n\n{text}\n{{{{email}}}}, with us since {{{{joined}}}}: {{{{unsubscribe_url}}}}\n"
        ),
        inline: Vec::new(),
        attachments: Vec::new(),
        lists: vec!["news".into()],
        postal_address: "Example Ltd, 1 High Street, Exampletown".into(),
        base_url: "https://mail.example.com".into(),
        mailto_domain: "bounce.example.com".into(),
        bounce_domain: "bounce.example.com".into(),
        sender_id: "examplecom".into(),
        missing: Missing::Error,
        in_doubt: InDoubt::Resend,
        tracking: Default::default(),
        links: Vec::new(),
    }
}

/// Copies of one message, and nobody who waits for what becomes of them.
struct Shelf {
    message: Message,
    given: u32,
}

impl CopySource for Shelf {
    async fn next(&mut self, _: Patience) -> Option<Copy> {
        self.given += 1;
        let id = EnvelopeId::new(LaunchId(1), ContactId(self.given));
        let message = Message { id, bytes: self.message.bytes.clone() };
        Some(Copy {
            id,
            return_path: "b.token@bounce.example.com".into(),
            to: address(self.given),
            message,
            early: true,
        })
    }

    async fn intend(&mut self, _: EnvelopeId, _: Begun) -> bool {
        true
    }

    fn done(&mut self, _: EnvelopeId, receipt: Receipt) {
        assert_eq!(receipt.stage, Stage::Body);
    }
}

/// One connection: so many copies of `message` to a host with PIPELINING.
pub async fn talk(tls: &TlsClient, message: &Message, copies: u32) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(take_all(theirs));
    let hello = Hello {
        ehlo_name: "mail.example.com".into(),
        host: "mx.test".into(),
        security: Security::Clear,
        trial: false,
        chunking: true,
        login: None,
        timeouts: Timeouts::default(),
        tap: None,
    };
    let mut connection = Connection::open(Box::new(ours), &hello, tls).await.expect("the host is open");
    connection.drive(&mut Shelf { message: message.clone(), given: 0 }, copies).await;
    connection.quit().await;
}

/// A host that takes everything.
async fn take_all(stream: DuplexStream) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let (mut lines, mut line, mut says, mut in_message) = (BufReader::new(read), Vec::new(), Vec::new(), false);
    write.write_all(b"220 mx.test\r\n").await?;
    while lines.read_until(b'\n', &mut line).await? > 0 {
        let answer: &[u8] = match line.get(..4) {
            _ if in_message && line == b".\r\n" => {
                in_message = false;
                b"250 2.0.0 taken\r\n"
            }
            _ if in_message => b"",
            Some(b"EHLO") => b"250-mx.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            Some(b"DATA") => {
                in_message = true;
                b"354 go on\r\n"
            }
            _ => b"250 2.1.0 good\r\n",
        };
        says.extend_from_slice(answer);
        line.clear();
        if lines.buffer().is_empty() {
            write.write_all(&says).await?;
            says.clear();
        }
    }
    Ok(())
}

/// A queue with copies due, and as many connections as take them from it.
pub struct Road {
    queue: Queue,
}

impl Road {
    /// Puts so many copies on a ledger on disk, each commit of which is synced.
    pub async fn on_disk(copies: u32) -> (Road, TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = SledLedger::open(folder.path(), 64, Durability::Synced).expect("a ledger");
        (Road::with(ledger, copies).await, folder)
    }

    /// The same in memory.
    pub async fn in_memory(copies: u32) -> Road {
        Road::with(MemoryLedger::default(), copies).await
    }

    async fn with(ledger: impl Ledger + 'static, copies: u32) -> Road {
        let opening = Opening {
            clock: Arc::new(SimulatedClock::starting(NOW)),
            last_outcome: 0,
            in_doubt: Box::new(|_| InDoubt::Resend),
            bucket,
            held: BTreeSet::new(),
        };
        let (queue, keeper) = Queue::open(ledger, opening).expect("a new ledger");
        tokio::spawn(keeper.run());
        let copies = (1..=copies).map(|number| (address(number).domain().clone(), envelope(number))).collect();
        let admission = Admission { launch: LaunchId(1), bucket: 0, cursor: Vec::new(), copies };
        queue.admit(admission).await.expect("the ledger takes them");
        Road { queue }
    }

    /// Leases every copy, and settles it in the commit that lets the next one of its connection go on.
    pub async fn deliver(&self) {
        let mut open: Vec<Option<Lease>> = (0..CONNECTIONS).map(|_| None).collect();
        while self.queue.depth().waiting > 0 {
            let claimed = self.queue.claim().await.expect("the queue is open");
            self.take(&claimed.domain, &mut open).await;
        }
    }

    async fn take(&self, domain: &Domain, open: &mut [Option<Lease>]) {
        loop {
            let mut leases = self.queue.lease(domain, open.len()).await.expect("the queue is open").into_iter();
            let mut batch: Vec<Settlement> = Vec::new();
            for place in open.iter_mut() {
                batch.extend(place.take().map(delivered));
                *place = leases.next();
                batch.extend(place.as_ref().map(Lease::intend));
            }
            if batch.is_empty() {
                return;
            }
            self.queue.settle(batch).await.expect("the ledger takes them");
        }
    }
}

fn delivered(lease: Lease) -> Settlement {
    let outcome = Outcome {
        envelope: lease.envelope.id,
        state: Standing::Delivered,
        class: Class::Delivered,
        code: Some(250),
        enhanced: None,
        stage: Some(Stage::Body),
        text: "taken".into(),
        host: None,
        site: Some("test".into()),
        channel: None,
        tries: 1,
        doubtful: 0,
        at: NOW,
    };
    lease.settle(outcome, Next::Gone)
}

/// The whole engine over a record and a ledger in memory, signing with Ed25519; one host takes everything.
pub struct Whole {
    _folder: TempDir,
    workspace: Workspace,
    store: Store,
    ready: Ready,
    people: u32,
}

impl Whole {
    /// An engine's workspace with so many people, who have got nothing yet.
    pub async fn with(people: u32) -> Whole {
        let folder = tempfile::tempdir().expect("a folder");
        let domain = Domain::parse("example.com").expect("a domain");
        // before the workspace, which would make one for RSA
        let keys = Workspace::with(folder.path(), Settings::default()).keys_folder();
        create_key(&keys, &domain, "e1", Algorithm::Ed25519).expect("a key");
        let workspace = Workspace::create(folder.path()).expect("a workspace").workspace;
        let campaign = CampaignName::parse("letter").expect("a name");
        write_campaign(&folder.path().join("campaigns/letter")).expect("a campaign");
        let store = Store::open("sqlite::memory:", folder.path(), Threads::Inline).expect("a record");
        let list = store.make_list("news".to_owned(), NOW).await.expect("a list");
        let import = store.begin_import("people.csv".into(), list, None, NOW).await.expect("an import");
        let batch = (0..people).map(person).collect();
        store.import_batch(batch, list, import, OnConflict::Fill, NOW).await.expect("people on record");
        let options = LaunchOptions { via: Some(format!("smtp://{HOST}:25")), ..LaunchOptions::default() };
        let ready = Ready::check(&workspace, &store, &campaign, &options).expect("a sound campaign");
        Whole { _folder: folder, workspace, store, ready, people }
    }

    /// Sends everybody a letter, from the first claim to the last outcome on record.
    pub async fn send(self) {
        let launch = self.ready.launch(&self.store, NOW).await.expect("a launch on record").id;
        let door = |_| {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(take_all(theirs));
            std::future::ready(Ok(Box::new(ours) as Box<dyn Stream>)).boxed()
        };
        let net = NetTable::default().host(SocketAddr::new(HOST, 25), door);
        let parts = Parts {
            workspace: self.workspace,
            world: World::simulated(NOW, Zone::default(), net, 1),
            store: self.store.clone(),
            threads: Threads::Inline,
            place: QueuePlace::default(),
            crew: Crew::Sending,
        };
        let engine = Engine::start(parts, MemoryLedger::default()).await.expect("an engine");
        let handle = engine.handle();
        handle.take_up(launch);
        while self.store.launch(launch).expect("the record").is_none_or(|row| row.finished.is_none()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        engine.stop(Duration::ZERO).await;
        let counts = mailshot::outcome::report(&self.store, launch).expect("the record").expect("the launch").counts;
        assert_eq!(counts.delivered, u64::from(self.people));
    }
}

const CAMPAIGN: &str = "\
subject = \"What is new, {{name}}\"
from = \"News <news@example.com>\"
lists = [\"news\"]
template = \"plain\"
";

/// A letter of about 4 KiB as a campaign.
fn write_campaign(folder: &Path) -> std::io::Result<()> {
    let body =
        format!("Dear {{{{name}}}}\n\n{}{{{{email}}}} is where this goes.\n", format!("{FILLING}\n\n").repeat(10));
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("campaign.toml"), CAMPAIGN)?;
    std::fs::write(folder.join("body.md"), body)
}

fn person(number: u32) -> NewContact {
    let address = address(number);
    let bucket = bucket(address.domain());
    NewContact { address, name: "Ada Lovelace".into(), fields: serde_json::Map::new(), bucket }
}
