//! Which pods are a LoadBalancer's proxies, as the model sees them.
//!
//! Labels select what is watched, but prove nothing: a pod counts when its chain of controllers (ReplicaSet,
//! Deployment) ends at the uid of the LoadBalancer, or when the operator has put its uid into the status before.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::well_known::{ANNOTATION_IFINDEX, ANNOTATION_IFNAME};
use epic_crds::{EPICNode, LoadBalancer};
use epic_model::address;
use epic_model::id::Seconds;
use epic_model::proxy::Pod as Proxy;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kates::Snapshot;
use kube::ResourceExt;

use super::ReplicaSet;

/// Who controls whom. One pass over a snapshot, then a step for each pod.
pub struct Index<'s> {
    /// GUE addresses by node.
    nodes: HashMap<&'s str, IpAddr>,
    /// Controlled objects by the uid of their controller: Deployments of LoadBalancers, ReplicaSets of Deployments.
    controlled: HashMap<&'s str, Vec<&'s str>>,
    /// Pods by the uid of their controller.
    pods: HashMap<&'s str, Vec<&'s Pod>>,
    by_uid: HashMap<&'s str, &'s Pod>,
}

impl<'s> Index<'s> {
    /// Over all namespaces.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        let (deployments, sets) = (snapshot.list::<Deployment>(), snapshot.list::<ReplicaSet>());
        Self::of(snapshot.list::<EPICNode>(), deployments, sets, snapshot.list::<Pod>())
    }

    /// Over one namespace.
    pub fn within(snapshot: &'s Snapshot, namespace: &str) -> Self {
        let deployments = snapshot.in_namespace::<Deployment>(namespace);
        let sets = snapshot.in_namespace::<ReplicaSet>(namespace);
        let pods = snapshot.in_namespace::<Pod>(namespace);
        Self::of(snapshot.list::<EPICNode>(), deployments, sets, pods)
    }

    /// Over these objects.
    pub fn of(
        nodes: impl Iterator<Item = &'s Arc<EPICNode>>,
        deployments: impl Iterator<Item = &'s Arc<Deployment>>,
        sets: impl Iterator<Item = &'s Arc<ReplicaSet>>,
        all: impl Iterator<Item = &'s Arc<Pod>>,
    ) -> Self {
        let nodes = nodes.filter_map(|node| Some((node.metadata.name.as_deref()?, gue_address(node)?)));
        let mut index = Self {
            nodes: nodes.collect(),
            controlled: HashMap::new(),
            pods: HashMap::new(),
            by_uid: HashMap::new(),
        };
        let metas = deployments.map(|found| &found.metadata).chain(sets.map(|found| &found.metadata));
        for meta in metas {
            if let (Some(owner), Some(uid)) = (controller(meta), meta.uid.as_deref()) {
                index.controlled.entry(owner).or_default().push(uid);
            }
        }
        for pod in all {
            if let Some(owner) = controller(&pod.metadata) {
                index.pods.entry(owner).or_default().push(pod);
            }
            if let Some(uid) = pod.metadata.uid.as_deref() {
                index.by_uid.insert(uid, pod);
            }
        }
        index
    }

    /// The pods of the LoadBalancer with this metadata, by name: those that its Deployment made, and those whose uid
    /// stands in its status (`listed`). The latter outlast their ReplicaSet, which may go while they drain.
    pub fn objects<'l>(&self, balancer: &ObjectMeta, listed: impl Iterator<Item = &'l str>) -> Vec<&'s Pod> {
        let (Some(namespace), Some(uid)) = (&balancer.namespace, balancer.uid.as_deref()) else {
            return Vec::new();
        };
        let controlled = |uid: &str| self.controlled.get(uid).into_iter().flatten().copied();
        let made =
            controlled(uid).flat_map(controlled).flat_map(|set| self.pods.get(set).into_iter().flatten());
        let mut pods: BTreeMap<&str, &Pod> = BTreeMap::new();
        for pod in made.copied().chain(listed.filter_map(|uid| self.by_uid.get(uid).copied())) {
            // References do not cross namespaces, whatever they say.
            if pod.metadata.namespace.as_ref() == Some(namespace) {
                pods.insert(pod.metadata.name.as_deref().unwrap_or_default(), pod);
            }
        }
        pods.into_values().collect()
    }

    /// The same pods as the model sees them, whatever their state.
    pub fn proxies<'l>(&self, balancer: &ObjectMeta, listed: impl Iterator<Item = &'l str>) -> Vec<Proxy> {
        self.objects(balancer, listed).into_iter().map(|pod| self.proxy(pod)).collect()
    }

    /// One of them as the model sees it.
    pub fn proxy(&self, pod: &Pod) -> Proxy {
        proxy(&self.nodes, pod)
    }
}

/// Uids of the pods that stand in a LoadBalancer's status.
pub fn listed(balancer: &LoadBalancer) -> impl Iterator<Item = &str> {
    balancer.status.iter().flat_map(|status| &status.proxies).map(|proxy| proxy.pod_uid.as_str())
}

