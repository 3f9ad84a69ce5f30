//! One query's objects: what the watch said, with own writes on top.
//!
//! A store is shared by every reader of its query in the process; the objects are held once, as `Arc`s in a
//! persistent map, so a snapshot is a copy of the root. The watch (`source`) and the client write; nobody waits
//! for a reader.
//!
//! Invariants: `shown` is `watched` with the overlay applied. An unchanged object keeps its `Arc` over a relist.
//! Nothing here awaits, and no lock is held across a call to the API server.

mod held;
mod overlay;
mod registry;
mod state;

use std::any::Any;
use std::sync::{Arc, Weak};

use imbl::OrdMap;
use kube::core::DeserializeGuard;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;

pub(crate) use held::Held;
pub(crate) use registry::{Registry, Written};
pub use state::Condition;
pub(crate) use state::State;

use crate::object::{Kind, Object};
use crate::{Key, Poison, Query, Version};

/// Rung when something happened in a store; the numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// Changes of what a snapshot shows, or of what is synced.
    pub(crate) content: u64,
    /// Changes of the revision up to which it is complete.
    pub(crate) progress: u64,
}

/// What wakes a reader.
pub(crate) type Bell = watch::Sender<Epoch>;

/// Serialises snapshots of several stores against everything that enters them: writers share it, a snapshot
/// takes it alone, for as long as it takes to copy one root per store.
pub(crate) type Coherence = Arc<RwLock<()>>;

/// See the module.
pub(crate) struct Store<K: Object> {
    kind: Kind,
    query: Query,
    state: Mutex<State<K>>,
    bells: Mutex<Vec<Weak<Bell>>>,
    coherence: Coherence,
    reports: broadcast::Sender<Poison>,
    feeder: Mutex<Option<AbortHandle>>,
}

impl<K: Object> Store<K> {
    pub(crate) fn new(
        kind: Kind,
        query: Query,
        coherence: Coherence,
        reports: broadcast::Sender<Poison>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            query,
            state: Mutex::default(),
            bells: Mutex::default(),
            coherence,
            reports,
            feeder: Mutex::default(),
        })
    }

    /// Ties the task that feeds this store to its life.
    pub(crate) fn feed_by(&self, task: AbortHandle) {
        *self.feeder.lock() = Some(task);
    }

    pub(crate) fn plural(&self) -> &str {
        &self.kind.plural
    }

    pub(crate) fn query_now(&self) -> Query {
        self.query.clone()
    }

    /// How many own writes have entered; taken before a list begins.
    pub(crate) fn entered(&self) -> u64 {
        self.state.lock().overlay.entered()
    }

    /// A complete list at `revision`, begun when [`Store::entered`] was `began`.
    pub(crate) fn listed(&self, items: Vec<DeserializeGuard<K>>, revision: Version, began: u64) {
        self.change(|state, poison| state.listed(&self.kind, &self.query, items, revision, began, poison));
    }

    /// Whether a list with these objects lacks so much that it must be confirmed.
    pub(crate) fn doubts(&self, items: &[DeserializeGuard<K>]) -> bool {
        let keys: Vec<Key> = items.iter().map(Key::of).collect();
        self.state.lock().doubts(keys.iter())
    }

    /// The watch showed a new state of an object.
    pub(crate) fn applied(&self, object: DeserializeGuard<K>) {
        self.change(|state, poison| state.applied(&self.kind, &self.query, object, poison));
    }

    /// The watch showed a deletion, or that an object left the query.
    pub(crate) fn deleted(&self, object: &DeserializeGuard<K>) {
        self.change(|state, _| state.deleted(object));
    }

    /// The watch is complete up to `revision`.
    pub(crate) fn bookmark(&self, revision: Version) {
        self.change(|state, _| state.reached(revision));
    }

    /// Listing or watching works, or does not.
    pub(crate) fn condition(&self, condition: Condition) {
        self.change(|state, _| state.turn(condition));
    }

    fn change(&self, apply: impl FnOnce(&mut State<K>, &mut Vec<Poison>)) {
        let mut poison = Vec::new();
        let _shared = self.coherence.read();
        let (before, after) = {
            let mut state = self.state.lock();
            let before = state.epoch;
            apply(&mut state, &mut poison);
            (before, state.epoch)
        };
        for report in poison {
            tracing::warn!(kind = %report.kind, object = %report.key, error = %report.error,
                "object cannot be read and is skipped");
            // Without a subscriber there is nobody to tell.
            let _ = self.reports.send(report);
        }
        self.ring(before, after);
    }

    fn ring(&self, before: Epoch, after: Epoch) {
        if before == after {
            return;
        }
        self.bells.lock().retain(|bell| match bell.upgrade() {
            Some(bell) => {
                bell.send_modify(|sum| {
                    sum.content += after.content - before.content;
                    sum.progress += after.progress - before.progress;
                });
                true
            }
            None => false,
        });
    }
}

impl<K: Object> Drop for Store<K> {
    fn drop(&mut self) {
        if let Some(task) = self.feeder.lock().take() {
            task.abort();
        }
    }
}

/// One store's part of a snapshot.
pub(crate) struct Part {
    /// `OrdMap<Key, Held<K>>` of the store's `K`.
    pub(crate) objects: Arc<dyn Any + Send + Sync>,
    pub(crate) poisoned: OrdMap<Key, Poison>,
    pub(crate) revision: Option<Version>,
    pub(crate) condition: Condition,
    pub(crate) complete: bool,
}

/// A store without its type.
pub(crate) trait AnyStore: Send + Sync {
    fn kind(&self) -> &Kind;
    fn query(&self) -> &Query;
    fn enter(&self, written: &Written);
    fn part(&self) -> Part;
    fn condition_now(&self) -> (Condition, bool);
    fn revision_now(&self) -> Option<Version>;
    fn ahead(&self) -> usize;
    fn subscribe(&self, bell: &Arc<Bell>);
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<K: Object> AnyStore for Store<K> {
    fn kind(&self) -> &Kind {
        &self.kind
    }

    fn query(&self) -> &Query {
        &self.query
    }

    fn enter(&self, written: &Written) {
        let (before, after) = {
            let mut state = self.state.lock();
            let before = state.epoch;
            state.wrote(written, &self.query);
            (before, state.epoch)
        };
        self.ring(before, after);
    }

    fn part(&self) -> Part {
        let state = self.state.lock();
        Part {
            objects: Arc::new(state.shown.clone()),
            poisoned: state.poisoned.clone(),
            revision: state.revision.clone(),
            condition: state.condition.clone(),
            complete: state.complete,
        }
    }

    fn condition_now(&self) -> (Condition, bool) {
        let state = self.state.lock();
        (state.condition.clone(), state.complete)
    }

    fn revision_now(&self) -> Option<Version> {
        self.state.lock().revision.clone()
    }

    fn ahead(&self) -> usize {
        self.state.lock().overlay.len()
    }

    fn subscribe(&self, bell: &Arc<Bell>) {
        self.bells.lock().push(Arc::downgrade(bell));
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
