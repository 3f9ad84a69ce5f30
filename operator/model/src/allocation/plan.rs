//! The plan for the IDs of one parent: pure, from one GET and one LIST.
//!
//! Source of the rules: design §4; what each of them prevents is shown by the model checker in the tests, which runs
//! this very function with the rule switched off.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    BATCH, Child, ChildWrite, Counter, Duplicate, Parent, ParentWrite, Plan, Reason, Refusal, Reservation,
    SHARE, Slot, Value, Write, next_id,
};
use crate::id::{Namespace, ObjectVersion, Uid};

/// The rules that the plan follows. Always all of them; the model checker switches them off one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Values are reserved in the parent before a child gets them.
    pub reserve: bool,
    /// A live reservation of one's own is adopted, never replaced.
    pub adopt: bool,
    /// A reservation is good for one version of its owner, not for the owner.
    pub tag: bool,
    /// Dead reservations are dropped even if nothing is to be reserved.
    pub flush: bool,
    /// A live reservation whose need is gone is finished and then freed.
    pub finish: bool,
    /// Children are fenced before the finalizer goes on.
    pub fence: bool,
    /// The finalizer goes on before the first reservation.
    pub finalizer: bool,
    /// Live reservations are kept until their write is done.
    pub keep_live: bool,
    /// Nothing new is reserved while the parent goes.
    pub refuse_when_deleting: bool,
}

impl Rules {
    pub(super) const ALL: Rules = Rules {
        reserve: true,
        adopt: true,
        tag: true,
        flush: true,
        finish: true,
        fence: true,
        finalizer: true,
        keep_live: true,
        refuse_when_deleting: true,
    };
}

/// What to do for the IDs of one parent.
///
/// `children` are all objects that may hold or need values of the parent's counters, from one consistent list made
/// after `parent` was read. What a plan may rely on and what must be done with it: module documentation.
///
/// Cost: the sort of the children, plus one step of a tree for every value.
pub fn plan(parent: &Parent, children: &[Child]) -> Plan {
    plan_with(parent, children, Rules::ALL)
}

pub(super) fn plan_with(parent: &Parent, children: &[Child], rules: Rules) -> Plan {
    let mut view = View::new(parent, children, rules);
    view.report_duplicates();
    if !parent.finalizer && rules.finalizer {
        if parent.deleting {
            view.refuse_all_open();
        } else if view.is_needed() {
            view.take_parent();
        }
        return view.plan;
    }
    view.serve_children();
    view.close()
}

/// Who has a value.
struct Holder<'a> {
    object: &'a ObjectVersion,
}

/// The inputs, indexed, and the plan as it grows.
struct View<'a> {
    parent: &'a Parent,
    rules: Rules,
    /// Oldest first, so that two equal requests have one answer.
    children: Vec<&'a Child>,
    /// Live reservations by owner; what is in `parent.reservations` and not here is dead.
    live: HashMap<&'a Uid, Vec<&'a Reservation>>,
    live_count: usize,
    /// How many reservations each namespace has, live and new, of counters with subkeys.
    shares: HashMap<&'a Namespace, usize>,
    /// Values that are granted or reserved, and new ones of this plan.
    taken: BTreeMap<Counter, BTreeSet<u32>>,
    holders: HashMap<(Counter, u32), Holder<'a>>,
    /// How many open slots ask for a value.
    requested: BTreeMap<Counter, BTreeMap<u32, usize>>,
    /// The counters as they are after this plan.
    last: BTreeMap<Counter, u32>,
    moved: BTreeSet<Counter>,
    new: Vec<Reservation>,
    child_writes: Vec<ChildWrite>,
    plan: Plan,
}

