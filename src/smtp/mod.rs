//! The protocol, both sides. Knows nothing of campaigns or queues.
//!
//! The sending side, from the ground up: [`reply`] and [`extensions`] read what a host says, [`command`] writes what we
//! say, [`dots`] makes a message safe for DATA; [`session`] decides what is said when, without any I/O; [`tls`], [`dane`]
//! and [`auth`] secure a connection; `wire` moves bytes within time limits; [`connection`] carries a session over a stream.
//! The receiving side is [`server`]; `certificate` is what servers of ours show.

pub mod auth;
mod certificate;
pub mod classify;
pub mod command;
pub mod connection;
pub mod dane;
pub mod dots;
pub mod extensions;
pub mod reply;
pub mod server;
pub mod session;
pub mod tls;
mod wire;

use std::io;
use std::time::Duration;

use crate::mail::TlsFlaw;

pub use auth::Login;
pub use certificate::{Certificate, CertificateError};
pub use connection::{Connection, CopySource, Hello, Refused, Security, Speaker, Tap, Timeouts};
pub use dane::Associations;
pub use extensions::Extensions;
pub use session::{Begun, Copy, Ending, Patience, Receipt};
pub use tls::{TlsClient, TlsError, TlsFacts, Verified};

/// What was heard instead of a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer, or no room for our bytes, for so long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The host closed the connection.
    #[error("the host closed the connection")]
    Closed,
    /// The network failed.
    #[error("{0}")]
    Io(String, io::ErrorKind),
    /// What the host sent is no SMTP, or not what may stand there.
    #[error("the host broke the protocol: {0}")]
    Garbled(String),
    /// The handshake failed, or TLS is demanded and not offered.
    #[error("TLS: {1}")]
    Tls(TlsFlaw, String),
    /// Something of our own is missing or unfit for this host: the login, or the name we greet with.
    #[error("{0}")]
    Credentials(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Error::Closed,
            kind => Error::Io(error.to_string(), kind),
        }
    }
}
