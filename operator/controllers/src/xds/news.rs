//! Which changes can make an answer be written: the bell of [`super::answers`].
//!
//! A snapshot changes all the time: every node renews a Lease, every agent reports how far it has come. A pass over all
//! pods of all LoadBalancers is for what it looks at, part by part, and for nothing else.

use epic_crds::condition::{ACCEPTED, PROGRAMMED};
use epic_crds::{ConditionStatus, Endpoint, HasConditions, LoadBalancer};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kates::{Snapshot, Update};
use kube::ResourceExt;

use super::condition::{Said, read};
use crate::proxy::{ReplicaSet, is_ready, listed};

/// Whether what changed can change what is to be written.
pub(super) fn is_news(update: &Update) -> bool {
    update.before.as_ref().is_none_or(|before| differs(before, &update.snapshot))
}

fn differs(before: &Snapshot, now: &Snapshot) -> bool {
    now.differs(before, of_pod)
        || now.differs(before, of_endpoint)
        || now.differs(before, of_balancer)
        || now.differs(before, |set: &ReplicaSet| of_owned(&set.metadata))
        || now.differs(before, |deployment: &Deployment| of_owned(&deployment.metadata))
}

/// Whose an object is: what the chain from a LoadBalancer to its pods is made of.
fn of_owned(meta: &ObjectMeta) -> (Option<String>, Option<Vec<OwnerReference>>) {
    (meta.uid.clone(), meta.owner_references.clone())
}

/// What stands on a pod, and whether it is ready.
fn of_pod(pod: &Pod) -> (impl PartialEq + use<>, Option<Said>, bool) {
    (of_owned(&pod.metadata), read(pod), is_ready(pod))
}

/// The pods that it lists.
fn of_balancer(balancer: &LoadBalancer) -> (Option<String>, Vec<String>) {
    (balancer.uid(), listed(balancer).map(str::to_owned).collect())
}

/// What is judged and said of its present generation.
fn of_endpoint(endpoint: &Endpoint) -> impl PartialEq + use<> {
    let said = [ACCEPTED, PROGRAMMED].map(|type_| {
        endpoint
            .condition(type_)
            .map(|known| (known.status == ConditionStatus::True, known.observed_generation))
    });
    (endpoint.uid(), endpoint.metadata.generation, said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(version: &str, conditions: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "epic-red", "uid": "p", "resourceVersion": version},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn condition(type_: &str, status: &str, message: &str, heartbeat: &str) -> Value {
        json!({"type": type_, "status": status, "message": message, "lastProbeTime": heartbeat})
    }

    #[test]
    fn a_pod_is_news_by_its_answer_and_its_readiness_alone() {
        let configured = |generation: u8| {
            let message = format!("generation {generation} (heard 2026-01-01T00:00:00Z)");
            condition("epic.acnodal.io/configured", "True", &message, "2026-01-01T00:00:00Z")
        };
        let ready = |status: &str, probed: &str| condition("Ready", status, "", probed);
        let first = "2026-01-01T00:00:00Z";
        let before = pod("1", &json!([configured(1), ready("True", first)]));
        let probed = pod("2", &json!([configured(1), ready("True", "2026-01-01T00:00:10Z")]));
        assert!(of_pod(&before) == of_pod(&probed), "a kubelet's heartbeat");
        for (after, why) in [
            (json!([configured(2), ready("True", first)]), "an answer"),
            (json!([configured(1), ready("False", first)]), "readiness"),
            (json!([ready("True", first)]), "an answer that is gone"),
        ] {
            assert!(of_pod(&before) != of_pod(&pod("2", &after)), "{why}");
        }
        let mut moved = before.clone();
        moved.metadata.owner_references = Some(vec![OwnerReference::default()]);
        assert!(of_pod(&before) != of_pod(&moved), "another owner");
        let successor = Pod {
            metadata: ObjectMeta { uid: Some("q".into()), ..before.metadata.clone() },
            ..before.clone()
        };
        assert!(of_pod(&before) != of_pod(&successor), "a successor of the same name");
    }

    #[test]
    fn a_balancer_is_news_by_the_pods_that_it_lists() {
        let balancer = |conditions: Value, pods: &[&str]| -> LoadBalancer {
            let proxies: Vec<Value> =
                pods.iter().map(|pod| json!({"pod": pod, "pod-uid": pod, "state": "Ready"})).collect();
            serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
                "metadata": {"name": "web", "namespace": "epic-red", "uid": "u"},
                "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
                "status": {"proxies": proxies, "conditions": conditions},
            }))
            .unwrap()
        };
        let condition = json!([{"type": "Ready", "status": "True", "reason": "x", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(of_balancer(&balancer(json!([]), &["a"])), of_balancer(&balancer(condition, &["a"])));
        assert_ne!(of_balancer(&balancer(json!([]), &["a"])), of_balancer(&balancer(json!([]), &["a", "b"])));
    }

    #[test]
    fn an_endpoint_is_news_by_its_generation_and_what_is_said_of_it() {
        let endpoint = |generation: i64, accepted: &str, tunnel: &str| -> Endpoint {
            let condition = |type_: &str, status: &str| {
                json!({"type": type_, "status": status, "reason": "x", "message": "", "observedGeneration": generation,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
                "metadata": {"name": "a", "namespace": "epic-red", "uid": "u", "generation": generation},
                "spec": {"load-balancer": "web", "address": "10.0.0.9", "port": {"port": 8080}},
                "status": {"conditions": [condition(ACCEPTED, accepted), condition("TunnelUp", tunnel)]},
            }))
            .unwrap()
        };
        let before = endpoint(1, "True", "True");
        assert!(of_endpoint(&before) == of_endpoint(&endpoint(1, "True", "False")), "a tunnel that flaps");
        assert!(of_endpoint(&before) != of_endpoint(&endpoint(1, "False", "True")));
        assert!(of_endpoint(&before) != of_endpoint(&endpoint(2, "True", "True")));
    }
}
