//! Taking in what changed, in pieces: small changes at once, great ones a part per round.

use std::sync::Arc;

use epic_store::Schema;

use super::Reconciler;
use crate::graph::{Queue, RowState};
use crate::layout::Layout;
use crate::maps::Maps;
use crate::render::{Render, RowId};
use crate::slab::Slot;

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Notes which rows differ from the snapshot that was seen before.
    pub(super) fn take_in(&mut self) {
        let now = self.reader.snapshot();
        if now.revision() == self.seen.revision() {
            return;
        }
        let before = std::mem::replace(&mut self.seen, now);
        self.wait_for(self.seen.pending_sources());
        // Several commits may lie between: what they changed counts from the first of them.
        let mark = before.revision() + 1;
        let first = self.arrived.len();
        let arrived = &mut self.arrived;
        self.render.affected(&before, &self.seen, &mut |row| arrived.push_back((row, mark)));
        if self.arrived.len() - first <= self.settings.small_change {
            for (row, mark) in self.arrived.split_off(first) {
                self.enqueue(row, mark, Queue::Urgent);
            }
        }
    }

    /// Looks at rows of great changes: which of them are gone, and whose they are.
    pub(super) fn sort_arrived(&mut self, limit: usize) {
        for _ in 0..limit.min(self.arrived.len()) {
            if let Some((row, mark)) = self.arrived.pop_front() {
                self.enqueue(row, mark, Queue::Bulk);
            }
        }
        if self.arrived.is_empty() && self.arrived.capacity() > 1024 {
            self.arrived.shrink_to_fit();
        }
    }

    fn enqueue(&mut self, id: RowId<L, R>, mark: u64, queue: Queue) {
        let known = self.graph.find_row(&id);
        let looked_at = self.seen.revision() as u32;
        if let Some(row) = known.map(|slot| self.graph.row_mut(slot))
            && row.looked_at == looked_at
            && row.queue.is_some_and(|queued| queued == Queue::Urgent || queue == Queue::Bulk)
        {
            // Named more than once, as who depends on several changes is.
            lower_since(row, mark);
            return;
        }
        let gone = self.seen.row_revision(id).is_none();
        let (slot, moved) = match known {
            None if gone => return,
            None => {
                let scope = self.render.scope(&self.seen, id);
                (self.graph.add_row(id, scope), false)
            }
            Some(slot) if gone => (slot, false),
            Some(slot) => {
                let scope = self.render.scope(&self.seen, id);
                if scope == self.graph.row(slot).scope {
                    (slot, false)
                } else {
                    (self.move_row(slot, mark, id, scope), true)
                }
            }
        };
        // A small change takes a row out of a great one, not the other way; what a moved row wants still, it must claim
        // before its old scope leaves it.
        let was_urgent = self.leave_queue(slot) == Some(Queue::Urgent);
        let queue = match queue {
            _ if was_urgent || moved => Queue::Urgent,
            Queue::Bulk if gone => Queue::Gone,
            queue => queue,
        };
        let row = self.graph.row_mut(slot);
        row.gone = gone;
        row.looked_at = looked_at;
        row.queue = Some(queue);
        lower_since(row, mark);
        self.queued += 1;
        self.queued_gone += usize::from(gone);
        self.queues[queue as usize - 1].push_back(slot);
        self.touch(slot);
    }

    /// The row counts for another scope now; what it leaves counts for the old one until it is removed.
    fn move_row(&mut self, slot: Slot, mark: u64, id: RowId<L, R>, scope: Option<R::Scope>) -> Slot {
        self.leave_queue(slot);
        let since = self.graph.row(slot).since;
        self.graph.detach_row(slot);
        let row = self.graph.row_mut(slot);
        row.gone = true;
        lower_since(row, mark);
        self.set_unready(slot, None);
        let new = self.graph.add_row(id, scope);
        if since != 0 {
            lower_since(self.graph.row_mut(new), since);
        }
        self.queue_detached(slot);
        self.touch(slot);
        new
    }

    /// A detached row is rendered into nothing, after the row that took its name.
    fn queue_detached(&mut self, slot: Slot) {
        self.graph.row_mut(slot).queue = Some(Queue::Gone);
        self.queued += 1;
        self.queued_gone += 1;
        self.queues[Queue::Gone as usize - 1].push_back(slot);
    }

    pub(super) fn leave_queue(&mut self, slot: Slot) -> Option<Queue> {
        let row = self.graph.row_mut(slot);
        let queue = row.queue.take()?;
        self.queued -= 1;
        self.queued_gone -= usize::from(row.gone);
        Some(queue)
    }

    /// Renders queued rows.
    pub(super) fn render_rows(&mut self, queue: Queue, budget: &mut usize) {
        self.urgent = queue == Queue::Urgent;
        while *budget > 0 {
            let list = &mut self.queues[queue as usize - 1];
            let Some(slot) = list.pop_front() else {
                if list.capacity() > 1024 {
                    list.shrink_to_fit();
                }
                break;
            };
            if self.graph.rows.find(slot).is_some_and(|row| row.queue == Some(queue)) {
                *budget -= 1;
                self.leave_queue(slot);
                self.render_row(slot);
            }
        }
        self.urgent = false;
    }

    /// Whether all rows that changed so far have been rendered.
    pub(super) fn is_rendered(&self) -> bool {
        self.arrived.is_empty() && self.queued == 0
    }

    pub(super) fn set_unready(&mut self, slot: Slot, why: Option<Arc<str>>) {
        self.graph.row_mut(slot).unready = why.is_some();
        match why {
            Some(why) => drop(self.unready.insert(slot, why)),
            None => drop(self.unready.remove(&slot)),
        }
    }
}

/// Since when a row is behind whose entry the maps held and hold no more: whatever change put it there is missing again.
pub(super) const LOST: u64 = 1;

/// The lowest revision counts: whoever waits for it waits for this row.
pub(super) fn lower_since<I, S>(row: &mut RowState<I, S>, mark: u64) {
    row.since = if row.since == 0 { mark } else { row.since.min(mark) };
}
