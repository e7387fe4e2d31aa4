//! Is this host and this domain fit to send? Asks the name service what receivers will ask it, and says what to mend.
//! Connects to one mail host at most, sends nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::dmarc::Dmarc;

use crate::base::{Domain, Timestamp};
use crate::compose::{Grade, Remark};
use crate::delivery::source::Sources;
use crate::delivery::spf::{Spf, evaluate};
use crate::sign::{self, Finding, Keyring};
use crate::world::{DnsError, World};

/// How long a mail host may take to let us in.
const DIAL_TAKES: Duration = Duration::from_secs(8);
/// No clock of a machine that is fit to send shows less: 2026-01-01. Signatures carry the time.
const CLOCK_MIN: Timestamp = Timestamp::from_ms(1_767_225_600_000);
/// Open files a busy sender needs: connections, queue and store together.
const FILES_MIN: u64 = 4096;
/// A domain whose mail hosts listen on port 25 as long as there is mail.
const WITNESS: &str = "gmail.com";

/// How the mail would leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the hosts of the recipients: everything must be right.
    Direct,
    /// Through a relay: what receivers look up is the relay's affair, and only warned of.
    Relay,
}

/// What is examined.
pub struct Patient<'a> {
    /// The From domain.
    pub from: &'a Domain,
    /// The domain of return paths.
    pub bounce: &'a Domain,
    /// Our addresses.
    pub sources: &'a Sources,
    /// The signing keys.
    pub keyring: &'a Keyring,
    /// Whether it is meant to go unsigned.
    pub unsigned: bool,
    /// Whether the mail hosts may be those of a private network, for tests.
    pub private: bool,
    /// How the mail would leave.
    pub way: Way,
    /// Whether a name server was named in the settings: then reserved domains are looked up as well, it may know them.
    pub has_own_resolver: bool,
}

/// Examines this host and the domains.
pub async fn examine(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    let mut remarks = vec![clock(world), files()];
    if patient.from.is_reserved() && !patient.has_own_resolver {
        let found = format!("{} is reserved for tests: nothing of it can be published or looked up", patient.from);
        remarks.push(signing(patient).unwrap_or_else(|| Remark::ok("dkim", "there is a key")));
        remarks.push(match (patient.way, patient.private) {
            (Way::Direct, false) => {
                Remark::fail("dns", found, "to send for real use a domain of your own; to try it, --via a test host")
            }
            (Way::Direct, true) | (Way::Relay, _) => Remark::ok("dns", found),
        });
        return remarks;
    }
    let (bounce, dkim, dmarc, spf, names) = tokio::join!(
        bounce_domain(world, patient),
        dkim(world, patient),
        dmarc(world, patient),
        spf(world, patient),
        source_names(world, patient),
    );
    remarks.extend(bounce);
    remarks.extend(dkim);
    remarks.extend(dmarc);
    remarks.extend(spf);
    remarks.extend(names);
    if patient.way == Way::Direct {
        remarks.push(port_25(world).await);
        return remarks;
    }
    remarks.into_iter().map(softened).collect()
}

/// With a relay in between, what only public name service can tell refuses nothing.
fn softened(remark: Remark) -> Remark {
    match (remark.grade, remark.subject) {
        (Grade::Fail, "spf" | "ptr" | "bounce_domain" | "dmarc" | "dkim_record") => {
            Remark { grade: Grade::Warn, ..remark }
        }
        _ => remark,
    }
}

fn clock(world: &World) -> Remark {
    let now = world.clock.now();
    match now >= CLOCK_MIN {
        true => Remark::ok("clock", now.rfc3339()),
        false => {
            Remark::fail("clock", format!("it shows {now}"), "set it: signatures carry the time, and expire by it")
        }
    }
}

/// The limit on open files (Linux tells it in /proc; elsewhere it is not known).
fn files() -> Remark {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    match soft {
        None => Remark::ok("open_files", "the system does not tell the limit"),
        Some(limit) if limit.parse().is_ok_and(|limit: u64| limit < FILES_MIN) => Remark::warn(
            "open_files",
            format!("at most {limit} files and connections at once"),
            format!("raise it with `ulimit -n {FILES_MIN}`, or LimitNOFILE= in the unit file"),
        ),
        Some(limit) => Remark::ok("open_files", format!("at most {limit} at once")),
    }
}

