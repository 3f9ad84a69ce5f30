//! Maps of an EPIC node: from a VIP to a proxy, from a proxy to an endpoint, and back.

use std::sync::Arc;

use epic_abi::maps::{self, MAGLEV_SLOTS, PROXY_DRAINING, VIP_OWNED};
use epic_abi::{Ip, Lb};
use epic_reconciler::Unready;

use super::recent::Recent;
use super::{Entries, keys_entry, keys_of, node_entry, render, service_of, tunnel_entries, tunnel_of};
use crate::maglev::{MaglevTable, Member};
use crate::maps::{MapKey, MapValue, entry_family};
use crate::rows::{Alias, BehindTunnel, ByTunnel, Frontend, Pass, Proxy, ProxyState, ServiceRef, Veth};
use crate::selection::{Here, Selection};
use crate::tables::{RowId, Snapshot, Tables};

/// Renders for an EPIC node.
#[derive(Clone, Debug)]
pub struct NodeSide {
    node: Arc<str>,
    seed: u32,
    tables: Recent<Member>,
}

impl NodeSide {
    /// For the node of this name; `seed` is that of Maglev tables, the same on all nodes.
    pub fn new(node: impl Into<Arc<str>>, seed: u32) -> Self {
        Self { node: node.into(), seed, tables: Recent::default() }
    }

    fn frontend(&mut self, tables: &Tables, frontend: &Frontend, out: &mut Entries) -> Result<(), Unready> {
        let service = frontend.service.id();
        let (_, lb) = service_of(tables, service)?;
        let Some(listener_port) = frontend.listener_port() else {
            return Err(Unready(format!(
                "{} is to be forwarded without a proxy, for which these programs have no maps",
                frontend.key
            )));
        };
        let vip: Ip = frontend.key.address.into();
        let protocol = frontend.key.protocol.number();
        let listener = maps::ListenerKey { lb, port: listener_port, protocol, family: entry_family(&vip) };
        let public = maps::Listener { address: vip, port: frontend.key.port, flags: 0 };
        let key = maps::ServiceKey { address: vip, port: frontend.key.port, protocol, _reserved: 0 };
        let value = maps::Service { lb, listener_port, flags: 0, source_ranges: 0, affinity_seconds: 0 };
        // One entry for all ports of the address: it answers for all of them or for none.
        let announced = tables.frontends.prefix(frontend.key.address).any(|row| row.announced);
        let flags = if announced { VIP_OWNED } else { 0 };
        out.push((MapKey::Listener(listener), MapValue::Listener(public)));
        out.push((MapKey::Service(key), MapValue::Service(value)));
        out.push((MapKey::Vip(vip), MapValue::Vip(maps::Vip { flags })));
        if let Some(table) = self.maglev(tables, frontend) {
            out.push((MapKey::Maglev(lb), MapValue::Maglev(table)));
        }
        Ok(())
    }

    /// The table of the proxies that take new flows; no entry if there is none, and new flows are dropped.
    fn maglev(&mut self, tables: &Tables, frontend: &Frontend) -> Option<Arc<MaglevTable>> {
        let service = frontend.service.id();
        // One that cannot be reached yet (or any more) must not keep the others from taking its place.
        let reachable = |id| {
            let proxy = tables.proxies.get(id)?;
            (proxy.service.id() == service && self.place(tables, proxy).is_ok()).then_some(id.get())
        };
        let here = Here { node: Some(&self.node), ..Here::default() };
        let selection = Selection::of(tables, frontend, here);
        let mut members: Vec<Member> = selection
            .serving()
            .filter_map(|b| Some(Member { id: reachable(b.proxy_id()?)?, weight: b.weight }))
            .collect();
        members.sort_unstable();
        if members.is_empty() {
            return None;
        }
        let seed = u64::from(self.seed);
        Some(self.tables.table(members, |members| MaglevTable::of(members, MAGLEV_SLOTS, seed)))
    }

