//! How many subjects wait for their reconcile.
//!
//! kube-runtime keeps one place in its queue for a subject, however often it is triggered, and does not say how many are
//! taken. So triggers are counted on the way in, and subjects on the way out: when their reconcile begins, or when there
//! turns out to be none. A subject that is triggered while it is reconciled waits for the next time.
//!
//! Not counted: reconciles that were put off ([`Action::requeue`]). When they are due is between kube-runtime and the
//! reconcile, and a subject that is put off waits for time, not for its turn.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryFuture};
use kube::runtime::controller::{Action, Error};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use parking_lot::Mutex;

use crate::Key;
use crate::controller::Subject;
use crate::object::Object;

/// What a controller has done with a subject, with errors of its reconcile in it.
pub type Outcome<K, E> = Result<(ObjectRef<Subject<K>>, Action), Error<E, watcher::Error>>;

/// The subjects of a controller that were triggered and whose reconcile has not begun.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<HashSet<Key>>>);

impl Waiting {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn triggered(&self, key: Key) {
        self.0.lock().insert(key);
    }

    fn left(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

fn key_of<K>(reference: &ObjectRef<K>) -> Key
where
    K: kube::runtime::reflector::Lookup,
{
    match &reference.namespace {
        Some(namespace) => Key::namespaced(namespace.as_str(), reference.name.as_str()),
        None => Key::cluster(reference.name.as_str()),
    }
}

/// A kube-runtime controller for kind `K` whose queue is counted.
pub struct Queue<K: Object>
where
    K::DynamicType: Eq + std::hash::Hash,
{
    controller: Controller<Subject<K>>,
    waiting: Waiting,
}

impl<K: Object> Debug for Queue<K>
where
    K::DynamicType: Eq + std::hash::Hash,
{
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Queue").field("waiting", &self.waiting.count()).finish_non_exhaustive()
    }
}

impl<K: Object<DynamicType = ()>> Queue<K> {
    /// Of the triggers `own`, which the controller of these subjects begins with.
    pub fn new(
        own: impl Stream<Item = Result<Subject<K>, watcher::Error>> + Send + 'static,
        subjects: Store<Subject<K>>,
    ) -> Self {
        let waiting = Waiting::default();
        let told = waiting.clone();
        let own = own.inspect(move |triggered| {
            if let Ok(subject) = triggered {
                told.triggered(subject.key());
            }
        });
        Self { controller: Controller::for_stream(own, subjects), waiting }
    }

    /// The subjects that wait.
    pub fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// As [`Controller::reconcile_on`].
    #[must_use]
    pub fn reconcile_on(self, triggers: impl Stream<Item = ObjectRef<Subject<K>>> + Send + 'static) -> Self {
        let told = self.waiting.clone();
        let triggers = triggers.inspect(move |reference| told.triggered(key_of(reference)));
        Self { controller: self.controller.reconcile_on(triggers), ..self }
    }

    /// As [`Controller::reconcile_all_on`].
    #[must_use]
    pub fn reconcile_all_on(self, trigger: impl Stream<Item = ()> + Send + 'static) -> Self {
        let (told, subjects) = (self.waiting.clone(), self.controller.store());
        let trigger = trigger
            .inspect(move |()| subjects.state().iter().for_each(|subject| told.triggered(subject.key())));
        Self { controller: self.controller.reconcile_all_on(trigger), ..self }
    }

    /// The controller with other settings.
    #[must_use]
    pub fn with(self, set: impl FnOnce(Controller<Subject<K>>) -> Controller<Subject<K>>) -> Self {
        Self { controller: set(self.controller), ..self }
    }

    /// As [`Controller::run`].
    pub fn run<R, F, C>(
        self,
        mut reconcile: R,
        error_policy: impl Fn(Arc<Subject<K>>, &F::Error, Arc<C>) -> Action,
        context: Arc<C>,
    ) -> impl Stream<Item = Outcome<K, F::Error>>
    where
        R: FnMut(Arc<Subject<K>>, Arc<C>) -> F,
        F: TryFuture<Ok = Action> + Send + 'static,
        F::Error: std::error::Error + Send + 'static,
    {
        let (begun, none) = (self.waiting.clone(), self.waiting);
        let reconcile = move |subject: Arc<Subject<K>>, context: Arc<C>| {
            begun.left(&subject.key());
            reconcile(subject, context)
        };
        let outcomes = self.controller.run(reconcile, error_policy, context);
        outcomes.inspect(move |outcome| {
            // Triggers name subjects that there never were, too.
            if let Err(Error::ObjectNotFound(reference)) = outcome {
                none.left(&key_of(reference));
            }
        })
    }
}
