//! What an object is found by: namespace and name.
//!
//! Ordered by namespace first, so one namespace is one range of a sorted map. Cheap to clone.

use std::fmt;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::{Lookup, ObjectRef};

/// Namespace and name of an object of a kind known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

impl Key {
    /// An object in a namespace.
    pub fn namespaced(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }

    /// An object of a cluster-scoped kind.
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// The key of `object`; an object without a name (before a create with `generateName`) has an empty one.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().map(Arc::from),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// The namespace; `None` for a cluster-scoped kind.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The reference that kube-runtime's controllers use for an object of kind `K`.
    pub fn object_ref<K>(&self) -> ObjectRef<K>
    where
        K: Lookup,
        K::DynamicType: Default,
    {
        let found = ObjectRef::new(self.name());
        match self.namespace() {
            Some(namespace) => found.within(namespace),
            None => found,
        }
    }
}

impl<K: Lookup> From<&ObjectRef<K>> for Key {
    fn from(reference: &ObjectRef<K>) -> Self {
        Self {
            namespace: reference.namespace.as_deref().map(Arc::from),
            name: reference.name.as_str().into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_namespace_are_neighbours() {
        let mut keys = [
            Key::namespaced("b", "a"),
            Key::namespaced("a", "z"),
            Key::cluster("q"),
            Key::namespaced("a", "b"),
        ];
        keys.sort();
        assert_eq!(keys.map(|key| key.to_string()), ["q", "a/b", "a/z", "b/a"]);
    }
}
