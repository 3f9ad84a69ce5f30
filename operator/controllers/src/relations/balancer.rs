//! What concerns LoadBalancers.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, TUNNEL_UP};
use epic_crds::reason::Reason as _;
use epic_crds::well_known::{LABEL_LOAD_BALANCER, node_lease_name, tenant_namespace};
use epic_crds::{
    Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, HasConditions, LoadBalancer,
    LoadBalancerReason, ServiceGroup,
};
use epic_model::account::Usage;
use epic_model::name;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kates::{Change, Key, Object, Queue, Snapshot};
use kube::ResourceExt;

use super::room::{is_gone, on_room};
use super::{
    addresses, all, differs, in_namespace, is_accepted, keys_of, occupancy, on, on_changes, reached,
    replicas, settings, told,
};
use crate::account::Limits;
use crate::claim::{Addresses, Concerned};
use crate::context::Shared;
use crate::proxy::{ReplicaSet, restarted_at, unmade};
use crate::service_group::{group_of, pools_of};

/// The controller of LoadBalancers.
pub fn load_balancer(context: &Shared) -> Queue<LoadBalancer> {
    let everyone = |snapshot: &Snapshot| all::<LoadBalancer>(snapshot);
    context
        .watches
        .controller::<LoadBalancer>()
        // Its proxies.
        .reconcile_on(on::<Pod, _, _>(context, |pod| pod.resource_version(), labelled))
        .reconcile_on(on::<ReplicaSet, _, _>(context, |set| set.owner_references().to_vec(), labelled))
        .reconcile_on(on::<Deployment, _, _>(
            context,
            |deployment| (deployment.metadata.generation, unmade(deployment)),
            |_, o| owned(o),
        ))
        .reconcile_on(on::<PodDisruptionBudget, _, _>(
            context,
            |budget| budget.metadata.generation,
            |_, o| owned(o),
        ))
        .reconcile_on(on::<ConfigMap, _, _>(context, |map| map.data.clone(), |_, o| owned(o)))
        // What it asks for, and who may.
        .reconcile_on(on::<ServiceGroup, _, _>(
            context,
            |group| (group.spec.clone(), is_accepted(group), restarted_at(group).map(str::to_owned)),
            members,
        ))
        .reconcile_on(on::<AddressPool, _, _>(
            context,
            |pool| (pool.spec.clone(), pool.metadata.deletion_timestamp.clone(), is_accepted(pool)),
            move |snapshot, _| everyone(snapshot),
        ))
        .reconcile_on(on_changes::<AddressClaim, _>(context, {
            let addresses = Arc::clone(&context.addresses);
            move |snapshot, changes| {
                changes.iter().flat_map(|change| claimants(snapshot, &addresses, change)).collect()
            }
        }))
        // One that does not ask for an address any more, or shows it no longer, leaves it to others.
        .reconcile_on(on_changes::<LoadBalancer, _>(context, {
            let addresses = Arc::clone(&context.addresses);
            move |snapshot, changes| {
                changes.iter().flat_map(|change| heirs(snapshot, &addresses, change)).collect()
            }
        }))
        .reconcile_on(told(context.addresses.given_back()))
        .reconcile_on(on::<Account, _, _>(
            context,
            |account| {
                let group_id = account.status.as_ref().and_then(|status| status.group_id);
                let labels = account.metadata.labels.clone();
                (account.spec.clone(), labels, group_id, account.is_condition_true(READY))
            },
            |snapshot, account| {
                in_namespace::<LoadBalancer>(snapshot, &tenant_namespace(&account.name_any()), |_| true)
            },
        ))
        // One that goes makes room within a limit.
        .reconcile_on(on_room::<LoadBalancer, _>(context, is_gone, of_balancers))
        // So does a pod, as soon as it does not run any more, and a Deployment that gets smaller.
        .reconcile_on(on_room::<Pod, _>(context, |pod| differs(pod, occupancy), of_balancers))
        .reconcile_on(on_room::<Deployment, _>(context, |made| differs(made, replicas), of_balancers))
        .reconcile_on(on::<EPIC, _, _>(context, settings, move |snapshot, _| everyone(snapshot)))
        // Where it is in force. A Lease matters when it comes or goes; one that is not renewed shows in the next look.
        .reconcile_on(on::<EPICNode, _, _>(context, addresses, move |snapshot, _| everyone(snapshot)))
        .reconcile_on(on::<EPICNode, _, _>(context, reached, |snapshot, _| {
            keys_of(snapshot, waits_for_nodes)
        }))
        .reconcile_on(on::<Lease, _, _>(
            context,
            |_| (),
            move |snapshot, lease| if names_a_node(lease) { everyone(snapshot) } else { Vec::new() },
        ))
        .reconcile_on(on_changes::<EPICNode, _>(context, |snapshot, changes| answered(snapshot, &changes)))
        .reconcile_on(on::<Endpoint, _, _>(
            context,
            |endpoint| {
                let said = [ACCEPTED, PROGRAMMED, TUNNEL_UP]
                    .map(|type_| endpoint.condition(type_).map(|known| known.status));
                (endpoint.spec.load_balancer.clone(), endpoint.spec.weight() == 0, said)
            },
            |_, endpoint| vec![balancer_of(endpoint)],
        ))
        .reconcile_on(on::<Service, _, _>(
            context,
            |service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()),
            move |snapshot, _| everyone(snapshot),
        ))
        .reconcile_on(told(context.verdicts.changes()))
        .reconcile_on(told(context.witness.balancers()))
}

