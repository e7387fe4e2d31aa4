//! From a route to an open connection: hosts and their addresses one after the other, never raced (C-13), bounded in
//! number, with what failed lately remembered. Says where it failed; what follows, `trouble` decides.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Domain;
use crate::config::shaping::{SiteShape, Tls};
use crate::delivery::route::{Host, Route};
use crate::delivery::source::Source;
use crate::delivery::tls_policy::{BrokenTls, Demand};
use crate::delivery::trouble::Fault;
use crate::mail::{Reply, Stage, TlsFlaw};
use crate::smtp::Associations;
use crate::world::{DnsError, Stream, World, is_inward};

/// Addresses of one host that are looked at (C-09).
const ADDRESSES_MAX: usize = 10;
/// Addresses dialled in one attempt; at least two are (C-03).
const TRIES_MAX: usize = 5;
/// How long a family that failed at a host is tried last there (C-13).
const FAMILY_TTL: Duration = Duration::from_secs(600);
/// Hosts whose families are remembered; past it the memory starts anew.
const FAMILY_MAX: usize = 10_000;

/// Why no connection came about: how far the last try got, at which host, and what was heard there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How far it came.
    pub stage: Stage,
    /// The host; `None` when none was reached for.
    pub host: Option<Domain>,
    /// The refusal, or the failure.
    pub heard: Result<Reply, Fault>,
    /// What of it concerns TLS.
    pub secrecy: Secrecy,
}

/// What was asked of TLS on the way to a host, and what went wrong with it: for reports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secrecy {
    /// The certificates that the host's zone announces.
    pub announced: Option<Arc<Associations>>,
    /// What failed; on an open connection, why it is in clear.
    pub flaw: Option<TlsFlaw>,
}

/// An open connection and where it leads.
#[derive(Debug)]
pub struct Dialled<C> {
    /// Ready for MAIL.
    pub connection: C,
    /// The host; `None` for a relay given by an IPv6 address.
    pub host: Option<Domain>,
    /// Its address.
    pub address: IpAddr,
    /// How TLS came about, or did not.
    pub secrecy: Secrecy,
}

/// Why a host's door stayed shut after the TCP connection stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    /// How far it came.
    pub stage: Stage,
    /// The refusal, or the failure. [`Fault::Tls`] only for the handshake itself, which may be tried again in clear.
    pub heard: Result<Reply, Fault>,
    /// What of it concerns TLS.
    pub flaw: Option<TlsFlaw>,
}

impl Shut {
    fn fault(stage: Stage, fault: Fault, flaw: Option<TlsFlaw>) -> Shut {
        Shut { stage, heard: Err(fault), flaw }
    }

    fn at(self, host: &Host, announced: Option<&Arc<Associations>>) -> Trouble {
        let Shut { stage, heard, flaw } = self;
        Trouble { stage, host: host.domain(), heard, secrecy: Secrecy { announced: announced.cloned(), flaw } }
    }
}

/// What a host's zone says of its certificate.
enum Announced {
    /// Nothing.
    Nothing,
    /// Something that no certificate could be compared with.
    Unusable,
    /// These.
    Certificates(Associations),
}

/// Dials, and remembers what failed.
pub struct Dialler {
    world: World,
    allow_private: bool,
    broken_tls: BrokenTls,
    dead_families: Mutex<HashMap<(Arc<str>, bool), Instant>>,
}

impl Dialler {
    /// A dialler in `world`; private and loopback addresses are refused unless `allow_private` (C-07).
    pub fn new(world: World, allow_private: bool) -> Dialler {
        Dialler { world, allow_private, broken_tls: BrokenTls::default(), dead_families: Mutex::default() }
    }

