//! The objects of a LoadBalancer's proxies.

use std::net::IpAddr;
use std::time::Duration;

use epic_crds::ProxySettings;
use epic_crds::well_known::{API_VERSION, LABEL_ACCOUNT, LABEL_LOAD_BALANCER, POD_CONDITION_PROGRAMMED};
use epic_xds::bootstrap::{Bootstrap, DRAIN_HEADER, Level, OPS_PORT, Sizes, drain_path};
use serde_json::{Value, json};

use super::placement::{self, PullPolicy};

/// Name of the one container.
pub const CONTAINER: &str = "envoy";

/// How long a new pod must be Ready before an old one goes: longer than a change takes to reach every node.
pub const MIN_READY_SECONDS: i64 = epic_model::proxy::PROPAGATION_SECONDS;

/// What decides how a LoadBalancer's proxies run.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxies {
    /// Namespace of the LoadBalancer.
    pub namespace: String,
    /// Name of the LoadBalancer.
    pub load_balancer: String,
    /// Its uid: the objects belong to this one, not to a successor of the same name.
    pub uid: String,
    /// Account of the namespace.
    pub account: String,
    /// Name of the objects, [`epic_model::name::child`].
    pub name: String,
    /// Secret with the xDS client certificate.
    pub certificate: String,
    /// Image of Envoy.
    pub image: String,
    /// When the kubelet pulls it.
    pub pull_policy: PullPolicy,
    /// Where the pods run, and with what: all layers taken together.
    pub settings: ProxySettings,
    /// Another text has the pods made anew.
    pub restarted_at: Option<String>,
    /// Number of pods.
    pub replicas: u32,
    /// How long a pod that is to end keeps the flows it has.
    pub drain: Duration,
    /// How much they count.
    pub metrics: Level,
    /// ClusterIP of the xDS Service.
    pub xds_address: IpAddr,
}

/// What is applied, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The bootstrap and its SDS files.
    pub config_map: Value,
    /// Keeps a drain of a node from taking all proxies at once.
    pub disruption_budget: Value,
    /// The pods.
    pub deployment: Value,
}

/// The objects for `proxies`.
pub fn objects(proxies: &Proxies) -> Objects {
    let bootstrap = Bootstrap::new(
        "$(POD_NAMESPACE)/$(POD_NAME)",
        format!("{}/{}", proxies.namespace, proxies.load_balancer),
        proxies.xds_address,
    )
    .sized(Sizes {
        memory: placement::memory(&proxies.settings),
        concurrency: proxies.settings.concurrency(),
    })
    .counting(proxies.metrics);
    let files = bootstrap.files();
    let content: serde_json::Map<String, Value> =
        files.entries().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
    let version = epic_model::name::short_hash(&[&files.bootstrap, &files.certificate, &files.authority]);
    Objects {
        config_map: json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(proxies),
            "data": content,
        }),
        disruption_budget: json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(proxies),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": labels(proxies)},
                // A proxy that never became Ready must not keep its node from being drained.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }),
        deployment: json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(proxies),
            "spec": {
                "replicas": proxies.replicas,
                "revisionHistoryLimit": 2,
                "minReadySeconds": MIN_READY_SECONDS,
                "selector": {"matchLabels": labels(proxies)},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {
                        "labels": placement::labels(&proxies.settings, labels(proxies)),
                        // A mounted ConfigMap changes under a running Envoy, which reads it only at start.
                        "annotations": placement::annotations(
                            &proxies.settings,
                            &version,
                            proxies.restarted_at.as_deref(),
                        ),
                    },
                    "spec": pod(proxies, &bootstrap),
                },
            },
        }),
    }
}

fn labels(proxies: &Proxies) -> Value {
    json!({LABEL_ACCOUNT: proxies.account, LABEL_LOAD_BALANCER: proxies.name})
}

