//! How each site is to be treated: the built-in provider table, the settings and the workspace's `shaping.toml` laid over
//! each other, and for every value where it came from. Learns nothing and enforces nothing: `delivery` does both.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;

use crate::base::{Domain, Rate, Span};
use crate::config::load::nearest;
use crate::config::{RouteRelay, Settings};

/// The providers we know, and the defaults for everybody else.
const BUILT_IN: &str = include_str!("providers.toml");

/// What is wrong with a table of shapes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapingError {
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{file}: {what}")]
    Text {
        /// The file.
        file: String,
        /// What the parser said.
        what: String,
        /// Where, in octets.
        at: Option<Range<usize>>,
    },
    /// A new provider without MX suffixes would never match.
    #[error("{file}: provider `{name}` has no `mx_suffix`, so no host would ever match it")]
    NoSuffix {
        /// The file.
        file: String,
        /// The provider.
        name: String,
    },
    /// A suffix that no host name can end in, or that an earlier provider takes.
    #[error("{file}: provider `{name}`: `{suffix}` {why}")]
    Suffix {
        /// The file.
        file: String,
        /// The provider.
        name: String,
        /// The suffix as written.
        suffix: String,
        /// What is wrong with it.
        why: String,
    },
    /// A limit or a time of zero would stop the site for good.
    #[error("{file}: `{row}`: `{key}` must be more than zero; to stop a site use `mailshot queue suspend`")]
    Zero {
        /// The file.
        file: String,
        /// The row.
        row: String,
        /// The key.
        key: &'static str,
    },
}

impl ShapingError {
    /// Where it stands in the text of its file, in octets.
    pub fn place(&self, text: &str) -> Option<Range<usize>> {
        let word = |word: &str, from: usize| {
            let at = from + text.get(from..)?.find(word)?;
            Some(at..at + word.len())
        };
        match self {
            ShapingError::Text { at, .. } => at.clone(),
            ShapingError::NoSuffix { name, .. } => word(&format!("\"{name}\""), 0),
            ShapingError::Suffix { suffix, .. } => word(&format!("\"{suffix}\""), 0),
            ShapingError::Zero { row, key, .. } => word(key, word(&format!("\"{row}\""), 0)?.end),
        }
    }

    /// What to do about it; `None` where the words say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ShapingError::Text { what, .. } => nearest(what).map(|known| format!("did you mean `{known}`?")),
            ShapingError::NoSuffix { .. } => {
                Some("write the ends of its hosts' names: mx_suffix = [\".example.com\"]".into())
            }
            ShapingError::Suffix { .. } | ShapingError::Zero { .. } => None,
        }
    }
}

/// What is demanded of TLS on the way to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// Never: not even where STARTTLS is offered. For tests and broken hosts.
    Disabled,
    /// Where it is offered, without verifying; in clear where it is not or fails (RFC 7435).
    Opportunistic,
    /// Always; the certificate is not verified.
    Required,
    /// Always, with a certificate that is valid for the host's name.
    Verified,
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tls::Disabled => "disabled",
            Tls::Opportunistic => "opportunistic",
            Tls::Required => "required",
            Tls::Verified => "verified",
        })
    }
}

