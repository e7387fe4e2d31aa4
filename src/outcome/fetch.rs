//! Mailboxes that returned mail is fetched from, by IMAP or POP3. Whatever the protocol, the order is the same: a message
//! is fetched, taken by the [`Intake`], which answers once it is on disk, and only then moved, marked or deleted. A process
//! that dies in between fetches it again, and the intake knows it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::base::Domain;
use crate::config::{Mailbox, MailboxOauth, MailboxProtocol, MailboxTls, Secret};
use crate::delivery::source::host_name;
use crate::outcome::intake::Intake;
use crate::outcome::oauth::Tokens;
use crate::outcome::{imap, pop3};
use crate::smtp::TlsClient;
use crate::store::{self, Store};
use crate::world::{Http, Stream, World};

/// Largest message fetched whole, in bytes; of a longer one the start is enough to know what it is.
pub(super) const MESSAGE_MAX: usize = 10 * 1024 * 1024;
/// Longest wait for one answer of a server.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest time for one round through a mailbox; what is left waits for the next.
const ROUND_MAX: Duration = Duration::from_secs(30 * 60);
/// The most characters told of what a server said.
const WORDS_MAX: usize = 200;
/// How long a mailbox stays in the hands of whoever died with it, where that cannot be seen from here.
const LEASE: Duration = Duration::from_secs(120);

/// Why a mailbox could not be read to its end. What was taken before stays taken.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The server cannot be reached, or went away.
    #[error("{mailbox}: {host} cannot be reached: {why}")]
    Unreachable {
        /// The mailbox's name.
        mailbox: String,
        /// The server.
        host: String,
        /// What happened.
        why: String,
    },
    /// The server refused the login: the settings are wrong, or the token has run out.
    #[error("{mailbox}: the login of {user} was refused: {why}")]
    Login {
        /// The mailbox's name.
        mailbox: String,
        /// The user.
        user: String,
        /// The server's words.
        why: String,
    },
    /// The password or token cannot be read.
    #[error("{mailbox}: {file}: {why}")]
    Secret {
        /// The mailbox's name.
        mailbox: String,
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The server broke the protocol, or lacks what is needed.
    #[error("{mailbox}: {why}")]
    Protocol {
        /// The mailbox's name.
        mailbox: String,
        /// What happened.
        why: String,
    },
    /// The token endpoint refused a token for good: somebody has to agree anew.
    #[error(
        "{mailbox}: {endpoint} gives no access token: {why}; the mailbox rests until it finds another refresh token"
    )]
    Token {
        /// The mailbox's name.
        mailbox: String,
        /// The endpoint.
        endpoint: String,
        /// Its words.
        why: String,
    },
    /// Somebody else looks through it at present.
    #[error("{mailbox}: another process, or another [[mailbox]], looks through it at present")]
    Taken {
        /// The mailbox's name.
        mailbox: String,
    },
    /// The record failed: nothing was put away that is not on disk.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// How a user proves who they are.
pub(super) enum Proof {
    Password(Secret),
    /// An OAuth access token, for OAUTHBEARER or XOAUTH2.
    Token(Secret),
}

/// What one round through a mailbox came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Round {
    /// Messages taken and put away.
    pub taken: u64,
    /// Ordinary messages, left alone.
    pub foreign: u64,
}

/// A mailbox, and what it takes to look through it.
pub struct Fetcher {
    mailbox: Mailbox,
    world: World,
    tls: TlsClient,
    store: Store,
    tokens: Option<Arc<Tokens>>,
    /// By what a mailbox in hand is known to be in ours.
    holder: String,
}

