//! Settings: every key optional, typed, documented and checked; an unknown key is refused. A key's meaning, type and
//! default stand in one place, [`settings`](self), and the reference printed by `mailshot config` is made from it.

mod check;
mod load;
mod reference;
mod secret;
pub mod shaping;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

pub use load::Error;
pub(crate) use load::nearest;
pub use reference::{Key, commented_example};
pub use secret::Secret;

use crate::base::{Rate, Span};
use crate::world::{Dnssec, NameService};

/// Declares a section of the settings: the struct, its defaults, and the words of its keys for the reference.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $(#[serde($($serde:tt)+)])? $key:ident: $type:ty = $default:expr,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde($($serde)+)])? pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($key: $default,)+ }
            }
        }

        impl $name {
            /// The keys of this section, in order.
            pub(crate) const KEYS: &'static [Key] =
                &[$(Key { name: stringify!($key), meaning: &[$($doc),+] },)+];
            /// What the section is about.
            pub(crate) const ABOUT: &'static [&'static str] = &[$($about),+];
        }
    };
}

section! {
    /// All settings of a workspace, as the defaults, `mailshot.toml` and the environment give them.
    Settings {
        /// Name servers to ask, as "IP" or "IP:PORT", one or a list; empty: those of the system.
        #[serde(deserialize_with = "one_or_many")]
        resolver: Vec<String> = Vec::new(),
        /// Whether names are proved by DNSSEC, which DANE (RFC 7672) needs: "auto", where the name servers pass the proofs
        /// on; "on": what is not proved, nor proved to be unsigned, is not used; "off".
        dnssec: Dnssec = Dnssec::Auto,
        /// A file of DNSKEY records to begin the proofs with, instead of the root's built-in ones: a root's, or all keys of
        /// a zone. For names of one's own.
        dnssec_anchor: Option<PathBuf> = None,
        /// The port mail hosts listen on; anything but 25 is for tests.
        smtp_port: u16 = 25,
        /// Whether mail hosts may have loopback and private addresses; for tests and inner networks only.
        allow_private: bool = false,
        /// A PEM file of certificate authorities trusted beside the public ones, relative to the workspace.
        tls_ca: Option<PathBuf> = None,
        /// Who sends.
        sender: Sender = Sender::default(),
        /// Where the links in the messages lead.
        links: Links = Links::default(),
        /// Signing.
        dkim: Dkim = Dkim::default(),
        /// The host that `--via` names.
        relay: Relay = Relay::default(),
        /// When and how long to try again.
        retry: Retry = Retry::default(),
        /// What is on the road.
        queue: Queue = Queue::default(),
        /// The record of people and outcomes.
        store: Store = Store::default(),
        /// Limits toward mail hosts.
        shape: Shape = Shape::default(),
        /// What follows from bounces.
        bounce: Bounce = Bounce::default(),
        /// Where returned mail arrives.
        listener: Listener = Listener::default(),
        /// How long what tells about single people is kept.
        retention: Retention = Retention::default(),
        /// The public pages.
        web: Web = Web::default(),
        /// Joining a list from a page.
        signup: Signup = Signup::default(),
        /// Mailboxes that returned mail is fetched from.
        mailbox: Vec<Mailbox> = Vec::new(),
        /// Fixed ways for some domains, through relays.
        route: Vec<FixedRoute> = Vec::new(),
        /// Addresses to send from; none: whatever the system chooses.
        source: Vec<Source> = Vec::new(),
        /// Sets of source addresses that campaigns choose from.
        pool: Vec<Pool> = Vec::new(),
        /// How new source addresses are made known.
        warmup: Warmup = Warmup::default(),
        /// When a campaign pauses by itself.
        breaker: Breaker = Breaker::default(),
        /// Whom to tell when something needs a person.
        alert: Alert = Alert::default(),
        /// Telling domains how TLS with their hosts fared.
        tls_reports: TlsReports = TlsReports::default(),
    }
}

section! {
    /// Who sends.
    Sender {
        /// The postal address every message shows; a launch is refused without it.
        postal_address: String = String::new(),
        /// The domain of return paths, whose MX leads to whatever reads bounces; unset: `bounce.` before the From domain.
        bounce_domain: Option<String> = None,
        /// The SenderId of Feedback-ID, 5 to 15 characters; unset: made from the From domain.
        feedback_id: Option<String> = None,
    }
}

