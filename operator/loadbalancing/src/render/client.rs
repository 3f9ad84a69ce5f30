//! Maps of a client node: the way to each proxy, and which endpoints may be reached.

use epic_abi::maps::{Endpoint, EndpointKey, Node, Route};

use super::{Entries, Render, Unready, keys_of, lb_of, service_of, tunnel_entries, tunnel_of};
use crate::maps::{MapKey, MapValue};
use crate::rows::{Alias, Proxy};
use crate::store::Snapshot;
use crate::writer::RowKey;

/// Renders for a client node.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientSide;

impl Render for ClientSide {
    fn render(&mut self, snapshot: &Snapshot, row: &RowKey) -> Result<Entries, Unready> {
        match row {
            RowKey::Service(name) => match snapshot.services.get(name) {
                Some(s) => Ok(vec![(MapKey::Keys(lb_of(s)), MapValue::Keys(keys_of(s, false)?))]),
                None => Ok(Vec::new()),
            },
            RowKey::Tunnel(id) => match snapshot.tunnels.get(id) {
                Some(tunnel) => tunnel_entries(snapshot, tunnel),
                None => Ok(Vec::new()),
            },
            RowKey::Node(address) => Ok(match snapshot.nodes.get(address) {
                Some(_) => vec![(MapKey::Node((*address).into()), MapValue::Node(Node { flags: 0 }))],
                None => Vec::new(),
            }),
            RowKey::Proxy(id) => match snapshot.proxies.get(id) {
                Some(proxy) => route(snapshot, proxy),
                None => Ok(Vec::new()),
            },
            RowKey::Alias(key) => match snapshot.aliases.get(key) {
                Some(alias) => endpoint(snapshot, alias),
                None => Ok(Vec::new()),
            },
            RowKey::Frontend(_) | RowKey::Pass(_) => Ok(Vec::new()),
        }
    }
}

/// A proxy is reached by the tunnel of its LoadBalancer to its node; with several client nodes here, the first.
fn route(snapshot: &Snapshot, proxy: &Proxy) -> Result<Entries, Unready> {
    let service = service_of(snapshot, &proxy.service)?;
    let mut tunnels = snapshot.tunnels_of(&proxy.service);
    let tunnel = tunnels
        .find(|t| t.epic_node == proxy.node)
        .ok_or_else(|| Unready(format!("there is no tunnel to {} yet", proxy.node)))?;
    let value = Route { tunnel: tunnel_of(snapshot, tunnel.id, &proxy.service)?, lb: lb_of(service) };
    Ok(vec![(MapKey::Route(proxy.address.into()), MapValue::Route(value))])
}

fn endpoint(snapshot: &Snapshot, alias: &Alias) -> Result<Entries, Unready> {
    let service = service_of(snapshot, &alias.key.service)?;
    let key = EndpointKey {
        lb: lb_of(service),
        address: alias.real_address.into(),
        port: alias.port,
        protocol: alias.protocol.number(),
        _reserved: 0,
    };
    Ok(vec![(MapKey::Endpoint(key), MapValue::Endpoint(Endpoint { flags: 0 }))])
}
