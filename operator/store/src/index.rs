//! Secondary indexes: what they are declared by, and the trees behind them.
//!
//! Guarantees: an index holds exactly the keys that its rows give, also inside a transaction; an update that leaves a
//! row's index keys as they are does not touch the index; a unique index never holds two rows under one key.
//! What it does not do: keep rows (an index entry is the two keys), or order rows of one index key by anything but their
//! primary key.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};

use imbl::OrdSet;

use crate::conflict::Conflict;
use crate::probe::{OfIndex, Probe, from};
use crate::row::Row;

mod sealed {
    pub trait Sealed {}
}

/// Whether one index key may lead to several rows.
pub trait Kind: sealed::Sealed + 'static {
    /// Whether it leads to one row at most.
    const UNIQUE: bool;
}

/// An index key leads to one row at most; a second row is refused.
#[derive(Clone, Copy, Debug)]
pub enum Unique {}

/// An index key leads to any number of rows.
#[derive(Clone, Copy, Debug)]
pub enum NonUnique {}

impl sealed::Sealed for Unique {}
impl sealed::Sealed for NonUnique {}
impl Kind for Unique {
    const UNIQUE: bool = true;
}
impl Kind for NonUnique {
    const UNIQUE: bool = false;
}

/// One secondary index of a table. Implemented by a unit struct, which also names it in queries.
pub trait Index<R: Row>: 'static {
    /// Secondary key.
    type Of: Copy + Ord + Debug + Send + Sync + 'static;
    /// [`Unique`] or [`NonUnique`].
    type Kind: Kind;
    /// Name in error texts.
    const NAME: &'static str;

    /// Secondary keys of a row: none, one or several.
    fn of(row: &R) -> impl IntoIterator<Item = Self::Of>;
}

/// The tree of one index.
pub struct IndexSet<R: Row, I: Index<R>>(pub(crate) OrdSet<(I::Of, R::Key)>);

impl<R: Row, I: Index<R>> Clone for IndexSet<R, I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Row, I: Index<R>> Default for IndexSet<R, I> {
    fn default() -> Self {
        Self(OrdSet::new())
    }
}

impl<R: Row, I: Index<R>> Debug for IndexSet<R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(I::NAME).field("len", &self.0.len()).finish()
    }
}

impl<R: Row, I: Index<R>> IndexSet<R, I> {
    /// The row that stands in the way of `row`, if the index is unique.
    fn conflict(&self, key: R::Key, row: &R) -> Option<Conflict<R::Key>> {
        if !I::Kind::UNIQUE {
            return None;
        }
        I::of(row).into_iter().find_map(|of| {
            let holder = self.holder(of).filter(|holder| *holder != key)?;
            Some(Conflict::Taken { index: I::NAME, of: format!("{of:?}"), holder, refused: key })
        })
    }

    /// The first row under this key.
    pub(crate) fn holder(&self, of: I::Of) -> Option<R::Key> {
        let place = Probe::before(of);
        let (found, key) = self.0.range::<_, Probe<I::Of, OfIndex>>(from(&place)).next()?;
        (*found == of).then_some(*key)
    }

    fn update(&mut self, key: R::Key, old: Option<&R>, new: Option<&R>) {
        match (old, new) {
            (Some(old), Some(new)) => self.replace(key, old, new),
            (old, new) => {
                for of in old.into_iter().flat_map(I::of) {
                    self.0.remove(&(of, key));
                }
                for of in new.into_iter().flat_map(I::of) {
                    self.0.insert((of, key));
                }
            }
        }
    }

    fn replace(&mut self, key: R::Key, old: &R, new: &R) {
        if I::of(old).into_iter().eq(I::of(new)) {
            return;
        }
        let before: BTreeSet<I::Of> = I::of(old).into_iter().collect();
        let after: BTreeSet<I::Of> = I::of(new).into_iter().collect();
        for of in before.difference(&after) {
            self.0.remove(&(*of, key));
        }
        for of in after.difference(&before) {
            self.0.insert((*of, key));
        }
    }
}

/// All indexes of a table: `()` or a tuple of up to four.
pub trait Indexes<R: Row>: 'static {
    /// The trees.
    type Sets: Clone + Default + Debug + Send + Sync + 'static;
    /// Whether any of them is unique.
    const UNIQUE: bool;

    /// What stands in the way of this row.
    fn conflict(sets: &Self::Sets, key: R::Key, row: &R) -> Option<Conflict<R::Key>>;
    /// Follows a row from what it was to what it is.
    fn update(sets: &mut Self::Sets, key: R::Key, old: Option<&R>, new: Option<&R>);
}

/// Indexes none of which is unique, so that no row is ever refused.
pub trait NeverRefuses<R: Row>: Indexes<R> {}

/// Indexes of which the one at position `AT` is `I`; the position is inferred.
pub trait Contains<R: Row, I: Index<R>, const AT: usize>: Indexes<R> {
    /// The tree of `I`.
    fn set(sets: &Self::Sets) -> &IndexSet<R, I>;
}

impl<R: Row> Indexes<R> for () {
    type Sets = ();
    const UNIQUE: bool = false;

    fn conflict((): &(), _: R::Key, _: &R) -> Option<Conflict<R::Key>> {
        None
    }
    fn update((): &mut (), _: R::Key, _: Option<&R>, _: Option<&R>) {}
}

impl<R: Row> NeverRefuses<R> for () {}

macro_rules! indexes {
    ($($index:ident $at:tt),+) => {
        impl<R: Row, $($index: Index<R>),+> Indexes<R> for ($($index,)+) {
            type Sets = ($(IndexSet<R, $index>,)+);
            const UNIQUE: bool = $(<$index::Kind as Kind>::UNIQUE)||+;

            fn conflict(sets: &Self::Sets, key: R::Key, row: &R) -> Option<Conflict<R::Key>> {
                None$(.or_else(|| sets.$at.conflict(key, row)))+
            }
            fn update(sets: &mut Self::Sets, key: R::Key, old: Option<&R>, new: Option<&R>) {
                $(sets.$at.update(key, old, new);)+
            }
        }

        impl<R: Row, $($index: Index<R, Kind = NonUnique>),+> NeverRefuses<R> for ($($index,)+) {}
    };
}

indexes!(A 0);
indexes!(A 0, B 1);
indexes!(A 0, B 1, C 2);
indexes!(A 0, B 1, C 2, D 3);

macro_rules! contains {
    ($of:ident $at:tt in $($index:ident),+) => {
        impl<R: Row, $($index: Index<R>),+> Contains<R, $of, $at> for ($($index,)+) {
            fn set(sets: &Self::Sets) -> &IndexSet<R, $of> {
                &sets.$at
            }
        }
    };
}

contains!(A 0 in A);
contains!(A 0 in A, B);
contains!(B 1 in A, B);
contains!(A 0 in A, B, C);
contains!(B 1 in A, B, C);
contains!(C 2 in A, B, C);
contains!(A 0 in A, B, C, D);
contains!(B 1 in A, B, C, D);
contains!(C 2 in A, B, C, D);
contains!(D 3 in A, B, C, D);
