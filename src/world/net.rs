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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_the_source_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let from = IpAddr::from([127, 0, 0, 9]);
        let host = async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            stream.write_all(b"220 hi").await.unwrap();
            peer.ip()
        };
        let (dialled, peer) = futures_util::join!(Sockets.dial(Some(from), to), host);
        assert_eq!(peer, from);
        let mut heard = [0; 6];
        dialled.unwrap().read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"220 hi");
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_told_apart() {
        // 192.0.2.0/24 is reserved for documentation: no machine has such an address.
        let gone = Sockets.dial(Some([192, 0, 2, 77].into()), "127.0.0.1:9".parse().unwrap()).await;
        assert_eq!(gone.err().unwrap().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
