//! The test receiver: a mail host that does what a script says, over any stream. It keeps books of what it saw, checks
//! signatures, and never stores or forwards a message unless told to keep copies in a folder.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::proving::Error;
use crate::proving::counts::{Books, Counts, Tally};
use crate::proving::script::{Fault, Moment, Personality, Script, Then};
use crate::proving::verifier::Verifier;
use crate::smtp::server::{Answer, Event, Offer, Server};
use crate::world::{Dice, SeededDice, Stream};

/// How long a client may say nothing (RFC 5321 §4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(300);
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Pause after the system refused a connection to us, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a receiver is made from.
pub struct Setup {
    /// What it does.
    pub script: Script,
    /// Who checks signatures; nobody: they are not checked.
    pub verifier: Option<Verifier>,
    /// Where copies of the messages taken go, one `.eml` each; the folder exists.
    pub shelf: Option<PathBuf>,
}

/// A test receiver; clones share books and memory.
#[derive(Clone)]
pub struct Receiver(Arc<Shared>);

struct Shared {
    script: Script,
    /// What each personality offers.
    offers: Vec<Arc<Offer>>,
    verifier: Option<Verifier>,
    shelf: Option<PathBuf>,
    shelved: AtomicU64,
    acceptor: TlsAcceptor,
    certificate: String,
    dice: SeededDice,
    books: Mutex<Books>,
    memory: Mutex<Memory>,
}

/// What the receiver remembers beyond a connection.
#[derive(Default)]
struct Memory {
    /// First time and number of times, by fault, client, return path and recipient.
    seen: HashMap<u64, (Instant, u32)>,
    /// Open connections, by personality and client.
    open: HashMap<(usize, IpAddr), u32>,
    /// Start of the running window and what came in it, by personality and fault.
    rates: HashMap<(usize, usize), (Instant, u32)>,
}

impl Receiver {
    /// A receiver with a certificate of its own making.
    pub fn new(setup: Setup) -> Result<Receiver, Error> {
        let Setup { script, verifier, shelf } = setup;
        let (acceptor, certificate) = make_certificate()?;
        let offer = |name: &str| {
            let personality = script.personality(script.find(name).expect("a name of the script"));
            Arc::new(Offer {
                extensions: personality.extensions.clone(),
                limits: personality.limits.clone(),
                size_max: personality.size_max,
                errors_max: personality.errors_max,
                ..Offer::new(personality.host.clone().unwrap_or_else(|| format!("{name}.sink.test")))
            })
        };
        let offers = script.names().map(offer).collect();
        let dice = SeededDice::new(script.seed);
        Ok(Receiver(Arc::new(Shared {
            script,
            offers,
            verifier: verifier.filter(Verifier::has_keys),
            shelf,
            shelved: AtomicU64::new(0),
            acceptor,
            certificate,
            dice,
            books: Mutex::default(),
            memory: Mutex::default(),
        })))
    }

    /// The script it follows.
    pub fn script(&self) -> &Script {
        &self.0.script
    }

    /// Whether signatures are checked.
    pub fn is_verifying(&self) -> bool {
        self.0.verifier.is_some()
    }

    /// Its certificate in PEM, for clients that are to trust it. Good for `localhost`, `127.0.0.1` and `*.sink.test`.
    pub fn certificate(&self) -> &str {
        &self.0.certificate
    }

    /// What it saw so far.
    pub fn counts(&self) -> Counts {
        self.0.books().counts()
    }

    /// Messages taken so far, and connections open.
    pub fn glance(&self) -> (u64, u64) {
        self.0.books().glance()
    }

    /// What one recipient saw so far.
    pub fn of(&self, recipient: &str) -> Tally {
        self.0.books().of(recipient)
    }

