//! When who is asked, and what becomes of the answers: values in, values out, no runtime.
//!
//! Guarantees: a target has at most one probe of its present definition under way; a result counts only for the
//! definition that it was asked by; of a removed target no verdict is left; every change costs in proportion to itself.
//!
//! A new target is asked at once, because a backend waits for its first verdict. What was added together would then be
//! asked together for ever, so the second probe comes at a random point of the interval, and every later one with a
//! tenth of the interval as jitter, as proxies do it.

mod groups;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, AbortRegistration};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

pub use self::groups::Limits;
use self::groups::{GroupId, Groups, Tick};
use crate::check::Check;
use crate::state::{Health, Outcome, State};
use crate::target::{Place, Target};
use crate::verdict::{Failure, Verdict};

/// Jitter, as a part of the interval.
const JITTER: Tick = 10;

/// Longest interval; one beyond it counts as this.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a checker is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Targets.
    pub targets: usize,
    /// Of these, targets of which nothing is known yet.
    pub unknown: usize,
    /// Groups.
    pub groups: usize,
    /// Probes under way.
    pub under_way: u32,
    /// Targets that are due and wait for the budget of their group or of all.
    pub waiting: usize,
    /// How long the one of them has waited that has waited longest.
    pub late: Duration,
    /// Probes that have ended, since the beginning.
    pub probes: u64,
    /// Of these, probes that could not be made for a reason of this node: its verdicts are getting old.
    pub not_made: u64,
    /// The last such reason.
    pub trouble: Option<Box<str>>,
}

/// A probe to make.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) ticket: Ticket,
    pub(crate) place: Place,
    pub(crate) check: Arc<Check>,
    /// Ends the probe when nobody wants its result any more.
    pub(crate) abort: AbortRegistration,
}

/// Which probe a result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    slot: u32,
    definition: u64,
    group: GroupId,
}

#[derive(Debug)]
struct Slot<K> {
    key: K,
    /// Of all definitions of all targets, so that a slot that is used again is not taken for its former holder.
    definition: u64,
    group: GroupId,
    phase: Phase,
    state: State,
    place: Place,
    check: Arc<Check>,
}

#[derive(Debug)]
enum Phase {
    Sleeping(Tick),
    Ready(Tick),
    UnderWay(AbortHandle),
}

/// Targets, their states, and what is next.
#[derive(Debug)]
pub(crate) struct Schedule<K, G> {
    began: Instant,
    slots: Vec<Option<Slot<K>>>,
    free: Vec<u32>,
    by_key: HashMap<K, u32>,
    sleeping: BTreeSet<(Tick, u32)>,
    groups: Groups<G>,
    verdicts: BTreeMap<K, Verdict<K>>,
    definitions: u64,
    unknown: usize,
    probes: u64,
    not_made: u64,
    trouble: Option<Box<str>>,
    random: SmallRng,
}

