//! The master key: Secret `epic-gue-master` in `epic`, create-only, so there is never a second one.
//!
//! Losing it (somebody deletes the Secret) changes every tunnel's key; this process goes on with the one it knows
//! and does not write it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use epic_crds::well_known::{EPIC_NAMESPACE, SECRET_GUE_MASTER};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kates::{Client, Key};
use kube::api::ObjectMeta;
use parking_lot::Mutex;

use crate::reconcile::Error;
use crate::tenant::keys::MasterKey;

/// How long a tenant's Secret that was seen to be right is believed to be so.
const BELIEF: Duration = Duration::from_secs(120);

/// The master key, and which tenants' Secrets were seen to be right.
#[derive(Default)]
pub struct Keys {
    master: ArcSwapOption<MasterKey>,
    seen: Mutex<BTreeMap<String, (String, Instant)>>,
}

impl Keys {
    /// The master key, made if there is none.
    ///
    /// # Errors
    /// What the API server answers, and a Secret of that name without key.
    pub async fn master(&self, client: &Client) -> Result<Arc<MasterKey>, Error> {
        if let Some(known) = self.master.load_full() {
            return Ok(known);
        }
        let key = Key::namespaced(EPIC_NAMESPACE, SECRET_GUE_MASTER);
        let found = match client.get_opt::<Secret>(&key).await? {
            Some(found) => found,
            None => {
                let mut secret = drawn()?;
                match client.create(&mut secret).await {
                    Ok(()) => secret,
                    // Another replica was first; its key counts.
                    Err(error) if error.is_already_exists() => client.get(&key).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let bytes = found.data.as_ref().and_then(|entries| entries.get(MasterKey::ENTRY));
        let Some(master) = bytes.and_then(|bytes| MasterKey::from_bytes(bytes.0.clone())) else {
            return Err(Error::Missing(
                "Secret epic-gue-master has no usable entry \"master\"; put it back, or delete the Secret to have a new one made, which changes every tunnel's key",
            ));
        };
        let master = Arc::new(master);
        self.master.store(Some(Arc::clone(&master)));
        Ok(master)
    }

    /// Whether the Secret of a namespace was seen lately with what `fingerprint` stands for.
    pub fn believes(&self, namespace: &str, fingerprint: &str) -> bool {
        let seen = self.seen.lock();
        seen.get(namespace).is_some_and(|(known, at)| known == fingerprint && at.elapsed() < BELIEF)
    }

    /// Remembers that it was.
    pub fn saw(&self, namespace: &str, fingerprint: String) {
        self.seen.lock().insert(namespace.to_owned(), (fingerprint, Instant::now()));
    }

    /// Forgets a namespace.
    pub fn forget(&self, namespace: &str) {
        self.seen.lock().remove(namespace);
    }
}

fn drawn() -> Result<Secret, Error> {
    let mut bytes = vec![0; MasterKey::LEN];
    getrandom::fill(&mut bytes).map_err(|_| Error::Missing("the kernel gives no random bytes"))?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_GUE_MASTER.to_owned()),
            namespace: Some(EPIC_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(MasterKey::ENTRY.to_owned(), ByteString(bytes))])),
        ..Secret::default()
    })
}
