//! The proxies of a LoadBalancer: from its pods to the list in its status.
//!
//! A proxy is a pod whose uid stands in that list. The operator writes it, all nodes follow it. A pod comes into the
//! list when it has a node and an ID, and leaves it when it is gone.
//!
//! Invariant: a proxy that took flows never goes back to Pending while no other one is Ready. When the control plane
//! believes that nothing is ready (API server away, all nodes unreachable), packets go where they went before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::allocation::{Counter, Slot};
use crate::id::{NodeName, ObjectName, ProxyId, Seconds, Uid};

/// What a proxy may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProxyState {
    /// Not programmed or not ready yet: gets nothing.
    Pending,
    /// Takes new flows.
    Ready,
    /// Is being deleted: keeps the flows it has, takes no new ones.
    Draining,
}

/// A pod of a LoadBalancer's Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its uid.
    pub uid: Uid,
    /// Its node, once scheduled.
    pub node: Option<NodeName>,
    /// The node's GUE address, from its EPICNode.
    pub epic_address: Option<IpAddr>,
    /// Whether its condition Ready is true, which includes the gate `epic.acnodal.io/programmed`.
    pub ready: bool,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// Whether it has ended (phase Succeeded or Failed): as good as gone.
    pub ended: bool,
    /// The host side of its veth, from its annotations.
    pub ifindex: Option<u32>,
    /// The name of that interface.
    pub ifname: Option<String>,
}

/// An entry of `status.proxies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The pod.
    pub pod: ObjectName,
    /// Its uid.
    pub pod_uid: Uid,
    /// Its node.
    pub node: NodeName,
    /// The node's GUE address.
    pub epic_address: Option<IpAddr>,
    /// Its ID.
    pub proxy_id: ProxyId,
    /// Its address: base of `proxy-addresses` plus the ID; `None` if the range has become too small.
    pub proxy_address: Option<IpAddr>,
    /// Its state.
    pub state: ProxyState,
    /// The host side of its veth.
    pub ifindex: Option<u32>,
    /// The name of that interface.
    pub ifname: Option<String>,
}

/// What the list in the status holds of a proxy already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its ID.
    pub proxy_id: ProxyId,
    /// Its state.
    pub state: ProxyState,
}

/// The address of a proxy: base of `proxy-addresses` plus its ID.
pub fn proxy_address(proxy_addresses: IpNet, id: ProxyId) -> Option<IpAddr> {
    address::offset(proxy_addresses, id.get())
}

/// The new `status.proxies`, sorted by ID, from the pods that exist and from what the list holds now, by pod uid.
///
/// Pods without ID are not in it; [`slots`] asks for their IDs. Entries whose pod is gone stay out; their IDs are
/// freed by [`slots`].
pub fn list(pods: &[Pod], known: &BTreeMap<Uid, Known>, proxy_addresses: IpNet) -> Vec<Proxy> {
    let listed = || {
        pods.iter().filter(|pod| !pod.ended).filter_map(|pod| {
            let known = known.get(&pod.uid)?;
            Some((pod, *known, pod.node.clone()?))
        })
    };
    let some_ready = listed().any(|(pod, ..)| pod.ready && !pod.deleting);
    let mut proxies: Vec<Proxy> = listed()
        .map(|(pod, known, node)| Proxy {
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            node,
            epic_address: pod.epic_address,
            proxy_id: known.proxy_id,
            proxy_address: proxy_address(proxy_addresses, known.proxy_id),
            state: next_state(pod, known.state, some_ready),
            ifindex: pod.ifindex,
            ifname: pod.ifname.clone(),
        })
        .collect();
    proxies.sort_by_key(|proxy| proxy.proxy_id);
    proxies
}

fn next_state(pod: &Pod, state: ProxyState, some_ready: bool) -> ProxyState {
    match (pod.deleting, pod.ready) {
        (true, _) => ProxyState::Draining,
        (false, true) => ProxyState::Ready,
        (false, false) if state == ProxyState::Ready && !some_ready => ProxyState::Ready,
        (false, false) => ProxyState::Pending,
    }
}

/// The places for proxy IDs of a LoadBalancer: one for every pod that has a node or an ID, and for every ID whose pod
/// is gone. A pod that is being deleted before it got an ID needs none.
pub fn slots(pods: &[Pod], known: &BTreeMap<Uid, Known>) -> Vec<Slot> {
    let mut slots = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.ended) {
        let granted = known.get(&pod.uid).map(|known| known.proxy_id.get());
        let needs = pod.node.is_some() && !pod.deleting;
        if granted.is_some() || needs {
            slots.push(Slot::keyed(Counter::Proxy, pod.uid.as_str(), granted, true));
        }
    }
    for (uid, known) in known {
        if !pods.iter().any(|pod| pod.uid == *uid && !pod.ended) {
            slots.push(Slot::keyed(Counter::Proxy, uid.as_str(), Some(known.proxy_id.get()), false));
        }
    }
    slots
}

/// The primary proxy: the one with the lowest ID. Its node is the main entry of `gue-tunnel-endpoints`.
pub fn primary(proxies: &[Proxy]) -> Option<&Proxy> {
    proxies.iter().min_by_key(|proxy| proxy.proxy_id)
}

/// How many proxies are ready by their pods' own word, for `Ready` of the LoadBalancer. The states may say more
/// ([`list`] keeps the last Ready one).
pub fn ready_pods(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| pod.ready && !pod.deleting && !pod.ended).count()
}

