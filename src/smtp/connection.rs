//! A session carried over a stream.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::session::{Copy, Receipt};
use super::tls::Proof;
use super::{Error, Extensions, Login, TlsClient, TlsFacts};
use crate::base::EnvelopeId;
use crate::mail::{Reply, Stage};
use crate::world::Stream;

/// Whether the source of copies may let the connection wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It must answer at once: the end of a copy is about to go out, and the next may share its flight. Printing is
    /// fine, waiting for pace or leases is not.
    None,
    /// It may wait: nothing is open on the connection.
    Wait,
}

/// Where copies come from, and where their ends go.
pub trait CopySource: Send {
    /// The next copy for this connection, freshly looked at and printed; `None` when there is none, or with
    /// [`Patience::None`] none right now. Cancel-safe: dropped before it is ready, it has handed out nothing.
    fn next(&mut self, patience: Patience) -> impl Future<Output = Option<Copy>> + Send;
    /// Makes durable that the final dot of `id` may go out, together with everything `done` was told before, in one
    /// commit. `false`: it must not go out.
    fn intend(&mut self, id: EnvelopeId) -> impl Future<Output = bool> + Send;
    /// What became of a copy. Called exactly once for each that `next` gave.
    fn done(&mut self, id: EnvelopeId, receipt: Receipt);
}

/// What a connection must have of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// None, also where STARTTLS is offered.
    Clear,
    /// STARTTLS where it is offered, the certificate not verified.
    Opportunistic,
    /// STARTTLS always, the certificate not verified.
    Required,
    /// STARTTLS always, with a certificate valid for the host's name.
    Verified,
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

/// How a connection is to be opened.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Our name in EHLO: the source address's own (C-15).
    pub ehlo_name: Arc<str>,
    /// The host's name, for SNI and the certificate.
    pub host: Arc<str>,
    /// What it must have of TLS.
    pub security: Security,
    /// What to log in with; only inside verified TLS.
    pub login: Option<Login>,
    /// How long each phase may take.
    pub timeouts: Timeouts,
}

/// Why no session came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// [`Stage::Greet`] or [`Stage::Secure`].
    pub stage: Stage,
    /// The refusal, or the failure. [`Error::Tls`] only where the handshake failed or TLS is not offered.
    pub heard: Result<Reply, Error>,
}

/// How a run of copies ended. Nothing is open on the connection afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The source has none. The connection is good for more.
    Idle,
    /// As many as were asked for have been sent. The connection is good for more.
    Enough,
    /// The host takes no more on this connection (LIMITS MAILMAX).
    Full,
    /// A copy was withheld by `intend` after the host was ready for it: nothing but the end of the connection undoes that.
    Withheld,
    /// The host ended the session by a 421 (C-21), asked or not.
    Dismissed(Reply),
    /// The connection is lost.
    Broken(Error),
}

/// An open mail session with a host.
pub struct Connection {
    stream: Box<dyn Stream>,
    timeouts: Timeouts,
    extensions: Extensions,
    tls: Option<TlsFacts>,
}

impl Connection {
    /// Takes a TCP connection through greeting and EHLO.
    pub async fn open(mut stream: Box<dyn Stream>, hello: &Hello, tls: &TlsClient) -> Result<Connection, Refused> {
        let mut facts = None;
        if hello.security == Security::Implicit {
            let spoilt = |why| Refused { stage: Stage::Secure, heard: Err(Error::Tls(why)) };
            let (secret, agreed) = tls.connect(stream, &hello.host, Proof::Name).await.map_err(spoilt)?;
            (stream, facts) = (secret, Some(agreed));
        }
        let refused = |heard| Refused { stage: Stage::Greet, heard };
        let lines = hear(&mut stream, hello.timeouts.greeting).await.map_err(|error| refused(Err(error)))?;
        if lines.0 != 220 {
            return Err(refused(Ok(reply(lines))));
        }
        let mut connection =
            Connection { stream, timeouts: hello.timeouts.clone(), extensions: Extensions::default(), tls: facts };
        connection.greet(hello).await.map_err(refused)?;
        let proof = match hello.security {
            Security::Clear | Security::Implicit => return Ok(connection),
            Security::Opportunistic if !connection.extensions.starttls => return Ok(connection),
            Security::Opportunistic | Security::Required => Proof::None,
            Security::Verified => Proof::Name,
        };
        connection.secure(hello, tls, proof).await.map_err(|heard| Refused { stage: Stage::Secure, heard })
    }

