//! What is a LoadBalancer's own: proxies, public ports, tunnels, and what they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_crds::{Endpoint, LoadBalancer, ProxyState as CrdState};
use epic_lb::rows::RedirectWhen;
use epic_lb::{
    Alias, Backend, BackendState, Frontend, FrontendKey, Name, Pass, Place as At, Proxy, ProxyId, ProxyState,
    Redirect, ServiceName, Source, Tunnel, TunnelId,
};

use super::super::{Identity, address, is_refused, port, protocol};
use super::scene::Scene;
use super::{Local, Place};

pub(super) fn proxies(
    object: &LoadBalancer,
    identity: &Identity,
    scene: &Scene,
    left_out: &mut Vec<String>,
) -> (Vec<Proxy>, BTreeMap<Arc<str>, Local>) {
    let (place, addresses, pods, veths) = (&scene.place, &scene.addresses, &scene.pods, &scene.veths);
    let (mut rows, mut here) = (Vec::new(), BTreeMap::new());
    for entry in object.status.iter().flat_map(|status| &status.proxies) {
        let Some(id) = entry.proxy_id.and_then(|id| ProxyId::new(id).ok()) else { continue };
        let Some(proxy_address) = entry.proxy_address.as_deref().and_then(address) else { continue };
        let Some(node) = entry.node.as_deref() else { continue };
        let mut row = Proxy {
            id,
            service: identity.name.clone(),
            address: proxy_address,
            pod: entry.pod.as_str().into(),
            pod_uid: entry.pod_uid.as_str().into(),
            node: node.into(),
            node_address: place.link.local,
            state: match entry.state {
                CrdState::Pending => ProxyState::Pending,
                CrdState::Ready => ProxyState::Ready,
                CrdState::Draining => ProxyState::Draining,
            },
            local: None,
        };
        if node != &*place.name {
            let known = addresses.get(node).copied();
            let Some(far) = known.or_else(|| address(entry.epic_address.as_deref()?)) else {
                left_out.push(format!("proxy {id}: the address of {node} is not known yet"));
                continue;
            };
            rows.push(Proxy { node_address: far, ..row });
            continue;
        }
        let Some(pod) = pods.get(entry.pod_uid.as_str()) else { continue };
        if pod.metadata.namespace.as_deref() != Some(identity.name.namespace()) {
            left_out.push(format!("proxy {id}: its pod lies in another namespace"));
            continue;
        }
        let Some(veth) = veths.get(entry.pod_uid.as_str()) else {
            left_out.push(format!("proxy {id}: the veth of pod {} is not found yet", entry.pod));
            continue;
        };
        row.local = Some(veth.clone());
        let local = Local {
            id,
            service: identity.name.clone(),
            pod: kates::Key::of(&**pod),
            veth: veth.clone(),
            clients: BTreeMap::new(),
        };
        here.insert(Arc::clone(&row.pod_uid), local);
        rows.push(row);
    }
    (rows, here)
}

/// uids of pods of this node that a LoadBalancer lists.
pub(super) fn listed(object: &LoadBalancer, scene: &Scene) -> BTreeSet<Arc<str>> {
    let listed = object.status.iter().flat_map(|status| &status.proxies).map(|entry| entry.pod_uid.as_str());
    listed.filter(|uid| scene.pods.contains_key(*uid)).map(Arc::from).collect()
}

/// A proxy as a backend of its VIP. One that is pending is none. One whose node is out of service takes flows only if no
/// other proxy does.
pub(super) fn backend(proxy: &Proxy) -> Option<Backend> {
    let state = match proxy.state {
        ProxyState::Pending => return None,
        ProxyState::Ready => BackendState::Active,
        ProxyState::OutOfService => BackendState::Terminating,
        ProxyState::Draining => BackendState::Draining,
    };
    let mut backend = Backend::proxy(proxy.service.clone(), proxy.address, proxy.id);
    backend.state = state;
    backend.locality.node = Some(proxy.node.clone());
    Some(backend)
}

pub(super) fn frontends(
    object: &LoadBalancer,
    service: &ServiceName,
    vip: IpAddr,
    owned: bool,
) -> Vec<Frontend> {
    let slots = object.status.iter().flat_map(|status| &status.ports);
    slots
        .filter_map(|slot| {
            let key = FrontendKey::new(vip, port(slot.port)?, protocol(slot.protocol));
            slot.listener_port()?;
            let slot = u16::try_from(slot.slot).ok()?;
            Some(Frontend { announced: owned, ..Frontend::proxied(key, service.clone(), slot) })
        })
        .collect()
}

