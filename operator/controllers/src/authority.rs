//! The Secret with the xDS authority, and the change of one authority for another.
//!
//! Secret `epic-xds-ca` in `epic`: `tls.crt` and `tls.key` sign, `ca.crt` is what everybody trusts, `next.crt` and
//! `next.key` are there while a change is prepared. It is created create-only, so there is never a second authority, and
//! is readable by the operator alone. Every replica reads it again every [`LOOK`] and holds on to what it has read: a
//! Secret that was deleted is written back, one that cannot be read is not followed.
//!
//! A change is asked for with an annotation (`epicctl authority rotate`) and made in three steps
//! ([`epic_xds::authority`]). The leader takes each when the Secrets of all proxies have been what the step before says
//! for so long that kubelets have brought them and the other replica has read its own. All of it stands in the one Secret,
//! so another leader goes on where this one stopped; an annotation says what is being waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use epic_crds::LoadBalancer;
use epic_crds::well_known::{
    ANNOTATION_AUTHORITY_PROGRESS, ANNOTATION_AUTHORITY_ROTATED, ANNOTATION_ROTATE_AUTHORITY, EPIC_NAMESPACE,
    SECRET_XDS_AUTHORITY,
};
use epic_xds::authority::{Authorities, Step, is_due};
use epic_xds::engine::Version;
use epic_xds::pki::{self, KeyedCertificate};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::reconcile::{Error, now};

/// Time between two looks at the Secret.
pub const LOOK: Duration = Duration::from_secs(10);

/// Entries of the Secret.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const TRUSTED: &str = "ca.crt";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// LoadBalancers that a progress names at most.
const NAMED: usize = 5;

/// Where the Secret is.
pub fn key() -> Key {
    Key::namespaced(EPIC_NAMESPACE, SECRET_XDS_AUTHORITY)
}

/// The authorities in the Secret.
///
/// # Errors
/// It holds none, or one that nobody takes yet.
pub fn read(secret: &Secret) -> Result<Authorities, Error> {
    let pair = |certificate, key| {
        Some(KeyedCertificate { certificate: text(secret, certificate)?, key: text(secret, key)? })
    };
    let Some(signing) = pair(CERTIFICATE, KEY) else {
        return Err(Error::Missing(
            "Secret epic-xds-ca holds no authority; restore it, or delete it: an operator that still knows the authority writes it back, else one is made, which cuts all proxies off until they restart",
        ));
    };
    if pki::begins_later(&signing.certificate, SystemTime::now()) {
        return Err(Error::Missing(
            "the authority in Secret epic-xds-ca begins in the future, so nobody takes what it signs; correct the clock of this node, or, if it was the clock that made the Secret that ran ahead, delete the Secret and restart the operators",
        ));
    }
    Ok(Authorities::stored(signing, pair(NEXT_CERTIFICATE, NEXT_KEY), text(secret, TRUSTED).as_deref()))
}

/// The Secret for these, in place of `before`.
pub fn write(authorities: &Authorities, before: Option<Secret>) -> Secret {
    let mut entries = vec![
        (CERTIFICATE, &authorities.signing.certificate),
        (KEY, &authorities.signing.key),
        (TRUSTED, &authorities.trusted),
    ];
    if let Some(next) = &authorities.next {
        entries.extend([(NEXT_CERTIFICATE, &next.certificate), (NEXT_KEY, &next.key)]);
    }
    let bytes = |text: &String| ByteString(text.as_bytes().to_vec());
    let data = entries.into_iter().map(|(name, text)| (name.to_owned(), bytes(text))).collect();
    let metadata = before.map_or_else(
        || ObjectMeta {
            name: Some(SECRET_XDS_AUTHORITY.to_owned()),
            namespace: Some(EPIC_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        |before| before.metadata,
    );
    Secret { metadata, type_: Some("kubernetes.io/tls".to_owned()), data: Some(data), ..Secret::default() }
}

fn text(secret: &Secret, entry: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(entry)?;
    String::from_utf8(bytes.0.clone()).ok()
}

/// Since when all proxies have been given the same.
#[derive(Debug, Default)]
struct Given(Option<(Version, Instant)>);

impl Given {
    /// They have been given this version now, or somebody has not; how long they have had it.
    fn seen(&mut self, version: Option<Version>, now: Instant) -> Option<Duration> {
        let since = self.0.filter(|(known, _)| Some(*known) == version).map(|(_, since)| since);
        self.0 = version.map(|version| (version, since.unwrap_or(now)));
        self.0.map(|(_, since)| now.duration_since(since))
    }
}

/// Takes the steps of a change that is asked for or under way, while this replica leads.
pub async fn run(context: Shared, shutdown: CancellationToken) {
    let mut given = Given::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(LOOK.min(context.settings.authority_settle)) => {}
        }
        if !context.leadership.leads() {
            given = Given::default();
            continue;
        }
        if let Err(error) = pass(&context, &mut given).await {
            tracing::warn!(%error, "the change of the authority does not go on yet");
        }
    }
}

