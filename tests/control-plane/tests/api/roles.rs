//! The roles: everything that a tenant, a client agent, a node agent and the operator may do, and nothing more.

use std::collections::BTreeSet;

use epic_control_plane::{Identity, Request, eventually, token};
use serde_json::{Value, json};

use crate::{admin, client, endpoint, load_balancer, namespace, object};

/// Binds a ClusterRole to a subject in a namespace.
pub(crate) async fn bind(namespace: &str, role: &str, subject: &Value) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": role, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [subject],
    });
    Request::apply(&binding).send(&admin().await).await.expect_ok();
}

/// What somebody may do in a namespace, cluster-wide rights included: `verb resource.group`, with `/name` where the
/// right is to one name.
///
/// It is what the API server's RBAC authorizer answers; the other authorizer (Node) speaks of kubelets alone.
async fn allowed(identity: &Identity, namespace: &str) -> BTreeSet<String> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": namespace },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = Request::post(path, &review).send(&client(identity.clone()).await).await.expect_ok();
    let mut may = BTreeSet::new();
    for rule in answer["status"]["resourceRules"].as_array().into_iter().flatten() {
        let list = |key: &str| -> Vec<String> {
            let items = rule[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let names: Vec<String> = match list("resourceNames") {
            names if names.is_empty() => vec![String::new()],
            names => names.iter().map(|name| format!("/{name}")).collect(),
        };
        for (verb, resource) in
            list("verbs").iter().flat_map(|v| list("resources").into_iter().map(move |r| (v, r)))
        {
            for (group, name) in
                list("apiGroups").iter().flat_map(|g| names.iter().map(move |name| (g, name)))
            {
                may.insert(format!("{verb} {resource}.{group}{name}"));
            }
        }
    }
    may
}

fn all(verbs: &[&str], resources: &[&str]) -> BTreeSet<String> {
    verbs.iter().flat_map(|verb| resources.iter().map(move |resource| format!("{verb} {resource}"))).collect()
}

/// What Kubernetes itself gives to everybody who is authenticated.
fn everybody() -> BTreeSet<String> {
    all(
        &["create"],
        &[
            "selfsubjectaccessreviews.authorization.k8s.io",
            "selfsubjectreviews.authentication.k8s.io",
            "selfsubjectrulesreviews.authorization.k8s.io",
        ],
    )
}

fn union(sets: impl IntoIterator<Item = BTreeSet<String>>) -> BTreeSet<String> {
    sets.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_tenant_does_in_its_namespace_what_its_role_says_and_nothing_elsewhere() {
    for name in ["epic-matrix", "epic-matrix-other"] {
        namespace(name, true).await;
    }
    let group = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "tenant:matrix" });
    bind("epic-matrix", "epic-tenant", &group).await;
    let alice = Identity::User { name: "alice".to_owned(), groups: vec!["tenant:matrix".to_owned()] };
    let objects =
        ["endpoints.epic.acnodal.io", "loadbalancers.epic.acnodal.io", "servicegroups.epic.acnodal.io"];
    let expected = union([
        everybody(),
        all(&["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"], &objects),
        all(&["get", "list", "watch"], &["events.", "events.events.k8s.io", "configmaps./epic-limits"]),
    ]);
    eventually("the role acting", || async {
        (allowed(&alice, "epic-matrix").await.len() >= expected.len()).then_some(())
    })
    .await;
    assert_eq!(allowed(&alice, "epic-matrix").await, expected);
    for elsewhere in ["epic-matrix-other", "epic", "default"] {
        assert_eq!(allowed(&alice, elsewhere).await, everybody(), "{elsewhere}");
    }
}

