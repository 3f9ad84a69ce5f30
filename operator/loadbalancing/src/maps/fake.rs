//! Maps in memory: with the room of the real ones, and a counter of writes.

use std::collections::{BTreeMap, HashMap};

use super::entry::{MapId, MapKey, MapValue};
use super::{LbMaps, MapError};

/// Maps in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FakeMaps {
    entries: BTreeMap<MapKey, MapValue>,
    counts: HashMap<MapId, usize>,
    room: HashMap<MapId, usize>,
    writes: u64,
}

impl FakeMaps {
    /// Empty maps without bounds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a map room for so many entries.
    pub fn set_room(&mut self, map: MapId, entries: usize) {
        self.room.insert(map, entries);
    }

    /// Successful updates and deletions so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// The content.
    pub fn content(&self) -> &BTreeMap<MapKey, MapValue> {
        &self.entries
    }

    /// The content as text.
    pub fn dump(&self) -> String {
        super::dump(self.entries.clone())
    }

    /// Entries that name an entry which is not there, each with the missing one.
    pub fn dangling(&self) -> Vec<(MapKey, MapKey)> {
        let mut out = Vec::new();
        for (key, value) in &self.entries {
            let missing = key.targets(value).into_iter().filter(|t| !self.entries.contains_key(t));
            out.extend(missing.map(|t| (*key, t)));
        }
        out
    }
}

impl LbMaps for FakeMaps {
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        Ok(self.entries.iter().map(|(k, v)| (*k, v.clone())).collect())
    }

    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
        if !self.entries.contains_key(key) {
            let count = self.counts.entry(key.map()).or_default();
            if self.room.get(&key.map()).is_some_and(|room| *count >= *room) {
                return Err(MapError::Full);
            }
            *count += 1;
        }
        self.entries.insert(*key, value.clone());
        self.writes += 1;
        Ok(())
    }

    fn delete(&mut self, key: &MapKey) -> Result<(), MapError> {
        if self.entries.remove(key).is_some() {
            if let Some(count) = self.counts.get_mut(&key.map()) {
                *count -= 1;
            }
            self.writes += 1;
        }
        Ok(())
    }
}
