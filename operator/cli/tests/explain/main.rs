//! `epicctl explain lb`: each situation of docs/conditions.md that a person has to mend, and what it tells him.
//!
//! A load balancer that serves is broken in one place at a time; the answer must name that place, and what to do.

use epic_crds::condition::set;
use epic_crds::{
    Account, AddressClaim, AddressPool, EPIC, EPICNode, Endpoint, EndpointReason, LoadBalancer,
    LoadBalancerReason, ServiceGroup,
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
        "metadata": {"name": "epic-web-1", "namespace": "epic-red", "uid": "p", "labels": {
            "epic.acnodal.io/load-balancer": "epic-web",
        }},
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

fn says(found: &mut Found, type_: &str, reason: LoadBalancerReason, message: &str) {
    let status = balancer(found).status.as_mut().expect("a status");
    set(&mut status.conditions, type_, false, reason, message, Some(1), &Time(now()));
}

fn endpoint_says(found: &mut Found, type_: &str, reason: EndpointReason, message: &str) {
    let status = found.epic.endpoints.items[0].status.as_mut().expect("a status");
    set(&mut status.conditions, type_, false, reason, message, Some(1), &Time(now()));
}

/// The pod with these parts of its status replaced, and not ready.
fn pod_with(found: &mut Found, changes: &Value) {
    let mut value = serde_json::to_value(pod()).expect("a value");
    let conditions = value["status"]["conditions"].as_array_mut().expect("conditions");
    conditions[0]["status"] = json!("False");
    for (key, change) in changes.as_object().expect("an object") {
        match key.as_str() {
            "containerStatuses" => value["status"]["containerStatuses"] = change.clone(),
            "nodeName" => value["spec"]["nodeName"] = change.clone(),
            type_ => {
                let conditions = value["status"]["conditions"].as_array_mut().expect("conditions");
                conditions.retain(|known| known["type"] != json!(type_));
                if !change.is_null() {
                    conditions.push(json!({"type": type_, "status": "False", "message": change}));
                }
            }
        }
    }
    found.pods = vec![object(value)];
}

fn no_address(found: &mut Found, reason: LoadBalancerReason, message: &str) {
    balancer(found).status.as_mut().expect("a status").public_address = None;
    says(found, "Programmed", reason, message);
}

fn claim(found: &mut Found, uid: &str, phase: Option<&str>) {
    let claim: AddressClaim = object(json!({
        "metadata": {"name": "192.0.2.9", "namespace": "epic"},
        "spec": {"address": "192.0.2.9", "pool": "default", "owner": {
            "kind": "LoadBalancer", "namespace": "epic-blue", "name": "other", "uid": uid, "resource-version": "1",
        }},
        "status": {"phase": phase},
    }));
    found.epic.claims.items.push(claim);
    balancer(found).spec.public_address = Some("192.0.2.9".to_owned());
}

type Case = (&'static str, fn(&mut Found), &'static str, &'static str);

/// Situation, how it comes about, the link that does not hold, and a part of the answer.
const CASES: &[Case] = &[
    ("there is no EPIC object", |f| f.epic.epics.items.clear(), "EPIC", "config/samples/platform/epic.yaml"),
    (
        "EPIC is being uninstalled",
        |f| {
            let annotations = &mut f.epic.epics.items[0].metadata.annotations;
            annotations.get_or_insert_default().insert("epic.acnodal.io/uninstall".to_owned(), String::new());
        },
        "EPIC",
        "annotate epics.epic.acnodal.io epic epic.acnodal.io/uninstall-",
    ),
    (
        "EPIC is being deleted",
        |f| f.epic.epics.items[0].metadata.deletion_timestamp = Some(Time(now())),
        "EPIC",
        "being deleted",
    ),
    (
        "no operator has ever led",
        |f| f.epic.leases.items.retain(|l| l.metadata.name.as_deref() != Some("epic-operator")),
        "operator",
        "app.kubernetes.io/name=epic-operator",
    ),
    (
        "the operator is silent",
        |f| {
            let spec = f.epic.leases.items[0].spec.as_mut().expect("a spec");
            spec.renew_time = Some(object(json!("2026-01-02T03:00:00.000000Z")));
        },
        "operator",
        "for 205 s",
    ),
    ("there is no Account", |f| f.epic.accounts.items.clear(), "account", "create it in namespace epic"),
    (
        "the Account is being deleted",
        |f| f.epic.accounts.items[0].metadata.deletion_timestamp = Some(Time(now())),
        "account",
        "delete the LoadBalancers of epic-red",
    ),
    (
        "the Account's namespace is not its own",
        |f| {
            let status = json!({"conditions": [condition("Ready", "False", "NamespaceNotAdopted", "holds a Secret of others")]});
            f.epic.accounts.items[0].status = Some(object(status));
        },
        "account",
        "holds a Secret of others",
    ),
    (
        "there is no such LoadBalancer",
        |f| balancer(f).metadata.name = Some("api".to_owned()),
        "object",
        "there are api",
    ),
    (
        "it is being deleted",
        |f| balancer(f).metadata.deletion_timestamp = Some(Time(now())),
        "object",
        "timeouts.drain",
    ),
    ("nobody has reconciled it", |f| balancer(f).status = None, "object", "logs deploy/epic-operator"),
    (
        "an edit has not been judged",
        |f| balancer(f).metadata.generation = Some(2),
        "object",
        "the generation that was judged",
    ),
    (
        "its group is refused",
        |f| {
            let status =
                json!({"conditions": [condition("Accepted", "False", "NotSupportedYet", "spec.forwarding")]});
            f.epic.groups.items[0].status = Some(object(status));
        },
        "group",
        "kubectl -n epic edit epicsg shared",
    ),
    (
        "its group is not there",
        |f| {
            f.epic.groups.items.clear();
            says(f, "Accepted", LoadBalancerReason::GroupNotFound, "no ServiceGroup shared");
        },
        "accepted",
        "kubectl get epicsg -n epic",
    ),
    (
        "its group does not admit it",
        |f| says(f, "Accepted", LoadBalancerReason::GroupNotAdmitted, "not in accounts"),
        "accepted",
        "spec.accounts",
    ),
    (
        "there are too many LoadBalancers",
        |f| says(f, "Accepted", LoadBalancerReason::LimitExceeded, "100 of 100"),
        "accepted",
        "have the limit of the Account raised",
    ),
    (
        "a field has no effect yet",
        |f| says(f, "Accepted", LoadBalancerReason::NotSupportedYet, "spec.source-ranges"),
        "accepted",
        "take out the field",
    ),
    (
        "IDs are used up",
        |f| {
            balancer(f).status.as_mut().expect("a status").service_id = None;
            says(f, "Programmed", LoadBalancerReason::IdsExhausted, "65535 of 65535");
        },
        "ID",
        "another Account",
    ),
    (
        "the pool is not there",
        |f| no_address(f, LoadBalancerReason::PoolNotFound, "default"),
        "address",
        "create the AddressPool",
    ),
    (
        "the pool is exhausted",
        |f| no_address(f, LoadBalancerReason::PoolExhausted, "14 of 14"),
        "address",
        "add addresses to the pool",
    ),
    (
        "the address is outside of the pools",
        |f| no_address(f, LoadBalancerReason::AddressNotInPool, "8.8.8.8"),
        "address",
        "or for none",
    ),
    (
        "the address is somebody else's",
        |f| {
            claim(f, "other", None);
            no_address(f, LoadBalancerReason::AddressTaken, "taken");
        },
        "address",
        "belongs to LoadBalancer epic-blue/other",
    ),
    (
        "the address is being released",
        |f| {
            claim(f, "other", Some("Releasing"));
            no_address(f, LoadBalancerReason::AddressTaken, "taken");
        },
        "address",
        "epicctl address release 192.0.2.9",
    ),
    (
        "the Deployment is refused",
        |f| {
            f.deployments.clear();
            says(f, "Programmed", LoadBalancerReason::ApplyFailed, "admission webhook denied");
        },
        "proxies",
        "admission webhook denied",
    ),
    (
        "a quota keeps the pods away",
        |f| {
            f.deployments[0].status =
                Some(object(json!({"conditions": [{"type": "ReplicaFailure", "status": "True",
                "message": "pods is forbidden: failed quota: q: must specify limits.cpu"}]})));
        },
        "proxies",
        "ResourceQuota",
    ),
    ("there are no pods", |f| f.pods.clear(), "proxies", "describe deployments"),
    (
        "no node takes a pod",
        |f| pod_with(f, &json!({"PodScheduled": "0/2 nodes are available"})),
        "proxies",
        "label epic.acnodal.io/node",
    ),
    (
        "the image cannot be had",
        |f| {
            pod_with(
                f,
                &json!({"containerStatuses": [{"name": "envoy", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
            )
        },
        "proxies",
        "image-pull-secrets",
    ),
    (
        "the container ends",
        |f| {
            pod_with(
                f,
                &json!({"containerStatuses": [{"name": "envoy", "image": "", "imageID": "", "ready": false,
            "restartCount": 3, "state": {"terminated": {"exitCode": 137}}}]}),
            )
        },
        "proxies",
        "too little memory",
    ),
    (
        "the pod's node has no agent",
        |f| pod_with(f, &json!({"nodeName": "node9"})),
        "proxies",
        "agent.nodeSelector",
    ),
    (
        "the agent of the pod's node is silent",
        |f| {
            f.epic.leases.items[1].spec.as_mut().expect("a spec").renew_time =
                Some(object(json!("2026-01-02T03:00:00.000000Z")));
            pod_with(f, &json!({}));
        },
        "proxies",
        "reaches the API server",
    ),
    (
        "the pod's node is not ready",
        |f| {
            let status = json!({"conditions": [condition("Ready", "False", "InterfaceNotFound", "no eth1")]});
            f.epic.nodes.items[0].status = Some(object(status));
            pod_with(f, &json!({}));
        },
        "proxies",
        "no eth1",
    ),
    (
        "a NetworkPolicy keeps xDS away",
        |f| pod_with(f, &json!({"epic.acnodal.io/configured": null})),
        "proxies",
        "TCP 18000",
    ),
    (
        "Envoy refuses its configuration",
        |f| pod_with(f, &json!({"epic.acnodal.io/configured": "no such extension"})),
        "proxies",
        "no such extension",
    ),
    (
        "the node's maps lack the proxy",
        |f| pod_with(f, &json!({"epic.acnodal.io/programmed": "map full"})),
        "proxies",
        "has not written it into its maps",
    ),
    (
        "a proxy has lost its operator",
        |f| says(f, "Programmed", LoadBalancerReason::ProxyStale, "pod epic-web-1"),
        "proxies",
        "cannot reach epic-xds",
    ),
    (
        "a node is behind",
        |f| {
            f.epic.leases.items[1].spec.as_mut().expect("a spec").renew_time =
                Some(object(json!("2026-01-02T03:00:00.000000Z")));
            says(f, "Programmed", LoadBalancerReason::NodesPending, "waiting for node1");
        },
        "programmed",
        "bring the agent back",
    ),
    (
        "somebody else answers for the address",
        |f| says(f, "Advertised", LoadBalancerReason::AddressConflict, "02:00:00:00:00:01"),
        "announced",
        "take the address from the machine",
    ),
    (
        "no node can announce the address",
        |f| says(f, "Advertised", LoadBalancerReason::NoNodeToAnnounce, "no EPIC node"),
        "announced",
        "app.kubernetes.io/name=epic-agent",
    ),
    (
        "the node that answers is out of service",
        |f| {
            let status = json!({"conditions": [condition("Ready", "True", "Ready", ""),
                condition("InService", "False", "NodeSilent", "silent, and its proxies have no stream")]});
            f.epic.nodes.items[0].status = Some(object(status));
        },
        "announced",
        "mend the node",
    ),
    (
        "no Endpoint names it",
        |f| f.epic.endpoints.items.clear(),
        "endpoints",
        "create an Endpoint with load-balancer: web",
    ),
    (
        "all Endpoints drain",
        |f| f.epic.endpoints.items[0].spec.weight = Some(0),
        "endpoints",
        "give one a weight",
    ),
    (
        "no port matches",
        |f| {
            endpoint_says(f, "Programmed", EndpointReason::AliasPending, "");
            endpoint_says(f, "Accepted", EndpointReason::NoMatchingPort, "port 81");
        },
        "endpoints",
        "match public-ports",
    ),
    (
        "an Endpoint's address is refused",
        |f| {
            endpoint_says(f, "Programmed", EndpointReason::AliasPending, "");
            endpoint_says(f, "Accepted", EndpointReason::AddressRefused, "loopback");
        },
        "endpoints",
        "at the client site",
    ),
    (
        "the tunnel is down",
        |f| endpoint_says(f, "TunnelUp", EndpointReason::TunnelDown, "198.51.100.1 does not say hello"),
        "endpoints",
        "epic-agent tunnels",
    ),
];

#[test]
fn each_situation_names_the_link_that_does_not_hold_and_what_mends_it() {
    for (situation, break_it, link, needle) in CASES {
        let mut found = well();
        break_it(&mut found);
        let explanation = explain(&found, &subject(), now());
        let text = render(&explanation);
        let (what, fix) =
            explanation.fix.unwrap_or_else(|| panic!("{situation}: nothing is to be fixed\n{text}"));
        assert_eq!(what, *link, "{situation}:\n{text}");
        assert!(text.contains(needle), "{situation}: no {needle:?} in\n{text}");
        assert!(!fix.problem.is_empty() && !fix.remedy.is_empty(), "{situation}");
    }
    println!("{} situations", CASES.len());
    assert!(CASES.len() >= 25);
}

#[test]
fn a_load_balancer_that_serves_has_nothing_to_be_fixed() {
    insta::assert_snapshot!(render(&explain(&well(), &subject(), now())));
}

#[test]
fn what_serves_meanwhile_is_said() {
    let mut found = well();
    says(&mut found, "Accepted", LoadBalancerReason::GroupNotAdmitted, "group shared does not admit red");
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