section! {
    /// Where the links in the messages lead.
    Links {
        /// The public https address of the pages behind List-Unsubscribe, without a final slash.
        base_url: String = "https://mail.example.com".to_owned(),
        /// The domain of the `mailto:` in List-Unsubscribe; unset: the bounce domain.
        mailto_domain: Option<String> = None,
        /// Whose opens and clicks may be noted, when a campaign asks for it: "opt_in", of those who said yes; "opt_out", of
        /// all but those who said no. What contacts said comes from the columns `consent_opens` and `consent_clicks` of an
        /// import, and from their own preference page.
        tracking_consent: TrackingConsent = TrackingConsent::OptIn,
    }
}

section! {
    /// Signing.
    Dkim {
        /// Send without a signature when the From domain has no key; without this the launch is refused.
        unsigned: bool = false,
        /// How long a signature holds (`x=`): longer than the last retry and what forwarding takes.
        expires: Span = Span::secs(7 * 86_400),
    }
}

section! {
    /// The host that `--via` names.
    Relay {
        /// User name for AUTH; unset: no AUTH.
        user: Option<String> = None,
        /// A file whose first line is the password. Or set MAILSHOT_RELAY__PASSWORD in the environment.
        password_file: Option<PathBuf> = None,
        /// The password itself; taken from the environment only.
        #[serde(skip_serializing)]
        password: Option<Secret> = None,
        /// A file whose first line is an OAuth access token, read for each connection; used instead of a password.
        token_file: Option<PathBuf> = None,
        /// Most connections at once.
        connection_limit: u16 = 50,
        /// Most messages on one connection; unset: no cap.
        max_deliveries_per_connection: Option<u32> = None,
        /// Most messages in a time, as in "100/min"; unset: no cap.
        max_message_rate: Option<Rate> = None,
    }
}

section! {
    /// When and how long to try again: the n-th delay is min(first · 2^(n−1), longest) × a random 0.5 to 1.5.
    Retry {
        /// The first delay; a second or longer, as all of them.
        first: Span = Span::secs(30 * 60),
        /// The longest delay; as long as `first` or longer.
        longest: Span = Span::secs(4 * 3600),
        /// The first delay after a greylisting reply, when shorter than `first`.
        greylist: Span = Span::secs(7 * 60),
        /// Given up after this time since its first attempt.
        expires: Span = Span::secs(72 * 3600),
    }
}

section! {
    /// What is on the road.
    Queue {
        /// Most copies waiting in the queue at once; planning stands still above it.
        max_waiting: u32 = 100_000,
        /// Wait for the disk before a copy counts as settled. Off only to measure what it costs.
        durable: bool = true,
        /// Memory for the queue's pages, in MiB.
        cache_mb: u16 = 16,
        /// Room that is left on the queue's disk, in MiB: with less, sending waits until there is more.
        reserve_mb: u32 = 64,
    }
}

section! {
    /// The record of people and outcomes.
    Store {
        /// Where it lies: "sqlite:PATH", relative to the workspace.
        url: String = "sqlite:state/audience.db".to_owned(),
    }
}

section! {
    /// Limits toward mail hosts, per source address and site. Set keys win over the provider table; rows of
    /// `shaping.toml` win over these.
    Shape {
        /// Most connections at once.
        connection_limit: Option<u16> = None,
        /// Most messages on one connection.
        max_deliveries_per_connection: Option<u32> = None,
        /// Most messages in a time, as in "100/min".
        max_message_rate: Option<Rate> = None,
        /// Most new connections in a time.
        max_connection_rate: Option<Rate> = None,
        /// Whether messages go by BDAT where that is offered and saves a round trip; on unless set.
        chunking: Option<bool> = None,
    }
}

section! {
    /// What follows from bounces.
    Bounce {
        /// Consecutive soft bounces, each from another campaign, until an address is suppressed.
        soft_limit: u32 = 5,
        /// The least time those bounces span.
        soft_span: Span = Span::secs(15 * 86_400),
    }
}

section! {
    /// A fixed way for some domains, through relays; one `[[route]]` table each, the first that fits a domain counts, and
    /// `--via` goes before them all.
    FixedRoute {
        /// The domains, one or a list: "example.org"; ".example.org" for all below it too; "*" for all.
        #[serde(deserialize_with = "one_or_many")]
        domains: Vec<String> = Vec::new(),
        /// The relays, as a list or as `[[route.relays]]` tables; while one stands still, the others take its share.
        relays: Vec<RouteRelay> = Vec::new(),
    }
}

