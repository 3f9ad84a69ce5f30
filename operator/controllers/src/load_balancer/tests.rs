//! Decisions of the LoadBalancer's controller, on values.

use std::sync::Arc;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, READY};
use epic_crds::{HasConditions, LoadBalancer, LoadBalancerReason as Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::Done;
use super::update_status::{judged, status};
use super::{Awaited, Found, Refused, build, check};

fn condition(type_: &str, status: &str, generation: i64) -> Value {
    json!({"type": type_, "status": status, "reason": "Programmed", "message": "", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn served(generation: i64, programmed: i64) -> LoadBalancer {
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
        "metadata": {"name": "web", "namespace": "epic-red", "uid": "u", "resourceVersion": "9",
            "generation": generation},
        "spec": {"public-ports": [{"port": 80}], "service-group": "g"},
        "status": {
            "group-id": 1, "service-id": 2, "public-address": "192.0.2.1", "key-generation": 1,
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0}],
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
        over_balancer_limit: false,
        over_proxy_limit: false,
        pods: Vec::new(),
        configured: Vec::new(),
        endpoints: Vec::new(),
        revisions: Vec::new(),
        live: Vec::new(),
        verdict: None,
        xds_address: None,
        announced: None,
        in_pool: true,
    }
}

fn now() -> Time {
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
    assert!(!after.is_condition_true(ACCEPTED) && !after.is_condition_true(READY));
    assert!(after.is_condition_true(PROGRAMMED), "what is programmed is in force");
}

#[test]
fn a_refused_generation_is_not_programmed_and_the_one_before_stays_acknowledged() {
    let refused = Err(Refused { reason: Reason::NotSupportedYet, message: "no".into() });
    let mut after = served(4, 3).status.unwrap();
    assert!(judged(&mut after, &refused, Some(4), &now()));
    let after = LoadBalancer { status: Some(after), ..served(4, 3) };
    let programmed = after.condition(PROGRAMMED).unwrap();
    assert!(!after.is_condition_true(PROGRAMMED));
    assert_eq!(programmed.observed_generation, Some(3));
    let mut again = after.status.clone().unwrap();
    assert!(!judged(&mut again, &refused, Some(4), &now()), "said once");
}

#[test]
fn a_write_that_fails_does_not_withdraw_what_is_in_force() {
    let found = found(served(3, 3));
    let wanted = build::plan(&found, None);
    let done = Done { failed: Some("no".into()), ..Done::default() };
    let refused = check(&found);
    let after = status(&found, &refused, &wanted, &done, &Awaited::default(), &now());
    let after = LoadBalancer { status: Some(after), ..served(3, 3) };
    assert!(after.is_condition_true(PROGRAMMED));
}
