//! The situations of a ServiceGroup that docs/conditions.md lists, each made as a value.

use std::sync::Arc;

use epic_crds::{Account, AddressPool, Condition, ServiceGroup};
use serde_json::{Value, json};

use super::{Found, judge};
use crate::reconcile::now;
use crate::situations;

fn group(namespace: &str, spec: &Value) -> ServiceGroup {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup",
        "metadata": {"name": "g", "namespace": namespace}, "spec": spec,
    }))
    .unwrap()
}

fn pool(change: impl FnOnce(&mut AddressPool)) -> Option<AddressPool> {
    let mut pool = serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "AddressPool",
        "metadata": {"name": "default", "namespace": "epic"}, "spec": {"addresses": ["192.0.2.0/29"]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }))
    .unwrap();
    change(&mut pool);
    Some(pool)
}

fn conditions(group: &ServiceGroup, pool: Option<AddressPool>, complaint: Option<&str>) -> Vec<Condition> {
    let is_reds = group.metadata.namespace.as_deref() == Some("epic-red");
    let found = Found {
        account: is_reds.then(|| Arc::new(Account::new("red", Default::default()))),
        pools: pool.into_iter().map(|pool| ("default".to_owned(), Arc::new(pool))).collect(),
        complaint: complaint.map(str::to_owned),
    };
    let mut conditions = Vec::new();
    judge(group, &found, &mut conditions, &now());
    conditions
}

#[test]
fn the_table_says_what_the_conditions_of_a_service_group_say() {
    let (shared, private) = (|spec| group("epic", &spec), |spec| group("epic-red", &spec));
    let ready = || pool(|_| {});
    let others = pool(|pool| pool.spec.accounts = Some(["blue".to_owned()].into()));
    let found = vec![
        ("can be used", conditions(&private(json!({})), ready(), None)),
        (
            "a field that has no effect yet is set",
            conditions(&shared(json!({"forwarding": "Direct"})), ready(), None),
        ),
        (
            "a private one names an image",
            conditions(&private(json!({"envoy-image": "envoy"})), ready(), None),
        ),
        ("a private one says where proxies run", conditions(&private(json!({"proxies": {}})), ready(), None)),
        ("its namespace has no Account", conditions(&group("default", &json!({})), ready(), None)),
        ("a pool that it names does not exist", conditions(&shared(json!({})), None, None)),
        ("a pool that it names does not admit its Account", conditions(&private(json!({})), others, None)),
        ("none of its pools is ready", conditions(&shared(json!({})), pool(|pool| pool.status = None), None)),
        (
            "a pull Secret that it names is not there",
            conditions(&shared(json!({})), ready(), Some("no such Secret")),
        ),
    ];
    situations::check("ServiceGroup", found);
}
