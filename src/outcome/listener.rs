//! The listener for returned mail: SMTP, and LMTP behind a mail server of one's own. It is no relay: a recipient is taken
//! only when the token in it is ours, or when it is postmaster or abuse of our domains; and a message is answered with
//! yes only once what follows from it is on disk (H-20…H-24). It never answers by mail.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::base::{Network, Purpose, Seal};
use crate::config;
use crate::outcome::intake::Intake;
use crate::smtp::server::{Answer, Event, Extension, Offer, Protocol, Server};
use crate::smtp::{Certificate, CertificateError};
use crate::world::Stream;

/// How long a client may say nothing (RFC 5321 §4.5.3.2.7).
const IDLE: Duration = Duration::from_secs(300);
/// How long a whole session may take (H-22): whoever sends an octet a minute does not hold a connection for ever.
const SESSION: Duration = Duration::from_secs(30 * 60);
/// How long a client may take to name a recipient of ours before its place can go to another, when all are taken.
const STRANGER: Duration = Duration::from_secs(2);
/// How long a client that finds no place may wait for one. A mail server that has said goodbye dials again before we have
/// read that, so one that keeps to as many connections as it is allowed comes with one more for a moment; sent away, it
/// would leave its report lying for minutes.
const LOBBY: Duration = Duration::from_secs(10);
/// Recipients that are nobody's until a client is sent away: whoever tries tokens gets that many for a connection (B-04).
const UNKNOWN_MAX: u16 = 20;
/// Recipients that are nobody's until a network is slowed down, however many connections it comes with; and how long it takes
/// until one more is let pass (B-04).
const GUESSES: u32 = 100;
const GUESS_EVERY: Duration = Duration::from_secs(30);
/// How long whoever has guessed too much waits for each further answer.
const TARPIT: Duration = Duration::from_secs(5);
/// Networks whose guesses are remembered.
const GUESSERS_MAX: usize = 10_000;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Pause after the system refused a connection to us, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Received fields from which on a message is taken for a loop (RFC 5321 §6.3).
const HOPS_MAX: usize = 100;
/// Messages kept for the postmaster; further ones are refused for the time being.
const POSTMASTER_MAX: usize = 10_000;

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("listener.tls_cert: {0}")]
    Certificate(#[from] CertificateError),
    /// The folder for the postmaster's mail cannot be made.
    #[error("{}: {why}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

/// The listener; clones share its limits.
#[derive(Clone)]
pub struct Listener(Arc<Shared>);

struct Shared {
    intake: Arc<dyn Intake>,
    seal: Seal,
    domains: Vec<String>,
    postmaster: PathBuf,
    certificate: Certificate,
    smtp: Arc<Offer>,
    lmtp: Arc<Offer>,
    connections_max: usize,
    per_client_max: usize,
    seats: Mutex<Seats>,
    /// Told whenever a place was given back.
    freed: Notify,
    guesses: Mutex<Guesses>,
}

/// Who named recipients that are nobody's, by network: how many, and when that was reckoned. Old ones count less and less.
#[derive(Default)]
struct Guesses(BTreeMap<Network, (u32, Instant)>);

impl Guesses {
    /// One more guess; whether it is one too many.
    fn add(&mut self, client: IpAddr, now: Instant) -> bool {
        let network = Network::around(client, 32, 64);
        let forgiven = |since: Instant| (now.duration_since(since).as_secs() / GUESS_EVERY.as_secs()) as u32;
        if self.0.len() >= GUESSERS_MAX && !self.0.contains_key(&network) {
            self.0.retain(|_, (count, since)| *count > forgiven(*since));
            // as many networks at once are one guesser with many faces: the memory begins anew
            if self.0.len() >= GUESSERS_MAX {
                self.0.clear();
            }
        }
        let (count, since) = self.0.entry(network).or_insert((0, now));
        let less = forgiven(*since).min(*count);
        *since = if less == *count { now } else { *since + GUESS_EVERY * less };
        *count -= less;
        if *count >= GUESSES {
            return true;
        }
        *count += 1;
        if *count == GUESSES {
            tracing::warn!(%network, "many recipients that nobody knows: further ones are answered slowly");
        }
        false
    }
}

/// Who is there, in the order of coming.
#[derive(Default)]
struct Seats {
    taken: BTreeMap<u64, Guest>,
    next: u64,
    /// Clients that wait for a place.
    waiting: Vec<IpAddr>,
}

struct Guest {
    client: IpAddr,
    since: Instant,
    /// Set once a recipient of ours was named: such a client is no bore.
    is_known: bool,
    /// Asks the client to leave.
    leave: CancellationToken,
}

/// A place at the listener, given back when dropped.
struct Seat {
    shared: Arc<Shared>,
    client: IpAddr,
    number: u64,
    leave: CancellationToken,
}

impl Seat {
    fn is_known(&self) {
        if let Some(guest) = self.shared.seats().taken.get_mut(&self.number) {
            guest.is_known = true;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.seats().taken.remove(&self.number);
        self.shared.freed.notify_waiters();
    }
}

/// A client in the lobby, gone from there when dropped.
struct Waiting<'a>(&'a Shared, IpAddr);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.0.seats().waiting;
        if let Some(at) = waiting.iter().position(|client| *client == self.1) {
            waiting.swap_remove(at);
        }
    }
}

