//! The stores of a process: one per kind and query, and what a write does to all of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::{AnyStore, Coherence, Store};
use crate::object::{Kind, Object};
use crate::{Key, Query, Version};

/// What a write left behind.
pub(crate) enum Outcome {
    /// The object exists, in this version.
    Exists(Version),
    /// The object exists no more.
    Gone,
}

/// A write that returned, in a form that every store of its kind understands, typed or not.
pub(crate) struct Written {
    pub(crate) key: Key,
    pub(crate) uid: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) outcome: Outcome,
    object: Option<Arc<dyn Any + Send + Sync>>,
    json: OnceLock<Option<serde_json::Value>>,
    to_json: fn(&(dyn Any + Send + Sync)) -> Option<serde_json::Value>,
}

impl Written {
    /// `object` exists, as the API server answered it.
    pub(crate) fn exists<K: Object>(object: Arc<K>, version: Version) -> Self {
        let meta = object.meta();
        Self {
            key: Key::of(&*object),
            uid: meta.uid.clone(),
            labels: meta.labels.clone().unwrap_or_default(),
            outcome: Outcome::Exists(version),
            json: OnceLock::new(),
            to_json: |any| any.downcast_ref::<K>().and_then(|object| serde_json::to_value(object).ok()),
            object: Some(object),
        }
    }

    /// The object with this uid is gone.
    pub(crate) fn gone(key: Key, uid: Option<String>) -> Self {
        Self {
            key,
            uid,
            labels: BTreeMap::new(),
            outcome: Outcome::Gone,
            object: None,
            json: OnceLock::new(),
            to_json: |_| None,
        }
    }

    /// The object as JSON, made once however many stores ask.
    pub(crate) fn json(&self) -> Option<&serde_json::Value> {
        self.json.get_or_init(|| self.object.as_deref().and_then(self.to_json)).as_ref()
    }

    /// The object as `K`: shared when it was written as `K`, parsed otherwise.
    pub(crate) fn as_kind<K: Object>(&self) -> Option<Arc<K>> {
        if let Some(object) = &self.object
            && let Ok(same) = Arc::clone(object).downcast::<K>()
        {
            return Some(same);
        }
        K::deserialize(self.json()?).ok().map(Arc::new)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    stores: Mutex<Vec<Weak<dyn AnyStore>>>,
}

impl Registry {
    /// The live store of this kind, type and query; made by `make` when there is none.
    pub(crate) fn store<K: Object>(
        &self,
        kind: &Kind,
        query: &Query,
        make: impl FnOnce() -> Arc<Store<K>>,
    ) -> Arc<Store<K>> {
        let mut stores = self.stores.lock();
        stores.retain(|store| store.strong_count() > 0);
        let identity = query.identity();
        let found = stores.iter().filter_map(Weak::upgrade).find_map(|store| {
            let same = store.kind() == kind && store.query().identity() == identity;
            same.then(|| store.into_any().downcast::<Store<K>>().ok()).flatten()
        });
        found.unwrap_or_else(|| {
            let made = make();
            let erased: Arc<dyn AnyStore> = made.clone();
            stores.push(Arc::downgrade(&erased));
            made
        })
    }

    /// Enters a write into every store of its kind, in one step as far as snapshots can see.
    pub(crate) fn enter(&self, kind: &Kind, written: &Written, coherence: &Coherence) {
        let stores: Vec<_> = self.stores.lock().iter().filter_map(Weak::upgrade).collect();
        let _shared = coherence.read();
        for store in stores.iter().filter(|store| store.kind() == kind) {
            store.enter(written);
        }
    }
}
