//! Each situation of docs/conditions.md that a person has to mend, and what he is told. What the conditions say is read
//! from that table, and a row that is explained by no case here is missed; a case adds what is the matter around them.
//! What no condition can say, such as an operator that is away, is tried beside it.

use std::collections::BTreeSet;

use epic_control_plane::conditions::{Row, rows};
use epic_crds::{AddressClaim, Condition};
use epicctl::explain::{Found, explain, render};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{balancer, condition, now, object, pod, subject, well};

const LB: &str = "LoadBalancer";
const ENDPOINT: &str = "Endpoint";
const NODE: &str = "EPICNode";

/// A link that nothing is wrong with: the conditions are for information.
const NOTHING: &str = "nothing";

type Break = fn(&mut Found);

/// Rows of the table, each with its kind.
type Named = &'static [(&'static str, &'static str)];

/// Makes the conditions of the kind's object what a row says; `message` stands in all of them.
fn say(found: &mut Found, kind: &str, row: &Row, message: &str) {
    let there: &mut Vec<Condition> = match kind {
        LB => &mut balancer(found).status.as_mut().expect("a status").conditions,
        ENDPOINT => &mut found.epic.endpoints.items[0].status.as_mut().expect("a status").conditions,
        _ => &mut found.epic.nodes.items[0].status.as_mut().expect("a status").conditions,
    };
    if kind != NODE {
        there.clear();
    }
    for (type_, said) in &row.conditions {
        let (status, reason) = said.split_once(' ').expect("a status and a reason");
        there.push(object(condition(type_, status, reason, message)));
    }
}

/// What a condition of the load balancer says in words.
fn worded(found: &mut Found, type_: &str, message: &str) {
    let conditions = &mut balancer(found).status.as_mut().expect("a status").conditions;
    let known = conditions.iter_mut().find(|known| known.type_ == type_).expect("the condition");
    message.clone_into(&mut known.message);
}

fn is_deleted(deleted: &mut Option<Time>) {
    *deleted = Some(Time(now()));
}

