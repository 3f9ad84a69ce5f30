//! The situations of EPIC that docs/conditions.md lists, each made as a value.

use std::collections::BTreeMap;

use epic_crds::{Condition, EPIC, EPICSpec};
use epic_model::endpoint::Surroundings;

use super::{Found, judge, validate};
use crate::allocation::verdict::Verdict;
use crate::reconcile::now;
use crate::situations;

fn epic(change: impl FnOnce(&mut EPIC)) -> EPIC {
    let mut epic = EPIC::new("epic", EPICSpec::default());
    change(&mut epic);
    epic
}

fn with_range(range: &str) -> EPIC {
    epic(|epic| epic.spec.proxy_addresses.get_or_insert_default().ipv4 = Some(range.to_owned()))
}

#[test]
fn the_table_says_what_the_conditions_of_epic_say() {
    let waits = |duplicate: bool| {
        Some((2, Verdict { duplicate, exhausted: !duplicate, taken: false, message: "no".into() }))
    };
    let missing = || Some("no such Secret".to_owned());
    let uninstalled =
        BTreeMap::from([(epic_crds::well_known::ANNOTATION_UNINSTALL.to_owned(), String::new())]);
    let plain = || epic(|_| {});
    let made = [
        ("serves Accounts", plain(), None, None),
        (
            "a range is no network, too small, or of the other address family",
            with_range("10.0.0.0/31"),
            None,
            None,
        ),
        (
            "a range overlaps another one, or what the cluster or a pool has",
            with_range("10.96.0.0/24"),
            None,
            None,
        ),
        ("no ID is left for an object", plain(), waits(false), None),
        ("an ID is granted twice", plain(), waits(true), None),
        ("a pull Secret that it names is not there", plain(), None, missing()),
        ("is being uninstalled", epic(|epic| epic.metadata.annotations = Some(uninstalled)), None, None),
        ("is being deleted", epic(|epic| epic.metadata.deletion_timestamp = Some(now())), None, None),
    ];
    let around =
        Surroundings { cluster_networks: vec!["10.96.0.0/16".parse().unwrap()], ..Surroundings::default() };
    let found = made.map(|(name, epic, verdict, complaint)| {
        let found = Found { judged: validate::check(&around, &epic), verdict, complaint };
        let mut conditions: Vec<Condition> = Vec::new();
        judge(&epic, &found, &mut conditions, &now());
        (name, conditions)
    });
    situations::check("EPIC", found.into());
}
