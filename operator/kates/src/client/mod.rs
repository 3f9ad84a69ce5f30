//! The one way in which a process talks to the API server about objects it also watches.

mod typed;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::broadcast;

pub use verbs::{Deletion, Kinds, Listed};

use crate::accumulator::Builder;
use crate::object::{self, Kind, Object};
use crate::store::{Coherence, Registry, Store};
use crate::{Poison, Query, source};

/// Limits and names a [`Client`] uses for all its calls.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who writes, in `managedFields`; at most 128 characters.
    pub field_manager: Option<String>,
    /// How long a call may take, retries inside kube included.
    pub call_limit: Duration,
    /// How long one watch lasts before it is opened anew; at most 290 s.
    pub watch_limit: Duration,
    /// Shortest and longest wait before a failed list or watch is tried again.
    pub retry: (Duration, Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            field_manager: None,
            call_limit: Duration::from_secs(30),
            watch_limit: Duration::from_secs(290),
            retry: (Duration::from_millis(250), Duration::from_secs(15)),
        }
    }
}

/// Reads, writes and watches objects. Cheap to clone; one per process, since stores are shared and writes are
/// seen by the accumulators of one client and its clones.
///
/// # Expected flow
///
/// [`Client::accumulate`] what decisions need; decide on a [`Snapshot`](crate::Snapshot); write through this
/// client. Where uniqueness depends on it (allocation), read with [`Client::get`] and [`Client::list`] instead of
/// a snapshot, and write with the version that was read.
///
/// # Guarantees
///
/// When a write returns `Ok`, the value passed in is what the API server answered, and every snapshot taken from
/// then on contains it: creates, updates of object or status, patches, deletions, and deletions that a finalizer
/// holds back (shown with their `deletionTimestamp`). [`Client::get`] and [`Client::list`] are quorum reads.
///
/// # Assumptions
///
/// The `kube::Client` below it belongs to one API server and identity.
///
/// # Caveats
///
/// A call that is dropped or times out may have been applied; it is seen when the watch shows it. kube repeats
/// calls answered with 429, 503 or 504, so a create may meet its own object: see
/// [`Error::is_already_exists`](crate::Error::is_already_exists).
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    kube: kube::Client,
    settings: Settings,
    registry: Registry,
    coherence: Coherence,
    reports: broadcast::Sender<Poison>,
}

impl Client {
    /// Uses `kube` with the default [`Settings`].
    pub fn new(kube: kube::Client) -> Self {
        Self::with_settings(kube, Settings::default())
    }

    /// Uses `kube` with these settings.
    pub fn with_settings(kube: kube::Client, settings: Settings) -> Self {
        let (reports, _) = broadcast::channel(256);
        let inner = Inner {
            kube,
            settings,
            registry: Registry::default(),
            coherence: Arc::new(RwLock::new(())),
            reports,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The client below, for what kates does not do (logs, Events, subresources of other kinds).
    pub fn kube(&self) -> &kube::Client {
        &self.inner.kube
    }

    /// Starts to describe a snapshot of several kinds.
    pub fn accumulate(&self) -> Builder {
        Builder::new(self.clone())
    }

    /// Every object that could not be read, as it is met. A receiver that falls behind by 256 misses some; what is
    /// poisoned now is always in [`Snapshot::poisoned`](crate::Snapshot::poisoned).
    pub fn poison_reports(&self) -> broadcast::Receiver<Poison> {
        self.inner.reports.subscribe()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn registry(&self) -> (&Registry, &Coherence) {
        (&self.inner.registry, &self.inner.coherence)
    }

    /// The store of a query, fed from the first reader on.
    pub(crate) fn store<K: Object>(&self, dyntype: &K::DynamicType, query: Query) -> Arc<Store<K>> {
        let kind = Kind::of::<K>(dyntype);
        let (registry, coherence) = self.registry();
        registry.store(&kind, &query, || {
            let reports = self.inner.reports.clone();
            let store = Store::new(kind.clone(), query.clone(), Arc::clone(coherence), reports);
            let api = object::api(self.kube(), dyntype, query.in_namespace());
            let task = tokio::spawn(source::feed(Arc::downgrade(&store), api, self.settings().clone()));
            store.feed_by(task.abort_handle());
            store
        })
    }
}
