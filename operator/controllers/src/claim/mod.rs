//! Public addresses: an AddressClaim named after the address, created, *is* the allocation.
//!
//! [`grant`] gets a LoadBalancer its address, [`release`] lets go of claims whose owner is gone or has moved on. Both
//! carry out plans of [`epic_model::claim`] in the order of calls that the protocol asks for: the grant reads the
//! claims out of the cache and then the LoadBalancer by quorum, the release reads the claim and then the owner, both by
//! quorum. [`Addresses`] keeps what the cache shows in the form that both ask for.

mod convert;
pub mod grant;
mod index;
pub mod release;
#[cfg(test)]
mod situations;
mod status;

pub use convert::{
    NotAPool, Of, balancer_version, claim, claims, live_nodes, node_revisions, pool, pools, shown,
};
pub use index::{Addresses, Concerned};
pub use release::reconcile;

#[cfg(test)]
mod test_objects {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    /// An object at version 7 whose uid is its name.
    pub(super) fn object<K: DeserializeOwned>(kind: &str, namespace: &str, name: &str, spec: Value) -> K {
        let meta = json!({"name": name, "namespace": namespace, "uid": name, "resourceVersion": "7"});
        serde_json::from_value(
            json!({"apiVersion": "epic.acnodal.io/v1", "kind": kind, "metadata": meta, "spec": spec}),
        )
        .unwrap()
    }
}