async fn pass(context: &Shared, given: &mut Given) -> Result<(), Error> {
    let (authorities, secret) = context.certificates.look(&context.client).await?;
    let step = authorities.step();
    let asked = secret.annotations().contains_key(ANNOTATION_ROTATE_AUTHORITY);
    if step == Step::Idle && !asked {
        return Ok(());
    }
    let settle = context.settings.authority_settle;
    let missing = match step {
        Step::Idle => Vec::new(),
        Step::TrustBoth | Step::ChangeLeaves => {
            context.certificates.give(context).await;
            let Ok(snapshot) = context.snapshot() else { return Ok(()) };
            missing(&snapshot, |key, uid| context.certificates.holds(key, uid, &authorities))
        }
    };
    let given_for = given.seen(missing.is_empty().then(|| authorities.version()), Instant::now());
    if !is_due(step, asked, given_for, settle) {
        return say(context, secret, &progress(step, &missing, settle)).await;
    }
    let next = authorities.advanced(SystemTime::now())?;
    let mut secret = write(&next, Some(secret));
    let annotations = secret.annotations_mut();
    if step == Step::Idle {
        annotations.remove(ANNOTATION_ROTATE_AUTHORITY);
    }
    let (annotation, text) = match next.step() {
        Step::Idle => (ANNOTATION_AUTHORITY_ROTATED, now().0.to_string()),
        step => (ANNOTATION_AUTHORITY_PROGRESS, progress(step, &missing, settle)),
    };
    annotations.remove(ANNOTATION_AUTHORITY_PROGRESS);
    annotations.insert(annotation.to_owned(), text);
    context.counters.wrote("Secret");
    context.client.update(&mut secret).await?;
    tracing::info!(step = ?next.step(), "took a step in the change of the authority");
    // Nothing waits for the last one to be followed, so nothing else would bring it to the proxies before the full pass.
    if next.step() == Step::Idle {
        context.certificates.look(&context.client).await?;
        context.certificates.give(context).await;
    }
    Ok(())
}

/// The LoadBalancers with proxies that do not hold what they should, by name.
fn missing(snapshot: &Snapshot, holds: impl Fn(&Key, &str) -> bool) -> Vec<Key> {
    let balancers = snapshot.list::<LoadBalancer>();
    let with_proxies = balancers.filter(|balancer| {
        balancer.metadata.deletion_timestamp.is_none()
            && balancer.status.as_ref().is_some_and(|status| !status.proxies.is_empty())
    });
    let lacks = with_proxies.filter_map(|balancer| {
        let (key, uid) = (Key::of(balancer.as_ref()), balancer.uid()?);
        (!holds(&key, &uid)).then_some(key)
    });
    lacks.collect()
}

fn progress(step: Step, missing: &[Key], settle: Duration) -> String {
    let step = match step {
        Step::Idle => "about to begin",
        Step::TrustBoth => "step 1 of 3, both authorities are trusted",
        Step::ChangeLeaves => "step 2 of 3, the new authority signs",
    };
    if missing.is_empty() {
        return format!(
            "{step}: all proxies were given their files, which reach them within {} s",
            settle.as_secs()
        );
    }
    let names: Vec<String> = missing.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if missing.len() > NAMED { ", …" } else { "" };
    format!("{step}: {} LoadBalancers wait for their files: {}{more}", missing.len(), names.join(", "))
}

async fn say(context: &Shared, mut secret: Secret, text: &str) -> Result<(), Error> {
    let said: &mut BTreeMap<String, String> = secret.annotations_mut();
    if said.get(ANNOTATION_AUTHORITY_PROGRESS).is_some_and(|there| there == text) {
        return Ok(());
    }
    said.insert(ANNOTATION_AUTHORITY_PROGRESS.to_owned(), text.to_owned());
    context.counters.wrote("Secret");
    context.client.update(&mut secret).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_from_the_secret_as_it_was_written() {
        let mut authorities = Authorities::one(pki::create_authority(SystemTime::now()).unwrap());
        let mut secret = write(&authorities, None);
        for step in [Step::Idle, Step::TrustBoth, Step::ChangeLeaves, Step::Idle] {
            let again = read(&secret).unwrap();
            assert_eq!((again.step(), again.version()), (step, authorities.version()));
            authorities = again.advanced(SystemTime::now()).unwrap();
            secret = write(&authorities, Some(secret));
        }
    }

    #[test]
    fn a_secret_of_the_version_before_is_one_authority() {
        let authorities = Authorities::one(pki::create_authority(SystemTime::now()).unwrap());
        let mut secret = write(&authorities, None);
        let certificate = authorities.signing.certificate.as_bytes().to_vec();
        secret.data.get_or_insert_default().insert(TRUSTED.to_owned(), ByteString(certificate));
        assert_eq!(read(&secret).unwrap(), authorities);
    }

    #[test]
    fn a_secret_without_its_key_is_not_followed_and_says_what_to_do() {
        let mut secret = write(&Authorities::one(pki::create_authority(SystemTime::now()).unwrap()), None);
        secret.data.get_or_insert_default().remove(KEY);
        assert!(read(&secret).unwrap_err().to_string().contains("restore it"));
    }

    #[test]
    fn the_wait_begins_anew_when_somebody_lacks_his_files_or_the_step_is_another() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (one, other) = (Version::of(b"1"), Version::of(b"2"));
        let mut given = Given::default();
        assert_eq!(given.seen(Some(one), start), Some(Duration::ZERO));
        assert_eq!(given.seen(Some(one), start + second), Some(second));
        assert_eq!(given.seen(None, start + 2 * second), None);
        assert_eq!(given.seen(Some(one), start + 3 * second), Some(Duration::ZERO));
        assert_eq!(given.seen(Some(other), start + 4 * second), Some(Duration::ZERO));
    }

    #[test]
    fn a_progress_names_a_few_of_those_who_wait() {
        let settle = Duration::from_secs(180);
        let waiting: Vec<Key> = (0..9).map(|n| Key::namespaced("epic-red", format!("lb-{n}"))).collect();
        let text = progress(Step::TrustBoth, &waiting, settle);
        assert!(text.contains("9 LoadBalancers wait") && text.contains("epic-red/lb-4, …"), "{text}");
        assert!(progress(Step::ChangeLeaves, &[], settle).contains("within 180 s"));
    }
}
