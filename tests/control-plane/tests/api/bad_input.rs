//! Bad input: every field of every kind, generated from the definitions that the API server has.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use epic_control_plane::bad_input::{Case, FOREIGN, Judged, fields, is_reference};
use epic_control_plane::{Request, object};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::{admin, endpoint, load_balancer, namespace};

const NAMESPACE: &str = "epic-bad";
/// Requests under way at once.
const AT_ONCE: usize = 6;

/// One right object of each kind, by which its path and its place are known.
fn right_ones() -> Vec<Value> {
    let owner = json!({
        "kind": "LoadBalancer", "namespace": NAMESPACE, "name": "bad", "uid": "u", "resource-version": "1",
    });
    let claim = json!({ "address": "192.0.2.77", "pool": "default", "owner": owner });
    let mut node = object("EPICNode", "epic", "bad", json!({}));
    node.as_object_mut().expect("an object").remove("spec");
    vec![
        object("EPIC", "epic", "epic", json!({})),
        node,
        object("Account", "epic", "bad", json!({})),
        object("AddressPool", "epic", "bad", json!({ "addresses": ["192.0.2.64/28"] })),
        object("AddressClaim", "epic", "192.0.2.77", claim),
        object("ServiceGroup", "epic", "bad", json!({})),
        load_balancer(NAMESPACE, "bad"),
        endpoint(NAMESPACE, "bad"),
    ]
}

/// The schema of a kind as the API server has it.
async fn schema_of(admin: &Client, kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.epic.acnodal.io");
    let definition = Request::get(&path).send(admin).await.expect_ok();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The request that would write the case: a new object, or the status of the one that is there.
fn request(right: &Value, case: &Case) -> Request {
    let part = if case.field.starts_with("status") { "status" } else { "spec" };
    if part == "status" {
        let path = format!("{}/status", Request::path_of(right));
        return Request::merge(&path, &json!({ "status": case.object["status"] })).dry_run();
    }
    let mut wrong = right.clone();
    wrong["spec"] = case.object["spec"].clone();
    Request::create(&wrong).dry_run()
}

/// What is wrong with the answer, if anything is.
fn complaint(case: &Case, message: &str, code: u16) -> Option<String> {
    let of = format!("{}, {}", case.field, case.what);
    if (200..300).contains(&code) {
        return Some(format!("{of}: taken"));
    }
    // A value that was refused stands in the message; its end says nothing more.
    let shown: String = message.chars().take(400).collect();
    let missing: Vec<&String> = case.words.iter().filter(|word| !message.contains(word.as_str())).collect();
    (!missing.is_empty() || code >= 500).then(|| format!("{of}: {code} without {missing:?}: {shown}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_value_of_every_field_is_refused_at_the_door_and_the_refusal_names_the_field() {
    let _singleton = crate::rules::SINGLETON.lock().await;
    namespace(NAMESPACE, true).await;
    let (admin, begun) = (admin().await, Instant::now());
    let (mut count, mut optional) = (0, 0);
    let mut complaints = Vec::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for right in right_ones() {
        Request::apply(&right).send(&admin).await.expect_ok();
        let before = Request::get(&Request::path_of(&right)).send(&admin).await.expect_ok();
        let kind = right["kind"].as_str().expect("a kind").to_owned();
        let root = schema_of(&admin, &kind).await;
        let mut answers = JoinSet::new();
        for field in fields(&root) {
            optional += usize::from(!field.required);
            for case in field.cases(&root) {
                count += 1;
                let (sent, admin, turns) = (request(&right, &case), admin.clone(), Arc::clone(&turns));
                let kind = kind.clone();
                answers.spawn(async move {
                    let _turn = turns.acquire().await;
                    let answer = sent.send(&admin).await;
                    complaint(&case, answer.message(), answer.code).map(|text| format!("{kind} {text}"))
                });
            }
        }
        while let Some(answer) = answers.join_next().await {
            complaints.extend(answer.expect("no panic"));
        }
        let after = Request::get(&Request::path_of(&right)).send(&admin).await.expect_ok();
        assert_eq!(after, before, "what is refused changes nothing");
        Request::delete(&Request::path_of(&right)).send(&admin).await.expect_ok();
    }
    complaints.sort();
    assert!(complaints.is_empty(), "{} of {count}:\n{}", complaints.len(), complaints.join("\n"));
    // Past the capture of the test's output: the number is to be seen.
    let took = begun.elapsed().as_secs_f64();
    let _ = writeln!(
        std::io::stderr(),
        "bad input: {count} cases refused in {took:.1} s; {optional} fields may be absent"
    );
    assert!(count >= 1000, "only {count} cases");
}

#[tokio::test]
async fn of_every_reference_it_is_said_what_becomes_of_a_foreign_one() {
    let admin = admin().await;
    let mut found = Vec::new();
    for right in right_ones() {
        let kind = right["kind"].as_str().expect("a kind");
        for field in fields(&schema_of(&admin, kind).await).iter().filter(|field| is_reference(field)) {
            found.push(format!("{kind} {}", field.name()));
        }
    }
    let said: Vec<String> = FOREIGN.iter().map(|(kind, field, _)| format!("{kind} {field}")).collect();
    let unsaid: Vec<&String> = found.iter().filter(|field| !said.contains(field)).collect();
    assert!(
        unsaid.is_empty(),
        "say in epic_control_plane::bad_input::FOREIGN what becomes of a foreign value of {unsaid:#?}"
    );
    let stale: Vec<&String> = said.iter().filter(|field| !found.contains(field)).collect();
    assert!(stale.is_empty(), "no such references: {stale:#?}");
    let told = FOREIGN.iter().filter(|(_, _, judged)| matches!(judged, Judged::Told { .. })).count();
    assert!(told >= 8, "only {told} of them are judged by the operator");
}
