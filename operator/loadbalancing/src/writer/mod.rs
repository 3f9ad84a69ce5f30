//! The Writer: the only way into the tables.
//!
//! Guarantees: one transaction is seen whole or not at all, and a dropped one leaves no trace; a row equal to the stored
//! one is not written again (no new revision, nobody is woken); a frontend belongs to an existing service, and an address
//! to the one of all that want it that precedes (source, age, name), whatever the order in which they came; whoever was
//! refused gets it as soon as the holder leaves; verdicts of health survive updates by sources.
//! A writer is bound to one source and touches that source's rows only; verdicts are nobody's, and tunnels, proxies,
//! aliases, passes and nodes have one writer.
//! Assumptions: transactions are short and nothing is awaited inside (the guard cannot be sent to another thread).
//! Errors concern one verb: what it refused is not written, the transaction goes on.
//!
//! Verbs: `upsert_*` adds or updates what is given and leaves the rest, `set_*` makes what is given the only rows of that
//! service, `delete_*` and `release_*` remove.

mod addresses;
mod backends;
mod datapath;
mod services;

use std::sync::Arc;

pub use addresses::Claimed;
use epic_store::{Initializer, NeverRefuses, Row, Store};

use crate::rows::{FrontendKey, ServiceName, Source};
use crate::tables::{Reader, Snapshot, Tables};

/// Why a verb refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The frontend's service is not there.
    #[error("frontend {frontend} names service {service}, which does not exist; upsert the service first")]
    ServiceNotFound {
        /// The refused frontend.
        frontend: FrontendKey,
        /// The missing service.
        service: ServiceName,
    },
    /// A frontend given with a service names another one.
    #[error("frontend {frontend} was given with service {service} but names {named}")]
    ForeignFrontend {
        /// The refused frontend.
        frontend: FrontendKey,
        /// The service it was given with.
        service: ServiceName,
        /// The service it names.
        named: ServiceName,
    },
}

/// Gives out write transactions for one source. Cloning gives another handle to the same tables.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Store<Tables>,
    source: Source,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// A writer of new, empty tables, for [`Source::Resource`].
    pub fn new() -> Self {
        Self { store: Store::new(), source: Source::default() }
    }

    /// A writer of the same tables for another source.
    #[must_use]
    pub fn for_source(&self, source: Source) -> Self {
        Self { store: self.store.clone(), source }
    }

    /// The source it is bound to.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The tables, for readers.
    pub fn reader(&self) -> Reader {
        self.store.reader()
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.store.reader().snapshot()
    }

    /// Begins a transaction over all tables; waits for the one that is open.
    pub fn write(&self) -> WriteTxn<'_> {
        WriteTxn { store: self.store.write(), source: self.source }
    }

    /// Registers somebody who must have listed before anything absent of this source may be removed from the maps. Dropped
    /// before it has completed, it stays pending until somebody of the same name takes over: a source that died must let nothing be
    /// pruned that it had not listed.
    pub fn register_initializer(&self, name: &str) -> Initializer {
        self.store.register_initializer_of(self.source.into(), name)
    }
}

/// One transaction. Dropping it aborts.
#[derive(Debug)]
#[must_use = "a transaction that is not committed leaves no trace"]
pub struct WriteTxn<'a> {
    store: epic_store::WriteTxn<'a, Tables>,
    source: Source,
}

impl WriteTxn<'_> {
    /// The tables as this transaction leaves them so far.
    pub fn tables(&self) -> &Tables {
        self.store.tables()
    }

    /// A source has listed: its rows are those of this transaction.
    pub fn complete(&mut self, initializer: &Initializer) {
        self.store.complete(initializer);
    }

    /// Makes the transaction visible and returns the revision up to which the tables now are.
    pub fn commit(self) -> u64 {
        self.store.commit()
    }

    /// Drops everything that was written.
    pub fn abort(self) {}

    fn put<R: Row>(&mut self, row: R) -> bool
    where
        Tables: epic_store::Holds<R>,
        R::Indexes: NeverRefuses<R>,
    {
        self.store.put(row)
    }
}
