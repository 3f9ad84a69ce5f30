//! Writing rows into a table that nobody else sees yet.

use std::sync::Arc;

use crate::conflict::Conflict;
use crate::index::Indexes;
use crate::row::{Row, Stored};
use crate::table::Table;

impl<R: Row> Table<R> {
    /// Writes a row that differs from the stored one and that `check` lets pass; says whether it was written.
    pub(crate) fn put<E>(
        &mut self,
        row: R,
        revision: u64,
        check: impl FnOnce(&Self, R::Key, &R) -> Result<(), E>,
    ) -> Result<bool, E> {
        let key = row.key();
        let old = self.rows.get(&key);
        if old.is_some_and(|old| old.row == row) {
            return Ok(false);
        }
        check(self, key, &row)?;
        R::Indexes::update(&mut self.indexes, key, old.map(|old| &old.row), Some(&row));
        self.rows.insert(key, Arc::new(Stored { revision, row }));
        self.revision = revision;
        Ok(true)
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, key: R::Key, revision: u64) -> Option<Arc<Stored<R>>> {
        // Only to find out that there is nothing to remove would copy what snapshots share.
        self.rows.get(&key)?;
        let old = self.rows.remove(&key)?;
        R::Indexes::update(&mut self.indexes, key, Some(&old.row), None);
        self.revision = revision;
        Some(old)
    }

    /// Whether the unique indexes have room for this row.
    pub(crate) fn check_unique(&self, key: R::Key, row: &R) -> Result<(), Conflict<R::Key>> {
        R::Indexes::conflict(&self.indexes, key, row).map_or(Ok(()), Err)
    }

    /// Whether the row is the one that was read; 0 stands for absent.
    pub(crate) fn check_revision(&self, key: R::Key, expected: u64) -> Result<(), Conflict<R::Key>> {
        let found = self.get(key).map_or(0, |row| row.revision);
        if found == expected { Ok(()) } else { Err(Conflict::Moved { key, expected, found }) }
    }
}
