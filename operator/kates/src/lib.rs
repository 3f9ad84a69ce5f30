//! One coherent snapshot of many Kubernetes kinds, with read-your-writes.
//!
//! kube reads and writes objects, kube-runtime schedules reconciles; what neither has is one state of several
//! kinds to decide on, that contains what this process itself has written. This crate adds that, and nothing else:
//! no leader election, no code generation, no retries of writes.
//!
//! # Expected flow
//!
//! ```no_run
//! use futures::StreamExt;
//! use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
//! use kates::{Client, Error, Key, Query, Subject};
//! use kube::runtime::controller::Action;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! struct Context {
//!     client: Client,
//!     watched: kates::Accumulator,
//! }
//!
//! async fn reconcile(subject: Arc<Subject<Namespace>>, context: Arc<Context>) -> Result<Action, Error> {
//!     // One state of everything, the object itself included; gone is a state too.
//!     let Some(snapshot) = context.watched.snapshot() else { return Ok(Action::requeue(Duration::from_secs(1))) };
//!     let key = subject.key();
//!     let Some(namespace) = snapshot.get::<Namespace>(&key) else { return Ok(Action::await_change()) };
//!     if snapshot.in_namespace::<ConfigMap>(key.name()).next().is_none() {
//!         let mut greeting = ConfigMap::default();
//!         greeting.metadata.namespace = namespace.metadata.name.clone();
//!         greeting.metadata.name = Some("greeting".into());
//!         // From here on every snapshot has it: the next reconcile will not make it again.
//!         context.client.create(&mut greeting).await?;
//!     }
//!     Ok(Action::await_change())
//! }
//!
//! async fn run(kube: kube::Client) {
//!     let client = Client::new(kube);
//!     let watched =
//!         client.accumulate().watch::<Namespace>(Query::all()).watch::<ConfigMap>(Query::all()).start();
//!     let of_its_namespace = |object: &ConfigMap| object.metadata.namespace.as_deref().map(Key::cluster);
//!     let controller =
//!         watched.controller::<Namespace>().reconcile_on(watched.related(of_its_namespace));
//!     let context = Arc::new(Context { client, watched });
//!     controller
//!         .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), context)
//!         .for_each(|_| async {})
//!         .await;
//! }
//! ```
//!
//! Without a controller: [`Accumulator::updates`] tells when there is something new and what changed since.
//!
//! # Guarantees
//!
//! - Nothing before every query has listed completely; an empty list is one, a refusal is none. *Forbidden or absent
//!   is not empty*: [`Accumulator::pending`] names such a query with the reason, and it recovers by itself.
//! - Every snapshot contains every write that returned through the [`Client`] before the snapshot was taken:
//!   creates, updates, status updates, patches, deletions, deletions that finalizers hold back, deletions by name.
//!   Own objects outside a query, or leaving it, are not shown in it.
//! - If a snapshot contains one own write, it contains all that returned before that one, of whatever kind.
//! - A deletion in a gap of the watch is noticed at the next list, and is a change like any other.
//! - A *list* that lacks more than half of at least twenty known objects is asked for again after five seconds, and
//!   believed when it says so twice. Until then the objects last known stay.
//! - A change is told at once after quiet, at most once per interval under load, and never starves. Watches wait
//!   for no reader; a reader that sleeps costs no memory but what it holds itself.
//! - An object that cannot be parsed hides no other: see [`Poison`].
//! - One watch per kind and query in a process, and each object in memory once, however many read it.
//! - No lock is held across a call to the API server.
//!
//! # Assumptions
//!
//! - One [`Client`] (and its clones) per process makes all writes of the watched kinds that the process has to see.
//! - Resource versions of one resource are ordered decimal numbers (guaranteed since Kubernetes 1.35). Where they
//!   are not, an own write gives way when the watch shows exactly its version, or a later list is complete.
//! - A uid is never used twice.
//!
//! # Caveats
//!
//! - What *others* wrote arrives when the watch brings it. Decisions that must not be made on old state
//!   (allocation) read through [`Client::get`] and [`Client::list`], which are quorum reads, and write with the
//!   version they read.
//! - A write whose answer never came is seen when the watch shows it.
//! - After an interruption the last state known stays; [`Snapshot::stale`] says of which queries.
//! - Objects in snapshots have no `managedFields` but those that [`Query::applied_by`] names.
//! - A connection that dies silently is noticed [`Settings::watch_limit`] and five seconds after the last thing
//!   heard on it.
//!
//! # Errors
//!
//! Reads of snapshots do not fail; asking for a kind that is not watched panics, because "none" would be a lie.
//! Calls of the client answer [`Error`]; listing and watching never end, and say in [`Accumulator::status`] what is
//! wrong.

mod accumulator;
mod client;
mod controller;
mod error;
mod key;
mod object;
mod poison;
mod query;
mod queue;
mod snapshot;
mod source;
mod store;
mod updates;
mod version;

pub use accumulator::{Accumulator, Builder, QueryStatus};
pub use client::{Client, Deletion, Kinds, Listed, Settings};
pub use controller::Subject;
pub use error::Error;
pub use key::Key;
pub use object::Object;
pub use poison::Poison;
pub use query::Query;
pub use queue::{Outcome, Queue, Waiting};
pub use snapshot::{Change, Snapshot, View, touched_groups};
pub use store::Condition;
pub use updates::{Update, Updates};
pub use version::Version;
