//! Clearing the way: wanted entries that hold on to what must go or become another's.
//!
//! An entry is rewritten only once its new targets are there, and a target changes hands only once nothing points to it;
//! so an entry that cannot be rewritten for now (its new target finds no room, its write fails, or two entries wait for
//! each other's targets) would keep a target from its next owner for as long. Then the entry is removed and comes back when
//! it can: what it points to is another's by what the tables say, so nothing of use is lost.
//!
//! Who points to a target is not kept; it is searched for among all entries, once per round at most, and only if there
//! is something new that waits.

use super::Reconciler;
use crate::graph::flag;
use crate::layout::Layout;
use crate::maps::{MapError, Maps};
use crate::render::Render;
use crate::slab::Slot;

/// How far a chain of entries that wait for each other is followed.
const CHAIN: usize = 16;

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Marks what stands in the way of others once nothing else is left to do; says whether there was anything.
    pub(super) fn evict(&mut self) -> bool {
        let idle = self.is_rendered() && self.deferred.is_empty() && self.may_remove();
        if !self.pins_changed || self.pinned.is_empty() || !idle {
            return false;
        }
        self.pins_changed = false;
        let entries = self.graph.entries.iter();
        let holding = entries
            .filter(|(_, entry)| !entry.targets.is_empty() && !entry.is(flag::EVICTED))
            .filter(|(slot, entry)| {
                entry.owner().is_some()
                    && entry.targets.iter().any(|(target, _)| self.must_yield(*slot, *target))
            });
        let evicted: Vec<Slot> = holding.map(|(slot, _)| slot).collect();
        for slot in &evicted {
            self.graph.entry_mut(*slot).set(flag::EVICTED, true);
            self.entry_changed(*slot);
        }
        !evicted.is_empty()
    }

    /// Whether a wanted entry must leave for the sake of what it points to.
    fn must_yield(&self, slot: Slot, target: Slot) -> bool {
        let (entry, pinned) = (self.graph.entry(slot), self.graph.entry(target));
        if !pinned.is(flag::PINNED) {
            return false;
        }
        if pinned.is(flag::EVICTED) || pinned.owner().is_some() {
            return true;
        }
        // The target goes for good. What is only late keeps it until then, unless it waits for the room that it takes,
        // or wants it and nobody else does.
        entry.is_clean() || self.waits_for_room_in(slot, L::map(&pinned.key))
    }

    fn waits_for_room_in(&self, slot: Slot, map: usize) -> bool {
        let mut at = slot;
        for _ in 0..CHAIN {
            let entry = self.graph.entry(at);
            if entry.is(flag::FAILING) {
                return L::map(&entry.key) == map && self.retries.error(at) == Some(&MapError::Full);
            }
            match self.blocked.get(&at) {
                Some((target, _)) => at = *target,
                None => return false,
            }
        }
        false
    }

    /// Whether what an entry points to still must go or become another's.
    pub(super) fn is_in_the_way(&self, slot: Slot) -> bool {
        self.graph.entry(slot).targets.iter().any(|(target, _)| self.graph.entry(*target).must_change())
    }
}
