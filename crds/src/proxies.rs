//! Where proxies run, and with what: `EPIC.spec.proxies`, and `ServiceGroup.spec.proxies` of shared groups.
//!
//! The two are layers over what the operator was installed with: a group wins over EPIC field by field, EPIC wins over
//! the installation ([`ProxySettings::over`]). What no layer says has a default that the readers here apply.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rest::Rest;
use crate::schema;

/// Where proxies run, and with what. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ProxySettings {
    /// Labels that a Node must have. Proxies run in any case only on Nodes with a live EPIC agent, which the operator
    /// labels epic.acnodal.io/node. Absent: what the operator was installed with, which is where agents run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<BTreeMap<String, schema::LabelValue>>",
        extend(
            "maxProperties" = 32,
            "x-kubernetes-validations" = [
                {"rule": "self.all(key, key != 'epic.acnodal.io/node')", "message": "epic.acnodal.io/node is asked for anyway; leave it out"}
            ]
        )
    )]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of Nodes that proxies tolerate. Each names a key: one for every taint would put proxies on Nodes that are
    /// being drained, and keep them on Nodes that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tolerations: Option<Vec<ProxyToleration>>,
    /// What one proxy takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ProxyResources>,
    /// Worker threads of Envoy. Absent: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub concurrency: Option<i64>,
    /// PriorityClass of the pods; it must exist. Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ObjectName>")]
    pub priority_class_name: Option<String>,
    /// Names of Secrets in namespace epic, of type kubernetes.io/dockerconfigjson, that Envoy's image is pulled with.
    /// The operator copies them into the tenants' namespaces, keeps the copies current, and removes them when they are
    /// named no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<Vec<schema::ObjectName>>",
        length(max = 8),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Labels of the pods. Keys of EPIC and of Kubernetes are refused. Injection of sidecars (Istio, Linkerd, Kuma,
    /// Consul) is off unless a label or an annotation here says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<BTreeMap<String, schema::LabelValue>>",
        extend("maxProperties" = 32, "x-kubernetes-validations" = [foreign_keys()])
    )]
    pub pod_labels: Option<BTreeMap<String, String>>,
    /// Annotations of the pods. Keys of EPIC and of Kubernetes are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<BTreeMap<String, schema::AnnotationValue>>",
        extend("maxProperties" = 32, "x-kubernetes-validations" = [foreign_keys()])
    )]
    pub pod_annotations: Option<BTreeMap<String, String>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

fn foreign_keys() -> serde_json::Value {
    serde_json::json!({
        "rule": "self.all(key, !key.contains('kubernetes.io/') && !key.contains('k8s.io/') && !key.contains('epic.acnodal.io/'))",
        "message": "keys below kubernetes.io, k8s.io and epic.acnodal.io belong to Kubernetes and EPIC; choose other ones",
    })
}

/// What one proxy takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub struct ProxyResources {
    /// Memory that a proxy gets, and may use: request and limit are equal, so that it is never the first to be evicted.
    /// How many connections it takes follows from it. Absent: 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ProxyMemory>")]
    pub memory: Option<String>,
    /// CPU that is set aside for a proxy. Absent: 20m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ProxyCpu>")]
    pub cpu: Option<String>,
    /// CPU that a proxy may use. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::ProxyCpu>")]
    pub cpu_limit: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// A taint that proxies tolerate, spelled as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    inline,
    extend("x-kubernetes-validations" = [
        {"rule": "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''", "message": "a toleration with operator Exists has no value"},
        {"rule": "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')", "message": "tolerationSeconds needs effect NoExecute"}
    ])
)]
pub struct ProxyToleration {
    /// Key of the taint.
    #[schemars(with = "schema::LabelKey")]
    pub key: String,
    /// How the taint's value is compared. Absent: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::LabelValue>")]
    pub value: Option<String>,
    /// Effect of the taint. Absent: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For how long a proxy stays on a Node that gets such a taint. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub toleration_seconds: Option<i64>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    pub rest: Rest,
}

/// How a taint's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TolerationOperator {
    /// With the one given.
    Equal,
    /// Not at all.
    Exists,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TaintEffect {
    /// Keeps new ones away.
    NoSchedule,
    /// Keeps new ones away where others take them.
    PreferNoSchedule,
    /// Keeps new ones away and evicts those that run.
    NoExecute,
}

/// A text that is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of memory from 128Mi to 64Gi; write one such as 256Mi")]
pub struct MemoryError(String);

