//! What one store knows, and how each thing that it hears changes it. Pure: no clock, no IO, no lock.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdMap;
use kube::Resource;
use kube::core::{DeserializeGuard, ObjectMeta};

use super::overlay::Overlay;
use super::registry::{Outcome, Written};
use super::{Epoch, Held};
use crate::object::{Kind, Object};
use crate::{Key, Poison, Query, Version};

/// Objects that have to be known before a list that lacks most of them is doubted.
const LEAST_DOUBTED: usize = 20;

/// Whether a query is being served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The first list is under way.
    Listing,
    /// Listed, and the watch goes on.
    Synced,
    /// The API server says no, or does not know the kind: nothing may be concluded from what is not there.
    Refused(String),
    /// Interrupted; what was known before is kept.
    Failing(String),
}

/// See the module.
pub(crate) struct State<K> {
    /// What the watch said.
    watched: OrdMap<Key, Held<K>>,
    /// What a snapshot shows: `watched` under the overlay.
    pub(crate) shown: OrdMap<Key, Held<K>>,
    pub(crate) overlay: Overlay<K>,
    pub(crate) poisoned: OrdMap<Key, Poison>,
    /// Everything up to here is in `watched`.
    pub(crate) revision: Option<Version>,
    pub(crate) condition: Condition,
    /// Whether a list was complete, once.
    pub(crate) complete: bool,
    pub(crate) epoch: Epoch,
}

impl<K: Object> Default for State<K> {
    fn default() -> Self {
        Self {
            watched: OrdMap::new(),
            shown: OrdMap::new(),
            overlay: Overlay::default(),
            poisoned: OrdMap::new(),
            revision: None,
            condition: Condition::Listing,
            complete: false,
            epoch: Epoch::default(),
        }
    }
}

impl<K: Object> State<K> {
    /// A complete list: what it does not name is gone.
    pub(crate) fn listed(
        &mut self,
        kind: &Kind,
        query: &Query,
        items: Vec<DeserializeGuard<K>>,
        revision: Version,
        began: u64,
        reports: &mut Vec<Poison>,
    ) {
        let mut touched: Vec<Key> = self.overlay.keys().cloned().collect();
        let mut missing = self.watched.clone();
        let before = std::mem::take(&mut self.poisoned);
        for item in items {
            let key = Key::of(&item);
            missing.remove(&key);
            match item.0 {
                Ok(mut object) => {
                    query.slim(object.meta_mut());
                    let held = Held(object.into());
                    if self.watched.get(&key) != Some(&held) {
                        self.watched.insert(key.clone(), held);
                        touched.push(key);
                    }
                }
                Err(invalid) => {
                    let report = self.poison(kind, &key, invalid.metadata, invalid.error);
                    if before.get(&key) != Some(&report) {
                        reports.push(report.clone());
                    }
                    self.poisoned.insert(key.clone(), report);
                    touched.push(key);
                }
            }
        }
        for key in missing.keys() {
            self.watched.remove(key);
            touched.push(key.clone());
        }
        self.overlay.listed(began);
        // A list replaces whatever was known, so also a revision that seems later.
        self.revision = None;
        self.reach(revision);
        let first = !std::mem::replace(&mut self.complete, true);
        if first || before != self.poisoned {
            self.epoch.content += 1;
        }
        self.turn(Condition::Synced);
        for key in touched {
            self.show(&key);
        }
    }

