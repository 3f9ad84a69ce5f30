//! What administrators and their tools do by mistake, on one installation that serves meanwhile.

use std::collections::BTreeSet;

use epic_control_plane::{Identity, Request, eventually};
use serde_json::{Value, json};

use super::deletion::{platform, reason_of};
use super::harness::Harness;
use super::history::History;
use super::operator::Operator;
use super::rotation::{SECRETS, proxies_secrets};
use super::tenants::{load_balancer, unconverged, until_nothing_is_left};
use super::{Cluster, rights, rotation};

const NAMESPACE: &str = "/api/v1/namespaces/epic-red";
const EPIC: &str = "/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic";
const PODS: &str = "/api/v1/namespaces/epic-red/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/epic-red/deployments";
const BALANCERS: &str = "/apis/epic.acnodal.io/v1/namespaces/epic-red/loadbalancers";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_taken_away_or_replaced_by_hand_takes_nothing_from_who_is_served() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    platform(&cluster, "red").await;
    until_nothing_is_left("the account being ready", || unconverged(&cluster.admin)).await;
    let balancer = load_balancer("epic-red", "web", "shared");
    Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("the load balancer being ready", || unconverged(&cluster.admin)).await;

    a_tenant_namespace_without_its_label_gets_it_back_and_keeps_its_rights(&cluster).await;
    a_pull_secret_is_copied_kept_current_and_taken_away(&cluster).await;
    a_certificate_that_a_pod_cannot_mount_is_written_again(&cluster).await;
    a_deleted_epic_is_recreated_and_everybody_keeps_ids_and_addresses(&cluster, &balancer).await;

    operator.kill();
    let operator = Operator::start_serving(&cluster).await;
    operator.ready().await;
    rights::a_right_that_is_taken_away_holds_up_only_what_needs_it(&cluster, &operator).await;
    rotation::an_authority_is_replaced_step_by_step_whoever_goes_on_with_it(&cluster, operator).await;
}

async fn a_tenant_namespace_without_its_label_gets_it_back_and_keeps_its_rights(cluster: &Cluster) {
    let history = History::record(&cluster.admin).await;
    let label = |value: Value| json!({"labels": {"epic.acnodal.io/account": value}});
    let mut everything = label(Value::Null);
    everything["annotations"] = json!({"epic.acnodal.io/created-for": null});
    let annotation = json!({"annotations": everything["annotations"]});
    for lost in [label(Value::Null), label(json!("blue")), annotation, everything] {
        Request::merge(NAMESPACE, &json!({"metadata": lost})).send(&cluster.admin).await.expect_ok();
        eventually("label and annotation being back", || async {
            let found = Request::get(NAMESPACE).send(&cluster.admin).await.expect_ok();
            let created_for = &found["metadata"]["annotations"]["epic.acnodal.io/created-for"];
            let is_red = found["metadata"]["labels"]["epic.acnodal.io/account"] == "red";
            (is_red && created_for.is_string()).then_some(())
        })
        .await;
    }
    until_nothing_is_left("everything being served", || unconverged(&cluster.admin)).await;
    for event in history.events() {
        let taken = matches!(event.kind, "RoleBinding" | "ServiceAccount" | "Secret" | "Deployment");
        assert!(!(taken && event.deleted), "{} {:?} was deleted", event.kind, event.object.metadata.name);
        if event.kind == "Account" {
            let conditions = event.object.data["status"]["conditions"].as_array().into_iter().flatten();
            let reasons: Vec<&Value> = conditions.map(|known| &known["reason"]).collect();
            assert!(!reasons.iter().any(|reason| **reason == "NamespaceNotAdopted"), "{reasons:?}");
        }
    }
}

/// As docs/recovery.md says.
async fn a_deleted_epic_is_recreated_and_everybody_keeps_ids_and_addresses(
    cluster: &Cluster,
    balancer: &Value,
) {
    let status = || async {
        let found = Request::get(&Request::path_of(balancer)).send(&cluster.admin).await.expect_ok();
        let status = found["status"].clone();
        let proxies: Vec<Value> = status["proxies"].as_array().cloned().unwrap_or_default();
        let ids: Vec<Value> = proxies.iter().map(|proxy| proxy["proxy-id"].clone()).collect();
        json!([status["group-id"], status["service-id"], status["public-address"], ids])
    };
    let before = status().await;
    // Refused to people, so as somebody who is let through.
    let someone = Identity::service_account("kube-system", "namespace-controller");
    let someone = cluster.control_plane.client(&someone).await.expect("a client");
    let refused = Request::delete(EPIC).send(&cluster.admin).await;
    refused.expect_refused("Accounts have their IDs from EPIC");
    Request::delete(EPIC).send(&someone).await.expect_ok();
    eventually("EPIC saying what becomes of it", || async {
        (reason_of(cluster, EPIC, "Ready").await.as_deref() == Some("Uninstalling")).then_some(())
    })
    .await;

    let found = Request::get(EPIC).send(&cluster.admin).await.expect_ok();
    let mut spec = found["spec"].clone();
    for ranges in ["proxy-addresses", "alias-addresses"] {
        spec[ranges] = found["status"][ranges].clone();
    }
    let saved = json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPIC",
        "metadata": {"name": "epic", "namespace": "epic"}, "spec": spec,
    });
    let none = json!({"metadata": {"finalizers": null}});
    Request::merge(EPIC, &none).send(&cluster.admin).await.expect_ok();
    Request::create(&saved).send(&cluster.admin).await.expect_ok();
    let late = load_balancer("epic-red", "late", "shared");
    Request::create(&late).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("everything being served again", || unconverged(&cluster.admin)).await;
    eventually("EPIC having its finalizer", || async {
        let found = Request::get(EPIC).send(&cluster.admin).await.expect_ok();
        (found["metadata"]["finalizers"].is_array() && found["status"]["accounts"] == 1).then_some(())
    })
    .await;
    assert_eq!(status().await, before);
}

