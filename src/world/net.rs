//! Outgoing TCP connections from a chosen source address. Sets no time limit: the caller knows the phase.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpSocket;

use super::{Net, Stream};

/// The machine's sockets.
pub(super) struct Sockets;

impl Net for Sockets {
    fn dial(&self, from: Option<IpAddr>, to: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(from) = from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            let stream = socket.connect(to).await?;
            // A flight of commands is one write: Nagle's wait for more would only delay its last segment.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }
}
