//! Decisions of the LoadBalancer's controller, on values.

use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY};
use epic_crds::{HasConditions, LoadBalancer, LoadBalancerReason as Reason, PortSlot, ProxyState};
use epic_model::id::{AccountName, GroupId};
use epic_model::proxy::Pod;
use epic_model::revision::{NodeRevision, Revision};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::Done;
use super::update_status::{is_mere_wording, judged, status};
use super::validate::port;
use super::{Awaited, Found, Refused, Valid, build, check, is_left_to_allocator};
use crate::allocation::verdict::Verdict;

fn condition(type_: &str, status: &str, generation: i64) -> Value {
    json!({"type": type_, "status": status, "reason": "Programmed", "message": "", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

pub(super) fn served(generation: i64, programmed: i64) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
        "metadata": {"name": "web", "namespace": "epic-red", "uid": "u", "resourceVersion": "9",
            "generation": generation},
        "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
        "status": {
            "group-id": 1, "service-id": 2, "public-address": "192.0.2.1", "key-generation": 1,
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0, "target-port": 80}],
            "proxies": [{"pod": "p", "pod-uid": "p", "proxy-id": 9, "state": "Ready"}],
            "conditions": [condition(ACCEPTED, "True", programmed), condition(PROGRAMMED, "True", programmed)],
        },
    }))
    .unwrap()
}

fn found(balancer: LoadBalancer) -> Found {
    Found {
        balancer: Arc::new(balancer),
        epic: None,
        account: None,
        group: None,
        admitted: false,
        groups: Vec::new(),
        over_balancer_limit: None,
        over_proxy_limit: None,
        pods: Vec::new(),
        trouble: None,
        settings: epic_crds::ProxySettings::default(),
        lacks_volume: false,
        configured: Vec::new(),
        endpoints: Vec::new(),
        revisions: Vec::new(),
        behind: Vec::new(),
        live: Vec::new(),
        verdict: None,
        xds_address: None,
        announcement: None,
        stale: Vec::new(),
        replicas: 1,
        heard: Arc::default(),
        in_pool: true,
    }
}

pub(super) fn now() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}

#[test]
fn an_account_that_is_gone_for_a_moment_takes_nothing_away() {
    let found = found(served(3, 3));
    let refused = check(&found);
    assert_eq!(refused.as_ref().unwrap_err().reason, Reason::AccountNotReady);
    let wanted = build::plan(&found, refused.as_ref().ok());
    assert_eq!(wanted.status, found.balancer.status.clone().unwrap(), "grants, slots and proxies stay");
    assert!(matches!(wanted.proxies, Ok(None)), "the objects of the proxies stay as they are");
    let mut after = wanted.status.clone();
    assert!(judged(&mut after, &refused, Some(3), &now()));
    let after = LoadBalancer { status: Some(after), ..served(3, 3) };
    assert!(!after.is_condition_true(ACCEPTED));
    assert!(after.is_condition_true(PROGRAMMED), "what is programmed is in force");
}

/// The status of one that is refused, after a pass.
fn refused_pass(found: &Found, awaited: &Awaited) -> LoadBalancer {
    let refused = Err(Refused { reason: Reason::ProxyLimitExceeded, message: "too many".into() });
    let mut before = found.balancer.as_ref().clone();
    judged(before.status.as_mut().unwrap(), &refused, before.metadata.generation, &now());
    let generation = before.metadata.generation;
    let found = &Found { balancer: Arc::new(before), ..found.clone() };
    let wanted = build::plan(found, None);
    let mut after = status(found, &refused, &wanted, &Done::default(), awaited, &now());
    assert!(!judged(&mut after, &refused, generation, &now()), "said once");
    LoadBalancer { status: Some(after), ..found.balancer.as_ref().clone() }
}

#[test]
fn a_refused_edit_stands_in_accepted_alone_while_traffic_flows() {
    let after = refused_pass(&proxied(served(4, 3), 3), &Awaited::default());
    assert_eq!(after.condition(ACCEPTED).unwrap().reason, Reason::ProxyLimitExceeded.as_str());
    assert!(after.is_condition_true(READY), "{:?}", after.condition(READY));
    let programmed = after.condition(PROGRAMMED).unwrap();
    assert_eq!((programmed.status.as_str(), programmed.observed_generation), ("True", Some(3)));
}

