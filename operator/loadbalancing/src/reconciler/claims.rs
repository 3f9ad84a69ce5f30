//! What the rows want in the maps, by entry.
//!
//! Several rows may want the same entry (two ports of one VIP): it stays until the last of them goes. Should they
//! disagree on its value, the first row by key decides, so that every run agrees.

use std::collections::BTreeMap;

use crate::maps::{MapKey, MapValue};
use crate::writer::RowKey;

#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Claimants of an entry, by row. Nearly always one.
    entries: BTreeMap<MapKey, Vec<(RowKey, MapValue)>>,
    rows: BTreeMap<RowKey, Vec<MapKey>>,
}

impl Claims {
    /// Replaces what a row wants; calls `changed` with each entry whose wanted value may differ now.
    pub(super) fn set(
        &mut self,
        row: &RowKey,
        entries: Vec<(MapKey, MapValue)>,
        mut changed: impl FnMut(&MapKey),
    ) {
        let mut keys: Vec<MapKey> = entries.iter().map(|(k, _)| *k).collect();
        keys.sort();
        keys.dedup();
        for key in self.rows.remove(row).unwrap_or_default() {
            if keys.binary_search(&key).is_err() {
                if let Some(claims) = self.entries.get_mut(&key) {
                    claims.retain(|(r, _)| r != row);
                    if claims.is_empty() {
                        self.entries.remove(&key);
                    }
                }
                changed(&key);
            }
        }
        for (key, value) in entries {
            let claims = self.entries.entry(key).or_default();
            match claims.binary_search_by(|(r, _)| r.cmp(row)) {
                Ok(i) if claims[i].1 == value => continue,
                Ok(i) => claims[i].1 = value,
                Err(i) => claims.insert(i, (row.clone(), value)),
            }
            changed(&key);
        }
        if !keys.is_empty() {
            self.rows.insert(row.clone(), keys);
        }
    }

    /// The value an entry should have.
    pub(super) fn wanted(&self, key: &MapKey) -> Option<&MapValue> {
        self.entries.get(key).and_then(|c| c.first()).map(|(_, v)| v)
    }

    /// Rows that want an entry.
    pub(super) fn claimants(&self, key: &MapKey) -> impl Iterator<Item = &RowKey> {
        self.entries.get(key).into_iter().flatten().map(|(r, _)| r)
    }

    /// Entries that a row wants.
    pub(super) fn of(&self, row: &RowKey) -> &[MapKey] {
        self.rows.get(row).map_or(&[], Vec::as_slice)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &MapKey> {
        self.entries.keys()
    }
}
