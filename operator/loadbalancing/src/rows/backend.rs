//! The `backends` table: who may receive the traffic of a service.
//!
//! In the operator a backend is an Endpoint, in the agent a proxy pod. A backend belongs to one service; the same
//! address in two services is two rows, so that a change in one never touches the other. A row is what one source says.
//!
//! | state | new flows | flows it has | who says so |
//! | --- | --- | --- | --- |
//! | Active | yes | keeps them | the usual |
//! | Terminating | only while no active one takes any | keeps them | a pod that is being deleted and still serves; a proxy whose node is out of service |
//! | TerminatingNotServing | no | keeps them | a pod that is being deleted and is not ready |
//! | Draining | no | keeps them | taken out on purpose: weight 0, a proxy before its end |
//! | Quarantined | no, unless too few are healthy | keeps them | its source found it unreachable |
//! | Maintenance | no | keeps them | an administrator; it is not probed |
//!
//! *Unhealthy* is no state: it is a row of `verdicts`, and counts like Quarantined.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use epic_store::{Column, Name, Row, StartsWith, list, optional, text};

use super::place::{Place, Protocol};
use super::service::{ServiceName, ServiceRef};
use super::source::Source;
use crate::{EndpointId, ProxyId};

/// Primary key of a backend: service, place, source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Service it serves.
    pub service: ServiceRef,
    /// What is dialled.
    pub place: Place,
    /// Who says so.
    pub source: Source,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            // The usual one.
            Source::Resource => write!(f, "{} {}", self.service, self.place),
            source => write!(f, "{} {} ({source})", self.service, self.place),
        }
    }
}

impl fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<ServiceRef> for BackendKey {
    fn cmp_start(&self, start: &ServiceRef) -> std::cmp::Ordering {
        self.service.cmp(start)
    }
}

impl StartsWith<(ServiceRef, Place)> for BackendKey {
    fn cmp_start(&self, (service, place): &(ServiceRef, Place)) -> std::cmp::Ordering {
        (self.service, self.place).cmp(&(*service, *place))
    }
}

/// State of a backend, see the table above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// Takes new flows.
    #[default]
    Active,
    /// Going away: takes new flows only while nothing active is left.
    Terminating,
    /// Going away, and not serving any more.
    TerminatingNotServing,
    /// Taken out on purpose.
    Draining,
    /// Taken out by its source, which cannot reach it.
    Quarantined,
    /// Taken out by an administrator.
    Maintenance,
}

/// Whether a state lets a backend take new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NewFlows {
    /// It takes them.
    Yes,
    /// Only while no other takes any.
    IfNoOther,
    /// It would, but seems not to be there: only if too few others are.
    IfPanic,
    /// It takes none.
    No,
}

impl BackendState {
    /// Whether it takes new flows.
    pub const fn new_flows(self) -> NewFlows {
        match self {
            BackendState::Active => NewFlows::Yes,
            BackendState::Terminating => NewFlows::IfNoOther,
            BackendState::Quarantined => NewFlows::IfPanic,
            BackendState::TerminatingNotServing | BackendState::Draining | BackendState::Maintenance => {
                NewFlows::No
            }
        }
    }
}

/// Where a backend is; what is not known is not preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// Name of the node it runs on, or address of the client node.
    pub node: Option<Name>,
    /// Zone of that node.
    pub zone: Option<Name>,
    /// Cluster; `None` is the own one.
    pub cluster: Option<Name>,
}

/// The Endpoint that a backend was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointObject {
    /// Namespace/name of the object.
    pub object: Arc<str>,
    /// uid of that object.
    pub uid: Arc<str>,
    /// `metadata.generation` of that object.
    pub generation: i64,
    /// Address as the tenant knows it; for logs (EDS hostname and metadata).
    pub real_address: IpAddr,
    /// Endpoint id.
    pub id: Option<EndpointId>,
}

/// What a backend is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// An address.
    #[default]
    Address,
    /// An Endpoint, in the operator.
    Endpoint(Arc<EndpointObject>),
    /// A proxy, in the agent.
    Proxy(ProxyId),
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Service it serves.
    pub service: ServiceName,
    /// What is dialled: the alias of an endpoint that has a node, else its real address; a proxy's address.
    /// Port 0 when the backend serves every port (a proxy).
    pub place: Place,
    /// Who says so.
    pub source: Source,
    /// State as its source gives it.
    pub state: BackendState,
    /// Share of new flows, 1–128; 0 means none.
    pub weight: u16,
    /// Names of its port; none matches every name.
    pub port_names: Option<Arc<[Name]>>,
    /// Where it is.
    pub locality: Locality,
    /// What it is.
    pub kind: BackendKind,
}

impl Backend {
    /// Weight when nothing else is said.
    pub const DEFAULT_WEIGHT: u16 = 1;

    /// An active backend with the default weight.
    pub fn new(service: ServiceName, address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            service,
            place: Place::new(address, port, protocol),
            source: Source::default(),
            state: BackendState::Active,
            weight: Self::DEFAULT_WEIGHT,
            port_names: None,
            locality: Locality::default(),
            kind: BackendKind::Address,
        }
    }

    /// A proxy pod as the backend of a VIP: every port and protocol, named by its proxy id.
    pub fn proxy(service: ServiceName, address: IpAddr, proxy: ProxyId) -> Self {
        Self { kind: BackendKind::Proxy(proxy), ..Self::new(service, address, 0, Protocol::Any) }
    }

    /// Its proxy id, if it is a proxy.
    pub fn proxy_id(&self) -> Option<ProxyId> {
        match self.kind {
            BackendKind::Proxy(id) => Some(id),
            _ => None,
        }
    }

    /// The Endpoint it was made of.
    pub fn endpoint(&self) -> Option<&EndpointObject> {
        match &self.kind {
            BackendKind::Endpoint(object) => Some(object),
            _ => None,
        }
    }

    /// `address:port` as the tenant knows it.
    pub fn hostname(&self) -> String {
        let address = self.endpoint().map_or(self.place.address.ip(), |object| object.real_address);
        std::net::SocketAddr::new(address, self.place.port).to_string()
    }

    /// Names of its port.
    pub fn port_names(&self) -> &[Name] {
        self.port_names.as_deref().unwrap_or_default()
    }
}

impl Row for Backend {
    type Key = BackendKey;
    type Indexes = ();

    fn key(&self) -> BackendKey {
        BackendKey { service: self.service.id(), place: self.place, source: self.source }
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("backend", |row| text(row.key())),
                Column::new("state", |row| text(format!("{:?}", row.state))),
                Column::new("weight", |row| row.weight.into()),
                Column::new("port-names", |row| list(row.port_names())),
                Column::new("node", |row| optional(row.locality.node.as_ref())),
                Column::new("zone", |row| optional(row.locality.zone.as_ref())),
                Column::new("cluster", |row| optional(row.locality.cluster.as_ref())),
                Column::new("is", |row| match &row.kind {
                    BackendKind::Address => serde_json::Value::Null,
                    BackendKind::Endpoint(object) => text(format!("endpoint {}", object.object)),
                    BackendKind::Proxy(id) => text(format!("proxy {id}")),
                }),
            ]
        }
    }
}
