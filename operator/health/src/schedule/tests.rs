//! The schedule as a value, driven by hand: probes end when the test says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::check::{Probe, WrongAnswer};

const INTERVAL: Duration = Duration::from_secs(5);

fn schedule(limits: Limits) -> (Schedule<u32, u8>, Instant) {
    let now = Instant::now();
    (Schedule::new(limits, Some(1), now), now)
}

fn check() -> Check {
    Check { interval: INTERVAL, ..Check::new(Probe::Tcp) }
}

fn target(group: u8, port: u16) -> Target<u8> {
    Target::new(group, SocketAddr::from(([192, 0, 2, 1], port)), Arc::new(check()))
}

fn begin(schedule: &mut Schedule<u32, u8>, now: Instant) -> Vec<Start> {
    let mut starts = Vec::new();
    schedule.begin(now, &mut starts);
    starts
}

fn silent() -> Option<Result<(), Failure>> {
    Some(Err(Failure::silent("silent")))
}

/// What the verdicts say, by key.
fn said(schedule: &mut Schedule<u32, u8>) -> Vec<(u32, bool)> {
    schedule.take_verdicts().into_iter().map(|verdict| (verdict.key, verdict.healthy)).collect()
}

#[test]
fn a_new_target_is_asked_at_once_and_its_first_result_is_a_verdict() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    assert_eq!(schedule.health(1), Some(Health::Unknown));
    let starts = begin(&mut schedule, now);
    assert_eq!(starts.len(), 1);
    assert!(begin(&mut schedule, now).is_empty(), "one probe at a time");
    schedule.end(starts[0].ticket, silent(), now);
    assert_eq!(
        schedule.take_verdicts(),
        [Verdict { key: 1, healthy: false, since: now, reason: "silent".into() }]
    );
    assert_eq!(schedule.health(1), Some(Health::Unhealthy));
}

#[test]
fn the_second_probe_is_anywhere_in_the_interval_and_later_ones_a_tenth_late_at_most() {
    let (mut schedule, began) = schedule(Limits::default());
    schedule.set((0..500).map(|key| (key, target(0, 80))), began);
    let mut seconds = Vec::new();
    let mut last: BTreeMap<u32, Instant> = BTreeMap::new();
    let mut now = began;
    while now < began + 4 * INTERVAL {
        loop {
            let starts = begin(&mut schedule, now);
            if starts.is_empty() {
                break;
            }
            for start in starts {
                match last.insert(start.ticket.slot, now) {
                    Some(before) if before == began => seconds.push(now - before),
                    Some(before) => {
                        assert!(
                            (INTERVAL..=INTERVAL * 11 / 10).contains(&(now - before)),
                            "{:?}",
                            now - before
                        );
                    }
                    None => assert_eq!(now, began),
                }
                schedule.end(start.ticket, Some(Ok(())), now);
            }
        }
        now = schedule.next_due().expect("somebody is asked again");
    }
    assert_eq!(seconds.len(), 500);
    let early = seconds.iter().filter(|delay| **delay < INTERVAL / 2).count();
    assert!((150..350).contains(&early), "{early} of 500 in the first half");
}

#[test]
fn an_unhealthy_target_has_an_interval_of_its_own() {
    let (mut schedule, began) = schedule(Limits::default());
    let check = Check { unhealthy_interval: Some(Duration::from_millis(100)), ..check() };
    schedule.upsert(1, Target::new(0, SocketAddr::from(([192, 0, 2, 1], 80)), Arc::new(check)), began);
    let start = begin(&mut schedule, began).remove(0);
    schedule.end(start.ticket, silent(), began);
    assert!(schedule.next_due().expect("asked again") <= began + Duration::from_millis(110));
}

#[test]
fn a_target_that_is_as_before_is_left_alone() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let start = begin(&mut schedule, now).remove(0);
    schedule.upsert(1, target(0, 80), now);
    assert!(begin(&mut schedule, now).is_empty());
    schedule.end(start.ticket, Some(Ok(())), now);
    assert_eq!(said(&mut schedule), [(1, true)]);
}

#[test]
fn a_result_of_an_earlier_definition_is_not_taken_for_the_present_one() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let old = begin(&mut schedule, now).remove(0);
    schedule.upsert(1, target(0, 81), now);
    let new = begin(&mut schedule, now).remove(0);
    assert_eq!(new.place.address.port(), 81);
    schedule.end(old.ticket, silent(), now);
    assert!(said(&mut schedule).is_empty());
    schedule.end(new.ticket, Some(Ok(())), now);
    assert_eq!(said(&mut schedule), [(1, true)]);
}

