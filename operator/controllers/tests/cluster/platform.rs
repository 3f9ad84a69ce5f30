//! What the cluster around EPIC does: quotas are counted late, a quota or a webhook of the platform's own refuses pods, and
//! tenants edit while no operator runs.

use epic_control_plane::{Request, eventually};
use epic_crds::Endpoint;
use serde_json::{Value, json};

use super::Cluster;
use super::harness::Harness;
use super::operator::Operator;
use super::tenants::{load_balancer, object, unconverged, until_nothing_is_left};

const QUOTA: &str = "/api/v1/namespaces/epic-red/resourcequotas/platform";
const GROUP: &str = "/apis/epic.acnodal.io/v1/namespaces/epic-red/servicegroups/web";
const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/platform";
const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/uncounted";
const BINDING: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/uncounted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_that_counts_late_and_refuses_pods_is_waited_for_and_named() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    no_quota_is_counted(&cluster).await;
    let alice = json!([{"kind": "User", "name": "alice"}]);
    for object in [
        object("EPIC", "epic", "epic", json!({"untunnelled-networks": ["10.77.0.0/24"]})),
        object("AddressPool", "epic", "default", json!({"addresses": ["192.0.2.0/28"]})),
        object("Account", "epic", "red", json!({"subjects": alice})),
    ] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
    a_tenant_may_create_only_when_its_quota_is_counted(&cluster).await;
    until_nothing_is_left("the account being ready", || unconverged(&cluster.admin)).await;
    let group = object("ServiceGroup", "epic-red", "web", json!({"envoy-replicas": 1}));
    Request::create(&group).send(&cluster.admin).await.expect_ok();

    let balancer = load_balancer("epic-red", "web", "web");
    a_quota_of_the_platform_s_own_is_named(&cluster, &balancer).await;
    a_webhook_that_refuses_pods_is_named(&cluster, &balancer).await;
    an_edit_takes_nothing_away_while_no_operator_runs(&cluster, operator).await;
}

/// As with a kube-controller-manager that is behind: what is counted of EPIC's quotas is refused from now on.
async fn no_quota_is_counted(cluster: &Cluster) {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "uncounted"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
                "resources": ["resourcequotas/status"], "resourceNames": ["epic-limits"],
            }]},
            "validations": [{"expression": "false", "message": "it is not counted"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "uncounted"}, "spec": {"policyName": "uncounted", "validationActions": ["Deny"]},
    });
    let probe = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "epic-limits", "namespace": "default"},
        "spec": {"hard": {"count/probes.example.com": "1"}},
    });
    for object in [policy, binding, probe] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
    let status = "/api/v1/namespaces/default/resourcequotas/epic-limits/status";
    eventually("the policy acting", || async {
        let counted = json!({"status": {"hard": {"count/probes.example.com": "1"}}});
        let answer = Request::merge(status, &counted).dry_run().send(&cluster.admin).await;
        answer.message().contains("it is not counted").then_some(())
    })
    .await;
}

