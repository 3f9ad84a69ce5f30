//! Outages of a real API server, and the revisions that snapshots tell.

use std::time::Instant;

use epic_control_plane::eventually;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kates::{Condition, Query, Version};

use super::*;

#[tokio::test]
async fn an_api_server_that_goes_away_and_comes_back_costs_nothing_but_time() {
    let own = ControlPlane::start().unwrap_or_else(|error| panic!("{error}"));
    let client = Client::with_settings(own.admin().await.unwrap(), settings());
    let namespace = namespace(&client).await;
    let watched = client.accumulate().watch::<ConfigMap>(Query::namespace(&namespace)).start();
    for name in ["x", "y"] {
        client.create(&mut config_map(&namespace, name)).await.unwrap();
    }
    watched.synced().await;
    // Kubernetes puts one of its own into each namespace (kube-root-ca.crt), when it comes to it.
    let has_both = || {
        let snapshot = watched.snapshot().unwrap();
        ["x", "y"].iter().all(|name| snapshot.get::<ConfigMap>(&key(&namespace, name)).is_some())
    };
    assert!(has_both());
    own.stop_api().unwrap();
    eventually("the outage is noticed", || async {
        matches!(watched.status()["configmaps"].condition, Condition::Failing(_)).then_some(())
    })
    .await;
    assert!(has_both());
    assert!(watched.pending().is_empty());
    own.start_api().unwrap();
    eventually("writes work again", || async {
        client.delete::<ConfigMap>(&key(&namespace, "x")).await.ok().map(|_| ())
    })
    .await;
    assert!(watched.snapshot().unwrap().get::<ConfigMap>(&key(&namespace, "x")).is_none());
    eventually("the watch works again", || async {
        (watched.status()["configmaps"].condition == Condition::Synced).then_some(())
    })
    .await;
    // Somebody else's write arrives as before.
    let admin = Client::new(own.admin().await.unwrap());
    admin.create(&mut config_map(&namespace, "z")).await.unwrap();
    eventually("the write is seen", || async {
        watched.snapshot()?.get::<ConfigMap>(&key(&namespace, "z")).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn the_revision_of_a_quiet_kind_reaches_that_of_a_later_list() {
    let client = Client::with_settings(control_plane().await.admin().await.unwrap(), settings());
    let namespace = namespace(&client).await;
    let watched = client.accumulate().watch::<ConfigMap>(Query::namespace(&namespace)).start();
    watched.synced().await;
    let meta = json!({"namespace": namespace, "name": "other"});
    client.create::<Secret>(&mut parse(json!({"metadata": meta}))).await.unwrap();
    let later: Version = client.list::<ConfigMap>(&Query::namespace(&namespace)).await.unwrap().revision;
    let began = Instant::now();
    eventually("a bookmark says so", || async {
        let snapshot = watched.snapshot()?;
        snapshot.revision::<ConfigMap>()?.reaches(&later).then_some(())
    })
    .await;
    println!("a quiet kind reached the list after {:?}", began.elapsed());
    // A process that starts again may insist on what it has seen.
    let again = Client::with_settings(control_plane().await.admin().await.unwrap(), settings());
    let query = Query::namespace(&namespace).not_older_than(later.as_str());
    let snapshot = again.accumulate().watch::<ConfigMap>(query).start().synced().await;
    assert!(snapshot.revision::<ConfigMap>().unwrap().reaches(&later));
}
