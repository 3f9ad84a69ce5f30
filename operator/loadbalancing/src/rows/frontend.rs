//! The `frontends` and `wishes` tables: addresses that receive traffic, and who would like to have them.
//!
//! For every address and port `frontends` holds the one service that has it, `wishes` those that were refused. Who has it
//! follows from the rows alone, whatever order they came in: the most preferred source, then the older object, then the
//! name. Whoever was refused gets it as soon as the holder leaves.

use std::fmt;
use std::net::IpAddr;

use epic_store::{Column, Index, Name, NonUnique, Row, StartsWith, optional, text};

use super::place::{Address, Place, Protocol};
use super::service::{ServiceName, ServiceRef};
use super::source::{Since, Source};

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
    pub address: Address,
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
        Self { address: address.into(), port, protocol, scope: Scope::External }
    }

    /// Where packets arrive.
    pub fn place(&self) -> Place {
        Place { address: self.address, port: self.port, protocol: self.protocol }
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place())?;
        if self.scope == Scope::Internal { f.write_str("/i") } else { Ok(()) }
    }
}

impl fmt::Debug for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<Address> for FrontendKey {
    fn cmp_start(&self, start: &Address) -> std::cmp::Ordering {
        self.address.cmp(start)
    }
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A public address of a LoadBalancer.
    #[default]
    LoadBalancer,
    /// An address of the cluster itself.
    ClusterIp,
    /// A port of every node.
    NodePort,
    /// An address that somebody else leads to the nodes.
    ExternalIp,
    /// A port of the node that a pod runs on.
    HostPort,
    /// An address whose traffic stays on the node.
    LocalRedirect,
}

/// Which backends of the service a frontend wants, by port (`targetPort` of a public port).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// The backend's port has this number.
    Number(u16),
    /// The backend's port has this name.
    Name(Name),
}

/// How packets of a frontend go on (the seed's ProxyRedirect, decided port by port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// To a proxy, which listens on this port.
    Proxied {
        /// Port of the proxy: 10000 + slot.
        listener: u16,
    },
    /// To a backend itself.
    Direct,
}

/// A frontend of a service, as one source wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Primary key.
    pub key: FrontendKey,
    /// Service it belongs to.
    pub service: ServiceName,
    /// Who says so.
    pub source: Source,
    /// Since when the object of the service has existed: decides between two that want one address.
    pub since: Since,
    /// Kind of address.
    pub kind: FrontendKind,
    /// Name of the public port, if it has one: then only backends whose port has that name are selected.
    pub port_name: Option<Name>,
    /// Otherwise selected by this; `None` takes every backend of the service (proxies behind a VIP).
    pub target_port: Option<TargetPort>,
    /// How packets go on.
    pub forwarding: Forwarding,
    /// Whether this node answers ARP for the address.
    pub announced: bool,
}

impl Frontend {
    /// First listener port of a proxy; slot 0 listens here.
    pub const FIRST_LISTENER_PORT: u16 = 10_000;

    /// An external LoadBalancer frontend that takes every backend of its service, through the listener of this slot of
    /// its proxies (`status.ports`).
    pub fn proxied(key: FrontendKey, service: ServiceName, slot: u16) -> Self {
        let listener = Self::FIRST_LISTENER_PORT.saturating_add(slot);
        Self { forwarding: Forwarding::Proxied { listener }, ..Self::direct(key, service) }
    }

    /// An external LoadBalancer frontend that takes every backend of its service, without a proxy.
    pub fn direct(key: FrontendKey, service: ServiceName) -> Self {
        Self {
            key,
            service,
            source: Source::default(),
            since: Since::default(),
            kind: FrontendKind::default(),
            port_name: None,
            target_port: None,
            forwarding: Forwarding::Direct,
            announced: false,
        }
    }

    /// Port on which its proxies listen.
    pub fn listener_port(&self) -> Option<u16> {
        match self.forwarding {
            Forwarding::Proxied { listener } => Some(listener),
            Forwarding::Direct => None,
        }
    }

    /// Who of several that want one address has it: the least.
    pub(crate) fn precedence(&self) -> (Source, Since, &str) {
        (self.source, self.since, self.service.as_str())
    }
}

/// Frontends by their service.
#[derive(Debug)]
pub struct ByService;

impl Index<Frontend> for ByService {
    type Of = ServiceRef;
    type Kind = NonUnique;
    const NAME: &'static str = "service";

    fn of(row: &Frontend) -> impl IntoIterator<Item = ServiceRef> {
        [row.service.id()]
    }
}

impl Row for Frontend {
    type Key = FrontendKey;
    type Indexes = (ByService,);

    fn key(&self) -> FrontendKey {
        self.key
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("frontend", |row| text(row.key)),
                Column::new("service", |row| text(&row.service)),
                Column::new("kind", |row| text(format!("{:?}", row.kind))),
                Column::new("port-name", |row| optional(row.port_name.as_ref())),
                Column::new("target", |row| match &row.target_port {
                    None => serde_json::Value::Null,
                    Some(TargetPort::Number(number)) => (*number).into(),
                    Some(TargetPort::Name(name)) => text(name),
                }),
                Column::new("forwarding", |row| match row.forwarding {
                    Forwarding::Proxied { listener } => text(format!("listener {listener}")),
                    Forwarding::Direct => text("direct"),
                }),
                Column::new("announced", |row| row.announced.into()),
            ]
        }
    }
}

/// A frontend whose address another service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish(pub Frontend);

/// Primary key of a wish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WishKey {
    /// What is wanted.
    pub frontend: FrontendKey,
    /// Who wants it.
    pub service: ServiceRef,
    /// Who says so.
    pub source: Source,
}

impl fmt::Display for WishKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.frontend, self.service, self.source)
    }
}

impl fmt::Debug for WishKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<FrontendKey> for WishKey {
    fn cmp_start(&self, start: &FrontendKey) -> std::cmp::Ordering {
        self.frontend.cmp(start)
    }
}

impl Index<Wish> for ByService {
    type Of = ServiceRef;
    type Kind = NonUnique;
    const NAME: &'static str = "service";

    fn of(row: &Wish) -> impl IntoIterator<Item = ServiceRef> {
        [row.0.service.id()]
    }
}

impl Row for Wish {
    type Key = WishKey;
    type Indexes = (ByService,);

    fn key(&self) -> WishKey {
        WishKey { frontend: self.0.key, service: self.0.service.id(), source: self.0.source }
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("wish", |row| text(row.key())),
                Column::new("frontend", |row| text(row.0.key)),
                Column::new("service", |row| text(&row.0.service)),
                Column::new("source", |row| text(row.0.source)),
            ]
        }
    }
}
