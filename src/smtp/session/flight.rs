//! What a session writes at once: commands, a message, commands.

use crate::smtp::command::Command;
use crate::smtp::dots::{Body, Stuffing};

/// What goes out in one write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flight {
    /// Command lines before the message: only with BDAT.
    pub(super) head: Vec<u8>,
    body: Option<Body>,
    pub(super) lines: Vec<u8>,
    /// Octets up to and including the end of the message: the final dot's own line, or the chunk's last octet.
    pub(super) end: usize,
}

impl Flight {
    /// The command lines before the message, the message, when there is one, in its pieces, and all lines behind it.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let stuffing = self.stuffing();
        let message = self.body.iter().flat_map(move |body| body.pieces(stuffing));
        std::iter::once(self.head.as_slice()).chain(message).chain(std::iter::once(self.lines.as_slice()))
    }

    /// The command lines before the message, for a trace.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The command lines behind the message, or where there is none, for a trace.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Octets of the message as it goes out.
    pub fn message(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.length(self.stuffing()))
    }

    /// Octets of all pieces.
    pub fn octets(&self) -> usize {
        self.head.len() + self.message() + self.lines.len()
    }

    fn stuffing(&self) -> Stuffing {
        if self.head.is_empty() { Stuffing::Dots } else { Stuffing::None }
    }

    /// The message, ended by its dot.
    pub(super) fn end_body(&mut self, body: Body) {
        self.lines.extend_from_slice(body.terminator());
        self.end = body.length(Stuffing::Dots) + self.lines.len();
        self.body = Some(body);
    }

    /// The message as one chunk behind what stands in the head.
    pub(super) fn put_chunk(&mut self, body: Body) {
        Command::Bdat(body.octets()).write(&mut self.head);
        self.lines.extend_from_slice(body.line_end());
        self.end = self.head.len() + body.octets();
        self.body = Some(body);
    }

    pub(super) fn clear(&mut self) {
        self.head.clear();
        self.body = None;
        self.lines.clear();
        self.end = 0;
    }
}
