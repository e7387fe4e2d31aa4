//! IMAP (RFC 3501, 9051): messages are named by UIDVALIDITY and UID, never by number; read without being marked as seen;
//! and put away only once they are on record: moved to a folder, or marked with a keyword of ours. Other people's flags
//! are neither believed nor changed (X-02…X-07).

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_imap::extensions::idle::IdleResponse;
use async_imap::imap_proto::{Capability, Response, Status};
use async_imap::types::{Flag, UnsolicitedResponse};
use async_imap::{Authenticator, Client};
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::fetch::{
    ANSWER_MAX, Bearer, MESSAGE_MAX, MailboxError, Proof, Round, broken, in_time, refused, secure, unreachable,
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
/// Most lines and octets, without literals, that a server may say before it is asked something again: a folder of a million
/// messages is searched in one line of eight million octets.
const LINES_MAX: u64 = 20_000;
const OCTETS_MAX: u64 = 64 * 1024 * 1024;
/// Characters shown of what is no IMAP.
const SHOWN_MAX: usize = 60;
/// Longest IDLE: servers hang up after 30 minutes (RFC 2177).
const IDLE_MAX: Duration = Duration::from_secs(29 * 60);
/// Shortest IDLE: a folder is not looked through more often than that without news.
const IDLE_MIN: Duration = Duration::from_secs(60);

type Session = async_imap::Session<Wire>;

/// A stay with a server, from login to logout.
pub(super) struct Visit<'a> {
    mailbox: &'a Mailbox,
    session: Session,
    offers: Offers,
}

/// What the server can do, as far as it matters.
#[derive(Debug, Clone, Copy, Default)]
struct Offers {
    /// RFC 6851.
    moves: bool,
    /// RFC 4315: a single message can be expunged.
    uid_plus: bool,
    /// RFC 2177.
    idle: bool,
}

impl<'a> Visit<'a> {
    /// Secures the connection and logs in.
    pub(super) async fn begin(
        mailbox: &'a Mailbox,
        stream: Box<dyn Stream>,
        tls: &TlsClient,
        proof: &Proof,
    ) -> Result<Visit<'a>, MailboxError> {
        let stream = match mailbox.tls {
            MailboxTls::Implicit => secure(mailbox, stream, tls).await?,
            MailboxTls::Starttls => starttls(mailbox, stream, tls).await?,
        };
        Visit::secured(mailbox, stream, proof).await
    }

    /// Logs in on a connection that is secured.
    pub(super) async fn secured(
        mailbox: &'a Mailbox,
        stream: Box<dyn Stream>,
        proof: &Proof,
    ) -> Result<Visit<'a>, MailboxError> {
        let mut client = Client::new(Wire::new(stream));
        if mailbox.tls == MailboxTls::Implicit {
            greeting(mailbox, &mut client).await?;
        }
        let mut session = login(mailbox, client, proof).await?;
        let able = answered(mailbox, session.capabilities()).await?;
        let offers =
            Offers { moves: able.has_str("MOVE"), uid_plus: able.has_str("UIDPLUS"), idle: able.has_str("IDLE") };
        Ok(Visit { mailbox, session, offers })
    }

    /// Goes through the folder once.
    pub(super) async fn round(&mut self, intake: &dyn Intake) -> Result<Round, MailboxError> {
        read_folder(self.mailbox, &mut self.session, self.offers, intake).await
    }

    /// Waits for news, or until the folder is due anyway; `None` when the server does not tell news, and the stay is over.
    pub(super) async fn news(self) -> Result<Option<Visit<'a>>, MailboxError> {
        let mailbox = self.mailbox;
        if !self.offers.idle {
            self.end().await;
            return Ok(None);
        }
        let unasked = self.session.unsolicited_responses.clone();
        if has_arrivals(|| unasked.try_recv().ok()) {
            return Ok(Some(self));
        }
        let mut idle = self.session.idle();
        answered(mailbox, idle.init()).await?;
        // What came between the last look and the IDLE is not told a second time.
        if !has_arrivals(|| unasked.try_recv().ok()) {
            let most = mailbox.every.duration().clamp(IDLE_MIN, IDLE_MAX);
            // The library's own limit begins anew with each sign of life, and some servers give one every two minutes.
            let (wait, _interrupt) = idle.wait_with_timeout(most);
            match tokio::time::timeout(most, wait).await {
                Ok(Ok(IdleResponse::ManualInterrupt)) => return Err(unreachable(mailbox, "the server hung up")),
                Ok(Ok(IdleResponse::NewData(said))) if is_farewell(said.parsed()) => {
                    return Err(unreachable(mailbox, "the server ends the session"));
                }
                Ok(Ok(IdleResponse::NewData(_) | IdleResponse::Timeout)) | Err(_) => {}
                Ok(Err(why)) => return Err(unreachable(mailbox, &why.to_string())),
            }
        }
        let session = answered(mailbox, idle.done()).await?;
        Ok(Some(Visit { mailbox, session, offers: self.offers }))
    }

    /// Logs out. What was done is on record, whatever the server answers now.
    pub(super) async fn end(mut self) {
        let _ = tokio::time::timeout(ANSWER_MAX, self.session.logout()).await;
    }
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