/// What stands in the way of signing; `None` when nothing does.
fn signing(patient: &Patient<'_>) -> Option<Remark> {
    let from = patient.from;
    if patient.keyring.has_key(from) {
        return None;
    }
    Some(match patient.unsigned {
        true => {
            Remark::warn("dkim", "nothing is signed: dkim.unsigned is set", "large receivers refuse unsigned bulk mail")
        }
        false => Remark::fail("dkim", format!("there is no key for {from}"), format!("`mailshot dkim new {from}`")),
    })
}

/// The records of the keys that sign for the From domain (K-11).
async fn dkim(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    if let Some(remark) = signing(patient) {
        return vec![remark];
    }
    let mut remarks = vec![Remark::ok("dkim", format!("there is a key for {}", patient.from))];
    for record in patient.keyring.records_for(patient.from) {
        let name = &record.name;
        remarks.push(match sign::check(&*world.dns, &record).await {
            Finding::Published => Remark::ok("dkim_record", format!("{name} is published, and the key is ours")),
            Finding::Absent => {
                Remark::fail("dkim_record", format!("{name} is not published"), format!("publish {record}"))
            }
            Finding::Different(text) => {
                Remark::fail("dkim_record", format!("{name} holds another key: {text}"), format!("publish {record}"))
            }
            Finding::Unknown(why) => Remark::fail("dkim_record", format!("{name} cannot be looked up: {why}"), AGAIN),
        });
    }
    remarks
}

const AGAIN: &str = "try again, or name a name server with the setting `resolver`";

/// Whether bounces find their way back, and receivers the domain (C-06).
async fn bounce_domain(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    let bounce = patient.bounce;
    let remedy = format!("publish an MX record for {bounce} that leads to whatever reads bounces");
    let mut remarks = vec![match world.dns.mx(bounce).await {
        Ok(answer) if answer.records.iter().all(|mx| mx.target.is_none()) => Remark::fail(
            "bounce_domain",
            format!("{bounce} says by a null MX that it takes no mail: receivers refuse mail with such a return path"),
            remedy,
        ),
        Ok(answer) => {
            let hosts: Vec<&str> =
                answer.records.iter().filter_map(|mx| mx.target.as_ref()).map(Domain::as_str).collect();
            Remark::ok("bounce_domain", format!("{bounce} takes mail at {}", hosts.join(", ")))
        }
        Err(DnsError::Unavailable { why, .. }) => {
            Remark::fail("bounce_domain", format!("{bounce} cannot be looked up: {why}"), AGAIN)
        }
        Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => {
            match world.dns.addresses(bounce, true).await {
                Ok(_) => Remark::warn("bounce_domain", format!("{bounce} has an address but no MX record"), remedy),
                Err(_) => {
                    Remark::fail("bounce_domain", format!("{bounce} takes no mail: bounces would be lost"), remedy)
                }
            }
        }
    }];
    if organisation(bounce) != organisation(patient.from) {
        remarks.push(Remark::warn(
            "alignment",
            format!("return paths at {bounce} are not below {}", organisation(patient.from)),
            "receivers want From and return path of one organisation: set sender.bounce_domain to a name below it (K-09)",
        ));
    }
    remarks
}

/// The registrable domain; the whole name when there is none.
fn organisation(domain: &Domain) -> &str {
    domain.registrable().unwrap_or(domain.as_str())
}

