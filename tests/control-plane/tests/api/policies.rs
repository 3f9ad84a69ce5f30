//! The admission policies: what each must refuse, and what it must let through.
//!
//! Where a role alone would already refuse, the test first grants the right, so that it is the policy that speaks.

use epic_control_plane::{Answer, Identity, Request, eventually, token};
use epic_crds::well_known::{
    ANNOTATION_POLICY_PROBE, ANNOTATION_PROXY_VERSION, LABEL_NODE, POD_CONDITION_CONFIGURED,
    POD_CONDITION_PROGRAMMED, policy,
};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{admin, client, endpoint, load_balancer, namespace, object};

/// Grants everything on these resources of a group in one namespace to a ServiceAccount of namespace `epic`.
async fn grant(namespace: &str, service_account: &str, group: &str, resources: &[&str]) {
    let admin = admin().await;
    let name = format!("test-{service_account}-{}", resources.join("-").replace('/', "-"));
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": name, "namespace": namespace },
        "rules": [{ "apiGroups": [group], "resources": resources, "verbs": ["*"] }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": name, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": service_account, "namespace": "epic" }],
    });
    Request::apply(&role).send(&admin).await.expect_ok();
    Request::apply(&binding).send(&admin).await.expect_ok();
}

fn pod_template() -> Value {
    json!({
        "metadata": { "labels": { "app": "proxy" } },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{ "name": "envoy", "image": "epic/envoy:dev" }],
        },
    })
}

fn deployment(namespace: &str, name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "proxy" } },
            "template": pod_template(),
        },
    })
}

fn pod(namespace: &str, name: &str) -> Value {
    let mut pod = pod_template();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"] = json!({ "name": name, "namespace": namespace });
    pod
}

/// Waits until the API server sees the namespace's label, so that a namespaceSelector matches it.
async fn tenant_namespace(name: &str) {
    namespace(name, true).await;
    let operator = client(Identity::operator()).await;
    let mut probe = deployment(name, "probe", 1);
    probe["metadata"]["annotations"] = json!({ ANNOTATION_POLICY_PROBE: "1" });
    eventually("the policies acting in the namespace", || async {
        let answer = Request::create(&probe).dry_run().send(&operator).await;
        answer.message().contains(policy::TENANT_WORKLOADS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn workloads_in_a_tenant_namespace_are_the_operators() {
    tenant_namespace("epic-workloads").await;
    namespace("workloads", false).await;
    let admin = admin().await;
    let operator = client(Identity::operator()).await;
    let job = |namespace: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "j", "namespace": namespace },
            "spec": { "template": { "spec": {
                "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }],
            } } },
        })
    };
    let of_kind = |kind: &str, namespace: &str| {
        let mut object = deployment(namespace, "w", 1);
        object["kind"] = json!(kind);
        if kind != "ReplicaSet" {
            object["spec"]["serviceName"] = json!("w");
        }
        if kind == "DaemonSet" {
            object["spec"].as_object_mut().unwrap().retain(|key, _| key == "selector" || key == "template");
        }
        object
    };
    let all = |namespace: &str| {
        vec![
            pod(namespace, "p"),
            deployment(namespace, "d", 1),
            of_kind("ReplicaSet", namespace),
            of_kind("StatefulSet", namespace),
            of_kind("DaemonSet", namespace),
            job(namespace),
        ]
    };
    for workload in all("epic-workloads") {
        let answer = Request::create(&workload).dry_run().send(&admin).await;
        let message = answer.expect_refused(policy::TENANT_WORKLOADS);
        assert!(message.contains("epicctl restart"), "it says what to do instead: {message}");
    }
    // Elsewhere EPIC has no say.
    for workload in all("workloads") {
        Request::create(&workload).dry_run().send(&admin).await.expect_ok();
    }
    // The operator makes a Deployment, and the built-in controllers its ReplicaSet and its pod.
    let proxies = deployment("epic-workloads", "proxies", 1);
    Request::create(&proxies).send(&operator).await.expect_ok();
    let pod = first_pod("epic-workloads").await;
    let path = Request::path_of(&proxies);
    let scale = json!({ "spec": { "replicas": 2 } });
    let refused = Request::merge(&path, &scale).send(&admin).await;
    refused.expect_refused(policy::TENANT_WORKLOADS);
    let refused = Request::merge(&format!("{path}/scale"), &scale).send(&admin).await;
    refused.expect_refused(policy::TENANT_WORKLOADS);
    let label = json!({ "metadata": { "labels": { "epic.acnodal.io/load-balancer": "forged" } } });
    Request::merge(&pod, &label).send(&admin).await.expect_refused(policy::TENANT_WORKLOADS);
    let container = json!({ "spec": { "ephemeralContainers": [{ "name": "shell", "image": "i" }] } });
    let refused = Request::strategic(&format!("{pod}/ephemeralcontainers"), &container).send(&admin).await;
    refused.expect_refused(policy::TENANT_WORKLOADS);
    // Deleting and evicting is not making: a node can be drained.
    Request::delete(&pod).dry_run().send(&admin).await.expect_ok();
    let (_, name) = pod.rsplit_once('/').unwrap();
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": { "name": name, "namespace": "epic-workloads" },
    });
    Request::post(&format!("{pod}/eviction"), &eviction).dry_run().send(&admin).await.expect_ok();
    Request::merge(&path, &scale).send(&operator).await.expect_ok();
    Request::delete(&path).send(&operator).await.expect_ok();
}

