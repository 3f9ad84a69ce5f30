//! Reconciliation status of a row.
//!
//! Every write of a row gives it a new status id. A result is recorded only if the row still has the id that was read
//! before the work began, so "done" never overwrites a newer "pending".

use std::fmt;
use std::sync::Arc;

/// What became of a row in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Written to the table, not yet to the maps.
    Pending,
    /// The maps hold it.
    Done,
    /// The last attempt failed; it is tried again.
    Error(Arc<str>),
}

/// Status with the id that ties it to one write of the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Outcome.
    pub kind: StatusKind,
    /// Unique per write of a row within one store.
    pub id: u64,
}

impl Status {
    /// A fresh pending status.
    pub fn pending(id: u64) -> Self {
        Self { kind: StatusKind::Pending, id }
    }

    /// Whether the maps hold the row.
    pub fn is_done(&self) -> bool {
        self.kind == StatusKind::Done
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StatusKind::Pending => f.write_str("pending"),
            StatusKind::Done => f.write_str("done"),
            StatusKind::Error(text) => write!(f, "error: {text}"),
        }
    }
}
