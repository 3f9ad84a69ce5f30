//! The situations of a LoadBalancer that docs/conditions.md lists, each made as a value.

use std::sync::Arc;

use epic_crds::{
    Account, Condition, Endpoint, HasConditions, LoadBalancer, LoadBalancerReason as Reason, NodeAnswer,
    NodeConflict, ServiceGroup,
};
use epic_model::address::Family;
use epic_model::claim::{self as model, Refusal};
use epic_model::id::AccountName;
use epic_model::in_service::Liveness;
use serde_json::{Value, json};

use super::apply::Done;
use super::tests::{now, proxied, served};
use super::update_status::{judged, status};
use super::{Announcement, Answer, Awaited, Found, build, check};
use crate::allocation::verdict::Verdict;
use crate::situations;
use crate::witness::Heard;

fn holds(types: &[&str]) -> Value {
    let condition = |type_: &&str| {
        json!({"type": type_, "status": "True", "reason": type_, "message": "", "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    types.iter().map(condition).collect()
}

fn endpoint(weight: i64, conditions: &Value) -> Arc<Endpoint> {
    Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint", "metadata": {"name": "a", "namespace": "epic-red"},
            "spec": {"load-balancer": "web", "address": "10.0.0.9", "port": {"port": 80}, "weight": weight},
            "status": {"conditions": conditions},
        }))
        .unwrap(),
    )
}

/// One that serves, all of it well.
fn healthy() -> Found {
    let mut balancer = served(3, 3);
    balancer.status.as_mut().unwrap().conditions =
        serde_json::from_value(holds(&["Accepted", "Programmed", "Ready"])).unwrap();
    let account: Account = serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "Account", "metadata": {"name": "red", "namespace": "epic"},
        "spec": {}, "status": {"group-id": 1, "conditions": holds(&["Ready"])},
    }))
    .unwrap();
    let group: ServiceGroup = serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "ServiceGroup",
        "metadata": {"name": "g", "namespace": "epic", "generation": 3},
        "spec": {"envoy-replicas": 1}, "status": {"conditions": holds(&["Accepted"])},
    }))
    .unwrap();
    let answer = json!({"address": "192.0.2.1", "interface": "eth0", "since": "2026-01-01T00:00:00Z"});
    let answer: NodeAnswer = serde_json::from_value(answer).unwrap();
    Found {
        account: Some(Arc::new(account)),
        group: Some(Arc::new(group)),
        admitted: true,
        xds_address: "10.96.0.5".parse().ok(),
        live: vec!["n1".into()],
        endpoints: vec![endpoint(1, &holds(&["Accepted", "Programmed", "TunnelUp"]))],
        announcement: Some(Announcement {
            announced: true,
            answer: Answer { answers: vec![("n1".into(), answer)], conflict: None },
            may_be_unlisted: false,
        }),
        ..proxied(balancer, 3)
    }
}

/// One that has an address and a service ID, and has not served yet.
fn starting() -> Found {
    let mut found = healthy();
    let status = Arc::make_mut(&mut found.balancer).status.as_mut().unwrap();
    for condition in &mut status.conditions {
        condition.status = (condition.type_ == "Accepted").into();
    }
    found
}

/// One that is as new as can be.
fn new() -> Found {
    let mut found = starting();
    Arc::make_mut(&mut found.balancer).status = None;
    Found { pods: Vec::new(), configured: Vec::new(), endpoints: Vec::new(), announcement: None, ..found }
}

fn edit(mut found: Found, edit: impl FnOnce(&mut LoadBalancer)) -> Found {
    edit(Arc::make_mut(&mut found.balancer));
    found
}

fn refused(verdict: Verdict) -> Found {
    edit(Found { verdict: Some(verdict), ..new() }, |_| {})
}

fn verdict() -> Verdict {
    Verdict { duplicate: false, exhausted: false, taken: false, message: "no".into() }
}

/// The conditions after a pass, as the controller makes it.
fn conditions(found: &Found, done: &Done) -> Vec<Condition> {
    let valid = check(found);
    let mut balancer = found.balancer.as_ref().clone();
    let generation = balancer.metadata.generation;
    let before = balancer.status.get_or_insert_default();
    judged(before, &valid, generation, &now());
    if valid.is_err() && before.service_id.is_none() {
        return balancer.conditions().to_vec();
    }
    let found = Found { balancer: Arc::new(balancer), ..found.clone() };
    let wanted = build::plan(&found, valid.as_ref().ok());
    status(&found, &valid, &wanted, done, &Awaited::default(), &now()).conditions
}

fn announced(found: Found, change: impl FnOnce(&mut Announcement)) -> Found {
    let mut announcement = found.announcement.clone().unwrap_or_default();
    change(&mut announcement);
    Found { announcement: Some(announcement), ..found }
}

