//! CustomResourceDefinitions with the touches that the derive cannot give.
//!
//! - Rules that see spec, status and name together stand at the root of the schema.
//! - Nothing is nullable: an absent field is absent, not null.
//! - Defaults are dropped, so the API server stores what the user applied; `protocol` keeps its own, because it is
//!   a list key.
//! - Numbers are integers, descriptions are one paragraph per paragraph, `format: int64` is left out (a range is
//!   always given).
//!
//! Pure; the same input always gives the same output.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{account, address_claim, address_pool, endpoint, epic, epic_node, load_balancer, service_group};

/// The CustomResourceDefinitions of all kinds, sorted by name.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        finish(account::Account::crd(), account::RULES),
        finish(address_claim::AddressClaim::crd(), address_claim::RULES),
        finish(address_pool::AddressPool::crd(), address_pool::RULES),
        finish(endpoint::Endpoint::crd(), endpoint::RULES),
        finish(epic::EPIC::crd(), epic::RULES),
        finish(epic_node::EPICNode::crd(), epic_node::RULES),
        finish(load_balancer::LoadBalancer::crd(), load_balancer::RULES),
        finish(service_group::ServiceGroup::crd(), service_group::RULES),
    ];
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all
}

fn finish(definition: CustomResourceDefinition, rules: &[(&str, &str)]) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(definition).expect("a definition is plain JSON");
    let kind = value["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.insert(
            "apiVersion".to_owned(),
            json!({ "type": "string", "description": "Version of the API, epic.acnodal.io/v1." }),
        );
        properties.insert("kind".to_owned(), json!({ "type": "string", "description": format!("{kind}.") }));
        properties.insert("metadata".to_owned(), json!({ "type": "object" }));
    }
    if let Some(tunnels) = schema.pointer_mut("/properties/status/properties/gue-tunnel-endpoints") {
        tunnels["x-kubernetes-validations"] = validations(&[load_balancer::TUNNEL_KEY_RULE]);
    }
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = validations(rules);
    }
    serde_json::from_value(value).expect("a tidied definition is still a definition")
}

fn validations(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({ "rule": rule, "message": message })).collect()
}

/// Tidies one schema and everything below it.
fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("nullable");
    object.remove("title");
    if object.get("format").is_some_and(|format| format == "int64" || format == "int32") {
        object.remove("format");
    }
    if object.get("default").is_some_and(|default| default != "TCP") {
        object.remove("default");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = object.get(bound).and_then(Value::as_f64) {
            object.insert(bound.to_owned(), json!(number as i64));
        }
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = paragraphs(text);
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    for below in ["properties", "definitions"] {
        if let Some(Value::Object(children)) = object.get_mut(below) {
            children.values_mut().for_each(tidy);
        }
    }
    for below in ["items", "additionalProperties"] {
        if let Some(child) = object.get_mut(below) {
            tidy(child);
        }
    }
    // Items get a rule of their own by an inlined scalar; their description says nothing that the field does not.
    if let Some(Value::Object(items)) = object.get_mut("items")
        && !items.contains_key("properties")
    {
        items.remove("description");
    }
}

/// Lines of a paragraph joined, paragraphs kept.
fn paragraphs(text: &str) -> String {
    text.trim()
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}
