//! An edition compiled: prints one message per recipient.

use std::fmt;

use handlebars::Context as Data;

use crate::base::{Address, Domain, EnvelopeId, Purpose, Seal, Token};
use crate::compose::guard::guard;
use crate::compose::headers::{self, Field, Head};
use crate::compose::links::{self, Marks};
use crate::compose::mime::Parts;
use crate::compose::scope::{Context, Scope};
use crate::compose::slots::{Slots, Use};
use crate::compose::{Edition, Error, PrintError, Tracking, Urls};
use crate::mail::{Envelope, Message, Recipient};

/// The most bytes one text may print to (H-04).
pub(crate) const OUTPUT_MAX: usize = 2 * 1024 * 1024;

/// A part of the message that has a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The subject.
    Subject,
    /// The display name in From.
    FromName,
    /// A header of the campaign's own.
    Header,
    /// The HTML part.
    Html,
    /// The text part.
    Text,
}

impl Part {
    pub(crate) fn context(self) -> Context {
        match self {
            Part::Subject | Part::FromName | Part::Header => Context::Header,
            Part::Html => Context::Html,
            Part::Text => Context::Text,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Subject => "subject",
            Part::FromName => "from",
            Part::Header => "headers",
            Part::Html => "HTML part",
            Part::Text => "text part",
        })
    }
}

/// What one copy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The display name in From.
    pub from_name: String,
    /// The subject.
    pub subject: String,
    /// The values of the campaign's own headers, in order.
    pub headers: Vec<String>,
    /// The text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
}

/// Both parts of a message, with what they carry to be tracked.
struct Body {
    marks: Marks,
    /// How many links are tracked.
    links: usize,
    html: Slots,
    text: Slots,
}

/// A compiled edition.
pub struct Template {
    from: Address,
    bounce_domain: Domain,
    subject: Slots,
    from_name: Slots,
    headers: Vec<(String, Slots)>,
    bodies: Vec<Body>,
    tracking: Tracking,
    base_url: String,
    head: Head,
    parts: Parts,
    needs_object: bool,
    constants: Vec<(&'static str, String)>,
}

impl Template {
    /// Compiles every text of the edition; refuses what cannot be printed for anybody.
    pub fn compile(edition: &Edition) -> Result<Template, Error> {
        let constants = edition.constants();
        let slots = |part, source: &str| Slots::compile(part, source, edition.missing, &constants);
        let mut headers = Vec::with_capacity(edition.headers.len());
        for (name, value) in &edition.headers {
            headers::check_name(name)?;
            headers.push((name.clone(), slots(Part::Header, value)?));
        }
        let (html, text) = (guarded(&clean(&edition.html), &constants)?, clean(&edition.text));
        let mut bodies = Vec::new();
        for marks in Marks::of(edition.tracking) {
            let html = slots(Part::Html, &links::mark_html(&html, &edition.links, marks))?;
            let text = slots(Part::Text, &links::mark_text(&text, &edition.links, marks))?;
            bodies.push(Body { marks, html, text, links: if marks.clicks { edition.links.len() } else { 0 } });
        }
        let mut template = Template {
            from: address("from", &edition.from.address)?,
            bounce_domain: domain("sender.bounce_domain", &edition.bounce_domain)?,
            subject: slots(Part::Subject, &edition.subject)?,
            from_name: slots(Part::FromName, &edition.from.name)?,
            headers,
            bodies,
            tracking: edition.tracking,
            base_url: edition.base_url.clone(),
            head: Head::new(edition)?,
            parts: Parts::new(edition),
            needs_object: false,
            constants,
        };
        let needs_object = template.texts().any(Slots::needs_object);
        template.needs_object = needs_object;
        Ok(template)
    }

    /// The domain the message is from, and signed for.
    pub fn from_domain(&self) -> &Domain {
        self.from.domain()
    }

    /// The return path of one copy (MAIL FROM): `b.TOKEN@BOUNCE-DOMAIN`, the same at every attempt.
    pub fn return_path(&self, id: EnvelopeId, seal: &Seal) -> String {
        format!("b.{}@{}", seal.mint(id, Purpose::Bounce, 0), self.bounce_domain)
    }

    /// Every field of a contact that the texts of a part name, our own words included.
    pub(crate) fn fields_of(&self, part: Part) -> impl Iterator<Item = &str> {
        self.texts().filter(move |text| text.part() == part).flat_map(Slots::fields).map(|(field, _)| field)
    }

    /// Every field of a contact that the texts name, our own words included, with what each text wants it for.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, Use)> {
        self.texts().flat_map(Slots::fields)
    }

