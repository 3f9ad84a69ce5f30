//! Create, get, list, update, patch, upsert, apply and delete for one kind, and what each enters into the stores.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DeserializeGuard;
use serde::Serialize;
use tokio::time::timeout;

use super::Client;
use crate::object::{self, Kind, Object, Wire};
use crate::store::Written;
use crate::{Error, Key, Poison, Query, Version};

/// How often an upsert starts again when others write the same object.
const UPSERT_TRIES: usize = 5;

/// What a list answered: one consistent state of the kind.
#[derive(Clone, Debug)]
pub struct Listed<K> {
    /// The objects that could be read.
    pub items: Vec<K>,
    /// The ones that could not, by which a caller knows what `items` lacks.
    pub poisoned: Vec<Poison>,
    /// The revision of the list.
    pub revision: Version,
}

/// What became of an object that was deleted.
#[derive(Clone, Debug)]
pub enum Deletion<K> {
    /// It exists no more.
    Gone,
    /// A finalizer or a grace period holds it; this is its state now.
    Terminating(Box<K>),
}

/// The verbs for one kind, typed or untyped. Made by [`Client::kind`] and [`Client::kind_of`].
pub struct Kinds<K: Object> {
    client: Client,
    dyntype: K::DynamicType,
    kind: Kind,
}

impl Client {
    /// The verbs for a type that knows its kind.
    pub fn kind<K>(&self) -> Kinds<K>
    where
        K: Object,
        K::DynamicType: Default,
    {
        self.kind_of(K::DynamicType::default())
    }

    /// The verbs for a kind known at run time:
    /// `client.kind_of::<DynamicObject>(ApiResource::from_gvk(&gvk))`.
    pub fn kind_of<K: Object>(&self, dyntype: K::DynamicType) -> Kinds<K> {
        Kinds { client: self.clone(), kind: Kind::of::<K>(&dyntype), dyntype }
    }
}

impl<K: Object> Kinds<K> {
    /// Reads one object, by a quorum read.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when it does not exist; see [`Kinds::get_opt`].
    pub async fn get(&self, key: &Key) -> Result<K, Error> {
        self.call("get", key, self.api(key.namespace()).get(key.name())).await.map(|Wire(object)| object)
    }