impl ProxySettings {
    /// Memory of a proxy where none is given.
    pub const DEFAULT_MEMORY: &'static str = "256Mi";
    /// CPU that is set aside for a proxy where none is given.
    pub const DEFAULT_CPU: &'static str = "20m";
    /// Worker threads where none are given.
    pub const DEFAULT_CONCURRENCY: u32 = 2;
    /// Least and most memory of a proxy, in bytes.
    const MEMORY: std::ops::RangeInclusive<u64> = 128 << 20..=64 << 30;

    /// These settings where they say something, and `below` where they do not.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let (above, under) = (self.clone(), below.clone());
        let resources = match (above.resources, under.resources) {
            (Some(above), Some(under)) => Some(ProxyResources {
                memory: above.memory.or(under.memory),
                cpu: above.cpu.or(under.cpu),
                cpu_limit: above.cpu_limit.or(under.cpu_limit),
                rest: above.rest,
            }),
            (above, under) => above.or(under),
        };
        Self {
            node_selector: above.node_selector.or(under.node_selector),
            tolerations: above.tolerations.or(under.tolerations),
            resources,
            concurrency: above.concurrency.or(under.concurrency),
            priority_class_name: above.priority_class_name.or(under.priority_class_name),
            image_pull_secrets: above.image_pull_secrets.or(under.image_pull_secrets),
            pod_labels: above.pod_labels.or(under.pod_labels),
            pod_annotations: above.pod_annotations.or(under.pod_annotations),
            rest: above.rest,
        }
    }

    /// Memory of a proxy, as a quantity of Kubernetes.
    pub fn memory(&self) -> &str {
        let memory = self.resources.as_ref().and_then(|resources| resources.memory.as_deref());
        memory.unwrap_or(Self::DEFAULT_MEMORY)
    }

    /// The same in bytes.
    ///
    /// # Errors
    /// [`MemoryError`] for a text that the schema keeps out.
    pub fn memory_bytes(&self) -> Result<u64, MemoryError> {
        let text = self.memory();
        let wrong = || MemoryError(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(unit).ok_or_else(wrong)?;
        if Self::MEMORY.contains(&bytes) { Ok(bytes) } else { Err(wrong()) }
    }

    /// CPU that is set aside for a proxy.
    pub fn cpu(&self) -> &str {
        let cpu = self.resources.as_ref().and_then(|resources| resources.cpu.as_deref());
        cpu.unwrap_or(Self::DEFAULT_CPU)
    }

    /// CPU that a proxy may use at most.
    pub fn cpu_limit(&self) -> Option<&str> {
        self.resources.as_ref()?.cpu_limit.as_deref()
    }

    /// Worker threads.
    pub fn concurrency(&self) -> u32 {
        self.concurrency.and_then(|count| u32::try_from(count).ok()).unwrap_or(Self::DEFAULT_CONCURRENCY)
    }

    /// Names of the Secrets that images are pulled with.
    pub fn image_pull_secrets(&self) -> &[String] {
        self.image_pull_secrets.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> ProxySettings {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_upper_layer_wins_field_by_field() {
        let epic = settings(serde_json::json!({
            "node-selector": {"edge": "true"}, "concurrency": 4, "image-pull-secrets": ["mirror"],
            "resources": {"memory": "1Gi", "cpu-limit": "2"},
        }));
        let group = settings(serde_json::json!({
            "node-selector": {}, "resources": {"memory": "512Mi"}, "pod-labels": {"team": "a"},
        }));
        let both = group.over(&epic);
        assert_eq!(both.node_selector, Some(BTreeMap::new()), "an empty selector is one");
        assert_eq!((both.memory(), both.cpu(), both.cpu_limit()), ("512Mi", "20m", Some("2")));
        assert_eq!((both.concurrency(), both.image_pull_secrets()), (4, &["mirror".to_owned()][..]));
        assert_eq!(both.pod_labels, group.pod_labels);
        assert_eq!(ProxySettings::default().over(&epic), epic);
    }

    #[test]
    fn memory_is_read_as_kubernetes_reads_it_and_within_bounds() {
        let bytes = |text: &str| settings(serde_json::json!({"resources": {"memory": text}})).memory_bytes();
        assert_eq!(bytes("256Mi"), Ok(256 << 20));
        assert_eq!(bytes("1G"), Ok(1_000_000_000));
        assert_eq!(bytes("134217728"), Ok(128 << 20));
        for wrong in ["127Mi", "65Gi", "1.5Gi", "256", "Mi", "", "99999999999999999999Gi", "1Ti"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ProxySettings::default().memory_bytes(), Ok(256 << 20));
    }
}
