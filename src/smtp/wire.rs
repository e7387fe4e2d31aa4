//! Bytes in and out, each with its time limit: a flight in one write where the network takes it, replies into one
//! buffer that is used again.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Error;
use super::reply::{Found, Heard, Reader};
use crate::world::Stream;

/// Room for a handful of replies.
const INBOX: usize = 2048;
/// Pieces given to one system call.
const PIECES_MAX: usize = 32;

/// A stream, and what has come in on it.
pub(super) struct Wire {
    pub(super) stream: Box<dyn Stream>,
    inbox: BytesMut,
    reader: Reader,
    /// Octets of the reply at the front of the inbox; it stays there until the next is looked for.
    heard: usize,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Wire {
        Wire { stream, inbox: BytesMut::with_capacity(INBOX), reader: Reader::default(), heard: 0 }
    }

    /// Reads until a whole reply is there; `limit` is for all of it.
    pub(super) async fn hear(&mut self, limit: Duration) -> Result<Heard<'_>, Error> {
        self.forget();
        let found = match self.reader.read(&self.inbox)? {
            Some(found) => found,
            None => within(limit, self.fill_for_a_reply()).await?,
        };
        self.heard = found.octets;
        Ok(found.of(&self.inbox))
    }

    async fn fill_for_a_reply(&mut self) -> Result<Found, Error> {
        loop {
            self.fill().await?;
            if let Some(found) = self.reader.read(&self.inbox)? {
                return Ok(found);
            }
        }
    }

    /// Waits until something comes in, or the connection ends. Cancel-safe.
    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    /// Whether something came in that no command has asked for yet.
    pub(super) fn has_more(&mut self) -> bool {
        self.forget();
        !self.inbox.is_empty()
    }

    fn forget(&mut self) {
        self.inbox.advance(std::mem::take(&mut self.heard));
    }

    /// Writes and flushes all pieces; `limit` is for the network to take some of them, not all. On failure, also how many
    /// octets it took.
    pub(super) async fn say<'p, P>(&mut self, pieces: impl Fn() -> P, limit: Duration) -> Result<(), (usize, Error)>
    where
        P: Iterator<Item = &'p [u8]>,
    {
        let mut written = 0;
        loop {
            let mut room = [IoSlice::new(&[]); PIECES_MAX];
            let filled = slices(pieces(), written, &mut room);
            if filled == 0 {
                break;
            }
            let taken = within(limit, self.write(&room[..filled])).await.map_err(|error| (written, error))?;
            written += taken;
        }
        within(limit, async { Ok(self.stream.flush().await?) }).await.map_err(|error| (written, error))
    }

    async fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Error> {
        match self.stream.write_vectored(pieces).await? {
            0 => Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            taken => Ok(taken),
        }
    }

    /// The stream alone, for a handshake; `None` when something came in that would be lost with it.
    pub(super) fn into_stream(mut self) -> Option<Box<dyn Stream>> {
        (!self.has_more()).then_some(self.stream)
    }
}

/// What of the pieces stands behind the first `written` octets, as far as there is room for it.
fn slices<'p, 's>(pieces: impl Iterator<Item = &'p [u8]>, mut written: usize, room: &'s mut [IoSlice<'p>]) -> usize {
    let mut filled = 0;
    for piece in pieces {
        let done = written.min(piece.len());
        written -= done;
        if done == piece.len() {
            continue;
        }
        let Some(slot) = room.get_mut(filled) else { break };
        *slot = IoSlice::new(&piece[done..]);
        filled += 1;
    }
    filled
}

pub(super) async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, what).await.unwrap_or(Err(Error::TimedOut(limit)))
}
