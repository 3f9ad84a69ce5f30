//! One table: rows by primary key, its indexes, and the revision of its last change. Read here, written in `edit`.
//!
//! Guarantees: a table is immutable for whoever holds it by reference; cloning is cheap and shares structure; every
//! iterator follows the order of the keys it was asked by. Lookups and steps cost O(log n), and no query copies a row.

use std::fmt::{self, Debug};
use std::ops::RangeBounds;
use std::sync::Arc;

use imbl::OrdMap;

use crate::changes::Change;
use crate::index::{Contains, Index, Indexes, Unique};
use crate::probe::{OfIndex, OfIndexStart, OfKey, Probe, between, from};
use crate::row::{Row, StartsWith, Stored};

/// An immutable table.
pub struct Table<R: Row> {
    pub(crate) rows: OrdMap<R::Key, Arc<Stored<R>>>,
    pub(crate) indexes: <R::Indexes as Indexes<R>>::Sets,
    pub(crate) revision: u64,
}

impl<R: Row> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), indexes: self.indexes.clone(), revision: self.revision }
    }
}

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self { rows: OrdMap::new(), indexes: Default::default(), revision: 0 }
    }
}

impl<R: Row> Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows.iter()).finish()
    }
}

impl<R: Row> Table<R> {
    /// The row of this key.
    pub fn get(&self, key: R::Key) -> Option<&Arc<Stored<R>>> {
        self.rows.get(&key)
    }

    /// Whether there is a row of this key.
    pub fn contains(&self, key: R::Key) -> bool {
        self.rows.contains_key(&key)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Revision of the last transaction that wrote or removed a row here; 0 if none did.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All rows, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stored<R>>> + use<'_, R> {
        self.rows.values()
    }

    /// Rows whose keys lie in a range, by key; none if it ends before it begins.
    pub fn range<B: RangeBounds<R::Key>>(
        &self,
        keys: B,
    ) -> impl Iterator<Item = &Arc<Stored<R>>> + use<'_, B, R> {
        self.rows.range(keys).map(|(_, row)| row)
    }

    /// Rows from this key on, by key.
    pub fn lower_bound(&self, key: R::Key) -> impl Iterator<Item = &Arc<Stored<R>>> + use<'_, R> {
        self.range(key..)
    }

    /// Rows whose keys begin with `start`, by key.
    pub fn prefix<P: Clone>(&self, start: P) -> impl Iterator<Item = &Arc<Stored<R>>> + use<'_, P, R>
    where
        R::Key: StartsWith<P>,
    {
        let places = Probe::<P, OfKey>::around(start);
        self.rows.range::<_, Probe<P, OfKey>>(between(&places)).map(|(_, row)| row)
    }

    /// Rows that give this key for an index, by primary key.
    pub fn by<I, const AT: usize>(
        &self,
        _: I,
        of: I::Of,
    ) -> impl Iterator<Item = &Arc<Stored<R>>> + use<'_, I, R, AT>
    where
        I: Index<R>,
        R::Indexes: Contains<R, I, AT>,
    {
        let places = Probe::<I::Of, OfIndex>::around(of);
        let entries = R::Indexes::set(&self.indexes).0.range::<_, Probe<I::Of, OfIndex>>(between(&places));
        entries.filter_map(|(_, key)| self.rows.get(key))
    }

    /// The row that gives this key for a unique index.
    pub fn one<I, const AT: usize>(&self, _: I, of: I::Of) -> Option<&Arc<Stored<R>>>
    where
        I: Index<R, Kind = Unique>,
        R::Indexes: Contains<R, I, AT>,
    {
        self.get(R::Indexes::set(&self.indexes).holder(of)?)
    }

    /// Rows whose keys for an index begin with `start`, by that key; a row with several such keys comes several times.
    pub fn by_prefix<I, P: Clone, const AT: usize>(
        &self,
        _: I,
        start: P,
    ) -> impl Iterator<Item = (I::Of, &Arc<Stored<R>>)> + use<'_, I, P, R, AT>
    where
        I: Index<R>,
        I::Of: StartsWith<P>,
        R::Indexes: Contains<R, I, AT>,
    {
        let places = Probe::<P, OfIndexStart>::around(start);
        let entries = R::Indexes::set(&self.indexes).0.range::<_, Probe<P, OfIndexStart>>(between(&places));
        entries.filter_map(|(of, key)| Some((*of, self.rows.get(key)?)))
    }

    /// Rows from this key of an index on, by that key; a row with several such keys comes several times.
    pub fn by_lower_bound<I, const AT: usize>(
        &self,
        _: I,
        of: I::Of,
    ) -> impl Iterator<Item = (I::Of, &Arc<Stored<R>>)> + use<'_, I, R, AT>
    where
        I: Index<R>,
        R::Indexes: Contains<R, I, AT>,
    {
        let place = Probe::<I::Of, OfIndex>::before(of);
        let entries = R::Indexes::set(&self.indexes).0.range::<_, Probe<I::Of, OfIndex>>(from(&place));
        entries.filter_map(|(of, key)| Some((*of, self.rows.get(key)?)))
    }

    /// What makes an older table into this one, by key. What both share is skipped, so the cost follows the change.
    pub fn changes_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Change<'a, R>> + use<'a, R> {
        let differs = !before.rows.ptr_eq(&self.rows);
        differs.then(|| before.rows.diff(&self.rows).map(Change::from)).into_iter().flatten()
    }
}
