//! Tracked links and the open pixel (U-14 … U-22). A campaign's links are numbered when it is frozen, and their targets stand
//! in the edition: a click names a copy and a number, never an address, so that nobody can be led anywhere else.

use std::fmt::Write;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

use crate::compose::page::decode;
use crate::compose::scope::{Scope, Urls, as_link};
use crate::compose::shield::Shield;
use crate::compose::slots::Slots;
use crate::compose::{Edition, Error, Missing, Part};
use crate::config::TrackingConsent;
use crate::mail::Recipient;

/// Most links of one edition that are tracked; those behind them lead straight to their targets.
const LINKS_MAX: usize = 1000;
/// The word under which a template finds the tracked link of a number.
pub(crate) const CLICK_WORD: &str = "click_url_";

/// What a campaign wants to know of its readers. Off unless the campaign asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Whether copies carry a pixel that tells when they are opened.
    pub opens: bool,
    /// Whether links lead over our pages, which count them.
    pub clicks: bool,
    /// Whom it may be done to.
    pub consent: ConsentRule,
}

/// Who may be tracked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentRule {
    /// Contacts who said yes (U-19).
    #[default]
    OptIn,
    /// Contacts who did not say no.
    OptOut,
}

impl From<TrackingConsent> for ConsentRule {
    fn from(setting: TrackingConsent) -> ConsentRule {
        match setting {
            TrackingConsent::OptIn => ConsentRule::OptIn,
            TrackingConsent::OptOut => ConsentRule::OptOut,
        }
    }
}

impl ConsentRule {
    /// Whether somebody who said this, or nothing, may be tracked.
    pub fn allows(self, said: Option<bool>) -> bool {
        said.unwrap_or(self == ConsentRule::OptOut)
    }
}

/// What one copy carries, as campaign and contact have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) opens: bool,
    pub(crate) clicks: bool,
}

impl Marks {
    /// Every combination that copies of this edition may have.
    pub(crate) fn of(tracking: Tracking) -> Vec<Marks> {
        let choices = |asked: bool| if asked { vec![false, true] } else { vec![false] };
        let pairs = choices(tracking.opens).into_iter();
        pairs
            .flat_map(|opens| choices(tracking.clicks).into_iter().map(move |clicks| Marks { opens, clicks }))
            .collect()
    }

    /// What this recipient's copy carries.
    pub(crate) fn for_recipient(tracking: Tracking, recipient: &Recipient) -> Marks {
        let allows = |said| tracking.consent.allows(said);
        Marks {
            opens: tracking.opens && allows(recipient.consent.opens),
            clicks: tracking.clicks && allows(recipient.consent.clicks),
        }
    }
}

/// The targets of all links of a message that may be tracked, each once, in the order in which they first come: templates,
/// as they stand in the parts. Left alone are mail and telephone links, anchors, our own pages, links whose host is filled in
/// per contact, and those marked `data-track="off"` or `rel="no-track"` (U-16).
pub fn trackable(html: &str, text: &str, base_url: &str) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    let mut left_alone: Vec<String> = Vec::new();
    let mut see = |target: &str, is_off: bool| {
        let known = if is_off { &mut left_alone } else { &mut targets };
        if !known.iter().any(|other| other == target) {
            known.push(target.to_owned());
        }
    };
    each_html_link(html, |target, is_off| {
        see(target, is_off);
        None
    });
    each_text_link(text, |target| {
        see(target, false);
        None
    });
    targets.retain(|target| !left_alone.contains(target) && !is_ours(target, base_url));
    targets.truncate(LINKS_MAX);
    targets
}

