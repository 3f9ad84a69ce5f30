//! Which types kates can carry, and the form in which they go over the wire.

use std::borrow::Cow;
use std::fmt::Debug;
use std::hash::Hash;

use kube::Resource;
use kube::api::Api;
use kube::core::{DynamicResourceScope, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A Kubernetes object, typed or untyped. Implemented for everything that can be.
pub trait Object:
    Resource<DynamicType: Clone + Debug + Eq + Hash + Send + Sync + 'static>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType: Clone + Debug + Eq + Hash + Send + Sync + 'static>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Group, version and plural: what an API server serves as one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// For texts and for the rule about Namespaces.
    pub(crate) kind: String,
}

impl Kind {
    pub(crate) fn of<K: Resource>(dyntype: &K::DynamicType) -> Self {
        Self {
            group: K::group(dyntype).into_owned(),
            version: K::version(dyntype).into_owned(),
            plural: K::plural(dyntype).into_owned(),
            kind: K::kind(dyntype).into_owned(),
        }
    }
}

/// `K` with its scope decided at run time, so that one generic function serves namespaced, cluster-scoped and
/// untyped objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Wire<K>(pub(crate) K);

impl<K: Resource> Resource for Wire<K> {
    type DynamicType = K::DynamicType;
    type Scope = DynamicResourceScope;

    fn kind(dyntype: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dyntype)
    }

    fn group(dyntype: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dyntype)
    }

    fn version(dyntype: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dyntype)
    }

    fn plural(dyntype: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dyntype)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

/// The API of kind `K` in one namespace, or in the whole cluster.
pub(crate) fn api<K: Resource>(
    client: &kube::Client,
    dyntype: &K::DynamicType,
    namespace: Option<&str>,
) -> Api<Wire<K>> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, dyntype),
        None => Api::all_with(client.clone(), dyntype),
    }
}
