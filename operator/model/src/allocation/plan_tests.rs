//! Values in, plan out: the rules of a single round, and a random walk with several counters, many children and
//! batches, which are too large to explore.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::id::{Kind, ObjectName};

fn object(kind: Kind, name: &str, version: &str) -> ObjectVersion {
    ObjectVersion {
        kind,
        namespace: "epic-sample".into(),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        resource_version: version.into(),
    }
}

fn account(name: &str, created: i64, granted: Option<u32>, request: Option<u32>) -> Child {
    let request = request.map(|value| Request { value, programmed_by: Vec::new() });
    Child {
        object: object(Kind::Account, name, "1"),
        created: Seconds(created),
        deleting: false,
        slots: vec![Slot::single(Counter::Group, granted, request)],
    }
}

fn load_balancer(name: &str, slots: Vec<Slot>) -> Child {
    Child { object: object(Kind::LoadBalancer, name, "1"), created: Seconds(0), deleting: false, slots }
}

fn epic(last: u32) -> Parent {
    let counter = |last, range| CounterState { last, range };
    Parent {
        uid: "epic-uid".into(),
        resource_version: "100".into(),
        finalizer: true,
        deleting: false,
        counters: BTreeMap::from([
            (Counter::Group, counter(last, SIXTEEN_BITS)),
            (Counter::Tunnel, counter(last, THIRTY_TWO_BITS)),
            (Counter::Proxy, counter(last, 1..=2_097_150)),
        ]),
        reservations: Vec::new(),
    }
}

fn reserved(counter: Counter, value: u32, owner: ObjectVersion, subkey: &str) -> Reservation {
    Reservation { counter, value, owner, subkey: subkey.into() }
}

/// The plan, which must be free of violations.
fn planned(parent: &Parent, children: &[Child]) -> Plan {
    let plan = plan(parent, children);
    assert_eq!(lint(parent, children, &plan), []);
    plan
}

fn parent_write(plan: &Plan) -> &ParentWrite {
    let write = plan.writes.iter().find_map(|write| match write {
        Write::Parent(write) => Some(write),
        _ => None,
    });
    write.unwrap_or_else(|| panic!("the parent is not written: {plan:?}"))
}

fn granted(plan: &Plan) -> Vec<(&str, u32)> {
    plan.child_writes()
        .flat_map(|write| write.grant.iter().map(|value| (write.object.name.as_str(), value.value)))
        .collect()
}

#[test]
fn a_value_is_reserved_in_the_parent_before_it_is_written_to_the_child() {
    let plan = planned(&epic(7), &[account("a", 1, None, None)]);
    let [Write::Parent(parent), Write::Child(child)] = plan.writes.as_slice() else { panic!("{plan:?}") };
    assert_eq!(parent.at.as_str(), "100");
    assert_eq!(parent.counters, BTreeMap::from([(Counter::Group, 8)]));
    assert_eq!(parent.reservations, [reserved(Counter::Group, 8, object(Kind::Account, "a", "1"), "")]);
    assert_eq!(child.object.resource_version.as_str(), "1");
    assert_eq!(plan.follow_up(), FollowUp::Flush);
}

#[test]
fn a_reserved_id_survives_a_crash_before_the_child_is_written() {
    let parent = Parent {
        reservations: vec![reserved(Counter::Group, 8, object(Kind::Account, "a", "1"), "")],
        ..epic(8)
    };
    let plan = planned(&parent, &[account("a", 1, None, None), account("b", 2, None, None)]);
    assert_eq!(granted(&plan), [("a", 8), ("b", 9)]);
    assert_eq!(parent_write(&plan).reservations.len(), 2, "the live one is kept");
}

#[test]
fn a_reservation_for_another_version_is_dropped_and_its_value_used_again() {
    let parent = Parent {
        reservations: vec![reserved(Counter::Group, 8, object(Kind::Account, "a", "0"), "")],
        ..epic(8)
    };
    let plan = planned(&parent, &[account("a", 1, None, None)]);
    assert_eq!(granted(&plan), [("a", 8)]);
    assert_eq!(parent_write(&plan).counters, BTreeMap::new(), "the counter does not move again");
    assert_eq!(parent_write(&plan).reservations.len(), 1);
}

