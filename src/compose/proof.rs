//! What to refuse before a launch, and what to warn of: a letter is read once more, as a careful reader would, in the copy
//! of an invented recipient.

use serde::Serialize;

use crate::base::{Address, Domain};
use crate::compose::page::{Link, Page};
use crate::compose::sample::{SITE, sample};
use crate::compose::scope::as_link;
use crate::compose::{ConsentRule, Edition, Part, Template, Tracking, Urls, Words};

/// The postal address a new workspace comes with. It goes with reserved domains only.
pub const SAMPLE_POSTAL_ADDRESS: &str = "The Windowsill, 1 Sample Street, Sampleton AB1 2CD, Exampleland";

/// An HTML part of this size is near the one that Gmail cuts, in bytes (M-18).
const HTML_WARN: usize = 90 * 1024;
/// Gmail cuts an HTML part beyond this size, and with it the footer, in bytes (M-18).
const HTML_MAX: usize = 102 * 1024;
/// A whole message of this size is slow to open, in bytes (M-19).
const MESSAGE_WARN: usize = 2 * 1024 * 1024;
/// Yahoo takes no larger message, in bytes (M-19).
const MESSAGE_MAX: usize = 25 * 1024 * 1024;
/// Longest subject that lists of messages show, in characters.
const SUBJECT_WARN: usize = 120;

/// Domains whose owners refuse mail that claims to be from them and is not (M-02).
const FREE_MAIL: &[&str] = &[
    "gmail.com",
    "googlemail.com",
    "ymail.com",
    "rocketmail.com",
    "live.com",
    "msn.com",
    "aol.com",
    "icloud.com",
    "me.com",
    "mac.com",
    "web.de",
    "t-online.de",
    "freenet.de",
    "mail.ru",
    "proton.me",
    "protonmail.com",
    "pm.me",
    "orange.fr",
    "wanadoo.fr",
    "free.fr",
    "sfr.fr",
    "laposte.net",
    "libero.it",
    "virgilio.it",
    "seznam.cz",
    "wp.pl",
    "o2.pl",
    "onet.pl",
    "qq.com",
    "163.com",
    "126.com",
    "sina.com",
    "naver.com",
    "daum.net",
    "comcast.net",
    "att.net",
    "verizon.net",
    "zoho.com",
    "fastmail.com",
    "hey.com",
    "tuta.com",
    "mail.com",
    "bluewin.ch",
    "telenet.be",
    "ziggo.nl",
    "btinternet.com",
];
/// The same for names that stand below many top-level domains.
const FREE_MAIL_FAMILIES: &[&str] = &["yahoo", "hotmail", "outlook", "gmx", "yandex"];

/// Elements that mail programs drop, and filters take for an attack (M-19).
const FORBIDDEN: &[&str] = &["script", "form", "object", "embed", "iframe", "applet"];

/// How good or bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Can be sent, and should be looked at.
    Warn,
    /// Must not be sent like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// A word for what was looked at.
    pub subject: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
}

impl Remark {
    /// All is well.
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Remark {
        Remark { subject, grade: Grade::Ok, found: found.into(), remedy: String::new() }
    }

    /// To be looked at.
    pub fn warn(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Remark {
        Remark { subject, grade: Grade::Warn, found: found.into(), remedy: remedy.into() }
    }

    /// Must not be sent like this.
    pub fn fail(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Remark {
        Remark { subject, grade: Grade::Fail, found: found.into(), remedy: remedy.into() }
    }
}

/// All that was looked at, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Proof {
    /// One remark or more for each subject.
    pub remarks: Vec<Remark>,
}

impl Proof {
    /// Whether a launch is to be refused.
    pub fn is_refused(&self) -> bool {
        self.of(Grade::Fail).next().is_some()
    }

