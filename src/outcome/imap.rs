//! IMAP (RFC 3501, 9051): messages are named by UIDVALIDITY and UID, never by number; read without being marked as seen;
//! and put away only once they are on record: moved to a folder, or marked with a keyword of ours. Other people's flags
//! are neither believed nor changed (X-02…X-07).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_imap::types::Capability;
use async_imap::{Authenticator, Client};
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fetch::{
    ANSWER_MAX, MESSAGE_MAX, MailboxError, Proof, Round, broken, refused, secure, unreachable, xoauth2,
};
use super::intake::{Intake, Taken};
use crate::config::{Mailbox, MailboxTls};
use crate::smtp::TlsClient;
use crate::world::Stream;

/// The mark of messages that are on record and stay where they are.
const KEYWORD: &str = "$MailshotRead";
/// Messages asked for by size in one command.
const PAGE: usize = 200;
/// Largest literal a server may announce: a message, and what stands around it.
const LITERAL_MAX: u64 = MESSAGE_MAX as u64 + 64 * 1024;

type Session = async_imap::Session<Wire>;

/// Goes through the folder once.
pub(super) async fn collect(
    mailbox: &Mailbox,
    stream: Box<dyn Stream>,
    tls: &TlsClient,
    proof: &Proof,
    intake: &dyn Intake,
) -> Result<Round, MailboxError> {
    let stream = match mailbox.tls {
        MailboxTls::Implicit => secure(mailbox, stream, tls).await?,
        MailboxTls::Starttls => starttls(mailbox, stream, tls).await?,
    };
    let mut client = Client::new(Wire::new(stream));
    if mailbox.tls == MailboxTls::Implicit {
        greeting(mailbox, &mut client).await?;
    }
    let mut session = login(mailbox, client, proof).await?;
    let round = read_folder(mailbox, &mut session, intake).await;
    // The round is done and on record, whatever the server answers now.
    let _ = tokio::time::timeout(ANSWER_MAX, session.logout()).await;
    round
}

/// The server's first words. PREAUTH means somebody has logged in for us: not on a connection of ours.
async fn greeting(mailbox: &Mailbox, client: &mut Client<Wire>) -> Result<(), MailboxError> {
    let words = answered(mailbox, async { client.read_response().await.map_err(Into::into) }).await?;
    let words = words.ok_or_else(|| unreachable(mailbox, "the server hung up"))?;
    match format!("{:?}", words.parsed()).contains("status: Ok") {
        true => Ok(()),
        false => Err(broken(mailbox, "the server does not greet with OK")),
    }
}

/// STARTTLS on a clear connection. The client's buffer ends with it, and with it whatever was put behind the yes.
async fn starttls(
    mailbox: &Mailbox,
    stream: Box<dyn Stream>,
    tls: &TlsClient,
) -> Result<Box<dyn Stream>, MailboxError> {
    let mut clear = Client::new(Wire::new(stream));
    greeting(mailbox, &mut clear).await?;
    answered(mailbox, clear.run_command_and_check_ok("STARTTLS", None)).await?;
    let wire = clear.into_inner();
    match wire.is_quiet {
        true => secure(mailbox, wire.stream, tls).await,
        false => Err(broken(mailbox, "the server spoke before the TLS handshake")),
    }
}

async fn login(mailbox: &Mailbox, client: Client<Wire>, proof: &Proof) -> Result<Session, MailboxError> {
    let done = async {
        match proof {
            Proof::Password(password) => client.login(&mailbox.user, password.expose()).await,
            Proof::Token(token) => {
                let words = OneAnswer(Some(xoauth2(&mailbox.user, token)));
                client.authenticate("XOAUTH2", words).await
            }
        }
    };
    match tokio::time::timeout(ANSWER_MAX, done).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err((why, _))) => Err(refused(mailbox, why.to_string())),
        Err(_) => Err(unreachable(mailbox, "no answer to the login")),
    }
}

/// Says its words once; to the challenge that follows a refusal, nothing.
struct OneAnswer(Option<String>);

impl Authenticator for OneAnswer {
    type Response = String;

    fn process(&mut self, _challenge: &[u8]) -> String {
        self.0.take().unwrap_or_default()
    }
}

/// Takes every message of the folder that is neither marked nor known.
async fn read_folder(mailbox: &Mailbox, session: &mut Session, intake: &dyn Intake) -> Result<Round, MailboxError> {
    let can_move = answered(mailbox, session.capabilities()).await?.has(&Capability::Atom("MOVE".to_owned()));
    if let Some(folder) = &mailbox.processed {
        // It is there from the second round on.
        let _ = answered(mailbox, session.create(folder)).await;
    }
    let folder = answered(mailbox, session.select(&mailbox.folder)).await?;
    let validity = folder.uid_validity.ok_or_else(|| broken(mailbox, "the server gives no UIDVALIDITY"))?;
    let found = answered(mailbox, session.uid_search(format!("NOT KEYWORD {KEYWORD} UNDELETED"))).await?;
    let mut uids: Vec<u32> = found.into_iter().collect();
    uids.sort_unstable();
    let mut round = Round::default();
    for page in uids.chunks(PAGE) {
        for (uid, size) in sizes(mailbox, session, page).await? {
            let name = format!("{validity}:{uid}");
            if intake.is_known(&mailbox.name, &name)? {
                continue;
            }
            let Some(raw) = fetch(mailbox, session, uid, size).await? else { continue };
            match intake.take(&raw, None).await? {
                Taken::Ours => {
                    put_away(mailbox, session, uid, can_move).await?;
                    round.taken += 1;
                }
                Taken::Foreign => {
                    intake.know(&mailbox.name, &name).await?;
                    round.foreign += 1;
                }
            }
        }
    }
    Ok(round)
}

