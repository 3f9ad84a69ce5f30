//! The ServiceGroup's controller, and how a LoadBalancer finds its group.

#[cfg(test)]
mod situations;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, READY, set};
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{
    Account, AddressPool, Condition, HasConditions, LoadBalancer, ServiceGroup, ServiceGroupReason as Reason,
    ServiceGroupStatus,
};
use epic_model::id::PoolName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Key, Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::account::account_of;
use crate::context::Shared;
use crate::reconcile::{Error, now, publish_status};
use crate::tenant::limits::{Offer, Offered};
use crate::tenant::pull::complaint;

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

/// The pools of a group, in their order.
pub fn pools_of(group: &ServiceGroup) -> Vec<PoolName> {
    group.spec.address_pools().into_iter().map(PoolName::from).collect()
}

/// One pass over one ServiceGroup.
///
/// # Errors
/// What the API server answers; the caller waits and calls again.
pub async fn reconcile(subject: Arc<Subject<ServiceGroup>>, context: Shared) -> Result<Action, Error> {
    let snapshot = context.snapshot()?;
    let key = subject.key();
    let Some(group) = snapshot.get::<ServiceGroup>(&key) else { return Ok(Action::await_change()) };
    if group.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let members = snapshot
        .list::<LoadBalancer>()
        .filter(|balancer| group_of(&snapshot, balancer).is_some_and(|found| Key::of(found.as_ref()) == key));
    let count = i64::try_from(members.count()).unwrap_or(i64::MAX);
    let mut status = ServiceGroupStatus {
        load_balancers: Some(count),
        proxies: Some(count.saturating_mul(group.spec.envoy_replicas())),
        ..group.status.clone().unwrap_or_default()
    };
    let found = Found {
        account: account_of(&snapshot, &group.namespace().unwrap_or_default()),
        pools: snapshot
            .in_namespace::<AddressPool>(EPIC_NAMESPACE)
            .map(|pool| (pool.name_any(), Arc::clone(pool)))
            .collect(),
        complaint: pull_secrets(group).and_then(|names| complaint(&snapshot, names)),
    };
    judge(group, &found, &mut status.conditions, &now());
    let after = ServiceGroup { status: Some(status), ..group.as_ref().clone() };
    publish_status(&context, group.as_ref(), after).await?;
    Ok(Action::requeue(context.settings.full_pass))
}

/// What a group is judged by.
struct Found {
    /// The Account of its namespace.
    account: Option<Arc<Account>>,
    /// All AddressPools.
    pools: BTreeMap<String, Arc<AddressPool>>,
    /// What is wrong with the Secrets that it names.
    complaint: Option<String>,
}

/// Sets the conditions. Pure.
fn judge(group: &ServiceGroup, found: &Found, conditions: &mut Vec<Condition>, now: &Time) {
    let generation = group.metadata.generation;
    match check(found, group) {
        Ok(()) => {
            set(conditions, ACCEPTED, true, Reason::Accepted, "", generation, now);
            match (usable_pool(found, group), &found.complaint) {
                (true, None) => set(conditions, READY, true, Reason::Ready, "", generation, now),
                // Images may be there already, or need no Secret.
                (true, Some(text)) => {
                    set(conditions, READY, true, Reason::PullSecretNotFound, text, generation, now)
                }
                (false, _) => {
                    let text = "none of its AddressPools is ready; see their conditions";
                    set(conditions, READY, false, Reason::PoolNotReady, text, generation, now)
                }
            };
        }
        Err((reason, text)) => {
            for type_ in [ACCEPTED, READY] {
                set(conditions, type_, false, reason, text.as_str(), generation, now);
            }
        }
    }
}

/// The Secrets that a group itself names.
fn pull_secrets(group: &ServiceGroup) -> Option<&[String]> {
    group.spec.proxies.as_ref()?.image_pull_secrets.as_deref()
}

fn pool_of(name: &str) -> Key {
    Key::namespaced(EPIC_NAMESPACE, name)
}

fn usable_pool(found: &Found, group: &ServiceGroup) -> bool {
    let mut named = group.spec.address_pools().into_iter().filter_map(|name| found.pools.get(name));
    named.any(|pool| pool.is_condition_true(READY))
}

