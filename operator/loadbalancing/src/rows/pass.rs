//! The `passes` table: destinations that proxies may reach without a tunnel.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::frontend::Protocol;
use super::service::ServiceName;
use crate::store::{Row, Snapshot, Table, TableId};

/// Primary key of a pass.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassKey {
    /// LoadBalancer whose proxies may; `None`: all proxies (the xDS Service).
    pub service: Option<ServiceName>,
    /// Destination.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}")?,
            None => f.write_str("all")?,
        }
        write!(f, " {}:{}/{}", self.address, self.port, self.protocol)
    }
}

impl fmt::Debug for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A destination without a tunnel: an endpoint without a node, or something every proxy needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Primary key.
    pub key: PassKey,
    /// What is there: name of the Endpoint, or of the Service.
    pub purpose: Arc<str>,
}

impl Row for Pass {
    type Key = PassKey;
    type Group = Option<ServiceName>;

    fn key(&self) -> PassKey {
        self.key.clone()
    }

    fn group(&self) -> Option<ServiceName> {
        self.key.service.clone()
    }

    fn table_id() -> TableId {
        TableId::Passes
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.passes
    }
}