impl Listener {
    /// A listener as the settings have it. `host_name` is said in greetings unless they name another; mail to the
    /// postmaster is kept in `postmaster`.
    pub fn new(
        settings: &config::Listener,
        host_name: &str,
        postmaster: PathBuf,
        seal: Seal,
        intake: Arc<dyn Intake>,
    ) -> Result<Listener, ListenerError> {
        std::fs::create_dir_all(&postmaster).map_err(|why| ListenerError::Folder { path: postmaster.clone(), why })?;
        let host = settings.host_name.as_deref().unwrap_or(host_name);
        let extensions = Extension::ALL.into_iter().filter(|e| *e != Extension::Dsn).collect();
        let smtp = Offer { extensions, ..Offer::new(host) };
        let lmtp = Offer { protocol: Protocol::Lmtp, ..smtp.clone() };
        Ok(Listener(Arc::new(Shared {
            intake,
            seal,
            domains: settings.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            postmaster,
            certificate: certificate(settings, host)?,
            smtp: Arc::new(smtp),
            lmtp: Arc::new(lmtp),
            connections_max: usize::from(settings.connection_limit),
            per_client_max: usize::from(settings.connections_per_client),
            seats: Mutex::default(),
            freed: Notify::new(),
            guesses: Mutex::default(),
        })))
    }

    /// Binds an address.
    pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenerError> {
        TcpListener::bind(address).await.map_err(|why| ListenerError::Address { address, why })
    }

    /// Takes connections until stopped; sessions under way have their time to end.
    pub async fn run(self, listener: TcpListener, protocol: Protocol, stop: CancellationToken) {
        let keeping = self.0.certificate.keep(&stop);
        tokio::pin!(keeping);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut keeping => return, // stopped
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer.ip(), protocol),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Begins a session, unless there are too many for too long: then the client is told to come back.
    fn welcome(&self, mut stream: TcpStream, client: IpAddr, protocol: Protocol) {
        let _ = stream.set_nodelay(true);
        let listener = self.clone();
        tokio::spawn(async move {
            // A client that went away is no error of ours.
            let _ = match listener.0.place(client).await {
                Some(seat) => listener.serve(Box::new(stream), protocol, seat).await,
                None => stream.write_all(b"421 4.7.0 too many connections, come back later\r\n").await,
            };
        });
    }

    /// Speaks with one client that is let in without being counted, as a test does.
    #[cfg(test)]
    pub(super) async fn receive(&self, stream: Box<dyn Stream>, protocol: Protocol) -> io::Result<()> {
        let seat = self.0.seat(IpAddr::from([192, 0, 2, 99])).expect("a place is free");
        self.serve(stream, protocol, seat).await
    }

    /// Speaks with one client until it leaves, or must.
    async fn serve(&self, stream: Box<dyn Stream>, protocol: Protocol, seat: Seat) -> io::Result<()> {
        let offer = match protocol {
            Protocol::Smtp => self.0.smtp.clone(),
            Protocol::Lmtp => self.0.lmtp.clone(),
        };
        let visit = Visit {
            shared: &self.0,
            server: Server::new(offer),
            protocol,
            end: Instant::now() + SESSION,
            seat,
            unknown: 0,
        };
        visit.run(stream).await
    }
}

impl Shared {
    /// A place for a client, which may have to wait for it; none when there is none for too long, or too many wait.
    async fn place(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        if let Some(seat) = self.seat(client) {
            return Some(seat);
        }
        let _waiting = self.wait(client)?;
        let end = Instant::now() + LOBBY;
        loop {
            // asked for before looking, so that nothing given back in between is missed
            let freed = self.freed.notified();
            if let Some(seat) = self.seat(client) {
                return Some(seat);
            }
            if Instant::now() >= end {
                return None;
            }
            // a place is also had from a bore, which nobody tells of
            let _ = timeout_at(end.min(Instant::now() + STRANGER), freed).await;
        }
    }

