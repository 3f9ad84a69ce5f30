//! Maps of an EPIC node: from a VIP to a proxy, from a proxy to an endpoint, and back.

use std::collections::HashMap;
use std::sync::Arc;

use epic_abi::maps::{self, MAGLEV_SLOTS, PROXY_DRAINING, VIP_OWNED};
use epic_abi::{Ip, Lb};
use epic_reconciler::Unready;

use super::{Entries, keys_entry, keys_of, node_entry, render, service_of, tunnel_entries, tunnel_of};
use crate::maglev::{MaglevTable, Member};
use crate::maps::{MapKey, MapValue, entry_family};
use crate::rows::{Alias, BehindTunnel, ByTunnel, Frontend, Pass, Proxy, ProxyState, ServiceRef, Veth};
use crate::selection::{Here, Selection};
use crate::tables::{RowId, Snapshot, Tables};

/// The last table of a LoadBalancer, with the members it was made of.
type Remembered = (Vec<Member>, Arc<MaglevTable>);

/// Tables of services that were deleted, which are remembered until there are more of them.
const FORGOTTEN: usize = 16;

/// Renders for an EPIC node.
#[derive(Clone, Debug)]
pub struct NodeSide {
    node: Arc<str>,
    seed: u32,
    /// Tables of LoadBalancers, of some that were deleted too. What they are made of decides whether they are used again, so
    /// one of a LoadBalancer whose number was given to another is no harm.
    tables: HashMap<ServiceRef, Remembered>,
}

impl NodeSide {
    /// For the node of this name; `seed` is the one of `Config::maglev_seed`, the same on all nodes.
    pub fn new(node: impl Into<Arc<str>>, seed: u32) -> Self {
        Self { node: node.into(), seed, tables: HashMap::new() }
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
            self.tables.remove(&service);
            return None;
        }
        if let Some((of, table)) = self.tables.get(&service)
            && *of == members
        {
            return Some(Arc::clone(table));
        }
        // Rows that were removed are not rendered: what is remembered of their services goes now and then.
        if self.tables.len() > 2 * tables.services.len() + FORGOTTEN {
            self.tables.retain(|service, _| tables.service(*service).is_some());
        }
        let table = Arc::new(MaglevTable::of(&members, MAGLEV_SLOTS, u64::from(self.seed)));
        self.tables.insert(service, (members, Arc::clone(&table)));
        Some(table)
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use epic_reconciler::{Budget, Reconciler, Settings};

    use super::*;
    use crate::rows::{Backend, DataKey, FrontendKey, Protocol, Service, ServiceKeys, ServiceName};
    use crate::{FakeMaps, GroupId, ProxyId, ServiceId, Writer};

    #[test]
    fn tables_of_load_balancers_that_were_deleted_are_forgotten() {
        let writer = Writer::new();
        let side = NodeSide::new("here", 7);
        let mut reconciler =
            Reconciler::new(writer.reader(), FakeMaps::new(), side, Settings::default()).unwrap();
        let proxy = ProxyId::new(1).unwrap();
        let keys = [DataKey([1; 16]); 3];
        for n in 1..=100 {
            let name = ServiceName::new("acme", format!("web-{n}"));
            let service = Service::new(name.clone(), "uid")
                .granted(GroupId::new(1).unwrap(), ServiceId::new(n).unwrap());
            let vip = FrontendKey::new([192, 0, 2, 7].into(), 80, Protocol::Tcp);
            let mut txn = writer.write();
            txn.upsert_service_and_frontends(
                Service { keys: Some(ServiceKeys { data: keys, node: Some(keys) }.into()), ..service },
                vec![Frontend::proxied(vip, name.clone(), 0)],
            )
            .unwrap();
            txn.upsert_proxy(Proxy {
                id: proxy,
                service: name.clone(),
                address: [100, 64, 0, 1].into(),
                pod: "proxy".into(),
                pod_uid: "uid".into(),
                node: "there".into(),
                node_address: [198, 51, 100, 2].into(),
                state: ProxyState::Ready,
                local: None,
            });
            txn.set_backends(&name, [Backend::proxy(name.clone(), [100, 64, 0, 1].into(), proxy)]);
            txn.commit();
            reconciler.round(Instant::now(), Budget::UNLIMITED);
            let kept = reconciler.renderer().tables.len();
            assert!((1..=FORGOTTEN + 4).contains(&kept), "{kept} tables");

            let mut txn = writer.write();
            txn.delete_service_and_frontends(&name);
            txn.delete_paths(&name);
            txn.commit();
            reconciler.round(Instant::now(), Budget::UNLIMITED);
        }
    }
}
