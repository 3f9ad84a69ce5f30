//! What a client node should do: its tunnels to EPIC nodes, the proxies behind them, the endpoints that are here.
//!
//! The node is known by its `node-address`, an identity: the key of `gue-tunnel-endpoints`, and what stands in the
//! Endpoints that run here. Which address tunnels start from is another matter and follows the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use epic_abi::{gue, hello};
use epic_crds::{Endpoint, LoadBalancer, ProxyState as CrdState, SourcePorts};
use epic_lb::{
    Alias, EpicNode, Link, Name, Place, Proxy, ProxyId, ProxyState, ServiceName, Tunnel, TunnelId,
};
use ipnet::IpNet;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::unique::{Numbers, Taken, by_age};
use super::{Identity, Rows, ServiceRows, address, is_refused, keys, port, protocol};
use crate::hello::caller::Wanted;

/// The facts of ConfigMap `epic-client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Proxy addresses, IPv4 first.
    pub proxies: Vec<IpNet>,
    /// UDP port of GUE.
    pub port: u16,
    /// Bytes a tunnel adds to a packet of IPv4.
    pub overhead: u32,
    /// UDP source ports of packets in tunnels.
    pub source_ports: SourcePorts,
}

/// Why the ConfigMap is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// An entry is missing.
    #[error("ConfigMap epic-client has no entry {0:?}; is the operator of the same version?")]
    Missing(&'static str),
    /// An entry does not parse.
    #[error("entry {0:?} of ConfigMap epic-client is not understood: {1:?}")]
    Invalid(&'static str, String),
    /// The other side speaks another protocol.
    #[error("EPIC speaks protocol {0}, this agent {1}; upgrade the older side")]
    Version(String, String),
}

impl Facts {
    const PROXIES: [&'static str; 2] = ["proxy-addresses.ipv4", "proxy-addresses.ipv6"];
    const PORT: &'static str = "gue.port";
    const OVERHEAD: &'static str = "gue.overhead.ipv4";
    const SOURCE_PORTS: &'static str = "gue.source-ports";
    const VERSIONS: &'static str = "protocol.versions";

    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// [`FactsError`]; nothing is guessed.
    pub fn read(config: &ConfigMap) -> Result<Self, FactsError> {
        let entry = |key: &str| config.data.as_ref()?.get(key).map(String::as_str);
        let number = |key: &'static str, default: u32| match entry(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| FactsError::Invalid(key, text.to_owned())),
        };
        let spoken = format!("0/{}", hello::VERSION);
        // A list of versions may come; what matters is that ours is in it.
        if let Some(offered) = entry(Self::VERSIONS)
            && !offered.split([',', ' ']).any(|version| version == spoken)
        {
            return Err(FactsError::Version(offered.to_owned(), spoken));
        }
        let mut proxies = Vec::new();
        for key in Self::PROXIES {
            if let Some(text) = entry(key) {
                let range: IpNet = text.parse().map_err(|_| FactsError::Invalid(key, text.to_owned()))?;
                proxies.push(range.trunc());
            }
        }
        if proxies.is_empty() {
            return Err(FactsError::Missing(Self::PROXIES[0]));
        }
        // An operator that does not say works with either.
        let source_ports = match entry(Self::SOURCE_PORTS) {
            None | Some("Fixed") => SourcePorts::Fixed,
            Some("Flow") => SourcePorts::Flow,
            Some(other) => return Err(FactsError::Invalid(Self::SOURCE_PORTS, other.to_owned())),
        };
        let given = number(Self::PORT, gue::DEFAULT_PORT.into())?;
        let port = u16::try_from(given).ok().filter(|port| *port != 0);
        Ok(Self {
            proxies,
            port: port.ok_or_else(|| FactsError::Invalid(Self::PORT, given.to_string()))?,
            overhead: number(Self::OVERHEAD, gue::OVERHEAD_V4 as u32)?,
            source_ports,
        })
    }
}

/// The objects one decision is made on.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// LoadBalancers of the namespace.
    pub load_balancers: Vec<Arc<LoadBalancer>>,
    /// Endpoints of the namespace.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Secret `epic-gue-keys`.
    pub keys: Option<Arc<Secret>>,
}

/// How tunnels leave this host, by the address of the EPIC node, or why they cannot.
pub type Ways = BTreeMap<IpAddr, Result<Link, NoWay>>;

/// Why there is no way to an EPIC node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The routes lead nowhere, at the moment.
    #[error("{0}")]
    Route(String),
    /// They lead to an interface where the programs could read nothing.
    #[error(
        "its route leaves by {0}, whose frames have no Ethernet header (as those of tun, WireGuard and PPP devices), and \
         EPIC cannot attach there; route the EPIC node's address by an Ethernet interface"
    )]
    NotEthernet(String),
}

/// What follows from the objects.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Rows of the tables.
    pub rows: Rows,
    /// Tunnels to call for.
    pub wanted: BTreeMap<u32, Wanted>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Addresses of EPIC nodes that tunnels of this node lead to: those to find the way to.
pub fn epic_addresses(objects: &Objects, node: IpAddr) -> BTreeSet<IpAddr> {
    let entries = objects.load_balancers.iter().filter_map(|object| object.status.as_ref());
    entries
        .flat_map(|status| &status.gue_tunnel_endpoints)
        .filter(|(client, _)| address(client) == Some(node))
        .flat_map(|(_, entry)| entry.legs())
        .filter_map(|leg| address(&leg.epic_address))
        .collect()
}

