//! An object as the stores hold it: shared, and equal to another when both are the same write.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kube::Resource;

/// A shared object. Equality is identity of uid and version, not a comparison of content.
pub(crate) struct Held<K>(pub(crate) Arc<K>);

impl<K> Clone for Held<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Deref for Held<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.0
    }
}

impl<K: Resource> Held<K> {
    pub(crate) fn uid(&self) -> Option<&str> {
        self.0.meta().uid.as_deref()
    }

    pub(crate) fn version(&self) -> Option<&str> {
        self.0.meta().resource_version.as_deref()
    }
}

impl<K: Resource> PartialEq for Held<K> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.version().is_some() && self.version() == other.version() && self.uid() == other.uid())
    }
}

impl<K: Resource> fmt::Debug for Held<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.0.meta();
        write!(f, "{:?}@{:?}", meta.name, meta.resource_version)
    }
}
