//! Copies, in a tenant's namespace, of the Secrets that Envoy's image is pulled with.
//!
//! Pull Secrets do not cross namespaces. Administrators keep theirs in `epic`; what the proxies of a namespace name is
//! copied there, where nobody but the operator and the kubelets can read Secrets. A copy carries a label, so that it is
//! found again when it is named no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use epic_crds::well_known::{EPIC_NAMESPACE, LABEL_PULL_SECRET};
use k8s_openapi::api::core::v1::Secret;
use kates::{Key, Snapshot};
use serde_json::{Value, json};

use super::metadata;
use crate::proxy::copy;

/// Type of such Secrets.
pub const TYPE: &str = "kubernetes.io/dockerconfigjson";

/// The Secrets of these names in `epic`, and the names of which there is none of the right type.
pub fn sources<'s>(
    snapshot: &'s Snapshot,
    names: &BTreeSet<String>,
) -> (BTreeMap<String, &'s Arc<Secret>>, Vec<String>) {
    let mut missing = Vec::new();
    let mut found = BTreeMap::new();
    for name in names {
        match snapshot.get::<Secret>(&Key::namespaced(EPIC_NAMESPACE, name.as_str())) {
            Some(secret) => {
                found.insert(name.clone(), secret);
            }
            None => missing.push(name.clone()),
        }
    }
    (found, missing)
}

/// What a condition says of Secrets that are named and not there; `None` when all are.
pub fn complaint(snapshot: &Snapshot, names: &[String]) -> Option<String> {
    let (_, missing) = sources(snapshot, &names.iter().cloned().collect());
    let first = missing.first()?;
    Some(format!(
        "Secret {first:?} of image-pull-secrets does not exist in namespace {EPIC_NAMESPACE}, or is not of type {TYPE}; create it (kubectl -n {EPIC_NAMESPACE} create secret docker-registry), or leave it out"
    ))
}

/// The copy of a Secret.
pub fn copied(account: &str, namespace: &str, name: &str, source: &Secret) -> Value {
    let mut metadata = metadata(account, namespace, &copy(name));
    metadata["labels"][LABEL_PULL_SECRET] = "copy".into();
    let entries = source.data.iter().flatten();
    let data: serde_json::Map<String, Value> =
        entries.map(|(entry, bytes)| (entry.clone(), STANDARD.encode(&bytes.0).into())).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "data": data})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_content_a_name_of_ours_and_the_label_that_finds_it() {
        let source: Secret = serde_json::from_value(json!({
            "metadata": {"name": "mirror", "namespace": "epic", "labels": {"keep": "out"}},
            "type": TYPE, "data": {".dockerconfigjson": "e30="},
        }))
        .unwrap();
        let copy: Secret = serde_json::from_value(copied("red", "epic-red", "mirror", &source)).unwrap();
        assert_eq!((copy.type_, copy.data), (source.type_, source.data));
        assert_eq!(copy.metadata.name.as_deref(), Some("epic-pull-mirror"));
        let labels = copy.metadata.labels.unwrap();
        assert!(labels.contains_key(LABEL_PULL_SECRET) && !labels.contains_key("keep"));
    }
}
