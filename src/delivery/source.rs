//! Our addresses: which one a copy leaves from, and the name said in EHLO. A copy keeps the address of its first MAIL,
//! because greylisting hosts know it by that (C-51).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{Domain, EnvelopeId, SourceId};
use crate::config::{self, Settings};
use crate::queue::{self, Queue};

/// One address we send from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its number: the one that the queue keeps for its name; of those that are unnumbered only its place in the settings.
    pub id: SourceId,
    /// Its name in reports and rules.
    pub name: Arc<str>,
    /// The local address; `None`: the system chooses.
    pub address: Option<IpAddr>,
    /// What is said in EHLO.
    pub ehlo_name: Arc<str>,
    /// The day of the calendar it begins with where it is not known yet; `None`: it is known everywhere.
    pub warmup: Option<u16>,
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
pub struct Sources {
    all: Vec<Arc<Source>>,
    by_number: BTreeMap<SourceId, Arc<Source>>,
    /// Everybody alike.
    alike: Pool,
    pools: BTreeMap<String, Pool>,
}

/// Some of our addresses, each with its share of the turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    members: Vec<Arc<Source>>,
    /// Whose turn it is, over and over: positions among the members, spread as evenly as the weights allow.
    turns: Vec<u16>,
}

impl Pool {
    /// Members with weights of 1 or more; not empty.
    fn new(shares: Vec<(Arc<Source>, u32)>) -> Pool {
        let total: i64 = shares.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let mut credit = vec![0; shares.len()];
        let turns = (0..total).map(|_| {
            credit.iter_mut().zip(&shares).for_each(|(credit, (_, weight))| *credit += i64::from(*weight));
            // the first of those with the most
            let next = (0..credit.len()).rev().max_by_key(|at| credit[*at]).unwrap_or(0);
            credit[next] -= total;
            next as u16
        });
        let turns = turns.collect();
        Pool { members: shares.into_iter().map(|(source, _)| source).collect(), turns }
    }

    /// Whether a source is one of them.
    pub fn has(&self, source: &Source) -> bool {
        self.members.iter().any(|member| member.id == source.id)
    }

    /// The members in the order in which they are asked on the `turn`-th turn at a site: the one whose turn it is, then
    /// those that would come next. Sites begin at different turns, so that many small ones are shared out as well.
    pub fn in_turn(&self, turn: usize, site: &str) -> Vec<&Arc<Source>> {
        let start = (mix(site.bytes().fold(7, |sum, byte| mix(sum ^ u64::from(byte)))) as usize).wrapping_add(turn);
        let mut order: Vec<u16> = Vec::with_capacity(self.members.len());
        for at in 0..self.turns.len() {
            let next = self.turns[start.wrapping_add(at) % self.turns.len()];
            if !order.contains(&next) {
                order.push(next);
            }
            if order.len() == self.members.len() {
                break;
            }
        }
        order.into_iter().map(|at| &self.members[usize::from(at)]).collect()
    }

    fn choose(&self, copy: EnvelopeId) -> &Arc<Source> {
        let turn = self.turns[(mix(copy.to_u64()) % self.turns.len() as u64) as usize];
        &self.members[usize::from(turn)]
    }
}

/// A multiplication by an odd constant and the upper bits: neighbours land apart.
fn mix(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

impl Sources {
    /// The addresses of the settings; without any, one that the system chooses. `host_name` is the machine's. Where there is
    /// no queue: their numbers are only places in the settings.
    pub fn unnumbered(settings: &Settings, host_name: &str) -> Sources {
        Sources::pooled(settings, listed(settings, host_name))
    }

    /// The same, each under the number that the queue keeps for its name: to send from, and to tell what is on the queue.
    pub async fn numbered(settings: &Settings, host_name: &str, queue: &Queue) -> Result<Sources, queue::Error> {
        let mut all = listed(settings, host_name);
        let numbers = queue.number_sources(all.iter().map(|source| source.name.to_string()).collect()).await?;
        all.iter_mut().zip(numbers).for_each(|(source, number)| source.id = number);
        Ok(Sources::pooled(settings, all))
    }

    fn pooled(settings: &Settings, all: Vec<Source>) -> Sources {
        let all: Vec<Arc<Source>> = all.into_iter().map(Arc::new).collect();
        let by_number = all.iter().map(|source| (source.id, source.clone())).collect();
        let alike = Pool::new(all.iter().map(|source| (source.clone(), 1)).collect());
        let pool = |pool: &config::Pool| {
            let share = |share: &config::Share| {
                let source = all.iter().find(|source| *source.name == *share.name)?;
                Some((source.clone(), share.weight.max(1)))
            };
            let shares: Vec<_> = pool.sources.iter().filter_map(share).collect();
            (!shares.is_empty()).then(|| (pool.name.clone(), Pool::new(shares)))
        };
        let pools = settings.pool.iter().filter_map(pool).collect();
        Sources { all, by_number, alike, pools }
    }

    /// A pool by its name; without one, or with a name that is gone from the settings, all sources alike.
    pub fn pool(&self, name: Option<&str>) -> &Pool {
        name.and_then(|name| self.pools.get(name)).unwrap_or(&self.alike)
    }

    /// The source a copy leaves from: the one it left from before, while there is such a one; else one of its pool, by its
    /// own number and their weights, so that a copy planned twice comes out the same.
    pub fn choose(&self, copy: EnvelopeId, before: Option<SourceId>, pool: Option<&str>) -> &Arc<Source> {
        before.and_then(|id| self.by_id(id)).unwrap_or_else(|| self.pool(pool).choose(copy))
    }

    /// The source of a number.
    pub fn by_id(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.by_number.get(&id)
    }

    /// All of them, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.all.iter()
    }
}

