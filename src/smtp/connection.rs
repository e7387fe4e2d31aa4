//! A session carried over a stream: greeting, TLS and login, then copies, each phase with its time limit (RFC 5321
//! §4.5.3.2). What is said when, `session` decides; what a refusal means, `delivery`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::auth::Dialogue;
use super::command::{Command, Name};
use super::reply::{Heard, excerpt};
use super::session::{Begun, Copy, Ending, Patience, Receipt, Session, Step};
use super::tls::Proof;
use super::wire::{Wire, within};
use super::{Associations, Error, Extensions, Login, TlsClient, TlsFacts, Verified};
use crate::base::EnvelopeId;
use crate::mail::{Reply, Stage, TlsFlaw};
use crate::world::Stream;

/// Challenges of one login; the longest mechanism has two.
const CHALLENGES_MAX: usize = 5;

/// Where copies come from, and where their ends go.
pub trait CopySource: Send {
    /// The next copy for this connection, freshly looked at and printed; `None` when there is none, or with
    /// [`Patience::None`] none right now. Cancel-safe: dropped before it is ready, it has handed out nothing.
    fn next(&mut self, patience: Patience) -> impl Future<Output = Option<Copy>> + Send;
    /// Makes durable that the final dot of `id` may go out, together with everything `done` was told before, in one
    /// commit. `false`: it must not go out. Where the host has not heard of it yet, this may have waited long since it was
    /// looked at, and is the moment to look again.
    fn intend(&mut self, id: EnvelopeId, begun: Begun) -> impl Future<Output = bool> + Send;
    /// What became of a copy. Called exactly once for each that `next` gave, but for those that `intend` withheld before the
    /// host had heard of them.
    fn done(&mut self, id: EnvelopeId, receipt: Receipt);
}

/// What a connection must have of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// None, also where STARTTLS is offered.
    Clear,
    /// STARTTLS where it is offered, the certificate not verified.
    Opportunistic,
    /// STARTTLS always, the certificate not verified.
    Required,
    /// STARTTLS always, with a certificate valid for the host's name.
    Verified,
    /// STARTTLS always, with a certificate that the host's zone announces (RFC 7672).
    Announced(Arc<Associations>),
    /// TLS from the first byte, with a certificate valid for the host's name (RFC 8314 §3.3).
    Implicit,
}

/// How long each phase may take (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For the greeting.
    pub greeting: Duration,
    /// For the answer to EHLO.
    pub ehlo: Duration,
    /// For the answer to STARTTLS, and again for the handshake.
    pub starttls: Duration,
    /// For each answer of AUTH.
    pub auth: Duration,
    /// For the answer to MAIL.
    pub mail: Duration,
    /// For the answer to RCPT.
    pub rcpt: Duration,
    /// For the answer to DATA.
    pub data: Duration,
    /// For the network to take some of what we write.
    pub block: Duration,
    /// For the answer to the final dot. Cutting it short makes doubles (C-22).
    pub dot: Duration,
    /// For the answer to QUIT.
    pub quit: Duration,
}

impl Default for Timeouts {
    /// The least that RFC 5321 asks for, and five seconds of politeness at the end.
    fn default() -> Timeouts {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Timeouts {
            greeting: minutes(5),
            ehlo: minutes(5),
            starttls: minutes(2),
            auth: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            dot: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// For the reply at this stage of a copy.
    fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::To => self.rcpt,
            Stage::Data => self.data,
            Stage::Body => self.dot,
            Stage::Route | Stage::Print | Stage::Connect | Stage::Greet | Stage::Secure | Stage::From => self.mail,
        }
    }
}

/// How a connection is to be opened.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Our name in EHLO: the source address's own (C-15).
    pub ehlo_name: Arc<str>,
    /// The host's name, for SNI and the certificate.
    pub host: Arc<str>,
    /// What it must have of TLS.
    pub security: Security,
    /// Whether a certificate that needs not be valid is checked all the same; [`TlsFacts::flaw`] tells.
    pub trial: bool,
    /// Whether BDAT may take the place of DATA where the host offers it (RFC 3030).
    pub chunking: bool,
    /// What to log in with; only inside verified TLS.
    pub login: Option<Login>,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// Who listens in.
    pub tap: Option<Arc<dyn Tap>>,
}

/// Who spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// We.
    Us,
    /// The host.
    Host,
    /// Neither: something that happened, as a handshake.
    Nobody,
}

/// Listens in on the dialogue of a connection: commands and replies, never what a login or a message says.
pub trait Tap: fmt::Debug + Send + Sync {
    /// Whether anybody wants to hear it now.
    fn is_open(&self) -> bool;
    /// One line.
    fn line(&self, speaker: Speaker, line: &str);
}

