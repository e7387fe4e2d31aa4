//! DANE for SMTP (RFC 7672): whether a host's certificate is the one that its zone announces. Whether the announcement is
//! proved, and what follows where there is none, is the dialler's matter.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use crate::world::Tlsa;

/// Associations of one host that are looked at.
const ASSOCIATIONS_MAX: usize = 32;

/// Whose certificate is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// That of an authority above the host's; DANE-TA(2).
    Authority,
    /// The host's own; DANE-EE(3).
    Host,
}

/// Which part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Certificate,
    PublicKey,
}

/// How the part is given; the stronger hash is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Form {
    Whole,
    Sha256,
    Sha512,
}

/// One announcement that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Association {
    usage: Usage,
    part: Part,
    form: Form,
    data: Vec<u8>,
}

/// What a zone announces of a host's certificates; at least one of them must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Associations(Vec<Association>);

impl Associations {
    /// Those of the records that can be used for mail: of usage 2 or 3, in a form that is known (RFC 7672 §3.1). Where a
    /// certificate is announced by several hashes, only the strongest counts (RFC 7671 §9). `None`: not one can be used.
    pub fn usable(records: &[Tlsa]) -> Option<Associations> {
        let all: Vec<Association> = records.iter().filter_map(Association::of).take(ASSOCIATIONS_MAX).collect();
        let weaker = |one: &Association| {
            let stronger = |other: &&Association| {
                (other.usage, other.part) == (one.usage, one.part) && other.form > one.form && one.form != Form::Whole
            };
            all.iter().any(|other| stronger(&other))
        };
        let usable: Vec<Association> = all.iter().filter(|one| !weaker(one)).cloned().collect();
        (!usable.is_empty()).then_some(Associations(usable))
    }

    /// The announcements as records are written, for reports.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(Association::line).collect()
    }

    /// Whether what the host shows is announced: its own certificate, whatever name and dates stand in it (RFC 7672 §3.1.1);
    /// or that of an authority, and then everything below must be in order, the host's name included (§3.1.2).
    pub(super) fn accept(
        &self,
        host: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), rustls::Error> {
        if self.0.iter().any(|one| one.usage == Usage::Host && one.fits(host)) {
            return Ok(());
        }
        let mut wrong = rustls::Error::General("the certificate is not one that the zone announces (DANE)".into());
        for authority in self.authorities(above) {
            match below(&authority, host, above, name, now, provider) {
                Ok(()) => return Ok(()),
                Err(why) => wrong = why,
            }
        }
        Err(wrong)
    }

    /// The announced authorities: those that the host shows, and those whose certificate stands in the zone as a whole.
    fn authorities(&self, shown: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
        let announced = || self.0.iter().filter(|one| one.usage == Usage::Authority);
        let among = shown.iter().filter(|one| announced().any(|authority| authority.fits(one)));
        let whole = announced().filter(|one| (one.part, one.form) == (Part::Certificate, Form::Whole));
        let whole = whole.map(|one| CertificateDer::from(one.data.clone()));
        among.map(|one| one.clone().into_owned()).chain(whole).collect()
    }
}

impl Association {
    fn of(record: &Tlsa) -> Option<Association> {
        let usage = match record.usage {
            2 => Usage::Authority,
            3 => Usage::Host,
            _ => return None,
        };
        let part = match record.selector {
            0 => Part::Certificate,
            1 => Part::PublicKey,
            _ => return None,
        };
        let (form, length) = match record.matching {
            0 => (Form::Whole, None),
            1 => (Form::Sha256, Some(digest::SHA256_OUTPUT_LEN)),
            2 => (Form::Sha512, Some(digest::SHA512_OUTPUT_LEN)),
            _ => return None,
        };
        let fits = length.map_or(!record.data.is_empty(), |length| record.data.len() == length);
        fits.then(|| Association { usage, part, form, data: record.data.clone() })
    }

    fn line(&self) -> String {
        let usage = match self.usage {
            Usage::Authority => 2,
            Usage::Host => 3,
        };
        let selector = match self.part {
            Part::Certificate => 0,
            Part::PublicKey => 1,
        };
        let matching = match self.form {
            Form::Whole => 0,
            Form::Sha256 => 1,
            Form::Sha512 => 2,
        };
        format!("{usage} {selector} {matching} {}", data_encoding::HEXUPPER.encode(&self.data))
    }

    fn fits(&self, certificate: &CertificateDer<'_>) -> bool {
        let key;
        let part: &[u8] = match self.part {
            Part::Certificate => certificate,
            Part::PublicKey => {
                let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
                key = parsed.subject_public_key_info();
                &key
            }
        };
        match self.form {
            Form::Whole => part == self.data,
            Form::Sha256 => digest::digest(&digest::SHA256, part).as_ref() == self.data,
            Form::Sha512 => digest::digest(&digest::SHA512, part).as_ref() == self.data,
        }
    }
}

