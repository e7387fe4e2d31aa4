//! Leaving: the page behind the unsubscribe link, the one-click POST of mail programs (RFC 8058), and the way back.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::base::{EnvelopeId, ListId, Purpose};
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
    /// The lists the message was sent to and that still stand as they should.
    lists: Vec<String>,
    /// Whether there are further lists to leave.
    has_more: bool,
    /// Whether it can be undone.
    undo: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(token: &'a str, rows: &[SubscriptionRow]) -> Shown<'a> {
        let lists = rows.iter().filter(|row| row.of_copy).map(|row| row.name.clone()).collect();
        let subscribed = |row: &&SubscriptionRow| row.status != MembershipStatus::Unsubscribed;
        let has_more = rows.iter().filter(|row| !row.of_copy).any(|row| subscribed(&row));
        Shown { token, lists, has_more, undo: false }
    }
}

/// GET: asks, and changes nothing, whoever follows the link (U-01).
pub(super) async fn ask(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    match pages.store.subscriptions(copy) {
        Ok(rows) => pages.looks.page("unsubscribe", StatusCode::OK, &Shown::new(&token, &rows)),
        Err(why) => sorry(&pages, &why),
    }
}

/// POST: off the lists this message was sent to; on disk before it is answered with yes (U-03). Never a redirect, and
/// the same answer when it is asked again (U-02).
pub(super) async fn leave(State(pages): State<Pages>, Path(token): Path<String>, body: Bytes) -> Response {
    let left = depart(&pages, &token, |row| row.of_copy).await;
    match left {
        Ok(Some(_)) if is_one_click(&body) => (StatusCode::OK, "unsubscribed\n").into_response(),
        other => farewell(pages, &token, other).await,
    }
}

/// POST: off every list.
pub(super) async fn leave_all(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let left = depart(&pages, &token, |_| true).await;
    farewell(pages, &token, left).await
}

/// POST: back on the lists of this message, when they were left within a day.
pub(super) async fn undo(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let Some(copy) = opened(&pages, &token) else { return looks::not_found(State(pages)).await };
    let now = pages.clock.now();
    let come_back = async {
        for row in pages.store.subscriptions(copy)?.iter().filter(|row| row.of_copy) {
            pages.store.rejoin(copy, row.list, now - UNDO, now).await?;
        }
        let rows = pages.store.subscriptions(copy)?;
        Ok::<_, store::Error>(rows.into_iter().filter(|row| row.status == MembershipStatus::Subscribed).collect())
    };
    match come_back.await {
        Ok(rows) => {
            let rows: Vec<SubscriptionRow> = rows;
            pages.looks.page("back", StatusCode::OK, &Shown::new(&token, &rows))
        }
        Err(why) => sorry(&pages, &why),
    }
}

/// Takes the contact off the lists chosen; `None` when the token is none of ours.
async fn depart(
    pages: &Pages,
    token: &str,
    chosen: impl Fn(&SubscriptionRow) -> bool,
) -> Result<Option<Vec<SubscriptionRow>>, store::Error> {
    let Some(copy) = opened(pages, token) else { return Ok(None) };
    let rows = pages.store.subscriptions(copy)?;
    let lists: Vec<ListId> = rows.iter().filter(|row| chosen(row)).map(|row| row.list).collect();
    pages.store.leave(copy, lists, pages.clock.now()).await?;
    Ok(Some(pages.store.subscriptions(copy)?))
}

async fn farewell(pages: Pages, token: &str, left: Result<Option<Vec<SubscriptionRow>>, store::Error>) -> Response {
    match left {
        Ok(Some(rows)) => {
            let since = pages.clock.now() - UNDO;
            let undo = rows.iter().any(|row| row.of_copy && row.since >= since);
            pages.looks.page("left", StatusCode::OK, &Shown { undo, ..Shown::new(token, &rows) })
        }
        Ok(None) => looks::not_found(State(pages)).await,
        Err(why) => sorry(&pages, &why),
    }
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