    /// Prints one copy. The same envelope, recipient and seal give the same bytes.
    ///
    /// # Panics
    /// When `envelope.date` is not set: it is set at the first attempt, before the first printing, and kept (M-05).
    pub fn print(&self, envelope: &Envelope, recipient: &Recipient, seal: &Seal) -> Result<Message, PrintError> {
        let date = envelope.date.expect("the date of a copy is set before it is first printed");
        let unsubscribe = seal.mint(envelope.id, Purpose::Unsubscribe, 0);
        let trace = seal.mint(envelope.id, Purpose::Message, 0);
        let body = self.body(Marks::for_recipient(self.tracking, recipient));
        let words = self.print_words(body, recipient, &self.urls(body, envelope.id, &unsubscribe, seal))?;
        let mut fields = Vec::with_capacity(20);
        fields.push(("From", Field::mailbox(words.from_name, self.from.to_string())));
        fields.push(("To", Field::mailbox(recipient.name.clone(), recipient.address.to_string())));
        fields.push(("Subject", Field::text(words.subject, headers::SUBJECT_MAX)));
        fields.push(("Date", Field::Exact(date.rfc5322())));
        fields.push(("Message-ID", Field::Exact(format!("<{trace}@{}>", self.from.domain()))));
        self.head.push(&mut fields, &unsubscribe, &seal.mint(envelope.id, Purpose::Feedback, 0));
        for ((name, _), value) in self.headers.iter().zip(words.headers) {
            fields.push((name, Field::text(value, headers::VALUE_MAX)));
        }
        let bytes = self.parts.write(fields, trace.as_str(), words.text, words.html);
        Ok(Message { id: envelope.id, bytes })
    }

    /// The texts of one copy as they are without any tracking, before they are put together as a message.
    pub fn words(&self, recipient: &Recipient, urls: &Urls) -> Result<Words, PrintError> {
        self.print_words(self.body(Marks::default()), recipient, urls)
    }

    /// Where the links of one copy lead that are ours, without tracked ones.
    pub fn plain_urls(&self, id: EnvelopeId, seal: &Seal) -> Urls {
        let body = self.body(Marks::default());
        self.urls(body, id, &seal.mint(id, Purpose::Unsubscribe, 0), seal)
    }

    /// The links of one copy; only those that its texts name are sealed, because a seal costs time.
    fn urls(&self, body: &Body, id: EnvelopeId, unsubscribe: &Token, seal: &Seal) -> Urls {
        let base = &self.base_url;
        let names =
            |word: &str| [&body.html, &body.text].iter().any(|text| text.fields().any(|(field, _)| field == word));
        let sealed = |word, path, purpose| match names(word) {
            true => format!("{base}/{path}/{}", seal.mint(id, purpose, 0)),
            false => String::new(),
        };
        let click = |number| format!("{base}/c/{}", seal.mint(id, Purpose::Click, number));
        Urls {
            unsubscribe: self.head.unsubscribe_url(unsubscribe),
            preferences: format!("{base}/p/{unsubscribe}"),
            view: sealed("view_url", "v", Purpose::View),
            confirm: sealed("confirm_url", "confirm", Purpose::Confirm),
            pixel: sealed("pixel_url", "o", Purpose::Open),
            clicks: (0..body.links as u16).map(click).collect(),
        }
    }

    fn body(&self, marks: Marks) -> &Body {
        let body = self.bodies.iter().find(|body| body.marks == marks);
        body.expect("every combination that the campaign's tracking allows is compiled")
    }

    fn print_words(&self, body: &Body, recipient: &Recipient, urls: &Urls) -> Result<Words, PrintError> {
        let address = recipient.address.to_string();
        let scope = Scope { recipient: Some(recipient), address: &address, urls };
        let object = Data::from(match self.needs_object {
            true => scope.object(&self.constants),
            false => serde_json::Value::Null,
        });
        let print = |slots: &Slots| slots.print(&scope, &object);
        Ok(Words {
            from_name: print(&self.from_name)?,
            subject: print(&self.subject)?,
            headers: self.headers.iter().map(|(_, slots)| print(slots)).collect::<Result<_, _>>()?,
            text: print(&body.text)?,
            html: print(&body.html)?,
        })
    }

    fn texts(&self) -> impl Iterator<Item = &Slots> {
        let headers = self.headers.iter().map(|(_, slots)| slots);
        let bodies = self.bodies.iter().flat_map(|body| [&body.html, &body.text]);
        [&self.subject, &self.from_name].into_iter().chain(bodies).chain(headers)
    }
}

/// Line ends as LF and no control characters but LF and tab: what the encoder takes for granted.
fn clean(source: &str) -> String {
    let unix = source.replace("\r\n", "\n").replace('\r', "\n");
    unix.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// The HTML with every value where it is harmless; what cannot stand where it does is refused with its line.
fn guarded(html: &str, constants: &[(&'static str, String)]) -> Result<String, Error> {
    guard(html, constants).map_err(|misplaced| {
        let line = Some(html[..misplaced.at].matches('\n').count() + 1);
        Error::Template { part: Part::Html, line, message: misplaced.message }
    })
}

fn address(field: &'static str, text: &str) -> Result<Address, Error> {
    Address::parse(text).map_err(|why| Error::Address { field, message: why.to_string() })
}

fn domain(field: &'static str, text: &str) -> Result<Domain, Error> {
    Domain::parse(text).map_err(|why| Error::Address { field, message: why.to_string() })
}

#[cfg(test)]
mod tests;
