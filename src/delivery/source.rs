//! Our addresses: which one a copy leaves from, and the name said in EHLO. A copy keeps the address of its first MAIL,
//! because greylisting hosts know it by that (C-51).

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{Domain, EnvelopeId, SourceId};
use crate::config::Settings;

/// One address we send from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its number, by the order of the settings.
    pub id: SourceId,
    /// Its name in reports and rules.
    pub name: Arc<str>,
    /// The local address; `None`: the system chooses.
    pub address: Option<IpAddr>,
    /// What is said in EHLO.
    pub ehlo_name: Arc<str>,
}

impl Source {
    /// Whether it can reach an address of this family.
    pub fn reaches(&self, to: IpAddr) -> bool {
        self.address.is_none_or(|from| from.is_ipv4() == to.is_ipv4())
    }

    /// Whether IPv6 addresses of hosts are asked for: only for a source that is one (C-12).
    pub fn is_v6(&self) -> bool {
        self.address.is_some_and(|from| from.is_ipv6())
    }
}

/// All our addresses; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources(Vec<Arc<Source>>);

impl Sources {
    /// The addresses of the settings; without any, one that the system chooses. `host_name` is the machine's.
    pub fn new(settings: &Settings, host_name: &str) -> Sources {
        let one = |at: usize, name: &str, address: Option<IpAddr>, ehlo_name: Option<&str>| {
            Arc::new(Source {
                id: SourceId(u16::try_from(at).unwrap_or(u16::MAX)),
                name: name.into(),
                address,
                ehlo_name: ehlo_name.map_or_else(|| default_ehlo_name(host_name, address), str::to_owned).into(),
            })
        };
        if settings.source.is_empty() {
            return Sources(vec![one(0, "default", None, None)]);
        }
        let listed = settings.source.iter().enumerate();
        Sources(listed.map(|(at, s)| one(at, &s.name, s.address, s.ehlo_name.as_deref())).collect())
    }

    /// The source a copy leaves from: the one it left from before, while there is such a one; else by its own number,
    /// so that copies spread evenly and a copy planned twice comes out the same.
    pub fn choose(&self, copy: EnvelopeId, before: Option<SourceId>) -> &Arc<Source> {
        before.and_then(|id| self.by_id(id)).unwrap_or_else(|| {
            // A multiplication by an odd constant and the upper bits: neighbours land apart.
            let mixed = copy.to_u64().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            &self.0[(mixed % self.0.len() as u64) as usize]
        })
    }

    /// The source of a number.
    pub fn by_id(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.0.get(usize::from(id.0))
    }

    /// All of them, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.0.iter()
    }
}

/// The name of this machine, as the system has it; empty when it has none.
pub fn host_name() -> String {
    let read = |file| std::fs::read_to_string(file).map(|text| text.trim().to_owned());
    read("/proc/sys/kernel/hostname").or_else(|_| read("/etc/hostname")).unwrap_or_default()
}

/// A full host name if the machine has one, else the address in brackets (RFC 5321 §4.1.3), else the machine's label
/// with a domain that nobody owns: a bare label is refused by many hosts.
fn default_ehlo_name(host_name: &str, address: Option<IpAddr>) -> String {
    let full = Domain::parse(host_name).ok().filter(|name| name.as_str().contains('.'));
    match (full, address) {
        (Some(name), _) => name.to_string(),
        (None, Some(IpAddr::V4(address))) => format!("[{address}]"),
        (None, Some(IpAddr::V6(address))) => format!("[IPv6:{address}]"),
        (None, None) => match Domain::parse(host_name).ok().filter(|name| name.as_str() != "localhost") {
            Some(label) => format!("{label}.localdomain"),
            None => "mailshot.localdomain".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ContactId, LaunchId};

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn ehlo_is_never_localhost_nor_a_bare_label() {
        for (machine, address, name) in [
            ("mx.example.com", None, "mx.example.com"),
            ("worker7", None, "worker7.localdomain"),
            ("worker7", Some("192.0.2.1"), "[192.0.2.1]"),
            ("localhost", Some("2001:db8::1"), "[IPv6:2001:db8::1]"),
            ("localhost", None, "mailshot.localdomain"),
            ("a_b", None, "mailshot.localdomain"),
            ("", None, "mailshot.localdomain"),
        ] {
            assert_eq!(default_ehlo_name(machine, address.map(|text: &str| text.parse().unwrap())), name);
        }
    }

    #[test]
    fn copies_spread_over_the_sources_and_stay_with_theirs() {
        let sources = Sources::new(
            &settings(
                "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"b\"\nehlo_name = \"b.example.com\"\n",
            ),
            "mx.example.com",
        );
        let copies = (0..1000).map(|n| EnvelopeId::new(LaunchId(1), ContactId(n)));
        let first = copies.clone().filter(|copy| &*sources.choose(*copy, None).name == "a").count();
        assert!((450..=550).contains(&first), "{first}");
        for copy in copies {
            let chosen = sources.choose(copy, None);
            assert_eq!(sources.choose(copy, None), chosen);
            assert_eq!(&*sources.choose(copy, Some(SourceId(1))).ehlo_name, "b.example.com");
            assert_eq!(sources.choose(copy, Some(SourceId(9))), chosen, "a source that is gone is chosen anew");
        }
    }

    #[test]
    fn without_settings_there_is_one_source_that_reaches_all() {
        let sources = Sources::new(&Settings::default(), "mx.example.com");
        let source = sources.choose(EnvelopeId::from_u64(7), None);
        assert!(source.reaches("2001:db8::1".parse().unwrap()) && source.reaches([192, 0, 2, 1].into()));
        assert!(!source.is_v6());
        assert_eq!(sources.iter().count(), 1);
    }
}
