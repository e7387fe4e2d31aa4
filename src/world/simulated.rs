//! The simulated twins: time that follows tokio's, a table of names, a table of hosts. For tests and the simulation;
//! nothing here opens a socket or reads the machine's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::time::Instant;

pub use super::dice::SeededDice;
use super::{Answer, Clock, Dns, DnsError, Mx, Net, Stream, Tlsa};
use crate::base::{Domain, Timestamp};

/// How long a table's answers hold.
const TTL: Duration = Duration::from_secs(300);

/// Wall time that runs with tokio's clock, also while that one is paused.
pub struct SimulatedClock {
    start: Timestamp,
    since: Instant,
}

impl SimulatedClock {
    /// A clock that shows `start` now. To be made inside the runtime whose time it follows.
    pub fn starting(start: Timestamp) -> SimulatedClock {
        SimulatedClock { start, since: Instant::now() }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.start + self.since.elapsed()
    }
}

/// A name service that is a table. A name without an entry does not exist; a name that is in trouble says so.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    mx: BTreeMap<Domain, Vec<Mx>>,
    addresses: BTreeMap<Domain, Vec<IpAddr>>,
    text: BTreeMap<String, Vec<String>>,
    pointers: BTreeMap<IpAddr, Domain>,
    down: BTreeMap<Domain, String>,
    tlsa: BTreeMap<(Domain, u16), Vec<Tlsa>>,
    tlsa_down: BTreeMap<Domain, String>,
    secure: BTreeSet<Domain>,
}

impl Zone {
    /// Adds an MX record; without a target it is a null MX (RFC 7505).
    pub fn mx(mut self, domain: &Domain, preference: u16, target: Option<&Domain>) -> Zone {
        self.mx.entry(domain.clone()).or_default().push(Mx { preference, target: target.cloned() });
        self
    }

    /// Adds an address record.
    pub fn address(mut self, host: &Domain, address: IpAddr) -> Zone {
        self.addresses.entry(host.clone()).or_default().push(address);
        self
    }

    /// Adds a TXT record.
    pub fn text(mut self, name: &str, text: &str) -> Zone {
        self.text.entry(name.to_ascii_lowercase()).or_default().push(text.to_owned());
        self
    }

    /// Adds the PTR record of an address.
    pub fn pointer(mut self, address: IpAddr, host: &Domain) -> Zone {
        self.pointers.insert(address, host.clone());
        self
    }

    /// Adds a TLSA record of a host at a TCP port.
    pub fn tlsa(mut self, host: &Domain, port: u16, record: Tlsa) -> Zone {
        self.tlsa.entry((host.clone(), port)).or_default().push(record);
        self
    }

    /// Makes every question about the certificate of a host end in SERVFAIL.
    pub fn tlsa_down(mut self, host: &Domain, why: &str) -> Zone {
        self.tlsa_down.insert(host.clone(), why.to_owned());
        self
    }

    /// Makes the answers about a name proved by DNSSEC.
    pub fn secure(mut self, name: &Domain) -> Zone {
        self.secure.insert(name.clone());
        self
    }

    /// Makes every question about a name end in SERVFAIL.
    pub fn down(mut self, name: &Domain, why: &str) -> Zone {
        self.down.insert(name.clone(), why.to_owned());
        self
    }

    /// What a missing entry means for a name: trouble, no records, or no such name.
    fn absent(&self, name: &Domain) -> DnsError {
        let name = name.clone();
        if let Some(why) = self.down.get(&name) {
            return DnsError::Unavailable { name, why: why.clone() };
        }
        match self.mx.contains_key(&name) || self.addresses.contains_key(&name) {
            true => DnsError::NoRecords { name, ttl: TTL },
            false => DnsError::NoSuchName { name, ttl: TTL },
        }
    }

    fn answer<T: Clone>(&self, name: &Domain, records: Option<Vec<T>>) -> Result<Answer<T>, DnsError> {
        match records.filter(|records| !records.is_empty() && !self.down.contains_key(name)) {
            Some(records) => Ok(Answer { records, ttl: TTL, secure: self.secure.contains(name) }),
            None => Err(self.absent(name)),
        }
    }
}

impl Dns for Zone {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        future::ready(self.answer(domain, self.mx.get(domain).cloned())).boxed()
    }

    fn addresses(&self, host: &Domain, v6: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>> {
        let wanted = |all: &Vec<IpAddr>| all.iter().copied().filter(|a| v6 || a.is_ipv4()).collect();
        future::ready(self.answer(host, self.addresses.get(host).map(wanted))).boxed()
    }

    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        let found = self.text.get(&name.to_ascii_lowercase()).cloned();
        let domain = Domain::parse(name.trim_start_matches(|c| c != '.').trim_start_matches('.'))
            .unwrap_or_else(|_| Domain::parse("invalid").expect("a plain label is a domain"));
        future::ready(self.answer(&domain, found)).boxed()
    }

    fn tlsa(&self, host: &Domain, port: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        let trouble =
            self.tlsa_down.get(host).map(|why| DnsError::Unavailable { name: host.clone(), why: why.clone() });
        let found = self.tlsa.get(&(host.clone(), port)).cloned();
        future::ready(trouble.map_or_else(|| self.answer(host, found), Err)).boxed()
    }

    fn pointer(&self, address: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        let found = self.pointers.get(&address).map(|host| vec![host.clone()]);
        let domain = Domain::parse("arpa").expect("a plain label is a domain");
        future::ready(self.answer(&domain, found)).boxed()
    }
}

/// What happens when a host is dialled: it returns our end of the connection, or refuses.
type Door = Arc<dyn Fn(Option<IpAddr>) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// A network that is a table of hosts. Dialling an address without an entry is refused.
#[derive(Clone, Default)]
pub struct NetTable {
    doors: BTreeMap<SocketAddr, Door>,
}

impl NetTable {
    /// Puts a host at an address. `door` is called for each connection with the source address it comes from.
    pub fn host<F>(mut self, at: SocketAddr, door: F) -> NetTable
    where
        F: Fn(Option<IpAddr>) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync + 'static,
    {
        self.doors.insert(at, Arc::new(door));
        self
    }
}

impl Net for NetTable {
    fn dial(&self, from: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        match self.doors.get(&to) {
            Some(door) => door(from),
            None => future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
        }
    }
}