    async fn secure(
        mut self,
        hello: &Hello,
        tls: &TlsClient,
        proof: Proof,
    ) -> Result<Connection, Result<Reply, Error>> {
        match self.say(b"STARTTLS\r\n", hello.timeouts.starttls).await {
            Ok(reply) if reply.code == 220 => {}
            other => return Err(other),
        }
        let (stream, facts) = tls.connect(self.stream, &hello.host, proof).await.map_err(|why| Err(Error::Tls(why)))?;
        let mut connection = Connection { stream, tls: Some(facts), ..self };
        connection.greet(hello).await?;
        Ok(connection)
    }

    async fn greet(&mut self, hello: &Hello) -> Result<(), Result<Reply, Error>> {
        let ehlo = format!("EHLO {}\r\n", hello.ehlo_name);
        self.stream.write_all(ehlo.as_bytes()).await.map_err(|error| Err(error.into()))?;
        let lines = hear(&mut self.stream, hello.timeouts.ehlo).await.map_err(Err)?;
        if lines.0 != 250 {
            return Err(Ok(reply(lines)));
        }
        self.extensions = Extensions::of_lines(lines.1.iter().map(String::as_str));
        Ok(())
    }

    /// Runs copies until the source has none, `most` were sent, or the connection ends.
    pub async fn drive(&mut self, copies: &mut impl CopySource, most: u32) -> Ending {
        for _ in 0..most {
            let Some(copy) = copies.next(Patience::Wait).await else { return Ending::Idle };
            let began = Instant::now();
            let (stage, heard) = self.send(copies, &copy).await;
            let ending = match &heard {
                Ok(reply) if reply.code == 421 => Some(Ending::Dismissed(reply.clone())),
                Ok(_) => None,
                Err(error) => Some(Ending::Broken(error.clone())),
            };
            copies.done(copy.id, Receipt { stage, heard, took: began.elapsed() });
            if let Some(ending) = ending {
                return ending;
            }
        }
        Ending::Enough
    }

    async fn send(&mut self, copies: &mut impl CopySource, copy: &Copy) -> (Stage, Result<Reply, Error>) {
        let Timeouts { mail, rcpt, data, dot, .. } = self.timeouts.clone();
        let steps = [
            (Stage::From, format!("MAIL FROM:<{}>\r\n", copy.return_path), mail),
            (Stage::To, format!("RCPT TO:<{}>\r\n", copy.to), rcpt),
            (Stage::Data, "DATA\r\n".to_owned(), data),
        ];
        for (stage, line, limit) in steps {
            match self.say(line.as_bytes(), limit).await {
                Ok(reply) if reply.code < 400 => {}
                other => return (stage, other),
            }
        }
        if !copies.intend(copy.id).await {
            return (Stage::Data, Err(Error::Closed));
        }
        let mut text = String::from_utf8_lossy(&copy.message.bytes).replace("\r\n.", "\r\n..");
        text.push_str(".\r\n");
        (Stage::Body, self.say(text.as_bytes(), dot).await)
    }

    async fn say(&mut self, bytes: &[u8], limit: Duration) -> Result<Reply, Error> {
        self.stream.write_all(bytes).await?;
        hear(&mut self.stream, limit).await.map(reply)
    }

    /// Says goodbye and waits briefly for the answer.
    pub async fn quit(mut self) {
        let limit = self.timeouts.quit;
        let _ = timeout(limit, self.say(b"QUIT\r\n", limit)).await;
    }

    /// What the host offers.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// What was agreed on of TLS; `None` in clear.
    pub fn tls(&self) -> Option<TlsFacts> {
        self.tls.clone()
    }
}

async fn hear(stream: &mut Box<dyn Stream>, limit: Duration) -> Result<(u16, Vec<String>), Error> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let byte = timeout(limit, stream.read_u8()).await.map_err(|_| Error::TimedOut(limit))??;
            line.push(byte);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or(Error::Garbled(line.clone()))?;
        lines.push(line.get(4..).unwrap_or_default().to_owned());
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok((code, lines));
        }
    }
}

fn reply((code, lines): (u16, Vec<String>)) -> Reply {
    Reply { code, enhanced: None, text: lines.join(" ") }
}
