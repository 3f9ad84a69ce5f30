//! Which pods are a LoadBalancer's proxies, as the model sees them.
//!
//! Labels select what is watched, but prove nothing: a pod counts when its chain of controllers (ReplicaSet,
//! Deployment) ends at the uid of the LoadBalancer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use epic_crds::well_known::{ANNOTATION_IFINDEX, ANNOTATION_IFNAME};
use epic_crds::{EPICNode, LoadBalancer};
use epic_model::address;
use epic_model::proxy::Pod as Proxy;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kates::{Key, Snapshot};
use kube::ResourceExt;

use super::owned_by;

/// The pods of `balancer`, whatever their state, by name.
pub fn pods_of(snapshot: &Snapshot, balancer: &LoadBalancer) -> Vec<Proxy> {
    objects_of(snapshot, balancer).into_iter().map(|pod| proxy(snapshot, pod)).collect()
}

/// The same pods as the API server shows them.
pub fn objects_of<'s>(snapshot: &'s Snapshot, balancer: &LoadBalancer) -> Vec<&'s Pod> {
    let (Some(namespace), Some(uid)) = (balancer.namespace(), balancer.uid()) else { return Vec::new() };
    let deployments = |owner: &str| {
        snapshot.in_namespace::<Deployment>(&namespace).any(|deployment| {
            deployment.metadata.uid.as_deref() == Some(owner) && owned_by(&deployment.metadata, &uid)
        })
    };
    let replica_sets: BTreeMap<&str, bool> = snapshot
        .in_namespace::<ReplicaSet>(&namespace)
        .filter_map(|set| {
            Some((set.metadata.uid.as_deref()?, controller(&set.metadata).is_some_and(deployments)))
        })
        .collect();
    snapshot
        .in_namespace::<Pod>(&namespace)
        .filter(|pod| {
            controller(&pod.metadata).is_some_and(|owner| replica_sets.get(owner).copied().unwrap_or(false))
        })
        .map(|pod| pod.as_ref())
        .collect()
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
