//! POP3 (RFC 1939, 2449, 2595): a message is deleted only once it is on record, and the deletion counts only when QUIT
//! was answered. Ordinary mail stays.

use std::collections::HashMap;

use data_encoding::{BASE64, HEXLOWER};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::fetch::{Bearer, MESSAGE_MAX, MailboxError, Proof, Round, broken, in_time, refused, secure, unreachable};
use super::intake::{Intake, Taken};
use crate::config::{Mailbox, MailboxTls, Secret};
use crate::smtp::TlsClient;
use crate::world::Stream;

/// Longest line of an answer, in octets: RFC 2449 §4 allows 512, messages have 1000.
const LINE_MAX: u64 = 64 * 1024;
/// Most messages listed; the rest comes with the next round.
const MESSAGES_MAX: usize = 100_000;
/// Most lines of a list that are read at all.
const LINES_MAX: usize = 50 * MESSAGES_MAX;
/// Lines of the body fetched of a message that is too long.
const TOP_LINES: u32 = 500;

/// Goes through the mailbox once.
pub(super) async fn collect(
    mailbox: &Mailbox,
    stream: Box<dyn Stream>,
    tls: &TlsClient,
    proof: &Proof,
    intake: &dyn Intake,
) -> Result<Round, MailboxError> {
    let stream = match mailbox.tls {
        MailboxTls::Implicit => secure(mailbox, stream, tls).await?,
        MailboxTls::Starttls => stls(mailbox, stream, tls).await?,
    };
    secured(mailbox, stream, proof, intake).await
}

/// Logs in on a connection that is secured, and goes through the mailbox.
pub(super) async fn secured(
    mailbox: &Mailbox,
    stream: Box<dyn Stream>,
    proof: &Proof,
    intake: &dyn Intake,
) -> Result<Round, MailboxError> {
    let mut session = Session { mailbox, stream: BufReader::new(stream) };
    if mailbox.tls == MailboxTls::Implicit {
        session.answer().await?;
    }
    session.login(proof).await?;
    go_through(&mut session, intake).await
}

/// Takes every message that is not known; ends the session in order, which is what makes the deletions count.
async fn go_through(session: &mut Session<'_>, intake: &dyn Intake) -> Result<Round, MailboxError> {
    let mailbox = session.mailbox;
    let mut round = Round::default();
    for message in session.messages().await? {
        let is_known = |id: &str| intake.is_known(&mailbox.name, id);
        if message.id.as_deref().map_or(Ok(false), is_known)? {
            continue;
        }
        let raw = session.fetch(&message).await?;
        let id = message.id.clone().unwrap_or_else(|| content_id(&raw));
        if message.id.is_none() && is_known(&id)? {
            continue;
        }
        match intake.take(&raw, None).await? {
            Taken::Ours => {
                session.order(&format!("DELE {}", message.number)).await?;
                round.taken += 1;
            }
            Taken::Foreign => {
                intake.know(&mailbox.name, &id).await?;
                round.foreign += 1;
            }
        }
    }
    session.order("QUIT").await?;
    Ok(round)
}

/// STLS on a clear connection; what the server said behind its yes is thrown away with the buffer, and if there is any
/// the connection is given up: somebody has put it there (RFC 2595 §4).
async fn stls(mailbox: &Mailbox, stream: Box<dyn Stream>, tls: &TlsClient) -> Result<Box<dyn Stream>, MailboxError> {
    let mut clear = Session { mailbox, stream: BufReader::new(stream) };
    clear.answer().await?;
    clear.order("STLS").await?;
    match clear.stream.buffer() {
        [] => secure(mailbox, clear.stream.into_inner(), tls).await,
        _ => Err(broken(mailbox, "the server spoke before the TLS handshake")),
    }
}

/// A message as the server lists it.
struct Message {
    number: u32,
    size: usize,
    /// Its unique id (RFC 1939 §7), where the server gives one.
    id: Option<String>,
}

/// What stands in for a unique id: one made of the content.
fn content_id(raw: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, raw);
    format!("sha256:{}", HEXLOWER.encode(hash.as_ref()))
}

struct Session<'a> {
    mailbox: &'a Mailbox,
    stream: BufReader<Box<dyn Stream>>,
}