/// How a proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Seconds that the preStop hook takes at most: as long as `timeouts.drain` says. Established flows go on meanwhile; when
    /// none is left, the proxy ends it.
    pub pre_stop: i64,
    /// terminationGracePeriodSeconds: the hook, and time for Envoy to close what is left.
    pub grace_period: i64,
}

/// Seconds that Envoy has to end after its preStop hook.
pub const EXIT_SECONDS: i64 = 30;
/// Seconds in which a change of state reaches every node. `minReadySeconds` and the preStop hook's limit are never shorter
/// (design §6).
pub const PROPAGATION_SECONDS: i64 = 5;

/// The times of a drain. A `timeouts.drain` shorter than propagation is made as long: other nodes would send new
/// flows to a proxy that is gone.
pub fn drain(timeout_seconds: i64) -> Drain {
    let pre_stop = timeout_seconds.max(PROPAGATION_SECONDS);
    Drain { pre_stop, grace_period: pre_stop + EXIT_SECONDS }
}

/// When the drain of a pod began. A pod's deletionTimestamp is the end of its grace period.
pub fn drain_began(deletion_timestamp: Seconds, grace_period: i64) -> Seconds {
    Seconds(deletion_timestamp.0.saturating_sub(grace_period))
}

/// When the flows of a draining proxy are cut (FIN): `timeouts.drain` after it began.
pub fn drain_ends(began: Seconds, drain: Drain) -> Seconds {
    Seconds(began.0.saturating_add(drain.pre_stop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, ready: bool, deleting: bool) -> Pod {
        Pod {
            name: format!("pod-{uid}").into(),
            uid: uid.into(),
            node: Some("node1".into()),
            epic_address: Some("192.168.1.40".parse().unwrap()),
            ready,
            deleting,
            ended: false,
            ifindex: Some(16),
            ifname: Some("veth67060f1f".into()),
        }
    }

    fn known(entries: &[(&str, u32, ProxyState)]) -> BTreeMap<Uid, Known> {
        entries
            .iter()
            .map(|(uid, id, state)| {
                (Uid::new(*uid), Known { proxy_id: ProxyId::new(*id).unwrap(), state: *state })
            })
            .collect()
    }

    fn states(pods: &[Pod], known: &BTreeMap<Uid, Known>) -> Vec<(u32, ProxyState)> {
        list(pods, known, "100.64.0.0/11".parse().unwrap())
            .iter()
            .map(|proxy| (proxy.proxy_id.get(), proxy.state))
            .collect()
    }

    #[test]
    fn a_proxy_goes_from_pending_over_ready_to_draining_and_leaves_with_its_pod() {
        use ProxyState::{Draining, Pending, Ready};
        let entry = |state| known(&[("a", 7, state)]);
        assert_eq!(states(&[pod("a", false, false)], &entry(Pending)), [(7, Pending)]);
        assert_eq!(states(&[pod("a", true, false)], &entry(Pending)), [(7, Ready)]);
        assert_eq!(states(&[pod("a", true, true)], &entry(Ready)), [(7, Draining)]);
        assert_eq!(states(&[], &entry(Draining)), []);
        assert_eq!(states(&[Pod { ended: true, ..pod("a", false, false) }], &entry(Ready)), []);
    }

    #[test]
    fn a_pod_without_an_id_is_no_proxy_yet() {
        assert_eq!(states(&[pod("a", true, false)], &known(&[])), []);
    }

    #[test]
    fn the_last_ready_proxy_keeps_its_flows_when_nothing_seems_ready() {
        use ProxyState::{Pending, Ready};
        let both = known(&[("a", 1, Ready), ("b", 2, Ready)]);
        let lost = [pod("a", false, false), pod("b", false, false)];
        assert_eq!(states(&lost, &both), [(1, Ready), (2, Ready)]);
        assert_eq!(ready_pods(&lost), 0);
        let one_left = [pod("a", false, false), pod("b", true, false)];
        assert_eq!(states(&one_left, &both), [(1, Pending), (2, Ready)]);
        let new = known(&[("a", 1, Pending)]);
        assert_eq!(states(&[pod("a", false, false)], &new), [(1, Pending)], "a new one has to become ready");
    }

    #[test]
    fn ids_are_wanted_by_scheduled_pods_and_freed_with_the_pod() {
        let unscheduled = Pod { node: None, ..pod("b", false, false) };
        let pods = [pod("a", false, false), unscheduled, pod("c", false, true)];
        let slots = slots(&pods, &known(&[("gone", 9, ProxyState::Draining)]));
        assert_eq!(
            slots,
            [
                Slot::keyed(Counter::Proxy, "a", None, true),
                Slot::keyed(Counter::Proxy, "gone", Some(9), false)
            ]
        );
    }

    #[test]
    fn the_primary_has_the_lowest_id_and_an_address_of_its_own() {
        let known = known(&[("a", 300, ProxyState::Ready), ("b", 2, ProxyState::Ready)]);
        let proxies =
            list(&[pod("a", true, false), pod("b", true, false)], &known, "100.64.0.0/11".parse().unwrap());
        assert_eq!(primary(&proxies).unwrap().proxy_address, Some("100.64.0.2".parse().unwrap()));
        assert_eq!(proxies[1].proxy_address, Some("100.64.1.44".parse().unwrap()));
    }

    #[test]
    fn a_drain_is_never_shorter_than_propagation() {
        assert_eq!(drain(300), Drain { pre_stop: 300, grace_period: 330 });
        assert_eq!(drain(0).pre_stop, PROPAGATION_SECONDS);
        assert_eq!(drain_ends(drain_began(Seconds(1330), 330), drain(300)), Seconds(1300));
    }
}
