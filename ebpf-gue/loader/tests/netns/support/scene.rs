//! One tenant that works: proxies on the nodes, endpoints on the clients, servers running.

use std::net::Ipv4Addr;

use epic_abi::Lb;
use epic_testnet::Offloads;

use super::lab::Pod;
use super::program::{EndpointAt, Epic, LISTENER, ProxyAt, SERVICE, Tenant};
use super::traffic::{Dialling, Server, endpoint, forwarder};

/// The tenant of most tests.
pub(crate) const FIRST: Lb = Lb { group: 1, service: 1 };

/// A tenant with its pods and servers.
pub(crate) struct Scene {
    /// What is in the maps.
    pub(crate) tenant: Tenant,
    /// Pods of the proxies, in their order.
    pub(crate) proxy_pods: Vec<Pod>,
    /// Pods of the endpoints, in their order.
    pub(crate) endpoint_pods: Vec<Pod>,
    /// Forwarders in the proxies, in their order.
    pub(crate) forwarders: Vec<Server>,
    /// Servers in the endpoints, in their order.
    pub(crate) endpoints: Vec<Server>,
}

/// What a scene is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The LoadBalancer.
    pub(crate) lb: Lb,
    /// Its VIP.
    pub(crate) vip: Ipv4Addr,
    /// Which node answers ARP for the VIP.
    pub(crate) owner: usize,
    /// Proxies: id, node, last byte of the pod's address.
    pub(crate) proxies: Vec<(u32, usize, u8)>,
    /// Endpoints: id, client, address.
    pub(crate) endpoints: Vec<(u16, usize, Ipv4Addr)>,
}

impl Plan {
    /// One proxy on node 0, which owns the VIP, and one endpoint on client 0.
    pub(crate) fn simple() -> Self {
        Self {
            lb: FIRST,
            vip: Ipv4Addr::new(192, 168, 77, 2),
            owner: 0,
            proxies: vec![(1, 0, 7)],
            endpoints: vec![(1, 0, Ipv4Addr::new(10, 244, 1, 5))],
        }
    }

    /// The same with its proxies elsewhere.
    pub(crate) fn with_proxies(mut self, proxies: &[(u32, usize, u8)]) -> Self {
        self.proxies = proxies.to_vec();
        self
    }

    /// The same with other endpoints.
    pub(crate) fn with_endpoints(mut self, endpoints: &[(u16, usize, [u8; 4])]) -> Self {
        self.endpoints = endpoints.iter().map(|(id, client, ip)| (*id, *client, (*ip).into())).collect();
        self
    }
}

impl Scene {
    /// Builds pods, starts servers, writes maps. Endpoints are called `e` and their id, after the group of the
    /// tenant: `1e1`.
    pub(crate) fn start(epic: &mut Epic, plan: &Plan) -> Self {
        Self::start_dialling(epic, plan, Dialling::default())
    }

    /// The same; proxies dial as they are told.
    pub(crate) fn start_dialling(epic: &mut Epic, plan: &Plan, dialling: Dialling) -> Self {
        let mut tenant = Tenant {
            lb: plan.lb,
            vip: plan.vip,
            owner: plan.owner,
            proxies: Vec::new(),
            endpoints: Vec::new(),
        };
        let mut proxy_pods = Vec::new();
        for (id, node, last) in &plan.proxies {
            let pod = epic.site.nodes[*node].pod(Ipv4Addr::new(10, 244, 1 + *node as u8, *last));
            tenant.proxies.push(ProxyAt::new(*id, *node, &pod));
            proxy_pods.push(pod);
        }
        let (mut endpoint_pods, mut endpoints) = (Vec::new(), Vec::new());
        for (id, client, address) in &plan.endpoints {
            let pod = epic.site.clients[*client].pod(*address);
            let name = format!("{}e{id}", plan.lb.group);
            endpoints.push(endpoint(&pod.netns, SERVICE, &name));
            endpoint_pods.push(pod);
            tenant.endpoints.push(EndpointAt { id: *id, client: *client, address: *address, port: SERVICE });
        }
        let targets: Vec<_> = tenant.endpoints.iter().map(EndpointAt::alias).collect();
        let forwarders =
            proxy_pods.iter().map(|pod| forwarder(&pod.netns, LISTENER, targets.clone(), dialling)).collect();
        epic.add(&tenant);
        Self { tenant, proxy_pods, endpoint_pods, forwarders, endpoints }
    }

    /// Sets the offloads of every link of the site and of this tenant's pods.
    pub(crate) fn offloads(&self, epic: &Epic, offloads: Offloads) {
        epic.site.offloads(offloads);
        for (proxy, pod) in self.tenant.proxies.iter().zip(&self.proxy_pods) {
            pod.offloads(&epic.site.nodes[proxy.node], offloads);
        }
        for (endpoint, pod) in self.tenant.endpoints.iter().zip(&self.endpoint_pods) {
            pod.offloads(&epic.site.clients[endpoint.client], offloads);
        }
    }
}
