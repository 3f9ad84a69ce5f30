//! All tables together, and the place that holds the current ones.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::OrdSet;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::changes::Changes;
use super::table::{Row, Table, TableId};
use crate::rows::{
    Alias, AliasKey, Backend, BackendKey, EpicNode, Frontend, Pass, Protocol, Proxy, Service, ServiceName,
    Source, Tunnel,
};

/// Not greater than any address: where the addresses of a service begin.
const LEAST_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// All tables at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// LoadBalancers.
    pub services: Table<Service>,
    /// Public addresses and ports.
    pub frontends: Table<Frontend>,
    /// Endpoints or proxies of services.
    pub backends: Table<Backend>,
    /// Tunnels of this node.
    pub tunnels: Table<Tunnel>,
    /// Proxy pods.
    pub proxies: Table<Proxy>,
    /// What proxies dial.
    pub aliases: Table<Alias>,
    /// What proxies reach without a tunnel.
    pub passes: Table<Pass>,
    /// EPIC nodes.
    pub nodes: Table<EpicNode>,
    pub(crate) revision: u64,
    pub(crate) next_status: u64,
    pub(crate) pending: OrdSet<Arc<str>>,
}

impl Snapshot {
    /// Revision of the last transaction that changed any row.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every registered initializer has completed. Before that, absent rows mean nothing.
    pub fn initialized(&self) -> bool {
        self.pending.is_empty()
    }

    /// Names of the initializers that have not completed.
    pub fn pending_initializers(&self) -> Vec<Arc<str>> {
        self.pending.iter().cloned().collect()
    }

    /// Frontends of a service, by key.
    pub fn frontends_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Frontend>> + use<'_> {
        self.frontends.group(service)
    }

    /// Backends of a service, all sources, by key.
    pub fn backends_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Backend>> + use<'_> {
        let from = BackendKey {
            service: service.clone(),
            address: LEAST_ADDRESS,
            port: 0,
            protocol: Protocol::Tcp,
            source: Source::Local,
        };
        let service = service.clone();
        self.backends.range(from..).take_while(move |b| b.key.service == service)
    }

    /// Tunnels of a service, by key.
    pub fn tunnels_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Tunnel>> + use<'_> {
        self.tunnels.group(service)
    }

    /// Proxies of a service, by key.
    pub fn proxies_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Proxy>> + use<'_> {
        self.proxies.group(service)
    }

    /// Passes of a service, by key.
    pub fn passes_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Pass>> + use<'_> {
        self.passes.group(&Some(service.clone()))
    }

    /// Aliases of a service, by key.
    pub fn aliases_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Alias>> + use<'_> {
        let from = AliasKey { service: service.clone(), address: LEAST_ADDRESS };
        let service = service.clone();
        self.aliases.range(from..).take_while(move |a| a.key.service == service)
    }
}

/// The current snapshot and those who wait for the next. Shared by `Arc`.
#[derive(Debug)]
pub struct Tables {
    current: ArcSwap<Snapshot>,
    writing: Mutex<()>,
    watches: [watch::Sender<u64>; TableId::COUNT],
    any: watch::Sender<u64>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            current: ArcSwap::default(),
            writing: Mutex::new(()),
            watches: std::array::from_fn(|_| watch::Sender::new(0)),
            any: watch::Sender::new(0),
        }
    }
}

impl Tables {
    /// Empty tables.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The current snapshot: one atomic load, never blocks.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Wakes after every transaction that changed this table; the value is the table's revision.
    pub fn watch(&self, table: TableId) -> watch::Receiver<u64> {
        self.watches[table.index()].subscribe()
    }

    /// Wakes after every transaction that changed a row or the set of pending initializers.
    pub fn watch_any(&self) -> watch::Receiver<u64> {
        self.any.subscribe()
    }

    /// Changes of one table from now on; `from_start` also yields every row that is there already.
    pub fn changes<R: Row>(self: &Arc<Self>, from_start: bool) -> Changes<R> {
        Changes::new(Arc::clone(self), from_start)
    }

    /// The right to write. Held for the length of one transaction.
    pub(crate) fn lock(&self) -> Guard<'_> {
        Guard { tables: self, _writing: self.writing.lock() }
    }
}

/// Proof that nobody else writes.
pub(crate) struct Guard<'a> {
    tables: &'a Tables,
    _writing: MutexGuard<'a, ()>,
}

impl Guard<'_> {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.tables.snapshot()
    }

    /// Swaps the snapshot in, lets the next writer go on, then wakes who waits for what differs.
    pub(crate) fn publish(self, next: Snapshot) {
        let previous = self.tables.snapshot();
        let tables = self.tables;
        let after = revisions(&next);
        let before = revisions(&previous);
        let any = next.revision != previous.revision || next.pending != previous.pending;
        let revision = next.revision;
        tables.current.store(Arc::new(next));
        drop(self);
        for (i, (new, old)) in after.iter().zip(before).enumerate() {
            if *new != old {
                tables.watches[i].send_replace(*new);
            }
        }
        if any {
            tables.any.send_replace(revision);
        }
    }
}

fn revisions(s: &Snapshot) -> [u64; TableId::COUNT] {
    [
        s.services.revision(),
        s.frontends.revision(),
        s.backends.revision(),
        s.tunnels.revision(),
        s.proxies.revision(),
        s.aliases.revision(),
        s.passes.revision(),
        s.nodes.revision(),
    ]
}