#[test]
fn dead_reservations_are_flushed_when_nothing_else_is_to_be_done() {
    let dead = reserved(Counter::Group, 8, object(Kind::Account, "gone", "1"), "");
    let parent = Parent { reservations: vec![dead], ..epic(8) };
    let plan = planned(&parent, &[account("a", 1, Some(3), None)]);
    assert!(plan.writes.is_empty());
    assert_eq!(plan.flush.as_ref().map(|flush| flush.reservations.len()), Some(0));
    assert_eq!(plan.follow_up(), FollowUp::Flush);
}

#[test]
fn a_restart_writes_nothing_when_everything_is_granted() {
    let lb = load_balancer(
        "web",
        vec![Slot::keyed(Counter::Proxy, "pod", Some(1), true), Slot::single(Counter::Service, None, None)],
    );
    let plan = planned(&epic(4), &[account("a", 1, Some(1), Some(1)), lb]);
    assert!(plan.is_settled(), "{plan:?}");
    assert_eq!(plan.follow_up(), FollowUp::None);
}

#[test]
fn children_are_fenced_before_the_finalizer_and_nothing_is_reserved_without_it() {
    let parent = Parent { finalizer: false, ..epic(0) };
    let children = [
        account("granted", 1, Some(3), None),
        account("open", 2, None, None),
        load_balancer("web", vec![Slot::keyed(Counter::Proxy, "pod", Some(1), true)]),
    ];
    let plan = planned(&parent, &children);
    let fenced: Vec<&ObjectName> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Fence { object, .. } => Some(&object.name),
            _ => None,
        })
        .collect();
    assert_eq!(
        fenced,
        [&ObjectName::new("web"), &ObjectName::new("open")],
        "values with subkeys may come any time"
    );
    assert_eq!(plan.writes.last(), Some(&Write::FinalizerOn { at: "100".into() }));
    assert_eq!(plan.writes.len(), 3);
    assert_eq!(plan.follow_up(), FollowUp::Now);
    assert!(planned(&parent, &[]).is_settled(), "no finalizer before it is needed");
}

#[test]
fn a_parent_that_goes_finishes_what_is_reserved_and_gives_nothing_new() {
    let parent = Parent {
        deleting: true,
        reservations: vec![reserved(Counter::Group, 8, object(Kind::Account, "a", "1"), "")],
        ..epic(8)
    };
    let plan = planned(&parent, &[account("a", 1, None, None), account("b", 2, None, None)]);
    assert_eq!(granted(&plan), [("a", 8)]);
    assert_eq!(plan.refusals[0].reason, Reason::ParentDeleting);
    let empty = Parent { deleting: true, ..epic(8) };
    assert_eq!(
        planned(&empty, &[account("b", 2, None, None)]).writes,
        [Write::FinalizerOff { at: "100".into() }]
    );
    assert!(planned(&empty, &[account("a", 1, Some(8), None)]).writes.is_empty(), "a grant holds the parent");
}

#[test]
fn a_requested_value_is_granted_if_it_is_free_and_the_counter_stays() {
    let plan = planned(&epic(7), &[account("a", 1, None, Some(3))]);
    assert_eq!(granted(&plan), [("a", 3)]);
    assert_eq!(parent_write(&plan).counters, BTreeMap::new());
}

#[test]
fn the_older_of_two_equal_requests_wins_and_the_other_is_told_who_holds_it() {
    let plan = planned(&epic(7), &[account("young", 2, None, Some(3)), account("old", 1, None, Some(3))]);
    assert_eq!(granted(&plan), [("old", 3)]);
    assert_eq!(
        plan.refusals[0].to_string(),
        "group id 3 belongs to Account epic-sample/old; ask for another one, or wait until that is gone"
    );
}

