//! Clearing the way: wanted entries that hold on to what must go or become another's.
//!
//! An entry is rewritten only once its new targets are there, and a target changes hands only once nothing points to it;
//! so an entry that cannot be rewritten for now (its new target finds no room, its write fails, or two entries wait for
//! each other's targets) would keep a target from its next owner for as long. Then the entry is removed and comes back when
//! it can: what it points to is another's by what the tables say, so nothing of use is lost.
//!
//! What may be of a source that has not listed stays all the same (see `removal`).
//!
//! In the same way what a row of another scope left goes if its successor cannot be written for now.
//!
//! Who points to a target is not kept; it is searched for among all entries, once per round at most, and only if something
//! waits for pointers to leave and something failed or came to wait since.

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
        if !self.is_rendered() || !self.deferred.is_empty() || !self.may_remove() {
            return false;
        }
        let stale = self.handed_over.iter().copied().filter(|slot| self.is_stale(*slot));
        let stale = stale.filter(|slot| !self.waits_for_source(*slot)).collect();
        let holding = self.holding_on();
        self.evict_all(stale) | self.evict_all(holding)
    }

    fn evict_all(&mut self, slots: Vec<Slot>) -> bool {
        for slot in &slots {
            self.graph.entry_mut(*slot).set(flag::EVICTED, true);
            self.note_loss(*slot);
            self.entry_changed(*slot);
        }
        !slots.is_empty()
    }

    /// Whether a wanted entry cannot be written for now and holds what is another's.
    fn is_stale(&self, slot: Slot) -> bool {
        let entry = self.graph.entry(slot);
        let Some(owner) = entry.owner() else { return false };
        let scope = |row: Slot| self.graph.row(row).scope;
        entry.is(flag::FAILING | flag::BLOCKED)
            && !entry.is(flag::EVICTED)
            && (entry.is(flag::ADOPTED) && entry.identity != owner.identity
                || entry
                    .claims
                    .iter()
                    .any(|claim| !claim.is_live() && scope(claim.row()) != scope(owner.row())))
    }

    /// Wanted entries that keep others from going or changing.
    fn holding_on(&mut self) -> Vec<Slot> {
        if !std::mem::take(&mut self.pins_changed) || self.pinned.is_empty() {
            return Vec::new();
        }
        let entries = self.graph.entries.iter();
        let holding = entries
            .filter(|(_, entry)| !entry.targets.is_empty() && !entry.is(flag::EVICTED))
            .filter(|(_, entry)| !entry.sources.intersects(self.pending))
            .filter(|(slot, entry)| {
                entry.owner().is_some()
                    && entry.targets.iter().any(|(target, _)| self.must_yield(*slot, *target))
            });
        holding.map(|(slot, _)| slot).collect()
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
        // The target goes for good. What is only late keeps it until then, unless it waits for just that, or keeps another
        // scope waiting; and what wants it, though nobody else does, has no claim to it.
        let scope = |row: Slot| self.graph.row(row).scope;
        let of_another = entry
            .owner()
            .is_some_and(|owner| pinned.claims.iter().any(|claim| scope(claim.row()) != scope(owner.row())));
        entry.is_clean() || of_another || self.waits_for_what_leaves(slot)
    }

    /// Whether an entry waits for room, or for something that itself waits for pointers to leave: both may come from what
    /// goes once this entry is out of the way.
    fn waits_for_what_leaves(&self, slot: Slot) -> bool {
        let mut at = slot;
        for _ in 0..CHAIN {
            let entry = self.graph.entry(at);
            if at != slot && entry.is(flag::PINNED) {
                return true;
            }
            if entry.is(flag::FAILING) {
                return self.retries.error(at) == Some(&MapError::Full);
            }
            match self.blocked.get(&at) {
                Some((target, _)) => at = *target,
                None => return false,
            }
        }
        false
    }

    /// Whether an entry still holds another's value, or points to what must go or become another's.
    pub(super) fn is_in_the_way(&self, slot: Slot) -> bool {
        let entry = self.graph.entry(slot);
        let anothers = entry.owner().is_some_and(|owner| owner.identity != entry.identity)
            || entry.claims.iter().any(|claim| !claim.is_live());
        (anothers && entry.have != entry.wanted())
            || entry.targets.iter().any(|(target, _)| self.graph.entry(*target).must_change())
    }
}
