//! The commands on a real API server. No operator runs; what it would have made, the tests make.

use std::net::IpAddr;

use epic_control_plane::{Identity, Request, eventually, object, shared};
use epicctl::account::{self, KubeconfigArguments};
use epicctl::api::{self, Connection};
use epicctl::authority::{self, RotateArguments};
use epicctl::explain::{self, Subject};
use epicctl::overview::{self, judge::judge, render::render};
use epicctl::preflight::{self, Verdict};
use epicctl::release::{self, Consent};
use epicctl::restart::{self, GroupArguments, OneArguments, RestartCommand};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};

async fn admin() -> Client {
    shared().await.admin().await.expect("an administrator's client")
}

async fn create(object: &Value) -> Value {
    Request::create(object).send(&admin().await).await.expect_ok()
}

/// Applies the status to an object that is there.
async fn set_status(plural: &str, namespace: &str, name: &str, status: Value) {
    let path = format!("/apis/epic.acnodal.io/v1/namespaces/{namespace}/{plural}/{name}");
    let mut stored = Request::get(&path).send(&admin().await).await.expect_ok();
    stored["status"] = status;
    Request::replace(&stored, "status").send(&admin().await).await.expect_ok();
}

/// An Account with what the operator makes for it.
async fn tenant(name: &str) {
    let namespace = format!("epic-{name}");
    create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": namespace, "labels": { "epic.acnodal.io/account": name },
    } }))
    .await;
    create(&object("Account", "epic", name, json!({}))).await;
    set_status("accounts", "epic", name, json!({ "group-id": 1, "namespace": namespace })).await;
    create(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
        "name": "epic-client", "namespace": namespace,
    } }))
    .await;
    create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": "epic-client", "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-client" },
        "subjects": [{ "kind": "ServiceAccount", "name": "epic-client", "namespace": namespace }],
    }))
    .await;
}

fn load_balancer(namespace: &str, name: &str) -> Value {
    object(
        "LoadBalancer",
        namespace,
        name,
        json!({ "public-ports": [{ "port": 80, "protocol": "TCP" }], "service-group": "shared" }),
    )
}

fn arguments(name: &str) -> KubeconfigArguments {
    KubeconfigArguments { name: name.to_owned(), duration: 600, server: None, file: None }
}

/// What `epicctl --kubeconfig` of the administrator connects with.
async fn connection() -> kube::Config {
    let kubeconfig = shared().await.kubeconfig();
    Connection { kubeconfig: Some(kubeconfig), context: None }.config().await.expect("a configuration")
}

#[tokio::test]
async fn a_tenants_kubeconfig_reads_its_own_namespace_and_renews_itself() {
    tenant("keys").await;
    let config = connection().await;
    let made = account::kubeconfig(&admin().await, &config, &arguments("keys")).await.expect("a kubeconfig");
    assert!(made.note.contains("namespace epic-keys"), "{}", made.note);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.kubeconfig");
    account::write(&file, &made.text).expect("the file is written");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let theirs = Connection { kubeconfig: Some(file), context: None }.config().await.expect("it is read");
    assert_eq!(theirs.default_namespace, "epic-keys");
    let client = api::client(theirs).expect("a client");
    let list = "/apis/epic.acnodal.io/v1/namespaces/epic-keys/loadbalancers";
    // A role binding takes a moment to act.
    eventually("the tenant's rights", || async {
        Request::get(list).send(&client).await.is_ok().then_some(())
    })
    .await;
    let elsewhere = Request::get("/apis/epic.acnodal.io/v1/namespaces/epic/accounts").send(&client).await;
    assert_eq!(elsewhere.code, 403, "{}", elsewhere.message());
    epic_control_plane::token(&client, "epic-keys", "epic-client", None).await.expect("a further token");
}

