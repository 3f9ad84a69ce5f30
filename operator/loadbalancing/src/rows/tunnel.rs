//! The `tunnels` table: one row per (LoadBalancer, client node, EPIC node) that matters on this node.

use std::net::IpAddr;

use epic_store::{Column, Index, Name, NonUnique, Row, text};

use super::frontend::ByService;
use super::service::{ServiceName, ServiceRef};
use crate::TunnelId;

/// One tunnel. Group, service and keys are those of its service; the remote's address is learned, not written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Primary key.
    pub id: TunnelId,
    /// LoadBalancer it belongs to.
    pub service: ServiceName,
    /// Identity of the client node (`node-address`).
    pub client_node: IpAddr,
    /// Name of the EPIC node.
    pub epic_node: Name,
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

impl Index<Tunnel> for ByService {
    type Of = ServiceRef;
    type Kind = NonUnique;
    const NAME: &'static str = "service";

    fn of(row: &Tunnel) -> impl IntoIterator<Item = ServiceRef> {
        [row.service.id()]
    }
}

impl Row for Tunnel {
    type Key = TunnelId;
    type Indexes = (ByService,);

    fn key(&self) -> TunnelId {
        self.id
    }

    fn key_text(key: TunnelId) -> String {
        key.to_string()
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("tunnel", |row| text(row.id)),
                Column::new("service", |row| text(&row.service)),
                Column::new("client", |row| text(row.client_node)),
                Column::new("epic", |row| {
                    text(format!("{} ({}:{})", row.epic_node, row.epic_address, row.epic_port))
                }),
                Column::new("link", |row| row.link.ifindex.into()),
                Column::new("mtu", |row| row.link.mtu.into()),
                Column::new("local", |row| text(row.link.local)),
            ]
        }
    }
}
