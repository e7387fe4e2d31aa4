//! One mail session after EHLO, as a state machine without I/O: copies in, bytes and receipts out.
//!
//! Where the host offers PIPELINING, two copies overlap (RFC 2920 §3.1):
//! ```text
//!  ─▶ MAIL₁ RCPT₁ DATA₁      ◀─ 250 250 354
//!  ─▶ message₁ · MAIL₂ RCPT₂ DATA₂      ◀─ 250 (of ₁)  250 250 354 (of ₂)
//!  ─▶ message₂ · MAIL₃ RCPT₃ DATA₃      …
//! ```
//! One round trip for each copy, and never two final dots unanswered: that of ₂ waits until ₁ is answered and the intent
//! for ₂ is durable, so at most one copy of a connection is ever in doubt. Every reply is read and judged. Without
//! PIPELINING the host sees one command at a time.
//!
//! BDAT (RFC 3030) takes the place of DATA where it saves a round trip and the host offers CHUNKING:
//! ```text
//!  ─▶ MAIL₁ RCPT₁ BDAT₁ message₁      ◀─ 250 250 250            with PIPELINING, the first copy of a connection
//!  ─▶ MAIL₁ ◀─ 250 ─▶ RCPT₁ ◀─ 250 ─▶ BDAT₁ message₁ ◀─ 250     without
//! ```
//! Between two copies it would save nothing: there DATA has long been answered. `BDAT … LAST` is a final dot like any other:
//! its intent is durable before it goes out, and nothing of another copy shares its flight, since a MAIL behind a refused
//! chunk would be refused with it. The first kind sends a message in vain where the recipient is refused, and is in doubt
//! from MAIL on; so it is for small messages, and for copies that may be early.

mod flight;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

pub use self::flight::Flight;
use super::command::{Command, MailOptions, Path};
use super::dots::Body;
use super::reply::Heard;
use super::{Error, Extensions};
use crate::base::{Address, EnvelopeId};
use crate::mail::{EnhancedCode, Message, Reply, Stage};

/// Octets of a message that goes out before its recipient is taken. A larger one takes longer on the way than the round
/// trip it would save, and is dearer in vain.
const EARLY_MAX: usize = 64 * 1024;

/// One copy, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which.
    pub id: EnvelopeId,
    /// The address reports about it go to; empty for none (`<>`).
    pub return_path: String,
    /// Its recipient.
    pub to: Address,
    /// What is sent, signed.
    pub message: Message,
    /// Whether the message may go out before the host has taken the recipient, where that saves a round trip. The copy is
    /// then in doubt when the connection is lost at any time before the answer to MAIL or RCPT refuses it.
    pub early: bool,
}

/// The end of one copy on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// How far it came. [`Stage::Body`]: its final dot may be out, so that without a reply it is in doubt. At
    /// [`Stage::From`] with [`Error::Closed`] the host has said nothing of it.
    pub stage: Stage,
    /// The host's word on it; 2xx at [`Stage::Body`]: taken. What we refuse ourselves because of what the host offers
    /// (5.3.4 too large, 5.6.7 needs SMTPUTF8, …) stands at [`Stage::From`] and begins with "not sent".
    pub heard: Result<Reply, Error>,
    /// From its MAIL to its end.
    pub took: Duration,
}

/// Whether the source of copies may let the connection wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It must answer at once: the end of a copy is about to go out, and the next may share its flight. Printing is
    /// fine, waiting for pace or leases is not.
    None,
    /// It may wait: nothing is open on the connection.
    Wait,
}

/// Whether the host has heard of a copy whose message is about to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Not a word: MAIL goes out with the message. One that is withheld leaves no trace on the connection.
    No,
    /// It waits for the message: one that is withheld costs the connection.
    Yes,
}

