//! A copy shown in a browser: printed anew from what was frozen, without any tracking.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use crate::base::{EnvelopeId, Purpose};
use crate::store;
use crate::web::{Pages, looks};

/// A message may bring its styles and load its pictures. It runs nothing, sends nothing and stands in no frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src https: http: data:; form-action 'none'; \
     frame-ancestors 'none'; base-uri 'none'; sandbox allow-popups allow-popups-to-escape-sandbox \
     allow-top-navigation-by-user-activation";

/// GET: the message as its reader got it, with what is on record of them now.
pub(super) async fn show(State(pages): State<Pages>, Path(token): Path<String>) -> Response {
    let copy = pages.seal.open(&token, Purpose::View).map(|(copy, _)| copy);
    match copy.map(|copy| print(&pages, copy)).transpose() {
        Ok(Some(Some(html))) => {
            let policy = (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            ([policy], Html(html)).into_response()
        }
        Ok(_) => looks::not_found(State(pages)).await,
        Err(why) => {
            tracing::error!(%why, "a message could not be shown");
            pages.looks.sorry()
        }
    }
}

/// The HTML of a copy; `None` when the launch or the contact is gone, or the copy cannot be printed any more.
fn print(pages: &Pages, copy: EnvelopeId) -> Result<Option<String>, store::Error> {
    let Some(content) = pages.editions.of(&pages.store, copy.launch())? else { return Ok(None) };
    let Some(template) = &content.template else { return Ok(None) };
    let Some(recipient) = pages.store.recipient(copy.contact())? else { return Ok(None) };
    let urls = template.plain_urls(copy, &pages.seal);
    let words = template.words(&recipient, &urls).ok();
    Ok(words.map(|words| content.edition.with_pictures(words.html)))
}