#[tokio::test]
async fn both_names_of_the_built_in_controllers_are_let_through() {
    tenant_namespace("epic-builtin").await;
    let replica_sets = Identity::service_account("kube-system", "replicaset-controller");
    let answer = Request::create(&pod("epic-builtin", "p")).dry_run().send(&client(replica_sets).await).await;
    answer.expect_ok();
    // Without --use-service-account-credentials all controllers are this one user; it has no such right here.
    grant_user("epic-builtin", "system:kube-controller-manager").await;
    let manager = client(Identity::user("system:kube-controller-manager")).await;
    Request::create(&pod("epic-builtin", "p")).dry_run().send(&manager).await.expect_ok();
    grant_user("epic-builtin", "system:kube-controller-manager-of-mine").await;
    let other = client(Identity::user("system:kube-controller-manager-of-mine")).await;
    let answer = Request::create(&pod("epic-builtin", "p")).dry_run().send(&other).await;
    answer.expect_refused(policy::TENANT_WORKLOADS);
}

async fn grant_user(namespace: &str, user: &str) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": user.replace(':', "-"), "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
    });
    Request::apply(&binding).send(&admin().await).await.expect_ok();
}

/// Path of the first pod of a namespace, once there is one.
async fn first_pod(namespace: &str) -> String {
    let admin = admin().await;
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    eventually("a pod", || async {
        let pods = Request::get(&list).send(&admin).await.expect_ok();
        pods["items"][0]["metadata"]["name"].as_str().map(|name| format!("{list}/{name}"))
    })
    .await
}

/// Two nodes, a proxy pod on each, a pod that is no tenant's on the first, and the token of the first node's agent.
struct Nodes {
    token: String,
    own: String,
    foreign: String,
    elsewhere: String,
}

static NODES: OnceCell<Nodes> = OnceCell::const_new();

async fn nodes() -> &'static Nodes {
    NODES
        .get_or_init(|| async {
            let admin = admin().await;
            tenant_namespace("epic-nodes").await;
            namespace("nodes", false).await;
            for node in ["node-a", "node-b"] {
                let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
                Request::create(&node).send(&admin).await.expect_ok();
            }
            // The role says nothing about which pod and what of it; here it says nothing about verbs either.
            grant("epic-nodes", "epic-node", "", &["pods", "pods/exec", "pods/status"]).await;
            grant("nodes", "epic-node", "", &["pods", "pods/exec", "pods/status"]).await;
            let controller = client(Identity::service_account("kube-system", "replicaset-controller")).await;
            let mut paths = Vec::new();
            for (namespace, name, node) in [
                ("epic-nodes", "own", "node-a"),
                ("epic-nodes", "foreign", "node-b"),
                ("nodes", "elsewhere", "node-a"),
            ] {
                let mut pod = pod(namespace, name);
                pod["spec"]["nodeName"] = json!(node);
                pod["spec"]["serviceAccountName"] = json!("default");
                pod["metadata"]["annotations"] = json!({ "kept": "1" });
                eventually("the ServiceAccount that pods need", || async {
                    Request::create(&pod).send(&controller).await.is_ok().then_some(())
                })
                .await;
                let path = Request::path_of(&pod);
                let status = json!({ "status": {
                    "phase": "Running",
                    "podIP": "10.244.0.9",
                    "conditions": [{ "type": "PodScheduled", "status": "True" }],
                } });
                Request::strategic(&format!("{path}/status"), &status).send(&admin).await.expect_ok();
                paths.push(path);
            }
            let [own, foreign, elsewhere] = paths.try_into().expect("three pods");
            Nodes { token: agent_token("node-a").await, own, foreign, elsewhere }
        })
        .await
}