/// How a run of copies ended. Nothing is open on the connection afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The source has none. The connection is good for more.
    Idle,
    /// As many as were asked for have been sent. The connection is good for more.
    Enough,
    /// The host takes no more on this connection (LIMITS MAILMAX).
    Full,
    /// A copy was withheld after the host was ready for it: nothing but the end of the connection undoes that.
    Withheld,
    /// The host ended the session by a 421 (C-21), asked or not.
    Dismissed(Reply),
    /// The connection is lost.
    Broken(Error),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for a copy; then [`Session::offer`] or [`Session::none`].
    Ask(Patience),
    /// Make the intent durable; then [`Session::intended`].
    Intend(EnvelopeId, Begun),
    /// Write the flight; then [`Session::said`] or [`Session::cut_off`].
    Say,
    /// Read a reply, of this stage; then [`Session::heard`] or [`Session::lost`].
    Hear(Stage),
    /// Tell what became of a copy.
    Done(EnvelopeId, Receipt),
    /// Stop.
    End(Ending),
}

/// How a message goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Behind the 354 to DATA.
    Dots,
    /// As a chunk behind the answer to RCPT: a host with CHUNKING that takes no groups.
    Chunk,
    /// As a chunk in one flight with MAIL and RCPT.
    Early,
}

/// What a reply that is still to come answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Rset,
    Mail,
    Rcpt,
    Data,
    /// The end of a message.
    Dot,
    /// A message as one chunk, its end with it.
    Chunk,
    /// The end of no message: DATA was let pass though its recipient was refused (RFC 2920 §3.1).
    LoneDot,
}

impl Asked {
    fn stage(self) -> Stage {
        match self {
            Asked::Rset | Asked::Mail => Stage::From,
            Asked::Rcpt => Stage::To,
            Asked::Data => Stage::Data,
            Asked::Dot | Asked::Chunk | Asked::LoneDot => Stage::Body,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Asked::Rset => "RSET",
            Asked::Mail => "MAIL",
            Asked::Rcpt => "RCPT",
            Asked::Data => "DATA",
            Asked::Chunk => "BDAT",
            Asked::Dot | Asked::LoneDot => "the final dot",
        }
    }
}

/// The commands of one copy, written out.
#[derive(Debug)]
struct Opening {
    bytes: Vec<u8>,
    mail: usize,
}

impl Opening {
    fn new(from: Path<'_>, to: Path<'_>, options: MailOptions, report: bool) -> Opening {
        let mut bytes = Vec::with_capacity(256);
        Command::Mail(from, options).write(&mut bytes);
        let mail = bytes.len();
        Command::Rcpt { to, report }.write(&mut bytes);
        Opening { bytes, mail }
    }

    fn write(&self, asked: Asked, flight: &mut Vec<u8>) {
        match asked {
            Asked::Rset => Command::Rset.write(flight),
            Asked::Mail => flight.extend_from_slice(&self.bytes[..self.mail]),
            Asked::Rcpt => flight.extend_from_slice(&self.bytes[self.mail..]),
            Asked::Data => Command::Data.write(flight),
            Asked::Dot | Asked::LoneDot => flight.extend_from_slice(b".\r\n"),
            Asked::Chunk => unreachable!("a chunk is written with its message"),
        }
    }
}

/// A copy on the wire.
#[derive(Debug)]
struct Open {
    id: EnvelopeId,
    opening: Opening,
    way: Way,
    /// Taken when it goes into a flight.
    body: Option<Body>,
    began: Instant,
    mail_taken: bool,
    rcpt_taken: bool,
    /// The host waits for the message, or would take a chunk.
    data_begun: bool,
    refused: Option<(Stage, Reply)>,
}

