//! The verbs on the client itself, for types that know their kind.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use serde::Serialize;

use super::{Client, Deletion, Listed};
use crate::object::Object;
use crate::{Error, Key, Query};

/// Each is the verb of the same name of [`Kinds`](super::Kinds), with its errors.
impl Client {
    /// Reads one object, by a quorum read: [`Kinds::get`](super::Kinds::get).
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when it does not exist.
    pub async fn get<K: Object<DynamicType = ()>>(&self, key: &Key) -> Result<K, Error> {
        self.kind::<K>().get(key).await
    }

    /// Reads one object that may not exist: [`Kinds::get_opt`](super::Kinds::get_opt).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers but "not found".
    pub async fn get_opt<K: Object<DynamicType = ()>>(&self, key: &Key) -> Result<Option<K>, Error> {
        self.kind::<K>().get_opt(key).await
    }

    /// Reads all objects of a query: [`Kinds::list`](super::Kinds::list).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers.
    pub async fn list<K: Object<DynamicType = ()>>(&self, query: &Query) -> Result<Listed<K>, Error> {
        self.kind::<K>().list(query).await
    }

    /// Creates `object`: [`Kinds::create`](super::Kinds::create).
    ///
    /// # Errors
    ///
    /// [`Error::is_already_exists`] when the name is taken.
    pub async fn create<K: Object<DynamicType = ()>>(&self, object: &mut K) -> Result<(), Error> {
        self.kind::<K>().create(object).await
    }

    /// Replaces `object`: [`Kinds::update`](super::Kinds::update).
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when it changed since it was read.
    pub async fn update<K: Object<DynamicType = ()>>(&self, object: &mut K) -> Result<(), Error> {
        self.kind::<K>().update(object).await
    }

    /// Replaces the status of `object`: [`Kinds::update_status`](super::Kinds::update_status).
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when it changed since it was read.
    pub async fn update_status<K: Object<DynamicType = ()>>(&self, object: &mut K) -> Result<(), Error> {
        self.kind::<K>().update_status(object).await
    }

    /// Creates or replaces `object`: [`Kinds::upsert`](super::Kinds::upsert).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers.
    pub async fn upsert<K: Object<DynamicType = ()>>(&self, object: &mut K) -> Result<(), Error> {
        self.kind::<K>().upsert(object).await
    }

    /// Server-side apply: [`Kinds::apply`](super::Kinds::apply).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers.
    pub async fn apply<K: Object<DynamicType = ()>>(&self, object: &mut K) -> Result<(), Error> {
        self.kind::<K>().apply(object).await
    }

    /// Patches one object: [`Kinds::patch`](super::Kinds::patch).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers.
    pub async fn patch<K, P>(&self, key: &Key, params: &PatchParams, patch: &Patch<P>) -> Result<K, Error>
    where
        K: Object<DynamicType = ()>,
        P: Serialize + Debug,
    {
        self.kind::<K>().patch(key, params, patch).await
    }

    /// Patches the status of one object: [`Kinds::patch_status`](super::Kinds::patch_status).
    ///
    /// # Errors
    ///
    /// Whatever the API server answers.
    pub async fn patch_status<K, P>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error>
    where
        K: Object<DynamicType = ()>,
        P: Serialize + Debug,
    {
        self.kind::<K>().patch_status(key, params, patch).await
    }

    /// Deletes by key: [`Kinds::delete`](super::Kinds::delete).
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none.
    pub async fn delete<K: Object<DynamicType = ()>>(&self, key: &Key) -> Result<Deletion<K>, Error> {
        self.kind::<K>().delete(key).await
    }

    /// Deletes this very object: [`Kinds::delete_this`](super::Kinds::delete_this).
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when the name belongs to another object now.
    pub async fn delete_this<K: Object<DynamicType = ()>>(&self, object: &K) -> Result<Deletion<K>, Error> {
        self.kind::<K>().delete_this(object).await
    }
}