/// The DMARC record of the From domain, or of its organisation (K-15).
async fn dmarc(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    let own = format!("_dmarc.{}", patient.from);
    let above = format!("_dmarc.{}", organisation(patient.from));
    for name in [&own, &above] {
        match world.dns.text(name).await {
            Ok(answer) => {
                let records: Vec<&String> = answer.records.iter().filter(|text| text.starts_with("v=DMARC1")).collect();
                match records.as_slice() {
                    [] => {}
                    [one] => return vec![judge_dmarc(name, one)],
                    _ => {
                        let found = format!("{name} has {} DMARC records: receivers then see none", records.len());
                        return vec![Remark::fail("dmarc", found, "keep one")];
                    }
                }
            }
            Err(DnsError::Unavailable { why, .. }) => {
                return vec![Remark::fail("dmarc", format!("{name} cannot be looked up: {why}"), AGAIN)];
            }
            Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => {}
        }
    }
    let from = patient.from;
    let remedy = format!("publish {own}. IN TXT \"v=DMARC1; p=none; rua=mailto:dmarc@{}\"", organisation(from));
    vec![Remark::fail(
        "dmarc",
        format!("{from} has no DMARC record: Gmail, Yahoo and Outlook refuse bulk mail without"),
        remedy,
    )]
}

fn judge_dmarc(name: &str, text: &str) -> Remark {
    match Dmarc::parse(text.as_bytes()) {
        Ok(_) if !text.contains("rua=") => {
            let remedy = "add rua=mailto:…: without reports nobody tells you when signatures fail";
            Remark::warn("dmarc", format!("{name}: {text}"), remedy)
        }
        Ok(_) => Remark::ok("dmarc", format!("{name}: {text}")),
        Err(_) => Remark::fail("dmarc", format!("{name} cannot be read: {text}"), "begin with v=DMARC1; p=none"),
    }
}

/// Whether the return path's domain lets our addresses send (K-14).
async fn spf(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    let bounce = patient.bounce;
    let addresses: Vec<IpAddr> = patient.sources.iter().filter_map(|source| source.address).collect();
    if addresses.is_empty() {
        let found = "the public address is not known here: no [[source]] names one";
        return vec![match evaluate(&*world.dns, bounce, None).await {
            Spf::Absent => no_spf(bounce, "ip4:YOUR-ADDRESS"),
            Spf::Broken(why) => broken_spf(bounce, &why),
            Spf::Unknown(why) => Remark::fail("spf", format!("{bounce} cannot be looked up: {why}"), AGAIN),
            Spf::Pass | Spf::Fail | Spf::SoftFail | Spf::Neutral => Remark::warn(
                "spf",
                format!("{bounce} has an SPF record, but {found}"),
                "name the address under [[source]]",
            ),
        }];
    }
    let mut remarks = Vec::new();
    for address in addresses {
        let term = format!("{}:{address}", if address.is_ipv4() { "ip4" } else { "ip6" });
        let remedy = format!("put {term} into the SPF record of {bounce}");
        remarks.push(match evaluate(&*world.dns, bounce, Some(address)).await {
            Spf::Pass => Remark::ok("spf", format!("{bounce} lets {address} send")),
            Spf::Fail => Remark::fail("spf", format!("{bounce} forbids {address} to send"), remedy),
            Spf::SoftFail => Remark::fail("spf", format!("{bounce} does not expect mail from {address}"), remedy),
            Spf::Neutral => Remark::warn("spf", format!("{bounce} says nothing about {address}"), remedy),
            Spf::Absent => no_spf(bounce, &term),
            Spf::Broken(why) => broken_spf(bounce, &why),
            Spf::Unknown(why) => Remark::fail("spf", format!("{bounce} cannot be looked up: {why}"), AGAIN),
        });
    }
    remarks
}

fn no_spf(bounce: &Domain, term: &str) -> Remark {
    let remedy = format!("publish {bounce}. IN TXT \"v=spf1 {term} -all\"");
    Remark::fail("spf", format!("{bounce}, the domain of return paths, has no SPF record"), remedy)
}

fn broken_spf(bounce: &Domain, why: &str) -> Remark {
    Remark::fail(
        "spf",
        format!("the SPF record of {bounce} cannot be used: {why}"),
        "mend it: receivers count it as failed",
    )
}

