//! An invented recipient for a template: every field it names has a value of a fitting kind, so that a message can be
//! looked at before there are contacts.

use serde_json::{Map, Value};

use crate::base::{Address, ContactId};
use crate::compose::slots::Use;
use crate::compose::{Template, Urls};
use crate::mail::{Consent, Recipient};

/// The words a template has beside the contact's fields.
const OUR_WORDS: &[&str] = &["email", "name", "postal_address", "list", "campaign"];

/// The address on the web that an invented recipient has.
pub(crate) const SITE: &str = "https://recipient.invalid/";

/// Somebody at `address` with a value for every field that the template names: `[city]` for `city`, an address on the web
/// where a link is wanted, a date where a date is.
pub fn sample(template: &Template, address: Address) -> Recipient {
    let mut fields = Map::new();
    for (field, wanted) in template.fields() {
        if OUR_WORDS.contains(&field) || Urls::WORDS.contains(&field) {
            continue;
        }
        let fitting = match wanted {
            Use::Any if fields.contains_key(field) => continue,
            Use::Any => format!("[{field}]"),
            Use::Link => SITE.to_owned(),
            Use::Date => "2026-11-23".to_owned(),
        };
        fields.insert(field.to_owned(), Value::from(fitting));
    }
    Recipient { contact: ContactId(0), address, name: "Alex Sample".to_owned(), fields, consent: Consent::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Edition;
    use crate::compose::edition::tests::sample as edition;

    /// The HTML part of the sample with this template, for an invented recipient.
    fn printed(html: &str) -> String {
        let edition = Edition { html: html.into(), ..edition() };
        let template = Template::compile(&edition).unwrap();
        let somebody = sample(&template, Address::parse("a@example.com").unwrap());
        let urls = Urls { unsubscribe: "https://example.com/u/x".into(), ..Urls::default() };
        template.words(&somebody, &urls).unwrap().html
    }

    #[test]
    fn every_field_has_a_value_that_fits() {
        for (html, shown) in [
            ("{{city}} {{[Last Name]}} {{this.street}}", "[city] [Last Name] [street]"),
            ("{{date joined}} {{date (trim born)}}", "23 November 2026 23 November 2026"),
            ("<a href=\"{{site}}\">x</a> {{site}}", &format!("<a href=\"{SITE}\">x</a> {SITE}")),
            ("{{link shop}} {{link this.shop}}", &format!("{SITE} {SITE}")),
            ("<a href={{trim home}}>y</a>", &format!("<a href=\"{SITE}\">y</a>")),
            ("<a href='{{#if a}}{{lookup this \"b\"}}{{/if}}'>", &format!("<a href='{SITE}'>")),
            ("{{lookup this \"Last Name\"}}", "[Last Name]"),
            (
                "follow the link city has, by the date name says {{city}} {{name}}{{!-- link city --}}",
                "follow the link city has, by the date name says [city] Alex Sample",
            ),
        ] {
            assert_eq!(printed(html), shown, "{html}");
        }
    }
}
