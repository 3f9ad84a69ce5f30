//! The operator's certificate authority: who may call itself xDS server, and who is the proxy of which LoadBalancer.
//!
//! Pure but for key generation: time comes in, PEM comes out, nothing is stored. Keys are ECDSA P-256. Leaf
//! certificates last 24 hours and are renewed at half of that, so that an operator that is away for half a day breaks
//! nothing. A leaf that begins in the future was made while the clock ran ahead: nobody takes it before that, so it is
//! replaced at once. How the authority is changed: [`crate::authority`].

use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Identity;

/// Name that proxies expect in the server's certificate, and the SNI they send.
pub const SERVER_NAME: &str = "epic-xds.epic.svc";
/// Lifetime of server and client certificates.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Lifetime of the authority.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from this long before they are made: clocks of nodes differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// The authority is valid from this long before it is made: it cannot be replaced in passing like a leaf, so one that is
/// made while the clock runs ahead must be of use after the correction. Its key is new and signed nothing before.
const AUTHORITY_BACKDATED: Duration = AUTHORITY_LIFETIME;

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate of the authority does not parse, or signing failed.
    #[error("the certificate authority cannot be used")]
    Authority(#[source] rcgen::Error),
    /// The text holds no certificate that can be read.
    #[error("no readable certificate in the PEM text")]
    Certificate,
}

/// A certificate with its private key, both PEM. `Debug` never shows the key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCertificate {
    /// Certificate.
    pub certificate: String,
    /// Private key (PKCS #8).
    pub key: String,
}

impl fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A new authority. The caller stores it create-only, so that there is never a second one.
///
/// # Errors
/// When the system has no randomness for a key.
pub fn create_authority(now: SystemTime) -> Result<KeyedCertificate, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Authority)?;
    let mut params = validity(now - AUTHORITY_BACKDATED, now + AUTHORITY_LIFETIME);
    params.distinguished_name = common_name("epic-xds-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(PkiError::Authority)?;
    Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A certificate of the xDS server, for [`SERVER_NAME`].
///
/// # Errors
/// When `authority` does not parse.
pub fn issue_server(authority: &KeyedCertificate, now: SystemTime) -> Result<KeyedCertificate, PkiError> {
    let name = SERVER_NAME.try_into().map_err(PkiError::Authority)?;
    issue(authority, "epic-xds", SanType::DnsName(name), ExtendedKeyUsagePurpose::ServerAuth, now)
}

/// A certificate of the proxies of one LoadBalancer.
///
/// # Errors
/// When `authority` does not parse.
pub fn issue_client(
    authority: &KeyedCertificate,
    identity: &Identity,
    now: SystemTime,
) -> Result<KeyedCertificate, PkiError> {
    let uri = identity.spiffe().try_into().map_err(PkiError::Authority)?;
    issue(authority, "epic-proxy", SanType::URI(uri), ExtendedKeyUsagePurpose::ClientAuth, now)
}

/// While the first certificate of a PEM text is to be used: from its beginning to half of its lifetime. Before as after
/// it is to be replaced.
///
/// # Errors
/// When there is none. Replace it then, too.
pub fn fresh_during(certificate: &str) -> Result<Range<SystemTime>, PkiError> {
    let (from, until) = validity_of(certificate)?;
    Ok(from..from + until.duration_since(from).unwrap_or_default() / 2)
}

/// Whether the first certificate of a PEM text need not be replaced yet, by [`fresh_during`].
pub fn is_fresh(certificate: &str, now: SystemTime) -> bool {
    fresh_during(certificate).is_ok_and(|fresh| fresh.contains(&now))
}

/// Until when the first certificate of a PEM text is valid.
///
/// # Errors
/// When there is none.
pub fn ends(certificate: &str) -> Result<SystemTime, PkiError> {
    Ok(validity_of(certificate)?.1)
}

/// Whether the first certificate of a PEM text begins in the future, so that nobody takes it, nor what it signed.
pub fn begins_later(certificate: &str, now: SystemTime) -> bool {
    validity_of(certificate).is_ok_and(|(from, _)| now < from)
}

/// Whether the first certificate of `certificate` was signed by `authority` and need not be replaced yet.
pub fn is_current(certificate: &str, authority: &str, now: SystemTime) -> bool {
    let signed = || {
        let (leaf, ca) = (first(certificate).ok()?, first(authority).ok()?);
        let (_, leaf) = X509Certificate::from_der(&leaf).ok()?;
        let (_, ca) = X509Certificate::from_der(&ca).ok()?;
        leaf.verify_signature(Some(ca.public_key())).ok()
    };
    is_fresh(certificate, now) && signed().is_some()
}

/// Trusted authorities as one PEM text: the current one, and during a change the other one too.
pub fn bundle<'a>(authorities: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for authority in authorities {
        text.push_str(authority.trim_end());
        text.push('\n');
    }
    text
}

