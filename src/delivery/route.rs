//! From a domain to the hosts that take its mail (RFC 5321 §5.1), and the site they make up. Opens no connection; the
//! addresses of the hosts are looked up when they are dialled.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::base::{Domain, Live};
use crate::config::shaping::Shaping;
use crate::delivery::relays::Relay;
use crate::delivery::relays::Relays;
use crate::delivery::sts::{Policies, Policy};
use crate::delivery::via::Via;
use crate::mail::{Blame, Class, EnhancedCode, Reply, Ruling};
use crate::world::{Dice, Dns, DnsError, Mx, World};

/// Hosts of a domain that are looked at (C-09).
const HOSTS_MAX: usize = 20;
/// All name look-ups for one domain together (C-09).
const LOOKUP_MAX: Duration = Duration::from_secs(30);
/// Domains whose routes are remembered.
const ROUTES_MAX: usize = 50_000;
/// How long trouble of the name service is remembered, so that a domain in trouble is not asked for again by each copy.
const TROUBLE_TTL: Duration = Duration::from_secs(30);
/// How long the route to an address literal is remembered: it never changes.
const LITERAL_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest name of a site; a longer host set is cut and hashed.
const SITE_MAX: usize = 120;

/// One host that takes mail for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The host's name; for a relay given by address, the address as text.
    pub name: Arc<str>,
    /// Lower is tried first.
    pub preference: u16,
    /// The address, where it was given instead of a name.
    pub address: Option<IpAddr>,
}

impl Host {
    /// The name as a domain; `None` for an IPv6 address.
    pub fn domain(&self) -> Option<Domain> {
        Domain::parse(&self.name).ok()
    }
}

/// Where mail for a domain goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The site: what limits and pauses are counted by (C-11). A provider's name, else the registrable domain the best
    /// hosts share, else the sorted set of the best hosts.
    pub site: Arc<str>,
    /// The hosts, by preference.
    pub hosts: Arc<[Host]>,
    /// The port they listen on.
    pub port: u16,
    /// The relay everything goes through, when there is one.
    pub via: Option<Arc<Via>>,
    /// The relay of a fixed route this goes through.
    pub relay: Option<Arc<Relay>>,
    /// The relays of a fixed route to choose from; the other fields are then those of the first.
    pub choices: Option<Arc<[Arc<Route>]>>,
    /// Whether DNSSEC proved that these are the hosts; only then is it worth asking what their zones say of their
    /// certificates (RFC 7672 §2.2.1).
    pub proved: bool,
    /// The policy of the domain that names its hosts and demands verified TLS (RFC 8461).
    pub policy: Option<Arc<Policy>>,
    /// The domain's policy only tests, and somebody wants to know how that goes: certificates are checked, and mail goes
    /// whatever they are.
    pub trial: bool,
}

impl Route {
    /// The route through a relay named by hand.
    pub fn through(via: Via) -> Route {
        let host = Host { name: via.host.as_str().into(), preference: 0, address: via.address };
        let site = via.to_string().into();
        let (hosts, port, via) = ([host].into(), via.port, Some(Arc::new(via)));
        Route { site, hosts, port, via, relay: None, choices: None, proved: false, policy: None, trial: false }
    }

    /// Whether a connection to `host` may carry mail of this route: where a policy holds, only one to a host that it names
    /// and whose certificate was `verified` (RFC 8461 §5).
    pub fn admits(&self, host: &str, verified: bool) -> bool {
        self.policy.as_ref().is_none_or(|policy| verified && policy.names(host))
    }

    /// The hosts in the order of one attempt: by preference, shuffled where it is equal (C-03).
    pub fn order(&self, dice: &dyn Dice) -> Vec<&Host> {
        let mut hosts: Vec<(u16, u64, &Host)> = self.hosts.iter().map(|h| (h.preference, dice.roll(), h)).collect();
        hosts.sort_by_key(|(preference, throw, _)| (*preference, *throw));
        hosts.into_iter().map(|(_, _, host)| host).collect()
    }
}

/// Why a domain has no route: the ruling on every copy for it, and the reply a host would have given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoute {
    /// What becomes of the copy.
    pub ruling: Ruling,
    /// The code and words for the record.
    pub reply: Reply,
}

impl NoRoute {
    fn failed(code: u16, enhanced: EnhancedCode, text: String) -> NoRoute {
        let ruling = Ruling::failed(Blame::Recipient, Class::HardBadDomain);
        NoRoute { ruling, reply: Reply { code, enhanced: Some(enhanced), text } }
    }

    fn deferred(enhanced: EnhancedCode, text: String) -> NoRoute {
        let ruling = Ruling::deferred(Blame::Site, Class::SoftSystem);
        NoRoute { ruling, reply: Reply { code: 451, enhanced: Some(enhanced), text } }
    }
}

type Found = Result<Arc<Route>, NoRoute>;

/// Finds routes, and remembers them for as long as the name service says. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    finder: Finder,
    relays: Relays,
    known: Arc<Mutex<HashMap<Domain, Known>>>,
}