#[test]
fn what_was_on_its_way_when_an_edit_was_refused_gets_in_force() {
    let awaited = Awaited::default();
    let begun = passed(&proxied(served(4, 3), 3), &awaited);
    assert!(!begun.is_condition_true(PROGRAMMED), "generation 4 has just begun");
    let mut edited = begun;
    edited.metadata.generation = Some(5);
    let waits = refused_pass(&proxied(edited.clone(), 3), &awaited);
    assert!(!waits.is_condition_true(PROGRAMMED));
    let done = refused_pass(&proxied(edited, 4), &awaited);
    let programmed = done.condition(PROGRAMMED).unwrap();
    assert_eq!((programmed.status.as_str(), programmed.observed_generation), ("True", Some(4)));
    assert!(done.is_condition_true(READY));
}

#[test]
fn one_that_was_never_served_is_neither_programmed_nor_ready_when_it_is_refused() {
    let refused = Err(Refused { reason: Reason::GroupNotFound, message: "no".into() });
    let mut after = epic_crds::LoadBalancerStatus::default();
    assert!(judged(&mut after, &refused, Some(1), &now()));
    let reasons: Vec<&str> = after.conditions.iter().map(|condition| condition.reason.as_str()).collect();
    assert_eq!(reasons, ["GroupNotFound"; 3]);
}

#[test]
fn a_proxy_takes_its_first_flow_after_it_has_acknowledged_a_configuration_and_serves_on_without_xds() {
    let state = |known: ProxyState, configured: Option<i64>, rejection: Option<&str>| {
        let mut balancer = served(3, 3);
        balancer.status.as_mut().unwrap().proxies[0].state = known;
        let mut found = proxied(balancer, 3);
        found.configured = vec![("p".into(), configured, rejection.map(str::to_owned))];
        let after = passed(&found, &Awaited::default());
        (after.status.unwrap().proxies[0].state, after_ready(&found))
    };
    use ProxyState::{Pending, Ready};
    assert_eq!(state(Pending, None, None), (Pending, 0), "it has no listeners yet");
    assert_eq!(state(Pending, None, Some("bad listener")), (Pending, 0), "Envoy refuses them");
    assert_eq!(state(Pending, Some(2), None), (Ready, 1), "an older generation will do");
    assert_eq!(state(Ready, None, None), (Ready, 1), "it merely lacks xDS");
    assert_eq!(state(Ready, None, Some("bad listener")), (Ready, 1), "it keeps its last good form");
}

fn after_ready(found: &Found) -> usize {
    build::plan(found, Some(&valid(found))).ready
}

/// A roll-out: beside `p`, which serves, a pod `q` that is not ready, with what Envoy says there.
fn rolling(words: Option<&str>) -> Found {
    let mut found = proxied(served(3, 3), 3);
    let new = Pod { name: "q".into(), uid: "q".into(), ready: false, ..found.pods[0].clone() };
    found.pods.push(new);
    found.configured.push(("q".into(), None, words.map(str::to_owned)));
    found
}

#[test]
fn a_roll_out_that_envoy_refuses_stands_still_and_says_so_with_pod_and_words() {
    let after = passed(&rolling(Some("Listener 10000: no such field")), &Awaited::default());
    let ready = after.condition(READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "ProxyRejected"));
    assert!(ready.message.contains("pod q: Listener 10000: no such field"), "{}", ready.message);
    assert!(after.is_condition_true(PROGRAMMED), "what serves has it");
    let after = passed(&rolling(None), &Awaited::default());
    assert_eq!(after.condition(READY).unwrap().reason, "Ready", "a pod on its way is no trouble");
}

