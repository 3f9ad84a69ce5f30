//! The `aliases` table: what Envoy dials, and the endpoint behind it.
//!
//! On an EPIC node every endpoint with a node of every LoadBalancer; on a client node the endpoints that are there.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::frontend::Protocol;
use super::service::ServiceName;
use crate::TunnelId;
use crate::store::{Row, Snapshot, Table, TableId};

/// Primary key of an alias: the LoadBalancer and the address that its proxies dial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasKey {
    /// LoadBalancer.
    pub service: ServiceName,
    /// Alias.
    pub address: IpAddr,
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

/// One endpoint of one LoadBalancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    /// Primary key.
    pub key: AliasKey,
    /// Tunnel from this EPIC node to the endpoint's node; `None` on a client node.
    pub tunnel: Option<TunnelId>,
    /// Real address of the endpoint.
    pub real_address: IpAddr,
    /// Protocol of the endpoint.
    pub protocol: Protocol,
    /// Port of the endpoint.
    pub port: u16,
    /// Name of the Endpoint object.
    pub endpoint: Arc<str>,
}

impl Row for Alias {
    type Key = AliasKey;
    type Group = Option<TunnelId>;

    fn key(&self) -> AliasKey {
        self.key.clone()
    }

    fn group(&self) -> Option<TunnelId> {
        self.tunnel
    }

    fn table_id() -> TableId {
        TableId::Aliases
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.aliases
    }
}
