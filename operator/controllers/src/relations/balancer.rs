//! What concerns LoadBalancers and Endpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, TUNNEL_UP};
use epic_crds::well_known::{LABEL_LOAD_BALANCER, node_lease_name, tenant_namespace};
use epic_crds::{
    Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, EndpointReason, HasConditions,
    LoadBalancer, LoadBalancerReason, ServiceGroup,
};
use epic_model::name;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kates::{Change, Key, Object, Snapshot, Subject};
use kube::ResourceExt;
use kube::runtime::Controller;

use super::{
    addresses, all, is_accepted, keys_of, occupancy, on, on_changes, replicas, settings, surroundings, told,
};
use crate::account::{account_of, endpoint_limit};
use crate::claim::{Addresses, Concerned};
use crate::context::Shared;
use crate::endpoint::Index;
use crate::proxy::{ReplicaSet, restarted_at, unmade};
use crate::service_group::{group_of, pools_of};
use crate::tunnels::Tunnels;

/// The controller of LoadBalancers.
pub fn load_balancer(context: &Shared) -> Controller<Subject<LoadBalancer>> {
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
        // One that goes makes room within a limit, and gives back an ID.
        .reconcile_on(on::<LoadBalancer, _, _>(
            context,
            |_| (),
            |snapshot, balancer| {
                let namespace = balancer.namespace().unwrap_or_default();
                in_namespace::<LoadBalancer>(snapshot, &namespace, |other| !is_accepted(other))
            },
        ))
        // So does a pod, as soon as it does not run any more, and a Deployment that gets smaller.
        .reconcile_on(on::<Pod, _, _>(context, occupancy, waiting_for_proxies))
        .reconcile_on(on::<Deployment, _, _>(context, replicas, waiting_for_proxies))
        .reconcile_on(on::<EPIC, _, _>(context, settings, move |snapshot, _| everyone(snapshot)))
        // Where it is in force. A Lease matters when it comes or goes; one that is not renewed shows in the next look.
        .reconcile_on(on::<EPICNode, _, _>(context, addresses, move |snapshot, _| everyone(snapshot)))
        .reconcile_on(on::<EPICNode, _, _>(
            context,
            |node| node.status.as_ref().and_then(|status| status.load_balancers_revision.clone()),
            |snapshot, _| {
                keys_of(snapshot, |balancer: &LoadBalancer| !balancer.is_condition_true(PROGRAMMED))
            },
        ))
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

/// The controller of Endpoints.
pub fn endpoint(context: &Shared) -> Controller<Subject<Endpoint>> {
    let (index, counts) = (Arc::clone(&context.endpoints), Arc::clone(&context.endpoints));
    context
        .watches
        .controller::<Endpoint>()
        .reconcile_on(on::<LoadBalancer, _, _>(
            context,
            |balancer| {
                let status = balancer.status.clone().unwrap_or_default();
                let proxies: Vec<_> =
                    status.proxies.into_iter().map(|proxy| (proxy.epic_address, proxy.state)).collect();
                let ids = (status.group_id, status.service_id, status.proxy_ifindex);
                (
                    balancer.spec.public_ports.clone(),
                    status.ports,
                    balancer.condition(ACCEPTED).map(|known| (known.status, known.observed_generation)),
                    ids,
                    status.gue_tunnel_endpoints,
                    proxies,
                    // A tunnel that its node does not list as down is up once the node has it.
                    balancer.is_condition_true(PROGRAMMED),
                )
            },
            |snapshot, balancer| endpoints_of(snapshot, &Key::of(balancer), |_| true),
        ))
        // Of two equal ones the older counts; one that goes makes room.
        .reconcile_on(on::<Endpoint, _, _>(
            context,
            |endpoint| endpoint.spec.clone(),
            move |snapshot, endpoint| index.concerned(snapshot, endpoint).into_iter().collect(),
        ))
        .reconcile_on(on::<Endpoint, _, _>(
            context,
            |_| (),
            move |snapshot, endpoint| waiting_for_room(snapshot, &counts, endpoint),
        ))
        .reconcile_on(on::<Account, _, _>(
            context,
            |account| account.spec.endpoint_limit,
            |snapshot, account| {
                in_namespace::<Endpoint>(snapshot, &tenant_namespace(&account.name_any()), |_| true)
            },
        ))
        .reconcile_on(on::<AddressClaim, _, _>(
            context,
            |_| (),
            |snapshot, claim| {
                keys_of(snapshot, |endpoint: &Endpoint| endpoint.spec.address == claim.spec.address)
            },
        ))
        .reconcile_on(on_changes::<EPICNode, _>(context, |snapshot, changes| tunnelled(snapshot, &changes)))
        .reconcile_on(surroundings(context))
        .reconcile_on(told(context.verdicts.changes()))
        .reconcile_on(told(context.assigned.changes()))
        .reconcile_on(told(context.witness.endpoints()))
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

fn in_namespace<K: Object<DynamicType = ()>>(
    snapshot: &Snapshot,
    namespace: &str,
    which: impl Fn(&K) -> bool,
) -> Vec<Key> {
    let found = snapshot.in_namespace::<K>(namespace);
    found.filter(|object| which(object)).map(|object| Key::of(object.as_ref())).collect()
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

fn endpoints_of(snapshot: &Snapshot, balancer: &Key, which: impl Fn(&Endpoint) -> bool) -> Vec<Key> {
    in_namespace::<Endpoint>(snapshot, balancer.namespace().unwrap_or_default(), |endpoint| {
        endpoint.spec.load_balancer == balancer.name() && which(endpoint)
    })
}

/// The LoadBalancers beside an object that wait for room within the proxy limit of their Account.
fn waiting_for_proxies<K: Object>(snapshot: &Snapshot, object: &K) -> Vec<Key> {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    in_namespace::<LoadBalancer>(snapshot, namespace, |balancer| {
        let accepted = balancer.condition(ACCEPTED);
        accepted.is_some_and(|known| known.reason == LoadBalancerReason::ProxyLimitExceeded.as_str())
    })
}

/// The Endpoints of a namespace that wait for room within the limit of its Account, as long as that is full.
fn waiting_for_room(snapshot: &Snapshot, index: &Index, endpoint: &Endpoint) -> Vec<Key> {
    let namespace = endpoint.namespace().unwrap_or_default();
    let Some(account) = account_of(snapshot, &namespace) else { return Vec::new() };
    let count = u64::try_from(index.count(snapshot, &namespace)).unwrap_or(u64::MAX);
    if count < endpoint_limit(&account) {
        return Vec::new();
    }
    in_namespace::<Endpoint>(snapshot, &namespace, |other| {
        let accepted = other.condition(ACCEPTED);
        accepted.is_some_and(|known| known.reason == EndpointReason::LimitExceeded.as_str())
    })
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

/// The Endpoints behind tunnels whose state changed.
fn tunnelled(snapshot: &Snapshot, changes: &[Change<EPICNode>]) -> BTreeSet<Key> {
    let one =
        |node: Option<&Arc<EPICNode>>| node.map(|node| Tunnels::of([node].into_iter())).unwrap_or_default();
    let listed = |node: Option<&Arc<EPICNode>>| -> BTreeSet<i64> {
        let tunnels = node.and_then(|node| node.status.as_ref()?.tunnels.as_ref());
        tunnels.iter().flat_map(|tunnels| &tunnels.states).map(|state| state.tunnel_id).collect()
    };
    let mut moved: BTreeSet<i64> = BTreeSet::new();
    // Nodes of which something else is known of every tunnel that is not listed.
    let mut turned: BTreeSet<String> = BTreeSet::new();
    for change in changes {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        let addresses: Vec<String> =
            [before, after].into_iter().flatten().flat_map(|node| addresses(node)).collect();
        let (was, is) = (one(before), one(after));
        let differs = |id: i64| addresses.iter().any(|address| was.said(address, id) != is.said(address, id));
        moved.extend(listed(before).union(&listed(after)).copied().filter(|id| differs(*id)));
        // No tunnel has this ID, so it is listed nowhere.
        if differs(0) {
            turned.extend(addresses);
        }
    }
    if moved.is_empty() && turned.is_empty() {
        return BTreeSet::new();
    }
    snapshot
        .list::<LoadBalancer>()
        .flat_map(|balancer| {
            let tunnels = balancer.status.iter().flat_map(|status| &status.gue_tunnel_endpoints);
            let clients: BTreeSet<&String> = tunnels
                .filter(|(_, entry)| {
                    let mut legs = entry.legs();
                    legs.any(|leg| moved.contains(&leg.tunnel_id) || turned.contains(&leg.epic_address))
                })
                .map(|(client, _)| client)
                .collect();
            endpoints_of(snapshot, &Key::of(balancer.as_ref()), |endpoint| {
                endpoint.spec.node_address.as_ref().is_some_and(|node| clients.contains(node))
            })
        })
        .collect()
}
