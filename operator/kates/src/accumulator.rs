//! Several queries, one snapshot: who is synced, what they show together, and when to look again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::client::Client;
use crate::object::Object;
use crate::snapshot::Snapshot;
use crate::store::{AnyStore, Bell, Condition, Epoch};
use crate::updates::Updates;
use crate::{Query, Version};

/// How often changes are signalled at most, unless set otherwise.
const INTERVAL: Duration = Duration::from_millis(100);

/// Describes an accumulator; made by [`Client::accumulate`].
#[must_use = "nothing is watched before start()"]
pub struct Builder {
    client: Client,
    stores: BTreeMap<String, Arc<dyn AnyStore>>,
    interval: Duration,
}

impl Builder {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, stores: BTreeMap::new(), interval: INTERVAL }
    }

    /// Adds a kind, under its plural name (`loadbalancers`). Must be called inside a tokio runtime.
    pub fn watch<K>(self, query: Query) -> Self
    where
        K: Object,
        K::DynamicType: Default,
    {
        let dyntype = K::DynamicType::default();
        let name = K::plural(&dyntype).into_owned();
        self.watch_kind::<K>(name, dyntype, query)
    }

    /// Adds a query under a name of its own, for a kind that is watched in several ways.
    pub fn watch_as<K>(self, name: impl Into<String>, query: Query) -> Self
    where
        K: Object,
        K::DynamicType: Default,
    {
        self.watch_kind::<K>(name, K::DynamicType::default(), query)
    }

    /// Adds a kind known at run time:
    /// `watch_kind::<DynamicObject>("widgets", ApiResource::from_gvk(&gvk), Query::all())`.
    ///
    /// # Panics
    ///
    /// When the name is taken already.
    pub fn watch_kind<K: Object>(
        mut self,
        name: impl Into<String>,
        dyntype: K::DynamicType,
        query: Query,
    ) -> Self {
        let name = name.into();
        let store = self.client.store::<K>(&dyntype, query);
        let before = self.stores.insert(name.clone(), store);
        assert!(before.is_none(), "two queries of one accumulator are named {name:?}");
        self
    }

    /// How often changes are signalled at most (default 100 ms). The first one after quiet is signalled at once.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The accumulator; its queries are being listed already.
    pub fn start(self) -> Accumulator {
        let bell = Arc::new(Bell::new(Epoch::default()));
        for store in self.stores.values() {
            store.subscribe(&bell);
        }
        let Self { client, stores, interval } = self;
        Accumulator { inner: Arc::new(Inner { client, stores, interval, bell }) }
    }
}

/// Several queries that make one snapshot. Cheap to clone; the watches live as long as one clone, snapshot reader
/// or stream of it does.
///
/// # Guarantees
///
/// No snapshot before every query has listed completely, be the list empty. A query that the API server refuses
/// (no permission, no such kind) is not empty but not synced: before the first snapshot it holds it back,
/// afterwards the objects last known stay; in both cases [`Accumulator::pending`] names it with the reason, and it
/// recovers by itself. Readers never hold up a watch.
#[derive(Clone)]
pub struct Accumulator {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    stores: BTreeMap<String, Arc<dyn AnyStore>>,
    interval: Duration,
    bell: Arc<Bell>,
}

/// How one query is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryStatus {
    /// What the API server says.
    pub condition: Condition,
    /// Whether it has been listed completely, at least once.
    pub complete: bool,
    /// Up to which `resourceVersion` it is complete.
    pub revision: Option<Version>,
    /// Own writes that the watch has not shown yet.
    pub ahead: usize,
}

impl Accumulator {
    /// The state of now; `None` before every query has listed.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (_, coherence) = self.inner.client.registry();
        let parts: BTreeMap<_, _> = {
            let _alone = coherence.write();
            self.inner.stores.iter().map(|(name, store)| (name.clone(), store.part())).collect()
        };
        parts.values().all(|part| part.complete).then(|| Snapshot::new(parts))
    }

    /// Waits until every query has listed.
    pub async fn synced(&self) -> Snapshot {
        let mut bell = self.bell();
        loop {
            bell.mark_unchanged();
            if let Some(snapshot) = self.snapshot() {
                return snapshot;
            }
            // The sender lives in `self`.
            let _ = bell.changed().await;
        }
    }

    /// The queries about which nothing may be concluded from what is not there, each with the reason: not listed
    /// yet, or refused. For `/readyz`. An interruption of a query that had listed is not among them.
    pub fn pending(&self) -> BTreeMap<String, String> {
        let status = self.status();
        status
            .into_iter()
            .filter_map(|(name, status)| match status.condition {
                Condition::Refused(reason) => Some((name, reason)),
                Condition::Failing(reason) if !status.complete => Some((name, reason)),
                Condition::Listing if !status.complete => Some((name, "not listed yet".to_owned())),
                _ if !status.complete => Some((name, "not listed yet".to_owned())),
                _ => None,
            })
            .collect()
    }

    /// How every query is doing.
    pub fn status(&self) -> BTreeMap<String, QueryStatus> {
        let of = |store: &Arc<dyn AnyStore>| {
            let (condition, complete) = store.condition_now();
            QueryStatus { condition, complete, revision: store.revision_now(), ahead: store.ahead() }
        };
        self.inner.stores.iter().map(|(name, store)| (name.clone(), of(store))).collect()
    }

    /// A reader of its own: told of changes, coalesced.
    pub fn updates(&self) -> Updates {
        Updates::new(self.clone())
    }

    /// The client this accumulator sees the writes of.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn interval(&self) -> Duration {
        self.inner.interval
    }

    pub(crate) fn bell(&self) -> watch::Receiver<Epoch> {
        self.inner.bell.subscribe()
    }
}
