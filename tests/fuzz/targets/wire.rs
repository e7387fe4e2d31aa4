//! What hosts say to us, and what clients say to our listener.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mailshot::base::{Address, EnvelopeId};
use mailshot::mail::{Message, Stage};
use mailshot::smtp::reply::{Reader, excerpt};
use mailshot::smtp::server::{Answer, Event, Offer, Protocol, Server};
use mailshot::smtp::{
    Begun, Connection, Copy, CopySource, Extensions, Hello, Patience, Receipt, Security, Timeouts, TlsClient, classify,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::in_time;

/// A reply reads the same whatever pieces it comes in, and means something at every stage.
pub fn reply(data: &[u8]) {
    let whole = Reader::default().read(data);
    let mut reader = Reader::default();
    let byte_by_byte = (1..=data.len()).map(|end| reader.read(&data[..end])).find(|read| !matches!(read, Ok(None)));
    let Ok(Some(found)) = whole else {
        assert!(
            !matches!(byte_by_byte, Some(Ok(_))) || whole.is_err(),
            "whole: {whole:?}, in pieces: {byte_by_byte:?}"
        );
        return;
    };
    let again = byte_by_byte.expect("it is whole by the end").expect("the same bytes").expect("a reply");
    assert_eq!((found.of(data).code(), found.octets), (again.of(data).code(), again.octets));
    let heard = found.of(data);
    let reply = heard.to_reply();
    assert!((200..=599).contains(&reply.code), "{}", reply.code);
    assert!(!reply.text.contains(['\r', '\n', '\0']) || reply.text.len() < 4096, "{:?}", reply.text);
    let _ = Extensions::of(&heard);
    let _ = excerpt(data);
    for stage in [Stage::Greet, Stage::Secure, Stage::From, Stage::To, Stage::Data, Stage::Body] {
        let _ = classify::reply(&reply, stage, Some("google"));
    }
}

/// The host of a session: says a piece of its script after each thing it is told.
struct Host {
    script: VecDeque<Vec<u8>>,
    /// How many pieces may be said.
    due: usize,
    heard: Vec<u8>,
    intended: Arc<Mutex<BTreeSet<u64>>>,
    waker: Option<Waker>,
}

impl AsyncRead for Host {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.due == 0 && !self.script.is_empty() {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(mut piece) = self.script.pop_front() else { return Poll::Ready(Ok(())) };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        match rest.is_empty() {
            true => self.due -= 1,
            false => self.script.push_front(rest),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Host {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let seen = self.heard.len().saturating_sub(64);
        self.heard.extend_from_slice(bytes);
        let heard = String::from_utf8_lossy(&self.heard[seen..]).into_owned();
        for at in heard.match_indices("copy-").map(|(at, _)| at) {
            if let Some((number, _)) = heard[at + 5..].split_once("\r\n")
                && let Ok(number) = number.parse()
            {
                assert!(self.intended.lock().unwrap().contains(&number), "{number} is out without an intent");
            }
        }
        self.due += 1;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Copies without end, each of which must be told its end exactly once.
#[derive(Default)]
struct Copies {
    given: u64,
    open: BTreeSet<u64>,
    intended: Arc<Mutex<BTreeSet<u64>>>,
}

impl CopySource for Copies {
    async fn next(&mut self, _: Patience) -> Option<Copy> {
        self.given += 1;
        let id = EnvelopeId::from_u64(self.given);
        self.open.insert(self.given);
        let message = Message { id, bytes: format!("Subject: x\r\n\r\ncopy-{}\r\n", self.given).into_bytes() };
        let to = Address::parse("a@example.org").unwrap();
        Some(Copy { id, return_path: "b@example.com".into(), to, message, early: true })
    }

    async fn intend(&mut self, id: EnvelopeId, begun: Begun) -> bool {
        // every fifth is denied, as when the disk fails
        let may = !id.to_u64().is_multiple_of(5);
        if may {
            self.intended.lock().unwrap().insert(id.to_u64());
        } else if begun == Begun::No {
            self.open.remove(&id.to_u64());
        }
        may
    }

    fn done(&mut self, id: EnvelopeId, receipt: Receipt) {
        assert!(self.open.remove(&id.to_u64()), "{id} ends twice");
        if receipt.stage == Stage::Body {
            assert!(self.intended.lock().unwrap().contains(&id.to_u64()), "{id} at its end without an intent");
        }
    }
}

/// Whatever a host says, and whenever it hangs up: each copy has one end, and no final dot goes out without an intent.
pub fn session(data: &[u8]) {
    static TLS: std::sync::LazyLock<TlsClient> = std::sync::LazyLock::new(|| TlsClient::new(None).unwrap());
    let mut copies = Copies::default();
    let script = data.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let intended = copies.intended.clone();
    let host = Host { script, due: 1, heard: Vec::new(), intended, waker: None };
    let hello = Hello {
        ehlo_name: "mail.example.com".into(),
        host: "mx.example.org".into(),
        security: Security::Clear,
        trial: false,
        chunking: true,
        login: None,
        timeouts: Timeouts::default(),
        tap: None,
    };
    in_time(async {
        let Ok(mut connection) = Connection::open(Box::new(host), &hello, &TLS).await else { return };
        connection.drive(&mut copies, 50).await;
        connection.quit().await;
    });
    assert!(copies.open.is_empty(), "without an end: {:?}", copies.open);
}

/// Whatever a client says, in whatever pieces: replies are lines, and no message ends but where the RFC lets it end.
pub fn server(data: &[u8]) {
    let [mode, piece, said @ ..] = data else { return };
    let mut offer = Offer::new("mx.example.com");
    offer.size_max = 4096;
    offer.protocol = if mode & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let protocol = offer.protocol;
    let mut server = Server::new(Arc::new(offer));
    let (mut messages, mut output) = (0, Vec::new());
    let mut chunks = said.chunks(usize::from(*piece).max(1));
    'talk: loop {
        while let Some(event) = server.event() {
            let answer = if mode & 2 != 0 && matches!(event, Event::To(_)) {
                Answer::Say("450 4.2.0 later")
            } else {
                Answer::Take
            };
            match event {
                Event::Closed => break 'talk,
                Event::StartTls => server.secured(),
                Event::Message(body) => {
                    messages += 1;
                    assert!(body.len() <= 4096, "{} octets", body.len());
                    let answers = if protocol == Protocol::Lmtp { server.recipients().len() } else { 1 };
                    (0..answers).for_each(|_| server.answer(Answer::Take));
                }
                Event::Opened | Event::Hello(_) | Event::From(_) | Event::To(_) | Event::Data => server.answer(answer),
            }
            output.append(server.output());
        }
        output.append(server.output());
        match chunks.next() {
            Some(chunk) => server.room().extend_from_slice(chunk),
            None => break,
        }
    }
    output.append(server.output());
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
    let text = String::from_utf8_lossy(&output).into_owned();
    assert!(text.split("\r\n").all(|line| !line.contains(['\r', '\n', '\0']) && line.len() <= 512), "{text:?}");
    let count = |word: &[u8]| said.windows(word.len()).filter(|part| part.eq_ignore_ascii_case(word)).count();
    assert!(messages <= count(b"\r\n.\r\n") + count(b"bdat"), "{messages} messages");
}