/// Logs in by the best way that the server offers: with a token OAUTHBEARER or XOAUTH2, with a password LOGIN, or PLAIN
/// where LOGIN is disabled (RFC 9051 §6.2.3).
async fn login(mailbox: &Mailbox, mut client: Client<Wire>, proof: &Proof) -> Result<Session, MailboxError> {
    let offered = offered(mailbox, &mut client).await?;
    let done = async {
        match proof {
            Proof::Password(password) if !offered.contains("LOGINDISABLED") => {
                Ok(client.login(&mailbox.user, password.expose()).await)
            }
            Proof::Password(password) if offered.contains("AUTH=PLAIN") => {
                let words = format!("\0{}\0{}", mailbox.user, password.expose());
                Ok(client.authenticate("PLAIN", Says { first: Some(words), then: "*" }).await)
            }
            Proof::Password(_) => Err("the server takes no password, neither by LOGIN nor by PLAIN"),
            Proof::Token(token) => match Bearer::choose(|name| offered.contains(&format!("AUTH={name}"))) {
                Some(bearer) => {
                    let words = Says { first: Some(bearer.words(mailbox, token)), then: bearer.last_words() };
                    Ok(client.authenticate(bearer.mechanism(), words).await)
                }
                None => Err("the server takes no token, neither by OAUTHBEARER nor by XOAUTH2"),
            },
        }
    };
    match tokio::time::timeout(ANSWER_MAX, done).await {
        Ok(Ok(Ok(session))) => Ok(session),
        Ok(Ok(Err((why, _)))) => Err(refused(mailbox, in_words(&why))),
        Ok(Err(why)) => Err(refused(mailbox, why)),
        Err(_) => Err(unreachable(mailbox, "no answer to the login")),
    }
}

/// What the server says it can do before the login, in capitals.
async fn offered(mailbox: &Mailbox, client: &mut Client<Wire>) -> Result<HashSet<String>, MailboxError> {
    const TAG: &str = "caps";
    in_time(mailbox, client.get_mut().write_all(format!("{TAG} CAPABILITY\r\n").as_bytes())).await?;
    in_time(mailbox, client.get_mut().flush()).await?;
    let mut offered = HashSet::new();
    loop {
        let said = answered(mailbox, async { client.read_response().await.map_err(Into::into) }).await?;
        let said = said.ok_or_else(|| unreachable(mailbox, "the server hung up"))?;
        match said.parsed() {
            Response::Capabilities(list) => offered.extend(list.iter().map(|able| match able {
                Capability::Auth(name) => format!("AUTH={}", name.to_ascii_uppercase()),
                Capability::Atom(name) => name.to_ascii_uppercase(),
                Capability::Imap4rev1 => "IMAP4REV1".to_owned(),
            })),
            Response::Done { tag, status, .. } if tag.0 == TAG => {
                return match status {
                    Status::Ok => Ok(offered),
                    _ => Err(broken(mailbox, "the server does not say what it can do")),
                };
            }
            _ => {}
        }
    }
}

/// Says its words once; to a challenge that follows a refusal, what ends the exchange.
struct Says {
    first: Option<String>,
    then: &'static str,
}

impl Authenticator for Says {
    type Response = String;

    fn process(&mut self, _challenge: &[u8]) -> String {
        self.first.take().unwrap_or_else(|| self.then.to_owned())
    }
}

fn is_farewell(said: &Response<'_>) -> bool {
    matches!(said, Response::Data { status: Status::Bye, .. })
}

/// Whether new mail is among what the server told without being asked; empties it.
fn has_arrivals(next: impl Fn() -> Option<UnsolicitedResponse>) -> bool {
    let told = std::iter::from_fn(next);
    told.filter(|told| matches!(told, UnsolicitedResponse::Exists(_) | UnsolicitedResponse::Recent(_))).count() > 0
}

