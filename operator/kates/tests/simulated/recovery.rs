//! Watches that end, histories that are gone, servers that go away, objects that cannot be read.

use k8s_openapi::api::core::v1::ConfigMap;
use kates::{Condition, Query};

use super::*;

fn broken(namespace: &str, name: &str) -> Value {
    let mut object = raw("ConfigMap", namespace, name);
    object["data"] = json!("not a map");
    object
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    for number in 0..5 {
        server.cut();
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
        eventually(&watched, "the object is seen", |watched| {
            shown::<ConfigMap>(&watched.snapshot().unwrap()) == server.state("configmaps")
        })
        .await;
    }
    assert_eq!(server.lists("configmaps"), 1);
}

#[tokio::test(start_paused = true)]
async fn deletions_inside_a_gap_are_noticed_at_the_relist_and_unchanged_objects_stay_the_same() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "stays"));
    server.put("configmaps", raw("ConfigMap", "a", "goes"));
    server.put("configmaps", raw("ConfigMap", "a", "returns"));
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    let before = watched.synced().await;
    server.lag("configmaps");
    server.remove("configmaps", "a", "goes");
    server.remove("configmaps", "a", "returns");
    server.put("configmaps", raw("ConfigMap", "a", "returns"));
    server.compact();
    eventually(&watched, "the deletion is noticed", |watched| {
        shown::<ConfigMap>(&watched.snapshot().unwrap()) == server.state("configmaps")
    })
    .await;
    let after = watched.snapshot().unwrap();
    let changes = after.changes_since::<ConfigMap>(Some(&before));
    let told: Vec<_> = changes
        .iter()
        .map(|change| (change.key.name(), change.before.is_some(), change.after.is_some()))
        .collect();
    assert_eq!(told, [("goes", true, false), ("returns", true, true)]);
    let stays = key("a", "stays");
    assert!(std::sync::Arc::ptr_eq(
        before.get::<ConfigMap>(&stays).unwrap(),
        after.get::<ConfigMap>(&stays).unwrap()
    ));
}