#[test]
fn a_verdict_of_an_earlier_definition_that_nobody_took_is_dropped() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let start = begin(&mut schedule, now).remove(0);
    schedule.end(start.ticket, silent(), now);
    schedule.upsert(1, target(0, 81), now);
    assert!(said(&mut schedule).is_empty());
    assert_eq!(schedule.health(1), Some(Health::Unknown));
    assert_eq!(schedule.stats(now).unknown, 1);
}

#[test]
fn other_timings_keep_what_is_known_and_hold_from_now_on() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let start = begin(&mut schedule, now).remove(0);
    schedule.end(start.ticket, Some(Ok(())), now);
    said(&mut schedule);
    let faster = Check { interval: Duration::from_millis(10), unhealthy_threshold: 1, ..check() };
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    schedule.upsert(1, Target::new(0, address, Arc::new(faster)), now);
    assert_eq!(schedule.health(1), Some(Health::Healthy));
    assert!(schedule.next_due().expect("asked again") <= now + Duration::from_millis(11));
    let now = now + Duration::from_millis(11);
    let start = begin(&mut schedule, now).remove(0);
    schedule.end(start.ticket, silent(), now);
    assert_eq!(said(&mut schedule), [(1, false)], "by the new threshold");
}

#[test]
fn a_target_can_be_asked_before_its_time_but_not_twice_at_once() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let first = begin(&mut schedule, now).remove(0);
    schedule.hurry(1, now);
    assert!(begin(&mut schedule, now).is_empty());
    schedule.end(first.ticket, silent(), now);
    assert!(begin(&mut schedule, now).is_empty());
    schedule.hurry(1, now);
    let second = begin(&mut schedule, now).remove(0);
    schedule.end(second.ticket, Some(Ok(())), now);
    assert_eq!(said(&mut schedule), [(1, true)]);
    schedule.hurry(2, now);
    assert!(begin(&mut schedule, now).is_empty(), "there is no such target");
}

#[test]
fn a_removed_target_is_never_heard_of_again() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.set([(1, target(0, 80)), (2, target(0, 80)), (3, target(0, 80))], now);
    let mut starts = begin(&mut schedule, now);
    let third = starts.pop().expect("three");
    for start in starts {
        schedule.end(start.ticket, silent(), now);
    }
    schedule.set([(2, target(0, 80))], now);
    // The slot of the third is taken by a fourth.
    schedule.upsert(4, target(0, 80), now);
    schedule.upsert(5, target(0, 80), now);
    schedule.end(third.ticket, silent(), now);
    assert_eq!(said(&mut schedule), [(2, false)]);
    assert_eq!((schedule.health(1), schedule.health(3)), (None, None));
    assert_eq!(schedule.health(4), Some(Health::Unknown));
    assert!(third.abort.handle().is_aborted(), "its probe was told to end");
}

#[test]
fn what_was_not_made_is_no_verdict_and_is_seen() {
    let (mut schedule, now) = schedule(Limits::default());
    schedule.upsert(1, target(0, 80), now);
    let start = begin(&mut schedule, now).remove(0);
    schedule.end(start.ticket, Some(Err(Failure::not_made("no sockets"))), now);
    assert!(said(&mut schedule).is_empty());
    let stats = schedule.stats(now);
    assert_eq!((stats.unknown, stats.probes, stats.not_made), (1, 1, 1));
    assert_eq!(stats.trouble.as_deref(), Some("no sockets"));
    assert!(schedule.next_due().is_some(), "it is tried again");
}

#[test]
fn a_group_of_silent_targets_holds_its_budget_and_nobody_up() {
    let limits = Limits { at_once: 100, of_a_group: 10, reserved: 20 };
    let (mut schedule, now) = schedule(limits);
    schedule.set((0..1_000).map(|key| (key, target(0, 80))), now);
    assert_eq!(begin(&mut schedule, now).len(), 10, "its budget");
    schedule.upsert(5_000, target(1, 80), now);
    let starts = begin(&mut schedule, now);
    assert_eq!(starts.len(), 1, "the other group's target is asked at once");
    schedule.end(starts[0].ticket, Some(Ok(())), now);
    assert_eq!(said(&mut schedule), [(5_000, true)]);
    let stats = schedule.stats(now + Duration::from_secs(3));
    assert_eq!((stats.under_way, stats.waiting, stats.late), (10, 990, Duration::from_secs(3)));
}

