//! When a removal has to wait, for a source or for an answer.
//!
//! What no row wants is parked as long as an initializer of a source is pending that wanted it, or that may want what was
//! found; what others leave goes meanwhile. What is free to go does so, unless it is more than half of what is held and not
//! parked: then that set is held back until somebody confirmed it. Everything else goes on, further small removals too.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use epic_store::Sources;
use hashbrown::HashSet;

use super::Reconciler;
use crate::graph::{Queue, flag};
use crate::layout::Layout;
use crate::maps::Maps;
use crate::render::Render;
use crate::slab::Slot;

/// A removal of more than half of all entries, held back until somebody looked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<K> {
    /// Entries that would go, by key. The answer is for these alone.
    pub entries: Arc<[K]>,
    /// Entries that the maps held when the question arose, but for those of sources that have yet to list.
    pub held: usize,
    /// Revision of the tables that want it.
    pub revision: u64,
}

impl<K> Display for Ask<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (going, held, revision) = (self.entries.len(), self.held, self.revision);
        write!(f, "{going} of {held} map entries are to be removed by the tables of revision {revision}")
    }
}

/// Entries that are held and that no row wants.
#[derive(Debug)]
pub(super) struct Removal<K> {
    /// Those that nobody was asked about.
    fresh: HashSet<Slot>,
    asked: HashSet<Slot>,
    /// Those that a source may still want which has not listed.
    parked: HashSet<Slot>,
    /// Number of those whose removal was confirmed.
    confirmed: usize,
    ask: Option<Ask<K>>,
}

impl<K> Default for Removal<K> {
    fn default() -> Self {
        Self { fresh: HashSet::new(), asked: HashSet::new(), parked: HashSet::new(), confirmed: 0, ask: None }
    }
}

impl<K> Removal<K> {
    pub(super) fn ask(&self) -> Option<&Ask<K>> {
        self.ask.as_ref()
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Gives back what the sets keep of a greater past.
    pub(super) fn shrink(&mut self) {
        for set in [&mut self.fresh, &mut self.asked, &mut self.parked] {
            if set.is_empty() && set.capacity() > 1024 {
                *set = HashSet::new();
            }
        }
    }

    pub(super) fn fresh(&self) -> usize {
        self.fresh.len() + self.confirmed
    }
}

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Keeps account of an entry that may have become unwanted or wanted again, or is gone.
    pub(super) fn count_leaving(&mut self, slot: Slot) {
        let entry = self.graph.entry_mut(slot);
        let leaving = entry.have != 0 && entry.wanted() == 0;
        if leaving == entry.is(flag::LEAVING) {
            return;
        }
        entry.set(flag::LEAVING, leaving);
        if leaving {
            self.removal.fresh.insert(slot);
            return;
        }
        if entry.is(flag::CONFIRMED) {
            entry.set(flag::CONFIRMED, false);
            self.removal.confirmed -= 1;
        } else if entry.is(flag::ASKED) {
            entry.set(flag::ASKED, false);
            self.removal.asked.remove(&slot);
            self.reconsider();
        } else if entry.is(flag::PARKED) {
            entry.set(flag::PARKED, false);
            self.removal.parked.remove(&slot);
        } else {
            self.removal.fresh.remove(&slot);
        }
    }

    /// From now on these sources have not listed. What only waited for others is free.
    pub(super) fn wait_for(&mut self, pending: Sources) {
        let fewer = !pending.contains(self.pending);
        self.pending = pending;
        if !fewer {
            return;
        }
        // What was not evicted for the sake of a source may be now.
        self.pins_changed = true;
        for slot in std::mem::take(&mut self.removal.parked) {
            let entry = self.graph.entry_mut(slot);
            if entry.sources.intersects(pending) {
                self.removal.parked.insert(slot);
                continue;
            }
            entry.set(flag::PARKED, false);
            self.removal.fresh.insert(slot);
            self.queue_entry(slot);
        }
    }

    /// Whether what an entry holds may be wanted by a source that has not listed.
    pub(super) fn waits_for_source(&self, slot: Slot) -> bool {
        self.graph.entry(slot).sources.intersects(self.pending)
    }

