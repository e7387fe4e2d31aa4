//! An invented recipient for a template: every field it names has a value of a fitting kind, so that a message can be
//! looked at before there are contacts.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::base::{Address, ContactId};
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
    for text in [&edition.subject, &edition.html, &edition.text].into_iter().chain(headers) {
        for (field, value) in wanted(text) {
            fields.entry(field.to_owned()).and_modify(|known| *known = Value::from(value));
        }
    }
    Recipient { contact: ContactId(0), address, name: "Alex Sample".to_owned(), fields, consent: Consent::default() }
}

/// The fields of a text that only a link or a date will do for.
fn wanted(text: &str) -> impl Iterator<Item = (&str, &'static str)> {
    static USE: LazyLock<Regex> = LazyLock::new(|| {
        let helper = r"(?P<helper>link|date)\s+(?P<field>[A-Za-z0-9_-]+|\[[^\]]+\])";
        let attribute =
            r#"(?:href|src|action|background)\s*=\s*["']?\s*\{\{~?\s*(?P<target>[A-Za-z0-9_-]+|\[[^\]]+\])\s*~?\}\}"#;
        Regex::new(&format!("{helper}|{attribute}")).expect("a fixed expression")
    });
    USE.captures_iter(text).filter_map(|found| {
        let field = found.name("field").or(found.name("target"))?.as_str().trim_matches(['[', ']']);
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
        edition.html = "{{city}} {{[Last Name]}} {{date joined}} <a href=\"{{site}}\">x</a> {{link shop}}".into();
        let template = Template::compile(&edition).unwrap();
        let somebody = sample(&edition, &template, Address::parse("a@example.com").unwrap());
        let urls = Urls { unsubscribe: "https://example.com/u/x".into(), ..Urls::default() };
        let words = template.words(&somebody, &urls).unwrap();
        assert_eq!(words.html, format!("[city] [Last Name] 23 November 2026 <a href=\"{SITE}\">x</a> {SITE}"));
    }
}