#[test]
fn many_silent_groups_leave_places_for_whoever_has_none() {
    let limits = Limits { at_once: 100, of_a_group: 50, reserved: 20 };
    let (mut schedule, now) = schedule(limits);
    for group in 0..10 {
        let first = u32::from(group) * 1_000;
        schedule.set_more((first..first + 200).map(|key| (key, target(group, 80))), now);
    }
    let held = begin(&mut schedule, now);
    assert_eq!(held.len(), 80 + 8, "all but what is reserved, and one for each group that had none");
    schedule.set_more((0..5).map(|n| (90_000 + n, target(100 + n as u8, 80))), now);
    let served = begin(&mut schedule, now);
    assert_eq!(served.len(), 5, "each has a reserved place at once");
    // A second target of a group that has one under way waits like everybody.
    schedule.upsert(99_000, target(100, 80), now);
    assert!(begin(&mut schedule, now).is_empty());
    schedule.end(served[0].ticket, Some(Ok(())), now);
    assert_eq!(begin(&mut schedule, now).len(), 1, "until the first has ended");
}

#[test]
fn groups_that_wait_take_turns() {
    let (mut schedule, now) = schedule(Limits { at_once: 2, of_a_group: 2, reserved: 0 });
    for group in 0..3 {
        let first = u32::from(group) * 100;
        schedule.set_more((first..first + 50).map(|key| (key, target(group, 80))), now);
    }
    let mut under_way = begin(&mut schedule, now);
    let mut served = BTreeMap::<GroupId, u32>::new();
    for _ in 0..60 {
        let start = under_way.remove(0);
        *served.entry(start.ticket.group).or_default() += 1;
        schedule.end(start.ticket, Some(Ok(())), now);
        under_way.extend(begin(&mut schedule, now));
        assert_eq!(under_way.len(), 2);
    }
    assert!(served.values().all(|count| (15..=25).contains(count)), "{served:?}");
}

#[test]
fn a_target_can_change_its_group_while_it_waits_and_while_it_is_asked() {
    let (mut schedule, now) = schedule(Limits { at_once: 10, of_a_group: 1, reserved: 0 });
    schedule.set([(1, target(0, 80)), (2, target(0, 80))], now);
    let first = begin(&mut schedule, now).remove(0);
    assert_eq!(schedule.stats(now).waiting, 1);
    schedule.set([(1, target(1, 80)), (2, target(2, 80))], now);
    let second = begin(&mut schedule, now).remove(0);
    schedule.end(first.ticket, Some(Ok(())), now);
    schedule.end(second.ticket, Some(Ok(())), now);
    assert_eq!(said(&mut schedule), [(1, true), (2, true)], "the question is the same, so is the answer");
    let stats = schedule.stats(now);
    assert_eq!((stats.groups, stats.under_way, stats.waiting), (2, 0, 0), "the first group is forgotten");
}

