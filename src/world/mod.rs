//! The only door to the outside: wall time, names, connections and chance. Handed down, never looked up, so that a
//! simulated world can stand in for the real one. Waiting is not here: it is always `tokio::time`. Beside that, what holds
//! for every file that a person names: where its links may lead.

mod clock;
mod dice;
mod dns;
mod files;
mod guard;
mod http;
mod net;
mod simulated;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

pub use files::{NotInside, inside};
pub use guard::is_inward;
pub use http::{Http, HttpError, HttpReply};
pub use simulated::{NetTable, SeededDice, SimulatedClock, Zone};

use crate::base::{Domain, Timestamp};

/// Why the door to the outside cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name server of the settings is neither an address nor an address with a port.
    #[error("`{0}` is not a name server: write it as \"IP\" or \"IP:PORT\"")]
    NameServer(String),
    /// The resolver could not be set up.
    #[error("the name service cannot be used: {0}; name servers can be given by the setting `resolver`")]
    Resolver(String),
    /// The file of trust anchors cannot be read, or holds none.
    #[error("dnssec_anchor: {}: {why}; it must hold DNSKEY records", path.display())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Whether the answers of the name service are proved by DNSSEC (RFC 4035).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// Never.
    Off,
    /// Where the name servers pass the proofs on. What cannot be proved is taken unproved.
    #[default]
    Auto,
    /// Always: what is not proved, nor proved to be unsigned, counts as trouble of the name service.
    On,
}

/// Whom to ask for names, and what to believe.
#[derive(Debug, Clone, Copy)]
pub struct NameService<'s> {
    /// Name servers as `IP` or `IP:PORT`; none: those of the system.
    pub servers: &'s [String],
    /// Whether answers are proved.
    pub dnssec: Dnssec,
    /// A file of DNSKEY records to begin with instead of the root's.
    pub anchor: Option<&'s Path>,
}

/// Wall time.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// One MX record; the null MX (RFC 7505) has target `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    /// Lower is tried first.
    pub preference: u16,
    /// The host; `None` for the root, which says that the domain takes no mail.
    pub target: Option<Domain>,
}

/// Why the name service gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN): permanent.
    #[error("the domain {name} does not exist")]
    NoSuchName {
        /// The name asked for.
        name: Domain,
        /// How long that may be believed (RFC 2308 §5), within the bounds of [`Answer::ttl`].
        ttl: Duration,
    },
    /// The name exists, without records of this type (NODATA).
    #[error("{name} has no records of that type")]
    NoRecords {
        /// The name asked for.
        name: Domain,
        /// How long that may be believed (RFC 2308 §5), within the bounds of [`Answer::ttl`].
        ttl: Duration,
    },
    /// SERVFAIL, a timeout, or an answer that makes no sense: try again later.
    #[error("the name service did not answer for {name}: {why}")]
    Unavailable {
        /// The name asked for.
        name: Domain,
        /// What the resolver said.
        why: String,
    },
}

/// An answer and how long it may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// The records.
    pub records: Vec<T>,
    /// How long they hold, floor 30 s, ceiling one day (C-09).
    pub ttl: Duration,
    /// Whether DNSSEC proved them.
    pub secure: bool,
}

/// What a zone says of a host's certificate (TLSA, RFC 6698 §2.1), as it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// Which certificate is meant, and what it must fulfil besides.
    pub usage: u8,
    /// Which part of it.
    pub selector: u8,
    /// How that part is given.
    pub matching: u8,
    /// The part, or its hash.
    pub data: Vec<u8>,
}

/// The name service.
pub trait Dns: Send + Sync {
    /// The MX records of a domain, in the order they came.
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>>;
    /// The addresses of a host: IPv4, and IPv6 when `v6`.
    fn addresses(&self, host: &Domain, v6: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>>;
    /// The TXT records of a name, the strings of each joined. The name is text because of labels such as `_dmarc`.
    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>>;
    /// The host name an address points to (PTR).
    fn pointer(&self, address: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>>;
    /// What its zone says of the certificate of the host at a TCP port; worth asking where its addresses are proved.
    fn tlsa(&self, host: &Domain, port: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>>;
}

/// A connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The network.
pub trait Net: Send + Sync {
    /// Connects to `to`, from the source address `from` when one is given. The caller sets the time limit.
    fn dial(&self, from: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Chance: for jitter and ids, seeded in simulations. Never for keys.
pub trait Dice: Send + Sync {
    /// Any number, each as likely.
    fn roll(&self) -> u64;

    /// A number in `0.0..1.0`.
    fn fraction(&self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Everything from outside, as one thing to hand down.
#[derive(Clone)]
pub struct World {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The name service.
    pub dns: Arc<dyn Dns>,
    /// The network.
    pub net: Arc<dyn Net>,
    /// Chance.
    pub dice: Arc<dyn Dice>,
}

/// The machine's clock, for who needs nothing else of the world.
pub fn machine_clock() -> Arc<dyn Clock> {
    Arc::new(clock::SystemClock)
}

impl World {
    /// The real one: the system's clock, sockets and chance, and the name service as it is described.
    pub fn real(names: NameService<'_>) -> Result<World, Error> {
        Ok(World {
            clock: Arc::new(clock::SystemClock),
            dns: Arc::new(dns::Resolver::new(names)?),
            net: Arc::new(net::Sockets),
            dice: Arc::new(SeededDice::from_entropy()),
        })
    }

    /// A simulated one: time follows tokio's (start the runtime paused), names are those of `zone`, hosts those of
    /// `net`, chance follows `seed`.
    pub fn simulated(start: Timestamp, zone: Zone, net: NetTable, seed: u64) -> World {
        World {
            clock: Arc::new(SimulatedClock::starting(start)),
            dns: Arc::new(zone),
            net: Arc::new(net),
            dice: Arc::new(SeededDice::new(seed)),
        }
    }
}
