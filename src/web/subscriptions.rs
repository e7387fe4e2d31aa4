//! Leaving: the page behind the unsubscribe link, the one-click POST of mail programs (RFC 8058), and the way back.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::base::{EnvelopeId, ListId, Purpose, Timestamp};
use crate::store::{self, MembershipStatus, SubscriptionRow};
use crate::web::{Pages, looks};

/// How long a slip can be undone (U-07).
pub(super) const UNDO: Duration = Duration::from_secs(24 * 3600);
/// What a mail program sends (RFC 8058 §3.1), in a urlencoded form or, with a line end between, in a multipart one.
const ONE_CLICK: (&[u8], &[u8]) = (b"List-Unsubscribe", b"One-Click");

/// What the pages show.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    token: &'a str,
    /// The lists it is about.
    lists: Vec<&'a str>,
    /// Whether there are further lists to leave.
    has_more: bool,
    /// By what the leaving that can be undone is known.
    undo: Option<i64>,
}

impl<'a> Shown<'a> {
    /// A page about some of a contact's lists.
    pub(super) fn about(
        token: &'a str,
        rows: &'a [SubscriptionRow],
        is_meant: impl Fn(&SubscriptionRow) -> bool,
    ) -> Shown<'a> {
        let lists = rows.iter().filter(|row| is_meant(row)).map(|row| row.name.as_str()).collect();
        let has_more = rows.iter().any(|row| !is_meant(row) && row.status != MembershipStatus::Unsubscribed);
        Shown { token, lists, has_more, undo: None }
    }
}

/// GET: asks, and changes nothing, whoever follows the link (U-01).
pub(super) async fn ask(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match pages.store.subscriptions(copy) {
        Ok(rows) => {
            let shown = Shown::about(&token, &rows, |row| row.of_copy);
            pages.looks.page("unsubscribe", StatusCode::OK, &shown)
        }
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: off the lists this message was sent to; on disk before it is answered with yes (U-03). Never a redirect, and
/// the same answer when it is asked again (U-02).
pub(super) async fn leave(State(pages): State<Pages>, Path(token): Path<String>, body: Bytes) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match depart(&pages, copy, |row| row.of_copy).await {
        Ok(_) if is_one_click(&body) => (StatusCode::OK, "unsubscribed\n").into_response(),
        Ok(at) => farewell(&pages, copy, &token, at),
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: off every list.
pub(super) async fn leave_all(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match depart(&pages, copy, |_| true).await {
        Ok(at) => farewell(&pages, copy, &token, at),
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: back on the lists of this message, and on those left in the same moment, within a day.
pub(super) async fn undo(State(pages): State<Pages>, Path(token): Path<String>, body: Bytes) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    let at = form_urlencoded::parse(&body).find(|(name, _)| name == "at").and_then(|(_, at)| at.parse().ok());
    let now = pages.clock.now();
    let come_back = async {
        let rows = pages.store.subscriptions(copy)?;
        let meant: Vec<ListId> = rows.iter().filter(|row| is_of(row, at)).map(|row| row.list).collect();
        for list in &meant {
            pages.store.rejoin(copy, *list, now - UNDO, now).await?;
        }
        Ok::<_, store::Error>((meant, pages.store.subscriptions(copy)?))
    };
    match come_back.await {
        Ok((meant, rows)) => {
            let is_back =
                |row: &SubscriptionRow| row.status == MembershipStatus::Subscribed && meant.contains(&row.list);
            pages.looks.page("back", StatusCode::OK, &Shown::about(&token, &rows, is_back))
        }
        Err(why) => sorry(&pages, &why),
    }
}

/// Takes the contact off the lists chosen; gives when: asked again, the moment of the first time.
async fn depart(
    pages: &Pages,
    copy: EnvelopeId,
    chosen: impl Fn(&SubscriptionRow) -> bool,
) -> Result<Timestamp, store::Error> {
    let rows = pages.store.subscriptions(copy)?;
    let lists: Vec<ListId> = rows.iter().filter(|row| chosen(row)).map(|row| row.list).collect();
    let is_new = rows.iter().any(|row| chosen(row) && row.status != MembershipStatus::Unsubscribed);
    let first = rows.iter().filter(|row| chosen(row)).map(|row| row.since).max();
    let now = pages.clock.now();
    pages.store.leave(copy, lists, now).await?;
    Ok(first.filter(|_| !is_new).unwrap_or(now))
}

/// Tells what was left at a time, with the way back.
fn farewell(pages: &Pages, copy: EnvelopeId, token: &str, at: Timestamp) -> Response {
    match pages.store.subscriptions(copy) {
        Ok(rows) => {
            let mut shown = Shown::about(token, &rows, |row| is_of(row, Some(at.as_ms())));
            let may_come_back =
                rows.iter().any(|row| is_of(row, Some(at.as_ms())) && row.since >= pages.clock.now() - UNDO);
            shown.undo = may_come_back.then_some(at.as_ms());
            pages.looks.page("left", StatusCode::OK, &shown)
        }
        Err(why) => sorry(pages, &why),
    }
}

/// Whether a list is one that the copy was sent to, or was left at a time.
fn is_of(row: &SubscriptionRow, at: Option<i64>) -> bool {
    row.of_copy || row.status == MembershipStatus::Unsubscribed && at == Some(row.since.as_ms())
}

/// The store failed: nothing was promised, and the sender of a one-click POST will try again.
pub(super) fn sorry(pages: &Pages, why: &store::Error) -> Response {
    tracing::error!(%why, "a subscription could not be changed");
    pages.looks.sorry()
}

pub(super) fn opened(pages: &Pages, token: &str) -> Option<EnvelopeId> {
    pages.seal.open(token, Purpose::Unsubscribe).map(|(copy, _)| copy)
}

fn is_one_click(body: &[u8]) -> bool {
    let has = |word| memchr::memmem::find(body, word).is_some();
    has(ONE_CLICK.0) && has(ONE_CLICK.1)
}
