//! Mail hosts that fail by stage, as streams without a task of their own: whatever was written to one has reached it, also
//! when its writer is killed in the next instant. Each keeps a book of what it saw.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mailshot::base::Timestamp;
use mailshot::world::{Clock, Net, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::world::Fate;

/// What a host does, and how often. Chances are per event.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    pub pipelining: bool,
    pub chunking: bool,
    /// What comes of STARTTLS, which is offered for it.
    pub tls: Option<TlsFault>,
    /// Until each answer.
    pub latency: Duration,
    /// Connections refused, and connections that are never greeted.
    pub refuses: f64,
    pub silent: f64,
    /// Greeted with 421.
    pub overloaded: f64,
    /// 451 to the first RCPT of each address.
    pub greylists: bool,
    /// After so many messages on a connection: 421 to MAIL, or no word at all.
    pub most: Option<u32>,
    pub leaves_silently: bool,
    /// 4xx and 5xx to RCPT; the latter always for the same addresses.
    pub defers: f64,
    pub knows_not: f64,
    /// 4xx and 5xx to the final dot.
    pub defers_dot: f64,
    pub refuses_dot: f64,
    /// 421 to the final dot.
    pub dismisses: f64,
    /// Closes in the middle of the message.
    pub drops_before: f64,
    /// Takes the message, and closes without an answer, or never says another word.
    pub drops_after: f64,
    pub mute_after: f64,
    /// Takes the message, and answers after this time.
    pub slow: f64,
    pub slow_for: Duration,
    /// From then on it takes everything.
    pub calm: Option<Timestamp>,
    /// What we are to keep to.
    pub connections_max: usize,
    pub per_second: Option<f64>,
}

/// How a handshake fails. That it succeeds, and whom it proves, is shown with real TLS elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// 454 to STARTTLS.
    Refuses,
    /// 220, and closed in the middle of the handshake.
    Leaves,
    /// 220, and something else than a handshake.
    Garbles,
    /// 220, and nothing more.
    Silent,
}

/// A time in which nothing gets through between us and some hosts: what was written arrives, what they say only afterwards.
#[derive(Debug, Clone)]
pub struct Partition {
    pub hosts: Vec<usize>,
    pub from: Timestamp,
    pub until: Timestamp,
}

/// A message taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub subject: String,
    /// Message-ID, Date and return path: the same when it comes again.
    pub marks: (String, String, String),
}

/// An entry of the log by which two runs are compared.
pub type Entry = (i64, usize, String);

/// What all hosts saw.
#[derive(Debug, Default)]
pub struct Book {
    /// By address and subject.
    pub taken: BTreeMap<(String, String), Vec<Taken>>,
    /// The MAIL before each RCPT: when, and to whom.
    pub mails: Vec<(Timestamp, String)>,
    /// MAILs of each host, with the life they came in.
    pub paced: BTreeMap<usize, Vec<(u32, Timestamp)>>,
    pub life: u32,
    pub open: BTreeMap<usize, usize>,
    /// Hosts that had more connections than they allow, and how many.
    pub pressed: Vec<(usize, usize)>,
    /// Connections that ended while a message was on them or its answer was unread.
    pub cut_short: usize,
    greylisted: BTreeSet<String>,
    pub log: Vec<Entry>,
}

impl Book {
    pub fn connections(&self) -> usize {
        self.open.values().sum()
    }
}

/// All hosts.
#[derive(Clone)]
pub struct Hosts {
    pub manners: Arc<Vec<Manner>>,
    pub book: Arc<Mutex<Book>>,
    pub dice: Arc<Mutex<fastrand::Rng>>,
    pub clock: Arc<dyn Clock>,
    pub fate: Arc<Fate>,
    pub partitions: Arc<Vec<Partition>>,
}

/// The two addresses at which a host listens.
pub fn addresses(host: usize) -> [IpAddr; 2] {
    [1, 101].map(|first| IpAddr::from([198, 51, 100, first + host as u8]))
}

