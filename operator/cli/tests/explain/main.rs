//! `epicctl explain lb`: a load balancer that serves is broken in one place at a time; the answer must name that place, and
//! what to do.

mod situations;

use epic_crds::condition::set;
use epic_crds::{
    Account, AddressPool, EPIC, EPICNode, Endpoint, LoadBalancer, LoadBalancerReason, ServiceGroup,
};
use epicctl::explain::{Found, Subject, explain, json, render};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NOW: &str = "2026-01-02T03:04:05Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
        "lastTransitionTime": NOW})
}

fn lease(name: &str) -> Lease {
    object(json!({"metadata": {"name": name, "namespace": "epic"}, "spec": {
        "holderIdentity": "epic-operator-1", "leaseDurationSeconds": 40, "renewTime": "2026-01-02T03:04:00.000000Z",
    }}))
}

fn node(name: &str) -> EPICNode {
    object(json!({"metadata": {"name": name, "namespace": "epic"}, "status": {
        "addresses": ["192.0.2.101"], "conditions": [condition("Ready", "True", "Ready", "")],
    }}))
}

fn pod() -> Pod {
    object(json!({
        "metadata": {"name": "epic-web-1", "namespace": "epic-red", "uid": "p",
            "labels": {"epic.acnodal.io/load-balancer": "epic-web"},
            "annotations": {"epic.acnodal.io/proxy-version": "envoy 1.40.0"}},
        "spec": {"nodeName": "node1", "containers": []},
        "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"},
            {"type": "epic.acnodal.io/programmed", "status": "True"},
            {"type": "epic.acnodal.io/configured", "status": "True", "message": "generation 1"},
        ]},
    }))
}

/// A load balancer that serves, with all that it needs.
fn well() -> Found {
    let accepted = condition("Accepted", "True", "Accepted", "");
    let ready = condition("Ready", "True", "Ready", "");
    let mut found = Found::default();
    let epic: EPIC =
        object(json!({"metadata": {"name": "epic", "namespace": "epic"}, "spec": {}, "status": {
            "conditions": [accepted, ready],
        }}));
    found.epic.epics.items.push(epic);
    found.epic.leases.items.extend([lease("epic-operator"), lease("epic-node-node1")]);
    found.epic.nodes.items.push(node("node1"));
    let account: Account =
        object(json!({"metadata": {"name": "red", "namespace": "epic"}, "spec": {}, "status": {
            "conditions": [accepted, ready],
        }}));
    found.epic.accounts.items.push(account);
    let group: ServiceGroup = object(json!({"metadata": {"name": "shared", "namespace": "epic"}, "spec": {},
        "status": {"conditions": [accepted, ready]}}));
    found.epic.groups.items.push(group);
    let pool: AddressPool = object(json!({"metadata": {"name": "default", "namespace": "epic"},
        "spec": {"addresses": ["192.0.2.0/28"]}}));
    found.epic.pools.items.push(pool);
    let balancer: LoadBalancer = object(json!({
        "metadata": {"name": "web", "namespace": "epic-red", "uid": "lb", "generation": 1},
        "spec": {"service-group": "shared", "public-ports": [{"port": 80, "protocol": "TCP"}]},
        "status": {
            "service-id": 7, "public-address": "192.0.2.7",
            "advertised-by": {"node": "node1", "interface": "eth0"},
            "proxies": [{"pod": "epic-web-1", "pod-uid": "p", "node": "node1", "proxy-id": 1, "state": "Ready"}],
            "conditions": [accepted, condition("Programmed", "True", "Programmed", ""), ready,
                condition("Advertised", "True", "Announced", "node1 answers on eth0")],
        },
    }));
    found.epic.balancers.items.push(balancer);
    let endpoint: Endpoint = object(json!({
        "metadata": {"name": "pod-1", "namespace": "epic-red", "generation": 1},
        "spec": {"load-balancer": "web", "address": "10.0.0.1", "port": {"port": 80}, "node-address": "198.51.100.1"},
        "status": {"conditions": [accepted, condition("Programmed", "True", "Programmed", ""),
            condition("TunnelUp", "True", "TunnelUp", "")]},
    }));
    found.epic.endpoints.items.push(endpoint);
    let deployment: Deployment = object(json!({
        "metadata": {"name": "epic-web", "namespace": "epic-red", "labels": {"epic.acnodal.io/load-balancer": "epic-web"},
            "ownerReferences": [{"apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer", "name": "web", "uid": "lb"}]},
        "status": {},
    }));
    found.deployments.push(deployment);
    found.pods.push(pod());
    found
}

fn subject() -> Subject {
    Subject { namespace: "epic-red".to_owned(), name: "web".to_owned() }
}

fn balancer(found: &mut Found) -> &mut LoadBalancer {
    &mut found.epic.balancers.items[0]
}

#[test]
fn a_load_balancer_that_serves_has_nothing_to_be_fixed() {
    insta::assert_snapshot!(render(&explain(&well(), &subject(), now())));
}

#[test]
fn the_versions_that_proxies_say_are_told_apart() {
    let mut found = well();
    let mut older = pod();
    let version = "envoy 1.39.1".to_owned();
    older
        .metadata
        .annotations
        .get_or_insert_default()
        .insert("epic.acnodal.io/proxy-version".to_owned(), version);
    let mut silent = pod();
    silent.metadata.annotations = None;
    found.pods.extend([older, pod(), silent]);
    let text = render(&explain(&found, &subject(), now()));
    assert!(text.contains("1 ready of 4 pods, envoy 1.39.1, envoy 1.40.0\n"), "{text}");
}

#[test]
fn what_serves_meanwhile_is_said() {
    let mut found = well();
    let (reason, message) = (LoadBalancerReason::GroupNotAdmitted, "group shared does not admit red");
    let status = balancer(&mut found).status.as_mut().expect("a status");
    set(&mut status.conditions, "Accepted", false, reason, message, Some(1), &Time(now()));
    insta::assert_snapshot!(render(&explain(&found, &subject(), now())));
}

#[test]
fn a_tenant_is_told_what_he_may_not_read_and_gets_an_answer_from_the_rest() {
    let mut found = well();
    found.epic.forbidden =
        ["epics", "leases", "epicnodes", "accounts", "pods", "deployments"].map(str::to_owned).to_vec();
    found.epic.epics.items.clear();
    found.epic.leases.items.clear();
    found.epic.nodes.items.clear();
    found.epic.accounts.items.clear();
    found.pods.clear();
    found.deployments.clear();
    let explanation = explain(&found, &subject(), now());
    assert_eq!(explanation.fix, None, "{}", render(&explanation));
    found.epic.endpoints.items.clear();
    let explanation = explain(&found, &subject(), now());
    assert_eq!(explanation.fix.as_ref().map(|(what, _)| *what), Some("endpoints"));
    assert!(render(&explanation).contains("You may not read epics, leases"));
    let value: Value = serde_json::from_str(&json(&explanation)).expect("JSON");
    assert_eq!(value["fix"][0], "endpoints");
}
