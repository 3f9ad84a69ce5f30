//! Snapshots contain own writes, on a real API server with watches that are late.

use std::collections::BTreeMap;
use std::time::Duration;

use epic_control_plane::eventually;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kates::{Accumulator, Deletion, Object, Query};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const WRITES: usize = 300;

/// Name to (uid, version) of what is in the snapshot.
fn shown<K: Object>(watched: &Accumulator) -> BTreeMap<String, (String, String)> {
    let snapshot = watched.snapshot().unwrap();
    let pair = |object: &K| (object.uid().unwrap(), object.resource_version().unwrap());
    snapshot.list::<K>().map(|object| (object.name_any(), pair(object))).collect()
}

async fn stored<K: Object<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
) -> BTreeMap<String, (String, String)> {
    let listed = client.list::<K>(&Query::namespace(namespace)).await.unwrap();
    let pair = |object: &K| (object.uid().unwrap(), object.resource_version().unwrap());
    listed.items.iter().map(|object| (object.name_any(), pair(object))).collect()
}

/// Own creates, updates, status updates, patches and deletions at random, each checked, while somebody else
/// writes and deletes the same objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_own_write_is_in_the_next_snapshot_while_others_write_too() {
    let admin = control_plane().await.admin().await.unwrap();
    let client = Client::with_settings(late(admin.clone(), Duration::from_millis(150)), settings());
    let namespace = namespace(&client).await;
    let watched = client
        .accumulate()
        .watch::<ConfigMap>(Query::namespace(&namespace).field("metadata.namespace", &namespace))
        .watch::<Service>(Query::namespace(&namespace))
        .start();
    watched.synced().await;
    let others = tokio::spawn(disturb(admin, namespace.clone()));
    let mut random = StdRng::seed_from_u64(7);
    let mut refused = 0;
    for number in 0..WRITES {
        let name = format!("x{}", random.random_range(0..4));
        let done = if random.random_bool(0.5) {
            write::<ConfigMap>(&client, &watched, config_map(&namespace, &name), number, random.random())
                .await
        } else {
            let meta = json!({"namespace": namespace, "name": name});
            let spec = json!({"clusterIP": "None", "ports": [{"port": 80}]});
            let service =
                parse(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}));
            write::<Service>(&client, &watched, service, number, random.random()).await
        };
        refused += usize::from(!done);
    }
    others.abort();
    assert!(refused < WRITES * 3 / 4, "{refused} of {WRITES} writes were refused: the test tests little");
    eventually("the snapshot equals the server", || async {
        let same = shown::<ConfigMap>(&watched) == stored::<ConfigMap>(&client, &namespace).await
            && shown::<Service>(&watched) == stored::<Service>(&client, &namespace).await
            && watched.status().values().all(|status| status.ahead == 0);
        same.then_some(())
    })
    .await;
}

/// One own write; false when somebody else was faster.
async fn write<K: Object<DynamicType = ()>>(
    client: &Client,
    watched: &Accumulator,
    mut object: K,
    number: usize,
    choice: u8,
) -> bool {
    let at = Key::of(&object);
    let annotate = Patch::Merge(json!({"metadata": {"annotations": {"n": number.to_string()}}}));
    let done = match choice % 6 {
        0 | 1 => client.create(&mut object).await.map(|()| Some(object)),
        2 => client.patch::<K, _>(&at, &PatchParams::default(), &annotate).await.map(Some),
        3 => client.delete::<K>(&at).await.map(|deletion| match deletion {
            Deletion::Gone => None,
            Deletion::Terminating(object) => Some(*object),
        }),
        _ => match watched.snapshot().unwrap().get::<K>(&at) {
            Some(found) => {
                let mut found = (**found).clone();
                found.annotations_mut().insert("n".into(), number.to_string());
                client.update(&mut found).await.map(|()| Some(found))
            }
            None => client.upsert(&mut object).await.map(|()| Some(object)),
        },
    };
    let snapshot = watched.snapshot().unwrap();
    let found = snapshot.get::<K>(&at);
    match done {
        Ok(Some(own)) => {
            // Somebody else may have changed or deleted it since, and only then may it look different.
            let number = |object: &K| object.resource_version().unwrap().parse::<u64>().unwrap();
            match found {
                Some(found) => assert!(number(found) >= number(&own), "{at}: older than the own write"),
                None => {
                    let stored = client.get_opt::<K>(&at).await.unwrap();
                    assert!(
                        stored.and_then(|stored| stored.uid()) != own.uid(),
                        "{at}: not shown as written"
                    );
                }
            }
            true
        }
        Ok(None) => {
            if let Some(found) = found {
                let stored = client.get_opt::<K>(&at).await.unwrap();
                let successor = stored.is_none_or(|stored| stored.uid() == found.uid());
                assert!(successor, "{at}: shown after its deletion");
            }
            true
        }
        Err(error) => {
            let usual = error.is_conflict() || error.is_not_found() || error.is_already_exists();
            assert!(usual, "{error:?}");
            false
        }
    }
}

