//! The `backends` table: who may receive the traffic of a service.
//!
//! In the operator a backend is an Endpoint, in the agent a proxy pod. A backend belongs to one service; the same
//! address in two services is two rows, so that a change in one never touches the other.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::frontend::Protocol;
use super::service::{ServiceName, Source};
use crate::store::{Row, Snapshot, Table, TableId};
use crate::{EndpointId, ProxyId};

/// Primary key of a backend: service, address, source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Service it serves.
    pub service: ServiceName,
    /// What is dialled: the alias of an endpoint that has a node, else its real address; a proxy's address.
    pub address: IpAddr,
    /// Port; 0 when the backend serves every port (a proxy).
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Source: several sources may name the same backend, the smallest is used.
    pub source: Source,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(a) => write!(f, "{} {a}:{}/{}", self.service, self.port, self.protocol),
            IpAddr::V6(a) => write!(f, "{} [{a}]:{}/{}", self.service, self.port, self.protocol),
        }
    }
}

impl fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.source)
    }
}

/// State of a backend, in the order in which they are preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Takes new flows.
    #[default]
    Active,
    /// Going away: keeps existing flows; takes new ones only while nothing active is left.
    Terminating,
    /// Draining: keeps existing flows and never takes new ones.
    Draining,
    /// Taken out by a health verdict: keeps existing flows.
    Quarantined,
    /// Taken out on purpose (weight 0, not ready): keeps existing flows.
    Maintenance,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Primary key.
    pub key: BackendKey,
    /// State as its source gives it.
    pub state: BackendState,
    /// Share of new flows, 1–128; 0 means none.
    pub weight: u16,
    /// Names of its port; empty matches every name.
    pub port_names: Vec<Arc<str>>,
    /// Node it runs on: client node address of an endpoint, EPIC node name of a proxy.
    pub node: Option<Arc<str>>,
    /// Failed its health check. Kept by the Writer when the source updates the row.
    pub unhealthy: bool,
    /// Namespace/name of the object it was made of.
    pub object: Option<Arc<str>>,
    /// uid of that object.
    pub uid: Option<Arc<str>>,
    /// `metadata.generation` of that object.
    pub generation: i64,
    /// Address as the tenant knows it; for logs (EDS hostname and metadata).
    pub real_address: Option<IpAddr>,
    /// Endpoint id, in the operator.
    pub endpoint_id: Option<EndpointId>,
    /// Proxy id, in the agent.
    pub proxy: Option<ProxyId>,
}

impl Backend {
    /// Weight when nothing else is said.
    pub const DEFAULT_WEIGHT: u16 = 1;

    /// An active backend with the default weight.
    pub fn new(service: ServiceName, address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            key: BackendKey { service, address, port, protocol, source: Source::default() },
            state: BackendState::Active,
            weight: Self::DEFAULT_WEIGHT,
            port_names: Vec::new(),
            node: None,
            unhealthy: false,
            object: None,
            uid: None,
            generation: 0,
            real_address: None,
            endpoint_id: None,
            proxy: None,
        }
    }

    /// A proxy pod as the backend of a VIP: every port and protocol, named by its proxy id.
    pub fn proxy(service: ServiceName, address: IpAddr, proxy: ProxyId) -> Self {
        Self { proxy: Some(proxy), ..Self::new(service, address, 0, Protocol::Any) }
    }

    /// `address:port` as the tenant knows it.
    pub fn hostname(&self) -> String {
        std::net::SocketAddr::new(self.real_address.unwrap_or(self.key.address), self.key.port).to_string()
    }
}

impl Row for Backend {
    type Key = BackendKey;
    type Group = (IpAddr, u16, Protocol);

    fn key(&self) -> BackendKey {
        self.key.clone()
    }

    fn group(&self) -> Self::Group {
        (self.key.address, self.key.port, self.key.protocol)
    }

    fn table_id() -> TableId {
        TableId::Backends
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.backends
    }
}