/// The token of an agent's pod on a node, as its kubelet would ask for it.
async fn agent_token(node: &str) -> String {
    let admin = admin().await;
    let mut agent = pod("epic", &format!("agent-{node}"));
    agent["spec"]["nodeName"] = json!(node);
    agent["spec"]["serviceAccountName"] = json!("epic-node");
    let agent = Request::create(&agent).send(&admin).await.expect_ok();
    let bound = json!({
        "apiVersion": "v1", "kind": "Pod",
        "name": agent["metadata"]["name"], "uid": agent["metadata"]["uid"],
    });
    token(&admin, "epic", "epic-node", Some(bound)).await.unwrap_or_else(|answer| panic!("{answer:?}"))
}

async fn agent() -> Client {
    client(Identity::Token(nodes().await.token.clone())).await
}

fn gate(status: &str) -> Value {
    json!({ "type": POD_CONDITION_PROGRAMMED, "status": status, "reason": "Programmed", "message": "boot" })
}

async fn patch_status(client: &Client, pod: &str, patch: &Value) -> Answer {
    Request::strategic(&format!("{pod}/status"), patch).send(client).await
}

#[tokio::test]
async fn the_operator_says_on_a_pod_what_its_proxy_answered_and_what_it_is() {
    let (operator, pod) = (client(Identity::operator()).await, &nodes().await.foreign);
    let acknowledged = json!({
        "type": POD_CONDITION_CONFIGURED, "status": "True", "reason": "Acknowledged", "message": "generation 1",
    });
    let version = json!({ "metadata": { "annotations": { ANNOTATION_PROXY_VERSION: "envoy 1.40.0" } } });
    let answer = json!({ "status": { "conditions": [acknowledged] } });
    patch_status(&operator, pod, &version).await.expect_ok();
    let pod = patch_status(&operator, pod, &answer).await.expect_ok();
    assert_eq!(pod["metadata"]["annotations"][ANNOTATION_PROXY_VERSION], "envoy 1.40.0");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|known| known["type"] == POD_CONDITION_CONFIGURED), "{conditions:?}");
}

#[tokio::test]
async fn a_node_agent_opens_the_gate_of_its_own_pods() {
    let (agent, own) = (agent().await, &nodes().await.own);
    let patch = json!({
        "metadata": { "annotations": { "epic.acnodal.io/ifindex": "7", "epic.acnodal.io/ifname": "veth7" } },
        "status": { "conditions": [gate("True")] },
    });
    let pod = patch_status(&agent, own, &patch).await.expect_ok();
    assert_eq!(pod["metadata"]["annotations"]["epic.acnodal.io/ifindex"], "7");
    assert_eq!(pod["metadata"]["annotations"]["kept"], "1");
    assert_eq!(pod["status"]["podIP"], "10.244.0.9");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == POD_CONDITION_PROGRAMMED));
    // It closes it again, and takes the annotations away.
    let patch = json!({
        "metadata": { "annotations": { "epic.acnodal.io/ifindex": null, "epic.acnodal.io/ifname": null } },
        "status": { "conditions": [gate("False")] },
    });
    patch_status(&agent, own, &patch).await.expect_ok();
}

