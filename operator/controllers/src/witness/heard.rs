//! What was observed last, for the controllers that make conditions of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epic_crds::{EPICNode, Endpoint, LoadBalancer};
use epic_model::id::NodeName;
use epic_model::in_service::Liveness;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// What is heard, and what is not any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// IDs of proxies that take traffic and have been connected to no replica for a while.
    pub stale: BTreeSet<u32>,
    /// The agents of the EPIC nodes.
    pub agents: BTreeMap<NodeName, Liveness>,
}

impl Heard {
    /// Whether the proxy with this ID serves what it knew last.
    pub fn is_stale(&self, proxy_id: Option<i64>) -> bool {
        proxy_id.and_then(|id| u32::try_from(id).ok()).is_some_and(|id| self.stale.contains(&id))
    }

    /// Whether a node's agent is silent: what it said before is not known to hold any more.
    pub fn is_silent(&self, node: &str) -> bool {
        self.agents.get(&NodeName::new(node)) == Some(&Liveness::Silent)
    }
}

/// The latest [`Heard`], and who is concerned by a new one.
#[derive(Debug)]
pub struct Witness {
    latest: Mutex<Arc<Heard>>,
    balancers: broadcast::Sender<Key>,
    endpoints: broadcast::Sender<Key>,
}

impl Default for Witness {
    fn default() -> Self {
        let channel = || broadcast::channel(4_096).0;
        Self { latest: Mutex::default(), balancers: channel(), endpoints: channel() }
    }
}

impl Witness {
    /// What was heard last. Before the first observation: nobody is stale or silent.
    pub fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.latest.lock())
    }

    /// Keys of LoadBalancers whose conditions may differ now.
    pub fn balancers(&self) -> broadcast::Receiver<Key> {
        self.balancers.subscribe()
    }

    /// Keys of Endpoints whose conditions may differ now.
    pub fn endpoints(&self) -> broadcast::Receiver<Key> {
        self.endpoints.subscribe()
    }

    /// Replaces what was heard.
    pub(super) fn publish(&self, snapshot: &Snapshot, heard: Heard) {
        let before = std::mem::replace(&mut *self.latest.lock(), Arc::new(heard.clone()));
        let concerned = concerned(snapshot, &before, &heard);
        if concerned.is_empty() {
            return;
        }
        for balancer in &concerned {
            // Nobody listening is no error.
            let _ = self.balancers.send(balancer.clone());
        }
        for endpoint in snapshot.list::<Endpoint>() {
            let namespace = endpoint.namespace().unwrap_or_default();
            if concerned.contains(&Key::namespaced(namespace, endpoint.spec.load_balancer.as_str())) {
                let _ = self.endpoints.send(Key::of(endpoint.as_ref()));
            }
        }
    }
}

/// The LoadBalancers that a difference concerns: those with a proxy that fell silent or is back, and those that reach
/// clients through, or are announced by, a node of which that is true.
fn concerned(snapshot: &Snapshot, before: &Heard, now: &Heard) -> BTreeSet<Key> {
    let proxies: BTreeSet<i64> =
        before.stale.symmetric_difference(&now.stale).map(|id| i64::from(*id)).collect();
    let nodes: BTreeSet<&str> = before
        .agents
        .keys()
        .chain(now.agents.keys())
        .map(NodeName::as_str)
        .filter(|node| before.is_silent(node) != now.is_silent(node))
        .collect();
    if proxies.is_empty() && nodes.is_empty() {
        return BTreeSet::new();
    }
    let addresses: BTreeSet<String> = snapshot
        .list::<EPICNode>()
        .filter(|node| nodes.contains(node.name_any().as_str()))
        .flat_map(|node| node.status.iter().flat_map(|status| status.addresses.clone()).collect::<Vec<_>>())
        .collect();
    let is_concerned = |balancer: &LoadBalancer| {
        balancer.status.as_ref().is_some_and(|status| {
            let advertised = status.advertised_by.as_ref().is_some_and(|by| nodes.contains(by.node.as_str()));
            let proxied = status.proxies.iter().any(|proxy| {
                proxy.proxy_id.is_some_and(|id| proxies.contains(&id))
                    || proxy.node.as_deref().is_some_and(|node| nodes.contains(node))
            });
            let tunnels = status.gue_tunnel_endpoints.values();
            advertised
                || proxied
                || tunnels.flat_map(|entry| entry.legs()).any(|leg| addresses.contains(&leg.epic_address))
        })
    };
    snapshot
        .list::<LoadBalancer>()
        .filter(|balancer| is_concerned(balancer))
        .map(|balancer| Key::of(balancer.as_ref()))
        .collect()
}