impl Open {
    fn begun(&self) -> Begun {
        match self.way {
            Way::Early => Begun::No,
            Way::Dots | Way::Chunk => Begun::Yes,
        }
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing is open.
    Free,
    /// The front copy's message is next; its intent is still to be made durable.
    Ready,
    /// The front copy's end by a dot is in the flight, and there is room for another copy's beginning.
    Closing,
    /// The flight is to be written.
    Say,
    /// Replies are to come.
    Hear,
}

/// The session. Replies come in the order of the commands, and a copy's last one before the next copy's first: so each
/// reply is about the front of `open`.
#[derive(Debug)]
pub struct Session {
    host: Extensions,
    turn: Turn,
    open: VecDeque<Open>,
    /// Commands of the newest copy not put into a flight yet: more than none only without PIPELINING.
    script: VecDeque<Asked>,
    asked: VecDeque<Asked>,
    flight: Flight,
    /// Whether the front copy's end is out and unanswered.
    dot_out: bool,
    /// Whether no copy has been begun on the connection.
    fresh: bool,
    /// Whether a transaction was left open, so that the next MAIL needs a RSET before it (C-24).
    aborted: bool,
    /// MAIL commands the host still takes.
    room: u32,
    /// Copies this run may still send.
    left: u32,
    finished: VecDeque<(EnvelopeId, Receipt)>,
    ending: Option<Ending>,
}

impl Session {
    /// A session with a host that offers this.
    pub fn new(host: Extensions) -> Session {
        Session {
            room: host.mail_max.unwrap_or(u32::MAX),
            host,
            turn: Turn::Free,
            open: VecDeque::with_capacity(2),
            script: VecDeque::with_capacity(4),
            asked: VecDeque::with_capacity(8),
            flight: Flight::default(),
            dot_out: false,
            fresh: true,
            aborted: false,
            left: 0,
            finished: VecDeque::with_capacity(2),
            ending: None,
        }
    }

    /// Begins a run of at most `most` copies. A session that has ended for good stays so.
    pub fn run(&mut self, most: u32) {
        self.left = most;
        if matches!(self.ending, Some(Ending::Idle | Ending::Enough)) {
            self.ending = None;
        }
    }

    /// What the host offers.
    pub fn extensions(&self) -> &Extensions {
        &self.host
    }

    /// Whether the host still listens to commands: not in the middle of a message, nor after the end.
    pub fn is_good(&self) -> bool {
        self.turn == Turn::Free && matches!(self.ending, None | Some(Ending::Idle | Ending::Enough | Ending::Full))
    }

    /// What is to be written at [`Step::Say`].
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// What is to be done next.
    pub fn step(&mut self) -> Step {
        if let Some((id, receipt)) = self.finished.pop_front() {
            return Step::Done(id, receipt);
        }
        if let Some(ending) = &self.ending {
            return Step::End(ending.clone());
        }
        match self.turn {
            Turn::Free if self.room == 0 => self.end(Ending::Full),
            Turn::Free if self.left == 0 => self.end(Ending::Enough),
            Turn::Free => Step::Ask(Patience::Wait),
            Turn::Closing if self.host.pipelining && self.room > 0 && self.left > 0 => Step::Ask(Patience::None),
            Turn::Closing | Turn::Say => Step::Say,
            Turn::Ready => Step::Intend(self.front().id, self.front().begun()),
            Turn::Hear => Step::Hear(self.asked.front().map_or(Stage::From, |asked| asked.stage())),
        }
    }

    fn end(&mut self, ending: Ending) -> Step {
        self.ending = Some(ending.clone());
        Step::End(ending)
    }

    /// A copy to be sent. One that this host cannot take is refused at once, without a word to the host.
    pub fn offer(&mut self, copy: Copy, now: Instant) {
        debug_assert!(matches!(self.turn, Turn::Free | Turn::Closing), "a copy is offered when it was asked for");
        let id = copy.id;
        match self.fit(copy, now) {
            Ok(open) => self.begin(open),
            Err(reply) => {
                let receipt = Receipt { stage: Stage::From, heard: Ok(reply), took: Duration::ZERO };
                self.finished.push_back((id, receipt));
                // The end that is about to go out waits for one look only.
                self.none_in_flight();
            }
        }
    }

