//! Editions: everything printing needs, frozen in one value and named by its hash. Built by `campaign`, kept by the
//! store as JSON.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::compose::{Error, Tracking};
use crate::mail::InDoubt;

/// What is done when a recipient lacks a field that the template uses. An empty value counts as lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The copy fails, and the report names the field.
    #[default]
    Error,
    /// The recipient is left out and counted.
    Skip,
    /// Nothing is printed in its place.
    Default,
}

/// Who the message is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromField {
    /// The display name, a template.
    pub name: String,
    /// The address, fixed.
    pub address: String,
}

/// A file that travels with every copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asset {
    /// Its file name.
    pub name: String,
    /// Its media type, as in `image/png`.
    pub media_type: String,
    /// For images shown inside the HTML: the Content-ID without angle brackets.
    pub content_id: Option<String>,
    /// Its bytes.
    #[serde(with = "base64")]
    pub bytes: Vec<u8>,
}

/// The frozen content of a campaign. All templates are expanded: no layout, no part and no file is needed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// The version of this record, now 1.
    pub format: u8,
    /// The campaign's name.
    pub campaign: String,
    /// The subject, a template.
    pub subject: String,
    /// Who it is from.
    pub from: FromField,
    /// Where answers go, when not to `from`.
    pub reply_to: Option<String>,
    /// Further headers: name and template.
    pub headers: Vec<(String, String)>,
    /// The HTML part, a template.
    pub html: String,
    /// The text part, a template.
    pub text: String,
    /// Images shown inside the HTML.
    pub inline: Vec<Asset>,
    /// Files to save.
    pub attachments: Vec<Asset>,
    /// The names of the lists it goes to, as the campaign has them; the first one names the stream (List-Id).
    pub lists: Vec<String>,
    /// The postal address every copy shows.
    pub postal_address: String,
    /// Where unsubscribe links lead, without a final slash.
    pub base_url: String,
    /// The domain of the `mailto:` in List-Unsubscribe.
    pub mailto_domain: String,
    /// The domain of return paths.
    pub bounce_domain: String,
    /// The SenderId of Feedback-ID, 5 to 15 characters.
    pub sender_id: String,
    /// What is done when a field is missing.
    pub missing: Missing,
    /// What becomes of copies whose answer was lost.
    pub in_doubt: InDoubt,
    /// What the campaign wants to know of its readers.
    pub tracking: Tracking,
    /// Where the tracked links lead, by number: templates.
    pub links: Vec<String>,
}

impl Edition {
    /// The version of the record this program writes and reads.
    pub const FORMAT: u8 = 1;

    /// The HTML with the inline pictures inside it, because a browser knows no parts of a message.
    pub fn with_pictures(&self, html: String) -> String {
        self.inline.iter().fold(html, |html, picture| {
            let id = picture.content_id.as_deref().unwrap_or_default();
            let bytes = data_encoding::BASE64.encode(&picture.bytes);
            html.replace(&format!("cid:{id}"), &format!("data:{};base64,{bytes}", picture.media_type))
        })
    }

    /// The words that are the same in every copy.
    pub(crate) fn constants(&self) -> Vec<(&'static str, String)> {
        vec![
            ("postal_address", self.postal_address.clone()),
            ("list", self.lists.first().cloned().unwrap_or_default()),
            ("campaign", self.campaign.clone()),
        ]
    }

    /// The edition as JSON; the same edition gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an edition has text keys only")
    }

    /// Reads what [`Edition::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Edition, Error> {
        let edition: Edition = serde_json::from_slice(bytes).map_err(|why| Error::Frozen(why.to_string()))?;
        if edition.format != Edition::FORMAT {
            return Err(Error::Frozen(format!("version {} is not known here", edition.format)));
        }
        Ok(edition)
    }

    /// The SHA-256 of [`Edition::to_bytes`]: its name.
    pub fn hash(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, &self.to_bytes());
        hash.as_ref().try_into().expect("SHA-256 yields 32 bytes")
    }
}

/// Bytes as base64 text in JSON.
mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An edition that uses a bit of everything.
    pub(crate) fn sample() -> Edition {
        Edition {
            format: Edition::FORMAT,
            campaign: "welcome".into(),
            subject: "Hello {{default name \"friend\"}}".into(),
            from: FromField { name: "Example News".into(), address: "news@example.com".into() },
            reply_to: None,
            headers: Vec::new(),
            html: "<p>Hello {{default name \"friend\"}}, from {{city}}.</p>\n<p>{{postal_address}} \
                   <a href=\"{{unsubscribe_url}}\">Unsubscribe</a></p>\n"
                .into(),
            text: "Hello {{default name \"friend\"}}, from {{city}}.\n\n{{postal_address}}\n{{unsubscribe_url}}\n"
                .into(),
            inline: Vec::new(),
            attachments: Vec::new(),
            lists: vec!["news".into()],
            postal_address: "Example Ltd, 1 Sample Street".into(),
            base_url: "https://mail.example.com".into(),
            mailto_domain: "bounce.example.com".into(),
            bounce_domain: "bounce.example.com".into(),
            sender_id: "examplecom".into(),
            missing: Missing::Error,
            in_doubt: InDoubt::Resend,
            tracking: Tracking::default(),
            links: Vec::new(),
        }
    }

    #[test]
    fn a_frozen_edition_reads_back_and_any_change_changes_its_hash() {
        let mut edition = sample();
        let asset =
            Asset { name: "ü.png".into(), media_type: "image/png".into(), content_id: None, bytes: vec![0, 255] };
        edition.attachments.push(asset);
        assert_eq!(Edition::from_bytes(&edition.to_bytes()).unwrap(), edition);
        let hash = edition.hash();
        assert_eq!(hash, edition.clone().hash());
        edition.attachments[0].bytes[0] = 1;
        assert_ne!(hash, edition.hash());
        edition.format = 9;
        assert!(matches!(Edition::from_bytes(&edition.to_bytes()), Err(Error::Frozen(_))));
    }
}
