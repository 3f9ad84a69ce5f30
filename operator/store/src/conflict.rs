//! Why a write was refused. The transaction goes on without it.

use std::fmt::Debug;

/// Why a row was not written or not removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict<K: Debug> {
    /// Another row holds a key of a unique index.
    #[error("{index} {of} belongs to {holder:?}; {refused:?} can have it once {holder:?} leaves it")]
    Taken {
        /// Name of the index.
        index: &'static str,
        /// The key that both rows give.
        of: String,
        /// The row that has it.
        holder: K,
        /// The row that was refused.
        refused: K,
    },
    /// The row is not the one that was read.
    #[error("{key:?} was read {}, now it is {}; read it again and decide anew", place(*expected), place(*found))]
    Moved {
        /// The row.
        key: K,
        /// Revision that the caller had read; 0 for absent.
        expected: u64,
        /// Revision of the row as it is; 0 for absent.
        found: u64,
    },
}

fn place(revision: u64) -> String {
    if revision == 0 { "absent".to_owned() } else { format!("at revision {revision}") }
}