fn issue(
    authority: &KeyedCertificate,
    name: &str,
    subject: SanType,
    usage: ExtendedKeyUsagePurpose,
    now: SystemTime,
) -> Result<KeyedCertificate, PkiError> {
    let signer = KeyPair::from_pem(&authority.key).map_err(PkiError::Authority)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer).map_err(PkiError::Authority)?;
    let key = KeyPair::generate().map_err(PkiError::Authority)?;
    let mut params = validity(now - CLOCK_SKEW, now + LEAF_LIFETIME);
    params.distinguished_name = common_name(name);
    params.subject_alt_names = vec![subject];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(PkiError::Authority)?;
    Ok(KeyedCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn validity(from: SystemTime, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(from);
    params.not_after = OffsetDateTime::from(until);
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn first(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::Certificate)
}

/// From when until when the first certificate of a PEM text is valid.
fn validity_of(pem: &str) -> Result<(SystemTime, SystemTime), PkiError> {
    validity_of_der(&first(pem)?)
}

pub(crate) fn validity_of_der(der: &[u8]) -> Result<(SystemTime, SystemTime), PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PkiError::Certificate)?;
    let validity = certificate.validity();
    Ok((validity.not_before.to_datetime().into(), validity.not_after.to_datetime().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs((20_000 + n) * 86_400)
    }

    fn web() -> Identity {
        Identity::new("red", "web", "0c9e1b1a-6a54-4d0a-9f6e-3c1f52b86f10")
    }

    #[test]
    fn a_client_certificate_carries_its_identity_and_nothing_else() {
        let authority = create_authority(day(0)).unwrap();
        let client = issue_client(&authority, &web(), day(0)).unwrap();
        let der = first(&client.certificate).unwrap();
        assert_eq!(Identity::of_certificate(&der), Ok(web()));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
    }

    #[test]
    fn a_server_certificate_is_no_identity_of_a_proxy() {
        let authority = create_authority(day(0)).unwrap();
        let server = issue_server(&authority, day(0)).unwrap();
        let der = first(&server.certificate).unwrap();
        assert_eq!(Identity::of_certificate(&der), Err(crate::identity::IdentityError::NoUri));
    }

    #[test]
    fn a_leaf_is_replaced_at_half_of_its_lifetime_or_when_the_authority_changed() {
        let authority = create_authority(day(0)).unwrap();
        let other = create_authority(day(0)).unwrap();
        let leaf = issue_server(&authority, day(0)).unwrap().certificate;
        let hour = Duration::from_secs(3600);
        assert!(is_current(&leaf, &authority.certificate, day(0) + 11 * hour));
        assert!(!is_current(&leaf, &authority.certificate, day(0) + 13 * hour));
        assert!(!is_current(&leaf, &other.certificate, day(0)));
        assert!(!is_current("no certificate", &authority.certificate, day(0)));
        assert_eq!(ends(&leaf).unwrap(), day(1));
    }

    #[test]
    fn a_leaf_that_was_made_while_the_clock_ran_ahead_is_replaced_once_it_is_corrected() {
        let authority = create_authority(day(0)).unwrap();
        let leaf = issue_server(&authority, day(1)).unwrap().certificate;
        assert!(!is_fresh(&leaf, day(0)));
        assert!(!is_current(&leaf, &authority.certificate, day(0)));
        let minute = Duration::from_secs(60);
        assert!(is_current(&leaf, &authority.certificate, day(1) - minute), "clocks of nodes differ");
    }

    #[test]
    fn an_authority_that_was_made_while_the_clock_ran_ahead_for_years_is_of_use_once_it_is_corrected() {
        let authority = create_authority(day(3_000)).unwrap().certificate;
        assert!(!begins_later(&authority, day(0)));
        assert!(begins_later(&create_authority(day(4_000)).unwrap().certificate, day(0)));
    }

    #[test]
    fn a_key_is_never_shown() {
        let authority = create_authority(day(0)).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE KEY"));
    }
}
