//! What concerns Endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED};
use epic_crds::well_known::tenant_namespace;
use epic_crds::{Account, AddressClaim, EPICNode, Endpoint, EndpointReason, HasConditions, LoadBalancer};
use epic_model::address;
use epic_model::tunnel::MAX_CLIENT_NODES;
use kates::{Change, Key, Queue, Snapshot};
use kube::ResourceExt;

use super::room::{is_gone, on_room};
use super::{addresses, differs, in_namespace, keys_of, on, on_changes, surroundings, told};
use crate::context::Shared;
use crate::tunnels::Tunnels;

/// The controller of Endpoints.
pub fn endpoint(context: &Shared) -> Queue<Endpoint> {
    let index = Arc::clone(&context.endpoints);
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
                    status.gue_tunnel_endpoints.len() >= MAX_CLIENT_NODES,
                    proxies,
                    // A tunnel that its node does not list as down is up once the node has it.
                    balancer.is_condition_true(PROGRAMMED),
                )
            },
            |snapshot, balancer| endpoints_of(snapshot, &Key::of(balancer), |_| true),
        ))
        .reconcile_on(on_changes::<LoadBalancer, _>(context, |snapshot, changes| {
            changes.iter().flat_map(|change| rerouted(snapshot, change)).collect()
        }))
        // Of two equal ones the older counts; one that goes makes room.
        .reconcile_on(on::<Endpoint, _, _>(
            context,
            |endpoint| endpoint.spec.clone(),
            move |snapshot, endpoint| index.concerned(snapshot, endpoint).into_iter().collect(),
        ))
        .reconcile_on(on_room::<Endpoint, _>(context, is_gone, |limits, reason| {
            (reason == EndpointReason::LimitExceeded.as_str()).then_some(&limits.endpoints)
        }))
        .reconcile_on(on::<Account, _, _>(
            context,
            |account| account.spec.endpoint_limit,
            |snapshot, account| {
                in_namespace::<Endpoint>(snapshot, &tenant_namespace(&account.name_any()), |_| true)
            },
        ))
        .reconcile_on(on_changes::<AddressClaim, _>(context, |snapshot, changes| {
            let moved = changes.iter().filter(|change| differs(change, |_| ()));
            let claims = moved.flat_map(|change| change.before.iter().chain(&change.after));
            let addresses: BTreeSet<&str> = claims.map(|claim| claim.spec.address.as_str()).collect();
            if addresses.is_empty() {
                return BTreeSet::new();
            }
            let reaches = |endpoint: &Endpoint| addresses.contains(endpoint.spec.address.as_str());
            keys_of(snapshot, reaches).into_iter().collect()
        }))
        .reconcile_on(on_changes::<EPICNode, _>(context, |snapshot, changes| tunnelled(snapshot, &changes)))
        .reconcile_on(surroundings(context))
        .reconcile_on(told(context.verdicts.changes()))
        .reconcile_on(told(context.assigned.changes()))
        .reconcile_on(told(context.witness.endpoints()))
}

fn endpoints_of(snapshot: &Snapshot, balancer: &Key, which: impl Fn(&Endpoint) -> bool) -> Vec<Key> {
    in_namespace::<Endpoint>(snapshot, balancer.namespace().unwrap_or_default(), |endpoint| {
        endpoint.spec.load_balancer == balancer.name() && which(endpoint)
    })
}

/// The Endpoints on client nodes whose tunnels of a LoadBalancer came, went or changed.
fn rerouted(snapshot: &Snapshot, change: &Change<LoadBalancer>) -> Vec<Key> {
    let none = BTreeMap::new();
    let [before, after] = [&change.before, &change.after].map(|balancer| {
        let status = balancer.as_ref().and_then(|balancer| balancer.status.as_ref());
        status.map_or(&none, |status| &status.gue_tunnel_endpoints)
    });
    if before == after {
        return Vec::new();
    }
    endpoints_of(snapshot, &change.key, |endpoint| {
        let node = endpoint.spec.node_address.as_deref().and_then(|text| address::parse(text).ok());
        let node = node.map(|node| node.to_string());
        node.is_some_and(|node| before.get(&node) != after.get(&node))
    })
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