/// Whether each source's name leads to its address and back (C-15).
async fn source_names(world: &World, patient: &Patient<'_>) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for source in patient.sources.iter() {
        let name = &source.ehlo_name;
        let Some(address) = source.address else {
            let remedy = "name address and ehlo_name under [[source]]: receivers compare them with the name service";
            remarks.push(Remark::warn(
                "ptr",
                format!("EHLO says {name}; the public address is not known here"),
                remedy,
            ));
            continue;
        };
        let Ok(host) = Domain::parse(name) else {
            let remedy = format!("set ehlo_name of source `{}` to the host name that {address} points to", source.name);
            remarks.push(Remark::fail("ptr", format!("EHLO says {name}, which is no host name"), remedy));
            continue;
        };
        let forward =
            world.dns.addresses(&host, address.is_ipv6()).await.is_ok_and(|found| found.records.contains(&address));
        let back = world.dns.pointer(address).await.ok().map(|found| found.records);
        let is_same = back.as_ref().is_some_and(|names| names.contains(&host));
        remarks.push(match (forward, is_same) {
            (true, true) => Remark::ok("ptr", format!("{address} and {host} lead to each other")),
            (false, _) => {
                let found = format!("EHLO says {host}, which does not lead to {address}");
                Remark::fail("ptr", found, format!("publish an address record for {host}"))
            }
            (true, false) => {
                let names = back.unwrap_or_default().iter().map(Domain::to_string).collect::<Vec<_>>().join(", ");
                let found = match names.is_empty() {
                    true => format!("{address} points to no name"),
                    false => format!("{address} points to {names}, and EHLO says {host}"),
                };
                Remark::fail("ptr", found, format!("ask who gave you the address to let it point to {host}"))
            }
        });
    }
    remarks
}

/// Whether connections to port 25 leave this network at all.
async fn port_25(world: &World) -> Remark {
    let unknown = |why: &str| Remark::warn("port_25", format!("could not be tried: {why}"), AGAIN);
    let witness = Domain::parse(WITNESS).expect("a fixed name");
    let Ok(mx) = world.dns.mx(&witness).await else { return unknown("the name service does not answer") };
    let Some(host) = mx.records.iter().min_by_key(|mx| mx.preference).and_then(|mx| mx.target.clone()) else {
        return unknown("the witness has no mail host");
    };
    let address = world.dns.addresses(&host, false).await.ok().and_then(|found| found.records.first().copied());
    let Some(address) = address else { return unknown("the witness has no address") };
    match tokio::time::timeout(DIAL_TAKES, world.net.dial(None, SocketAddr::new(address, 25))).await {
        Ok(Ok(_)) => Remark::ok("port_25", format!("{host} lets us in")),
        Ok(Err(why)) => Remark::fail("port_25", format!("{host} cannot be reached: {why}"), BLOCKED),
        Err(_) => Remark::fail("port_25", format!("{host} did not answer within {} s", DIAL_TAKES.as_secs()), BLOCKED),
    }
}

