//! Fields of a newer version live as long as their object, whatever the operator writes to it; and what the operator keeps
//! of it all in memory.

use std::time::{SystemTime, UNIX_EPOCH};

use epic_control_plane::{Identity, Request, eventually};
use kube::Client;
use serde_json::{Value, json};

use super::Cluster;
use super::harness::Harness;
use super::history::History;
use super::operator::Operator;
use super::tenants::{endpoint, load_balancer, object, unconverged, until_nothing_is_left};

const NEWER: &str = "of-a-newer-version";
const KINDS: [&str; 6] = ["epics", "accounts", "addresspools", "servicegroups", "loadbalancers", "endpoints"];

const CLAIMS: &str = "addressclaims";

/// Makes the definitions keep what they do not know, as those of a newer release know more. Answers the schemas, that of
/// claims last.
async fn widen(admin: &Client) -> Vec<Value> {
    fn keep(schema: &mut Value) {
        if schema.get("properties").is_some() {
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        for below in schema["properties"].as_object_mut().into_iter().flatten() {
            keep(below.1);
        }
        for below in ["items", "additionalProperties"] {
            if let Some(below) = schema.get_mut(below).filter(|below| below.is_object()) {
                keep(below);
            }
        }
    }
    let mut schemas = Vec::new();
    for kind in KINDS.into_iter().chain([CLAIMS]) {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.epic.acnodal.io");
        let mut definition = Request::get(&path).send(admin).await.expect_ok();
        let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            keep(&mut schema[part]);
        }
        schemas.push(schema.clone());
        let versions = json!({"spec": {"versions": definition["spec"]["versions"]}});
        Request::merge(&path, &versions).send(admin).await.expect_ok();
    }
    schemas
}

/// Puts an unknown field at every object level of a value.
fn mark(value: &mut Value, schema: &Value) {
    if let Some(known) = schema["properties"].as_object() {
        for (name, below) in known {
            if let Some(value) = value.get_mut(name) {
                mark(value, below);
            }
        }
        value[NEWER] = json!({"kept": true});
    }
    for value in value.as_array_mut().into_iter().flatten() {
        mark(value, &schema["items"]);
    }
    if schema["additionalProperties"].is_object() {
        for (_, value) in value.as_object_mut().into_iter().flatten() {
            mark(value, &schema["additionalProperties"]);
        }
    }
}

/// The object levels that have no unknown field.
fn unmarked(path: &str, value: &Value, schema: &Value, found: &mut Vec<String>) {
    if let Some(known) = schema["properties"].as_object() {
        if value.get(NEWER).is_none() {
            found.push(path.to_owned());
        }
        for (name, below) in known {
            if let Some(value) = value.get(name) {
                unmarked(&format!("{path}.{name}"), value, below, found);
            }
        }
    }
    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
        unmarked(&format!("{path}[{index}]"), value, &schema["items"], found);
    }
    if schema["additionalProperties"].is_object() {
        for (name, value) in value.as_object().into_iter().flatten() {
            unmarked(&format!("{path}[{name}]"), value, &schema["additionalProperties"], found);
        }
    }
}