    /// The copy made ready for this host, or why it cannot be.
    fn fit(&self, copy: Copy, now: Instant) -> Result<Open, Reply> {
        let Copy { id, return_path, to, message, early } = copy;
        let from = Path::parse(&return_path)
            .ok_or_else(|| unsent(553, EnhancedCode(5, 1, 7), "the return path is no address"))?;
        let rcpt =
            Path::of(&to).ok_or_else(|| unsent(553, EnhancedCode(5, 1, 3), "the address cannot stand in RCPT TO"))?;
        let utf8_path = from.needs_smtputf8() || rcpt.needs_smtputf8();
        let body = Body::new(message.bytes)
            .map_err(|unfit| unsent(554, EnhancedCode(5, 6, 0), &format!("the message holds {unfit}")))?;
        let octets = body.octets();
        if let Some(Some(limit)) = self.host.size
            && octets as u64 > limit
        {
            let why = format!("the message has {octets} octets, the host takes at most {limit}");
            return Err(unsent(552, EnhancedCode(5, 3, 4), &why));
        }
        let eight_bit = body.is_eight_bit();
        let utf8 = utf8_path || eight_bit && body.has_utf8_header();
        if utf8 && !self.host.smtputf8 {
            return Err(unsent(
                553,
                EnhancedCode(5, 6, 7),
                "the host takes no addresses or headers in UTF-8 (SMTPUTF8)",
            ));
        }
        if eight_bit && !self.host.eight_bit_mime {
            return Err(unsent(554, EnhancedCode(5, 6, 3), "the host takes no eight-bit messages (8BITMIME)"));
        }
        let options = MailOptions { size: self.host.size.map(|_| octets), eight_bit, utf8, report: self.host.dsn };
        Ok(Open {
            id,
            way: self.way(early && octets <= EARLY_MAX),
            opening: Opening::new(from, rcpt, options, self.host.dsn),
            body: Some(body),
            began: now,
            mail_taken: false,
            rcpt_taken: false,
            data_begun: false,
            refused: None,
        })
    }

    fn way(&self, early: bool) -> Way {
        match (self.host.chunking, self.host.pipelining) {
            (true, true) if early && self.fresh => Way::Early,
            (true, false) => Way::Chunk,
            (true | false, _) => Way::Dots,
        }
    }

    fn begin(&mut self, open: Open) {
        self.room -= 1;
        self.left -= 1;
        self.fresh = false;
        let way = open.way;
        self.open.push_back(open);
        if std::mem::take(&mut self.aborted) {
            self.script.push_back(Asked::Rset);
        }
        match way {
            Way::Early => return self.turn = Turn::Ready,
            Way::Chunk => self.script.extend([Asked::Mail, Asked::Rcpt]),
            Way::Dots => self.script.extend([Asked::Mail, Asked::Rcpt, Asked::Data]),
        }
        self.put();
    }

    /// Puts commands of the newest copy into the flight: all of them where the host takes groups, else one.
    fn put(&mut self) {
        let Some(open) = self.open.back() else { return };
        while let Some(next) = self.script.pop_front() {
            open.opening.write(next, &mut self.flight.lines);
            self.asked.push_back(next);
            if !self.host.pipelining {
                break;
            }
        }
        self.turn = Turn::Say;
    }

    /// The source has no copy now.
    pub fn none(&mut self) {
        if self.turn == Turn::Free {
            self.ending = Some(Ending::Idle);
        }
        self.none_in_flight();
    }

    fn none_in_flight(&mut self) {
        if self.turn == Turn::Closing {
            self.turn = Turn::Say;
        }
    }

    /// The intent is durable: the message may go out. Or it must not. A host that has begun the copy waits for a message,
    /// and a lone dot would send an empty one: then only closing the connection keeps it from one.
    pub fn intended(&mut self, may: bool, now: Instant) {
        if !may && self.open.front().is_some_and(|front| front.begun() == Begun::No) {
            return self.take_back();
        }
        let front = self.open.front_mut().filter(|_| may);
        let Some((body, open)) = front.and_then(|open| Some((open.body.take()?, open))) else {
            self.close(Stage::Data, Err(Error::Closed), Ending::Withheld, now);
            return;
        };
        if open.way == Way::Dots {
            self.flight.end_body(body);
            self.asked.push_back(Asked::Dot);
            self.turn = Turn::Closing;
            return;
        }
        if open.way == Way::Early {
            open.opening.write(Asked::Mail, &mut self.flight.head);
            open.opening.write(Asked::Rcpt, &mut self.flight.head);
            self.asked.extend([Asked::Mail, Asked::Rcpt]);
        }
        self.flight.put_chunk(body);
        self.asked.push_back(Asked::Chunk);
        self.turn = Turn::Say;
    }

