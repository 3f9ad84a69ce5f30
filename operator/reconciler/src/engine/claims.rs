//! What rows want, entry by entry.
//!
//! Several rows may want the same entry. Should they disagree on its value, one of them owns it and decides for as long
//! as it wants the entry; the others are in error. The owner is who came first; of an entry held since the start, who
//! wants what is held, else the least row. Who owns an entry next is chosen in the same way.

use std::sync::Arc;

use epic_store::Sources;
use smallvec::SmallVec;

use super::Reconciler;
use super::intake::{LOST, lower_since};
use crate::graph::{Claim, flag};
use crate::lanes::{Direction, Lanes};
use crate::layout::Layout;
use crate::maps::Maps;
use crate::render::Render;
use crate::slab::Slot;

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Renders a row and takes what it wants in place of what it wanted.
    pub(super) fn render_row(&mut self, slot: Slot) {
        let row = self.graph.row(slot);
        let (id, gone) = (row.id, row.gone);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let ready = if gone { Ok(()) } else { self.render.render(&self.seen, id, &mut out) };
        let why = ready.err().map(|why| {
            out.clear();
            Arc::from(why.0)
        });
        if why.is_some() || self.graph.row(slot).unready {
            self.set_unready(slot, why);
        }
        let sources = if out.is_empty() { Sources::NONE } else { self.render.sources_of(&self.seen, id) };
        self.graph.row_mut(slot).sources = sources;
        self.claim_all(slot, sources, &mut out);
        self.out = out;
        self.touch(slot);
    }

    fn claim_all(&mut self, row: Slot, sources: Sources, out: &mut Vec<(L::Key, L::Value)>) {
        let old = std::mem::take(&mut self.graph.row_mut(row).entries);
        let mut now: SmallVec<[Slot; 4]> = SmallVec::with_capacity(out.len());
        for (key, value) in out.drain(..) {
            let slot = self.graph.entry_slot(&key);
            let entry = self.graph.entry_mut(slot);
            if entry.is(flag::MARKED) {
                continue;
            }
            entry.set(flag::MARKED, true);
            entry.sources |= sources;
            now.push(slot);
            let claim = Claim::new(row, L::digest(&key, &value).get(), L::identity(&key, &value));
            self.claim(slot, claim, value);
        }
        let marked = now.len();
        for slot in old {
            let entry = self.graph.entries.find(slot);
            if entry.is_some_and(|entry| !entry.is(flag::MARKED)) && self.withdraw(slot, row) {
                now.push(slot);
            }
        }
        for slot in &now[..marked] {
            self.graph.entry_mut(*slot).set(flag::MARKED, false);
        }
        self.graph.row_mut(row).entries = now;
    }

    fn claim(&mut self, slot: Slot, claim: Claim, value: L::Value) {
        let entry = self.graph.entry_mut(slot);
        let wanted = entry.wanted();
        let at = match entry.claim_of(claim.row()) {
            Some(at) if entry.claims[at].digest == claim.digest => {
                // As before; the value serves if it still has to be written.
                if at == 0 && !entry.is_clean() {
                    self.transit.insert(slot, value);
                }
                return;
            }
            Some(at) => {
                let old = &mut entry.claims[at];
                (old.digest, old.identity) = (claim.digest, claim.identity);
                at
            }
            None => {
                entry.claims.push(claim);
                let at = entry.claims.len() - 1;
                self.graph.row_mut(claim.row()).unmet += 1;
                at
            }
        };
        if at != 0 && self.takes_over(slot, at) {
            self.graph.entry_mut(slot).claims.swap(0, at);
            self.transit.remove(&slot);
        }
        let entry = self.graph.entry(slot);
        if entry.claims[0].row() == claim.row() && !entry.is_clean() {
            self.transit.insert(slot, value);
        }
        self.claims_changed(slot, wanted);
    }

    /// Whether a claim takes an entry from its owner.
    fn takes_over(&self, slot: Slot, at: usize) -> bool {
        let entry = self.graph.entry(slot);
        let Some(owner) = entry.owner() else { return true };
        let claim = entry.claims[at];
        if !entry.is(flag::ADOPTED) || owner.digest == entry.have {
            return false;
        }
        let id = |claim: Claim| self.graph.row(claim.row()).id;
        claim.digest == entry.have || id(claim) < id(owner)
    }

    /// A row no longer wants an entry. Says whether that still has to show.
    fn withdraw(&mut self, slot: Slot, row: Slot) -> bool {
        let entry = self.graph.entry_mut(slot);
        let Some(at) = entry.claim_of(row) else { return false };
        if !entry.claims[at].is_live() {
            return true;
        }
        let wanted = entry.wanted();
        entry.claims[at].digest = 0;
        if at == 0 {
            self.transit.remove(&slot);
            if let Some(next) = self.next_owner(slot) {
                self.graph.entry_mut(slot).claims.swap(0, next);
            }
        }
        if self.graph.entry(slot).have != 0 {
            self.handed_over.insert(slot);
        }
        self.claims_changed(slot, wanted);
        self.graph.entries.find(slot).is_some_and(|entry| entry.claim_of(row).is_some())
    }

    fn next_owner(&self, slot: Slot) -> Option<usize> {
        let entry = self.graph.entry(slot);
        let live = entry.claims.iter().enumerate().filter(|(_, claim)| claim.is_live());
        live.min_by_key(|(_, claim)| (claim.digest != entry.have, self.graph.row(claim.row()).id))
            .map(|(at, _)| at)
    }

    /// After claims on an entry changed; `wanted` is what it should have held before.
    fn claims_changed(&mut self, slot: Slot, wanted: u64) {
        let entry = self.graph.entry(slot);
        if entry.wanted() == wanted && (entry.is_clean() || wanted != 0) {
            // Only others' claims: what is being done about the entry goes on.
            if entry.is_clean() || entry.have == 0 {
                self.drop_withdrawn(slot);
            }
            self.count_unmet(slot);
            return;
        }
        self.entry_changed(slot);
    }

    /// After what an entry holds or should hold changed.
    pub(super) fn entry_changed(&mut self, slot: Slot) {
        self.clear_failure(slot);
        self.unblock(slot);
        self.unpin(slot);
        self.count_leaving(slot);
        let entry = self.graph.entry(slot);
        if entry.is_clean() {
            // It may have come to want again what it holds, while a target of that has to go.
            self.pins_changed |= !self.pinned.is_empty()
                && entry.targets.iter().any(|(target, _)| self.graph.entry(*target).is(flag::PINNED));
            self.drop_withdrawn(slot);
        } else {
            if entry.have == 0 {
                self.drop_withdrawn(slot);
            } else if entry.is(flag::ADOPTED) && entry.owner().is_some_and(|o| o.identity != entry.identity) {
                self.handed_over.insert(slot);
            }
            self.queue_entry(slot);
        }
        self.count_unmet(slot);
        self.wake_waiters(slot);
        self.graph.forget_entry_if_unused(slot);
    }

    /// Puts an entry that is not as it should be into the list of its direction.
    pub(super) fn queue_entry(&mut self, slot: Slot) {
        let entry = self.graph.entry_mut(slot);
        let leaves = entry.have != 0 && (entry.wanted() == 0 || entry.is(flag::EVICTED));
        let direction = if leaves { Direction::Remove } else { Direction::Write };
        let bit = Lanes::bit(direction, self.urgent);
        if !entry.is(bit) {
            entry.set(bit, true);
            let map = L::map(&entry.key);
            self.lanes.push(direction, self.urgent, map, slot);
        }
    }

    /// The entry is as its owner wants it, or is not held: who left it has nothing to wait for any more.
    fn drop_withdrawn(&mut self, slot: Slot) {
        let entry = self.graph.entry(slot);
        let live = entry.claims.iter().filter(|claim| claim.is_live());
        let sources = live.map(|claim| self.graph.rows.get(claim.row()).sources).collect();
        let entry = self.graph.entry_mut(slot);
        entry.sources = sources;
        entry.set(flag::ADOPTED, false);
        if !self.handed_over.is_empty() {
            self.handed_over.remove(&slot);
        }
        if entry.claims.iter().all(|claim| claim.is_live()) {
            return;
        }
        let (live, withdrawn): (SmallVec<[Claim; 1]>, SmallVec<[Claim; 1]>) =
            entry.claims.iter().copied().partition(|claim| claim.is_live());
        entry.claims = live;
        for claim in withdrawn {
            let row = self.graph.row_mut(claim.row());
            row.unmet -= u32::from(!claim.is_met());
            if let Some(at) = row.entries.iter().position(|other| *other == slot) {
                row.entries.swap_remove(at);
            }
            self.touch(claim.row());
        }
    }

    /// Counts for each row whether it has what it wants of this entry.
    fn count_unmet(&mut self, slot: Slot) {
        let entry = self.graph.entries.get_mut(slot);
        let (clean, have) = (entry.is_clean(), entry.have);
        for claim in &mut entry.claims {
            let met = clean && claim.is_live() && claim.digest == have;
            let row = self.graph.rows.get_mut(claim.row());
            if met != claim.is_met() {
                claim.set_met(met);
                if met {
                    row.unmet -= 1;
                } else {
                    row.unmet += 1;
                }
            } else if met {
                continue;
            }
            if !met && row.since == 0 {
                lower_since(row, LOST);
            }
            if !row.touched {
                row.touched = true;
                self.touched.push(claim.row());
            }
        }
    }

    /// The row may stand otherwise than before.
    pub(super) fn touch(&mut self, slot: Slot) {
        let row = self.graph.row_mut(slot);
        if !row.touched {
            row.touched = true;
            self.touched.push(slot);
        }
    }
}
