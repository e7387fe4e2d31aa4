//! The name service by hickory-resolver: the only file that knows it. Tells a name that does not exist from one without
//! records and from a service in trouble (C-01), bounds how long answers hold (C-09), and has them proved by DNSSEC.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as HickoryDnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::{Answer, Dns, DnsError, Dnssec, Error, Mx, NameService, Tlsa};
use crate::base::Domain;

/// No answer is kept for less (C-09).
const TTL_FLOOR: Duration = Duration::from_secs(30);
/// No answer is kept for longer (C-09).
const TTL_CEILING: Duration = Duration::from_secs(86_400);
/// How long a missing name is believed when its zone does not say (RFC 2308 §5 leaves it to us).
const NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// Answers kept; past it the least used ones go.
const CACHE_ENTRIES: u64 = 16_384;
/// Questions on the way to one name server at once; more would be refused as "busy" and look like trouble.
const QUESTIONS_MAX: usize = 4096;
/// Records of one answer that are looked at (C-09).
const RECORDS_MAX: usize = 100;

/// Answers without a proof, before any with one, after which name servers are taken not to pass proofs on.
const UNPROVED_MAX: u32 = 8;

/// Asks the name servers.
pub(super) struct Resolver {
    asker: Asker,
}

impl Resolver {
    /// A resolver that asks these name servers.
    pub(super) fn new(names: NameService<'_>) -> Result<Resolver, Error> {
        let NameService { servers, dnssec, anchor } = names;
        let prover = match dnssec {
            Dnssec::Off => None,
            Dnssec::Auto | Dnssec::On => {
                let mut builder = builder(servers)?;
                builder.options_mut().validate = true;
                if let Some(path) = anchor {
                    builder = builder.with_trust_anchor(Arc::new(anchors(path)?));
                }
                let inner = builder.build().map_err(unusable)?;
                let is_strict = dnssec == Dnssec::On;
                Some(Prover { inner, is_strict, has_proved: AtomicBool::default(), unproved: AtomicU32::default() })
            }
        };
        let plain = builder(servers)?.build().map_err(unusable)?;
        Ok(Resolver { asker: Asker { plain, prover: prover.map(Arc::new) } })
    }

    /// Asks for records of one type, and turns what comes back into an answer.
    fn ask<T: Send + 'static>(
        &self,
        name: &Domain,
        kind: RecordType,
        read: fn(&RData) -> Option<T>,
    ) -> BoxFuture<'static, Result<Answer<T>, DnsError>> {
        let (asker, name) = (self.asker.clone(), name.clone());
        async move {
            // The final dot keeps the search list of the system out of it.
            let full = Name::from_ascii(format!("{name}.")).map_err(|error| unavailable(&name, &error))?;
            match asker.lookup(full, kind).await {
                Ok(lookup) => answer(&name, kind, &lookup, read),
                Err(error) => Err(refusal(&name, &error)),
            }
        }
        .boxed()
    }
}

impl Dns for Resolver {
    fn mx(&self, domain: &Domain) -> BoxFuture<'static, Result<Answer<Mx>, DnsError>> {
        let asked = domain.clone();
        self.ask(domain, RecordType::MX, |data| match data {
            RData::MX(mx) if mx.exchange.is_root() => Some(Some(Mx { preference: mx.preference, target: None })),
            // A target that cannot be a host name is kept as `None` here, so that a domain with nothing else is told
            // apart from one without MX: it must not fall back to its own address (C-02).
            RData::MX(mx) => Some(
                Domain::parse(&mx.exchange.to_ascii())
                    .ok()
                    .map(|target| Mx { preference: mx.preference, target: Some(target) }),
            ),
            _ => None,
        })
        .map(move |heard| {
            let heard = heard?;
            let records: Vec<Mx> = heard.records.into_iter().flatten().collect();
            if records.is_empty() {
                let why = "none of its MX records names a host".to_owned();
                return Err(DnsError::Unavailable { name: asked, why });
            }
            Ok(Answer { records, ttl: heard.ttl, secure: heard.secure })
        })
        .boxed()
    }

    fn addresses(&self, host: &Domain, v6: bool) -> BoxFuture<'static, Result<Answer<IpAddr>, DnsError>> {
        let four = self.ask(host, RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        });
        if !v6 {
            return four;
        }
        let six = self.ask(host, RecordType::AAAA, |data| match data {
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        });
        async move {
            let (four, six) = futures_util::join!(four, six);
            merge(four, six)
        }
        .boxed()
    }

    fn text(&self, name: &str) -> BoxFuture<'static, Result<Answer<String>, DnsError>> {
        let (asker, name) = (self.asker.clone(), name.to_owned());
        async move {
            let Some(domain) = domain_behind(&name) else {
                let name = Domain::parse("invalid").expect("a plain label is a domain");
                return Err(DnsError::Unavailable { name, why: "the name asked for is not a domain name".into() });
            };
            let full = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
                .map_err(|error| unavailable(&domain, &error))?;
            match asker.lookup(full, RecordType::TXT).await {
                Ok(lookup) => answer(&domain, RecordType::TXT, &lookup, joined_text),
                Err(error) => Err(refusal(&domain, &error)),
            }
        }
        .boxed()
    }

    fn pointer(&self, address: IpAddr) -> BoxFuture<'static, Result<Answer<Domain>, DnsError>> {
        let name = Name::from(address).to_ascii();
        // Reverse names are digits and letters, so they always parse.
        let domain = Domain::parse(&name).expect("the reverse name of an address is a domain");
        self.ask(&domain, RecordType::PTR, |data| match data {
            RData::PTR(ptr) => Domain::parse(&ptr.0.to_ascii()).ok(),
            _ => None,
        })
    }

    fn tlsa(&self, host: &Domain, port: u16) -> BoxFuture<'static, Result<Answer<Tlsa>, DnsError>> {
        let (prover, host) = (self.asker.prover.clone(), host.clone());
        async move {
            // Unproved they would be worth nothing (RFC 7672 §2.2).
            let Some(prover) = prover else { return Err(DnsError::NoRecords { name: host, ttl: NEGATIVE_TTL }) };
            let full = Name::from_ascii(format!("_{port}._tcp.{host}.")).map_err(|error| unavailable(&host, &error))?;
            match prover.inner.lookup(full, RecordType::TLSA).await {
                Ok(lookup) => answer(&host, RecordType::TLSA, &lookup, association),
                Err(error) => Err(refusal(&host, &error)),
            }
        }
        .boxed()
    }
}