impl Fetcher {
    /// Whoever looks through each of these mailboxes. Those with the same refresh token share what is got with it: a
    /// provider may take a second use of one for a theft. Loopback and private addresses of a token endpoint are refused
    /// unless `allow_private`.
    pub fn all(
        mailboxes: &[Mailbox],
        world: &World,
        tls: &TlsClient,
        store: &Store,
        allow_private: bool,
    ) -> Vec<Fetcher> {
        let mut desks: Vec<Arc<Tokens>> = Vec::new();
        let mut desk_of = |oauth: &MailboxOauth| match desks.iter().find(|desk| desk.serves(oauth)) {
            Some(desk) => desk.clone(),
            None => {
                let http = Http::new(world, tls.verified(), allow_private);
                desks.push(Arc::new(Tokens::new(oauth.clone(), http, world.clock.clone())));
                desks[desks.len() - 1].clone()
            }
        };
        let fetcher = |mailbox: &Mailbox| {
            Fetcher::new(mailbox.clone(), world, tls, store.clone(), mailbox.oauth.as_ref().map(&mut desk_of))
        };
        mailboxes.iter().map(fetcher).collect()
    }

    fn new(mailbox: Mailbox, world: &World, tls: &TlsClient, store: Store, tokens: Option<Arc<Tokens>>) -> Fetcher {
        let holder = format!("{}/{}/{:016x}", host_name(), std::process::id(), world.dice.roll());
        Fetcher { mailbox, world: world.clone(), tls: tls.clone(), store, tokens, holder }
    }

    /// The mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Goes through the mailbox once: everything that has come since is taken in.
    pub async fn collect(&self, intake: &dyn Intake) -> Result<Round, MailboxError> {
        self.in_hand(self.bounded(self.look_through(intake))).await
    }

    /// Stays with the mailbox as long as its server tells of new mail by itself: a round at once, and another whenever there
    /// is news, or `every` has passed. Returns after one round where the server tells nothing; the caller looks in again
    /// later.
    pub async fn attend(&self, intake: &dyn Intake, mut told: impl FnMut(Round)) -> Result<(), MailboxError> {
        if self.mailbox.protocol == MailboxProtocol::Pop3 {
            return self.collect(intake).await.map(told);
        }
        let stay = async {
            let mut visit = self.bounded(self.begin()).await?;
            loop {
                told(self.bounded(visit.round(intake)).await?);
                match visit.news().await? {
                    Some(next) => visit = next,
                    None => return Ok(()),
                }
            }
        };
        self.in_hand(stay).await
    }

    async fn look_through(&self, intake: &dyn Intake) -> Result<Round, MailboxError> {
        match self.mailbox.protocol {
            MailboxProtocol::Imap => {
                let mut visit = self.begin().await?;
                let round = visit.round(intake).await;
                visit.end().await;
                round
            }
            MailboxProtocol::Pop3 => {
                let proof = self.proof().await?;
                let stream = connect(&self.mailbox, &self.world).await?;
                let done = pop3::collect(&self.mailbox, stream, &self.tls, &proof, intake).await;
                self.heed(done).await
            }
        }
    }

