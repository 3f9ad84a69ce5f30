//! The reconciler: makes the maps hold what the tables say, and the statuses say what the maps hold.
//!
//! Expected flow: [`Reconciler::new`] reads the maps back; [`Reconciler::round`] compares and writes; [`run`] calls it
//! whenever tables change, a retry is due or a full pass is.
//!
//! Guarantees:
//! - after any single map write, no entry that a program may follow names an entry that is not there: what is pointed
//!   to is written first and removed last, and an entry whose target could not be written is held back;
//! - a map that already holds what is wanted is not written;
//! - nothing is removed before every initializer has completed, and a removal of more than half of all entries waits
//!   until somebody confirmed it;
//! - a crash after any write, followed by a restart, ends in the same maps as a run without it;
//! - a status belongs to the write of the row that was read: "done" never overwrites a newer "pending".
//!
//! Assumptions: nobody else writes these maps; a map operation that fails leaves the entry as it was.
//! What it does not do: decide what rows become (see [`crate::render`]), touch maps that programs write.

mod backoff;
mod claims;
mod engine;
mod held;
mod progress;
mod run;

pub use backoff::Backoff;
pub use engine::{PruneRequest, Reconciler, Round};
pub use progress::{Handle, Health, Progress};
pub use run::{ConfirmPrune, Limits, run};