impl Hosts {
    fn chance(&self, of: f64) -> bool {
        of > 0.0 && self.dice.lock().unwrap().f64() < of
    }

    fn manner(&self, host: usize) -> Manner {
        let manner = &self.manners[host];
        match manner.calm {
            Some(calm) if self.clock.now() >= calm => Manner {
                pipelining: manner.pipelining,
                chunking: manner.chunking,
                latency: manner.latency,
                knows_not: manner.knows_not,
                ..Manner::default()
            },
            _ => manner.clone(),
        }
    }

    /// How long nothing gets through to a host from now on.
    fn cut_off(&self, host: usize) -> Duration {
        let now = self.clock.now();
        let holds = |cut: &&Partition| cut.hosts.contains(&host) && cut.from <= now && now < cut.until;
        self.partitions.iter().filter(holds).map(|cut| cut.until.since(now)).max().unwrap_or_default()
    }

    fn note(&self, host: usize, words: String) {
        let now = self.clock.now().as_ms();
        self.book.lock().unwrap().log.push((now, host, words));
    }
}

impl Net for Hosts {
    fn dial(&self, _: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let host = (0..self.manners.len()).find(|host| addresses(*host).contains(&to.ip()));
        let Some(host) = host.filter(|_| to.port() == 25) else { return refused() };
        let hosts = self.clone();
        async move {
            let manner = hosts.manner(host);
            sleep(manner.latency + hosts.cut_off(host)).await;
            hosts.fate.tick();
            if hosts.fate.is_dead() || hosts.chance(manner.refuses) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(Talk::begin(hosts, host, &manner)) as Box<dyn Stream>)
        }
        .boxed()
    }
}

fn refused() -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
    async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
}

/// What comes out of a host, and when.
enum Out {
    Bytes(Vec<u8>),
    End,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum State {
    Commands,
    Message,
    /// So many octets of a chunk are to come.
    Chunk(usize),
    /// Closes with the first octet of the message, or of the handshake.
    Trap,
    /// Answers the first octets of the handshake with something else.
    Garble,
    /// Nothing is read or said any more.
    Mute,
    Closed,
}

/// One connection.
struct Talk {
    hosts: Hosts,
    host: usize,
    inbox: Vec<u8>,
    out: VecDeque<(Instant, Out)>,
    nap: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
    state: State,
    from: String,
    to: Option<String>,
    mail_at: Timestamp,
    done: u32,
    /// Messages begun whose answer was not read.
    unanswered: usize,
}

impl Talk {
    fn begin(hosts: Hosts, host: usize, manner: &Manner) -> Talk {
        {
            let mut book = hosts.book.lock().unwrap();
            let open = book.open.entry(host).or_default();
            *open += 1;
            let open = *open;
            if open > hosts.manners[host].connections_max {
                book.pressed.push((host, open));
            }
        }
        hosts.note(host, "open".into());
        let mut talk = Talk {
            mail_at: hosts.clock.now(),
            hosts,
            host,
            inbox: Vec::new(),
            out: VecDeque::new(),
            nap: None,
            waker: None,
            state: State::Commands,
            from: String::new(),
            to: None,
            done: 0,
            unanswered: 0,
        };
        if talk.hosts.chance(manner.silent) {
            talk.state = State::Mute;
        } else if talk.hosts.chance(manner.overloaded) {
            talk.leave(Some("421 4.3.2 too busy"), manner.latency);
        } else {
            talk.say("220 mx.test ESMTP", manner.latency);
        }
        talk
    }

    fn say(&mut self, line: &str, after: Duration) {
        let after = after.max(self.hosts.cut_off(self.host));
        let at = self.out.back().map_or(Instant::now(), |(at, _)| *at).max(Instant::now() + after);
        self.out.push_back((at, Out::Bytes(format!("{line}\r\n").into_bytes())));
    }

