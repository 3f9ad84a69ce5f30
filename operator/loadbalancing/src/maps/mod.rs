//! What the reconciler writes: entries of BPF maps as values, and the trait behind which the maps are.
//!
//! Keys and values are those of [`epic_abi::maps`]. Only maps made of desired state are here; what programs or the hello
//! handler write (flows, remotes, sources, learned proxies, counters), and what the agent writes once (layout, config,
//! locals), is not.

mod dump;
mod entry;
mod fake;
mod faulty;

pub use dump::dump;
pub(crate) use entry::family as entry_family;
pub use entry::{MapId, MapKey, MapValue};
pub use fake::FakeMaps;
pub use faulty::{Faults, FaultyMaps};

/// Why a map operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No room for another entry.
    #[error("the map is full")]
    Full,
    /// Anything else, as the kernel or the loader says it.
    #[error("{0}")]
    Failed(String),
}

/// The maps that the reconciler owns.
///
/// Guarantees asked of an implementation:
/// - one call, one visible change: a program sees the entry as it was or as it is wanted. For `maglev` that means to
///   fill a new inner array first and put it in place with one update;
/// - an operation that returns an error left the entry as it was;
/// - `update` and `delete` are idempotent; to delete what is not there is no error;
/// - `tunnel_stats` entries are created with zeros if absent, and never written otherwise: counters survive;
/// - `entries` returns every entry of every map in [`MapId::ALL`] that belongs to this side, whoever wrote it.
pub trait LbMaps: Send {
    /// Reads all maps back, in any order.
    ///
    /// # Errors
    /// [`MapError::Failed`] if any map cannot be read; part of the truth is worse than none.
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError>;

    /// Creates or replaces one entry. `value` is always of the variant that `key` calls for.
    ///
    /// # Errors
    /// [`MapError::Full`] when there is no room, [`MapError::Failed`] otherwise.
    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError>;

    /// Removes one entry.
    ///
    /// # Errors
    /// [`MapError::Failed`].
    fn delete(&mut self, key: &MapKey) -> Result<(), MapError>;

    /// Whether no map has an entry.
    ///
    /// # Errors
    /// Those of [`LbMaps::entries`].
    fn is_empty(&self) -> Result<bool, MapError> {
        Ok(self.entries()?.is_empty())
    }
}

impl<M: LbMaps + ?Sized> LbMaps for Box<M> {
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        (**self).entries()
    }

    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
        (**self).update(key, value)
    }

    fn delete(&mut self, key: &MapKey) -> Result<(), MapError> {
        (**self).delete(key)
    }
}
