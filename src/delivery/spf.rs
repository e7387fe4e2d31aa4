//! SPF as a receiver will evaluate it (RFC 7208 §4), for addresses of our own. The grammar and the macros are the
//! library's; the look-ups go through the world's name service.

use std::net::IpAddr;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::spf::{Macro, Mechanism, Qualifier, Variables};

use crate::base::Domain;
use crate::world::{Dns, DnsError};

/// Terms that ask the name service, altogether (RFC 7208 §4.6.4).
const LOOKUPS_MAX: u32 = 10;
/// Hosts of one `mx` term (RFC 7208 §4.6.4).
const HOSTS_MAX: usize = 10;

/// What a domain says about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spf {
    /// It may send.
    Pass,
    /// It must not.
    Fail,
    /// It is not expected to.
    SoftFail,
    /// Nothing.
    Neutral,
    /// There is no record.
    Absent,
    /// The record cannot be used; receivers count it as failed.
    Broken(String),
    /// The name service did not say.
    Unknown(String),
}

/// What `domain` says about mail with its return path from `address`. Without an address only whether its own record can
/// be read.
pub async fn evaluate(dns: &dyn Dns, domain: &Domain, address: Option<IpAddr>) -> Spf {
    let mut evaluation = Evaluation { dns, address, sender: format!("b.token@{domain}"), lookups: 0 };
    evaluation.domain(domain.as_str().to_owned()).await
}

struct Evaluation<'a> {
    dns: &'a dyn Dns,
    address: Option<IpAddr>,
    sender: String,
    lookups: u32,
}

/// Whether a term is meant for the address, or an end of the evaluation.
type Matched = Result<bool, Spf>;

