//! Certificates: the authorities of [`crate::authority`] as this process knows them, and one client certificate for each
//! LoadBalancer's proxies.
//!
//! A proxy's certificate names its LoadBalancer by uid; it lasts a day and is renewed at half, when the clock turns out
//! to have run ahead, or with a step in a change of the authority, by replacing the Secret that the pods have mounted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use epic_crds::well_known::{LABEL_ACCOUNT, LABEL_LOAD_BALANCER};
use epic_xds::engine::Version;
use epic_xds::pki::{self, KeyedCertificate};
use epic_xds::{Authorities, Identity};
use futures::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kates::{Client, Key};
use kube::api::ObjectMeta;
use parking_lot::Mutex;
use rand::Rng;

use crate::authority;
use crate::context::Shared;
use crate::proxy::owned_by;
use crate::reconcile::Error;
use crate::tenant::owner_reference;

/// Entries of a TLS Secret.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";

/// How long a Secret that was seen current is believed to be so, half as long more or less, unless it is to be renewed
/// before or a pod cannot mount it. Only somebody's hand takes it away, and proxies that run have read it.
const BELIEF: Duration = Duration::from_secs(3600);

/// Secrets that are written at once when the authority changes.
const CONCURRENT: usize = 16;

/// The authorities, and which proxies' certificates were seen current.
#[derive(Default)]
pub struct Certificates {
    authorities: ArcSwapOption<Authorities>,
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
    holder: Holder,
    /// Of the authorities that it was made by and trusts.
    authorities: Version,
    fresh: Range<SystemTime>,
    /// Until when it is valid.
    ends: SystemTime,
    /// Until when it is believed.
    until: Instant,
}

/// The earliest end of validity of what is in use; `None` where none is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Of the authority that signs.
    pub authority: Option<SystemTime>,
    /// Of the certificates in the proxies' Secrets.
    pub proxies: Option<SystemTime>,
}

/// How long a Secret is believed, so that those seen at the same time are not all read again at the same time.
fn belief() -> Duration {
    BELIEF.mul_f64(rand::rng().random_range(0.5..1.5))
}

impl Current {
    /// Whether the certificate of the LoadBalancer with this uid is what it should be, as far as is known.
    fn is_current(&self, uid: &str, authorities: Version, now: SystemTime) -> bool {
        self.holder.uid == uid && self.authorities == authorities && self.fresh.contains(&now)
    }

    /// Whether it need not be read again.
    fn is_believed(&self, uid: &str, authorities: Version, now: SystemTime) -> bool {
        self.is_current(uid, authorities, now) && Instant::now() < self.until
    }
}

impl Certificates {
    /// The authorities as they were read last, or now if that was never; made if there are none.
    ///
    /// # Errors
    /// What the API server answers, and a Secret of that name that holds no authority.
    pub async fn authorities(&self, client: &Client) -> Result<Arc<Authorities>, Error> {
        if let Some(known) = self.authorities.load_full() {
            return Ok(known);
        }
        Ok(self.look(client).await?.0)
    }

