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
use epic_model::proxy::Pod as Proxy;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kates::{Key, Snapshot};
use kube::ResourceExt;

/// Who controls whom. One pass over a snapshot, then a step for each pod.
pub struct Index<'s> {
    snapshot: &'s Snapshot,
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
        Self::of(snapshot, deployments, sets, snapshot.list::<Pod>())
    }

    /// Over one namespace.
    pub fn within(snapshot: &'s Snapshot, namespace: &str) -> Self {
        let deployments = snapshot.in_namespace::<Deployment>(namespace);
        let sets = snapshot.in_namespace::<ReplicaSet>(namespace);
        Self::of(snapshot, deployments, sets, snapshot.in_namespace::<Pod>(namespace))
    }

    fn of(
        snapshot: &'s Snapshot,
        deployments: impl Iterator<Item = &'s Arc<Deployment>>,
        sets: impl Iterator<Item = &'s Arc<ReplicaSet>>,
        all: impl Iterator<Item = &'s Arc<Pod>>,
    ) -> Self {
        let mut index =
            Self { snapshot, controlled: HashMap::new(), pods: HashMap::new(), by_uid: HashMap::new() };
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
    pub fn objects<'l>(
        &self,
        balancer: &ObjectMeta,
        listed: impl Iterator<Item = &'l str>,
    ) -> Vec<&'s Pod> {
        let (Some(namespace), Some(uid)) = (&balancer.namespace, balancer.uid.as_deref()) else {
            return Vec::new();
        };
        let controlled = |uid: &str| self.controlled.get(uid).into_iter().flatten().copied();
        let made = controlled(uid).flat_map(controlled).flat_map(|set| self.pods.get(set).into_iter().flatten());
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
        self.objects(balancer, listed).into_iter().map(|pod| proxy(self.snapshot, pod)).collect()
    }
}

/// The pods of `balancer`, whatever their state, by name.
pub fn pods_of(snapshot: &Snapshot, balancer: &LoadBalancer) -> Vec<Proxy> {
    objects_of(snapshot, balancer).into_iter().map(|pod| proxy(snapshot, pod)).collect()
}

/// The same pods as the API server shows them.
pub fn objects_of<'s>(snapshot: &'s Snapshot, balancer: &LoadBalancer) -> Vec<&'s Pod> {
    let namespace = balancer.metadata.namespace.as_deref().unwrap_or_default();
    Index::within(snapshot, namespace).objects(&balancer.metadata, listed(balancer))
}

/// Uids of the pods that stand in a LoadBalancer's status.
pub fn listed(balancer: &LoadBalancer) -> impl Iterator<Item = &str> {
    balancer.status.iter().flat_map(|status| &status.proxies).map(|proxy| proxy.pod_uid.as_str())
}

/// GUE addresses of the EPIC nodes by name.
pub fn gue_address(snapshot: &Snapshot, node: &str, system: &str) -> Option<IpAddr> {
    let node = snapshot.get::<EPICNode>(&Key::namespaced(system, node))?;
    let addresses = node.status.as_ref()?.addresses.iter();
    addresses.filter_map(|text| address::parse(text).ok()).find(IpAddr::is_ipv4)
}

fn controller(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn proxy(snapshot: &Snapshot, pod: &Pod) -> Proxy {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let phase = status.and_then(|status| status.phase.as_deref());
    let annotation = |name: &str| pod.annotations().get(name).cloned();
    Proxy {
        name: pod.name_any().into(),
        uid: pod.uid().unwrap_or_default().into(),
        epic_address: node
            .as_deref()
            .and_then(|node| gue_address(snapshot, node, epic_crds::well_known::EPIC_NAMESPACE)),
        node: node.map(Into::into),
        ready: conditions.iter().any(|known| known.type_ == "Ready" && known.status == "True"),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ended: matches!(phase, Some("Succeeded" | "Failed")),
        ifindex: annotation(ANNOTATION_IFINDEX).and_then(|text| text.parse().ok()),
        ifname: annotation(ANNOTATION_IFNAME),
    }
}
