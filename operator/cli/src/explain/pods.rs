//! Why the proxies of a LoadBalancer take no traffic: the Deployment first, then each pod. Pure.

use epic_crds::EPICNode;
use epic_crds::well_known::{
    ANNOTATION_PROXY_VERSION, POD_CONDITION_CONFIGURED, POD_CONDITION_PROGRAMMED, node_lease_name,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{Fix, Found, SYSTEM, ago, may_read};
use crate::overview::lease::is_fresh;

/// Why a Deployment makes no pods: what its controller was answered.
pub(super) fn deployment(deployment: &Deployment) -> Option<Fix> {
    let status = deployment.status.as_ref()?;
    let failure = status
        .conditions
        .iter()
        .flatten()
        .find(|known| known.type_ == "ReplicaFailure" && known.status == "True")?;
    let message = failure.message.clone().unwrap_or_default();
    let remedy = if message.contains("exceeded quota") || message.contains("failed quota") {
        "raise the ResourceQuota in the tenant's namespace, or set spec.proxies.resources to what it demands"
    } else if message.contains("PodSecurity") {
        "the namespace enforces a PodSecurity level that proxies do not meet; they meet `restricted`, so look for a policy of your own"
    } else if message.contains("webhook") || message.contains("ValidatingAdmissionPolicy") {
        "exempt the tenant's namespace from the policy or webhook that the message names, or set what it asks for in spec.proxies"
    } else if message.contains("LimitRange") || message.contains("maximum") {
        "set spec.proxies.resources of EPIC within the namespace's LimitRange, or change the LimitRange"
    } else {
        "mend what the API server refused; the pods are then created by themselves"
    };
    Some(Fix::new(format!("no pod can be created: {message}"), remedy))
}

/// Why a pod takes no traffic; nothing where it is ready or on its way out.
pub(super) fn pod(pod: &Pod, found: &Found, now: Timestamp) -> Option<Fix> {
    if condition(pod, "Ready").is_some_and(|known| known.status == "True")
        || pod.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let fix = |problem: String, remedy: String| Some(Fix::new(format!("proxy {name}: {problem}"), remedy));
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|known| known.status == "False") {
        let message = scheduled.message.clone().unwrap_or_default();
        let remedy = "give it a node: proxies run on nodes with an EPIC agent (label epic.acnodal.io/node) that fit spec.proxies (node-selector, tolerations, resources)";
        return fix(format!("no node takes it: {message}"), remedy.to_owned());
    }
    if let Some(container) = container(pod) {
        if let Some((reason, message)) = waiting(container) {
            let remedy = match reason {
                "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
                    "correct the image (envoy-image of the group or of EPIC), or name a pull secret in spec.proxies.image-pull-secrets of EPIC".to_owned()
                }
                "CreateContainerConfigError" => {
                    "wait for the operator to write ConfigMap and Secret of the proxies; its log says what keeps it".to_owned()
                }
                _ => format!("kubectl -n {namespace} logs {name} --previous"),
            };
            return fix(format!("{reason}: {message}"), remedy);
        }
        if let Some(code) = ended(container) {
            return fix(
                format!("its container ended with code {code}"),
                format!(
                    "kubectl -n {namespace} logs {name} --previous; 137 is too little memory: raise spec.proxies.resources"
                ),
            );
        }
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())?;
    if let Some(fixed) = agent(node, found, now) {
        return fix(fixed.problem, fixed.remedy);
    }
    match condition(pod, POD_CONDITION_CONFIGURED) {
        Some(configured) if configured.status == "False" => fix(
            format!(
                "Envoy{} refuses its configuration: {}",
                version(pod).map(|version| format!(" ({version})")).unwrap_or_default(),
                configured.message.clone().unwrap_or_default()
            ),
            "compare the Envoy image of the group with the one EPIC was made for; if it is EPIC's own, report it".to_owned(),
        ),
        None => fix(
            "it has not reached the operator".to_owned(),
            format!("let {namespace} reach TCP 18000 of pods epic-operator in namespace {SYSTEM}: a NetworkPolicy keeps xDS away, or no operator is ready (kubectl -n {SYSTEM} get pods)"),
        ),
        Some(_) if condition(pod, POD_CONDITION_PROGRAMMED).is_none_or(|known| known.status != "True") => fix(
            format!("node {node} has not written it into its maps"),
            format!("kubectl -n {SYSTEM} get epicnode {node} -o yaml; the agent's log there names the map"),
        ),
        Some(_) => fix("its readiness probe fails".to_owned(), format!("kubectl -n {namespace} describe pod {name}")),
    }
}

/// What is wrong with the agent of a node that a proxy runs on.
pub(super) fn agent(node: &str, found: &Found, now: Timestamp) -> Option<Fix> {
    if !may_read(found, "epicnodes") || !may_read(found, "leases") {
        return None;
    }
    let logs = format!("kubectl -n {SYSTEM} get pods -l app.kubernetes.io/name=epic-agent -o wide");
    let Some(known) = node_of(found, node) else {
        return Some(Fix::new(
            format!("it runs on {node}, which has no EPIC agent"),
            format!(
                "let the agent run there (agent.nodeSelector, agent.tolerations of the chart), or keep proxies away by spec.proxies.node-selector of EPIC: {logs}"
            ),
        ));
    };
    let lease = found.epic.leases.items.iter().find(|lease| lease.name_any() == node_lease_name(node));
    if !lease.is_some_and(|lease| is_fresh(lease, now)) {
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let since =
            renewed.map_or_else(|| "never".to_owned(), |renewed| format!("{} ago", ago(renewed, now)));
        return Some(Fix::new(
            format!("the agent of its node {node} is silent (last heard {since})"),
            format!("bring the agent back, or see whether the node reaches the API server: {logs}"),
        ));
    }
    let ready =
        known.status.iter().flat_map(|status| &status.conditions).find(|known| known.type_ == "Ready")?;
    (ready.status != epic_crds::ConditionStatus::True).then(|| {
        Fix::new(
            format!("its node {node} is not ready: {}: {}", ready.reason, ready.message),
            format!("mend the node: kubectl -n {SYSTEM} get epicnode {node} -o yaml"),
        )
    })
}

/// What the proxy of a pod said that it is.
pub(super) fn version(pod: &Pod) -> Option<&str> {
    pod.annotations().get(ANNOTATION_PROXY_VERSION).map(String::as_str)
}

fn node_of<'f>(found: &'f Found, node: &str) -> Option<&'f EPICNode> {
    found.epic.nodes.items.iter().find(|known| known.name_any() == node)
}

fn condition<'p>(pod: &'p Pod, type_: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|known| known.type_ == type_)
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// Reason and message of a container that does not start. One that is being created is on its way.
fn waiting(container: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| *reason != "ContainerCreating")?;
    Some((reason, waiting.message.as_deref().unwrap_or_default()))
}

fn ended(container: &ContainerStatus) -> Option<i32> {
    container.state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code)
}
