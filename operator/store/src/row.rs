//! What may be a row, and a row as a table holds it.

use std::fmt::Debug;
use std::hash::Hash;
use std::ops::Deref;

use crate::column::Column;
use crate::index::Indexes;

/// A row: one immutable value under a small key.
///
/// Assumptions: `key` and the keys of the indexes are functions of the row, and the row is never changed behind a shared
/// pointer. Rarely set fields belong behind one pointer, and texts that repeat are interned ([`crate::Name`]), so that
/// a row is small and compares fast: a row equal to the stored one is not written.
pub trait Row: Eq + Debug + Send + Sync + Sized + 'static {
    /// Primary key. It stands in the leaves of trees, once a row and once more an index key: keep it below 24 bytes.
    type Key: Copy + Ord + Hash + Debug + Send + Sync + 'static;
    /// `()` or a tuple of up to four [`crate::Index`]. Each costs a tree: no index without a reader.
    type Indexes: Indexes<Self>;

    /// Primary key of this row.
    fn key(&self) -> Self::Key;
    /// A key as people write it, in error texts; as its debug form unless said otherwise.
    fn key_text(key: Self::Key) -> String {
        format!("{key:?}")
    }
    /// What people see of a row. The first column is the key as they write it, unique in the table; none is named
    /// `revision`.
    fn columns() -> &'static [Column<Self>];
}

/// A row as a table holds it, once, however many snapshots and iterators point to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<R> {
    /// Revision of the transaction that wrote it. First, so that unequal writes compare as such at once.
    pub revision: u64,
    /// The row.
    pub row: R,
}

impl<R> Deref for Stored<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.row
    }
}

/// A key that begins with a `P`: keys with the same beginning lie side by side.
pub trait StartsWith<P> {
    /// How the beginning of this key compares with `start`, in the order of [`Ord`] of the whole key.
    fn cmp_start(&self, start: &P) -> std::cmp::Ordering;
}