    fn leave(&mut self, line: Option<&str>, after: Duration) {
        if let Some(line) = line {
            self.say(line, after);
        }
        let at = self.out.back().map_or(Instant::now(), |(at, _)| *at);
        self.out.push_back((at, Out::End));
        self.state = State::Closed;
    }

    /// Takes in what has come, line by line.
    fn read(&mut self) {
        loop {
            match self.state {
                State::Trap if !self.inbox.is_empty() => self.leave(None, Duration::ZERO),
                State::Garble if !self.inbox.is_empty() => self.leave(Some("500 what was that?"), Duration::ZERO),
                State::Trap | State::Garble | State::Mute | State::Closed => return self.inbox.clear(),
                State::Commands => {
                    let Some(end) = find(&self.inbox, b"\r\n") else { return };
                    let line = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
                    self.inbox.drain(..end + 2);
                    self.command(&line);
                }
                State::Chunk(octets) => {
                    if self.inbox.len() < octets {
                        return;
                    }
                    let chunk: Vec<u8> = self.inbox.drain(..octets).collect();
                    self.state = State::Commands;
                    match self.to.is_some() {
                        true => self.message(&String::from_utf8_lossy(&chunk)),
                        false => self.say("503 5.5.1 no recipient", self.hosts.manner(self.host).latency),
                    }
                }
                State::Message => {
                    let Some(end) = find(&self.inbox, b"\r\n.\r\n") else { return };
                    let text = String::from_utf8_lossy(&self.inbox[..end]).into_owned();
                    self.inbox.drain(..end + 5);
                    self.state = State::Commands;
                    self.message(&text);
                }
            }
        }
    }

    fn command(&mut self, line: &str) {
        let manner = self.hosts.manner(self.host);
        let after = manner.latency;
        match line.get(..4).unwrap_or_default() {
            "EHLO" => {
                let tls = ("STARTTLS", manner.tls.is_some());
                let offers = [("PIPELINING", manner.pipelining), ("CHUNKING", manner.chunking), tls];
                let offers: String =
                    offers.iter().filter(|(_, has)| *has).map(|(word, _)| format!("250-{word}\r\n")).collect();
                self.say(&format!("250-mx.test\r\n{offers}250 HELP"), after);
            }
            "MAIL" => self.mail(line, &manner),
            "RCPT" => self.rcpt(line, &manner),
            "DATA" if self.to.is_none() => self.say("503 5.5.1 no recipient", after),
            "DATA" => {
                self.say("354 go", after);
                self.unanswered += 1;
                self.state = if self.hosts.chance(manner.drops_before) { State::Trap } else { State::Message };
            }
            "BDAT" => {
                let octets = line.split(' ').nth(1).and_then(|octets| octets.parse().ok()).unwrap();
                self.unanswered += 1;
                let drops = self.to.is_some() && self.hosts.chance(manner.drops_before);
                self.state = if drops { State::Trap } else { State::Chunk(octets) };
            }
            "STAR" => self.secure(&manner),
            "QUIT" => self.leave(Some("221 bye"), after),
            _ => self.say("250 ok", after),
        }
    }

    fn secure(&mut self, manner: &Manner) {
        let state = match manner.tls {
            None | Some(TlsFault::Refuses) => return self.say("454 4.7.0 not now", manner.latency),
            Some(TlsFault::Leaves) => State::Trap,
            Some(TlsFault::Garbles) => State::Garble,
            Some(TlsFault::Silent) => State::Mute,
        };
        self.say("220 go ahead", manner.latency);
        self.state = state;
    }

    fn mail(&mut self, line: &str, manner: &Manner) {
        (self.from, self.to, self.mail_at) = (between(line), None, self.hosts.clock.now());
        {
            let mut book = self.hosts.book.lock().unwrap();
            let entry = (book.life, self.mail_at);
            book.paced.entry(self.host).or_default().push(entry);
        }
        match manner.most {
            Some(most) if self.done >= most && manner.leaves_silently => self.leave(None, manner.latency),
            Some(most) if self.done >= most => self.leave(Some("421 4.3.2 enough for now"), manner.latency),
            _ => self.say("250 2.1.0 ok", manner.latency),
        }
    }

