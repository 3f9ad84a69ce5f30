//! What keeps a LoadBalancer's proxies from getting ready, in words that do not change while the trouble lasts.
//!
//! Pods that are never made leave their trace in the Deployment, where its controller copies what the API server
//! answered: a quota, a LimitRange, a webhook, PodSecurity. The others are asked themselves, in the order in which a pod
//! comes up: scheduler, agent of the node, kubelet, xDS, and the gate that the agent opens last.

use std::net::IpAddr;
use std::time::Duration;

use epic_crds::well_known::POD_CONDITION_PROGRAMMED;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::pods::is_ready;
use crate::xds::has_answered;

/// How long a container may run before it is said that it has not come to the xDS server.
const XDS_PATIENCE: Duration = Duration::from_secs(30);

/// The agent of the node that a pod runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It renews its Lease.
    Alive,
    /// It does not any more.
    Silent,
    /// The node has none.
    Missing,
}

/// What surrounds the pods.
pub struct Surroundings<'a> {
    /// Their Deployment.
    pub deployment: Option<&'a Deployment>,
    /// The agent of a node.
    pub agent: &'a dyn Fn(&str) -> Agent,
    /// ClusterIP of the xDS Service.
    pub xds_address: Option<IpAddr>,
    /// The present time.
    pub now: Timestamp,
}

/// The first thing that is wrong with these pods, or with making them. A pod that is on its way has no trouble.
pub fn first_trouble<'p>(
    pods: impl IntoIterator<Item = &'p Pod>,
    surroundings: &Surroundings<'_>,
) -> Option<String> {
    let unmade = surroundings.deployment.and_then(unmade);
    let of = |pod: &Pod| Some(format!("pod {}: {}", pod.name_any(), trouble(pod, surroundings)?));
    unmade.or_else(|| pods.into_iter().find_map(of))
}

/// Why no further pod can be made, in the API server's words.
pub fn unmade(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_deref()?;
    let failure =
        conditions.iter().find(|known| known.type_ == "ReplicaFailure" && known.status == "True")?;
    Some(format!(
        "pods cannot be made: {}",
        failure.message.as_deref().unwrap_or("the API server refuses them")
    ))
}

fn trouble(pod: &Pod, surroundings: &Surroundings<'_>) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if is_ready(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let said = |type_: &str, reason: &str| {
        let of_type = |known: &&PodCondition| known.type_ == type_ && known.status == "False";
        let found =
            conditions.iter().find(of_type).filter(|known| known.reason.as_deref() == Some(reason))?;
        found.message.as_deref()
    };
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let unscheduled = || Some(format!("no node takes it: {}", said("PodScheduled", "Unschedulable")?));
    let unprogrammed = || Some(format!("its node waits: {}", said(POD_CONDITION_PROGRAMMED, "Pending")?));
    unscheduled()
        .or_else(|| without_agent(pod, surroundings))
        .or_else(|| containers.iter().find_map(stuck))
        .or_else(|| unconnected(pod, containers, surroundings))
        .or_else(unprogrammed)
}

fn without_agent(pod: &Pod, surroundings: &Surroundings<'_>) -> Option<String> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    match (surroundings.agent)(node) {
        Agent::Alive => None,
        Agent::Silent => {
            Some(format!("it runs on {node}, whose EPIC agent is silent; see the agent's pod there"))
        }
        Agent::Missing => Some(format!(
            "it runs on {node}, which has no EPIC agent; have the DaemonSet epic-agent run there, or keep proxies off it \
             with EPIC.spec.proxies.node-selector"
        )),
    }
}

/// One that has run for a while and has said nothing over xDS.
fn unconnected(pod: &Pod, containers: &[ContainerStatus], surroundings: &Surroundings<'_>) -> Option<String> {
    let started = containers.iter().find_map(|container| {
        let running = container.state.as_ref()?.running.as_ref()?;
        running.started_at.as_ref().map(|started| started.0)
    })?;
    let ran = surroundings.now.duration_since(started).unsigned_abs();
    if ran < XDS_PATIENCE || has_answered(pod) {
        return None;
    }
    let address = surroundings.xds_address.map_or_else(String::new, |address| format!(" at {address}"));
    let namespace = pod.namespace().unwrap_or_default();
    Some(format!(
        "it runs and has not come to the xDS Service of namespace epic{address}, TCP port 18000; does a NetworkPolicy in \
         {namespace} or in epic keep it away?"
    ))
}

