//! The `aliases` table: what Envoy dials, and the endpoint behind it.
//!
//! On an EPIC node every endpoint with a node of every LoadBalancer; on a client node the endpoints that are there.

use std::fmt;

use epic_store::{Column, Index, Name, NonUnique, Row, StartsWith, optional, text};

use super::place::{Address, Place};
use super::service::{ServiceName, ServiceRef};
use crate::TunnelId;

/// Primary key of an alias: the LoadBalancer and the address that its proxies dial.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasKey {
    /// LoadBalancer.
    pub service: ServiceRef,
    /// Alias.
    pub address: Address,
}

impl fmt::Display for AliasKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.address)
    }
}

impl fmt::Debug for AliasKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<ServiceRef> for AliasKey {
    fn cmp_start(&self, start: &ServiceRef) -> std::cmp::Ordering {
        self.service.cmp(start)
    }
}

/// One endpoint of one LoadBalancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// LoadBalancer.
    pub service: ServiceName,
    /// Alias.
    pub address: Address,
    /// Tunnel from this EPIC node to the endpoint's node; `None` on a client node.
    pub tunnel: Option<TunnelId>,
    /// The endpoint.
    pub real: Place,
    /// Name of the Endpoint object.
    pub endpoint: Name,
}

/// An endpoint as its tunnel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BehindTunnel {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The endpoint.
    pub real: Place,
}

impl StartsWith<TunnelId> for BehindTunnel {
    fn cmp_start(&self, start: &TunnelId) -> std::cmp::Ordering {
        self.tunnel.cmp(start)
    }
}

/// Aliases by what is behind their tunnel.
#[derive(Debug)]
pub struct ByTunnel;

impl Index<Alias> for ByTunnel {
    type Of = BehindTunnel;
    type Kind = NonUnique;
    const NAME: &'static str = "tunnel";

    fn of(row: &Alias) -> impl IntoIterator<Item = BehindTunnel> {
        row.tunnel.map(|tunnel| BehindTunnel { tunnel, real: row.real })
    }
}

impl Row for Alias {
    type Key = AliasKey;
    type Indexes = (ByTunnel,);

    fn key(&self) -> AliasKey {
        AliasKey { service: self.service.id(), address: self.address }
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("alias", |row| text(row.key())),
                Column::new("real", |row| text(row.real)),
                Column::new("tunnel", |row| optional(row.tunnel)),
                Column::new("endpoint", |row| text(&row.endpoint)),
            ]
        }
    }
}
