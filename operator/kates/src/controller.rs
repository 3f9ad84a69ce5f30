//! kube-runtime's `Controller`, fed from the watches that the process has anyway.
//!
//! A reconcile is about a key. It takes one snapshot and looks the object itself up in there, together with
//! everything else, so there is no second copy of the objects and no mixture of states. A deletion triggers as
//! well, also one that was only noticed by a relist: the reconcile then finds no object under its key.
//!
//! Nothing is reconciled before every query of the accumulator has listed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;

use futures::{Stream, StreamExt, stream};
use imbl::OrdMap;
use kube::Resource;
use kube::core::ObjectMeta;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Key;
use crate::accumulator::Accumulator;
use crate::object::Object;
use crate::queue::Queue;
use crate::snapshot::{Change, changes};
use crate::store::{Epoch, Held};

/// How many deleted objects stay known to a controller, so that their last reconcile can run.
const DEPARTED: usize = 4096;

/// What a reconcile is about: an object of kind `K`, by key alone.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Subject<K> {
    metadata: ObjectMeta,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

impl<K> Subject<K> {
    fn new(key: &Key) -> Self {
        let metadata = ObjectMeta {
            name: Some(key.name().to_owned()),
            namespace: key.namespace().map(str::to_owned),
            ..ObjectMeta::default()
        };
        Self { metadata, kind: PhantomData }
    }
}

impl<K: Resource> Subject<K> {
    /// The key to look up in a snapshot.
    pub fn key(&self) -> Key {
        Key::of(self)
    }

    /// The reference to the subject of that key, for triggers.
    pub fn reference(key: &Key) -> ObjectRef<Self>
    where
        K::DynamicType: Default,
    {
        key.object_ref()
    }
}

impl<K> Clone for Subject<K> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Subject<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({:?}/{:?})", self.metadata.namespace, self.metadata.name)
    }
}

impl<K: Resource> Resource for Subject<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

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

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Accumulator {
    /// The changes of kind `K`, batch by batch; first all objects, be there none, when every query has listed. What
    /// happens between two polls is coalesced per object, so a slow reader costs no memory and holds up nothing.
    ///
    /// # Panics
    ///
    /// As [`Snapshot::view`](crate::Snapshot::view), when polled.
    pub fn changes<K: Object>(&self) -> impl Stream<Item = Vec<Change<K>>> + Send + 'static {
        let position = Position { accumulator: self.clone(), bell: self.bell(), seen: None };
        stream::unfold(position, Position::<K>::next)
    }

    /// The keys of kind `K` that changed, deletions included; first all.
    pub fn triggers<K: Object>(&self) -> impl Stream<Item = Key> + Send + 'static {
        self.changes::<K>().flat_map(|changes| stream::iter(changes.into_iter().map(|change| change.key)))
    }

    /// For every change of an `Other`, the subjects that `relate` names, for the object as it was and as it is:
    /// an object that changes its relation triggers both sides. For `Controller::reconcile_on`.
    pub fn related<Other, K, I>(
        &self,
        relate: impl Fn(&Other) -> I + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<Subject<K>>> + Send + 'static
    where
        Other: Object,
        K: Object,
        K::DynamicType: Default,
        I: IntoIterator<Item = Key>,
    {
        self.changes::<Other>().flat_map(move |changes| {
            let mut keys: Vec<Key> = changes
                .iter()
                .flat_map(|change| change.before.iter().chain(&change.after))
                .flat_map(|object| relate(object))
                .collect();
            keys.sort();
            keys.dedup();
            stream::iter(keys.into_iter().map(|key| Subject::<K>::reference(&key)))
        })
    }

    /// A kube-runtime controller for kind `K`, triggered by its changes and deletions, with its queue counted. Related
    /// kinds are added with `.reconcile_on(accumulator.related(…))`.
    pub fn controller<K>(&self) -> Queue<K>
    where
        K: Object<DynamicType = ()>,
    {
        let (reader, writer) = reflector::store::<Subject<K>>();
        let subjects = Subjects { writer, departed: VecDeque::new(), started: false };
        let triggers = self
            .changes::<K>()
            .scan(subjects, |subjects, changes| {
                let known = subjects.enter(changes);
                futures::future::ready(Some(stream::iter(known.into_iter().map(Ok))))
            })
            .flatten();
        Queue::new(triggers, reader)
    }
}

/// The subjects a controller knows: those that exist and those that went lately.
struct Subjects<K: Object> {
    writer: reflector::store::Writer<Subject<K>>,
    departed: VecDeque<Key>,
    started: bool,
}

impl<K: Object> Subjects<K>
where
    K::DynamicType: Default,
{
    fn enter(&mut self, changes: Vec<Change<K>>) -> Vec<Subject<K>> {
        if !self.started {
            self.writer.apply_watcher_event(&watcher::Event::Init);
        }
        let mut triggered = Vec::with_capacity(changes.len());
        for change in changes {
            let subject = Subject::new(&change.key);
            if self.started {
                self.writer.apply_watcher_event(&watcher::Event::Apply(subject.clone()));
            } else {
                self.writer.apply_watcher_event(&watcher::Event::InitApply(subject.clone()));
            }
            if change.after.is_some() {
                self.departed.retain(|key| *key != change.key);
            } else {
                self.departed.push_back(change.key);
            }
            triggered.push(subject);
        }
        if !std::mem::replace(&mut self.started, true) {
            self.writer.apply_watcher_event(&watcher::Event::InitDone);
        }
        while self.departed.len() > DEPARTED
            && let Some(key) = self.departed.pop_front()
        {
            self.writer.apply_watcher_event(&watcher::Event::Delete(Subject::new(&key)));
        }
        triggered
    }
}

/// Where one stream of changes has come to.
struct Position<K: Object> {
    accumulator: Accumulator,
    bell: watch::Receiver<Epoch>,
    /// `None` before the first batch, which is handed on even if it is empty.
    seen: Option<OrdMap<Key, Held<K>>>,
}

impl<K: Object> Position<K> {
    async fn next(mut self) -> Option<(Vec<Change<K>>, Self)> {
        loop {
            self.bell.mark_unchanged();
            if let Some(snapshot) = self.accumulator.snapshot() {
                let view = snapshot.view::<K>();
                let first = self.seen.is_none();
                let found = changes(&self.seen.take().unwrap_or_default(), view.objects());
                self.seen = Some(view.objects().clone());
                if first || !found.is_empty() {
                    return Some((found, self));
                }
            }
            // The sender lives in the accumulator.
            let _ = self.bell.changed().await;
        }
    }
}
