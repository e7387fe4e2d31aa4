//! Reports on TLS to the domains that ask for them (RFC 8460): what was counted over a day, as JSON in gzip, by signed
//! mail or by https. What leads to a report goes beside the queue, and insists on no TLS: its failing is what is told.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::base::{Address, EnvelopeId, Timestamp};
use crate::compose::{self, TlsReportLetter};
use crate::config::{self, Settings};
use crate::delivery::beside::{self, Insists};
use crate::delivery::tls_tally::begin_of;
use crate::mail::Message;
use crate::sign::Keyring;
use crate::smtp::{Copy, TlsClient};
use crate::store::{self, Store, TlsSessionRow};
use crate::world::{DnsError, Http, World};

/// How long one delivery may take.
const WITHIN: Duration = Duration::from_secs(120);
/// Bytes of an answer that are read; nothing in it matters.
const ANSWER_MAX: usize = 4096;
/// Places a domain may name.
const PLACES_MAX: usize = 4;
/// Reports made in one round.
const ROUND_MAX: usize = 10_000;
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
    /// Those given up.
    pub dropped: u32,
}

/// Makes reports and sends them. Cheap to clone.
#[derive(Clone)]
pub struct TlsReports {
    world: World,
    settings: Settings,
    from: Address,
    keyring: Arc<Keyring>,
    store: Store,
}

impl TlsReports {
    /// With the settings of `[tls_reports]`; `None` where it names nobody that reports come from.
    pub fn new(settings: &Settings, world: &World, keyring: Keyring, store: Store) -> Option<TlsReports> {
        let from = Address::parse(settings.tls_reports.from.as_deref()?).ok()?;
        Some(TlsReports { world: world.clone(), settings: settings.clone(), from, keyring: Arc::new(keyring), store })
    }

    /// Reports every day before the one that `day` counts. What cannot be delivered is left for another round, until it is
    /// too old.
    pub async fn send_all(&self, day: i64) -> Result<Round, store::Error> {
        let mut round = Round::default();
        for (of, domain) in self.store.tls_days(day, ROUND_MAX)? {
            let tried = self.report(of, &domain).await?;
            let is_old = self.world.clock.now() > begin_of(of + 1) + TRIED_FOR;
            match tried {
                Ok(true) => round.sent += 1,
                Ok(false) => round.unwanted += 1,
                Err(why) if is_old => {
                    tracing::warn!(domain, "the report on TLS is given up: {why}");
                    round.dropped += 1;
                }
                Err(why) => {
                    tracing::info!(domain, "the report on TLS was not delivered: {why}");
                    round.failed += 1;
                    continue;
                }
            }
            self.store.forget_tls_sessions(of, domain).await?;
        }
        Ok(round)
    }

    /// One report to wherever the domain wants it: false when it wants none. One place reached is enough.
    async fn report(&self, day: i64, domain: &str) -> Result<Result<bool, String>, store::Error> {
        let places = match self.world.dns.text(&format!("_smtp._tls.{domain}")).await {
            Ok(answer) => places(&answer.records),
            Err(DnsError::NoSuchName { .. } | DnsError::NoRecords { .. }) => Vec::new(),
            Err(why @ DnsError::Unavailable { .. }) => return Ok(Err(why.to_string())),
        };
        if places.is_empty() {
            return Ok(Ok(false));
        }
        let id = format!("{day}.{:016x}@{}", self.world.dice.roll(), self.from.domain());
        let report = json(&self.settings.tls_reports, &self.from, &id, day, &self.store.tls_sessions(day, domain)?);
        let gzip = packed(report.to_string().as_bytes());
        let (mut reached, mut last) = (false, String::new());
        for place in places {
            let sent = tokio::time::timeout(WITHIN, self.deliver(&place, day, domain, &id, &gzip)).await;
            match sent.unwrap_or_else(|_| Err(format!("not delivered within {WITHIN:?}"))) {
                Ok(()) => reached = true,
                Err(why) => last = format!("{place:?}: {why}"),
            }
        }
        Ok(if reached { Ok(true) } else { Err(last) })
    }

    async fn deliver(&self, place: &Place, day: i64, domain: &str, id: &str, gzip: &[u8]) -> Result<(), String> {
        match place {
            Place::Mail(to) => self.mail(to, day, domain, id, gzip).await,
            Place::Web(address) => self.post(address, gzip).await,
        }
    }

    async fn post(&self, address: &str, gzip: &[u8]) -> Result<(), String> {
        let tls = TlsClient::new(self.settings.tls_ca.as_deref()).map_err(|why| why.to_string())?;
        let http = Http::new(&self.world, tls.verified(), self.settings.allow_private);
        let headers = [("content-type", "application/tlsrpt+gzip"), ("user-agent", "mailshot")];
        let answer = http.post(address, &headers, gzip.to_vec(), ANSWER_MAX, WITHIN).await;
        match answer.map_err(|why| why.to_string())?.status {
            200..=299 => Ok(()),
            status => Err(format!("answered with {status}")),
        }
    }

    /// Always signed: an unsigned report is to be ignored (RFC 8460 §3).
    async fn mail(&self, to: &Address, day: i64, domain: &str, id: &str, gzip: &[u8]) -> Result<(), String> {
        let (begin, end) = span(day);
        let submitter = self.from.domain();
        let file = format!("{submitter}!{domain}!{}!{}.json.gz", begin.as_secs(), end.as_secs());
        let letter =
            TlsReportLetter { from: &self.from, to, domain, id, file: &file, gzip, date: self.world.clock.now() };
        let copy = EnvelopeId::from_u64(self.world.dice.roll());
        let message = Message { id: copy, bytes: compose::tls_report(&letter) };
        let message = self.keyring.sign(submitter, message).map_err(|why| why.to_string())?;
        let copy = Copy { id: copy, return_path: String::new(), to: to.clone(), message, early: false };
        beside::deliver(&self.world, &self.settings, None, Insists::OnNothing, copy).await
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