/// Declares the keys of a row, and with them how rows are laid over each other.
macro_rules! keys {
    ($($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        /// One row of the table: what it says, and nothing where it says nothing.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Row {
            $($key: Option<$type>,)*
        }

        /// How a site is treated from one source address.
        #[derive(Debug, Clone, PartialEq)]
        pub struct SiteShape {
            $($(#[$doc])* pub $key: $type,)*
            /// For each key, the row its value came from, in the order of the keys.
            pub origins: Vec<(&'static str, String)>,
        }

        impl SiteShape {
            /// Every key with its value, as the table writes it, and the row the value came from.
            pub fn explain(&self) -> Vec<(&'static str, String, &str)> {
                let values = [$(self.$key.to_string()),*];
                let keyed = self.origins.iter().zip(values);
                keyed.map(|((key, from), value)| (*key, value, from.as_str())).collect()
            }
        }

        impl Row {
            /// Lays `over` on top, and notes `from` as the origin of each key it sets.
            fn lay(&mut self, over: &Row, from: &str, origins: &mut BTreeMap<&'static str, String>) {
                $(if let Some(value) = &over.$key {
                    self.$key = Some(value.clone());
                    origins.insert(stringify!($key), from.to_owned());
                })*
            }

            /// The whole shape, or the first key that nothing has set.
            fn complete(self, mut origins: BTreeMap<&'static str, String>) -> Result<SiteShape, &'static str> {
                Ok(SiteShape {
                    $($key: self.$key.ok_or(stringify!($key))?,)*
                    origins: [$(stringify!($key)),*]
                        .into_iter()
                        .map(|key| (key, origins.remove(key).unwrap_or_default()))
                        .collect(),
                })
            }
        }
    };
}

keys! {
    /// Most connections at once.
    connection_limit: u16,
    /// Connections to begin with, before the window has learned more.
    connection_start: u16,
    /// Most messages on one connection.
    max_deliveries_per_connection: u32,
    /// Most messages in a time.
    max_message_rate: Cap,
    /// Most new connections in a time.
    max_connection_rate: Cap,
    /// What is demanded of TLS.
    tls: Tls,
    /// Whether BDAT may take the place of DATA where it saves a round trip and is offered (RFC 3030).
    chunking: bool,
    /// Whether a host that fails before MAIL is followed by the next one (C-04).
    try_next_host: bool,
    /// For the TCP connection to one address.
    connect_timeout: Span,
    /// For the greeting.
    banner_timeout: Span,
    /// For the answer to EHLO.
    ehlo_timeout: Span,
    /// For the answer to STARTTLS, and again for the handshake.
    starttls_timeout: Span,
    /// For each answer of AUTH.
    auth_timeout: Span,
    /// For the answer to MAIL.
    mail_from_timeout: Span,
    /// For the answer to RCPT.
    rcpt_to_timeout: Span,
    /// For the 354 after DATA.
    data_timeout: Span,
    /// For each block of the message to be taken by the network.
    data_block_timeout: Span,
    /// For the answer to the final dot. Cutting it short makes doubles (C-22).
    data_dot_timeout: Span,
    /// For an open connection without work.
    idle_timeout: Span,
}

/// A rate, or the plain statement that there is none (`"none"`), so that a row can lift a limit below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap(pub Option<Rate>);

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Cap, D::Error> {
        let text = String::deserialize(from)?;
        match text.as_str() {
            "none" => Ok(Cap(None)),
            rate => Rate::parse(rate).map(|rate| Cap(Some(rate))).map_err(serde::de::Error::custom),
        }
    }
}

/// A provider's entry: which hosts are its own, its row, and where the row's figures come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// Ends of host names, each with a leading dot; without one, a whole host name.
    #[serde(default)]
    mx_suffix: Vec<String>,
    #[serde(default)]
    shape: Row,
    #[serde(default)]
    source: String,
    #[serde(default)]
    date: String,
}

/// A row for a site by its name, and perhaps for one source address only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteEntry {
    site: String,
    source: Option<String>,
    #[serde(default)]
    shape: Row,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    default: Row,
    provider: Vec<Entry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overlay {
    provider: Vec<Entry>,
    site: Vec<SiteEntry>,
}

/// The whole table, ready to be asked.
#[derive(Debug, Clone)]
pub struct Shaping {
    default: Row,
    providers: Vec<Entry>,
    settings: Row,
    over_providers: Vec<Entry>,
    over_sites: Vec<SiteEntry>,
}

impl Shaping {
    /// The built-in table with the settings' `[shape]` over it, and over both the text of the workspace's
    /// `shaping.toml`, when there is one.
    pub fn new(settings: &Settings, overlay: Option<&str>) -> Result<Shaping, ShapingError> {
        let built_in: BuiltIn = read("the built-in provider table", BUILT_IN)?;
        let overlay: Overlay = overlay.map_or(Ok(Overlay::default()), |text| read(OVERLAY, text))?;
        let shape = &settings.shape;
        let settings = Row {
            connection_limit: shape.connection_limit,
            max_deliveries_per_connection: shape.max_deliveries_per_connection,
            max_message_rate: shape.max_message_rate.map(|rate| Cap(Some(rate))),
            max_connection_rate: shape.max_connection_rate.map(|rate| Cap(Some(rate))),
            chunking: shape.chunking,
            ..Row::default()
        };
        let mut providers = built_in.provider;
        let (known, new): (Vec<_>, Vec<_>) =
            overlay.provider.into_iter().partition(|entry| providers.iter().any(|p| p.name == entry.name));
        for entry in &known {
            let provider = providers.iter_mut().find(|p| p.name == entry.name).expect("partitioned by this");
            provider.mx_suffix.extend(entry.mx_suffix.iter().cloned());
        }
        // New ones come first: a workspace may single out some hosts of a provider.
        providers.splice(0..0, new.iter().map(|entry| Entry { shape: Row::default(), ..entry.clone() }));
        check_suffixes(OVERLAY, &providers)?;
        let over_providers: Vec<Entry> = known.into_iter().chain(new).collect();
        for (name, row) in over_providers
            .iter()
            .map(|entry| (&entry.name, &entry.shape))
            .chain(overlay.site.iter().map(|entry| (&entry.site, &entry.shape)))
        {
            check_row(name, row)?;
        }
        Ok(Shaping { default: built_in.default, providers, settings, over_providers, over_sites: overlay.site })
    }

    /// The provider all of these hosts belong to.
    pub fn provider<'a>(&self, hosts: impl IntoIterator<Item = &'a Domain>) -> Option<&str> {
        let mut hosts = hosts.into_iter().map(|host| self.owner(host));
        let first = hosts.next()??;
        hosts.all(|other| other == Some(first)).then_some(first)
    }

    /// The shape of a site from a source address, by their names.
    pub fn shape(&self, site: &str, source: &str) -> SiteShape {
        let (mut row, mut origins) = (Row::default(), BTreeMap::new());
        row.lay(&self.default, "default", &mut origins);
        if let Some(entry) = self.providers.iter().find(|entry| entry.name == site) {
            row.lay(&entry.shape, &format!("provider {site} ({}, {})", entry.source, entry.date), &mut origins);
        }
        row.lay(&self.settings, "settings [shape]", &mut origins);
        for entry in self.over_providers.iter().filter(|entry| entry.name == site) {
            row.lay(&entry.shape, &format!("{OVERLAY} provider {site}"), &mut origins);
        }
        for entry in self.over_sites.iter().filter(|entry| entry.site == site && entry.source.is_none()) {
            row.lay(&entry.shape, &format!("{OVERLAY} site {site}"), &mut origins);
        }
        for entry in self.over_sites.iter().filter(|e| e.site == site && e.source.as_deref() == Some(source)) {
            row.lay(&entry.shape, &format!("{OVERLAY} site {site}, source {source}"), &mut origins);
        }
        row.connection_start = row.connection_start.map(|start| start.min(row.connection_limit.unwrap_or(start)));
        row.complete(origins).expect("a test holds that the built-in default sets every key")
    }

    /// The shape toward the host that `--via` names.
    pub fn relay(&self, settings: &Settings) -> SiteShape {
        let relay = &settings.relay;
        let (limit, most) = (relay.connection_limit, relay.max_deliveries_per_connection);
        self.named(limit, most, relay.max_message_rate, "settings [relay]")
    }

    /// The shape toward a relay of a fixed route.
    pub fn route_relay(&self, relay: &RouteRelay) -> SiteShape {
        let (limit, most) = (relay.connection_limit, relay.max_deliveries_per_connection);
        self.named(limit, most, relay.max_message_rate, "settings [[route.relays]]")
    }

    /// The shape toward a host named by hand: the defaults, without the caution that strangers need.
    fn named(&self, connections: u16, most: Option<u32>, rate: Option<Rate>, from: &str) -> SiteShape {
        let (mut row, mut origins) = (Row::default(), BTreeMap::new());
        row.lay(&self.default, "default", &mut origins);
        let own = Row {
            connection_limit: Some(connections),
            connection_start: Some(connections),
            max_deliveries_per_connection: Some(most.unwrap_or(u32::MAX)),
            max_message_rate: Some(Cap(rate)),
            max_connection_rate: Some(Cap(None)),
            chunking: self.settings.chunking,
            ..Row::default()
        };
        row.lay(&own, from, &mut origins);
        row.complete(origins).expect("a test holds that the built-in default sets every key")
    }

    /// The provider a host belongs to.
    fn owner(&self, host: &Domain) -> Option<&str> {
        let owns = |entry: &&Entry| entry.mx_suffix.iter().any(|suffix| matches_suffix(host.as_str(), suffix));
        self.providers.iter().find(owns).map(|entry| entry.name.as_str())
    }
}

impl SiteShape {
    /// The most messages a second these limits allow, whatever the hosts' speed; `None` when nothing bounds it.
    pub fn ceiling(&self) -> Option<f64> {
        let by_messages = self.max_message_rate.0.map(Rate::per_second);
        let by_connections =
            self.max_connection_rate.0.map(|rate| rate.per_second() * f64::from(self.max_deliveries_per_connection));
        match (by_messages, by_connections) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }
}

const OVERLAY: &str = "shaping.toml";

fn read<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, ShapingError> {
    let wrong = |error: toml::de::Error| ShapingError::Text {
        file: file.to_owned(),
        what: error.message().to_owned(),
        at: error.span(),
    };
    toml::from_str(text).map_err(wrong)
}

fn matches_suffix(host: &str, suffix: &str) -> bool {
    match suffix.strip_prefix('.') {
        Some(whole) => host.ends_with(suffix) || host == whole,
        None => host == suffix,
    }
}

/// Refuses suffixes that can never match: ill-formed ones, and ones an earlier provider swallows.
fn check_suffixes(file: &str, providers: &[Entry]) -> Result<(), ShapingError> {
    for (at, entry) in providers.iter().enumerate() {
        if entry.mx_suffix.is_empty() {
            return Err(ShapingError::NoSuffix { file: file.to_owned(), name: entry.name.clone() });
        }
        for suffix in &entry.mx_suffix {
            let refuse = |why: String| ShapingError::Suffix {
                file: file.to_owned(),
                name: entry.name.clone(),
                suffix: suffix.clone(),
                why,
            };
            let bare = suffix.strip_prefix('.').unwrap_or(suffix);
            if Domain::parse(bare).is_ok_and(|domain| domain.as_str() == bare) && !bare.ends_with('.') {
            } else {
                return Err(refuse(
                    "is not the end of a host name: write it in lower case, as in \".example.com\"".into(),
                ));
            }
            let earlier = &providers[..at];
            let taken = earlier.iter().find(|other| other.mx_suffix.iter().any(|wide| matches_suffix(bare, wide)));
            if let Some(other) = taken {
                return Err(refuse(format!("never matches: provider `{}` before it takes those hosts", other.name)));
            }
        }
    }
    Ok(())
}

fn check_row(name: &str, row: &Row) -> Result<(), ShapingError> {
    let zero = |key| Err(ShapingError::Zero { file: OVERLAY.to_owned(), row: name.to_owned(), key });
    if row.connection_limit == Some(0) {
        return zero("connection_limit");
    }
    if row.connection_start == Some(0) {
        return zero("connection_start");
    }
    if row.max_deliveries_per_connection == Some(0) {
        return zero("max_deliveries_per_connection");
    }
    let timeouts = [
        ("connect_timeout", row.connect_timeout),
        ("banner_timeout", row.banner_timeout),
        ("ehlo_timeout", row.ehlo_timeout),
        ("starttls_timeout", row.starttls_timeout),
        ("auth_timeout", row.auth_timeout),
        ("mail_from_timeout", row.mail_from_timeout),
        ("rcpt_to_timeout", row.rcpt_to_timeout),
        ("data_timeout", row.data_timeout),
        ("data_block_timeout", row.data_block_timeout),
        ("data_dot_timeout", row.data_dot_timeout),
    ];
    match timeouts.into_iter().find(|(_, span)| span.is_some_and(|span| span.duration().is_zero())) {
        Some((key, _)) => zero(key),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaping(overlay: &str) -> Result<Shaping, ShapingError> {
        Shaping::new(&Settings::default(), Some(overlay))
    }

    fn provider(hosts: &[&str]) -> Option<String> {
        let hosts: Vec<Domain> = hosts.iter().map(|host| Domain::parse(host).unwrap()).collect();
        shaping("").unwrap().provider(&hosts).map(str::to_owned)
    }

    #[test]
    fn the_built_in_table_is_whole_reachable_and_sourced() {
        let table: BuiltIn = read("built-in", BUILT_IN).unwrap();
        table.default.clone().complete(BTreeMap::new()).expect("the default sets every key");
        check_suffixes("built-in", &table.provider).unwrap();
        for (at, entry) in table.provider.iter().enumerate() {
            check_row(&entry.name, &entry.shape).unwrap();
            assert!(!entry.source.is_empty() && entry.date.len() == 10, "{}: source and date", entry.name);
            assert!(table.provider[..at].iter().all(|other| other.name != entry.name), "{} twice", entry.name);
            let start = entry.shape.connection_start.or(table.default.connection_start);
            assert!(start <= entry.shape.connection_limit.or(table.default.connection_limit), "{}", entry.name);
            for suffix in &entry.mx_suffix {
                let host = format!("mx1{}", if suffix.starts_with('.') { suffix } else { "" });
                let host = if suffix.starts_with('.') { host } else { suffix.clone() };
                assert_eq!(provider(&[&host]).as_deref(), Some(entry.name.as_str()), "{suffix}");
            }
        }
    }

    #[test]
    fn hosts_are_told_by_suffix_and_only_when_all_agree() {
        assert_eq!(provider(&["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"]).unwrap(), "google");
        assert_eq!(provider(&["example-com.mail.protection.outlook.com"]).unwrap(), "office365");
        assert_eq!(provider(&["hotmail-com.olc.protection.outlook.com"]).unwrap(), "outlook");
        assert_eq!(provider(&["aspmx.l.google.com", "mx.example.com"]), None);
        assert_eq!(provider(&["evilgoogle.com"]), None);
        assert_eq!(provider(&[]), None);
    }

    #[test]
    fn later_rows_win_and_every_value_names_its_origin() {
        let mut settings = Settings::default();
        settings.shape.connection_limit = Some(7);
        let overlay = "[[site]]\nsite = \"google\"\nsource = \"b\"\nshape.connection_limit = 3\n\
                       [[provider]]\nname = \"google\"\nshape.max_message_rate = \"5/s\"\n";
        let shaping = Shaping::new(&settings, Some(overlay)).unwrap();
        let from = |shape: &SiteShape, key| shape.origins.iter().find(|(k, _)| *k == key).unwrap().1.clone();

        let (a, b) = (shaping.shape("google", "a"), shaping.shape("google", "b"));
        assert_eq!((a.connection_limit, b.connection_limit), (7, 3));
        assert_eq!(from(&a, "connection_limit"), "settings [shape]");
        assert_eq!(from(&b, "connection_limit"), "shaping.toml site google, source b");
        assert_eq!(from(&a, "max_message_rate"), "shaping.toml provider google");
        assert!(from(&a, "tls").starts_with("provider google ("));
        assert_eq!(a.tls, Tls::Required);
        assert!(a.origins.iter().all(|(_, from)| !from.is_empty()));
        let told = b.explain();
        assert!(told.contains(&("connection_limit", "3".into(), "shaping.toml site google, source b")));
        assert!(told.contains(&("data_dot_timeout", "10m".into(), "default")));
        assert_eq!(shaping.shape("example.com", "a").tls, Tls::Opportunistic);
    }

    #[test]
    fn a_workspace_adds_providers_and_a_fault_names_its_place() {
        let own = shaping("[[provider]]\nname = \"hosted\"\nmx_suffix = [\".mx.hosted.example\"]\n").unwrap();
        assert_eq!(own.provider(&[Domain::parse("a.mx.hosted.example").unwrap()]), Some("hosted"));
        for (text, word) in [
            ("[[provider]]\nname = \"x\"\n", "mx_suffix"),
            ("[[provider]]\nname = \"x\"\nmx_suffix = [\".example.com.\"]\n", ".example.com."),
            ("[[provider]]\nname = \"yahoo\"\nmx_suffix = [\".l.google.com\"]\n", "never matches"),
            ("[[site]]\nsite = \"x\"\nshape.connection_limit = 0\n", "connection_limit"),
            ("[[site]]\nsite = \"x\"\nshape.data_dot_timeout = \"0s\"\n", "data_dot_timeout"),
            ("[[site]]\nsite = \"x\"\nshape.conection_limit = 1\n", "conection_limit"),
            ("[[site]]\nsite = \"x\"\nshape.max_message_rate = \"0/s\"\n", "0/s"),
        ] {
            let error = shaping(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_ceiling_is_the_lower_of_what_the_limits_imply() {
        let mut shape = shaping("").unwrap().shape("icloud", "");
        shape.max_message_rate = Cap(Some(Rate::parse("100/s").unwrap()));
        shape.max_connection_rate = Cap(Some(Rate::parse("60/min").unwrap()));
        shape.max_deliveries_per_connection = 5;
        assert_eq!(shape.ceiling(), Some(5.0));
        shape.max_connection_rate = Cap(None);
        assert_eq!(shape.ceiling(), Some(100.0));
    }
}
