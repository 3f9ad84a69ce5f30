//! Comparing what is wanted with what is there, so that a converged system writes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

/// Whether `live` has everything that `wanted` says. Fields that only `live` has (defaults of the API server,
/// status, what other controllers write) do not count; lists must have equal length and agree item by item.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| live.get(key).map_or(is_empty(value), |found| covers(found, value))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
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
