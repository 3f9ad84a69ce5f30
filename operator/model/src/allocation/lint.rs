//! A linter over plans: what must hold for every plan, whatever made it.
//!
//! It recomputes from the inputs and shares no code with the plan. Operators run it before they execute a plan and
//! refuse one that violates anything; the tests run it after every step.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{BATCH, Child, Counter, Parent, Plan, Reservation, Write};
use crate::id::{ResourceVersion, Uid};

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The parent is written at another version than the one read.
    #[error("the parent is written at version {0}, which is not the one that was read")]
    ParentVersion(String),
    /// A child is written that was not listed, or at another version.
    #[error("{0} is written at a version that was not listed")]
    ChildVersion(String),
    /// Something is reserved or granted before the finalizer is on.
    #[error("values are handed out while the parent has no finalizer")]
    NoFinalizer,
    /// Something new is reserved while the parent goes.
    #[error("{0} {1} is reserved while the parent is being deleted")]
    ReservedWhileDeleting(Counter, u32),
    /// A value would have two holders.
    #[error("{0} {1} would have two holders")]
    TwoHolders(Counter, u32),
    /// A value is granted without a reservation for that version.
    #[error("{0} {1} is granted without a reservation for that version of its owner")]
    GrantWithoutReservation(Counter, u32),
    /// A grant would be changed.
    #[error("a granted {0} would be replaced by {1}")]
    GrantChanged(Counter, u32),
    /// A value is granted that is not the one requested.
    #[error("{0} {1} is granted, but another one was requested")]
    NotTheRequest(Counter, u32),
    /// A value outside of its range is reserved.
    #[error("{0} {1} is out of range")]
    OutOfRange(Counter, u32),
    /// A live reservation is dropped or changed.
    #[error("the live reservation of {0} {1} is dropped")]
    LiveDropped(Counter, u32),
    /// A reservation that is dead stays in a list that is written anyway.
    #[error("the dead reservation of {0} {1} is kept")]
    DeadKept(Counter, u32),
    /// The list is longer than api.md allows.
    #[error("{0} reservations are written; at most 256 are allowed")]
    TooMany(usize),
    /// A counter moves in a write that reserves nothing drawn.
    #[error("the counter of {0} moves without a value drawn")]
    CounterMoved(Counter),
    /// A value is freed that is wanted, or that was not granted.
    #[error("{0} {1} is freed, but wanted or not granted")]
    FreedWrongly(Counter, u32),
    /// The finalizer goes while values are held.
    #[error("the finalizer goes while values are held, or while the parent stays")]
    FinalizerTooEarly,
    /// A child is written before the parent, or twice.
    #[error("writes are out of order, or one object is written twice")]
    Order,
}

/// Everything that is wrong with a plan; empty for a good one.
pub fn lint(parent: &Parent, children: &[Child], plan: &Plan) -> Vec<Violation> {
    let granted = children
        .iter()
        .flat_map(|child| &child.slots)
        .filter_map(|slot| Some((slot.counter, slot.granted?)))
        .collect();
    let by_uid = children.iter().map(|child| (&child.object.uid, child)).collect();
    let mut check = Check { parent, children, granted, by_uid, found: Vec::new() };
    check.run(plan);
    check.found
}

struct Check<'a> {
    parent: &'a Parent,
    children: &'a [Child],
    granted: HashSet<(Counter, u32)>,
    by_uid: HashMap<&'a Uid, &'a Child>,
    found: Vec<Violation>,
}

impl<'a> Check<'a> {
    fn run(&mut self, plan: &Plan) {
        let mut reserved: Vec<Reservation> = self.parent.reservations.clone();
        let mut written: HashSet<&Uid> = HashSet::new();
        let (mut children_begun, mut parent_written) = (false, false);
        for write in &plan.writes {
            match write {
                Write::Fence { object, .. } => {
                    self.child_version(&object.uid, &object.resource_version, &object.to_string());
                    if children_begun || parent_written || !written.insert(&object.uid) {
                        self.found.push(Violation::Order);
                    }
                }
                Write::FinalizerOn { at } => {
                    self.parent_version(at);
                    parent_written = true;
                }
                Write::Parent(write) => {
                    self.parent_version(&write.at);
                    if parent_written || children_begun {
                        self.found.push(Violation::Order);
                    }
                    parent_written = true;
                    self.reservations(&write.reservations, &write.counters.keys().copied().collect());
                    reserved.clone_from(&write.reservations);
                }
                Write::Child(write) => {
                    children_begun = true;
                    if !written.insert(&write.object.uid) {
                        self.found.push(Violation::Order);
                    }
                    self.child_write(write, &reserved);
                }
                Write::FinalizerOff { at } => {
                    self.parent_version(at);
                    let held = self.children.iter().any(|child| {
                        self.own_slots(child).any(|slot| slot.granted.is_some())
                            || self.parent.reservations.iter().any(|known| self.is_live(known))
                    });
                    if held || !self.parent.deleting || parent_written {
                        self.found.push(Violation::FinalizerTooEarly);
                    }
                }
            }
        }
        if let Some(flush) = &plan.flush {
            self.parent_version(&flush.at);
            self.reservations(&flush.reservations, &flush.counters.keys().copied().collect());
            if flush.reservations.len() >= self.parent.reservations.len() {
                self.found.push(Violation::Order);
            }
        }
        let hands_out = plan.writes.iter().any(|write| matches!(write, Write::Parent(_) | Write::Child(_)));
        if hands_out && !self.parent.finalizer {
            self.found.push(Violation::NoFinalizer);
        }
    }