#[tokio::test]
async fn a_node_agent_changes_nothing_else_of_its_own_pods() {
    let (agent, own) = (agent().await, &nodes().await.own);
    for (patch, because) in [
        (json!({ "status": { "phase": "Failed" } }), "nothing of a pod's status"),
        (
            json!({ "status": { "podIP": "10.244.0.66", "podIPs": [{ "$patch": "replace" }, { "ip": "10.244.0.66" }] } }),
            "nothing of a pod's status",
        ),
        (json!({ "status": { "startTime": "2026-01-01T00:00:00Z" } }), "nothing of a pod's status"),
        (
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }),
            "no condition of a pod",
        ),
        (
            json!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False" }] } }),
            "no condition of a pod",
        ),
        (
            json!({ "status": { "conditions": [{ "type": "epic.acnodal.io/configured", "status": "True" }] } }),
            "no condition of a pod",
        ),
        (
            json!({ "status": { "conditions": [{ "type": "PodScheduled", "$patch": "delete" }, gate("True")] } }),
            "no condition of a pod",
        ),
        (json!({ "metadata": { "labels": { "app": "other" } } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "finalizers": ["example.com/mine"] } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "annotations": { "other": "1" } } }), "no annotation of a pod"),
        (json!({ "metadata": { "annotations": { "kept": "2" } } }), "no annotation of a pod"),
        (json!({ "metadata": { "annotations": { "kept": null } } }), "no annotation of a pod"),
    ] {
        let message = patch_status(&agent, own, &patch).await.expect_refused(because);
        assert!(message.contains(policy::NODE_PODS), "{message}");
    }
}

#[tokio::test]
async fn a_node_agent_has_no_say_over_other_pods() {
    let (agent, nodes) = (agent().await, nodes().await);
    let patch = json!({ "status": { "conditions": [gate("True")] } });
    patch_status(&agent, &nodes.foreign, &patch).await.expect_refused("its own node only");
    patch_status(&agent, &nodes.elsewhere, &patch).await.expect_refused("in tenant namespaces only");
    // A token that is bound to no node is no node's.
    let unbound = client(Identity::unbound_node_agent()).await;
    patch_status(&unbound, &nodes.own, &patch).await.expect_refused("its own node only");
}

#[tokio::test]
async fn a_node_agent_uses_no_other_verb_on_pods() {
    let (agent, nodes) = (agent().await, nodes().await);
    let annotation = json!({ "metadata": { "annotations": { "epic.acnodal.io/ifindex": "7" } } });
    let because = "but its status subresource";
    Request::merge(&nodes.elsewhere, &annotation).send(&agent).await.expect_refused(because);
    Request::delete(&nodes.own).send(&agent).await.expect_refused(because);
    Request::create(&pod("nodes", "made")).send(&agent).await.expect_refused(because);
    let exec = format!("{}/exec?command=sh&stdout=true", nodes.own);
    Request::post(&exec, &json!({})).send(&agent).await.expect_refused(because);
}

fn epic_node(name: &str) -> Value {
    json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode",
        "metadata": { "name": name, "namespace": "epic" },
    })
}

fn lease(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "holderIdentity": "agent", "leaseDurationSeconds": 40 },
    })
}

#[tokio::test]
async fn a_node_agent_writes_its_own_report_and_lease() {
    let admin = admin().await;
    let agent = agent().await;
    let node = Request::get("/api/v1/nodes/node-a").send(&admin).await.expect_ok();
    let mut own = epic_node("node-a");
    own["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": node["metadata"]["uid"],
    }]);
    Request::create(&own).send(&agent).await.expect_ok();
    let status = json!({ "status": { "kernel": "6.18.0", "addresses": ["192.168.77.101"] } });
    let path = Request::path_of(&own);
    Request::merge(&format!("{path}/status"), &status).send(&agent).await.expect_ok();
    Request::apply(&lease("epic", "epic-node-node-a")).send(&agent).await.expect_ok();
    let renew = json!({ "spec": { "renewTime": "2026-01-01T00:00:00.000000Z" } });
    let path = Request::path_of(&lease("epic", "epic-node-node-a"));
    Request::merge(&path, &renew).send(&agent).await.expect_ok();
}

