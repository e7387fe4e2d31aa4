//! The receiving side of the protocol (RFC 5321, LMTP by RFC 2033) as a machine without I/O: octets in, replies and
//! questions out. It owns order, grammar and limits; whether a recipient or a message is taken is asked of whoever
//! drives it. It never relays, never stores, and never lets two readings of one input be possible.

mod intake;
mod offer;
mod parameters;
mod request;

use std::sync::Arc;

use self::intake::{Flaw, find_end, flaw, without_dots};
pub use self::offer::{Extension, Offer, Protocol};
use self::parameters::check_utf8;
use self::request::{Parameter, Request, Verb, Wrong};

/// Longest command line, CR LF included: 512 octets (RFC 5321 §4.5.3.1.4) and what the extensions add to MAIL and RCPT.
const COMMAND_MAX: usize = 2048;
/// Room made for each read, in octets.
const READ_SIZE: usize = 16 * 1024;

/// What happens next, as the driver sees it. All but the last two are questions: each is to be answered by
/// [`Server::answer`] before anything goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client is there: is it greeted?
    Opened,
    /// It said EHLO, HELO or LHLO with this name.
    Hello(String),
    /// MAIL FROM with this return path, without brackets; empty for the null path.
    From(String),
    /// RCPT TO with this recipient, as written.
    To(String),
    /// DATA: may the content come? Not asked for BDAT.
    Data,
    /// The content, free of dots and whole: is the message taken? In LMTP to be answered once for each recipient of
    /// [`Server::recipients`], in their order.
    Message(Vec<u8>),
    /// The output ends in the 220 to STARTTLS: write it, shake hands, and call [`Server::secured`].
    StartTls,
    /// Write the output and close.
    Closed,
}

/// The answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Yes, in the usual words.
    Take,
    /// This reply, without its final line end: `450 4.2.0 later`, its lines separated by `\n`. 2xx and 3xx take, all else
    /// refuses; after 421 and 521 the connection is closed.
    Say(&'a str),
    /// No reply: the connection is closed.
    Drop,
}

/// One connection, seen from the host.
#[derive(Debug)]
pub struct Server {
    offer: Arc<Offer>,
    input: Vec<u8>,
    /// How much of `input` is done with.
    read: usize,
    output: Vec<u8>,
    phase: Phase,
    /// The client has greeted.
    greeted: bool,
    is_secure: bool,
    transaction: Option<Transaction>,
    /// A MAIL or RCPT was refused by an answer: what is left of its group fails without the client's fault.
    in_wake: bool,
    errors: u16,
}

#[derive(Debug)]
enum Phase {
    Opening,
    /// Greeted with a refusal: only QUIT is obeyed (RFC 5321 §3.1).
    Dismissed,
    Command,
    Asked(Question),
    /// Between the 354 and the end; `seen` octets searched.
    Content {
        seen: usize,
        too_large: bool,
    },
    /// Inside a BDAT chunk.
    Chunk {
        left: usize,
        last: bool,
    },
    Handshake,
    Closed,
}

#[derive(Debug)]
enum Question {
    Opened,
    Hello(Verb),
    From(Transaction),
    To(String),
    Data,
    /// So many answers are still to come.
    Message(usize),
}

/// What was said since MAIL.
#[derive(Debug, Default)]
struct Transaction {
    sender: String,
    is_utf8: bool,
    recipients: Vec<String>,
    /// What BDAT brought; `None` before the first.
    chunks: Option<Vec<u8>>,
    /// A chunk was refused: the transaction can only be reset.
    is_spoiled: bool,
}

impl Server {
    /// A new connection.
    pub fn new(offer: Arc<Offer>) -> Server {
        Server {
            offer,
            input: Vec::new(),
            read: 0,
            output: Vec::new(),
            phase: Phase::Opening,
            greeted: false,
            is_secure: false,
            transaction: None,
            in_wake: false,
            errors: 0,
        }
    }

