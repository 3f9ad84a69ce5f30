//! What can be tuned, with defaults that serve.

use std::time::Duration;

use crate::backoff::Backoff;

/// How much one round may do. What is left comes in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Rows to render.
    pub rows: usize,
    /// Map operations to try.
    pub operations: usize,
}

impl Budget {
    /// Everything that can be done.
    pub const UNLIMITED: Budget = Budget { rows: usize::MAX, operations: usize::MAX };
}

impl Default for Budget {
    /// A few milliseconds.
    fn default() -> Self {
        Self { rows: 1_000, operations: 4_000 }
    }
}

/// What can be tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Delays between attempts of an operation that fails; 50 ms to 60 s.
    pub backoff: Backoff,
    /// Of each round.
    pub budget: Budget,
    /// Operations that are given to the maps at once; 256.
    pub batch: usize,
    /// A change of at most so many rows goes before all greater ones; 64.
    pub small_change: usize,
    /// While somebody is asked about a removal, up to so many further entries may go; 16.
    pub free_removals: usize,
    /// Time between full passes that read the maps back; 300 s.
    pub refresh: Duration,
    /// Time between two questions whether a big removal is meant; 5 s.
    pub ask_again: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            budget: Budget::default(),
            batch: 256,
            small_change: 64,
            free_removals: 16,
            refresh: Duration::from_secs(300),
            ask_again: Duration::from_secs(5),
        }
    }
}
