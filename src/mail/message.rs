//! A finished message: bytes in memory, never on disk.

use crate::base::EnvelopeId;

/// One printed copy, ready for the wire: CRLF line ends, no bare CR, LF or NUL, not dot-stuffed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The copy it was printed for.
    pub id: EnvelopeId,
    /// Header block, empty line and body.
    pub bytes: Vec<u8>,
}

impl Message {
    /// The raw value of the first header field called `name` (case ignored), unfolded; `None` when absent.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(self.head());
        let mut lines = text.split("\r\n").peekable();
        while let Some(line) = lines.next() {
            let Some((field, value)) = line.split_once(':') else { continue };
            let mut whole = value.trim().to_owned();
            while let Some(more) = lines.next_if(|next| next.starts_with([' ', '\t'])) {
                whole.push(' ');
                whole.push_str(more.trim());
            }
            if field.eq_ignore_ascii_case(name) {
                return Some(whole);
            }
        }
        None
    }

    /// The header block without the empty line.
    fn head(&self) -> &[u8] {
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n").unwrap_or(self.bytes.len());
        &self.bytes[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_unfolded_and_never_in_the_body() {
        let bytes = b"From: a@example.com\r\nSubject: one\r\n two\r\nsubject: second\r\n\r\nTo: body\r\n".to_vec();
        let message = Message { id: EnvelopeId::from_u64(1), bytes };
        assert_eq!(message.header("SUBJECT").as_deref(), Some("one two"));
        assert_eq!(message.header("To"), None);
    }
}
