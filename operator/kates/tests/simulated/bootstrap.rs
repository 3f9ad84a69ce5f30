//! Nothing before every query has listed, and what counts as listed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kates::Query;
use kube::api::{ApiResource, DynamicObject};
use kube::core::Selector;
use tokio::time::timeout;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_is_a_snapshot() {
    let server = Server::new();
    let watched =
        client(&server).accumulate().watch::<ConfigMap>(Query::all()).watch::<Secret>(Query::all()).start();
    assert!(watched.snapshot().is_none());
    let snapshot = watched.synced().await;
    assert!(snapshot.view::<ConfigMap>().is_empty() && snapshot.view::<Secret>().is_empty());
    assert_eq!(snapshot.revision::<Secret>().unwrap().as_str(), "100");
    assert!(watched.pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_forbidden_kind_is_not_empty_but_pending_and_recovers_by_itself() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    server.forbid("secrets");
    let watched =
        client(&server).accumulate().watch::<ConfigMap>(Query::all()).watch::<Secret>(Query::all()).start();
    eventually(&watched, "the refusal is named", |watched| {
        watched.pending().get("secrets").is_some_and(|reason| reason.contains("forbidden by RBAC"))
    })
    .await;
    assert!(watched.snapshot().is_none() && !watched.pending().contains_key("configmaps"));
    server.allow("secrets");
    let snapshot = timeout(Duration::from_secs(60), watched.synced()).await.unwrap();
    assert_eq!(snapshot.view::<ConfigMap>().len(), 1);
    assert!(watched.pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_refused_later_keeps_what_was_known_and_is_pending() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.hide("configmaps");
    server.cut();
    eventually(&watched, "the kind is pending", |watched| watched.pending().contains_key("configmaps")).await;
    let snapshot = watched.snapshot().unwrap();
    assert_eq!(snapshot.view::<ConfigMap>().len(), 1);
    assert_eq!(snapshot.stale().map(|(name, _)| name).collect::<Vec<_>>(), ["configmaps"]);
    server.remove("configmaps", "a", "x");
    server.serve("configmaps");
    eventually(&watched, "the deletion is noticed", |watched| {
        watched.snapshot().unwrap().view::<ConfigMap>().is_empty()
    })
    .await;
    assert!(watched.pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_list_arrives_whole() {
    let server = Server::new();
    for number in 0..1203 {
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
    }
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    let snapshot = watched.synced().await;
    assert_eq!(shown::<ConfigMap>(&snapshot), server.state("configmaps"));
    assert_eq!(server.lists("configmaps"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_query_is_watched_once_however_many_read_it() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let client = client(&server);
    let first = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    let second = client.accumulate().watch::<ConfigMap>(Query::all()).watch::<Service>(Query::all()).start();
    let (one, two) = (first.synced().await, second.synced().await);
    let at = key("a", "x");
    assert!(std::sync::Arc::ptr_eq(one.get::<ConfigMap>(&at).unwrap(), two.get::<ConfigMap>(&at).unwrap()));
    assert_eq!((server.lists("configmaps"), server.watches("configmaps")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn typed_and_untyped_queries_with_selectors_stand_side_by_side() {
    let server = Server::new();
    for (namespace, name, app) in [("a", "x", "web"), ("a", "y", "db"), ("b", "x", "web")] {
        let mut object = raw("ConfigMap", namespace, name);
        object["metadata"]["labels"] = json!({"app": app});
        server.put("configmaps", object);
    }
    let untyped = ApiResource::erase::<ConfigMap>(&());
    let watched = client(&server)
        .accumulate()
        .watch_as::<ConfigMap>("web", Query::all().labels(Selector::from_iter([("app", "web")])))
        .watch_as::<ConfigMap>("a", Query::namespace("a"))
        .watch_as::<ConfigMap>("one", Query::namespace("a").field("metadata.name", "y"))
        .watch_kind::<DynamicObject>("untyped", untyped, Query::all())
        .start();
    let snapshot = watched.synced().await;
    let names = |name: &str| -> Vec<String> {
        snapshot.named::<ConfigMap>(name).iter().map(|object| Key::of(&**object).to_string()).collect()
    };
    assert_eq!(names("web"), ["a/x", "b/x"]);
    assert_eq!(names("a"), ["a/x", "a/y"]);
    assert_eq!(names("one"), ["a/y"]);
    let untyped = snapshot.view::<DynamicObject>();
    assert_eq!(untyped.len(), 3);
    assert_eq!(untyped.in_namespace("a").count(), 2);
    assert_eq!(untyped.iter().next().unwrap().types.as_ref().unwrap().kind, "ConfigMap");
}

#[tokio::test(start_paused = true)]
async fn a_list_older_than_what_was_acted_on_is_refused() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all().not_older_than("105")).start();
    eventually(&watched, "the reason is named", |watched| {
        watched.pending().get("configmaps").is_some_and(|reason| reason.contains("older than 105"))
    })
    .await;
    for number in 0..5 {
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
    }
    assert_eq!(watched.synced().await.view::<ConfigMap>().len(), 5);
}