section! {
    /// A relay of a fixed way.
    RouteRelay {
        /// Where it is: "smtps://HOST:PORT" or "smtp+starttls://HOST:PORT", verified; "smtp://HOST:PORT", unverified.
        url: String = String::new(),
        /// Its share of the mail, in proportion to the other relays' weights.
        weight: u16 = 1,
        /// User name for AUTH; unset: no AUTH.
        user: Option<String> = None,
        /// A file whose first line is the password.
        password_file: Option<PathBuf> = None,
        /// The variable of the environment that holds the password.
        password_env: Option<String> = None,
        /// The password itself, from one of the two.
        #[serde(skip)]
        password: Option<Secret> = None,
        /// A file whose first line is an OAuth access token, read for each connection; used instead of a password.
        token_file: Option<PathBuf> = None,
        /// Most connections at once.
        connection_limit: u16 = 50,
        /// Most messages on one connection; unset: no cap.
        max_deliveries_per_connection: Option<u32> = None,
        /// Most messages in a time, as in "100/min"; unset: no cap.
        max_message_rate: Option<Rate> = None,
    }
}

section! {
    /// An address to send from; one `[[source]]` table each.
    Source {
        /// Its name in reports and rules.
        name: String = String::new(),
        /// The local address; unset: the system chooses.
        address: Option<IpAddr> = None,
        /// The name said in EHLO: a host name that resolves to the address; unset: the machine's host name.
        ehlo_name: Option<String> = None,
        /// The day of the calendar in `[warmup]` that the address begins with at every provider, 1 for one that is new;
        /// unset: it is known everywhere.
        warmup: Option<u16> = None,
    }
}

section! {
    /// Addresses that campaigns with `pool = "NAME"` are sent from; one `[[pool]]` table each. Without a pool a campaign
    /// is sent from all sources alike.
    Pool {
        /// Its name, as campaigns give it.
        name: String = String::new(),
        /// The sources by name, and how large the share of each is: [{ name = "a", weight = 3 }, { name = "b" }].
        sources: Vec<Share> = Vec::new(),
    }
}

section! {
    /// The calendar of addresses that nobody knows yet, for each source with `warmup` and each provider by itself: most
    /// messages on the n-th day, in any 24 hours. A day that was used by half and went well leads to the next; one with too
    /// much trouble is repeated, a bad one leads two days back, and two bad ones in a row stop the source at that provider.
    Warmup {
        /// Messages on the first day.
        start: u32 = 50,
        /// The same for single providers, by the names of the provider table.
        start_at: BTreeMap<String, u32> = BTreeMap::from([("gmx", 20), ("t-online", 20), ("orange", 20)].map(|(name, most)| (name.to_owned(), most))),
        /// Each day allows so many times as much as the day before.
        growth: f64 = 1.4,
        /// From so many messages a day on it grows by `slow_growth`.
        slow_from: u32 = 10_000,
        /// See `slow_from`.
        slow_growth: f64 = 1.25,
        /// With so many messages a day an address is known, and the calendar ends.
        target: u32 = 200_000,
        /// Deferrals in per cent from which a day is repeated; from twice as many it is a bad day.
        deferred: f64 = 5.0,
        /// Hard bounces in per cent from which a day is repeated; from twice as many it is a bad day.
        bounced: f64 = 2.0,
        /// Complaints in per cent from which a day is repeated; from three times as many it is a bad day.
        complained: f64 = 0.1,
        /// After this time without a message it goes on 14 days earlier in the calendar.
        idle: Span = Span::secs(30 * 86_400),
        /// Domains that are new as From, return path or link, and the day of the calendar each begins with at every provider,
        /// over all sources together: { "news.example.com" = 1 }. Domains not named here are known.
        domains: BTreeMap<String, u16> = BTreeMap::new(),
    }
}

section! {
    /// When a campaign pauses by itself, until a person resumes it.
    Breaker {
        /// Answers that rates are taken over: the last ones of a campaign, at one site and over all.
        sample: u32 = 500,
        /// Hard bounces at one site, in per cent, that stop the campaign there.
        bounced_at_site: f64 = 5.0,
        /// Hard bounces over all sites, in per cent, that pause the campaign.
        bounced: f64 = 10.0,
        /// Complaints at one site, in per cent of what it took, that are worth an alert.
        complained_warn: f64 = 0.08,
        /// Complaints that pause the campaign.
        complained: f64 = 0.2,
        /// Complaints that pause every campaign of the same From domain.
        complained_all: f64 = 0.3,
        /// Copies taken at a site before complaints are counted.
        complained_sample: u32 = 1000,
    }
}