    /// The host has not heard of the copy: all is as before it was offered.
    fn take_back(&mut self) {
        self.open.pop_front();
        self.room += 1;
        self.left += 1;
        self.fresh = true;
        self.turn = Turn::Free;
    }

    /// The whole flight is out.
    pub fn said(&mut self) {
        self.dot_out = self.flight.end > 0;
        self.flight.clear();
        self.turn = Turn::Hear;
    }

    /// Writing failed after so many octets. What the host may have sent before is still to be heard; then
    /// [`Session::lost`].
    pub fn cut_off(&mut self, octets: usize) {
        self.dot_out = self.flight.end > 0 && octets >= self.flight.end;
        self.flight.clear();
        self.turn = Turn::Hear;
    }

    /// A reply came, asked for or not.
    pub fn heard(&mut self, reply: &Heard<'_>, now: Instant) {
        let asked = match self.turn {
            Turn::Hear => self.asked.pop_front(),
            Turn::Free | Turn::Ready | Turn::Closing | Turn::Say => None,
        };
        match asked {
            _ if reply.code() == 421 => self.dismissed(asked, reply.to_reply(), now),
            Some(asked) => self.answered(asked, reply, now),
            None => self.unasked(reply, now),
        }
    }

    /// A reply before its time. One that refuses, while the host waits for a message, refuses that message; the session is
    /// over all the same, for only a dot would end the waiting.
    fn unasked(&mut self, reply: &Heard<'_>, now: Instant) {
        let error = Error::Garbled(format!("`{reply}` without a command"));
        let refuses = reply.refuses() && self.stage() == Stage::Data;
        let heard = if refuses { Ok(reply.to_reply()) } else { Err(error.clone()) };
        self.close(self.stage(), heard, Ending::Broken(error), now);
    }

    fn answered(&mut self, asked: Asked, reply: &Heard<'_>, now: Instant) {
        let class = reply.code() / 100;
        let stage = asked.stage();
        let dot_out = self.dot_out;
        let front = self.front_mut();
        match (asked, class) {
            // Whatever RSET is answered, MAIL's answer decides.
            (Asked::Rset, _) => {}
            (Asked::Mail, 2) => front.mail_taken = true,
            (Asked::Rcpt, 2) => front.rcpt_taken = true,
            (Asked::Data, 3) => front.data_begun = true,
            (Asked::Mail | Asked::Rcpt | Asked::Data, 4 | 5) => {
                front.refused.get_or_insert_with(|| (stage, reply.to_reply()));
            }
            (Asked::Dot, 4 | 5) => self.finish(Stage::Body, Ok(reply.to_reply()), now),
            (Asked::Dot, 2) if dot_out => self.finish(Stage::Body, Ok(reply.to_reply()), now),
            (Asked::Chunk, 2) if dot_out => self.chunk_taken(reply, now),
            // What is left of the transaction needs a RSET (C-36).
            (Asked::Chunk, 4 | 5) => {
                self.aborted = front.mail_taken;
                self.finish(Stage::Body, Ok(reply.to_reply()), now);
            }
            // The lone dot ends a transaction that had no recipient: 554, but nothing hangs on it.
            (Asked::LoneDot, 2 | 4 | 5) => self.finish_refused(now),
            (Asked::Mail | Asked::Rcpt | Asked::Data | Asked::Dot | Asked::Chunk | Asked::LoneDot, _) => {
                return self.garbled(asked, reply, now);
            }
        }
        if self.asked.is_empty() {
            self.go_on(now);
        }
    }

    /// The host took a chunk. Where it had taken the recipient as well, the copy is delivered, whatever was said of MAIL.
    fn chunk_taken(&mut self, reply: &Heard<'_>, now: Instant) {
        let front = self.front_mut();
        match front.rcpt_taken {
            true => front.refused = None,
            false => self.aborted = true,
        }
        self.finish(Stage::Body, Ok(reply.to_reply()), now);
    }

