//! What is known of each EPIC node, out of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use epic_crds::condition::READY;
use epic_crds::{EPICNode, HasConditions, LoadBalancer, ProxyState};
use epic_model::id::NodeName;
use epic_model::in_service::{Facts, Liveness};
use k8s_openapi::api::core::v1::Node;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use crate::tunnels::{Said, Tunnels};

/// The proxies that take new flows, each with its node.
pub(super) fn proxies(snapshot: &Snapshot) -> BTreeMap<u32, NodeName> {
    let of = |balancer: &LoadBalancer| -> Vec<(u32, NodeName)> {
        let proxies = balancer.status.iter().flat_map(|status| &status.proxies);
        let ready = proxies.filter(|proxy| proxy.state == ProxyState::Ready);
        ready
            .filter_map(|proxy| {
                Some((u32::try_from(proxy.proxy_id?).ok()?, NodeName::new(proxy.node.as_deref()?)))
            })
            .collect()
    };
    snapshot.list::<LoadBalancer>().flat_map(|balancer| of(balancer)).collect()
}

/// What is known of each node. `gone` are the proxies that are connected to nobody.
pub(super) fn facts(
    snapshot: &Snapshot,
    proxies: &BTreeMap<u32, NodeName>,
    gone: &BTreeSet<u32>,
    liveness: &dyn Fn(&str) -> Liveness,
) -> Vec<Facts> {
    let mut counts: BTreeMap<&NodeName, (usize, usize)> = BTreeMap::new();
    for (id, node) in proxies {
        let (all, connected) = counts.entry(node).or_default();
        *all += 1;
        *connected += usize::from(!gone.contains(id));
    }
    let tunnels = Tunnels::of(snapshot.list::<EPICNode>());
    let missed = if tunnels.has_deaf() { missed(snapshot, &tunnels, liveness) } else { BTreeMap::new() };
    let facts = |object: &EPICNode| {
        let name = object.name_any();
        let node = NodeName::new(name.as_str());
        let (proxies, connected) = counts.get(&node).copied().unwrap_or_default();
        let up =
            object.status.as_ref().and_then(|status| status.tunnels.as_ref()).map_or(0, |tunnels| tunnels.up);
        Facts {
            eligible: object.is_condition_true(READY) && is_ready(snapshot, &name),
            agent: liveness(&name),
            proxies,
            connected,
            heard: usize::try_from(up).unwrap_or(usize::MAX),
            missed: missed.get(&node).copied().unwrap_or(0),
            node,
        }
    };
    snapshot.list::<EPICNode>().map(|object| facts(object)).collect()
}

fn is_ready(snapshot: &Snapshot, node: &str) -> bool {
    let node = snapshot.get::<Node>(&Key::cluster(node));
    let conditions = node.iter().flat_map(|node| node.status.iter().flat_map(|status| &status.conditions));
    conditions.flatten().any(|known| known.type_ == "Ready" && known.status == "True")
}

/// For each node the tunnels that are down there, while another node whose agent lives hears the same client of the same
/// LoadBalancer.
fn missed(
    snapshot: &Snapshot,
    tunnels: &Tunnels,
    liveness: &dyn Fn(&str) -> Liveness,
) -> BTreeMap<NodeName, usize> {
    let mut missed: BTreeMap<NodeName, usize> = BTreeMap::new();
    for balancer in snapshot.list::<LoadBalancer>() {
        for entry in balancer.status.iter().flat_map(|status| status.gue_tunnel_endpoints.values()) {
            let legs = entry.legs().filter_map(|leg| {
                let node = tunnels.node(&leg.epic_address)?;
                let said = tunnels.said(&leg.epic_address, leg.tunnel_id);
                (liveness(node.as_str()) == Liveness::Alive).then(|| (node.clone(), said))
            });
            let legs: Vec<(NodeName, Said)> = legs.collect();
            if legs.iter().any(|(_, said)| *said == Said::Up || *said == Said::Unlisted) {
                for (node, _) in legs.into_iter().filter(|(_, said)| *said == Said::Down) {
                    *missed.entry(node).or_default() += 1;
                }
            }
        }
    }
    missed
}
