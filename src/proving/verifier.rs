//! Checks DKIM signatures against keys at hand instead of DNS.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use futures_util::FutureExt;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, DnsError, MessageAuthenticator, Parameters, ResolverCache, Txt};

use crate::proving::counts::Signed;
use crate::sign::Record;

/// A verifier that knows some keys.
pub struct Verifier {
    authenticator: MessageAuthenticator,
    keys: Keys,
}

/// The keys by their record's name in lower case, with a final dot; asked instead of the name service.
struct Keys(HashMap<Box<str>, Txt>);

impl Verifier {
    /// A verifier that knows the keys of these records; a record that is no key is left out.
    pub fn new(records: &[Record]) -> Verifier {
        let key = |record: &Record| {
            let name = format!("{}.", record.name.to_ascii_lowercase()).into_boxed_str();
            Some((name, DomainKey::parse(record.value.as_bytes()).ok()?.into()))
        };
        // Made without asking anybody: every question is answered by the keys at hand.
        let authenticator = MessageAuthenticator::new_quad9().expect("a fixed configuration is sound");
        Verifier { authenticator, keys: Keys(records.iter().filter_map(key).collect()) }
    }

    /// Whether any key is known.
    pub fn has_keys(&self) -> bool {
        !self.keys.0.is_empty()
    }

    /// Checks every signature of a message.
    pub fn check(&self, message: &[u8]) -> Signed {
        let Some(parsed) = AuthenticatedMessage::parse(message) else { return Signed::Absent };
        let parameters = Parameters::new(&parsed).with_txt_cache(&self.keys);
        let asked = self.authenticator.verify_dkim(parameters).now_or_never();
        let outputs = asked.expect("keys at hand need no waiting");
        let worst = outputs.iter().map(|output| match output.result() {
            DkimResult::Pass => 0,
            DkimResult::TempError(_) | DkimResult::PermError(mail_auth::Error::Dns(_)) => 1,
            DkimResult::Neutral(_) | DkimResult::Fail(_) | DkimResult::PermError(_) | DkimResult::None => 2,
        });
        match worst.max() {
            None => Signed::Absent,
            Some(0) => Signed::Passed,
            Some(1) => Signed::UnknownKey,
            Some(_) => Signed::Failed,
        }
    }
}

impl ResolverCache<Box<str>, Txt> for Keys {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let unknown = || Txt::Error(mail_auth::Error::Dns(DnsError::Resolver("no such key here".into())));
        Some(self.0.get(name).cloned().unwrap_or_else(unknown))
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Domain, Span};
    use crate::mail::Message;
    use crate::sign::{Algorithm, Keyring, create_key};

    #[test]
    fn good_changed_unsigned_and_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let domain = Domain::parse("example.com").unwrap();
        create_key(folder.path(), &domain, "s1", Algorithm::Ed25519).unwrap();
        let ring = Keyring::open(folder.path(), Span::secs(1000)).unwrap();
        let bytes = b"From: a@example.com\r\nTo: b@b.test\r\nSubject: x\r\n\r\nhello\r\n".to_vec();
        let plain = Message { id: crate::base::EnvelopeId::from_u64(1), bytes };
        let signed = ring.sign(&domain, plain.clone()).unwrap().bytes;
        let changed = String::from_utf8(signed.clone()).unwrap().replace("hello", "hallo").into_bytes();
        let verifier = Verifier::new(&ring.records());
        assert_eq!(verifier.check(&signed), Signed::Passed);
        assert_eq!(verifier.check(&changed), Signed::Failed);
        assert_eq!(verifier.check(&plain.bytes), Signed::Absent);
        assert_eq!(Verifier::new(&[]).check(&signed), Signed::UnknownKey);
    }
}