/// The kubelet tries again all the time, and says something else in between: that is one trouble.
fn stuck(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = || container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable",
        ) => {
            let refused = ["unauthorized", "authorization failed", "denied", "no basic auth", "forbidden"];
            let needs_secret = refused.iter().any(|word| message.to_lowercase().contains(word));
            let advice = if needs_secret {
                ": the registry wants credentials; name a pull secret in EPIC.spec.proxies.image-pull-secrets"
            } else {
                ""
            };
            Some(format!("the image {} cannot be had{advice}", container.image))
        }
        _ if ended() => Some("its container ended; see kubectl logs --previous".to_owned()),
        None | Some("ContainerCreating" | "PodInitializing") => None,
        Some(reason) => Some(format!("its container is not made: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn around<'a>(deployment: Option<&'a Deployment>, agent: &'a dyn Fn(&str) -> Agent) -> Surroundings<'a> {
        let (xds_address, now) = ("10.96.0.5".parse().ok(), "2026-01-01T00:01:00Z".parse().unwrap());
        Surroundings { deployment, agent, xds_address, now }
    }

    fn first(pods: &[&Pod]) -> Option<String> {
        first_trouble(pods.iter().copied(), &around(None, &|_| Agent::Alive))
    }

    fn of(status: &Value) -> Option<String> {
        first(&[&pod(status)])
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"containerStatuses": [{"name": "envoy", "image": "envoy:nope", "imageID": "", "ready": false,
            "restartCount": 0, "state": state, "lastState": last}]})
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason}})
    }

    fn condition(type_: &str, reason: &str, message: &str) -> Value {
        json!({"conditions": [{"type": type_, "status": "False", "reason": reason, "message": message}]})
    }

    #[test]
    fn a_pod_on_its_way_has_none() {
        for status in [
            json!({}),
            container(&waiting("ContainerCreating"), &json!({})),
            container(&json!({"running": {}}), &json!({})),
            condition("Ready", "ContainersNotReady", "containers with unready status: [envoy]"),
        ] {
            assert_eq!(of(&status), None, "{status}");
        }
    }

    #[test]
    fn what_the_kubelet_alternates_between_is_one_trouble() {
        let image = Some("pod p: the image envoy:nope cannot be had".to_owned());
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            assert_eq!(of(&container(&waiting(reason), &json!({}))), image);
        }
        let ended = Some("pod p: its container ended; see kubectl logs --previous".to_owned());
        let before = json!({"terminated": {"exitCode": 1}});
        for state in [waiting("CrashLoopBackOff"), json!({"running": {}})] {
            assert_eq!(of(&container(&state, &before)), ended);
        }
    }

    #[test]
    fn scheduler_container_and_node_are_named() {
        let unschedulable = condition("PodScheduled", "Unschedulable", "0/2 nodes are available");
        assert_eq!(of(&unschedulable).unwrap(), "pod p: no node takes it: 0/2 nodes are available");
        let config = container(&waiting("CreateContainerConfigError"), &json!({}));
        assert_eq!(of(&config).unwrap(), "pod p: its container is not made: CreateContainerConfigError");
        let gate = condition(POD_CONDITION_PROGRAMMED, "Pending", "tunnel 7: no hello yet");
        assert_eq!(of(&gate).unwrap(), "pod p: its node waits: tunnel 7: no hello yet");
    }

    #[test]
    fn ready_pods_and_those_that_go_are_passed_over() {
        let stuck = container(&waiting("ErrImagePull"), &json!({}));
        let mut leaving = pod(&stuck);
        leaving.metadata.deletion_timestamp = Some(crate::reconcile::now());
        let ready = pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(first(&[&leaving, &ready]), None);
        assert!(first(&[&leaving, &ready, &pod(&stuck)]).is_some());
    }

    #[test]
    fn what_the_api_server_says_of_pods_that_are_not_made_is_told() {
        let message = "pods \"epic-web-x\" is forbidden: failed quota: q: must specify limits.cpu for: envoy";
        let deployment = |status: &str| -> Deployment {
            let failure = json!({"type": "ReplicaFailure", "status": status, "reason": "FailedCreate", "message": message});
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [failure]}})).unwrap()
        };
        let ready = pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let of =
            |deployment: &Deployment| first_trouble([&ready], &around(Some(deployment), &|_| Agent::Alive));
        assert_eq!(of(&deployment("True")).unwrap(), format!("pods cannot be made: {message}"));
        assert_eq!(of(&deployment("False")), None);
    }

    #[test]
    fn a_node_without_agent_is_named_before_what_follows_from_it() {
        let gate = condition(POD_CONDITION_PROGRAMMED, "Pending", "tunnel 7: no hello yet");
        let mut lost = pod(&gate);
        lost.spec = Some(serde_json::from_value(json!({"containers": [], "nodeName": "node2"})).unwrap());
        let of = |agent: Agent| first_trouble([&lost], &around(None, &|_| agent)).unwrap();
        assert!(of(Agent::Missing).starts_with("pod p: it runs on node2, which has no EPIC agent"));
        assert!(of(Agent::Silent).starts_with("pod p: it runs on node2, whose EPIC agent is silent"));
        assert!(of(Agent::Alive).starts_with("pod p: its node waits"));
    }

    #[test]
    fn one_that_runs_and_never_comes_to_the_xds_server_is_told_after_a_while() {
        let running = |at: &str| container(&json!({"running": {"startedAt": at}}), &json!({}));
        assert_eq!(of(&running("2026-01-01T00:00:45Z")), None);
        let late = of(&running("2026-01-01T00:00:20Z")).unwrap();
        assert!(late.contains("10.96.0.5") && late.contains("NetworkPolicy"), "{late}");
        let mut answered = running("2026-01-01T00:00:20Z");
        answered["conditions"] =
            json!([{"type": "epic.acnodal.io/configured", "status": "True", "message": "generation 1"}]);
        assert_eq!(of(&answered), None);
    }

    #[test]
    fn a_registry_that_wants_credentials_is_told_from_an_image_that_is_not_there() {
        let image = |message: &str| {
            of(&container(&json!({"waiting": {"reason": "ErrImagePull", "message": message}}), &json!({})))
                .unwrap()
        };
        assert!(image("401 Unauthorized").contains("image-pull-secrets"));
        assert!(image("pull access denied").contains("image-pull-secrets"));
        assert!(!image("not found").contains("image-pull-secrets"));
    }
}