/// A route found, or on its way: whoever asks meanwhile waits for the same answer.
enum Known {
    Found(Found, Instant),
    Coming(Shared<BoxFuture<'static, (Found, Instant)>>),
}

impl Router {
    /// A router that asks `world`'s name service and tells sites by `shaping`'s providers. Hosts listen on `port`.
    pub fn new(world: &World, shaping: Live<Shaping>, port: u16) -> Router {
        let finder = Finder { dns: world.dns.clone(), shaping, port, policies: None, tries: false };
        Router { finder, relays: Relays::default(), known: Arc::default() }
    }

    /// The same router, with fixed routes before what the name service says.
    pub fn with_relays(mut self, relays: Relays) -> Router {
        self.relays = relays;
        self
    }

    /// The same router, which also tries out what policies would do that only test, for reports.
    pub fn trying(mut self, tries: bool) -> Router {
        self.finder.tries = tries;
        self
    }

    /// The same router, following MTA-STS policies.
    pub fn with_policies(mut self, policies: Policies) -> Router {
        self.finder.policies = Some(policies);
        self
    }

    /// The route to a domain. Asked often: an answer that is known is a look into a table.
    pub async fn route(&self, domain: &Domain) -> Result<Arc<Route>, NoRoute> {
        if let Some(fixed) = self.relays.route(domain) {
            return Ok(fixed.clone());
        }
        let coming = match self.known_or_coming(domain) {
            Ok(found) => return found,
            Err(coming) => coming,
        };
        let (found, until) = coming.await;
        self.table().insert(domain.clone(), Known::Found(found.clone(), until));
        found
    }

    /// Forgets what is known of a domain: its hosts have all failed, and perhaps they moved.
    pub fn forget(&self, domain: &Domain) {
        self.table().remove(domain);
    }

    /// Forgets everything: the table of providers has changed, and with it perhaps the sites' names.
    pub fn forget_all(&self) {
        self.table().clear();
    }