/// What a question goes through.
#[derive(Clone)]
struct Asker {
    plain: TokioResolver,
    prover: Option<Arc<Prover>>,
}

impl Asker {
    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        let Some(prover) = self.prover.as_ref().filter(|prover| prover.is_of_use()) else {
            return self.plain.lookup(name, kind).await;
        };
        let heard = prover.inner.lookup(name.clone(), kind).await;
        match prover.believes(&heard) {
            true => heard,
            false => self.plain.lookup(name, kind).await,
        }
    }
}

/// Has answers proved from the trust anchors down.
struct Prover {
    inner: TokioResolver,
    is_strict: bool,
    has_proved: AtomicBool,
    unproved: AtomicU32,
}

impl Prover {
    /// Whether the name servers seem to pass proofs on.
    fn is_of_use(&self) -> bool {
        self.is_strict
            || self.has_proved.load(Ordering::Relaxed)
            || self.unproved.load(Ordering::Relaxed) < UNPROVED_MAX
    }

    /// Whether this is the last word. Where proof is not demanded, what could not be proved is asked for again without: a
    /// name server that garbles proofs must not keep mail back.
    fn believes(&self, heard: &Result<Lookup, NetError>) -> bool {
        match heard {
            Ok(lookup) => {
                // one proved to be unsigned shows as well that proofs come through
                if lookup.answers().iter().any(|record| record.proof.is_secure() || record.proof.is_insecure()) {
                    self.has_proved.store(true, Ordering::Relaxed);
                }
                true
            }
            Err(NetError::Dns(HickoryDnsError::NoRecordsFound(_))) => true,
            Err(NetError::Dns(HickoryDnsError::Nsec { proof: Proof::Secure | Proof::Insecure, .. })) => true,
            Err(NetError::Dns(HickoryDnsError::DnssecBogus)) if !self.is_strict => {
                self.count_unproved();
                false
            }
            Err(_) => self.is_strict,
        }
    }

    fn count_unproved(&self) {
        let count = self.unproved.fetch_add(1, Ordering::Relaxed) + 1;
        if count == UNPROVED_MAX && !self.has_proved.load(Ordering::Relaxed) {
            tracing::info!(
                "the name servers pass no proofs on (DNSSEC): names are taken unproved, and DANE is not followed"
            );
        }
    }
}

fn unusable(error: NetError) -> Error {
    Error::Resolver(error.to_string())
}

