//! The door of the pages: connections are taken in, counted, and led through TLS where the settings have a certificate. What is
//! slow, large or too much is turned away here, before any page sees it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::base::Network;
use crate::config;
use crate::smtp::{Certificate, CertificateError};

/// How long a client may take for its TLS handshake, and for the head of each request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// The most header fields of a request.
const FIELDS_MAX: usize = 64;
/// How long nothing is taken in when the system has no more files to give.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// Where a request came from: the client's own address, or what a trusted proxy says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub IpAddr);

/// What opens the door, and how far.
pub struct Door {
    certificate: Option<Certificate>,
    proxies: Vec<Network>,
    connections_max: usize,
    per_client_max: usize,
}

/// Why the door stays shut.
#[derive(Debug, thiserror::Error)]
#[error("web.tls_cert: {0}")]
pub struct DoorError(#[from] CertificateError);

impl Door {
    /// The door as the settings have it, their files relative to `workspace`.
    pub fn new(settings: &config::Web, workspace: &Path) -> Result<Door, DoorError> {
        let certificate = match (&settings.tls_cert, &settings.tls_key) {
            (Some(chain), Some(key)) => {
                Some(Certificate::load(workspace.join(chain), workspace.join(key), &[b"http/1.1"])?)
            }
            _ => None,
        };
        let network = |text: &String| Network::parse(text).expect("checked with the settings");
        Ok(Door {
            certificate,
            proxies: settings.trusted_proxies.iter().map(network).collect(),
            connections_max: usize::from(settings.connection_limit),
            per_client_max: usize::from(settings.connections_per_client),
        })
    }

    /// Whether it speaks TLS itself.
    pub fn is_secure(&self) -> bool {
        self.certificate.is_some()
    }

    /// Takes connections in until told to stop; requests under way are answered.
    pub async fn serve(self, listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
        let door = Arc::new(self);
        let inside = Arc::new(Inside::default());
        let mut guests = JoinSet::new();
        guests.spawn({
            let (door, stop) = (door.clone(), stop.clone());
            async move {
                if let Some(certificate) = &door.certificate {
                    certificate.keep(&stop).await;
                }
            }
        });
        loop {
            let arrived = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = guests.join_next() => continue,
                arrived = listener.accept() => arrived,
            };
            let (stream, from) = match arrived {
                Ok(arrived) => arrived,
                Err(why) if is_of_one_connection(&why) => continue,
                Err(why) => {
                    tracing::warn!(%why, "no connection can be taken in now");
                    sleep(OUT_OF_FILES).await;
                    continue;
                }
            };
            let from = from.ip().to_canonical();
            let most = if door.is_proxy(from) { usize::MAX } else { door.per_client_max };
            let Some(seat) = inside.clone().seat(from, door.connections_max, most) else { continue };
            let _ = stream.set_nodelay(true); // answers are one write each
            let (door, router, stop) = (door.clone(), router.clone(), stop.clone());
            guests.spawn(async move {
                door.receive(stream, from, router, stop).await;
                drop(seat);
            });
        }
        drop(listener);
        while guests.join_next().await.is_some() {}
        Ok(())
    }

    async fn receive<S>(&self, stream: S, from: IpAddr, router: Router, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(acceptor) = self.certificate.as_ref().map(Certificate::acceptor) else {
            return self.answer(stream, from, router, stop).await;
        };
        if let Ok(Ok(secured)) = timeout(PATIENCE, acceptor.accept(stream)).await {
            self.answer(secured, from, router, stop).await;
        }
    }

    async fn answer<S>(&self, stream: S, from: IpAddr, router: Router, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            let client = self.client(from, &request);
            request.extensions_mut().insert(client);
            router.clone().oneshot(request)
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD_MAX).max_headers(FIELDS_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // whatever a client does wrong ends its own connection and nothing else
        tokio::select! {
            biased;
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            _ = connection.as_mut() => return,
        }
        let _ = timeout(PATIENCE, connection).await;
    }

    /// The last address of X-Forwarded-For that is no proxy of ours, when one of ours says so.
    fn client<B>(&self, from: IpAddr, request: &Request<B>) -> Client {
        if !self.is_proxy(from) {
            return Client(from);
        }
        let fields = request.headers().get_all("x-forwarded-for").iter().rev();
        let said = fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.rsplit(','));
        let mut said = said.map_while(|address| address.trim().parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
        Client(said.find(|address| !self.is_proxy(*address)).unwrap_or(from))
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.holds(address))
    }
}

/// An error of the connection that was to be taken in, not of the system.
fn is_of_one_connection(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Who is inside.
#[derive(Default)]
struct Inside {
    by_client: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A place inside, free again when dropped.
struct Seat {
    inside: Arc<Inside>,
    client: IpAddr,
}

impl Inside {
    fn seat(self: Arc<Self>, client: IpAddr, most: usize, per_client: usize) -> Option<Seat> {
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = by_client.values().sum();
        let here = by_client.get(&client).copied().unwrap_or(0);
        if all >= most || here >= per_client {
            return None;
        }
        by_client.insert(client, here + 1);
        drop(by_client);
        Some(Seat { inside: self, client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_client = self.inside.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        match by_client.get_mut(&self.client) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(by_client.remove(&self.client)),
        }
    }
}

/// Binds the address of the pages; an error names it.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let told = |why: io::Error| io::Error::new(why.kind(), format!("cannot listen on {address}: {why}"));
    TcpListener::bind(address).await.map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(proxies: &[&str]) -> Door {
        let settings = config::Web {
            trusted_proxies: proxies.iter().map(|&text| text.to_owned()).collect(),
            ..config::Web::default()
        };
        Door::new(&settings, Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn only_a_trusted_proxy_says_who_the_client_is() {
        for (from, said, expected) in [
            ("192.0.2.9", Some("203.0.113.5"), "192.0.2.9"),
            ("10.0.0.1", None, "10.0.0.1"),
            ("10.0.0.1", Some("203.0.113.5"), "203.0.113.5"),
            ("10.0.0.1", Some("198.51.100.1, 203.0.113.5, 10.9.9.9"), "203.0.113.5"),
            ("10.0.0.1", Some("203.0.113.5, nonsense"), "10.0.0.1"),
            ("::1", Some("2001:db8::5"), "2001:db8::5"),
        ] {
            let mut request = Request::new(());
            if let Some(said) = said {
                request.headers_mut().insert("x-forwarded-for", said.parse().unwrap());
            }
            let client = door(&["10.0.0.0/8", "::1"]).client(from.parse().unwrap(), &request);
            assert_eq!(client, Client(expected.parse().unwrap()), "{from} {said:?}");
        }
    }

    #[test]
    fn one_client_never_takes_every_place() {
        let inside = Arc::new(Inside::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let seats: Vec<_> = (0..3).filter_map(|_| inside.clone().seat(one, 4, 2)).collect();
        assert_eq!(seats.len(), 2);
        let others: Vec<_> = (0..3).filter_map(|_| inside.clone().seat(other, 3, 2)).collect();
        assert_eq!(others.len(), 1, "three places are all there are");
        drop(seats);
        assert!(inside.clone().seat(one, 3, 2).is_some());
    }
}
