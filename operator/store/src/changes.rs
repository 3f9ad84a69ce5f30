//! What changed in a table since the last look, removals included.
//!
//! An iterator holds the table as it last saw it and compares; shared structure is skipped, so the cost follows the
//! change. There is no graveyard and nothing to leak: dropping the iterator drops the old table. One that is never
//! polled keeps that one old table, however much changes.
//! Guarantees: every key that was written or removed between two polls comes once, in its latest form; a row that came
//! and went between two polls does not come at all; a row that was removed and written again, even as it was, is an
//! update, for its revision is another.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::row::{Row, Stored};
use crate::schema::Holds;
use crate::snapshot::Snapshot;
use crate::table::Table;
use crate::watch::Watch;

/// One change of a row.
#[derive(Debug, PartialEq)]
pub enum Change<'a, R> {
    /// Written for the first time.
    Added(&'a Arc<Stored<R>>),
    /// Written again.
    Updated {
        /// As it was.
        old: &'a Arc<Stored<R>>,
        /// As it is now.
        new: &'a Arc<Stored<R>>,
    },
    /// Removed; as it was.
    Removed(&'a Arc<Stored<R>>),
}

impl<R> Clone for Change<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Change<'_, R> {}

impl<'a, R> Change<'a, R> {
    /// The row as it was, unless it is new.
    pub fn old(self) -> Option<&'a Arc<Stored<R>>> {
        match self {
            Change::Added(_) => None,
            Change::Removed(old) | Change::Updated { old, .. } => Some(old),
        }
    }

    /// The row as it is now, unless it was removed.
    pub fn current(self) -> Option<&'a Arc<Stored<R>>> {
        match self {
            Change::Added(new) | Change::Updated { new, .. } => Some(new),
            Change::Removed(_) => None,
        }
    }

    /// The row as it is now, or as it was before it was removed.
    pub fn row(self) -> &'a Arc<Stored<R>> {
        match self {
            Change::Added(row) | Change::Removed(row) | Change::Updated { new: row, .. } => row,
        }
    }
}

impl<'a, R: Row> From<DiffItem<'a, 'a, R::Key, Arc<Stored<R>>>> for Change<'a, R> {
    fn from(item: DiffItem<'a, 'a, R::Key, Arc<Stored<R>>>) -> Self {
        match item {
            DiffItem::Add(_, row) => Change::Added(row),
            DiffItem::Update { old: (_, old), new: (_, new) } => Change::Updated { old, new },
            DiffItem::Remove(_, row) => Change::Removed(row),
        }
    }
}

/// Where a change iterator begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// With the rows that are there already, as added.
    Start,
    /// With what changes from now on.
    Now,
}

/// A change iterator over one table.
#[derive(Debug)]
pub struct Changes<S: Holds<R>, R: Row> {
    watch: Watch<S, R>,
    seen: Table<R>,
}

impl<S: Holds<R>, R: Row> Changes<S, R> {
    pub(crate) fn new(mut watch: Watch<S, R>, since: Since) -> Self {
        let seen = match since {
            Since::Start => Table::default(),
            Since::Now => watch.snapshot().table().clone(),
        };
        Self { watch, seen }
    }

    /// What changed since the last call, and the snapshot in which it did. Never waits.
    pub fn poll(&mut self) -> Delta<S, R> {
        let snapshot = self.watch.snapshot();
        let now = snapshot.table().clone();
        Delta { before: std::mem::replace(&mut self.seen, now), snapshot }
    }

    /// Waits until there is something to poll. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        // A poll may have taken in what the watch still has to report, and a start has rows that no commit reports.
        while Holds::<R>::table(&**self.watch.reader().snapshot()).revision() == self.seen.revision() {
            self.watch.changed().await;
        }
    }

    /// Waits for the next changes.
    pub async fn next(&mut self) -> Delta<S, R> {
        self.changed().await;
        self.poll()
    }
}

/// What a poll saw.
#[derive(Debug)]
pub struct Delta<S: Holds<R>, R: Row> {
    before: Table<R>,
    snapshot: Arc<Snapshot<S>>,
}

impl<S: Holds<R>, R: Row> Delta<S, R> {
    /// The changes, by key.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_, R>> {
        self.snapshot.table().changes_since(&self.before)
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The table as it was.
    pub fn before(&self) -> &Table<R> {
        &self.before
    }

    /// All tables as they are now.
    pub fn snapshot(&self) -> &Arc<Snapshot<S>> {
        &self.snapshot
    }
}
