//! What a node agent reads and writes on a real API server, with the rights and the token of its own pod.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use epic_agent::desired::node::{self, Claim, Objects};
use epic_agent::node::arp::Arp;
use epic_agent::node::guard::Guard;
use epic_agent::node::judgement::Judgement;
use epic_agent::node::report::{self, Report};
use epic_agent::node::{owner, removal, told};
use epic_control_plane::{Identity, Request, eventually, shared, token};
use epic_crds::well_known::{EPIC_NAMESPACE, ROLE_NODE, SERVICE_ACCOUNT_NODE};
use epic_crds::{EPICNode, EPICNodeReason};
use epic_model::id::NodeName;
use epic_model::owner as node_owner;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kates::{Key, Query};
use kube::Client;
use serde_json::{Value, json};

async fn admin() -> Client {
    shared().await.admin().await.unwrap()
}

async fn client(identity: Identity) -> Client {
    shared().await.client(&identity).await.unwrap()
}

/// A Node, Ready in this boot.
async fn make_node(name: &str, boot: &str) -> Node {
    let admin = admin().await;
    // Nothing is scheduled here but what says so: nobody would run it.
    let taint = json!({"key": "test", "effect": "NoSchedule"});
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}});
    Request::create(&node).send(&admin).await.expect_ok();
    let known = json!({
        "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
        "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "", "bootID": boot,
    });
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
            "lastHeartbeatTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}],
        "nodeInfo": known,
    }});
    let path = format!("/api/v1/nodes/{name}/status");
    serde_json::from_value(Request::strategic(&path, &status).send(&admin).await.expect_ok()).unwrap()
}

/// The agent of a node: whoever has the token of its pod.
async fn agent(node: &str) -> Client {
    let admin = admin().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("agent-{node}"), "namespace": EPIC_NAMESPACE},
        "spec": {"nodeName": node, "serviceAccountName": SERVICE_ACCOUNT_NODE,
            "containers": [{"name": "agent", "image": "epic/agent:dev"}]},
    });
    let pod = Request::create(&pod).send(&admin).await.expect_ok();
    let bound = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
    });
    let token = token(&admin, EPIC_NAMESPACE, SERVICE_ACCOUNT_NODE, Some(bound)).await.unwrap();
    client(Identity::Token(token)).await
}

/// What the agent of this node reports of itself in this boot, written as it does.
async fn report(agent: &Client, node: &Node, boot: &str) -> EPICNode {
    let (name, client) = (node.metadata.name.clone().unwrap(), kates::Client::new(agent.clone()));
    let ready = Judgement::new(true, EPICNodeReason::Ready, "");
    let said = Report { boot_id: boot.to_owned(), ready: Some(ready), ..Report::default() };
    report::write(&client, &name, Some(&owner::reference(node)), &said).await.unwrap();
    client.get(&Key::namespaced(EPIC_NAMESPACE, name.as_str())).await.unwrap()
}

/// Type and note of the Events of a reason about an EPICNode.
async fn told_of(node: &str, reason: &str) -> Vec<(String, String)> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{EPIC_NAMESPACE}/events");
    let events = Request::get(&path).send(&admin().await).await.expect_ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |event: &&Value| {
        event["reason"] == reason
            && event["regarding"]["kind"] == "EPICNode"
            && event["regarding"]["name"] == node
            && event["regarding"]["uid"].is_string()
    };
    let events = events["items"].as_array().into_iter().flatten();
    events.filter(of).map(|event| (text(&event["type"]), text(&event["note"]))).collect()
}

#[tokio::test]
async fn somebody_else_who_has_an_address_is_told_on_the_epic_node_and_so_is_his_end() {
    let (name, vip, router) = ("conflict", "192.0.2.7", [2, 0, 0, 0, 0, 9]);
    let node = make_node(name, "first").await;
    let agent = agent(name).await;
    let own = report(&agent, &node, "first").await;
    let events = told::recorder(&agent, name);

    let (mut guard, start) = (Guard::default(), Instant::now());
    let claim = Claim { uid: "u".into(), gateway: false };
    assert!(!guard.may_answer(vip.parse().unwrap(), &claim, false, start, &Time(Timestamp::now())));
    guard.due(start);
    let answer = Arp { mac: router, sender: vip.parse().unwrap(), target: "192.0.2.4".parse().unwrap() };
    assert!(guard.hear(&answer, start, &Time(Timestamp::now())));
    for news in guard.news() {
        told::publish(&events, &own, &news).await.unwrap();
    }
    let note = format!(
        "02:00:00:00:00:09 answers for {vip}, which is no EPIC node; this node does not answer for it; \
         take the address out of its pool, or away from there"
    );
    assert_eq!(told_of(name, "AddressConflict").await, [("Warning".to_owned(), note)]);
    assert_eq!(told_of(name, "AddressConflictEnded").await, []);

    // He answers no more, however often he is asked.
    let mut rounds = 0..100;
    while !guard.conflicts().is_empty() {
        assert!(rounds.next().is_some(), "the conflict does not end");
        let next = guard.next().unwrap();
        guard.due(next);
    }
    for news in guard.news() {
        told::publish(&events, &own, &news).await.unwrap();
    }
    let note = format!("nobody else answers for {vip} any more; this node does");
    assert_eq!(told_of(name, "AddressConflictEnded").await, [("Normal".to_owned(), note)]);
}

