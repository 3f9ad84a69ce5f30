//! What a decision is made on: one state of several kinds, immutable.

use std::any::type_name;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::object::Object;
use crate::store::{Condition, Held, Part};
use crate::{Key, Poison, Version};

/// One coherent state of all queries of an accumulator. Cheap to clone and to keep: it shares its structure with
/// the ones before and after it.
///
/// # Guarantees
///
/// Every query was listed completely before the first snapshot. A snapshot contains every write that returned
/// through the client before it was taken, and if it contains one own write it contains those that returned
/// before that one, of whatever kind.
///
/// # Caveats
///
/// What others wrote may be missing; [`Snapshot::revision`] says how far a kind is complete. Kinds are not
/// ordered among each other as far as others' writes are concerned: an owner may be missing when its dependant is
/// here already.
#[derive(Clone)]
pub struct Snapshot {
    parts: Arc<BTreeMap<String, Part>>,
}

/// The objects of one query in a snapshot, sorted by key.
pub struct View<'a, K: Object> {
    objects: &'a OrdMap<Key, Held<K>>,
    part: &'a Part,
}

impl<K: Object> Clone for View<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Object> Copy for View<'_, K> {}

/// How one object differs between two snapshots. Never both `None`; both `Some` with different uids when it was
/// deleted and made anew in between.
#[derive(Clone, Debug)]
pub struct Change<K> {
    /// Namespace and name.
    pub key: Key,
    /// The object in the older snapshot.
    pub before: Option<Arc<K>>,
    /// The object in the newer snapshot.
    pub after: Option<Arc<K>>,
}

impl Snapshot {
    pub(crate) fn new(parts: BTreeMap<String, Part>) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// The objects of kind `K`.
    ///
    /// # Panics
    ///
    /// When the accumulator has no query for `K`, or several (then [`Snapshot::named`] picks one). Answering
    /// "none" would look like an empty cluster.
    pub fn view<K: Object>(&self) -> View<'_, K> {
        let mut found = self.parts.values().filter_map(View::of);
        match (found.next(), found.next()) {
            (Some(only), None) => only,
            (None, _) => panic!("{} is not watched by this accumulator", type_name::<K>()),
            (Some(_), Some(_)) => {
                panic!("{} is watched by several queries: name the one that is meant", type_name::<K>())
            }
        }
    }

    /// The objects of the query of that name.
    ///
    /// # Panics
    ///
    /// When the accumulator has no query of that name, or one of another type.
    pub fn named<K: Object>(&self, name: &str) -> View<'_, K> {
        let Some(view) = self.parts.get(name).and_then(View::of) else {
            panic!("no query {name:?} of {} in this accumulator", type_name::<K>());
        };
        view
    }

    /// The object of kind `K` with that key. Panics as [`Snapshot::view`].
    pub fn get<K: Object>(&self, key: &Key) -> Option<&Arc<K>> {
        self.view::<K>().get(key)
    }

    /// All objects of kind `K`, sorted by key. Panics as [`Snapshot::view`].
    pub fn list<K: Object>(&self) -> impl Iterator<Item = &Arc<K>> {
        self.view::<K>().iter()
    }

    /// All objects of kind `K` in one namespace, sorted by name. Panics as [`Snapshot::view`].
    pub fn in_namespace<K: Object>(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        self.view::<K>().in_namespace(namespace)
    }

    /// Up to which `resourceVersion` the objects of kind `K` are complete: that of the list, of the latest event
    /// or of the latest bookmark. Own writes may be ahead of it. Panics as [`Snapshot::view`].
    pub fn revision<K: Object>(&self) -> Option<&Version> {
        self.view::<K>().revision()
    }

    /// The objects of every kind that could not be read.
    pub fn poisoned(&self) -> impl Iterator<Item = &Poison> {
        self.parts.values().flat_map(|part| part.poisoned.values())
    }

    /// The queries that were interrupted or refused when the snapshot was taken, with the reason. Their objects
    /// are those last known.
    pub fn stale(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().filter_map(|(name, part)| match &part.condition {
            Condition::Refused(reason) | Condition::Failing(reason) => Some((name.as_str(), reason.as_str())),
            Condition::Listing | Condition::Synced => None,
        })
    }

    /// What changed of kind `K` since `older`; everything, when there is none. Costs in proportion to the
    /// changes. Panics as [`Snapshot::view`].
    pub fn changes_since<K: Object>(&self, older: Option<&Snapshot>) -> Vec<Change<K>> {
        let before = older.map(|older| older.view::<K>().objects.clone()).unwrap_or_default();
        changes(&before, self.view::<K>().objects)
    }

    /// Whether an object of kind `K` came, went, or has another `part` than in `older`. Costs as
    /// [`Snapshot::changes_since`]. Panics as [`Snapshot::view`].
    pub fn differs<K: Object, P: PartialEq>(&self, older: &Snapshot, part: impl Fn(&K) -> P) -> bool {
        let of = |object: &Option<Arc<K>>| object.as_deref().map(&part);
        self.changes_since::<K>(Some(older)).iter().any(|change| of(&change.before) != of(&change.after))
    }
}