/// Tells a line to whoever listens.
fn tell(tap: Option<&Arc<dyn Tap>>, speaker: Speaker, line: impl FnOnce() -> String) {
    if let Some(tap) = tap.filter(|tap| tap.is_open()) {
        tap.line(speaker, &line());
    }
}

/// Tells each of our command lines.
fn tell_lines(tap: Option<&Arc<dyn Tap>>, lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        tell(tap, Speaker::Us, || excerpt(line));
    }
}

/// Why no session came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// [`Stage::Greet`] or [`Stage::Secure`].
    pub stage: Stage,
    /// The refusal, or the failure. [`Error::Tls`] only where the handshake failed or TLS is not offered.
    pub heard: Result<Reply, Error>,
}

/// How long the rest of what a host said is waited for after writing to it failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An open mail session with a host.
pub struct Connection {
    wire: Wire,
    session: Session,
    timeouts: Timeouts,
    tls: Option<TlsFacts>,
    tap: Option<Arc<dyn Tap>>,
}

impl Connection {
    /// Takes a TCP connection through greeting, EHLO, TLS and login.
    pub async fn open(stream: Box<dyn Stream>, hello: &Hello, tls: &TlsClient) -> Result<Connection, Refused> {
        let mut door = Door { wire: Wire::new(stream), hello, extensions: Extensions::default(), tls: None };
        if hello.security == Security::Implicit {
            door = door.handshake(tls, Proof::Name).await?;
        }
        door.greeting().await?;
        door.ehlo(Stage::Greet).await?;
        door = door.starttls(tls).await?;
        if let Some(login) = &hello.login {
            door.log_in(login).await?;
        }
        let Door { wire, mut extensions, tls, .. } = door;
        extensions.chunking &= hello.chunking;
        let (timeouts, tap) = (hello.timeouts.clone(), hello.tap.clone());
        Ok(Connection { wire, session: Session::new(extensions), timeouts, tls, tap })
    }

    /// Runs copies until the source has none, `most` were sent, or the connection ends. While it waits for the source it
    /// listens for a 421 or a close. If dropped before it is done, drop the connection too: a copy may be half way.
    pub async fn drive(&mut self, copies: &mut impl CopySource, most: u32) -> Ending {
        self.session.run(most);
        loop {
            match self.session.step() {
                Step::Ask(Patience::Wait) => self.wait_for_a_copy(copies).await,
                Step::Ask(Patience::None) => {
                    let copy = copies.next(Patience::None).await;
                    self.offer(copy);
                }
                Step::Intend(id, begun) => {
                    let may = copies.intend(id, begun).await;
                    self.session.intended(may, Instant::now());
                }
                Step::Say => self.say().await,
                Step::Hear(stage) => self.hear(self.timeouts.of(stage)).await,
                Step::Done(id, receipt) => copies.done(id, receipt),
                Step::End(ending) => return ending,
            }
        }
    }

    fn offer(&mut self, copy: Option<Copy>) {
        match copy {
            Some(copy) => self.session.offer(copy, Instant::now()),
            None => self.session.none(),
        }
    }

    async fn wait_for_a_copy(&mut self, copies: &mut impl CopySource) {
        if self.wire.has_more() {
            return self.hear(LAST_WORDS).await;
        }
        let copy = tokio::select! { biased;
            came = self.wire.fill() => Err(came),
            copy = copies.next(Patience::Wait) => Ok(copy),
        };
        match copy {
            Ok(copy) => self.offer(copy),
            Err(Ok(())) => self.hear(LAST_WORDS).await,
            Err(Err(error)) => self.session.lost(error, Instant::now()),
        }
    }

    /// Writes the flight, unless the host has something to say that nothing asked for: it would be taken for an answer.
    async fn say(&mut self) {
        if self.wire.has_more() {
            return self.hear(LAST_WORDS).await;
        }
        let flight = self.session.flight();
        let (head, message, lines) = (flight.head(), flight.message(), flight.lines());
        tracing::trace!(target: "mailshot::smtp", octets = flight.octets(), "> {}{}", excerpt(head), excerpt(lines));
        let tap = self.tap.as_ref();
        tell_lines(tap, head);
        if message > 0 {
            tell(tap, Speaker::Us, || format!("({message} octets of message)"));
        }
        tell_lines(tap, lines);
        match self.wire.say(|| flight.pieces(), self.timeouts.block).await {
            Ok(()) => self.session.said(),
            Err((octets, error)) => {
                // A host that closes in the middle of a message has often said why.
                self.session.cut_off(octets);
                if let Ok(reply) = self.wire.hear(LAST_WORDS).await {
                    self.session.heard(&reply, Instant::now());
                }
                self.session.lost(error, Instant::now());
            }
        }
    }