    /// Where the next octets of the client go, behind what is there; with room for a read.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.input.drain(..self.read);
        self.read = 0;
        self.input.reserve(READ_SIZE);
        &mut self.input
    }

    /// The replies to be written, taken away. Written before a wait, and whenever [`Server::event`] has nothing.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The return path of the running transaction.
    pub fn sender(&self) -> Option<&str> {
        self.transaction.as_ref().map(|transaction| transaction.sender.as_str())
    }

    /// The recipients taken so far in the running transaction.
    pub fn recipients(&self) -> &[String] {
        self.transaction.as_ref().map_or(&[], |transaction| &transaction.recipients)
    }

    /// Whether the connection is under TLS.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Refused commands so far, refusals by answers not among them.
    pub fn errors(&self) -> u16 {
        self.errors
    }

    /// The handshake after [`Event::StartTls`] is done. All that was known is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        assert!(matches!(self.phase, Phase::Handshake), "a handshake follows STARTTLS");
        self.is_secure = true;
        self.greeted = false;
        self.transaction = None;
        self.phase = Phase::Command;
    }

    /// What is next; `None` until more octets are there.
    pub fn event(&mut self) -> Option<Event> {
        loop {
            match self.phase {
                Phase::Opening => return Some(self.ask(Question::Opened, Event::Opened)),
                Phase::Command | Phase::Dismissed => {
                    if let Some(event) = self.command()? {
                        return Some(event);
                    }
                }
                Phase::Content { seen, too_large } => {
                    if let Some(event) = self.content(seen, too_large)? {
                        return Some(event);
                    }
                }
                Phase::Chunk { left, last } => {
                    if let Some(event) = self.chunk(left, last)? {
                        return Some(event);
                    }
                }
                Phase::Handshake => return Some(Event::StartTls),
                Phase::Closed => return Some(Event::Closed),
                Phase::Asked(_) => panic!("a question is answered before the next is asked"),
            }
        }
    }

    /// Answers the last question.
    pub fn answer(&mut self, answer: Answer<'_>) {
        let Phase::Asked(question) = std::mem::replace(&mut self.phase, Phase::Command) else {
            panic!("an answer follows a question");
        };
        let taken = match answer {
            Answer::Drop => {
                self.phase = Phase::Closed;
                return;
            }
            Answer::Take => {
                self.say_yes(&question);
                true
            }
            Answer::Say(reply) => {
                self.say_reply(reply);
                reply.starts_with(['2', '3'])
            }
        };
        self.phase = self.follow(question, taken);
        if let Answer::Say(reply) = answer
            && (reply.starts_with("421") || reply.starts_with("521"))
        {
            self.phase = Phase::Closed;
        }
    }

    /// What an answer leads to.
    fn follow(&mut self, question: Question, taken: bool) -> Phase {
        match question {
            Question::Opened if !taken => Phase::Dismissed,
            Question::Opened => Phase::Command,
            Question::Hello(_) => {
                self.greeted |= taken;
                self.in_wake = false;
                self.transaction = None;
                Phase::Command
            }
            Question::From(transaction) => {
                self.in_wake = !taken;
                self.transaction = taken.then_some(transaction);
                Phase::Command
            }
            Question::To(path) => {
                self.in_wake |= !taken;
                if let Some(transaction) = self.transaction.as_mut().filter(|_| taken) {
                    transaction.recipients.push(path);
                }
                Phase::Command
            }
            Question::Data if taken => Phase::Content { seen: 0, too_large: false },
            Question::Data => Phase::Command,
            Question::Message(left) if left > 1 => Phase::Asked(Question::Message(left - 1)),
            Question::Message(_) => {
                self.transaction = None;
                Phase::Command
            }
        }
    }

    fn ask(&mut self, question: Question, event: Event) -> Event {
        self.phase = Phase::Asked(question);
        event
    }

    /// Takes one command line. `None`: it is not whole yet; `Some(None)`: done with it, without a question.
    fn command(&mut self) -> Option<Option<Event>> {
        let waiting = &self.input[self.read..];
        let Some(end) = memchr::memchr(b'\n', waiting) else {
            if waiting.len() < COMMAND_MAX {
                return None;
            }
            return Some(self.part(Wrong(521, "5.5.2", "this line is too long")));
        };
        if end + 1 > COMMAND_MAX {
            return Some(self.part(Wrong(521, "5.5.2", "this line is too long")));
        }
        let line = &waiting[..end];
        let Some(line) = line.strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')) else {
            return Some(self.part(Wrong(521, "5.5.2", "lines end in CR LF, and in nothing else")));
        };
        let request = Request::parse(line);
        self.read += end + 1;
        if matches!(self.phase, Phase::Dismissed) && !matches!(request, Ok(Request::Quit)) {
            return Some(self.refuse(Wrong(503, "5.5.1", "no service here: only QUIT is left")));
        }
        Some(match request.and_then(|request| self.obey(request)) {
            Ok(event) => event,
            Err(wrong) if wrong.0 == 521 => self.part(wrong),
            Err(wrong) => self.refuse_in_order(wrong),
        })
    }

    /// Refuses; what stands in one flight behind a command that was refused is no fault of the client.
    fn refuse_in_order(&mut self, wrong: Wrong) -> Option<Event> {
        if self.in_wake && matches!(wrong.0, 503 | 554) {
            self.say(wrong.0, wrong.1, wrong.2);
            return None;
        }
        self.refuse(wrong)
    }

    /// Does what is asked for, as far as the order of commands allows it.
    fn obey(&mut self, request: Request) -> Result<Option<Event>, Wrong> {
        match request {
            Request::Hello { verb, name } => {
                let fits = (verb == Verb::Lhlo) == (self.offer.protocol == Protocol::Lmtp);
                fits.then_some(()).ok_or(Wrong(500, "5.5.1", "no such command in this protocol"))?;
                self.refuse_haste()?;
                return Ok(Some(self.ask(Question::Hello(verb), Event::Hello(name))));
            }
            Request::From { path, parameters } => {
                let transaction = self.begin(path, &parameters)?;
                let path = transaction.sender.clone();
                return Ok(Some(self.ask(Question::From(transaction), Event::From(path))));
            }
            Request::To { path, parameters } => {
                self.check_recipient(&path, &parameters)?;
                return Ok(Some(self.ask(Question::To(path.clone()), Event::To(path))));
            }
            Request::Data => {
                self.check_data()?;
                self.refuse_haste()?;
                return Ok(Some(self.ask(Question::Data, Event::Data)));
            }
            Request::Chunk { size, last } => self.begin_chunk(size, last)?,
            Request::StartTls => self.start_tls()?,
            Request::Reset => {
                self.transaction = None;
                self.in_wake = false;
                self.say(250, "2.0.0", "forgotten");
            }
            Request::Nothing => self.say(250, "2.0.0", "nothing done"),
            Request::Verify => self.say(252, "2.5.0", "try RCPT"),
            Request::Help => self.say(214, "2.0.0", "see RFC 5321"),
            Request::Quit => {
                self.say(221, "2.0.0", "good bye");
                self.phase = Phase::Closed;
            }
        }
        Ok(None)
    }

    /// Refuses octets behind a command that must be the last of its group (RFC 2920 §3.1).
    fn refuse_haste(&self) -> Result<(), Wrong> {
        match self.read == self.input.len() {
            true => Ok(()),
            false => Err(Wrong(521, "5.5.1", "nothing may follow this command before its reply")),
        }
    }

    fn begin(&self, sender: String, parameters: &[Parameter]) -> Result<Transaction, Wrong> {
        if !self.greeted {
            return Err(Wrong(503, "5.5.1", "greet first"));
        }
        if self.transaction.is_some() {
            return Err(Wrong(503, "5.5.1", "one message at a time: RSET forgets this one"));
        }
        let is_utf8 = self.offer.check_mail(parameters)?;
        check_utf8(&sender, is_utf8)?;
        Ok(Transaction { sender, is_utf8, ..Transaction::default() })
    }

    fn check_recipient(&self, path: &str, parameters: &[Parameter]) -> Result<(), Wrong> {
        let transaction = self.transaction.as_ref().ok_or(Wrong(503, "5.5.1", "MAIL comes first"))?;
        if transaction.chunks.is_some() {
            return Err(Wrong(503, "5.5.1", "the message has begun"));
        }
        self.offer.check_rcpt(parameters)?;
        check_utf8(path, transaction.is_utf8)?;
        match transaction.recipients.len() < self.offer.recipients_max {
            true => Ok(()),
            false => Err(Wrong(452, "4.5.3", "too many recipients")),
        }
    }

    fn check_data(&self) -> Result<(), Wrong> {
        let transaction = self.transaction.as_ref().ok_or(Wrong(503, "5.5.1", "MAIL comes first"))?;
        if transaction.chunks.is_some() {
            return Err(Wrong(503, "5.5.1", "DATA and BDAT do not mix"));
        }
        match transaction.recipients.is_empty() {
            true => Err(Wrong(554, "5.5.1", "no valid recipients")),
            false => Ok(()),
        }
    }

    fn start_tls(&mut self) -> Result<(), Wrong> {
        if !self.offer.has(Extension::StartTls) {
            return Err(Wrong(502, "5.5.1", "no TLS here"));
        }
        if self.is_secure {
            return Err(Wrong(503, "5.5.1", "TLS is on already"));
        }
        // What stands behind it was said in clear by whoever could: never taken as said under TLS (CVE-2011-0411).
        self.refuse_haste()?;
        self.say(220, "2.0.0", "go on");
        self.phase = Phase::Handshake;
        Ok(())
    }

    /// A chunk comes whatever is answered (RFC 3030 §2): what is wrong with it is told once it was read.
    fn begin_chunk(&mut self, size: usize, last: bool) -> Result<(), Wrong> {
        if !self.offer.has(Extension::Chunking) {
            return Err(Wrong(502, "5.5.1", "no BDAT here"));
        }
        let size_max = self.offer.size_max;
        if let Some(transaction) = &mut self.transaction {
            let had = transaction.chunks.get_or_insert_default().len();
            transaction.is_spoiled |= transaction.recipients.is_empty() || had.saturating_add(size) > size_max;
        }
        self.phase = Phase::Chunk { left: size, last };
        Ok(())
    }

    /// Takes what is there of a chunk; same answers as [`Server::command`].
    fn chunk(&mut self, left: usize, last: bool) -> Option<Option<Event>> {
        let here = &self.input[self.read..];
        let took = here.len().min(left);
        if let Some(Transaction { chunks: Some(chunks), is_spoiled: false, .. }) = &mut self.transaction {
            chunks.extend_from_slice(&here[..took]);
        }
        self.read += took;
        self.phase = Phase::Chunk { left: left - took, last };
        if took < left {
            return None;
        }
        self.phase = Phase::Command;
        Some(match &mut self.transaction {
            None => self.refuse_in_order(Wrong(503, "5.5.1", "MAIL comes first")),
            Some(transaction) if transaction.recipients.is_empty() => {
                self.refuse_in_order(Wrong(554, "5.5.1", "no valid recipients: RSET"))
            }
            Some(transaction) if transaction.is_spoiled => self.refuse(TOO_LARGE),
            Some(transaction) if last => {
                let content = transaction.chunks.take().unwrap_or_default();
                self.message(content)
            }
            Some(_) => {
                self.say(250, "2.0.0", "so far");
                None
            }
        })
    }

    /// Looks for the end of the content; same answers as [`Server::command`].
    fn content(&mut self, seen: usize, too_large: bool) -> Option<Option<Event>> {
        let waiting = &self.input[self.read..];
        let Some((length, whole)) = find_end(waiting, seen) else {
            // Of what is too large anyway only so much is kept as the end can be recognised by.
            let too_large = too_large || waiting.len() > self.offer.size_max + 3;
            let kept = if too_large { waiting.len().min(4) } else { waiting.len() };
            self.read += waiting.len() - kept;
            self.phase = Phase::Content { seen: kept, too_large };
            return None;
        };
        let content = &waiting[..length];
        let refusal = match flaw(content, self.offer.line_max) {
            _ if too_large || length > self.offer.size_max => Some(TOO_LARGE),
            Some(Flaw::BareLineEnd) => Some(Wrong(550, "5.6.0", "lines end in CR LF, and in nothing else")),
            Some(Flaw::LongLine) => Some(Wrong(550, "5.6.0", "a line of this message is too long")),
            None => None,
        };
        let content = if refusal.is_none() { without_dots(content) } else { Vec::new() };
        self.read += whole;
        self.phase = Phase::Command;
        Some(match refusal {
            None => self.message(content),
            Some(wrong) => {
                let times = self.answers();
                self.transaction = None;
                (1..times).for_each(|_| self.say(wrong.0, wrong.1, wrong.2));
                self.refuse(wrong)
            }
        })
    }

    fn message(&mut self, content: Vec<u8>) -> Option<Event> {
        let answers = self.answers();
        Some(self.ask(Question::Message(answers), Event::Message(content)))
    }

    /// How many answers a message gets.
    fn answers(&self) -> usize {
        match self.offer.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => self.recipients().len(),
        }
    }

    /// Refuses a command; too many of them end the connection.
    fn refuse(&mut self, wrong: Wrong) -> Option<Event> {
        self.say(wrong.0, wrong.1, wrong.2);
        self.errors += 1;
        if self.errors >= self.offer.errors_max {
            return self.part(Wrong(421, "4.7.0", "too many errors"));
        }
        None
    }

    /// Says a last word and closes.
    fn part(&mut self, wrong: Wrong) -> Option<Event> {
        self.errors += 1;
        self.say(wrong.0, wrong.1, wrong.2);
        self.phase = Phase::Closed;
        None
    }

    fn say_yes(&mut self, question: &Question) {
        match question {
            Question::Opened => {
                let word = if self.offer.protocol == Protocol::Lmtp { "LMTP" } else { "ESMTP" };
                let line = format!("220 {} {word}\r\n", self.offer.host);
                self.output.extend_from_slice(line.as_bytes());
            }
            Question::Hello(Verb::Helo) => {
                let line = format!("250 {}\r\n", self.offer.host);
                self.output.extend_from_slice(line.as_bytes());
            }
            Question::Hello(Verb::Ehlo | Verb::Lhlo) => self.say_extensions(),
            Question::From(_) => self.say(250, "2.1.0", "go on"),
            Question::To(_) => self.say(250, "2.1.5", "go on"),
            Question::Data => self.output.extend_from_slice(b"354 go on, and end with a dot on its own line\r\n"),
            Question::Message(_) => self.say(250, "2.0.0", "taken"),
        }
    }

    fn say_extensions(&mut self) {
        let mut lines = vec![self.offer.host.clone()];
        for extension in &self.offer.extensions {
            lines.push(match extension {
                Extension::Pipelining => "PIPELINING".to_owned(),
                Extension::Size => format!("SIZE {}", self.offer.size_max),
                Extension::EightBitMime => "8BITMIME".to_owned(),
                Extension::SmtpUtf8 => "SMTPUTF8".to_owned(),
                Extension::Dsn => "DSN".to_owned(),
                Extension::Chunking => "CHUNKING".to_owned(),
                Extension::EnhancedStatusCodes => "ENHANCEDSTATUSCODES".to_owned(),
                Extension::StartTls if self.is_secure => continue,
                Extension::StartTls => "STARTTLS".to_owned(),
            });
        }
        lines.extend(self.offer.limits.as_ref().map(|limits| format!("LIMITS {limits}")));
        let last = lines.len() - 1;
        for (at, line) in lines.iter().enumerate() {
            let mark = if at == last { ' ' } else { '-' };
            self.output.extend_from_slice(format!("250{mark}{line}\r\n").as_bytes());
        }
    }

    fn say(&mut self, code: u16, enhanced: &str, text: &str) {
        let line = match self.offer.has(Extension::EnhancedStatusCodes) {
            true => format!("{code} {enhanced} {text}\r\n"),
            false => format!("{code} {text}\r\n"),
        };
        self.output.extend_from_slice(line.as_bytes());
    }

    fn say_reply(&mut self, reply: &str) {
        for line in reply.split('\n') {
            self.output.extend_from_slice(line.trim_end_matches('\r').as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
    }
}

const TOO_LARGE: Wrong = Wrong(552, "5.3.4", "this message is too large");

#[cfg(test)]
mod tests;
