//! Maps in memory: with the room of the real ones, and a counter of writes.

use std::collections::BTreeMap;

use super::{MapError, Maps, Op};
use crate::layout::Layout;

/// Maps in memory.
#[derive(Debug)]
pub struct FakeMaps<L: Layout> {
    maps: Vec<BTreeMap<L::Key, L::Value>>,
    room: Vec<usize>,
    writes: u64,
}

/// An entry that names another which is not there, or is somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dangling<K> {
    /// The entry.
    pub from: K,
    /// What it names.
    pub to: K,
    /// The identity that it expects there; 0: any.
    pub expected: u32,
    /// The identity that is there; `None`: no entry is.
    pub found: Option<u32>,
}

impl<L: Layout> Clone for FakeMaps<L> {
    fn clone(&self) -> Self {
        Self { maps: self.maps.clone(), room: self.room.clone(), writes: self.writes }
    }
}

impl<L: Layout> Default for FakeMaps<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Layout> FakeMaps<L> {
    /// Empty maps without bounds.
    pub fn new() -> Self {
        let maps = L::MAPS.iter().map(|_| BTreeMap::new()).collect();
        Self { maps, room: vec![usize::MAX; L::MAPS.len()], writes: 0 }
    }

    /// Gives a map room for so many entries.
    pub fn set_room(&mut self, map: usize, entries: usize) {
        self.room[map] = entries;
    }

    /// Successful writes and removals so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// All entries, map by map and by key.
    pub fn content(&self) -> impl Iterator<Item = (&L::Key, &L::Value)> {
        self.maps.iter().flatten()
    }

    /// What an entry holds.
    pub fn get(&self, key: &L::Key) -> Option<&L::Value> {
        self.maps[L::map(key)].get(key)
    }

    /// Number of entries in all maps.
    pub fn len(&self) -> usize {
        self.maps.iter().map(BTreeMap::len).sum()
    }

    /// Whether no map has an entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes or removes one entry.
    ///
    /// # Errors
    /// [`MapError::Full`] if a new entry finds no room.
    pub fn write(&mut self, op: Op<L>) -> Result<(), MapError> {
        let Op { key, value } = op;
        let map = L::map(&key);
        let entries = &mut self.maps[map];
        match value {
            Some(value) => {
                if entries.len() >= self.room[map] && !entries.contains_key(&key) {
                    return Err(MapError::Full);
                }
                entries.insert(key, value);
                self.writes += 1;
            }
            None => self.writes += u64::from(entries.remove(&key).is_some()),
        }
        Ok(())
    }

    /// Entries that name an entry which is not there or has another identity than they expect.
    pub fn dangling(&self) -> Vec<Dangling<L::Key>> {
        let mut out = Vec::new();
        for (from, value) in self.content() {
            self.dangling_from(from, value, &mut out);
        }
        out
    }

    fn dangling_from(&self, from: &L::Key, value: &L::Value, out: &mut Vec<Dangling<L::Key>>) {
        L::targets(from, value, &mut |to, expected| {
            let found = self.get(&to).map(|value| L::identity(&to, value));
            if found.is_none_or(|found| expected != 0 && found != expected) {
                out.push(Dangling { from: *from, to, expected, found });
            }
        });
    }
}

impl<L: Layout> Maps<L> for FakeMaps<L> {
    fn read(&self, map: usize, each: &mut dyn FnMut(L::Key, L::Value)) -> Result<(), MapError> {
        self.maps[map].iter().for_each(|(key, value)| each(*key, value.clone()));
        Ok(())
    }

    fn apply(&mut self, _: usize, batch: &[Op<L>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        for (at, op) in batch.iter().enumerate() {
            done(at, self.write(op.clone()));
        }
    }
}