#[test]
fn a_draw_skips_what_others_ask_for() {
    let plan = planned(&epic(7), &[account("drawing", 1, None, None), account("asking", 2, None, Some(8))]);
    assert_eq!(granted(&plan), [("drawing", 9), ("asking", 8)]);
}

#[test]
fn a_draw_finds_nothing_when_all_that_is_free_is_asked_for() {
    let mut parent = epic(0);
    parent.counters.insert(Counter::Group, CounterState { last: 0, range: 1..=3 });
    let mut asking = account("asking", 2, None, Some(3));
    asking.slots[0].request.as_mut().unwrap().programmed_by = vec!["node1".into()];
    let children = [
        account("drawing", 1, None, None),
        account("again", 1, None, None),
        asking,
        account("held", 0, Some(1), None),
    ];
    let plan = planned(&parent, &children);
    assert_eq!(granted(&plan), [("again", 2)]);
    assert_eq!(plan.refusals[0].reason, Reason::Exhausted { total: 3 });
}

#[test]
fn a_requested_value_waits_for_the_nodes_that_program_its_old_owner() {
    let mut child = account("a", 1, None, None);
    child.slots[0].request = Some(Request { value: 3, programmed_by: vec!["node2".into()] });
    let plan = planned(&epic(7), &[child]);
    assert!(plan.writes.is_empty());
    assert_eq!(plan.refusals[0].to_string(), "group id 3 may still be programmed for its old owner on node2");
}

#[test]
fn a_request_out_of_range_and_a_full_range_are_refused() {
    let mut parent = epic(0);
    parent.counters.insert(Counter::Group, CounterState { last: 0, range: 1..=2 });
    let children = [
        account("a", 1, Some(1), None),
        account("b", 2, Some(2), None),
        account("c", 3, None, Some(3)),
        account("d", 4, None, None),
    ];
    let reasons: Vec<String> = planned(&parent, &children).refusals.iter().map(Refusal::to_string).collect();
    assert_eq!(
        reasons,
        ["group id 3 is out of range; choose one from 1 to 2", "all 2 values of group id are in use"]
    );
}

#[test]
fn a_recreated_parent_goes_on_after_the_highest_grant() {
    let plan = planned(&epic(0), &[account("a", 1, Some(41), None), account("b", 2, None, None)]);
    assert_eq!(granted(&plan), [("b", 42)]);
}

#[test]
fn a_counter_near_its_maximum_comes_round() {
    let children: Vec<Child> =
        (0..4).map(|number| account(&format!("a{number}"), number, None, None)).collect();
    let plan = planned(&epic(65_533), &children);
    assert_eq!(granted(&plan), [("a0", 65_534), ("a1", 65_535), ("a2", 1), ("a3", 2)]);
    assert_eq!(parent_write(&plan).counters[&Counter::Group], 2);
}

#[test]
fn duplicates_are_reported_and_the_older_keeps_the_value() {
    let plan = planned(&epic(9), &[account("young", 2, Some(3), None), account("old", 1, Some(3), None)]);
    assert!(plan.is_settled(), "nothing is renumbered");
    let [duplicate] = plan.duplicates.as_slice() else { panic!("{plan:?}") };
    assert_eq!((duplicate.keeper.name.as_str(), duplicate.other.name.as_str()), ("old", "young"));
}

#[test]
fn a_child_that_needs_values_of_several_kinds_is_written_once() {
    let lb = load_balancer(
        "web",
        vec![
            Slot::keyed(Counter::Proxy, "pod-a", None, true),
            Slot::keyed(Counter::Tunnel, "10.0.0.1/192.0.2.1", None, true),
            Slot::keyed(Counter::Proxy, "pod-gone", Some(3), false),
        ],
    );
    let plan = planned(&epic(4), &[lb]);
    let writes: Vec<&ChildWrite> = plan.child_writes().collect();
    assert_eq!(writes.len(), 1);
    assert_eq!((writes[0].grant.len(), writes[0].free.len()), (2, 1));
    assert_eq!(writes[0].free[0].value, 3);
}