#[test]
fn a_proxy_that_nobody_hears_is_named_and_waited_for_by_name() {
    let stale = || Found { stale: vec!["p".to_owned()], ..proxied(served(3, 3), 3) };
    let ready = passed(&stale(), &Awaited::default());
    let ready = ready.condition(READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "ProxyStale"));
    assert!(ready.message.contains("has heard p "), "{}", ready.message);
    let awaited = Awaited::default();
    let begun = passed(&Found { stale: vec!["p".to_owned()], ..proxied(served(4, 3), 3) }, &awaited);
    let waits = passed(&Found { stale: vec!["p".to_owned()], ..proxied(begun, 3) }, &awaited);
    assert_eq!(waits.condition(PROGRAMMED).unwrap().reason, "ProxyStale");
}

#[test]
fn a_write_that_fails_does_not_withdraw_what_is_in_force() {
    let found = found(served(3, 3));
    let wanted = build::plan(&found, None);
    let done = Done { failed: Some((Reason::ApplyFailed, "no".into())), ..Done::default() };
    let refused = check(&found);
    let after = status(&found, &refused, &wanted, &done, &Awaited::default(), &now());
    let after = LoadBalancer { status: Some(after), ..served(3, 3) };
    assert!(after.is_condition_true(PROGRAMMED));
}

fn valid(found: &Found) -> Valid {
    Valid {
        account: AccountName::parse("red").unwrap(),
        group: GroupId::try_from(1_i64).unwrap(),
        ports: found.balancer.spec.public_ports.iter().filter_map(port).collect(),
        pools: vec!["default".into()],
        image: None,
        replicas: 1,
        drain: std::time::Duration::from_secs(300),
        metrics: epic_crds::MetricsLevel::default(),
    }
}

/// A LoadBalancer with a ready proxy `p` that has acknowledged a generation.
pub(super) fn proxied(mut balancer: LoadBalancer, acknowledged: i64) -> Found {
    if let Some(row) = balancer.status.iter_mut().flat_map(|status| &mut status.proxies).next() {
        (row.node, row.epic_address) = (Some("n1".into()), Some("192.168.77.101".into()));
    }
    let epic = json!({"apiVersion": "epic.acnodal.io/v1", "kind": "EPIC",
        "metadata": {"name": "epic", "namespace": "epic"}, "spec": {}});
    let pod = Pod {
        name: "p".into(),
        uid: "p".into(),
        node: Some("n1".into()),
        epic_address: "192.168.77.101".parse().ok(),
        ready: true,
        deleting: false,
        ended: false,
        ifindex: None,
        ifname: None,
    };
    Found {
        epic: Some(Arc::new(serde_json::from_value(epic).unwrap())),
        pods: vec![pod],
        configured: vec![("p".into(), Some(acknowledged), None)],
        ..found(balancer)
    }
}

/// The status after a pass.
fn passed(found: &Found, awaited: &Awaited) -> LoadBalancer {
    let valid = valid(found);
    let wanted = build::plan(found, Some(&valid));
    // What keeps proxies from being made is not what is tried here.
    let wanted = build::Wanted { proxies: Ok(None), ..wanted };
    let status = status(found, &Ok(valid), &wanted, &Done::default(), awaited, &now());
    LoadBalancer { status: Some(status), ..found.balancer.as_ref().clone() }
}

fn slots(balancer: &LoadBalancer) -> Vec<(i64, i64, bool)> {
    let ports = balancer.status.iter().flat_map(|status| &status.ports);
    ports.map(|PortSlot { port, slot, target_port, .. }| (*port, *slot, target_port.is_some())).collect()
}

#[test]
fn a_slot_is_handed_out_again_only_after_every_proxy_acknowledged_that_its_port_is_gone() {
    let awaited = Awaited::default();
    let with_port = |mut balancer: LoadBalancer, generation: i64, port: i64| {
        balancer.metadata.generation = Some(generation);
        balancer.spec.public_ports[0].port = port;
        balancer
    };
    let edited = passed(&proxied(with_port(served(3, 3), 4, 443), 3), &awaited);
    assert_eq!(slots(&edited), [(80, 0, false), (443, 1, true)], "80 keeps its slot and is not served");
    let again = passed(&proxied(with_port(edited, 5, 8443), 4), &awaited);
    assert_eq!(slots(&again), [(80, 0, false), (443, 1, false), (8443, 2, true)]);
    let acknowledged = passed(&proxied(again, 5), &awaited);
    assert_eq!(slots(&acknowledged), [(8443, 2, true)], "a port never moves to another slot");
    let another = passed(&proxied(with_port(acknowledged, 6, 9443), 5), &awaited);
    assert_eq!(slots(&another), [(9443, 0, true), (8443, 2, false)]);
}

