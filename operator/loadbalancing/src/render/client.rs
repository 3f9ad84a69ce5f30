//! Maps of a client node: the way to each proxy, and which endpoints may be reached.

use epic_abi::maps::{Endpoint, EndpointKey, Route};
use epic_reconciler::Unready;

use super::{Entries, keys_entry, node_entry, render, service_of, tunnel_entries, tunnel_of};
use crate::maps::{MapKey, MapValue};
use crate::rows::{Alias, Proxy, ServiceRef};
use crate::tables::{RowId, Snapshot, Tables};

/// Renders for a client node.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientSide;

render!(ClientSide, |_side, tables, row, out| match row {
    RowId::Service(key) => keys_entry(tables, key, false, out),
    RowId::Tunnel(id) => tunnel_entries(tables, id, out),
    RowId::EpicNode(address) => {
        node_entry(tables, address, out);
        Ok(())
    }
    RowId::Proxy(id) => tables.proxies.get(id).map_or(Ok(()), |proxy| route(tables, proxy, out)),
    RowId::Alias(key) => tables.aliases.get(key).map_or(Ok(()), |alias| endpoint(tables, alias, out)),
    _ => Ok(()),
});

/// A proxy is reached by the tunnel of its LoadBalancer to its node; with several client nodes here, the first.
fn route(tables: &Tables, proxy: &Proxy, out: &mut Entries) -> Result<(), Unready> {
    let service = proxy.service.id();
    let (_, lb) = service_of(tables, service)?;
    let tunnel = tables.tunnels_of(service).find(|tunnel| tunnel.epic_node == proxy.node);
    let Some(tunnel) = tunnel else {
        return Err(Unready(format!("there is no tunnel to {} yet", proxy.node)));
    };
    let value = Route { tunnel: tunnel_of(tables, tunnel.id, service)?, lb };
    out.push((MapKey::Route(proxy.address.into()), MapValue::Route(value)));
    Ok(())
}

fn endpoint(tables: &Tables, alias: &Alias, out: &mut Entries) -> Result<(), Unready> {
    let (_, lb) = service_of(tables, alias.service.id())?;
    let key = EndpointKey {
        lb,
        address: alias.real.address.into(),
        port: alias.real.port,
        protocol: alias.real.protocol.number(),
        _reserved: 0,
    };
    out.push((MapKey::Endpoint(key), MapValue::Endpoint(Endpoint { flags: 0 })));
    Ok(())
}
