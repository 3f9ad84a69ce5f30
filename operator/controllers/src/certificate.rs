//! Certificates: the authority in `epic`, and one client certificate for each LoadBalancer's proxies.
//!
//! The authority is created create-only, so there is never a second one, and is readable by the operator alone. A
//! proxy's certificate names its LoadBalancer by uid; it lasts a day and is renewed at half, or when the clock turns out
//! to have run ahead, by replacing the Secret that the pods have mounted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use epic_crds::well_known::{EPIC_NAMESPACE, LABEL_ACCOUNT, LABEL_LOAD_BALANCER};
use epic_xds::Identity;
use epic_xds::pki::{self, KeyedCertificate};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kates::{Client, Key};
use kube::api::ObjectMeta;
use parking_lot::Mutex;

use crate::context::Shared;
use crate::proxy::owned_by;
use crate::reconcile::Error;
use crate::tenant::owner_reference;

/// Secret with the authority, in `epic`.
pub const AUTHORITY: &str = "epic-xds-ca";
/// Entries of a TLS Secret.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";

/// How long a Secret that was seen current is believed to be so, unless it is to be renewed before.
const BELIEF: Duration = Duration::from_secs(120);

/// The authority, and which proxies' certificates were seen current.
#[derive(Default)]
pub struct Certificates {
    authority: ArcSwapOption<KeyedCertificate>,
    current: Mutex<BTreeMap<Key, Current>>,
}

/// The LoadBalancer whose proxies a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub load_balancer: String,
    /// Its uid: a successor of the same name is somebody else.
    pub uid: String,
    /// The Account of its namespace.
    pub account: String,
    /// Name of the Secret, [`epic_model::name::child`].
    pub secret: String,
}

#[derive(Clone, Debug)]
struct Current {
    uid: String,
    fresh: Range<SystemTime>,
    seen: Instant,
}

impl Current {
    /// Whether the certificate of the LoadBalancer with this uid need not be read again.
    fn is_believed(&self, uid: &str, now: SystemTime) -> bool {
        self.uid == uid && self.fresh.contains(&now) && self.seen.elapsed() < BELIEF
    }
}

