//! A pod in a tenant's namespace that no LoadBalancer lists.

use epic_e2e::lab::{Lab, is_true};
use serde_json::{Value, json};

const NAMESPACE: &str = "epic-sample";
const NAME: &str = "stranger";
const PATH: &str = "/api/v1/namespaces/epic-sample/pods/stranger";

/// An Envoy that answers a probe where proxies do, and tries without end to reach the kubelet of its node.
fn pod(node: &str, address: &str) -> Value {
    let config = json!({
        "admin": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 9901}}},
        "static_resources": {"clusters": [{
            "name": "kubelet", "type": "STATIC", "connect_timeout": "0.5s",
            "health_checks": [{
                "timeout": "0.5s", "interval": "0.5s", "unhealthy_threshold": 1, "healthy_threshold": 1,
                // Nothing is sent to it but this; Envoy would ask once a minute.
                "no_traffic_interval": "0.5s",
                "tcp_health_check": {},
            }],
            "load_assignment": {"cluster_name": "kubelet", "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": address, "port_value": 10250}},
            }}]}]},
        }]},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        // Like a proxy's, for what labels are worth.
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"epic.acnodal.io/load-balancer": NAME}},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65_532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "envoy", "image": "epic/envoy:dev", "imagePullPolicy": "Never",
                "args": ["--concurrency", "1", "--config-yaml", config.to_string()],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 9901}, "periodSeconds": 1},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

pub(crate) fn a_pod_that_nobody_lists_answers_its_probes_and_reaches_nothing(lab: &Lab) {
    let node = "node1";
    let internal = lab.get(&format!("/api/v1/nodes/{node}"))["status"]["addresses"]
        .as_array()
        .and_then(|all| {
            all.iter().find(|a| a["type"] == "InternalIP")?["address"].as_str().map(str::to_owned)
        })
        .expect("the node's address");
    let label = "reason=\"not_listed\"";
    let file = lab.folder().join("stranger.json");
    std::fs::write(&file, pod(node, &internal).to_string()).expect("the lab's folder is writable");
    // Only controllers of Kubernetes and the operator may make pods in a tenant's namespace.
    let path = file.display().to_string();
    lab.stage(&["kubectl", "--as=system:serviceaccount:kube-system:job-controller", "create", "-f", &path]);
    lab.until("the pod is ready", || {
        let object = lab.get(PATH);
        if is_true(&object, "Ready") { Ok(()) } else { Err(object["status"].to_string()) }
    });
    // What it sends once the fence is there; until the API shows its address it may have reached the kubelet.
    let before = lab.counter(node, "epic_drops_total", label);
    lab.until("its attempts are counted", || {
        let now = lab.counter(node, "epic_drops_total", label);
        if now > before + 3 { Ok(()) } else { Err(now - before) }
    });
    lab.delete(PATH);
    std::fs::remove_file(&file).expect("the lab's folder is writable");
    lab.until("the pod is gone", || {
        lab.find(PATH).map_or(Ok(()), |object| Err(object["status"].to_string()))
    });
}