    /// The LoadBalancer of a proxy and where it is: its veth here, or `None` for another node.
    fn place<'a>(&self, tables: &Tables, proxy: &'a Proxy) -> Result<(Lb, Option<&'a Veth>), Unready> {
        let (service, lb) = service_of(tables, proxy.service.id())?;
        keys_of(service, true)?;
        if proxy.local.is_none() && *proxy.node == *self.node {
            return Err(Unready("its veth was not found yet".to_owned()));
        }
        Ok((lb, proxy.local.as_ref()))
    }

    fn proxy(&self, tables: &Tables, proxy: &Proxy, out: &mut Entries) -> Result<(), Unready> {
        let (lb, veth) = self.place(tables, proxy)?;
        let id = proxy.id.get();
        // A new connection from a port whose earlier flow it had goes to another one, if there is one.
        let is_left = matches!(proxy.state, ProxyState::Draining | ProxyState::OutOfService);
        let flags = if is_left { PROXY_DRAINING } else { 0 };
        let Some(veth) = veth else {
            let value = maps::Proxy { lb, flags, node: proxy.node_address.into(), ..maps::Proxy::default() };
            out.push((MapKey::Proxy(id), MapValue::Proxy(value)));
            return Ok(());
        };
        let (pod_v4, pod_v6) = by_family(veth.pod_ip.into());
        let (address_v4, address_v6) = by_family(proxy.address.into());
        let value = maps::Proxy { lb, ifindex: veth.ifindex, flags, node: Ip::UNSPECIFIED, pod_v4, pod_v6 };
        let local = maps::LocalProxy { proxy: id, lb, flags: 0, pod_v4, pod_v6, address_v4, address_v6 };
        out.push((MapKey::Proxy(id), MapValue::Proxy(value)));
        out.push((MapKey::LocalProxy(veth.ifindex), MapValue::LocalProxy(local)));
        Ok(())
    }
}

render!(NodeSide, |side, tables, row, out| match row {
    RowId::Service(key) => keys_entry(tables, key, true, out),
    RowId::Tunnel(id) => tunnel_entries(tables, id, out),
    RowId::EpicNode(address) => {
        node_entry(tables, address, out);
        Ok(())
    }
    RowId::Proxy(id) => tables.proxies.get(id).map_or(Ok(()), |proxy| side.proxy(tables, proxy, out)),
    RowId::Alias(key) => tables.aliases.get(key).map_or(Ok(()), |row| alias(tables, row, out)),
    RowId::Pass(key) => tables.passes.get(key).map_or(Ok(()), |row| pass(tables, row, out)),
    RowId::Frontend(key) => {
        tables.frontends.get(key).map_or(Ok(()), |row| side.frontend(tables, row, out))
    }
    _ => Ok(()),
});

fn by_family(address: Ip) -> (Ip, Ip) {
    if address.is_v4() { (address, Ip::UNSPECIFIED) } else { (Ip::UNSPECIFIED, address) }
}

fn alias(tables: &Tables, alias: &Alias, out: &mut Entries) -> Result<(), Unready> {
    let service = alias.service.id();
    let (_, lb) = service_of(tables, service)?;
    let Some(tunnel) = alias.tunnel else { return Err(Unready("it has no tunnel yet".to_owned())) };
    // What comes back by the tunnel has one way on.
    let mut same = tables.aliases.by(ByTunnel, BehindTunnel { tunnel, real: alias.real });
    if let Some(first) = same.find(|row| row.service == alias.service && row.address < alias.address) {
        return Err(Unready(format!(
            "{} is reached at {} as endpoint {} already; one endpoint of a LoadBalancer needs one alias",
            alias.real, first.address, first.endpoint
        )));
    }
    let tunnel = tunnel_of(tables, tunnel, service)?;
    let address: Ip = alias.address.into();
    let real: Ip = alias.real.address.into();
    let (port, protocol) = (alias.real.port, alias.real.protocol.number());
    let back = maps::EndpointAliasKey { tunnel, address: real, port, protocol, _reserved: 0 };
    let value = maps::Alias { tunnel, port, protocol, flags: 0, address: real };
    out.push((MapKey::EndpointAlias(back), MapValue::EndpointAlias(address)));
    out.push((MapKey::Alias(maps::AliasKey { lb, address }), MapValue::Alias(value)));
    Ok(())
}

fn pass(tables: &Tables, pass: &Pass, out: &mut Entries) -> Result<(), Unready> {
    let lb = match &pass.service {
        Some(service) => service_of(tables, service.id())?.1,
        None => Lb::default(),
    };
    let key = maps::PassKey {
        lb,
        address: pass.place.address.into(),
        port: pass.place.port,
        protocol: pass.place.protocol.number(),
        _reserved: 0,
    };
    out.push((MapKey::Pass(key), MapValue::Pass(maps::Pass { flags: 0 })));
    Ok(())
}
