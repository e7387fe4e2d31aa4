//! What TLS a connection must have: the site's shape, the relay's scheme, and the memory of hosts whose TLS is broken.
//! Shakes no hands itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::shaping::Tls;
use crate::delivery::via::ViaTls;
use crate::mail::TlsFlaw;
use crate::smtp::Associations;

/// How long a host with a failing handshake is spoken to in clear at once (C-40). Short: hosts get mended, and clear
/// text is the worse way.
const BROKEN_TTL: Duration = Duration::from_secs(3600);
/// Hosts remembered; past it the memory starts anew, which costs one failed handshake each.
const BROKEN_MAX: usize = 10_000;

/// What one connection must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// No TLS, also where STARTTLS is offered.
    Clear,
    /// STARTTLS where it is offered, unverified; clear text where it is not or fails.
    Opportunistic,
    /// STARTTLS always, unverified.
    Required,
    /// STARTTLS always, with a certificate valid for the host's name.
    Verified,
    /// STARTTLS always, with a certificate that the host's zone announces (RFC 7672).
    Announced(Arc<Associations>),
    /// TLS from the first byte, with a certificate valid for the host's name (RFC 8314 §3.3).
    Implicit,
}

impl Demand {
    /// What a site's shape demands.
    pub fn of_site(tls: Tls) -> Demand {
        match tls {
            Tls::Disabled => Demand::Clear,
            Tls::Opportunistic => Demand::Opportunistic,
            Tls::Required => Demand::Required,
            Tls::Verified => Demand::Verified,
        }
    }

    /// What a relay's scheme demands.
    pub fn of_relay(tls: ViaTls) -> Demand {
        match tls {
            ViaTls::Opportunistic => Demand::Opportunistic,
            ViaTls::StartTls => Demand::Verified,
            ViaTls::Implicit => Demand::Implicit,
        }
    }

    /// TLS at least: for a host whose zone announces certificates, but none that could be compared (RFC 7672 §2.2).
    pub fn at_least_required(self) -> Demand {
        match self {
            Demand::Clear | Demand::Opportunistic => Demand::Required,
            firm @ (Demand::Required | Demand::Verified | Demand::Announced(_) | Demand::Implicit) => firm,
        }
    }

    /// Whether a failed handshake may be followed by clear text, on a new connection.
    pub fn may_fall_back(&self) -> bool {
        match self {
            Demand::Opportunistic => true,
            Demand::Clear | Demand::Required | Demand::Verified | Demand::Announced(_) | Demand::Implicit => false,
        }
    }
}

/// The hosts whose handshake failed lately.
#[derive(Debug, Default)]
pub struct BrokenTls(Mutex<HashMap<Arc<str>, (Instant, TlsFlaw)>>);

impl BrokenTls {
    /// What to demand of this host: clear text at once where opportunistic TLS has just failed.
    pub fn adjust(&self, demand: Demand, host: &str, now: Instant) -> Demand {
        if demand.may_fall_back() && self.flaw(host, now).is_some() { Demand::Clear } else { demand }
    }

    /// What was wrong when the handshake with this host failed lately.
    pub fn flaw(&self, host: &str, now: Instant) -> Option<TlsFlaw> {
        self.table().get(host).filter(|(until, _)| *until > now).map(|(_, flaw)| *flaw)
    }

    /// The handshake with this host failed.
    pub fn remember(&self, host: &Arc<str>, flaw: TlsFlaw, now: Instant) {
        let mut table = self.table();
        if table.len() >= BROKEN_MAX {
            table.clear();
        }
        table.insert(host.clone(), (now + BROKEN_TTL, flaw));
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, (Instant, TlsFlaw)>> {
        // Each change is one call, so a panic elsewhere leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_tls_is_remembered_for_an_hour_and_never_lowers_a_demand() {
        let (broken, now, host) = (BrokenTls::default(), Instant::now(), Arc::from("mx.example.org"));
        assert_eq!(broken.adjust(Demand::Opportunistic, &host, now), Demand::Opportunistic);
        broken.remember(&host, TlsFlaw::Other, now);
        assert_eq!(broken.adjust(Demand::Opportunistic, &host, now), Demand::Clear);
        for firm in [Demand::Required, Demand::Verified, Demand::Implicit] {
            assert_eq!(broken.adjust(firm.clone(), &host, now), firm);
        }
        assert_eq!(broken.adjust(Demand::Opportunistic, &host, now + BROKEN_TTL), Demand::Opportunistic);
        assert_eq!(broken.adjust(Demand::Opportunistic, "other.example.org", now), Demand::Opportunistic);
    }
}
