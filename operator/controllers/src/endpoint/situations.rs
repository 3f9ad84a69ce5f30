//! The situations of an Endpoint that docs/conditions.md lists, each made as a value.

use std::sync::Arc;

use epic_crds::{Condition, Endpoint, LoadBalancer};
use epic_model::endpoint::Surroundings;
use epic_model::id::Seconds;

use super::tests::{after, balancer, down, endpoint, found, half_deaf};
use super::validate::plain;
use super::{Found, check};
use crate::allocation::verdict::Verdict;
use crate::situations;

/// One that has not been seen before.
fn fresh(change: impl FnOnce(&mut Endpoint)) -> Found {
    let mut fresh = endpoint(1, 0, 0);
    fresh.status.as_mut().unwrap().conditions.clear();
    change(&mut fresh);
    found(fresh)
}

/// One that serves.
fn serves() -> Found {
    found(endpoint(1, 1, 1))
}

fn with_balancer(mut found: Found, change: impl FnOnce(&mut LoadBalancer)) -> Found {
    change(Arc::make_mut(found.balancer.as_mut().unwrap()));
    found
}

/// Beside an older one that differs as it says.
fn beside(change: impl FnOnce(&mut epic_model::endpoint::Endpoint)) -> Found {
    let mut found = fresh(|_| {});
    let mut older = plain(&found.endpoint).unwrap();
    (older.name, older.uid, older.created) = ("b".into(), "v".into(), Seconds(0));
    change(&mut older);
    found.siblings.push(older);
    found
}

fn conditions(found: &Found) -> Vec<Condition> {
    after(found, &check(found)).conditions
}

fn lacks_id(verdict: Option<Verdict>) -> Found {
    let fresh = fresh(|it| it.status.as_mut().unwrap().endpoint_id = None);
    Found { verdict, ..fresh }
}

#[test]
fn the_table_says_what_the_conditions_of_an_endpoint_say() {
    let verdict =
        |duplicate: bool| Verdict { duplicate, exhausted: !duplicate, taken: false, message: "no".into() };
    let protected =
        Surroundings { protected: vec!["10.0.0.0/24".parse().unwrap()], ..Surroundings::default() };
    let full = |it: &mut LoadBalancer| {
        let tunnels = &mut it.status.as_mut().unwrap().gue_tunnel_endpoints;
        let entry = tunnels.remove("10.0.0.1").unwrap();
        tunnels.extend((0..250).map(|node| (format!("10.0.1.{node}"), entry.clone())));
    };
    let made: Vec<(&str, Found)> = vec![
        ("serves", serves()),
        ("its weight is 0", {
            let mut drains = serves();
            Arc::make_mut(&mut drains.endpoint).spec.weight = Some(0);
            drains
        }),
        ("its namespace has no Account", Found { account: None, ..fresh(|_| {}) }),
        ("its LoadBalancer does not exist", Found { balancer: None, ..fresh(|_| {}) }),
        (
            "its LoadBalancer is not accepted",
            Found { balancer: Some(Arc::new(balancer(None, "False"))), ..fresh(|_| {}) },
        ),
        (
            "a field that has no effect yet is set",
            fresh(|it| it.spec.port.app_protocol = Some("http".into())),
        ),
        ("it matches no public port", fresh(|it| it.spec.port.port = 81)),
        (
            "its address may not be an Endpoint's",
            Found { surroundings: Arc::new(protected), ..fresh(|_| {}) },
        ),
        (
            "it has no node-address and may not be reached without tunnel",
            fresh(|it| it.spec.node_address = None),
        ),
        ("an older one is the same", beside(|_| {})),
        (
            "its client node belongs to another cluster",
            beside(|it| {
                it.cluster = Some("east".into());
                it.address = "10.0.0.8".parse().unwrap();
            }),
        ),
        (
            "beyond the Account's Endpoints",
            Found { over_limit: Some("5000 of 5000".to_owned()), ..fresh(|_| {}) },
        ),
        ("its LoadBalancer has as many client nodes as it can have", with_balancer(fresh(|_| {}), full)),
        ("its ID is granted twice", Found { verdict: Some(verdict(true)), ..fresh(|_| {}) }),
        ("waits for its alias", lacks_id(None)),
        ("no ID is left", lacks_id(Some(verdict(false)))),
        ("no proxy has acknowledged it yet", fresh(|_| {})),
        (
            "waits for its tunnel",
            with_balancer(serves(), |it| it.status.as_mut().unwrap().gue_tunnel_endpoints.clear()),
        ),
        ("its client node does not say hello", Found { tunnels: down(), ..serves() }),
        ("the same to one EPIC node, which is out of service", half_deaf("False")),
        (
            "its EPIC node is silent, or has not reported its tunnel",
            Found { tunnels: Arc::default(), ..serves() },
        ),
    ];
    let found = made.iter().map(|(name, found)| (*name, conditions(found))).collect();
    situations::check("Endpoint", found);
}