#[tokio::test(start_paused = true)]
async fn own_writes_outlive_a_relist_that_began_before_them_and_no_longer() {
    let server = Server::new();
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.lag("configmaps");
    client.create(&mut config_map("a", "x")).await.unwrap();
    server.compact();
    eventually(&watched, "the relist contains the write", |watched| {
        watched.status()["configmaps"].ahead == 0
    })
    .await;
    assert_eq!(shown::<ConfigMap>(&watched.snapshot().unwrap()), server.state("configmaps"));
    // A list that was read before a write, and answered after it.
    server.lag("configmaps");
    server.hold_lists("configmaps");
    let lists = server.lists("configmaps");
    server.compact();
    eventually(&watched, "the list is under way", |_| server.lists("configmaps") > lists).await;
    client.create(&mut config_map("a", "y")).await.unwrap();
    client.delete::<ConfigMap>(&key("a", "x")).await.unwrap();
    server.release_lists("configmaps");
    let revision = watched.status()["configmaps"].revision.clone();
    eventually(&watched, "the list is complete", |watched| {
        assert_eq!(shown::<ConfigMap>(&watched.snapshot().unwrap()), server.state("configmaps"));
        watched.status()["configmaps"].revision != revision
    })
    .await;
    assert_eq!(shown::<ConfigMap>(&watched.snapshot().unwrap()), server.state("configmaps"));
    server.catch_up("configmaps");
    eventually(&watched, "the overlay is empty", |watched| watched.status()["configmaps"].ahead == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_last_state_is_no_refusal_and_ends_by_itself() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let client = client(&server);
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.go_down();
    eventually(&watched, "the outage is noticed", |watched| {
        matches!(watched.status()["configmaps"].condition, Condition::Failing(_))
    })
    .await;
    assert!(watched.pending().is_empty());
    assert_eq!(watched.snapshot().unwrap().view::<ConfigMap>().len(), 1);
    assert!(client.delete::<ConfigMap>(&key("a", "x")).await.unwrap_err().is_ambiguous());
    server.put("configmaps", raw("ConfigMap", "a", "y"));
    server.come_up();
    eventually(&watched, "it is over", |watched| {
        let snapshot = watched.snapshot().unwrap();
        snapshot.view::<ConfigMap>().len() == 2 && snapshot.stale().count() == 0
    })
    .await;
    assert_eq!(server.lists("configmaps"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_object_is_skipped_and_reported_and_the_others_are_not() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "good"));
    server.put("configmaps", broken("a", "bad"));
    let client = client(&server);
    let mut reports = client.poison_reports();
    let watched = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    let snapshot = watched.synced().await;
    assert_eq!(snapshot.view::<ConfigMap>().len(), 1);
    let poisoned: Vec<_> = snapshot.poisoned().collect();
    assert_eq!(poisoned.len(), 1);
    assert!(poisoned[0].key == key("a", "bad") && !poisoned[0].earlier_state_shown);
    assert!(poisoned[0].error.contains("map"), "{}", poisoned[0].error);
    let report = reports.recv().await.unwrap();
    assert_eq!(&report, poisoned[0]);
    // Listing again tells nothing new.
    server.compact();
    server.put("configmaps", raw("ConfigMap", "a", "later"));
    eventually(&watched, "the relist", |watched| watched.snapshot().unwrap().view::<ConfigMap>().len() == 2)
        .await;
    assert!(reports.try_recv().is_err());
    let listed = client.list::<ConfigMap>(&Query::all()).await.unwrap();
    assert_eq!((listed.items.len(), listed.poisoned.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_becomes_poisoned_keeps_its_last_good_state_until_it_is_repaired_or_gone() {
    let server = Server::new();
    let good = server.put("configmaps", raw("ConfigMap", "a", "x"));
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    server.put("configmaps", broken("a", "x"));
    let at = key("a", "x");
    eventually(&watched, "it is poisoned", |watched| watched.snapshot().unwrap().poisoned().count() == 1)
        .await;
    let snapshot = watched.snapshot().unwrap();
    let version = snapshot.get::<ConfigMap>(&at).unwrap().metadata.resource_version.clone().unwrap();
    assert_eq!(Some(version.as_str()), good["metadata"]["resourceVersion"].as_str());
    assert!(snapshot.poisoned().next().unwrap().earlier_state_shown);
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    eventually(&watched, "it is repaired", |watched| {
        let snapshot = watched.snapshot().unwrap();
        snapshot.poisoned().count() == 0 && shown::<ConfigMap>(&snapshot) == server.state("configmaps")
    })
    .await;
    // Another object of the same name has no earlier state.
    server.lag("configmaps");
    server.remove("configmaps", "a", "x");
    server.put("configmaps", broken("a", "x"));
    server.compact();
    eventually(&watched, "the successor is poisoned", |watched| {
        let snapshot = watched.snapshot().unwrap();
        snapshot.poisoned().count() == 1 && snapshot.get::<ConfigMap>(&at).is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bookmarks_move_the_revision_of_a_quiet_kind() {
    let server = Server::new();
    let watched = client(&server).accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    let mut updates = watched.updates();
    let revision = server.bookmark("configmaps");
    updates.progressed().await;
    let snapshot = watched.snapshot().unwrap();
    assert_eq!(snapshot.revision::<ConfigMap>().unwrap().as_str(), revision.to_string());
    server.cut();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    updates.progressed().await;
    assert_eq!(server.lists("configmaps"), 1);
}

/// Thirty objects, synced.
async fn thirty(server: &Server) -> kates::Accumulator {
    for number in 0..30 {
        server.put("configmaps", raw("ConfigMap", "a", &format!("x{number}")));
    }
    let watched = client(server).accumulate().watch::<ConfigMap>(Query::all()).start();
    watched.synced().await;
    watched
}

fn known(watched: &kates::Accumulator) -> usize {
    watched.snapshot().unwrap().list::<ConfigMap>().count()
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lacks_most_objects_is_asked_for_again_before_it_is_believed() {
    let server = Server::new();
    let watched = thirty(&server).await;
    server.lose_lists("configmaps", 1);
    server.compact();
    let mut doubtful = false;
    eventually(&watched, "the list is asked for twice", |watched| {
        assert_eq!(known(watched), 30, "what was known stays");
        doubtful |= watched.snapshot().unwrap().stale().any(|(_, reason)| reason.contains("more than half"));
        server.lists("configmaps") == 3 && watched.snapshot().unwrap().stale().next().is_none()
    })
    .await;
    assert!(doubtful, "and is said to be old");
}

#[tokio::test(start_paused = true)]
async fn two_lists_that_agree_are_believed() {
    let server = Server::new();
    let watched = thirty(&server).await;
    server.lag("configmaps");
    for number in 0..20 {
        server.remove("configmaps", "a", &format!("x{number}"));
    }
    let began = tokio::time::Instant::now();
    server.compact();
    eventually(&watched, "the deletions are believed", |watched| known(watched) == 10).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(server.lists("configmaps"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lacks_half_or_of_few_objects_is_believed_at_once() {
    let server = Server::new();
    let watched = thirty(&server).await;
    for (gone, left) in [(0..15, 15), (15..30, 0)] {
        let lists = server.lists("configmaps");
        server.lag("configmaps");
        for number in gone {
            server.remove("configmaps", "a", &format!("x{number}"));
        }
        server.compact();
        eventually(&watched, "the deletions are believed", |watched| known(watched) == left).await;
        assert_eq!(server.lists("configmaps"), lists + 1);
        server.catch_up("configmaps");
    }
}

#[tokio::test(start_paused = true)]
async fn objects_are_kept_without_what_managers_own_and_written_back_without_loss() {
    let server = Server::new();
    let mut object = raw("ConfigMap", "a", "x");
    let entry = |manager: &str, operation: &str| json!({"manager": manager, "operation": operation, "fieldsV1": {"f:data": {}}});
    object["metadata"]["managedFields"] = json!([entry("test", "Apply"), entry("kubelet", "Update")]);
    server.put("configmaps", object);
    let client = client(&server);
    let all = client.accumulate().watch::<ConfigMap>(Query::all()).start();
    let applied = client.accumulate().watch::<ConfigMap>(Query::all().applied_by("test")).start();
    let kept = |watched: &kates::Accumulator| {
        let snapshot = watched.snapshot().unwrap();
        let fields = &snapshot.get::<ConfigMap>(&key("a", "x")).unwrap().metadata.managed_fields;
        fields.iter().flatten().count()
    };
    all.synced().await;
    applied.synced().await;
    assert_eq!((kept(&all), kept(&applied)), (0, 1));
    // An own write comes in by another way than the watch.
    let mut mine = client.get::<ConfigMap>(&key("a", "x")).await.unwrap();
    assert_eq!(mine.metadata.managed_fields.iter().flatten().count(), 2, "a read shows what there is");
    client.update(&mut mine).await.unwrap();
    assert_eq!((kept(&all), kept(&applied)), (0, 1));
}
