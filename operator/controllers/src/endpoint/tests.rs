//! Decisions of the Endpoint's controller, on values.

use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY, TUNNEL_UP};
use epic_crds::{
    Account, Condition, EPIC, EPICNode, EPICSpec, Endpoint, EndpointReason as Reason, EndpointStatus,
    LoadBalancer,
};
use epic_model::endpoint::Surroundings;
use epic_model::in_service::Liveness;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::update_status::status;
use super::validate::plain;
use super::{Found, Refused, check};
use crate::allocation::verdict::Verdict;
use crate::tunnels::Tunnels;
use crate::witness::Heard;

fn condition(type_: &str, status: &str, generation: i64) -> Value {
    json!({"type": type_, "status": status, "reason": "Programmed", "message": "", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// An Endpoint at a generation, accepted and programmed at others.
pub(super) fn endpoint(generation: i64, accepted: i64, programmed: i64) -> Endpoint {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
        "metadata": {"name": "a", "namespace": "epic-red", "uid": "u", "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"load-balancer": "web", "address": "10.0.0.9", "node-address": "10.0.0.1", "port": {"port": 8080}},
        "status": {"endpoint-id": 5, "service-id": 2,
            "conditions": [condition(ACCEPTED, "True", accepted), condition(PROGRAMMED, "True", programmed)]},
    }))
    .unwrap()
}

pub(super) fn balancer(service_id: Option<i64>, accepted: &str) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
        "metadata": {"name": "web", "namespace": "epic-red", "uid": "lb", "generation": 1},
        "spec": {"public-ports": [{"port": 80, "targetPort": 8080}], "service-group": "g"},
        "status": {"group-id": 1, "service-id": service_id, "proxy-ifindex": 7,
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0, "target-port": 8080}],
            "proxies": [{"pod": "p", "pod-uid": "p", "state": "Ready", "epic-address": "192.168.77.101"}],
            "gue-tunnel-endpoints": {"10.0.0.1": {"epic-address": "192.168.77.101", "tunnel-id": 4,
                "epic-port": {"appProtocol": "gue", "port": 6080, "protocol": "UDP"}}},
            "conditions": [condition(ACCEPTED, accepted, 1)]},
    }))
    .unwrap()
}

/// What node n1 says of its one tunnel.
pub(super) fn reported(states: Value) -> Arc<Tunnels> {
    let up = states.as_array().is_some_and(|states| states.iter().all(|state| state["up"] == true));
    let node: EPICNode = serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode", "metadata": {"name": "n1", "namespace": "epic"},
        "status": {"addresses": ["192.168.77.101"],
            "tunnels": {"up": u8::from(up), "down": u8::from(!up), "total": 1, "states": states}},
    }))
    .unwrap();
    Arc::new(Tunnels::of([Arc::new(node)].iter()))
}

/// The tunnel is down.
pub(super) fn down() -> Arc<Tunnels> {
    reported(json!([{"tunnel-id": 4, "up": false, "nat": false, "since": "2026-01-01T00:00:00Z"}]))
}

pub(super) fn found(endpoint: Endpoint) -> Found {
    let account = json!({"apiVersion": "epic.acnodal.io/v1", "kind": "Account",
        "metadata": {"name": "red", "namespace": "epic", "uid": "acct"}, "spec": {}});
    let account: Account = serde_json::from_value(account).unwrap();
    Found {
        siblings: plain(&endpoint).into_iter().collect(),
        endpoint: Arc::new(endpoint),
        epic: Some(Arc::new(EPIC::new("epic", EPICSpec::default()))),
        account: Some(Arc::new(account)),
        balancer: Some(Arc::new(balancer(Some(2), "True"))),
        over_limit: None,
        surroundings: Arc::new(Surroundings::default()),
        verdict: None,
        tunnels: reported(
            json!([{"tunnel-id": 4, "up": true, "nat": false, "since": "2026-01-01T00:00:00Z"}]),
        ),
        heard: Arc::default(),
        acknowledged: None,
    }
}

fn refusal(found: &Found) -> Option<Reason> {
    check(found).err().map(|refused| refused.reason)
}

pub(super) fn after(found: &Found, judged: &Result<(), Refused>) -> EndpointStatus {
    status(found, judged, &Time(Timestamp::UNIX_EPOCH))
}

