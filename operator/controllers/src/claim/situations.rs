//! The situations of an AddressClaim that docs/conditions.md lists, each made as a value.

use epic_crds::{AddressClaimStatus, Condition};
use epic_model::id::NodeName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::status::{Home, Rival, bound, waits};
use crate::situations;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

/// The conditions after passes over one that stays; in each another machine is seen or not.
fn stays(passes: &[(bool, Home)]) -> Vec<Condition> {
    let rival = Rival { node: "node1".into(), interface: "eth0".into(), mac: None };
    let mut status = AddressClaimStatus::default();
    for (second, (seen, home)) in (0..).zip(passes) {
        bound(&mut status, if *seen { std::slice::from_ref(&rival) } else { &[] }, home, None, &at(second));
    }
    status.conditions
}

/// The conditions after passes over one that is on its way out.
fn leaves(seconds: &[i64]) -> Vec<Condition> {
    let mut status = AddressClaimStatus::default();
    for second in seconds {
        waits(&mut status, &[NodeName::new("node1")], None, &at(*second));
    }
    status.conditions
}

#[test]
fn the_table_says_what_the_conditions_of_a_claim_say() {
    let found = vec![
        ("its owner has the address", stays(&[(false, Home::Named)])),
        ("its owner has it no more, and nodes have not let it go", leaves(&[0])),
        ("the same for half a minute", leaves(&[0, 30])),
        ("another machine answers for the address", stays(&[(true, Home::Named)])),
        ("that machine is gone", stays(&[(true, Home::Named), (false, Home::Named)])),
        ("no pool holds the address any more", stays(&[(false, Home::Lost)])),
        ("a pool holds it again", stays(&[(false, Home::Lost), (false, Home::Named)])),
    ];
    situations::check("AddressClaim", found);
}