/// A second pod that is not ready.
fn with_another_pod(mut found: Found, rejection: Option<&str>) -> Found {
    let another =
        epic_model::proxy::Pod { name: "q".into(), uid: "q".into(), ready: false, ..found.pods[0].clone() };
    found.pods.push(another);
    found.configured.push(("q".into(), None, rejection.map(str::to_owned)));
    Found { replicas: 2, ..found }
}

fn unready(mut found: Found) -> Found {
    found.pods[0].ready = false;
    found
}

/// One whose first pod is not ready.
fn unready_at_first() -> Found {
    let found = edit(unready(starting()), |balancer| {
        balancer.status.as_mut().unwrap().proxies[0].state = epic_crds::ProxyState::Pending;
    });
    Found { configured: vec![("p".into(), None, None)], ..found }
}

#[test]
fn the_table_says_what_the_conditions_of_a_load_balancer_say() {
    let quota = || Some("pods cannot be made: exceeded quota".to_owned());
    let refusal = |refusal: Refusal| Done { refusal: Some(refusal), ..Done::default() };
    let waits_for_address =
        || edit(starting(), |balancer| balancer.status.as_mut().unwrap().public_address = None);
    let named = |tunnel: &str| {
        let mut conditions = holds(&["Accepted", "Programmed", "TunnelUp"]);
        conditions[2]["status"] = tunnel.into();
        conditions
    };
    let edited = |acknowledged: i64| {
        let mut found = edit(healthy(), |balancer| {
            balancer.metadata.generation = Some(4);
            let programmed = &mut balancer.status.as_mut().unwrap().conditions[1];
            (programmed.status, programmed.observed_generation) = (false.into(), Some(4));
        });
        found.configured[0].1 = Some(acknowledged);
        found
    };
    let behind = |mut found: Found| {
        found.revisions =
            vec![epic_model::revision::NodeRevision { node: "n1".into(), revision: None, live: true }];
        found
    };
    let rejects = |mut found: Found| {
        found.configured[0] = ("p".into(), None, Some("no such field".into()));
        found
    };
    let silent = Heard { agents: [("n1".into(), Liveness::Silent)].into(), ..Heard::default() };
    let address = "192.0.2.1".parse().unwrap();
    let taken =
        Refusal::Taken { address, holder: "epic-blue/web".into(), releasing: false, waits_for: Vec::new() };
    let nothing = Done::default;
    let made: Vec<(&str, Found, Done)> = vec![
        ("serves", healthy(), nothing()),
        ("its namespace has no Account", Found { account: None, ..new() }, nothing()),
        ("its group does not exist", Found { group: None, ..new() }, nothing()),
        ("its group does not admit the Account", Found { admitted: false, ..new() }, nothing()),
        (
            "its group is not accepted",
            {
                let mut found = new();
                Arc::make_mut(found.group.as_mut().unwrap()).status = None;
                found
            },
            nothing(),
        ),
        (
            "a field that has no effect yet is set",
            edit(new(), |it| it.spec.source_ranges = vec!["10.0.0.0/8".into()]),
            nothing(),
        ),
        (
            "a public port stands there twice",
            edit(new(), |it| it.spec.public_ports.push(it.spec.public_ports[0].clone())),
            nothing(),
        ),
        (
            "beyond the Account's LoadBalancers",
            Found { over_balancer_limit: Some("100 of 100".to_owned()), ..new() },
            nothing(),
        ),
        (
            "beyond the Account's proxies",
            Found { over_proxy_limit: Some("250 of 250".to_owned()), ..new() },
            nothing(),
        ),
        (
            "an edit is refused while it serves",
            Found { over_proxy_limit: Some("250 of 250".to_owned()), ..healthy() },
            nothing(),
        ),
        ("waits for its service ID", new(), nothing()),
        ("the service ID it asks for is taken", refused(Verdict { taken: true, ..verdict() }), nothing()),
        ("no ID is left", refused(Verdict { exhausted: true, ..verdict() }), nothing()),
        ("its parent hands out nothing", refused(verdict()), nothing()),
        ("its ID is granted twice", refused(Verdict { duplicate: true, ..verdict() }), nothing()),
        (
            "no pool of the group can be used",
            waits_for_address(),
            refusal(Refusal::NoPool { pools: vec!["default".into()] }),
        ),
        (
            "the address it asks for lies in no pool",
            waits_for_address(),
            refusal(Refusal::NotInPool { address, pools: vec!["default".into()] }),
        ),
        ("the address it asks for is taken", waits_for_address(), refusal(taken)),
        ("the pools of its group are full", waits_for_address(), refusal(full())),
        (
            "its Account has as many addresses as it may have",
            waits_for_address(),
            refusal(Refusal::TooMany { held: 8, most: 8 }),
        ),
        (
            "the proxies of its predecessor are not gone",
            starting(),
            Done { failed: Some((Reason::Pending, "waits".into())), ..nothing() },
        ),
        (
            "its proxies cannot be written",
            starting(),
            Done { failed: Some((Reason::ApplyFailed, "no".into())), ..nothing() },
        ),
        (
            "the same while it serves",
            healthy(),
            Done { failed: Some((Reason::ApplyFailed, "no".into())), ..nothing() },
        ),
        (
            "its pods cannot be made, are not scheduled, or do not start",
            Found { trouble: quota(), ..unready_at_first() },
            nothing(),
        ),
        ("so do some of its pods", Found { replicas: 2, trouble: quota(), ..healthy() }, nothing()),
        (
            "so do the new pods of a roll-out",
            Found { replicas: 1, trouble: quota(), ..with_another_pod(healthy(), None) },
            nothing(),
        ),
        ("no proxy is ready any more", Found { trouble: quota(), ..unready(healthy()) }, nothing()),
        ("Envoy refuses the configuration in every new pod", rejects(unready_at_first()), nothing()),
        (
            "Envoy refuses it in the new pods of a roll-out",
            with_another_pod(healthy(), Some("no such field")),
            nothing(),
        ),
        ("Envoy refuses an edit", rejects(edited(3)), nothing()),
        ("proxies have not acknowledged an edit yet", edited(3), nothing()),
        ("EPIC nodes have not programmed an edit yet", behind(edited(4)), nothing()),
        ("EPIC nodes have not programmed a new one yet", behind(starting()), nothing()),
        ("a proxy is connected to no operator", Found { stale: vec!["p".into()], ..healthy() }, nothing()),
        ("the same, and an edit waits for it", Found { stale: vec!["p".into()], ..edited(3) }, nothing()),
        (
            "its address lies in no pool of its group any more",
            Found { in_pool: false, ..healthy() },
            nothing(),
        ),
        ("no Endpoint names it", Found { endpoints: Vec::new(), ..healthy() }, nothing()),
        (
            "none of its Endpoints is programmed",
            Found { endpoints: vec![endpoint(1, &holds(&["Accepted"]))], ..healthy() },
            nothing(),
        ),
        (
            "the tunnels of all Endpoints are down",
            Found { endpoints: vec![endpoint(1, &named("False"))], ..healthy() },
            nothing(),
        ),
        (
            "nobody says whether the tunnels are up",
            Found { endpoints: vec![endpoint(1, &named("Unknown"))], ..healthy() },
            nothing(),
        ),
        (
            "all its Endpoints drain",
            Found { endpoints: vec![endpoint(0, &named("True"))], ..healthy() },
            nothing(),
        ),
        ("its pool is not announced", announced(healthy(), |it| it.announced = false), nothing()),
        ("no node says that it answers", announced(healthy(), |it| it.answer.answers.clear()), nothing()),
        (
            "no node lists its addresses, or not all",
            announced(healthy(), |it| {
                it.answer.answers.clear();
                it.may_be_unlisted = true;
            }),
            nothing(),
        ),
        ("the node that answers is silent", Found { heard: Arc::new(silent), ..healthy() }, nothing()),
        (
            "another machine answers, too",
            announced(healthy(), |it| it.answer.conflict = Some(conflict())),
            nothing(),
        ),
        (
            "there is no EPIC node",
            announced(Found { live: Vec::new(), ..healthy() }, |it| it.answer.answers.clear()),
            nothing(),
        ),
    ];
    let found = made.iter().map(|(name, found, done)| (*name, conditions(found, done))).collect();
    situations::check("LoadBalancer", found);
}

/// What is said of a pool whose one address is in use.
fn full() -> Refusal {
    let asker = model::Asker {
        object: crate::claim::balancer_version(&served(3, 3)).unwrap(),
        account: AccountName::parse("red").unwrap(),
        deleting: false,
        family: Family::V4,
        requested: None,
        granted: None,
        pool_names: vec!["default".into()],
        most_claims: usize::MAX,
    };
    let pools = [model::Pool::parse("default", ["192.0.2.9"]).unwrap()];
    let spared = model::Spared { used: ["192.0.2.9".parse().unwrap()].into(), ..Default::default() };
    model::plan(&asker, &pools, &[], &spared).refusal.unwrap()
}

fn conflict() -> (epic_model::id::NodeName, NodeConflict) {
    let conflict = json!({"address": "192.0.2.1", "mac": "02:00:00:00:00:01", "interface": "eth0",
        "since": "2026-01-01T00:00:00Z"});
    ("n1".into(), serde_json::from_value(conflict).unwrap())
}