    fn rcpt(&mut self, line: &str, manner: &Manner) {
        let to = between(line);
        self.hosts.note(self.host, format!("to {to}"));
        let first = {
            let mut book = self.hosts.book.lock().unwrap();
            book.mails.push((self.mail_at, to.clone()));
            book.greylisted.insert(to.clone())
        };
        let answer = if is_unknown(&to, manner.knows_not) {
            "550 5.1.1 no such user"
        } else if manner.greylists && first {
            "451 4.7.1 Greylisted, come back later"
        } else if self.hosts.chance(manner.defers) {
            "452 4.2.2 mailbox full"
        } else {
            self.to = Some(to);
            "250 2.1.5 ok"
        };
        self.say(answer, manner.latency);
    }

    fn message(&mut self, text: &str) {
        let manner = self.hosts.manner(self.host);
        let to = self.to.take().expect("the message was asked for");
        self.done += 1;
        if self.hosts.chance(manner.dismisses) {
            return self.leave(Some("421 4.3.0 going down"), manner.latency);
        }
        if self.hosts.chance(manner.defers_dot) {
            return self.say("451 4.3.0 try again", manner.latency);
        }
        if self.hosts.chance(manner.refuses_dot) {
            return self.say("554 5.7.1 not this", manner.latency);
        }
        let header = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().trim_end().to_owned()
        };
        let subject = header("Subject");
        let taken =
            Taken { subject: subject.clone(), marks: (header("Message-ID"), header("Date"), self.from.clone()) };
        self.hosts.note(self.host, format!("taken {to} {subject}"));
        self.hosts.book.lock().unwrap().taken.entry((to, subject)).or_default().push(taken);
        if self.hosts.chance(manner.drops_after) {
            return self.leave(None, manner.latency);
        }
        if self.hosts.chance(manner.mute_after) {
            self.state = State::Mute;
            return;
        }
        let slow = self.hosts.chance(manner.slow);
        self.say("250 2.0.0 taken", if slow { manner.slow_for } else { manner.latency });
    }
}

impl AsyncRead for Talk {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.waker = Some(cx.waker().clone());
            let Some((at, _)) = self.out.front() else { return Poll::Pending };
            let at = *at;
            if at > Instant::now() {
                let mut nap = Box::pin(sleep_until(at));
                let ready = nap.as_mut().poll(cx).is_ready();
                self.nap = Some(nap);
                if !ready {
                    return Poll::Pending;
                }
            }
            match self.out.pop_front() {
                Some((at, Out::Bytes(mut bytes))) => {
                    let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                    buf.put_slice(&bytes);
                    if rest.is_empty() {
                        // the answer to a message: anything but the 354
                        let is_end = self.unanswered > 0 && !bytes.starts_with(b"354") && self.out.is_empty();
                        self.unanswered -= usize::from(is_end);
                    } else {
                        self.out.push_front((at, Out::Bytes(rest)));
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((at, Out::End)) => {
                    self.out.push_front((at, Out::End));
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
        }
    }
}

impl AsyncWrite for Talk {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.state == State::Closed || self.hosts.fate.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.inbox.extend_from_slice(bytes);
        self.read();
        self.hosts.fate.tick();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let mut book = self.hosts.book.lock().unwrap();
        book.cut_short += self.unanswered;
        if let Some(open) = book.open.get_mut(&self.host) {
            *open -= 1;
        }
    }
}

/// Whether an address is one of those that are not known.
fn is_unknown(address: &str, share: f64) -> bool {
    let sum = address.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    f64::from(sum % 1000) < share * 1000.0
}

fn between(line: &str) -> String {
    line.split(['<', '>']).nth(1).unwrap_or_default().to_owned()
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
