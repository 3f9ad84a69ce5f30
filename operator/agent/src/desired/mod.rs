//! From API objects to rows: what the tables of this host should hold.
//!
//! Everything below is pure. Objects that the operator has not finished granting, or that cannot be served yet (no
//! veth, no key), are left out with a reason instead of becoming rows that could never be written: one tenant's
//! unfinished object must not keep the maps of all others from counting as complete.

pub mod client;
pub mod keys;
pub mod node;
#[cfg(test)]
mod tests;
mod unique;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::Lb;
use epic_crds::{HasConditions as _, LoadBalancer, Protocol as CrdProtocol};
use epic_lb::{
    Alias, Backend, EpicNode, Frontend, GroupId, Initializer, Pass, Protocol, Proxy, Redirect, Service,
    ServiceId, ServiceName, Since, Tunnel, WriteError, WriteTxn, Writer,
};

/// A LoadBalancer with everything that is its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRows {
    /// The LoadBalancer.
    pub service: Service,
    /// Its public ports.
    pub frontends: Vec<Frontend>,
    /// Where its traffic is to go while nothing of it serves.
    pub redirect: Option<Redirect>,
    /// Its proxies, on an EPIC node.
    pub backends: Vec<Backend>,
    /// Its tunnels that end here.
    pub tunnels: Vec<Tunnel>,
    /// Its proxies.
    pub proxies: Vec<Proxy>,
    /// Its endpoints behind tunnels.
    pub aliases: Vec<Alias>,
    /// Its endpoints that are reached without a tunnel.
    pub passes: Vec<Pass>,
}

impl ServiceRows {
    /// A LoadBalancer that has nothing yet.
    pub fn new(service: Service) -> Self {
        Self {
            service,
            frontends: Vec::new(),
            redirect: None,
            backends: Vec::new(),
            tunnels: Vec::new(),
            proxies: Vec::new(),
            aliases: Vec::new(),
            passes: Vec::new(),
        }
    }

    /// Makes the tables hold these rows of this LoadBalancer and no others.
    fn write(self, txn: &mut WriteTxn<'_>) -> Result<(), WriteError> {
        let name = self.service.name.clone();
        let written = txn.upsert_service_and_frontends(self.service, self.frontends);
        txn.set_redirect(&name, self.redirect);
        txn.set_backends(&name, self.backends);
        txn.set_tunnels(&name, self.tunnels);
        txn.set_proxies(&name, self.proxies);
        txn.set_aliases(&name, self.aliases);
        txn.set_passes(Some(&name), self.passes);
        written
    }

    /// Makes the tables hold these rows of these LoadBalancers, and none of those that are gone, in one transaction. Returns
    /// the revision of the tables, and what was refused.
    pub fn write_all(services: Vec<Self>, gone: &[ServiceName], writer: &Writer) -> (u64, Vec<WriteError>) {
        let mut txn = writer.write();
        for name in gone {
            txn.delete_service_and_frontends(name);
            txn.delete_paths(name);
        }
        let refused = services.into_iter().filter_map(|rows| rows.write(&mut txn).err()).collect();
        (txn.commit(), refused)
    }
}

/// All rows of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// LoadBalancers.
    pub services: Vec<ServiceRows>,
    /// What all proxies reach without a tunnel.
    pub passes: Vec<Pass>,
    /// EPIC nodes.
    pub nodes: Vec<EpicNode>,
}

impl Rows {
    /// Makes the tables hold these rows and nothing else, in one transaction. The first time, `initializer` says that
    /// from now on absence means something. Returns the revision of the tables, and what was refused.
    pub fn write(self, writer: &Writer, initializer: Option<&Initializer>) -> (u64, Vec<WriteError>) {
        let mut txn = writer.write();
        let keep: BTreeSet<&ServiceName> = self.services.iter().map(|rows| &rows.service.name).collect();
        let known = txn.tables().services.iter().map(|row| row.name.clone());
        let gone: Vec<ServiceName> = known.filter(|name| !keep.contains(name)).collect();
        for name in &gone {
            txn.delete_service_and_frontends(name);
            txn.delete_paths(name);
        }
        let written = self.services.into_iter().map(|rows| rows.write(&mut txn));
        let refused = written.filter_map(Result::err).collect();
        txn.set_passes(None, self.passes);
        txn.set_nodes(self.nodes);
        if let Some(initializer) = initializer {
            txn.complete(initializer);
        }
        (txn.commit(), refused)
    }
}

/// What identifies a LoadBalancer in packets and in key derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace and name.
    pub name: ServiceName,
    /// uid of the object.
    pub uid: Arc<str>,
    /// Group and service.
    pub group: GroupId,
    /// Service id within the group.
    pub service: ServiceId,
    /// `status.key-generation`, from 1.
    pub generation: u32,
}

impl Identity {
    /// Of a LoadBalancer that has its grants; `None` before.
    pub fn of(object: &LoadBalancer) -> Option<Self> {
        let status = object.status.as_ref()?;
        let meta = &object.metadata;
        Some(Self {
            name: ServiceName::new(meta.namespace.as_deref()?, meta.name.as_deref()?),
            uid: meta.uid.as_deref()?.into(),
            group: GroupId::new(status.group_id?).ok()?,
            service: ServiceId::new(status.service_id?).ok()?,
            generation: u32::try_from(status.key_generation.unwrap_or(1)).ok().filter(|g| *g > 0)?,
        })
    }

    /// As it stands in packets and maps.
    pub fn lb(&self) -> Lb {
        Lb::new(self.group.get(), self.service.get())
    }

    /// The row, without keys.
    pub fn row(&self, object: &LoadBalancer) -> Service {
        Service {
            generation: object.metadata.generation.unwrap_or(1),
            key_generation: self.generation,
            since: since(object),
            ..Service::new(self.name.clone(), Arc::clone(&self.uid)).granted(self.group, self.service)
        }
    }
}

/// Since when a LoadBalancer has existed.
fn since(object: &LoadBalancer) -> Since {
    let created = object.metadata.creation_timestamp.as_ref();
    created.map(|time| Since::from_seconds(time.0.as_second())).unwrap_or_default()
}

/// The protocol as tables have it.
fn protocol(protocol: CrdProtocol) -> Protocol {
    match protocol {
        CrdProtocol::Tcp => Protocol::Tcp,
        CrdProtocol::Udp => Protocol::Udp,
        CrdProtocol::Sctp => Protocol::Sctp,
    }
}

/// An address of a status; what does not parse is no address.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// A port number of an object.
fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Whether the operator has refused an Endpoint. One that was not judged yet has no alias either.
fn is_refused(endpoint: &epic_crds::Endpoint) -> bool {
    let accepted = endpoint.condition(epic_crds::condition::ACCEPTED);
    accepted.is_some_and(|condition| condition.status == epic_crds::ConditionStatus::False)
}
