//! What no schema can tell: values that are well-formed and name something of somebody else's, or nothing at all. The
//! operator says so in a condition of the object that has them, and nobody else notices.

use epic_control_plane::Request;
use epic_control_plane::bad_input::{FOREIGN, Field, Judged, Step, fields};
use epic_crds::LoadBalancer;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Cluster;
use super::deletion::platform;
use super::harness::Harness;
use super::operator::Operator;
use super::tenants::{all, endpoint, load_balancer, object, unconverged, until_nothing_is_left};

/// Right objects of tenant red, in which one field is made wrong.
fn right(kind: &str, name: &str) -> Value {
    match kind {
        "AddressPool" => object(kind, "epic", name, json!({"addresses": ["203.0.113.0/28"]})),
        "ServiceGroup" => object(kind, "epic-red", name, json!({})),
        "LoadBalancer" => load_balancer("epic-red", name, "shared"),
        "Endpoint" => endpoint("epic-red", name, "web", "10.244.1.5", "192.168.1.16"),
        other => panic!("say here what a right {other} is"),
    }
}

/// The condition of a type, and whether it says what it should.
fn judge(found: &Value, condition: &str, reason: &str) -> Result<(), String> {
    let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
    let known = conditions.clone().find(|known| known["type"] == condition);
    let Some(known) = known else { return Err(format!("no {condition} yet")) };
    let says = known["status"] == "False" && known["reason"] == reason;
    let advises = known["message"].as_str().is_some_and(|message| message.len() > 20);
    if says && advises { Ok(()) } else { Err(known.to_string()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_reference_ends_in_a_condition_and_disturbs_nobody() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    platform(&cluster, "red").await;
    let blues = json!({"addresses": ["198.51.100.0/28"], "accounts": ["blue"]});
    for object in [
        object("Account", "epic", "blue", json!({})),
        object("AddressPool", "epic", "blues", blues),
        object("ServiceGroup", "epic", "blues", json!({"accounts": ["blue"], "envoy-replicas": 1})),
    ] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
    until_nothing_is_left("the accounts being ready", || unconverged(&cluster.admin)).await;
    let mut of_blue = load_balancer("epic-blue", "of-blue", "shared");
    of_blue["spec"]["public-address"] = json!("192.0.2.1");
    Request::create(&of_blue).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("blue being served", || unconverged(&cluster.admin)).await;
    let web = load_balancer("epic-red", "web", "shared");
    Request::create(&web).send(&cluster.admin).await.expect_ok();
    until_nothing_is_left("both being served", || unconverged(&cluster.admin)).await;
    let before: Vec<Value> = served(&cluster).await;

    let mut wrong = Vec::new();
    for (number, (kind, name, judged)) in FOREIGN.iter().enumerate() {
        let Judged::Told { value, condition, reason } = judged else { continue };
        let field = field_of(kind, name);
        let mut object = right(kind, &format!("wrong-{number}"));
        put(&mut object, &field, value);
        Request::create(&object).send(&cluster.admin).await.expect_ok();
        wrong.push((format!("{kind} {name}: {value}"), object, *condition, *reason));
    }
    until_nothing_is_left("each being told", || async {
        let mut left = Vec::new();
        for (what, object, condition, reason) in &wrong {
            let found = Request::get(&Request::path_of(object)).send(&cluster.admin).await.expect_ok();
            left.extend(judge(&found, condition, reason).err().map(|error| format!("{what}: {error}")));
        }
        left
    })
    .await;
    assert_eq!(served(&cluster).await, before, "those who were served are served as before");
    for (_, object, ..) in &wrong {
        Request::delete(&Request::path_of(object)).send(&cluster.admin).await.expect_ok();
    }
    until_nothing_is_left("nothing being left of it", || unconverged(&cluster.admin)).await;
}

/// What is in force of the two LoadBalancers that are right. How many Endpoints name the one of red is another matter.
async fn served(cluster: &Cluster) -> Vec<Value> {
    let mut all = all::<LoadBalancer>(&cluster.admin).await;
    all.retain(|balancer| ["web", "of-blue"].contains(&balancer.name_any().as_str()));
    assert_eq!(all.len(), 2);
    all.iter()
        .map(|balancer| {
            let mut status = balancer.status.clone().unwrap_or_default();
            status.conditions.retain(|known| known.type_ != "Endpoints");
            json!([balancer.spec, status.conditions, status.public_address, status.proxies, status.ports])
        })
        .collect()
}

fn field_of(kind: &str, name: &str) -> Field {
    let definition = epic_crds::definitions()
        .into_iter()
        .find(|definition| definition.spec.names.kind == kind)
        .expect("a kind of ours");
    let schema = definition.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema);
    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    let mut found = fields(&schema).into_iter();
    found.find(|field| field.name() == name).unwrap_or_else(|| panic!("{kind} has no field {name}"))
}

/// Puts a value into a field of an object that is otherwise right.
fn put(object: &mut Value, field: &Field, value: &str) {
    let mut place = object;
    for step in &field.path {
        place = match step {
            Step::Name(name) => &mut place[name.as_str()],
            Step::Item => {
                if !place.is_array() {
                    *place = json!([null]);
                }
                &mut place[0]
            }
            Step::Entry => &mut place["k"],
        };
    }
    *place = json!(value);
}