/// The LoadBalancer that an object belongs to by its controller reference.
fn owned<K: Object>(object: &K) -> Vec<Key> {
    let Some(namespace) = object.meta().namespace.clone() else { return Vec::new() };
    let owners = object.meta().owner_references.iter().flatten();
    owners
        .filter(|owner| owner.kind == "LoadBalancer")
        .map(|owner| Key::namespaced(namespace.as_str(), owner.name.as_str()))
        .collect()
}

/// The LoadBalancer whose children carry the label that `object` has.
fn labelled<K: Object>(snapshot: &Snapshot, object: &K) -> Vec<Key> {
    let (Some(namespace), Some(label)) = (
        object.meta().namespace.as_deref(),
        object.meta().labels.as_ref().and_then(|labels| labels.get(LABEL_LOAD_BALANCER)),
    ) else {
        return Vec::new();
    };
    let child = |balancer: &LoadBalancer| name::child(&namespace.into(), &balancer.name_any().into());
    in_namespace::<LoadBalancer>(snapshot, namespace, |balancer| child(balancer) == *label)
}

fn members(snapshot: &Snapshot, group: &ServiceGroup) -> Vec<Key> {
    let (name, namespace) = (group.name_any(), group.namespace());
    let shared = namespace.as_deref() == Some(epic_crds::well_known::EPIC_NAMESPACE);
    keys_of(snapshot, |balancer: &LoadBalancer| {
        balancer.spec.service_group == name && (shared || balancer.namespace() == namespace)
    })
}