#[tokio::test]
async fn a_node_agent_writes_no_others_report_or_lease() {
    let admin = admin().await;
    let agent = agent().await;
    let own = "its own EPICNode and its own Lease only";
    Request::create(&epic_node("node-b")).send(&agent).await.expect_refused(own);
    Request::apply(&epic_node("node-b")).send(&admin).await.expect_ok();
    let status = json!({ "status": { "kernel": "0" } });
    let path = Request::path_of(&epic_node("node-b"));
    Request::merge(&path, &json!({ "metadata": { "labels": { "a": "b" } } }))
        .send(&agent)
        .await
        .expect_refused(own);
    Request::merge(&format!("{path}/status"), &status).send(&agent).await.expect_refused(own);
    for name in ["epic-operator", "epic-node-node-b", "node-a"] {
        Request::create(&lease("epic", name)).send(&agent).await.expect_refused(own);
    }
    // Not bound to a node: not even what bears an empty name.
    let unbound = client(Identity::unbound_node_agent()).await;
    for name in ["epic-node-node-a", "epic-node-"] {
        let answer = Request::create(&lease("epic", name)).send(&unbound).await;
        assert!(!answer.is_ok());
    }
    let mut owned = epic_node("node-a");
    owned["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "node-a", "uid": "u" }]);
    Request::create(&owned).dry_run().send(&agent).await.expect_refused("belongs to its Node");
}

#[tokio::test]
async fn a_node_agent_writes_nothing_else_of_epics() {
    let admin = admin().await;
    let agent = agent().await;
    let group = "epic.acnodal.io";
    grant("epic-nodes", "epic-node", group, &["loadbalancers", "loadbalancers/status"]).await;
    grant("epic", "epic-node", group, &["epicnodes", "addressclaims"]).await;
    grant("epic-nodes", "epic-node", "coordination.k8s.io", &["leases"]).await;
    let balancer = load_balancer("epic-nodes", "l");
    Request::create(&balancer).send(&admin).await.expect_ok();
    let path = Request::path_of(&balancer);
    let because = "no object of EPIC's but its EPICNode";
    let status = json!({ "status": { "service-id": 9 } });
    eventually("the grant acting", || async {
        let answer = Request::merge(&format!("{path}/status"), &status).send(&agent).await;
        assert!(!answer.is_ok());
        answer.message().contains(because).then_some(())
    })
    .await;
    Request::delete(&path).send(&agent).await.expect_refused(because);
    Request::create(&lease("epic-nodes", "epic-node-node-a"))
        .send(&agent)
        .await
        .expect_refused("in namespace epic");
    Request::apply(&epic_node("node-b")).send(&admin).await.expect_ok();
    let other = Request::path_of(&epic_node("node-b"));
    Request::delete(&other).send(&agent).await.expect_refused("its own EPICNode");
}

#[tokio::test]
async fn objects_lie_where_their_kind_belongs() {
    let _singleton = crate::rules::SINGLETON.lock().await;
    let admin = admin().await;
    for name in ["epic-placed", "epic-x", "placed"] {
        namespace(name, false).await;
    }
    let owner = json!({
        "kind": "LoadBalancer", "namespace": "epic-a", "name": "l", "uid": "u", "resource-version": "1",
    });
    let claim = json!({ "address": "192.0.2.1", "pool": "p", "owner": owner });
    let pool = json!({ "addresses": ["192.0.2.0/24"] });
    let at = |kind: &str, namespace: &str, name: &str| {
        let spec = match kind {
            "AddressClaim" => claim.clone(),
            "AddressPool" => pool.clone(),
            "LoadBalancer" => load_balancer(namespace, name)["spec"].clone(),
            "Endpoint" => endpoint(namespace, name)["spec"].clone(),
            _ => json!({}),
        };
        let mut object = object(kind, namespace, name, spec);
        if kind == "EPICNode" {
            object.as_object_mut().unwrap().remove("spec");
        }
        object
    };
    for (kind, name, allowed, denied) in [
        ("EPIC", "epic", &["epic"][..], &["default", "epic-placed"][..]),
        ("EPICNode", "n", &["epic"], &["default", "epic-placed"]),
        ("AddressPool", "p", &["epic"], &["default", "epic-placed"]),
        ("AddressClaim", "192.0.2.1", &["epic"], &["default", "epic-placed"]),
        ("Account", "x", &["epic", "epic-x"], &["default", "epic-placed"]),
        ("ServiceGroup", "g", &["epic", "epic-placed"], &["default", "placed"]),
        ("LoadBalancer", "l", &["epic-placed"], &["default", "epic", "placed"]),
        ("Endpoint", "e", &["epic-placed"], &["default", "epic", "placed"]),
    ] {
        for namespace in allowed {
            Request::create(&at(kind, namespace, name)).dry_run().send(&admin).await.expect_ok();
        }
        for namespace in denied {
            let answer = Request::create(&at(kind, namespace, name)).dry_run().send(&admin).await;
            answer.expect_refused(policy::PLACEMENT);
        }
    }
}

#[tokio::test]
async fn a_private_group_names_no_image() {
    namespace("epic-private", true).await;
    let admin = admin().await;
    let image = json!({ "envoy-image": "example.com/mine" });
    Request::create(&object("ServiceGroup", "epic", "imaged", image.clone()))
        .dry_run()
        .send(&admin)
        .await
        .expect_ok();
    let private = object("ServiceGroup", "epic-private", "g", json!({}));
    let with_image = object("ServiceGroup", "epic-private", "g", image.clone());
    Request::create(&with_image).dry_run().send(&admin).await.expect_refused(policy::PRIVATE_GROUPS);
    Request::create(&private).send(&admin).await.expect_ok();
    let path = Request::path_of(&private);
    Request::merge(&path, &json!({ "spec": image }))
        .send(&admin)
        .await
        .expect_refused(policy::PRIVATE_GROUPS);
    Request::merge(&path, &json!({ "spec": { "envoy-replicas": 1 } })).send(&admin).await.expect_ok();
}

#[tokio::test]
async fn a_private_group_says_nothing_of_proxies() {
    namespace("epic-private-proxies", true).await;
    let admin = admin().await;
    let proxies = json!({ "proxies": { "node-selector": { "edge": "true" } } });
    let of = |namespace: &str| object("ServiceGroup", namespace, "placed", proxies.clone());
    Request::create(&of("epic")).dry_run().send(&admin).await.expect_ok();
    let refused = Request::create(&of("epic-private-proxies")).dry_run().send(&admin).await;
    refused.expect_refused(policy::PRIVATE_GROUPS);
}

#[tokio::test]
async fn the_label_of_epic_nodes_is_the_operators_and_nothing_else_of_a_node_is() {
    let (admin, operator) = (admin().await, client(Identity::operator()).await);
    let label = |value: Value| json!({ "metadata": { "labels": { LABEL_NODE: value } } });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "labelled", "labels": { "kept": "1" } } });
    let mut born_with = node.clone();
    born_with["metadata"]["labels"][LABEL_NODE] = json!("");
    Request::create(&born_with).dry_run().send(&admin).await.expect_refused(policy::NODE_LABEL);
    Request::create(&node).send(&admin).await.expect_ok();
    let path = Request::path_of(&node);
    // Its kubelet may write labels with its status.
    let kubelet =
        Identity::User { name: "system:node:labelled".to_owned(), groups: vec!["system:nodes".to_owned()] };
    let kubelet = client(kubelet).await;
    let status = format!("{path}/status");
    for (who, what, at) in [(&admin, "an administrator", &path), (&kubelet, "its kubelet", &status)] {
        let message =
            Request::merge(at, &label(json!(""))).send(who).await.expect_refused(policy::NODE_LABEL);
        assert!(message.contains("nodeSelector"), "{what}: {message}");
        Request::merge(at, &json!({ "metadata": { "labels": { "other": what.replace(' ', "-") } } }))
            .send(who)
            .await
            .expect_ok();
    }
    Request::merge(&path, &label(json!(""))).send(&operator).await.expect_ok();
    Request::merge(&path, &label(Value::Null)).send(&admin).await.expect_refused(policy::NODE_LABEL);
    for patch in [
        json!({ "metadata": { "labels": { "kept": "2" } } }),
        json!({ "metadata": { "labels": { "kept": null } } }),
        json!({ "metadata": { "annotations": { "mine": "1" } } }),
        json!({ "spec": { "unschedulable": true } }),
    ] {
        Request::merge(&path, &patch).send(&operator).await.expect_refused(policy::NODE_LABEL);
    }
    Request::merge(&path, &label(Value::Null)).send(&operator).await.expect_ok();
}