    /// Takes connections until stopped; `personality` is that of a session before its first recipient.
    pub async fn listen(self, listener: TcpListener, personality: usize, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // A flight of replies is one write: waiting for more would only delay it.
            let _ = stream.set_nodelay(true);
            let receiver = self.clone();
            tokio::spawn(async move { receiver.serve(Box::new(stream), peer.ip(), personality).await });
        }
    }

    /// Speaks with one client until it leaves.
    pub async fn serve(&self, stream: Box<dyn Stream>, client: IpAddr, personality: usize) {
        let shared = self.0.clone();
        shared.books().opened();
        *shared.memory().open.entry((personality, client)).or_default() += 1;
        let mut visit = Visit {
            server: Server::new(shared.offers[personality].clone()),
            shared: shared.clone(),
            client,
            session: personality,
            met: None,
            begun: 0,
        };
        // A client that is gone is no error of ours.
        let _ = visit.run(stream).await;
        if let Some(open) = shared.memory().open.get_mut(&(personality, client)) {
            *open -= 1;
        }
        shared.books().ended(visit.server.errors());
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
struct Visit {
    shared: Arc<Shared>,
    server: Server,
    client: IpAddr,
    /// Whose faults strike before a recipient is known: the listener's, then that of the first recipient.
    session: usize,
    /// The personality of the last recipient.
    met: Option<usize>,
    /// Messages begun.
    begun: u32,
}

/// What the loop is to do about an event.
enum Act {
    /// Answer yes.
    Take,
    /// Answer with this.
    Say(String),
    /// Leave, after this reply when there is one.
    Leave(Option<String>),
    /// Say nothing any more.
    Silence,
}

impl Visit {
    async fn run(&mut self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        loop {
            while let Some(event) = self.server.event() {
                let (moment, message) = match event {
                    Event::Opened => (Moment::Greet, None),
                    Event::Hello(_) => (Moment::Hello, None),
                    Event::From(_) => (Moment::From, None),
                    Event::To(recipient) => {
                        self.meet(&recipient);
                        self.pause(&mut stream, Moment::To).await?;
                        let act = self.decide(Moment::To, Some(&recipient));
                        if !self.act(&mut stream, act).await? {
                            return Ok(());
                        }
                        continue;
                    }
                    Event::Data => (Moment::Data, None),
                    Event::Message(content) => (Moment::Dot, Some(content)),
                    Event::StartTls => {
                        self.flush(&mut stream).await?;
                        stream = match self.decide(Moment::Secure, None) {
                            Act::Take => self.secure(stream).await?,
                            Act::Silence => return silence(&mut stream).await,
                            Act::Say(_) | Act::Leave(_) => return Ok(()),
                        };
                        continue;
                    }
                    Event::Closed => {
                        self.flush(&mut stream).await?;
                        return stream.shutdown().await;
                    }
                };
                self.pause(&mut stream, moment).await?;
                let act = match message {
                    Some(content) => self.receive(content).await,
                    None => self.decide(moment, self.known_recipient(moment).as_deref()),
                };
                if !self.act(&mut stream, act).await? {
                    return Ok(());
                }
                if moment == Moment::Data && !self.body(&mut stream).await? {
                    return Ok(());
                }
            }
            self.flush(&mut stream).await?;
            match timeout(IDLE, stream.read_buf(self.server.room())).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(read) => read?,
                Err(_) => return stream.write_all(b"421 4.4.2 nothing heard for too long\r\n").await,
            };
        }
    }

    /// Carries an act out; whether the dialogue goes on.
    async fn act(&mut self, stream: &mut Box<dyn Stream>, act: Act) -> io::Result<bool> {
        match act {
            Act::Take => self.server.answer(Answer::Take),
            Act::Say(reply) => self.server.answer(Answer::Say(&reply)),
            Act::Leave(reply) => {
                self.shared.books().closed();
                if let Some(reply) = reply {
                    self.server.answer(Answer::Say(&reply));
                }
                self.flush(stream).await?;
                stream.shutdown().await?;
                return Ok(false);
            }
            Act::Silence => {
                self.flush(stream).await?;
                silence(stream).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// After the 354: a fault in the middle of the content; whether the dialogue goes on.
    async fn body(&mut self, stream: &mut Box<dyn Stream>) -> io::Result<bool> {
        let recipient = self.known_recipient(Moment::Body);
        match self.decide(Moment::Body, recipient.as_deref()) {
            Act::Take => Ok(true),
            act => {
                self.flush(stream).await?;
                stream.read_buf(self.server.room()).await?;
                if let Act::Silence = act {
                    silence(stream).await?;
                }
                self.shared.books().closed();
                Ok(false)
            }
        }
    }

    /// A whole message: what is said about it, its signatures checked, the books kept.
    async fn receive(&mut self, content: Vec<u8>) -> Act {
        let recipients = self.server.recipients().to_vec();
        let first = recipients.first().map(String::as_str);
        let fault = first.and_then(|first| self.strike(Moment::Dot, Some(first)));
        let taken = fault.as_ref().is_none_or(|fault| fault.keeps || says_yes(fault));
        let act = self.commit(fault, first);
        if taken {
            let signed =
                self.shared.verifier.as_ref().filter(|_| self.shared.dice.fraction() < self.shared.script.verify);
            let signed = signed.map(|verifier| verifier.check(&content));
            let id = message_id(&content);
            {
                let mut books = self.shared.books();
                signed.into_iter().for_each(|signed| books.signed(signed));
                recipients.iter().for_each(|recipient| books.taken(recipient, id, content.len()));
            }
            self.shelve(&content).await;
        }
        act
    }

    /// Keeps a copy when told to; a folder that does not take it is said once per message, and stops nothing.
    async fn shelve(&self, content: &[u8]) {
        let Some(folder) = &self.shared.shelf else { return };
        let number = self.shared.shelved.fetch_add(1, Ordering::Relaxed) + 1;
        let path = folder.join(format!("{number:07}.eml"));
        if let Err(why) = tokio::fs::write(&path, content).await {
            tracing::error!("{}: {why}", path.display());
        }
    }

    /// A recipient is named: from its first one on, a session is that of the recipient's host.
    fn meet(&mut self, recipient: &str) {
        let met = self.shared.script.meets(recipient, self.session);
        if self.met.is_none() {
            self.session = met;
        }
        self.met = Some(met);
    }

    /// The recipient a moment is about.
    fn known_recipient(&self, moment: Moment) -> Option<String> {
        match moment {
            Moment::Greet | Moment::Hello | Moment::Secure | Moment::From => None,
            Moment::To | Moment::Data | Moment::Body | Moment::Dot => self.server.recipients().first().cloned(),
        }
    }

    fn personality(&self, moment: Moment) -> usize {
        match moment {
            Moment::Greet | Moment::Hello | Moment::Secure | Moment::From => self.session,
            Moment::To | Moment::Data | Moment::Body | Moment::Dot => self.met.unwrap_or(self.session),
        }
    }

    fn decide(&mut self, moment: Moment, recipient: Option<&str>) -> Act {
        if moment == Moment::From {
            self.begun += 1;
        }
        let fault = self.strike(moment, recipient);
        self.commit(fault, recipient)
    }

    /// What a fault makes of an answer, and the books' line about it.
    fn commit(&self, fault: Option<Fault>, recipient: Option<&str>) -> Act {
        let Some(fault) = fault else { return Act::Take };
        let filled = |reply: &String| {
            let client = self.client.to_string();
            reply.trim_end().replace("{recipient}", recipient.unwrap_or_default()).replace("{client}", &client)
        };
        let reply = fault.reply.as_ref().map(filled);
        if let Some(reply) = &reply {
            self.shared.books().replied(reply, recipient);
        }
        match (fault.then, reply) {
            (Then::GoOn, Some(reply)) => Act::Say(reply),
            (Then::Silence, _) => Act::Silence,
            (Then::Close, reply) => Act::Leave(reply),
            (Then::GoOn, None) => Act::Take,
        }
    }

    /// The first fault that strikes now.
    fn strike(&self, moment: Moment, recipient: Option<&str>) -> Option<Fault> {
        let who = self.personality(moment);
        let personality = self.shared.script.personality(who);
        let mut faults = personality.faults.iter().enumerate().filter(|(_, fault)| fault.at == moment);
        let struck = faults.find(|(number, fault)| self.holds(fault, personality, (who, *number), recipient));
        struck.map(|(_, fault)| fault.clone())
    }

    /// Whether all conditions of a fault hold; those that leave a trace in memory are asked last.
    fn holds(&self, fault: &Fault, personality: &Personality, at: (usize, usize), recipient: Option<&str>) -> bool {
        let concerned = recipient.is_none_or(|one| self.shared.script.concerns(fault, personality, at.1, one));
        let began_many = fault.after.is_none_or(|after| self.begun > after);
        if !concerned || !began_many || !self.is_crowded(fault) {
            return false;
        }
        if fault.chance < 1.0 && self.shared.dice.fraction() >= fault.chance {
            return false;
        }
        self.is_fast(fault, at) && self.is_new(fault, at, recipient)
    }

    fn is_crowded(&self, fault: &Fault) -> bool {
        let Some(most) = fault.over_connections else { return true };
        let memory = self.shared.memory();
        let open = memory.open.iter().filter(|((_, client), _)| *client == self.client).map(|(_, open)| *open);
        open.sum::<u32>() > most
    }

    fn is_fast(&self, fault: &Fault, at: (usize, usize)) -> bool {
        let Some(rate) = fault.over_rate else { return true };
        let now = Instant::now();
        let mut memory = self.shared.memory();
        let (start, count) = memory.rates.entry(at).or_insert((now, 0));
        if now - *start >= rate.window() {
            (*start, *count) = (now, 0);
        }
        *count += 1;
        *count > rate.count()
    }

    fn is_new(&self, fault: &Fault, at: (usize, usize), recipient: Option<&str>) -> bool {
        if fault.times.is_none() && fault.within.is_none() {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        (at, self.client, self.server.sender(), recipient).hash(&mut hasher);
        let now = Instant::now();
        let mut memory = self.shared.memory();
        let (first, times) = memory.seen.entry(hasher.finish()).or_insert((now, 0));
        *times += 1;
        fault.times.is_none_or(|most| *times <= most) && fault.within.is_none_or(|span| now - *first < span.duration())
    }

    /// Waits as the personality would before an answer; what was said before goes out first.
    async fn pause(&mut self, stream: &mut Box<dyn Stream>, moment: Moment) -> io::Result<()> {
        let delays = &self.shared.script.personality(self.personality(moment)).delays;
        let delay = delays.before(moment);
        if delay > Duration::ZERO {
            self.flush(stream).await?;
            sleep(delay).await;
        }
        Ok(())
    }

    /// Writes what is to be said: in one flight, or octet by octet.
    async fn flush(&mut self, stream: &mut Box<dyn Stream>) -> io::Result<()> {
        if self.server.output().is_empty() {
            return Ok(());
        }
        let delays = self.shared.script.personality(self.session).delays;
        if let Some(round_trip) = delays.round_trip {
            sleep(round_trip.duration()).await;
        }
        match delays.octet {
            None => stream.write_all(self.server.output()).await?,
            Some(pause) => {
                for octet in self.server.output().clone() {
                    stream.write_all(&[octet]).await?;
                    stream.flush().await?;
                    sleep(pause.duration()).await;
                }
            }
        }
        self.server.output().clear();
        stream.flush().await
    }

    async fn secure(&mut self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let handshake = timeout(HANDSHAKE, self.shared.acceptor.accept(stream)).await;
        let secured = handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.server.secured();
        self.shared.books().secured();
        Ok(Box::new(secured))
    }
}

/// Hears everything and says nothing, until the client leaves.
async fn silence(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(|_| ())
}

fn says_yes(fault: &Fault) -> bool {
    fault.reply.as_deref().is_some_and(|reply| reply.starts_with('2'))
}

/// The value of the Message-ID field; empty when there is none.
fn message_id(content: &[u8]) -> &[u8] {
    const FIELD: &[u8] = b"message-id:";
    let mut rest = content;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].trim_ascii();
        if line.is_empty() {
            return &[];
        }
        if line.len() >= FIELD.len() && line[..FIELD.len()].eq_ignore_ascii_case(FIELD) {
            return line[FIELD.len()..].trim_ascii();
        }
        rest = &rest[end + 1..];
    }
    &[]
}

/// A key and a certificate for it, signed by itself.
fn make_certificate() -> Result<(TlsAcceptor, String), Error> {
    let failed = |why: &dyn std::fmt::Display| Error::Certificate(why.to_string());
    let names = ["localhost", "127.0.0.1", "sink.test", "*.sink.test"].map(str::to_owned).to_vec();
    let made = rcgen::generate_simple_self_signed(names).map_err(|why| failed(&why))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(|why| failed(&why))?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

#[cfg(test)]
mod tests;