    /// All that was asked is answered: what follows for the newest copy?
    fn go_on(&mut self, now: Instant) {
        let Some(front) = self.open.front_mut() else {
            self.turn = Turn::Free;
            return;
        };
        // With BDAT, nothing stands between RCPT and the message.
        front.data_begun |= front.way == Way::Chunk && front.rcpt_taken;
        match (&front.refused, front.data_begun) {
            (None, true) => self.turn = Turn::Ready,
            // Without PIPELINING: one more command.
            (None, false) => self.put(),
            (Some(_), false) => {
                self.aborted = front.mail_taken;
                self.script.clear();
                self.finish_refused(now);
                self.turn = Turn::Free;
            }
            // A lone dot is safe only where there is nobody to whom it could send an empty message.
            (Some(_), true) if front.rcpt_taken => {
                let error = Error::Garbled("DATA was let pass after MAIL was refused".into());
                self.lost(error, now);
            }
            (Some(_), true) => {
                front.opening.write(Asked::LoneDot, &mut self.flight.lines);
                self.asked.push_back(Asked::LoneDot);
                self.turn = Turn::Closing;
            }
        }
    }

    /// The connection is lost, or no longer to be trusted. What was refused stays refused; a message whose final dot is
    /// out is in doubt; of what was not answered at all the host has said nothing.
    pub fn lost(&mut self, error: Error, now: Instant) {
        let stage = self.stage();
        self.close(stage, Err(error.clone()), Ending::Broken(error), now);
    }

    fn dismissed(&mut self, asked: Option<Asked>, reply: Reply, now: Instant) {
        let stage = asked.map_or_else(|| self.stage(), Asked::stage);
        self.close(stage, Ok(reply.clone()), Ending::Dismissed(reply), now);
    }

    fn garbled(&mut self, asked: Asked, reply: &Heard<'_>, now: Instant) {
        let error = Error::Garbled(format!("`{reply}` in answer to {}", asked.word()));
        let stage = if self.dot_out { Stage::Body } else { asked.stage() };
        self.close(stage, Err(error.clone()), Ending::Broken(error), now);
    }

    /// How far the front copy is, by what is still to be answered.
    fn stage(&self) -> Stage {
        match self.asked.front() {
            Some(_) if self.dot_out => Stage::Body,
            Some(Asked::Dot | Asked::Chunk) => Stage::Data,
            Some(asked) => asked.stage(),
            None if self.open.front().is_some_and(|open| open.data_begun) => Stage::Data,
            None => Stage::From,
        }
    }

    /// Ends the session: the front copy with what was heard, one behind it without a word.
    fn close(&mut self, stage: Stage, heard: Result<Reply, Error>, ending: Ending, now: Instant) {
        self.finish(stage, heard, now);
        while !self.open.is_empty() {
            self.finish(Stage::From, Err(Error::Closed), now);
        }
        self.asked.clear();
        self.script.clear();
        self.flight.clear();
        self.ending.get_or_insert(ending);
    }

    fn finish_refused(&mut self, now: Instant) {
        if let Some((stage, reply)) = self.front_mut().refused.take() {
            self.finish(stage, Ok(reply), now);
        }
    }

    /// Ends the front copy: with its refusal, when there was one, else with what was heard.
    fn finish(&mut self, stage: Stage, heard: Result<Reply, Error>, now: Instant) {
        let Some(open) = self.open.pop_front() else { return };
        let (stage, heard) = match open.refused {
            Some((stage, reply)) => (stage, Ok(reply)),
            None => (stage, heard),
        };
        self.dot_out = false;
        let took = now.saturating_duration_since(open.began);
        self.finished.push_back((open.id, Receipt { stage, heard, took }));
    }

    fn front(&self) -> &Open {
        self.open.front().expect("replies are asked for only while a copy is open")
    }

    fn front_mut(&mut self) -> &mut Open {
        self.open.front_mut().expect("replies are asked for only while a copy is open")
    }
}

/// A refusal of our own, in the words of a host.
fn unsent(code: u16, enhanced: EnhancedCode, why: &str) -> Reply {
    Reply { code, enhanced: Some(enhanced), text: format!("not sent: {why}") }
}

#[cfg(test)]
mod tests;
