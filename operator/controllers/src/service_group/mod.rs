//! The ServiceGroup's controller, and how a LoadBalancer finds its group.

use std::sync::Arc;

use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{LoadBalancer, ServiceGroup};
use epic_model::id::PoolName;
use kates::{Key, Snapshot};
use kube::ResourceExt;

/// Pool of a group that names none.
pub const DEFAULT_POOL: &str = "default";

/// The group that a LoadBalancer names: first in its own namespace, then in `epic`.
pub fn group_of(snapshot: &Snapshot, balancer: &LoadBalancer) -> Option<Arc<ServiceGroup>> {
    let name = balancer.spec.service_group.as_str();
    let private = Key::namespaced(balancer.namespace().unwrap_or_default(), name);
    let shared = Key::namespaced(EPIC_NAMESPACE, name);
    snapshot.get::<ServiceGroup>(&private).or_else(|| snapshot.get(&shared)).cloned()
}

/// Whether a group admits the LoadBalancers of an Account: a private group its own namespace's, a shared one whom it
/// names, or everybody.
pub fn admits(group: &ServiceGroup, account: &str, namespace: &str) -> bool {
    if group.namespace().as_deref() == Some(namespace) {
        return true;
    }
    group.spec.accounts.as_ref().is_none_or(|accounts| accounts.iter().any(|name| name == account))
}

/// The pools of a LoadBalancer's group, in their order.
pub fn pool_names(snapshot: &Snapshot, balancer: &LoadBalancer) -> Option<Vec<PoolName>> {
    let group = group_of(snapshot, balancer)?;
    Some(match &group.spec.address_pools {
        Some(names) => names.iter().map(|name| PoolName::from(name.as_str())).collect(),
        None => vec![DEFAULT_POOL.into()],
    })
}