    fn known_or_coming(&self, domain: &Domain) -> Result<Found, Shared<BoxFuture<'static, (Found, Instant)>>> {
        let now = Instant::now();
        let mut known = self.table();
        if known.len() >= ROUTES_MAX && !known.contains_key(domain) {
            make_room(&mut known, now);
        }
        let start = || {
            let (finder, domain) = (self.finder.clone(), domain.clone());
            async move { finder.find(&domain).await }.boxed().shared()
        };
        match known.entry(domain.clone()) {
            Entry::Occupied(mut entry) => match entry.get() {
                Known::Found(found, until) if *until > now => Ok(found.clone()),
                Known::Coming(coming) => Err(coming.clone()),
                Known::Found(..) => {
                    let coming = start();
                    entry.insert(Known::Coming(coming.clone()));
                    Err(coming)
                }
            },
            Entry::Vacant(entry) => {
                let coming = start();
                entry.insert(Known::Coming(coming.clone()));
                Err(coming)
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Domain, Known>> {
        // No caller can leave the table half changed, so a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what is out of date, and if that is not enough the eighth that would be next.
fn make_room(known: &mut HashMap<Domain, Known>, now: Instant) {
    known.retain(|_, entry| !matches!(entry, Known::Found(_, until) if *until <= now));
    if known.len() < ROUTES_MAX {
        return;
    }
    let mut by_end: Vec<(Instant, Domain)> = known
        .iter()
        .filter_map(|(domain, entry)| match entry {
            Known::Found(_, until) => Some((*until, domain.clone())),
            Known::Coming(_) => None,
        })
        .collect();
    by_end.sort();
    for (_, domain) in by_end.into_iter().take(ROUTES_MAX / 8) {
        known.remove(&domain);
    }
}

/// What it takes to find a route, without the memory.
#[derive(Clone)]
struct Finder {
    dns: Arc<dyn Dns>,
    shaping: Live<Shaping>,
    port: u16,
    policies: Option<Policies>,
    tries: bool,
}

impl Finder {
    /// Looks a route up, and says until when it holds.
    async fn find(&self, domain: &Domain) -> (Found, Instant) {
        let looked = tokio::time::timeout(LOOKUP_MAX, self.look_up(domain)).await;
        let (found, ttl) = looked.unwrap_or_else(|_| {
            let text = format!("the name service did not answer for {domain} within {} s", LOOKUP_MAX.as_secs());
            (Err(NoRoute::deferred(EnhancedCode(4, 4, 3), text)), TROUBLE_TTL)
        });
        let found = match (&self.policies, found) {
            (Some(policies), Ok(route)) => {
                let route = follow(route, policies.find(domain).await);
                let tests = || policies.standing(domain).policy.is_some_and(|policy| policy.is_testing());
                let trial = self.tries && tests();
                Ok(if trial { Arc::new(Route { trial, ..(*route).clone() }) } else { route })
            }
            (_, found) => found,
        };
        (found, Instant::now() + ttl)
    }

    async fn look_up(&self, domain: &Domain) -> (Found, Duration) {
        if let Some(address) = domain.literal() {
            // there is nothing to look up: the host is named by its address (RFC 5321 §5.1)
            let host = Host { name: address.to_string().into(), preference: 0, address: Some(address) };
            let (site, hosts) = (host.name.clone(), vec![host]);
            return (Ok(Arc::new(Route { site, ..self.to(hosts, false) })), LITERAL_TTL);
        }
        match self.dns.mx(domain).await {
            Ok(answer) => (self.by_mx(domain, answer.records, answer.secure), answer.ttl),
            Err(DnsError::NoRecords { .. }) => self.implicit(domain).await,
            Err(DnsError::NoSuchName { name, ttl }) => {
                let text = format!("the domain {name} does not exist");
                (Err(NoRoute::failed(550, EnhancedCode(5, 1, 2), text)), ttl)
            }
            Err(error @ DnsError::Unavailable { .. }) => trouble(&error),
        }
    }

    /// The hosts of the MX records; the root among others is malformed and passed over (C-05).
    fn by_mx(&self, domain: &Domain, mut records: Vec<Mx>, proved: bool) -> Found {
        if let [Mx { target: None, .. }] = records.as_slice() {
            let text = format!("{domain} takes no mail (null MX)");
            return Err(NoRoute::failed(556, EnhancedCode(5, 1, 10), text));
        }
        records.sort_by(|a, b| (a.preference, &a.target).cmp(&(b.preference, &b.target)));
        let mut seen = HashSet::new();
        let hosts: Vec<Host> = records
            .into_iter()
            .filter_map(|mx| Some((mx.preference, mx.target?)))
            .filter(|(_, name)| seen.insert(name.clone()))
            .filter(|(_, name)| name.as_str().parse::<IpAddr>().is_err())
            .take(HOSTS_MAX)
            .map(|(preference, name)| Host { name: name.as_str().into(), preference, address: None })
            .collect();
        if hosts.is_empty() {
            // There are MX records, so its own address is out of the question (C-02).
            let text = format!("no MX record of {domain} names a host");
            return Err(NoRoute::deferred(EnhancedCode(4, 4, 4), text));
        }
        Ok(Arc::new(self.to(hosts, proved)))
    }

    /// Without MX records the domain itself is the host, if it has an address (RFC 5321 §5.1).
    async fn implicit(&self, domain: &Domain) -> (Found, Duration) {
        match self.dns.addresses(domain, true).await {
            Ok(answer) => {
                let host = Host { name: domain.as_str().into(), preference: 0, address: None };
                (Ok(Arc::new(self.to(vec![host], answer.secure))), answer.ttl)
            }
            Err(DnsError::NoSuchName { ttl, .. } | DnsError::NoRecords { ttl, .. }) => {
                let text = format!("{domain} has neither an MX record nor an address");
                (Err(NoRoute::failed(550, EnhancedCode(5, 1, 2), text)), ttl)
            }
            Err(error @ DnsError::Unavailable { .. }) => trouble(&error),
        }
    }

    fn to(&self, hosts: Vec<Host>, proved: bool) -> Route {
        let (site, port) = (self.site(&hosts), self.port);
        let hosts = hosts.into();
        Route { site, hosts, port, via: None, relay: None, choices: None, proved, policy: None, trial: false }
    }

    /// The site's name, from the hosts of the best preference.
    fn site(&self, hosts: &[Host]) -> Arc<str> {
        let best = hosts.iter().filter(|host| host.preference == hosts[0].preference);
        let mut names: Vec<Domain> = best.filter_map(Host::domain).collect();
        if let Some(provider) = self.shaping.now().provider(&names) {
            return provider.into();
        }
        let mut owners = names.iter().map(Domain::registrable);
        if let Some(Some(first)) = owners.next()
            && owners.all(|other| other == Some(first))
        {
            return first.into();
        }
        names.sort();
        host_set(&names)
    }
}

/// The route under the domain's policy, when it has one.
fn follow(route: Arc<Route>, policy: Option<Arc<Policy>>) -> Arc<Route> {
    match policy {
        Some(policy) => Arc::new(Route { policy: Some(policy), ..(*route).clone() }),
        None => route,
    }
}

fn trouble(error: &DnsError) -> (Found, Duration) {
    (Err(NoRoute::deferred(EnhancedCode(4, 4, 3), error.to_string())), TROUBLE_TTL)
}

/// The names joined; what is too long for a name keeps its start and a hash of the rest.
fn host_set(names: &[Domain]) -> Arc<str> {
    let text = names.iter().map(Domain::as_str).collect::<Vec<_>>().join(",");
    if text.len() <= SITE_MAX {
        return text.into();
    }
    // Names are ASCII, so any cut is a whole character. This hasher's keys are fixed: the name holds over restarts.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{}…{:016x}", &text[..SITE_MAX - 20], hasher.finish()).into()
}

#[cfg(test)]
mod tests;