    /// Lets a client wait, unless as many wait already as might be served, or half as many of its own.
    fn wait(&self, client: IpAddr) -> Option<Waiting<'_>> {
        let waiting = &mut self.seats().waiting;
        let own = waiting.iter().filter(|other| **other == client).count();
        (waiting.len() < self.connections_max && own * 2 < self.connections_max).then(|| {
            waiting.push(client);
            Waiting(self, client)
        })
    }

    /// A place for a client: when all are taken, that of whoever has sat there longest without naming a recipient of ours.
    fn seat(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let mut seats = self.seats();
        let own = seats.taken.values().filter(|guest| guest.client == client).count();
        if own >= self.per_client_max {
            return None;
        }
        if seats.taken.len() >= self.connections_max {
            let is_bore = |guest: &Guest| !guest.is_known && guest.since.elapsed() >= STRANGER;
            let bore = seats.taken.iter().find(|(_, guest)| is_bore(guest)).map(|(number, _)| *number)?;
            seats.taken.remove(&bore)?.leave.cancel();
        }
        let (number, leave) = (seats.next, CancellationToken::new());
        seats.next += 1;
        let guest = Guest { client, since: Instant::now(), is_known: false, leave: leave.clone() };
        seats.taken.insert(number, guest);
        Some(Seat { shared: self.clone(), client, number, leave })
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        // Each change is one step, so a panic elsewhere leaves the books whole.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a recipient that is nobody's; whether its client has named too many.
    fn guessed(&self, client: IpAddr) -> bool {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner).add(client, Instant::now())
    }

    /// Whose address it is.
    fn addressee(&self, recipient: &str) -> Addressee {
        let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, ""));
        let local = local.to_ascii_lowercase();
        let is_role = matches!(local.as_str(), "postmaster" | "abuse");
        if is_role
            && (self.domains.contains(&domain.to_ascii_lowercase()) || domain.is_empty() && local == "postmaster")
        {
            return Addressee::Postmaster;
        }
        let purpose = match local.get(..2) {
            Some("b.") => Purpose::Bounce,
            Some("u.") => Purpose::Unsubscribe,
            _ => return Addressee::Nobody,
        };
        match self.seal.open(&local[2..], purpose) {
            Some(_) => Addressee::Copy,
            None => Addressee::Nobody,
        }
    }

    /// Records a message for one recipient; the reply when it cannot be.
    async fn record(&self, raw: &[u8], recipient: &str) -> Result<(), &'static str> {
        match self.addressee(recipient) {
            Addressee::Copy => match self.intake.take(raw, Some(recipient)).await {
                Ok(_) => Ok(()),
                Err(why) => {
                    tracing::error!(%why, "returned mail cannot be recorded");
                    Err("451 4.3.0 it cannot be recorded now, come back later")
                }
            },
            Addressee::Postmaster => self.keep(raw).await,
            Addressee::Nobody => Err("550 5.1.1 nobody here by that name"),
        }
    }

    /// Keeps a message for the postmaster, synced, under a name made from its content: the same one twice is one file.
    async fn keep(&self, raw: &[u8]) -> Result<(), &'static str> {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, raw);
        let name = format!("{}.eml", data_encoding::HEXLOWER.encode(&hash.as_ref()[..16]));
        let (folder, raw) = (self.postmaster.clone(), raw.to_vec());
        let kept = tokio::task::spawn_blocking(move || keep(&folder, &name, &raw)).await;
        match kept {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => {
                tracing::error!(%why, "mail to the postmaster cannot be kept");
                Err("452 4.3.1 no room, come back later")
            }
            Err(_) => Err("451 4.3.0 it cannot be recorded now, come back later"),
        }
    }
}

fn keep(folder: &Path, name: &str, raw: &[u8]) -> io::Result<()> {
    if std::fs::read_dir(folder)?.count() >= POSTMASTER_MAX {
        return Err(io::Error::other("the folder is full: read and clear it"));
    }
    let draft = folder.join(format!("{name}.part"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    io::Write::write_all(&mut file, raw)?;
    file.sync_all()?;
    std::fs::rename(&draft, folder.join(name))?;
    std::fs::File::open(folder)?.sync_all()
}

/// Whose address a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressee {
    /// A copy's return path or unsubscribe address, by a token of ours.
    Copy,
    /// A person's, at one of our domains.
    Postmaster,
    /// Nobody's.
    Nobody,
}

/// One connection.
struct Visit<'a> {
    shared: &'a Shared,
    server: Server,
    protocol: Protocol,
    /// When the session ends whatever is said.
    end: Instant,
    seat: Seat,
    /// Recipients refused so far.
    unknown: u16,
}