    /// Logs in to an IMAP server.
    async fn begin(&self) -> Result<imap::Visit<'_>, MailboxError> {
        let proof = self.proof().await?;
        let stream = connect(&self.mailbox, &self.world).await?;
        let begun = imap::Visit::begin(&self.mailbox, stream, &self.tls, &proof).await;
        self.heed(begun).await
    }

    /// What the server is shown, found anew at each login: a token is short-lived, and so may a password be. A token goes
    /// before a password.
    async fn proof(&self) -> Result<Proof, MailboxError> {
        match &self.tokens {
            Some(tokens) => tokens.token(&self.mailbox).await.map(Proof::Token),
            None => proof(&self.mailbox),
        }
    }

    /// A token that the server refused is not shown again.
    async fn heed<T>(&self, done: Result<T, MailboxError>) -> Result<T, MailboxError> {
        if let (Err(MailboxError::Login { .. }), Some(tokens)) = (&done, &self.tokens) {
            tokens.forget().await;
        }
        done
    }

    /// What must come to its end within the time of a round.
    async fn bounded<T>(&self, what: impl Future<Output = Result<T, MailboxError>>) -> Result<T, MailboxError> {
        let late = || Err(unreachable(&self.mailbox, "the round took too long"));
        tokio::time::timeout(ROUND_MAX, what).await.unwrap_or_else(|_| late())
    }

    /// Does something while nobody else looks through the mailbox, in this process or another.
    async fn in_hand<T>(&self, what: impl Future<Output = Result<T, MailboxError>>) -> Result<T, MailboxError> {
        self.take_in_hand().await?;
        let done = tokio::select! {
            biased;
            why = self.keep_in_hand() => Err(why),
            done = what => done,
        };
        self.let_go().await;
        done
    }

    /// Renews the lease until that fails.
    async fn keep_in_hand(&self) -> MailboxError {
        loop {
            sleep(LEASE / 3).await;
            if let Err(why) = self.take_in_hand().await {
                return why;
            }
        }
    }

    /// Takes the mailbox, or keeps it; from a process of this machine that has died as well.
    async fn take_in_hand(&self) -> Result<(), MailboxError> {
        if self.lease().await? {
            return Ok(());
        }
        let place = place(&self.mailbox);
        if let Some(holder) = self.store.mailbox_holder(&place)?.filter(|holder| has_died(holder)) {
            self.store.release_mailbox(place, holder).await?;
            if self.lease().await? {
                return Ok(());
            }
        }
        Err(MailboxError::Taken { mailbox: self.mailbox.name.clone() })
    }

    async fn lease(&self) -> Result<bool, store::Error> {
        let now = self.world.clock.now();
        self.store.lease_mailbox(place(&self.mailbox), self.holder.clone(), now + LEASE, now).await
    }

    /// Lets others look through the mailbox, when a stay was given up in the middle.
    pub async fn let_go(&self) {
        if let Err(why) = self.store.release_mailbox(place(&self.mailbox), self.holder.clone()).await {
            tracing::debug!(%why, "a mailbox is let go of only when its lease ends");
        }
    }
}

/// Whether a holder was a process of this machine that is no more: killed with a mailbox in hand.
fn has_died(holder: &str) -> bool {
    let mut parts = holder.split('/');
    let is_here = parts.next() == Some(host_name().as_str());
    let process = parts.next().and_then(|process| process.parse().ok()).and_then(rustix::process::Pid::from_raw);
    is_here
        && process.is_some_and(|process| rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH))
}

/// What a mailbox is on its server, whatever it is called here.
pub(super) fn place(mailbox: &Mailbox) -> String {
    let Mailbox { user, host, folder, .. } = mailbox;
    // POP3 shows the INBOX, whose name is INBOX in any case (RFC 9051 §5.1)
    let is_inbox = mailbox.protocol == MailboxProtocol::Pop3 || folder.eq_ignore_ascii_case("INBOX");
    format!("{user}@{}/{}", host.to_ascii_lowercase(), if is_inbox { "INBOX" } else { folder })
}

/// The port: as set, or the one of protocol and TLS (RFC 8314 §3).
fn port(mailbox: &Mailbox) -> u16 {
    mailbox.port.unwrap_or(match (mailbox.protocol, mailbox.tls) {
        (MailboxProtocol::Imap, MailboxTls::Implicit) => 993,
        (MailboxProtocol::Imap, MailboxTls::Starttls) => 143,
        (MailboxProtocol::Pop3, MailboxTls::Implicit) => 995,
        (MailboxProtocol::Pop3, MailboxTls::Starttls) => 110,
    })
}

async fn connect(mailbox: &Mailbox, world: &World) -> Result<Box<dyn Stream>, MailboxError> {
    let failed = |why: String| unreachable(mailbox, &why);
    let addresses = match mailbox.host.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let host = Domain::parse(&mailbox.host).map_err(|why| failed(why.to_string()))?;
            world.dns.addresses(&host, true).await.map_err(|why| failed(why.to_string()))?.records
        }
    };
    let mut last = failed("it has no address".to_owned());
    for address in addresses {
        let dial = world.net.dial(None, SocketAddr::new(address, port(mailbox)));
        match tokio::time::timeout(ANSWER_MAX, dial).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(why)) => last = failed(why.to_string()),
            Err(_) => last = failed("no answer".to_owned()),
        }
    }
    Err(last)
}