/// All of its namespace is there but the right to create: nothing would bound what it creates.
async fn a_tenant_may_create_only_when_its_quota_is_counted(cluster: &Cluster) {
    let bound = async |role: &str| {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/epic-red/rolebindings/{role}");
        Request::get(&path).send(&cluster.admin).await.is_ok()
    };
    let account = "/apis/epic.acnodal.io/v1/namespaces/epic/accounts/red";
    let message = eventually("the account waiting for the count", || async {
        let found = Request::get(account).send(&cluster.admin).await;
        let conditions = found.body["status"]["conditions"].as_array()?.clone();
        let ready = conditions.iter().find(|known| known["type"] == "Ready")?;
        (ready["reason"] == "Pending" && bound("epic-client").await)
            .then(|| ready["message"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    assert!(message.contains("has counted what ResourceQuota epic-limits bounds"), "{message}");
    assert!(!bound("epic-tenant").await, "{message}");
    for path in [BINDING, POLICY] {
        Request::delete(path).send(&cluster.admin).await.expect_ok();
    }
    eventually("the tenant having its rights", || async { bound("epic-tenant").await.then_some(()) }).await;
    let quota = "/api/v1/namespaces/epic-red/resourcequotas/epic-limits";
    let quota = Request::get(quota).send(&cluster.admin).await.expect_ok();
    assert_eq!(quota["status"]["hard"], quota["spec"]["hard"], "it was bound before its quota was counted");
}

/// Reason and message of `Ready`, once the message has these words.
async fn ready_says(cluster: &Cluster, balancer: &Value, words: &str) -> (String, String) {
    eventually(&format!("Ready saying {words:?}"), || async {
        let found = Request::get(&Request::path_of(balancer)).send(&cluster.admin).await;
        let conditions = found.body["status"]["conditions"].as_array()?.clone();
        let ready = conditions.iter().find(|known| known["type"] == "Ready")?;
        let (reason, message) = (ready["reason"].as_str()?, ready["message"].as_str()?);
        message.contains(words).then(|| (reason.to_owned(), message.to_owned()))
    })
    .await
}

async fn a_quota_of_the_platform_s_own_is_named(cluster: &Cluster, balancer: &Value) {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "platform", "namespace": "epic-red"}, "spec": {"hard": {"pods": "0"}},
    });
    Request::create(&quota).send(&cluster.admin).await.expect_ok();
    eventually("the quota acting", || async {
        let found = Request::get(QUOTA).send(&cluster.admin).await;
        (found.body["status"]["hard"]["pods"] == "0").then_some(())
    })
    .await;
    Request::create(balancer).send(&cluster.admin).await.expect_ok();
    let (reason, message) = ready_says(cluster, balancer, "exceeded quota: platform").await;
    assert_eq!(reason, "NoReadyProxy", "{message}");
    assert!(message.contains("pods cannot be made"), "{message}");
    Request::delete(QUOTA).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("the proxy coming after all", || unconverged(&cluster.admin)).await;
}

/// One that cannot be reached and fails closed, which is what people have most often.
async fn a_webhook_that_refuses_pods_is_named(cluster: &Cluster, balancer: &Value) {
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "platform"},
        "webhooks": [{
            "name": "pods.platform.example", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": "https://127.0.0.1:1/"},
            "namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["epic-red", "default"]},
            ]},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    });
    Request::create(&webhook).send(&cluster.admin).await.expect_ok();
    // Where nothing else refuses one.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    });
    eventually("the webhook acting", || async {
        let answer = Request::create(&pod).dry_run().send(&cluster.admin).await;
        answer.message().contains("pods.platform.example").then_some(())
    })
    .await;
    let replicas = |count: i64| json!({"spec": {"envoy-replicas": count}});
    Request::merge(GROUP, &replicas(2)).send(&cluster.admin).await.expect_ok();
    let words = "failed calling webhook \"pods.platform.example\"";
    let (reason, message) = ready_says(cluster, balancer, words).await;
    assert_eq!(reason, "ProxiesMissing", "{message}");
    Request::delete(WEBHOOK).send(&cluster.admin).await.expect_ok();
    Request::merge(GROUP, &replicas(1)).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("everything being served again", || unconverged(&cluster.admin)).await;
}

/// Where proxies may reach an Endpoint without a client node, as tables and agents read it.
async fn target(cluster: &Cluster, path: &str) -> Option<String> {
    let found = Request::get(path).send(&cluster.admin).await.expect_ok();
    let endpoint: Endpoint = serde_json::from_value(found).expect("an Endpoint");
    endpoint.accepted_target().map(|(address, _)| address.to_owned())
}

async fn an_edit_takes_nothing_away_while_no_operator_runs(cluster: &Cluster, operator: Operator) {
    let spec = json!({
        "load-balancer": "web", "address": "10.77.0.1", "port": {"port": 8080, "protocol": "TCP"},
    });
    let endpoint = object("Endpoint", "epic-red", "direct", spec);
    let path = Request::path_of(&endpoint);
    Request::create(&endpoint).send(&cluster.admin).await.expect_ok();
    let until = async |wanted: &'static str| {
        eventually("the endpoint being accepted as it is", || async {
            (target(cluster, &path).await.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    };
    until("10.77.0.1").await;
    // Figures and what was accepted are written once it is at rest.
    eventually("what was accepted standing in its status", || async {
        let found = Request::get(&path).send(&cluster.admin).await.expect_ok();
        (found["status"]["accepted-address"] == "10.77.0.1").then_some(())
    })
    .await;
    operator.kill();
    for edit in [json!({"weight": 7}), json!({"address": "10.77.0.2"}), json!({"address": "203.0.113.9"})] {
        Request::merge(&path, &json!({"spec": edit})).send(&cluster.admin).await.expect_ok();
        assert_eq!(target(cluster, &path).await.as_deref(), Some("10.77.0.1"), "nobody has judged {edit}");
    }
    Request::merge(&path, &json!({"spec": {"address": "10.77.0.2"}})).send(&cluster.admin).await.expect_ok();
    let operator = Operator::start(cluster).await;
    operator.ready().await;
    until("10.77.0.2").await;
    // Every kind has a queue, and once all is done they are empty.
    let kinds = [
        "EPIC",
        "Account",
        "Namespace",
        "AddressPool",
        "AddressClaim",
        "Node",
        "ServiceGroup",
        "LoadBalancer",
        "Endpoint",
    ];
    for kind in kinds {
        eventually(&format!("nothing waiting in the queue of {kind}"), || async {
            let waiting = operator.figure(&format!("epic_reconciles_waiting{{kind=\"{kind}\"}}")).await;
            (waiting == Some(0.0)).then_some(())
        })
        .await;
    }
}