fn of(status: &EndpointStatus, type_: &str) -> (String, String, Option<i64>) {
    let Condition { status, reason, observed_generation, .. } =
        epic_crds::condition::find(&status.conditions, type_).unwrap();
    (status.as_str().to_owned(), reason.clone(), *observed_generation)
}

fn said(status: &str, reason: Reason, generation: i64) -> (String, String, Option<i64>) {
    (status.to_owned(), reason.as_str().to_owned(), Some(generation))
}

#[test]
fn what_was_accepted_of_an_endpoint_without_a_node_stays_known_while_an_edit_is_refused() {
    let mut direct = found(endpoint(1, 0, 0));
    Arc::make_mut(&mut direct.endpoint).spec.node_address = None;
    let accepted = after(&direct, &Ok(()));
    let spec = &direct.endpoint.spec;
    assert_eq!(accepted.accepted_address.as_ref(), Some(&spec.address));
    assert_eq!(accepted.accepted_port.as_ref(), Some(&spec.port));
    let edited = Arc::make_mut(&mut direct.endpoint);
    edited.spec.address = "10.0.0.77".to_owned();
    edited.status = Some(accepted.clone());
    let refused = Refused { reason: Reason::NotSupportedYet, message: "no".to_owned() };
    assert_eq!(after(&direct, &Err(refused)).accepted_address, accepted.accepted_address);
    assert_eq!(after(&found(endpoint(1, 0, 0)), &Ok(())).accepted_address, None, "behind a tunnel");
}

#[test]
fn one_that_names_a_load_balancer_in_service_is_accepted() {
    assert_eq!(refusal(&found(endpoint(1, 0, 0))), None);
}

#[test]
fn the_first_thing_to_mend_is_named() {
    let fresh = || found(endpoint(2, 1, 1));
    let no_account = Found { account: None, ..fresh() };
    assert_eq!(refusal(&no_account), Some(Reason::AccountNotReady));
    let nowhere = Found { balancer: None, ..fresh() };
    assert_eq!(refusal(&nowhere), Some(Reason::LoadBalancerNotFound));
    let refused = Found { balancer: Some(Arc::new(balancer(None, "False"))), ..fresh() };
    assert_eq!(refusal(&refused), Some(Reason::LoadBalancerNotAccepted));
    let many = Found { over_limit: Some("5000 of 5000".to_owned()), ..fresh() };
    assert_eq!(refusal(&many), Some(Reason::LimitExceeded));
    let protected =
        Surroundings { protected: vec!["10.0.0.0/24".parse().unwrap()], ..Surroundings::default() };
    let protected = Found { surroundings: Arc::new(protected), ..fresh() };
    assert_eq!(refusal(&protected), Some(Reason::AddressRefused));
    let mut untunnelled = endpoint(1, 0, 0);
    untunnelled.spec.node_address = None;
    assert_eq!(refusal(&found(untunnelled)), Some(Reason::UntunnelledAddressRefused));
    let mut elsewhere = endpoint(1, 0, 0);
    elsewhere.spec.port.port = 81;
    assert_eq!(refusal(&found(elsewhere)), Some(Reason::NoMatchingPort));
    let duplicate =
        Verdict { duplicate: true, exhausted: false, taken: false, message: "5 belongs to b".into() };
    let duplicate = Found { verdict: Some(duplicate), ..fresh() };
    assert_eq!(refusal(&duplicate), Some(Reason::DuplicateGrant));
}

#[test]
fn a_client_node_beyond_the_last_place_is_refused_even_if_it_was_accepted_before() {
    let mut full = balancer(Some(2), "True");
    let tunnels = &mut full.status.as_mut().unwrap().gue_tunnel_endpoints;
    let entry = tunnels.remove("10.0.0.1").unwrap();
    tunnels.extend((0..249).map(|node| (format!("10.0.1.{node}"), entry.clone())));
    let with = |balancer: &LoadBalancer| {
        refusal(&Found { balancer: Some(Arc::new(balancer.clone())), ..found(endpoint(2, 2, 1)) })
    };
    assert_eq!(with(&full), None, "one place is left");
    full.status.as_mut().unwrap().gue_tunnel_endpoints.insert("10.0.2.1".to_owned(), entry.clone());
    assert_eq!(with(&full), Some(Reason::TooManyClientNodes));
    let tunnels = &mut full.status.as_mut().unwrap().gue_tunnel_endpoints;
    tunnels.remove("10.0.2.1");
    tunnels.insert("10.0.0.1".to_owned(), entry);
    assert_eq!(with(&full), None, "whoever has a place keeps it");
}

