//! What keeps a LoadBalancer's proxies from getting ready, in words that do not change while the trouble lasts.
//!
//! Pods that are never made leave their trace in the Deployment, where its controller copies what the API server
//! answered: a quota, a LimitRange, a webhook, PodSecurity. The others are asked themselves, in the order in which a pod
//! comes up: scheduler, agent of the node, kubelet, xDS, and the gate that the agent opens last.

use std::net::IpAddr;
use std::time::Duration;

use epic_crds::well_known::POD_CONDITION_PROGRAMMED;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use super::pods::is_ready;
use crate::xds::has_answered;

/// How long a container may run before it is said what it has not got yet: until then that is a start like any other.
const PATIENCE: Duration = Duration::from_secs(30);
/// Characters of a container's last words that are told.
const WORDS: usize = 300;

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
    let is_late = || containers.iter().any(|container| ran(container, surroundings.now) >= PATIENCE);
    let late = || if is_late() { unconnected(pod, surroundings).or_else(unprogrammed) } else { None };
    unscheduled()
        .or_else(|| without_agent(pod, surroundings))
        .or_else(|| containers.iter().find_map(stuck))
        .or_else(late)
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

/// For how long a container has been running.
fn ran(container: &ContainerStatus, now: Timestamp) -> Duration {
    let running = container.state.as_ref().and_then(|state| state.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref());
    started.map_or(Duration::ZERO, |started| now.duration_since(started.0).unsigned_abs())
}

/// One that has said nothing over xDS.
fn unconnected(pod: &Pod, surroundings: &Surroundings<'_>) -> Option<String> {
    if has_answered(pod) {
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
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
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
        reason => match (ended, reason) {
            (Some(ended), _) => Some(format!("its container ended{}", last_words(ended))),
            (None, None | Some("ContainerCreating" | "PodInitializing")) => None,
            (None, Some(reason)) => Some(format!("its container is not made: {reason}")),
        },
    }
}

/// What a container said last of why it ended: the end of its log, where the kubelet has it
/// (`terminationMessagePolicy: FallbackToLogsOnError`). Without the time and the process ID that Envoy puts before each
/// line, so that the same trouble has the same words.
fn last_words(ended: &ContainerStateTerminated) -> String {
    let lines: Vec<(String, String)> =
        ended.message.iter().flat_map(|message| message.lines()).filter_map(line_of_log).collect();
    let worst = lines.iter().rfind(|(level, _)| matches!(level.as_str(), "critical" | "error"));
    let reason = ended.reason.as_deref().filter(|reason| !matches!(*reason, "Error" | "Completed"));
    match (worst.or(lines.last()), reason) {
        (Some((_, text)), None) => {
            // Protobuf puts spaces, and a word before what it prints of a message, that change from process to process.
            let words = text.split_whitespace().take_while(|word| !word.contains("goo.gle/debug"));
            format!(": {}", words.collect::<Vec<_>>().join(" ").chars().take(WORDS).collect::<String>())
        }
        (_, Some(reason)) => format!(" ({reason}); see kubectl logs --previous"),
        (None, None) => "; see kubectl logs --previous".to_owned(),
    }
}

/// Level and text of a line of Envoy's log, in the form that its bootstrap asks for or in the one it has before it has
/// read that; a line in no such form is text alone.
fn line_of_log(line: &str) -> Option<(String, String)> {
    if let Ok(Value::Object(fields)) = serde_json::from_str(line) {
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        return Some((field("level"), field("msg")));
    }
    let (mut rest, mut level) = (line.trim(), "");
    while let Some((word, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        if matches!(word, "critical" | "error") {
            level = word;
        }
        rest = after.trim_start();
    }
    (!rest.is_empty()).then(|| (level.to_owned(), rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    }

    #[test]
    fn a_gate_that_stays_shut_is_told_once_the_container_has_run_for_a_while() {
        let waits = |started: &str| {
            let mut status = container(&json!({"running": {"startedAt": started}}), &json!({}));
            status["conditions"] = json!([
                {"type": POD_CONDITION_PROGRAMMED, "status": "False", "reason": "Pending", "message": "tunnel 7: no hello yet"},
                {"type": epic_crds::well_known::POD_CONDITION_CONFIGURED, "status": "True", "message": "generation 3"},
            ]);
            of(&status)
        };
        assert_eq!(waits("2026-01-01T00:00:45Z"), None, "that is a start like any other");
        assert_eq!(waits("2026-01-01T00:00:15Z").unwrap(), "pod p: its node waits: tunnel 7: no hello yet");
    }

    #[test]
    fn the_last_words_of_a_container_are_told_without_what_changes_from_one_start_to_the_next() {
        let ended = |terminated: &Value| {
            of(&container(&waiting("CrashLoopBackOff"), &json!({"terminated": terminated})))
        };
        let plain = "[2026-01-01 00:00:00.123][1][critical][main] [source/server/server.cc:452] error  `Protobuf message (near  1:29) has unknown \
                     fields` initializing config 'goo.gle/debugstr  {}'\n[2026-01-01 00:00:00.124][1][info][main] [source/server/server.cc:1060] exiting\n";
        assert_eq!(
            ended(&json!({"exitCode": 1, "reason": "Error", "message": plain})).unwrap(),
            "pod p: its container ended: error `Protobuf message (near 1:29) has unknown fields` initializing config"
        );
        let json = r#"{"log":"envoy","time":"x","level":"critical","name":"main","msg":"cannot bind"}"#;
        assert_eq!(
            ended(&json!({"exitCode": 1, "message": format!("cut off\n{json}\nexiting")})).unwrap(),
            "pod p: its container ended: cannot bind"
        );
        assert_eq!(
            ended(&json!({"exitCode": 137, "reason": "OOMKilled", "message": "so much"})).unwrap(),
            "pod p: its container ended (OOMKilled); see kubectl logs --previous"
        );
        let long = ended(&json!({"exitCode": 1, "message": "ü".repeat(5_000)})).unwrap();
        assert_eq!(long.chars().count(), "pod p: its container ended: ".len() + WORDS);
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
        let mut late = container(&json!({"running": {"startedAt": "2026-01-01T00:00:15Z"}}), &json!({}));
        late["conditions"] =
            json!([{"type": "epic.acnodal.io/configured", "status": "True", "message": "generation 1"}]);
        let gate = condition(POD_CONDITION_PROGRAMMED, "Pending", "tunnel 7: no hello yet");
        late["conditions"].as_array_mut().unwrap().extend(gate["conditions"].as_array().unwrap().clone());
        let mut lost = pod(&late);
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
