//! The page on which recipients choose: their lists, a rest, and what may be noted of how they read. Every link to it is
//! sealed for one copy; only POST changes anything.

use std::time::Duration;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::base::{EnvelopeId, ListId, Timestamp};
use crate::mail::Consent;
use crate::store::{self, MembershipStatus, SubscriptionRow};
use crate::web::subscriptions::{UNDO, opened, sorry};
use crate::web::{Pages, looks};

/// The longest rest that can be chosen.
const PAUSE_DAYS_MAX: u64 = 365;
const DAY: Duration = Duration::from_secs(86_400);

/// What the page shows.
#[derive(Serialize)]
struct Shown<'a> {
    token: &'a str,
    /// The address, so far that its owner knows it.
    address: Option<String>,
    lists: Vec<Choice>,
    /// Whether they are on any list.
    is_on_any: bool,
    /// The last day of a rest.
    paused: Option<String>,
    opens: bool,
    clicks: bool,
    /// What was just done.
    done: Option<&'static str>,
}

/// A list to choose.
#[derive(Serialize)]
struct Choice {
    id: u32,
    name: String,
    is_on: bool,
    is_pending: bool,
    /// Left too long ago to come back without asking anew (U-07).
    is_gone: bool,
}

type Fields = Form<Vec<(String, String)>>;

/// GET: shows what is chosen.
pub(super) async fn show(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    page(&pages, copy, &token, None)
}

/// POST: leaves the lists that are not ticked, comes back to those that are and were left within a day, and takes down what may
/// be noted. A list or a choice that the form did not show stays as it is.
pub(super) async fn save(State(pages): State<Pages>, Path(token): Path<String>, Form(fields): Fields) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match choose(&pages, copy, &fields).await {
        Ok(()) => page(&pages, copy, &token, Some("Saved.")),
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: a rest of so many days.
pub(super) async fn pause(State(pages): State<Pages>, Path(token): Path<String>, Form(fields): Fields) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    let days = fields.iter().find(|(name, _)| name == "days").and_then(|(_, days)| days.parse::<u64>().ok());
    let Some(days) = days.filter(|days| (1..=PAUSE_DAYS_MAX).contains(days)) else {
        return page(&pages, copy, &token, None);
    };
    let now = pages.clock.now();
    let until = now + DAY * u32::try_from(days).expect("at most a year");
    match pages.store.pause(copy, Some(until), now).await {
        Ok(()) => page(&pages, copy, &token, Some("Done: enjoy your break.")),
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: the end of a rest.
pub(super) async fn resume(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match pages.store.pause(copy, None, pages.clock.now()).await {
        Ok(()) => page(&pages, copy, &token, Some("Done: your letters come again.")),
        Err(why) => sorry(&pages, &why),
    }
}

async fn choose(pages: &Pages, copy: EnvelopeId, fields: &[(String, String)]) -> Result<(), store::Error> {
    let now = pages.clock.now();
    let has = |name: &str, value: u32| fields.iter().any(|(n, v)| n == name && v.parse() == Ok(value));
    let rows = pages.store.subscriptions(copy)?;
    let mut left: Vec<ListId> = Vec::new();
    for row in rows.iter().filter(|row| has("known", row.list.0)) {
        let wanted = has("list", row.list.0);
        match row.status {
            MembershipStatus::Subscribed | MembershipStatus::Pending if !wanted => left.push(row.list),
            MembershipStatus::Unsubscribed if wanted => {
                pages.store.rejoin(copy, row.list, now - UNDO, now).await?;
            }
            MembershipStatus::Subscribed | MembershipStatus::Pending | MembershipStatus::Unsubscribed => {}
        }
    }
    pages.store.leave(copy, left, now).await?;
    let ticked = |name: &str| fields.iter().any(|(n, _)| n == name);
    if ticked("tracking") {
        let consent = Consent { opens: Some(ticked("opens")), clicks: Some(ticked("clicks")) };
        pages.store.set_consent(copy, consent, now).await?;
    }
    Ok(())
}

fn page(pages: &Pages, copy: EnvelopeId, token: &str, done: Option<&'static str>) -> Response {
    let now = pages.clock.now();
    let found = pages.store.subscriptions(copy).and_then(|rows| {
        let recipient = pages.store.recipient(copy.contact())?;
        let paused = pages.store.paused(copy.contact())?.filter(|until| *until > now);
        let consent = recipient.as_ref().map(|recipient| recipient.consent).unwrap_or_default();
        Ok(Shown {
            token,
            address: recipient.map(|recipient| hinted(&recipient.address.to_string())),
            is_on_any: rows.iter().any(|row| row.status != MembershipStatus::Unsubscribed),
            lists: rows.into_iter().map(|row| choice(row, now)).collect(),
            paused: paused.map(day),
            opens: pages.consent_rule.allows(consent.opens),
            clicks: pages.consent_rule.allows(consent.clicks),
            done,
        })
    });
    match found {
        Ok(shown) => pages.looks.page("preferences", StatusCode::OK, &shown),
        Err(why) => sorry(pages, &why),
    }
}

fn choice(row: SubscriptionRow, now: Timestamp) -> Choice {
    let has_left = row.status == MembershipStatus::Unsubscribed;
    Choice {
        id: row.list.0,
        is_on: row.status == MembershipStatus::Subscribed,
        is_pending: row.status == MembershipStatus::Pending,
        is_gone: has_left && row.since < now - UNDO,
        name: row.name,
    }
}

/// The first letter and the domain: links are forwarded, addresses need not be.
fn hinted(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or(("", address));
    // a word joiner keeps it on one line
    format!("{}…\u{2060}@{domain}", local.chars().take(1).collect::<String>())
}

/// The day of a time, in UTC, as in "3 December 2026".
fn day(at: Timestamp) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let text = at.rfc3339();
    let number = |range: std::ops::Range<usize>| text[range].parse::<usize>().expect("RFC 3339 has digits there");
    format!("{} {} {}", number(8..10), MONTHS[number(5..7) - 1], &text[..4])
}
