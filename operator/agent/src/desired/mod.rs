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

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::Lb;
use epic_crds::{HasConditions as _, LoadBalancer, Protocol as CrdProtocol};
use epic_lb::{
    Alias, Backend, EpicNode, FrontendKey, FrontendParams, GroupId, Initializer, Pass, Protocol, Proxy,
    Service, ServiceId, ServiceName, Source, Tunnel, WriteError, Writer,
};

/// A LoadBalancer with its frontends and backends.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRows {
    /// The LoadBalancer.
    pub service: Service,
    /// Its public ports.
    pub frontends: Vec<FrontendParams>,
    /// Its proxies, on an EPIC node.
    pub backends: Vec<Backend>,
}

/// All rows of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// LoadBalancers.
    pub services: Vec<ServiceRows>,
    /// Tunnels that end here.
    pub tunnels: Vec<Tunnel>,
    /// Proxies.
    pub proxies: Vec<Proxy>,
    /// Endpoints behind tunnels.
    pub aliases: Vec<Alias>,
    /// What proxies reach without a tunnel.
    pub passes: Vec<Pass>,
    /// EPIC nodes.
    pub nodes: Vec<EpicNode>,
}

impl Rows {
    /// Makes the tables hold these rows and nothing else, in one transaction. The first time, `initializer` says that
    /// from now on absence means something. Returns the revision of the tables, and what was refused.
    pub fn write(self, writer: &Writer, initializer: Option<Initializer>) -> (u64, Vec<WriteError>) {
        let mut refused = Vec::new();
        let mut txn = writer.write();
        let keep: BTreeSet<ServiceName> = self.services.iter().map(|s| s.service.name.clone()).collect();
        txn.retain_services(Source::Resource, &keep);
        // An address that moves from one LoadBalancer to another has to leave the first before the second gets it.
        let owners: BTreeMap<FrontendKey, &ServiceName> = self
            .services
            .iter()
            .flat_map(|s| s.frontends.iter().map(|f| (f.key, &s.service.name)))
            .rev()
            .collect();
        let moved: Vec<FrontendKey> = txn
            .snapshot()
            .frontends
            .iter()
            .filter(|f| owners.get(&f.params.key).is_some_and(|owner| **owner != f.params.service))
            .map(|f| f.params.key)
            .collect();
        for key in moved {
            txn.delete_frontend(&key);
        }
        for rows in self.services {
            let name = rows.service.name.clone();
            let service = rows.service.clone();
            if let Err(error) = txn.upsert_service_and_frontends(rows.service, rows.frontends) {
                // Its tunnels and proxies may serve all the same as soon as the address is free.
                refused.push(error);
                txn.upsert_service(service);
            }
            txn.set_backends(&name, Source::Resource, rows.backends);
        }
        txn.set_tunnels(self.tunnels);
        txn.set_proxies(self.proxies);
        txn.set_aliases(self.aliases);
        txn.set_passes(self.passes);
        txn.set_nodes(self.nodes);
        if let Some(initializer) = initializer {
            initializer.complete(&mut txn);
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
        let mut service = Service::new(self.name.clone(), Arc::clone(&self.uid), self.group, self.service);
        service.generation = object.metadata.generation.unwrap_or(1);
        service.key_generation = self.generation;
        service
    }
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
