//! The store: tables in one immutable snapshot behind one atomic pointer.
//!
//! Guarantees: a reader sees whole transactions only and never blocks; a row carries the revision of the transaction
//! that last wrote it; notification follows the swap, so whoever is woken sees what woke it; a change iterator sees
//! every key that was written or removed since its last poll, once, in its latest form.
//! Assumptions: rows are values; nobody mutates behind an `Arc`.
//! What it does not do: validate (the Writer does), persist, or keep history beyond the snapshots somebody holds.

mod changes;
mod snapshot;
mod status;
mod table;

pub use changes::{Change, Changes};
pub use snapshot::{Snapshot, Tables};
pub use status::{Status, StatusKind};
pub use table::{Entry, Row, Table, TableId};

pub(crate) use changes::diff;
pub(crate) use snapshot::Guard;
