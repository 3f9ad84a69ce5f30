//! Whose turn it is: budgets and order of groups.
//!
//! Probes of silent targets last as long as their timeout, and a group with many of them asks for every place there is.
//! So a group has a budget; and since a few groups together could still hold all places, a share of them is reserved for
//! groups that have no probe under way. Of the groups that wait, those without any go first, each class in turn.
//!
//! Invariants: never more probes than `at_once` in all, nor more than `of_a_group` of one group; a group that has a
//! probe under way never takes a reserved place; a group is in a queue only while it waits and is within its budget.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// How many probes there are at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all. Each is a socket.
    pub at_once: u32,
    /// Of one group.
    pub of_a_group: u32,
    /// Of all: kept for groups that have none under way; at most half.
    pub reserved: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 1,000 silent targets at the default timings make 1,000 / (5 s + 2 s) * 2 s = 290 probes at once.
        Self { at_once: 1_024, of_a_group: 128, reserved: 256 }
    }
}

/// Place of a group in [`Groups`].
pub(super) type GroupId = u32;

/// Milliseconds since the schedule began.
pub(super) type Tick = u64;

#[derive(Debug)]
struct Group<G> {
    key: G,
    targets: u32,
    under_way: u32,
    /// What is due, the earliest first.
    ready: BTreeSet<(Tick, u32)>,
    queued: Option<(Class, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Nothing under way.
    First,
    /// More beside what is under way.
    More,
}

/// All groups that have targets or probes.
#[derive(Debug)]
pub(super) struct Groups<G> {
    limits: Limits,
    groups: Vec<Option<Group<G>>>,
    free: Vec<GroupId>,
    by_key: HashMap<G, GroupId>,
    queues: [BTreeSet<(u64, GroupId)>; 2],
    turns: u64,
    under_way: u32,
    ready: usize,
}

impl<G: Clone + Eq + Hash> Groups<G> {
    pub(super) fn new(limits: Limits) -> Self {
        let at_once = limits.at_once.max(1);
        let reserved = limits.reserved.min(at_once / 2);
        let limits = Limits { at_once, of_a_group: limits.of_a_group.max(1), reserved };
        Self {
            limits,
            groups: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            queues: Default::default(),
            turns: 0,
            under_way: 0,
            ready: 0,
        }
    }

    /// How many groups there are, probes under way, and targets that are due and wait.
    pub(super) fn counts(&self) -> (usize, u32, usize) {
        (self.by_key.len(), self.under_way, self.ready)
    }

    /// When that was due which waits longest.
    pub(super) fn earliest_ready(&self) -> Option<Tick> {
        self.groups.iter().flatten().filter_map(|group| group.ready.first()).map(|(due, _)| *due).min()
    }

    pub(super) fn is(&self, id: GroupId, key: &G) -> bool {
        self.group(id).is_some_and(|group| group.key == *key)
    }

    /// One more target of the group with this key.
    pub(super) fn join(&mut self, key: G) -> GroupId {
        if let Some(id) = self.by_key.get(&key).copied() {
            if let Some(group) = self.group_mut(id) {
                group.targets += 1;
            }
            return id;
        }
        let group =
            Group { key: key.clone(), targets: 1, under_way: 0, ready: BTreeSet::new(), queued: None };
        let id = if let Some(id) = self.free.pop() {
            self.groups[id as usize] = Some(group);
            id
        } else {
            self.groups.push(Some(group));
            (self.groups.len() - 1) as GroupId
        };
        self.by_key.insert(key, id);
        id
    }

    /// One target less.
    pub(super) fn leave(&mut self, id: GroupId) {
        if let Some(group) = self.group_mut(id) {
            group.targets -= 1;
        }
        self.forget_if_empty(id);
    }

    /// The target is due.
    pub(super) fn add_ready(&mut self, id: GroupId, due: Tick, slot: u32) {
        if self.group_mut(id).is_some_and(|group| group.ready.insert((due, slot))) {
            self.ready += 1;
            self.queue(id, false);
        }
    }

    /// The target is due no more.
    pub(super) fn remove_ready(&mut self, id: GroupId, due: Tick, slot: u32) {
        if self.group_mut(id).is_some_and(|group| group.ready.remove(&(due, slot))) {
            self.ready -= 1;
            self.queue(id, false);
        }
    }

    /// Begins a probe of a target that was not queued, if nobody waits for the place that it takes.
    pub(super) fn begin_at_once(&mut self, id: GroupId) -> bool {
        let waits = self.queues.iter().any(|queue| !queue.is_empty());
        let full = self.under_way >= self.limits.at_once - self.limits.reserved;
        let budget = self.limits.of_a_group;
        let Some(group) = self.group_mut(id) else { return false };
        if waits || full || group.under_way >= budget || !group.ready.is_empty() {
            return false;
        }
        group.under_way += 1;
        self.under_way += 1;
        true
    }

    /// Begins the probe whose turn it is: the group, and the target.
    pub(super) fn begin(&mut self) -> Option<(GroupId, u32)> {
        if self.under_way >= self.limits.at_once {
            return None;
        }
        let open = self.under_way < self.limits.at_once - self.limits.reserved;
        let id = match self.queues[Class::First as usize].first() {
            Some((_, id)) => *id,
            None if open => self.queues[Class::More as usize].first()?.1,
            None => return None,
        };
        let group = self.group_mut(id)?;
        let (_, slot) = group.ready.pop_first()?;
        group.under_way += 1;
        self.under_way += 1;
        self.ready -= 1;
        self.queue(id, true);
        Some((id, slot))
    }

    /// A probe of the group has ended.
    pub(super) fn end(&mut self, id: GroupId) {
        if let Some(group) = self.group_mut(id) {
            group.under_way -= 1;
            self.under_way -= 1;
            self.queue(id, false);
        }
        self.forget_if_empty(id);
    }

    fn group(&self, id: GroupId) -> Option<&Group<G>> {
        self.groups.get(id as usize)?.as_ref()
    }

    fn group_mut(&mut self, id: GroupId) -> Option<&mut Group<G>> {
        self.groups.get_mut(id as usize)?.as_mut()
    }

    /// Puts the group into the queue where it belongs: at its end if it had its turn, else where it stands.
    fn queue(&mut self, id: GroupId, had_its_turn: bool) {
        let budget = self.limits.of_a_group;
        let turn = self.turns;
        let Some(group) = self.group_mut(id) else { return };
        let class = match group.under_way {
            _ if group.ready.is_empty() => None,
            0 => Some(Class::First),
            under_way if under_way < budget => Some(Class::More),
            _ => None,
        };
        let was = group.queued;
        if was.map(|(class, _)| class) == class && !had_its_turn {
            return;
        }
        group.queued = class.map(|class| (class, turn));
        if let Some((class, turn)) = was {
            self.queues[class as usize].remove(&(turn, id));
        }
        if let Some(class) = class {
            self.queues[class as usize].insert((turn, id));
            self.turns += 1;
        }
    }

    fn forget_if_empty(&mut self, id: GroupId) {
        if self.group(id).is_some_and(|group| group.targets == 0 && group.under_way == 0)
            && let Some(group) = self.groups[id as usize].take()
        {
            self.by_key.remove(&group.key);
            self.free.push(id);
        }
    }
}
