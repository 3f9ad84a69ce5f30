//! The current snapshot and those who wait for the next: for whoever may not write.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::changes::{Changes, Since};
use crate::row::Row;
use crate::schema::{Holds, Schema};
use crate::snapshot::Snapshot;
use crate::watch::{Watch, Watched};

pub(crate) struct Shared<S: Schema> {
    pub(crate) current: ArcSwap<Snapshot<S>>,
    pub(crate) writing: Mutex<()>,
    waiters: S::Waiters,
    any: watch::Sender<u64>,
}

/// Reads a store. Cloning gives another handle to the same store.
pub struct Reader<S: Schema> {
    shared: Arc<Shared<S>>,
}

impl<S: Schema> Clone for Reader<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Schema> fmt::Debug for Reader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(&self.snapshot().revision).finish()
    }
}

impl<S: Schema> Reader<S> {
    pub(crate) fn empty() -> Self {
        let shared = Shared {
            current: ArcSwap::from_pointee(Snapshot::default()),
            writing: Mutex::new(()),
            waiters: S::Waiters::default(),
            any: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn shared(&self) -> &Shared<S> {
        &self.shared
    }

    pub(crate) fn waiters(&self) -> &S::Waiters {
        &self.shared.waiters
    }

    /// The current snapshot: one atomic load, never blocks.
    pub fn snapshot(&self) -> Arc<Snapshot<S>> {
        self.shared.current.load_full()
    }

    /// Waits for a row, a range of rows or a table.
    pub fn watch<R: Row>(&self, watched: Watched<R::Key>) -> Watch<S, R>
    where
        S: Holds<R>,
    {
        Watch::new(self.clone(), watched)
    }

    /// Revision of the store; marked changed after each transaction that changed a row or what is pending.
    /// Its value never goes back, and what it says can be read.
    pub fn watch_any(&self) -> watch::Receiver<u64> {
        self.shared.any.subscribe()
    }

    /// Changes of one table.
    pub fn changes<R: Row>(&self, since: Since) -> Changes<S, R>
    where
        S: Holds<R>,
    {
        Changes::new(self.watch(Watched::Table), since)
    }

    /// Waits until every registered initializer has completed.
    pub async fn wait_until_initialized(&self) -> Arc<Snapshot<S>> {
        let mut any = self.watch_any();
        loop {
            any.mark_unchanged();
            let snapshot = self.snapshot();
            // The sender lives in `self`.
            if snapshot.initialized() || any.changed().await.is_err() {
                return snapshot;
            }
        }
    }

    /// Number of watches and change iterators on a table.
    pub fn watches<R: Row>(&self) -> usize
    where
        S: Holds<R>,
    {
        S::waiters(self.waiters()).len()
    }
}

impl<S: Schema> Shared<S> {
    /// Wakes who waits for what differs. The later snapshot has been swapped in; commits may come here out of order.
    pub(crate) fn wake(&self, before: &Snapshot<S>, after: &Snapshot<S>) {
        S::wake(&self.waiters, &before.tables, &after.tables, after.revision);
        self.any.send_if_modified(|revision| {
            let later = after.revision > *revision;
            *revision = after.revision.max(*revision);
            later
        });
    }
}