#[tokio::test]
async fn a_tenant_that_is_not_there_yet_is_told_from_one_that_never_was() {
    create(&object("Account", "epic", "coming", json!({}))).await;
    let config = connection().await;
    let client = admin().await;
    let error = account::kubeconfig(&client, &config, &arguments("coming")).await.unwrap_err().to_string();
    assert!(error.contains("no ServiceAccount epic-client in namespace epic-coming yet"), "{error}");
    assert!(error.contains("the operator has not looked at the account"), "{error}");
    let error = account::kubeconfig(&client, &config, &arguments("absent")).await.unwrap_err().to_string();
    assert!(error.starts_with("there is no account \"absent\"; there are: coming"), "{error}");
    let error = overview::gather(&client, Some("absent")).await.unwrap_err().to_string();
    assert!(error.starts_with("there is no account \"absent\"; there are: coming"), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    tenant("rights").await;
    let user = shared().await.client(&Identity::user("nobody")).await.unwrap();
    let config = connection().await;
    let error = account::kubeconfig(&user, &config, &arguments("rights")).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot read account epic/rights: "), "{error}");
    assert!(error.contains("forbidden") && error.contains("ask for this right"), "{error}");
}

#[tokio::test]
async fn the_role_of_administrators_is_enough_for_every_command() {
    tenant("role").await;
    create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "administrators" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "carol" }],
    }))
    .await;
    let carol = shared().await.client(&Identity::user("carol")).await.unwrap();
    eventually("carol's rights", || async {
        let found = overview::gather(&carol, None).await.expect("what may be read");
        found.forbidden.is_empty().then_some(())
    })
    .await;
    account::kubeconfig(&carol, &connection().await, &arguments("role")).await.expect("a kubeconfig");
    let owner = create(&load_balancer("epic-role", "web")).await;
    let lb = |name: &str| {
        RestartCommand::Lb(OneArguments { name: name.to_owned(), namespace: "epic-role".to_owned() })
    };
    let now = Timestamp::UNIX_EPOCH;
    restart::restart(&carol, &lb("web"), now).await.expect("the proxies restart");
    let stored_balancer = Request::get(&Request::path_of(&owner)).send(&carol).await.expect_ok();
    let annotations = &stored_balancer["metadata"]["annotations"];
    assert_eq!(annotations["epic.acnodal.io/restarted-at"], "1970-01-01T00:00:00Z");
    let group = create(&object("ServiceGroup", "epic-role", "own", json!({}))).await;
    let of_group =
        RestartCommand::Group(GroupArguments { name: "own".to_owned(), namespace: "epic-role".to_owned() });
    restart::restart(&carol, &of_group, now).await.expect("the proxies of all its LoadBalancers restart");
    let stored_group = Request::get(&Request::path_of(&group)).send(&carol).await.expect_ok();
    assert_eq!(
        stored_group["metadata"]["annotations"]["epic.acnodal.io/restarted-at"],
        "1970-01-01T00:00:00Z"
    );
    let error = restart::restart(&carol, &lb("wbe"), now).await.unwrap_err().to_string();
    assert!(error.contains("there is no LoadBalancer \"wbe\" in namespace epic-role"), "{error}");
    // It reads no workload, and says so.
    let found = explain::gather(&carol, "epic-role").await.expect("what may be read");
    let subject = Subject { namespace: "epic-role".to_owned(), name: "web".to_owned() };
    assert_eq!(explain::explain(&found, &subject, now).unread, ["pods", "deployments"]);
    // The authority's Secret is not its business: that takes an administrator of the cluster.
    let asks = RotateArguments { no_wait: true, timeout: 1 };
    let error = authority::rotate(&carol, &asks, |_| ()).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot read Secret epic-xds-ca in epic: "), "{error}");
    claim("192.0.2.13", &owner, None).await;
    let path = "/apis/epic.acnodal.io/v1/namespaces/epic-role/loadbalancers/web";
    Request::delete(path).send(&admin().await).await.expect_ok();
    let address = "192.0.2.13".parse().expect("an address");
    release::release(&carol, address, Consent::Yes).await.expect("it is marked");
    release::release(&carol, address, Consent::Yes).await.expect("it is deleted");
    assert!(stored("192.0.2.13").await.is_none());
}

#[tokio::test]
async fn a_load_balancer_without_an_operator_is_explained_by_its_absence() {
    tenant("explained").await;
    create(&load_balancer("epic-explained", "web")).await;
    let found = explain::gather(&admin().await, "epic-explained").await.expect("an administrator reads all");
    let of = |name: &str| {
        let subject = Subject { namespace: "epic-explained".to_owned(), name: name.to_owned() };
        explain::explain(&found, &subject, Timestamp::now())
    };
    let web = of("web");
    let (what, fix) = web.fix.as_ref().expect("something is to be fixed");
    assert!(web.unread.is_empty() && !web.serves, "{web:?}");
    assert!(["EPIC", "operator", "leader"].contains(what), "{what}: {fix:?}");
    assert!(!fix.remedy.is_empty(), "{fix:?}");
    let absent = of("wbe").fix.expect("it is not there").1;
    assert!(absent.problem.contains("wbe") || absent.problem == fix.problem, "{absent:?}");
}

