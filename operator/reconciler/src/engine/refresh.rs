//! Reading maps back, one at a time between rounds: only differences become work.

use std::sync::Arc;

use super::Reconciler;
use crate::graph::flag;
use crate::layout::Layout;
use crate::maps::{MapError, Maps};
use crate::render::Render;
use crate::slab::Slot;

/// A full pass that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refreshing {
    /// The next map to read.
    map: usize,
    /// Only to find what no row wants.
    prune: bool,
}

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Begins a full pass: the maps are read back by [`Reconciler::read_back`], and what differs is corrected.
    pub fn refresh(&mut self) {
        self.refreshing = Some(Refreshing { map: 0, prune: false });
    }

    /// Begins a pass that only finds entries that no row wants, and removes them as removals always go.
    pub fn prune(&mut self) {
        if self.refreshing.is_none() {
            self.refreshing = Some(Refreshing { map: 0, prune: true });
        }
    }

    /// Reads the next map of a full pass; says whether there are more. The next round corrects what differs.
    ///
    /// # Errors
    /// Those of [`Maps::read`]; then what was known of the map stays, and the pass goes on with the next one.
    pub fn read_back(&mut self) -> Result<bool, MapError> {
        let Some(Refreshing { map, prune }) = self.refreshing else { return Ok(false) };
        let next = map + 1;
        self.refreshing = (next < L::MAPS.len()).then_some(Refreshing { map: next, prune });
        if map == 0 {
            self.unread = None;
        }
        match self.read_map(map, prune) {
            Ok(()) => Ok(self.refreshing.is_some()),
            Err(error) => {
                self.unread = Some(Arc::from(format!("{}: {error}", L::MAPS[map])));
                Err(error)
            }
        }
    }

    /// Whether a full pass is under way.
    pub fn is_refreshing(&self) -> bool {
        self.refreshing.is_some()
    }

    fn read_map(&mut self, map: usize, prune: bool) -> Result<(), MapError> {
        let parity = !self.parity[map];
        let mut differs = Vec::new();
        let mut known = 0;
        let graph = &mut self.graph;
        let read = self.maps.read(map, &mut |key, value| {
            let slot = graph.find_entry(&key);
            let Some(entry) = slot.map(|slot| graph.entry_mut(slot)).filter(|entry| entry.have != 0) else {
                differs.push((key, value));
                return;
            };
            known += 1;
            entry.set(flag::READ, parity);
            if entry.have != L::digest(&key, &value).get() {
                differs.push((key, value));
            }
        });
        if let Err(error) = read {
            let of_map = self.graph.entries.iter().filter(|(_, entry)| L::map(&entry.key) == map);
            let slots: Vec<Slot> = of_map.map(|(slot, _)| slot).collect();
            slots.into_iter().for_each(|slot| self.graph.entry_mut(slot).set(flag::READ, !parity));
            return Err(error);
        }
        let missing = self.held[map] - known;
        self.parity[map] = parity;
        if missing > 0 {
            self.found_missing(map, parity);
        }
        for (key, value) in differs {
            let slot = self.graph.entry_slot(&key);
            if prune && self.graph.entry(slot).owner().is_some() {
                continue;
            }
            self.found(slot, &key, &value);
            self.found_changed(slot);
        }
        Ok(())
    }

    fn found_missing(&mut self, map: usize, parity: bool) {
        let entries = self.graph.entries.iter();
        let missing: Vec<Slot> = entries
            .filter(|(_, entry)| {
                entry.have != 0 && L::map(&entry.key) == map && entry.is(flag::READ) != parity
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in missing {
            self.set_held(slot, None);
            self.found_changed(slot);
        }
    }

    /// Somebody else changed an entry: the changes of all rows that want it are missing again.
    fn found_changed(&mut self, slot: Slot) {
        self.note_loss(slot);
        self.entry_changed(slot);
    }
}
