//! What rows become in the maps: the part that knows the tables.

use std::fmt::Debug;
use std::hash::Hash;

use epic_store::{Schema, Snapshot, Sources};

use crate::layout::Layout;

/// Why a row cannot be rendered yet, for its status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unready(pub String);

/// Turns rows into map entries.
///
/// Assumptions:
/// - equal snapshots give equal entries, call by call: an entry that is written again is rendered again;
/// - whatever an entry points to is rendered from the same snapshot by this or another row, else the row is
///   [`Unready`]: an entry whose target nobody wants is never written.
pub trait Render<L: Layout>: Send + 'static {
    /// The tables.
    type Tables: Schema;
    /// What progress is kept apart by, e.g. a service.
    type Scope: Copy + Ord + Hash + Debug + Send + Sync + 'static;

    /// What the maps hold at start, so that ids of an earlier run can be adopted. Called once, before anything else.
    fn adopt(&mut self, held: &[(L::Key, L::Value)]) {
        let _ = held;
    }

    /// Rows to render for the step between two snapshots: what changed, removed rows included, and what depends on it.
    /// Too many is only slow; one too few is wrong for as long as nothing else changes it.
    fn affected(
        &self,
        before: &Snapshot<Self::Tables>,
        now: &Snapshot<Self::Tables>,
        each: &mut dyn FnMut(RowId<L, Self>),
    );

    /// The scope of a row of this snapshot; `None` if it concerns all of the node.
    fn scope(&self, now: &Snapshot<Self::Tables>, row: RowId<L, Self>) -> Option<Self::Scope>;

    /// Whose row of this snapshot this is: what it wanted goes only once these have listed. All there are, if in doubt.
    fn sources_of(&self, now: &Snapshot<Self::Tables>, row: RowId<L, Self>) -> Sources {
        let _ = (now, row);
        Sources::ALL
    }

    /// Whose an entry may be that the maps were found to hold, after [`Render::adopt`] or at any later reading. Until these
    /// have listed, nobody can know whether a row wants it.
    fn sources_of_held(&self, key: &L::Key, value: &L::Value) -> Sources {
        let _ = (key, value);
        Sources::ALL
    }

    /// Entries that this row of this snapshot wants; none if it is of no concern here. Of two for one key the first counts.
    ///
    /// # Errors
    /// [`Unready`] when something the row needs is not there yet; then it wants nothing.
    fn render(
        &mut self,
        now: &Snapshot<Self::Tables>,
        row: RowId<L, Self>,
        out: &mut Vec<(L::Key, L::Value)>,
    ) -> Result<(), Unready>;
}

/// Names a row of the tables that a renderer reads.
pub type RowId<L, R> = <<R as Render<L>>::Tables as Schema>::RowId;