    /// Keeps an entry until its sources have listed. One that was to make way for others stays as it is wanted.
    pub(super) fn park(&mut self, slot: Slot) {
        let entry = self.graph.entry_mut(slot);
        if entry.is(flag::EVICTED) && entry.wanted() != 0 {
            entry.set(flag::EVICTED, false);
            self.entry_changed(slot);
            return;
        }
        if entry.is(flag::CONFIRMED) {
            entry.set(flag::CONFIRMED, false);
            self.removal.confirmed -= 1;
        }
        self.removal.fresh.remove(&slot);
        self.removal.parked.insert(slot);
        self.graph.entry_mut(slot).set(flag::PARKED, true);
        self.unpin(slot);
        self.clear_failure(slot);
        self.touch_claimants(slot);
    }

    /// Whether all absence is known.
    pub(super) fn may_remove(&self) -> bool {
        let urgent = &self.queues[Queue::Urgent as usize - 1];
        self.arrived.is_empty() && self.queued_gone == 0 && urgent.is_empty()
    }

    /// Holds back what is free to go if it is too much to go unasked.
    pub(super) fn hold_back(&mut self) {
        if !self.pending.is_empty() {
            let waiting = self.removal.fresh.iter().copied().filter(|slot| self.waits_for_source(*slot));
            waiting.collect::<Vec<_>>().into_iter().for_each(|slot| self.park(slot));
        }
        let held = self.held_and_not_parked();
        let (fresh, asked) = (self.removal.fresh.len(), self.removal.asked.len());
        let free = if asked > 0 { self.settings.free_removals } else { 0 };
        if fresh <= free || fresh * 2 <= held - asked - self.removal.confirmed {
            return;
        }
        for slot in std::mem::take(&mut self.removal.fresh) {
            self.removal.asked.insert(slot);
            self.graph.entry_mut(slot).set(flag::ASKED, true);
            self.touch_claimants(slot);
        }
        self.ask_anew(held);
    }

    fn held_and_not_parked(&self) -> usize {
        self.held.iter().sum::<usize>() - self.removal.parked.len()
    }

    /// Asks about all that is held back.
    fn ask_anew(&mut self, held: usize) {
        let mut entries: Vec<L::Key> =
            self.removal.asked.iter().map(|slot| self.graph.entry(*slot).key).collect();
        entries.sort_unstable();
        let revision = self.seen.revision();
        self.removal.ask = (!entries.is_empty()).then(|| Ask { entries: entries.into(), held, revision });
    }

    /// Some of what was asked about is wanted again: if that is most of it, the rest is no longer a big removal.
    fn reconsider(&mut self) {
        let asked = self.removal.asked.len();
        let held = self.held_and_not_parked();
        let question = self.removal.ask.as_ref().map_or(0, |ask| ask.entries.len());
        if asked == 0 {
            self.removal.ask = None;
        } else if asked * 2 <= held && asked * 2 <= question {
            self.removal.ask = None;
            for slot in std::mem::take(&mut self.removal.asked) {
                self.graph.entry_mut(slot).set(flag::ASKED, false);
                self.removal.fresh.insert(slot);
                self.queue_entry(slot);
            }
        }
    }

    /// What is held back, as it is now: the question to ask again.
    pub fn question(&mut self) -> Option<Ask<L::Key>> {
        let held = self.removal.ask.as_ref()?.held;
        if self.removal.ask.as_ref().is_some_and(|ask| ask.entries.len() != self.removal.asked.len()) {
            self.ask_anew(held);
        }
        self.removal.ask.clone()
    }

    /// Somebody looked again: the removal of these entries is meant. Those that are still unwanted go; what became
    /// unwanted since the question is held back further.
    pub fn confirm(&mut self, ask: &Ask<L::Key>) {
        for key in ask.entries.iter() {
            let Some(slot) = self.graph.find_entry(key) else { continue };
            let entry = self.graph.entry_mut(slot);
            if !entry.is(flag::ASKED) {
                continue;
            }
            entry.set(flag::ASKED, false);
            entry.set(flag::CONFIRMED, true);
            self.removal.asked.remove(&slot);
            self.removal.confirmed += 1;
            self.queue_entry(slot);
        }
        if self.removal.asked.is_empty() {
            self.removal.ask = None;
        } else {
            self.ask_anew(ask.held);
        }
    }
}