impl Session<'_> {
    async fn login(&mut self, proof: &Proof) -> Result<(), MailboxError> {
        let user = &self.mailbox.user;
        let mechanisms = match proof {
            Proof::Password(_) => Vec::new(),
            Proof::Token(_) => self.mechanisms().await?,
        };
        let done = match proof {
            Proof::Password(password) => match self.order(&format!("USER {user}")).await {
                Ok(_) => self.order(&format!("PASS {}", password.expose())).await,
                Err(error) => Err(error),
            },
            Proof::Token(token) => match Bearer::choose(|name| mechanisms.iter().any(|offered| offered == name)) {
                Some(bearer) => self.show(bearer, token).await,
                None => {
                    let why = "the server takes no token, neither by OAUTHBEARER nor by XOAUTH2";
                    return Err(refused(self.mailbox, why));
                }
            },
        };
        match done {
            Ok(_) => Ok(()),
            // Not now (RFC 2449 §8, RFC 3206 §4): that is no word about user and password.
            Err(MailboxError::Protocol { why, .. })
                if ["[IN-USE]", "[LOGIN-DELAY]", "[SYS/TEMP]"].iter().any(|code| why.starts_with(code)) =>
            {
                Err(unreachable(self.mailbox, &why))
            }
            Err(MailboxError::Protocol { why, .. }) => Err(refused(self.mailbox, why)),
            Err(other) => Err(other),
        }
    }

    /// Shows a token: its words go on a line of their own, for that of a command is too short (RFC 5034 §4).
    async fn show(&mut self, bearer: Bearer, token: &Secret) -> Result<String, MailboxError> {
        let mailbox = self.mailbox;
        self.say(&format!("AUTH {}", bearer.mechanism())).await?;
        let words = [bearer.words(mailbox, token), bearer.last_words().to_owned()];
        for words in words {
            let line = self.line().await?;
            if !line.starts_with(b"+") || line.starts_with(b"+OK") {
                return self.judge(&line);
            }
            self.say(&BASE64.encode(words.as_bytes())).await?;
        }
        self.answer().await
    }

    /// The SASL mechanisms that the server offers (RFC 2449 §6.3); none where it does not say.
    async fn mechanisms(&mut self) -> Result<Vec<String>, MailboxError> {
        match self.list("CAPA").await {
            Ok(able) => {
                let sasl = able.into_iter().filter(|(name, _)| name.eq_ignore_ascii_case("SASL"));
                Ok(sasl
                    .flat_map(|(_, names)| names.split(' ').map(str::to_ascii_uppercase).collect::<Vec<_>>())
                    .collect())
            }
            Err(MailboxError::Protocol { .. }) => Ok(Vec::new()),
            Err(other) => Err(other),
        }
    }

    /// The messages with their sizes and, where the server has UIDL, unique ids.
    async fn messages(&mut self) -> Result<Vec<Message>, MailboxError> {
        let sizes = self.list("LIST").await?;
        let ids: HashMap<String, String> = match self.list("UIDL").await {
            Ok(ids) => ids.into_iter().collect(),
            Err(MailboxError::Protocol { .. }) => HashMap::new(),
            Err(other) => return Err(other),
        };
        let message = |(number, size): (String, String)| {
            let id = ids.get(&number).cloned();
            Some(Message { size: size.parse().unwrap_or(0), number: number.parse().ok()?, id })
        };
        Ok(sizes.into_iter().filter_map(message).collect())
    }

    async fn list(&mut self, command: &str) -> Result<Vec<(String, String)>, MailboxError> {
        self.order(command).await?;
        let mut rows = Vec::new();
        for _ in 0..LINES_MAX {
            let line = self.line().await?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            match line.split_once(' ') {
                _ if line == "." => return Ok(rows),
                Some((number, value)) if rows.len() < MESSAGES_MAX => rows.push((number.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        Err(unreachable(self.mailbox, "the server lists without end"))
    }

    /// The bytes of a message; of one that is too long the start.
    async fn fetch(&mut self, message: &Message) -> Result<Vec<u8>, MailboxError> {
        let number = message.number;
        self.order(&match message.size > MESSAGE_MAX {
            false => format!("RETR {number}"),
            true => format!("TOP {number} {TOP_LINES}"),
        })
        .await?;
        let mut raw = Vec::with_capacity(message.size.min(MESSAGE_MAX));
        loop {
            let line = self.line().await?;
            match line.strip_prefix(b".") {
                Some(b"\r\n" | b"\n") => return Ok(raw),
                Some(stuffed) => raw.extend_from_slice(stuffed),
                None => raw.extend_from_slice(&line),
            }
            if raw.len() > 2 * MESSAGE_MAX {
                return Err(broken(self.mailbox, format!("message {number} is longer than the server said")));
            }
        }
    }

    /// Sends a command; the text behind `+OK`, or the server's refusal.
    async fn order(&mut self, command: &str) -> Result<String, MailboxError> {
        self.say(command).await?;
        self.answer().await
    }

    async fn say(&mut self, line: &str) -> Result<(), MailboxError> {
        let mailbox = self.mailbox;
        let line = format!("{line}\r\n");
        in_time(mailbox, self.stream.get_mut().write_all(line.as_bytes())).await?;
        in_time(mailbox, self.stream.get_mut().flush()).await
    }

    async fn answer(&mut self) -> Result<String, MailboxError> {
        let line = self.line().await?;
        self.judge(&line)
    }

    fn judge(&self, line: &[u8]) -> Result<String, MailboxError> {
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        match line.strip_prefix("+OK") {
            Some(text) => Ok(text.trim().to_owned()),
            None => Err(broken(self.mailbox, line.strip_prefix("-ERR").unwrap_or(&line).trim())),
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>, MailboxError> {
        let mut line = Vec::new();
        let mailbox = self.mailbox;
        in_time(mailbox, (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line)).await?;
        match line.last() {
            Some(b'\n') => Ok(line),
            None => Err(unreachable(mailbox, "the server hung up")),
            Some(_) if line.len() as u64 == LINE_MAX => Err(broken(mailbox, "a line without end")),
            Some(_) => Err(unreachable(mailbox, "the server hung up in the middle of a line")),
        }
    }
}

#[cfg(test)]
mod tests;
