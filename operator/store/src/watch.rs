//! Waiting for a row, a range of rows or a table.
//!
//! Those who wait are registered per table; a commit walks what it changed past them, after it has been swapped in and
//! the next writer let in. So whoever is woken sees what woke it, and nothing else wakes it.
//! Guarantees: no commit after a watch was made is missed; what its reader has seen already does not wake it again; what
//! two commits report out of order is not lost and never goes back; a dropped watch is no longer registered.
//! A watch of a table is also woken by a transaction that wrote and took back; those of rows and ranges are not.
//! The cost of a commit: nothing while nobody waits, else that of the change, plus a search in it per waiter (or per
//! changed row, if there are fewer of those than of waiters for rows).
//! What it does not do: wait for a key of a secondary index, or say what changed (a change iterator does).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::reader::Reader;
use crate::row::Row;
use crate::schema::Holds;
use crate::snapshot::Snapshot;
use crate::table::Table;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched<K> {
    /// The row of this key, also while there is none.
    Key(K),
    /// Rows from the first to the last key, both included.
    Range(K, K),
    /// Any row.
    Table,
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    /// Revision of the snapshot that was given out last.
    seen: AtomicU64,
    /// Greatest revision of a commit that concerned it.
    fired: AtomicU64,
    wake: Notify,
}

/// Who waits for what in one table.
#[derive(Debug)]
pub struct Waiters<K> {
    registered: Mutex<Registered<K>>,
}

#[derive(Debug)]
struct Registered<K> {
    next: u64,
    keys: HashMap<K, Vec<(u64, Arc<Waiter>)>>,
    ranges: HashMap<u64, (K, K, Arc<Waiter>)>,
    table: HashMap<u64, Arc<Waiter>>,
}

impl<K> Default for Waiters<K> {
    fn default() -> Self {
        let none =
            Registered { next: 0, keys: HashMap::new(), ranges: HashMap::new(), table: HashMap::new() };
        Self { registered: Mutex::new(none) }
    }
}

impl<K: Copy + Ord + std::hash::Hash> Waiters<K> {
    /// `current` is called once nothing committed later can be missed.
    fn register(&self, watched: Watched<K>, current: impl FnOnce() -> u64) -> (u64, Arc<Waiter>) {
        let mut registered = self.registered.lock();
        let id = registered.next;
        registered.next += 1;
        let (fired, wake) = (AtomicU64::new(0), Notify::new());
        let waiter = Arc::new(Waiter { seen: AtomicU64::new(current()), fired, wake });
        let entry = Arc::clone(&waiter);
        match watched {
            Watched::Key(key) => registered.keys.entry(key).or_default().push((id, entry)),
            Watched::Range(first, last) => drop(registered.ranges.insert(id, (first, last, entry))),
            Watched::Table => drop(registered.table.insert(id, entry)),
        }
        (id, waiter)
    }

    fn forget(&self, watched: Watched<K>, id: u64) {
        let mut registered = self.registered.lock();
        match watched {
            Watched::Key(key) => {
                if let Some(waiters) = registered.keys.get_mut(&key) {
                    waiters.retain(|(known, _)| *known != id);
                    if waiters.is_empty() {
                        registered.keys.remove(&key);
                    }
                }
            }
            Watched::Range(..) => drop(registered.ranges.remove(&id)),
            Watched::Table => drop(registered.table.remove(&id)),
        }
    }

    /// Number of watches on this table.
    pub(crate) fn len(&self) -> usize {
        let registered = self.registered.lock();
        registered.keys.values().map(Vec::len).sum::<usize>()
            + registered.ranges.len()
            + registered.table.len()
    }

