//! The `nodes` table: GUE addresses of EPIC nodes, other than this one.

use std::net::IpAddr;

use epic_store::{Column, Name, Row, text};

use super::place::Address;

/// An EPIC node: may send with node keys (to EPIC nodes) and control messages (to clients).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpicNode {
    /// Primary key: its GUE address.
    pub address: Address,
    /// Its name.
    pub name: Name,
}

impl EpicNode {
    /// A node of this GUE address.
    pub fn new(address: IpAddr, name: impl AsRef<str>) -> Self {
        Self { address: address.into(), name: Name::new(name.as_ref()) }
    }
}

impl Row for EpicNode {
    type Key = Address;
    type Indexes = ();

    fn key(&self) -> Address {
        self.address
    }

    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("address", |row| text(row.address)), Column::new("name", |row| text(&row.name))] }
    }
}
