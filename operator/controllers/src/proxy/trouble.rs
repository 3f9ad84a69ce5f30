//! What keeps a pod from getting ready, in words that do not change while the trouble lasts.

use epic_crds::well_known::POD_CONDITION_PROGRAMMED;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::ResourceExt as _;

use super::pods::is_ready;

/// The first of these pods that something is wrong with, and what. A pod that is on its way has no trouble.
pub fn first_trouble<'p>(pods: impl IntoIterator<Item = &'p Pod>) -> Option<String> {
    pods.into_iter().find_map(|pod| Some(format!("pod {}: {}", pod.name_any(), trouble(pod)?)))
}

fn trouble(pod: &Pod) -> Option<String> {
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
    unscheduled().or_else(|| containers.iter().find_map(stuck)).or_else(unprogrammed)
}

/// The kubelet tries again all the time, and says something else in between: that is one trouble.
fn stuck(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = || container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable",
        ) => Some(format!("the image {} cannot be had", container.image)),
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

    fn of(status: &Value) -> Option<String> {
        first_trouble([&pod(status)])
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
        assert_eq!(first_trouble([&leaving, &ready]), None);
        assert!(first_trouble([&leaving, &ready, &pod(&stuck)]).is_some());
    }
}
