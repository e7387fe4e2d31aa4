//! Scripted hosts, each with its manner and its book.

use super::*;

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Takes,
    /// The same, and it offers CHUNKING.
    TakesChunks,
    /// 451 to each recipient's first RCPT.
    Greylists,
    /// 550 5.1.1 to every RCPT.
    KnowsNobody,
    /// 421 to the MAIL after so many messages on a connection.
    Dismisses(u32),
    /// Closes without a word after so many messages on a connection.
    ClosesAfter(u32),
    /// Takes the first so many messages and closes before it answers.
    LosesAnswers(u32),
    /// Greets nobody.
    Silent,
    /// 451 4.7.1 to MAIL, as of trouble with our address.
    Throttles,
    /// 530 to MAIL: it wants a login.
    WantsLogin,
    /// 550 5.7.510 to RCPT: it wants IPv4.
    WantsIpv4,
    /// As Google: throttles by a 421 to the first MAIL after so many messages, once, and takes everything afterwards.
    ThrottlesOnce(u32),
    /// Answers each RCPT after so many seconds.
    Slow(u64),
}

/// What a host does at a command.
pub(super) enum Deed {
    Say(&'static str),
    SayAndClose(&'static str),
    Close,
}

/// One message taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) at: Duration,
    pub(super) to: String,
    pub(super) from: String,
    pub(super) id: String,
    pub(super) date: String,
    pub(super) signed: bool,
}

/// A host's book.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) taken: Vec<Taken>,
    /// When each MAIL came, since the start.
    pub(super) mails: Vec<Duration>,
    pub(super) rcpts: BTreeSet<String>,
    pub(super) connections: u32,
    pub(super) open: u32,
    pub(super) open_most: u32,
    pub(super) quits: u32,
    pub(super) lost: u32,
}

#[derive(Clone)]
pub(super) struct Host {
    pub(super) manner: Manner,
    pub(super) start: Instant,
    pub(super) book: Arc<Mutex<Book>>,
}

impl Host {
    pub(super) fn new(manner: Manner) -> Host {
        Host { manner, start: Instant::now(), book: Arc::default() }
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.book.lock().unwrap().taken.clone()
    }

    pub(super) async fn serve(self, stream: DuplexStream) {
        {
            let mut book = self.book.lock().unwrap();
            book.connections += 1;
            book.open += 1;
            book.open_most = book.open_most.max(book.open);
        }
        let _ = self.talk(stream).await;
        self.book.lock().unwrap().open -= 1;
    }

    pub(super) async fn talk(&self, stream: DuplexStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        if self.manner == Manner::Silent {
            return std::future::pending().await;
        }
        stream.write_all(b"220 mx.test ESMTP\r\n").await?;
        let (mut from, mut to, mut named, mut done) = (String::new(), String::new(), false, 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let deed = match line.get(..4).unwrap_or_default() {
                "EHLO" if self.manner == Manner::TakesChunks => {
                    Deed::Say("250-mx.test\r\n250-CHUNKING\r\n250 PIPELINING")
                }
                "EHLO" => Deed::Say("250-mx.test\r\n250 PIPELINING"),
                "MAIL" => {
                    (from, named) = (line.trim().to_owned(), false);
                    self.at_mail(done)
                }
                "RCPT" => {
                    to = line.trim().to_owned();
                    let answer = self.at_rcpt(&to).await;
                    named = answer.starts_with("250");
                    Deed::Say(answer)
                }
                "DATA" if !named => Deed::Say("503 5.5.1 no recipient"),
                "DATA" => {
                    stream.write_all(b"354 go\r\n").await?;
                    let text = read_text(&mut stream).await?;
                    done += 1;
                    self.take(&from, &to, &text)
                }
                "BDAT" => {
                    let octets = line.split(' ').nth(1).and_then(|octets| octets.parse().ok()).unwrap_or_default();
                    let mut text = vec![0; octets];
                    stream.read_exact(&mut text).await?;
                    self.take(&from, &to, &String::from_utf8_lossy(&text))
                }
                "QUIT" => {
                    self.book.lock().unwrap().quits += 1;
                    Deed::SayAndClose("221 bye")
                }
                _ => Deed::Say("250 ok"),
            };
            match deed {
                Deed::Say(answer) => stream.write_all(format!("{answer}\r\n").as_bytes()).await?,
                Deed::SayAndClose(answer) => return stream.write_all(format!("{answer}\r\n").as_bytes()).await,
                Deed::Close => return Ok(()),
            }
        }
    }

    /// After so many messages on the connection.
    pub(super) fn at_mail(&self, done: u32) -> Deed {
        self.book.lock().unwrap().mails.push(self.start.elapsed());
        match self.manner {
            Manner::Dismisses(most) if done >= most => Deed::SayAndClose("421 4.3.2 closing the channel"),
            Manner::ClosesAfter(most) if done >= most => Deed::Close,
            Manner::ThrottlesOnce(most) if done >= most && self.first_loss() => Deed::SayAndClose(
                "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP address.",
            ),
            Manner::Throttles => Deed::Say("451 4.7.1 too many messages from your address"),
            Manner::WantsLogin => Deed::Say("530 5.7.0 Authentication required"),
            _ => Deed::Say("250 2.1.0 ok"),
        }
    }

    pub(super) async fn at_rcpt(&self, to: &str) -> &'static str {
        if let Manner::Slow(seconds) = self.manner {
            tokio::time::sleep(secs(seconds)).await;
        }
        let first = self.book.lock().unwrap().rcpts.insert(to.to_owned());
        match self.manner {
            Manner::Greylists if first => "451 4.7.1 Greylisted, come back later",
            Manner::KnowsNobody => "550 5.1.1 no such user",
            Manner::Throttles | Manner::WantsLogin => "503 5.5.1 no sender",
            Manner::WantsIpv4 => "550 5.7.510 Access denied, a.example does not accept email over IPv6",
            _ => "250 2.1.5 ok",
        }
    }

    /// Puts a message in the book; the answer may be lost.
    pub(super) fn take(&self, from: &str, to: &str, text: &str) -> Deed {
        let taken = self.taken_of(from, to, text);
        let mut book = self.book.lock().unwrap();
        book.taken.push(taken);
        match self.manner {
            Manner::LosesAnswers(most) if book.lost < most => {
                book.lost += 1;
                Deed::Close
            }
            _ => Deed::Say("250 2.0.0 taken"),
        }
    }

    /// Whether nothing was lost here before; something is now.
    pub(super) fn first_loss(&self) -> bool {
        let mut book = self.book.lock().unwrap();
        book.lost += 1;
        book.lost == 1
    }

    pub(super) fn taken_of(&self, from: &str, to: &str, text: &str) -> Taken {
        let header = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().to_owned()
        };
        let between = |text: &str| text.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        Taken {
            at: self.start.elapsed(),
            to: between(to),
            from: between(from),
            id: header("Message-ID"),
            date: header("Date"),
            signed: text.starts_with("DKIM-Signature"),
        }
    }
}

pub(super) async fn read_text(stream: &mut BufReader<DuplexStream>) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(&line);
    }
}
