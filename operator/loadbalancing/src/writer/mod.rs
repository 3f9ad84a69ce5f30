//! The Writer: the only way into the tables.
//!
//! Guarantees: one transaction is seen whole or not at all, and a dropped one leaves no trace; a row equal to the stored
//! one is not written again (no new revision, nobody is woken); a frontend belongs to an existing service, and an
//! address to one service; the backends of every frontend agree with the backends table at commit; the health of a
//! backend survives updates by its source.
//! Assumptions: transactions are short and nothing is awaited inside (the guard cannot be sent to another thread).
//! Errors concern one verb: what it refused is not written, the transaction goes on.
//!
//! A refused owner of an address is not remembered: its source must say it again (sources do, with each full pass).

mod backends;
mod datapath;
mod dump;
mod initializer;
mod services;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use dump::debug_dump;
pub use initializer::Initializer;

use crate::rows::{AliasKey, Frontend, FrontendKey, PassKey, ServiceName};
use crate::selection;
use crate::store::{Guard, Row, Snapshot, StatusKind, Table, Tables};
use crate::{ProxyId, TunnelId};

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
    /// Another service has the address.
    #[error("frontend {frontend} belongs to service {owner}; {refused} gets it when {owner} leaves it")]
    AddressConflict {
        /// The refused frontend.
        frontend: FrontendKey,
        /// Who has it.
        owner: ServiceName,
        /// Who wanted it.
        refused: ServiceName,
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

/// Names a row of any reconciled table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// In `services`.
    Service(ServiceName),
    /// In `tunnels`.
    Tunnel(TunnelId),
    /// In `proxies`.
    Proxy(ProxyId),
    /// In `aliases`.
    Alias(AliasKey),
    /// In `passes`.
    Pass(PassKey),
    /// In `nodes`.
    Node(IpAddr),
    /// In `frontends`.
    Frontend(FrontendKey),
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowKey::Service(k) => write!(f, "service {k}"),
            RowKey::Tunnel(k) => write!(f, "tunnel {k}"),
            RowKey::Proxy(k) => write!(f, "proxy {k}"),
            RowKey::Alias(k) => write!(f, "alias {k}"),
            RowKey::Pass(k) => write!(f, "pass {k}"),
            RowKey::Node(k) => write!(f, "node {k}"),
            RowKey::Frontend(k) => write!(f, "frontend {k}"),
        }
    }
}

/// Gives out write transactions. Cloning gives another handle to the same tables.
#[derive(Clone, Debug)]
pub struct Writer {
    tables: Arc<Tables>,
}

impl Writer {
    /// A writer of these tables.
    pub fn new(tables: Arc<Tables>) -> Self {
        Self { tables }
    }

    /// The tables, for readers.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.tables.snapshot()
    }

    /// Begins a transaction over all tables; waits for the one that is open.
    pub fn write(&self) -> WriteTxn<'_> {
        let guard = self.tables.lock();
        let base = guard.snapshot();
        WriteTxn { next: (*base).clone(), revision: base.revision() + 1, guard, dirty: BTreeSet::new() }
    }

    /// Registers a source that must have listed before anything absent may be removed from the maps.
    pub fn register_initializer(&self, name: &str) -> Initializer {
        let mut txn = self.write();
        let initializer = Initializer::register(&mut txn.next, name);
        txn.commit();
        initializer
    }
}

/// One transaction. Dropping it aborts.
pub struct WriteTxn<'a> {
    guard: Guard<'a>,
    next: Snapshot,
    revision: u64,
    /// Services whose frontends must be selected anew before the commit.
    dirty: BTreeSet<ServiceName>,
}

impl WriteTxn<'_> {
    /// The tables as this transaction leaves them so far (backends of frontends: as of the commit before).
    pub fn snapshot(&self) -> &Snapshot {
        &self.next
    }

    /// Makes the transaction visible and returns the revision up to which the tables now are.
    pub fn commit(mut self) -> u64 {
        self.refresh_frontends();
        let revision = self.next.revision;
        self.guard.publish(self.next);
        revision
    }

    /// Drops everything that was written.
    pub fn abort(self) {}

    pub(crate) fn record(&mut self, key: &RowKey, id: u64, kind: StatusKind) {
        let next = &mut self.next;
        match key {
            RowKey::Service(k) => next.services.record(k, id, kind),
            RowKey::Tunnel(k) => next.tunnels.record(k, id, kind),
            RowKey::Proxy(k) => next.proxies.record(k, id, kind),
            RowKey::Alias(k) => next.aliases.record(k, id, kind),
            RowKey::Pass(k) => next.passes.record(k, id, kind),
            RowKey::Node(k) => next.nodes.record(k, id, kind),
            RowKey::Frontend(k) => next.frontends.record(k, id, kind),
        }
    }

    /// Writes a row if it differs from the stored one; says whether it did.
    fn put<R: Row>(&mut self, row: R, table: fn(&mut Snapshot) -> &mut Table<R>) -> bool {
        let id = self.next.next_status;
        let rows = table(&mut self.next);
        if rows.get(&row.key()).is_some_and(|old| **old == row) {
            return false;
        }
        rows.put(row, self.revision, id);
        self.next.next_status += 1;
        self.next.revision = self.revision;
        true
    }

    fn remove<R: Row>(&mut self, key: &R::Key, table: fn(&mut Snapshot) -> &mut Table<R>) -> Option<Arc<R>> {
        let old = table(&mut self.next).remove(key, self.revision)?;
        self.next.revision = self.revision;
        Some(old)
    }

    fn refresh_frontends(&mut self) {
        for service in std::mem::take(&mut self.dirty) {
            let backends: Vec<_> = self.next.backends_of(&service).cloned().collect();
            let frontends: Vec<_> = self.next.frontends_of(&service).cloned().collect();
            for frontend in frontends {
                let selected = selection::select(&frontend.params, &backends);
                if selected != frontend.backends {
                    let row = Frontend { params: frontend.params.clone(), backends: selected };
                    self.put(row, |s| &mut s.frontends);
                }
            }
        }
    }
}
