//! Fixed routes: domains whose mail goes through relays that the settings name, each with a weight, a login and limits of
//! its own. A relay is a site like any other: while it stands still, its domains go to the others.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::Domain;
use crate::config::{FixedRoute, RouteRelay, Secret};
use crate::delivery::route::{Host, Route};
use crate::delivery::via::{Via, ViaError, ViaTls};
use crate::smtp::Login;
use crate::world::Dice;

/// Why the fixed routes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelaysError {
    /// A relay's address.
    #[error("[[route]] relays: {0}")]
    Url(ViaError),
    /// A domain that is none.
    #[error(
        "[[route]] domains: `{0}` is no domain: write \"example.org\", \".example.org\" for all below it too, or \"*\""
    )]
    Domain(String),
    /// A login that anybody could read.
    #[error(
        "[[route]] relays: {0}: a login goes only to a relay that has proved its name: write smtp+starttls:// or smtps://"
    )]
    OpenLogin(String),
    /// Two entries for one relay that differ.
    #[error("[[route]] relays: {0} is listed twice with other limits or another login; only its weight may differ")]
    Differs(String),
}

/// One relay of a fixed route.
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    settings: RouteRelay,
    /// Whether there are others to take its place.
    pub has_others: bool,
}

impl Relay {
    /// Its limits and its login, as the settings have them.
    pub fn settings(&self) -> &RouteRelay {
        &self.settings
    }

    /// What to log in with; the token of OAuth is read anew for each connection. `Err` says in words what is missing.
    pub fn login(&self) -> Result<Option<Login>, String> {
        let RouteRelay { user, password, token_file, .. } = &self.settings;
        login(user.as_deref(), password.as_ref(), token_file.as_deref())
    }
}

/// A login with what is there: a token goes before a password; without a user there is none.
pub(super) fn login(
    user: Option<&str>,
    password: Option<&Secret>,
    token: Option<&Path>,
) -> Result<Option<Login>, String> {
    let Some(user) = user.map(str::to_owned) else { return Ok(None) };
    match (token, password) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).map_err(|why| format!("{}: {why}", file.display()))?;
            let token = text.lines().next().filter(|line| !line.is_empty());
            let token = token.ok_or_else(|| format!("{}: its first line is empty", file.display()))?;
            Ok(Some(Login::Token { user, token: Secret::new(token.to_owned()) }))
        }
        (None, Some(password)) => Ok(Some(Login::Password { user, password: password.clone() })),
        (None, None) => Err(format!("there is neither a password nor a token for the user {user}")),
    }
}

/// A pattern of domains.
#[derive(Debug, Clone, PartialEq)]
enum Pattern {
    All,
    /// The domain itself.
    Exact(Domain),
    /// The domain and all below it.
    Below(Domain),
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, RelaysError> {
        let wrong = |_| RelaysError::Domain(text.to_owned());
        match text.strip_prefix('.') {
            _ if text == "*" => Ok(Pattern::All),
            Some(below) => Domain::parse(below).map(Pattern::Below).map_err(wrong),
            None => Domain::parse(text).map(Pattern::Exact).map_err(wrong),
        }
    }