fn is_ours(target: &str, base_url: &str) -> bool {
    target.strip_prefix(base_url).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// The HTML template with every known link led over our pages, and with the pixel, as far as the marks go.
pub(crate) fn mark_html(html: &str, links: &[String], marks: Marks) -> String {
    let mut marked = match marks.clicks {
        true => each_html_link(html, |target, is_off| word_of(links, target).filter(|_| !is_off)),
        false => html.to_owned(),
    };
    if marks.opens {
        let end = marked.to_ascii_lowercase().rfind("</body>").unwrap_or(marked.len());
        marked.insert_str(end, PIXEL);
    }
    marked
}

/// The text template with every known link led over our pages.
pub(crate) fn mark_text(text: &str, links: &[String], marks: Marks) -> String {
    match marks.clicks {
        true => each_text_link(text, |target| word_of(links, target)),
        false => text.to_owned(),
    }
}

const PIXEL: &str =
    "<img src=\"{{pixel_url}}\" width=\"1\" height=\"1\" alt=\"\" style=\"width:1px;height:1px;border:0\">";

/// The expression that stands for a tracked link from now on.
fn word_of(links: &[String], target: &str) -> Option<String> {
    let number = links.iter().position(|known| known == target)?;
    Some(format!("{{{{{CLICK_WORD}{number}}}}}"))
}

/// Shows every web link of an HTML template to `see`, with whether it is marked to be left alone; where `see` gives
/// something, it stands in the link's place. What is in comments, the conditional ones of Outlook too, is left as it is.
fn each_html_link(html: &str, mut see: impl FnMut(&str, bool) -> Option<String>) -> String {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| fixed(r#"(?is)<!--(?:-?>|.*?--!?>)|<(?:a|area)\s(?:[^>"']|"[^"]*"|'[^']*')*>"#));
    static HREF: LazyLock<Regex> =
        LazyLock::new(|| fixed(r#"(?is)(\shref\s*=\s*)(?:"([^"]*)"|'([^']*)'|([^\s>"']+))"#));
    static OFF: LazyLock<Regex> =
        LazyLock::new(|| fixed(r#"(?i)\sdata-track\s*=\s*["']?off\b|\srel\s*=\s*["']?[^"'>]*\bno-track\b"#));
    let mut shield = Shield::default();
    let covered = shield.cover(html);
    let marked = TAG.replace_all(&covered, |tag: &Captures<'_>| {
        let tag = &tag[0];
        if tag.starts_with("<!--") {
            return tag.to_owned();
        }
        let is_off = OFF.is_match(tag);
        let led = HREF.replace(tag, |href: &Captures<'_>| {
            let value = href.get(2).or(href.get(3)).or(href.get(4)).map_or("", |value| value.as_str());
            let instead = target(&decode(value), &shield).and_then(|target| see(&target, is_off));
            match instead {
                Some(word) => format!("{}\"{word}\"", &href[1]),
                None => href[0].to_owned(),
            }
        });
        led.into_owned()
    });
    shield.uncover(&marked)
}

/// As [`each_html_link`], for the web addresses in a text template.
fn each_text_link(text: &str, mut see: impl FnMut(&str) -> Option<String>) -> String {
    static ADDRESS: LazyLock<Regex> = LazyLock::new(|| fixed(r#"(?i)\bhttps?://[^\s<>"]+"#));
    let mut shield = Shield::default();
    let covered = shield.cover(text);
    let marked = ADDRESS.replace_all(&covered, |found: &Captures<'_>| {
        let (address, rest) = found[0].split_at(end_of_address(&found[0]));
        match target(address, &shield).and_then(|target| see(&target)) {
            Some(word) => format!("{word}{rest}"),
            None => found[0].to_owned(),
        }
    });
    shield.uncover(&marked)
}

/// Where an address in a text ends: before the full stop of its sentence, and before a bracket that it did not open.
fn end_of_address(found: &str) -> usize {
    let mut end = found.len();
    while let Some(last) = found[..end].chars().next_back() {
        let (opens, closes) = (found[..end].matches('(').count(), found[..end].matches(')').count());
        match last {
            ')' if closes > opens => end -= 1,
            '.' | ',' | ';' | ':' | '!' | '?' | '\'' | ']' | '}' | '*' | '_' => end -= 1,
            _ => return end,
        }
    }
    end
}

/// The target that may be tracked: on the web, at a host that is the same for everybody.
fn target(covered: &str, shield: &Shield) -> Option<String> {
    let covered = covered.trim();
    let link =
        as_link(covered).filter(|link| link.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http")))?;
    let host = link.split_once("://")?.1.split(['/', '?', '#']).next()?;
    (!host.is_empty() && !host.contains('@') && !Shield::is_covered(host)).then(|| shield.uncover(link))
}

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("a fixed expression")
}

/// Where the tracked links of an edition lead.
pub struct Targets {
    links: Vec<Slots>,
    constants: Vec<(&'static str, String)>,
    tracking: Tracking,
}

impl Targets {
    /// Compiles the targets of an edition.
    pub fn compile(edition: &Edition) -> Result<Targets, Error> {
        let constants = edition.constants();
        let compile = |target: &String| Slots::compile(Part::Text, target, Missing::Default, &constants);
        let links = edition.links.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Targets { links, constants, tracking: edition.tracking })
    }

    /// What the campaign asked for, and of whom.
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// How many links there are.
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Whether the target of this link is the same for everybody; `None` when there is no such link.
    pub fn is_same_for_all(&self, number: u16) -> Option<bool> {
        self.links.get(usize::from(number)).map(|link| link.fields().next().is_none())
    }

    /// Where a link leads for this recipient, or for somebody who is no longer known. `None` when there is no such link, or
    /// when it leads to no page on the web.
    pub fn target(&self, number: u16, recipient: Option<&Recipient>) -> Option<String> {
        let link = self.links.get(usize::from(number))?;
        let urls = Urls::default();
        let address = recipient.map(|somebody| somebody.address.to_string()).unwrap_or_default();
        let scope = Scope { recipient, address: &address, urls: &urls };
        let object = handlebars::Context::from(match link.needs_object() {
            true => scope.object(&self.constants),
            false => serde_json::Value::Null,
        });
        let printed = link.print(&scope, &object).ok()?;
        // a blank in a value is no end of the address: readers' programs encode it as well
        let target = as_header(as_link(&printed.trim().replace(' ', "%20"))?);
        target.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http")).then_some(target)
    }
}

/// A link as the ASCII of a Location header: whatever is not ASCII becomes its percent-encoded UTF-8 (RFC 3987 §3.1).
fn as_header(link: &str) -> String {
    let mut ascii = String::with_capacity(link.len());
    let mut buffer = [0; 4];
    for c in link.chars() {
        match c.is_ascii() {
            true => ascii.push(c),
            false => c.encode_utf8(&mut buffer).bytes().for_each(|byte| {
                let _ = write!(ascii, "%{byte:02X}");
            }),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Address, ContactId};
    use crate::compose::edition::tests::sample;
    use crate::mail::Consent;

    const BASE: &str = "https://mail.example.com";

    fn somebody(fields: serde_json::Value) -> Recipient {
        Recipient {
            contact: ContactId(1),
            address: Address::parse("ada@example.net").unwrap(),
            name: "Ada".into(),
            fields: fields.as_object().unwrap().clone(),
            consent: Consent::default(),
        }
    }

    #[test]
    fn only_web_links_with_a_host_of_their_own_are_tracked() {
        for (html, expected) in [
            (r#"<a href="https://a.example/x?y=1&amp;z=2">a</a>"#, &["https://a.example/x?y=1&z=2"][..]),
            (r#"<A class=b HREF = 'http://a.example'>a</A>"#, &["http://a.example"]),
            ("<a href=https://a.example/{{city}}>a</a>", &["https://a.example/{{city}}"]),
            (
                r#"<a href="https://a.example/?c={{url [Last Name]}}#top">a</a>"#,
                &["https://a.example/?c={{url [Last Name]}}#top"],
            ),
            (r##"<a href="mailto:a@a.example">a</a><a href="tel:1">b</a><a href="#x">c</a><a name="y">d</a>"##, &[]),
            (r#"<a href="{{unsubscribe_url}}">a</a><a href="{{site}}">b</a><a href="https://{{shop}}/x">c</a>"#, &[]),
            (
                r#"<a href="https://mail.example.com/s/news">a</a><a href="https://mail.example.com.evil.example/">b</a>"#,
                &["https://mail.example.com.evil.example/"],
            ),
            (
                r#"<a data-track="off" href="https://a.example/">a</a><a href="https://b.example/" rel="nofollow no-track">b</a>"#,
                &[],
            ),
            (
                r#"<!--[if mso]><a href="https://a.example/">a</a><![endif]--><a href="https://user@a.example/">b</a>"#,
                &[],
            ),
            (
                r#"<!--[if !mso]><!--><a href="https://a.example/">a</a><!--<![endif]--><!--><a href="https://b.example/">b</a>-->"#,
                &["https://a.example/", "https://b.example/"],
            ),
            (
                r#"<a title="a > b" href="https://a.example/">a</a><a href="https://a.example/">again</a>"#,
                &["https://a.example/"],
            ),
            ("<link href=\"https://a.example/x.css\"><img src=\"https://a.example/y.png\">", &[]),
        ] {
            assert_eq!(trackable(html, "", BASE), expected, "{html}");
        }
    }

    #[test]
    fn addresses_in_a_text_end_where_their_sentence_does() {
        for (text, expected) in [
            (
                "Read https://a.example/x. Or (https://b.example/y)!",
                &["https://a.example/x", "https://b.example/y"][..],
            ),
            (
                "https://a.example/x_(y) and <https://b.example/?c={{url city}}>",
                &["https://a.example/x_(y)", "https://b.example/?c={{url city}}"],
            ),
            ("{{unsubscribe_url}} https://mail.example.com/u/x mailto:a@b.example", &[]),
        ] {
            assert_eq!(trackable("", text, BASE), expected, "{text}");
        }
        let off = r#"<a href="https://a.example/" data-track="off">a</a>"#;
        assert_eq!(trackable(off, "https://a.example/ https://b.example/", BASE), ["https://b.example/"]);
    }

    #[test]
    fn a_link_is_led_over_our_pages_in_both_parts_under_one_number_and_the_rest_stays_as_it_is() {
        let html = "<body><p title=\"{{x}}\">{{#if y}}<a\nhref='https://a.example/?a=1&amp;b={{url c}}' id=z>{{y}}</a>{{/if}}<a \
                    href=\"https://off.example/\" data-track=off>o</a></p></body>";
        let text = "y (https://a.example/?a=1&b={{url c}})\n";
        let links = trackable(html, text, BASE);
        assert_eq!(links, ["https://a.example/?a=1&b={{url c}}"]);
        let all = Marks { opens: true, clicks: true };
        let marked = mark_html(html, &links, all);
        assert_eq!(
            marked,
            format!(
                "<body><p title=\"{{{{x}}}}\">{{{{#if y}}}}<a\nhref=\"{{{{click_url_0}}}}\" id=z>{{{{y}}}}</a>{{{{/if}}}}<a \
                 href=\"https://off.example/\" data-track=off>o</a></p>{PIXEL}</body>"
            )
        );
        assert_eq!(mark_text(text, &links, all), "y ({{click_url_0}})\n");
        assert_eq!(mark_html(html, &links, Marks::default()), html);
    }

    #[test]
    fn a_target_is_printed_for_its_reader_and_leads_to_the_web_or_nowhere() {
        let mut edition = sample();
        edition.links = vec![
            "https://a.example/?c={{url city}}&n=ü".into(),
            "https://a.example/{{city}}".into(),
            "https://a.example/".into(),
            "{{city}}".into(),
            "https://a.example/{{lookup this \"city\"}}/{{this.city}}".into(),
        ];
        let targets = Targets::compile(&edition).unwrap();
        let ulm = somebody(serde_json::json!({"city": "Ulm & Bonn"}));
        assert_eq!(targets.target(0, Some(&ulm)).unwrap(), "https://a.example/?c=Ulm%20%26%20Bonn&n=%C3%BC");
        assert_eq!(targets.target(0, None).unwrap(), "https://a.example/?c=&n=%C3%BC");
        let york = somebody(serde_json::json!({"city": "New York"}));
        assert_eq!(targets.target(1, Some(&york)).unwrap(), "https://a.example/New%20York");
        let hostile = somebody(serde_json::json!({"city": "x\r\nSet-Cookie: y"}));
        assert_eq!(targets.target(1, Some(&hostile)), None);
        assert_eq!(targets.target(2, None).unwrap(), "https://a.example/");
        assert_eq!((targets.is_same_for_all(2), targets.is_same_for_all(1)), (Some(true), Some(false)));
        assert_eq!((targets.is_same_for_all(4), targets.is_same_for_all(5)), (Some(false), None));
        let script = somebody(serde_json::json!({"city": "javascript:alert(1)"}));
        assert_eq!((targets.target(3, Some(&script)), targets.target(5, None)), (None, None));
    }

    #[test]
    fn nobody_is_tracked_without_consent() {
        for (rule, said, expected) in [
            (ConsentRule::OptIn, None, false),
            (ConsentRule::OptIn, Some(true), true),
            (ConsentRule::OptIn, Some(false), false),
            (ConsentRule::OptOut, None, true),
            (ConsentRule::OptOut, Some(false), false),
        ] {
            let tracking = Tracking { opens: true, clicks: false, consent: rule };
            let mut reader = somebody(serde_json::json!({}));
            reader.consent = Consent { opens: said, clicks: Some(true) };
            assert_eq!(Marks::for_recipient(tracking, &reader), Marks { opens: expected, clicks: false });
        }
    }
}