    /// The remarks of one grade.
    pub fn of(&self, grade: Grade) -> impl Iterator<Item = &Remark> {
        self.remarks.iter().filter(move |remark| remark.grade == grade)
    }
}

/// Reads an edition in the copy of an invented recipient.
pub fn proof(edition: &Edition, template: &Template) -> Proof {
    let mut reader = Reader { edition, template, remarks: Vec::new() };
    reader.read();
    Proof { remarks: reader.remarks }
}

/// The unsubscribe link of the copy that is read.
const UNSUBSCRIBE: &str = "https://unsubscribe.invalid/u/token";
/// Our other pages, in that copy.
const PAGES: [&str; 3] =
    ["https://preferences.invalid/p/token", "https://view.invalid/v/token", "https://confirm.invalid/token"];

/// Whether a link leads to a page of ours.
fn is_ours(target: &str) -> bool {
    target == UNSUBSCRIBE || PAGES.contains(&target)
}

/// Our links in that copy.
fn urls() -> Urls {
    Urls {
        unsubscribe: UNSUBSCRIBE.to_owned(),
        preferences: PAGES[0].to_owned(),
        view: PAGES[1].to_owned(),
        confirm: PAGES[2].to_owned(),
        ..Urls::default()
    }
}

struct Reader<'a> {
    edition: &'a Edition,
    template: &'a Template,
    remarks: Vec<Remark>,
}

