//! Three tables: one with a unique, a multi-key and a plain index, one with keys of two parts, one without an index.

use std::cmp::Ordering;

use epic_store::{Column, Index, NonUnique, Row, StartsWith, Store, Unique, list, optional, tables, text};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: u8,
    pub(crate) id: Option<u8>,
    pub(crate) ports: Vec<u16>,
    pub(crate) zone: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BackendKey {
    pub(crate) service: u8,
    pub(crate) place: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    pub(crate) weight: u8,
    pub(crate) address: Address,
}

/// A secondary key of two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) net: u8,
    pub(crate) host: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) value: u64,
}

pub(crate) struct ById;
pub(crate) struct ByPort;
pub(crate) struct ByZone;
pub(crate) struct ByAddress;

impl Index<Service> for ById {
    type Of = u8;
    type Kind = Unique;
    const NAME: &'static str = "id";

    fn of(row: &Service) -> impl IntoIterator<Item = u8> {
        row.id
    }
}

impl Index<Service> for ByPort {
    type Of = u16;
    type Kind = NonUnique;
    const NAME: &'static str = "port";

    fn of(row: &Service) -> impl IntoIterator<Item = u16> {
        row.ports.iter().copied()
    }
}

impl Index<Service> for ByZone {
    type Of = u8;
    type Kind = NonUnique;
    const NAME: &'static str = "zone";

    fn of(row: &Service) -> impl IntoIterator<Item = u8> {
        [row.zone]
    }
}

impl Index<Backend> for ByAddress {
    type Of = Address;
    type Kind = NonUnique;
    const NAME: &'static str = "address";

    fn of(row: &Backend) -> impl IntoIterator<Item = Address> {
        [row.address]
    }
}

impl StartsWith<u8> for BackendKey {
    fn cmp_start(&self, service: &u8) -> Ordering {
        self.service.cmp(service)
    }
}

impl StartsWith<u8> for Address {
    fn cmp_start(&self, net: &u8) -> Ordering {
        self.net.cmp(net)
    }
}

impl Row for Service {
    type Key = u8;
    type Indexes = (ById, ByPort, ByZone);

    fn key(&self) -> u8 {
        self.name
    }
    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("name", |row| text(format_args!("acme/s{}", row.name))),
                Column::new("id", |row| optional(row.id)),
                Column::new("ports", |row| list(&row.ports)),
                Column::new("zone", |row| row.zone.into()),
            ]
        }
    }
}

impl Row for Backend {
    type Key = BackendKey;
    type Indexes = (ByAddress,);

    fn key(&self) -> BackendKey {
        self.key
    }
    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("place", |row| text(format_args!("acme/s{}:{}", row.key.service, row.key.place))),
                Column::new("weight", |row| row.weight.into()),
            ]
        }
    }
}

impl Row for Node {
    type Key = u32;
    type Indexes = ();

    fn key(&self) -> u32 {
        self.id
    }
    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("id", |row| row.id.into()), Column::new("value", |row| row.value.into())] }
    }
}

tables! {
    /// All of them.
    pub(crate) Tables {
        /// With three indexes.
        services: Service,
        /// With keys of two parts.
        backends: Backend,
        /// Without an index.
        nodes: Node,
    }
}

pub(crate) fn store() -> Store<Tables> {
    Store::new()
}

pub(crate) fn service(name: u8, id: Option<u8>, ports: &[u16], zone: u8) -> Service {
    Service { name, id, ports: ports.to_vec(), zone }
}

pub(crate) fn backend(service: u8, place: u8, weight: u8) -> Backend {
    Backend { key: BackendKey { service, place }, weight, address: Address { net: place % 2, host: place } }
}

pub(crate) fn node(id: u32, value: u64) -> Node {
    Node { id, value }
}

/// Commits nodes with this value.
pub(crate) fn commit_nodes(store: &Store<Tables>, ids: impl IntoIterator<Item = u32>, value: u64) -> u64 {
    let mut txn = store.write();
    for id in ids {
        txn.put(node(id, value));
    }
    txn.commit()
}