    async fn hear(&mut self, limit: Duration) {
        match self.wire.hear(limit).await {
            Ok(reply) => {
                tracing::trace!(target: "mailshot::smtp", "< {}", reply);
                tell(self.tap.as_ref(), Speaker::Host, || reply.to_reply().to_string());
                self.session.heard(&reply, Instant::now());
            }
            Err(error) => {
                tell(self.tap.as_ref(), Speaker::Nobody, || format!("({error})"));
                self.session.lost(error, Instant::now());
            }
        }
    }

    /// Says goodbye and waits briefly for the answer; says nothing on a connection that is no longer good.
    pub async fn quit(mut self) {
        if self.session.is_good() {
            goodbye(&mut self.wire, self.timeouts.quit).await;
        }
    }

    /// What the host offers.
    pub fn extensions(&self) -> &Extensions {
        self.session.extensions()
    }

    /// What was agreed on of TLS; `None` in clear.
    pub fn tls(&self) -> Option<TlsFacts> {
        self.tls.clone()
    }
}

/// Whether the host hears it or answers changes nothing any more.
async fn goodbye(wire: &mut Wire, limit: Duration) {
    let polite = async {
        wire.say(|| std::iter::once(b"QUIT\r\n".as_slice()), limit).await.map_err(|(_, error)| error)?;
        wire.hear(limit).await?;
        Ok(wire.stream.shutdown().await?)
    };
    let _: Result<(), Error> = within(limit, polite).await;
}

/// A connection on its way to a session.
struct Door<'h> {
    wire: Wire,
    hello: &'h Hello,
    extensions: Extensions,
    tls: Option<TlsFacts>,
}

impl<'h> Door<'h> {
    /// Nothing is said before the whole greeting has come (C-14).
    async fn greeting(&mut self) -> Result<(), Refused> {
        let heard = self.wire.hear(self.hello.timeouts.greeting).await.map_err(at(Stage::Greet))?;
        tell(self.hello.tap.as_ref(), Speaker::Host, || heard.to_reply().to_string());
        match heard.code() {
            220 => Ok(()),
            _ => {
                let reply = heard.to_reply();
                self.turn_away(Stage::Greet, reply).await
            }
        }
    }

    /// EHLO, or HELO for a host that does not know it: 500 or 502 (C-15). What the host offered before is forgotten.
    async fn ehlo(&mut self, stage: Stage) -> Result<(), Refused> {
        let name = Name::parse(&self.hello.ehlo_name).ok_or_else(|| {
            let why = format!("`{}` cannot stand in EHLO: it must be a host name", self.hello.ehlo_name);
            at(stage)(Error::Credentials(why))
        })?;
        let limit = self.hello.timeouts.ehlo;
        let heard = self.ask(Command::Ehlo(name), limit).await.map_err(at(stage))?;
        match heard.code() {
            200..=299 => {
                self.extensions = Extensions::of(&heard);
                return Ok(());
            }
            500 | 502 => {}
            _ => {
                let reply = heard.to_reply();
                return self.turn_away(stage, reply).await;
            }
        }
        self.extensions = Extensions::default();
        let heard = self.ask(Command::Helo(name), limit).await.map_err(at(stage))?;
        match heard.code() {
            200..=299 => Ok(()),
            _ => {
                let reply = heard.to_reply();
                self.turn_away(stage, reply).await
            }
        }
    }