#[tokio::test]
async fn a_cluster_is_judged_by_what_its_api_server_says_and_by_nothing_that_may_not_be_read() {
    let facts = preflight::gather(&admin().await, 10, 2).await.expect("an administrator reads all");
    assert!(facts.version.starts_with("v1."), "{}", facts.version);
    assert!(facts.nodes.is_some() && facts.pods.is_some() && !facts.service_networks.is_empty());
    let checks = preflight::judge(&facts);
    let version = checks.iter().find(|check| check.found.contains(facts.version.trim_start_matches('v')));
    assert_eq!(version.map(|check| check.verdict), Some(Verdict::Ok), "{checks:?}");

    let nobody = shared().await.client(&Identity::user("nobody")).await.unwrap();
    let facts = preflight::gather(&nobody, 10, 2).await.expect("what may not be read is left out");
    assert!(facts.nodes.is_none() && facts.pods.is_none());
    let unknown = preflight::judge(&facts).into_iter().filter(|check| check.verdict == Verdict::Unknown);
    assert!(unknown.count() > 0, "what was not read is not taken for good");
}

#[tokio::test]
async fn another_authority_is_asked_for_once_and_followed_to_its_end() {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "epic-xds-ca", "namespace": "epic" } });
    create(&secret).await;
    let (client, path) = (admin().await, Request::path_of(&secret));
    let asked = || async {
        let stored = Request::get(&path).send(&client).await.expect_ok();
        stored["metadata"]["annotations"]["epic.acnodal.io/rotate-authority"].as_str().map(str::to_owned)
    };
    let mut said = Vec::new();
    let at_once = RotateArguments { no_wait: true, timeout: 60 };
    authority::rotate(&client, &at_once, |text| said.push(text.to_owned())).await.expect("it is asked for");
    let first = asked().await.expect("it is asked for");
    authority::rotate(&client, &at_once, |text| said.push(text.to_owned())).await.expect("it is followed");
    assert_eq!(asked().await, Some(first), "once");
    assert!(said[0].starts_with("asked for") && said[1].contains("under way already"), "{said:?}");

    let late = RotateArguments { no_wait: false, timeout: 0 };
    let error = authority::rotate(&client, &late, |_| ()).await.unwrap_err().to_string();
    assert!(error.contains("waiting for an operator to begin"), "{error}");
    let annotate = async |annotations: Value| {
        let change = json!({ "metadata": { "annotations": annotations } });
        Request::merge(&path, &change).send(&client).await.expect_ok();
    };
    annotate(json!({ "epic.acnodal.io/authority-progress": "1 of 3: proxies trust both" })).await;
    let waits = RotateArguments { no_wait: false, timeout: 60 };
    let ends = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        annotate(
            json!({ "epic.acnodal.io/authority-progress": null, "epic.acnodal.io/rotate-authority": null,
            "epic.acnodal.io/authority-rotated": "2026-01-01T00:00:00Z" }),
        )
        .await;
    };
    let mut said = Vec::new();
    let followed = authority::rotate(&client, &waits, |text| said.push(text.to_owned()));
    let (followed, ()) = tokio::join!(followed, ends);
    followed.expect("it comes to its end");
    assert_eq!(said.last().map(String::as_str), Some("complete at 2026-01-01T00:00:00Z"), "{said:?}");
    assert!(said.iter().any(|text| text == "1 of 3: proxies trust both"), "{said:?}");
}

