//! kube-runtime controllers on top of the watches.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kates::{Query, Subject};
use kube::runtime::controller::Action;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::*;

/// What the reconciles of a controller found, in order: the key, and whether the object was there.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, bool)>>);

impl Seen {
    async fn until(&self, wanted: (&str, bool)) {
        let found = async {
            while !self.0.lock().iter().any(|(key, there)| (key.as_str(), *there) == wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(120), found)
            .await
            .unwrap_or_else(|_| panic!("{wanted:?}: {:?}", self.0.lock()));
        self.0.lock().clear();
    }
}

/// Secrets name the config map they belong to in an annotation.
fn owner(secret: &Secret) -> Option<Key> {
    let owner = secret.metadata.annotations.as_ref()?.get("owner")?;
    Some(key("a", owner))
}

fn start(server: &Server) -> (Accumulator, Arc<Seen>) {
    let watched =
        client(server).accumulate().watch::<ConfigMap>(Query::all()).watch::<Secret>(Query::all()).start();
    let seen = Arc::new(Seen::default());
    let reconcile = {
        let watched = watched.clone();
        move |subject: Arc<Subject<ConfigMap>>, seen: Arc<Seen>| {
            let snapshot = watched.snapshot().unwrap();
            let there = snapshot.get::<ConfigMap>(&subject.key()).is_some();
            seen.0.lock().push((subject.key().to_string(), there));
            futures::future::ready(Ok::<_, std::convert::Infallible>(Action::await_change()))
        }
    };
    let runs = watched.controller::<ConfigMap>().reconcile_on(watched.related(owner)).run(
        reconcile,
        |_, error, _| match *error {},
        seen.clone(),
    );
    tokio::spawn(runs.for_each(|_| futures::future::ready(())));
    (watched, seen)
}

#[tokio::test(start_paused = true)]
async fn a_controller_reconciles_what_is_there_changes_and_deletions() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    let (_watched, seen) = start(&server);
    seen.until(("a/x", true)).await;
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    seen.until(("a/x", true)).await;
    server.remove("configmaps", "a", "x");
    seen.until(("a/x", false)).await;
    // Also a deletion that nobody was told of.
    server.put("configmaps", raw("ConfigMap", "a", "y"));
    seen.until(("a/y", true)).await;
    server.lag("configmaps");
    server.remove("configmaps", "a", "y");
    server.compact();
    seen.until(("a/y", false)).await;
}

#[tokio::test(start_paused = true)]
async fn a_related_object_triggers_both_the_old_and_the_new_side() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    server.put("configmaps", raw("ConfigMap", "a", "y"));
    let (_watched, seen) = start(&server);
    seen.until(("a/y", true)).await;
    let mut secret = raw("Secret", "a", "s");
    for owner in ["x", "y"] {
        secret["metadata"]["annotations"] = json!({"owner": owner});
        server.put("secrets", secret.clone());
        seen.until(("a/x", true)).await;
    }
    server.remove("secrets", "a", "s");
    seen.until(("a/y", true)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reconciled_before_every_kind_has_listed() {
    let server = Server::new();
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    server.forbid("secrets");
    let (watched, seen) = start(&server);
    eventually(&watched, "config maps are listed", |watched| watched.status()["configmaps"].complete).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(seen.0.lock().is_empty());
    server.allow("secrets");
    seen.until(("a/x", true)).await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_without_objects_starts_all_the_same() {
    let server = Server::new();
    let (watched, seen) = start(&server);
    watched.synced().await;
    server.put("configmaps", raw("ConfigMap", "a", "x"));
    seen.until(("a/x", true)).await;
}