#[test]
fn a_reservation_whose_need_is_gone_is_finished_first_and_freed_then() {
    let owner = object(Kind::LoadBalancer, "web", "1");
    let parent = Parent { reservations: vec![reserved(Counter::Proxy, 5, owner, "pod")], ..epic(5) };
    let first = planned(&parent, &[load_balancer("web", vec![])]);
    assert_eq!(granted(&first), [("web", 5)]);
    assert_eq!(first.follow_up(), FollowUp::Now);
    let next = planned(
        &Parent { reservations: Vec::new(), ..parent },
        &[load_balancer("web", vec![Slot::keyed(Counter::Proxy, "pod", Some(5), false)])],
    );
    assert_eq!(next.child_writes().next().map(|write| write.free[0].value), Some(5));
}

#[test]
fn a_round_reserves_no_more_than_a_batch_and_says_that_there_is_more() {
    let accounts: Vec<Child> = (0..300).map(|n| account(&format!("a{n}"), n, None, None)).collect();
    let plan = planned(&epic(0), &accounts);
    assert_eq!(parent_write(&plan).reservations.len(), BATCH);
    assert_eq!(granted(&plan).len(), BATCH);
    assert_eq!(plan.follow_up(), FollowUp::Now);
}

fn greedy(namespace: &str, name: &str, pods: usize) -> Child {
    let slots =
        (0..pods).map(|pod| Slot::keyed(Counter::Proxy, format!("{name}-{pod:03}"), None, true)).collect();
    let mut child = load_balancer(name, slots);
    child.object.namespace = namespace.into();
    child
}

#[test]
fn what_one_namespace_has_reserved_and_cannot_write_leaves_room_for_the_others() {
    let stuck = [greedy("epic-red", "web", 300), greedy("epic-red", "shop", 300)];
    let first = planned(&epic(0), &stuck);
    assert_eq!(granted(&first).len(), SHARE, "both objects together");
    // The API server takes neither status, so all of it stays live.
    let parent = Parent { reservations: parent_write(&first).reservations.clone(), ..epic(64) };
    let [web, shop] = stuck;
    let next = planned(&parent, &[web, shop, greedy("epic-blue", "api", 3)]);
    let of = |name: &str| granted(&next).into_iter().filter(|(known, _)| *known == name).count();
    assert_eq!((of("shop"), of("web"), of("api")), (SHARE, 0, 3), "shop is first by name");
}

#[test]
fn a_reservation_put_there_by_hand_never_changes_a_grant() {
    let owner = object(Kind::Account, "a", "1");
    let parent = Parent { reservations: vec![reserved(Counter::Group, 5, owner, "")], ..epic(5) };
    let plan = planned(&parent, &[account("a", 1, Some(4), None)]);
    assert!(plan.writes.is_empty());
    assert!(plan.flush.is_some());
}

#[test]
fn a_child_that_is_being_deleted_gets_nothing_new() {
    let child = Child { deleting: true, ..account("a", 1, None, None) };
    assert!(planned(&epic(5), &[child]).is_settled());
}

#[test]
fn the_writes_of_two_parents_to_one_child_are_brought_together() {
    let write = |counter, version: &str| ChildWrite {
        object: object(Kind::LoadBalancer, "web", version),
        grant: vec![Value { counter, subkey: String::new(), value: 1 }],
        free: Vec::new(),
    };
    let merged =
        merge([write(Counter::Proxy, "1"), write(Counter::Service, "1"), write(Counter::Service, "2")]);
    assert_eq!(merged.len(), 2);
    assert_eq!(merged[0].grant.len(), 2);
}

