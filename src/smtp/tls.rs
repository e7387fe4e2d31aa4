//! TLS for outgoing connections: certificates checked where that is asked for, and where it is not, at least a secret
//! line. Decides nothing about clear text: that is the connection's and `delivery::tls_policy`'s.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Associations;
use crate::mail::{TlsFlaw, TlsVersion};
use crate::world::Stream;

/// Hosts whose sessions are remembered for resumption.
const SESSIONS_MAX: usize = 4096;

/// Why TLS cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The file of additional authorities cannot be read, or holds none.
    #[error("tls_ca: {}: {why}; it must hold certificates in PEM", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What was agreed on, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite, by its number at IANA.
    pub cipher: u16,
    /// How the host has proved that it is the one.
    pub verified: Verified,
    /// Whether an earlier session with the host was taken up again.
    pub resumed: bool,
    /// What was wrong with a certificate that was checked though it needed not be valid.
    pub flaw: Option<TlsFlaw>,
}

/// How a host has proved that it is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Not at all.
    No,
    /// By a certificate for its name that a known authority has signed.
    Authority,
    /// By a certificate that its zone announces (DANE).
    Zone,
}

/// Whether the host must prove its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// Any certificate will do: the line is secret, the other end unknown (RFC 7435).
    None,
    /// Any certificate will do, but what is wrong with it is told.
    Trial,
    /// The certificate must be valid for the host's name.
    Name,
    /// The certificate must be one that the host's zone announces.
    Zone(Arc<Associations>),
}

/// The settings of all handshakes, built once and shared; cheap to clone.
#[derive(Clone)]
pub struct TlsClient {
    unverified: TlsConnector,
    verified: TlsConnector,
    authorities: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl TlsClient {
    /// Trusts the authorities of the Web, and those of a PEM file. TLS 1.2 and 1.3 (C-40).
    pub fn new(extra_ca: Option<&Path>) -> Result<TlsClient, TlsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = extra_ca {
            add_authorities(&mut roots, path).map_err(|why| TlsError::Authorities { path: path.to_owned(), why })?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("a store with the authorities of the Web is not empty");
        let any = OwnVerifier { accepts: Accepts::Any, provider: provider.clone() };
        let sessions = || Resumption::in_memory_sessions(SESSIONS_MAX);
        let unverified = connector(provider.clone(), Arc::new(any), sessions());
        let verified = connector(provider.clone(), verifier.clone(), sessions());
        Ok(TlsClient { unverified, verified, authorities: verifier, provider })
    }

    /// The settings that verify certificates, for whoever speaks another protocol over TLS.
    pub fn verified(&self) -> Arc<ClientConfig> {
        self.verified.config().clone()
    }

    /// Shakes hands. The caller sets the time limit; after an error the stream is spoilt.
    pub(super) async fn connect(
        &self,
        stream: Box<dyn Stream>,
        host: &str,
        proof: Proof,
    ) -> Result<(Box<dyn Stream>, TlsFacts), (TlsFlaw, String)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| (TlsFlaw::Other, format!("`{host}` cannot stand in a certificate")))?;
        let found = Arc::new(Mutex::new(None));
        let (connector, verified) = match proof {
            Proof::None => (self.unverified.clone(), Verified::No),
            Proof::Trial => (self.own(Accepts::Trial(self.authorities.clone(), found.clone())), Verified::No),
            Proof::Name => (self.verified.clone(), Verified::Authority),
            Proof::Zone(announced) => (self.own(Accepts::Announced(announced)), Verified::Zone),
        };
        let stream =
            connector.connect(name, stream).await.map_err(|error| (flaw_of(&error, verified), error.to_string()))?;
        let flaw = *found.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = TlsFacts { flaw, ..facts(&stream, verified) };
        Ok((Box::new(stream), facts))
    }
}

impl TlsClient {
    /// The settings for one host. Its sessions are not taken up again: what is announced may change meanwhile, and a
    /// session taken up shows no certificate.
    fn own(&self, accepts: Accepts) -> TlsConnector {
        let verifier = OwnVerifier { accepts, provider: self.provider.clone() };
        connector(self.provider.clone(), Arc::new(verifier), Resumption::disabled())
    }
}

/// What a failed handshake is called in reports.
fn flaw_of(error: &std::io::Error, demanded: Verified) -> TlsFlaw {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (inner, demanded) {
        (Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)), Verified::Zone) => {
            TlsFlaw::NotAnnounced
        }
        (Some(error), _) => flaw_of_certificate(error),
        (None, _) => TlsFlaw::Other,
    }
}

fn flaw_of_certificate(error: &rustls::Error) -> TlsFlaw {
    let rustls::Error::InvalidCertificate(why) = error else { return TlsFlaw::Other };
    match why {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFlaw::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFlaw::OtherName,
        CertificateError::UnknownIssuer => TlsFlaw::NotTrusted,
        // the library may add others
        _ => TlsFlaw::Other,
    }
}

/// Each kind of proof has settings of its own, and so memory of its own: a session begun unverified must not be resumed
/// as a verified one.
fn connector(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    resumption: Resumption,
) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = resumption;
    TlsConnector::from(Arc::new(config))
}

fn facts(stream: &TlsStream<Box<dyn Stream>>, verified: Verified) -> TlsFacts {
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
        Some(_) | None => TlsVersion::V1_2,
    };
    let cipher = session.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into());
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    TlsFacts { version, cipher, verified, resumed, flaw: None }
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut some = false;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        some = true;
    }
    if some { Ok(()) } else { Err("there is no certificate in it".into()) }
}

/// Which certificates are taken.
#[derive(Debug)]
enum Accepts {
    Any,
    /// Any, and what is wrong with it is noted.
    Trial(Arc<WebPkiServerVerifier>, Arc<Mutex<Option<TlsFlaw>>>),
    Announced(Arc<Associations>),
}

/// Takes what it accepts, but always wants the handshake signed with the certificate's key.
#[derive(Debug)]
struct OwnVerifier {
    accepts: Accepts,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnVerifier {
    fn verify_server_cert(
        &self,
        host: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.accepts {
            Accepts::Any => {}
            Accepts::Trial(authorities, found) => {
                let wrong = authorities.verify_server_cert(host, above, name, stapled, now).err();
                *found.lock().unwrap_or_else(PoisonError::into_inner) = wrong.as_ref().map(flaw_of_certificate);
            }
            Accepts::Announced(announced) => announced.accept(host, above, name, now, &self.provider)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        assert!(TlsClient::new(Some(&file)).is_err());
        std::fs::write(&file, "nothing of the kind").unwrap();
        let error = TlsClient::new(Some(&file)).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("tls_ca: {}: there is no certificate in it; it must hold certificates in PEM", file.display())
        );
    }
}