impl<'a, K: Object> View<'a, K> {
    fn of(part: &'a Part) -> Option<Self> {
        part.objects.downcast_ref().map(|objects| Self { objects, part })
    }

    /// The object with that key.
    pub fn get(self, key: &Key) -> Option<&'a Arc<K>> {
        self.objects.get(key).map(|held| &held.0)
    }

    /// All objects, sorted by key.
    pub fn iter(self) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects.values().map(|held| &held.0)
    }

    /// The objects in one namespace, sorted by name.
    pub fn in_namespace(self, namespace: &str) -> impl Iterator<Item = &'a Arc<K>> {
        let first = Key::namespaced(namespace, "");
        let namespace = namespace.to_owned();
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| key.namespace() == Some(&namespace))
            .map(|(_, held)| &held.0)
    }

    /// How many objects there are.
    pub fn len(self) -> usize {
        self.objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(self) -> bool {
        self.objects.is_empty()
    }

    /// As [`Snapshot::revision`].
    pub fn revision(self) -> Option<&'a Version> {
        self.part.revision.as_ref()
    }

    /// The objects of this query that could not be read.
    pub fn poisoned(self) -> impl Iterator<Item = &'a Poison> {
        self.part.poisoned.values()
    }

    /// The objects grouped by what `keys` names for each; an object may be in no group or in several.
    pub fn grouped<G, I>(self, keys: impl Fn(&K) -> I) -> BTreeMap<G, Vec<&'a Arc<K>>>
    where
        G: Ord,
        I: IntoIterator<Item = G>,
    {
        let mut groups: BTreeMap<G, Vec<&'a Arc<K>>> = BTreeMap::new();
        for object in self.iter() {
            for group in keys(object) {
                groups.entry(group).or_default().push(object);
            }
        }
        groups
    }

    pub(crate) fn objects(self) -> &'a OrdMap<Key, Held<K>> {
        self.objects
    }
}

impl<K> Change<K> {
    /// The object after the change, or the last one known when it is gone.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.after.as_ref().or(self.before.as_ref())
    }
}

/// The groups that changes touch: those of an object as it was and as it is.
pub fn touched_groups<K, G, I>(changes: &[Change<K>], keys: impl Fn(&K) -> I) -> std::collections::BTreeSet<G>
where
    G: Ord,
    I: IntoIterator<Item = G>,
{
    changes
        .iter()
        .flat_map(|change| change.before.iter().chain(&change.after))
        .flat_map(|object| keys(object))
        .collect()
}

pub(crate) fn changes<K: Object>(
    before: &OrdMap<Key, Held<K>>,
    after: &OrdMap<Key, Held<K>>,
) -> Vec<Change<K>> {
    before
        .diff(after)
        .map(|item| {
            let (key, before, after) = match item {
                DiffItem::Add(key, after) => (key, None, Some(after)),
                DiffItem::Update { old: (_, before), new: (key, after) } => (key, Some(before), Some(after)),
                DiffItem::Remove(key, before) => (key, Some(before), None),
            };
            Change {
                key: key.clone(),
                before: before.map(|held| Arc::clone(&held.0)),
                after: after.map(|held| Arc::clone(&held.0)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn held(number: usize, version: &str) -> (Key, Held<ConfigMap>) {
        let name = format!("c{number}");
        let mut object = ConfigMap::default();
        object.metadata.uid = Some(name.clone());
        object.metadata.resource_version = Some(version.to_owned());
        (Key::namespaced("a", name), Held(Arc::new(object)))
    }

    /// The comparison skips what two states share; it must not skip what lies behind that.
    #[test]
    fn of_many_objects_every_single_change_is_told() {
        let keys = |before: &OrdMap<_, _>, after: &OrdMap<_, _>| -> Vec<Key> {
            changes::<ConfigMap>(before, after).into_iter().map(|change| change.key).collect()
        };
        let before: OrdMap<_, _> = (0..1_000).map(|number| held(number, "1")).collect();
        for number in 0..1_000 {
            let (key, changed) = held(number, "2");
            let without = before.without(&key);
            let one = std::slice::from_ref(&key);
            assert_eq!(keys(&before, &before.update(key.clone(), changed)), one, "changed");
            assert_eq!(keys(&before, &without), one, "gone");
            assert_eq!(keys(&without, &before), one, "new");
        }
    }
}
