//! Reports on TLS to the domains that ask for them (RFC 8460): what was counted over a day, as JSON in gzip, by signed
//! mail or by https. What leads to a report goes beside the queue, and insists on no TLS: its failing is what is told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::base::{Address, Domain, EnvelopeId, Timestamp};
use crate::compose::{self, TlsReportLetter};
use crate::config::{self, Settings};
use crate::delivery::beside::{Beside, Insists};
use crate::delivery::sites::standing_still;
use crate::delivery::tls_tally::{begin_of, day_of};
use crate::mail::Message;
use crate::queue::{self, Queue};
use crate::sign::Keyring;
use crate::smtp::{Copy, TlsClient};
use crate::store::{self, Store, TlsSessionRow};
use crate::world::{DnsError, Http, World};

/// How long all that is done for one domain may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read; nothing in it matters.
const ANSWER_MAX: usize = 4096;
/// Places a domain may name.
const PLACES_MAX: usize = 4;
/// Domains seen to at once.
const AT_ONCE: usize = 32;
/// Domains read from the record at a time.
const PAGE: usize = 500;
/// Letters to one domain in one round: any zone may name an address that is not its own. The others go in later rounds.
const LETTERS_MAX: u32 = 100;
/// How long after its day a report is still tried (RFC 8460 §3: a day, after up to four hours of waiting).
const TRIED_FOR: Duration = Duration::from_secs(28 * 3600);

/// Where a domain wants its reports.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Mail(Address),
    Web(String),
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Reports that arrived.
    pub sent: u32,
    /// Days with domains that want none.
    pub unwanted: u32,
    /// Those to be tried again.
    pub failed: u32,
    /// Kinds of sessions given up.
    pub dropped: usize,
}

/// Why a round came to nothing; the next one does it over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The queue, which knows what stands still.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// What is needed to dial, in words.
    #[error("{0}")]
    Road(String),
}

/// Makes reports and sends them. Cheap to clone.
#[derive(Clone)]
pub struct TlsReports {
    world: World,
    settings: Settings,
    from: Address,
    keyring: Arc<Keyring>,
    store: Store,
    queue: Queue,
}

/// One round, and what it needs.
struct Outing<'r> {
    reports: &'r TlsReports,
    beside: Beside,
    http: Http,
    /// Sites and domains to which nothing goes.
    still: BTreeSet<String>,
    letters: Mutex<BTreeMap<Domain, u32>>,
}

impl TlsReports {
    /// With the settings of `[tls_reports]`; `None` where it names nobody that reports come from.
    pub fn new(settings: &Settings, world: &World, keyring: Keyring, store: Store, queue: Queue) -> Option<TlsReports> {
        let from = Address::parse(settings.tls_reports.from.as_deref()?).ok()?;
        let (world, settings, keyring) = (world.clone(), settings.clone(), Arc::new(keyring));
        Some(TlsReports { world, settings, from, keyring, store, queue })
    }

    /// Reports every day before the one that `day` counts, many domains at once. What cannot be delivered is left for
    /// another round, until it is too old.
    pub async fn send_all(&self, day: i64) -> Result<Round, Error> {
        let oldest = day_of(self.world.clock.now() - TRIED_FOR);
        let mut round = Round { dropped: self.store.forget_tls_days(oldest).await?, ..Round::default() };
        let mut outing = Outing::begin(self)?;
        let mut after = None;
        loop {
            let days = self.store.tls_days(day, after.as_ref(), PAGE)?;
            let Some(last) = days.last().cloned() else { return Ok(round) };
            after = Some(last);
            let still = standing_still(&self.queue, self.world.clock.now()).await?;
            outing.still = still.into_iter().map(|still| still.name).collect();
            let see_to = |(of, domain)| outing.see_to(of, domain);
            let mut seen_to = stream::iter(days.into_iter().map(see_to)).buffer_unordered(AT_ONCE);
            while let Some(tried) = seen_to.next().await {
                match tried? {
                    Some(true) => round.sent += 1,
                    Some(false) => round.unwanted += 1,
                    None => round.failed += 1,
                }
            }
        }
    }
}