    /// Dials the hosts of a route from a source until one opens. `open` takes the TCP connection through greeting, TLS,
    /// EHLO and AUTH.
    ///
    /// The next host is tried after failures that say nothing about the site (C-04): no connection, no greeting, no TLS,
    /// a 4xx. A 5xx is the site's word and ends the attempt.
    pub async fn dial<C, F>(
        &self,
        route: &Route,
        source: &Source,
        shape: &SiteShape,
        mut open: impl FnMut(Box<dyn Stream>, Arc<str>, Demand) -> F,
    ) -> Result<Dialled<C>, Trouble>
    where
        F: Future<Output = Result<C, Shut>>,
    {
        let secrecy = Secrecy::default();
        let mut last = Trouble { stage: Stage::Route, host: None, heard: Err(Fault::NoAddress), secrecy };
        let mut tries = 0;
        for host in route.order(&*self.world.dice) {
            let (addresses, proved) = match self.addresses(host, route, source).await {
                Ok(found) => found,
                Err(fault) => {
                    // Where an earlier host was reached, its answer says more; and a domain is refused for poison
                    // only when nothing else is wrong with its hosts.
                    let poison = matches!(fault, Fault::Forbidden(_));
                    if tries == 0 && (last.host.is_none() || !poison) {
                        last = Shut::fault(Stage::Route, fault, None).at(host, None);
                    }
                    continue;
                }
            };
            let demand = match self.demand(host, route, shape, proved).await {
                Ok(demand) => demand,
                Err(shut) => {
                    last = shut.at(host, None);
                    continue;
                }
            };
            let announced = match &demand {
                Demand::Announced(announced) => Some(announced.clone()),
                _ => None,
            };
            for address in addresses {
                if tries == TRIES_MAX {
                    return Err(last);
                }
                tries += 1;
                match self.one(host, SocketAddr::new(address, route.port), source, shape, &demand, &mut open).await {
                    Ok((connection, flaw)) => {
                        return Ok(Dialled {
                            connection,
                            host: host.domain(),
                            address,
                            secrecy: Secrecy { announced, flaw },
                        });
                    }
                    Err(shut) => {
                        let ends = ends_the_attempt(&shut);
                        last = shut.at(host, announced.as_ref());
                        if ends {
                            return Err(last);
                        }
                    }
                }
            }
            if tries >= 2 && !shape.try_next_host {
                break;
            }
        }
        Err(last)
    }

    /// What the connection to this host must have. What its zone announces goes before the domain's policy, and replaces
    /// it (RFC 8461 §2).
    async fn demand(&self, host: &Host, route: &Route, shape: &SiteShape, proved: bool) -> Result<Demand, Shut> {
        if let Some(via) = &route.via {
            return Ok(Demand::of_relay(via.tls));
        }
        let asked = proved && route.proved && shape.tls != Tls::Disabled;
        let announced = if asked { self.announced(host, route.port).await? } else { Announced::Nothing };
        if let Announced::Certificates(associations) = announced {
            return Ok(Demand::Announced(Arc::new(associations)));
        }
        if !route.admits(&host.name, true) {
            let why = format!("the domain's MTA-STS policy does not name {}", host.name);
            return Err(Shut::fault(Stage::Secure, Fault::Tls(why), Some(TlsFlaw::Other)));
        }
        let demand = if route.policy.is_some() { Demand::Verified } else { Demand::of_site(shape.tls) };
        Ok(match announced {
            Announced::Unusable => demand.at_least_required(),
            Announced::Nothing | Announced::Certificates(_) => demand,
        })
    }

    /// What the host's zone says of its certificate. Trouble of the name service makes the host one that cannot be used
    /// now: who can silence it must not be able to make us trust anybody (RFC 7672 §2.1.2).
    async fn announced(&self, host: &Host, port: u16) -> Result<Announced, Shut> {
        let Some(name) = host.domain() else { return Ok(Announced::Nothing) };
        match self.world.dns.tlsa(&name, port).await {
            Ok(answer) if answer.secure => {
                Ok(Associations::usable(&answer.records).map_or(Announced::Unusable, Announced::Certificates))
            }
            Ok(_) | Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => Ok(Announced::Nothing),
            Err(error @ DnsError::Unavailable { .. }) => {
                let why = format!(
                    "what the zone of {host} says of its certificate (TLSA) cannot be had: {error}",
                    host = host.name
                );
                Err(Shut::fault(Stage::Route, Fault::Unreachable(why), Some(TlsFlaw::Unproved)))
            }
        }
    }

