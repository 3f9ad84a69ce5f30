//! Fields of a newer version survive what this version writes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use epic_crds::{
    Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, KeepsUnknown, LoadBalancer, ServiceGroup,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A field that no version has.
const NEWER: &str = "of-a-newer-version";

/// A value that a schema admits, as far as the types tell it apart, with an unknown field at every object level.
/// `levels` counts those.
fn sample(schema: &Value, levels: &mut usize) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => "2026-01-01T00:00:00Z".into(),
        Some("string") => "1s".into(),
        Some("integer") => schema["minimum"].as_f64().map_or(1, |least| least as i64).into(),
        Some("boolean") => true.into(),
        Some("array") => json!([sample(&schema["items"], levels)]),
        Some("object") if schema.get("additionalProperties").is_some() => {
            json!({"192.0.2.7": sample(&schema["additionalProperties"], levels)})
        }
        Some("object") => {
            *levels += 1;
            let known = schema["properties"].as_object().into_iter().flatten();
            let mut fields: Map<_, _> =
                known.map(|(name, field)| (name.clone(), sample(field, levels))).collect();
            fields.insert(NEWER.to_owned(), json!({"level": *levels, "list": [1, {"a": null}]}));
            fields.into()
        }
        _ => 1.into(), // a port's number or name
    }
}

fn without_newer(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let known = fields.iter().filter(|(name, _)| *name != NEWER);
            known.map(|(name, value)| (name.clone(), without_newer(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(without_newer).collect(),
        other => other.clone(),
    }
}

/// The kinds' schemas by name.
fn schema(kind: &str) -> Value {
    let definitions = epic_crds::definitions();
    let definition = definitions.into_iter().find(|definition| definition.spec.names.kind == kind);
    let mut definition = serde_json::to_value(definition.expect("a kind of EPIC")).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].take()
}

/// Says how many object levels the kind has.
fn check<K: DeserializeOwned + Serialize + KeepsUnknown + Clone>(kind: &str) -> usize {
    let (schema, mut levels) = (schema(kind), 0);
    let mut object = json!({"apiVersion": "epic.acnodal.io/v1", "kind": kind, "metadata": {"name": "a"}});
    for part in ["spec", "status"] {
        if let Some(schema) = schema.get(part) {
            object[part] = sample(schema, &mut levels);
        }
    }
    let read: K = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), object, "{kind}: written as it was read");

    // Who makes a status of other facts, row by row, writes it over the one before.
    let mut anew = object.clone();
    anew["status"] = without_newer(&object["status"]);
    let mut anew: K = serde_json::from_value(anew).unwrap();
    anew.carry_unknown(&read);
    assert_eq!(serde_json::to_value(&anew).unwrap(), object, "{kind}: every row made anew");
    levels
}

#[test]
fn unknown_fields_survive_at_every_object_level_of_every_kind() {
    let levels = [
        check::<Account>("Account"),
        check::<AddressClaim>("AddressClaim"),
        check::<AddressPool>("AddressPool"),
        check::<EPIC>("EPIC"),
        check::<EPICNode>("EPICNode"),
        check::<Endpoint>("Endpoint"),
        check::<LoadBalancer>("LoadBalancer"),
        check::<ServiceGroup>("ServiceGroup"),
    ];
    assert_eq!(levels.len(), epic_crds::definitions().len(), "every kind is here");
    assert!(levels.iter().sum::<usize>() > 40, "{levels:?}");
}

#[test]
fn a_row_of_another_object_takes_nothing_over() {
    let row = |uid: &str, newer: bool| {
        let mut row = json!({"pod": "p", "pod-uid": uid, "state": "Ready"});
        if newer {
            row[NEWER] = 1.into();
        }
        let object = json!({"apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer", "metadata": {"name": "a"},
            "spec": {"public-ports": [], "service-group": "g"}, "status": {"proxies": [row]}});
        serde_json::from_value::<LoadBalancer>(object).unwrap()
    };
    let mut successor = row("b", false);
    successor.carry_unknown(&row("a", true));
    assert_eq!(successor, row("b", false));
}