/// The sizes of messages; one that is gone meanwhile is missing.
async fn sizes(mailbox: &Mailbox, session: &mut Session, page: &[u32]) -> Result<Vec<(u32, u32)>, MailboxError> {
    let set = page.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let listed = answered(mailbox, async {
        let rows = session.uid_fetch(set, "(UID RFC822.SIZE)").await?;
        rows.try_collect::<Vec<_>>().await
    });
    let mut sizes: Vec<(u32, u32)> = listed.await?.iter().filter_map(|row| Some((row.uid?, row.size?))).collect();
    sizes.retain(|(uid, _)| page.contains(uid));
    Ok(sizes)
}

/// A message, unmarked; of one that is too long the start. `None` when it is gone.
async fn fetch(mailbox: &Mailbox, session: &mut Session, uid: u32, size: u32) -> Result<Option<Vec<u8>>, MailboxError> {
    let what = match size as usize > MESSAGE_MAX {
        false => "(UID BODY.PEEK[])".to_owned(),
        true => format!("(UID BODY.PEEK[]<0.{MESSAGE_MAX}>)"),
    };
    let rows = answered(mailbox, async {
        let rows = session.uid_fetch(uid.to_string(), what).await?;
        rows.try_collect::<Vec<_>>().await
    });
    Ok(rows.await?.iter().find(|row| row.uid == Some(uid)).and_then(|row| row.body()).map(<[u8]>::to_vec))
}

/// Moves a message to the folder for those that are done, or marks it. Never expunges: that would take along what other
/// programs have marked as deleted.
async fn put_away(mailbox: &Mailbox, session: &mut Session, uid: u32, can_move: bool) -> Result<(), MailboxError> {
    let uid = uid.to_string();
    match &mailbox.processed {
        Some(folder) if can_move => answered(mailbox, session.uid_mv(&uid, folder)).await,
        Some(folder) => {
            answered(mailbox, session.uid_copy(&uid, folder)).await?;
            mark(mailbox, session, &uid).await
        }
        None => mark(mailbox, session, &uid).await,
    }
}

async fn mark(mailbox: &Mailbox, session: &mut Session, uid: &str) -> Result<(), MailboxError> {
    let marked = answered(mailbox, async {
        let rows = session.uid_store(uid, format!("+FLAGS ({KEYWORD})")).await?;
        rows.try_collect::<Vec<_>>().await
    });
    marked.await.map(drop)
}

/// An answer of the server, in time.
async fn answered<T>(
    mailbox: &Mailbox,
    what: impl Future<Output = Result<T, async_imap::error::Error>>,
) -> Result<T, MailboxError> {
    use async_imap::error::Error;
    match tokio::time::timeout(ANSWER_MAX, what).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why @ (Error::Io(_) | Error::ConnectionLost))) => Err(unreachable(mailbox, &why.to_string())),
        Ok(Err(why)) => Err(broken(mailbox, why.to_string())),
        Err(_) => Err(unreachable(mailbox, "no answer")),
    }
}

/// The connection, watched: a literal that is announced longer than any message ends it before anybody makes room for it
/// and whether the last read held more than one line is known.
struct Wire {
    stream: Box<dyn Stream>,
    watch: Watch,
    /// Whether the last read ended with the end of its only line.
    is_quiet: bool,
}

impl Wire {
    fn new(stream: Box<dyn Stream>) -> Wire {
        Wire { stream, watch: Watch::default(), is_quiet: true }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut wire.stream).poll_read(cx, into))?;
        let new = &into.filled()[before..];
        wire.is_quiet = new.iter().filter(|b| **b == b'\n').count() <= 1 && new.last().is_none_or(|b| *b == b'\n');
        Poll::Ready(wire.watch.see(new))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Follows lines and literals (`{N}` at the end of a line, then N octets; RFC 9051 §4.3).
#[derive(Debug, Default)]
struct Watch {
    /// Octets of the present literal that are still to come.
    literal: u64,
    /// The number read since a `{`, and whether its `}` has come.
    announced: Option<(u64, bool)>,
}

impl Watch {
    fn see(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.literal > 0 {
                let skipped = self.literal.min(bytes.len() as u64);
                self.literal -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            self.octet(bytes[0]);
            if self.announced.is_some_and(|(length, _)| length > LITERAL_MAX) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server announces too long an answer"));
            }
            bytes = &bytes[1..];
        }
        Ok(())
    }

    fn octet(&mut self, octet: u8) {
        self.announced = match (octet, self.announced) {
            (b'{', _) => Some((0, false)),
            (b'0'..=b'9', Some((length, false))) => {
                Some((length.saturating_mul(10).saturating_add(u64::from(octet - b'0')), false))
            }
            (b'+', Some((length, false))) => Some((length, false)),
            (b'}', Some((length, false))) => Some((length, true)),
            (b'\r', Some((length, true))) => Some((length, true)),
            (b'\n', Some((length, true))) => {
                self.literal = length;
                None
            }
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_followed_and_too_long_ones_refused_before_they_come() {
        let mut watch = Watch::default();
        watch.see(b"* 1 FETCH (UID 7 BODY[] {12}\r\n{99999999999}").unwrap();
        assert_eq!(watch.literal, 0, "what stands in a literal announces nothing");
        watch.see(b")\r\n* 2 FETCH (BODY[] {4294").unwrap();
        assert!(watch.see(b"967296}\r\n").is_err());
        let mut watch = Watch::default();
        watch.see(format!("x {{{LITERAL_MAX}}}\r\n").as_bytes()).unwrap();
        assert_eq!(watch.literal, LITERAL_MAX);
    }
}
