//! One coherent snapshot of many Kubernetes kinds, with read-your-writes.

mod accumulator;
mod client;
mod controller;
mod error;
mod key;
mod object;
mod poison;
mod query;
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
pub use snapshot::{Change, Snapshot, View, touched_groups};
pub use store::Condition;
pub use updates::{Update, Updates};
pub use version::Version;
