//! The `services` table: what is common to all frontends of one LoadBalancer.

use std::fmt;
use std::sync::Arc;

pub use epic_abi::gue::Key as DataKey;
use epic_model::edge::Edge;

use crate::store::{Row, Snapshot, Table, TableId};
use crate::{GroupId, ServiceId};

/// Name of a service: namespace and name of the LoadBalancer it was made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Name of the object.
    pub name: Arc<str>,
}

impl ServiceName {
    /// A name of its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who put a row there. Rows of one source are removed only by that source. Most preferred first: when two
/// sources name the same backend of a service, the smaller one is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Known to the process itself (its own node).
    Local,
    /// EPIC's custom resources.
    #[default]
    Resource,
    /// Core Services and EndpointSlices.
    Kubernetes,
    /// A state file.
    File,
    /// A call through an API of the process.
    Api,
}

/// How a proxy chooses among endpoints (ServiceGroup `lb-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LbPolicy {
    /// In turn.
    #[default]
    RoundRobin,
    /// Fewest requests in flight of two.
    LeastRequest,
    /// At random.
    Random,
    /// Consistent by ring hash.
    RingHash,
    /// Consistent by Maglev.
    Maglev,
}

/// Keys of one service, derived by the agent: receivers accept generations n−1, n, n+1, senders use n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceKeys {
    /// Data keys of generations n−1, n, n+1, for packets from and to client nodes.
    pub data: [DataKey; 3],
    /// Keys of generations n−1, n, n+1 for legs between EPIC nodes; on client nodes there are none.
    pub node: Option<[DataKey; 3]>,
}

/// One LoadBalancer, as far as traffic is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Primary key.
    pub name: ServiceName,
    /// uid of the LoadBalancer object: a recreated one is another service.
    pub uid: Arc<str>,
    /// `metadata.generation` this row was made of; what a proxy acknowledges.
    pub generation: i64,
    /// Who put it there.
    pub source: Source,
    /// Granted group.
    pub group_id: GroupId,
    /// Granted service.
    pub service_id: ServiceId,
    /// Policy among endpoints.
    pub lb_policy: LbPolicy,
    /// How its proxies treat clients and endpoints.
    pub edge: Arc<Edge>,
    /// `status.key-generation`, n.
    pub key_generation: u32,
    /// Derived keys; only agents have them.
    pub keys: Option<ServiceKeys>,
}

impl Service {
    /// A service with the given identity and everything else at its default.
    pub fn new(
        name: ServiceName,
        uid: impl Into<Arc<str>>,
        group_id: GroupId,
        service_id: ServiceId,
    ) -> Self {
        Self {
            name,
            uid: uid.into(),
            generation: 1,
            source: Source::default(),
            group_id,
            service_id,
            lb_policy: LbPolicy::default(),
            edge: Arc::default(),
            key_generation: 1,
            keys: None,
        }
    }
}

impl Row for Service {
    type Key = ServiceName;
    type Group = (GroupId, ServiceId);

    fn key(&self) -> ServiceName {
        self.name.clone()
    }

    fn group(&self) -> Self::Group {
        (self.group_id, self.service_id)
    }

    fn table_id() -> TableId {
        TableId::Services
    }

    fn table(snapshot: &Snapshot) -> &Table<Self> {
        &snapshot.services
    }
}
