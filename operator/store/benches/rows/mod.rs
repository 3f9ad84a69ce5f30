//! The table that is measured: keys of 12 bytes, one non-unique index, as of backends of services.

use std::cmp::Ordering;

use epic_store::{Column, Index, NonUnique, Row, StartsWith, tables};

/// A place in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Interned name of the service.
    pub(crate) service: u32,
    /// Address of the place.
    pub(crate) address: u32,
    /// Port of the place.
    pub(crate) port: u16,
}

/// A row of the size of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Where it is.
    pub(crate) key: Key,
    /// What the index is by.
    pub(crate) node: u32,
    /// Share of flows.
    pub(crate) weight: u16,
}

/// Rows by node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByNode;

impl Index<Backend> for ByNode {
    type Of = u32;
    type Kind = NonUnique;
    const NAME: &'static str = "node";

    fn of(row: &Backend) -> impl IntoIterator<Item = u32> {
        [row.node]
    }
}

impl StartsWith<u32> for Key {
    fn cmp_start(&self, service: &u32) -> Ordering {
        self.service.cmp(service)
    }
}

impl Row for Backend {
    type Key = Key;
    type Indexes = (ByNode,);

    fn key(&self) -> Key {
        self.key
    }
    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("service", |row| row.key.service.into())] }
    }
}

tables! {
    /// One table.
    pub(crate) Tables {
        /// With one index.
        backends: Backend,
    }
}

/// Row number `i`: one to a service, twenty to a node.
pub(crate) fn row(i: u32, weight: u16) -> Backend {
    Backend { key: Key { service: i, address: 0x0A00_0000 + i, port: 8080 }, node: i / 20, weight }
}

/// The numbers below `n` in an order without pattern, the same every time.
pub(crate) fn shuffled(n: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..n).collect();
    numbers.sort_by_key(|i| u64::from(*i).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    numbers
}
