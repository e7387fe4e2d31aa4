//! What courier, stewards and carriers share: the road as it was given, what is made of it once, and what stewards hand back.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::{Domain, Live, Seal, SourceId};
use crate::config::Settings;
use crate::config::shaping::Shaping;
use crate::delivery::dial::Dialler;
use crate::delivery::entry::Entries;
use crate::delivery::launches::{Facts, Launches};
use crate::delivery::new_domains::NewDomains;
use crate::delivery::notices::Notices;
use crate::delivery::press::Press;
use crate::delivery::relays::Relays;
use crate::delivery::route::{NoRoute, Route};
use crate::delivery::sites::HeldNames;
use crate::delivery::source::{Source, Sources};
use crate::delivery::stops::Stops;
use crate::delivery::sts::Policies;
use crate::delivery::taps::Taps;
use crate::delivery::tls_tally::Tally;
use crate::queue::{Lease, Queue, Until};
use crate::sign::Keyring;
use crate::smtp::TlsClient;
use crate::smtp::classify::Rules;
use crate::store::Store;
use crate::world::World;

/// All that the sending tasks need.
#[derive(Clone)]
pub struct Road {
    /// What is to be sent.
    pub queue: Queue,
    /// To whom, and whether it may be.
    pub store: Store,
    /// Time, names, connections and chance.
    pub world: World,
    /// The settings.
    pub settings: Arc<Settings>,
    /// How sites are treated.
    pub shaping: Live<Shaping>,
    /// What replies mean.
    pub rules: Live<Rules>,
    /// Where we send from.
    pub sources: Arc<Sources>,
    /// What we sign with.
    pub keyring: Arc<Keyring>,
    /// What seals return paths and links.
    pub seal: Arc<Seal>,
    /// Fixed ways of some domains.
    pub relays: Relays,
    /// Our side of TLS.
    pub tls: Arc<TlsClient>,
    /// The policies of recipients' domains, where they are followed.
    pub policies: Option<Policies>,
    /// Where sessions are counted, when they are to be reported.
    pub tally: Option<Tally>,
    /// Where what happens is told.
    pub notices: Notices,
    /// Where launches were stopped.
    pub stops: Stops,
}

/// The name of a steward: its source and its site.
pub(super) type Post = (SourceId, Arc<str>);

/// What a steward hands back.
pub(super) enum Back {
    /// A copy that goes another way, or from another source.
    Stray(Box<Lease>),
    /// A domain whose turn with this source is over, and the pool whose turn it is.
    Claim(Domain, Option<Arc<str>>),
    /// A domain that has no way at all.
    Refused(Domain, NoRoute),
    /// It stands still until then; `None`: no more.
    Still(Post, Option<Until>),
    /// It goes on, but sends nothing before then: other sources may have its domains meanwhile.
    Busy(Post, Instant),
    /// It has nothing to do, after so many pieces of work; and whether it tells people why mail waits.
    Idle(Post, u64, bool),
}

/// What courier, stewards and carriers share.
pub(super) struct Kit {
    pub road: Road,
    pub press: Press,
    pub launches: Launches,
    pub new_domains: NewDomains,
    pub entries: Entries,
    pub dialler: Dialler,
    /// What a person holds.
    pub held: HeldNames,
    /// Those who listen in.
    pub taps: Taps,
    pub back: mpsc::Sender<Back>,
}

impl Kit {
    /// What is shared on this road; what stewards hand back goes to `back`.
    pub fn new(road: Road, taps: Taps, back: mpsc::Sender<Back>) -> Kit {
        let unsigned = road.settings.dkim.unsigned;
        let press = Press::new(road.store.clone(), road.keyring.clone(), road.seal.clone(), unsigned);
        let new_domains =
            NewDomains::new(&road.settings.warmup, road.store.clone(), road.world.clock.clone(), road.notices.clone());
        Kit {
            press,
            launches: Launches::new(road.store.clone(), road.settings.warmup.domains.clone()),
            new_domains,
            entries: Entries::new(&road.world, road.settings.retry.clone()),
            dialler: Dialler::new(road.world.clone(), road.settings.allow_private),
            held: HeldNames::default(),
            taps,
            back,
            road,
        }
    }

    /// The name a copy is counted under in the book: its site, or with a relay named by hand the recipient's domain.
    pub fn counted_under(&self, route: &Route, domain: &Domain) -> Arc<str> {
        match route.via {
            Some(_) => domain.as_str().into(),
            None => route.site.clone(),
        }
    }

    /// Whether several send in turn along this route: the sources to the recipients' own hosts, or the relays of a fixed
    /// route. A relay is spoken to from the first source only.
    pub fn takes_turns(&self, route: &Route) -> bool {
        match (&route.relay, &route.via) {
            (Some(relay), _) => relay.has_others,
            (None, Some(_)) => false,
            (None, None) => self.road.sources.iter().nth(1).is_some(),
        }
    }

    /// A source that speaks IPv4 and can do without the other.
    pub fn v4_source(&self) -> Option<SourceId> {
        self.road.sources.iter().find(|source| !source.is_v6()).map(|source| source.id)
    }

    /// Whether a copy may leave from this source: it stays with the one of its first MAIL, while there is such a one; else
    /// any of its launch's pool will do.
    pub fn leaves_from(&self, lease: &Lease, facts: &Facts, source: &Source, route: &Route) -> bool {
        let sources = &self.road.sources;
        let before = lease.envelope.source.and_then(|id| sources.by_id(id));
        let pooled = || sources.pool(facts.pool.as_deref()).has(source);
        route.via.is_some() || before.map_or_else(pooled, |before| before.id == source.id)
    }
}