    fn fits(&self, domain: &Domain) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Exact(own) => own == domain,
            Pattern::Below(own) => {
                let above = domain.as_str().strip_suffix(own.as_str());
                above.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

/// All fixed routes, in their order. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Relays(Arc<[(Vec<Pattern>, Arc<Route>)]>);

impl Relays {
    /// Reads those of the settings.
    pub fn read(routes: &[FixedRoute]) -> Result<Relays, RelaysError> {
        let mut known: BTreeMap<String, RouteRelay> = BTreeMap::new();
        let mut fixed = Vec::new();
        for route in routes {
            let patterns = route.domains.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>()?;
            let has_others = route.relays.len() > 1;
            let relays = route.relays.iter().map(|relay| one(relay, has_others, &mut known));
            let relays: Arc<[Arc<Route>]> = relays.collect::<Result<Vec<_>, _>>()?.into();
            let Some(first) = relays.first() else { continue };
            fixed.push((patterns, Arc::new(Route { choices: Some(relays.clone()), ..(**first).clone() })));
        }
        Ok(Relays(fixed.into()))
    }

    /// The fixed route of a domain: the first that fits.
    pub fn route(&self, domain: &Domain) -> Option<&Arc<Route>> {
        let found = self.0.iter().find(|(patterns, _)| patterns.iter().any(|pattern| pattern.fits(domain)));
        found.map(|(_, route)| route)
    }

    /// Each relay once.
    pub fn all(&self) -> Vec<Arc<Route>> {
        let relays = self.0.iter().filter_map(|(_, route)| route.choices.as_ref()).flat_map(|choices| choices.iter());
        let by_name: BTreeMap<Arc<str>, Arc<Route>> = relays.map(|relay| (relay.site.clone(), relay.clone())).collect();
        by_name.into_values().collect()
    }
}

/// The route through one relay.
fn one(
    relay: &RouteRelay,
    has_others: bool,
    known: &mut BTreeMap<String, RouteRelay>,
) -> Result<Arc<Route>, RelaysError> {
    let via = Via::parse(&relay.url).map_err(RelaysError::Url)?;
    if relay.user.is_some() && via.tls == ViaTls::Opportunistic {
        return Err(RelaysError::OpenLogin(via.to_string()));
    }
    let same = RouteRelay { weight: 1, ..relay.clone() };
    if known.insert(via.to_string(), same.clone()).is_some_and(|before| before != same) {
        return Err(RelaysError::Differs(via.to_string()));
    }
    let host = Host { name: via.host.as_str().into(), preference: 0, address: via.address };
    Ok(Arc::new(Route {
        // told apart from the same host named by `--via`, whose login and limits are others
        site: format!("{FIXED}{via}").into(),
        hosts: [host].into(),
        port: via.port,
        via: Some(Arc::new(via)),
        relay: Some(Arc::new(Relay { settings: relay.clone(), has_others })),
        choices: None,
        proved: false,
        policy: None,
        trial: false,
    }))
}

/// How the names of the sites of fixed routes begin.
const FIXED: &str = "route ";

/// Whether a site is the relay of a fixed route.
pub fn is_fixed_route(site: &str) -> bool {
    site.starts_with(FIXED)
}

/// Relays in the order of one attempt: each place is drawn among those that are left, by weight.
pub(super) fn by_weight<'r>(relays: &'r [Arc<Route>], dice: &dyn Dice) -> Vec<&'r Arc<Route>> {
    let weight = |route: &Route| route.relay.as_ref().map_or(1, |relay| relay.settings.weight.max(1));
    // the larger of ln(u)/weight wins with a chance in proportion to its weight (Efraimidis and Spirakis)
    let mut drawn: Vec<(f64, &Arc<Route>)> = relays
        .iter()
        .map(|relay| (dice.fraction().max(f64::MIN_POSITIVE).ln() / f64::from(weight(relay)), relay))
        .collect();
    drawn.sort_by(|a, b| b.0.total_cmp(&a.0));
    drawn.into_iter().map(|(_, relay)| relay).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::world::SeededDice;

    fn read(text: &str) -> Result<Relays, RelaysError> {
        let settings: Settings = toml::from_str(text).unwrap();
        Relays::read(&settings.route)
    }

    fn site(relays: &Relays, domain: &str) -> Option<String> {
        relays.route(&Domain::parse(domain).unwrap()).map(|route| route.site.to_string())
    }

    #[test]
    fn the_first_route_that_fits_a_domain_counts() {
        let relays = read(
            "[[route]]\ndomains = [\"a.example\", \".b.example\"]\nrelays = [{ url = \"smtp://one.example.net\" }]\n\
             [[route]]\ndomains = \"*\"\nrelays = [{ url = \"smtps://two.example.net\" }]\n",
        )
        .unwrap();
        let one = Some("route smtp://one.example.net:25".to_owned());
        for domain in ["a.example", "b.example", "x.b.example"] {
            assert_eq!(site(&relays, domain), one, "{domain}");
        }
        for domain in ["x.a.example", "ab.example", "other.example"] {
            assert_eq!(site(&relays, domain).as_deref(), Some("route smtps://two.example.net:465"), "{domain}");
        }
        assert_eq!(site(&Relays::default(), "a.example"), None);
        assert_eq!(relays.all().len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let route = |relay: &str| format!("[[route]]\ndomains = \"*\"\nrelays = [{relay}]\n");
        for (text, error) in [
            (route("{ url = \"relay.example.net\" }"), RelaysError::Url(ViaError::Scheme("relay.example.net".into()))),
            (
                route("{ url = \"smtp://relay.example.net\", user = \"me\", token_file = \"t\" }"),
                RelaysError::OpenLogin("smtp://relay.example.net:25".into()),
            ),
            (
                route("{ url = \"smtp://a.example\" }, { url = \"smtp://a.example\", connection_limit = 2 }"),
                RelaysError::Differs("smtp://a.example:25".into()),
            ),
            (
                "[[route]]\ndomains = \"two words\"\nrelays = [{ url = \"smtp://a.example\" }]\n".into(),
                RelaysError::Domain("two words".into()),
            ),
        ] {
            assert_eq!(read(&text).map(drop), Err(error), "{text}");
        }
    }

    #[test]
    fn relays_are_drawn_by_weight_and_all_are_there() {
        let relays = read(
            "[[route]]\ndomains = \"*\"\nrelays = [{ url = \"smtp://a.example\", weight = 3 }, { url = \"smtp://b.example\" }]\n",
        )
        .unwrap();
        let choices = relays.route(&Domain::parse("x.example").unwrap()).unwrap().choices.clone().unwrap();
        let dice = SeededDice::new(3);
        let first = (0..4000).filter(|_| {
            let order = by_weight(&choices, &dice);
            assert_eq!(order.len(), 2);
            order[0].site.contains("a.example")
        });
        let first = first.count();
        assert!((2880..=3120).contains(&first), "three quarters, not {first} of 4000");
    }
}
