//! The traits that [`crate::tables!`] implements: all tables of a crate as one value, and one table in it.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;

use crate::listing::{ListedChange, Listing, Query};
use crate::row::Row;
use crate::table::Table;
use crate::watch::Waiters;

/// All tables of a crate. Implemented by [`crate::tables!`] alone.
pub trait Schema: Clone + Debug + Default + Send + Sync + 'static {
    /// Names a table.
    type TableId: Copy + Debug + Display + FromStr<Err = UnknownTable> + Hash + Ord + Send + Sync + 'static;
    /// Names a row of any table.
    type RowId: Copy + Debug + Display + Hash + Ord + Send + Sync + 'static;
    /// Who waits for what, per table.
    #[doc(hidden)]
    type Waiters: Default + Send + Sync + 'static;

    /// All tables, in the order of their declaration.
    const ALL: &'static [Self::TableId];

    /// Revision of a table.
    fn revision_of(&self, table: Self::TableId) -> u64;
    /// Number of rows of a table.
    fn len_of(&self, table: Self::TableId) -> usize;
    /// Revision of a row; `None` if there is none of this name.
    fn row_revision(&self, row: Self::RowId) -> Option<u64>;
    /// Names of the columns of a table.
    fn columns_of(table: Self::TableId) -> Vec<&'static str>;
    /// Rows of a table as text and JSON.
    fn listing_of(&self, table: Self::TableId, query: Query<'_>) -> Listing;
    /// What made older tables into these, in one table.
    fn listed_changes_of(&self, table: Self::TableId, before: &Self) -> Vec<ListedChange>;
    /// Names every row that was written or removed since, table by table and by key. The cost follows the change.
    fn changed_rows(&self, before: &Self, each: &mut dyn FnMut(Self::RowId));
    /// Wakes who waits for what a commit changed.
    #[doc(hidden)]
    fn wake(waiters: &Self::Waiters, before: &Self, after: &Self, revision: u64);
}

/// A schema with a table of such rows. Implemented by [`crate::tables!`] alone.
pub trait Holds<R: Row>: Schema {
    /// The table.
    const TABLE: Self::TableId;

    /// Names one of its rows.
    fn row_id(key: R::Key) -> Self::RowId;
    /// The table.
    fn table(&self) -> &Table<R>;
    /// The table, to be written in a transaction.
    #[doc(hidden)]
    fn table_mut(&mut self) -> &mut Table<R>;
    /// Who waits for what in it.
    #[doc(hidden)]
    fn waiters(waiters: &Self::Waiters) -> &Waiters<R::Key>;
}

/// A name that no table has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no table is named {name:?}; there are {}", known.join(", "))]
pub struct UnknownTable {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: &'static [&'static str],
}