/// The password or token out of the file or variable that the settings name.
fn proof(mailbox: &Mailbox) -> Result<Proof, MailboxError> {
    let tokens = (&mailbox.token_file, &mailbox.token_env);
    let passwords = (&mailbox.password_file, &mailbox.password_env);
    if let Some(token) = secret(mailbox, tokens)? {
        return Ok(Proof::Token(token));
    }
    match secret(mailbox, passwords)? {
        Some(password) => Ok(Proof::Password(password)),
        None => {
            let why = "is not set: name the file that holds the password".to_owned();
            Err(MailboxError::Secret { mailbox: mailbox.name.clone(), file: "password_file".into(), why })
        }
    }
}

/// The first line of a file or of a variable of the environment; `None` when neither is named.
pub(super) fn secret(
    mailbox: &Mailbox,
    (file, variable): (&Option<PathBuf>, &Option<String>),
) -> Result<Option<Secret>, MailboxError> {
    let (place, text) = match (file, variable) {
        (Some(file), _) => (file.display().to_string(), std::fs::read_to_string(file).map_err(|why| why.to_string())),
        (None, Some(variable)) => (variable.clone(), std::env::var(variable).map_err(|why| why.to_string())),
        (None, None) => return Ok(None),
    };
    let line = text.and_then(|text| {
        // a control character could end the line it is said in
        let line = text.lines().next().filter(|line| !line.is_empty() && !line.contains(char::is_control));
        line.map(|line| Secret::new(line.to_owned()))
            .ok_or_else(|| "its first line is empty or holds control characters".to_owned())
    });
    let wrong = |why| MailboxError::Secret { mailbox: mailbox.name.clone(), file: place, why };
    line.map(Some).map_err(wrong)
}

/// How a token is shown to a server: the better of what it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer {
    /// RFC 7628.
    OAuthBearer,
    /// What came before it, and what Google and Microsoft speak.
    XOAuth2,
}

impl Bearer {
    /// What to use with a server that offers these SASL mechanisms.
    pub(super) fn choose(offered: impl Fn(&str) -> bool) -> Option<Bearer> {
        [Bearer::OAuthBearer, Bearer::XOAuth2].into_iter().find(|bearer| offered(bearer.mechanism()))
    }

    /// Its name.
    pub(super) fn mechanism(self) -> &'static str {
        match self {
            Bearer::OAuthBearer => "OAUTHBEARER",
            Bearer::XOAuth2 => "XOAUTH2",
        }
    }

    /// What is said, before base64.
    pub(super) fn words(self, mailbox: &Mailbox, token: &Secret) -> String {
        let (user, token) = (&mailbox.user, token.expose());
        match self {
            Bearer::OAuthBearer => {
                // RFC 5801 §4: `,` and `=` of a name are written as what they are coded by.
                let name = user.replace('=', "=3D").replace(',', "=2C");
                let (host, port) = (&mailbox.host, port(mailbox));
                format!("n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01")
            }
            Bearer::XOAuth2 => format!("user={user}\x01auth=Bearer {token}\x01\x01"),
        }
    }

    /// What a server's refusal is answered with, so that it ends the exchange (RFC 7628 §3.2.3; X-14).
    pub(super) fn last_words(self) -> &'static str {
        match self {
            Bearer::OAuthBearer => "\x01",
            Bearer::XOAuth2 => "",
        }
    }
}

pub(super) fn unreachable(mailbox: &Mailbox, why: &str) -> MailboxError {
    MailboxError::Unreachable { mailbox: mailbox.name.clone(), host: mailbox.host.clone(), why: in_words(why) }
}

pub(super) fn broken(mailbox: &Mailbox, why: impl AsRef<str>) -> MailboxError {
    MailboxError::Protocol { mailbox: mailbox.name.clone(), why: in_words(why.as_ref()) }
}