async fn items(cluster: &Cluster, path: &str) -> Value {
    Request::get(path).send(&cluster.admin).await.expect_ok()["items"].clone()
}

/// What the proxies' images are pulled with, as the Deployment names it.
async fn pulled_with(cluster: &Cluster) -> Value {
    items(cluster, DEPLOYMENTS).await[0]["spec"]["template"]["spec"]["imagePullSecrets"].clone()
}

/// What is left of a roll-out of the only LoadBalancer's proxies. Its conditions do not tell: it is served
/// all the while, by pods that go and by pods that have just come.
async fn rolling(cluster: &Cluster) -> Vec<String> {
    let (deployments, pods) = (items(cluster, DEPLOYMENTS).await, items(cluster, PODS).await);
    let balancers = items(cluster, BALANCERS).await;
    let (wanted, status) = (&deployments[0]["spec"]["replicas"], &deployments[0]["status"]);
    let is_seen = status["observedGeneration"] == deployments[0]["metadata"]["generation"];
    let counts = ["replicas", "updatedReplicas", "availableReplicas"];
    let mut left = Vec::new();
    if !is_seen || counts.iter().any(|count| status[count] != *wanted) {
        left.push(format!("the Deployment has {status}"));
    }
    let pods = pods.as_array().into_iter().flatten();
    let there: BTreeSet<_> = pods.map(|pod| (pod["metadata"]["name"].as_str(), Some("Ready"))).collect();
    let rows = balancers[0]["status"]["proxies"].as_array().into_iter().flatten();
    let listed: BTreeSet<_> = rows.map(|row| (row["pod"].as_str(), row["state"].as_str())).collect();
    if *wanted != there.len() || listed != there {
        left.push(format!("{wanted} pods are wanted, {there:?} are there and {listed:?} are listed"));
    }
    left
}

async fn a_pull_secret_is_copied_kept_current_and_taken_away(cluster: &Cluster) {
    let copy = format!("{SECRETS}/epic-pull-mirror");
    // `{}` and `{"auths":{}}`.
    for content in ["e30=", "eyJhdXRocyI6e319"] {
        let source = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mirror", "namespace": "epic"},
            "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": content},
        });
        Request::apply(&source).send(&cluster.admin).await.expect_ok();
        let named = json!({"spec": {"proxies": {"image-pull-secrets": ["mirror"]}}});
        Request::merge(EPIC, &named).send(&cluster.admin).await.expect_ok();
        eventually("the copy being as its source", || async {
            let found = Request::get(&copy).send(&cluster.admin).await;
            let (type_, held) = (&found.body["type"], &found.body["data"][".dockerconfigjson"]);
            (found.is_ok() && held == content && *type_ == source["type"]).then_some(())
        })
        .await;
    }
    eventually("proxies being pulled with it", || async {
        (pulled_with(cluster).await == json!([{"name": "epic-pull-mirror"}])).then_some(())
    })
    .await;
    let none = json!({"spec": {"proxies": null}});
    Request::merge(EPIC, &none).send(&cluster.admin).await.expect_ok();
    eventually("the copy being taken away", || async {
        let gone = Request::get(&copy).send(&cluster.admin).await.code == 404;
        (gone && pulled_with(cluster).await.is_null()).then_some(())
    })
    .await;
    let source = Request::get("/api/v1/namespaces/epic/secrets/mirror").send(&cluster.admin).await;
    assert!(source.is_ok(), "the administrator's own stays");
    until_nothing_is_left("everything being served again", || unconverged(&cluster.admin)).await;
}

/// Secrets of tenants are not watched: the pods that wait for one tell that it is lost.
async fn a_certificate_that_a_pod_cannot_mount_is_written_again(cluster: &Cluster) {
    // What made pods anew has to be over: the played kubelet soon says of one that starts that it runs, and
    // one that goes is gone, so that neither waits until the operator looks.
    until_nothing_is_left("a pod that stays as it is", || rolling(cluster)).await;
    let balancers = items(cluster, BALANCERS).await;
    let pod = balancers[0]["status"]["proxies"][0]["pod"].as_str().expect("a pod");
    // On its node for long.
    let placed =
        json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let state = |state: Value| {
        json!({"status": {"conditions": [placed], "containerStatuses": [{
            "name": "envoy", "ready": false, "restartCount": 0, "image": "epic/envoy:dev", "imageID": "", "state": state,
        }]}})
    };
    let lost = proxies_secrets(cluster).await.remove(0);
    let path = format!("{SECRETS}/{}", lost["metadata"]["name"].as_str().expect("a name"));
    Request::delete(&path).send(&cluster.admin).await.expect_ok();
    let status = format!("{PODS}/{pod}/status");
    let creating = state(json!({"waiting": {"reason": "ContainerCreating"}, "running": null}));
    Request::strategic(&status, &creating).send(&cluster.admin).await.expect_ok();
    eventually("the certificate being there again", || async {
        let found = Request::get(&path).send(&cluster.admin).await;
        (found.is_ok() && found.body["metadata"]["uid"] != lost["metadata"]["uid"]).then_some(())
    })
    .await;
    let running = state(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}, "waiting": null}));
    Request::strategic(&status, &running).send(&cluster.admin).await.expect_ok();
}