fn builder(servers: &[String]) -> Result<ResolverBuilder<TokioRuntimeProvider>, Error> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(unusable)?
    } else {
        let servers = servers.iter().map(|text| name_server(text)).collect::<Result<_, _>>()?;
        let config = ResolverConfig::from_parts(None, vec![], servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    tune(builder.options_mut());
    Ok(builder)
}

/// The keys in a file, each a DNSKEY record of its zone.
fn anchors(path: &Path) -> Result<TrustAnchors, Error> {
    let wrong = |why: String| Error::Anchor { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    if !text.lines().any(|line| !line.trim_start().starts_with(';') && line.contains("DNSKEY")) {
        return Err(wrong("there is no key in it".to_owned()));
    }
    text.parse::<TrustAnchors>().map_err(|error| wrong(error.to_string()))
}

fn association(data: &RData) -> Option<Tlsa> {
    let RData::TLSA(tlsa) = data else { return None };
    let (usage, selector, matching) = (tlsa.cert_usage.into(), tlsa.selector.into(), tlsa.matching.into());
    Some(Tlsa { usage, selector, matching, data: tlsa.cert_data.clone() })
}

/// Our limits over hickory's defaults; the search list and dots are out of play because names end in a dot.
fn tune(options: &mut ResolverOpts) {
    options.cache_size = CACHE_ENTRIES;
    options.max_active_requests = QUESTIONS_MAX;
    options.positive_min_ttl = Some(TTL_FLOOR);
    options.positive_max_ttl = Some(TTL_CEILING);
    options.negative_min_ttl = Some(TTL_FLOOR);
    options.negative_max_ttl = Some(Duration::from_secs(3600));
    options.try_tcp_on_error = true;
}

fn name_server(text: &str) -> Result<NameServerConfig, Error> {
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| Error::NameServer(text.to_owned()))?;
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    Ok(NameServerConfig::new(address.ip(), true, connections.into()))
}

/// The wanted records of an answer; CNAMEs that led to them are passed over.
fn answer<T>(
    name: &Domain,
    kind: RecordType,
    lookup: &Lookup,
    read: fn(&RData) -> Option<T>,
) -> Result<Answer<T>, DnsError> {
    let wanted = || lookup.answers().iter().filter(|record| record.record_type() == kind).take(RECORDS_MAX);
    let records: Vec<T> = wanted().filter_map(|record| read(&record.data)).collect();
    let ttl = wanted().map(|record| record.ttl).min().map_or(NEGATIVE_TTL, |secs| Duration::from_secs(secs.into()));
    let ttl = ttl.clamp(TTL_FLOOR, TTL_CEILING);
    if records.is_empty() {
        return Err(DnsError::NoRecords { name: name.clone(), ttl });
    }
    // The aliases on the way count too.
    let secure = lookup.answers().iter().all(|record| record.proof.is_secure());
    Ok(Answer { records, ttl, secure })
}

/// What the absence of an answer means.
fn refusal(name: &Domain, error: &NetError) -> DnsError {
    let (code, negative_ttl) = match error {
        NetError::Dns(HickoryDnsError::NoRecordsFound(none)) => (none.response_code, none.negative_ttl),
        // An absence that was proved, or whose zone is proved to be unsigned.
        NetError::Dns(HickoryDnsError::Nsec { response, proof: Proof::Secure | Proof::Insecure, .. }) => {
            (response.response_code, response.negative_ttl())
        }
        _ => return unavailable(name, error),
    };
    let ttl = negative_ttl.map_or(NEGATIVE_TTL, |secs| Duration::from_secs(secs.into()));
    let ttl = ttl.clamp(TTL_FLOOR, TTL_CEILING);
    match code {
        ResponseCode::NXDomain => DnsError::NoSuchName { name: name.clone(), ttl },
        ResponseCode::NoError => DnsError::NoRecords { name: name.clone(), ttl },
        code => unavailable(name, &code),
    }
}

fn unavailable(name: &Domain, why: &dyn std::fmt::Display) -> DnsError {
    DnsError::Unavailable { name: name.clone(), why: why.to_string() }
}

/// Both families as one answer, IPv4 first. One family's trouble does not hide the other's addresses.
fn merge(
    four: Result<Answer<IpAddr>, DnsError>,
    six: Result<Answer<IpAddr>, DnsError>,
) -> Result<Answer<IpAddr>, DnsError> {
    match (four, six) {
        (Ok(mut four), Ok(six)) => {
            four.records.extend(six.records);
            Ok(Answer { ttl: four.ttl.min(six.ttl), secure: four.secure && six.secure, ..four })
        }
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(unavailable @ DnsError::Unavailable { .. }), Err(_)) => Err(unavailable),
        (Err(_), Err(other)) => Err(other),
    }
}

/// The strings of a TXT record joined without a blank (RFC 7208 §3.3); bytes that are not UTF-8 are replaced.
fn joined_text(data: &RData) -> Option<String> {
    let RData::TXT(text) = data else { return None };
    let bytes: Vec<u8> = text.txt_data.iter().flat_map(|piece| piece.iter().copied()).collect();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The domain behind labels such as `_dmarc` or `s1._domainkey`, which are no host names: errors name it.
fn domain_behind(name: &str) -> Option<Domain> {
    let rest = match name.rfind('_') {
        Some(at) => name[at..].split_once('.')?.1,
        None => name,
    };
    Domain::parse(rest).ok()
}

#[cfg(test)]
mod tests;