async fn all(admin: &Client, kind: &str) -> Vec<Value> {
    let path = format!("/apis/epic.acnodal.io/v1/{kind}");
    let list = Request::get(&path).send(admin).await.expect_ok();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Objects of a kind that have fields nobody knows; the figure is of objects as they are.
const MARKED: usize = 20;

/// Load balancers of the figure; each has two Endpoints.
fn balancers() -> usize {
    std::env::var("EPIC_BENCH_BALANCERS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// What alerts about certificates are made of, as a process that has just made them shows it.
async fn certificates_end_as_late_as_they_should(operator: &Operator) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs_f64();
    for (what, days) in [("proxies", 1.0), ("authority", 3650.0)] {
        let row = format!("epic_certificate_expiry_timestamp_seconds{{what=\"{what}\"}}");
        let ends = operator.figure(&row).await.unwrap_or_else(|| panic!("there is no {row}"));
        let left = (ends - now) / 86_400.0;
        assert!((days * 0.5..=days).contains(&left), "{what}: {left} days are left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_nobody_knows_is_still_there_after_a_life_and_memory_stays_bounded() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    let schemas = widen(admin).await;
    let _harness = Harness::start(&cluster, 2).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    let many = balancers();
    let create = async |kind: usize, mut object: Value, marked: bool| {
        if !marked {
            Request::create(&object).send(admin).await.expect_ok();
            return;
        }
        mark(&mut object["spec"], &schemas[kind]["spec"]);
        eventually("the wider definition being served", || async {
            let answer = Request::create(&object).send(admin).await;
            (answer.is_ok() && answer.body["spec"][NEWER].is_object()).then_some(())
        })
        .await;
    };
    create(0, object("EPIC", "epic", "epic", json!({})), true).await;
    let limits = json!({"load-balancer-limit": 3000, "proxy-limit": 3000});
    create(1, object("Account", "epic", "red", limits), true).await;
    create(2, object("AddressPool", "epic", "default", json!({"addresses": ["10.9.0.0/20"]})), true).await;
    create(3, object("ServiceGroup", "epic", "small", json!({"envoy-replicas": 1})), true).await;
    until_nothing_is_left("the account being ready", || unconverged(admin)).await;
    for number in 0..many {
        let (name, marked) = (format!("lb{number:04}"), number < MARKED);
        create(4, load_balancer("epic-red", &name, "small"), marked).await;
        for last in 1..=2 {
            let address = format!("10.200.{}.{last}", number % 250);
            let node = format!("10.0.0.{}", 1 + number % 200);
            create(5, endpoint("epic-red", &format!("{name}-{last}"), &name, &address, &node), marked).await;
        }
    }
    until_nothing_is_left("everything being served", || unconverged(admin)).await;
    certificates_end_as_late_as_they_should(&operator).await;
    let resident = operator.resident_mib();
    println!("operator_rss_mib_{many}_lbs {resident} MiB");
    // Measured in a dev build: 78 MiB with 10, 111 with 100, 181 with 264, 68 of them the pages of the program.
    let most = 100 + u64::try_from(many).expect("few") * 2 / 5;
    assert!(resident < most, "{resident} MiB for {many} LoadBalancers");

    for (kind, schema) in KINDS.iter().zip(&schemas) {
        for found in all(admin, kind).await.into_iter().take(MARKED) {
            let path = Request::path_of(&found);
            mark_part(admin, &path, "status", "status", schema).await;
        }
    }
    // Everything that the operator writes of them is written once more.
    let edit = async |kind: &str, namespace: &str, name: &str, spec: Value| {
        let path = format!("/apis/epic.acnodal.io/v1/namespaces/{namespace}/{kind}/{name}");
        Request::merge(&path, &json!({"spec": spec})).send(admin).await.expect_ok();
    };
    edit("epics", "epic", "epic", json!({"protected-addresses": ["198.51.100.1"]})).await;
    edit("accounts", "epic", "red", json!({"proxy-limit": 2999})).await;
    edit("addresspools", "epic", "default", json!({"disabled": true})).await;
    edit("servicegroups", "epic", "small", json!({"lb-policy": "Random"})).await;
    edit("endpoints", "epic-red", "lb0000-1", json!({"weight": 7})).await;
    edit("loadbalancers", "epic-red", "lb0000", json!({"display-name": "renamed"})).await;
    eventually("every edit being judged", || async {
        for (kind, name) in KINDS.iter().zip(["epic", "red", "default", "small", "lb0000", "lb0000-1"]) {
            let objects = all(admin, kind).await;
            let object = objects.iter().find(|object| object["metadata"]["name"] == name)?;
            let conditions = object["status"]["conditions"].as_array()?;
            let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
            if accepted["observedGeneration"] != object["metadata"]["generation"] {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mut lost = Vec::new();
    for ((kind, schema), name) in
        KINDS.iter().zip(&schemas).zip(["epic", "red", "default", "small", "lb0000", "lb0000-1"])
    {
        let objects = all(admin, kind).await;
        let object = objects.iter().find(|object| object["metadata"]["name"] == name).expect("it is there");
        for part in ["spec", "status"] {
            unmarked(&format!("{kind}.{part}"), &object[part], &schema[part], &mut lost);
        }
    }
    // Reservations come and go with what they are for.
    lost.retain(|path| !path.contains("reservations"));
    assert_eq!(lost, Vec::<String>::new());

    edit("addresspools", "epic", "default", json!({"disabled": false})).await;
    recreate_epic(&cluster).await;
    until_nothing_is_left("everything being served again", || unconverged(admin)).await;
    for (kind, schema) in KINDS.iter().zip(&schemas).filter(|(kind, _)| **kind != "epics") {
        for object in all(admin, kind).await.into_iter().take(MARKED) {
            for part in ["spec", "status"] {
                let path = format!("{kind} {}.{part}", object["metadata"]["name"]);
                unmarked(&path, &object[part], &schema[part], &mut lost);
            }
        }
    }
    lost.retain(|path| !path.contains("reservations"));
    assert_eq!(lost, Vec::<String>::new(), "after every LoadBalancer was fenced");
    claims_keep_what_they_hold(admin, schemas.last().expect("that of claims")).await;
}

/// Marks a part of an object, written through this subresource. The operator may write at the same time.
async fn mark_part(admin: &Client, path: &str, part: &str, subresource: &str, schema: &Value) {
    eventually("the part being marked", || async {
        let mut object = Request::get(path).send(admin).await.expect_ok();
        mark(&mut object[part], &schema[part]);
        Request::replace(&object, subresource).send(admin).await.is_ok().then_some(())
    })
    .await;
}

/// Claims are written when they are made, when their pool is renamed and when they are released.
async fn claims_keep_what_they_hold(admin: &Client, schema: &Value) {
    for claim in all(admin, CLAIMS).await {
        let path = Request::path_of(&claim);
        mark_part(admin, &path, "spec", "", schema).await;
    }
    let successor = object("AddressPool", "epic", "successor", json!({"addresses": ["10.9.0.0/20"]}));
    Request::create(&successor).send(admin).await.expect_ok();
    let elsewhere = json!({"spec": {"addresses": ["10.10.0.0/24"]}});
    let pool = Request::path_of(&object("AddressPool", "epic", "default", json!({})));
    Request::merge(&pool, &elsewhere).send(admin).await.expect_ok();
    let claims = eventually("all claims naming the pool that holds them", || async {
        let claims = all(admin, CLAIMS).await;
        claims.iter().all(|claim| claim["spec"]["pool"] == "successor").then_some(claims)
    })
    .await;
    let mut lost = Vec::new();
    for claim in &claims {
        unmarked(
            &format!("renamed {}", claim["metadata"]["name"]),
            &claim["spec"],
            &schema["spec"],
            &mut lost,
        );
    }
    let history = History::record(admin).await;
    Request::delete(&Request::path_of(&load_balancer("epic-red", "lb0000", "small")))
        .send(admin)
        .await
        .expect_ok();
    let released = eventually("its claim being released and deleted", || async {
        let events = history.events().into_iter();
        events.rev().find(|event| event.kind == "AddressClaim" && event.deleted)
    })
    .await;
    let claim = &released.object.data;
    assert!(claim["status"].is_object(), "it was marked as released before it was deleted: {claim}");
    unmarked("released", &claim["spec"], &schema["spec"], &mut lost);
    assert_eq!(lost, Vec::<String>::new(), "of claims");
}

/// As docs/recovery.md says; a new EPIC fences all LoadBalancers, which is a write of their status that reads none of it.
async fn recreate_epic(cluster: &Cluster) {
    const PATH: &str = "/apis/epic.acnodal.io/v1/namespaces/epic/epics/epic";
    let admin = &cluster.admin;
    let found = Request::get(PATH).send(admin).await.expect_ok();
    let mut spec = found["spec"].clone();
    for ranges in ["proxy-addresses", "alias-addresses"] {
        spec[ranges] = found["status"][ranges].clone();
    }
    let someone = Identity::service_account("kube-system", "namespace-controller");
    let someone = cluster.control_plane.client(&someone).await.expect("a client");
    Request::delete(PATH).send(&someone).await.expect_ok();
    Request::merge(PATH, &json!({"metadata": {"finalizers": null}})).send(admin).await.expect_ok();
    Request::create(&object("EPIC", "epic", "epic", spec)).send(admin).await.expect_ok();
    eventually("EPIC having its finalizer, which comes after the fences", || async {
        let found = Request::get(PATH).send(admin).await.expect_ok();
        found["metadata"]["finalizers"].is_array().then_some(())
    })
    .await;
}
