//! Settings: every key optional, typed and documented; an unknown key is refused.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::{Rate, Span};

/// All settings of a workspace, as `mailshot.toml`, the environment and the defaults give them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who sends.
    pub sender: Sender,
    /// Where the links in the messages lead.
    pub links: Links,
    /// Signing.
    pub dkim: Dkim,
    /// The host everything goes through when a launch names one by `--via`, and its credentials.
    pub relay: Relay,
    /// Addresses to send from; empty: whatever the system chooses.
    pub source: Vec<Source>,
    /// When and how long to try again.
    pub retry: Retry,
    /// What is on the road.
    pub queue: Queue,
    /// The record of people and outcomes.
    pub store: Store,
    /// Limits toward mail hosts that no row of the provider table knows.
    pub shape: Shape,
    /// What happens to addresses that bounce.
    pub bounce: Bounce,
    /// Name servers to ask, as `IP` or `IP:PORT`; empty: those of the system.
    pub resolver: Vec<String>,
    /// The port mail hosts listen on; 25 but in tests.
    pub smtp_port: SmtpPort,
    /// Whether mail hosts may have loopback and private addresses; for tests and inner networks only.
    pub allow_private: bool,
    /// A PEM file of certificate authorities trusted beside the public ones.
    pub tls_ca: Option<PathBuf>,
}

/// Who sends.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sender {
    /// The postal address every message must show; a launch is refused without it.
    pub postal_address: String,
    /// The domain of return paths; default: `bounce.` before the From domain. Its MX must lead to whatever reads bounces.
    pub bounce_domain: Option<String>,
    /// The SenderId of Feedback-ID, 5 to 15 characters; default: made from the From domain.
    pub feedback_id: Option<String>,
}

/// Where the links in the messages lead.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// The public address of the pages behind List-Unsubscribe, https, without a final slash.
    pub base_url: String,
    /// The domain of the `mailto:` in List-Unsubscribe; default: the bounce domain.
    pub mailto_domain: Option<String>,
}

impl Default for Links {
    fn default() -> Links {
        Links { base_url: "https://mail.example.com".into(), mailto_domain: None }
    }
}

/// Signing.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dkim {
    /// Send without a signature when the From domain has no key.
    pub unsigned: bool,
    /// How long a signature holds (`x=`).
    pub expires: Span,
}

impl Default for Dkim {
    fn default() -> Dkim {
        Dkim { unsigned: false, expires: Span::secs(7 * 86_400) }
    }
}

/// Credentials and shape of the host named by `--via`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// User for AUTH.
    pub user: Option<String>,
    /// A file whose first line is the password; or set MAILSHOT_RELAY__PASSWORD in the environment.
    pub password_file: Option<PathBuf>,
    /// Most connections at once.
    pub connection_limit: u16,
    /// Most messages on one connection; none: no cap.
    pub max_deliveries_per_connection: Option<u32>,
    /// Most messages in a time; none: no cap.
    pub max_message_rate: Option<Rate>,
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            user: None,
            password_file: None,
            connection_limit: 50,
            max_deliveries_per_connection: None,
            max_message_rate: None,
        }
    }
}

/// An address to send from.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in reports and rules.
    pub name: String,
    /// The local address; none: the system chooses.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The name said in EHLO: a host name that resolves to the address (C-15).
    #[serde(default)]
    pub ehlo_name: Option<String>,
}

/// When and how long to try again (C-48): n-th delay = min(first · 2^(n−1), longest) × a random 0.5 to 1.5.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The first delay.
    pub first: Span,
    /// The longest delay.
    pub longest: Span,
    /// The first delay after a greylisting reply; never longer than `first`.
    pub greylist: Span,
    /// Given up after this time since planning.
    pub expires: Span,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first: Span::secs(30 * 60),
            longest: Span::secs(4 * 3600),
            greylist: Span::secs(7 * 60),
            expires: Span::secs(72 * 3600),
        }
    }
}

/// What is on the road.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Most copies waiting in the queue at once; planning stands still above it.
    pub max_waiting: u32,
    /// Wait for the disk before a copy counts as settled. Off only to measure what it costs.
    pub durable: bool,
    /// Memory for the queue's pages, in MiB.
    pub cache_mb: u16,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { max_waiting: 100_000, durable: true, cache_mb: 16 }
    }
}

/// The record of people and outcomes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Where it lies: `sqlite:PATH`, relative to the workspace.
    pub url: String,
}

impl Default for Store {
    fn default() -> Store {
        Store { url: "sqlite:state/audience.db".into() }
    }
}

/// Limits toward a site, per source address. Absent keys fall to the provider's row, then to the built-in default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Most connections at once.
    pub connection_limit: Option<u16>,
    /// Most messages on one connection.
    pub max_deliveries_per_connection: Option<u32>,
    /// Most messages in a time.
    pub max_message_rate: Option<Rate>,
    /// Most new connections in a time.
    pub max_connection_rate: Option<Rate>,
}

/// What happens to addresses that bounce.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounce {
    /// Consecutive soft bounces, each from another campaign, until an address is suppressed.
    pub soft_limit: u32,
    /// The least time those bounces must span.
    pub soft_span: Span,
}

impl Default for Bounce {
    fn default() -> Bounce {
        Bounce { soft_limit: 5, soft_span: Span::secs(15 * 86_400) }
    }
}

/// The port mail hosts listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct SmtpPort(pub u16);

impl Default for SmtpPort {
    fn default() -> SmtpPort {
        SmtpPort(25)
    }
}