    /// Whether a list that names these lacks so much of what is known that it has to be asked for again: more than half
    /// of at least twenty objects. A cache that has lost its objects looks like that.
    pub(crate) fn doubts<'k>(&self, listed: impl Iterator<Item = &'k Key>) -> bool {
        let known = self.watched.len();
        if known < LEAST_DOUBTED {
            return false;
        }
        let still: HashSet<&Key> = listed.filter(|key| self.watched.contains_key(*key)).collect();
        (known - still.len()) * 2 > known
    }

    /// A new state of one object.
    pub(crate) fn applied(
        &mut self,
        kind: &Kind,
        query: &Query,
        object: DeserializeGuard<K>,
        reports: &mut Vec<Poison>,
    ) {
        let key = Key::of(&object);
        let meta = object.meta();
        let (uid, version) = (meta.uid.clone(), meta.resource_version.clone());
        match object.0 {
            Ok(mut object) => {
                query.slim(object.meta_mut());
                if self.poisoned.remove(&key).is_some() {
                    self.epoch.content += 1;
                }
                self.watched.insert(key.clone(), Held(object.into()));
            }
            Err(invalid) => {
                let report = self.poison(kind, &key, invalid.metadata, invalid.error);
                self.poisoned.insert(key.clone(), report.clone());
                self.epoch.content += 1;
                reports.push(report);
            }
        }
        self.overlay.saw(&key, uid.as_deref(), version.as_deref());
        self.show(&key);
        self.advance(version);
    }

    /// One object went away, or left the query.
    pub(crate) fn deleted(&mut self, object: &DeserializeGuard<K>) {
        let key = Key::of(object);
        let meta = object.meta();
        self.watched.remove(&key);
        if self.poisoned.remove(&key).is_some() {
            self.epoch.content += 1;
        }
        self.overlay.saw_deletion(&key, meta.uid.as_deref(), meta.resource_version.as_deref());
        self.show(&key);
        self.advance(meta.resource_version.clone());
    }

    /// Everything up to `revision` has been heard.
    pub(crate) fn reached(&mut self, revision: Version) {
        self.reach(revision);
    }

    /// Listing or watching works, or does not.
    pub(crate) fn turn(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.epoch.content += 1;
        }
    }

    /// An own write of this kind returned.
    pub(crate) fn wrote(&mut self, written: &Written, query: &Query) {
        let key = &written.key;
        if !query.could_select(key) {
            return;
        }
        match &written.outcome {
            Outcome::Exists(version) => {
                let selected = query.selects(key.namespace(), &written.labels)
                    && (!query.reads_fields()
                        || written.json().is_some_and(|json| query.selects_fields(json)));
                let object = if selected {
                    // Written as another type and not readable as this one: the watch will report it.
                    let Some(mut readable) = written.as_kind::<K>() else { return };
                    if !query.is_slim(readable.meta()) {
                        query.slim(Arc::make_mut(&mut readable).meta_mut());
                    }
                    Some(Held(readable))
                } else {
                    None
                };
                let (uid, revision) = (written.uid.as_deref(), self.revision.as_ref());
                self.overlay.wrote(key, uid, version.clone(), object, revision);
            }
            Outcome::Gone => {
                // The API server names the uid of what it deleted; if it does not, it was what we last saw.
                let seen = self.shown.get(key).and_then(|held| held.uid().map(str::to_owned));
                if let Some(uid) = written.uid.clone().or(seen) {
                    self.overlay.deleted(key, &uid);
                }
            }
        }
        self.show(key);
    }

    fn poison(&mut self, kind: &Kind, key: &Key, metadata: ObjectMeta, error: String) -> Poison {
        let same = self.watched.get(key).is_some_and(|held| held.uid() == metadata.uid.as_deref());
        if !same {
            self.watched.remove(key);
        }
        Poison {
            kind: kind.kind.clone(),
            key: key.clone(),
            metadata: Box::new(metadata),
            error,
            earlier_state_shown: same,
        }
    }

    fn advance(&mut self, version: Option<String>) {
        if let Some(version) = version {
            self.reach(Version::new(version));
        }
    }

    fn reach(&mut self, revision: Version) {
        if self.revision.as_ref().is_some_and(|current| current.reaches(&revision)) {
            return;
        }
        for key in self.overlay.caught_up(&revision) {
            self.show(&key);
        }
        self.revision = Some(revision);
        self.epoch.progress += 1;
    }

    fn show(&mut self, key: &Key) {
        let wanted = self.overlay.show(key, self.watched.get(key));
        if self.shown.get(key) == wanted.as_ref() {
            return;
        }
        match wanted {
            Some(held) => self.shown.insert(key.clone(), held),
            None => self.shown.remove(key),
        };
        self.epoch.content += 1;
    }
}