#[test]
fn the_linter_finds_what_a_plan_must_not_do() {
    let parent = epic(7);
    let children = [account("a", 1, None, None), account("b", 2, Some(3), None)];
    let good = plan(&parent, &children);
    let broken = |change: &dyn Fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        lint(&parent, &children, &plan)
    };
    let reservations = |change: &'static dyn Fn(&mut Vec<Reservation>)| {
        move |plan: &mut Plan| {
            if let Write::Parent(write) = &mut plan.writes[0] {
                change(&mut write.reservations);
            }
        }
    };
    assert_eq!(broken(&|_| ()), []);
    assert!(broken(&|plan| plan.writes.swap(0, 1)).contains(&Violation::Order));
    assert!(
        broken(&|plan| {
            plan.writes.remove(0);
        })
        .contains(&Violation::GrantWithoutReservation(Counter::Group, 8))
    );
    assert!(
        broken(&reservations(&|list| list[0].value = 3)).contains(&Violation::TwoHolders(Counter::Group, 3))
    );
    assert!(
        broken(&reservations(&|list| list[0].value = 65_536))
            .contains(&Violation::OutOfRange(Counter::Group, 65_536))
    );
    assert!(
        broken(&|plan| plan.writes.push(Write::FinalizerOff { at: "100".into() }))
            .contains(&Violation::FinalizerTooEarly)
    );
}

/// A world for the random walk: an API server that knows versions, and plans that are executed partly.
#[derive(Clone, Debug)]
struct Server {
    parent: Parent,
    children: BTreeMap<String, Child>,
    version: u64,
}

#[derive(Clone, Debug)]
enum Event {
    /// A load balancer comes (or goes, if it is there), with a request or without.
    Toggle(u8, Option<u32>),
    /// One of its pods comes or goes.
    Pod(u8, u8),
    /// Somebody writes to it.
    Touch(u8),
    /// An operator reads, plans and makes this many of its writes.
    Round(u8),
    /// An operator reads; its plan is executed at the next `Stale`.
    Read,
    /// What was planned at the last `Read` is tried now.
    Stale(u8),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0u8..6, proptest::option::of(1u32..6)).prop_map(|(child, request)| Event::Toggle(child, request)),
        (0u8..6, 0u8..4).prop_map(|(child, pod)| Event::Pod(child, pod)),
        (0u8..6).prop_map(Event::Touch),
        (0u8..9).prop_map(Event::Round),
        Just(Event::Read),
        (0u8..9).prop_map(Event::Stale),
    ];
    proptest::collection::vec(event, 1..60)
}

impl Server {
    fn new() -> Self {
        let state = |last, end| CounterState { last, range: 1..=end };
        let parent = Parent {
            finalizer: false,
            counters: BTreeMap::from([(Counter::Service, state(4, 8)), (Counter::Proxy, state(9, 10))]),
            ..epic(0)
        };
        Server { parent, children: BTreeMap::new(), version: 1_000 }
    }

    fn next_version(&mut self) -> ResourceVersion {
        self.version += 1;
        ResourceVersion::new(self.version.to_string())
    }

    fn plan(&self) -> Plan {
        let children: Vec<Child> = self.children.values().cloned().collect();
        let plan = plan(&self.parent, &children);
        assert_eq!(lint(&self.parent, &children, &plan), []);
        plan
    }

    /// Makes up to `count` writes; stops at the first conflict.
    fn execute(&mut self, plan: &Plan, count: usize) {
        let flush = plan.flush.clone().filter(|_| plan.writes.is_empty()).map(Write::Parent);
        for write in plan.writes.iter().cloned().chain(flush).take(count) {
            if !self.write(write) {
                return;
            }
        }
    }

