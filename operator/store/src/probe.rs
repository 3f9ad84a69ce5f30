//! Places in a tree that are no keys: just before or just behind all keys with some beginning.
//!
//! A range between two of them needs no least and no greatest key to be made up.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::ops::Bound;

use equivalent::{Comparable, Equivalent};

use crate::row::StartsWith;

/// Compares the beginning of a key of a tree with a searched one.
pub(crate) trait Beginning<P, K> {
    fn compare(key: &K, start: &P) -> Ordering;
}

/// Of a primary key.
pub(crate) struct OfKey;

impl<P, K: StartsWith<P>> Beginning<P, K> for OfKey {
    fn compare(key: &K, start: &P) -> Ordering {
        key.cmp_start(start)
    }
}

/// The whole secondary key of an index entry.
pub(crate) struct OfIndex;

impl<O: Ord, K> Beginning<O, (O, K)> for OfIndex {
    fn compare(key: &(O, K), start: &O) -> Ordering {
        key.0.cmp(start)
    }
}

/// The beginning of the secondary key of an index entry.
pub(crate) struct OfIndexStart;

impl<P, O: StartsWith<P>, K> Beginning<P, (O, K)> for OfIndexStart {
    fn compare(key: &(O, K), start: &P) -> Ordering {
        key.0.cmp_start(start)
    }
}

/// A place beside all keys that begin with `start`.
pub(crate) struct Probe<P, B> {
    start: P,
    side: Ordering,
    _beginning: PhantomData<B>,
}

impl<P: Clone, B> Probe<P, B> {
    /// Before all keys that begin so.
    pub(crate) fn before(start: P) -> Self {
        Self { start, side: Ordering::Less, _beginning: PhantomData }
    }

    /// Around all keys that begin so.
    pub(crate) fn around(start: P) -> (Self, Self) {
        let behind = Self { start: start.clone(), side: Ordering::Greater, _beginning: PhantomData };
        (Self::before(start), behind)
    }
}

/// The bounds of a range between two places.
pub(crate) fn between<Q>(places: &(Q, Q)) -> (Bound<&Q>, Bound<&Q>) {
    (Bound::Included(&places.0), Bound::Included(&places.1))
}

/// The bounds of a range from a place to the end.
pub(crate) fn from<Q>(place: &Q) -> (Bound<&Q>, Bound<&Q>) {
    (Bound::Included(place), Bound::Unbounded)
}

impl<P, K, B: Beginning<P, K>> Equivalent<K> for Probe<P, B> {
    /// A place is no key.
    fn equivalent(&self, _: &K) -> bool {
        false
    }
}

impl<P, K, B: Beginning<P, K>> Comparable<K> for Probe<P, B> {
    fn compare(&self, key: &K) -> Ordering {
        B::compare(key, &self.start).reverse().then(self.side)
    }
}