/// The nodes that may own addresses, as an agent decides by what the API server shows it.
async fn eligible(client: &kates::Client) -> BTreeSet<NodeName> {
    let nodes = client.list::<Node>(&Query::all()).await.unwrap();
    let epic_nodes = client.list::<EPICNode>(&Query::namespace(EPIC_NAMESPACE)).await.unwrap();
    let objects = Objects {
        nodes: nodes.items.into_iter().map(Into::into).collect(),
        epic_nodes: epic_nodes.items.into_iter().map(Into::into).collect(),
        ..Objects::default()
    };
    node_owner::eligible(&node::candidates(&objects), &BTreeSet::new())
}

#[tokio::test]
async fn a_node_that_was_rebooted_owns_nothing_until_its_agent_has_reported_from_that_boot() {
    let name = "rebooted";
    let node = make_node(name, "first").await;
    let agent = agent(name).await;
    let reads = kates::Client::new(agent.clone());
    let (owns, node_name) = (async || eligible(&reads).await, NodeName::new(name));
    report(&agent, &node, "first").await;
    assert!(owns().await.contains(&node_name));

    // The kubelet is back before the agent.
    let boot = json!({"status": {"nodeInfo": {"bootID": "second"}}});
    let path = format!("/api/v1/nodes/{name}/status");
    Request::strategic(&path, &boot).send(&admin().await).await.expect_ok();
    assert!(!owns().await.contains(&node_name), "its programs and maps are lost");
    report(&agent, &node, "second").await;
    assert!(owns().await.contains(&node_name));
}

/// Somebody with the rights of a node agent in EPIC's namespace, which can be taken away without hurting others.
async fn binding(name: &str) -> Value {
    let admin = admin().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": EPIC_NAMESPACE}});
    Request::create(&account).send(&admin).await.expect_ok();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": EPIC_NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE_NODE},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": EPIC_NAMESPACE}],
    });
    Request::create(&binding).send(&admin).await.expect_ok();
    binding
}

/// A DaemonSet that has no pod anywhere.
fn daemon_set(name: &str) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": EPIC_NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"nodeSelector": {"nowhere": "true"}, "containers": [{"name": "agent", "image": "epic/agent:dev"}]},
        }},
    })
}

async fn until_answered(agent: &Client, path: &str, code: u16) {
    eventually(&format!("{path} answering {code}"), || async {
        (Request::get(path).send(agent).await.code == code).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_knows_with_its_own_rights_that_its_daemon_set_was_deleted_and_not_when_they_are_taken() {
    let (name, admin) = ("taken", admin().await);
    let (binding, object) = (binding(name).await, daemon_set(name));
    let path = Request::path_of(&object);
    Request::create(&object).send(&admin).await.expect_ok();
    let agent = client(Identity::service_account(EPIC_NAMESPACE, name)).await;
    until_answered(&agent, &path, 200).await;
    let reads = kates::Client::new(agent.clone());
    let watch = || {
        let here = Query::namespace(EPIC_NAMESPACE).field("metadata.name", name);
        reads.accumulate().watch::<DaemonSet>(here).start()
    };
    let seen = watch();
    seen.synced().await;
    assert!(!removal::ask(&reads, &seen, name).await, "a restart");

    Request::delete(&Request::path_of(&binding)).send(&admin).await.expect_ok();
    until_answered(&agent, &path, 403).await;
    assert!(!removal::ask(&reads, &seen, name).await, "the right alone was taken");
    Request::create(&binding).send(&admin).await.expect_ok();
    until_answered(&agent, &path, 200).await;

    // As `kubectl delete -f` and a GitOps tool do it: all objects one after the other, whatever they are.
    let mut updates = seen.updates();
    Request::delete(&path).send(&admin).await.expect_ok();
    let gone = async {
        while removal::watched(seen.snapshot().as_ref(), name) != removal::Seen::Gone {
            updates.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    Request::delete(&Request::path_of(&binding)).send(&admin).await.expect_ok();
    until_answered(&agent, &path, 403).await;
    assert!(removal::ask(&reads, &seen, name).await, "the watch had shown it before the right was gone");
}