#[test]
fn a_port_that_a_refused_edit_takes_away_goes_on_serving_and_one_that_it_adds_does_not() {
    let edited = |accepted: &str| {
        let mut edited = balancer(Some(2), accepted);
        edited.spec.public_ports[0].port = 443;
        edited.spec.public_ports[0].target_port = None;
        Arc::new(edited)
    };
    let on = |port: i64, accepted: &str| {
        let mut endpoint = endpoint(1, 0, 0);
        endpoint.spec.port.port = port;
        refusal(&Found { balancer: Some(edited(accepted)), ..found(endpoint) })
    };
    for accepted in ["True", "False", "Unknown"] {
        assert_eq!(on(8080, accepted), None, "{accepted}");
    }
    assert_eq!((on(443, "True"), on(443, "Unknown")), (None, None), "asked for, and about to be served");
    assert_eq!(on(443, "False"), Some(Reason::NoMatchingPort));
}

#[test]
fn an_older_one_that_is_the_same_stands_in_its_way() {
    let mut found = found(endpoint(1, 0, 0));
    let mut older = found.siblings[0].clone();
    (older.name, older.uid, older.created) = ("b".into(), "v".into(), epic_model::id::Seconds(0));
    found.siblings.push(older);
    assert_eq!(refusal(&found), Some(Reason::DuplicateEndpoint));
}

#[test]
fn what_is_served_stays_when_its_account_or_its_load_balancers_acceptance_is_gone_for_a_moment() {
    let served = Found {
        account: None,
        balancer: Some(Arc::new(balancer(Some(2), "False"))),
        ..found(endpoint(1, 1, 1))
    };
    assert_eq!(refusal(&served), None);
}

#[test]
fn an_id_that_is_lacking_is_no_refusal_but_said() {
    let exhausted =
        Verdict { duplicate: false, exhausted: true, taken: false, message: "no endpoint ID is free".into() };
    let mut lacking = Found { verdict: Some(exhausted), ..found(endpoint(1, 1, 0)) };
    Arc::make_mut(&mut lacking.endpoint).status.as_mut().unwrap().endpoint_id = None;
    assert_eq!(refusal(&lacking), None);
    assert_eq!(of(&after(&lacking, &Ok(())), PROGRAMMED), said("False", Reason::IdsExhausted, 1));
    lacking.verdict = None;
    assert_eq!(of(&after(&lacking, &Ok(())), PROGRAMMED), said("False", Reason::AliasPending, 1));
}

#[test]
fn the_status_says_what_was_granted() {
    let status = after(&found(endpoint(1, 1, 0)), &Ok(()));
    assert_eq!((status.group_id, status.service_id, status.endpoint_id), (Some(1), Some(2), Some(5)));
    assert_eq!(status.alias_address.as_deref(), Some("100.127.0.5"));
    assert_eq!((status.tunnel_id, status.proxy_ifindex), (Some(4), Some(7)));
    assert_eq!(of(&status, TUNNEL_UP), said("True", Reason::TunnelUp, 1));
}

#[test]
fn an_edited_one_is_programmed_as_it_was_until_the_edit_is_acknowledged() {
    let edited = found(endpoint(2, 1, 1));
    assert_eq!(of(&after(&edited, &Ok(())), PROGRAMMED), said("True", Reason::Programmed, 1));
    assert_eq!(of(&after(&edited, &Ok(())), ACCEPTED), said("True", Reason::Accepted, 2));
    let old_form = Found { acknowledged: Some(1), ..found(endpoint(2, 1, 1)) };
    assert_eq!(of(&after(&old_form, &Ok(())), PROGRAMMED), said("True", Reason::Programmed, 1));
    let new_form = Found { acknowledged: Some(2), ..found(endpoint(2, 1, 1)) };
    assert_eq!(of(&after(&new_form, &Ok(())), PROGRAMMED), said("True", Reason::Programmed, 2));
}

