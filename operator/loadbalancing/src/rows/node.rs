//! The `nodes` table: GUE addresses of EPIC nodes, other than this one.

use std::net::IpAddr;
use std::sync::Arc;

use crate::store::{Row, Snapshot, Table, TableId};

/// An EPIC node: may send with node keys (to EPIC nodes) and control messages (to clients).
#[derive(Clone, Debug, PartialEq)]
pub struct EpicNode {
    /// Primary key: its GUE address.
    pub address: IpAddr,
    /// Its name.
    pub name: Arc<str>,
}

impl Row for EpicNode {
    type Key = IpAddr;
    type Group = Arc<str>;

    fn key(&self) -> IpAddr {
        self.address
    }

    fn group(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn table_id() -> TableId {
        TableId::Nodes
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.nodes
    }
}