#[tokio::test]
async fn finalizers_are_the_operators() {
    namespace("epic-final", true).await;
    let admin = admin().await;
    let operator = client(Identity::operator()).await;
    let tenant = tenant_of("epic-final").await;
    let ours = json!({ "metadata": { "finalizers": ["epic.acnodal.io/finalizer"] } });
    let foreign = json!({ "metadata": { "finalizers": ["example.com/mine"] } });
    let none = json!({ "metadata": { "finalizers": null } });
    let balancer = load_balancer("epic-final", "l");
    let path = Request::path_of(&balancer);

    let mut finalized = load_balancer("epic-final", "born-with");
    finalized["metadata"]["finalizers"] = json!(["example.com/mine"]);
    Request::create(&finalized).send(&tenant).await.expect_refused(policy::FINALIZERS);
    Request::create(&balancer).send(&tenant).await.expect_ok();
    Request::merge(&path, &foreign).send(&tenant).await.expect_refused(policy::FINALIZERS);
    Request::merge(&path, &ours).send(&tenant).await.expect_refused(policy::FINALIZERS);
    Request::merge(&path, &ours).send(&operator).await.expect_ok();
    Request::merge(&path, &none).send(&tenant).await.expect_refused(policy::FINALIZERS);
    // What leaves them alone goes through.
    Request::merge(&path, &json!({ "spec": { "display-name": "Mine" } })).send(&tenant).await.expect_ok();
    Request::merge(&path, &none).send(&operator).await.expect_ok();
    // An administrator can repair what an operator left behind.
    Request::merge(&path, &ours).send(&admin).await.expect_ok();
    Request::merge(&path, &none).send(&admin).await.expect_ok();
    // A deletion in the foreground is finished by the garbage collector, which takes its own finalizer away.
    Request::delete(&format!("{path}?propagationPolicy=Foreground")).send(&tenant).await.expect_ok();
    let collector = client(Identity::service_account("kube-system", "generic-garbage-collector")).await;
    // The real one may have been first.
    let answer = Request::merge(&path, &none).send(&collector).await;
    assert!(answer.is_ok() || answer.code == 404, "{}", answer.message());
    assert_eq!(Request::get(&path).send(&admin).await.code, 404);
}

