//! The `services` table: what is common to all frontends of one LoadBalancer.
//!
//! A row is what *one source* says of a service. Of several sources that name the same service the most preferred counts
//! ([`Tables::service`](crate::Tables::service)); the others wait beside it, and nobody overwrites another's row.

use std::fmt;
use std::sync::{Arc, LazyLock};

pub use epic_abi::gue::Key as DataKey;
use epic_model::edge::Edge;
use epic_store::{Column, Index, Name, NameId, NonUnique, Row, StartsWith, optional, text};

use super::source::{Since, Source};
use super::traffic::Traffic;
use crate::{GroupId, ServiceId};

/// Name of a service: namespace and name of the object it was made of; of one of another cluster, with the cluster.
///
/// Interned. [`ServiceName::id`] is what keys hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Name);

/// A [`ServiceName`] as keys hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef(NameId);

impl ServiceName {
    /// A name of its two parts.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self(Name::new(&format!("{}/{}", namespace.as_ref(), name.as_ref())))
    }

    /// A name of `namespace/name` as one text.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self(Name::new(text)))
    }

    /// Namespace of the object.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For keys and questions.
    pub fn id(&self) -> ServiceRef {
        ServiceRef(self.0.id())
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Primary key of a service, and of what a source says once of a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The service.
    pub service: ServiceRef,
    /// Who says it.
    pub source: Source,
}

impl StartsWith<ServiceRef> for ServiceKey {
    fn cmp_start(&self, start: &ServiceRef) -> std::cmp::Ordering {
        self.service.cmp(start)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            // The usual one.
            Source::Resource => write!(f, "{}", self.service),
            source => write!(f, "{} ({source})", self.service),
        }
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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

/// Granted IDs of a service: who it is in packets and in maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIds {
    /// Granted group.
    pub group: GroupId,
    /// Granted service.
    pub service: ServiceId,
}

impl fmt::Display for ServiceIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.service)
    }
}

/// One service, as one source has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Who says so.
    pub source: Source,
    /// Since when its object has existed: of two that claim one thing the older has it.
    pub since: Since,
    /// uid of its object: a recreated one is another service.
    pub uid: Arc<str>,
    /// `metadata.generation` this row was made of; what a proxy acknowledges.
    pub generation: i64,
    /// Granted IDs; of a service that has none nothing can be written to EPIC's maps.
    pub ids: Option<ServiceIds>,
    /// Policy among endpoints.
    pub lb_policy: LbPolicy,
    /// How its proxies treat clients and endpoints.
    pub edge: Arc<Edge>,
    /// `status.key-generation`, n.
    pub key_generation: u32,
    /// Derived keys; only agents have them.
    pub keys: Option<Arc<ServiceKeys>>,
    /// How traffic is spread and admitted, as far as it is said; `None` is everything at its default.
    pub traffic: Option<Arc<Traffic>>,
}

/// Most services say nothing of it.
static DEFAULT_EDGE: LazyLock<Arc<Edge>> = LazyLock::new(Arc::default);

impl Service {
    /// A service with everything at its default, of [`Source::Resource`].
    pub fn new(name: ServiceName, uid: impl Into<Arc<str>>) -> Self {
        Self {
            name,
            source: Source::default(),
            since: Since::default(),
            uid: uid.into(),
            generation: 1,
            ids: None,
            lb_policy: LbPolicy::default(),
            edge: Arc::clone(&DEFAULT_EDGE),
            key_generation: 1,
            keys: None,
            traffic: None,
        }
    }

    /// With these granted IDs.
    #[must_use]
    pub fn granted(self, group: GroupId, service: ServiceId) -> Self {
        Self { ids: Some(ServiceIds { group, service }), ..self }
    }

    /// How traffic is spread and admitted.
    pub fn traffic(&self) -> &Traffic {
        self.traffic.as_deref().unwrap_or(Traffic::DEFAULT)
    }

    /// Who of several that claim one thing has it: the least.
    pub(crate) fn precedence(&self) -> (Source, Since, &str) {
        (self.source, self.since, self.name.as_str())
    }
}

/// Services by granted IDs: who claims them.
#[derive(Debug)]
pub struct ByIds;

impl Index<Service> for ByIds {
    type Of = ServiceIds;
    type Kind = NonUnique;
    const NAME: &'static str = "ids";

    fn of(row: &Service) -> impl IntoIterator<Item = ServiceIds> {
        row.ids
    }
}

impl Row for Service {
    type Key = ServiceKey;
    type Indexes = (ByIds,);

    fn key(&self) -> ServiceKey {
        ServiceKey { service: self.name.id(), source: self.source }
    }

    fn key_text(key: ServiceKey) -> String {
        key.to_string()
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("service", |row| text(row.key())),
                Column::new("ids", |row| optional(row.ids)),
                Column::new("policy", |row| text(format!("{:?}", row.lb_policy))),
                Column::new("generation", |row| row.generation.into()),
                Column::new("keys", |row| {
                    if row.keys.is_some() { row.key_generation.into() } else { serde_json::Value::Null }
                }),
                Column::new("traffic", |row| row.traffic.as_ref().map_or(serde_json::Value::Null, text)),
            ]
        }
    }
}