pub(super) fn refused(mailbox: &Mailbox, why: impl AsRef<str>) -> MailboxError {
    MailboxError::Login { mailbox: mailbox.name.clone(), user: mailbox.user.clone(), why: in_words(why.as_ref()) }
}

/// What a server said, or was said of it, as one line that a person can read: whatever it sent.
fn in_words(why: &str) -> String {
    let line: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    match line.char_indices().nth(WORDS_MAX) {
        _ if line.is_empty() => "the server refuses, and does not say why".to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// TLS with the server's name proved: a mailbox is never read in clear.
pub(super) async fn secure(
    mailbox: &Mailbox,
    stream: Box<dyn Stream>,
    tls: &TlsClient,
) -> Result<Box<dyn Stream>, MailboxError> {
    let name = ServerName::try_from(mailbox.host.clone())
        .map_err(|_| unreachable(mailbox, "the host's name cannot stand in a certificate"))?;
    let handshake = TlsConnector::from(tls.verified()).connect(name, stream);
    let secured = tokio::time::timeout(ANSWER_MAX, handshake).await;
    let secured = secured.map_err(|_| unreachable(mailbox, "no answer to the TLS handshake"))?;
    secured
        .map(|stream| Box::new(stream) as Box<dyn Stream>)
        .map_err(|why| unreachable(mailbox, &format!("TLS: {why}")))
}

/// Reads and writes of a server, each within its time.
pub(super) async fn in_time<T>(
    mailbox: &Mailbox,
    what: impl Future<Output = io::Result<T>>,
) -> Result<T, MailboxError> {
    match tokio::time::timeout(ANSWER_MAX, what).await {
        Ok(done) => done.map_err(|why| unreachable(mailbox, &why.to_string())),
        Err(_) => Err(unreachable(mailbox, "no answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::store::Threads;
    use crate::world::{NetTable, Zone};

    #[test]
    fn a_secret_is_one_line_and_cannot_end_the_line_it_is_said_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("password"));
        for (text, expected) in [
            ("s3cret\r\nmore\n", Some("s3cret")),
            ("", None),
            ("s3cret\rDELE 1\n", None),
            ("s3\0cret", None),
            ("\n", None),
        ] {
            std::fs::write(file.as_ref().unwrap(), text).unwrap();
            let found = secret(&Mailbox::default(), (&file, &None)).ok().flatten();
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{text:?}");
        }
    }

    #[test]
    fn one_mailbox_has_one_name_and_those_of_one_refresh_token_share_what_it_gets() {
        let oauth = |file: &str| MailboxOauth { refresh_token_file: Some(file.into()), ..MailboxOauth::default() };
        let mailbox = |host: &str, folder: &str, token: &str| Mailbox {
            host: host.into(),
            user: "b".into(),
            folder: folder.into(),
            oauth: Some(oauth(token)),
            ..Mailbox::default()
        };
        let all = [
            mailbox("mail.example", "INBOX", "one"),
            mailbox("Mail.Example", "inbox", "one"),
            mailbox("mail.example", "Junk", "two"),
        ];
        assert_eq!(all.each_ref().map(place), ["b@mail.example/INBOX", "b@mail.example/INBOX", "b@mail.example/Junk"]);
        let pop3 = Mailbox { protocol: MailboxProtocol::Pop3, folder: "Junk".into(), ..all[0].clone() };
        assert_eq!(place(&pop3), place(&all[0]));

        let world = World::simulated(Timestamp::from_ms(0), Zone::default(), NetTable::default(), 1);
        let store = Store::open("sqlite::memory:", ".".as_ref(), Threads::Inline).unwrap();
        let fetchers = Fetcher::all(&all, &world, &TlsClient::new(None).unwrap(), &store, false);
        let desk = |at: usize| fetchers[at].tokens.as_ref().unwrap();
        assert!(Arc::ptr_eq(desk(0), desk(1)) && !Arc::ptr_eq(desk(0), desk(2)));
    }
}