section! {
    /// Whom to tell when something needs a person: a block, a route or campaign that stands still, a source that is gone,
    /// a disk that is full. Alerts name hosts and campaigns, never recipients. `mailshot check --alert` tries them.
    Alert {
        /// Mail addresses, one or a list.
        #[serde(deserialize_with = "one_or_many")]
        mail: Vec<String> = Vec::new(),
        /// The host that alert mail goes through, as with --via; unset: straight to the addresses' own hosts.
        mail_via: Option<String> = None,
        /// The From address of alert mail; signed when its domain has a DKIM key. Needed with `mail`.
        mail_from: Option<String> = None,
        /// An https address that gets each alert as JSON.
        webhook: Option<String> = None,
        /// Whether the webhook may have a loopback or private address.
        webhook_private: bool = false,
        /// A program and its arguments, run without a shell, with the alert as JSON on its standard input.
        #[serde(deserialize_with = "one_or_many")]
        command: Vec<String> = Vec::new(),
        /// How long the program may run.
        command_timeout: Span = Span::secs(30),
        /// The same alert is not repeated within this time.
        repeat: Span = Span::secs(3600),
        /// Most alerts in an hour; what is beyond is counted in the next one.
        most_per_hour: u32 = 20,
    }
}

section! {
    /// Daily reports to the domains that ask for them (`_smtp._tls`, RFC 8460): how many sessions with their mail hosts were
    /// secure as their policy demands, and what failed in the others. They name hosts and source addresses, no recipients.
    TlsReports {
        /// The address they come from; its domain needs a DKIM key. Unset: none are sent, and nothing is counted.
        from: Option<String> = None,
        /// The name of who sends; unset: the domain of `from`.
        organization: Option<String> = None,
        /// Where questions about a report go; unset: `from`.
        contact: Option<String> = None,
    }
}

section! {
    /// The built-in listener for bounces, complaints and unsubscribe mail: what the MX of the return-path domain leads to.
    Listener {
        /// Addresses to listen on for SMTP, as "IP:PORT", one or a list; empty: no listener.
        #[serde(deserialize_with = "one_or_many")]
        smtp: Vec<String> = Vec::new(),
        /// Addresses to listen on for LMTP, behind a mail server of your own.
        #[serde(deserialize_with = "one_or_many")]
        lmtp: Vec<String> = Vec::new(),
        /// The name in greetings; unset: the machine's.
        host_name: Option<String> = None,
        /// The domains whose postmaster and abuse mail is taken, and kept in state/postmaster.
        #[serde(deserialize_with = "one_or_many")]
        domains: Vec<String> = Vec::new(),
        /// A PEM file with the certificate and its chain for STARTTLS; unset: one of its own making.
        tls_cert: Option<PathBuf> = None,
        /// The PEM file of its private key.
        tls_key: Option<PathBuf> = None,
        /// Most connections at once.
        connection_limit: u16 = 200,
        /// Most connections at once from one address.
        connections_per_client: u16 = 20,
    }
}

section! {
    /// How long what tells about single people is kept, for `serve` to forget; figures stay. What proves a consent or its end
    /// is kept as long as its contact, and suppressions until a person releases them.
    Retention {
        /// What hosts said about each copy, from the end of its campaign; codes and classes stay.
        words: Span = Span::secs(180 * 86_400),
        /// Who opened a copy and followed links, from the end of its campaign; "90d" or longer, or the most engaged people
        /// are not known. Later visits are not counted.
        visits: Span = Span::secs(730 * 86_400),
        /// From where a list was joined on a page; then the address is cut to its network (192.0.2.0/24), and the browser's
        /// name forgotten.
        clients: Span = Span::secs(90 * 86_400),
        /// Automatic answers, late bounces and rests in a contact's history.
        history: Span = Span::secs(1095 * 86_400),
        /// Mail to the postmaster, in state/postmaster.
        postmaster: Span = Span::secs(90 * 86_400),
    }
}

section! {
    /// The public pages behind the links of messages, for `serve`.
    Web {
        /// The address to listen on, as "IP:PORT". Unset: no pages.
        listen: Option<String> = None,
        /// A PEM file with the certificate and its chain for https; taken up again when it changes. Unset: http, for a proxy
        /// in front that speaks https.
        tls_cert: Option<PathBuf> = None,
        /// The PEM file of its private key.
        tls_key: Option<PathBuf> = None,
        /// Proxies that say in X-Forwarded-For who the client is, as addresses or networks ("10.0.0.0/8").
        #[serde(deserialize_with = "one_or_many")]
        trusted_proxies: Vec<String> = Vec::new(),
        /// Most connections at once.
        connection_limit: u16 = 1000,
        /// Most connections at once from one address, trusted proxies aside.
        connections_per_client: u16 = 50,
    }
}

