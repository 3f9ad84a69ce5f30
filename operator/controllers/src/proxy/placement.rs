//! Where a LoadBalancer's proxies run, and with what: the part of the pod that administrators decide.
//!
//! The Nodes with an agent carry a label ([`crate::node`]); every pod asks for it, whatever else is selected. Outside of
//! them a proxy would neither get its gate nor be fenced.

use std::collections::BTreeMap;

use epic_crds::well_known::{ANNOTATION_RESTARTED_AT, EPIC_NAMESPACE, LABEL_NODE};
use epic_crds::{EPIC, LoadBalancer, ProxySettings, ProxyToleration, Rest, ServiceGroup};
use epic_model::id::ObjectName;
use epic_model::name;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

/// Longest text of [`ANNOTATION_RESTARTED_AT`] that is passed on as it is: a tenant writes it.
const LONGEST_RESTART: usize = 64;

/// Labels and annotations that keep meshes from putting a sidecar into the pods. A proxy has no route to a mesh's
/// control plane, so it would never start.
const NO_INJECTION: [(&str, &str); 4] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("kuma.io/sidecar-injection", "disabled"),
    ("consul.hashicorp.com/connect-inject", "false"),
];

/// `imagePullPolicy` of Envoy's image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// Somebody else puts it on the nodes.
    Never,
}

impl PullPolicy {
    /// As a pod spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The settings of a group's proxies: what a shared group says, then EPIC, then what the operator was installed with.
pub fn settings(
    installed: &ProxySettings,
    epic: Option<&EPIC>,
    group: Option<&ServiceGroup>,
) -> ProxySettings {
    let shared = group.filter(|group| group.namespace().as_deref() == Some(EPIC_NAMESPACE));
    let layers = [
        shared.and_then(|group| group.spec.proxies.as_ref()),
        epic.and_then(|epic| epic.spec.proxies.as_ref()),
    ];
    layers.into_iter().rev().flatten().fold(installed.clone(), |below, above| above.over(&below))
}

/// What an object says of its last restart.
pub fn restarted_at<K: ResourceExt>(object: &K) -> Option<&str> {
    object.annotations().get(ANNOTATION_RESTARTED_AT).map(String::as_str).filter(|text| !text.is_empty())
}

/// The text whose change has the proxies of a LoadBalancer made anew: its own, and its group's.
pub fn restarts(balancer: &LoadBalancer, group: Option<&ServiceGroup>) -> Option<String> {
    let texts: Vec<&str> =
        [restarted_at(balancer), group.and_then(restarted_at)].into_iter().flatten().collect();
    if texts.is_empty() {
        return None;
    }
    let text = texts.join(", ");
    Some(if text.len() <= LONGEST_RESTART { text } else { name::short_hash(&texts) })
}

/// Whether the Deployment that is there is left as it is until every Node with an agent is labelled, `unlabelled` being
/// one that is not. Otherwise the roll-out with which proxies begin to ask for the label would move them all to the
/// Nodes that happened to have it first.
pub fn awaits_labels<'n>(live: Option<&Deployment>, unlabelled: Option<&'n str>) -> Option<&'n str> {
    let pod = live?.spec.as_ref()?.template.spec.as_ref();
    let selector = pod.and_then(|pod| pod.node_selector.as_ref());
    unlabelled.filter(|_| !selector.is_some_and(|selector| selector.contains_key(LABEL_NODE)))
}

/// Labels of the pods: `ours` win over those of the settings, which the schema keeps apart.
pub(super) fn labels(settings: &ProxySettings, ours: Value) -> Value {
    let asked = settings.pod_labels.clone().unwrap_or_default();
    let elsewhere = settings.pod_annotations.clone().unwrap_or_default();
    let mut labels = Map::new();
    // Of the meshes that read labels; an annotation of the same key is meant for them, too.
    for (key, value) in NO_INJECTION.iter().filter(|(key, _)| !elsewhere.contains_key(*key)) {
        labels.insert((*key).to_owned(), (*value).into());
    }
    labels.extend(asked.into_iter().map(|(key, value)| (key, value.into())));
    labels.extend(ours.as_object().cloned().unwrap_or_default());
    labels.into()
}

/// Annotations of the pods.
pub(super) fn annotations(settings: &ProxySettings, bootstrap: &str, restarted_at: Option<&str>) -> Value {
    let asked = settings.pod_annotations.clone().unwrap_or_default();
    let elsewhere = settings.pod_labels.clone().unwrap_or_default();
    let mut annotations = Map::new();
    for (key, value) in NO_INJECTION.iter().filter(|(key, _)| !elsewhere.contains_key(*key)) {
        annotations.insert((*key).to_owned(), (*value).into());
    }
    annotations.extend(asked.into_iter().map(|(key, value)| (key, value.into())));
    annotations.insert("epic.acnodal.io/bootstrap".to_owned(), bootstrap.into());
    if let Some(text) = restarted_at {
        annotations.insert(ANNOTATION_RESTARTED_AT.to_owned(), text.into());
    }
    annotations.into()
}

