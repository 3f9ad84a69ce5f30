//! TLS of the server: version 1.3 alone, client certificates of our authority required, exchangeable while serving.
//!
//! There is no session resumption: a resumed session would keep an identity whose certificate has expired or whose
//! authority is no longer trusted. A new certificate counts for new connections; old ones end by their age.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What the server needs to prove itself and to know proxies; all PEM. `Debug` never shows the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Certificate of the server, with the chain that leads to its authority.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// Authorities whose client certificates are trusted, one or several.
    pub client_authorities: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM of one part does not parse, or holds nothing.
    #[error("the {0} holds no readable PEM")]
    Pem(&'static str),
    /// The authorities cannot be used to verify clients.
    #[error("the client authorities cannot be used")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("the server certificate cannot be used with its key")]
    Certificate(#[from] rustls::Error),
}

/// The current TLS configuration.
#[derive(Debug)]
pub struct Tls {
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Serves with these credentials.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(configuration(credentials)?) }))
    }

    /// Serves new connections with these credentials from now on.
    ///
    /// # Errors
    /// When they cannot be used; the old ones stay.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), TlsError> {
        self.current.store(Arc::new(configuration(credentials)?));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn configuration(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&credentials.client_authorities, "client authorities")? {
        roots.add(authority)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = certificates(&credentials.certificate, "server certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(|_| TlsError::Pem("server key"))?;
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    configuration.max_early_data_size = 0;
    Ok(configuration)
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(TlsError::Pem(what)),
    }
}