impl Visit<'_> {
    async fn run(mut self, mut stream: Box<dyn Stream>) -> io::Result<()> {
        loop {
            while let Some(event) = self.server.event() {
                match event {
                    Event::Opened | Event::Hello(_) | Event::From(_) | Event::Data => self.server.answer(Answer::Take),
                    Event::To(recipient) => match self.shared.addressee(&recipient) {
                        Addressee::Copy | Addressee::Postmaster => {
                            self.seat.is_known();
                            self.server.answer(Answer::Take);
                        }
                        Addressee::Nobody => self.refuse().await,
                    },
                    Event::Message(raw) => self.receive(&raw).await,
                    Event::StartTls => {
                        self.flush(&mut stream).await?;
                        let handshake =
                            timeout_at(Instant::now() + HANDSHAKE, self.shared.certificate.acceptor().accept(stream));
                        stream = Box::new(handshake.await??);
                        self.server.secured();
                    }
                    Event::Closed => {
                        self.flush(&mut stream).await?;
                        return stream.shutdown().await;
                    }
                }
            }
            self.flush(&mut stream).await?;
            let patience = self.end.min(Instant::now() + IDLE);
            let read = tokio::select! {
                biased;
                () = self.seat.leave.cancelled() => {
                    let farewell = stream.write_all(b"421 4.3.2 others wait, come back later\r\n");
                    return timeout_at(Instant::now() + STRANGER, farewell).await?;
                }
                read = timeout_at(patience, stream.read_buf(self.server.room())) => read,
            };
            match read {
                Ok(Ok(0)) => return Ok(()),
                Ok(read) => drop(read?),
                Err(_) => return stream.write_all(b"421 4.4.2 this takes too long\r\n").await,
            }
        }
    }

    /// Refuses a recipient that is nobody's, and after many of them the client. Over many connections it is refused slowly;
    /// recipients of ours are taken meanwhile: a large host passes on reports and other people's guesses alike.
    async fn refuse(&mut self) {
        self.unknown += 1;
        // behind a mail server of one's own all clients have its address
        let too_many = self.protocol == Protocol::Smtp && self.shared.guessed(self.seat.client);
        if too_many {
            sleep(TARPIT).await;
        }
        self.server.answer(Answer::Say(match self.unknown {
            _ if too_many => "421 4.7.0 too many recipients that nobody knows",
            ..UNKNOWN_MAX => "550 5.1.1 nobody here by that name",
            UNKNOWN_MAX.. => {
                tracing::warn!(refused = self.unknown, "a client that tries recipients was sent away");
                "421 4.7.0 too many recipients that nobody knows"
            }
        }));
    }

    /// Records a message for each of its recipients and answers: once for all in SMTP, for each in LMTP.
    async fn receive(&mut self, raw: &[u8]) {
        let recipients = self.server.recipients().to_vec();
        let looping = hops(raw) >= HOPS_MAX;
        let mut refusal = None;
        for recipient in &recipients {
            let done = match looping {
                true => Err("554 5.4.6 this message is going round in circles"),
                false => self.shared.record(raw, recipient).await,
            };
            match self.protocol {
                Protocol::Smtp => refusal = refusal.or(done.err()),
                Protocol::Lmtp => self.server.answer(done.map_or_else(Answer::Say, |()| Answer::Take)),
            }
        }
        if self.protocol == Protocol::Smtp {
            self.server.answer(refusal.map_or(Answer::Take, Answer::Say));
        }
    }

    async fn flush(&mut self, stream: &mut Box<dyn Stream>) -> io::Result<()> {
        let output = self.server.output();
        if output.is_empty() {
            return Ok(());
        }
        match timeout_at(self.end.max(Instant::now() + HANDSHAKE), stream.write_all(output)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        output.clear();
        stream.flush().await
    }
}

/// Received fields in the header.
fn hops(raw: &[u8]) -> usize {
    let head = memchr::memmem::find(raw, b"\r\n\r\n").map_or(raw, |end| &raw[..end]);
    let is_hop = |line: &&[u8]| line.len() > 9 && line[..9].eq_ignore_ascii_case(b"received:");
    head.split(|b| *b == b'\n').filter(is_hop).count()
}

/// The certificate of the settings, or one of our own making: enough for the opportunistic TLS of port 25.
fn certificate(settings: &config::Listener, host: &str) -> Result<Certificate, CertificateError> {
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(chain), Some(key)) => Certificate::load(chain.clone(), key.clone(), &[]),
        (Some(_), None) | (None, Some(_)) | (None, None) => Certificate::make(host),
    }
}

#[cfg(test)]
mod tests;
