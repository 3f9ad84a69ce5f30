//! Writing: map by map in the order of the layout, and entry by entry only once all its targets are there.
//!
//! Pointers count from the moment an entry is put into a batch until the maps hold another value of it; so of two
//! operations in one batch neither depends on the other, in whatever order they are carried out.

use super::Reconciler;
use super::intake::{LOST, lower_since};
use crate::graph::{Targets, flag};
use crate::lanes::{Direction, Lanes};
use crate::layout::Layout;
use crate::maps::{MapError, Maps, Op};
use crate::render::Render;
use crate::slab::Slot;

/// What an entry is known to hold.
pub(super) struct HeldValue {
    pub(super) digest: u64,
    pub(super) identity: u32,
    pub(super) targets: Targets,
}

struct Flight {
    slot: Slot,
    /// What it holds afterwards; `None`: nothing.
    held: Option<HeldValue>,
}

/// Operations on one map in one direction.
pub(super) struct Batch<L: Layout> {
    ops: Vec<Op<L>>,
    flights: Vec<Flight>,
}

impl<L: Layout> Batch<L> {
    pub(super) fn new() -> Self {
        Self { ops: Vec::new(), flights: Vec::new() }
    }
}

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Writes what is in the lists, small changes or the rest.
    pub(super) fn write_lane(&mut self, urgent: bool, budget: &mut usize) {
        self.urgent = urgent;
        for map in 0..L::MAPS.len() {
            self.work_off(Direction::Write, map, budget);
        }
        self.urgent = false;
    }

    /// Carries out a list, batch by batch.
    pub(super) fn work_off(&mut self, direction: Direction, map: usize, budget: &mut usize) {
        let bit = Lanes::bit(direction, self.urgent);
        let mut batch = Batch::new();
        loop {
            let next = if *budget > 0 { self.lanes.pop(direction, self.urgent, map) } else { None };
            if let Some(slot) = next {
                let Some(entry) = self.graph.entries.find(slot) else { continue };
                // A slot may be another's since it was put into the list.
                if !entry.is(bit) || L::map(&entry.key) != map {
                    continue;
                }
                *budget -= 1;
                self.graph.entry_mut(slot).set(bit, false);
                match direction {
                    _ if self.graph.entry(slot).is(flag::FLYING) => {}
                    Direction::Write => self.stage_write(slot, &mut batch),
                    Direction::Remove => self.stage_removal(slot, &mut batch),
                }
            }
            if batch.ops.len() >= self.settings.batch.max(1) || (next.is_none() && !batch.ops.is_empty()) {
                self.apply(map, &mut batch);
            } else if next.is_none() {
                break;
            }
        }
    }

    /// Puts the write of an entry into the batch, unless it is not needed, or has to wait.
    fn stage_write(&mut self, slot: Slot, batch: &mut Batch<L>) {
        let entry = self.graph.entry(slot);
        let Some(owner) = entry.owner() else {
            if entry.have != 0 {
                self.queue_entry(slot);
            }
            return;
        };
        if entry.is(flag::EVICTED) {
            self.queue_entry(slot);
            return;
        }
        if entry.is_clean() {
            return;
        }
        if entry.is(flag::ADOPTED) && entry.have != 0 && !self.urgent && !self.is_rendered() {
            // A row that was not looked at yet may want what is held.
            self.deferred.push(slot);
            return;
        }
        if entry.have != 0 && entry.identity != owner.identity && entry.pointed_by > 0 {
            self.pin(slot);
            return;
        }
        if !self.transit.contains_key(&slot) {
            self.render_row(owner.row());
        }
        let Some(entry) = self.graph.entries.find(slot) else { return };
        let Some(owner) = entry.owner() else { return };
        let Some(value) = self.transit.remove(&slot) else { return };
        let key = entry.key;
        let targets = match self.resolve(slot, &key, &value) {
            Ok(targets) => targets,
            Err((target, expected)) => return self.block(slot, target, expected),
        };
        for (target, _) in &targets {
            self.graph.entry_mut(*target).pointed_by += 1;
        }
        self.graph.entry_mut(slot).set(flag::FLYING, true);
        let held = Some(HeldValue { digest: owner.digest, identity: owner.identity, targets });
        batch.flights.push(Flight { slot, held });
        batch.ops.push(Op { key, value: Some(value) });
    }

    /// Puts the removal of an entry that holds something into the batch.
    pub(super) fn stage(&mut self, slot: Slot, batch: &mut Batch<L>) {
        let entry = self.graph.entry_mut(slot);
        entry.set(flag::FLYING, true);
        batch.flights.push(Flight { slot, held: None });
        batch.ops.push(Op { key: entry.key, value: None });
    }

    /// The targets of a value if all of them are there and stay; else the first that does not.
    fn resolve(&mut self, slot: Slot, key: &L::Key, value: &L::Value) -> Result<Targets, (Slot, u32)> {
        let mut found = std::mem::take(&mut self.targets);
        found.clear();
        L::targets(key, value, &mut |target, expected| found.push((target, expected)));
        let mut targets = Targets::with_capacity(found.len());
        let mut missing = None;
        for (target, expected) in &found {
            let target = self.graph.entry_slot(target);
            if target == slot {
                continue;
            }
            if !self.graph.entry(target).stays(*expected) {
                missing = Some((target, *expected));
                break;
            }
            targets.push((target, *expected));
        }
        self.targets = found;
        missing.map_or(Ok(targets), Err)
    }

    fn apply(&mut self, map: usize, batch: &mut Batch<L>) {
        let mut results: Vec<Option<Result<(), MapError>>> = vec![None; batch.ops.len()];
        self.maps.apply(map, &batch.ops, &mut |at, result| results[at] = Some(result));
        batch.ops.clear();
        for (flight, result) in batch.flights.drain(..).zip(results) {
            self.graph.entry_mut(flight.slot).set(flag::FLYING, false);
            match result {
                Some(Ok(())) => self.landed(flight, map),
                Some(Err(error)) => self.failed(flight, map, error),
                None => {
                    self.failed(flight, map, MapError::Failed("the maps did not say how it ended".to_owned()))
                }
            }
        }
    }

    fn landed(&mut self, Flight { slot, held }: Flight, map: usize) {
        self.writes += 1;
        let removed = held.is_none();
        let old = self.set_have(slot, held);
        let entry = self.graph.entry_mut(slot);
        entry.set(flag::ADOPTED, false);
        if removed {
            entry.set(flag::EVICTED, false);
        }
        self.entry_changed(slot);
        for (target, _) in old {
            self.release_pointer(target);
        }
        if removed && let Some(waiting) = self.retries.take_waiting(map) {
            self.retry(waiting);
        }
    }

    fn failed(&mut self, Flight { slot, held }: Flight, map: usize, error: MapError) {
        self.pins_changed = true;
        for (target, _) in held.map(|held| held.targets).unwrap_or_default() {
            self.release_pointer(target);
        }
        let entry = self.graph.entry_mut(slot);
        if entry.is_clean() {
            // Nobody wants any more what was tried.
            self.graph.forget_entry_if_unused(slot);
            return;
        }
        entry.set(flag::FAILING, true);
        let key = entry.key;
        if entry.claims.is_empty() {
            let text = format!("{key}, which no row wants, cannot be removed: {error}");
            let since = self.strays.get(&slot).map_or(self.now, |failing| failing.since);
            self.strays.insert(slot, crate::progress::NamedError { text: text.into(), since });
        }
        self.retries.failed(slot, map, error, self.now, self.settings.backoff);
        self.touch_claimants(slot);
    }

    /// What a value is when it is held. Its pointers are not counted yet.
    pub(super) fn held_value(&mut self, key: &L::Key, value: &L::Value) -> HeldValue {
        let mut targets = Targets::new();
        let graph = &mut self.graph;
        L::targets(key, value, &mut |target, expected| {
            if target != *key {
                targets.push((graph.entry_slot(&target), expected));
            }
        });
        HeldValue { digest: L::digest(key, value).get(), identity: L::identity(key, value), targets }
    }

    /// Notes what an entry was found to hold, and whose that may be.
    pub(super) fn found(&mut self, slot: Slot, key: &L::Key, value: &L::Value) {
        let held = self.held_value(key, value);
        self.set_held(slot, Some(held));
        self.graph.entry_mut(slot).sources |= self.render.sources_of_held(key, value);
    }

    /// Notes what an entry holds, pointers included.
    pub(super) fn set_held(&mut self, slot: Slot, held: Option<HeldValue>) {
        for (target, _) in held.iter().flat_map(|held| &held.targets) {
            self.graph.entry_mut(*target).pointed_by += 1;
        }
        let old = self.set_have(slot, held);
        for (target, _) in old {
            self.release_pointer(target);
        }
    }

    /// Notes what an entry holds; gives back the pointers that it held before, which still count.
    fn set_have(&mut self, slot: Slot, held: Option<HeldValue>) -> Targets {
        let entry = self.graph.entries.get_mut(slot);
        let map = L::map(&entry.key);
        let (before, now) = (usize::from(entry.have != 0), usize::from(held.is_some()));
        self.held[map] = self.held[map] + now - before;
        entry.set(flag::READ, self.parity[map]);
        match held {
            None => {
                (entry.have, entry.identity) = (0, 0);
                std::mem::take(&mut entry.targets)
            }
            Some(held) => {
                (entry.have, entry.identity) = (held.digest, held.identity);
                std::mem::replace(&mut entry.targets, held.targets)
            }
        }
    }

    /// One pointer less; who waited for the last one to leave can go on.
    fn release_pointer(&mut self, slot: Slot) {
        let entry = self.graph.entry_mut(slot);
        entry.pointed_by -= 1;
        if entry.pointed_by > 0 {
            return;
        }
        if entry.is(flag::PINNED) {
            self.unpin(slot);
            self.queue_entry(slot);
        }
        self.graph.forget_entry_if_unused(slot);
    }

    fn block(&mut self, slot: Slot, target: Slot, expected: u32) {
        self.graph.entry_mut(slot).set(flag::BLOCKED, true);
        self.graph.entry_mut(target).set(flag::AWAITED, true);
        self.waiters.insert((target, slot));
        let before = self.blocked.insert(slot, (target, expected));
        if let Some((before, _)) = before.filter(|(before, _)| *before != target) {
            self.stop_waiting(slot, before);
        }
        // It waits for something else than before.
        self.clear_failure(slot);
        self.pins_changed = true;
        self.touch_claimants(slot);
    }

    pub(super) fn unblock(&mut self, slot: Slot) {
        if !self.graph.entry(slot).is(flag::BLOCKED) {
            return;
        }
        self.graph.entry_mut(slot).set(flag::BLOCKED, false);
        if let Some((target, _)) = self.blocked.remove(&slot) {
            self.stop_waiting(slot, target);
        }
    }

    fn stop_waiting(&mut self, slot: Slot, target: Slot) {
        self.waiters.remove(&(target, slot));
        if self.waiters.range((target, 0)..=(target, Slot::MAX)).next().is_none() {
            self.graph.entry_mut(target).set(flag::AWAITED, false);
            self.graph.forget_entry_if_unused(target);
        }
    }

    /// What waits for this entry goes on if it is now what they wait for.
    pub(super) fn wake_waiters(&mut self, slot: Slot) {
        let entry = self.graph.entry(slot);
        if !entry.is(flag::AWAITED) || entry.have == 0 {
            return;
        }
        let waiting: Vec<Slot> =
            self.waiters.range((slot, 0)..=(slot, Slot::MAX)).map(|(_, waiter)| *waiter).collect();
        for waiter in waiting {
            let expected = self.blocked.get(&waiter).map(|(_, expected)| *expected);
            if expected.is_some_and(|expected| self.graph.entry(slot).stays(expected)) {
                self.unblock(waiter);
                self.queue_entry(waiter);
            }
        }
    }

    pub(super) fn pin(&mut self, slot: Slot) {
        self.graph.entry_mut(slot).set(flag::PINNED, true);
        self.pinned.insert(slot);
        self.pins_changed = true;
        self.touch_claimants(slot);
    }

    pub(super) fn unpin(&mut self, slot: Slot) {
        if self.graph.entry(slot).is(flag::PINNED) {
            self.graph.entry_mut(slot).set(flag::PINNED, false);
            self.pinned.remove(&slot);
        }
    }

    pub(super) fn clear_failure(&mut self, slot: Slot) {
        let entry = self.graph.entry_mut(slot);
        if entry.is(flag::FAILING) {
            entry.set(flag::FAILING, false);
            self.retries.clear(slot);
            self.strays.remove(&slot);
        }
    }

    /// Tries again what failed and is due now.
    pub(super) fn retry_due(&mut self, limit: usize) {
        for _ in 0..limit {
            let Some(slot) = self.retries.take_due(self.now) else { break };
            self.retry(slot);
        }
    }

    fn retry(&mut self, slot: Slot) {
        self.queue_entry(slot);
    }

    /// Entries that waited until all claims are known are written now, if they are.
    pub(super) fn release_deferred(&mut self) {
        if self.deferred.is_empty() || !self.is_rendered() {
            return;
        }
        for slot in std::mem::take(&mut self.deferred) {
            if self.graph.entries.find(slot).is_some_and(|entry| !entry.is_clean()) {
                self.queue_entry(slot);
            }
        }
    }

    /// The maps lose what rows had in them.
    pub(super) fn note_loss(&mut self, slot: Slot) {
        for at in 0..self.graph.entry(slot).claims.len() {
            let row = self.graph.entry(slot).claims[at].row();
            lower_since(self.graph.row_mut(row), LOST);
            self.touch(row);
        }
    }

    pub(super) fn touch_claimants(&mut self, slot: Slot) {
        for at in 0..self.graph.entry(slot).claims.len() {
            let row = self.graph.entry(slot).claims[at].row();
            self.touch(row);
        }
    }
}
