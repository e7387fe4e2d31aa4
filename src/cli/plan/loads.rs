//! Where the copies of a plan go: to sites, as far as the name service tells them in time, or to the relays of fixed routes;
//! each with the limits and the calendars that hold there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::base::{Domain, Live};
use crate::campaign::Survey;
use crate::cli::{Desk, Error};
use crate::config::{self, RouteRelay, Source};
use crate::delivery::forecast::Load;
use crate::delivery::new_domains::record_name;
use crate::delivery::relays::Relays;
use crate::delivery::route::{Route, Router};
use crate::delivery::warmup::{Calendar, Warmth};
use crate::store::Store;

/// Domains whose mail hosts are looked up: with these nearly everybody's provider is known.
const LOOKED_UP: usize = 40;
/// All look-ups together.
const LOOKUPS_TAKE: Duration = Duration::from_secs(4);

/// The copies by site. The largest domains are routed as they will be, while the name service answers quickly; the others
/// count as sites of their own, which most of them are.
pub(super) async fn loads(
    desk: &Desk,
    store: &Store,
    survey: &Survey,
    recipients: u64,
    (sources, new_domains): (&[&Source], &[Domain]),
) -> Result<Vec<Load>, Error> {
    let (shaping, relays) = (desk.workspace().shaping()?, desk.workspace().relays()?);
    let router = Router::new(&desk.world()?, Live::new(shaping.clone()), desk.settings().smtp_port);
    let sites = sites(&router.with_relays(relays.clone()), &relays, survey).await;
    let Spread { by_site, by_relay } = Spread::of(survey, &sites, &relays);
    let share = recipients as f64 / survey.recipients.max(1) as f64;
    let source = sources.first().map_or("default", |source| source.name.as_str());
    let acquaintance = Acquaintance::read(&desk.settings().warmup, store)?;
    let load = |(site, copies): (&str, u64)| Load {
        site: site.to_owned(),
        copies: (copies as f64 * share).ceil() as u64,
        shape: shaping.shape(site, source),
        cold: acquaintance.of_sources(sources, site),
        new_domains: acquaintance.of_domains(new_domains, site),
    };
    let through = |(site, (copies, relay)): (&Arc<str>, (f64, &RouteRelay))| Load {
        site: site.to_string(),
        copies: (copies * share).ceil() as u64,
        shape: shaping.route_relay(relay),
        cold: Vec::new(),
        new_domains: Vec::new(),
    };
    Ok(by_site.into_iter().map(load).chain(by_relay.into_iter().map(through)).collect())
}

/// The sites of the largest domains that have no fixed route.
async fn sites(router: &Router, relays: &Relays, survey: &Survey) -> BTreeMap<String, String> {
    let look_up = |domain: Domain| async move {
        let found = tokio::time::timeout(LOOKUPS_TAKE, router.route(&domain)).await.ok()?.ok()?;
        Some((domain.to_string(), found.site.to_string()))
    };
    let largest = survey.domains.iter().take(LOOKED_UP).filter_map(|share| Domain::parse(&share.domain).ok());
    let direct = largest.filter(|domain| relays.route(domain).is_none());
    join_all(direct.map(look_up)).await.into_iter().flatten().collect()
}

/// Members by where their mail goes.
struct Spread<'a> {
    by_site: BTreeMap<&'a str, u64>,
    by_relay: BTreeMap<&'a Arc<str>, (f64, &'a RouteRelay)>,
}

impl<'a> Spread<'a> {
    fn of(survey: &'a Survey, sites: &'a BTreeMap<String, String>, relays: &'a Relays) -> Spread<'a> {
        let mut spread = Spread { by_site: BTreeMap::new(), by_relay: BTreeMap::new() };
        for domain in &survey.domains {
            let fixed = Domain::parse(&domain.domain).ok().and_then(|domain| relays.route(&domain));
            if let Some(fixed) = fixed {
                for (site, part, relay) in shares(fixed) {
                    spread.by_relay.entry(site).or_insert((0.0, relay)).0 += domain.count as f64 * part;
                }
                continue;
            }
            let site = sites.get(&domain.domain).map_or(domain.domain.as_str(), String::as_str);
            *spread.by_site.entry(site).or_default() += domain.count;
        }
        if survey.elsewhere > 0 {
            *spread.by_site.entry("elsewhere").or_default() += survey.elsewhere;
        }
        spread
    }
}

/// The relays of a fixed route, each with its share of the copies.
fn shares(route: &Route) -> Vec<(&Arc<str>, f64, &RouteRelay)> {
    let relays = route.choices.iter().flat_map(|choices| choices.iter());
    let relays: Vec<_> = relays.filter_map(|one| Some((&one.site, one.relay.as_ref()?.settings()))).collect();
    let all: f64 = relays.iter().map(|(_, relay)| f64::from(relay.weight)).sum();
    relays.into_iter().map(|(site, relay)| (site, f64::from(relay.weight) / all, relay)).collect()
}

/// How far our addresses and domains are known at the sites.
struct Acquaintance<'a> {
    settings: &'a config::Warmup,
    calendar: Calendar,
    /// By source or domain, and site.
    kept: BTreeMap<(String, String), String>,
}

impl<'a> Acquaintance<'a> {
    fn read(settings: &'a config::Warmup, store: &Store) -> Result<Acquaintance<'a>, Error> {
        let kept = store.warmups()?.into_iter().map(|row| ((row.source, row.site), row.state)).collect();
        Ok(Acquaintance { settings, calendar: Calendar::new(settings), kept })
    }

    /// Those of the sources that are still being made known at a site.
    fn of_sources(&self, sources: &[&Source], site: &str) -> Vec<Warmth> {
        let state = |source: &&Source| self.state(source.name.clone(), source.warmup?, site);
        sources.iter().filter_map(state).collect()
    }

    /// Those of the new domains that are.
    fn of_domains(&self, domains: &[Domain], site: &str) -> Vec<Warmth> {
        let first = |domain: &Domain| self.settings.domains.get(domain.as_str()).copied().unwrap_or(1);
        let state = |domain: &Domain| self.state(record_name(domain.as_str()), first(domain), site);
        domains.iter().filter_map(state).collect()
    }

    fn state(&self, name: String, first: u16, site: &str) -> Option<Warmth> {
        let kept = self.kept.get(&(name, site.to_owned())).and_then(|text| Warmth::from_text(text));
        let warmth = kept.unwrap_or_else(|| Warmth::beginning(first));
        self.calendar.most(site, warmth.day).is_some().then_some(warmth)
    }
}
