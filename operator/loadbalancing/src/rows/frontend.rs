//! The `frontends` table: an address that receives traffic, and the backends selected for it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::backend::Backend;
use super::service::ServiceName;
use crate::store::{Row, Snapshot, Table, TableId};

/// Transport protocol. [`Protocol::Any`] stands for every protocol and appears in backends only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Every protocol: a proxy pod as the backend of a VIP.
    Any,
}

impl Protocol {
    /// IANA number; 0 for [`Protocol::Any`].
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Any => 0,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Any => "ANY",
        })
    }
}

/// From where a frontend is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// From outside.
    #[default]
    External,
    /// From inside the cluster.
    Internal,
}

/// Primary key of a frontend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// VIP.
    pub address: IpAddr,
    /// Public port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Scope.
    pub scope: Scope,
}

impl FrontendKey {
    /// An external frontend.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address, port, protocol, scope: Scope::External }
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(a) => write!(f, "{a}:{}/{}", self.port, self.protocol)?,
            IpAddr::V6(a) => write!(f, "[{a}]:{}/{}", self.port, self.protocol)?,
        }
        if self.scope == Scope::Internal { f.write_str("/i") } else { Ok(()) }
    }
}

impl fmt::Debug for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendType {
    /// A public address of a LoadBalancer.
    #[default]
    LoadBalancer,
    /// An address of the cluster itself.
    ClusterIp,
}

/// Which backends of the service a frontend wants, by port (`targetPort` of a public port).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// The backend's port has this number.
    Number(u16),
    /// The backend's port has this name.
    Name(Arc<str>),
}

/// What a source says about a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontendParams {
    /// Primary key.
    pub key: FrontendKey,
    /// Service it belongs to.
    pub service: ServiceName,
    /// Name of the public port, if it has one: then only backends whose port has that name are selected.
    pub port_name: Option<Arc<str>>,
    /// Otherwise selected by this; `None` takes every backend of the service (proxies behind a VIP).
    pub target_port: Option<TargetPort>,
    /// Slot of this port within its LoadBalancer (`status.ports`).
    pub slot: u16,
    /// Port on which the proxy listens: 10000 + slot.
    pub listener_port: u16,
    /// Kind of address.
    pub kind: FrontendType,
    /// Whether this node answers ARP for the address.
    pub vip_owner: bool,
}

impl FrontendParams {
    /// First listener port of a proxy; slot 0 listens here.
    pub const FIRST_LISTENER_PORT: u16 = 10_000;

    /// An external LoadBalancer frontend that takes every backend of its service.
    pub fn new(key: FrontendKey, service: ServiceName, slot: u16) -> Self {
        Self {
            key,
            service,
            port_name: None,
            target_port: None,
            slot,
            listener_port: Self::FIRST_LISTENER_PORT.saturating_add(slot),
            kind: FrontendType::default(),
            vip_owner: false,
        }
    }
}

/// What a selected backend is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes new flows.
    Serving,
    /// Keeps the flows it has, takes no new ones.
    ExistingOnly,
}

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// The row.
    pub backend: Arc<Backend>,
    /// Its use.
    pub role: Role,
}

/// A frontend with the backends that [`crate::selection`] chose for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// What the source said.
    pub params: FrontendParams,
    /// Selected backends: serving ones first, then by key. Kept up to date by the Writer at commit.
    pub backends: Arc<[Selected]>,
}

impl Frontend {
    /// Backends that take new flows.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().filter(|s| s.role == Role::Serving).map(|s| &s.backend)
    }
}

impl Row for Frontend {
    type Key = FrontendKey;
    type Group = ServiceName;

    fn key(&self) -> FrontendKey {
        self.params.key
    }

    fn group(&self) -> ServiceName {
        self.params.service.clone()
    }

    fn table_id() -> TableId {
        TableId::Frontends
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.frontends
    }
}
