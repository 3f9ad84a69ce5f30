//! The protocol for IDs as a model: an API server, users, and two operators that run [`super::plan`]. Tests only.
//!
//! Each API call is one atomic step. Between any two of them anything else may happen; an operator may die before or
//! after a call, and one write of a dead operator may land any time later, or never. Versions are numbers that are
//! never used twice; what nobody can compare any more is brought to zero, so the number of states is finite.

use std::collections::{BTreeMap, HashSet};

use super::plan::plan_with;
use super::setup::{Asked, Setup};
use super::{Child, CounterState, Parent, Request, Reservation, Slot, Violation, Write, lint};
use crate::explore::Model;
use crate::id::{Kind, ObjectVersion, Seconds, Uid};

/// A value that is not there.
const NONE: u8 = 0;

/// A reservation, or the object that a write is for: child, uid, version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ref {
    child: u8,
    uid: u8,
    rv: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ParentObject {
    uid: u8,
    /// Whether it was put beside another one, and counts instead of that.
    namesake: bool,
    rv: u8,
    finalizer: bool,
    deleting: bool,
    last: u8,
    reserved: Vec<(u8, Ref)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChildObject {
    uid: u8,
    rv: u8,
    request: u8,
    granted: u8,
    wanted: bool,
}

/// A write that an operator is about to make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Put {
    Fence(Ref),
    FinalizerOn { uid: u8, rv: u8 },
    FinalizerOff { uid: u8, rv: u8 },
    Parent { uid: u8, rv: u8, reserved: Vec<(u8, Ref)>, last: u8 },
    Grant(Ref, u8),
    Free(Ref),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operator {
    Idle,
    /// Has read the parent.
    Got(ParentObject),
    /// Has read the children, before the parent (a rule left out).
    Listed(Vec<Option<ChildObject>>),
    /// Has a plan, and has yet to ask whether the parent of this uid still counts.
    Planned(u8, Vec<Put>),
    /// Has a plan; the next write is the last element.
    Working(Vec<Put>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    parent: Option<ParentObject>,
    /// The parent that counted before `parent` was put beside it.
    eclipsed: Option<ParentObject>,
    /// The uid that the next parent gets; it only matters whether it differs.
    next_parent: u8,
    children: Vec<Option<ChildObject>>,
    /// The version and uid each name gets next.
    next: Vec<u8>,
    operators: [Operator; 2],
    late: Option<Put>,
    /// A list that a cache still shows (a rule left out).
    cache: Option<Vec<Option<ChildObject>>>,
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug)]
#[expect(dead_code, reason = "read through Debug, when a run is printed")]
pub(super) enum Step {
    Create(usize, u8),
    Delete(usize),
    Edit(usize, u8),
    Touch(usize),
    Want(usize, bool),
    DeleteParent,
    RecreateParent,
    ForceFinalizerOff,
    CreateNamesake,
    GetParent,
    GetEclipsed,
    AskWhetherItCounts,
    ListFirst,
    ListAndPlan(Vec<Put>),
    PlanFromCache(Vec<Put>),
    Cache,
    Call(Put),
    CallAndDie(Put),
    Die,
    DieWithWriteOnTheWay(Put),
    LateWrite(Put),
    LateWriteLost,
}

/// A world in which nothing is on the way.
type Quiet = (Option<ParentObject>, Option<ParentObject>, Vec<Option<ChildObject>>);

/// The model, with what is known to end well.
pub(super) struct Protocol {
    pub setup: Setup,
    ends_well: HashSet<Quiet>,
}

impl Protocol {
    pub(super) fn new(setup: Setup) -> Self {
        Protocol { setup, ends_well: HashSet::new() }
    }

    fn plan(&self, parent: &ParentObject, children: &[Option<ChildObject>]) -> (Vec<Put>, bool) {
        let counter = self.setup.counter();
        let object = |reference: Ref| ObjectVersion {
            kind: Kind::LoadBalancer,
            namespace: "n".into(),
            name: reference.child.to_string().into(),
            uid: Uid::new(format!("{}.{}", reference.child, reference.uid)),
            resource_version: reference.rv.to_string().into(),
        };
        let subkey = if self.setup.keyed { "k" } else { "" };
        let state = CounterState { last: parent.last.into(), range: 1..=self.setup.values.into() };
        let input = Parent {
            uid: parent.uid.to_string().into(),
            resource_version: parent.rv.to_string().into(),
            finalizer: parent.finalizer,
            deleting: parent.deleting,
            counters: BTreeMap::from([(counter, state)]),
            reservations: parent
                .reserved
                .iter()
                .map(|(value, reference)| Reservation {
                    counter,
                    value: (*value).into(),
                    owner: object(*reference),
                    subkey: subkey.into(),
                })
                .collect(),
        };
        let mut listed = Vec::new();
        for (index, child) in children.iter().enumerate() {
            let Some(child) = child else { continue };
            let reference = Ref { child: index as u8, uid: child.uid, rv: child.rv };
            listed.push(Child {
                object: object(reference),
                created: Seconds(0),
                deleting: false,
                slots: vec![Slot {
                    counter,
                    subkey: subkey.into(),
                    granted: (child.granted != NONE).then_some(child.granted.into()),
                    wanted: child.wanted,
                    request: (child.request != NONE)
                        .then(|| Request { value: child.request.into(), programmed_by: Vec::new() }),
                }],
            });
        }
        let plan = plan_with(&input, &listed, self.setup.rules);
        if self.setup.follows_all_rules() {
            let found: Vec<Violation> = lint(&input, &listed, &plan);
            assert!(found.is_empty(), "{found:?} in {plan:?} for {input:?} and {listed:?}");
        }
        let reference = |object: &ObjectVersion| Ref {
            child: object.name.as_str().parse().unwrap(),
            uid: object.uid.as_str().split_once('.').unwrap().1.parse().unwrap(),
            rv: object.resource_version.as_str().parse().unwrap(),
        };
        let put_parent = |write: &super::ParentWrite| Put::Parent {
            uid: parent.uid,
            rv: parent.rv,
            reserved: write
                .reservations
                .iter()
                .map(|known| (known.value as u8, reference(&known.owner)))
                .collect(),
            last: write.counters.get(&counter).map_or(parent.last, |last| *last as u8),
        };
        let mut puts = Vec::new();
        for write in &plan.writes {
            match write {
                Write::Fence { object, .. } => puts.push(Put::Fence(reference(object))),
                Write::FinalizerOn { .. } => puts.push(Put::FinalizerOn { uid: parent.uid, rv: parent.rv }),
                Write::FinalizerOff { .. } => puts.push(Put::FinalizerOff { uid: parent.uid, rv: parent.rv }),
                Write::Parent(write) => puts.push(put_parent(write)),
                Write::Child(write) => {
                    let child = reference(&write.object);
                    puts.extend(write.grant.iter().map(|value| Put::Grant(child, value.value as u8)));
                    puts.extend(write.free.iter().map(|_| Put::Free(child)));
                }
            }
        }
        if puts.is_empty() {
            puts.extend(plan.flush.iter().map(put_parent));
        }
        puts.reverse();
        let settled = puts.is_empty() && !plan.more;
        (puts, settled)
    }

    /// Makes a write; `false` for a conflict.
    fn call(&self, world: &mut World, put: &Put) -> bool {
        match put {
            Put::Fence(reference) => {
                self.put_child(world, *reference, &|_| None);
                true
            }
            Put::Grant(reference, value) => {
                let keyed = self.setup.keyed;
                self.put_child(world, *reference, &|child| {
                    let changed = child.granted != NONE && child.granted != *value;
                    let not_asked = !keyed && child.request != NONE && child.request != *value;
                    child.granted = *value;
                    changed.then_some("a grant changed").or(not_asked.then_some("a grant is not the request"))
                })
            }
            Put::Free(reference) => self.put_child(world, *reference, &|child| {
                child.granted = NONE;
                None
            }),
            Put::Parent { uid, rv, reserved, last } => {
                let any_version = !self.setup.parent_by_version;
                match world.parent_of(*uid) {
                    Some(parent) if any_version || parent.rv == *rv => {
                        parent.reserved.clone_from(reserved);
                        parent.last = *last;
                        parent.rv += 1;
                        true
                    }
                    _ => false,
                }
            }
            Put::FinalizerOn { uid, rv } => match world.parent_of(*uid) {
                Some(parent) if parent.rv == *rv && !parent.deleting => {
                    parent.finalizer = true;
                    parent.rv += 1;
                    true
                }
                _ => false,
            },
            Put::FinalizerOff { uid, rv } => match &world.parent {
                Some(parent)
                    if parent.uid == *uid && (parent.rv == *rv || !self.setup.finalizer_off_by_version) =>
                {
                    if parent.deleting {
                        world.parent = None;
                    }
                    true
                }
                _ => false,
            },
        }
    }

    /// A write to a child, which may turn out wrong; `false` for a conflict.
    fn put_child(
        &self,
        world: &mut World,
        reference: Ref,
        change: &dyn Fn(&mut ChildObject) -> Option<&'static str>,
    ) -> bool {
        let index = reference.child as usize;
        let by_version = self.setup.child_by_version;
        let World { children, next, wrong, .. } = world;
        match &mut children[index] {
            Some(child) if child.uid == reference.uid && (!by_version || child.rv == reference.rv) => {
                *wrong = wrong.or(change(child));
                child.touch(&mut next[index]);
                true
            }
            _ => false,
        }
    }

    fn is_doomed(&self, world: &World, put: &Put) -> bool {
        let parent_is = |uid: u8, rv: u8, by_version: bool| {
            let mut parents = world.parent.iter().chain(&world.eclipsed);
            parents.any(|parent| parent.uid == uid && (!by_version || parent.rv == rv))
        };
        match put {
            Put::Fence(_) => false,
            Put::Grant(reference, _) | Put::Free(reference) => {
                let child = world.children[reference.child as usize].as_ref();
                !child.is_some_and(|child| {
                    child.uid == reference.uid && (!self.setup.child_by_version || child.rv == reference.rv)
                })
            }
            Put::Parent { uid, rv, .. } => {
                if self.setup.parent_by_version {
                    !parent_is(*uid, *rv, true)
                } else {
                    world.parent.is_none()
                }
            }
            Put::FinalizerOn { uid, rv } => !parent_is(*uid, *rv, true),
            Put::FinalizerOff { uid, rv } => !parent_is(*uid, *rv, self.setup.finalizer_off_by_version),
        }
    }

    /// Brings equal worlds to one form: versions that nothing can meet any more are zero, the others are ranks; a
    /// write that must fail is as good as none; operators have no names.
    fn normal(&self, mut world: World) -> World {
        for index in 0..2 {
            let operator = std::mem::replace(&mut world.operators[index], Operator::Idle);
            world.operators[index] = self.without_hopeless(&world, operator);
        }
        if let Some(put) = &world.late
            && self.is_doomed(&world, put)
        {
            world.late = None;
        }
        let ranked = !self.setup.list_after_get || !self.setup.fresh_list;
        for child in 0..world.children.len() {
            let mut uids = Vec::new();
            let mut rvs = Vec::new();
            world.each_ref(child as u8, &mut |uid, rv| {
                uids.push(*uid);
                rvs.push(*rv);
            });
            let current = world.children[child].as_ref().map(|object| (object.uid, object.rv));
            let renumber = |mut seen: Vec<u8>, current: Option<u8>| {
                seen.extend(current);
                seen.sort_unstable();
                seen.dedup();
                move |value: u8| {
                    if ranked {
                        seen.iter().position(|known| *known == value).map_or(0, |rank| rank as u8 + 1)
                    } else {
                        u8::from(Some(value) == current)
                    }
                }
            };
            let uid_of = renumber(uids, current.map(|(uid, _)| uid));
            let rv_of = renumber(rvs, current.map(|(_, rv)| rv));
            world.each_ref(child as u8, &mut |uid, rv| {
                (*uid, *rv) = (uid_of(*uid), rv_of(*rv));
            });
            let mut next = 1;
            world.each_ref(child as u8, &mut |uid, rv| next = next.max(*uid + 1).max(*rv + 1));
            if let Some(object) = &mut world.children[child] {
                (object.uid, object.rv) = (uid_of(object.uid), rv_of(object.rv));
                next = next.max(object.uid + 1).max(object.rv + 1);
            }
            world.next[child] = next;
        }
        let current = [&world.parent, &world.eclipsed]
            .map(|parent| parent.as_ref().map(|parent| (parent.uid, parent.rv)));
        world.each_parent_ref(&mut |uid, rv| {
            let place = current.iter().position(|known| known.is_some_and(|(known, _)| known == *uid));
            *rv = u8::from(current.contains(&Some((*uid, *rv))));
            *uid = place.map_or(0, |place| place as u8 + 1);
        });
        for (parent, uid) in world.parent.iter_mut().zip([1]).chain(world.eclipsed.iter_mut().zip([2])) {
            (parent.uid, parent.rv) = (uid, 1);
        }
        world.next_parent = 3;
        world.operators.sort_unstable();
        world
    }

    /// What an operator still can do. A write to the parent that must fail ends the round, so what follows does not
    /// count; one to a child keeps no other child's from being made. And a parent read at a version that is gone is good for finishing live reservations only.
    fn without_hopeless(&self, world: &World, operator: Operator) -> Operator {
        let hopeful = |puts: Vec<Put>| -> Vec<Put> {
            let mut hopeful: Vec<Put> = puts
                .into_iter()
                .rev()
                .filter(|put| match put {
                    Put::Fence(reference) => self.is_current(world, *reference),
                    Put::Grant(..) | Put::Free(_) => !self.is_doomed(world, put),
                    Put::Parent { .. } | Put::FinalizerOn { .. } | Put::FinalizerOff { .. } => true,
                })
                .take_while(|put| !self.is_doomed(world, put))
                .collect();
            hopeful.reverse();
            hopeful
        };
        match operator {
            Operator::Working(puts) => match hopeful(puts) {
                puts if puts.is_empty() => Operator::Idle,
                puts => Operator::Working(puts),
            },
            Operator::Planned(uid, puts) => match hopeful(puts) {
                puts if puts.is_empty() => Operator::Idle,
                puts => Operator::Planned(uid, puts),
            },
            Operator::Got(mut parent) if self.setup.parent_by_version && self.setup.rules.tag => {
                let same = |now: &ParentObject| (now.uid, now.rv) == (parent.uid, parent.rv);
                if parent.finalizer && !world.parent.iter().chain(&world.eclipsed).any(same) {
                    parent.reserved.retain(|(_, reference)| self.is_current(world, *reference));
                    parent.last = NONE;
                    if parent.reserved.is_empty() && !self.setup.keyed && self.setup.rules.reserve {
                        return Operator::Idle;
                    }
                }
                Operator::Got(parent)
            }
            other => other,
        }
    }

    fn is_current(&self, world: &World, reference: Ref) -> bool {
        let child = world.children[reference.child as usize].as_ref();
        child.is_some_and(|child| (child.uid, child.rv) == (reference.uid, reference.rv))
            || !self.setup.list_after_get
            || !self.setup.fresh_list
    }

    fn users(&self, world: &World, out: &mut Vec<(Step, World)>) {
        let setup = &self.setup;
        for index in 0..world.children.len() {
            let mut add = |step: Step, change: &dyn Fn(&mut World)| {
                let mut next = world.clone();
                change(&mut next);
                out.push((step, next));
            };
            let Some(child) = &world.children[index] else {
                for request in setup.requests {
                    add(Step::Create(index, *request), &|next| {
                        let number = next.next[index];
                        next.next[index] += 1;
                        next.children[index] = Some(ChildObject {
                            uid: number,
                            rv: number,
                            request: *request,
                            granted: NONE,
                            wanted: true,
                        });
                    });
                }
                continue;
            };
            add(Step::Delete(index), &|next| next.children[index] = None);
            let changed = |next: &mut World, change: &dyn Fn(&mut ChildObject)| {
                let World { children, next, .. } = next;
                if let Some(child) = &mut children[index] {
                    change(child);
                    child.touch(&mut next[index]);
                }
            };
            if setup.edits && child.granted == NONE {
                for request in setup.requests.iter().filter(|request| **request != child.request) {
                    add(Step::Edit(index, *request), &|next| {
                        changed(next, &|child| child.request = *request);
                    });
                }
            }
            if setup.touches {
                add(Step::Touch(index), &|next| changed(next, &|_| ()));
            }
            if setup.keyed {
                // What is wanted follows other objects, so the version of this one does not move.
                add(Step::Want(index, !child.wanted), &|next| {
                    if let Some(child) = &mut next.children[index] {
                        child.wanted = !child.wanted;
                    }
                });
            }
        }
        if setup.namesakes {
            self.namesakes(world, out);
        }
        if !setup.parent_life {
            return;
        }
        let mut next = world.clone();
        match &world.parent {
            None => {
                next.parent = Some(ParentObject::new(world.next_parent));
                next.next_parent += 1;
                out.push((Step::RecreateParent, next));
            }
            Some(parent) => {
                if setup.forced_finalizer && parent.finalizer {
                    let mut forced = world.clone();
                    if parent.deleting {
                        forced.parent = None;
                    } else if let Some(parent) = &mut forced.parent {
                        parent.finalizer = false;
                        parent.rv += 1;
                    }
                    out.push((Step::ForceFinalizerOff, forced));
                }
                if !parent.deleting {
                    if parent.finalizer {
                        next.parent =
                            Some(ParentObject { deleting: true, rv: parent.rv + 1, ..parent.clone() });
                    } else {
                        next.parent = None;
                    }
                    out.push((Step::DeleteParent, next));
                }
            }
        }
    }

    fn namesakes(&self, world: &World, out: &mut Vec<(Step, World)>) {
        if world.parent.as_ref().is_some_and(|parent| !parent.namesake) {
            let mut next = world.clone();
            let namesake = ParentObject { namesake: true, ..ParentObject::new(world.next_parent) };
            next.eclipsed = next.parent.replace(namesake);
            out.push((Step::CreateNamesake, next));
        }
    }

    fn operator(&self, world: &World, index: usize, out: &mut Vec<(Step, World)>) {
        let with = |operator: Operator| {
            let mut next = world.clone();
            next.operators[index] = operator;
            next
        };
        match &world.operators[index] {
            Operator::Idle if self.setup.list_after_get => {
                if let Some(parent) = &world.parent {
                    out.push((Step::GetParent, with(Operator::Got(parent.clone()))));
                }
                if let Some(parent) =
                    world.eclipsed.as_ref().filter(|_| self.setup.asked != Asked::WithTheParent)
                {
                    out.push((Step::GetEclipsed, with(Operator::Got(parent.clone()))));
                }
            }
            Operator::Idle => {
                out.push((Step::ListFirst, with(Operator::Listed(world.children.clone()))));
            }
            Operator::Got(parent) => {
                let (puts, _) = self.plan(parent, &world.children);
                let asks = self.setup.namesakes && self.setup.asked == Asked::AfterTheList;
                out.push((
                    Step::ListAndPlan(puts.clone()),
                    with(match asks && !parent.namesake {
                        true => Operator::Planned(parent.uid, puts),
                        false => Operator::Working(puts),
                    }),
                ));
                if let Some(cache) = &world.cache {
                    let (puts, _) = self.plan(parent, cache);
                    out.push((Step::PlanFromCache(puts.clone()), with(Operator::Working(puts))));
                }
            }
            Operator::Listed(children) => {
                if let Some(parent) = &world.parent {
                    let (puts, _) = self.plan(parent, children);
                    out.push((Step::ListAndPlan(puts.clone()), with(Operator::Working(puts))));
                }
            }
            Operator::Planned(uid, puts) => {
                let counts = world.parent.as_ref().is_some_and(|parent| parent.uid == *uid);
                let next = if counts { Operator::Working(puts.clone()) } else { Operator::Idle };
                out.push((Step::AskWhetherItCounts, with(next)));
            }
            Operator::Working(puts) => {
                let Some((put, rest)) = puts.split_last() else { return };
                let mut done = with(Operator::Working(rest.to_vec()));
                if self.call(&mut done, put) {
                    if rest.is_empty() {
                        done.operators[index] = Operator::Idle;
                    } else {
                        let dead = World { operators: world.operators.clone(), ..done.clone() };
                        let mut dead = dead;
                        dead.operators[index] = Operator::Idle;
                        out.push((Step::CallAndDie(put.clone()), dead));
                    }
                    out.push((Step::Call(put.clone()), done));
                }
                out.push((Step::Die, with(Operator::Idle)));
                if self.setup.late_write && world.late.is_none() {
                    let mut next = with(Operator::Idle);
                    next.late = Some(put.clone());
                    out.push((Step::DieWithWriteOnTheWay(put.clone()), next));
                }
            }
        }
    }

    /// Users and faults have stopped, one operator is left: it must come to rest, with nothing left behind.
    fn run_to_the_end(&self, world: &World) -> Option<String> {
        let mut world =
            World { operators: [Operator::Idle, Operator::Idle], late: None, cache: None, ..world.clone() };
        for _ in 0..12 {
            let parent = world.parent.clone()?;
            let (mut puts, settled) = self.plan(&parent, &world.children);
            if settled {
                return self.wrong_at_rest(&parent, &world);
            }
            while let Some(put) = puts.pop() {
                if !self.call(&mut world, &put) {
                    break;
                }
                if let Some(wrong) = self.wrong(&world) {
                    return Some(wrong);
                }
            }
            world = self.normal(world);
        }
        Some("an operator alone does not come to rest".into())
    }

    fn wrong_at_rest(&self, parent: &ParentObject, world: &World) -> Option<String> {
        let children = || world.children.iter().flatten();
        let held = |value: u8| children().any(|child| child.granted == value);
        if !parent.reserved.is_empty() && parent.finalizer {
            return Some("a value stays reserved".into());
        }
        if parent.deleting {
            let nothing_held = children().all(|child| child.granted == NONE);
            return (parent.finalizer && nothing_held).then(|| "the parent does not go".into());
        }
        for child in children().filter(|child| child.granted == NONE && child.wanted) {
            let free = if child.request == NONE {
                (1..=self.setup.values).any(|value| !held(value))
            } else {
                !held(child.request)
            };
            let awaited = |value: u8| children().any(|other| other.granted == NONE && other.request == value);
            let really =
                child.request != NONE || (1..=self.setup.values).any(|value| !held(value) && !awaited(value));
            if free && really {
                return Some("a child that could have a value has none".into());
            }
        }
        if children().any(|child| child.granted != NONE && !child.wanted && self.setup.keyed) {
            return Some("a value that is not wanted stays granted".into());
        }
        None
    }
}

impl ChildObject {
    fn touch(&mut self, next: &mut u8) {
        self.rv = *next;
        *next += 1;
    }
}

impl ParentObject {
    fn new(uid: u8) -> Self {
        ParentObject {
            uid,
            namesake: false,
            rv: 1,
            finalizer: false,
            deleting: false,
            last: NONE,
            reserved: Vec::new(),
        }
    }
}

impl World {
    /// The parent of that uid, whether it counts or not.
    fn parent_of(&mut self, uid: u8) -> Option<&mut ParentObject> {
        self.parent.iter_mut().chain(&mut self.eclipsed).find(|parent| parent.uid == uid)
    }

    /// Every mention of a child outside of the child itself.
    fn each_ref(&mut self, child: u8, visit: &mut dyn FnMut(&mut u8, &mut u8)) {
        fn refs(list: &mut [(u8, Ref)], child: u8, visit: &mut dyn FnMut(&mut u8, &mut u8)) {
            for (_, reference) in list.iter_mut().filter(|(_, reference)| reference.child == child) {
                visit(&mut reference.uid, &mut reference.rv);
            }
        }
        fn put(put: &mut Put, child: u8, visit: &mut dyn FnMut(&mut u8, &mut u8)) {
            match put {
                Put::Fence(reference) | Put::Grant(reference, _) | Put::Free(reference)
                    if reference.child == child =>
                {
                    visit(&mut reference.uid, &mut reference.rv);
                }
                Put::Parent { reserved, .. } => refs(reserved, child, visit),
                _ => {}
            }
        }
        fn list(children: &mut [Option<ChildObject>], child: u8, visit: &mut dyn FnMut(&mut u8, &mut u8)) {
            if let Some(object) = &mut children[child as usize] {
                visit(&mut object.uid, &mut object.rv);
            }
        }
        for parent in self.parent.iter_mut().chain(&mut self.eclipsed) {
            refs(&mut parent.reserved, child, visit);
        }
        for operator in &mut self.operators {
            match operator {
                Operator::Idle => {}
                Operator::Got(parent) => refs(&mut parent.reserved, child, visit),
                Operator::Listed(children) => list(children, child, visit),
                Operator::Planned(_, puts) | Operator::Working(puts) => {
                    puts.iter_mut().for_each(|known| put(known, child, visit));
                }
            }
        }
        if let Some(late) = &mut self.late {
            put(late, child, visit);
        }
        if let Some(cache) = &mut self.cache {
            list(cache, child, visit);
        }
    }

    fn each_parent_ref(&mut self, visit: &mut dyn FnMut(&mut u8, &mut u8)) {
        let mut put = |put: &mut Put| match put {
            Put::FinalizerOn { uid, rv } | Put::FinalizerOff { uid, rv } | Put::Parent { uid, rv, .. } => {
                visit(uid, rv);
            }
            Put::Fence(_) | Put::Grant(..) | Put::Free(_) => {}
        };
        for operator in &mut self.operators {
            if let Operator::Planned(_, puts) | Operator::Working(puts) = operator {
                puts.iter_mut().for_each(&mut put);
            }
        }
        if let Some(late) = &mut self.late {
            put(late);
        }
        for operator in &mut self.operators {
            match operator {
                Operator::Got(parent) => visit(&mut parent.uid, &mut parent.rv),
                Operator::Planned(uid, _) => visit(uid, &mut 0),
                Operator::Idle | Operator::Listed(_) | Operator::Working(_) => {}
            }
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Step = Step;

    fn initial(&self) -> World {
        let count = self.setup.children;
        self.normal(World {
            // One that a namesake comes to has been in force for long.
            parent: Some(ParentObject { finalizer: self.setup.namesakes, ..ParentObject::new(1) }),
            eclipsed: None,
            next_parent: 2,
            children: vec![None; count],
            next: vec![1; count],
            operators: [Operator::Idle, Operator::Idle],
            late: None,
            cache: None,
            wrong: None,
        })
    }

    fn steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        self.users(world, out);
        for index in 0..2 {
            self.operator(world, index, out);
        }
        if let Some(put) = &world.late {
            let mut next = World { late: None, ..world.clone() };
            out.push((Step::LateWriteLost, next.clone()));
            if self.call(&mut next, put) {
                out.push((Step::LateWrite(put.clone()), next));
            }
        }
        if !self.setup.fresh_list && world.cache.is_none() {
            out.push((Step::Cache, World { cache: Some(world.children.clone()), ..world.clone() }));
        }
        let normal: Vec<(Step, World)> =
            out.drain(..).map(|(step, next)| (step, self.normal(next))).collect();
        out.extend(normal);
    }

    fn wrong(&self, world: &World) -> Option<String> {
        if let Some(wrong) = world.wrong {
            return Some(wrong.into());
        }
        let mut seen = HashSet::new();
        let twice =
            world.children.iter().flatten().any(|child| child.granted != NONE && !seen.insert(child.granted));
        twice.then(|| "one value has two holders".into())
    }

    fn wrong_in_the_end(&mut self, world: &World) -> Option<String> {
        let key = (world.parent.clone(), world.eclipsed.clone(), world.children.clone());
        if !self.setup.ends || !self.ends_well.insert(key) {
            return None;
        }
        self.run_to_the_end(world)
    }
}