impl Certificates {
    /// The authority, made if there is none.
    ///
    /// # Errors
    /// What the API server answers, and a Secret of that name that holds no authority.
    pub async fn authority(&self, client: &Client) -> Result<Arc<KeyedCertificate>, Error> {
        if let Some(known) = self.authority.load_full() {
            return Ok(known);
        }
        let key = Key::namespaced(EPIC_NAMESPACE, AUTHORITY);
        let found = match client.get_opt::<Secret>(&key).await? {
            Some(found) => found,
            None => {
                let made = pki::create_authority(SystemTime::now())?;
                let mut secret = secret(EPIC_NAMESPACE, AUTHORITY, &made, &made.certificate);
                match client.create(&mut secret).await {
                    Ok(()) => secret,
                    // Another replica was first; its authority counts.
                    Err(error) if error.is_already_exists() => client.get(&key).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let (Some(certificate), Some(key)) = (text(&found, CERTIFICATE), text(&found, KEY)) else {
            return Err(Error::Missing(
                "Secret epic-xds-ca holds no authority; delete it to have one made, which cuts all proxies off until they restart",
            ));
        };
        if pki::begins_later(&certificate, SystemTime::now()) {
            return Err(Error::Missing(
                "the authority in Secret epic-xds-ca begins in the future, so nobody takes what it signs; correct the clock of this node, or, if it was the clock that made the Secret that ran ahead, delete the Secret and restart the operators",
            ));
        }
        let authority = Arc::new(KeyedCertificate { certificate, key });
        self.authority.store(Some(Arc::clone(&authority)));
        Ok(authority)
    }

    /// Sees to it that the proxies' Secret holds a current certificate.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn ensure(&self, context: &Shared, holder: &Holder) -> Result<(), Error> {
        let now = SystemTime::now();
        let balancer = Key::namespaced(holder.namespace.as_str(), holder.load_balancer.as_str());
        let believed = self.current.lock().get(&balancer).cloned();
        if believed.is_some_and(|known| known.is_believed(&holder.uid, now)) {
            return Ok(());
        }
        let client = &context.client;
        let authority = self.authority(client).await?;
        let key = Key::namespaced(holder.namespace.as_str(), holder.secret.as_str());
        let found = client.get_opt::<Secret>(&key).await?;
        let is_ours = |secret: &Secret| owned_by(&secret.metadata, &holder.uid);
        if found.as_ref().is_some_and(|secret| !is_ours(secret)) {
            return Err(Error::Missing("a Secret of the proxies' name exists and is not theirs; delete it"));
        }
        let held = found.as_ref().and_then(|secret| held(secret, &authority));
        let certificate = match held {
            Some(held) if pki::is_current(&held, &authority.certificate, now) => held,
            _ => {
                let identity = Identity::new(
                    holder.namespace.as_str(),
                    holder.load_balancer.as_str(),
                    holder.uid.as_str(),
                );
                let made = pki::issue_client(&authority, &identity, now)?;
                let mut secret = secret(&holder.namespace, &holder.secret, &made, &authority.certificate);
                secret.metadata.labels = Some(BTreeMap::from([
                    (LABEL_ACCOUNT.to_owned(), holder.account.clone()),
                    (LABEL_LOAD_BALANCER.to_owned(), holder.secret.clone()),
                ]));
                let owner = owner_reference("LoadBalancer", &holder.load_balancer, &holder.uid);
                secret.metadata.owner_references = serde_json::from_value(serde_json::json!([owner])).ok();
                context.counters.wrote("Secret");
                match found {
                    None => client.create(&mut secret).await?,
                    Some(found) => {
                        secret.metadata.resource_version = found.metadata.resource_version;
                        client.update(&mut secret).await?;
                    }
                }
                made.certificate
            }
        };
        let fresh = pki::fresh_during(&certificate)?;
        let current = Current { uid: holder.uid.clone(), fresh, seen: Instant::now() };
        self.current.lock().insert(balancer, current);
        Ok(())
    }

    /// Forgets a LoadBalancer that is gone.
    pub fn forget(&self, balancer: &Key) {
        self.current.lock().remove(balancer);
    }
}

fn secret(namespace: &str, name: &str, keyed: &KeyedCertificate, authority: &str) -> Secret {
    let entry = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from([
            entry(CERTIFICATE, &keyed.certificate),
            entry(KEY, &keyed.key),
            entry(CA, authority),
        ])),
        ..Secret::default()
    }
}

/// The certificate in a Secret that has all its parts: a key, and the authority that the proxies trust.
fn held(secret: &Secret, authority: &KeyedCertificate) -> Option<String> {
    let trusts = text(secret, CA)? == authority.certificate;
    let key = text(secret, KEY)?;
    text(secret, CERTIFICATE).filter(|_| trusts && key.contains("PRIVATE KEY"))
}

fn text(secret: &Secret, entry: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(entry)?;
    String::from_utf8(bytes.0.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_was_seen_current_while_the_clock_ran_ahead_is_looked_at_again_once_it_is_corrected()
    {
        let now = SystemTime::now();
        let ahead = now + Duration::from_secs(24 * 3600);
        let authority = pki::create_authority(ahead).unwrap();
        let identity = Identity::new("epic-red", "web", "u");
        let made = pki::issue_client(&authority, &identity, ahead).unwrap();
        let fresh = pki::fresh_during(&made.certificate).unwrap();
        let known = Current { uid: "u".to_owned(), fresh, seen: Instant::now() };
        assert!(known.is_believed("u", ahead));
        assert!(!known.is_believed("another", ahead));
        assert!(!known.is_believed("u", now));
    }
}
