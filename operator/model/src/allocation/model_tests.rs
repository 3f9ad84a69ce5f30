//! The protocol for IDs, explored: as it is, and with each rule left out.
//!
//! What each rule prevents was found on models of the protocol before there was code; here the same is shown of the
//! plan that operators run. A test of a left-out rule asks for the fault that the rule prevents, so none of them is
//! kept for its own sake.

use super::plan::Rules;
use super::setup::{Asked, Setup};
use super::world::Protocol;
use crate::explore::explore;

const LIMIT: usize = 1_500_000;
const TWO_HOLDERS: &str = "one value has two holders";
const STAYS_RESERVED: &str = "a value stays reserved";

/// Explores a protocol that must be right.
fn right(setup: Setup) {
    let states = explore(&mut Protocol::new(setup), LIMIT).expect_right();
    assert!(states > 1_000, "{states} states show nothing");
}

/// Explores a protocol that must go wrong, and says how.
fn wrong(setup: Setup) -> String {
    explore(&mut Protocol::new(setup), LIMIT).expect_wrong()
}

const PLAIN: Setup = Setup::FINAL;
const EDITS: Setup = Setup { requests: &[0, 1], edits: true, ..PLAIN };
const ALL_EDITS: Setup = Setup { requests: &[0, 1, 2], edits: true, ..PLAIN };
/// Looked at for two holders alone: the same fault leaves values reserved, too, and sooner.
const UNENDING: Setup = Setup { ends: false, ..PLAIN };
const KEYED: Setup = Setup { keyed: true, ..PLAIN };
const PARENTS: Setup = Setup { parent_life: true, ..PLAIN };
const NAMESAKES: Setup = Setup { namesakes: true, ..PLAIN };
const FORCED: Setup = Setup { forced_finalizer: true, ..PARENTS };

fn without(rule: impl Fn(&mut Rules), setup: Setup) -> Setup {
    let mut rules = Rules::ALL;
    rule(&mut rules);
    Setup { rules, ..setup }
}

#[test]
fn two_operators_that_may_die_anywhere_are_right() {
    right(PLAIN);
    right(Setup { touches: true, ..PLAIN });
}

#[test]
fn edits_of_requests_are_right() {
    right(EDITS);
}

#[test]
fn requests_and_foreign_writes_are_right() {
    right(Setup { requests: &[0, 2], touches: true, ..PLAIN });
}

#[test]
fn values_freed_while_their_owner_lives_are_right() {
    right(KEYED);
}

#[test]
fn a_parent_deleted_recreated_and_robbed_of_its_finalizer_is_right() {
    right(PARENTS);
    right(FORCED);
}

#[test]
fn a_parent_that_another_one_takes_the_place_of_is_right() {
    right(NAMESAKES);
}

#[test]
fn a_write_that_lands_late_or_never_is_right() {
    right(Setup { late_write: true, ..PLAIN });
}

#[test]
fn without_reservations_a_value_has_two_holders() {
    assert_eq!(wrong(without(|rules| rules.reserve = false, EDITS)), TWO_HOLDERS);
}

#[test]
fn with_a_list_older_than_the_parent_a_value_has_two_holders() {
    assert_eq!(wrong(Setup { list_after_get: false, ..PLAIN }), TWO_HOLDERS);
}

#[test]
fn with_a_list_from_a_cache_a_value_has_two_holders() {
    assert_eq!(wrong(Setup { fresh_list: false, ..PLAIN }), TWO_HOLDERS);
}

#[test]
fn with_a_patch_of_the_parent_a_value_has_two_holders() {
    assert_eq!(wrong(Setup { parent_by_version: false, ..PLAIN }), TWO_HOLDERS);
}

#[test]
fn with_a_write_to_any_version_of_a_child_its_grant_changes() {
    let what = wrong(Setup { child_by_version: false, ..ALL_EDITS });
    assert!(["a grant changed", "a grant is not the request"].contains(&what.as_str()), "{what}");
}

#[test]
fn without_adoption_a_value_has_two_holders() {
    assert_eq!(wrong(without(|rules| rules.adopt = false, UNENDING)), TWO_HOLDERS);
}

#[test]
fn a_reservation_for_any_version_grants_what_was_not_asked_for() {
    assert_eq!(wrong(without(|rules| rules.tag = false, ALL_EDITS)), "a grant is not the request");
}

#[test]
fn a_reservation_for_any_version_gives_freed_values_two_holders() {
    assert_eq!(wrong(without(|rules| rules.tag = false, Setup { keyed: true, ..UNENDING })), TWO_HOLDERS);
}

#[test]
fn without_a_flush_values_stay_reserved() {
    assert_eq!(wrong(without(|rules| rules.flush = false, PLAIN)), STAYS_RESERVED);
}

#[test]
fn without_finishing_what_is_not_needed_values_stay_reserved() {
    assert_eq!(wrong(without(|rules| rules.finish = false, KEYED)), STAYS_RESERVED);
}

#[test]
fn without_the_finalizer_a_value_has_two_holders() {
    assert_eq!(wrong(without(|rules| rules.finalizer = false, PARENTS)), TWO_HOLDERS);
}

#[test]
fn without_the_fence_a_value_has_two_holders() {
    assert_eq!(wrong(without(|rules| rules.fence = false, FORCED)), TWO_HOLDERS);
}

/// The namesake's fence kills what was planned before it. So a plan for the other one has to be older than that fence,
/// which only an answer after its list shows.
#[test]
fn without_asking_after_the_list_who_counts_a_value_has_two_holders() {
    assert_eq!(wrong(Setup { asked: Asked::Never, ..NAMESAKES }), TWO_HOLDERS);
    assert_eq!(wrong(Setup { asked: Asked::WithTheParent, ..NAMESAKES }), TWO_HOLDERS);
    assert_eq!(wrong(without(|rules| rules.fence = false, NAMESAKES)), TWO_HOLDERS);
}

#[test]
fn with_live_reservations_dropped_by_age_a_value_has_two_holders() {
    assert_eq!(wrong(without(|rules| rules.keep_live = false, PLAIN)), TWO_HOLDERS);
}

/// Nothing is reserved in a parent that goes, its finalizer is taken off at the version that was judged, and the next
/// parent fences: any one of the three is enough.
#[test]
fn without_all_guards_of_a_parents_end_a_value_has_two_holders() {
    let any_version = Setup { finalizer_off_by_version: false, ..PARENTS };
    let reserving = |rules: &mut Rules| rules.refuse_when_deleting = false;
    right(any_version.clone());
    right(without(reserving, any_version.clone()));
    let unguarded = |rules: &mut Rules| {
        reserving(rules);
        rules.fence = false;
    };
    assert_eq!(wrong(without(unguarded, any_version)), TWO_HOLDERS);
}