#[tokio::test]
async fn a_load_balancer_leaves_no_orphans() {
    namespace("epic-orphans", true).await;
    let (admin, tenant) = (admin().await, tenant_of("epic-orphans").await);
    let balancer = load_balancer("epic-orphans", "l");
    let path = Request::path_of(&balancer);
    let (all, _) = path.rsplit_once('/').unwrap();
    Request::create(&balancer).send(&tenant).await.expect_ok();
    for client in [&tenant, &admin] {
        for option in ["propagationPolicy=Orphan", "orphanDependents=true"] {
            let answer = Request::delete(&format!("{path}?{option}")).send(client).await;
            let message = answer.expect_refused(policy::NO_ORPHANS);
            assert!(message.contains("without --cascade=orphan"), "{message}");
            Request::delete(&format!("{all}?{option}")).send(client).await.expect_refused(policy::NO_ORPHANS);
        }
    }
    // The options may come as a body as well, which is what kubectl sends.
    for options in [json!({ "propagationPolicy": "Orphan" }), json!({ "orphanDependents": true })] {
        Request::delete(&path).with_options(&options).send(&tenant).await.expect_refused(policy::NO_ORPHANS);
    }
    let found = Request::get(&path).send(&admin).await.expect_ok();
    assert!(found["metadata"]["deletionTimestamp"].is_null() && found["metadata"]["finalizers"].is_null());

    for option in
        ["propagationPolicy=Background", "propagationPolicy=Foreground", "orphanDependents=false", ""]
    {
        Request::delete(&format!("{path}?{option}")).dry_run().send(&tenant).await.expect_ok();
        Request::delete(&format!("{all}?{option}")).dry_run().send(&tenant).await.expect_ok();
    }
    let collector = client(Identity::service_account("kube-system", "generic-garbage-collector")).await;
    let options = json!({
        "propagationPolicy": "Background",
        "preconditions": { "uid": found["metadata"]["uid"] },
        "dryRun": ["All"],
    });
    Request::delete(&path).with_options(&options).send(&collector).await.expect_ok();
    // The namespace takes it along.
    Request::delete("/api/v1/namespaces/epic-orphans").send(&admin).await.expect_ok();
    eventually("the namespace being gone", || async {
        (Request::get("/api/v1/namespaces/epic-orphans").send(&admin).await.code == 404).then_some(())
    })
    .await;
    // Kinds that own nothing go as they are told.
    let account = object("Account", "epic", "orphans", json!({}));
    Request::create(&account).send(&admin).await.expect_ok();
    let path = Request::path_of(&account);
    Request::delete(&format!("{path}?propagationPolicy=Orphan")).dry_run().send(&admin).await.expect_ok();
    Request::delete(&path).send(&admin).await.expect_ok();
}

