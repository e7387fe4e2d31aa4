//! A mail host that writes down every octet it is sent, and whose refusals are as hostile as the contacts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Recipients with this in their address are refused, in the words below.
pub const REFUSED: &str = "refused";
/// What a refused recipient is answered: a formula, markup, and orders to a terminal in both alphabets.
const REFUSAL: &[u8] = b"550-5.1.1 =cmd|'/C calc'!A0 <script>alert(1)</script>\r\n\
    550 5.1.1 \x1b[2J\x1b]0;owned\x07 \xc2\x9b31m fake\rnext: touch owned\r\n";

/// How a host wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// DATA, in groups of commands.
    Data,
    /// BDAT, one command at a time.
    Chunks,
}

/// One message as it came.
#[derive(Debug, Clone)]
pub struct Taken {
    pub way: Way,
    pub from: String,
    pub to: String,
    /// Its octets on the wire: behind the 354 up to the dot that ends it, or those of its chunk.
    pub wire: Vec<u8>,
}

impl Taken {
    /// The message itself: without the dots that were put before dots.
    pub fn message(&self) -> Vec<u8> {
        let unstuffed = |line: &[u8]| line.strip_prefix(b".").unwrap_or(line).to_vec();
        match self.way {
            Way::Data => self.wire.split_inclusive(|octet| *octet == b'\n').flat_map(unstuffed).collect(),
            Way::Chunks => self.wire.clone(),
        }
    }
}

/// What a host was told.
#[derive(Debug, Default)]
pub struct Books {
    /// Every command line, without its line end.
    pub commands: Vec<String>,
    pub taken: Vec<Taken>,
    /// What was no SMTP; nothing may be here.
    pub complaints: Vec<String>,
}

/// A host at work.
pub struct Host {
    pub address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

impl Host {
    pub fn open(way: Way) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = Host { address: listener.local_addr().unwrap(), books: Arc::default() };
        let books = host.books.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, books) = (stream.unwrap(), books.clone());
                std::thread::spawn(move || {
                    if let Err(why) = (Session { way, from: String::new(), to: None, books: &books }).hold(stream) {
                        books.lock().unwrap().complaints.push(why);
                    }
                });
            }
        });
        host
    }

    pub fn via(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Everything it was told; it must have been SMTP.
    pub fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        let books = self.books.lock().unwrap();
        assert!(books.complaints.is_empty(), "{:?}", books.complaints);
        books
    }
}

struct Session<'b> {
    way: Way,
    from: String,
    /// The recipient, once it is taken.
    to: Option<String>,
    books: &'b Mutex<Books>,
}

impl Session<'_> {
    fn hold(&mut self, stream: TcpStream) -> Result<(), String> {
        let mut answers = stream.try_clone().map_err(|why| why.to_string())?;
        let mut octets = BufReader::new(stream);
        answers.write_all(b"220 host.example ESMTP\r\n").map_err(|why| why.to_string())?;
        loop {
            let mut line = Vec::new();
            match octets.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
            let line = command(&line)?;
            self.books.lock().unwrap().commands.push(line.clone());
            let answer = self.answer(&line, &mut octets, &mut answers)?;
            if answers.write_all(&answer).is_err() || line == "QUIT" {
                return Ok(());
            }
        }
    }

    fn answer(
        &mut self,
        line: &str,
        octets: &mut BufReader<TcpStream>,
        answers: &mut TcpStream,
    ) -> Result<Vec<u8>, String> {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        Ok(match verb {
            "EHLO" if self.way == Way::Data => b"250-host.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n".to_vec(),
            "EHLO" => b"250-host.example\r\n250-CHUNKING\r\n250 8BITMIME\r\n".to_vec(),
            "MAIL" => {
                self.from = path(line)?;
                b"250 ok\r\n".to_vec()
            }
            "RCPT" => {
                let to = path(line)?;
                let is_refused = to.contains(REFUSED);
                self.to = (!is_refused).then_some(to);
                if is_refused { REFUSAL.to_vec() } else { b"250 ok\r\n".to_vec() }
            }
            "DATA" if self.to.is_none() => b"554 nobody\r\n".to_vec(),
            "DATA" => {
                answers.write_all(b"354 go\r\n").map_err(|why| why.to_string())?;
                let wire = content(octets)?;
                self.keep(wire);
                b"250 taken\r\n".to_vec()
            }
            "BDAT" => {
                let size = line.split(' ').nth(1).and_then(|size| size.parse().ok()).ok_or("BDAT without a size")?;
                let mut wire = vec![0; size];
                octets.read_exact(&mut wire).map_err(|why| why.to_string())?;
                match self.to.is_some() {
                    true => {
                        self.keep(wire);
                        b"250 taken\r\n".to_vec()
                    }
                    false => b"503 nobody\r\n".to_vec(),
                }
            }
            "QUIT" => b"221 bye\r\n".to_vec(),
            "RSET" | "NOOP" => b"250 ok\r\n".to_vec(),
            _ => return Err(format!("`{line}` is no command")),
        })
    }

    fn keep(&mut self, wire: Vec<u8>) {
        let to = self.to.take().expect("asked before");
        self.books.lock().unwrap().taken.push(Taken { way: self.way, from: self.from.clone(), to, wire });
    }
}

/// A line without its CR LF; nothing else may stand in it that is no printable ASCII.
fn command(line: &[u8]) -> Result<String, String> {
    let text = line.strip_suffix(b"\r\n").ok_or_else(|| format!("`{}` does not end in CR LF", line.escape_ascii()))?;
    match text.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        true => Ok(String::from_utf8_lossy(text).into_owned()),
        false => Err(format!("`{}` is no command line", line.escape_ascii())),
    }
}

/// What stands in the brackets of MAIL or RCPT.
fn path(line: &str) -> Result<String, String> {
    let inside = line.split_once(":<").and_then(|(_, rest)| rest.rsplit_once('>')).map(|(path, _)| path.to_owned());
    inside.ok_or_else(|| format!("`{line}` names no path"))
}

/// The octets up to the line of one dot.
fn content(octets: &mut BufReader<TcpStream>) -> Result<Vec<u8>, String> {
    let mut wire = Vec::new();
    loop {
        let begin = wire.len();
        if octets.read_until(b'\n', &mut wire).map_err(|why| why.to_string())? == 0 {
            return Err("the message has no end".to_owned());
        }
        let is_line = begin == 0 || wire[..begin].ends_with(b"\r\n");
        if is_line && &wire[begin..] == b".\r\n" {
            wire.truncate(begin);
            return Ok(wire);
        }
    }
}
