//! The Account's controller, and what others ask about Accounts: which one a namespace belongs to, and its limits.

use std::sync::Arc;

use epic_crds::well_known::{EPIC_NAMESPACE, TENANT_NAMESPACE_PREFIX};
use epic_crds::{Account, Endpoint, LoadBalancer};
use epic_model::account::{self as model, Counted, Limit, Usage, fit};
use epic_model::id::Seconds;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use crate::service_group::group_of;

/// The Accounts that count, each with its tenant namespace: X in `epic` or in `epic-X`, the one in `epic` first.
pub fn accounts_in_force(snapshot: &Snapshot) -> Vec<(Arc<Account>, String)> {
    let all: Vec<model::Account> = snapshot.list::<Account>().map(|account| plain(account)).collect();
    snapshot
        .list::<Account>()
        .filter_map(|account| {
            let name = model::resolve(&plain(account), &all).ok()?;
            Some((Arc::clone(account), name.namespace().as_str().to_owned()))
        })
        .collect()
}

/// The Account that a namespace belongs to.
pub fn account_of(snapshot: &Snapshot, namespace: &str) -> Option<Arc<Account>> {
    let name = namespace.strip_prefix(TENANT_NAMESPACE_PREFIX)?;
    let shared = Key::namespaced(EPIC_NAMESPACE, name);
    snapshot.get::<Account>(&shared).or_else(|| snapshot.get(&Key::namespaced(namespace, name))).cloned()
}

/// An Account as the model sees it.
pub fn plain(account: &Account) -> model::Account {
    model::Account {
        name: account.name_any().into(),
        namespace: account.namespace().unwrap_or_default().into(),
        uid: account.uid().unwrap_or_default().into(),
    }
}

/// How far an Account's limits are used.
#[derive(Clone, Debug)]
pub struct Limits {
    /// LoadBalancers.
    pub load_balancers: Usage,
    /// Wanted proxies of the LoadBalancers that fit.
    pub proxies: Usage,
    /// Endpoints.
    pub endpoints: Usage,
}

/// The limits of an Account, and who is beyond them. Oldest first, so every replica decides the same.
pub fn limits(snapshot: &Snapshot, account: &Account, namespace: &str) -> Limits {
    let of = |written: Option<i64>, limit: Limit| {
        written.and_then(|written| u64::try_from(written).ok()).unwrap_or(limit.default_value())
    };
    let spec = &account.spec;
    let counted = |object: &dyn Object, amount: u64| Counted {
        uid: object.uid_text().into(),
        created: Seconds(object.created()),
        amount,
    };
    let balancers: Vec<&LoadBalancer> =
        snapshot.in_namespace::<LoadBalancer>(namespace).map(AsRef::as_ref).collect();
    let load_balancers = fit(
        &balancers.iter().map(|balancer| counted(*balancer, 1)).collect::<Vec<_>>(),
        of(spec.load_balancer_limit, Limit::LoadBalancers),
    );
    let replicas = |balancer: &LoadBalancer| {
        group_of(snapshot, balancer).map_or(0, |group| group.spec.envoy_replicas().max(0).unsigned_abs())
    };
    let fitting = balancers
        .iter()
        .filter(|balancer| !load_balancers.refused.contains(&balancer.uid().unwrap_or_default().into()));
    let proxies = fit(
        &fitting.map(|balancer| counted(*balancer, replicas(balancer))).collect::<Vec<_>>(),
        of(spec.proxy_limit, Limit::Proxies),
    );
    let endpoints = fit(
        &snapshot.in_namespace::<Endpoint>(namespace).map(|e| counted(e.as_ref(), 1)).collect::<Vec<_>>(),
        of(spec.endpoint_limit, Limit::Endpoints),
    );
    Limits { load_balancers, proxies, endpoints }
}

/// What counting needs of an object.
trait Object {
    fn uid_text(&self) -> String;
    fn created(&self) -> i64;
}

impl<K: ResourceExt> Object for K {
    fn uid_text(&self) -> String {
        self.uid().unwrap_or_default()
    }

    fn created(&self) -> i64 {
        self.creation_timestamp().map_or(0, |time| time.0.as_second())
    }
}
