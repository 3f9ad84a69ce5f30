//! What others live off is deleted after them: EPIC, pools, groups and Accounts in use.

use epic_control_plane::{Identity, Request};
use epic_crds::well_known::{ANNOTATION_DELETE_IN_USE, ANNOTATION_UNINSTALL, policy};
use kube::Client;
use serde_json::{Value, json};

use crate::{admin, client, namespace, object};

/// An object, what its status says while it is in use and when it is not, the annotation that lets it go, and what the
/// refusal tells to do.
struct Case {
    object: Value,
    used: Vec<Value>,
    unused: Vec<Value>,
    annotation: &'static str,
    advice: &'static str,
}

fn cases() -> Vec<Case> {
    let pool = json!({ "addresses": ["192.0.2.0/28", "2001:db8::/120"] });
    let usage = |used: &str| json!({ "total": "14", "used": used });
    let proxied = |balancers: i64| json!({ "load-balancers": balancers, "proxies": 0, "endpoints": 9 });
    let group = |namespace: &str| Case {
        object: object("ServiceGroup", namespace, "used", json!({})),
        used: vec![json!({ "load-balancers": 1 })],
        unused: vec![json!({ "load-balancers": 0, "proxies": 0 })],
        annotation: ANNOTATION_DELETE_IN_USE,
        advice: "Name another one in their spec.service-group or delete them",
    };
    vec![
        Case {
            object: object("EPIC", "epic", "epic", json!({})),
            used: vec![json!({ "accounts": 1 })],
            unused: vec![json!({ "accounts": 0, "current-group-id": 7 })],
            annotation: ANNOTATION_UNINSTALL,
            advice: "first the LoadBalancers, then the Accounts, then EPIC",
        },
        Case {
            object: object("AddressPool", "epic", "used", pool),
            used: vec![json!({ "ipv4": usage("1"), "ipv6": usage("0") }), json!({ "ipv6": usage("12") })],
            unused: vec![json!({ "ipv4": usage("0"), "ipv6": usage("0") }), json!({ "ipv6": usage("0") })],
            annotation: ANNOTATION_DELETE_IN_USE,
            advice: "delete the LoadBalancers that have them",
        },
        group("epic"),
        group("epic-guarded"),
        Case {
            object: object("Account", "epic", "used", json!({})),
            used: vec![json!({ "usage": proxied(3) })],
            unused: vec![json!({ "usage": proxied(0) })],
            annotation: ANNOTATION_DELETE_IN_USE,
            advice: "Delete them, wait a few seconds, and try again",
        },
    ]
}

/// Makes the status exactly this.
async fn become_so(admin: &Client, object: &Value, status: &Value) {
    let mut stored = Request::get(&Request::path_of(object)).send(admin).await.expect_ok();
    stored["status"] = status.clone();
    Request::replace(&stored, "status").send(admin).await.expect_ok();
}

#[tokio::test]
async fn what_is_in_use_is_deleted_after_what_uses_it() {
    let _singleton = crate::rules::SINGLETON.lock().await;
    namespace("epic-guarded", true).await;
    let admin = admin().await;
    for case in cases() {
        let path = Request::path_of(&case.object);
        let (all, _) = path.rsplit_once('/').expect("a collection");
        Request::apply(&case.object).send(&admin).await.expect_ok();
        // Without a status nobody is known to use it.
        Request::delete(&path).dry_run().send(&admin).await.expect_ok();
        for used in &case.used {
            become_so(&admin, &case.object, used).await;
            for path in [path.as_str(), all] {
                let answer = Request::delete(path).dry_run().send(&admin).await;
                let message = answer.expect_refused(case.advice);
                assert!(message.contains(policy::IN_USE), "{message}");
            }
        }
        for unused in &case.unused {
            become_so(&admin, &case.object, unused).await;
            Request::delete(&path).dry_run().send(&admin).await.expect_ok();
        }
        become_so(&admin, &case.object, &case.used[0]).await;
        built_in_controllers_may(&path).await;
        let annotated = json!({ "metadata": { "annotations": { case.annotation: "true" } } });
        Request::merge(&path, &annotated).send(&admin).await.expect_ok();
        Request::delete(&path).send(&admin).await.expect_ok();
        assert_eq!(Request::get(&path).send(&admin).await.code, 404, "{path}");
    }
}

/// A namespace that goes takes along what is in it, and so does an owner.
async fn built_in_controllers_may(path: &str) {
    for name in ["namespace-controller", "generic-garbage-collector"] {
        let controller = client(Identity::service_account("kube-system", name)).await;
        Request::delete(path).dry_run().send(&controller).await.expect_ok();
    }
    // One user for all of them, where they have no ServiceAccounts; it has no such right here, so the role refuses.
    let manager = client(Identity::user("system:kube-controller-manager")).await;
    let answer = Request::delete(path).dry_run().send(&manager).await;
    assert!(!answer.message().contains(policy::IN_USE), "{}", answer.message());
    // No other controller is one of these.
    let other = Identity::User {
        name: "system:serviceaccount:kube-system:ttl-controller".to_owned(),
        groups: vec!["system:masters".to_owned()],
    };
    Request::delete(path).dry_run().send(&client(other).await).await.expect_refused(policy::IN_USE);
}

#[tokio::test]
async fn what_is_being_deleted_already_may_be_deleted_again() {
    namespace("epic-again", true).await;
    let admin = admin().await;
    let account = object("Account", "epic", "again", json!({}));
    let path = Request::path_of(&account);
    Request::apply(&account).send(&admin).await.expect_ok();
    let finalizer = json!({ "metadata": { "finalizers": ["epic.acnodal.io/finalizer"] } });
    Request::merge(&path, &finalizer).send(&admin).await.expect_ok();
    Request::delete(&path).send(&admin).await.expect_ok();
    let usage = json!({ "usage": { "load-balancers": 1, "proxies": 2, "endpoints": 0 } });
    become_so(&admin, &account, &usage).await;
    Request::delete(&path).send(&admin).await.expect_ok();
    let none = json!({ "metadata": { "finalizers": null } });
    Request::merge(&path, &none).send(&admin).await.expect_ok();
}