/// A claim for an owner, marked if `revision` is given.
async fn claim(address: &str, owner: &Value, revision: Option<&str>) {
    let spec = json!({ "address": address, "pool": "default", "owner": {
        "kind": "LoadBalancer",
        "namespace": owner["metadata"]["namespace"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "resource-version": owner["metadata"]["resourceVersion"],
    } });
    create(&object("AddressClaim", "epic", address, spec)).await;
    if let Some(revision) = revision {
        let status = json!({ "phase": "Releasing", "release-revision": revision });
        set_status("addressclaims", "epic", address, status).await;
    }
}

async fn stored(address: &str) -> Option<Value> {
    let path = format!("/apis/epic.acnodal.io/v1/namespaces/epic/addressclaims/{address}");
    let answer = Request::get(&path).send(&admin().await).await;
    (answer.code != 404).then(|| answer.expect_ok())
}

async fn release(address: &str, consent: Consent) -> Result<(), release::Error> {
    let parsed: IpAddr = address.parse().expect("an address");
    release::release(&admin().await, parsed, consent).await
}

#[tokio::test]
async fn an_address_in_use_stays() {
    tenant("used").await;
    let owner = create(&load_balancer("epic-used", "web")).await;
    claim("192.0.2.10", &owner, None).await;
    set_status("loadbalancers", "epic-used", "web", json!({ "public-address": "192.0.2.10" })).await;
    let error = release("192.0.2.10", Consent::Yes).await.unwrap_err().to_string();
    assert!(error.contains("LoadBalancer epic-used/web has it"), "{error}");
    assert!(stored("192.0.2.10").await.is_some());
}

#[tokio::test]
async fn the_claim_of_a_gone_owner_is_marked_with_the_revision_that_showed_it_gone() {
    tenant("gone").await;
    let owner = create(&load_balancer("epic-gone", "web")).await;
    claim("192.0.2.11", &owner, None).await;
    let path = "/apis/epic.acnodal.io/v1/namespaces/epic-gone/loadbalancers/web";
    Request::delete(path).send(&admin().await).await.expect_ok();
    release("192.0.2.11", Consent::No).await.expect("it only says so");
    assert_eq!(stored("192.0.2.11").await.expect("still there")["status"]["phase"], Value::Null);
    release("192.0.2.11", Consent::Yes).await.expect("it is marked");
    let marked = stored("192.0.2.11").await.expect("still there");
    assert_eq!(marked["status"]["phase"], "Releasing");
    let revision: u64 = marked["status"]["release-revision"].as_str().unwrap().parse().unwrap();
    let created: u64 = owner["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(revision > created, "{revision} is later than {created}");
}

#[tokio::test]
async fn a_claim_on_its_way_out_is_deleted_with_consent_alone() {
    tenant("out").await;
    let owner = create(&load_balancer("epic-out", "web")).await;
    claim("192.0.2.12", &owner, Some("1")).await;
    // Cargo's tests have no terminal, or one at which nobody types.
    release("192.0.2.12", Consent::No).await.expect("it only says so");
    assert!(stored("192.0.2.12").await.is_some());
    release("192.0.2.12", Consent::Yes).await.expect("it is deleted");
    assert!(stored("192.0.2.12").await.is_none());
    release("192.0.2.12", Consent::Yes).await.expect("there is nothing to release");
}

#[tokio::test]
async fn the_screen_shows_an_account_with_what_belongs_to_it() {
    tenant("shown").await;
    create(&load_balancer("epic-shown", "web")).await;
    create(&object(
        "Endpoint",
        "epic-shown",
        "pod",
        json!({ "load-balancer": "web", "address": "10.244.1.5", "port": { "port": 8080, "protocol": "TCP" } }),
    ))
    .await;
    for (name, accounts) in [("for-shown", json!(["shown"])), ("for-others", json!(["other"]))] {
        let spec = json!({ "addresses": ["192.0.2.64/32"], "accounts": accounts });
        create(&object("AddressPool", "epic", name, spec)).await;
    }
    let found = overview::gather(&admin().await, Some("shown")).await.expect("everything is read");
    let screen = render(&judge(&found, Timestamp::now()));
    assert!(screen.contains("LOAD BALANCER epic-shown/web  no address yet 80/TCP"), "{screen}");
    assert!(screen.contains("10.244.1.5:8080/TCP"), "{screen}");
    assert!(screen.contains("NoEpic"), "{screen}");
    assert!(screen.contains("for-shown"), "{screen}");
    assert!(!screen.contains("epic-used") && !screen.contains("for-others"), "{screen}");
}

#[tokio::test]
async fn a_tenant_sees_its_own_and_is_told_what_it_may_not_list() {
    tenant("limited").await;
    create(&load_balancer("epic-limited", "web")).await;
    create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": "tenant", "namespace": "epic-limited" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "epic-tenant" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice" }],
    }))
    .await;
    let alice = shared().await.client(&Identity::user("alice")).await.unwrap();
    let screen = eventually("alice's rights", || async {
        let found = overview::gather(&alice, Some("limited")).await.expect("what may be read");
        (!found.forbidden.contains(&"loadbalancers".to_owned()))
            .then(|| render(&judge(&found, Timestamp::now())))
    })
    .await;
    assert!(
        screen.contains("you may not list epics, epicnodes, leases, accounts, addresspools, addressclaims"),
        "{screen}"
    );
    assert!(screen.contains("LOAD BALANCER epic-limited/web"), "{screen}");
    assert!(!screen.contains("NoEpic"), "{screen}");
}