/// Takes every message of the folder that is neither marked nor known. Flags of others, `\\Seen` and `\\Deleted` among
/// them, decide nothing.
async fn read_folder(
    mailbox: &Mailbox,
    session: &mut Session,
    offers: Offers,
    intake: &dyn Intake,
) -> Result<Round, MailboxError> {
    if let Some(folder) = &mailbox.processed {
        // It is there from the second round on.
        let _ = answered(mailbox, session.create(folder)).await;
    }
    let folder = answered(mailbox, session.select(&mailbox.folder)).await?;
    let validity = folder.uid_validity.ok_or_else(|| broken(mailbox, "the server gives no UIDVALIDITY"))?;
    let keeps_marks = folder.permanent_flags.iter().any(|flag| match flag {
        Flag::MayCreate => true,
        Flag::Custom(name) => name.eq_ignore_ascii_case(KEYWORD),
        _ => false,
    });
    let found = answered(mailbox, session.uid_search(format!("NOT KEYWORD {KEYWORD}"))).await?;
    let mut uids: Vec<u32> = found.into_iter().collect();
    uids.sort_unstable();
    let leaves = offers.moves && mailbox.processed.is_some();
    let mut round = Round::default();
    for page in uids.chunks(PAGE) {
        for (uid, size) in sizes(mailbox, session, page).await? {
            // A folder made anew has another validity: its numbers mean other messages, and all is looked at again.
            let name = format!("{validity}:{uid}");
            if intake.is_known(&mailbox.name, &name)? {
                continue;
            }
            let Some(raw) = fetch(mailbox, session, uid, size).await? else { continue };
            match intake.take(&raw, None).await? {
                Taken::Ours => {
                    put_away(mailbox, session, uid, offers).await?;
                    if !(keeps_marks || leaves) {
                        intake.know(&mailbox.name, &name).await?;
                    }
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

/// Moves a message to the folder for those that are done, or marks it. Without MOVE it is copied, and taken out by its UID
/// alone; a plain EXPUNGE would take along what other programs have marked as deleted.
async fn put_away(mailbox: &Mailbox, session: &mut Session, uid: u32, offers: Offers) -> Result<(), MailboxError> {
    let uid = uid.to_string();
    match &mailbox.processed {
        Some(folder) if offers.moves => answered(mailbox, session.uid_mv(&uid, folder)).await,
        Some(folder) => {
            answered(mailbox, session.uid_copy(&uid, folder)).await?;
            match offers.uid_plus {
                true => {
                    // Both at once: if this is the end of us, the message is not copied again.
                    flag(mailbox, session, &uid, &format!("{KEYWORD} \\Deleted")).await?;
                    expunge(mailbox, session, &uid).await
                }
                false => flag(mailbox, session, &uid, KEYWORD).await,
            }
        }
        None => flag(mailbox, session, &uid, KEYWORD).await,
    }
}

async fn flag(mailbox: &Mailbox, session: &mut Session, uid: &str, flags: &str) -> Result<(), MailboxError> {
    let flagged = answered(mailbox, async {
        let rows = session.uid_store(uid, format!("+FLAGS ({flags})")).await?;
        rows.try_collect::<Vec<_>>().await
    });
    flagged.await.map(drop)
}

async fn expunge(mailbox: &Mailbox, session: &mut Session, uid: &str) -> Result<(), MailboxError> {
    let gone = answered(mailbox, async {
        let rows = session.uid_expunge(uid).await?;
        rows.try_collect::<Vec<_>>().await
    });
    gone.await.map(drop)
}

/// An answer of the server, in time.
async fn answered<T>(
    mailbox: &Mailbox,
    what: impl Future<Output = Result<T, async_imap::error::Error>>,
) -> Result<T, MailboxError> {
    use async_imap::error::Error;
    match tokio::time::timeout(ANSWER_MAX, what).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Error::Io(why))) if why.to_string().contains(UNREAD) => Err(broken(mailbox, in_words(&Error::Io(why)))),
        Ok(Err(why @ (Error::Io(_) | Error::ConnectionLost))) => Err(unreachable(mailbox, &in_words(&why))),
        Ok(Err(why)) => Err(broken(mailbox, in_words(&why))),
        Err(_) => Err(unreachable(mailbox, "no answer")),
    }
}

/// What the library puts between its own words and the octets that it could not read.
const UNREAD: &str = " during parsing of ";

/// An error of the library in words: it tells all octets that it could not read, and how it came to them.
fn in_words(why: &async_imap::error::Error) -> String {
    use async_imap::error::{Error, ParseError};
    let no_imap = |said: &str| {
        let shown: String = said.trim_start_matches('"').chars().take(SHOWN_MAX).collect();
        format!("the server says what is no IMAP, or no more than half of it: {shown}")
    };
    match why {
        Error::Io(why) => match why.to_string().split_once(UNREAD) {
            Some((_, said)) => no_imap(said),
            None => why.to_string(),
        },
        Error::Parse(ParseError::Invalid(said) | ParseError::DataNotUtf8(said, _)) => {
            no_imap(&String::from_utf8_lossy(said))
        }
        // neither a code nor words behind NO or BAD
        Error::No(said) | Error::Bad(said) if said == "code: None, info: None" => String::new(),
        other => other.to_string(),
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
        let wire = self.get_mut();
        wire.watch.asked();
        Pin::new(&mut wire.stream).poll_write(cx, bytes)
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
    /// Lines and octets outside of literals since something was asked.
    lines: u64,
    octets: u64,
}

impl Watch {
    fn asked(&mut self) {
        (self.lines, self.octets) = (0, 0);
    }

    fn see(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.literal > 0 {
                let skipped = self.literal.min(bytes.len() as u64);
                self.literal -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            self.octet(bytes[0]);
            self.octets += 1;
            self.lines += u64::from(bytes[0] == b'\n');
            if self.lines > LINES_MAX || self.octets > OCTETS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the server speaks without end"));
            }
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
mod tests;
