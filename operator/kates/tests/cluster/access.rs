//! Refused and absent kinds on a real API server, and objects nobody can read.

use epic_control_plane::{Identity, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kates::Query;
use kube::api::{ApiResource, DynamicObject};
use kube::core::Object;
use serde::{Deserialize, Serialize};

use super::*;

#[tokio::test]
async fn a_kind_that_rbac_withholds_is_pending_until_it_is_granted() {
    let admin = Client::new(control_plane().await.admin().await.unwrap());
    let namespace = namespace(&admin).await;
    admin.create(&mut config_map(&namespace, "x")).await.unwrap();
    let rules =
        |resource: &str| json!([{"apiGroups": [""], "resources": [resource], "verbs": ["list", "watch"]}]);
    let meta = json!({"namespace": namespace, "name": "reader"});
    let role = |resource: &str| -> Role { parse(json!({"metadata": meta, "rules": rules(resource)})) };
    admin.create(&mut role("configmaps")).await.unwrap();
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"});
    let subjects = json!([{"kind": "User", "name": namespace, "apiGroup": "rbac.authorization.k8s.io"}]);
    let mut binding: RoleBinding =
        parse(json!({"metadata": meta, "roleRef": reference, "subjects": subjects}));
    admin.create(&mut binding).await.unwrap();

    let reader = control_plane().await.client(&Identity::user(&namespace)).await.unwrap();
    let watched = Client::with_settings(reader, settings())
        .accumulate()
        .watch::<ConfigMap>(Query::namespace(&namespace))
        .watch::<Secret>(Query::namespace(&namespace))
        .start();
    eventually("the refusal is named", || async {
        let pending = watched.pending();
        let named =
            pending.len() == 1 && pending.get("secrets").is_some_and(|reason| reason.contains("forbidden"));
        named.then_some(())
    })
    .await;
    assert!(watched.snapshot().is_none());
    let mut more = role("configmaps");
    more.rules.as_mut().unwrap().extend(role("secrets").rules.unwrap());
    admin.upsert(&mut more).await.unwrap();
    assert_eq!(watched.synced().await.view::<Secret>().len(), 0);
    assert!(watched.pending().is_empty());
}

/// A spec that not every object below has.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sized {
    size: u32,
}

#[tokio::test]
async fn a_kind_that_does_not_exist_yet_is_pending_and_unreadable_objects_of_it_are_skipped() {
    let client = Client::with_settings(control_plane().await.admin().await.unwrap(), settings());
    let namespace = namespace(&client).await;
    let kind = ApiResource {
        group: "kates.example.com".into(),
        version: "v1".into(),
        api_version: "kates.example.com/v1".into(),
        kind: "Box".into(),
        plural: "boxes".into(),
    };
    type Box = Object<Sized, kube::core::NotUsed>;
    let watched = client
        .accumulate()
        .watch_kind::<Box>("typed", kind.clone(), Query::all())
        .watch_kind::<DynamicObject>("untyped", kind.clone(), Query::all())
        .start();
    eventually("the absence is named", || async {
        let pending = watched.pending();
        (pending.len() == 2 && pending.values().all(|reason| reason.contains("404"))).then_some(())
    })
    .await;
    let boxes = client.kind_of::<DynamicObject>(kind.clone());
    let nothing = key(&namespace, "nothing");
    let unknown = boxes.get_opt(&nothing).await;
    assert!(unknown.is_err(), "absent is not empty: {unknown:?}");
    let open = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let mut definition: CustomResourceDefinition = parse(json!({
        "metadata": {"name": "boxes.kates.example.com"},
        "spec": {
            "group": kind.group, "scope": "Namespaced", "names": {"kind": "Box", "plural": kind.plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": open}],
        },
    }));
    client.create(&mut definition).await.unwrap();
    let snapshot = watched.synced().await;
    assert!(snapshot.view::<Box>().is_empty());

    assert!(boxes.get_opt(&nothing).await.unwrap().is_none());
    for (name, size) in [("good", json!(3)), ("bad", json!("three"))] {
        let mut object = DynamicObject::new(name, &kind).within(&namespace);
        object.data = json!({"spec": {"size": size}});
        boxes.create(&mut object).await.unwrap();
    }
    assert_eq!(watched.snapshot().unwrap().view::<DynamicObject>().len(), 2);
    eventually("the unreadable one is reported", || async {
        let snapshot = watched.snapshot()?;
        let poisoned: Vec<_> = snapshot.poisoned().map(|poison| poison.key.clone()).collect();
        (poisoned == [key(&namespace, "bad")]).then_some(())
    })
    .await;
    let snapshot = watched.snapshot().unwrap();
    let readable: Vec<_> = snapshot.list::<Box>().map(|object| object.spec.size).collect();
    assert_eq!(readable, [3]);
}