#[tokio::test]
async fn an_administrator_of_epic_has_its_group_and_what_epicctl_needs_and_nothing_else() {
    namespace("epic-admin-matrix", true).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "administrators" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "carol" }],
    });
    Request::apply(&binding).send(&admin().await).await.expect_ok();
    let carol = Identity::user("carol");
    let expected = union([
        everybody(),
        all(&["*"], &["*.epic.acnodal.io"]),
        all(&["get", "list", "watch"], &["leases.coordination.k8s.io"]),
        all(&["create"], &["serviceaccounts/token./epic-client"]),
    ]);
    eventually("the role acting", || async {
        (allowed(&carol, "epic").await.len() >= expected.len()).then_some(())
    })
    .await;
    for anywhere in ["epic", "epic-admin-matrix", "kube-system"] {
        assert_eq!(allowed(&carol, anywhere).await, expected, "{anywhere}");
    }

    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "epic-client", "namespace": "epic-admin-matrix" },
    });
    Request::create(&account).send(&admin().await).await.expect_ok();
    let carol = client(carol).await;
    token(&carol, "epic-admin-matrix", "epic-client", None).await.expect("a token for client agents");
    for (namespace, other) in
        [("epic-admin-matrix", "default"), ("epic", "epic-operator"), ("epic", "epic-node")]
    {
        let refused = token(&carol, namespace, other, None).await.expect_err("no token of another");
        assert_eq!(refused.code, 403, "{namespace}/{other}: {}", refused.message());
    }
    for secret in ["epic-admin-matrix/secrets/epic-gue-keys", "epic/secrets/epic-gue-master"] {
        let answer = Request::get(&format!("/api/v1/namespaces/{secret}")).send(&carol).await;
        assert_eq!(answer.code, 403, "{secret}: {}", answer.message());
    }
}

/// What a role of Kubernetes, bound in a namespace, says about EPIC's group.
async fn of_epic(role: &str, namespace: &str) -> BTreeSet<String> {
    let user = format!("{role}-of-{namespace}");
    let subject = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user });
    bind(namespace, role, &subject).await;
    let identity = Identity::user(&user);
    eventually("the role acting, with what is aggregated to it", || async {
        let may = allowed(&identity, namespace).await;
        may.iter().any(|entry| entry.ends_with(".epic.acnodal.io")).then_some(())
    })
    .await;
    allowed(&identity, namespace)
        .await
        .into_iter()
        .filter(|entry| entry.contains("epic.acnodal.io"))
        .collect()
}

#[tokio::test]
async fn the_roles_of_kubernetes_read_everything_of_epic_and_write_what_a_tenant_writes() {
    namespace("epic-aggregated", true).await;
    let group = |kinds: &[&str]| -> Vec<String> {
        kinds.iter().map(|kind| format!("{kind}.epic.acnodal.io")).collect()
    };
    let tenants = group(&["endpoints", "loadbalancers", "servicegroups"]);
    let others = group(&["accounts", "addressclaims", "addresspools", "epicnodes", "epics"]);
    let of =
        |verbs: &[&str], kinds: &[String]| all(verbs, &kinds.iter().map(String::as_str).collect::<Vec<_>>());
    let read = ["get", "list", "watch"];
    let reading = union([of(&read, &tenants), of(&read, &others)]);
    let writing = of(&["create", "update", "patch", "delete", "deletecollection"], &tenants);
    assert_eq!(of_epic("view", "epic-aggregated").await, reading);
    for role in ["edit", "admin"] {
        assert_eq!(
            of_epic(role, "epic-aggregated").await,
            union([reading.clone(), writing.clone()]),
            "{role}"
        );
    }
    assert_eq!(of_epic("epic-viewer", "epic-aggregated").await, reading);

    // With `admin` of his own namespace a tenant raises no limit of his, grants himself nothing and frees no ID.
    let tenant = client(Identity::user("admin-of-epic-aggregated")).await;
    let account = object("Account", "epic-aggregated", "aggregated", json!({ "load-balancer-limit": 65535 }));
    let balancer = load_balancer("epic-aggregated", "l");
    Request::create(&balancer).send(&tenant).await.expect_ok();
    let status = json!({ "status": { "public-address": "192.0.2.1" } });
    let path = Request::path_of(&balancer);
    let finalizer = json!({ "metadata": { "finalizers": ["epic.acnodal.io/finalizer"] } });
    for refused in [
        Request::create(&account),
        Request::merge(&format!("{path}/status"), &status),
        Request::merge(&path, &finalizer),
    ] {
        let answer = refused.send(&tenant).await;
        assert_eq!(answer.code, 403, "{}", answer.message());
    }
    // And binds nobody to a role that he does not have: RBAC refuses what would be more than his own.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "epic-admin", "namespace": "epic-aggregated" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory" }],
    });
    assert_eq!(Request::create(&binding).send(&tenant).await.code, 403);
}

