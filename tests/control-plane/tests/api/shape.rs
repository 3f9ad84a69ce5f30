//! How the kinds look to kubectl: names, columns, explanations, size.

use epic_control_plane::Request;
use serde_json::{Value, json};

use crate::{admin, load_balancer, namespace};

async fn columns(plural: &str) -> Vec<(String, i64)> {
    let table =
        Request::get(&format!("/apis/epic.acnodal.io/v1/{plural}")).as_table().send(&admin().await).await;
    let table = table.expect_ok();
    let columns = table["columnDefinitions"].as_array().into_iter().flatten();
    columns
        .map(|column| {
            let name = column["name"].as_str().unwrap_or_default();
            (name.to_owned(), column["priority"].as_i64().unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn columns_answer_first_and_ids_are_wide() {
    let expected = [
        ("epics", "Name Ready Reason Accounts Age", "Group-ID Tunnel-ID Proxy-ID"),
        ("epicnodes", "Name Address Ready In-Service Tunnels-Up Tunnels Age", "Kernel Revision Reason"),
        (
            "accounts",
            "Name Ready Tenant-Namespace Load-Balancers Endpoints Age",
            "Group-ID Proxies Service-ID Reason",
        ),
        (
            "addresspools",
            "Name Ready Used-v4 Total-v4 Free-v4 Overlaps Age",
            "Used-v6 Total-v6 Free-v6 Reason Addresses",
        ),
        (
            "addressclaims",
            "Name Address Namespace Owner Phase Conflict Age",
            "Pool Release-Revision Waiting-For",
        ),
        ("servicegroups", "Name Ready Pools Replicas Load-Balancers Age", "Policy Reason"),
        (
            "loadbalancers",
            "Name Address Ports Ready Reason Proxies Endpoints Group Age",
            "Programmed Group-ID Service-ID Node",
        ),
        (
            "endpoints",
            "Name Ready Reason Load-Balancer Address Port Age",
            "Node Programmed Tunnel Accepted Service-ID Tunnel-ID Alias",
        ),
    ];
    for (plural, narrow, wide) in expected {
        let columns = columns(plural).await;
        let named = |wide: bool| {
            let names: Vec<&str> = columns
                .iter()
                .filter(|(_, priority)| (*priority > 0) == wide)
                .map(|(name, _)| name.as_str())
                .collect();
            names.join(" ")
        };
        assert_eq!(named(false), narrow, "{plural}");
        assert_eq!(named(true), wide, "{plural} -o wide");
    }
}

#[tokio::test]
async fn a_row_shows_what_was_granted() {
    namespace("epic-row", true).await;
    let client = admin().await;
    let balancer = load_balancer("epic-row", "l");
    Request::create(&balancer).send(&client).await.expect_ok();
    let status = json!({ "status": {
        "public-address": "192.0.2.7",
        "service-id": 5,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    } });
    Request::merge(&format!("{}/status", Request::path_of(&balancer)), &status)
        .send(&client)
        .await
        .expect_ok();
    let table = Request::get("/apis/epic.acnodal.io/v1/namespaces/epic-row/loadbalancers")
        .as_table()
        .send(&client)
        .await;
    let table = table.expect_ok();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..5], [json!("l"), json!("192.0.2.7"), json!("80"), json!("True"), json!("Ready")]);
    assert_eq!(cells[7], json!("shared"));
    assert_eq!(cells[11], json!(5));
}

#[tokio::test]
async fn kinds_have_their_names_short_names_and_category() {
    let found = Request::get("/apis/epic.acnodal.io/v1").send(&admin().await).await.expect_ok();
    let mut names: Vec<(String, String, Option<String>)> = found["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|resource| !resource["name"].as_str().unwrap().contains('/'))
        .map(|resource| {
            assert_eq!(resource["categories"], json!(["epic-all"]), "{resource}");
            assert_eq!(resource["namespaced"], json!(true), "{resource}");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&resource["name"]),
                text(&resource["singularName"]),
                resource["shortNames"][0].as_str().map(str::to_owned),
            )
        })
        .collect();
    names.sort();
    let expected = [
        ("accounts", "account", Some("epicacct")),
        ("addressclaims", "addressclaim", Some("epicclaim")),
        ("addresspools", "addresspool", Some("epicpool")),
        ("endpoints", "endpoint", Some("epicep")),
        ("epicnodes", "epicnode", Some("epicnode")),
        ("epics", "epic", None),
        ("loadbalancers", "loadbalancer", Some("epiclb")),
        ("servicegroups", "servicegroup", Some("epicsg")),
    ]
    .map(|(plural, singular, short)| (plural.to_owned(), singular.to_owned(), short.map(str::to_owned)));
    assert_eq!(names, expected);
}

#[tokio::test]
async fn every_field_is_explained_by_the_api_server() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        let Some(properties) = schema["properties"].as_object() else { return };
        for (name, field) in properties {
            let here = format!("{path}.{name}");
            if name == "metadata" {
                continue;
            }
            if field["description"].as_str().is_none_or(|text| text.len() < 5) {
                missing.push(here.clone());
            }
            walk(&here, field, missing);
            walk(&here, &field["items"], missing);
            walk(&here, &field["additionalProperties"], missing);
        }
    }
    let openapi = Request::get("/openapi/v3/apis/epic.acnodal.io/v1").send(&admin().await).await.expect_ok();
    let schemas = openapi["components"]["schemas"].as_object().unwrap();
    let mut missing = Vec::new();
    let mut kinds = 0;
    for (name, schema) in schemas {
        if name.starts_with("io.acnodal.epic.v1.") && !name.ends_with("List") {
            kinds += 1;
            walk(name, schema, &mut missing);
        }
    }
    assert_eq!(kinds, 8);
    assert_eq!(missing, Vec::<String>::new());
}

#[tokio::test]
async fn definitions_apply_without_a_warning_and_policies_pass_the_type_checker() {
    let client = admin().await;
    for definition in epic_crds::definitions() {
        let answer = Request::apply(&serde_json::to_value(definition).unwrap()).send(&client).await;
        assert_eq!(answer.warnings, Vec::<String>::new());
        answer.expect_ok();
    }
    for policy in epic_crds::manifest::policy_objects() {
        let answer = Request::apply(&policy).send(&client).await;
        assert_eq!(answer.warnings, Vec::<String>::new());
        if policy["kind"] == "ValidatingAdmissionPolicy" {
            let path = Request::path_of(&policy);
            let checked = epic_control_plane::eventually("the type checker's verdict", || async {
                let stored = Request::get(&path).send(&client).await.expect_ok();
                let status = &stored["status"];
                (status["observedGeneration"] == stored["metadata"]["generation"])
                    .then(|| status["typeChecking"].clone())
            })
            .await;
            assert_eq!(checked["expressionWarnings"], Value::Null, "{path}");
        }
    }
}