/// The groups that LoadBalancers of a tenant may name, its own first, and the pools that addresses can come from.
pub fn offer(snapshot: &Snapshot, account: &Account, namespace: &str) -> Offer {
    let name = account.name_any();
    let own = || snapshot.in_namespace::<ServiceGroup>(namespace).filter(|_| namespace != EPIC_NAMESPACE);
    let shared = snapshot.in_namespace::<ServiceGroup>(EPIC_NAMESPACE);
    let mut groups: BTreeMap<String, Arc<ServiceGroup>> = BTreeMap::new();
    for group in own().chain(shared).filter(|group| admits(group, &name, namespace)) {
        // A private group wins over a shared one of its name.
        groups.entry(group.name_any()).or_insert_with(|| Arc::clone(group));
    }
    let admitted = |pool: &&Arc<AddressPool>| {
        pool.spec.accounts.as_ref().is_none_or(|accounts| accounts.contains(&name))
            && !pool.spec.disabled.unwrap_or(false)
    };
    let named: BTreeSet<String> = groups
        .values()
        .flat_map(|group| group.spec.address_pools().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    Offer {
        own_groups: own().count(),
        pools: named
            .iter()
            .filter_map(|name| snapshot.get::<AddressPool>(&pool_of(name)).filter(admitted))
            .map(|pool| (pool.name_any(), pool.spec.addresses.clone()))
            .collect(),
        groups: groups
            .into_iter()
            .map(|(name, group)| {
                let pools = group.spec.address_pools().into_iter().map(str::to_owned).collect();
                (name, Offered { pools, replicas: group.spec.envoy_replicas() })
            })
            .collect(),
    }
}

/// Judges a group; the error is the first thing to mend.
fn check(found: &Found, group: &ServiceGroup) -> Result<(), (Reason, String)> {
    let unsupported = group.spec.not_supported_yet();
    if !unsupported.is_empty() {
        let text = format!("{} has no effect in this version; leave it out", unsupported.join(", "));
        return Err((Reason::NotSupportedYet, text));
    }
    let namespace = group.namespace().unwrap_or_default();
    let private = namespace != EPIC_NAMESPACE;
    if private && group.spec.envoy_image.is_some() {
        let text = "spec.envoy-image is for shared groups, which lie in namespace epic; leave it out";
        return Err((Reason::ImageNotAllowed, text.to_owned()));
    }
    if private && group.spec.proxies.is_some() {
        let text = "spec.proxies is for shared groups, which lie in namespace epic; leave it out";
        return Err((Reason::ProxiesNotAllowed, text.to_owned()));
    }
    let account = found.account.as_deref();
    if private && account.is_none() {
        let text = "this namespace belongs to no Account; an administrator creates the Account first";
        return Err((Reason::AccountNotReady, text.to_owned()));
    }
    for name in group.spec.address_pools() {
        let Some(pool) = found.pools.get(name) else {
            let text = format!(
                "AddressPool {name:?} does not exist in namespace epic; create it or name another one{}",
                admitting(found, account)
            );
            return Err((Reason::PoolNotFound, text));
        };
        let admitted = account.is_none_or(|account| is_admitted(pool, account));
        if private && !admitted {
            let text = format!(
                "AddressPool {name:?} does not admit this account; name another one{}",
                admitting(found, account)
            );
            return Err((Reason::PoolNotAdmitted, text));
        }
    }
    Ok(())
}

fn is_admitted(pool: &AddressPool, account: &Account) -> bool {
    pool.spec.admits(&account.name_any(), account.labels())
}

/// Names of pools that a message lists before it leaves out the rest.
const LISTED: usize = 10;

/// The pools that an Account may use, for whoever cannot list them. Of a shared group, whose owner can, nothing.
fn admitting(found: &Found, account: Option<&Account>) -> String {
    let Some(account) = account else { return String::new() };
    let alive = |pool: &&Arc<AddressPool>| pool.metadata.deletion_timestamp.is_none();
    let pools = found.pools.values().filter(alive).filter(|pool| is_admitted(pool, account));
    let mut names: Vec<String> = pools.take(LISTED + 1).map(|pool| pool.name_any()).collect();
    let more = if names.len() > LISTED { ", …" } else { "" };
    names.truncate(LISTED);
    if names.is_empty() {
        return "; none admits this account".to_owned();
    }
    format!(" (it may use {}{more})", names.join(", "))
}