impl<'r> Outing<'r> {
    fn begin(reports: &'r TlsReports) -> Result<Outing<'r>, Error> {
        let TlsReports { world, settings, .. } = reports;
        let tls = TlsClient::new(settings.tls_ca.as_deref()).map_err(|why| Error::Road(why.to_string()))?;
        let http = Http::new(world, tls.verified(), settings.allow_private);
        let beside = Beside::new(world, settings).map_err(Error::Road)?;
        Ok(Outing { reports, beside, http, still: BTreeSet::new(), letters: Mutex::default() })
    }

    /// Reports one day to a domain and forgets it: whether it wants that. `None`: to be tried again.
    async fn see_to(&self, day: i64, domain: String) -> Result<Option<bool>, store::Error> {
        match self.report(day, &domain).await? {
            Ok(is_wanted) => {
                self.reports.store.forget_tls_sessions(day, domain).await?;
                Ok(Some(is_wanted))
            }
            Err(why) => {
                tracing::info!(domain, "the report on TLS was not delivered: {why}");
                Ok(None)
            }
        }
    }

    /// One report to wherever the domain wants it: false when it wants none. One place reached is enough.
    async fn report(&self, day: i64, domain: &str) -> Result<Result<bool, String>, store::Error> {
        let TlsReports { world, settings, from, store, .. } = self.reports;
        let (until, late) = (Instant::now() + WITHIN, || format!("not done within {WITHIN:?}"));
        let places = match timeout_at(until, world.dns.text(&format!("_smtp._tls.{domain}"))).await {
            Ok(Ok(answer)) => places(&answer.records),
            Ok(Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. })) => Vec::new(),
            Ok(Err(why @ DnsError::Unavailable { .. })) => return Ok(Err(why.to_string())),
            Err(_) => return Ok(Err(late())),
        };
        let mut open = Vec::new();
        for place in places {
            if !self.is_barred(&place)? {
                open.push(place);
            }
        }
        if open.is_empty() {
            return Ok(Ok(false));
        }
        let id = format!("{day}.{:016x}@{}", world.dice.roll(), from.domain());
        let report = json(&settings.tls_reports, from, &id, day, &store.tls_sessions(day, domain)?);
        let gzip = packed(report.to_string().as_bytes());
        let (mut reached, mut last) = (false, String::new());
        for place in open {
            let sent = timeout_at(until, self.deliver(&place, day, domain, &id, &gzip)).await;
            match sent.unwrap_or_else(|_| Err(late())) {
                Ok(()) => reached = true,
                Err(why) => last = format!("{place:?}: {why}"),
            }
        }
        Ok(if reached { Ok(true) } else { Err(last) })
    }

    /// Whether a place is the address of somebody who is to get nothing: whoever names it.
    fn is_barred(&self, place: &Place) -> Result<bool, store::Error> {
        match place {
            Place::Mail(to) => Ok(self.reports.store.suppression(&to.to_string())?.is_some()),
            Place::Web(_) => Ok(false),
        }
    }

    async fn deliver(&self, place: &Place, day: i64, domain: &str, id: &str, gzip: &[u8]) -> Result<(), String> {
        match place {
            Place::Mail(to) => self.mail(to, day, domain, id, gzip).await,
            Place::Web(address) => self.post(address, gzip).await,
        }
    }

    async fn post(&self, address: &str, gzip: &[u8]) -> Result<(), String> {
        let headers = [("content-type", "application/tlsrpt+gzip"), ("user-agent", "mailshot")];
        let answer = self.http.post(address, &headers, gzip.to_vec(), ANSWER_MAX, WITHIN).await;
        match answer.map_err(|why| why.to_string())?.status {
            200..=299 => Ok(()),
            status => Err(format!("answered with {status}")),
        }
    }

    /// Always signed: an unsigned report is to be ignored (RFC 8460 §3).
    async fn mail(&self, to: &Address, day: i64, domain: &str, id: &str, gzip: &[u8]) -> Result<(), String> {
        let TlsReports { world, from, keyring, .. } = self.reports;
        let domain = &Domain::parse(domain).map_err(|why| why.to_string())?;
        let route = self.beside.way(to.domain(), None).await?;
        if let Some(name) = [to.domain().as_str(), &route.site].into_iter().find(|name| self.still.contains(*name)) {
            return Err(format!("{name} stands still"));
        }
        if !self.is_within_most(to.domain()) {
            return Err(format!("{} gets enough letters in this round", to.domain()));
        }
        let (begin, end) = span(day);
        let submitter = from.domain();
        let file = format!("{submitter}!{domain}!{}!{}.json.gz", begin.as_secs(), end.as_secs());
        let letter = TlsReportLetter { from, to, domain, id, file: &file, gzip, date: world.clock.now() };
        let copy = EnvelopeId::from_u64(world.dice.roll());
        let message = Message { id: copy, bytes: compose::tls_report(&letter) };
        let message = keyring.sign(submitter, message).map_err(|why| why.to_string())?;
        let copy = Copy { id: copy, return_path: String::new(), to: to.clone(), message, early: false };
        self.beside.deliver(route, Insists::OnNothing, copy).await
    }

    /// Counts a letter to a domain, if it may still get one in this round.
    fn is_within_most(&self, domain: &Domain) -> bool {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let count = letters.entry(domain.clone()).or_default();
        *count += 1;
        *count <= LETTERS_MAX
    }
}