    /// Wakes who waits for what differs.
    #[doc(hidden)]
    pub fn wake<R: Row<Key = K>>(&self, before: &Table<R>, after: &Table<R>, revision: u64) {
        if before.revision() == after.revision() {
            return;
        }
        let (anybody, keys) = {
            let registered = self.registered.lock();
            let keys = !registered.keys.is_empty() || !registered.ranges.is_empty();
            (keys || !registered.table.is_empty(), keys)
        };
        if !anybody {
            return;
        }
        // Who registers meanwhile has seen this commit. Nobody is kept from registering while the tables are compared,
        // and no waker runs under the lock.
        let changed: Vec<K> = if keys {
            after.changes_since(before).map(|change| change.row().key()).collect()
        } else {
            Vec::new()
        };
        let woken = self.registered.lock().concerned(&changed);
        for waiter in woken {
            waiter.report(revision);
        }
    }
}

impl<K: Copy + Ord + std::hash::Hash> Registered<K> {
    /// Who waits for one of these keys, which are sorted, or for the table.
    fn concerned(&self, changed: &[K]) -> Vec<Arc<Waiter>> {
        let mut found: Vec<Arc<Waiter>> = self.table.values().cloned().collect();
        let mut take =
            |waiters: &[(u64, Arc<Waiter>)]| found.extend(waiters.iter().map(|(_, w)| Arc::clone(w)));
        if self.keys.len() < changed.len() {
            let waited_for = self.keys.iter().filter(|(key, _)| changed.binary_search(key).is_ok());
            waited_for.for_each(|(_, waiters)| take(waiters));
        } else {
            changed.iter().filter_map(|key| self.keys.get(key)).for_each(|waiters| take(waiters));
        }
        for (first, last, waiter) in self.ranges.values() {
            let at = changed.partition_point(|key| key < first);
            if changed.get(at).is_some_and(|key| key <= last) {
                found.push(Arc::clone(waiter));
            }
        }
        found
    }
}

impl Waiter {
    fn report(&self, revision: u64) {
        if revision > self.seen.load(Ordering::Acquire) {
            self.fired.fetch_max(revision, Ordering::AcqRel);
            self.wake.notify_one();
        }
    }

    fn is_due(&self) -> bool {
        self.fired.load(Ordering::Acquire) > self.seen.load(Ordering::Acquire)
    }
}

/// Waits for changes of what it was made for. Make it before the snapshot that you act on is taken, or take that from
/// [`Watch::snapshot`]; then nothing falls between.
#[derive(Debug)]
pub struct Watch<S: Holds<R>, R: Row> {
    reader: Reader<S>,
    watched: Watched<R::Key>,
    id: u64,
    waiter: Arc<Waiter>,
}

impl<S: Holds<R>, R: Row> Watch<S, R> {
    pub(crate) fn new(reader: Reader<S>, watched: Watched<R::Key>) -> Self {
        let current = || reader.snapshot().revision();
        let (id, waiter) = S::waiters(reader.waiters()).register(watched, current);
        Self { reader, watched, id, waiter }
    }

    /// Waits until it has changed since the snapshot that was given out last, and gives one in which it has.
    /// May be dropped and called again at any time.
    pub async fn changed(&mut self) -> Arc<Snapshot<S>> {
        while !self.waiter.is_due() {
            self.waiter.wake.notified().await;
        }
        self.snapshot()
    }

    /// Whether it has changed since the snapshot that was given out last.
    pub fn has_changed(&self) -> bool {
        self.waiter.is_due()
    }

    /// The current snapshot; what is in it does not wake this watch any more.
    pub fn snapshot(&mut self) -> Arc<Snapshot<S>> {
        let snapshot = self.reader.snapshot();
        self.waiter.seen.store(snapshot.revision(), Ordering::Release);
        snapshot
    }

    /// What it waits for.
    pub fn watched(&self) -> Watched<R::Key> {
        self.watched
    }

    pub(crate) fn reader(&self) -> &Reader<S> {
        &self.reader
    }
}

impl<S: Holds<R>, R: Row> Drop for Watch<S, R> {
    fn drop(&mut self) {
        S::waiters(self.reader.waiters()).forget(self.watched, self.id);
    }
}