    /// One address: TCP, then `open`; after a failed handshake once more in clear, where that is allowed. Gives also why it
    /// is in clear.
    async fn one<C, F>(
        &self,
        host: &Host,
        to: SocketAddr,
        source: &Source,
        shape: &SiteShape,
        demand: &Demand,
        open: &mut impl FnMut(Box<dyn Stream>, Arc<str>, Demand) -> F,
    ) -> Result<(C, Option<TlsFlaw>), Shut>
    where
        F: Future<Output = Result<C, Shut>>,
    {
        let now = Instant::now();
        let known = self.broken_tls.flaw(&host.name, now).filter(|_| demand.may_fall_back());
        let demand = self.broken_tls.adjust(demand.clone(), &host.name, now);
        let stream = self.connect(host, to, source, shape).await?;
        match open(stream, host.name.clone(), demand.clone()).await {
            Err(Shut { heard: Err(Fault::Tls(_)), flaw, .. }) if demand.may_fall_back() => {
                let flaw = flaw.unwrap_or(TlsFlaw::Other);
                // The socket is spoilt by the handshake; a new one speaks clear text (C-40).
                self.broken_tls.remember(&host.name, flaw, Instant::now());
                let stream = self.connect(host, to, source, shape).await?;
                Ok((open(stream, host.name.clone(), Demand::Clear).await?, Some(flaw)))
            }
            other => Ok((other?, known)),
        }
    }

    async fn connect(
        &self,
        host: &Host,
        to: SocketAddr,
        source: &Source,
        shape: &SiteShape,
    ) -> Result<Box<dyn Stream>, Shut> {
        let limit = shape.connect_timeout.duration();
        let dialled = tokio::time::timeout(limit, self.world.net.dial(source.address, to)).await;
        let fault = match dialled {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Fault::of_io(&error),
            Err(_) => Fault::TimedOut(limit),
        };
        if matches!(fault, Fault::Unreachable(_) | Fault::TimedOut(_)) {
            self.remember_dead(host, to.ip());
        }
        Err(Shut::fault(Stage::Connect, fault, None))
    }

    /// The addresses of a host to dial, in order, and whether DNSSEC proved them: those of a family that failed lately
    /// come last.
    async fn addresses(&self, host: &Host, route: &Route, source: &Source) -> Result<(Vec<IpAddr>, bool), Fault> {
        let relay = route.via.is_some();
        let (mut found, proved) = match host.address {
            Some(address) => (vec![address], false),
            None => self.look_up(host, source.is_v6() || relay && source.address.is_none()).await?,
        };
        found.truncate(ADDRESSES_MAX);
        found.retain(|address| source.reaches(*address));
        let forbidden = found.iter().copied().find(|address| is_inward(*address));
        if !self.allow_private && !relay {
            found.retain(|address| !is_inward(*address));
        }
        if found.is_empty() {
            return Err(forbidden.map_or(Fault::NoAddress, Fault::Forbidden));
        }
        let now = Instant::now();
        found.sort_by_key(|address| self.is_dead(host, *address, now));
        Ok((found, proved))
    }

    async fn look_up(&self, host: &Host, v6: bool) -> Result<(Vec<IpAddr>, bool), Fault> {
        let Some(name) = host.domain() else { return Err(Fault::NoAddress) };
        match self.world.dns.addresses(&name, v6).await {
            Ok(answer) => Ok((answer.records, answer.secure)),
            Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => Err(Fault::NoAddress),
            Err(error @ DnsError::Unavailable { .. }) => Err(Fault::Unreachable(error.to_string())),
        }
    }

    fn is_dead(&self, host: &Host, address: IpAddr, now: Instant) -> bool {
        self.families().get(&(host.name.clone(), address.is_ipv6())).is_some_and(|until| *until > now)
    }

    fn remember_dead(&self, host: &Host, address: IpAddr) {
        let mut families = self.families();
        if families.len() >= FAMILY_MAX {
            families.clear();
        }
        families.insert((host.name.clone(), address.is_ipv6()), Instant::now() + FAMILY_TTL);
    }

    fn families(&self) -> std::sync::MutexGuard<'_, HashMap<(Arc<str>, bool), Instant>> {
        // Each change is one call, so a panic elsewhere leaves the table whole.
        self.dead_families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether trying the next address is of no use: the site has spoken, or the fault is ours.
fn ends_the_attempt(shut: &Shut) -> bool {
    match &shut.heard {
        Ok(reply) => reply.is_permanent(),
        Err(Fault::SourceGone(_) | Fault::Exhausted(_) | Fault::Credentials(_)) => true,
        Err(
            Fault::NoAddress
            | Fault::Forbidden(_)
            | Fault::Unreachable(_)
            | Fault::TimedOut(_)
            | Fault::Closed
            | Fault::Garbled(_)
            | Fault::Tls(_),
        ) => false,
    }
}

#[cfg(test)]
mod tests;