/// The addresses of the settings in their order, counted by it.
fn listed(settings: &Settings, host_name: &str) -> Vec<Source> {
    let unnamed = [config::Source { name: "default".to_owned(), ..config::Source::default() }];
    let all = if settings.source.is_empty() { &unnamed[..] } else { &settings.source };
    let one = |(at, source): (usize, &config::Source)| Source {
        id: SourceId(u16::try_from(at).unwrap_or(u16::MAX)),
        name: source.name.as_str().into(),
        address: source.address,
        ehlo_name: source.ehlo_name.clone().unwrap_or_else(|| default_ehlo_name(host_name, source.address)).into(),
        warmup: source.warmup,
    };
    all.iter().enumerate().map(one).collect()
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
        let sources = Sources::unnumbered(
            &settings(
                "[[source]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[source]]\nname = \"b\"\nehlo_name = \"b.example.com\"\n",
            ),
            "mx.example.com",
        );
        let copies = (0..1000).map(|n| EnvelopeId::new(LaunchId(1), ContactId(n)));
        let first = copies.clone().filter(|copy| &*sources.choose(*copy, None, None).name == "a").count();
        assert!((450..=550).contains(&first), "{first}");
        for copy in copies {
            let chosen = sources.choose(copy, None, None);
            assert_eq!(sources.choose(copy, None, None), chosen);
            assert_eq!(&*sources.choose(copy, Some(SourceId(1)), None).ehlo_name, "b.example.com");
            assert_eq!(sources.choose(copy, Some(SourceId(9)), None), chosen, "a source that is gone is chosen anew");
        }
    }

    #[test]
    fn a_pool_shares_turns_and_copies_by_weight() {
        let sources = Sources::unnumbered(
            &settings(
                "[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n[[source]]\nname = \"c\"\n\
                 [[pool]]\nname = \"news\"\nsources = [{ name = \"a\", weight = 3 }, { name = \"c\" }]\n",
            ),
            "mx.example.com",
        );
        let pool = sources.pool(Some("news"));
        let turns: String = (0..8).map(|turn| pool.in_turn(turn, "x")[0].name.to_string()).collect();
        assert_eq!(turns.matches('a').count(), 6, "{turns}");
        assert!(!turns.contains("cc") && !turns.contains('b'), "{turns}");
        assert!((0..8).all(|turn| pool.in_turn(turn, "x").len() == 2), "the other one is asked next");
        let first = |n: u32| pool.in_turn(0, &format!("site{n}.example"))[0].name.to_string();
        let small = (0..1000).filter(|n| first(*n) == "a").count();
        assert!((700..=800).contains(&small), "many small sites are shared out as well: {small}");
        let copies = (0..1000).map(|n| EnvelopeId::new(LaunchId(1), ContactId(n)));
        let by_copy = copies.filter(|copy| &*sources.choose(*copy, None, Some("news")).name == "a").count();
        assert!((700..=800).contains(&by_copy), "{by_copy}");
        assert_eq!(sources.pool(Some("gone")).in_turn(0, "x").len(), 3);
    }

    #[test]
    fn without_settings_there_is_one_source_that_reaches_all() {
        let sources = Sources::unnumbered(&Settings::default(), "mx.example.com");
        let source = sources.choose(EnvelopeId::from_u64(7), None, None);
        assert!(source.reaches("2001:db8::1".parse().unwrap()) && source.reaches([192, 0, 2, 1].into()));
        assert!(!source.is_v6());
        assert_eq!(sources.iter().count(), 1);
    }
}