/// Whether the host's certificate is valid for its name under this authority alone.
fn below(
    authority: &CertificateDer<'_>,
    host: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    now: UnixTime,
    provider: &Arc<CryptoProvider>,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|why| rustls::Error::General(why.to_string()))?;
    verifier.verify_server_cert(host, above, name, &[], now).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::crypto::aws_lc_rs;

    use super::*;

    /// A chain of an authority and a host, as a host shows it.
    struct Chain {
        host: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    }

    fn chain(name: &str, until: (i32, u8, u8)) -> Chain {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let host = params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        Chain { host: host.der().clone(), authority: authority.der().clone() }
    }

    fn key_of(certificate: &CertificateDer<'_>) -> Vec<u8> {
        ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info().to_vec()
    }

    fn sha256(data: &[u8]) -> Vec<u8> {
        digest::digest(&digest::SHA256, data).as_ref().to_vec()
    }

    fn sha512(data: &[u8]) -> Vec<u8> {
        digest::digest(&digest::SHA512, data).as_ref().to_vec()
    }

    fn record(usage: u8, selector: u8, matching: u8, data: Vec<u8>) -> Tlsa {
        Tlsa { usage, selector, matching, data }
    }

    /// Whether a host that shows this chain is accepted as `mx.example.org` in 2026.
    fn accepted(records: &[Tlsa], shown: &Chain) -> bool {
        let associations = Associations::usable(records).expect("usable records");
        let name = ServerName::try_from("mx.example.org").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));
        let provider = Arc::new(aws_lc_rs::default_provider());
        associations.accept(&shown.host, std::slice::from_ref(&shown.authority), &name, now, &provider).is_ok()
    }

    #[test]
    fn s_034_the_hosts_own_certificate_fits_by_every_part_and_form_whatever_its_name_and_dates() {
        let (shown, other) = (chain("elsewhere.example", (2021, 1, 1)), chain("mx.example.org", (2030, 1, 1)));
        let (whole, key) = (shown.host.to_vec(), key_of(&shown.host));
        for (selector, part) in [(0, whole), (1, key)] {
            for (matching, data) in [(0, part.clone()), (1, sha256(&part)), (2, sha512(&part))] {
                let announced = [record(3, selector, matching, data)];
                assert!(accepted(&announced, &shown), "3 {selector} {matching}");
                assert!(!accepted(&announced, &other), "3 {selector} {matching}");
            }
        }
    }

    #[test]
    fn s_034_below_an_announced_authority_name_and_dates_must_be_in_order() {
        let good = chain("mx.example.org", (2030, 1, 1));
        let (foreign, expired) = (chain("elsewhere.example", (2030, 1, 1)), chain("mx.example.org", (2021, 1, 1)));
        let announce = |chain: &Chain| [record(2, 1, 1, sha256(&key_of(&chain.authority)))];
        assert!(accepted(&announce(&good), &good));
        assert!(accepted(&[record(2, 0, 1, sha256(&good.authority))], &good));
        assert!(!accepted(&announce(&foreign), &foreign), "the name counts");
        assert!(!accepted(&announce(&expired), &expired), "the dates count");
        assert!(!accepted(&announce(&good), &chain("mx.example.org", (2030, 1, 1))), "another authority");
        // A host that shows the announced authority beside a certificate that is not of it.
        let stolen = Chain { host: chain("mx.example.org", (2030, 1, 1)).host, authority: good.authority.clone() };
        assert!(!accepted(&announce(&good), &stolen));
        // The authority's certificate stands in the zone; the host need not show it.
        let bare = Chain { host: good.host.clone(), authority: good.host.clone() };
        assert!(accepted(&[record(2, 0, 0, good.authority.to_vec())], &bare));
        assert!(!accepted(&announce(&good), &bare), "by its hash alone it must be shown");
    }

    #[test]
    fn one_fitting_record_is_enough_and_of_several_hashes_the_strongest_counts() {
        let shown = chain("mx.example.org", (2030, 1, 1));
        let key = key_of(&shown.host);
        let old = record(3, 1, 1, vec![7; 32]);
        assert!(accepted(&[old.clone(), record(3, 1, 1, sha256(&key))], &shown));
        assert!(accepted(&[old, record(2, 0, 1, sha256(&shown.authority))], &shown));
        assert!(!accepted(&[record(3, 1, 2, vec![7; 64]), record(3, 1, 1, sha256(&key))], &shown));
    }

    #[test]
    fn s_034_records_that_cannot_be_used_are_none() {
        for (usage, selector, matching, length) in [
            (0, 1, 1, 32),
            (1, 1, 1, 32),
            (255, 1, 1, 32),
            (3, 2, 1, 32),
            (3, 1, 3, 32),
            (3, 1, 1, 31),
            (3, 1, 2, 32),
            (3, 0, 0, 0),
        ] {
            let records = [record(usage, selector, matching, vec![1; length])];
            assert_eq!(Associations::usable(&records), None, "{usage} {selector} {matching} {length}");
        }
        assert_eq!(Associations::usable(&[]), None);
    }
}