/// The first and the last second of a day.
fn span(day: i64) -> (Timestamp, Timestamp) {
    (begin_of(day), begin_of(day + 1) - Duration::from_secs(1))
}

/// The places in the domain's one `v=TLSRPTv1` record (RFC 8460 §3); those that cannot be reached by mail or https are
/// passed over.
fn places(records: &[String]) -> Vec<Place> {
    let mut found = records.iter().filter_map(|text| {
        let mut fields = text.split(';').map(str::trim);
        (fields.next() == Some("v=TLSRPTv1")).then(|| fields.find_map(|field| field.strip_prefix("rua=")).unwrap_or(""))
    });
    let (Some(places), None) = (found.next(), found.next()) else { return Vec::new() };
    places.split(',').map(str::trim).filter_map(place).take(PLACES_MAX).collect()
}

fn place(uri: &str) -> Option<Place> {
    let (scheme, rest) = uri.split_once(':')?;
    match scheme.to_ascii_lowercase().as_str() {
        "mailto" => {
            let address = rest.split(['?', '!']).next().unwrap_or_default();
            Address::parse(&address.replace("%40", "@")).ok().map(Place::Mail)
        }
        "https" => Some(Place::Web(uri.to_owned())),
        _ => None,
    }
}

/// The report (RFC 8460 §4.4).
fn json(settings: &config::TlsReports, from: &Address, id: &str, day: i64, rows: &[TlsSessionRow]) -> Value {
    let (begin, end) = span(day);
    let mut policies: BTreeMap<&str, Vec<&TlsSessionRow>> = BTreeMap::new();
    for row in rows {
        policies.entry(&row.policy).or_default().push(row);
    }
    let policies: Vec<Value> = policies.into_iter().map(|(policy, rows)| under_policy(policy, &rows)).collect();
    let organization = settings.organization.clone().unwrap_or_else(|| from.domain().to_string());
    json!({
        "organization-name": organization,
        "date-range": {"start-datetime": seconds(begin), "end-datetime": seconds(end)},
        "contact-info": settings.contact.clone().unwrap_or_else(|| from.to_string()),
        "report-id": id,
        "policies": policies,
    })
}

fn under_policy(policy: &str, rows: &[&TlsSessionRow]) -> Value {
    let sum =
        |failed: bool| rows.iter().filter(|row| row.result.is_empty() != failed).map(|row| row.sessions).sum::<u64>();
    let mut told = json!({
        "policy": serde_json::from_str::<Value>(policy).unwrap_or(Value::Null),
        "summary": {"total-successful-session-count": sum(false), "total-failure-session-count": sum(true)},
    });
    let details: Vec<Value> = rows.iter().filter(|row| !row.result.is_empty()).map(|row| detail(row)).collect();
    if !details.is_empty() {
        told["failure-details"] = details.into();
    }
    told
}

fn detail(row: &TlsSessionRow) -> Value {
    let mut detail = json!({"result-type": row.result, "failed-session-count": row.sessions});
    for (key, value) in [("sending-mta-ip", &row.source), ("receiving-mx-hostname", &row.host)] {
        if !value.is_empty() {
            detail[key] = value.as_str().into();
        }
    }
    detail
}

/// RFC 3339 to the second.
fn seconds(at: Timestamp) -> String {
    at.rfc3339().replace(".000Z", "Z")
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).expect("a Vec takes all that is written to it");
    gzip.finish().expect("a Vec takes all that is written to it")
}

#[cfg(test)]
mod tests;
