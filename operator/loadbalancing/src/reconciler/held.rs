//! What the maps hold, as far as this process knows, and who points to what.

use std::collections::{BTreeMap, HashMap};

use crate::maps::{MapKey, MapValue};

#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<MapKey, MapValue>,
    /// How many held entries name this one.
    pointers: HashMap<MapKey, usize>,
}

impl Held {
    pub(super) fn new(entries: impl IntoIterator<Item = (MapKey, MapValue)>) -> Self {
        let mut held = Self::default();
        for (key, value) in entries {
            held.put(key, value);
        }
        held
    }

    pub(super) fn get(&self, key: &MapKey) -> Option<&MapValue> {
        self.entries.get(key)
    }

    pub(super) fn contains(&self, key: &MapKey) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn is_pointed_to(&self, key: &MapKey) -> bool {
        self.pointers.contains_key(key)
    }

    pub(super) fn put(&mut self, key: MapKey, value: MapValue) {
        for target in key.targets(&value) {
            *self.pointers.entry(target).or_default() += 1;
        }
        if let Some(old) = self.entries.insert(key, value) {
            self.unpoint(&key, &old);
        }
    }

    pub(super) fn remove(&mut self, key: &MapKey) {
        if let Some(old) = self.entries.remove(key) {
            self.unpoint(key, &old);
        }
    }

    fn unpoint(&mut self, key: &MapKey, value: &MapValue) {
        for target in key.targets(value) {
            if let Some(n) = self.pointers.get_mut(&target) {
                *n -= 1;
                if *n == 0 {
                    self.pointers.remove(&target);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &MapKey> {
        self.entries.keys()
    }
}
