//! An invented recipient for a template: every field it names has a value of a fitting kind, so that a message can be
//! looked at before there are contacts.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::base::{Address, ContactId};
use crate::compose::guard::guard;
use crate::compose::{Edition, Part, Template, Urls};
use crate::mail::{Consent, Recipient};

/// The words a template has beside the contact's fields.
const OUR_WORDS: &[&str] = &["email", "name", "postal_address", "list", "campaign"];

/// The address on the web that an invented recipient has.
pub(crate) const SITE: &str = "https://recipient.invalid/";

/// Somebody at `address` with a value for every field that the edition names: `[city]` for `city`, an address on the web
/// where a link is wanted, a date where a date is.
pub fn sample(edition: &Edition, template: &Template, address: Address) -> Recipient {
    let mut fields = Map::new();
    for part in [Part::Subject, Part::FromName, Part::Header, Part::Html, Part::Text] {
        for field in
            template.fields(part).into_iter().filter(|field| !OUR_WORDS.contains(field) && !Urls::WORDS.contains(field))
        {
            fields.insert(field.to_owned(), Value::from(format!("[{field}]")));
        }
    }
    let headers = edition.headers.iter().map(|(_, text)| text);
    // guarded, it names every field that begins a link
    let html = guard(&edition.html, &edition.constants()).unwrap_or_else(|_| edition.html.clone());
    for text in [&edition.subject, &html, &edition.text].into_iter().chain(headers) {
        for (field, value) in wanted(text) {
            fields.insert(field.to_owned(), Value::from(value));
        }
    }
    Recipient { contact: ContactId(0), address, name: "Alex Sample".to_owned(), fields, consent: Consent::default() }
}

/// The fields of a text that only a link or a date will do for.
fn wanted(text: &str) -> impl Iterator<Item = (&str, &'static str)> {
    static USE: LazyLock<Regex> = LazyLock::new(|| {
        let (path, name) = (r"(?:(?:this|\.\.)[./])*", r"[A-Za-z0-9_-]+|\[[^\]]+\]");
        let helper = format!(r"(?P<helper>link|date)\s+{path}(?P<field>{name})");
        let inner = format!(r#"link\s+\((?:lookup\s+\S+\s+"(?P<key>[^"]+)"|\w+\s+{path}(?P<inner>{name}))"#);
        Regex::new(&format!("{helper}|{inner}")).expect("a fixed expression")
    });
    USE.captures_iter(text).filter_map(|found| {
        let field =
            ["field", "inner", "key"].iter().find_map(|group| found.name(group))?.as_str().trim_matches(['[', ']']);
        let is_date = found.name("helper").is_some_and(|helper| helper.as_str() == "date");
        Some((field, if is_date { "2026-11-23" } else { SITE }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::edition::tests::sample as edition;

    #[test]
    fn every_field_has_a_value_that_fits() {
        let mut edition = edition();
        edition.html = "{{city}} {{[Last Name]}} {{date joined}} <a href=\"{{site}}\">x</a> {{link shop}}\
                        <a href={{trim home}}>y</a><a href='{{#if a}}{{lookup this \"b\"}}{{/if}}'>z</a>"
            .into();
        let template = Template::compile(&edition).unwrap();
        let somebody = sample(&edition, &template, Address::parse("a@example.com").unwrap());
        let urls = Urls { unsubscribe: "https://example.com/u/x".into(), ..Urls::default() };
        let words = template.words(&somebody, &urls).unwrap();
        let rest = format!("<a href=\"{SITE}\">y</a><a href='{SITE}'>z</a>");
        assert_eq!(words.html, format!("[city] [Last Name] 23 November 2026 <a href=\"{SITE}\">x</a> {SITE}{rest}"));
    }
}
