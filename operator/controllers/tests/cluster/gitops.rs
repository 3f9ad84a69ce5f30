//! A GitOps tool and the operator on the same objects: neither takes anything from the other, and what was applied once
//! stays applied.

use std::collections::BTreeMap;

use epic_control_plane::Request;
use kube::Client;
use serde_json::{Value, json};

use super::Cluster;
use super::harness::Harness;
use super::operator::Operator;
use super::orders::samples;
use super::tenants::{unconverged, until_nothing_is_left};

/// Rounds of applies while the operator works.
const ROUNDS: usize = 5;

/// Tenants' namespaces, which such a repository may bring along, and everything else.
fn repository() -> Vec<Value> {
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    ["epic-sample", "epic-other"].map(namespace).into_iter().chain(samples()).collect()
}

/// Applies everything as the tool does, server-side and without force: what somebody else has set to another value is
/// a conflict. Answers versions by path.
async fn apply_all(client: &Client, objects: &[Value]) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for object in objects {
        let answer = Request::apply_as("gitops", object).send(client).await;
        assert!(answer.is_ok(), "{}: {}", Request::path_of(object), answer.message());
        let version = answer.body["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        versions.insert(Request::path_of(object), version);
    }
    versions
}

/// What `kubectl diff --server-side` would print: an apply that is only tried, compared with what is there.
async fn differences(client: &Client, objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for object in objects {
        let path = Request::path_of(object);
        let live = Request::get(&path).send(client).await.expect_ok();
        let tried = Request::apply_as("gitops", object).dry_run().send(client).await.expect_ok();
        let without = |mut of: Value| {
            let metadata = of["metadata"].as_object_mut().expect("metadata");
            metadata.retain(|key, _| key != "managedFields" && key != "resourceVersion");
            of
        };
        let (live, tried) = (without(live), without(tried));
        if live["spec"] != tried["spec"] || live["metadata"] != tried["metadata"] {
            found.push(format!("{path}: {live} is not {tried}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_applies_neither_fight_with_the_operator_nor_drift() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 2).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    let objects = repository();
    // While everything is allocated and completed, and once more when nothing moves any more.
    for _ in 0..ROUNDS {
        apply_all(&cluster.admin, &objects).await;
    }
    until_nothing_is_left("everything being served", || unconverged(&cluster.admin)).await;
    until_nothing_is_left("nothing to be applied", || differences(&cluster.admin, &objects)).await;
    let writes = operator.writes().await;
    let versions = apply_all(&cluster.admin, &objects).await;
    for _ in 0..ROUNDS {
        assert_eq!(
            apply_all(&cluster.admin, &objects).await,
            versions,
            "an apply of the same writes nothing"
        );
    }
    assert_eq!(operator.writes().await, writes, "and makes the operator write nothing");

    // An edit of the repository comes into force; what the operator completed stays.
    let mut edited = objects.clone();
    let balancer = edited.iter_mut().find(|object| object["kind"] == "LoadBalancer").expect("a LoadBalancer");
    balancer["spec"]["display-name"] = json!("edited in the repository");
    let path = Request::path_of(balancer);
    let before = Request::get(&path).send(&cluster.admin).await.expect_ok();
    apply_all(&cluster.admin, &edited).await;
    let after = Request::get(&path).send(&cluster.admin).await.expect_ok();
    assert_eq!(after["spec"]["display-name"], "edited in the repository");
    for field in ["service-id", "public-address"] {
        assert!(after["spec"][field] == before["spec"][field] && !after["spec"][field].is_null(), "{field}");
    }
    until_nothing_is_left("the edit being in force", || unconverged(&cluster.admin)).await;
    until_nothing_is_left("nothing to be applied", || differences(&cluster.admin, &edited)).await;
    // Namespaces that were there before are adopted, and stay the tool's.
    for name in ["epic-sample", "epic-other"] {
        let found =
            Request::get(&format!("/api/v1/namespaces/{name}")).send(&cluster.admin).await.expect_ok();
        assert!(found["metadata"]["labels"]["epic.acnodal.io/account"].is_string(), "{found}");
        assert!(found["metadata"]["annotations"]["epic.acnodal.io/created-for"].is_null(), "{found}");
    }
}