#[test]
fn one_that_moves_to_another_load_balancer_is_programmed_no_more() {
    let moved = Found { balancer: Some(Arc::new(balancer(Some(3), "True"))), ..found(endpoint(2, 1, 1)) };
    assert_eq!(of(&after(&moved, &Ok(())), PROGRAMMED), said("False", Reason::ProxiesPending, 2));
}

#[test]
fn a_refused_one_is_not_programmed_whoever_acknowledged_it() {
    let refused = Err(Refused { reason: Reason::NoMatchingPort, message: "no".into() });
    let found = Found { acknowledged: Some(2), ..found(endpoint(2, 1, 1)) };
    let status = after(&found, &refused);
    for type_ in [ACCEPTED, PROGRAMMED] {
        assert_eq!(of(&status, type_), said("False", Reason::NoMatchingPort, 2));
    }
}

#[test]
fn only_a_tunnel_that_was_reported_to_be_down_is_down() {
    let tunnel = |found: &Found| of(&after(found, &Ok(())), TUNNEL_UP);
    let with = |tunnels: Arc<Tunnels>| Found { tunnels, ..found(endpoint(1, 1, 1)) };
    assert_eq!(tunnel(&with(down())), said("False", Reason::TunnelDown, 1));
    assert_eq!(
        tunnel(&with(Arc::default())),
        said("Unknown", Reason::TunnelNotReported, 1),
        "no node says anything"
    );
    let mut lacking = found(endpoint(1, 1, 1));
    let status = Arc::make_mut(lacking.balancer.as_mut().unwrap()).status.as_mut().unwrap();
    status.proxies[0].epic_address = Some("192.168.77.102".into());
    assert_eq!(tunnel(&lacking), said("Unknown", Reason::TunnelPending, 1));
    let mut without = endpoint(1, 1, 1);
    without.spec.node_address = None;
    assert_eq!(tunnel(&found(without)), said("Unknown", Reason::NotTunnelled, 1));
}

/// Behind two nodes, the second of which hears no client and is in service, or not.
pub(super) fn half_deaf(in_service: &str) -> Found {
    let mut found = found(endpoint(1, 1, 1));
    let status = Arc::make_mut(found.balancer.as_mut().unwrap()).status.as_mut().unwrap();
    let proxy = json!({"pod": "q", "pod-uid": "q", "state": "Ready", "epic-address": "192.168.77.102"});
    status.proxies.push(serde_json::from_value(proxy).unwrap());
    let leg = json!({"epic-address": "192.168.77.102", "tunnel-id": 5,
        "epic-port": {"appProtocol": "gue", "port": 6080, "protocol": "UDP"}});
    let entry = status.gue_tunnel_endpoints.get_mut("10.0.0.1").unwrap();
    entry.alternates.push(serde_json::from_value(leg).unwrap());
    let node = |name: &str, address: &str, in_service: &str, id: u8, up: bool| -> Arc<EPICNode> {
        let state = json!({"tunnel-id": id, "up": up, "nat": false, "since": "2026-01-01T00:00:00Z"});
        let node = json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode", "metadata": {"name": name, "namespace": "epic"},
            "status": {"addresses": [address], "conditions": [condition("InService", in_service, 1)],
                "tunnels": {"up": u8::from(up), "down": u8::from(!up), "total": 1, "states": [state]}},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    };
    let nodes =
        [node("n1", "192.168.77.101", "True", 4, true), node("n2", "192.168.77.102", in_service, 5, false)];
    Found { tunnels: Arc::new(Tunnels::of(nodes.iter())), ..found }
}

#[test]
fn the_tunnel_to_a_node_that_is_out_of_service_does_not_matter() {
    let tunnel = |found: &Found| of(&after(found, &Ok(())), TUNNEL_UP);
    assert_eq!(tunnel(&half_deaf("True")), said("False", Reason::TunnelDown, 1), "it still gets flows");
    assert_eq!(tunnel(&half_deaf("False")), said("True", Reason::TunnelUp, 1));
    let mut alone = half_deaf("False");
    Arc::make_mut(alone.balancer.as_mut().unwrap()).status.as_mut().unwrap().proxies.remove(0);
    assert_eq!(tunnel(&alone), said("False", Reason::TunnelDown, 1), "there is no other proxy");
}

