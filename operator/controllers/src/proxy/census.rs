//! How many proxies there are, for the limit of their Account.
//!
//! In a tenant namespace nobody but the operator has pods made. So every living pod of the namespace counts: for its
//! LoadBalancer while it runs, and for nobody in particular once it drains, or when its LoadBalancer is gone.

use std::collections::HashMap;
use std::sync::Arc;

use epic_crds::LoadBalancer;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kates::Snapshot;

use super::pods::{Index, controller, has_ended, listed};

/// The proxies of a namespace.
pub struct Census<'s> {
    index: Index<'s>,
    /// Replicas of Deployments by the uid of their LoadBalancer.
    replicas: HashMap<&'s str, u64>,
    living: u64,
}

impl<'s> Census<'s> {
    /// Counts in one namespace.
    pub fn within(snapshot: &'s Snapshot, namespace: &str) -> Self {
        let deployments = snapshot.in_namespace::<Deployment>(namespace);
        let pods = snapshot.in_namespace::<Pod>(namespace);
        Self::of(Index::within(snapshot, namespace), deployments, pods)
    }

    /// Counts these objects.
    fn of(
        index: Index<'s>,
        deployments: impl Iterator<Item = &'s Arc<Deployment>>,
        pods: impl Iterator<Item = &'s Arc<Pod>>,
    ) -> Self {
        let mut replicas = HashMap::new();
        for deployment in deployments {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            if let Some(owner) = controller(&deployment.metadata) {
                *replicas.entry(owner).or_default() += u64::try_from(wanted).unwrap_or(0);
            }
        }
        Self { index, replicas, living: count(pods.filter(|pod| !has_ended(pod))) }
    }

    /// Replicas that a LoadBalancer's Deployment has.
    pub fn granted(&self, balancer: &LoadBalancer) -> u64 {
        let uid = balancer.metadata.uid.as_deref();
        uid.and_then(|uid| self.replicas.get(uid).copied()).unwrap_or(0)
    }

    /// Pods of a LoadBalancer that live and are not on their way out.
    pub fn running(&self, balancer: &LoadBalancer) -> u64 {
        let pods = self.index.objects(&balancer.metadata, listed(balancer));
        count(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)))
    }

    /// Living pods beside the `running` ones of all LoadBalancers.
    pub fn others(&self, running: u64) -> u64 {
        self.living.saturating_sub(running)
    }
}

fn count(objects: impl Iterator) -> u64 {
    u64::try_from(objects.count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ReplicaSet;
    use super::*;

    fn made<K: serde::de::DeserializeOwned>(name: &str, owner: &str, more: Value) -> Arc<K> {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "epic-red", "uid": name, "ownerReferences": [
                {"apiVersion": "x/v1", "kind": "X", "name": owner, "uid": owner, "controller": true},
            ]},
            "spec": {"selector": {}, "template": {}, "containers": [], "replicas": 2},
        });
        if let Some(at) = more.get("deleted") {
            object["metadata"]["deletionTimestamp"] = at.clone();
        }
        if let Some(phase) = more.get("phase") {
            object["status"] = json!({"phase": phase});
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn every_living_pod_of_the_namespace_counts_once() {
        let balancer: LoadBalancer = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
            "metadata": {"name": "web", "namespace": "epic-red", "uid": "lb"},
            "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
        }))
        .unwrap();
        let deployments: Vec<Arc<Deployment>> = vec![made("d", "lb", json!({}))];
        let sets: Vec<Arc<ReplicaSet>> = vec![made("s", "d", json!({}))];
        let at = "2026-01-01T00:00:00Z";
        let pods: Vec<Arc<Pod>> = vec![
            made("runs", "s", json!({})),
            made("starts", "s", json!({"phase": "Pending"})),
            made("surges", "s", json!({"phase": "Running"})),
            made("drains", "s", json!({"phase": "Running", "deleted": at})),
            made("failed", "s", json!({"phase": "Failed"})),
            made("ended", "s", json!({"phase": "Succeeded", "deleted": at})),
            made("drains-for-one-that-is-gone", "old", json!({"deleted": at})),
            made("runs-for-one-that-is-gone", "old", json!({})),
        ];
        let index = Index::of([].iter(), deployments.iter(), sets.iter(), pods.iter());
        let census = Census::of(index, deployments.iter(), pods.iter());
        assert_eq!(census.granted(&balancer), 2);
        assert_eq!(census.running(&balancer), 3);
        assert_eq!(census.others(3), 3);
    }
}