    /// STARTTLS, where it is offered or demanded; then EHLO again.
    async fn starttls(mut self, tls: &TlsClient) -> Result<Door<'h>, Refused> {
        let proof = match &self.hello.security {
            Security::Clear | Security::Implicit => return Ok(self),
            Security::Opportunistic if !self.extensions.starttls => return Ok(self),
            Security::Opportunistic | Security::Required if self.hello.trial => Proof::Trial,
            Security::Opportunistic | Security::Required => Proof::None,
            Security::Verified => Proof::Name,
            Security::Announced(announced) => Proof::Zone(announced.clone()),
        };
        if !self.extensions.starttls {
            goodbye(&mut self.wire, self.hello.timeouts.quit).await;
            let why = "the host does not offer STARTTLS, and it is demanded";
            return Err(at(Stage::Secure)(Error::Tls(TlsFlaw::NotOffered, why.into())));
        }
        let limit = self.hello.timeouts.starttls;
        let clear_will_do = self.hello.security == Security::Opportunistic;
        let heard = self.ask(Command::StartTls, limit).await.map_err(at(Stage::Secure))?;
        match heard.code() {
            220 => {}
            // RFC 3207 §4: the session goes on in clear, where that is good enough.
            code if clear_will_do && code != 421 => return Ok(self),
            _ => {
                let reply = heard.to_reply();
                return self.turn_away(Stage::Secure, reply).await;
            }
        }
        let mut door = self.handshake(tls, proof).await?;
        door.ehlo(Stage::Secure).await?;
        Ok(door)
    }

    /// Shakes hands. Whatever the host sent in clear behind its 220 would be read as if it had come inside TLS: then this
    /// is no host to talk to (C-39, CVE-2011-0411).
    async fn handshake(self, tls: &TlsClient, proof: Proof) -> Result<Door<'h>, Refused> {
        let injected = || Error::Garbled("clear text behind the answer to STARTTLS".into());
        let stream = self.wire.into_stream().ok_or_else(injected).map_err(at(Stage::Secure))?;
        let shake =
            async { tls.connect(stream, &self.hello.host, proof).await.map_err(|(flaw, why)| Error::Tls(flaw, why)) };
        let limit = self.hello.timeouts.starttls;
        let (stream, facts) = match within(limit, shake).await {
            Err(Error::TimedOut(limit)) => Err(Error::Tls(TlsFlaw::Other, format!("no handshake within {limit:?}"))),
            other => other,
        }
        .map_err(at(Stage::Secure))?;
        tell(self.hello.tap.as_ref(), Speaker::Nobody, || "(inside TLS from here)".to_owned());
        Ok(Door { wire: Wire::new(stream), hello: self.hello, extensions: Extensions::default(), tls: Some(facts) })
    }

    /// Logs in: only where the host has proved its name inside TLS, so that no one else learns the password (C-46, C-47).
    async fn log_in(&mut self, login: &Login) -> Result<(), Refused> {
        if !self.tls.as_ref().is_some_and(|facts| facts.verified != Verified::No) {
            let why = "a login is sent only where the host has proved its name: use smtp+starttls:// or smtps://";
            return Err(at(Stage::Secure)(Error::Credentials(why.into())));
        }
        let limit = self.hello.timeouts.auth;
        let (mut dialogue, mut line) = Dialogue::begin(login, &self.extensions.auth).map_err(at(Stage::Secure))?;
        let tap = self.hello.tap.as_ref();
        tell(tap, Speaker::Us, || "AUTH (a login, not shown)".to_owned());
        for _ in 0..CHALLENGES_MAX {
            line.push_str("\r\n");
            let heard = say_and_hear(&mut self.wire, line.as_bytes(), limit).await.map_err(at(Stage::Secure))?;
            if heard.code() != 334 {
                tell(tap, Speaker::Host, || heard.to_reply().to_string());
            }
            match heard.code() {
                334 => line = dialogue.answer(heard.lines().next().unwrap_or_default()).map_err(at(Stage::Secure))?,
                200..=299 if dialogue.may_end() => return Ok(()),
                200..=399 => {
                    let why = format!("`{}` in the middle of AUTH", heard.code());
                    return Err(at(Stage::Secure)(Error::Garbled(why)));
                }
                _ => {
                    let reply = heard.to_reply();
                    return self.turn_away(Stage::Secure, reply).await;
                }
            }
        }
        Err(at(Stage::Secure)(Error::Garbled("AUTH without end".into())))
    }

    async fn ask(&mut self, command: Command<'_>, limit: Duration) -> Result<Heard<'_>, Error> {
        let mut line = Vec::with_capacity(64);
        command.write(&mut line);
        tracing::trace!(target: "mailshot::smtp", "> {}", excerpt(&line));
        let tap = self.hello.tap.as_ref();
        tell(tap, Speaker::Us, || excerpt(&line));
        let heard = say_and_hear(&mut self.wire, &line, limit).await?;
        tracing::trace!(target: "mailshot::smtp", "< {}", heard);
        tell(tap, Speaker::Host, || heard.to_reply().to_string());
        Ok(heard)
    }

    /// The host does not want us: goodbye.
    async fn turn_away<T>(&mut self, stage: Stage, reply: Reply) -> Result<T, Refused> {
        if reply.code != 421 {
            goodbye(&mut self.wire, self.hello.timeouts.quit).await;
        }
        Err(Refused { stage, heard: Ok(reply) })
    }
}

/// One command outside a group: what came in before it answers nothing, and must not be taken for an answer.
async fn say_and_hear<'w>(wire: &'w mut Wire, line: &[u8], limit: Duration) -> Result<Heard<'w>, Error> {
    if !wire.has_more() {
        wire.say(|| std::iter::once(line), limit).await.map_err(|(_, error)| error)?;
    }
    wire.hear(limit).await
}

fn at(stage: Stage) -> impl Fn(Error) -> Refused {
    move |error| Refused { stage, heard: Err(error) }
}