fn is_silent(found: &mut Found, lease: usize) {
    let spec = found.epic.leases.items[lease].spec.as_mut().expect("a spec");
    spec.renew_time = Some(object(json!("2026-01-02T03:00:00.000000Z")));
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

fn container(state: &Value) -> Value {
    json!({"containerStatuses": [{"name": "envoy", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": state}]})
}

fn no_service_id(found: &mut Found) {
    balancer(found).status.as_mut().expect("a status").service_id = None;
}

fn no_address(found: &mut Found) {
    balancer(found).status.as_mut().expect("a status").public_address = None;
}

fn claimed(found: &mut Found, phase: Option<&str>) {
    let claim: AddressClaim = object(json!({
        "metadata": {"name": "192.0.2.9", "namespace": "epic"},
        "spec": {"address": "192.0.2.9", "pool": "default", "owner": {
            "kind": "LoadBalancer", "namespace": "epic-blue", "name": "other", "uid": "other", "resource-version": "1",
        }},
        "status": {"phase": phase},
    }));
    found.epic.claims.items.push(claim);
    balancer(found).spec.public_address = Some("192.0.2.9".to_owned());
    no_address(found);
}

/// Rows, what else is the matter, the link that does not hold, and a part of the answer.
const ROWS: &[(Named, Break, &str, &str)] = &[
    (
        &[(LB, "its namespace has no Account"), (ENDPOINT, "its namespace has no Account")],
        |f| f.epic.accounts.items.clear(),
        "account",
        "create it in namespace epic",
    ),
    (
        &[(LB, "its group does not exist")],
        |f| f.epic.groups.items.clear(),
        "accepted",
        "kubectl get epicsg -n epic",
    ),
    (
        &[(LB, "its group does not admit the Account"), (ENDPOINT, "its LoadBalancer is not accepted")],
        |_| {},
        "accepted",
        "spec.accounts",
    ),
    (
        &[(LB, "its group is not accepted")],
        |f| {
            let refused = condition("Accepted", "False", "NotSupportedYet", "spec.forwarding");
            f.epic.groups.items[0].status = Some(object(json!({"conditions": [refused]})));
        },
        "group",
        "kubectl -n epic edit epicsg shared",
    ),
    (&[(LB, "a field that has no effect yet is set")], |_| {}, "accepted", "take out the field"),
    (&[(LB, "a public port stands there twice")], |_| {}, "accepted", "correct the ports"),
    (
        &[(LB, "beyond the Account's LoadBalancers")],
        |_| {},
        "accepted",
        "have the limit of the Account raised",
    ),
    (&[(LB, "beyond the Account's proxies")], |_| {}, "accepted", "Until then it takes no traffic"),
    (&[(LB, "an edit is refused while it serves")], |_| {}, "accepted", "Meanwhile it serves"),
    (&[(LB, "waits for its service ID")], no_service_id, "ID", "wait a moment"),
    (&[(LB, "the service ID it asks for is taken")], no_service_id, "ID", "another service-id"),
    (&[(LB, "no ID is left")], no_service_id, "ID", "another Account"),
    (&[(LB, "its ID is granted twice")], no_service_id, "ID", "delete the younger"),
    (
        &[(LB, "its parent hands out nothing")],
        |f| is_deleted(&mut f.epic.epics.items[0].metadata.deletion_timestamp),
        "EPIC",
        "being deleted",
    ),
    (&[(LB, "no pool of the group can be used")], no_address, "address", "create the AddressPool"),
    (&[(LB, "the address it asks for lies in no pool")], no_address, "address", "or for none"),
    (
        &[(LB, "the address it asks for is taken")],
        |f| claimed(f, None),
        "address",
        "belongs to LoadBalancer epic-blue/other",
    ),
    (
        &[(LB, "the address it asks for is taken")],
        |f| claimed(f, Some("Releasing")),
        "address",
        "epicctl address release 192.0.2.9",
    ),
    (&[(LB, "the pools of its group are full")], no_address, "address", "add addresses to the pool"),
    (
        &[(LB, "its Account has as many addresses as it may have")],
        no_address,
        "address",
        "have the limit of the Account raised",
    ),
    (
        &[(LB, "the proxies of its predecessor are not gone")],
        |f| f.deployments.clear(),
        "proxies",
        "wait a moment",
    ),
    (
        &[(LB, "its proxies cannot be written")],
        |f| {
            f.deployments.clear();
            worded(f, "Programmed", "admission webhook denied");
        },
        "proxies",
        "admission webhook denied",
    ),
    (&[(LB, "the same while it serves")], |_| {}, "ready", "mend what the API server refused"),
    (
        &[(LB, UNSTARTED)],
        |f| {
            let message = "pods is forbidden: failed quota: q: must specify limits.cpu";
            let failure = json!({"type": "ReplicaFailure", "status": "True", "message": message});
            f.deployments[0].status = Some(object(json!({"conditions": [failure]})));
        },
        "proxies",
        "ResourceQuota",
    ),
    (&[(LB, UNSTARTED)], |f| f.pods.clear(), "proxies", "describe deployments"),
    (
        &[(LB, UNSTARTED)],
        |f| pod_with(f, &json!({"PodScheduled": "0/2 nodes are available"})),
        "proxies",
        "label epic.acnodal.io/node",
    ),
    (
        &[(LB, UNSTARTED)],
        |f| pod_with(f, &container(&json!({"waiting": {"reason": "ImagePullBackOff", "message": "none"}}))),
        "proxies",
        "image-pull-secrets",
    ),
    (
        &[(LB, UNSTARTED)],
        |f| pod_with(f, &container(&json!({"terminated": {"exitCode": 137}}))),
        "proxies",
        "too little memory",
    ),
    (&[(LB, UNSTARTED)], |f| pod_with(f, &json!({"nodeName": "node9"})), "proxies", "agent.nodeSelector"),
    (
        &[(LB, UNSTARTED)],
        |f| {
            is_silent(f, 1);
            pod_with(f, &json!({}));
        },
        "proxies",
        "reaches the API server",
    ),
    (
        &[(LB, UNSTARTED)],
        |f| {
            let status = json!({"conditions": [condition("Ready", "False", "InterfaceNotFound", "no eth1")]});
            f.epic.nodes.items[0].status = Some(object(status));
            pod_with(f, &json!({}));
        },
        "proxies",
        "no eth1",
    ),
    (
        &[(LB, UNSTARTED)],
        |f| pod_with(f, &json!({"epic.acnodal.io/configured": null})),
        "proxies",
        "TCP 18000",
    ),
    (
        &[(LB, UNSTARTED)],
        |f| pod_with(f, &json!({"epic.acnodal.io/programmed": "map full"})),
        "proxies",
        "has not written it into its maps",
    ),
    (
        &[(LB, "so do some of its pods"), (LB, "so do the new pods of a roll-out")],
        |f| {
            pod_with(f, &json!({"PodScheduled": "0/2 nodes are available"}));
            f.pods.push(pod());
        },
        "proxies",
        "Meanwhile it serves",
    ),
    (
        &[(LB, "no proxy is ready any more")],
        |f| pod_with(f, &json!({})),
        "proxies",
        "its readiness probe fails",
    ),
    (
        &[(LB, "Envoy refuses the configuration in every new pod")],
        |f| pod_with(f, &json!({"epic.acnodal.io/configured": "no such extension"})),
        "proxies",
        "Envoy (envoy 1.40.0) refuses its configuration: no such extension",
    ),
    (
        &[(LB, "Envoy refuses it in the new pods of a roll-out")],
        |f| {
            pod_with(f, &json!({"epic.acnodal.io/configured": "no such extension"}));
            f.pods.push(pod());
        },
        "proxies",
        "Meanwhile it serves",
    ),
    (&[(LB, "Envoy refuses an edit")], |_| {}, "programmed", "compare the Envoy image"),
    (&[(LB, "proxies have not acknowledged an edit yet")], |_| {}, "programmed", "get pods -o wide"),
    (
        &[(LB, "EPIC nodes have not programmed an edit yet")],
        |f| {
            is_silent(f, 1);
            worded(f, "Programmed", "waiting for node1");
        },
        "programmed",
        "bring the agent back",
    ),
    (&[(LB, "EPIC nodes have not programmed a new one yet")], |_| {}, "programmed", "get epicnodes -o wide"),
    (&[(LB, "a proxy is connected to no operator")], |_| {}, "proxies", "cannot reach epic-xds"),
    (&[(LB, "the same, and an edit waits for it")], |_| {}, "proxies", "cannot reach epic-xds"),
    (&[(LB, "its address lies in no pool of its group any more")], |_| {}, "ready", "put the address back"),
    (
        &[(LB, "no Endpoint names it")],
        |f| f.epic.endpoints.items.clear(),
        "endpoints",
        "create an Endpoint with load-balancer: web",
    ),
    (
        &[(LB, "none of its Endpoints is programmed"), (ENDPOINT, "waits for its alias")],
        |_| {},
        "endpoints",
        "wait a moment",
    ),
    (
        &[(LB, "the tunnels of all Endpoints are down"), (ENDPOINT, "its client node does not say hello")],
        |_| {},
        "endpoints",
        "epic-agent tunnels",
    ),
    (
        &[
            (LB, "nobody says whether the tunnels are up"),
            (ENDPOINT, "its EPIC node is silent, or has not reported its tunnel"),
        ],
        |_| {},
        NOTHING,
        "1 of 1 reached",
    ),
    (
        &[(LB, "all its Endpoints drain"), (ENDPOINT, "its weight is 0")],
        |f| f.epic.endpoints.items[0].spec.weight = Some(0),
        "endpoints",
        "give one a weight",
    ),
    (&[(LB, "its pool is not announced")], |_| {}, NOTHING, "your network routes it"),
    (&[(LB, "no node says that it answers")], |_| {}, "announced", "wait a moment"),
    (&[(LB, "the node that answers is silent")], |_| {}, "announced", "app.kubernetes.io/name=epic-agent"),
    (&[(LB, "another machine answers, too")], |_| {}, "announced", "take the address from the machine"),
    (&[(LB, "there is no EPIC node")], |_| {}, "announced", "app.kubernetes.io/name=epic-agent"),
    (
        &[(ENDPOINT, "its LoadBalancer does not exist")],
        |f| balancer(f).metadata.name = Some("api".to_owned()),
        "object",
        "there are api",
    ),
    (&[(ENDPOINT, "a field that has no effect yet is set")], |_| {}, "endpoints", "take out the field"),
    (&[(ENDPOINT, "it matches no public port")], |_| {}, "endpoints", "match public-ports"),
    (&[(ENDPOINT, "its address may not be an Endpoint's")], |_| {}, "endpoints", "at the client site"),
    (
        &[(ENDPOINT, "it has no node-address and may not be reached without tunnel")],
        |_| {},
        "endpoints",
        "untunnelled-networks",
    ),
    (&[(ENDPOINT, "an older one is the same")], |_| {}, "endpoints", "delete one of the two"),
    (&[(ENDPOINT, "its client node belongs to another cluster")], |_| {}, "endpoints", "the same cluster"),
    (&[(ENDPOINT, "beyond the Account's Endpoints")], |_| {}, "endpoints", "endpoint-limit"),
    (
        &[(ENDPOINT, "its LoadBalancer has as many client nodes as it can have")],
        |_| {},
        "endpoints",
        "at most 250 client nodes",
    ),
    (&[(ENDPOINT, "its ID is granted twice")], |_| {}, "endpoints", "create it anew"),
    (&[(ENDPOINT, "no ID is left")], |_| {}, "endpoints", "delete other Endpoints of the Account"),
    (&[(ENDPOINT, "no proxy has acknowledged it yet")], |_| {}, "endpoints", "wait a moment"),
    (&[(NODE, "agent and proxies silent")], |_| {}, "announced", "mend the node"),
    (&[(NODE, "hears no client that others hear")], |_| {}, "announced", "mend the node"),
    (&[(NODE, "the same, and no other node serves")], |_| {}, NOTHING, "node1 answers"),
];

const UNSTARTED: &str = "its pods cannot be made, are not scheduled, or do not start";

/// What the conditions in the table do not say: what it is, how it comes about, the link, and a part of the answer.
const BESIDE: &[(&str, Break, &str, &str)] = &[
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
        "no operator has ever led",
        |f| f.epic.leases.items.retain(|lease| lease.metadata.name.as_deref() != Some("epic-operator")),
        "operator",
        "app.kubernetes.io/name=epic-operator",
    ),
    ("the operator is silent", |f| is_silent(f, 0), "operator", "for 205 s"),
    (
        "the Account is being deleted",
        |f| is_deleted(&mut f.epic.accounts.items[0].metadata.deletion_timestamp),
        "account",
        "delete the LoadBalancers of epic-red",
    ),
    (
        "the Account's namespace is not its own",
        |f| {
            let refused = condition("Ready", "False", "NamespaceNotAdopted", "holds a Secret of others");
            f.epic.accounts.items[0].status = Some(object(json!({"conditions": [refused]})));
        },
        "account",
        "holds a Secret of others",
    ),
    (
        "it is being deleted",
        |f| is_deleted(&mut balancer(f).metadata.deletion_timestamp),
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
];

/// Asserts that the answer names this link and says this.
fn answers(situation: &str, found: &Found, link: &str, needle: &str) {
    let explanation = explain(found, &subject(), now());
    let text = render(&explanation);
    assert_eq!(explanation.fix.as_ref().map_or(NOTHING, |(what, _)| *what), link, "{situation}:\n{text}");
    assert!(text.contains(needle), "{situation}: no {needle:?} in\n{text}");
    if let Some((_, fix)) = explanation.fix {
        assert!(!fix.problem.is_empty() && !fix.remedy.is_empty(), "{situation}");
    }
}

#[test]
fn each_row_of_the_table_names_the_link_that_does_not_hold_and_what_mends_it() {
    for (named, break_it, link, needle) in ROWS {
        let mut found = well();
        for (kind, situation) in *named {
            let known = rows(kind);
            let row = known.get(*situation);
            let row = row.unwrap_or_else(|| panic!("docs/conditions.md has no {kind} {situation:?}"));
            say(&mut found, kind, row, situation);
        }
        break_it(&mut found);
        answers(&format!("{named:?}"), &found, link, needle);
    }
}

#[test]
fn every_row_with_something_to_mend_is_explained() {
    let explained: BTreeSet<(&str, &str)> = ROWS.iter().flat_map(|(named, ..)| *named).copied().collect();
    println!("{} rows of docs/conditions.md, and {} situations beside it", explained.len(), BESIDE.len());
    assert!(explained.len() >= 25);
    for kind in [LB, ENDPOINT, NODE] {
        let known = rows(kind);
        let to_mend = known.iter().filter(|(_, row)| !row.fix.starts_with("nothing"));
        let missed: Vec<&String> = to_mend
            .map(|(name, _)| name)
            .filter(|name| !explained.contains(&(kind, name.as_str())))
            .collect();
        assert!(missed.is_empty(), "epicctl explain is not tried with these of a {kind}: {missed:?}");
    }
}

#[test]
fn what_no_condition_says_is_named_as_well() {
    for (situation, break_it, link, needle) in BESIDE {
        let mut found = well();
        break_it(&mut found);
        answers(situation, &found, link, needle);
    }
}
