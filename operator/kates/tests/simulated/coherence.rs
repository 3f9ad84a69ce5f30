//! Snapshots contain every own write that returned, whatever the watch is doing.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kates::{Deletion, Query};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::Selector;

use super::*;

#[tokio::test(start_paused = true)]
async fn own_creates_updates_and_status_updates_are_shown_while_the_watch_lags() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<Service>(Query::all()).start();
    watched.synced().await;
    server.lag("services");
    let at = key("a", "x");
    let mut service: Service = serde_json::from_value(raw("Service", "a", "x")).unwrap();
    client.create(&mut service).await.unwrap();
    assert!(service.metadata.uid.is_some(), "the caller's value is the server's");
    for number in 0..25 {
        service.metadata.annotations = Some([("n".to_owned(), number.to_string())].into());
        client.update(&mut service).await.unwrap();
        service.status = serde_json::from_value(
            json!({"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{number}")}]}}),
        )
        .unwrap();
        client.update_status(&mut service).await.unwrap();
        let snapshot = watched.snapshot().unwrap();
        assert_eq!(**snapshot.get::<Service>(&at).unwrap(), service);
    }
    assert_eq!(watched.status()["services"].ahead, 1);
    server.catch_up("services");
    eventually(&watched, "the overlay is empty", |watched| watched.status()["services"].ahead == 0).await;
    assert_eq!(**watched.snapshot().unwrap().get::<Service>(&at).unwrap(), service);
}

#[tokio::test(start_paused = true)]
async fn an_own_deletion_hides_the_object_and_a_successor_of_the_same_name_is_another() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    watched.synced().await;
    server.lag("configmaps");
    let at = key("a", "x");
    assert!(matches!(client.delete::<ConfigMap>(&at).await.unwrap(), Deletion::Gone));
    assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
    let mut again = config_map("a", "x");
    client.create(&mut again).await.unwrap();
    assert_eq!(watched.snapshot().unwrap().get::<ConfigMap>(&at).unwrap().metadata.uid, again.metadata.uid);
    assert!(matches!(client.delete_this(&again).await.unwrap(), Deletion::Gone));
    server.catch_up("configmaps");
    // At no point of catching up does one of the two come back.
    for _ in 0..200 {
        tokio::task::yield_now().await;
        assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_watch_has_not_even_seen_the_creation_of_stays_hidden() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.lag("configmaps");
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let at = key("a", "x");
    client.delete::<ConfigMap>(&at).await.unwrap();
    let mut changes = Box::pin(watched.changes::<ConfigMap>());
    server.catch_up("configmaps");
    server.put("configmaps", raw("ConfigMap", "a", "y"));
    eventually(&watched, "the watch has caught up", |watched| {
        watched.snapshot().unwrap().get::<ConfigMap>(&key("a", "y")).is_some()
    })
    .await;
    let first = futures::StreamExt::next(&mut changes).await.unwrap();
    assert!(first.iter().all(|change| change.key != at));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_held_back_by_a_finalizer_shows_the_object_as_it_is_now() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.lag("configmaps");
    let mut object = config_map("a", "x");
    object.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    client.create(&mut object).await.unwrap();
    let Deletion::Terminating(mut held) = client.delete_this(&object).await.unwrap() else {
        panic!("the finalizer holds it")
    };
    let at = key("a", "x");
    let snapshot = watched.snapshot().unwrap();
    assert!(snapshot.get::<ConfigMap>(&at).unwrap().metadata.deletion_timestamp.is_some());
    // The update that takes the last finalizer off is what deletes it.
    held.metadata.finalizers = None;
    client.update(&mut *held).await.unwrap();
    assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
    server.catch_up("configmaps");
    eventually(&watched, "the overlay is empty", |watched| watched.status()["configmaps"].ahead == 0).await;
    assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
}

#[tokio::test(start_paused = true)]
async fn own_objects_outside_a_query_or_leaving_it_are_not_shown() {
    let server = Server::new();
    let client = client(&server);
    let web = Selector::from_iter([("app", "web")]);
    let watched = client
        .accumulate()
        .watch_as::<ConfigMap>("web", Query::namespace("a").labels(web))
        .watch_as::<ConfigMap>("named", Query::all().field("metadata.name", "x"))
        .start();
    watched.synced().await;
    server.lag("configmaps");
    for (namespace, name, app) in [("a", "x", "web"), ("b", "x", "web"), ("a", "y", "db")] {
        let mut object = config_map(namespace, name);
        object.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
        client.create(&mut object).await.unwrap();
    }
    let names = |name: &str| -> Vec<String> {
        let snapshot = watched.snapshot().unwrap();
        snapshot.named::<ConfigMap>(name).iter().map(|object| Key::of(&**object).to_string()).collect()
    };
    assert_eq!(names("web"), ["a/x"]);
    assert_eq!(names("named"), ["a/x", "b/x"]);
    let away = Patch::Merge(json!({"metadata": {"labels": {"app": "db"}}}));
    client.patch::<ConfigMap, _>(&key("a", "x"), &PatchParams::default(), &away).await.unwrap();
    assert!(names("web").is_empty());
    let back = Patch::Merge(json!({"metadata": {"labels": {"app": "web"}}}));
    client.patch::<ConfigMap, _>(&key("a", "x"), &PatchParams::default(), &back).await.unwrap();
    server.catch_up("configmaps");
    for _ in 0..200 {
        tokio::task::yield_now().await;
        assert_eq!(names("web"), ["a/x"], "leaving and coming back is not seen again");
    }
    // What the query never shows is forgotten as soon as a bookmark says that the watch is past it.
    client.create(&mut config_map("a", "plain")).await.unwrap();
    assert_eq!(watched.status()["web"].ahead, 1);
    server.bookmark("configmaps");
    eventually(&watched, "the overlay is empty", |watched| watched.status()["web"].ahead == 0).await;
}

