//! One key and its signatures. The only code that may see the machine's own clock: the library reads it for `t=`.

use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{DkimSigner, Done};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::base::{Domain, Span};
use crate::sign::{Algorithm, Error};

/// What is signed (K-03). A name that stands once more than messages have it cannot be added later without breaking the
/// signature (K-04); names that a message lacks count as standing once more.
const SIGNED: &[&str] = &[
    "From",
    "From",
    "To",
    "To",
    "Cc",
    "Subject",
    "Subject",
    "Date",
    "Date",
    "Message-ID",
    "Message-ID",
    "Reply-To",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "MIME-Version",
    "Content-Type",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Unsubscribe-Post",
    "List-Id",
    "List-Help",
    "Feedback-ID",
    "CFBL-Address",
    "CFBL-Feedback-ID",
    "Auto-Submitted",
];

/// A key, parsed once, and what its signatures say.
pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    pub(super) domain: Domain,
    pub(super) selector: String,
    /// The TXT record that proves its signatures.
    pub(super) record: String,
    key: Key,
}

enum Key {
    Rsa(DkimSigner<RsaKey<Sha256>, Done>),
    Ed25519(DkimSigner<Ed25519Key, Done>),
}

impl Signer {
    /// Reads a private key in PEM: PKCS#8, or PKCS#1 for RSA. Signatures hold for `expires` (K-07).
    pub(super) fn read(
        pem: &str,
        path: &Path,
        algorithm: Algorithm,
        domain: &Domain,
        selector: &str,
        expires: Span,
    ) -> Result<Signer, Error> {
        let refused = |why: String| Error::Key { path: path.to_owned(), why };
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refused("this is no private key in PEM form".into()))?;
        let (record, key) = match algorithm {
            Algorithm::Rsa => {
                let record = rsa_record(&der).map_err(refused)?;
                let key = RsaKey::<Sha256>::from_key_der(der).map_err(|why| refused(why.to_string()))?;
                (record, Key::Rsa(signer(key, domain, selector, expires)))
            }
            Algorithm::Ed25519 => {
                let bytes = der.secret_der();
                let record = ed25519_record(bytes).map_err(refused)?;
                let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(bytes).map_err(|why| refused(why.to_string()))?;
                (record, Key::Ed25519(signer(key, domain, selector, expires)))
            }
        };
        Ok(Signer { algorithm, domain: domain.clone(), selector: selector.to_owned(), record, key })
    }

    /// The DKIM-Signature field over `message`, with its line end. The message must not end in blank lines: the library
    /// keeps lines of blanks at the end that other verifiers drop.
    pub(super) fn sign(&self, message: &[u8]) -> Result<String, Error> {
        let signature = match &self.key {
            Key::Rsa(signer) => signer.sign(message),
            Key::Ed25519(signer) => signer.sign(message),
        };
        Ok(signature.map_err(|why| Error::Library(why.to_string()))?.to_header())
    }
}

fn signer<T: SigningKey>(key: T, domain: &Domain, selector: &str, expires: Span) -> DkimSigner<T, Done> {
    DkimSigner::from_key(key)
        .domain(domain.as_str())
        .selector(selector)
        .headers(SIGNED.iter().copied())
        .expiration(expires.duration().as_secs())
}

/// `v=DKIM1; k=rsa; p=…`, the public key as SubjectPublicKeyInfo (RFC 6376 §3.6.1).
fn rsa_record(der: &PrivateKeyDer<'_>) -> Result<String, String> {
    let pair = match der {
        PrivateKeyDer::Pkcs1(key) => RsaPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => RsaPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err("this is no RSA key".into()),
    };
    let pair = pair.map_err(|why| match why.to_string().as_str() {
        "TooSmall" => {
            "this RSA key is shorter than 2048 bits: receivers distrust its signatures, and we make none".to_owned()
        }
        "TooLarge" => "this RSA key is longer than 8192 bits: its record does not fit".to_owned(),
        _ => "this is no RSA key".to_owned(),
    })?;
    let public = pair.public_key().as_der().map_err(|_| "its public half cannot be computed".to_owned())?;
    Ok(format!("v=DKIM1; k=rsa; p={}", BASE64.encode(public.as_ref())))
}

/// `v=DKIM1; k=ed25519; p=…`, the 32 bytes of the public key (RFC 8463 §4.2).
fn ed25519_record(pkcs8: &[u8]) -> Result<String, String> {
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| "this is no Ed25519 key".to_owned())?;
    Ok(format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(pair.public_key().as_ref())))
}

/// A new private key in PKCS#8: RSA of 2048 bits, or Ed25519.
pub(super) fn generate(algorithm: Algorithm) -> Result<Vec<u8>, Error> {
    let failed = |_| Error::Library("no key could be made: the system gives no random numbers".into());
    match algorithm {
        Algorithm::Rsa => {
            let pair = RsaPair::generate(KeySize::Rsa2048).map_err(failed)?;
            Ok(AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'static>>::as_der(&pair).map_err(failed)?.as_ref().to_vec())
        }
        Algorithm::Ed25519 => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            Ok(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec())
        }
    }
}