fn metadata(proxies: &Proxies) -> Value {
    json!({
        "name": proxies.name,
        "namespace": proxies.namespace,
        "labels": labels(proxies),
        "ownerReferences": [{
            "apiVersion": API_VERSION,
            "kind": "LoadBalancer",
            "name": proxies.load_balancer,
            "uid": proxies.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

fn pod(proxies: &Proxies, bootstrap: &Bootstrap) -> Value {
    let drain = epic_model::proxy::drain(i64::try_from(proxies.drain.as_secs()).unwrap_or(i64::MAX));
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // A proxy needs no names: its one static address is the ClusterIP of the xDS Service.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "readinessGates": [{"conditionType": POD_CONDITION_PROGRAMMED}],
        "terminationGracePeriodSeconds": drain.grace_period,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
            // Outgoing connections stay above the listener ports, which would otherwise fail to bind.
            "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "16384 65535"}],
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels(proxies)},
        }],
        "containers": [{
            "name": CONTAINER,
            "image": proxies.image,
            "imagePullPolicy": proxies.pull_policy.as_str(),
            "command": ["envoy"],
            "args": bootstrap.args(),
            "env": [
                {"name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace")},
                {"name": "POD_NAME", "valueFrom": field("metadata.name")},
            ],
            "ports": [{"name": "ops", "containerPort": OPS_PORT, "protocol": "TCP"}],
            "readinessProbe": {
                "httpGet": {"path": "/healthz", "port": "ops"},
                "periodSeconds": 1,
                // One that waits for its CPU is not broken: its load would move to a sibling on the same node.
                "timeoutSeconds": 3,
                "failureThreshold": 3,
            },
            // SIGTERM cuts every connection at once; until then the pod serves the flows it has. Envoy answers when none
            // is left. A kubelet that sleeps instead cannot be woken, not even by another deletion with a shorter grace.
            "lifecycle": {"preStop": {"httpGet": {
                "path": drain_path(drain.pre_stop),
                "port": "ops",
                "httpHeaders": [{"name": DRAIN_HEADER, "value": (drain.pre_stop * 1000).to_string()}],
            }}},
            "resources": placement::resources(&proxies.settings),
            // What Envoy says of a bootstrap that it refuses is in its log.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [
                {"name": "config", "mountPath": bootstrap.paths.config, "readOnly": true},
                {"name": "xds-tls", "mountPath": bootstrap.paths.tls, "readOnly": true},
                {"name": "run", "mountPath": bootstrap.paths.run},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": proxies.name}},
            // Group-readable: the process is not root.
            {"name": "xds-tls", "secret": {"secretName": proxies.certificate, "defaultMode": 288}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    });
    placement::place(&mut pod, &proxies.settings);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::namespace::{self, Tenant};
    use crate::tenant::network;
    use k8s_openapi::api::apps::v1::Deployment;

    fn proxies() -> Proxies {
        Proxies {
            namespace: "epic-red".into(),
            load_balancer: "web".into(),
            uid: "3f0e".into(),
            account: "red".into(),
            name: "epic-web-0123456789abcdef".into(),
            certificate: "epic-web-0123456789abcdef".into(),
            image: "epic/envoy:dev".into(),
            pull_policy: PullPolicy::IfNotPresent,
            settings: ProxySettings::default(),
            restarted_at: None,
            replicas: 2,
            drain: Duration::from_secs(300),
            metrics: Level::Basic,
            xds_address: [10, 96, 0, 17].into(),
        }
    }

    /// `hack/chart test` enforces the policy, as it stands in this file, with pods of these labels.
    #[test]
    fn what_a_network_policy_sees_of_a_tenant_is_written_down() {
        let tenant = Tenant {
            account: "red".into(),
            namespace: "epic-red".into(),
            subjects: Vec::new(),
            system: "epic".into(),
            created: None,
        };
        let deployment = objects(&proxies()).deployment;
        let template = &deployment["spec"]["template"];
        let container = &template["spec"]["containers"][0];
        let seen = json!({"apiVersion": "v1", "kind": "List", "items": [
            namespace::namespace(&tenant, None),
            network::policy(&tenant),
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": deployment["metadata"]["name"], "namespace": deployment["metadata"]["namespace"]},
                "spec": {"template": {
                    "metadata": {"labels": template["metadata"]["labels"]},
                    "spec": {"containers": [{"name": container["name"], "ports": container["ports"]}]},
                }},
            },
        ]});
        let written: Value = serde_json::from_str(include_str!("../tenant/network.golden.json")).unwrap();
        assert!(
            written == seen,
            "operator/controllers/src/tenant/network.golden.json is to be:\n{}",
            serde_json::to_string_pretty(&seen).unwrap()
        );
    }

    #[test]
    fn the_pod_ends_after_its_drain_and_not_before() {
        let deployment: Deployment = serde_json::from_value(objects(&proxies()).deployment).unwrap();
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        let asked = pod.containers[0].lifecycle.clone().unwrap().pre_stop.unwrap().http_get.unwrap();
        assert_eq!(asked.path.as_deref(), Some("/drain?seconds=300"));
        assert_eq!(asked.http_headers.unwrap()[0].value, "300000", "held as long when Envoy cannot tell");
        assert!(asked.host.is_none(), "the level restricted forbids another host");
        assert!(pod.termination_grace_period_seconds.unwrap() > 300);
    }

    #[test]
    fn the_pod_has_no_token_and_no_privileges() {
        let deployment: Deployment = serde_json::from_value(objects(&proxies()).deployment).unwrap();
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert!(pod.host_network.is_none());
        let context = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    }

    #[test]
    fn equal_inputs_give_equal_objects_and_another_uid_another_owner() {
        assert_eq!(objects(&proxies()), objects(&proxies()));
        let successor = Proxies { uid: "4a11".into(), ..proxies() };
        assert_ne!(objects(&proxies()).deployment, objects(&successor).deployment);
    }
}