const BLOCKED: &str = "many networks block port 25: ask yours to open it, or send with --via through a relay";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Span;
    use crate::config::Settings;
    use crate::sign::{Algorithm, create_key};
    use crate::world::{NetTable, Zone};

    struct Clinic {
        keys: tempfile::TempDir,
        sources: Sources,
    }

    impl Clinic {
        fn new() -> Clinic {
            let keys = tempfile::tempdir().unwrap();
            create_key(keys.path(), &domain("mailshot.dev"), "s1", Algorithm::Ed25519).unwrap();
            let settings: Settings =
                toml::from_str("[[source]]\nname = \"a\"\naddress = \"192.0.2.7\"\nehlo_name = \"mx7.mailshot.dev\"\n")
                    .unwrap();
            Clinic { keys, sources: Sources::unnumbered(&settings, "mx7.mailshot.dev") }
        }

        /// A name service in which everything is as it should be.
        fn healthy(&self) -> Zone {
            let record = self.keyring().records().remove(0);
            Zone::default()
                .mx(&domain("bounce.mailshot.dev"), 10, Some(&domain("mx7.mailshot.dev")))
                .text("bounce.mailshot.dev", "v=spf1 ip4:192.0.2.7 -all")
                .text("_dmarc.mailshot.dev", "v=DMARC1; p=none; rua=mailto:dmarc@mailshot.dev")
                .text(&record.name, &record.value)
                .address(&domain("mx7.mailshot.dev"), "192.0.2.7".parse().unwrap())
                .pointer("192.0.2.7".parse().unwrap(), &domain("mx7.mailshot.dev"))
        }

        fn keyring(&self) -> Keyring {
            Keyring::open(self.keys.path(), Span::secs(60)).unwrap()
        }

        /// What is not well, as `GRADE subject`.
        async fn complaints(&self, zone: Zone, from: &str, bounce: &str, way: Way) -> Vec<String> {
            let world = World::simulated(CLOCK_MIN, zone, NetTable::default(), 7);
            let (from, bounce, keyring) = (domain(from), domain(bounce), self.keyring());
            let patient = Patient {
                from: &from,
                bounce: &bounce,
                sources: &self.sources,
                keyring: &keyring,
                unsigned: false,
                private: false,
                way,
                has_own_resolver: false,
            };
            let remarks = examine(&world, &patient).await.into_iter();
            let bad = remarks.filter(|remark| remark.grade != Grade::Ok && remark.subject != "open_files");
            bad.map(|remark| format!("{:?} {}", remark.grade, remark.subject)).collect()
        }
    }

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    #[tokio::test]
    async fn a_healthy_domain_has_no_complaints() {
        let clinic = Clinic::new();
        let found = clinic.complaints(clinic.healthy(), "mailshot.dev", "bounce.mailshot.dev", Way::Relay).await;
        assert_eq!(found, [""; 0]);
        let below = clinic.complaints(clinic.healthy(), "news.mailshot.dev", "bounce.mailshot.dev", Way::Relay).await;
        assert_eq!(below, [""; 0], "key and DMARC record of the domain above serve those below");
    }

    #[tokio::test]
    async fn without_records_direct_delivery_is_refused_and_a_relay_is_only_warned_of() {
        let clinic = Clinic::new();
        let all = ["bounce_domain", "dkim_record", "dmarc", "spf", "ptr"];
        let direct = clinic.complaints(Zone::default(), "mailshot.dev", "bounce.mailshot.dev", Way::Direct).await;
        let mut expected: Vec<String> = all.map(|subject| format!("Fail {subject}")).to_vec();
        expected.push("Warn port_25".to_owned());
        assert_eq!(direct, expected);
        let relay = clinic.complaints(Zone::default(), "mailshot.dev", "bounce.mailshot.dev", Way::Relay).await;
        assert_eq!(relay, all.map(|subject| format!("Warn {subject}")));
        let foreign = clinic.complaints(Zone::default(), "elsewhere.dev", "bounce.elsewhere.dev", Way::Relay).await;
        assert!(foreign.contains(&"Fail dkim".to_owned()), "{foreign:?}");
    }

    #[tokio::test]
    async fn a_reserved_domain_can_only_be_tried() {
        let clinic = Clinic::new();
        create_key(clinic.keys.path(), &domain("example.com"), "s1", Algorithm::Ed25519).unwrap();
        let complaints = async |way| clinic.complaints(Zone::default(), "example.com", "bounce.example.com", way).await;
        assert_eq!(complaints(Way::Direct).await, ["Fail dns"]);
        assert_eq!(complaints(Way::Relay).await, [""; 0]);
    }

    #[tokio::test]
    async fn each_ill_has_its_complaint() {
        let clinic = Clinic::new();
        let bounce = domain("bounce.mailshot.dev");
        let null = clinic.healthy().mx(&domain("gone.mailshot.dev"), 0, None);
        let found = clinic.complaints(null, "mailshot.dev", "gone.mailshot.dev", Way::Direct).await;
        assert!(found.contains(&"Fail bounce_domain".to_owned()), "{found:?}");
        let twice = clinic.healthy().text(bounce.as_str(), "v=spf1 +all");
        assert_eq!(clinic.complaints(twice, "mailshot.dev", bounce.as_str(), Way::Relay).await, ["Warn spf"]);
        let elsewhere = clinic.healthy().mx(&domain("bounce.example.com"), 10, Some(&domain("mx7.mailshot.dev")));
        let found = clinic.complaints(elsewhere, "mailshot.dev", "bounce.example.com", Way::Relay).await;
        assert_eq!(found, ["Warn alignment", "Warn spf"]);
    }
}