/// What one proxy may take, in bytes. A quantity that the schema keeps out counts as none.
pub(super) fn memory(settings: &ProxySettings) -> u64 {
    let bytes = settings.memory_bytes().or_else(|_| ProxySettings::default().memory_bytes());
    bytes.unwrap_or_default()
}

/// Requests and limits of the container. Memory is equal in both: usage above the request is what the kubelet evicts
/// first, and an idle proxy with many connections has it.
pub(super) fn resources(settings: &ProxySettings) -> Value {
    let memory = of_bytes(memory(settings));
    let limit = settings.cpu_limit().map(thousandths);
    // The two may come from different layers.
    let cpu = thousandths(settings.cpu()).min(limit.unwrap_or(u64::MAX));
    let mut resources = json!({
        "requests": {"cpu": of_thousandths(cpu), "memory": memory},
        "limits": {"memory": memory},
    });
    if let Some(limit) = limit {
        resources["limits"]["cpu"] = of_thousandths(limit).into();
    }
    resources
}

/// Cores as text, in thousandths.
fn thousandths(cpu: &str) -> u64 {
    if let Some(number) = cpu.strip_suffix('m') {
        return number.parse().unwrap_or(0);
    }
    let (whole, part) = cpu.split_once('.').unwrap_or((cpu, ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    number(whole).saturating_mul(1000).saturating_add(number(&part))
}

/// Thousandths of a core in the one form that the API server stores: another one would be a difference for ever.
fn of_thousandths(cpu: u64) -> String {
    if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") }
}

/// Bytes in the one form that the API server stores.
fn of_bytes(bytes: u64) -> String {
    let binary = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let decimal = [(1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    let unit = binary.into_iter().chain(decimal).find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(unit, suffix)| format!("{}{suffix}", bytes / unit))
}

/// Puts into a pod where it may run.
pub(super) fn place(pod: &mut Value, settings: &ProxySettings) {
    let mut selector: BTreeMap<String, String> = settings.node_selector.clone().unwrap_or_default();
    selector.insert(LABEL_NODE.to_owned(), String::new());
    pod["nodeSelector"] = json!(selector);
    if let Some(tolerations) = settings.tolerations.as_ref().filter(|list| !list.is_empty()) {
        pod["tolerations"] = tolerations.iter().map(toleration).collect();
    }
    if let Some(class) = &settings.priority_class_name {
        pod["priorityClassName"] = class.as_str().into();
    }
    let secrets = settings.image_pull_secrets();
    if !secrets.is_empty() {
        let copies = secrets.iter().map(|secret| json!({"name": copy(secret)}));
        pod["imagePullSecrets"] = copies.collect();
    }
}

/// A toleration as a pod has it, without what a newer version knows.
fn toleration(toleration: &ProxyToleration) -> Value {
    json!(ProxyToleration { rest: Rest::default(), ..toleration.clone() })
}

/// Name of the copy of a Secret that images are pulled with.
pub fn copy(secret: &str) -> String {
    name::pull_secret(&ObjectName::from(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: Value) -> ProxySettings {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_shared_group_wins_over_epic_and_epic_over_the_installation_and_a_private_group_says_nothing() {
        let group = |namespace: &str| -> ServiceGroup {
            serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup",
                "metadata": {"name": "g", "namespace": namespace}, "spec": {"proxies": {"concurrency": 8}},
            }))
            .unwrap()
        };
        let epic: EPIC = serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "EPIC", "metadata": {"name": "epic", "namespace": "epic"},
            "spec": {"proxies": {"concurrency": 4, "priority-class-name": "edge"}},
        }))
        .unwrap();
        let installed =
            settings(json!({"concurrency": 1, "priority-class-name": "low", "node-selector": {"a": "b"}}));
        let of = |group: &ServiceGroup| super::settings(&installed, Some(&epic), Some(group));
        let shared = of(&group("epic"));
        assert_eq!((shared.concurrency(), shared.priority_class_name.as_deref()), (8, Some("edge")));
        assert_eq!(shared.node_selector, installed.node_selector);
        assert_eq!(of(&group("epic-red")).concurrency(), 4);
        assert_eq!(super::settings(&installed, None, None), installed);
    }

    #[test]
    fn every_proxy_asks_for_a_node_with_an_agent() {
        let mut plain = json!({});
        place(&mut plain, &ProxySettings::default());
        assert_eq!(plain, json!({"nodeSelector": {"epic.acnodal.io/node": ""}}));
        let mut asked = json!({});
        let everything = settings(json!({
            "node-selector": {"edge": "true"},
            "tolerations": [{"key": "edge", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
            "priority-class-name": "edge", "image-pull-secrets": ["mirror"],
        }));
        place(&mut asked, &everything);
        assert_eq!(
            asked,
            json!({
                "nodeSelector": {"edge": "true", "epic.acnodal.io/node": ""},
                "tolerations": [{"key": "edge", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
                "priorityClassName": "edge",
                "imagePullSecrets": [{"name": "epic-pull-mirror"}],
            })
        );
        assert!(
            serde_json::from_value::<k8s_openapi::api::core::v1::PodSpec>(
                json!({"containers": [], "tolerations": asked["tolerations"]})
            )
            .is_ok()
        );
    }

    #[test]
    fn memory_is_requested_as_it_is_limited_and_cpu_never_above_its_limit() {
        let default = resources(&ProxySettings::default());
        assert_eq!(
            default,
            json!({"requests": {"cpu": "20m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}})
        );
        for (cpu, limit, requested, limited) in
            [("100m", "2", "100m", "2"), ("2", "500m", "500m", "500m"), ("0.25", "1.5", "250m", "1500m")]
        {
            let both = resources(&settings(json!({"resources": {"cpu": cpu, "cpu-limit": limit}})));
            assert_eq!(
                (&both["requests"]["cpu"], &both["limits"]["cpu"]),
                (&json!(requested), &json!(limited))
            );
        }
    }

    /// What the API server writes otherwise than it was told would be applied again and again.
    #[test]
    fn quantities_have_the_form_in_which_they_are_stored() {
        for (text, stored) in [
            ("256Mi", "256Mi"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("268435456", "256Mi"),
            ("1000M", "1G"),
            ("1500000001", "1500000001"),
            ("134217728", "128Mi"),
        ] {
            let memory = &resources(&settings(json!({"resources": {"memory": text}})))["limits"]["memory"];
            assert_eq!(memory, stored, "{text}");
        }
        assert_eq!(of_thousandths(thousandths("1000m")), "1");
    }

    #[test]
    fn no_mesh_injects_its_sidecar_unless_it_is_asked_to() {
        let ours = json!({"epic.acnodal.io/account": "red"});
        let plain = ProxySettings::default();
        for found in [labels(&plain, ours.clone()), annotations(&plain, "v", None)] {
            assert_eq!(found["sidecar.istio.io/inject"], "false");
            assert_eq!(found["linkerd.io/inject"], "disabled");
        }
        let asked = settings(json!({
            "pod-labels": {"sidecar.istio.io/inject": "true", "team": "a"},
            "pod-annotations": {"linkerd.io/inject": "enabled"},
        }));
        let (labels, annotations) = (labels(&asked, ours), annotations(&asked, "v", Some("now")));
        assert_eq!(labels["sidecar.istio.io/inject"], "true");
        assert!(
            annotations.get("sidecar.istio.io/inject").is_none(),
            "one of the two would refuse what the other asks"
        );
        assert_eq!((&labels["team"], &labels["epic.acnodal.io/account"]), (&json!("a"), &json!("red")));
        assert_eq!(annotations["linkerd.io/inject"], "enabled");
        assert_eq!(annotations[ANNOTATION_RESTARTED_AT], "now");
    }

    #[test]
    fn a_restart_of_the_load_balancer_or_of_its_group_changes_the_text() {
        let annotated = |text: Option<&str>| {
            let annotations = text.map(|text| json!({ANNOTATION_RESTARTED_AT: text}));
            json!({"name": "web", "annotations": annotations.unwrap_or_default()})
        };
        let balancer = |text| -> LoadBalancer {
            serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer", "metadata": annotated(text),
                "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
            }))
            .unwrap()
        };
        let group = |text| -> ServiceGroup {
            serde_json::from_value(json!({
                "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup", "metadata": annotated(text), "spec": {},
            }))
            .unwrap()
        };
        assert_eq!(restarts(&balancer(None), Some(&group(None))), None);
        assert_eq!(restarts(&balancer(Some("")), None), None, "an empty text asks for nothing");
        assert_eq!(restarts(&balancer(Some("1")), Some(&group(None))).as_deref(), Some("1"));
        assert_eq!(restarts(&balancer(Some("1")), Some(&group(Some("2")))).as_deref(), Some("1, 2"));
        let long = "x".repeat(200_000);
        assert!(restarts(&balancer(Some(&long)), None).unwrap().len() <= LONGEST_RESTART);
    }

    #[test]
    fn proxies_that_run_ask_for_the_label_only_when_every_node_with_an_agent_has_it() {
        let deployment = |selector: Value| -> Deployment {
            serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": {
                "containers": [], "nodeSelector": selector}}}}))
            .unwrap()
        };
        let before = deployment(json!({}));
        assert_eq!(awaits_labels(Some(&before), Some("node2")), Some("node2"));
        assert_eq!(awaits_labels(Some(&before), None), None);
        assert_eq!(
            awaits_labels(Some(&deployment(json!({LABEL_NODE: ""}))), Some("node2")),
            None,
            "it asks already"
        );
        assert_eq!(awaits_labels(None, Some("node2")), None, "nothing can be moved yet");
    }
}
