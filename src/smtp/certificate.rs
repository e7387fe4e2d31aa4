//! The certificate of a server of ours, in two PEM files, taken up again when they change: a renewal needs no restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CertificateError {
    /// The file; the name it would be for, when it was to be made.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A certificate with its chain and key.
pub struct Certificate {
    /// Where it came from; `None` when it was made here.
    files: Option<[PathBuf; 2]>,
    protocols: Vec<Vec<u8>>,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    stamps: [Option<Stamp>; 2],
}

/// By what a file is known to be another one.
type Stamp = (SystemTime, u64);

impl Certificate {
    /// The one in two PEM files. `protocols` are those of ALPN that are spoken behind it.
    pub fn load(chain: PathBuf, key: PathBuf, protocols: &[&[u8]]) -> Result<Certificate, CertificateError> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.to_vec()).collect();
        let files = [chain, key];
        let current = Current { stamps: stamps(&files), acceptor: acceptor(&files, &protocols)? };
        Ok(Certificate { files: Some(files), protocols, current: Mutex::new(current) })
    }

    /// One of our own making for a name: enough where nobody checks it, as on port 25.
    pub fn make(host: &str) -> Result<Certificate, CertificateError> {
        let wrong = |why: String| CertificateError { path: host.into(), why };
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).map_err(|why| wrong(why.to_string()))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let acceptor = configured(vec![made.cert.der().clone()], key, &[]).map_err(|why| wrong(why.to_string()))?;
        let current = Current { acceptor, stamps: [None; 2] };
        Ok(Certificate { files: None, protocols: Vec::new(), current: Mutex::new(current) })
    }

    /// What shakes hands with it now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Takes up a renewed one within a minute, until stopped. Files that cannot be used change nothing but the log.
    pub async fn keep(&self, stop: &CancellationToken) {
        let Some(files) = &self.files else { return stop.cancelled().await };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(LOOK_EVERY) => self.look(files),
            }
        }
    }

    fn look(&self, files: &[PathBuf; 2]) {
        let now = stamps(files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now == current.stamps {
            return;
        }
        match acceptor(files, &self.protocols) {
            Ok(renewed) => {
                *current = Current { acceptor: renewed, stamps: now };
                tracing::info!(file = %files[0].display(), "a new certificate is in use");
            }
            // one of the two files may not be there yet
            Err(why) => tracing::warn!(%why, "the old certificate stays in use"),
        }
    }
}

fn stamps(files: &[PathBuf; 2]) -> [Option<Stamp>; 2] {
    let stamp = |file: &PathBuf| fs::metadata(file).and_then(|file| Ok((file.modified()?, file.len()))).ok();
    [stamp(&files[0]), stamp(&files[1])]
}

fn acceptor([chain, key]: &[PathBuf; 2], protocols: &[Vec<u8>]) -> Result<TlsAcceptor, CertificateError> {
    fn wrong<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> CertificateError {
        move |why| CertificateError { path: path.to_owned(), why: why.to_string() }
    }
    let certificates = CertificateDer::pem_file_iter(chain).map_err(wrong(chain))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(wrong(chain))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?;
    configured(certificates, private, protocols).map_err(wrong(chain))
}

fn configured(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocols: &[Vec<u8>],
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))?;
    config.alpn_protocols = protocols.to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Writes a new pair; gives the certificate.
    fn renew(folder: &Path) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(vec!["mx.example.com".into()]).unwrap();
        // of another length than any before, for clocks of files that are coarse
        let filling = "\n".repeat(fs::read(folder.join("chain")).map_or(0, |old| old.len()));
        fs::write(folder.join("chain"), made.cert.pem() + &filling).unwrap();
        fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    /// What is shown to whoever comes, and whether the handshake succeeds for whoever trusts only `trusted`.
    async fn is_shown(certificate: &Certificate, trusted: &[u8]) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(trusted.to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let name = "mx.example.com".try_into().unwrap();
        let connect = TlsConnector::from(Arc::new(client)).connect(name, ours);
        let (shown, _) = futures_util::join!(connect, certificate.acceptor().accept(theirs));
        shown.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = renew(folder.path());
        let file = |name| folder.path().join(name);
        let certificate = Arc::new(Certificate::load(file("chain"), file("key"), &[]).unwrap());
        let stop = CancellationToken::new();
        let (kept, told) = (certificate.clone(), stop.clone());
        let keeping = tokio::spawn(async move { kept.keep(&told).await });
        assert!(is_shown(&certificate, &first).await);
        fs::write(file("key"), "no key").unwrap();
        sleep(LOOK_EVERY * 2).await;
        assert!(is_shown(&certificate, &first).await, "half a renewal changes nothing");
        let second = renew(folder.path());
        sleep(LOOK_EVERY * 2).await;
        assert!(is_shown(&certificate, &second).await && !is_shown(&certificate, &first).await);
        stop.cancel();
        keeping.await.unwrap();
    }
}
