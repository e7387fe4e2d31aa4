//! The public pages: what stands behind the links of a message. They need the store and the seal keys, nothing of the
//! sender, so they stay up while it is down (U-05). Only POST changes anything: whatever follows links by itself may
//! follow these (U-01).

mod looks;
mod subscriptions;
mod track;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use looks::{Looks, LooksError};
pub use track::Tracker;

use crate::base::Seal;
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
}

/// The pages as routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/u/{token}", get(subscriptions::ask).post(subscriptions::leave))
        .route("/u/{token}/all", axum::routing::post(subscriptions::leave_all))
        .route("/u/{token}/undo", axum::routing::post(subscriptions::undo))
        .route("/c/{token}", get(track::click))
        .route("/o/{token}", get(track::open))
        .route("/style.css", get(looks::style))
        .fallback(looks::not_found)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(axum::middleware::from_fn(within_time))
        .layer(axum::middleware::map_response(looks::guard))
        .with_state(pages)
}

/// Binds the address of the pages; an error names it.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let told = |why: io::Error| io::Error::new(why.kind(), format!("cannot listen on {address}: {why}"));
    TcpListener::bind(address).await.map_err(told)
}

/// Serves the pages on a listener until told to stop; requests under way are answered.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(pages)).with_graceful_shutdown(stop.cancelled_owned()).await
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
