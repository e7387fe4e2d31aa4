//! The public pages: what stands behind the links of a message. They need the store and the seal keys, nothing of the
//! sender, so they stay up while it is down (U-05). Only POST changes anything: whatever follows links by itself may
//! follow these (U-01).

mod door;
mod editions;
mod looks;
mod preferences;
mod signup;
mod subscriptions;
mod track;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

pub use door::{Client, Door, DoorError, bind};
pub use editions::Editions;
pub use looks::{Looks, LooksError};
pub use signup::{Ring, SignupError, Signups};
pub use track::Tracker;

use crate::base::Seal;
use crate::compose::ConsentRule;
use crate::store::Store;
use crate::world::Clock;

/// Largest body of a request, in bytes: a one-click POST has 26, in a multipart form about 200.
const BODY_MAX: usize = 16 * 1024;
/// Longest time one request may take, its body included.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// What the pages stand on.
#[derive(Clone)]
pub struct Pages {
    /// The record of people.
    pub store: Store,
    /// Opens the tokens of the links.
    pub seal: Seal,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// How they look.
    pub looks: Arc<Looks>,
    /// Notes what readers do with their copies.
    pub tracker: Tracker,
    /// What was sent.
    pub editions: Editions,
    /// What holds for those who said nothing about being tracked.
    pub consent_rule: ConsentRule,
    /// The lists that people may join.
    pub signups: Option<Arc<Signups>>,
}

/// The pages as routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/u/{token}", get(subscriptions::ask).post(subscriptions::leave))
        .route("/u/{token}/all", post(subscriptions::leave_all))
        .route("/u/{token}/undo", post(subscriptions::undo))
        .route("/p/{token}", get(preferences::show).post(preferences::save))
        .route("/p/{token}/pause", post(preferences::pause))
        .route("/p/{token}/resume", post(preferences::resume))
        .route("/v/{token}", get(view::show))
        .route("/s/{list}", get(signup::form).post(signup::ask))
        .route("/confirm/{token}", get(signup::question).post(signup::confirm))
        .route("/c/{token}", get(track::click))
        .route("/o/{token}", get(track::open))
        .route("/style.css", get(looks::style))
        .fallback(looks::not_found)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(axum::middleware::from_fn(within_time))
        .layer(axum::middleware::map_response(looks::guard))
        .with_state(pages)
}

/// Ends a request that takes too long: slow clients must not pile up.
async fn within_time(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => axum::response::IntoResponse::into_response(axum::http::StatusCode::REQUEST_TIMEOUT),
    }
}

#[cfg(test)]
mod tests;