impl<K, G> Schedule<K, G>
where
    K: Copy + Ord + Hash + Debug,
    G: Clone + Eq + Hash,
{
    pub(crate) fn new(limits: Limits, seed: Option<u64>, now: Instant) -> Self {
        Self {
            began: now,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            sleeping: BTreeSet::new(),
            groups: Groups::new(limits),
            verdicts: BTreeMap::new(),
            definitions: 0,
            unknown: 0,
            probes: 0,
            not_made: 0,
            trouble: None,
            random: seed.map_or_else(SmallRng::from_os_rng, SmallRng::seed_from_u64),
        }
    }

    /// These targets and no others.
    pub(crate) fn set(&mut self, targets: impl IntoIterator<Item = (K, Target<G>)>, now: Instant) {
        let mut named = HashSet::new();
        for (key, target) in targets {
            named.insert(key);
            self.upsert(key, target, now);
        }
        let gone: Vec<K> = self.by_key.keys().filter(|key| !named.contains(*key)).copied().collect();
        for key in gone {
            self.remove(key);
        }
    }

    /// This target. An equal one is left alone; one that asks the same of the same place keeps its state.
    pub(crate) fn upsert(&mut self, key: K, target: Target<G>, now: Instant) {
        let now = self.tick(now);
        let Some(id) = self.by_key.get(&key).copied() else { return self.insert(key, target, now) };
        let Some(slot) = &self.slots[id as usize] else { return };
        let former = Target { group: (), place: slot.place.clone(), check: Arc::clone(&slot.check) };
        let stays_in_group = self.groups.is(slot.group, &target.group);
        let present = Target { group: (), place: target.place, check: target.check };
        if former == present && stays_in_group {
            return;
        }
        let due = self.unplace(id);
        let group = if stays_in_group { slot_group(&self.slots, id) } else { self.groups.join(target.group) };
        let same_question = former.asks_the_same(&present);
        let definition = self.definitions + 1;
        let health = self.slots[id as usize].as_ref().map_or(Health::Unknown, |slot| slot.state.health());
        let next = self.delay_after(&present.check, health, false);
        let Some(slot) = &mut self.slots[id as usize] else { return };
        let left = std::mem::replace(&mut slot.group, group);
        slot.place = present.place;
        slot.check = present.check;
        let due = if same_question {
            // A shorter interval holds from now on, a longer one from the next probe on.
            due.map(|due| due.min(now + next))
        } else {
            if let Phase::UnderWay(probe) = &slot.phase {
                probe.abort();
            }
            slot.definition = definition;
            self.definitions = definition;
            if std::mem::take(&mut slot.state).health() != Health::Unknown {
                self.unknown += 1;
            }
            self.verdicts.remove(&key);
            Some(now)
        };
        if let Some(due) = due {
            slot.phase = Phase::Sleeping(due);
            self.sleeping.insert((due, id));
        }
        if left != group {
            self.groups.leave(left);
        }
    }

    /// No such target: whatever is known of it or comes in of it is dropped.
    pub(crate) fn remove(&mut self, key: K) {
        let Some(id) = self.by_key.remove(&key) else { return };
        self.unplace(id);
        self.verdicts.remove(&key);
        let Some(slot) = self.slots[id as usize].take() else { return };
        if let Phase::UnderWay(probe) = slot.phase {
            probe.abort();
        }
        if slot.state.health() == Health::Unknown {
            self.unknown -= 1;
        }
        self.groups.leave(slot.group);
        self.free.push(id);
    }

    /// The target is due now, if no probe of it is under way.
    pub(crate) fn hurry(&mut self, key: K, now: Instant) {
        let now = self.tick(now);
        let Some(id) = self.by_key.get(&key).copied() else { return };
        let slot = self.slots[id as usize].as_ref();
        if slot.is_some_and(|slot| matches!(slot.phase, Phase::Sleeping(due) if due > now)) {
            self.unplace(id);
            self.sleep(id, now);
        }
    }

    /// The probes that begin now. Those that are due and do not begin wait for one to end.
    pub(crate) fn begin(&mut self, now: Instant, starts: &mut Vec<Start>) {
        let now = self.tick(now);
        while let Some((due, id)) = self.sleeping.first().copied().filter(|(due, _)| *due <= now) {
            self.sleeping.pop_first();
            let Some(slot) = &mut self.slots[id as usize] else { continue };
            slot.phase = Phase::Ready(due);
            let group = slot.group;
            if self.groups.begin_at_once(group) {
                starts.extend(self.start(id, group));
            } else {
                self.groups.add_ready(group, due, id);
            }
        }
        while let Some((group, id)) = self.groups.begin() {
            starts.extend(self.start(id, group));
        }
    }

    /// When something is due that is not due yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.sleeping.first().map(|(due, _)| self.began + Duration::from_millis(*due))
    }

    /// A probe has ended; `None` of one that was aborted.
    pub(crate) fn end(&mut self, ticket: Ticket, result: Option<Result<(), Failure>>, now: Instant) {
        self.groups.end(ticket.group);
        let Some(result) = result else { return };
        self.probes += 1;
        let outcome = result.as_ref().map_or_else(Failure::outcome, |()| Outcome::Good);
        let reason = result.err().map(Failure::into_reason).unwrap_or_default();
        if outcome == Outcome::NotMade {
            self.not_made += 1;
            self.trouble = Some(reason.clone());
        }
        let Some(Some(slot)) = self.slots.get_mut(ticket.slot as usize) else { return };
        if slot.definition != ticket.definition {
            return;
        }
        let was = slot.state.health();
        slot.state = slot.state.after(outcome, slot.check.as_ref().into());
        let (key, health, check) = (slot.key, slot.state.health(), Arc::clone(&slot.check));
        if was != health {
            let healthy = health == Health::Healthy;
            self.verdicts.insert(key, Verdict { key, healthy, since: now, reason });
            self.unknown -= usize::from(was == Health::Unknown);
        }
        let first = was == Health::Unknown && health != Health::Unknown;
        let delay = self.delay_after(&check, health, first);
        self.sleep(ticket.slot, self.tick(now) + delay);
    }

    /// The verdicts that nobody has taken yet, the last of each target.
    pub(crate) fn take_verdicts(&mut self) -> Vec<Verdict<K>> {
        std::mem::take(&mut self.verdicts).into_values().collect()
    }

    pub(crate) fn has_verdicts(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// What is known of a target; `None` without such a target.
    pub(crate) fn health(&self, key: K) -> Option<Health> {
        let slot = self.slots.get(*self.by_key.get(&key)? as usize)?.as_ref()?;
        Some(slot.state.health())
    }

    pub(crate) fn stats(&self, now: Instant) -> Stats {
        let (groups, under_way, waiting) = self.groups.counts();
        let now = self.tick(now);
        let late = self.groups.earliest_ready().map_or(0, |due| now.saturating_sub(due));
        Stats {
            targets: self.by_key.len(),
            unknown: self.unknown,
            groups,
            under_way,
            waiting,
            late: Duration::from_millis(late),
            probes: self.probes,
            not_made: self.not_made,
            trouble: self.trouble.clone(),
        }
    }

    fn insert(&mut self, key: K, target: Target<G>, now: Tick) {
        self.definitions += 1;
        let slot = Slot {
            key,
            definition: self.definitions,
            group: self.groups.join(target.group),
            phase: Phase::Sleeping(now),
            state: State::default(),
            place: target.place,
            check: target.check,
        };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(slot);
            id
        } else {
            self.slots.push(Some(slot));
            (self.slots.len() - 1) as u32
        };
        self.by_key.insert(key, id);
        self.unknown += 1;
        self.sleeping.insert((now, id));
    }

    /// Takes the target out of the queue that it is in; when it is due, if no probe is under way.
    fn unplace(&mut self, id: u32) -> Option<Tick> {
        let slot = self.slots[id as usize].as_ref()?;
        match slot.phase {
            Phase::Sleeping(due) => {
                self.sleeping.remove(&(due, id));
                Some(due)
            }
            Phase::Ready(due) => {
                self.groups.remove_ready(slot.group, due, id);
                Some(due)
            }
            Phase::UnderWay(_) => None,
        }
    }

    fn sleep(&mut self, id: u32, due: Tick) {
        if let Some(slot) = &mut self.slots[id as usize] {
            slot.phase = Phase::Sleeping(due);
            self.sleeping.insert((due, id));
        }
    }

    fn start(&mut self, id: u32, group: GroupId) -> Option<Start> {
        let slot = self.slots[id as usize].as_mut()?;
        let (handle, abort) = AbortHandle::new_pair();
        slot.phase = Phase::UnderWay(handle);
        let ticket = Ticket { slot: id, definition: slot.definition, group };
        Some(Start { ticket, place: slot.place.clone(), check: Arc::clone(&slot.check), abort })
    }

    /// From a result to the next probe.
    fn delay_after(&mut self, check: &Check, health: Health, first: bool) -> Tick {
        let interval = match check.unhealthy_interval {
            Some(interval) if health == Health::Unhealthy => interval,
            _ => check.interval,
        };
        let interval = interval.clamp(Duration::from_millis(1), LONGEST).as_millis() as Tick;
        let jitter = interval / JITTER;
        if first {
            self.random.random_range(jitter.max(1)..=interval)
        } else {
            interval + self.random.random_range(0..=jitter)
        }
    }

    fn tick(&self, now: Instant) -> Tick {
        now.saturating_duration_since(self.began).as_millis() as Tick
    }
}

fn slot_group<K>(slots: &[Option<Slot<K>>], id: u32) -> GroupId {
    slots[id as usize].as_ref().map_or(0, |slot| slot.group)
}
