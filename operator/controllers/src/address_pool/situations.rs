//! The situations of an AddressPool that docs/conditions.md lists, each made as a value.

use epic_crds::{AddressPool, Condition};
use epic_model::address::Family;
use epic_model::claim::Pool;
use epic_model::endpoint::Surroundings;
use epic_model::id::Seconds;
use serde_json::json;

use super::{Count, Found, protected, status};
use crate::claim;
use crate::reconcile::now;
use crate::situations;

/// The conditions of a pool of eight addresses of which so many are in use, after a change of what was found.
fn conditions(addresses: &str, used: u128, change: impl FnOnce(&mut Found)) -> Vec<Condition> {
    let object: AddressPool = serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "AddressPool",
        "metadata": {"name": "default", "namespace": "epic"}, "spec": {"addresses": [addresses]},
    }))
    .unwrap();
    let around = Surroundings {
        gateways: ["198.51.100.1".parse().unwrap()].into(),
        cluster_networks: vec!["10.96.0.0/16".parse().unwrap()],
        ..Surroundings::default()
    };
    let found = claim::pool(&object).map(|pool| {
        let count = |family, used| Count { family, total: pool.total(family), used };
        let mut found = Found {
            counts: [count(Family::V4, used), count(Family::V6, 0)],
            outside: 0,
            refused: protected(&around, &pool),
            pools: vec![pool.clone()],
            pool,
        };
        change(&mut found);
        found
    });
    status(&object, found, &now()).conditions
}

#[test]
fn the_table_says_what_the_conditions_of_an_address_pool_say() {
    let ours = "192.0.2.0/29";
    let older = |found: &mut Found| {
        let mut older = Pool::parse("older", [ours]).unwrap();
        older.created = Seconds(-1);
        found.pools.push(older);
    };
    let found = vec![
        ("has addresses left", conditions(ours, 3, |_| {})),
        ("every address is in use", conditions(ours, 8, |_| {})),
        ("is disabled", conditions(ours, 3, |found| found.pool.disabled = true)),
        ("an entry is no network or range", conditions("192.0.2.0/33", 0, |_| {})),
        ("holds addresses of nodes, pods, Services or EPIC", conditions("10.96.0.0/29", 0, |_| {})),
        ("holds the default gateway of an EPIC node", conditions("198.51.100.0/29", 0, |_| {})),
        ("addresses in use lie outside of it since an edit", conditions(ours, 3, |found| found.outside = 1)),
        ("shares addresses with an older pool", conditions(ours, 3, older)),
    ];
    situations::check("AddressPool", found);
}