#[test]
fn it_is_in_force_when_every_live_node_has_passed_the_version_that_was_first_awaited() {
    let awaited = Awaited::default();
    let at = |mut balancer: LoadBalancer, version: u64, nodes: [u64; 2]| {
        balancer.metadata.resource_version = Some(version.to_string());
        let node = |name: &str, revision: u64| NodeRevision {
            node: name.into(),
            revision: Some(Revision::new(revision)),
            live: true,
        };
        Found { revisions: vec![node("n1", nodes[0]), node("n2", nodes[1])], ..proxied(balancer, 4) }
    };
    let message = |balancer: &LoadBalancer| balancer.condition(PROGRAMMED).unwrap().message.clone();
    let begun = passed(&at(served(4, 3), 10, [10, 10]), &awaited);
    assert!(!begun.is_condition_true(PROGRAMMED), "its content has just changed");
    let waiting = passed(&at(begun, 20, [19, 15]), &awaited);
    assert_eq!(message(&waiting), "waiting for nodes n1, n2");
    // The write that says so is a newer version, which nobody waits for.
    let waiting = passed(&at(waiting, 21, [20, 15]), &awaited);
    assert_eq!(message(&waiting), "waiting for nodes n2");
    let done = passed(&at(waiting.clone(), 22, [20, 20]), &awaited);
    assert!(done.is_condition_true(PROGRAMMED), "{}", message(&done));
    // Another process knows only the present version, and waits for that.
    let elsewhere = passed(&at(waiting, 22, [20, 20]), &Awaited::default());
    assert_eq!(message(&elsewhere), "waiting for nodes n1, n2");
}

#[test]
fn the_allocator_goes_first_unless_it_takes_long_or_says_why_it_cannot() {
    let fresh = || {
        let mut fresh = served(1, 1);
        fresh.status.as_mut().unwrap().service_id = None;
        found(fresh)
    };
    let at = |text: &str| Time(text.parse().unwrap());
    let (soon, later) = (at("2026-01-01T00:00:02Z"), at("2026-01-01T00:00:09Z"));
    assert!(is_left_to_allocator(&fresh(), &soon));
    assert!(!is_left_to_allocator(&fresh(), &later));
    let verdict =
        Verdict { duplicate: false, exhausted: true, taken: false, message: "no service ID is free".into() };
    assert!(!is_left_to_allocator(&Found { verdict: Some(verdict), ..fresh() }, &soon));
}

#[test]
fn while_a_pod_waits_for_its_id_a_change_of_words_alone_is_not_written() {
    let mut fresh = served(3, 3);
    fresh.status.as_mut().unwrap().proxies.clear();
    let waiting = proxied(fresh, 3);
    assert!(build::plan(&waiting, Some(&valid(&waiting))).lacks_ids);
    assert!(!build::plan(&proxied(served(3, 3), 3), None).lacks_ids, "it has one");
    let before = served(3, 3);
    let mut after = before.status.clone().unwrap();
    after.conditions[1].reason = Reason::NodesPending.as_str().to_owned();
    after.conditions[1].message = "waiting for nodes n2".to_owned();
    assert!(is_mere_wording(&before, &after));
    after.conditions[1].status = false.into();
    assert!(!is_mere_wording(&before, &after));
}

