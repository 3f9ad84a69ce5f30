//! What the maps are: keys, values, and what follows from one entry to another.

use std::fmt::{Debug, Display};
use std::hash::{BuildHasher, Hash};
use std::num::NonZeroU64;
use std::sync::LazyLock;

use foldhash::quality::RandomState;

/// A set of maps whose entries may point to each other.
///
/// Assumptions: all functions are pure; equal values have equal digests, identities and targets.
pub trait Layout: Debug + Send + Sized + 'static {
    /// Names one entry of one map.
    type Key: Copy + Ord + Hash + Debug + Display + Send + Sync + 'static;
    /// What an entry holds. Cheap to clone.
    type Value: Clone + PartialEq + Debug + Send + 'static;

    /// Names of the maps, in the order in which they are written; removal goes the other way.
    const MAPS: &'static [&'static str];

    /// The map that an entry is in, as a place in [`Layout::MAPS`].
    fn map(key: &Self::Key) -> usize;
    /// Stands for the value wherever it is only compared: most use [`digest_of`]. It is never stored.
    fn digest(key: &Self::Key, value: &Self::Value) -> NonZeroU64;
    /// Entries that a program follows from this one, each once, with the identity that it expects there (0: any).
    fn targets(key: &Self::Key, value: &Self::Value, each: &mut dyn FnMut(Self::Key, u32));
    /// Who this entry is to those that point to it, e.g. the service of a backend; 0 if it has no identity.
    ///
    /// While anything in the maps points to an entry, it is not written with another identity.
    fn identity(key: &Self::Key, value: &Self::Value) -> u32;
}

/// Seeded anew in each process, so that nobody can prepare two values that look alike.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// Digest of a value for [`Layout::digest`]. Equal values have equal digests within one process only.
pub fn digest_of<T: Hash + ?Sized>(value: &T) -> NonZeroU64 {
    NonZeroU64::new(SEED.hash_one(value)).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_values_apart_and_equal_ones_not() {
        assert_eq!(digest_of(&[1u32, 2]), digest_of(&[1u32, 2]));
        let many: std::collections::BTreeSet<NonZeroU64> = (0..100_000u32).map(|i| digest_of(&i)).collect();
        assert_eq!(many.len(), 100_000);
        assert_ne!(digest_of("ab"), digest_of("ba"));
    }
}
