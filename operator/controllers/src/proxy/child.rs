//! Comparing what is wanted with what is there, so that a converged system writes nothing.

use epic_crds::well_known::FIELD_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// Whether an apply of `wanted` would change nothing: `live` has everything that it says, and nothing of ours that it
/// says no more (an older operator's field, which the apply takes out).
pub fn covers(live: &Value, wanted: &Value) -> bool {
    has(live, wanted) && !applied(live).any(|fields| is_more_than(fields, wanted))
}

/// Whether `live` has everything that `wanted` says. Fields that only `live` has (defaults of the API server,
/// status, what other controllers write) do not count; lists must have equal length and agree item by item.
fn has(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| live.get(key).map_or(is_empty(value), |found| has(found, value)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| has(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// The fields that this operator, whatever its version, has applied to an object, as `fieldsV1` has them.
fn applied(live: &Value) -> impl Iterator<Item = &Value> {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    entries
        .filter(|entry| entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply")
        .filter(|entry| entry.get("subresource").is_none())
        .map(|entry| &entry["fieldsV1"])
}

/// Whether `fields` name a field or an item that `wanted` does not have. Where `wanted` goes no further, or an item is
/// named by its place, nothing is known, and nothing said.
fn is_more_than(fields: &Value, wanted: &Value) -> bool {
    let named = fields.as_object().into_iter().flatten();
    named.into_iter().any(|(name, below)| match (name.split_once(':'), wanted) {
        (Some(("f", key)), Value::Object(map)) => map.get(key).is_none_or(|value| is_more_than(below, value)),
        (Some(("k", keys)), Value::Array(items)) => {
            let Ok(keys) = serde_json::from_str::<Value>(keys) else { return false };
            let item = items.iter().find(|item| has_keys(item, &keys));
            item.is_none_or(|item| is_more_than(below, item))
        }
        _ => false,
    })
}

/// Whether an item has these keys; one that it does not say has its default.
fn has_keys(item: &Value, keys: &Value) -> bool {
    let mut keys = keys.as_object().into_iter().flatten();
    keys.all(|(key, value)| item.get(key).is_none_or(|own| own == value))
}

/// The API server drops empty objects, lists and nulls when it stores them.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Whether an object has a controller reference to this uid. A name alone proves nothing.
pub fn owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    let owners: &[OwnerReference] = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let wanted = json!({"spec": {"replicas": 2, "list": [{"name": "a"}], "empty": {}}});
        let live =
            json!({"spec": {"replicas": 2, "paused": false, "list": [{"name": "a", "x": 1}]}, "status": {}});
        assert!(covers(&live, &wanted));
    }

    #[test]
    fn a_field_that_an_older_operator_applied_and_this_one_leaves_out_is_a_difference() {
        let wanted =
            json!({"metadata": {"name": "x"}, "spec": {"list": [{"name": "a", "x": 1}], "set": ["v"]}});
        let live = |manager: &str, operation: &str, fields: Value| {
            let mut live = wanted.clone();
            live["metadata"]["managedFields"] =
                json!([{"manager": manager, "operation": operation, "fieldsV1": fields}]);
            live
        };
        let item = |fields: Value| json!({"f:spec": {"f:list": {"k:{\"name\":\"a\"}": fields}}});
        let same = item(json!({".": {}, "f:name": {}, "f:x": {}}));
        assert!(covers(&live("epic-operator", "Apply", same), &wanted));
        assert!(covers(
            &live("epic-operator", "Apply", json!({"f:spec": {"f:set": {"v:\"v\"": {}}}})),
            &wanted
        ));
        for more in [
            json!({"f:spec": {"f:paused": {}}}),
            json!({"f:metadata": {"f:labels": {"f:old": {}}}}),
            item(json!({"f:y": {}})),
            json!({"f:spec": {"f:list": {"k:{\"name\":\"b\"}": {}}}}),
        ] {
            assert!(!covers(&live("epic-operator", "Apply", more.clone()), &wanted), "{more}");
            assert!(
                covers(&live("kube-controller-manager", "Apply", more.clone()), &wanted),
                "not ours: {more}"
            );
            assert!(covers(&live("epic-operator", "Update", more.clone()), &wanted), "no apply: {more}");
        }
    }

    #[test]
    fn a_changed_value_and_a_lost_or_added_item_are_differences() {
        let wanted = json!({"list": [1, 2], "value": "a"});
        for live in [
            json!({"list": [1, 2], "value": "b"}),
            json!({"list": [1], "value": "a"}),
            json!({"list": [1, 2, 3], "value": "a"}),
            json!({"list": [1, 2]}),
        ] {
            assert!(!covers(&live, &wanted), "{live}");
        }
    }
}
