//! What an Account's namespace holds besides the tenant's own objects.
//!
//! The namespace itself, the tenant's and its client agents' rights, what a client agent has to know, and the keys
//! its tunnels use. Pure builders; the Account's controller applies them. Keys are derived, never stored anywhere but
//! in the Secret a client reads.

pub mod client;
pub mod keys;
pub mod limits;
pub mod namespace;
pub mod network;
pub mod pull;

use epic_crds::well_known::{API_VERSION, LABEL_ACCOUNT};
use serde_json::{Value, json};

/// Metadata of an object of the operator in a tenant namespace. The namespace's life is its life, so it needs no owner.
fn metadata(account: &str, namespace: &str, name: &str) -> Value {
    json!({"name": name, "namespace": namespace, "labels": {LABEL_ACCOUNT: account}})
}

/// A controller reference from an object in the same namespace.
pub fn owner_reference(kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": kind, "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}
