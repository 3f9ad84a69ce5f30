//! The `tunnels` table: one row per (LoadBalancer, client node, EPIC node) that matters on this node.

use std::net::IpAddr;
use std::sync::Arc;

use super::service::ServiceName;
use crate::TunnelId;
use crate::store::{Row, Snapshot, Table, TableId};

/// One tunnel. Group, service and keys are those of its service; the remote's address is learned, not written here.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// Primary key.
    pub id: TunnelId,
    /// LoadBalancer it belongs to.
    pub service: ServiceName,
    /// Identity of the client node (`node-address`).
    pub client_node: IpAddr,
    /// Name of the EPIC node.
    pub epic_node: Arc<str>,
    /// GUE address of the EPIC node.
    pub epic_address: IpAddr,
    /// GUE port of the EPIC node.
    pub epic_port: u16,
    /// The way out of this host.
    pub link: Link,
}

/// How packets of a tunnel leave this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface that leads to the far end.
    pub ifindex: u32,
    /// Bytes an outer packet may have.
    pub mtu: u32,
    /// Outer source address.
    pub local: IpAddr,
}

impl Row for Tunnel {
    type Key = TunnelId;
    type Group = ServiceName;

    fn key(&self) -> TunnelId {
        self.id
    }

    fn group(&self) -> ServiceName {
        self.service.clone()
    }

    fn table_id() -> TableId {
        TableId::Tunnels
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.tunnels
    }
}
