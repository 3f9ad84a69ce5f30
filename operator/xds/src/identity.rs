//! Who a proxy is: the SPIFFE URI in its client certificate.
//!
//! `spiffe://epic/account/<namespace>/lb/<name>/<uid>` names one LoadBalancer object, a recreated one is another.
//! The certificate alone decides which view a stream gets. The node id of the first request only has to agree; it
//! adds the name of the pod, which the certificate does not know.

use std::fmt;
use std::sync::Arc;

use epic_lb::ServiceName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const PREFIX: &str = "spiffe://epic/account/";

/// One LoadBalancer object, as its proxies prove it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Namespace of the LoadBalancer.
    pub namespace: Arc<str>,
    /// Name of the LoadBalancer.
    pub load_balancer: Arc<str>,
    /// uid of the LoadBalancer.
    pub uid: Arc<str>,
}

/// Why a certificate, URI or node is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is not valid DER X.509.
    #[error("the client certificate cannot be read")]
    Certificate,
    /// No URI among the subject alternative names.
    #[error("the client certificate names no SPIFFE identity")]
    NoUri,
    /// More than one URI: it must be clear who this is.
    #[error("the client certificate has {0} URIs; exactly one is allowed")]
    SeveralUris(usize),
    /// The URI has another form.
    #[error("`{0}` is not of the form spiffe://epic/account/<namespace>/lb/<name>/<uid>")]
    Form(String),
    /// The node of the first request belongs to another LoadBalancer.
    #[error("node id `{id}` in cluster `{cluster}` does not agree with the certificate of {identity}")]
    Node {
        /// Node id as sent.
        id: String,
        /// Cluster as sent.
        cluster: String,
        /// Identity of the certificate.
        identity: Identity,
    },
}

impl Identity {
    /// An identity of its parts. They come from Kubernetes objects, so they are not checked again.
    pub fn new(
        namespace: impl Into<Arc<str>>,
        load_balancer: impl Into<Arc<str>>,
        uid: impl Into<Arc<str>>,
    ) -> Self {
        Self { namespace: namespace.into(), load_balancer: load_balancer.into(), uid: uid.into() }
    }

    /// The URI that a client certificate carries.
    pub fn spiffe(&self) -> String {
        format!("{PREFIX}{}/lb/{}/{}", self.namespace, self.load_balancer, self.uid)
    }

    /// Reads the URI of a certificate.
    ///
    /// # Errors
    /// Anything that [`Identity::spiffe`] could not have written, so that two URIs never name the same object.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.chars().take(512).collect());
        let rest = uri.strip_prefix(PREFIX).ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [namespace, "lb", name, uid] = parts[..] else { return Err(form()) };
        if !is_name(namespace, 63) || !is_name(name, 253) || !is_name(uid, 64) {
            return Err(form());
        }
        Ok(Self::new(namespace, name, uid))
    }

    /// Reads the identity of a client certificate (DER), whose chain somebody else has verified.
    ///
    /// # Errors
    /// When the certificate cannot be read, or does not carry exactly one URI of our form.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Certificate)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Certificate)?
            .ok_or(IdentityError::NoUri)?;
        let uris: Vec<&str> = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris[..] {
            [] => Err(IdentityError::NoUri),
            [uri] => Self::parse(uri),
            _ => Err(IdentityError::SeveralUris(uris.len())),
        }
    }

    /// The service of the tables that this LoadBalancer is, whatever its uid.
    pub fn service(&self) -> ServiceName {
        ServiceName::new(&self.namespace, &self.load_balancer)
    }

    /// `node.cluster` of this LoadBalancer's proxies: `<namespace>/<name>`.
    pub fn cluster(&self) -> String {
        format!("{}/{}", self.namespace, self.load_balancer)
    }

    /// Checks the node of a first request: id `<namespace>/<pod>`, cluster as [`Identity::cluster`].
    ///
    /// # Errors
    /// When either says something else than the certificate.
    pub fn admit(&self, id: &str, cluster: &str) -> Result<NodeName, IdentityError> {
        let pod =
            id.split_once('/').filter(|(namespace, pod)| *namespace == &*self.namespace && is_name(pod, 253));
        match pod {
            Some((_, pod)) if cluster == self.cluster() => Ok(NodeName { pod: pod.into() }),
            _ => Err(IdentityError::Node {
                id: id.chars().take(512).collect(),
                cluster: cluster.chars().take(512).collect(),
                identity: self.clone(),
            }),
        }
    }
}

/// Lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit: what Kubernetes allows.
fn is_name(text: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= max
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|b| plain(*b) || matches!(b, b'-' | b'.'))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.load_balancer, self.uid)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The proxy pod that a stream says it is. All pods of one LoadBalancer share a certificate, so a proxy could name
/// another pod of the *same* LoadBalancer; whoever writes to that pod checks that it is one of its proxies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName {
    /// Name of the pod, in the namespace of the identity.
    pub pod: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Identity {
        Identity::new("epic-red", "web.v1", "5c7c5f4e-7a43-4f5e-9d7e-1f2b3c4d5e6f")
    }

    #[test]
    fn an_identity_survives_its_uri() {
        assert_eq!(
            web().spiffe(),
            "spiffe://epic/account/epic-red/lb/web.v1/5c7c5f4e-7a43-4f5e-9d7e-1f2b3c4d5e6f"
        );
        assert_eq!(Identity::parse(&web().spiffe()), Ok(web()));
    }

    #[test]
    fn uris_of_another_form_are_refused() {
        for uri in [
            "",
            "spiffe://epic/account/red/lb/web",
            "spiffe://epic/account/red/lb/web/u/x",
            "spiffe://epic/account/red/lb//u",
            "spiffe://epic/account//lb/web/u",
            "spiffe://epic/account/red/svc/web/u",
            "spiffe://EPIC/account/red/lb/web/u",
            "spiffe://other/account/red/lb/web/u",
            "spiffe://epic/account/red/lb/web/u?x=1",
            "spiffe://epic/account/red%2f/lb/web/u",
            "spiffe://epic/account/../lb/web/u",
            "spiffe://epic/account/Red/lb/web/u",
        ] {
            assert!(matches!(Identity::parse(uri), Err(IdentityError::Form(_))), "{uri}");
        }
    }

    #[test]
    fn a_node_must_agree_with_the_certificate() {
        assert_eq!(
            web().admit("epic-red/web-7d9f-abcde", "epic-red/web.v1").map(|n| n.pod.to_string()),
            Ok("web-7d9f-abcde".to_owned())
        );
        for (id, cluster) in [
            ("epic-blue/web-7d9f-abcde", "epic-red/web.v1"),
            ("epic-red/web-7d9f-abcde", "epic-red/other"),
            ("epic-red/web-7d9f-abcde", ""),
            ("web-7d9f-abcde", "epic-red/web.v1"),
            ("epic-red/", "epic-red/web.v1"),
            ("epic-red/a/b", "epic-red/web.v1"),
        ] {
            assert!(matches!(web().admit(id, cluster), Err(IdentityError::Node { .. })), "{id} {cluster}");
        }
    }
}