    fn write(&mut self, write: Write) -> bool {
        let version = self.next_version();
        match write {
            Write::Fence { object, .. } => {
                if let Some(child) = self.at(&object) {
                    child.object.resource_version = version;
                }
                true
            }
            Write::FinalizerOn { at } if at == self.parent.resource_version => {
                self.parent.finalizer = true;
                self.parent.resource_version = version;
                true
            }
            Write::Parent(write) if write.at == self.parent.resource_version => {
                assert!(write.reservations.len() <= BATCH);
                self.parent.reservations = write.reservations;
                for (counter, last) in write.counters {
                    self.parent.counters.get_mut(&counter).unwrap().last = last;
                }
                self.parent.resource_version = version;
                true
            }
            Write::Child(write) => {
                let Some(child) = self.at(&write.object) else { return false };
                for value in write.grant {
                    let place =
                        |slot: &&mut Slot| (slot.counter, &slot.subkey) == (value.counter, &value.subkey);
                    match child.slots.iter_mut().find(place) {
                        Some(slot) => {
                            assert_eq!(slot.granted, None, "a grant changed");
                            let asked = slot.request.as_ref().map_or(value.value, |request| request.value);
                            assert_eq!(asked, value.value, "a grant is not the request");
                            slot.granted = Some(value.value);
                        }
                        None => child.slots.push(Slot::keyed(
                            value.counter,
                            value.subkey,
                            Some(value.value),
                            false,
                        )),
                    }
                }
                for value in write.free {
                    child.slots.retain(|slot| (slot.counter, &slot.subkey) != (value.counter, &value.subkey));
                }
                child.object.resource_version = version;
                true
            }
            _ => false,
        }
    }

    fn at(&mut self, object: &ObjectVersion) -> Option<&mut Child> {
        self.children.get_mut(object.name.as_str()).filter(|child| child.object.is_same_version(object))
    }

    fn happen(&mut self, event: &Event) {
        let version = self.next_version();
        match event {
            Event::Toggle(number, request) => {
                let name = format!("lb{number}");
                if self.children.remove(&name).is_none() {
                    let request = request.map(|value| Request { value, programmed_by: Vec::new() });
                    let mut child = load_balancer(&name, vec![Slot::single(Counter::Service, None, request)]);
                    child.object.uid = format!("{name}-{version}").into();
                    child.object.resource_version = version;
                    child.created = Seconds(self.version as i64);
                    self.children.insert(name, child);
                }
            }
            Event::Pod(number, pod) => {
                let Some(child) = self.children.get_mut(&format!("lb{number}")) else { return };
                let subkey = format!("pod{pod}");
                match child.slots.iter_mut().find(|slot| slot.subkey == subkey) {
                    None => child.slots.push(Slot::keyed(Counter::Proxy, subkey, None, true)),
                    Some(slot) if slot.granted.is_some() => slot.wanted = !slot.wanted,
                    Some(_) => child.slots.retain(|slot| slot.subkey != subkey),
                }
            }
            Event::Touch(number) => {
                if let Some(child) = self.children.get_mut(&format!("lb{number}")) {
                    child.object.resource_version = version;
                }
            }
            Event::Round(count) => {
                let plan = self.plan();
                self.execute(&plan, usize::from(*count));
            }
            Event::Read | Event::Stale(_) => {}
        }
        self.check();
    }

    fn check(&self) {
        let mut seen = std::collections::HashSet::new();
        for slot in self.children.values().flat_map(|child| &child.slots) {
            if let Some(value) = slot.granted {
                assert!(seen.insert((slot.counter, value)), "{} {value} has two holders", slot.counter);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn many_children_and_counters_end_with_unique_values_and_nothing_reserved(events in events()) {
        let mut server = Server::new();
        let mut planned = None;
        for event in &events {
            match event {
                Event::Read => planned = Some(server.plan()),
                Event::Stale(count) => {
                    if let Some(plan) = planned.take() {
                        server.execute(&plan, usize::from(*count));
                    }
                }
                _ => server.happen(event),
            }
            server.check();
        }
        for _ in 0..40 {
            let plan = server.plan();
            if plan.is_settled() {
                break;
            }
            server.execute(&plan, usize::MAX);
            server.check();
        }
        let plan = server.plan();
        prop_assert!(plan.is_settled(), "{plan:?}");
        prop_assert!(server.parent.reservations.is_empty() || !server.parent.finalizer);
        for child in server.children.values() {
            for slot in child.slots.iter().filter(|slot| slot.wanted && slot.granted.is_none()) {
                let told = plan.refusals.iter().any(|refusal| {
                    refusal.object == child.object && (refusal.counter, &refusal.subkey) == (slot.counter, &slot.subkey)
                });
                prop_assert!(told, "{slot:?} of {} has no value and no reason", child.object);
            }
        }
    }
}
