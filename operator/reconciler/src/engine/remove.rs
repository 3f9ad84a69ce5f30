//! Removing what no row wants: in the opposite order, and entry by entry only once nothing points to it.

use super::Reconciler;
use super::write::Batch;
use crate::graph::flag;
use crate::lanes::Direction;
use crate::layout::Layout;
use crate::maps::Maps;
use crate::render::Render;
use crate::slab::Slot;

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Removes what may go. Nothing does before every removed row was looked at, nor before all sources have listed that may
    /// want it; what a great change leaves goes only once all of it was looked at, for another row of it may want the same entry.
    pub(super) fn remove(&mut self, budget: &mut usize) {
        if !self.may_remove() || self.lanes.is_empty(Direction::Remove) {
            return;
        }
        self.hold_back();
        for urgent in if self.is_rendered() { &[true, false][..] } else { &[true] } {
            let urgent = *urgent;
            self.urgent = urgent;
            for map in (0..L::MAPS.len()).rev() {
                self.work_off(Direction::Remove, map, budget);
            }
        }
        self.urgent = false;
    }

    /// Puts the removal of an entry into the batch, unless it is not needed, or has to wait.
    pub(super) fn stage_removal(&mut self, slot: Slot, batch: &mut Batch<L>) {
        let entry = self.graph.entry(slot);
        if entry.is(flag::EVICTED) && !self.is_in_the_way(slot) {
            self.graph.entry_mut(slot).set(flag::EVICTED, false);
            self.entry_changed(slot);
            return;
        }
        if entry.wanted() != 0 && !entry.is(flag::EVICTED) {
            if !entry.is_clean() {
                self.queue_entry(slot);
            }
            return;
        }
        if entry.have == 0 || entry.is(flag::ASKED | flag::PARKED) {
            return;
        }
        if self.waits_for_source(slot) {
            self.park(slot);
            return;
        }
        if entry.pointed_by > 0 {
            self.pin(slot);
            return;
        }
        self.stage(slot, batch);
    }
}
