//! HealthCheckNodePort, answered from the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use epic_health::node_port::{Answers, NodePorts, ServiceHealth, VipHealth};
use epic_lb::{Address, BackendState, Location, Reader, Selection, ServiceName, ServiceRef, Snapshot};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Says what this node serves.
///
/// An address is served while anything takes new flows at one of its ports. Local endpoints of a service are its active
/// backends on this node that are not found unhealthy, each address once: so a node whose backends all leave is left by
/// upstream before they have gone, as with kube-proxy.
pub struct NodeAnswers {
    reader: Reader,
    location: Location,
    forwards: Box<Forwards>,
    ports: Mutex<Ports>,
}

/// Whether packets of a service are forwarded by this node, given the tables of now.
type Forwards = dyn Fn(&Snapshot, ServiceRef) -> bool + Send + Sync;

/// Which service has which port.
#[derive(Debug, Default)]
struct Ports {
    of: BTreeMap<ServiceRef, (ServiceName, u16)>,
    /// The first has it.
    by_port: BTreeMap<u16, BTreeSet<ServiceName>>,
}

impl fmt::Debug for NodeAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeAnswers").field("location", &self.location).finish_non_exhaustive()
    }
}

impl NodeAnswers {
    /// For a node at this place; `forwards` says whether what forwards packets of a service works.
    pub fn new(
        reader: Reader,
        location: Location,
        forwards: impl Fn(&Snapshot, ServiceRef) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { reader, location, forwards: Box::new(forwards), ports: Mutex::default() }
    }

    /// Opens and closes the ports that the services name, until `stop`.
    pub async fn follow(self: Arc<Self>, ports: NodePorts, stop: CancellationToken) {
        let mut any = self.reader.watch_any();
        let mut before: Arc<Snapshot> = Arc::default();
        loop {
            any.mark_unchanged();
            let now = self.reader.snapshot();
            if let Some(wanted) = self.ports.lock().follow(&before, &now) {
                ports.set(wanted);
            }
            before = now;
            tokio::select! {
                changed = any.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Services that have no port to themselves, with what to do.
    pub fn conflicts(&self) -> Vec<String> {
        let ports = self.ports.lock();
        let several = ports.by_port.iter().filter(|(_, services)| services.len() > 1);
        several
            .map(|(port, services)| {
                let names: Vec<&str> = services.iter().map(ServiceName::as_str).collect();
                let (first, others) = (names[0], names[1..].join(", "));
                format!("health check node port {port} tells of {first} alone; give {others} another port")
            })
            .collect()
    }
}

impl Ports {
    /// Takes in what changed; the ports that are wanted now, if they may differ.
    fn follow(&mut self, before: &Snapshot, now: &Snapshot) -> Option<Vec<u16>> {
        let mut differs = false;
        for change in now.services.changes_since(&before.services) {
            let name = &change.row().name;
            let port = now.service(name.id()).and_then(|row| row.traffic().health_check_node_port);
            if self.of.get(&name.id()).map(|(_, port)| *port) == port {
                continue;
            }
            differs = true;
            if let Some((name, port)) = self.of.remove(&name.id())
                && let Some(services) = self.by_port.get_mut(&port)
            {
                services.remove(&name);
                if services.is_empty() {
                    self.by_port.remove(&port);
                }
            }
            if let Some(port) = port {
                self.of.insert(name.id(), (name.clone(), port));
                self.by_port.entry(port).or_default().insert(name.clone());
            }
        }
        differs.then(|| self.by_port.keys().copied().collect())
    }
}

impl Answers for NodeAnswers {
    fn vip(&self, address: IpAddr) -> Option<VipHealth> {
        let tables = self.reader.snapshot();
        let mut frontends = tables.frontends.prefix(Address::from(address)).peekable();
        frontends.peek()?;
        let mut serving = BTreeSet::new();
        let mut silent = Vec::new();
        for frontend in frontends {
            let (service, key) = (&frontend.service, frontend.key);
            if !(self.forwards)(&tables, service.id()) {
                silent.push(format!("this node forwards nothing for {service} at {key}; ask its health"));
                continue;
            }
            let selection = Selection::of(&tables, frontend, self.location.here());
            if !selection.serves() {
                silent.push(format!("nothing of {service} serves {key}"));
            }
            serving.extend(selection.serving().map(|row| row.place));
        }
        let served = !serving.is_empty();
        let reason = if served { String::new() } else { silent.join("; ") };
        Some(VipHealth { served, backends: serving.len(), reason })
    }

    fn service(&self, port: u16) -> Option<ServiceHealth> {
        let name = self.ports.lock().by_port.get(&port)?.first()?.clone();
        let tables = self.reader.snapshot();
        let node = self.location.node.as_deref();
        let local = tables.backends_of(name.id()).filter(|row| {
            row.state == BackendState::Active
                && row.weight > 0
                && node.is_some()
                && row.locality.node.as_deref() == node
                && tables.is_healthy(name.id(), row.place)
        });
        let addresses: BTreeSet<Address> = local.map(|row| row.place.address).collect();
        Some(ServiceHealth {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            local_endpoints: addresses.len(),
            proxy_healthy: (self.forwards)(&tables, name.id()),
        })
    }
}