/// Somebody else, until aborted.
async fn disturb(kube: kube::Client, namespace: String) {
    let config_maps = Api::<ConfigMap>::namespaced(kube.clone(), &namespace);
    let services = Api::<Service>::namespaced(kube, &namespace);
    for number in 0.. {
        let name = format!("x{}", number % 4);
        let annotate = Patch::Merge(json!({"metadata": {"annotations": {"other": number.to_string()}}}));
        // Whatever comes of these is right.
        let _ = config_maps.patch(&name, &PatchParams::default(), &annotate).await;
        let _ = services.patch(&name, &PatchParams::default(), &annotate).await;
        if number % 7 == 0 {
            let _ = config_maps.delete(&name, &DeleteParams::default()).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deletions_by_name_by_uid_and_held_back_by_finalizers_are_shown_at_once() {
    let admin = control_plane().await.admin().await.unwrap();
    let client = Client::with_settings(late(admin, Duration::from_secs(1)), settings());
    let namespace = namespace(&client).await;
    let watched = client.accumulate().watch::<ConfigMap>(Query::namespace(&namespace)).start();
    watched.synced().await;
    let at = key(&namespace, "x");
    let mut first = config_map(&namespace, "x");
    client.create(&mut first).await.unwrap();
    assert!(matches!(client.delete::<ConfigMap>(&at).await.unwrap(), Deletion::Gone));
    assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
    let mut second = config_map(&namespace, "x");
    second.finalizers_mut().push("example.com/hold".into());
    client.create(&mut second).await.unwrap();
    assert!(client.delete_this(&first).await.unwrap_err().is_conflict());
    let Deletion::Terminating(mut held) = client.delete_this(&second).await.unwrap() else {
        panic!("the finalizer holds it")
    };
    let snapshot = watched.snapshot().unwrap();
    assert!(snapshot.get::<ConfigMap>(&at).unwrap().metadata.deletion_timestamp.is_some());
    held.finalizers_mut().clear();
    client.update(&mut *held).await.unwrap();
    for _ in 0..300 {
        assert!(watched.snapshot().unwrap().get::<ConfigMap>(&at).is_none());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(watched.status()["configmaps"].ahead, 0);
}

#[tokio::test]
async fn status_updates_and_server_side_apply_are_shown_at_once() {
    let admin = control_plane().await.admin().await.unwrap();
    let client = Client::with_settings(late(admin, Duration::from_secs(1)), settings());
    let namespace = namespace(&client).await;
    let watched = client.accumulate().watch::<Service>(Query::namespace(&namespace)).start();
    watched.synced().await;
    let meta = json!({"namespace": namespace, "name": "x"});
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let mut service: Service =
        parse(json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}));
    client.apply(&mut service).await.unwrap();
    service.status = Some(parse(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})));
    client.update_status(&mut service).await.unwrap();
    let snapshot = watched.snapshot().unwrap();
    // What others wrote in managedFields is not kept.
    let kept = |service: &Service| {
        let mut service = service.clone();
        service.metadata.managed_fields = None;
        service
    };
    assert_eq!(kept(snapshot.get::<Service>(&key(&namespace, "x")).unwrap()), kept(&service));
    assert!(service.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some("kates-test")));
}