    /// Reads one object that may not exist. `None` is only answered when the API server says that there is no
    /// object of that name; a kind that it does not know is an error.
    ///
    /// # Errors
    ///
    /// Whatever else the API server answers.
    pub async fn get_opt(&self, key: &Key) -> Result<Option<K>, Error> {
        match self.get(key).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.denies(key) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all objects of a query in one consistent list, by a quorum read.
    ///
    /// # Errors
    ///
    /// Whatever the API server answers; no partial result.
    pub async fn list(&self, query: &Query) -> Result<Listed<K>, Error> {
        let api = object::api::<DeserializeGuard<K>>(self.client.kube(), &self.dyntype, query.in_namespace());
        let nothing = Key::cluster("");
        let list = self.call("list", &nothing, api.list(&query.list_params())).await?;
        let revision = Version::new(list.metadata.resource_version.unwrap_or_default());
        let mut listed =
            Listed { items: Vec::with_capacity(list.items.len()), poisoned: Vec::new(), revision };
        for Wire(item) in list.items {
            let key = Key::of(&item);
            match item.0 {
                Ok(object) => listed.items.push(object),
                Err(invalid) => listed.poisoned.push(Poison {
                    kind: self.kind.kind.clone(),
                    key,
                    metadata: Box::new(invalid.metadata),
                    error: invalid.error,
                    earlier_state_shown: false,
                }),
            }
        }
        Ok(listed)
    }

    /// Creates `object`, which becomes what the API server stored.
    ///
    /// # Errors
    ///
    /// [`Error::is_already_exists`] when the name is taken, also by an earlier try of this very call.
    pub async fn create(&self, object: &mut K) -> Result<(), Error> {
        let key = Key::of(object);
        let wire = Wire(object.clone());
        let api = self.api(key.namespace());
        *object = self.wrote(self.call("create", &key, api.create(&self.post(), &wire)).await?.0);
        Ok(())
    }

    /// Replaces `object` at the version it carries; it becomes what the API server stored.
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when it changed since it was read; [`Error::Unversioned`] without a version.
    pub async fn update(&self, object: &mut K) -> Result<(), Error> {
        let key = Key::of(object);
        self.versioned("update", &key, object)?;
        let wire = Wire(object.clone());
        let api = self.api(key.namespace());
        let answer = self.call("update", &key, api.replace(key.name(), &self.post(), &wire)).await?;
        *object = self.wrote(answer.0);
        Ok(())
    }

    /// Replaces the status of `object` at the version it carries; it becomes what the API server stored.
    ///
    /// # Errors
    ///
    /// As [`Kinds::update`].
    pub async fn update_status(&self, object: &mut K) -> Result<(), Error> {
        let key = Key::of(object);
        self.versioned("update the status of", &key, object)?;
        let wire = Wire(object.clone());
        let api = self.api(key.namespace());
        let params = self.post();
        let call = api.replace_status(key.name(), &params, &wire);
        let answer = self.call("update the status of", &key, call).await?;
        *object = self.wrote(answer.0);
        Ok(())
    }

    /// Creates `object`, or replaces the one of that name whatever it was; it becomes what the API server stored.
    ///
    /// # Errors
    ///
    /// A conflict only when others wrote the object five times meanwhile.
    pub async fn upsert(&self, object: &mut K) -> Result<(), Error> {
        let mut tries = UPSERT_TRIES;
        loop {
            tries -= 1;
            let mut candidate = object.clone();
            candidate.meta_mut().resource_version = None;
            candidate.meta_mut().uid = None;
            let done = match self.create(&mut candidate).await {
                Err(error) if error.is_already_exists() => match self.get_opt(&Key::of(object)).await? {
                    Some(found) => {
                        candidate.meta_mut().resource_version = found.resource_version();
                        self.update(&mut candidate).await
                    }
                    None => Err(error),
                },
                done => done,
            };
            match done {
                Ok(()) => {
                    *object = candidate;
                    return Ok(());
                }
                Err(error)
                    if tries > 0
                        && (error.is_conflict() || error.is_already_exists() || error.is_not_found()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Server-side apply of the fields in `object`, taking them from other managers; it becomes what the API
    /// server stored. With a `resourceVersion` in it the object must still be at that version.
    ///
    /// # Errors
    ///
    /// Whatever the API server answers. The field manager is the one of [`Settings`](crate::Settings), and
    /// must be set there.
    pub async fn apply(&self, object: &mut K) -> Result<(), Error> {
        let key = Key::of(object);
        let manager = self.client.settings().field_manager.clone().unwrap_or_default();
        let mut body = serde_json::to_value(&*object).map_err(|source| Error::Serialize {
            verb: "apply",
            object: self.named(&key),
            source,
        })?;
        // The API server refuses managedFields in an apply, and wants to know the kind.
        if let Some(metadata) = body.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
            metadata.remove("managedFields");
        }
        if let Some(body) = body.as_object_mut() {
            body.entry("apiVersion").or_insert_with(|| K::api_version(&self.dyntype).into());
            body.entry("kind").or_insert_with(|| K::kind(&self.dyntype).into());
        }
        *object = self.patch(&key, &PatchParams::apply(&manager).force(), &Patch::Apply(body)).await?;
        Ok(())
    }

    /// Patches the object of that key and answers what the API server stored.
    ///
    /// # Errors
    ///
    /// Whatever the API server answers. A patch without a version in it overwrites whatever others wrote.
    pub async fn patch<P: Serialize + Debug>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error> {
        let api = self.api(key.namespace());
        let answer = self.call("patch", key, api.patch(key.name(), params, patch)).await?;
        Ok(self.wrote(answer.0))
    }

    /// Patches the status of the object of that key and answers what the API server stored.
    ///
    /// # Errors
    ///
    /// As [`Kinds::patch`].
    pub async fn patch_status<P: Serialize + Debug>(
        &self,
        key: &Key,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K, Error> {
        let api = self.api(key.namespace());
        let answer =
            self.call("patch the status of", key, api.patch_status(key.name(), params, patch)).await?;
        Ok(self.wrote(answer.0))
    }

    /// Deletes the object of that key, whichever it is.
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] when there is none.
    pub async fn delete(&self, key: &Key) -> Result<Deletion<K>, Error> {
        self.delete_with(key, &DeleteParams::default()).await
    }

    /// Deletes this very object: its uid is the precondition, so a namesake made since survives.
    ///
    /// # Errors
    ///
    /// [`Error::is_conflict`] when the name belongs to another object now, [`Error::is_not_found`] when to none.
    pub async fn delete_this(&self, object: &K) -> Result<Deletion<K>, Error> {
        let preconditions = Preconditions { uid: object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.delete_with(&Key::of(object), &params).await
    }

    /// Deletes the object of that key with parameters of the caller's (preconditions, propagation, grace period).
    ///
    /// # Errors
    ///
    /// As [`Kinds::delete_this`].
    pub async fn delete_with(&self, key: &Key, params: &DeleteParams) -> Result<Deletion<K>, Error> {
        let api = self.api(key.namespace());
        let answer = self.call("delete", key, api.delete(key.name(), params)).await?;
        // Some kinds answer the object they deleted; only one that waits for something has a deletionTimestamp.
        if let Some(Wire(object)) = answer.as_ref().left()
            && object.meta().deletion_timestamp.is_some()
            && !self.is_over(object)
        {
            return Ok(Deletion::Terminating(Box::new(self.wrote(object.clone()))));
        }
        let uid = answer.either(
            |Wire(object)| object.uid(),
            |status| status.details.map(|details| details.uid).filter(|uid| !uid.is_empty()),
        );
        self.enter(&Written::gone(key.clone(), uid));
        Ok(Deletion::Gone)
    }

    fn api(&self, namespace: Option<&str>) -> Api<Wire<K>> {
        object::api(self.client.kube(), &self.dyntype, namespace)
    }

    fn post(&self) -> PostParams {
        PostParams { dry_run: false, field_manager: self.client.settings().field_manager.clone() }
    }

    fn versioned(&self, verb: &'static str, key: &Key, object: &K) -> Result<(), Error> {
        match object.meta().resource_version.as_deref() {
            None | Some("") => Err(Error::Unversioned { verb, object: self.named(key) }),
            Some(_) => Ok(()),
        }
    }

    fn named(&self, key: &Key) -> String {
        format!("{} {key}", self.kind.kind)
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        key: &Key,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let limit = self.client.settings().call_limit;
        match timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Error::Api { verb, object: self.named(key), source }),
            Err(_) => Err(Error::Timeout { verb, object: self.named(key), limit }),
        }
    }

    /// A write of an object without finalizers left is what removes it when it was being deleted. A Namespace
    /// keeps its finalizers elsewhere.
    fn is_over(&self, object: &K) -> bool {
        let meta = object.meta();
        meta.deletion_timestamp.is_some()
            && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
            && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
            && !(self.kind.group.is_empty() && self.kind.kind == "Namespace")
    }

    /// Enters what a write answered into every store of this kind.
    fn wrote(&self, object: K) -> K {
        let over = self.is_over(&object);
        match object.meta().resource_version.as_deref().map(Version::from) {
            Some(version) if !over => {
                self.enter(&Written::exists(Arc::new(object.clone()), version));
            }
            _ => self.enter(&Written::gone(Key::of(&object), object.uid())),
        }
        object
    }

    fn enter(&self, written: &Written) {
        let (registry, coherence) = self.client.registry();
        registry.enter(&self.kind, written, coherence);
    }
}