    fn own_slots<'c>(&self, child: &'c Child) -> impl Iterator<Item = &'c super::Slot> {
        child.slots.iter().filter(|slot| self.parent.counters.contains_key(&slot.counter))
    }

    fn child(&self, uid: &Uid) -> Option<&'a Child> {
        self.by_uid.get(uid).copied()
    }

    fn parent_version(&mut self, at: &ResourceVersion) {
        if *at != self.parent.resource_version {
            self.found.push(Violation::ParentVersion(at.to_string()));
        }
    }

    fn child_version(&mut self, uid: &Uid, version: &ResourceVersion, name: &str) {
        if self.child(uid).is_none_or(|child| child.object.resource_version != *version) {
            self.found.push(Violation::ChildVersion(name.to_owned()));
        }
    }

    fn is_live(&self, reservation: &Reservation) -> bool {
        let executable = |child: &Child| {
            let open = child
                .slots
                .iter()
                .find(|slot| slot.counter == reservation.counter && slot.subkey == reservation.subkey)
                .is_none_or(|slot| slot.granted.is_none());
            open && !self.granted_elsewhere(reservation.counter, reservation.value)
        };
        self.parent.counters.contains_key(&reservation.counter)
            && self
                .child(&reservation.owner.uid)
                .is_some_and(|child| child.object.is_same_version(&reservation.owner) && executable(child))
    }

    fn granted_elsewhere(&self, counter: Counter, value: u32) -> bool {
        self.granted.contains(&(counter, value))
    }

    fn reservations(&mut self, list: &[Reservation], moved: &BTreeSet<Counter>) {
        if list.len() > BATCH {
            self.found.push(Violation::TooMany(list.len()));
        }
        let mut holders: HashSet<(Counter, u32)> = self.granted.clone();
        let mut drawn: BTreeSet<Counter> = BTreeSet::new();
        for reservation in list {
            let Reservation { counter, value, .. } = reservation;
            if !holders.insert((*counter, *value)) {
                self.found.push(Violation::TwoHolders(*counter, *value));
            }
            if self.parent.reservations.contains(reservation) {
                if !self.is_live(reservation) {
                    self.found.push(Violation::DeadKept(*counter, *value));
                }
                continue;
            }
            if self.parent.deleting {
                self.found.push(Violation::ReservedWhileDeleting(*counter, *value));
            }
            if !self.parent.counters.get(counter).is_some_and(|state| state.range.contains(value)) {
                self.found.push(Violation::OutOfRange(*counter, *value));
            }
            let owner = &reservation.owner;
            self.child_version(&owner.uid, &owner.resource_version, &owner.to_string());
            let slot = self.child(&owner.uid).and_then(|child| {
                child.slots.iter().find(|slot| slot.counter == *counter && slot.subkey == reservation.subkey)
            });
            match slot.and_then(|slot| slot.request.as_ref()) {
                Some(request) if request.value != *value => {
                    self.found.push(Violation::NotTheRequest(*counter, *value));
                }
                Some(_) => {}
                None => {
                    drawn.insert(*counter);
                }
            }
        }
        for counter in moved.difference(&drawn) {
            self.found.push(Violation::CounterMoved(*counter));
        }
        let parent = self.parent;
        for reservation in &parent.reservations {
            if self.is_live(reservation) && !list.contains(reservation) {
                self.found.push(Violation::LiveDropped(reservation.counter, reservation.value));
            }
        }
    }

    fn child_write(&mut self, write: &super::ChildWrite, reserved: &[Reservation]) {
        self.child_version(&write.object.uid, &write.object.resource_version, &write.object.to_string());
        let Some(child) = self.child(&write.object.uid) else { return };
        for value in &write.grant {
            let permitted = reserved.iter().any(|reservation| {
                reservation.owner.is_same_version(&write.object)
                    && (reservation.counter, reservation.value, &reservation.subkey)
                        == (value.counter, value.value, &value.subkey)
            });
            if !permitted {
                self.found.push(Violation::GrantWithoutReservation(value.counter, value.value));
            }
            let slot =
                child.slots.iter().find(|slot| slot.counter == value.counter && slot.subkey == value.subkey);
            if slot.is_some_and(|slot| slot.granted.is_some()) {
                self.found.push(Violation::GrantChanged(value.counter, value.value));
            }
            if self.granted_elsewhere(value.counter, value.value) {
                self.found.push(Violation::TwoHolders(value.counter, value.value));
            }
        }
        for value in &write.free {
            let right = child.slots.iter().any(|slot| {
                slot.counter == value.counter
                    && slot.subkey == value.subkey
                    && slot.granted == Some(value.value)
                    && !slot.wanted
            });
            if !right {
                self.found.push(Violation::FreedWrongly(value.counter, value.value));
            }
        }
    }
}
