//! The protocol for claims, explored: as it is, and with each rule left out.
//!
//! As for IDs, a test of a left-out rule asks for the fault that the rule prevents.

use super::world::{Protocol, Setup};
use super::{grant, release};
use crate::explore::explore;

const LIMIT: usize = 2_000_000;
const UNHELD: &str = "an address is shown without a claim that holds it";
const OLD_OWNER: &str = "a node serves an address for its old owner";
const LEFT: &str = "a claim is left that nobody shows";

/// Two load balancers after one address.
const RACE: Setup = Setup::FINAL;
/// The same, and each of them may ask for it, or for what no pool has, and change its mind.
const EDITS: Setup = Setup { requests: &[0, 2], edits: true, ..RACE };
/// One load balancer that may have one of two addresses, and change its mind.
const CHOICE: Setup = Setup { load_balancers: 1, addresses: 2, requests: &[0, 1, 2], edits: true, ..RACE };

/// Two load balancers after one address, whose pool comes and goes.
const POOL_EDITS: Setup = Setup { pool_edits: true, ..RACE };

/// Explores a protocol that must be right.
fn right(setup: Setup) {
    let states = explore(&mut Protocol::new(setup), LIMIT).expect_right();
    assert!(states > 1_000, "{states} states show nothing");
}

/// Explores a protocol that must go wrong, and says how.
fn wrong(setup: Setup) -> String {
    explore(&mut Protocol::new(setup), LIMIT).expect_wrong()
}

fn granting_without(rule: impl Fn(&mut grant::Rules), setup: Setup) -> Setup {
    let mut rules = grant::Rules::ALL;
    rule(&mut rules);
    Setup { grant: rules, ..setup }
}

fn releasing_without(rule: impl Fn(&mut release::Rules), setup: Setup) -> Setup {
    let mut rules = release::Rules::ALL;
    rule(&mut rules);
    Setup { release: rules, ..setup }
}

#[test]
fn two_load_balancers_after_one_address_are_right() {
    right(RACE);
    right(Setup { touches: true, ..RACE });
    right(EDITS);
}

#[test]
fn a_pool_that_is_taken_away_and_put_back_is_right() {
    right(POOL_EDITS);
    right(Setup { edits: true, requests: &[0, 2], ..POOL_EDITS });
}

#[test]
fn a_load_balancer_that_changes_its_mind_is_right() {
    right(CHOICE);
    right(Setup { touches: true, ..CHOICE });
}

#[test]
fn a_write_that_lands_late_or_never_is_right() {
    right(Setup { late_write: true, ..RACE });
    right(Setup { late_write: true, ..EDITS });
}

/// Claims out of a cache of each operator, whose copies are as old as they like.
const CACHED: Setup = Setup { cached: true, ..RACE };

#[test]
fn claims_seen_claim_by_claim_through_two_caches_are_right() {
    right(CACHED);
    right(Setup { touches: true, ..CACHED });
    right(Setup { claim_touches: true, ..CACHED });
}

#[test]
fn claims_out_of_caches_are_right_while_pools_are_edited() {
    right(Setup { pool_edits: true, ..CACHED });
}

#[test]
fn claims_out_of_caches_are_right_for_one_load_balancer_that_changes_its_mind_while_pools_are_edited() {
    right(Setup { cached: true, pool_edits: true, load_balancers: 1, ..EDITS });
}

#[test]
fn claims_out_of_caches_are_right_with_a_write_that_lands_late_or_never() {
    right(Setup { late_write: true, ..CACHED });
}

#[test]
fn with_the_load_balancer_out_of_a_cache_an_address_is_shown_without_claim() {
    assert_eq!(wrong(Setup { asker_from_cache: true, pool_edits: true, ..CACHED }), UNHELD);
}