impl<'a> View<'a> {
    fn new(parent: &'a Parent, children: &'a [Child], rules: Rules) -> Self {
        let mut ordered: Vec<&Child> = children.iter().collect();
        ordered.sort_by(|a, b| {
            let key = |child: &'a Child| {
                (child.created, &child.object.namespace, &child.object.name, &child.object.uid)
            };
            key(a).cmp(&key(b))
        });
        let mut view = View {
            parent,
            rules,
            children: ordered,
            live: HashMap::new(),
            live_count: 0,
            shares: HashMap::new(),
            taken: parent.counters.keys().map(|counter| (*counter, BTreeSet::new())).collect(),
            holders: HashMap::new(),
            requested: BTreeMap::new(),
            last: BTreeMap::new(),
            moved: BTreeSet::new(),
            new: Vec::new(),
            child_writes: Vec::new(),
            plan: Plan::default(),
        };
        view.index_grants();
        view.index_reservations(children);
        view
    }

    /// The slots of a child that this parent has counters for.
    fn slots(&self, child: &'a Child) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let parent = self.parent;
        child.slots.iter().filter(move |slot| parent.counters.contains_key(&slot.counter))
    }

    fn take(&mut self, counter: Counter, value: u32, object: &'a ObjectVersion) {
        self.taken.entry(counter).or_default().insert(value);
        self.holders.entry((counter, value)).or_insert(Holder { object });
    }

    fn index_grants(&mut self) {
        for child in self.children.clone() {
            for slot in self.slots(child) {
                if let Some(value) = slot.granted {
                    self.take(slot.counter, value, &child.object);
                } else if let (true, Some(request)) = (slot.wanted, &slot.request) {
                    *self.requested.entry(slot.counter).or_default().entry(request.value).or_default() += 1;
                }
            }
        }
        for (counter, state) in &self.parent.counters {
            // A counter that never moved, or a parent made anew: go on after the highest grant in the range.
            let rebuilt =
                || self.taken[counter].range(state.range.clone()).next_back().copied().unwrap_or_default();
            let last = if state.last == 0 { rebuilt() } else { state.last };
            self.last.insert(*counter, last);
        }
    }

    fn index_reservations(&mut self, children: &'a [Child]) {
        let by_uid: HashMap<&Uid, &Child> = children.iter().map(|child| (&child.object.uid, child)).collect();
        for reservation in &self.parent.reservations {
            let owner = by_uid.get(&reservation.owner.uid).copied();
            let Some(child) = owner.filter(|child| self.is_live(reservation, child)) else { continue };
            let twice = self.live.get(&child.object.uid).is_some_and(|own| {
                own.iter()
                    .any(|known| (known.counter, &known.subkey) == (reservation.counter, &reservation.subkey))
            });
            if twice {
                continue;
            }
            self.live.entry(&child.object.uid).or_default().push(reservation);
            self.live_count += 1;
            if reservation.counter.has_subkeys() {
                *self.share(child) += 1;
            }
            self.take(reservation.counter, reservation.value, &child.object);
        }
    }

    fn share(&mut self, child: &'a Child) -> &mut usize {
        self.shares.entry(&child.object.namespace).or_default()
    }

    /// Live: the list shows its owner at the version it was made for. One that could overwrite a grant or make a
    /// value have two holders was put there by hand; nobody's plan executes it, so it is as good as dead.
    fn is_live(&self, reservation: &Reservation, child: &Child) -> bool {
        let Some(taken) = self.taken.get(&reservation.counter) else { return false };
        let slot = slot_of(child, reservation);
        let version = !self.rules.tag || reservation.owner.resource_version == child.object.resource_version;
        version && slot.is_none_or(|slot| slot.granted.is_none()) && !taken.contains(&reservation.value)
    }

    fn is_needed(&self) -> bool {
        self.children.iter().any(|child| {
            self.slots(child).any(|slot| slot.granted.is_some() || (slot.is_open() && !child.deleting))
        })
    }

    /// Fence, then finalizer: no write planned under a deleted predecessor can land any more, and this parent does
    /// not go while values of it are held.
    fn take_parent(&mut self) {
        let mark = format!("{}@{}", self.parent.uid, self.parent.resource_version);
        for child in self.children.iter().filter(|_| self.rules.fence) {
            // Values with subkeys come and go, so an old write may still want to add one to any such child.
            let complete = self.slots(child).next().is_some()
                && self.slots(child).all(|slot| slot.granted.is_some() && !slot.counter.has_subkeys());
            let keyed = self
                .parent
                .counters
                .keys()
                .any(|counter| counter.has_subkeys() && counter.owner_kind() == child.object.kind);
            if !complete || keyed {
                self.plan.writes.push(Write::Fence { object: child.object.clone(), mark: mark.clone() });
            }
        }
        self.plan.writes.push(Write::FinalizerOn { at: self.parent.resource_version.clone() });
        self.plan.more = true;
    }

    fn serve_children(&mut self) {
        for child in self.children.clone() {
            let own = self.live.get(&child.object.uid).cloned().unwrap_or_default();
            let grant = if !own.is_empty() && self.rules.adopt {
                self.adopt(child, &own)
            } else {
                self.reserve(child)
            };
            let free = self.unwanted(child);
            if !grant.is_empty() || !free.is_empty() {
                self.child_writes.push(ChildWrite { object: child.object.clone(), grant, free });
            }
        }
    }

    /// Finish what is reserved for the child at this version, wanted or not, and add nothing.
    fn adopt(&mut self, child: &'a Child, own: &[&'a Reservation]) -> Vec<Value> {
        let wanted = |reservation: &Reservation| slot_of(child, reservation).is_some_and(|slot| slot.wanted);
        let own: Vec<&&Reservation> =
            own.iter().filter(|reservation| self.rules.finish || wanted(reservation)).collect();
        let unreserved = self.slots(child).any(|slot| {
            slot.is_open()
                && !own.iter().any(|known| (known.counter, &known.subkey) == (slot.counter, &slot.subkey))
        });
        let to_free = own.iter().any(|reservation| reservation.counter.has_subkeys() && !wanted(reservation));
        // What is missing comes in the next round, at the next version.
        self.plan.more |= to_free || (unreserved && !self.parent.deleting && !child.deleting);
        own.into_iter().map(|reservation| value_of(reservation)).collect()
    }

    /// Reserve what the child lacks.
    fn reserve(&mut self, child: &'a Child) -> Vec<Value> {
        let mut open: Vec<&Slot> = self.slots(child).filter(|slot| slot.is_open()).collect();
        open.sort_by(|a, b| (a.counter, &a.subkey).cmp(&(b.counter, &b.subkey)));
        let mut values = Vec::new();
        for slot in open {
            if child.deleting {
                break;
            }
            if self.parent.deleting && self.rules.refuse_when_deleting {
                self.refuse(child, slot, Reason::ParentDeleting);
                continue;
            }
            if self.live_count + self.new.len() >= BATCH {
                self.plan.more = true;
                break;
            }
            if slot.counter.has_subkeys() && *self.share(child) >= SHARE {
                self.plan.more = true;
                continue;
            }
            match self.choose(child, slot) {
                Ok(value) => {
                    self.take(slot.counter, value, &child.object);
                    if slot.counter.has_subkeys() {
                        *self.share(child) += 1;
                    }
                    self.new.push(Reservation {
                        counter: slot.counter,
                        value,
                        owner: child.object.clone(),
                        subkey: slot.subkey.clone(),
                    });
                    values.push(Value { counter: slot.counter, subkey: slot.subkey.clone(), value });
                }
                Err(reason) => self.refuse(child, slot, reason),
            }
        }
        values
    }

    fn choose(&mut self, child: &'a Child, slot: &Slot) -> Result<u32, Reason> {
        let range = self.parent.counters[&slot.counter].range.clone();
        let taken = &self.taken[&slot.counter];
        if let Some(request) = &slot.request {
            if !range.contains(&request.value) || request.value == 0 {
                return Err(Reason::OutOfRange { range });
            }
            if taken.contains(&request.value) {
                let holder = self.holders.get(&(slot.counter, request.value));
                return Err(Reason::Taken {
                    holder: holder.map(|holder| holder.object.to_string()).unwrap_or_default(),
                });
            }
            if !request.programmed_by.is_empty() {
                return Err(Reason::StillProgrammed { nodes: request.programmed_by.clone() });
            }
            return Ok(request.value);
        }
        let requested = self.requested.get(&slot.counter);
        let is_free = |value: u32| {
            !taken.contains(&value) && !requested.is_some_and(|requested| requested.contains_key(&value))
        };
        // A value that was drawn for this slot before and did not get there: the counter need not move again.
        let drawn_before = self.parent.reservations.iter().find(|reservation| {
            reservation.counter == slot.counter
                && reservation.owner.uid == child.object.uid
                && reservation.subkey == slot.subkey
                && range.contains(&reservation.value)
                && is_free(reservation.value)
        });
        if let Some(reservation) = drawn_before {
            return Ok(reservation.value);
        }
        // Free values that others ask for are passed over; there are no more of them than requests.
        let attempts = requested.map_or(0, BTreeMap::len) + 1;
        let mut last = self.last[&slot.counter];
        let mut value = None;
        for _ in 0..attempts {
            match next_id(last, range.clone(), taken) {
                Some(candidate) if is_free(candidate) => {
                    value = Some(candidate);
                    break;
                }
                Some(candidate) => last = candidate,
                None => break,
            }
        }
        let total = || u64::from(range.end().saturating_sub(*range.start())) + 1;
        let value = value.ok_or_else(|| Reason::Exhausted { total: total() })?;
        self.last.insert(slot.counter, value);
        self.moved.insert(slot.counter);
        Ok(value)
    }

    /// Values that the child holds and no longer needs. Values without subkey go with their owner.
    fn unwanted(&self, child: &'a Child) -> Vec<Value> {
        self.slots(child)
            .filter(|slot| slot.counter.has_subkeys() && !slot.wanted)
            .filter_map(|slot| {
                let value = slot.granted?;
                Some(Value { counter: slot.counter, subkey: slot.subkey.clone(), value })
            })
            .collect()
    }

    /// Orders the writes: the parent before the children, the finalizer last.
    fn close(mut self) -> Plan {
        let at = self.parent.resource_version.clone();
        let kept: Vec<Reservation> =
            self.parent.reservations.iter().filter(|reservation| self.keeps(reservation)).cloned().collect();
        let drops = kept.len() < self.parent.reservations.len();
        let reserves = !self.new.is_empty();
        let counters = self.moved.iter().map(|counter| (*counter, self.last[counter])).collect();
        if reserves && self.rules.reserve {
            let reservations = kept.into_iter().chain(self.new).collect();
            self.plan.writes.push(Write::Parent(ParentWrite { at: at.clone(), reservations, counters }));
        } else if reserves {
            self.plan.writes.push(Write::Parent(ParentWrite {
                at: at.clone(),
                reservations: kept,
                counters,
            }));
        } else if drops && self.rules.flush {
            self.plan.flush =
                Some(ParentWrite { at: at.clone(), reservations: kept, counters: BTreeMap::new() });
        }
        self.plan.writes.extend(self.child_writes.into_iter().map(Write::Child));
        let granted = self
            .children
            .iter()
            .flat_map(|child| child.slots.iter())
            .any(|slot| slot.granted.is_some() && self.parent.counters.contains_key(&slot.counter));
        if self.parent.deleting && self.parent.finalizer && !granted && !reserves && self.live_count == 0 {
            // The reservations go with the object; a flush would only make the version move.
            self.plan.flush = None;
            self.plan.writes.push(Write::FinalizerOff { at });
        }
        self.plan
    }

    /// Only what is dead is dropped, by no other mark.
    fn keeps(&self, reservation: &Reservation) -> bool {
        let live = self
            .live
            .values()
            .any(|own| own.iter().any(|known| std::ptr::eq::<Reservation>(*known, reservation)));
        let replaced = !self.rules.adopt && self.new.iter().any(|new| new.owner.uid == reservation.owner.uid);
        live && self.rules.keep_live && !replaced
    }

    fn refuse(&mut self, child: &Child, slot: &Slot, reason: Reason) {
        self.plan.refusals.push(Refusal {
            object: child.object.clone(),
            counter: slot.counter,
            subkey: slot.subkey.clone(),
            requested: slot.request.as_ref().map(|request| request.value),
            reason,
        });
    }

    fn refuse_all_open(&mut self) {
        for child in self.children.clone() {
            for slot in self.slots(child).filter(|slot| slot.is_open() && !child.deleting) {
                self.refuse(child, slot, Reason::ParentDeleting);
            }
        }
    }

    fn report_duplicates(&mut self) {
        for child in self.children.clone() {
            let mut own = BTreeSet::new();
            for slot in self.slots(child) {
                let Some(value) = slot.granted else { continue };
                let Some(keeper) = self.holders.get(&(slot.counter, value)) else { continue };
                let again = !own.insert((slot.counter, value));
                if again || keeper.object.uid != child.object.uid {
                    self.plan.duplicates.push(Duplicate {
                        counter: slot.counter,
                        value,
                        keeper: keeper.object.clone(),
                        other: child.object.clone(),
                    });
                }
            }
        }
    }
}

fn slot_of<'c>(child: &'c Child, reservation: &Reservation) -> Option<&'c Slot> {
    child.slots.iter().find(|slot| slot.counter == reservation.counter && slot.subkey == reservation.subkey)
}

fn value_of(reservation: &Reservation) -> Value {
    Value { counter: reservation.counter, subkey: reservation.subkey.clone(), value: reservation.value }
}
