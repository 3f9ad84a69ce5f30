//! What goes with what, and what waits for what.

use std::collections::BTreeSet;

use epic_control_plane::{Identity, Request, eventually, token};
use epic_crds::well_known::ANNOTATION_DELETE_IN_USE;
use kube::ResourceExt;
use serde_json::json;

use super::Cluster;
use super::harness::Harness;
use super::history::History;
use super::operator::Operator;
use super::tenants::{load_balancer, object, remains, unconverged, until_nothing_is_left};

pub(crate) async fn platform(cluster: &Cluster, account: &str) {
    for object in [
        object("EPIC", "epic", "epic", json!({})),
        object("AddressPool", "epic", "default", json!({"addresses": ["192.0.2.0/28"]})),
        object("ServiceGroup", "epic", "shared", json!({"envoy-replicas": 1})),
        object("Account", "epic", account, json!({})),
    ] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
}

pub(crate) async fn reason_of(cluster: &Cluster, path: &str, type_: &str) -> Option<String> {
    let found = Request::get(path).send(&cluster.admin).await;
    let conditions = found.body["status"]["conditions"].as_array()?.clone();
    let condition = conditions.iter().find(|known| known["type"] == type_)?;
    condition["reason"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_waits_for_its_load_balancers_and_takes_its_namespace_along() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    platform(&cluster, "red").await;
    until_nothing_is_left("the account being ready", || unconverged(&cluster.admin)).await;
    let balancer = load_balancer("epic-red", "web", "shared");
    Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("the load balancer being ready", || unconverged(&cluster.admin)).await;

    let account = "/apis/epic.acnodal.io/v1/namespaces/epic/accounts/red";
    let refused = Request::delete(account).send(&cluster.admin).await;
    refused.expect_refused("this Account has LoadBalancers");
    let meant = json!({"metadata": {"annotations": {ANNOTATION_DELETE_IN_USE: "true"}}});
    Request::merge(account, &meant).send(&cluster.admin).await.expect_ok();
    Request::delete(account).send(&cluster.admin).await.expect_ok();
    eventually("the account saying that it waits", || async {
        (reason_of(&cluster, account, "Ready").await.as_deref() == Some("LoadBalancersRemain")).then_some(())
    })
    .await;
    // That the operator made it is known though the namespace does not say so any more.
    let lost = json!({"metadata": {"annotations": {"epic.acnodal.io/created-for": null}}});
    Request::merge("/api/v1/namespaces/epic-red", &lost).send(&cluster.admin).await.expect_ok();
    Request::delete(&Request::path_of(&balancer)).send(&cluster.admin).await.expect_ok();
    for plural in ["servicegroups/shared", "addresspools/default", "epics/epic"] {
        let path = format!("/apis/epic.acnodal.io/v1/namespaces/epic/{plural}");
        eventually("what uses it being gone", || async {
            Request::delete(&path).send(&cluster.admin).await.is_ok().then_some(())
        })
        .await;
    }
    until_nothing_is_left("everything being gone", || remains(&cluster.admin)).await;
}

/// How often the operator gave itself the right to a namespace's Secrets, and what `Ready` of the Account said.
fn looks_and_words(history: &History, namespace: &str, account: &str) -> (usize, Vec<String>) {
    let (mut bindings, mut said) = (BTreeSet::new(), Vec::new());
    for event in history.events() {
        let object = &event.object;
        if event.kind == "RoleBinding" && object.namespace().as_deref() == Some(namespace) {
            bindings.insert(object.uid());
        }
        if event.kind == "Account" && object.name_any() == account {
            let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.filter(|known| known["type"] == "Ready");
            said.extend(ready.filter_map(|known| known["reason"].as_str().map(str::to_owned)));
        }
    }
    (bindings.len(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_of_others_is_left_alone_and_an_empty_one_outlives_its_account() {
    let cluster = Cluster::start().await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    for name in ["epic-red", "epic-blue"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Request::create(&namespace).send(&cluster.admin).await.expect_ok();
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "namespace": "epic-red"}});
    Request::create(&secret).send(&cluster.admin).await.expect_ok();
    let history = History::record(&cluster.admin).await;
    platform(&cluster, "red").await;
    Request::create(&object("Account", "epic", "blue", json!({}))).send(&cluster.admin).await.expect_ok();
    let path = |name: &str| format!("/apis/epic.acnodal.io/v1/namespaces/epic/accounts/{name}");
    eventually("the namespace in use being refused", || async {
        (reason_of(&cluster, &path("red"), "Ready").await.as_deref() == Some("NamespaceNotAdopted"))
            .then_some(())
    })
    .await;
    eventually("the empty namespace being adopted", || async {
        (reason_of(&cluster, &path("blue"), "Ready").await.as_deref() == Some("Ready")).then_some(())
    })
    .await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/epic-red/rolebindings";
    eventually("no right of ours being left in it", || async {
        let found = Request::get(bindings).send(&cluster.admin).await.expect_ok();
        found["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    for number in 1..=5 {
        let passes = operator.passes("Account").await;
        let note = json!({"metadata": {"annotations": {"note": number.to_string()}}});
        Request::merge("/api/v1/namespaces/epic-red", &note).send(&cluster.admin).await.expect_ok();
        eventually("the account being looked at again", || async {
            (operator.passes("Account").await > passes).then_some(())
        })
        .await;
    }
    let (looks, said) = looks_and_words(&history, "epic-red", "red");
    assert_eq!(looks, 1, "its Secrets were looked at once, however many bells rang");
    let first = said.iter().position(|reason| reason == "NamespaceNotAdopted").expect("it was refused");
    assert!(said[first..].iter().all(|reason| reason == "NamespaceNotAdopted"), "{said:?}");
    let stolen = token(&cluster.admin, "epic-blue", "epic-client", None).await.expect("a token");
    let stolen = cluster.control_plane.client(&Identity::Token(stolen)).await.expect("a client");
    let keys = "/api/v1/namespaces/epic-blue/secrets/epic-gue-keys";
    eventually("a client agent reading its keys", || async {
        Request::get(keys).send(&stolen).await.is_ok().then_some(())
    })
    .await;
    for name in ["red", "blue"] {
        Request::delete(&path(name)).send(&cluster.admin).await.expect_ok();
        eventually("the account being gone", || async {
            (Request::get(&path(name)).send(&cluster.admin).await.code == 404).then_some(())
        })
        .await;
        let namespace = format!("/api/v1/namespaces/epic-{name}");
        let namespace = Request::get(&namespace).send(&cluster.admin).await.expect_ok();
        assert!(namespace["metadata"]["deletionTimestamp"].is_null(), "epic-{name} stays");
    }
    until_nothing_is_left("nothing of the account being left", || left_in(&cluster, "epic-blue")).await;
    // Made anew for another customer, whose keys the former one does not read.
    Request::create(&object("Account", "epic", "blue", json!({}))).send(&cluster.admin).await.expect_ok();
    eventually("its successor being ready", || async {
        (reason_of(&cluster, &path("blue"), "Ready").await.as_deref() == Some("Ready")).then_some(())
    })
    .await;
    // The API server remembers for some seconds whose token it is.
    eventually("the former customer's token being refused", || async {
        (Request::get(keys).send(&stolen).await.code == 401).then_some(())
    })
    .await;
    Request::get(keys).send(&cluster.admin).await.expect_ok();
    let theirs = Request::get("/api/v1/namespaces/epic-red/secrets/theirs").send(&cluster.admin).await;
    assert!(theirs.is_ok(), "what is somebody else's stays");
}

/// What a namespace holds of rights, keys and marks of EPIC.
async fn left_in(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let mut left = Vec::new();
    for kind in [
        "api/v1/namespaces/NAMESPACE/serviceaccounts",
        "api/v1/namespaces/NAMESPACE/configmaps",
        "api/v1/namespaces/NAMESPACE/secrets",
        "apis/rbac.authorization.k8s.io/v1/namespaces/NAMESPACE/rolebindings",
    ] {
        let path = format!("/{}", kind.replace("NAMESPACE", namespace));
        let list = Request::get(&path).send(&cluster.admin).await.expect_ok();
        let names = list["items"].as_array().into_iter().flatten().map(|item| &item["metadata"]["name"]);
        // What Kubernetes itself puts into every namespace.
        let ours = names.filter(|name| *name != "default" && *name != "kube-root-ca.crt");
        left.extend(ours.map(|name| format!("{path}: {name}")));
    }
    let found =
        Request::get(&format!("/api/v1/namespaces/{namespace}")).send(&cluster.admin).await.expect_ok();
    let labels = found["metadata"]["labels"].as_object().into_iter().flatten();
    let marks = labels.filter(|(label, _)| *label != "kubernetes.io/metadata.name");
    left.extend(marks.map(|(label, value)| format!("label {label}: {value}")));
    left
}

/// What others have made with EPIC's labels, in namespaces that are not EPIC's.
async fn strangers(cluster: &Cluster) -> Vec<String> {
    let named = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "epic-games"}});
    Request::create(&named).send(&cluster.admin).await.expect_ok();
    let mut paths = Vec::new();
    for namespace in ["default", "epic-games"] {
        for kind in ["Deployment", "ReplicaSet"] {
            let labels = json!({
                "app": kind, "epic.acnodal.io/account": "red", "epic.acnodal.io/load-balancer": "web",
            });
            let workload = json!({
                "apiVersion": "apps/v1", "kind": kind,
                "metadata": {"name": "theirs", "namespace": namespace, "labels": labels},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": kind}}, "template": {
                    "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]},
                }},
            });
            Request::create(&workload).send(&cluster.admin).await.expect_ok();
            paths.push(Request::path_of(&workload));
        }
    }
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uninstalled_epic_has_neither_proxies_nor_finalizers_and_is_taken_up_again_on_its_objects() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    // As the chart's hook does with every installation, the first one included.
    operator.uninstall(&["--undo"]).await;
    platform(&cluster, "red").await;
    until_nothing_is_left("the account being ready", || unconverged(&cluster.admin)).await;
    let balancer = load_balancer("epic-red", "web", "shared");
    Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("the load balancer being ready", || unconverged(&cluster.admin)).await;
    let detached = json!({"status": {"conditions": [{
        "type": "Detached", "status": "True", "reason": "Detached", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    let node = "/apis/epic.acnodal.io/v1/namespaces/epic/epicnodes/node1/status";
    Request::merge(node, &detached).send(&cluster.admin).await.expect_ok();

    let epic = "/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic";
    let metadata = || async { Request::get(epic).send(&cluster.admin).await.expect_ok()["metadata"].clone() };
    let untouched = metadata().await;
    operator.uninstall(&["--undo"]).await;
    assert_eq!(metadata().await, untouched, "without the annotation nothing is written");
    let note = json!({"metadata": {"annotations": {"note": "theirs"}}});
    Request::merge(epic, &note).send(&cluster.admin).await.expect_ok();

    let served = metadata().await;
    for state in [None, Some("deployed"), Some("failed"), Some("pending-upgrade")] {
        if let Some(state) = state {
            helm_says(&cluster, state).await;
        }
        operator.uninstall(&["--release", "epic", "--wait", "60"]).await;
        assert_eq!(metadata().await, served, "nobody uninstalls the release: {state:?}");
    }
    helm_says(&cluster, "uninstalling").await;
    operator.uninstall(&["--release", "another", "--wait", "60"]).await;
    assert_eq!(metadata().await, served, "another release is being uninstalled");

    let strangers = strangers(&cluster).await;
    operator.uninstall(&["--release", "epic", "--wait", "60"]).await;
    for path in &strangers {
        let found = Request::get(path).send(&cluster.admin).await.expect_ok();
        assert!(found["metadata"]["deletionTimestamp"].is_null(), "{path} is somebody else's");
    }
    assert!(metadata().await["finalizers"].is_null(), "no finalizer is left on EPIC");
    let account =
        Request::get("/apis/epic.acnodal.io/v1/namespaces/epic/accounts/red").send(&cluster.admin).await;
    assert!(account.expect_ok()["metadata"]["finalizers"].is_null(), "no finalizer is left on the Account");
    let pods = Request::get("/api/v1/namespaces/epic-red/pods").send(&cluster.admin).await.expect_ok();
    assert!(pods["items"].as_array().is_some_and(Vec::is_empty), "no proxy is left");
    Request::get(&Request::path_of(&balancer)).send(&cluster.admin).await.expect_ok();

    let uninstalled = metadata().await;
    operator.uninstall(&["--undo", "--release", "epic"]).await;
    assert_eq!(metadata().await, uninstalled, "nobody installs the release");
    helm_says(&cluster, "pending-install").await;
    operator.uninstall(&["--undo", "--release", "epic"]).await;
    assert_eq!(metadata().await["annotations"], json!({"note": "theirs"}), "only its own annotation goes");
    eventually("proxies and finalizers being back", || async {
        let pods = Request::get("/api/v1/namespaces/epic-red/pods").send(&cluster.admin).await.expect_ok();
        let runs = pods["items"].as_array().is_some_and(|pods| !pods.is_empty());
        (runs && metadata().await["finalizers"].is_array()).then_some(())
    })
    .await;
    until_nothing_is_left("the load balancer being served again", || unconverged(&cluster.admin)).await;
    definitions_that_are_deleted_first_hang_at_nothing_after_an_uninstallation(&cluster, &operator).await;
}

/// The record of release `epic` that Helm keeps.
async fn helm_says(cluster: &Cluster, state: &str) {
    let record = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
        "metadata": {"name": "sh.helm.release.v1.epic.v1", "namespace": "epic", "labels": {
            "owner": "helm", "name": "epic", "version": "1", "status": state,
        }},
    });
    Request::apply(&record).send(&cluster.admin).await.expect_ok();
}

async fn definitions_that_are_deleted_first_hang_at_nothing_after_an_uninstallation(
    cluster: &Cluster,
    operator: &Operator,
) {
    let all = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let ours = || async {
        let list = Request::get(all).send(&cluster.admin).await.expect_ok();
        let names = list["items"].as_array().into_iter().flatten();
        let names = names.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned));
        names.filter(|name| name.ends_with(".epic.acnodal.io")).collect::<Vec<_>>()
    };
    for name in ours().await {
        Request::delete(&format!("{all}/{name}")).send(&cluster.admin).await.expect_ok();
    }
    eventually("only what has finalizers hanging", || async {
        let left = ours().await;
        (left.len() <= 2 && left.iter().any(|name| name.starts_with("epics."))).then_some(())
    })
    .await;
    operator.uninstall(&["--wait", "60"]).await;
    until_nothing_is_left("the definitions being gone", ours).await;
    operator.uninstall(&["--wait", "60"]).await;
}