#[test]
fn with_caches_the_rules_are_needed_as_before() {
    let cached = |setup: Setup| Setup { cached: true, ..setup };
    assert_eq!(wrong(cached(granting_without(|rules| rules.retag = false, EDITS))), UNHELD);
    assert_eq!(wrong(cached(releasing_without(|rules| rules.tag = false, POOL_EDITS))), UNHELD);
    assert_eq!(wrong(cached(releasing_without(|rules| rules.wait = false, RACE))), OLD_OWNER);
}

#[test]
fn with_a_delete_of_any_uid_an_address_is_shown_without_claim() {
    assert_eq!(wrong(Setup { delete_by_uid: false, ..RACE }), UNHELD);
}

#[test]
fn with_a_mark_at_any_version_an_address_is_shown_without_claim() {
    assert_eq!(wrong(Setup { mark_by_version: false, ..RACE }), UNHELD);
}

/// Without edits of pools either order is right: what stops fitting then has moved its own version.
#[test]
fn with_the_load_balancer_read_before_the_claims_an_address_is_shown_without_claim() {
    right(Setup { claims_before_asker: false, ..EDITS });
    assert_eq!(wrong(Setup { claims_before_asker: false, ..POOL_EDITS }), UNHELD);
}

#[test]
fn with_owners_by_name_a_namesake_takes_over_what_a_node_still_serves() {
    assert_eq!(wrong(granting_without(|rules| rules.by_uid = false, RACE)), OLD_OWNER);
}

#[test]
fn without_adoption_a_claim_is_left() {
    assert_eq!(wrong(granting_without(|rules| rules.adopt = false, RACE)), LEFT);
}

#[test]
fn without_release_of_a_living_owners_surplus_a_claim_is_left() {
    assert_eq!(wrong(releasing_without(|rules| rules.release_surplus = false, CHOICE)), LEFT);
}

#[test]
fn without_release_of_what_does_not_fit_a_claim_is_left() {
    assert_eq!(wrong(releasing_without(|rules| rules.release_misfit = false, EDITS)), LEFT);
}

#[test]
fn without_moving_on_from_a_claim_that_stopped_fitting_it_is_left() {
    assert_eq!(wrong(granting_without(|rules| rules.touch = false, POOL_EDITS)), LEFT);
}

#[test]
fn with_owners_read_before_the_claim_an_address_is_shown_without_claim() {
    assert_eq!(wrong(Setup { claim_before_owner: false, ..RACE }), UNHELD);
}

#[test]
fn with_a_release_at_the_owners_present_version_an_address_is_shown_without_claim() {
    assert_eq!(wrong(releasing_without(|rules| rules.tag = false, POOL_EDITS)), UNHELD);
}

#[test]
fn with_adoption_of_a_claim_for_another_version_an_address_is_shown_without_claim() {
    assert_eq!(wrong(granting_without(|rules| rules.retag = false, EDITS)), UNHELD);
}

#[test]
fn with_adoption_of_a_claim_on_its_way_out_an_address_is_shown_without_claim() {
    assert_eq!(wrong(granting_without(|rules| rules.releasing_is_final = false, EDITS)), UNHELD);
}

#[test]
fn with_adoption_of_what_does_not_fit_an_address_is_not_the_request() {
    let what = wrong(granting_without(|rules| rules.adopt_what_fits = false, CHOICE));
    assert_eq!(what, "an address is not the request");
}

#[test]
fn with_an_address_shown_at_any_version_it_changes() {
    let what = wrong(Setup { show_by_version: false, requests: &[0], ..CHOICE });
    assert!(["an address changed", UNHELD].contains(&what.as_str()), "{what}");
}

#[test]
fn without_waiting_for_the_nodes_one_serves_the_old_owner() {
    assert_eq!(wrong(releasing_without(|rules| rules.wait = false, RACE)), OLD_OWNER);
}

#[test]
fn with_an_agent_that_goes_back_in_time_a_node_serves_the_old_owner() {
    assert_eq!(wrong(Setup { agent_keeps_its_place: false, ..RACE }), OLD_OWNER);
}
