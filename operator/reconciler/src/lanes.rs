//! Lists of entries to write or to remove, per map; what a small change asks for goes before the rest.

use std::collections::VecDeque;

use crate::slab::Slot;

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Write = 0,
    Remove = 1,
}

/// The lists. What is popped may have been settled meanwhile; a bit of the entry says whether it is still meant.
#[derive(Debug)]
pub(crate) struct Lanes {
    lists: [Vec<VecDeque<Slot>>; 4],
}

impl Lanes {
    pub(crate) fn new(maps: usize) -> Self {
        Self { lists: std::array::from_fn(|_| vec![VecDeque::new(); maps]) }
    }

    /// The bit of an entry that says that it is in this list.
    pub(crate) fn bit(direction: Direction, urgent: bool) -> u32 {
        1 << (direction as usize * 2 + usize::from(urgent))
    }

    pub(crate) fn push(&mut self, direction: Direction, urgent: bool, map: usize, slot: Slot) {
        self.lists[direction as usize * 2 + usize::from(urgent)][map].push_back(slot);
    }

    pub(crate) fn pop(&mut self, direction: Direction, urgent: bool, map: usize) -> Option<Slot> {
        let list = &mut self.lists[direction as usize * 2 + usize::from(urgent)][map];
        let slot = list.pop_front();
        if list.is_empty() && list.capacity() > 1024 {
            *list = VecDeque::new();
        }
        slot
    }

    pub(crate) fn is_empty(&self, direction: Direction) -> bool {
        let lists = &self.lists[direction as usize * 2..direction as usize * 2 + 2];
        lists.iter().flatten().all(VecDeque::is_empty)
    }
}