#[test]
fn what_a_node_said_before_it_fell_silent_is_not_known_any_more() {
    let silent = Heard { agents: [("n1".into(), Liveness::Silent)].into(), ..Heard::default() };
    for tunnels in [down(), found(endpoint(1, 1, 1)).tunnels] {
        let lost = Found { tunnels, heard: Arc::new(silent.clone()), ..found(endpoint(1, 1, 1)) };
        assert_eq!(of(&after(&lost, &Ok(())), TUNNEL_UP), said("Unknown", Reason::TunnelNotReported, 1));
        assert_eq!(
            of(&after(&lost, &Ok(())), READY),
            said("True", Reason::Ready, 1),
            "nothing is known to be wrong"
        );
    }
}

#[test]
fn a_tunnel_that_is_not_among_those_that_are_down_is_up_once_its_node_has_it() {
    let others = unlisting();
    let with = |programmed: bool| {
        let mut found = Found { tunnels: Arc::clone(&others), ..found(endpoint(1, 1, 1)) };
        let conditions =
            &mut Arc::make_mut(found.balancer.as_mut().unwrap()).status.as_mut().unwrap().conditions;
        conditions.push(
            serde_json::from_value(condition(PROGRAMMED, if programmed { "True" } else { "False" }, 1))
                .unwrap(),
        );
        found
    };
    let tunnel = |found: &Found| of(&after(found, &Ok(())), TUNNEL_UP);
    assert_eq!(tunnel(&with(false)), said("Unknown", Reason::TunnelNotReported, 1));
    assert_eq!(tunnel(&with(true)), said("True", Reason::TunnelUp, 1));
    let mut was_up = with(false);
    let conditions = &mut Arc::make_mut(&mut was_up.endpoint).status.as_mut().unwrap().conditions;
    conditions.push(serde_json::from_value(condition(TUNNEL_UP, "True", 1)).unwrap());
    assert_eq!(tunnel(&was_up), said("True", Reason::TunnelUp, 1));
}

/// A node that has two tunnels, none of which is down.
fn unlisting() -> Arc<Tunnels> {
    let node = json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode", "metadata": {"name": "n1", "namespace": "epic"},
        "status": {"addresses": ["192.168.77.101"], "tunnels": {"up": 2, "down": 0, "total": 2}},
    });
    Arc::new(Tunnels::of([Arc::new(serde_json::from_value(node).unwrap())].iter()))
}

#[test]
fn it_is_ready_when_traffic_reaches_it_and_says_what_keeps_it_away() {
    let ready = |found: &Found| of(&after(found, &Ok(())), READY);
    assert_eq!(ready(&found(endpoint(1, 1, 1))), said("True", Reason::Ready, 1));
    assert_eq!(
        ready(&Found { tunnels: down(), ..found(endpoint(1, 1, 1)) }),
        said("False", Reason::TunnelDown, 1)
    );
    let mut drains = endpoint(1, 1, 1);
    drains.spec.weight = Some(0);
    assert_eq!(ready(&found(drains)), said("True", Reason::Draining, 1));
    let mut fresh = found(endpoint(1, 1, 1));
    Arc::make_mut(&mut fresh.endpoint).status.as_mut().unwrap().conditions.pop();
    assert_eq!(ready(&fresh), said("False", Reason::ProxiesPending, 1));
}

#[test]
fn it_says_in_how_many_proxies_it_is_when_not_in_all() {
    let mut found = found(endpoint(1, 1, 1));
    let status = Arc::make_mut(found.balancer.as_mut().unwrap()).status.as_mut().unwrap();
    status.proxies = (1..=3)
        .map(|id| {
            let mut proxy = status.proxies[0].clone();
            (proxy.pod, proxy.pod_uid, proxy.proxy_id) = (format!("p{id}"), format!("p{id}"), Some(id));
            proxy
        })
        .collect();
    let message = |found: &Found| {
        let status = after(found, &Ok(()));
        epic_crds::condition::find(&status.conditions, PROGRAMMED).unwrap().message.clone()
    };
    assert_eq!(message(&found), "");
    found.heard = Arc::new(Heard { stale: [2].into(), ..Heard::default() });
    assert_eq!(message(&found), "in 2 of 3 proxies; no operator hears p2, which may serve an older form");
}
