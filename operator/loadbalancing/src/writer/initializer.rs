//! Named initializers: sources that must have listed before absence means anything.

use std::sync::Arc;

use super::WriteTxn;
use crate::store::Snapshot;

/// A source that has not listed yet. Dropped without [`Initializer::complete`], its name stays pending: a source that
/// died before its first list must not let anything be pruned.
#[derive(Debug)]
#[must_use = "nothing is pruned before every initializer has completed"]
pub struct Initializer {
    name: Arc<str>,
}

impl Initializer {
    pub(super) fn register(snapshot: &mut Snapshot, name: &str) -> Self {
        let name: Arc<str> = name.into();
        snapshot.pending.insert(Arc::clone(&name));
        Self { name }
    }

    /// The name it was registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source has listed: its rows are those of this transaction.
    pub fn complete(self, txn: &mut WriteTxn<'_>) {
        txn.next.pending.remove(&self.name);
    }
}
