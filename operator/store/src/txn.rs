//! One write transaction over all tables.
//!
//! There is one write lock for the whole store: transactions follow each other, whatever tables they touch. They only edit
//! trees (about half a microsecond a row), so a second lock order would cost more thought than it saves waiting.
//! Guarantees: a transaction is seen whole or not at all, and one that is dropped leaves no trace; a row equal to the
//! stored one is not written: no new revision, nobody woken; whoever is woken sees what woke it.
//! Assumptions: a transaction is short, and nothing is awaited inside; it cannot be sent to another thread.
//! A row that is removed and put again is written: its revision is new.

use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::conflict::Conflict;
use crate::index::NeverRefuses;
use crate::initializer::Initializer;
use crate::reader::Shared;
use crate::row::{Row, Stored};
use crate::schema::{Holds, Schema};
use crate::snapshot::Snapshot;

/// One transaction. Dropping it aborts it. Sees what it has written itself.
#[must_use = "a transaction that is not committed leaves no trace"]
pub struct WriteTxn<'a, S: Schema> {
    shared: &'a Shared<S>,
    writing: MutexGuard<'a, ()>,
    base: Arc<Snapshot<S>>,
    pub(crate) next: Snapshot<S>,
    pub(crate) changed: bool,
}

impl<S: Schema> std::fmt::Debug for WriteTxn<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn")
            .field("revision", &self.revision())
            .field("changed", &self.changed)
            .finish()
    }
}

impl<'a, S: Schema> WriteTxn<'a, S> {
    pub(crate) fn new(shared: &'a Shared<S>) -> Self {
        let writing = shared.writing.lock();
        let base = shared.current.load_full();
        let next = (*base).clone();
        Self { shared, writing, base, next, changed: false }
    }

    /// The tables as this transaction has them so far.
    pub fn tables(&self) -> &S {
        &self.next.tables
    }

    /// The snapshot that it began with.
    pub fn base(&self) -> &Arc<Snapshot<S>> {
        &self.base
    }

    /// Revision that it gives to what it writes.
    pub fn revision(&self) -> u64 {
        self.base.revision + 1
    }

    /// Writes a row; `false` if the stored one is equal. For tables that have no unique index.
    pub fn put<R: Row>(&mut self, row: R) -> bool
    where
        S: Holds<R>,
        R::Indexes: NeverRefuses<R>,
    {
        let revision = self.revision();
        let Ok(written) = self.next.tables.table_mut().put::<Infallible>(row, revision, |_, _, _| Ok(()));
        self.changed |= written;
        written
    }

    /// Writes a row; `false` if the stored one is equal.
    ///
    /// # Errors
    /// [`Conflict::Taken`] if another row has one of its keys of a unique index; then nothing is written.
    pub fn try_put<R: Row>(&mut self, row: R) -> Result<bool, Conflict<R::Key>>
    where
        S: Holds<R>,
    {
        let revision = self.revision();
        let check = |table: &crate::Table<R>, key, row: &R| table.check_unique(key, row);
        let written = self.next.tables.table_mut().put(row, revision, check)?;
        self.changed |= written;
        Ok(written)
    }

    /// Compares and swaps: writes a row if the stored one has this revision (0: if there is none).
    ///
    /// # Errors
    /// [`Conflict::Moved`] if it has another, [`Conflict::Taken`] as [`WriteTxn::try_put`]; then nothing is written.
    pub fn put_if<R: Row>(&mut self, row: R, revision: u64) -> Result<bool, Conflict<R::Key>>
    where
        S: Holds<R>,
    {
        Holds::<R>::table(&self.next.tables).check_revision(row.key(), revision)?;
        self.try_put(row)
    }

    /// Removes a row, if there is one.
    pub fn remove<R: Row>(&mut self, key: R::Key) -> Option<Arc<Stored<R>>>
    where
        S: Holds<R>,
    {
        let revision = self.revision();
        let removed = self.next.tables.table_mut().remove(key, revision);
        self.changed |= removed.is_some();
        removed
    }

    /// Removes a row if it has this revision.
    ///
    /// # Errors
    /// [`Conflict::Moved`] if it has another or is absent; then nothing is removed.
    pub fn remove_if<R: Row>(&mut self, key: R::Key, revision: u64) -> Result<(), Conflict<R::Key>>
    where
        S: Holds<R>,
    {
        Holds::<R>::table(&self.next.tables).check_revision(key, revision)?;
        self.remove(key);
        Ok(())
    }

    /// Completes an initializer with this transaction; `false` if it is not pending in this store.
    ///
    /// It is only borrowed: if the transaction is dropped, the initializer is as pending as before and still the caller's.
    pub fn complete(&mut self, initializer: &Initializer) -> bool {
        let registration = initializer.registration();
        let Some(at) = self.next.pending.iter().position(|pending| Arc::ptr_eq(pending, registration)) else {
            return false;
        };
        Arc::make_mut(&mut self.next.pending).remove(at);
        self.changed = true;
        true
    }

    /// Makes the transaction visible, lets the next writer in, wakes who waits for what differs, and returns the revision
    /// at which the tables now are. That of the snapshot before, if nothing was written.
    pub fn commit(self) -> u64 {
        let Self { shared, writing, base, mut next, changed } = self;
        if !changed {
            return base.revision;
        }
        next.revision = base.revision + 1;
        let next = Arc::new(next);
        shared.current.store(Arc::clone(&next));
        drop(writing);
        shared.wake(&base, &next);
        next.revision
    }

    /// Drops everything that was written.
    pub fn abort(self) {}
}
