//! What changed in a table since the last look, deletions included.
//!
//! An iterator holds the table as it last saw it and compares; shared structure is skipped, so the cost follows the
//! change. There is no graveyard and nothing to leak: dropping the iterator drops the old table.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use tokio::sync::watch;

use super::snapshot::{Snapshot, Tables};
use super::table::{Row, Table};

/// One change of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<R> {
    /// Written for the first time since the last look.
    Added(Arc<R>),
    /// Written again.
    Updated {
        /// As it was at the last look.
        old: Arc<R>,
        /// As it is now.
        new: Arc<R>,
    },
    /// Gone; as it was at the last look.
    Removed(Arc<R>),
}

impl<R> Change<R> {
    /// The row as it was at the last look, unless it is new.
    pub fn old(&self) -> Option<&Arc<R>> {
        match self {
            Change::Added(_) => None,
            Change::Removed(old) | Change::Updated { old, .. } => Some(old),
        }
    }

    /// The row as it is, or as it was before it went.
    pub fn row(&self) -> &Arc<R> {
        match self {
            Change::Added(row) | Change::Removed(row) | Change::Updated { new: row, .. } => row,
        }
    }
}

/// Differences between two forms of a table, by key.
pub(crate) fn diff<R: Row>(old: &Table<R>, new: &Table<R>) -> Vec<Change<R>> {
    if old.revision() == new.revision() {
        return Vec::new();
    }
    old.rows()
        .diff(new.rows())
        .map(|item| match item {
            DiffItem::Add(_, e) => Change::Added(Arc::clone(&e.row)),
            DiffItem::Update { old, new } => {
                Change::Updated { old: Arc::clone(&old.1.row), new: Arc::clone(&new.1.row) }
            }
            DiffItem::Remove(_, e) => Change::Removed(Arc::clone(&e.row)),
        })
        .collect()
}

/// A change iterator over one table.
#[derive(Debug)]
pub struct Changes<R: Row> {
    tables: Arc<Tables>,
    seen: Table<R>,
    watch: watch::Receiver<u64>,
}

impl<R: Row> Changes<R> {
    pub(super) fn new(tables: Arc<Tables>, from_start: bool) -> Self {
        let watch = tables.watch(R::table_id());
        let seen = if from_start { Table::default() } else { R::table(&tables.snapshot()).clone() };
        Self { tables, seen, watch }
    }

    /// What changed since the last call, by key, and the snapshot in which it did. Never waits.
    pub fn poll(&mut self) -> (Vec<Change<R>>, Arc<Snapshot>) {
        self.watch.mark_unchanged();
        let snapshot = self.tables.snapshot();
        let now = R::table(&snapshot);
        let changes = diff(&self.seen, now);
        self.seen = now.clone();
        (changes, snapshot)
    }

    /// Waits until there is something to poll.
    pub async fn changed(&mut self) {
        // The sender lives in `tables`, which this iterator keeps alive.
        while R::table(&self.tables.snapshot()).revision() == self.seen.revision() {
            if self.watch.changed().await.is_err() {
                return;
            }
        }
    }
}