impl Schedule<u32, u8> {
    /// These targets beside those that there are.
    fn set_more(&mut self, targets: impl IntoIterator<Item = (u32, Target<u8>)>, now: Instant) {
        for (key, target) in targets {
            self.upsert(key, target, now);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Upsert { key: u32, group: u8, port: u16, interval: u8 },
    Set(Vec<(u32, u8)>),
    Remove(u32),
    Hurry(u32),
    Begin,
    End { which: usize, good: bool },
    Take,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..8, 0_u8..3, 1_u16..3, 1_u8..3)
            .prop_map(|(key, group, port, interval)| Step::Upsert { key, group, port, interval }),
        1 => vec((0_u32..8, 0_u8..3), 0..8).prop_map(Step::Set),
        2 => (0_u32..8).prop_map(Step::Remove),
        1 => (0_u32..8).prop_map(Step::Hurry),
        4 => Just(Step::Begin),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, good)| Step::End { which, good }),
        1 => Just(Step::Take),
        3 => (0_u16..3_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a model that knows of each target its definition and the result that is its last word.
    #[test]
    fn whatever_happens_a_verdict_is_of_a_present_definition_and_budgets_hold(
        steps in vec(step(), 1..120),
        at_once in 1_u32..6,
        of_a_group in 1_u32..4,
        reserved in 0_u32..3,
    ) {
        let limits = Limits { at_once, of_a_group, reserved };
        let (mut schedule, mut now) = schedule(limits);
        let with = |group, port, interval: u8| {
            let check = Check {
                interval: Duration::from_millis(u64::from(interval) * 700),
                unhealthy_threshold: 1,
                wrong_answer: WrongAnswer::Counts,
                ..check()
            };
            Target::new(group, SocketAddr::from(([192, 0, 2, 1], port)), Arc::new(check))
        };
        // Key to port, last word that was told, last word that is to be told.
        let mut model: BTreeMap<u32, (u16, Option<bool>, Option<bool>)> = BTreeMap::new();
        let mut under_way: Vec<(Start, u32, u8)> = Vec::new();
        let mut groups: BTreeMap<u32, u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert { key, group, port, interval } => {
                    schedule.upsert(key, with(group, port, interval), now);
                    groups.insert(key, group);
                    if model.get(&key).is_none_or(|known| known.0 != port) {
                        model.insert(key, (port, None, None));
                    }
                }
                Step::Set(keys) => {
                    let keys: BTreeMap<u32, u8> = keys.into_iter().collect();
                    schedule.set(keys.iter().map(|(key, group)| (*key, with(*group, 1, 1))), now);
                    model.retain(|key, known| keys.contains_key(key) && known.0 == 1);
                    for (key, group) in keys {
                        model.entry(key).or_insert((1, None, None));
                        groups.insert(key, group);
                    }
                }
                Step::Remove(key) => {
                    schedule.remove(key);
                    model.remove(&key);
                }
                Step::Hurry(key) => schedule.hurry(key, now),
                Step::Begin => {
                    let started = begin(&mut schedule, now);
                    for start in started {
                        let key = schedule.slots[start.ticket.slot as usize].as_ref().map(|slot| slot.key);
                        let key = key.expect("only present targets are asked");
                        under_way.push((start, key, groups[&key]));
                    }
                    let live = |start: &Start| !start.abort.handle().is_aborted();
                    for key in model.keys() {
                        let of_key = under_way.iter().filter(|(start, of, _)| of == key && live(start)).count();
                        prop_assert!(of_key <= 1, "target {} is asked {} times at once", key, of_key);
                    }
                    prop_assert!(under_way.len() as u32 <= at_once);
                    for group in 0..3 {
                        let of_group = under_way.iter().filter(|(_, _, of)| *of == group).count();
                        prop_assert!(of_group as u32 <= of_a_group, "group {} has {}", group, of_group);
                    }
                }
                Step::End { which, good } if !under_way.is_empty() => {
                    let (start, key, _) = under_way.remove(which % under_way.len());
                    let dropped = start.abort.handle().is_aborted();
                    let result = if good { Ok(()) } else { Err(Failure::silent("no")) };
                    schedule.end(start.ticket, (!dropped).then_some(result), now);
                    if !dropped && let Some((_, _, last)) = model.get_mut(&key) {
                        *last = Some(good);
                    }
                }
                Step::End { .. } => {}
                Step::Take => {
                    for (key, healthy) in said(&mut schedule) {
                        let known = model.get_mut(&key);
                        let (_, told, last) = known.expect("no verdict of a target that is not there");
                        prop_assert_eq!(Some(healthy), *last, "the verdict is the last word");
                        *told = *last;
                    }
                    for (key, (_, told, last)) in &model {
                        prop_assert_eq!(told, last, "every last word was told, of {}", key);
                    }
                }
                Step::Wait(millis) => now += Duration::from_millis(millis.into()),
            }
            let unknown = model.values().filter(|(_, _, last)| last.is_none()).count();
            let stats = schedule.stats(now);
            prop_assert_eq!((stats.targets, stats.unknown), (model.len(), unknown));
            prop_assert_eq!(stats.under_way as usize, under_way.len());
        }
        // What is left ends, and nothing remains of what was removed.
        for (start, _, _) in under_way {
            schedule.end(start.ticket, None, now);
        }
        schedule.set([], now);
        let stats = schedule.stats(now + Duration::from_secs(60));
        prop_assert_eq!((stats.targets, stats.groups, stats.under_way, stats.waiting), (0, 0, 0, 0));
        prop_assert!(schedule.next_due().is_none() && !schedule.has_verdicts());
    }
}
