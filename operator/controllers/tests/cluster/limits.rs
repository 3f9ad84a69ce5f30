//! What a tenant can have within its limits, whatever it switches to and fro.

use epic_control_plane::{Request, eventually};
use epic_crds::condition::ACCEPTED;
use epic_crds::{HasConditions, LoadBalancer};
use kube::ResourceExt;
use serde_json::json;

use super::Cluster;
use super::harness::Harness;
use super::operator::Operator;
use super::tenants::{all, load_balancer, object, unconverged, until_nothing_is_left};

/// Pods of a LoadBalancer's Deployment, by its spec.
async fn replicas(cluster: &Cluster, balancer: &str) -> Option<i64> {
    let path = "/apis/apps/v1/namespaces/epic-red/deployments";
    let list = Request::get(path).send(&cluster.admin).await.expect_ok();
    let beginning = format!("epic-{balancer}-");
    let items = list["items"].as_array()?;
    let named = |item: &&serde_json::Value| {
        item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(&beginning))
    };
    items.iter().find(named)?["spec"]["replicas"].as_i64()
}

async fn reason_of(cluster: &Cluster, balancer: &str) -> Option<String> {
    let found = all::<LoadBalancer>(&cluster.admin).await;
    let found = found.iter().find(|found| found.name_any() == balancer)?;
    found.condition(ACCEPTED).map(|known| known.reason.clone())
}

/// Figures are written late: waits for this one.
async fn until_usage(cluster: &Cluster, proxies: i64) {
    eventually("the figure being written", || async {
        (usage(cluster).await == Some(proxies)).then_some(())
    })
    .await;
}

async fn usage(cluster: &Cluster) -> Option<i64> {
    let path = "/apis/epic.acnodal.io/v1/namespaces/epic/accounts/red";
    Request::get(path).send(&cluster.admin).await.expect_ok()["status"]["usage"]["proxies"].as_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_load_balancer_grows_only_into_what_the_others_leave() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    for object in [
        object("EPIC", "epic", "epic", json!({})),
        object("AddressPool", "epic", "default", json!({"addresses": ["192.0.2.0/28"]})),
        object("Account", "epic", "red", json!({"proxy-limit": 4})),
    ] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
    until_nothing_is_left("the account being ready", || unconverged(&cluster.admin)).await;
    let names = ["first", "second"];
    for (name, replicas) in names.iter().zip([1, 3]) {
        let group = object("ServiceGroup", "epic-red", name, json!({"envoy-replicas": replicas}));
        Request::create(&group).send(&cluster.admin).await.expect_ok();
        let balancer = load_balancer("epic-red", name, name);
        Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    }
    until_nothing_is_left("both being served", || unconverged(&cluster.admin)).await;
    until_usage(&cluster, 4).await;

    // Whatever their uids, neither takes what the other one has.
    for (grows, stays, has) in [("first", "second", 3), ("second", "first", 1)] {
        let group = format!("/apis/epic.acnodal.io/v1/namespaces/epic-red/servicegroups/{grows}");
        let before = replicas(&cluster, grows).await;
        let wanted = json!({"spec": {"envoy-replicas": 4}});
        Request::merge(&group, &wanted).send(&cluster.admin).await.expect_ok();
        eventually("the one that grows being refused", || async {
            (reason_of(&cluster, grows).await.as_deref() == Some("ProxyLimitExceeded")).then_some(())
        })
        .await;
        assert_eq!(replicas(&cluster, grows).await, before);
        assert_eq!(replicas(&cluster, stays).await, Some(has));
        assert_eq!(reason_of(&cluster, stays).await.as_deref(), Some("Accepted"));
        until_usage(&cluster, 4).await;
        if grows == "second" {
            break;
        }
        Request::merge(&group, &json!({"spec": {"envoy-replicas": before}}))
            .send(&cluster.admin)
            .await
            .expect_ok();
        until_nothing_is_left("both being served again", || unconverged(&cluster.admin)).await;
    }
    // The pods of the one that goes make room when they are gone.
    let first = Request::path_of(&load_balancer("epic-red", "first", "first"));
    Request::delete(&first).send(&cluster.admin).await.expect_ok();
    eventually("the other one having all", || async {
        let all = replicas(&cluster, "second").await == Some(4) && usage(&cluster).await == Some(4);
        (all && reason_of(&cluster, "second").await.as_deref() == Some("Accepted")).then_some(())
    })
    .await;
    until_nothing_is_left("it being served", || unconverged(&cluster.admin)).await;
}