section! {
    /// Joining a list from a page, at links.base_url and `/s/LIST`; whoever asks gets a message with a link to confirm it.
    Signup {
        /// The lists that people may join; empty: none.
        #[serde(deserialize_with = "one_or_many")]
        lists: Vec<String> = Vec::new(),
        /// The address the message comes from; its domain needs a DKIM key.
        from: String = String::new(),
        /// The name it comes from.
        from_name: String = String::new(),
        /// What people agree to: shown above the button, and kept as part of the proof.
        consent: String = "I want to get this newsletter by mail. I can leave at any time with one click.".to_owned(),
        /// How long the link can be used; what is not confirmed by then is forgotten.
        expires: Span = Span::secs(7 * 86_400),
        /// The host the message goes through, as for `--via`; unset: the recipient's own.
        via: Option<String> = None,
    }
}

section! {
    /// A mailbox that bounces, complaints and answers are fetched from; one `[[mailbox]]` table each.
    Mailbox {
        /// Its name in logs; must be unique.
        name: String = String::new(),
        /// "imap" or "pop3".
        protocol: MailboxProtocol = MailboxProtocol::Imap,
        /// The server.
        host: String = String::new(),
        /// Its port; unset: 993 or 995, with "starttls" 143 or 110.
        port: Option<u16> = None,
        /// "implicit": TLS from the first byte; "starttls": on a connection opened in clear. Never without.
        tls: MailboxTls = MailboxTls::Implicit,
        /// The user.
        user: String = String::new(),
        /// A file whose first line is the password.
        password_file: Option<PathBuf> = None,
        /// The name of an environment variable that holds the password.
        password_env: Option<String> = None,
        /// A file whose first line is an OAuth access token, read at each login; used instead of a password.
        token_file: Option<PathBuf> = None,
        /// The name of an environment variable that holds an OAuth access token.
        token_env: Option<String> = None,
        /// Where access tokens are got and renewed, as a `[mailbox.oauth]` table below; used instead of a password.
        oauth: Option<MailboxOauth> = None,
        /// The folder of an IMAP mailbox.
        folder: String = "INBOX".to_owned(),
        /// The folder that IMAP messages are moved to once they are on record; unset: they stay, marked by a keyword.
        processed: Option<String> = None,
        /// How often it is looked at, at the least: an IMAP server that knows IDLE tells of new mail at once.
        every: Span = Span::secs(300),
    }
}

section! {
    /// How access tokens for a mailbox are got, and renewed before they run out. A refused renewal raises an alert, and the
    /// mailbox rests until another refresh token or secret is found where the settings say.
    MailboxOauth {
        /// The https address of the provider's token endpoint.
        token_url: String = String::new(),
        /// The id under which this program is registered there.
        client_id: String = String::new(),
        /// A file whose first line is the client's secret, for clients that have one.
        client_secret_file: Option<PathBuf> = None,
        /// The name of an environment variable that holds it.
        client_secret_env: Option<String> = None,
        /// A file whose first line is the refresh token; rewritten when the provider gives out another one. Unset, with no
        /// variable either: the client's own credentials are shown (RFC 6749 §4.4).
        refresh_token_file: Option<PathBuf> = None,
        /// The name of an environment variable that holds the refresh token.
        refresh_token_env: Option<String> = None,
        /// What is asked for, where the provider wants it named.
        scope: Option<String> = None,
    }
}

/// Who may be tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackingConsent {
    /// Those who said yes.
    OptIn,
    /// All but those who said no.
    OptOut,
}

impl Settings {
    /// Whether everything goes through relays, so that what receivers look up is the relays' affair.
    pub fn relays_everything(&self) -> bool {
        self.route.iter().any(|route| route.domains.iter().any(|domain| domain == "*"))
    }

    /// Whom to ask for names, and what to believe.
    pub fn name_service(&self) -> NameService<'_> {
        NameService { servers: &self.resolver, dnssec: self.dnssec, anchor: self.dnssec_anchor.as_deref() }
    }
}

/// A source's share of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The source.
    pub name: String,
    /// How often it has its turn, in proportion to the others'.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// How a mailbox is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MailboxProtocol {
    /// RFC 3501 and 9051.
    Imap,
    /// RFC 1939.
    Pop3,
}

/// How the connection to a mailbox is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MailboxTls {
    /// TLS from the first byte.
    Implicit,
    /// STARTTLS, or STLS in POP3.
    Starttls,
}

/// A list of texts, or a single one.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}