/// A user with the tenant's role in a namespace.
async fn tenant_of(namespace: &str) -> Client {
    let user = format!("tenant-of-{namespace}");
    crate::roles::bind(
        namespace,
        "epic-tenant",
        &json!({
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user,
        }),
    )
    .await;
    let client = client(Identity::user(&user)).await;
    let list = format!("/apis/epic.acnodal.io/v1/namespaces/{namespace}/endpoints");
    eventually("the tenant's role acting", || async {
        Request::get(&list).send(&client).await.is_ok().then_some(())
    })
    .await;
    client
}

#[tokio::test]
async fn the_operator_stays_in_its_namespaces() {
    namespace("epic-scope", true).await;
    let operator = client(Identity::operator()).await;
    let config_map = |namespace: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "namespace": namespace } });
    let binding = |namespace: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": "epic-operator-tenant", "namespace": namespace },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-operator-tenant",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": "epic-operator", "namespace": "epic" }],
        })
    };
    let named = |name: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let because = policy::OPERATOR_SCOPE;
    for namespace in ["default", "kube-system"] {
        for object in [config_map(namespace), binding(namespace), deployment(namespace, "d", 1)] {
            Request::create(&object).dry_run().send(&operator).await.expect_refused(because);
        }
    }
    for object in [config_map("epic"), config_map("epic-scope"), binding("epic-scope"), named("epic-new")] {
        Request::create(&object).dry_run().send(&operator).await.expect_ok();
    }
    // A role lets the operator delete ReplicaSets, for the uninstallation of EPIC.
    let replica_set = |namespace: &str| {
        let mut set = deployment(namespace, "scope", 0);
        set["kind"] = json!("ReplicaSet");
        set
    };
    let theirs = replica_set("default");
    Request::create(&theirs).send(&admin().await).await.expect_ok();
    let refused = Request::delete(&Request::path_of(&theirs)).dry_run().send(&operator).await;
    refused.expect_refused(because);
    let controller = client(Identity::service_account("kube-system", "deployment-controller")).await;
    let ours = replica_set("epic-scope");
    Request::create(&ours).send(&controller).await.expect_ok();
    Request::delete(&Request::path_of(&ours)).dry_run().send(&operator).await.expect_ok();
    Request::create(&named("other")).dry_run().send(&operator).await.expect_refused(because);
    let label = json!({ "metadata": { "labels": { "epic.acnodal.io/account": "x" } } });
    for name in ["default", "kube-system", "epic"] {
        let path = format!("/api/v1/namespaces/{name}");
        Request::merge(&path, &label).dry_run().send(&operator).await.expect_refused(because);
    }
    namespace("scope", false).await;
    Request::delete("/api/v1/namespaces/scope").dry_run().send(&operator).await.expect_refused(because);
    Request::delete("/api/v1/namespaces/epic-scope").dry_run().send(&operator).await.expect_ok();
    Request::merge("/api/v1/namespaces/epic-scope", &label).dry_run().send(&operator).await.expect_ok();
}