/// The backup of a LoadBalancer. The tables have it, and no packet follows it yet.
pub(super) fn backup(
    object: &LoadBalancer,
    service: &ServiceName,
    left_out: &mut Vec<String>,
) -> Option<Redirect> {
    let backup = object.spec.backup.as_ref()?;
    let to = ServiceName::new(service.namespace(), backup.load_balancer.as_str());
    left_out.push(format!(
        "{service}: its backup {to} gets no packets by these programs: a proxy reaches Endpoints of its own LoadBalancer alone"
    ));
    let (service, source, when) = (service.clone(), Source::Resource, RedirectWhen::NothingServes);
    Some(Redirect { service, source, to, when, port: None })
}

pub(super) fn tunnels(object: &LoadBalancer, identity: &Identity, place: &Place) -> Vec<Tunnel> {
    let entries = object.status.iter().flat_map(|status| &status.gue_tunnel_endpoints);
    entries
        .filter_map(|(client, entry)| {
            let leg = entry.legs().find(|leg| address(&leg.epic_address) == Some(place.link.local))?;
            Some(Tunnel {
                id: TunnelId::new(leg.tunnel_id).ok()?,
                service: identity.name.clone(),
                client_node: address(client)?,
                epic_node: Name::new(&place.name),
                epic_address: place.link.local,
                epic_port: port(leg.epic_port.port)?,
                link: place.link,
            })
        })
        .collect()
}

/// Endpoints that proxies reach: through a tunnel under their alias, or past the tunnels.
pub(super) fn reach(
    endpoints: &[Arc<Endpoint>],
    service: &ServiceName,
    tunnels: &[Tunnel],
) -> (Vec<Alias>, Vec<Pass>) {
    let by_client: BTreeMap<IpAddr, TunnelId> =
        tunnels.iter().rev().map(|tunnel| (tunnel.client_node, tunnel.id)).collect();
    let (mut aliases, mut passes) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let name = endpoint.metadata.name.as_deref().unwrap_or_default();
        // Past the tunnels: as the operator's tables have it.
        if let Some((real, to)) = endpoint.accepted_target() {
            if let (Some(address), Some(port)) = (address(real), port(to.port)) {
                let place = At::new(address, port, protocol(to.protocol));
                passes.push(Pass { service: Some(service.clone()), place, purpose: name.into() });
            }
            continue;
        }
        if is_refused(endpoint) {
            continue;
        }
        let node = endpoint.spec.node_address.as_deref().and_then(address);
        let alias = endpoint.status.as_ref().and_then(|s| address(s.alias_address.as_deref()?));
        let tunnel = node.and_then(|node| by_client.get(&node));
        let (Some(real), Some(number), Some(alias), Some(tunnel)) =
            (address(&endpoint.spec.address), port(endpoint.spec.port.port), alias, tunnel)
        else {
            continue;
        };
        aliases.push(Alias {
            service: service.clone(),
            address: alias.into(),
            tunnel: Some(*tunnel),
            real: At::new(real, number, protocol(endpoint.spec.port.protocol)),
            endpoint: name.into(),
        });
    }
    (aliases, passes)
}

/// Client nodes of a LoadBalancer's endpoints, with the tunnel from here.
pub(super) fn clients(endpoints: &[Arc<Endpoint>], tunnels: &[Tunnel]) -> BTreeMap<IpAddr, Option<u32>> {
    let nodes = endpoints.iter().filter(|endpoint| !is_refused(endpoint));
    nodes
        .filter_map(|endpoint| address(endpoint.spec.node_address.as_deref()?))
        .map(|node| (node, tunnels.iter().find(|t| t.client_node == node).map(|t| t.id.get())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_stands_in_the_tables_and_is_said_to_get_no_packets() {
        let object = |backup: &str| -> LoadBalancer {
            let text = format!(
                "{{metadata: {{name: web, namespace: epic-red}}, spec: {{service-group: g, public-ports: []{backup}}}}}"
            );
            serde_yaml::from_str(&text).unwrap()
        };
        let (web, mut said) = (ServiceName::new("epic-red", "web"), Vec::new());
        assert_eq!(backup(&object(""), &web, &mut said), None);
        let row = backup(&object(", backup: {load-balancer: sorry}"), &web, &mut said).unwrap();
        assert_eq!((row.to.to_string().as_str(), row.when), ("epic-red/sorry", RedirectWhen::NothingServes));
        assert!(said.len() == 1 && said[0].contains("its backup epic-red/sorry gets no packets"), "{said:?}");
    }
}