#[tokio::test]
async fn a_client_agent_reads_what_it_needs_by_name() {
    namespace("epic-client-matrix", true).await;
    let subject =
        json!({ "kind": "ServiceAccount", "name": "epic-client", "namespace": "epic-client-matrix" });
    bind("epic-client-matrix", "epic-client", &subject).await;
    let agent = Identity::service_account("epic-client-matrix", "epic-client");
    let read = ["get", "list", "watch"];
    let expected = union([
        everybody(),
        all(&read, &["endpoints.epic.acnodal.io", "loadbalancers.epic.acnodal.io"]),
        all(&read, &["secrets./epic-gue-keys", "configmaps./epic-client"]),
        all(&["create"], &["serviceaccounts/token./epic-client"]),
    ]);
    eventually("the role acting", || async {
        (allowed(&agent, "epic-client-matrix").await.len() >= expected.len()).then_some(())
    })
    .await;
    assert_eq!(allowed(&agent, "epic-client-matrix").await, expected);
    for elsewhere in ["epic", "default"] {
        assert_eq!(allowed(&agent, elsewhere).await, everybody(), "{elsewhere}");
    }
}

#[tokio::test]
async fn a_client_agent_renews_its_token_until_its_service_account_is_made_anew() {
    namespace("epic-renew", true).await;
    let admin = admin().await;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": "epic-client", "namespace": "epic-renew" },
    });
    Request::create(&account).send(&admin).await.expect_ok();
    let subject = json!({ "kind": "ServiceAccount", "name": "epic-client", "namespace": "epic-renew" });
    bind("epic-renew", "epic-client", &subject).await;
    let first = token(&admin, "epic-renew", "epic-client", None).await.expect("a first token");
    let agent = client(Identity::Token(first)).await;
    let renewed = eventually("the role acting", || async {
        token(&agent, "epic-renew", "epic-client", None).await.ok()
    });
    let agent = client(Identity::Token(renewed.await)).await;
    let list = "/apis/epic.acnodal.io/v1/namespaces/epic-renew/loadbalancers";
    Request::get(list).send(&agent).await.expect_ok();
    assert!(token(&agent, "epic-renew", "default", None).await.is_err(), "no other ServiceAccount's token");

    Request::delete(&Request::path_of(&account)).send(&admin).await.expect_ok();
    Request::create(&account).send(&admin).await.expect_ok();
    eventually("the old token being refused", || async {
        (Request::get(list).send(&agent).await.code == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_agent_has_one_secret_and_few_writes() {
    namespace("epic-node-matrix", true).await;
    let agent = Identity::unbound_node_agent();
    let writes = |may: &BTreeSet<String>| -> BTreeSet<String> {
        let reading = ["get ", "list ", "watch "];
        let writing = may.iter().filter(|entry| !reading.iter().any(|verb| entry.starts_with(verb)));
        writing.cloned().collect::<BTreeSet<_>>().difference(&everybody()).cloned().collect()
    };
    let anywhere = union([
        all(&["update", "patch"], &["pods/status."]),
        all(&["create", "update", "patch"], &["events.", "events.events.k8s.io"]),
    ]);
    let may = allowed(&agent, "epic-node-matrix").await;
    assert_eq!(writes(&may), anywhere);
    assert!(!may.iter().any(|entry| entry.contains(" secrets.") || entry.contains(" configmaps.")));
    let secrets: BTreeSet<String> =
        allowed(&agent, "epic").await.into_iter().filter(|entry| entry.contains(" secrets.")).collect();
    assert_eq!(secrets, all(&["get", "list", "watch"], &["secrets./epic-gue-master"]));
}

#[tokio::test]
async fn the_operator_reads_no_secret_outside_of_its_namespaces() {
    namespace("epic-op-matrix", true).await;
    for namespace in ["kube-system", "default", "epic-op-matrix"] {
        let may = allowed(&Identity::operator(), namespace).await;
        for forbidden in
            [" secrets.", "impersonate ", "escalate ", "create pods.", "serviceaccounts/token", "*"]
        {
            let found: Vec<&String> = may.iter().filter(|entry| entry.contains(forbidden)).collect();
            assert_eq!(found, Vec::<&String>::new(), "{namespace}");
        }
    }
    // It binds its own role for Secrets in a tenant namespace, and roles that are not EPIC's nowhere.
    let operator = client(Identity::operator()).await;
    let binding = |role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": role, "namespace": "epic-op-matrix" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": "epic-operator", "namespace": "epic" }],
        })
    };
    for role in ["cluster-admin", "admin", "edit", "epic-admin", "epic-operator"] {
        let answer = Request::create(&binding(role)).send(&operator).await;
        // epic-operator holds no more than the operator has, so RBAC lets that one pass.
        if role != "epic-operator" {
            assert_eq!(answer.code, 403, "{role}: {}", answer.message());
        }
    }
    for role in ["epic-tenant", "epic-client", "epic-operator-tenant"] {
        Request::apply(&binding(role)).send(&operator).await.expect_ok();
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "epic-gue-keys", "namespace": "epic-op-matrix" },
    });
    eventually("the operator's role acting", || async {
        Request::apply(&secret).send(&operator).await.is_ok().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_tenant_cannot_reach_beyond_its_objects() {
    namespace("epic-reach", true).await;
    let user = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory" });
    bind("epic-reach", "epic-tenant", &user).await;
    let mallory = client(Identity::user("mallory")).await;
    let balancer = load_balancer("epic-reach", "l");
    eventually("the role acting", || async {
        Request::apply(&balancer).send(&mallory).await.is_ok().then_some(())
    })
    .await;
    Request::create(&endpoint("epic-reach", "e")).send(&mallory).await.expect_ok();
    Request::create(&object("ServiceGroup", "epic-reach", "g", json!({}))).send(&mallory).await.expect_ok();

    let path = Request::path_of(&balancer);
    let status = json!({ "status": { "public-address": "192.0.2.1", "service-id": 1 } });
    let mut stored = Request::get(&path).send(&mallory).await.expect_ok();
    stored["status"] = status["status"].clone();
    assert_eq!(Request::merge(&format!("{path}/status"), &status).send(&mallory).await.code, 403);
    assert_eq!(Request::replace(&stored, "status").send(&mallory).await.code, 403);
    // A status in the object itself is dropped.
    let after = Request::replace(&stored, "").send(&mallory).await.expect_ok();
    assert!(after.get("status").is_none());

    let core = |kind: &str, version: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "x", "namespace": "epic-reach" } });
    let mut binding = core("RoleBinding", "rbac.authorization.k8s.io/v1");
    binding["roleRef"] =
        json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin" });
    for forbidden in [
        object("Account", "epic-reach", "reach", json!({ "group-id": 1 })),
        object("Account", "epic", "reach", json!({})),
        object("AddressPool", "epic", "p", json!({ "addresses": ["192.0.2.0/24"] })),
        object("ServiceGroup", "epic", "g", json!({})),
        load_balancer("epic-matrix", "l"),
        core("Secret", "v1"),
        core("ConfigMap", "v1"),
        core("ServiceAccount", "v1"),
        core("Pod", "v1"),
        binding,
    ] {
        let answer = Request::create(&forbidden).send(&mallory).await;
        assert_eq!(answer.code, 403, "{forbidden}: {}", answer.message());
    }
}