#[test]
fn what_is_wrong_with_the_pods_is_said_where_no_proxy_is_ready() {
    let awaited = Awaited::default();
    let mut stuck = proxied(served(3, 3), 3);
    stuck.pods[0].ready = false;
    stuck.balancer = Arc::new(passed(&stuck, &awaited));
    let message = |found: &Found, type_: &str| {
        passed(found, &awaited).condition(type_).map(|condition| condition.message.clone()).unwrap()
    };
    assert_eq!(message(&stuck, READY), "no proxy is ready yet");
    stuck.trouble = Some("pod p: no node takes it: 0/2 nodes are available".to_owned());
    assert_eq!(message(&stuck, READY), "no proxy is ready: pod p: no node takes it: 0/2 nodes are available");
}

#[test]
fn a_proxy_takes_traffic_only_where_a_tunnel_leads_unless_none_has_one() {
    let mut balancer = served(3, 3);
    let status = balancer.status.as_mut().unwrap();
    status.proxies.push(
        serde_json::from_value(json!({"pod": "q", "pod-uid": "q", "proxy-id": 10, "state": "Pending"}))
            .unwrap(),
    );
    let mut found = proxied(balancer.clone(), 3);
    found.pods.push(Pod {
        name: "q".into(),
        uid: "q".into(),
        node: Some("n10".into()),
        epic_address: "192.168.77.110".parse().ok(),
        ..found.pods[0].clone()
    });
    found.configured.push(("q".into(), Some(3), None));
    let states = |found: &Found| -> Vec<ProxyState> {
        passed(found, &Awaited::default()).status.unwrap().proxies.iter().map(|proxy| proxy.state).collect()
    };
    assert_eq!(states(&found), [ProxyState::Ready, ProxyState::Ready], "no endpoint is behind a tunnel");
    let mut tunnelled = |nodes: &[&str]| {
        let leg = |node: &&str| {
            json!({"epic-address": node, "tunnel-id": 1,
            "epic-port": {"appProtocol": "gue", "port": 6080, "protocol": "UDP"}})
        };
        let mut entry = leg(&nodes[0]);
        entry["alternates"] = nodes[1..].iter().map(leg).collect();
        let status = balancer.status.as_mut().unwrap();
        status.gue_tunnel_endpoints = serde_json::from_value(json!({"10.0.0.1": entry})).unwrap();
        Arc::new(balancer.clone())
    };
    found.balancer = tunnelled(&["192.168.77.101"]);
    assert_eq!(states(&found), [ProxyState::Ready, ProxyState::Pending]);
    found.balancer = tunnelled(&["192.168.77.110"]);
    assert_eq!(states(&found), [ProxyState::Ready, ProxyState::Ready], "one that serves goes on");
    found.balancer = tunnelled(&["192.168.77.101", "192.168.77.110"]);
    assert_eq!(states(&found), [ProxyState::Ready, ProxyState::Ready]);
}

#[test]
fn refusals_say_how_full_a_limit_is_and_which_groups_there_are() {
    let account = json!({"apiVersion": "epic.acnodal.io/v1", "kind": "Account", "spec": {},
        "metadata": {"name": "red", "namespace": "epic"}, "status": {"group-id": 1}});
    let group = json!({"apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup", "spec": {"envoy-replicas": 3},
        "metadata": {"name": "g", "namespace": "epic-red"},
        "status": {"conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let known = |balancers: Option<&str>, proxies: Option<&str>| Found {
        account: Some(Arc::new(serde_json::from_value(account.clone()).unwrap())),
        group: Some(Arc::new(serde_json::from_value(group.clone()).unwrap())),
        admitted: true,
        over_balancer_limit: balancers.map(str::to_owned),
        over_proxy_limit: proxies.map(str::to_owned),
        ..found(served(3, 3))
    };
    let said = |found: &Found| check(found).unwrap_err().message;
    assert!(said(&known(Some("100 of 100"), None)).contains("has 100 of 100 LoadBalancers"));
    let proxies = said(&known(None, Some("250 of 250")));
    assert!(proxies.contains("its 3 proxies") && proxies.contains("250 of 250"), "{proxies}");
    let names = ["gold", "silver"].map(str::to_owned).to_vec();
    let lost = Found { group: None, groups: names, ..known(None, None) };
    assert!(said(&lost).ends_with("name another one: there are gold, silver"), "{}", said(&lost));
}
