//! The one HTTP client: policies, webhooks and tokens are fetched with it. It goes over [`Net`] and [`Dns`], so that the
//! simulated world serves it as well; never follows a redirect, never reads more than it was told to, and never lets a
//! name lead it to an inward address (H-09): the address that was looked at is the address that is dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{Dns, Net, Stream, World, is_inward};
use crate::base::Domain;

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 3;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Not an address of the form `https://HOST[:PORT]/PATH`.
    #[error("`{0}` is no https address")]
    Address(String),
    /// The host has no address, or only ones that must not be dialled.
    #[error("{0} has no address that may be dialled")]
    NoAddress(Domain),
    /// No connection, no handshake, or a broken answer.
    #[error("{host} did not answer: {why}")]
    Failed {
        /// The host.
        host: Domain,
        /// What went wrong.
        why: String,
    },
    /// The host has not proved its name.
    #[error("{host} has not proved its name: {why}")]
    Untrusted {
        /// The host.
        host: Domain,
        /// What is wrong with its certificate.
        why: String,
    },
    /// More than was allowed.
    #[error("{host} sent more than {most} bytes")]
    TooLong {
        /// The host.
        host: Domain,
        /// The limit.
        most: usize,
    },
    /// It took too long.
    #[error("{host} took longer than {limit:?}")]
    TimedOut {
        /// The host.
        host: Domain,
        /// The limit.
        limit: Duration,
    },
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status code; a redirect is one like any other.
    pub status: u16,
    /// The media type, without parameters, in lower case; empty when none is given.
    pub media_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// The client. Cheap to clone; a connection serves one request.
#[derive(Clone)]
pub struct Http {
    net: Arc<dyn Net>,
    dns: Arc<dyn Dns>,
    tls: Arc<ClientConfig>,
    allow_inward: bool,
}

impl Http {
    /// A client in `world` that trusts whom `tls` trusts. Loopback and private addresses are refused unless
    /// `allow_inward`.
    pub fn new(world: &World, tls: Arc<ClientConfig>, allow_inward: bool) -> Http {
        Http { net: world.net.clone(), dns: world.dns.clone(), tls, allow_inward }
    }

    /// Gets `address`, all within `limit` and with a body of at most `most` bytes.
    pub async fn get(&self, address: &str, most: usize, limit: Duration) -> Result<HttpReply, HttpError> {
        self.ask(Method::GET, address, &[], Vec::new(), most, limit).await
    }

    /// Posts `body` with these headers to `address`, within the same bounds.
    pub async fn post(
        &self,
        address: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        most: usize,
        limit: Duration,
    ) -> Result<HttpReply, HttpError> {
        self.ask(Method::POST, address, headers, body, most, limit).await
    }

    async fn ask(
        &self,
        method: Method,
        address: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        most: usize,
        limit: Duration,
    ) -> Result<HttpReply, HttpError> {
        let target = Target::parse(address).ok_or_else(|| HttpError::Address(address.to_owned()))?;
        let mut request = Request::builder().method(method).uri(&target.path).header(HOST, &target.authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|why| HttpError::Failed { host: target.host.clone(), why: why.to_string() })?;
        let host = target.host.clone();
        tokio::time::timeout(limit, self.exchange(&target, request, most))
            .await
            .unwrap_or(Err(HttpError::TimedOut { host, limit }))
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<HttpReply, HttpError> {
        let failed = |why: String| HttpError::Failed { host: target.host.clone(), why };
        let stream = self.connect(target).await?;
        let name = ServerName::try_from(target.host.as_str().to_owned()).map_err(|why| failed(why.to_string()))?;
        let secure = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let secure = secure.map_err(|why| match is_untrusted(&why) {
            true => HttpError::Untrusted { host: target.host.clone(), why: why.to_string() },
            false => failed(why.to_string()),
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(secure)).await;
        let (mut sender, connection) = handshake.map_err(|why| failed(why.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|why| failed(why.to_string()))?;
            let status = response.status();
            let media_type = media_type(response.headers());
            let body = Limited::new(response.into_body(), most).collect().await;
            let body = body.map_err(|why| match why.is::<http_body_util::LengthLimitError>() {
                true => HttpError::TooLong { host: target.host.clone(), most },
                false => failed(why.to_string()),
            })?;
            Ok(HttpReply { status: StatusCode::as_u16(&status), media_type, body: body.to_bytes().to_vec() })
        };
        tokio::pin!(connection);
        tokio::pin!(answer);
        // The connection is driven only as long as its one answer is awaited.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // A host may hang up as soon as it has said all; what it said is still to be read.
            _ = &mut connection => answer.await,
        }
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, HttpError> {
        let found = self.dns.addresses(&target.host, true).await;
        let found = found.map_err(|why| HttpError::Failed { host: target.host.clone(), why: why.to_string() })?;
        let fit = found.records.into_iter().filter(|address| self.allow_inward || !is_inward(*address));
        let mut last = HttpError::NoAddress(target.host.clone());
        for address in fit.take(ADDRESSES_MAX) {
            match self.net.dial(None, SocketAddr::new(address, target.port)).await {
                Ok(stream) => return Ok(stream),
                Err(why) => last = HttpError::Failed { host: target.host.clone(), why: why.to_string() },
            }
        }
        Err(last)
    }
}

fn is_untrusted(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// An https address taken apart. A host given as a number is refused: whoever names one means to go around names.
struct Target {
    host: Domain,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(address: &str) -> Option<Target> {
        let uri: Uri = address.parse().ok()?;
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("https") && !authority.as_str().contains('@');
        let host = Domain::parse(authority.host()).ok().filter(|host| !ends_in_number(host))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let target = Target { host, port: authority.port_u16().unwrap_or(443), authority: authority.to_string(), path };
        plain.then_some(target)
    }
}

/// Whether a name reads as an IPv4 address in any of its spellings (WHATWG URL, "ends in a number").
fn ends_in_number(host: &Domain) -> bool {
    let last = host.as_str().rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x")
}

fn media_type(headers: &hyper::HeaderMap) -> String {
    let value = headers.get(hyper::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