/// Decides. `ways` are those found for [`epic_addresses`], or why there is none; a tunnel without one is left out.
pub fn desired(objects: &Objects, node: IpAddr, facts: &Facts, ways: &Ways) -> Desired {
    let mut found = Desired::default();
    let mut nodes: BTreeSet<IpAddr> = BTreeSet::new();
    let mut taken = Taken::default();
    let mut here: BTreeMap<ServiceName, Vec<Alias>> = BTreeMap::new();
    for alias in objects.endpoints.iter().filter_map(|endpoint| local_endpoint(endpoint, node)) {
        here.entry(alias.service.clone()).or_default().push(alias);
    }
    for object in by_age(&objects.load_balancers) {
        let Some(identity) = Identity::of(object) else { continue };
        let mut numbers = Numbers::default();
        if let Err(why) = taken.ids(&identity, &mut numbers) {
            found.left_out.push(why);
            continue;
        }
        let entry = |name: &str| {
            let data = objects.keys.as_ref()?.data.as_ref()?;
            data.get(name).map(|ByteString(bytes)| bytes.as_slice())
        };
        let Some((service_keys, hello)) = keys::from_entries(&identity, entry) else {
            found.left_out.push(format!("{}: its keys are not in the Secret yet", identity.name));
            continue;
        };
        let mut tunnels = tunnels(object, &identity, node, ways, &mut found.left_out);
        taken.tunnels(&mut tunnels, &mut numbers, &mut found.left_out);
        for tunnel in &tunnels {
            nodes.insert(tunnel.epic_address);
            let Some(key) = hello.get(&identity.generation).copied() else { continue };
            let wanted = Wanted {
                lb: identity.lb(),
                node: SocketAddr::new(tunnel.epic_address, tunnel.epic_port),
                local: SocketAddr::new(tunnel.link.local, facts.port),
                generation: identity.generation,
                key,
                source_ports: facts.source_ports,
            };
            found.wanted.insert(tunnel.id.get(), wanted);
        }
        let mut service = identity.row(object);
        service.keys = Some(service_keys.into());
        let mut proxies = proxies(object, &identity.name, &tunnels);
        taken.proxies(&mut proxies, &mut numbers, &mut found.left_out);
        let aliases = here.remove(&identity.name).unwrap_or_default();
        found.rows.services.push(ServiceRows { tunnels, proxies, aliases, ..ServiceRows::new(service) });
    }
    found.rows.nodes = nodes.into_iter().map(|address| EpicNode::new(address, address.to_string())).collect();
    found
}

fn tunnels(
    object: &LoadBalancer,
    identity: &Identity,
    node: IpAddr,
    ways: &Ways,
    left_out: &mut Vec<String>,
) -> Vec<Tunnel> {
    let entries = object.status.iter().flat_map(|status| &status.gue_tunnel_endpoints);
    let legs =
        entries.filter(|(client, _)| address(client) == Some(node)).flat_map(|(_, entry)| entry.legs());
    let mut tunnels = Vec::new();
    for leg in legs {
        let (Ok(id), Some(epic_address), Some(epic_port)) =
            (TunnelId::new(leg.tunnel_id), address(&leg.epic_address), port(leg.epic_port.port))
        else {
            continue;
        };
        let link = match ways.get(&epic_address) {
            Some(Ok(link)) => *link,
            Some(Err(why)) => {
                left_out.push(format!("tunnel {id}: there is no way to {epic_address}: {why}"));
                continue;
            }
            None => continue,
        };
        tunnels.push(Tunnel {
            id,
            service: identity.name.clone(),
            client_node: node,
            // The name of the node is of no use here, and tunnels and proxies are matched by it.
            epic_node: Name::new(&epic_address.to_string()),
            epic_address,
            epic_port,
            link,
        });
    }
    tunnels
}

/// Proxies that a tunnel leads to.
fn proxies(object: &LoadBalancer, service: &ServiceName, tunnels: &[Tunnel]) -> Vec<Proxy> {
    let listed = object.status.iter().flat_map(|status| &status.proxies);
    listed
        .filter_map(|entry| {
            let node_address = address(entry.epic_address.as_deref()?)?;
            let tunnel = tunnels.iter().find(|tunnel| tunnel.epic_address == node_address)?;
            Some(Proxy {
                id: ProxyId::new(entry.proxy_id?).ok()?,
                service: service.clone(),
                address: address(entry.proxy_address.as_deref()?)?,
                pod: entry.pod.as_str().into(),
                pod_uid: entry.pod_uid.as_str().into(),
                node: tunnel.epic_node.clone(),
                node_address,
                state: match entry.state {
                    CrdState::Pending => ProxyState::Pending,
                    CrdState::Ready => ProxyState::Ready,
                    CrdState::Draining => ProxyState::Draining,
                },
                local: None,
            })
        })
        .collect()
}

/// An Endpoint of this node that was granted an alias.
fn local_endpoint(endpoint: &Endpoint, node: IpAddr) -> Option<Alias> {
    if is_refused(endpoint) || address(endpoint.spec.node_address.as_deref()?) != Some(node) {
        return None;
    }
    let service =
        ServiceName::new(endpoint.metadata.namespace.as_deref()?, endpoint.spec.load_balancer.as_str());
    let alias = address(endpoint.status.as_ref()?.alias_address.as_deref()?)?;
    let real = address(&endpoint.spec.address)?;
    let port = port(endpoint.spec.port.port)?;
    Some(Alias {
        service,
        address: alias.into(),
        tunnel: None,
        real: Place::new(real, port, protocol(endpoint.spec.port.protocol)),
        endpoint: endpoint.metadata.name.as_deref()?.into(),
    })
}