    /// Reads the authorities again, and the Secret they stand in. If it is gone it is written again as it was known
    /// here; only where nobody knows an authority one is made.
    ///
    /// # Errors
    /// As for [`Certificates::authorities`]; what was known before stays.
    pub async fn look(&self, client: &Client) -> Result<(Arc<Authorities>, Secret), Error> {
        let key = authority::key();
        let known = self.authorities.load_full();
        let secret = match client.get_opt::<Secret>(&key).await? {
            Some(found) => found,
            None => {
                let wanted = match &known {
                    Some(known) => known.as_ref().clone(),
                    None => Authorities::one(pki::create_authority(SystemTime::now())?),
                };
                let mut secret = authority::write(&wanted, None);
                match client.create(&mut secret).await {
                    Ok(()) => secret,
                    // Another replica was first; its authority counts.
                    Err(error) if error.is_already_exists() => client.get(&key).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let found = authority::read(&secret)?;
        if let Some(known) = known.filter(|known| **known == found) {
            return Ok((known, secret));
        }
        let found = Arc::new(found);
        self.authorities.store(Some(Arc::clone(&found)));
        Ok((found, secret))
    }

    /// Sees to it that all proxies' Secrets that are known here hold what they should now. Who fails is tried again by
    /// the next call, and by its own controller.
    pub async fn give(&self, context: &Shared) {
        let holders: Vec<Holder> =
            self.current.lock().values().map(|current| current.holder.clone()).collect();
        let outcomes = holders.into_iter().map(|holder| async move {
            if let Err(error) = self.ensure(context, &holder).await {
                let (namespace, name) = (&holder.namespace, &holder.load_balancer);
                tracing::warn!(%namespace, %name, %error, "its proxies have no new certificate yet");
            }
        });
        stream::iter(outcomes).buffer_unordered(CONCURRENT).collect::<()>().await;
    }

    /// Whether the proxies of a LoadBalancer were given what these authorities say.
    pub fn holds(&self, balancer: &Key, uid: &str, authorities: &Authorities) -> bool {
        let current = self.current.lock();
        current.get(balancer).is_some_and(|it| it.is_current(uid, authorities.version(), SystemTime::now()))
    }

    /// Sees to it that the proxies' Secret holds a current certificate.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn ensure(&self, context: &Shared, holder: &Holder) -> Result<(), Error> {
        let now = SystemTime::now();
        let balancer = Key::namespaced(holder.namespace.as_str(), holder.load_balancer.as_str());
        let client = &context.client;
        let authorities = self.authorities(client).await?;
        let believed = self.current.lock().get(&balancer).cloned();
        if believed.is_some_and(|known| known.is_believed(&holder.uid, authorities.version(), now)) {
            return Ok(());
        }
        let key = Key::namespaced(holder.namespace.as_str(), holder.secret.as_str());
        let found = client.get_opt::<Secret>(&key).await?;
        let is_ours = |secret: &Secret| owned_by(&secret.metadata, &holder.uid);
        if found.as_ref().is_some_and(|secret| !is_ours(secret)) {
            return Err(Error::Missing("a Secret of the proxies' name exists and is not theirs; delete it"));
        }
        let held = found.as_ref().and_then(|secret| held(secret, &authorities));
        let certificate = match held {
            Some(held) if pki::is_current(&held, &authorities.signing.certificate, now) => held,
            _ => {
                let identity = Identity::new(
                    holder.namespace.as_str(),
                    holder.load_balancer.as_str(),
                    holder.uid.as_str(),
                );
                let made = pki::issue_client(&authorities.signing, &identity, now)?;
                let mut secret = secret(&holder.namespace, &holder.secret, &made, &authorities.trusted);
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
        let ends = pki::ends(&certificate)?;
        let authorities = authorities.version();
        let until = Instant::now() + belief();
        let current = Current { holder: holder.clone(), authorities, fresh, ends, until };
        self.current.lock().insert(balancer, current);
        Ok(())
    }

    /// When what is in use ends. Only whoever `writes` sees proxies' certificates renewed: what it knew of them before
    /// somebody else took over is none of its figures.
    pub(crate) fn ends(&self, writes: bool) -> Ends {
        let authorities = self.authorities.load();
        let authority = authorities.as_ref().and_then(|known| pki::ends(&known.signing.certificate).ok());
        let proxies = || self.current.lock().values().map(|current| current.ends).min();
        Ends { authority, proxies: writes.then(proxies).flatten() }
    }

    /// Forgets what was seen of a LoadBalancer's certificate: it is gone, or a pod of it cannot mount the Secret.
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

/// The certificate in a Secret that has all its parts: a key, and the authorities that the proxies are to trust.
fn held(secret: &Secret, authorities: &Authorities) -> Option<String> {
    let trusts = text(secret, CA)? == authorities.trusted;
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
        let authorities = Authorities::one(authority);
        let known = Current { fresh, ..current(&authorities) };
        let version = authorities.version();
        assert!(known.is_believed("u", version, ahead));
        assert!(!known.is_believed("another", version, ahead));
        assert!(!known.is_believed("u", version, now));
    }

    fn current(authorities: &Authorities) -> Current {
        let holder = Holder {
            namespace: "epic-red".to_owned(),
            load_balancer: "web".to_owned(),
            uid: "u".to_owned(),
            account: "red".to_owned(),
            secret: "web".to_owned(),
        };
        let now = SystemTime::now();
        let (fresh, ends) = (now..now + Duration::from_secs(60), now + Duration::from_secs(120));
        Current { holder, authorities: authorities.version(), fresh, ends, until: Instant::now() + belief() }
    }

    #[test]
    fn proxies_hold_what_they_were_given_until_the_authority_takes_a_step() {
        let now = SystemTime::now();
        let authorities = Authorities::one(pki::create_authority(now).unwrap());
        let (certificates, web) = (Certificates::default(), Key::namespaced("epic-red", "web"));
        certificates.current.lock().insert(web.clone(), current(&authorities));
        assert!(certificates.holds(&web, "u", &authorities));
        assert!(!certificates.holds(&web, "successor", &authorities));
        assert!(!certificates.holds(&Key::namespaced("epic-red", "dns"), "u", &authorities));
        let next = authorities.advanced(now).unwrap();
        assert!(!certificates.holds(&web, "u", &next), "it does not trust the next one yet");
    }

    #[test]
    fn the_first_certificate_to_end_is_told_by_whoever_renews_them() {
        let (certificates, now) = (Certificates::default(), SystemTime::now());
        assert_eq!(certificates.ends(true), Ends::default());
        let authorities = Authorities::one(pki::create_authority(now).unwrap());
        let hour = Duration::from_secs(3600);
        for (name, hours) in [("web", 20), ("dns", 3), ("api", 22)] {
            let current = Current { ends: now + hours * hour, ..current(&authorities) };
            certificates.current.lock().insert(Key::namespaced("epic-red", name), current);
        }
        certificates.authorities.store(Some(Arc::new(authorities)));
        assert_eq!(certificates.ends(true).proxies, Some(now + 3 * hour));
        let left = certificates.ends(true).authority.unwrap().duration_since(now).unwrap();
        assert!(left.abs_diff(pki::AUTHORITY_LIFETIME) < Duration::from_secs(2), "{left:?}");
        assert_eq!(certificates.ends(false), Ends { proxies: None, ..certificates.ends(true) });
        certificates.forget(&Key::namespaced("epic-red", "dns"));
        assert_eq!(certificates.ends(true).proxies, Some(now + 20 * hour));
    }

    #[test]
    fn certificates_seen_together_are_read_again_apart_from_half_an_hour_on() {
        let waits: Vec<Duration> = (0..1_000).map(|_| belief()).collect();
        let minutes = |wait: &Duration| wait.as_secs() / 60;
        assert!(waits.iter().all(|wait| (30..=90).contains(&minutes(wait))));
        let in_one_minute = |minute: u64| waits.iter().filter(|wait| minutes(wait) == minute).count();
        assert!((30..90).all(|minute| in_one_minute(minute) < 60), "a sixtieth each, not all at once");
    }
}