#[tokio::test(start_paused = true)]
async fn typed_writes_show_in_untyped_queries_and_the_other_way_round() {
    let server = Server::new();
    let client = client(&server);
    let kind = ApiResource::erase::<ConfigMap>(&());
    let watched = client
        .accumulate()
        .watch::<ConfigMap>(Query::all())
        .watch_kind::<DynamicObject>("untyped", kind.clone(), Query::all())
        .start();
    watched.synced().await;
    server.lag("configmaps");
    client.create(&mut config_map("a", "typed")).await.unwrap();
    let mut untyped = DynamicObject::new("untyped", &kind).within("a");
    untyped.data = json!({"data": {"k": "v"}});
    client.kind_of::<DynamicObject>(kind).create(&mut untyped).await.unwrap();
    let snapshot = watched.snapshot().unwrap();
    assert_eq!(snapshot.view::<ConfigMap>().len(), 2);
    assert_eq!(snapshot.view::<DynamicObject>().len(), 2);
    let data = snapshot.get::<ConfigMap>(&key("a", "untyped")).unwrap().data.clone().unwrap();
    assert_eq!(data["k"], "v");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_with_one_own_write_has_the_ones_before_it() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).watch::<Secret>(Query::all()).start();
    watched.synced().await;
    server.lag("configmaps");
    server.lag("secrets");
    let mut last = None;
    for number in 0..10 {
        client.create(&mut config_map("a", &format!("x{number}"))).await.unwrap();
        let mut secret: Secret = serde_json::from_value(raw("Secret", "a", &format!("x{number}"))).unwrap();
        client.create(&mut secret).await.unwrap();
        let snapshot = watched.snapshot().unwrap();
        for secret in snapshot.list::<Secret>() {
            assert!(snapshot.get::<ConfigMap>(&Key::of(&**secret)).is_some());
        }
        let changes = snapshot.changes_since::<Secret>(last.as_ref());
        assert_eq!(changes.len(), 1);
        assert!(changes[0].before.is_none());
        last = Some(snapshot);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_taken_while_another_thread_writes_has_no_write_without_its_predecessor() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).watch::<Secret>(Query::all()).start();
    watched.synced().await;
    let writer = tokio::spawn(async move {
        for number in 0..3000 {
            let name = format!("x{number}");
            client.create(&mut config_map("a", &name)).await.unwrap();
            let mut secret: Secret = serde_json::from_value(raw("Secret", "a", &name)).unwrap();
            client.create(&mut secret).await.unwrap();
        }
    });
    let mut last = watched.snapshot().unwrap();
    let mut taken = 0;
    while !writer.is_finished() {
        let snapshot = watched.snapshot().unwrap();
        for change in snapshot.changes_since::<Secret>(Some(&last)) {
            assert!(
                snapshot.get::<ConfigMap>(&change.key).is_some(),
                "{} came without its predecessor",
                change.key
            );
        }
        last = snapshot;
        taken += 1;
    }
    writer.await.unwrap();
    assert!(taken > 100, "{taken} snapshots: the test tests little");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_told_apart_and_an_unversioned_update_is_never_sent() {
    let server = Server::new();
    let client = client(&server);
    let mut object = config_map("a", "x");
    client.create(&mut object).await.unwrap();
    let mut stale = object.clone();
    client.update(&mut object).await.unwrap();
    let before = stale.clone();
    assert!(client.update(&mut stale).await.unwrap_err().is_conflict());
    assert_eq!(stale, before, "a failed write leaves the caller's value alone");
    let taken = client.create(&mut config_map("a", "x")).await.unwrap_err();
    assert!(taken.is_already_exists() && !taken.is_conflict());
    stale.metadata.resource_version = None;
    assert!(matches!(client.update(&mut stale).await, Err(kates::Error::Unversioned { .. })));
    client.upsert(&mut stale).await.unwrap();
    assert_eq!(stale.metadata.uid, object.metadata.uid);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_watch_has_passed_already_adds_nothing() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    let mut object = config_map("a", "x");
    client.create(&mut object).await.unwrap();
    eventually(&watched, "the overlay is empty", |watched| watched.status()["configmaps"].ahead == 0).await;
    server.remove("configmaps", "a", "x");
    eventually(&watched, "the deletion is seen", |watched| {
        watched.snapshot().unwrap().view::<ConfigMap>().is_empty()
    })
    .await;
}