impl Evaluation<'_> {
    /// `check_host()` for one domain (RFC 7208 §4).
    fn domain(&mut self, domain: String) -> BoxFuture<'_, Spf> {
        async move { self.record(&domain).await.unwrap_or_else(|end| end) }.boxed()
    }

    async fn record(&mut self, domain: &str) -> Result<Spf, Spf> {
        let texts = match self.dns.text(domain).await {
            Ok(answer) => answer.records,
            Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => return Ok(Spf::Absent),
            Err(DnsError::Unavailable { why, .. }) => return Ok(Spf::Unknown(why)),
        };
        let is_spf = |text: &&String| text.as_str() == "v=spf1" || text.starts_with("v=spf1 ");
        let records: Vec<&String> = texts.iter().filter(is_spf).collect();
        let text = match records.as_slice() {
            [] => return Ok(Spf::Absent),
            [one] => *one,
            _ => return Ok(Spf::Broken(format!("{domain} has {} SPF records", records.len()))),
        };
        let parsed = mail_auth::spf::Spf::parse(text.as_bytes());
        let record = parsed.map_err(|_| Spf::Broken(format!("{domain}: \"{text}\" has an error")))?;
        if self.address.is_none() {
            return Ok(Spf::Neutral);
        }
        for directive in &record.directives {
            if self.matches(domain, &directive.mechanism).await? {
                return Ok(match directive.qualifier {
                    Qualifier::Pass => Spf::Pass,
                    Qualifier::Fail => Spf::Fail,
                    Qualifier::SoftFail => Spf::SoftFail,
                    Qualifier::Neutral => Spf::Neutral,
                });
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(Spf::Neutral) };
        self.count()?;
        let target = self.name(domain, redirect);
        match self.domain(target.clone()).await {
            Spf::Absent => Ok(Spf::Broken(format!("redirect={target} has no SPF record"))),
            end => Ok(end),
        }
    }

    /// One more term that asks the name service.
    fn count(&mut self) -> Result<(), Spf> {
        self.lookups += 1;
        match self.lookups > LOOKUPS_MAX {
            true => Err(Spf::Broken(format!("it needs more than {LOOKUPS_MAX} look-ups"))),
            false => Ok(()),
        }
    }

    async fn matches(&mut self, domain: &str, mechanism: &Mechanism) -> Matched {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4 { addr, mask } => Ok(self.is_in(IpAddr::V4(*addr), *mask, u128::MAX)),
            Mechanism::Ip6 { addr, mask } => Ok(self.is_in(IpAddr::V6(*addr), u32::MAX, *mask)),
            Mechanism::Include { macro_string } => {
                self.count()?;
                let target = self.name(domain, macro_string);
                match self.domain(target.clone()).await {
                    Spf::Pass => Ok(true),
                    Spf::Fail | Spf::SoftFail | Spf::Neutral => Ok(false),
                    Spf::Absent => Err(Spf::Broken(format!("include:{target} has no SPF record"))),
                    end @ (Spf::Broken(_) | Spf::Unknown(_)) => Err(end),
                }
            }
            Mechanism::A { macro_string, ip4_mask, ip6_mask } => {
                self.count()?;
                let target = self.name(domain, macro_string);
                self.hosts_match(&[target], *ip4_mask, *ip6_mask).await
            }
            Mechanism::Mx { macro_string, ip4_mask, ip6_mask } => {
                self.count()?;
                let Ok(target) = Domain::parse(&self.name(domain, macro_string)) else { return Ok(false) };
                let hosts: Vec<String> = match self.dns.mx(&target).await {
                    Ok(answer) => answer.records.into_iter().filter_map(|mx| Some(mx.target?.to_string())).collect(),
                    Err(why) => return absent(why),
                };
                if hosts.len() > HOSTS_MAX {
                    return Err(Spf::Broken(format!("mx:{target} has more than {HOSTS_MAX} hosts")));
                }
                self.hosts_match(&hosts, *ip4_mask, *ip6_mask).await
            }
            Mechanism::Exists { macro_string } => {
                self.count()?;
                let Ok(target) = Domain::parse(&self.name(domain, macro_string)) else { return Ok(false) };
                match self.dns.addresses(&target, false).await {
                    Ok(answer) => Ok(!answer.records.is_empty()),
                    Err(why) => absent(why),
                }
            }
            // "Do not use" (RFC 7208 §5.5); counted, and never ours to rely on.
            Mechanism::Ptr { .. } => self.count().map(|()| false),
        }
    }

    async fn hosts_match(&self, hosts: &[String], ip4_mask: u32, ip6_mask: u128) -> Matched {
        let is_v6 = self.address.is_some_and(|address| address.is_ipv6());
        for host in hosts.iter().filter_map(|host| Domain::parse(host).ok()) {
            let found = match self.dns.addresses(&host, is_v6).await {
                Ok(answer) => answer.records,
                Err(why) => {
                    absent(why)?;
                    continue;
                }
            };
            if found.into_iter().any(|address| self.is_in(address, ip4_mask, ip6_mask)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether our address lies in the net of another.
    fn is_in(&self, net: IpAddr, ip4_mask: u32, ip6_mask: u128) -> bool {
        match (self.address, net) {
            (Some(IpAddr::V4(ours)), IpAddr::V4(net)) => ours.to_bits() & ip4_mask == net.to_bits() & ip4_mask,
            (Some(IpAddr::V6(ours)), IpAddr::V6(net)) => ours.to_bits() & ip6_mask == net.to_bits() & ip6_mask,
            _ => false,
        }
    }

    /// The domain a term names, its macros filled in; its own domain when it names none.
    fn name(&self, domain: &str, term: &Macro) -> String {
        let mut variables = Variables::new();
        variables.set_sender(self.sender.as_bytes().to_vec());
        variables.set_domain(domain.as_bytes().to_vec());
        if let Some(address) = &self.address {
            variables.set_ip(address);
        }
        term.eval(&variables, domain, false).into_owned()
    }
}

/// A name that is not there matches nothing; one that cannot be asked for ends the evaluation.
fn absent(why: DnsError) -> Matched {
    match why {
        DnsError::NoSuchName { .. } | DnsError::NoRecords { .. } => Ok(false),
        DnsError::Unavailable { why, .. } => Err(Spf::Unknown(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Zone;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    async fn check(record: &str, address: &str, expected: Spf) {
        let zone = Zone::default()
            .text("bounce.example.com", "some other text")
            .text("bounce.example.com", record)
            .text("pool.example.net", "v=spf1 ip4:198.51.100.0/24 -all")
            .text("loop.example.net", "v=spf1 include:loop.example.net -all")
            .mx(&domain("bounce.example.com"), 10, Some(&domain("mx.example.com")))
            .address(&domain("mx.example.com"), "192.0.2.25".parse().unwrap())
            .address(&domain("mx.example.com"), "2001:db8::25".parse().unwrap())
            .address(&domain("bounce.example.com"), "192.0.2.80".parse().unwrap())
            .address(&domain("7.2.0.192.ok.example.com"), "127.0.0.2".parse().unwrap());
        let found = evaluate(&zone, &domain("bounce.example.com"), Some(address.parse().unwrap())).await;
        let same = std::mem::discriminant(&found) == std::mem::discriminant(&expected);
        assert!(same, "{record} for {address}: {found:?}, not {expected:?}");
    }

    #[tokio::test]
    async fn addresses_pass_or_fail_as_the_record_says() {
        check("v=spf1 ip4:192.0.2.7 -all", "192.0.2.7", Spf::Pass).await;
        check("v=spf1 ip4:192.0.2.0/28 -all", "192.0.2.15", Spf::Pass).await;
        check("v=spf1 ip4:192.0.2.0/28 -all", "192.0.2.16", Spf::Fail).await;
        check("v=spf1 ip4:192.0.2.7 ~all", "192.0.2.8", Spf::SoftFail).await;
        check("v=spf1 ip4:192.0.2.7", "192.0.2.8", Spf::Neutral).await;
        check("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::9", Spf::Pass).await;
        check("v=spf1 a -all", "192.0.2.80", Spf::Pass).await;
        check("v=spf1 mx -all", "192.0.2.25", Spf::Pass).await;
        check("v=spf1 mx -all", "2001:db8::25", Spf::Pass).await;
        check("v=spf1 mx -all", "192.0.2.26", Spf::Fail).await;
        check("v=spf1 include:pool.example.net -all", "198.51.100.9", Spf::Pass).await;
        check("v=spf1 include:pool.example.net ?all", "192.0.2.9", Spf::Neutral).await;
        check("v=spf1 redirect=pool.example.net", "198.51.100.9", Spf::Pass).await;
        check("v=spf1 redirect=pool.example.net", "192.0.2.9", Spf::Fail).await;
        check("v=spf1 exists:%{ir}.ok.example.com -all", "192.0.2.7", Spf::Pass).await;
    }

    #[tokio::test]
    async fn records_that_receivers_cannot_use_are_told_apart() {
        check("no record at all", "192.0.2.7", Spf::Absent).await;
        check("v=spf1 ip4:not-an-address -all", "192.0.2.7", Spf::Broken(String::new())).await;
        check("v=spf1 include:nowhere.example.net -all", "192.0.2.7", Spf::Broken(String::new())).await;
        check("v=spf1 include:loop.example.net -all", "192.0.2.7", Spf::Broken(String::new())).await;
        let twice = Zone::default().text("bounce.example.com", "v=spf1 -all").text("bounce.example.com", "v=spf1 +all");
        let found = evaluate(&twice, &domain("bounce.example.com"), None).await;
        assert!(matches!(found, Spf::Broken(_)));
    }
}
