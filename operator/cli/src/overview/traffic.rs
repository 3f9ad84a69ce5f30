//! A LoadBalancer with its proxies, tunnels and Endpoints. Pure.

use epic_crds::condition::{PROGRAMMED, READY};
use epic_crds::{EPICNode, Endpoint, LoadBalancer, NodeTunnel, ProxyState};
use kube::ResourceExt as _;

use super::judge::{conditions, state};
use super::{Balancer, EndpointLine, Found, Problem, ProxyLine, TunnelLine};

pub(super) fn balancer(object: &LoadBalancer, found: &Found) -> Balancer {
    let status = object.status.clone().unwrap_or_default();
    let mut problems = conditions(object);
    let mut proxies: Vec<ProxyLine> = status
        .proxies
        .iter()
        .map(|proxy| ProxyLine {
            pod: proxy.pod.clone(),
            node: proxy.node.clone(),
            state: format!("{:?}", proxy.state),
            id: proxy.proxy_id,
            address: proxy.proxy_address.clone(),
        })
        .collect();
    proxies.sort_by(|a, b| (a.id, &a.pod).cmp(&(b.id, &b.pod)));
    for proxy in status.proxies.iter().filter(|proxy| proxy.state == ProxyState::Pending) {
        let where_ = proxy.node.as_deref().unwrap_or("no node yet");
        let namespace = object.namespace().unwrap_or_default();
        problems.push(Problem::own(
            "ProxyPending",
            format!(
                "proxy {} ({where_}) takes no connections yet: kubectl -n {namespace} describe pod {0}",
                proxy.pod
            ),
        ));
    }
    let tunnels = tunnels(object, &found.nodes.items);
    for tunnel in tunnels.iter().filter(|tunnel| tunnel.up != Some(true)) {
        let node = tunnel.node.as_deref().unwrap_or(&tunnel.epic_address);
        let what = match tunnel.up {
            Some(_) => "is down",
            None => "has not been heard of",
        };
        problems.push(Problem::own(
            "TunnelDown",
            format!(
                "tunnel {} from client node {} to {node} {what}: on the client node, epic-agent tunnels",
                tunnel.id, tunnel.client
            ),
        ));
    }
    let mut endpoints: Vec<EndpointLine> = found
        .endpoints
        .items
        .iter()
        .filter(|endpoint| {
            endpoint.namespace() == object.namespace() && endpoint.spec.load_balancer == object.name_any()
        })
        .map(endpoint)
        .collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    Balancer {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        address: status.public_address.clone(),
        ports: object
            .spec
            .public_ports
            .iter()
            .map(|port| format!("{}/{}", port.port, port.protocol))
            .collect(),
        ready: state(object, READY),
        group: object.spec.service_group.clone(),
        service_id: status.service_id,
        proxies,
        tunnels,
        endpoints,
        problems,
    }
}

pub(super) fn endpoint(object: &Endpoint) -> EndpointLine {
    let status = object.status.clone().unwrap_or_default();
    let port = &object.spec.port;
    let address = match object.spec.address.contains(':') {
        true => format!("[{}]:{}/{}", object.spec.address, port.port, port.protocol),
        false => format!("{}:{}/{}", object.spec.address, port.port, port.protocol),
    };
    EndpointLine {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        address,
        client: object.spec.node_address.clone(),
        alias: status.alias_address,
        weight: object.spec.weight(),
        programmed: state(object, PROGRAMMED),
        problems: conditions(object),
    }
}

fn tunnels(object: &LoadBalancer, nodes: &[EPICNode]) -> Vec<TunnelLine> {
    let Some(status) = &object.status else { return Vec::new() };
    let mut tunnels: Vec<TunnelLine> = status
        .gue_tunnel_endpoints
        .iter()
        .flat_map(|(client, legs)| legs.legs().map(move |leg| (client, leg)))
        .map(|(client, leg)| {
            let node = nodes.iter().find(|node| has_address(node, &leg.epic_address));
            let told = node.and_then(|node| tunnel(node, leg.tunnel_id));
            TunnelLine {
                id: leg.tunnel_id,
                client: client.clone(),
                node: node.map(kube::ResourceExt::name_any),
                up: told.map(|told| told.is_none_or(|told| told.up)),
                nat: told.flatten().is_some_and(|told| told.nat),
                since: told.flatten().map(|told| told.since.0.to_string()),
                epic_address: leg.epic_address,
            }
        })
        .collect();
    tunnels.sort_by(|a, b| (&a.client, a.id).cmp(&(&b.client, b.id)));
    tunnels
}

fn has_address(node: &EPICNode, address: &str) -> bool {
    node.status.iter().flat_map(|status| &status.addresses).any(|own| own == address)
}

/// What a node says of a tunnel; `None` when it says nothing. One that is not among those that are down is up, and nothing
/// more is said of it.
fn tunnel(node: &EPICNode, id: i64) -> Option<Option<&NodeTunnel>> {
    let tunnels = node.status.as_ref()?.tunnels.as_ref()?;
    let listed = tunnels.states.iter().find(|tunnel| tunnel.tunnel_id == id);
    // Agents of earlier releases list those that are up as well, and then nothing is known of the others.
    let lists_down_alone = tunnels.states.iter().all(|tunnel| !tunnel.up);
    let is_complete = !tunnels.truncated && lists_down_alone && tunnels.up > 0;
    listed.map(Some).or_else(|| is_complete.then_some(None))
}