/// The GUE address of an EPIC node.
fn gue_address(node: &EPICNode) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.iter();
    addresses.filter_map(|text| address::parse(text).ok()).find(IpAddr::is_ipv4)
}

pub(super) fn controller(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|known| known.type_ == "Ready" && known.status == "True")
}

/// Whether its containers have not begun to start long after it got its node: a volume of it is not there.
pub fn lacks_volume(pod: &Pod, now: Seconds) -> bool {
    const LONG: i64 = 20;
    let status = pod.status.clone().unwrap_or_default();
    let placed = status.conditions.iter().flatten().find(|known| known.type_ == "PodScheduled");
    let since = placed.and_then(|known| known.last_transition_time.as_ref());
    let waiting = |container: &ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("ContainerCreating")
    };
    since.is_some_and(|since| now.since(Seconds(since.0.as_second())) >= LONG)
        && status.container_statuses.iter().flatten().any(waiting)
}

/// Whether a pod has ended: as good as gone.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn proxy(nodes: &HashMap<&str, IpAddr>, pod: &Pod) -> Proxy {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let annotation = |name: &str| pod.annotations().get(name).cloned();
    Proxy {
        name: pod.name_any().into(),
        uid: pod.uid().unwrap_or_default().into(),
        epic_address: node.as_deref().and_then(|node| nodes.get(node).copied()),
        node: node.map(Into::into),
        ready: is_ready(pod),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ended: has_ended(pod),
        ifindex: annotation(ANNOTATION_IFINDEX).and_then(|text| text.parse().ok()),
        ifname: annotation(ANNOTATION_IFNAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn meta(name: &str, uid: &str, owner: Option<&str>) -> Value {
        let mut meta = json!({"name": name, "namespace": "epic-red", "uid": uid});
        if let Some(owner) = owner {
            meta["ownerReferences"] =
                json!([{"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": owner, "controller": true}]);
        }
        meta
    }

    fn made<K: serde::de::DeserializeOwned>(meta: Value) -> Arc<K> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": meta, "spec": {"selector": {}, "template": {}, "containers": []}}),
            )
            .unwrap(),
        )
    }

    #[test]
    fn a_pod_whose_containers_wait_for_long_on_their_node_lacks_a_volume() {
        let pod = |placed: &str, state: Value| -> Pod {
            let condition =
                |at: &str| json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": at});
            let conditions: Vec<Value> =
                Some(placed).filter(|at| !at.is_empty()).map(condition).into_iter().collect();
            serde_json::from_value(json!({"metadata": meta("p", "p", None), "status": {
                "conditions": conditions,
                "containerStatuses": [{"name": "envoy", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
                    "state": state}],
            }}))
            .unwrap()
        };
        let now = Seconds(1_767_225_600 + 3_600); // 01:00 of the first of January 2026
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        for (placed, state, lacks) in [
            ("2026-01-01T00:59:40Z", waits("ContainerCreating"), true),
            ("2026-01-01T00:59:41Z", waits("ContainerCreating"), false),
            ("2026-01-01T00:00:00Z", waits("ImagePullBackOff"), false),
            ("2026-01-01T00:00:00Z", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), false),
            ("", waits("ContainerCreating"), false),
        ] {
            assert_eq!(lacks_volume(&pod(placed, state.clone()), now), lacks, "{placed} {state}");
        }
    }

    #[test]
    fn forged_labels_names_and_references_make_no_proxy() {
        let balancer: LoadBalancer = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer", "metadata": meta("web", "lb", None),
            "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
            "status": {"proxies": [{"pod": "old", "pod-uid": "p-old", "state": "Draining"}]},
        }))
        .unwrap();
        let deployments: Vec<Arc<Deployment>> = vec![
            made(meta("epic-web", "d", Some("lb"))),
            made(meta("epic-web-2", "d-forged", Some("another lb"))),
        ];
        let sets: Vec<Arc<ReplicaSet>> =
            vec![made(meta("s", "s", Some("d"))), made(meta("s2", "s-forged", Some("d-forged")))];
        let mut labelled = meta("labelled", "p-labelled", None);
        labelled["labels"] = json!({"epic.acnodal.io/load-balancer": "epic-web"});
        let mut abroad = meta("abroad", "p-abroad", Some("s"));
        abroad["namespace"] = "epic-blue".into();
        let mut owned = meta("owned", "p-owned", Some("s"));
        owned["ownerReferences"][0]["controller"] = false.into();
        let pods: Vec<Arc<Pod>> = vec![
            made(meta("own", "p", Some("s"))),
            made(meta("old", "p-old", Some("a set that is gone"))),
            made(meta("direct", "p-direct", Some("lb"))),
            made(meta("stranger", "p-stranger", Some("s-forged"))),
            made(labelled),
            made(abroad),
            made(owned),
        ];
        let index = Index::of([].iter(), deployments.iter(), sets.iter(), pods.iter());
        let found = index.objects(&balancer.metadata, listed(&balancer));
        let names: Vec<&str> = found.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(names, ["old", "own"], "one that was made for it, and one that was listed before");
    }
}
