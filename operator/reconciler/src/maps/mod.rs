//! The trait behind which maps are, and maps in memory.

mod fake;
mod faulty;
mod shared;

pub use fake::{Dangling, FakeMaps};
pub use faulty::{Faults, FaultyMaps};
pub use shared::SharedMaps;

use crate::layout::Layout;

/// Why a map operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No room for another entry. It is tried again as soon as an entry of that map is removed.
    #[error("the map is full")]
    Full,
    /// Anything else, as the kernel or the loader says it.
    #[error("{0}")]
    Failed(String),
}

/// One write.
#[derive(Debug)]
pub struct Op<L: Layout> {
    /// The entry.
    pub key: L::Key,
    /// What it is to hold; `None`: remove it.
    pub value: Option<L::Value>,
}

impl<L: Layout> Clone for Op<L> {
    fn clone(&self) -> Self {
        Self { key: self.key, value: self.value.clone() }
    }
}

impl<L: Layout> PartialEq for Op<L> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

/// Maps that one reconciler owns.
///
/// Guarantees asked of an implementation:
/// - one operation, one visible change: a program sees an entry as it was or as it is wanted;
/// - an operation that returns an error left the entry as it was;
/// - operations are idempotent; to remove what is not there is no error;
/// - `read` gives every entry of the map, whoever wrote it.
pub trait Maps<L: Layout>: Send {
    /// Reads back one map, a place in [`Layout::MAPS`], in any order.
    ///
    /// # Errors
    /// If any of it cannot be read: part of the truth is worse than none.
    fn read(&self, map: usize, each: &mut dyn FnMut(L::Key, L::Value)) -> Result<(), MapError>;

    /// Carries out operations on one map, all of them writes or all of them removals, in any order: none depends on
    /// another of the batch. Calls `done` once for each, with its place in the batch; what is not reported counts as failed.
    fn apply(&mut self, map: usize, batch: &[Op<L>], done: &mut dyn FnMut(usize, Result<(), MapError>));
}

impl<L: Layout, M: Maps<L> + ?Sized> Maps<L> for Box<M> {
    fn read(&self, map: usize, each: &mut dyn FnMut(L::Key, L::Value)) -> Result<(), MapError> {
        (**self).read(map, each)
    }

    fn apply(&mut self, map: usize, batch: &[Op<L>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        (**self).apply(map, batch, done);
    }
}
