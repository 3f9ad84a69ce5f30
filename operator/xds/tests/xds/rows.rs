//! Tables filled through the Writer, as the operator fills them.

use std::net::IpAddr;
use std::sync::Arc;

use epic_lb::{
    Backend, BackendKind, Edge, EndpointObject, Frontend, FrontendKey, GroupId, LbPolicy, Protocol, Reader,
    Service, ServiceId, ServiceName, TargetPort, Writer,
};
use epic_xds::Identity;

/// uid of every LoadBalancer here.
pub(crate) const UID: &str = "5c7c5f4e-7a43-4f5e-9d7e-1f2b3c4d5e6f";

/// An endpoint: name, what is dialled, real address, port, weight.
#[derive(Clone, Debug)]
pub(crate) struct Ep {
    pub(crate) name: String,
    pub(crate) dialled: IpAddr,
    pub(crate) real: IpAddr,
    pub(crate) port: u16,
    pub(crate) weight: u16,
}

impl Ep {
    pub(crate) fn new(name: &str, dialled: [u8; 4], real: [u8; 4], port: u16) -> Self {
        Self { name: name.to_owned(), dialled: dialled.into(), real: real.into(), port, weight: 1 }
    }

    pub(crate) fn weighing(mut self, weight: u16) -> Self {
        self.weight = weight;
        self
    }
}

/// Tables with their Writer.
pub(crate) struct World {
    pub(crate) tables: Reader,
    pub(crate) writer: Writer,
}

pub(crate) fn name(load_balancer: &str) -> ServiceName {
    ServiceName::new("epic-red", load_balancer)
}

pub(crate) fn identity(load_balancer: &str) -> Identity {
    Identity::new("epic-red", load_balancer, UID)
}

pub(crate) fn service(load_balancer: &str) -> Service {
    Service::new(name(load_balancer), UID).granted(GroupId::new(1).unwrap(), ServiceId::new(1).unwrap())
}

/// LoadBalancer `web` of a group that says this.
pub(crate) fn edged(edge: Edge) -> Service {
    Service { edge: Arc::new(edge), ..service("web") }
}

impl World {
    pub(crate) fn new() -> Self {
        let writer = Writer::new();
        Self { tables: writer.reader(), writer }
    }

    /// A LoadBalancer with public ports `(port, slot, target port)`.
    pub(crate) fn load_balancer(&self, service: &Service, ports: &[(u16, u16, u16)]) {
        let vip = IpAddr::from([192, 0, 2, 1 + u8::try_from(service.name.name().len()).unwrap()]);
        let frontends = ports.iter().map(|(port, slot, target)| Frontend {
            target_port: Some(TargetPort::Number(*target)),
            ..Frontend::proxied(FrontendKey::new(vip, *port, Protocol::Tcp), service.name.clone(), *slot)
        });
        let mut txn = self.writer.write();
        txn.upsert_service_and_frontends(service.clone(), frontends.collect::<Vec<_>>()).unwrap();
        txn.commit();
    }

    /// These and no other endpoints.
    pub(crate) fn endpoints(&self, load_balancer: &str, endpoints: &[Ep]) {
        let service = name(load_balancer);
        let backends: Vec<Backend> = endpoints.iter().map(|ep| backend(&service, ep)).collect();
        let mut txn = self.writer.write();
        txn.set_backends(&service, backends);
        txn.commit();
    }

    pub(crate) fn policy(&self, load_balancer: &str, policy: LbPolicy) {
        let mut txn = self.writer.write();
        txn.upsert_service(Service { lb_policy: policy, generation: 2, ..service(load_balancer) });
        txn.commit();
    }
}

fn backend(service: &ServiceName, ep: &Ep) -> Backend {
    let endpoint = EndpointObject {
        object: format!("{}/{}", service.namespace(), ep.name).into(),
        uid: format!("uid-{}", ep.name).into(),
        generation: 0,
        real_address: ep.real,
        id: None,
    };
    Backend {
        weight: ep.weight,
        kind: BackendKind::Endpoint(Arc::new(endpoint)),
        ..Backend::new(service.clone(), ep.dialled, ep.port, Protocol::Tcp)
    }
}