/// Whom a change of a claim concerns: its owner, those that show its address or ask for it, and, when it is gone, those
/// of its pools that wait for any address, and those that wait until their Account has fewer claims.
fn claimants(snapshot: &Snapshot, addresses: &Addresses, change: &Change<AddressClaim>) -> Vec<Key> {
    let part =
        |claim: &Arc<AddressClaim>| (claim.spec.clone(), claim.status.clone(), claim.metadata.uid.clone());
    if change.before.as_ref().map(part) == change.after.as_ref().map(part) {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for owner in change.before.iter().chain(&change.after).map(|claim| &claim.spec.owner) {
        keys.push(Key::namespaced(owner.namespace.as_str(), owner.name.as_str()));
        if change.after.is_none() {
            keys.extend(addresses.waiting_in(&owner.namespace));
        }
    }
    if let Some(address) = epic_model::name::claim_address(&change.key.name().into()) {
        keys.extend(interested(snapshot, addresses, address));
    }
    keys
}

/// Those that may have what a LoadBalancer had or asked for.
fn heirs(snapshot: &Snapshot, addresses: &Addresses, change: &Change<LoadBalancer>) -> Vec<Key> {
    let wants = |balancer: &Arc<LoadBalancer>| -> BTreeSet<std::net::IpAddr> {
        let mut wants = crate::claim::shown(balancer);
        if wants.is_empty() && balancer.metadata.deletion_timestamp.is_none() {
            let asked = balancer.spec.public_address.as_deref();
            wants.extend(asked.and_then(|text| epic_model::address::parse(text).ok()));
        }
        wants
    };
    let before = change.before.as_ref().map(wants).unwrap_or_default();
    let after = change.after.as_ref().map(wants).unwrap_or_default();
    before.difference(&after).flat_map(|address| interested(snapshot, addresses, *address)).collect()
}

/// Who shows an address or asks for it; if it is free, also those that wait for any address of a pool that holds it.
fn interested(snapshot: &Snapshot, addresses: &Addresses, address: std::net::IpAddr) -> Vec<Key> {
    let Concerned { mut by_name, waiting } = addresses.concerned(address);
    if waiting.is_empty() {
        return by_name;
    }
    let pools = addresses.pools();
    let holding: BTreeSet<_> =
        pools.iter().filter(|pool| pool.contains(address)).map(|pool| &pool.name).collect();
    by_name.extend(waiting.into_iter().filter(|key| {
        let group = snapshot.get::<LoadBalancer>(key).and_then(|balancer| group_of(snapshot, balancer));
        group.is_some_and(|group| pools_of(&group).iter().any(|name| holding.contains(name)))
    }));
    by_name
}

fn balancer_of(endpoint: &Endpoint) -> Key {
    Key::namespaced(endpoint.namespace().unwrap_or_default(), endpoint.spec.load_balancer.as_str())
}

/// Which limit a LoadBalancer's refusal is about.
fn of_balancers<'a>(limits: &'a Limits, reason: &str) -> Option<&'a Usage> {
    match LoadBalancerReason::parse(reason)? {
        LoadBalancerReason::LimitExceeded => Some(&limits.load_balancers),
        LoadBalancerReason::ProxyLimitExceeded => Some(&limits.proxies),
        _ => None,
    }
}

/// Whether nodes are all that a LoadBalancer waits for; one that lacks something else rings when it gets that.
fn waits_for_nodes(balancer: &LoadBalancer) -> bool {
    let programmed = balancer.condition(PROGRAMMED);
    programmed.is_some_and(|known| known.reason == LoadBalancerReason::NodesPending.as_str())
}

fn names_a_node(lease: &Lease) -> bool {
    lease.name_any().starts_with(&node_lease_name(""))
}

/// The LoadBalancers of addresses of which a node says something else than before.
fn answered(snapshot: &Snapshot, changes: &[Change<EPICNode>]) -> BTreeSet<Key> {
    let said = |node: Option<&Arc<EPICNode>>| -> BTreeSet<(String, String, bool)> {
        let status = node.and_then(|node| node.status.clone()).unwrap_or_default();
        let answers = status.answers.into_iter().map(|answer| (answer.address, answer.interface, false));
        let conflicts =
            status.conflicts.into_iter().map(|conflict| (conflict.address, conflict.interface, true));
        answers.chain(conflicts).collect()
    };
    let mut moved: BTreeSet<String> = BTreeSet::new();
    for change in changes {
        let (before, after) = (said(change.before.as_ref()), said(change.after.as_ref()));
        moved.extend(before.symmetric_difference(&after).map(|(address, ..)| address.clone()));
    }
    if moved.is_empty() {
        return BTreeSet::new();
    }
    let concerned = |balancer: &LoadBalancer| {
        let address = balancer.status.as_ref().and_then(|status| status.public_address.as_ref());
        address.is_some_and(|address| moved.contains(address))
    };
    keys_of(snapshot, concerned).into_iter().collect()
}