impl Reader<'_> {
    fn read(&mut self) {
        self.from();
        self.answers();
        self.links_home();
        self.tracking();
        let somebody = Address::parse("somebody@example.com").expect("a fixed address");
        let recipient = sample(self.template, somebody);
        let words = match self.template.words(&recipient, &urls()) {
            Ok(words) => words,
            Err(why) => return self.add(Remark::fail("template", why.to_string(), "mend the template")),
        };
        let page = Page::read(&words.html);
        self.subject(&words.subject);
        self.size(&words);
        self.text(&words.text);
        self.elements(&page);
        self.links(&page);
        self.pictures(&page);
        self.unsubscribe(&page, &words.text);
        self.postal_address(&page, &words.text);
    }

    fn add(&mut self, remark: Remark) {
        self.remarks.push(remark);
    }

    /// Says that all is well with a subject, unless something else was said since `before`.
    fn add_ok(&mut self, before: usize, subject: &'static str, found: impl Into<String>) {
        if self.remarks.len() == before {
            self.add(Remark::ok(subject, found));
        }
    }

    /// Whether the From domain is one that nobody owns: samples and tests.
    fn is_rehearsal(&self) -> bool {
        self.template.from_domain().is_reserved()
    }

    fn from(&mut self) {
        let before = self.remarks.len();
        let domain = self.template.from_domain();
        if is_free_mail(domain) {
            self.add(Remark::fail(
                "from",
                format!("From is at {domain}, whose owner tells every host to refuse such mail from elsewhere"),
                "send from a domain of your own",
            ));
        }
        let mut fields = self.template.fields_of(Part::FromName);
        if let Some(field) = fields.find(|field| !matches!(*field, "list" | "campaign")) {
            self.add(Remark::warn(
                "from",
                format!("the sender's name contains the recipient's `{field}`"),
                "say in From who you are; put the recipient's words into the subject",
            ));
        }
        let name = self.edition.from.name.trim();
        if name.is_empty() {
            self.add(Remark::warn("from", "From has no name", "write from = \"Your Name <news@example.com>\""));
        } else if name.contains('@') {
            self.add(Remark::warn("from", "the sender's name looks like an address", "write a name people know"));
        }
        self.add_ok(before, "from", format!("{name} <{}>", self.edition.from.address));
    }

    /// Whether answers arrive (M-04).
    fn answers(&mut self) {
        let answers = self.edition.reply_to.as_deref().unwrap_or(&self.edition.from.address);
        let squeezed: String = answers.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
        if squeezed.starts_with("noreply") || squeezed.starts_with("donotreply") {
            let remedy = "providers ask for a sender that takes answers: set reply_to in campaign.toml";
            self.add(Remark::warn("answers", format!("answers go to {answers}"), remedy));
        } else {
            self.add(Remark::ok("answers", format!("answers go to {answers}")));
        }
    }

    /// What is tracked, and of whom; nothing is said where nothing is.
    fn tracking(&mut self) {
        let Tracking { opens, clicks, consent } = self.edition.tracking;
        let what = match (opens, clicks) {
            (false, false) => return,
            (true, false) => "opens",
            (false, true) => "clicks",
            (true, true) => "opens and clicks",
        };
        let whose = match consent {
            ConsentRule::OptIn => "those who agreed (links.tracking_consent = \"opt_in\")",
            ConsentRule::OptOut => "all but those who refused (links.tracking_consent = \"opt_out\")",
        };
        self.add(Remark::ok("tracking", format!("{what} of {whose}")));
    }

    /// Whether the address behind List-Unsubscribe can be one of ours (RFC 8058 §3.1).
    fn links_home(&mut self) {
        let url = &self.edition.base_url;
        let host = host_of(url).unwrap_or_default();
        let is_nobody = is_local(host) || Domain::parse(host).is_ok_and(|host| host.is_reserved());
        if is_nobody && !self.is_rehearsal() {
            self.add(Remark::fail(
                "one_click",
                format!("unsubscribe links would lead to {url}, which no recipient can reach"),
                "set links.base_url to the public https address of your pages",
            ));
        } else if !url.starts_with("https://") {
            self.add(Remark::warn(
                "one_click",
                format!("links.base_url is {url}: without https there is no one-click unsubscribe"),
                "Gmail and Yahoo demand it of bulk senders: serve the pages by https",
            ));
        } else {
            self.add(Remark::ok("one_click", format!("List-Unsubscribe leads to {url}, with one click")));
        }
    }

    fn subject(&mut self, subject: &str) {
        let before = self.remarks.len();
        let subject = subject.trim();
        if subject.is_empty() {
            self.add(Remark::fail("subject", "the subject is empty", "write one in campaign.toml"));
        }
        let lower = subject.to_lowercase();
        if let Some(mark) = ["re:", "fw:", "fwd:", "aw:", "wg:"].iter().find(|mark| lower.starts_with(**mark)) {
            self.add(Remark::fail(
                "subject",
                format!("the subject begins with `{}`, as if this were an answer", &subject[..mark.len()]),
                "take it out: providers treat faked conversations as spam",
            ));
        }
        let length = subject.chars().count();
        if length > SUBJECT_WARN {
            let found = format!("the subject has {length} characters; most programs show fewer than {SUBJECT_WARN}");
            self.add(Remark::warn("subject", found, "make it shorter"));
        }
        self.add_ok(before, "subject", subject);
    }

    fn size(&mut self, words: &Words) {
        let html = words.html.len();
        let shown = format!("the HTML part has {} KB", html.div_ceil(1024));
        let remedy =
            "Gmail cuts what is beyond 102 KB, and with it the footer: shorten it, and keep pictures out of it";
        self.add(match html {
            0..HTML_WARN => Remark::ok("size", shown),
            HTML_WARN..=HTML_MAX => Remark::warn("size", shown, remedy),
            _ => Remark::fail("size", shown, remedy),
        });
        let files = self.edition.inline.iter().chain(&self.edition.attachments);
        let whole = html + words.text.len() + files.map(|file| file.bytes.len() * 4 / 3).sum::<usize>();
        let shown = format!("a whole message has about {} MB", whole.div_ceil(1024 * 1024));
        if whole > MESSAGE_MAX {
            self.add(Remark::fail("size", shown, "many hosts take no more than 25 MB: link to large files"));
        } else if whole > MESSAGE_WARN {
            self.add(Remark::warn("size", shown, "link to large files instead"));
        }
    }

    fn text(&mut self, text: &str) {
        let words = text.split_whitespace().count();
        self.add(match words {
            0 => Remark::fail("text_part", "there is no text part", "write a body.txt, or words into the body"),
            _ => Remark::ok("text_part", format!("the text part has {words} words")),
        });
    }

    fn elements(&mut self, page: &Page) {
        let before = self.remarks.len();
        let found: Vec<&str> = FORBIDDEN.iter().copied().filter(|name| page.elements.contains(*name)).collect();
        if !found.is_empty() {
            self.add(Remark::fail(
                "elements",
                format!("the HTML part has <{}>", found.join(">, <")),
                "mail programs drop these and filters take them for an attack: link to a page instead",
            ));
        }
        if let Some(handler) = page.handlers.first() {
            self.add(Remark::fail("elements", format!("the HTML part has a script in `{handler}`"), "take it out"));
        }
        let words = page.words.to_lowercase();
        if let Some(left) = ["lorem ipsum", "{{", "todo:", "[insert"].iter().find(|mark| words.contains(**mark)) {
            self.add(Remark::warn("elements", format!("the HTML part still says `{left}`"), "finish the text"));
        }
        if words.contains('\u{fffd}') {
            let found = "the HTML part has characters that were lost in some conversion (\u{fffd})";
            self.add(Remark::warn("elements", found, "save the body as UTF-8 and write them again"));
        }
        self.add_ok(before, "elements", "no scripts, forms or frames");
    }

    fn links(&mut self, page: &Page) {
        let before = self.remarks.len();
        for link in page.links.iter().filter(|link| !is_ours(&link.target)) {
            self.link(link);
        }
        let others = page.links.iter().filter(|link| !is_ours(&link.target)).count();
        self.add_ok(before, "links", format!("{others} beside the unsubscribe link"));
    }

    fn link(&mut self, link: &Link) {
        let Link { target, words } = link;
        let shown: String = target.chars().take(80).collect();
        let wrong = |found: String, remedy: &str| Remark::fail("links", found, remedy);
        if target.is_empty() || target == "#" {
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            return self.add(wrong(format!("the link on \"{words}\" leads nowhere"), "write the address of a page"));
        }
        if target.starts_with('#') {
            return;
        }
        if target.contains("{{") || target.contains("%7B%7B") {
            return self.add(wrong(format!("the link {shown} holds a template that is not filled"), "mend it"));
        }
        if as_link(target).is_none() {
            return self.add(wrong(
                format!("the link {shown} is no address of a page"),
                "write it whole and without blanks, as in https://www.example.com/page",
            ));
        }
        if target.starts_with("mailto:") || target.starts_with("tel:") || target == SITE {
            return;
        }
        self.web_link(target, &shown, words);
    }

    fn web_link(&mut self, target: &str, shown: &str, words: &str) {
        let authority = authority_of(target).unwrap_or_default();
        let host = host_of(target).unwrap_or_default();
        let name = Domain::parse(host).ok().filter(|name| name.as_str().contains('.'));
        let is_number =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit() || b == b'.') || host.starts_with('[');
        if is_local(host) || is_stand_in(host) || name.as_ref().is_some_and(Domain::is_reserved) && !self.is_rehearsal()
        {
            let remedy = "write the address of a real page";
            return self.add(Remark::fail("links", format!("the link {shown} is only a stand-in"), remedy));
        }
        if name.is_none() && !is_number || authority.contains('@') {
            let remedy = "write it as https://HOST/PAGE";
            return self.add(Remark::fail("links", format!("the link {shown} names no host"), remedy));
        }
        if is_number || authority.rsplit_once(':').is_some_and(|(_, port)| port != "443" && port != "80") {
            let remedy = "filters distrust numbers and ports in links: use a host name and the usual port";
            self.add(Remark::warn("links", format!("the link {shown}"), remedy));
        } else if target.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:")) {
            self.add(Remark::warn("links", format!("the link {shown} is not encrypted"), "write https"));
        }
        let claimed = words.trim();
        let claims = claimed.starts_with("http://") || claimed.starts_with("https://") || claimed.starts_with("www.");
        let claimed_host = host_of(claimed).or_else(|| claimed.split('/').next()).unwrap_or_default();
        let bare = |host: &str| host.trim_start_matches("www.").to_lowercase();
        if claims && self.edition.links.iter().any(|tracked| tracked == target) {
            let found =
                format!("a link reads {claimed_host}, and clicks on it are tracked over {}", self.edition.base_url);
            self.add(Remark::warn(
                "links",
                found,
                "filters take this for fraud: write words, or mark it data-track=\"off\"",
            ));
        } else if claims && bare(claimed_host) != bare(host) {
            let found = format!("a link reads {claimed_host} and leads to {host}");
            self.add(Remark::warn("links", found, "filters take this for fraud: write words instead of an address"));
        }
    }

    fn pictures(&mut self, page: &Page) {
        let before = self.remarks.len();
        let known: Vec<&str> = self.edition.inline.iter().filter_map(|file| file.content_id.as_deref()).collect();
        let mut silent = 0;
        for picture in &page.pictures {
            let source = &picture.source;
            let shown: String = source.chars().take(80).collect();
            silent += usize::from(picture.words.is_none());
            if let Some(id) = source.strip_prefix("cid:") {
                if !known.contains(&id) {
                    let remedy = "name its file under `inline` in campaign.toml";
                    self.add(Remark::fail("pictures", format!("there is no picture for {shown}"), remedy));
                }
            } else if source.starts_with("data:") {
                let remedy = "Gmail and Outlook do not show it: put the file under `inline` or on the web";
                self.add(Remark::warn("pictures", "a picture stands inside the HTML", remedy));
            } else if !source.starts_with("https://") && !source.starts_with("http://") {
                let remedy = "write a whole address, or put the file under `inline` and write cid:FILE";
                self.add(Remark::fail("pictures", format!("the picture `{shown}` is on no host"), remedy));
            }
        }
        if silent > 0 {
            let found = format!("{silent} of {} pictures have no `alt`", page.pictures.len());
            self.add(Remark::warn("pictures", found, "write what they show, or alt=\"\" for mere decoration"));
        }
        self.add_ok(before, "pictures", format!("{} of them", page.pictures.len()));
    }

    fn unsubscribe(&mut self, page: &Page, text: &str) {
        let seen = page.links.iter().any(|link| link.target == UNSUBSCRIBE && !link.words.trim().is_empty());
        let in_text = text.contains(UNSUBSCRIBE);
        for (part, is_there) in [("HTML", seen), ("text", in_text)] {
            if !is_there {
                let remedy = match part {
                    "HTML" => "write <a href=\"{{unsubscribe_url}}\">Unsubscribe</a> into the body or its layout",
                    _ => "write {{unsubscribe_url}} into the text layout or body.txt",
                };
                self.add(Remark::fail("unsubscribe", format!("the {part} part has no unsubscribe link"), remedy));
            }
        }
        if seen && in_text {
            self.add(Remark::ok("unsubscribe", "a visible link in both parts"));
        }
    }

    /// The address that the law asks for (U-11).
    fn postal_address(&mut self, page: &Page, text: &str) {
        let address = self.edition.postal_address.as_str();
        let remedy = "set sender.postal_address in mailshot.toml: the law of most countries asks for it";
        if address.is_empty() {
            return self.add(Remark::fail("postal_address", "there is none", remedy));
        }
        if address == SAMPLE_POSTAL_ADDRESS && !self.is_rehearsal() {
            let found = format!("it is still the sample, and mail from {} is real", self.template.from_domain());
            return self.add(Remark::fail("postal_address", found, remedy));
        }
        let before = self.remarks.len();
        for (part, words) in [("HTML", page.words.as_str()), ("text", text)] {
            if !letters(words).contains(&letters(address)) {
                let remedy = "write {{postal_address}} into the layout of both parts, where readers see it";
                self.add(Remark::fail("postal_address", format!("the {part} part does not show it"), remedy));
            }
        }
        self.add_ok(before, "postal_address", address);
    }
}

/// Only what is left when marks, blanks and case do not matter.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether addresses there belong to a provider's users.
fn is_free_mail(domain: &Domain) -> bool {
    let name = domain.as_str();
    FREE_MAIL.contains(&name)
        || domain.registrable() == Some(name)
            && name.split_once('.').is_some_and(|(label, _)| FREE_MAIL_FAMILIES.contains(&label))
}

/// What stands between `//` and the path.
fn authority_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

/// The host of a web address, without its port.
fn host_of(url: &str) -> Option<&str> {
    let authority = authority_of(url)?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(_) => host.split_once(']').map(|(address, _)| &host[..=address.len()]),
        None => host.split(':').next(),
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.starts_with("127.")
        || host == "[::1]"
        || host == "0.0.0.0"
}

/// Names that people write where the real one is to come.
fn is_stand_in(host: &str) -> bool {
    let host = host.trim_start_matches("www.").to_lowercase();
    ["yourdomain", "your-domain", "yoursite", "mydomain", "placeholder", "domain.com", "domain.tld", "todo"]
        .iter()
        .any(|stand_in| host == *stand_in || host.strip_prefix(stand_in).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests;
